//! The sections of a configuration, as files have them, but for those that a model adds.

use crate::data::{Lacking, Modality, Normalize, TaskKind, listed};
use crate::error::Result;
use crate::nn::Group;
use crate::train::metrics::Convention;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Table;

/// What the labels of a data set mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// How metrics are computed: `mosi` (also MOSEI) or `sims`.
    pub convention: Convention,
    /// Labels lie within ± this.
    pub label_range: f64,
    /// Take labels beyond it for the nearest one within, instead of refusing them.
    #[serde(default)]
    pub clip_labels: bool,
    /// Rows that are made to lack modalities: `train` and `test`, shares of rows for each modality;
    /// `train_has` and `test_has`, combinations that rows are dealt to. Validation rows are as training rows.
    #[serde(default)]
    pub missing: Lacking,
}

/// What is to be predicted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// `auto`, as the data say; `regression`, `classes` or `labels`.
    pub kind: TaskChoice,
    /// `none`, or `balanced`: rare classes and labels count more, so that each has as much to say.
    pub class_weights: ClassWeights,
    /// Share of a class target that is spread over all classes.
    pub label_smoothing: f64,
}

/// What is to be predicted, where a configuration says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskChoice {
    /// What the data's targets most likely are.
    #[default]
    Auto,
    /// Numbers.
    Regression,
    /// A class.
    Classes,
    /// Several labels.
    Labels,
}

impl TaskChoice {
    /// The kind that was chosen; nothing where the data decide.
    pub fn kind(self) -> Option<TaskKind> {
        match self {
            TaskChoice::Auto => None,
            TaskChoice::Regression => Some(TaskKind::Regression),
            TaskChoice::Classes => Some(TaskKind::Classes),
            TaskChoice::Labels => Some(TaskKind::Labels),
        }
    }
}

/// How much classes and labels count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All alike.
    #[default]
    None,
    /// By how rare they are among the training rows.
    Balanced,
}

/// Optimisation and schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of an optimiser step.
    pub accumulate: usize,
    /// Average accumulated gradients instead of summing them.
    pub average: bool,
    /// Step on the incomplete group at an epoch's end instead of dropping its gradients.
    pub keep_tail: bool,
    /// Shuffle the training rows every epoch.
    pub shuffle: bool,
    /// Of initial parameters, order and dropout.
    pub seed: u64,
    /// Stop after this many epochs at the latest.
    pub max_epochs: usize,
    /// Stop after this many epochs without a better validation loss; 0 never.
    pub early_stop: usize,
    /// What tells the best epoch: `loss`, the validation loss, or a score of the validation rows.
    #[serde(default = "by_loss")]
    pub metric_for_best_model: String,
    /// Standardise all streams but the text by the training split: `true`, `false`, or `"robust"`, by medians
    /// and quartiles, where some values are no measurements.
    pub normalize: Normalize,
    /// Clip the global gradient norm to this; 0 does not.
    pub clip_norm: f64,
    /// Clip each element of the gradients to ± this; 0 does not.
    #[serde(default)]
    pub clip_value: f64,
    /// Learning rates by part.
    pub lr: PartRates,
    /// L2 decay by part.
    pub decay: PartRates,
}

impl TrainConfig {
    /// The optimiser group of a part: torch's Adam with its rate and decay.
    pub(super) fn adam(&self, part: &str) -> Group {
        Group::adam(part, self.lr.get(part)).weight_decay(self.decay.get(part))
    }
}

/// A number for each part of the model that has its own optimiser group, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartRates(BTreeMap<String, f64>);

impl PartRates {
    /// Of these parts.
    pub fn of<const N: usize>(list: [(&str, f64); N]) -> Self {
        PartRates(list.map(|(name, value)| (name.to_string(), value)).into())
    }

    /// That of a part; 0 for one that is not there.
    pub fn get(&self, part: &str) -> f64 {
        self.0.get(part).copied().unwrap_or(0.0)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

/// How the text tensor becomes a text representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextEncoder {
    /// Position 0 of the text tensor, passed on unchanged.
    Features,
    /// An LSTM over the text tensor.
    Lstm,
    /// A pretrained encoder (BERT, RoBERTa, DistilBERT, MPNet) over the tokens of the text.
    Bert,
    /// Vectors of the token ids of `text_bert`, learned from the start, in a model that has such a table.
    Table,
}

/// What an encoder's hidden states become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The last hidden state at position 0, as the method has it; no pooler.
    First,
    /// The mean over the tokens.
    Mean,
}

/// Where tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The sentences where the data has them, else its token ids.
    Auto,
    /// `raw_text` of the side file, through the encoder's own tokenizer.
    RawText,
    /// `text_bert`, which must be of the encoder's vocabulary, or BERT's where MPNet's is that one moved.
    TextBert,
}

/// The pretrained text encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Its Hugging Face folder: a BERT, RoBERTa, DistilBERT or MPNet.
    pub path: String,
    /// `auto`, `raw_text` or `text_bert`.
    pub input: TokenSource,
    /// Longer sentences are cut to this many tokens, `[CLS]` and `[SEP]` among them.
    pub max_tokens: usize,
    /// `first` or `mean`.
    pub pooling: Pooling,
    /// Train it; otherwise its outputs are computed once and kept.
    pub finetune: bool,
    /// Leave the embeddings as they are.
    pub freeze_embeddings: bool,
    /// Leave the first layers as they are, and the embeddings with them.
    pub freeze_layers: usize,
    /// Of hidden states and attention probabilities in training; negative: as its config.json
    /// says.
    pub dropout: f64,
    /// Keep only each layer's input for the backward and compute the rest again.
    pub checkpoint: bool,
    /// Store the matrices of frozen layers as f16: half the memory and half the reading; products
    /// are still f32. It needs `bert.freeze_layers` or `bert.finetune=false`. A model that is saved
    /// holds what was computed with, the rounded values.
    #[serde(default)]
    pub half: bool,
}

/// Which model, what it reads, and its own keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Its name in the [registry](super::MODELS).
    #[serde(default = "first_model")]
    pub name: String,
    /// `features`, `lstm`, `bert` or `table`.
    pub text_encoder: TextEncoder,
    /// Streams to use of those that the data has: `all`, letters of text, audio and vision (`TAV`, `T`), or
    /// names with a + between (`T+image`, `text+image`).
    pub modalities: String,
    /// Keys of the model's own.
    #[serde(flatten)]
    pub own: Table,
}

/// The only model that files named when they did not name one.
pub(super) fn first_model() -> String {
    "self_mm".into()
}

/// The validation loss, as the field's trainers choose.
pub(super) fn by_loss() -> String {
    "loss".into()
}

impl ModelConfig {
    /// Whether a stream is to be used, where the data has it.
    pub fn wants(&self, modality: Modality) -> bool {
        self.wanted().is_ok_and(|wanted| wanted.is_none_or(|all| all.contains(&modality)))
    }

    /// Whether none is named, and so all are.
    pub(super) fn wants_all(&self) -> bool {
        self.modalities == ALL_STREAMS
    }

    /// The streams to use, where they are named.
    pub(super) fn wanted(&self) -> Result<Option<Vec<Modality>>> {
        if self.wants_all() { Ok(None) } else { listed(&self.modalities).map(Some) }
    }
}

/// What [`ModelConfig::modalities`] is where every stream is wanted.
pub(super) const ALL_STREAMS: &str = "all";

/// A size for each stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByStream {
    /// Of text.
    pub text: usize,
    /// Of audio.
    pub audio: usize,
    /// Of vision.
    pub vision: usize,
    /// Of each stream of another name.
    #[serde(default = "ByStream::usual")]
    pub other: usize,
}

impl ByStream {
    /// Of other streams in files that were written when there were none.
    fn usual() -> usize {
        32
    }

    /// That of a stream.
    pub(super) fn of(&self, modality: Modality) -> usize {
        match modality {
            Modality::Text => self.text,
            Modality::Audio => self.audio,
            Modality::Vision => self.vision,
            Modality::Other(_) => self.other,
        }
    }

    /// By name.
    pub(super) fn list(&self) -> [(&'static str, usize); 4] {
        [("text", self.text), ("audio", self.audio), ("vision", self.vision), ("other", self.other)]
    }
}

/// A size for each of text, audio and vision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BySense {
    /// Of text.
    pub text: usize,
    /// Of audio.
    pub audio: usize,
    /// Of vision.
    pub vision: usize,
}
