//! A model of one's own on the tape: two classes of points on interleaved spirals, a small MLP,
//! cross-entropy, Adam. Every step is one submit; the loss is read twice.
//!
//! `cargo run --release --example custom_model`

use modalign::nn::{Group, ParamSpec, Params, linear, linear_specs};
use modalign::ops::Act;
use modalign::ops::optim::Clip;
use modalign::plan::{Memory, Pool, Spaces, Step};
use modalign::{Gpu, Result, Tape};

const POINTS: usize = 128;

/// Points `[POINTS, 4]` (two coordinates, padded to four) and their classes.
fn spirals() -> (Vec<f32>, Vec<u32>) {
    let (mut points, mut classes) = (Vec::new(), Vec::new());
    for i in 0..POINTS {
        let class = i % 2;
        let t = i as f32 / POINTS as f32 * 6.0 + 0.3;
        let angle = t + class as f32 * std::f32::consts::PI;
        points.extend([t * angle.cos() / 6.0, t * angle.sin() / 6.0, 0.0, 0.0]);
        classes.push(class as u32);
    }
    (points, classes)
}

fn main() -> Result<()> {
    let gpu = Gpu::new()?;
    let mut spaces = Spaces::new();
    let points = spaces.declare("points", POINTS * 4);
    let classes = spaces.declare("classes", POINTS);
    let specs: Vec<ParamSpec> = [("hidden_1", 4, 32), ("hidden_2", 32, 32), ("out", 32, 2)]
        .into_iter()
        .flat_map(|(name, inputs, outputs)| {
            linear_specs(name, (inputs, inputs, outputs), true, "all")
        })
        .collect();
    let groups = [Group::adam("all", 1e-2)];
    let params = Params::new(specs, &groups, &mut spaces, gpu.caps().max_binding, true)?;

    // Recorded once: forward, loss, backward, optimiser.
    let mut tape = Tape::new();
    let x = tape.input("points", &[POINTS, 4], points, 0);
    let target = tape.input("classes", &[POINTS], classes, 0);
    let h = linear(&mut tape, &params, "hidden_1", x, Act::Tanh)?;
    let h = linear(&mut tape, &params, "hidden_2", h, Act::Tanh)?;
    let logits = linear(&mut tape, &params, "out", h, Act::None)?;
    let loss = tape.cross_entropy(logits, target)?;
    tape.keep(loss);
    tape.backward(&[loss])?;
    params.optimize(&mut tape, Clip::default())?;

    let memory = Memory::allocate(&gpu, &spaces)?;
    let (values, targets) = spirals();
    memory.write(&gpu, points, 0, bytemuck::cast_slice(&values))?;
    memory.write(&gpu, classes, 0, &targets)?;
    params.upload(&gpu, &memory, &params.initial(7))?;
    let program = tape.plan(gpu.caps())?.prepare(&gpu, &memory, &mut Pool::new())?;
    println!("{}", program.plan());

    // Replayed every step: only the settings of the group change.
    let mut groups = params.groups();
    memory.write_step(&gpu, &Step::default())?;
    for t in 1..=400 {
        groups.advance();
        groups.write(&gpu, &memory)?;
        program.replay(&gpu, &memory, true, &[], None)?;
        if t == 1 || t == 400 {
            println!("step {t:>3}  cross-entropy {:.4}", program.read(&gpu, &memory, loss)?[0]);
        }
    }
    Ok(())
}
