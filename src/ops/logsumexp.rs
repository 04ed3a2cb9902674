//! Logarithms of sums of exponentials, row by row, and of the softmax.

use super::elementwise::vectors;
use super::reduce::row_launch;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin};
use crate::tape::{Tape, Var};

/// `log Σ exp X` of each row, or X less that; see `shaders/logsumexp.wgsl`.
pub static LOGSUMEXP: Kernel = Kernel {
    name: "logsumexp",
    source: include_str!("../../shaders/logsumexp.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y")],
    step: false,
    launch,
    twin: reference::logsumexp,
    cases: cases::forward,
};

/// The gradient of the first; see `shaders/logsumexp_backward.wgsl`.
pub static LOGSUMEXP_BACKWARD: Kernel = Kernel {
    name: "logsumexp_backward",
    source: include_str!("../../shaders/logsumexp_backward.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("L"),
        Binding::read("DY"),
        Binding::write("DX").adds(2),
    ],
    step: false,
    launch: |_, words, _| vectors(words[0] * words[1], words[1].is_multiple_of(4)),
    twin: reference::logsumexp_backward,
    cases: cases::backward,
};

/// The gradient of the second; see `shaders/log_softmax_backward.wgsl`.
pub static LOG_SOFTMAX_BACKWARD: Kernel = Kernel {
    name: "log_softmax_backward",
    source: include_str!("../../shaders/log_softmax_backward.wgsl"),
    bindings: &[Binding::read("DY"), Binding::read("Y"), Binding::write("DX").adds(2)],
    step: false,
    launch,
    twin: reference::log_softmax_backward,
    cases: cases::softmax_backward,
};

fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let (rows, cols) = (words[0] as usize, words[1] as usize);
    row_launch(family, rows, cols, cols.is_multiple_of(4))
}

impl Tape {
    /// `log Σ eˣ` over the last axis, `[.., n] → [.., 1]`, without overflow. A row of nothing but −∞
    /// gives −∞ and takes no gradient.
    ///
    /// # Errors
    /// A tensor without elements.
    pub fn logsumexp(&mut self, x: Var) -> Result<Var> {
        self.log_of_sum("logsumexp", x, false)
    }

    /// The logarithm of the mean of `eˣ` over the last axis, `[.., n] → [.., 1]`:
    /// [`logsumexp`](Self::logsumexp) less `log n`, as bounds of mutual information take it.
    ///
    /// # Errors
    /// A tensor without elements.
    pub fn log_mean_exp(&mut self, x: Var) -> Result<Var> {
        self.log_of_sum("log_mean_exp", x, true)
    }

    fn log_of_sum(&mut self, name: &'static str, x: Var, mean: bool) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let mut shape = self.shape(x).to_vec();
        if rows * cols == 0 {
            return Err(Error::shape(name, format!("{shape:?} has no element")));
        }
        match shape.last_mut() {
            Some(last) => *last = 1,
            None => shape.push(1),
        }
        let y = self.output(name, &shape, &[x]);
        let shift = if mean { (cols as f32).ln() } else { 0.0 };
        let flops = 4 * (rows * cols) as u64;
        let mut words = sizes(&[rows, cols]);
        words.push(shift.to_bits());
        self.call(&LOGSUMEXP, &[Some(x), Some(y)], words, Defines::new(), flops);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let mut words = sizes(&[rows, cols, dx.accumulate as usize]);
                words.push(shift.to_bits());
                let args = [Some(x), Some(y), Some(dy), Some(dx.var)];
                tape.call(&LOGSUMEXP_BACKWARD, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(y)
    }

    /// The logarithm of the softmax over the last axis, `x − log Σ eˣ`, without overflow and without
    /// the loss of small probabilities that a logarithm of [`softmax`](Self::softmax) has.
    ///
    /// # Errors
    /// A tensor without elements.
    pub fn log_softmax(&mut self, x: Var) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let shape = self.shape(x).to_vec();
        if rows * cols == 0 {
            return Err(Error::shape("log_softmax", format!("{shape:?} has no element")));
        }
        let y = self.output("log_softmax", &shape, &[x]);
        let flops = 5 * (rows * cols) as u64;
        let mut words = sizes(&[rows, cols]);
        words.push(0.0_f32.to_bits());
        let defines = Defines::from([("SOFTMAX", 1)]);
        self.call(&LOGSUMEXP, &[Some(x), Some(y)], words, defines, flops);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let words = sizes(&[rows, cols, dx.accumulate as usize]);
                let args = [Some(dy), Some(y), Some(dx.var)];
                tape.call(&LOG_SOFTMAX_BACKWARD, &args, words, Defines::new(), flops);
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

    /// Far apart, and where there is room for them with infinities among them.
    fn wide(seed: u64, (m, n): (usize, usize), infinite: bool) -> Option<CaseArg> {
        let mut values = super::super::random(seed, m * n);
        values.iter_mut().for_each(|v| *v = *v * *v * *v * 200.0);
        if infinite && m > 2 {
            values[..n].fill(f32::NEG_INFINITY);
            values[n] = f32::NEG_INFINITY;
            values[2 * n] = f32::INFINITY;
        }
        Some(CaseArg::F(values))
    }

    pub(super) fn forward() -> Vec<Case> {
        let mut cases = Vec::new();
        for (m, n) in SHAPES {
            let mut words = sizes(&[m, n]);
            words.push(0.75_f32.to_bits());
            let args = vec![wide(1, (m, n), true), arg(2, m)];
            let case = Case::new(format!("{m}x{n}"), words, args);
            cases.push(case.within(2e-5).flops(4 * (m * n) as u64));
            let mut words = sizes(&[m, n]);
            words.push(0.0_f32.to_bits());
            let args = vec![wide(1, (m, n), false), arg(2, m * n)];
            let case = Case::new(format!("{m}x{n} softmax"), words, args).define("SOFTMAX", 1);
            cases.push(case.within(2e-5).flops(5 * (m * n) as u64));
        }
        cases
    }

    pub(super) fn backward() -> Vec<Case> {
        SHAPES
            .into_iter()
            .enumerate()
            .map(|(i, (m, n))| {
                let mut words = sizes(&[m, n, i % 2]);
                words.push(0.5_f32.to_bits());
                let mut l = super::super::random(2, m);
                l.iter_mut().for_each(|v| *v += 1.0);
                l[m / 2] = if m > 2 { f32::NEG_INFINITY } else { l[m / 2] };
                let args = vec![arg(1, m * n), Some(CaseArg::F(l)), arg(3, m), arg(4, m * n)];
                let case = Case::new(format!("{m}x{n}"), words, args);
                case.within(2e-5).flops(4 * (m * n) as u64)
            })
            .collect()
    }

    pub(super) fn softmax_backward() -> Vec<Case> {
        SHAPES
            .into_iter()
            .enumerate()
            .map(|(i, (m, n))| {
                let mut y = super::super::random(2, m * n);
                y.iter_mut().for_each(|v| *v = (*v - 1.0) * 3.0);
                let args = vec![arg(1, m * n), Some(CaseArg::F(y)), arg(3, m * n)];
                let case = Case::new(format!("{m}x{n}"), sizes(&[m, n, i % 2]), args);
                case.within(3e-5).flops(5 * (m * n) as u64)
            })
            .collect()
    }
}

/// CPU twins. They add in f64: the sum itself, not one order of rounding.
pub mod reference {
    use super::super::put;
    use super::*;

    /// `log Σ exp x − shift`, or x less that.
    pub fn logsumexp(t: &mut Twin) {
        let (cols, shift, softmax, x) = (t.size(1), t.float(2), t.is("SOFTMAX"), t.read(0));
        for (r, x) in x.chunks(cols).enumerate() {
            let most = x.iter().copied().fold(f32::MIN, f32::max);
            let m = if most <= f32::MAX { most } else { 0.0 };
            let sum: f64 = x.iter().map(|x| f64::from(x - m).exp()).sum();
            let l = m + (sum.ln() as f32) - shift;
            if softmax {
                for (y, x) in t.write(1)[r * cols..].iter_mut().zip(x) {
                    *y = x - l;
                }
            } else {
                t.write(1)[r] = l;
            }
        }
    }

    /// `exp(x − L − shift) dy`.
    pub fn logsumexp_backward(t: &mut Twin) {
        let (cols, accumulate, shift) = (t.size(1), t.size(2), t.float(3));
        let (x, l, dy) = (t.read(0), t.read(1), t.read(2));
        for (i, dx) in t.write(3).iter_mut().enumerate() {
            let l = l[i / cols];
            let gone = l == f32::NEG_INFINITY;
            // A comparison, because min drops a NaN.
            let above = x[i] - (l + shift);
            let share = if gone { 0.0 } else { (if above > 1.0 { 1.0 } else { above }).exp() };
            put(dx, share * dy[i / cols], accumulate);
        }
    }

    /// `dy − exp(y) Σ dy`.
    pub fn log_softmax_backward(t: &mut Twin) {
        let (cols, accumulate) = (t.size(1), t.size(2));
        let (dy, y) = (t.read(0), t.read(1));
        for (r, dx) in t.write(2).chunks_mut(cols).enumerate() {
            let (dy, y) = (&dy[r * cols..][..cols], &y[r * cols..][..cols]);
            let sum = dy.iter().map(|d| f64::from(*d)).sum::<f64>() as f32;
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                put(dx, dy - y.exp() * sum, accumulate);
            }
        }
    }
}
