//! Files of a run that can be loaded again: the model with its card, and the full state.

use super::run_files::{Head, Place};
use crate::data::{Acoustic, Folded, Modality, Standardise, StreamSpec, Task};
use crate::error::{Error, Result};
use crate::files::{self, check_format, first_format, seal_of_tensors, write_sealed};
use crate::nn::Weights;
use crate::plan::SpaceId;
use crate::recipe::{Config, Kept};
use memmap2::Mmap;
use safetensors::tensor::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a model file says of itself, in its header: all that is needed to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The file's [format](crate::files::FORMAT).
    #[serde(default = "first_format")]
    pub format: u32,
    /// The crate's version that wrote it.
    pub version: String,
    /// The resolved configuration.
    pub config: Config,
    /// What it predicts.
    #[serde(default, skip_serializing_if = "Task::one_number")]
    pub task: Task,
    /// What it reads: modality, steps, features.
    pub streams: Vec<CardStream>,
    /// What guided it in training, and the features of that: nothing that reads the model needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guides: Vec<(Modality, usize)>,
    /// How its inputs were standardised.
    pub standardise: Option<Standardise>,
    /// How its audio was made of recordings, where that of the training data was and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acoustic: Option<Acoustic>,
    /// SHA-256 of the training data file.
    pub data_sha256: String,
    /// The fold of them that it was trained on, where that was not the file's own split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<Folded>,
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
    /// SHA-256 of the parameters' values as the file holds them; nothing of a file of an earlier version, which
    /// says none that it could be checked against.
    pub sha256: Option<String>,
}

impl Saved {
    /// Loads a run folder's best model, or a model file.
    ///
    /// # Errors
    /// Missing, damaged, or written by another program.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            let why = "there is no such run or model file; check the path";
            return Err(Error::checkpoint(path, why));
        }
        if path.join("results.json").exists() {
            let why = "is an experiment; give one of its runs, which are in runs/CELL/SEED";
            return Err(Error::checkpoint(path, why));
        }
        let path = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
        let map = files::map(&path)?;
        let sha256 = seal_of_tensors(&path, &map)?;
        let weights = Weights::parse(&map, &path)?;
        let card: ModelCard = metadata(&map, &path)?.ok_or_else(|| {
            let why = "has no model card: it was not written by modalign; \
                       start from it with train --init";
            Error::checkpoint(&path, why)
        })?;
        check_format(&path, card.format)?;
        sealed(&path, card.format, sha256.as_ref())?;
        Ok(Saved { path, card, weights, sha256 })
    }

    /// Writes a model file, whole or not at all; gives the SHA-256 of the values.
    ///
    /// # Errors
    /// [`Io`](Error::Io) naming the file.
    pub fn save(path: &Path, card: &ModelCard, weights: &Weights) -> Result<String> {
        let text =
            serde_json::to_string(card).map_err(|e| Error::checkpoint(path, e.to_string()))?;
        weights.save_sealed(path, &[(KEY, text)])
    }
}

/// Since files have digests of their contents they all have them.
fn sealed(path: &Path, format: u32, seal: Option<&String>) -> Result<()> {
    match format >= 4 && seal.is_none() {
        false => Ok(()),
        true => Err(Error::checkpoint(path, "its digest is gone: it is damaged, or was edited")),
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
    /// The file's format.
    #[serde(default = "first_format")]
    pub format: u32,
    /// Epochs completed.
    pub epoch: usize,
    /// Micro-batches of the next one that are done.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub batch: usize,
    /// Micro-batches taken.
    pub step: u32,
    /// Batches after which the optimiser ran.
    pub updates: u32,
    /// Steps of the parameter groups that have taken others than that: those that move in some turns of a
    /// batch only, or in several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group_steps: BTreeMap<String, u32>,
    /// What the recipe has kept between epochs.
    #[serde(default, skip_serializing_if = "Kept::is_empty")]
    pub kept: Kept,
    /// SHA-256 of the data.
    pub data_sha256: String,
    /// The heads of the logs that it stands on, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<String, Head>,
    /// SHA-256 of the best model's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl StateCard {
    /// How far the run was.
    pub(super) fn place(&self) -> Place {
        Place { epoch: self.epoch, batch: self.batch }
    }
}

/// Writes a state, whole or not at all. `read` gives the words of a buffer of `buffers` when its
/// turn comes, so that no more than one is held at a time: those of a large encoder take gigabytes.
///
/// # Errors
/// Those of `read`, and [`Io`](Error::Io) naming the file.
pub(super) fn save_state(
    path: &Path,
    card: &StateCard,
    buffers: &[(String, SpaceId, usize)],
    mut read: impl FnMut(SpaceId, usize) -> Result<Vec<u32>>,
) -> Result<()> {
    let text = serde_json::to_string(card).map_err(|e| Error::checkpoint(path, e.to_string()))?;
    let tensors =
        buffers.iter().map(|(name, _, n)| (name.as_str(), "U32", vec![*n], 4 * *n as u64));
    let mut failed = None;
    let written = write_sealed(path, &[(KEY, text)], tensors, |out| {
        for (_, space, words) in buffers {
            let data = read(*space, *words).map_err(|error| {
                failed = Some(error);
                std::io::Error::other("no data from the device")
            })?;
            out.write_all(bytemuck::cast_slice(&data))?;
        }
        Ok(())
    });
    failed.map_or(written.map(drop), Err)
}

/// A state on disk.
pub(super) struct State {
    pub(super) card: StateCard,
    path: PathBuf,
    map: Mmap,
}

impl State {
    /// Opens a state.
    ///
    /// # Errors
    /// Missing, damaged, or no state.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let map = files::map(path)?;
        let seal = seal_of_tensors(path, &map)?;
        let card: StateCard = metadata(&map, path)?
            .ok_or_else(|| Error::checkpoint(path, "it is no state of a modalign run"))?;
        check_format(path, card.format)?;
        sealed(path, card.format, seal.as_ref())?;
        Ok(State { card, path: path.into(), map })
    }

    /// Hands every buffer of `wanted` to `put`.
    ///
    /// # Errors
    /// A buffer that is missing, or of another size; those of `put`.
    pub(super) fn each(
        &self,
        wanted: &[(String, SpaceId, usize)],
        mut put: impl FnMut(SpaceId, &[u32]) -> Result<()>,
    ) -> Result<()> {
        let fail = |detail: String| Error::checkpoint(&self.path, detail);
        let file = SafeTensors::deserialize(&self.map)
            .map_err(|e| fail(format!("no whole safetensors file ({e})")))?;
        let found = |(name, space, words): &(String, SpaceId, usize)| match file.tensor(name) {
            Ok(view) if view.data().len() == words * 4 => Ok((*space, view)),
            Ok(view) => {
                Err(fail(format!("'{name}' has {} words, want {words}", view.data().len() / 4)))
            }
            Err(_) => Err(fail(format!("'{name}' is missing"))),
        };
        // All are looked at before any is taken.
        let all = wanted.iter().map(found).collect::<Result<Vec<_>>>()?;
        for (space, view) in all {
            let chunks = view.data().chunks_exact(4);
            let words: Vec<u32> =
                chunks.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            put(space, &words)?;
        }
        Ok(())
    }
}
