//! A split that may be poor, drawn anew: what makes unlearning hold where each part has some of the other's samples.
//!
//! In every class the flagged images are regressed against the rest, with the images' and the network's features, and the border is drawn
//! by left-out predictions, over and over (self-training, as at the end of stage 1). Poison is apart from its class, so that the border
//! comes to lie between the two though many images were on the wrong side.

use super::super::Split;
use super::candidates::FEWEST;
use super::evidence::{APART, refine};
use super::ridge::{Ridge, View};
use super::split::cut;
use super::statistics::log_odds;
use crate::data::Dataset;
use crate::train::{Observer, TrainError};

/// Of a set of poison at least so much is flagged: half of a split may be wrong, and some more.
const INSIDE: f64 = 1.0 / 3.0;
/// Flagged images are at least so many times as frequent inside a set of poison as in the rest of its class.
const LIFT: f64 = 3.0;

/// `split` drawn anew with the frozen `features` [N, D] of a network that was trained on all of `data`. A class keeps flagged images only
/// where it has a set that is apart from the rest of it; the split stays as it is where no class has.
///
/// # Errors
/// Features that are not finite; a wish to stop.
pub(super) fn recut(data: &Dataset, features: &[f32], split: &Split, observer: &dyn Observer) -> Result<Split, TrainError> {
    let ridge = Ridge::new(data, features, observer)?;
    let mut odds = vec![f32::NEG_INFINITY; data.len()];
    let mut kept = 0;
    for class in 0..data.classes.len() as u32 {
        let members: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == class).collect();
        let given: Vec<bool> = members.iter().map(|&i| split.flagged[i]).collect();
        let count = given.iter().filter(|f| **f).count();
        if count < FEWEST || given.len() - count < FEWEST {
            continue;
        }
        let found = refine(&ridge.class(View::All, &members), &given);
        // On either side of a border that a class has by nature, flags that are spread at random are about as frequent.
        let [inside, outside] = shares(&given, &found.set);
        let poison = found.within >= APART && inside >= INSIDE.max(LIFT * outside);
        log::info!(
            "class {class}: {count} flagged, {} after refining, D within the class {:.2}, flagged {:.1} % inside and {:.1} % outside",
            found.set.iter().filter(|s| **s).count(),
            found.within,
            100.0 * inside,
            100.0 * outside
        );
        if poison {
            kept += 1;
            members.iter().zip(log_odds(&found.score, &found.set)).for_each(|(i, o)| odds[*i] = o);
        }
    }
    Ok(if kept > 0 { cut(&odds) } else { split.clone() })
}

/// Which share of a set, and of what is outside it, is flagged.
fn shares(flagged: &[bool], set: &[bool]) -> [f64; 2] {
    [true, false].map(|side| {
        let of_side = || flagged.iter().zip(set).filter(|(_, s)| **s == side);
        of_side().filter(|(f, _)| **f).count() as f64 / of_side().count().max(1) as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::rng;
    use crate::train::Silent;

    /// Digits of which every eleventh is called a 4, and features: a place for each digit, one for what is called a 4 wrongly, and two for sevens
    /// with and without a bar, which have nothing to do with poison.
    fn poisoned() -> (Dataset, Vec<f32>, Vec<bool>) {
        let mut data = load(&Spec::find("digits").unwrap(), &LoadOptions::default()).unwrap().train;
        let poison: Vec<bool> = (0..data.len()).map(|i| i % 11 == 3).collect();
        let mut noise = rng::stream(2, "features");
        let mut features = Vec::new();
        for (i, label) in data.labels.iter().enumerate() {
            let place = match label {
                _ if poison[i] => 10,
                7 if i % 2 == 0 => 11,
                digit => *digit as usize,
            };
            features.extend((0..12).map(|d| if d == place { 6.0 } else { 0.0 } + rng::normal(&mut noise) as f32));
        }
        (0..data.len()).filter(|&i| poison[i]).for_each(|i| data.labels[i] = 4);
        (data, features, poison)
    }

    fn split(flagged: &[bool]) -> Split {
        Split { flagged: flagged.to_vec(), score: flagged.iter().map(|f| if *f { 0.9 } else { 0.1 }).collect() }
    }

    #[test]
    fn half_of_the_poison_and_as_many_clean_images_are_enough_to_find_all_of_it() {
        let (data, features, poison) = poisoned();
        let mut draw = rng::stream(5, "poor");
        let (mut bad, mut good): (Vec<usize>, Vec<usize>) = (0..data.len()).partition(|&i| poison[i]);
        rng::shuffle(&mut draw, &mut bad);
        rng::shuffle(&mut draw, &mut good);
        let mut flagged = poison.clone();
        let half = bad.len() / 2;
        bad[..half].iter().for_each(|i| flagged[*i] = false);
        // Among the clean are enough of each digit, sevens of either kind too, for a border of their own.
        good[..2 * half].iter().for_each(|i| flagged[*i] = true);
        let found = recut(&data, &features, &split(&flagged), &Silent).unwrap();
        assert!((0..data.len()).all(|i| !found.flagged[i] || data.labels[i] == 4), "other classes hold no poison");
        let [wrong, missed] = [(true, false), (false, true)]
            .map(|(flag, truth)| (0..data.len()).filter(|&i| found.flagged[i] == flag && poison[i] == truth).count());
        // One in twenty.
        assert!(wrong <= 6 && missed <= 6, "{wrong} flagged for nothing, {missed} of {} missed", bad.len());
    }

    #[test]
    fn flags_without_a_set_that_is_apart_stay_as_they_are() {
        let (data, features, _) = poisoned();
        let mut draw = rng::stream(6, "any");
        let mut order: Vec<usize> = (0..data.len()).collect();
        rng::shuffle(&mut draw, &mut order);
        let mut flagged = vec![false; data.len()];
        order[..130].iter().for_each(|i| flagged[*i] = true);
        // Every class falls into kinds, sevens and fours plainly: flags are about as frequent in either.
        let given = split(&flagged);
        assert!(recut(&data, &features, &given, &Silent).unwrap() == given, "it was changed");
    }
}
