//! The covariance term in a model that is not this crate's: two linear encoders look at the same
//! hidden factors through different views, each solves the task with a head of its own, and
//! `tape.align` draws the statistics of their features together. The whole step, optimiser
//! included, is one submission.
//!
//! ```text
//! cargo run --release --example align_custom_model
//! ```

use modalign::nn::Group;
use modalign::ops::align::Pair;
use modalign::ops::optim::{ArenaVars, Clip, Moments, Row as Settings};
use modalign::ops::{Act, random};
use modalign::plan::{Spaces, Stage, Step};
use modalign::{Gpu, Result, Tape, Var};

const ROWS: usize = 64; // samples, one batch
const FACTORS: usize = 4; // hidden, seen by both views
const VIEWS: [usize; 2] = [12, 20]; // widths of the views
const D: usize = 8; // width of both encoders' features: the term needs them equal
const WORDS: usize = 1024; // parameters, each padded to a multiple of 64

fn main() -> Result<()> {
    let gpu = Gpu::new()?;
    println!("{}, {} kernels\n", gpu.caps().name, gpu.caps().family);
    let (off, on) = (train(&gpu, 0.0)?, train(&gpu, 30.0)?);
    println!("        alignment off                  alignment on");
    println!("step    task      term   |C1|  |C2|    task      term   |C1|  |C2|");
    for (a, b) in off.iter().zip(&on) {
        print!("{:>4}", a.step);
        for r in [a, b] {
            print!("  {:>6.3}  {:>8.5}  {:>5.2} {:>5.2}", r.task, r.term, r.norms[0], r.norms[1]);
        }
        println!();
    }
    Ok(())
}

/// What is read back every 20 steps.
struct Row {
    step: u32,
    task: f32,
    term: f32,
    norms: Vec<f32>,
}

fn train(gpu: &Gpu, weight: f32) -> Result<Vec<Row>> {
    let mut tape = Tape::new();
    let mut spaces = Spaces::new();
    let [value, grad, m, v] = ["value", "grad", "m", "v"].map(|s| spaces.declare(s, WORDS));
    let table = spaces.declare("groups", Settings::WORDS);

    // Parameters lie one behind the other in a flat arena, and so do their gradients.
    let mut used = 0;
    let mut parameter = |tape: &mut Tape, name: &str, n: usize, k: usize| {
        let at = used;
        used += (n * k).next_multiple_of(64);
        tape.parameter(name, &[n, k], (value, at), Some((grad, at)))
    };

    // The model: one encoder and one head for each view. The loss of the heads is the task's.
    let factors = random(1, ROWS * FACTORS);
    let target: Vec<f32> = factors.chunks(FACTORS).map(|f| f[0] - f[1]).collect();
    let target = tape.constant("target", &[ROWS, 1], &target)?;
    let each = tape.constant("each", &[ROWS, 1], &[1.0; ROWS])?;
    let (mut features, mut losses) = (Vec::new(), Vec::new());
    for (i, width) in VIEWS.into_iter().enumerate() {
        let x = tape.constant("view", &[ROWS, width], &view(&factors, i as u64, width))?;
        let w = parameter(&mut tape, "encoder", D, width);
        let head = parameter(&mut tape, "head", 1, D);
        let feature = tape.linear(x, w, None, Act::None)?;
        let answer = tape.linear(feature, head, None, Act::None)?;
        features.push(feature);
        losses.push(tape.weighted_l1(answer, target, each)?.loss);
    }

    // The term. A weight of 0 only measures it; a negative one would hold the features apart,
    // up to the margin.
    let align = tape.align(&features, &[Pair { a: 0, b: 1, weight }], 1.0)?;
    let read: Vec<Var> = losses.iter().copied().chain([align.terms, align.norms]).collect();
    read.iter().for_each(|v| tape.keep(*v));
    losses.push(align.loss);
    tape.backward(&losses)?;

    let [value_all, grad, m, v] = [value, grad, m, v].map(|s| tape.input("arena", &[WORDS], s, 0));
    let moments = Moments::Adam { m, v };
    let arena = ArenaVars { value: value_all, grad, moments, runs: vec![(WORDS, 0)] };
    let groups = tape.input("groups", &[1, Settings::WORDS], table, 0);
    tape.in_stage(Stage::Update, |tape| tape.optimize(&[arena], groups, Clip::default()))?;

    let (program, memory) = tape.compile(gpu, &spaces)?;
    let start: Vec<u32> = random(9, WORDS).iter().map(|x| (0.3 * x).to_bits()).collect();
    memory.write(gpu, value, 0, &start)?;
    let (mut rows, group) = (Vec::new(), Group::adam("all", 0.01));
    for t in 1..=201 {
        memory.write_step(gpu, &Step { step: t, ..Step::default() })?;
        memory.write(gpu, table, 0, bytemuck::cast_slice(&[group.row(t)]))?;
        program.run(gpu, &memory)?;
        if t % 20 == 1 {
            let get = |i: usize| program.read(gpu, &memory, read[i]);
            let task = get(0)?[0] + get(1)?[0];
            rows.push(Row { step: t - 1, task, term: get(2)?[0], norms: get(3)? });
        }
    }
    Ok(rows)
}

/// The factors mixed at random into `width` columns that differ in scale, and some noise.
fn view(factors: &[f32], seed: u64, width: usize) -> Vec<f32> {
    let (mix, noise) = (random(20 + seed, FACTORS * width), random(30 + seed, ROWS * width));
    let at = |i: usize| {
        let (row, col) = (i / width, i % width);
        let seen: f32 =
            (0..FACTORS).map(|k| factors[row * FACTORS + k] * mix[k * width + col]).sum();
        (1.0 + seed as f32) * seen + 0.1 * noise[i]
    };
    (0..ROWS * width).map(at).collect()
}
