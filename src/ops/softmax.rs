//! Softmax over the last axis, and the cross-entropy of classes.

use super::reduce::{self, Sum, row_launch};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// Softmax of each row; see `shaders/softmax.wgsl`.
pub static SOFTMAX: Kernel = Kernel {
    name: "softmax",
    source: include_str!("../../shaders/softmax.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y")],
    step: false,
    launch,
    twin: reference::softmax,
    cases: || cases::softmax(false),
};

/// Its gradient; see `shaders/softmax_backward.wgsl`.
pub static SOFTMAX_BACKWARD: Kernel = Kernel {
    name: "softmax_backward",
    source: include_str!("../../shaders/softmax_backward.wgsl"),
    bindings: &[Binding::read("DY"), Binding::read("Y"), Binding::write("DX").adds(2)],
    step: false,
    launch,
    twin: reference::softmax_backward,
    cases: || cases::softmax(true),
};

/// The cross-entropy of each row; see `shaders/cross_entropy.wgsl`.
pub static CROSS_ENTROPY: Kernel = Kernel {
    name: "cross_entropy",
    source: include_str!("../../shaders/cross_entropy.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("TARGET"),
        Binding::write("LOSS"),
        Binding::write("LSE"),
    ],
    step: false,
    launch: |family, words, _| row_launch(family, words[0] as usize, words[1] as usize, false),
    twin: reference::cross_entropy,
    cases: || cases::cross_entropy(false),
};

/// The gradient of their mean; see `shaders/cross_entropy_backward.wgsl`.
pub static CROSS_ENTROPY_BACKWARD: Kernel = Kernel {
    name: "cross_entropy_backward",
    source: include_str!("../../shaders/cross_entropy_backward.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("TARGET"),
        Binding::read("LSE"),
        Binding::read("DLOSS"),
        Binding::write("DX").adds(2),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1]) as usize, 64)),
    twin: reference::cross_entropy_backward,
    cases: || cases::cross_entropy(true),
};

fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let (rows, cols) = (words[0] as usize, words[1] as usize);
    row_launch(family, rows, cols, cols % 4 == 0)
}

impl Tape {
    /// Softmax over the last axis.
    ///
    /// # Errors
    /// A tensor without elements.
    pub fn softmax(&mut self, x: Var) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let shape = self.shape(x).to_vec();
        if rows * cols == 0 {
            return Err(Error::shape("softmax", format!("{shape:?} has no element")));
        }
        let y = self.output("softmax", &shape, &[x]);
        let flops = 6 * (rows * cols) as u64;
        let words = sizes(&[rows, cols]);
        self.call(&SOFTMAX, &[Some(x), Some(y)], words, Defines::new(), flops);
        self.softmax_gradient(x, y);
        Ok(y)
    }

    /// Records the gradient of a `y` that is a softmax of `x`, of all of a row or of a part of it.
    pub(super) fn softmax_gradient(&mut self, x: Var, y: Var) {
        let (rows, cols) = self.rows_cols(y);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let words = sizes(&[rows, cols, dx.accumulate as usize]);
                let args = [Some(dy), Some(y), Some(dx.var)];
                let flops = 6 * (rows * cols) as u64;
                tape.call(&SOFTMAX_BACKWARD, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
    }

    /// The mean over rows of `−log softmax(logits)[target]`, `[1]`; `logits` are `[m, n]`,
    /// `targets` `[m]` classes as unsigned integers.
    ///
    /// # Errors
    /// As many targets as rows are wanted.
    pub fn cross_entropy(&mut self, logits: Var, targets: Var) -> Result<Var> {
        let (rows, cols) = self.rows_cols(logits);
        if self.len(targets) != rows || rows * cols == 0 {
            let (x, t) = (self.shape(logits), self.shape(targets));
            let detail = format!("logits {x:?}, targets {t:?}: want [m, n] and [m]");
            return Err(Error::shape("cross_entropy", detail));
        }
        let losses = self.output("losses", &[rows], &[]);
        let lse = self.output("lse", &[rows], &[]);
        let y = self.output("cross_entropy", &[1], &[logits]);
        let flops = 4 * (rows * cols) as u64;
        let args = [Some(logits), Some(targets), Some(losses), Some(lse)];
        self.call(&CROSS_ENTROPY, &args, sizes(&[rows, cols]), Defines::new(), flops);
        let scale = 1.0 / rows as f32;
        let out = Sink { var: y, accumulate: 0 };
        reduce::all(self, Sum { x: losses, times: None, scale, out }, rows);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(logits)) {
                let mut words = sizes(&[rows, cols, dx.accumulate as usize]);
                words.push(scale.to_bits());
                let args = [Some(logits), Some(targets), Some(lse), Some(dy), Some(dx.var)];
                tape.call(&CROSS_ENTROPY_BACKWARD, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(y)
    }
}

mod cases {
    use super::*;

    const SHAPES: [(usize, usize); 8] =
        [(1, 1), (3, 5), (65, 3), (7, 16), (15, 17), (9, 68), (4, 1028), (130, 33)];

    /// Wider apart than [-1, 1): some exponents reach the clamp.
    fn wide(seed: u64, len: usize) -> Option<CaseArg> {
        let values = super::super::random(seed, len);
        Some(CaseArg::F(values.iter().map(|v| v * v * v * 50.0).collect()))
    }

    pub(super) fn softmax(backward: bool) -> Vec<Case> {
        SHAPES
            .into_iter()
            .enumerate()
            .map(|(i, (m, n))| {
                let (args, words) = if backward {
                    let args = vec![arg(1, m * n), arg(2, m * n), arg(3, m * n)];
                    (args, sizes(&[m, n, i % 2]))
                } else {
                    (vec![wide(1, m * n), arg(2, m * n)], sizes(&[m, n]))
                };
                // Sums of a thousand products in another order.
                let case = Case::new(format!("{m}x{n}"), words, args).within(2e-5);
                case.flops(6 * (m * n) as u64)
            })
            .collect()
    }

    pub(super) fn cross_entropy(backward: bool) -> Vec<Case> {
        SHAPES
            .into_iter()
            .enumerate()
            .map(|(i, (m, n))| {
                // One class past the last.
                let targets = (0..m).map(|r| ((r * 7 + i) % (n + 1)) as u32).collect();
                let targets = Some(CaseArg::U(targets));
                let (args, words) = if backward {
                    let mut words = sizes(&[m, n, i % 2]);
                    words.push(0.5_f32.to_bits());
                    let args = vec![arg(1, m * n), targets, arg(2, m), arg(3, 1), arg(4, m * n)];
                    (args, words)
                } else {
                    (vec![wide(1, m * n), targets, arg(2, m), arg(3, m)], sizes(&[m, n]))
                };
                let case = Case::new(format!("{m}x{n}"), words, args).within(2e-5);
                case.flops(4 * (m * n) as u64)
            })
            .collect()
    }
}

/// CPU twins.
pub mod reference {
    use super::super::{larger, put};
    use super::*;

    /// A difference, cut at -80.
    fn least(d: f32) -> f32 {
        if d < -80.0 { -80.0 } else { d }
    }

    /// The largest of a row, and the sum of exp of the differences from it.
    fn largest_and_sum(row: &[f32]) -> (f32, f32) {
        let m = row.iter().copied().fold(f32::MIN, larger);
        let sum: f64 = row.iter().map(|x| f64::from(least(x - m).exp())).sum();
        (m, sum as f32)
    }

    /// exp(x − m) / Σ.
    pub fn softmax(t: &mut Twin) {
        let (cols, x) = (t.size(1), t.read(0));
        for (x, y) in x.chunks(cols).zip(t.write(1).chunks_mut(cols)) {
            let (m, sum) = largest_and_sum(x);
            for (x, y) in x.iter().zip(y) {
                *y = least(x - m).exp() / sum;
            }
        }
    }

    /// y (dy − Σ dy y).
    pub fn softmax_backward(t: &mut Twin) {
        let (cols, accumulate) = (t.size(1), t.size(2));
        let (dy, y) = (t.read(0), t.read(1));
        for (r, dx) in t.write(2).chunks_mut(cols).enumerate() {
            let (dy, y) = (&dy[r * cols..][..cols], &y[r * cols..][..cols]);
            let dot: f64 = dy.iter().zip(y).map(|(d, y)| f64::from(*d) * f64::from(*y)).sum();
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                put(dx, y * (dy - dot as f32), accumulate);
            }
        }
    }

    /// log Σ exp(x), and that less the target's logit.
    pub fn cross_entropy(t: &mut Twin) {
        let (cols, x, targets) = (t.size(1), t.read(0), t.words_of(1).to_vec());
        for (r, x) in x.chunks(cols).enumerate() {
            let (m, sum) = largest_and_sum(x);
            let lse = m + sum.ln();
            t.write(2)[r] = lse - x[(targets[r] as usize).min(cols - 1)];
            t.write(3)[r] = lse;
        }
    }

    /// (softmax − onehot) dloss scale.
    pub fn cross_entropy_backward(t: &mut Twin) {
        let (cols, accumulate, scale) = (t.size(1), t.size(2), t.float(3));
        let (x, targets) = (t.read(0), t.words_of(1).to_vec());
        let (lse, dloss) = (t.read(2), t.read(3)[0]);
        for (i, dx) in t.write(4).iter_mut().enumerate() {
            let (r, c) = (i / cols, i % cols);
            let hit = f32::from(c == (targets[r] as usize).min(cols - 1));
            let y = least(x[i] - lse[r]).exp();
            put(dx, (y - hit) * dloss * scale, accumulate);
        }
    }
}
