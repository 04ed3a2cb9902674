//! LMF, arXiv:1806.00064: the product of TFN through factors of a low rank, as MMSA releases it.
//!
//! ```text
//! ŷ = Σ_r w_r ([1; a] F_a ∘ [1; v] F_v ∘ [1; t] F_t)_r + b      a, v, t by the encoders of `subnets`
//! ```
//!
//! MMSA's optimiser leaves out w and b by mistake; `model.freeze_fusion` does so, too. Of fewer
//! modalities the product is of those.

use super::config::{ByStream, Config, at_least_one};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Columns, Output, Recipe};
use super::subnets::{Dropouts, Encoders, GROUP, Subnets};
use crate::data::Reads;
use crate::error::{Error, Result};
use crate::nn::{Group, Init, ParamSpec};
use crate::ops::Act;
use crate::ops::batched::Transposed;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The optimiser group of the factors.
const FACTORS: &str = "factors";

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Own {
    /// Its encoders.
    #[serde(flatten)]
    encoders: Encoders,
    /// Rank of the factors.
    rank: usize,
    /// Leave the weights of the factors as they begin, as MMSA does.
    freeze_fusion: bool,
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (hidden, audio, p, rank, batch, lr, factor_lr, decay) = match name {
        "mosei" => (128, 16, 0.2, 4, 32, 1e-3, 1e-3, 1e-3),
        "sims" => (64, 16, 0.2, 4, 64, 2e-3, 5e-4, 5e-3),
        _ => (128, 16, 0.3, 3, 64, 1e-3, 1e-3, 5e-3),
    };
    config.as_mmsa(name, batch, [(GROUP, lr, decay), (FACTORS, factor_lr, decay)]);
    let sizes = ByStream { text: hidden, audio, vision: hidden, other: hidden };
    let encoders = Encoders::new(sizes, hidden / 2, Dropouts::all(p));
    config.set_model(&Own { encoders, rank, freeze_fusion: false })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let model: Own = config.model_settings()?;
    at_least_one("model.rank", model.rank)?;
    model.encoders.check()
}

pub(super) struct Lmf {
    config: Config,
    own: Own,
    subnets: Subnets,
    /// Scores of a row.
    outputs: usize,
}

impl Lmf {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let own: Own = config.model_settings()?;
        let subnets = Subnets::new(config, &own.encoders, offered)?;
        Ok(Lmf { config: config.clone(), own, subnets, outputs: offered.task.outputs() })
    }

    /// Names of the factors and sizes of what they are of.
    fn factors(&self) -> impl Iterator<Item = (String, usize)> {
        let named = self.subnets.names().into_iter().zip(self.subnets.sizes());
        named.map(|(name, size)| (name.replace("subnet", "factor"), size + 1))
    }
}

impl Recipe for Lmf {
    fn reads(&self) -> Reads {
        self.subnets.reads()
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let (rank, k) = (self.own.rank, self.outputs);
        let normal = |a: usize, b: usize| Init::Normal((2.0 / (a + b) as f32).sqrt());
        let mut specs: Vec<ParamSpec> = self
            .factors()
            .map(|(name, size)| ParamSpec::new(name, &[rank, size, k], FACTORS, normal(rank, size)))
            .collect();
        let frozen = self.own.freeze_fusion;
        specs.push(
            ParamSpec::new("fusion_weights", &[1, rank], GROUP, normal(1, rank)).frozen(frozen),
        );
        specs.push(ParamSpec::new("fusion_bias", &[1, k], GROUP, Init::Zeros).frozen(frozen));
        specs.extend(self.subnets.params());
        specs
    }

    fn groups(&self) -> Vec<Group> {
        [GROUP, FACTORS].map(|part| self.config.train.adam(part)).into()
    }

    fn columns(&self) -> Columns {
        self.subnets.columns()
    }

    fn outputs(&self) -> Vec<Output> {
        self.subnets.outputs(self.outputs, self.own.rank * self.outputs)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (rank, k) = (self.own.rank, self.outputs);
        let parts = self.subnets.record(cx)?;
        let mut product: Option<Var> = None;
        for (part, (name, size)) in parts.into_iter().zip(self.factors()) {
            let factor = cx.param(&name)?;
            // Rows of the product are ranks, and of each rank the scores.
            let factor = if k == 1 { factor } else { cx.tape.permute(factor, &[0, 2, 1])? };
            let factor = cx.tape.reshape(factor, &[rank * k, size])?;
            let with_one = cx.tape.prepend_one(part)?;
            let by_rank = cx.tape.linear(with_one, factor, None, Act::None)?;
            product = Some(match product {
                None => by_rank,
                Some(others) => cx.tape.mul(others, by_rank)?,
            });
        }
        let product = product.ok_or_else(|| Error::shape("lmf", "nothing to fuse"))?;
        let (weights, bias) = (cx.param("fusion_weights")?, cx.param("fusion_bias")?);
        let bias = cx.tape.reshape(bias, &[k])?;
        let score = if k == 1 {
            cx.tape.linear(product, weights, Some(bias), Act::None)?
        } else {
            let by_rank = cx.tape.reshape(product, &[cx.batch(), rank, k])?;
            let sum = cx.tape.bmm(weights, by_rank, Transposed::Neither)?;
            let sum = cx.tape.reshape(sum, &[cx.batch(), k])?;
            cx.tape.add(sum, bias)?
        };
        cx.output("M", score)?;
        cx.output("feature M", product)?;
        if cx.training() { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
