// The end of a step: 8 of K from the full pair of tiles: row i of an invocation by its quads of channels, a_i_n += x w. For kernels whose K is along
// the rows of x: conv2d_tile.gather and products_tile.product, which have `s`, `steps`, `l`, l_n, xs and ws.
// Then what was loaded of the next step, u_j and v_n, goes to the other pair.
        if (s > 0u) {
            let full = (s - 1u) % 2u;
//: for h in 0..2
//: for n in 0..TN
//: for q in 0..4
            let w{h}{q}_{n} = ws[full][{h * 4}u + {q}u][l{n}];
//: end
//: end
//: for i in 0..TM
            let x{h}{i} = xs[full][l.y][{i * 2}u + {h}u];
//: for n in 0..TN
            a{i}_{n} += x{h}{i}.x * w{h}0_{n} + x{h}{i}.y * w{h}1_{n} + x{h}{i}.z * w{h}2_{n} + x{h}{i}.w * w{h}3_{n};
//: end
//: end
//: end
        }
        if (s < steps) {
//: for j in 0..LOADS
            if (row{j} < 16u * TM) {
                xs[s % 2u][row{j} % 16u][row{j} / 16u * 2u + part] = u{j};
            }
//: end
            if (l.y < 8u) {
//: for n in 0..TN
                ws[s % 2u][l.y][l{n}] = v{n};
//: end
            }
        }
        workgroupBarrier();
