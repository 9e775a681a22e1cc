//! The text of a kernel: the file, its includes, its constants, its repetitions.
//!
//! Three directives, all in line comments so that a file is valid WGSL before they run:
//! - `//: include NAME` puts `shaders/common/NAME.wgsl` here.
//! - `//: for i in A..B` ... `//: end` repeats the lines between for i = A, A+1, .. B-1, replacing `{i}`, `{i / N}`,
//!   `{i % N}`, `{i * N}` and `{i + N}`. A, B and N are integers or `const` names of the file; B may be `X / Y` or `X * Y`.
//!   It nests. It is there because some drivers unroll nothing and keep arrays in memory.
//! - `const NAME = 8u;` at the start of a line is rewritten when the kernel asks for another value.

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
    "common/index",
    "common/hash",
    "common/points",
    "add",
    "argmax",
    "augment",
    "batch_norm",
    "conv2d_matrix",
    "conv2d_register",
    "conv2d_shuffle",
    "conv2d_strip",
    "conv2d_tile",
    "conv2d_weights",
    "global_avg_pool",
    "linear",
    "loss",
    "optimizer",
    "reduce",
    "roof",
    "scale",
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
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (i, line) in file_text(id.file)?.lines().enumerate() {
        match line.trim().strip_prefix("//: include ") {
            Some(name) => {
                let text = file_text(&format!("common/{}", name.trim()))?;
                lines.extend(text.lines().map(|l| (i + 1, l.to_string())));
            }
            None => lines.push((i + 1, line.to_string())),
        }
    }
    let mut consts = HashMap::new();
    let mut replaced = 0;
    for (_, line) in &mut lines {
        let Some((name, rest)) = line.strip_prefix("const ").and_then(|r| r.split_once(" = ")) else { continue };
        let Some((value, tail)) = rest.split_once("u;") else { continue };
        let Ok(default) = value.parse::<u32>() else { continue };
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
            for value in from..to {
                let body: Vec<(usize, String)> =
                    lines[i + 1..end].iter().map(|(n, l)| (*n, substitute(l, &var, value, consts))).collect();
                repeat(&body, consts, out)?;
            }
            i = end + 1;
        } else if directive.starts_with("//: end") {
            return Err((*number, "`//: end` without `//: for`".to_string()));
        } else {
            out.push_str(line);
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

/// An integer, a constant's name, or two of them with one of `+ * / %` between.
fn evaluate(text: &str, consts: &HashMap<String, u32>) -> Option<u32> {
    let atom = |t: &str| t.trim().parse().ok().or_else(|| consts.get(t.trim()).copied());
    for op in ['+', '*', '/', '%'] {
        if let Some((a, b)) = text.split_once(op) {
            let (a, b) = (atom(a)?, atom(b)?);
            return match op {
                '+' => a.checked_add(b),
                '*' => a.checked_mul(b),
                '/' => a.checked_div(b),
                _ => a.checked_rem(b),
            };
        }
    }
    atom(text)
}

/// Replaces `{var}` and `{var op N}` in one line; every other brace is WGSL's own.
fn substitute(line: &str, var: &str, value: u32, consts: &HashMap<String, u32>) -> String {
    let mut scope = consts.clone();
    scope.insert(var.to_string(), value);
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        out.push_str(before);
        let inner = after[1..].split_once('}').map(|(inner, _)| inner);
        let named = inner.is_some_and(|t| t.split(['+', '*', '/', '%']).next().map(str::trim) == Some(var));
        // A range bound or an index inside a nested loop may use an outer variable: it is replaced when its loop runs.
        match inner.filter(|_| named).and_then(|t| evaluate(t, &scope).map(|v| (t.len(), v))) {
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
