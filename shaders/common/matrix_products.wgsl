// Matrix k of a step: a_i_j_0 += hi hi and, of operands in two planes, a_i_j_1 += hi lo + lo hi. Matrix units may add without rounding to
// nearest, which shows over long sums: of two planes the large products are added outside these (Ootomo and Yokota 2022). For conv2d_matrix.
//: for i in 0..WM / S
//: for j in 0..WN / S
//: for b in PLANES..2
            a{i}_{j}_0 = coopMultiplyAdd(x{k}_{i}_0, w{k}_{j}_0, a{i}_{j}_0);
//: end
//: for b in 1..PLANES
            a{i}_{j}_0 = a{i}_{j}_0 + coopMultiplyAdd(x{k}_{i}_0, w{k}_{j}_0, zero);
            a{i}_{j}_{b} = coopMultiplyAdd(x{k}_{i}_0, w{k}_{j}_{b}, a{i}_{j}_{b});
            a{i}_{j}_{b} = coopMultiplyAdd(x{k}_{i}_{b}, w{k}_{j}_0, a{i}_{j}_{b});
//: end
//: end
//: end
