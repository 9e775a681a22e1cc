//! Wide ResNet (Zagoruyko and Komodakis 2016): WRN-depth-width, three stages of (depth - 4) / 6 pre-activation blocks of 16, 32 and 64
//! channels times the width. Where a block changes the channels, both of its branches take the activated input; else the shortcut
//! carries the input as it is.

use super::{Builder, ModelSpec, Outputs};
use crate::graph::{GraphError, Value};
use crate::ops::{Add, GlobalAvgPool};

/// Channels of the stem, whatever the width, and what the width multiplies in the first stage.
pub(super) const CHANNELS: usize = 16;

pub(super) fn wrn16(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    wide(b, spec, images, 2)
}

pub(super) fn wrn28(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    wide(b, spec, images, 4)
}

pub(super) fn wrn40(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    wide(b, spec, images, 6)
}

fn wide(b: &mut Builder, spec: &ModelSpec, images: Value, blocks: usize) -> Result<Outputs, GraphError> {
    let mut x = b.conv("conv1", images, CHANNELS, 3, 1, Some(3))?;
    for stage in 0..3 {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let out = (CHANNELS * spec.width) << stage;
            x = wide_block(b, &format!("block{}.layer.{block}", stage + 1), x, out, stride)?;
        }
        b.stage(x);
    }
    let x = b.batch_norm("bn1", x, None, true)?;
    let features = b.graph().apply(GlobalAvgPool, &[x])?[0];
    let logits = b.linear("fc", features, spec.classes)?;
    Ok(Outputs { maps: x, features, logits })
}

fn wide_block(b: &mut Builder, name: &str, x: Value, out: usize, stride: usize) -> Result<Value, GraphError> {
    let project = b.graph().shape(x).last() != out;
    let active = b.batch_norm(&format!("{name}.bn1"), x, None, true)?;
    let shortcut = if project { b.conv(&format!("{name}.convShortcut"), active, out, 1, stride, None)? } else { x };
    let h = b.conv(&format!("{name}.conv1"), active, out, 3, stride, None)?;
    let h = b.batch_norm(&format!("{name}.bn2"), h, None, true)?;
    let h = b.conv(&format!("{name}.conv2"), h, out, 3, 1, None)?;
    Ok(b.graph().apply(Add, &[h, shortcut])?[0])
}
