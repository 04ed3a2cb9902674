//! MMCL, arXiv:2210.14556: audio and vision that learn by contrast what lasts under noise, and text that learns
//! to predict them. A **reconstruction**: of the paper no more than the abstract and what others wrote of it was
//! at hand, which name the parts (uni-modal contrastive coding, cross-modal prediction by two networks of one
//! shape, contrast by instance and by sentiment); sizes, weights and all formulas are decisions of this house.
//!
//! ```text
//! h_t = Linear(vector, LSTM or BERT of the text)   h_s = Linear(last valid state of LSTM(x_s))    s of audio, vision
//! p_s = predict_s(h_t)                             g_s(h) = code_s(h), in training alone
//! ŷ = fuse [h_t, h_s.., p_s..]                     predict, code and fuse: Linear, ReLU, Linear
//! L = |ŷ − y|  +  w_c Σ_s NT-Xent(g_s(h_s of one view), g_s(h_s of another))
//!              +  w_i Σ_s CE(cos(p_s, h_s) / τ, i for row i)  +  w_s Σ_s contrast of p_s by the sign of y
//! ```
//!
//! A view is a row without one run of its steps, without some channels and with noise ([`Tape::views`]); both are
//! drawn anew at each step. Of classes the loss is the cross-entropy, and the sentiment's contrast is by class. A
//! batch of one row has no contrast.
//!
//! [`Tape::views`]: crate::tape::Tape::views

mod settings;
mod terms;

pub(super) use settings::{PRESETS, check, preset};

use super::blocks::{BERT, Text, text};
use super::config::{Config, TextEncoder};
use super::cx::Cx;
use super::goal::Distance;
use super::model::Offered;
use super::recipe::{Column, Columns, Counts, Output, Recipe};
use super::subnets::GROUP;
use crate::data::{Modality, Reads, StreamSpec, TaskKind};
use crate::error::{Error, Result};
use crate::nn::contrast::ProjectionHead;
use crate::nn::{Bert, Group, LstmEncoder, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::tape::Var;
use settings::{Own, Settings};

/// Columns of the log.
const CODING: &str = "coding";
const INSTANCE: &str = "instance";
const SENTIMENT: &str = "sentiment";

/// Audio or vision.
struct Sense {
    spec: StreamSpec,
    encoder: LstmEncoder,
    code: ProjectionHead,
    predict: ProjectionHead,
}

pub(super) struct Mmcl {
    config: Config,
    settings: Settings,
    text: Text,
    /// The text's LSTM, where it has one.
    lstm: Option<LstmEncoder>,
    senses: Vec<Sense>,
    /// Which rows are alike is said by the class, not by the sign of a number.
    classes: bool,
    outputs: usize,
}

impl Mmcl {
    pub(super) fn new(config: &Config, offered: Offered<'_>) -> Result<Self> {
        let settings: Settings = config.settings()?;
        let Own { hidden, width, shared_predictor, .. } = settings.model;
        let classes = offered.task.kind == TaskKind::Classes;
        if !classes && !offered.task.one_number() {
            return Err(Error::Config(format!(
                "mmcl tells rows apart by the sign of one number or by one class, and the data has {}: use another \
                 model (modalign models), or choose other targets by task.kind",
                offered.task.about()
            )));
        }
        let lstm = |spec: StreamSpec, hidden: usize| LstmEncoder {
            name: format!("{}_encoder", spec.modality),
            inputs: spec.dim,
            pitch: spec.dim.next_multiple_of(4),
            hidden,
            layers: 1,
            bidirectional: false,
            out: width,
            dropout: 0.0,
            group: GROUP.into(),
        };
        let sense = |(modality, hidden): (Modality, usize)| {
            let spec = offered.wanted(config, modality)?;
            let predictor =
                if shared_predictor { "predict".into() } else { format!("predict_{modality}") };
            Some(Sense {
                spec: StreamSpec { lengths: true, ..spec },
                encoder: lstm(spec, hidden),
                code: ProjectionHead::square(format!("code_{modality}"), width, GROUP),
                predict: ProjectionHead::square(predictor, width, GROUP),
            })
        };
        let senses = [(Modality::Audio, hidden.audio), (Modality::Vision, hidden.vision)];
        let senses: Vec<Sense> = senses.into_iter().filter_map(sense).collect();
        let (Some(text), false) = (text(config, offered), senses.is_empty()) else {
            return Err(Error::Config(format!(
                "mmcl predicts audio, vision or both from text, so it wants text and one of them: model.modalities \
                 is '{}', and the streams of the data are: {}{}",
                config.model.modalities,
                offered.names(),
                offered.unread()
            )));
        };
        let reads_all = config.model.text_encoder == TextEncoder::Lstm;
        let (text, lstm) = match text {
            Text::Features(spec) if reads_all => {
                let spec = StreamSpec { lengths: true, ..spec };
                (Text::Features(spec), Some(lstm(spec, hidden.text)))
            }
            // What a pretrained encoder has left at its first position stands for the whole.
            Text::Features(spec) => {
                (Text::Features(StreamSpec { steps: 1, lengths: false, ..spec }), None)
            }
            bert => (bert, None),
        };
        let outputs = offered.task.outputs();
        Ok(Mmcl { config: config.clone(), settings, text, lstm, senses, classes, outputs })
    }

    /// Columns that the fusion reads.
    fn fused(&self) -> usize {
        let each = if self.settings.model.predict { 2 } else { 1 };
        self.settings.model.width * (1 + each * self.senses.len())
    }
}

impl Recipe for Mmcl {
    fn reads(&self) -> Reads {
        let text = match &self.text {
            Text::Features(spec) => Some(*spec),
            Text::Bert(_) => None,
        };
        let streams = text.into_iter().chain(self.senses.iter().map(|s| s.spec)).collect();
        let tokens = self.bert().map(|b| b.shape.tables());
        Reads { streams, tokens, ..Reads::default() }
    }

    fn bert(&self) -> Option<&Bert> {
        self.text.bert()
    }

    fn params(&self, train: bool, limit: usize) -> Vec<ParamSpec> {
        let Own { width, predict, shared_predictor, .. } = self.settings.model;
        let mut specs = self.bert().map(|b| b.specs(limit)).unwrap_or_default();
        specs.extend(
            self.lstm
                .iter()
                .chain(self.senses.iter().map(|s| &s.encoder))
                .flat_map(LstmEncoder::specs),
        );
        if self.lstm.is_none() {
            let size = self.text.width();
            let sizes = (size, size.next_multiple_of(4), width);
            specs.extend(linear_specs("text_encoder.linear_1", sizes, true, GROUP));
        }
        if train && self.settings.contrast.coding > 0.0 {
            specs.extend(self.senses.iter().flat_map(|s| s.code.specs()));
        }
        if predict {
            let networks = if shared_predictor { 1 } else { self.senses.len() };
            specs.extend(self.senses[..networks].iter().flat_map(|s| s.predict.specs()));
        }
        specs.extend(linear_specs("fuse.0", (self.fused(), self.fused(), width), true, GROUP));
        specs.extend(linear_specs("fuse.2", (width, width, self.outputs), true, GROUP));
        specs
    }

    fn groups(&self) -> Vec<Group> {
        [GROUP, BERT].map(|name| self.config.train.adam(name)).to_vec()
    }

    fn columns(&self) -> Columns {
        let (c, predict) = (self.settings.contrast, self.settings.model.predict);
        let mut all = Columns::task().list().to_vec();
        let terms = [
            (CODING, "the contrast of two views of a row", c.coding),
            (INSTANCE, "the contrast of predictions by row", c.instance),
            (SENTIMENT, "the contrast of predictions by sentiment", c.sentiment),
        ];
        let on = terms.into_iter().filter(|(name, _, w)| *w > 0.0 && (predict || *name == CODING));
        all.extend(on.map(|(name, what, weight)| Column {
            name: name.into(),
            what: what.into(),
            counts: Counts::Times(weight),
        }));
        Columns::new(all)
    }

    fn outputs(&self) -> Vec<Output> {
        let width = self.settings.model.width;
        let of = |kind: &str, m: Modality| Output::representation(format!("{kind} {m}"), width);
        let mut all = vec![Output::score("M", self.outputs), of("encoded", Modality::Text)];
        all.extend(self.senses.iter().map(|s| of("encoded", s.spec.modality)));
        if self.settings.model.predict {
            all.extend(self.senses.iter().map(|s| of("predicted", s.spec.modality)));
        }
        all.push(Output::representation("feature M", width));
        all
    }

    fn record(&self, cx: &mut Cx<'_>) -> Result<()> {
        let (text, own, views) = self.encoded(cx)?;
        let made: Result<Vec<Var>> = match self.settings.model.predict {
            true => {
                self.senses.iter().map(|s| s.predict.record(cx.tape, cx.params, text)).collect()
            }
            false => Ok(Vec::new()),
        };
        let made = made?;
        let read = [&[text], &own[..], &made].concat();
        let read = cx.tape.concat(&read)?;
        cx.output("encoded text", read)?;
        let feature = linear(cx.tape, cx.params, "fuse.0", read, Act::Relu)?;
        cx.output("feature M", feature)?;
        let score = linear(cx.tape, cx.params, "fuse.2", feature, Act::None)?;
        cx.output("M", score)?;
        if !cx.training() {
            return Ok(());
        }
        cx.task_loss("M", score, Distance::Absolute)?;
        self.contrast(cx, &own, &views, &made)
    }
}
