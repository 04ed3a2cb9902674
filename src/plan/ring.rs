//! Losses on their way to the host: every step writes a row of a small buffer on the device;
//! every `rows` steps the rows are copied to one of a few mapped buffers. Nothing is read back
//! inside a step, and no step waits unless the host is a whole ring behind.

use super::{Memory, SpaceId};
use crate::error::{Error, Result};
use crate::gpu::{Answer, Gpu};
use std::collections::VecDeque;

struct Staging {
    buffer: wgpu::Buffer,
    /// Whether mapping succeeded, once it is known.
    mapped: Answer,
    rows: usize,
}

impl Staging {
    fn arrived(&self) -> bool {
        self.mapped.known().is_some()
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
    gpu: u64,
}

impl Ring {
    /// A ring over `space`, which holds `rows` rows of `width` floats.
    ///
    /// # Errors
    /// [`Access`](Error::Access) for a ring without rows or columns, or of more words than a space
    /// can have; those of the device.
    pub fn new(gpu: &Gpu, space: SpaceId, rows: usize, width: usize) -> Result<Self> {
        let words = rows.checked_mul(width).filter(|words| (1..1 << 30).contains(words));
        let Some(words) = words else {
            return Err(Error::access(
                "ring",
                format!("{rows} rows of {width} floats are no ring"),
            ));
        };
        let free = gpu.scoped(|| {
            let buffer = || {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("loss ring"),
                    size: words as u64 * 4,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            };
            (0..3)
                .map(|_| Staging { buffer: buffer(), mapped: Answer::default(), rows: 0 })
                .collect::<Vec<_>>()
        })?;
        Ok(Ring { space, rows, width, filled: 0, free, pending: VecDeque::new(), gpu: gpu.id() })
    }

    /// The row that the next step writes; goes into [`Step::slot`](super::Step::slot).
    pub fn slot(&self) -> u32 {
        self.filled as u32
    }

    /// Whether [`step`](Self::step) can be encoded: this is a ring over that memory, and a buffer
    /// is free to copy it to.
    pub(super) fn ready(&self, gpu: &Gpu, memory: &Memory) -> Result<()> {
        self.on(gpu)?;
        let words = self.rows * self.width;
        memory.part("ring", self.space, (0, words), wgpu::BufferUsages::COPY_SRC)?;
        if self.filled + 1 >= self.rows && self.free.is_empty() {
            return Err(Error::access("ring", "it is full; drain it after each step"));
        }
        Ok(())
    }

    fn on(&self, gpu: &Gpu) -> Result<()> {
        if self.gpu == gpu.id() {
            return Ok(());
        }
        Err(Error::access("ring", "it was made on another Gpu; use that one"))
    }

    /// Called as a step is encoded: counts its row and copies the ring out once it is full.
    pub(super) fn step(&mut self, memory: &Memory, encoder: &mut wgpu::CommandEncoder) {
        self.filled += 1;
        if self.filled == self.rows {
            self.copy(memory, encoder);
        }
    }

    /// Copies out what there is; [`ready`](Self::ready) has said that it can be.
    fn copy(&mut self, memory: &Memory, encoder: &mut wgpu::CommandEncoder) {
        let Ok(buffer) = memory.buffer(self.space) else { return };
        let Some(mut staging) = self.free.pop() else { return };
        staging.rows = std::mem::take(&mut self.filled);
        let size = (staging.rows * self.width * 4) as u64;
        encoder.copy_buffer_to_buffer(buffer, 0, &staging.buffer, 0, size);
        staging.mapped = Answer::default();
        let tell = staging.mapped.teller();
        encoder.map_buffer_on_submit(
            &staging.buffer,
            wgpu::MapMode::Read,
            0..size,
            move |result| tell.tell(result.is_ok()),
        );
        self.pending.push_back(staging);
    }

    /// Rows that have arrived, oldest first. Waits only when every staging buffer is in flight.
    ///
    /// # Errors
    /// [`Access`](Error::Access) on another device; those of the device.
    pub fn drain(&mut self, gpu: &Gpu) -> Result<Vec<Vec<f32>>> {
        self.on(gpu)?;
        if self.free.is_empty() {
            gpu.wait_until(|| self.pending.front().is_none_or(Staging::arrived))?;
        }
        let mut rows = Vec::new();
        while self.pending.front().is_some_and(Staging::arrived) {
            let Some(staging) = self.pending.pop_front() else { break };
            if staging.mapped.known() != Some(true) {
                gpu.lost()?;
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
    ///
    /// # Errors
    /// As [`drain`](Self::drain); [`Access`](Error::Access) where the memory is another one.
    pub fn finish(&mut self, gpu: &Gpu, memory: &Memory) -> Result<Vec<Vec<f32>>> {
        let mut rows = self.drain(gpu)?;
        if self.filled > 0 {
            memory.on(gpu, "ring")?;
            self.ready(gpu, memory)?;
            gpu.run(|encoder| self.copy(memory, encoder))?;
        }
        gpu.wait_until(|| self.pending.iter().all(Staging::arrived))?;
        rows.extend(self.drain(gpu)?);
        Ok(rows)
    }
}
