//! The table of a sweep, as Markdown and CSV.

use std::fmt::Write;

use crate::experiment::cell;
use crate::experiment::sweep::{FIGURES, Over, SweepRow};

/// Means with half of the 95 % interval behind them, percent; a row for each combination, the seeds taken together.
pub fn as_markdown(rows: &[SweepRow]) -> String {
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
        let text = as_markdown(std::slice::from_ref(&row));
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
}
