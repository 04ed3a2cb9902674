//! Losses by contrast: rows that are to be nearer to their partners than to all others, by the cosine of the
//! angle between them over a temperature.
//!
//! All of them are made of [`Units`], rows of length one, so that rows that several losses read are brought to
//! that length once. A batch that has nothing to tell a row apart from, as one of a single row, gives 0 and
//! a gradient of 0.

use super::{ParamSpec, Params, linear, linear_specs};
use crate::error::{Error, Result};
use crate::ops::Act;
use crate::ops::batched::Transposed;
use crate::ops::contrast::Positives;
use crate::tape::{Tape, Var};

/// Rows shorter than this are taken to be as long, as PyTorch's `cosine_similarity` has it.
const SHORTEST: f32 = 1e-8;

/// Rows of length one, `[.., n, d]`; what lies before the last two axes is one batch beside the other.
#[derive(Clone, Copy, Debug)]
pub struct Units(Var);

impl Units {
    /// Rows `x [.., n, d]`, each divided by its length.
    ///
    /// # Errors
    /// A tensor of one axis or without elements.
    pub fn of(tape: &mut Tape, x: Var) -> Result<Self> {
        let shape = tape.shape(x);
        if shape.len() < 2 {
            return Err(Error::shape("contrast", format!("rows {shape:?}: want [.., n, d]")));
        }
        Ok(Units(tape.l2_normalize(x, SHORTEST)?))
    }

    /// Rows `u [n, d]` and behind them the rows `v [n, d]` that they belong to: `[2n, d]`, the halves of
    /// [`nt_xent`] and [`matched_both_ways`].
    ///
    /// # Errors
    /// Shapes that differ or are not of two axes.
    pub fn pair(tape: &mut Tape, u: Var, v: Var) -> Result<Self> {
        let shape = tape.shape(u).to_vec();
        if shape.len() != 2 || tape.shape(v) != shape {
            let detail = format!("rows {shape:?} and {:?}: want [n, d] of both", tape.shape(v));
            return Err(Error::shape("contrast", detail));
        }
        let both = tape.stack(&[u, v], &[u, v]);
        let both = tape.reshape(both, &[2 * shape[0], shape[1]])?;
        Units::of(tape, both)
    }

    /// The rows.
    pub fn rows(self) -> Var {
        self.0
    }

    /// Cosines `[.., n, m]` of all pairs with the rows of `other [.., m, d]`.
    ///
    /// # Errors
    /// Rows of other widths, other numbers of batches.
    pub fn cosines(self, tape: &mut Tape, other: Units) -> Result<Var> {
        tape.bmm(self.0, other.0, Transposed::Second)
    }

    fn contrast(
        self,
        tape: &mut Tape,
        other: Units,
        how: Positives,
        temperature: f32,
    ) -> Result<Var> {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Error::Config(format!(
                "a temperature of {temperature}: want a number above 0"
            )));
        }
        let cosines = self.cosines(tape, other)?;
        tape.contrast(cosines, how, 1.0 / temperature)
    }
}

/// What says which rows are alike.
#[derive(Clone, Copy, Debug)]
pub enum Classes {
    /// `[n]` u32; a row of [`u32::MAX`] takes no part.
    Ids(Var),
    /// The signs of `[n]` numbers; a row of 0 takes no part.
    Signs(Var),
}

/// NT-Xent (SimCLR, arXiv:2002.05709): each row of `views [.., 2n, d]` is to be near to that of the other half,
/// among all but itself. The mean over the 2n rows; of several batches the sum of these.
///
/// # Errors
/// An odd number of rows; a temperature that is not a positive number.
pub fn nt_xent(tape: &mut Tape, views: Units, temperature: f32) -> Result<Var> {
    views.contrast(tape, views, Positives::Views, temperature)
}

/// Row i of `a [.., n, d]` is to be near to row i of `b [.., n, d]`, among all rows of `b`: the cross-entropy
/// against the diagonal, by rows. The mean over n; of several batches the sum of these.
///
/// # Errors
/// Other numbers of rows; a temperature that is not a positive number.
pub fn matched(tape: &mut Tape, a: Units, b: Units, temperature: f32) -> Result<Var> {
    a.contrast(tape, b, Positives::Matched, temperature)
}

/// The same both ways, half of the cross-entropy by rows and half of that by columns (CLIP,
/// arXiv:2103.00020), of the two halves of `pairs [.., 2n, d]`; see [`Units::pair`].
///
/// # Errors
/// An odd number of rows; a temperature that is not a positive number.
pub fn matched_both_ways(tape: &mut Tape, pairs: Units, temperature: f32) -> Result<Var> {
    pairs.contrast(tape, pairs, Positives::Halves, temperature)
}

/// Supervised contrast (arXiv:2004.11362): each row of `x [.., n, d]` is to be near to the others of its class,
/// among all others that take part. The mean over the others of a class, then over the rows that have one;
/// of several batches the sum of these.
///
/// # Errors
/// Labels of another number; a temperature that is not a positive number.
pub fn by_class(tape: &mut Tape, x: Units, classes: Classes, temperature: f32) -> Result<Var> {
    let how = match classes {
        Classes::Ids(ids) => Positives::Classes(ids),
        Classes::Signs(numbers) => Positives::Signs(numbers),
    };
    x.contrast(tape, x, how, temperature)
}

/// Two layers with a ReLU between them, as heads of contrast and predictors have it: PyTorch's
/// `Sequential(Linear, ReLU, Linear)`, parameters `NAME.0` and `NAME.2`.
#[derive(Clone, Debug)]
pub struct ProjectionHead {
    /// Prefix of the parameters.
    pub name: String,
    /// True and stored width of the input.
    pub inputs: (usize, usize),
    /// Between the layers.
    pub inner: usize,
    /// Size of the output.
    pub out: usize,
    /// Name of its optimiser group.
    pub group: String,
}

impl ProjectionHead {
    /// From `size` columns to as many.
    pub fn square(name: impl Into<String>, size: usize, group: impl Into<String>) -> Self {
        let (name, group) = (name.into(), group.into());
        ProjectionHead { name, inputs: (size, size), inner: size, out: size, group }
    }

    /// Its parameters.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let (inputs, pitch) = self.inputs;
        let first = (inputs, pitch, self.inner);
        let mut specs = linear_specs(&format!("{}.0", self.name), first, true, &self.group);
        let second = (self.inner, self.inner, self.out);
        specs.extend(linear_specs(&format!("{}.2", self.name), second, true, &self.group));
        specs
    }

    /// Records it: `x [.., inputs]` to `[.., out]`.
    ///
    /// # Errors
    /// Parameters that `params` has not; an input of another width.
    pub fn record(&self, tape: &mut Tape, params: &Params, x: Var) -> Result<Var> {
        let h = linear(tape, params, &format!("{}.0", self.name), x, Act::Relu)?;
        linear(tape, params, &format!("{}.2", self.name), h, Act::None)
    }
}
