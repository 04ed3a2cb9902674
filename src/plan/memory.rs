//! Persistent buffers (spaces) and the pool of scratch buffers that all plans of a model share.

use super::Step;
use super::staging::Staging;
use crate::error::{Error, Result};
use crate::gpu::{self, Gpu};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A persistent buffer that was declared. It is known among all declarations of the process, so
/// that one of other [`Spaces`] is told apart and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpaceId {
    index: usize,
    token: u64,
}

#[derive(Clone, Debug)]
struct Declared {
    name: String,
    words: usize,
    token: u64,
}

/// Declarations of persistent buffers: parameters, gradients, moments, labels, the batch.
/// Sizes are known, and can be printed, before anything is allocated.
#[derive(Clone, Debug, Default)]
pub struct Spaces {
    list: Vec<Declared>,
}

impl Spaces {
    /// No buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a buffer of `words` 32-bit words.
    pub fn declare(&mut self, name: impl Into<String>, words: usize) -> SpaceId {
        let token = gpu::unique();
        self.list.push(Declared { name: name.into(), words, token });
        SpaceId { index: self.list.len() - 1, token }
    }

    /// Makes a buffer at least `words` long.
    ///
    /// # Errors
    /// [`Access`](Error::Access) where `id` is of other spaces.
    pub fn grow(&mut self, id: SpaceId, words: usize) -> Result<()> {
        let own = self.list.get_mut(id.index).filter(|d| d.token == id.token);
        let own = own.ok_or_else(|| foreign("grow"))?;
        own.words = own.words.max(words);
        Ok(())
    }

    /// The buffers in the order of their declaration.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = SpaceId> {
        self.list.iter().enumerate().map(|(index, d)| SpaceId { index, token: d.token })
    }

    /// Names and sizes in words, in the order of their declaration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, usize)> {
        self.list.iter().map(|d| (d.name.as_str(), d.words))
    }

    /// Size of one buffer, in words.
    ///
    /// # Errors
    /// [`Access`](Error::Access) where `id` is of other spaces.
    pub fn words(&self, id: SpaceId) -> Result<usize> {
        Ok(self.get(id, "size")?.words)
    }

    /// Where a buffer is in their order.
    pub(super) fn place(&self, id: SpaceId) -> Result<usize> {
        self.get(id, "place").map(|_| id.index)
    }

    fn get(&self, id: SpaceId, op: &'static str) -> Result<&Declared> {
        let own = self.list.get(id.index).filter(|d| d.token == id.token);
        own.ok_or_else(|| foreign(op))
    }

    /// Sum of all, in bytes.
    pub fn bytes(&self) -> u64 {
        let bytes = |words: usize| (words as u64).saturating_mul(4);
        self.list.iter().fold(0, |sum: u64, d| sum.saturating_add(bytes(d.words)))
    }
}

fn foreign(op: &'static str) -> Error {
    Error::access(op, "this space was declared elsewhere; use the id that these spaces gave")
}

/// The spaces on a device, and the step uniforms.
pub struct Memory {
    spaces: Spaces,
    buffers: Vec<wgpu::Buffer>,
    pub(super) step: wgpu::Buffer,
    staging: Mutex<Staging>,
    gpu: u64,
    id: u64,
}

impl Memory {
    /// Allocates all spaces, zeroed.
    ///
    /// # Errors
    /// [`OutOfMemory`](Error::OutOfMemory) naming the space that did not fit.
    pub fn allocate(gpu: &Gpu, spaces: &Spaces) -> Result<Self> {
        Self::bind(gpu, spaces, &[])
    }

    /// Allocates the spaces, but takes the buffers of `given` for those that it names: programs then
    /// read their input where a host has written it, and leave their output where the host reads it.
    /// What such a buffer holds is left as it is.
    ///
    /// A buffer must be of this device (one of another device is a fault of the device, one of another
    /// wgpu instance a panic of wgpu, which cannot tell), have the usage [`STORAGE`](wgpu::BufferUsages::STORAGE) and
    /// at least the words of its space, rounded up to a multiple of four. To be written, cleared or
    /// read by this crate it needs `COPY_DST` or `COPY_SRC` as well.
    ///
    /// # Errors
    /// [`Access`](Error::Access) naming the space: one of other spaces or given twice, a buffer that
    /// is too small, lacks the usage, or is given for two spaces, which one kernel might write and
    /// read. [`OutOfMemory`](Error::OutOfMemory) naming the space that did not fit.
    pub fn bind(gpu: &Gpu, spaces: &Spaces, given: &[(SpaceId, wgpu::Buffer)]) -> Result<Self> {
        let mut found = vec![None; spaces.list.len()];
        for (i, (id, buffer)) in given.iter().enumerate() {
            let space = spaces.get(*id, "bind")?;
            let fail = |what: String| {
                Error::access("bind", format!("the buffer for '{}' {what}", space.name))
            };
            let (has, wants) = (buffer.size() / 4, gpu::stored(space.words) as u64);
            if has < wants {
                return Err(fail(format!("has {has} words, {wants} are wanted")));
            }
            if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
                return Err(fail("has not the usage STORAGE; create it with that".into()));
            }
            if given[..i].iter().any(|(other, b)| other == id || b == buffer) {
                return Err(fail("or the space itself is given twice".into()));
            }
            let most = gpu.caps().max_binding;
            if wants.saturating_mul(4) > most {
                return Err(fail(format!("is bound whole, and a binding holds {most} bytes")));
            }
            found[id.index] = Some(buffer.clone());
        }
        let buffers = spaces
            .list
            .iter()
            .zip(found)
            .map(|(space, found)| match found {
                Some(buffer) => Ok(buffer),
                None => gpu::storage_buffer(gpu, &space.name, space.words),
            })
            .collect::<Result<_>>()?;
        let step = gpu::uniform_buffer(gpu, "step", bytemuck::cast_slice(&[Step::default()]))?;
        let (spaces, id) = (spaces.clone(), gpu::unique());
        let staging = Mutex::new(Staging::new());
        Ok(Memory { spaces, buffers, step, staging, gpu: gpu.id(), id })
    }

    /// The spaces as they were when this was allocated.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Tells memories apart.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether this is memory of that device.
    pub(super) fn on(&self, gpu: &Gpu, op: &'static str) -> Result<()> {
        if self.gpu == gpu.id() {
            return Ok(());
        }
        Err(Error::access(op, "this memory is of another Gpu; use the one it was allocated on"))
    }

    /// The buffer of a space, to be copied to and from by a host's own commands.
    ///
    /// # Errors
    /// [`Access`](Error::Access) where `id` is of other spaces.
    pub fn buffer(&self, id: SpaceId) -> Result<&wgpu::Buffer> {
        self.spaces.get(id, "buffer")?;
        // There is one for each space.
        self.buffers.get(id.index).ok_or_else(|| foreign("buffer"))
    }

    /// The buffer of a space, of which `words` words from `offset` on are to be used.
    pub(super) fn part(
        &self,
        op: &'static str,
        id: SpaceId,
        (offset, words): (usize, usize),
        usage: wgpu::BufferUsages,
    ) -> Result<&wgpu::Buffer> {
        let space = self.spaces.get(id, op)?;
        let room = gpu::stored(space.words);
        if offset.checked_add(words).is_none_or(|end| end > room) {
            let detail = format!(
                "'{}' has {} words, not {words} from word {offset} on",
                space.name, space.words
            );
            return Err(Error::access(op, detail));
        }
        let buffer = self.buffer(id)?;
        if !buffer.usage().contains(usage) {
            let detail =
                format!("the host's buffer for '{}' was not created with {usage:?}", space.name);
            return Err(Error::access(op, detail));
        }
        Ok(buffer)
    }

    /// Writes words into a space before the next submit.
    ///
    /// # Errors
    /// [`Access`](Error::Access): a space of other spaces, words beyond its end, another device.
    pub fn write(&self, gpu: &Gpu, id: SpaceId, offset: usize, words: &[u32]) -> Result<()> {
        self.on(gpu, "write")?;
        let usage = wgpu::BufferUsages::COPY_DST;
        let buffer = self.part("write", id, (offset, words.len()), usage)?;
        if words.is_empty() {
            return Ok(());
        }
        let bytes = bytemuck::cast_slice(words);
        gpu.scoped(|| gpu.queue.write_buffer(buffer, offset as u64 * 4, bytes))
    }

    /// Writes words to the beginning of a space for the next [`replay`](super::Program::replay), once a step: no
    /// memory is taken for it but in the first steps.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[cfg_attr(not(feature = "train"), allow(dead_code, reason = "training writes at every step"))]
    pub(crate) fn stage(&self, gpu: &Gpu, id: SpaceId, words: &[u32]) -> Result<()> {
        self.on(gpu, "write")?;
        let buffer = self.part("write", id, (0, words.len()), wgpu::BufferUsages::COPY_DST)?;
        if words.is_empty() {
            return Ok(());
        }
        self.staging.lock().unwrap_or_else(PoisonError::into_inner).write(gpu, buffer, words)
    }

    /// Records the copies of what was [staged](Self::stage), before anything that reads it.
    pub(super) fn record_staged(&self, encoder: &mut wgpu::CommandEncoder) {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner).record(encoder);
    }

    /// As [`write`](Self::write), of floats.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_f32(&self, gpu: &Gpu, id: SpaceId, offset: usize, values: &[f32]) -> Result<()> {
        self.write(gpu, id, offset, bytemuck::cast_slice(values))
    }

    /// Writes the step uniforms before the next submit.
    ///
    /// # Errors
    /// [`Access`](Error::Access) on another device.
    pub fn write_step(&self, gpu: &Gpu, step: &Step) -> Result<()> {
        self.on(gpu, "write_step")?;
        gpu.scoped(|| gpu.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(step)))
    }

    /// Sets spaces to zero, before whatever is submitted next.
    pub(crate) fn clear(&self, gpu: &Gpu, spaces: &[SpaceId]) -> Result<()> {
        self.on(gpu, "clear")?;
        let buffers = self.cleared(spaces)?;
        gpu.run(|encoder| buffers.iter().for_each(|b| encoder.clear_buffer(b, 0, None))).map(drop)
    }

    /// The buffers of spaces that are to be zeroed.
    pub(super) fn cleared(&self, spaces: &[SpaceId]) -> Result<Vec<&wgpu::Buffer>> {
        let usage = wgpu::BufferUsages::COPY_DST;
        spaces.iter().map(|space| self.part("clear", *space, (0, 0), usage)).collect()
    }

    /// Reads words of a space back. Blocks.
    ///
    /// # Errors
    /// As [`write`](Self::write), and a lost device.
    pub fn read(&self, gpu: &Gpu, id: SpaceId, offset: usize, words: usize) -> Result<Vec<u32>> {
        self.on(gpu, "read")?;
        let buffer = self.part("read", id, (offset, words), wgpu::BufferUsages::COPY_SRC)?;
        gpu::read_words(gpu, buffer, offset, words)
    }

    /// As [`read`](Self::read), as floats.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_f32(&self, gpu: &Gpu, id: SpaceId, offset: usize, len: usize) -> Result<Vec<f32>> {
        Ok(bytemuck::cast_vec(self.read(gpu, id, offset, len)?))
    }
}

/// Scratch buffers shared by the plans of a model, which never run at the same time. What a program
/// keeps for reading is there until another one of the pool runs.
#[derive(Default)]
pub struct Pool {
    /// Largest first.
    slots: Vec<(usize, Slot)>,
    /// The device that they are on.
    gpu: Option<u64>,
}

/// A scratch buffer, and which program has run over it last.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) buffer: wgpu::Buffer,
    last: Arc<AtomicU64>,
}

impl Slot {
    /// `program` is about to run over it.
    pub(super) fn taken_by(&self, program: u64) {
        self.last.store(program, Ordering::Relaxed);
    }

    /// Whether it holds what `program` has left.
    pub(super) fn is_of(&self, program: u64) -> bool {
        self.last.load(Ordering::Relaxed) == program
    }
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Buffers for slots of these sizes, in the same order, reusing what is large enough.
    pub(super) fn take(&mut self, gpu: &Gpu, sizes: &[usize]) -> Result<Vec<Slot>> {
        if *self.gpu.get_or_insert(gpu.id()) != gpu.id() {
            return Err(Error::access("prepare", "this pool is of another Gpu; make one for each"));
        }
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(sizes[*i]));
        let mut taken = vec![None; sizes.len()];
        for (rank, slot) in order.into_iter().enumerate() {
            let words = sizes[slot];
            if self.slots.get(rank).is_none_or(|(size, _)| *size < words) {
                let buffer = gpu::storage_buffer(gpu, "activations", words)?;
                let fresh = (words, Slot { buffer, last: Arc::default() });
                if rank < self.slots.len() {
                    self.slots[rank] = fresh;
                } else {
                    self.slots.push(fresh);
                }
            }
            taken[slot] = Some(self.slots[rank].1.clone());
        }
        Ok(taken.into_iter().flatten().collect())
    }
}
