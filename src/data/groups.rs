//! Which rows belong together: clips of one video or of one speaker resemble each other in features and
//! in labels, so that a division of rows keeps each group whole.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::error::{Error, Result, nearest};

/// How rows are grouped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Group {
    /// By the video in their ids: what stands before `$_$`, before the clip's number in brackets, or
    /// before the last `_` where a number follows.
    #[default]
    IdPrefix,
    /// By what stands in their ids before the first of this.
    IdUntil(String),
    /// Each row by itself.
    None,
}

/// As plans and options write it.
const NAMES: [&str; 3] = ["id-prefix", "id-until:TEXT", "none"];

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::IdPrefix => f.pad("id-prefix"),
            Group::IdUntil(text) => f.pad(&format!("id-until:{text}")),
            Group::None => f.pad("none"),
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match (name, name.strip_prefix("id-until:")) {
            ("id-prefix", _) => Ok(Group::IdPrefix),
            ("none", _) => Ok(Group::None),
            (_, Some("")) => {
                Err("id-until: wants what ends a group's name, as in id-until:-".into())
            }
            (_, Some(text)) => Ok(Group::IdUntil(text.into())),
            _ => Err(format!(
                "no grouping '{name}', did you mean '{}'? There are: {}",
                nearest(name, NAMES.into_iter()),
                NAMES.join(", ")
            )),
        }
    }
}

impl TryFrom<String> for Group {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Group> for String {
    fn from(group: Group) -> String {
        group.to_string()
    }
}

/// What stands between a video and its clip in MMSA's ids.
const CLIP_MARK: &str = "$_$";

/// The id of a clip, from its video and its number, or its start and its end, as MMSA joins them.
#[cfg(any(feature = "import", feature = "audio"))]
pub(crate) fn clip_id<T: std::borrow::Borrow<str>>(parts: &[T]) -> String {
    parts.join(CLIP_MARK)
}

/// The video of a clip: MMSA writes `video$_$clip`, CMU's toolkit `video[clip]`, others `video_clip`.
pub(super) fn video(id: &str) -> &str {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let bracket = || id.strip_suffix(']')?.rsplit_once('[').filter(|(_, clip)| number(clip));
    let last = || id.rsplit_once('_').filter(|(_, clip)| number(clip));
    id.split_once(CLIP_MARK).or_else(bracket).or_else(last).map_or(id, |(video, _)| video)
}

/// The group of every row, through train, valid and test, numbered in the order in which they come.
///
/// # Errors
/// [`Error::Data`], where ids are to name groups and do not: there are none, or each row would be a
/// group of its own.
pub(super) fn groups(data: &Dataset, by: &Group) -> Result<Vec<usize>> {
    let side = data.path().with_extension("json");
    let rows: usize = data.splits().map(|s| s.rows()).sum();
    let name = |id| match by {
        Group::IdPrefix => video(id),
        Group::IdUntil(text) => id.split_once(text.as_str()).map_or(id, |(name, _)| name),
        Group::None => id,
    };
    if *by == Group::None {
        return Ok((0..rows).collect());
    }
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut all = Vec::with_capacity(rows);
    for split in data.splits() {
        let Some(ids) = split.ids() else {
            let detail = format!(
                "has no {}.id to group rows by; give each split's ids there, or fold single rows with \
                 --group none",
                split.name()
            );
            return Err(Error::data(&side, detail));
        };
        all.extend(ids.iter().map(|id| {
            let next = known.len();
            *known.entry(name(id)).or_insert(next)
        }));
    }
    if known.len() == rows {
        let first = data.splits().find_map(|s| s.ids()?.first()).map_or("", String::as_str);
        let detail = format!(
            "its ids give no groups: by {by} every row is alone ('{first}' is of '{}'); name rows \
             GROUP_NUMBER there, say where a group's name ends with --group id-until:TEXT, or fold \
             single rows with --group none",
            name(first)
        );
        return Err(Error::data(&side, detail));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Saved, TensorFile};
    use super::*;

    /// A training split of these ids, and a test split of the others.
    pub(in super::super) fn with_ids(train: &[&str], test: &[&str]) -> Saved {
        let split = |file: TensorFile, name: &str, rows: usize| {
            file.f32(&format!("{name}.audio"), &[rows, 1, 1], (0..rows).map(|i| i as f32)).f32(
                &format!("{name}.regression_labels"),
                &[rows],
                vec![0.0; rows],
            )
        };
        let file = split(TensorFile::new(), "train", train.len());
        let file = split(file, "test", test.len());
        let side = serde_json::json!({ "train": { "id": train }, "test": { "id": test } });
        file.side(&side.to_string()).save()
    }

    fn found(by: &str, train: &[&str], test: &[&str]) -> Result<Vec<usize>> {
        let file = with_ids(train, test);
        groups(&Dataset::open(file.path()).unwrap(), &by.parse().unwrap())
    }

    #[test]
    fn clips_of_a_video_are_told() {
        for (id, wanted) in [
            ("a_b$_$12", "a_b"),
            ("a_b$_$1.5$_$2.5", "a_b"),
            ("03bSnISJMiM_4", "03bSnISJMiM"),
            ("c7UH_rxdZv4[12]", "c7UH_rxdZv4"),
            ("x[y]", "x[y]"),
            ("x_y", "x_y"),
            ("7", "7"),
        ] {
            assert_eq!(video(id), wanted);
        }
    }

    #[test]
    fn groups_go_through_all_splits() {
        let wanted = [0, 1, 0, 1, 2];
        assert_eq!(found("id-prefix", &["a_1", "b_1", "a_2"], &["b_2", "c_1"]).unwrap(), wanted);
        let dashes = found("id-until:-", &["a-1", "b-1-x", "a"], &["b-2", "c"]);
        assert_eq!(dashes.unwrap(), wanted);
        assert_eq!(found("none", &["a_1", "a_2"], &["a_3"]).unwrap(), [0, 1, 2]);
    }

    #[test]
    fn ids_that_give_no_groups_are_said() {
        let alone = found("id-prefix", &["a01-e0", "a01-e1"], &["a02-e0"]).unwrap_err().to_string();
        for word in ["set.json", "every row is alone", "'a01-e0'", "id-until:TEXT", "--group none"]
        {
            assert!(alone.contains(word), "no {word} in {alone}");
        }
        assert!(!alone.contains('\n'));
        let file = with_ids(&["a_1"], &["b_1"]);
        std::fs::write(file.path().with_extension("json"), r#"{"train": {"id": ["a_1"]}}"#)
            .unwrap();
        let data = Dataset::open(file.path()).unwrap();
        let none = groups(&data, &Group::IdPrefix).unwrap_err().to_string();
        assert!(none.contains("no test.id") && none.contains("--group none"), "{none}");
    }

    #[test]
    fn groupings_are_written_as_they_are_read() {
        for name in ["id-prefix", "id-until:-", "id-until:$_$", "none"] {
            assert_eq!(name.parse::<Group>().unwrap().to_string(), name);
        }
        let wrong = "id-prefx".parse::<Group>().unwrap_err();
        assert!(wrong.contains("did you mean 'id-prefix'"), "{wrong}");
        assert!("id-until:".parse::<Group>().is_err());
        assert_eq!(serde_json::to_string(&Group::IdUntil("-".into())).unwrap(), "\"id-until:-\"");
        assert!(serde_json::from_str::<Group>("\"rows\"").is_err());
    }
}
