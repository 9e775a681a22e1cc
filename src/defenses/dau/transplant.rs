//! Does what sets some images of a class apart work as a trigger? A network that was trained on poison calls any image by the target's
//! name once the trigger is on it. What makes cars seen from the front a group of their own does not turn horses into cars.

use super::candidates::{LEAST, SAME, overlap};
use super::evidence::{
    APART, ClassEvidence, ClassSet, Evidence, FEWEST_CLASSES, Finding, OWN, Refined, called, complement, refine,
};
use super::ridge::{Ridge, View};
use super::statistics::otsu;
use super::trigger::Trigger;
use crate::data::Dataset;
use crate::rng;
use crate::train::{Observer, Predictor, TrainError};

/// Images of other classes that an estimated trigger is put onto.
const OTHERS: usize = 512;
/// Share of them that the network then calls by the class's name, from which it is a trigger.
pub const TRANSPLANTED: f64 = 0.35;
/// Of the greatest possible entropy, what a model that has not seen the group must call it by: a class's mean picture works, too, where
/// classes are as plain as digits are, but such images are called by their label.
const MANY: f64 = 0.85;
/// Share of the training images that the network must give their label to be asked: one that has learned little calls many images by any
/// name, whatever is put onto them.
const LEARNED: f64 = 0.5;

/// Puts what sets each class's groups apart onto images of other classes, asks the network what it calls them, and accuses the classes
/// where that works.
///
/// # Errors
/// A wish to stop; the driver's.
pub(super) fn try_all(
    evidence: &mut Evidence,
    ridge: &Ridge,
    data: &Dataset,
    (network, said): (&mut Predictor, &[u32]),
    observer: &dyn Observer,
) -> Result<(), TrainError> {
    if data.classes.len() < FEWEST_CLASSES || evidence.pooled_accused {
        return Ok(());
    }
    let right = said.iter().zip(&data.labels).filter(|(called, label)| called == label).count();
    if (right as f64) < LEARNED * data.len() as f64 {
        log::info!("the network calls {right} of {} training images by their label: too few to try triggers on it", data.len());
        return Ok(());
    }
    let classifier = ridge.classifier(&data.labels, data.classes.len());
    let mut tried = Vec::new();
    for (at, class) in evidence.classes.iter().enumerate() {
        for group in groups(class, ridge, &evidence.margin) {
            let set: Vec<usize> = class.members.iter().zip(&group.set).filter(|(_, s)| **s).map(|(i, _)| *i).collect();
            let (entropy, own) = called(ridge, &classifier, data, class.seen.class, &set);
            if entropy >= MANY && own <= OWN {
                tried.push((at, group, set, entropy, own));
            }
        }
    }
    if tried.is_empty() {
        return Ok(());
    }
    observer.begin("triggers tried on other images", (tried.len() * OTHERS) as u64);
    for (at, group, set, entropy, own) in tried {
        let class = &mut evidence.classes[at];
        let share = transplant(data, class.seen.class, &set, (network, said), observer)?;
        let shown = (class.seen.class, set.len(), group.within);
        log::info!(
            "class {}: {} images, D {:.2}, transplant {share:.2}, entropy {entropy:.2}, own {own:.2}",
            shown.0,
            shown.1,
            shown.2
        );
        if share >= TRANSPLANTED && share > class.seen.transplant.unwrap_or(0.0) {
            class.seen = ClassEvidence {
                suspects: set.len(),
                within: group.within,
                entropy: Some(entropy),
                own: Some(own),
                transplant: Some(share),
                finding: Finding::Transplanted,
                ..class.seen.clone()
            };
            (class.set, class.score) = (group.set, group.score);
        }
    }
    Ok(())
}

/// The groups of a class that its images and the network's features set apart: beginning with the most separate set, and with the images
/// least like their label; either side.
fn groups(class: &ClassSet, ridge: &Ridge, margin: &[f32]) -> Vec<Refined> {
    if class.set.is_empty() || class.seen.finding.accuses() {
        return Vec::new();
    }
    let rows = ridge.class(View::All, &class.members);
    let mine: Vec<f32> = class.members.iter().map(|&i| margin[i]).collect();
    let level = otsu(&mine).unwrap_or(f32::NEG_INFINITY);
    let starts = [class.set.clone(), mine.iter().map(|m| *m <= level).collect()];
    let mut found: Vec<Refined> = Vec::new();
    for start in starts {
        let side = refine(&rows, &start);
        let other = Refined { set: complement(&side.set), score: side.score.iter().map(|e| -e).collect(), within: side.within };
        for side in [side, other] {
            let new = found.iter().all(|known| overlap(&known.set, &side.set) <= SAME);
            if new && side.within >= APART && side.set.iter().filter(|s| **s).count() >= LEAST {
                found.push(side);
            }
        }
    }
    found
}

/// The share of images of other classes that `network` calls `class` once what `set` has in common is put onto them, and did not before:
/// `said` is what it calls all of `data` as they are.
fn transplant(
    data: &Dataset,
    class: u32,
    set: &[usize],
    (network, said): (&mut Predictor, &[u32]),
    observer: &dyn Observer,
) -> Result<f64, TrainError> {
    let mut inside = vec![false; data.len()];
    set.iter().for_each(|&i| inside[i] = true);
    let clean: Vec<usize> = (0..data.len()).filter(|&i| !inside[i]).collect();
    let Some(trigger) = Trigger::estimate(data, set, &clean) else { return Ok(0.0) };
    let mut others: Vec<usize> = clean.into_iter().filter(|&i| data.labels[i] != class && said[i] != class).collect();
    rng::shuffle(&mut rng::stream(0, "transplant"), &mut others);
    others.truncate(OTHERS);
    let mut marked = data.subset(&others);
    let image = marked.size * marked.size * 3;
    marked.pixels.chunks_exact_mut(image).for_each(|pixels| trigger.put(pixels));
    let called = network.run(&marked, &[], observer)?.class;
    Ok(called.iter().filter(|k| **k == class).count() as f64 / called.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::evidence;
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::kernel::Kernels;
    use crate::nn::ModelSpec;
    use crate::ops::LossKind;
    use crate::train::{Network, Normalisation, SgdConfig, Silent, TrainConfig, Wanted, fit};

    /// A network that was trained on digits of which every ninth bears a cross and the label 3, and some the label 7 without a cross. What the images say of it is withheld.
    #[test]
    fn a_trigger_works_on_other_images_and_the_mean_digit_is_none() {
        let spec = Spec::find("digits").unwrap();
        let mut data = load(&spec, &LoadOptions::default()).unwrap().train;
        let size = data.size;
        let poison: Vec<usize> = (0..data.len()).step_by(9).collect();
        for &i in &poison {
            for (row, column) in [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)] {
                let at = (i * size * size + row * size + column) * 3;
                data.pixels[at..at + 3].fill(200);
            }
            data.labels[i] = 3;
        }
        // Wrong labels without a trigger: called by many names, too.
        (4..data.len()).step_by(18).for_each(|i| data.labels[i] = 7);
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).unwrap());
        let model = ModelSpec::new("resnet18", 8, 10, size);
        let network = Network::new(&kernels, &model, &Normalisation { mean: spec.mean, std: spec.std }, 1).unwrap();
        let sgd = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };
        let config = TrainConfig {
            stage: "train".into(),
            loss: LossKind::CrossEntropy,
            epochs: 6,
            batch: 64,
            lr: 0.03,
            sgd,
            learns: vec![],
            rho: 0.0,
            seed: 1,
        };
        fit(&kernels, &network, &data, &config, &Silent, None).unwrap();

        let mut predictor = Predictor::new(&kernels, &network, 128).unwrap();
        let said = predictor.run(&data, &[Wanted::Features], &Silent).unwrap();
        let ridge = Ridge::new(&data, &said.features, &Silent).unwrap();
        let mut evidence = evidence::find(&ridge, &data, &Silent).unwrap();
        evidence.classes.iter_mut().for_each(|class| class.seen.finding = Finding::Nothing);
        // A network that knows little of the data is not asked.
        let little: Vec<u32> = said.class.iter().enumerate().map(|(i, k)| if i % 5 < 3 { k + 1 } else { *k }).collect();
        try_all(&mut evidence, &ridge, &data, (&mut predictor, &little), &Silent).unwrap();
        assert!(evidence.classes.iter().all(|class| !class.seen.finding.accuses()));
        try_all(&mut evidence, &ridge, &data, (&mut predictor, &said.class), &Silent).unwrap();
        let accused: Vec<u32> = evidence.classes.iter().filter(|c| c.seen.finding.accuses()).map(|c| c.seen.class).collect();
        assert_eq!(accused, [3]);
        let class = &evidence.classes[3];
        let set: Vec<usize> = class.members.iter().zip(&class.set).filter(|(_, s)| **s).map(|(i, _)| *i).collect();
        let right = set.iter().filter(|i| poison.contains(i)).count();
        assert!(right == set.len() && right > 130, "{right} of {} are poison", set.len());
        assert!(class.seen.transplant.unwrap() > 0.9, "{:?}", class.seen.transplant);
        // Of images that the network calls so in any case, none was made to.
        let everything = vec![3; data.len()];
        assert_eq!(transplant(&data, 3, &set, (&mut predictor, &everything), &Silent).unwrap(), 0.0);
    }
}
