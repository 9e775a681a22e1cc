//! Words on stderr. Whoever read them may have gone away (`2>&1 | head -1`), or the disk that they went to may be full: that ends no run.

/// A line on stderr, as `eprintln!`, which would panic.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
