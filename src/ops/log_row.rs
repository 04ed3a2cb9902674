//! Single numbers into the log of a run: the row of a step.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, Kernel, Launch};
use crate::tape::{Tape, Var};

/// Numbers that one call takes.
const MOST: usize = 7;

/// Single numbers to their columns; see `shaders/log_row.wgsl`.
pub static LOG_ROW: Kernel = Kernel {
    name: "log_row",
    source: include_str!("../../shaders/log_row.wgsl"),
    bindings: &[
        Binding::read("X0"),
        Binding::read("X1").or_none(),
        Binding::read("X2").or_none(),
        Binding::read("X3").or_none(),
        Binding::read("X4").or_none(),
        Binding::read("X5").or_none(),
        Binding::read("X6").or_none(),
        Binding::write("RING")
            .part(|_, d, _| [0, 1 + d.keys().filter(|n| n.starts_with('X')).count() as u64]),
    ],
    step: true,
    launch: |_, _, _| Launch::of([1, 1, 1]),
    twin: reference::log_row,
    cases: || {
        let list: [(&[u32], u32); 3] = [(&[0], 0), (&[2, 0, 15], 1), (&[6, 5, 4, 3, 2, 1, 0], 2)];
        let case = |(columns, slot): (&[u32], u32)| {
            let mut words = vec![3, 16];
            words.extend(columns);
            words.resize(2 + MOST, 0);
            let value = |i| if i < columns.len() { arg(i as u64, 1) } else { None };
            let args = (0..MOST).map(value).chain([arg(9, 48)]).collect();
            let mut case = Case::new(format!("{columns:?} of row {slot}"), words, args);
            case.step.slot = slot;
            case
        };
        list.into_iter().map(case).collect()
    },
};

impl Tape {
    /// Writes single numbers to their columns of the row of `ring [slots, width]` that
    /// [`Step::slot`](crate::plan::Step::slot) names. A slot that the ring has not is left out.
    ///
    /// # Errors
    /// A tensor of several numbers, or a column that the ring has not.
    pub fn log_row(&mut self, values: &[(usize, Var)], ring: Var) -> Result<()> {
        let (slots, width) = self.rows_cols(ring);
        for (column, var) in values {
            if self.len(*var) != 1 || *column >= width {
                let detail = format!(
                    "{:?} into column {column} of {:?}: want single numbers",
                    self.shape(*var),
                    self.shape(ring)
                );
                return Err(Error::shape("log_row", detail));
            }
        }
        for some in values.chunks(MOST) {
            let mut words = sizes(&[slots, width]);
            words.extend(some.iter().map(|(column, _)| *column as u32));
            words.resize(2 + MOST, 0);
            let value = |i: usize| some.get(i).map(|(_, var)| *var);
            let args: Vec<Option<Var>> = (0..MOST).map(value).chain([Some(ring)]).collect();
            self.call(&LOG_ROW, &args, words, Defines::new(), 0);
        }
        Ok(())
    }
}

/// CPU twins.
pub mod reference {
    use super::MOST;
    use crate::plan::Twin;

    /// `RING[slot, c_k] = X_k`.
    pub fn log_row(t: &mut Twin) {
        let (slots, width, slot) = (t.size(0), t.size(1), t.step.slot as usize);
        for k in 0..MOST {
            let column = t.size(2 + k);
            let Some(value) = t.has(k).then(|| t.read(k)[0]) else { continue };
            if slot < slots && column < width {
                t.write(MOST)[slot * width + column] = value;
            }
        }
    }
}
