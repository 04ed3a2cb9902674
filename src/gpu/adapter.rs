//! Choosing an adapter and opening its device.

use super::{Caps, Choices, Family, Faults, Gpu, pipeline, probe};
use crate::error::{Error, Result};
use crate::phase::Phase;
use std::sync::Mutex;

/// How to choose an adapter and how to run on it.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Part of an adapter's name, any case. Without it `WGPU_ADAPTER_NAME` is read.
    pub adapter: Option<String>,
    /// Kernels of this family instead of the adapter's own; for tests and timings.
    pub family: Option<Family>,
    /// Compile shaders with bounds and loop checks, which trusted modules leave out.
    pub checked: bool,
    /// Kernels without 64-bit loads also where the adapter offers them; for tests and timings.
    pub short_loads: bool,
    /// Neither measure which launches are the fastest nor use what was measured earlier.
    pub no_tune: bool,
    /// Say nothing when only a software adapter is there.
    pub quiet: bool,
}

/// One adapter, as `modalign devices` prints it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterSummary {
    /// Its name.
    pub name: String,
    /// vulkan, metal, dx12.
    pub backend: String,
    /// discrete, integrated, virtual, cpu, other.
    pub kind: String,
    /// Driver name and version.
    pub driver: String,
    /// Smallest and largest subgroup; none where subgroups are not offered.
    pub subgroups: Option<(u32, u32)>,
    /// The kernel family it would run.
    pub kernels: String,
    /// Largest storage binding, MiB.
    pub max_binding_mib: u64,
    /// Largest buffer, MiB.
    pub max_buffer_mib: u64,
    /// Whether kernels can be timed on the device.
    pub timestamps: bool,
    /// Whether compiled pipelines can be kept on disk.
    pub pipeline_cache: bool,
    /// Whether it is the one a plain run takes.
    pub chosen: bool,
}

const WANTED: wgpu::Features = wgpu::Features::SUBGROUP
    .union(wgpu::Features::TIMESTAMP_QUERY)
    .union(wgpu::Features::SHADER_INT64)
    .union(wgpu::Features::PIPELINE_CACHE);

fn rank(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// All adapters, best first.
fn adapters() -> (wgpu::Instance, Vec<wgpu::Adapter>) {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // Above this share of the budget an allocation fails as an error instead of losing the device.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    let backends = descriptor.backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut found = pollster::block_on(instance.enumerate_adapters(backends));
    found.sort_by_key(|a| rank(a.get_info().device_type));
    (instance, found)
}

fn matches(adapter: &wgpu::Adapter, wanted: &Option<String>) -> bool {
    let name = adapter.get_info().name.to_lowercase();
    wanted.as_ref().is_none_or(|w| name.contains(&w.to_lowercase()))
}

fn wanted_name(explicit: &Option<String>) -> Option<String> {
    explicit.clone().or_else(|| std::env::var("WGPU_ADAPTER_NAME").ok().filter(|n| !n.is_empty()))
}

/// What [`Gpu::new`] would choose from, best first.
pub fn list_adapters() -> Vec<AdapterSummary> {
    let wanted = wanted_name(&None);
    let mut chosen = false;
    adapters()
        .1
        .iter()
        .map(|a| {
            let info = a.get_info();
            let features = a.features();
            let caps = Caps::read(&info, &a.limits(), features, None);
            let first = !chosen && matches(a, &wanted);
            chosen |= first;
            AdapterSummary {
                name: info.name,
                kind: format!("{:?}", info.device_type).to_lowercase().replace("gpu", ""),
                subgroups: caps.subgroup,
                kernels: caps.family.to_string(),
                max_binding_mib: caps.max_binding >> 20,
                max_buffer_mib: caps.max_buffer >> 20,
                timestamps: caps.timestamps,
                pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
                backend: caps.backend,
                driver: caps.driver,
                chosen: first,
            }
        })
        .collect()
}

pub(super) fn open(options: &GpuOptions) -> Result<Gpu> {
    let phase = Phase::begin();
    let (instance, found) = adapters();
    phase.end(format_args!("{} adapters found", found.len()));
    let wanted = wanted_name(&options.adapter);
    let adapter = found.iter().find(|a| matches(a, &wanted)).ok_or_else(|| {
        Error::NoAdapter(match (&wanted, found.is_empty()) {
            (_, true) => "install a Vulkan driver (on Debian or Ubuntu: mesa-vulkan-drivers), \
                          or check WGPU_BACKEND"
                .into(),
            (Some(w), false) => {
                let names: Vec<_> = found.iter().map(|a| a.get_info().name).collect();
                format!("none is named like '{w}'; there is: {}", names.join(", "))
            }
            (None, false) => "none is usable".into(),
        })
    })?;
    let phase = Phase::begin();
    let info = adapter.get_info();
    let features = adapter.features() & WANTED;
    let limits = adapter.limits();
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("modalign"),
        required_features: features,
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    }))
    .map_err(|e| Error::NoAdapter(format!("{} does not open: {e}", info.name)))?;

    phase.end("device opened");
    let faults = Faults::install(&device);
    let caps = Caps::read(&info, &limits, features, options.family);
    let caps = Caps { long_loads: caps.long_loads && !options.short_loads, ..caps };
    let no_other = found.iter().all(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    if no_other && !options.quiet {
        log::warn!("only a software adapter was found ({}): training runs on the CPU", caps.name);
    }
    log::debug!("{} ({}), {} kernels", caps.name, caps.driver, caps.family);
    let cache = pipeline::open_cache(&device, &info, features);
    let (pipelines, checked) = (Mutex::default(), options.checked);
    let choices = Choices::open(&caps, options.no_tune);
    let mut gpu = Gpu { instance, device, queue, caps, choices, faults, pipelines, cache, checked };
    if gpu.caps.cpu {
        let phase = Phase::begin();
        gpu.caps.max_iterations = probe::loop_limit(&gpu)?;
        phase.end("loops probed");
    }
    Ok(gpu)
}
