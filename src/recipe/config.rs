//! Everything that can be set about a run, its presets, and how files and `--set` change it.

use super::overlay::{flatten, nearest, one_line, overlay, set};
use crate::error::{Error, Result};
use crate::train::metrics::Convention;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// A run's full configuration, as `config.toml` in a run folder holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The preset this began as.
    pub preset: String,
    /// The data set's conventions.
    pub data: DataConfig,
    /// Optimisation and schedule.
    pub train: TrainConfig,
    /// Encoders, fusion and heads.
    pub model: ModelConfig,
    /// The pairwise covariance term.
    pub align: AlignConfig,
    /// Unimodal label generation.
    pub labels: LabelConfig,
    /// The pretrained text encoder, where `model.text_encoder` is `bert`.
    pub bert: BertConfig,
}

/// What the labels of a data set mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// How metrics are computed: `mosi` (also MOSEI) or `sims`.
    pub convention: Convention,
    /// Labels lie within ± this.
    pub label_range: f64,
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
    /// Standardise audio and vision by the training split.
    pub normalize: bool,
    /// Clip the global gradient norm to this; 0 does not.
    pub clip_norm: f64,
    /// Learning rates by part.
    pub lr: PartRates,
    /// L2 decay by part.
    pub decay: PartRates,
}

/// A number for each part of the model that has its own optimiser group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRates {
    /// A text LSTM.
    pub text: f64,
    /// A pretrained text encoder; its biases and LayerNorms have no decay.
    pub bert: f64,
    /// The audio encoder.
    pub audio: f64,
    /// The vision encoder.
    pub vision: f64,
    /// Fusion, heads and alignment projections.
    pub other: f64,
}

/// How the text tensor becomes a text representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextEncoder {
    /// Position 0 of the text tensor, passed on unchanged.
    Features,
    /// An LSTM over the text tensor.
    Lstm,
    /// A pretrained BERT over the tokens of the text.
    Bert,
}

/// What a BERT's hidden states become.
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
    /// `text_bert`, which must be of the encoder's vocabulary.
    TextBert,
}

/// The pretrained text encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Its Hugging Face folder.
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

/// Encoders, fusion and heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// `features`, `lstm` or `bert`.
    pub text_encoder: TextEncoder,
    /// Modalities to use of those that the data has, as letters: `TAV`, `TA`, `T`, …
    pub modalities: String,
    /// LSTM layers of the sequence encoders.
    pub layers: usize,
    /// Whether the LSTMs read both ways.
    pub bidirectional: bool,
    /// LSTM hidden sizes.
    pub hidden: BySense,
    /// Encoder output sizes (an LSTM's, after its linear layer).
    pub out: BySense,
    /// Sizes of the heads' features.
    pub post: PostSizes,
    /// Dropout probabilities; `model.dropout = 0` sets them all.
    pub dropout: Dropouts,
}

/// A size for each modality.
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

/// Sizes of the four heads' features.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostSizes {
    /// Of the fused head.
    pub fusion: usize,
    /// Of the text head.
    pub text: usize,
    /// Of the audio head.
    pub audio: usize,
    /// Of the vision head.
    pub vision: usize,
}

/// Dropout probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropouts {
    /// Before the fused head.
    pub fusion: f64,
    /// Before the text head.
    pub text: f64,
    /// Before the audio head.
    pub audio: f64,
    /// Before the vision head.
    pub vision: f64,
    /// Between LSTM layers, and after the last state.
    pub lstm: f64,
}

/// Where the covariance term looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlignLayer {
    /// Encoder outputs, each through a bias-free projection to `align.dim`.
    Projection,
    /// The heads' features, whose sizes must agree.
    Post,
}

/// The pairwise covariance term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignConfig {
    /// `projection` or `post`.
    pub layer: AlignLayer,
    /// Size of the common space.
    pub dim: usize,
    /// Compare correlations: standardise the features over the batch first.
    pub standardize: bool,
    /// Where a negative weight stops separating.
    pub margin: f64,
    /// Weights of the pairs: positive aligns, zero leaves alone, negative separates.
    pub weight: PairWeights,
}

/// A weight for each pair of modalities.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairWeights {
    /// Text and audio.
    pub ta: f64,
    /// Text and vision.
    pub tv: f64,
    /// Audio and vision.
    pub av: f64,
}

/// Unimodal label generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// Without it the fused head is trained alone.
    pub enabled: bool,
    /// Generated labels stay within ± this.
    pub clamp: f64,
    /// Zero labels belong to neither class; otherwise to the positive one.
    pub exclude_zero: bool,
    /// Squared distances to the class centres.
    pub squared: bool,
}

/// Names of the presets.
pub const PRESETS: [&str; 4] = ["mosi", "mosei", "sims", "simsv2"];

impl Default for Config {
    fn default() -> Self {
        Config {
            preset: "mosi".into(),
            data: DataConfig { convention: Convention::Mosi, label_range: 3.0 },
            train: TrainConfig {
                batch_size: 16,
                accumulate: 4,
                average: false,
                keep_tail: false,
                shuffle: true,
                seed: 1111,
                max_epochs: 100,
                early_stop: 8,
                normalize: true,
                clip_norm: 0.0,
                lr: PartRates { text: 1e-3, bert: 5e-5, audio: 5e-3, vision: 5e-3, other: 1e-3 },
                decay: PartRates { text: 1e-3, bert: 1e-3, audio: 1e-3, vision: 1e-3, other: 1e-3 },
            },
            model: ModelConfig {
                text_encoder: TextEncoder::Features,
                modalities: "TAV".into(),
                layers: 1,
                bidirectional: false,
                hidden: BySense { text: 32, audio: 16, vision: 32 },
                out: BySense { text: 32, audio: 16, vision: 32 },
                post: PostSizes { fusion: 128, text: 32, audio: 16, vision: 32 },
                dropout: Dropouts { fusion: 0.0, text: 0.1, audio: 0.1, vision: 0.0, lstm: 0.0 },
            },
            align: AlignConfig {
                layer: AlignLayer::Projection,
                dim: 16,
                standardize: false,
                margin: 1.0,
                weight: PairWeights { ta: 100.0, tv: 100.0, av: 100.0 },
            },
            labels: LabelConfig { enabled: true, clamp: 3.0, exclude_zero: true, squared: false },
            bert: BertConfig {
                path: String::new(),
                input: TokenSource::Auto,
                max_tokens: 50,
                pooling: Pooling::First,
                finetune: true,
                freeze_embeddings: false,
                freeze_layers: 0,
                dropout: -1.0,
                checkpoint: false,
                half: false,
            },
        }
    }
}

impl Config {
    /// MMSA's maintained settings of Self-MM for a data set (method notes 2.2); what MMSA does
    /// not have (alignment, the LSTM text encoder) is this project's choice.
    ///
    /// # Errors
    /// An unknown name.
    pub fn preset(name: &str) -> Result<Self> {
        let mut c = Config { preset: name.into(), ..Config::default() };
        match name {
            "mosi" => {}
            "mosei" => {
                c.train.batch_size = 32;
                c.train.lr.vision = 1e-4;
                (c.train.decay.audio, c.train.decay.vision, c.train.decay.other) = (0.0, 0.0, 0.01);
                c.model.dropout =
                    Dropouts { fusion: 0.1, text: 0.0, audio: 0.0, vision: 0.0, lstm: 0.0 };
            }
            "sims" => {
                c.data = DataConfig { convention: Convention::Sims, label_range: 1.0 };
                c.train.batch_size = 32;
                (c.train.decay.audio, c.train.decay.vision) = (0.01, 0.01);
                c.model.hidden.vision = 64;
                c.model.post.text = 64;
                c.labels.clamp = 1.0;
            }
            "simsv2" => {
                c.data = DataConfig { convention: Convention::Sims, label_range: 1.0 };
                (c.train.lr.audio, c.train.lr.vision) = (1e-3, 1e-3);
                c.train.decay =
                    PartRates { text: 0.01, bert: 0.01, audio: 0.0, vision: 0.0, other: 1e-3 };
                c.model.hidden.vision = 64;
                c.model.post = PostSizes { fusion: 128, text: 64, audio: 32, vision: 32 };
                c.model.dropout =
                    Dropouts { fusion: 0.0, text: 0.0, audio: 0.1, vision: 0.0, lstm: 0.0 };
                // MMSA has 3 although the labels lie in [-1, 1]; kept, as its results are.
                c.labels.clamp = 3.0;
            }
            _ => {
                let close = nearest(name, PRESETS.iter().copied());
                return Err(Error::Config(format!(
                    "no preset '{name}', did you mean '{close}'? There are: {}",
                    PRESETS.join(", ")
                )));
            }
        }
        Ok(c)
    }

    /// A preset, then a TOML text, then `section.key=value` settings, in that order.
    ///
    /// # Errors
    /// An unknown key (naming the nearest known one), a value of the wrong type or out of range.
    pub fn build(preset: &str, file: Option<&str>, settings: &[String]) -> Result<Self> {
        let file: Table = match file {
            Some(text) => text.parse().map_err(|e: toml::de::Error| Error::Config(one_line(&e)))?,
            None => Table::new(),
        };
        // A preset is where the settings begin, wherever it is named.
        let named = settings.iter().rev().find_map(|s| s.trim().strip_prefix("preset="));
        let preset = match (named, file.get("preset")) {
            (Some(name), _) => name.trim(),
            (None, Some(Value::String(name))) => name.as_str(),
            _ => preset,
        };
        let mut all = Self::preset(preset)?.table()?;
        overlay(&mut all, &file, "")?;
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                Error::Config(format!("--set '{setting}': want section.key=value"))
            })?;
            set(&mut all, key.trim(), value.trim())?;
        }
        let config: Config =
            all.try_into().map_err(|e: toml::de::Error| Error::Config(one_line(&e)))?;
        config.validate()?;
        Ok(config)
    }

    /// As a TOML table.
    fn table(&self) -> Result<Table> {
        Table::try_from(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// As the text of a `config.toml`.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Config(e.to_string()))
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The key and what it may be.
    pub fn validate(&self) -> Result<()> {
        let fail = |key: &str, want: &str| Err(Error::Config(format!("{key}: want {want}")));
        let t = &self.train;
        for (key, value) in [
            ("train.batch_size", t.batch_size),
            ("train.accumulate", t.accumulate),
            ("train.max_epochs", t.max_epochs),
            ("model.layers", self.model.layers),
            ("align.dim", self.align.dim),
            ("model.out.text", self.model.out.text),
            ("model.out.audio", self.model.out.audio),
            ("model.out.vision", self.model.out.vision),
            ("model.post.fusion", self.model.post.fusion),
            ("model.post.text", self.model.post.text),
            ("model.post.audio", self.model.post.audio),
            ("model.post.vision", self.model.post.vision),
        ] {
            if value == 0 {
                return fail(key, "at least 1");
            }
        }
        let hidden = self.model.hidden;
        for (key, value) in [
            ("model.hidden.text", hidden.text),
            ("model.hidden.audio", hidden.audio),
            ("model.hidden.vision", hidden.vision),
        ] {
            if !(1..=256).contains(&value) {
                return fail(key, "1 to 256");
            }
        }
        let d = self.model.dropout;
        for (key, value) in [
            ("model.dropout.fusion", d.fusion),
            ("model.dropout.text", d.text),
            ("model.dropout.audio", d.audio),
            ("model.dropout.vision", d.vision),
            ("model.dropout.lstm", d.lstm),
        ] {
            if !(0.0..1.0).contains(&value) {
                return fail(key, "a probability from 0 to below 1");
            }
        }
        let letters = &self.model.modalities;
        let mut seen: Vec<char> = letters.chars().collect();
        seen.sort_unstable();
        seen.dedup();
        if letters.is_empty()
            || seen.len() != letters.len()
            || !letters.chars().all(|c| "TAV".contains(c))
        {
            return fail("model.modalities", "letters of TAV, each at most once");
        }
        let b = &self.bert;
        if !(b.dropout < 1.0 && b.dropout.is_finite()) {
            return fail("bert.dropout", "a probability below 1, or -1 for config.json's");
        }
        if !(3..=512).contains(&b.max_tokens) {
            return fail("bert.max_tokens", "3 to 512");
        }
        if self.model.text_encoder == TextEncoder::Bert && b.path.is_empty() {
            return fail("bert.path", "the folder of the pretrained encoder (--bert FOLDER)");
        }
        // Where nothing is frozen it would do nothing, and who asks for less memory should know.
        if b.half && b.finetune && b.freeze_layers == 0 {
            return fail(
                "bert.half",
                "bert.freeze_layers of 1 or more, or bert.finetune=false: only layers that are not \
                 trained are stored as f16",
            );
        }
        let w = self.align.weight;
        for (key, value, least) in [
            ("train.lr.text", t.lr.text, 0.0),
            ("train.lr.bert", t.lr.bert, 0.0),
            ("train.lr.audio", t.lr.audio, 0.0),
            ("train.lr.vision", t.lr.vision, 0.0),
            ("train.lr.other", t.lr.other, 0.0),
            ("train.decay.text", t.decay.text, 0.0),
            ("train.decay.bert", t.decay.bert, 0.0),
            ("train.decay.audio", t.decay.audio, 0.0),
            ("train.decay.vision", t.decay.vision, 0.0),
            ("train.decay.other", t.decay.other, 0.0),
            ("train.clip_norm", t.clip_norm, 0.0),
            ("labels.clamp", self.labels.clamp, 0.0),
            ("data.label_range", self.data.label_range, 0.0),
            ("align.margin", self.align.margin, 0.0),
            ("align.weight.ta", w.ta, f64::MIN),
            ("align.weight.tv", w.tv, f64::MIN),
            ("align.weight.av", w.av, f64::MIN),
        ] {
            if !value.is_finite() || value < least {
                let want = if least == 0.0 { "a number, 0 or more" } else { "a finite number" };
                return fail(key, want);
            }
        }
        Ok(())
    }

    /// Every key with its value, `section.key`, in order; what `--set` can change.
    pub fn keys(&self) -> Result<Vec<(String, String)>> {
        let mut keys = Vec::new();
        flatten(&self.table()?, "", &mut keys);
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[&str]) -> Result<Config> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Config::build("mosi", None, &settings)
    }

    #[test]
    fn settings_change_keys() {
        let c = with(&["train.batch_size=32", "align.weight.ta=-1", "model.dropout=0"]).unwrap();
        assert_eq!((c.train.batch_size, c.align.weight.ta), (32, -1.0));
        assert_eq!((c.model.dropout.text, c.model.dropout.audio), (0.0, 0.0));
        assert_eq!(
            with(&["model.text_encoder=lstm"]).unwrap().model.text_encoder,
            TextEncoder::Lstm
        );
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (key, near) in [
            ("train.batchsize=3", "train.batch_size"),
            ("align.wieght.ta=3", "align.weight.ta"),
            ("labels.enable=true", "labels.enabled"),
        ] {
            let message = with(&[key]).unwrap_err().to_string();
            assert!(message.contains(near), "{message}");
        }
        let file = Config::build("mosi", Some("[train]\nsead = 3"), &[]).unwrap_err().to_string();
        assert!(file.contains("train.sead") && file.contains("train.seed"), "{file}");
    }

    #[test]
    fn wrong_values_are_refused() {
        assert!(with(&["train.batch_size=many"]).unwrap_err().to_string().contains("whole"));
        assert!(with(&["train.batch_size=0"]).is_err());
        assert!(with(&["model.dropout.text=1.5"]).is_err());
        assert!(with(&["model.modalities=TX"]).is_err());
        assert!(with(&["train=3"]).is_err());
        assert!(with(&["bert.half=true"]).unwrap_err().to_string().contains("bert.half: want"));
        assert!(with(&["bert.half=true", "bert.freeze_layers=1"]).is_ok());
        assert!(with(&["train.lr.audio=-1"]).unwrap_err().to_string().contains("train.lr.audio"));
        let sims = with(&["train.seed=3", "preset=sims"]).unwrap();
        assert_eq!((sims.labels.clamp, sims.train.seed), (1.0, 3));
        assert!(Config::preset("simv2").unwrap_err().to_string().contains("'simsv2'"));
    }

    #[test]
    fn a_written_configuration_reads_back() {
        for preset in PRESETS {
            let config = Config::preset(preset).unwrap();
            let text = config.to_toml().unwrap();
            assert_eq!(Config::build("mosi", Some(&text), &[]).unwrap(), config);
        }
    }
}
