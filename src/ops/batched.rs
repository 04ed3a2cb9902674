//! Products of many matrices in one dispatch: the kernel of [`matmul`](super::matmul) with a product
//! for each layer of its grid.

use super::matmul::{MATMUL, Product, product};
use super::reduce::{self, Sum};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Case, CaseArg, Twin, pack_halves, unpack_halves};
use crate::tape::{Sink, Tape, Var};

/// Which operand of a batched product is stored the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transposed {
    /// Neither: `a [.., m, k] · b [.., k, n]`.
    #[default]
    Neither,
    /// The first: `aᵀ · b` of `a [.., k, m]`, `b [.., k, n]`.
    First,
    /// The second: `a · bᵀ` of `a [.., m, k]`, `b [.., n, k]`; scores of queries and keys.
    Second,
}

impl Transposed {
    fn ta(self) -> bool {
        self == Transposed::First
    }

    fn tb(self) -> bool {
        self == Transposed::Second
    }
}

/// Most products in a call: layers of a grid within WebGPU's limits.
const MOST: usize = 65_535;

/// Products to record: `C_i (+)= op(A_i) op(B_i)`, where an operand that is shared is the same for all.
#[derive(Clone, Copy)]
struct Batch {
    batch: usize,
    /// m, n and k.
    size: (usize, usize, usize),
    form: Transposed,
    /// Whether A and B are shared.
    shared: (bool, bool),
}

impl Batch {
    /// The kernel's words, those of one product first.
    fn words(self, accumulate: u32) -> Vec<u32> {
        let (m, n, k) = self.size;
        let (lda, ldb) = (if self.form.ta() { m } else { k }, if self.form.tb() { k } else { n });
        let mut words =
            sizes(&[m, n, k, accumulate as usize, lda, ldb, n, 1, k.next_multiple_of(4), 0, 0, 0]);
        let stride = |shared: bool, len: usize| if shared { 0 } else { len };
        let (a, b) = (stride(self.shared.0, m * k), stride(self.shared.1, k * n));
        words.extend(sizes(&[self.batch, a, b, m * n]));
        words
    }

    fn defines(self) -> Defines {
        let list = [("BATCH", true), ("TA", self.form.ta()), ("TB", self.form.tb())];
        list.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, 1)).collect()
    }

    fn record(self, tape: &mut Tape, a: Var, b: Var, out: Sink) {
        let (m, n, k) = self.size;
        let flops = 2 * (self.batch * m * n * k) as u64;
        // Operands that the whole batch shares make it one product with more rows.
        if self.batch == 1 || (self.shared == (false, true) && !self.form.ta()) {
            let p = Product {
                m: self.batch * m,
                n,
                k,
                ta: self.form.ta(),
                tb: self.form.tb(),
                accumulate: out.accumulate,
                ..Default::default()
            };
            return product(tape, a, b, out.var, p);
        }
        let args = [Some(a), Some(b), None, None, Some(out.var), None, None, None];
        tape.call(&MATMUL, &args, self.words(out.accumulate), self.defines(), flops);
    }

    /// The same with the gradient of an operand as its result, which is a sum over the batch where
    /// the operand is shared.
    fn gradient(self, tape: &mut Tape, a: Var, b: Var, shared: bool, out: Sink) {
        let (m, n, k) = self.size;
        if !shared || self.batch == 1 {
            return self.record(tape, a, b, out);
        }
        // Aᵀ B of operands that are both apart, summed over the batch, is one product of all rows.
        if self.form == Transposed::First && self.shared == (false, false) {
            let p = Product {
                m,
                n,
                k: self.batch * k,
                ta: true,
                accumulate: out.accumulate,
                ..Default::default()
            };
            return product(tape, a, b, out.var, p);
        }
        let each = tape.output("d.each", &[self.batch, m, n], &[]);
        self.record(tape, a, b, Sink { var: each, accumulate: 0 });
        let sum = Sum { x: each, times: None, scale: 1.0, out };
        reduce::cols(tape, sum, self.batch, m * n);
    }
}

/// Extents of a matrix in a batch: how many there are, rows and columns.
fn matrix(shape: &[usize]) -> Option<(usize, usize, usize)> {
    let (&cols, rest) = shape.split_last()?;
    let (&rows, batch) = rest.split_last()?;
    Some((batch.iter().product(), rows, cols))
}

impl Tape {
    /// Products of matrices side by side: `a [b.., m, k] · b [b.., k, n] → [b.., m, n]`, one
    /// dispatch for all, with the axes before the last two the same in both. One of the two may be
    /// a single matrix (`[k, n]`, or ones before it), which all products then share; its gradient is
    /// the sum of theirs. `transposed` says whether an operand is stored the other way round.
    ///
    /// # Errors
    /// Operands of fewer than two axes, inner sizes or batches that differ, an axis of length 0,
    /// more than 65,535 products.
    pub fn bmm(&mut self, a: Var, b: Var, transposed: Transposed) -> Result<Var> {
        let (a_shape, b_shape) = (self.shape(a).to_vec(), self.shape(b).to_vec());
        let wrong = |why: &str| {
            let detail = format!("{a_shape:?} · {b_shape:?}, transposed {transposed:?}: {why}");
            Err(Error::shape("bmm", detail))
        };
        let (Some((a_batch, a_rows, a_cols)), Some((b_batch, b_rows, b_cols))) =
            (matrix(&a_shape), matrix(&b_shape))
        else {
            return wrong("want two axes or more");
        };
        let (m, k) = if transposed.ta() { (a_cols, a_rows) } else { (a_rows, a_cols) };
        let (k2, n) = if transposed.tb() { (b_cols, b_rows) } else { (b_rows, b_cols) };
        if k != k2 {
            return wrong("inner sizes differ");
        }
        let (a_lead, b_lead) = (&a_shape[..a_shape.len() - 2], &b_shape[..b_shape.len() - 2]);
        let batch = a_batch.max(b_batch);
        let shared = (a_batch == 1 && batch > 1, b_batch == 1 && batch > 1);
        if !(a_lead == b_lead || a_batch == 1 || b_batch == 1) {
            return wrong("the axes before the last two differ, and neither operand is one matrix");
        }
        if batch * m * n * k == 0 || a_batch * b_batch == 0 {
            return wrong("there is no element");
        }
        if batch > MOST {
            return wrong("more than 65535 products in one call: take them in parts");
        }
        let longer = if a_batch == batch && (b_batch != batch || a_lead.len() >= b_lead.len()) {
            a_lead
        } else {
            b_lead
        };
        let shape = [longer, &[m, n]].concat();
        let y = self.output("bmm", &shape, &[a, b]);
        let all = Batch { batch, size: (m, n, k), form: transposed, shared };
        all.record(self, a, b, Sink { var: y, accumulate: 0 });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            let of = |form, size, shared| Batch { batch, size, form, shared };
            if let Some(da) = tape.sink(a) {
                // C = A B: dA = dC Bᵀ. C = A Bᵀ: dA = dC B. C = Aᵀ B: dA = B dCᵀ.
                match transposed {
                    Transposed::Neither => of(Transposed::Second, (m, k, n), (false, shared.1))
                        .gradient(tape, dy, b, shared.0, da),
                    Transposed::Second => of(Transposed::Neither, (m, k, n), (false, shared.1))
                        .gradient(tape, dy, b, shared.0, da),
                    Transposed::First => of(Transposed::Second, (k, m, n), (shared.1, false))
                        .gradient(tape, b, dy, shared.0, da),
                }
            }
            if let Some(db) = tape.sink(b) {
                // C = A B: dB = Aᵀ dC. C = A Bᵀ: dB = dCᵀ A. C = Aᵀ B: dB = A dC.
                match transposed {
                    Transposed::Neither => of(Transposed::First, (k, n, m), (shared.0, false))
                        .gradient(tape, a, dy, shared.1, db),
                    Transposed::Second => of(Transposed::First, (n, k, m), (false, shared.0))
                        .gradient(tape, dy, a, shared.1, db),
                    Transposed::First => of(Transposed::Neither, (k, n, m), (shared.0, false))
                        .gradient(tape, a, dy, shared.1, db),
                }
            }
            Ok(())
        });
        Ok(y)
    }
}

/// Batches for the tests of the matmul kernel: every layout, odd and whole vectors, few rows and
/// many, a shared operand on either side.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Products, m, n, k, A shared, B shared.
    let list = [
        (3, 5, 7, 9, false, false),
        (5, 8, 12, 4, false, false),
        (2, 36, 20, 64, true, false),
        (3, 33, 65, 17, false, true),
        (7, 4, 4, 8, false, true),
        (9, 72, 72, 720, false, false),
    ];
    for form in [Transposed::Neither, Transposed::Second, Transposed::First] {
        for (i, (batch, m, n, k, a_shared, b_shared)) in list.into_iter().enumerate() {
            let all = Batch { batch, size: (m, n, k), form, shared: (a_shared, b_shared) };
            let count = |shared: bool| if shared { 1 } else { batch };
            let (a, b) = (arg(1, count(a_shared) * m * k), arg(2, count(b_shared) * k * n));
            let args = vec![a, b, None, None, arg(3, batch * m * n), None, None, None];
            let name = format!("{batch} of {m}x{n}x{k} {form:?} shared {a_shared} {b_shared}");
            let mut case = Case::new(name, all.words(i as u32 % 2), args)
                .within(if k > 100 { 1e-4 } else { 2e-5 })
                .flops(2 * (batch * m * n * k) as u64);
            case.defines = all.defines();
            // Weights by halves.
            if !form.ta() && b_shared {
                let mut half = case.clone().define("HALF", 1);
                if let Some(CaseArg::F(values)) = &half.args[1] {
                    half.args[1] = Some(CaseArg::U(pack_halves(values)));
                }
                cases.push(Case { name: format!("{} halves", case.name), ..half });
            }
            cases.push(case);
        }
    }
    cases
}

/// CPU twin.
pub mod reference {
    use super::*;

    /// `C_i (+)= op(A_i) op(B_i)`.
    pub fn products(t: &mut Twin) {
        let [m, n, k, accumulate, lda, ldb, ldc] = [0, 1, 2, 3, 4, 5, 6].map(|i| t.size(i));
        let [batch, stride_a, stride_b, stride_c] = [12, 13, 14, 15].map(|i| t.size(i));
        let (ta, tb, a) = (t.is("TA"), t.is("TB"), t.read(0));
        let b = if t.is("HALF") { unpack_halves(t.words_of(1)) } else { t.read(1) };
        for p in 0..batch {
            let (a, b) = (&a[p * stride_a..], &b[p * stride_b..]);
            let a_at = |i: usize, l: usize| if ta { a[l * lda + i] } else { a[i * lda + l] };
            let b_at = |l: usize, j: usize| if tb { b[j * ldb + l] } else { b[l * ldb + j] };
            for i in 0..m {
                for j in 0..n {
                    let dot = (0..k).map(|l| a_at(i, l) * b_at(l, j)).sum();
                    super::super::put(&mut t.write(4)[p * stride_c + i * ldc + j], dot, accumulate);
                }
            }
        }
    }
}
