//! What can be set about Self-MM, its presets and their ranges.

use crate::error::Result;
use crate::recipe::config::{
    BySense, Config, PartRates, at_least_one, fail, not_negative, probabilities,
};
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Encoders, fusion and heads.
    pub model: Sizes,
    /// The pairwise covariance term.
    pub align: AlignConfig,
    /// Unimodal label generation.
    pub labels: LabelConfig,
}

/// Encoders, fusion and heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// LSTM layers of the sequence encoders.
    pub layers: usize,
    /// Whether the LSTMs read both ways.
    pub bidirectional: bool,
    /// LSTM hidden sizes.
    pub hidden: BySense,
    /// Encoder output sizes (an LSTM's, after its linear layer).
    pub out: BySense,
    /// Sizes of the heads' features.
    pub post: PostSizes,
    /// Dropout probabilities; `model.dropout = 0` sets them all.
    pub dropout: Dropouts,
}

/// Sizes of the four heads' features.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostSizes {
    /// Of the fused head.
    pub fusion: usize,
    /// Of the text head.
    pub text: usize,
    /// Of the audio head.
    pub audio: usize,
    /// Of the vision head.
    pub vision: usize,
}

/// Dropout probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropouts {
    /// Before the fused head.
    pub fusion: f64,
    /// Before the text head.
    pub text: f64,
    /// Before the audio head.
    pub audio: f64,
    /// Before the vision head.
    pub vision: f64,
    /// Between LSTM layers, and after the last state.
    pub lstm: f64,
}

/// Where the covariance term looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlignLayer {
    /// Encoder outputs, each through a bias-free projection to `align.dim`.
    Projection,
    /// The heads' features, whose sizes must agree.
    Post,
}

/// The pairwise covariance term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignConfig {
    /// `projection` or `post`.
    pub layer: AlignLayer,
    /// Size of the common space.
    pub dim: usize,
    /// Compare correlations: standardise the features over the batch first.
    pub standardize: bool,
    /// Where a negative weight stops separating.
    pub margin: f64,
    /// Weights of the pairs: positive aligns, zero leaves alone, negative separates.
    pub weight: PairWeights,
}

/// A weight for each pair of modalities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairWeights {
    /// Text and audio.
    pub ta: f64,
    /// Text and vision.
    pub tv: f64,
    /// Audio and vision.
    pub av: f64,
}

/// Unimodal label generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// Without it the fused head is trained alone.
    pub enabled: bool,
    /// Generated labels stay within ± this.
    pub clamp: f64,
    /// Zero labels belong to neither class; otherwise to the positive one.
    pub exclude_zero: bool,
    /// Squared distances to the class centres.
    pub squared: bool,
}

/// Names of the presets.
pub(in crate::recipe) const PRESETS: &[&str] = &["mosi", "mosei", "sims", "simsv2"];

/// Learning rates or decays of the parts.
fn parts(text: f64, bert: f64, audio: f64, vision: f64, other: f64) -> PartRates {
    PartRates::of([
        ("text", text),
        ("bert", bert),
        ("audio", audio),
        ("vision", vision),
        ("other", other),
    ])
}

/// MMSA's maintained settings of Self-MM for a data set (method notes 2.2); what MMSA does not have
/// (alignment, the LSTM text encoder) is this project's choice.
///
/// # Errors
/// None that a preset of the list has.
pub(in crate::recipe) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let mut own = Settings {
        model: Sizes {
            layers: 1,
            bidirectional: false,
            hidden: BySense { text: 32, audio: 16, vision: 32 },
            out: BySense { text: 32, audio: 16, vision: 32 },
            post: PostSizes { fusion: 128, text: 32, audio: 16, vision: 32 },
            dropout: Dropouts { fusion: 0.0, text: 0.1, audio: 0.1, vision: 0.0, lstm: 0.0 },
        },
        align: AlignConfig {
            layer: AlignLayer::Projection,
            dim: 16,
            standardize: false,
            margin: 1.0,
            weight: PairWeights { ta: 100.0, tv: 100.0, av: 100.0 },
        },
        labels: LabelConfig { enabled: true, clamp: 3.0, exclude_zero: true, squared: false },
    };
    let train = &mut config.train;
    (train.batch_size, train.accumulate, train.keep_tail) = (16, 4, false);
    train.lr = parts(1e-3, 5e-5, 5e-3, 5e-3, 1e-3);
    train.decay = parts(1e-3, 1e-3, 1e-3, 1e-3, 1e-3);
    match name {
        "mosei" => {
            train.batch_size = 32;
            train.lr = parts(1e-3, 5e-5, 5e-3, 1e-4, 1e-3);
            train.decay = parts(1e-3, 1e-3, 0.0, 0.0, 0.01);
            own.model.dropout =
                Dropouts { fusion: 0.1, text: 0.0, audio: 0.0, vision: 0.0, lstm: 0.0 };
        }
        "sims" => {
            train.batch_size = 32;
            train.decay = parts(1e-3, 1e-3, 0.01, 0.01, 1e-3);
            config.sims();
            own.model.hidden.vision = 64;
            own.model.post.text = 64;
            own.labels.clamp = 1.0;
        }
        "simsv2" => {
            train.lr = parts(1e-3, 5e-5, 1e-3, 1e-3, 1e-3);
            train.decay = parts(0.01, 0.01, 0.0, 0.0, 1e-3);
            config.sims();
            own.model.hidden.vision = 64;
            own.model.post = PostSizes { fusion: 128, text: 64, audio: 32, vision: 32 };
            own.model.dropout =
                Dropouts { fusion: 0.0, text: 0.0, audio: 0.1, vision: 0.0, lstm: 0.0 };
            // MMSA has 3 although the labels lie in [-1, 1]; kept, as its results are.
            own.labels.clamp = 3.0;
        }
        _ => {}
    }
    config.set_own(&own)
}

/// Checks ranges.
///
/// # Errors
/// The key and what it may be.
pub(in crate::recipe) fn check(config: &Config) -> Result<()> {
    let Settings { model, align, labels } = config.settings()?;
    for (key, value) in [
        ("model.layers", model.layers),
        ("align.dim", align.dim),
        ("model.out.text", model.out.text),
        ("model.out.audio", model.out.audio),
        ("model.out.vision", model.out.vision),
        ("model.post.fusion", model.post.fusion),
        ("model.post.text", model.post.text),
        ("model.post.audio", model.post.audio),
        ("model.post.vision", model.post.vision),
    ] {
        at_least_one(key, value)?;
    }
    let hidden = model.hidden;
    for (key, value) in [
        ("model.hidden.text", hidden.text),
        ("model.hidden.audio", hidden.audio),
        ("model.hidden.vision", hidden.vision),
    ] {
        if !(1..=256).contains(&value) {
            return fail(key, "1 to 256");
        }
    }
    probabilities("model.dropout", &model.dropout)?;
    not_negative("labels.clamp", labels.clamp)?;
    not_negative("align.margin", align.margin)?;
    let w = align.weight;
    for (key, value) in
        [("align.weight.ta", w.ta), ("align.weight.tv", w.tv), ("align.weight.av", w.av)]
    {
        if !value.is_finite() {
            return fail(key, "a finite number");
        }
    }
    Ok(())
}
