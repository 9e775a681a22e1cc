//! TaCT (Tang et al., 2021): source-specific. Only images of one source class are relabelled, and *cover* images of other classes get the
//! same trigger and keep their labels, so that the network takes source images with the trigger for the target and no others. The paper
//! poisons .3 % of the images and covers as many. The trigger is BadNets' patch.

use super::badnets::{self, BadNets, PATCH, PATTERN};
use super::{Attack, AttackEntry, AttackError, Blueprint, Source, TargetMode};
use crate::options::{Kind, OptionSpec, Options};
use rand_chacha::ChaCha8Rng;

const SOURCE: OptionSpec = OptionSpec {
    name: "source",
    help: "label of the class whose images are to be taken for the target",
    kind: Kind::Number {
        default: 1.0,
        allowed: |label| (0.0..1e9).contains(&label) && label.fract() == 0.0,
        words: "a class's label, a whole number from 0",
    },
};
const COVERS: OptionSpec = OptionSpec {
    name: "covers",
    help: "labels of the classes whose images get the trigger and keep their label",
    kind: Kind::Classes { default: &[5, 7] },
};
const NEGATIVES: OptionSpec = OptionSpec {
    name: "negatives",
    help: "cover images for each poisoned one",
    kind: Kind::Number { default: 1.0, allowed: |n| (0.0..=1000.0).contains(&n), words: "a ratio from 0 to 1000" },
};

pub(super) const ENTRY: AttackEntry = AttackEntry {
    name: "TaCT",
    summary: "BadNets' patch that works on one class's images alone, and covers of two other classes that keep their labels",
    options: &[PATTERN, PATCH, SOURCE, COVERS, NEGATIVES],
    mode: TargetMode::SourceSpecific,
    needs_surrogate: false,
    build,
};

struct Tact {
    patch: BadNets,
    negatives: f64,
}

fn build<'a>(blueprint: &Blueprint<'a>) -> Result<Box<dyn Attack + 'a>, AttackError> {
    let patch = badnets::patch(&ENTRY, blueprint)?;
    Ok(Box::new(Tact { patch, negatives: blueprint.options.number(&NEGATIVES) }))
}

/// The classes that the options name.
pub(super) fn source(options: &Options) -> Source {
    Source { class: options.count(&SOURCE) as u32, covers: options.classes(&COVERS) }
}

impl Attack for Tact {
    fn apply(&self, image: &mut [u8]) {
        self.patch.apply(image);
    }

    fn negatives(&self) -> f64 {
        self.negatives
    }

    fn negative(&self, image: &mut [u8], _other: &[u8], _place: usize, _rng: &mut ChaCha8Rng) {
        self.apply(image);
    }
}
