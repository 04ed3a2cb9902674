//! Operations on one element at a time: functions of one tensor, and sums, differences and
//! products of two, the second of which may be broadcast.

use super::reduce::{self, Sum};
use super::{Act, arg, math, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// `Y = f(X)`; see `shaders/unary.wgsl`.
pub static UNARY: Kernel = Kernel {
    name: "unary",
    source: include_str!("../../shaders/unary.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y")],
    step: false,
    launch: by_fours,
    twin: reference::unary,
    cases: || [cases::unary(false), math::cases::unary(false)].concat(),
};

/// `DX (+)= f' DY`; see `shaders/unary_backward.wgsl`.
pub static UNARY_BACKWARD: Kernel = Kernel {
    name: "unary_backward",
    source: include_str!("../../shaders/unary_backward.wgsl"),
    bindings: &[Binding::read("DY"), Binding::read("V").or_none(), Binding::write("DX").adds(2)],
    step: false,
    launch: by_fours,
    twin: reference::unary_backward,
    cases: || [cases::unary(true), math::cases::unary(true)].concat(),
};

/// `Y (+)= A + factor B`, `factor A B` or `A / (factor B)`, B broadcast; see `shaders/binary.wgsl`.
pub static BINARY: Kernel = Kernel {
    name: "binary",
    source: include_str!("../../shaders/binary.wgsl"),
    bindings: &[Binding::read("A").or_none(), Binding::read("B"), Binding::write("Y").adds(2)],
    step: false,
    launch: |_, words, defines| {
        let repeats = matches!(defines.get("MODE"), Some(1 | 2));
        vectors(words[0], words[0] % 4 == 0 && (!repeats || words[1] % 4 == 0))
    },
    twin: reference::binary,
    cases: || [cases::binary(), math::cases::binary()].concat(),
};

/// Both gradients of a sum, product or quotient of equal shapes; see
/// `shaders/binary_backward.wgsl`.
pub static BINARY_BACKWARD: Kernel = Kernel {
    name: "binary_backward",
    source: include_str!("../../shaders/binary_backward.wgsl"),
    bindings: &[
        Binding::read("DY"),
        Binding::read("A").or_none(),
        Binding::read("B").or_none(),
        Binding::write("DA").or_none().adds(1),
        Binding::write("DB").or_none().adds(2),
    ],
    step: false,
    launch: by_fours,
    twin: reference::binary_backward,
    cases: || [cases::binary_backward(), math::cases::binary_backward()].concat(),
};

/// One invocation for each element, or for every four of them.
pub(crate) fn vectors(len: u32, by_four: bool) -> Launch {
    let launch = Launch::of(grid(len as usize, if by_four { 256 } else { 64 }));
    if by_four { launch.with("VEC", 1) } else { launch }
}

/// The launch of a kernel whose first word is its length.
pub(crate) fn by_fours(_: Family, words: &[u32], _: &Defines) -> Launch {
    vectors(words[0], words[0].is_multiple_of(4))
}

/// Functions of one element. The first five have the numbers of [`Act`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    Scale,
    Relu,
    Gelu,
    Tanh,
    Sigmoid,
    Square,
    Exp,
    Abs,
    Sqrt,
    Log,
    Softplus,
    Reciprocal,
    Clamp,
    LeakyRelu,
    Elu,
}

impl Unary {
    const ALL: [Unary; 15] = [
        Unary::Scale,
        Unary::Relu,
        Unary::Gelu,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Square,
        Unary::Exp,
        Unary::Abs,
        Unary::Sqrt,
        Unary::Log,
        Unary::Softplus,
        Unary::Reciprocal,
        Unary::Clamp,
        Unary::LeakyRelu,
        Unary::Elu,
    ];

    /// Whether its slope is had from the input rather than the output.
    pub(super) fn slope_of_input(self) -> bool {
        use Unary::{Abs, Clamp, Elu, Gelu, LeakyRelu, Log, Softplus, Square};
        matches!(self, Gelu | Square | Abs | Log | Softplus | Clamp | LeakyRelu | Elu)
    }

    /// Whether it is one of those in `ops::math`, whose words hold two parameters.
    fn is_math(self) -> bool {
        self as u32 >= Unary::Sqrt as u32
    }
}

/// Defines without the zeros: an absent name is 0 to the preprocessor.
pub(super) fn defines(list: &[(&'static str, u32)]) -> Defines {
    list.iter().copied().filter(|(_, v)| *v != 0).collect()
}

/// `out (+)= factor x`.
pub(crate) fn add_scaled(tape: &mut Tape, x: Var, len: usize, factor: f32, out: Sink) {
    let words = vec![len as u32, factor.to_bits(), out.accumulate];
    let args = [Some(x), None, Some(out.var)];
    tape.call(&UNARY_BACKWARD, &args, words, Defines::new(), len as u64);
}

/// How the second tensor of a binary operation is spread over the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Equal shapes.
    Same,
    /// Repeated along leading axes; so many elements.
    Row(usize),
    /// Repeated along trailing axes; so many elements to each of its own.
    Column(usize),
    /// One number.
    Single,
}

impl Spread {
    /// `MODE` and `cols` of the kernel.
    pub(super) fn code(self) -> (u32, usize) {
        match self {
            Spread::Same => (0, 1),
            Spread::Row(cols) => (1, cols),
            Spread::Column(cols) => (2, cols),
            Spread::Single => (3, 1),
        }
    }

    /// How `b` fits `a`, if it does.
    fn of(a: &[usize], b: &[usize]) -> Option<Self> {
        let len = crate::plan::elements;
        let (all, own) = (len(a), len(b));
        if a == b || (all == 1 && own == 1) {
            return Some(Spread::Same);
        }
        if own == 1 {
            return Some(Spread::Single);
        }
        // A row may have leading ones, a column trailing ones.
        let lead = b.iter().take_while(|n| **n == 1).count();
        let trail = b.iter().rev().take_while(|n| **n == 1).count();
        let (row, column) = (&b[lead..], &b[..b.len() - trail]);
        if a.ends_with(row) {
            return Some(if own == all { Spread::Same } else { Spread::Row(own) });
        }
        let fits = a.starts_with(column) || a.split_last().is_some_and(|(_, m)| len(m) == own);
        (trail > 0 && own > 0 && fits).then(|| match all / own {
            1 => Spread::Same,
            cols => Spread::Column(cols),
        })
    }
}

/// `out (+)= factor b`, `out` of `len` elements.
pub(crate) fn broadcast(
    tape: &mut Tape,
    b: Var,
    spread: Spread,
    len: usize,
    factor: f32,
    out: Sink,
) {
    binary(tape, None, b, spread, (len, factor, false), out);
}

fn binary(
    tape: &mut Tape,
    a: Option<Var>,
    b: Var,
    spread: Spread,
    (len, factor, product): (usize, f32, bool),
    out: Sink,
) {
    let (mode, cols) = spread.code();
    let words = vec![len as u32, cols as u32, out.accumulate, factor.to_bits()];
    let defines = defines(&[("MODE", mode), ("MUL", u32::from(product))]);
    tape.call(&BINARY, &[a, Some(b), Some(out.var)], words, defines, 2 * len as u64);
}

impl Tape {
    pub(crate) fn unary(&mut self, name: &'static str, x: Var, f: Unary, factor: f32) -> Var {
        let (shape, len) = (self.shape(x).to_vec(), self.len(x));
        let y = self.output(name, &shape, &[x]);
        let code = defines(&[("OP", f as u32)]);
        let words = vec![len as u32, factor.to_bits()];
        self.call(&UNARY, &[Some(x), Some(y)], words, code.clone(), len as u64);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let v = if f.slope_of_input() { x } else { y };
                let args = [Some(dy), (f != Unary::Scale).then_some(v), Some(dx.var)];
                let words = vec![len as u32, factor.to_bits(), dx.accumulate];
                tape.call(&UNARY_BACKWARD, &args, words, code.clone(), 2 * len as u64);
            }
            Ok(())
        });
        y
    }

    /// `factor · x`.
    pub fn scale(&mut self, x: Var, factor: f32) -> Result<Var> {
        Ok(self.unary("scale", x, Unary::Scale, factor))
    }

    /// An activation by itself; `x` itself for [`Act::None`].
    pub fn activate(&mut self, x: Var, act: Act) -> Result<Var> {
        let (name, f) = match act {
            Act::None => return Ok(x),
            Act::Relu => ("relu", Unary::Relu),
            Act::Gelu => ("gelu", Unary::Gelu),
            Act::Tanh => ("tanh", Unary::Tanh),
            Act::Sigmoid => ("sigmoid", Unary::Sigmoid),
        };
        Ok(self.unary(name, x, f, 1.0))
    }

    /// `x²`.
    pub fn square(&mut self, x: Var) -> Result<Var> {
        Ok(self.unary("square", x, Unary::Square, 1.0))
    }

    /// `eˣ`; below -80 that of -80.
    pub fn exp(&mut self, x: Var) -> Result<Var> {
        Ok(self.unary("exp", x, Unary::Exp, 1.0))
    }

    /// `|x|`, of slope 0 at 0.
    pub fn abs(&mut self, x: Var) -> Result<Var> {
        Ok(self.unary("abs", x, Unary::Abs, 1.0))
    }

    /// `a + b`. The shape is that of `a`; `b` has the same shape, or is a row `[n]` for
    /// `a [m, n]`, a column `[m, 1]`, or a single number. More generally its shape may be the
    /// last axes of `a` (a row), or the first ones followed by ones (a column).
    ///
    /// # Errors
    /// A `b` that does not fit.
    pub fn add(&mut self, a: Var, b: Var) -> Result<Var> {
        self.sum_of("add", a, b, 1.0)
    }

    /// `a − b`; `b` as for [`add`](Self::add).
    ///
    /// # Errors
    /// A `b` that does not fit.
    pub fn sub(&mut self, a: Var, b: Var) -> Result<Var> {
        self.sum_of("sub", a, b, -1.0)
    }

    pub(super) fn spread(&self, op: &'static str, a: Var, b: Var) -> Result<Spread> {
        let (a, b) = (self.shape(a), self.shape(b));
        Spread::of(a, b).ok_or_else(|| {
            let want = "the second is neither of the same shape, nor a row, a column or one number";
            Error::shape(op, format!("{a:?} and {b:?}: {want}"))
        })
    }

    fn sum_of(&mut self, op: &'static str, a: Var, b: Var, factor: f32) -> Result<Var> {
        let spread = self.spread(op, a, b)?;
        let (shape, len) = (self.shape(a).to_vec(), self.len(a));
        let y = self.output(op, &shape, &[a, b]);
        binary(self, Some(a), b, spread, (len, factor, false), Sink { var: y, accumulate: 0 });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            if tape.same(a, b) {
                if let Some(da) = tape.sink(a) {
                    add_scaled(tape, dy, len, 1.0 + factor, da);
                }
                return Ok(());
            }
            if spread == Spread::Same {
                let (da, db) = (tape.sink(a), tape.sink(b));
                same_shape_grads(tape, dy, (None, None), (da, db), len, factor);
                return Ok(());
            }
            if let Some(da) = tape.sink(a) {
                add_scaled(tape, dy, len, 1.0, da);
            }
            if let Some(db) = tape.sink(b) {
                gather(tape, dy, None, spread, (len, factor), db);
            }
            Ok(())
        });
        Ok(y)
    }

    /// `a · b`, element by element; `b` as for [`add`](Self::add).
    ///
    /// # Errors
    /// A `b` that does not fit.
    pub fn mul(&mut self, a: Var, b: Var) -> Result<Var> {
        let spread = self.spread("mul", a, b)?;
        let (shape, len) = (self.shape(a).to_vec(), self.len(a));
        let y = self.output("mul", &shape, &[a, b]);
        binary(self, Some(a), b, spread, (len, 1.0, true), Sink { var: y, accumulate: 0 });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            if tape.same(a, b) {
                if let Some(da) = tape.sink(a) {
                    binary(tape, Some(dy), b, spread, (len, 2.0, true), da);
                }
                return Ok(());
            }
            if spread == Spread::Same {
                let (da, db) = (tape.sink(a), tape.sink(b));
                same_shape_grads(tape, dy, (Some(a), Some(b)), (da, db), len, 1.0);
                return Ok(());
            }
            if let Some(da) = tape.sink(a) {
                binary(tape, Some(dy), b, spread, (len, 1.0, true), da);
            }
            if let Some(db) = tape.sink(b) {
                gather(tape, dy, Some(a), spread, (len, 1.0), db);
            }
            Ok(())
        });
        Ok(y)
    }
}

/// Both gradients in one dispatch, of a product where the factors are given.
fn same_shape_grads(
    tape: &mut Tape,
    dy: Var,
    (a, b): (Option<Var>, Option<Var>),
    (da, db): (Option<Sink>, Option<Sink>),
    len: usize,
    factor: f32,
) {
    if da.is_none() && db.is_none() {
        return;
    }
    let accumulate = |sink: Option<Sink>| sink.map_or(0, |s| s.accumulate);
    let words = vec![len as u32, accumulate(da), accumulate(db), factor.to_bits()];
    let args = [Some(dy), db.and(a), da.and(b), da.map(|s| s.var), db.map(|s| s.var)];
    let defines = defines(&[("MUL", u32::from(a.is_some()))]);
    tape.call(&BINARY_BACKWARD, &args, words, defines, 2 * len as u64);
}

/// The gradient of a broadcast tensor: `db (+)= factor Σ dy (· times)` over its repetitions.
pub(super) fn gather(
    tape: &mut Tape,
    dy: Var,
    times: Option<Var>,
    spread: Spread,
    (len, factor): (usize, f32),
    db: Sink,
) {
    let sum = Sum { x: dy, times, scale: factor, out: db };
    match spread {
        Spread::Row(cols) => reduce::cols(tape, sum, len / cols, cols),
        Spread::Column(cols) => reduce::rows(tape, sum, len / cols, cols),
        Spread::Same | Spread::Single => reduce::all(tape, sum, len),
    }
}

mod cases {
    use super::*;

    pub(super) fn unary(backward: bool) -> Vec<Case> {
        // Every function; large arguments for the clamps.
        let lens = [1, 64, 63, 260, 257, 1000, 1028, 33];
        let mut cases = Vec::new();
        for (f, n) in Unary::ALL.into_iter().zip(lens) {
            let seed = f as u64;
            let words = vec![n as u32, 1.5_f32.to_bits(), seed as u32 % 2];
            let x = || {
                let mut x = super::super::random(seed, n);
                x.iter_mut().for_each(|v| *v *= 4.0);
                if n > 1 && !backward && f != Unary::Square {
                    (x[0], x[1]) = (if f == Unary::Exp { -90.0 } else { 90.0 }, -90.0);
                }
                Some(crate::plan::CaseArg::F(x))
            };
            let args = if backward {
                let v = (f != Unary::Scale).then(x).flatten();
                vec![arg(seed + 20, n), v, arg(seed + 40, n)]
            } else {
                vec![x(), arg(seed + 40, n)]
            };
            let words = if backward { words } else { words[..2].to_vec() };
            let mut case = Case::new(format!("{f:?} {n}"), words, args).flops(n as u64);
            if f != Unary::Scale {
                case = case.define("OP", f as u32);
            }
            cases.push(case.within(2e-5));
        }
        cases
    }

    pub(super) fn binary() -> Vec<Case> {
        // Rows, columns, MODE, MUL, accumulate, A present.
        let list = [
            (1, 1, 0, 0, 0, true),
            (5, 13, 0, 1, 1, true),
            (16, 68, 0, 1, 0, true),
            (7, 5, 1, 0, 0, true),
            (9, 20, 1, 1, 1, true),
            (65, 3, 2, 1, 0, true),
            (33, 8, 2, 0, 1, true),
            (31, 33, 3, 1, 0, true),
            (11, 4, 1, 0, 1, false),
            (8, 8, 3, 0, 0, false),
        ];
        list.into_iter()
            .map(|(m, n, mode, mul, accumulate, has_a)| {
                let seed = (m * 100 + n) as u64;
                let len = [m * n, n, m, 1][mode];
                let mut words = sizes(&[m * n, n, accumulate]);
                words.push((-0.75_f32).to_bits());
                let a = if has_a { arg(seed, m * n) } else { None };
                let args = vec![a, arg(seed + 1, len), arg(seed + 2, m * n)];
                let name = format!("{m}x{n} mode{mode} mul{mul} a{has_a}");
                let mut case = Case::new(name, words, args).flops(2 * (m * n) as u64);
                for (define, value) in [("MODE", mode as u32), ("MUL", mul)] {
                    if value != 0 {
                        case = case.define(define, value);
                    }
                }
                case
            })
            .collect()
    }

    pub(super) fn binary_backward() -> Vec<Case> {
        // Length, MUL, DA, DB, both accumulates.
        let list = [
            (1, false, true, true, 0, 0),
            (64, false, true, true, 1, 0),
            (65, true, true, true, 0, 1),
            (1024, true, true, true, 1, 0),
            (260, true, true, false, 0, 0),
            (12, true, false, true, 0, 1),
        ];
        list.into_iter()
            .map(|(n, mul, da, db, add_a, add_b)| {
                let mut words = sizes(&[n, add_a, add_b]);
                words.push((-1.0_f32).to_bits());
                let some = |seed, on: bool| if on { arg(seed, n) } else { None };
                let args = vec![
                    arg(1, n),
                    some(2, mul && db),
                    some(3, mul && da),
                    some(4, da),
                    some(5, db),
                ];
                let name = format!("{n} mul{mul} da{da} db{db}");
                let case = Case::new(name, words, args).flops(2 * n as u64);
                if mul { case.define("MUL", 1) } else { case }
            })
            .collect()
    }
}

/// CPU twins.
pub mod reference {
    use super::super::{put, relu_slope, sign_of};
    use super::*;

    fn function(t: &Twin) -> Unary {
        Unary::ALL[t.defines.get("OP").copied().unwrap_or(0) as usize]
    }

    /// `Y = f(X)`.
    pub fn unary(t: &mut Twin) {
        let (f, factor, words, x) = (function(t), t.float(1), t.words, t.read(0));
        for (y, x) in t.write(1).iter_mut().zip(x) {
            *y = match f {
                Unary::Scale => factor * x,
                Unary::Square => x * x,
                Unary::Exp if x < -80.0 => (-80.0_f32).exp(),
                Unary::Exp => x.exp(),
                Unary::Abs => x.abs(),
                f if f.is_math() => math::reference::value(f, x, words),
                _ => Act::from_code(f as u32).apply(x),
            };
        }
    }

    /// `DX (+)= f' DY`, the slope from the input or the output.
    pub fn unary_backward(t: &mut Twin) {
        let (f, factor, accumulate, words) = (function(t), t.float(1), t.size(2), t.words);
        let (dy, v) = (t.read(0), t.read(1));
        for (i, dx) in t.write(2).iter_mut().enumerate() {
            let v = v.get(i).copied().unwrap_or(0.0);
            let slope = match f {
                Unary::Scale => factor,
                Unary::Relu => relu_slope(v),
                Unary::Gelu => gelu_slope(v),
                Unary::Tanh => 1.0 - v * v,
                Unary::Sigmoid => v * (1.0 - v),
                Unary::Square => 2.0 * v,
                Unary::Exp => v,
                Unary::Abs => sign_of(v),
                f => math::reference::slope(f, v, words),
            };
            put(dx, slope * dy[i], accumulate);
        }
    }

    /// Φ(x) + x φ(x).
    pub fn gelu_slope(x: f32) -> f32 {
        let phi = 0.398_942_3 * (-(0.5 * x * x).min(80.0)).exp();
        0.5 * (1.0 + super::super::erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * phi
    }

    /// `Y (+)= A + factor B`, `factor A B` or `A / (factor B)`.
    pub fn binary(t: &mut Twin) {
        let (cols, accumulate, factor) = (t.size(1), t.size(2), t.float(3));
        let (a, b, product, quotient) = (t.read(0), t.read(1), t.is("MUL"), t.is("DIV"));
        let mode = t.defines.get("MODE").copied().unwrap_or(0);
        for (i, y) in t.write(2).iter_mut().enumerate() {
            let b = factor * b[[i, i % cols, i / cols, 0][mode as usize]];
            let value = match a.get(i) {
                None => b,
                Some(a) if product => a * b,
                Some(a) if quotient => a / b,
                Some(a) => a + b,
            };
            put(y, value, accumulate);
        }
    }

    /// `DA (+)= DY (B)`, `DB (+)= factor DY (A)`; with DIV `DY / B` and `-DY A / B`, A the quotient.
    pub fn binary_backward(t: &mut Twin) {
        if t.is("DIV") {
            return math::reference::quotient_backward(t);
        }
        let (add_a, add_b, factor) = (t.size(1), t.size(2), t.float(3));
        let (dy, a, b, product) = (t.read(0), t.read(1), t.read(2), t.is("MUL"));
        for (i, da) in t.write(3).iter_mut().enumerate() {
            put(da, if product { dy[i] * b[i] } else { dy[i] }, add_a);
        }
        for (i, db) in t.write(4).iter_mut().enumerate() {
            put(db, if product { dy[i] * a[i] } else { factor * dy[i] }, add_b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread::{self, Column, Row, Same, Single};

    #[test]
    fn what_fits_what() {
        let of = |a: &[usize], b: &[usize]| Spread::of(a, b);
        assert_eq!(of(&[2, 3], &[2, 3]), Some(Same));
        assert_eq!(of(&[2, 3], &[3]), Some(Row(3)));
        assert_eq!(of(&[2, 3], &[1, 3]), Some(Row(3)));
        assert_eq!(of(&[1, 3], &[3]), Some(Same));
        assert_eq!(of(&[4, 2, 3], &[2, 3]), Some(Row(6)));
        assert_eq!(of(&[2, 3], &[2, 1]), Some(Column(3)));
        assert_eq!(of(&[4, 2, 3], &[4, 2, 1]), Some(Column(3)));
        assert_eq!(of(&[4, 2, 3], &[8, 1]), Some(Column(3)));
        assert_eq!(of(&[4, 2, 3], &[4, 1, 1]), Some(Column(6)));
        assert_eq!(of(&[2, 3], &[1]), Some(Single));
        assert_eq!(of(&[2, 3], &[]), Some(Single));
        assert_eq!(of(&[1], &[1, 1]), Some(Same));
        assert_eq!(of(&[3, 1], &[3, 1]), Some(Same));
        assert_eq!(of(&[2, 3], &[2]), None);
        assert_eq!(of(&[2, 3], &[3, 2]), None);
        assert_eq!(of(&[2, 3], &[3, 1]), None);
        assert_eq!(of(&[3], &[2, 3]), None);
    }
}
