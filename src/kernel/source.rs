//! The text of a kernel: the file, its includes, its constants, its repetitions.
//!
//! Three directives, all in line comments so that a file is valid WGSL before they run:
//! - `//: include NAME` puts `shaders/common/NAME.wgsl` here; `{CONST}` in NAME is the value that the kernel asks for.
//! - `//: for i in A..B` ... `//: end` repeats the lines between for i = A, A+1, .. B-1, replacing `{i}` and sums and products
//!   that begin with it: `{i / N}`, `{i % N}`, `{i * N + 1}`. A, B and N are such terms of integers and `const` names of the
//!   file. It nests. It is there because some drivers unroll nothing and keep arrays in memory.
//! - `const NAME = 8u;` at the start of a line is rewritten when the kernel asks for another value; `{NAME / 2}` stands for that
//!   value where WGSL takes no constant, as in the name of a type.

use std::collections::HashMap;

use super::{KernelError, KernelId};

macro_rules! shaders {
    ($($name:literal),* $(,)?) => {
        /// Every file under `shaders/`, by name without `.wgsl`.
        pub static SHADERS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*];
    };
}

shaders![
    "common/conv2d",
    "common/epilogue",
    "common/index",
    "common/hash",
    "common/extents",
    "common/half",
    "common/load1",
    "common/load2",
    "common/matrix_products",
    "common/points",
    "common/quads",
    "common/rows",
    "common/tile_outer",
    "common/tile_product",
    "add",
    "argmax",
    "attention",
    "augment",
    "batch_norm",
    "batch_norm_grad",
    "conv2d_matrix",
    "conv2d_register",
    "conv2d_shuffle",
    "conv2d_strip",
    "conv2d_tile",
    "conv2d_weights",
    "extremes",
    "global_avg_pool",
    "half",
    "linear",
    "loss",
    "max_pool",
    "multiply",
    "optimizer",
    "products_tile",
    "reduce",
    "roof",
    "sam",
    "winograd",
];

fn file_text(name: &str) -> Result<&'static str, KernelError> {
    SHADERS.iter().find(|(n, _)| *n == name).map(|(_, t)| *t).ok_or_else(|| KernelError::NoFile(name.to_string()))
}

/// The WGSL that the driver gets for `id`.
///
/// # Errors
/// An unknown file, an unknown constant, or a directive that cannot be understood, with its line.
pub fn expand(id: &KernelId) -> Result<String, KernelError> {
    let fail = |line: usize, why: String| KernelError::Directive { file: id.file.to_string(), line, why };
    let text = file_text(id.file)?;
    let mut asked: HashMap<String, u32> = text.lines().filter_map(constant).map(|(n, v, _)| (n.to_string(), v)).collect();
    asked.extend(id.consts.iter().map(|(name, value)| (name.to_string(), *value)));
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        include(i + 1, line, &asked, &mut lines)?;
    }
    only_entry(&mut lines, id.entry);
    let mut consts = HashMap::new();
    let mut replaced = 0;
    for (_, line) in &mut lines {
        let Some((name, default, tail)) = constant(line) else { continue };
        let value = match id.consts.iter().find(|(n, _)| *n == name) {
            Some((_, v)) => {
                replaced += 1;
                *v
            }
            None => default,
        };
        consts.insert(name.to_string(), value);
        *line = format!("const {name} = {value}u;{tail}");
    }
    if replaced != id.consts.len() {
        let missing = id.consts.iter().find(|(n, _)| !consts.contains_key(*n)).map_or("(twice)", |(n, _)| n);
        return Err(KernelError::NoConst { file: id.file.to_string(), name: missing.to_string() });
    }
    let mut out = String::new();
    repeat(&lines, &consts, &mut out).map_err(|(line, why)| fail(line, why))?;
    Ok(out)
}

/// Appends `line`, or the file that it includes.
fn include(number: usize, line: &str, asked: &HashMap<String, u32>, lines: &mut Vec<(usize, String)>) -> Result<(), KernelError> {
    let Some(name) = line.trim().strip_prefix("//: include ") else {
        lines.push((number, line.to_string()));
        return Ok(());
    };
    let name = substitute(name.trim(), |name| asked.contains_key(name), asked);
    file_text(&format!("common/{name}"))?.lines().try_for_each(|l| include(number, l, asked, lines))
}

/// `const NAME = 8u; // ...` -> (NAME, 8, the rest).
fn constant(line: &str) -> Option<(&str, u32, &str)> {
    let (name, rest) = line.strip_prefix("const ")?.split_once(" = ")?;
    let (value, tail) = rest.split_once("u;")?;
    Some((name, value.parse().ok()?, tail))
}

/// Drops what is not `entry` of a file's entry points, which would be expanded, parsed and compiled in vain: each from its `@compute` to
/// the brace at the start of a line. A text without `entry` stays whole.
fn only_entry(lines: &mut Vec<(usize, String)>, entry: &str) {
    let head = format!("fn {entry}(");
    if !lines.iter().any(|(_, l)| l.starts_with(&head)) {
        return;
    }
    let mut kept = Vec::with_capacity(lines.len());
    let mut rest = std::mem::take(lines).into_iter().peekable();
    while let Some(line) = rest.next() {
        let other = |next: &(usize, String)| !next.1.starts_with(&head);
        if line.1.starts_with("@compute") && rest.peek().is_some_and(other) {
            while rest.next().is_some_and(|(_, l)| l != "}") {}
        } else {
            kept.push(line);
        }
    }
    *lines = kept;
}

type Fault = (usize, String);

/// Copies `lines` to `out`, expanding `//: for` blocks, innermost last.
fn repeat(lines: &[(usize, String)], consts: &HashMap<String, u32>, out: &mut String) -> Result<(), Fault> {
    let mut i = 0;
    while i < lines.len() {
        let (number, line) = &lines[i];
        let directive = line.trim();
        if let Some(head) = directive.strip_prefix("//: for ") {
            let end = matching_end(lines, i).ok_or((*number, "no `//: end` for this `//: for`".to_string()))?;
            let (var, from, to) = parse_for(head, consts).ok_or((*number, format!("cannot understand `{directive}`")))?;
            let mut scope = consts.clone();
            for value in from..to {
                scope.insert(var.clone(), value);
                let body: Vec<(usize, String)> =
                    lines[i + 1..end].iter().map(|(n, l)| (*n, substitute(l, |name| name == var, &scope))).collect();
                repeat(&body, &scope, out)?;
            }
            i = end + 1;
        } else if directive.starts_with("//: end") {
            return Err((*number, "`//: end` without `//: for`".to_string()));
        } else {
            out.push_str(&substitute(line, |name| consts.contains_key(name), consts));
            out.push('\n');
            i += 1;
        }
    }
    Ok(())
}

fn matching_end(lines: &[(usize, String)], start: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, (_, line)) in lines.iter().enumerate().skip(start) {
        if line.trim().starts_with("//: for ") {
            depth += 1;
        } else if line.trim().starts_with("//: end") {
            depth -= 1;
            if depth == 0 {
                return Some(i);
            }
        }
    }
    None
}

/// `i in 0..MT / 8` -> ("i", 0, MT / 8).
fn parse_for(head: &str, consts: &HashMap<String, u32>) -> Option<(String, u32, u32)> {
    let (var, range) = head.split_once(" in ")?;
    let (from, to) = range.split_once("..")?;
    Some((var.trim().to_string(), evaluate(from, consts)?, evaluate(to, consts)?))
}

/// An integer, a constant's name, or several of them with `+ * / %` between: `+` last, the others from left to right.
fn evaluate(text: &str, consts: &HashMap<String, u32>) -> Option<u32> {
    if let Some((a, b)) = text.rsplit_once('+') {
        return evaluate(a, consts)?.checked_add(evaluate(b, consts)?);
    }
    let Some(at) = text.rfind(['*', '/', '%']) else {
        return text.trim().parse().ok().or_else(|| consts.get(text.trim()).copied());
    };
    let (a, b) = (evaluate(&text[..at], consts)?, evaluate(&text[at + 1..], consts)?);
    match text.as_bytes()[at] {
        b'*' => a.checked_mul(b),
        b'/' => a.checked_div(b),
        _ => a.checked_rem(b),
    }
}

/// Replaces `{NAME}` and terms that begin with NAME in one line, for every NAME that is `wanted`; every other brace is WGSL's own.
fn substitute(line: &str, wanted: impl Fn(&str) -> bool, values: &HashMap<String, u32>) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        out.push_str(before);
        let inner = after[1..].split_once('}').map(|(inner, _)| inner);
        let named = |t: &&str| t.split(['+', '*', '/', '%']).next().is_some_and(|name| wanted(name.trim()));
        // A range bound or an index inside a nested loop may use an outer variable: it is replaced when its loop runs.
        match inner.filter(named).and_then(|t| evaluate(t, values).map(|v| (t.len(), v))) {
            Some((length, v)) => {
                out.push_str(&v.to_string());
                rest = &after[length + 2..];
            }
            None => {
                out.push('{');
                rest = &after[1..];
            }
        }
    }
    out.push_str(rest);
    out
}
