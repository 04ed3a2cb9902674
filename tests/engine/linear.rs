//! Layers whose inner size is long enough to be split, layers that are frozen in part, and several
//! at once.

use modalign::ops::Act;
use modalign::plan::{Spaces, pack_halves, unpack_halves};
use modalign::{Gpu, GpuOptions, Tape};

fn gpu() -> Gpu {
    Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter")
}

fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin() * 0.1).collect()
}

#[test]
fn a_long_sum_keeps_its_bias_and_activation() {
    let gpu = gpu();
    for (k, act) in [(2048, Act::Relu), (4100, Act::Tanh), (2048, Act::None)] {
        let (m, n) = (3, 5);
        let (x, w, b) = (wave(m * k, 0.37), wave(n * k, 0.11), [0.5, -0.5, 0.25, 1.0, -1.0]);
        let mut tape = Tape::new();
        let xv = tape.constant("x", &[m, k], &x).unwrap();
        let wv = tape.constant("w", &[n, k], &w).unwrap();
        let bv = tape.constant("b", &[n], &b).unwrap();
        let y = tape.linear(xv, wv, Some(bv), act).unwrap();
        tape.keep(y);
        let (program, memory) = tape.compile(&gpu, &Spaces::new()).unwrap();
        program.run(&gpu, &memory).unwrap();
        let got = program.read(&gpu, &memory, y).unwrap();
        for i in 0..m {
            for j in 0..n {
                let dot: f64 =
                    (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l])).sum();
                let want = act.apply((dot + f64::from(b[j])) as f32);
                let off = (got[i * n + j] - want).abs();
                assert!(off < 1e-4, "{act:?} k {k} [{i},{j}]: {} for {want}", got[i * n + j]);
            }
        }
    }
}

/// A weight by halves: the layer and the gradient through it are those of the rounded values, in odd
/// sizes too, and what cannot read halves is refused.
#[test]
fn a_weight_by_halves_is_a_layer() {
    let gpu = gpu();
    for (m, n, k) in [(4, 8, 12), (3, 5, 7)] {
        let rounded = unpack_halves(&pack_halves(&wave(n * k, 0.7)));
        let run = |half: bool| {
            let mut spaces = Spaces::new();
            let space = spaces.declare("w", n * k);
            let mut tape = Tape::new();
            let x = tape.constant("x", &[m, k], &wave(m * k, 0.3)).unwrap();
            tape.watch(x);
            let w = match half {
                true => tape.half_parameter("w", &[n, k], (space, 0)),
                false => tape.constant("w", &[n, k], &rounded[..n * k]).unwrap(),
            };
            let y = tape.linear(x, w, None, Act::Tanh).unwrap();
            let loss = tape.sum(y).unwrap();
            tape.backward(&[loss]).unwrap();
            let dx = tape.grad(x).unwrap();
            [y, dx].iter().for_each(|v| tape.keep(*v));
            let (program, memory) = tape.compile(&gpu, &spaces).unwrap();
            memory.write(&gpu, space, 0, &pack_halves(&rounded[..n * k])).unwrap();
            program.run(&gpu, &memory).unwrap();
            if half {
                assert_eq!(program.read(&gpu, &memory, w).unwrap(), &rounded[..n * k]);
            }
            [y, dx].map(|v| program.read(&gpu, &memory, v).unwrap())
        };
        assert_eq!(run(true), run(false), "{m} {n} {k}");
    }

    let mut spaces = Spaces::new();
    let mut tape = Tape::new();
    let w = tape.half_parameter("w", &[8, 8], (spaces.declare("w", 64), 0));
    tape.square(w).unwrap();
    let error = tape.compile(&gpu, &spaces).err().expect("an error").to_string();
    assert!(error.contains("'w' is stored by halves"), "{error}");
}

#[test]
fn the_bias_of_a_frozen_weight_has_its_gradient() {
    let gpu = gpu();
    let (m, n, k) = (4, 3, 8);
    let mut spaces = Spaces::new();
    let (value, grad) = (spaces.declare("value", 64), spaces.declare("grad", 64));
    let mut tape = Tape::new();
    let x = tape.constant("x", &[m, k], &wave(m * k, 0.3)).unwrap();
    let w = tape.constant("w", &[n, k], &wave(n * k, 0.7)).unwrap();
    let b = tape.parameter("b", &[n], (value, 0), Some((grad, 0)));
    let y = tape.linear(x, w, Some(b), Act::None).unwrap();
    let loss = tape.sum(y).unwrap();
    tape.backward(&[loss]).unwrap();
    let (program, memory) = tape.compile(&gpu, &spaces).unwrap();
    program.run(&gpu, &memory).unwrap();
    assert_eq!(memory.read_f32(&gpu, grad, 0, n).unwrap(), vec![m as f32; n]);
}

/// Three inputs, the first without a gradient, by weights that lie in one arena, the second frozen;
/// what was recorded for them, and the loss with all gradients.
fn projected(gpu: &Gpu, apart: bool) -> (Vec<&'static str>, Vec<f32>) {
    let (n, d, widths) = (5, 4, [8, 4, 12]);
    let mut spaces = Spaces::new();
    let (value, grad) = (spaces.declare("value", 320), spaces.declare("grad", 320));
    let mut tape = Tape::new();
    let mut inputs = Vec::new();
    for (f, k) in widths.into_iter().enumerate() {
        let (w_at, x_at) = (64 * (2 - f), 192 + 64 * (f.max(1) - 1));
        let w = tape.parameter("w", &[d, k], (value, w_at), (f != 1).then_some((grad, w_at)));
        let x = match f {
            0 => tape.constant("x", &[n, k], &wave(n * k, 0.3)).unwrap(),
            _ => tape.parameter("x", &[n, k], (value, x_at), Some((grad, x_at))),
        };
        inputs.push((x, w));
    }
    let all = if apart {
        let ys: Vec<_> =
            inputs.iter().map(|(x, w)| tape.linear(*x, *w, None, Act::None).unwrap()).collect();
        ys.into_iter().map(|y| tape.reshape(y, &[1, n * d]).unwrap()).collect()
    } else {
        vec![tape.project(&inputs).unwrap()]
    };
    let losses: Vec<_> = all
        .into_iter()
        .map(|y| {
            let squares = tape.square(y).unwrap();
            let loss = tape.sum(squares).unwrap();
            tape.keep(loss);
            loss
        })
        .collect();
    tape.backward(&losses).unwrap();
    let calls = tape.recording().calls().iter().map(|c| c.kernel.name);
    let calls = calls.filter(|n| n.starts_with("project") || *n == "matmul").collect();
    let (program, memory) = tape.compile(gpu, &spaces).unwrap();
    let start: Vec<u32> = wave(320, 0.21).iter().map(|v| v.to_bits()).collect();
    memory.write(gpu, value, 0, &start).unwrap();
    program.run(gpu, &memory).unwrap();
    let read = |loss| program.read(gpu, &memory, loss).unwrap()[0];
    let mut out = vec![losses.into_iter().map(read).sum()];
    out.extend(memory.read_f32(gpu, grad, 0, 320).unwrap());
    (calls, out)
}

#[test]
fn projections_of_parameters_are_one_dispatch() {
    let gpu = gpu();
    let (calls, got) = projected(&gpu, false);
    let (apart, want) = projected(&gpu, true);
    assert_eq!(calls, ["project", "project_dw", "project_dx"]);
    assert_eq!(apart.len(), 3 + 2 + 2);
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() < 1e-6, "{i}: {g}, apart {w}");
    }
    assert!(want[0] > 1e-3 && want[1..].iter().filter(|g| **g != 0.0).count() > 100);
}
