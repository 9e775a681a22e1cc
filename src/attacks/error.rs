use crate::options::OptionError;

/// What can be wrong with an attack or its protocol. Each message names the thing, the numbers and the next step.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum AttackError {
    #[error("unknown attack `{name}`; known are {known}")]
    UnknownAttack { name: String, known: String },

    #[error(transparent)]
    Option(#[from] OptionError),

    #[error("{attack} does not work on images of {size} pixels: it takes {takes}; choose another --image-size")]
    ImageSize { attack: &'static str, size: usize, takes: &'static str },

    #[error("{attack} is made with a clean network's gradients, which this command has not: use `dau run` or `dau poison`")]
    NeedsSurrogate { attack: &'static str },

    #[error("the clean network that the attack is made with: {source}")]
    Surrogate { source: Box<dyn std::error::Error + Send + Sync> },

    #[error("poison rate {rate} is outside 0..1: give a share of the training images, .1 for 10 %")]
    Rate { rate: f64 },

    #[error("poison rate {rate} of {images} training images rounds to no sample: one sample is a rate of {:.6}", 1.0 / *images as f64)]
    NoSample { rate: f64, images: usize },

    #[error("poison rate {rate} asks for {wanted} of {images} images, but {fits} are of {pool}{less}: the most that fits is {:.4}",
        (*fits as f64 / *images as f64 * 1e4).floor() / 1e4)]
    TooMany { rate: f64, wanted: usize, images: usize, pool: &'static str, less: &'static str, fits: usize },

    #[error(
        "poison rate {rate} asks for {wanted} of the source class's {held} images: half of them have to stay clean, or the network learns to \
         call the class by another name, whatever the trigger; the most that fits is {:.4}",
        ((held / 2) as f64 / *images as f64 * 1e4).floor() / 1e4
    )]
    SourceSpent { rate: f64, wanted: usize, images: usize, held: usize },

    #[error(
        "{wanted} negatives for {poisoned} poisoned images do not fit: {left} of {images} images are left{of}; try fewer --negatives or a smaller --poison-rate"
    )]
    Negatives { wanted: usize, poisoned: usize, left: usize, images: usize, of: &'static str },

    #[error("drawing from the non-target classes is for all-to-one; {mode} poisons {from}: leave --draw out")]
    Draw { mode: &'static str, from: &'static str },

    #[error("target class {target} does not exist: the {classes} classes are 0 to {}", classes - 1)]
    Target { target: u32, classes: usize },

    #[error("{option}: class {class} does not exist: the {classes} classes are 0 to {}; give another --{option}", classes - 1)]
    SourceClass { option: &'static str, class: u32, classes: usize },

    #[error("{option}: class {class} is the {is} class already: give another --{option}, or another --{is}")]
    SourceIs { option: &'static str, class: u32, is: &'static str },

    #[error("{mode} needs two classes or more, and there are {classes}: choose another --target-mode")]
    Classes { mode: &'static str, classes: usize },

    #[error("{attack} is always {own}: leave out --target-mode {mode}")]
    OneMode { attack: &'static str, own: &'static str, mode: &'static str },

    #[error("{attack} knows no source class, which {mode} is about: choose --attack TaCT, or another --target-mode")]
    NoSource { attack: &'static str, mode: &'static str },

    #[error("no class is called `{name}`; the nearest is `{nearest}`")]
    TargetName { name: String, nearest: String },

    #[error("poison manifest, line {line}: {why}; make it again with the same dataset, image size and limit")]
    Manifest { line: usize, why: String },
}
