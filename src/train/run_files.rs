//! The files of a run folder, as training writes and keeps them.

use crate::data::Folded;
use crate::error::{Error, Result};
use crate::files::{Claim, first_format, hex, write_atomic, write_sealed_json};
use crate::recipe::Config;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The logs of a run, which grow as it goes on.
pub(super) const LOGS: [&str; 3] = ["steps.jsonl", "labels.jsonl", "epochs.jsonl"];

/// Settings that may be changed between two calls of a run: none of them changes what an epoch does.
const MAY_CHANGE: [&str; 3] = ["train.max_epochs", "train.early_stop", "bert.path"];

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
    /// Of the weights that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) init_sha256: Option<String>,
    pub(super) adapter: String,
    pub(super) driver: String,
    pub(super) version: String,
    /// The settings that it began with, which `config.toml` is held against.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) settings: BTreeMap<String, String>,
    /// SHA-256 of the encoder's files that the run keeps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) encoder: BTreeMap<String, String>,
}

impl RunCard {
    /// Holds a configuration against the one that the run began with.
    ///
    /// # Errors
    /// [`Config`](Error::Config): a setting was changed that may not be.
    pub(super) fn check_settings(&self, run: &Path, config: &Config) -> Result<()> {
        for (key, now) in config.keys()? {
            let Some(then) = self.settings.get(&key).filter(|then| **then != now) else { continue };
            let path = run.join("config.toml");
            if MAY_CHANGE.contains(&key.as_str()) {
                log::info!("{}: {key} is {now} now, and was {then}", path.display());
                continue;
            }
            return Err(Error::Config(format!(
                "{} has {key} = {now}, and the run began with {then}: put that back, or begin a new run \
                 (only {} may change)",
                path.display(),
                MAY_CHANGE.join(", ")
            )));
        }
        Ok(())
    }
}

/// The head of a log that a state stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Bytes.
    pub(super) bytes: u64,
    /// Of those.
    pub(super) sha256: String,
}

/// What is known of a log.
#[derive(Clone, Default)]
struct Log {
    bytes: u64,
    sum: Sha256,
    /// What counts of it, where the file holds more: it stays until the next line is written.
    kept: Option<String>,
}

impl Log {
    fn of(text: &str) -> Log {
        Log { bytes: text.len() as u64, sum: Sha256::new_with_prefix(text), kept: None }
    }

    fn head(&self) -> Head {
        Head { bytes: self.bytes, sha256: hex(&self.sum.clone().finalize()) }
    }
}

/// A run folder that is this process's own.
pub(super) struct Files<'a> {
    claim: &'a Claim,
    logs: RefCell<BTreeMap<String, Log>>,
}

impl<'a> Files<'a> {
    pub(super) fn of(claim: &'a Claim) -> Self {
        Files { claim, logs: RefCell::default() }
    }

    pub(super) fn claim(&self) -> &Claim {
        self.claim
    }

    pub(super) fn root(&self) -> &Path {
        self.claim.path()
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(super) fn state(&self) -> PathBuf {
        self.at(STATE)
    }

    /// The path of a file that is going to be written. A link would lead out of the folder.
    ///
    /// # Errors
    /// [`Config`](Error::Config): the file, or a folder of the run that it is in, is a link.
    pub(super) fn own(&self, name: &str) -> Result<PathBuf> {
        let path = self.at(name);
        let inside = path.ancestors().take_while(|above| *above != self.root());
        match inside.into_iter().find(|above| above.is_symlink()) {
            None => Ok(path),
            Some(link) => Err(Error::Config(format!(
                "{} is a link, and a run writes into its own folder only: put what it points to in its \
                 place",
                link.display()
            ))),
        }
    }

    /// A folder of the run, made where it is not there.
    pub(super) fn folder(&self, name: &str) -> Result<()> {
        let path = self.own(name)?;
        std::fs::create_dir_all(&path).map_err(Error::io("create", &path))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        write_atomic(self.own(name)?, text.as_bytes())
    }

    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_sealed_json(&self.own(name)?, value)
    }

    /// Adds lines to a log.
    pub(super) fn append(&self, name: &str, lines: &[Value]) -> Result<()> {
        let path = self.own(name)?;
        let mut text = String::new();
        for line in lines {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        let mut logs = self.logs.borrow_mut();
        let log = logs.entry(name.to_string()).or_default();
        match log.kept.take() {
            Some(kept) => {
                if let Err(why) = write_atomic(&path, format!("{kept}{text}").as_bytes()) {
                    log.kept = Some(kept);
                    return Err(why);
                }
            }
            None => std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                // The state that follows is synced: the lines it stands on must not be lost before it.
                .and_then(|mut file| {
                    file.write_all(text.as_bytes()).and_then(|()| file.sync_data())
                })
                .map_err(Error::io("write", &path))?,
        }
        log.bytes += text.len() as u64;
        log.sum.update(&text);
        Ok(())
    }

    /// The heads of the logs as they are now.
    pub(super) fn heads(&self) -> BTreeMap<String, Head> {
        self.logs.borrow().iter().map(|(name, log)| (name.clone(), log.head())).collect()
    }

    /// The lines of a log that a state stands on. Others behind them, of steps that are going to be taken
    /// again, stay in the file until the first new line is written.
    ///
    /// # Errors
    /// [`Checkpoint`](Error::Checkpoint): a log that does not begin as it did when the state was saved.
    pub(super) fn take_up(
        &self,
        name: &str,
        head: Option<&Head>,
        place: Place,
    ) -> Result<Vec<Value>> {
        let path = self.at(name);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let kept = match head {
            Some(head) => {
                let kept = text.get(..head.bytes as usize).unwrap_or(&text);
                if head.bytes > 0 && Log::of(kept).head() != *head {
                    let detail = format!(
                        "is not what the run wrote (another SHA-256 of its first {} bytes): it is damaged, or \
                         was edited; put back a copy. {}",
                        head.bytes,
                        self.what_is_left()
                    );
                    return Err(Error::checkpoint(&path, detail));
                }
                kept.to_string()
            }
            // Of a run of an earlier version, or of one that has no state yet.
            None => text
                .lines()
                .filter(|line| serde_json::from_str(line).is_ok_and(|v: Value| place.reaches(&v)))
                .map(|line| format!("{line}\n"))
                .collect(),
        };
        let mut log = Log::of(&kept);
        if kept != text {
            log.kept = Some(kept.clone());
        }
        self.logs.borrow_mut().insert(name.into(), log);
        let parse = |line: &str| {
            serde_json::from_str(line)
                .map_err(|e| Error::checkpoint(&path, format!("no JSON in a line of it ({e})")))
        };
        kept.lines().map(parse).collect()
    }

    /// In words, which of a run's results are there.
    pub(super) fn what_is_left(&self) -> String {
        let names = [STATE, "model.safetensors", "last.safetensors", "epochs.jsonl"];
        let there: Vec<&str> = names.into_iter().filter(|name| self.at(name).is_file()).collect();
        match there.is_empty() {
            true => "Nothing else of it is left".into(),
            false => format!("Still there: {}", there.join(", ")),
        }
    }
}

/// The state of a run, in its folder.
pub(super) const STATE: &str = "state/state.safetensors";

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Whole epochs.
    pub(super) epoch: usize,
    /// Micro-batches of the next one.
    pub(super) batch: usize,
}

impl Place {
    /// Whether a line of a log is of what is done.
    fn reaches(&self, line: &Value) -> bool {
        let number = |key: &str| line[key].as_u64().map(|n| n as usize);
        match (number("epoch"), number("batch")) {
            (Some(epoch), _) if epoch <= self.epoch => true,
            (Some(epoch), Some(batch)) => epoch == self.epoch + 1 && batch <= self.batch,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(root: &Path) -> Claim {
        Claim::take(root).unwrap()
    }

    #[test]
    fn a_log_is_cut_only_when_there_is_something_better() {
        let root = tempfile::tempdir().unwrap();
        let line = |epoch: usize| json!({ "epoch": epoch, "loss": 0.5 });
        let claim = claim(root.path());
        let mine = Files::of(&claim);
        mine.append("epochs.jsonl", &[line(1), line(2)]).unwrap();
        let head = mine.heads()["epochs.jsonl"].clone();
        mine.append("epochs.jsonl", &[line(3)]).unwrap();
        let path = root.path().join("epochs.jsonl");
        let before = std::fs::read_to_string(&path).unwrap();
        let again = Files::of(&claim);
        let place = Place { epoch: 2, batch: 0 };
        assert_eq!(again.take_up("epochs.jsonl", Some(&head), place).unwrap(), [line(1), line(2)]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        again.append("epochs.jsonl", &[line(3)]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        assert_eq!(again.heads()["epochs.jsonl"].bytes as usize, before.len());
        // One flipped bit.
        std::fs::write(&path, before.replacen("0.5", "0.4", 1)).unwrap();
        let said = Files::of(&claim).take_up("epochs.jsonl", Some(&head), place).unwrap_err();
        assert!(said.to_string().contains("another SHA-256"), "{said}");
        std::fs::write(&path, &before[..20]).unwrap();
        assert!(Files::of(&claim).take_up("epochs.jsonl", Some(&head), place).is_err());
        // Without a state of this version.
        std::fs::write(&path, format!("{before}{{\"epoch\": 4, \"lo")).unwrap();
        let lines = Files::of(&claim).take_up("epochs.jsonl", None, place).unwrap();
        assert_eq!(lines, [line(1), line(2)]);
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_written_through_links() {
        let root = tempfile::tempdir().unwrap();
        let (run, mine) = (root.path().join("run"), root.path().join("mine"));
        std::fs::create_dir_all(&run).unwrap();
        std::fs::create_dir_all(&mine).unwrap();
        std::fs::write(mine.join("a.jsonl"), "words").unwrap();
        std::os::unix::fs::symlink(mine.join("a.jsonl"), run.join("a.jsonl")).unwrap();
        std::os::unix::fs::symlink(&mine, run.join("state")).unwrap();
        let claim = claim(&run);
        let files = Files::of(&claim);
        for error in [
            files.append("a.jsonl", &[json!(1)]).unwrap_err(),
            files.write("a.jsonl", "x").unwrap_err(),
            files.own(STATE).unwrap_err(),
            files.folder("state").unwrap_err(),
        ] {
            assert!(error.to_string().contains("is a link"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(mine.join("a.jsonl")).unwrap(), "words");
    }
}
