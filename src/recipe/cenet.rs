//! CENET, IEEE Transactions on Multimedia 2022: words ask audio and vision inside a BERT, as MMSA
//! releases it.
//!
//! ```text
//! x_m = linear(relu(linear(m)))      c_m = softmax(8 (W_q t) (W_k x_m)ᵀ) W_v x_m      m: vision, audio
//! t ← t + cat_connect [c_v c_a], at the input of the BERT's second layer
//! ŷ = out_proj(tanh(dense(position 0)))
//! L = |ŷ − y|
//! ```
//!
//! All steps of a stream are asked, as MMSA does it, also those behind a row's end. Its scores are
//! multiplied by 8, where others divide by as much, and its one head is as wide as the encoder, more
//! than the attention kernels take: products and a softmax do their work here. The embeddings are not
//! trained. Audio or vision alone leave the other out of `cat_connect`.

use super::blocks::{BERT, inside_bert, new_linear, one_encoding};
use super::config::{Config, PartRates, fail};
use super::cx::{Cx, StreamVars};
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Output, Recipe};
use super::self_mm::reading;
use super::subnets::GROUP;
use crate::data::{Modality, Normalize, Reads, StreamSpec};
use crate::error::Result;
use crate::nn::{Bert, Group, Optimizer, ParamSpec, TokenVars, linear};
use crate::ops::Act;
use crate::ops::batched::Transposed;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: Own,
    adam: Adam,
}

/// Where words ask, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// The layer of the encoder at whose input that happens, from 0.
    layer: usize,
    /// What scores are multiplied by.
    scale: f64,
}

/// What is set about the optimiser beside rates and decays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adam {
    /// Added to the denominator.
    eps: f64,
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (lr, decay, eps, batch) = match name {
        "mosei" => (1e-5, 1e-4, 1e-8, 64),
        "sims" => (2e-6, 0.0, 2e-8, 32),
        _ => (1e-5, 1e-4, 3e-8, 64),
    };
    if name == "sims" {
        config.sims();
    }
    let train = &mut config.train;
    (train.batch_size, train.normalize, train.clip_norm) = (batch, Normalize::None, 2.0);
    train.lr = PartRates::of([(GROUP, lr), (BERT, lr)]);
    train.decay = PartRates::of([(GROUP, decay), (BERT, decay)]);
    config.bert.freeze_embeddings = true;
    config.set_own(&Settings { model: Own { layer: 1, scale: 8.0 }, adam: Adam { eps } })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let Settings { model, adam } = config.settings()?;
    if !(model.scale as f32).is_finite() {
        return fail("model.scale", "a number that f32 holds");
    }
    if !((adam.eps as f32).is_normal() && adam.eps > 0.0) {
        return fail("adam.eps", "a number above 0, as 1e-8");
    }
    Ok(())
}

/// Where MMSA keeps the encoder among the parameters, and what is put into it.
pub(super) const BERT_PREFIX: &str = "bert.";
const ENHANCER: &str = "bert.encoder.CE";
/// Biases of the head and, of the encoder, norms as well: what does not decay.
const PLAIN: [&str; 2] = ["model.no_decay", "bert.no_decay"];

/// MMSA's names of a modality's two layers and of its attention.
fn names(modality: Modality) -> [String; 2] {
    let names = match modality {
        Modality::Audio => ["acoustic_transform", "ha"],
        _ => ["visual_transform", "hv"],
    };
    names.map(|name| format!("{ENHANCER}.{name}"))
}

pub(super) struct Cenet {
    config: Config,
    own: Own,
    adam: Adam,
    bert: Box<Bert>,
    /// Vision and audio, as far as they are there.
    streams: Vec<StreamSpec>,
    /// Scores of a row.
    outputs: usize,
}

impl Cenet {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let Settings { model: own, adam } = config.settings()?;
        let (bert, mut streams) = inside_bert(config, offered, (BERT_PREFIX, own.layer))?;
        // The order in which MMSA puts what they answer side by side.
        streams.reverse();
        let bert = Box::new(Bert { groups: (BERT.into(), PLAIN[1].into()), ..bert });
        Ok(Cenet {
            config: config.clone(),
            own,
            adam,
            bert,
            streams,
            outputs: offered.task.outputs(),
        })
    }

    /// What the tokens' states `t [tokens, hidden]` find in a stream, for each of them.
    fn answer(
        &self,
        cx: &mut Cx<'_>,
        (t, tokens): (Var, &TokenVars),
        (spec, stream): (&StreamSpec, StreamVars),
    ) -> Result<Var> {
        let [transform, attention] = names(spec.modality);
        let steps = self.config.bert.max_tokens.min(self.bert.shape.tokens());
        let mut to = |name: String, x: Var, act| linear(cx.tape, cx.params, &name, x, act);
        let x = to(format!("{transform}.0"), stream.values, Act::Relu)?;
        let x = to(format!("{transform}.2"), x, Act::None)?;
        let q = to(format!("{attention}.Wq"), t, Act::None)?;
        let k = to(format!("{attention}.Wk"), x, Act::None)?;
        let v = to(format!("{attention}.Wv"), x, Act::None)?;
        // There are fewer queries than scores.
        let q = cx.tape.scale(q, self.own.scale as f32)?;
        let q = cx.tape.unpack(q, tokens.tokens, tokens.spans, steps)?;
        let scores = cx.tape.bmm(q, k, Transposed::Second)?;
        let weights = cx.tape.softmax(scores)?;
        let found = cx.tape.bmm(weights, v, Transposed::Neither)?;
        cx.tape.pack(found, tokens.tokens, tokens.spans)
    }
}

impl Recipe for Cenet {
    fn reads(&self) -> Reads {
        let tokens = Some(self.bert.shape.tables());
        Reads { streams: self.streams.clone(), tokens, ..Reads::default() }
    }

    fn bert(&self) -> Option<&Bert> {
        Some(&self.bert)
    }

    fn params(&self, _: bool, limit: usize) -> Vec<ParamSpec> {
        let (mut specs, h) = (self.bert.specs(limit), self.bert.shape.hidden);
        for StreamSpec { modality, dim, .. } in &self.streams {
            let [transform, attention] = names(*modality);
            let wide = (*dim, dim.next_multiple_of(4), h);
            specs.extend(new_linear(&format!("{transform}.0"), wide, GROUP));
            specs.extend(new_linear(&format!("{transform}.2"), (h, h, h), GROUP));
            for part in ["Wq", "Wk", "Wv"] {
                let name = format!("{attention}.{part}");
                specs.extend(new_linear(&name, (h, h, h), GROUP));
            }
        }
        let all = h * self.streams.len();
        specs.extend(new_linear(&format!("{ENHANCER}.cat_connect"), (all, all, h), GROUP));
        for (name, outputs) in [("classifier.dense", h), ("classifier.out_proj", self.outputs)] {
            let head = new_linear(name, (h, h, outputs), GROUP).into_iter();
            specs.extend(head.map(|spec| match spec.name.ends_with("bias") {
                true => ParamSpec { group: PLAIN[0].into(), ..spec },
                false => spec,
            }));
        }
        specs
    }

    /// What is put into the encoder decays whole; of the encoder and the head, weights do.
    fn groups(&self) -> Vec<Group> {
        let t = &self.config.train;
        let Optimizer::Adam { betas, .. } = Optimizer::ADAM else { return Vec::new() };
        let adam = Optimizer::Adam { betas, eps: self.adam.eps };
        let parts = [GROUP, BERT].into_iter().zip(PLAIN);
        let groups = parts.flat_map(|(part, plain)| {
            let group = |name: &str| Group::new(name, adam, t.lr.get(part));
            [group(part).weight_decay(t.decay.get(part)), group(plain)]
        });
        groups.collect()
    }

    fn outputs(&self) -> Vec<Output> {
        one_encoding(self.outputs, self.bert.shape.hidden)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (bert, layer) = (&self.bert, self.own.layer);
        let (tokens, train) = (cx.tokens()?, cx.training());
        let t = bert.begin(cx.tape, cx.params, &tokens, layer, train)?;
        let mut answers = Vec::new();
        for (i, spec) in self.streams.iter().enumerate() {
            let stream = cx.stream(i)?;
            answers.push(self.answer(cx, (t, &tokens), (spec, stream))?);
        }
        let all = cx.tape.concat(&answers)?;
        let connect = format!("{ENHANCER}.cat_connect");
        let shift = linear(cx.tape, cx.params, &connect, all, Act::None)?;
        let t = cx.tape.add(t, shift)?;
        let how = reading(self.config.bert.pooling);
        let x = bert.end(cx.tape, cx.params, &tokens, (layer, t), how, train)?;
        cx.output("encoded all", x)?;
        let p = cx.dropout(bert.dropout.0);
        let x = cx.tape.dropout(x, p)?;
        let x = linear(cx.tape, cx.params, "classifier.dense", x, Act::Tanh)?;
        cx.output("feature M", x)?;
        let x = cx.tape.dropout(x, p)?;
        let score = linear(cx.tape, cx.params, "classifier.out_proj", x, Act::None)?;
        cx.output("M", score)?;
        if train { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
