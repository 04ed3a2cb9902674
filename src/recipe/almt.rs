//! ALMT, EMNLP 2023: language says what of audio and vision is taken up, as MMSA releases it.
//!
//! ```text
//! x_m = the first n of layer([n tokens; linear(m)] + positions)      m: text (a BERT's states), audio, vision
//! t_0 = x_t + positions      t_i = layer(t_(i−1))      h = norm(h) + out(att(t_i, x_a) + att(t_i, x_v)) for each i
//! ŷ = linear of position 0 of layers that ask h + positions
//! L = |ŷ − y|²
//! ```
//!
//! Of a modality only the first n positions are kept, so only these ask in its layer. In the last layers
//! each position asks h alone and none of its own kind, so what does not lead to position 0 is not
//! computed; MMSA computes it and drops it. Padding is read as MMSA reads it, except that text behind
//! a sentence's end is zero here.

use super::blocks::{BERT, Text, all_three, norm, norm_specs};
use super::config::{Config, PartRates, at_least_one, fail};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Output, Recipe};
use super::subnets::GROUP;
use crate::data::{Normalize, Reads, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::transformer::feed_forward;
use crate::nn::{Bert, Group, Init, ParamSpec, Reading, Schedule, linear, linear_specs};
use crate::ops::Act;
use crate::ops::attention::Asking;
use crate::ops::gather::Rows;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: Own,
    schedule: Steps,
}

/// Sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Columns of every sequence behind the embeddings.
    width: usize,
    /// Tokens that stand for a modality.
    tokens: usize,
    /// Heads, and columns of each.
    heads: usize,
    head_width: usize,
    /// Size within a layer.
    inner: usize,
    /// How often audio and vision are asked; the text has one layer fewer.
    hyper_layers: usize,
    /// Heads of those, which share `width`.
    hyper_heads: usize,
    /// Layers in the end.
    fusion_layers: usize,
}

/// The learning rate over time, in optimiser steps; 0 and 0 leave it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    /// From 0 up.
    warmup: u64,
    /// Along a cosine down to 0 from there.
    cosine: u64,
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings. Its schedule counts epochs, 20 up and 180 down; steps are those of the data set.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (fusion_layers, epoch) = match name {
        "mosei" => (4, 256),
        "sims" => (4, 22),
        _ => (2, 21),
    };
    if name == "sims" {
        config.sims();
    }
    let train = &mut config.train;
    (train.batch_size, train.normalize) = (64, Normalize::None);
    (train.max_epochs, train.early_stop) = (200, 32);
    train.lr = PartRates::of([(GROUP, 1e-4), (BERT, 1e-4)]);
    train.decay = PartRates::of([(GROUP, 1e-4), (BERT, 1e-4)]);
    config.set_own(&Settings {
        model: Own {
            width: 128,
            tokens: 8,
            heads: 8,
            head_width: 64,
            inner: 128,
            hyper_layers: 3,
            hyper_heads: 8,
            fusion_layers,
        },
        schedule: Steps { warmup: 20 * epoch, cosine: 180 * epoch },
    })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let Settings { model, .. } = config.settings()?;
    for (key, value) in [
        ("model.width", model.width),
        ("model.tokens", model.tokens),
        ("model.heads", model.heads),
        ("model.inner", model.inner),
        ("model.hyper_layers", model.hyper_layers),
        ("model.fusion_layers", model.fusion_layers),
    ] {
        at_least_one(key, value)?;
    }
    if !(1..=128).contains(&model.head_width) {
        return fail("model.head_width", "1 to 128");
    }
    if model.hyper_heads == 0 || !model.width.is_multiple_of(model.hyper_heads) {
        return fail("model.hyper_heads", "a divisor of model.width");
    }
    Ok(())
}

/// Letters of the modalities in parameters' names.
const LETTERS: [&str; 3] = ["l", "a", "v"];
const NAMES: [&str; 3] = ["text", "audio", "vision"];

pub(super) struct Almt {
    config: Config,
    own: Own,
    schedule: Steps,
    text: Text,
    /// Steps of the text.
    steps: usize,
    /// Audio and vision.
    streams: [StreamSpec; 2],
    /// Scores of a row.
    outputs: usize,
}

impl Almt {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let Settings { model: own, schedule } = config.settings()?;
        let (text, audio, vision) = all_three(config, offered)?;
        // Every position has a vector of its own: there are always as many.
        let whole = |spec: StreamSpec| StreamSpec { lengths: false, ..spec };
        let (text, steps) = match text {
            Text::Features(spec) => (Text::Features(whole(spec)), spec.steps),
            Text::Bert(bert) => {
                let steps = config.bert.max_tokens.min(bert.shape.tokens());
                (Text::Bert(bert), steps)
            }
        };
        let streams = [whole(audio), whole(vision)];
        Ok(Almt {
            config: config.clone(),
            own,
            schedule,
            text,
            steps,
            streams,
            outputs: offered.task.outputs(),
        })
    }

    /// Columns and steps of text, audio and vision.
    fn inputs(&self) -> [(usize, usize); 3] {
        let [audio, vision] = self.streams.map(|s| (s.dim, s.steps));
        [(self.text.width(), self.steps), audio, vision]
    }

    fn layer_specs(&self, name: &str) -> Vec<ParamSpec> {
        let Own { width: d, heads, head_width, inner, .. } = self.own;
        let all = heads * head_width;
        let mut specs = Vec::new();
        for part in ["q", "k", "v"] {
            specs.extend(norm_specs(&format!("{name}.0.norm_{part}"), d, GROUP));
            specs.extend(linear_specs(
                &format!("{name}.0.fn.to_{part}"),
                (d, d, all),
                false,
                GROUP,
            ));
        }
        specs.extend(linear_specs(&format!("{name}.0.fn.to_out.0"), (all, all, d), true, GROUP));
        specs.extend(norm_specs(&format!("{name}.1.norm"), d, GROUP));
        specs.extend(linear_specs(&format!("{name}.1.fn.net.0"), (d, d, inner), true, GROUP));
        specs.extend(linear_specs(&format!("{name}.1.fn.net.3"), (inner, inner, d), true, GROUP));
        specs
    }

    /// Records a layer in which `x [batch, n, width]` asks `of [batch, m, width]`.
    fn layer(&self, cx: &mut Cx<'_>, name: &str, x: Var, of: Var) -> Result<Var> {
        let part = |cx: &mut Cx<'_>, part: &str, from: Var| {
            let from = norm(cx, &format!("{name}.0.norm_{part}"), from)?;
            linear(cx.tape, cx.params, &format!("{name}.0.fn.to_{part}"), from, Act::None)
        };
        let (q, k, v) = (part(cx, "q", x)?, part(cx, "k", of)?, part(cx, "v", of)?);
        let kv = cx.tape.concat(&[k, v])?;
        let how = Asking { heads: self.own.heads, ..Asking::default() };
        let read = cx.tape.cross_attention(q, kv, how)?;
        let out = format!("{name}.0.fn.to_out.0");
        let read = linear(cx.tape, cx.params, &out, read, Act::None)?;
        let x = cx.tape.add(x, read)?;
        let normed = norm(cx, &format!("{name}.1.norm"), x)?;
        let two = ["0", "3"].map(|net| format!("{name}.1.fn.net.{net}"));
        let two = [&*two[0], &two[1]];
        let made = feed_forward(cx.tape, cx.params, two, normed, (Act::Gelu, 0.0))?;
        cx.tape.add(x, made)
    }

    /// Records one taking up: `text` asks `audio` and `vision`, and `hyper` takes what it gets.
    fn take_up(&self, cx: &mut Cx<'_>, at: &str, all: [Var; 4]) -> Result<Var> {
        let mut normed = Vec::new();
        for (i, x) in all.into_iter().enumerate() {
            normed.push(norm(cx, &format!("{at}.norm{}", i + 1), x)?);
        }
        let to = |cx: &mut Cx<'_>, name: &str, x: Var| {
            linear(cx.tape, cx.params, &format!("{at}.fn.to_{name}"), x, Act::None)
        };
        let q = to(cx, "q", normed[0])?;
        let how = Asking { heads: self.own.hyper_heads, ..Asking::default() };
        let mut reads = Vec::new();
        for (m, x) in [("a", normed[1]), ("v", normed[2])] {
            let (k, v) = (to(cx, &format!("k_t{m}"), x)?, to(cx, &format!("v_t{m}"), x)?);
            let kv = cx.tape.concat(&[k, v])?;
            reads.push(cx.tape.cross_attention(q, kv, how)?);
        }
        let read = cx.tape.add(reads[0], reads[1])?;
        let read = to(cx, "out.0", read)?;
        // MMSA adds to the normed vector.
        cx.tape.add(normed[3], read)
    }

    /// A parameter of so many columns for each row of the batch.
    fn for_each(&self, cx: &mut Cx<'_>, name: &str, columns: usize, first: Rows) -> Result<Var> {
        let one = cx.param(name)?;
        let one = cx.tape.reshape(one, &[1, columns])?;
        cx.tape.gather(one, first)
    }

    /// The text `[batch, steps, width]`.
    fn states(&self, cx: &mut Cx<'_>) -> Result<Var> {
        let Some(bert) = self.bert() else { return Ok(cx.stream(0)?.values) };
        let (tokens, train) = (cx.tokens()?, cx.training());
        let states = bert.record(cx.tape, cx.params, &tokens, Reading::All, train)?;
        cx.tape.unpack(states, tokens.tokens, tokens.spans, self.steps)
    }

    /// x_m `[batch, n · width]` of the sequence `x` of the modality `m`.
    fn embedded(&self, cx: &mut Cx<'_>, m: &str, x: Var, first: Rows) -> Result<Var> {
        let Own { width: d, tokens: k, .. } = self.own;
        let (n, steps, at) = (cx.batch(), cx.tape.shape(x)[1], format!("embedding_{m}.1"));
        let x = linear(cx.tape, cx.params, &format!("embedding_{m}.0"), x, Act::None)?;
        let x = cx.tape.reshape(x, &[n, steps * d])?;
        let extra = self.for_each(cx, &format!("{at}.extra_token"), k * d, first)?;
        let x = cx.tape.concat(&[extra, x])?;
        let positions = cx.param(&format!("{at}.pos_embedding"))?;
        let positions = cx.tape.reshape(positions, &[(k + steps) * d])?;
        let x = cx.tape.add(x, positions)?;
        let asking = cx.tape.slice(x, 0, k * d)?;
        let asking = cx.tape.reshape(asking, &[n, k, d])?;
        let x = cx.tape.reshape(x, &[n, k + steps, d])?;
        let x = self.layer(cx, &format!("{at}.encoder.layers.0"), asking, x)?;
        cx.tape.reshape(x, &[n, k * d])
    }
}

impl Recipe for Almt {
    fn reads(&self) -> Reads {
        let text = match &self.text {
            Text::Features(spec) => Some(*spec),
            Text::Bert(_) => None,
        };
        let tokens = self.bert().map(|b| b.shape.tables());
        Reads {
            streams: text.into_iter().chain(self.streams).collect(),
            tokens,
            ..Reads::default()
        }
    }

    fn bert(&self) -> Option<&Bert> {
        self.text.bert()
    }

    fn params(&self, _: bool, limit: usize) -> Vec<ParamSpec> {
        let Own { width: d, tokens: k, hyper_layers, fusion_layers, .. } = self.own;
        let mut specs = self.bert().map(|b| b.specs(limit)).unwrap_or_default();
        let table =
            |name: &str, rows: usize, init| ParamSpec::new(name, &[1, rows, d], GROUP, init);
        let (random, zero) = (Init::Normal(1.0), Init::Zeros);
        for (m, (dim, steps)) in LETTERS.into_iter().zip(self.inputs()) {
            let (name, at) = (format!("embedding_{m}.0"), format!("embedding_{m}.1"));
            specs.extend(linear_specs(&name, (dim, dim.next_multiple_of(4), d), true, GROUP));
            specs.push(table(&format!("{at}.pos_embedding"), k + steps, random));
            specs.push(table(&format!("{at}.extra_token"), k, zero));
            specs.extend(self.layer_specs(&format!("{at}.encoder.layers.0")));
        }
        specs.push(table("h_hyper", k, Init::Ones));
        specs.push(table("l_encoder.pos_embedding", k, random));
        for i in 0..hyper_layers - 1 {
            specs.extend(self.layer_specs(&format!("l_encoder.encoder.layers.{i}")));
        }
        for i in 0..hyper_layers {
            let at = format!("h_hyper_layer.layers.{i}.0");
            for norm in 1..=4 {
                specs.extend(norm_specs(&format!("{at}.norm{norm}"), d, GROUP));
            }
            for part in ["q", "k_ta", "k_tv", "v_ta", "v_tv", "out.0"] {
                let name = format!("{at}.fn.to_{part}");
                specs.extend(linear_specs(&name, (d, d, d), part == "out.0", GROUP));
            }
        }
        for end in ["s", "t"] {
            specs.push(table(&format!("fusion_layer.pos_embedding_{end}"), k + 1, random));
        }
        specs.push(table("fusion_layer.extra_token", 1, zero));
        for i in 0..fusion_layers {
            let name = format!("fusion_layer.CrossTransformerEncoder.layers.{i}");
            specs.extend(self.layer_specs(&name));
        }
        specs.extend(linear_specs("regression_head", (d, d, self.outputs), true, GROUP));
        specs
    }

    fn groups(&self) -> Vec<Group> {
        let (t, Steps { warmup, cosine }) = (&self.config.train, self.schedule);
        let schedule = match (warmup, cosine) {
            (0, 0) => Schedule::Constant,
            (steps, 0) => Schedule::LinearWarmup { steps },
            (0, steps) => Schedule::Cosine { steps, least: 0.0 },
            (up, steps) => Schedule::LinearWarmup { steps: up }
                .then(up, Schedule::Cosine { steps, least: 0.0 }),
        };
        let group = |name| {
            let group = Group::adam_w(name, t.lr.get(name)).weight_decay(t.decay.get(name));
            group.schedule(schedule.clone())
        };
        vec![group(GROUP), group(BERT)]
    }

    fn outputs(&self) -> Vec<Output> {
        let Own { width: d, tokens, .. } = self.own;
        let encoded =
            NAMES.iter().map(|m| Output::representation(format!("encoded {m}"), tokens * d));
        let mut all: Vec<Output> =
            std::iter::once(Output::score("M", self.outputs)).chain(encoded).collect();
        all.push(Output::representation("hyper-modality", tokens * d));
        all.push(Output::representation("feature M", d));
        all
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let Own { width: d, tokens: k, hyper_layers, fusion_layers, .. } = self.own;
        let n = cx.batch();
        let first = cx.tape.rows("first", &vec![0; n], 1)?;
        let text = self.states(cx)?;
        let own = usize::from(self.bert().is_none());
        let inputs = [text, cx.stream(own)?.values, cx.stream(own + 1)?.values];
        let mut kept = Vec::new();
        for ((m, name), x) in LETTERS.into_iter().zip(NAMES).zip(inputs) {
            let x = self.embedded(cx, m, x, first)?;
            cx.output(&format!("encoded {name}"), x)?;
            kept.push(x);
        }
        let [text, audio, vision] = kept[..] else {
            return Err(Error::shape("almt", "not three modalities"));
        };
        let [audio, vision] = [audio, vision].map(|x| cx.tape.reshape(x, &[n, k, d]));
        let (audio, vision) = (audio?, vision?);
        let positions = cx.param("l_encoder.pos_embedding")?;
        let positions = cx.tape.reshape(positions, &[k * d])?;
        let text = cx.tape.add(text, positions)?;
        let mut text = cx.tape.reshape(text, &[n, k, d])?;
        let hyper = self.for_each(cx, "h_hyper", k * d, first)?;
        let mut hyper = cx.tape.reshape(hyper, &[n, k, d])?;
        for i in 0..hyper_layers {
            if i > 0 {
                let name = format!("l_encoder.encoder.layers.{}", i - 1);
                text = self.layer(cx, &name, text, text)?;
            }
            let at = format!("h_hyper_layer.layers.{i}.0");
            hyper = self.take_up(cx, &at, [text, audio, vision, hyper])?;
        }
        let hyper = cx.tape.reshape(hyper, &[n, k * d])?;
        cx.output("hyper-modality", hyper)?;
        let extra = self.for_each(cx, "fusion_layer.extra_token", d, first)?;
        let source = cx.tape.concat(&[extra, hyper])?;
        let positions = cx.param("fusion_layer.pos_embedding_s")?;
        let positions = cx.tape.reshape(positions, &[(k + 1) * d])?;
        let source = cx.tape.add(source, positions)?;
        let source = cx.tape.reshape(source, &[n, k + 1, d])?;
        // Position 0 alone; the others would be the text's.
        let positions = cx.param("fusion_layer.pos_embedding_t")?;
        let positions = cx.tape.reshape(positions, &[1, (k + 1) * d])?;
        let position = cx.tape.slice(positions, 0, d)?;
        let position = cx.tape.reshape(position, &[d])?;
        let x = cx.tape.add(extra, position)?;
        let mut x = cx.tape.reshape(x, &[n, 1, d])?;
        for i in 0..fusion_layers {
            let name = format!("fusion_layer.CrossTransformerEncoder.layers.{i}");
            x = self.layer(cx, &name, x, source)?;
        }
        let x = cx.tape.reshape(x, &[n, d])?;
        cx.output("feature M", x)?;
        let score = linear(cx.tape, cx.params, "regression_head", x, Act::None)?;
        cx.output("M", score)?;
        if cx.training() { cx.task_loss("M", score, Distance::Squared) } else { Ok(()) }
    }
}
