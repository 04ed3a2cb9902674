//! The data set and the parameters of the whole-model item, for peers that read them themselves.

use crate::{Param, Result, linear_params, lstm_params};
use serde_json::Value;
use std::path::Path;

/// Samples of a batch.
pub const BATCH: usize = 16;
/// Steps, features and hidden units of audio and of vision; audio first.
pub const STREAMS: [(&str, usize, usize, usize); 2] =
    [("audio", 500, 5, 16), ("video", 375, 20, 32)];
/// Features of the text.
pub const TEXT: usize = 768;
/// Common space of the alignment term, and the weight of each pair.
pub const ALIGN: (usize, f64) = (16, 100.0);
/// Heads: name, inputs, size.
pub const HEADS: [(&str, usize, usize); 4] = [
    ("post_fusion", TEXT + 16 + 32, 128),
    ("post_text", TEXT, 32),
    ("post_audio", 16, 16),
    ("post_video", 32, 32),
];

/// Every parameter of the model, under MMSA's names.
pub fn params() -> Vec<Param> {
    let mut all = Vec::new();
    for (name, _, inputs, hidden) in STREAMS {
        all.extend(lstm_params(&format!("{name}_model.rnn"), inputs, hidden));
        all.extend(linear_params(&format!("{name}_model.linear_1"), hidden, hidden, true));
    }
    for (name, inputs, size) in HEADS {
        for (layer, (inputs, outputs)) in
            [(inputs, size), (size, size), (size, 1)].into_iter().enumerate()
        {
            all.extend(linear_params(
                &format!("{name}_layer_{}", layer + 1),
                inputs,
                outputs,
                true,
            ));
        }
    }
    for (name, inputs) in [("text", TEXT), ("audio", 16), ("video", 32)] {
        all.extend(linear_params(&format!("align_{name}"), inputs, ALIGN.0, false));
    }
    all
}

/// A tensor `[rows, …]`.
pub struct Field {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Field {
    /// The values of batch `i`, whose rows follow one another.
    pub fn batch(&self, i: usize) -> &[f32] {
        let row: usize = self.shape[1..].iter().product();
        let batches = self.shape[0] / BATCH;
        &self.values[(i % batches) * BATCH * row..][..BATCH * row]
    }
}

/// The training split.
pub struct Data {
    pub text: Field,
    /// Audio and vision.
    pub streams: [Field; 2],
    pub labels: Field,
}

impl Data {
    /// Reads a data set.
    pub fn open(path: &Path) -> Result<Data> {
        let bytes =
            std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        // A length, a header of that length in JSON, the tensors behind it.
        let (length, rest) = bytes.split_first_chunk().ok_or("the data set is cut short")?;
        let length = u64::from_le_bytes(*length) as usize;
        let (header, tensors) = rest.split_at_checked(length).ok_or("the data set is cut short")?;
        let header: Value = serde_json::from_slice(header)?;
        let field = |name: &str| -> Result<Field> {
            let entry = &header[format!("train.{name}")];
            let list = |key: &str| -> Option<Vec<usize>> {
                entry[key].as_array()?.iter().map(|v| Some(v.as_u64()? as usize)).collect()
            };
            let (shape, ends) =
                list("shape").zip(list("data_offsets")).ok_or("a tensor is missing")?;
            let found = tensors.get(ends[0]..ends[1]).ok_or("the data set is cut short")?;
            let values =
                found.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            Ok(Field { shape, values: values.collect() })
        };
        Ok(Data {
            text: field("text")?,
            streams: [field("audio")?, field("vision")?],
            labels: field("regression_labels")?,
        })
    }
}
