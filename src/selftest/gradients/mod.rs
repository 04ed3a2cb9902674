//! Every operation's gradient against central differences.
//!
//! The operation stands in the middle of a graph: its output has two consumers,
//!
//! ```text
//! loss = 1.7 sum(out * R) + 0.3 sum(out^2)
//! ```
//!
//! and its inputs are once parameters, whose gradients accumulate, and once intermediate tensors,
//! whose first contribution overwrites. The gradients come from the CPU twins and from the
//! device; the differences from the twins' `out`, the loss summed in f64.
//!
//! To add an operation, add a line to [`table`].

mod heads;
mod inputs;
mod lstm;
mod more;
mod streams;
mod table;
mod text;

pub use inputs::{classes, goals, packed, spans};
pub use table::table;

use super::work::{Job, Outcome, Progress, run as run_jobs};
use super::{Checked, Part};
use crate::ops::objective::Goals;
use crate::ops::random;
use crate::plan::{HostMemory, SpaceId, Spaces, Step, interpret};
use crate::{Gpu, Result, Tape, Var};

/// Records an operation over its inputs.
pub type Build = Box<dyn Fn(&mut Tape, &[Var]) -> Result<Var>>;

/// An operation to try.
pub struct Entry {
    /// What it is asked for by.
    pub name: &'static str,
    shapes: Vec<Vec<usize>>,
    build: Build,
    /// Applied to the inputs' values, which are random in [-1, 1).
    values: fn(f32) -> f32,
    /// Half the distance of a central difference.
    step: f32,
    /// Largest difference, relative to the largest element of the gradient.
    tolerance: f64,
    /// Whether its inputs can be nothing but parameters.
    parameters: bool,
}

/// An operation over inputs of these shapes, tried at random values that keep clear of 0, with
/// differences of 0.01 and a tolerance of 0.01.
pub fn entry(
    name: &'static str,
    shapes: &[&[usize]],
    build: impl Fn(&mut Tape, &[Var]) -> Result<Var> + 'static,
) -> Entry {
    Entry {
        name,
        shapes: shapes.iter().map(|s| s.to_vec()).collect(),
        build: Box::new(build),
        values: away_from_zero,
        step: 1e-2,
        tolerance: 1e-2,
        parameters: false,
    }
}

/// Keeps clear of the kink of relu and abs.
fn away_from_zero(v: f32) -> f32 {
    v + 0.2_f32.copysign(v)
}

impl Entry {
    /// With `values` applied to the random values in [-1, 1).
    pub fn values(self, values: fn(f32) -> f32) -> Self {
        Entry { values, ..self }
    }

    /// With differences over this distance to either side.
    pub fn step(self, step: f32) -> Self {
        Entry { step, ..self }
    }

    /// With this tolerance, relative to the largest element of a gradient.
    pub fn tolerance(self, tolerance: f64) -> Self {
        Entry { tolerance, ..self }
    }
}

/// A recording of one entry.
struct Graph {
    tape: Tape,
    spaces: Spaces,
    /// All inputs' values and all their gradients, as in training.
    values: SpaceId,
    grads: SpaceId,
    /// Where each input is in both, and its length.
    inputs: Vec<(usize, usize)>,
    out: Var,
    loss: Var,
}

const SCALES: (f32, f32) = (1.7, 0.3);

fn record(entry: &Entry, wrapped: bool) -> Result<Graph> {
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let (values, grads) = (spaces.declare("values", 0), spaces.declare("grads", 0));
    let (mut inputs, mut given, mut end) = (Vec::new(), Vec::new(), 0);
    for shape in &entry.shapes {
        let (at, len) = (end, shape.iter().product::<usize>());
        end = (at + len).next_multiple_of(64);
        let var = tape.parameter("input", shape, (values, at), Some((grads, at)));
        inputs.push((at, len));
        given.push(if wrapped { tape.scale(var, 1.0)? } else { var });
    }
    spaces.grow(values, end)?;
    spaces.grow(grads, end)?;
    let out = (entry.build)(&mut tape, &given)?;
    tape.keep(out);
    let (shape, len) = (tape.shape(out).to_vec(), tape.len(out));
    let r = tape.constant("R", &shape, &random(99, len))?;
    let linear = tape.mul(out, r)?;
    let linear = tape.sum(linear)?;
    let linear = tape.scale(linear, SCALES.0)?;
    let square = tape.square(out)?;
    let square = tape.sum(square)?;
    let square = tape.scale(square, SCALES.1)?;
    let loss = tape.add(linear, square)?;
    tape.keep(loss);
    Ok(Graph { tape, spaces, values, grads, inputs, out, loss })
}

/// Values of every input.
fn values(entry: &Entry) -> Vec<Vec<f32>> {
    let shapes = entry.shapes.iter().enumerate();
    shapes
        .map(|(i, shape)| {
            let len = shape.iter().product();
            random(i as u64 + 17, len).into_iter().map(entry.values).collect()
        })
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn step() -> Step {
    Step { seed: 5, step: 2, ..Step::default() }
}

/// The loss of `out`, in f64.
fn loss_of(out: &[f32]) -> f64 {
    let r = random(99, out.len());
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        out.iter().zip(&r).map(|(o, r)| f(f64::from(*o), f64::from(*r))).sum()
    };
    f64::from(SCALES.0) * sum(&|o, r| o * r) + f64::from(SCALES.1) * sum(&|o, _| o * o)
}

/// Central differences; `None` where two steps disagree, because a kink is near.
fn differences(entry: &Entry) -> Result<Vec<Vec<Option<f64>>>> {
    let graph = record(entry, false)?;
    let recording = graph.tape.recording();
    let mut memory = HostMemory::new(&graph.spaces);
    let inputs = values(entry);
    let at = |memory: &mut HostMemory, values: &[Vec<f32>]| -> Result<f64> {
        for ((at, _), v) in graph.inputs.iter().zip(values) {
            memory.write(graph.values, *at, &bits(v))?;
        }
        interpret(recording, &step(), memory)?;
        Ok(loss_of(&memory.read(recording, graph.out)?))
    };
    let mut all = Vec::new();
    for (k, input) in inputs.iter().enumerate() {
        let mut moved = inputs.clone();
        let mut slope = |i: usize, step: f32| -> Result<f64> {
            moved[k][i] = input[i] + step;
            let up = at(&mut memory, &moved)?;
            moved[k][i] = input[i] - step;
            let down = at(&mut memory, &moved)?;
            moved[k][i] = input[i];
            // The distance as f32 has it.
            Ok((up - down) / (f64::from(input[i] + step) - f64::from(input[i] - step)))
        };
        let pairs: Vec<(f64, f64)> = (0..input.len())
            .map(|i| Ok((slope(i, entry.step)?, slope(i, entry.step * 0.5)?)))
            .collect::<Result<_>>()?;
        let largest = pairs.iter().fold(0.0, |m: f64, (_, fine)| m.max(fine.abs()));
        all.push(
            pairs
                .into_iter()
                .map(|(coarse, fine)| {
                    ((coarse - fine).abs() <= entry.tolerance * largest).then_some(fine)
                })
                .collect(),
        );
    }
    Ok(all)
}

/// Compares an input's gradient with the differences.
fn compare(entry: &Entry, at: &str, got: &[f32], want: &[Option<f64>], outcome: &mut Outcome) {
    let known = want.iter().flatten().count();
    if known * 4 < want.len() * 3 {
        let detail = format!("only {known} of {} differences are steady", want.len());
        return outcome.fail(at.into(), detail);
    }
    let largest = want.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
    if largest == 0.0 {
        return outcome.fail(at.into(), "its gradient is zero: the entry tries nothing".into());
    }
    let offs = got.iter().zip(want).enumerate().filter_map(|(i, (got, want))| {
        let (got, want) = (f64::from(*got), (*want)?);
        let off = (got - want).abs() / largest;
        Some((i, if off.is_nan() { f64::INFINITY } else { off }, got, want))
    });
    if let Some((i, off, got, want)) = offs.max_by(|a, b| a.1.total_cmp(&b.1)) {
        let detail = || format!("[{i}] is {got:.6}, differences say {want:.6}");
        outcome.see(off, entry.tolerance, || at.to_string(), detail);
    }
}

/// Checks one entry: its gradients by the twins and by a device.
pub fn check(gpu: &Gpu, entry: &Entry) -> Outcome {
    let mut outcome = Outcome::default();
    let mut all = || -> Result<()> {
        let want = differences(entry)?;
        for wrapped in [false, true].into_iter().filter(|w| !(*w && entry.parameters)) {
            let device = gpu.caps().family.to_string();
            let ways = [
                ("twins", by_twins(entry, wrapped)?),
                (device.as_str(), by_device(gpu, entry, wrapped)?),
            ];
            for (way, got) in ways {
                let kind = if wrapped { "intermediate" } else { "parameter" };
                for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                    let at = format!("{kind} {k} on {way}");
                    compare(entry, &at, got, want, &mut outcome);
                }
            }
        }
        Ok(())
    };
    if let Err(why) = all() {
        outcome.fail(gpu.caps().family.to_string(), why.to_string());
    }
    outcome
}

/// Checks the whole table, or every third entry where it is to be `quick`.
pub fn run(gpu: &Gpu, quick: bool, watch: &(dyn Fn(Progress) + Sync)) -> Vec<Checked> {
    let names: Vec<&str> = table().iter().map(|entry| entry.name).collect();
    let jobs: Vec<Job> = names
        .into_iter()
        .enumerate()
        .step_by(if quick { 3 } else { 1 })
        .map(|(i, name)| Job {
            row: name.to_string(),
            name: name.to_string(),
            // An entry need not be fit to be shared by threads: each makes its own.
            work: Box::new(move || check(gpu, &table()[i])),
        })
        .collect();
    run_jobs(Part::Gradient, &jobs, watch)
}

/// The gradients of all inputs by the twins.
fn by_twins(entry: &Entry, wrapped: bool) -> Result<Vec<Vec<f32>>> {
    let mut graph = record(entry, wrapped)?;
    graph.tape.backward(&[graph.loss])?;
    let mut memory = HostMemory::new(&graph.spaces);
    for ((at, _), v) in graph.inputs.iter().zip(values(entry)) {
        memory.write(graph.values, *at, &bits(&v))?;
    }
    interpret(graph.tape.recording(), &step(), &mut memory)?;
    let grads = memory.space(graph.grads)?;
    Ok(graph.inputs.iter().map(|(at, len)| grads[*at..at + len].to_vec()).collect())
}

/// The gradients of all inputs by a device.
fn by_device(gpu: &Gpu, entry: &Entry, wrapped: bool) -> Result<Vec<Vec<f32>>> {
    let mut graph = record(entry, wrapped)?;
    graph.tape.backward(&[graph.loss])?;
    let (program, memory) = graph.tape.compile(gpu, &graph.spaces)?;
    for ((at, _), v) in graph.inputs.iter().zip(values(entry)) {
        memory.write(gpu, graph.values, *at, &bits(&v))?;
    }
    memory.write_step(gpu, &step())?;
    program.run(gpu, &memory)?;
    let grads = graph.inputs.iter();
    grads.map(|(at, len)| memory.read_f32(gpu, graph.grads, *at, *len)).collect()
}
