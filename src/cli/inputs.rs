//! The images of a job: poisoned here, or by whoever made a folder of them.

use anyhow::Result;
use image::RgbImage;

use super::Global;
use super::settings::Settings;
use super::surrogate::NetworkSurrogate;
use crate::attacks::{self, Help, Poisoned, Setting, contact_sheet, triggered_test};
use crate::data::{self, Spec};
use crate::report::{POISON, PoisonedFolder, RunFolder, SURROGATE};
use crate::train::Network;

/// The images, and what was made with them where they were poisoned here.
pub struct Inputs {
    pub images: PoisonedFolder,
    pub preview: Option<RgbImage>,
    /// The clean network that the attack was made with.
    pub surrogate: Option<Network>,
}

impl Inputs {
    /// `earlier`: a run that has begun, to poison as then.
    ///
    /// # Errors
    /// All that is wrong with the data or the attack.
    pub fn load(settings: &Settings, spec: &Spec, earlier: Option<&RunFolder>, global: &Global) -> Result<Inputs> {
        if let Some(dir) = &settings.poisoned {
            let images = PoisonedFolder::read(dir, spec, settings.image_size, settings.target_mode, settings.target)?;
            return Ok(Inputs { images, preview: None, surrogate: None });
        }
        let Settings { target_mode: mode, target, seed, image_size: size, .. } = *settings;
        let entry = attacks::find(&settings.attack)?;
        let clean = data::load(spec, &settings.load_options())?;
        settings.poison_options().check(&clean.train)?;
        let surrogate = if entry.needs_surrogate {
            let kept = earlier.map(|folder| folder.path(SURROGATE));
            let checkpoint = kept.as_deref().or(settings.surrogate.as_deref());
            Some(NetworkSurrogate::make(settings, spec, &clean.train, checkpoint, global)?)
        } else {
            None
        };
        let help = surrogate.as_ref().map(|surrogate| Help { surrogate, clean: &clean.train, mode, target });
        let attack = entry.build(&Setting { size, seed, options: &settings.options, help })?;
        let poisoned = match earlier {
            Some(folder) => Poisoned::from_manifest(&clean.train, attack.as_ref(), seed, &folder.read(POISON)?)?,
            None => attacks::poison(&clean.train, attack.as_ref(), &settings.poison_options())?,
        };
        let triggered = triggered_test(&clean.test, attack.as_ref(), mode, target);
        drop(attack);
        let preview = Some(contact_sheet(&clean.train, &poisoned));
        let images = PoisonedFolder { poisoned, test: clean.test, triggered: Some(triggered) };
        Ok(Inputs { images, preview, surrogate: surrogate.map(|s| s.network) })
    }
}
