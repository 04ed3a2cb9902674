//! What an adapter must be able to do before its results are worth anything, checked from inside the
//! program: no source tree, no files, no network.
//!
//! | part | what is checked | against |
//! |---|---|---|
//! | [`kernels`] | every kernel, in every family that runs here, checked and trusted | its CPU twin |
//! | [`gradients`] | the gradient of every operation | central differences of the twins |
//! | `golden` | whole trainings with label generation | PyTorch's numbers, which the program holds |
//! | `repeat` | a training run twice, a step replayed and recorded anew | each other, bit for bit |
//!
//! ```no_run
//! # #[cfg(feature = "bench")]
//! # mod example {
//! use modalign::selftest::{self, Options};
//!
//! fn main() -> modalign::Result<()> {
//!     let report = selftest::run(&Options::default(), &|_| ())?;
//!     report.verdict()
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! The engine alone has the first two, so that an operation written outside of it goes through the same
//! tests (`examples/custom_op.rs`); the rest is there with the feature `bench`.
//!
//! The parts are public one by one, for tests: what the tests of this crate run on software adapters
//! is what the program runs on yours.

#[cfg(feature = "bench")]
pub mod golden;
pub mod gradients;
pub mod kernels;
#[cfg(feature = "bench")]
pub mod repeat;
mod report;
#[cfg(feature = "bench")]
mod shaders;
mod work;

pub use report::{Checked, Failure, Part, Report};
pub use work::{Outcome, Progress};

#[cfg(feature = "bench")]
use crate::{
    error::{Error, Result, nearest},
    gpu::{Gpu, GpuOptions},
    ops::KERNELS,
};
#[cfg(feature = "bench")]
use std::{path::PathBuf, time::Instant};

/// What to check.
#[cfg(feature = "bench")]
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Part of an adapter's name, any case; see [`GpuOptions::adapter`].
    pub adapter: Option<String>,
    /// Only these kernels, and nothing but kernels; all, and the other parts, where empty.
    pub kernels: Vec<String>,
    /// Only these parts; all where empty.
    pub parts: Vec<Part>,
    /// The adapter's own family alone, a third of the gradients, one of the golden trainings.
    pub quick: bool,
    /// Where to write every shader that the adapter gets, before any of them runs.
    pub shaders: Option<PathBuf>,
}

/// Checks an adapter. `watch` is told what happens, from several threads.
///
/// # Errors
/// No adapter; a kernel that there is not; a folder that cannot be written. What the adapter gets wrong
/// is no error here but in the [`Report`]: see [`Report::verdict`].
#[cfg(feature = "bench")]
pub fn run(options: &Options, watch: &(dyn Fn(Progress) + Sync)) -> Result<Report> {
    let start = Instant::now();
    for name in &options.kernels {
        if crate::ops::find(name).is_none() {
            let near = nearest(name, KERNELS.iter().map(|k| k.name));
            return Err(Error::Config(format!("no kernel '{name}', did you mean '{near}'?")));
        }
    }
    let devices = kernels::devices(options.adapter.as_deref(), options.quick)?;
    let own = own(options)?;
    let mut report = Report::new(own.caps(), &devices);
    if let Some(folder) = &options.shaders {
        report.shaders = Some(shaders::write(folder, &devices, &options.kernels)?);
    }
    let named = !options.kernels.is_empty();
    let wanted = |part: Part| {
        if named {
            part == Part::Kernel
        } else {
            options.parts.is_empty() || options.parts.contains(&part)
        }
    };
    if wanted(Part::Kernel) {
        report.add(kernels::run(&devices, &options.kernels, watch));
    }
    if wanted(Part::Gradient) {
        report.add(gradients::run(&own, options.quick, watch));
    }
    if wanted(Part::Training) {
        report.add(golden::run(&devices, options.quick, watch));
    }
    if wanted(Part::Repeat) {
        report.add(repeat::run(&devices, watch));
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// The adapter as a training opens it.
#[cfg(feature = "bench")]
fn own(options: &Options) -> Result<Gpu> {
    let adapter = options.adapter.clone();
    Gpu::with(&GpuOptions { adapter, quiet: true, no_tune: true, ..GpuOptions::default() })
}
