//! Where a training's numbers left the range of floats: the steps since the last state are taken once more,
//! to the same bits, and the one that is to blame a dispatch at a time.
//!
//! A training step checks nothing of this by itself, and costs nothing for it: that something is wrong shows
//! in its losses.

use super::checkpoint::State;
use super::initial::begin;
use super::session::Session;
use super::steps::Part;
use crate::data::Batch;
use crate::error::Result;
use crate::plan::Written;
use std::path::Path;

/// A step that was looked at.
pub(super) struct Looked {
    /// The micro-batch, from 1.
    batch: usize,
    /// Its rows, as indices into the training split.
    rows: Vec<u32>,
    /// What its dispatches wrote, in order.
    written: Vec<Written>,
}

/// Takes the steps of an epoch up to `batch` once more, from the state at its beginning, or else from the
/// initial values; looks at the last two of them. The session is then as those left it.
///
/// # Errors
/// A state that cannot be read, and those of the device.
pub(super) fn look(
    session: &mut Session,
    (state, init): (&Path, Option<&Path>),
    (epoch, batch): (usize, usize),
) -> Result<Vec<Looked>> {
    session.restart()?;
    let mut from = 0;
    match state.exists() {
        true => {
            let state = State::open(state)?;
            session.restore(&state)?;
            from = state.card.batch;
        }
        false => begin(session, init)?,
    }
    let order = session.order(epoch);
    // The step before may have left parameters that are not finite, though its own losses are.
    let first = batch.saturating_sub(2).max(from);
    let until = Some(first);
    session.train_part(
        epoch,
        Part { order: order.clone(), from, until },
        || false,
        |_, _| Ok(()),
    )?;
    let mut looked = Vec::new();
    session.trace_part(epoch, order, first..batch, |batch: usize, of: &Batch, written| {
        looked.push(Looked { batch, rows: of.rows().to_vec(), written });
    })?;
    Ok(looked)
}

/// What is the first to be wrong, in words; none where everything is finite.
pub(super) fn first_wrong(looked: &[Looked], rows_of_a_batch: usize) -> Option<String> {
    let all = looked.iter().flat_map(|step| step.written.iter().map(move |w| (step, w)));
    let (step, wrong) = all.into_iter().find(|(_, written)| written.not_finite > 0)?;
    let total: usize = wrong.shape.iter().product();
    let shape: Vec<String> = wrong.shape.iter().map(ToString::to_string).collect();
    let mut said = format!(
        "the first to go is what kernel {} (dispatch {}) of batch {} writes into '{}' [{}], {} of {total} \
         numbers",
        wrong.kernel,
        wrong.dispatch,
        step.batch,
        wrong.tensor,
        shape.join(", "),
        wrong.not_finite
    );
    let rows = rows(step, wrong, rows_of_a_batch);
    if !rows.is_empty() && rows.len() < step.rows.len() {
        let shown: Vec<String> = rows.iter().take(5).map(ToString::to_string).collect();
        let more =
            if rows.len() > 5 { format!(" and {} others", rows.len() - 5) } else { String::new() };
        said += &format!(", in rows {}{more} of train", shown.join(", "));
    }
    Some(said)
}

/// The rows of the data that the places are of, where the tensor has one for each.
fn rows(step: &Looked, wrong: &Written, rows_of_a_batch: usize) -> Vec<u32> {
    let len: usize = wrong.shape.iter().product();
    let first = wrong.shape.first().copied().unwrap_or(0);
    // A row of the batch, or each of its steps.
    if first == 0 || first % rows_of_a_batch.max(1) != 0 || step.rows.len() != rows_of_a_batch {
        return Vec::new();
    }
    let mut all: Vec<u32> = wrong
        .places
        .iter()
        .filter_map(|at| step.rows.get(at / (len / rows_of_a_batch)))
        .copied()
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Looked {
    /// What was written, with the micro-batch that it is of.
    pub(super) fn table(looked: Vec<Looked>) -> Vec<(usize, Written)> {
        let step = |looked: Looked| looked.written.into_iter().map(move |w| (looked.batch, w));
        looked.into_iter().flat_map(step).collect()
    }
}
