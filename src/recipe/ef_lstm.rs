//! EF-LSTM: early fusion, one LSTM over all modalities side by side, as MMSA releases it.
//!
//! ```text
//! x = BatchNorm over steps of [t; a; v]      one scale and shift for each step
//! ŷ = out(drop relu(linear(drop h)))         h: the last state of a stacked LSTM over all steps
//! ```
//!
//! It wants streams of equally many steps, as aligned data have, and reads their padding, too.

use super::blocks::one_encoding;
use super::config::{Config, at_least_one, fail, probability};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Output, Recipe};
use super::subnets::{GROUP, batch_norm, batch_norm_specs};
use crate::data::{Reads, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Group, LstmEncoder, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Hidden size of the LSTM.
    hidden: usize,
    /// Its layers.
    layers: usize,
    /// Between its layers, and before the two linear ones.
    dropout: f64,
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let (hidden, layers, dropout, batch, lr, decay) = match name {
        "mosei" => (256, 2, 0.4, 128, 5e-3, 1e-4),
        "sims" => (32, 3, 0.5, 128, 5e-4, 1e-3),
        _ => (128, 4, 0.5, 32, 1e-3, 5e-3),
    };
    config.as_mmsa(name, batch, [(GROUP, lr, decay)]);
    config.set_model(&Own { hidden, layers, dropout })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let model: Own = config.model_settings()?;
    if !(1..=256).contains(&model.hidden) {
        return fail("model.hidden", "1 to 256");
    }
    at_least_one("model.layers", model.layers)?;
    probability("model.dropout", model.dropout)
}

pub(super) struct EfLstm {
    config: Config,
    streams: Vec<StreamSpec>,
    lstm: LstmEncoder,
    /// Scores of a row.
    outputs: usize,
}

impl EfLstm {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let (model, letters) = (config.model_settings::<Own>()?, &config.model.modalities);
        let streams = offered.whole(config);
        let steps: Vec<usize> = streams.iter().map(|s| s.steps).collect();
        if steps.is_empty() || steps.iter().any(|s| *s != steps[0]) {
            return Err(Error::Config(format!(
                "ef_lstm wants streams of equally many steps (aligned data), and those of '{letters}' \
                 have {steps:?}: choose one by model.modalities, or another model (modalign models)"
            )));
        }
        let inputs = streams.iter().map(|s| s.dim).sum();
        let lstm = LstmEncoder {
            // PyTorch's names are made from `lstm.`, not from MMSA's sub-network.
            name: String::new(),
            inputs,
            pitch: inputs.next_multiple_of(4),
            hidden: model.hidden,
            layers: model.layers,
            bidirectional: false,
            out: model.hidden,
            dropout: model.dropout as f32,
            group: GROUP.into(),
        };
        Ok(EfLstm { config: config.clone(), streams, lstm, outputs: offered.task.outputs() })
    }

    fn dropped(&self, cx: &mut Cx<'_>, x: Var) -> Result<Var> {
        let p = cx.dropout(self.lstm.dropout);
        if p > 0.0 { cx.tape.dropout(x, p) } else { Ok(x) }
    }
}

impl Recipe for EfLstm {
    fn reads(&self) -> Reads {
        Reads { streams: self.streams.clone(), ..Reads::default() }
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let h = self.lstm.hidden;
        let mut specs = batch_norm_specs("norm", self.streams[0].steps, GROUP);
        specs.extend(self.lstm.rnn_specs("lstm"));
        specs.extend(linear_specs("linear", (h, h, h), true, GROUP));
        specs.extend(linear_specs("out", (h, h, self.outputs), true, GROUP));
        specs
    }

    fn groups(&self) -> Vec<Group> {
        vec![self.config.train.adam(GROUP)]
    }

    fn outputs(&self) -> Vec<Output> {
        one_encoding(self.outputs, self.lstm.hidden)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (mut parts, mut first) = (Vec::new(), None);
        for i in 0..self.streams.len() {
            let stream = cx.stream(i)?;
            first.get_or_insert(stream);
            parts.push(cx.without_padding(stream, stream.values)?);
        }
        let first = first.ok_or_else(|| Error::shape("ef_lstm", "nothing to read"))?;
        let x = if parts.len() == 1 { parts[0] } else { cx.tape.concat(&parts)? };
        let x = batch_norm(cx, "norm", x, 1)?;
        // Products of columns in fours have faster kernels. What is added is zero, and so are its weights.
        let (more, steps) = (self.lstm.pitch - self.lstm.inputs, first.steps);
        let x = if more == 0 {
            x
        } else {
            let zeros = vec![0.0; cx.batch() * steps * more];
            let zeros = cx.tape.constant("columns of zeros", &[cx.batch(), steps, more], &zeros)?;
            cx.tape.concat(&[x, zeros])?
        };
        let (lengths, train) = (cx.whole_lengths(first)?, cx.training());
        let input = self.lstm.rnn_input(cx.tape, cx.params, "lstm", (x, lengths), train)?;
        let h = cx.tape.lstms(&[input])?[0].last;
        cx.output("encoded all", h)?;
        let x = self.dropped(cx, h)?;
        let x = linear(cx.tape, cx.params, "linear", x, Act::Relu)?;
        cx.output("feature M", x)?;
        let x = self.dropped(cx, x)?;
        let score = linear(cx.tape, cx.params, "out", x, Act::None)?;
        cx.output("M", score)?;
        if train { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
