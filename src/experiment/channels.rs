//! Normalisation as people write it: a number, or one for each of red, green and blue.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::train::Normalisation;

/// A value for each of red, green and blue.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(try_from = "Written")]
pub struct Channels(pub [f64; 3]);

/// Normalisation by `mean` and `std`.
///
/// # Errors
/// Numbers that do not normalise.
pub fn normalisation(Channels(mean): Channels, Channels(std): Channels) -> Result<Normalisation> {
    let within = mean.iter().all(|m| (0.0..=1.0).contains(m));
    ensure!(
        within,
        "--mean {mean:?} does not do: pixels are 0 to 1, so give numbers from 0 to 1 (0.5 for 127.5 of 255), 0 for no normalisation"
    );
    let above = std.iter().all(|s| s.is_finite() && *s as f32 > 0.0);
    ensure!(above, "--std {std:?} does not do: give numbers above 0, 1 for no normalisation");
    let [mean, std] = [mean, std].map(|values| values.map(|value| value as f32));
    Ok(Normalisation { mean, std })
}

/// How [`Channels`] may be written: `0.5`, `[0.4, 0.5, 0.6]`, and on the command line `0.4,0.5,0.6`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(f64),
    Each([f64; 3]),
    Text(String),
}

impl From<[f32; 3]> for Channels {
    fn from(values: [f32; 3]) -> Channels {
        Channels(values.map(decimal))
    }
}

/// `x` as it was written: 0.1 for 0.1f32, not 0.10000000149.
pub fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

impl TryFrom<Written> for Channels {
    type Error = String;

    fn try_from(written: Written) -> Result<Channels, String> {
        let text = match written {
            Written::One(value) => return Ok(Channels([value; 3])),
            Written::Each(values) => return Ok(Channels(values)),
            Written::Text(text) => text,
        };
        let values: Result<Vec<f64>, _> = text.split(',').map(|value| value.trim().parse()).collect();
        match values.as_deref() {
            Ok([value]) => Ok(Channels([*value; 3])),
            Ok([r, g, b]) => Ok(Channels([*r, *g, *b])),
            _ => Err(format!("`{text}` is neither a number nor three, one each for red, green and blue, as 0.4,0.5,0.6")),
        }
    }
}
