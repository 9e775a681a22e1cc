use super::{DataError, Layout};
use crate::options::Options;
use serde::Deserialize;

/// The datasets that `dau` knows, as (name, TOML). To add one: a file in `datasets/` and a line here.
pub static SPECS: &[(&str, &str)] = &[
    ("digits", include_str!("../../datasets/digits.toml")),
    ("CIFAR-10", include_str!("../../datasets/cifar10.toml")),
    ("CIFAR-100", include_str!("../../datasets/cifar100.toml")),
    ("GTSRB", include_str!("../../datasets/gtsrb.toml")),
    ("Tiny-ImageNet", include_str!("../../datasets/tiny_imagenet.toml")),
    ("folder", include_str!("../../datasets/folder.toml")),
];

/// What is known about a dataset before it is loaded: one TOML file in `datasets/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// As messages and results have it; users may write it in any case.
    pub name: String,
    /// Other names under which it is found.
    pub aliases: Vec<String>,
    /// How it may lie on disk; the first whose marker is there is read.
    pub layouts: Vec<&'static Layout>,
    /// Height and width in pixels to which images are resized unless the user says otherwise.
    pub image_size: usize,
    /// Number of classes; 0: as many as the folder has.
    pub classes: usize,
    /// Mean of red, green and blue, of pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, of pixels in 0..1.
    pub std: [f32; 3],
    /// Where it comes from.
    pub source: String,
    /// Under what terms.
    pub license: String,
    /// Images as published, (training, test); none: as many as the folder has.
    pub images: Option<(usize, usize)>,
    /// What `dau data fetch` fetches.
    #[serde(default)]
    pub archives: Vec<Archive>,
    /// Defaults that suit it, of training's options and of defenses'.
    #[serde(default)]
    pub options: Options,
}

/// A published file to fetch and unpack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Its name is what follows the last slash; it ends in `.tar.gz` or `.zip`.
    pub url: String,
    /// Hexadecimal. Where the publisher gives an MD5 only, there is no other.
    pub sha256: Option<String>,
    /// Hexadecimal; compared only where there is no SHA-256.
    pub md5: Option<String>,
    /// The folder to unpack it into, below the data folder.
    #[serde(default)]
    pub into: String,
}

impl Archive {
    /// The archive's own name, without the folders of its URL.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }
}

impl Spec {
    /// The dataset called `name`, or with `name` among its aliases; upper and lower case are the same.
    pub fn find(name: &str) -> Result<Spec, DataError> {
        for (own, toml) in SPECS {
            let spec: Spec =
                toml::from_str(toml).map_err(|cause| DataError::Spec { name: own.to_string(), cause: Box::new(cause) })?;
            if std::iter::once(&spec.name).chain(&spec.aliases).any(|n| n.eq_ignore_ascii_case(name)) {
                return Ok(spec);
            }
        }
        Err(DataError::UnknownDataset { name: name.into(), known: Spec::names().join(", ") })
    }

    /// The datasets' names, for help and messages.
    pub fn names() -> Vec<&'static str> {
        SPECS.iter().map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_toml_in_datasets_is_listed_and_sensible() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets");
        let files = std::fs::read_dir(folder).expect("datasets/").flatten();
        assert_eq!(files.filter(|f| f.path().extension().is_some_and(|e| e == "toml")).count(), SPECS.len());
        let mut seen = HashSet::new();
        for name in Spec::names() {
            let spec = Spec::find(name).expect("a listed dataset is found");
            assert_eq!(spec.name, name);
            for known in spec.aliases.iter().chain([&spec.name]) {
                assert!(seen.insert(known.to_lowercase()), "{known} names two datasets");
            }
            assert!(spec.image_size > 0 && !spec.layouts.is_empty() && spec.classes != 1);
            assert!(spec.std.iter().all(|s| *s > 0.0) && spec.mean.iter().all(|m| (0.0..=1.0).contains(m)));
            for archive in &spec.archives {
                let hexadecimal = |sum: &Option<String>, digits: usize| {
                    sum.as_ref().is_none_or(|sum| sum.len() == digits && sum.bytes().all(|b| b"0123456789abcdef".contains(&b)))
                };
                assert!(hexadecimal(&archive.sha256, 64) && hexadecimal(&archive.md5, 32), "{archive:?}");
                assert!(archive.sha256.is_some() || archive.md5.is_some(), "{archive:?} cannot be checked");
                assert!([".tar.gz", ".zip"].iter().any(|end| archive.file_name().ends_with(end)), "{archive:?}");
            }
        }
    }

    #[test]
    fn a_dataset_is_found_by_alias_in_any_case() {
        for name in ["CIFAR-10", "cifar-10", "Cifar10", "CIFAR"] {
            assert_eq!(Spec::find(name).expect(name).name, "CIFAR-10");
        }
    }

    #[test]
    fn an_unknown_dataset_is_answered_with_the_list() {
        let message = Spec::find("mnist").expect_err("not known").to_string();
        assert_eq!(message, "unknown dataset `mnist`; known are digits, CIFAR-10, CIFAR-100, GTSRB, Tiny-ImageNet, folder");
    }

    #[test]
    fn an_unknown_key_in_a_toml_is_refused() {
        let toml = format!("colour = 1\n{}", SPECS[0].1);
        let message = toml::from_str::<Spec>(&toml).expect_err("no such key").to_string();
        assert!(message.contains("unknown field `colour`"), "{message}");
    }
}
