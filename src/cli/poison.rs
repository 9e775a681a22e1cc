//! `dau poison`: a poisoned data set as a folder of images, for `dau run --poisoned` and other tools.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use toml::Table;

use super::flags::{DataFlags, Flags, PoisonFlags};
use super::inputs::{announce_target, note};
use super::layers::resolve;
use super::progress::Progress;
use super::{Global, Refuse, host, print, print_json};
use crate::attacks::{Role, Target};
use crate::data::Spec;
use crate::experiment::{Images, Protocol, vet_poisoned};

/// Arguments of `dau poison`.
#[derive(Args, Clone, Debug)]
pub struct PoisonArgs {
    /// Settings as a TOML file, which may have several attacks; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    poison: PoisonFlags,
    /// Where to write train/, test/ and triggered/<class>/*.png, poison.csv, poison.toml and preview.png; new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: &PoisonArgs, global: &Global) -> Result<()> {
    let (data, poison, out) = (args.data.clone(), args.poison.clone(), Some(args.out.clone()));
    let flags = Flags { config: args.config.clone(), data, poison, out, ..Flags::default() };
    let protocol = resolve(&Table::new(), &flags).refuse()?.protocol;
    vet_poisoned(&args.out).refuse()?;
    let spec = Spec::find(&protocol.dataset).refuse()?;
    let progress = Progress::new();
    let open = |precision| global.open(precision);
    let images = Images::load(&protocol, &spec, None, &host(&open, &progress)).refuse()?;
    let Images { folder: images, aims, preview, remarks, .. } = images;
    note(&remarks, images.poisoned.data.len() + images.test.len());
    aims.iter().for_each(|aim| announce_target(aim, &images.test.classes));
    let mut protocol = Protocol { target: Target::Label(aims[0].target), ..protocol };
    for (plan, aim) in protocol.also.iter_mut().zip(&aims[1..]) {
        plan.target = Target::Label(aim.target);
    }
    let record = format!("# Made by dau {} with seed {}.\n{}", env!("CARGO_PKG_VERSION"), protocol.seed, protocol.poisoning()?);
    images.write(&args.out, &record, preview.as_ref())?;

    let (poisoned, train) = (images.poisoned.count(Role::Poisoned), images.poisoned.data.len());
    let negatives = images.poisoned.count(Role::Negative);
    let triggered = images.triggered.as_ref().map_or(0, |t| t.data.len());
    let (test, out) = (images.test.len(), args.out.display());
    if global.json {
        return print_json(&serde_json::json!({
            "out": out.to_string(), "train": train, "poisoned": poisoned, "negatives": negatives, "test": test,
            "triggered": triggered,
        }));
    }
    print(&format!(
        "{out}: {train} training images ({poisoned} poisoned, {negatives} negatives), {test} test images, {triggered} triggered\n\
         next: dau run --poisoned {out}\n"
    ))
}
