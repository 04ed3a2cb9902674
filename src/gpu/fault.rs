//! Device faults, kept until the next point where an error can be returned.

use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
enum Fault {
    Lost(String),
    OutOfMemory,
    Other(String),
}

/// The first fault that the device reported. wgpu's own default is to panic.
#[derive(Default)]
pub struct Faults(Mutex<Option<Fault>>);

impl Faults {
    pub(super) fn install(device: &wgpu::Device) -> Arc<Self> {
        let faults = Arc::new(Faults::default());
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            on_error.set(match error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory,
                wgpu::Error::Validation { description, .. }
                | wgpu::Error::Internal { description, .. } => Fault::Other(description),
            });
        }));
        let on_loss = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            on_loss.set(Fault::Lost(format!("{reason:?}: {message}")));
        });
        faults
    }

    fn set(&self, fault: Fault) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A loss explains every error around it, so it replaces an earlier one.
        if first.is_none() || matches!(fault, Fault::Lost(_)) {
            *first = Some(fault);
        }
    }

    /// The first fault. Where the device was lost, calls on it fail before its loss is told;
    /// polling lets it tell.
    pub(super) fn check(&self, device: &wgpu::Device) -> Result<()> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            let _ = device.poll(wgpu::PollType::Poll);
        }
        self.report()
    }

    /// The loss of the device, where it was lost; for the paths of other errors.
    pub(super) fn lost(&self, device: &wgpu::Device) -> Result<()> {
        let _ = device.poll(wgpu::PollType::Poll);
        match self.report() {
            Err(Error::DeviceLost(why)) => Err(Error::DeviceLost(why)),
            _ => Ok(()),
        }
    }

    fn report(&self) -> Result<()> {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(match first {
            None => return Ok(()),
            Some(Fault::Lost(why)) => Error::DeviceLost(why.replace('\n', " ")),
            Some(Fault::OutOfMemory) => Error::OutOfMemory {
                what: "the step".into(),
                bytes: 0,
                advice: "use a smaller batch (train.batch_size)".into(),
            },
            Some(Fault::Other(why)) => Error::Gpu(why.replace('\n', " ")),
        })
    }

    pub(super) fn wait(&self, device: &wgpu::Device, poll: wgpu::PollType) -> Result<()> {
        let polled = device.poll(poll);
        self.check(device)?;
        polled.map(drop).map_err(|e| Error::Gpu(e.to_string()))
    }
}
