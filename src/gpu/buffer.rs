//! The one allocation path, and the one blocking read-back.

use super::Gpu;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Allocates a zeroed storage buffer of `words` 32-bit words.
///
/// # Errors
/// [`OutOfMemory`](Error::OutOfMemory), naming `label`, where the device has not that much.
pub fn storage_buffer(gpu: &Gpu, label: &str, words: usize) -> Result<wgpu::Buffer> {
    let bytes = (words.next_multiple_of(4).max(4) as u64) * 4;
    let advice = |why: String| Error::OutOfMemory {
        what: label.to_string(),
        bytes,
        advice: format!("{why}; use a smaller batch (train.batch_size) or another adapter"),
    };
    if bytes > gpu.caps.max_binding.min(gpu.caps.max_buffer) {
        return Err(advice(format!(
            "one binding of {} holds {} bytes",
            gpu.caps.name,
            gpu.caps.max_binding.min(gpu.caps.max_buffer)
        )));
    }
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: bytes,
        usage: wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    match pollster::block_on(scope.pop()) {
        None => Ok(buffer),
        Some(_) => {
            gpu.lost()?;
            Err(advice("the adapter is full".into()))
        }
    }
}

/// Copies `words` words at word `offset` of `buffer` back to the host. Blocks.
pub fn read_words(
    gpu: &Gpu,
    buffer: &wgpu::Buffer,
    offset: usize,
    words: usize,
) -> Result<Vec<u32>> {
    if words == 0 {
        return Ok(Vec::new());
    }
    let size = words as u64 * 4;
    let staging = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("read-back"),
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, offset as u64 * 4, &staging, 0, size);
    gpu.queue.submit([encoder.finish()]);
    let mapped = Arc::new(AtomicBool::new(false));
    let done = mapped.clone();
    staging.map_async(wgpu::MapMode::Read, .., move |_| done.store(true, Ordering::Release));
    gpu.wait_until(|| mapped.load(Ordering::Acquire))?;
    let view = staging.get_mapped_range(..).map_err(|e| Error::Gpu(e.to_string()))?;
    Ok(bytemuck::pod_collect_to_vec(&view))
}
