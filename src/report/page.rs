//! `report.html`: one file that holds all it shows, to be opened without a network.

use std::fmt::Write;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::charts::{Axes, Line, heat, lines};
use super::sweep::as_markdown;
use super::table::tested;
use crate::data::shown;
use crate::experiment::sweep::SweepRow;
use crate::experiment::{Figures, METRICS, PREVIEW, Record, Store};

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<style>\n\
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #111; }\n\
table { border-collapse: collapse; margin: 1em 0; } th, td { border: 1px solid #bbb; padding: .2em .6em; text-align: left; }\n\
td.n { text-align: right; font-variant-numeric: tabular-nums; } .verdict { font-size: 1.15em; }\n\
svg, img { max-width: 100%; height: auto; } img { image-rendering: pixelated; } details { margin: 1em 0; }\n\
@media print { details { display: block; } }\n</style>\n";

/// Of a line of a run's metrics what is shown.
#[derive(Deserialize)]
struct Epoch {
    stage: String,
    epoch: usize,
    accuracy: f64,
}

/// What a run found, as a page. `poison`: who among the training images is poisoned; `score` and `flagged`: what the defense said of them.
///
/// # Errors
/// A file of the run that cannot be read.
pub fn run_page(record: &Record, store: &Store, poison: &[bool], score: &[f32], flagged: &[bool]) -> Result<String> {
    let title = format!("{} on {}, defended by {}", record.poison.attack, record.dataset.name, record.defense);
    let mut page = begin(&title);
    for sentence in sentences(record) {
        let _ = writeln!(page, "<p class=\"verdict\">{}</p>", text(&sentence));
    }
    page += &figures(record);
    if flagged.contains(&true) || score.iter().any(|s| *s > 0.0) {
        page += "<h2>The training images</h2>\n";
        let _ = writeln!(page, "<p>{}</p>", text(&split(record)));
        page += &scores(poison, score)?;
        page += &roc(poison, score, record.split.auroc)?;
    }
    let epochs: Vec<Epoch> = if store.has(METRICS) {
        store.read(METRICS)?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    } else {
        Vec::new()
    };
    if epochs.len() > 1 {
        page += "<h2>Training</h2>\n";
        page += &training(&epochs)?;
    }
    if store.has(PREVIEW) {
        let png = STANDARD.encode(std::fs::read(store.path(PREVIEW))?);
        let _ = writeln!(
            page,
            "<h2>The trigger</h2>\n<p>Clean images, the same with the trigger, and the difference.</p>\n\
             <img alt=\"clean and triggered images\" src=\"data:image/png;base64,{png}\">"
        );
    }
    let facts = [("dau", format!("{}, commit {}", record.version, record.commit)), ("adapter", record.adapter.clone())];
    let seconds = record.seconds.iter().map(|(stage, s)| (format!("seconds: {stage}"), plain(s)));
    let settings = record.config.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), plain(value)));
    let rows = facts.map(|(name, value)| (name.to_string(), value)).into_iter().chain(seconds).chain(settings);
    page += "<details><summary>Settings, times and where it ran</summary>\n<table>\n";
    for (name, value) in rows {
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", text(&name), text(&value));
    }
    page += "</table></details>\n</html>\n";
    Ok(page)
}

/// A sweep's table, and a heat map of attacks by defenses where both were varied.
///
/// # Errors
/// None that a page in memory could give.
pub fn sweep_page(rows: &[SweepRow]) -> Result<String> {
    let mut page = begin("Sweep");
    page += "<p>Means over seeds, with half of the 95 % interval. DER rewards a lower attack success and charges a lower accuracy: \
             (max(0, ASR drop) - max(0, ACC drop) + 100) / 2. A row whose attack implanted in no run says little about its defense.</p>\n";
    let of = |axis: &str| {
        let mut names: Vec<String> = Vec::new();
        for name in rows.iter().filter_map(|row| row.axes.get(axis)) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    };
    let (attacks, defenses) = (of("attack"), of("defense"));
    if attacks.len() > 1 && defenses.len() > 1 && rows.len() == attacks.len() * defenses.len() {
        for (figure, title) in [("der", "DER, percent"), ("asr", "ASR after, percent"), ("acc", "ACC after, percent")] {
            let value = |attack: &String, defense: &String| {
                let row =
                    rows.iter().find(|row| row.axes.get("attack") == Some(attack) && row.axes.get("defense") == Some(defense));
                row.and_then(|row| row.figures.get(figure)).map(|over| over.mean)
            };
            let values: Vec<Vec<_>> =
                attacks.iter().map(|attack| defenses.iter().map(|defense| value(attack, defense)).collect()).collect();
            page += &heat(title, &attacks, &defenses, &values)?;
        }
    }
    page += "<table>\n";
    for (i, line) in as_markdown(rows).lines().enumerate().filter(|(i, _)| *i != 1) {
        let tag = if i == 0 { "th" } else { "td" };
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", text(cell.trim()))).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    page += "</table>\n</html>\n";
    Ok(page)
}

fn begin(title: &str) -> String {
    format!("{HEAD}<title>{0}</title>\n<h1>{0}</h1>\n", text(title))
}

/// What strangers called something, as text of a page.
fn text(words: &str) -> String {
    shown(words).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// What the figures mean, for someone who does not know their names.
pub fn sentences(record: &Record) -> Vec<String> {
    let (before, after) = (&record.undefended, &record.defended);
    let goal = match record.poison.mode.as_str() {
        "all-to-all" => "the class after their own".to_string(),
        "untargeted" => "a class that they are not".to_string(),
        "multi-target" => "the class that the attacker wants".to_string(),
        _ => format!("`{}`", record.poison.target_name),
    };
    let images = match &record.poison.source_name {
        Some(source) => format!("test images of `{source}`"),
        None => "test images".to_string(),
    };
    let mut said = Vec::new();
    if let (Some(asr), Some(left), Some(restored)) = (before.asr, after.asr, after.ra) {
        said.push(match record.implanted {
            Some(true) => format!(
                "The network that was trained on all images has a backdoor: of the {images} with the trigger it takes {asr:.1} % for {goal}."
            ),
            _ => format!(
                "The attack did not work: of the {images} with the trigger the network takes only {asr:.1} % for {goal}. What follows says \
                 little about the defense."
            ),
        });
        said.push(format!("After the defense {left:.1} % are taken for {goal}, and {restored:.1} % for what they are."));
    }
    said.push(format!("On images without the trigger its accuracy was {:.1} % and is {:.1} %.", before.acc, after.acc));
    said
}

fn split(record: &Record) -> String {
    let split = &record.split;
    match split.flagged {
        0 => format!("None of {} training images was flagged; {} are poisoned.", record.dataset.train, record.poison.count),
        flagged => format!(
            "{flagged} of {} training images were flagged. {:.1} % of them are poisoned (precision), and they are {:.1} % of all that are (recall).",
            record.dataset.train, split.precision, split.recall
        ),
    }
}

fn figures(record: &Record) -> String {
    let mut table = "<table>\n<tr><th>percent</th><th title=\"accuracy on clean test images\">ACC</th>\
                     <th title=\"triggered test images taken for what the attacker wants\">ASR</th>\
                     <th title=\"triggered test images taken for what they are\">RA</th>\
                     <th title=\"accuracy on clean test images of the target class\">T</th></tr>\n"
        .to_string();
    for (name, figures) in [("before", &record.undefended), ("after", &record.defended)] {
        let Figures { acc, asr, ra, t, .. } = figures;
        let cells =
            [Some(*acc), *asr, *ra, *t].map(|x| format!("<td class=\"n\">{}</td>", x.map_or("-".into(), |x| format!("{x:.2}"))));
        let _ = writeln!(table, "<tr><th>{name}</th>{}</tr>", cells.concat());
    }
    let der = record.der.map_or("not available".into(), |der| format!("{der:.2}"));
    let note = tested(&record.poison).map_or(String::new(), |note| format!("{}. ", text(&note)));
    let _ = writeln!(table, "</table>\n<p>{note}DER {der}.</p>");
    table
}

/// Bins of a score's histogram.
const BINS: usize = 32;

/// The scores of poisoned and of clean images, counts on a logarithmic axis.
fn scores(poison: &[bool], score: &[f32]) -> Result<String> {
    let of = |who: bool| {
        let mut counts = [0usize; BINS];
        for (_, s) in poison.iter().zip(score).filter(|(p, _)| **p == who) {
            counts[((f64::from(*s) * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
        let edge = |bin: usize| bin as f64 / BINS as f64;
        let steps = counts.iter().enumerate().flat_map(|(bin, count)| {
            let height = (1.0 + *count as f64).log10();
            [(edge(bin), height), (edge(bin + 1), height)]
        });
        steps.collect::<Vec<_>>()
    };
    let lines_ = [("poisoned", true), ("clean", false)].map(|(name, who)| Line { name: name.into(), points: of(who) });
    let most = lines_.iter().flat_map(|line| &line.points).map(|p| p.1).fold(1.0, f64::max);
    let axes = Axes {
        title: "What the defense believed of each training image".into(),
        names: ["score: 0 clean, 1 poisoned; flagged from 1/8 on".into(), "log10 (1 + images)".into()],
        x: [0.0, 1.0],
        y: [0.0, 1.05 * most],
    };
    lines(&axes, &lines_)
}

/// True against false positives over all borders.
fn roc(poison: &[bool], score: &[f32], auroc: f64) -> Result<String> {
    let mut order: Vec<usize> = (0..score.len()).collect();
    order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
    let positives = poison.iter().filter(|p| **p).count().max(1) as f64;
    let negatives = poison.iter().filter(|p| !**p).count().max(1) as f64;
    let (mut hits, mut false_alarms, mut points) = (0.0, 0.0, vec![(0.0, 0.0)]);
    for (k, &i) in order.iter().enumerate() {
        if poison[i] {
            hits += 1.0
        } else {
            false_alarms += 1.0
        }
        // Equal scores are one border.
        if order.get(k + 1).is_none_or(|next| score[*next] != score[i]) {
            points.push((false_alarms / negatives, hits / positives));
        }
    }
    // More than a chart can show says nothing more.
    let every = points.len().div_ceil(400);
    let last = points.len() - 1;
    let points = points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| p).collect();
    let axes = Axes {
        title: format!("Poison found against clean images flagged, AUROC {auroc:.4}"),
        names: ["share of clean images flagged".into(), "share of poison found".into()],
        x: [0.0, 1.0],
        y: [0.0, 1.02],
    };
    lines(&axes, &[Line { name: "all borders".into(), points }])
}

/// Accuracy on what each training saw, by epoch.
fn training(epochs: &[Epoch]) -> Result<String> {
    let mut stages: Vec<Line> = Vec::new();
    for epoch in epochs {
        let point = (epoch.epoch as f64, epoch.accuracy);
        match stages.iter_mut().find(|line| line.name == epoch.stage) {
            Some(line) => line.points.push(point),
            None => stages.push(Line { name: epoch.stage.clone(), points: vec![point] }),
        }
    }
    let last = epochs.iter().map(|epoch| epoch.epoch).max().unwrap_or(1).max(2) as f64;
    let axes = Axes {
        title: "Training images that got their given label".into(),
        names: ["epoch".into(), "percent".into()],
        x: [1.0, last],
        y: [0.0, 102.0],
    };
    lines(&axes, &stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_call_things_is_text() {
        assert_eq!(text("<script>&\"x\""), "&lt;script&gt;&amp;&quot;x&quot;");
        assert!(!text("a\u{1b}[31mb").contains('\u{1b}'));
    }

    /// Two of three poisoned images come first, then a clean one with the third, then the other clean one.
    #[test]
    fn the_curve_goes_through_every_border() {
        let svg = roc(&[true, true, true, false, false], &[0.9, 0.8, 0.5, 0.5, 0.1], 0.9).unwrap();
        let points = svg.matches("polyline").count();
        assert!(points >= 1 && svg.contains("AUROC 0.9000"), "{svg}");
    }
}
