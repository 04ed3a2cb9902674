//! Rows into tables: predictions by sample.

use super::{random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// Rows to their places; see `shaders/scatter_rows.wgsl`.
pub static SCATTER: Kernel = Kernel {
    name: "scatter_rows",
    source: include_str!("../../shaders/scatter_rows.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("ROWS"),
        Binding::write("OUT").part(|p, _, _| [0, u64::from(p[0]) * u64::from(p[1])]),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1]) as usize, 64)),
    twin: reference::scatter,
    cases: || {
        let f = |s, len| Some(CaseArg::F(random(s, len)));
        let rows = Some(CaseArg::U(vec![4, 0, 9]));
        vec![Case::new("3 of 10", vec![3, 5, 7, 1, 10], vec![f(1, 15), rows, f(2, 70)])]
    },
};

impl Tape {
    /// `out[rows[i], at..at + c] = x[i]` for `x [n, c]`, `rows [n]` (u32), `out [height, ld]`. A row
    /// of `height` or more is left out.
    ///
    /// # Errors
    /// Columns that do not fit, or another number of rows.
    pub fn scatter_rows(&mut self, x: Var, rows: Var, out: Var, at: usize) -> Result<()> {
        let ((n, c), (height, ld)) = (self.rows_cols(x), self.rows_cols(out));
        if self.len(rows) != n || at.saturating_add(c) > ld {
            let detail = format!(
                "{:?} by {:?} rows into columns {at}.. of {:?}",
                self.shape(x),
                self.shape(rows),
                self.shape(out)
            );
            return Err(Error::shape("scatter_rows", detail));
        }
        let words = sizes(&[n, c, ld, at, height]);
        self.call(&SCATTER, &[Some(x), Some(rows), Some(out)], words, Defines::new(), 0);
        Ok(())
    }
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// Rows to their places.
    pub fn scatter(t: &mut Twin) {
        let [n, c, ld, at, height] = [0, 1, 2, 3, 4].map(|i| t.size(i));
        let (x, rows) = (t.read(0), t.words_of(1).to_vec());
        for i in 0..n {
            if rows[i] as usize >= height {
                continue;
            }
            let to = rows[i] as usize * ld + at;
            t.write(2)[to..to + c].copy_from_slice(&x[i * c..(i + 1) * c]);
        }
    }
}
