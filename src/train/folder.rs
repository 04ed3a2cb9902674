//! Reading what a run folder says of itself, and which folders may become one.

use super::generated::LabelRecord;
use super::history::EpochRecord;
use super::run_files::RunCard;
use crate::data::Folded;
use crate::error::{Error, Result};
use crate::files::{check_format, is_leftover};
use crate::recipe::Config;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Whether a folder holds a run.
pub fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// The first file of a folder by name, other than those `beside` and what a kill left of a write; none
/// where there is no other, or no folder.
///
/// # Errors
/// A path that is no folder, or cannot be read.
pub fn first_in(path: &Path, beside: &[&str]) -> Result<Option<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(e) if e.kind() == ErrorKind::NotADirectory && path.exists() => {
            let detail =
                format!("{} is a file: give a folder that is new or empty", path.display());
            return Err(Error::Config(detail));
        }
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io("read", path))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.retain(|n| !is_leftover(n) && !beside.contains(&n.as_str()));
    Ok(names.into_iter().min())
}

/// Refuses a folder that has anything in it: whatever is there is somebody's.
///
/// # Errors
/// [`Config`](Error::Config): a folder that is not empty, or a file.
pub fn free(path: &Path) -> Result<()> {
    match first_in(path, &[])? {
        None => Ok(()),
        Some(name) => Err(Error::Config(format!(
            "{} is not empty (it holds {name}), and nothing in it is overwritten: give a folder \
             that is new or empty",
            path.display()
        ))),
    }
}

/// Refuses a folder for a new run unless it is absent or empty, or all that it holds is a run that
/// was killed before it had its configuration.
///
/// # Errors
/// [`Config`](Error::Config): a folder that holds a run or anything else.
pub fn free_for_run(path: &Path) -> Result<()> {
    if is_run(path) {
        return Err(Error::Config(format!(
            "{} already holds a run: give another --out, or continue it with --resume",
            path.display()
        )));
    }
    let begun = std::fs::read_to_string(path.join("run.json"));
    match begun.is_ok_and(|text| serde_json::from_str::<RunCard>(&text).is_ok()) {
        true => Ok(()),
        false => free(path),
    }
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

/// The digest of the data that a run was trained on, and the fold of them, if it was one.
///
/// # Errors
/// A `run.json` that is missing or is none.
pub fn trained_on(run: &Path) -> Result<(String, Option<Folded>)> {
    let path = run.join("run.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let card: RunCard = serde_json::from_str(&text)
        .map_err(|e| Error::checkpoint(&path, format!("no card of a run ({e})")))?;
    check_format(&path, card.format)?;
    Ok((card.data_sha256, card.fold))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_absent_and_empty_folders_are_free() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        free_for_run(&at("absent")).unwrap();
        free_for_run(&at("absent/deeper")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        free_for_run(&at("empty")).unwrap();
        // What a kill left of the very first write.
        fs::write(at("empty/.run.json.a1b2.tmp"), "{").unwrap();
        free_for_run(&at("empty")).unwrap();

        fs::create_dir(at("encoder")).unwrap();
        fs::write(at("encoder/config.json"), "{}").unwrap();
        let said = |name: &str| free_for_run(&at(name)).unwrap_err().to_string();
        assert!(said("encoder").contains("config.json"), "{}", said("encoder"));
        fs::write(at("encoder/run.json"), "{\"of\": \"another program\"}").unwrap();
        assert!(said("encoder").contains("new or empty"), "{}", said("encoder"));
        fs::write(at("file"), "x").unwrap();
        assert!(said("file").contains("is a file"), "{}", said("file"));
        fs::create_dir(at("run")).unwrap();
        fs::write(at("run/config.toml"), "").unwrap();
        assert!(said("run").contains("--resume"), "{}", said("run"));
    }

    #[test]
    fn a_run_that_was_killed_as_it_began_may_be_begun_again() {
        let root = tempfile::tempdir().unwrap();
        let card = "{\"data\": \"a\", \"data_sha256\": \"b\", \"init\": null, \"adapter\": \"c\", \
                    \"driver\": \"d\", \"version\": \"e\"}";
        fs::create_dir(root.path().join("bert")).unwrap();
        assert!(free_for_run(root.path()).is_err());
        fs::write(root.path().join("run.json"), card).unwrap();
        free_for_run(root.path()).unwrap();
        fs::write(root.path().join("config.toml"), "").unwrap();
        assert!(free_for_run(root.path()).is_err());
    }
}
