//! A pretrained encoder on disk, as Hugging Face lays it out: `config.json`, and weights as
//! `model.safetensors` or `pytorch_model.bin`, whole or in parts.

mod config;
mod stored;
mod torch;

use std::path::{Path, PathBuf};

use self::stored::Stored;
use super::{Bert, EncoderKind, Weights};
use crate::error::{Error, Result};
use crate::ops::Act;
use crate::ops::embed::Tables;

/// The sizes of a BERT or one of its kin and what it was pretrained with, from `config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BertShape {
    /// Whose it is.
    pub kind: EncoderKind,
    /// Word vectors.
    pub vocab: usize,
    /// Position vectors.
    pub positions: usize,
    /// Which of them the first token of a sequence takes: those before are the padding's.
    pub offset: usize,
    /// Segment vectors; 0 of a kind that has none.
    pub segments: usize,
    /// Buckets of relative positions, for the bias of all layers' scores; 0 of a kind that has none.
    pub buckets: usize,
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
    /// The tensors of an encoder of this shape, by BERT's names without `bert.`: up to 5 and 16 a
    /// layer. Linear weights are `[out, in]`.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let specs = Bert::new(*self).specs(usize::MAX);
        specs.into_iter().map(|spec| (spec.name, spec.shape)).collect()
    }

    /// The tables beside the words'.
    pub fn tables(&self) -> Tables {
        Tables { positions: self.positions, offset: self.offset, segments: self.segments }
    }

    /// The most tokens of a sequence.
    pub fn tokens(&self) -> usize {
        self.positions - self.offset
    }

    /// The same sizes of another kind, whose bias and tables are its own.
    pub fn of(self, kind: EncoderKind) -> Self {
        let (offset, segments, buckets) = match kind {
            EncoderKind::Bert => (0, 2, 0),
            EncoderKind::Roberta => (2, 1, 0),
            EncoderKind::DistilBert => (0, 0, 0),
            EncoderKind::Mpnet => (2, 0, 32),
        };
        let positions = self.tokens() + offset;
        BertShape { kind, positions, offset, segments, buckets, ..self }
    }

    /// Numbers in all those tensors.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// A folder with an encoder in it; its shape is known, its weights are still on disk.
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
    /// do not fit, an activation other than gelu and relu, positions of another type.
    pub fn open(folder: impl AsRef<Path>) -> Result<Pretrained> {
        let path = folder.as_ref().to_path_buf();
        let config = config::read_config(&path.join("config.json"))?;
        Ok(Pretrained { config, path })
    }

    /// The weights' file, or the index of several.
    pub fn weights_path(&self) -> PathBuf {
        Stored::choose(&self.path).0
    }

    /// All files with weights, the index of several first.
    ///
    /// # Errors
    /// None there; an index that is none, or that leads out of the folder.
    pub fn weights_files(&self) -> Result<Vec<PathBuf>> {
        Ok(Stored::open(&self.path)?.files())
    }

    /// The tensors of [`BertShape::tensors`] and no others, as f32.
    ///
    /// A prefix (`bert.`) and the old LayerNorm names `gamma` and `beta` are translated, and the names of
    /// other kinds; half floats are widened, double ones rounded. Heads (`cls.*` and the like) and the
    /// pooler are left out; see [`Pretrained::pooler`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: no weights, or a damaged file; a tensor that is missing, misshapen, not finite
    /// or has no place in an encoder of this shape.
    pub fn weights(&self) -> Result<Weights> {
        let stored = Stored::open(&self.path)?;
        let kind = self.config.kind;
        let weights = self.read(&stored, |name| {
            name.starts_with("embeddings.") || name.starts_with("encoder.")
        })?;
        let bad =
            |name: &str, detail: String| Err(Error::checkpoint(stored.file_of(name, kind), detail));
        let (model, layers) = (kind.name(), self.config.layers);
        let wanted = self.config.tensors();
        for (name, shape) in &wanted {
            let own = kind.stored(name);
            let Some((found, values)) = weights.get(name) else {
                return bad(
                    name,
                    format!(
                        "there is no tensor '{own}' (of shape {shape:?}); a {model} of {layers} layers needs \
                     it: get a whole copy of the model"
                    ),
                );
            };
            if found != shape {
                return bad(
                    name,
                    format!(
                        "tensor '{own}' has shape {found:?}, wanted {shape:?} as config.json says; \
                     use both files of the same model"
                    ),
                );
            }
            if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
                return bad(
                    name,
                    format!(
                        "tensor '{own}' holds {value} at element {at}; get a sound copy of the model"
                    ),
                );
            }
        }
        let is_wanted = |name: &str| wanted.iter().any(|(w, _)| w == name);
        if let Some((name, shape, _)) = weights.iter().find(|(name, ..)| !is_wanted(name)) {
            let own = kind.stored(name);
            return bad(
                name,
                format!(
                    "tensor '{own}' of shape {shape:?} has no place in the {model} of config.json \
                 ({layers} layers); use both files of the same model"
                ),
            );
        }
        Ok(weights)
    }

    /// The tensors `pooler.*`, which no encoder needs; empty where the model has none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: damaged file.
    pub fn pooler(&self) -> Result<Weights> {
        self.read(&Stored::open(&self.path)?, |name| name.starts_with("pooler."))
    }

    /// The tensors whose names of BERT are wanted.
    fn read(&self, stored: &Stored, wanted: impl Fn(&str) -> bool) -> Result<Weights> {
        let kind = self.config.kind;
        stored.read(|name| {
            let name = kind.plain(name);
            wanted(&name).then_some(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

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
            (
                "model_type",
                json!("xlnet"),
                "only bert or roberta or distilbert or mpnet is supported",
            ),
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
    fn weights_in_parts_are_read_and_a_lost_part_is_named() {
        let whole = weights();
        let folder = folder(&config(), &whole);
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let parts = ["one.safetensors", "two.safetensors"];
        let (mut halves, mut map) = ([Weights::default(), Weights::default()], Map::new());
        for (i, (name, shape, values)) in whole.iter().enumerate() {
            halves[i % 2].insert(name, shape.to_vec(), values.to_vec());
            map.insert(name.into(), parts[i % 2].into());
        }
        let save = |halves: &[Weights; 2]| {
            for (name, half) in parts.iter().zip(halves) {
                half.save(&folder.path().join(name), &[]).unwrap();
            }
        };
        save(&halves);
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
        let found = Pretrained::open(folder.path()).unwrap();
        assert_eq!(found.weights().unwrap(), whole);
        assert_eq!((found.weights_path(), found.weights_files().unwrap().len()), (index, 3));
        let error = |halves: &[Weights; 2]| {
            save(halves);
            found.weights().unwrap_err().to_string()
        };
        let name = "embeddings.LayerNorm.weight";
        let at = usize::from(halves[0].get(name).is_none());
        let (shape, values) = halves[at].get(name).map(|(s, v)| (s.to_vec(), v.to_vec())).unwrap();
        halves[1 - at].insert(name, shape, values);
        assert!(error(&halves).contains("is in another part, too"), "{}", error(&halves));
        halves.iter_mut().for_each(|half| half.remove(name));
        let lost = error(&halves);
        assert!(
            lost.contains(parts[at]) && lost.contains("no tensor 'embeddings.LayerNorm.weight'"),
            "{lost}"
        );
    }

    #[test]
    fn missing_files_say_what_to_do() {
        let folder = folder(&config(), &weights());
        let error =
            || Pretrained::open(folder.path()).and_then(|p| p.weights()).unwrap_err().to_string();
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        assert!(error().contains("model.safetensors: there is no such file"), "{}", error());
        std::fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
        assert!(error().contains("pytorch_model.bin: not a file of torch.save"), "{}", error());
        let index = |text: &str| {
            std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap()
        };
        index("{}");
        assert!(error().contains("there is no weight_map"), "{}", error());
        for file in ["gone.safetensors", "../config.json", "/etc/hostname", ""] {
            index(&json!({ "weight_map": { "a.b": file } }).to_string());
            assert!(error().contains("is no file of this folder"), "{}", error());
        }
        std::fs::remove_file(folder.path().join("config.json")).unwrap();
        assert!(error().contains("config.json: there is no such file"), "{}", error());
    }
}
