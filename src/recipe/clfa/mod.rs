//! CLFA, arXiv:2403.06355: text and pictures are brought near to frozen embeddings of the same pair before they are
//! fused, without external knowledge.
//!
//! ```text
//! T = mlp_text(x_t)       I_m = mlp_m(x_m)            x_t states of a BERT, vectors of token ids, or features
//! f_s = mean of the steps of mlp_s, of text and vision              mlp = linear relu linear
//! each layer: T ← att(T, T)    T ← att(T, I_m) for each m in turn    T ← two layers, all with norms behind
//! z = head(mean of the tokens of T)
//! L = α Σ_s ½ (CE by rows + CE by columns of cos(f_s, g_s) / τ, i to i) + β CE(z, y)
//! ```
//!
//! The guides g_s are streams of the data, CLIP's vectors of text and picture say; of several steps they are the mean.
//! They are never standardised, learn nothing, and are read in training alone. Where a guide is not as wide as
//! the model, a linear layer leads from f_s to its space. Every stream beside the text is asked, vision first.
//!
//! This is what the release calls its model without knowledge: it adds no word lists' and no grammar's bias to
//! attention. Other than there: as many classes as the data have; words of the picture are a stream with an
//! MLP of its own instead of a second text of the same BERT; where gradients are clipped it is by the norm of
//! all of them and not of each parameter's. Sizes and rates of the presets are smaller than the release's
//! (width 512, 8 heads, 1536 between the layers of an MLP, batches of 8, rate 1e-5 for everything), as for data
//! of some thousand rows; a BERT has the release's.

mod settings;

pub(super) use settings::{BERT_PREFIX, PRESETS, check, preset};

use super::blocks::{Averaged, Text};
use super::config::Config;
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Column, Columns, Counts, Output, Recipe};
use super::sections::TextEncoder;
use super::self_mm::pretrained;
use super::subnets::GROUP;
use crate::data::{Modality, Reads, StreamSpec, TaskKind};
use crate::error::{Error, Result};
use crate::nn::contrast::{ProjectionHead, Units, matched_both_ways};
use crate::nn::transformer::{AttentionBlock, FeedForwardBlock, NormAt, Residual, Sequences};
use crate::nn::{Bert, BertShape, Group, ParamSpec, Reading, linear, linear_specs};
use crate::ops::Act;
use crate::tape::Var;
use settings::{BERT, EPS, Guide, Own, PLAIN, Settings, Steps, begun, groups, guides};

pub(super) struct Clfa {
    config: Config,
    own: Own,
    schedule: Steps,
    text: Text,
    /// Vision, then the others.
    others: Vec<StreamSpec>,
    guides: Vec<Guide>,
    classes: usize,
}

impl Clfa {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let Settings { model: own, schedule } = config.settings()?;
        let refuse = |why: String| Err(Error::Config(format!("clfa {why}")));
        if offered.task.kind != TaskKind::Classes {
            return refuse(format!(
                "learns to tell classes apart, and the data has {}: give it class_labels \
                 (task.kind=classes where it has both), or use another model",
                offered.task.about()
            ));
        }
        let has = format!(
            "model.modalities is '{}', and the streams of the data are: {}{}",
            config.model.modalities,
            offered.names(),
            offered.unread()
        );
        let bert = offered.bert.filter(|_| config.model.wants(Modality::Text));
        let text = match (config.model.text_encoder, bert) {
            (TextEncoder::Bert, Some(shape)) => Text::Bert(Box::new(Bert {
                prefix: BERT_PREFIX.into(),
                groups: (BERT.into(), PLAIN[1].into()),
                ..pretrained(config, shape)
            })),
            (TextEncoder::Table, Some(shape)) => Text::Bert(Box::new(Bert {
                prefix: BERT_PREFIX.into(),
                groups: (GROUP.into(), PLAIN[0].into()),
                dropout: (own.dropout as f32, 0.0),
                ..Bert::new(BertShape { hidden: own.width, ..*shape })
            })),
            _ => match offered.wanted(config, Modality::Text) {
                Some(spec) => Text::Features(spec),
                None => {
                    return refuse(format!(
                        "asks other streams by the text, and there is none: {has}"
                    ));
                }
            },
        };
        let named = [&own.guide.text, &own.guide.vision];
        // Vectors that are there to guide are no input, unless they are asked for by name.
        let guide = |m: Modality| {
            let other = matches!(m, Modality::Other(_)) && own.alpha > 0.0;
            other && named.iter().any(|name| *name == m.name()) && config.model.wants_all()
        };
        let wanted =
            |s: &&StreamSpec| config.model.wants(s.modality) && s.modality != Modality::Text;
        let mut others: Vec<StreamSpec> =
            offered.streams.iter().filter(wanted).filter(|s| !guide(s.modality)).copied().collect();
        others.sort_by_key(|s| (s.modality != Modality::Vision, s.modality));
        if others.is_empty() {
            return refuse(format!(
                "fuses text with other streams, and there is none beside it: {has}"
            ));
        }
        let guides = guides(config, &own, offered, (&text, &others))?;
        let (config, classes) = (config.clone(), offered.task.outputs());
        Ok(Clfa { config, own, schedule, text, others, guides, classes })
    }

    /// What is read beside tokens: text that comes as features, then the others.
    fn streams(&self) -> Vec<StreamSpec> {
        let text = match &self.text {
            Text::Features(spec) => Some(*spec),
            Text::Bert(_) => None,
        };
        text.into_iter().chain(self.others.iter().copied()).collect()
    }

    /// Every stream, the text first, with its columns as they are and as they are stored.
    fn inputs(&self) -> Vec<(Modality, (usize, usize))> {
        let stored = |dim: usize| (dim, dim.next_multiple_of(4));
        let others = self.others.iter().map(|s| (s.modality, stored(s.dim)));
        std::iter::once((Modality::Text, stored(self.text.width()))).chain(others).collect()
    }

    fn mlp(&self, (of, inputs): (Modality, (usize, usize))) -> ProjectionHead {
        let Own { hidden: inner, width: out, .. } = self.own;
        ProjectionHead { name: format!("mlp_{of}"), inputs, inner, out, group: GROUP.into() }
    }

    fn guide(&self, of: Modality) -> Option<&Guide> {
        self.guides.iter().find(|guide| guide.of == of)
    }

    /// Columns of the vector of a stream: of its guide's where it has one.
    fn aligned(&self, of: Modality) -> usize {
        self.guide(of).map_or(self.own.width, |guide| guide.dim)
    }

    fn residual(&self, name: String) -> Residual {
        let (width, dropout, group) = (self.own.width, self.own.dropout as f32, GROUP.into());
        Residual { name, width, norm: NormAt::Behind, eps: EPS, dropout, group }
    }

    /// The blocks of a layer: what asks itself and the others in turn, and the two layers.
    fn layer(&self, i: usize) -> (Vec<AttentionBlock>, FeedForwardBlock) {
        let Own { heads, width, inner, dropout, .. } = self.own;
        let attention = |name: String, asks: Option<usize>| AttentionBlock {
            residual: self.residual(format!("layer.{i}.{name}")),
            asks,
            heads,
            head: width / heads,
            bias: true,
            dropout: dropout as f32,
        };
        let mut all = vec![attention("attention".into(), None)];
        let name = |s: &StreamSpec| format!("crossattention_{}", s.modality);
        all.extend(self.others.iter().map(|s| attention(name(s), Some(width))));
        let residual = self.residual(format!("layer.{i}"));
        (all, FeedForwardBlock { residual, inner, act: Act::Gelu, dropout: 0.0 })
    }

    /// The text behind its MLP, how it lies, and the mean of its steps.
    fn tokens(&self, cx: &mut Cx<'_>) -> Result<(Var, Sequences, Averaged)> {
        let mlp = self.mlp(self.inputs()[0]);
        let Text::Bert(bert) = &self.text else {
            let stream = cx.stream(0)?;
            let x = mlp.record(cx.tape, cx.params, stream.values)?;
            return Ok((x, Sequences::Padded(stream.lengths), Averaged::Stream(stream)));
        };
        let (t, train) = (cx.tokens()?, cx.training());
        let x = bert.record(cx.tape, cx.params, &t, Reading::All, train)?;
        let x = mlp.record(cx.tape, cx.params, x)?;
        let steps = self.config.bert.max_tokens.min(bert.shape.tokens());
        let lie = Sequences::Packed { tokens: t.tokens, spans: t.spans, steps };
        Ok((x, lie, Averaged::Tokens(t.tokens, t.spans)))
    }

    /// The vector of a stream, `[batch, columns]`, of the mean of its steps; in training what it is off its guide.
    fn align(&self, cx: &mut Cx<'_>, of: Modality, mean: Var) -> Result<()> {
        let (at, own) = (self.guides.iter().position(|guide| guide.of == of), &self.own);
        let f = match self.aligned(of) == own.width {
            true => mean,
            false => linear(cx.tape, cx.params, &format!("align_{of}"), mean, Act::None)?,
        };
        cx.output(&format!("encoded {of}"), f)?;
        let Some(at) = at.filter(|_| cx.training()) else { return Ok(()) };
        let guide = cx.guide(at)?;
        let pairs = Units::pair(cx.tape, f, guide)?;
        let loss = matched_both_ways(cx.tape, pairs, own.tau as f32)?;
        cx.loss(&format!("align_{of}"), loss)
    }
}

impl Recipe for Clfa {
    fn reads(&self) -> Reads {
        let tokens = self.bert().map(|bert| bert.shape.tables());
        let guides = self.guides.iter().map(|guide| (guide.by, guide.dim)).collect();
        Reads { streams: self.streams(), tokens, guides, ..Reads::default() }
    }

    fn bert(&self) -> Option<&Bert> {
        self.text.bert()
    }

    fn params(&self, _: bool, limit: usize) -> Vec<ParamSpec> {
        let width = self.own.width;
        let mut specs = self.bert().map(|bert| bert.specs(limit)).unwrap_or_default();
        if self.config.model.text_encoder == TextEncoder::Table {
            specs.iter_mut().for_each(|spec| spec.init = begun(&spec.name));
        }
        specs.extend(self.inputs().into_iter().flat_map(|input| self.mlp(input).specs()));
        for Guide { of, dim, .. } in self.guides.iter().filter(|guide| guide.dim != width) {
            specs.extend(linear_specs(&format!("align_{of}"), (width, width, *dim), true, GROUP));
        }
        for i in 0..self.own.layers {
            let (attention, two) = self.layer(i);
            specs.extend(attention.iter().flat_map(AttentionBlock::specs).chain(two.specs()));
        }
        specs.extend(linear_specs("head", (width, width, self.classes), true, GROUP));
        let plain = |name: &str| name.ends_with("bias") || name.contains("LayerNorm");
        for spec in specs.iter_mut().filter(|spec| spec.group == GROUP && plain(&spec.name)) {
            spec.group = PLAIN[0].into();
        }
        specs
    }

    fn groups(&self) -> Vec<Group> {
        groups(&self.config, self.schedule)
    }

    fn columns(&self) -> Columns {
        let column = |name: String, what: String, weight: f64| Column {
            name,
            what,
            counts: Counts::Times(weight),
        };
        let task = column("M".into(), "the loss of task M".into(), self.own.beta);
        let aligned = self.guides.iter().map(|Guide { of, by, .. }| {
            let what = format!("how far {of} is from its guide, {by}");
            column(format!("align_{of}"), what, self.own.alpha)
        });
        Columns::new(std::iter::once(task).chain(aligned).collect())
    }

    fn outputs(&self) -> Vec<Output> {
        let mut all = vec![Output::score("M", self.classes)];
        let encoded = self
            .inputs()
            .into_iter()
            .map(|(of, _)| Output::representation(format!("encoded {of}"), self.aligned(of)));
        all.extend(encoded);
        all.push(Output::representation("feature M", self.own.width));
        all
    }

    fn retrieved(&self) -> Option<[Modality; 2]> {
        let sides = [Modality::Text, self.others[0].modality];
        (self.aligned(sides[0]) == self.aligned(sides[1])).then_some(sides)
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (train, own) = (cx.training(), &self.own);
        let (mut t, lie, averaged) = self.tokens(cx)?;
        let mean = averaged.mean(cx, t)?;
        self.align(cx, Modality::Text, mean)?;
        let first = self.streams().len() - self.others.len();
        let mut asked = Vec::new();
        for (i, input) in self.inputs().into_iter().skip(1).enumerate() {
            let stream = cx.stream(first + i)?;
            let x = self.mlp(input).record(cx.tape, cx.params, stream.values)?;
            let mean = Averaged::Stream(stream).mean(cx, x)?;
            self.align(cx, input.0, mean)?;
            asked.push(Some((x, stream.lengths)));
        }
        for i in 0..own.layers {
            let (attention, two) = self.layer(i);
            for (block, other) in attention.iter().zip(std::iter::once(None).chain(asked.clone())) {
                t = block.record(cx.tape, cx.params, (t, lie), other, train)?;
            }
            t = two.record(cx.tape, cx.params, t, train)?;
        }
        let x = averaged.mean(cx, t)?;
        cx.output("feature M", x)?;
        let p = cx.dropout(own.dropout as f32);
        let x = if p > 0.0 { cx.tape.dropout(x, p)? } else { x };
        let score = linear(cx.tape, cx.params, "head", x, Act::None)?;
        cx.output("M", score)?;
        if train { cx.task_loss("M", score, Distance::Absolute) } else { Ok(()) }
    }
}
