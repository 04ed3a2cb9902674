//! MulT, arXiv:1906.00295: crossmodal transformers over streams that nobody aligned, as MMSA releases it.
//!
//! ```text
//! x_m = conv_m(stream of m)                                 no padding, so k − 1 steps fewer
//! z_mn = trans_m_with_n(x_m, x_n)                           queries of m; keys and values of n
//! h_m = trans_m_mem([z_mn; z_mo]) at the last step          self-attention
//! ŷ = out_layer(proj2(drop relu(proj1 h)) + h)              h = [h_l; h_a; h_v]
//! ```
//!
//! A layer is pre-norm: `x += drop(attention(LN x, LN y))`, `x += drop(fc2(relu(fc1(LN x))))`. Query i sees
//! the keys j ≤ i + |T − T'|. Nobody hides padding, and the last step may be padding, too. Where only the
//! last step of a memory is read, its last layer computes nothing else but keys and values.
//!
//! Since September 2022 MMSA's encoders have no positions unless told, and nobody tells them:
//! `model.positions=false` is that; its published results are older.
//!
//! As there, the learning rate falls to a tenth once the validation loss has not been better for more than
//! `model.plateau.patience` epochs. It falls by the loss that early stopping goes by, the mean over batches,
//! and stays where it is without validation rows.
//!
//! What differs from MMSA: it clips what has accumulated after each micro-batch, here it is clipped once,
//! before the step; keys and values of a stream drop the same elements of its embedding.

use super::between::{EpochEnd, Plateau};
use super::config::{ByStream, Config, all_at_least_one, fail, probabilities};
use super::crossmodal::{Encoder, placed};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Output, Recipe};
use super::subnets::{GROUP, field_letter};
use crate::data::{Modality, Reads, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Group, Init, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::ops::attention::MAX_HEAD;
use crate::ops::conv::Conv1d;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Width of the streams behind their convolutions.
    width: usize,
    /// Heads of all attention.
    heads: usize,
    /// Layers of the crossmodal encoders; those of the memories are at least three.
    layers: usize,
    /// Taps of the convolutions.
    kernel: ByStream,
    /// Tell encoders the positions of steps, as the paper has it.
    positions: bool,
    /// When the learning rate falls; never in runs that are older than this setting.
    #[serde(default)]
    plateau: Plateau,
    /// Dropout probabilities.
    dropout: Dropouts,
}

/// Dropout probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dropouts {
    /// Of attention to text, and in the memories.
    attention_text: f64,
    /// Of attention to audio.
    attention_audio: f64,
    /// Of attention to vision.
    attention_vision: f64,
    /// Of attention to streams of other names.
    #[serde(default)]
    attention_other: f64,
    /// Between the two layers of a feed-forward block.
    inner: f64,
    /// Of what an encoder reads.
    embedding: f64,
    /// Of what is added to a residual.
    residual: f64,
    /// Of the text.
    text: f64,
    /// Between the two layers before the last one.
    out: f64,
}

impl Dropouts {
    /// Of attention to a modality.
    fn attention(&self, to: Modality) -> f64 {
        match to {
            Modality::Text => self.attention_text,
            Modality::Audio => self.attention_audio,
            Modality::Vision => self.attention_vision,
            Modality::Other(_) => self.attention_other,
        }
    }
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let ([width, heads, layers], [taps, audio, vision], [attention_text, attention_audio]) =
        match name {
            "mosei" => ([30, 6, 4], [5, 1, 3], [0.4, 0.0]),
            "sims" => ([50, 10, 2], [5, 1, 1], [0.2, 0.1]),
            _ => ([50, 10, 4], [5, 5, 5], [0.3, 0.2]),
        };
    let ([embedding, residual, text, out], batch, lr, patience) = match name {
        "mosei" => ([0.0, 0.0, 0.3, 0.5], 4, 5e-4, 20),
        "sims" => ([0.1, 0.2, 0.3, 0.1], 16, 2e-3, 10),
        _ => ([0.2, 0.0, 0.5, 0.5], 16, 2e-3, 5),
    };
    config.as_mmsa(name, batch, [(GROUP, lr, 0.0)]);
    (config.train.accumulate, config.train.clip_value) = (8, 0.6);
    let (attention_vision, attention_other, inner) = (0.0, 0.0, 0.0);
    config.set_model(&Own {
        width,
        heads,
        layers,
        kernel: ByStream { text: taps, audio, vision, other: vision },
        positions: true,
        plateau: Plateau { patience, factor: 0.1 },
        dropout: Dropouts {
            attention_text,
            attention_audio,
            attention_vision,
            attention_other,
            inner,
            embedding,
            residual,
            text,
            out,
        },
    })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let model: Own = config.model_settings()?;
    all_at_least_one("model", &model)?;
    all_at_least_one("model.kernel", &model.kernel)?;
    // A memory is up to twice as wide.
    if !model.width.is_multiple_of(model.heads) || 2 * model.width / model.heads > MAX_HEAD {
        return fail("model.heads", "a divisor of model.width, with heads of at most 64");
    }
    model.plateau.check()?;
    probabilities("model.dropout", &model.dropout)
}

pub(super) struct MulT {
    config: Config,
    own: Own,
    streams: Vec<StreamSpec>,
    /// Scores of a row.
    outputs: usize,
}

impl MulT {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let (own, letters): (Own, _) = (config.model_settings()?, &config.model.modalities);
        let streams = offered.whole(config);
        if streams.len() < 2 {
            return Err(Error::Config(format!(
                "mult wants two streams or more, and of '{letters}' the data has {}",
                streams.len()
            )));
        }
        let made = MulT { config: config.clone(), own, streams, outputs: offered.task.outputs() };
        for s in &made.streams {
            if s.steps < made.taps(s.modality) {
                let (name, steps) = (s.modality.name(), s.steps);
                return fail(&format!("model.kernel.{name}"), &format!("1 to {steps}, its steps"));
            }
        }
        Ok(made)
    }

    fn taps(&self, modality: Modality) -> usize {
        self.own.kernel.of(modality)
    }

    /// Width of what a memory says, and of what all of them say.
    fn widths(&self) -> (usize, usize) {
        let (n, own) = (self.streams.len(), self.own.width);
        ((n - 1) * own, n * (n - 1) * own)
    }

    fn encoder(&self, of: Modality, with: Option<Modality>) -> Encoder {
        let (Own { width, heads, layers, dropout, .. }, of) = (self.own, field_letter(of));
        let (name, attention) = match with {
            Some(with) => {
                (format!("trans_{of}_with_{}", field_letter(with)), dropout.attention(with))
            }
            None => (format!("trans_{of}_mem"), dropout.attention_text),
        };
        let own = with.is_none();
        Encoder {
            name,
            width: if own { self.widths().0 } else { width },
            heads,
            layers: if own { layers.max(3) } else { layers },
            own,
            dropout: [attention, dropout.inner, dropout.residual],
        }
    }

    /// The encoders of a modality: those that attend to others, with where these are, and its memory.
    fn encoders(&self, of: Modality) -> (Vec<(usize, Encoder)>, Encoder) {
        let others = self.streams.iter().enumerate().filter(|(_, s)| s.modality != of);
        let with = others.map(|(i, s)| (i, self.encoder(of, Some(s.modality))));
        (with.collect(), self.encoder(of, None))
    }
}

impl Recipe for MulT {
    fn reads(&self) -> Reads {
        Reads { streams: self.streams.clone(), ..Reads::default() }
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let mut specs = Vec::new();
        for s in &self.streams {
            let (taps, name) = (self.taps(s.modality), field_letter(s.modality));
            let init = Init::Uniform(1.0 / ((s.dim * taps) as f32).sqrt());
            let shape = [self.own.width, s.dim, taps];
            specs.push(ParamSpec::new(format!("proj_{name}.weight"), &shape, GROUP, init));
        }
        for s in &self.streams {
            let (with, memory) = self.encoders(s.modality);
            specs.extend(with.iter().flat_map(|(_, encoder)| encoder.specs()));
            specs.extend(memory.specs());
        }
        let all = self.widths().1;
        for (name, outputs) in [("proj1", all), ("proj2", all), ("out_layer", self.outputs)] {
            specs.extend(linear_specs(name, (all, all, outputs), true, GROUP));
        }
        specs
    }

    fn groups(&self) -> Vec<Group> {
        vec![self.config.train.adam(GROUP)]
    }

    fn outputs(&self) -> Vec<Output> {
        let (one, all) = self.widths();
        let said = self.streams.iter().map(|s| format!("encoded {}", s.modality));
        let each = said.map(|name| Output::representation(name, one));
        let score = std::iter::once(Output::score("M", self.outputs));
        score.chain(each).chain([Output::representation("feature M", all)]).collect()
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let embedding = cx.dropout(self.own.dropout.embedding as f32);
        let mut streams = Vec::new();
        for (i, s) in self.streams.iter().enumerate() {
            let stream = cx.stream(i)?;
            let mut x = cx.without_padding(stream, stream.values)?;
            if s.modality == Modality::Text {
                let p = cx.dropout(self.own.dropout.text as f32);
                x = cx.tape.dropout(x, p)?;
            }
            let taps = cx.param(&format!("proj_{}.weight", field_letter(s.modality)))?;
            let x = cx.tape.conv1d(x, taps, None, Conv1d::default())?;
            // All encoders that read it read the same, but for what each drops.
            streams.push(placed(cx, x, self.own.positions)?);
        }
        let mut said = Vec::new();
        for (of, s) in self.streams.iter().enumerate() {
            let (with, memory) = self.encoders(s.modality);
            let mut heard = Vec::new();
            for (other, encoder) in with {
                let x = cx.tape.dropout(streams[of], embedding)?;
                let known = cx.tape.dropout(streams[other], embedding)?;
                heard.push(encoder.record(cx, x, Some(known))?);
            }
            let x = cx.tape.concat(&heard)?;
            let x = placed(cx, x, self.own.positions)?;
            let x = cx.tape.dropout(x, embedding)?;
            let last = memory.record(cx, x, None)?;
            let last = cx.tape.reshape(last, &[cx.batch(), memory.width])?;
            cx.output(&format!("encoded {}", s.modality), last)?;
            said.push(last);
        }
        let h = cx.tape.concat(&said)?;
        let y = linear(cx.tape, cx.params, "proj1", h, Act::Relu)?;
        let p = cx.dropout(self.own.dropout.out as f32);
        let y = cx.tape.dropout(y, p)?;
        let y = linear(cx.tape, cx.params, "proj2", y, Act::None)?;
        let y = cx.tape.add(y, h)?;
        cx.output("feature M", y)?;
        let score = linear(cx.tape, cx.params, "out_layer", y, Act::None)?;
        cx.output("M", score)?;
        if cx.training() { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }

    fn epoch_end(&self, end: &mut EpochEnd<'_>) -> Result<()> {
        self.own.plateau.epoch_end(end, &[(GROUP, self.config.train.lr.get(GROUP))])
    }
}
