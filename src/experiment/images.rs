//! The images of an experiment: poisoned here, or by whoever made a folder of them.

use anyhow::{Result, anyhow, ensure};
use image::RgbImage;

use super::attack_plan::seed_of;
use super::surrogate::surrogate;
use super::{AttackPlan, Host, POISON, PoisonedFolder, Protocol, SURROGATE, Store};
use crate::attacks::{Aim, Attack, Blueprint, Help, PoisonOptions, Poisoned, TriggeredTest, contact_sheet, triggered_test};
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
        let aim = |plan: &AttackPlan| plan.aim(&clean.train.classes).map_err(|e| anyhow!("{}: {e}", plan.attack));
        let aims = plans.iter().map(aim).collect::<Result<Vec<Aim>>>()?;
        let numbered = plans.iter().zip(&aims).enumerate();
        let options: Vec<PoisonOptions> = numbered.map(|(k, (plan, aim))| plan.poison_options(aim, seed_of(seed, k))).collect();
        PoisonOptions::check(&options, &clean.train)?;
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
            None => poison_all(&clean.train, &built, &options)?,
        };
        let triggered = built.iter().zip(&aims).map(|(attack, aim)| triggered_test(&clean.test, attack.as_ref(), aim)).collect();
        let triggered = TriggeredTest::of_all(triggered);
        drop(built);
        let preview = Some(contact_sheet(&clean.train, &poisoned));
        let folder = PoisonedFolder { poisoned, test: clean.test, triggered };
        Ok(Images { folder, reserved, aims, preview, surrogate: surrogate.map(|s| s.network), remarks: clean.remarks })
    }
}

fn poison_all(clean: &Dataset, attacks: &[Box<dyn Attack + '_>], options: &[PoisonOptions]) -> Result<Poisoned> {
    let mut poisoned = Poisoned::by_nobody(clean);
    for (attack, options) in attacks.iter().zip(options) {
        poisoned = poisoned.and(clean, attack.as_ref(), options)?;
    }
    Ok(poisoned)
}
