//! What GPUs can do by their makers' figures, for predictions.

use std::borrow::Cow;

/// What a prediction knows of a device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// The device.
    pub name: Cow<'static, str>,
    /// f32 operations a second, at most.
    pub flops: f64,
    /// Bytes a second from its memory, at most.
    pub bytes: f64,
    /// Bytes of its last cache that all units share.
    pub cache: f64,
    /// What runs workgroups: multiprocessors, compute units, cores.
    pub units: f64,
    /// Workgroups that a unit has at a time.
    pub resident: f64,
    /// Seconds of a round inside a workgroup: two barriers and a load.
    pub round: f64,
    /// Seconds of an iteration of a loop that waits for the one before.
    pub iteration: f64,
    /// Seconds from the end of a dispatch to the begin of the next.
    pub launch: f64,
    /// Seconds of the CPU to record and submit a dispatch.
    pub record: f64,
}

/// Clock cycles of a round: two barriers, a load past the first cache, activations. An assumption.
pub(super) const ROUND_CYCLES: f64 = 1000.0;
/// Clock cycles of an iteration: a load from workgroup memory, a multiply-add. An assumption.
pub(super) const ITERATION_CYCLES: f64 = 16.0;
/// Seconds between two dispatches that depend on each other. An assumption.
pub(super) const LAUNCH: f64 = 5e-6;
/// Seconds to record a dispatch: 1.3 µs were measured on Vulkan; Metal's encoders cost more.
pub(super) const RECORD: [f64; 2] = [2e-6, 4e-6];

/// A device by name, Tflop/s, GB/s, MiB of cache, units and GHz; and whether it is driven by Metal.
const fn gpu(name: &'static str, figures: [f64; 5], metal: bool) -> Figures {
    let [tflops, gbytes, mib, units, ghz] = figures;
    Figures {
        name: Cow::Borrowed(name),
        flops: tflops * 1e12,
        bytes: gbytes * 1e9,
        cache: mib * 1048576.0,
        units,
        resident: 4.0,
        round: ROUND_CYCLES / (ghz * 1e9),
        iteration: ITERATION_CYCLES / (ghz * 1e9),
        launch: LAUNCH,
        record: RECORD[metal as usize],
    }
}

/// Devices that people have. f32 without matrix units, which WGSL does not reach; boost clocks.
pub static PUBLISHED: [Figures; 9] = [
    // Core i7-1185G7 (ark.intel.com): 96 execution units, 1.35 GHz; 8 lanes each, so 2.07 Tflop/s.
    // LPDDR4X-4266 on 128 bits. 3.8 MB of L3 in the graphics; 16 units to a subslice.
    gpu("Intel Iris Xe (96 EU)", [2.07, 68.3, 3.6, 6.0, 1.35], false),
    // Core Ultra 9 288V (ark.intel.com): 8 Xe2 cores at 2.05 GHz, 128 lanes each, so 4.2 Tflop/s.
    // LPDDR5X-8533 on 128 bits; 8 MB of L2.
    gpu("Intel Arc 140V", [4.2, 136.5, 8.0, 8.0, 2.05], false),
    // Ryzen 7 7840HS (amd.com): 12 compute units, 2.7 GHz. 64 lanes each give 4.15 Tflop/s; AMD's
    // 8.3 count pairs of instructions, which a compiler seldom finds. DDR5-5600, two channels.
    gpu("AMD Radeon 780M", [4.15, 89.6, 2.0, 12.0, 2.7], false),
    // Apple's announcement of June 2022: 3.6 Tflop/s, 100 GB/s, 10 cores. 1.4 GHz follows from 128
    // lanes a core. System cache 8 MB (not published; measured by others).
    gpu("Apple M2 (10 cores)", [3.6, 100.0, 8.0, 10.0, 1.4], true),
    // Apple's announcement of October 2023: 18 cores, 150 GB/s. At the M3's 1.38 GHz 6.4 Tflop/s;
    // rate, clock and cache are not published.
    gpu("Apple M3 Pro (18 cores)", [6.4, 150.0, 12.0, 18.0, 1.38], true),
    // nvidia.com, GeForce laptops: 3,072 lanes in 24 multiprocessors, 1.47-2.37 GHz by the power
    // allowed; at 1.89 GHz 11.6 Tflop/s. GDDR6 at 16 Gbit/s on 128 bits; 32 MB of L2.
    gpu("NVIDIA RTX 4060 Laptop", [11.6, 256.0, 32.0, 24.0, 1.89], false),
    // NVIDIA's H100 data sheet: 51 Tflop/s, 2 TB/s; 114 multiprocessors, 50 MB of L2, 1.755 GHz.
    gpu("NVIDIA H100 PCIe", [51.0, 2000.0, 50.0, 114.0, 1.755], false),
    // The same: 67 Tflop/s, 3.35 TB/s; 132 multiprocessors, 1.98 GHz.
    gpu("NVIDIA H100 SXM", [67.0, 3350.0, 50.0, 132.0, 1.98], false),
    // NVIDIA's H200 data sheet: the same chip, 4.8 TB/s.
    gpu("NVIDIA H200", [67.0, 4800.0, 50.0, 132.0, 1.98], false),
];
