//! Outer products, row by row, as tensor fusion takes them.

use super::elementwise::vectors;
use super::reduce::row_launch;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// `Y[r] = A[r] B[r]ᵀ`; see `shaders/outer.wgsl`.
pub static OUTER: Kernel = Kernel {
    name: "outer",
    source: include_str!("../../shaders/outer.wgsl"),
    bindings: &[Binding::read("A"), Binding::read("B"), Binding::write("Y")],
    step: false,
    launch: |_, words, _| match [words[2], words[3]].map(|n| n.is_multiple_of(4)) {
        [true, _] => vectors(words[0], true),
        [_, true] => Launch::of(grid(words[0] as usize, 256)).with("QUADS", 1),
        _ => vectors(words[0], false),
    },
    twin: reference::outer,
    cases: cases::forward,
};

/// Both gradients; see `shaders/outer_backward.wgsl`.
pub static OUTER_BACKWARD: Kernel = Kernel {
    name: "outer_backward",
    source: include_str!("../../shaders/outer_backward.wgsl"),
    bindings: &[
        Binding::read("DY"),
        Binding::read("A").or_none(),
        Binding::read("B").or_none(),
        Binding::write("DA").or_none().adds(3),
        Binding::write("DB").or_none().adds(4),
    ],
    step: false,
    launch,
    twin: reference::outer_backward,
    cases: cases::backward,
};

fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let [rows, p, q, .., wanted] = [0, 1, 2, 3, 4, 5].map(|i| words[i] as usize);
    let sums = row_launch(family, rows * p, q, q.is_multiple_of(4));
    let size = sums.defines["WG"] as usize;
    let shared = ["TREE", "LANES"].iter().any(|name| sums.defines.contains_key(name));
    let row_groups = match (wanted & 1, shared) {
        (0, _) => 0,
        (_, true) => rows * p,
        (_, false) => (rows * p).div_ceil(64),
    };
    let quads = if q.is_multiple_of(4) { q / 4 } else { q };
    let col_groups = if wanted & 2 == 0 { 0 } else { (rows * quads).div_ceil(size) };
    let launch = Launch { groups: grid(row_groups + col_groups, 1), ..sums };
    launch.iterations(p.max(q) as u64)
}

/// The gradients that have a place to go, in one dispatch.
fn gradients(
    tape: &mut Tape,
    (dy, a, b): (Var, Var, Var),
    (rows, p, q, pitch): (usize, usize, usize, usize),
    (da, db): (Option<Sink>, Option<Sink>),
) {
    let wanted = usize::from(da.is_some()) + 2 * usize::from(db.is_some());
    if wanted == 0 {
        return;
    }
    let accumulate = |sink: Option<Sink>| sink.map_or(0, |s| s.accumulate as usize);
    let words = sizes(&[rows, p, q, accumulate(da), accumulate(db), wanted, pitch]);
    let args = [Some(dy), db.map(|_| a), da.map(|_| b), da.map(|s| s.var), db.map(|s| s.var)];
    let flops = 2 * wanted.count_ones() as usize * rows * p * q;
    tape.call(&OUTER_BACKWARD, &args, words, Defines::new(), flops as u64);
}

impl Tape {
    /// The outer product of each row: `a [n, p]`, `b [n, q] → [n, p, q]`, element
    /// `a[r, i] · b[r, j]`. For tensor fusion (arXiv:1707.07250) put a 1 before each row first, by
    /// [`prepend_one`](Self::prepend_one), so that the products with 1 keep the rows themselves.
    ///
    /// # Errors
    /// Operands that are not matrices of equally many rows; a size of 0.
    pub fn outer(&mut self, a: Var, b: Var) -> Result<Var> {
        let (rows, p, q) = self.outer_shape(a, b)?;
        self.outer_within((a, b), (rows, p, q), &[rows, p, q])
    }

    /// The same as rows of whole fours, `[n, p q]` and up to three columns of zeros after it: what reads them in
    /// fours, as products do, is faster.
    ///
    /// # Errors
    /// As [`outer`](Self::outer).
    pub fn outer_in_fours(&mut self, a: Var, b: Var) -> Result<Var> {
        let (rows, p, q) = self.outer_shape(a, b)?;
        let pitch = (p * q).next_multiple_of(4);
        self.outer_within((a, b), (rows, p, q), &[rows, pitch])
    }

    fn outer_shape(&self, a: Var, b: Var) -> Result<(usize, usize, usize)> {
        match (self.shape(a), self.shape(b)) {
            (&[n, p], &[n2, q]) if n == n2 && n * p * q > 0 => Ok((n, p, q)),
            (a, b) => {
                let detail = format!("{a:?} and {b:?}: want [n, p] and [n, q], none of them 0");
                Err(Error::shape("outer", detail))
            }
        }
    }

    /// Of a pair of these sizes, in that shape.
    fn outer_within(
        &mut self,
        (a, b): (Var, Var),
        (rows, p, q): (usize, usize, usize),
        shape: &[usize],
    ) -> Result<Var> {
        let pitch = shape[1..].iter().product();
        let y = self.output("outer", shape, &[a, b]);
        let words = sizes(&[rows * pitch, p, q, pitch]);
        let args = [Some(a), Some(b), Some(y)];
        self.call(&OUTER, &args, words, Defines::new(), (rows * p * q) as u64);
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            let size = (rows, p, q, pitch);
            if tape.same(a, b) {
                // One gradient takes both contributions, one after the other.
                let first = tape.sink(a);
                gradients(tape, (dy, a, b), size, (first, None));
                let second = tape.sink(b);
                gradients(tape, (dy, a, b), size, (None, second));
            } else {
                let sinks = (tape.sink(a), tape.sink(b));
                gradients(tape, (dy, a, b), size, sinks);
            }
            Ok(())
        });
        Ok(y)
    }

    /// A 1 before each row: `[.., n] → [.., n + 1]`.
    ///
    /// # Errors
    /// A tensor without elements.
    pub fn prepend_one(&mut self, x: Var) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let mut shape = self.shape(x).to_vec();
        if rows * cols == 0 {
            return Err(Error::shape("prepend_one", format!("{shape:?} has no element")));
        }
        match shape.last_mut() {
            Some(last) => *last = 1,
            None => shape.push(1),
        }
        let ones = self.constant("one", &shape, &vec![1.0; rows])?;
        self.concat(&[ones, x])
    }
}

mod cases {
    use super::*;

    /// Rows, p and q: one sum to an invocation, to a subgroup and to a workgroup; whole vectors and
    /// not; long sums.
    const SHAPES: [(usize, usize, usize); 7] =
        [(1, 1, 1), (3, 5, 7), (70, 2, 17), (5, 9, 20), (2, 33, 68), (2, 3, 1100), (9, 17, 33)];

    pub(super) fn forward() -> Vec<Case> {
        SHAPES
            .into_iter()
            .map(|(n, p, q)| {
                let pitch = pitch(n, p, q);
                let args = vec![arg(1, n * p), arg(2, n * q), arg(3, n * pitch)];
                let words = sizes(&[n * pitch, p, q, pitch]);
                Case::new(format!("{n} of {p}x{q}"), words, args).flops((n * p * q) as u64)
            })
            .collect()
    }

    /// Rows as they are, or of whole fours where there are three or nine.
    fn pitch(n: usize, p: usize, q: usize) -> usize {
        (p * q).next_multiple_of(if matches!(n, 3 | 9) { 4 } else { 1 })
    }

    pub(super) fn backward() -> Vec<Case> {
        let wanted = [3, 3, 3, 1, 3, 3, 2];
        SHAPES
            .into_iter()
            .zip(wanted)
            .enumerate()
            .map(|(i, ((n, p, q), wanted))| {
                let (da, db) = (wanted & 1 == 1, wanted & 2 == 2);
                let some = |on: bool, seed, len| if on { arg(seed, len) } else { None };
                let args = vec![
                    arg(1, n * pitch(n, p, q)),
                    some(db, 2, n * p),
                    some(da, 3, n * q),
                    some(da, 4, n * p),
                    some(db, 5, n * q),
                ];
                let words = sizes(&[n, p, q, i % 2, i / 2 % 2, wanted, pitch(n, p, q)]);
                let case = Case::new(format!("{n} of {p}x{q}, {wanted}"), words, args);
                case.within(2e-5).flops(4 * (n * p * q) as u64)
            })
            .collect()
    }
}

/// CPU twins. They add in f64: the sum itself, not one order of rounding.
pub mod reference {
    use super::super::put;
    use super::*;

    /// `Y[r, i, j] = A[r, i] B[r, j]`, then zeros.
    pub fn outer(t: &mut Twin) {
        let (p, q, pitch) = (t.size(1), t.size(2), t.size(3));
        let (a, b) = (t.read(0), t.read(1));
        for (at, y) in t.write(2).iter_mut().enumerate() {
            let (r, col) = (at / pitch, at % pitch);
            *y = if col < p * q { a[r * p + col / q] * b[r * q + col % q] } else { 0.0 };
        }
    }

    /// `DA[r, i] (+)= Σ DY[r, i, ·] B[r, ·]`, `DB[r, j] (+)= Σ DY[r, ·, j] A[r, ·]`.
    pub fn outer_backward(t: &mut Twin) {
        let [p, q, add_a, add_b, pitch] = [1, 2, 3, 4, 6].map(|i| t.size(i));
        let (dy, a, b) = (t.read(0), t.read(1), t.read(2));
        let times = |x: f32, y: f32| f64::from(x) * f64::from(y);
        for (at, da) in t.write(3).iter_mut().enumerate() {
            let sum: f64 =
                (0..q).map(|j| times(dy[at / p * pitch + at % p * q + j], b[at / p * q + j])).sum();
            put(da, sum as f32, add_a);
        }
        for (at, db) in t.write(4).iter_mut().enumerate() {
            let (r, j) = (at / q, at % q);
            let sum: f64 = (0..p).map(|i| times(dy[r * pitch + i * q + j], a[r * p + i])).sum();
            put(db, sum as f32, add_b);
        }
    }
}
