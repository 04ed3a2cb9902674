//! The settings of MISA, and MMSA's values of them.

use crate::data::Normalize;
use crate::error::Result;
use crate::recipe::blocks::BERT;
use crate::recipe::config::{
    Config, PartRates, Pooling, at_least_one, fail, not_negative, probabilities,
};
use crate::recipe::subnets::GROUP;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub model: Own,
    pub loss: Weights,
}

/// Sizes and dropout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Own {
    /// Size of each of the vectors.
    pub hidden: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Size within its layer.
    pub inner: usize,
    /// Most units of a recurrence, which has as many as the modality has features.
    pub units: usize,
    pub dropout: Dropouts,
}

/// Dropout probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dropouts {
    /// Between the two last layers.
    pub fusion: f64,
    /// In the attention's layer.
    pub attention: f64,
}

/// Weights of the parts of the loss; that of the task is 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weights {
    pub diff: f64,
    pub sim: f64,
    pub recon: f64,
}

pub(in crate::recipe) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(in crate::recipe) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (batch, fusion, [diff, sim, recon], clip) = match name {
        "mosei" => (64, 0.5, [0.3, 0.8, 1.0], 0.8),
        "sims" => (64, 0.0, [0.3, 1.0, 0.8], 1.0),
        _ => (16, 0.2, [0.1, 0.3, 1.0], 0.8),
    };
    if name == "sims" {
        config.sims();
    }
    let train = &mut config.train;
    (train.batch_size, train.accumulate, train.normalize) = (batch, 2, Normalize::None);
    train.clip_value = clip;
    train.lr = PartRates::of([(GROUP, 1e-4), (BERT, 1e-4)]);
    train.decay = PartRates::of([(GROUP, 0.0), (BERT, 0.0)]);
    config.bert.pooling = Pooling::Mean;
    let dropout = Dropouts { fusion, attention: 0.1 };
    config.set_own(&Settings {
        model: Own { hidden: 128, heads: 2, inner: 2048, units: 256, dropout },
        loss: Weights { diff, sim, recon },
    })
}

pub(in crate::recipe) fn check(config: &Config) -> Result<()> {
    let Settings { model, loss } = config.settings()?;
    at_least_one("model.hidden", model.hidden)?;
    at_least_one("model.inner", model.inner)?;
    if !(1..=256).contains(&model.units) {
        return fail("model.units", "1 to 256");
    }
    if model.heads == 0 || !model.hidden.is_multiple_of(model.heads) {
        return fail("model.heads", "a divisor of model.hidden");
    }
    probabilities("model.dropout", &model.dropout)?;
    not_negative("loss.diff", loss.diff)?;
    not_negative("loss.sim", loss.sim)?;
    not_negative("loss.recon", loss.recon)
}
