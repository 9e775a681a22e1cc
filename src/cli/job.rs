//! The job that `run`, `demo` and the subtasks share: checked inputs, and the three parts, each from folder to folder.

use std::path::Path;

use anyhow::{Result, anyhow};

use super::progress::Progress;
use super::settings::Settings;
use super::{Global, announce, print, print_json};
use crate::attacks::{self, Attack, Poisoned, triggered_test};
use crate::data::{self, Dataset, Spec, Splits};
use crate::defenses::dau::{Split, anti_learn, unlearn};
use crate::kernel::Kernels;
use crate::nn::ModelSpec;
use crate::report::{
    BACKDOORED, DEFENDED, DatasetFacts, Figures, POISON, PREVIEW, Part, PoisonFacts, Provenance, RESULTS, Results, RunFolder,
    SPLIT, SplitFigures, parse_split, render, seconds, split_csv,
};
use crate::train::metrics::{ModelMetrics, der, model_metrics, split_metrics};
use crate::train::{Network, Normalisation, check_batch, predict};

/// Inputs that have been checked: nothing is written before these are at hand.
pub struct Job {
    pub settings: Settings,
    clean: Splits,
    attack: Box<dyn Attack>,
    poisoned: Poisoned,
    kernels: Kernels,
    model: ModelSpec,
    norm: Normalisation,
}

impl Job {
    /// Loads and poisons the data, opens the adapter and asks whether the batches fit. `manifest`: a run's `poison.csv`, to
    /// poison as then.
    ///
    /// # Errors
    /// All that is wrong with the input.
    pub fn prepare(mut settings: Settings, manifest: Option<&str>, global: &Global) -> Result<Job> {
        let spec = Spec::find(&settings.dataset)?;
        let attack = attacks::find(&settings.attack, &settings.attack_options(), settings.image_size)?;
        settings.record(&attack.options());
        let clean = data::load(&spec, &settings.load_options())?;
        let poisoned = match manifest {
            Some(csv) => Poisoned::from_manifest(&clean.train, attack.as_ref(), csv)?,
            None => attacks::poison(&clean.train, attack.as_ref(), &settings.poison_options())?,
        };
        let model = ModelSpec {
            name: settings.model.clone(),
            width: settings.width,
            classes: clean.train.classes.len(),
            image_size: clean.train.size,
        };
        let kernels = global.open(settings.precision)?;
        check_batch(&kernels, &model, settings.batch)?;
        let (clean_part, poison_part) = (settings.unlearn_batch_clean, settings.unlearn_batch_poison);
        check_batch(&kernels, &model, clean_part + poison_part).map_err(|e| {
            anyhow!("unlearning's joint batch, --unlearn-batch-clean {clean_part} and --unlearn-batch-poison {poison_part}: {e}")
        })?;
        announce(&kernels);
        let norm = Normalisation { mean: spec.mean, std: spec.std };
        Ok(Job { settings, clean, attack, poisoned, kernels, model, norm })
    }

    /// Stage 1: the backdoored network and the split.
    ///
    /// # Errors
    /// What stops training, or a disk that refuses.
    pub fn anti_learning(&self, folder: &RunFolder) -> Result<()> {
        let mut run =
            Provenance { version: env!("CARGO_PKG_VERSION").into(), adapter: self.kernels.gpu().describe(), stages: Vec::new() };
        folder.write_run(&self.settings, &run)?;
        folder.write(POISON, self.poisoned.manifest_csv().as_bytes())?;
        folder.write(PREVIEW, &self.preview()?)?;

        let progress = Progress::of(Part::AntiLearning, folder);
        let network = Network::new(&self.kernels, &self.model, &self.norm, self.settings.seed)?;
        let config = self.settings.anti_learn_config();
        let split = anti_learn(&self.kernels, &network, &self.poisoned.data, &config, &progress)?;
        folder.write(SPLIT, split_csv(&split, &self.poisoned.data.labels).as_bytes())?;
        network.save(&folder.path(BACKDOORED))?;
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
        let split = parse_split(&folder.read(SPLIT)?, &self.poisoned.data.labels, &folder.path(SPLIT))?;
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
        unlearn(&self.kernels, &network, &self.poisoned.data, &split, &config, &progress)?;
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
        let found = split_metrics(&split.flagged, &split.score, &self.poisoned.is_poison);

        let (settings, train) = (&self.settings, &self.poisoned.data);
        let count = self.poisoned.is_poison.iter().filter(|p| **p).count();
        let mut results = Results {
            version: env!("CARGO_PKG_VERSION").into(),
            dataset: DatasetFacts { name: train.name.clone(), train: train.len(), test: self.clean.test.len() },
            poison: PoisonFacts {
                attack: self.attack.name().into(),
                target: settings.target,
                target_name: train.classes[settings.target as usize].clone(),
                rate: 100.0 * count as f64 / train.len() as f64,
                count,
                dirty_rate: 100.0 * self.poisoned.dirty_rate(),
            },
            undefended: Figures::from(&before),
            defended: Figures::from(&after),
            split: SplitFigures::from(&found),
            der: 100.0 * der(&before, &after),
            seconds: seconds(&folder.read_run()?.1.stages),
            adapter: self.kernels.gpu().describe(),
            seed: settings.seed,
            warnings: Vec::new(),
            config: serde_json::to_value(settings)?,
        };
        results.warn();
        folder.write(RESULTS, (serde_json::to_string_pretty(&results)? + "\n").as_bytes())?;
        Ok(results)
    }

    /// ACC, ASR, RA and T of one network.
    fn measure(&self, network: &Network, stage: &str, progress: &Progress) -> Result<ModelMetrics> {
        let target = self.settings.target;
        let triggered = triggered_test(&self.clean.test, self.attack.as_ref(), target).data;
        let classes = |data: &Dataset, round: u32| {
            predict(&self.kernels, network, data, self.settings.batch, progress, &format!("{stage} {round}/2")).map(|p| p.class)
        };
        let clean_class = classes(&self.clean.test, 1)?;
        let triggered_class = classes(&triggered, 2)?;
        Ok(model_metrics(&clean_class, &self.clean.test.labels, &triggered_class, &triggered.labels, target))
    }

    /// Adds a finished part's stages to `run.toml`.
    fn record(&self, folder: &RunFolder, progress: Progress) -> Result<()> {
        let stages = progress.finish()?;
        let (_, mut run) = folder.read_run()?;
        run.stages.retain(|old| stages.iter().all(|new| old.part < new.part));
        run.stages.extend(stages);
        Ok(folder.write_run(&self.settings, &run)?)
    }

    fn preview(&self) -> Result<Vec<u8>> {
        let mut png = std::io::Cursor::new(Vec::new());
        attacks::contact_sheet(&self.clean.train, &self.poisoned).write_to(&mut png, image::ImageFormat::Png)?;
        Ok(png.into_inner())
    }
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
    let but = if results.implanted() { "" } else { ", but the attack did not implant" };
    eprintln!("done{but}; files: {}", folder.display());
    Ok(())
}
