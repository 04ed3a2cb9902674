//! Losses on their way to the host: every step writes a row of a small buffer on the device;
//! every `rows` steps the rows are copied to one of a few mapped buffers. Nothing is read back
//! inside a step, and no step waits unless the host is a whole ring behind.

use super::{Memory, SpaceId};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::OnceLock;

struct Staging {
    buffer: wgpu::Buffer,
    /// Whether mapping succeeded, once it is known.
    mapped: Arc<OnceLock<bool>>,
    rows: usize,
}

impl Staging {
    fn arrived(&self) -> bool {
        self.mapped.get().is_some()
    }
}

/// A ring of loss rows.
pub struct Ring {
    space: SpaceId,
    rows: usize,
    width: usize,
    filled: usize,
    free: Vec<Staging>,
    pending: VecDeque<Staging>,
}

impl Ring {
    /// A ring over `space`, which holds `rows` rows of `width` floats.
    pub fn new(gpu: &Gpu, space: SpaceId, rows: usize, width: usize) -> Self {
        let free = (0..3)
            .map(|_| Staging {
                buffer: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("loss ring"),
                    size: (rows * width * 4) as u64,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }),
                mapped: Arc::default(),
                rows: 0,
            })
            .collect();
        Ring { space, rows, width, filled: 0, free, pending: VecDeque::new() }
    }

    /// The row that the next step writes; goes into [`Step::slot`](super::Step::slot).
    pub fn slot(&self) -> u32 {
        self.filled as u32
    }

    /// Called as a step is encoded: counts its row and copies the ring out once it is full.
    pub(super) fn step(
        &mut self,
        memory: &Memory,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<()> {
        self.filled += 1;
        if self.filled == self.rows { self.copy(memory, encoder) } else { Ok(()) }
    }

    fn copy(&mut self, memory: &Memory, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let mut staging = match self.free.pop() {
            Some(staging) => staging,
            None => return Err(Error::Gpu("the loss ring was not drained".into())),
        };
        staging.rows = std::mem::take(&mut self.filled);
        let size = (staging.rows * self.width * 4) as u64;
        encoder.copy_buffer_to_buffer(memory.buffer(self.space), 0, &staging.buffer, 0, size);
        staging.mapped = Arc::default();
        let mapped = staging.mapped.clone();
        encoder.map_buffer_on_submit(
            &staging.buffer,
            wgpu::MapMode::Read,
            0..size,
            move |result| {
                let _ = mapped.set(result.is_ok());
            },
        );
        self.pending.push_back(staging);
        Ok(())
    }

    /// Rows that have arrived, oldest first. Waits only when every staging buffer is in flight.
    pub fn drain(&mut self, gpu: &Gpu) -> Result<Vec<Vec<f32>>> {
        if self.free.is_empty() {
            gpu.wait_until(|| self.pending.front().is_none_or(Staging::arrived))?;
        }
        let mut rows = Vec::new();
        while self.pending.front().is_some_and(Staging::arrived) {
            let Some(staging) = self.pending.pop_front() else { break };
            if staging.mapped.get() != Some(&true) {
                gpu.check()?;
                return Err(Error::Gpu("losses could not be read back".into()));
            }
            let size = (staging.rows * self.width * 4) as u64;
            {
                let view = staging
                    .buffer
                    .get_mapped_range(0..size)
                    .map_err(|e| Error::Gpu(e.to_string()))?;
                let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&view);
                rows.extend(floats.chunks(self.width).map(<[f32]>::to_vec));
            }
            staging.buffer.unmap();
            self.free.push(staging);
        }
        Ok(rows)
    }

    /// Copies out what is left, waits, and returns every remaining row.
    pub fn finish(&mut self, gpu: &Gpu, memory: &Memory) -> Result<Vec<Vec<f32>>> {
        let mut rows = self.drain(gpu)?;
        if self.filled > 0 {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            self.copy(memory, &mut encoder)?;
            gpu.queue.submit([encoder.finish()]);
        }
        gpu.wait_until(|| self.pending.iter().all(Staging::arrived))?;
        rows.extend(self.drain(gpu)?);
        Ok(rows)
    }
}
