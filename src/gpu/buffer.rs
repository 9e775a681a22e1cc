//! Storage buffers, uploads, and reads that need not stall.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::fault::LESS;
use super::{Gpu, GpuError, human_bytes};

/// A range of storage, of 4-byte elements (f32 or u32). Clones share it. It starts at a multiple of 256 bytes; what lies behind it
/// up to the next multiple is zero and belongs to nobody else.
#[derive(Clone, Debug)]
pub struct Buffer {
    pub(crate) raw: wgpu::Buffer,
    pub(crate) offset: u64,
    bytes: u64,
}

/// Copies under way from the GPU; `wait` gives the bytes.
pub struct Pending {
    submitted: wgpu::SubmissionIndex,
    lengths: Vec<u64>,
    /// None where nothing is copied.
    staging: Option<(wgpu::Buffer, mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>)>,
    spare: Spare,
    /// Whose bytes come behind its own, buffer by buffer.
    next: Option<Box<Pending>>,
}

/// Staging buffers that have been read and may be used again.
#[derive(Clone, Default)]
pub(crate) struct Spare(Arc<Mutex<Vec<wgpu::Buffer>>>);

/// The multiple at which ranges start: WebGPU's largest `minStorageBufferOffsetAlignment`.
const STEP: u64 = 256;
/// Ranges side by side take no more together: the least that WebGPU lets one binding hold.
pub(crate) const MOST_SIDE_BY_SIDE: u64 = 128 << 20;

/// What a buffer of so many bytes takes beside others.
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.max(4).next_multiple_of(STEP)
}

impl Buffer {
    pub(crate) fn whole(raw: wgpu::Buffer) -> Buffer {
        Buffer { bytes: raw.size(), offset: 0, raw }
    }

    /// Bytes of its elements, without the padding behind them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its first `bytes`.
    pub(crate) fn start(&self, bytes: u64) -> Buffer {
        Buffer { bytes, ..self.clone() }
    }

    fn end(&self) -> u64 {
        self.offset + padded(self.bytes)
    }

    /// Whether `next` begins where this one's padding ends.
    pub(crate) fn is_beside(&self, next: &Buffer) -> bool {
        self.raw == next.raw && self.end() == next.offset
    }

    /// From its start to the end of the padding of `last`, which lies further on in the same row.
    pub(crate) fn through(&self, last: &Buffer) -> Buffer {
        Buffer { bytes: last.end() - self.offset, ..self.clone() }
    }
}

impl Gpu {
    /// A zeroed storage buffer of `elements` 4-byte elements.
    ///
    /// # Errors
    /// Names `label` and both sizes when one binding cannot hold it, or the driver's word when memory runs out.
    pub fn buffer(&self, label: &str, elements: usize) -> Result<Buffer, GpuError> {
        let bytes = (elements.max(1) * 4) as u64;
        Ok(Buffer::whole(self.allocate(label, padded(bytes))?).start(bytes))
    }

    /// Zeroed storage buffers of so many elements each, side by side in their order, so that one dispatch can go over them all; a new
    /// row begins where one would pass 128 MiB.
    ///
    /// # Errors
    /// As `buffer`.
    pub fn side_by_side(&self, buffers: &[(&str, usize)]) -> Result<Vec<Buffer>, GpuError> {
        let bytes: Vec<u64> = buffers.iter().map(|(_, elements)| (elements.max(&1) * 4) as u64).collect();
        let mut out = Vec::new();
        while out.len() < bytes.len() {
            let (first, mut total) = (out.len(), 0);
            let fit = bytes[first..].iter().take_while(|b| {
                total += padded(**b);
                total <= MOST_SIDE_BY_SIDE
            });
            let row = &bytes[first..first + fit.count().max(1)];
            let raw = self.allocate(buffers[first].0, row.iter().copied().map(padded).sum())?;
            let mut offset = 0;
            for &bytes in row {
                out.push(Buffer { raw: raw.clone(), offset, bytes });
                offset += padded(bytes);
            }
        }
        Ok(out)
    }

    fn allocate(&self, label: &str, size: u64) -> Result<wgpu::Buffer, GpuError> {
        let allowed = self.max_binding();
        if size > allowed {
            return Err(GpuError::BufferTooLarge {
                what: label.to_string(),
                needed: human_bytes(size),
                allowed: human_bytes(allowed),
                adapter: self.info().name.clone(),
            });
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.create(label, size, usage)
    }

    /// A buffer of any kind.
    ///
    /// # Errors
    /// Names `label` and the size when memory runs out.
    pub(crate) fn create(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw =
            self.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false });
        match pollster::block_on(scope.pop()) {
            Some(_) => Err(self.cause(GpuError::NoMemory {
                what: label.to_string(),
                needed: human_bytes(size),
                adapter: self.info().name.clone(),
                advice: LESS,
            })),
            None => Ok(raw),
        }
    }

    /// A buffer that holds `data` from its making.
    ///
    /// # Errors
    /// As [`Gpu::create`].
    pub(crate) fn filled(&self, label: &str, data: &[u8], usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        let raw = self.create(label, data.len() as u64, usage | wgpu::BufferUsages::COPY_DST)?;
        self.queue.write_buffer(&raw, 0, data);
        Ok(raw)
    }

    /// The largest buffer one shader binding may hold, bytes.
    pub fn max_binding(&self) -> u64 {
        let allowed = self.limits().max_storage_buffer_binding_size.min(self.limits().max_buffer_size);
        allowed - allowed % STEP
    }

    /// Writes `data` to the start of `buffer`, before the next submit.
    pub fn upload<T: bytemuck::NoUninit>(&self, buffer: &Buffer, data: &[T]) {
        self.queue.write_buffer(&buffer.raw, buffer.offset, bytemuck::cast_slice(data));
    }

    /// Reads a whole buffer, waiting for it.
    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, buffer: &Buffer) -> Result<Vec<T>, GpuError> {
        let encoder = self.device.create_command_encoder(&Default::default());
        let parts = self.submit(encoder, &[buffer], &Spare::default())?.wait(self)?;
        Ok(bytemuck::pod_collect_to_vec(&parts[0]))
    }

    /// Submits what `encoder` holds, then copies of `fetch`, into a spare staging buffer where one has their size.
    ///
    /// # Errors
    /// As [`Gpu::create`].
    pub(crate) fn submit(
        &self,
        mut encoder: wgpu::CommandEncoder,
        fetch: &[&Buffer],
        spare: &Spare,
    ) -> Result<Pending, GpuError> {
        let lengths: Vec<u64> = fetch.iter().map(|b| b.bytes).collect();
        let total = lengths.iter().sum();
        let staging = match spare.take(total) {
            None if total > 0 => {
                Some(self.create("reading", total, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?)
            }
            spare => spare,
        };
        if let Some(staging) = &staging {
            let mut at = 0;
            for b in fetch {
                encoder.copy_buffer_to_buffer(&b.raw, b.offset, staging, at, b.bytes);
                at += b.bytes;
            }
        }
        #[cfg(test)]
        super::loss::submit(&self.device);
        let submitted = self.queue.submit([encoder.finish()]);
        let staging = staging.map(|raw| {
            let (send, receive) = mpsc::channel();
            raw.map_async(wgpu::MapMode::Read, .., move |r| {
                // The receiver may be gone when a run was cut short; then nobody wants the answer.
                let _ = send.send(r);
            });
            (raw, receive)
        });
        Ok(Pending { submitted, lengths, staging, spare: spare.clone(), next: None })
    }

    /// Waits for one submit, not for those after it.
    fn wait_for(&self, submitted: &wgpu::SubmissionIndex) -> Result<(), GpuError> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submitted.clone()), timeout: None })
    }
}

impl Spare {
    fn take(&self, size: u64) -> Option<wgpu::Buffer> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.iter().position(|b| b.size() == size).map(|i| spare.swap_remove(i))
    }

    fn give(&self, staging: wgpu::Buffer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(staging);
    }
}

impl Pending {
    /// This one and then `next`, a run that fetches as many buffers: the bytes of each buffer one after the other.
    pub(crate) fn and(mut self, next: Pending) -> Pending {
        self.next = Some(Box::new(match self.next.take() {
            Some(earlier) => earlier.and(next),
            None => next,
        }));
        self
    }

    /// Waits for the run and its copies, not for later runs; one byte vector a buffer, in the order asked.
    ///
    /// # Errors
    /// What the driver reported since the device was opened.
    pub fn wait(self, gpu: &Gpu) -> Result<Vec<Vec<u8>>, GpuError> {
        let mut out = Vec::with_capacity(self.lengths.len());
        gpu.wait_for(&self.submitted)?;
        if let Some((raw, receive)) = self.staging {
            let result = loop {
                match receive.try_recv() {
                    Ok(r) => break r,
                    // Another thread's wait may be about to say so.
                    Err(mpsc::TryRecvError::Empty) => gpu.wait_for(&self.submitted)?,
                    Err(mpsc::TryRecvError::Disconnected) => return Err(gpu.cause(GpuError::Read("nobody answered".into()))),
                }
            };
            result.map_err(|e| gpu.cause(GpuError::Read(e.to_string())))?;
            let view = raw.get_mapped_range(..).map_err(|e| gpu.cause(GpuError::Read(e.to_string())))?;
            let mut rest = &view[..];
            for length in self.lengths {
                let (part, after) = rest.split_at(length as usize);
                out.push(part.to_vec());
                rest = after;
            }
            drop(view);
            raw.unmap();
            self.spare.give(raw);
        }
        gpu.check()?;
        if let Some(next) = self.next {
            out.iter_mut().zip(next.wait(gpu)?).for_each(|(part, more)| part.extend(more));
        }
        Ok(out)
    }
}
