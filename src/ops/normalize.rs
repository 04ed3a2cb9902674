//! Rows of length one.

use super::reduce::row_launch;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin};
use crate::tape::{Tape, Var};

/// `Y = X / max(‖X‖, eps)`, row by row; see `shaders/l2_normalize.wgsl`.
pub static L2_NORMALIZE: Kernel = Kernel {
    name: "l2_normalize",
    source: include_str!("../../shaders/l2_normalize.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y"), Binding::write("NORM")],
    step: false,
    launch,
    twin: reference::l2_normalize,
    cases: || cases::all(false),
};

/// Its gradient; see `shaders/l2_normalize_backward.wgsl`.
pub static L2_NORMALIZE_BACKWARD: Kernel = Kernel {
    name: "l2_normalize_backward",
    source: include_str!("../../shaders/l2_normalize_backward.wgsl"),
    bindings: &[
        Binding::read("DY"),
        Binding::read("Y"),
        Binding::read("NORM"),
        Binding::write("DX").adds(2),
    ],
    step: false,
    launch,
    twin: reference::l2_normalize_backward,
    cases: || cases::all(true),
};

fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let (rows, cols) = (words[0] as usize, words[1] as usize);
    row_launch(family, rows, cols, cols.is_multiple_of(4))
}

impl Tape {
    /// Each row of the last axis divided by its Euclidean length, or by `eps` where it is shorter:
    /// `x / max(‖x‖, eps)`, as PyTorch's `F.normalize` has it (its `eps` is 1e-12). The gradient of
    /// a row shorter than `eps` is that of a division by `eps`.
    ///
    /// # Errors
    /// A tensor without elements; an `eps` below 0 or NaN.
    pub fn l2_normalize(&mut self, x: Var, eps: f32) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let shape = self.shape(x).to_vec();
        if rows * cols == 0 {
            return Err(Error::shape("l2_normalize", format!("{shape:?} has no element")));
        }
        if eps.is_nan() || eps < 0.0 {
            return Err(Error::Config(format!(
                "l2_normalize with an eps of {eps}: want 0 or more"
            )));
        }
        let y = self.output("l2_normalize", &shape, &[x]);
        let norm = self.output("norm", &[rows], &[]);
        let flops = 3 * (rows * cols) as u64;
        let mut words = sizes(&[rows, cols]);
        words.push(eps.to_bits());
        self.call(&L2_NORMALIZE, &[Some(x), Some(y), Some(norm)], words, Defines::new(), flops);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let mut words = sizes(&[rows, cols, dx.accumulate as usize]);
                words.push(eps.to_bits());
                let args = [Some(dy), Some(y), Some(norm), Some(dx.var)];
                tape.call(&L2_NORMALIZE_BACKWARD, &args, words, Defines::new(), 2 * flops);
            }
            Ok(())
        });
        Ok(y)
    }
}

mod cases {
    use super::*;

    pub(super) fn all(backward: bool) -> Vec<Case> {
        let shapes = [(1, 1), (3, 5), (65, 3), (15, 17), (9, 68), (4, 1028), (130, 33), (70, 20)];
        shapes
            .into_iter()
            .enumerate()
            .map(|(i, (m, n))| {
                // Every third row is shorter than eps, one of them nothing but zeros.
                let mut x = super::super::random(i as u64, m * n);
                for (r, row) in x.chunks_mut(n).enumerate().filter(|(r, _)| r % 3 == 2) {
                    row.iter_mut().for_each(|v| *v *= if r == 2 { 0.0 } else { 1e-4 });
                }
                let eps = 0.25_f32;
                let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
                let norms: Vec<f32> = x.chunks(n).map(norm).collect();
                let (args, words) = if backward {
                    let norms = Some(CaseArg::F(norms));
                    let args = vec![arg(1, m * n), arg(2, m * n), norms, arg(3, m * n)];
                    let mut words = sizes(&[m, n, i % 2]);
                    words.push(eps.to_bits());
                    (args, words)
                } else {
                    let mut words = sizes(&[m, n]);
                    words.push(eps.to_bits());
                    (vec![Some(CaseArg::F(x)), arg(2, m * n), arg(3, m)], words)
                };
                let case = Case::new(format!("{m}x{n}"), words, args).within(3e-5);
                case.flops(if backward { 6 } else { 3 } * (m * n) as u64)
            })
            .collect()
    }
}

/// CPU twins. They add in f64: the sum itself, not one order of rounding.
pub mod reference {
    use super::super::put;
    use super::*;

    /// `x / max(‖x‖, eps)`.
    pub fn l2_normalize(t: &mut Twin) {
        let (cols, eps, x) = (t.size(1), t.float(2), t.read(0));
        for (r, x) in x.chunks(cols).enumerate() {
            let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
            t.write(2)[r] = norm;
            for (y, x) in t.write(1)[r * cols..].iter_mut().zip(x) {
                *y = x / if norm < eps { eps } else { norm };
            }
        }
    }

    /// `(dy − y Σ dy y) / ‖x‖`, or `dy / eps`.
    pub fn l2_normalize_backward(t: &mut Twin) {
        let (cols, accumulate, eps) = (t.size(1), t.size(2), t.float(3));
        let (dy, y, norm) = (t.read(0), t.read(1), t.read(2));
        for (r, dx) in t.write(3).chunks_mut(cols).enumerate() {
            let (dy, y) = (&dy[r * cols..][..cols], &y[r * cols..][..cols]);
            let dot: f64 = dy.iter().zip(y).map(|(d, y)| f64::from(*d) * f64::from(*y)).sum();
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                let slope = if norm[r] < eps { dy / eps } else { (dy - y * dot as f32) / norm[r] };
                put(dx, slope, accumulate);
            }
        }
    }
}
