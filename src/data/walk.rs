//! Which images lie below a folder, and what else does: each image is found once, however links lead to it.

use super::layouts::io;
use super::names::shown;
use super::{DataError, Remarks};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::FileType;
use std::path::{Path, PathBuf};

/// The endings of images' names.
pub(super) const EXTENSIONS: [&str; 16] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "dib", "tif", "tiff", "gif", "ppm", "pgm", "pbm", "pnm", "pam"];

/// Those of images in formats that are not read.
const UNREAD: [&str; 11] = ["heic", "heif", "avif", "jxl", "jp2", "j2k", "svg", "psd", "dng", "cr2", "nef"];

/// Files that dau writes into a folder of results or of poisoned images.
const OURS: [&str; 3] = ["run.toml", "results.json", "poison.toml"];

/// So many names are given as examples.
const EXAMPLES: usize = 3;

/// Why something was passed over, in words that follow its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Passed {
    NoImage,
    /// An image, in a format that is not read.
    Unread,
    Nothing,
    Again,
    Ours,
    NoClass,
}

impl Passed {
    fn words(self) -> &'static str {
        match self {
            Passed::NoImage => "file(s) that are no images",
            Passed::Unread => "image(s) in a format that is not read: convert them to PNG or JPEG",
            Passed::Nothing => "link(s) to nothing",
            Passed::Again => "link(s) to what is read elsewhere",
            Passed::Ours => "folder(s) that dau wrote",
            Passed::NoClass => "image(s) in no class folder",
        }
    }
}

/// What lies below a folder.
pub(super) struct Walk {
    /// By name.
    pub images: Vec<PathBuf>,
    pub passed: BTreeMap<Passed, Vec<PathBuf>>,
    /// Images outside of the root, where links lead.
    outside: Vec<PathBuf>,
}

/// Something found, and where it lies when links are followed.
struct Place {
    path: PathBuf,
    real: PathBuf,
}

impl Walk {
    /// Looks below `dir`. Links that lead out of `root` are followed, and said. Names that begin with a dot are passed over.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn below(dir: &Path, root: &Path) -> Result<Walk, DataError> {
        let root = root.canonicalize().map_err(io(root))?;
        let real = dir.canonicalize().map_err(io(dir))?;
        let mut walk = Walk { images: Vec::new(), passed: BTreeMap::new(), outside: Vec::new() };
        let mut seen = HashSet::from([real.clone()]);
        let mut folders = VecDeque::from([Place { path: dir.into(), real }]);
        // Links come last, so that what they lead to is known by its own path if it has one below `dir`.
        let mut links = VecDeque::new();
        loop {
            if let Some(folder) = folders.pop_front() {
                let found = entries(&folder.path)?;
                if folder.path != dir && found.iter().any(|(path, _)| OURS.contains(&name(path).as_str())) {
                    walk.pass(Passed::Ours, folder.path);
                    continue;
                }
                for (path, kind) in found {
                    if kind.is_symlink() {
                        links.push_back(path);
                        continue;
                    }
                    let real = folder.real.join(path.file_name().unwrap_or_default());
                    walk.add(Place { path, real }, kind, &root, &mut seen, &mut folders);
                }
            } else if let Some(path) = links.pop_front() {
                let target = path.canonicalize().and_then(|real| Ok((std::fs::metadata(&real)?.file_type(), real)));
                match target {
                    Ok((kind, real)) => walk.add(Place { path, real }, kind, &root, &mut seen, &mut folders),
                    Err(_) => walk.pass(Passed::Nothing, path),
                }
            } else {
                break;
            }
        }
        walk.images.sort();
        Ok(walk)
    }

    fn add(&mut self, place: Place, kind: FileType, root: &Path, seen: &mut HashSet<PathBuf>, folders: &mut VecDeque<Place>) {
        let is_wanted = kind.is_dir() || (kind.is_file() && has_ending(&place.path, &EXTENSIONS));
        if !is_wanted {
            let why = if has_ending(&place.path, &UNREAD) { Passed::Unread } else { Passed::NoImage };
            self.pass(why, place.path);
        } else if !seen.insert(place.real.clone()) {
            self.pass(Passed::Again, place.path);
        } else if kind.is_dir() {
            folders.push_back(place);
        } else {
            if !place.real.starts_with(root) {
                self.outside.push(place.path.clone());
            }
            self.images.push(place.path);
        }
    }

    pub fn pass(&mut self, why: Passed, path: PathBuf) {
        self.passed.entry(why).or_default().push(path);
    }

    /// Whether dau wrote all there is in `folder`.
    pub fn is_ours(&self, folder: &Path) -> bool {
        self.passed.get(&Passed::Ours).is_some_and(|ours| ours.iter().any(|path| path.starts_with(folder)))
    }

    /// Says what was passed over and where links lead, in paths below `root`.
    pub fn tell(self, root: &Path, remarks: &mut Remarks) {
        let parts = self.passed.iter().map(|(why, paths)| counted(paths, why.words(), root));
        let parts = parts.collect::<Vec<_>>().join("; ");
        if !parts.is_empty() {
            remarks.notices.push(format!("left out: {parts}"));
        }
        tell_outside(&self.outside, root, remarks);
    }
}

/// Says which images lie outside of `root`.
pub(super) fn tell_outside(images: &[PathBuf], root: &Path, remarks: &mut Remarks) {
    if !images.is_empty() {
        let words = format!("image(s) that lie outside {}, where links lead", shown(&root.display().to_string()));
        remarks.notices.push(format!("read: {}", counted(images, &words, root)));
    }
}

fn counted(paths: &[PathBuf], words: &str, root: &Path) -> String {
    let below = |path: &PathBuf| shown(&path.strip_prefix(root).unwrap_or(path).display().to_string());
    let mut examples: Vec<String> = paths.iter().take(EXAMPLES).map(below).collect();
    if paths.len() > EXAMPLES {
        examples.push("...".into());
    }
    format!("{} {words} ({})", paths.len(), examples.join(", "))
}

/// What a folder holds, by name, less what is hidden; links are not followed.
pub(super) fn entries(dir: &Path) -> Result<Vec<(PathBuf, FileType)>, DataError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let entry = entry.map_err(io(dir))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            found.push((entry.path(), entry.file_type().map_err(io(dir))?));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// The folders in a folder, by name; links to folders are folders.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let is_folder = |(path, kind): &(PathBuf, FileType)| kind.is_dir() || (kind.is_symlink() && path.is_dir());
    Ok(entries(dir)?.into_iter().filter(is_folder).map(|(path, _)| path).collect())
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file's name ends with one of these, in small or capital letters.
fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    endings.contains(&extension.as_str())
}
