//! Settings of CLFA and their ranges, and the guides that they name.

use crate::data::{Modality, Normalize, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Group, Init, Optimizer, Schedule};
use crate::ops::attention::MAX_HEAD;
use crate::recipe::blocks::Text;
use crate::recipe::config::{Config, PartRates, at_least_one, fail, not_negative, probability};
use crate::recipe::model::Offered;
use crate::recipe::sections::TextEncoder;
use crate::recipe::subnets::GROUP;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) model: Own,
    pub(super) schedule: Steps,
}

/// Sizes, weights of the losses, guides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Own {
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// Columns of every sequence behind its MLP.
    pub(super) width: usize,
    /// Columns between the layers of an MLP, and of the two layers of a block.
    pub(super) hidden: usize,
    pub(super) inner: usize,
    /// Of attention's weights, of what is added to a residual, before the head.
    pub(super) dropout: f64,
    /// Of each alignment in the loss (0: none, and no guide is read), and of the task.
    pub(super) alpha: f64,
    pub(super) beta: f64,
    /// What cosines are divided by.
    pub(super) tau: f64,
    pub(super) guide: Guides,
}

/// The streams that text and vision are guided by; nothing for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guides {
    pub(super) text: String,
    pub(super) vision: String,
}

/// Learning rates over time, in optimiser steps: up from 0 over `warmup`, then to 0 at `total`, on the line that
/// began at 1, as BertAdam has it; with a total of 0 they stay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Steps {
    pub(super) warmup: u64,
    pub(super) total: u64,
}

/// Of the norms; and what the groups are called, of which the second of a kind has biases and norms.
pub(super) const EPS: f32 = 1e-12;
pub(super) const BERT: &str = "bert";
pub(super) const PLAIN: [&str; 2] = ["model.no_decay", "bert.no_decay"];
/// Where the encoder of the text is among the parameters.
pub(in crate::recipe) const BERT_PREFIX: &str = "bert.";

pub(in crate::recipe) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// The same for all data: the release's method, at sizes and rates for small ones.
pub(in crate::recipe) fn preset(name: &str, config: &mut Config) -> Result<()> {
    if name == "sims" {
        config.sims();
    }
    let train = &mut config.train;
    (train.batch_size, train.max_epochs, train.normalize) = (32, 30, Normalize::None);
    (train.clip_norm, train.metric_for_best_model) = (1.0, "f1_macro".into());
    train.lr = PartRates::of([(GROUP, 3e-4), (BERT, 1e-5)]);
    train.decay = PartRates::of([(GROUP, 0.01), (BERT, 0.01)]);
    config.set_own(&Settings {
        model: Own {
            layers: 3,
            heads: 4,
            width: 128,
            hidden: 256,
            inner: 512,
            dropout: 0.1,
            alpha: 1.0,
            beta: 1.0,
            tau: 0.1,
            guide: Guides { text: "text".into(), vision: "vision".into() },
        },
        schedule: Steps { warmup: 50, total: 0 },
    })
}

pub(in crate::recipe) fn check(config: &Config) -> Result<()> {
    let Settings { model, schedule } = config.settings()?;
    let sizes = [("layers", model.layers), ("hidden", model.hidden), ("inner", model.inner)];
    sizes.into_iter().try_for_each(|(key, value)| at_least_one(&format!("model.{key}"), value))?;
    probability("model.dropout", model.dropout)?;
    not_negative("model.alpha", model.alpha)?;
    not_negative("model.beta", model.beta)?;
    if !(model.tau.is_finite() && model.tau as f32 > 0.0) {
        return fail("model.tau", "a number above 0, as 0.1");
    }
    let (heads, width) = (model.heads, model.width);
    if heads == 0 || width == 0 || !width.is_multiple_of(4 * heads) || width / heads > MAX_HEAD {
        return fail(
            "model.heads",
            "a number of heads that makes model.width heads of 4, 8, .. or 128",
        );
    }
    match schedule.total {
        0 => Ok(()),
        total if schedule.warmup < total => Ok(()),
        _ => fail("schedule.total", "more steps than schedule.warmup has, or 0 for no end"),
    }
}

/// A guide: of which stream, which, and its columns.
#[derive(Clone, Copy)]
pub(super) struct Guide {
    pub(super) of: Modality,
    pub(super) by: Modality,
    pub(super) dim: usize,
}

/// The guides of the sides that are read.
///
/// # Errors
/// A guide that is not there; none at all where one is wanted.
pub(super) fn guides(
    config: &Config,
    own: &Own,
    offered: Offered<'_>,
    (text, others): (&Text, &[StreamSpec]),
) -> Result<Vec<Guide>> {
    let mut guides = Vec::new();
    let sees = others.iter().any(|s| s.modality == Modality::Vision);
    let sides =
        [(Modality::Text, &own.guide.text, true), (Modality::Vision, &own.guide.vision, sees)];
    let instead = "or set model.alpha=0 for no alignment";
    for (of, name, _) in sides.into_iter().filter(|(_, name, read)| *read && !name.is_empty()) {
        if own.alpha == 0.0 {
            break;
        }
        let by = Modality::named(name)?;
        let frozen =
            matches!(text, Text::Features(_)) && config.model.text_encoder == TextEncoder::Bert;
        let kept = offered.guides.iter().find(|(m, _)| *m == by).map(|(_, dim)| *dim);
        let found = offered.streams.iter().find(|s| s.modality == by).map(|s| s.dim);
        let Some(dim) = kept.or(found).filter(|_| !(frozen && by == Modality::Text)) else {
            let why = match frozen && by == Modality::Text {
                true => "has what the frozen encoder makes in its place".to_string(),
                false => format!("is no stream of the data, which has: {}", offered.names()),
            };
            return Err(Error::Config(format!(
                "clfa: model.guide.{of} names '{name}', which {why}; name another, {instead}"
            )));
        };
        guides.push(Guide { of, by, dim });
    }
    if guides.is_empty() && own.alpha > 0.0 {
        return Err(Error::Config(format!(
            "clfa aligns text and vision with guides, and none is named for a stream that is read: name one \
             in model.guide.text or model.guide.vision, {instead}"
        )));
    }
    Ok(guides)
}

/// The optimiser groups: BERT's own Adam, without decay of biases and norms.
pub(super) fn groups(config: &Config, Steps { warmup, total }: Steps) -> Vec<Group> {
    let t = &config.train;
    let up = || Schedule::LinearWarmup { steps: warmup };
    let schedule = match (warmup, total) {
        (0, 0) => Schedule::Constant,
        (_, 0) => up(),
        _ => {
            let (from, steps) = (1.0 - warmup as f64 / total as f64, total - warmup);
            up().then(warmup, Schedule::Linear { from, to: 0.0, steps })
        }
    };
    let group = |name: &str, part: &str, decay: f64| {
        let group = Group::new(name, Optimizer::BERT_ADAM, t.lr.get(part));
        group.weight_decay(decay).schedule(schedule.clone())
    };
    let parts = [GROUP, BERT].into_iter().zip(PLAIN);
    let both = parts
        .flat_map(|(part, plain)| [group(part, part, t.decay.get(part)), group(plain, part, 0.0)]);
    both.collect()
}

/// How a table of vectors begins that no file has, as BERT's own did.
pub(super) fn begun(name: &str) -> Init {
    match name {
        _ if name.ends_with("LayerNorm.weight") => Init::Ones,
        _ if name.ends_with("bias") => Init::Zeros,
        _ => Init::Normal(0.02),
    }
}
