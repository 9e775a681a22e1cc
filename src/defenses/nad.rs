//! Neural attention distillation (Li et al. 2021): the victim, fine-tuned on images that are surely clean, is the teacher; the victim then
//! learns from these images and from where the teacher looks.
//!
//! What the student minimises is cross-entropy + sum of beta (mean squared difference of the attention) over the last three stages of the
//! network, which are those that the authors' WRN-16-1 has; of a ResNet, stages 2 to 4. The attention at a stage's pixels is the sum of
//! squares over the channels, divided by the norm of all pixels'. The teacher is in evaluation mode.
//!
//! Betas, rate and epochs are BackdoorBench's, the rate as a cosine's peak. The authors' 20 epochs are of ten times the images, in batches of
//! 64: of few images they are few steps. The betas are meant for images of 32 pixels a side: a mean over fewer pixels is larger, and a squared
//! difference at one pixel counts the same at every size. Weight decay is the victim's, and so is the batch, in equal steps.

use super::{Defense, Given, Lab, Split, equal_steps};
use crate::options::{Kind, OptionSpec};
use crate::train::{Network, Teacher, TrainConfig, TrainError, Trainer};

/// The defense, as it is listed.
pub(super) struct AttentionDistillation;

const BETA: OptionSpec = OptionSpec {
    name: "nad_beta",
    help: "how much the teacher's attention counts at the last two stages of the network, for images of 32 pixels a side; at the stage before, half as much",
    kind: Kind::Number { default: 1000.0, allowed: |x| (0.0..1e9).contains(&x), words: "a number from 0 on" },
};
const EPOCHS: OptionSpec = epochs("nad_epochs", "epochs of the student on the clean images", 100.0);
const TEACHER_EPOCHS: OptionSpec = epochs("nad_teacher_epochs", "epochs of the teacher on the clean images", 10.0);
const LR: OptionSpec = OptionSpec {
    name: "nad_lr",
    help: "peak learning rate of teacher and student",
    kind: Kind::Number { default: 0.01, allowed: |x| x > 0.0 && x.is_finite(), words: "a number above 0" },
};

const fn epochs(name: &'static str, help: &'static str, default: f64) -> OptionSpec {
    let allowed = |x: f64| (1.0..1e9).contains(&x) && x.fract() == 0.0;
    OptionSpec { name, help, kind: Kind::Number { default, allowed, words: "a whole number of at least 1" } }
}

impl Defense for AttentionDistillation {
    fn name(&self) -> &'static str {
        "NAD"
    }

    fn summary(&self) -> &'static str {
        "neural attention distillation: fine-tunes a teacher on surely clean images, then learns where it looks"
    }

    fn purify_options(&self) -> &'static [OptionSpec] {
        &[BETA, EPOCHS, TEACHER_EPOCHS, LR]
    }

    fn needs_clean(&self) -> bool {
        true
    }

    fn purify(&self, lab: &Lab, given: &Given, _: &Split) -> Result<Network, TrainError> {
        let clean = given.clean()?;
        let config = |stage: &str, epochs: &OptionSpec| TrainConfig {
            stage: stage.into(),
            epochs: lab.options.count(epochs),
            lr: lab.options.number(&LR),
            batch: equal_steps(clean.len(), lab.training.batch),
            ..lab.training.clone()
        };
        let start = || given.victim.duplicate(lab.kernels);
        let teacher = lab.trained("nad-teacher", start, clean, &config("fine-tune a teacher", &TEACHER_EPOCHS))?;
        let student = start()?;
        let beta = lab.options.number(&BETA) as f32 * (clean.size as f32 / 32.0).powi(2);
        let teacher = Teacher { network: &teacher, betas: vec![beta / 2.0, beta, beta] };
        let config = config("distill", &EPOCHS);
        let trainer = Trainer::taught(lab.kernels, &student, clean, &config, Some(&teacher))?;
        trainer.finish(lab.observer, Some(&lab.scratch("nad-student.state.safetensors")?))?;
        Ok(student)
    }
}
