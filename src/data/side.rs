//! The side file `NAME.json`: `{"train": {"id": [...], "raw_text": [...]}, ...}`, in row order; and of the
//! whole set `class_names` and `target_names`, and [`AUDIO_FEATURES`].

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::dataset::Split;
use super::{Acoustic, SplitName};
use crate::error::{Error, Result};

/// Where the side file says how the audio was made of recordings.
pub(crate) const AUDIO_FEATURES: &str = "audio_features";

/// What the side file holds: an object a split. Unknown keys are left alone: a set may say more
/// about itself.
#[derive(Default)]
pub(super) struct Side {
    path: PathBuf,
    root: Map<String, Value>,
}

impl Side {
    /// Reads the file beside `path`; empty where there is none.
    pub(super) fn read(path: &Path) -> Result<Side> {
        let path = path.with_extension("json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Side::default()),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let root = serde_json::from_str(&text).map_err(|e| {
            let detail = format!(
                "not a JSON object of splits ({e}); mend it, or remove it to go without ids"
            );
            Error::data(&path, detail)
        })?;
        Ok(Side { path, root })
    }

    /// Its lists of names that are of the whole set, by key: `class_names`, `target_names`.
    pub(super) fn names(&self) -> BTreeMap<String, Vec<String>> {
        let of = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|name| Some(name.as_str()?.to_string())).collect()
        };
        self.root.iter().filter_map(|(key, value)| Some((key.clone(), of(value)?))).collect()
    }

    /// How the audio was made of recordings; nothing where another program has written something else there.
    pub(super) fn acoustic(&self) -> Option<Acoustic> {
        serde_json::from_value(self.root.get(AUDIO_FEATURES)?.clone()).ok()
    }

    /// How many texts a split has.
    pub(super) fn texts(&self, name: SplitName) -> Option<usize> {
        self.root.get(name.name())?.get("raw_text")?.as_array().map(Vec::len)
    }
}

/// Adds ids and texts to `splits`.
pub(super) fn attach(side: &Side, splits: &mut [Option<Split>; 3]) -> Result<()> {
    for name in SplitName::ALL {
        let Some(split) = &mut splits[name.index()] else { continue };
        split.ids = list(side, name, "id", split.rows)?;
        split.raw_text = list(side, name, "raw_text", split.rows)?;
    }
    Ok(())
}

/// The strings of a field of a split of so many rows.
///
/// # Errors
/// [`Error::Data`] naming the side file, where they are no strings or of other rows.
pub(super) fn list(
    side: &Side,
    split: SplitName,
    field: &str,
    rows: usize,
) -> Result<Option<Vec<String>>> {
    let Side { path, root } = side;
    let Some(value) = root.get(split.name()) else { return Ok(None) };
    let Some(fields) = value.as_object() else {
        let detail = format!("{split} is not an object; it wants lists `id`, `raw_text`");
        return Err(Error::data(path, detail));
    };
    let Some(value) = fields.get(field) else { return Ok(None) };
    let items: Option<Vec<String>> = value.as_array().and_then(|items| {
        items
            .iter()
            .map(|item| match item {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
            .collect()
    });
    match items {
        Some(items) if items.len() == rows => Ok(Some(items)),
        Some(items) => Err(Error::data(
            path,
            format!(
                "{split}.{field} has {} entries where the tensors have {rows} rows; \
                 write both files from the same rows",
                items.len()
            ),
        )),
        None => {
            Err(Error::data(path, format!("{split}.{field} is not a list of strings; mend it")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::small;
    use super::super::{Dataset, SplitName};

    #[test]
    fn ids_and_texts_are_read() {
        let side = r#"{"note": 1, "train": {"id": ["a", "b", 3], "raw_text": ["x", "y", "z"]}}"#;
        let file = small().side(side).save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        assert_eq!(train.ids().unwrap(), ["a", "b", "3"]);
        assert_eq!(train.raw_text().unwrap()[2], "z");
        assert_eq!(train.id(0), "a");
    }

    #[test]
    fn a_bad_side_file_is_named() {
        for (side, wanted) in [
            ("{", "not a JSON object"),
            (r#"{"train": 3}"#, "train is not an object"),
            (r#"{"train": {"id": ["a"]}}"#, "1 entries where the tensors have 3 rows"),
            (r#"{"train": {"id": [[], 1, 2]}}"#, "not a list of strings"),
        ] {
            let file = small().side(side).save();
            let error = Dataset::open(file.path()).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("set.json"), "{error}");
        }
    }
}
