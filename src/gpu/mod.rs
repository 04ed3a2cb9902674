//! The adapter, the device and what they can do. Nothing here knows of tensors.

mod adapter;
mod buffer;
mod caps;
mod choices;
mod fault;
mod pipeline;
mod probe;
mod shader;

pub use adapter::{AdapterSummary, GpuOptions, list_adapters};
pub use buffer::{read_words, storage_buffer};
pub use caps::{Caps, Family};
pub use choices::Choices;
pub use fault::Faults;
pub use pipeline::{BindingKind, Pipeline, PipelineKey};
pub use shader::{Defines, Origin, evaluate, expand, expand_lines};

use crate::error::Result;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// An open device with its queue, its capabilities and its compiled pipelines.
///
/// ```no_run
/// # fn main() -> modalign::Result<()> {
/// let gpu = modalign::Gpu::new()?;
/// println!("{}", gpu.caps().name);
/// # Ok(()) }
/// ```
pub struct Gpu {
    instance: wgpu::Instance,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    caps: Caps,
    choices: Choices,
    faults: Arc<Faults>,
    pipelines: Mutex<HashMap<(PipelineKey, bool), Arc<Pipeline>>>,
    cache: Option<(wgpu::PipelineCache, PathBuf)>,
    checked: bool,
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

    /// What this device can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Whether shaders are compiled with bounds and loop checks.
    pub fn checked(&self) -> bool {
        self.checked
    }

    /// Which launches were found to be the fastest on this device.
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// The first fault the device reported since it was opened, as an error.
    pub fn check(&self) -> Result<()> {
        self.faults.check(&self.device)
    }

    /// The loss of the device as an error, where that is why something else failed.
    pub(crate) fn lost(&self) -> Result<()> {
        self.faults.lost(&self.device)
    }

    /// Waits until everything submitted has run, then reports any fault.
    pub fn wait(&self) -> Result<()> {
        self.faults.wait(&self.device, wgpu::PollType::wait_indefinitely())
    }

    /// Waits until a callback of submitted work has run. Where threads share a device, the one
    /// that runs it need not be the one that waits, and may be late.
    pub(crate) fn wait_until(&self, done: impl Fn() -> bool) -> Result<()> {
        self.wait()?;
        while !done() {
            std::thread::yield_now();
            self.poll()?;
        }
        Ok(())
    }

    /// Lets finished work run its callbacks and frees what is no longer used; never blocks.
    pub fn poll(&self) -> Result<()> {
        self.faults.wait(&self.device, wgpu::PollType::Poll)
    }

    /// Waits for one submission.
    pub(crate) fn wait_for(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
        self.faults.wait(&self.device, wait)
    }

    /// How many buffers, bind groups and compute pipelines are alive; for tests.
    #[doc(hidden)]
    pub fn resources(&self) -> [usize; 3] {
        let Some(report) = self.instance.generate_report() else { return [0; 3] };
        let hub = report.hub_report();
        [&hub.buffers, &hub.bind_groups, &hub.compute_pipelines].map(|r| r.num_allocated)
    }

    /// Destroys the device, as a driver reset would; later calls return `DeviceLost`.
    pub fn destroy(&self) {
        self.device.destroy();
    }
}
