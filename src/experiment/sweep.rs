//! Many experiments that share what is equal: every combination of some settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{Figures, RESULTS, Record};

/// A sweep, as its file has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Where its cells and tables are; relative to where the command is given.
    pub out: PathBuf,
    /// Settings of every cell.
    #[serde(default)]
    pub all: Table,
    /// What is varied: lists of values of a setting, or of tables of settings that go together. Every combination is a cell.
    pub vary: Table,
}

/// One combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What it is called where it is reported: the value of each axis.
    pub axes: BTreeMap<String, String>,
    /// Its settings, those of all cells among them.
    pub settings: Table,
}

/// `attack SIG, defense DAU, seed 0`.
impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.axes.iter().map(|(axis, value)| format!("{axis} {value}")).collect::<Vec<_>>().join(", "))
    }
}

/// The axis over which means are taken.
pub const SEED: &str = "seed";
/// The axis that is read across: a table has its values below each other.
pub(super) const DEFENSE: &str = "defense";

impl Sweep {
    /// # Errors
    /// A file that cannot be read; an axis that is no list, or is empty.
    pub fn read(path: &Path) -> Result<Sweep> {
        let text = std::fs::read_to_string(path).map_err(|e| anyhow!("cannot read {}: {e}", path.display()))?;
        let hint = "; it has `out`, and settings under [all], for every cell, or under [vary], each a list of values";
        let sweep: Sweep = toml::from_str(&text).map_err(|e| anyhow!("{}: {}{hint}", path.display(), e.message()))?;
        ensure!(!sweep.out.as_os_str().is_empty(), "{}: out = \"\": give the folder for its cells and tables", path.display());
        for (name, values) in &sweep.vary {
            let some = values.as_array().is_some_and(|values| !values.is_empty());
            ensure!(some, "{}: vary.{name} is {values}: give a list of values, or of tables of settings", path.display());
        }
        ensure!(
            !sweep.all.contains_key("out"),
            "{}: all.out: cells have folders of their own; give `out` at the top",
            path.display()
        );
        Ok(sweep)
    }

    /// Every combination, the last axis changing fastest. Seeds change slowest, so that a first answer is there early. Defenses come next:
    /// cells that share a network are far apart, and those that are done at once do not wait for each other.
    ///
    /// # Errors
    /// A table of settings without a name, two of the same name.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        let mut cells = vec![Cell { axes: BTreeMap::new(), settings: self.all.clone() }];
        let (seeds, others): (Vec<_>, Vec<_>) = self.vary.iter().partition(|(name, _)| *name == SEED);
        let (defenses, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|(name, _)| *name == DEFENSE);
        for (axis, values) in seeds.into_iter().chain(defenses).chain(others) {
            let mut next = Vec::new();
            for cell in &cells {
                let mut names = Vec::new();
                for value in values.as_array().into_iter().flatten() {
                    let (name, settings) = named(axis, value)?;
                    ensure!(!names.contains(&name), "vary.{axis} has `{name}` twice: give one of them another `name`");
                    names.push(name.clone());
                    let mut cell = cell.clone();
                    cell.axes.insert(axis.clone(), name);
                    cell.settings.extend(settings);
                    next.push(cell);
                }
            }
            cells = next;
        }
        Ok(cells)
    }
}

/// What a value of an axis is called, and the settings that it stands for.
fn named(axis: &str, value: &Value) -> Result<(String, Table)> {
    Ok(match value {
        Value::Table(settings) => {
            let mut settings = settings.clone();
            let name = match settings.remove("name") {
                Some(Value::String(name)) if !name.trim().is_empty() => name,
                Some(other) => bail!("vary.{axis}: name = {other}: give some text"),
                None => {
                    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
                    settings.values().map(plain).collect::<Vec<_>>().join(" ")
                }
            };
            ensure!(!settings.is_empty(), "vary.{axis}: `{name}` has a name and no setting: give its settings beside the name");
            (name, settings)
        }
        Value::String(text) => (text.clone(), Table::from_iter([(axis.to_string(), value.clone())])),
        _ => (value.to_string(), Table::from_iter([(axis.to_string(), value.clone())])),
    })
}

/// A figure over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Over {
    /// Their mean.
    pub mean: f64,
    /// Half of the 95 % interval of the mean by Student's t; none of fewer than three seeds, of which it would say nothing.
    pub half: Option<f64>,
    /// Of each seed.
    pub values: Vec<f64>,
}

/// A row of a sweep's table: cells that differ in their seed alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepRow {
    /// The value of each axis but the seed.
    pub axes: BTreeMap<String, String>,
    /// How many seeds there are.
    pub seeds: usize,
    /// How many of these implanted: undefended ASR of at least [`super::IMPLANTED`].
    pub implanted: usize,
    /// By name, in [`FIGURES`]' order of columns; a figure that no cell has is left out.
    pub figures: BTreeMap<&'static str, Over>,
}

/// The figures of a [`SweepRow`], percent but for the seconds, which are the defense's own.
pub const FIGURES: [&str; 12] =
    ["acc before", "asr before", "ra before", "t before", "acc", "asr", "ra", "t", "der", "precision", "recall", "seconds"];

/// The rows of what has ended, from the records alone: defenses against the same attack below each other.
pub fn rows<'a>(records: impl IntoIterator<Item = (&'a Cell, &'a Record)>) -> Vec<SweepRow> {
    let mut rows: Vec<(BTreeMap<String, String>, Vec<&Record>)> = Vec::new();
    for (cell, record) in records {
        let mut axes = cell.axes.clone();
        axes.remove(SEED);
        match rows.iter_mut().find(|(known, _)| *known == axes) {
            Some((_, records)) => records.push(record),
            None => {
                let others = |axes: &BTreeMap<String, String>| {
                    let others = axes.iter().filter(|(name, _)| *name != DEFENSE);
                    others.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
                };
                let below = rows.iter().rposition(|(known, _)| others(known) == others(&axes));
                rows.insert(below.map_or(rows.len(), |row| row + 1), (axes, vec![record]));
            }
        }
    }
    let row = |(axes, records): (_, Vec<&Record>)| {
        let figures = FIGURES.iter().filter_map(|name| {
            let values: Vec<f64> = records.iter().filter_map(|record| figure(record, name)).collect();
            Some((*name, over(&values)?))
        });
        let implanted = records.iter().filter(|record| record.implanted == Some(true)).count();
        SweepRow { axes, seeds: records.len(), implanted, figures: figures.collect() }
    };
    rows.into_iter().map(row).collect()
}

pub(super) fn figure(record: &Record, name: &str) -> Option<f64> {
    let of = |figures: &Figures, name: &str| match name {
        "acc" => Some(figures.acc),
        "asr" => figures.asr,
        "ra" => figures.ra,
        _ => figures.t,
    };
    match name.strip_suffix(" before") {
        Some(name) => of(&record.undefended, name),
        None => match name {
            "der" => record.der,
            // Of nothing flagged there is none.
            "precision" => record.split.as_ref().filter(|split| split.flagged > 0).and_then(|split| split.precision),
            "recall" => record.split.as_ref().map(|split| split.recall),
            "seconds" => Some(defending(record)),
            _ => of(&record.defended, name),
        },
    }
}

/// What the defense took: all but training and testing. (A sum of nothing is -0, and 0 with 0 added.)
fn defending(record: &Record) -> f64 {
    let own = |name: &str| !["train", "total", "surrogate train"].contains(&name) && !name.starts_with("test ");
    record.seconds.iter().filter(|(name, _)| own(name)).filter_map(|(_, seconds)| seconds.as_f64()).sum::<f64>() + 0.0
}

/// Student's t, .975, by degrees of freedom from 1 on.
const T: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
    2.101, 2.093, 2.086,
];

pub(super) fn over(values: &[f64]) -> Option<Over> {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    let half = (n > 2).then(|| {
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        T.get(n - 2).copied().unwrap_or(1.96) * (variance / n as f64).sqrt()
    });
    (n > 0).then(|| Over { mean, half, values: values.to_vec() })
}

/// The record of a cell that has ended.
///
/// # Errors
/// A damaged one.
pub fn record(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join(RESULTS);
    if path.is_file() { Ok(Some(Record::read_file(&path)?)) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(text: &str) -> Result<Sweep> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s.toml");
        std::fs::write(&path, text).unwrap();
        Sweep::read(&path)
    }

    #[test]
    fn every_combination_is_a_cell_and_cells_of_one_network_are_far_apart() {
        let sweep = sweep(
            "out = \"o\"\n[all]\nepochs = 2\n[vary]\ndefense = [\"DAU\", \"none\"]\nseed = [0, 1]\n\
             attack = [\"SIG\", { attack = \"BadNets\", pattern = \"grid\" }, { name = \"thin\", attack = \"BadNets\", poison_rate = 0.01 }]\n",
        )
        .unwrap();
        let cells = sweep.cells().unwrap();
        let shown: Vec<String> =
            cells.iter().map(|cell| ["seed", "attack", "defense"].map(|axis| cell.axes[axis].as_str()).join("/")).collect();
        assert_eq!(shown.len(), 12);
        assert_eq!(shown[..4], ["0/SIG/DAU", "0/BadNets grid/DAU", "0/thin/DAU", "0/SIG/none"]);
        assert_eq!(shown[11], "1/thin/none");
        let thin = &cells[11].settings;
        assert_eq!(
            (thin["epochs"].as_integer(), thin["poison_rate"].as_float(), thin["seed"].as_integer()),
            (Some(2), Some(0.01), Some(1))
        );
        assert!(!thin.contains_key("name"));
    }

    #[test]
    fn defenses_against_the_same_attack_are_below_each_other() {
        let sweep =
            sweep("out = \"o\"\n[vary]\ndefense = [\"DAU\", \"none\"]\nseed = [0, 1]\nattack = [\"SIG\", \"LF\"]\n").unwrap();
        let cells = sweep.cells().unwrap();
        let figures = serde_json::json!({"acc": 90.0, "asr": 99.0, "ra": 1.0, "t": 90.0, "counts": {}});
        let record: Record = serde_json::from_value(serde_json::json!({
            "schema": 2, "version": "", "commit": "", "defense": "", "adapter": "", "seed": 0, "implanted": true, "der": 50.0,
            "dataset": {"name": "", "train": 1, "test": 1, "left_out": 0, "checksum": ""},
            "poison": {"attack": "", "mode": "", "target": 0, "target_name": "", "rate": 1.0, "count": 1, "negatives": 0, "dirty_rate": null},
            "undefended": figures, "defended": figures, "seconds": {}, "kernels": {}, "warnings": [], "evidence": null, "config": null,
            "split": {"precision": 1.0, "recall": 1.0, "fpr": 0.0, "auroc": 1.0, "flagged": 1, "counts": {}},
        }))
        .unwrap();
        let shown = |cells: &[Cell]| -> Vec<String> {
            let rows = rows(cells.iter().map(|cell| (cell, &record)));
            rows.iter().map(|row| format!("{}/{} {}", row.axes["attack"], row.axes["defense"], row.seeds)).collect()
        };
        assert_eq!(shown(&cells), ["SIG/DAU 2", "SIG/none 2", "LF/DAU 2", "LF/none 2"]);
        assert_eq!(shown(&cells[1..4]), ["LF/DAU 1", "LF/none 1", "SIG/none 1"], "what is not there has no row");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, expected) in [
            ("out = \"o\"\n[vary]\nseed = 3\n", "vary.seed is 3: give a list"),
            ("out = \"o\"\n[vary]\nseed = []\n", "vary.seed is []: give a list"),
            ("out = \"o\"\n[all]\nout = \"p\"\n[vary]\nseed = [1]\n", "all.out: cells have folders of their own"),
            ("out = \"o\"\nvary = {}\nvery = 1\n", "unknown field `very`"),
            ("out = \"o\"\nepochs = 3\n[vary]\nseed = [1]\n", "and settings under [all], for every cell, or under [vary]"),
            ("out = \"\"\n[vary]\nseed = [1]\n", "out = \"\": give the folder"),
        ] {
            let error = sweep(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
        let nameless = sweep("out = \"o\"\n[vary]\nattack = [{ name = \" \", attack = \"SIG\" }]\n").unwrap().cells();
        assert_eq!(nameless.expect_err("refused").to_string(), "vary.attack: name = \" \": give some text");
        let empty = sweep("out = \"o\"\n[vary]\ndefense = [{ name = \"x\" }]\n").unwrap().cells().expect_err("refused");
        assert!(empty.to_string().starts_with("vary.defense: `x` has a name and no setting"), "{empty}");
        let twice =
            sweep("out = \"o\"\n[vary]\nattack = [\"SIG\", \"SIG\"]\n").unwrap().cells().expect_err("refused").to_string();
        assert!(twice.contains("vary.attack has `SIG` twice"), "{twice}");
    }

    /// SciPy: `t.interval(.95, 2, 4, sem([1, 4, 7]))` is 4 -+ 7.4524.
    #[test]
    fn the_interval_is_students() {
        let found = over(&[1.0, 4.0, 7.0]).unwrap();
        assert!((found.mean - 4.0).abs() < 1e-12 && (found.half.unwrap() - 7.4524).abs() < 1e-2, "{found:?}");
        assert_eq!(
            over(&[3.0, 5.0]),
            Some(Over { mean: 4.0, half: None, values: vec![3.0, 5.0] }),
            "of two it would be 13 times as wide as they are apart"
        );
        assert_eq!(over(&[]), None);
    }
}
