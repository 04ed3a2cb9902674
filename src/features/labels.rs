//! Tables of labels of recordings: our own `id,label[,split][,text]`, and MMSA-FET's `label.csv`.

use crate::data::{Modality, SplitName, clip_id as joined};
use crate::error::Result;
use std::collections::BTreeMap;
use std::path::Path;

use super::sound::ENDINGS;
use super::table::Table;

/// What a table says about a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The sentiment.
    pub value: f32,
    /// The part it belongs to, where the table says so.
    pub split: Option<SplitName>,
    /// What is said, where the table says so.
    pub text: Option<String>,
    /// The sentiment of text, audio and vision alone, each where the table says it of every recording.
    pub unimodal: [Option<f32>; 3],
}

/// A table that was read.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// By the recording's id.
    pub rows: BTreeMap<String, Label>,
    /// Columns that nothing was read from.
    pub unread: Vec<String>,
}

/// The id of a clip of a video, as MMSA writes it.
pub fn clip_id(video: &str, clip: &str) -> String {
    joined(&[video, clip])
}

/// A recording's name without the ending that sound files have.
fn without_ending(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, ending)) if ENDINGS.contains(&ending.to_ascii_lowercase().as_str()) => stem,
        _ => name,
    }
}

/// Reads a table whose first line names its columns: `id`, or MMSA's `video_id` and `clip_id`; `label`; and
/// perhaps `split`, which MMSA calls `mode`, `text`, and `label_T`, `label_A` and `label_V`, the sentiment of
/// one modality alone. Commas, semicolons or tabs are between them.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) and, naming the line, [`Error::Data`](crate::Error::Data).
pub fn read_labels(path: impl AsRef<Path>) -> Result<Labels> {
    let table = Table::read(path.as_ref())?;
    let bad = |line: usize, what: String| table.bad(line, what);
    let (header, column) = (table.header(), |name: &str| table.column(name));
    let id = match (column("id"), column("video_id"), column("clip_id")) {
        (Some(id), ..) => vec![id],
        (None, Some(video), Some(clip)) => vec![video, clip],
        _ => Vec::new(),
    };
    let (false, Some(label)) = (id.is_empty(), column("label")) else {
        let found = header.join(", ");
        let detail = format!(
            "columns {found}: wanted id (or video_id and clip_id) and label, and perhaps split (or mode) \
             and text"
        );
        return Err(bad(1, detail));
    };
    let (split, text) = (column("split").or(column("mode")), column("text"));
    let own = Modality::KNOWN.map(|m| column(&format!("label_{}", m.short())));
    let read = |at: usize| {
        id.contains(&at)
            || [Some(label), split, text].contains(&Some(at))
            || own.contains(&Some(at))
    };
    let unread = header.iter().enumerate().filter(|(at, _)| !read(*at));
    let mut unread: Vec<String> = unread.map(|(_, name)| name.to_string()).collect();
    let mut rows = BTreeMap::new();
    table.each(|line, record| {
        let field = |at: Option<usize>| at.and_then(|i| record.get(i)).filter(|f| !f.is_empty());
        let parts: Option<Vec<&str>> = id.iter().map(|at| field(Some(*at))).collect();
        let name = match parts.as_deref() {
            Some([name]) => without_ending(name).to_string(),
            Some([video, clip]) => clip_id(video, without_ending(clip)),
            _ => return Err(bad(line, "no id".into())),
        };
        let number = |given: &str| match given.parse::<f32>().ok().filter(|v| v.is_finite()) {
            Some(value) => Ok(value),
            None => Err(bad(line, format!("'{given}' is no label"))),
        };
        let value = number(field(Some(label)).unwrap_or_default())?;
        let mut unimodal = [None; 3];
        for (slot, at) in unimodal.iter_mut().zip(own) {
            *slot = field(at).map(number).transpose()?;
        }
        let split = match field(split) {
            None => None,
            Some(given) => Some(SplitName::known_as(given).ok_or_else(|| {
                bad(line, format!("split '{given}': want train, valid (or dev) or test"))
            })?),
        };
        let row = Label { value, split, text: field(text).map(Into::into), unimodal };
        if rows.insert(name.clone(), row).is_some() {
            return Err(bad(line, format!("'{name}' comes a second time")));
        }
        Ok(())
    })?;
    // A model needs the labels of all rows: what some of them lack is of no use.
    for (at, modality) in Modality::KNOWN.into_iter().enumerate() {
        let lacking = rows.values().filter(|row: &&Label| row.unimodal[at].is_none()).count();
        if own[at].is_some() && lacking > 0 {
            rows.values_mut().for_each(|row| row.unimodal[at] = None);
            let (name, all) = (modality.short(), rows.len());
            unread.push(format!("label_{name} ({lacking} of {all} rows have none)"));
        }
    }
    Ok(Labels { rows, unread })
}
