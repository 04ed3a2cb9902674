//! Orthogonal weight modification (arXiv:1810.01256): a matrix P that projects away from what a layer has
//! read before, and the gradient of its weight projected by it.

use super::elementwise::add_scaled;
use super::{random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch};
use crate::tape::{Sink, Tape, Var};

/// A projector without one more direction; see `shaders/owm_update.wgsl`.
pub static OWM_UPDATE: Kernel = Kernel {
    name: "owm_update",
    source: include_str!("../../shaders/owm_update.wgsl"),
    bindings: &[Binding::read("R"), Binding::read("K"), Binding::write("W").updated()],
    step: true,
    launch: |family, words, _| {
        let wg = family.invocations();
        Launch::of([words[0].div_ceil(wg).max(1), 1, 1])
            .with("WG", wg)
            .iterations(2 * u64::from(words[0]))
    },
    twin: reference::owm_update,
    cases: || {
        let case = |d: usize, base: f32, done: f32| {
            let r = random(1, d);
            // Not R itself, and still at an acute angle to it, as that of a positive W is.
            let k = r.iter().zip(random(2, d)).map(|(r, other)| r + 0.25 * other).collect();
            let args = vec![Some(CaseArg::F(r)), Some(CaseArg::F(k)), super::arg(3, d * d)];
            let mut case = Case::new(format!("{d} after {done} of an epoch"), words(d, base), args);
            case.step.epoch_done = done;
            case.flops(flops(d))
        };
        vec![case(3, 0.1, 0.25), case(70, 0.1, 0.0), case(128, 0.5, 0.9)]
    },
};

/// How a projector forgets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OwmRule {
    /// What is added to rᵀPr, as a power of this: base^(1 + share of the epoch that is over).
    pub base: f32,
    /// Divide P by its Frobenius norm after each update, as MLA's release does.
    pub frobenius: bool,
}

/// `P`: columns, and the logarithm of the base.
fn words(d: usize, base: f32) -> Vec<u32> {
    let mut words = sizes(&[d]);
    words.push(base.ln().to_bits());
    words
}

fn flops(d: usize) -> u64 {
    (2 * d + 3 * d * d) as u64
}

impl Tape {
    /// P ← P − k kᵀ / (α + rᵀk) with k = P r and α = base^(1 + [`Step::epoch_done`](crate::plan::Step)):
    /// `p [d, d]`, symmetric, loses the direction `r [1, d]`. Not differentiable.
    ///
    /// # Errors
    /// Other shapes; a base that is not above 0 and at most 1.
    pub fn owm_update(&mut self, p: Var, r: Var, rule: OwmRule) -> Result<()> {
        let d = self.len(r);
        let share = rule.base > 0.0 && rule.base <= 1.0;
        if self.shape(p) != [d, d] || self.shape(r) != [1, d] || !share {
            let detail = format!(
                "P {:?} and r {:?} with a base of {}: want [d, d], [1, d] and one from above 0 to 1",
                self.shape(p),
                self.shape(r),
                rule.base
            );
            return Err(Error::shape("owm_update", detail));
        }
        let k = self.matmul(r, p)?;
        let args = [r, k, p].map(Some);
        self.call(&OWM_UPDATE, &args, words(d, rule.base), Defines::new(), flops(d));
        if rule.frobenius {
            let square = self.square(p)?;
            let sum = self.sum(square)?;
            let norm = self.sqrt(sum)?;
            let scaled = self.div(p, norm)?;
            add_scaled(self, scaled, d * d, 1.0, Sink { var: p, accumulate: 0 });
        }
        Ok(())
    }

    /// The gradient of `w [rows, d]` times `p [d, d]`, symmetric, in its place: what is recorded after
    /// [`backward`](Self::backward), for the optimiser.
    ///
    /// # Errors
    /// Other shapes; a tensor without a gradient.
    pub fn project_gradient(&mut self, w: Var, p: Var) -> Result<()> {
        let d = self.rows_cols(w).1;
        if self.shape(w).len() != 2 || self.shape(p) != [d, d] {
            let detail = format!(
                "a weight {:?} by {:?}: want [rows, d] by [d, d]",
                self.shape(w),
                self.shape(p)
            );
            return Err(Error::shape("project_gradient", detail));
        }
        let Some(grad) = self.grad(w) else {
            return Err(Error::shape("project_gradient", "no gradient reaches the weight"));
        };
        let projected = self.matmul(grad, p)?;
        let len = self.len(grad);
        add_scaled(self, projected, len, 1.0, Sink { var: grad, accumulate: 0 });
        Ok(())
    }
}

/// The CPU twin.
pub mod reference {
    use crate::plan::Twin;

    /// W without the direction of K.
    pub fn owm_update(t: &mut Twin) {
        let d = t.size(0);
        let alpha = (t.float(1) * (1.0 + t.step.epoch_done)).exp();
        let (r, k) = (t.read(0).to_vec(), t.read(1).to_vec());
        let below = r.iter().zip(&k).fold(alpha, |sum, (r, k)| sum + r * k);
        let w = t.write(2);
        for i in 0..d {
            for j in 0..d {
                w[i * d + j] -= k[i] * k[j] / below;
            }
        }
    }
}
