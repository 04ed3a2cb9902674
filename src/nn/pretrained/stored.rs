//! Where a folder has its weights: one file or several with an index, of safetensors or PyTorch's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::torch;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{EncoderKind, Weights};

/// The files that may hold weights, in the order in which transformers looks for them.
const NAMES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The weights of a folder, still on disk.
pub(super) struct Stored {
    /// Where there are several files, what says so.
    index: Option<PathBuf>,
    /// The files.
    parts: Vec<PathBuf>,
    /// By name in the index, the number of its file.
    places: BTreeMap<String, usize>,
}

impl Stored {
    /// The file to begin with, and whether it is there.
    pub(super) fn choose(folder: &Path) -> (PathBuf, bool) {
        let found = NAMES.into_iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let there = found.is_some();
        (found.unwrap_or_else(|| folder.join(NAMES[0])), there)
    }

    /// Looks for the weights of a folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: none there, an index that is none or names what is no file of the folder.
    pub(super) fn open(folder: &Path) -> Result<Stored> {
        let (path, there) = Self::choose(folder);
        if !there {
            let detail = "there is no such file; give the folder of a pretrained encoder";
            return Err(Error::checkpoint(path, detail));
        }
        if path.extension().is_none_or(|kind| kind != "json") {
            return Ok(Stored { index: None, parts: vec![path], places: BTreeMap::new() });
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let bad = |detail: String| Error::checkpoint(&path, detail);
        let all: Value = serde_json::from_str(&text)
            .map_err(|e| bad(format!("not a JSON object ({e}); copy the model's file again")))?;
        let Some(map) = all["weight_map"].as_object() else {
            return Err(bad(
                "there is no weight_map, which says in what file a tensor is; copy it again".into(),
            ));
        };
        let mut files = BTreeSet::new();
        for (name, file) in map {
            let file = file.as_str().unwrap_or_default();
            // A name alone: an index has no business outside its folder.
            let own = Path::new(file).file_name().is_some_and(|only| only == file);
            if !own || !folder.join(file).is_file() {
                let shown: String = file.chars().take(120).collect();
                return Err(bad(format!(
                    "tensor '{name}' is in {shown:?}, which is no file of this folder; get a whole copy of \
                     the model"
                )));
            }
            files.insert(file);
        }
        let number = |file: &str| files.iter().position(|one| *one == file);
        let places =
            map.iter().filter_map(|(name, file)| Some((name.clone(), number(file.as_str()?)?)));
        let places = places.collect();
        let parts = files.iter().map(|file| folder.join(file)).collect();
        Ok(Stored { index: Some(path.clone()), parts, places })
    }

    /// All files, the index first.
    pub(super) fn files(self) -> Vec<PathBuf> {
        self.index.into_iter().chain(self.parts).collect()
    }

    /// The file that a tensor of this name of BERT's is in, or should be.
    pub(super) fn file_of(&self, name: &str, kind: EncoderKind) -> &Path {
        let mut places = self.places.iter();
        let part = places.find(|(stored, _)| kind.plain(stored) == name).map(|(_, part)| *part);
        let part = part.or(if self.index.is_none() { Some(0) } else { None });
        let part = part.and_then(|part| self.parts.get(part)).or(self.index.as_ref());
        part.map_or(Path::new(""), PathBuf::as_path)
    }

    /// The floats of all files that `rename` has a name for, one file after the other.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: a damaged file, or a tensor that is there twice.
    pub(super) fn read(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Weights> {
        let mut all = Weights::default();
        for path in &self.parts {
            let map = files::map(path)?;
            let part = match map.starts_with(b"PK")
                || path.extension().is_some_and(|kind| kind == "bin")
            {
                true => torch::read(&map, path, &rename)?,
                false => Weights::parse_as(&map, path, true, &rename)?,
            };
            if let Some((name, ..)) = part.iter().find(|(name, ..)| all.get(name).is_some()) {
                let detail = format!(
                    "tensor '{name}' is in another part, too; get a sound copy of the model"
                );
                return Err(Error::checkpoint(path, detail));
            }
            all.extend(part);
        }
        Ok(all)
    }
}
