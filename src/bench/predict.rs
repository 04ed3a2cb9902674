//! How long a training step would take on a device, from its plan's own counts and the device's
//! figures. Nothing here was ever run on the devices of [`PUBLISHED`](super::PUBLISHED).

use super::figures::{ITERATION_CYCLES, LAUNCH, RECORD, ROUND_CYCLES};
use super::{Figures, Roofline};
use crate::error::{Error, Result};
use crate::gpu::{Family, Gpu};
use crate::ops::elementwise::Unary;
use crate::ops::lstm::LstmWeights;
use crate::plan::{Clock, Planned, Program, Spaces, Stage};
use crate::tape::Tape;
use crate::train::TypicalStep;
use std::time::Instant;

/// What part of the peak rate arithmetic reaches. WGSL products of others are at 25 to 50 %.
const COMPUTE: f64 = 0.30;
/// What part of the memory's rate kernels reach that are bound by it: 70 to 80 %.
const MEMORY: f64 = 0.75;
/// How much faster the shared cache is than memory, for a dispatch whose data fill half of it.
const CACHE: f64 = 3.0;
/// A unit may use so many times its share of the memory's rate while others have nothing to do.
const GREED: f64 = 4.0;

/// The seconds of one dispatch by what may hold it up. They overlap: the longest one counts, and
/// the launch with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Arithmetic.
    pub compute: f64,
    /// Memory.
    pub memory: f64,
    /// What waits for what came before it, inside a workgroup.
    pub latency: f64,
    /// Between dispatches.
    pub launch: f64,
}

impl Cost {
    /// What it takes.
    pub fn seconds(&self) -> f64 {
        self.compute.max(self.memory).max(self.latency) + self.launch
    }
}

/// What holds a step up most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Memory.
    Memory,
    /// Rounds that wait for one another: recurrences, short sums in few workgroups.
    Latency,
    /// The time between dispatches.
    Launches,
    /// The CPU, which records the steps.
    Host,
}

/// A step on a device, in seconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Prediction {
    /// The device.
    pub device: String,
    /// A step with the optimiser.
    pub step: f64,
    /// A batch on average: the optimiser runs after several. Recording overlaps with the device.
    pub batch: f64,
    /// Samples a second.
    pub samples: f64,
    /// The training batches of an epoch, without validation.
    pub epoch: f64,
    /// What holds it up most.
    pub bound: Bound,
    /// That one's part of the step.
    pub share: f64,
}

impl Figures {
    /// What a dispatch costs.
    pub fn cost(&self, d: &Planned) -> Cost {
        let groups: f64 = d.groups.iter().map(|g| f64::from(*g)).product();
        // Fewer workgroups than units leave some idle.
        let busy = (groups / self.units).min(1.0);
        let cached = if d.bytes as f64 <= self.cache / 2.0 { CACHE } else { 1.0 };
        let waves = (groups / (self.units * self.resident)).max(1.0);
        let chain = d.rounds as f64 * self.round + d.iterations as f64 * self.iteration;
        Cost {
            compute: d.flops as f64 / (self.flops * COMPUTE * busy),
            memory: d.bytes as f64 / (self.bytes * MEMORY * cached * (GREED * busy).min(1.0)),
            latency: chain * waves,
            launch: self.launch,
        }
    }

    /// The step on this device.
    pub fn predict(&self, step: &TypicalStep) -> Prediction {
        let all = step.plan.dispatches();
        let seconds = |d: &Planned| self.cost(d).seconds();
        let total: f64 = all.iter().map(seconds).sum();
        let update = |d: &&Planned| d.stage == Stage::Update;
        let optimiser: f64 = all.iter().filter(update).map(seconds).sum();
        let record = self.record * all.len() as f64;
        let device = total - optimiser * (1.0 - 1.0 / step.accumulate.max(1) as f64);
        let batch = device.max(record);
        let mut parts = [0.0; 4];
        for cost in all.iter().map(|d| self.cost(d)) {
            let busy = cost.seconds() - cost.launch;
            parts[3] += cost.launch;
            let at = [cost.compute, cost.memory, cost.latency].iter().position(|c| *c == busy);
            parts[at.unwrap_or(0)] += busy;
        }
        let most = (0..4).max_by(|a, b| parts[*a].total_cmp(&parts[*b])).unwrap_or(0);
        let names = [Bound::Compute, Bound::Memory, Bound::Latency, Bound::Launches];
        let (bound, share) = match record > device {
            true => (Bound::Host, 1.0),
            false => (names[most], parts[most] / total),
        };
        Prediction {
            device: self.name.to_string(),
            step: total.max(record),
            batch,
            samples: step.batch as f64 / batch,
            epoch: batch * step.batches as f64,
            bound,
            share,
        }
    }

    /// The figures of an open adapter, measured: what calibrates the method.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measured(gpu: &Gpu, roofline: &Roofline) -> Result<Self> {
        let caps = gpu.caps();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let launch = launch(gpu)?;
        let (round, iteration) = chain(gpu)?;
        Ok(Figures {
            name: caps.name.clone().into(),
            flops: roofline.flops,
            bytes: roofline.bytes,
            cache: if caps.cpu { last_cache() } else { 0.0 },
            // Nobody says how many units a GPU has: taken as always busy.
            units: if caps.cpu { threads as f64 } else { 1.0 },
            resident: if caps.cpu { 1.0 } else { f64::INFINITY },
            round,
            iteration,
            launch,
            record: RECORD[0],
        })
    }
}

/// Bytes of the processor's last cache, where Linux tells; else 0.
fn last_cache() -> f64 {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().strip_suffix('K')?.parse::<f64>().ok()
    };
    (0..5).rev().find_map(size).unwrap_or(0.0) * 1024.0
}

/// The fastest of many times that `once` takes, the first one, which compiles, not counted. Short
/// times: a busy machine leaves few long ones alone.
fn fastest(mut once: impl FnMut() -> Result<f64>) -> Result<f64> {
    once()?;
    (0..40).try_fold(f64::INFINITY, |best, _| Ok(once()?.min(best)))
}

/// Seconds of a dispatch of next to nothing that waits for the one before.
fn launch(gpu: &Gpu) -> Result<f64> {
    const CHAIN: usize = 32;
    let mut tape = Tape::new();
    let mut x = tape.constant("x", &[64], &[1.0; 64])?;
    for _ in 0..CHAIN {
        x = tape.unary("x", x, Unary::Scale, 1.0);
    }
    tape.keep(x);
    let (program, memory) = tape.compile(gpu, &Spaces::new())?;
    let one = fastest(|| {
        let start = Instant::now();
        program.run(gpu, &memory)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok(one / CHAIN as f64)
}

/// Seconds of a round and of an iteration, from recurrences.
fn chain(gpu: &Gpu) -> Result<(f64, f64)> {
    let clock = Clock::new(gpu)?;
    let time = |hidden: usize| -> Result<[f64; 3]> {
        const STEPS: usize = 512;
        let mut tape = Tape::new();
        let x = tape.constant("x", &[8, STEPS, 4], &[0.1; 8 * STEPS * 4])?;
        // Lengths are words, not floats.
        let lengths = tape.constant("lengths", &[8], &[f32::from_bits(STEPS as u32); 8])?;
        let mut weight =
            |shape: &[usize]| tape.constant("w", shape, &vec![0.05; shape.iter().product()]);
        let weights = LstmWeights {
            weight_ih: weight(&[4 * hidden, 4])?,
            weight_hh: weight(&[4 * hidden, hidden])?,
            bias_ih: weight(&[4 * hidden])?,
            bias_hh: weight(&[4 * hidden])?,
        };
        let y = tape.lstm(x, lengths, &[vec![weights]], 0.0, false)?;
        tape.keep(y.last);
        let (program, memory) = tape.compile(gpu, &Spaces::new())?;
        let (at, planned) = recurrence(&program)?;
        let seconds = fastest(|| {
            let times = program.profile(gpu, &memory, true, &[], &clock)?;
            Ok(times[at].time.as_secs_f64())
        })?;
        Ok([seconds, planned.rounds as f64, planned.iterations as f64])
    };
    let [short, rounds, iterations] = time(8)?;
    if gpu.caps().family != Family::Tiled {
        // Without workgroup memory an iteration is work, which the arithmetic counts.
        return Ok((short / rounds, 0.0));
    }
    let [long, _, more] = time(32)?;
    let iteration = ((long - short) / (more - iterations)).max(0.0);
    Ok(((short - iterations * iteration).max(0.0) / rounds, iteration))
}

/// The dispatch of a program that is a recurrence.
fn recurrence(program: &Program) -> Result<(usize, &Planned)> {
    let mut all = program.plan().dispatches().iter().enumerate();
    let found = all.find(|(_, d)| d.rounds > 0 && d.kernel.name.starts_with("lstm"));
    found.ok_or_else(|| Error::Gpu("an LSTM has no recurrence".into()))
}

/// What predictions take for granted, a sentence each.
pub fn assumptions() -> Vec<String> {
    vec![
        "a dispatch takes the longest of arithmetic, memory and latency, and then its launch; none \
         overlaps with another"
            .into(),
        format!(
            "arithmetic reaches {:.0} % of the published f32 rate (WGSL products elsewhere: 25-50 %), \
             less where there are fewer workgroups than multiprocessors",
            COMPUTE * 100.0
        ),
        format!(
            "memory gives {:.0} % of its published rate, {CACHE:.0} times that to a dispatch whose \
             data fill at most half of the last cache",
            MEMORY * 100.0
        ),
        format!(
            "a step of a recurrence, or a slice of a sum, takes {ROUND_CYCLES:.0} clock cycles, an \
             iteration inside it {ITERATION_CYCLES:.0}; sequences have their full length"
        ),
        format!(
            "{:.0} µs from a dispatch to the next, whatever the device; the CPU records one in \
             {:.0} µs (Metal {:.0} µs) and is hidden where the device takes longer",
            LAUNCH * 1e6,
            RECORD[0] * 1e6,
            RECORD[1] * 1e6
        ),
        "tried on the one adapter at hand (llvmpipe, with figures measured there) \
         steps took 1.3 to 2.7 times what this formula says: expect no less here (--calibrate)"
            .into(),
        "an epoch is its training batches alone, without validation; laptops hold their boost clocks"
            .into(),
    ]
}
