//! What can be chosen about an attack or a defense. Each declares its options in its own file; flags, keys of a configuration file, help,
//! checks and defaults follow.

use serde::{Deserialize, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An option of an attack or a defense. Several may share a name if they mean the same kind of value by it.
#[derive(Debug)]
pub struct OptionSpec {
    /// The key of a configuration file; the flag, with `-` for `_`.
    pub name: &'static str,
    /// For help texts, without the default.
    pub help: &'static str,
    /// What it takes.
    pub kind: Kind,
}

/// What an option takes, and what it is unless chosen.
#[derive(Debug)]
pub enum Kind {
    /// True or false.
    Flag {
        /// Unless chosen.
        default: bool,
    },
    /// `words` say what `allowed` allows.
    Number {
        /// Unless chosen.
        default: f64,
        /// Whether a number does.
        allowed: fn(f64) -> bool,
        /// What `allowed` allows, after "give".
        words: &'static str,
    },
    /// One of some words.
    Word {
        /// Unless chosen.
        default: &'static str,
        /// All of them.
        among: &'static [&'static str],
    },
    /// Labels of classes.
    Classes {
        /// Unless chosen.
        default: &'static [u32],
    },
}

/// An option's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Number`].
    Number(f64),
    /// Of [`Kind::Word`].
    Word(String),
    /// Of [`Kind::Classes`].
    Classes(Vec<u32>),
}

/// Whole numbers are written without a point: `patch = 3`.
impl Serialize for OptionValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            OptionValue::Flag(b) => to.serialize_bool(*b),
            OptionValue::Number(x) if x.fract() == 0.0 && x.abs() < 1e15 => to.serialize_i64(*x as i64),
            OptionValue::Number(x) => to.serialize_f64(*x),
            OptionValue::Word(word) => to.serialize_str(word),
            OptionValue::Classes(labels) => labels.serialize(to),
        }
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            OptionValue::Flag(b) => b.fmt(f),
            OptionValue::Number(x) => x.fmt(f),
            OptionValue::Word(word) => word.fmt(f),
            OptionValue::Classes(labels) => labels.iter().map(u32::to_string).collect::<Vec<_>>().join(",").fmt(f),
        }
    }
}

impl OptionSpec {
    /// What it is unless chosen.
    pub fn default(&self) -> OptionValue {
        match self.kind {
            Kind::Flag { default } => OptionValue::Flag(default),
            Kind::Number { default, .. } => OptionValue::Number(default),
            Kind::Word { default, .. } => OptionValue::Word(default.into()),
            Kind::Classes { default } => OptionValue::Classes(default.into()),
        }
    }

    /// Reads a flag's value.
    ///
    /// # Errors
    /// What it is not.
    pub fn parse(&self, text: &str) -> Result<OptionValue, String> {
        match self.kind {
            Kind::Flag { .. } => text.parse().map(OptionValue::Flag).map_err(|_| "give true or false".into()),
            Kind::Number { .. } => text.parse().map(OptionValue::Number).map_err(|_| "give a number".into()),
            Kind::Word { .. } => Ok(OptionValue::Word(text.into())),
            Kind::Classes { .. } => {
                let labels: Result<Vec<u32>, _> = text.split(',').map(|label| label.trim().parse()).collect();
                labels.map(OptionValue::Classes).map_err(|_| format!("give {}", self.allowed()))
            }
        }
    }

    /// What it takes, in words.
    pub fn allowed(&self) -> String {
        match self.kind {
            Kind::Flag { .. } => "true or false".into(),
            Kind::Number { words, .. } => words.into(),
            Kind::Word { among, .. } => among.join(" or "),
            Kind::Classes { .. } => "labels of classes, each once, 5,7 for two".into(),
        }
    }

    fn allows(&self, value: &OptionValue) -> bool {
        match (&self.kind, value) {
            (Kind::Flag { .. }, OptionValue::Flag(_)) => true,
            (Kind::Number { allowed, .. }, OptionValue::Number(x)) => allowed(*x),
            (Kind::Word { among, .. }, OptionValue::Word(word)) => among.contains(&word.as_str()),
            (Kind::Classes { .. }, OptionValue::Classes(labels)) => {
                !labels.is_empty() && labels.iter().collect::<BTreeSet<_>>().len() == labels.len()
            }
            _ => false,
        }
    }
}

/// Options by name; what is not among them has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(pub BTreeMap<String, OptionValue>);

impl Options {
    /// The value in force of an option that is a number.
    pub fn number(&self, option: &OptionSpec) -> f64 {
        match self.0.get(option.name) {
            Some(OptionValue::Number(x)) => *x,
            _ => {
                if let Kind::Number { default, .. } = option.kind {
                    default
                } else {
                    0.0
                }
            }
        }
    }

    /// A number that its option allows only whole and at least 0.
    pub fn count(&self, option: &OptionSpec) -> usize {
        self.number(option) as usize
    }

    /// The value in force of an option that is true or false.
    pub fn flag(&self, option: &OptionSpec) -> bool {
        match self.0.get(option.name) {
            Some(OptionValue::Flag(b)) => *b,
            _ => matches!(option.kind, Kind::Flag { default: true }),
        }
    }

    /// The value in force of an option that is a word.
    pub fn word<'a>(&'a self, option: &OptionSpec) -> &'a str {
        match self.0.get(option.name) {
            Some(OptionValue::Word(word)) => word,
            _ => {
                if let Kind::Word { default, .. } = option.kind {
                    default
                } else {
                    ""
                }
            }
        }
    }

    /// The value in force of an option that is labels of classes.
    pub fn classes(&self, option: &OptionSpec) -> Vec<u32> {
        match (self.0.get(option.name), &option.kind) {
            (Some(OptionValue::Classes(labels)), _) => labels.clone(),
            (_, Kind::Classes { default }) => default.to_vec(),
            _ => Vec::new(),
        }
    }

    /// These options with the defaults of those of `known` that are not among them.
    ///
    /// # Errors
    /// An option that `owner` does not know, or a value that it does not allow.
    pub fn complete<'a>(
        &self,
        owner: &'static str,
        known: impl IntoIterator<Item = &'a OptionSpec> + Clone,
    ) -> Result<Options, OptionError> {
        let mut all: BTreeMap<String, OptionValue> =
            known.clone().into_iter().map(|o| (o.name.to_string(), o.default())).collect();
        for (name, value) in &self.0 {
            let Some(option) = known.clone().into_iter().find(|o| o.name == name) else {
                let names: Vec<_> = known.into_iter().map(|o| spelled(o.name)).collect();
                let known = if names.is_empty() { "it has none".into() } else { format!("it takes {}", names.join(", ")) };
                return Err(OptionError::Unknown { owner, option: spelled(name), known });
            };
            if !option.allows(value) {
                // Text in place of a number looks like one unless it is quoted, and so does a list of one.
                let value = match (value, &option.kind) {
                    (OptionValue::Classes(labels), _) => format!("{labels:?}"),
                    (OptionValue::Word(word), Kind::Flag { .. } | Kind::Number { .. } | Kind::Classes { .. }) => {
                        format!("{word:?}")
                    }
                    _ => value.to_string(),
                };
                let allowed = option.allowed();
                return Err(OptionError::Value { owner, option: spelled(option.name), value, allowed });
            }
            all.insert(name.clone(), value.clone());
        }
        Ok(Options(all))
    }
}

/// As a flag has it; a configuration file takes it so, too.
fn spelled(name: &str) -> String {
    name.replace('_', "-")
}

/// What can be wrong with options.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum OptionError {
    #[error("{owner} has no option `{option}`; {known}")]
    Unknown { owner: &'static str, option: String, known: String },

    #[error("{owner}: {option} `{value}` does not do: give {allowed}")]
    Value { owner: &'static str, option: String, value: String, allowed: String },
}

impl OptionError {
    /// Which option it is about, as a flag has it.
    pub fn option(&self) -> &str {
        match self {
            OptionError::Unknown { option, .. } | OptionError::Value { option, .. } => option,
        }
    }
}

impl<const N: usize> From<[(&str, OptionValue); N]> for Options {
    fn from(pairs: [(&str, OptionValue); N]) -> Options {
        Options(pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }
}

impl From<f64> for OptionValue {
    fn from(x: f64) -> OptionValue {
        OptionValue::Number(x)
    }
}

impl From<bool> for OptionValue {
    fn from(b: bool) -> OptionValue {
        OptionValue::Flag(b)
    }
}

impl From<&str> for OptionValue {
    fn from(word: &str) -> OptionValue {
        OptionValue::Word(word.into())
    }
}
