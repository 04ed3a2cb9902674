//! Layers whose inner size is long enough to be split, and layers that are frozen in part.

use modalign::ops::Act;
use modalign::plan::Spaces;
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
