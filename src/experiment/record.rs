//! `results.json`: the figures of a run, with what they are shares of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::StageTime;
use super::evaluate::{Count, ModelMetrics, SplitMetrics};

/// Below so many percent of undefended attack success there is no backdoor to speak of.
pub const IMPLANTED: f64 = 80.0;

/// The figures of a run. Shares are in percent, AUROC is 0..1; `counts` are `[hits, of]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub version: String,
    pub dataset: DatasetFacts,
    pub poison: PoisonFacts,
    pub defense: String,
    /// The network that was trained on everything.
    pub undefended: Figures,
    /// The network that the defense made.
    pub defended: Figures,
    pub split: SplitFigures,
    /// Whether there was a backdoor to defend against, undefended ASR of at least [`IMPLANTED`]; null without an ASR.
    pub implanted: Option<bool>,
    /// Defense effectiveness rating, percent; null without an ASR.
    pub der: Option<f64>,
    /// By stage, and their total.
    pub seconds: Map<String, Value>,
    pub adapter: String,
    pub seed: u64,
    /// What to know before these figures are used; empty most often.
    pub warnings: Vec<String>,
    /// What the defense saw; DAU: of each class, as [`crate::defenses::dau::ClassEvidence`].
    #[serde(default)]
    pub evidence: Value,
    /// Every setting.
    pub config: Value,
}

/// The data of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatasetFacts {
    pub name: String,
    /// Number of training images.
    pub train: usize,
    /// Number of test images.
    pub test: usize,
    /// Images that were left out because they cannot be read.
    pub left_out: usize,
}

/// How the data was poisoned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoisonFacts {
    pub attack: String,
    /// What the trigger is to do: all-to-one, all-to-all or clean-label.
    pub mode: String,
    pub target: u32,
    /// The target class's name.
    pub target_name: String,
    /// Share of poisoned training images, percent.
    pub rate: f64,
    /// Number of poisoned training images.
    pub count: usize,
    /// Number of images changed nearly as the trigger would, with their true label.
    pub negatives: usize,
    /// Share of training images whose label is wrong, percent; null where the labels before are not known.
    pub dirty_rate: Option<f64>,
}

/// One network's figures, percent; ASR and RA are null without triggered test images, T is null for all-to-all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Accuracy on all clean test images.
    pub acc: f64,
    /// Triggered test images that are given the attacker's label: of other classes than the target, or all of all-to-all.
    pub asr: Option<f64>,
    /// The same images, given their true label.
    pub ra: Option<f64>,
    /// Accuracy on the clean test images of the target class.
    pub t: Option<f64>,
    pub counts: Map<String, Value>,
}

/// How the split compares with the truth about the poison, percent; AUROC 0..1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SplitFigures {
    /// Flagged images that are poisoned.
    pub precision: f64,
    /// Poisoned images that are flagged.
    pub recall: f64,
    /// Clean images that are flagged.
    pub fpr: f64,
    /// That a poisoned image's score is above a clean one's.
    pub auroc: f64,
    /// Number of flagged images.
    pub flagged: usize,
    pub counts: Map<String, Value>,
}

fn counts<const N: usize>(named: [(&str, Option<Count>); N]) -> Map<String, Value> {
    let there = named.into_iter().filter_map(|(name, count)| Some((name, count?)));
    there.map(|(name, count)| (name.to_string(), json!([count.hits, count.of]))).collect()
}

impl From<&ModelMetrics> for Figures {
    fn from(m: &ModelMetrics) -> Figures {
        Figures {
            acc: m.acc.percent(),
            asr: m.asr.map(Count::percent),
            ra: m.ra.map(Count::percent),
            t: m.t.map(Count::percent),
            counts: counts([("acc", Some(m.acc)), ("asr", m.asr), ("ra", m.ra), ("t", m.t)]),
        }
    }
}

impl From<&SplitMetrics> for SplitFigures {
    fn from(m: &SplitMetrics) -> SplitFigures {
        SplitFigures {
            precision: m.precision.percent(),
            recall: m.recall.percent(),
            fpr: m.fpr.percent(),
            auroc: m.auroc,
            flagged: m.precision.of,
            counts: counts([("precision", Some(m.precision)), ("recall", Some(m.recall)), ("fpr", Some(m.fpr))]),
        }
    }
}

/// Seconds by stage in the order they ran, and their total.
pub fn seconds(stages: &[StageTime]) -> Map<String, Value> {
    let mut by_name: Vec<(&str, f64)> = Vec::new();
    for stage in stages {
        match by_name.iter_mut().find(|(name, _)| *name == stage.name) {
            Some((_, sum)) => *sum += stage.seconds,
            None => by_name.push((&stage.name, stage.seconds)),
        }
    }
    let total = stages.iter().map(|s| s.seconds).sum();
    let milli = |s: f64| (s * 1e3).round() / 1e3;
    by_name.into_iter().chain([("total", total)]).map(|(name, s)| (name.to_string(), json!(milli(s)))).collect()
}

impl Record {
    /// Says whether the attack implanted, and what the figures themselves warn of.
    pub fn judge(&mut self) {
        self.implanted = self.undefended.asr.map(|asr| asr >= IMPLANTED);
        match self.undefended.asr {
            Some(asr) if asr < IMPLANTED => self.warnings.push(format!(
                "the attack did not implant: undefended ASR is {asr:.2} %, below {IMPLANTED} %, so the defended figures say little; \
                 try more --epochs, a smaller --lr or a higher --poison-rate"
            )),
            Some(_) => {}
            None => self.warnings.push("no triggered test images: ASR, RA and DER are not available".into()),
        }
        if self.split.flagged == 0 {
            self.warnings.push("no training image was flagged".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_percent_with_counts() {
        let count = |hits, of| Count { hits, of };
        let metrics = ModelMetrics { acc: count(3, 4), asr: Some(count(9, 9)), ra: Some(count(0, 9)), t: Some(count(1, 2)) };
        let json = serde_json::to_value(Figures::from(&metrics)).expect("json");
        assert_eq!(json["acc"], 75.0);
        assert_eq!(json["asr"], 100.0);
        assert_eq!(json["counts"], json!({"acc": [3, 4], "asr": [9, 9], "ra": [0, 9], "t": [1, 2]}));
        let untested = ModelMetrics { asr: None, ra: None, ..metrics };
        let json = serde_json::to_value(Figures::from(&untested)).expect("json");
        assert_eq!((&json["asr"], &json["counts"]), (&Value::Null, &json!({"acc": [3, 4], "t": [1, 2]})));
    }

    #[test]
    fn seconds_add_up_by_stage_in_order() {
        let stage = |name: &str, seconds| StageTime { name: name.into(), seconds };
        let map = seconds(&[stage("train", 1.0), stage("features", 0.5), stage("train", 2.0)]);
        let expected = json!({"train": 3.0, "features": 0.5, "total": 3.5});
        assert_eq!(serde_json::to_string(&map).expect("json"), expected.to_string());
    }
}
