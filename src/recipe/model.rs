//! A recipe with its configuration, as the floors above use it: what it says of itself, asked once, and
//! its batches as whole recordings.

use super::config::Config;
use super::cx::{Cx, Recorded, StateSpace, TrainSpaces};
use super::goal::Goal;
use super::recipe::{Columns, Output, OutputKind, Recipe, TrainingStage, Turn};
use super::registry;
use crate::data::task::NUMBER;
use crate::data::{BatchShape, Layout, Modality, Reads, StreamSpec, Task};
use crate::error::{Error, Result};
use crate::nn::{Bert, BertShape, Group, ParamSpec, Params};
use crate::ops::optim::Clip;
use crate::plan::{SpaceId, Spaces};
use crate::tape::{Tape, Var};

/// What a data set offers to a model.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    /// Its streams.
    pub streams: &'a [StreamSpec],
    /// Sizes of the pretrained encoder for whose tokens it has text.
    pub bert: Option<&'a BertShape>,
    /// What is to be predicted.
    pub task: &'a Task,
    /// How many training rows have each class or label; empty where nobody needs to know.
    pub counts: &'a [usize],
    /// How many training rows there are.
    pub rows: usize,
    /// Guides that a saved model was trained with, and their features: it is read without them.
    pub guides: &'a [(Modality, usize)],
    /// Whether its rows have sentences or token ids, which a pretrained encoder could read.
    pub sentences: bool,
}

impl<'a> Offered<'a> {
    /// These streams with a number to predict, and no tokens.
    pub fn new(streams: &'a [StreamSpec]) -> Self {
        let (task, counts, guides) = (&NUMBER, &[], &[]);
        Offered { streams, bert: None, task, counts, rows: 0, guides, sentences: false }
    }

    /// The stream of a modality, where there is one and a configuration wants it.
    pub(super) fn wanted(&self, config: &Config, modality: Modality) -> Option<StreamSpec> {
        let found = self.streams.iter().find(|s| s.modality == modality).copied();
        found.filter(|_| config.model.wants(modality))
    }

    /// The streams that a configuration wants of these, in order, read to the end of their padding, whatever
    /// a row's own length.
    pub(super) fn whole(&self, config: &Config) -> Vec<StreamSpec> {
        let wanted = self.streams.iter().filter(|s| config.model.wants(s.modality));
        let mut all: Vec<_> = wanted.map(|s| StreamSpec { lengths: false, ..*s }).collect();
        all.sort_by_key(|s| s.modality);
        all
    }

    /// There is nothing to read.
    pub(super) fn none_wanted(&self, config: &Config) -> Error {
        Error::Config(format!(
            "model.modalities is '{}', and of the streams that {} reads the data has none of them; its \
             streams are: {}{}",
            config.model.modalities,
            config.model.name,
            self.names(),
            self.unread()
        ))
    }

    /// What becomes of its text where nothing reads it, for the end of a message.
    pub(super) fn unread(&self) -> &'static str {
        let text = self.streams.iter().any(|s| s.modality == Modality::Text);
        match self.sentences && !text && self.bert.is_none() {
            true => "; it has text, which a pretrained encoder reads: --bert FOLDER",
            false => "",
        }
    }

    /// Names of the streams, for a message.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.streams.iter().map(|s| s.modality.name()).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

/// What [`Model::differentiate`] has recorded; all of it can be read when its program has run.
#[derive(Clone, Debug)]
pub struct Differentiated {
    /// `[batch, columns]`: the scores that are weighed, the one that the model predicts first.
    pub scores: Var,
    /// Of each stream that is read its gradient, `[batch, steps, width]`; nothing where the scores do not
    /// depend on it.
    pub streams: Vec<Option<Var>>,
    /// `[T, hidden]`: the gradient of the embeddings' output.
    pub tokens: Option<Var>,
}

/// A model.
pub struct Model {
    config: Config,
    recipe: Box<dyn Recipe>,
    reads: Reads,
    outputs: Vec<Output>,
    stages: Vec<TrainingStage>,
    goal: Goal,
}

impl Model {
    /// The model that `config` names over what the data offer.
    ///
    /// # Errors
    /// Those of the recipe: data that it cannot use, settings that do not go together.
    pub fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let recipe = registry::make(config, offered)?;
        let goal = Goal::new(config, offered.task, offered.counts, offered.rows);
        Ok(Self::of(config, recipe, goal))
    }

    /// The same with every parameter stored in full, none by halves.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn in_full(self) -> Result<Self> {
        if !self.config.bert.half {
            return Ok(self);
        }
        let mut config = self.config;
        config.bert.half = false;
        let shape = self.recipe.bert().map(|bert| bert.shape);
        let offered = Offered {
            bert: shape.as_ref(),
            task: &self.goal.task,
            guides: &self.reads.guides,
            ..Offered::new(&self.reads.streams)
        };
        Ok(Self::of(&config, registry::make(&config, offered)?, self.goal))
    }

    /// A recipe with a configuration.
    pub(super) fn of(config: &Config, recipe: Box<dyn Recipe>, goal: Goal) -> Self {
        let (reads, outputs, stages) = (recipe.reads(), recipe.outputs(), recipe.stages());
        debug_assert!(!stages.is_empty(), "a training has a stage");
        Model { config: config.clone(), recipe, reads, outputs, stages, goal }
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its recipe.
    pub fn recipe(&self) -> &dyn Recipe {
        self.recipe.as_ref()
    }

    /// What it takes of a data set.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// What it predicts, and what its loss holds scores against.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// What it predicts.
    pub fn task(&self) -> &Task {
        &self.goal.task
    }

    /// The streams that it reads.
    pub fn streams(&self) -> &[StreamSpec] {
        &self.reads.streams
    }

    /// The stages of a training, in order.
    pub fn stages(&self) -> &[TrainingStage] {
        &self.stages
    }

    /// The place of the last stage, which most models begin with.
    pub fn last_stage(&self) -> usize {
        self.stages.len() - 1
    }

    /// Epochs before the last stage.
    pub fn epochs_before(&self) -> usize {
        self.stages.iter().filter_map(|stage| stage.epochs).sum()
    }

    /// The stage of an epoch, from 1.
    pub fn stage_of(&self, epoch: usize) -> usize {
        let mut end = 0;
        let over = |stage: &&TrainingStage| {
            end += stage.epochs.unwrap_or(usize::MAX - end);
            end < epoch
        };
        self.stages.iter().take_while(over).count().min(self.last_stage())
    }

    /// The numbers of a line of the log, in the last stage.
    pub fn columns(&self) -> &Columns {
        &self.stages[self.last_stage()].columns
    }

    /// Floats of a row of the loss ring.
    pub fn ring_width(&self) -> usize {
        self.stages.iter().map(|stage| stage.columns.width()).max().unwrap_or_default()
    }

    /// What a forward pass leaves of a row.
    pub fn outputs(&self, kind: OutputKind) -> impl Iterator<Item = &Output> {
        self.outputs.iter().filter(move |o| o.kind == kind)
    }

    /// Names of its scores, the first of which is what it predicts.
    pub fn scores(&self) -> Vec<String> {
        self.outputs(OutputKind::Score).map(|o| o.name.clone()).collect()
    }

    /// Floats that a forward pass leaves of a row.
    pub fn width(&self, kind: OutputKind) -> usize {
        self.outputs(kind).map(|o| o.size).sum()
    }

    /// The pretrained encoder that it trains, where it has one.
    pub fn bert(&self) -> Option<&Bert> {
        self.recipe.bert()
    }

    /// Its parameters; see [`Recipe::params`].
    pub fn params(&self, train: bool, limit: usize) -> Vec<ParamSpec> {
        self.recipe.params(train, limit)
    }

    /// Its optimiser groups.
    pub fn groups(&self) -> Vec<Group> {
        self.recipe.groups()
    }

    /// The turns in which it learns from a batch in the last stage, in order.
    pub fn turns(&self) -> &[Turn] {
        &self.stages[self.last_stage()].turns
    }

    /// The most turns that a step of any stage has.
    pub fn most_turns(&self) -> usize {
        self.stages.iter().map(|stage| stage.turns.len()).max().unwrap_or_default()
    }

    /// The block of a batch of this shape.
    pub fn layout(&self, shape: &BatchShape) -> Layout {
        Layout::of(shape, &self.reads, self.task().width())
    }

    /// The block of a batch of so many rows of whole streams, without tokens.
    pub fn whole_layout(&self, rows: usize) -> Layout {
        let layout = Layout::with_targets(rows, &self.reads.streams, None, self.task().width());
        layout.and(&self.reads)
    }

    /// Declares the buffers of training over `total` rows.
    pub fn train_spaces(&self, spaces: &mut Spaces, total: usize, ring_rows: usize) -> TrainSpaces {
        let state = |spec: super::recipe::StateSpec| StateSpace {
            name: spec.name,
            space: spaces.declare(spec.name, spec.shape.iter().product()),
            shape: spec.shape,
        };
        TrainSpaces {
            states: self.recipe.states(total).into_iter().map(state).collect(),
            ring: spaces.declare("loss ring", ring_rows * self.ring_width()),
            ring_rows,
            ring_width: self.ring_width(),
            total,
        }
    }

    fn cx<'a>(
        &'a self,
        (tape, params): (&'a mut Tape, &'a Params),
        place: (&'a Layout, SpaceId),
        columns: &'a Columns,
        train: Option<(&'a TrainSpaces, &'a str)>,
    ) -> Cx<'a> {
        Cx::new((tape, params), place, (columns, &self.outputs, &self.goal), train)
    }

    /// Records a whole training step of a stage, turn by turn: forward, objective and its numbers in the row of the
    /// loss ring, backward, what the recipe has after that, optimiser.
    ///
    /// # Errors
    /// Those of the recipe; a column that no turn logs; parameters of other groups or [turns](Self::turns);
    /// where there are several turns, one that moves a parameter that none of its losses reaches.
    pub fn step(
        &self,
        tape: &mut Tape,
        params: &Params,
        layout: &Layout,
        block: SpaceId,
        (spaces, stage): (&TrainSpaces, usize),
    ) -> Result<()> {
        let TrainingStage { turns, columns, .. } = &self.stages[stage];
        let train = &self.config.train;
        let bound = |most: f64| (most > 0.0).then_some(most as f32);
        let clip = Clip { norm: bound(train.clip_norm), value: bound(train.clip_value) };
        let moved = |group: &Group| {
            let own = |turn: &Turn| turn.groups.as_ref().is_none_or(|g| g.contains(&group.name));
            self.stages.iter().flat_map(|stage| &stage.turns).any(own)
        };
        if let Some(group) = self.groups().into_iter().find(|group| !moved(group)) {
            let detail = format!("no turn moves the parameter group '{}'", group.name);
            return Err(Error::shape("record", detail));
        }
        let mut missing = vec![true; columns.list().len()];
        for (i, turn) in turns.iter().enumerate() {
            let since = tape.recording().calls.len();
            let place = (layout, block);
            let made = self
                .turn((tape, params), place, columns, (spaces, turn))
                .map_err(|e| self.within(turn, e))?;
            missing.iter_mut().for_each(|column| *column &= !made.own_row);
            made.logged.iter().for_each(|(column, _)| missing[*column] = false);
            match &turn.groups {
                None => params.optimize(tape, clip)?,
                Some(groups) => {
                    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                    if let Some(name) = params.unreached(tape, since, &groups) {
                        let detail = format!(
                            "it moves '{name}', which none of its losses reaches: give that a group that \
                             it leaves alone"
                        );
                        return Err(self.within(turn, Error::shape("record", detail)));
                    }
                    params.optimize_turn(tape, i, &groups, clip)?
                }
            };
        }
        if let Some(i) = missing.iter().position(|missing| *missing) {
            let name = &columns.list()[i].name;
            return Err(Error::shape("record", format!("nothing is logged as '{name}'")));
        }
        Ok(())
    }

    /// Records a turn up to its gradients and what the recipe has after them.
    fn turn(
        &self,
        (tape, params): (&mut Tape, &Params),
        place: (&Layout, SpaceId),
        columns: &Columns,
        (spaces, turn): (&TrainSpaces, &Turn),
    ) -> Result<Recorded> {
        let mut cx = self.cx((tape, params), place, columns, Some((spaces, &turn.name)));
        self.recipe.record(&mut cx)?;
        let mut made = cx.recorded();
        if !made.logged.is_empty() {
            let shape = [spaces.ring_rows, spaces.ring_width];
            let ring = tape.input("ring", &shape, spaces.ring, 0);
            tape.log_row(&made.logged, ring)?;
        }
        tape.backward(&made.losses)?;
        for record in std::mem::take(&mut made.later) {
            record(tape)?;
        }
        Ok(made)
    }

    /// An error with the turn that it is of, where there are several.
    fn within(&self, turn: &Turn, error: Error) -> Error {
        match error {
            Error::Shape { op, detail } if self.most_turns() > 1 => {
                Error::shape(op, format!("in turn '{}', {detail}", turn.name))
            }
            other => other,
        }
    }

    /// Records a forward pass that leaves all outputs of a kind side by side, row by row, in
    /// `table [rows, width]`, at the places that the batch's rows name.
    ///
    /// # Errors
    /// Those of the recipe; an output that it did not leave.
    pub fn evaluate(
        &self,
        tape: &mut Tape,
        params: &Params,
        (layout, block): (&Layout, SpaceId),
        (table, rows): (SpaceId, usize),
        kind: OutputKind,
    ) -> Result<()> {
        let mut cx = self.cx((tape, params), (layout, block), self.columns(), None);
        self.recipe.record(&mut cx)?;
        let places = cx.rows();
        let left = cx.recorded().left;
        let table = tape.input("results", &[rows, self.width(kind)], table, 0);
        let mut at = 0;
        for (first, var) in self.left_of(kind, left)? {
            let columns = tape.rows_cols(var).1;
            debug_assert_eq!(self.outputs[first].kind, kind);
            tape.scatter_rows(var, places, table, at)?;
            at += columns;
        }
        Ok(())
    }

    /// Records a forward pass, and the gradients of the sum of its first scores, each so many times as
    /// `weights` says (a space of `[scores]`), with respect to what the batch holds: of each row its own,
    /// since no row of an evaluation knows of another. What the embeddings of a pretrained encoder would
    /// give is taken from `embedded`, a space of `[T, hidden]` of so many columns, where the model reads
    /// tokens.
    ///
    /// # Errors
    /// Those of the recipe.
    pub fn differentiate(
        &self,
        tape: &mut Tape,
        params: &Params,
        (layout, block): (&Layout, SpaceId),
        embedded: Option<(SpaceId, usize)>,
        weights: SpaceId,
    ) -> Result<Differentiated> {
        let cx = self.cx((tape, params), (layout, block), self.columns(), None);
        let mut cx = cx.differentiating(embedded);
        self.recipe.record(&mut cx)?;
        let Recorded { left, inputs, .. } = cx.recorded();
        let left = self.left_of(OutputKind::Score, left)?;
        let (_, scores) =
            *left.first().ok_or_else(|| Error::shape("differentiate", "there is no score"))?;
        let columns = tape.rows_cols(scores).1;
        let weights = tape.input("weights", &[columns], weights, 0);
        let weighed = tape.mul(scores, weights)?;
        let all = tape.sum(weighed)?;
        tape.backward(&[all])?;
        let inputs = inputs.unwrap_or_default();
        let gradient = |i: usize| {
            let (_, var) = inputs.streams.iter().find(|(stream, _)| *stream == i)?;
            tape.grad(*var)
        };
        let streams: Vec<Option<Var>> = (0..layout.streams.len()).map(gradient).collect();
        let tokens = inputs.tokens.and_then(|var| tape.grad(var));
        // What is kept is a tensor of its own, whatever the scores share their memory with.
        let scores = tape.scale(scores, 1.0)?;
        streams.iter().flatten().chain(&tokens).chain([&scores]).for_each(|var| tape.keep(*var));
        Ok(Differentiated { scores, streams, tokens })
    }

    /// What was left of a kind, in the order of the outputs.
    fn left_of(&self, kind: OutputKind, mut left: Vec<(usize, Var)>) -> Result<Vec<(usize, Var)>> {
        left.retain(|(first, _)| self.outputs[*first].kind == kind);
        left.sort_by_key(|(first, _)| *first);
        Ok(left)
    }
}
