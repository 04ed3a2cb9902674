//! Reading what a run folder says of itself.

use super::generated::LabelRecord;
use super::history::EpochRecord;
use crate::error::{Error, Result};
use crate::recipe::Config;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Whether a folder holds a run.
pub fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// The resolved configuration of a run.
///
/// # Errors
/// No run there, or one of another version.
pub fn config(run: &Path) -> Result<Config> {
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Config::build("mosi", Some(&text), &[])
}

/// One of a run's JSON files.
///
/// # Errors
/// Missing, or no JSON.
pub fn json(run: &Path, name: &str) -> Result<Value> {
    let path = run.join(name);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, format!("no JSON ({e})")))
}

/// The data file that a run was trained on.
///
/// # Errors
/// A `run.json` that is missing or does not say so.
pub fn data(run: &Path) -> Result<PathBuf> {
    let card = json(run, "run.json")?;
    let path = card["data"].as_str().map(PathBuf::from);
    path.ok_or_else(|| Error::checkpoint(run.join("run.json"), "does not name its data"))
}

/// The epochs written so far.
pub fn epochs(run: &Path) -> Vec<EpochRecord> {
    lines(run, "epochs.jsonl")
}

/// What became of the generated labels, epoch by epoch; empty without label generation.
pub fn labels(run: &Path) -> Vec<LabelRecord> {
    lines(run, "labels.jsonl")
}

/// The lines of a log; an incomplete last one, of a run that is being written or was killed, does
/// not count.
fn lines<T: DeserializeOwned>(run: &Path, name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(run.join(name)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
