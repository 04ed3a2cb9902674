//! A plan on a device: pipelines, bind groups, replay.

use super::{
    Access, Memory, PARAMS, Place, Plan, Planned, Pool, Ring, STEP, Stage, TensorId, uniform,
};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pipeline, PipelineKey, read_words};
use crate::phase::Phase;
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
    slots: Vec<wgpu::Buffer>,
    constants: wgpu::Buffer,
}

/// Where in its slot a scratch tensor begins.
fn within(place: Place) -> usize {
    if let Place::Part { offset, .. } = place { offset } else { 0 }
}

impl Plan {
    /// Builds pipelines (on several threads) and bind groups.
    ///
    /// # Errors
    /// [`OutOfMemory`](Error::OutOfMemory) and [`Shader`](Error::Shader).
    pub fn prepare(self, gpu: &Gpu, memory: &Memory, pool: &mut Pool) -> Result<Program> {
        let slots = pool.take(gpu, &self.slots)?;
        let constants =
            crate::gpu::storage_buffer(gpu, "constants", self.recording.constants.len())?;
        gpu.queue.write_buffer(&constants, 0, bytemuck::cast_slice(&self.recording.constants));
        let (params, offsets) = self.uniforms(gpu);
        let pipelines = self.pipelines(gpu)?;
        let mut dispatches = Vec::with_capacity(pipelines.len());
        for ((planned, pipeline), (offset, size)) in
            self.dispatches().iter().zip(pipelines).zip(offsets)
        {
            let mut entries = Vec::new();
            for (i, arg) in planned.args.iter().enumerate() {
                let Some(tensor) = arg else { continue };
                let info = &self.recording.tensors[tensor.index()];
                let (buffer, start) = match info.place {
                    Place::Space { space, offset } => (memory.buffer(space), offset),
                    Place::Const { offset } => (&constants, offset),
                    place => match self.slot_of[tensor.index()] {
                        Some(slot) => (&slots[slot], within(place)),
                        None => return Err(Error::Gpu(format!("'{}' has no slot", info.name))),
                    },
                };
                entries.push(wgpu::BindGroupEntry {
                    binding: i as u32,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: start as u64 * 4,
                        size: std::num::NonZeroU64::new(info.words().max(1) as u64 * 4),
                    }),
                });
            }
            entries.push(wgpu::BindGroupEntry {
                binding: PARAMS,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &params,
                    offset,
                    size: std::num::NonZeroU64::new(size),
                }),
            });
            if planned.kernel.step {
                entries.push(wgpu::BindGroupEntry {
                    binding: STEP,
                    resource: memory.step.as_entire_binding(),
                });
            }
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(planned.kernel.name),
                layout: &pipeline.layout,
                entries: &entries,
            });
            dispatches.push(Ready {
                pipeline,
                bind_group,
                groups: planned.groups,
                update: planned.stage == Stage::Update,
            });
        }
        gpu.check()?;
        Ok(Program { dispatches, plan: self, slots, constants })
    }

    /// All `P` blocks in one buffer; offset and size of each.
    fn uniforms(&self, gpu: &Gpu) -> (wgpu::Buffer, Vec<(u64, u64)>) {
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
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (block.len().max(4) * 4) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&block));
        (buffer, offsets)
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
    pub fn replay(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[super::SpaceId],
        ring: Option<&mut Ring>,
    ) -> Result<wgpu::SubmissionIndex> {
        let commands = self.commands(gpu, memory, update, clear, ring)?;
        let index = gpu.queue.submit([commands]);
        gpu.poll()?;
        Ok(index)
    }

    /// The commands of [`replay`](Self::replay), not yet submitted.
    pub(crate) fn commands(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[super::SpaceId],
        ring: Option<&mut Ring>,
    ) -> Result<wgpu::CommandBuffer> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        for space in clear {
            encoder.clear_buffer(memory.buffer(*space), 0, None);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
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
        if let Some(ring) = ring {
            ring.step(memory, &mut encoder)?;
        }
        Ok(encoder.finish())
    }

    /// Has the driver make each pipeline ready to run, where it leaves that to the first dispatch:
    /// dispatches of no workgroups, which compute nothing. Does not wait.
    pub(crate) fn warm(&self, gpu: &Gpu) {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
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
        }
        gpu.queue.submit([encoder.finish()]);
    }

    /// Runs everything once and waits; for tests, evaluation and examples.
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
    /// A tensor that was neither kept nor persistent has no contents after a replay.
    pub fn read(&self, gpu: &Gpu, memory: &Memory, id: TensorId) -> Result<Vec<f32>> {
        let info = &self.plan.recording.tensors[id.index()];
        let words = match (info.place, self.plan.slot_of[id.index()]) {
            (Place::Space { space, offset }, _) => memory.read(gpu, space, offset, info.words())?,
            (Place::Const { offset }, _) => read_words(gpu, &self.constants, offset, info.len())?,
            (place, Some(slot)) if info.keep => {
                read_words(gpu, &self.slots[slot], within(place), info.len())?
            }
            _ => return Err(Error::Gpu(format!("'{}' was not kept", info.name))),
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
