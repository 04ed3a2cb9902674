//! Batches as one flat block of 32-bit words, laid out so that every field can be bound on its own.

use super::dataset::Split;
use super::guides::{GuideLayout, fill_guides};
use super::normalize::{FeatureStats, Standardise};
use super::tokens::{TokenLayout, TokenRows, fill_runs, fill_tokens, packed_rows};
use super::{Modality, Stream};
use crate::error::{Error, Result};
use crate::ops::embed::{self, Tables};
use crate::rng::Rng;

/// What a model takes from one modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamSpec {
    /// Which modality.
    pub modality: Modality,
    /// How many steps; fewer than the file's cuts the rows, more pads them.
    pub steps: usize,
    /// Features per step, as in the file.
    pub dim: usize,
    /// Whether the block carries the valid steps of each row.
    pub lengths: bool,
}

impl StreamSpec {
    /// Takes all of `stream`, with lengths if the file has them.
    pub fn of(stream: &Stream<'_>) -> Self {
        let &Stream { modality, steps, dim, .. } = stream;
        StreamSpec { modality, steps, dim, lengths: stream.has_lengths() }
    }
}

/// Where one modality lies in a block; offsets in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamLayout {
    /// Which modality.
    pub modality: Modality,
    /// Steps per row.
    pub steps: usize,
    /// Features per step that carry data.
    pub dim: usize,
    /// Words per step: `dim` rounded up to a multiple of 4; the rest is zero.
    pub width: usize,
    /// f32 `[batch, steps, width]`; steps past a row's length are zero.
    pub values_at: usize,
    /// u32 `[batch]`, valid steps in 1..=steps.
    pub lengths_at: Option<usize>,
}

/// What a model takes of the text as tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenSpec {
    /// Token rows that a block has room for.
    pub rows: usize,
    /// The encoder's tables beside its words.
    pub tables: Tables,
}

/// What a model takes of a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reads {
    /// Streams, in the order in which a batch has them.
    pub streams: Vec<StreamSpec>,
    /// The encoder's tables beside its words, where it reads the text as tokens.
    pub tokens: Option<Tables>,
    /// Modalities whose own labels it learns, as people gave them of each by itself.
    pub unimodal: Vec<Modality>,
    /// Modalities of which it has to know which rows have them.
    pub presence: Vec<Modality>,
    /// Streams that only its losses read, as vectors that others are to come near to, and their features. What it
    /// reads besides may be among them.
    pub guides: Vec<(Modality, usize)>,
}

impl Reads {
    /// What it reads of the text as tokens, in a block of `rows` of them.
    pub fn tokens(&self, rows: usize) -> Option<TokenSpec> {
        self.tokens.map(|tables| TokenSpec { rows, tables })
    }

    /// The modalities that it reads, tokens as the text that they are.
    pub fn modalities(&self) -> Vec<Modality> {
        let tokens = self.tokens.map(|_| Modality::Text);
        tokens.into_iter().chain(self.streams.iter().map(|s| s.modality)).collect()
    }
}

/// What the blocks of two batches that one plan serves have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchShape {
    /// Rows.
    pub rows: usize,
    /// Token rows.
    pub tokens: usize,
    /// Steps of each stream, in the order of the streams.
    pub steps: Vec<usize>,
}

impl BatchShape {
    /// The shape of a batch of `rows` of a split, whose tokens are `tokens`: a stream with lengths
    /// has no more steps than the [bucket] of the longest row.
    pub(crate) fn of(
        split: &Split,
        tokens: Option<&TokenRows>,
        specs: &[StreamSpec],
        rows: &[u32],
    ) -> Self {
        let steps = specs.iter().map(|spec| {
            let stream = split.stream(spec.modality);
            let len = |row: &u32| stream.map_or(1, |stream| stream.len(*row as usize));
            let longest = rows.iter().map(len).max().unwrap_or(0).min(spec.steps);
            if spec.lengths { bucket(longest, spec.steps) } else { spec.steps }
        });
        let steps = steps.collect();
        let tokens = tokens.map_or(0, |t| packed_rows(rows.iter().map(|r| t.len(*r as usize))));
        BatchShape { rows: rows.len(), tokens, steps }
    }
}

/// Steps that a block has room for where the longest row has `longest` of `most`: the next of eight
/// equal parts, so that nothing is computed for most of the padding and a model has few plans.
pub fn bucket(longest: usize, most: usize) -> usize {
    longest.next_multiple_of(most.div_ceil(8).max(1)).clamp(1, most.max(1))
}

/// The fields of one block. Every field starts at a multiple of 64 words (256 bytes, the largest
/// offset alignment that WebGPU asks for).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layout {
    /// One per [`StreamSpec`], in the same order.
    pub streams: Vec<StreamLayout>,
    /// The text as tokens, where the model reads those.
    pub tokens: Option<TokenLayout>,
    /// `[batch, target_width]`; zero where the split has no targets.
    pub targets_at: usize,
    /// Words of a row's target: see [`Task::width`](super::Task::width).
    pub target_width: usize,
    /// u32 `[batch]`: the row's index in its split.
    pub rows_at: usize,
    /// f32 `[batch]` for each of these: what people said of the row by that modality alone; zero where the
    /// split has no such labels.
    pub unimodal: Vec<(Modality, usize)>,
    /// f32 `[batch]` for each of these: 1 where a row has the modality, 0 where it lacks it.
    pub presence: Vec<(Modality, usize)>,
    /// The guides of [`Reads`], in the same order.
    pub guides: Vec<GuideLayout>,
    /// Size of the block in words, a multiple of 64.
    pub words: usize,
    /// Rows.
    pub batch: usize,
}

impl Layout {
    /// Lays out a block for `batch` rows of `specs`, and of tokens where the model reads those; a row's
    /// target is one word.
    pub fn new(batch: usize, specs: &[StreamSpec], tokens: Option<TokenSpec>) -> Layout {
        Self::with_targets(batch, specs, tokens, 1)
    }

    /// The same with targets of `target_width` words.
    pub fn with_targets(
        batch: usize,
        specs: &[StreamSpec],
        tokens: Option<TokenSpec>,
        target_width: usize,
    ) -> Layout {
        let mut end = 0;
        let mut place = |words: usize| {
            let at = end;
            end = (at + words).next_multiple_of(64);
            at
        };
        let streams = specs
            .iter()
            .map(|&StreamSpec { modality, steps, dim, lengths }| {
                let width = dim.next_multiple_of(4);
                let values_at = place(batch * steps * width);
                let lengths_at = lengths.then(|| place(batch));
                StreamLayout { modality, steps, dim, width, values_at, lengths_at }
            })
            .collect();
        let tokens = tokens.map(|TokenSpec { rows, tables }| {
            let rest_runs = embed::rest_runs(rows, tables);
            TokenLayout {
                rows,
                tokens_at: place(4 * rows),
                spans_at: place(2 * batch),
                order_at: place(3 * rows),
                runs_at: place(4 * (rows + rest_runs)),
                rest_runs,
                tables,
            }
        });
        let targets_at = place(batch * target_width);
        let rows_at = place(batch);
        let (unimodal, presence, guides) = (Vec::new(), Vec::new(), Vec::new());
        let words = end;
        Layout {
            streams,
            tokens,
            targets_at,
            target_width,
            rows_at,
            unimodal,
            presence,
            guides,
            words,
            batch,
        }
    }

    /// The same with room for what is read of rows beside streams, tokens and targets.
    pub(crate) fn and(mut self, reads: &Reads) -> Layout {
        let mut end = self.words;
        let mut place = |columns: usize| {
            let at = end;
            end = (at + self.batch * columns).next_multiple_of(64);
            at
        };
        self.unimodal = reads.unimodal.iter().map(|m| (*m, place(1))).collect();
        self.presence = reads.presence.iter().map(|m| (*m, place(1))).collect();
        let guide = |&(modality, dim)| GuideLayout { modality, dim, at: place(dim) };
        self.guides = reads.guides.iter().map(guide).collect();
        self.words = end;
        self
    }

    /// Lays out a block of this shape for what is read; targets are `target_width` words.
    pub fn of(shape: &BatchShape, reads: &Reads, target_width: usize) -> Layout {
        let mut specs = reads.streams.clone();
        specs.iter_mut().zip(&shape.steps).for_each(|(spec, steps)| spec.steps = *steps);
        let layout =
            Layout::with_targets(shape.rows, &specs, reads.tokens(shape.tokens), target_width);
        layout.and(reads)
    }

    /// What a plan for it depends on.
    pub fn shape(&self) -> BatchShape {
        let steps = self.streams.iter().map(|stream| stream.steps).collect();
        let tokens = self.tokens.as_ref().map_or(0, |t| t.rows);
        BatchShape { rows: self.batch, tokens, steps }
    }
}

/// Fills `out` with the block of `rows` (indices into `split`, whose tokens `tokens` are); `out` is resized to the layout.
///
/// # Errors
/// [`Error::Data`] when a row, a modality, a feature count or the standardiser does not fit the
/// split, and [`Error::Shape`] when `rows` is not as long as the layout's batch.
pub fn fill(
    split: &Split,
    tokens: Option<&TokenRows>,
    rows: &[u32],
    layout: &Layout,
    standardise: Option<&Standardise>,
    out: &mut Vec<u32>,
) -> Result<()> {
    if rows.len() != layout.batch {
        let detail = format!("{} rows for a layout of {}", rows.len(), layout.batch);
        return Err(Error::shape("batch", detail));
    }
    if let Some(row) = rows.iter().find(|&&row| row as usize >= split.rows()) {
        let detail = format!("{} has {} rows, no row {row}", split.name(), split.rows());
        return Err(Error::data(split.path(), detail));
    }
    out.clear();
    out.resize(layout.words, 0);
    for place in &layout.streams {
        let stats = standardise.and_then(|s| s.stats(place.modality));
        let stream = readable_stream(split, (place.modality, place.dim), standardise)?;
        let lacks = stream.is_none() || split.missing_rows(place.modality) > 0;
        let usual = standardise.filter(|_| lacks).and_then(|s| s.usual(place.modality));
        for (i, &row) in rows.iter().enumerate() {
            let row = row as usize;
            let Some(stream) = stream.filter(|stream| !stream.missing(row)) else {
                // What is usual says the least.
                let usual = usual.as_ref().ok_or_else(|| unknown(split, place.modality, row))?;
                let left = if place.lengths_at.is_some() { 1 } else { place.steps };
                let frames = (0..left).map(|_| usual.iter().copied());
                write_frames(place, i, frames, None, out);
                continue;
            };
            let values = stream.values(row)?;
            let frames = values.chunks_exact(place.dim).take(stream.len(row).min(place.steps));
            write_frames(place, i, frames.map(|frame| frame.iter().copied()), stats, out);
        }
    }
    if let (Some(place), Some(tokens)) = (&layout.tokens, tokens) {
        fill_tokens(tokens, rows, place, out)?;
        fill_runs(place, out);
    }
    for (modality, at) in &layout.unimodal {
        let labels = split.unimodal_labels(*modality).unwrap_or_default();
        for (word, row) in out[*at..].iter_mut().zip(rows) {
            *word = labels.get(*row as usize).copied().unwrap_or_default().to_bits();
        }
    }
    for (modality, at) in &layout.presence {
        let known = split.has(*modality);
        for (word, row) in out[*at..].iter_mut().zip(rows) {
            *word = f32::from(known && !split.missing(*modality, *row as usize)).to_bits();
        }
    }
    fill_guides(split, rows, &layout.guides, out)?;
    let targets = split.targets();
    if let Some(t) = targets.filter(|t| t.width != layout.target_width) {
        let detail =
            format!("targets of {} words for a layout of {}", t.width, layout.target_width);
        return Err(Error::shape("batch", detail));
    }
    for (i, &row) in rows.iter().enumerate() {
        if let Some(t) = targets {
            let own = &t.words[row as usize * t.width..][..t.width];
            out[layout.targets_at + i * t.width..][..t.width].copy_from_slice(own);
        }
        out[layout.rows_at + i] = row;
    }
    Ok(())
}

/// Writes the frames of row `i` of a stream, standardised where there are statistics, and how many
/// there are where the block says so. What lies past them stays as it is.
fn write_frames<F: Iterator<Item = f32>>(
    place: &StreamLayout,
    i: usize,
    frames: impl ExactSizeIterator<Item = F>,
    stats: Option<&FeatureStats>,
    out: &mut [u32],
) {
    if let Some(at) = place.lengths_at {
        out[at + i] = frames.len() as u32;
    }
    let start = place.values_at + i * place.steps * place.width;
    for (step, frame) in frames.enumerate() {
        let words = out[start + step * place.width..][..place.dim].iter_mut();
        match stats {
            None => words.zip(frame).for_each(|(word, x)| *word = x.to_bits()),
            Some(stats) => {
                words.zip(stats.applied(frame)).for_each(|(word, x)| *word = x.to_bits())
            }
        }
    }
}

/// A row held in memory: of each modality the features of its steps, one step behind the other.
pub type Sample<'a> = [(Modality, &'a [f32])];

/// The shape of a batch of `samples`, as [`fill_samples`] wants it.
///
/// # Errors
/// [`Error::Shape`] naming the sample: without a modality of `specs`, without a step, or of values
/// that are no whole steps.
pub fn shape_of(samples: &[&Sample<'_>], specs: &[StreamSpec]) -> Result<BatchShape> {
    let mut steps = Vec::with_capacity(specs.len());
    for spec in specs {
        let mut longest = 0;
        for (i, sample) in samples.iter().enumerate() {
            longest = longest.max(frames(i, sample, spec.modality, spec.dim)?.len() / spec.dim);
        }
        steps.push(match spec.lengths {
            true => bucket(longest.min(spec.steps), spec.steps),
            false => spec.steps,
        });
    }
    Ok(BatchShape { rows: samples.len(), tokens: 0, steps })
}

/// The values of one modality of a sample.
fn frames<'a>(i: usize, sample: &Sample<'a>, modality: Modality, dim: usize) -> Result<&'a [f32]> {
    let fail = |detail: String| Err(Error::shape("sample", detail));
    let Some((_, values)) = sample.iter().find(|(m, _)| *m == modality) else {
        return fail(format!("sample {i} has no '{modality}', which the model reads"));
    };
    match values.len() {
        0 => fail(format!("'{modality}' of sample {i} has no step")),
        len if dim == 0 || len % dim != 0 => {
            fail(format!("'{modality}' of sample {i} has {len} values, no multiple of {dim}"))
        }
        _ => Ok(values),
    }
}

/// As [`fill`], of rows that are held in memory instead of a split. Steps past the layout's are left
/// out; there are no labels and no tokens; row i is sample i.
///
/// # Errors
/// As [`shape_of`]; another number of samples than the layout's batch; a standardiser of other
/// features.
pub fn fill_samples(
    samples: &[&Sample<'_>],
    layout: &Layout,
    standardise: Option<&Standardise>,
    out: &mut Vec<u32>,
) -> Result<()> {
    if samples.len() != layout.batch {
        let detail = format!("{} samples for a layout of {}", samples.len(), layout.batch);
        return Err(Error::shape("batch", detail));
    }
    out.clear();
    out.resize(layout.words, 0);
    for place in &layout.streams {
        let stats = standardise.and_then(|s| s.stats(place.modality));
        if stats.is_some_and(|s| s.mean.len() != place.dim || s.std.len() != place.dim) {
            let detail = format!("the standardiser of '{}' is of other features", place.modality);
            return Err(Error::shape("batch", detail));
        }
        for (i, sample) in samples.iter().enumerate() {
            let values = frames(i, sample, place.modality, place.dim)?;
            let frames = values.chunks_exact(place.dim).take(place.steps);
            write_frames(place, i, frames.map(|frame| frame.iter().copied()), stats, out);
        }
    }
    // A sample that lacks a stream was refused above.
    for (_, at) in &layout.presence {
        out[*at..at + samples.len()].fill(1.0_f32.to_bits());
    }
    for i in 0..samples.len() {
        out[layout.rows_at + i] = i as u32;
    }
    Ok(())
}

/// The stream of a split, where it has one, that a model with `dim` features per step can read; a split
/// without it can be read where it is known what is usual of it.
pub(super) fn readable_stream<'a>(
    split: &'a Split,
    (modality, dim): (Modality, usize),
    standardise: Option<&Standardise>,
) -> Result<Option<Stream<'a>>> {
    let usual = || standardise.and_then(|s| s.usual(modality));
    if split.stream(modality).is_none() && usual().is_some_and(|usual| usual.len() == dim) {
        return Ok(None);
    }
    let stream = matching_stream(split, modality, dim)?;
    if let Some(stats) = standardise.and_then(|s| s.stats(modality)) {
        stats.fits(split, dim)?;
    }
    Ok(Some(stream))
}

/// Nothing is known that could stand in for what a row lacks.
fn unknown(split: &Split, modality: Modality, row: usize) -> Error {
    let detail = format!(
        "{}, row {row} has no {modality}, and nothing says what is usual of it: no training row has one, \
         or the model's file is of a version that did not keep it",
        split.name()
    );
    Error::data(split.path(), detail)
}

/// A stream of a split is of other features than a model takes.
pub(super) fn other_features(split: &Split, stream: Stream<'_>, dim: usize) -> Error {
    let (name, modality) = (split.name(), stream.modality);
    let detail = format!(
        "{name}.{modality} has {} features where the model takes {dim}; use the data set that the \
         model was made for",
        stream.dim
    );
    Error::data(split.path(), detail)
}

/// The stream of a split that a model with `dim` features per step can read.
pub(super) fn matching_stream(split: &Split, modality: Modality, dim: usize) -> Result<Stream<'_>> {
    let name = split.name();
    match split.stream(modality) {
        Some(stream) if stream.dim == dim => Ok(stream),
        Some(stream) => Err(other_features(split, stream, dim)),
        None => Err(Error::data(
            split.path(),
            format!("{name}.{modality} is missing; the model takes it, so add it to the file"),
        )),
    }
}

/// The row order of one epoch: 0..rows, shuffled (Fisher-Yates). The same on every platform.
pub fn shuffled(rows: u32, seed: u64, epoch: u64) -> Vec<u32> {
    let mut rng = Rng::keyed(&[seed, epoch]);
    let mut order: Vec<u32> = (0..rows).collect();
    for i in (1..order.len()).rev() {
        let j = rng.below(i as u64 + 1) as usize;
        order.swap(i, j);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::super::testkit::small;
    use super::super::{Dataset, SplitName};
    use super::*;

    fn specs() -> Vec<StreamSpec> {
        let spec = |modality, steps, dim, lengths| StreamSpec { modality, steps, dim, lengths };
        vec![spec(Modality::Text, 1, 3, false), spec(Modality::Audio, 3, 5, true)]
    }

    #[test]
    fn fields_are_aligned_and_do_not_overlap() {
        let layout = Layout::new(7, &specs(), None);
        let audio = layout.streams[1];
        assert_eq!((audio.width, layout.streams[0].width), (8, 4));
        let lengths = audio.lengths_at.unwrap();
        let fields = [
            (layout.streams[0].values_at, 7 * 4),
            (audio.values_at, 7 * 3 * 8),
            (lengths, 7),
            (layout.targets_at, 7),
            (layout.rows_at, 7),
            (layout.words, 0),
        ];
        for pair in fields.windows(2) {
            assert_eq!(pair[1].0 % 64, 0);
            assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
    }

    #[test]
    fn buckets_hold_what_they_must() {
        for most in 1..100 {
            let mut all: Vec<usize> = (1..=most).map(|longest| bucket(longest, most)).collect();
            assert!(all.iter().zip(1..).all(|(b, longest)| (longest..=most).contains(b)));
            all.dedup();
            assert!(all.len() <= 8 && all.last() == Some(&most), "{most}: {all:?}");
        }
        assert_eq!((bucket(0, 0), bucket(0, 5)), (1, 1));
    }

    #[test]
    fn fill_copies_cuts_and_pads() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let layout = Layout::new(2, &specs(), None);
        // Left-overs of an earlier use must not shine through.
        let mut out = vec![u32::MAX; 3 * layout.words];
        fill(train, None, &[1, 0], &layout, None, &mut out).unwrap();
        assert_eq!(out.len(), layout.words);
        let f = |at: usize| f32::from_bits(out[at]);
        let audio = layout.streams[1];
        let value = |i: usize, t: usize, d: usize| f(audio.values_at + (i * 3 + t) * 8 + d);
        assert_eq!((value(0, 0, 0), value(0, 1, 4)), (20.0, 29.0));
        assert_eq!(value(0, 2, 0), 0.0, "past the row's length");
        assert_eq!(value(0, 0, 5), 0.0, "width padding");
        assert_eq!(value(1, 2, 4), 14.0);
        let lengths = audio.lengths_at.unwrap();
        assert_eq!(out[lengths..lengths + 3], [2, 3, 0], "row 0 has 4 steps, cut to 3");
        assert_eq!((f(layout.targets_at), f(layout.targets_at + 1)), (0.0, -1.0));
        assert_eq!(out[layout.rows_at..layout.rows_at + 2], [1, 0]);
        assert_eq!(f(layout.streams[0].values_at), 0.3);
    }

    #[test]
    fn more_steps_than_the_file_are_padding() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let mut specs = specs();
        specs[1].steps = 6;
        let layout = Layout::new(1, &specs, None);
        let mut out = Vec::new();
        fill(train, None, &[0], &layout, None, &mut out).unwrap();
        let audio = layout.streams[1];
        assert_eq!(out[audio.lengths_at.unwrap()], 4);
        assert!(out[audio.values_at + 4 * 8..audio.values_at + 6 * 8].iter().all(|&w| w == 0));
    }

    #[test]
    fn misfits_are_errors() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let mut out = Vec::new();
        let mut error = |rows: &[u32], batch, specs: &[StreamSpec]| {
            let layout = Layout::new(batch, specs, None);
            fill(train, None, rows, &layout, None, &mut out).unwrap_err().to_string()
        };
        assert!(error(&[3], 1, &specs()).contains("no row 3"));
        assert!(error(&[0], 2, &specs()).contains("1 rows for a layout of 2"));
        let mut other = specs();
        other[1].dim = 4;
        assert!(error(&[0], 1, &other).contains("5 features where the model takes 4"));
        other[1].modality = Modality::Vision;
        assert!(error(&[0], 1, &other).contains("train.vision is missing"));
    }

    #[test]
    fn shuffles_are_fixed_permutations() {
        let order = shuffled(100, 1111, 3);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order, shuffled(100, 1111, 3));
        assert_ne!(order, shuffled(100, 1111, 4));
        assert_ne!(order, shuffled(100, 1112, 3));
        assert!(shuffled(0, 1, 1).is_empty());
        // Worked out apart from this code. A change here would change every earlier run.
        assert_eq!(shuffled(8, 1111, 0), [0, 5, 7, 1, 2, 3, 4, 6]);
    }
}
