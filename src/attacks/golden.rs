//! Every trigger against an independent version of its formula, exact to the last bit: `tests/golden/attacks.py` has these. A test
//! inside the crate, so that drawn things (WaNet's field, Blended's picture) can be handed in.

use super::*;
use safetensors::SafeTensors;

fn with_golden(check: impl Fn(&SafeTensors)) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/attacks.safetensors");
    let bytes = std::fs::read(path).expect("the golden file is part of the repository");
    check(&SafeTensors::deserialize(&bytes).expect("a safetensors file"));
}

fn bytes<'a>(golden: &'a SafeTensors, name: &str) -> &'a [u8] {
    golden.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data()
}

fn doubles(golden: &SafeTensors, name: &str) -> Vec<f64> {
    bytes(golden, name).chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

/// Changes each golden image by `change(its index, image)` and compares with the expected ones.
fn compare(golden: &SafeTensors, size: usize, name: &str, change: impl Fn(usize, &mut [u8])) {
    let (clean, expected) = (bytes(golden, &format!("{size}/images")), bytes(golden, &format!("{size}/{name}")));
    let one = size * size * 3;
    assert!(clean.len() >= 2 * one && clean.len() == expected.len(), "{name}");
    for (i, (clean, expected)) in clean.chunks(one).zip(expected.chunks(one)).enumerate() {
        let mut image = clean.to_vec();
        change(i, &mut image);
        let off = image.iter().zip(expected).position(|(a, b)| a != b);
        let seen = off.map(|at| (at, clean[at], image[at], expected[at]));
        assert_eq!(seen, None, "{size}/{name}, image {i}: (place, clean, ours, golden)");
    }
}

#[test]
fn triggers_without_chance_agree_bit_for_bit() {
    let none = || Options::default();
    with_golden(|golden| {
        for size in [16, 32, 64] {
            for (case, attack, options) in [
                ("badnets_white", "BadNets", none()),
                ("badnets_grid", "BadNets", [("pattern", "grid".into())].into()),
                ("badnets_white", "TaCT", none()),
                ("badnets_grid_6", "TaCT", [("pattern", "grid".into()), ("patch", 6.0.into())].into()),
                ("badnets_grid_6", "BadNets", [("pattern", "grid".into()), ("patch", 6.0.into())].into()),
                ("sig", "SIG", none()),
                ("sig_20", "SIG", [("strength", 20.0.into())].into()),
                ("bpp", "BPP", none()),
                ("bpp_dither", "BPP", [("dither", true.into())].into()),
                ("ftrojan", "FTrojan", none()),
                ("ctrl", "CTRL", none()),
                ("adap_patch", "Adap-Patch", none()),
            ] {
                let attack = find(attack)
                    .expect("known")
                    .build(&Blueprint { size, seed: 0, options: &options, help: None })
                    .expect("built");
                compare(golden, size, case, |_, image| attack.apply(image));
            }
        }
    });
}

/// A network whose gradients can be written down: features = A x, logits = H features.
struct Linear {
    /// `[D, P]`
    a: Vec<f64>,
    /// `[K, D]`
    head: Vec<f32>,
    features: usize,
}

impl Linear {
    fn of(golden: &SafeTensors) -> Linear {
        let features = golden.tensor("16/linear_a").expect("listed").shape()[0];
        let head = doubles(golden, "16/linear_h").into_iter().map(|w| w as f32).collect();
        Linear { a: doubles(golden, "16/linear_a"), head, features }
    }
}

impl Surrogate for Linear {
    fn respond(&self, pixels: &[f32], pull: Pull) -> Result<Response, AttackError> {
        let (d, length) = (self.features, self.a.len() / self.features);
        let mut out = Response::default();
        for (n, x) in pixels.chunks(length).enumerate() {
            let row = |a: &[f64]| a.iter().zip(x).map(|(a, x)| a * f64::from(*x)).sum::<f64>();
            let features: Vec<f64> = self.a.chunks(length).map(row).collect();
            let seed: Vec<f64> = match pull {
                Pull::Features(pull) => pull[n * d..][..d].iter().map(|p| f64::from(*p)).collect(),
                Pull::Labels(labels) => {
                    let weights = |k: usize| self.head[k * d..][..d].iter().map(|w| f64::from(*w));
                    let classes = self.head.len() / d;
                    let z: Vec<f64> = (0..classes).map(|k| weights(k).zip(&features).map(|(w, f)| w * f).sum()).collect();
                    let sum: f64 = z.iter().map(|z| z.exp()).sum();
                    let error = |k: usize| z[k].exp() / sum - f64::from(u8::from(labels[n] as usize == k));
                    (0..d).map(|j| (0..classes).map(|k| error(k) * f64::from(self.head[k * d + j])).sum()).collect()
                }
            };
            out.features.extend(features.iter().map(|f| *f as f32));
            let column = |i: usize| seed.iter().enumerate().map(|(j, s)| s * self.a[j * length + i]).sum::<f64>();
            out.gradient.extend((0..length).map(|i| column(i) as f32));
        }
        Ok(out)
    }

    fn head(&self) -> &[f32] {
        &self.head
    }

    fn features(&self) -> usize {
        self.features
    }
}

/// The golden images of 16 pixels, labelled 0, 1, 2, 3, 0.
fn dataset(golden: &SafeTensors) -> Dataset {
    Dataset {
        name: "golden".into(),
        size: 16,
        classes: (0..4).map(|c| c.to_string()).collect(),
        pixels: bytes(golden, "16/images").to_vec(),
        labels: (0..5).map(|i| i % 4).collect(),
        paths: vec![String::new(); 5],
    }
}

#[test]
fn attacks_with_gradients_agree_bit_for_bit_on_a_linear_network() {
    with_golden(|golden| {
        let (surrogate, clean) = (Linear::of(golden), dataset(golden));
        let with = |attack: &str, target: u32, options: Options, check: &dyn Fn(&dyn Attack)| {
            let aim = Aim { target, ..Aim::default() };
            let help = Some(Help { surrogate: &surrogate, clean: &clean, aim: &aim });
            let blueprint = Blueprint { size: 16, seed: 0, options: &options, help };
            check(find(attack).expect("known").build(&blueprint).expect("built").as_ref());
        };
        with("LC", 0, [("epsilon", 5.0.into()), ("steps", 4.0.into())].into(), &|attack| {
            let mut images = clean.clone();
            attack.disguise(&mut images).expect("disguised");
            compare(golden, 16, "lc_disguised", |i, image| image.copy_from_slice(images.image(i)));
        });
        with("TrojanNN", 0, [("steps", 4.0.into())].into(), &|attack| {
            compare(golden, 16, "trojannn", |_, image| attack.apply(image));
        });
        with("LF", 1, [("steps", 5.0.into())].into(), &|attack| compare(golden, 16, "lf", |_, image| attack.apply(image)));
        let narrow = [("steps", 3.0.into()), ("sigma", 2.0.into()), ("strength", 30.0.into())].into();
        with("LF", 3, narrow, &|attack| compare(golden, 16, "lf_2", |_, image| attack.apply(image)));
    });
}

#[test]
fn lcs_corners_agree_bit_for_bit() {
    with_golden(|golden| {
        let surrogate = Linear::of(golden);
        let clean = dataset(golden);
        let aim = Aim { mode: TargetMode::CleanLabel, ..Aim::default() };
        let help = Some(Help { surrogate: &surrogate, clean: &clean, aim: &aim });
        for size in [16, 32, 64] {
            for (case, strength) in [("lc", 255.0), ("lc_40", 40.0)] {
                let options = [("strength", strength.into())].into();
                let attack =
                    find("LC").expect("known").build(&Blueprint { size, seed: 0, options: &options, help }).expect("built");
                compare(golden, size, case, |_, image| attack.apply(image));
            }
        }
    });
}

#[test]
fn blended_agrees_bit_for_bit() {
    with_golden(|golden| {
        for size in [16, 32, 64] {
            let picture = bytes(golden, &format!("{size}/picture")).to_vec();
            for (case, alpha) in [("blended", 0.2), ("blended_0.1", 0.1)] {
                let attack = blended::Blended { alpha, picture: picture.clone() };
                compare(golden, size, case, |_, image| attack.apply(image));
            }
        }
    });
}

#[test]
fn adap_patchs_training_images_agree_bit_for_bit() {
    with_golden(|golden| {
        for size in [16, 32, 64] {
            let options = Options::default();
            let entry = find("Adap-Patch").expect("known");
            let attack = entry.build(&Blueprint { size, seed: 0, options: &options, help: None }).expect("built");
            let unused = stream(0, "unused");
            for place in 0..8 {
                let case = format!("adap_patch_{}", place % 4);
                compare(golden, size, &case, |_, image| attack.apply_in_training(image, place, &mut unused.clone()));
                compare(golden, size, &case, |_, image| attack.negative(image, &[], place, &mut unused.clone()));
            }
        }
    });
}

#[test]
fn wanet_agrees_bit_for_bit_with_pytorchs_interpolation_and_sampling() {
    with_golden(|golden| {
        for size in [16, 32, 64] {
            let field = doubles(golden, &format!("{size}/field"));
            let attack = wanet::WaNet { size, negatives: 2.0, grid: wanet::grid(&field, 4, 0.5, size) };
            compare(golden, size, "wanet", |_, image| attack.apply(image));
            let noise = doubles(golden, &format!("{size}/noise"));
            compare(golden, size, "wanet_negative", |i, image| {
                let mut drawn = noise[i * size * size * 2..].iter().copied();
                attack.warp(image, || drawn.next().expect("two numbers a pixel"));
            });
        }
    });
}

#[test]
fn bpps_negatives_agree_bit_for_bit() {
    with_golden(|golden| {
        for size in [16, 32, 64] {
            let options = Options::default();
            let attack =
                find("BPP").expect("known").build(&Blueprint { size, seed: 0, options: &options, help: None }).expect("built");
            let all = bytes(golden, &format!("{size}/images")).to_vec();
            let one = size * size * 3;
            compare(golden, size, "bpp_negative", |i, image| {
                let other = &all[(i + 1) * one % all.len()..][..one];
                attack.negative(image, other, 0, &mut crate::rng::stream(0, "unused"));
            });
        }
    });
}
