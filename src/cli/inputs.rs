//! The images of a job: poisoned here, or by whoever made a folder of them.

use anyhow::Result;
use image::RgbImage;

use super::settings::Settings;
use crate::attacks::{self, Poisoned, Setting, contact_sheet, triggered_test};
use crate::data::{self, Spec};
use crate::report::PoisonedFolder;

/// The images, and what to look at where they were poisoned here.
pub struct Inputs {
    pub images: PoisonedFolder,
    pub preview: Option<RgbImage>,
}

impl Inputs {
    /// `manifest`: a run's `poison.csv`, to poison as then.
    ///
    /// # Errors
    /// All that is wrong with the data or the attack.
    pub fn load(settings: &Settings, spec: &Spec, manifest: Option<&str>) -> Result<Inputs> {
        if let Some(dir) = &settings.poisoned {
            let images = PoisonedFolder::read(dir, spec, settings.image_size, settings.target_mode, settings.target)?;
            return Ok(Inputs { images, preview: None });
        }
        let (images, preview) = Inputs::poison(settings, spec, manifest)?;
        Ok(Inputs { images, preview: Some(preview) })
    }

    /// Poisons a data set: the images, and the clean ones beside the triggered ones.
    ///
    /// # Errors
    /// As [`Inputs::load`].
    pub fn poison(settings: &Settings, spec: &Spec, manifest: Option<&str>) -> Result<(PoisonedFolder, RgbImage)> {
        let setting = Setting { size: settings.image_size, seed: settings.seed, options: &settings.options };
        let attack = attacks::find(&settings.attack)?.build(&setting)?;
        let clean = data::load(spec, &settings.load_options())?;
        let poisoned = match manifest {
            Some(csv) => Poisoned::from_manifest(&clean.train, attack.as_ref(), settings.seed, csv)?,
            None => attacks::poison(&clean.train, attack.as_ref(), &settings.poison_options())?,
        };
        let triggered = triggered_test(&clean.test, attack.as_ref(), settings.target_mode, settings.target);
        let preview = contact_sheet(&clean.train, &poisoned);
        Ok((PoisonedFolder { poisoned, test: clean.test, triggered: Some(triggered) }, preview))
    }
}
