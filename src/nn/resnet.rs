//! ResNet (He et al. 2016), basic blocks. Small images get its common CIFAR form: a 3x3 stem of stride 1 without pooling, names as there
//! (`shortcut`, `linear`). Images of [`LARGE`] pixels a side or more get the original stem, 7x7 of stride 2 and a max pool, and the names
//! that torchvision has for that network (`downsample`, `fc`). An imported network keeps its own stem ([`ModelSpec::stem`]).

use super::{Builder, ModelSpec, Outputs, Stem};
use crate::graph::{GraphError, Value};
use crate::ops::{GlobalAvgPool, MaxPool, Window};

/// Height and width from which images usually get the ImageNet stem.
pub const LARGE: usize = 64;

pub(super) fn resnet18(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    basic(b, spec, images, [2, 2, 2, 2])
}

pub(super) fn resnet34(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    basic(b, spec, images, [3, 4, 6, 3])
}

fn basic(b: &mut Builder, spec: &ModelSpec, images: Value, blocks: [usize; 4]) -> Result<Outputs, GraphError> {
    let large = spec.stem == Stem::Large;
    let (shortcut, classifier) = if large { ("downsample", "fc") } else { ("shortcut", "linear") };
    let (kernel, stride) = if large { (7, 2) } else { (3, 1) };
    let stem = b.conv("conv1", images, spec.width, kernel, stride, Some(3))?;
    let mut x = b.batch_norm("bn1", stem, None, true)?;
    if large {
        x = b.graph().apply(MaxPool(Window { kernel: 3, stride: 2, pad: 1 }), &[x])?[0];
    }
    for (stage, count) in blocks.into_iter().enumerate() {
        let out = spec.width << stage;
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = basic_block(b, &format!("layer{}.{block}", stage + 1), shortcut, x, out, stride)?;
        }
        b.stage(x);
    }
    let features = b.graph().apply(GlobalAvgPool, &[x])?[0];
    let logits = b.linear(classifier, features, spec.classes)?;
    Ok(Outputs { maps: x, features, logits })
}

fn basic_block(b: &mut Builder, name: &str, shortcut: &str, x: Value, out: usize, stride: usize) -> Result<Value, GraphError> {
    let project = stride != 1 || b.graph().shape(x).last() != out;
    let h = b.conv(&format!("{name}.conv1"), x, out, 3, stride, None)?;
    let h = b.batch_norm(&format!("{name}.bn1"), h, None, true)?;
    let h = b.conv(&format!("{name}.conv2"), h, out, 3, 1, None)?;
    let residual = if project {
        let s = b.conv(&format!("{name}.{shortcut}.0"), x, out, 1, stride, None)?;
        b.batch_norm(&format!("{name}.{shortcut}.1"), s, None, false)?
    } else {
        x
    };
    b.batch_norm(&format!("{name}.bn2"), h, Some(residual), true)
}
