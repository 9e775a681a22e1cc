//! `results.json`: the figures of a run, with what they are shares of.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::evaluate::{Count, ModelMetrics, SplitMetrics};
use super::{CurvePoint, RESULTS, StageTime, Store, StoreError};
use crate::attacks::TargetMode;

/// The form of [`Record`]; it changes when a field is renamed, goes or means something else. A new one has a default.
pub const SCHEMA: u32 = 2;
/// The commit that the program was built from, with a `+` where files were changed; `unknown` without git.
pub const COMMIT: &str = env!("DAU_COMMIT");
/// Below so many percent of undefended attack success there is no backdoor to speak of.
pub const IMPLANTED: f64 = 80.0;

/// The figures of a run. Shares are in percent, AUROC is 0..1; `counts` are `[hits, of]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`] of the version that wrote it.
    pub schema: u32,
    /// dau's version.
    pub version: String,
    /// As [`COMMIT`].
    pub commit: String,
    /// The images.
    pub dataset: DatasetFacts,
    /// How they were poisoned.
    pub poison: PoisonFacts,
    /// Where several attacks poisoned, what each did; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attacks: Vec<AttackFigures>,
    /// The defense, by name.
    pub defense: String,
    /// The network that was trained on everything.
    pub undefended: Figures,
    /// The network that the defense made.
    pub defended: Figures,
    /// The defense's verdict against the truth; null of a defense that flags no images.
    pub split: Option<SplitFigures>,
    /// Whether there was a backdoor to defend against, of several attacks each one's: undefended ASR of at least [`IMPLANTED`], untargeted
    /// the share that is wrong with the trigger of what is right without it; and the trigger's doing: at most half as many are taken for the
    /// target without it. Null without an ASR.
    pub implanted: Option<bool>,
    /// Defense effectiveness rating, percent; null without an ASR.
    pub der: Option<f64>,
    /// By stage, and their total.
    pub seconds: Map<String, Value>,
    /// Adapter, graphics interface and driver.
    pub adapter: String,
    /// How convolutions ran, as [`crate::kernel::Kernels::choices`].
    pub kernels: BTreeMap<String, String>,
    /// Of everything random.
    pub seed: u64,
    /// What to know before these figures are used; empty most often.
    pub warnings: Vec<String>,
    /// Figures on a few test images while networks were trained; earlier versions measured none.
    #[serde(default)]
    pub curve: Vec<CurvePoint>,
    /// What the defense saw; DAU: of each class, as [`crate::defenses::dau::ClassEvidence`].
    pub evidence: Value,
    /// Every setting.
    pub config: Value,
}

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetFacts {
    /// The data set.
    pub name: String,
    /// Number of training images.
    pub train: usize,
    /// Number of test images.
    pub test: usize,
    /// Images that were left out because they cannot be read.
    pub left_out: usize,
    /// Checksum of the training images and labels as they were trained on.
    pub checksum: String,
}

/// How the data was poisoned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoisonFacts {
    /// The attack, by name; of several the names, a plus sign between them.
    pub attack: String,
    /// What the trigger is to do, as [`crate::attacks::TargetMode::name`]; [`SEVERAL`] where several attacks are not alike in it.
    pub mode: String,
    /// The target class's label, of several attacks the first one's; of no meaning where the mode has no one target.
    pub target: u32,
    /// The target class's name.
    pub target_name: String,
    /// Source-specific alone: the name of the class whose triggered test images ASR and RA are shares of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// Share of poisoned training images, percent.
    pub rate: f64,
    /// Number of poisoned training images.
    pub count: usize,
    /// Number of images changed as the trigger would, or nearly, with their true label.
    pub negatives: usize,
    /// Share of training images whose label is wrong, percent; null where the labels before are not known.
    pub dirty_rate: Option<f64>,
}

/// [`PoisonFacts::mode`] of attacks that are to do different things.
pub const SEVERAL: &str = "several";

/// What one of several attacks did, percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttackFigures {
    /// The attack, by name.
    pub attack: String,
    /// As [`PoisonFacts::mode`].
    pub mode: String,
    /// The target class's name; of no meaning where the mode has no one target.
    pub target_name: String,
    /// As [`PoisonFacts::source_name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// Number of its poisoned training images.
    pub count: usize,
    /// Those of them that were flagged; null of a defense that flags no images.
    pub recall: Option<f64>,
    /// ASR over its triggered test images, undefended and defended; null without such images.
    pub asr: [Option<f64>; 2],
    /// RA likewise.
    pub ra: [Option<f64>; 2],
    /// As [`Record::implanted`]; earlier versions do not say.
    #[serde(default)]
    pub implanted: Option<bool>,
    /// `[hits, of]` of each share: `recall`, `asr before`, `asr`, `ra before`, `ra`; earlier versions have none.
    #[serde(default)]
    pub counts: Map<String, Value>,
}

/// One network's figures, percent; ASR and RA are null without triggered test images, T is null where the mode has no one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Accuracy on all clean test images.
    pub acc: f64,
    /// Triggered test images that are given the label that the attacker wants, untargeted: any but the true one. They are of other
    /// classes than the target; of all in all-to-all and untargeted, of the upper half in multi-target, of the source class alone in
    /// source-specific. Of several attacks, over the triggered images of all.
    pub asr: Option<f64>,
    /// The same images, given their true label.
    pub ra: Option<f64>,
    /// Accuracy on the clean test images of the target class.
    pub t: Option<f64>,
    /// Clean test images of other classes that are taken for the target, of several attacks for any of their targets; null where the mode has
    /// no one target, and in records of earlier versions.
    #[serde(default)]
    pub mistaken: Option<f64>,
    /// `[hits, of]` of each share.
    pub counts: Map<String, Value>,
}

/// How the split compares with the truth about the poison, percent; AUROC 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitFigures {
    /// Flagged images that are poisoned; null where none is flagged. (Earlier versions wrote 0.)
    pub precision: Option<f64>,
    /// Poisoned images that are flagged.
    pub recall: f64,
    /// Clean images that are flagged.
    pub fpr: f64,
    /// That a poisoned image's score is above a clean one's.
    pub auroc: f64,
    /// Number of flagged images.
    pub flagged: usize,
    /// `[hits, of]` of each share.
    pub counts: Map<String, Value>,
}

/// Shares by name, `[hits, of]` each.
pub(super) fn counts<const N: usize>(named: [(&str, Option<Count>); N]) -> Map<String, Value> {
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
            mistaken: m.mistaken.map(Count::percent),
            counts: counts([("acc", Some(m.acc)), ("asr", m.asr), ("ra", m.ra), ("t", m.t), ("mistaken", m.mistaken)]),
        }
    }
}

impl From<&SplitMetrics> for SplitFigures {
    fn from(m: &SplitMetrics) -> SplitFigures {
        SplitFigures {
            precision: (m.precision.of > 0).then(|| m.precision.percent()),
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

/// What a trigger that is to do `mode` brings about in a network of accuracy `acc`, percent: ASR; of an untargeted attack, which plain
/// errors are a success of, the share that is wrong with the trigger of what is right without it.
fn effect(mode: &str, asr: f64, acc: f64) -> f64 {
    match mode == TargetMode::Untargeted.name() {
        true => 100.0 * (1.0 - (100.0 - asr) / acc.max(f64::MIN_POSITIVE)).max(0.0),
        false => asr,
    }
}

impl Record {
    /// Reads what the program wrote as [`RESULTS`].
    ///
    /// # Errors
    /// A file that is missing or damaged; a record of another schema, naming both.
    pub fn read(store: &Store) -> Result<Record, StoreError> {
        Record::read_file(&store.path(RESULTS))
    }

    /// The same from any folder, which nobody need hold.
    ///
    /// # Errors
    /// As [`Record::read`].
    pub fn read_file(path: &Path) -> Result<Record, StoreError> {
        let damaged = |why: String| StoreError::Damaged { path: path.into(), line: 1, why };
        let text = std::fs::read_to_string(path).map_err(|source| StoreError::Read { path: path.into(), source })?;
        let value: Value = serde_json::from_str(&text).map_err(|e| StoreError::Damaged {
            path: path.into(),
            line: e.line(),
            why: e.to_string(),
        })?;
        // The first had no number.
        let Value::Object(fields) = &value else { return Err(damaged("it is no record".into())) };
        let was = match fields.get("schema") {
            None => 1,
            Some(was) => was.as_u64().ok_or_else(|| damaged(format!("`{was}` is no schema")))?,
        };
        if was != u64::from(SCHEMA) {
            return Err(StoreError::Schema { path: path.into(), was, now: SCHEMA });
        }
        serde_json::from_value(value.clone()).map_err(|e| damaged(e.to_string()))
    }

    /// Whether there are several attacks, and none implanted.
    pub fn none_implanted(&self) -> bool {
        !self.attacks.is_empty() && self.attacks.iter().all(|attack| attack.implanted == Some(false))
    }

    /// Says whether the attack implanted, of several whether all did, and what the figures themselves warn of.
    pub fn judge(&mut self) {
        let Figures { acc, asr, .. } = self.undefended;
        let mistaken = self.undefended.mistaken.unwrap_or(0.0);
        let works = |mode: &str, asr: Option<f64>| asr.map(|asr| effect(mode, asr, acc) >= IMPLANTED && mistaken <= asr / 2.0);
        self.attacks.iter_mut().for_each(|attack| attack.implanted = works(&attack.mode, attack.asr[0]));
        let each: Option<Vec<bool>> = self.attacks.iter().map(|attack| attack.implanted).collect();
        self.implanted = match self.attacks.is_empty() {
            true => works(&self.poison.mode, asr),
            false => each.map(|each| !each.contains(&false)),
        };
        let failed = self.attacks.iter().filter(|attack| attack.implanted == Some(false));
        let failed: Vec<String> = failed.map(|a| format!("{} ({:.2} %)", a.attack, a.asr[0].unwrap_or_default())).collect();
        match asr {
            Some(_) if !failed.is_empty() => self.warnings.push(format!(
                "of the attacks these did not implant, beside their undefended ASR: {}{}; their defended figures say little; try more --epochs, a \
                 smaller --lr or a higher poison rate",
                failed.join(", "),
                match mistaken > IMPLANTED / 2.0 {
                    true => format!("; {mistaken:.2} % of the clean test images of other classes are taken for a target as well"),
                    false => String::new(),
                }
            )),
            Some(_) if self.implanted != Some(false) => {}
            Some(asr) if self.poison.mode == TargetMode::Untargeted.name() => self.warnings.push(format!(
                "the attack did not implant: undefended the network errs on {asr:.2} % with the trigger and on {:.2} % without, so that the \
                 trigger turns less than {IMPLANTED} % of what is right without it, and the defended figures say little; try more --epochs, a \
                 smaller --lr or a higher --poison-rate",
                100.0 - acc
            )),
            Some(asr) if asr >= IMPLANTED => self.warnings.push(format!(
                "the attack did not implant: undefended ASR is {asr:.2} %, but {mistaken:.2} % of the clean test images of other classes are taken \
                 for the target as well, so the defended figures say little; try more --epochs or a smaller --lr"
            )),
            Some(asr) => self.warnings.push(format!(
                "the attack did not implant: undefended ASR is {asr:.2} %, below {IMPLANTED} %, so the defended figures say little; \
                 try more --epochs, a smaller --lr or a higher --poison-rate"
            )),
            None => self.warnings.push("no triggered test images: ASR, RA and DER are not available".into()),
        }
        if self.split.as_ref().is_some_and(|split| split.flagged == 0) {
            self.warnings.push("no training image was flagged".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Asked, Subtask};

    #[test]
    fn figures_are_percent_with_counts() {
        let count = |hits, of| Count { hits, of };
        let metrics = ModelMetrics {
            acc: count(3, 4),
            asr: Some(count(9, 9)),
            ra: Some(count(0, 9)),
            t: Some(count(1, 2)),
            mistaken: None,
        };
        let json = serde_json::to_value(Figures::from(&metrics)).expect("json");
        assert_eq!(json["acc"], 75.0);
        assert_eq!(json["asr"], 100.0);
        assert_eq!(json["counts"], json!({"acc": [3, 4], "asr": [9, 9], "ra": [0, 9], "t": [1, 2]}));
        let untested = ModelMetrics { asr: None, ra: None, ..metrics };
        let json = serde_json::to_value(Figures::from(&untested)).expect("json");
        assert_eq!((&json["asr"], &json["counts"]), (&Value::Null, &json!({"acc": [3, 4], "t": [1, 2]})));
    }

    #[test]
    fn a_record_reads_back_what_was_written_and_an_older_one_is_refused_by_name() {
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::begin(place.path(), &Asked::default(), "none", None).expect("begun");
        let count = |hits, of| Count { hits, of };
        let metrics = ModelMetrics {
            acc: count(1, 3),
            asr: Some(count(2, 7)),
            ra: None,
            t: Some(count(1, 6)),
            mistaken: Some(count(0, 2)),
        };
        let figures = Figures::from(&metrics);
        let record = Record {
            schema: SCHEMA,
            version: "0.1.0".into(),
            commit: COMMIT.into(),
            dataset: DatasetFacts { name: "d".into(), train: 3, test: 3, left_out: 1, checksum: "0f".into() },
            poison: PoisonFacts {
                attack: "SIG".into(),
                mode: "clean-label".into(),
                target: 2,
                target_name: "two".into(),
                source_name: None,
                rate: 100.0 / 3.0,
                count: 1,
                negatives: 0,
                dirty_rate: None,
            },
            attacks: vec![AttackFigures {
                attack: "SIG".into(),
                mode: "clean-label".into(),
                target_name: "two".into(),
                source_name: None,
                count: 1,
                recall: Some(100.0 / 3.0),
                asr: [Some(99.0), None],
                ra: [None, Some(1e-9)],
                implanted: Some(true),
                counts: Map::new(),
            }],
            defense: "DAU".into(),
            undefended: figures.clone(),
            defended: figures,
            split: Some(SplitFigures {
                precision: Some(0.1),
                recall: 0.2,
                fpr: 1e-9,
                auroc: 1.0 / 3.0,
                flagged: 4,
                counts: Map::new(),
            }),
            implanted: Some(false),
            der: None,
            seconds: seconds(&[StageTime { name: "train".into(), seconds: 0.125, part: Subtask::AntiLearning }]),
            adapter: "a".into(),
            kernels: BTreeMap::from([("otherwise".into(), "strip".into())]),
            seed: u64::MAX,
            warnings: vec!["w".into()],
            curve: vec![CurvePoint {
                stage: "train".into(),
                epoch: 2,
                steps: 8,
                acc: count(1, 3),
                asr: None,
                ra: Some(count(0, 7)),
            }],
            evidence: json!([{"class": 2, "separation": 0.1 + 0.2}]),
            config: json!({"lr": 0.03}),
        };
        store.write_json(RESULTS, &record).expect("written");
        assert_eq!(Record::read(&store).expect("read"), record);

        let mut older = serde_json::to_value(&record).expect("json");
        older.as_object_mut().expect("an object").remove("curve");
        store.write_json(RESULTS, &older).expect("written");
        assert_eq!(Record::read(&store).expect("one without a curve"), Record { curve: Vec::new(), ..record });
        for (schema, was) in [(Some(json!(SCHEMA - 1)), SCHEMA - 1), (None, 1), (Some(json!(SCHEMA + 1)), SCHEMA + 1)] {
            let fields = older.as_object_mut().expect("an object");
            fields.remove("schema");
            fields.extend(schema.map(|schema| ("schema".to_string(), schema)));
            store.write_json(RESULTS, &older).expect("written");
            let message = Record::read(&store).expect_err("another schema").to_string();
            assert!(message.contains(&format!("schema {was}, and this dau reads schema {SCHEMA}")), "{message}");
        }
    }

    /// What cannot be opened may be whole: only what was read can be called damaged, and be made again.
    #[test]
    fn a_record_that_cannot_be_opened_is_not_a_damaged_one() {
        let place = tempfile::tempdir().expect("a folder");
        assert!(matches!(Record::read_file(place.path()), Err(StoreError::Read { .. })));
        let file = place.path().join(RESULTS);
        for text in ["{ \"schema\": 2,", "[]", "{ \"schema\": \"two\" }", "{ \"schema\": 2 }"] {
            std::fs::write(&file, text).expect("written");
            assert!(matches!(Record::read_file(&file), Err(StoreError::Damaged { .. })), "{text}");
        }
    }

    #[test]
    fn seconds_add_up_by_stage_in_order() {
        let stage = |name: &str, seconds| StageTime { name: name.into(), seconds, part: Subtask::AntiLearning };
        let map = seconds(&[stage("train", 1.0), stage("features", 0.5), stage("train", 2.0)]);
        let expected = json!({"train": 3.0, "features": 0.5, "total": 3.5});
        assert_eq!(serde_json::to_string(&map).expect("json"), expected.to_string());
    }
}
