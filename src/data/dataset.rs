//! A data set on disk, memory-mapped and checked once; rows are read from the map as needed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::open_labels::in_range;
use super::source::{Mapped, Source};
use super::stream::{Stream, TextBert, floats, part};
use super::task::{self, Table, Task, TaskKind};
use super::{Acoustic, Folded, Modality, SplitName, Tokenised, open};
use crate::error::Result;
use crate::nn::BertShape;

/// What [`Dataset::open_with`] accepts.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Labels that are a number a row must lie in `-label_range..=label_range`.
    pub label_range: f32,
    /// Take such labels beyond it for the nearest one within, instead of refusing the data.
    pub clip_labels: bool,
    /// What the targets are; found from the data where this is nothing.
    pub task: Option<TaskKind>,
}

impl Default for Options {
    fn default() -> Self {
        Options { label_range: 3.0, clip_labels: false, task: None }
    }
}

/// A data set whose every row has been checked. Cheap to share: the values stay in the file.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub(super) source: Arc<dyn Source>,
    pub(super) splits: [Option<Split>; 3],
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) digest: OnceLock<String>,
    pub(super) text: Option<Arc<Text>>,
    pub(super) tokens_digest: Option<String>,
    pub(super) task: Task,
    pub(super) task_note: Option<String>,
    /// Training rows of each class or label.
    pub(super) counts: Vec<usize>,
    /// Lists of names in the side file, by key.
    pub(super) names: BTreeMap<String, Vec<String>>,
    pub(super) fold: Option<Folded>,
    pub(super) acoustic: Option<Acoustic>,
}

/// The text of a data set as tokens, for an encoder of these sizes.
#[derive(Debug)]
pub struct Text {
    /// The tokens of every row.
    pub tokens: Tokenised,
    /// Sizes of the encoder that reads them.
    pub shape: BertShape,
}

impl Dataset {
    /// Splits of a source, of which nothing else is known yet.
    pub(super) fn of(
        source: Arc<dyn Source>,
        splits: [Option<Split>; 3],
        names: BTreeMap<String, Vec<String>>,
    ) -> Dataset {
        Dataset {
            source,
            splits,
            metadata: BTreeMap::new(),
            digest: OnceLock::new(),
            text: None,
            tokens_digest: None,
            task: Task::default(),
            task_note: None,
            counts: Vec::new(),
            names,
            fold: None,
            acoustic: None,
        }
    }

    /// The same with the targets of its task: the one that is asked for, or that its rows show.
    pub(super) fn of_task(mut self, options: &Options) -> Result<Dataset> {
        let (task, note) = task::find(&self, options.task)?;
        if task.one_number() {
            in_range(&mut self, options)?;
        }
        Ok(Dataset { task_note: note, ..self.for_task(&task)? })
    }

    /// Opens and checks `NAME.safetensors` (and `NAME.json` beside it, where there is one), with
    /// labels in [-3, 3].
    ///
    /// # Errors
    /// [`crate::Error::Data`], one sentence: which tensor, which row, what is wrong, what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Dataset> {
        Self::open_with(path, &Options::default())
    }

    /// As [`Dataset::open`], with other limits.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Dataset> {
        open::open(path.as_ref(), options)
    }

    /// The text as tokens, where it was tokenised.
    pub fn text(&self) -> Option<&Arc<Text>> {
        self.text.as_ref()
    }

    /// The same data with its text as tokens.
    pub fn with_text(self, mut text: Text) -> Dataset {
        self.without_lacking(&mut text);
        let tokens_digest = Some(text.tokens.digest.clone());
        Dataset { text: Some(Arc::new(text)), tokens_digest, ..self }
    }

    /// Leaves of the sentences of rows that lack the text, of which nothing is known, their two ends.
    pub(super) fn without_lacking(&self, text: &mut Text) {
        for split in self.splits().filter(|split| split.missing_rows(Modality::Text) > 0) {
            let kept = text.tokens.keep(split.name(), |row, tokens| {
                let lacks = split.missing(Modality::Text, row);
                (0..tokens).filter(|i| !lacks || *i == 0 || *i + 1 == tokens).collect()
            });
            debug_assert!(kept.is_ok(), "tokens that were there once can be again");
        }
    }

    /// SHA-256 of the text's tokens, where it was tokenised.
    pub fn tokens_digest(&self) -> Option<&str> {
        self.tokens_digest.as_deref()
    }

    /// The same data with the text features of another file of the same rows, made of tokens of
    /// that digest, in place of the tokens: a model that saw both would train the encoder.
    #[cfg(feature = "train")]
    pub(crate) fn with_features(mut self, features: &Dataset, tokens: String) -> Result<Dataset> {
        (self.text, self.tokens_digest) = (None, Some(tokens));
        for (own, other) in self.splits.iter_mut().zip(&features.splits) {
            let Some(own) = own else { continue };
            let fitting = other.as_ref().filter(|o| o.rows == own.rows);
            let field = fitting.and_then(|o| o.streams.get(&Modality::Text).cloned());
            let Some(field) = field else {
                let detail = "its text features are not of this data set; remove it";
                return Err(crate::Error::data(features.path(), detail));
            };
            own.streams.insert(Modality::Text, field);
            own.text_source = features.source.clone();
        }
        Ok(self)
    }

    /// A list of names that the side file has under this key, such as `class_names`.
    pub fn names(&self, key: &str) -> Option<&[String]> {
        self.names.get(key).map(Vec::as_slice)
    }

    /// The names of a stream's features: those of audio that `features` made, or the list of names that the
    /// side file has as `vision_features`.
    pub fn feature_names(&self, modality: Modality) -> Option<&[String]> {
        match &self.acoustic {
            Some(made) if modality == Modality::Audio => Some(&made.columns),
            _ => self.names(&format!("{modality}_features")),
        }
    }

    /// The fold that its splits are of; none where they are the file's own.
    pub fn fold(&self) -> Option<&Folded> {
        self.fold.as_ref()
    }

    /// How its audio was made of recordings, where the side file says so.
    pub fn acoustic(&self) -> Option<&Acoustic> {
        self.acoustic.as_ref()
    }

    /// A split, or `None` where the file has no tensor of it.
    pub fn split(&self, name: SplitName) -> Option<&Split> {
        self.splits[name.index()].as_ref()
    }

    /// Rows of the largest split, at least 1.
    pub fn most_rows(&self) -> usize {
        self.splits().map(Split::rows).max().unwrap_or(1).max(1)
    }

    /// The splits present, in the order train, valid, test.
    pub fn splits(&self) -> impl Iterator<Item = &Split> {
        self.splits.iter().flatten()
    }

    /// The modalities with a stream (`text_bert` alone does not count); the same in every split.
    pub fn modalities(&self) -> Vec<Modality> {
        self.splits().next().map_or_else(Vec::new, |first| first.modalities().collect())
    }

    /// A note that the file's writer left in its header, such as `dataset` or `label_min`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Of each stream whose numbers are out of all proportion the largest, beyond `limit` on either side:
    /// where it is in the file, and the value. Squares of numbers beyond 1e19 are beyond f32.
    pub fn outsized(&self, limit: f32) -> Vec<(Modality, String, f32)> {
        let mut all: Vec<(Modality, String, f32)> = Vec::new();
        for split in self.splits() {
            for (modality, features) in &split.streams {
                let Some((value, (from, row))) = features.largest else { continue };
                if value.abs() > limit {
                    all.push((*modality, format!("{from}.{modality}, row {row}"), value));
                }
            }
        }
        all
    }

    /// Whether the file that it was opened from is still there as it was. Rows that were read into memory are
    /// sound whatever became of it; a run, which may be taken up again, wants the file.
    ///
    /// # Errors
    /// [`crate::Error::Data`]: removed, replaced, cut short or written to.
    pub fn unchanged(&self) -> Result<()> {
        let file = self.splits().find_map(|split| split.file.as_ref());
        file.map_or_else(|| self.source.unchanged(), |file| file.map.unchanged())
    }

    /// The file, or what another source is called.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// SHA-256 of the safetensors file, hexadecimal, or what another source has in its place; computed on
    /// first use, then kept.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| self.source.digest())
    }
}

/// One part of a data set.
#[derive(Clone, Debug)]
pub struct Split {
    pub(super) source: Arc<dyn Source>,
    /// Where the text features lie: the same, or a file made of the text.
    pub(super) text_source: Arc<dyn Source>,
    /// The file, where the rows are in one: tokens and factors are read from it.
    pub(super) file: Option<Arc<Mapped>>,
    pub(super) name: SplitName,
    pub(super) rows: usize,
    pub(super) streams: BTreeMap<Modality, Features>,
    pub(super) text_bert: Option<Field>,
    /// Of each modality the rows that lack it, where the file says so.
    pub(super) missing: BTreeMap<Modality, Vec<bool>>,
    pub(super) labels: Option<Vec<f32>>,
    pub(super) numbers: Option<Table<f32>>,
    /// What people said of each modality alone.
    pub(super) unimodal: BTreeMap<Modality, Vec<f32>>,
    pub(super) class_labels: Option<Vec<u32>>,
    pub(super) flags: Option<Table<u32>>,
    /// `[rows, width]`: the targets of the data set's task.
    pub(super) targets: Option<Arc<[u32]>>,
    pub(super) width: usize,
    pub(super) factors: BTreeMap<String, Field>,
    pub(super) ids: Option<Vec<String>>,
    pub(super) raw_text: Option<Vec<String>>,
}

/// A stream of a split; its values are its source's.
#[derive(Debug, Clone)]
pub(super) struct Features {
    /// Steps of the longest row.
    pub(super) steps: usize,
    /// Features of a step.
    pub(super) dim: usize,
    /// Valid steps per row, each in 1..=steps.
    pub(super) lengths: Option<Vec<u32>>,
    /// Which of its source's rows each one is, in a fold; without it the split's own, in order.
    pub(super) from: Option<Vec<(SplitName, u32)>>,
    /// The value that is the farthest from 0, and the row of the source that has it, where that was looked
    /// for.
    pub(super) largest: Option<(f32, (SplitName, u32))>,
}

/// Where a tensor lies in the map.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// Where its rows begin.
    pub(super) rows: Rows,
    /// Rows first.
    pub(super) shape: Vec<usize>,
    /// Valid steps per row, each in 1..=steps.
    pub(super) lengths: Option<Vec<u32>>,
    /// The value of a stream that is the farthest from 0, and its row.
    pub(super) largest: Option<(f32, u32)>,
}

/// Where the rows of a tensor begin, in bytes from the start of the map.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// One behind the other, as a file has them.
    Run { first: usize, row_bytes: usize },
    /// Each at a place of its own, as a fold has them.
    Each(Vec<usize>),
}

impl Field {
    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        4 * self.shape.iter().skip(1).product::<usize>()
    }

    /// Where a row begins.
    pub(super) fn start(&self, row: usize) -> usize {
        match &self.rows {
            Rows::Run { first, row_bytes } => first + row * row_bytes,
            Rows::Each(starts) => starts[row],
        }
    }
}

impl Split {
    /// A split of so many rows about which nothing else is known.
    pub(super) fn of(name: SplitName, rows: usize, source: Arc<dyn Source>) -> Split {
        Split {
            text_source: source.clone(),
            source,
            file: None,
            name,
            rows,
            streams: BTreeMap::new(),
            text_bert: None,
            missing: BTreeMap::new(),
            labels: None,
            numbers: None,
            unimodal: BTreeMap::new(),
            class_labels: None,
            flags: None,
            targets: None,
            width: 1,
            factors: BTreeMap::new(),
            ids: None,
            raw_text: None,
        }
    }

    /// Which split this is.
    pub fn name(&self) -> SplitName {
        self.name
    }

    /// How many samples; at least 1.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The modalities with a stream: text, audio, vision, then others by name.
    pub fn modalities(&self) -> impl Iterator<Item = Modality> {
        self.streams.keys().copied()
    }

    /// The features of a modality.
    pub fn stream(&self, modality: Modality) -> Option<Stream<'_>> {
        let features = self.streams.get(&modality)?;
        let source = if modality == Modality::Text { &self.text_source } else { &self.source };
        let missing = self.missing.get(&modality).map(Vec::as_slice);
        Some(Stream {
            modality,
            rows: self.rows,
            steps: features.steps,
            dim: features.dim,
            split: self.name,
            source: source.as_ref(),
            features,
            missing,
            // What lies in a file was checked when that was opened.
            checked: self.file.is_some(),
        })
    }

    /// Whether there is anything of a modality: features, or token ids or sentences of the text.
    pub fn has(&self, modality: Modality) -> bool {
        let text = || self.text_bert.is_some() || self.raw_text.is_some();
        self.streams.contains_key(&modality) || (modality == Modality::Text && text())
    }

    /// Whether a row lacks a modality, as the file says or [`Lacking`](super::Lacking) has made it.
    pub fn missing(&self, modality: Modality, row: usize) -> bool {
        let rows = self.missing.get(&modality);
        rows.is_some_and(|rows| rows.get(row).copied().unwrap_or_default())
    }

    /// How many rows lack a modality.
    pub fn missing_rows(&self, modality: Modality) -> usize {
        self.missing.get(&modality).into_iter().flatten().filter(|missing| **missing).count()
    }

    /// The token ids for a BERT encoder.
    pub fn text_bert(&self) -> Option<TextBert<'_>> {
        let field = self.text_bert.as_ref()?;
        let &[rows, 3, len] = field.shape.as_slice() else { return None };
        Some(TextBert { rows, len, map: self.map(), field })
    }

    /// The number of each row, where it has one.
    pub fn labels(&self) -> Option<&[f32]> {
        self.labels.as_deref()
    }

    /// What people said of each row by one modality alone, as the SIMS sets have it.
    pub fn unimodal_labels(&self, modality: Modality) -> Option<&[f32]> {
        self.unimodal.get(&modality).map(Vec::as_slice)
    }

    /// The class of each row, where the set has classes.
    pub fn class_labels(&self) -> Option<&[u32]> {
        self.class_labels.as_deref()
    }

    /// The id of each row, from the side file.
    pub fn ids(&self) -> Option<&[String]> {
        self.ids.as_deref()
    }

    /// The id of one row; `train-17` where the side file gives none.
    pub fn id(&self, row: usize) -> String {
        let given = self.ids.as_ref().and_then(|ids| ids.get(row));
        given.cloned().unwrap_or_else(|| format!("{}-{row}", self.name))
    }

    /// The text of each row, from the side file.
    pub fn raw_text(&self) -> Option<&[String]> {
        self.raw_text.as_deref()
    }

    /// The names of the known factors, without `factor_`: `shared`, `text`, ... Empty for real data.
    pub fn factor_names(&self) -> Vec<&str> {
        self.factors.keys().map(String::as_str).collect()
    }

    /// A known factor: its values (rows x dim, row-major) and its dim.
    pub fn factor(&self, name: &str) -> Option<(Vec<f32>, usize)> {
        let field = self.factors.get(name)?;
        let row = |row| floats(part(self.map(), field.start(row), field.row_bytes()));
        Some(((0..self.rows).flat_map(row).collect(), *field.shape.get(1)?))
    }
}

impl Split {
    fn map(&self) -> &[u8] {
        self.file.as_ref().map_or(&[], |file| &file.map)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{TensorFile, small};
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        assert_eq!(data.modalities(), [Modality::Text, Modality::Audio]);
        let train = data.split(SplitName::Train).unwrap();
        assert_eq!(train.rows(), 3);
        let audio = train.stream(Modality::Audio).unwrap();
        assert_eq!((audio.steps, audio.dim), (4, 5));
        // A length of 0 counts as 1.
        assert_eq!([0, 1, 2, 3].map(|r| audio.len(r)), [4, 2, 1, 0]);
        assert_eq!(audio.frame(1, 2).collect::<Vec<_>>(), [30.0, 31.0, 32.0, 33.0, 34.0]);
        assert_eq!(audio.frame(1, 4).len() + audio.frame(3, 0).len(), 0);
        assert_eq!(audio.row(2)[0], 40.0);
        let text = train.stream(Modality::Text).unwrap();
        assert!(!text.has_lengths());
        assert_eq!(text.len(0), 1);
        assert_eq!(train.labels().unwrap(), [-1.0, 0.0, 2.0]);
        assert_eq!(train.id(1), "train-1");
        assert!(data.split(SplitName::Valid).is_none());
        let bert = train.text_bert().unwrap();
        assert_eq!(bert.ids(2).collect::<Vec<_>>(), [101, 7, 102, 0]);
        assert_eq!(bert.mask(2).collect::<Vec<_>>(), [1, 1, 1, 0]);
        assert_eq!(bert.segments(3).len(), 0);
    }

    #[test]
    fn an_unaligned_map_reads_the_same() {
        for shift in 1..4 {
            let file = small().shifted(shift).save();
            let data = Dataset::open(file.path()).unwrap();
            let audio = data.split(SplitName::Train).unwrap().stream(Modality::Audio).unwrap();
            assert_eq!(audio.row(1)[..2], [20.0, 21.0]);
        }
    }

    #[test]
    fn digest_is_of_the_file() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(data.digest(), crate::files::sha256_hex(&bytes));
    }

    #[test]
    fn a_file_for_prediction_needs_no_labels() {
        let file = TensorFile::new().f32("test.text", &[2, 1, 3], vec![0.5; 6]).save();
        let data = Dataset::open(file.path()).unwrap();
        let test = data.split(SplitName::Test).unwrap();
        assert!(test.labels().is_none() && data.split(SplitName::Train).is_none());
    }

    #[test]
    fn factors_are_found_by_name() {
        let file = small().f32("train.factor_shared", &[3, 2], (0..6).map(|i| i as f32)).save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        assert_eq!(train.factor_names(), ["shared"]);
        assert_eq!(train.factor("shared").unwrap(), (vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 2));
        assert!(train.factor("text").is_none());
    }

    #[test]
    fn the_real_sets_open() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        for (name, rows) in [
            ("cmu_mosi", [1284, 229, 686]),
            ("ravdess", [960, 180, 300]),
            ("ict_mmmo", [72, 18, 30]),
        ] {
            let path = folder.join(name).with_extension("safetensors");
            if !path.exists() {
                println!("skipped: {} is not there", path.display());
                continue;
            }
            let data = Dataset::open(&path).unwrap();
            let found: Vec<usize> = data.splits().map(Split::rows).collect();
            assert_eq!(found, rows, "{name}");
            assert!(data.splits().all(|s| s.labels().is_some() && s.ids().is_some()));
            assert_eq!(data.splits().all(|s| s.class_labels().is_some()), name == "ravdess");
            assert_eq!(data.splits().all(|s| s.raw_text().is_some()), name == "cmu_mosi");
            if name == "cmu_mosi" {
                assert_eq!(data.split(SplitName::Train).unwrap().text_bert().unwrap().len, 50);
            }
        }
    }
}
