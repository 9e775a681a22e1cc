//! The split as CSV: `index,label,score,verdict`, a line a training image.

use std::fmt::Write;
use std::path::Path;

use super::StoreError;
use crate::defenses::Split;

const HEADER: &str = "index,label,score,verdict";
/// The words for a sample that is not flagged and for one that is.
pub const VERDICTS: [&str; 2] = ["clean", "poisoned"];

/// The split of images with these (given) labels.
pub fn split_csv(split: &Split, labels: &[u32]) -> String {
    let mut csv = format!("{HEADER}\n");
    for (i, ((flagged, score), label)) in split.flagged.iter().zip(&split.score).zip(labels).enumerate() {
        // Scores in the shortest form that reads back as the same f32. Writing to a String cannot fail.
        let _ = writeln!(csv, "{i},{label},{score},{}", VERDICTS[usize::from(*flagged)]);
    }
    csv
}

/// Reads back [`split_csv`] of the same images; `path` is for messages.
///
/// # Errors
/// A damaged file or one of other images; the message names the line.
pub fn parse_split(csv: &str, labels: &[u32], path: &Path) -> Result<Split, StoreError> {
    let damaged = |line, why| StoreError::Damaged { path: path.into(), line, why };
    let mut lines = (1..).zip(csv.lines());
    if lines.next().map(|(_, header)| header) != Some(HEADER) {
        return Err(damaged(1, format!("expected `{HEADER}`")));
    }
    let mut split = Split { flagged: Vec::new(), score: Vec::new() };
    for (line, text) in lines {
        let i = split.flagged.len();
        let parsed = match text.split(',').collect::<Vec<_>>()[..] {
            [index, label, score, verdict] if index == i.to_string() => {
                let same = labels.get(i).is_some_and(|l| label == l.to_string());
                let verdict = VERDICTS.iter().position(|v| *v == verdict);
                score.parse::<f32>().ok().zip(verdict).filter(|_| same)
            }
            _ => None,
        };
        let Some((score, verdict)) = parsed else {
            return Err(damaged(line, format!("`{text}` is not the verdict on training image {i}")));
        };
        split.score.push(score);
        split.flagged.push(verdict == 1);
    }
    if split.flagged.len() != labels.len() {
        let why = format!("{} verdicts, but there are {} training images", split.flagged.len(), labels.len());
        return Err(damaged(csv.lines().count(), why));
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_reads_back_bit_for_bit() {
        let split = Split { flagged: vec![true, false, false], score: vec![0.1 + 0.2, f32::MIN_POSITIVE, 1.0] };
        let csv = split_csv(&split, &[0, 7, 2]);
        assert!(csv.starts_with("index,label,score,verdict\n0,0,0.3"), "{csv}");
        let back = parse_split(&csv, &[0, 7, 2], Path::new("split.csv")).expect("parsed");
        assert_eq!((back.flagged, back.score), (split.flagged, split.score));
    }

    #[test]
    fn a_split_of_other_images_is_refused_by_line() {
        let split = Split { flagged: vec![true, false], score: vec![0.9, 0.1] };
        let csv = split_csv(&split, &[0, 7]);
        let message = |csv: &str, labels: &[u32]| parse_split(csv, labels, Path::new("s")).expect_err("refused").to_string();
        assert!(message(&csv, &[0, 8]).starts_with("s, line 3: `1,7,0.1,clean` is not the verdict on training image 1"));
        assert!(message(&csv, &[0, 7, 1]).contains("2 verdicts, but there are 3 training images"));
        assert!(message(&csv, &[0]).contains("line 3"));
        assert!(message("", &[0]).contains("expected `index,label,score,verdict`"));
    }
}
