//! Rows of a matrix taken by number, and rows added up where numbers say: each the gradient of the
//! other, without atomics and in a fixed order.
//!
//! Adding up needs to know which entries share a row. For that the entries are sorted by row, stably:
//! on the host where the numbers are known when recording ([`Tape::rows`]), otherwise on the device.
//! There blocks of 256 are sorted by counting, and then 16 sorted runs at a time are merged, every
//! entry finding its place by binary search: one dispatch up to 256 entries, two up to 4,096, three up
//! to 65,536, four up to a million, `O(m log m)` work in each of the merges, and neither a barrier nor
//! an atomic.

use super::elementwise::vectors;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// Rows by number; see `shaders/gather.wgsl`.
pub static GATHER: Kernel = Kernel {
    name: "gather",
    source: include_str!("../../shaders/gather.wgsl"),
    bindings: &[
        // At most a row for each number.
        Binding::read("X").part(|p, _, len| [len.min(u64::from(p[1]) * u64::from(p[2])), 0]),
        Binding::read("ROWS"),
        Binding::write("OUT").adds(3),
    ],
    step: false,
    launch: |_, words, _| vectors(words[2] * words[1], words[1].is_multiple_of(4)),
    twin: reference::gather,
    cases: cases::gather,
};

/// Entries sorted by row; see `shaders/sort_rows.wgsl`.
pub static SORT_ROWS: Kernel = Kernel {
    name: "sort_rows",
    source: include_str!("../../shaders/sort_rows.wgsl"),
    bindings: &[Binding::read("ROWS"), Binding::read("ORDER").or_none(), Binding::write("OUT")],
    step: false,
    launch: |_, words, _| {
        let iterations = if words[1] == 0 { BLOCK } else { WAYS * words[2] as usize };
        Launch::of(grid(words[0] as usize, 64)).iterations(iterations as u64)
    },
    twin: reference::sort_rows,
    cases: cases::sort,
};

/// Rows added up by number; see `shaders/scatter_add.wgsl`.
pub static SCATTER_ADD: Kernel = Kernel {
    name: "scatter_add",
    source: include_str!("../../shaders/scatter_add.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("ROWS"),
        Binding::read("ORDER"),
        Binding::read("BASE").or_none(),
        // At most a row for each entry.
        Binding::write("OUT").part(|p, defines, len| match defines.contains_key("RUNS") {
            true => [len.min(u64::from(p[1]) * u64::from(p[2])); 2],
            false => [0, len],
        }),
    ],
    step: false,
    launch: |_, words, defines| {
        let rows = if defines.contains_key("RUNS") { words[2] } else { words[0] };
        // All entries may be of one row.
        let most = u64::from(words[2] + words[3]);
        vectors(rows * words[1], words[1].is_multiple_of(4)).iterations(most)
    },
    twin: reference::scatter_add,
    cases: cases::scatter,
};

/// Entries that the first pass of a sort puts in order.
const BLOCK: usize = 256;
/// Runs that each further pass merges.
const WAYS: usize = 16;

/// Steps of a binary search among `len` entries.
fn steps(len: usize) -> usize {
    (usize::BITS - len.leading_zeros()) as usize
}

/// Numbers of rows, and their entries sorted by row where that is known already.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Unsigned numbers, of any shape.
    pub ids: Var,
    /// 0 to their count, sorted by (number, entry).
    pub order: Option<Var>,
}

impl From<Var> for Rows {
    /// Numbers that will be sorted where a gradient asks for it.
    fn from(ids: Var) -> Self {
        Rows { ids, order: None }
    }
}

impl Tape {
    /// Numbers of rows that are known now, of a matrix with `of` rows: constants, sorted here.
    ///
    /// # Errors
    /// A number that is no row; none at all.
    pub fn rows(&mut self, name: &str, ids: &[u32], of: usize) -> Result<Rows> {
        if let Some(at) = ids.iter().position(|id| *id as usize >= of) {
            let detail = format!("{name}[{at}] is row {}: there are {of}, from 0 on", ids[at]);
            return Err(Error::shape("rows", detail));
        }
        if ids.is_empty() {
            return Err(Error::shape("rows", format!("{name} has no number: want one or more")));
        }
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|i| ids[*i as usize]);
        let bits = |list: &[u32]| list.iter().map(|v| f32::from_bits(*v)).collect::<Vec<_>>();
        let order = self.constant(&format!("{name}.order"), &[ids.len()], &bits(&order))?;
        let ids = self.constant(name, &[ids.len()], &bits(ids))?;
        Ok(Rows { ids, order: Some(order) })
    }

    /// The same numbers with their entries sorted, for several uses that have gradients: otherwise
    /// each of them sorts for itself.
    ///
    /// # Errors
    /// No numbers.
    pub fn sort_rows(&mut self, ids: Var) -> Result<Rows> {
        let m = self.len(ids);
        if m == 0 {
            let detail = format!("{:?} has no number: want one or more", self.shape(ids));
            return Err(Error::shape("sort_rows", detail));
        }
        let (mut order, mut width) = (None, 0);
        loop {
            let out = self.output("order", &[m], &[]);
            let words = sizes(&[m, width, steps(width)]);
            self.call(&SORT_ROWS, &[Some(ids), order, Some(out)], words, Defines::new(), 0);
            (order, width) = (Some(out), if width == 0 { BLOCK } else { width * WAYS });
            if width >= m {
                return Ok(Rows { ids, order });
            }
        }
    }

    /// `out[i] = x[rows[i]]`: `[.., d]` of `x [n, d]`, with the shape of the numbers in front; rows may
    /// come up any number of times. Numbers that are not known when recording
    /// ([`rows`](Self::rows) refuses wrong ones) are clamped to the last row. Its gradient adds up
    /// what entries of the same row got, in the order of the entries; see
    /// [`ops::gather`](crate::ops::gather) for how they find each other.
    ///
    /// # Errors
    /// A tensor without elements, no numbers.
    pub fn gather(&mut self, x: Var, rows: impl Into<Rows>) -> Result<Var> {
        self.take("gather", x, rows.into())
    }

    /// `torch.nn.functional.embedding`: the rows `ids [..]` of `table [v, d]`, `[.., d]`; as
    /// [`gather`](Self::gather). Where the table is a parameter, its gradient is added to only in the
    /// rows that came up.
    ///
    /// # Errors
    /// As there.
    pub fn embedding(&mut self, table: Var, ids: impl Into<Rows>) -> Result<Var> {
        self.take("embedding", table, ids.into())
    }

    fn take(&mut self, op: &'static str, x: Var, rows: Rows) -> Result<Var> {
        let ((n, cols), m) = (self.rows_cols(x), self.len(rows.ids));
        self.check_rows(op, (x, n * cols > 0), rows, m > 0)?;
        let mut shape = self.shape(rows.ids).to_vec();
        shape.push(cols);
        let out = self.output(op, &shape, &[x]);
        let words = sizes(&[n, cols, m, 0]);
        let args = [Some(x), Some(rows.ids), Some(out)];
        self.call(&GATHER, &args, words, Defines::new(), 0);
        self.on_backward(&[out], move |tape| {
            if let (Some(dout), Some(dx)) = (tape.grad(out), tape.sink(x)) {
                add_rows(tape, dout, rows, None, (n, cols), dx)?;
            }
            Ok(())
        });
        Ok(out)
    }

    /// `out[r] = Σ x[i] over i with rows[i] = r`, `[n, d]` of `x [m, d]` and m numbers: 0 where none
    /// is r. Its gradient is [`gather`](Self::gather).
    ///
    /// # Errors
    /// As many numbers as rows are wanted, at least one of each.
    pub fn scatter(&mut self, x: Var, rows: impl Into<Rows>, n: usize) -> Result<Var> {
        self.add_up("scatter", None, x, rows.into(), n)
    }

    /// The same added to `base [n, d]`; `base` itself stays as it is.
    ///
    /// # Errors
    /// As there, and a `base` of another width.
    pub fn scatter_add(&mut self, base: Var, x: Var, rows: impl Into<Rows>) -> Result<Var> {
        let (n, cols) = self.rows_cols(base);
        if cols != self.rows_cols(x).1 {
            let (base, x) = (self.shape(base), self.shape(x));
            let detail = format!("base {base:?}, x {x:?}: want rows of one width");
            return Err(Error::shape("scatter_add", detail));
        }
        self.add_up("scatter_add", Some(base), x, rows.into(), n)
    }

    fn add_up(
        &mut self,
        op: &'static str,
        base: Option<Var>,
        x: Var,
        rows: Rows,
        n: usize,
    ) -> Result<Var> {
        let (m, cols) = self.rows_cols(x);
        self.check_rows(op, (x, n * m * cols > 0), rows, self.len(rows.ids) == m)?;
        let inputs: Vec<Var> = [base, Some(x)].into_iter().flatten().collect();
        let out = self.output(op, &[n, cols], &inputs);
        add_rows(self, x, rows, base, (n, cols), Sink { var: out, accumulate: 0 })?;
        self.on_backward(&[out], move |tape| {
            let Some(dout) = tape.grad(out) else { return Ok(()) };
            if let Some(dbase) = base.and_then(|b| tape.sink(b)) {
                super::elementwise::add_scaled(tape, dout, n * cols, 1.0, dbase);
            }
            if let Some(dx) = tape.sink(x) {
                let words = sizes(&[n, cols, m, dx.accumulate as usize]);
                let args = [Some(dout), Some(rows.ids), Some(dx.var)];
                tape.call(&GATHER, &args, words, Defines::new(), 0);
            }
            Ok(())
        });
        Ok(out)
    }

    fn check_rows(&self, op: &'static str, x: (Var, bool), rows: Rows, fits: bool) -> Result<()> {
        let sorted = rows.order.is_none_or(|o| self.len(o) == self.len(rows.ids));
        if x.1 && fits && sorted {
            return Ok(());
        }
        let (x, ids) = (self.shape(x.0), self.shape(rows.ids));
        let detail = format!(
            "{x:?} and numbers {ids:?}: want rows of one or more elements, and one or more numbers \
             (as many as rows where they are scattered)"
        );
        Err(Error::shape(op, detail))
    }
}

/// `out (+)= base + Σ of the rows of x by number`.
fn add_rows(
    tape: &mut Tape,
    x: Var,
    rows: Rows,
    base: Option<Var>,
    (n, cols): (usize, usize),
    out: Sink,
) -> Result<()> {
    let Rows { ids, order } = match rows.order {
        Some(_) => rows,
        None => tape.sort_rows(rows.ids)?,
    };
    let m = tape.len(ids);
    let words = sizes(&[n, cols, m, steps(m)]);
    let mut defines = Defines::new();
    if out.accumulate != 0 {
        defines.insert("RUNS", 1);
    }
    let args = [Some(x), Some(ids), order, base, Some(out.var)];
    tape.call(&SCATTER_ADD, &args, words, defines, (m * cols) as u64);
    Ok(())
}

mod cases {
    use super::*;

    /// Numbers of rows, some of them often, one in nine past the last.
    fn ids(m: usize, n: usize) -> Vec<u32> {
        let id = |i: usize| if i % 9 == 4 { n + i } else { (i * i * 7 + i / 3) % n };
        (0..m).map(|i| id(i) as u32).collect()
    }

    fn sorted(ids: &[u32]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|i| ids[*i as usize]);
        order
    }

    // Rows of the matrix, columns, numbers.
    const SHAPES: [(usize, usize, usize); 6] =
        [(1, 1, 1), (5, 3, 9), (70, 8, 20), (3, 17, 130), (300, 4, 31), (9, 64, 200)];

    pub(super) fn gather() -> Vec<Case> {
        let shapes = SHAPES.into_iter().enumerate();
        shapes
            .map(|(i, (n, cols, m))| {
                let args = vec![arg(1, n * cols), Some(CaseArg::U(ids(m, n))), arg(2, m * cols)];
                Case::new(format!("{m} of {n}x{cols}"), sizes(&[n, cols, m, i % 2]), args)
            })
            .collect()
    }

    pub(super) fn scatter() -> Vec<Case> {
        let shapes = SHAPES.into_iter().enumerate();
        let each = shapes.flat_map(|(i, shape)| [0, 1].map(|runs| (i, shape, runs)));
        each.map(|(i, (n, cols, m), runs)| {
            let (ids, base) = (ids(m, n), if runs + i % 2 == 0 { arg(3, n * cols) } else { None });
            let order = CaseArg::U(sorted(&ids));
            let args =
                vec![arg(1, m * cols), Some(CaseArg::U(ids)), Some(order), base, arg(2, n * cols)];
            let name = format!("{m} to {n}x{cols} runs {runs}");
            let case = Case::new(name, sizes(&[n, cols, m, steps(m)]), args);
            let case = if runs == 1 { case.define("RUNS", 1) } else { case };
            // Sums of a hundred and more in another order than that of rounding.
            case.within(2e-5).flops((m * cols) as u64)
        })
        .collect()
    }

    pub(super) fn sort() -> Vec<Case> {
        let mut cases = Vec::new();
        // Entries, and how long the runs are that are sorted already.
        for (m, width) in
            [(1, 0), (63, 0), (256, 0), (700, 0), (700, 256), (5000, 256), (5000, 4096), (40, 3)]
        {
            let ids = ids(m, 50);
            let order = (width > 0).then(|| {
                let mut order: Vec<u32> = (0..m as u32).collect();
                order.chunks_mut(width).for_each(|run| run.sort_by_key(|i| ids[*i as usize]));
                CaseArg::U(order)
            });
            let args = vec![Some(CaseArg::U(ids)), order, Some(CaseArg::U(vec![7; m]))];
            cases.push(Case::new(
                format!("{m} by {width}"),
                sizes(&[m, width, steps(width)]),
                args,
            ));
        }
        cases
    }
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;

    /// Rows by number.
    pub fn gather(t: &mut Twin) {
        let [n, cols, m, accumulate] = [0, 1, 2, 3].map(|i| t.size(i));
        let (x, ids) = (t.read(0), t.words_of(1).to_vec());
        for (i, id) in ids.iter().enumerate().take(m) {
            let row = (*id as usize).min(n - 1);
            for c in 0..cols {
                put(&mut t.write(2)[i * cols + c], x[row * cols + c], accumulate);
            }
        }
    }

    /// Blocks, or runs merged, in the order of (row, entry).
    pub fn sort_rows(t: &mut Twin) {
        let (m, width) = (t.size(0), t.size(1));
        let ids = t.words_of(0).to_vec();
        let mut order: Vec<u32> = match t.has(1) {
            true => t.words_of(1).to_vec(),
            false => (0..m as u32).collect(),
        };
        let whole = if width == 0 { BLOCK } else { width * WAYS };
        order.chunks_mut(whole).for_each(|run| run.sort_by_key(|i| (ids[*i as usize], *i)));
        let bits: Vec<f32> = order.into_iter().map(f32::from_bits).collect();
        t.write(2).copy_from_slice(&bits);
    }

    /// Rows added up by number; sums in f64.
    pub fn scatter_add(t: &mut Twin) {
        let [n, cols, m] = [0, 1, 2].map(|i| t.size(i));
        let (x, ids, base, runs) = (t.read(0), t.words_of(1).to_vec(), t.read(3), t.is("RUNS"));
        for c in 0..cols {
            let mut sums = vec![0.0_f64; n];
            let mut there = vec![false; n];
            for i in 0..m {
                let row = (ids[i] as usize).min(n - 1);
                sums[row] += f64::from(x[i * cols + c]);
                there[row] = true;
            }
            for r in (0..n).filter(|r| there[*r] || !runs) {
                let at = r * cols + c;
                let base = base.get(at).copied().unwrap_or(0.0);
                put(&mut t.write(4)[at], base + sums[r] as f32, usize::from(runs));
            }
        }
    }
}
