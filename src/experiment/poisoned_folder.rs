//! Poisoned images as a folder, written by `dau poison` and read by `dau run --poisoned`:
//! ```text
//! train/<given label>/*.png      the poisoned training set
//! test/<class>/*.png             clean test images
//! triggered/<class>/*.png        test images with the trigger, by their true class; of several attacks
//! triggered/<number>/<class>/*.png  those of each, from 1
//! poison.csv                     path,original_label,given_label,role: the training images that are not clean; of several attacks
//!                                a further column, attack, has the number of the one that changed an image
//! poison.toml                    how they were poisoned, as settings
//! preview.png                    clean, triggered, difference x 10
//! ```
//! Another tool's folder needs `train/`, `test/` and `poison.csv`. The latter may also be a bare list, an image a line, by its
//! path or by its index in the order of `train/` (class by class, each by file name); a role that is not given is `poisoned`.

use std::fs;
use std::path::{Path, PathBuf};

use csv::Writer;
use image::{ImageFormat, RgbImage};
use rayon::prelude::*;

use super::cell::cell;
use super::image_list::{ImageList, Places};
use super::{POISON, PREVIEW, StoreError};
use crate::attacks::{Aim, Poisoned, Role, Target, TargetMode, TriggeredTest};
use crate::data::{Dataset, LoadOptions, Remarks, Spec, Splits, is_plain, load_classes, load_parts};
use crate::files::write_atomic;

/// How the images were poisoned: settings of `dau poison`.
pub const POISON_SETTINGS: &str = "poison.toml";
pub(super) const TRAIN: &str = "train";
const TEST: &str = "test";
const TRIGGERED: &str = "triggered";
const COLUMNS: [&str; 5] = ["path", "original_label", "given_label", "role", "attack"];

/// What a folder of poisoned images holds.
pub struct PoisonedFolder {
    /// The training images, with the truth about them.
    pub poisoned: Poisoned,
    /// Clean.
    pub test: Dataset,
    /// None where the folder has no triggered test images.
    pub triggered: Option<TriggeredTest>,
}

/// Refuses a place that holds something already; writes nothing.
///
/// # Errors
/// A file, an unreadable folder, or one that is not empty.
pub fn vet_poisoned(dir: &Path) -> Result<(), StoreError> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::Read { path: dir.into(), source }),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(StoreError::NotEmpty { path: dir.into() }),
        },
    }
}

impl PoisonedFolder {
    /// Writes the folder; `settings` is the text of [`POISON_SETTINGS`]. [`POISON`] comes last: without it a folder is not whole.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write(&self, dir: &Path, settings: &str, preview: Option<&RgbImage>) -> Result<(), StoreError> {
        let train = &self.poisoned.data;
        let places = write_images(train, &dir.join(TRAIN))?;
        write_images(&self.test, &dir.join(TEST))?;
        let attacks = self.poisoned.attacks();
        if let Some(triggered) = &self.triggered {
            for number in 0..attacks {
                write_images(&triggered.data.subset(&triggered.of(number)), &triggered_place(dir, number, attacks))?;
            }
        }
        if let Some(preview) = preview {
            write_image(preview, &dir.join(PREVIEW))?;
        }
        let write = |file: &str, bytes: &[u8]| {
            let path = dir.join(file);
            write_atomic(&path, bytes).map_err(|source| StoreError::Write { path, source })
        };
        write(POISON_SETTINGS, settings.as_bytes())?;

        let mut csv = Writer::from_writer(Vec::new());
        let failed = |e: csv::Error| StoreError::Encode { path: dir.join(POISON), why: e.to_string() };
        let columns = if attacks > 1 { COLUMNS.len() } else { COLUMNS.len() - 1 };
        csv.write_record(&COLUMNS[..columns]).map_err(failed)?;
        for (i, place) in places.iter().enumerate().filter(|(i, _)| self.poisoned.roles[*i] != Role::Clean) {
            let class = |label: u32| train.classes[label as usize].as_str();
            let original = self.poisoned.original_labels.as_ref().map_or("", |labels| class(labels[i]));
            let (path, number) = (format!("{TRAIN}/{place}"), (self.poisoned.attack[i] + 1).to_string());
            let row = [&path, &*cell(original), &*cell(class(train.labels[i])), self.poisoned.roles[i].name(), &number];
            csv.write_record(&row[..columns]).map_err(failed)?;
        }
        let bytes = csv.into_inner().map_err(|e| StoreError::Encode { path: dir.join(POISON), why: e.to_string() })?;
        write(POISON, &bytes)
    }

    /// Reads a folder; `wanted` says of each attack what its trigger is to do. Beside it, that in labels, and what there is to say of
    /// its files. Source-specific: its triggered images are taken to be of the source class.
    ///
    /// # Errors
    /// Images that cannot be read, a record that names others, no poisoned image, no such target class.
    pub fn read(
        dir: &Path,
        spec: &Spec,
        opts: &LoadOptions,
        wanted: &[(TargetMode, Target)],
    ) -> Result<(PoisonedFolder, Vec<Aim>, Remarks), StoreError> {
        let Splits { train, test, mut remarks } = load_parts(spec, dir, opts)?;
        let (mut aims, mut triggered) = (Vec::new(), Vec::new());
        for (number, (mode, target)) in wanted.iter().enumerate() {
            let aim = Aim { mode: *mode, target: target.label(&train.classes)?, source: None };
            aim.check(train.classes.len())?;
            let place = triggered_place(dir, number, wanted.len());
            triggered.push(if place.is_dir() {
                let (all, more) = load_classes(spec, &place, opts, &train.classes)?;
                remarks.notices.extend(more.notices);
                let tested: Vec<usize> = (0..all.len()).filter(|&i| aim.tests(all.labels[i], all.classes.len())).collect();
                TriggeredTest::new(all.subset(&tested), &aim)
            } else {
                TriggeredTest::new(test.subset(&[]), &aim)
            });
            aims.push(aim);
        }
        let triggered = TriggeredTest::of_all(triggered).filter(|all| !all.data.is_empty());
        let path = dir.join(POISON);
        let text = fs::read_to_string(&path).map_err(|source| StoreError::Read { path: path.clone(), source })?;
        Ok((PoisonedFolder { poisoned: parse(&text, dir, train, wanted.len())?, test, triggered }, aims, remarks))
    }
}

/// Where the triggered test images of attack `number` are, from 0, of so many.
fn triggered_place(dir: &Path, number: usize, of: usize) -> PathBuf {
    let all = dir.join(TRIGGERED);
    if of > 1 { all.join((number + 1).to_string()) } else { all }
}

/// Writes every image as `<class>/<index>.png`; returns these names.
fn write_images(data: &Dataset, dir: &Path) -> Result<Vec<String>, StoreError> {
    for class in &data.classes {
        let path = dir.join(class);
        if !is_plain(class) {
            return Err(StoreError::Encode { path, why: format!("`{class}` is no name of a folder") });
        }
        // A class without images gets no folder.
        if data.labels.iter().any(|label| data.classes[*label as usize] == *class) {
            fs::create_dir_all(&path).map_err(|source| StoreError::Write { path, source })?;
        }
    }
    let side = data.size as u32;
    let name = |i: usize| format!("{}/{i:06}.png", data.classes[data.labels[i] as usize]);
    (0..data.len())
        .into_par_iter()
        .map(|i| {
            let path = dir.join(name(i));
            let wrong = || StoreError::Encode { path: path.clone(), why: "its pixels do not fill a square".into() };
            let image = RgbImage::from_raw(side, side, data.image(i).to_vec()).ok_or_else(wrong)?;
            write_image(&image, &path)?;
            Ok(name(i))
        })
        .collect()
}

fn write_image(image: &RgbImage, path: &Path) -> Result<(), StoreError> {
    image.save_with_format(path, ImageFormat::Png).map_err(|e| StoreError::Encode { path: path.into(), why: e.to_string() })
}

/// The training images with the roles and, if all are given, the labels before, which `text` says; of several `attacks` also whose each is.
fn parse(text: &str, dir: &Path, train: Dataset, attacks: usize) -> Result<Poisoned, StoreError> {
    let path = dir.join(POISON);
    let damaged = |line: usize, why: String| StoreError::List { path: path.clone(), line, why };
    let places = Places::of(dir, &train);
    // With a heading the columns may be in any order; without one the first is the path or the index.
    let list = ImageList::read(text, &path, &["path", "index"])?;
    let [original, given, role, attack] = ["original_label", "given_label", "role", "attack"].map(|name| list.column(name));
    let class = |name: &str| train.classes.iter().position(|class| class == name).map(|label| label as u32);

    let mut roles = vec![Role::Clean; train.len()];
    let mut before = Some(train.labels.clone());
    let mut whose = vec![0; train.len()];
    for entry in list.lines() {
        let (line, place, cell) = (entry.number, entry.name(), |column| entry.cell(column));
        let index = places.find(&entry);
        let Some(i) = index.or_else(|| place.parse().ok().filter(|i| *i < train.len())) else {
            return Err(damaged(line, format!("`{place}` is no image of {TRAIN}/ and no index below {}", train.len())));
        };
        let given = cell(given);
        if given.is_some_and(|name| class(name) != Some(train.labels[i])) {
            let lies = &train.classes[train.labels[i] as usize];
            return Err(damaged(line, format!("{place} lies in `{lies}`, not in `{}`", given.unwrap_or_default())));
        }
        let name = cell(role).unwrap_or(Role::Poisoned.name());
        roles[i] = Role::find(name).ok_or_else(|| damaged(line, format!("`{name}` is no role: poisoned, negative or clean")))?;
        if attacks > 1 && roles[i] != Role::Clean {
            let number = cell(attack).unwrap_or_default();
            let known = number.parse().ok().filter(|number| (1..=attacks).contains(number));
            whose[i] =
                known.ok_or_else(|| damaged(line, format!("attack `{number}`: expected the number of one, 1 to {attacks}")))? - 1;
        }
        match (cell(original).map(|name| (name, class(name))), &mut before) {
            (Some((_, Some(label))), Some(before)) => before[i] = label,
            (Some((name, None)), _) => return Err(damaged(line, format!("`{name}` is no class of {TRAIN}/"))),
            (None, _) => before = None,
            (_, None) => {}
        }
    }
    if !roles.contains(&Role::Poisoned) {
        return Err(damaged(1, "no poisoned image is listed".into()));
    }
    Ok(Poisoned { data: train, roles, attack: whose, original_labels: before })
}
