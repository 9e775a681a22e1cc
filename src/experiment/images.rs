//! The images of an experiment: poisoned here, or by whoever made a folder of them.

use anyhow::{Result, ensure};
use image::RgbImage;

use super::surrogate::surrogate;
use super::{Host, POISON, PoisonedFolder, Protocol, SURROGATE, Store};
use crate::attacks::{self, Aim, Blueprint, Help, Poisoned, contact_sheet, triggered_test};
use crate::data::{self, Dataset, LoadOptions, Remarks, Spec};
use crate::train::Network;

/// The images, and what was made with them where they were poisoned here.
pub struct Images {
    /// Training and test images.
    pub folder: PoisonedFolder,
    /// Training images that were set aside before any was poisoned; none unless asked for.
    pub reserved: Option<Dataset>,
    /// What the trigger is to do.
    pub aim: Aim,
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
            let (folder, aim, remarks) = PoisonedFolder::read(dir, spec, &options, protocol.target_mode, &protocol.target)?;
            ensure!(
                protocol.reserve() == 0.0 && !protocol.defense()?.needs_clean(),
                "{} needs images that are surely clean, and of images which are poisoned already none can be set aside: let `dau run` poison \
                 them, or leave out --reserve",
                protocol.defense
            );
            return Ok(Images { folder, reserved: None, aim, preview: None, surrogate: None, remarks });
        }
        let Protocol { seed, image_size: size, .. } = *protocol;
        let entry = attacks::find(&protocol.attack)?;
        let mut clean = data::load(spec, &load_options)?;
        let share = protocol.reserve();
        let reserved = (share > 0.0).then(|| {
            let (rest, reserved) = clean.train.set_aside(share, seed);
            clean.train = rest;
            reserved
        });
        let chosen = protocol.attack_options();
        let aim = entry.aim(protocol.target_mode, protocol.target.label(&clean.train.classes)?, &chosen)?;
        let options = protocol.poison_options(&aim);
        options.check(&clean.train)?;
        let surrogate = if entry.needs_surrogate {
            let kept = earlier.map(|store| store.path(SURROGATE));
            let checkpoint = kept.as_deref().or(protocol.surrogate.as_deref());
            Some(surrogate(protocol, &clean.train, checkpoint, host)?)
        } else {
            None
        };
        let help = surrogate.as_ref().map(|surrogate| Help { surrogate, clean: &clean.train, aim: &aim });
        let attack = entry.build(&Blueprint { size, seed, options: &chosen, help })?;
        let poisoned = match earlier {
            Some(store) => Poisoned::from_manifest(&clean.train, attack.as_ref(), seed, &store.read(POISON)?)?,
            None => attacks::poison(&clean.train, attack.as_ref(), &options)?,
        };
        let triggered = triggered_test(&clean.test, attack.as_ref(), &aim);
        drop(attack);
        let preview = Some(contact_sheet(&clean.train, &poisoned));
        let folder = PoisonedFolder { poisoned, test: clean.test, triggered: Some(triggered) };
        Ok(Images { folder, reserved, aim, preview, surrogate: surrogate.map(|s| s.network), remarks: clean.remarks })
    }
}
