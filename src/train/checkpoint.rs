//! Files of a run that can be loaded again: the model with its card, and the full state.

use crate::data::{Modality, Standardise, StreamSpec};
use crate::error::{Error, Result};
use crate::nn::Weights;
use crate::nn::save_tensors;
use crate::recipe::Config;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a model file says of itself, in its header: all that is needed to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The crate's version that wrote it.
    pub version: String,
    /// The resolved configuration.
    pub config: Config,
    /// What it reads: modality, steps, features.
    pub streams: Vec<CardStream>,
    /// How its inputs were standardised.
    pub standardise: Option<Standardise>,
    /// SHA-256 of the training data file.
    pub data_sha256: String,
    /// The epoch that it is of, from 1.
    pub epoch: usize,
}

/// One input of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardStream {
    /// Which modality.
    pub modality: Modality,
    /// Steps it was trained with.
    pub steps: usize,
    /// Features of a step.
    pub dim: usize,
}

impl From<&StreamSpec> for CardStream {
    fn from(s: &StreamSpec) -> Self {
        CardStream { modality: s.modality, steps: s.steps, dim: s.dim }
    }
}

/// The one metadata key of a model file. One only: a header map has no order, and files of equal
/// runs should be equal.
const KEY: &str = "modalign";

/// A trained model read from disk.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub card: ModelCard,
    /// Its parameters.
    pub weights: Weights,
}

impl Saved {
    /// Loads a run folder's best model, or a model file.
    ///
    /// # Errors
    /// Missing, damaged, or written by another program.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let weights = Weights::parse(&bytes, &path)?;
        let card = metadata(&bytes, &path)?.ok_or_else(|| {
            let why = "has no model card: it was not written by modalign; \
                       start from it with train --init";
            Error::checkpoint(&path, why)
        })?;
        Ok(Saved { path, card, weights })
    }

    /// Writes a model file, whole or not at all.
    pub fn save(path: &Path, card: &ModelCard, weights: &Weights) -> Result<()> {
        let text =
            serde_json::to_string(card).map_err(|e| Error::checkpoint(path, e.to_string()))?;
        weights.save(path, &[(KEY, text)])
    }
}

fn metadata<T: for<'a> Deserialize<'a>>(bytes: &[u8], path: &Path) -> Result<Option<T>> {
    let (_, header) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::checkpoint(path, format!("no whole safetensors file ({e})")))?;
    let Some(text) = header.metadata().as_ref().and_then(|m| m.get(KEY)) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|e| {
        Error::checkpoint(path, format!("its card is of another version of modalign ({e})"))
    })
}

/// Counters of a resumable state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StateCard {
    /// Epochs completed.
    pub epoch: usize,
    /// Micro-batches taken.
    pub step: u32,
    /// Optimiser steps taken.
    pub updates: u32,
    /// SHA-256 of the data.
    pub data_sha256: String,
}

/// A state's buffers by name.
pub(super) type Buffers = HashMap<String, Vec<u32>>;

/// Writes a state, whole or not at all.
pub(super) fn save_state(
    path: &Path,
    card: &StateCard,
    buffers: &[(String, Vec<u32>)],
) -> Result<()> {
    let text = serde_json::to_string(card).map_err(|e| Error::checkpoint(path, e.to_string()))?;
    save_tensors(
        path,
        buffers
            .iter()
            .map(|(n, w)| (n.as_str(), Dtype::U32, vec![w.len()], bytemuck::cast_slice(w))),
        &[(KEY, text)],
    )
}

/// Reads a state.
pub(super) fn load_state(path: &Path) -> Result<(StateCard, Buffers)> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let card = metadata(&bytes, path)?
        .ok_or_else(|| Error::checkpoint(path, "it is no state of a modalign run"))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::checkpoint(path, format!("no whole safetensors file ({e})")))?;
    let words = |data: &[u8]| {
        data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    Ok((card, file.tensors().into_iter().map(|(n, view)| (n, words(view.data()))).collect()))
}
