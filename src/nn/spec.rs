//! What a parameter is to be: name, shape, group, initial values, and how it is stored.

use super::Init;
#[cfg(doc)]
use super::{Group, Params};
use crate::error::{Error, Result};

/// A parameter to be made.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// The field's name, `audio_model.rnn.weight_ih_l0`.
    pub name: String,
    /// Extents as PyTorch has them.
    pub shape: Vec<usize>,
    /// Stored length of a row: the last extent, or more where the input is padded.
    pub pitch: usize,
    /// Name of its [`Group`].
    pub group: String,
    /// Initial values.
    pub init: Init,
    /// Without gradient and moments.
    pub frozen: bool,
    /// Stored by halves: f16, two in a word.
    pub half: bool,
    /// Stored right behind the one before, so that [`Params::span`] can take both as one tensor.
    pub joined: bool,
    /// Which rows of the tensor of this name it holds, and how many that has: a tensor larger
    /// than a binding is cut into several parameters.
    pub part: Option<(std::ops::Range<usize>, usize)>,
}

impl ParamSpec {
    /// A parameter whose rows are stored as they are.
    pub fn new(name: impl Into<String>, shape: &[usize], group: &str, init: Init) -> Self {
        let pitch = shape.last().copied().unwrap_or(1);
        let (name, shape, group) = (name.into(), shape.to_vec(), group.to_string());
        let (frozen, half, joined, part) = (false, false, false, None);
        ParamSpec { name, shape, pitch, group, init, frozen, half, joined, part }
    }

    /// The same, right behind the one before.
    pub fn joined(self) -> Self {
        ParamSpec { joined: true, ..self }
    }

    /// The same, not to be trained if `frozen`.
    pub fn frozen(self, frozen: bool) -> Self {
        ParamSpec { frozen, ..self }
    }

    /// The same, stored by halves if `half` says so, it is frozen and its rows are whole words.
    pub fn halved(self, half: bool) -> Self {
        ParamSpec { half: half && self.frozen && self.pitch.is_multiple_of(2), ..self }
    }

    /// A tensor `[rows, cols]` in as many parameters as hold at most `limit` words each.
    pub fn cut(self, limit: usize) -> Vec<Self> {
        let (Some(&rows), cols) = (self.shape.first(), self.cols()) else { return vec![self] };
        let most = (limit / cols.max(1)).max(1);
        if rows <= most {
            return vec![self];
        }
        (0..rows)
            .step_by(most)
            .map(|first| {
                let range = first..rows.min(first + most);
                let mut shape = self.shape.clone();
                shape[0] = range.len();
                ParamSpec { shape, part: Some((range, rows)), ..self.clone() }
            })
            .collect()
    }

    /// The tensor in two parameters: its first `rows` rows (of one axis: elements), and the others.
    pub fn split(self, rows: usize) -> [Self; 2] {
        let all = self.shape.first().copied().unwrap_or_default();
        [0..rows.min(all), rows.min(all)..all].map(|range| {
            let mut shape = self.shape.clone();
            shape[0] = range.len();
            let pitch = if shape.len() == 1 { range.len() } else { self.pitch };
            ParamSpec { shape, pitch, part: Some((range, all)), ..self.clone() }
        })
    }

    /// Its name among [`Params`]: that of the tensor, and for a part its first row.
    pub fn key(&self) -> String {
        match &self.part {
            Some((range, _)) => format!("{}[{}..]", self.name, range.start),
            None => self.name.clone(),
        }
    }

    /// Extents of the whole tensor.
    pub(super) fn whole(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let (Some((_, rows)), Some(first)) = (&self.part, shape.first_mut()) {
            *first = *rows;
        }
        shape
    }

    /// Its own among the values of the whole tensor.
    pub(super) fn own<'a>(&self, values: &'a [f32]) -> &'a [f32] {
        let before =
            |range: &std::ops::Range<usize>| range.start * (self.len() / range.len().max(1));
        let start = self.part.as_ref().map_or(0, |(range, _)| before(range));
        &values[start..start + self.len()]
    }

    /// The same, for an input padded to `pitch` columns.
    pub fn padded(self, pitch: usize) -> Self {
        ParamSpec { pitch, ..self }
    }

    pub(super) fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Elements as PyTorch counts them.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements it takes in an arena.
    pub(super) fn stored(&self) -> usize {
        self.len() / self.cols().max(1) * self.pitch
    }

    /// Words it takes in an arena.
    pub(super) fn words(&self) -> usize {
        self.stored() / per_word(self.half)
    }

    /// Its extents on a tape.
    pub(super) fn tape_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = self.pitch;
        }
        shape
    }
}

/// Elements of a word.
pub(super) fn per_word(half: bool) -> usize {
    if half { 2 } else { 1 }
}

/// Refuses what cannot be stored: a row shorter than its numbers, halves that are trained or end in the
/// middle of a word, a part that is not in its tensor; and what is joined to a parameter that is
/// sorted elsewhere.
pub(super) fn check_specs(specs: &[ParamSpec]) -> Result<()> {
    for (i, spec) in specs.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &specs[i]);
        let alike =
            |b: &ParamSpec| (&b.group, b.frozen, b.half) == (&spec.group, spec.frozen, spec.half);
        let part = spec.part.as_ref().is_some_and(|(range, rows)| {
            Some(&range.len()) != spec.shape.first() || range.end > *rows
        });
        let fault = if spec.pitch < spec.cols() {
            format!("has rows of {} in a pitch of {}", spec.cols(), spec.pitch)
        } else if spec.half && !(spec.frozen && spec.pitch.is_multiple_of(2)) {
            "is stored by halves: freeze it, and give it an even pitch".into()
        } else if part {
            format!("of shape {:?} holds the rows {:?}", spec.shape, spec.part)
        } else if spec.joined && !before.is_some_and(alike) {
            "is joined to the parameter before it, and there is none of its group and kind".into()
        } else {
            continue;
        };
        return Err(Error::shape("parameter", format!("'{}' {fault}", spec.name)));
    }
    Ok(())
}
