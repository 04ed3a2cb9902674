//! A BERT that was never trained, as a folder: for trying what takes one where none is at hand, and for
//! timings, which do not depend on what it knows.

use super::{BertShape, EncoderKind};
use crate::error::{Error, Result};
use crate::files::{write_atomic, write_atomic_with};
use crate::ops::{Act, random};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Where `bert-base-uncased` has its special pieces.
const SPECIAL: [(&str, usize); 5] =
    [("[PAD]", 0), ("[UNK]", 100), ("[CLS]", 101), ("[SEP]", 102), ("[MASK]", 103)];
/// Standard deviation of its weights, as BERT's own begin.
const DEVIATION: f32 = 0.02;

impl BertShape {
    /// A shape by name: `base` is bert-base-uncased's, `mini` all-MiniLM-L6-v2's, `tiny` two layers of 64
    /// with 512 words; all with BERT's dropout.
    pub fn named(name: &str) -> Option<Self> {
        let (vocab, hidden, layers, heads) = match name {
            "base" => (30_522, 768, 12, 12),
            "mini" => (30_522, 384, 6, 12),
            "tiny" => (512, 64, 2, 4),
            _ => return None,
        };
        Some(Self::original(vocab, hidden, layers, heads))
    }

    /// These sizes, and everything else as the original BERTs have it.
    pub(crate) fn original(vocab: usize, hidden: usize, layers: usize, heads: usize) -> Self {
        BertShape {
            kind: EncoderKind::Bert,
            vocab,
            positions: 512,
            offset: 0,
            segments: 2,
            buckets: 0,
            hidden,
            layers,
            heads,
            intermediate: 4 * hidden,
            act: Act::Gelu,
            eps: 1e-12,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
        }
    }
}

/// Writes an encoder of random weights to a folder as Hugging Face stores one: config.json,
/// model.safetensors, vocab.txt with `words` whole and everything else in single letters.
///
/// # Errors
/// A shape of another kind; more words than it has room for; files that cannot be written.
pub fn invent(folder: &Path, shape: &BertShape, words: &[String]) -> Result<()> {
    if shape.kind != EncoderKind::Bert {
        let kind = shape.kind.name();
        return Err(Error::Config(format!(
            "only a BERT is invented, and this shape is a {kind}'s"
        )));
    }
    let vocabulary = vocabulary(shape.vocab, words)?;
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let act = if shape.act == Act::Relu { "relu" } else { "gelu" };
    let config = json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.segments,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "hidden_act": act,
        "layer_norm_eps": shape.eps,
        "hidden_dropout_prob": shape.hidden_dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
        "initializer_range": DEVIATION,
        "pad_token_id": 0,
    });
    write_atomic(folder.join("config.json"), format!("{config:#}\n").as_bytes())?;
    write_atomic(folder.join("vocab.txt"), vocabulary.as_bytes())?;
    write_weights(&folder.join("model.safetensors"), shape)
}

/// The pieces, a line each.
fn vocabulary(size: usize, words: &[String]) -> Result<String> {
    let letters = ('a'..='z').chain('0'..='9');
    let mut pieces: Vec<String> = letters.flat_map(|c| [c.to_string(), format!("##{c}")]).collect();
    pieces.extend([".", ",", "!", "?", "'", "-"].map(String::from));
    pieces.extend(words.iter().filter(|word| word.len() > 1).cloned());
    let first = SPECIAL[SPECIAL.len() - 1].1 + 1;
    if first + pieces.len() > size {
        let most = size.saturating_sub(first);
        return Err(Error::Config(format!("{} pieces do not fit {most} places", pieces.len())));
    }
    let mut lines: Vec<String> = (0..size).map(|i| format!("[unused{i}]")).collect();
    for (piece, at) in SPECIAL {
        lines[at] = piece.into();
    }
    for (line, piece) in lines[first..].iter_mut().zip(pieces) {
        *line = piece;
    }
    Ok(lines.join("\n") + "\n")
}

/// Tensor by tensor, so that only the largest is ever in memory.
fn write_weights(path: &Path, shape: &BertShape) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::checkpoint(path, e.to_string());
    let mut tensors = shape.tensors();
    // The order that the format's own library writes tensors in.
    tensors.sort();
    let mut end = 0;
    let infos = tensors.iter().map(|(name, shape)| {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let data_offsets = (start, end);
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets })
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(|e| failed(&e))?;
    let mut header = serde_json::to_string(&metadata).map_err(|e| failed(&e))?.into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomic_with(path, |out: &mut dyn Write| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (i, (name, shape)) in tensors.iter().enumerate() {
            let len = shape.iter().product();
            let values: Vec<f32> = match name {
                name if name.ends_with("LayerNorm.weight") => vec![1.0; len],
                name if name.ends_with("bias") => vec![0.0; len],
                // Uniform values of that deviation.
                _ => {
                    let bound = DEVIATION * 3_f32.sqrt();
                    random(i as u64 + 1, len).into_iter().map(|v| v * bound).collect()
                }
            };
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Pretrained;

    #[test]
    fn an_invented_encoder_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let shape = BertShape::named("tiny").unwrap();
        let words = ["review".to_string(), "a".into()];
        invent(folder.path(), &shape, &words).unwrap();
        let found = Pretrained::open(folder.path()).unwrap();
        assert_eq!(found.config, shape);
        let weights = found.weights().unwrap();
        assert_eq!(weights.iter().count(), shape.tensors().len());
        let (_, values) = weights.get("encoder.layer.1.output.dense.weight").unwrap();
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((square.sqrt() - DEVIATION).abs() < 1e-3, "{}", square.sqrt());
        let text = std::fs::read_to_string(folder.path().join("vocab.txt")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[101], lines[104], lines[105]), (512, "[CLS]", "a", "##a"));
        assert_eq!(lines.iter().filter(|l| **l == "review").count(), 1);
        assert_eq!(lines.iter().filter(|l| **l == "a").count(), 1);
        assert!(invent(folder.path(), &shape.of(EncoderKind::Mpnet), &words).is_err());
        let many: Vec<String> = (0..600).map(|i| format!("word{i}")).collect();
        assert!(invent(folder.path(), &shape, &many).is_err());
        assert_eq!(BertShape::named("base").unwrap().parameters() / 1_000_000, 108);
    }
}
