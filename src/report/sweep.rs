//! The tables of a sweep, as Markdown and CSV.

use std::fmt::Write;

use crate::experiment::comparison::{Compared, Comparison, Condition, MEANS};
use crate::experiment::sweep::{FIGURES, Over, SweepRow};
use crate::experiment::{IMPLANTED, cell};

/// Which defense holds against what, where a sweep has several; then every combination.
pub fn as_markdown(comparison: Option<&Comparison>, rows: &[SweepRow]) -> String {
    let every = rows_as_markdown(rows);
    let Some(comparison) = comparison else { return every };
    format!(
        "## Which defense holds\n\n{}\n\n{}\n\n{}\n## Every combination\n\n{every}",
        best(comparison),
        legend(comparison),
        comparison_as_markdown(comparison)
    )
}

/// The best of a comparison, in a sentence: of the defenses that have ended on all networks, for others are compared on fewer.
pub(super) fn best(comparison: &Comparison) -> String {
    let whole: Vec<&Compared> = comparison.defenses.iter().filter(|defense| defense.networks == comparison.networks).collect();
    let first = |needs_clean: bool| {
        let own = whole.iter().filter(|defense| defense.needs_clean == needs_clean);
        // 50 is doing nothing.
        let own = own.filter_map(|defense| Some((defense, defense.means.get("der")?.mean))).filter(|(_, der)| *der > 50.0);
        let named: Vec<String> = own.take(3).map(|(defense, der)| format!("`{}` ({der:.1})", defense.name)).collect();
        let group = if needs_clean { "with clean images set aside" } else { "without clean images" };
        if named.is_empty() { String::new() } else { format!("; {group} {}", named.join(", ")) }
    };
    let found = first(false) + &first(true);
    match (comparison.networks, found.is_empty()) {
        (0, _) => "No network has a backdoor, so that nothing can be said of the defenses.".into(),
        _ if whole.len() < comparison.defenses.len() => format!(
            "Not all defenses have ended. Of the {} that have, the highest mean DER{}.",
            whole.len(),
            if found.is_empty() { " is that of none".into() } else { found.replacen(';', ":", 1) }
        ),
        (_, true) => "No defense is better than none by mean DER.".into(),
        _ => format!("The highest mean DER{}.", found.replacen(';', ":", 1)),
    }
}

/// What the columns of a comparison are.
pub(super) fn legend(comparison: &Comparison) -> String {
    let partly = if comparison.defenses.iter().any(|defense| defense.networks < comparison.networks) {
        " Some defenses have not ended on all of these networks, as `networks` says: a mean over fewer is no fair comparison."
    } else {
        ""
    };
    format!(
        "DER for each attack, then means over the networks that have the backdoor ({} of {}: undefended ASR of at least {IMPLANTED} %, from \
         the trigger), percent, with half of the 95 % interval over seeds from three seeds on. DER is (max(0, ASR drop) - max(0, ACC drop) + \
         100) / 2: 50 for doing nothing, 100 for an attack that always worked and no longer does, at no cost. `change` is after the defense less \
         before it; T is the accuracy on the target class.{partly}",
        comparison.networks,
        comparison.conditions.iter().map(|condition| condition.seeds).sum::<usize>()
    )
}

/// A row for each defense, the best first.
pub(super) fn comparison_as_markdown(comparison: &Comparison) -> String {
    let heading = |condition: &Condition| {
        let name = if condition.name.is_empty() { "DER".into() } else { escaped(&condition.name) };
        let Condition { seeds, implanted, .. } = condition;
        if implanted < seeds { format!("{name} (backdoor in {implanted} of {seeds})") } else { name }
    };
    let row = |defense: &Compared| {
        let clean = if defense.needs_clean { "yes" } else { "no" };
        let der = defense.by_condition.iter().map(|figures| figures.get("der").map_or("-".into(), shown));
        let means = MEANS.iter().map(|name| match defense.means.get(name) {
            Some(over) if name.ends_with("change") => format!("{:+.1}", over.mean),
            Some(over) if *name == "der" => shown(over),
            Some(over) => format!("{:.1}", over.mean),
            None => "-".into(),
        });
        let cells: Vec<String> = [escaped(&defense.name), clean.into()].into_iter().chain(der).chain(means).collect();
        format!("| {} | {} of {} |", cells.join(" | "), defense.networks, comparison.networks)
    };
    let conditions: Vec<String> = comparison.conditions.iter().map(heading).collect();
    let heads = format!(
        "| defense | clean images | {} | mean DER | ACC change | ASR | RA | T change | seconds | networks |",
        conditions.join(" | ")
    );
    let line = format!("|{}", "---|".repeat(conditions.len() + 9));
    [heads, line].into_iter().chain(comparison.defenses.iter().map(row)).map(|line| line + "\n").collect()
}

/// Means with half of the 95 % interval behind them, percent; a row for each combination, the seeds taken together.
pub(super) fn rows_as_markdown(rows: &[SweepRow]) -> String {
    let axes = axes(rows);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "| {} | seeds | implanted | ACC / ASR / RA / T before | ACC | ASR | RA | T | DER | precision | recall | seconds |",
        axes.join(" | ")
    );
    let _ = writeln!(text, "|{}", "---|".repeat(axes.len() + 11));
    for row in rows {
        let names: Vec<String> =
            axes.iter().map(|axis| row.axes.get(axis).map_or_else(String::new, |name| escaped(name))).collect();
        let before = ["acc before", "asr before", "ra before", "t before"].map(|name| match row.figures.get(name) {
            Some(over) => format!("{:.1}", over.mean),
            None => "-".into(),
        });
        let figures: Vec<String> = FIGURES[4..].iter().map(|name| row.figures.get(name).map_or("-".into(), shown)).collect();
        let (seeds, implanted) = (row.seeds, row.implanted);
        let _ = writeln!(
            text,
            "| {} | {seeds} | {implanted} | {} | {} |",
            names.join(" | "),
            before.join(" / "),
            figures.join(" | ")
        );
    }
    text
}

/// Two columns a figure: its mean, and half of its interval.
///
/// # Errors
/// None that a table in memory could give.
pub fn as_csv(rows: &[SweepRow]) -> anyhow::Result<String> {
    let axes = axes(rows);
    let columns = FIGURES.iter().flat_map(|name| [name.replace(' ', "_"), format!("{}_half", name.replace(' ', "_"))]);
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(axes.iter().cloned().chain(["seeds".into(), "implanted".into()]).chain(columns))?;
    for row in rows {
        let names = axes.iter().map(|axis| row.axes.get(axis).map_or_else(String::new, |name| cell(name).into_owned()));
        let figures = FIGURES.iter().flat_map(|name| {
            let over = row.figures.get(name);
            let number = |x: Option<f64>| x.map_or_else(String::new, |x| format!("{x:.4}"));
            [number(over.map(|over| over.mean)), number(over.and_then(|over| over.half))]
        });
        table.write_record(names.chain([row.seeds.to_string(), row.implanted.to_string()]).chain(figures))?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// The axes that any row has.
fn axes(rows: &[SweepRow]) -> Vec<String> {
    let all: std::collections::BTreeSet<&String> = rows.iter().flat_map(|row| row.axes.keys()).collect();
    all.into_iter().cloned().collect()
}

/// What a table cell may hold.
fn escaped(name: &str) -> String {
    crate::data::shown(name).replace('|', "\\|")
}

fn shown(over: &Over) -> String {
    match over.half {
        Some(half) => format!("{:.1} ± {half:.1}", over.mean),
        None => format!("{:.1}", over.mean),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_row_has_its_axes_means_and_intervals() {
        let over = |mean, half| Over { mean, half, values: Vec::new() };
        let row = SweepRow {
            axes: BTreeMap::from([("attack".into(), "=SIG|x".into()), ("defense".into(), "DAU".into())]),
            seeds: 3,
            implanted: 2,
            figures: BTreeMap::from([
                ("acc", over(97.25, Some(1.5))),
                ("asr before", over(99.0, None)),
                ("der", over(98.0, None)),
            ]),
        };
        let text = as_markdown(None, std::slice::from_ref(&row));
        let last = text.lines().last().unwrap();
        assert_eq!(last, "| =SIG\\|x | DAU | 3 | 2 | - / 99.0 / - / - | 97.2 ± 1.5 | - | - | - | 98.0 | - | - | - |");
        let columns = |line: &str| line.matches(" | ").count();
        assert!(text.lines().enumerate().all(|(i, line)| i == 1 || columns(line) == columns(last)), "{text}");
        let table = as_csv(&[row]).unwrap();
        let mut read = csv::Reader::from_reader(table.as_bytes());
        let heads = read.headers().unwrap().clone();
        let record = read.records().next().unwrap().unwrap();
        let of = |name: &str| &record[heads.iter().position(|head| head == name).unwrap()];
        assert_eq!(
            (of("attack"), of("seeds"), of("acc"), of("acc_half"), of("der_half")),
            ("'=SIG|x", "3", "97.2500", "1.5000", "")
        );
    }

    #[test]
    fn defenses_are_compared_in_words_and_in_a_table() {
        let over = |mean, half| Over { mean, half, values: Vec::new() };
        let condition = |name: &str, implanted| Condition { name: name.into(), seeds: 3, implanted };
        let defense = |name: &str, needs_clean, networks, der: f64| {
            let means = [("der", over(der, Some(2.25))), ("acc change", over(-0.5, Some(9.0))), ("seconds", over(12.0, None))];
            let by_condition = vec![BTreeMap::from([("der", over(der, None))]), BTreeMap::new()];
            Compared { name: name.into(), needs_clean, networks, by_condition, means: means.into() }
        };
        let mut comparison = Comparison {
            conditions: vec![condition("BadNets", 3), condition("a|b", 2)],
            networks: 5,
            defenses: vec![defense("DAU", false, 5, 97.0), defense("NAD", true, 4, 80.0), defense("none", false, 5, 50.0)],
        };
        let text = as_markdown(Some(&comparison), &[]);
        let so_far =
            "Not all defenses have ended. Of the 2 that have, the highest mean DER: without clean images `DAU` (97.0).\n";
        assert!(text.contains(so_far), "NAD is compared on fewer networks: {text}");
        assert!(text.contains("(5 of 6: undefended ASR") && text.contains("Some defenses have not ended on all"), "{text}");
        let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with('|')).take(4).collect();
        assert_eq!(
            table,
            [
                "| defense | clean images | BadNets | a\\|b (backdoor in 2 of 3) | mean DER | ACC change | ASR | RA | T change | seconds | networks |",
                "|---|---|---|---|---|---|---|---|---|---|---|",
                "| DAU | no | 97.0 | - | 97.0 ± 2.2 | -0.5 | - | - | - | 12.0 | 5 of 5 |",
                "| NAD | yes | 80.0 | - | 80.0 ± 2.2 | -0.5 | - | - | - | 12.0 | 4 of 5 |",
            ]
        );
        comparison.defenses[1].networks = 5;
        let whole = "The highest mean DER: without clean images `DAU` (97.0); with clean images set aside `NAD` (80.0).";
        assert_eq!(best(&comparison), whole);
        comparison.defenses.drain(..2);
        assert!(best(&comparison).starts_with("No defense is better than none"));
        assert!(!legend(&comparison).contains("Some defenses"));
        comparison.networks = 0;
        assert!(best(&comparison).starts_with("No network has a backdoor"));
    }
}
