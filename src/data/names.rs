//! Names that strangers gave: which of them may be part of a path, and how they are shown.

use std::path::{Component, Path, PathBuf};

/// `text` with its control characters written out, `\u{1b}` for an escape: fit for one line of a terminal or a table.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Whether a character moves the cursor, breaks a line or turns the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether `name` is one plain component of a path, here and on any other system: no separator, no `..`, no control character.
pub fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name);
    one && !name.contains('\\') && !name.contains(steers)
}

/// The file that a list calls `name`, which lies in `folder`; none if the name leads out of it.
pub(super) fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let name = Path::new(name);
    let plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    (name.file_name().is_some() && name.components().all(plain)).then(|| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert_eq!(shown("cat, größer \\ 猫"), "cat, größer \\ 猫");
        assert_eq!(shown("\u{1b}[31mred\n\r\t\u{7f}\u{9b}"), "\\u{1b}[31mred\\u{a}\\u{d}\\u{9}\\u{7f}\\u{9b}");
        assert_eq!(shown("gnp.\u{202e}exe"), "gnp.\\u{202e}exe");
    }

    #[test]
    fn a_plain_name_is_one_component() {
        for plain in ["cat", "n01443537", "00042", "stop sign, 50", "=1", "..."] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in ["", ".", "..", "a/b", "a/", "/", "/a", "./a", "../../escape", "a\\b", "a\nb", "a\u{1b}[2J", "a\0"] {
            assert!(!is_plain(other), "{other:?}");
        }
    }

    #[test]
    fn a_list_stays_in_its_folder() {
        let folder = Path::new("d");
        assert_eq!(inside(folder, "./a/b.png"), Some("d/a/b.png".into()));
        for out in ["", ".", "/etc/a.png", "../a.png", "a/../../b.png", "a/.."] {
            assert_eq!(inside(folder, out), None, "{out}");
        }
    }
}
