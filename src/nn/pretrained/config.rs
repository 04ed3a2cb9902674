//! What an encoder's config.json says.

use std::path::Path;

use serde_json::{Map, Value};

use super::BertShape;
use crate::error::{Error, Result};
use crate::nn::EncoderKind;
use crate::ops::Act;

/// Buckets of relative positions that transformers' MPNet has, whatever its file says.
const BUCKETS: usize = 32;

/// Reads the sizes of an encoder from its config.json.
pub(super) fn read_config(path: &Path) -> Result<BertShape> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let detail = "there is no such file; give the folder of a pretrained encoder";
            return Err(Error::data(path, detail));
        }
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let keys: Map<String, Value> = serde_json::from_str(&text).map_err(|e| {
        Error::data(path, format!("not a JSON object ({e}); copy the model's file again"))
    })?;
    let config = Config { path, keys };
    // Files older than the key itself are BERT's.
    let kinds = EncoderKind::ALL.map(EncoderKind::model_type);
    let kind = EncoderKind::named(config.only("model_type", &kinds, "bert")?).unwrap_or_default();
    config.only("position_embedding_type", &["absolute"], "absolute")?;
    config.off("is_decoder")?;
    config.off("add_cross_attention")?;
    let distil = kind == EncoderKind::DistilBert;
    // Its keys of these sizes are others.
    let key = |bert: &'static str, own: &'static str| if distil { own } else { bert };
    let act = match config.only(key("hidden_act", "activation"), &["gelu", "relu"], "gelu")? {
        "relu" => Act::Relu,
        _ => Act::Gelu,
    };
    let segments = match kind {
        EncoderKind::Bert | EncoderKind::Roberta => config.size("type_vocab_size", Some(2))?,
        EncoderKind::DistilBert | EncoderKind::Mpnet => 0,
    };
    let offset = match kind {
        EncoderKind::Bert | EncoderKind::DistilBert => 0,
        EncoderKind::Roberta => 1 + config.whole("pad_token_id", Some(1), 0)?,
        // transformers leaves it no choice.
        EncoderKind::Mpnet => 2,
    };
    let buckets = match kind {
        EncoderKind::Mpnet => config.size("relative_attention_num_buckets", Some(BUCKETS))?,
        _ => 0,
    };
    if buckets != 0 && buckets != BUCKETS {
        return Err(config.error(format!(
            "relative_attention_num_buckets is {buckets}, and only {BUCKETS} is supported; use another model"
        )));
    }
    let shape = BertShape {
        kind,
        vocab: config.size("vocab_size", None)?,
        positions: config.size("max_position_embeddings", None)?,
        offset,
        segments,
        buckets,
        hidden: config.size(key("hidden_size", "dim"), None)?,
        layers: config.size(key("num_hidden_layers", "n_layers"), None)?,
        heads: config.size(key("num_attention_heads", "n_heads"), None)?,
        intermediate: config.size(key("intermediate_size", "hidden_dim"), None)?,
        act,
        eps: if distil { 1e-12 } else { config.number("layer_norm_eps", 1e-12, 1.0)? },
        hidden_dropout: config.number(key("hidden_dropout_prob", "dropout"), 0.1, 1.0)?,
        attention_dropout: config.number(
            key("attention_probs_dropout_prob", "attention_dropout"),
            0.1,
            1.0,
        )?,
    };
    if !shape.hidden.is_multiple_of(shape.heads) {
        return Err(config.error(format!(
            "{} {} is no multiple of {} {}; mend the file",
            key("hidden_size", "dim"),
            shape.hidden,
            key("num_attention_heads", "n_heads"),
            shape.heads
        )));
    }
    if shape.layers > 1024 {
        let (layers, name) = (shape.layers, kind.name());
        return Err(config.error(format!("{layers} layers are no {name}; copy the file again")));
    }
    if shape.positions <= offset {
        let positions = shape.positions;
        return Err(config.error(format!(
            "max_position_embeddings is {positions}, and a sentence's first token has position {offset}; mend \
             the file"
        )));
    }
    Ok(shape)
}

struct Config<'a> {
    path: &'a Path,
    keys: Map<String, Value>,
}

impl Config<'_> {
    fn error(&self, detail: String) -> Error {
        Error::data(self.path, detail)
    }

    /// A key's value, null counting as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// A word that has to be one of `known`.
    fn only<'a>(&'a self, key: &str, known: &[&str], absent: &'a str) -> Result<&'a str> {
        match self.get(key) {
            None => Ok(absent),
            Some(Value::String(word)) if known.contains(&word.as_str()) => Ok(word),
            Some(other) => Err(self.error(format!(
                "{key} is {other}, and only {} is supported; use another model",
                known.join(" or ")
            ))),
        }
    }

    fn off(&self, key: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(other) => Err(self.error(format!(
                "{key} is {other}, and only an encoder is supported; use another model"
            ))),
        }
    }

    /// A positive whole number.
    fn size(&self, key: &str, absent: Option<usize>) -> Result<usize> {
        self.whole(key, absent, 1)
    }

    /// A whole number from `least` on.
    fn whole(&self, key: &str, absent: Option<usize>, least: u64) -> Result<usize> {
        // Larger ones do not fit an adapter's 32-bit indices anyway.
        const MOST: u64 = 1 << 24;
        match (self.get(key), absent) {
            (None, Some(absent)) => Ok(absent),
            (None, None) => Err(self.error(format!("there is no {key}; copy the file again"))),
            (Some(value), _) => match value.as_u64() {
                Some(n) if (least..=MOST).contains(&n) => Ok(n as usize),
                _ => Err(self.error(format!(
                    "{key} is {value}, wanted a whole number in {least}..={MOST}; mend the file"
                ))),
            },
        }
    }

    /// A number in 0..below.
    fn number(&self, key: &str, absent: f32, below: f64) -> Result<f32> {
        match self.get(key) {
            None => Ok(absent),
            Some(value) => match value.as_f64() {
                Some(x) if (0.0..below).contains(&x) => Ok(x as f32),
                _ => Err(self.error(format!(
                    "{key} is {value}, wanted a number from 0 to below {below}; mend the file"
                ))),
            },
        }
    }
}
