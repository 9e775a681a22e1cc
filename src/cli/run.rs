//! `dau run`: the three parts one after the other.

use anyhow::Result;
use toml::Table;

use super::flags::Flags;
use super::job::{Job, show};
use super::layers::resolve;
use super::settings::Settings;
use super::{Global, Refuse};
use crate::experiment::{Record, Store};

pub fn run(flags: &Flags, global: &Global) -> Result<()> {
    let settings = resolve(&Table::new(), flags).refuse()?.settings;
    let out = settings.out.clone();
    show(&whole_job(settings, global)?, &out, global)
}

/// Each part takes from the folder what the one before left there, as the subtasks do.
pub(super) fn whole_job(settings: Settings, global: &Global) -> Result<Record> {
    Store::vet(&settings.out).refuse()?;
    let job = Job::prepare(settings, None, global).refuse()?;
    let folder = Store::create(&job.settings.out).refuse()?;
    job.anti_learning(&folder)?;
    job.unlearning(&folder, job.stage_one(&folder)?)?;
    job.test(&folder, job.stage_two(&folder)?)
}
