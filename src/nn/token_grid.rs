//! Sequences of any kind and length brought to one grid of tokens; arXiv:2306.12795.
//!
//! ```text
//! X = embed(x)                                         [batch, steps, width]; 0 behind a row's end
//! h = layers(norm(linear(norm X)) + positions)         pre-norm layers of a transformer
//! O = softmax over the grid of assign(norm h)          [batch, steps, places]
//! Y = Oᵀ X                                             [batch, places, width]
//! E = norm(linear(norm Y))
//! ```

use super::transformer::{
    AttentionBlock, FeedForwardBlock, NormAt, Residual, Sequences, norm, norm_specs,
};
use super::{Init, ParamSpec, Params, linear, linear_specs};
use crate::error::Result;
use crate::ops::Act;
use crate::ops::batched::Transposed;
use crate::ops::masked::Keep;
use crate::tape::{Tape, Var};

/// PyTorch's default of a layer norm.
const EPS: f32 = 1e-5;

/// Layers of a transformer one behind the other, each norm before what it is for, without dropout.
#[derive(Clone, Debug)]
pub struct Layers {
    /// Prefix of their parameters.
    pub name: String,
    /// Columns of a step.
    pub width: usize,
    /// Heads, and columns of each.
    pub heads: (usize, usize),
    /// Columns within the two linear layers.
    pub inner: usize,
    /// How many.
    pub layers: usize,
    /// Name of their optimiser group.
    pub group: String,
}

impl Layers {
    fn blocks(&self, layer: usize) -> (AttentionBlock, FeedForwardBlock) {
        let around = |part: &str| Residual {
            name: format!("{}.layer.{layer}.{part}", self.name),
            width: self.width,
            norm: NormAt::Before,
            eps: EPS,
            dropout: 0.0,
            group: self.group.clone(),
        };
        let attention = AttentionBlock {
            residual: around("attention"),
            asks: None,
            heads: self.heads.0,
            head: self.heads.1,
            bias: false,
            dropout: 0.0,
        };
        let residual = around("feed_forward");
        let feed = FeedForwardBlock { residual, inner: self.inner, act: Act::Gelu, dropout: 0.0 };
        (attention, feed)
    }

    /// Their parameters.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let blocks = (0..self.layers).map(|layer| self.blocks(layer));
        blocks.flat_map(|(attention, feed)| [attention.specs(), feed.specs()].concat()).collect()
    }

    /// Records them over `x [batch, steps, width]`, of each row the first so many steps.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        mut x: Var,
        lengths: Option<Var>,
    ) -> Result<Var> {
        for layer in 0..self.layers {
            let (attention, feed) = self.blocks(layer);
            x = attention.record(tape, params, (x, Sequences::Padded(lengths)), None, false)?;
            x = feed.record(tape, params, x, false)?;
        }
        Ok(x)
    }
}

/// A stream as a transformer reads it: embedded, with a table of positions, through layers.
#[derive(Clone, Debug)]
pub struct TokenEncoder {
    /// Its layers, whose name is its own.
    pub layers: Layers,
    /// True and stored columns of the stream.
    pub inputs: (usize, usize),
    /// Steps of the longest row.
    pub steps: usize,
}

impl TokenEncoder {
    fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.layers.name)
    }

    /// Its parameters.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let Layers { width, group, .. } = &self.layers;
        let (inputs, pitch) = self.inputs;
        let mut specs = linear_specs(&self.named("embed"), (inputs, pitch, *width), false, group);
        specs.extend(norm_specs(&self.named("norm_in"), *width, group));
        specs.extend(linear_specs(&self.named("linear"), (*width, *width, *width), true, group));
        specs.extend(norm_specs(&self.named("norm"), *width, group));
        let place = &[self.steps, *width];
        specs.push(ParamSpec::new(self.named("position"), place, group, Init::Normal(1.0)));
        specs.extend(self.layers.specs());
        specs.extend(norm_specs(&self.named("norm_out"), *width, group));
        specs
    }

    /// Records it over `x [batch, steps, columns]`, zero behind each row's end: what is embedded, 0 there, too,
    /// and what the layers make of it, both `[batch, steps, width]`.
    ///
    /// # Errors
    /// Sizes that do not fit; more steps than it has positions for.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        x: Var,
        lengths: Option<Var>,
    ) -> Result<(Var, Var)> {
        let (steps, width) = (tape.shape(x)[1], self.layers.width);
        let embedded = linear(tape, params, &self.named("embed"), x, Act::None)?;
        let h = norm(tape, params, &self.named("norm_in"), embedded, EPS)?;
        let h = linear(tape, params, &self.named("linear"), h, Act::None)?;
        let h = norm(tape, params, &self.named("norm"), h, EPS)?;
        let table = params.var(tape, &self.named("position"))?;
        let table = tape.reshape(table, &[1, self.steps * width])?;
        let own = if steps == self.steps { table } else { tape.slice(table, 0, steps * width)? };
        let own = tape.reshape(own, &[steps, width])?;
        let h = tape.add(h, own)?;
        let h = self.layers.record(tape, params, h, lengths)?;
        Ok((embedded, norm(tape, params, &self.named("norm_out"), h, EPS)?))
    }
}

/// A stream as a grid of tokens that all streams have in common.
#[derive(Clone, Debug)]
pub struct TokenGrid {
    /// What reads the stream.
    pub encoder: TokenEncoder,
    /// Places of the grid.
    pub places: usize,
}

impl TokenGrid {
    /// Its parameters.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let Layers { width, group, .. } = &self.encoder.layers;
        let named = |part: &str| self.encoder.named(part);
        let mut specs = self.encoder.specs();
        specs.extend(linear_specs(&named("assign"), (*width, *width, self.places), true, group));
        specs.extend(norm_specs(&named("moved.norm_in"), *width, group));
        specs.extend(linear_specs(&named("moved.linear"), (*width, *width, *width), true, group));
        specs.extend(norm_specs(&named("moved.norm"), *width, group));
        specs
    }

    /// Records it over `x [batch, steps, columns]`, zero behind each row's end: `[batch, places, width]`.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        x: Var,
        lengths: Option<Var>,
    ) -> Result<Var> {
        let named = |part: &str| self.encoder.named(part);
        let (embedded, h) = self.encoder.record(tape, params, x, lengths)?;
        let scores = linear(tape, params, &named("assign"), h, Act::None)?;
        let moved = moved(tape, scores, embedded)?;
        let moved = norm(tape, params, &named("moved.norm_in"), moved, EPS)?;
        let moved = linear(tape, params, &named("moved.linear"), moved, Act::None)?;
        norm(tape, params, &named("moved.norm"), moved, EPS)
    }
}

/// Oᵀ X, `[batch, places, width]`, with O the softmax of `scores [batch, steps, places]` over the places and
/// `x [batch, steps, width]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn moved(tape: &mut Tape, scores: Var, x: Var) -> Result<Var> {
    let share = tape.softmax(scores)?;
    tape.bmm(share, x, Transposed::First)
}

/// What each step is of its row's mean over those that count, `[1, steps]` where all do, or `[batch, 1, steps]`.
///
/// # Errors
/// Lengths of another batch.
pub fn shares_of_steps(
    tape: &mut Tape,
    (batch, steps): (usize, usize),
    lengths: Option<Var>,
) -> Result<Var> {
    let Some(lengths) = lengths else {
        return tape.constant("part of a step", &[1, steps], &vec![1.0 / steps as f32; steps]);
    };
    let even = tape.constant("even", &[batch, 1, steps], &vec![0.0; batch * steps])?;
    tape.masked_softmax(even, Keep::Lengths(lengths))
}

/// `[batch, width]`: the mean of `x [batch, steps, width]` over each row's own steps.
///
/// # Errors
/// Lengths of another batch.
pub fn mean_over_steps(tape: &mut Tape, x: Var, lengths: Option<Var>) -> Result<Var> {
    let (batch, steps, width) = (tape.shape(x)[0], tape.shape(x)[1], tape.shape(x)[2]);
    let shares = shares_of_steps(tape, (batch, steps), lengths)?;
    let mean = tape.bmm(shares, x, Transposed::Neither)?;
    tape.reshape(mean, &[batch, width])
}
