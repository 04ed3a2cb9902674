//! The buffers and plans of a session before anything is allocated: what is checked against an
//! adapter, and what `inspect` prints.

use super::limits::{check_batch, check_schedule, check_task, check_unimodal, check_values};
use super::opened::open_file;
use super::remarks::say_what_is_lost;
use super::text::outlined;
use crate::data::{BatchShape, Dataset, Layout, Modality, SplitName, StreamSpec, shuffled};
use crate::error::{Error, Result};
use crate::gpu::Caps;
use crate::nn::Params;
use crate::plan::{Plan, SpaceId, Spaces};
use crate::recipe::{Config, Model, Offered, OutputKind, TrainSpaces};
use crate::tape::Tape;
use std::path::Path;

/// Steps between two reads of the loss ring.
const RING_ROWS: usize = 16;

/// What a plan is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A training step of a [stage](crate::recipe::TrainingStage).
    Train(usize),
    /// The scores of a batch.
    Scores,
    /// Everything that a batch is encoded to.
    Represent,
}

/// Declared, not yet allocated: what [`Session::new`] builds and `inspect` prints.
pub(super) struct Blueprint {
    pub(super) params: Params,
    pub(super) spaces: Spaces,
    pub(super) block: SpaceId,
    pub(super) scores: SpaceId,
    pub(super) train: Option<TrainSpaces>,
}

impl Kind {
    /// What of a forward pass it leaves.
    fn outputs(self) -> Option<OutputKind> {
        match self {
            Kind::Train(_) => None,
            Kind::Scores => Some(OutputKind::Score),
            Kind::Represent => Some(OutputKind::Representation),
        }
    }
}

/// Floats of a row of the table that evaluation fills: scores, or all representations.
pub(super) fn table_width(model: &Model, kind: Kind) -> usize {
    kind.outputs().map_or(0, |outputs| model.width(outputs))
}

/// The largest shape that a batch of so many rows can have.
pub(super) fn full_batch(model: &Model, data: &Dataset, batch: usize) -> BatchShape {
    let rows = batch.min(data.most_rows());
    let tokens = data.text().filter(|_| model.bert().is_some());
    let tokens = tokens.map_or(0, |t| t.tokens.worst_rows(rows));
    Layout::new(rows, model.streams(), model.reads().tokens(tokens)).shape()
}

/// The order in which an epoch (from 1) visits the training rows.
pub(super) fn order(model: &Model, data: &Dataset, epoch: usize) -> Vec<u32> {
    let rows = data.split(SplitName::Train).map_or(0, |s| s.rows()) as u32;
    let t = &model.config().train;
    if t.shuffle { shuffled(rows, t.seed, epoch as u64) } else { (0..rows).collect() }
}

/// The full batches of the first epoch that have the shape of the middle one of them, one after the
/// other, and that shape.
pub(super) fn typical(model: &Model, data: &Dataset) -> (Vec<u32>, BatchShape) {
    let mut order = order(model, data, 1);
    let batch = model.config().train.batch_size.min(order.len()).max(1);
    order.truncate(order.len() / batch * batch);
    let Some(split) = data.split(SplitName::Train) else {
        return (order, full_batch(model, data, batch));
    };
    let text = data.text().filter(|_| model.bert().is_some());
    let tokens = text.and_then(|t| t.tokens.split(SplitName::Train));
    let shape = |rows: &[u32]| BatchShape::of(split, tokens, model.streams(), rows);
    let mut shapes: Vec<BatchShape> = order.chunks(batch).map(shape).collect();
    shapes.sort_by_cached_key(|s| (s.tokens, s.steps.iter().sum::<usize>(), s.steps.clone()));
    let Some(middle) = shapes.get(shapes.len() / 2).cloned() else {
        return (order, full_batch(model, data, batch));
    };
    let chosen = order.chunks(batch).filter(|b| shape(b) == middle).flatten().copied();
    (chosen.collect(), middle)
}

impl Blueprint {
    pub(super) fn new(
        model: &Model,
        data: &Dataset,
        batch: &BatchShape,
        caps: &Caps,
        train: bool,
    ) -> Result<Self> {
        let mut spaces = Spaces::new();
        let specs = model.params(train, Params::largest(caps.max_binding));
        let groups = (&model.groups()[..], model.most_turns());
        let params = Params::by_turns(specs, groups, &mut spaces, caps.max_binding, train)?;
        let block = spaces.declare("batch", model.layout(batch).words);
        // All scores of a split, and the representations of one batch: those are read in passes.
        let scores = data.most_rows() * table_width(model, Kind::Scores);
        let represented = batch.rows * table_width(model, Kind::Represent);
        let scores = spaces.declare("results", scores.max(represented));
        // Steps of an encoder are long: losses should be seen before sixteen of them are over.
        let ring_rows = if model.bert().is_some() { RING_ROWS / 4 } else { RING_ROWS };
        let train = match (train, data.split(SplitName::Train)) {
            (true, Some(split)) => Some(model.train_spaces(&mut spaces, split.rows(), ring_rows)),
            _ => None,
        };
        Ok(Blueprint { params, spaces, block, scores, train })
    }

    /// The buffers and the first plan of a session over `data`, once they are known to fit.
    ///
    /// # Errors
    /// A batch too large for the adapter, naming the largest that fits; a schedule under which no
    /// step would be taken.
    pub(super) fn fitting(
        model: &Model,
        data: &Dataset,
        caps: &Caps,
        train: bool,
    ) -> Result<(Self, Plan)> {
        if train {
            check_schedule(model, data)?;
            check_task(model, data)?;
            check_values(model, data)?;
            say_what_is_lost(model, data);
        }
        let rows = data.most_rows();
        let batch = model.config().train.batch_size.min(rows);
        let kind = if train { Kind::Train(0) } else { Kind::Scores };
        check_batch(batch, |batch| {
            let batch = full_batch(model, data, batch);
            let made = Self::new(model, data, &batch, caps, train)?;
            let largest = made.spaces.iter().map(|(n, w)| (w as u64 * 4, n)).max();
            if let Some((bytes, name)) = largest.filter(|(bytes, _)| *bytes > caps.max_binding) {
                return Err(Error::OutOfMemory {
                    what: name.to_string(),
                    bytes,
                    advice: format!("one binding of {} holds {}", caps.name, caps.max_binding),
                });
            }
            let plan = made.plan(model, &batch, caps, kind)?;
            Ok((made, plan))
        })
    }

    /// Rows of the table that evaluation fills in one pass.
    pub(super) fn table_rows(&self, model: &Model, kind: Kind) -> usize {
        self.spaces.words(self.scores).map_or(0, |w| w / table_width(model, kind).max(1))
    }

    /// The plan of a batch of this shape.
    pub(super) fn plan(
        &self,
        model: &Model,
        batch: &BatchShape,
        caps: &Caps,
        kind: Kind,
    ) -> Result<Plan> {
        let layout = model.layout(batch);
        let mut tape = Tape::new();
        match (kind, kind.outputs(), &self.train) {
            (Kind::Train(stage), _, Some(spaces)) => {
                model.step(&mut tape, &self.params, &layout, self.block, (spaces, stage))?;
            }
            (_, None, _) => {
                return Err(Error::Config("the data has no training split".into()));
            }
            (_, Some(outputs), _) => {
                let table = (self.scores, self.table_rows(model, kind));
                let place = (&layout, self.block);
                model.evaluate(&mut tape, &self.params, place, table, outputs)?;
            }
        }
        tape.plan(caps)
    }
}

/// A training step as it will be, before anything is allocated.
pub struct Outline {
    /// Every dispatch.
    pub plan: Plan,
    /// The turns that they are of, in order: one for most models.
    pub turns: Vec<String>,
    /// Scalar parameters.
    pub parameters: usize,
    /// Rows of its batch.
    pub batch: usize,
    /// Persistent buffers by name, in bytes.
    pub buffers: Vec<(String, u64)>,
    /// Bytes that gradient checkpointing saves, or would, where the step has a pretrained encoder.
    pub checkpoint_saves: Option<u64>,
    /// Bytes of everything: persistent buffers, scratch, constants.
    pub bytes: u64,
}

/// Outlines a training step of `config` over the data set `data` on an adapter, with the pretrained
/// encoder in `encoder` where the configuration has one. Allocates and computes nothing.
///
/// # Errors
/// As [`Session::new`](super::Session::new), and bad data.
pub fn outline(config: &Config, data: &Path, encoder: &Path, caps: &Caps) -> Result<Outline> {
    let (data, streams) = offered(config, data, encoder)?;
    outline_over(config, &data, &streams, caps)
}

/// The same over data that are open, with these streams.
pub(super) fn outline_over(
    config: &Config,
    data: &Dataset,
    streams: &[StreamSpec],
    caps: &Caps,
) -> Result<Outline> {
    let fitted = |config: &Config| {
        let model = Model::new(config, offer(streams, data))?;
        let (made, plan) = Blueprint::fitting(&model, data, caps, true)?;
        let bytes = plan.total_bytes(&made.spaces);
        Ok::<_, Error>((model, made, plan, bytes))
    };
    let (model, made, plan, bytes) = fitted(config)?;
    // The steps of the last stage are those that are meant, where a model has others before.
    let plan = match model.last_stage() {
        0 => plan,
        last => {
            let batch = full_batch(&model, data, config.train.batch_size);
            made.plan(&model, &batch, caps, Kind::Train(last))?
        }
    };
    let checkpoint_saves = match model.bert() {
        Some(bert) => {
            let mut other = config.clone();
            other.bert.checkpoint = !bert.checkpoint;
            let (.., other) = fitted(&other)?;
            let (with, without) = if bert.checkpoint { (bytes, other) } else { (other, bytes) };
            Some(without.saturating_sub(with))
        }
        None => None,
    };
    let rows = data.most_rows();
    Ok(Outline {
        turns: model.turns().iter().map(|turn| turn.name.clone()).collect(),
        parameters: made.params.count(),
        checkpoint_saves,
        batch: config.train.batch_size.min(rows),
        buffers: made.spaces.iter().map(|(n, w)| (n.to_string(), w as u64 * 4)).collect(),
        bytes,
        plan,
    })
}

/// A training step of a batch of typical size, before anything is allocated.
pub struct TypicalStep {
    /// Every dispatch, the optimiser's too.
    pub plan: Plan,
    /// Rows of its batch.
    pub batch: usize,
    /// Token rows of its batch, 0 where the model reads none: as many as the middle one of the first
    /// epoch's batches has.
    pub tokens: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// The optimiser runs after so many batches.
    pub accumulate: usize,
}

/// A step of typical size as [`outline`] outlines the longest one. Needs no adapter: `caps` may be
/// [`Caps::defaults`].
///
/// # Errors
/// As [`outline`].
pub fn typical_step(
    config: &Config,
    data: &Path,
    encoder: &Path,
    caps: &Caps,
) -> Result<TypicalStep> {
    let (data, streams) = offered(config, data, encoder)?;
    let model = Model::new(config, offer(&streams, &data))?;
    let (made, _) = Blueprint::fitting(&model, &data, caps, true)?;
    let (_, size) = typical(&model, &data);
    let rows = order(&model, &data, 1).len();
    Ok(TypicalStep {
        plan: made.plan(&model, &size, caps, Kind::Train(model.last_stage()))?,
        batch: size.rows,
        tokens: size.tokens,
        batches: rows.div_ceil(size.rows),
        accumulate: config.train.accumulate,
    })
}

/// Whether a model of `config` can read a data set, its text through the pretrained encoder that the
/// configuration names. Allocates and computes nothing.
///
/// # Errors
/// What it lacks.
pub fn fits(config: &Config, data: &Dataset) -> Result<()> {
    let (data, streams) = offered_by(config, data.clone(), Path::new(&config.bert.path))?;
    check_unimodal(&Model::new(config, offer(&streams, &data))?, &data)
}

/// The data with what an encoder will make of its text, and what it then offers.
fn offered(config: &Config, data: &Path, encoder: &Path) -> Result<(Dataset, Vec<StreamSpec>)> {
    offered_by(config, open_file(data, config)?, encoder)
}

fn offered_by(
    config: &Config,
    data: Dataset,
    encoder: &Path,
) -> Result<(Dataset, Vec<StreamSpec>)> {
    let (data, features) = outlined(data, config, encoder)?;
    let mut streams = available(&data);
    if let Some(dim) = features {
        streams.retain(|s| s.modality != Modality::Text);
        streams.push(StreamSpec { modality: Modality::Text, steps: 1, dim, lengths: false });
    }
    Ok((data, streams))
}

/// What data offer to a model: these streams, and their text as tokens where they have it.
pub(super) fn offer<'a>(streams: &'a [StreamSpec], data: &'a Dataset) -> Offered<'a> {
    let bert = data.text().map(|text| &text.shape);
    let rows = data.split(SplitName::Train).map_or(0, |s| s.rows());
    let sentences = data.splits().all(|s| s.raw_text().is_some())
        || data.splits().all(|s| s.text_bert().is_some());
    let (task, counts) = (data.task(), data.counts());
    Offered { streams, bert, task, counts, rows, guides: &[], sentences }
}

/// The streams of the data.
pub(super) fn available(data: &Dataset) -> Vec<StreamSpec> {
    let Some(split) = data.splits().next() else { return Vec::new() };
    split.modalities().filter_map(|m| split.stream(m)).map(|s| StreamSpec::of(&s)).collect()
}
