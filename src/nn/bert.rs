//! BERT (arXiv:1810.04805) and its kin as `transformers` computes them: word, position and segment
//! embeddings, then post-norm encoder layers. Batches are packed: a sentence's tokens follow one another, and
//! nothing is computed for the room behind a short one.
//!
//! A layer is seven dispatches forward and fourteen backward:
//!
//! ```text
//! q k v = x Wᵀ + b     c = attention(q, k, v)     h = norm(x + dropout(c W_oᵀ + b_o))
//! y = norm(h + dropout(gelu(h W_1ᵀ + b_1) W_2ᵀ + b_2))
//! ```
//!
//! MPNet adds to the scores of attention, in every layer alike, a learned number by how far apart two
//! tokens are (T5's buckets, arXiv:1910.10683).
//!
//! Where only position 0 of the last layer is read, that layer computes its keys and values for all
//! tokens and the rest for position 0 alone.

use super::{BertShape, Init, ParamSpec, Params};
use crate::error::{Error, Result};
use crate::ops::Act;
use crate::ops::embed::{Embed, TokenLayout, WordPart};
use crate::ops::matmul::FeedForward;
use crate::plan::SpaceId;
use crate::tape::{Tape, Var};
use std::ops::Range;
use std::sync::Arc;

/// Which part of an encoder is not trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freeze {
    /// The embeddings.
    pub embeddings: bool,
    /// The first so many layers, and the embeddings with them.
    pub layers: usize,
}

/// What a sentence's hidden states become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of them: `[T, hidden]`.
    All,
    /// Position 0: `[batch, hidden]`.
    First,
    /// The mean over its tokens: `[batch, hidden]`.
    Mean,
}

/// A batch's tokens on a tape.
#[derive(Clone, Copy, Debug)]
pub struct TokenVars {
    /// `[T, 4]` u32: word, position and segment (the upper 16 bits), length of the sentence, sample.
    /// Rows of length 0 belong to no sentence.
    pub tokens: Var,
    /// `[batch, 2]` u32: first row and length of each sentence.
    pub spans: Var,
    /// `[3 T]` u32 and `[T + rest_runs, 4]` u32: the rows of each table entry, for its gradient.
    pub order: Var,
    /// See `order`.
    pub runs: Var,
    /// How many of `runs` are of positions and segments.
    pub rest_runs: usize,
    /// `[T, hidden]`: what stands in for the output of the embeddings, where that is given.
    pub embedded: Option<Var>,
}

impl TokenVars {
    /// Those of a batch of `batch` sentences, laid out in `block`.
    pub fn input(tape: &mut Tape, block: SpaceId, layout: &TokenLayout, batch: usize) -> Self {
        let TokenLayout { rows, rest_runs, .. } = *layout;
        let mut input = |name, shape: &[usize], at| tape.input(name, shape, block, at);
        TokenVars {
            tokens: input("tokens", &[rows, 4], layout.tokens_at),
            spans: input("spans", &[batch, 2], layout.spans_at),
            order: input("token order", &[3 * rows], layout.order_at),
            runs: input("token runs", &[rows + rest_runs, 4], layout.runs_at),
            rest_runs,
            embedded: None,
        }
    }
}

/// An encoder to record: its sizes, and how it is trained.
#[derive(Clone, Debug)]
pub struct Bert {
    /// Before each parameter's name: `text_model.model.`, as MMSA has it.
    pub prefix: String,
    /// Sizes.
    pub shape: BertShape,
    /// What is left as it is.
    pub freeze: Freeze,
    /// Of hidden states and of attention probabilities, in training.
    pub dropout: (f32, f32),
    /// Keep only the layers' inputs for the backward.
    pub checkpoint: bool,
    /// Store the matrices of frozen layers by halves.
    pub half: bool,
    /// Names of its optimiser groups: weights, and biases with LayerNorms.
    pub groups: (String, String),
}

/// A layer's parameters on a tape.
#[derive(Clone, Copy)]
struct Layer {
    qkv: (Var, Var),
    out: (Var, Var),
    norm: Var,
    inner: FeedForward,
    inner_norm: Var,
    /// Of the scores, by distance; that of all layers.
    bias: Option<Var>,
}

/// The last layer's query apart from its keys and values.
#[derive(Clone, Copy)]
struct Asked {
    q: (Var, Var),
    kv: (Var, Var),
    spans: Var,
}

const QKV: [&str; 3] = ["query", "key", "value"];
/// What all layers add to their scores, by bucket of relative position and head.
const BIAS: &str = "encoder.relative_attention_bias.weight";
/// Buckets begin to hold several distances at a quarter of their number; all from here on are of the last.
const FARTHEST: f64 = 128.0;

/// T5's bucket of a key that is `steps` behind its query (before it: below 0), of so many: half of them for
/// keys before and at the query, half for those behind; of each half the first half by single steps, the
/// rest in steps that grow by one factor up to 128.
fn bucket(steps: i64, buckets: usize) -> usize {
    let (half, far) = (buckets / 2, steps.unsigned_abs() as usize);
    let exact = half / 2;
    let within = match far < exact {
        true => far,
        false => {
            let share = (far as f64 / exact as f64).ln() / (FARTHEST / exact as f64).ln();
            // In f64 a distance on the very edge of a bucket comes out below it by a rounding.
            let more = (share * (half - exact) as f64 + 1e-9) as usize;
            (exact + more).min(half - 1)
        }
    };
    if steps > 0 { half + within } else { within }
}

/// The distance from which on all up to `farthest` are of the same bucket, before a query and behind it:
/// attention takes what is beyond for that, and the gradient goes through the distances one by one.
fn reach(farthest: usize, buckets: usize) -> i64 {
    let pair = |steps: i64| (bucket(-steps, buckets), bucket(steps, buckets));
    let farthest = farthest as i64;
    (1..farthest).find(|steps| pair(*steps) == pair(farthest)).unwrap_or(farthest)
}

impl Bert {
    /// An encoder of these sizes whose every part is trained, in the group `bert`, without dropout;
    /// names have no prefix.
    pub fn new(shape: BertShape) -> Self {
        let (prefix, freeze) = (String::new(), Freeze::default());
        let (checkpoint, half) = (false, false);
        let groups = ("bert".into(), "bert".into());
        Bert { prefix, shape, freeze, dropout: (0.0, 0.0), checkpoint, half, groups }
    }

    /// Its parameters, in the order in which they are stored; a word table of more than `limit`
    /// words is cut.
    pub fn specs(&self, limit: usize) -> Vec<ParamSpec> {
        let s = &self.shape;
        let (h, inner) = (s.hidden, s.intermediate);
        let mut specs = Vec::new();
        let spec = |name: String, shape: &[usize], frozen: bool| {
            let plain = name.ends_with("bias") || name.contains("LayerNorm");
            let group = if plain { &self.groups.1 } else { &self.groups.0 };
            // Every weight comes from a file.
            let name = format!("{}{name}", self.prefix);
            ParamSpec::new(name, shape, group, Init::Zeros).frozen(frozen)
        };
        let table = |name: &str, rows: usize, frozen: bool| {
            spec(format!("embeddings.{name}_embeddings.weight"), &[rows, h], frozen)
        };
        let fixed = self.embeddings_frozen();
        specs.extend(table("word", s.vocab, fixed).cut(limit));
        specs.push(table("position", s.positions, fixed));
        if s.segments > 0 {
            specs.push(table("token_type", s.segments, fixed).joined());
        }
        let norm = |at: &str, frozen: bool| {
            [
                spec(format!("{at}LayerNorm.weight"), &[h], frozen),
                spec(format!("{at}LayerNorm.bias"), &[h], frozen).joined(),
            ]
        };
        specs.extend(norm("embeddings.", fixed));
        if s.buckets > 0 {
            // All layers have it, those that are not to change, too.
            let fixed = self.freeze.layers > 0;
            specs.push(spec(BIAS.into(), &[s.buckets, s.heads], fixed));
        }
        for layer in 0..s.layers {
            let (fixed, at) = (layer < self.freeze.layers, format!("encoder.layer.{layer}."));
            for (kind, shape) in [("weight", &[h, h][..]), ("bias", &[h])] {
                for (i, name) in QKV.iter().enumerate() {
                    let one = spec(format!("{at}attention.self.{name}.{kind}"), shape, fixed);
                    let one = one.halved(self.half && kind == "weight");
                    specs.push(if i == 0 { one } else { one.joined() });
                }
            }
            for (name, out, input) in
                [("attention.output.", h, h), ("intermediate.", inner, h), ("output.", h, inner)]
            {
                let weight = spec(format!("{at}{name}dense.weight"), &[out, input], fixed);
                specs.push(weight.halved(self.half));
                specs.push(spec(format!("{at}{name}dense.bias"), &[out], fixed));
            }
            specs.extend(norm(&format!("{at}attention.output."), fixed));
            specs.extend(norm(&format!("{at}output."), fixed));
        }
        specs
    }

    /// Whether the encoder, or the pooler that it came with, has a parameter of this name, and not what
    /// a model has put beside them under the same prefix.
    pub fn owns(&self, name: &str) -> bool {
        let own = ["embeddings.", "encoder.layer.", BIAS, "pooler."];
        name.strip_prefix(&self.prefix)
            .is_some_and(|name| own.iter().any(|at| name.starts_with(at)))
    }

    fn embeddings_frozen(&self) -> bool {
        self.freeze.embeddings || self.freeze.layers > 0
    }

    /// Records the encoder. `train` adds dropout.
    ///
    /// # Errors
    /// Sizes that the kernels do not take: a head wider than 128, or no multiple of 4.
    pub fn record(
        &self,
        tape: &mut Tape,
        params: &Params,
        tokens: &TokenVars,
        reading: Reading,
        train: bool,
    ) -> Result<Var> {
        let x = self.begin(tape, params, tokens, 0, train)?;
        self.end(tape, params, tokens, (0, x), reading, train)
    }

    /// Records the embeddings and the first `layers` layers: the states of all tokens, `[T, hidden]`.
    /// What a model makes of them goes on in [`end`](Self::end), so that it can add to an encoder at
    /// the input of any layer; with 0 layers they are the embeddings.
    ///
    /// # Errors
    /// As [`record`](Self::record); more layers than there are.
    pub fn begin(
        &self,
        tape: &mut Tape,
        params: &Params,
        tokens: &TokenVars,
        layers: usize,
        train: bool,
    ) -> Result<Var> {
        let x = self.embeddings(tape, params, tokens, train)?;
        self.layers(tape, params, tokens, (0..layers, x), (Reading::All, train))
    }

    /// Records the layers from `first` on over states `x [T, hidden]` of all tokens, and what is read of
    /// the last one's.
    ///
    /// # Errors
    /// As [`record`](Self::record); a first layer past the last one.
    pub fn end(
        &self,
        tape: &mut Tape,
        params: &Params,
        tokens: &TokenVars,
        (first, x): (usize, Var),
        reading: Reading,
        train: bool,
    ) -> Result<Var> {
        let all = first..self.shape.layers;
        let x = self.layers(tape, params, tokens, (all.clone(), x), (reading, train))?;
        match reading {
            Reading::First if all.is_empty() || !self.asks_alone() => {
                tape.pool_first(x, tokens.tokens, tokens.spans)
            }
            Reading::Mean => tape.pool_mean(x, tokens.tokens, tokens.spans),
            _ => Ok(x),
        }
    }

    /// Records some of the layers. Where position 0 of the last one is read, it gives that alone if it can.
    fn layers(
        &self,
        tape: &mut Tape,
        params: &Params,
        tokens: &TokenVars,
        (which, mut x): (Range<usize>, Var),
        (reading, train): (Reading, bool),
    ) -> Result<Var> {
        if which.start > which.end || which.end > self.shape.layers {
            let detail = format!("layers {which:?} of {}", self.shape.layers);
            return Err(Error::shape("bert", detail));
        }
        let bias = if which.is_empty() { None } else { self.bias(tape, params)? };
        let layers: Vec<Layer> =
            which.clone().map(|i| self.layer(tape, params, (i, bias))).collect::<Result<_>>()?;
        let run = Arc::new(Run {
            heads: self.shape.heads,
            eps: self.shape.eps,
            dropout: if train { self.dropout } else { (0.0, 0.0) },
            tokens: tokens.tokens,
        });
        let short = reading == Reading::First && self.asks_alone();
        for (i, layer) in which.zip(layers) {
            let last = i + 1 == self.shape.layers;
            let asked =
                if last && short { Some(self.asked(tape, params, i, tokens.spans)?) } else { None };
            let run = run.clone();
            let body = move |tape: &mut Tape, x: Var| match asked {
                Some(asked) => run.last_layer(tape, x, layer, asked),
                None => run.layer(tape, x, layer),
            };
            x = if self.checkpoint && train { tape.checkpoint(x, body)? } else { body(tape, x)? };
            tape.name(x, &format!("layer.{i}"));
        }
        Ok(x)
    }

    /// Records one layer alone, without dropout: `x [T, hidden]` → the same; `tokens` as in
    /// [`TokenVars`].
    #[cfg(feature = "bench")]
    pub(crate) fn record_layer(
        &self,
        tape: &mut Tape,
        params: &Params,
        layer: usize,
        x: Var,
        tokens: Var,
    ) -> Result<Var> {
        let BertShape { heads, eps, .. } = self.shape;
        let bias = self.bias(tape, params)?;
        let layer = self.layer(tape, params, (layer, bias))?;
        Run { heads, eps, dropout: (0.0, 0.0), tokens }.layer(tape, x, layer)
    }

    /// Whether a layer's query can be taken apart from its keys and values: its bias must begin
    /// where a binding may. Scores with a bias of their own are computed of all tokens.
    fn asks_alone(&self) -> bool {
        self.shape.buckets == 0 && self.shape.hidden.is_multiple_of(crate::plan::ALIGN_WORDS)
    }

    /// The bias of the scores by distance, `[2 r + 1, heads]`, up to where all farther ones are alike.
    fn bias(&self, tape: &mut Tape, params: &Params) -> Result<Option<Var>> {
        let BertShape { buckets, .. } = self.shape;
        if buckets == 0 {
            return Ok(None);
        }
        let reach = reach(self.shape.tokens().saturating_sub(1), buckets);
        let ids: Vec<u32> = (-reach..=reach).map(|steps| bucket(steps, buckets) as u32).collect();
        let rows = tape.rows("buckets", &ids, buckets)?;
        let table = params.var(tape, &self.name(BIAS))?;
        tape.gather(table, rows).map(Some)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn embeddings(
        &self,
        tape: &mut Tape,
        params: &Params,
        t: &TokenVars,
        train: bool,
    ) -> Result<Var> {
        if let Some(given) = t.embedded {
            return Ok(given);
        }
        let (s, h) = (&self.shape, self.shape.hidden);
        let word = self.name("embeddings.word_embeddings.weight");
        let parts: Vec<(String, usize)> = params
            .specs()
            .filter(|p| p.name == word)
            .map(|p| (p.key(), p.part.as_ref().map_or(0, |(range, _)| range.start)))
            .collect();
        let words = parts
            .into_iter()
            .map(|(key, base)| Ok(WordPart { var: params.var(tape, &key)?, base }))
            .collect::<Result<_>>()?;
        let tables = ["position", "token_type"]
            .map(|name| self.name(&format!("embeddings.{name}_embeddings.weight")));
        let tables = if s.segments > 0 { &tables[..] } else { &tables[..1] };
        let rest = params.span(tape, tables, &[s.tables().rows(), h])?;
        let gb = self.norm(tape, params, "embeddings.")?;
        let dropout = if train { self.dropout.0 } else { 0.0 };
        tape.embed(Embed {
            tokens: t.tokens,
            words,
            rest,
            tables: s.tables(),
            gb,
            eps: s.eps,
            dropout,
            order: t.order,
            runs: t.runs,
            rest_runs: t.rest_runs,
        })
    }

    /// Weight and bias of a LayerNorm, `[2, hidden]`.
    fn norm(&self, tape: &mut Tape, params: &Params, at: &str) -> Result<Var> {
        let names = ["weight", "bias"].map(|k| self.name(&format!("{at}LayerNorm.{k}")));
        params.span(tape, &names, &[2, self.shape.hidden])
    }

    /// Weight and bias of some of query, key and value together.
    fn projection(
        &self,
        tape: &mut Tape,
        params: &Params,
        layer: usize,
        of: &[&str],
    ) -> Result<(Var, Var)> {
        let h = self.shape.hidden;
        let mut var = |kind: &str, shape: &[usize]| {
            let at = format!("encoder.layer.{layer}.attention.self.");
            let names: Vec<String> =
                of.iter().map(|q| self.name(&format!("{at}{q}.{kind}"))).collect();
            params.span(tape, &names, shape)
        };
        Ok((var("weight", &[of.len() * h, h])?, var("bias", &[of.len() * h])?))
    }

    fn asked(&self, tape: &mut Tape, params: &Params, layer: usize, spans: Var) -> Result<Asked> {
        let q = self.projection(tape, params, layer, &QKV[..1])?;
        Ok(Asked { q, kv: self.projection(tape, params, layer, &QKV[1..])?, spans })
    }

    fn layer(
        &self,
        tape: &mut Tape,
        params: &Params,
        (layer, bias): (usize, Option<Var>),
    ) -> Result<Layer> {
        let at = format!("encoder.layer.{layer}.");
        let mut dense = |name: &str| -> Result<(Var, Var)> {
            let mut var = |k: &str| params.var(tape, &self.name(&format!("{at}{name}dense.{k}")));
            Ok((var("weight")?, var("bias")?))
        };
        let out = dense("attention.output.")?;
        let (first, second) = (dense("intermediate.")?, dense("output.")?);
        Ok(Layer {
            qkv: self.projection(tape, params, layer, &QKV)?,
            out,
            norm: self.norm(tape, params, &format!("{at}attention.output."))?,
            inner: FeedForward { first, second, act: self.shape.act },
            inner_norm: self.norm(tape, params, &format!("{at}output."))?,
            bias,
        })
    }
}

/// What all layers of a recording share.
struct Run {
    heads: usize,
    eps: f32,
    dropout: (f32, f32),
    tokens: Var,
}

impl Run {
    fn layer(&self, tape: &mut Tape, x: Var, layer: Layer) -> Result<Var> {
        let qkv = tape.linear(x, layer.qkv.0, Some(layer.qkv.1), Act::None)?;
        let (heads, dropout) = (self.heads, self.dropout.1);
        let context = match layer.bias {
            Some(bias) => tape.biased_attention(qkv, self.tokens, bias, heads, dropout)?,
            None => tape.attention(qkv, self.tokens, heads, dropout)?,
        };
        self.rest(tape, x, context, layer)
    }

    /// The last layer where only position 0 is read: `x [T, hidden]` → `[batch, hidden]`.
    fn last_layer(&self, tape: &mut Tape, x: Var, layer: Layer, asked: Asked) -> Result<Var> {
        let (tokens, spans) = (self.tokens, asked.spans);
        let first = tape.pool_first(x, tokens, spans)?;
        let q = tape.linear(first, asked.q.0, Some(asked.q.1), Act::None)?;
        let kv = tape.linear(x, asked.kv.0, Some(asked.kv.1), Act::None)?;
        let context = tape.attention_first(q, kv, tokens, spans, self.heads, self.dropout.1)?;
        self.rest(tape, first, context, layer)
    }

    /// What follows attention, for as many rows as `x` has.
    fn rest(&self, tape: &mut Tape, x: Var, context: Var, layer: Layer) -> Result<Var> {
        let out = tape.linear(context, layer.out.0, Some(layer.out.1), Act::None)?;
        let h = tape.residual_norm(x, out, layer.norm, self.eps, self.dropout.0)?;
        let f = tape.feed_forward(h, layer.inner)?;
        tape.residual_norm(h, f, layer.inner_norm, self.eps, self.dropout.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{bucket, reach};

    #[test]
    fn distances_have_the_buckets_of_t5() {
        let of = |steps: i64| bucket(steps, 32);
        assert_eq!((0..8).map(|n| of(-n)).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        // The first distance of each bucket from 8 on: 8 times the powers of the root of 2, rounded up.
        for (i, first) in [8, 12, 16, 23, 32, 46, 64, 91].into_iter().enumerate() {
            assert_eq!((of(-first), of(first)), (8 + i, 24 + i), "{first}");
            assert_eq!(of(1 - first), 7 + i, "before {first}");
        }
        assert_eq!((of(1), of(-511), of(511)), (17, 15, 31));
        assert_eq!([511, 91, 90, 20, 0].map(|farthest| reach(farthest, 32)), [91, 91, 64, 16, 0]);
    }
}
