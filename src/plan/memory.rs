//! Persistent buffers (spaces) and the pool of scratch buffers that all plans of a model share.

use super::Step;
use crate::error::Result;
use crate::gpu::{self, Gpu};

/// A persistent buffer, by the order of its declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpaceId(pub(crate) usize);

/// Declarations of persistent buffers: parameters, gradients, moments, labels, the batch.
/// Sizes are known, and can be printed, before anything is allocated.
#[derive(Clone, Debug, Default)]
pub struct Spaces {
    list: Vec<(String, usize)>,
}

impl Spaces {
    /// No buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a buffer of `words` 32-bit words.
    pub fn declare(&mut self, name: impl Into<String>, words: usize) -> SpaceId {
        self.list.push((name.into(), words));
        SpaceId(self.list.len() - 1)
    }

    /// Makes a buffer at least `words` long.
    pub fn grow(&mut self, id: SpaceId, words: usize) {
        self.list[id.0].1 = self.list[id.0].1.max(words);
    }

    /// Names and sizes in words.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.list.iter().map(|(n, w)| (n.as_str(), *w))
    }

    /// Size of one buffer, in words.
    pub fn words(&self, id: SpaceId) -> usize {
        self.list[id.0].1
    }

    /// Sum of all, in bytes.
    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|(_, w)| *w as u64 * 4).sum()
    }
}

/// The spaces on a device, and the step uniforms.
pub struct Memory {
    buffers: Vec<wgpu::Buffer>,
    pub(super) step: wgpu::Buffer,
}

impl Memory {
    /// Allocates all spaces, zeroed.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory) naming the space that did not fit.
    pub fn allocate(gpu: &Gpu, spaces: &Spaces) -> Result<Self> {
        let buffers = spaces
            .iter()
            .map(|(name, words)| gpu::storage_buffer(gpu, name, words))
            .collect::<Result<_>>()?;
        let step = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("step"),
            size: size_of::<Step>() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Ok(Memory { buffers, step })
    }

    /// The buffer of a space.
    pub(crate) fn buffer(&self, id: SpaceId) -> &wgpu::Buffer {
        &self.buffers[id.0]
    }

    /// Writes words into a space before the next submit.
    pub fn write(&self, gpu: &Gpu, id: SpaceId, offset: usize, words: &[u32]) {
        let bytes = bytemuck::cast_slice(words);
        gpu.queue.write_buffer(&self.buffers[id.0], offset as u64 * 4, bytes);
    }

    /// Writes the step uniforms before the next submit.
    pub fn write_step(&self, gpu: &Gpu, step: &Step) {
        gpu.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(step));
    }

    /// Reads words of a space back. Blocks.
    pub fn read(&self, gpu: &Gpu, id: SpaceId, offset: usize, words: usize) -> Result<Vec<u32>> {
        gpu::read_words(gpu, &self.buffers[id.0], offset, words)
    }

    /// As [`read`](Self::read), as floats.
    pub fn read_f32(&self, gpu: &Gpu, id: SpaceId, offset: usize, len: usize) -> Result<Vec<f32>> {
        Ok(bytemuck::cast_vec(self.read(gpu, id, offset, len)?))
    }
}

/// Scratch buffers shared by the plans of a model, which never run at the same time.
#[derive(Default)]
pub struct Pool {
    /// Largest first.
    slots: Vec<(usize, wgpu::Buffer)>,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Buffers for slots of these sizes, in the same order, reusing what is large enough.
    pub(super) fn take(&mut self, gpu: &Gpu, sizes: &[usize]) -> Result<Vec<wgpu::Buffer>> {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(sizes[*i]));
        let mut taken = vec![None; sizes.len()];
        for (rank, slot) in order.into_iter().enumerate() {
            let words = sizes[slot];
            if self.slots.get(rank).is_none_or(|(size, _)| *size < words) {
                let buffer = gpu::storage_buffer(gpu, "activations", words)?;
                if rank < self.slots.len() {
                    self.slots[rank] = (words, buffer);
                } else {
                    self.slots.push((words, buffer));
                }
            }
            taken[slot] = Some(self.slots[rank].1.clone());
        }
        Ok(taken.into_iter().flatten().collect())
    }
}
