//! Views of a data set: the features of one modality, token ids, and the numbers behind them.

use std::borrow::Cow;

use super::dataset::{Features, Field};
use super::source::Source;
use super::{Modality, SplitName};
use crate::error::{Error, Result};

/// Bytes of the map; where a tensor lies was checked when the file was opened.
pub(super) fn part(map: &[u8], start: usize, len: usize) -> &[u8] {
    map.get(start..start + len).unwrap_or_default()
}

/// A view of one modality's features: rows x steps x dim, the valid steps of a row first.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// Whose features.
    pub modality: Modality,
    /// How many rows.
    pub rows: usize,
    /// Steps of the tensor; a row may have fewer valid ones.
    pub steps: usize,
    /// Features per step.
    pub dim: usize,
    pub(super) split: SplitName,
    pub(super) source: &'a dyn Source,
    pub(super) features: &'a Features,
    pub(super) missing: Option<&'a [bool]>,
    pub(super) checked: bool,
}

impl<'a> Stream<'a> {
    /// Whether the file gives the valid steps of each row.
    pub fn has_lengths(&self) -> bool {
        self.features.lengths.is_some()
    }

    /// Whether `row` lacks the modality: what the file holds of it means nothing.
    pub fn missing(&self, row: usize) -> bool {
        self.missing.is_some_and(|rows| rows.get(row).copied().unwrap_or_default())
    }

    /// The valid steps of `row`, in 1..=steps; 1 of a row that lacks the modality, 0 past the last row.
    pub fn len(&self, row: usize) -> usize {
        match &self.features.lengths {
            _ if row >= self.rows => 0,
            Some(_) if self.missing(row) => 1,
            Some(lengths) => lengths.get(row).map_or(0, |&n| n as usize),
            None => self.steps,
        }
    }

    /// Whether there are no rows (never so in an opened file).
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The values of `row`, at least those of its valid steps, as they lie in memory where they do.
    ///
    /// # Errors
    /// A row that is not there or lacks the modality; what keeps a source from giving it; other values than
    /// it has told of.
    pub fn values(&self, row: usize) -> Result<Cow<'a, [f32]>> {
        let fail = |what: String| {
            let place = format!("{}.{}, row {row}", self.split, self.modality);
            Err(Error::data(self.source.path(), format!("{place}{what}")))
        };
        if row >= self.rows || self.missing(row) {
            return fail(" is not there".into());
        }
        let from = self.features.from.as_ref().and_then(|from| from.get(row));
        let (split, own) = from.map_or((self.split, row), |(split, row)| (*split, *row as usize));
        let values = self.source.values(split, self.modality, own)?;
        let wanted = self.len(row) * self.dim;
        if self.checked {
            return Ok(values);
        }
        if values.len() < wanted {
            let (steps, dim, found) = (self.len(row), self.dim, values.len());
            return fail(format!(
                " was to have {steps} steps of {dim} features, and has {found} values"
            ));
        }
        match values[..wanted].iter().position(|x| !x.is_finite()) {
            None => Ok(values),
            Some(i) => {
                let (step, feature, value) = (i / self.dim, i % self.dim, values[i]);
                fail(format!(", step {step}, feature {feature} is {value}, no finite number"))
            }
        }
    }

    /// The `dim` values at `step` of `row`; none past the end, and where [`values`](Self::values) fails.
    pub fn frame(&self, row: usize, step: usize) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        let values = if step < self.steps { self.row(row) } else { Vec::new() };
        values.into_iter().skip(step * self.dim).take(self.dim)
    }

    /// All values of `row`, steps x dim, padding included; empty past the last row, and where
    /// [`values`](Self::values) fails.
    pub fn row(&self, row: usize) -> Vec<f32> {
        // What a file holds of a row that lacks the modality can be looked at all the same; of another source
        // nobody asks for it.
        let seen = Stream { missing: self.missing.filter(|_| !self.checked), ..*self };
        let mut values = seen.values(row).map(Cow::into_owned).unwrap_or_default();
        if !values.is_empty() {
            values.resize(self.steps * self.dim, 0.0);
        }
        values
    }
}

/// A view of token ids, attention mask and segment ids: rows x 3 x len.
#[derive(Debug, Clone, Copy)]
pub struct TextBert<'a> {
    /// How many rows.
    pub rows: usize,
    /// Tokens per row, padding included.
    pub len: usize,
    pub(super) map: &'a [u8],
    pub(super) field: &'a Field,
}

impl<'a> TextBert<'a> {
    /// The token ids of `row`; none past the last row.
    pub fn ids(&self, row: usize) -> impl ExactSizeIterator<Item = i32> + use<'a> {
        self.line(row, 0)
    }

    /// The attention mask of `row`: 1 for a token, 0 for padding.
    pub fn mask(&self, row: usize) -> impl ExactSizeIterator<Item = i32> + use<'a> {
        self.line(row, 1)
    }

    /// The segment ids of `row`.
    pub fn segments(&self, row: usize) -> impl ExactSizeIterator<Item = i32> + use<'a> {
        self.line(row, 2)
    }

    fn line(&self, row: usize, line: usize) -> impl ExactSizeIterator<Item = i32> + use<'a> {
        let inside = row < self.rows;
        let start = if inside { self.field.start(row) + line * self.len * 4 } else { 0 };
        let count = if inside { self.len * 4 } else { 0 };
        ints(part(self.map, start, count))
    }
}

/// Little-endian f32 values; `bytes` may start anywhere, since files need not be aligned.
pub(super) fn floats(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> + use<'_> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Little-endian i32 values.
pub(super) fn ints(bytes: &[u8]) -> impl ExactSizeIterator<Item = i32> + use<'_> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
