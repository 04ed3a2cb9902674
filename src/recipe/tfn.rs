//! TFN, arXiv:1707.07250: fusion by the outer product of encodings, as MMSA releases it.
//!
//! ```text
//! z = [1; a] ⊗ [1; v] ⊗ [1; t]      a, v, t by the encoders of `subnets`
//! ŷ = 6 σ(post_fusion(z)) − 3       = 3 tanh(post_fusion(z) / 2)
//! ```
//!
//! Of fewer modalities the product is of those, and of others of theirs, too.

use super::config::{ByStream, Config, at_least_one, probability};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Columns, Output, Recipe};
use super::subnets::{Dropouts, Encoders, GROUP, Subnets};
use crate::data::Reads;
use crate::error::Result;
use crate::nn::{Group, Head, ParamSpec};
use crate::ops::Act;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Own {
    /// Its encoders.
    #[serde(flatten)]
    encoders: Encoders,
    /// Size of the fusion's layers.
    post_fusion: usize,
    /// Before the fusion's layers.
    post_dropout: f64,
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (audio, text_out, post, p, post_dropout, batch, lr) = match name {
        "mosei" => (16, 128, 16, 0.4, 0.4, 128, 5e-3),
        "sims" => (32, 256, 32, 0.4, 0.4, 32, 5e-4),
        _ => (32, 32, 64, 0.3, 0.5, 32, 1e-3),
    };
    config.as_mmsa(name, batch, [(GROUP, lr, 0.0)]);
    let hidden = ByStream { text: 128, audio, vision: 128, other: 128 };
    let encoders = Encoders::new(hidden, text_out, Dropouts::all(p));
    config.set_model(&Own { encoders, post_fusion: post, post_dropout })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let model: Own = config.model_settings()?;
    at_least_one("model.post_fusion", model.post_fusion)?;
    probability("model.post_dropout", model.post_dropout)?;
    model.encoders.check()
}

pub(super) struct Tfn {
    config: Config,
    subnets: Subnets,
    fusion: Head,
    /// Whether the score is kept within ±3.
    ranged: bool,
}

impl Tfn {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let model: Own = config.model_settings()?;
        let subnets = Subnets::new(config, &model.encoders, offered)?;
        let inputs = subnets.sizes().iter().map(|size| size + 1).product();
        let fusion = Head {
            name: "post_fusion".into(),
            inputs: (
                inputs,
                if subnets.sizes().len() > 1 { inputs.next_multiple_of(4) } else { inputs },
            ),
            size: model.post_fusion,
            outputs: offered.task.outputs(),
            dropout: model.post_dropout as f32,
            group: GROUP.into(),
        };
        Ok(Tfn { config: config.clone(), subnets, fusion, ranged: offered.task.one_number() })
    }
}

impl Recipe for Tfn {
    fn reads(&self) -> Reads {
        self.subnets.reads()
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let mut specs = self.subnets.params();
        specs.extend(self.fusion.specs());
        specs
    }

    fn groups(&self) -> Vec<Group> {
        vec![self.config.train.adam(GROUP)]
    }

    fn columns(&self) -> Columns {
        self.subnets.columns()
    }

    fn outputs(&self) -> Vec<Output> {
        self.subnets.outputs(self.fusion.outputs, self.fusion.size)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let parts = self.subnets.record(cx)?;
        let with_one = |part: Var, cx: &mut Cx<'_>| cx.tape.prepend_one(part);
        let mut z = with_one(parts[0], cx)?;
        for (i, part) in parts.iter().enumerate().skip(1) {
            let part = with_one(*part, cx)?;
            if i + 1 == parts.len() {
                z = cx.tape.outer_in_fours(z, part)?;
            } else {
                let product = cx.tape.outer(z, part)?;
                let width = cx.tape.len(product) / cx.batch();
                z = cx.tape.reshape(product, &[cx.batch(), width])?;
            }
        }
        let train = cx.training();
        let heads = self.fusion.record(cx.tape, cx.params, &[z], train)?;
        let mut score = heads.scores;
        // The range is that of a sentiment; other numbers, classes and labels have none.
        if self.ranged {
            let half = cx.tape.scale(score, 0.5)?;
            let within = cx.tape.activate(half, Act::Tanh)?;
            score = cx.tape.scale(within, 3.0)?;
        }
        cx.output("M", score)?;
        cx.output("feature M", heads.features)?;
        if train { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
