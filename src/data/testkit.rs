//! Small safetensors files, good and bad, for the tests of this folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Tensors by name; the file is put together by hand so that it can also be wrong.
#[derive(Clone)]
pub(crate) struct TensorFile {
    tensors: BTreeMap<String, (&'static str, Vec<usize>, Vec<u8>)>,
    shift: usize,
    side: Option<String>,
}

/// A file in a temporary folder that goes when this does.
pub(crate) struct Saved {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Saved {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl TensorFile {
    pub(crate) fn new() -> Self {
        TensorFile { tensors: BTreeMap::new(), shift: 0, side: None }
    }

    pub(crate) fn f32(
        self,
        name: &str,
        shape: &[usize],
        values: impl IntoIterator<Item = f32>,
    ) -> Self {
        self.raw(name, "F32", shape, values.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    pub(crate) fn i32(self, name: &str, shape: &[usize], values: &[i32]) -> Self {
        self.raw(name, "I32", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub(crate) fn raw(
        mut self,
        name: &str,
        dtype: &'static str,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> Self {
        self.tensors.insert(name.into(), (dtype, shape.to_vec(), bytes));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.tensors.remove(name);
        self
    }

    /// Pads the header so that the data starts `shift` bytes past a multiple of 4.
    pub(crate) fn shifted(mut self, shift: usize) -> Self {
        self.shift = shift;
        self
    }

    pub(crate) fn side(mut self, text: &str) -> Self {
        self.side = Some(text.into());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let mut data: Vec<u8> = Vec::new();
        for (name, (dtype, shape, bytes)) in &self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            let entry: Value = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
            header.insert(name.clone(), entry);
            data.extend(bytes);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(4) + self.shift, b' ');
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(data);
        file
    }

    pub(crate) fn save(&self) -> Saved {
        let saved = save_bytes(&self.bytes());
        if let Some(side) = &self.side {
            std::fs::write(saved.path.with_extension("json"), side).unwrap();
        }
        saved
    }
}

pub(crate) fn save_bytes(bytes: &[u8]) -> Saved {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.safetensors");
    std::fs::write(&path, bytes).unwrap();
    Saved { path, _folder: folder }
}

/// Three training rows: text 1x3, audio 4x5 (value = 20 row + 5 step + feature), tokens, labels.
pub(crate) fn small() -> TensorFile {
    let audio = (0..3 * 4 * 5).map(|i| i as f32);
    let row = |id| [101, id, 102, 0, 1, 1, 1, 0, 0, 0, 0, 0];
    TensorFile::new()
        .f32("train.text", &[3, 1, 3], (0..9).map(|i| i as f32 * 0.1))
        .f32("train.audio", &[3, 4, 5], audio)
        .i32("train.audio_lengths", &[3], &[4, 2, 0])
        .i32("train.text_bert", &[3, 3, 4], &[row(5), row(6), row(7)].concat())
        .f32("train.regression_labels", &[3], [-1.0, 0.0, 2.0])
}
