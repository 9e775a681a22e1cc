//! The most suspicious images of each class, for the eye.

use image::{Rgb, RgbImage};

use crate::data::{Dataset, paint};
use crate::defenses::dau::Findings;

/// Images of a class.
const COLUMNS: usize = 12;
/// Classes shown; those with the most flagged come before others where there are more.
const ROWS: usize = 40;
/// Side that small images are enlarged to, at least, in pixels.
const TILE: usize = 64;
/// Room around an image: its frame, in pixels.
const FRAME: usize = 3;
/// Pixels a dot of a numeral.
const DOT: usize = 4;
/// Digits of a class's number that there is room for.
const DIGITS: usize = 4;
const PAPER: Rgb<u8> = Rgb([128; 3]);
const FLAGGED: Rgb<u8> = Rgb([220, 30, 30]);
/// The numerals 0 to 9, three dots wide and five high, row by row from the top, the left dot in the highest bit.
const NUMERALS: [u16; 10] = [
    0b111_101_101_101_111,
    0b010_110_010_010_111,
    0b111_001_111_100_111,
    0b111_001_111_001_111,
    0b101_101_111_001_001,
    0b111_100_111_001_111,
    0b111_100_111_101_111,
    0b111_001_001_010_010,
    0b111_101_111_101_111,
    0b111_101_111_001_111,
];

/// The order of suspicion: by score, then by how far an image lies on the suspect side of its class.
pub(super) fn by_suspicion(findings: &Findings) -> Vec<usize> {
    let mut order: Vec<usize> = (0..findings.suspicion.len()).collect();
    let key = |i: usize| (findings.split.score[i], findings.suspicion[i]);
    order.sort_by(|&a, &b| key(b).0.total_cmp(&key(a).0).then(key(b).1.total_cmp(&key(a).1)));
    order
}

/// A row a class: its number, then its most suspicious images, flagged ones in a red frame.
pub(super) fn sheet(data: &Dataset, findings: &Findings) -> RgbImage {
    let order = by_suspicion(findings);
    let mut classes: Vec<(usize, Vec<usize>)> = (0..data.classes.len() as u32)
        .map(|class| {
            let mine: Vec<usize> = order.iter().copied().filter(|&i| data.labels[i] == class).collect();
            (mine.iter().filter(|&&i| findings.split.flagged[i]).count(), mine.into_iter().take(COLUMNS).collect())
        })
        .collect();
    let mut shown: Vec<usize> = (0..classes.len()).collect();
    shown.sort_by_key(|&class| std::cmp::Reverse(classes[class].0));
    shown.truncate(ROWS);
    shown.sort_unstable();

    let zoom = TILE.div_ceil(data.size);
    let cell = data.size * zoom + 2 * FRAME;
    let left = DIGITS * 4 * DOT + DOT;
    let mut sheet = RgbImage::from_pixel((left + COLUMNS * cell) as u32, (shown.len() * cell) as u32, PAPER);
    for (row, class) in shown.into_iter().enumerate() {
        number(&mut sheet, class, (DOT, row * cell + (cell - 5 * DOT) / 2));
        for (column, i) in std::mem::take(&mut classes[class].1).into_iter().enumerate() {
            let (x, y) = (left + column * cell, row * cell);
            if findings.split.flagged[i] {
                fill(&mut sheet, (x, y), (cell, cell), FLAGGED);
            }
            paint(&mut sheet, ((x + FRAME) as u32, (y + FRAME) as u32), data.image(i), data.size, zoom);
        }
    }
    sheet
}

fn fill(sheet: &mut RgbImage, (x, y): (usize, usize), (wide, high): (usize, usize), colour: Rgb<u8>) {
    for dy in 0..high {
        for dx in 0..wide {
            sheet.put_pixel((x + dx) as u32, (y + dy) as u32, colour);
        }
    }
}

/// Writes the last digits of `value`, from the left.
fn number(sheet: &mut RgbImage, value: usize, (x, y): (usize, usize)) {
    let digits: Vec<usize> = value.to_string().bytes().map(|b| usize::from(b - b'0')).collect();
    for (place, digit) in digits[digits.len().saturating_sub(DIGITS)..].iter().enumerate() {
        for dot in (0..15).filter(|dot| NUMERALS[*digit] >> (14 - dot) & 1 == 1) {
            fill(sheet, (x + (place * 4 + dot % 3) * DOT, y + dot / 3 * DOT), (DOT, DOT), Rgb([255; 3]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defenses::Split;

    #[test]
    fn the_most_suspicious_come_first_and_flagged_ones_are_framed() {
        let data = Dataset {
            name: "test".into(),
            size: 64,
            classes: vec!["a".into(), "b".into()],
            pixels: (0..4u8).flat_map(|i| vec![i; 64 * 64 * 3]).collect(),
            labels: vec![0, 1, 1, 1],
            paths: vec![String::new(); 4],
        };
        let split = Split { flagged: vec![false, false, false, true], score: vec![0.0, 0.0, 0.0, 0.9] };
        let findings = Findings { suspicion: vec![0.0, 0.1, 0.7, 0.3], ..Findings::of(split) };
        assert_eq!(by_suspicion(&findings), [3, 2, 1, 0]);
        let sheet = sheet(&data, &findings);
        let cell = 64 + 2 * FRAME;
        let left = sheet.width() as usize - COLUMNS * cell;
        assert_eq!(sheet.height() as usize, 2 * cell);
        let at = |row: usize, column: usize, inset: usize| {
            *sheet.get_pixel((left + column * cell + inset) as u32, (row * cell + inset) as u32)
        };
        assert_eq!((at(1, 0, 0), at(1, 0, FRAME)), (FLAGGED, Rgb([3; 3])), "row 1 is class 1, its flagged image first");
        assert_eq!((at(1, 1, 0), at(1, 1, FRAME)), (PAPER, Rgb([2; 3])));
        assert_eq!((at(0, 0, FRAME), at(0, 1, FRAME)), (Rgb([0; 3]), PAPER), "class 0 has one image");
        assert!(sheet.pixels().any(|p| *p == Rgb([255; 3])), "numbers are written");
    }
}
