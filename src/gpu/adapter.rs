//! Choosing an adapter and opening its device.

use super::{Caps, Choices, Family, Faults, Gpu, Shared, pipeline, probe};
use crate::error::{Error, Result};
use crate::phase::Phase;
use std::sync::{Arc, Mutex};

/// How to choose an adapter and how to run on it.
///
/// More may come: begin with the default and change what matters, by a literal that ends in
/// `..Default::default()` or by the methods.
///
/// ```
/// use modalign::gpu::{Family, GpuOptions};
/// let options = GpuOptions::default().on("llvmpipe").with_family(Family::Plain).quietly();
/// assert!(options.quiet && options.family == Some(Family::Plain));
/// ```
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// An adapter's number among those of [`list_adapters`], or part of its name, any case. Without it
    /// `WGPU_ADAPTER_NAME`, part of a name, is read.
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

impl GpuOptions {
    /// The same, on the adapter of this number, or the first whose name has this part, in any case.
    pub fn on(self, adapter: impl Into<String>) -> Self {
        GpuOptions { adapter: Some(adapter.into()), ..self }
    }

    /// The same, with kernels of this family.
    pub fn with_family(self, family: Family) -> Self {
        GpuOptions { family: Some(family), ..self }
    }

    /// The same, with shaders that check bounds and loops.
    pub fn with_checks(self) -> Self {
        GpuOptions { checked: true, ..self }
    }

    /// The same, measuring nothing and using no earlier measurement.
    pub fn without_tuning(self) -> Self {
        GpuOptions { no_tune: true, ..self }
    }

    /// The same, saying nothing of a software adapter.
    pub fn quietly(self) -> Self {
        GpuOptions { quiet: true, ..self }
    }
}

/// One adapter, and what it would be used as.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct AdapterSummary {
    /// Its number, from 0, the best first: what [`GpuOptions::adapter`] chooses it by.
    pub number: usize,
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

/// Which adapter is wanted.
enum Wanted {
    Any,
    /// The one of this number, from 0.
    Number(usize),
    /// One whose name has this part, in any case.
    Named(String),
}

impl Wanted {
    /// What an option asks for or, without one, the environment. Digits alone are a number in an option; in the
    /// variable, which other programs read too, they are part of a name.
    fn of(explicit: Option<&str>) -> Wanted {
        let named = |name: &str| Wanted::Named(name.to_lowercase());
        match explicit {
            Some(given) => given.parse().map_or_else(|_| named(given), Wanted::Number),
            None => match std::env::var("WGPU_ADAPTER_NAME") {
                Ok(name) if !name.is_empty() => named(&name),
                _ => Wanted::Any,
            },
        }
    }

    /// Whether it is the adapter of this number and name.
    fn is(&self, number: usize, name: &str) -> bool {
        match self {
            Wanted::Any => true,
            Wanted::Number(own) => *own == number,
            Wanted::Named(part) => name.to_lowercase().contains(part),
        }
    }

    /// The places of all that it may be, among adapters of these names.
    fn among(&self, names: &[String]) -> Vec<usize> {
        (0..names.len()).filter(|i| self.is(*i, &names[*i])).collect()
    }
}

/// Adapters as a message lists them: `0 llvmpipe, 1 SwiftShader`.
fn listed(names: &[String], which: impl IntoIterator<Item = usize>) -> String {
    which.into_iter().map(|i| format!("{i} {}", names[i])).collect::<Vec<_>>().join(", ")
}

fn names(found: &[wgpu::Adapter]) -> Vec<String> {
    found.iter().map(|a| a.get_info().name).collect()
}

/// What [`Gpu::new`] would choose from, best first.
pub fn list_adapters() -> Vec<AdapterSummary> {
    list_adapters_for(None)
}

/// The same, with the mark on the one that [`GpuOptions::adapter`] would choose.
pub fn list_adapters_for(adapter: Option<&str>) -> Vec<AdapterSummary> {
    let found = adapters().1;
    let first = Wanted::of(adapter).among(&names(&found)).first().copied();
    found
        .iter()
        .enumerate()
        .map(|(number, a)| {
            let info = a.get_info();
            let features = a.features();
            let caps = Caps::read(&info, &a.limits(), features, None);
            AdapterSummary {
                number,
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
                chosen: first == Some(number),
            }
        })
        .collect()
}

/// The place of the adapter that is wanted, and a sentence where a name means several.
fn choose(wanted: &Wanted, names: &[String]) -> Result<(usize, Option<String>)> {
    let fitting = wanted.among(names);
    let all = || listed(names, 0..names.len());
    match (fitting.as_slice(), wanted) {
        ([only], _) => Ok((*only, None)),
        ([first, ..], Wanted::Named(part)) => {
            let said = format!(
                "'{part}' is in the names of {} adapters ({}): number {first} is taken; a number instead of \
                 the name chooses one",
                fitting.len(),
                listed(names, fitting.iter().copied())
            );
            Ok((*first, Some(said)))
        }
        ([first, ..], _) => Ok((*first, None)),
        ([], Wanted::Number(number)) => {
            Err(Error::NoAdapter(format!("none has the number {number}; there is: {}", all())))
        }
        ([], Wanted::Named(part)) => {
            Err(Error::NoAdapter(format!("none is named like '{part}'; there is: {}", all())))
        }
        ([], Wanted::Any) => Err(Error::NoAdapter("none is usable".into())),
    }
}

pub(super) fn open(options: &GpuOptions) -> Result<Gpu> {
    let phase = Phase::begin();
    let (instance, found) = adapters();
    phase.end(format_args!("{} adapters found", found.len()));
    if found.is_empty() {
        return Err(Error::NoAdapter(match std::env::var("WGPU_BACKEND") {
            // OpenGL is not among them: its compute shaders lack most of what the kernels are written in.
            Ok(only) => format!(
                "WGPU_BACKEND is '{only}', and of that none is here; modalign runs on vulkan, metal and dx12"
            ),
            Err(_) => "install a Vulkan driver (on Debian or Ubuntu: mesa-vulkan-drivers)".into(),
        }));
    }
    let (place, said) = choose(&Wanted::of(options.adapter.as_deref()), &names(&found))?;
    if let Some(said) = said.filter(|_| !options.quiet) {
        log::warn!("{said}");
    }
    let adapter = &found[place];
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
    let no_other = found.iter().all(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    if no_other && !options.quiet {
        log::warn!("only a software adapter was found ({}): it computes on the CPU", info.name);
    }
    let faults = Faults::install(&device);
    made(Some(instance), (device, queue), (info, limits, features), faults, options)
}

/// Limits of WebGPU that kernels count on: name, what there is, what is wanted.
fn needed(limits: &wgpu::Limits) -> [(&'static str, u64, u64); 6] {
    [
        (
            "max_storage_buffers_per_shader_stage",
            u64::from(limits.max_storage_buffers_per_shader_stage),
            8,
        ),
        (
            "max_compute_invocations_per_workgroup",
            u64::from(limits.max_compute_invocations_per_workgroup),
            256,
        ),
        ("max_compute_workgroup_size_x", u64::from(limits.max_compute_workgroup_size_x), 256),
        (
            "max_compute_workgroup_storage_size",
            u64::from(limits.max_compute_workgroup_storage_size),
            16 << 10,
        ),
        ("max_bindings_per_bind_group", u64::from(limits.max_bindings_per_bind_group), 16),
        (
            "max_compute_workgroups_per_dimension",
            u64::from(limits.max_compute_workgroups_per_dimension),
            65_535,
        ),
    ]
}

pub(super) fn adopt(device: wgpu::Device, queue: wgpu::Queue, options: &GpuOptions) -> Result<Gpu> {
    let (info, limits) = (device.adapter_info(), device.limits());
    if let Some((name, has, wants)) = needed(&limits).into_iter().find(|(_, has, w)| has < w) {
        return Err(Error::NoAdapter(format!(
            "the device of {} was opened with {name} = {has}, kernels need {wants}; ask for it in \
             required_limits",
            info.name
        )));
    }
    let features = device.features();
    made(None, (device, queue), (info, limits, features), Faults::foreign(), options)
}

/// A device with what it can do.
fn made(
    instance: Option<wgpu::Instance>,
    (device, queue): (wgpu::Device, wgpu::Queue),
    (info, limits, features): (wgpu::AdapterInfo, wgpu::Limits, wgpu::Features),
    faults: Arc<Faults>,
    options: &GpuOptions,
) -> Result<Gpu> {
    let caps = Caps::read(&info, &limits, features, options.family);
    let caps = Caps { long_loads: caps.long_loads && !options.short_loads, ..caps };
    log::debug!("{} ({}), {} kernels", caps.name, caps.driver, caps.family);
    let cache = faults.scoped(&device, || pipeline::open_cache(&device, &info, features))?;
    let (id, pipelines, checked) = (super::unique(), Mutex::default(), options.checked);
    let choices = Choices::open(&caps, options.no_tune);
    let shared = Shared { id, instance, caps, choices, faults, pipelines, cache, checked };
    let mut gpu = Gpu { device, queue, shared: Arc::new(shared) };
    if gpu.caps().cpu {
        let phase = Phase::begin();
        let limit = probe::loop_limit(&gpu)?;
        // Nobody has another handle yet.
        if let Some(shared) = Arc::get_mut(&mut gpu.shared) {
            shared.caps.max_iterations = limit;
        }
        phase.end("loops probed");
    }
    Ok(gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_chosen_by_number_and_by_name() {
        let names = ["NVIDIA A", "llvmpipe (LLVM 15.0.6)", "NVIDIA A"].map(String::from);
        let at = |wanted: &str| choose(&Wanted::of(Some(wanted)), &names);
        for (wanted, place) in [("0", 0), ("1", 1), ("2", 2), ("LLVM 15", 1)] {
            assert_eq!(at(wanted).unwrap(), (place, None), "{wanted}");
        }
        let (place, said) = at("nvidia").unwrap();
        let said = said.unwrap();
        assert!(place == 0 && said.contains("2 adapters (0 NVIDIA A, 2 NVIDIA A)"), "{said}");
        for (wanted, word) in [("3", "the number 3"), ("intel", "'intel'")] {
            let why = at(wanted).unwrap_err().to_string();
            assert!(why.contains(word) && why.contains("1 llvmpipe"), "{why}");
        }
    }
}
