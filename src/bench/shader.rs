//! The text that the driver gets for the kernels of a name.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::kernels::Placed;
use crate::kernel::{KernelId, expand};

/// The WGSL of every kernel of `nodes` that is called `name` or lies in the file `name`. A text that serves several entry points
/// stands there once, under a comment for each.
///
/// # Errors
/// No such kernel; the message lists those there are.
pub fn text(nodes: &[Placed], name: &str) -> Result<String> {
    let mut ids: Vec<&KernelId> = Vec::new();
    let mut known = BTreeSet::new();
    for id in nodes.iter().flat_map(Placed::variants) {
        let full = format!("{}.{}", id.file, id.entry);
        if [id.file, &full].contains(&name) && !ids.contains(&id) {
            ids.push(id);
        }
        known.insert(full);
    }
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    ensure!(!ids.is_empty(), "--print-shader {name}: no such kernel in this training step; there are: {known}");
    let mut texts: Vec<(Vec<&KernelId>, String)> = Vec::new();
    for id in ids {
        let text = expand(id)?;
        match texts.iter_mut().find(|(_, t)| *t == text) {
            Some((same, _)) => same.push(id),
            None => texts.push((vec![id], text)),
        }
    }
    let print = |(ids, text): (Vec<&KernelId>, String)| ids.iter().map(|id| format!("// {id}\n")).collect::<String>() + &text;
    Ok(texts.into_iter().map(print).collect::<Vec<_>>().join("\n"))
}
