//! The images of an experiment: poisoned here, or by whoever made a folder of them.

use anyhow::{Result, anyhow, ensure};
use image::RgbImage;

use super::attack_plan::seed_of;
use super::surrogate::surrogate;
use super::{AttackPlan, Host, POISON, PoisonedFolder, Protocol, SURROGATE, Store};
use crate::attacks::{Aim, Blueprint, Help, PoisonOptions, Poisoned, TriggeredTest, contact_sheet, triggered_test};
use crate::data::{self, Dataset, LoadOptions, Remarks, Spec};
use crate::train::Network;

/// The images, and what was made with them where they were poisoned here.
pub struct Images {
    /// Training and test images.
    pub folder: PoisonedFolder,
    /// Training images that were set aside before any was poisoned; none unless asked for.
    pub reserved: Option<Dataset>,
    /// What each attack's trigger is to do.
    pub aims: Vec<Aim>,
    /// Clean, triggered and difference images, for the eye.
    pub preview: Option<RgbImage>,
    /// The clean network that the attack was made with.
    pub surrogate: Option<Network>,
    /// What was left out, and where else some of the images lie.
    pub remarks: Remarks,
}

impl Images {
    /// `earlier`: a run that has begun, to poison as then.
    ///
    /// # Errors
    /// All that is wrong with the data or the attack.
    pub fn load(protocol: &Protocol, spec: &Spec, earlier: Option<&Store>, host: &Host) -> Result<Images> {
        let load_options = protocol.load_options(host.image_cache.clone());
        if let Some(dir) = &protocol.poisoned {
            let options = LoadOptions { limit_per_class: None, skip_unreadable: false, ..load_options };
            let wanted: Vec<_> = protocol.attacks().into_iter().map(|plan| (plan.target_mode, plan.target)).collect();
            let (folder, aims, remarks) = PoisonedFolder::read(dir, spec, &options, &wanted)?;
            ensure!(
                protocol.reserve() == 0.0 && !protocol.defense()?.needs_clean(),
                "{} needs images that are surely clean, and of images which are poisoned already none can be set aside: let `dau run` poison \
                 them, or leave out --reserve",
                protocol.defense
            );
            return Ok(Images { folder, reserved: None, aims, preview: None, surrogate: None, remarks });
        }
        let Protocol { seed, image_size: size, .. } = *protocol;
        let mut clean = data::load(spec, &load_options)?;
        let share = protocol.reserve();
        let reserved = (share > 0.0).then(|| {
            let (rest, reserved) = clean.train.set_aside(share, seed);
            clean.train = rest;
            reserved
        });
        let plans = protocol.attacks();
        let aim = |(number, plan): (usize, &AttackPlan)| plan.aim(&clean.train.classes).map_err(|e| about(&plans, number, e));
        let aims = plans.iter().enumerate().map(aim).collect::<Result<Vec<Aim>>>()?;
        let numbered = plans.iter().zip(&aims).enumerate();
        let options: Vec<PoisonOptions> = numbered.map(|(k, (plan, aim))| plan.poison_options(aim, seed_of(seed, k))).collect();
        PoisonOptions::check(&options, &clean.train).map_err(|(number, e)| about(&plans, number, e.into()))?;
        let surrogate = if protocol.needs_surrogate()? {
            let kept = earlier.map(|store| store.path(SURROGATE));
            let checkpoint = kept.as_deref().or(protocol.surrogate.as_deref());
            Some(surrogate(protocol, &clean.train, checkpoint, host)?)
        } else {
            None
        };
        let mut built = Vec::new();
        for (plan, PoisonOptions { aim, seed, .. }) in plans.iter().zip(&options) {
            let help = surrogate.as_ref().map(|surrogate| Help { surrogate, clean: &clean.train, aim });
            built.push(plan.entry()?.build(&Blueprint { size, seed: *seed, options: &plan.options, help })?);
        }
        let poisoned = match earlier {
            Some(store) => {
                let made: Vec<_> = built.iter().map(Box::as_ref).zip(options.iter().map(|options| options.seed)).collect();
                Poisoned::from_manifest(&clean.train, &made, &store.read(POISON)?)?
            }
            None => {
                let mut poisoned = Poisoned::by_nobody(&clean.train);
                for (number, (attack, options)) in built.iter().zip(&options).enumerate() {
                    let added = poisoned.and(&clean.train, attack.as_ref(), options);
                    poisoned = added.map_err(|e| about(&plans, number, e.into()))?;
                }
                poisoned
            }
        };
        let triggered = built.iter().zip(&aims).map(|(attack, aim)| triggered_test(&clean.test, attack.as_ref(), aim)).collect();
        let triggered = TriggeredTest::of_all(triggered);
        drop(built);
        let preview = Some(contact_sheet(&clean.train, &poisoned));
        let folder = PoisonedFolder { poisoned, test: clean.test, triggered };
        Ok(Images { folder, reserved, aims, preview, surrogate: surrogate.map(|s| s.network), remarks: clean.remarks })
    }
}

/// `error` with the attack that it is about, where there are several; a further one is called as the configuration file calls it.
fn about(plans: &[AttackPlan], number: usize, error: anyhow::Error) -> anyhow::Error {
    match number {
        0 if plans.len() == 1 => error,
        0 => anyhow!("{}: {error}", plans[0].attack),
        further => anyhow!("[[also]] {further}, {}: {error}", plans[further].attack),
    }
}
