//! Targets that are not certain: shares of classes, or numbers that another model says.

use crate::error::Result;
use crate::tape::{Tape, Var};

/// Below what single precision tells from 0 in a product.
const LEAST: f32 = 1e-30;

/// Σ over classes of q ln(q / softmax(z)), a column `[n, 1]`, for shares `q [n, classes]`, which are not
/// learned from, and `logits z [n, classes]`; 0 · ln 0 is 0.
///
/// # Errors
/// Shapes that differ.
pub fn divergence(tape: &mut Tape, shares: Var, logits: Var) -> Result<Var> {
    let above = tape.clamp(shares, LEAST, 1.0)?;
    let own = tape.log(above)?;
    let said = tape.log_softmax(logits)?;
    let gap = tape.sub(own, said)?;
    let each = tape.mul(gap, shares)?;
    tape.sum_cols(each)
}

/// Adds `values [batch, columns]`, each so many `times`, to those rows of `table [rows, columns]` that the batch's
/// `rows`, `[batch]`, names; they are distinct.
///
/// # Errors
/// Shapes that do not fit.
pub fn add_to_rows(
    tape: &mut Tape,
    (table, rows): (Var, Var),
    values: Var,
    times: f32,
) -> Result<()> {
    let values = tape.detach(values)?;
    let more = tape.scale(values, times)?;
    let before = tape.gather(table, rows)?;
    let sum = tape.add(before, more)?;
    tape.scatter_rows(sum, rows, table, 0)
}
