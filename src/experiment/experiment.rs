//! The experiment that `run`, `demo` and the subtasks share: checked inputs, and the three parts, each from store to store.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use image::ImageFormat;

use super::evaluate::{ModelMetrics, TriggeredClasses, der, model_metrics, split_metrics};
use super::{
    Asked, BACKDOORED, DEFENDED, DatasetFacts, FINDINGS, Figures, Host, Images, POISON, PREVIEW, Part, PoisonFacts, Protocol,
    RESULTS, Record, Recorder, SPLIT, SURROGATE, SplitFigures, Store, TRAINING, UNLEARNING, parse_split, seconds, split_csv,
};
use crate::attacks::{Poisoned, Role, TargetMode};
use crate::data::{Dataset, Spec};
use crate::defenses::dau::{Findings, Split, UnlearnConfig, scan, unlearn};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::train::{Network, Observer, check_batch, fit, predict};

/// Inputs that have been checked: nothing is written before these are at hand.
pub struct Experiment {
    pub protocol: Protocol,
    pub images: Images,
    pub kernels: Kernels,
    model: ModelSpec,
}

impl Experiment {
    /// Loads and poisons the data, opens the adapter and asks whether the batches fit. `earlier`: a run that has begun, to
    /// poison as then.
    ///
    /// # Errors
    /// All that is wrong with the input.
    pub fn prepare(protocol: Protocol, earlier: Option<&Store>, host: &Host) -> Result<Experiment> {
        let spec = Spec::find(&protocol.dataset)?;
        let images = Images::load(&protocol, &spec, earlier, host)?;
        let model = protocol.model_spec(&images.folder.test);
        let kernels = open_for(&protocol, &model, host)?;
        Ok(Experiment { protocol, images, kernels, model })
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

    /// Stage 1: the backdoored network and the split. What `store` holds of either is not made again.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn anti_learning(&self, store: &Store, observer: &dyn Observer) -> Result<()> {
        if store.has(SPLIT) {
            return Ok(());
        }
        store.write(POISON, self.poisoned().manifest_csv().as_bytes())?;
        if let Some(preview) = &self.images.preview {
            let mut png = std::io::Cursor::new(Vec::new());
            preview.write_to(&mut png, ImageFormat::Png)?;
            store.write(PREVIEW, png.get_ref())?;
        }
        if let Some(surrogate) = &self.images.surrogate {
            surrogate.save(&store.path(SURROGATE))?;
        }
        let recorder = Recorder::new(Part::AntiLearning, store, observer);
        let network = trained(&self.kernels, &self.protocol, &self.model, self.train(), store, BACKDOORED, &recorder)?;
        let findings = searched(&self.kernels, &self.protocol, &network, self.train(), store, &recorder)?;
        store.write(SPLIT, split_csv(&findings.split, &self.train().labels).as_bytes())?;
        Ok(recorder.finish()?)
    }

    /// What stage 1 left in `store`.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another network or data.
    pub fn stage_one(&self, store: &Store) -> Result<(Network, Split)> {
        let network = Network::load_as(&self.kernels, &store.path(BACKDOORED), &self.model)?;
        let split = parse_split(&store.read(SPLIT)?, &self.train().labels, &store.path(SPLIT))?;
        Ok((network, split))
    }

    /// Stage 2: the defended network, unless `store` holds it.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn unlearning(&self, store: &Store, (network, split): (Network, Split), observer: &dyn Observer) -> Result<()> {
        let recorder = Recorder::new(Part::Unlearning, store, observer);
        unlearned(&self.kernels, &self.protocol.unlearn_config(), network, self.train(), &split, store, &recorder)?;
        Ok(recorder.finish()?)
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
            return Ok(store.read_json(RESULTS)?);
        }
        let recorder = Recorder::new(Part::Test, store, observer);
        let before = self.measure(&backdoored, "test undefended", &recorder)?;
        let after = self.measure(&defended, "test defended", &recorder)?;
        recorder.finish()?;
        let found = split_metrics(&split.flagged, &split.score, &self.poisoned().is_poison());

        let (protocol, train) = (&self.protocol, self.train());
        let count = self.poisoned().count(Role::Poisoned);
        let mut results = Record {
            version: env!("CARGO_PKG_VERSION").into(),
            dataset: DatasetFacts {
                name: train.name.clone(),
                train: train.len(),
                test: self.images.folder.test.len(),
                left_out: self.images.remarks.left_out.len(),
            },
            poison: PoisonFacts {
                attack: protocol.attack.clone(),
                mode: protocol.target_mode.name().into(),
                target: self.images.target,
                target_name: train.classes[self.images.target as usize].clone(),
                rate: 100.0 * count as f64 / train.len() as f64,
                count,
                negatives: self.poisoned().count(Role::Negative),
                dirty_rate: self.poisoned().dirty_rate().map(|rate| 100.0 * rate),
            },
            undefended: Figures::from(&before),
            defended: Figures::from(&after),
            split: SplitFigures::from(&found),
            implanted: None,
            der: der(&before, &after).map(|der| 100.0 * der),
            seconds: seconds(&store.read_run()?.1.stages),
            adapter: self.kernels.gpu().describe(),
            seed: protocol.seed,
            warnings: Vec::new(),
            evidence: if store.has(FINDINGS) { store.read_json::<Findings>(FINDINGS)?.classes } else { Vec::new() },
            config: serde_json::to_value(protocol)?,
        };
        results.judge();
        store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
        Ok(results)
    }

    /// ACC, ASR, RA and T of one network.
    fn measure(&self, network: &Network, stage: &str, observer: &dyn Observer) -> Result<ModelMetrics> {
        let target = Some(self.images.target).filter(|_| self.protocol.target_mode != TargetMode::AllToAll);
        let clean = &self.images.folder.test;
        let classes = |data: &Dataset, round: u32| {
            predict(&self.kernels, network, data, self.protocol.batch, observer, &format!("{stage} {round}/2")).map(|p| p.class)
        };
        let clean_class = classes(clean, 1)?;
        let Some(triggered) = &self.images.folder.triggered else {
            return Ok(model_metrics(&clean_class, &clean.labels, None, target));
        };
        let triggered_class = classes(&triggered.data, 2)?;
        let triggered = TriggeredClasses { class: &triggered_class, labels: &triggered.data.labels, goal: &triggered.goal };
        Ok(model_metrics(&clean_class, &clean.labels, Some(triggered), target))
    }
}

/// A network trained on `data`, from the store's `file` if it is there; else it goes there, once trained.
///
/// # Errors
/// What stops training, or a disk that refuses.
pub fn trained(
    kernels: &Kernels,
    protocol: &Protocol,
    model: &ModelSpec,
    data: &Dataset,
    store: &Store,
    file: &str,
    observer: &dyn Observer,
) -> Result<Network> {
    let path = store.path(file);
    let network = if path.is_file() {
        Network::load_as(kernels, &path, model)?
    } else {
        let network = Network::new(kernels, model, &protocol.normalisation()?, protocol.seed)?;
        fit(kernels, &network, data, &protocol.train_config(), observer, Some(&store.path(TRAINING)))?;
        network.save(&path)?;
        network
    };
    store.remove(TRAINING)?;
    Ok(network)
}

/// What stage 1 finds in `data` with the network that was trained on it, or what the store says that it found.
///
/// # Errors
/// What stops the search, or a disk that refuses.
pub fn searched(
    kernels: &Kernels,
    protocol: &Protocol,
    network: &Network,
    data: &Dataset,
    store: &Store,
    observer: &dyn Observer,
) -> Result<Findings> {
    if store.has(FINDINGS) {
        return Ok(store.read_json(FINDINGS)?);
    }
    let findings = scan(kernels, network, data, &protocol.stage_one_config(), observer)?;
    store.write_json(FINDINGS, &findings)?;
    Ok(findings)
}

/// The defended network, from the store if it is there; else `network` unlearns what `split` flags and goes there.
///
/// # Errors
/// What stops unlearning, or a disk that refuses.
pub fn unlearned(
    kernels: &Kernels,
    config: &UnlearnConfig,
    network: Network,
    data: &Dataset,
    split: &Split,
    store: &Store,
    observer: &dyn Observer,
) -> Result<Network> {
    let path = store.path(DEFENDED);
    let network = if path.is_file() {
        Network::load_as(kernels, &path, &network.spec)?
    } else {
        unlearn(kernels, &network, data, split, config, observer, Some(&store.path(UNLEARNING)))?;
        network.save(&path)?;
        network
    };
    store.remove(UNLEARNING)?;
    Ok(network)
}

/// Opens the adapter for a job and asks whether the batches of both stages fit.
///
/// # Errors
/// No such adapter; a batch over its limits.
pub fn open_for(protocol: &Protocol, model: &ModelSpec, host: &Host) -> Result<Kernels> {
    let kernels = (host.open)(protocol.precision)?;
    check_batch(&kernels, model, protocol.batch)?;
    let (clean_part, poison_part) = (protocol.unlearn_batch_clean, protocol.unlearn_batch_poison);
    check_batch(&kernels, model, protocol.unlearn_config().batch()).map_err(|e| {
        anyhow!("unlearning's joint batch, --unlearn-batch-clean {clean_part} and --unlearn-batch-poison {poison_part}: {e}")
    })?;
    Ok(kernels)
}
