//! What a stream of a data set is called: text, audio and vision, which the field knows, or any other name.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A source of evidence about a sample. In order: text, audio, vision, then others by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Modality {
    /// What was said.
    Text,
    /// How it was said.
    Audio,
    /// What was seen.
    Vision,
    /// A stream of another name, such as `image` or `clip_text`.
    Other(StreamName),
}

/// The name of a stream that is none of text, audio and vision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(&'static str);

/// The longest name, in characters.
const LONGEST: usize = 32;
/// More names than any program uses; beyond them a program that makes up names for ever is stopped.
const MOST_NAMES: usize = 10_000;
/// Fields of a data set that are no streams.
const FIELDS: [&str; 9] = [
    "text_bert",
    "regression_labels",
    "class_labels",
    "classification_labels",
    "raw_text",
    "id",
    "ids",
    "annotations",
    "all",
];
/// Ends of names that say something about a stream.
const ENDS: [&str; 2] = ["_lengths", "_missing"];

impl Modality {
    /// The modalities that the field knows, in the order that configurations and files list them.
    pub const KNOWN: [Modality; 3] = [Modality::Text, Modality::Audio, Modality::Vision];

    /// A stream by its name: at most 32 small letters, digits and `_`, a letter first.
    ///
    /// # Errors
    /// [`Error::Config`] where a stream cannot have the name.
    pub fn named(name: &str) -> Result<Modality> {
        if let Some(known) = Self::KNOWN.into_iter().find(|m| m.name() == name) {
            return Ok(known);
        }
        let fail =
            |why: &str| Err(Error::Config(format!("no stream can be named '{name}': {why}")));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
            return fail("give small letters, digits and _, a letter first");
        }
        if name.len() > LONGEST {
            return fail("give at most 32 characters");
        }
        let label = FIELDS.contains(&name) || name.starts_with("regression_labels_");
        if label || name.starts_with("factor_") || ENDS.iter().any(|end| name.ends_with(end)) {
            return fail("a data set means something else by it");
        }
        match kept(name) {
            Some(kept) => Ok(Modality::Other(StreamName(kept))),
            None => fail("this program has met 10,000 names of streams already"),
        }
    }

    /// The stream that a field of a data set is or says something of: `image`, `image_lengths`, `image_missing`.
    /// With the field's name, which lasts.
    #[cfg(feature = "import")]
    pub(super) fn of_field(field: &str) -> Option<(Modality, &'static str)> {
        let stream = ENDS.iter().find_map(|end| field.strip_suffix(end)).unwrap_or(field);
        Some((Self::named(stream).ok()?, kept(field)?))
    }

    /// The name in files: `text`, `audio`, `vision`, or its own.
    pub fn name(self) -> &'static str {
        match self {
            Modality::Text => "text",
            Modality::Audio => "audio",
            Modality::Vision => "vision",
            Modality::Other(StreamName(name)) => name,
        }
    }

    /// The name in tables and in the names of scores: T, A, V, or its own.
    pub fn short(self) -> &'static str {
        match self {
            Modality::Text => "T",
            Modality::Audio => "A",
            Modality::Vision => "V",
            Modality::Other(StreamName(name)) => name,
        }
    }

    /// A number that is its own, for the keys of random sequences: 0, 1 and 2 for those that the field knows.
    pub(crate) fn key(self) -> u64 {
        match self {
            Modality::Text => 0,
            Modality::Audio => 1,
            Modality::Vision => 2,
            // FNV-1a, kept far from small numbers, which stand for other things.
            Modality::Other(StreamName(name)) => {
                let fold =
                    |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                name.bytes().fold(0xcbf2_9ce4_8422_2325, fold) | 1 << 32
            }
        }
    }

    /// The modality that a [short](Self::short) name stands for.
    pub fn of_short(short: &str) -> Option<Modality> {
        Self::KNOWN.into_iter().find(|m| m.short() == short).or_else(|| match Self::named(short) {
            Ok(other @ Modality::Other(_)) => Some(other),
            _ => None,
        })
    }
}

/// A name for as long as the program runs, so that it is as light as a number; nothing beyond [`MOST_NAMES`].
fn kept(name: &str) -> Option<&'static str> {
    static NAMES: OnceLock<Mutex<BTreeSet<&'static str>>> = OnceLock::new();
    let names = NAMES.get_or_init(Mutex::default).lock();
    let mut names = names.unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Some(*known);
    }
    if names.len() == MOST_NAMES {
        return None;
    }
    let kept: &'static str = Box::leak(name.to_string().into_boxed_str());
    names.insert(kept);
    Some(kept)
}

/// Several as settings and tables have them: letters, then other names, with a + before each: `TA`,
/// `T+image`, `clip_text+image`.
pub fn shortened(all: impl IntoIterator<Item = Modality>) -> String {
    all.into_iter().fold(String::new(), |mut text, modality| {
        if matches!(modality, Modality::Other(_)) && !text.is_empty() {
            text.push('+');
        }
        text + modality.short()
    })
}

/// What [`shortened`] has written, or names with a + between: `text+image`.
///
/// # Errors
/// [`Error::Config`]: what cannot be read, and one that is there twice.
pub fn listed(text: &str) -> Result<Vec<Modality>> {
    let mut all = Vec::new();
    for part in text.split('+').map(str::trim) {
        let letters = !part.is_empty() && part.chars().all(|c| "TAV".contains(c));
        match letters {
            true => all.extend(part.split("").filter_map(Modality::of_short)),
            false => all.push(Modality::named(part)?),
        }
    }
    let twice = all.iter().enumerate().find(|(i, m)| all[..*i].contains(m));
    match twice {
        Some((_, modality)) => {
            Err(Error::Config(format!("'{modality}' is there twice in '{text}'")))
        }
        None => Ok(all),
    }
}

impl From<Modality> for &'static str {
    fn from(modality: Modality) -> &'static str {
        modality.name()
    }
}

impl TryFrom<String> for Modality {
    type Error = Error;

    fn try_from(name: String) -> Result<Modality> {
        Modality::named(&name)
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_themselves_and_in_order() {
        let image = Modality::named("image").unwrap();
        assert_eq!(image, Modality::named("image").unwrap());
        assert_ne!(image, Modality::named("clip_text").unwrap());
        assert_eq!(Modality::named("audio").unwrap(), Modality::Audio);
        let mut all = [image, Modality::Vision, Modality::named("face").unwrap(), Modality::Text];
        all.sort();
        assert_eq!(all.map(Modality::name), ["text", "vision", "face", "image"]);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(text, r#"["text","vision","face","image"]"#);
        assert_eq!(serde_json::from_str::<Vec<Modality>>(&text).unwrap(), all);
    }

    #[test]
    fn lists_are_read_back() {
        for text in ["TAV", "T", "T+image", "face+image", "TA+face"] {
            assert_eq!(shortened(listed(text).unwrap()), text);
        }
        assert_eq!(shortened(listed("text + image").unwrap()), "T+image");
        for wrong in ["", "TT", "TX", "T+", "image+image", "TA+text"] {
            assert!(listed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_no_stream_can_be_named_is_said() {
        for wrong in ["", "Image", "a b", "1st", "text_bert", "image_lengths", "factor_shared", "é"]
        {
            let why = Modality::named(wrong).unwrap_err().to_string();
            assert!(why.contains(&format!("'{wrong}'")), "{why}");
        }
        assert!(Modality::named(&"a".repeat(33)).is_err());
    }
}
