//! LF-DNN: late fusion of three encoders by a deep network, as MMSA releases it.
//!
//! ```text
//! ŷ = post_fusion([a; v; t])      a, v, t by the encoders of `subnets`
//! ```

use super::config::{ByStream, Config, at_least_one, probability};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Columns, Output, Recipe};
use super::subnets::{Dropouts, Encoders, GROUP, Subnets};
use crate::data::Reads;
use crate::error::Result;
use crate::nn::{Group, Head, ParamSpec};
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
    let (audio, text_out, post, p, post_dropout, batch, lr, decay) = match name {
        "mosei" => (32, 128, 128, 0.2, 0.2, 64, 2e-3, 1e-3),
        "sims" => (32, 256, 32, 0.3, 0.5, 128, 5e-3, 5e-3),
        _ => (16, 256, 128, 0.2, 0.2, 128, 1e-3, 0.01),
    };
    config.as_mmsa(name, batch, [(GROUP, lr, decay)]);
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

pub(super) struct LfDnn {
    config: Config,
    subnets: Subnets,
    fusion: Head,
}

impl LfDnn {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let model: Own = config.model_settings()?;
        let subnets = Subnets::new(config, &model.encoders, offered)?;
        let inputs = subnets.sizes().iter().sum();
        let fusion = Head {
            name: "post_fusion".into(),
            inputs: (inputs, inputs),
            size: model.post_fusion,
            outputs: offered.task.outputs(),
            dropout: model.post_dropout as f32,
            group: GROUP.into(),
        };
        Ok(LfDnn { config: config.clone(), subnets, fusion })
    }
}

impl Recipe for LfDnn {
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
        let train = cx.training();
        let heads = self.fusion.record(cx.tape, cx.params, &parts, train)?;
        cx.output("M", heads.scores)?;
        cx.output("feature M", heads.features)?;
        if train { cx.task_loss("M", heads.scores, Distance::Absolute) } else { Ok(()) }
    }
}
