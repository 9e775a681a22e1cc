//! Flags for the attacks.

use clap::Args;
use serde::Serialize;

use super::declared_flags::{AttackOptions, DeclaredFlags};
use super::flags::{ATTACK, word};
use crate::attacks::{ATTACKS, Target, TargetMode};

/// Which trigger, and whose label it stands for.
#[derive(Args, Serialize, Clone, Debug, Default)]
#[command(next_help_heading = ATTACK)]
pub struct AttackFlags {
    #[arg(long, value_name = "NAME", help = attacks())]
    pub attack: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub options: DeclaredFlags<AttackOptions>,
    /// What triggered images are to be taken for: all-to-one (the target), all-to-all (the next class), clean-label (the
    /// target, only its own images being poisoned), source-specific (the target, images of one class alone: TaCT's), untargeted
    /// (any wrong class) or multi-target (images of the upper half of the classes for the lower) [default: the attack's]
    #[arg(long, value_name = "MODE", value_parser = word::<TargetMode>)]
    pub target_mode: Option<TargetMode>,
    /// The class that triggered images are to be taken for, its number or its name [default: 0]
    #[arg(long, value_name = "CLASS", value_parser = word::<Target>)]
    pub target: Option<Target>,
}

/// `--attack`'s help.
fn attacks() -> String {
    let each: Vec<String> = ATTACKS.iter().map(|attack| format!("{}: {}", attack.name, attack.summary)).collect();
    format!("{} [default: {}]", each.join("; "), ATTACKS[0].name)
}
