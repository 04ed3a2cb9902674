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

use modalign::gpu::GpuOptions;
use modalign::ops::align::Pair;
use modalign::ops::matmul::FeedForward;
use modalign::ops::objective::{Aligning, Goals};
use modalign::ops::{Act, random};
use modalign::plan::{HostMemory, SpaceId, Spaces, Step, interpret};
use modalign::{Error, Gpu, Result, Tape, Var};

#[path = "gradients/heads.rs"]
mod heads;
#[path = "gradients/inputs.rs"]
mod inputs;
#[path = "gradients/lstm.rs"]
mod lstm;
#[path = "gradients/streams.rs"]
mod streams;
#[path = "gradients/text.rs"]
mod text;

use inputs::{classes, goals, packed, spans};

type Build = Box<dyn Fn(&mut Tape, &[Var]) -> Result<Var>>;

/// An operation to try.
struct Entry {
    name: &'static str,
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

fn entry(
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
    fn values(self, values: fn(f32) -> f32) -> Self {
        Entry { values, ..self }
    }

    fn step(self, step: f32) -> Self {
        Entry { step, ..self }
    }

    fn tolerance(self, tolerance: f64) -> Self {
        Entry { tolerance, ..self }
    }
}

const ACTS: [(Act, &str, &str); 5] = [
    (Act::None, "activate none", "linear"),
    (Act::Relu, "activate relu", "linear relu"),
    (Act::Gelu, "activate gelu", "linear gelu"),
    (Act::Tanh, "activate tanh", "linear tanh"),
    (Act::Sigmoid, "activate sigmoid", "linear sigmoid"),
];

fn table() -> Vec<Entry> {
    let mut table = vec![
        entry("matmul", &[&[3, 5], &[5, 4]], |t, v| t.matmul(v[0], v[1])),
        entry("matmul vectors", &[&[8, 4], &[4, 8]], |t, v| t.matmul(v[0], v[1])),
        entry("matmul x x", &[&[4, 4]], |t, v| t.matmul(v[0], v[0])),
        entry("linear no bias", &[&[3, 4], &[5, 4]], |t, v| t.linear(v[0], v[1], None, Act::None)),
        entry("linear 3-D", &[&[2, 3, 4], &[4, 4], &[4]], |t, v| {
            t.linear(v[0], v[1], Some(v[2]), Act::Tanh)
        }),
        entry("add", &[&[3, 5], &[3, 5]], |t, v| t.add(v[0], v[1])),
        entry("add row", &[&[3, 5], &[5]], |t, v| t.add(v[0], v[1])),
        entry("add row vectors", &[&[10, 8], &[1, 8]], |t, v| t.add(v[0], v[1])),
        entry("add last axes", &[&[3, 2, 4], &[2, 4]], |t, v| t.add(v[0], v[1])),
        entry("add column", &[&[3, 5], &[3, 1]], |t, v| t.add(v[0], v[1])),
        entry("add number", &[&[3, 5], &[1]], |t, v| t.add(v[0], v[1])),
        entry("add x x", &[&[3, 5]], |t, v| t.add(v[0], v[0])),
        entry("sub", &[&[4, 4], &[4, 4]], |t, v| t.sub(v[0], v[1])),
        entry("sub row", &[&[3, 5], &[5]], |t, v| t.sub(v[0], v[1])),
        entry("sub column", &[&[3, 8], &[3, 1]], |t, v| t.sub(v[0], v[1])),
        entry("sub number", &[&[3, 5], &[]], |t, v| t.sub(v[0], v[1])),
        entry("sub x x", &[&[3, 5]], |t, v| {
            // Zero, and so is its gradient: with x besides, that of x alone is left.
            let zero = t.sub(v[0], v[0])?;
            t.add(zero, v[0])
        }),
        entry("mul", &[&[3, 5], &[3, 5]], |t, v| t.mul(v[0], v[1])),
        entry("mul row", &[&[3, 5], &[5]], |t, v| t.mul(v[0], v[1])),
        entry("mul column", &[&[3, 5], &[3, 1]], |t, v| t.mul(v[0], v[1])),
        entry("mul column vectors", &[&[3, 8], &[3, 1]], |t, v| t.mul(v[0], v[1])),
        entry("mul first axes", &[&[3, 2, 4], &[3, 1, 1]], |t, v| t.mul(v[0], v[1])),
        entry("mul number", &[&[3, 5], &[1]], |t, v| t.mul(v[0], v[1])),
        entry("mul x x", &[&[3, 5]], |t, v| t.mul(v[0], v[0])),
        entry("mul of one", &[&[1], &[1]], |t, v| t.mul(v[0], v[1])),
        entry("scale", &[&[3, 5]], |t, v| t.scale(v[0], -2.5)),
        entry("square", &[&[3, 5]], |t, v| t.square(v[0])),
        entry("exp", &[&[4, 4]], |t, v| t.exp(v[0])),
        entry("abs", &[&[3, 5]], |t, v| t.abs(v[0])),
        entry("sum", &[&[3, 5]], |t, v| t.sum(v[0])),
        entry("mean", &[&[4, 4]], |t, v| t.mean(v[0])),
        entry("sum_rows", &[&[3, 5]], |t, v| t.sum_rows(v[0])),
        entry("sum_rows vectors", &[&[20, 8]], |t, v| t.sum_rows(v[0])),
        entry("sum_cols", &[&[3, 5]], |t, v| t.sum_cols(v[0])),
        entry("sum_cols 3-D", &[&[2, 3, 20]], |t, v| t.sum_cols(v[0])),
        entry("concat 2", &[&[3, 4], &[3, 5]], |t, v| t.concat(v)),
        entry("concat 3 vectors", &[&[2, 3, 4], &[2, 3, 8], &[2, 3, 4]], |t, v| t.concat(v)),
        entry("concat x y x x", &[&[3, 4], &[3, 2]], |t, v| t.concat(&[v[0], v[1], v[0], v[0]])),
        entry("concat 6", &[&[3, 1], &[3, 2], &[3, 3]], |t, v| {
            t.concat(&[v[0], v[1], v[2], v[2], v[1], v[0]])
        }),
        entry("slice", &[&[3, 7]], |t, v| t.slice(v[0], 2, 3)),
        entry("slice vectors", &[&[3, 12]], |t, v| t.slice(v[0], 4, 4)),
        entry("two slices", &[&[3, 8]], |t, v| {
            let (a, b) = (t.slice(v[0], 0, 4)?, t.slice(v[0], 2, 4)?);
            t.mul(a, b)
        }),
        entry("dropout", &[&[5, 7]], |t, v| t.dropout(v[0], 0.4)),
        entry("two dropouts", &[&[4, 8]], |t, v| {
            let x = t.dropout(v[0], 0.3)?;
            t.dropout(x, 0.3)
        }),
        entry("softmax", &[&[3, 5]], |t, v| t.softmax(v[0])),
        entry("softmax 3-D vectors", &[&[2, 2, 20]], |t, v| t.softmax(v[0])).step(3e-2),
        entry("cross_entropy", &[&[4, 3]], |t, v| {
            let targets = classes(t, &[2, 0, 1, 2])?;
            t.cross_entropy(v[0], targets)
        }),
        entry("coral", &[&[7, 3], &[7, 3]], |t, v| t.coral(v[0], v[1])),
        entry("align x y z x", &[&[6, 4], &[6, 4], &[6, 4]], |t, v| {
            let pair = |(a, b, weight)| Pair { a, b, weight };
            let pairs = [(0, 1, 2.0), (1, 2, -0.5), (3, 2, 1.0)].map(pair);
            Ok(t.align(&[v[0], v[1], v[2], v[0]], &pairs, 100.0)?.loss)
        }),
        entry("attention 2 heads of 4", &[&[9, 24]], |t, v| {
            let tokens = packed(t, &[3, 1, 4], 1)?;
            t.attention(v[0], tokens, 2, 0.0)
        }),
        entry("attention dropout", &[&[9, 24]], |t, v| {
            let tokens = packed(t, &[5, 2], 2)?;
            t.attention(v[0], tokens, 2, 0.3)
        }),
        entry("attention x x", &[&[6, 12]], |t, v| {
            // Two uses of one tensor: the second adds to both kernels' columns.
            let tokens = packed(t, &[2, 3], 1)?;
            let once = t.attention(v[0], tokens, 1, 0.0)?;
            let again = t.attention(v[0], tokens, 1, 0.5)?;
            t.add(once, again)
        }),
        entry("attention 1 head of 8", &[&[7, 24]], |t, v| {
            let tokens = packed(t, &[6], 1)?;
            t.attention(v[0], tokens, 1, 0.2)
        }),
        entry("attention 1 head of 32", &[&[6, 96]], |t, v| {
            let tokens = packed(t, &[2, 3], 1)?;
            t.attention(v[0], tokens, 1, 0.1)
        }),
        entry("attention of the first", &[&[4, 8], &[9, 16]], |t, v| {
            // The last sample has no rows, the last row no sample.
            let (tokens, spans) = (packed(t, &[3, 1, 4], 1)?, spans(t, &[3, 1, 4, 0])?);
            t.attention_first(v[0], v[1], tokens, spans, 2, 0.0)
        }),
        entry("attention of the first, dropout", &[&[2, 32], &[8, 64]], |t, v| {
            let (tokens, spans) = (packed(t, &[5, 2], 1)?, spans(t, &[5, 2])?);
            t.attention_first(v[0], v[1], tokens, spans, 1, 0.3)
        }),
        entry("standardize", &[&[6, 5]], |t, v| t.standardize(v[0])),
        entry("standardize_each", &[&[3, 6, 5]], |t, v| t.standardize_each(v[0])),
        entry("project", &[&[5, 6], &[4, 6], &[5, 3], &[4, 3]], |t, v| {
            t.project(&[(v[0], v[1]), (v[2], v[3])])
        }),
        entry("project x y x", &[&[5, 4], &[8, 4], &[5, 8], &[8, 8], &[8, 4]], |t, v| {
            // One input twice: each is a product of its own.
            t.project(&[(v[0], v[1]), (v[2], v[3]), (v[0], v[4])])
        }),
        Entry {
            parameters: true,
            ..entry("project computed", &[&[5, 8], &[8, 8], &[5, 4], &[8, 4]], |t, v| {
                // Weights that are parameters, inputs that are not; one that two projections read,
                // and one without a gradient.
                let (x, y) = (t.scale(v[0], 2.0)?, t.scale(v[2], 0.5)?);
                let fixed = t.constant("fixed", &[5, 8], &random(7, 40))?;
                let first = t.project(&[(x, v[1]), (y, v[3])])?;
                let second = t.project(&[(fixed, v[1]), (y, v[3])])?;
                t.add(first, second)
            })
        },
        entry("objective", &[&[6, 3]], |t, v| {
            let goals = goals(t, 6, 3, 6)?;
            t.objective(v[0], goals, None)
        }),
        entry("objective with alignment", &[&[7, 2], &[3, 7, 4]], |t, v| {
            let pair = |(a, b, weight)| Pair { a, b, weight };
            let pairs = [(0, 1, 2.0), (1, 2, -0.5)].map(pair);
            let goals = goals(t, 7, 2, 9)?;
            t.objective(v[0], goals, Some(Aligning { features: v[1], pairs: &pairs, margin: 9.0 }))
        }),
        entry("coral of standardized", &[&[8, 3], &[8, 3]], |t, v| {
            let (a, b) = (t.standardize(v[0])?, t.standardize(v[1])?);
            t.coral(a, b)
        }),
        entry("a small network", &[&[4, 6], &[8, 6], &[8], &[3, 8], &[3]], |t, v| {
            let h = t.linear(v[0], v[1], Some(v[2]), Act::Tanh)?;
            let x = t.linear(h, v[3], Some(v[4]), Act::None)?;
            let p = t.softmax(x)?;
            let both = t.concat(&[p, h])?;
            let gate = t.activate(both, Act::Sigmoid)?;
            t.mul(both, gate)
        }),
    ];
    for (act, alone, linear) in ACTS {
        table.push(entry(alone, &[&[3, 5]], move |t, v| t.activate(v[0], act)));
        table.push(entry(linear, &[&[3, 4], &[5, 4], &[5]], move |t, v| {
            t.linear(v[0], v[1], Some(v[2]), act)
        }));
    }
    let sizes: [&[usize]; 5] = [&[3, 8], &[12, 8], &[12], &[8, 12], &[8]];
    for (act, name) in [(Act::Gelu, "feed_forward gelu"), (Act::Relu, "feed_forward relu")] {
        table.push(entry(name, &sizes, move |t, v| {
            t.feed_forward(v[0], FeedForward { first: (v[1], v[2]), second: (v[3], v[4]), act })
        }));
    }
    table.push(entry("checkpoint", &[&[3, 8], &[8, 8], &[8]], |t, v| {
        let (x, w, b) = (v[0], v[1], v[2]);
        let first = t.checkpoint(x, move |t, x| {
            let h = t.linear(x, w, Some(b), Act::Gelu)?;
            t.dropout(h, 0.3)
        })?;
        // A consumer beside it, and random numbers behind it.
        let second = t.checkpoint(first, move |t, h| t.linear(h, w, None, Act::Tanh))?;
        let both = t.add(first, second)?;
        t.dropout(both, 0.2)
    }));
    table.extend(heads::entries());
    table.extend(lstm::entries());
    table.extend(streams::entries());
    table.extend(text::entries());
    // Small inputs, small gradients: nothing may hide behind the tolerance.
    table.push(entry("mul small", &[&[3, 5], &[5]], |t, v| t.mul(v[0], v[1])).values(|v| v * 0.1));
    table.push(
        entry("exp negative", &[&[9]], |t, v| t.exp(v[0])).values(|v| v - 2.0).tolerance(5e-3),
    );
    table
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
    spaces.grow(values, end);
    spaces.grow(grads, end);
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
    let at = |memory: &mut HostMemory, values: &[Vec<f32>]| {
        for ((at, _), v) in graph.inputs.iter().zip(values) {
            memory.write(graph.values, *at, &bits(v));
        }
        interpret(recording, &step(), memory);
        loss_of(&memory.read(recording, graph.out))
    };
    let mut all = Vec::new();
    for (k, input) in inputs.iter().enumerate() {
        let mut moved = inputs.clone();
        let mut slope = |i: usize, step: f32| {
            moved[k][i] = input[i] + step;
            let up = at(&mut memory, &moved);
            moved[k][i] = input[i] - step;
            let down = at(&mut memory, &moved);
            moved[k][i] = input[i];
            // The distance as f32 has it.
            (up - down) / (f64::from(input[i] + step) - f64::from(input[i] - step))
        };
        let pairs: Vec<(f64, f64)> =
            (0..input.len()).map(|i| (slope(i, entry.step), slope(i, entry.step * 0.5))).collect();
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

/// What is wrong with an input's gradient, if anything.
fn compare(entry: &Entry, got: &[f32], want: &[Option<f64>]) -> Option<String> {
    let known = want.iter().flatten().count();
    if known * 4 < want.len() * 3 {
        return Some(format!("only {known} of {} differences are steady", want.len()));
    }
    let largest = want.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
    if largest == 0.0 {
        return Some("its gradient is zero: the entry tries nothing".into());
    }
    got.iter().zip(want).enumerate().find_map(|(i, (got, want))| {
        let (got, want) = (f64::from(*got), (*want)?);
        let off = (got - want).abs();
        (off.is_nan() || off > entry.tolerance * largest)
            .then(|| format!("[{i}] is {got:.6}, differences say {want:.6}"))
    })
}

/// The gradients of all inputs by the twins.
fn by_twins(entry: &Entry, wrapped: bool) -> Result<Vec<Vec<f32>>> {
    let mut graph = record(entry, wrapped)?;
    graph.tape.backward(&[graph.loss])?;
    let mut memory = HostMemory::new(&graph.spaces);
    for ((at, _), v) in graph.inputs.iter().zip(values(entry)) {
        memory.write(graph.values, *at, &bits(&v));
    }
    interpret(graph.tape.recording(), &step(), &mut memory);
    let grads = memory.space(graph.grads);
    Ok(graph.inputs.iter().map(|(at, len)| grads[*at..at + len].to_vec()).collect())
}

/// The gradients of all inputs by a device.
fn by_device(gpu: &Gpu, entry: &Entry, wrapped: bool) -> Result<Vec<Vec<f32>>> {
    let mut graph = record(entry, wrapped)?;
    graph.tape.backward(&[graph.loss])?;
    let (program, memory) = graph.tape.compile(gpu, &graph.spaces)?;
    for ((at, _), v) in graph.inputs.iter().zip(values(entry)) {
        memory.write(gpu, graph.values, *at, &bits(&v));
    }
    memory.write_step(gpu, &step());
    program.run(gpu, &memory)?;
    let grads = graph.inputs.iter();
    grads.map(|(at, len)| memory.read_f32(gpu, graph.grads, *at, *len)).collect()
}

#[test]
fn gradients_match_differences() {
    let only = std::env::var("OP").ok();
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    let mut failures = Vec::new();
    for entry in table().iter().filter(|e| only.as_ref().is_none_or(|o| e.name.contains(o))) {
        let mut check = || -> Result<()> {
            let want = differences(entry)?;
            for wrapped in [false, true].into_iter().filter(|w| !(*w && entry.parameters)) {
                let ways = [
                    ("twins", by_twins(entry, wrapped)?),
                    ("device", by_device(&gpu, entry, wrapped)?),
                ];
                for (way, got) in ways {
                    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                        if let Some(wrong) = compare(entry, got, want) {
                            let inner = if wrapped { ", intermediate" } else { "" };
                            failures
                                .push(format!("{} ({way}{inner}), input {k}: {wrong}", entry.name));
                        }
                    }
                }
            }
            Ok(())
        };
        if let Err(error) = check() {
            failures.push(format!("{}: {error}", entry.name));
        }
    }
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures.join("\n"));
}

/// Runs what `build` records on one input and reads its results.
fn run(
    gpu: &Gpu,
    shape: &[usize],
    values: &[f32],
    build: impl Fn(&mut Tape, Var) -> Result<Vec<Var>>,
) -> Result<Vec<Vec<f32>>> {
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let space = spaces.declare("x", values.len());
    let x = tape.input("x", shape, space, 0);
    let results = build(&mut tape, x)?;
    results.iter().for_each(|v| tape.keep(*v));
    let (program, memory) = tape.compile(gpu, &spaces)?;
    memory.write(gpu, space, 0, &bits(values));
    program.run(gpu, &memory)?;
    results.iter().map(|v| program.read(gpu, &memory, *v)).collect()
}

#[test]
fn values_by_hand() {
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    let build = |t: &mut Tape, x| {
        let targets = classes(t, &[0, 2])?;
        let row = t.constant("row", &[3], &[1.0, 2.0, 3.0])?;
        let column = t.constant("column", &[2, 1], &[10.0, 20.0])?;
        let sliced = t.slice(x, 1, 2)?;
        Ok(vec![
            t.sum(x)?,
            t.mean(x)?,
            t.sum_rows(x)?,
            t.sum_cols(x)?,
            t.concat(&[sliced, x])?,
            t.sub(x, row)?,
            t.mul(x, column)?,
            t.square(x)?,
            t.softmax(x)?,
            t.cross_entropy(x, targets)?,
        ])
    };
    let got = run(&gpu, &[2, 3], &[1.0, -2.0, 3.0, 0.0, 0.0, 0.0], build).unwrap();
    let e = [1.0_f32, -2.0, 3.0].map(f32::exp);
    let total: f32 = e.iter().sum();
    let third = 1.0 / 3.0;
    let want = [
        vec![2.0],
        vec![third],
        vec![1.0, -2.0, 3.0],
        vec![2.0, 0.0],
        vec![-2.0, 3.0, 1.0, -2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        vec![0.0, -4.0, 0.0, -1.0, -2.0, -3.0],
        vec![10.0, -20.0, 30.0, 0.0, 0.0, 0.0],
        vec![1.0, 4.0, 9.0, 0.0, 0.0, 0.0],
        vec![e[0] / total, e[1] / total, e[2] / total, third, third, third],
        vec![0.5 * ((total / e[0]).ln() + 3.0_f32.ln())],
    ];
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let close = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5);
        assert!(got.len() == want.len() && close, "result {i} is {got:?}, not {want:?}");
    }
}

#[test]
fn large_sums_take_two_stages() {
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    for (m, n) in [(1000_usize, 130_usize), (1537, 44), (70_001, 20)] {
        let values = random(3, m * n);
        let build = |t: &mut Tape, x| {
            let sums = vec![t.sum(x)?, t.sum_rows(x)?, t.sum_cols(x)?];
            assert_eq!(t.recording().calls.len(), 5, "{m}x{n}: two, two and one dispatch");
            Ok(sums)
        };
        let got = run(&gpu, &[m, n], &values, build).unwrap();
        let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let rows = wide.chunks(n).map(|r| r.iter().sum()).collect();
        let cols = (0..n).map(|c| wide.iter().skip(c).step_by(n).sum()).collect();
        let want: [Vec<f64>; 3] = [vec![wide.iter().sum()], cols, rows];
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(want) {
                assert!((f64::from(*g) - w).abs() < 2e-3, "{m}x{n}: {g} for {w}");
            }
        }
    }
}

#[test]
fn long_tensors_fold_their_grid() {
    // One more than 65,535 workgroups of 64 reach.
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    let values = random(4, 65_535 * 64 + 1);
    let build = |t: &mut Tape, x| Ok(vec![t.scale(x, 2.0)?]);
    let got = run(&gpu, &[values.len()], &values, build).unwrap();
    assert!(got[0].iter().zip(&values).all(|(g, v)| *g == 2.0 * v));
}

#[test]
fn wrong_shapes_are_named() {
    let table: [(&str, [&[usize]; 2], Build); 10] = [
        ("add", [&[2, 3], &[2]], Box::new(|t, v| t.add(v[0], v[1]))),
        ("sub", [&[2, 3], &[3, 2]], Box::new(|t, v| t.sub(v[0], v[1]))),
        ("mul", [&[3], &[2, 3]], Box::new(|t, v| t.mul(v[0], v[1]))),
        ("matmul", [&[2, 3], &[2, 3]], Box::new(|t, v| t.matmul(v[0], v[1]))),
        ("linear", [&[2, 3], &[3, 2]], Box::new(|t, v| t.linear(v[0], v[1], None, Act::Relu))),
        ("concat", [&[2, 3], &[3, 3]], Box::new(|t, v| t.concat(v))),
        ("concat", [&[6, 3], &[2, 3, 3]], Box::new(|t, v| t.concat(v))),
        ("slice", [&[2, 3], &[2, 3]], Box::new(|t, v| t.slice(v[0], 2, 2))),
        ("slice", [&[2, 3], &[2, 3]], Box::new(|t, v| t.slice(v[0], 1, 0))),
        ("cross_entropy", [&[2, 3], &[3]], Box::new(|t, v| t.cross_entropy(v[0], v[1]))),
    ];
    for (name, shapes, build) in &table {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let vars = shapes.map(|s| {
            let space = spaces.declare("x", s.iter().product());
            tape.input("x", s, space, 0)
        });
        let error = build(&mut tape, &vars).expect_err(name);
        let Error::Shape { op, detail } = &error else { panic!("{name}: {error}") };
        assert_eq!(op, name);
        assert!(shapes.iter().all(|s| detail.contains(&format!("{s:?}"))), "{error}");
        assert!(tape.is_empty(), "{name} recorded something");
    }
}

#[test]
fn probabilities_outside_zero_to_one_are_refused() {
    for p in [-0.1, 1.0, f32::NAN] {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let space = spaces.declare("x", 4);
        let x = tape.input("x", &[4], space, 0);
        assert!(tape.dropout(x, p).is_err(), "dropout of {p}");
        assert_eq!(tape.dropout(x, 0.0).unwrap(), x);
    }
}
