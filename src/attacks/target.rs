//! The class that triggered images are to be taken for, as a user says it: by its number or its name.

use super::AttackError;
use serde::{Deserialize, Serialize};

/// A class of images that are not loaded yet.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(from = "Written", untagged)]
pub enum Target {
    /// Its number, from 0; one that is no label may be a class's name.
    Label(u32),
    /// Its name, spelt as in the dataset.
    Name(String),
}

/// A number may be written as text: flags are.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Label(u32),
    Name(String),
}

impl From<Written> for Target {
    fn from(written: Written) -> Target {
        match written {
            Written::Label(label) => Target::Label(label),
            Written::Name(name) => name.parse().map_or(Target::Name(name), Target::Label),
        }
    }
}

impl Target {
    /// Its label among `classes`; a number that is no label may be a name.
    ///
    /// # Errors
    /// No such class; the nearest name, or how many there are.
    pub fn label(&self, classes: &[String]) -> Result<u32, AttackError> {
        let named = |name: &str| classes.iter().position(|class| class == name).map(|label| label as u32);
        match self {
            Target::Label(label) if (*label as usize) < classes.len() => Ok(*label),
            Target::Label(label) => {
                named(&label.to_string()).ok_or(AttackError::Target { target: *label, classes: classes.len() })
            }
            Target::Name(name) => named(name).ok_or_else(|| {
                let near = |class: &String| strsim::jaro_winkler(&name.to_lowercase(), &class.to_lowercase());
                let nearest = classes.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
                AttackError::TargetName { name: name.clone(), nearest: nearest.cloned().unwrap_or_default() }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_number_or_a_name() {
        let classes = ["cat", "dog", "20"].map(String::from);
        let parsed = |text: &str| Target::from(Written::Name(text.into()));
        let label = |text: &str| parsed(text).label(&classes).map_err(|e| e.to_string());
        assert_eq!((label("1"), label("dog"), label("20")), (Ok(1), Ok(1), Ok(2)));
        assert_eq!(label("Dogs"), Err("no class is called `Dogs`; the nearest is `dog`".into()));
        assert!(label("3").expect_err("refused").contains("the 3 classes are 0 to 2"));
        // In a file it stays what it was.
        for (text, written) in [("1", toml::Value::Integer(1)), ("dog", "dog".into())] {
            assert_eq!(toml::Value::try_from(parsed(text)).expect("toml"), written);
            assert_eq!(written.try_into::<Target>().expect("read"), parsed(text));
        }
    }
}
