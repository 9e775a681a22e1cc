// The end of a step: 8 of K from the full pair of tiles: the four channels of a vec4 of x by an invocation's quads of w, a_iq_n += x w. For kernels whose
// K is across the rows of x: conv2d_tile.weight_gradient and products_tile.outer, which have `s`, `steps`, `l`, l_n, xs and ws.
// Then what was loaded of the next step, u_j and v_n, goes to the other pair.
        if (s > 0u) {
            let full = (s - 1u) % 2u;
//: for k in 0..8
//: for n in 0..TN
            let d{k}_{n} = ws[full][{k}][l{n}];
//: end
//: for i in 0..TM / 4
            let x{k}{i} = xs[full][l.y][{k}u * (TM / 4u) + {i}u];
//: for q in 0..4
//: for n in 0..TN
            a{i}{q}_{n} += x{k}{i}[{q}] * d{k}_{n};
//: end
//: end
//: end
//: end
        }
        if (s < steps) {
//: for j in 0..LOADS
            if (k{j} < 8u) {
                xs[s % 2u][row % 16u][k{j} * (TM / 4u) + row / 16u] = u{j};
            }
//: end
            if (l.y < 8u) {
//: for n in 0..TN
                ws[s % 2u][l.y][l{n}] = v{n};
//: end
            }
        }
        workgroupBarrier();
