//! How long a sweep still takes, by what its cells took.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::job::Job;

/// Of the cells that are left and how long each has been worked on, `at_once` together; none before a cell has ended. `ended`: the defense
/// and the seconds of each that has, as [`crate::experiment::Record::seconds`].
///
/// A cell takes what others of its defense took on average. Where none of its own has ended it takes what all took, or as long as a
/// network trains where that is longer: most defenses train. A network that several cells wait for is trained once.
pub fn time_left<'a>(
    ended: impl Iterator<Item = (&'a str, &'a Map<String, Value>)>,
    left: &[(&Job, Duration)],
    at_once: usize,
) -> Option<Duration> {
    let mut by_defense: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let (mut all, mut trainings) = (Vec::new(), Vec::new());
    for (defense, seconds) in ended {
        let of = |stage: &str| seconds.get(stage).and_then(Value::as_f64).unwrap_or(0.0);
        let own = of("total") - of("train");
        by_defense.entry(defense).or_default().push(own);
        all.push(own);
        trainings.extend(Some(of("train")).filter(|seconds| *seconds > 0.0));
    }
    let mean = |seconds: &[f64]| (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64);
    let usual = mean(&all)?;
    let training = mean(&trainings).unwrap_or(0.0);
    let (mut sum, mut longest) = (0.0, 0.0f64);
    let mut counted: BTreeSet<&Path> = BTreeSet::new();
    for (job, worked) in left {
        let own = by_defense.get(job.protocol.defense.as_str()).and_then(|seconds| mean(seconds)).unwrap_or(usual.max(training));
        let networks = job.missing().filter(|network| counted.insert(network)).count();
        let rest = (own + training * networks as f64 - worked.as_secs_f64()).max(0.0);
        (sum, longest) = (sum + rest, longest.max(rest));
    }
    Some(Duration::from_secs_f64((sum / at_once as f64).max(longest)))
}

/// `40 s`, `90 min`, `5.5 h`, `3.1 days`.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds if seconds < 48 * 3600 => format!("{:.1} h", seconds as f64 / 3600.0),
        seconds => format!("{:.1} days", seconds as f64 / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::sweep::Sweep;
    use serde_json::json;

    #[test]
    fn cells_take_what_their_defense_took_and_a_shared_network_once() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("s.toml");
        let out = place.path().join("o").display().to_string();
        std::fs::write(&file, format!("out = '{out}'\n[vary]\ndefense = [\"DAU\", \"none\"]\nseed = [0, 1, 2]\n")).unwrap();
        let jobs = super::super::job::jobs(&Sweep::read(&file).unwrap()).unwrap();
        let took =
            [("DAU", json!({"train": 10, "total": 36.0})), ("DAU", json!({"total": 34.0})), ("none", json!({"total": 1.0}))];
        let seconds = |cells: &[(&Job, Duration)], at_once, known: usize| {
            let ended = took[..known].iter().filter_map(|(name, seconds)| Some((*name, seconds.as_object()?)));
            time_left(ended, cells, at_once).map(|time| time.as_secs_f64())
        };
        let new = |n: usize| (&jobs[n], Duration::ZERO);
        let worked = |n: usize, seconds| (&jobs[n], Duration::from_secs(seconds));
        assert_eq!(seconds(&[new(0)], 1, 0), None, "nothing has ended yet");
        // DAU takes 30 of its own, none takes 1, the network that both wait for 10.
        assert_eq!(seconds(&[new(2), new(3)], 1, 3), Some(41.0));
        assert_eq!(seconds(&[new(2), new(4)], 1, 3), Some(80.0), "two seeds are two networks");
        assert_eq!(seconds(&[new(2), new(4)], 2, 3), Some(40.0));
        assert_eq!(seconds(&[new(2), new(3)], 2, 3), Some(40.0), "the longest one is not shared out");
        assert_eq!(seconds(&[worked(2, 15), new(3)], 1, 3), Some(26.0));
        assert_eq!(seconds(&[worked(2, 500)], 1, 3), Some(0.0), "it is overdue");
        assert_eq!(seconds(&[new(3)], 1, 2), Some(40.0), "as all do, where its own defense is new");
        let cheap = [("none", json!({"train": 10, "total": 11.0}))];
        let after_cheap = time_left(cheap.iter().filter_map(|(name, took)| Some((*name, took.as_object()?))), &[new(2)], 1);
        assert_eq!(
            after_cheap.map(|time| time.as_secs_f64()),
            Some(20.0),
            "a new defense trains, after the network that it waits for"
        );
        std::fs::create_dir_all(jobs[2].victim.parent().unwrap()).unwrap();
        std::fs::write(&jobs[2].victim, "").unwrap();
        assert_eq!(seconds(&[new(2), new(3)], 1, 3), Some(31.0), "the network is there");
    }
}
