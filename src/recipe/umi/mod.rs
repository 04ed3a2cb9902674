//! Unseen modality interaction, arXiv:2306.12795: rows that have some modalities each teach a model that is
//! used on combinations that it never saw.
//!
//! ```text
//! E_m = token grid of x_m                                    a grid of places that all modalities share
//! F = Σ over the modalities of a row of E_m
//! z_g = head(layers([cls_g; half g of F] + positions)), g = 0, 1      one set of layers and one head for both
//! L = CE(z_0, y) + pseudo · Σ_m KL(q_m ‖ softmax z_1) / batch + align · mean over (row, m) of d(E_m, U_y)
//!     d = mean over columns of (mean over places of E_m − U_y)²       U a vector for each class
//! ŷ = log ½ (softmax z_0 + softmax z_1)
//! ```
//!
//! Its training has three stages. First a model of each modality alone learns; in the last epochs of that what it
//! says of each training row is averaged, as the row's pseudo-label q_m; then the whole learns. Where numbers
//! are learned, distances stand for CE and KL, and U are vectors of which the nearest counts for a row.
//!
//! `model.fusion` is what it is held against, with the encoders of the models of single modalities and one stage:
//! `late`, the mean of what those of a row's modalities say, and `zeros`, two layers over all encodings side by
//! side, with zeros for those that a row lacks.
//!
//! The target of z_0 is 1 − ε of its class and ε / (C − 1) of each other, ε = `loss.smoothing`. What
//! differs from the release: its streams are tokens of frozen encoders of one width, here a linear layer
//! without bias brings each to `model.width`; places are compared with class vectors behind that width's layers
//! (there 768 columns with 256); a model is not put back to its best epoch where the learning rate falls.

mod baselines;
mod record;
mod settings;

use super::between::EpochEnd;
use super::config::Config;
use super::cx::Cx;
use super::model::Offered;
use super::recipe::{
    Begins, Column, Columns, Counts, Output, Recipe, StateSpec, TrainingStage, Turn,
};
use crate::data::{Reads, StreamSpec, TaskKind};
use crate::error::{Error, Result};
use crate::nn::pseudo::add_to_rows;
use crate::nn::{Group, ParamSpec};
use settings::{Fusion, Own, Settings, Sgd, Stages, Weights};

pub(super) use settings::{PRESETS, check, preset};

const UNIMODAL: &str = "unimodal";
const WHOLE: &str = "whole";
const PSEUDO: &str = "pseudo-labels";

pub(super) struct Umi {
    config: Config,
    settings: Settings,
    streams: Vec<StreamSpec>,
    /// Scores: classes, or one number.
    outputs: usize,
    classes: bool,
}

impl Umi {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let settings: Settings = config.settings()?;
        let wanted = offered.streams.iter().filter(|s| config.model.wants(s.modality));
        let mut streams: Vec<StreamSpec> = wanted.copied().collect();
        streams.sort_by_key(|s| s.modality);
        if streams.len() < 2 {
            return Err(Error::Config(format!(
                "umi is about combinations of streams and wants at least two, and of '{}' the data has {}; its \
                 streams are: {}",
                config.model.modalities,
                streams.len(),
                offered.names()
            )));
        }
        let classes = offered.task.kind == TaskKind::Classes;
        let outputs = offered.task.outputs();
        Ok(Umi { config: config.clone(), settings, streams, outputs, classes })
    }

    fn is_grid(&self) -> bool {
        self.settings.model.fusion == Fusion::Grid
    }

    /// The optimiser groups, the last of which learns in the last stage.
    fn group_names(&self) -> &'static [&'static str] {
        if self.is_grid() { &[UNIMODAL, WHOLE] } else { &[UNIMODAL] }
    }

    fn column(&self, i: usize) -> Column {
        let modality = self.streams[i].modality;
        let what = format!("the loss of {modality} alone");
        Column { name: format!("alone_{}", modality.short()), what, counts: Counts::Whole }
    }

    /// The columns of the stages in which single modalities learn.
    fn columns_alone(&self) -> Columns {
        Columns::new((0..self.streams.len()).map(|i| self.column(i)).collect())
    }
}

impl Recipe for Umi {
    fn reads(&self) -> Reads {
        let presence = self.streams.iter().map(|s| s.modality).collect();
        Reads { streams: self.streams.clone(), presence, ..Reads::default() }
    }

    fn params(&self, train: bool, _: usize) -> Vec<ParamSpec> {
        match self.settings.model.fusion {
            Fusion::Grid if train => [self.whole_specs(true), self.alone_specs(true)].concat(),
            Fusion::Grid => self.whole_specs(false),
            Fusion::Late => self.alone_specs(true),
            Fusion::Zeros => [self.alone_specs(false), self.side_by_side_specs()].concat(),
        }
    }

    fn groups(&self) -> Vec<Group> {
        let (t, momentum) = (&self.config.train, self.settings.sgd.momentum);
        let group = |name: &&str| {
            Group::sgd(*name, t.lr.get(name), momentum).weight_decay(t.decay.get(name))
        };
        self.group_names().iter().map(group).collect()
    }

    fn states(&self, rows: usize) -> Vec<StateSpec> {
        let shape = vec![rows, self.streams.len() * self.outputs];
        let pseudo = StateSpec { name: PSEUDO, shape, begins: Begins::Zero };
        if self.is_grid() { vec![pseudo] } else { Vec::new() }
    }

    fn columns(&self) -> Columns {
        let Weights { pseudo, align, .. } = self.settings.loss;
        let column = |name: &str, what: &str, counts| {
            let (name, what) = (name.into(), what.into());
            Column { name, what, counts }
        };
        match self.settings.model.fusion {
            Fusion::Grid => Columns::new(vec![
                column("M", "the loss of task M", Counts::Whole),
                column("pseudo", "the loss of pseudo-labels", Counts::Times(pseudo)),
                column("align", "the distance from class vectors", Counts::Times(align)),
            ]),
            Fusion::Late => self.columns_alone(),
            Fusion::Zeros => Columns::task(),
        }
    }

    fn outputs(&self) -> Vec<Output> {
        let width = self.settings.model.width;
        let encoded =
            |s: &StreamSpec| Output::representation(format!("encoded {}", s.modality), width);
        let score = Output::score("M", self.outputs);
        [score].into_iter().chain(self.streams.iter().map(encoded)).collect()
    }

    fn turns(&self) -> Vec<Turn> {
        match self.is_grid() {
            true => vec![Turn::of(WHOLE, [WHOLE])],
            false => vec![Turn::all()],
        }
    }

    fn stages(&self) -> Vec<TrainingStage> {
        let Stages { unimodal, averaged } = self.settings.stages;
        let alone = |name: &'static str, epochs: usize| TrainingStage {
            name,
            epochs: Some(epochs),
            turns: vec![Turn::of(name, [UNIMODAL])],
            columns: self.columns_alone(),
        };
        let (turns, columns) = (self.turns(), self.columns());
        let whole = TrainingStage { name: WHOLE, epochs: None, turns, columns };
        match self.is_grid() {
            true => vec![alone(UNIMODAL, unimodal - averaged), alone(PSEUDO, averaged), whole],
            false => vec![whole],
        }
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        match (self.settings.model.fusion, cx.turn()) {
            (Fusion::Late, _) => self.late(cx),
            (Fusion::Zeros, _) => self.side_by_side(cx),
            (Fusion::Grid, Some(UNIMODAL)) => self.alone(cx).map(drop),
            (Fusion::Grid, Some(PSEUDO)) => {
                let said = self.alone(cx)?;
                let said = cx.tape.concat(&said)?;
                let (table, rows) = (cx.state(PSEUDO)?, cx.rows());
                let times = 1.0 / self.settings.stages.averaged as f32;
                add_to_rows(cx.tape, (table, rows), said, times)
            }
            (Fusion::Grid, Some(_)) => self.learn(cx),
            (Fusion::Grid, None) => self.say(cx),
        }
    }

    fn epoch_end(&self, end: &mut EpochEnd<'_>) -> Result<()> {
        let Sgd { step_size, gamma, .. } = self.settings.sgd;
        let before = if self.is_grid() { self.settings.stages.unimodal } else { 0 };
        let own = end.epoch.saturating_sub(before);
        match (own > 0 && own.is_multiple_of(step_size), self.group_names().last()) {
            (true, Some(group)) => end.scale_lr(group, gamma),
            _ => Ok(()),
        }
    }
}
