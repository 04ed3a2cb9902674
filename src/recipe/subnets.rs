//! The encoders that LF-DNN, TFN and LMF share, under MMSA's names: audio and vision as their mean over
//! time, through BatchNorm and three layers; text through an LSTM that reads to the end of the padding.

use super::config::{BySense, Config, at_least_one, probability};
use super::cx::Cx;
use super::model::Offered;
use super::recipe::{Output, Reads};
use crate::data::{Modality, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Init, LstmEncoder, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::batched::Transposed;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The optimiser group of all that these models train.
pub(super) const GROUP: &str = "model";

/// Dropout probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropouts {
    /// Before the layers of the audio encoder.
    pub audio: f64,
    /// Before the layers of the vision encoder.
    pub vision: f64,
    /// After the text's LSTM.
    pub text: f64,
}

/// Sizes of the encoders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sizes {
    pub hidden: BySense,
    pub text_out: usize,
    pub dropout: Dropouts,
}

impl Sizes {
    /// Checks ranges.
    pub(super) fn check(&self) -> Result<()> {
        let h = self.hidden;
        for (name, value) in [("text", h.text), ("audio", h.audio), ("vision", h.vision)] {
            at_least_one(&format!("model.hidden.{name}"), value)?;
        }
        at_least_one("model.text_out", self.text_out)?;
        let d = self.dropout;
        for (name, value) in [("text", d.text), ("audio", d.audio), ("vision", d.vision)] {
            probability(&format!("model.dropout.{name}"), value)?;
        }
        Ok(())
    }
}

enum Kind {
    Mean { hidden: usize, dropout: f32 },
    Lstm(LstmEncoder),
}

struct Subnet {
    modality: Modality,
    spec: StreamSpec,
    name: &'static str,
    out: usize,
    kind: Kind,
}

/// The encoders of what the data have: audio, vision, text, in this order.
pub(super) struct Subnets(Vec<Subnet>);

impl Subnets {
    /// # Errors
    /// None of the modalities that are wanted.
    pub(super) fn new(config: &Config, sizes: &Sizes, offered: Offered<'_>) -> Result<Self> {
        let letters = &config.model.modalities;
        let offers = |m: Modality| offered.streams.iter().find(|s| s.modality == m);
        let wanted = [Modality::Audio, Modality::Vision, Modality::Text].into_iter();
        let found = wanted.filter(|m| letters.contains(m.letter()));
        let subnets = found.filter_map(|modality| {
            // Everything up to the longest row is read, whatever a row's own length.
            let spec = StreamSpec { lengths: false, ..*offers(modality)? };
            let (hidden, h, d) = (sizes.hidden, sizes.text_out, sizes.dropout);
            let mean = |hidden, dropout: f64| Kind::Mean { hidden, dropout: dropout as f32 };
            let (name, out, kind) = match modality {
                Modality::Audio => ("audio_subnet", hidden.audio, mean(hidden.audio, d.audio)),
                Modality::Vision => ("video_subnet", hidden.vision, mean(hidden.vision, d.vision)),
                Modality::Text => {
                    let lstm = LstmEncoder {
                        name: "text_subnet".into(),
                        inputs: spec.dim,
                        pitch: spec.dim.next_multiple_of(4),
                        hidden: hidden.text,
                        layers: 1,
                        bidirectional: false,
                        out: h,
                        dropout: d.text as f32,
                        group: GROUP.into(),
                    };
                    ("text_subnet", h, Kind::Lstm(lstm))
                }
            };
            Some(Subnet { modality, spec, name, out, kind })
        });
        let subnets: Vec<Subnet> = subnets.collect();
        if subnets.is_empty() {
            return Err(Error::Config(format!(
                "model.modalities is '{letters}', and the data has none of them"
            )));
        }
        Ok(Subnets(subnets))
    }

    /// Which they are, in order.
    pub(super) fn modalities(&self) -> Vec<Modality> {
        self.0.iter().map(|s| s.modality).collect()
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|s| s.name).collect()
    }

    /// Sizes of their outputs.
    pub(super) fn sizes(&self) -> Vec<usize> {
        self.0.iter().map(|s| s.out).collect()
    }

    pub(super) fn reads(&self) -> Reads {
        Reads { streams: self.0.iter().map(|s| s.spec).collect(), tokens: None }
    }

    pub(super) fn outputs(&self) -> Vec<Output> {
        let output = |s: &Subnet| Output::representation(format!("encoded {}", s.modality), s.out);
        self.0.iter().map(output).collect()
    }

    pub(super) fn params(&self) -> Vec<ParamSpec> {
        self.params_of_each().concat()
    }

    /// The same, encoder by encoder.
    pub(super) fn params_of_each(&self) -> Vec<Vec<ParamSpec>> {
        let own = self.0.iter().map(|subnet| match &subnet.kind {
            Kind::Lstm(lstm) => lstm.specs(),
            Kind::Mean { hidden, .. } => {
                let (name, dim) = (subnet.name, subnet.spec.dim);
                let mut specs = batch_norm_specs(&format!("{name}.norm"), dim, GROUP);
                for (i, inputs) in [dim, *hidden, *hidden].into_iter().enumerate() {
                    let layer = format!("{name}.linear_{}", i + 1);
                    specs.extend(linear_specs(&layer, (inputs, inputs, *hidden), true, GROUP));
                }
                specs
            }
        });
        own.collect()
    }

    /// Records all of them; they are outputs, too.
    pub(super) fn record(&self, cx: &mut Cx<'_>) -> Result<Vec<Var>> {
        (0..self.0.len()).map(|i| self.record_one(cx, i)).collect()
    }

    /// Records the `i`-th of them, which is an output, too.
    pub(super) fn record_one(&self, cx: &mut Cx<'_>, i: usize) -> Result<Var> {
        let subnet = &self.0[i];
        let out = match &subnet.kind {
            Kind::Mean { dropout, .. } => subnet.mean(cx, i, *dropout)?,
            Kind::Lstm(lstm) => {
                let stream = cx.stream(i)?;
                let lengths = cx.whole_lengths(stream)?;
                let train = cx.training();
                lstm.record(cx.tape, cx.params, stream.values, lengths, train)?
            }
        };
        cx.output(&format!("encoded {}", subnet.modality), out)?;
        Ok(out)
    }
}

impl Subnet {
    fn mean(&self, cx: &mut Cx<'_>, i: usize, dropout: f32) -> Result<Var> {
        let stream = cx.stream(i)?;
        let part = vec![1.0 / stream.steps as f32; stream.steps];
        let parts = cx.tape.constant("part of a step", &[1, stream.steps], &part)?;
        let mean = cx.tape.bmm(parts, stream.values, Transposed::Neither)?;
        let mean = cx.tape.reshape(mean, &[cx.batch(), stream.width])?;
        let x = cx.without_padding(stream, mean)?;
        let x = batch_norm(cx, &format!("{}.norm", self.name), x, 1)?;
        let p = cx.dropout(dropout);
        let mut x = if p > 0.0 { cx.tape.dropout(x, p)? } else { x };
        for layer in 1..=3 {
            let name = format!("{}.linear_{layer}", self.name);
            x = linear(cx.tape, cx.params, &name, x, Act::Relu)?;
        }
        Ok(x)
    }
}

/// PyTorch's BatchNorm1d of so many channels, with its running statistics.
pub(super) fn batch_norm_specs(name: &str, channels: usize, group: &str) -> Vec<ParamSpec> {
    let spec =
        |part: &str, init| ParamSpec::new(format!("{name}.{part}"), &[channels], group, init);
    vec![
        spec("weight", Init::Ones),
        spec("bias", Init::Zeros).joined(),
        spec("running_mean", Init::Zeros).frozen(true),
        spec("running_var", Init::Ones).frozen(true).joined(),
    ]
}

/// Records the BatchNorm `name` over the channels of `axis`.
pub(super) fn batch_norm(cx: &mut Cx<'_>, name: &str, x: Var, axis: usize) -> Result<Var> {
    let channels = cx.tape.shape(x)[axis];
    let mut pair = |parts: [&str; 2]| {
        let names = parts.map(|part| format!("{name}.{part}"));
        cx.params.span(cx.tape, &names, &[2, channels])
    };
    let (gb, running) = (pair(["weight", "bias"])?, pair(["running_mean", "running_var"])?);
    let how = BatchNorm { gb: Some(gb), running: Some(running), ..BatchNorm::over(axis) };
    let training = cx.training();
    cx.tape.batch_norm(x, how, training)
}
