//! `report.html`: one file that holds all it shows, to be opened without a network.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use super::charts::{Axes, Heat, Line, Spread, heat, lines, spreads};
use super::networks;
use super::sweep::{best, comparison_as_markdown, legend, rows_as_markdown};
use super::table::{each_attack, tested};
use crate::data::shown;
use crate::defenses::{Defense, Nothing};
use crate::experiment::comparison::{Comparison, HELD};
use crate::experiment::sweep::{Over, SweepRow};
use crate::experiment::{Figures, IMPLANTED, INSPECTION, Inspection, METRICS, PREVIEW, Record, Store};

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<style>\n\
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #111; }\n\
h2 { margin: 1.6em 0 .4em; } p { max-width: 46em; }\n\
table { border-collapse: collapse; margin: 1em 0; } th, td { border: 1px solid #bbb; padding: .2em .6em; text-align: left; }\n\
.wide { font-size: .8em; } td.n { text-align: right; font-variant-numeric: tabular-nums; } .verdict { font-size: 1.15em; margin: .4em 0; }\n\
svg, img { max-width: 100%; height: auto; } img { image-rendering: pixelated; vertical-align: middle; } details { margin: 1em 0; }\n\
figure { margin: 0; break-inside: avoid; } figcaption { font-size: .9em; color: #333; max-width: 30em; }\n\
.charts { display: flex; flex-wrap: wrap; gap: 1em; } .charts figure { max-width: 440px; } .charts > p { flex-basis: 100%; margin: 0; }\n\
.looks { display: flex; flex-wrap: wrap; gap: 1em 2em; } .looks > div { display: flex; gap: 4px; break-inside: avoid; } .looks figure { width: 136px; }\n\
h2 { break-after: avoid; } @page { margin: 12mm; }\n\
@media print { body { margin: 0; max-width: none; font-size: 12px; } details::details-content { content-visibility: visible; block-size: auto; } \
.charts figure { max-width: 48%; } img { max-height: 9cm; } .looks { gap: .6em 1.2em; } .looks figure { width: 100px; } }\n\
</style>\n";

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
        let _ = writeln!(page, "<p class=\"verdict\">{}</p>", prose(&sentence));
    }
    page += &figures(record);
    let inspection: Option<Inspection> = if store.has(INSPECTION) { Some(store.read_json(INSPECTION)?) } else { None };
    page += "<h2>The training images</h2>\n<div class=\"charts\">\n";
    let _ = writeln!(page, "<p>{}</p>", prose(&flagging(record)));
    if let Some(split) = record.split.as_ref().filter(|_| flagged.contains(&true) || score.iter().any(|s| *s > 0.0)) {
        page += &figure(&scores(poison, score, flagged)?, "");
        page += &figure(&roc(poison, score, split.auroc)?, "");
    }
    if let Some(inspection) = &inspection {
        page += &networks::projection(&inspection.projection)?;
    }
    page += "</div>\n";
    let epochs: Vec<Epoch> = if store.has(METRICS) {
        store.read(METRICS)?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    } else {
        Vec::new()
    };
    let trained = if epochs.len() > 1 { figure(&training(&epochs)?, "") } else { String::new() };
    page += &networks::curves(&record.curve, &trained)?;
    if let Some(inspection) = &inspection {
        page += &networks::confusion(inspection)?;
    }
    if store.has(PREVIEW) {
        let png = networks::embedded(&std::fs::read(store.path(PREVIEW))?, "clean and triggered images");
        let _ =
            writeln!(page, "<h2>The trigger</h2>\n<p>Clean images, the same with the trigger, and the difference.</p>\n{png}");
    }
    if let Some(inspection) = &inspection {
        page += &networks::looks(inspection)?;
    }
    let facts = [("dau", format!("{}, commit {}", record.version, record.commit)), ("adapter", record.adapter.clone())];
    let seconds = record.seconds.iter().map(|(stage, s)| (format!("seconds: {stage}"), plain(s)));
    let asked = record.config.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), plain(value)));
    let rows = facts.map(|(name, value)| (name.to_string(), value)).into_iter().chain(seconds).chain(asked);
    page += &settings(rows);
    page += "</html>\n";
    Ok(page)
}

/// What a run was asked and where it ran, to be opened.
pub(super) fn settings(rows: impl Iterator<Item = (String, String)>) -> String {
    let rows = rows.map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", text(&name), text(&value)));
    format!(
        "<details><summary>Settings, times and where it ran</summary>\n<table>\n{}</table></details>\n",
        rows.collect::<String>()
    )
}

/// A sweep: which of its defenses holds, and heat maps of it, where it has several; every seed of every combination; its table.
///
/// # Errors
/// None that a page in memory could give.
pub fn sweep_page(comparison: Option<&Comparison>, rows: &[SweepRow]) -> Result<String> {
    let mut page = begin("Sweep");
    if let Some(comparison) = comparison {
        let _ = writeln!(page, "<p class=\"verdict\">{}</p>\n<p>{}</p>", prose(&best(comparison)), prose(&legend(comparison)));
        page += &markdown_table(&comparison_as_markdown(comparison));
        let Comparison { conditions, defenses, .. } = comparison;
        let names: Vec<String> = defenses.iter().map(|defense| shown(&defense.name)).collect();
        let columns: Vec<String> = conditions.iter().map(|condition| shown(&condition.name)).collect();
        let longest = columns.iter().map(|name| name.chars().count()).max().unwrap_or(0) as u32;
        for (name, title) in HELD.iter().zip(["DER, percent", "ASR after, percent", "ACC after, percent"]) {
            let cell = |figures: &BTreeMap<&str, Over>| {
                figures.get(name).map_or((0.0, "-".to_string()), |over| (over.mean / 100.0, format!("{:.1}", over.mean)))
            };
            let cells: Vec<Vec<_>> = defenses.iter().map(|defense| defense.by_condition.iter().map(cell).collect()).collect();
            let map = Heat { title, rows: &names, columns: &columns, cell: ((7 * longest + 12).max(60), 24) };
            page += &figure(&heat(&map, &cells)?, "");
        }
    }
    page += "<div class=\"charts\">\n";
    for (name, title) in [("asr", "ASR after, percent"), ("acc", "ACC after, percent")] {
        let spread = |row: &SweepRow| {
            let over = row.figures.get(name)?;
            let axes: Vec<&str> = row.axes.values().map(String::as_str).collect();
            Some(Spread { name: shown(&axes.join(", ")), values: over.values.clone(), mean: over.mean, half: over.half })
        };
        let rows: Vec<Spread> = rows.iter().filter_map(spread).collect();
        page += &figure(&spreads(title, &rows)?, "");
    }
    page += "</div>\n<p>In the charts of rows a ring is a seed and a bar the mean; a line is the 95 % interval of the mean, of three seeds and more.</p>\n\
             <h2>Every combination</h2>\n\
             <p>Means over seeds, with half of the 95 % interval; seconds are the defense's own, without training the first network and without \
             tests. A row whose attack implanted in no run says little about its defense.</p>\n";
    page += &markdown_table(&rows_as_markdown(rows));
    page += "</html>\n";
    Ok(page)
}

/// A table that is there as Markdown.
fn markdown_table(markdown: &str) -> String {
    let mut table = String::from("<table class=\"wide\">\n");
    for (i, line) in markdown.lines().enumerate().filter(|(i, _)| *i != 1) {
        let tag = if i == 0 { "th" } else { "td" };
        let cells = line.trim_matches('|').split(" | ").map(|cell| text(&cell.trim().replace("\\|", "|")));
        let cells: String = cells.map(|cell| format!("<{tag}>{cell}</{tag}>")).collect();
        let _ = writeln!(table, "<tr>{cells}</tr>");
    }
    table + "</table>\n"
}

pub(super) fn begin(title: &str) -> String {
    format!("{HEAD}<title>{0}</title>\n<h1>{0}</h1>\n", text(title))
}

/// A chart or picture and, where there are some, words under it.
pub(super) fn figure(picture: &str, words: &str) -> String {
    let caption = if words.is_empty() { String::new() } else { format!("<figcaption>{}</figcaption>", prose(words)) };
    format!("<figure>{picture}{caption}</figure>\n")
}

/// Sentences as text of a page, names that stand in backticks as such.
pub(super) fn prose(words: &str) -> String {
    let parts: Vec<String> = text(words).split('`').map(String::from).collect();
    // Without its other half a backtick stays one.
    if parts.len().is_multiple_of(2) {
        return parts.join("`");
    }
    let mark = |(i, part): (usize, &String)| if i % 2 == 1 { format!("<code>{part}</code>") } else { part.clone() };
    parts.iter().enumerate().map(mark).collect()
}

/// What strangers called something, as text of a page.
pub(super) fn text(words: &str) -> String {
    shown(words).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// What the figures mean, for someone who does not know their names.
pub fn sentences(record: &Record) -> Vec<String> {
    let (before, after) = (&record.undefended, &record.defended);
    let goal = match record.poison.mode.as_str() {
        "all-to-all" => "the class after their own".to_string(),
        _ if !record.attacks.is_empty() => "what its attacker wants".to_string(),
        "untargeted" => "a class that they are not".to_string(),
        "multi-target" => "the class that the attacker wants".to_string(),
        _ => format!("`{}`", record.poison.target_name),
    };
    let images = match &record.poison.source_name {
        Some(source) => format!("test images of `{source}`"),
        None => "test images".to_string(),
    };
    let trigger = if record.attacks.is_empty() { "the trigger" } else { "a trigger" };
    let mut said = Vec::new();
    if let (Some(asr), Some(left), Some(restored)) = (before.asr, after.asr, after.ra) {
        said.push(match record.implanted {
            Some(true) => format!(
                "The network that was trained on all images has a backdoor: of the {images} with {trigger} it takes {asr:.1} % for {goal}."
            ),
            _ if record.none_implanted() => format!(
                "None of the attacks worked: of the {images} with a trigger the network takes {asr:.1} % for {goal}. What follows says little about \
                 the defense."
            ),
            _ if !record.attacks.is_empty() => format!(
                "Not every attack worked: of the {images} with a trigger the network takes {asr:.1} % for {goal}. What follows says little about \
                 the defense against those that did not."
            ),
            _ if record.poison.mode == "untargeted" => format!(
                "The attack did not work: of the {images} the network takes {asr:.1} % for {goal} with the trigger, and {:.1} % without. What \
                 follows says little about the defense.",
                100.0 - before.acc
            ),
            _ if asr >= IMPLANTED => format!(
                "The attack did not work: of the {images} with the trigger the network takes {asr:.1} % for {goal}, and of clean images {:.1} % as \
                 well. What follows says little about the defense.",
                before.mistaken.unwrap_or_default()
            ),
            _ => format!(
                "The attack did not work: of the {images} with the trigger the network takes only {asr:.1} % for {goal}. What follows says \
                 little about the defense."
            ),
        });
        said.push(format!("After the defense {left:.1} % are taken for {goal}, and {restored:.1} % for what they are."));
    }
    said.push(format!("On images without {trigger} its accuracy was {:.1} % and is {:.1} %.", before.acc, after.acc));
    said
}

fn flagging(record: &Record) -> String {
    let Some(split) = &record.split else {
        if record.defense == Nothing.name() {
            return "Nothing was done about poisoned images: both networks are the same.".into();
        }
        return format!("{} works on the network: it does not say which images are poisoned.", record.defense);
    };
    match split.flagged {
        0 => format!("None of {} training images was flagged; {} are poisoned.", record.dataset.train, record.poison.count),
        flagged => format!(
            "{flagged} of {} training images were flagged. {:.1} % of them are poisoned (precision), and they are {:.1} % of all that are (recall).",
            record.dataset.train,
            split.precision.unwrap_or_default(),
            split.recall
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
    if !record.attacks.is_empty() {
        let _ = writeln!(table, "<table>");
        for (number, row) in each_attack(&record.attacks).iter().enumerate() {
            let kind = if number == 0 { "th" } else { "td" };
            let cells: String = row.iter().map(|cell| format!("<{kind}>{}</{kind}>", text(cell))).collect();
            let _ = writeln!(table, "<tr>{cells}</tr>");
        }
        let _ = writeln!(table, "</table>");
    }
    table
}

/// Bins of a score's histogram.
const BINS: usize = 32;

/// The scores of poisoned and of clean images, counts on a logarithmic axis, and the least score that was flagged.
fn scores(poison: &[bool], score: &[f32], flagged: &[bool]) -> Result<String> {
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
    let mut all = [("poisoned", true), ("clean", false)].map(|(name, who)| Line { name: name.into(), points: of(who) }).to_vec();
    let most = 1.05 * all.iter().flat_map(|line| &line.points).map(|p| p.1).fold(1.0, f64::max);
    let least = score.iter().zip(flagged).filter(|(_, flagged)| **flagged).map(|(s, _)| f64::from(*s)).reduce(f64::min);
    all.extend(least.map(|at| Line { name: format!("least that is flagged: {at:.2}"), points: vec![(at, 0.0), (at, most)] }));
    let axes = Axes {
        title: "What the defense believes of training images".into(),
        names: ["score: the higher, the more likely poisoned".into(), "log10 (1 + images)".into()],
        x: [0.0, 1.0],
        y: [0.0, most],
    };
    lines(&axes, &all)
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
    use crate::experiment::comparison::{Compared, Condition};

    #[test]
    fn what_strangers_call_things_is_text() {
        assert_eq!(text("<script>&\"x\""), "&lt;script&gt;&amp;&quot;x&quot;");
        assert!(!text("a\u{1b}[31mb").contains('\u{1b}'));
    }

    #[test]
    fn backticks_name_things_and_one_alone_is_itself() {
        assert_eq!(prose("class `<a>` and `b`"), "class <code>&lt;a&gt;</code> and <code>b</code>");
        assert_eq!(prose("a `b"), "a `b");
    }

    #[test]
    fn a_sweeps_page_shows_every_seed_and_its_names_are_text() {
        let over = |values: [f64; 3]| Over { mean: values.iter().sum::<f64>() / 3.0, half: Some(2.5), values: values.to_vec() };
        let row = |attack: &str, defense: &str, values: [f64; 3]| {
            let axes = [("attack", attack), ("defense", defense)].map(|(axis, name)| (axis.to_string(), name.to_string()));
            SweepRow { axes: axes.into(), seeds: 3, implanted: 3, figures: [("asr", over(values))].into() }
        };
        let [bx, by] = [[10.0, 20.0, 33.0], [1.0, 2.0, 3.0]];
        let [cx, cy] = [[90.0, 91.0, 95.0], [0.0, 0.0, 100.0]];
        let rows = [row("<b>", "x", bx), row("<b>", "y", by), row("c", "x", cx), row("c", "y", cy)];
        let condition = |name: &str| Condition { name: name.into(), seeds: 3, implanted: 3 };
        let defense = |name: &str, on: [[f64; 3]; 2]| {
            let by_condition = on.map(|values| BTreeMap::from([("asr", over(values))])).into();
            let means = BTreeMap::from([("der", over([90.0; 3]))]);
            Compared { name: name.into(), needs_clean: false, networks: 6, by_condition, means }
        };
        let defenses = vec![defense("x", [bx, cx]), defense("y", [by, cy])];
        let comparison = Comparison { conditions: vec![condition("<b>"), condition("c")], networks: 6, defenses };
        let page = sweep_page(Some(&comparison), &rows).unwrap();
        assert!(page.contains("&lt;b&gt;, x") && !page.contains("<b>"), "{page}");
        assert!(page.contains("without clean images <code>x</code> (90.0), <code>y</code> (90.0)"), "{page}");
        assert_eq!(page.matches("<circle").count(), 12, "a ring a seed");
        // The heat map of the same, defenses by attacks.
        let heat = page.split("<svg").find(|svg| svg.contains("ASR after, percent")).unwrap();
        let at = |text: &str| heat.find(text).unwrap_or_else(|| panic!("{text} is not in {heat}"));
        assert!(at("21.0") < at("92.0") && at("92.0") < at("2.0\n") && at("2.0\n") < at("33.3"));
        let alone = sweep_page(None, &rows).unwrap();
        assert!(!alone.contains("DER, percent") && alone.matches("<circle").count() == 12, "{alone}");
    }

    /// Two of three poisoned images come first, then a clean one with the third, then the other clean one.
    #[test]
    fn the_curve_goes_through_every_border() {
        let svg = roc(&[true, true, true, false, false], &[0.9, 0.8, 0.5, 0.5, 0.1], 0.9).unwrap();
        let points = svg.matches("polyline").count();
        assert!(points >= 1 && svg.contains("AUROC 0.9000"), "{svg}");
    }
}
