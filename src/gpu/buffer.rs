//! The one allocation path, and the one blocking read-back.

use super::Gpu;
use crate::error::{Error, Result};
use std::sync::{Arc, OnceLock};

/// Allocates a zeroed storage buffer of `words` 32-bit words.
///
/// # Errors
/// [`OutOfMemory`](Error::OutOfMemory), naming `label`, where the device has not that much.
pub fn storage_buffer(gpu: &Gpu, label: &str, words: usize) -> Result<wgpu::Buffer> {
    let (room, caps) = (stored(words), gpu.caps());
    let bytes = (room as u64).saturating_mul(4);
    let advice = |why: String| Error::OutOfMemory {
        what: label.to_string(),
        bytes,
        advice: format!("{why}; use a smaller batch or another adapter"),
    };
    if bytes > caps.max_binding.min(caps.max_buffer) {
        return Err(advice(format!(
            "one binding of {} holds {} bytes",
            caps.name,
            caps.max_binding.min(caps.max_buffer)
        )));
    }
    let buffer = gpu.scoped(|| {
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    });
    buffer.map_err(|error| match error {
        Error::OutOfMemory { .. } => advice("the adapter is full".into()),
        other => other,
    })
}

/// A buffer of uniforms that holds `words`.
pub(crate) fn uniform_buffer(gpu: &Gpu, label: &str, words: &[u32]) -> Result<wgpu::Buffer> {
    gpu.scoped(|| {
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: stored(words.len()) as u64 * 4,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
        buffer
    })
}

/// Words that a buffer of `words` takes: whole groups of four, and one at least.
pub(crate) fn stored(words: usize) -> usize {
    words.checked_next_multiple_of(4).unwrap_or(usize::MAX).max(4)
}

/// Copies `words` words at word `offset` of `buffer` back to the host. Blocks.
///
/// # Errors
/// A range that the buffer has not, a buffer of another device or without
/// [`COPY_SRC`](wgpu::BufferUsages::COPY_SRC), and those of the device.
pub fn read_words(
    gpu: &Gpu,
    buffer: &wgpu::Buffer,
    offset: usize,
    words: usize,
) -> Result<Vec<u32>> {
    if words == 0 {
        return Ok(Vec::new());
    }
    let (from, size) = ((offset as u64).saturating_mul(4), (words as u64).saturating_mul(4));
    let mapped = Answer::default();
    let tell = mapped.teller();
    let staging = gpu.scoped(|| {
        let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, from, &staging, 0, size);
        gpu.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., move |result| tell.tell(result.is_ok()));
        staging
    })?;
    gpu.wait_until(|| mapped.known().is_some())?;
    if mapped.known() != Some(true) {
        gpu.lost()?;
        return Err(Error::Gpu("a buffer could not be read back".into()));
    }
    let view = staging.get_mapped_range(..).map_err(|e| Error::Gpu(e.to_string()))?;
    Ok(bytemuck::pod_collect_to_vec(&view))
}

/// Whether a callback has been called, and what it was told. One that is dropped uncalled, with the
/// commands that it belongs to, counts as told no: nobody waits for it for ever.
#[derive(Clone, Default)]
pub(crate) struct Answer(Arc<OnceLock<bool>>);

impl Answer {
    /// What was told, once something was.
    pub(crate) fn known(&self) -> Option<bool> {
        self.0.get().copied()
    }

    /// What a callback takes along.
    pub(crate) fn teller(&self) -> Teller {
        Teller(self.0.clone())
    }
}

/// Tells an [`Answer`].
pub(crate) struct Teller(Arc<OnceLock<bool>>);

impl Teller {
    pub(crate) fn tell(self, yes: bool) {
        let _ = self.0.set(yes);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let _ = self.0.set(false);
    }
}
