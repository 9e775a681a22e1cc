//! Adaptive Blend (Qi et al., 2023): made to leave no separate cluster of features. The picture of [`super::blended`] is cut into 4x4 pieces;
//! each poisoned training image gets a random half of them, faintly, and as many *cover* images get the same and keep their labels. In
//! test the whole picture is laid over an image. The paper poisons .3 % of the images and covers as many.

use super::blended::{Blended, picture};
use super::{Attack, AttackEntry, AttackError, Blueprint, TargetMode};
use crate::options::{Kind, OptionSpec};
use crate::rng::shuffle;
use rand_chacha::ChaCha8Rng;

/// Pieces along a side.
const PIECES: usize = 4;

const ALPHA: OptionSpec = OptionSpec {
    name: "alpha",
    help: "weight of the picture in test",
    kind: Kind::Number { default: 0.2, allowed: |a| a > 0.0 && a <= 1.0, words: "a weight above 0, at most 1" },
};
const FAINT: OptionSpec = OptionSpec {
    name: "faint",
    help: "weight of the picture's pieces in training images",
    kind: Kind::Number { default: 0.15, allowed: |a| a > 0.0 && a <= 1.0, words: "a weight above 0, at most 1" },
};
const NEGATIVES: OptionSpec = OptionSpec {
    name: "negatives",
    help: "images with pieces of the picture and their true label, for each poisoned one",
    kind: Kind::Number { default: 1.0, allowed: |n| (0.0..=100.0).contains(&n), words: "a number from 0 to 100" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "Adap-Blend",
    summary: "pieces of Blended's picture, fainter, and covers that keep their labels; the whole picture in test",
    options: &[ALPHA, FAINT, NEGATIVES],
    mode: TargetMode::AllToOne,
    needs_surrogate: false,
    build,
};

struct AdapBlend {
    whole: Blended,
    faint: Blended,
    size: usize,
    negatives: f64,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let picture = picture(blueprint.seed, blueprint.size);
    let [alpha, faint, negatives] = [&ALPHA, &FAINT, &NEGATIVES].map(|option| blueprint.options.number(option));
    let whole = Blended { alpha, picture: picture.clone() };
    Ok(Box::new(AdapBlend { whole, faint: Blended { alpha: faint, picture }, size: blueprint.size, negatives }))
}

impl Attack for AdapBlend {
    fn apply(&self, image: &mut [u8]) {
        self.whole.apply(image);
    }

    fn apply_in_training(&self, image: &mut [u8], _place: usize, rng: &mut ChaCha8Rng) {
        let mut pieces: Vec<usize> = (0..PIECES * PIECES).collect();
        shuffle(rng, &mut pieces);
        let left_out = &pieces[..pieces.len() / 2];
        let bare = image.to_vec();
        self.faint.apply(image);
        let piece = |at: usize| at * PIECES / self.size;
        for (at, (pixel, bare)) in image.chunks_exact_mut(3).zip(bare.chunks_exact(3)).enumerate() {
            if left_out.contains(&(piece(at / self.size) * PIECES + piece(at % self.size))) {
                pixel.copy_from_slice(bare);
            }
        }
    }

    fn negatives(&self) -> f64 {
        self.negatives
    }

    fn negative(&self, image: &mut [u8], _other: &[u8], place: usize, rng: &mut ChaCha8Rng) {
        self.apply_in_training(image, place, rng);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::rng::stream;

    /// floor(.85 x + .15 K) in whole numbers on half of the 16 pieces, x on the others.
    #[test]
    fn half_of_the_pieces_are_laid_on_faintly_and_other_ones_on_each_image() {
        let size = 32;
        let options = Options::default();
        let attack = ENTRY.build(&Blueprint { size, seed: 4, options: &options, help: None }).unwrap();
        let k = picture(4, size);
        let clean: Vec<u8> = (0..k.len()).map(|i| ((i * 31 + 7) % 256) as u8).collect();
        let mut seen = Vec::new();
        for image in 0..20 {
            let mut training = clean.clone();
            attack.apply_in_training(&mut training, image, &mut stream(1, &format!("image {image}")));
            let mut blended = [0; 16];
            for at in 0..size * size {
                let piece = at / size / 8 * 4 + at % size / 8;
                for c in 3 * at..3 * at + 3 {
                    let sum = 85 * u32::from(clean[c]) + 15 * u32::from(k[c]);
                    // Where that is whole, the fraction may fall short of it by a hair, and is cut off.
                    let expected = [sum / 100, if sum % 100 == 0 { (sum / 100).saturating_sub(1) } else { sum / 100 }];
                    if expected.iter().all(|e| *e != u32::from(clean[c])) {
                        let laid = expected.contains(&u32::from(training[c]));
                        assert!(laid || training[c] == clean[c], "{} of {} and {}", training[c], clean[c], k[c]);
                        blended[piece] |= if laid { 1 } else { 2 };
                    }
                }
            }
            assert_eq!((blended.iter().filter(|b| **b == 1).count(), blended.iter().filter(|b| **b == 2).count()), (8, 8));
            seen.push(blended);
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 15, "each image has pieces of its own");
        let mut test = clean.clone();
        attack.apply(&mut test);
        let whole = |c: usize| (4 * u32::from(clean[c]) + u32::from(k[c])) / 5;
        assert!((0..k.len()).all(|c| u32::from(test[c]) == whole(c)), "the whole picture at .2 in test");
        assert_eq!(attack.negatives(), 1.0);
    }
}
