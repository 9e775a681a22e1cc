//! Pipelines, made once each.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::{KernelError, KernelId, Reflected, Tuning, expand, reflect};
use crate::gpu::{Candidate, Caps, Gpu, GpuError};

/// A compiled entry point and its interface.
pub struct Kernel {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// Its bindings, its `Params` and its workgroup size.
    pub reflected: Reflected,
}

/// Is told how many of how many kernels are compiled: none at first, all at the end. Threads tell it at once.
pub type Watch = dyn Fn(usize, usize) + Send + Sync;

/// All kernels compiled for one device. Clones share it.
#[derive(Clone)]
pub struct Kernels {
    gpu: Gpu,
    made: Arc<Mutex<HashMap<KernelId, Arc<Kernel>>>>,
    tuning: Option<Arc<Tuning>>,
    watch: Option<Arc<Watch>>,
}

impl Kernels {
    /// Ops choose their staging by the rule.
    pub fn new(gpu: Gpu) -> Kernels {
        Kernels { gpu, made: Arc::default(), tuning: None, watch: None }
    }

    /// Ops run the way that was measured fastest, where one was.
    pub fn with_tuning(gpu: Gpu, tuning: Tuning) -> Kernels {
        Kernels { tuning: Some(Arc::new(tuning)), ..Kernels::new(gpu) }
    }

    /// The same device and pipelines, with all ops run one way, which it must offer.
    pub fn with(&self, candidate: Candidate) -> Kernels {
        Kernels { gpu: self.gpu.with(candidate), tuning: None, ..self.clone() }
    }

    /// The same, where `watch` follows what is compiled for a plan.
    pub fn watched(self, watch: Arc<Watch>) -> Kernels {
        Kernels { watch: Some(watch), ..self }
    }

    /// The measured choices that ops follow; `None` where they go by the rule or all run one way.
    pub fn tuning(&self) -> Option<&Tuning> {
        self.tuning.as_deref()
    }

    /// The adapter, and by which file its convolutions are tuned, if they are: for a record.
    pub fn describe(&self) -> String {
        let tuned = self.tuning().map_or(String::new(), |tuning| format!(", tuned by {}", tuning.file().display()));
        format!("{}{tuned}", self.gpu.describe())
    }

    /// How convolutions run, for a record: by class where it was measured, whether this network has such or not, and `otherwise`.
    pub fn choices(&self) -> BTreeMap<String, String> {
        let measured = self.tuning().map(Tuning::all).unwrap_or_default();
        let named = measured.into_iter().map(|(class, candidate)| (class, candidate.name()));
        named.chain([("otherwise".to_string(), self.gpu.caps().candidate().name())]).collect()
    }

    /// What an op of this tuning class may know of the adapter.
    pub fn caps_for(&self, class: Option<String>) -> Caps {
        let caps = self.gpu.caps();
        let chosen = class.zip(self.tuning()).and_then(|(class, tuning)| tuning.chosen(&class));
        caps.with(chosen.unwrap_or(caps.candidate()))
    }

    /// The device that they are compiled for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Whether any kernel of `shaders/FILE.wgsl` was compiled.
    pub fn made(&self, file: &str) -> bool {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).keys().any(|id| id.file == file)
    }

    /// Compiles what of `ids` has not been compiled yet, on as many threads as there are cores: drivers that compile when a pipeline is
    /// made do so side by side.
    ///
    /// # Errors
    /// Text that does not validate, or a driver that refuses it.
    pub fn prepare<'a>(&self, ids: impl Iterator<Item = &'a KernelId>) -> Result<(), KernelError> {
        let missing: Vec<&KernelId> = {
            let (made, mut seen) = (self.made.lock().unwrap_or_else(PoisonError::into_inner), HashSet::new());
            ids.filter(|id| !made.contains_key(*id) && seen.insert(*id)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let tell = |done: usize| self.watch.iter().for_each(|watch| watch(done, missing.len()));
        let done = AtomicUsize::new(0);
        tell(0);
        missing.par_iter().try_for_each(|id| {
            self.get(id)?;
            tell(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(())
        })
    }

    /// The pipeline for `id`, compiled at its first use.
    ///
    /// # Errors
    /// Text that does not validate, or a driver that refuses it.
    pub fn get(&self, id: &KernelId) -> Result<Arc<Kernel>, KernelError> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = made().get(id) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(self.compile(id)?);
        Ok(made().entry(id.clone()).or_insert(kernel).clone())
    }

    fn compile(&self, id: &KernelId) -> Result<Kernel, KernelError> {
        let text = expand(id)?;
        // wgpu gets what was read here, not the text, which it would read once more: a tenth of a warm start on lavapipe.
        let (module, reflected) = reflect(id, &text, self.gpu.capabilities())?;
        let device = &self.gpu.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let label = id.to_string();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Naga(Cow::Owned(module)),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: None,
            module: &module,
            entry_point: Some(id.entry),
            // Shaders write workgroup memory before they read it; some back ends have one invocation clear it all.
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        let layout = pipeline.get_bind_group_layout(0);
        if let Some(e) = pollster::block_on(scope.pop()) {
            return Err(match self.gpu.cause(GpuError::Reported(e.to_string())) {
                lost @ GpuError::Lost { .. } => lost.into(),
                _ => KernelError::Invalid { kernel: label, why: e.to_string() },
            });
        }
        Ok(Kernel { pipeline, layout, reflected })
    }
}
