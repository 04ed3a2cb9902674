//! What every kind of source is turned into: for each split, columns by the names of our format.

use std::collections::BTreeMap;

use super::Fault;
use super::array::{Array, DType, Kind};
use super::budget::Budget;
use crate::data::{Modality, clip_id};

/// The values of a field, a row per sample.
pub(super) enum Column {
    /// Numbers of one shape.
    Array(Array),
    /// Numbers whose rows differ in their steps: steps x features each.
    Ragged(Vec<Array>),
    /// Strings.
    Texts(Vec<String>),
}

impl Column {
    /// How many samples.
    pub(super) fn rows(&self) -> usize {
        match self {
            Column::Array(array) => array.rows(),
            Column::Ragged(arrays) => arrays.len(),
            Column::Texts(texts) => texts.len(),
        }
    }
}

/// The columns of a split.
pub(super) type Fields = BTreeMap<&'static str, Column>;

/// A source, read as far as its headers.
#[derive(Default)]
pub(super) struct Table {
    /// By [`SplitName::index`]; empty where the source has no such split.
    pub(super) splits: [Fields; 3],
    /// What a user should know.
    pub(super) notes: Vec<String>,
    /// Fields of the source that have no place here.
    pub(super) left: Vec<String>,
    /// Names of classes and of targets, from the JSON file beside a safetensors file.
    pub(super) names: BTreeMap<String, Vec<String>>,
}

/// Fields whose values are strings.
pub(super) const TEXTS: [&str; 3] = ["id", "raw_text", "annotations"];

/// Fields whose values are numbers: the names of our format and MMSA's.
pub(super) const NUMBERS: [&str; 15] = [
    "text",
    "text_bert",
    "audio",
    "vision",
    "text_lengths",
    "audio_lengths",
    "vision_lengths",
    "text_missing",
    "audio_missing",
    "vision_missing",
    "regression_labels",
    "regression_labels_T",
    "regression_labels_A",
    "regression_labels_V",
    "class_labels",
];

/// What is said of an array without values.
pub(super) const EMPTY: &str = "an array without values: an axis of its shape is 0";

/// Rows of which none has a step are of nothing.
pub(super) fn all_empty(arrays: &[Array]) -> Result<(), Fault> {
    match arrays.iter().all(|array| array.shape.first() == Some(&0)) {
        true => Err(Fault::new(format!("no row has a step: each is {EMPTY}"))),
        false => Ok(()),
    }
}

/// A row without a step says that it lacks the modality: a clip in which no face was found. Its step of zeros
/// is read by nothing.
pub(super) fn empty_rows(split: &str, columns: &mut Fields, notes: &mut Vec<String>) {
    let mut lacking = Vec::new();
    for (field, column) in columns.iter_mut() {
        let Column::Ragged(arrays) = column else { continue };
        let width = arrays.iter().find_map(|a| a.shape.get(1).copied()).unwrap_or(1);
        let empty: Vec<usize> =
            (0..arrays.len()).filter(|row| arrays[*row].shape.first() == Some(&0)).collect();
        for &row in &empty {
            let zeros = vec![0; width * size_of::<f32>()];
            arrays[row] = Array::owned(DType::F32, vec![1, width], zeros);
        }
        if !empty.is_empty() {
            lacking.push((*field, arrays.len(), empty));
        }
    }
    for (field, rows, empty) in lacking {
        let Some(missing) = any_named(&format!("{field}_missing")) else { continue };
        let said: Vec<f64> =
            (0..rows).map(|row| f64::from(u8::from(empty.contains(&row)))).collect();
        columns.entry(missing).or_insert_with(|| Column::Array(Array::column(&said)));
        let first: Vec<String> = empty.iter().take(5).map(ToString::to_string).collect();
        notes.push(format!(
            "{split}.{field}: {} of {rows} rows have no step (row {}{}): they are said to lack it",
            empty.len(),
            first.join(", "),
            if empty.len() > first.len() { ", …" } else { "" }
        ));
    }
}

/// Our name of a field that goes by `name` elsewhere.
pub(super) fn field_named(name: &str) -> Option<&'static str> {
    let known = TEXTS.into_iter().chain(NUMBERS).find(|known| *known == name);
    known.or_else(|| {
        Some(match name {
            "classification_labels" | "class_label" | "classes" => "class_labels",
            "labels" | "label" | "regression_label" => "regression_labels",
            "visual" | "video" => "vision",
            "acoustic" => "audio",
            "ids" => "id",
            "texts" | "sentence" | "sentences" | "transcript" => "raw_text",
            "annotation" => "annotations",
            _ => return None,
        })
    })
}

/// A field of a stream that is none of text, audio and vision: the stream itself, its lengths, or which rows
/// lack it.
pub(super) fn other_named(name: &str) -> Option<&'static str> {
    let (modality, field) = Modality::of_field(name)?;
    matches!(modality, Modality::Other(_)).then_some(field)
}

/// A field of ours, or of a stream of another name.
pub(super) fn any_named(name: &str) -> Option<&'static str> {
    field_named(name).or_else(|| other_named(name))
}

/// Whether an array can be a stream of another name: numbers with a fraction, a vector a row at least.
pub(super) fn is_stream(array: &Array) -> bool {
    matches!(array.dtype.kind, Kind::Float | Kind::Brain) && matches!(array.shape.len(), 2 | 3)
}

/// The strings of an array of them; rows of several are joined as MMSA joins video and clip.
pub(super) fn strings(array: &Array, budget: &mut Budget) -> Result<Vec<String>, Fault> {
    let (dtype, each) = (array.dtype, array.row_items());
    let mut reader = array.reader(budget)?;
    let mut texts = Vec::new();
    for _ in 0..array.rows() {
        let row = reader.next(1)?;
        let parts: Vec<String> = match dtype.size {
            0 => vec![String::new(); each.min(1)],
            size => {
                row.chunks_exact(size).map(|item| string(dtype.kind, dtype.big, item)).collect()
            }
        };
        budget.text(&mut texts, &clip_id(&parts))?;
    }
    Ok(texts)
}

/// One string of numpy's, without its padding.
pub(super) fn string(kind: Kind, big: bool, item: &[u8]) -> String {
    if kind != Kind::Unicode {
        return String::from_utf8_lossy(item).trim_end_matches('\0').to_string();
    }
    let text: String = item
        .chunks_exact(4)
        .map(|b| match big {
            true => u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
            false => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        })
        .map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    text.trim_end_matches('\0').to_string()
}
