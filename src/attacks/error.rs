/// What can be wrong with an attack or its protocol. Each message names the thing, the numbers and the next step.
#[derive(Debug, thiserror::Error)]
pub enum AttackError {
    #[error("unknown attack `{name}`; known are {known}")]
    UnknownAttack { name: String, known: String },

    #[error("{attack} has no option `{option}`; it takes {known}")]
    UnknownOption { attack: &'static str, option: &'static str, known: String },

    #[error("{attack}: {option} `{value}` does not do: give {allowed}")]
    OptionValue { attack: &'static str, option: &'static str, value: String, allowed: String },

    #[error("poison rate {rate} is outside 0..1: give a share of the training images, .1 for 10 %")]
    Rate { rate: f64 },

    #[error("poison rate {rate} of {images} training images rounds to no sample: one sample is a rate of {:.6}", 1.0 / *images as f64)]
    NoSample { rate: f64, images: usize },

    #[error("poison rate {rate} asks for {wanted} of {images} images, but {pool} hold {fits}: the most that fits is {:.4}",
        (*fits as f64 / *images as f64 * 1e4).floor() / 1e4)]
    TooMany { rate: f64, wanted: usize, images: usize, pool: &'static str, fits: usize },

    #[error("target class {target} does not exist: the {classes} classes are 0 to {}", classes - 1)]
    Target { target: u32, classes: usize },

    #[error("poison manifest, line {line}: {why}; make it again with the same dataset, image size and limit")]
    Manifest { line: usize, why: String },
}
