//! What a model is to the rest of the house: what it reads, learns, remembers, logs and leaves, and how
//! one batch of it is recorded. No device in sight.

use super::between::EpochEnd;
use super::cx::Cx;
use crate::data::{Modality, Reads};
use crate::error::Result;
use crate::nn::{Bert, Group, ParamSpec};

/// A model with its objective, as data and as recordings.
///
/// Everything that trains, evaluates, saves, resumes, profiles and reports works from what these methods
/// say and from nothing else, so that a new model is a file of its own and a line of the registry.
pub trait Recipe: Send + Sync {
    /// What it takes of a data set.
    fn reads(&self) -> Reads;

    /// Its parameters by name; those that only training has come with `train`. A tensor of more than
    /// `limit` words is cut.
    fn params(&self, train: bool, limit: usize) -> Vec<ParamSpec>;

    /// The optimiser groups of its parameters.
    fn groups(&self) -> Vec<Group>;

    /// What it carries from step to step besides parameters, for `rows` training rows.
    fn states(&self, rows: usize) -> Vec<StateSpec> {
        let _ = rows;
        Vec::new()
    }

    /// The numbers of a line of the log, and which of them are the objective: the task's loss alone, where
    /// nothing else is said.
    fn columns(&self) -> Columns {
        Columns::task()
    }

    /// What a forward pass leaves of each row: scores first, then representations.
    fn outputs(&self) -> Vec<Output>;

    /// The turns in which it learns from one batch, in order: each is recorded by itself, behind what the
    /// one before has made of the parameters, and moves its own optimiser groups only.
    fn turns(&self) -> Vec<Turn> {
        vec![Turn::all()]
    }

    /// The stages of a training, one after the other: one whose every epoch is alike, where nothing else is said.
    /// What [`columns`](Self::columns) and [`turns`](Self::turns) say is then of the last one.
    fn stages(&self) -> Vec<TrainingStage> {
        vec![TrainingStage {
            name: "training",
            epochs: None,
            turns: self.turns(),
            columns: self.columns(),
        }]
    }

    /// Records one batch: what it leaves by [`Cx::output`]; in training its losses by [`Cx::loss`], those
    /// of the turn that [`Cx::turn`] names. Every column is of one turn.
    ///
    /// # Errors
    /// Sizes that do not fit.
    fn record(&self, cx: &mut Cx<'_>) -> Result<()>;

    /// Between epochs: what it changes of its learning rates, and what it keeps for that.
    ///
    /// # Errors
    /// A group that it has not; what cannot be kept.
    fn epoch_end(&self, end: &mut EpochEnd<'_>) -> Result<()> {
        let _ = end;
        Ok(())
    }

    /// The pretrained encoder that it trains, where it has one.
    fn bert(&self) -> Option<&Bert> {
        None
    }

    /// What its covariance term compares, where it has one.
    fn aligned(&self) -> Option<AlignedSides> {
        None
    }

    /// Two modalities of which one finds the other, row by row: their outputs `encoded …` are of one width, and near
    /// to each other where the model has aligned them.
    fn retrieved(&self) -> Option<[Modality; 2]> {
        None
    }

    /// The labels that it makes for its parts, where it does.
    fn generated(&self) -> Option<GeneratedLabels> {
        None
    }
}

/// Epochs of a training whose steps are alike.
///
/// Only in the last stage is a model held against the validation rows, and only of its epochs is one the best.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingStage {
    /// What it is called.
    pub name: &'static str,
    /// How many; none of the last one, which takes all that are left.
    pub epochs: Option<usize>,
    /// The turns of its steps.
    pub turns: Vec<Turn>,
    /// The numbers of a line of the log.
    pub columns: Columns,
}

/// One of the programs that a recipe makes of a training batch: forward, backward and the optimiser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What it is called.
    pub name: String,
    /// The optimiser groups that it moves, by name; all of them where nothing is said.
    pub groups: Option<Vec<String>>,
}

impl Turn {
    /// The only turn: it moves all groups.
    pub fn all() -> Self {
        Turn { name: "step".into(), groups: None }
    }

    /// A turn that moves these groups. Its losses must reach all of their parameters: one that no loss
    /// reaches has no gradient, and momentum and decay are not to move it.
    pub fn of<const N: usize>(name: impl Into<String>, groups: [&str; N]) -> Self {
        Turn { name: name.into(), groups: Some(groups.map(String::from).into()) }
    }

    /// The names of its groups, of those there are.
    pub(crate) fn moves<'a>(&'a self, all: impl Iterator<Item = &'a Group>) -> Vec<&'a str> {
        match &self.groups {
            Some(own) => own.iter().map(String::as_str).collect(),
            None => all.map(|group| group.name.as_str()).collect(),
        }
    }
}

/// A tensor that lasts from step to step, is saved with a run and is no parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct StateSpec {
    /// What it is called in a saved state.
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it holds before the first step.
    pub begins: Begins,
}

/// What a state holds before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// Zero.
    Zero,
    /// In each of its rows the targets of the training rows.
    Targets,
    /// The identity; of a square matrix.
    Identity,
}

impl StateSpec {
    /// Its `words` before the first step, with the targets of the training rows.
    pub(crate) fn first(&self, words: usize, targets: &[u32]) -> Vec<u32> {
        match self.begins {
            Begins::Zero => vec![0; words],
            Begins::Targets => targets.repeat(words / targets.len().max(1)),
            Begins::Identity => {
                let side = self.shape.last().copied().unwrap_or(1);
                let one = |at: usize| if at.is_multiple_of(side + 1) { 1.0_f32 } else { 0.0 };
                (0..words).map(|at| one(at).to_bits()).collect()
            }
        }
    }
}

/// A number of a line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// What it is called there.
    pub name: String,
    /// What it is, in words: `the loss of task M`.
    pub what: String,
    /// How it enters the objective.
    pub counts: Counts,
}

/// How a column enters the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counts {
    /// As it is.
    Whole,
    /// This many times.
    Times(f64),
    /// This many times, a negative number, and no more than the margin.
    Hinged {
        /// Times.
        weight: f64,
        /// The most that counts.
        margin: f64,
    },
    /// Not at all: it is only watched.
    Watched,
}

/// The numbers of a line of the log, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    list: Vec<Column>,
}

impl Columns {
    /// Of these.
    pub fn new(list: Vec<Column>) -> Self {
        Columns { list }
    }

    /// The loss of one task, M, alone.
    pub fn task() -> Self {
        let what = "the loss of task M".into();
        Columns::new(vec![Column { name: "M".into(), what, counts: Counts::Whole }])
    }

    /// In order.
    pub fn list(&self) -> &[Column] {
        &self.list
    }

    /// Where a name is.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|column| column.name == name)
    }

    /// Floats of a row of the loss ring, rounded up.
    pub fn width(&self) -> usize {
        self.list.len().next_multiple_of(16)
    }

    /// The whole objective of a row.
    pub fn total(&self, row: &[f32]) -> f64 {
        let (mut whole, mut weighted) = (0.0, 0.0);
        for (column, value) in self.list.iter().zip(row) {
            let value = f64::from(*value);
            match column.counts {
                Counts::Whole => whole += value,
                Counts::Times(weight) => weighted += weight * value,
                Counts::Hinged { weight, margin } => weighted += weight * value.min(margin),
                Counts::Watched => {}
            }
        }
        whole + weighted
    }
}

/// Columns of what a forward pass leaves of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it is called: `M`, `encoded audio`.
    pub name: String,
    /// Its columns.
    pub size: usize,
    /// What it is for.
    pub kind: OutputKind,
}

/// What an output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// It is what the model says of a row.
    Score,
    /// It is what the model makes of a row on the way.
    Representation,
}

impl Output {
    /// A score.
    pub fn score(name: impl Into<String>, size: usize) -> Self {
        Output { name: name.into(), size, kind: OutputKind::Score }
    }

    /// A representation.
    pub fn representation(name: impl Into<String>, size: usize) -> Self {
        Output { name: name.into(), size, kind: OutputKind::Representation }
    }
}

/// What a covariance term compares.
#[derive(Clone, Debug, PartialEq)]
pub struct AlignedSides {
    /// Of each side its name, the representation, and the parameter that projects it, if one does.
    pub sides: Vec<(&'static str, String, Option<String>)>,
    /// Pairs of sides, the name of their term, and its weight.
    pub pairs: Vec<(usize, usize, &'static str, f64)>,
    /// Whether correlations are compared instead of covariances.
    pub standardize: bool,
    /// Where a negative weight stops separating.
    pub margin: f64,
}

/// The labels that a model makes for its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedLabels {
    /// The state that holds them, a row for each part.
    pub state: &'static str,
    /// Letters of the parts, M first.
    pub tasks: Vec<char>,
    /// They stay within ± this; nothing where the rows are not changed.
    pub clamp: Option<f64>,
}
