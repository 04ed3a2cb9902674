//! Reading what a run folder says of itself, and naming new ones.

use crate::error::{Error, Result};
use crate::recipe::Config;
use crate::train::EpochRecord;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Whether a folder holds a run.
pub(super) fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// The resolved configuration of a run.
pub(super) fn config(run: &Path) -> Result<Config> {
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    Config::build("mosi", Some(&text), &[])
}

/// One of a run's JSON files.
pub(super) fn json(run: &Path, name: &str) -> Result<Value> {
    let path = run.join(name);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, format!("no JSON ({e})")))
}

/// The data file that a run was trained on.
pub(super) fn data(run: &Path) -> Result<PathBuf> {
    let card = json(run, "run.json")?;
    let path = card["data"].as_str().map(PathBuf::from);
    path.ok_or_else(|| Error::checkpoint(run.join("run.json"), "does not name its data"))
}

/// The epochs written so far; an incomplete last line, of a run that is being written or was
/// killed, does not count.
pub(super) fn epochs(run: &Path) -> Vec<EpochRecord> {
    let text = std::fs::read_to_string(run.join("epochs.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The path itself, or with the first number that is not taken.
pub(super) fn untaken(wanted: PathBuf) -> PathBuf {
    if !wanted.exists() {
        return wanted;
    }
    let numbered = |n: usize| {
        let mut name = wanted.clone().into_os_string();
        name.push(format!("-{n}"));
        PathBuf::from(name)
    };
    (2..).map(numbered).find(|path| !path.exists()).unwrap_or(wanted)
}

/// Where a model's data is: as given, else that of the run that `model` is.
pub(super) fn data_for(model: &Path, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_path_buf()),
        None if is_run(model) => data(model),
        None => Err(Error::Config("--data: say which data set to run the model on".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_names_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("a.b-mosi-1");
        assert_eq!(untaken(wanted.clone()), wanted);
        std::fs::create_dir(&wanted).unwrap();
        assert_eq!(untaken(wanted.clone()), folder.path().join("a.b-mosi-1-2"));
        std::fs::create_dir(folder.path().join("a.b-mosi-1-2")).unwrap();
        assert_eq!(untaken(wanted), folder.path().join("a.b-mosi-1-3"));
    }
}
