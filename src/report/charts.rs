//! Charts as SVG, readable in print and to the colour-blind (Okabe and Ito's colours; lines differ in their dashes, points in their shapes, too).

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::{
    TextStyle,
    text_anchor::{HPos, Pos, VPos},
};

/// A line of a chart.
#[derive(Clone)]
pub(super) struct Line {
    /// As the legend has it.
    pub name: String,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
}

/// Points of one kind.
pub(super) struct Marks {
    /// As the legend has it.
    pub name: String,
    /// How they are drawn.
    pub mark: Mark,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
}

/// A shape with a colour of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A small grey ring.
    Dot,
    /// A blue ring.
    Ring,
    /// A black cross.
    Cross,
    /// A reddish purple disc.
    Disc,
    /// A vermilion triangle.
    Triangle,
}

/// What a chart shows.
pub(super) struct Axes {
    /// Above it.
    pub title: String,
    /// Below and beside it.
    pub names: [String; 2],
    /// From and to.
    pub x: [f64; 2],
    /// From and to.
    pub y: [f64; 2],
}

/// A table of shades.
pub(super) struct Heat<'a> {
    /// Above it.
    pub title: &'a str,
    /// Names, which may be none.
    pub rows: &'a [String],
    /// Names, which may be none.
    pub columns: &'a [String],
    /// Width and height of a cell, pixels.
    pub cell: (u32, u32),
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const SIZE: (u32, u32) = (440, 320);
/// Room for the title above a chart's area.
const HEAD: i32 = 24;
/// Of a legend's row.
const ROW: i32 = 13;
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const SKY: RGBColor = RGBColor(0, 114, 178);
const LEAF: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const GREY: RGBColor = RGBColor(120, 120, 120);
const COLOURS: [RGBColor; 5] = [VERMILION, SKY, LEAF, PURPLE, BLACK];

fn words(size: i32, h: HPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(h, VPos::Center))
}

/// Dashes of the line with this number: pixels drawn, and left out.
fn dashes(line: usize) -> Option<(u32, u32)> {
    (line > 0).then(|| (1 + 4 * line as u32, 3 + line as u32))
}

/// A number without what it does not need: `20`, `0.25`.
fn tick(x: &f64) -> String {
    let text = format!("{x:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// A chart's axes, with its title; below the title is room for a legend whose entries are at `places`.
fn frame<'a, 'b>(root: &'a Area<'b>, axes: &Axes, places: &[(i32, i32)]) -> anyhow::Result<Chart<'a, 'b>> {
    root.draw_text(&axes.title, &words(14, HPos::Center), (SIZE.0 as i32 / 2, 14))?;
    let mut chart = ChartBuilder::on(root)
        .margin(8)
        .margin_top(places.iter().map(|place| place.1 + ROW).fold(HEAD, i32::max))
        .x_label_area_size(38)
        .y_label_area_size(50)
        .build_cartesian_2d(axes.x[0]..axes.x[1], axes.y[0]..axes.y[1])?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&tick)
        .y_label_formatter(&tick)
        .x_desc(&axes.names[0])
        .y_desc(&axes.names[1])
        .label_style(("sans-serif", 12))
        .draw()?;
    Ok(chart)
}

/// Where the entries of a legend begin, so that names of these lengths do not meet: a row, a second one where it is full.
fn places<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(i32, i32)> {
    let mut next = (50, 0);
    let place = |name: &str| {
        let wide = 36 + 6 * name.chars().count() as i32;
        if next.0 + wide > SIZE.0 as i32 && next.0 > 50 {
            next = (50, next.1 + 1);
        }
        let here = next;
        next.0 += wide;
        here
    };
    names.map(place).map(|(x, row)| (x, HEAD + 4 + ROW * row)).collect()
}

/// Lines over numbers.
pub(super) fn lines(axes: &Axes, lines: &[Line]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        // One line needs no legend.
        let legend = if lines.len() > 1 { places(lines.iter().map(|line| line.name.as_str())) } else { Vec::new() };
        let mut chart = frame(&root, axes, &legend)?;
        for (i, line) in lines.iter().enumerate() {
            let style = COLOURS[i % COLOURS.len()].stroke_width(2);
            let points = line.points.iter().copied();
            match dashes(i) {
                None => chart.draw_series(LineSeries::new(points, style))?,
                Some((on, off)) => chart.draw_series(DashedLineSeries::new(points, on, off, style))?,
            };
        }
        for (i, ((x, y), line)) in legend.into_iter().zip(lines).enumerate() {
            let (ends, style) = ([(x, y), (x + 24, y)], COLOURS[i % COLOURS.len()].stroke_width(2));
            match dashes(i) {
                None => root.draw(&PathElement::new(ends, style))?,
                Some((on, off)) => root.draw(&DashedPathElement::new(ends, on, off, style))?,
            }
            root.draw_text(&line.name, &words(12, HPos::Left), (x + 28, y))?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Draws a mark around its middle, in pixels.
fn draw(root: &Area, mark: Mark, at: (i32, i32)) -> anyhow::Result<()> {
    match mark {
        Mark::Dot => root.draw(&Circle::new(at, 2, GREY.stroke_width(1)))?,
        Mark::Ring => root.draw(&Circle::new(at, 4, SKY.stroke_width(1)))?,
        Mark::Cross => root.draw(&Cross::new(at, 4, BLACK.stroke_width(2)))?,
        Mark::Disc => root.draw(&Circle::new(at, 4, PURPLE.filled()))?,
        Mark::Triangle => root.draw(&TriangleMarker::new(at, 4, VERMILION.filled()))?,
    }
    Ok(())
}

/// Points, those of later kinds over those of earlier ones.
pub(super) fn points(axes: &Axes, kinds: &[Marks]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let legend = places(kinds.iter().map(|kind| kind.name.as_str()));
        let chart = frame(&root, axes, &legend)?;
        for kind in kinds {
            for point in &kind.points {
                draw(&root, kind.mark, chart.backend_coord(point))?;
            }
        }
        for ((x, y), kind) in legend.into_iter().zip(kinds) {
            draw(&root, kind.mark, (x + 16, y))?;
            root.draw_text(&kind.name, &words(12, HPos::Left), (x + 24, y))?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Values of rows on one axis, 0 to 100.
pub(super) struct Spread {
    /// Beside the row.
    pub name: String,
    /// One of each seed.
    pub values: Vec<f64>,
    /// Of the values.
    pub mean: f64,
    /// Half of an interval around the mean.
    pub half: Option<f64>,
}

/// A row each: values as rings, their mean as a bar across, the interval as a line.
pub(super) fn spreads(title: &str, rows: &[Spread]) -> anyhow::Result<String> {
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) as i32;
    let (left, top, wide, high) = (24 + 7 * longest, 34, 360, 20);
    let foot = top + high * rows.len() as i32;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, ((left + wide + 24) as u32, (foot + 28) as u32)).into_drawing_area();
        root.draw_text(title, &words(14, HPos::Left), (8, 16))?;
        let x = |value: f64| left + (value.clamp(0.0, 100.0) / 100.0 * f64::from(wide)).round() as i32;
        for value in (0..=100).step_by(20) {
            let at = x(f64::from(value));
            root.draw(&PathElement::new([(at, top), (at, foot)], BLACK.mix(0.15)))?;
            root.draw_text(&value.to_string(), &words(12, HPos::Center), (at, foot + 12))?;
        }
        for (row, y) in rows.iter().zip((0..).map(|k| top + high * k + high / 2)) {
            root.draw_text(&row.name, &words(12, HPos::Right), (left - 8, y))?;
            let half = row.half.unwrap_or(0.0);
            root.draw(&PathElement::new([(x(row.mean - half), y), (x(row.mean + half), y)], SKY.stroke_width(2)))?;
            root.draw(&PathElement::new([(x(row.mean), y - 6), (x(row.mean), y + 6)], SKY.stroke_width(2)))?;
            for value in &row.values {
                root.draw(&Circle::new((x(*value), y), 3, VERMILION.stroke_width(1)))?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

/// Rows by columns of cells, each a share, 0 light and 1 dark, and what is written in it; cells with nothing to write or to shade are left
/// out.
pub(super) fn heat(heat: &Heat, cells: &[Vec<(f64, String)>]) -> anyhow::Result<String> {
    let Heat { title, rows, columns, cell } = *heat;
    let longest = rows.iter().map(|name| name.chars().count()).max().unwrap_or(0) as u32;
    let (left, top) = (24 + 7 * longest, if columns.is_empty() { 34 } else { 60 });
    let wide = cells.first().map_or(0, Vec::len) as u32;
    let size = ((left + cell.0 * wide + 20).max(8 * title.chars().count() as u32), top + cell.1 * cells.len() as u32 + 20);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.draw_text(title, &words(14, HPos::Left), (8, 16))?;
        let gap = i32::from(cell.0 > 9) * 2;
        let at = |row: usize, column: usize| {
            (left as i32 + (cell.0 as usize * column) as i32, top as i32 + (cell.1 as usize * row) as i32)
        };
        let middle = |(x, y): (i32, i32)| (x + cell.0 as i32 / 2, y + cell.1 as i32 / 2);
        for (column, name) in columns.iter().enumerate() {
            let (x, y) = middle(at(0, column));
            root.draw_text(name, &words(12, HPos::Center), (x, y - cell.1 as i32))?;
        }
        for (row, name) in rows.iter().enumerate() {
            root.draw_text(name, &words(12, HPos::Right), (left as i32 - 8, middle(at(row, 0)).1))?;
        }
        if rows.is_empty() {
            let end = at(cells.len(), wide as usize);
            root.draw(&Rectangle::new([at(0, 0), end], BLACK.mix(0.4)))?;
        }
        for (row, cells) in cells.iter().enumerate() {
            for (column, (share, said)) in cells.iter().enumerate().filter(|(_, (share, text))| *share > 0.0 || !text.is_empty())
            {
                let (x, y) = at(row, column);
                // From white to blue, which print keeps apart.
                let mix = |to: f64| (255.0 + (to - 255.0) * share.clamp(0.0, 1.0)) as u8;
                let fill = RGBColor(mix(0.0), mix(90.0), mix(160.0));
                root.draw(&Rectangle::new([(x, y), (x + cell.0 as i32 - gap, y + cell.1 as i32 - gap)], fill.filled()))?;
                let ink = if *share > 0.55 { WHITE } else { BLACK };
                if !said.is_empty() {
                    root.draw_text(said, &words(12, HPos::Center).color(&ink), middle((x, y)))?;
                }
            }
        }
        root.present()?;
    }
    Ok(svg)
}
