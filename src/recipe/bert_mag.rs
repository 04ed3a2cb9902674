//! MAG-BERT, arXiv:1908.05787: what is seen and heard moves the vectors of the words inside a BERT, as
//! MMSA releases it.
//!
//! ```text
//! g_m = relu(W_hm [x_m t])      h = Σ g_m ∘ W_m x_m      α = min(β |t| / (|h| + 1e-6), 1)      m: vision, audio
//! t ← norm(α h + t), of each token at the input of a layer of the BERT, the first one
//! ŷ = classifier(tanh(pooler(position 0)))
//! L = |ŷ − y|
//! ```
//!
//! Step i of a stream belongs to token i, so there are as many steps as tokens: data that were aligned
//! word by word, or streams that `model.pool` brings to so many steps, as MMSA does where a data set
//! has no aligned file. Audio or vision alone leave the other's term of h away.

use super::blocks::{BERT, inside_bert, new_linear, norm, norm_specs, one_encoding, pooled};
use super::config::{Config, fail, not_negative, probability};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Output, Recipe};
use super::self_mm::reading;
use super::subnets::GROUP;
use crate::data::{Modality, Reads, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Bert, Group, ParamSpec, linear};
use crate::ops::Act;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// What moves the vectors, and where.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// A vector is moved by no more than so many times its own length.
    beta: f64,
    /// The layer of the encoder at whose input that happens, from 0.
    layer: usize,
    /// Of the moved vectors.
    dropout: f64,
    /// Bring streams to as many steps as tokens by means over windows.
    pool: bool,
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings. SIMS has no aligned file, and texts of 39 tokens.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (lr, dropout) = match name {
        "mosei" => (1e-5, 0.2),
        "sims" => (5e-5, 0.1),
        _ => (2e-5, 0.3),
    };
    if name == "sims" {
        config.bert.max_tokens = 39;
    }
    config.as_mmsa(name, 32, [(GROUP, lr, 0.0), (BERT, lr, 0.0)]);
    config.set_model(&Own { beta: 1.0, layer: 0, dropout, pool: name == "sims" })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let model: Own = config.model_settings()?;
    not_negative("model.beta", model.beta)?;
    if model.beta > f64::from(f32::MAX) {
        return fail("model.beta", "a number that f32 holds");
    }
    probability("model.dropout", model.dropout)
}

/// Where MMSA keeps the encoder among the parameters, its pooler, and what is put into it.
pub(super) const BERT_PREFIX: &str = "model.bert.";
const POOLER: &str = "model.bert.pooler.dense";
const GATE: &str = "model.bert.MAG";

/// MMSA's letter of audio or vision.
fn letter(modality: Modality) -> char {
    // Audio and vision alone come here.
    if modality == Modality::Audio { 'a' } else { 'v' }
}

pub(super) struct BertMag {
    config: Config,
    own: Own,
    bert: Box<Bert>,
    /// Of the tokens, and of streams where they are brought to as many.
    steps: usize,
    /// Audio and vision, as far as they are there.
    streams: Vec<StreamSpec>,
    /// Scores of a row.
    outputs: usize,
}

impl BertMag {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let own: Own = config.model_settings()?;
        let (bert, streams) = inside_bert(config, offered, (BERT_PREFIX, own.layer))?;
        let bert = Box::new(Bert { groups: (BERT.into(), BERT.into()), ..bert });
        let steps = config.bert.max_tokens.min(bert.shape.tokens());
        if !own.pool && streams.iter().any(|s| s.steps != steps) {
            let have: Vec<String> =
                streams.iter().map(|s| format!("{} has {}", s.modality, s.steps)).collect();
            return Err(Error::Config(format!(
                "bert_mag reads a step of audio and vision with each token, so it wants aligned data of \
                 {steps} steps, as many as tokens, and {}: set bert.max_tokens to the steps of aligned \
                 data, or bring others to {steps} by model.pool = true",
                have.join(", ")
            )));
        }
        Ok(BertMag {
            config: config.clone(),
            own,
            bert,
            steps,
            streams,
            outputs: offered.task.outputs(),
        })
    }

    /// What each token has of a stream, `[tokens, dim]`.
    fn beside(&self, cx: &mut Cx<'_>, i: usize) -> Result<Var> {
        let (stream, tokens) = (cx.stream(i)?, cx.tokens()?);
        let x = if self.own.pool { pooled(cx, stream.values, self.steps)? } else { stream.values };
        let x = cx.tape.pack(x, tokens.tokens, tokens.spans)?;
        cx.without_padding(stream, x)
    }
}

/// The parameters of what moves vectors of `hidden` columns by streams of so many.
pub(super) fn gate_specs(hidden: usize, streams: &[(char, usize)]) -> Vec<ParamSpec> {
    let mut specs = Vec::new();
    for (m, dim) in streams {
        let both = dim + hidden;
        let wide = (both, both.next_multiple_of(4), hidden);
        specs.extend(new_linear(&format!("{GATE}.W_h{m}"), wide, GROUP));
        specs.extend(new_linear(&format!("{GATE}.W_{m}"), (*dim, *dim, hidden), GROUP));
    }
    specs.extend(norm_specs(&format!("{GATE}.LayerNorm"), hidden, GROUP));
    specs
}

/// The vectors `t [rows, hidden]`, moved by what each row has of the streams, `[rows, dim]`.
pub(super) fn moved(cx: &mut Cx<'_>, t: Var, streams: &[(char, Var)], beta: f64) -> Result<Var> {
    let rows = cx.tape.rows_cols(t).0;
    let mut sum: Option<Var> = None;
    for (m, x) in streams {
        let mut both = cx.tape.concat(&[*x, t])?;
        // Rows of whole vectors are read faster.
        let columns = cx.tape.rows_cols(both).1;
        let missing = columns.next_multiple_of(4) - columns;
        if missing > 0 {
            let zero = vec![0.0; rows * missing];
            let filler = cx.tape.constant("filler", &[rows, missing], &zero)?;
            both = cx.tape.concat(&[both, filler])?;
        }
        let gate = linear(cx.tape, cx.params, &format!("{GATE}.W_h{m}"), both, Act::Relu)?;
        let said = linear(cx.tape, cx.params, &format!("{GATE}.W_{m}"), *x, Act::None)?;
        let part = cx.tape.mul(gate, said)?;
        sum = Some(match sum {
            Some(sum) => cx.tape.add(sum, part)?,
            None => part,
        });
    }
    let h = sum.ok_or_else(|| Error::shape("bert_mag", "no stream"))?;
    let mut length = |of: Var| -> Result<Var> {
        let squares = cx.tape.square(of)?;
        let squares = cx.tape.sum_cols(squares)?;
        // Below the bound no gradient passes: the length of a zero vector has a slope of 0, not of none.
        let squares = cx.tape.clamp(squares, 1e-30, f32::MAX)?;
        cx.tape.sqrt(squares)
    };
    let (of_t, of_h) = (length(t)?, length(h)?);
    let of_t = cx.tape.scale(of_t, beta as f32)?;
    let least = cx.tape.constant("least", &[1], &[1e-6])?;
    let of_h = cx.tape.add(of_h, least)?;
    let alpha = cx.tape.div(of_t, of_h)?;
    let alpha = cx.tape.clamp(alpha, 0.0, 1.0)?;
    let h = cx.tape.mul(h, alpha)?;
    let t = cx.tape.add(h, t)?;
    norm(cx, &format!("{GATE}.LayerNorm"), t)
}

impl Recipe for BertMag {
    fn reads(&self) -> Reads {
        let tokens = Some(self.bert.shape.tables());
        Reads { streams: self.streams.clone(), tokens, ..Reads::default() }
    }

    fn bert(&self) -> Option<&Bert> {
        Some(&self.bert)
    }

    fn params(&self, _: bool, limit: usize) -> Vec<ParamSpec> {
        let (mut specs, h) = (self.bert.specs(limit), self.bert.shape.hidden);
        specs.extend(new_linear(POOLER, (h, h, h), BERT));
        let streams: Vec<_> = self.streams.iter().map(|s| (letter(s.modality), s.dim)).collect();
        specs.extend(gate_specs(h, &streams));
        specs.extend(new_linear("model.classifier", (h, h, self.outputs), GROUP));
        specs
    }

    fn groups(&self) -> Vec<Group> {
        [GROUP, BERT].map(|part| self.config.train.adam(part)).to_vec()
    }

    fn outputs(&self) -> Vec<Output> {
        one_encoding(self.outputs, self.bert.shape.hidden)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (bert, layer) = (&self.bert, self.own.layer);
        let (tokens, train) = (cx.tokens()?, cx.training());
        let t = bert.begin(cx.tape, cx.params, &tokens, layer, train)?;
        let mut streams = Vec::new();
        for (i, spec) in self.streams.iter().enumerate() {
            streams.push((letter(spec.modality), self.beside(cx, i)?));
        }
        let t = moved(cx, t, &streams, self.own.beta)?;
        let p = cx.dropout(self.own.dropout as f32);
        let t = cx.tape.dropout(t, p)?;
        let how = reading(self.config.bert.pooling);
        let x = bert.end(cx.tape, cx.params, &tokens, (layer, t), how, train)?;
        cx.output("encoded all", x)?;
        let x = linear(cx.tape, cx.params, POOLER, x, Act::Tanh)?;
        cx.output("feature M", x)?;
        let p = cx.dropout(bert.dropout.0);
        let x = cx.tape.dropout(x, p)?;
        let score = linear(cx.tape, cx.params, "model.classifier", x, Act::None)?;
        cx.output("M", score)?;
        if train { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
