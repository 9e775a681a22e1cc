//! Of a page: what the networks were seen to do, in charts and pictures.

use std::fmt::Write;
use std::io::Cursor;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, RgbImage};

use super::charts::{Axes, Heat, Line, Mark, Marks, heat, lines, points};
use super::overlay::{enlarged, overlay, scale};
use super::page::{figure, prose, text};
use crate::data::shown;
use crate::experiment::evaluate::Count;
use crate::experiment::{Cloud, CurvePoint, Inspection, Look, Projection, START, TRAIN};

/// Classes that a matrix has numbers and names for; of more it has shades.
const NUMBERED: usize = 12;
/// Side of a matrix without numbers, about, pixels.
const SIDE: usize = 400;
/// Errors that are listed where there are no numbers.
const LISTED: usize = 10;
/// Characters of a class's name in a chart.
const NAME: usize = 14;

/// Which clean test images are taken for what, before and after.
pub(super) fn confusion(inspection: &Inspection) -> Result<String> {
    let Inspection { classes, confusion: matrices, .. } = inspection;
    let mut html = "<h2>What is taken for what</h2>\n<div class=\"charts\">\n".to_string();
    for (title, matrix) in ["Before the defense", "After the defense"].into_iter().zip(matrices) {
        html += &figure(&self::matrix(title, classes, matrix)?, "");
    }
    html += "</div>\n";
    let numbered = classes.len() <= NUMBERED;
    let how = match numbered {
        true => "The darker a cell, the larger its share of the row.",
        false => "A shade goes with the square root of a cell's share of its row; white cells are empty.",
    };
    let _ = writeln!(
        html,
        "<p>Clean test images: a row is a true class, a column what the network takes its images for. What is right lies on the diagonal. {how}</p>"
    );
    if !numbered {
        html += &errors(classes, matrices);
    }
    Ok(html)
}

fn matrix(title: &str, classes: &[String], counts: &[Vec<usize>]) -> Result<String> {
    let numbered = classes.len() <= NUMBERED;
    let cell = |row: &[usize], count: usize| {
        let share = count as f64 / row.iter().sum::<usize>().max(1) as f64;
        if numbered { (share, count.to_string()) } else { (share.sqrt(), String::new()) }
    };
    let cells: Vec<Vec<_>> = counts.iter().map(|row| row.iter().map(|count| cell(row, *count)).collect()).collect();
    let side = (SIDE / classes.len().max(1)).max(2) as u32;
    let (rows, columns): (Vec<String>, Vec<String>) = match numbered {
        true => (0..classes.len()).map(|label| (named(classes, label), label.to_string())).unzip(),
        false => (Vec::new(), Vec::new()),
    };
    heat(&Heat { title, rows: &rows, columns: &columns, cell: if numbered { (34, 26) } else { (side, side) } }, &cells)
}

/// A class by its number and, where that is another one, its name.
fn named(classes: &[String], label: usize) -> String {
    let name = shown(&classes[label]);
    let short: String =
        if name.chars().count() > NAME { name.chars().take(NAME).chain(['…']).collect() } else { name.to_string() };
    if short == label.to_string() { short } else { format!("{short} {label}") }
}

/// The most frequent errors after the defense, beside those before.
fn errors(classes: &[String], [before, after]: &[Vec<Vec<usize>>; 2]) -> String {
    let of = |truth: usize| (0..classes.len()).map(move |said| (truth, said));
    let mut errors: Vec<_> = (0..classes.len()).flat_map(of).filter(|(truth, said)| truth != said).collect();
    errors.sort_by_key(|&(truth, said)| std::cmp::Reverse((after[truth][said], before[truth][said])));
    let mut table =
        "<table>\n<tr><th>most frequent errors</th><th>taken for</th><th>before</th><th>after</th></tr>\n".to_string();
    for (truth, said) in errors.into_iter().take(LISTED) {
        let (names, counts) = ([truth, said].map(|k| text(&classes[k])), [before, after].map(|counts| counts[truth][said]));
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            names[0], names[1], counts[0], counts[1]
        );
    }
    table + "</table>\n"
}

/// Features of training images in two dimensions.
pub(super) fn projection(projection: &Projection) -> Result<String> {
    let Projection { explained, clouds } = projection;
    let wide = |j: usize| {
        let all = || clouds.iter().flat_map(|cloud| &cloud.points).map(|point| f64::from(point[j]));
        let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
        let rim = ((high - low) * 0.05).max(1e-6);
        [low - rim, high + rim]
    };
    let name = |j: usize| format!("principal component {}: {:.0} % of the variance", j + 1, 100.0 * explained[j]);
    let axes =
        Axes { title: "What the network sees in training images".into(), names: [name(0), name(1)], x: wide(0), y: wide(1) };
    let kinds: Vec<Marks> = clouds.iter().map(marks).collect();
    Ok(figure(
        &points(&axes, &kinds)?,
        "Features before the last layer, of the network before the defense, on their two directions of greatest variance. Of many images a sample \
         is shown. Where poison lies apart from the clean images of its class, the network tells them apart.",
    ))
}

fn marks(cloud: &Cloud) -> Marks {
    let mark = match cloud.name.as_str() {
        "poisoned and flagged" | "flagged" => Mark::Triangle,
        "poisoned, not flagged" => Mark::Disc,
        "clean but flagged" => Mark::Cross,
        "clean, of the target class" | "of the same class, not flagged" => Mark::Ring,
        _ => Mark::Dot,
    };
    let (shown, of) = (cloud.points.len(), cloud.of);
    let name = if shown < of { format!("{} ({shown} of {of})", cloud.name) } else { format!("{} ({of})", cloud.name) };
    Marks { name, mark, points: cloud.points.iter().map(|[x, y]| (f64::from(*x), f64::from(*y))).collect() }
}

/// ACC, ASR and RA while networks were trained: a chart of the network's own training, and one of each that the defense adds; beside them
/// what else was `seen`.
pub(super) fn curves(curve: &[CurvePoint], seen: &str) -> Result<String> {
    let mut stages: Vec<(&str, Vec<&CurvePoint>)> = Vec::new();
    for point in curve.iter().filter(|point| point.stage != START) {
        match stages.iter_mut().find(|(name, _)| *name == point.stage) {
            Some((_, points)) => points.push(point),
            None => stages.push((&point.stage, vec![point])),
        }
    }
    let start = curve.iter().find(|point| point.stage == START);
    let mut charts = String::new();
    for (stage, mut points) in stages {
        if stage != TRAIN && goes_on(&points) {
            points.splice(0..0, start);
        }
        if points.len() > 1 {
            charts += &figure(&stage_chart(stage, &points)?, "");
        }
    }
    if charts.is_empty() && seen.is_empty() {
        return Ok(charts);
    }
    let mut html = format!("<h2>While the networks were trained</h2>\n<div class=\"charts\">\n{charts}{seen}</div>\n");
    let Some(first) = curve.first().filter(|_| !charts.is_empty()) else { return Ok(html) };
    let triggered = first.asr.map_or(String::new(), |asr| format!(" and {} triggered", asr.of));
    let _ = writeln!(
        html,
        "<p>ACC, ASR and RA are measured on {} clean{triggered} test images, the same each time, so that a step of {:.1} points is one image. The defense sees none of \
         this. It may keep an earlier network than the last, or a mean of two: the table above has the figures of what it kept.</p>",
        first.acc.of,
        100.0 / first.acc.of.max(1) as f64
    );
    if !curve.iter().any(|point| point.stage == TRAIN) {
        html += "<p>The network's own training was not measured here: it was trained elsewhere.</p>\n";
    }
    Ok(html)
}

/// Whether a training goes on with a network that had learned before: a fresh one has taken as many steps an epoch from the first on.
fn goes_on(points: &[&CurvePoint]) -> bool {
    let steps = |point: &CurvePoint, other: &CurvePoint| point.steps * other.epoch as u64;
    points.first().zip(points.last()).is_some_and(|(first, last)| steps(first, last) != steps(last, first))
}

fn stage_chart(stage: &str, points: &[&CurvePoint]) -> Result<String> {
    // A fresh network's steps count from nothing.
    let begin = if points[0].stage == START { points[0].steps } else { 0 };
    let name = if stage == TRAIN { "epoch" } else { "step" };
    let at = |point: &CurvePoint| if stage == TRAIN { point.epoch as f64 } else { (point.steps - begin) as f64 };
    let line = |name: &str, of: &dyn Fn(&CurvePoint) -> Option<Count>| {
        let points: Vec<_> = points.iter().filter_map(|point| Some((at(point), of(point)?.percent()))).collect();
        Line { name: name.into(), points }
    };
    let all = [line("ACC", &|point| Some(point.acc)), line("ASR", &|point| point.asr), line("RA", &|point| point.ra)];
    let all: Vec<Line> = all.into_iter().filter(|line| !line.points.is_empty()).collect();
    let last = points.iter().map(|point| at(point)).fold(1.0, f64::max);
    let axes = Axes {
        title: format!("{}, by {name}", capital(stage)),
        names: [name.into(), "percent".into()],
        x: [points.first().map_or(0.0, |point| at(point)), last],
        y: [0.0, 103.0],
    };
    lines(&axes, &all)
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Where the networks look in a few triggered images.
pub(super) fn looks(inspection: &Inspection) -> Result<String> {
    let Some(first) = inspection.looks.first() else { return Ok(String::new()) };
    let mut html = "<h2>Where the networks look</h2>\n<div class=\"looks\">\n".to_string();
    for look in &inspection.looks {
        html += &tiles(inspection, look)?;
    }
    let _ = writeln!(
        html,
        "</div>\n<p>0 {} most. {}</p>",
        picture(&scale(), "colours from dark blue to bright yellow")?,
        prose(&format!(
            "Triggered test images, and what speaks for the class that each is taken for: the class activation map of the last stage, {0} x {0} \
             places, enlarged. With a mean over places and one linear layer behind it, it is Grad-CAM's map. Each map has a scale of its own.",
            first.side
        ))
    );
    Ok(html)
}

fn tiles(inspection: &Inspection, look: &Look) -> Result<String> {
    let image = image::load_from_memory(&STANDARD.decode(&look.png)?)?.to_rgb8();
    let class = |label: u32| inspection.classes.get(label as usize).map_or_else(|| label.to_string(), |name| text(name));
    let seen = |which: usize| overlay(&image, &look.maps[which], look.side);
    let tile = |picture: String, words: String| format!("<figure>{picture}<figcaption>{words}</figcaption></figure>");
    let [before, after] = look.class.map(class);
    Ok(format!(
        "<div>{}{}{}</div>\n",
        tile(picture(&enlarged(&image), "image with the trigger")?, format!("a {}", class(look.label))),
        tile(picture(&seen(0), "where the network looks before the defense")?, format!("before: taken for {before}")),
        tile(picture(&seen(1), "where the network looks after the defense")?, format!("after: taken for {after}")),
    ))
}

/// An image as part of a page.
fn picture(image: &RgbImage, words: &str) -> Result<String> {
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png)?;
    Ok(embedded(png.get_ref(), words))
}

/// A PNG as part of a page; `words` say what it shows.
pub(super) fn embedded(png: &[u8], words: &str) -> String {
    format!("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", text(words), STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written in an SVG, in its order.
    fn texts(svg: &str) -> Vec<&str> {
        svg.split("<text").skip(1).filter_map(|text| Some(text.split_once('>')?.1.split_once("</text>")?.0.trim())).collect()
    }

    fn inspection(classes: &[&str], confusion: [Vec<Vec<usize>>; 2]) -> Inspection {
        let classes = classes.iter().map(ToString::to_string).collect();
        Inspection { classes, confusion, projection: Projection::default(), looks: Vec::new() }
    }

    #[test]
    fn a_matrix_has_the_records_counts_and_its_names_are_text() {
        let counts = [vec![vec![7, 1, 0], vec![2, 5, 3], vec![0, 0, 9]], vec![vec![8, 0, 0], vec![4, 6, 0], vec![1, 0, 8]]];
        let seen = inspection(&["0", "<script>&", "a name\u{1b} of many letters"], counts.clone());
        let html = confusion(&seen).unwrap();
        let svgs: Vec<&str> = html.split("<svg").skip(1).collect();
        for (svg, counts) in svgs.iter().zip(&counts) {
            let said = texts(svg);
            assert_eq!(said[1..4], ["0", "1", "2"], "columns go by numbers");
            assert_eq!(said[4..7], ["0", "&lt;script&gt;&amp; 1", "a name\\u{1b} o… 2"]);
            let cells: Vec<String> = counts.iter().flatten().map(ToString::to_string).collect();
            assert_eq!(said[7..], cells);
        }
        assert!(svgs.len() == 2 && !html.contains("<script>"));
    }

    #[test]
    fn a_matrix_of_many_classes_has_shades_and_lists_its_errors() {
        let names: Vec<String> = (0..40).map(|k| format!("<{k}>")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let diagonal = |wrong: usize| {
            let mut counts = vec![vec![0; 40]; 40];
            (0..40).for_each(|k| counts[k][k] = 10);
            counts[3][17] = wrong;
            counts
        };
        let html = confusion(&inspection(&names, [diagonal(2), diagonal(6)])).unwrap();
        assert!(
            html.contains("<tr><td>&lt;3&gt;</td><td>&lt;17&gt;</td><td class=\"n\">2</td><td class=\"n\">6</td></tr>"),
            "{html}"
        );
        let svg = html.split("<svg").nth(1).unwrap().split("</svg>").next().unwrap();
        assert_eq!(texts(svg), ["Before the defense"]);
        assert_eq!(svg.matches("<rect").count(), 1 + 41, "the rim, and what is not empty");
    }

    fn point(stage: &str, epoch: usize, steps: u64, [acc, asr]: [usize; 2]) -> CurvePoint {
        let count = |hits| Some(Count { hits, of: 100 });
        CurvePoint { stage: stage.into(), epoch, steps, acc: Count { hits: acc, of: 100 }, asr: count(asr), ra: None }
    }

    /// A polyline's points in pixels.
    fn pixels(svg: &str) -> Vec<(f64, f64)> {
        let line = svg.split("<polyline").find(|line| line.contains("#D55E00") && line.contains("stroke-width=\"2\"")).unwrap();
        let points = line.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
        let number = |text: &str| text.parse().unwrap();
        points.split_whitespace().map(|point| point.split_once(',').map(|(x, y)| (number(x), number(y))).unwrap()).collect()
    }

    #[test]
    fn a_curve_goes_through_what_was_measured() {
        let curve = [
            point("train", 1, 21, [0, 90]),
            point("train", 2, 42, [50, 95]),
            point("train", 4, 84, [100, 100]),
            point(START, 0, 84, [100, 100]),
            point("unlearn", 1, 109, [90, 40]),
            point("unlearn", 2, 134, [95, 0]),
        ];
        let html = curves(&curve, "").unwrap();
        let svgs: Vec<&str> = html.split("<svg").skip(1).collect();
        let train = pixels(svgs[0]);
        assert_eq!(train.len(), 3);
        let near = |a: f64, b: f64| assert!((a - b).abs() <= 1.0, "{train:?}");
        near(train[0].1 - train[1].1, train[1].1 - train[2].1);
        near(2.0 * (train[1].0 - train[0].0), train[2].0 - train[1].0);
        assert!(train[0].1 > 250.0 && train[2].1 < 60.0, "0 is at the foot, 100 near the head: {train:?}");
        assert!(texts(svgs[0])[0].starts_with("Train, by epoch") && texts(svgs[1])[0] == "Unlearn, by step");
        assert_eq!(pixels(svgs[1]).len(), 3, "it begins with the network before");
        assert!(html.contains("100 clean and 100 triggered test images") && !html.contains("trained elsewhere"), "{html}");
        // A fresh network has no past, and what was not measured is said.
        let fresh = [point(START, 0, 84, [100, 100]), point("train anew", 1, 20, [10, 0]), point("train anew", 2, 40, [90, 0])];
        let html = curves(&fresh, "").unwrap();
        assert_eq!(pixels(&html).len(), 2);
        assert!(html.contains("it was trained elsewhere"));
        assert_eq!(curves(&[], "").unwrap(), "");
        assert!(curves(&[], "<figure>").unwrap().contains("<figure>"));
    }

    #[test]
    fn points_are_drawn_by_what_they_are() {
        let cloud = |name: &str, of: usize, points: &[[f32; 2]]| Cloud { name: name.into(), of, points: points.to_vec() };
        let seen = Projection {
            explained: [0.5, 0.25],
            clouds: vec![
                cloud("clean, of other classes", 900, &[[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]]),
                cloud("poisoned, not flagged", 1, &[[4.0, 3.0]]),
                cloud("poisoned and flagged", 2, &[[5.0, 3.0], [5.0, 2.0]]),
            ],
        };
        let html = projection(&seen).unwrap();
        let names = ["clean, of other classes (3 of 900)", "poisoned, not flagged (1)", "poisoned and flagged (2)"];
        assert!(names.iter().all(|name| texts(&html).contains(name)), "{html}");
        // Each legend has one more.
        assert_eq!([html.matches("<polygon").count(), html.matches("<circle").count()], [3, 6]);
    }
}
