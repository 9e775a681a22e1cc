//! Charts as SVG, readable in print and to the colour-blind (Okabe and Ito's colours; lines differ in their dashes, too).

use plotters::prelude::*;
use plotters::style::{
    TextStyle,
    text_anchor::{HPos, Pos, VPos},
};

/// A line of a chart.
pub(super) struct Line {
    /// As the legend has it.
    pub name: String,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
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

const SIZE: (u32, u32) = (560, 320);
/// Vermilion, blue, bluish green, reddish purple, black.
const COLOURS: [RGBColor; 5] =
    [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115), RGBColor(204, 121, 167), RGBColor(0, 0, 0)];

/// Lines over numbers.
pub(super) fn lines(axes: &Axes, lines: &[Line]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(&axes.title, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(50)
            .build_cartesian_2d(axes.x[0]..axes.x[1], axes.y[0]..axes.y[1])?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(&axes.names[0])
            .y_desc(&axes.names[1])
            .label_style(("sans-serif", 11))
            .draw()?;
        for (i, line) in lines.iter().enumerate() {
            let style = COLOURS[i % COLOURS.len()].stroke_width(2);
            let drawn = match i {
                0 => chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?,
                _ => chart.draw_series(DashedLineSeries::new(line.points.iter().copied(), 4 + 4 * i as u32, 3, style))?,
            };
            drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        if lines.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::MiddleRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK.mix(0.3))
                .label_font(("sans-serif", 11))
                .draw()?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// Rows by columns of percentages, 0 light and 100 dark, each cell with its number.
pub(super) fn heat(title: &str, rows: &[String], columns: &[String], values: &[Vec<Option<f64>>]) -> anyhow::Result<String> {
    let (cell, left, top) = ((86, 26), 150, 60);
    let size = (left + cell.0 * columns.len() as u32 + 20, top + cell.1 * rows.len() as u32 + 20);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let text = |size: i32, h: HPos| TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(h, VPos::Center));
        root.draw_text(title, &text(15, HPos::Left), (8, 16))?;
        let at = |row: usize, column: usize| {
            (left as i32 + (cell.0 as usize * column) as i32, top as i32 + (cell.1 as usize * row) as i32)
        };
        let middle = |(x, y): (i32, i32)| (x + cell.0 as i32 / 2, y + cell.1 as i32 / 2);
        for (column, name) in columns.iter().enumerate() {
            let (x, y) = middle(at(0, column));
            root.draw_text(name, &text(11, HPos::Center), (x, y - cell.1 as i32))?;
        }
        for (row, name) in rows.iter().enumerate() {
            root.draw_text(name, &text(11, HPos::Right), (left as i32 - 8, middle(at(row, 0)).1))?;
            for (column, value) in values[row].iter().enumerate() {
                let (x, y) = at(row, column);
                let share = value.map_or(0.0, |v| v.clamp(0.0, 100.0) / 100.0);
                // From white to blue, which print keeps apart.
                let mix = |to: f64| (255.0 + (to - 255.0) * share) as u8;
                let fill = RGBColor(mix(0.0), mix(90.0), mix(160.0));
                root.draw(&Rectangle::new([(x, y), (x + cell.0 as i32 - 2, y + cell.1 as i32 - 2)], fill.filled()))?;
                let ink = if share > 0.55 { WHITE } else { BLACK };
                let shown = value.map_or("-".to_string(), |v| format!("{v:.1}"));
                root.draw_text(&shown, &text(11, HPos::Center).color(&ink), middle((x, y)))?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}
