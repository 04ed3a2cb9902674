//! Weighted mean absolute error over several tasks at once.

use super::random;
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// The loss; see `shaders/weighted_l1.wgsl`.
pub static WEIGHTED_L1: Kernel = Kernel {
    name: "weighted_l1",
    source: include_str!("../../shaders/weighted_l1.wgsl"),
    bindings: &[
        Binding::read("PRED"),
        Binding::read("TARGET"),
        Binding::read("WEIGHT"),
        Binding::write("TERMS"),
        Binding::write("LOSS"),
    ],
    step: false,
    launch: |family, _, _| Launch::of([1, 1, 1]).with("WG", if family.tiled() { 64 } else { 1 }),
    twin: reference::forward,
    cases: || cases(false),
};

/// Its gradient; see `shaders/weighted_l1_grad.wgsl`.
pub static WEIGHTED_L1_GRAD: Kernel = Kernel {
    name: "weighted_l1_grad",
    source: include_str!("../../shaders/weighted_l1_grad.wgsl"),
    bindings: &[
        Binding::read("PRED"),
        Binding::read("TARGET"),
        Binding::read("WEIGHT"),
        Binding::read("G"),
        Binding::write("DPRED").adds(2),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1]) as usize, 64)),
    twin: reference::backward,
    cases: || cases(true),
};

/// A weighted L1 loss.
#[derive(Clone, Copy, Debug)]
pub struct WeightedL1 {
    /// `[1]`: the sum of the terms.
    pub loss: Var,
    /// `[tasks]`: the mean of each column. Has no gradient of its own.
    pub terms: Var,
}

impl Tape {
    /// `Σ_j mean_i weight[i, j] · |pred[i, j] − target[i, j]|` for `[n, tasks]` tensors. The
    /// gradient goes to `pred` alone.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn weighted_l1(&mut self, pred: Var, target: Var, weight: Var) -> Result<WeightedL1> {
        let shapes = [pred, target, weight].map(|v| self.rows_cols(v));
        if shapes.iter().any(|s| *s != shapes[0]) {
            let detail = format!("pred, target, weight are {shapes:?}: want one shape");
            return Err(Error::shape("weighted_l1", detail));
        }
        let (n, c) = shapes[0];
        let terms = self.output("l1.terms", &[c], &[]);
        let loss = self.output("l1.loss", &[1], &[pred]);
        let args = [pred, target, weight, terms, loss].map(Some);
        let words = vec![n as u32, c as u32];
        self.call(&WEIGHTED_L1, &args, words, Defines::new(), (n * c * 3) as u64);
        self.on_backward(&[loss], move |tape| {
            if let (Some(g), Some(dp)) = (tape.grad(loss), tape.sink(pred)) {
                let args = [pred, target, weight, g, dp.var].map(Some);
                let words = vec![n as u32, c as u32, dp.accumulate];
                tape.call(&WEIGHTED_L1_GRAD, &args, words, Defines::new(), (n * c * 4) as u64);
            }
            Ok(())
        });
        Ok(WeightedL1 { loss, terms })
    }
}

fn cases(backward: bool) -> Vec<Case> {
    [(1_usize, 1_usize), (16, 4), (65, 3), (500, 2)]
        .into_iter()
        .map(|(n, c)| {
            let f = |s, len| Some(CaseArg::F(random(s, len)));
            let mut args = vec![f(1, n * c), f(2, n * c), f(3, n * c)];
            let mut words = vec![n as u32, c as u32];
            if backward {
                args.extend([Some(CaseArg::F(vec![1.7])), f(5, n * c)]);
                words.push(u32::from(n > 16));
            } else {
                args.extend([f(4, c), f(5, 1)]);
            }
            Case::new(format!("{n}x{c}"), words, args)
        })
        .collect()
}

/// CPU twins.
pub mod reference {
    use super::super::sign_of;
    use crate::plan::Twin;

    /// Terms and their sum.
    pub fn forward(t: &mut Twin) {
        let (n, c) = (t.size(0), t.size(1));
        let (pred, target, weight) = (t.read(0), t.read(1), t.read(2));
        let mut loss = 0.0;
        for j in 0..c {
            let sum: f32 = (0..n)
                .map(|i| weight[i * c + j] * (pred[i * c + j] - target[i * c + j]).abs())
                .sum();
            t.write(3)[j] = sum / n as f32;
            loss += sum / n as f32;
        }
        t.write(4)[0] = loss;
    }

    /// Gradient of the predictions.
    pub fn backward(t: &mut Twin) {
        let (n, accumulate) = (t.size(0), t.size(2) != 0);
        let (pred, target, weight, g) = (t.read(0), t.read(1), t.read(2), t.read(3)[0]);
        for (at, d) in t.write(4).iter_mut().enumerate() {
            let difference = pred[at] - target[at];
            *d =
                g * weight[at] * sign_of(difference) / n as f32 + if accumulate { *d } else { 0.0 };
        }
    }
}
