//! The border between poisoned and clean samples, once the evidence has said which set is poison.

use serde::{Deserialize, Serialize};

use super::super::Split;
use super::discriminator::Discriminator;
use super::evidence::{Evidence, refine};
use super::ridge::{Ridge, View};
use super::statistics::log_odds;
use crate::train::{Observer, TrainError};

/// A sample of an accused class is flagged from this belief on: a poisoned image that is kept does more harm than seven clean ones that are
/// not.
const DOUBT: f32 = 1.0 / 8.0;
/// What sets the border.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Border {
    /// The images' evidence alone.
    Images,
    /// The images and the network's frozen features in one regression.
    #[default]
    Features,
    /// The images' evidence and the belief of the classifier that is retrained on frozen features.
    Classifier,
}

/// Log-odds that each sample is poisoned, from the images' evidence: -infinity outside the accused classes.
pub(super) fn by_images(evidence: &Evidence, n: usize) -> Vec<f32> {
    if let Some(pooled) = evidence.pooled.as_ref().filter(|_| evidence.pooled_accused) {
        return log_odds(&pooled.score, &pooled.set);
    }
    let mut odds = vec![f32::NEG_INFINITY; n];
    for class in evidence.classes.iter().filter(|c| c.seen.finding.accuses()) {
        for (&i, o) in class.members.iter().zip(log_odds(&class.score, &class.set)) {
            odds[i] = o;
        }
    }
    odds
}

/// The same with the network's features as a further block of the regression that refines each accused class's set. A set that goes
/// through all classes stays as it is.
pub(super) fn by_features(evidence: &Evidence, ridge: &Ridge) -> Vec<f32> {
    let mut odds = by_images(evidence, ridge.samples());
    for class in evidence.classes.iter().filter(|c| c.seen.finding.accuses()) {
        let refined = refine(&ridge.class(View::All, &class.members), &class.set);
        if refined.within > class.seen.within {
            log::info!("class {}: D within the class {:.2} with the network's features", class.seen.class, refined.within);
            for (&i, o) in class.members.iter().zip(log_odds(&refined.score, &refined.set)) {
                odds[i] = o;
            }
        }
    }
    odds
}

/// The images' odds together with those of the discriminator: round after round the classifier learns the last verdict, beginning
/// with the `count` samples of highest odds.
///
/// # Errors
/// A wish to stop; the driver's.
pub(super) fn by_classifier(
    images: &[f32],
    mut discriminator: Discriminator,
    count: usize,
    rounds: usize,
    observer: &dyn Observer,
) -> Result<Vec<f32>, TrainError> {
    let mut order: Vec<usize> = (0..images.len()).filter(|&i| images[i] > 0.0).collect();
    order.sort_by(|&a, &b| images[b].total_cmp(&images[a]));
    let mut believed = vec![false; images.len()];
    order.iter().take(count).for_each(|i| believed[*i] = true);
    let mut odds = images.to_vec();
    for _ in 0..rounds {
        let belief = discriminator.round(&believed, observer)?;
        for ((odds, image), d) in odds.iter_mut().zip(images).zip(belief) {
            let d = d.clamp(1e-6, 1.0 - 1e-6);
            *odds = image + (d / (1.0 - d)).ln();
        }
        believed = odds.iter().map(|o| *o > 0.0).collect();
    }
    Ok(odds)
}

/// Flags what is poisoned with a belief over [`DOUBT`].
pub(super) fn cut(odds: &[f32]) -> Split {
    let score: Vec<f32> = odds.iter().map(|o| 1.0 / (1.0 + (-o).exp())).collect();
    Split { flagged: score.iter().map(|s| *s > DOUBT).collect(), score }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
