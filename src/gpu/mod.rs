//! The adapter, the device and what they can do. Nothing here knows of tensors.

mod adapter;
mod buffer;
mod caps;
mod choices;
mod fault;
mod pipeline;
mod probe;
mod shader;
mod simulated;

pub use adapter::{AdapterSummary, GpuOptions, list_adapters, list_adapters_for};
pub(crate) use buffer::{Answer, stored, uniform_buffer};
pub use buffer::{read_words, storage_buffer};
pub use caps::{Caps, Family};
pub use choices::Choices;
pub use fault::Faults;
pub use pipeline::{BindingKind, Pipeline, PipelineKey};
pub use shader::{Defines, Origin, evaluate, expand, expand_lines};
pub use simulated::Simulated;

use crate::error::Result;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// An open device with its queue, its capabilities and its compiled pipelines. A clone is another
/// handle of the same one, so that whatever runs on it can be kept beside it.
///
/// ```no_run
/// # fn main() -> modalign::Result<()> {
/// let gpu = modalign::Gpu::new()?;
/// println!("{}", gpu.caps().name);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    shared: Arc<Shared>,
}

/// What all handles of a device have in common.
struct Shared {
    id: u64,
    /// None where the device is a host's.
    instance: Option<wgpu::Instance>,
    caps: Caps,
    choices: Choices,
    faults: Arc<Faults>,
    pipelines: Mutex<HashMap<(PipelineKey, bool), Arc<Pipeline>>>,
    cache: Option<(wgpu::PipelineCache, PathBuf)>,
    checked: bool,
}

/// A number that nothing else in this process has: what a space, a memory, a program or a device is
/// known by, so that one is never taken for another.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How long something that should answer may take, a step or a batch of rows: ten minutes, or as many
/// seconds as `MODALIGN_TIMEOUT` says.
pub(crate) fn patience() -> Duration {
    given_patience().unwrap_or(Duration::from_secs(600))
}

/// What `MODALIGN_TIMEOUT` says of it.
pub(crate) fn given_patience() -> Option<Duration> {
    static GIVEN: OnceLock<Option<Duration>> = OnceLock::new();
    *GIVEN.get_or_init(|| {
        let seconds = std::env::var("MODALIGN_TIMEOUT").ok()?.parse().ok();
        seconds.filter(|s| (0.001..1e9).contains(s)).map(Duration::from_secs_f64)
    })
}

impl Gpu {
    /// Opens the best adapter: discrete, then integrated, virtual, CPU.
    /// `WGPU_BACKEND` and `WGPU_ADAPTER_NAME` narrow the choice.
    ///
    /// # Errors
    /// [`NoAdapter`](crate::Error::NoAdapter) where none is found.
    pub fn new() -> Result<Self> {
        Self::with(&GpuOptions::default())
    }

    /// Opens an adapter as `options` say.
    ///
    /// # Errors
    /// [`NoAdapter`](crate::Error::NoAdapter) where none fits.
    pub fn with(options: &GpuOptions) -> Result<Self> {
        adapter::open(options)
    }

    /// Works on a device that the host program has opened, with the features and the limits that it
    /// was opened with; [`SUBGROUP`](wgpu::Features::SUBGROUP) matters most, then
    /// [`TIMESTAMP_QUERY`](wgpu::Features::TIMESTAMP_QUERY), on CPU adapters
    /// [`SHADER_INT64`](wgpu::Features::SHADER_INT64). Of `options` all but the choice of an adapter
    /// counts.
    ///
    /// The device's handlers stay the host's: what this crate asks of the device runs inside error
    /// scopes and comes back as errors. A loss is found out at the next call that waits, or told by
    /// [`set_lost`](Self::set_lost). Calls that wait poll the device, which runs the host's
    /// callbacks too.
    ///
    /// # Errors
    /// [`NoAdapter`](crate::Error::NoAdapter) naming a limit below WebGPU's default that kernels
    /// count on; on a CPU adapter the faults of a self-test.
    pub fn from_device(
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &GpuOptions,
    ) -> Result<Self> {
        adapter::adopt(device, queue, options)
    }

    /// The device, for what a host does with it beside this crate.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue. Work submitted to it runs in order with this crate's.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Tells that the device was lost, for a host whose own callback has heard of it; every later
    /// call returns [`DeviceLost`](crate::Error::DeviceLost).
    pub fn set_lost(&self, why: &str) {
        self.shared.faults.set_lost(why.into());
    }

    /// Tells devices apart.
    pub(crate) fn id(&self) -> u64 {
        self.shared.id
    }

    /// What this device can do.
    pub fn caps(&self) -> &Caps {
        &self.shared.caps
    }

    /// Whether shaders are compiled with bounds and loop checks.
    pub fn checked(&self) -> bool {
        self.shared.checked
    }

    /// Which launches were found to be the fastest on this device.
    pub fn choices(&self) -> &Choices {
        &self.shared.choices
    }

    /// The loss of the device, which lasts; or else a fault of work that was submitted beside this
    /// crate's own and that nobody has been told of, once.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<()> {
        self.shared.faults.check(&self.device)
    }

    /// The loss of the device as an error, where that is why something else failed.
    pub(crate) fn lost(&self) -> Result<()> {
        self.shared.faults.lost(&self.device)
    }

    /// Runs `body` and returns what the device had to say against it.
    pub(crate) fn scoped<T>(&self, body: impl FnOnce() -> T) -> Result<T> {
        self.shared.faults.scoped(&self.device, body)
    }

    /// Submits commands, or returns what the device has against them.
    pub(crate) fn submit(&self, commands: wgpu::CommandBuffer) -> Result<wgpu::SubmissionIndex> {
        if fault::to_be_lost() {
            self.destroy();
        }
        self.scoped(|| self.queue.submit([commands]))
    }

    /// Encodes commands and submits them.
    pub(crate) fn run(
        &self,
        encode: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex> {
        self.scoped(|| {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encode(&mut encoder);
            self.queue.submit([encoder.finish()])
        })
    }

    /// Waits until everything submitted has run, then reports any fault.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn wait(&self) -> Result<()> {
        let timeout = Some(patience());
        let all = wgpu::PollType::Wait { submission_index: None, timeout };
        self.shared.faults.wait(&self.device, all)
    }

    /// Waits until a callback of submitted work has run. Where threads share a device, the one
    /// that runs it need not be the one that waits, and may be late.
    pub(crate) fn wait_until(&self, done: impl Fn() -> bool) -> Result<()> {
        self.wait()?;
        for turn in 1_u32.. {
            if done() {
                break;
            }
            std::thread::yield_now();
            self.poll()?;
            if turn.is_multiple_of(4096) {
                self.lost()?;
            }
        }
        Ok(())
    }

    /// Lets finished work run its callbacks and frees what is no longer used; never blocks.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn poll(&self) -> Result<()> {
        self.shared.faults.wait(&self.device, wgpu::PollType::Poll)
    }

    /// Waits for one submission, such as [`replay`](crate::plan::Program::replay) gives.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn wait_for(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        let timeout = Some(patience());
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout };
        self.shared.faults.wait(&self.device, wait)
    }

    /// How many buffers, bind groups and compute pipelines are alive; for tests.
    #[doc(hidden)]
    pub fn resources(&self) -> [usize; 3] {
        let report = self.shared.instance.as_ref().and_then(wgpu::Instance::generate_report);
        let Some(report) = report else { return [0; 3] };
        let hub = report.hub_report();
        [&hub.buffers, &hub.bind_groups, &hub.compute_pipelines].map(|r| r.num_allocated)
    }

    /// Destroys the device, as a driver reset would; later calls return `DeviceLost`.
    pub fn destroy(&self) {
        self.device.destroy();
    }
}
