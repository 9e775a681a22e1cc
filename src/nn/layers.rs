//! Layers that name their parameters as PyTorch does.

use super::{Built, Outputs, Param, ParamKind};
use crate::graph::{Graph, GraphError, Shape, Value};
use crate::ops::{BatchNorm, BatchNormEval, Conv2d, Linear};

/// Adds layers to a graph and collects their parameters.
pub struct Builder<'g> {
    graph: &'g mut Graph,
    train: bool,
    scope: String,
    params: Vec<Param>,
    activations: Vec<(String, Value)>,
    normalised: Vec<(String, Value)>,
    stages: Vec<Value>,
}

/// Batch normalisation as PyTorch defaults it.
const EPS: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

impl<'g> Builder<'g> {
    /// Adds to `graph`; batch norms are [`BatchNorm`] where `train`, else [`BatchNormEval`]. The graph's variables are called as the
    /// parameters are, with `scope` before it.
    pub fn new(graph: &'g mut Graph, train: bool, scope: &str) -> Builder<'g> {
        let (params, activations, normalised, stages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Builder { graph, train, scope: scope.into(), params, activations, normalised, stages }
    }

    /// The network that was added, which gives `outputs`.
    pub(super) fn finish(self, outputs: Outputs) -> Built {
        let Builder { params, activations, normalised, stages, .. } = self;
        Built { outputs, params, activations, normalised, stages }
    }

    /// A stage ends with `y`.
    pub(super) fn stage(&mut self, y: Value) {
        self.stages.push(y);
    }

    fn gave(&mut self, name: &str, y: Value) -> Value {
        self.activations.push((name.into(), y));
        y
    }

    /// The graph that it adds to, for ops without parameters.
    pub fn graph(&mut self) -> &mut Graph {
        self.graph
    }

    fn param(&mut self, name: String, kind: ParamKind) -> Value {
        let shape = kind.device_shape();
        let value = self.graph.variable(&format!("{}{name}", self.scope), shape);
        self.params.push(Param { name, kind });
        value
    }

    /// 2-D convolution without bias, "same" padding (kernel / 2), `kernel` x `kernel`: x [N, H, W, CI] -> [N, H', W', CO].
    pub fn conv(
        &mut self,
        name: &str,
        x: Value,
        out: usize,
        kernel: usize,
        stride: usize,
        image_channels: Option<usize>,
    ) -> Result<Value, GraphError> {
        let inputs = image_channels.unwrap_or(self.graph.shape(x).last());
        let w = self.param(format!("{name}.weight"), ParamKind::Conv { out, inputs, kernel });
        let y = self.graph.apply(Conv2d { stride: stride as u32, pad: (kernel / 2) as u32 }, &[x, w])?[0];
        Ok(self.gave(name, y))
    }

    /// Batch normalisation, then + `residual`, then ReLU, as asked.
    pub fn batch_norm(&mut self, name: &str, x: Value, residual: Option<Value>, relu: bool) -> Result<Value, GraphError> {
        let channels = self.graph.shape(x).last();
        self.normalised.push((name.into(), x));
        let mut inputs = vec![x];
        inputs.push(self.param(format!("{name}.weight"), ParamKind::Scale(channels)));
        inputs.push(self.param(format!("{name}.bias"), ParamKind::Bias(channels)));
        inputs.push(self.param(format!("{name}.running_mean"), ParamKind::RunningMean(channels)));
        inputs.push(self.param(format!("{name}.running_var"), ParamKind::RunningVar(channels)));
        self.params.push(Param { name: format!("{name}.num_batches_tracked"), kind: ParamKind::Counter });
        inputs.extend(residual);
        let residual = residual.is_some();
        let outputs = if self.train {
            self.graph.apply(BatchNorm { eps: EPS, momentum: MOMENTUM, relu, residual }, &inputs)?
        } else {
            self.graph.apply(BatchNormEval { eps: EPS, relu, residual }, &inputs)?
        };
        Ok(self.gave(name, outputs[0]))
    }

    /// x [N, D] -> [N, out].
    pub fn linear(&mut self, name: &str, x: Value, out: usize) -> Result<Value, GraphError> {
        let inputs = self.graph.shape(x).last();
        let w = self.param(format!("{name}.weight"), ParamKind::Matrix { out, inputs });
        let b = self.param(format!("{name}.bias"), ParamKind::Bias(out));
        let y = self.graph.apply(Linear, &[x, w, b])?[0];
        Ok(self.gave(name, y))
    }
}

impl ParamKind {
    /// The shape its buffer has on the device.
    pub fn device_shape(self) -> Shape {
        match self {
            ParamKind::Conv { out, inputs, kernel } => Shape::f32(&[kernel, kernel, inputs.next_multiple_of(4), out]),
            ParamKind::Matrix { out, inputs } => Shape::f32(&[out, inputs]),
            ParamKind::Scale(n) | ParamKind::Bias(n) | ParamKind::RunningMean(n) | ParamKind::RunningVar(n) => Shape::f32(&[n]),
            ParamKind::Counter => Shape::u32(&[1]),
        }
    }
}
