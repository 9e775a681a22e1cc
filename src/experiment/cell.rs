//! Text that strangers gave, as a cell of a table: spreadsheets run what begins with `=`.

use std::borrow::Cow;

use crate::data::shown;

/// What makes a spreadsheet take a cell for a formula.
const STARTS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// `text` as a cell that no spreadsheet runs: an apostrophe before what would be a formula, control characters written out.
pub fn cell(text: &str) -> Cow<'_, str> {
    let mark = if text.starts_with(STARTS) { "'" } else { "" };
    match shown(text) {
        same if same == text && mark.is_empty() => Cow::Borrowed(text),
        shown => Cow::Owned(format!("{mark}{shown}")),
    }
}

/// The text of such a cell, without its apostrophe.
pub(super) fn bare(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|text| text.starts_with(STARTS)).unwrap_or(cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_becomes_text_and_text_comes_back() {
        for formula in ["=1+1", "+1", "-1", "@sum", "=cmd|' /c calc'!A0"] {
            assert_eq!(cell(formula), format!("'{formula}"));
            assert_eq!(bare(&cell(formula)), formula);
        }
        assert_eq!(cell("\tx\n"), "'\\u{9}x\\u{a}");
        for text in ["cat, big", "'quoted'", "a=b", "it's"] {
            assert_eq!((&*cell(text), bare(text)), (text, text));
        }
    }
}
