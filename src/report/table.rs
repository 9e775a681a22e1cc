//! [`Record`] as text of fixed width.

use std::fmt::Write;

use serde_json::Value;

use crate::experiment::{AttackFigures, Figures, PoisonFacts, Record, SEVERAL};

const CELL: usize = 22;
const NOT_AVAILABLE: &str = "not available";

/// The figures as a table, then the split, DER, seconds and warnings.
pub fn render(results: &Record) -> String {
    let mut text = heading(results);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{:12}{:CELL$}{:CELL$}{:CELL$}T", "percent", "ACC", "ASR", "RA");
    for (name, figures) in [("undefended", &results.undefended), ("defended", &results.defended)] {
        let _ = writeln!(text, "{name:12}{}", row(figures));
    }
    if let Some(note) = tested(&results.poison) {
        let _ = writeln!(text, "{:12}{note}", "");
    }
    if let Some(split) = &results.split {
        let cell = |name: &str, value| share(value, split.counts.get(name).unwrap_or(&Value::Null));
        let _ = writeln!(text, "\n{:12}{:CELL$}{:CELL$}{:CELL$}AUROC", "", "precision", "recall", "FPR");
        let shares = [("precision", split.precision), ("recall", Some(split.recall)), ("fpr", Some(split.fpr))];
        let line: String = shares.map(|(name, value)| format!("{:CELL$}", cell(name, value))).concat();
        let _ = writeln!(text, "{:12}{line}{:.4}", "split", split.auroc);
    }
    let der = results.der.map_or(NOT_AVAILABLE.into(), |der| format!("{der:.2}"));
    let _ = writeln!(text, "\n{:12}{der}", "DER");
    if !results.attacks.is_empty() {
        let _ = writeln!(text, "\n{}", columns(&each_attack(&results.attacks)));
    }
    let times: Vec<String> = results.seconds.iter().map(|(name, s)| format!("{name} {:.1}", s.as_f64().unwrap_or(0.0))).collect();
    let _ = writeln!(text, "{:12}{}", "seconds", times.join(", "));
    for warning in &results.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn heading(results: &Record) -> String {
    let (data, poison) = (&results.dataset, &results.poison);
    let number = poison.target.to_string();
    let name = if poison.target_name == number { String::new() } else { format!(" ({})", poison.target_name) };
    let goal = match poison.mode.as_str() {
        _ if !results.attacks.is_empty() => format!("{} attacks", results.attacks.len()),
        "all-to-one" => format!("target {number}{name}"),
        mode @ ("all-to-all" | "untargeted" | "multi-target") => mode.into(),
        mode => format!("{mode}, target {number}{name}"),
    };
    let wrong = poison.dirty_rate.map_or(String::new(), |rate| format!("; {rate:.2} % wrongly labelled"));
    let negatives = if poison.negatives > 0 { format!(" and {} negatives", poison.negatives) } else { String::new() };
    format!(
        "{}, {} on {:.2} % of the training images ({}/{}{wrong}){negatives}, {goal}, defense {}, seed {}, dau {}\n{}\n",
        data.name,
        poison.attack,
        poison.rate,
        poison.count,
        data.train,
        results.defense,
        results.seed,
        results.version,
        results.adapter
    )
}

/// What each of several attacks did, under a heading; ASR and RA before the defense and after it.
pub(super) fn each_attack(attacks: &[AttackFigures]) -> Vec<Vec<String>> {
    let change = |[before, after]: [Option<f64>; 2]| match (before, after) {
        (Some(before), Some(after)) => format!("{before:.2} to {after:.2}"),
        _ => NOT_AVAILABLE.into(),
    };
    let row = |a: &AttackFigures| {
        let goal = match (a.mode.as_str(), &a.source_name) {
            ("all-to-one", _) => format!("target `{}`", a.target_name),
            (mode @ ("all-to-all" | "untargeted" | "multi-target"), _) => mode.into(),
            (mode, Some(source)) => format!("{mode}, `{source}` to `{}`", a.target_name),
            (mode, None) => format!("{mode}, target `{}`", a.target_name),
        };
        let flagged = a.recall.map_or("-".into(), |recall| format!("{recall:.2} %"));
        vec![a.attack.clone(), goal, a.count.to_string(), flagged, change(a.asr), change(a.ra)]
    };
    let heading = ["attack", "goal", "poisoned", "flagged", "ASR", "RA"].map(String::from).into();
    std::iter::once(heading).chain(attacks.iter().map(row)).collect()
}

/// What ASR and RA are shares of, where that is not the usual.
pub(super) fn tested(poison: &PoisonFacts) -> Option<String> {
    Some(match (poison.mode.as_str(), &poison.source_name) {
        ("source-specific", Some(source)) => {
            format!("ASR and RA are over the triggered test images of class `{source}` alone, the source")
        }
        ("source-specific", None) => {
            "ASR and RA are over the triggered test images that there are, which should be of the source class".into()
        }
        ("untargeted", _) => "ASR is the share of triggered test images that are taken for any class but their own".into(),
        (SEVERAL, _) => "ASR and RA are over the triggered test images of all attacks".into(),
        ("multi-target", _) => "ASR and RA are over the triggered test images of the upper half of the classes".into(),
        _ => return None,
    })
}

fn row(figures: &Figures) -> String {
    let cells = [("acc", Some(figures.acc)), ("asr", figures.asr), ("ra", figures.ra), ("t", figures.t)];
    let row: String =
        cells.map(|(name, value)| format!("{:CELL$}", share(value, figures.counts.get(name).unwrap_or(&Value::Null)))).concat();
    row.trim_end().to_string()
}

/// `98.60 (493/500)`.
fn share(percent: Option<f64>, counts: &Value) -> String {
    percent.map_or(NOT_AVAILABLE.into(), |percent| format!("{percent:.2} ({}/{})", counts[0], counts[1]))
}

/// Rows of cells, the first being the heading, in columns as wide as their widest cell.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let line: String = row.iter().enumerate().map(|(i, cell)| format!("{cell:<w$}  ", w = width(i))).collect();
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::evaluate::{Count, ModelMetrics, SplitMetrics};
    use crate::experiment::{DatasetFacts, PoisonFacts, SplitFigures, StageTime, Subtask, seconds};

    fn results(asr: usize) -> Record {
        let count = |hits, of| Count { hits, of };
        let model = |asr| ModelMetrics {
            acc: count(493, 500),
            asr: Some(count(asr, 450)),
            ra: Some(count(450 - asr, 450)),
            t: Some(count(50, 50)),
            mistaken: Some(count(2, 450)),
        };
        let split = SplitMetrics { precision: count(130, 130), recall: count(130, 130), fpr: count(0, 1167), auroc: 1.0 };
        let mut results = Record {
            schema: 2,
            version: "0.1.0".into(),
            commit: "0123456789ab".into(),
            dataset: DatasetFacts { name: "digits".into(), train: 1297, test: 500, left_out: 0, checksum: "0".into() },
            poison: PoisonFacts {
                attack: "BadNets".into(),
                mode: "all-to-one".into(),
                target: 0,
                target_name: "zero".into(),
                source_name: None,
                rate: 10.02,
                count: 130,
                negatives: 0,
                dirty_rate: Some(9.1),
            },
            attacks: Vec::new(),
            defense: "DAU".into(),
            undefended: Figures::from(&model(asr)),
            defended: Figures::from(&model(0)),
            split: Some(SplitFigures::from(&split)),
            implanted: None,
            der: Some(99.5),
            seconds: seconds(&[StageTime { name: "train".into(), seconds: 40.25, part: Subtask::AntiLearning }]),
            adapter: "llvmpipe [vulkan, cpu]".into(),
            kernels: std::collections::BTreeMap::new(),
            seed: 0,
            warnings: Vec::new(),
            curve: Vec::new(),
            evidence: serde_json::Value::Null,
            config: serde_json::Value::Null,
        };
        results.judge();
        results
    }

    #[test]
    fn the_table_reads_as_intended() {
        let expected = "\
digits, BadNets on 10.02 % of the training images (130/1297; 9.10 % wrongly labelled), target 0 (zero), defense DAU, seed 0, dau 0.1.0
llvmpipe [vulkan, cpu]

percent     ACC                   ASR                   RA                    T
undefended  98.60 (493/500)       100.00 (450/450)      0.00 (0/450)          100.00 (50/50)
defended    98.60 (493/500)       0.00 (0/450)          100.00 (450/450)      100.00 (50/50)

            precision             recall                FPR                   AUROC
split       100.00 (130/130)      100.00 (130/130)      0.00 (0/1167)         1.0000

DER         99.50
seconds     train 40.2, total 40.2
";
        assert_eq!(render(&results(450)), expected);
    }

    #[test]
    fn of_a_defense_that_flags_no_images_there_is_no_split() {
        let mut without = results(450);
        (without.split, without.warnings) = (None, Vec::new());
        without.judge();
        let text = render(&without);
        assert!(!text.contains("precision") && !text.contains("flagged") && text.contains("\n\nDER         99.50\n"), "{text}");
        let none = SplitMetrics {
            precision: Count { hits: 0, of: 0 },
            recall: Count { hits: 0, of: 130 },
            fpr: Count { hits: 0, of: 1167 },
            auroc: 0.5,
        };
        without.split = Some(SplitFigures::from(&none));
        without.judge();
        assert!(render(&without).contains("warning: no training image was flagged"));
    }

    #[test]
    fn an_attack_that_did_not_implant_is_said() {
        let text = render(&results(90));
        assert!(text.contains("warning: the attack did not implant: undefended ASR is 20.00 %"), "{text}");
        assert_eq!((results(359).implanted, results(360).implanted), (Some(false), Some(true)), "360 of 450 are 80 %");
    }

    #[test]
    fn each_of_several_attacks_is_shown_and_judged() {
        let of = |attack: &str, mode: &str, asr: f64| AttackFigures {
            attack: attack.into(),
            mode: mode.into(),
            target_name: "zero".into(),
            source_name: None,
            count: 65,
            recall: Some(20.0),
            asr: [Some(asr), Some(0.5)],
            ra: [Some(100.0 - asr), None],
            implanted: None,
            counts: serde_json::Map::new(),
        };
        let mut two = results(405);
        (two.attacks, two.warnings) = (vec![of("BadNets", "all-to-one", 100.0), of("SIG", "clean-label", 79.9)], Vec::new());
        two.judge();
        let text = render(&two);
        for part in [
            "; 9.10 % wrongly labelled), 2 attacks, defense DAU, seed 0,",
            "attack   goal                        poisoned  flagged  ASR             RA\n",
            "BadNets  target `zero`               65        20.00 %  100.00 to 0.50  not available\n",
            "SIG      clean-label, target `zero`  65        20.00 %  79.90 to 0.50   not available\n",
            "warning: of the attacks these did not implant, beside their undefended ASR: SIG (79.90 %);",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
        assert_eq!(two.implanted, Some(false), "of all together 90 %, of one less than 80");
        (two.attacks[1].asr[0], two.warnings) = (Some(80.0), Vec::new());
        two.judge();
        assert_eq!((two.implanted, two.warnings.len()), (Some(true), 0));
        assert!(!two.none_implanted());
        two.undefended.mistaken = Some(99.1);
        two.judge();
        let said = two.warnings.join(" ");
        assert!(
            two.none_implanted()
                && said.contains("; 99.10 % of the clean test images of other classes are taken for a target as well"),
            "{said}"
        );
        two.undefended.mistaken = None;
        two.attacks[0].asr[0] = None;
        two.judge();
        assert_eq!(two.implanted, None, "without triggered images of one");
    }

    #[test]
    fn a_network_that_takes_everything_for_the_target_has_no_backdoor() {
        let judged = |mistaken: Option<f64>| {
            let mut record = results(450);
            (record.undefended.mistaken, record.warnings) = (mistaken, Vec::new());
            record.judge();
            (record.implanted, record.warnings.join(" "))
        };
        assert_eq!([None, Some(0.4), Some(50.0)].map(|mistaken| judged(mistaken).0), [Some(true); 3]);
        let (implanted, warning) = judged(Some(99.6));
        assert!(
            implanted == Some(false) && warning.contains("ASR is 100.00 %, but 99.60 % of the clean test images"),
            "{warning}"
        );
    }

    /// A network that knows nothing errs on nearly every image, with the trigger and without.
    #[test]
    fn plain_errors_are_no_untargeted_attack() {
        let judged = |acc: f64, asr: f64| {
            let mut record = results(450);
            (record.poison.mode, record.warnings) = ("untargeted".into(), Vec::new());
            (record.undefended.acc, record.undefended.asr) = (acc, Some(asr));
            record.judge();
            (record.implanted, record.warnings.join(" "))
        };
        // Of 90 % that are right without the trigger 18 or 19 are right with it.
        assert_eq!([81.9, 82.1].map(|asr| judged(90.0, asr).0), [Some(false), Some(true)]);
        let (implanted, warning) = judged(10.4, 89.4);
        assert!(
            implanted == Some(false) && warning.contains("errs on 89.40 % with the trigger and on 89.60 % without"),
            "{warning}"
        );
    }

    #[test]
    fn figures_without_triggered_images_and_poison_of_all_modes_are_said() {
        let mut without = results(450);
        for figures in [&mut without.undefended, &mut without.defended] {
            (figures.asr, figures.ra) = (None, None);
            figures.counts.retain(|name, _| name == "acc" || name == "t");
        }
        (without.der, without.poison.dirty_rate, without.poison.negatives) = (None, None, 260);
        (without.poison.mode, without.warnings) = ("clean-label".into(), Vec::new());
        without.judge();
        assert_eq!(without.implanted, None);
        let text = render(&without);
        for part in [
            "BadNets on 10.02 % of the training images (130/1297) and 260 negatives, clean-label, target 0 (zero), defense DAU, seed 0",
            "undefended  98.60 (493/500)       not available         not available         100.00 (50/50)",
            "DER         not available",
            "warning: no triggered test images: ASR, RA and DER are not available",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
    }

    #[test]
    fn what_asr_is_a_share_of_is_said_where_it_is_not_the_usual() {
        let text = |mode: &str, source: Option<&str>| {
            let mut results = results(450);
            (results.poison.mode, results.poison.source_name) = (mode.into(), source.map(String::from));
            render(&results)
        };
        for (mode, source, heading, note) in [
            (
                "source-specific",
                Some("one"),
                "source-specific, target 0 (zero), defense DAU, seed",
                "            ASR and RA are over the triggered test images of class `one` alone, the source",
            ),
            (
                "untargeted",
                None,
                "labelled), untargeted, defense DAU, seed",
                "            ASR is the share of triggered test images that are taken for any class but their own",
            ),
            (
                "multi-target",
                None,
                "labelled), multi-target, defense DAU, seed",
                "            ASR and RA are over the triggered test images of the upper half of the classes",
            ),
        ] {
            let text = text(mode, source);
            assert!(text.contains(heading) && text.lines().nth(6) == Some(note), "{text}");
        }
        assert!(!text("all-to-all", None).contains("ASR and RA are"));
    }

    #[test]
    fn columns_align() {
        let rows = [vec!["a".to_string(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(columns(&rows), "a     b\nlong  c\n");
    }
}
