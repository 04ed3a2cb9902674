//! The shared/private model: Self-MM (arXiv:2102.04830, as MMSA releases it) plus the pairwise
//! covariance term. It is a reconstruction of arXiv:2305.08473 from its two ancestors; the body
//! of that paper was not at hand.
//!
//! ```text
//! text  → BERT, position 0        ─┐                ┌ post_fusion → ŷ_m
//! audio → LSTM → linear (audio)   ─┼─ concatenated ─┤
//! vision → LSTM → linear (video)  ─┘                └ each alone: post_text, post_audio, post_video
//! L = Σ_tasks mean w |ŷ − y|  +  Σ_pairs weight · term(projected encoder outputs)
//! ```
//!
//! Instead of a BERT the text may have features, passed on unchanged, or go through an LSTM.
//! Any non-empty subset of modalities builds a model. Parameters carry MMSA's names.

use super::config::{AlignLayer, Config, Pooling, TextEncoder};
use crate::data::{Layout, Modality, StreamSpec, TokenSpec};
use crate::error::{Error, Result};
use crate::nn::{
    Bert, BertShape, Freeze, Group, Head, LstmEncoder, ParamSpec, Params, Reading, TokenVars,
    linear_specs,
};
use crate::ops::align::Pair;
use crate::ops::heads::{HeadVars, Heads};
use crate::ops::labels::{LabelRule, LabelState};
use crate::ops::objective::{Aligning, Goals};
use crate::ops::optim::Clip;
use crate::plan::{SpaceId, Spaces, Stage};
use crate::tape::{Tape, Var};

/// The pairs of modalities, with the names of their weights.
pub const PAIRS: [(Modality, Modality, &str); 3] = [
    (Modality::Text, Modality::Audio, "ta"),
    (Modality::Text, Modality::Vision, "tv"),
    (Modality::Audio, Modality::Vision, "av"),
];

/// The optimiser group of everything that is no encoder. Those of the LSTM encoders have the names of
/// their modalities.
const OTHER: &str = "other";
/// The groups of a pretrained encoder: its weights, and its biases and LayerNorms, which do not decay.
const BERT: [&str; 2] = ["bert", "bert.no_decay"];
/// Where MMSA keeps the encoder among the parameters.
pub(crate) const BERT_PREFIX: &str = "text_model.model.";

/// MMSA's name of a modality: its third one is "video".
fn mmsa(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Audio => "audio",
        Modality::Vision => "video",
    }
}

/// The parameter by which a modality's representation is aligned.
pub(crate) fn projection_name(modality: Modality) -> String {
    format!("align_{}.weight", mmsa(modality))
}

/// How a modality becomes its representation.
#[derive(Clone, Debug)]
enum Encoder {
    /// The first step of a stream, passed on unchanged.
    Features(StreamSpec),
    /// A stream through an LSTM.
    Lstm(StreamSpec, LstmEncoder),
    /// Tokens through a pretrained encoder.
    Bert(Box<Bert>),
}

/// One modality of the model.
#[derive(Clone, Debug)]
struct Sense {
    modality: Modality,
    encoder: Encoder,
    /// Size of its representation.
    out: usize,
    head: Head,
}

/// The model for the modalities at hand.
#[derive(Clone, Debug)]
pub struct SelfMm {
    config: Config,
    senses: Vec<Sense>,
    fusion: Head,
}

/// What a forward pass gives.
#[derive(Clone, Debug)]
pub struct Forward {
    /// `[batch, tasks]`: fused first, then the modalities in the order text, audio, vision.
    pub scores: Var,
    /// `[batch, Σ sizes]`: F* of each task side by side, fused first; a row of the feature store.
    pub features: Var,
    /// Encoder outputs `[batch, out]`.
    pub encoded: Vec<(Modality, Var)>,
    /// `[batch]` u32: rows of the split.
    pub rows: Var,
}

/// Buffers that label generation and the loss ring keep from step to step.
#[derive(Clone, Copy, Debug)]
pub struct TrainSpaces {
    /// `[tasks, total]`.
    pub labels: SpaceId,
    /// `[total, width]`; only with label generation.
    pub store: Option<SpaceId>,
    /// `[2 width]`; only with label generation.
    pub centres: Option<SpaceId>,
    /// `[rows, width]` of the loss ring.
    pub ring: SpaceId,
    /// Rows of the ring.
    pub ring_rows: usize,
    /// Training samples.
    pub total: usize,
}

/// What a row of the loss ring means.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Letters of the tasks: M, then those of the modalities.
    pub tasks: Vec<char>,
    /// Names and weights of the alignment terms that are computed.
    pub pairs: Vec<(&'static str, f64)>,
    /// Letters of the modalities whose covariance norms are logged.
    pub norms: Vec<char>,
    /// The hinge of negative weights.
    pub margin: f64,
}

impl Objective {
    /// Floats of a ring row, rounded up.
    pub fn width(&self) -> usize {
        (self.tasks.len() + self.pairs.len() + self.norms.len()).next_multiple_of(16)
    }

    /// The total loss of a ring row.
    pub fn total(&self, row: &[f32]) -> f64 {
        let tasks: f64 = row[..self.tasks.len()].iter().map(|v| f64::from(*v)).sum();
        let terms = &row[self.tasks.len()..];
        let align: f64 = self
            .pairs
            .iter()
            .zip(terms)
            .map(|((_, weight), term)| {
                let term = f64::from(*term);
                weight * if *weight < 0.0 { term.min(self.margin) } else { term }
            })
            .sum();
        tasks + align
    }
}

/// How a modality of the data becomes its representation, and that one's size; `None` where the
/// data has nothing of it.
fn encoder(
    config: &Config,
    modality: Modality,
    spec: Option<StreamSpec>,
    bert: Option<&BertShape>,
) -> Option<(Encoder, usize)> {
    let m = &config.model;
    if let (Modality::Text, TextEncoder::Bert, Some(shape)) = (modality, m.text_encoder, bert) {
        return Some((Encoder::Bert(Box::new(pretrained(config, shape))), shape.hidden));
    }
    let spec = spec?;
    // A pretrained encoder that is not trained has left its outputs as features.
    if modality == Modality::Text && m.text_encoder != TextEncoder::Lstm {
        return Some((
            Encoder::Features(StreamSpec { steps: 1, lengths: false, ..spec }),
            spec.dim,
        ));
    }
    let (hidden, out) = match modality {
        Modality::Text => (m.hidden.text, m.out.text),
        Modality::Audio => (m.hidden.audio, m.out.audio),
        Modality::Vision => (m.hidden.vision, m.out.vision),
    };
    let lstm = LstmEncoder {
        name: format!("{}_model", mmsa(modality)),
        inputs: spec.dim,
        pitch: spec.dim.next_multiple_of(4),
        hidden,
        layers: m.layers,
        bidirectional: m.bidirectional,
        out,
        dropout: m.dropout.lstm as f32,
        group: modality.name().into(),
    };
    Some((Encoder::Lstm(StreamSpec { lengths: true, ..spec }, lstm), out))
}

/// The pretrained encoder of a configuration, under MMSA's names.
pub(crate) fn pretrained(config: &Config, shape: &BertShape) -> Bert {
    let b = &config.bert;
    let own = b.dropout < 0.0;
    let dropout = |from_file: f32| if own { from_file } else { b.dropout as f32 };
    Bert {
        prefix: BERT_PREFIX.into(),
        shape: *shape,
        freeze: Freeze { embeddings: b.freeze_embeddings, layers: b.freeze_layers },
        dropout: (dropout(shape.hidden_dropout), dropout(shape.attention_dropout)),
        checkpoint: b.checkpoint,
        half: b.half,
        groups: (BERT[0].into(), BERT[1].into()),
    }
}

/// What of the hidden states is read.
pub(crate) fn reading(pooling: Pooling) -> Reading {
    match pooling {
        Pooling::First => Reading::First,
        Pooling::Mean => Reading::Mean,
    }
}

impl SelfMm {
    /// The model that `config` describes over the streams that the data has, and over its tokens
    /// where those are to go through a pretrained encoder of the sizes `bert`.
    ///
    /// # Errors
    /// No modality left, or post sizes that differ where alignment wants them equal.
    pub fn new(
        config: &Config,
        available: &[StreamSpec],
        bert: Option<&BertShape>,
    ) -> Result<Self> {
        let m = &config.model;
        let mut senses = Vec::new();
        for modality in Modality::ALL.into_iter().filter(|s| m.modalities.contains(s.letter())) {
            let spec = available.iter().find(|s| s.modality == modality).copied();
            let Some((encoder, out)) = encoder(config, modality, spec, bert) else { continue };
            let (name, size, dropout) = match modality {
                Modality::Text => ("post_text", m.post.text, m.dropout.text),
                Modality::Audio => ("post_audio", m.post.audio, m.dropout.audio),
                Modality::Vision => ("post_video", m.post.vision, m.dropout.vision),
            };
            let dropout = dropout as f32;
            let head = Head { name, inputs: (out, out), size, dropout, group: OTHER.into() };
            senses.push(Sense { modality, encoder, out, head });
        }
        if senses.is_empty() {
            return Err(Error::Config(format!(
                "model.modalities is '{}', and the data has none of them",
                m.modalities
            )));
        }
        let inputs = senses.iter().map(|s| s.out).sum();
        let fusion = Head {
            name: "post_fusion",
            inputs: (inputs, inputs),
            size: m.post.fusion,
            dropout: m.dropout.fusion as f32,
            group: OTHER.into(),
        };
        let model = SelfMm { config: config.clone(), senses, fusion };
        if model.aligned() && config.align.layer == AlignLayer::Post {
            let sizes: Vec<usize> = model.senses.iter().map(|s| s.head.size).collect();
            if !config.labels.enabled || sizes.iter().any(|s| *s != sizes[0]) {
                return Err(Error::Config(format!(
                    "align.layer = \"post\" wants label generation and one size for \
                     model.post.text, audio and vision (they are {sizes:?}); or use \"projection\""
                )));
            }
        }
        Ok(model)
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The streams that it reads from a data set.
    pub fn streams(&self) -> Vec<StreamSpec> {
        let specs = self.senses.iter().map(|s| match &s.encoder {
            Encoder::Features(spec) | Encoder::Lstm(spec, _) => Some(*spec),
            Encoder::Bert(_) => None,
        });
        specs.flatten().collect()
    }

    /// The pretrained encoder that it trains, where it has one.
    pub fn bert(&self) -> Option<&Bert> {
        self.senses.iter().find_map(|s| match &s.encoder {
            Encoder::Bert(bert) => Some(bert.as_ref()),
            _ => None,
        })
    }

    /// What it reads of the text as tokens, in a block of `rows` of them.
    pub fn tokens(&self, rows: usize) -> Option<TokenSpec> {
        let tables = self.bert().map(|b| (b.shape.positions, b.shape.segments))?;
        Some(TokenSpec { rows, tables })
    }

    /// Its modalities.
    pub fn modalities(&self) -> Vec<Modality> {
        self.senses.iter().map(|s| s.modality).collect()
    }

    /// Number of tasks: the fused one, and with label generation one for each modality.
    pub fn tasks(&self) -> usize {
        1 + if self.config.labels.enabled { self.senses.len() } else { 0 }
    }

    /// Sizes of the tasks' features, fused first.
    pub fn feature_sizes(&self) -> Vec<usize> {
        let senses = self.senses.iter().map(|s| s.head.size).take(self.tasks() - 1);
        std::iter::once(self.fusion.size).chain(senses).collect()
    }

    /// Sizes of the encoders' outputs.
    pub fn encoded_sizes(&self) -> Vec<(Modality, usize)> {
        self.senses.iter().map(|s| (s.modality, s.out)).collect()
    }

    fn weight(&self, pair: &str) -> f64 {
        let w = self.config.align.weight;
        match pair {
            "ta" => w.ta,
            "tv" => w.tv,
            _ => w.av,
        }
    }

    /// The pairs of modalities that the model has: indices into its modalities, name, weight.
    fn pairs(&self) -> Vec<(usize, usize, &'static str, f64)> {
        let index = |m| self.senses.iter().position(|s| s.modality == m);
        PAIRS
            .iter()
            .filter_map(|(a, b, name)| Some((index(*a)?, index(*b)?, *name, self.weight(name))))
            .collect()
    }

    /// Whether any pair has a weight. If none has, nothing of the term is recorded, so that the
    /// model is Self-MM bit for bit.
    pub fn aligned(&self) -> bool {
        self.pairs().iter().any(|(_, _, _, weight)| *weight != 0.0)
    }

    /// What its loss ring rows mean.
    pub fn objective(&self) -> Objective {
        let letters: Vec<char> = self.senses.iter().map(|s| s.modality.letter()).collect();
        let tasks =
            std::iter::once('M').chain(letters.iter().copied().take(self.tasks() - 1)).collect();
        let aligned = self.aligned();
        let pairs = self.pairs().into_iter().map(|(_, _, name, weight)| (name, weight));
        Objective {
            tasks,
            pairs: if aligned { pairs.collect() } else { Vec::new() },
            norms: if aligned { letters } else { Vec::new() },
            margin: self.config.align.margin,
        }
    }

    /// The optimiser groups of its parameters: torch's Adam for all of them, with the rates and decays
    /// of the configuration.
    pub fn groups(&self) -> Vec<Group> {
        let t = &self.config.train;
        let [bert, bert_plain] = BERT;
        [
            (Modality::Text.name(), t.lr.text, t.decay.text),
            (Modality::Audio.name(), t.lr.audio, t.decay.audio),
            (Modality::Vision.name(), t.lr.vision, t.decay.vision),
            (OTHER, t.lr.other, t.decay.other),
            (bert, t.lr.bert, t.decay.bert),
            (bert_plain, t.lr.bert, 0.0),
        ]
        .into_iter()
        .map(|(name, lr, decay)| Group::adam(name, lr).weight_decay(decay))
        .collect()
    }

    /// All its parameters, under MMSA's names; the alignment projections come last. A tensor of
    /// more than `limit` words is cut.
    pub fn specs(&self, train: bool, limit: usize) -> Vec<ParamSpec> {
        let encoders = self.senses.iter().map(|s| match &s.encoder {
            Encoder::Features(_) => Vec::new(),
            Encoder::Lstm(_, lstm) => lstm.specs(),
            Encoder::Bert(bert) => bert.specs(limit),
        });
        let mut specs: Vec<ParamSpec> = encoders.flatten().collect();
        specs.extend(self.fusion.specs());
        if self.config.labels.enabled {
            specs.extend(self.senses.iter().flat_map(|s| s.head.specs()));
        }
        if train {
            specs.extend(self.projections());
        }
        specs
    }

    /// The alignment projections among its parameters; only training needs them.
    pub fn projections(&self) -> Vec<ParamSpec> {
        if !self.aligned() || self.config.align.layer == AlignLayer::Post {
            return Vec::new();
        }
        let specs = self.senses.iter().flat_map(|sense| {
            let name = format!("align_{}", mmsa(sense.modality));
            linear_specs(&name, (sense.out, sense.out, self.config.align.dim), false, OTHER)
        });
        specs.collect()
    }

    /// Declares the buffers of training over `total` samples.
    pub fn train_spaces(&self, spaces: &mut Spaces, total: usize, ring_rows: usize) -> TrainSpaces {
        let width: usize = self.feature_sizes().iter().sum();
        let enabled = self.config.labels.enabled;
        TrainSpaces {
            labels: spaces.declare("labels", self.tasks() * total),
            store: enabled.then(|| spaces.declare("feature store", total * width)),
            centres: enabled.then(|| spaces.declare("class centres", 2 * width)),
            ring: spaces.declare("loss ring", ring_rows * self.objective().width()),
            ring_rows,
            total,
        }
    }

    /// Records a forward pass over a batch laid out in `block`.
    pub fn forward(
        &self,
        tape: &mut Tape,
        params: &Params,
        layout: &Layout,
        block: SpaceId,
        train: bool,
    ) -> Result<Forward> {
        let n = layout.batch;
        let rows = tape.input("rows", &[n], block, layout.rows_at);
        let mut encoded = Vec::new();
        // LSTMs wait for each other: their recurrences run side by side.
        let (mut waiting, mut inputs) = (Vec::new(), Vec::new());
        let mut streams = layout.streams.iter();
        for sense in &self.senses {
            let name = sense.modality.name();
            let missing = || Error::shape("forward", format!("the batch has no {name}"));
            if let Encoder::Bert(bert) = &sense.encoder {
                let at = layout.tokens.as_ref().ok_or_else(missing)?;
                let tokens = TokenVars::input(tape, block, at, n);
                let reading = reading(self.config.bert.pooling);
                let out = bert.record(tape, params, &tokens, reading, train)?;
                encoded.push((sense.modality, out));
                continue;
            }
            let at = streams.next().ok_or_else(missing)?;
            let x = tape.input(name, &[n, at.steps, at.width], block, at.values_at);
            let out = match &sense.encoder {
                Encoder::Lstm(_, encoder) => {
                    let lengths_at = at.lengths_at.ok_or_else(|| {
                        Error::shape("forward", format!("{name} comes without lengths"))
                    })?;
                    let lengths = tape.input(&format!("{name}.lengths"), &[n], block, lengths_at);
                    inputs.push(encoder.input(tape, params, x, lengths, train)?);
                    waiting.push((encoded.len(), encoder));
                    x
                }
                _ => {
                    let x = tape.reshape(x, &[n, at.width])?;
                    // Padding belongs to the upload, not to the representation.
                    if at.width == at.dim { x } else { tape.slice(x, 0, at.dim)? }
                }
            };
            encoded.push((sense.modality, out));
        }
        for ((at, encoder), lstm) in waiting.into_iter().zip(tape.lstms(&inputs)?) {
            encoded[at].1 = encoder.output(tape, params, lstm.last, train)?;
        }
        let parts: Vec<Var> = encoded.iter().map(|(_, v)| *v).collect();
        let heads = std::iter::once(&self.fusion).chain(self.senses.iter().map(|s| &s.head));
        let heads: Vec<HeadVars> = heads
            .take(self.tasks())
            .map(|head| head.vars(tape, params, train))
            .collect::<Result<_>>()?;
        let Heads { scores, features } = tape.heads(&parts, &heads)?;
        tape.name(scores, "scores");
        Ok(Forward { scores, features, encoded, rows })
    }

    /// Records what the covariance term compares, stacked: encoder outputs by their projections, or
    /// post-layer features.
    fn aligned_features(&self, tape: &mut Tape, params: &Params, f: &Forward) -> Result<Var> {
        let config = &self.config.align;
        let stacked = match config.layer {
            AlignLayer::Post => {
                let sizes = self.feature_sizes();
                let own = |i: usize| (sizes[..i].iter().sum(), sizes[i]);
                let sides = (1..sizes.len()).map(own);
                let sides: Vec<Var> = sides
                    .map(|(first, size)| tape.slice(f.features, first, size))
                    .collect::<Result<_>>()?;
                tape.stack(&sides, &sides)
            }
            AlignLayer::Projection => {
                let side = |(modality, out): &(Modality, Var)| {
                    Ok((*out, params.var(tape, &projection_name(*modality))?))
                };
                let sides = f.encoded.iter().map(side).collect::<Result<Vec<_>>>()?;
                tape.project(&sides)?
            }
        };
        if config.standardize { tape.standardize_each(stacked) } else { Ok(stacked) }
    }

    /// Records a whole training step: forward, the objective and its row of the loss ring, backward,
    /// label generation, Adam.
    pub fn step(
        &self,
        tape: &mut Tape,
        params: &Params,
        layout: &Layout,
        block: SpaceId,
        spaces: &TrainSpaces,
    ) -> Result<Forward> {
        let f = self.forward(tape, params, layout, block, true)?;
        let tasks = self.tasks();
        let labels = tape.input("labels", &[tasks, spaces.total], spaces.labels, 0);
        let shape = [spaces.ring_rows, self.objective().width()];
        let ring = tape.input("ring", &shape, spaces.ring, 0);
        let pairs: Vec<Pair> = self
            .pairs()
            .into_iter()
            .map(|(a, b, _, weight)| Pair { a, b, weight: weight as f32 })
            .collect();
        let align = if self.aligned() {
            let features = self.aligned_features(tape, params, &f)?;
            Some(Aligning { features, pairs: &pairs, margin: self.config.align.margin as f32 })
        } else {
            None
        };
        let loss = tape.objective(f.scores, Goals { labels, rows: f.rows, ring }, align)?;
        tape.backward(&[loss])?;
        if let (Some(store), Some(centres)) = (spaces.store, spaces.centres) {
            let width: usize = self.feature_sizes().iter().sum();
            let state = LabelState {
                labels,
                store: tape.input("store", &[spaces.total, width], store, 0),
                centres: tape.input("centres", &[2 * width], centres, 0),
            };
            let c = &self.config.labels;
            let rule = LabelRule {
                clamp: c.clamp as f32,
                exclude_zero: c.exclude_zero,
                squared: c.squared,
            };
            tape.in_stage(Stage::State, |tape| {
                tape.generate_labels(f.features, &self.feature_sizes(), f.rows, state, rule)
            })?;
        }
        let clip = self.config.train.clip_norm as f32;
        let clip = if clip > 0.0 { Clip::norm(clip) } else { Clip::default() };
        params.optimize(tape, clip)?;
        Ok(f)
    }
}
