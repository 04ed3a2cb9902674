//! The two limits of an adapter, measured: arithmetic and memory.

use crate::error::Result;
use crate::gpu::{
    BindingKind, Defines, Gpu, Pipeline, PipelineKey, storage_buffer, uniform_buffer,
};
use crate::plan::{PARAMS, grid};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the adapter did at most, in the kernels of `shaders/bench`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Roofline {
    /// Floating-point operations a second: a multiplication and an addition are two.
    pub flops: f64,
    /// Bytes a second, read and written.
    pub bytes: f64,
}

/// Sets of defines.
type Variants = &'static [&'static [(&'static str, u32)]];

/// Shaders of the roofline, and every set of defines that they are run with: name, text, defines.
/// They are no operations, so the registry has them not; the translation test does.
pub const ROOFLINE_KERNELS: [(&str, &str, Variants); 2] = [
    ("bench/fma", include_str!("../../shaders/bench/fma.wgsl"), &FMA),
    ("bench/copy", include_str!("../../shaders/bench/copy.wgsl"), &COPY),
];

/// Sums at a time: enough to hide the time that one takes, few enough for registers.
const FMA: [&[(&str, u32)]; 2] = [&[("ACCS", 2)], &[("ACCS", 3)]];

const COPY: [&[(&str, u32)]; 6] = [
    &[("WG", 256), ("PER", 1)],
    &[("WG", 256), ("PER", 4)],
    &[("WG", 256), ("PER", 8)],
    &[("WG", 64), ("PER", 4), ("WITHIN", 1)],
    &[("WG", 8), ("PER", 1024), ("WALK", 1)],
    &[("WG", 8), ("PER", 1024), ("WALK", 1), ("LONG", 1)],
];

/// Bytes of each side of the copy: beyond what caches hold.
const COPY_BYTES: u64 = 64 << 20;
/// Repetitions of each kernel; the fastest counts.
const REPEATS: usize = 5;
/// As long as a submission must at least take, so that its overhead is lost in it.
const LONG: Duration = Duration::from_millis(6);

impl Roofline {
    /// Measures `gpu`, which should have nothing else to do: a fraction of a second.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let of = |variants: &[&[(&'static str, u32)]], one: fn(&Gpu, &Defines) -> Result<f64>| {
            let possible =
                |v: &&&[(&'static str, u32)]| gpu.caps().long_loads || !v.contains(&("LONG", 1));
            variants.iter().filter(possible).try_fold(0.0_f64, |best, defines| -> Result<f64> {
                Ok(best.max(one(gpu, &defines.iter().copied().collect())?))
            })
        };
        Ok(Roofline { flops: of(&FMA, fma)?, bytes: of(&COPY, copy)? })
    }

    /// Which part of the roofline was reached by `flops` operations over `bytes` in `seconds`:
    /// the shortest time that this adapter could take for them, by the time taken.
    pub fn share(&self, flops: u64, bytes: u64, seconds: f64) -> f64 {
        self.least(flops, bytes) / seconds
    }

    /// Which of the two limits is the nearer one: "arithmetic" or "memory".
    pub fn bound(&self, flops: u64, bytes: u64) -> &'static str {
        let arithmetic = flops as f64 / self.flops > bytes as f64 / self.bytes;
        if arithmetic { "arithmetic" } else { "memory" }
    }

    /// Seconds that `flops` operations over `bytes` take at least.
    pub fn least(&self, flops: u64, bytes: u64) -> f64 {
        (flops as f64 / self.flops).max(bytes as f64 / self.bytes)
    }
}

/// Operations a second with these defines.
fn fma(gpu: &Gpu, defines: &Defines) -> Result<f64> {
    const ROUNDS: u32 = 64;
    let most = gpu.caps().max_groups.min(1 << 15);
    let out = storage_buffer(gpu, "roofline sums", most as usize * 64 * 4)?;
    let kernel = Kernel::new(gpu, 0, defines, &[(&out, BindingKind::ReadWrite)], ROUNDS)?;
    let mut groups = 64;
    // The first run compiles.
    kernel.time(gpu, [groups, 1, 1], 1)?;
    while kernel.time(gpu, [groups, 1, 1], 1)? < LONG && groups < most {
        groups = (groups * 2).min(most);
    }
    let best = kernel.best(gpu, [groups, 1, 1], 1)?;
    let sums = f64::from(groups) * 64.0 * f64::from(ROUNDS) * 64.0 * f64::from(defines["ACCS"]);
    Ok(sums * 4.0 * 2.0 / best)
}

/// Bytes a second, read and written, with these defines.
fn copy(gpu: &Gpu, defines: &Defines) -> Result<f64> {
    let bytes = COPY_BYTES.min(gpu.caps().max_binding).min(gpu.caps().max_buffer);
    let vectors = (bytes / 16) as usize;
    let [from, to] =
        ["roofline source", "roofline copy"].map(|name| storage_buffer(gpu, name, vectors * 4));
    let bindings = [(&from?, BindingKind::Read), (&to?, BindingKind::ReadWrite)];
    let kernel = Kernel::new(gpu, 1, defines, &bindings, vectors as u32)?;
    let groups = grid(vectors, (defines["WG"] * defines["PER"]) as usize);
    kernel.time(gpu, groups, 1)?;
    let mut times = 1;
    while kernel.time(gpu, groups, times)? < LONG && times < 1024 {
        times *= 2;
    }
    let best = kernel.best(gpu, groups, times)?;
    Ok((vectors * 32 * times) as f64 / best)
}

/// A kernel of the roofline with its buffers.
struct Kernel {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
}

impl Kernel {
    fn new(
        gpu: &Gpu,
        which: usize,
        defines: &Defines,
        buffers: &[(&wgpu::Buffer, BindingKind)],
        word: u32,
    ) -> Result<Self> {
        let (kernel, source, _) = ROOFLINE_KERNELS[which];
        let mut bindings: Vec<(u32, BindingKind)> =
            (0..).zip(buffers.iter().map(|b| b.1)).collect();
        bindings.push((PARAMS, BindingKind::Uniform));
        let key = PipelineKey { kernel, defines: defines.clone(), bindings, text: None };
        let pipeline = gpu.own_pipeline(&key, source, true)?;
        let params = uniform_buffer(gpu, "roofline params", &[word, 0, 0, 0])?;
        let mut entries: Vec<wgpu::BindGroupEntry> = (0..)
            .zip(buffers)
            .map(|(binding, (b, _))| wgpu::BindGroupEntry {
                binding,
                resource: b.as_entire_binding(),
            })
            .collect();
        entries
            .push(wgpu::BindGroupEntry { binding: PARAMS, resource: params.as_entire_binding() });
        let bind_group = gpu.scoped(|| {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        Ok(Kernel { pipeline, bind_group })
    }

    /// Wall time of `times` dispatches in one submission.
    fn time(&self, gpu: &Gpu, [x, y, z]: [u32; 3], times: usize) -> Result<Duration> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.pipeline.pipeline);
            pass.set_bind_group(0, &self.bind_group, &[]);
            (0..times).for_each(|_| pass.dispatch_workgroups(x, y, z));
        }
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.submit(commands)?;
        gpu.wait()?;
        Ok(start.elapsed())
    }

    /// Seconds of the fastest of several.
    fn best(&self, gpu: &Gpu, groups: [u32; 3], times: usize) -> Result<f64> {
        let mut best = Duration::MAX;
        for _ in 0..REPEATS {
            best = best.min(self.time(gpu, groups, times)?);
        }
        Ok(best.as_secs_f64().max(1e-9))
    }
}
