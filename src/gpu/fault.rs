//! Device faults as errors of the call that caused them. Whatever this crate asks of a device runs
//! inside error scopes, so that a host's own handlers never hear of it and a fault of one call is no
//! fault of the next. Only the loss of a device lasts.

use crate::error::{Error, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What is known of a device's faults.
#[derive(Default)]
pub struct Faults {
    /// Why the device is gone, once it is.
    lost: OnceLock<String>,
    /// A fault outside of every scope, until somebody is told: of work that a user of the device
    /// submits beside this crate's.
    loose: Mutex<Option<Error>>,
    /// Whether the device's handlers are a host's, and a loss must be asked for.
    foreign: bool,
}

impl Faults {
    /// Takes over the handlers of a device that was opened here. wgpu's own default is to panic.
    pub(super) fn install(device: &wgpu::Device) -> Arc<Self> {
        let faults = Arc::new(Faults::default());
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let mut loose = on_error.loose.lock().unwrap_or_else(PoisonError::into_inner);
            loose.get_or_insert_with(|| typed(error));
        }));
        let on_loss = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            on_loss.set_lost(format!("{reason:?}: {message}"));
        });
        faults
    }

    /// Leaves the handlers of a host's device alone.
    pub(super) fn foreign() -> Arc<Self> {
        Arc::new(Faults { foreign: true, ..Faults::default() })
    }

    pub(super) fn set_lost(&self, why: String) {
        // The first reason is the one that matters; a loss is told once.
        let _ = self.lost.set(why.replace('\n', " "));
    }

    /// A loss, or a fault that nobody has been told of.
    pub(super) fn check(&self, device: &wgpu::Device) -> Result<()> {
        let loose = self.loose.lock().unwrap_or_else(PoisonError::into_inner).take();
        if loose.is_some() {
            // Calls on a lost device fail before its loss is told; polling lets it tell.
            self.poll(device, wgpu::PollType::Poll)?;
        }
        self.known()?;
        loose.map_or(Ok(()), Err)
    }

    /// The loss of the device as far as it was told.
    fn known(&self) -> Result<()> {
        self.lost.get().map_or(Ok(()), |why| Err(Error::DeviceLost(why.clone())))
    }

    /// The loss of the device, where it was lost; for the paths of other errors.
    pub(super) fn lost(&self, device: &wgpu::Device) -> Result<()> {
        self.poll(device, wgpu::PollType::Poll)?;
        // While work is in flight the callback of a loss is late, and that of a host's device is the host's.
        if self.lost.get().is_none() && !alive(device) {
            self.set_lost("it makes no more buffers".into());
        }
        self.known()
    }

    /// Polls. wgpu panics where the driver says that the device is lost while it is waited for.
    fn poll(&self, device: &wgpu::Device, how: wgpu::PollType) -> Result<Option<wgpu::PollError>> {
        match catch_unwind(AssertUnwindSafe(|| device.poll(how))) {
            Ok(polled) => Ok(polled.err()),
            Err(panic) if message(&*panic).starts_with("Error in Device::poll") => {
                self.set_lost(message(&*panic).into());
                self.known().map(|()| None)
            }
            // A callback of somebody else's.
            Err(panic) => resume_unwind(panic),
        }
    }

    pub(super) fn wait(&self, device: &wgpu::Device, how: wgpu::PollType) -> Result<()> {
        let blocks = !matches!(how, wgpu::PollType::Poll);
        let failed = self.poll(device, how)?;
        if matches!(failed, Some(wgpu::PollError::Timeout)) {
            let seconds = super::patience().as_secs_f64();
            self.set_lost(format!(
                "it does not answer: a step has not ended in {seconds:.0} s, which MODALIGN_TIMEOUT says"
            ));
            // Dropping it would wait for the step.
            std::mem::forget(device.clone());
        }
        self.check(device)?;
        if blocks && self.foreign {
            self.lost(device)?;
        }
        let Some(why) = failed else { return Ok(()) };
        // What was submitted to a lost device has no place in its queue.
        self.lost(device)?;
        Err(Error::Gpu(why.to_string()))
    }

    /// Runs `body` and returns what the device had to say against it.
    pub(super) fn scoped<T>(&self, device: &wgpu::Device, body: impl FnOnce() -> T) -> Result<T> {
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = body();
        let errors = [validation, memory, internal].map(|scope| pollster::block_on(scope.pop()));
        match errors.into_iter().flatten().next() {
            None => self.known().map(|()| value),
            Some(error) => {
                // A loss explains every error around it.
                self.lost(device)?;
                Err(typed(error))
            }
        }
    }
}

/// Whether the device is to be lost with this submission: tests of the program count them by
/// `MODALIGN_TEST_LOSE=N,M,…`.
pub(super) fn to_be_lost() -> bool {
    static WHEN: OnceLock<Vec<u64>> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let when = WHEN.get_or_init(|| {
        let given = std::env::var("MODALIGN_TEST_LOSE").unwrap_or_default();
        given.split(',').filter_map(|n| n.trim().parse().ok()).collect()
    });
    !when.is_empty() && when.contains(&COUNT.fetch_add(1, Ordering::Relaxed))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Whether a device still makes buffers: one that is lost says nothing, and makes none that is
/// mapped.
fn alive(device: &wgpu::Device) -> bool {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("alive"),
        size: 16,
        usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    let answers = [validation, memory].map(|s| pollster::block_on(s.pop()).is_some());
    buffer.get_mapped_range(..).is_ok() || answers.contains(&true)
}

fn typed(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory {
            what: "the step".into(),
            bytes: 0,
            advice: "use a smaller batch or another adapter".into(),
        },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::Gpu(description.split_whitespace().collect::<Vec<_>>().join(" "))
        }
    }
}
