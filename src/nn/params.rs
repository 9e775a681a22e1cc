//! A network's parameters: names and layouts as PyTorch keeps them, buffers as the kernels want them.

use crate::gpu::{Buffer, Gpu, GpuError};
use crate::graph::Variables;

/// What a parameter is, and so its shape in PyTorch and on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// PyTorch [out, in, k, k]; device [k, k, in padded to 4, out].
    Conv {
        /// Output channels.
        out: usize,
        /// Input channels, without the padding.
        inputs: usize,
        /// Height and width, k.
        kernel: usize,
    },
    /// [out, in] on both.
    Matrix {
        /// Output features.
        out: usize,
        /// Input features.
        inputs: usize,
    },
    /// A batch norm's weight [n].
    Scale(usize),
    /// [n].
    Bias(usize),
    /// A batch norm's running mean `[n]`.
    RunningMean(usize),
    /// A batch norm's running variance `[n]`.
    RunningVar(usize),
    /// Batch norm's `num_batches_tracked`: an i64 in PyTorch, never read by our networks (momentum is fixed), kept for
    /// `load_state_dict(strict=True)`.
    Counter,
}

/// A named parameter of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its key in a PyTorch state dict: `layer1.0.conv1.weight`.
    pub name: String,
    /// Decides its shape and the order of its elements.
    pub kind: ParamKind,
}

impl ParamKind {
    /// The shape in a PyTorch state dict.
    pub fn torch_shape(self) -> Vec<usize> {
        match self {
            ParamKind::Conv { out, inputs, kernel } => vec![out, inputs, kernel, kernel],
            ParamKind::Matrix { out, inputs } => vec![out, inputs],
            ParamKind::Scale(n) | ParamKind::Bias(n) | ParamKind::RunningMean(n) | ParamKind::RunningVar(n) => vec![n],
            ParamKind::Counter => vec![],
        }
    }

    /// Whether the optimizer changes it.
    pub fn trainable(self) -> bool {
        !matches!(self, ParamKind::RunningMean(_) | ParamKind::RunningVar(_) | ParamKind::Counter)
    }

    /// PyTorch's element order to the device's.
    pub fn to_device(self, torch: &[f32]) -> Vec<f32> {
        let ParamKind::Conv { out, inputs, kernel } = self else { return torch.to_vec() };
        let padded = inputs.next_multiple_of(4);
        let mut device = vec![0.0; kernel * kernel * padded * out];
        for (o, i, k) in conv_indices(out, inputs, kernel) {
            device[(k * padded + i) * out + o] = torch[(o * inputs + i) * kernel * kernel + k];
        }
        device
    }

    /// The device's element order to PyTorch's.
    pub fn to_torch(self, device: &[f32]) -> Vec<f32> {
        let ParamKind::Conv { out, inputs, kernel } = self else { return device.to_vec() };
        let padded = inputs.next_multiple_of(4);
        let mut torch = vec![0.0; out * inputs * kernel * kernel];
        for (o, i, k) in conv_indices(out, inputs, kernel) {
            torch[(o * inputs + i) * kernel * kernel + k] = device[(k * padded + i) * out + o];
        }
        torch
    }
}

fn conv_indices(out: usize, inputs: usize, kernel: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..out).flat_map(move |o| (0..inputs).flat_map(move |i| (0..kernel * kernel).map(move |k| (o, i, k))))
}

/// Parameters and their buffers on one device.
#[derive(Clone)]
pub struct ParamSet {
    gpu: Gpu,
    params: Vec<Param>,
    buffers: Variables,
}

impl ParamSet {
    /// Buffers for `params`, zeroed; those that an optimizer changes side by side, in their order.
    ///
    /// # Errors
    /// A parameter over the adapter's limits.
    pub fn new(gpu: &Gpu, params: Vec<Param>) -> Result<ParamSet, GpuError> {
        let (trained, others): (Vec<&Param>, Vec<&Param>) = params.iter().partition(|p| p.kind.trainable());
        let mut buffers = Variables::new();
        for group in [trained, others] {
            let sizes: Vec<(&str, usize)> = group.iter().map(|p| (p.name.as_str(), p.kind.device_shape().len())).collect();
            buffers.extend(group.iter().map(|p| p.name.clone()).zip(gpu.side_by_side(&sizes)?));
        }
        Ok(ParamSet { gpu: gpu.clone(), params, buffers })
    }

    /// In PyTorch's order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// For `Plan::new`.
    pub fn variables(&self) -> &Variables {
        &self.buffers
    }

    /// The same under names with `scope` before, as [`super::ModelSpec::build_scoped`] gives them.
    pub fn variables_in(&self, scope: &str) -> Variables {
        self.buffers.iter().map(|(name, buffer)| (format!("{scope}{name}"), buffer.clone())).collect()
    }

    fn buffer(&self, name: &str) -> Option<&Buffer> {
        self.buffers.get(name)
    }

    /// Writes a parameter given in PyTorch's layout; unknown names are ignored.
    pub fn write(&self, param: &Param, torch: &[f32]) {
        if let Some(buffer) = self.buffer(&param.name) {
            self.gpu.upload(buffer, &param.kind.to_device(torch));
        }
    }

    /// All parameters but counters, in PyTorch's layout.
    ///
    /// # Errors
    /// The driver's, on the way back.
    pub fn read(&self) -> Result<Vec<(Param, Vec<f32>)>, GpuError> {
        let mut out = Vec::new();
        for p in self.params.iter().filter(|p| p.kind != ParamKind::Counter) {
            let device: Vec<f32> = self.gpu.read(&self.buffers[&p.name])?;
            out.push((p.clone(), p.kind.to_torch(&device)));
        }
        Ok(out)
    }
}
