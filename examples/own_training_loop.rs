//! A training loop of one's own: two groups under AdamW with a schedule each, two micro-batches to an
//! update, gradients clipped by their norm and read, a weight set by hand between steps.
//!
//! `cargo run --release --example own_training_loop`

use modalign::nn::{Group, Params, Schedule, Weights, linear, linear_specs};
use modalign::ops::optim::Clip;
use modalign::ops::{Act, random};
use modalign::plan::{Memory, Pool, Spaces, Step};
use modalign::{Gpu, Result, Tape};

const ROWS: usize = 32; // of a micro-batch
const MICRO_BATCHES: usize = 2; // to an update
const SCALE: f32 = 1.0 / MICRO_BATCHES as f32;
const INPUTS: usize = 8;
const HIDDEN: usize = 16;
const UPDATES: u64 = 60;

fn main() -> Result<()> {
    let gpu = Gpu::new()?;

    // Groups have names and settings of their own. The hidden layer warms up and cools down; the
    // output's rate is set by hand below.
    let groups = [
        Group::adam_w("hidden", 0.02).schedule(Schedule::cosine_with_warmup(10, UPDATES)),
        Group::adam_w("out", 0.05).weight_decay(0.0),
    ];
    let mut specs = linear_specs("hidden", (INPUTS, INPUTS, HIDDEN), true, "hidden");
    specs.extend(linear_specs("out", (HIDDEN, HIDDEN, 1), true, "out"));
    let mut spaces = Spaces::new();
    let inputs = spaces.declare("inputs", ROWS * INPUTS);
    let targets = spaces.declare("targets", ROWS);
    let params = Params::new(specs, &groups, &mut spaces, gpu.caps().max_binding, true)?;

    // A micro-batch, recorded once: forward, loss, backward. Gradients add up.
    let mut tape = Tape::new();
    let x = tape.input("x", &[ROWS, INPUTS], inputs, 0);
    let y = tape.input("y", &[ROWS, 1], targets, 0);
    let h = linear(&mut tape, &params, "hidden", x, Act::Tanh)?;
    let out = linear(&mut tape, &params, "out", h, Act::None)?;
    let off = tape.sub(out, y)?;
    let off = tape.square(off)?;
    let loss = tape.mean(off)?;
    tape.keep(loss);
    tape.backward(&[loss])?;

    // The update is a program of its own here, so that gradients can be looked at before it takes
    // them. At the end of the same tape it would need no submission of its own.
    let mut update = Tape::new();
    params.optimize(&mut update, Clip::norm(1.0))?;

    let memory = Memory::allocate(&gpu, &spaces)?;
    params.upload(&gpu, &memory, &params.initial(7))?;
    let mut pool = Pool::new();
    let micro_batch = tape.plan(gpu.caps())?.prepare(&gpu, &memory, &mut pool)?;
    let update = update.plan(gpu.caps())?.prepare(&gpu, &memory, &mut pool)?;

    // A model that is known to be lopsided at first can be told so: one weight, set by its name.
    params.set(&gpu, &memory, "out.bias", &[1], &[0.5])?;
    let weights = params.download(&gpu, &memory)?;
    assert_eq!(weights.get("out.bias").map(|(_, values)| values), Some(&[0.5][..]));

    let mut groups = params.groups();
    let (mut first, mut last) = (0.0, 0.0);
    for t in 0..UPDATES {
        let mut mean = 0.0;
        for micro in 0..MICRO_BATCHES {
            let step = t as u32 * MICRO_BATCHES as u32 + micro as u32;
            let (rows, wanted) = batch(u64::from(step));
            memory.write(&gpu, inputs, 0, bytemuck::cast_slice(&rows))?;
            memory.write(&gpu, targets, 0, bytemuck::cast_slice(&wanted))?;
            // Random numbers, as those of dropout, follow the step; the update takes the mean of
            // the gradients.
            memory.write_step(&gpu, &Step { step, grad_scale: SCALE, ..Step::default() })?;
            micro_batch.replay(&gpu, &memory, false, &[], None)?;
            mean += SCALE * micro_batch.read(&gpu, &memory, loss)?[0];
        }
        // Whatever the host computes may be a rate.
        groups.set_lr("out", if t < 40 { 0.05 } else { 0.01 })?;
        groups.advance();
        if t % 10 == 0 {
            let norm = norm(&params.gradients(&gpu, &memory)?);
            let rate = groups.get("hidden")?.rate(groups.steps("hidden")?);
            println!("update {t:>2}  rate {rate:.4}  norm {norm:.3}  loss {mean:.4}");
            assert!(norm > 0.0 && norm.is_finite());
        }
        groups.write(&gpu, &memory)?;
        update.replay(&gpu, &memory, true, &[], None)?;
        first = if t == 0 { mean } else { first };
        last = mean;
    }
    println!("loss {first:.4} at first, {last:.4} in the end");
    assert!(last < 0.1 * first, "it has learnt");
    Ok(())
}

/// Inputs, and a function of them to be learnt.
fn batch(seed: u64) -> (Vec<f32>, Vec<f32>) {
    let rows = random(seed + 1, ROWS * INPUTS);
    let wanted = rows.chunks(INPUTS).map(|x| (2.0 * x[0]).sin() - 0.7 * x[1] + 0.5).collect();
    (rows, wanted)
}

/// The norm of all gradients, as the clip sees it.
fn norm(gradients: &Weights) -> f32 {
    let values = gradients.iter().flat_map(|(_, _, values)| values);
    SCALE * values.map(|g| g * g).sum::<f32>().sqrt()
}
