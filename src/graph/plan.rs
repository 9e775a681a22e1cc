//! A graph made ready to run: pipelines, buffers and bind groups resolved once, one pass and one submit a run.

use std::collections::HashMap;
use std::sync::Arc;

use super::layout::{Footprint, layout};
use super::{Bind, Elem, Graph, GraphError, Launch, Param, Slot, Source, Value};
use crate::gpu::{Buffer, Gpu, Pending, Spare, Timer};
use crate::kernel::{Kernel, Kernels};

/// The buffers of a graph's variables, by name.
pub type Variables = HashMap<String, Buffer>;

/// Uniform bindings start at multiples of this (WebGPU's `minUniformBufferOffsetAlignment`).
const PARAMS_STEP: usize = 256;

/// What [`Plan::profile`] says of one dispatch.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Name of the op that it belongs to.
    pub op: &'static str,
    /// File, entry point and constants, as [`KernelId`](crate::kernel::KernelId) displays them.
    pub kernel: String,
    /// How long it took on the device.
    pub nanoseconds: f64,
}

struct Dispatch {
    op: &'static str,
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    groups: [u32; 3],
    label: String,
}

/// Where a scalar goes in the uniform buffer.
struct ScalarUse {
    offset: usize,
    float: bool,
}

/// A graph ready to run on one device.
pub struct Plan {
    gpu: Gpu,
    dispatches: Vec<Dispatch>,
    uniforms: wgpu::Buffer,
    shadow: Vec<u8>,
    dirty: bool,
    scalars: HashMap<&'static str, (bool, Vec<ScalarUse>)>,
    /// Buffers, element types and names of inputs, variables and kept values.
    reachable: HashMap<Value, (Buffer, Elem, String)>,
    footprint: Footprint,
    spare: Spare,
}

impl Plan {
    /// Resolves `graph` for the device of `kernels`. Values in `keep` stay readable after a run; `variables` holds a buffer for
    /// each variable the graph names.
    ///
    /// # Errors
    /// A buffer over the adapter's limit, a missing variable, a binding or parameter that a shader and its op do not agree
    /// on, or a driver's refusal.
    pub fn new(kernels: &Kernels, graph: &Graph, keep: &[Value], variables: &Variables) -> Result<Plan, GraphError> {
        let gpu = kernels.gpu().clone();
        let graph = &graph.fused(keep, gpu.caps());
        let beside = |a: Value, b: Value| {
            let [a, b] = [a, b].map(|v| variables.get(graph.name(v)));
            a.zip(b).is_some_and(|(a, b)| a.is_beside(b))
        };
        let layout = layout(graph, keep, |class| kernels.caps_for(class), beside);
        layout.footprint.check(&gpu)?;
        let mut reachable = HashMap::new();
        let entry = |v: Value, buffer: Buffer| (v, (buffer, graph.shape(v).elem, graph.name(v).to_string()));
        for row in &layout.rows {
            let sizes: Vec<(&str, usize)> = row.iter().map(|v| (graph.name(*v), graph.shape(*v).len())).collect();
            reachable.extend(row.iter().zip(gpu.side_by_side(&sizes)?).map(|(v, buffer)| entry(*v, buffer)));
        }
        let nodes = || layout.steps.iter().flat_map(|step| &step.nodes).map(|n| &graph.nodes()[*n]);
        for v in nodes().flat_map(|node| &node.inputs) {
            if *graph.source(*v) == Source::Variable && !reachable.contains_key(v) {
                let name = graph.name(*v);
                let buffer = variables.get(name).ok_or_else(|| GraphError::NoVariable(name.to_string()))?;
                if buffer.bytes() != graph.shape(*v).bytes() {
                    return Err(GraphError::Length {
                        value: name.to_string(),
                        expected: graph.shape(*v).len(),
                        found: (buffer.bytes() / 4) as usize,
                    });
                }
                reachable.extend([entry(*v, buffer.clone())]);
            }
        }
        let pool = layout
            .assignment
            .buffers
            .iter()
            .map(|bytes| gpu.buffer("temporary", (bytes / 4) as usize))
            .collect::<Result<Vec<_>, _>>()?;

        let count: usize = layout.steps.iter().map(|step| step.lowered.launches.len()).sum();
        let size = (count.max(1) * PARAMS_STEP) as u64;
        let uniforms = gpu.create("params", size, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)?;
        let mut plan = Plan {
            gpu,
            dispatches: Vec::with_capacity(count),
            shadow: vec![0; count.max(1) * PARAMS_STEP],
            uniforms,
            dirty: true,
            scalars: HashMap::new(),
            reachable,
            footprint: layout.footprint.clone(),
            spare: Spare::default(),
        };
        kernels.prepare(layout.steps.iter().flat_map(|step| &step.lowered.launches).map(|launch| &launch.kernel))?;
        for (at, step) in layout.steps.iter().enumerate() {
            let [first, last] = [0, step.nodes.len() - 1].map(|i| &graph.nodes()[step.nodes[i]]);
            let temporary = |t: usize, bytes: u64| pool[layout.assignment.of[t]].start(bytes.max(4));
            for launch in &step.lowered.launches {
                let range = |v: Value| match layout.temp_of.get(&v) {
                    Some(&t) => temporary(t, graph.shape(v).bytes()),
                    None => plan.reachable[&v].0.clone(),
                };
                let bind = |(name, slot): &Bind| -> Result<(&'static str, Buffer), GraphError> {
                    let buffer = match *slot {
                        Slot::In(i) if first.op.elementwise() => range(first.inputs[i]).through(&range(last.inputs[i])),
                        Slot::In(i) => range(first.inputs[i]),
                        Slot::Out(i) => range(first.outputs[i]),
                        Slot::Scratch(i) => temporary(layout.scratch_of[at] + i, step.lowered.scratch[i].bytes()),
                        Slot::Moments | Slot::Half(_) | Slot::Scale(_) | Slot::HalfOut | Slot::ScaleOut => {
                            let why = || format!("{slot:?} is bound, and no other step makes or reads it");
                            let no = || GraphError::Bindings { kernel: launch.kernel.to_string(), why: why() };
                            let shared = step.shared.iter().find(|(of, ..)| of == slot);
                            shared.map(|(_, t, bytes)| temporary(*t, *bytes)).ok_or_else(no)?
                        }
                    };
                    Ok((*name, buffer))
                };
                let binds = launch.bind.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
                plan.add(kernels, launch, &binds, first.op.name())?;
            }
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        kernels: &Kernels,
        launch: &Launch,
        binds: &[(&'static str, Buffer)],
        op: &'static str,
    ) -> Result<(), GraphError> {
        let kernel = kernels.get(&launch.kernel)?;
        let fault = |why: String| GraphError::Bindings { kernel: launch.kernel.to_string(), why };
        let base = self.dispatches.len() * PARAMS_STEP;
        let mut entries = Vec::new();
        for (name, _) in binds {
            if !kernel.reflected.bindings.iter().any(|b| b.name == *name) {
                return Err(fault(format!("the op binds `{name}`, which the entry point does not use")));
            }
        }
        for binding in &kernel.reflected.bindings {
            let (_, buffer) = binds
                .iter()
                .find(|(name, _)| *name == binding.name)
                .ok_or_else(|| fault(format!("the entry point uses `{}`, which the op does not bind", binding.name)))?;
            entries.push(wgpu::BindGroupEntry {
                binding: binding.slot,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &buffer.raw,
                    offset: buffer.offset,
                    size: std::num::NonZeroU64::new(buffer.bytes()),
                }),
            });
        }
        match &kernel.reflected.params {
            Some((slot, fields)) => {
                for (name, _) in &launch.params {
                    if !fields.iter().any(|f| f.name == *name) {
                        return Err(fault(format!("Params has no member `{name}`")));
                    }
                }
                for field in fields {
                    let at = base + field.offset as usize;
                    let (_, param) = launch
                        .params
                        .iter()
                        .find(|(name, _)| *name == field.name)
                        .ok_or_else(|| fault(format!("Params.{} is not given", field.name)))?;
                    let bytes = match (param, field.float) {
                        (Param::U32(x), false) => x.to_le_bytes(),
                        (Param::F32(x), true) => x.to_le_bytes(),
                        (Param::Scalar(name), float) => {
                            let entry = self.scalars.entry(name).or_default();
                            entry.1.push(ScalarUse { offset: at, float });
                            [0; 4]
                        }
                        _ => return Err(fault(format!("Params.{} is of the other type", field.name))),
                    };
                    self.shadow[at..at + 4].copy_from_slice(&bytes);
                }
                entries.push(wgpu::BindGroupEntry {
                    binding: *slot,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &self.uniforms,
                        offset: base as u64,
                        size: std::num::NonZeroU64::new(u64::from(kernel.reflected.params_size)),
                    }),
                });
            }
            None if launch.params.is_empty() => {}
            None => return Err(fault("the op gives params, the entry point uses none".into())),
        }
        let bind_group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(op),
            layout: &kernel.layout,
            entries: &entries,
        });
        let label = launch.kernel.to_string();
        self.dispatches.push(Dispatch { op, kernel, bind_group, groups: launch.groups, label });
        Ok(())
    }

    /// Sets a scalar for the runs to come.
    ///
    /// # Errors
    /// A name no launch uses.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), GraphError> {
        let (set, uses) = self.scalars.get_mut(name).ok_or_else(|| GraphError::NoScalar(name.to_string()))?;
        *set = true;
        for u in uses.iter() {
            let bytes = if u.float { (value as f32).to_le_bytes() } else { (value as u32).to_le_bytes() };
            if self.shadow[u.offset..u.offset + 4] != bytes {
                self.shadow[u.offset..u.offset + 4].copy_from_slice(&bytes);
                self.dirty = true;
            }
        }
        Ok(())
    }

    /// The scalars that launches take.
    pub fn scalars(&self) -> Vec<&'static str> {
        self.scalars.keys().copied().collect()
    }

    /// Whether some launch takes a scalar of that name.
    pub fn has_scalar(&self, name: &str) -> bool {
        self.scalars.contains_key(name)
    }

    /// The buffer of an input, a variable or a kept value.
    ///
    /// # Errors
    /// A value that lives in a shared temporary.
    pub fn buffer(&self, value: Value) -> Result<&Buffer, GraphError> {
        self.reachable.get(&value).map(|(b, ..)| b).ok_or_else(|| GraphError::NoVariable(format!("value {}", value.index())))
    }

    /// Writes an input (or a variable), whole or its first elements.
    ///
    /// # Errors
    /// More elements than it holds.
    pub fn write<T: bytemuck::NoUninit>(&self, value: Value, data: &[T]) -> Result<(), GraphError> {
        let buffer = self.buffer(value)?;
        let bytes = std::mem::size_of_val(data) as u64;
        if bytes > buffer.bytes() {
            return Err(GraphError::Length {
                value: self.reachable[&value].2.clone(),
                expected: (buffer.bytes() / 4) as usize,
                found: (bytes / 4) as usize,
            });
        }
        self.gpu.upload(buffer, data);
        Ok(())
    }

    /// Runs the plan; returns once the work is submitted.
    ///
    /// # Errors
    /// A scalar that was never set, or an error the driver reported earlier.
    pub fn run(&mut self) -> Result<(), GraphError> {
        self.run_and_fetch(&[]).map(|_| ())
    }

    /// Runs the plan and starts copying `values` out; `Pending::wait` gives their bytes.
    ///
    /// # Errors
    /// As `run`, or a value that is not kept.
    pub fn run_and_fetch(&mut self, values: &[Value]) -> Result<Pending, GraphError> {
        self.flush()?;
        let buffers = values.iter().map(|v| self.buffer(*v)).collect::<Result<Vec<_>, _>>()?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, 1);
        Ok(self.gpu.submit(encoder, &buffers, &self.spare)?)
    }

    /// Runs the plan `times` times in one submit and one pass: what benches time.
    ///
    /// # Errors
    /// As `run`.
    pub fn repeat(&mut self, times: usize) -> Result<(), GraphError> {
        self.flush()?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode(&mut encoder, times);
        self.gpu.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Runs the plan `times` times in one submit, before each of which `set` gives its scalars: for short steps that follow one another.
    ///
    /// # Errors
    /// As `run`, or what `set` refuses.
    pub fn run_many(
        &mut self,
        times: usize,
        mut set: impl FnMut(&mut Plan, usize) -> Result<(), GraphError>,
    ) -> Result<(), GraphError> {
        let bytes = self.shadow.len();
        let mut params = Vec::with_capacity(times * bytes);
        for i in 0..times {
            set(self, i)?;
            params.extend_from_slice(&self.shadow);
        }
        self.check()?;
        let staged = self.gpu.filled("params of many runs", &params, wgpu::BufferUsages::COPY_SRC)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for i in 0..times {
            encoder.copy_buffer_to_buffer(&staged, (i * bytes) as u64, &self.uniforms, 0, bytes as u64);
            self.encode(&mut encoder, 1);
        }
        self.gpu.queue.submit([encoder.finish()]);
        // The uniforms are as the last run had them.
        self.dirty = false;
        Ok(())
    }

    /// Runs the plan with a timestamped pass a dispatch. `None` without timestamps.
    ///
    /// # Errors
    /// As `run`.
    pub fn profile(&mut self) -> Result<Option<Vec<Timing>>, GraphError> {
        self.flush()?;
        let mut timings = Vec::new();
        for part in self.dispatches.chunks(Timer::MOST) {
            let Some(timer) = Timer::new(&self.gpu, part.len() as u32) else { return Ok(None) };
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            for (slot, d) in part.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some(&d.label),
                    timestamp_writes: Some(timer.writes(slot as u32)),
                });
                d.encode(&mut pass);
            }
            timer.resolve(&mut encoder);
            self.gpu.queue.submit([encoder.finish()]);
            let timed = part.iter().zip(timer.read(&self.gpu)?);
            timings.extend(timed.map(|(d, nanoseconds)| Timing { op: d.op, kernel: d.label.clone(), nanoseconds }));
        }
        Ok(Some(timings))
    }

    /// All dispatches, `times` over, as one pass.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, times: usize) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for d in (0..times).flat_map(|_| &self.dispatches) {
            d.encode(&mut pass);
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        self.gpu.check()?;
        match self.scalars.iter().find(|(_, (set, _))| !set) {
            Some((name, _)) => Err(GraphError::UnsetScalar(name.to_string())),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), GraphError> {
        self.check()?;
        if self.dirty {
            self.gpu.queue.write_buffer(&self.uniforms, 0, &self.shadow);
            self.dirty = false;
        }
        Ok(())
    }

    /// What it has allocated.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }

    /// The device that it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl Dispatch {
    fn encode(&self, pass: &mut wgpu::ComputePass) {
        let [x, y, z] = self.groups;
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}
