//! What an adapter offers, reduced to what kernels ask for.

use std::fmt;

/// Which family of kernels suits an adapter. Chosen from capabilities, never by platform name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// GPUs: register tiles staged through workgroup memory, 64 to 256 invocations.
    Tiled,
    /// CPU adapters with subgroups of this one size: a workgroup is a subgroup, values are
    /// broadcast across its lanes, and there is neither workgroup memory nor a barrier.
    Wide(u32),
    /// No subgroups, and nothing shared between invocations: runs anywhere.
    Plain,
}

impl Family {
    /// Whether workgroup memory and barriers pay.
    pub fn tiled(self) -> bool {
        self == Family::Tiled
    }

    /// Lanes of a subgroup that is as wide as its workgroup; 0 where that is not to be had.
    pub fn lanes(self) -> u32 {
        if let Family::Wide(lanes) = self { lanes } else { 0 }
    }

    /// Invocations of a workgroup of which each works for itself.
    pub(crate) fn invocations(self) -> u32 {
        match self {
            Family::Tiled => 64,
            Family::Wide(lanes) => lanes,
            Family::Plain => 8,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Family::Tiled => write!(f, "tiled"),
            Family::Wide(lanes) => write!(f, "wide{lanes}"),
            Family::Plain => write!(f, "plain"),
        }
    }
}

/// Capabilities of an open device. [`Caps::defaults`] makes one without a device; its fields may be
/// set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Caps {
    /// The adapter's name.
    pub name: String,
    /// "vulkan", "metal", "dx12".
    pub backend: String,
    /// Driver name and version.
    pub driver: String,
    /// Whether it is a software adapter.
    pub cpu: bool,
    /// The kernels it runs.
    pub family: Family,
    /// Smallest and largest subgroup, where subgroup operations are offered.
    pub subgroup: Option<(u32, u32)>,
    /// Largest storage binding, bytes.
    pub max_binding: u64,
    /// Largest buffer, bytes.
    pub max_buffer: u64,
    /// Storage and uniform offset alignment, bytes.
    pub align: u64,
    /// Workgroups per grid dimension.
    pub max_groups: u32,
    /// Whether kernels may move two words at a time as a 64-bit integer, and gain by it: a CPU
    /// adapter spends an instruction or more on each lane's part of a load.
    pub long_loads: bool,
    /// Whether passes can be timed on the device.
    pub timestamps: bool,
    /// Loop iterations after which the driver silently ends an invocation, where it does.
    pub max_iterations: Option<u64>,
}

impl Caps {
    pub(super) fn read(
        info: &wgpu::AdapterInfo,
        limits: &wgpu::Limits,
        features: wgpu::Features,
        forced: Option<Family>,
    ) -> Self {
        let cpu = info.device_type == wgpu::DeviceType::Cpu;
        let subgroup = features
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size));
        // A kernel may be as wide as a subgroup only where there is just one width to get.
        let wide = subgroup.filter(|(min, max)| min == max && (4..=32).contains(min));
        let natural = match (cpu, wide) {
            (true, Some((lanes, _))) => Family::Wide(lanes),
            (true, None) => Family::Plain,
            (false, _) => Family::Tiled,
        };
        let family = match forced {
            Some(Family::Wide(_)) => wide.map_or(natural, |(lanes, _)| Family::Wide(lanes)),
            Some(family) => family,
            None => natural,
        };
        Caps {
            name: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            cpu,
            family,
            subgroup,
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            align: u64::from(
                limits
                    .min_storage_buffer_offset_alignment
                    .max(limits.min_uniform_buffer_offset_alignment),
            ),
            max_groups: limits.max_compute_workgroups_per_dimension,
            long_loads: cpu && features.contains(wgpu::Features::SHADER_INT64),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            max_iterations: None,
        }
    }

    /// WebGPU's default limits for a family: what a plan can be made for without a device.
    pub fn defaults(family: Family) -> Self {
        Caps {
            name: "none".into(),
            backend: "none".into(),
            driver: String::new(),
            cpu: family != Family::Tiled,
            family,
            subgroup: (family.lanes() > 0).then_some((family.lanes(), family.lanes())),
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            align: 256,
            max_groups: 65_535,
            long_loads: false,
            timestamps: false,
            max_iterations: None,
        }
    }
}
