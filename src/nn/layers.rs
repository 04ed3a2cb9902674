//! Layers by name: what parameters they need, and how they are recorded.

use super::{Init, ParamSpec, Params};
use crate::error::Result;
use crate::ops::Act;
use crate::ops::heads::{HeadVars, Heads};
use crate::ops::lstm::{LstmInput, LstmWeights};
use crate::tape::{Tape, Var};

/// Parameters of a linear layer `inputs → outputs` under PyTorch's names and default
/// initialisation; `pitch` is the stored width of its input.
pub fn linear_specs(
    name: &str,
    (inputs, pitch, outputs): (usize, usize, usize),
    bias: bool,
    group: &str,
) -> Vec<ParamSpec> {
    let init = Init::Uniform(1.0 / (inputs as f32).sqrt());
    let weight = ParamSpec::new(format!("{name}.weight"), &[outputs, inputs], group, init);
    let mut specs = vec![weight.padded(pitch)];
    if bias {
        specs.push(ParamSpec::new(format!("{name}.bias"), &[outputs], group, init));
    }
    specs
}

/// Records the linear layer `name`.
pub fn linear(tape: &mut Tape, params: &Params, name: &str, x: Var, act: Act) -> Result<Var> {
    let weight = params.var(tape, &format!("{name}.weight"))?;
    let bias = format!("{name}.bias");
    let bias = if params.has(&bias) { Some(params.var(tape, &bias)?) } else { None };
    tape.linear(x, weight, bias, act)
}

/// MMSA's sub-network for audio and vision: an LSTM, its last true state, dropout, a linear
/// layer without activation.
#[derive(Clone, Debug)]
pub struct LstmEncoder {
    /// Prefix of the parameters: `audio_model`.
    pub name: String,
    /// True width of the input.
    pub inputs: usize,
    /// Stored width of the input.
    pub pitch: usize,
    /// Hidden size.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Whether it reads both ways.
    pub bidirectional: bool,
    /// Output size.
    pub out: usize,
    /// Between layers, and after the last state.
    pub dropout: f32,
    /// Name of its optimiser group.
    pub group: String,
}

impl LstmEncoder {
    fn suffixes(&self) -> &'static [&'static str] {
        if self.bidirectional { &["", "_reverse"] } else { &[""] }
    }

    /// Its parameters.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let across = self.suffixes().len() * self.hidden;
        let mut specs = self.rnn_specs(&format!("{}.rnn", self.name));
        let name = format!("{}.linear_1", self.name);
        specs.extend(linear_specs(&name, (across, across, self.out), true, &self.group));
        specs
    }

    /// The parameters of its LSTM alone, under the name `rnn`.
    pub fn rnn_specs(&self, rnn: &str) -> Vec<ParamSpec> {
        let init = Init::Uniform(1.0 / (self.hidden as f32).sqrt());
        let gates = 4 * self.hidden;
        let across = self.suffixes().len() * self.hidden;
        let mut specs = Vec::new();
        for layer in 0..self.layers {
            let (inputs, pitch) =
                if layer == 0 { (self.inputs, self.pitch) } else { (across, across) };
            for suffix in self.suffixes() {
                let mut add = |kind: &str, shape: &[usize], pitch: usize| {
                    let name = format!("{rnn}.{kind}_l{layer}{suffix}");
                    specs.push(ParamSpec::new(name, shape, &self.group, init).padded(pitch));
                };
                add("weight_ih", &[gates, inputs], pitch);
                add("weight_hh", &[gates, self.hidden], self.hidden);
                add("bias_ih", &[gates], gates);
                add("bias_hh", &[gates], gates);
            }
        }
        specs
    }

    /// Its LSTM over `x [batch, steps, pitch]` with `lengths [batch]`, to be recorded by
    /// [`Tape::lstms`] with those of other encoders.
    pub fn input(
        &self,
        tape: &mut Tape,
        params: &Params,
        x: Var,
        lengths: Var,
        train: bool,
    ) -> Result<LstmInput> {
        self.rnn_input(tape, params, &format!("{}.rnn", self.name), (x, lengths), train)
    }

    /// The same of an LSTM whose parameters are under the name `rnn`.
    pub fn rnn_input(
        &self,
        tape: &mut Tape,
        params: &Params,
        rnn: &str,
        (x, lengths): (Var, Var),
        train: bool,
    ) -> Result<LstmInput> {
        let mut layers = Vec::new();
        for layer in 0..self.layers {
            let mut directions = Vec::new();
            for suffix in self.suffixes() {
                let mut var =
                    |kind: &str| params.var(tape, &format!("{rnn}.{kind}_l{layer}{suffix}"));
                directions.push(LstmWeights {
                    weight_ih: var("weight_ih")?,
                    weight_hh: var("weight_hh")?,
                    bias_ih: var("bias_ih")?,
                    bias_hh: var("bias_hh")?,
                });
            }
            layers.push(directions);
        }
        let dropout = if train { self.dropout } else { 0.0 };
        Ok(LstmInput { x, lengths, layers, dropout, sequence: false })
    }

    /// What follows its LSTM, from the last state to `[batch, out]`.
    pub fn output(&self, tape: &mut Tape, params: &Params, last: Var, train: bool) -> Result<Var> {
        let drop = train && self.dropout > 0.0;
        let state = if drop { tape.dropout(last, self.dropout)? } else { last };
        linear(tape, params, &format!("{}.linear_1", self.name), state, Act::None)
    }

    /// Records the whole encoder: `x [batch, steps, pitch]`, `lengths [batch]` → `[batch, out]`.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        x: Var,
        lengths: Var,
        train: bool,
    ) -> Result<Var> {
        let input = self.input(tape, params, x, lengths, train)?;
        let lstms = tape.lstms(&[input])?;
        self.output(tape, params, lstms[0].last, train)
    }
}

/// Widest input of a head that [`Tape::heads`] takes: its workgroups own samples, and of a batch there are too few of
/// them to read a large weight quickly.
const WIDEST: usize = 4096;

/// A head: dropout, linear + ReLU (the feature F*), linear + ReLU, linear to the scores.
#[derive(Clone, Debug)]
pub struct Head {
    /// `post_fusion`, `post_text`, `post_audio`, `post_video`.
    pub name: String,
    /// True and stored width of the input.
    pub inputs: (usize, usize),
    /// Size of the feature.
    pub size: usize,
    /// Scores that it gives a row.
    pub outputs: usize,
    /// Before the first layer.
    pub dropout: f32,
    /// Name of its optimiser group.
    pub group: String,
}

impl Head {
    /// Its parameters.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let layer = |i: usize| format!("{}_layer_{i}", self.name);
        let (inputs, pitch) = self.inputs;
        let n = self.size;
        let mut specs = linear_specs(&layer(1), (inputs, pitch, n), true, &self.group);
        specs.extend(linear_specs(&layer(2), (n, n, n), true, &self.group));
        specs.extend(linear_specs(&layer(3), (n, n, self.outputs), true, &self.group));
        specs
    }

    /// Records it over `parts` side by side, by [`Tape::heads`] where it gives a single score and its input is no wider
    /// than that is made for.
    ///
    /// # Errors
    /// Parameters that `params` has not; parts of other sizes.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        parts: &[Var],
        train: bool,
    ) -> Result<Heads> {
        if self.outputs == 1 && self.inputs.1 <= WIDEST {
            let head = self.vars(tape, params, train)?;
            return tape.heads(parts, &[head]);
        }
        let x = if parts.len() == 1 { parts[0] } else { tape.concat(parts)? };
        let x = if train && self.dropout > 0.0 { tape.dropout(x, self.dropout)? } else { x };
        let mut layer = |i: usize, x: Var, act: Act| {
            linear(tape, params, &format!("{}_layer_{i}", self.name), x, act)
        };
        let features = layer(1, x, Act::Relu)?;
        let x = layer(2, features, Act::Relu)?;
        Ok(Heads { scores: layer(3, x, Act::None)?, features })
    }

    /// Its parameters as tensors, for [`Tape::heads`]; without dropout unless it is to `train`.
    ///
    /// # Errors
    /// Parameters that `params` has not.
    pub fn vars(&self, tape: &mut Tape, params: &Params, train: bool) -> Result<HeadVars> {
        let mut layer = |i: usize| -> Result<(Var, Var)> {
            let mut var = |kind: &str| params.var(tape, &format!("{}_layer_{i}.{kind}", self.name));
            Ok((var("weight")?, var("bias")?))
        };
        let layers = [layer(1)?, layer(2)?, layer(3)?];
        Ok(HeadVars { layers, dropout: if train { self.dropout } else { 0.0 } })
    }
}
