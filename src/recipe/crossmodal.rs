//! MulT's transformer encoder: pre-norm layers whose queries are of one stream, and keys and values of
//! another or of the same one.
//!
//! ```text
//! x += drop(attention(LN x, LN y))     x += drop(fc2(drop relu(fc1(LN x))))     in the end LN x
//! ```
//!
//! The three projections of attention are one parameter. Where queries are of another stream or of fewer
//! steps than keys, that is stored as two, so that a product reads only what it uses.

use super::cx::Cx;
use super::subnets::GROUP;
use crate::error::{Error, Result};
use crate::nn::transformer::{feed_forward, norm, norm_specs};
use crate::nn::{Init, ParamSpec, linear};
use crate::ops::Act;
use crate::ops::attention::Asking;
use crate::ops::positions::Sinusoid;
use crate::tape::Var;

/// Glorot's uniform initialisation, without gain.
fn glorot(inputs: usize, outputs: usize) -> Init {
    Init::Uniform((6.0 / (inputs + outputs) as f32).sqrt())
}

/// A transformer encoder. Where it attends to another stream all steps come out, where to itself the last.
pub(super) struct Encoder {
    /// Its parameters' first name.
    pub name: String,
    pub width: usize,
    pub heads: usize,
    pub layers: usize,
    /// Whether it attends to itself.
    pub own: bool,
    /// Of attention, of the inner layer, of what is added to a residual.
    pub dropout: [f64; 3],
}

impl Encoder {
    /// Its parameters.
    pub(super) fn specs(&self) -> Vec<ParamSpec> {
        let w = self.width;
        let norm = |at: String| norm_specs(&at, w, GROUP);
        let mut specs = Vec::new();
        for i in 0..self.layers {
            let at = format!("{}.layers.{i}", self.name);
            let packed = |kind: &str, shape: &[usize], init| {
                ParamSpec::new(format!("{at}.self_attn.in_proj_{kind}"), shape, GROUP, init)
            };
            let weight = packed("weight", &[3 * w, w], glorot(w, 3 * w));
            let bias = packed("bias", &[3 * w], Init::Zeros);
            // A product can read what begins where a binding may: the queries' rows apart.
            if self.asks_apart(i) {
                specs.extend(weight.split(w));
                specs.extend(bias.split(w));
            } else {
                specs.extend([weight, bias]);
            }
            for (layer, inputs, outputs) in
                [("self_attn.out_proj", w, w), ("fc1", w, 4 * w), ("fc2", 4 * w, w)]
            {
                let spec = |kind: &str, shape: &[usize], init| {
                    ParamSpec::new(format!("{at}.{layer}.{kind}"), shape, GROUP, init)
                };
                specs.push(spec("weight", &[outputs, inputs], glorot(inputs, outputs)));
                specs.push(spec("bias", &[outputs], Init::Zeros));
            }
            specs.extend([0, 1].into_iter().flat_map(|n| norm(format!("{at}.layer_norms.{n}"))));
        }
        specs.extend(norm(format!("{}.layer_norm", self.name)));
        specs
    }

    /// Whether a layer computes its queries apart from keys and values.
    fn asks_apart(&self, layer: usize) -> bool {
        !self.own || layer + 1 == self.layers
    }

    fn norm(&self, cx: &mut Cx<'_>, at: &str, x: Var) -> Result<Var> {
        norm(cx.tape, cx.params, &format!("{}.{at}", self.name), x, 1e-5)
    }

    /// One of the packed projections: `part` is what a parameter's name has behind it.
    fn project(&self, cx: &mut Cx<'_>, at: &str, part: &str, x: Var) -> Result<Var> {
        let mut var = |kind: &str| {
            cx.params.var(cx.tape, &format!("{}.{at}.self_attn.in_proj_{kind}{part}", self.name))
        };
        let (weight, bias) = (var("weight")?, var("bias")?);
        cx.tape.linear(x, weight, Some(bias), Act::None)
    }

    /// Queries of `x [batch, t, width]`, keys and values of `known`, or of `x` itself.
    pub(super) fn record(&self, cx: &mut Cx<'_>, mut x: Var, known: Option<Var>) -> Result<Var> {
        let [attention, inner, residual] = self.dropout.map(|p| cx.dropout(p as f32));
        let asking = Asking { heads: self.heads, dropout: attention, ..Asking::default() };
        for i in 0..self.layers {
            let at = format!("layers.{i}");
            let asked = self.norm(cx, &format!("{at}.layer_norms.0"), x)?;
            let context = if self.asks_apart(i) {
                let (asked, seen, ahead) = match known {
                    Some(known) => {
                        let seen = self.norm(cx, &format!("{at}.layer_norms.0"), known)?;
                        let steps = [x, seen].map(|v| cx.tape.shape(v)[1]);
                        (asked, seen, Some(steps[0].abs_diff(steps[1])))
                    }
                    None => {
                        x = last_step(cx, x)?;
                        (last_step(cx, asked)?, asked, None)
                    }
                };
                let q = self.project(cx, &at, "[0..]", asked)?;
                let kv = self.project(cx, &at, &format!("[{}..]", self.width), seen)?;
                cx.tape.cross_attention(q, kv, Asking { ahead, ..asking })?
            } else {
                let qkv = self.project(cx, &at, "", asked)?;
                cx.tape.padded_attention(qkv, Asking { ahead: Some(0), ..asking })?
            };
            let name = |layer: &str| format!("{}.{at}.{layer}", self.name);
            let out = linear(cx.tape, cx.params, &name("self_attn.out_proj"), context, Act::None)?;
            let out = cx.tape.dropout(out, residual)?;
            x = cx.tape.add(x, out)?;
            let y = self.norm(cx, &format!("{at}.layer_norms.1"), x)?;
            let two = [&*name("fc1"), &name("fc2")];
            let y = feed_forward(cx.tape, cx.params, two, y, (Act::Relu, inner))?;
            let y = cx.tape.dropout(y, residual)?;
            x = cx.tape.add(x, y)?;
        }
        self.norm(cx, "layer_norm", x)
    }
}

/// A stream as encoders read it, before dropout.
pub(super) fn placed(cx: &mut Cx<'_>, x: Var, positions: bool) -> Result<Var> {
    let scale = (cx.tape.rows_cols(x).1 as f32).sqrt();
    match positions {
        true => cx.tape.sinusoid(x, Sinusoid::HalvesPadded, scale),
        false => cx.tape.scale(x, scale),
    }
}

/// `[batch, 1, d]`: the last step of `x [batch, t, d]`.
fn last_step(cx: &mut Cx<'_>, x: Var) -> Result<Var> {
    let (batch, steps, width) = match *cx.tape.shape(x) {
        [batch, steps, width] => (batch, steps, width),
        ref shape => return Err(Error::shape("last_step", format!("{shape:?} has no steps"))),
    };
    let rows = cx.tape.reshape(x, &[batch, steps * width])?;
    let last = cx.tape.slice(rows, (steps - 1) * width, width)?;
    cx.tape.reshape(last, &[batch, 1, width])
}
