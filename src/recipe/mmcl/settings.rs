//! The settings of MMCL, which no source gives: decisions of this house.

use crate::error::Result;
use crate::recipe::blocks::BERT;
use crate::recipe::config::{
    BySense, Config, PartRates, all_at_least_one, at_least_one, fail, not_negative,
};
use crate::recipe::subnets::GROUP;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub model: Own,
    pub contrast: Contrast,
    pub views: Shares,
}

/// Sizes, and the parts of the prediction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Own {
    /// Units of the LSTMs; the text's where it has one.
    pub hidden: BySense,
    /// Size of the encodings, and of all that follows them.
    pub width: usize,
    /// Predict audio and vision from the text, and read the predictions.
    pub predict: bool,
    /// By one network for both of them.
    pub shared_predictor: bool,
}

/// Weights of the terms, each 0 for off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contrast {
    pub coding: f64,
    pub instance: f64,
    pub sentiment: f64,
    /// What cosines are divided by.
    pub temperature: f64,
    /// Let what is predicted learn nothing from its prediction.
    pub detach_target: bool,
}

/// How views differ from what they are of: a share of a row's steps, a probability of each channel, and a
/// multiple of a channel's deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shares {
    pub run: f64,
    pub channels: f64,
    pub noise: f64,
}

pub(in crate::recipe) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

pub(in crate::recipe) fn preset(name: &str, config: &mut Config) -> Result<()> {
    if name == "sims" {
        config.sims();
    }
    config.train.lr = PartRates::of([(GROUP, 1e-3), (BERT, 5e-5)]);
    config.train.decay = PartRates::of([(GROUP, 0.0), (BERT, 0.0)]);
    config.set_own(&Settings {
        model: Own {
            hidden: BySense { text: 128, audio: 16, vision: 32 },
            width: 64,
            predict: true,
            shared_predictor: false,
        },
        contrast: Contrast {
            coding: 0.1,
            instance: 0.1,
            sentiment: 0.1,
            temperature: 0.5,
            detach_target: false,
        },
        views: Shares { run: 0.15, channels: 0.1, noise: 0.05 },
    })
}

pub(in crate::recipe) fn check(config: &Config) -> Result<()> {
    let Settings { model, contrast, views } = config.settings()?;
    all_at_least_one("model.hidden", &model.hidden)?;
    at_least_one("model.width", model.width)?;
    not_negative("contrast.coding", contrast.coding)?;
    not_negative("contrast.instance", contrast.instance)?;
    not_negative("contrast.sentiment", contrast.sentiment)?;
    if !(contrast.temperature.is_finite() && contrast.temperature > 0.0) {
        return fail("contrast.temperature", "a number above 0");
    }
    for (key, share) in [("views.run", views.run), ("views.channels", views.channels)] {
        if !(0.0..1.0).contains(&share) {
            return fail(key, "0 or more and less than 1");
        }
    }
    not_negative("views.noise", views.noise)
}
