//! Choosing between launches that leave the very same bits: measured once for each class of shapes,
//! heaviest first, and kept by the device (`gpu::Choices`) for the next start.
//!
//! Only speed hangs on a choice, so that a run repeats, and resumes on another machine, bit for bit
//! whatever was chosen: `tests/kernels.rs` compares the bits, and so does measuring itself, since a
//! driver may round otherwise where a text says the same. Times are the device's own where it tells
//! them.

use super::{Access, Clock, PARAMS, Plan, Planned, STEP, Step, TensorId, TensorInfo, pack_halves};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, read_words, storage_buffer, uniform_buffer};
use std::time::{Duration, Instant};

/// Another launch must be faster by this factor, or the first one stays.
const GAIN: f64 = 0.95;
/// Timings of each launch at most, of which the shortest counts.
const ROUNDS: usize = 5;

impl Plan {
    /// Takes the launches that were found to be the fastest on this device. With `measure`, those
    /// classes of which nothing is known are measured, while the device's time for that lasts: a
    /// second for a process, compilation included; what is left over keeps its first launch and
    /// waits for the next start. Does nothing where [`no_tune`](crate::GpuOptions::no_tune) is set.
    ///
    /// # Errors
    /// A kernel that does not build; a lost device.
    pub fn tune(mut self, gpu: &Gpu, measure: bool) -> Result<Self> {
        if measure {
            self.measure(gpu)?;
        }
        for dispatch in self.dispatches.iter_mut().filter(|d| d.text.is_none()) {
            if let Some(option) = gpu.choices().get(&class(dispatch)) {
                dispatch.choose(option);
            }
        }
        Ok(self)
    }

    fn measure(&self, gpu: &Gpu) -> Result<()> {
        // One dispatch of each class, and the work of all.
        let mut classes: Vec<(String, u64, &Planned)> = Vec::new();
        for dispatch in self.dispatches.iter().filter(|d| !d.others.is_empty() && d.text.is_none())
        {
            let name = class(dispatch);
            match classes.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, flops, _)) => *flops += dispatch.flops,
                None => classes.push((name, dispatch.flops, dispatch)),
            }
        }
        classes.retain(|(name, ..)| gpu.choices().get(name).is_none());
        classes.sort_by_key(|(_, flops, _)| std::cmp::Reverse(*flops));
        let (mut found, mut clock) = (false, None);
        for (name, _, dispatch) in classes {
            if gpu.choices().left().is_zero() {
                break;
            }
            let start = Instant::now();
            let clock = match &clock {
                Some(clock) => clock,
                None => clock.insert(Clock::new(gpu)?),
            };
            if let Some(option) = self.fastest(gpu, clock, dispatch)? {
                gpu.choices().set(name, option, start.elapsed());
                found = true;
            }
        }
        if found {
            gpu.choices().save();
        }
        Ok(())
    }

    /// The option of a dispatch that takes the least time, on random numbers; of those only that leave
    /// the bits that the first one leaves. `None` where the device has no room to try.
    fn fastest(&self, gpu: &Gpu, clock: &Clock, dispatch: &Planned) -> Result<Option<usize>> {
        let words_of = |id: TensorId| self.tensor(id).map_or(0, TensorInfo::words);
        let buffer = |id: TensorId| storage_buffer(gpu, "tuning", words_of(id));
        let mut buffers = Vec::new();
        for arg in &dispatch.args {
            buffers.push(match arg.map(buffer).transpose() {
                // A plan that just fits leaves none for trials.
                Err(why @ Error::OutOfMemory { .. }) => {
                    log::debug!("{}: not measured: {why}", class(dispatch));
                    return Ok(None);
                }
                made => made?,
            });
        }
        let params = uniform_buffer(gpu, "tuning", &dispatch.words)?;
        let step = uniform_buffer(gpu, "tuning", bytemuck::cast_slice(&[Step::default()]))?;
        let mut entries: Vec<_> =
            buffers.iter().zip(0..).filter_map(|(b, i)| Some((i, b.as_ref()?))).collect();
        entries.push((PARAMS, &params));
        if dispatch.kernel.step {
            entries.push((STEP, &step));
        }
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
            .collect();
        let bound = || {
            let bindings = dispatch.kernel.bindings.iter().zip(&dispatch.args).zip(&buffers);
            bindings.filter_map(|((b, arg), buffer)| Some((b.access, (*arg)?, buffer.as_ref()?)))
        };
        let fill = |written: bool| -> Result<()> {
            for (seed, (_, id, buffer)) in
                bound().enumerate().filter(|(_, (a, ..))| !written || *a == Access::Write)
            {
                self.tensor(id).map_or(Ok(()), |info| fill(gpu, buffer, info, seed as u64))?;
            }
            Ok(())
        };
        fill(false)?;
        let mut first: Vec<Vec<u32>> = Vec::new();
        let mut options = Vec::new();
        for option in 0..=dispatch.others.len() {
            let mut planned = dispatch.clone();
            planned.choose(option);
            let pipeline = match planned.pipeline(gpu) {
                // More invocations or workgroup memory than the adapter has.
                Err(Error::Shader { message, .. }) if option > 0 => {
                    log::debug!(
                        "{}: option {option} is not for this adapter: {message}",
                        class(dispatch)
                    );
                    continue;
                }
                made => made?,
            };
            let bind_group = gpu.scoped(|| {
                gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("tuning"),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            })?;
            // Some drivers compile when a pipeline runs for the first time. It is also the run whose
            // bits are compared: each begins with the same numbers.
            fill(true)?;
            clock.dispatch(gpu, &pipeline, &bind_group, planned.groups)?;
            let outputs = bound().filter(|(access, ..)| *access == Access::Write);
            let mut same = true;
            for (place, (_, id, buffer)) in outputs.enumerate() {
                let words = words_of(id);
                let left = read_parts(gpu, buffer, words)?;
                match first.get(place) {
                    None => first.push(left),
                    Some(first) => same &= *first == left,
                }
            }
            if !same {
                log::info!(
                    "{}: option {option} leaves other bits than the first one on {}, and is not used",
                    class(dispatch),
                    gpu.caps().name
                );
                continue;
            }
            options.push((option, pipeline, bind_group, planned.groups, Duration::MAX));
        }
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for (_, pipeline, bind_group, groups, least) in &mut options {
                *least = clock.dispatch(gpu, pipeline, bind_group, *groups)?.min(*least);
            }
            if start.elapsed() > gpu.choices().left() / 4 {
                break;
            }
        }
        let times: Vec<(usize, Duration)> = options.iter().map(|o| (o.0, o.4)).collect();
        log::debug!("{}: options and their times: {times:?}", class(dispatch));
        let Some(((_, usual), (best, least))) =
            times.first().copied().zip(times.iter().copied().min_by_key(|(_, time)| *time))
        else {
            return Ok(None);
        };
        Ok(Some(if least.as_secs_f64() < usual.as_secs_f64() * GAIN { best } else { 0 }))
    }
}

/// Words of random numbers that are made; a longer buffer has them again and again.
const BLOCK: usize = 1 << 16;
/// Words that are read back at once, so that a large result needs little memory beside it.
const PART: usize = 1 << 20;

/// Fills a buffer with random numbers in [-1, 1), by halves where its tensor is stored so.
fn fill(gpu: &Gpu, buffer: &wgpu::Buffer, tensor: &TensorInfo, seed: u64) -> Result<()> {
    let words = tensor.words();
    let values = crate::ops::random(seed, if tensor.half { 2 * BLOCK } else { BLOCK });
    let block: Vec<u32> =
        if tensor.half { pack_halves(&values) } else { bytemuck::cast_vec(values) };
    for at in (0..words).step_by(BLOCK) {
        let part = &block[..BLOCK.min(words - at)];
        gpu.scoped(|| {
            gpu.queue.write_buffer(buffer, at as u64 * 4, bytemuck::cast_slice(part));
        })?;
    }
    Ok(())
}

fn read_parts(gpu: &Gpu, buffer: &wgpu::Buffer, words: usize) -> Result<Vec<u32>> {
    let mut all = Vec::with_capacity(words);
    for at in (0..words).step_by(PART) {
        all.extend(read_words(gpu, buffer, at, PART.min(words - at))?);
    }
    Ok(all)
}

/// What dispatches have in common that one choice serves: the kernel, its variant, sizes up to a
/// factor of two.
fn class(dispatch: &Planned) -> String {
    let defines: Vec<String> = dispatch.defines.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let [x, y, z] = dispatch.groups.map(u32::next_power_of_two);
    let size = dispatch.flops.max(1).ilog2();
    format!("{} {} {x}x{y}x{z} 2^{size}", dispatch.kernel.name, defines.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Caps, Defines, GpuOptions};
    use crate::plan::{Binding, Call, Kernel, Launch, Place, Recording, Stage};

    /// The largest of all, found many times over. Of its launches the second is short for other bits,
    /// the third short for the same bits, the fourth is wider than any adapter, the fifth has more
    /// workgroups than any.
    static LOOPS: Kernel = Kernel {
        name: "loops",
        source: "
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: vec4<u32>;
@compute @workgroup_size(${WG})
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x >= P.x) { return; }
    var most = -1.0;
    for (var i = 0u; i < ${TURNS}u * P.x; i++) { most = max(most, X[(at.x + i) % P.x]); }
    Y[at.x] = most + ${OTHER}.0;
}",
        bindings: &[Binding::read("X"), Binding::write("Y")],
        step: false,
        launch: |_, words, _| {
            let of = |wg: u32, turns, other| {
                Launch::of([words[0].div_ceil(wg), 1, 1])
                    .with("WG", wg)
                    .with("TURNS", turns)
                    .with("OTHER", other)
            };
            let mut crowd = of(64, 1, 0);
            crowd.groups = [u32::MAX, 1, 1];
            of(64, 60, 0).or(of(64, 1, 1)).or(of(64, 1, 0)).or(of(1 << 20, 1, 0)).or(crowd)
        },
        twin: |_| {},
        cases: Vec::new,
    };

    fn plan(len: usize, caps: &Caps) -> Plan {
        let mut recording = Recording::default();
        // Scratch that nothing has written cannot be read, a constant can; neither is ever allocated.
        for (name, place) in [("x", Place::Const { offset: 0 }), ("y", Place::Scratch)] {
            recording.add(TensorInfo::new(name.into(), vec![len], place));
        }
        recording.calls.push(Call {
            kernel: &LOOPS,
            args: vec![Some(recording.at(0)), Some(recording.at(1))],
            words: vec![len as u32],
            defines: Defines::new(),
            flops: 0,
            stage: Stage::Forward,
            trusted: false,
        });
        Plan::new(recording, caps).unwrap()
    }

    #[test]
    fn options_with_other_bits_or_beyond_limits_are_not_taken() {
        let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
        let plan = plan(512, gpu.caps());
        assert_eq!(plan.dispatches[0].others.len(), 3, "one has too many workgroups");
        for clock in [Clock::new(&gpu).unwrap(), Clock::wall(&gpu).unwrap()] {
            let option = plan.fastest(&gpu, &clock, &plan.dispatches[0]).unwrap();
            assert_eq!(option, Some(2), "by {}", clock.name());
        }
        gpu.check().unwrap();
    }

    #[test]
    fn without_room_nothing_is_measured() {
        let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
        let roomy = Caps { max_binding: u64::MAX, max_groups: u32::MAX, ..gpu.caps().clone() };
        let len = (gpu.caps().max_binding.min(gpu.caps().max_buffer) / 4 + 1) as usize;
        if len > u32::MAX as usize / 4 {
            println!("this adapter holds whatever a plan may have");
            return;
        }
        let plan = plan(len, &roomy);
        let clock = Clock::new(&gpu).unwrap();
        assert_eq!(plan.fastest(&gpu, &clock, &plan.dispatches[0]).unwrap(), None);
        gpu.check().unwrap();
        plan.tune(&gpu, true).unwrap();
    }
}
