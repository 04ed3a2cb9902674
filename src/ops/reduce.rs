//! Sums over rows, over columns and over everything.

use super::elementwise::{Spread, broadcast};
use super::{arg, sizes};
use crate::error::Result;
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// `OUT[r] (+)= scale Σ X[r, ·] (TIMES[r, ·])`; see `shaders/reduce_rows.wgsl`.
pub static REDUCE_ROWS: Kernel = Kernel {
    name: "reduce_rows",
    source: include_str!("../../shaders/reduce_rows.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("TIMES").or_none(),
        Binding::write("OUT").adds(3),
    ],
    step: false,
    launch: |family, words, _| {
        let [rows, cols, len] = [0, 1, 2].map(|i| words[i] as usize);
        row_launch(family, rows, cols, cols % 4 == 0 && len % 4 == 0)
    },
    twin: reference::reduce_rows,
    cases: cases::rows,
};

/// `OUT[c] (+)= scale Σ X[·, c] (TIMES[·, c])`; see `shaders/reduce_cols.wgsl`.
pub static REDUCE_COLS: Kernel = Kernel {
    name: "reduce_cols",
    source: include_str!("../../shaders/reduce_cols.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("TIMES").or_none(),
        Binding::write("OUT").adds(3),
    ],
    step: false,
    launch: cols_launch,
    twin: reference::reduce_cols,
    cases: cases::cols,
};

/// The launch of a kernel that imports `shared/row.wgsl`: how its rows are spread out.
pub(crate) fn row_launch(family: Family, rows: usize, cols: usize, by_four: bool) -> Launch {
    // On a CPU adapter (Mesa 25, two cores) an invocation a row is up to five times as fast as a
    // subgroup a row at 32 columns, equal at 1024; with fewer than 64 rows it leaves lanes idle.
    let alone = Launch::of(grid(rows, 64)).with("WG", 64);
    let launch = match family {
        // A short row is not worth sharing.
        _ if cols <= 16 => alone,
        Family::Tiled => {
            let size = if cols <= 1024 { 64 } else { 256 };
            Launch::of(grid(rows, 1)).with("TREE", size).with("WG", size)
        }
        Family::Wide(lanes) if rows < 64 => {
            Launch::of(grid(rows, 1)).with("LANES", lanes).with("WG", lanes)
        }
        Family::Wide(_) | Family::Plain => alone,
    };
    if by_four { launch.with("VEC", 1) } else { launch }
}

fn cols_launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let [rows, cols, chunk] = [0, 1, 2].map(|i| words[i] as usize);
    // A sum over nothing has no chunk at all.
    let (chunk, by_four) = (chunk.max(1), cols % 4 == 0);
    let steps = if by_four { cols / 4 } else { cols };
    let (columns, size) = match family {
        Family::Tiled if chunk > 8 => (32, 256),
        Family::Wide(lanes) => (lanes as usize, lanes),
        _ => (64, 64),
    };
    let [x, y, _] = grid(steps, columns);
    let mut launch = Launch::of([x, y, rows.div_ceil(chunk) as u32]).with("WG", size);
    if size == 256 {
        launch = launch.with("TILED", 1);
    }
    if by_four { launch.with("VEC", 1) } else { launch }
}

/// A sum to record: `out (+)= scale Σ x (· times)`.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    /// What is summed.
    pub x: Var,
    /// What it is multiplied by first.
    pub times: Option<Var>,
    /// Factor on the sum.
    pub scale: f32,
    /// Where it goes.
    pub out: Sink,
}

/// Sums of `rows` rows of `cols`.
pub(crate) fn rows(tape: &mut Tape, sum: Sum, rows: usize, cols: usize) {
    row_call(tape, sum, rows, cols, rows * cols);
}

fn row_call(tape: &mut Tape, sum: Sum, rows: usize, cols: usize, len: usize) {
    let mut words = sizes(&[rows, cols, len, sum.out.accumulate as usize]);
    words.push(sum.scale.to_bits());
    let args = [Some(sum.x), sum.times, Some(sum.out.var)];
    tape.call(&REDUCE_ROWS, &args, words, Defines::new(), 2 * len as u64);
}

/// The sum of all `len` elements; in two stages where there are many.
pub(crate) fn all(tape: &mut Tape, sum: Sum, len: usize) {
    if len <= 1 << 16 {
        row_call(tape, sum, 1, len, len);
        return;
    }
    let pieces = (len >> 13).min(256);
    let piece = len.div_ceil(pieces).next_multiple_of(4);
    let pieces = len.div_ceil(piece);
    let part = tape.output("partial", &[pieces], &[]);
    let first = Sum { scale: 1.0, out: Sink { var: part, accumulate: 0 }, ..sum };
    row_call(tape, first, pieces, piece, len);
    row_call(tape, Sum { x: part, times: None, ..sum }, 1, pieces, pieces);
}

/// Sums of `cols` columns of `rows`; in two stages where that fills a device better.
pub(crate) fn cols(tape: &mut Tape, sum: Sum, rows: usize, cols: usize) {
    // About 128 workgroups of 128 columns, none with fewer than 64 rows.
    let pieces = (128 / cols.div_ceil(128).clamp(1, 128)).min(rows / 64).max(1);
    if rows.saturating_mul(cols) <= 1 << 16 || pieces == 1 {
        col_call(tape, sum, rows, cols, rows);
        return;
    }
    let chunk = rows.div_ceil(pieces);
    let pieces = rows.div_ceil(chunk);
    let part = tape.output("partial", &[pieces, cols], &[]);
    let first = Sum { scale: 1.0, out: Sink { var: part, accumulate: 0 }, ..sum };
    col_call(tape, first, rows, cols, chunk);
    col_call(tape, Sum { x: part, times: None, ..sum }, pieces, cols, pieces);
}

fn col_call(tape: &mut Tape, sum: Sum, rows: usize, cols: usize, chunk: usize) {
    let mut words = sizes(&[rows, cols, chunk, sum.out.accumulate as usize]);
    words.push(sum.scale.to_bits());
    let args = [Some(sum.x), sum.times, Some(sum.out.var)];
    tape.call(&REDUCE_COLS, &args, words, Defines::new(), 2 * (rows * cols) as u64);
}

impl Tape {
    /// The sum of all elements, `[1]`.
    pub fn sum(&mut self, x: Var) -> Result<Var> {
        Ok(self.total("sum", x, 1.0))
    }

    /// The mean of all elements, `[1]`.
    pub fn mean(&mut self, x: Var) -> Result<Var> {
        let share = 1.0 / self.len(x).max(1) as f32;
        Ok(self.total("mean", x, share))
    }

    fn total(&mut self, name: &'static str, x: Var, scale: f32) -> Var {
        let len = self.len(x);
        let y = self.output(name, &[1], &[x]);
        let out = Sink { var: y, accumulate: 0 };
        all(self, Sum { x, times: None, scale, out }, len);
        self.spread_back(y, x, Spread::Single, len, scale);
        y
    }

    /// Sums along the rows: `[m, n]` → `[n]`, one for each column.
    pub fn sum_rows(&mut self, x: Var) -> Result<Var> {
        let (m, n) = self.rows_cols(x);
        let y = self.output("sum_rows", &[n], &[x]);
        let out = Sink { var: y, accumulate: 0 };
        cols(self, Sum { x, times: None, scale: 1.0, out }, m, n);
        self.spread_back(y, x, Spread::Row(n), m * n, 1.0);
        Ok(y)
    }

    /// Sums along the columns: `[.., n]` → `[.., 1]`, one for each row.
    pub fn sum_cols(&mut self, x: Var) -> Result<Var> {
        let (m, n) = self.rows_cols(x);
        let mut shape = self.shape(x).to_vec();
        match shape.last_mut() {
            Some(last) => *last = 1,
            None => shape.push(1),
        }
        let y = self.output("sum_cols", &shape, &[x]);
        let out = Sink { var: y, accumulate: 0 };
        rows(self, Sum { x, times: None, scale: 1.0, out }, m, n);
        self.spread_back(y, x, Spread::Column(n), m * n, 1.0);
        Ok(y)
    }

    /// The gradient of a sum: `dx (+)= scale · dy`, spread over `x`.
    fn spread_back(&mut self, y: Var, x: Var, spread: Spread, len: usize, scale: f32) {
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                broadcast(tape, dy, spread, len, scale, dx);
            }
            Ok(())
        });
    }
}

mod cases {
    use super::*;

    pub(super) fn rows() -> Vec<Case> {
        // Rows, columns, length, accumulate, TIMES.
        let list = [
            (1, 1, 1, 0, false),
            (3, 5, 15, 1, false),
            (65, 8, 520, 0, true),
            (33, 17, 561, 1, true),
            (15, 68, 1020, 0, false),
            (7, 63, 441, 0, false),
            (2, 1028, 2056, 1, true),
            (3, 1000, 2600, 0, false),
            (4, 2000, 7001, 0, true),
            (130, 20, 2600, 1, true),
        ];
        list.into_iter()
            .map(|(rows, cols, len, accumulate, times)| {
                let mut words = sizes(&[rows, cols, len, accumulate]);
                words.push(0.25_f32.to_bits());
                let times = if times { arg(2, len) } else { None };
                let name = format!("{rows}x{cols} of {len}");
                Case::new(name, words, vec![arg(1, len), times, arg(3, rows)]).flops(2 * len as u64)
            })
            .collect()
    }

    pub(super) fn cols() -> Vec<Case> {
        // Rows, columns, rows in a piece, accumulate, TIMES.
        let list = [
            (1, 1, 1, 0, false),
            (7, 5, 7, 1, false),
            (8, 64, 8, 0, true),
            (9, 33, 9, 1, true),
            (65, 31, 65, 0, false),
            (64, 128, 64, 1, true),
            (100, 132, 30, 0, false),
            (50, 3, 16, 0, true),
            (5, 260, 5, 0, false),
        ];
        list.into_iter()
            .map(|(rows, cols, chunk, accumulate, times)| {
                let len = rows * cols;
                let mut words = sizes(&[rows, cols, chunk, accumulate]);
                words.push((-0.5_f32).to_bits());
                let times = if times { arg(2, len) } else { None };
                let args = vec![arg(1, len), times, arg(3, rows.div_ceil(chunk) * cols)];
                Case::new(format!("{rows}x{cols} by {chunk}"), words, args).flops(2 * len as u64)
            })
            .collect()
    }
}

/// CPU twins. They add in f64: the sum itself, not one order of rounding.
pub mod reference {
    use super::super::put;
    use super::*;

    fn products(t: &Twin) -> Vec<f64> {
        let (x, times) = (t.read(0), t.read(1));
        let times = |i| times.get(i).map_or(1.0, |v| f64::from(*v));
        x.iter().enumerate().map(|(i, x)| f64::from(*x) * times(i)).collect()
    }

    /// Sums of rows, the last of which may be short.
    pub fn reduce_rows(t: &mut Twin) {
        let [rows, cols, len, accumulate] = [0, 1, 2, 3].map(|i| t.size(i));
        let (scale, x) = (t.float(4), products(t));
        for r in 0..rows {
            let sum: f64 = x[r * cols..len.min((r + 1) * cols)].iter().sum();
            put(&mut t.write(2)[r], scale * sum as f32, accumulate);
        }
    }

    /// Sums of columns, in pieces of `chunk` rows.
    pub fn reduce_cols(t: &mut Twin) {
        let [rows, cols, chunk, accumulate] = [0, 1, 2, 3].map(|i| t.size(i));
        let (scale, x) = (t.float(4), products(t));
        for z in 0..rows.div_ceil(chunk) {
            for c in 0..cols {
                let piece = z * chunk..rows.min((z + 1) * chunk);
                let sum: f64 = piece.map(|r| x[r * cols + c]).sum();
                put(&mut t.write(2)[z * cols + c], scale * sum as f32, accumulate);
            }
        }
    }
}
