//! Columns standardised over the batch.
//!
//! With `z = (x − μ) r`, `r = 1/√(v + ε)` and `v = Σ_k (x_k − μ)²/(n−1)` for each column, and `g`
//! the gradient of `z`, the chain rule goes through `x` itself, through `μ` and through `v`:
//!
//! ```text
//! ∂L/∂x_i = Σ_k g_k ∂z_k/∂x_i
//!         = r (g_i − mean(g))  +  dr/dv · ∂v/∂x_i · Σ_k g_k (x_k − μ)
//!   dr/dv = −r³/2        ∂v/∂x_i = 2 (x_i − μ)/(n−1)      (μ drops out: Σ_k (x_k − μ) = 0)
//!         = r (g_i − mean(g) − z_i/(n−1) Σ_k g_k z_k)
//! ```
//!
//! The second line holds for any ε: `r³ (x_i − μ)(x_k − μ) = r z_i z_k`. One dispatch each way.

use super::align::{reference::mean, tiled_or};
use super::random;
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// Added to the variance; as in batch normalisation.
const EPS: f32 = 1e-5;

/// The value; see `shaders/standardize.wgsl`.
pub static STANDARDIZE: Kernel = Kernel {
    name: "standardize",
    source: include_str!("../../shaders/standardize.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Z"), Binding::write("RSTD")],
    step: false,
    launch,
    twin: reference::forward,
    cases: || cases(false),
};

/// Its gradient; see `shaders/standardize_grad.wgsl`.
pub static STANDARDIZE_GRAD: Kernel = Kernel {
    name: "standardize_grad",
    source: include_str!("../../shaders/standardize_grad.wgsl"),
    bindings: &[
        Binding::read("Z"),
        Binding::read("RSTD"),
        Binding::read("DZ"),
        Binding::write("DX").adds(2),
    ],
    step: false,
    launch,
    twin: reference::backward,
    cases: || cases(true),
};

fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    tiled_or(family, grid(words[1] as usize, 16), words[1], words[3])
}

impl Tape {
    /// `z = (x − mean)/√(var + 1e-5)` for each column of `x [n, d]`, over its rows, with the
    /// unbiased variance (n−1). Fed to [`align`](Self::align) it makes the term compare
    /// correlations in place of covariances, so that shrinking the features gains nothing.
    /// With fewer than two rows `z` and its gradient are zero; a constant column gives zeros.
    ///
    /// # Errors
    /// A tensor without columns.
    pub fn standardize(&mut self, x: Var) -> Result<Var> {
        self.standardize_all(x, 1)
    }

    /// The same for each matrix of `x [features, n, d]`, in one dispatch; for
    /// [`align_stacked`](Self::align_stacked).
    ///
    /// # Errors
    /// Another rank, or no columns.
    pub fn standardize_each(&mut self, x: Var) -> Result<Var> {
        match *self.shape(x) {
            [features, _, _] => self.standardize_all(x, features),
            ref shape => {
                let detail = format!("{shape:?}: want [features, n, d]");
                Err(Error::shape("standardize_each", detail))
            }
        }
    }

    fn standardize_all(&mut self, x: Var, features: usize) -> Result<Var> {
        let (rows, d) = self.rows_cols(x);
        if d == 0 {
            let detail = format!("{:?} has no columns", self.shape(x));
            return Err(Error::shape("standardize", detail));
        }
        let n = rows / features.max(1);
        let shape = self.shape(x).to_vec();
        let z = self.output("standardize", &shape, &[x]);
        let rstd = self.output("standardize.rstd", &[features, d], &[]);
        let args = [x, z, rstd].map(Some);
        let words = vec![n as u32, d as u32, EPS.to_bits(), features as u32];
        let flops = (7 * rows * d) as u64;
        self.call(&STANDARDIZE, &args, words, Defines::new(), flops);
        self.on_backward(&[z], move |tape| {
            if let (Some(dz), Some(dx)) = (tape.grad(z), tape.sink(x)) {
                let args = [z, rstd, dz, dx.var].map(Some);
                let words = vec![n as u32, d as u32, dx.accumulate, features as u32];
                tape.call(&STANDARDIZE_GRAD, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(z)
    }
}

fn cases(backward: bool) -> Vec<Case> {
    [
        (1, 1, 4),
        (3, 1, 4),
        (1, 2, 1),
        (1, 5, 3),
        (3, 5, 3),
        (2, 16, 16),
        (1, 17, 15),
        (4, 15, 17),
        (1, 32, 48),
        (1, 200, 33),
    ]
    .into_iter()
    .map(|(features, n, d)| {
        // Columns of different scale; the last is constant.
        let len = features * n * d;
        let x: Vec<f32> = random(1, len)
            .iter()
            .enumerate()
            .map(|(i, x)| if i % d + 1 == d && d > 1 { 0.3 } else { x * (1 + i % d) as f32 })
            .collect();
        let f = |s, len| Some(CaseArg::F(random(s, len)));
        let mut args = vec![Some(CaseArg::F(x)), f(2, len), f(3, features * d)];
        let mut words = vec![n as u32, d as u32, EPS.to_bits(), features as u32];
        if backward {
            // Z and RSTD as the forward twin leaves them.
            let mut buffers: Vec<_> = args
                .iter()
                .map(|a| match a {
                    Some(CaseArg::F(v)) => Some(bytemuck::cast_slice(v).to_vec()),
                    _ => None,
                })
                .collect();
            reference::forward(&mut Twin {
                words: &words,
                step: &Default::default(),
                defines: &Defines::new(),
                buffers: &mut buffers,
            });
            let left = |b: &mut Option<Vec<u32>>| b.take().map(bytemuck::cast_vec);
            let (z, rstd) = (left(&mut buffers[1]), left(&mut buffers[2]));
            args = vec![z.map(CaseArg::F), rstd.map(CaseArg::F), f(4, len), f(5, len)];
            words[2] = (n % 2) as u32;
        }
        Case::new(format!("{features} of {n}x{d}"), words, args)
            .within(2e-5)
            .flops((7 * len) as u64)
    })
    .collect()
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::{Twin, mean};

    /// Standardised columns and their factors, feature by feature.
    pub fn forward(t: &mut Twin) {
        let (n, d, eps, features) = (t.size(0), t.size(1), t.float(2), t.size(3));
        let all = t.read(0);
        for (f, x) in all.chunks(n * d).enumerate().take(features) {
            for j in 0..d {
                let (mut mu, mut rstd) = (0.0, 0.0);
                if n > 1 {
                    mu = mean(x, n, d, j);
                    let squares: f32 = (0..n).map(|r| (x[r * d + j] - mu).powi(2)).sum();
                    rstd = 1.0 / (squares / (n - 1) as f32 + eps).sqrt();
                }
                t.write(2)[f * d + j] = rstd;
                for at in (0..n).map(|r| r * d + j) {
                    t.write(1)[f * n * d + at] = if n > 1 { (x[at] - mu) * rstd } else { 0.0 };
                }
            }
        }
    }

    /// Gradient of the unstandardised columns, feature by feature.
    pub fn backward(t: &mut Twin) {
        let [n, d, accumulate, features] = [0, 1, 2, 3].map(|i| t.size(i));
        let (z, rstd, dz) = (t.read(0), t.read(1), t.read(2));
        for (f, j) in (0..features).flat_map(|f| (0..d).map(move |j| (f, j))) {
            let column = || (0..n).map(|r| (f * n + r) * d + j);
            let mean = column().map(|at| dz[at]).sum::<f32>() / n as f32;
            let along = column().map(|at| dz[at] * z[at]).sum::<f32>() / (n.max(2) - 1) as f32;
            let rstd = if n > 1 { rstd[f * d + j] } else { 0.0 };
            for at in column() {
                let own = rstd * (dz[at] - mean - z[at] * along);
                put(&mut t.write(3)[at], own, accumulate);
            }
        }
    }
}
