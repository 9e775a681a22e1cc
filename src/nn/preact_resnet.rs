//! Pre-activation ResNet (He et al. 2016, Identity Mappings) in its common CIFAR form: batch norm and ReLU before each convolution,
//! none after the last; shortcuts that change shape are bare 1x1 convolutions of the activated input.

use super::{Builder, ModelSpec, Outputs};
use crate::graph::{GraphError, Value};
use crate::ops::{Add, GlobalAvgPool};

pub(super) fn preact_resnet18(b: &mut Builder, spec: &ModelSpec, images: Value) -> Result<Outputs, GraphError> {
    let mut x = b.conv("conv1", images, spec.width, 3, 1, Some(3))?;
    for stage in 0..4 {
        for block in 0..2 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = preact_block(b, &format!("layer{}.{block}", stage + 1), x, spec.width << stage, stride)?;
        }
        b.stage(x);
    }
    let features = b.graph().apply(GlobalAvgPool, &[x])?[0];
    let logits = b.linear("linear", features, spec.classes)?;
    Ok(Outputs { maps: x, features, logits })
}

fn preact_block(b: &mut Builder, name: &str, x: Value, out: usize, stride: usize) -> Result<Value, GraphError> {
    let project = stride != 1 || b.graph().shape(x).last() != out;
    let active = b.batch_norm(&format!("{name}.bn1"), x, None, true)?;
    let shortcut = if project { b.conv(&format!("{name}.shortcut.0"), active, out, 1, stride, None)? } else { x };
    let h = b.conv(&format!("{name}.conv1"), active, out, 3, stride, None)?;
    let h = b.batch_norm(&format!("{name}.bn2"), h, None, true)?;
    let h = b.conv(&format!("{name}.conv2"), h, out, 3, 1, None)?;
    Ok(b.graph().apply(Add, &[h, shortcut])?[0])
}
