//! The encoders that LF-DNN, TFN and LMF share, under MMSA's names: audio and vision as their mean over
//! time, through BatchNorm and three layers; text through an LSTM that reads to the end of the padding.

use super::config::{
    ByStream, Config, all_at_least_one, at_least_one, not_negative, probabilities, probability,
};
use super::cx::Cx;
use super::model::Offered;
use super::recipe::{Column, Columns, Counts, Output};
use crate::data::{Modality, Reads, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::token_grid::shares_of_steps;
use crate::nn::{Head, Init, LstmEncoder, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::batched::Transposed;
use crate::tape::Var;
use serde::{Deserialize, Serialize};
use toml::Value;

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

/// Heads that learn what people said of each modality alone, as MMSA's multi-task models have them. MMSA's own
/// sizes and weights of these are not known here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Size of a head's layers.
    pub size: usize,
    /// Before them.
    pub dropout: f64,
    /// What the loss of each counts beside that of the whole.
    pub weight: f64,
}

impl Parts {
    /// Puts them into the settings of a model that has none.
    pub(super) fn add(config: &mut Config) {
        let parts = [
            ("size", Value::Integer(32)),
            ("dropout", Value::Float(0.0)),
            ("weight", Value::Float(1.0)),
        ];
        let parts = parts.map(|(key, value)| (key.to_string(), value)).into_iter().collect();
        config.model.own.insert("parts".into(), Value::Table(parts));
    }
}

/// Over which steps features are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mean {
    /// All that the file has room for, as MMSA divides: a short row's mean is nearer to zero.
    #[default]
    Padding,
    /// Those that a row has.
    Valid,
}

/// The encoders' settings, among those of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Encoders {
    /// Hidden sizes; those of all but the text are those of their outputs, too.
    pub hidden: ByStream,
    /// Size of the text encoder's output.
    pub text_out: usize,
    /// Dropout.
    pub dropout: Dropouts,
    /// `padding` as MMSA has it, or `valid`: over which steps all but the text is averaged.
    #[serde(default)]
    pub mean: Mean,
    /// Read the deviation over those steps beside the mean; MMSA's models do not.
    #[serde(default)]
    pub deviation: bool,
    /// Heads of the single modalities, in the multi-task model of a kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

impl Encoders {
    /// Encoders as MMSA has them.
    pub(super) fn new(hidden: ByStream, text_out: usize, dropout: Dropouts) -> Self {
        Encoders { hidden, text_out, dropout, mean: Mean::Padding, deviation: false, parts: None }
    }

    /// Checks ranges.
    pub(super) fn check(&self) -> Result<()> {
        all_at_least_one("model.hidden", &self.hidden)?;
        at_least_one("model.text_out", self.text_out)?;
        probabilities("model.dropout", &self.dropout)?;
        if let Some(parts) = &self.parts {
            at_least_one("model.parts.size", parts.size)?;
            probability("model.parts.dropout", parts.dropout)?;
            not_negative("model.parts.weight", parts.weight)?;
        }
        Ok(())
    }
}

/// A variance below this is taken for this.
const LEAST_VARIANCE: f32 = 1e-8;

enum Kind {
    Mean { hidden: usize, dropout: f32, deviation: bool },
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
pub(super) struct Subnets {
    all: Vec<Subnet>,
    /// Heads of their own, and what the loss of each counts.
    heads: Option<(Vec<Head>, f64)>,
}

impl Subnets {
    /// # Errors
    /// None of the modalities that are wanted.
    pub(super) fn new(config: &Config, sizes: &Encoders, offered: Offered<'_>) -> Result<Self> {
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
        let own_lengths = |m: Modality| offered.wanted(config, m).is_some_and(|s| s.lengths);
        let subnets = streams.into_iter().map(|spec| {
            let modality = spec.modality;
            let valid = sizes.mean == Mean::Valid && modality != Modality::Text;
            let spec = StreamSpec { lengths: valid && own_lengths(modality), ..spec };
            let (hidden, dropout) = (sizes.hidden.of(modality), sizes.dropout.of(modality) as f32);
            let name = match modality {
                Modality::Vision => "video_subnet".into(),
                other => format!("{other}_subnet"),
            };
            if modality != Modality::Text {
                // One step has none.
                let deviation = sizes.deviation && spec.steps > 1;
                let kind = Kind::Mean { hidden, dropout, deviation };
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
        let all: Vec<Subnet> = subnets.collect();
        let Some(parts) = sizes.parts else { return Ok(Subnets { all, heads: None }) };
        if !offered.task.one_number() {
            return Err(Error::Config(format!(
                "{} learns one number a row and what people said of each modality alone, and the data has \
                 {}: use another model (modalign models), or choose other targets by task.kind",
                config.model.name,
                offered.task.about()
            )));
        }
        let head = |subnet: &Subnet| Head {
            name: subnet.name.replace("_subnet", "").replacen("", "post_", 1),
            inputs: (subnet.out, subnet.out),
            size: parts.size,
            outputs: 1,
            dropout: parts.dropout as f32,
            group: GROUP.into(),
        };
        let heads = all.iter().map(head).collect();
        Ok(Subnets { all, heads: Some((heads, parts.weight)) })
    }

    /// Which they are, in order.
    pub(super) fn modalities(&self) -> Vec<Modality> {
        self.all.iter().map(|s| s.modality).collect()
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<&str> {
        self.all.iter().map(|s| s.name.as_str()).collect()
    }

    /// Sizes of their outputs.
    pub(super) fn sizes(&self) -> Vec<usize> {
        self.all.iter().map(|s| s.out).collect()
    }

    /// The numbers of the log: the loss of the whole, and of each part that has a head.
    pub(super) fn columns(&self) -> Columns {
        let mut columns = Columns::task().list().to_vec();
        let weight = self.heads.as_ref().map(|(_, weight)| *weight);
        for (subnet, weight) in self.all.iter().zip(weight.into_iter().cycle()) {
            let what = format!("the loss of {} alone", subnet.modality);
            let counts = Counts::Times(weight);
            columns.push(Column { name: subnet.modality.short().into(), what, counts });
        }
        Columns::new(columns)
    }

    pub(super) fn reads(&self) -> Reads {
        let streams = self.all.iter().map(|s| s.spec).collect();
        let alone = self.all.iter().filter(|_| self.heads.is_some()).map(|s| s.modality);
        Reads { streams, unimodal: alone.collect(), ..Reads::default() }
    }

    /// What is left of a row: `scores` of the whole, those of the parts, and on the way to them the
    /// encodings and a fused feature of `size`.
    pub(super) fn outputs(&self, scores: usize, size: usize) -> Vec<Output> {
        let mut all = vec![Output::score("M", scores)];
        let parts = self.all.iter().filter(|_| self.heads.is_some());
        all.extend(parts.map(|s| Output::score(s.modality.short(), 1)));
        all.extend(self.encoded());
        all.push(Output::representation("feature M", size));
        all
    }

    /// The encodings as outputs.
    pub(super) fn encoded(&self) -> impl Iterator<Item = Output> {
        let output = |s: &Subnet| Output::representation(format!("encoded {}", s.modality), s.out);
        self.all.iter().map(output)
    }

    pub(super) fn params(&self) -> Vec<ParamSpec> {
        let heads = self.heads.iter().flat_map(|(heads, _)| heads);
        self.params_of_each().into_iter().flatten().chain(heads.flat_map(Head::specs)).collect()
    }

    /// Those of the encoders alone, one by one.
    pub(super) fn params_of_each(&self) -> Vec<Vec<ParamSpec>> {
        let own = self.all.iter().map(|subnet| match &subnet.kind {
            Kind::Lstm(lstm) => lstm.specs(),
            Kind::Mean { hidden, deviation, .. } => {
                let (name, dim) = (&subnet.name, subnet.spec.dim);
                let dim = if *deviation { 2 * dim } else { dim };
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
        (0..self.all.len()).map(|i| self.record_one(cx, i)).collect()
    }

    /// Records the `i`-th of them, which is an output, too, and its own head where it has one.
    pub(super) fn record_one(&self, cx: &mut Cx<'_>, i: usize) -> Result<Var> {
        let subnet = &self.all[i];
        let train = cx.training();
        let out = match &subnet.kind {
            Kind::Mean { dropout, deviation, .. } => subnet.mean(cx, i, *dropout, *deviation)?,
            Kind::Lstm(lstm) => {
                let stream = cx.stream(i)?;
                let lengths = cx.whole_lengths(stream)?;
                lstm.record(cx.tape, cx.params, stream.values, lengths, train)?
            }
        };
        cx.output(&format!("encoded {}", subnet.modality), out)?;
        if let Some(head) = self.heads.as_ref().map(|(heads, _)| &heads[i]) {
            let score = head.record(cx.tape, cx.params, &[out], train)?.scores;
            cx.output(subnet.modality.short(), score)?;
            if train {
                cx.unimodal_loss(subnet.modality, score)?;
            }
        }
        Ok(out)
    }
}

impl Subnet {
    /// The encoder of the mean over time, and of the deviation from it where that is wanted.
    fn mean(&self, cx: &mut Cx<'_>, i: usize, dropout: f32, deviation: bool) -> Result<Var> {
        let stream = cx.stream(i)?;
        let size = (cx.batch(), stream.steps);
        let parts = shares_of_steps(cx.tape, size, stream.lengths)?;
        let averaged = |cx: &mut Cx<'_>, x: Var| {
            let mean = cx.tape.bmm(parts, x, Transposed::Neither)?;
            let mean = cx.tape.reshape(mean, &[cx.batch(), stream.width])?;
            cx.without_padding(stream, mean)
        };
        let mut x = averaged(cx, stream.values)?;
        if deviation {
            let squares = cx.tape.square(stream.values)?;
            let (squares, of_mean) = (averaged(cx, squares)?, cx.tape.square(x)?);
            let variance = cx.tape.sub(squares, of_mean)?;
            // Rounding may leave less than nothing, of which there is no root.
            let variance = cx.tape.clamp(variance, LEAST_VARIANCE, f32::MAX)?;
            let deviation = cx.tape.sqrt(variance)?;
            x = cx.tape.concat(&[x, deviation])?;
        }
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
