//! MFN, arXiv:1802.00927: LSTMs side by side, and a memory that watches their cells, as MMSA releases it.
//!
//! ```text
//! ĉ_t = softmax(att1 [c_{t−1}; c_t]) ∘ [c_{t−1}; c_t]       c: the cells of all LSTMs
//! m_t = σ(gamma1 [ĉ_t; m_{t−1}]) ∘ m_{t−1} + σ(gamma2 [ĉ_t; m_{t−1}]) ∘ tanh(att2 ĉ_t)
//! ŷ = out [h_T; m_T]                                        each network: fc2 drop relu fc1
//! ```
//!
//! It reads padding, too. MMSA hands audio and vision over as their mean over all steps, so that its MFN
//! sees the same at every step: `model.time=mean` is that; otherwise steps are what they are, and all
//! streams want equally many of them.
//!
//! Cells do not depend on the memory, so all that is made of them alone is computed for all steps at
//! once. The LSTMs give their states; with these the gates are known at all steps, and then
//! `c_t = f_t c_{t−1} + u_t` for all t in log₂ T doublings. What is left for the walk from step to step is the
//! memory's own: eight dispatches a step forward and ten backward, three more with dropout. A training
//! step on MOSI is 1,240 dispatches, 1,050 of which are that walk.

use super::config::{ByStream, Config, all_at_least_one, at_least_one, fail, probabilities};
use super::cx::Cx;
use super::goal::Distance;
use super::memory::scan;
use super::model::Offered;
use super::recipe::{Output, Recipe};
use super::subnets::{GROUP, field_letter};
use crate::data::{Modality, Reads, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::{Group, Init, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::ops::batched::Transposed;
use crate::ops::lstm::{LstmInput, LstmWeights};
use crate::tape::Var;
use serde::{Deserialize, Serialize};

/// The model's own settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Own {
    /// Hidden sizes of the LSTMs.
    pub hidden: ByStream,
    /// Size of the memory.
    pub memory: usize,
    /// `sequence`, or `mean`: all but the text are the same at every step, their mean.
    pub time: Time,
    /// Inner sizes of the networks.
    pub inner: Networks<usize>,
    /// Inside the networks.
    pub dropout: Networks<f64>,
}

/// What all but the text are at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Time {
    Sequence,
    Mean,
}

/// Something of each network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Networks<T> {
    /// Attention over cells.
    pub att1: T,
    /// What may be remembered.
    pub att2: T,
    /// How much stays.
    pub gamma1: T,
    /// How much comes in.
    pub gamma2: T,
    /// The prediction.
    pub out: T,
}

impl<T: Copy> Networks<T> {
    pub(super) fn of([att1, att2, gamma1, gamma2, out]: [T; 5]) -> Self {
        Networks { att1, att2, gamma1, gamma2, out }
    }
}

pub(super) const PRESETS: &[&str] = &["mosi", "mosei", "sims"];

/// MMSA's settings.
pub(super) fn preset(name: &str, config: &mut Config) -> Result<()> {
    let ([text, audio, vision], memory, inner, dropout) = match name {
        "mosei" => ([128, 32, 128], 128, [128, 128, 256, 256, 128], [0.2, 0.5, 0.7, 0.0, 0.5]),
        "sims" => ([64, 16, 64], 64, [128, 128, 64, 64, 64], [0.2, 0.0, 0.2, 0.7, 0.7]),
        _ => ([256, 32, 256], 400, [32, 64, 256, 32, 128], [0.2, 0.0, 0.7, 0.5, 0.0]),
    };
    let (batch, lr, decay) = match name {
        "mosei" => (64, 5e-4, 1e-4),
        "sims" => (32, 1e-3, 0.0),
        _ => (128, 2e-3, 0.0),
    };
    config.as_mmsa(name, batch, [(GROUP, lr, decay)]);
    config.set_model(&Own {
        hidden: ByStream { text, audio, vision, other: vision },
        memory,
        time: Time::Sequence,
        inner: Networks::of(inner),
        dropout: Networks::of(dropout),
    })
}

pub(super) fn check(config: &Config) -> Result<()> {
    let model: Own = config.model_settings()?;
    for (name, value) in model.hidden.list() {
        if !(1..=256).contains(&value) {
            return fail(&format!("model.hidden.{name}"), "1 to 256");
        }
    }
    at_least_one("model.memory", model.memory)?;
    all_at_least_one("model.inner", &model.inner)?;
    probabilities("model.dropout", &model.dropout)
}

/// A stream with its LSTM.
pub(super) struct Part {
    pub spec: StreamSpec,
    pub name: String,
    pub hidden: usize,
}

pub(super) struct Mfn {
    pub config: Config,
    pub own: Own,
    pub parts: Vec<Part>,
    /// Scores of a row.
    pub outputs: usize,
}

impl Mfn {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let (own, letters) = (config.model_settings::<Own>()?, &config.model.modalities);
        let parts: Vec<Part> = offered
            .whole(config)
            .into_iter()
            .map(|spec| {
                let name = format!("lstm_{}", field_letter(spec.modality));
                Part { spec, name, hidden: own.hidden.of(spec.modality) }
            })
            .collect();
        let steps: Vec<usize> = parts.iter().map(|p| p.spec.steps).collect();
        let even = own.time == Time::Mean || steps.iter().all(|s| *s == steps[0]);
        if steps.is_empty() || !even {
            return Err(Error::Config(format!(
                "mfn wants streams of equally many steps (aligned data), and those of '{letters}' have \
                 {steps:?}: choose one by model.modalities, or model.time=mean"
            )));
        }
        Ok(Mfn { config: config.clone(), own, parts, outputs: offered.task.outputs() })
    }

    /// Cells of all LSTMs.
    pub(super) fn cells(&self) -> usize {
        self.parts.iter().map(|part| part.hidden).sum()
    }

    /// One of the networks: `fc2 drop relu fc1`.
    pub(super) fn network(
        &self,
        cx: &mut Cx<'_>,
        name: &str,
        dropout: f64,
        x: Var,
        act: Act,
    ) -> Result<Var> {
        let x = linear(cx.tape, cx.params, &format!("{name}_fc1"), x, Act::Relu)?;
        let p = cx.dropout(dropout as f32);
        let x = cx.tape.dropout(x, p)?;
        linear(cx.tape, cx.params, &format!("{name}_fc2"), x, act)
    }

    /// A stream as its LSTM reads it, over `steps` steps.
    fn seen(&self, cx: &mut Cx<'_>, i: usize, steps: usize) -> Result<Var> {
        let stream = cx.stream(i)?;
        if self.own.time == Time::Sequence || self.parts[i].spec.modality == Modality::Text {
            return Ok(stream.values);
        }
        let shares = vec![1.0 / stream.steps as f32; steps * stream.steps];
        let shares = cx.tape.constant("shares", &[steps, stream.steps], &shares)?;
        cx.tape.bmm(shares, stream.values, Transposed::Neither)
    }

    /// The LSTMs: the last states of all, and of all steps the cells, `[batch, steps, cells]`.
    fn recur(&self, cx: &mut Cx<'_>, steps: usize) -> Result<(Vec<Var>, Var)> {
        let (batch, first) = (cx.batch(), cx.stream(0)?);
        let lengths = cx.whole_lengths(first)?;
        let mut inputs = Vec::new();
        for (i, part) in self.parts.iter().enumerate() {
            let x = self.seen(cx, i, steps)?;
            let mut var = |kind: &str| cx.param(&format!("{}.{kind}", part.name));
            let weights = LstmWeights {
                weight_ih: var("weight_ih")?,
                weight_hh: var("weight_hh")?,
                bias_ih: var("bias_ih")?,
                bias_hh: var("bias_hh")?,
            };
            let layers = vec![vec![weights]];
            inputs.push(LstmInput { x, lengths, layers, dropout: 0.0, sequence: true });
        }
        let (mut last, mut keep, mut come) = (Vec::new(), Vec::new(), Vec::new());
        for ((lstm, input), part) in
            cx.tape.lstms(&inputs)?.into_iter().zip(&inputs).zip(&self.parts)
        {
            last.push(lstm.last);
            let (h, w) = (part.hidden, input.layers[0][0]);
            let states = lstm.sequence.ok_or_else(|| Error::shape("mfn", "no states"))?;
            let states = cx.tape.reshape(states, &[batch, steps * h])?;
            let before = cx.tape.shift(states, h)?;
            let before = cx.tape.reshape(before, &[batch, steps, h])?;
            let of_input = cx.tape.linear(input.x, w.weight_ih, Some(w.bias_ih), Act::None)?;
            let of_state = cx.tape.linear(before, w.weight_hh, Some(w.bias_hh), Act::None)?;
            // Gates lie in PyTorch's order: in, forget, cell, out.
            let sum = cx.tape.add(of_input, of_state)?;
            let gates = cx.tape.activate(sum, Act::Sigmoid)?;
            let enters = cx.tape.slice(gates, 0, h)?;
            keep.push(cx.tape.slice(gates, h, h)?);
            let new = cx.tape.slice(sum, 2 * h, h)?;
            let new = cx.tape.activate(new, Act::Tanh)?;
            come.push(cx.tape.mul(enters, new)?);
        }
        let (keep, come) = (cx.tape.concat(&keep)?, cx.tape.concat(&come)?);
        Ok((last, scan(cx, keep, come)?))
    }
}

impl Recipe for Mfn {
    fn reads(&self) -> Reads {
        Reads { streams: self.parts.iter().map(|part| part.spec).collect(), ..Reads::default() }
    }

    fn params(&self, _: bool, _: usize) -> Vec<ParamSpec> {
        let mut specs = Vec::new();
        for Part { spec, name, hidden } in &self.parts {
            let init = Init::Uniform(1.0 / (*hidden as f32).sqrt());
            let mut add = |kind: &str, shape: &[usize], pitch: usize| {
                specs.push(
                    ParamSpec::new(format!("{name}.{kind}"), shape, GROUP, init).padded(pitch),
                );
            };
            let gates = 4 * hidden;
            add("weight_ih", &[gates, spec.dim], spec.dim.next_multiple_of(4));
            add("weight_hh", &[gates, *hidden], *hidden);
            add("bias_ih", &[gates], gates);
            add("bias_hh", &[gates], gates);
        }
        let (cells, memory, inner) = (self.cells(), self.own.memory, self.own.inner);
        let layer = |name: &str, inputs: usize, outputs: usize| {
            linear_specs(name, (inputs, inputs, outputs), true, GROUP)
        };
        for (name, inputs, size, outputs) in [
            ("att1", 2 * cells, inner.att1, 2 * cells),
            ("att2", 2 * cells, inner.att2, memory),
            ("out", cells + memory, inner.out, self.outputs),
        ] {
            specs.extend(layer(&format!("{name}_fc1"), inputs, size));
            specs.extend(layer(&format!("{name}_fc2"), size, outputs));
        }
        // Both gammas side by side, as they are read.
        let wide = 2 * cells + memory;
        let first = [("gamma1_fc1", inner.gamma1), ("gamma2_fc1", inner.gamma2)];
        let second = [("gamma2_fc2", inner.gamma2), ("gamma1_fc2", inner.gamma1)];
        let pairs = [
            first.map(|(name, size)| layer(name, wide, size)),
            second.map(|(name, size)| layer(name, size, memory)),
        ];
        for [one, other] in pairs {
            for (one, other) in one.into_iter().zip(other) {
                // The second layers' weights are read apart: their rows are of other lengths.
                let apart = one.shape.len() == 2 && one.shape[1] != wide;
                specs.extend([one, if apart { other } else { other.joined() }]);
            }
        }
        specs
    }

    fn groups(&self) -> Vec<Group> {
        vec![self.config.train.adam(GROUP)]
    }

    fn outputs(&self) -> Vec<Output> {
        let mut all = vec![Output::score("M", self.outputs)];
        all.extend(self.parts.iter().map(|part| {
            Output::representation(format!("encoded {}", part.spec.modality), part.hidden)
        }));
        all.push(Output::representation("feature M", self.cells() + self.own.memory));
        all
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let steps = self.parts[0].spec.steps;
        let (mut last, cells) = self.recur(cx, steps)?;
        for (part, h) in self.parts.iter().zip(&last) {
            cx.output(&format!("encoded {}", part.spec.modality), *h)?;
        }
        last.push(self.remember(cx, cells, steps)?);
        let feature = cx.tape.concat(&last)?;
        cx.output("feature M", feature)?;
        let score = self.network(cx, "out", self.own.dropout.out, feature, Act::None)?;
        cx.output("M", score)?;
        if cx.training() { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
