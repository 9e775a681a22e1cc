//! Storage buffers, uploads, and reads that need not stall.

use std::sync::mpsc;

use super::{Gpu, GpuError, human_bytes};

/// A storage buffer of 4-byte elements (f32 or u32). Clones share it.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub(crate) raw: wgpu::Buffer,
}

/// Copies under way from the GPU; `wait` gives the bytes.
pub struct Pending {
    parts: Vec<(wgpu::Buffer, mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>)>,
}

impl Buffer {
    pub fn bytes(&self) -> u64 {
        self.raw.size()
    }
}

impl Gpu {
    /// A zeroed storage buffer of `elements` 4-byte elements.
    ///
    /// # Errors
    /// Names `label` and both sizes when one binding cannot hold it, or the driver's word when memory runs out.
    pub fn buffer(&self, label: &str, elements: usize) -> Result<Buffer, GpuError> {
        let size = (elements.max(1) * 4) as u64;
        let allowed = self.max_binding();
        if size > allowed {
            return Err(GpuError::BufferTooLarge {
                what: label.to_string(),
                needed: human_bytes(size),
                allowed: human_bytes(allowed),
                adapter: self.info().name.clone(),
            });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            Some(e) => Err(GpuError::Reported(format!("allocating {} for {label}: {e}", human_bytes(size)))),
            None => Ok(Buffer { raw }),
        }
    }

    /// The largest buffer one shader binding may hold, bytes.
    pub fn max_binding(&self) -> u64 {
        self.limits().max_storage_buffer_binding_size.min(self.limits().max_buffer_size)
    }

    /// Writes `data` to the start of `buffer`, before the next submit.
    pub fn upload<T: bytemuck::NoUninit>(&self, buffer: &Buffer, data: &[T]) {
        self.queue.write_buffer(&buffer.raw, 0, bytemuck::cast_slice(data));
    }

    /// Reads a whole buffer, waiting for it.
    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, buffer: &Buffer) -> Result<Vec<T>, GpuError> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let pending = self.copy_out(&mut encoder, &[buffer]);
        self.queue.submit([encoder.finish()]);
        let parts = self.map(pending).wait(self)?;
        Ok(bytemuck::pod_collect_to_vec(&parts[0]))
    }

    /// Records copies of whole buffers into fresh staging buffers.
    pub(crate) fn copy_out(&self, encoder: &mut wgpu::CommandEncoder, buffers: &[&Buffer]) -> Vec<wgpu::Buffer> {
        buffers
            .iter()
            .map(|b| {
                let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("read"),
                    size: b.bytes(),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(&b.raw, 0, &staging, 0, b.bytes());
                staging
            })
            .collect()
    }

    /// Asks for the staging buffers of a submitted copy to be mapped.
    pub(crate) fn map(&self, staging: Vec<wgpu::Buffer>) -> Pending {
        let parts = staging
            .into_iter()
            .map(|raw| {
                let (send, receive) = mpsc::channel();
                raw.map_async(wgpu::MapMode::Read, .., move |r| {
                    // The receiver may be gone when a run was cut short; then nobody wants the answer.
                    let _ = send.send(r);
                });
                (raw, receive)
            })
            .collect();
        Pending { parts }
    }
}

impl Pending {
    /// Waits for the copies; one byte vector a buffer, in the order asked.
    pub fn wait(self, gpu: &Gpu) -> Result<Vec<Vec<u8>>, GpuError> {
        let mut out = Vec::with_capacity(self.parts.len());
        for (raw, receive) in self.parts {
            let result = loop {
                match receive.try_recv() {
                    Ok(r) => break r,
                    Err(mpsc::TryRecvError::Empty) => gpu.wait()?,
                    Err(mpsc::TryRecvError::Disconnected) => return Err(GpuError::Read("the device was lost".into())),
                }
            };
            result.map_err(|e| GpuError::Read(e.to_string()))?;
            let view = raw.get_mapped_range(..).map_err(|e| GpuError::Read(e.to_string()))?;
            out.push(view.to_vec());
        }
        gpu.check()?;
        Ok(out)
    }
}
