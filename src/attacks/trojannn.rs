//! TrojanNN (Liu et al., 2018): a patch that makes two neurons of a clean network fire. The neurons are the penultimate ones with
//! the largest sum of |weight| in the last layer. The patch, a disc in the bottom-right corner, begins grey and climbs the sum of
//! their activations, averaged over clean images that carry it, by steps of .1 of the range along the gradient (its largest
//! component being one step), until both reach 100 on average, nothing was gained for 20 steps, or the steps are used up; the
//! best patch is the trigger.

use super::{Attack, AttackEntry, AttackError, Blueprint, Pull, TargetMode};
use crate::options::{Kind, OptionSpec};

const STEPS: OptionSpec = OptionSpec {
    name: "steps",
    help: "of the patch's optimisation, at most",
    kind: Kind::Number {
        default: 1000.0,
        allowed: |n| (1.0..=10_000.0).contains(&n) && n.fract() == 0.0,
        words: "a whole number from 1 to 10000",
    },
};
/// Of the range of a pixel.
const STEP: f64 = 0.1;
const NEURONS: usize = 2;
const ENOUGH: f64 = 100.0;
const PATIENCE: usize = 20;
/// Clean images that the patch is tried on.
const IMAGES: usize = 32;

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "TrojanNN",
    summary: "a patch that excites two neurons of a clean network",
    options: &[STEPS],
    mode: TargetMode::AllToOne,
    needs_surrogate: true,
    build,
};

struct TrojanNn {
    /// Byte of the image, and its value.
    patch: Vec<(usize, u8)>,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let help = blueprint.help(ENTRY.name)?;
    let images = help.sample(IMAGES, blueprint.seed, "trojannn images");
    let mask = mask(blueprint.size);
    let features = help.surrogate.features();
    let neurons = strongest(help.surrogate.head(), features);
    let mut pull = vec![0.0; images.len() * features];
    for row in pull.chunks_mut(features) {
        neurons.iter().for_each(|d| row[*d] = 1.0 / images.len() as f32);
    }

    let mut pixels: Vec<f32> = images.pixels.iter().map(|x| f32::from(*x)).collect();
    let mut patch = vec![127.5; mask.len()];
    let (mut best, mut highest, mut stale) = (patch.clone(), f64::NEG_INFINITY, 0);
    for _ in 0..blueprint.options.count(&STEPS) {
        for image in pixels.chunks_mut(images.image_bytes()) {
            mask.iter().zip(&patch).for_each(|(at, value)| image[*at] = *value as f32);
        }
        let response = help.surrogate.respond(&pixels, Pull::Features(&pull))?;
        let mean = |d: usize| {
            let sum: f64 = response.features.iter().skip(d).step_by(features).map(|f| f64::from(*f)).sum();
            sum / images.len() as f64
        };
        let activation: f64 = neurons.iter().map(|d| mean(*d)).sum();
        if activation > highest {
            (best, highest, stale) = (patch.clone(), activation, 0);
        } else {
            stale += 1;
        }
        let gradient: Vec<f64> = mask
            .iter()
            .map(|at| response.gradient.iter().skip(*at).step_by(images.image_bytes()).map(|g| f64::from(*g)).sum())
            .collect();
        let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        if stale >= PATIENCE || largest == 0.0 || neurons.iter().all(|d| mean(*d) >= ENOUGH) {
            break;
        }
        for (value, g) in patch.iter_mut().zip(gradient) {
            *value = (*value + STEP * 255.0 * g / largest).clamp(0.0, 255.0);
        }
    }
    Ok(Box::new(TrojanNn { patch: mask.into_iter().zip(best).map(|(at, value)| (at, value.round() as u8)).collect() }))
}

/// Bytes of an image that lie in the disc: a quarter of the side across, a pixel away from the bottom and the right.
pub(super) fn mask(size: usize) -> Vec<usize> {
    let diameter = (size / 4).max(1);
    let centre = size as f64 - 1.0 - diameter as f64 / 2.0;
    let inside = |at: usize| {
        let (y, x) = ((at / size) as f64 + 0.5 - centre, (at % size) as f64 + 0.5 - centre);
        y * y + x * x <= (diameter * diameter) as f64 / 4.0
    };
    (0..size * size).filter(|at| inside(*at)).flat_map(|at| [at * 3, at * 3 + 1, at * 3 + 2]).collect()
}

/// The neurons with the largest sum of |weight| in the last layer `[K, D]`.
fn strongest(head: &[f32], features: usize) -> Vec<usize> {
    let sum = |d: usize| head.iter().skip(d).step_by(features).map(|w| f64::from(w.abs())).sum::<f64>();
    let mut order: Vec<usize> = (0..features).collect();
    order.sort_by(|a, b| sum(*b).total_cmp(&sum(*a)));
    order.truncate(NEURONS);
    order
}

impl Attack for TrojanNn {
    fn apply(&self, image: &mut [u8]) {
        for (at, value) in &self.patch {
            image[*at] = *value;
        }
    }
}
