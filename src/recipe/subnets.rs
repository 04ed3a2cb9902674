//! The encoders that LF-DNN, TFN and LMF share, under MMSA's names: audio and vision as their mean over
//! time, through BatchNorm and three layers; text through an LSTM that reads to the end of the padding.

use super::config::{ByStream, Config, at_least_one, probability};
use super::cx::Cx;
use super::model::Offered;
use super::recipe::{Output, Reads};
use crate::data::{Modality, StreamSpec};
use crate::error::Result;
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
    /// Before the layers of the encoders of streams of other names.
    #[serde(default)]
    pub other: f64,
}

impl Dropouts {
    /// The same of all encoders.
    pub(super) fn all(p: f64) -> Self {
        Dropouts { audio: p, vision: p, text: p, other: p }
    }

    /// That of a stream.
    fn of(&self, modality: Modality) -> f64 {
        match modality {
            Modality::Text => self.text,
            Modality::Audio => self.audio,
            Modality::Vision => self.vision,
            Modality::Other(_) => self.other,
        }
    }
}

/// Sizes of the encoders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sizes {
    pub hidden: ByStream,
    pub text_out: usize,
    pub dropout: Dropouts,
}

impl Sizes {
    /// Checks ranges.
    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in self.hidden.list() {
            at_least_one(&format!("model.hidden.{name}"), value)?;
        }
        at_least_one("model.text_out", self.text_out)?;
        let d = self.dropout;
        for (name, value) in
            [("text", d.text), ("audio", d.audio), ("vision", d.vision), ("other", d.other)]
        {
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
    name: String,
    out: usize,
    kind: Kind,
}

/// The encoders of what the data have: audio, vision, text, in this order, then others by name.
pub(super) struct Subnets(Vec<Subnet>);

impl Subnets {
    /// # Errors
    /// None of the modalities that are wanted.
    pub(super) fn new(config: &Config, sizes: &Sizes, offered: Offered<'_>) -> Result<Self> {
        let mut streams = offered.whole(config);
        // MMSA's order, in which outputs are concatenated and multiplied.
        streams.sort_by_key(|s| match s.modality {
            Modality::Audio => (0, s.modality),
            Modality::Vision => (1, s.modality),
            Modality::Text => (2, s.modality),
            Modality::Other(_) => (3, s.modality),
        });
        if streams.is_empty() {
            return Err(offered.none_wanted(config));
        }
        let subnets = streams.into_iter().map(|spec| {
            let modality = spec.modality;
            let (hidden, dropout) = (sizes.hidden.of(modality), sizes.dropout.of(modality) as f32);
            let name = match modality {
                Modality::Vision => "video_subnet".into(),
                other => format!("{other}_subnet"),
            };
            if modality != Modality::Text {
                let kind = Kind::Mean { hidden, dropout };
                return Subnet { modality, spec, name, out: hidden, kind };
            }
            let lstm = LstmEncoder {
                name: name.clone(),
                inputs: spec.dim,
                pitch: spec.dim.next_multiple_of(4),
                hidden,
                layers: 1,
                bidirectional: false,
                out: sizes.text_out,
                dropout,
                group: GROUP.into(),
            };
            Subnet { modality, spec, name, out: sizes.text_out, kind: Kind::Lstm(lstm) }
        });
        Ok(Subnets(subnets.collect()))
    }

    /// Which they are, in order.
    pub(super) fn modalities(&self) -> Vec<Modality> {
        self.0.iter().map(|s| s.modality).collect()
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|s| s.name.as_str()).collect()
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
                let (name, dim) = (&subnet.name, subnet.spec.dim);
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

/// What the field's parameters are called for a stream: l, a and v, others by their names.
pub(super) fn field_letter(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "l",
        Modality::Audio => "a",
        Modality::Vision => "v",
        Modality::Other(_) => modality.name(),
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
