//! Choosing between launches that leave the very same bits: measured once for each class of shapes,
//! heaviest first, and kept by the device (`gpu::Choices`) for the next start.
//!
//! Only speed hangs on a choice, so that a run repeats, and resumes on another machine, bit for bit
//! whatever was chosen (`tests/kernels.rs` compares the bits).

use super::{PARAMS, Plan, Planned, STEP, Step, TensorInfo};
use crate::error::Result;
use crate::gpu::{Gpu, Pipeline, storage_buffer, uniform_buffer};
use std::sync::Arc;
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
        let mut found = false;
        for (name, _, dispatch) in classes {
            if gpu.choices().left().is_zero() {
                break;
            }
            let start = Instant::now();
            let option = self.fastest(gpu, dispatch)?;
            gpu.choices().set(name, option, start.elapsed());
            found = true;
        }
        if found {
            gpu.choices().save();
        }
        Ok(())
    }

    /// The option of a dispatch that takes the least time, on buffers of zeros.
    fn fastest(&self, gpu: &Gpu, dispatch: &Planned) -> Result<usize> {
        let buffers = dispatch
            .args
            .iter()
            .map(|arg| {
                let len = |id| self.tensor(id).map_or(0, TensorInfo::len);
                arg.map(|id| storage_buffer(gpu, "tuning", len(id))).transpose()
            })
            .collect::<Result<Vec<_>>>()?;
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
        let mut options = Vec::new();
        for option in 0..=dispatch.others.len() {
            let mut planned = dispatch.clone();
            planned.choose(option);
            let pipeline = gpu.pipeline(&planned.key(), planned.kernel.source)?;
            let bind_group = gpu.scoped(|| {
                gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some("tuning"),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            })?;
            // Some drivers compile when a pipeline runs for the first time.
            once(gpu, &pipeline, &bind_group, planned.groups)?;
            options.push((pipeline, bind_group, planned.groups, Duration::MAX));
        }
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for (pipeline, bind_group, groups, least) in &mut options {
                *least = once(gpu, pipeline, bind_group, *groups)?.min(*least);
            }
            if start.elapsed() > gpu.choices().left() / 4 {
                break;
            }
        }
        let times: Vec<f64> = options.iter().map(|o| o.3.as_secs_f64()).collect();
        let best = (0..times.len()).min_by(|a, b| times[*a].total_cmp(&times[*b])).unwrap_or(0);
        log::debug!("{}: option {best} of {times:?} s", class(dispatch));
        Ok(if times[best] < times[0] * GAIN { best } else { 0 })
    }
}

/// What dispatches have in common that one choice serves: the kernel, its variant, sizes up to a
/// factor of two.
fn class(dispatch: &Planned) -> String {
    let defines: Vec<String> = dispatch.defines.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let [x, y, z] = dispatch.groups.map(u32::next_power_of_two);
    let size = dispatch.flops.max(1).ilog2();
    format!("{} {} {x}x{y}x{z} 2^{size}", dispatch.kernel.name, defines.join(" "))
}

fn once(
    gpu: &Gpu,
    pipeline: &Arc<Pipeline>,
    bind_group: &wgpu::BindGroup,
    [x, y, z]: [u32; 3],
) -> Result<Duration> {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
    let commands = encoder.finish();
    let start = Instant::now();
    gpu.submit(commands)?;
    gpu.wait()?;
    Ok(start.elapsed())
}
