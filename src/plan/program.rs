//! A plan on a device: pipelines, bind groups, replay.

use super::memory::Slot;
use super::{
    ALIGN_WORDS, Access, Memory, PARAMS, Place, Plan, Planned, Pool, Ring, STEP, SpaceId, Stage,
    TensorId, uniform,
};
use crate::error::{Error, Result};
use crate::gpu::{self, Gpu, Pipeline, PipelineKey, read_words};
use crate::phase::Phase;
use std::num::NonZeroU64;
use std::sync::Arc;

pub(super) struct Ready {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) groups: [u32; 3],
    pub(super) update: bool,
}

/// A plan ready to run. Replaying it allocates nothing and reads nothing back.
pub struct Program {
    pub(super) dispatches: Vec<Ready>,
    plan: Plan,
    pub(super) slots: Vec<Slot>,
    constants: wgpu::Buffer,
    id: u64,
    /// The device and the memory that it was prepared with.
    gpu: u64,
    memory: u64,
}

/// Where in its slot a scratch tensor begins.
fn within(place: Place) -> usize {
    if let Place::Part { offset, .. } = place { offset } else { 0 }
}

/// Bytes `size` of a buffer from `offset` on.
fn range(buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindingResource<'_> {
    let size = NonZeroU64::new(size);
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
}

impl Plan {
    /// Builds pipelines (on several threads) and bind groups.
    ///
    /// # Errors
    /// [`OutOfMemory`](Error::OutOfMemory) and [`Shader`](Error::Shader);
    /// [`Access`](Error::Access) where the memory or the pool is of another device, or the memory
    /// has not the space of a tensor, or not all of it.
    pub fn prepare(self, gpu: &Gpu, memory: &Memory, pool: &mut Pool) -> Result<Program> {
        memory.on(gpu, "prepare")?;
        let slots = pool.take(gpu, &self.slots)?;
        let constants = &self.recording.constants;
        let buffer = gpu::storage_buffer(gpu, "constants", constants.len())?;
        if !constants.is_empty() {
            gpu.scoped(|| gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(constants)))?;
        }
        let constants = buffer;
        let (params, offsets) = self.uniforms(gpu)?;
        let pipelines = self.pipelines(gpu)?;
        let mut bound = Vec::with_capacity(pipelines.len());
        for (planned, (offset, size)) in self.dispatches().iter().zip(offsets) {
            let mut entries = Vec::new();
            for (binding, arg) in (0..).zip(&planned.args) {
                let Some(tensor) = arg else { continue };
                let resource = self.resource(*tensor, memory, &slots, &constants)?;
                entries.push(wgpu::BindGroupEntry { binding, resource });
            }
            let resource = range(&params, offset, size);
            entries.push(wgpu::BindGroupEntry { binding: PARAMS, resource });
            if planned.kernel.step {
                let resource = memory.step.as_entire_binding();
                entries.push(wgpu::BindGroupEntry { binding: STEP, resource });
            }
            bound.push(entries);
        }
        let dispatches = gpu.scoped(|| {
            let all = self.dispatches().iter().zip(pipelines).zip(&bound);
            let ready = all.map(|((planned, pipeline), entries)| {
                let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(planned.kernel.name),
                    layout: &pipeline.layout,
                    entries,
                });
                let (groups, update) = (planned.groups, planned.stage == Stage::Update);
                Ready { pipeline, bind_group, groups, update }
            });
            ready.collect()
        })?;
        let (id, gpu, memory) = (gpu::unique(), gpu.id(), memory.id());
        Ok(Program { dispatches, plan: self, slots, constants, id, gpu, memory })
    }

    /// The part of a buffer where a tensor is.
    fn resource<'a>(
        &self,
        tensor: TensorId,
        memory: &'a Memory,
        slots: &'a [Slot],
        constants: &'a wgpu::Buffer,
    ) -> Result<wgpu::BindingResource<'a>> {
        let info = &self.recording.tensors[tensor.index()];
        let words = info.words().max(1);
        let (buffer, start) = match info.place {
            Place::Space { space, offset } => {
                if offset % ALIGN_WORDS != 0 {
                    let detail = format!(
                        "'{}' begins at word {offset}, which is no multiple of {ALIGN_WORDS}",
                        info.name
                    );
                    return Err(Error::access("prepare", detail));
                }
                let usage = wgpu::BufferUsages::STORAGE;
                let part = memory.part("prepare", space, (offset, words), usage);
                let named = |error| match error {
                    Error::Access { op, detail } => {
                        Error::access(op, format!("tensor '{}': {detail}", info.name))
                    }
                    other => other,
                };
                (part.map_err(named)?, offset)
            }
            Place::Const { offset } => (constants, offset),
            place => {
                let slot = self.slot_of[tensor.index()].and_then(|slot| slots.get(slot));
                let slot = slot.ok_or_else(|| {
                    Error::access("prepare", format!("'{}' has no slot", info.name))
                })?;
                (&slot.buffer, within(place))
            }
        };
        Ok(range(buffer, start as u64 * 4, words as u64 * 4))
    }

    /// All `P` blocks in one buffer; offset and size of each.
    fn uniforms(&self, gpu: &Gpu) -> Result<(wgpu::Buffer, Vec<(u64, u64)>)> {
        let mut block: Vec<u32> = Vec::new();
        let align = (gpu.caps().align as usize / 4).max(4);
        let offsets = self
            .dispatches()
            .iter()
            .map(|d| {
                let start = block.len();
                block.extend(&d.words);
                block.resize(start + uniform(&d.words), 0);
                let size = (block.len() - start) as u64 * 4;
                block.resize(block.len().next_multiple_of(align), 0);
                (start as u64 * 4, size)
            })
            .collect();
        Ok((gpu::uniform_buffer(gpu, "params", &block)?, offsets))
    }

    fn pipelines(&self, gpu: &Gpu) -> Result<Vec<Arc<Pipeline>>> {
        let keys: Vec<(PipelineKey, &Planned)> =
            self.dispatches().iter().map(|d| (d.key(), d)).collect();
        let mut distinct: Vec<&(PipelineKey, &Planned)> = Vec::new();
        for key in &keys {
            if !distinct.iter().any(|d| d.0 == key.0 && d.1.trusted == key.1.trusted) {
                distinct.push(key);
            }
        }
        let phase = Phase::begin();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|t| {
                    let mine = distinct.iter().skip(t).step_by(threads).copied();
                    let mine: Vec<_> = mine.collect();
                    scope.spawn(move || {
                        mine.into_iter().try_for_each(|(_, d)| d.pipeline(gpu).map(drop))
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|w| {
                w.join().unwrap_or_else(|_| Err(Error::Gpu("a pipeline thread stopped".into())))
            })
        })?;
        phase.end(format_args!("{} pipelines of {} dispatches", distinct.len(), keys.len()));
        keys.iter().map(|(_, planned)| planned.pipeline(gpu)).collect()
    }
}

impl Program {
    /// Encodes and submits one step: everything up to the optimiser, and the optimiser too where
    /// `update` says so. `clear` names spaces to zero first; `ring` is copied out when full.
    ///
    /// # Errors
    /// [`Access`](Error::Access) where this was prepared on another device or with another memory,
    /// or a space is of others; nothing is submitted then. Those of the device.
    pub fn replay(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[SpaceId],
        ring: Option<&mut Ring>,
    ) -> Result<wgpu::SubmissionIndex> {
        let commands = self.commands(gpu, memory, update, clear, ring)?;
        let index = gpu.submit(commands)?;
        gpu.poll()?;
        Ok(index)
    }

    /// The commands of [`replay`](Self::replay), not yet submitted.
    pub(crate) fn commands(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[SpaceId],
        mut ring: Option<&mut Ring>,
    ) -> Result<wgpu::CommandBuffer> {
        self.fits(gpu, memory)?;
        let clear = memory.cleared(clear)?;
        if let Some(ring) = &mut ring {
            ring.ready(gpu, memory)?;
        }
        gpu.scoped(|| {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            memory.record_staged(&mut encoder);
            self.encode_step(&mut encoder, &clear, update);
            if let Some(ring) = ring {
                ring.step(memory, &mut encoder);
            }
            encoder.finish()
        })
    }

    /// Records one step into a host's encoder, between whatever else the host records there: the
    /// spaces `clear` are zeroed, then everything up to the optimiser is computed in one pass, and
    /// the optimiser too where `update` says so. The host submits; what
    /// [`write`](Memory::write) has written before that is there when the step runs.
    ///
    /// # Errors
    /// As [`replay`](Self::replay). The encoder is left as it was then.
    pub fn record(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        encoder: &mut wgpu::CommandEncoder,
        update: bool,
        clear: &[SpaceId],
    ) -> Result<()> {
        self.fits(gpu, memory)?;
        let clear = memory.cleared(clear)?;
        memory.record_staged(encoder);
        self.encode_step(encoder, &clear, update);
        Ok(())
    }

    /// Records the dispatches of one step into a pass of a host, as [`record`](Self::record) does.
    /// The pass is left with a pipeline and a bind group of this crate.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn record_pass(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        pass: &mut wgpu::ComputePass<'_>,
        update: bool,
    ) -> Result<()> {
        self.fits(gpu, memory)?;
        self.encode_pass(pass, update);
        Ok(())
    }

    /// Whether this was prepared on that device and with that memory.
    pub(super) fn fits(&self, gpu: &Gpu, memory: &Memory) -> Result<()> {
        self.on(gpu)?;
        memory.on(gpu, "replay")?;
        if self.memory != memory.id() {
            let detail = "this program was prepared with another Memory; prepare one for each";
            return Err(Error::access("replay", detail));
        }
        Ok(())
    }

    /// Whether this was prepared on that device.
    pub(super) fn on(&self, gpu: &Gpu) -> Result<()> {
        if self.gpu == gpu.id() {
            return Ok(());
        }
        Err(Error::access(
            "replay",
            "this program is of another Gpu; use the one it is prepared on",
        ))
    }

    /// The part of a buffer where a tensor is.
    pub(super) fn resource_of<'a>(
        &'a self,
        memory: &'a Memory,
        tensor: TensorId,
    ) -> Result<wgpu::BindingResource<'a>> {
        self.plan.resource(tensor, memory, &self.slots, &self.constants)
    }

    fn encode_step(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        clear: &[&wgpu::Buffer],
        update: bool,
    ) {
        for buffer in clear {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.encode_pass(&mut encoder.begin_compute_pass(&Default::default()), update);
    }

    fn encode_pass(&self, pass: &mut wgpu::ComputePass<'_>, update: bool) {
        self.take_slots();
        let mut current: Option<&Arc<Pipeline>> = None;
        for ready in self.dispatches.iter().filter(|r| update || !r.update) {
            if !current.is_some_and(|c| Arc::ptr_eq(c, &ready.pipeline)) {
                pass.set_pipeline(&ready.pipeline.pipeline);
                current = Some(&ready.pipeline);
            }
            pass.set_bind_group(0, &ready.bind_group, &[]);
            let [x, y, z] = ready.groups;
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Says of the scratch buffers that it is this program which writes them now.
    pub(super) fn take_slots(&self) {
        self.slots.iter().for_each(|slot| slot.taken_by(self.id));
    }

    /// Has the driver make each pipeline ready to run, where it leaves that to the first dispatch:
    /// dispatches of no workgroups, which compute nothing. Does not wait.
    ///
    /// # Errors
    /// Those of the device.
    pub fn warm(&self, gpu: &Gpu) -> Result<()> {
        let encode = |encoder: &mut wgpu::CommandEncoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (i, ready) in self.dispatches.iter().enumerate() {
                let seen = |r: &Ready| Arc::ptr_eq(&r.pipeline, &ready.pipeline);
                if self.dispatches[..i].iter().any(seen) {
                    continue;
                }
                pass.set_pipeline(&ready.pipeline.pipeline);
                pass.set_bind_group(0, &ready.bind_group, &[]);
                pass.dispatch_workgroups(0, 0, 0);
            }
        };
        gpu.run(encode).map(drop)
    }

    /// Runs everything once and waits; for tests, evaluation and examples.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn run(&self, gpu: &Gpu, memory: &Memory) -> Result<()> {
        self.replay(gpu, memory, true, &[], None)?;
        gpu.wait()
    }

    /// Number of dispatches, with and without the optimiser's.
    pub fn dispatch_count(&self, update: bool) -> usize {
        self.dispatches.iter().filter(|r| update || !r.update).count()
    }

    /// The plan this was made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Reads a kept or persistent tensor back. Blocks.
    ///
    /// # Errors
    /// [`Access`](Error::Access): a tensor that was neither kept nor persistent has no contents after
    /// a replay; a kept one has none before, nor after another program of the same [`Pool`] has run
    /// over it; a memory or a device that this was not prepared with; a tensor of another tape. Those
    /// of the device.
    pub fn read(&self, gpu: &Gpu, memory: &Memory, id: TensorId) -> Result<Vec<f32>> {
        self.fits(gpu, memory)?;
        let fail = |detail: String| Err(Error::access("read", detail));
        let Some(info) = self.plan.tensor(id) else {
            return fail("this tensor is of another tape".into());
        };
        let words = match (info.place, self.plan.slot_of[id.index()]) {
            (Place::Space { space, offset }, _) => memory.read(gpu, space, offset, info.words())?,
            (Place::Const { offset }, _) => read_words(gpu, &self.constants, offset, info.len())?,
            (place, Some(slot)) if info.keep => {
                let slot = &self.slots[slot];
                if !slot.is_of(self.id) {
                    return fail(format!(
                        "'{}' is not there: its program has not run, or another one of its Pool \
                         has run since; read it before that, or give each a Pool of its own",
                        info.name
                    ));
                }
                read_words(gpu, &slot.buffer, within(place), info.len())?
            }
            _ => return fail(format!("'{}' was not kept", info.name)),
        };
        Ok(info.floats(words))
    }

    /// Whether a dispatch writes a tensor; for tests.
    pub fn writes(&self, id: TensorId) -> bool {
        self.plan.dispatches().iter().any(|d| {
            let bindings = d.kernel.bindings.iter().zip(&d.args);
            bindings.into_iter().any(|(b, a)| b.access == Access::Write && *a == Some(id))
        })
    }
}
