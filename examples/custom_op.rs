//! An operation that this crate does not have, written outside of it: SwiGLU's gate (Shazeer,
//! arXiv:2002.05202), `y = a silu(b)` with `silu(b) = b / (1 + exp(-b))`. Its two kernels, their CPU
//! twins and its gradient go through the tests that this crate's own operations go through: twins in
//! every family of kernels, bounds guarded, and finite differences in the middle of a graph. Then it
//! trains, and is timed.

use modalign::gpu::{Defines, Family};
use modalign::ops::{self, Act, random};
use modalign::plan::{
    Binding, Case, CaseArg, Clock, Kernel, Launch, Memory, Pool, Spaces, Step, Twin, grid,
};
use modalign::selftest::{Outcome, gradients, kernels};
use modalign::tape::Custom;
use modalign::{Error, Gpu, Result, Tape, Var};
use std::time::Duration;

/// One invocation for each element, 64 to a workgroup; `P` holds the length, then what is added to.
static GATE: Kernel = Kernel {
    name: "gate",
    source: "
struct Params { n: u32 }
@group(0) @binding(0) var<storage, read> A: array<f32>;
@group(0) @binding(1) var<storage, read> B: array<f32>;
@group(0) @binding(2) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
    if (i >= P.n) { return; }
    Y[i] = A[i] * B[i] / (1.0 + exp(-B[i]));
}",
    bindings: &[Binding::read("A"), Binding::read("B"), Binding::write("Y")],
    step: false,
    launch: one_each,
    twin: |t: &mut Twin| {
        let (a, b) = (t.read(0), t.read(1));
        for (i, y) in t.write(2).iter_mut().enumerate() {
            *y = a[i] * silu(b[i]);
        }
    },
    cases: || {
        let sizes = [1, 63, 64, 1000].into_iter();
        sizes.map(|n| Case::new(format!("{n}"), vec![n as u32], tensors(n, 3))).collect()
    },
};

/// `dA (+)= dY silu(B)`, `dB (+)= dY A silu'(B)` with `silu'(b) = s + silu(b) (1 - s)`, s the logistic
/// function of b.
static GATE_BACKWARD: Kernel = Kernel {
    name: "gate_backward",
    source: "
struct Params { n: u32, add_a: u32, add_b: u32 }
@group(0) @binding(0) var<storage, read> DY: array<f32>;
@group(0) @binding(1) var<storage, read> A: array<f32>;
@group(0) @binding(2) var<storage, read> B: array<f32>;
#if DA
@group(0) @binding(3) var<storage, read_write> DA: array<f32>;
#endif
#if DB
@group(0) @binding(4) var<storage, read_write> DB: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
    if (i >= P.n) { return; }
    let s = 1.0 / (1.0 + exp(-B[i]));
#if DA
    DA[i] = DY[i] * B[i] * s + select(0.0, DA[i], P.add_a != 0u);
#endif
#if DB
    DB[i] = DY[i] * A[i] * (s + B[i] * s * (1.0 - s)) + select(0.0, DB[i], P.add_b != 0u);
#endif
}",
    bindings: &[
        Binding::read("DY"),
        Binding::read("A"),
        Binding::read("B"),
        Binding::write("DA").or_none().adds(1),
        Binding::write("DB").or_none().adds(2),
    ],
    step: false,
    launch: one_each,
    twin: |t: &mut Twin| {
        let (dy, a, b) = (t.read(0), t.read(1), t.read(2));
        // What is not added to may hold anything, NaN also: it is not multiplied by zero.
        let (add_a, add_b) = (t.size(1) == 1, t.size(2) == 1);
        for (i, da) in t.write(3).iter_mut().enumerate() {
            let before = if add_a { *da } else { 0.0 };
            *da = dy[i] * silu(b[i]) + before;
        }
        for (i, db) in t.write(4).iter_mut().enumerate() {
            let before = if add_b { *db } else { 0.0 };
            let s = 1.0 / (1.0 + (-b[i]).exp());
            *db = dy[i] * a[i] * (s + silu(b[i]) * (1.0 - s)) + before;
        }
    },
    cases: || {
        let case = |n: usize, add: [u32; 2], without: Option<usize>| {
            let mut args = tensors(n, 5);
            if let Some(i) = without {
                args[i] = None;
            }
            Case::new(format!("{n}, adding {add:?}"), vec![n as u32, add[0], add[1]], args)
        };
        vec![
            case(1, [0, 0], None),
            case(65, [1, 0], None),
            case(1000, [0, 1], Some(3)),
            case(130, [1, 1], Some(4)),
        ]
    },
};

fn silu(b: f32) -> f32 {
    b / (1.0 + (-b).exp())
}

fn one_each(_: Family, words: &[u32], _: &Defines) -> Launch {
    Launch::of(grid(words[0] as usize, 64))
}

/// Random values for so many bindings of n elements.
fn tensors(n: usize, bindings: u64) -> Vec<Option<CaseArg>> {
    (1..=bindings).map(|seed| Some(CaseArg::F(random(seed, n)))).collect()
}

/// Records `a silu(b)`, element by element, and how its gradient is made.
fn gate(tape: &mut Tape, a: Var, b: Var) -> Result<Var> {
    if tape.shape(a) != tape.shape(b) {
        let detail = format!("{:?} and {:?} differ", tape.shape(a), tape.shape(b));
        return Err(Error::shape("gate", detail));
    }
    let (shape, n) = (tape.shape(a).to_vec(), tape.len(a));
    let y = tape.output("gate", &shape, &[a, b]);
    let args = [Some(a), Some(b), Some(y)];
    tape.custom(Custom::new(&GATE, &args).words([n as u32]).flops(4 * n as u64))?;
    tape.on_backward(&[y], move |tape| {
        let Some(dy) = tape.grad(y) else { return Ok(()) };
        // One kernel must not write one gradient twice: a and b may be the same tensor.
        let halves =
            if tape.same(a, b) { vec![[true, false], [false, true]] } else { vec![[true; 2]] };
        for [first, second] in halves {
            let da = if first { tape.sink(a) } else { None };
            let db = if second { tape.sink(b) } else { None };
            if da.is_none() && db.is_none() {
                continue;
            }
            let added = [da, db].map(|sink| sink.map_or(0, |s| s.accumulate));
            let args = [Some(dy), Some(a), Some(b), da.map(|s| s.var), db.map(|s| s.var)];
            let words = [n as u32, added[0], added[1]];
            tape.custom(Custom::new(&GATE_BACKWARD, &args).words(words).flops(9 * n as u64))?;
        }
        Ok(())
    });
    Ok(y)
}

/// Says what came of a check.
fn told(what: &str, outcome: Outcome) {
    let wrong: Vec<String> =
        outcome.failures.iter().map(|f| format!("{}: {}", f.at, f.detail)).collect();
    assert!(wrong.is_empty(), "{what}: {}", wrong.join("\n"));
    assert!(outcome.cases > 0, "{what} tried nothing");
    println!("{what:<54} {:>3} comparisons, at most {:.1e} off", outcome.cases, outcome.largest);
}

fn main() -> Result<()> {
    // As this crate's kernels are tested: against the twins, in every family that runs here.
    for device in kernels::devices(None, false)? {
        for kernel in [&GATE, &GATE_BACKWARD] {
            let cases = (kernel.cases)();
            let twins: Vec<_> = cases.iter().map(|case| ops::run_twin(kernel, case)).collect();
            let outcome = kernels::check(&device, kernel, &cases, |i| &twins[i]);
            told(&format!("{} on {}", kernel.name, device.name), outcome);
        }
    }
    // As its operations are: against finite differences, in the middle of a graph.
    let gpu = Gpu::new()?;
    let entry = gradients::entry("gate", &[&[3, 5], &[3, 5]], |t, v| gate(t, v[0], v[1]));
    told("gradients of a silu(b)", gradients::check(&gpu, &entry));
    let entry = gradients::entry("gate of itself", &[&[4, 4]], |t, v| gate(t, v[0], v[0]));
    told("gradients of a silu(a)", gradients::check(&gpu, &entry));

    // In a model: two layers, the gate between them, one plan, its gradient.
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let (value, grad) = (spaces.declare("w", 3 * 1024), spaces.declare("d.w", 3 * 1024));
    let x = tape.constant("x", &[16, 8], &random(1, 128))?;
    let weight = |tape: &mut Tape, i: usize, shape: &[usize]| {
        tape.parameter(&format!("w{i}"), shape, (value, 1024 * i), Some((grad, 1024 * i)))
    };
    let [up, side, down] =
        [(0, [32, 8]), (1, [32, 8]), (2, [4, 32])].map(|(i, s)| weight(&mut tape, i, &s));
    let a = tape.linear(x, up, None, Act::None)?;
    let b = tape.linear(x, side, None, Act::None)?;
    let h = gate(&mut tape, a, b)?;
    let y = tape.linear(h, down, None, Act::None)?;
    let square = tape.square(y)?;
    let loss = tape.mean(square)?;
    tape.backward(&[loss])?;
    tape.keep(loss);
    let memory = Memory::allocate(&gpu, &spaces)?;
    memory.write(&gpu, value, 0, bytemuck::cast_slice(&random(2, 3 * 1024)))?;
    memory.write_step(&gpu, &Step::default())?;
    let program = tape.plan(gpu.caps())?.prepare(&gpu, &memory, &mut Pool::new())?;
    program.run(&gpu, &memory)?;
    let slope = memory.read_f32(&gpu, grad, 0, 256)?;
    assert!(slope.iter().any(|g| *g != 0.0), "the gradient arrives below the gate");
    println!("loss {:.4}; {}", program.read(&gpu, &memory, loss)?[0], program.plan());

    // And timed, as `modalign bench` times this crate's.
    let dispatches = program.plan().dispatches().iter();
    let at = dispatches.enumerate().find(|(_, d)| d.kernel.name == "gate").map(|(i, _)| i);
    let clock = Clock::new(&gpu)?;
    let which: Vec<usize> = at.into_iter().collect();
    let times = modalign::plan::Program::time(&[&program], &gpu, &clock, &which, Duration::ZERO)?;
    let best = times[0].iter().map(|t| t.device).min().unwrap_or_default();
    println!("the gate takes {best:?} by {}", clock.name());
    Ok(())
}
