//! An experiment with an attack of our own, and so with the truth: what `run`, `demo` and the subtasks do.

use std::collections::BTreeMap;

use anyhow::Result;
use image::ImageFormat;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::curve::Gauge;
use super::evaluate::{Count, ModelMetrics, TriggeredClasses, confusion, der, model_metrics, split_metrics};
use super::record::counts;
use super::{
    Asked, AttackFigures, AttackPlan, BACKDOORED, COMMIT, DEFENDED, DatasetFacts, EVIDENCE, Experiment, Figures, Host,
    INSPECTION, Images, Inspection, POISON, PREVIEW, PoisonFacts, Protocol, RESULTS, Record, SCHEMA, SEVERAL, SPLIT, SURROGATE,
    SplitFigures, Store, StoreError, Subtask, UNDEFENDED_TEST, open_for, parse_split, seconds, split_csv,
};
use crate::attacks::{Aim, Poisoned, Role, TargetMode};
use crate::data::{Dataset, Spec};
use crate::defenses::Split;
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::rng;
use crate::train::{Network, Observer};

/// Inputs that have been checked: nothing is written before these are at hand.
pub struct Simulation {
    /// What is asked.
    pub protocol: Protocol,
    /// The images, with the truth about them.
    pub images: Images,
    /// The device.
    pub kernels: Kernels,
    model: ModelSpec,
}

impl Simulation {
    /// Loads and poisons the data, opens the adapter and asks whether the batches fit. `earlier`: a run that has begun, to
    /// poison as then.
    ///
    /// # Errors
    /// All that is wrong with the input.
    pub fn prepare(protocol: Protocol, earlier: Option<&Store>, host: &Host) -> Result<Simulation> {
        let spec = Spec::find(&protocol.dataset)?;
        let images = Images::load(&protocol, &spec, earlier, host)?;
        let model = protocol.model_spec(&images.folder.test);
        let kernels = open_for(&protocol, &model, host)?;
        Ok(Simulation { protocol, images, kernels, model })
    }

    /// The training images.
    fn train(&self) -> &Dataset {
        &self.poisoned().data
    }

    fn poisoned(&self) -> &Poisoned {
        &self.images.folder.poisoned
    }

    /// What is asked, and of which images.
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn asked(&self, force: bool) -> Result<Asked> {
        let given = BTreeMap::from([("checksum of the images".to_string(), self.train().fingerprint())]);
        Ok(Asked { given, force, ..Asked::of(&self.protocol)? })
    }

    /// The backdoored network, unless `store` holds it, and what it was poisoned with.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn victim(&self, store: &Store, observer: &dyn Observer) -> Result<Network> {
        store.write(POISON, self.poisoned().manifest_csv().as_bytes())?;
        if let Some(preview) = &self.images.preview {
            let mut png = std::io::Cursor::new(Vec::new());
            preview.write_to(&mut png, ImageFormat::Png)?;
            store.write(PREVIEW, png.get_ref())?;
        }
        if let Some(surrogate) = &self.images.surrogate {
            surrogate.save(&store.path(SURROGATE))?;
        }
        self.experiment(store, &self.gauge(store, Subtask::AntiLearning, observer))?.victim(BACKDOORED)
    }

    /// Stage 1: the backdoored network and the split. What `store` holds of either is not made again.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn anti_learning(&self, store: &Store, observer: &dyn Observer) -> Result<()> {
        if store.has(self.protocol.end_of_stage_one()?) {
            return Ok(());
        }
        let victim = self.victim(store, observer)?;
        if !self.protocol.defense()?.detects() {
            return Ok(store.write_json(EVIDENCE, &Value::Null)?);
        }
        let detection = self.experiment(store, &self.gauge(store, Subtask::AntiLearning, observer))?.detect(&victim)?;
        store.write_json(EVIDENCE, &detection.evidence)?;
        let split = corrupted(detection.split, self.protocol.corrupt_split, self.protocol.seed);
        Ok(store.write(SPLIT, split_csv(&split, &self.train().labels).as_bytes())?)
    }

    fn experiment<'a>(&'a self, store: &'a Store, observer: &'a dyn Observer) -> Result<Experiment<'a>> {
        let experiment = Experiment::new(&self.protocol, &self.kernels, self.train(), store, observer)?;
        Ok(experiment.with_clean(self.images.reserved.as_ref()))
    }

    /// Observes for `observer`, and measures as it does.
    fn gauge<'a>(&'a self, store: &'a Store, part: Subtask, observer: &'a dyn Observer) -> Gauge<'a> {
        let folder = &self.images.folder;
        let (images, settings) = ((&folder.test, folder.triggered.as_ref()), (self.protocol.batch(), self.protocol.seed));
        Gauge::new(&self.kernels, images, settings, (store, part), observer)
    }

    /// What stage 1 left in `store`.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another network or data.
    pub fn stage_one(&self, store: &Store) -> Result<(Network, Split)> {
        let network = Network::load_as(&self.kernels, &store.path(BACKDOORED), &self.model)?;
        let split = match self.protocol.defense()?.detects() {
            true => parse_split(&store.read(SPLIT)?, &self.train().labels, &store.path(SPLIT))?,
            false => Split::clean(self.train().len()),
        };
        Ok((network, split))
    }

    /// Stage 2: the defended network, unless `store` holds it.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn unlearning(&self, store: &Store, (network, split): (Network, Split), observer: &dyn Observer) -> Result<()> {
        let gauge = self.gauge(store, Subtask::Unlearning, observer);
        if !store.has(DEFENDED) {
            gauge.start(&network)?;
        }
        self.experiment(store, &gauge)?.purify(&network, &split)?;
        Ok(())
    }

    /// What both stages left in `store`: the split, the backdoored and the defended network.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another network or data.
    pub fn stage_two(&self, store: &Store) -> Result<(Split, Network, Network)> {
        let (backdoored, split) = self.stage_one(store)?;
        let defended = Network::load_as(&self.kernels, &store.path(DEFENDED), &self.model)?;
        Ok((split, backdoored, defended))
    }

    /// Tests both networks and the split against the truth, unless `store` holds the figures.
    ///
    /// # Errors
    /// What stops prediction, or a disk that refuses.
    pub fn test(
        &self,
        store: &Store,
        (split, backdoored, defended): (Split, Network, Network),
        observer: &dyn Observer,
    ) -> Result<Record> {
        if store.has(RESULTS) {
            return Ok(Record::read(store)?);
        }
        let experiment = self.experiment(store, observer)?;
        let undefended = self.undefended_test(store, &experiment, &backdoored)?;
        let before = self.measured(&undefended);
        // A defense that has left the network as it was need not be tested again.
        let after = match kept_whole(store)? {
            true => self.measured(&undefended),
            false => self.measured(&self.tested(&experiment, &defended, "test defended")?),
        };
        let triggered = self.images.folder.triggered.as_ref().map(|triggered| &triggered.data);
        let looks = |images| experiment.looks([&backdoored, &defended], images, self.protocol.seed);
        let inspection = Inspection {
            classes: self.train().classes.clone(),
            confusion: [before.confused.clone(), after.confused.clone()],
            projection: experiment.projection(&backdoored, self.groups(&split), self.protocol.seed)?,
            looks: triggered.map_or(Ok(Vec::new()), looks)?,
        };
        store.write_json(INSPECTION, &inspection)?;
        let detects = self.protocol.defense()?.detects();
        let found = split_metrics(&split.flagged, &split.score, &self.poisoned().is_poison());

        let (protocol, train) = (&self.protocol, self.train());
        let mut results = Record {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            commit: COMMIT.into(),
            dataset: DatasetFacts {
                name: train.name.clone(),
                train: train.len(),
                test: self.images.folder.test.len(),
                left_out: self.images.remarks.left_out.len(),
                checksum: train.fingerprint(),
            },
            poison: self.poison_facts(),
            attacks: self.each_attack(Some(&split).filter(|_| detects), [&before, &after]),
            defense: protocol.defense.clone(),
            undefended: Figures::from(&before.metrics),
            defended: Figures::from(&after.metrics),
            split: detects.then(|| SplitFigures::from(&found)),
            implanted: None,
            der: der(&before.metrics, &after.metrics).map(|der| 100.0 * der),
            seconds: seconds(&store.read_run()?.1.stages),
            adapter: self.kernels.describe(),
            kernels: self.kernels.choices(),
            seed: protocol.seed,
            warnings: Vec::new(),
            curve: store.curve()?,
            evidence: store.read_json(EVIDENCE)?,
            config: serde_json::to_value(protocol)?,
        };
        results.judge();
        if let (true, Some(split)) = (protocol.corrupt_split > 0.0, &results.split) {
            let (flagged, images) = (split.flagged, train.len());
            let moved = swapped(protocol.corrupt_split, flagged, images - flagged);
            results.warnings.push(format!(
                "the split was made worse for measuring: {moved} of {flagged} flagged images changed places with others; its precision, recall and \
                 AUROC are those after"
            ));
        }
        store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
        Ok(results)
    }

    /// What was poisoned, by all attacks.
    fn poison_facts(&self) -> PoisonFacts {
        let (train, plans, aims) = (self.train(), self.protocol.attacks(), &self.images.aims);
        let names: Vec<&str> = plans.iter().map(|plan| plan.attack.as_str()).collect();
        let (mode, target) = (aims[0].mode, aims[0].target);
        let alike = aims.iter().all(|aim| aim.mode == mode);
        let count = self.poisoned().count(Role::Poisoned);
        PoisonFacts {
            attack: names.join(" + "),
            mode: if alike { mode.name() } else { SEVERAL }.into(),
            target,
            target_name: train.classes[target as usize].clone(),
            source_name: self.source(0).filter(|_| aims.len() == 1),
            rate: 100.0 * count as f64 / train.len() as f64,
            count,
            negatives: self.poisoned().count(Role::Negative),
            dirty_rate: self.poisoned().dirty_rate().map(|rate| 100.0 * rate),
        }
    }

    /// Of several attacks what each did; of one nothing, since the other figures say it.
    fn each_attack(&self, split: Option<&Split>, measured: [&Measured; 2]) -> Vec<AttackFigures> {
        let (plans, aims, poisoned) = (self.protocol.attacks(), &self.images.aims, self.poisoned());
        let of = |(number, (plan, aim)): (usize, (AttackPlan, &Aim))| {
            let its =
                || (0..poisoned.roles.len()).filter(|&i| poisoned.roles[i] == Role::Poisoned && poisoned.attack[i] == number);
            let recall = split.map(|split| Count::of(its().map(|i| split.flagged[i])));
            let share = |which: fn(&(Count, Count)) -> Count| {
                measured.map(|m| m.each.get(number).map(which).filter(|count| count.of > 0))
            };
            let (asr, ra) = (share(|each| each.0), share(|each| each.1));
            let named = [("recall", recall), ("asr before", asr[0]), ("asr", asr[1]), ("ra before", ra[0]), ("ra", ra[1])];
            let percent = |shares: [Option<Count>; 2]| shares.map(|share| share.map(Count::percent));
            AttackFigures {
                attack: plan.attack,
                mode: aim.mode.name().into(),
                target_name: self.train().classes[aim.target as usize].clone(),
                source_name: self.source(number),
                count: its().count(),
                recall: recall.map(Count::percent),
                asr: percent(asr),
                ra: percent(ra),
                implanted: None,
                counts: counts(named),
            }
        };
        if aims.len() == 1 { Vec::new() } else { plans.into_iter().zip(aims).enumerate().map(of).collect() }
    }

    /// Source-specific: the name of the class whose test images carry the trigger of attack `number`, where there is one.
    fn source(&self, number: usize) -> Option<String> {
        let specific = self.images.aims[number].mode == TargetMode::SourceSpecific;
        let triggered = self.images.folder.triggered.as_ref().filter(|_| specific)?;
        let labels: Vec<u32> = triggered.of(number).into_iter().map(|i| triggered.data.labels[i]).collect();
        let first = labels.first().copied().filter(|first| labels.iter().all(|label| label == first))?;
        Some(self.train().classes[first as usize].clone())
    }

    /// The training images by what they are and what the defense says of them.
    fn groups(&self, split: &Split) -> Vec<(&'static str, Vec<usize>)> {
        let (poison, targets) = (self.poisoned().is_poison(), self.targets());
        let named = |i: usize| match (poison[i], split.flagged[i]) {
            (true, true) => "poisoned and flagged",
            (true, false) => "poisoned, not flagged",
            (false, true) => "clean but flagged",
            (false, false) if targets.contains(&self.train().labels[i]) => "clean, of the target class",
            (false, false) if !targets.is_empty() => "clean, of other classes",
            (false, false) => "clean",
        };
        let names = [
            "clean",
            "clean, of other classes",
            "clean, of the target class",
            "clean but flagged",
            "poisoned, not flagged",
            "poisoned and flagged",
        ];
        names.into_iter().map(|name| (name, (0..poison.len()).filter(|&i| named(i) == name).collect())).collect()
    }

    /// The labels that triggered images are to be taken for, of the attacks that have one.
    fn targets(&self) -> Vec<u32> {
        self.images.aims.iter().filter(|aim| aim.mode.has_target()).map(|aim| aim.target).collect()
    }

    /// What the network before the defense says of the test images, unless `store` holds it: no defense changes that. What is of another network
    /// or of other images does not count.
    fn undefended_test(&self, store: &Store, experiment: &Experiment, network: &Network) -> Result<Tested> {
        let of = self.test_of(store)?;
        let kept = if store.has(UNDEFENDED_TEST) { store.read_json(UNDEFENDED_TEST).ok() } else { None };
        if let Some(tested) = kept.filter(|tested: &Tested| tested.of == of && self.fits(tested)) {
            return Ok(tested);
        }
        let tested = Tested { of, ..self.tested(experiment, network, "test undefended")? };
        store.write_json(UNDEFENDED_TEST, &tested)?;
        Ok(tested)
    }

    /// Checksums of the backdoored network and of the test images.
    fn test_of(&self, store: &Store) -> Result<String> {
        let network = bytes(store, BACKDOORED)?;
        let folder = &self.images.folder;
        let images = std::iter::once(&folder.test).chain(folder.triggered.as_ref().map(|triggered| &triggered.data));
        let images: Vec<String> = images.map(Dataset::fingerprint).collect();
        Ok(format!("{:08x}-{}", crc32fast::hash(&network), images.join("-")))
    }

    /// Whether it says a class of each test image.
    fn fits(&self, tested: &Tested) -> bool {
        let folder = &self.images.folder;
        let images = [Some(folder.test.len()), folder.triggered.as_ref().map(|triggered| triggered.data.len())];
        let classes = folder.test.classes.len() as u32;
        let mut said = tested.clean.iter().chain(tested.triggered.iter().flatten());
        [Some(tested.clean.len()), tested.triggered.as_ref().map(Vec::len)] == images && said.all(|class| *class < classes)
    }

    /// What one network says of the test images.
    fn tested(&self, experiment: &Experiment, network: &Network, stage: &str) -> Result<Tested> {
        let said = |images, part| anyhow::Ok(experiment.predict(network, images, &[], &format!("{stage} {part}/2"))?.class);
        let clean = said(&self.images.folder.test, 1)?;
        let triggered = self.images.folder.triggered.as_ref().map(|triggered| said(&triggered.data, 2)).transpose()?;
        Ok(Tested { of: String::new(), clean, triggered })
    }

    /// The figures of one network.
    fn measured(&self, tested: &Tested) -> Measured {
        let (clean, targets) = (&self.images.folder.test, self.targets());
        let confused = confusion(clean.classes.len(), &clean.labels, &tested.clean);
        let (Some(triggered), Some(class)) = (&self.images.folder.triggered, &tested.triggered) else {
            return Measured { metrics: model_metrics(&tested.clean, &clean.labels, None, &targets), confused, each: Vec::new() };
        };
        let all = TriggeredClasses { class, labels: &triggered.data.labels, goal: &triggered.goal };
        let of_one = |number: usize| {
            let its = triggered.of(number);
            let [class, labels] = [class, &triggered.data.labels].map(|all| its.iter().map(|&i| all[i]).collect::<Vec<u32>>());
            let goal: Vec<Option<u32>> = its.iter().map(|&i| triggered.goal[i]).collect();
            let one = TriggeredClasses { class: &class, labels: &labels, goal: &goal };
            (one.asr(), one.ra())
        };
        let each = (0..self.images.aims.len()).map(of_one).collect();
        Measured { metrics: model_metrics(&tested.clean, &clean.labels, Some(all), &targets), confused, each }
    }
}

/// What one network takes the test images for.
#[derive(Serialize, Deserialize)]
struct Tested {
    /// Of which network and images: [`Simulation::test_of`]; empty where nobody keeps it.
    of: String,
    /// The classes of the clean ones.
    clean: Vec<u32>,
    /// Of the triggered ones, where there are any.
    triggered: Option<Vec<u32>>,
}

/// The figures of one network.
struct Measured {
    metrics: ModelMetrics,
    /// On clean images: of each true class (a row) how many are taken for each.
    confused: Vec<Vec<usize>>,
    /// ASR and RA of each attack; empty without triggered images.
    each: Vec<(Count, Count)>,
}

/// What a file of the run holds.
fn bytes(store: &Store, file: &str) -> Result<Vec<u8>> {
    let path = store.path(file);
    Ok(std::fs::read(&path).map_err(|source| StoreError::Read { path, source })?)
}

/// Whether the defended network is the backdoored one to the bit.
fn kept_whole(store: &Store) -> Result<bool> {
    Ok(bytes(store, BACKDOORED)? == bytes(store, DEFENDED)?)
}

/// How many of the flagged change places where `share` of them is asked for.
fn swapped(share: f64, flagged: usize, others: usize) -> usize {
    ((share * flagged as f64).round() as usize).min(others)
}

/// `split` with `share` of its flagged samples changing places with others, drawn by `seed`: each takes over the other's verdict and score.
fn corrupted(mut split: Split, share: f64, seed: u64) -> Split {
    let (mut flagged, mut others): (Vec<usize>, Vec<usize>) = (0..split.flagged.len()).partition(|&i| split.flagged[i]);
    let mut draw = rng::stream(seed, "corrupt split");
    rng::shuffle(&mut draw, &mut flagged);
    rng::shuffle(&mut draw, &mut others);
    let count = swapped(share, flagged.len(), others.len());
    for (a, b) in flagged.into_iter().take(count).zip(others) {
        split.flagged.swap(a, b);
        split.score.swap(a, b);
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_flagged_changes_places() {
        let flagged: Vec<bool> = (0..50).map(|i| i % 5 == 0).collect();
        let score = (0..50).map(|i| if i % 5 == 0 { 0.9 } else { 0.01 * i as f32 }).collect();
        let split = Split { flagged, score };
        let sorted = |split: &Split| {
            let mut scores = split.score.clone();
            scores.sort_by(f32::total_cmp);
            scores
        };
        for (share, moved) in [(0.0, 0), (0.3, 3), (1.0, 10)] {
            let found = corrupted(split.clone(), share, 7);
            let left = (0..50).filter(|&i| split.flagged[i] && !found.flagged[i]).count();
            let came = (0..50).filter(|&i| !split.flagged[i] && found.flagged[i]).count();
            assert_eq!((left, came), (moved, moved), "of {share}");
            assert!((0..50).all(|i| found.flagged[i] == (found.score[i] == 0.9)), "a score goes with its verdict");
            assert_eq!(sorted(&found), sorted(&split));
        }
        assert_ne!(corrupted(split.clone(), 0.3, 8), corrupted(split.clone(), 0.3, 7));
        // More flagged than not: no more can change places than there are others.
        let most = Split { flagged: vec![true, true, true, false], score: vec![0.9, 0.8, 0.7, 0.1] };
        assert_eq!(corrupted(most, 1.0, 1).flagged.iter().filter(|f| **f).count(), 3);
    }
}
