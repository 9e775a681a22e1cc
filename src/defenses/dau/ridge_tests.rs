//! Left-out predictions against regressions that are fitted anew in f64.

use super::*;
use crate::defenses::dau::candidates;
use crate::rng;
use crate::train::Silent;
use approx::assert_relative_eq;
use faer::prelude::Solve;
use rand::RngExt;

const N: usize = 60;
const DEEP: usize = 3;
const ERROR: f64 = 1e-3;

fn data() -> (Dataset, Vec<f32>) {
    let mut rng = rng::stream(11, "ridge");
    let (size, classes) = (8, 3);
    let pixels = (0..N * size * size * 3).map(|_| rng.random()).collect();
    let labels = (0..N).map(|i| (i * i % classes) as u32).collect();
    let network = (0..N * DEEP).map(|i| (rng::normal(&mut rng) * (1 + i % DEEP) as f64) as f32).collect();
    let names = (0..classes).map(|k| k.to_string()).collect();
    (Dataset { name: "test".into(), size, classes: names, pixels, labels, paths: vec![String::new(); N] }, network)
}

/// Standardised rows in f64, each block of weight 1.
fn rows(data: &Dataset, network: &[f32], view: View) -> Vec<Vec<f64>> {
    let features = Features::new(data.size);
    let mut rows: Vec<Vec<f64>> = (0..N).map(|i| features.of(data.image(i)).iter().map(|v| f64::from(*v)).collect()).collect();
    let mut sizes = features.blocks().to_vec();
    if view == View::All {
        rows.iter_mut().enumerate().for_each(|(i, r)| r.extend(network[i * DEEP..][..DEEP].iter().map(|v| f64::from(*v))));
        sizes.push(DEEP);
    }
    let weights: Vec<f64> = sizes.iter().flat_map(|&s| std::iter::repeat_n(1.0 / (s as f64).sqrt(), s)).collect();
    for (j, weight) in weights.into_iter().enumerate() {
        let mean = rows.iter().map(|r| r[j]).sum::<f64>() / N as f64;
        let variance = rows.iter().map(|r| (r[j] - mean).powi(2)).sum::<f64>() / N as f64;
        rows.iter_mut().for_each(|r| r[j] = (r[j] - mean) / variance.max(LEAST_VARIANCE).sqrt() * weight);
    }
    rows
}

/// Ridge regression fitted anew without `left`, by the normal equations in f64 on kernels: predictions of `left`.
fn refitted(rows: &[Vec<f64>], y: &[f64], left: &[usize]) -> Vec<f64> {
    let kept: Vec<usize> = (0..N).filter(|i| !left.contains(i)).collect();
    let d = rows[0].len();
    // The intercept is not penalised: centre on the kept samples.
    let mean: Vec<f64> = (0..d).map(|j| kept.iter().map(|&i| rows[i][j]).sum::<f64>() / kept.len() as f64).collect();
    let level = kept.iter().map(|&i| y[i]).sum::<f64>() / kept.len() as f64;
    let x = Mat::from_fn(kept.len(), d, |i, j| rows[kept[i]][j] - mean[j]);
    let t = Mat::from_fn(kept.len(), 1, |i, _| y[kept[i]] - level);
    let mut kernel = &x * x.transpose();
    for i in 0..kept.len() {
        // c of 300 features and 60 samples is the largest.
        kernel[(i, i)] += 3e-4 * N as f64;
    }
    let w = x.transpose() * kernel.partial_piv_lu().solve(t);
    left.iter().map(|&i| level + (0..d).map(|j| (rows[i][j] - mean[j]) * w[(j, 0)]).sum::<f64>()).collect()
}

#[test]
fn leaving_one_out_is_fitting_anew_without_it() {
    let (data, network) = data();
    let ridge = Ridge::new(&data, &network, &Silent).unwrap();
    let y: Vec<f64> = (0..N).map(|i| if i % 3 == 0 { 1.0 - 2.0 * (i % 2) as f64 } else { 0.0 }).collect();
    let targets = Mat::from_fn(N, 1, |i, _| y[i] as f32);
    for view in [View::Images, View::All] {
        let rows = rows(&data, &network, view);
        let got = ridge.leave_one_out(view, targets.as_ref());
        // A class alone, where the targets are 0 outside.
        let members: Vec<usize> = (0..N).step_by(3).collect();
        let own = Mat::from_fn(members.len(), 1, |i, _| y[members[i]] as f32);
        let of_class = ridge.class(view, &members).leave_one_out(own.as_ref());
        for i in [0, 9, 57] {
            let want = refitted(&rows, &y, &[i])[0];
            assert_relative_eq!(f64::from(got[(i, 0)]), want, epsilon = ERROR);
            assert_relative_eq!(f64::from(of_class[(i / 3, 0)]), want, epsilon = ERROR);
        }
        let others =
            ridge.leave_one_out_of_others(view, ridge.class(view, &members).weights(own.as_ref()).as_ref(), own.as_ref());
        assert_relative_eq!(f64::from(others[(4, 0)]), refitted(&rows, &y, &[4])[0], epsilon = ERROR);
    }
}

#[test]
fn leaving_a_group_out_is_fitting_anew_without_it() {
    let (data, network) = data();
    let ridge = Ridge::new(&data, &network, &Silent).unwrap();
    let group = [1, 2, 5, 8, 21];
    let got = ridge.leave_group_out(&ridge.classifier(&data.labels, 3), &group);
    let rows = rows(&data, &network, View::Images);
    for k in 0..3 {
        let y: Vec<f64> = data.labels.iter().map(|l| f64::from(u8::from(*l == k as u32))).collect();
        for (g, want) in refitted(&rows, &y, &group).into_iter().enumerate() {
            assert_relative_eq!(f64::from(got[(g, k)]), want, epsilon = ERROR);
        }
    }
}

/// In f16 the predictions of many samples are the same but for its rounding.
#[test]
fn half_precision_says_nearly_the_same() {
    let (mut data, _) = data();
    // Twelve times the samples: h is far from 1, as it is where memory is short.
    let mut rng = rng::stream(12, "more");
    data = data.subset(&(0..12 * N).map(|i| i % N).collect::<Vec<usize>>());
    data.pixels.iter_mut().for_each(|p| *p = rng.random());
    let targets = Mat::from_fn(data.len(), 1, |i, _| (i % 2) as f32);
    let of = |most: usize| {
        let ridge = Ridge::within(most, &data, &[], &Silent).unwrap();
        assert_eq!(matches!(ridge.z, Rows::Half(_)), most == 0);
        ridge.leave_one_out(View::Images, targets.as_ref())
    };
    let (single, half) = (of(MOST_BYTES), of(0));
    assert!((&single - &half).norm_max() < 0.02, "{}", (&single - &half).norm_max());
    assert!((&single - &half).norm_max() > 0.0);
}

#[test]
fn the_ridge_falls_with_the_square_of_features_a_sample_between_its_bounds() {
    for (d, n, want) in [(4800, 600, 3e-4), (4800, 9600, 7.5e-5), (4800, 50_000, 1e-5)] {
        assert_relative_eq!(coefficient(d, n), want, max_relative = 1e-5);
    }
}

#[test]
fn features_that_are_not_finite_are_refused() {
    let (data, mut network) = data();
    network[4] = f32::NAN;
    assert!(Ridge::new(&data, &network, &Silent).is_err_and(|e| e.to_string().contains("not finite")));
}

/// Ten classes of 130 images of 16x16, a patch on some of the first: several blocks in every product.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut random = rng::stream(12, "threads");
    let (n, size) = (1300, 16);
    let mut pixels: Vec<u8> = (0..n * size * size * 3).map(|_| random.random()).collect();
    let members: Vec<usize> = (0..n).step_by(10).collect();
    members.iter().step_by(3).for_each(|i| pixels[i * size * size * 3..][..12].fill(255));
    let labels: Vec<u32> = (0..n).map(|i| (i % 10) as u32).collect();
    let classes = (0..10).map(|k| k.to_string()).collect();
    let data = Dataset { name: "test".into(), size, classes, pixels, labels: labels.clone(), paths: vec![String::new(); n] };
    faer::set_global_parallelism(Par::Seq); // as the program does
    let found = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let ridge = Ridge::new(&data, &[], &Silent).unwrap();
            let classifier = ridge.classifier(&labels, 10);
            let rows = ridge.class(View::Images, &members);
            let margin = ridge.margin(&classifier, &labels);
            let sets = candidates::find(&ridge, &rows, &data, &members, &margin).candidates;
            let group = ridge.leave_group_out(&classifier, &members);
            let group = (0..group.ncols()).flat_map(|k| group.col_as_slice(k));
            let alone = Mat::from_fn(members.len(), 1, |i, _| f32::from(u8::from(i % 3 == 0)));
            let alone = rows.leave_one_out(alone.as_ref());
            let scores = sets.iter().flat_map(|set| &set.score).chain(alone.col_as_slice(0));
            (sets.len(), scores.chain(group).chain(&margin).map(|v| v.to_bits()).collect::<Vec<u32>>())
        })
    };
    let one = found(1);
    for threads in [2, 3, 5] {
        let other = found(threads);
        assert_eq!(one.0, other.0, "{threads} threads: sets");
        let differ = one.1.iter().zip(&other.1).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{threads} threads: of {} numbers", one.1.len());
    }
    assert!(one.0 > 0, "no set was looked at");
}
