//! Reading what a run folder says of itself, and which folders may become one.

use super::generated::LabelRecord;
use super::history::EpochRecord;
use super::run_files::RunCard;
use crate::data::Folded;
use crate::error::{Error, Result};
use crate::files::{Claim, LOCK, check_format, is_leftover, read_json, sha256_hex};
use crate::recipe::Config;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Whether a folder holds a run.
pub fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// The first file of a folder by name, other than those `beside`, a run's lock and what a kill left of a
/// write; none where there is no other, or no folder.
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
    names.retain(|n| n != LOCK && !is_leftover(n) && !beside.contains(&n.as_str()));
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
    let begun = read_json(&path.join("run.json"));
    match begun.is_ok_and(|text| serde_json::from_str::<RunCard>(&text).is_ok()) {
        true => Ok(()),
        false => free(path),
    }
}

/// Takes a folder for a new run: absent or empty, as [`free_for_run`] has it.
///
/// # Errors
/// As [`free_for_run`]; [`Busy`](Error::Busy) where a run is being trained there.
pub fn claim_for_run(path: &Path) -> Result<Claim> {
    // Somebody else's folder is refused without a trace; one that a run has had may have it still.
    if !path.join(LOCK).exists() {
        free_for_run(path)?;
    }
    let claim = Claim::take(path)?;
    free_for_run(path)?;
    Ok(claim)
}

/// Takes a folder that holds a run.
///
/// # Errors
/// No run there; [`Busy`](Error::Busy) where it is being trained.
pub fn claim_run(path: &Path) -> Result<Claim> {
    // A folder that is no run is not written to.
    config(path)?;
    Claim::take(path)
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
/// Missing, no JSON, or other bytes than were written.
pub fn json(run: &Path, name: &str) -> Result<Value> {
    let path = run.join(name);
    let text = read_json(&path)?;
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

/// What a run says of itself.
///
/// # Errors
/// Missing, damaged, or of a later version.
pub(super) fn card(run: &Path) -> Result<RunCard> {
    let path = run.join("run.json");
    let text = read_json(&path)?;
    let card: RunCard = serde_json::from_str(&text)
        .map_err(|e| Error::checkpoint(&path, format!("no card of a run ({e})")))?;
    check_format(&path, card.format)?;
    Ok(card)
}

/// The digest of the data that a run was trained on, and the fold of them, if it was one.
///
/// # Errors
/// A `run.json` that is missing or is none.
pub fn trained_on(run: &Path) -> Result<(String, Option<Folded>)> {
    let card = card(run)?;
    Ok((card.data_sha256, card.fold))
}

/// The epochs written so far.
///
/// # Errors
/// Of a run that has ended, a log that is not as it was written.
pub fn epochs(run: &Path) -> Result<Vec<EpochRecord>> {
    lines(run, "epochs.jsonl")
}

/// What became of the generated labels, epoch by epoch; empty without label generation.
///
/// # Errors
/// As [`epochs`].
pub fn labels(run: &Path) -> Result<Vec<LabelRecord>> {
    lines(run, "labels.jsonl")
}

/// The lines of a log; an incomplete last one, of a run that is being written or was killed, does
/// not count.
fn lines<T: DeserializeOwned>(run: &Path, name: &str) -> Result<Vec<T>> {
    let path = run.join(name);
    // One that is not there shows by itself.
    let Ok(bytes) = std::fs::read(&path) else { return Ok(Vec::new()) };
    let ended = run.join("metrics.json").exists().then(|| json(run, "metrics.json")).transpose()?;
    let sum = ended.as_ref().and_then(|ended| ended["files"][name].as_str());
    if sum.is_some_and(|sum| sum != sha256_hex(&bytes)) {
        let detail = "is not what the run wrote (another SHA-256 than in metrics.json): it is damaged, or was \
                      edited; put back a copy";
        return Err(Error::checkpoint(&path, detail));
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
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
        fs::write(at("empty/.run.json.12-3.tmp"), "{").unwrap();
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
