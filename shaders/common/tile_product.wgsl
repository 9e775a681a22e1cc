// A step of 8 of K, from the full pair of tiles: row i of an invocation by its quads of channels, a_i_n += x w. For kernels whose K is along
// the rows of x: conv2d_tile.gather and products_tile.product, which have `s`, `l`, l_n, xs and ws.
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
