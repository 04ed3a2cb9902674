//! What can be set, and the presets.

use super::{UNIMODAL, WHOLE};
use crate::data::Normalize;
use crate::error::Result;
use crate::recipe::config::{Config, PartRates, at_least_one, fail, not_negative, probability};
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) model: Own,
    pub(super) loss: Weights,
    pub(super) stages: Stages,
    pub(super) sgd: Sgd,
}

/// Sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Own {
    /// Columns of a token.
    pub(super) width: usize,
    /// Places of the grid; an even number.
    pub(super) places: usize,
    /// Heads, and columns of each.
    pub(super) heads: usize,
    pub(super) head_width: usize,
    /// Size within a layer.
    pub(super) inner: usize,
    /// Layers that read a stream, and those behind the sum of all.
    pub(super) stream_layers: usize,
    pub(super) layers: usize,
    /// Vectors that places are held against where there are no classes.
    pub(super) vectors: usize,
    /// How modalities come together.
    pub(super) fusion: Fusion,
}

/// How modalities come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fusion {
    /// In a grid of tokens that they share.
    Grid,
    /// By the mean of what each says alone.
    Late,
    /// Side by side, with zeros for what is not there.
    Zeros,
}

/// How much the parts of the objective count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weights {
    pub(super) pseudo: f64,
    pub(super) align: f64,
    /// What the target of z_0 leaves to other classes than a row's own.
    pub(super) smoothing: f64,
}

/// Epochs in which single modalities learn; in the last of them pseudo-labels are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stages {
    pub(super) unimodal: usize,
    pub(super) averaged: usize,
}

/// Of the optimiser. The learning rate of the whole is multiplied by `gamma` after every `step_size` of its
/// epochs; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sgd {
    pub(super) momentum: f64,
    pub(super) step_size: usize,
    pub(super) gamma: f64,
}

pub(in crate::recipe) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// The release's settings of optimiser and losses, with sizes for features of a few columns.
pub(in crate::recipe) fn preset(name: &str, config: &mut Config) -> Result<()> {
    if name == "sims" {
        config.sims();
    }
    let train = &mut config.train;
    (train.batch_size, train.early_stop, train.normalize) = (96, 0, Normalize::Standard);
    train.max_epochs = 60;
    train.lr = PartRates::of([(UNIMODAL, 1e-2), (WHOLE, 1e-2)]);
    train.decay = PartRates::of([(UNIMODAL, 5e-4), (WHOLE, 5e-4)]);
    config.set_own(&Settings {
        model: Own {
            width: 64,
            places: 16,
            heads: 4,
            head_width: 16,
            inner: 128,
            stream_layers: 2,
            layers: 2,
            vectors: 128,
            fusion: Fusion::Grid,
        },
        loss: Weights { pseudo: 1.0, align: 0.001, smoothing: 0.1 },
        stages: Stages { unimodal: 20, averaged: 5 },
        sgd: Sgd { momentum: 0.9, step_size: 20, gamma: 0.1 },
    })
}

pub(in crate::recipe) fn check(config: &Config) -> Result<()> {
    let Settings { model, loss, stages, sgd } = config.settings()?;
    for (key, value) in [
        ("model.width", model.width),
        ("model.places", model.places),
        ("model.heads", model.heads),
        ("model.head_width", model.head_width),
        ("model.inner", model.inner),
        ("model.vectors", model.vectors),
        ("stages.averaged", stages.averaged),
    ] {
        at_least_one(key, value)?;
    }
    if !model.width.is_multiple_of(4) {
        return fail("model.width", "a multiple of 4");
    }
    if !model.places.is_multiple_of(2) {
        return fail("model.places", "an even number: each half has a head");
    }
    if stages.unimodal < stages.averaged {
        return fail("stages.unimodal", "at least stages.averaged, the last of its epochs");
    }
    not_negative("loss.pseudo", loss.pseudo)?;
    not_negative("loss.align", loss.align)?;
    not_negative("sgd.gamma", sgd.gamma)?;
    probability("loss.smoothing", loss.smoothing)?;
    probability("sgd.momentum", sgd.momentum)
}
