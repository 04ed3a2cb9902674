//! Running the suite: what is timed, how, and what is reported of it.

use super::bed::Made;
use super::suite::{Choice, Row};
use super::{Figures, Own, PUBLISHED, Roofline};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Family, Gpu};
use crate::plan::{Clock, Plan, Pool, Program, Replays, Times};
use std::collections::BTreeMap;
use std::time::Duration;

/// Milliseconds of several runs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Stat {
    /// Half of the runs took no longer.
    pub median_ms: f64,
    /// The fastest.
    pub min_ms: f64,
}

impl Stat {
    fn of(times: &[Times], part: fn(&Times) -> Duration) -> Self {
        Self::over(times.iter().map(part))
    }

    fn over(times: impl Iterator<Item = Duration>) -> Self {
        let mut ms: Vec<f64> = times.map(|t| t.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |i: usize| ms.get(i).copied().unwrap_or(f64::NAN);
        Stat { median_ms: at(ms.len() / 2), min_ms: at(0) }
    }
}

/// Whose kernel was timed.
#[derive(Clone, Copy, Debug)]
pub enum Variant<'a> {
    /// Ours, of a family.
    Family(Family),
    /// One's own in the place of ours, with the defines of the device's family.
    Own(&'a Own, &'static str),
}

/// Times of some dispatches. Rates and the share are of the fastest run on the device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Measured {
    /// Operation.
    pub op: &'static str,
    /// Kernel; "whole" for a recording as one.
    pub kernel: &'static str,
    /// Sizes.
    pub shape: String,
    /// Which of the kernel's dispatches.
    pub part: String,
    /// Kernel family, or the file of a kernel of one's own.
    pub variant: String,
    /// Dispatches that were timed together.
    pub dispatches: usize,
    /// Runs.
    pub runs: usize,
    /// The host's time to encode them.
    pub encode: Stat,
    /// The device's to run them.
    pub device: Stat,
    /// From the first call to the end of the work.
    pub end_to_end: Stat,
    /// Of a whole training step: the wall time of one among many that follow one another without a wait
    /// in between, as in training.
    pub streamed: Option<Stat>,
    /// Of a whole training step: the device's time from the begin of its first dispatch to the end of its
    /// last, where it has timestamps. `device` is the sum of the dispatches, each in a pass of its own.
    pub span: Option<Stat>,
    /// Of a whole training step: what it should take on GPUs by their [published](PUBLISHED) figures, in
    /// milliseconds. None of that was run.
    pub predicted_ms: BTreeMap<String, f64>,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written at least.
    pub bytes: u64,
    /// 10⁹ operations a second.
    pub gflops: f64,
    /// 10⁹ bytes a second.
    pub gbytes: f64,
    /// Which side of the roofline is nearer: "arithmetic" or "memory".
    pub bound: &'static str,
    /// Part of that side that was reached.
    pub share: f64,
}

/// What was not timed, and why.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Skipped {
    /// Operation.
    pub op: &'static str,
    /// Sizes.
    pub shape: String,
    /// The error.
    pub why: String,
}

/// All that was measured in one go.
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
    /// Kernel family of the device.
    pub family: String,
    /// Whether shaders are compiled with bounds checks.
    pub checked: bool,
    /// Where device times come from: "timestamps", or "wall minus overhead".
    pub device_clock: &'static str,
    /// Limits of the adapter, measured before and after; the better of both.
    pub roofline: Roofline,
    /// Rows.
    pub results: Vec<Measured>,
    /// What the adapter could not hold or run.
    pub skipped: Vec<Skipped>,
}

/// What a step should take on GPUs: the sum of its dispatches, or the host's time where that is longer.
fn predictions(made: &Made, gpu: &Gpu) -> Result<BTreeMap<String, f64>> {
    let caps = Caps { family: Family::Tiled, ..gpu.caps().clone() };
    let plan = Plan::new(made.recording.clone(), &caps)?;
    let all = plan.dispatches();
    let of = |figures: &Figures| {
        let device: f64 = all.iter().map(|d| figures.cost(d).seconds()).sum();
        (figures.name.to_string(), device.max(figures.record * all.len() as f64) * 1e3)
    };
    Ok(PUBLISHED.iter().map(of).collect())
}

/// Times entries of the suite on a device.
pub struct Bench<'g> {
    gpu: &'g Gpu,
    clock: Clock,
    roofline: Roofline,
    budget: Duration,
    results: Vec<(Row, Measured)>,
    skipped: Vec<Skipped>,
}

impl<'g> Bench<'g> {
    /// Measures the roofline; each row will get `budget`, and three runs at least.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(gpu: &'g Gpu, budget: Duration) -> Result<Self> {
        let (roofline, clock) = (Roofline::measure(gpu)?, Clock::new(gpu)?);
        Ok(Bench { gpu, clock, roofline, budget, results: Vec::new(), skipped: Vec::new() })
    }

    /// Times what was chosen, with the kernels of the device's family.
    ///
    /// # Errors
    /// Those of the device. What the adapter cannot hold is noted as skipped.
    pub fn measure(&mut self, choice: &Choice) -> Result<()> {
        self.compare(choice, &[Variant::Family(self.gpu.caps().family)])
    }

    /// Times several variants of each row in turns, on the same buffers.
    ///
    /// # Errors
    /// As [`measure`](Self::measure); a kernel of one's own that does not compile.
    pub fn compare(&mut self, choice: &Choice, variants: &[Variant]) -> Result<()> {
        match self.rows(choice, variants) {
            Err(why @ (Error::OutOfMemory { .. } | Error::TooLarge { .. } | Error::Driver(_))) => {
                let (op, shape) = (choice.entry.op, choice.entry.shape.clone());
                self.skipped.push(Skipped { op, shape, why: why.to_string() });
                Ok(())
            }
            other => other,
        }
    }

    fn rows(&mut self, choice: &Choice, variants: &[Variant]) -> Result<()> {
        let (gpu, entry) = (self.gpu, choice.entry);
        let made = entry.make(gpu.caps())?;
        let plan = |variant: &Variant| -> Result<Plan> {
            let mut caps = gpu.caps().clone();
            if let Variant::Family(family) = variant {
                caps.family = *family;
            }
            let plan = Plan::new(made.recording.copy(), &caps)?;
            match variant {
                Variant::Family(_) => Ok(plan),
                Variant::Own(own, kernel) => own.replace_in(plan, kernel, gpu),
            }
        };
        let plans: Vec<Plan> = variants.iter().map(plan).collect::<Result<_>>()?;
        let Some(first) = plans.first() else { return Ok(()) };
        let mut rows = entry.rows(first);
        rows.retain(|row| choice.has(row.kernel));
        let memory = made.allocate(gpu)?;
        // One pool: the variants' plans are of one recording, so that a tensor of one is in the
        // same buffer in all.
        let mut pool = Pool::new();
        let programs: Vec<Program> = plans
            .into_iter()
            .map(|plan| plan.prepare(gpu, &memory, &mut pool))
            .collect::<Result<_>>()?;
        let all: Vec<&Program> = programs.iter().collect();
        let mut done = 0;
        for row in rows {
            // What it reads is what it would read in a step.
            let last = row.which.last().map_or(0, |last| last + 1);
            if last > done {
                all[0].run_some(gpu, done..last)?;
                done = last;
            }
            let times = Program::time(&all, gpu, &self.clock, &row.which, self.budget)?;
            let whole = entry.is_step() && row.which.len() == all[0].plan().dispatches().len();
            for ((variant, times), program) in variants.iter().zip(times).zip(&all) {
                let variant = match variant {
                    Variant::Family(family) => family.to_string(),
                    Variant::Own(own, _) => own.file().to_string(),
                };
                let mut measured = self.measured(choice, &row, variant, &times);
                if whole {
                    let Replays { streamed, device } =
                        program.stream(gpu, &self.clock, self.budget)?;
                    measured.streamed = Some(Stat::over(streamed.into_iter()));
                    measured.span = (!device.is_empty()).then(|| Stat::over(device.into_iter()));
                    measured.predicted_ms = predictions(&made, gpu)?;
                }
                self.results.push((row.clone(), measured));
            }
        }
        gpu.check()
    }

    fn measured(&self, choice: &Choice, row: &Row, variant: String, times: &[Times]) -> Measured {
        let device = Stat::of(times, |t| t.device);
        let seconds = (device.min_ms * 1e-3).max(1e-9);
        Measured {
            op: choice.entry.op,
            kernel: row.kernel,
            shape: choice.entry.shape.clone(),
            part: row.part.clone(),
            variant,
            dispatches: row.which.len(),
            runs: times.len(),
            encode: Stat::of(times, |t| t.encode),
            device,
            end_to_end: Stat::of(times, |t| t.end_to_end),
            streamed: None,
            span: None,
            predicted_ms: BTreeMap::new(),
            flops: row.flops,
            bytes: row.bytes,
            gflops: row.flops as f64 / seconds * 1e-9,
            gbytes: row.bytes as f64 / seconds * 1e-9,
            // Both are known better at the end.
            bound: "",
            share: 0.0,
        }
    }

    /// Rows so far.
    pub fn count(&self) -> usize {
        self.results.len()
    }

    /// Measures the roofline once more, and gives everything.
    ///
    /// # Errors
    /// Those of the device.
    pub fn report(self) -> Result<Report> {
        let again = Roofline::measure(self.gpu)?;
        let roofline = Roofline {
            flops: self.roofline.flops.max(again.flops),
            bytes: self.roofline.bytes.max(again.bytes),
        };
        let results = self.results.into_iter().map(|(row, measured)| Measured {
            bound: roofline.bound(row.flops, row.bytes),
            share: roofline.share(row.flops, row.bytes, (measured.device.min_ms * 1e-3).max(1e-9)),
            ..measured
        });
        let caps = self.gpu.caps();
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            adapter: caps.name.clone(),
            driver: caps.driver.clone(),
            backend: caps.backend.clone(),
            family: caps.family.to_string(),
            checked: self.gpu.checked(),
            device_clock: self.clock.name(),
            roofline,
            results: results.collect(),
            skipped: self.skipped,
        })
    }
}
