//! The files of a run folder, as training writes and keeps them.

use crate::data::Folded;
use crate::error::{Error, Result};
use crate::files::{first_format, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;

/// What `run.json` holds besides the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RunCard {
    /// Of this file and of the logs beside it.
    #[serde(default = "first_format")]
    pub(super) format: u32,
    pub(super) data: PathBuf,
    pub(super) data_sha256: String,
    /// Of the tokens, which come from another file or by way of a tokenizer.
    #[serde(default)]
    pub(super) tokens_sha256: Option<String>,
    /// Where the splits are not the file's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fold: Option<Folded>,
    pub(super) init: Option<PathBuf>,
    pub(super) adapter: String,
    pub(super) driver: String,
    pub(super) version: String,
}

/// A run folder.
pub(super) struct Files {
    pub(super) root: PathBuf,
}

impl Files {
    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state").join("state.safetensors")
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.at(name);
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        write_atomic(&path, format!("{text}\n").as_bytes())
    }

    pub(super) fn append(&self, name: &str, lines: &[Value]) -> Result<()> {
        let path = self.at(name);
        let mut text = String::new();
        for line in lines {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            // The state that follows is synced: the lines it stands on must not be lost before it.
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()))
            .map_err(Error::io("write", &path))
    }

    /// The lines of a log up to an epoch; later or incomplete ones are dropped from the file too.
    pub(super) fn keep_until(&self, name: &str, epoch: usize) -> Result<Vec<Value>> {
        let path = self.at(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let lines: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|v| v["epoch"].as_u64().is_some_and(|e| e as usize <= epoch))
            .collect();
        let kept: String = lines.iter().map(|l| format!("{l}\n")).collect();
        if kept != text {
            write_atomic(&path, kept.as_bytes())?;
        }
        Ok(lines)
    }
}
