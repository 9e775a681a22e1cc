//! A sweep's defenses side by side: what each does over all else that was varied.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Record;
use super::sweep::{Cell, DEFENSE, Over, SEED, figure, over};
use crate::defenses;

/// Which defense of a sweep holds, and against what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What they are compared on, in the sweep's order.
    pub conditions: Vec<Condition>,
    /// How many networks have the backdoor, of which the means are: one for each condition and seed.
    pub networks: usize,
    /// The highest mean DER first.
    pub defenses: Vec<Compared>,
}

/// A value of every axis but the defense's and the seed's: an attack, most often.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// `BadNets 10 %`; of several axes `BadNets, corrupt_split 0.1`; of none empty.
    pub name: String,
    /// How many seeds there are.
    pub seeds: usize,
    /// Of how many the network has the backdoor ([`Record::implanted`]).
    pub implanted: usize,
}

/// A defense on all conditions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Its value on the axis.
    pub name: String,
    /// Whether it is given images that are surely clean.
    pub needs_clean: bool,
    /// On how many of the networks that have the backdoor it has ended.
    pub networks: usize,
    /// For each condition the figures of [`HELD`], over all its seeds, with or without a backdoor; empty where it has not ended.
    pub by_condition: Vec<BTreeMap<&'static str, Over>>,
    /// By name as in [`MEANS`]; of each seed the mean over the networks that have the backdoor, and over seeds. One that no network has is
    /// left out.
    pub means: BTreeMap<&'static str, Over>,
}

/// The figures of [`Compared::by_condition`], percent; ACC and ASR of the defended network.
pub const HELD: [&str; 3] = ["der", "asr", "acc"];

/// The figures of [`Compared::means`]: of the defended network, and what was gained (lost below 0) by the defense, percent; seconds of the
/// defense alone.
pub const MEANS: [&str; 6] = ["der", "acc change", "asr", "ra", "t change", "seconds"];

/// Compares the defenses by the records of what has ended; a sweep of one defense has nothing to compare.
pub fn compare<'a>(records: impl IntoIterator<Item = (&'a Cell, &'a Record)>) -> Option<Comparison> {
    let records: Vec<_> = records.into_iter().filter_map(|(cell, record)| Ended::of(cell, record)).collect();
    let names = in_order(records.iter().map(|ended| &ended.name));
    let conditions = in_order(records.iter().map(|ended| &ended.condition));
    if names.len() < 2 {
        return None;
    }
    let of_condition = |name: &String| {
        let seeds = |implanted: bool| {
            let own = records.iter().filter(|ended| ended.condition == *name && (!implanted || ended.implanted()));
            own.map(|ended| ended.seed).collect::<BTreeSet<_>>().len()
        };
        Condition { name: name.clone(), seeds: seeds(false), implanted: seeds(true) }
    };
    let of_defense = |name: &String| {
        let own: Vec<&Ended> = records.iter().filter(|ended| ended.name == *name).collect();
        let on = |condition: &String| {
            let there: Vec<&&Ended> = own.iter().filter(|ended| ended.condition == *condition).collect();
            let held = |name: &&'static str| {
                Some((*name, over(&there.iter().filter_map(|ended| ended.figure(name)).collect::<Vec<_>>())?))
            };
            HELD.iter().filter_map(held).collect()
        };
        let implanted: Vec<&Ended> = own.iter().copied().filter(|ended| ended.implanted()).collect();
        Compared {
            name: name.clone(),
            needs_clean: own.iter().any(|ended| defenses::find(&ended.record.defense).is_ok_and(|defense| defense.needs_clean())),
            networks: implanted.len(),
            by_condition: conditions.iter().map(on).collect(),
            means: MEANS.iter().filter_map(|figure| Some((*figure, by_seed(&implanted, figure)?))).collect(),
        }
    };
    let mut defenses: Vec<Compared> = names.iter().map(of_defense).collect();
    let der = |defense: &Compared| defense.means.get("der").map_or(f64::NEG_INFINITY, |over| over.mean);
    defenses.sort_by(|a, b| der(b).total_cmp(&der(a)));
    let conditions: Vec<Condition> = conditions.iter().map(of_condition).collect();
    Some(Comparison { networks: conditions.iter().map(|condition| condition.implanted).sum(), conditions, defenses })
}

/// A cell that has ended, of a sweep that has an axis of defenses.
struct Ended<'a> {
    condition: String,
    name: String,
    seed: &'a str,
    record: &'a Record,
}

impl<'a> Ended<'a> {
    fn of(cell: &'a Cell, record: &'a Record) -> Option<Ended<'a>> {
        let others = cell.axes.iter().filter(|(axis, _)| ![DEFENSE, SEED].contains(&axis.as_str()));
        // A number does not say what it is of.
        let bare = |value: &str| value.parse::<f64>().is_err() && value.parse::<bool>().is_err();
        let others = others.map(|(axis, value)| if bare(value) { value.clone() } else { format!("{axis} {value}") });
        Some(Ended {
            condition: others.collect::<Vec<_>>().join(", "),
            name: cell.axes.get(DEFENSE)?.clone(),
            seed: cell.axes.get(SEED).map_or("", String::as_str),
            record,
        })
    }

    fn implanted(&self) -> bool {
        self.record.implanted == Some(true)
    }

    /// As [`MEANS`] names it.
    fn figure(&self, name: &str) -> Option<f64> {
        match name.strip_suffix(" change") {
            Some(name) => Some(figure(self.record, name)? - figure(self.record, &format!("{name} before"))?),
            None => figure(self.record, name),
        }
    }
}

/// Of each seed a figure's mean, and over seeds.
fn by_seed(ended: &[&Ended], figure: &str) -> Option<Over> {
    let mut seeds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for one in ended {
        seeds.entry(one.seed).or_default().extend(one.figure(figure));
    }
    let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    over(&seeds.values().filter(|values| !values.is_empty()).map(mean).collect::<Vec<_>>())
}

/// Each name once, in the order of their first.
fn in_order<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use toml::Table;

    use super::*;

    /// A cell of a defense and its record, the undefended network having ACC 90, the ASR given and T 80.
    fn ended(axes: &[(&str, &str)], method: &str, asr_before: f64, [acc, asr, t, seconds]: [f64; 4]) -> (Cell, Record) {
        let figures = |acc, asr, t| json!({"acc": acc, "asr": asr, "ra": 100.0 - asr, "t": t, "counts": {}});
        let der = (f64::max(0.0, asr_before - asr) - f64::max(0.0, 90.0 - acc) + 100.0) / 2.0;
        let record = json!({
            "schema": 2, "version": "", "commit": "", "defense": method, "adapter": "", "seed": 0, "implanted": asr_before >= 80.0, "der": der,
            "dataset": {"name": "", "train": 1, "test": 1, "left_out": 0, "checksum": ""},
            "poison": {"attack": "", "mode": "", "target": 0, "target_name": "", "rate": 1.0, "count": 1, "negatives": 0, "dirty_rate": null},
            "undefended": figures(90.0, asr_before, 80.0), "defended": figures(acc, asr, t), "split": null,
            "seconds": {"train": 1000.0, "unlearn": seconds}, "kernels": {}, "warnings": [], "evidence": null, "config": null,
        });
        let axes = axes.iter().map(|(axis, value)| (axis.to_string(), value.to_string())).collect();
        (Cell { axes, settings: Table::new() }, serde_json::from_value(record).unwrap())
    }

    fn compared(cells: &[(Cell, Record)]) -> Option<Comparison> {
        compare(cells.iter().map(|(cell, record)| (cell, record)))
    }

    #[test]
    fn means_are_over_the_networks_that_have_the_backdoor_and_over_seeds() {
        let mut cells = Vec::new();
        // Asked first, and the weaker one. SIG has no backdoor with seed 2.
        for (defense, method, shift) in [("tuned", "fine-tuning", 40.0), ("mine", "DAU", 0.0)] {
            for (attack, seed, before, asr) in
                [("BadNets", "0", 100.0, 0.0), ("SIG", "0", 96.0, 6.0), ("BadNets", "1", 100.0, 4.0), ("SIG", "1", 90.0, 10.0)]
            {
                let axes = [("attack", attack), ("defense", defense), ("seed", seed)];
                cells.push(ended(&axes, method, before, [88.0, asr + shift, 77.0, 10.0 + asr]));
            }
            let axes = |attack| [("attack", attack), ("defense", defense), ("seed", "2")];
            cells.push(ended(&axes("BadNets"), method, 98.0, [91.0, 2.0 + shift, 83.0, 12.0]));
            cells.push(ended(&axes("SIG"), method, 30.0, [10.0, 0.0, 0.0, 900.0]));
        }
        let found = compared(&cells).unwrap();
        let conditions: Vec<_> = found.conditions.iter().map(|c| (c.name.as_str(), c.seeds, c.implanted)).collect();
        assert_eq!((conditions, found.networks), (vec![("BadNets", 3, 3), ("SIG", 3, 2)], 5));
        let order: Vec<_> = found.defenses.iter().map(|d| (d.name.as_str(), d.needs_clean, d.networks)).collect();
        assert_eq!(order, [("mine", false, 5), ("tuned", true, 5)]);
        let mine = &found.defenses[0];
        // DER: BadNets 99, 97, 98; SIG 94, 89 and, without a backdoor, (30 - 80 + 100) / 2. By seed 96.5, 93 and 98.
        let der: Vec<_> = mine.by_condition.iter().map(|figures| figures["der"].values.clone()).collect();
        assert_eq!(der, [[99.0, 97.0, 98.0], [94.0, 89.0, 25.0]]);
        assert_eq!((mine.by_condition[1]["asr"].values[1], mine.by_condition[0]["acc"].values[2]), (10.0, 91.0));
        assert_eq!(mine.means["der"].values, [96.5, 93.0, 98.0]);
        // SciPy: sem([96.5, 93, 98]) * t.ppf(.975, 2) is 6.3738.
        assert!((mine.means["der"].half.unwrap() - 6.3738).abs() < 1e-2, "{:?}", mine.means["der"]);
        assert_eq!(mine.means["acc change"].values, [-2.0, -2.0, 1.0]);
        assert_eq!(mine.means["t change"].values, [-3.0, -3.0, 3.0]);
        assert_eq!(mine.means["asr"].values, [3.0, 7.0, 2.0]);
        assert_eq!(mine.means["ra"].values, [97.0, 93.0, 98.0]);
        assert_eq!(mine.means["seconds"].values, [13.0, 17.0, 12.0]);
    }

    #[test]
    fn what_has_not_ended_is_left_open_and_said() {
        let cell = |attack, defense| {
            let axes = [("attack", attack), ("corrupt_split", "0.1"), ("defense", defense)];
            ended(&axes, "DAU", 100.0, [90.0, 0.0, 80.0, 1.0])
        };
        let cells = [cell("SIG", "a"), cell("LF", "a"), cell("LF", "b")];
        let found = compared(&cells).unwrap();
        assert_eq!(found.conditions[0].name, "SIG, corrupt_split 0.1");
        let done: Vec<_> =
            found.defenses.iter().map(|d| (d.networks, d.by_condition[0].len(), d.by_condition[1].len())).collect();
        assert_eq!((found.networks, done), (2, vec![(2, 3, 3), (1, 0, 3)]));
        assert_eq!(compared(&cells[..2]), None, "of one defense there is nothing to compare");
        let attacks = ["SIG", "LF"].map(|attack| ended(&[("attack", attack)], "DAU", 100.0, [90.0, 0.0, 80.0, 1.0]));
        assert_eq!(compared(&attacks), None, "nor where no defense is named");
    }
}
