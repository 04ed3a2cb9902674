//! What a recipe records a batch with.

use super::goal::{Distance, Goal};
use super::recipe::{Columns, Counts, Output};
use crate::data::{Layout, Modality, TaskKind};
use crate::error::{Error, Result};
use crate::nn::{Params, TokenVars};
use crate::plan::SpaceId;
use crate::tape::{Tape, Var};

/// A tensor of training that outlasts a step: its name, its space and its shape.
#[derive(Clone, Debug)]
pub struct StateSpace {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub space: SpaceId,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// What training keeps on the device from step to step.
#[derive(Clone, Debug)]
pub struct TrainSpaces {
    /// The recipe's own states.
    pub states: Vec<StateSpace>,
    /// `[rows, width]` of the loss ring.
    pub ring: SpaceId,
    /// Rows of the ring.
    pub ring_rows: usize,
    /// Floats of a row of it.
    pub ring_width: usize,
    /// Training rows.
    pub total: usize,
}

impl TrainSpaces {
    /// A state by its name.
    pub fn state(&self, name: &str) -> Option<&StateSpace> {
        self.states.iter().find(|state| state.name == name)
    }
}

/// A stream of a batch.
#[derive(Clone, Copy, Debug)]
pub struct StreamVars {
    /// `[batch, steps, width]`; columns past `dim` are zero.
    pub values: Var,
    /// `[batch]` u32, where the batch has them.
    pub lengths: Option<Var>,
    /// Steps.
    pub steps: usize,
    /// Columns that carry data.
    pub dim: usize,
    /// Columns.
    pub width: usize,
}

/// The inputs of a batch that a recording asks the gradients of.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs {
    /// Where the output of a pretrained encoder's embeddings is given, and its columns.
    pub embedded: Option<(SpaceId, usize)>,
    /// The streams that were asked for, by their place.
    pub streams: Vec<(usize, Var)>,
    /// The output of the embeddings, `[T, hidden]`, where that was asked for.
    pub tokens: Option<Var>,
}

type Later = Box<dyn FnOnce(&mut Tape) -> Result<()>>;

/// Hands a recipe its parameters, the batch and its states, and takes losses and outputs by name.
pub struct Cx<'a> {
    /// What is recorded.
    pub tape: &'a mut Tape,
    /// The recipe's parameters; one [`Var`] for a name, however often it is asked for.
    pub params: &'a Params,
    layout: &'a Layout,
    block: SpaceId,
    columns: &'a Columns,
    outputs: &'a [Output],
    goal: &'a Goal,
    train: Option<(&'a TrainSpaces, &'a str)>,
    losses: Vec<Var>,
    logged: Vec<(usize, Var)>,
    own_row: bool,
    left: Vec<(usize, Var)>,
    later: Vec<Later>,
    known: Vec<(&'static str, Var)>,
    inputs: Option<Inputs>,
}

/// What a recipe has recorded of a batch.
pub(super) struct Recorded {
    /// Numbers to differentiate.
    pub losses: Vec<Var>,
    /// Numbers of the log by column; none where the recipe wrote its row itself.
    pub logged: Vec<(usize, Var)>,
    /// Whether it did.
    pub own_row: bool,
    /// What it left, each with the first output that it is of.
    pub left: Vec<(usize, Var)>,
    /// What comes after the gradients.
    pub later: Vec<Later>,
    /// The inputs that are differentiated, where any are.
    pub inputs: Option<Inputs>,
}

impl<'a> Cx<'a> {
    pub(super) fn new(
        (tape, params): (&'a mut Tape, &'a Params),
        (layout, block): (&'a Layout, SpaceId),
        (columns, outputs, goal): (&'a Columns, &'a [Output], &'a Goal),
        train: Option<(&'a TrainSpaces, &'a str)>,
    ) -> Self {
        Cx {
            tape,
            params,
            layout,
            block,
            columns,
            outputs,
            goal,
            train,
            losses: Vec::new(),
            logged: Vec::new(),
            own_row: false,
            left: Vec::new(),
            later: Vec::new(),
            known: Vec::new(),
            inputs: None,
        }
    }

    /// Has the recording ask for the gradients of the streams and of what is `embedded` of the tokens.
    pub(super) fn differentiating(self, embedded: Option<(SpaceId, usize)>) -> Self {
        Cx { inputs: Some(Inputs { embedded, ..Inputs::default() }), ..self }
    }

    /// Whether the batch is trained on; otherwise dropout is off and there is no loss.
    pub fn training(&self) -> bool {
        self.train.is_some()
    }

    /// The name of the [turn](super::Turn) of training that is recorded; nothing where there is no
    /// training.
    pub fn turn(&self) -> Option<&'a str> {
        self.train.map(|(_, turn)| turn)
    }

    /// `p` in training, 0 otherwise.
    pub fn dropout(&self, p: f32) -> f32 {
        if self.training() { p } else { 0.0 }
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.layout.batch
    }

    /// A parameter.
    ///
    /// # Errors
    /// One that the recipe has not.
    pub fn param(&mut self, name: &str) -> Result<Var> {
        self.params.var(self.tape, name)
    }

    /// One tensor for a field of the batch, however often it is asked for.
    fn field(&mut self, name: &'static str, record: impl FnOnce(&mut Tape) -> Var) -> Var {
        if let Some((_, var)) = self.known.iter().find(|(known, _)| *known == name) {
            return *var;
        }
        let var = record(self.tape);
        self.known.push((name, var));
        var
    }

    /// `[batch]` u32: which rows of their split these are.
    pub fn rows(&mut self) -> Var {
        let (n, at, block) = (self.layout.batch, self.layout.rows_at, self.block);
        self.field("rows", |tape| tape.input("rows", &[n], block, at))
    }

    /// The rows' targets: `[batch, width]` numbers, or `[batch]` u32 classes.
    pub fn target(&mut self) -> Var {
        let (n, width) = (self.layout.batch, self.layout.target_width);
        let (at, block) = (self.layout.targets_at, self.block);
        let classes = self.goal.task.kind == TaskKind::Classes;
        let shape = if classes { vec![n] } else { vec![n, width] };
        self.field("target", |tape| tape.input("target", &shape, block, at))
    }

    /// `[batch]`: what people said of the rows by one modality alone.
    ///
    /// # Errors
    /// A batch that lacks it.
    pub fn unimodal(&mut self, modality: Modality) -> Result<Var> {
        let found = self.layout.unimodal.iter().find(|(m, _)| *m == modality);
        let (_, at) = found.ok_or_else(|| {
            Error::shape("record", format!("the batch has no labels of {modality} alone"))
        })?;
        let name = format!("labels {modality}");
        Ok(self.tape.input(&name, &[self.layout.batch], self.block, *at))
    }

    /// `[batch, dim]`: the vectors of the `i`-th guide that the recipe reads.
    ///
    /// # Errors
    /// A batch that lacks it.
    pub fn guide(&mut self, i: usize) -> Result<Var> {
        let at = self.layout.guides.get(i).ok_or_else(|| {
            Error::shape("record", format!("the batch has no guide {i} of those that are read"))
        })?;
        let name = format!("guide {}", at.modality);
        Ok(self.tape.input(&name, &[self.layout.batch, at.dim], self.block, at.at))
    }

    /// The `i`-th of the streams that the recipe reads.
    ///
    /// # Errors
    /// A batch that lacks it.
    pub fn stream(&mut self, i: usize) -> Result<StreamVars> {
        let (n, block) = (self.layout.batch, self.block);
        let at = self.layout.streams.get(i).ok_or_else(|| {
            Error::shape("record", format!("the batch has no stream {i} of those that are read"))
        })?;
        let name = at.modality.name();
        let asked = self.inputs.iter().flat_map(|inputs| &inputs.streams);
        let known = asked.into_iter().find(|(stream, _)| *stream == i).map(|(_, values)| *values);
        let values = match known {
            Some(values) => values,
            None => self.tape.input(name, &[n, at.steps, at.width], block, at.values_at),
        };
        if let (Some(inputs), None) = (&mut self.inputs, known) {
            self.tape.watch(values);
            inputs.streams.push((i, values));
        }
        let lengths = at
            .lengths_at
            .map(|place| self.tape.input(&format!("{name}.lengths"), &[n], block, place));
        Ok(StreamVars { values, lengths, steps: at.steps, dim: at.dim, width: at.width })
    }

    /// `x [.., width]` of a stream without the columns past its data, which belong to the upload.
    pub(super) fn without_padding(&mut self, stream: StreamVars, x: Var) -> Result<Var> {
        if stream.width == stream.dim { Ok(x) } else { self.tape.slice(x, 0, stream.dim) }
    }

    /// Lengths `[batch]` u32 that say that all steps of a stream are valid.
    ///
    /// # Errors
    /// None.
    pub fn whole_lengths(&mut self, stream: StreamVars) -> Result<Var> {
        let all = vec![f32::from_bits(stream.steps as u32); self.layout.batch];
        self.tape.constant("lengths", &[all.len()], &all)
    }

    /// The loss of the task for `scores [batch, outputs]`, in training, as the column `name`: of numbers
    /// by `distance`, of classes the cross-entropy, of labels the binary one.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    pub fn task_loss(&mut self, name: &str, scores: Var, distance: Distance) -> Result<()> {
        let loss = self.goal_loss(scores, distance)?;
        self.loss(name, loss)
    }

    /// The distance of `scores [batch, 1]` from what people said of the rows by one modality alone, in
    /// training, as the column of the modality's short name.
    ///
    /// # Errors
    /// As [`unimodal`](Self::unimodal) and [`loss`](Self::loss).
    pub fn unimodal_loss(&mut self, modality: Modality, scores: Var) -> Result<()> {
        let labels = self.unimodal(modality)?;
        let labels = self.tape.reshape(labels, &[self.layout.batch, 1])?;
        let loss = self.goal.loss(self.tape, scores, labels, Distance::Absolute, None)?;
        self.loss(modality.short(), loss)
    }

    /// The same loss by itself, neither logged nor counted.
    ///
    /// # Errors
    /// Scores that are not the task's.
    pub fn goal_loss(&mut self, scores: Var, distance: Distance) -> Result<Var> {
        let target = self.target();
        self.goal.loss(self.tape, scores, target, distance, None)
    }

    /// The task with what its loss needs.
    pub(super) fn goal(&self) -> &'a Goal {
        self.goal
    }

    /// The loss of the task over those rows of which `count [batch]` says 1 and not 0; 0 where there are none.
    ///
    /// # Errors
    /// Scores that are not the task's.
    pub fn goal_loss_of(&mut self, scores: Var, distance: Distance, count: Var) -> Result<Var> {
        let target = self.target();
        self.goal.loss(self.tape, scores, target, distance, Some(count))
    }

    /// `[batch]`: 1 where a row has a modality, 0 where it lacks it.
    ///
    /// # Errors
    /// A modality that the recipe does not read the presence of.
    pub fn present(&mut self, modality: Modality) -> Result<Var> {
        let found = self.layout.presence.iter().find(|(m, _)| *m == modality);
        let (_, at) = found.ok_or_else(|| {
            Error::shape("record", format!("the batch does not say which rows have {modality}"))
        })?;
        let name = format!("{modality} is there");
        Ok(self.tape.input(&name, &[self.layout.batch], self.block, *at))
    }

    /// The text as tokens.
    ///
    /// # Errors
    /// A batch that has none.
    pub fn tokens(&mut self) -> Result<TokenVars> {
        let at = self.layout.tokens.as_ref();
        let at = at.ok_or_else(|| Error::shape("record", "the batch has no tokens"))?;
        let tokens = TokenVars::input(self.tape, self.block, at, self.layout.batch);
        let Some(inputs) = &mut self.inputs else { return Ok(tokens) };
        if let (None, Some((space, columns))) = (inputs.tokens, inputs.embedded) {
            let embedded = self.tape.input("embedded", &[at.rows, columns], space, 0);
            self.tape.watch(embedded);
            inputs.tokens = Some(embedded);
        }
        Ok(TokenVars { embedded: inputs.tokens, ..tokens })
    }

    fn spaces(&self) -> Result<&'a TrainSpaces> {
        let spaces = self.train.map(|(spaces, _)| spaces);
        spaces.ok_or_else(|| Error::shape("record", "only training has states and losses"))
    }

    /// A state, in training.
    ///
    /// # Errors
    /// One that the recipe has not declared.
    pub fn state(&mut self, name: &'static str) -> Result<Var> {
        let state = self.spaces()?.state(name);
        let state = state.ok_or_else(|| Error::shape("record", format!("no state '{name}'")))?;
        let (space, shape) = (state.space, state.shape.clone());
        Ok(self.field(name, |tape| tape.input(name, &shape, space, 0)))
    }

    /// Says that `var` holds the outputs from the one of this name on, side by side.
    ///
    /// # Errors
    /// A name that is no output, or columns that are not those of outputs.
    pub fn output(&mut self, name: &str, var: Var) -> Result<()> {
        let first = self.outputs.iter().position(|o| o.name == name);
        let first = first.ok_or_else(|| Error::shape("output", format!("no output '{name}'")))?;
        let ((rows, width), mut sum) = (self.tape.rows_cols(var), 0);
        let ends = self.outputs[first..].iter().map(|o| {
            sum += o.size;
            sum
        });
        if rows != self.layout.batch || !ends.into_iter().any(|end| end == width) {
            let detail = format!("'{name}' of {:?} is not what was declared", self.tape.shape(var));
            return Err(Error::shape("output", detail));
        }
        self.left.push((first, var));
        Ok(())
    }

    /// Logs a single number under a column's name, and counts it in the objective as the column says.
    ///
    /// # Errors
    /// A name that is no column, or that counts only up to a margin, which a recipe has to record
    /// itself; a tensor of several numbers; no training.
    pub fn loss(&mut self, name: &str, var: Var) -> Result<()> {
        let column = self.column(name)?;
        let part = match self.columns.list()[column].counts {
            Counts::Whole => Some(var),
            Counts::Times(weight) => Some(self.tape.scale(var, weight as f32)?),
            Counts::Watched => None,
            Counts::Hinged { .. } => {
                return Err(Error::shape("loss", format!("'{name}' counts up to a margin")));
            }
        };
        self.losses.extend(part);
        self.logged.push((column, var));
        Ok(())
    }

    /// Logs a single number under a column's name, and has nothing learn from it.
    ///
    /// # Errors
    /// A name that is no column; a tensor of several numbers; no training.
    pub fn log(&mut self, name: &str, var: Var) -> Result<()> {
        let column = self.column(name)?;
        self.logged.push((column, var));
        Ok(())
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.spaces()?;
        let column = self.columns.position(name);
        column.ok_or_else(|| Error::shape("loss", format!("no column '{name}'")))
    }

    /// The loss ring `[rows, width]`, for an operation that writes the row of this step itself.
    ///
    /// # Errors
    /// No training.
    pub fn ring(&mut self) -> Result<Var> {
        let spaces = self.spaces()?;
        self.own_row = true;
        let shape = [spaces.ring_rows, spaces.ring_width];
        Ok(self.field("ring", |tape| tape.input("ring", &shape, spaces.ring, 0)))
    }

    /// A number to differentiate that counts in the log otherwise: [by itself](Self::log), or in a row that
    /// the recipe has [written](Self::ring).
    pub fn whole(&mut self, loss: Var) {
        self.losses.push(loss);
    }

    /// Records something behind the gradients, before the optimiser.
    pub fn after_backward(&mut self, record: impl FnOnce(&mut Tape) -> Result<()> + 'static) {
        self.later.push(Box::new(record));
    }

    pub(super) fn recorded(self) -> Recorded {
        let Cx { losses, logged, own_row, left, later, inputs, .. } = self;
        Recorded { losses, logged, own_row, left, later, inputs }
    }
}
