//! Named tensors on the host, in and out of safetensors files.

use crate::error::{Error, Result};
use crate::files;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Named f32 tensors with their shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) {
        self.tensors.insert(name.to_string(), (shape, values));
    }

    /// Adds a tensor, or rows behind those that a tensor of this name has.
    pub(super) fn append(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        match self.tensors.get_mut(name) {
            Some((whole, all)) => {
                whole[0] += shape[0];
                all.extend(values);
            }
            None => self.insert(name, shape.to_vec(), values),
        }
    }

    /// A tensor's shape and values.
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.tensors.get(name).map(|(s, v)| (s.as_slice(), v.as_slice()))
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
        self.tensors.iter().map(|(n, (s, v))| (n.as_str(), s.as_slice(), v.as_slice()))
    }

    /// Reads the floats of a safetensors file. MMSA's `Model.` prefix is taken off the names.
    /// Integers are no parameters (a BERT keeps its position ids as such) and are left out.
    ///
    /// # Errors
    /// [`Checkpoint`](Error::Checkpoint): missing, truncated, not safetensors, other floats.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(&std::fs::read(path).map_err(Error::io("read", path))?, path)
    }

    /// The same of a file's contents; `path` names them in errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| {
            Error::checkpoint(path, format!("no whole safetensors file ({e}); save it again"))
        })?;
        let mut weights = Weights::default();
        for (name, view) in file.tensors() {
            let values = match view.dtype() {
                Dtype::F32 => view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL => continue,
                other => {
                    let detail = format!("tensor '{name}' is {other:?}, want F32");
                    return Err(Error::checkpoint(path, detail));
                }
            };
            let name = name.strip_prefix("Model.").unwrap_or(&name);
            weights.insert(name, view.shape().to_vec(), values);
        }
        Ok(weights)
    }

    /// Writes a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Io`](Error::Io) naming the file.
    pub fn save(&self, path: &Path, metadata: &[(&str, String)]) -> Result<()> {
        let bytes: Vec<(&str, &[usize], Vec<u8>)> = self
            .iter()
            .map(|(n, s, v)| (n, s, v.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        save_tensors(
            path,
            bytes.iter().map(|(n, s, b)| (*n, Dtype::F32, s.to_vec(), b.as_slice())),
            metadata,
        )
    }
}

/// Writes tensors of any type to a safetensors file, whole or not at all.
pub(crate) fn save_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, Dtype, Vec<usize>, &'a [u8])>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let fail = |e: safetensors::SafeTensorError| Error::checkpoint(path, e.to_string());
    let views = tensors
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(dtype, shape, data)?)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(fail)?;
    // One key only: the header's map has no order, and files should not differ by run.
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let bytes = safetensors::serialize(views, metadata).map_err(fail)?;
    files::write_atomic(path, &bytes)
}
