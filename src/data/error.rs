use std::path::PathBuf;

/// What can be wrong with a dataset. Each message names the thing, the numbers and the next step, and holds its cause.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum DataError {
    #[error("unknown dataset `{name}`; known are {known}")]
    UnknownDataset { name: String, known: String },

    #[error("the description of dataset `{name}` cannot be read: {cause}")]
    Spec { name: String, cause: Box<toml::de::Error> },

    #[error("image size {size} is outside 1..={max} pixels: choose another --image-size")]
    ImageSize { size: usize, max: usize },

    #[error("--limit-per-class 0 leaves no training image: give at least 1, or leave it out for all")]
    NoImagesKept,

    #[error(
        "{images} images of {size}x{size} pixels need {gib:.1} GiB of memory, more than there is: try a smaller --image-size or --limit-per-class"
    )]
    Memory { images: usize, size: usize, gib: f64 },

    #[error("{dataset} is read from disk: give its folder with --data DIR ({wanted})")]
    NeedsDir { dataset: String, wanted: String },

    #[error("{dataset} is built in and reads nothing from {}: drop --data, or choose --dataset folder", dir.display())]
    TakesNoDir { dataset: String, dir: PathBuf },

    #[error("{} does not hold {dataset}: looked for {wanted}", dir.display())]
    NoLayout { dataset: String, dir: PathBuf, wanted: String },

    #[error("{} is missing: expected a file of {expected} bytes", path.display())]
    MissingFile { path: PathBuf, expected: u64 },

    #[error("{} has the wrong size: expected {expected} bytes, found {found}; fetch it again", path.display())]
    FileSize { path: PathBuf, expected: u64, found: u64 },

    #[error("{}: record {record} has label {label}, but labels go from 0 to {}; fetch the file again", path.display(), classes - 1)]
    Label { path: PathBuf, record: usize, label: u8, classes: usize },

    #[error("cannot read {}: {cause}", path.display())]
    Io { path: PathBuf, cause: std::io::Error },

    #[error("cannot read the image {}: {why}; repair or remove it, or leave it out with --skip-unreadable", path.display())]
    Image { path: PathBuf, why: String },

    #[error("{first} ({} of {of} images cannot be read; `dau data verify` names all)", others + 1)]
    Unreadable { first: Box<DataError>, others: usize, of: usize },

    #[error("no image of class `{class}` below {} can be read: repair some or remove the class; the first: {first}", dir.display())]
    NothingReadable { dir: PathBuf, class: String, first: String },

    #[error("{} is not the published file: its {kind} is {found}, not {expected}", path.display())]
    Checksum { path: PathBuf, kind: &'static str, expected: String, found: String },

    #[error("{}, line {line}: {why}; fetch it again", path.display())]
    List { path: PathBuf, line: usize, why: String },

    #[error("{} is no batch of CIFAR's for Python: {why}; fetch it again", path.display())]
    Batch { path: PathBuf, why: String },

    #[error("the built-in {file} is damaged: {why}; run its make.py and build again")]
    Embedded { file: &'static str, why: String },

    #[error("{} has images but no {missing}/ folder beside it: add one, or put the class folders straight into DIR", present.display())]
    HalfSplit { present: PathBuf, missing: &'static str },

    #[error("{} holds {found} class folder(s), a classifier needs at least 2", dir.display())]
    TooFewClasses { dir: PathBuf, found: usize },

    #[error("{} holds {found} class folders, {dataset} has {expected} classes", dir.display())]
    ClassCount { dir: PathBuf, found: usize, dataset: String, expected: usize },

    #[error("a class of {} is called `{class}`: each needs a name of its own that can be a folder's, without / or \\; rename it", dir.display())]
    ClassName { dir: PathBuf, class: String },

    #[error("{} holds no image that can be read ({extensions}): add some, convert those of other formats (HEIC, AVIF and the like), or remove the folder", path.display())]
    EmptyClass { path: PathBuf, extensions: String },

    #[error("{} and its {other}/ differ: class folder `{class}` is only in one of them", dir.display())]
    ClassesDiffer { dir: PathBuf, other: &'static str, class: String },

    #[error("{} holds one image, too few to set some aside for testing: add one, or give train/ and test/ folders", path.display())]
    TooFewToSplit { path: PathBuf },
}

impl DataError {
    /// What is wrong, without what to do about it where that has been done.
    pub(super) fn left_out(&self) -> String {
        match self {
            DataError::Image { path, why } => format!("cannot read the image {}: {why}", path.display()),
            other => other.to_string(),
        }
    }
}
