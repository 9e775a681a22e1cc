//! The steps themselves: joint batches through one plan.

use std::ops::Range;

use super::parts::Cycle;
use super::trigger::Trigger;
use super::{RESTORE, STAGE, UnlearnConfig, UnlearnLoss};
use crate::data::Dataset;
use crate::kernel::Kernels;
use crate::ops::LossKind;
use crate::train::{Batch, Network, Observer, Part, TrainError, TrainStep, cosine, stream};

/// The state between one run of steps and the next.
pub(super) struct Steps<'a> {
    config: &'a UnlearnConfig,
    network: &'a Network,
    step: TrainStep,
    /// Weight of a clean sample's CE, by its label.
    kept: Vec<f32>,
    trigger: Option<Trigger>,
    clean: Cycle,
    poisoned: Cycle,
    /// Clean images that get the trigger.
    restored: Cycle,
}

impl<'a> Steps<'a> {
    /// # Errors
    /// A batch over the adapter's limits.
    pub(super) fn new(
        kernels: &Kernels,
        network: &'a Network,
        config: &'a UnlearnConfig,
        kept: Vec<f32>,
        trigger: Option<Trigger>,
        [clean, poisoned]: [Vec<usize>; 2],
    ) -> Result<Steps<'a>, TrainError> {
        let forget = match config.loss {
            UnlearnLoss::Cce => LossKind::Complementary,
            UnlearnLoss::Gga => LossKind::GradientAscent,
        };
        let losses = [LossKind::CrossEntropy, forget, LossKind::CrossEntropy];
        let (losses, batch) = match trigger {
            Some(_) => (&losses[..], config.batch()),
            None => (&losses[..2], config.batch_clean + config.batch_poison),
        };
        let step = TrainStep::new(kernels, network, batch, losses, &config.sgd)?;
        let restored = if trigger.is_some() { clean.clone() } else { Vec::new() };
        Ok(Steps {
            config,
            network,
            step,
            kept,
            trigger,
            clean: Cycle::new(clean, config.seed, "unlearn clean"),
            poisoned: Cycle::new(poisoned, config.seed, "unlearn poisoned"),
            restored: Cycle::new(restored, config.seed, "unlearn triggered"),
        })
    }

    /// Takes the steps `range` of the schedule. Returns the mean of the objective and the percentage of clean samples that got their label.
    ///
    /// # Errors
    /// A loss that is not finite; a wish to stop; the driver's.
    pub(super) fn run(
        &mut self,
        kernels: &Kernels,
        data: &Dataset,
        range: Range<usize>,
        observer: &dyn Observer,
    ) -> Result<(f64, f64), TrainError> {
        let Steps { config, network, step, kept, trigger, clean, poisoned, restored } = self;
        let (config, network) = (*config, *network);
        let (kept, trigger) = (&*kept, trigger.as_ref());
        let count = range.len();
        let batches = range.clone().map(|_| {
            let drawn = [clean.draw(config.batch_clean), poisoned.draw(config.batch_poison), restored.draw(config.batch_poison)];
            joint(data, &drawn, config.lambda, kept, trigger)
        });
        let submit = |index: usize, batch: &Batch| {
            let at = range.start + index;
            step.run(network, batch, cosine(config.lr, at, config.steps), (config.seed as u32) ^ 0x5bd1_e995 ^ at as u32)
        };
        // Where each part ends.
        let ends = [config.batch_clean, config.batch_clean + config.batch_poison, usize::MAX];
        let (mut sum, mut hits) = (0.0, 0);
        let collect = |index: usize, batch: &Batch, parts: &[Vec<u8>]| {
            let mut first = 0;
            for (part, (weight, end)) in parts.iter().zip([1.0, config.lambda, RESTORE].into_iter().zip(ends)).take(parts.len() - 1) {
                let losses: Vec<f32> = bytemuck::pod_collect_to_vec(part);
                let losses = &losses[first..end.min(batch.indices.len())];
                if let Some(&value) = losses.iter().find(|x| !x.is_finite()) {
                    let step = range.start + index + 1;
                    return Err(TrainError::NotFinite { stage: STAGE.into(), epoch: 1, step, value, lr: config.lr });
                }
                let total: f64 = losses.iter().map(|x| f64::from(*x)).sum();
                sum += f64::from(weight) * total / losses.len().max(1) as f64;
                first = end;
            }
            let classes: Vec<u32> = parts.last().map(|p| bytemuck::pod_collect_to_vec(p)).unwrap_or_default();
            hits += batch.labels.iter().zip(&classes).take(config.batch_clean).filter(|(l, c)| l == c).count();
            Ok(())
        };
        stream(kernels.gpu(), observer, batches, submit, collect)?;
        Ok((sum / count.max(1) as f64, 100.0 * hits as f64 / (count * config.batch_clean).max(1) as f64))
    }
}

/// A batch of clean samples, flagged ones, and clean ones that get the trigger.
fn joint(data: &Dataset, [clean, poisoned, restored]: &[Vec<usize>; 3], lambda: f32, kept: &[f32], trigger: Option<&Trigger>) -> Batch {
    let parts = [(clean, 1.0), (poisoned, lambda), (restored, RESTORE)]
        .map(|(indices, weight)| Part { indices, weight: weight / indices.len().max(1) as f32 });
    let used = if trigger.is_some() { 3 } else { 2 };
    let batch = Batch::new(data, &parts[..used]).weighed(0, |label| kept[label as usize]);
    match trigger {
        Some(trigger) => batch.changed(clean.len() + poisoned.len(), |image| trigger.put(image)),
        None => batch,
    }
}
