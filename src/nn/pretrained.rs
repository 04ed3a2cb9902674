//! A pretrained BERT on disk, as Hugging Face lays it out: `config.json`, `model.safetensors`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Bert, Weights};
use crate::error::{Error, Result};
use crate::files;
use crate::ops::Act;

/// The sizes of a BERT and what it was pretrained with, from `config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BertShape {
    /// Word vectors.
    pub vocab: usize,
    /// Position vectors: the most tokens of a sequence.
    pub positions: usize,
    /// Segment vectors.
    pub segments: usize,
    /// Width of a token's state.
    pub hidden: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Attention heads of a layer; a divisor of `hidden`.
    pub heads: usize,
    /// Width inside a feed-forward block.
    pub intermediate: usize,
    /// Between the two maps of a feed-forward block: [`Act::Gelu`] or [`Act::Relu`].
    pub act: Act,
    /// Added to a LayerNorm's variance.
    pub eps: f32,
    /// Dropout behind embeddings, attention outputs and feed-forward blocks.
    pub hidden_dropout: f32,
    /// Dropout of attention probabilities.
    pub attention_dropout: f32,
}

impl BertShape {
    /// The tensors of a BERT of this shape, by Hugging Face's names without `bert.`: 5 and 16 a
    /// layer. Linear weights are `[out, in]`.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let specs = Bert::new(*self).specs(usize::MAX);
        specs.into_iter().map(|spec| (spec.name, spec.shape)).collect()
    }

    /// Numbers in all those tensors.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// A folder with a BERT in it; its shape is known, its weights are still on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Pretrained {
    /// The shape.
    pub config: BertShape,
    /// The folder.
    pub path: PathBuf,
}

impl Pretrained {
    /// Reads `config.json`; weights are looked for when they are asked for, since a run keeps its
    /// encoder's among its own.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and key: missing, not JSON, another kind of model, sizes that
    /// do not fit, an activation other than gelu and relu, relative positions.
    pub fn open(folder: impl AsRef<Path>) -> Result<Pretrained> {
        let path = folder.as_ref().to_path_buf();
        let config = read_config(&path.join("config.json"))?;
        Ok(Pretrained { config, path })
    }

    /// The weights file.
    pub fn weights_path(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// The tensors of [`BertShape::tensors`] and no others, as f32.
    ///
    /// A prefix `bert.` and the old LayerNorm names `gamma` and `beta` are translated, half floats
    /// widened. Heads (`cls.*` and the like) and the pooler are left out; see
    /// [`Pretrained::pooler`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: no `model.safetensors`, or a damaged one; a tensor that is missing, misshapen, not finite or has
    /// no place in a BERT of this shape.
    pub fn weights(&self) -> Result<Weights> {
        let path = self.weights_path();
        let bad = |detail: String| Err(Error::checkpoint(&path, detail));
        let weights =
            self.read(|name| name.starts_with("embeddings.") || name.starts_with("encoder."))?;
        let wanted = self.config.tensors();
        for (name, shape) in &wanted {
            let Some((found, values)) = weights.get(name) else {
                return bad(format!(
                    "there is no tensor '{name}' (of shape {shape:?}); a BERT of {} layers needs \
                     it: get a whole copy of the model",
                    self.config.layers
                ));
            };
            if found != shape {
                return bad(format!(
                    "tensor '{name}' has shape {found:?}, wanted {shape:?} as config.json says; \
                     use both files of the same model"
                ));
            }
            if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                return bad(format!(
                    "tensor '{name}' holds {value} at element {at}; get a sound copy of the model"
                ));
            }
        }
        let is_wanted = |name: &str| wanted.iter().any(|(w, _)| w == name);
        if let Some((name, shape, _)) = weights.iter().find(|(name, ..)| !is_wanted(name)) {
            return bad(format!(
                "tensor '{name}' of shape {shape:?} has no place in the BERT of config.json \
                 ({} layers); use both files of the same model",
                self.config.layers
            ));
        }
        Ok(weights)
    }

    /// The tensors `pooler.*`, which no encoder needs; empty where the model has none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: damaged file.
    pub fn pooler(&self) -> Result<Weights> {
        self.read(|name| name.starts_with("pooler."))
    }

    /// The tensors whose translated names are wanted.
    fn read(&self, wanted: impl Fn(&str) -> bool) -> Result<Weights> {
        self.check_weights_file()?;
        let path = self.weights_path();
        let map = files::map(&path)?;
        Weights::parse_as(&map, &path, |name| {
            let name = plain_name(name);
            wanted(&name).then_some(name)
        })
    }

    /// Says what to do where there is no `model.safetensors`.
    pub(crate) fn check_weights_file(&self) -> Result<()> {
        let there = |name: &str| self.path.join(name).is_file();
        if there("model.safetensors") {
            return Ok(());
        }
        let folder = self.path.display();
        let detail = if there("model.safetensors.index.json") {
            format!(
                "the weights are split over several files; join them first: python -c \"from \
                 transformers import BertModel; BertModel.from_pretrained('{folder}')\
                 .save_pretrained('{folder}', max_shard_size='100GB')\""
            )
        } else if there("pytorch_model.bin") {
            format!(
                "there is only pytorch_model.bin, a pickle, which can run code and is not read; \
                 convert it once: python -c \"import torch; from safetensors.torch import \
                 save_file; w = torch.load('{folder}/pytorch_model.bin', map_location='cpu', \
                 weights_only=True); save_file({{k: v.clone().contiguous() for k, v in w.items()}}, \
                 '{folder}/model.safetensors')\""
            )
        } else {
            "there is no such file; give the folder of a pretrained BERT".into()
        };
        Err(Error::checkpoint(self.weights_path(), detail))
    }
}

/// A tensor's name as the plain `BertModel` has it today.
fn plain_name(name: &str) -> String {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    for (old, new) in
        [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")]
    {
        if let Some(prefix) = name.strip_suffix(old) {
            return format!("{prefix}{new}");
        }
    }
    name.into()
}

fn read_config(path: &Path) -> Result<BertShape> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let detail = "there is no such file; give the folder of a pretrained BERT";
            return Err(Error::data(path, detail));
        }
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let keys: Map<String, Value> = serde_json::from_str(&text).map_err(|e| {
        Error::data(path, format!("not a JSON object ({e}); copy the model's file again"))
    })?;
    let config = Config { path, keys };
    // Files older than the key itself are BERT's.
    config.only("model_type", &["bert"], "bert")?;
    config.only("position_embedding_type", &["absolute"], "absolute")?;
    config.off("is_decoder")?;
    config.off("add_cross_attention")?;
    let act = match config.only("hidden_act", &["gelu", "relu"], "gelu")? {
        "relu" => Act::Relu,
        _ => Act::Gelu,
    };
    let shape = BertShape {
        vocab: config.size("vocab_size", None)?,
        positions: config.size("max_position_embeddings", None)?,
        segments: config.size("type_vocab_size", Some(2))?,
        hidden: config.size("hidden_size", None)?,
        layers: config.size("num_hidden_layers", None)?,
        heads: config.size("num_attention_heads", None)?,
        intermediate: config.size("intermediate_size", None)?,
        act,
        eps: config.number("layer_norm_eps", 1e-12, 1.0)?,
        hidden_dropout: config.number("hidden_dropout_prob", 0.1, 1.0)?,
        attention_dropout: config.number("attention_probs_dropout_prob", 0.1, 1.0)?,
    };
    if !shape.hidden.is_multiple_of(shape.heads) {
        return Err(config.error(format!(
            "hidden_size {} is no multiple of num_attention_heads {}; mend the file",
            shape.hidden, shape.heads
        )));
    }
    if shape.layers > 1024 {
        let layers = shape.layers;
        return Err(config.error(format!("{layers} layers are no BERT; copy the file again")));
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
        // Larger ones do not fit an adapter's 32-bit indices anyway.
        const MOST: u64 = 1 << 24;
        match (self.get(key), absent) {
            (None, Some(absent)) => Ok(absent),
            (None, None) => Err(self.error(format!("there is no {key}; copy the file again"))),
            (Some(value), _) => match value.as_u64() {
                Some(n @ 1..=MOST) => Ok(n as usize),
                _ => Err(self.error(format!(
                    "{key} is {value}, wanted a whole number in 1..={MOST}; mend the file"
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One layer of width 4, as small as a BERT gets.
    fn config() -> Value {
        json!({
            "model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 6, "vocab_size": 9,
            "max_position_embeddings": 5
        })
    }

    fn folder(config: &Value, weights: &Weights) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        weights.save(&folder.path().join("model.safetensors"), &[]).unwrap();
        folder
    }

    /// The tensors of [`config`], each holding its place in the list.
    fn weights() -> Weights {
        let mut weights = Weights::default();
        let found = folder(&config(), &weights);
        let shape = Pretrained::open(found.path()).unwrap().config;
        for (i, (name, dims)) in shape.tensors().into_iter().enumerate() {
            let values = vec![i as f32; dims.iter().product()];
            weights.insert(&name, dims, values);
        }
        weights
    }

    fn refused(config: &Value, weights: &Weights, wanted: &str) {
        let folder = folder(config, weights);
        let error = Pretrained::open(folder.path()).and_then(|p| p.weights()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(wanted) && !error.contains('\n'), "no {wanted:?} in: {error}");
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }

    #[test]
    fn the_shape_is_read_and_old_files_have_defaults() {
        let folder = folder(&config(), &weights());
        let shape = Pretrained::open(folder.path()).unwrap().config;
        assert_eq!((shape.segments, shape.act, shape.eps), (2, Act::Gelu, 1e-12));
        assert_eq!((shape.hidden_dropout, shape.attention_dropout), (0.1, 0.1));
        assert_eq!(shape.tensors().len(), 21);
        // By hand: vectors (9 + 5 + 2) 4 and LayerNorm 8; attention 4 (16 + 4) and LayerNorm 8;
        // feed-forward 24 + 6 + 24 + 4 and LayerNorm 8.
        assert_eq!(shape.parameters(), 64 + 8 + 80 + 8 + 58 + 8);
    }

    #[test]
    fn prefixes_old_names_and_heads() {
        let plain = weights();
        let mut old = Weights::default();
        for (name, shape, values) in plain.iter() {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            let name = name.replace("LayerNorm.bias", "LayerNorm.beta");
            old.insert(&format!("bert.{name}"), shape.to_vec(), values.to_vec());
        }
        old.insert("cls.predictions.bias", vec![9], vec![0.0; 9]);
        old.insert("classifier.weight", vec![1], vec![0.0]);
        old.insert("bert.pooler.dense.bias", vec![4], vec![2.0; 4]);
        let folder = folder(&config(), &old);
        let found = Pretrained::open(folder.path()).unwrap();
        assert_eq!(found.weights().unwrap(), plain);
        let pooler = found.pooler().unwrap();
        assert_eq!(pooler.iter().count(), 1);
        assert_eq!(pooler.get("pooler.dense.bias").unwrap().1, [2.0; 4]);
    }

    #[test]
    fn wrong_tensors_are_named() {
        let name = "encoder.layer.0.output.dense.weight";
        let mut other = weights();
        other.insert(name, vec![6, 4], vec![0.0; 24]);
        refused(&config(), &other, "has shape [6, 4], wanted [4, 6]");
        other.insert(name, vec![4, 6], [vec![0.0; 5], vec![f32::NAN; 19]].concat());
        refused(&config(), &other, "output.dense.weight' holds NaN at element 5");
        let mut extra = weights();
        extra.insert("encoder.layer.1.output.dense.bias", vec![4], vec![0.0; 4]);
        refused(&config(), &extra, "'encoder.layer.1.output.dense.bias' of shape [4] has no place");
        refused(&config(), &Weights::default(), "no tensor 'embeddings.word_embeddings.weight'");
        let mut deeper = config();
        deeper["num_hidden_layers"] = json!(2);
        refused(&deeper, &weights(), "'encoder.layer.1.attention.self.query.weight'");
    }

    #[test]
    fn other_models_are_refused() {
        let with = |key: &str, value: Value| {
            let mut config = config();
            config[key] = value;
            config
        };
        for (key, value, wanted) in [
            ("model_type", json!("roberta"), "only bert is supported"),
            ("position_embedding_type", json!("relative_key"), "only absolute is supported"),
            ("hidden_act", json!("gelu_new"), "hidden_act is \"gelu_new\", and only gelu or relu"),
            ("is_decoder", json!(true), "only an encoder"),
            ("hidden_size", json!(5), "no multiple of num_attention_heads 2"),
            ("hidden_size", json!(0), "wanted a whole number"),
            ("hidden_size", json!(null), "there is no hidden_size"),
            ("vocab_size", json!("9"), "vocab_size is \"9\""),
            ("layer_norm_eps", json!(-1.0), "layer_norm_eps is -1.0"),
            ("hidden_dropout_prob", json!(1.0), "hidden_dropout_prob is 1.0"),
        ] {
            refused(&with(key, value), &weights(), wanted);
        }
        refused(&json!([1]), &weights(), "not a JSON object");
        let relu = folder(&with("hidden_act", json!("relu")), &weights());
        assert_eq!(Pretrained::open(relu.path()).unwrap().config.act, Act::Relu);
    }

    #[test]
    fn missing_files_say_what_to_do() {
        let folder = folder(&config(), &weights());
        let error =
            || Pretrained::open(folder.path()).and_then(|p| p.weights()).unwrap_err().to_string();
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        assert!(error().contains("model.safetensors: there is no such file"), "{}", error());
        std::fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
        assert!(error().contains("weights_only=True"), "{}", error());
        std::fs::write(folder.path().join("model.safetensors.index.json"), b"{}").unwrap();
        assert!(error().contains("split over several files"), "{}", error());
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        assert!(error().contains("config.json: there is no such file"), "{}", error());
    }
}
