//! A value that its setting does not take, in words.

use toml::{Table, Value};

use crate::attacks::ATTACKS;
use crate::defenses::{DEFENSES, options_of};
use crate::experiment::protocol::one_line;
use crate::experiment::{Protocol, TRAINING_OPTIONS};

/// The first of `given` that its setting does not take: its name, what it is and what it should be.
pub(super) fn misfit(given: &Table, defaults: &Table) -> Option<String> {
    let alone = |(key, value): (&String, &Value)| {
        let mut all = defaults.clone();
        all.insert(key.clone(), value.clone());
        let error = all.try_into::<Protocol>().err()?;
        let default = defaults.get(key);
        if let (Value::String(_), Some(Value::String(_))) = (value, default) {
            return Some(format!("`{key}`: {}", one_line(&error.message())));
        }
        let is = match value {
            Value::String(_) => "text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number with a point",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        };
        Some(format!("`{key}` is {value}, {is}; it takes {}", taken(key, default)))
    };
    given.iter().find_map(alone)
}

/// What the setting `key` takes, in words.
fn taken(key: &str, default: Option<&Value>) -> String {
    let options = ATTACKS.iter().flat_map(|entry| entry.options).chain(TRAINING_OPTIONS);
    let options = options.chain(DEFENSES.iter().flat_map(|defense| options_of(*defense)));
    if let Some(option) = options.into_iter().find(|option| option.name == key) {
        return option.allowed();
    }
    let words = match (key, default) {
        ("mean" | "std", _) => "a number, or a list of three, one each for red, green and blue",
        ("target", _) => "a class's number, or its name in quotes",
        ("limit_per_class", _) | (_, Some(Value::Integer(_))) => "a whole number from 0 on",
        (_, Some(Value::Float(_))) => "a number",
        (_, Some(Value::Boolean(_))) => "true or false",
        _ => "text in quotes",
    };
    words.into()
}
