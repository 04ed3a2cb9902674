//! What a check of an adapter found.

use super::Outcome;
#[cfg(feature = "bench")]
use super::kernels::Device;
use crate::error::{Error, Result};
#[cfg(feature = "bench")]
use crate::gpu::Caps;

/// What of an adapter is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A kernel against its twin.
    Kernel,
    /// A gradient against differences.
    Gradient,
    /// A training against PyTorch's.
    Training,
    /// Twice the same, bit for bit.
    Repeat,
}

impl Part {
    /// Its name in the plural, as people are told what is being checked.
    pub fn name(self) -> &'static str {
        match self {
            Part::Kernel => "kernels",
            Part::Gradient => "gradients",
            Part::Training => "trainings",
            Part::Repeat => "repeats",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Failure {
    /// The case, and where it ran.
    pub at: String,
    /// What is wrong there.
    pub detail: String,
    /// The largest relative difference of the case; infinite (null in JSON) where there is no number.
    pub difference: f64,
}

/// A thing that was checked: a row of the table.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Checked {
    /// Which part it belongs to.
    pub part: Part,
    /// The kernel, the operation, the training.
    pub name: String,
    /// Comparisons.
    pub cases: usize,
    /// Those that failed.
    pub failed: usize,
    /// The largest relative difference that was seen.
    pub largest: f64,
    /// The largest that was allowed there.
    pub allowed: f64,
    /// Where that was.
    pub at: String,
    /// What it took, summed over the threads that worked on it.
    pub seconds: f64,
    /// What is wrong.
    pub failures: Vec<Failure>,
    /// What this adapter is known not to do, and why.
    pub skipped: Vec<String>,
}

impl Checked {
    /// Nothing checked yet.
    pub(super) fn new(part: Part, name: &str) -> Self {
        let Outcome { cases, largest, allowed, at, failures, skipped } = Outcome::default();
        let (name, failed, seconds) = (name.to_string(), 0, 0.0);
        Checked { part, name, cases, failed, largest, allowed, at, seconds, failures, skipped }
    }

    /// Adds what a job found.
    pub(super) fn add(&mut self, found: Outcome, seconds: f64) {
        let mut all = Outcome {
            cases: self.cases,
            largest: self.largest,
            allowed: self.allowed,
            at: std::mem::take(&mut self.at),
            failures: std::mem::take(&mut self.failures),
            skipped: std::mem::take(&mut self.skipped),
        };
        all.merge(found);
        self.seconds += seconds;
        self.failed = all.failures.len();
        (self.cases, self.largest, self.allowed) = (all.cases, all.largest, all.allowed);
        (self.at, self.failures, self.skipped) = (all.at, all.failures, all.skipped);
    }
}

/// All that was checked.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Version of this crate.
    pub version: &'static str,
    /// Adapter.
    pub adapter: String,
    /// Its driver.
    pub driver: String,
    /// vulkan, metal, dx12.
    pub backend: String,
    /// The family that a training takes here.
    pub family: String,
    /// Families and modules that were checked: "tiled", "tiled, checked".
    pub devices: Vec<String>,
    /// Shaders that were written, where that was asked for.
    pub shaders: Option<usize>,
    /// Wall time of everything.
    pub seconds: f64,
    /// Whether nothing is wrong.
    pub passed: bool,
    /// Comparisons.
    pub cases: usize,
    /// Those that failed.
    pub failed: usize,
    /// Row by row.
    pub checked: Vec<Checked>,
}

impl Report {
    /// Nothing checked yet.
    #[cfg(feature = "bench")]
    pub(super) fn new(caps: &Caps, devices: &[Device]) -> Self {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            adapter: caps.name.clone(),
            driver: caps.driver.clone(),
            backend: caps.backend.clone(),
            family: caps.family.to_string(),
            devices: devices.iter().map(|d| d.name.clone()).collect(),
            shaders: None,
            seconds: 0.0,
            passed: true,
            cases: 0,
            failed: 0,
            checked: Vec::new(),
        }
    }

    /// Adds rows.
    #[cfg(feature = "bench")]
    pub(super) fn add(&mut self, rows: Vec<Checked>) {
        self.cases += rows.iter().map(|r| r.cases).sum::<usize>();
        self.failed += rows.iter().map(|r| r.failed).sum::<usize>();
        self.passed = self.failed == 0;
        self.checked.extend(rows);
    }

    /// What is wrong in a sentence, as an error: how much, and of the first failure what, where and by
    /// how much.
    ///
    /// # Errors
    /// [`Gpu`](Error::Gpu) where anything failed, or where nothing could be checked.
    pub fn verdict(&self) -> Result<()> {
        if self.cases == 0 {
            return Err(Error::Gpu(format!("nothing could be checked on {}", self.adapter)));
        }
        let first = self.checked.iter().find_map(|row| Some((row, row.failures.first()?)));
        let Some((row, failure)) = first else { return Ok(()) };
        Err(Error::Gpu(format!(
            "{} of {} cases failed on {} ({}); the first is {}, {}: {}; please report it with the \
             output of `modalign selftest --json`",
            self.failed,
            self.cases,
            self.adapter,
            self.driver,
            row.name,
            failure.at,
            failure.detail
        )))
    }
}
