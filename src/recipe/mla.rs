//! MLA, arXiv:2311.10707: modalities that learn one after another through one head, whose gradient is kept
//! away from what the head has read before.
//!
//! ```text
//! h_m = proj_m(encoder_m(x_m))    z_m = head(h_m)           encoders of `subnets`; one head for all
//! of each batch, for m = audio, vision, text:               a turn each
//!   L_m = CE(z_m, y)              dW ← dW P                 W the head's weight; its bias as it is
//!   a step of SGD of encoder_m, proj_m and the head
//!   r = mean of h_m over the batch, as it was before the step
//!   P ← P − P r (P r)ᵀ / (α + rᵀ P r)                       α = 0.1^(1 + share of the epoch that is over)
//! ŷ = Σ w_m z_m                   w_m = softmax over m of Σ_c p ln p, p = softmax(z_m), of each row
//! ```
//!
//! P begins as the identity and is never begun again. The loss of the log is the mean of all: each turn learns
//! from its own. Momentum and weight decay of the head are not projected. Losses and means are over the rows
//! that have a modality, and the sum is over the modalities that a row has. `model.joint=true` is what the turns
//! are held against: all learn at once, by the loss of head(mean over m of h_m).
//!
//! What differs from the release is that it does this. There the projection never runs, as it looks for a
//! parameter of another name; rᵀPr is an outer product; P already holds what a gradient is projected for, and
//! is divided by its norm (`model.p_norm=frobenius`); the entropy is one number of a whole batch, by a
//! softmax over its rows (`model.batch_entropy=true`: scores then depend on a row's neighbours); other
//! modalities' encoders are moved by momentum and decay in each turn. Its encoders are a ResNet or a masked
//! autoencoder over pictures; here they are those of LF-DNN, over features.

use super::between::EpochEnd;
use super::config::{ByStream, Config, PartRates, at_least_one, not_negative, probability};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Begins, Column, Columns, Counts, Output, Recipe, StateSpec, Turn};
use super::subnets::{Dropouts, Encoders, Subnets};
use crate::data::{Modality, Normalize, Reads, TaskKind};
use crate::error::{Error, Result};
use crate::nn::{
    Certainty, Group, ParamSpec, linear, linear_specs, mean_of_present, mean_row,
    weigh_by_certainty,
};
use crate::ops::Act;
use crate::ops::owm::OwmRule;
use crate::plan::Stage;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: Own,
    sgd: Sgd,
}

/// Sizes, dropout, and what of the release is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Hidden sizes of the encoders; audio's and vision's are those of their outputs, too.
    hidden: ByStream,
    /// Size of the text encoder's output.
    text_out: usize,
    /// Columns that the head reads.
    width: usize,
    /// Of the encoders.
    dropout: Dropouts,
    /// What P is divided by after each update.
    p_norm: PNorm,
    /// One weight of a modality for all rows of a batch.
    batch_entropy: bool,
    /// Learn from all modalities at once, by the mean of what they give the head, without turns.
    #[serde(default)]
    joint: bool,
}

/// What a projector is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PNorm {
    /// Nothing.
    None,
    /// Its Frobenius norm.
    Frobenius,
}

/// Of the optimiser. Learning rates are multiplied by `gamma` after every `step_size` epochs; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sgd {
    momentum: f64,
    step_size: usize,
    gamma: f64,
}

/// The parts that have rates; the group of the head, as no stream can be named; the projector; of α.
const ENCODERS: &str = "encoders";
const HEAD: &str = "head";
const SHARED: &str = "shared head";
const P: &str = "P";
const BASE: f32 = 0.1;

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// The release's settings of optimiser and schedule, and LF-DNN's sizes of encoders.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (audio, text_out, p) = match name {
        "mosei" => (32, 128, 0.2),
        "sims" => (32, 256, 0.3),
        _ => (16, 256, 0.2),
    };
    if name == "sims" {
        config.sims();
    }
    let train = &mut config.train;
    (train.batch_size, train.early_stop, train.normalize) = (64, 0, Normalize::None);
    train.lr = PartRates::of([(ENCODERS, 1e-3), (HEAD, 1e-3)]);
    train.decay = PartRates::of([(ENCODERS, 1e-4), (HEAD, 1e-4)]);
    config.set_own(&Settings {
        model: Own {
            hidden: ByStream { text: 128, audio, vision: 128, other: 128 },
            text_out,
            width: 128,
            dropout: Dropouts::all(p),
            p_norm: PNorm::None,
            batch_entropy: false,
            joint: false,
        },
        sgd: Sgd { momentum: 0.9, step_size: 70, gamma: 0.1 },
    })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let Settings { model, sgd } = config.settings()?;
    at_least_one("model.width", model.width)?;
    probability("sgd.momentum", sgd.momentum)?;
    not_negative("sgd.gamma", sgd.gamma)?;
    Encoders::new(model.hidden, model.text_out, model.dropout).check()
}

pub(super) struct Mla {
    config: Config,
    settings: Settings,
    subnets: Subnets,
    classes: usize,
}

impl Mla {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let settings: Settings = config.settings()?;
        if offered.task.kind != TaskKind::Classes {
            return Err(Error::Config(format!(
                "mla learns to tell classes apart, and the data has {}: give it data with class_labels, \
                 or use another model",
                offered.task.about()
            )));
        }
        let Own { hidden, text_out, dropout, .. } = settings.model;
        let subnets = Subnets::new(config, &Encoders::new(hidden, text_out, dropout), offered)?;
        let found = subnets.modalities().len();
        if found < 2 {
            return Err(Error::Config(format!(
                "mla has streams learn by turns and wants at least two, and of '{}' the data has {found}; its \
                 streams are: {}",
                config.model.modalities,
                offered.names()
            )));
        }
        let classes = offered.task.outputs();
        Ok(Mla { config: config.clone(), settings, subnets, classes })
    }
}

/// Records what is behind the gradients of a turn: that of the head is projected, and P loses the mean of the
/// rows of `h [batch, width]` that the head has read and that `present`, `[batch]`, are there.
pub(super) fn project(cx: &mut Cx<'_>, h: Var, present: Var, frobenius: bool) -> Result<()> {
    let (weight, p) = (cx.param(&format!("{HEAD}.weight"))?, cx.state(P)?);
    cx.after_backward(move |tape| {
        tape.in_stage(Stage::State, |tape| {
            tape.project_gradient(weight, p)?;
            let mean = mean_row(tape, h, present)?;
            tape.owm_update(p, mean, OwmRule { base: BASE, frobenius })
        })
    });
    Ok(())
}

/// The column of a stream's loss: T, A, V, and of another `loss_NAME`, whatever other columns there are.
fn logged(modality: Modality) -> String {
    match modality {
        Modality::Other(_) => format!("loss_{modality}"),
        known => known.short().into(),
    }
}

impl Recipe for Mla {
    fn reads(&self) -> Reads {
        Reads { presence: self.subnets.modalities(), ..self.subnets.reads() }
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let (mut specs, width) = (Vec::new(), self.settings.model.width);
        let parts = self.subnets.modalities().into_iter().zip(self.subnets.sizes());
        for ((modality, size), own) in parts.zip(self.subnets.params_of_each()) {
            let (name, sizes) = (format!("proj_{modality}"), (size, size, width));
            let proj = linear_specs(&name, sizes, true, modality.name());
            let grouped = |spec: ParamSpec| ParamSpec { group: modality.name().into(), ..spec };
            specs.extend(own.into_iter().map(grouped).chain(proj));
        }
        specs.extend(linear_specs(HEAD, (width, width, self.classes), true, SHARED));
        specs
    }

    fn groups(&self) -> Vec<Group> {
        let (t, momentum) = (&self.config.train, self.settings.sgd.momentum);
        let group = |name: &str, part: &str| {
            Group::sgd(name, t.lr.get(part), momentum).weight_decay(t.decay.get(part))
        };
        let all = self.subnets.modalities().into_iter().map(|m| group(m.name(), ENCODERS));
        all.chain([group(SHARED, HEAD)]).collect()
    }

    fn states(&self, _: usize) -> Vec<StateSpec> {
        let Own { width, joint, .. } = self.settings.model;
        let p = StateSpec { name: P, shape: vec![width, width], begins: Begins::Identity };
        if joint { Vec::new() } else { vec![p] }
    }

    fn columns(&self) -> Columns {
        if self.settings.model.joint {
            return Columns::task();
        }
        let all = self.subnets.modalities();
        let column = |modality: &Modality| Column {
            name: logged(*modality),
            what: format!("the loss of {modality}"),
            counts: Counts::Times(1.0 / all.len() as f64),
        };
        Columns::new(all.iter().map(column).collect())
    }

    fn outputs(&self) -> Vec<Output> {
        let (all, width) = (self.subnets.modalities(), self.settings.model.width);
        let mut outputs = vec![Output::score("M", self.classes)];
        outputs.extend(all.iter().map(|m| Output::score(m.short(), self.classes)));
        outputs.extend(self.subnets.encoded());
        let feature = |m: &Modality| format!("feature {}", m.short());
        outputs.extend(all.iter().map(|m| Output::representation(feature(m), width)));
        outputs
    }

    fn turns(&self) -> Vec<Turn> {
        if self.settings.model.joint {
            return vec![Turn::all()];
        }
        let turn = |m: Modality| Turn::of(m.name(), [m.name(), SHARED]);
        self.subnets.modalities().into_iter().map(turn).collect()
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let Own { p_norm, batch_entropy, joint, .. } = self.settings.model;
        let (mut scores, mut features, mut there) = (Vec::new(), Vec::new(), Vec::new());
        for (i, modality) in self.subnets.modalities().into_iter().enumerate() {
            if cx.turn().is_some_and(|turn| !joint && turn != modality.name()) {
                continue;
            }
            let x = self.subnets.record_one(cx, i)?;
            let h = linear(cx.tape, cx.params, &format!("proj_{modality}"), x, Act::None)?;
            let present = cx.present(modality)?;
            if !(joint && cx.training()) {
                let z = linear(cx.tape, cx.params, HEAD, h, Act::None)?;
                if cx.training() {
                    let loss = cx.goal_loss_of(z, Distance::Absolute, present)?;
                    cx.log(&logged(modality), loss)?;
                    cx.whole(loss);
                    return project(cx, h, present, p_norm != PNorm::None);
                }
                cx.output(modality.short(), z)?;
                cx.output(&format!("feature {}", modality.short()), h)?;
                scores.push(z);
            }
            features.push(h);
            there.push(present);
        }
        if joint {
            let mean = mean_of_present(cx.tape, &features, &there)?;
            let z = linear(cx.tape, cx.params, HEAD, mean, Act::None)?;
            return match cx.training() {
                true => cx.task_loss("M", z, Distance::Absolute),
                false => cx.output("M", z),
            };
        }
        let certainty = if batch_entropy { Certainty::Batch } else { Certainty::Row };
        let fused = weigh_by_certainty(cx.tape, &scores, &there, certainty)?;
        cx.output("M", fused)
    }

    fn epoch_end(&self, end: &mut EpochEnd<'_>) -> Result<()> {
        let Sgd { step_size, gamma, .. } = self.settings.sgd;
        let all = if end.epoch.is_multiple_of(step_size) { self.groups() } else { Vec::new() };
        all.iter().try_for_each(|group| end.scale_lr(&group.name, gamma))
    }
}
