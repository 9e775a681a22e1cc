//! Stage 2: forget the poisoned part, keep the clean one, in joint batches.

use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Split;
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::ops::LossKind;
use crate::rng;
use crate::train::{Batch, EpochRecord, Network, Observer, Part, SgdConfig, TrainError, TrainStep, cosine, stream};

/// The loss of the poisoned part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnlearnLoss {
    /// Complementary cross-entropy, -log(1 - p_y).
    #[default]
    Cce,
    /// Global gradient ascent, -CE (Li et al. 2021, ABL): for comparison.
    Gga,
}

/// Stage 2. The objective is CE(clean) + lambda x loss(poisoned), where CE weighs 1 + lambda s for a clean sample whose label a share s
/// of the poisoned samples has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnlearnConfig {
    pub steps: usize,
    /// The peak of a cosine schedule.
    pub lr: f64,
    /// 0: nothing clean is at hand, lambda x loss(poisoned) is all; batch norm then sees poisoned samples only.
    pub batch_clean: usize,
    pub batch_poison: usize,
    pub lambda: f32,
    pub loss: UnlearnLoss,
    pub sgd: SgdConfig,
    pub seed: u64,
}

/// Draws from a list in shuffled order, over and over.
struct Cycle {
    items: Vec<usize>,
    at: usize,
    rng: ChaCha8Rng,
}

impl Cycle {
    fn new(items: Vec<usize>, seed: u64, purpose: &str) -> Cycle {
        Cycle { at: items.len(), items, rng: rng::stream(seed, purpose) }
    }

    fn draw(&mut self, count: usize) -> Vec<usize> {
        (0..count)
            .map(|_| {
                if self.at == self.items.len() {
                    rng::shuffle(&mut self.rng, &mut self.items);
                    self.at = 0;
                }
                self.at += 1;
                self.items[self.at - 1]
            })
            .collect()
    }
}

/// Unlearns what `split` flags from `network` as stage 1 left it; what is flagged in doubt only is in neither part, unless all is. With
/// nothing flagged there is nothing to do.
///
/// # Errors
/// Everything flagged; a loss that is not finite; a wish to stop; the driver's.
pub fn unlearn(
    kernels: &Kernels,
    network: &Network,
    data: &Dataset,
    split: &Split,
    config: &UnlearnConfig,
    observer: &dyn Observer,
) -> Result<(), TrainError> {
    const STAGE: &str = "unlearn";
    let (flagged, clean): (Vec<usize>, Vec<usize>) = (0..data.len()).partition(|&i| split.flagged[i]);
    if flagged.is_empty() {
        return Ok(());
    }
    let sure: Vec<usize> = flagged.iter().copied().filter(|&i| !split.doubtful(i)).collect();
    let poisoned = if sure.is_empty() { flagged } else { sure };
    if clean.is_empty() && config.batch_clean > 0 {
        return Err(TrainError::Data(format!("all {} training samples are flagged: nothing clean to learn from", data.len())));
    }
    let kind = match config.loss {
        UnlearnLoss::Cce => LossKind::Complementary,
        UnlearnLoss::Gga => LossKind::GradientAscent,
    };
    let batch = config.batch_clean + config.batch_poison;
    observer.begin(STAGE, (config.steps * batch) as u64);
    let start = Instant::now();
    let mut step = TrainStep::new(kernels, network, batch, &[LossKind::CrossEntropy, kind], &config.sgd)?;
    // Forgetting says "not t" of images of every class. Where the network does not see the trigger, the least of CE + lambda CCE lies at
    // p_t = q / (1 + lambda), q the share of class t among such images: the accused class would pay. With 1 + lambda before its CE,
    // p_t = (1 + lambda) q / (1 + lambda + lambda q).
    let mut share = vec![0.0f32; data.classes.len()];
    poisoned.iter().for_each(|&i| share[data.labels[i] as usize] += 1.0 / poisoned.len() as f32);
    let kept = |label: u32| 1.0 + config.lambda * share[label as usize];
    let mut clean = Cycle::new(clean, config.seed, "unlearn clean");
    let mut poisoned = Cycle::new(poisoned, config.seed, "unlearn poisoned");
    let (mut loss_sum, mut hits) = (0.0, 0);
    let batches = (0..config.steps).map(|_| {
        let (c, p) = (clean.draw(config.batch_clean), poisoned.draw(config.batch_poison));
        let parts = [
            Part { indices: &c, weight: 1.0 / c.len().max(1) as f32 },
            Part { indices: &p, weight: config.lambda / p.len() as f32 },
        ];
        Batch::new(data, &parts).weighed(0, kept)
    });
    let submit = |index: usize, batch: &Batch| {
        let lr = cosine(config.lr, index, config.steps);
        step.run(network, batch, lr, (config.seed as u32) ^ 0x5bd1_e995 ^ index as u32)
    };
    let collect = |index: usize, batch: &Batch, parts: &[Vec<u8>]| {
        let losses: Vec<Vec<f32>> = parts[..2].iter().map(|p| bytemuck::pod_collect_to_vec(p)).collect();
        let classes: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[2]);
        let finite = |l: &[f32]| l.iter().copied().find(|x| !x.is_finite());
        let (ce, forget) = (&losses[0][..config.batch_clean], &losses[1][config.batch_clean..]);
        if let Some(value) = finite(ce).or(finite(forget)) {
            return Err(TrainError::NotFinite { stage: STAGE.into(), epoch: 1, step: index + 1, value, lr: config.lr });
        }
        let mean = |l: &[f32]| l.iter().map(|x| f64::from(*x)).sum::<f64>() / l.len().max(1) as f64;
        loss_sum += mean(ce) + f64::from(config.lambda) * mean(forget);
        hits += batch.labels.iter().zip(&classes).take(config.batch_clean).filter(|(l, c)| l == c).count();
        Ok(())
    };
    stream(kernels.gpu(), observer, batches, submit, collect)?;
    let seconds = start.elapsed().as_secs_f64();
    observer.epoch(&EpochRecord {
        stage: STAGE.into(),
        epoch: 1,
        epochs: 1,
        loss: loss_sum / config.steps.max(1) as f64,
        accuracy: 100.0 * hits as f64 / (config.steps * config.batch_clean).max(1) as f64,
        lr: config.lr,
        seconds,
        images_per_second: (config.steps * batch) as f64 / seconds,
    });
    Ok(())
}
