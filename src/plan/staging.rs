//! What goes to the device at every step, through buffers that stay: one that is made anew for each write, as a
//! queue makes them, is memory that the system has to find, clear and take back at every step.

use crate::error::Result;
use crate::gpu::Gpu;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A write whose commands are not recorded yet.
struct Waiting {
    from: wgpu::Buffer,
    to: wgpu::Buffer,
    bytes: u64,
}

/// How many buffers there are: one for each step in flight, and one that is being filled.
const BUFFERS: usize = 4;

/// Buffers of the host.
pub(super) struct Staging {
    made: usize,
    /// Mapped, to be written.
    free: Vec<wgpu::Buffer>,
    waiting: Vec<Waiting>,
    /// Read by commands; mapped again when those are done.
    used: Vec<wgpu::Buffer>,
    back: (Sender<wgpu::Buffer>, Receiver<wgpu::Buffer>),
}

impl Staging {
    pub(super) fn new() -> Self {
        let back = channel();
        Staging { made: 0, free: Vec::new(), waiting: Vec::new(), used: Vec::new(), back }
    }

    /// Keeps `words` for the beginning of `to`, until [`record`](Self::record). A memory has one space that is
    /// written so.
    pub(super) fn write(&mut self, gpu: &Gpu, to: &wgpu::Buffer, words: &[u32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let from = self.buffer(gpu, to.size())?;
        gpu.scoped(|| {
            let size = bytes.len() as u64;
            let mapped =
                from.as_ref().and_then(|from| from.slice(..size).get_mapped_range_mut().ok());
            // Without a buffer this write goes as any other.
            let Some(mut mapped) = mapped else { return gpu.queue.write_buffer(to, 0, bytes) };
            mapped.copy_from_slice(bytes);
            drop(mapped);
            if let Some(from) = from {
                from.unmap();
                self.waiting.push(Waiting { from, to: to.clone(), bytes: size });
            }
        })
    }

    /// A buffer to be written; none where all are still in use.
    fn buffer(&mut self, gpu: &Gpu, size: u64) -> Result<Option<wgpu::Buffer>> {
        // What was recorded has been submitted: a step is recorded, submitted, and then the next is written.
        gpu.scoped(|| {
            for buffer in self.used.drain(..) {
                let (back, own) = (self.back.0.clone(), buffer.clone());
                buffer.map_async(wgpu::MapMode::Write, .., move |mapped| {
                    if mapped.is_ok() {
                        // Nobody waits for it where the memory is gone.
                        drop(back.send(own));
                    }
                });
            }
        })?;
        // All of them in the first steps, so that how many there are does not depend on how quick those were.
        if self.made < BUFFERS {
            self.made += 1;
            let made = gpu.scoped(|| {
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("staging"),
                    size,
                    usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: true,
                })
            })?;
            return Ok(Some(made));
        }
        self.free.extend(self.back.1.try_iter());
        if self.free.is_empty() {
            gpu.wait()?;
            self.free.extend(self.back.1.try_iter());
        }
        Ok(self.free.pop())
    }

    /// Records the copies of what was written.
    pub(super) fn record(&mut self, encoder: &mut wgpu::CommandEncoder) {
        for Waiting { from, to, bytes } in self.waiting.drain(..) {
            encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
            self.used.push(from);
        }
    }
}
