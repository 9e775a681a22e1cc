//! Timestamps around compute passes, for benches.

use super::{Gpu, GpuError};

/// Begin and end times of up to `slots` passes of one submit.
pub struct Timer {
    set: wgpu::QuerySet,
    resolve: wgpu::Buffer,
    slots: u32,
}

impl Timer {
    /// Passes that WebGPU's largest query set has times for.
    pub const MOST: usize = 2048;

    /// `None` where the adapter has no timestamps.
    pub fn new(gpu: &Gpu, slots: u32) -> Option<Timer> {
        if !gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timer"),
            ty: wgpu::QueryType::Timestamp,
            count: slots * 2,
        });
        let resolve = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timer"),
            size: u64::from(slots) * 16,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Some(Timer { set, resolve, slots })
    }

    pub(crate) fn writes(&self, slot: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(slot * 2),
            end_of_pass_write_index: Some(slot * 2 + 1),
        }
    }

    pub(crate) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.set, 0..self.slots * 2, &self.resolve, 0);
    }

    /// Nanoseconds each pass took; call after the submit.
    pub fn read(&self, gpu: &Gpu) -> Result<Vec<f64>, GpuError> {
        let ticks: Vec<u64> = gpu.read(&super::Buffer::whole(self.resolve.clone()))?;
        let period = f64::from(gpu.queue.get_timestamp_period());
        Ok(ticks.chunks_exact(2).map(|t| t[1].wrapping_sub(t[0]) as f64 * period).collect())
    }
}
