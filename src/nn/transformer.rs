//! Blocks of a transformer, with the norm before what a block computes (pre-norm) or behind the residual
//! (post-norm).
//!
//! ```text
//! attention      f(x) = W_o att(W_q x, W_k y, W_v y) + b_o            y another sequence, or x itself
//! two layers     f(x) = W_2 act(W_1 x + b_1) + b_2
//! norm before    x + drop(f(norm x))            norm behind     norm(x + drop(f(x)))
//! ```
//!
//! Heads may be wider together than the sequence. Attention that is to stay within groups of positions of one size
//! needs no mask: each group is a row of the batch, and the weights are shared as they are by all rows.

use super::{Init, ParamSpec, Params, linear, linear_specs};
use crate::error::{Error, Result};
use crate::ops::Act;
use crate::ops::attention::Asking;
use crate::ops::matmul::FeedForward;
use crate::tape::{Tape, Var};

/// A LayerNorm of so many columns, under PyTorch's names.
pub fn norm_specs(name: &str, columns: usize, group: &str) -> Vec<ParamSpec> {
    let spec = |part: &str, init| ParamSpec::new(format!("{name}.{part}"), &[columns], group, init);
    vec![spec("weight", Init::Ones), spec("bias", Init::Zeros).joined()]
}

/// Weight and bias of the LayerNorm `name`, `[2, columns]`.
fn norm_pair(tape: &mut Tape, params: &Params, name: &str, columns: usize) -> Result<Var> {
    let names = ["weight", "bias"].map(|part| format!("{name}.{part}"));
    params.span(tape, &names, &[2, columns])
}

/// Records the LayerNorm `name` over the last axis.
///
/// # Errors
/// Parameters that are not those of [`norm_specs`]; an `eps` that is not above 0.
pub fn norm(tape: &mut Tape, params: &Params, name: &str, x: Var, eps: f32) -> Result<Var> {
    let columns = tape.rows_cols(x).1;
    let both = norm_pair(tape, params, name, columns)?;
    tape.layer_norm(x, both, eps)
}

/// Records two linear layers, `names`, with ReLU or GELU and a dropout between them.
///
/// # Errors
/// Parameters that are not there, sizes that do not fit, another activation.
pub fn feed_forward(
    tape: &mut Tape,
    params: &Params,
    names: [&str; 2],
    x: Var,
    (act, dropout): (Act, f32),
) -> Result<Var> {
    if dropout > 0.0 {
        let inner = linear(tape, params, names[0], x, act)?;
        let inner = tape.dropout(inner, dropout)?;
        return linear(tape, params, names[1], inner, Act::None);
    }
    let mut pair = |name: &str| -> Result<(Var, Var)> {
        let mut var = |kind: &str| params.var(tape, &format!("{name}.{kind}"));
        Ok((var("weight")?, var("bias")?))
    };
    let (first, second) = (pair(names[0])?, pair(names[1])?);
    tape.feed_forward(x, FeedForward { first, second, act })
}

/// Where the norm of a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormAt {
    /// Before what the block computes; the residual is not normed.
    Before,
    /// Behind the sum with the residual.
    Behind,
}

/// What stands around what a block computes.
#[derive(Clone, Debug)]
pub struct Residual {
    /// Prefix of the block's parameters: `layer.0.attention`.
    pub name: String,
    /// Columns of what goes in and comes out.
    pub width: usize,
    /// Where its norm stands.
    pub norm: NormAt,
    /// Of the norm.
    pub eps: f32,
    /// Of what is added to the residual, in training.
    pub dropout: f32,
    /// Name of its optimiser group.
    pub group: String,
}

impl Residual {
    /// As `transformers` calls the norm of a BERT's block; one that stands before has no output's name.
    fn norm_name(&self) -> String {
        match self.norm {
            NormAt::Before => format!("{}.LayerNorm", self.name),
            NormAt::Behind => format!("{}.output.LayerNorm", self.name),
        }
    }

    fn specs(&self) -> Vec<ParamSpec> {
        norm_specs(&self.norm_name(), self.width, &self.group)
    }

    /// Specs of one of its linear layers.
    fn line(&self, name: &str, (inputs, outputs): (usize, usize), bias: bool) -> Vec<ParamSpec> {
        let name = format!("{}.{name}", self.name);
        linear_specs(&name, (inputs, inputs, outputs), bias, &self.group)
    }

    /// What the block computes with.
    fn before(&self, tape: &mut Tape, params: &Params, x: Var) -> Result<Var> {
        match self.norm {
            NormAt::Before => norm(tape, params, &self.norm_name(), x, self.eps),
            NormAt::Behind => Ok(x),
        }
    }

    /// What comes out where `made` was computed of `x`.
    fn behind(
        &self,
        tape: &mut Tape,
        params: &Params,
        (x, made): (Var, Var),
        train: bool,
    ) -> Result<Var> {
        let p = if train { self.dropout } else { 0.0 };
        match self.norm {
            NormAt::Before => {
                let made = if p > 0.0 { tape.dropout(made, p)? } else { made };
                tape.add(x, made)
            }
            NormAt::Behind => {
                let both = norm_pair(tape, params, &self.norm_name(), self.width)?;
                tape.residual_norm(x, made, both, self.eps, p)
            }
        }
    }
}

/// How sequences lie that attention goes over.
#[derive(Clone, Copy, Debug)]
pub enum Sequences {
    /// `[batch, steps, width]`, of each the first so many steps, `[batch]` unsigned; all where nothing is said.
    Padded(Option<Var>),
    /// `[T, width]` without padding between them, as a BERT's tokens lie.
    Packed {
        /// `[T, 4]` unsigned, as [`ops::attention`](crate::ops::attention) has them.
        tokens: Var,
        /// `[batch, 2]` unsigned: first row and length of each.
        spans: Var,
        /// At least as many as the longest sequence has.
        steps: usize,
    },
}

/// A block of attention with several heads.
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    /// Around it.
    pub residual: Residual,
    /// Columns of the other sequence that is asked; `None`: it asks itself.
    pub asks: Option<usize>,
    /// How many heads.
    pub heads: usize,
    /// Columns of each.
    pub head: usize,
    /// Whether queries, keys and values have a bias. What is made of the answers always has one.
    pub bias: bool,
    /// Of the weights of attention, in training.
    pub dropout: f32,
}

const QKV: [&str; 3] = ["query", "key", "value"];

impl AttentionBlock {
    /// Its parameters: `self.query`, `self.key`, `self.value`, `output.dense` and the norm, below its name.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let (around, all) = (&self.residual, self.heads * self.head);
        let widths =
            [around.width, self.asks.unwrap_or(around.width), self.asks.unwrap_or(around.width)];
        let layers: Vec<Vec<ParamSpec>> = QKV
            .into_iter()
            .zip(widths)
            .map(|(part, width)| around.line(&format!("self.{part}"), (width, all), self.bias))
            .collect();
        // Products read those of one sequence as one tensor.
        let alone = |i: usize| i == 0 || (i == 1 && self.asks.is_some());
        let mut specs = Vec::new();
        for kind in 0..1 + usize::from(self.bias) {
            let of = layers.iter().map(|layer| layer[kind].clone()).enumerate();
            specs.extend(of.map(|(i, spec)| if alone(i) { spec } else { spec.joined() }));
        }
        specs.extend(around.line("output.dense", (all, around.width), true));
        specs.extend(around.specs());
        specs
    }

    /// Some of queries, keys and values of `x`, side by side.
    fn project(&self, tape: &mut Tape, params: &Params, of: &[&str], x: Var) -> Result<Var> {
        let (rows, width) = (of.len() * self.heads * self.head, tape.rows_cols(x).1);
        let mut span = |kind: &str, shape: &[usize]| {
            let name = |part: &&str| format!("{}.self.{part}.{kind}", self.residual.name);
            let names: Vec<String> = of.iter().map(name).collect();
            params.span(tape, &names, shape)
        };
        let weight = span("weight", &[rows, width])?;
        let bias = if self.bias { Some(span("bias", &[rows])?) } else { None };
        tape.linear(x, weight, bias, Act::None)
    }

    /// Records it over `x`, which asks itself, or `other [batch, steps, columns]`, of each sequence the first so many
    /// steps. What comes out lies as `x` does.
    ///
    /// # Errors
    /// Another sequence where it is to ask itself, or none; sizes that do not fit; of packed sequences heads that are
    /// no multiple of 4 columns.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        (x, lie): (Var, Sequences),
        other: Option<(Var, Option<Var>)>,
        train: bool,
    ) -> Result<Var> {
        let dropout = if train { self.dropout } else { 0.0 };
        let asking = Asking { heads: self.heads, dropout, ..Asking::default() };
        let from = self.residual.before(tape, params, x)?;
        let read = match (self.asks, other) {
            (None, None) => {
                let qkv = self.project(tape, params, &QKV, from)?;
                match lie {
                    Sequences::Padded(lengths) => {
                        tape.padded_attention(qkv, Asking { lengths, ..asking })?
                    }
                    Sequences::Packed { tokens, .. } => {
                        tape.attention(qkv, tokens, self.heads, dropout)?
                    }
                }
            }
            (Some(_), Some((other, lengths))) => {
                let q = self.project(tape, params, &QKV[..1], from)?;
                let kv = self.project(tape, params, &QKV[1..], other)?;
                let how = Asking { lengths, ..asking };
                match lie {
                    Sequences::Padded(_) => tape.cross_attention(q, kv, how)?,
                    Sequences::Packed { tokens, spans, steps } => {
                        let q = tape.unpack(q, tokens, spans, steps)?;
                        let read = tape.cross_attention(q, kv, how)?;
                        tape.pack(read, tokens, spans)?
                    }
                }
            }
            (asks, _) => {
                let detail = match asks {
                    None => "asks itself, and is given another sequence",
                    Some(_) => "asks another sequence, and is given none",
                };
                return Err(Error::shape(
                    "attention",
                    format!("'{}' {detail}", self.residual.name),
                ));
            }
        };
        let out = format!("{}.output.dense", self.residual.name);
        let made = linear(tape, params, &out, read, Act::None)?;
        self.residual.behind(tape, params, (x, made), train)
    }
}

/// A block of two linear layers.
#[derive(Clone, Debug)]
pub struct FeedForwardBlock {
    /// Around it.
    pub residual: Residual,
    /// Columns between the two.
    pub inner: usize,
    /// Between them: ReLU, or GELU by the error function.
    pub act: Act,
    /// Between them, in training.
    pub dropout: f32,
}

impl FeedForwardBlock {
    /// Its parameters: `intermediate.dense`, `output.dense` and the norm, below its name.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let (around, width) = (&self.residual, self.residual.width);
        let mut specs = around.line("intermediate.dense", (width, self.inner), true);
        specs.extend(around.line("output.dense", (self.inner, width), true));
        specs.extend(around.specs());
        specs
    }

    /// Records it over the last axis of `x`.
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn record(&self, tape: &mut Tape, params: &Params, x: Var, train: bool) -> Result<Var> {
        let from = self.residual.before(tape, params, x)?;
        let names = ["intermediate", "output"].map(|n| format!("{}.{n}.dense", self.residual.name));
        let how = (self.act, if train { self.dropout } else { 0.0 });
        let made = feed_forward(tape, params, [&names[0], &names[1]], from, how)?;
        self.residual.behind(tape, params, (x, made), train)
    }
}
