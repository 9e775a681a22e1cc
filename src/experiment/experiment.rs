//! The experiment that `run`, `demo` and the subtasks share: checked inputs, and the three parts, each from store to store.

use anyhow::{Result, anyhow};
use image::ImageFormat;

use super::evaluate::{ModelMetrics, TriggeredClasses, der, model_metrics, split_metrics};
use super::{
    BACKDOORED, DEFENDED, DatasetFacts, Figures, Host, Images, POISON, PREVIEW, Part, PoisonFacts, Protocol, Provenance, RESULTS,
    Record, Recorder, SPLIT, SURROGATE, SplitFigures, Store, parse_split, seconds, split_csv,
};
use crate::attacks::{Poisoned, Role, TargetMode};
use crate::data::{Dataset, Spec};
use crate::defenses::dau::{Split, scan, unlearn};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::train::{Network, Normalisation, Observer, check_batch, fit, predict};

/// Inputs that have been checked: nothing is written before these are at hand.
pub struct Experiment {
    pub protocol: Protocol,
    pub images: Images,
    pub kernels: Kernels,
    model: ModelSpec,
    norm: Normalisation,
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
        let norm = protocol.normalisation()?;
        Ok(Experiment { protocol, images, kernels, model, norm })
    }

    /// The training images.
    fn train(&self) -> &Dataset {
        &self.poisoned().data
    }

    fn poisoned(&self) -> &Poisoned {
        &self.images.folder.poisoned
    }

    /// Stage 1: the backdoored network and the split.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn anti_learning(&self, store: &Store, observer: &dyn Observer) -> Result<()> {
        let mut run =
            Provenance { version: env!("CARGO_PKG_VERSION").into(), adapter: self.kernels.gpu().describe(), stages: Vec::new() };
        store.write_run(&self.protocol, &run)?;
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
        let network = Network::new(&self.kernels, &self.model, &self.norm, self.protocol.seed)?;
        fit(&self.kernels, &network, self.train(), &self.protocol.train_config(), &recorder, None)?;
        network.save(&store.path(BACKDOORED))?;
        let split = scan(&self.kernels, &network, self.train(), &self.protocol.stage_one_config(), &recorder)?.split;
        store.write(SPLIT, split_csv(&split, &self.train().labels).as_bytes())?;
        run.stages = recorder.finish()?;
        store.write_run(&self.protocol, &run)?;
        Ok(())
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

    /// Stage 2: the defended network.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn unlearning(&self, store: &Store, (network, split): (Network, Split), observer: &dyn Observer) -> Result<()> {
        store.begin(Part::Unlearning)?;
        let recorder = Recorder::new(Part::Unlearning, store, observer);
        let config = self.protocol.unlearn_config();
        unlearn(&self.kernels, &network, self.train(), &split, &config, &recorder, None)?;
        network.save(&store.path(DEFENDED))?;
        self.record(store, recorder)
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

    /// Tests both networks and the split against the truth.
    ///
    /// # Errors
    /// What stops prediction, or a disk that refuses.
    pub fn test(
        &self,
        store: &Store,
        (split, backdoored, defended): (Split, Network, Network),
        observer: &dyn Observer,
    ) -> Result<Record> {
        store.begin(Part::Test)?;
        let recorder = Recorder::new(Part::Test, store, observer);
        let before = self.measure(&backdoored, "test undefended", &recorder)?;
        let after = self.measure(&defended, "test defended", &recorder)?;
        self.record(store, recorder)?;
        let found = split_metrics(&split.flagged, &split.score, &self.poisoned().is_poison());

        let (protocol, train) = (&self.protocol, self.train());
        let count = self.poisoned().count(Role::Poisoned);
        let mut results = Record {
            version: env!("CARGO_PKG_VERSION").into(),
            dataset: DatasetFacts {
                name: train.name.clone(),
                train: train.len(),
                test: self.images.folder.test.len(),
                left_out: self.images.left_out.len(),
            },
            poison: PoisonFacts {
                attack: protocol.attack.clone(),
                mode: protocol.target_mode.name(),
                target: protocol.target,
                target_name: train.classes[protocol.target as usize].clone(),
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
            config: serde_json::to_value(protocol)?,
        };
        results.judge();
        store.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
        Ok(results)
    }

    /// ACC, ASR, RA and T of one network.
    fn measure(&self, network: &Network, stage: &str, observer: &dyn Observer) -> Result<ModelMetrics> {
        let target = Some(self.protocol.target).filter(|_| self.protocol.target_mode != TargetMode::AllToAll);
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

    /// Adds a finished part's stages to `run.toml`.
    fn record(&self, store: &Store, recorder: Recorder) -> Result<()> {
        let stages = recorder.finish()?;
        let (_, mut run) = store.read_run()?;
        run.stages.retain(|old| stages.iter().all(|new| old.part < new.part));
        run.stages.extend(stages);
        Ok(store.write_run(&self.protocol, &run)?)
    }
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
