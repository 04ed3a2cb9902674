//! What several modalities say made one: by the mean of those that are there, or by how sure each is.

use crate::error::Result;
use crate::ops::batched::Transposed;
use crate::ops::masked::Keep;
use crate::tape::{Tape, Var};

/// Over what the certainty of a modality's scores is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Each row has its own: the entropy of its classes.
    Row,
    /// One number for all rows of the batch: the entropies of classes over rows, added up. What a row scores
    /// then depends on its neighbours.
    Batch,
}

/// Scores `[batch, classes]`: those of each modality, `[batch, classes]`, weighted by the softmax over
/// modalities of Σ p ln p, p = softmax(z), so that the surest counts most; arXiv:2311.10707. Of a row only
/// those count of which `present`, `[batch]` each, says 1; where it has none of them, the scores are 0.
///
/// # Errors
/// No scores; scores of different shapes; as many presences as scores or none.
pub fn weigh_by_certainty(
    tape: &mut Tape,
    scores: &[Var],
    present: &[Var],
    certainty: Certainty,
) -> Result<Var> {
    let batch = tape.rows_cols(scores[0]).0;
    let mut sure = Vec::new();
    for z in scores {
        let z = match certainty {
            Certainty::Row => *z,
            Certainty::Batch => tape.transpose(*z, 0, 1)?,
        };
        let (p, log) = (tape.softmax(z)?, tape.log_softmax(z)?);
        let product = tape.mul(p, log)?;
        sure.push(match certainty {
            Certainty::Row => tape.sum_cols(product)?,
            Certainty::Batch => {
                let none = tape.constant("none", &[batch, 1], &vec![0.0; batch])?;
                let sum = tape.sum(product)?;
                tape.add(none, sum)?
            }
        });
    }
    let sure = tape.concat(&sure)?;
    let weights = if present.is_empty() {
        tape.softmax(sure)?
    } else {
        let there = side_by_side(tape, present)?;
        tape.masked_softmax(sure, Keep::Mask(there))?
    };
    weighed(tape, weights, scores)
}

/// `[batch, width]`: the mean of what each modality has, `[batch, width]`, over those that are there, of which
/// `present`, `[batch]` each, says 1; 0 where a row has none.
///
/// # Errors
/// Shapes that differ.
pub fn mean_of_present(tape: &mut Tape, features: &[Var], present: &[Var]) -> Result<Var> {
    let there = side_by_side(tape, present)?;
    let count = tape.sum_cols(there)?;
    let count = tape.clamp(count, 1.0, f32::MAX)?;
    let weights = tape.div(there, count)?;
    weighed(tape, weights, features)
}

/// `[batch, n]`: which of n modalities rows have, of `[batch]` for each.
fn side_by_side(tape: &mut Tape, present: &[Var]) -> Result<Var> {
    let columns: Vec<Var> =
        present.iter().map(|p| tape.reshape(*p, &[tape.len(*p), 1])).collect::<Result<_>>()?;
    tape.concat(&columns)
}

/// `[batch, width]`: the sum of n tensors of that shape, each row so many times as `weights [batch, n]` says.
fn weighed(tape: &mut Tape, weights: Var, all: &[Var]) -> Result<Var> {
    let ((batch, width), n) = (tape.rows_cols(all[0]), all.len());
    let weights = tape.reshape(weights, &[batch, 1, n])?;
    let all = tape.concat(all)?;
    let all = tape.reshape(all, &[batch, n, width])?;
    let sum = tape.bmm(weights, all, Transposed::Neither)?;
    tape.reshape(sum, &[batch, width])
}

/// `[1, width]`: the mean of those rows of `x [batch, width]` of which `present`, `[batch]`, says 1; 0 where it says
/// so of none.
///
/// # Errors
/// Another number of rows.
pub fn mean_row(tape: &mut Tape, x: Var, present: Var) -> Result<Var> {
    let row = tape.reshape(present, &[1, tape.len(present)])?;
    let sum = tape.matmul(row, x)?;
    let rows = tape.sum(present)?;
    let rows = tape.clamp(rows, 1.0, f32::MAX)?;
    tape.div(sum, rows)
}
