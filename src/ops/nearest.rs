//! Which row of a table is the nearest.

use super::{random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch};
use crate::tape::{Tape, Var};

/// The nearest rows of a table; see `shaders/nearest_rows.wgsl`.
pub static NEAREST_ROWS: Kernel = Kernel {
    name: "nearest_rows",
    source: include_str!("../../shaders/nearest_rows.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("T"), Binding::write("NEAREST")],
    step: false,
    launch: |family, words, _| {
        let wg = family.invocations();
        Launch::of([words[0].div_ceil(wg).max(1), 1, 1])
            .with("WG", wg)
            .iterations(u64::from(words[1]) * u64::from(words[2]))
    },
    twin: reference::nearest_rows,
    cases: || {
        let case = |n: usize, d: usize, rows: usize| {
            let f = |seed, len| Some(CaseArg::F(random(seed, len)));
            let args = vec![f(1, n * d), f(2, rows * d), Some(CaseArg::U(vec![0; n]))];
            let words = sizes(&[n, d, rows]);
            Case::new(format!("{n} of {rows}, {d} wide"), words, args).flops(flops(n, d, rows))
        };
        vec![case(1, 3, 1), case(70, 5, 9), case(96, 64, 128)]
    },
};

fn flops(n: usize, d: usize, rows: usize) -> u64 {
    3 * (n * d * rows) as u64
}

impl Tape {
    /// For each row of `x [n, d]` the number of the row of `table [rows, d]` that is nearest to it, `[n]`
    /// unsigned; of several the first. Not differentiable.
    ///
    /// # Errors
    /// Widths that differ, an empty tensor.
    pub fn nearest_rows(&mut self, x: Var, table: Var) -> Result<Var> {
        let ((n, d), (rows, width)) = (self.rows_cols(x), self.rows_cols(table));
        if d != width || n * d * rows == 0 {
            let detail = format!(
                "{:?} in {:?}: want [n, d] and [rows, d]",
                self.shape(x),
                self.shape(table)
            );
            return Err(Error::shape("nearest_rows", detail));
        }
        let out = self.output("nearest", &[n], &[]);
        let args = [x, table, out].map(Some);
        let words = sizes(&[n, d, rows]);
        self.call(&NEAREST_ROWS, &args, words, Defines::new(), flops(n, d, rows));
        Ok(out)
    }
}

/// The CPU twin.
pub mod reference {
    use crate::plan::Twin;

    /// The nearest rows of a table.
    pub fn nearest_rows(t: &mut Twin) {
        let [n, d, rows] = [0, 1, 2].map(|i| t.size(i));
        let (x, table) = (t.read(0).to_vec(), t.read(1).to_vec());
        let far = |i: usize, r: usize| -> f32 {
            let pairs = x[i * d..][..d].iter().zip(&table[r * d..][..d]);
            pairs.map(|(a, b)| (a - b) * (a - b)).sum()
        };
        for i in 0..n {
            let mut best = 0;
            for r in 1..rows {
                if far(i, r) < far(i, best) {
                    best = r;
                }
            }
            t.write(2)[i] = f32::from_bits(best as u32);
        }
    }
}
