//! CLFA, arXiv:2403.06355: text and pictures are brought near to frozen embeddings of the same pair before they are
//! fused, without external knowledge.
//!
//! ```text
//! T = mlp_text(x_t)       I_m = mlp_m(x_m)            x_t states of a BERT, vectors of token ids, or features
//! f_s = mean of the steps of mlp_s, of text and vision              mlp = linear relu linear
//! each layer: T ← att(T, T)    T ← att(T, I_m) for each m in turn    T ← two layers, all with norms behind
//! z = head(mean of the tokens of T)
//! L = α Σ_s ½ (CE by rows + CE by columns of cos(f_s, g_s) / τ, i to i) + β CE(z, y)
//! ```
//!
//! The guides g_s are streams of the data, CLIP's vectors of text and picture say; of several steps they are the mean.
//! They are never standardised, learn nothing, and are read in training alone. Where a guide is not as wide as
//! the model, a linear layer leads from f_s to its space. Every stream beside the text is asked, vision first.
//!
//! This is what the release calls its model without knowledge: it adds no word lists' and no grammar's bias to
//! attention. Other than there: as many classes as the data have; words of the picture are a stream with an
//! MLP of its own instead of a second text of the same BERT; where gradients are clipped it is by the norm of
//! all of them and not of each parameter's. Sizes and rates of the presets are smaller than the release's
//! (width 512, 8 heads, 1536 between the layers of an MLP, batches of 8, rate 1e-5 for everything), as for data
//! of some thousand rows; a BERT has the release's.

use super::blocks::{Text, shares_of_steps};
use super::config::{Config, PartRates, at_least_one, fail, not_negative, probability};
use super::cx::{Cx, StreamVars};
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Column, Columns, Counts, Output, Recipe};
use super::sections::TextEncoder;
use super::self_mm::pretrained;
use super::subnets::GROUP;
use crate::data::{Modality, Normalize, Reads, StreamSpec, TaskKind};
use crate::error::{Error, Result};
use crate::nn::contrast::{ProjectionHead, Units, matched_both_ways};
use crate::nn::transformer::{AttentionBlock, FeedForwardBlock, NormAt, Residual, Sequences};
use crate::nn::{Bert, BertShape, Group, Init, Optimizer, ParamSpec, Reading, Schedule};
use crate::nn::{linear, linear_specs};
use crate::ops::Act;
use crate::ops::attention::MAX_HEAD;
use crate::ops::batched::Transposed;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: Own,
    schedule: Steps,
}

/// Sizes, weights of the losses, guides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    layers: usize,
    heads: usize,
    /// Columns of every sequence behind its MLP.
    width: usize,
    /// Columns between the layers of an MLP, and of the two layers of a block.
    hidden: usize,
    inner: usize,
    /// Of attention's weights, of what is added to a residual, before the head.
    dropout: f64,
    /// Of each alignment in the loss (0: none, and no guide is read), and of the task.
    alpha: f64,
    beta: f64,
    /// What cosines are divided by.
    tau: f64,
    guide: Guides,
}

/// The streams that text and vision are guided by; nothing for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guides {
    text: String,
    vision: String,
}

/// Learning rates over time, in optimiser steps: up from 0 over `warmup`, then to 0 at `total`, on the line that
/// began at 1, as BertAdam has it; with a total of 0 they stay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    warmup: u64,
    total: u64,
}

/// Of the norms; and what the groups are called, of which the second of a kind has biases and norms.
const EPS: f32 = 1e-12;
const BERT: &str = "bert";
const PLAIN: [&str; 2] = ["model.no_decay", "bert.no_decay"];
/// Where the encoder of the text is among the parameters.
pub(super) const BERT_PREFIX: &str = "bert.";

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// The same for all data: the release's method, at sizes and rates for small ones.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
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

pub(super) fn check(config: &Config) -> Result<()> {
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
struct Guide {
    of: Modality,
    by: Modality,
    dim: usize,
}

pub(super) struct Clfa {
    config: Config,
    own: Own,
    schedule: Steps,
    text: Text,
    /// Vision, then the others.
    others: Vec<StreamSpec>,
    guides: Vec<Guide>,
    classes: usize,
}

impl Clfa {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let Settings { model: own, schedule } = config.settings()?;
        let refuse = |why: String| Err(Error::Config(format!("clfa {why}")));
        if offered.task.kind != TaskKind::Classes {
            return refuse(format!(
                "learns to tell classes apart, and the data has {}: give it data with class_labels, or use \
                 another model",
                offered.task.about()
            ));
        }
        let has = format!(
            "model.modalities is '{}', and the streams of the data are: {}{}",
            config.model.modalities,
            offered.names(),
            offered.unread()
        );
        let bert = offered.bert.filter(|_| config.model.wants(Modality::Text));
        let text = match (config.model.text_encoder, bert) {
            (TextEncoder::Bert, Some(shape)) => Text::Bert(Box::new(Bert {
                prefix: BERT_PREFIX.into(),
                groups: (BERT.into(), PLAIN[1].into()),
                ..pretrained(config, shape)
            })),
            (TextEncoder::Table, Some(shape)) => Text::Bert(Box::new(Bert {
                prefix: BERT_PREFIX.into(),
                groups: (GROUP.into(), PLAIN[0].into()),
                dropout: (own.dropout as f32, 0.0),
                ..Bert::new(BertShape { hidden: own.width, ..*shape })
            })),
            _ => match offered.wanted(config, Modality::Text) {
                Some(spec) => Text::Features(spec),
                None => {
                    return refuse(format!(
                        "asks other streams by the text, and there is none: {has}"
                    ));
                }
            },
        };
        let named = [&own.guide.text, &own.guide.vision];
        // Vectors that are there to guide are no input, unless they are asked for by name.
        let guide = |m: Modality| {
            let other = matches!(m, Modality::Other(_)) && own.alpha > 0.0;
            other && named.iter().any(|name| *name == m.name()) && config.model.wants_all()
        };
        let wanted =
            |s: &&StreamSpec| config.model.wants(s.modality) && s.modality != Modality::Text;
        let mut others: Vec<StreamSpec> =
            offered.streams.iter().filter(wanted).filter(|s| !guide(s.modality)).copied().collect();
        others.sort_by_key(|s| (s.modality != Modality::Vision, s.modality));
        if others.is_empty() {
            return refuse(format!(
                "fuses text with other streams, and there is none beside it: {has}"
            ));
        }
        let guides = Self::guides(config, &own, offered, (&text, &others))?;
        let (config, classes) = (config.clone(), offered.task.outputs());
        Ok(Clfa { config, own, schedule, text, others, guides, classes })
    }

    fn guides(
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

    /// What is read beside tokens: text that comes as features, then the others.
    fn streams(&self) -> Vec<StreamSpec> {
        let text = match &self.text {
            Text::Features(spec) => Some(*spec),
            Text::Bert(_) => None,
        };
        text.into_iter().chain(self.others.iter().copied()).collect()
    }

    /// Every stream, the text first, with its columns as they are and as they are stored.
    fn inputs(&self) -> Vec<(Modality, (usize, usize))> {
        let stored = |dim: usize| (dim, dim.next_multiple_of(4));
        let others = self.others.iter().map(|s| (s.modality, stored(s.dim)));
        std::iter::once((Modality::Text, stored(self.text.width()))).chain(others).collect()
    }

    fn mlp(&self, (of, inputs): (Modality, (usize, usize))) -> ProjectionHead {
        let Own { hidden: inner, width: out, .. } = self.own;
        ProjectionHead { name: format!("mlp_{of}"), inputs, inner, out, group: GROUP.into() }
    }

    fn guide(&self, of: Modality) -> Option<&Guide> {
        self.guides.iter().find(|guide| guide.of == of)
    }

    /// Columns of the vector of a stream: of its guide's where it has one.
    fn aligned(&self, of: Modality) -> usize {
        self.guide(of).map_or(self.own.width, |guide| guide.dim)
    }

    fn residual(&self, name: String) -> Residual {
        let (width, dropout, group) = (self.own.width, self.own.dropout as f32, GROUP.into());
        Residual { name, width, norm: NormAt::Behind, eps: EPS, dropout, group }
    }

    /// The blocks of a layer: what asks itself and the others in turn, and the two layers.
    fn layer(&self, i: usize) -> (Vec<AttentionBlock>, FeedForwardBlock) {
        let Own { heads, width, inner, dropout, .. } = self.own;
        let attention = |name: String, asks: Option<usize>| AttentionBlock {
            residual: self.residual(format!("layer.{i}.{name}")),
            asks,
            heads,
            head: width / heads,
            bias: true,
            dropout: dropout as f32,
        };
        let mut all = vec![attention("attention".into(), None)];
        let name = |s: &StreamSpec| format!("crossattention_{}", s.modality);
        all.extend(self.others.iter().map(|s| attention(name(s), Some(width))));
        let residual = self.residual(format!("layer.{i}"));
        (all, FeedForwardBlock { residual, inner, act: Act::Gelu, dropout: 0.0 })
    }

    /// The text behind its MLP, how it lies, and the mean of its steps.
    fn tokens(&self, cx: &mut Cx<'_>) -> Result<(Var, Sequences, Averaged)> {
        let mlp = self.mlp(self.inputs()[0]);
        let Text::Bert(bert) = &self.text else {
            let stream = cx.stream(0)?;
            let x = mlp.record(cx.tape, cx.params, stream.values)?;
            return Ok((x, Sequences::Padded(stream.lengths), Averaged::Stream(stream)));
        };
        let (t, train) = (cx.tokens()?, cx.training());
        let x = bert.record(cx.tape, cx.params, &t, Reading::All, train)?;
        let x = mlp.record(cx.tape, cx.params, x)?;
        let steps = self.config.bert.max_tokens.min(bert.shape.tokens());
        let lie = Sequences::Packed { tokens: t.tokens, spans: t.spans, steps };
        Ok((x, lie, Averaged::Tokens(t.tokens, t.spans)))
    }

    /// The vector of a stream, `[batch, columns]`, of the mean of its steps; in training what it is off its guide.
    fn align(&self, cx: &mut Cx<'_>, of: Modality, mean: Var) -> Result<()> {
        let (at, own) = (self.guides.iter().position(|guide| guide.of == of), &self.own);
        let f = match self.aligned(of) == own.width {
            true => mean,
            false => linear(cx.tape, cx.params, &format!("align_{of}"), mean, Act::None)?,
        };
        cx.output(&format!("encoded {of}"), f)?;
        let Some(at) = at.filter(|_| cx.training()) else { return Ok(()) };
        let guide = cx.guide(at)?;
        let pairs = Units::pair(cx.tape, f, guide)?;
        let loss = matched_both_ways(cx.tape, pairs, own.tau as f32)?;
        cx.loss(&format!("align_{of}"), loss)
    }
}

/// What a mean is taken over.
#[derive(Clone, Copy)]
enum Averaged {
    Stream(StreamVars),
    Tokens(Var, Var),
}

impl Averaged {
    /// The mean of `x`, `[batch, columns]`.
    fn mean(self, cx: &mut Cx<'_>, x: Var) -> Result<Var> {
        let (batch, columns) = (cx.batch(), cx.tape.rows_cols(x).1);
        let mean = match self {
            Averaged::Tokens(tokens, spans) => return cx.tape.pool_mean(x, tokens, spans),
            Averaged::Stream(StreamVars { steps: 1, .. }) => x,
            Averaged::Stream(stream) => {
                let shares = shares_of_steps(cx, stream)?;
                cx.tape.bmm(shares, x, Transposed::Neither)?
            }
        };
        cx.tape.reshape(mean, &[batch, columns])
    }
}

impl Recipe for Clfa {
    fn reads(&self) -> Reads {
        let tokens = self.bert().map(|bert| bert.shape.tables());
        let guides = self.guides.iter().map(|guide| (guide.by, guide.dim)).collect();
        Reads { streams: self.streams(), tokens, guides, ..Reads::default() }
    }

    fn bert(&self) -> Option<&Bert> {
        self.text.bert()
    }

    fn params(&self, _: bool, limit: usize) -> Vec<ParamSpec> {
        let width = self.own.width;
        let mut specs = self.bert().map(|bert| bert.specs(limit)).unwrap_or_default();
        if self.config.model.text_encoder == TextEncoder::Table {
            specs.iter_mut().for_each(|spec| spec.init = begun(&spec.name));
        }
        specs.extend(self.inputs().into_iter().flat_map(|input| self.mlp(input).specs()));
        for Guide { of, dim, .. } in self.guides.iter().filter(|guide| guide.dim != width) {
            specs.extend(linear_specs(&format!("align_{of}"), (width, width, *dim), true, GROUP));
        }
        for i in 0..self.own.layers {
            let (attention, two) = self.layer(i);
            specs.extend(attention.iter().flat_map(AttentionBlock::specs).chain(two.specs()));
        }
        specs.extend(linear_specs("head", (width, width, self.classes), true, GROUP));
        let plain = |name: &str| name.ends_with("bias") || name.contains("LayerNorm");
        for spec in specs.iter_mut().filter(|spec| spec.group == GROUP && plain(&spec.name)) {
            spec.group = PLAIN[0].into();
        }
        specs
    }

    fn groups(&self) -> Vec<Group> {
        let (t, Steps { warmup, total }) = (&self.config.train, self.schedule);
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
        let both = parts.flat_map(|(part, plain)| {
            [group(part, part, t.decay.get(part)), group(plain, part, 0.0)]
        });
        both.collect()
    }

    fn columns(&self) -> Columns {
        let column = |name: String, what: String, weight: f64| Column {
            name,
            what,
            counts: Counts::Times(weight),
        };
        let task = column("M".into(), "the loss of task M".into(), self.own.beta);
        let aligned = self.guides.iter().map(|Guide { of, by, .. }| {
            let what = format!("how far {of} is from its guide, {by}");
            column(format!("align_{of}"), what, self.own.alpha)
        });
        Columns::new(std::iter::once(task).chain(aligned).collect())
    }

    fn outputs(&self) -> Vec<Output> {
        let mut all = vec![Output::score("M", self.classes)];
        let encoded = self
            .inputs()
            .into_iter()
            .map(|(of, _)| Output::representation(format!("encoded {of}"), self.aligned(of)));
        all.extend(encoded);
        all.push(Output::representation("feature M", self.own.width));
        all
    }

    fn retrieved(&self) -> Option<[Modality; 2]> {
        let sides = [Modality::Text, self.others[0].modality];
        (self.aligned(sides[0]) == self.aligned(sides[1])).then_some(sides)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (train, own) = (cx.training(), &self.own);
        let (mut t, lie, averaged) = self.tokens(cx)?;
        let mean = averaged.mean(cx, t)?;
        self.align(cx, Modality::Text, mean)?;
        let first = self.streams().len() - self.others.len();
        let mut asked = Vec::new();
        for (i, input) in self.inputs().into_iter().skip(1).enumerate() {
            let stream = cx.stream(first + i)?;
            let x = self.mlp(input).record(cx.tape, cx.params, stream.values)?;
            let mean = Averaged::Stream(stream).mean(cx, x)?;
            self.align(cx, input.0, mean)?;
            asked.push(Some((x, stream.lengths)));
        }
        for i in 0..own.layers {
            let (attention, two) = self.layer(i);
            for (block, other) in attention.iter().zip(std::iter::once(None).chain(asked.clone())) {
                t = block.record(cx.tape, cx.params, (t, lie), other, train)?;
            }
            t = two.record(cx.tape, cx.params, t, train)?;
        }
        let x = averaged.mean(cx, t)?;
        cx.output("feature M", x)?;
        let p = cx.dropout(own.dropout as f32);
        let x = if p > 0.0 { cx.tape.dropout(x, p)? } else { x };
        let score = linear(cx.tape, cx.params, "head", x, Act::None)?;
        cx.output("M", score)?;
        if train { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}

/// How a table of vectors begins that no file has, as BERT's own did.
fn begun(name: &str) -> Init {
    match name {
        _ if name.ends_with("LayerNorm.weight") => Init::Ones,
        _ if name.ends_with("bias") => Init::Zeros,
        _ => Init::Normal(0.02),
    }
}
