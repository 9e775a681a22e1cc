//! The job that `run`, `demo` and the subtasks share: checked inputs, and the three parts, each from folder to folder.

use std::path::Path;

use anyhow::{Result, anyhow};
use image::{ImageFormat, RgbImage};

use super::inputs::{Inputs, announce_target};
use super::progress::Progress;
use super::settings::Settings;
use super::{Global, announce, print, print_json};
use crate::attacks::{Poisoned, Role, TargetMode};
use crate::data::{Dataset, Spec};
use crate::defenses::dau::{Split, scan, unlearn};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::report::{
    BACKDOORED, DEFENDED, DatasetFacts, Figures, IMPLANTED, POISON, PREVIEW, Part, PoisonFacts, PoisonedFolder, Provenance,
    RESULTS, Results, RunFolder, SPLIT, SURROGATE, SplitFigures, parse_split, render, seconds, split_csv,
};
use crate::train::metrics::{ModelMetrics, TriggeredClasses, der, model_metrics, split_metrics};
use crate::train::{Network, Normalisation, check_batch, fit, predict};

/// Inputs that have been checked: nothing is written before these are at hand.
pub struct Job {
    pub settings: Settings,
    images: PoisonedFolder,
    /// The label of the target class.
    target: u32,
    preview: Option<RgbImage>,
    /// The clean network that the attack was made with.
    surrogate: Option<Network>,
    left_out: usize,
    kernels: Kernels,
    model: ModelSpec,
    norm: Normalisation,
}

impl Job {
    /// Loads and poisons the data, opens the adapter and asks whether the batches fit. `earlier`: a run that has begun, to
    /// poison as then.
    ///
    /// # Errors
    /// All that is wrong with the input.
    pub fn prepare(settings: Settings, earlier: Option<&RunFolder>, global: &Global) -> Result<Job> {
        let spec = Spec::find(&settings.dataset)?;
        let Inputs { images, target, preview, surrogate, left_out } = Inputs::load(&settings, &spec, earlier, global)?;
        let model = settings.model_spec(&images.test);
        let kernels = open_for(&settings, &model, global)?;
        let norm = settings.normalisation()?;
        announce_target(target, settings.target_mode, &images.test.classes);
        Ok(Job { settings, images, target, preview, surrogate, left_out, kernels, model, norm })
    }

    /// The training images.
    fn train(&self) -> &Dataset {
        &self.poisoned().data
    }

    fn poisoned(&self) -> &Poisoned {
        &self.images.poisoned
    }

    /// Stage 1: the backdoored network and the split.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn anti_learning(&self, folder: &RunFolder) -> Result<()> {
        let mut run =
            Provenance { version: env!("CARGO_PKG_VERSION").into(), adapter: self.kernels.gpu().describe(), stages: Vec::new() };
        folder.write_run(&self.settings, &run)?;
        folder.write(POISON, self.poisoned().manifest_csv().as_bytes())?;
        if let Some(preview) = &self.preview {
            let mut png = std::io::Cursor::new(Vec::new());
            preview.write_to(&mut png, ImageFormat::Png)?;
            folder.write(PREVIEW, png.get_ref())?;
        }
        if let Some(surrogate) = &self.surrogate {
            surrogate.save(&folder.path(SURROGATE))?;
        }

        let progress = Progress::of(Part::AntiLearning, folder);
        let network = Network::new(&self.kernels, &self.model, &self.norm, self.settings.seed)?;
        fit(&self.kernels, &network, self.train(), &self.settings.train_config(), &progress, |_| Ok(()))?;
        network.save(&folder.path(BACKDOORED))?;
        let split = scan(&self.kernels, &network, self.train(), &self.settings.stage_one_config(), &progress)?.split;
        folder.write(SPLIT, split_csv(&split, &self.train().labels).as_bytes())?;
        run.stages = progress.finish()?;
        folder.write_run(&self.settings, &run)?;
        Ok(())
    }

    /// What stage 1 left in `folder`.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another network or data.
    pub fn stage_one(&self, folder: &RunFolder) -> Result<(Network, Split)> {
        let network = Network::load_as(&self.kernels, &folder.path(BACKDOORED), &self.model)?;
        let split = parse_split(&folder.read(SPLIT)?, &self.train().labels, &folder.path(SPLIT))?;
        Ok((network, split))
    }

    /// Stage 2: the defended network.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn unlearning(&self, folder: &RunFolder, (network, split): (Network, Split)) -> Result<()> {
        folder.begin(Part::Unlearning)?;
        let progress = Progress::of(Part::Unlearning, folder);
        let config = self.settings.unlearn_config();
        unlearn(&self.kernels, &network, self.train(), &split, &config, &progress)?;
        network.save(&folder.path(DEFENDED))?;
        self.record(folder, progress)
    }

    /// What both stages left in `folder`: the split, the backdoored and the defended network.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another network or data.
    pub fn stage_two(&self, folder: &RunFolder) -> Result<(Split, Network, Network)> {
        let (backdoored, split) = self.stage_one(folder)?;
        let defended = Network::load_as(&self.kernels, &folder.path(DEFENDED), &self.model)?;
        Ok((split, backdoored, defended))
    }

    /// Tests both networks and the split against the truth.
    ///
    /// # Errors
    /// What stops prediction, or a disk that refuses.
    pub fn test(&self, folder: &RunFolder, (split, backdoored, defended): (Split, Network, Network)) -> Result<Results> {
        folder.begin(Part::Test)?;
        let progress = Progress::of(Part::Test, folder);
        let before = self.measure(&backdoored, "test undefended", &progress)?;
        let after = self.measure(&defended, "test defended", &progress)?;
        self.record(folder, progress)?;
        let found = split_metrics(&split.flagged, &split.score, &self.poisoned().is_poison());

        let (settings, train) = (&self.settings, self.train());
        let count = self.poisoned().count(Role::Poisoned);
        let mut results = Results {
            version: env!("CARGO_PKG_VERSION").into(),
            dataset: DatasetFacts {
                name: train.name.clone(),
                train: train.len(),
                test: self.images.test.len(),
                left_out: self.left_out,
            },
            poison: PoisonFacts {
                attack: settings.attack.clone(),
                mode: settings.target_mode.name(),
                target: self.target,
                target_name: train.classes[self.target as usize].clone(),
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
            seconds: seconds(&folder.read_run()?.1.stages),
            adapter: self.kernels.gpu().describe(),
            seed: settings.seed,
            warnings: Vec::new(),
            config: serde_json::to_value(settings)?,
        };
        results.judge();
        folder.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
        Ok(results)
    }

    /// ACC, ASR, RA and T of one network.
    fn measure(&self, network: &Network, stage: &str, progress: &Progress) -> Result<ModelMetrics> {
        let target = Some(self.target).filter(|_| self.settings.target_mode != TargetMode::AllToAll);
        let clean = &self.images.test;
        let classes = |data: &Dataset, round: u32| {
            predict(&self.kernels, network, data, self.settings.batch, progress, &format!("{stage} {round}/2")).map(|p| p.class)
        };
        let clean_class = classes(clean, 1)?;
        let Some(triggered) = &self.images.triggered else {
            return Ok(model_metrics(&clean_class, &clean.labels, None, target));
        };
        let triggered_class = classes(&triggered.data, 2)?;
        let triggered = TriggeredClasses { class: &triggered_class, labels: &triggered.data.labels, goal: &triggered.goal };
        Ok(model_metrics(&clean_class, &clean.labels, Some(triggered), target))
    }

    /// Adds a finished part's stages to `run.toml`.
    fn record(&self, folder: &RunFolder, progress: Progress) -> Result<()> {
        let stages = progress.finish()?;
        let (_, mut run) = folder.read_run()?;
        run.stages.retain(|old| stages.iter().all(|new| old.part < new.part));
        run.stages.extend(stages);
        Ok(folder.write_run(&self.settings, &run)?)
    }
}

/// Opens the adapter for a job and asks whether the batches of both stages fit.
///
/// # Errors
/// No such adapter; a batch over its limits.
pub(super) fn open_for(settings: &Settings, model: &ModelSpec, global: &Global) -> Result<Kernels> {
    let kernels = global.open(settings.precision)?;
    check_batch(&kernels, model, settings.batch)?;
    let (clean_part, poison_part) = (settings.unlearn_batch_clean, settings.unlearn_batch_poison);
    check_batch(&kernels, model, settings.unlearn_config().batch()).map_err(|e| {
        anyhow!("unlearning's joint batch, --unlearn-batch-clean {clean_part} and --unlearn-batch-poison {poison_part}: {e}")
    })?;
    announce(&kernels);
    Ok(kernels)
}

/// Shows a job's figures: JSON on stdout and nothing else there, or the table; the outcome in a word on stderr.
///
/// # Errors
/// A stdout that refuses.
pub fn show(results: &Results, folder: &Path, global: &Global) -> Result<()> {
    if global.json {
        eprint!("{}", render(results));
        print_json(results)?;
    } else {
        print(&render(results))?;
    }
    let but = match (results.implanted, results.undefended.asr) {
        (Some(false), Some(asr)) => format!(", but the attack did not implant (undefended ASR {asr:.2} %, below {IMPLANTED} %)"),
        (None, _) => ", without triggered test images: whether the attack implanted is not known".into(),
        _ => String::new(),
    };
    eprintln!("done{but}; files: {}", folder.display());
    Ok(())
}
