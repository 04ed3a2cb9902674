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

mod settings;

pub use settings::{AlignLayer, Settings};
pub(super) use settings::{PRESETS, check, preset};

use super::config::{Config, Pooling, TextEncoder};
use super::cx::Cx;
use super::model::Offered;
use super::recipe::{
    AlignedSides, Begins, Column, Columns, Counts, GeneratedLabels, Output, Recipe, StateSpec,
};
use crate::data::{Modality, Reads, StreamSpec, shortened};
use crate::error::{Error, Result};
use crate::nn::{
    Bert, BertShape, Freeze, Group, Head, LstmEncoder, ParamSpec, Reading, linear_specs,
};
use crate::ops::align::Pair;
use crate::ops::heads::{HeadVars, Heads};
use crate::ops::labels::{LabelRule, LabelState};
use crate::ops::objective::{Aligning, Goals};
use crate::plan::Stage;
use crate::tape::Var;

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
/// Its states: the labels of all tasks, the features of all rows, the centres of two classes.
const LABELS: &str = "labels";
const STORE: &str = "store";
const CENTRES: &str = "centres";
/// Where MMSA keeps the encoder among the parameters.
pub(crate) const BERT_PREFIX: &str = "text_model.model.";

/// MMSA's name of a modality: its third one is "video".
fn mmsa(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Audio => "audio",
        Modality::Vision => "video",
        Modality::Other(_) => modality.name(),
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
pub(super) struct SelfMm {
    config: Config,
    own: Settings,
    senses: Vec<Sense>,
    fusion: Head,
}

/// What a forward pass gives.
struct Forward {
    /// `[batch, tasks]`: fused first, then the modalities in the order text, audio, vision.
    scores: Var,
    /// `[batch, Σ sizes]`: F* of each task side by side, fused first; a row of the feature store.
    features: Var,
    /// Encoder outputs `[batch, out]`.
    encoded: Vec<(Modality, Var)>,
}

/// How a modality of the data becomes its representation, and that one's size; `None` where the
/// data has nothing of it.
fn encoder(
    config: &Config,
    own: &Settings,
    modality: Modality,
    spec: Option<StreamSpec>,
    bert: Option<&BertShape>,
) -> Option<(Encoder, usize)> {
    let (text_encoder, m) = (config.model.text_encoder, &own.model);
    if let (Modality::Text, TextEncoder::Bert, Some(shape)) = (modality, text_encoder, bert) {
        return Some((Encoder::Bert(Box::new(pretrained(config, shape))), shape.hidden));
    }
    let spec = spec?;
    // A pretrained encoder that is not trained has left its outputs as features.
    if modality == Modality::Text && text_encoder != TextEncoder::Lstm {
        return Some((
            Encoder::Features(StreamSpec { steps: 1, lengths: false, ..spec }),
            spec.dim,
        ));
    }
    let (hidden, out) = match modality {
        Modality::Text => (m.hidden.text, m.out.text),
        Modality::Audio => (m.hidden.audio, m.out.audio),
        Modality::Vision => (m.hidden.vision, m.out.vision),
        Modality::Other(_) => return None,
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
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let Offered { streams: available, bert, task, .. } = offered;
        if !task.one_number() {
            return Err(Error::Config(format!(
                "self_mm makes labels for each modality out of one number a row, and the data has {}: \
                 use another model (modalign models), or choose other targets by task.kind",
                task.about()
            )));
        }
        let own: Settings = config.settings()?;
        let m = &own.model;
        let mut senses = Vec::new();
        for (modality, name, size, dropout) in [
            (Modality::Text, "post_text", m.post.text, m.dropout.text),
            (Modality::Audio, "post_audio", m.post.audio, m.dropout.audio),
            (Modality::Vision, "post_video", m.post.vision, m.dropout.vision),
        ] {
            let spec = available.iter().find(|s| s.modality == modality).copied();
            let wanted = config.model.wants(modality);
            let found = encoder(config, &own, modality, spec, bert).filter(|_| wanted);
            let Some((encoder, out)) = found else { continue };
            let dropout = dropout as f32;
            let group = OTHER.into();
            let head =
                Head { name: name.into(), inputs: (out, out), size, outputs: 1, dropout, group };
            senses.push(Sense { modality, encoder, out, head });
        }
        if senses.is_empty() {
            return Err(offered.none_wanted(config));
        }
        let inputs = senses.iter().map(|s| s.out).sum();
        let fusion = Head {
            name: "post_fusion".into(),
            inputs: (inputs, inputs),
            size: m.post.fusion,
            outputs: 1,
            dropout: m.dropout.fusion as f32,
            group: OTHER.into(),
        };
        let model = SelfMm { config: config.clone(), own, senses, fusion };
        if model.has_weights() && model.own.align.layer == AlignLayer::Post {
            let sizes: Vec<usize> = model.senses.iter().map(|s| s.head.size).collect();
            if !model.own.labels.enabled || sizes.iter().any(|s| *s != sizes[0]) {
                return Err(Error::Config(format!(
                    "align.layer = \"post\" wants label generation and one size for \
                     model.post.text, audio and vision (they are {sizes:?}); or use \"projection\""
                )));
            }
        }
        Ok(model)
    }

    /// Number of tasks: the fused one, and with label generation one for each modality.
    fn tasks(&self) -> usize {
        1 + if self.own.labels.enabled { self.senses.len() } else { 0 }
    }

    /// Sizes of the tasks' features, fused first.
    fn feature_sizes(&self) -> Vec<usize> {
        let senses = self.senses.iter().map(|s| s.head.size).take(self.tasks() - 1);
        std::iter::once(self.fusion.size).chain(senses).collect()
    }

    /// Letters of the tasks: M, then those of the modalities that have a head.
    fn letters(&self) -> Vec<char> {
        let senses =
            self.senses.iter().flat_map(|s| s.modality.short().chars()).take(self.tasks() - 1);
        std::iter::once('M').chain(senses).collect()
    }

    fn weight(&self, pair: &str) -> f64 {
        let w = self.own.align.weight;
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
    fn has_weights(&self) -> bool {
        self.pairs().iter().any(|(_, _, _, weight)| *weight != 0.0)
    }

    /// The alignment projections among its parameters; only training needs them.
    fn projections(&self) -> Vec<ParamSpec> {
        if !self.has_weights() || self.own.align.layer == AlignLayer::Post {
            return Vec::new();
        }
        let specs = self.senses.iter().flat_map(|sense| {
            let name = format!("align_{}", mmsa(sense.modality));
            linear_specs(&name, (sense.out, sense.out, self.own.align.dim), false, OTHER)
        });
        specs.collect()
    }

    /// Records a forward pass.
    fn forward(&self, cx: &mut Cx<'_>) -> Result<Forward> {
        cx.rows();
        let train = cx.training();
        let mut encoded = Vec::new();
        // LSTMs wait for each other: their recurrences run side by side.
        let (mut waiting, mut inputs) = (Vec::new(), Vec::new());
        let mut streams = 0..;
        for sense in &self.senses {
            if let Encoder::Bert(bert) = &sense.encoder {
                let tokens = cx.tokens()?;
                let reading = reading(self.config.bert.pooling);
                let out = bert.record(cx.tape, cx.params, &tokens, reading, train)?;
                encoded.push((sense.modality, out));
                continue;
            }
            let stream = cx.stream(streams.next().unwrap_or_default())?;
            let x = stream.values;
            let out = match &sense.encoder {
                Encoder::Lstm(_, encoder) => {
                    let lengths = stream.lengths.ok_or_else(|| {
                        Error::shape("record", format!("{} comes without lengths", sense.modality))
                    })?;
                    inputs.push(encoder.input(cx.tape, cx.params, x, lengths, train)?);
                    waiting.push((encoded.len(), encoder));
                    x
                }
                _ => {
                    let x = cx.tape.reshape(x, &[cx.batch(), stream.width])?;
                    cx.without_padding(stream, x)?
                }
            };
            encoded.push((sense.modality, out));
        }
        for ((at, encoder), lstm) in waiting.into_iter().zip(cx.tape.lstms(&inputs)?) {
            encoded[at].1 = encoder.output(cx.tape, cx.params, lstm.last, train)?;
        }
        let parts: Vec<Var> = encoded.iter().map(|(_, v)| *v).collect();
        let heads = std::iter::once(&self.fusion).chain(self.senses.iter().map(|s| &s.head));
        let heads: Vec<HeadVars> = heads
            .take(self.tasks())
            .map(|head| head.vars(cx.tape, cx.params, train))
            .collect::<Result<_>>()?;
        let Heads { scores, features } = cx.tape.heads(&parts, &heads)?;
        cx.tape.name(scores, "scores");
        Ok(Forward { scores, features, encoded })
    }

    /// Records what the covariance term compares, stacked: encoder outputs by their projections, or
    /// post-layer features.
    fn aligned_features(&self, cx: &mut Cx<'_>, f: &Forward) -> Result<Var> {
        let config = &self.own.align;
        let stacked = match config.layer {
            AlignLayer::Post => {
                let sizes = self.feature_sizes();
                let own = |i: usize| (sizes[..i].iter().sum(), sizes[i]);
                let sides = (1..sizes.len()).map(own);
                let sides: Vec<Var> = sides
                    .map(|(first, size)| cx.tape.slice(f.features, first, size))
                    .collect::<Result<_>>()?;
                cx.tape.stack(&sides, &sides)
            }
            AlignLayer::Projection => {
                let mut side = |(modality, out): &(Modality, Var)| {
                    Ok((*out, cx.param(&projection_name(*modality))?))
                };
                let sides = f.encoded.iter().map(&mut side).collect::<Result<Vec<_>>>()?;
                cx.tape.project(&sides)?
            }
        };
        if config.standardize { cx.tape.standardize_each(stacked) } else { Ok(stacked) }
    }

    /// Records the objective and its row of the log, and what generates labels behind the gradients.
    fn objective(&self, cx: &mut Cx<'_>, f: &Forward) -> Result<()> {
        let (labels, ring, rows) = (cx.state(LABELS)?, cx.ring()?, cx.rows());
        let pairs: Vec<Pair> = self
            .pairs()
            .into_iter()
            .map(|(a, b, _, weight)| Pair { a, b, weight: weight as f32 })
            .collect();
        let align = if self.has_weights() {
            let features = self.aligned_features(cx, f)?;
            Some(Aligning { features, pairs: &pairs, margin: self.own.align.margin as f32 })
        } else {
            None
        };
        let loss = cx.tape.objective(f.scores, Goals { labels, rows, ring }, align)?;
        cx.whole(loss);
        if self.own.labels.enabled {
            let (store, centres) = (cx.state(STORE)?, cx.state(CENTRES)?);
            let c = &self.own.labels;
            let rule = LabelRule {
                clamp: c.clamp as f32,
                exclude_zero: c.exclude_zero,
                squared: c.squared,
            };
            let (features, sizes) = (f.features, self.feature_sizes());
            cx.after_backward(move |tape| {
                let state = LabelState { labels, store, centres };
                tape.in_stage(Stage::State, |tape| {
                    tape.generate_labels(features, &sizes, rows, state, rule)
                })
            });
        }
        Ok(())
    }
}

impl Recipe for SelfMm {
    fn reads(&self) -> Reads {
        let specs = self.senses.iter().map(|s| match &s.encoder {
            Encoder::Features(spec) | Encoder::Lstm(spec, _) => Some(*spec),
            Encoder::Bert(_) => None,
        });
        let tokens = self.bert().map(|b| b.shape.tables());
        Reads { streams: specs.flatten().collect(), tokens, ..Reads::default() }
    }

    fn bert(&self) -> Option<&Bert> {
        self.senses.iter().find_map(|s| match &s.encoder {
            Encoder::Bert(bert) => Some(bert.as_ref()),
            _ => None,
        })
    }

    /// All its parameters, under MMSA's names; the alignment projections come last.
    fn params(&self, train: bool, limit: usize) -> Vec<ParamSpec> {
        let encoders = self.senses.iter().map(|s| match &s.encoder {
            Encoder::Features(_) => Vec::new(),
            Encoder::Lstm(_, lstm) => lstm.specs(),
            Encoder::Bert(bert) => bert.specs(limit),
        });
        let mut specs: Vec<ParamSpec> = encoders.flatten().collect();
        specs.extend(self.fusion.specs());
        if self.own.labels.enabled {
            specs.extend(self.senses.iter().flat_map(|s| s.head.specs()));
        }
        if train {
            specs.extend(self.projections());
        }
        specs
    }

    /// torch's Adam for all of them, with the rates and decays of the configuration.
    fn groups(&self) -> Vec<Group> {
        let t = &self.config.train;
        let [bert, bert_plain] = BERT;
        [
            (Modality::Text.name(), "text"),
            (Modality::Audio.name(), "audio"),
            (Modality::Vision.name(), "vision"),
            (OTHER, "other"),
            (bert, "bert"),
        ]
        .into_iter()
        .map(|(name, part)| Group::adam(name, t.lr.get(part)).weight_decay(t.decay.get(part)))
        .chain([Group::adam(bert_plain, t.lr.get("bert"))])
        .collect()
    }

    /// The labels of all tasks, and with label generation the features that it stores and the centres
    /// of its two classes.
    fn states(&self, rows: usize) -> Vec<StateSpec> {
        let width: usize = self.feature_sizes().iter().sum();
        let state = |name, shape: &[usize], begins| StateSpec { name, shape: shape.into(), begins };
        let mut all = vec![state(LABELS, &[self.tasks(), rows], Begins::Targets)];
        if self.own.labels.enabled {
            all.push(state(STORE, &[rows, width], Begins::Zero));
            all.push(state(CENTRES, &[2 * width], Begins::Zero));
        }
        all
    }

    fn columns(&self) -> Columns {
        let column = |name: String, what: String, counts| Column { name, what, counts };
        let tasks = self.letters().into_iter();
        let mut all: Vec<Column> = tasks
            .map(|t| column(t.into(), format!("the loss of task {t}"), Counts::Whole))
            .collect();
        if self.has_weights() {
            let margin = self.own.align.margin;
            all.extend(self.pairs().into_iter().map(|(.., name, weight)| {
                let counts = match weight < 0.0 {
                    true => Counts::Hinged { weight, margin },
                    false => Counts::Times(weight),
                };
                column(format!("align_{name}"), format!("the alignment term of {name}"), counts)
            }));
            all.extend(self.senses.iter().flat_map(|s| s.modality.short().chars()).map(|letter| {
                let name = format!("norm_{}", letter.to_ascii_lowercase());
                column(name, format!("the covariance of {letter}"), Counts::Watched)
            }));
        }
        Columns::new(all)
    }

    fn outputs(&self) -> Vec<Output> {
        let letters = self.letters();
        let scores = letters.iter().map(|letter| Output::score(*letter, 1));
        let encoded = self
            .senses
            .iter()
            .map(|s| Output::representation(format!("encoded {}", s.modality), s.out));
        let features = letters.iter().zip(self.feature_sizes());
        let features = features.map(|(t, s)| Output::representation(format!("feature {t}"), s));
        scores.chain(encoded).chain(features).collect()
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let f = self.forward(cx)?;
        cx.output("M", f.scores)?;
        for (modality, var) in &f.encoded {
            cx.output(&format!("encoded {modality}"), *var)?;
        }
        cx.output("feature M", f.features)?;
        if cx.training() { self.objective(cx, &f) } else { Ok(()) }
    }

    fn aligned(&self) -> Option<AlignedSides> {
        if !self.has_weights() {
            return None;
        }
        let config = &self.own.align;
        let side = |s: &Sense| match config.layer {
            AlignLayer::Projection => {
                (format!("encoded {}", s.modality), Some(projection_name(s.modality)))
            }
            AlignLayer::Post => (format!("feature {}", s.modality.short()), None),
        };
        let named = self.senses.iter().map(|s| {
            let (output, by) = side(s);
            (s.modality.name(), output, by)
        });
        Some(AlignedSides {
            sides: named.collect(),
            pairs: self.pairs(),
            standardize: config.standardize,
            margin: config.margin,
        })
    }

    fn generated(&self) -> Option<GeneratedLabels> {
        let c = &self.own.labels;
        let clamp = c.enabled.then_some(c.clamp);
        Some(GeneratedLabels { state: LABELS, tasks: self.letters(), clamp })
    }
}

/// What the model is, in a sentence or two, over the streams `read`.
pub(super) fn about(config: &Config, read: &[Modality]) -> Result<String> {
    let Settings { align, labels, .. } = config.settings()?;
    let text = match config.model.text_encoder {
        TextEncoder::Features | TextEncoder::Table => "text (features)",
        TextEncoder::Lstm => "text (LSTM)",
        TextEncoder::Bert if config.bert.finetune => "text (a BERT, fine-tuned)",
        TextEncoder::Bert => "text (a BERT, frozen)",
    };
    let letters = shortened(read.iter().copied());
    let parts: Vec<&str> = [('T', text), ('A', "audio (LSTM)"), ('V', "vision (LSTM)")]
        .into_iter()
        .filter(|(letter, _)| letters.contains(*letter))
        .map(|p| p.1)
        .collect();
    let labels = match labels.enabled {
        true => "with a label generated for each modality",
        false => "the fused head alone",
    };
    let w = align.weight;
    let pairs: Vec<String> = [("TA", w.ta), ("TV", w.tv), ("AV", w.av)]
        .into_iter()
        .filter(|(pair, weight)| *weight != 0.0 && pair.chars().all(|c| letters.contains(c)))
        .map(|(pair, weight)| format!("{pair} × {weight}"))
        .collect();
    let form = if align.standardize { "correlations" } else { "covariances" };
    let layer = match align.layer {
        AlignLayer::Projection => format!("of projections to {} columns", align.dim),
        AlignLayer::Post => "of the heads' features".into(),
    };
    let align = match pairs.is_empty() {
        true => "No alignment.".into(),
        false => format!("Alignment of {form} {layer}: {}.", pairs.join(", ")),
    };
    Ok(format!("Self-MM over {}, {labels}. {align}", parts.join(", ")))
}
