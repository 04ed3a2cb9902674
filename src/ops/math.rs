//! Quotients, and the functions of one element that are no activations of a layer. Their kernels
//! are those of [`elementwise`](super::elementwise).

use super::elementwise::{
    BINARY, BINARY_BACKWARD, Spread, UNARY, UNARY_BACKWARD, Unary, add_scaled, defines, gather,
};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Case, CaseArg, Twin};
use crate::tape::{Sink, Tape, Var};

/// `out (+)= a / (factor b)`.
fn quotient(tape: &mut Tape, (a, b): (Var, Var), spread: Spread, factor: f32, out: Sink) {
    let (len, (mode, cols)) = (tape.len(a), spread.code());
    let words = vec![len as u32, cols as u32, out.accumulate, factor.to_bits()];
    let defines = defines(&[("MODE", mode), ("DIV", 1)]);
    tape.call(&BINARY, &[Some(a), Some(b), Some(out.var)], words, defines, 2 * len as u64);
}

/// Gradients of `y = a / b` of equal shapes, in one dispatch.
fn quotient_grads(
    tape: &mut Tape,
    (dy, y, b): (Var, Var, Var),
    (da, db): (Option<Sink>, Option<Sink>),
) {
    if da.is_none() && db.is_none() {
        return;
    }
    let len = tape.len(y);
    let accumulate = |sink: Option<Sink>| sink.map_or(0, |s| s.accumulate);
    let words = vec![len as u32, accumulate(da), accumulate(db), 1.0_f32.to_bits()];
    let args = [Some(dy), db.map(|_| y), Some(b), da.map(|s| s.var), db.map(|s| s.var)];
    tape.call(&BINARY_BACKWARD, &args, words, defines(&[("DIV", 1)]), 4 * len as u64);
}

impl Tape {
    /// Records `f` with its two parameters.
    fn function(&mut self, name: &'static str, x: Var, f: Unary, [a, b]: [f32; 2]) -> Var {
        let (shape, len) = (self.shape(x).to_vec(), self.len(x));
        let y = self.output(name, &shape, &[x]);
        let code = defines(&[("OP", f as u32)]);
        let words = vec![len as u32, a.to_bits(), b.to_bits()];
        self.call(&UNARY, &[Some(x), Some(y)], words, code.clone(), len as u64);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let v = if f.slope_of_input() { x } else { y };
                let words = vec![len as u32, a.to_bits(), dx.accumulate, b.to_bits()];
                let args = [Some(dy), Some(v), Some(dx.var)];
                tape.call(&UNARY_BACKWARD, &args, words, code.clone(), 2 * len as u64);
            }
            Ok(())
        });
        y
    }

    /// `x` under a gradient of its own: `factor` times that of the result.
    fn with_slope(&mut self, y: Var, x: Var, factor: f32) {
        let len = self.len(x);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                add_scaled(tape, dy, len, factor, dx);
            }
            Ok(())
        });
    }

    /// `a / b`, element by element; `b` as for [`add`](Self::add). Where `b` is 0 the result is
    /// what f32 makes of it, infinite or NaN, and so are the gradients `dy / b` and `−dy y / b`.
    ///
    /// # Errors
    /// A `b` that does not fit.
    pub fn div(&mut self, a: Var, b: Var) -> Result<Var> {
        let spread = self.spread("div", a, b)?;
        let shape = self.shape(a).to_vec();
        let y = self.output("div", &shape, &[a, b]);
        quotient(self, (a, b), spread, 1.0, Sink { var: y, accumulate: 0 });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            if spread == Spread::Same {
                if tape.same(a, b) {
                    // One gradient takes both contributions, one after the other.
                    let first = tape.sink(a);
                    quotient_grads(tape, (dy, y, b), (first, None));
                    let second = tape.sink(b);
                    quotient_grads(tape, (dy, y, b), (None, second));
                } else {
                    let sinks = (tape.sink(a), tape.sink(b));
                    quotient_grads(tape, (dy, y, b), sinks);
                }
                return Ok(());
            }
            if let Some(da) = tape.sink(a) {
                quotient(tape, (dy, b), spread, 1.0, da);
            }
            if let Some(db) = tape.sink(b) {
                // −Σ dy y / b: what is divided by is the same for all terms of a sum.
                let (len, shape) = (tape.len(y), tape.shape(b).to_vec());
                let sum = tape.output("d.quotient", &shape, &[]);
                gather(tape, dy, Some(y), spread, (len, 1.0), Sink { var: sum, accumulate: 0 });
                quotient(tape, (sum, b), Spread::Same, -1.0, db);
            }
            Ok(())
        });
        Ok(y)
    }

    /// `√x`: NaN below 0. Its slope at 0 is infinite.
    pub fn sqrt(&mut self, x: Var) -> Result<Var> {
        Ok(self.function("sqrt", x, Unary::Sqrt, [0.0; 2]))
    }

    /// The natural logarithm: −∞ at 0, NaN below, as PyTorch has it; nothing is clamped.
    pub fn log(&mut self, x: Var) -> Result<Var> {
        Ok(self.function("log", x, Unary::Log, [0.0; 2]))
    }

    /// `log(1 + eˣ)`, exact at both ends: `eˣ` where x is far below 0, x where it is far above.
    pub fn softplus(&mut self, x: Var) -> Result<Var> {
        Ok(self.function("softplus", x, Unary::Softplus, [0.0; 2]))
    }

    /// `1 / x`, infinite at 0.
    pub fn reciprocal(&mut self, x: Var) -> Result<Var> {
        Ok(self.function("reciprocal", x, Unary::Reciprocal, [0.0; 2]))
    }

    /// `x`, no less than `low` and no more than `high`. The gradient goes through where
    /// low ≤ x ≤ high, and is 0 beyond, as PyTorch has it. A NaN stays one.
    ///
    /// # Errors
    /// Bounds that are NaN or the wrong way round.
    pub fn clamp(&mut self, x: Var, low: f32, high: f32) -> Result<Var> {
        bounds("clamp", low, high)?;
        Ok(self.function("clamp", x, Unary::Clamp, [low, high]))
    }

    /// The values of [`clamp`](Self::clamp) under the gradient of the identity: what was cut off
    /// still learns (a straight-through estimator, arXiv:1308.3432).
    ///
    /// # Errors
    /// Bounds that are NaN or the wrong way round.
    pub fn clamp_straight_through(&mut self, x: Var, low: f32, high: f32) -> Result<Var> {
        bounds("clamp_straight_through", low, high)?;
        let (shape, len) = (self.shape(x).to_vec(), self.len(x));
        let y = self.output("clamp", &shape, &[x]);
        let words = vec![len as u32, low.to_bits(), high.to_bits()];
        let code = defines(&[("OP", Unary::Clamp as u32)]);
        self.call(&UNARY, &[Some(x), Some(y)], words, code, len as u64);
        self.with_slope(y, x, 1.0);
        Ok(y)
    }

    /// `x` where it is above 0, `slope · x` elsewhere.
    pub fn leaky_relu(&mut self, x: Var, slope: f32) -> Result<Var> {
        Ok(self.function("leaky_relu", x, Unary::LeakyRelu, [slope, 0.0]))
    }

    /// `x` where it is above 0, `alpha · (eˣ − 1)` elsewhere.
    pub fn elu(&mut self, x: Var, alpha: f32) -> Result<Var> {
        Ok(self.function("elu", x, Unary::Elu, [alpha, 0.0]))
    }

    /// `x` itself, whose gradient is turned round on its way back: `dx = −lambda · dy`
    /// (domain-adversarial training, arXiv:1505.07818).
    pub fn gradient_reversal(&mut self, x: Var, lambda: f32) -> Result<Var> {
        let (shape, len) = (self.shape(x).to_vec(), self.len(x));
        let y = self.output("gradient_reversal", &shape, &[x]);
        // A copy, because the result has another gradient than x.
        let words = vec![len as u32, 1.0_f32.to_bits()];
        self.call(&UNARY, &[Some(x), Some(y)], words, Defines::new(), len as u64);
        self.with_slope(y, x, -lambda);
        Ok(y)
    }
}

fn bounds(op: &'static str, low: f32, high: f32) -> Result<()> {
    if low <= high {
        return Ok(());
    }
    Err(Error::Config(format!("{op} from {low} to {high}: want a lower and an upper bound")))
}

pub(super) mod cases {
    use super::*;

    /// Every function here at a length of its own, some with whole vectors and some without.
    pub(in super::super) fn unary(backward: bool) -> Vec<Case> {
        let list = [
            (Unary::Sqrt, 65, [0.0, 0.0]),
            (Unary::Log, 260, [0.0, 0.0]),
            (Unary::Softplus, 1028, [0.0, 0.0]),
            (Unary::Reciprocal, 33, [0.0, 0.0]),
            (Unary::Clamp, 257, [-1.5, 0.5]),
            (Unary::LeakyRelu, 64, [0.1, 0.0]),
            (Unary::Elu, 1001, [1.3, 0.0]),
        ];
        list.into_iter()
            .map(|(f, n, [a, b])| {
                let mut x = super::super::random(f as u64, n);
                match f {
                    // Large and small, and clear of 0, where slopes have no end.
                    Unary::Sqrt | Unary::Log | Unary::Reciprocal => {
                        x.iter_mut().for_each(|v| *v = 0.02 + v.abs() * 3.0);
                    }
                    Unary::Clamp => (x[0], x[1]) = (a, b),
                    _ => {
                        x.iter_mut().for_each(|v| *v *= v.abs() * 8.0);
                        (x[0], x[1], x[2], x[3]) = (90.0, -90.0, 0.0, -15.0);
                    }
                }
                let (x, seed) = (Some(CaseArg::F(x)), 70 + f as u64);
                let (words, args) = if backward {
                    let words = vec![n as u32, a.to_bits(), f as u32 % 2, b.to_bits()];
                    (words, vec![arg(seed, n), x, arg(seed + 1, n)])
                } else {
                    (vec![n as u32, a.to_bits(), b.to_bits()], vec![x, arg(seed, n)])
                };
                let case = Case::new(format!("{f:?} {n}"), words, args).flops(n as u64);
                case.define("OP", f as u32).within(2e-5)
            })
            .collect()
    }

    /// Clear of 0.
    fn divisor(seed: u64, len: usize) -> Option<CaseArg> {
        let values = super::super::random(seed, len);
        Some(CaseArg::F(values.into_iter().map(|v| v + 0.5_f32.copysign(v)).collect()))
    }

    pub(in super::super) fn binary() -> Vec<Case> {
        // Rows, columns, MODE, accumulate.
        let list = [
            (5, 13, 0, 1),
            (8, 8, 0, 0),
            (7, 5, 1, 0),
            (9, 20, 1, 1),
            (65, 3, 2, 0),
            (33, 8, 2, 1),
            (31, 33, 3, 0),
            (16, 16, 3, 1),
        ];
        list.into_iter()
            .map(|(m, n, mode, accumulate)| {
                let mut words = sizes(&[m * n, n, accumulate]);
                words.push((-0.75_f32).to_bits());
                let divisors = divisor(2, [m * n, n, m, 1][mode]);
                let args = vec![arg(1, m * n), divisors, arg(3, m * n)];
                let case = Case::new(format!("{m}x{n} mode{mode} div"), words, args);
                let case = case.define("DIV", 1).flops(2 * (m * n) as u64);
                if mode == 0 { case } else { case.define("MODE", mode as u32) }
            })
            .collect()
    }

    pub(in super::super) fn binary_backward() -> Vec<Case> {
        // Length, DA, DB, both accumulates.
        let list = [
            (65, true, true, 0, 1),
            (1024, true, true, 1, 0),
            (260, true, false, 0, 0),
            (33, false, true, 0, 1),
        ];
        list.into_iter()
            .map(|(n, da, db, add_a, add_b)| {
                let mut words = sizes(&[n, add_a, add_b]);
                words.push(1.0_f32.to_bits());
                let some = |seed, on: bool| if on { arg(seed, n) } else { None };
                let args = vec![arg(1, n), some(2, db), divisor(3, n), some(4, da), some(5, db)];
                let case = Case::new(format!("{n} div da{da} db{db}"), words, args);
                case.define("DIV", 1).flops(4 * n as u64)
            })
            .collect()
    }
}

/// What the twins of `unary`, `unary_backward` and `binary_backward` say of the functions here.
pub mod reference {
    use super::super::put;
    use super::*;

    /// `f(x)`, its parameters in words 1 and 2.
    pub(crate) fn value(f: Unary, x: f32, words: &[u32]) -> f32 {
        let [a, b] = [1, 2].map(|i| f32::from_bits(words[i]));
        match f {
            Unary::Sqrt => x.sqrt(),
            Unary::Log => x.ln(),
            Unary::Softplus if x < 0.0 => x.exp().ln_1p(),
            Unary::Softplus => x + (-x).exp().ln_1p(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Clamp => x.clamp(a, b),
            Unary::LeakyRelu if x > 0.0 => x,
            Unary::LeakyRelu => a * x,
            Unary::Elu if x > 0.0 => x,
            Unary::Elu => a * x.exp_m1(),
            _ => f32::NAN,
        }
    }

    /// `f'` from the input or the output, its parameters in words 1 and 3.
    pub(crate) fn slope(f: Unary, v: f32, words: &[u32]) -> f32 {
        let [a, b] = [1, 3].map(|i| f32::from_bits(words[i]));
        match f {
            Unary::Sqrt => 0.5 / v,
            Unary::Log => 1.0 / v,
            Unary::Softplus => 1.0 / (1.0 + (-v).exp()),
            Unary::Reciprocal => -v * v,
            Unary::Clamp => f32::from((a..=b).contains(&v)),
            Unary::LeakyRelu | Unary::Elu if v > 0.0 => 1.0,
            Unary::LeakyRelu => a,
            Unary::Elu => a * v.exp(),
            _ => f32::NAN,
        }
    }

    /// `DA (+)= DY / B`, `DB (+)= -DY A / B`, A the quotient.
    pub(crate) fn quotient_backward(t: &mut Twin) {
        let (add_a, add_b) = (t.size(1), t.size(2));
        let (dy, y, b) = (t.read(0), t.read(1), t.read(2));
        for (i, da) in t.write(3).iter_mut().enumerate() {
            put(da, dy[i] / b[i], add_a);
        }
        for (i, db) in t.write(4).iter_mut().enumerate() {
            put(db, -dy[i] * y[i] / b[i], add_b);
        }
    }
}
