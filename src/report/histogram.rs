//! A histogram of scores as SVG.

use std::fmt::Write;

use crate::defenses::Split;

/// Bins have their upper ends; every score from which on samples are flagged, 1/8 or 1/2, is one.
const BINS: usize = 16;
/// The bars' area and the room around it, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 44.0;

/// Scores 0 to 1 in bins, those that are flagged in red and in doubt in orange. Heights are logarithmic, each bar says its count.
pub(super) fn histogram(split: &Split, title: &str) -> String {
    let mut counts = [0usize; BINS];
    let mut colours = ["#888"; BINS];
    for (i, score) in split.score.iter().enumerate() {
        let bin = ((f64::from(*score) * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        counts[bin] += 1;
        match (split.flagged[i], split.doubtful(i)) {
            (true, true) => colours[bin] = "#e92",
            (true, false) => colours[bin] = "#c33",
            (false, _) => {}
        }
    }
    let most = counts.iter().map(|&c| (c as f64 + 1.0).ln()).fold(1.0, f64::max);
    let (width, height) = (WIDTH + 2.0 * MARGIN, HEIGHT + 2.0 * MARGIN);
    let base = MARGIN + HEIGHT;
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\" text-anchor=\"middle\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{}\" y=\"18\" font-size=\"14\">{title}</text>\n",
        width / 2.0
    );
    // Writing to a String cannot fail.
    for (bin, &count) in counts.iter().enumerate() {
        let step = WIDTH / BINS as f64;
        let tall = HEIGHT * (count as f64 + 1.0).ln() / most;
        let (left, top) = (MARGIN + step * bin as f64, base - tall);
        let colour = colours[bin];
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{colour}\"/>",
            left + 1.0,
            step - 2.0
        );
        if count > 0 {
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{count}</text>", left + step / 2.0, top - 3.0);
        }
    }
    for tick in 0..=8 {
        let x = MARGIN + WIDTH * f64::from(tick) / 8.0;
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\">{}</text>", base + 16.0, f64::from(tick) / 8.0);
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{MARGIN}\" y1=\"{base}\" x2=\"{}\" y2=\"{base}\" stroke=\"black\"/>\n\
         <text x=\"{}\" y=\"{}\">score: belief that the image is poisoned; red is flagged, orange in doubt; heights are logarithmic</text>\n</svg>",
        MARGIN + WIDTH,
        width / 2.0,
        base + 34.0
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_is_counted_in_its_bin_and_in_the_colour_of_its_verdict() {
        let score = vec![0.0, 0.0, 0.125, 0.126, 0.5, 0.51, 1.0];
        let flagged = score.iter().map(|s| *s > 0.125).collect();
        let svg = histogram(&Split { score, flagged }, "a < b & c");
        let bars: Vec<&str> = svg.lines().filter(|l| l.contains("fill=\"#")).collect();
        assert_eq!(bars.len(), BINS);
        let colours: Vec<usize> = ["#888", "#e92", "#c33"].map(|c| bars.iter().filter(|b| b.contains(c)).count()).into();
        assert_eq!(colours, [12, 2, 2], "below 1/8 and empty; up to 1/4 and to 1/2; .51 and 1");
        let counts: Vec<&str> = svg.lines().filter_map(|l| l.strip_suffix("</text>")?.rsplit('>').next()).collect();
        assert_eq!(counts[1..7], ["2", "1", "1", "1", "1", "1"], "after the title: both zeros, then each its own");
        assert!(svg.contains("a &lt; b &amp; c") && svg.trim_end().ends_with("</svg>"));
    }
}
