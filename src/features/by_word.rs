//! A data set whose streams have a step for each word, as MMSA's aligned files have them: of what is heard
//! and seen the mean over the time of the word.
//!
//! ```text
//! step w of a row  =  mean of x_i over the steps i with start_w ≤ i / rate < end_w        0 where there is none
//! ```
//!
//! With a tokenizer a word has as many steps as pieces, each with the word's mean, between `[CLS]` and `[SEP]`,
//! which have zeros: MMSA's aligned files have one step for a token.

use super::{HOP, RATE, TimedWord};
use crate::data::{
    AUDIO_FEATURES, Dataset, Modality, Options, Split, SplitName, Stream, Tokenizer,
};
use crate::error::{Error, Result};
use crate::files;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

/// How a data set is brought to words.
#[derive(Debug, Default)]
pub struct ByWord {
    /// Steps of a second, of streams of which the data set does not say it (as it does of the features of
    /// recordings; others may have `audio_rate` and `audio_hop` in the file's header), or says it wrongly.
    pub rates: BTreeMap<Modality, f64>,
    /// Cuts words into pieces: a step for each token instead of each word.
    pub tokenizer: Option<Tokenizer>,
    /// Steps that a row keeps at most; all of the longest where nothing is said.
    pub steps: Option<usize>,
}

/// What became of a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ByWordReport {
    /// Rows of each split.
    pub rows: Vec<(SplitName, usize)>,
    /// Words of all rows.
    pub words: usize,
    /// Steps of each row.
    pub steps: usize,
    /// Of each stream with times, how many words have none of its steps, in rows that have the stream.
    pub silent: BTreeMap<Modality, usize>,
    /// Rows that are cut to the steps there are.
    pub cut: usize,
    /// Ids of the table that the data has not.
    pub unknown: Vec<String>,
    /// Streams of one vector a row, which stay as they are.
    pub whole: Vec<Modality>,
    /// Whether tokens (`text_bert`) were left out, whose steps are not the words.
    pub without_tokens: bool,
}

/// What a stream's steps are.
#[derive(Clone, Copy)]
enum Kind {
    /// Moments, so many a second.
    Timed(f64),
    /// Words.
    Words,
}

/// A tensor to write: name, type, shape, bytes.
type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

/// A row: its words, and of each step the word that it is of, if it is of one.
struct Row<'a> {
    words: &'a [TimedWord],
    steps: Vec<Option<usize>>,
    ids: Vec<u32>,
}

/// Writes the data set `data` by the words of each id to `out`, with ids and the words as `raw_text` beside it.
///
/// # Errors
/// [`Error::Data`]: a row of which the table has no word; a stream of several steps of which nobody says how
/// many a second has; text whose steps are not the row's words; tokens without a tokenizer.
/// [`Error::Config`]: paths that are one file, or not named as data sets are.
pub fn by_word(
    data: &Path,
    words: &BTreeMap<String, Vec<TimedWord>>,
    how: &ByWord,
    out: &Path,
) -> Result<ByWordReport> {
    if out.extension().is_none_or(|ending| ending != "safetensors") {
        let detail = format!("{}: a data set is called NAME.safetensors", out.display());
        return Err(Error::Config(detail));
    }
    if std::fs::canonicalize(out).is_ok_and(|to| std::fs::canonicalize(data).is_ok_and(|d| d == to))
    {
        return Err(Error::Config("--out is the data set itself; choose another name".into()));
    }
    // Whatever a label may be, it is the same afterwards.
    let set = Dataset::open_with(data, &Options { label_range: f32::MAX, ..Options::default() })?;
    let (kinds, whole) = kinds(&set, how)?;
    let mut report = ByWordReport { whole, ..ByWordReport::default() };
    let mut rows: BTreeMap<SplitName, Vec<Row>> = BTreeMap::new();
    for split in set.splits() {
        let own = (0..split.rows()).map(|row| of_row(split, row, words, how));
        rows.insert(split.name(), own.collect::<Result<_>>()?);
    }
    let longest = rows.values().flatten().map(|row| row.steps.len()).max().unwrap_or(1);
    let steps = how.steps.unwrap_or(longest).min(longest).max(1);
    for row in rows.values_mut().flatten().filter(|row| row.steps.len() > steps) {
        report.cut += 1;
        row.cut(steps, how.tokenizer.is_some());
    }
    report.steps = steps;
    report.words = rows.values().flatten().map(|row| row.words.len()).sum();
    report.rows = set.splits().map(|split| (split.name(), split.rows())).collect();
    let known: BTreeSet<String> =
        set.splits().flat_map(|split| (0..split.rows()).map(|row| split.id(row))).collect();
    report.unknown = words.keys().filter(|id| !known.contains(*id)).cloned().collect();

    let mut tensors = others(data, &kinds)?;
    for split in set.splits() {
        let own = &rows[&split.name()];
        for (modality, kind) in &kinds {
            let Some(stream) = split.stream(*modality) else { continue };
            let silent = report.silent.entry(*modality).or_default();
            tensors.extend(streamed(split, &stream, (own, steps), *kind, silent)?);
        }
        if how.tokenizer.is_some() {
            tensors.push(tokens(split.name(), own, steps));
        }
    }
    let tokens = set.splits().any(|split| split.text_bert().is_some());
    report.without_tokens = tokens && how.tokenizer.is_none();
    report.silent.retain(|modality, _| matches!(kinds.get(modality), Some(Kind::Timed(_))));
    write(data, out, tensors, &rows)?;
    Ok(report)
}

/// What the steps of streams are, and the streams that have a single one.
fn kinds(set: &Dataset, how: &ByWord) -> Result<(BTreeMap<Modality, Kind>, Vec<Modality>)> {
    let (mut kinds, mut whole) = (BTreeMap::new(), Vec::new());
    for modality in set.modalities() {
        let steps = set.splits().find_map(|s| s.stream(modality)).map_or(1, |s| s.steps);
        if steps == 1 {
            whole.push(modality);
            continue;
        }
        if modality == Modality::Text {
            kinds.insert(modality, Kind::Words);
            continue;
        }
        let number = |key: &str| set.metadata(&format!("{modality}_{key}"))?.parse::<f64>().ok();
        let made = set.acoustic().filter(|_| modality == Modality::Audio);
        let made = made.map(|made| f64::from(made.rate) / made.hop.max(1) as f64);
        let said = made.or(number("rate").map(|rate| rate / number("hop").unwrap_or(1.0)));
        let rate = how.rates.get(&modality).copied().or(said).ok_or_else(|| {
            let detail = format!(
                "nothing says how many steps of {modality} a second has: give --{modality}-rate (features of \
                 modalign have {RATE}/{HOP}, which is {:.4})",
                f64::from(RATE) / HOP as f64
            );
            Error::data(set.path(), detail)
        })?;
        if !(rate.is_finite() && rate > 0.0) {
            let detail = format!("{rate} steps of {modality} a second: want more than 0");
            return Err(Error::Config(detail));
        }
        kinds.insert(modality, Kind::Timed(rate));
    }
    let tokens = set.splits().any(|s| s.text_bert().is_some());
    if tokens && how.tokenizer.is_none() && !kinds.contains_key(&Modality::Text) {
        let detail = "its text is tokens (text_bert), of which a tokenizer says what a word has: give --bert \
                      FOLDER, that of the encoder";
        return Err(Error::data(set.path(), detail));
    }
    Ok((kinds, whole))
}

/// The words and steps of a row.
fn of_row<'a>(
    split: &Split,
    row: usize,
    words: &'a BTreeMap<String, Vec<TimedWord>>,
    how: &ByWord,
) -> Result<Row<'a>> {
    let id = split.id(row);
    let own = words.get(&id).map(Vec::as_slice).ok_or_else(|| {
        let others = (row..split.rows()).filter(|row| !words.contains_key(&split.id(*row))).count();
        let more = if others > 1 {
            format!(" (and {} more of its part)", others - 1)
        } else {
            String::new()
        };
        Error::data(split.path(), format!("the table has no word of '{id}'{more}"))
    })?;
    let Some(tokenizer) = &how.tokenizer else {
        let steps = (0..own.len()).map(Some).collect();
        return Ok(Row { words: own, steps, ids: Vec::new() });
    };
    // As a text is cut: every word by itself, between what begins and ends it.
    let ends = tokenizer.encode("", usize::MAX)?;
    let (Some(first), Some(last)) = (ends.first(), ends.last()) else {
        return Err(Error::data(tokenizer.path(), "gives no [CLS] and [SEP]"));
    };
    let (mut ids, mut steps) = (vec![*first], vec![None]);
    for (w, word) in own.iter().enumerate() {
        let cut = tokenizer.encode(&word.word, usize::MAX)?;
        let pieces = &cut[1..cut.len() - 1];
        ids.extend(pieces);
        steps.extend(pieces.iter().map(|_| Some(w)));
    }
    ids.push(*last);
    steps.push(None);
    Ok(Row { words: own, steps, ids })
}

impl Row<'_> {
    /// Keeps the first steps; of tokens the last one, which ends a text, too.
    fn cut(&mut self, steps: usize, tokens: bool) {
        if tokens
            && let (Some(step), Some(id)) = (self.steps.last().copied(), self.ids.last().copied())
        {
            self.steps.truncate(steps - 1);
            self.ids.truncate(steps - 1);
            self.steps.push(step);
            self.ids.push(id);
        }
        self.steps.truncate(steps);
        self.ids.truncate(steps);
    }
}

/// A stream with a step for each of its rows' steps, and how many each row has.
fn streamed(
    split: &Split,
    stream: &Stream,
    (rows, steps): (&[Row], usize),
    kind: Kind,
    silent: &mut usize,
) -> Result<[Tensor; 2]> {
    let (dim, name) = (stream.dim, format!("{}.{}", split.name(), stream.modality));
    let mut values = vec![0.0_f32; rows.len() * steps * dim];
    for (row, (to, own)) in values.chunks_exact_mut(steps * dim).zip(rows).enumerate() {
        if stream.missing(row) {
            continue;
        }
        let (from, count) = (stream.values(row)?, stream.len(row));
        let frame = |i: usize| &from[i * dim..][..dim];
        let means: Vec<Option<Vec<f64>>> = match kind {
            Kind::Timed(rate) => {
                let within = |word: &TimedWord| {
                    let inside = |i: &usize| (word.start..word.end).contains(&(*i as f64 / rate));
                    (0..count).filter(inside).collect::<Vec<_>>()
                };
                own.words
                    .iter()
                    .map(|word| mean(within(word).into_iter().map(frame), dim))
                    .collect()
            }
            // A file may have been cut to fewer words than were said.
            Kind::Words if count == own.words.len().min(stream.steps) => {
                (0..own.words.len()).map(|w| (w < count).then(|| mean([frame(w)], dim))?).collect()
            }
            Kind::Words => {
                let detail = format!(
                    "'{}' has {count} steps of text and {} words in the table: its steps must be those words",
                    split.id(row),
                    own.words.len()
                );
                return Err(Error::data(split.path(), detail));
            }
        };
        *silent += means.iter().filter(|mean| mean.is_none()).count();
        for (step, to) in own.steps.iter().zip(to.chunks_exact_mut(dim)) {
            if let Some(Some(mean)) = step.map(|w| &means[w]) {
                to.iter_mut().zip(mean).for_each(|(to, mean)| *to = *mean as f32);
            }
        }
    }
    let lengths: Vec<i32> = rows.iter().map(|row| row.steps.len().max(1) as i32).collect();
    let bytes = bytemuck::cast_slice(&values).to_vec();
    Ok([
        (name.clone(), "F32", vec![rows.len(), steps, dim], bytes),
        (
            format!("{name}_lengths"),
            "I32",
            vec![rows.len()],
            bytemuck::cast_slice(&lengths).to_vec(),
        ),
    ])
}

/// The mean of some steps; none of no step.
fn mean<'a>(steps: impl IntoIterator<Item = &'a [f32]>, dim: usize) -> Option<Vec<f64>> {
    let (mut sum, mut count) = (vec![0.0; dim], 0usize);
    for step in steps {
        sum.iter_mut().zip(step).for_each(|(sum, x)| *sum += f64::from(*x));
        count += 1;
    }
    (count > 0).then(|| sum.into_iter().map(|sum| sum / count as f64).collect())
}

/// `text_bert` of a split: ids, where there are any, and segments.
fn tokens(split: SplitName, rows: &[Row], steps: usize) -> Tensor {
    let mut values = vec![0_i32; rows.len() * 3 * steps];
    for (to, row) in values.chunks_exact_mut(3 * steps).zip(rows) {
        for (i, id) in row.ids.iter().enumerate() {
            (to[i], to[steps + i]) = (*id as i32, 1);
        }
    }
    let bytes = bytemuck::cast_slice(&values).to_vec();
    (format!("{split}.text_bert"), "I32", vec![rows.len(), 3, steps], bytes)
}

/// The tensors of a data set that are not brought to words.
fn others(data: &Path, kinds: &BTreeMap<Modality, Kind>) -> Result<Vec<Tensor>> {
    let bytes = files::map(data)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| Error::data(data, e.to_string()))?;
    let made = |name: &str| {
        let field = name.split_once('.').map_or(name, |(_, field)| field);
        let stream = field.strip_suffix("_lengths").unwrap_or(field);
        field == "text_bert" || kinds.keys().any(|modality| modality.name() == stream)
    };
    let mut names: Vec<&str> = file.names().into_iter().filter(|name| !made(name)).collect();
    names.sort_unstable();
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let tensor = file.tensor(name).map_err(|e| Error::data(data, e.to_string()))?;
        let kind = match tensor.dtype() {
            Dtype::F32 => "F32",
            Dtype::I32 => "I32",
            // Nothing here reads others.
            _ => continue,
        };
        all.push((name.to_string(), kind, tensor.shape().to_vec(), tensor.data().to_vec()));
    }
    Ok(all)
}

/// Writes tensors and side file.
fn write(
    data: &Path,
    out: &Path,
    mut tensors: Vec<Tensor>,
    rows: &BTreeMap<SplitName, Vec<Row>>,
) -> Result<()> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let about = [("steps", "words".to_string())];
    let header = tensors.iter().map(|(name, kind, shape, bytes)| {
        (name.as_str(), *kind, shape.clone(), bytes.len() as u64)
    });
    let header = files::tensor_header(&about, header);
    files::write_atomic_with(out, |to| {
        to.write_all(&header)?;
        tensors.iter().try_for_each(|(.., bytes)| to.write_all(bytes))
    })?;
    let path = data.with_extension("json");
    let mut side: Map<String, Value> = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| Error::data(&path, e.to_string()))?,
        Err(e) if e.kind() == ErrorKind::NotFound => Map::new(),
        Err(e) => return Err(Error::io("read", &path)(e)),
    };
    // Its features keep their names; a recording's own features would be no steps of this set, whose steps are
    // words.
    if let Some(made) = side.get_mut(AUDIO_FEATURES)
        && let Some(columns) = made.get("columns").cloned()
    {
        *made = columns;
    }
    for (split, rows) in rows {
        let said = |row: &Row| {
            let words: Vec<&str> = row.words.iter().map(|word| word.word.as_str()).collect();
            Value::String(words.join(" "))
        };
        let texts = rows.iter().map(said).collect();
        let own = side.entry(split.name()).or_insert_with(|| Value::Object(Map::new()));
        if let Some(own) = own.as_object_mut() {
            own.insert("raw_text".into(), Value::Array(texts));
        }
    }
    files::write_atomic(out.with_extension("json"), Value::Object(side).to_string().as_bytes())
}
