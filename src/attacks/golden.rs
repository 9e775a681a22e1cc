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
    let none = || AttackOptions::default();
    with_golden(|golden| {
        for size in [16, 32, 64] {
            for (case, attack, options) in [
                ("badnets_white", "BadNets", none()),
                ("badnets_grid", "BadNets", [("pattern", "grid".into())].into()),
                ("badnets_grid_6", "BadNets", [("pattern", "grid".into()), ("patch", 6.0.into())].into()),
                ("sig", "SIG", none()),
                ("sig_20", "SIG", [("strength", 20.0.into())].into()),
                ("bpp", "BPP", none()),
                ("bpp_dither", "BPP", [("dither", true.into())].into()),
                ("ftrojan", "FTrojan", none()),
                ("ctrl", "CTRL", none()),
            ] {
                let attack = find(attack).expect("known").build(&Setting { size, seed: 0, options: &options }).expect("built");
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
            let options = AttackOptions::default();
            let attack = find("BPP").expect("known").build(&Setting { size, seed: 0, options: &options }).expect("built");
            let all = bytes(golden, &format!("{size}/images")).to_vec();
            let one = size * size * 3;
            compare(golden, size, "bpp_negative", |i, image| {
                let other = &all[(i + 1) * one % all.len()..][..one];
                attack.negative(image, other, &mut crate::rng::stream(0, "unused"));
            });
        }
    });
}
