//! ResNet (He et al. 2016), basic blocks, in its common CIFAR form: 3x3 stem of stride 1, no pooling, 1x1 projection shortcuts.

use super::{Builder, ModelSpec, Outputs};
use crate::graph::{GraphError, Value};
use crate::ops::GlobalAvgPool;

pub(super) fn resnet18(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    basic(b, spec, images, [2, 2, 2, 2])
}

fn basic(b: &mut Builder, spec: &ModelSpec, images: Value, blocks: [usize; 4]) -> Result<Outputs, GraphError> {
    let stem = b.conv("conv1", images, spec.width, 3, 1, Some(3))?;
    let mut x = b.batch_norm("bn1", stem, None, true)?;
    for (stage, count) in blocks.into_iter().enumerate() {
        let out = spec.width << stage;
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = basic_block(b, &format!("layer{}.{block}", stage + 1), x, out, stride)?;
        }
    }
    let features = b.graph().apply(GlobalAvgPool, &[x])?[0];
    let logits = b.linear("linear", features, spec.classes)?;
    Ok(Outputs { features, logits })
}

fn basic_block(b: &mut Builder, name: &str, x: Value, out: usize, stride: usize) -> Result<Value, GraphError> {
    let project = stride != 1 || b.graph().shape(x).last() != out;
    let h = b.conv(&format!("{name}.conv1"), x, out, 3, stride, None)?;
    let h = b.batch_norm(&format!("{name}.bn1"), h, None, true)?;
    let h = b.conv(&format!("{name}.conv2"), h, out, 3, 1, None)?;
    let shortcut = if project {
        let s = b.conv(&format!("{name}.shortcut.0"), x, out, 1, stride, None)?;
        b.batch_norm(&format!("{name}.shortcut.1"), s, None, false)?
    } else {
        x
    };
    b.batch_norm(&format!("{name}.bn2"), h, Some(shortcut), true)
}
