//! Where the rows of a data set come from: a mapped file, rows in memory, or a program of one's own.
//!
//! ```
//! use modalign::data::{Memory, Modality, Options, Row, SplitName, Target};
//!
//! let mut rows = Memory::new("my rows", &[(Modality::Text, 4), (Modality::named("image")?, 2)]);
//! for i in 0..12 {
//!     let x = i as f32 / 6.0 - 1.0;
//!     let streams = vec![vec![x; 4], vec![0.5, x]];
//!     let split = if i < 8 { SplitName::Train } else { SplitName::Test };
//!     rows.push(split, Row { streams, target: Some(Target::Number(x)), ..Row::default() })?;
//! }
//! let data = rows.dataset(&Options::default())?;
//! assert_eq!(data.split(SplitName::Train).map(|s| s.rows()), Some(8));
//! # Ok::<(), modalign::Error>(())
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::bytes::FileBytes;
use super::dataset::{Dataset, Features, Options, Split};
use super::stream::floats;
use super::task::Table;
use super::{Modality, SplitName};
use crate::error::{Error, Result};
use crate::files::{self, hex};

/// Gives the features of rows when a batch needs them. It is asked on a thread of its own, ahead of the
/// device, so that rows may be read, drawn or computed as training goes on.
pub trait Source: Send + Sync + fmt::Debug {
    /// What messages and run folders call it: a path, or a name.
    fn path(&self) -> &Path;

    /// What changes when any value of any row does, such as a SHA-256: a run is taken up again only where it
    /// is the same.
    fn digest(&self) -> String;

    /// The features of a row, `[steps, dim]`: at least its valid steps, in order. The same at every call.
    /// Of a row that lacks the modality nothing is asked.
    ///
    /// # Errors
    /// Whatever keeps it from giving them; training ends with it.
    fn values(&self, split: SplitName, modality: Modality, row: usize) -> Result<Cow<'_, [f32]>>;

    /// Whether the rows that it gives are those that it had at first. Asked before and after each batch.
    ///
    /// # Errors
    /// What became of them; training ends with it.
    fn unchanged(&self) -> Result<()> {
        Ok(())
    }
}

/// What a [`Source`] has, known before any row is asked for.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// By split; a split that is not here has no rows.
    pub splits: BTreeMap<SplitName, SplitContents>,
    /// Names of classes, labels or numbers, in order; empty where they have none.
    pub names: Vec<String>,
}

/// What a [`Source`] has of a split.
#[derive(Clone, Debug, Default)]
pub struct SplitContents {
    /// Rows.
    pub rows: usize,
    /// By modality: the same streams in every split.
    pub streams: BTreeMap<Modality, StreamContents>,
    /// What is to be learned of each row.
    pub targets: Option<TargetValues>,
    /// The id of each row.
    pub ids: Option<Vec<String>>,
    /// The text of each row, for an encoder that has a tokenizer.
    pub texts: Option<Vec<String>>,
}

/// What a [`Source`] has of a stream.
#[derive(Clone, Debug, Default)]
pub struct StreamContents {
    /// Steps of the longest row.
    pub steps: usize,
    /// Features of a step.
    pub dim: usize,
    /// Valid steps of each row, in 1..=steps; nothing where all rows have all steps.
    pub lengths: Option<Vec<u32>>,
    /// Which rows lack it; nothing where none does.
    pub missing: Option<Vec<bool>>,
}

/// The targets of a split, row by row.
#[derive(Clone, Debug)]
pub enum TargetValues {
    /// A number each.
    Number(Vec<f32>),
    /// Several each, `[rows, width]`.
    Numbers(Vec<f32>, usize),
    /// A class each, from 0.
    Classes(Vec<u32>),
    /// Labels of 0 and 1, `[rows, width]`.
    Labels(Vec<u32>, usize),
}

impl Dataset {
    /// The rows of a source. Their values are checked as they come.
    ///
    /// # Errors
    /// [`Error::Data`]: contents that do not fit each other, targets out of range.
    pub fn over(source: Arc<dyn Source>, contents: Contents, options: &Options) -> Result<Dataset> {
        let fail = |detail: String| Err(Error::data(source.path(), detail));
        let mut splits = [None, None, None];
        let first = contents.splits.values().next().cloned();
        let Some(first) = first else { return fail("it has no split".into()) };
        for (name, own) in contents.splits {
            if let Some(why) = own.fault(&first) {
                return fail(format!("{name}: {why}"));
            }
            splits[name.index()] = Some(own.split(name, &source));
        }
        let key = |names: &Vec<String>| match first.targets {
            Some(TargetValues::Classes(_) | TargetValues::Labels(..)) => {
                ("class_names", names.clone())
            }
            _ => ("target_names", names.clone()),
        };
        let names = Some(&contents.names).filter(|names| !names.is_empty()).map(key);
        let names = names.into_iter().map(|(key, names)| (key.to_string(), names)).collect();
        Dataset::of(source, splits, names).of_task(options)
    }
}

impl SplitContents {
    /// What is wrong with it, beside another split of the same source.
    fn fault(&self, first: &SplitContents) -> Option<String> {
        let rows = self.rows;
        if rows == 0 || u32::try_from(rows).is_err() {
            return Some(format!("{rows} rows; leave a split without rows out"));
        }
        let shapes = |c: &SplitContents| -> Vec<(Modality, usize, usize, bool)> {
            let shape =
                |(m, s): (&Modality, &StreamContents)| (*m, s.steps, s.dim, s.lengths.is_some());
            c.streams.iter().map(shape).collect()
        };
        if shapes(self) != shapes(first) {
            return Some("streams of other names, steps or features than another split has".into());
        }
        for (modality, s) in &self.streams {
            let lengths = s.lengths.as_ref();
            let outside =
                |lengths: &&Vec<u32>| lengths.iter().any(|n| *n == 0 || *n as usize > s.steps);
            if s.steps == 0 || s.dim == 0 {
                return Some(format!("{modality} has {} steps of {} features", s.steps, s.dim));
            }
            let counts = [lengths.map(Vec::len), s.missing.as_ref().map(Vec::len)];
            if counts.into_iter().flatten().any(|n| n != rows) {
                return Some(format!(
                    "{modality} has no length, or no mark, for each of {rows} rows"
                ));
            }
            if lengths.is_some_and(|lengths| outside(&lengths)) {
                return Some(format!("a length of {modality} is outside 1..={}", s.steps));
            }
        }
        let many = |found: usize, width: usize| found != rows * width || width == 0;
        let wrong = self.targets.as_ref().is_some_and(|targets| match targets {
            TargetValues::Number(v) => many(v.len(), 1) || v.iter().any(|x| !x.is_finite()),
            TargetValues::Numbers(v, k) => many(v.len(), *k) || v.iter().any(|x| !x.is_finite()),
            TargetValues::Classes(v) => many(v.len(), 1) || v.iter().any(|c| *c > 9999),
            TargetValues::Labels(v, k) => many(v.len(), *k) || v.iter().any(|x| *x > 1),
        });
        let texts = [&self.ids, &self.texts].into_iter().flatten().any(|all| all.len() != rows);
        let said =
            format!("targets, ids and texts want one for each of {rows} rows, in their range");
        (wrong || texts).then_some(said)
    }

    fn split(self, name: SplitName, source: &Arc<dyn Source>) -> Split {
        let mut missing = BTreeMap::new();
        let streams = self.streams.into_iter().map(|(modality, s)| {
            missing.extend(s.missing.map(|rows| (modality, rows)));
            (
                modality,
                Features {
                    steps: s.steps,
                    dim: s.dim,
                    lengths: s.lengths,
                    from: None,
                    largest: None,
                },
            )
        });
        let streams = streams.collect();
        let mut split = Split::of(name, self.rows, source.clone());
        (split.streams, split.missing, split.ids, split.raw_text) =
            (streams, missing, self.ids, self.texts);
        match self.targets {
            Some(TargetValues::Number(all)) => split.labels = Some(all),
            Some(TargetValues::Numbers(values, width)) => {
                split.numbers = Some(Table { values, width })
            }
            Some(TargetValues::Classes(all)) => split.class_labels = Some(all),
            Some(TargetValues::Labels(values, width)) => {
                split.flags = Some(Table { values, width })
            }
            None => {}
        }
        split
    }
}

/// A data set's file; all of its values were checked when it was opened.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) map: FileBytes,
    /// Where the rows of a stream begin, and bytes of each.
    pub(super) places: BTreeMap<(SplitName, Modality), (usize, usize)>,
}

impl Source for Mapped {
    fn path(&self) -> &Path {
        self.map.path()
    }

    fn unchanged(&self) -> Result<()> {
        if self.map.exposed() { self.map.unchanged() } else { Ok(()) }
    }

    fn digest(&self) -> String {
        files::sha256_hex(&self.map)
    }

    fn values(&self, split: SplitName, modality: Modality, row: usize) -> Result<Cow<'_, [f32]>> {
        let bytes = self.places.get(&(split, modality)).and_then(|(first, row_bytes)| {
            let start = first + row * row_bytes;
            self.map.get(start..start + row_bytes)
        });
        let bytes = bytes.ok_or_else(|| {
            Error::data(self.path(), format!("{split}.{modality} has no row {row}"))
        })?;
        // Files need not be aligned, and are little-endian wherever they are read.
        match bytemuck::try_cast_slice(bytes) {
            Ok(values) if cfg!(target_endian = "little") => Ok(Cow::Borrowed(values)),
            _ => Ok(Cow::Owned(floats(bytes).collect())),
        }
    }
}

/// Rows in memory, a [`Source`] once they are all there.
#[derive(Debug)]
pub struct Memory {
    name: PathBuf,
    streams: Vec<(Modality, usize)>,
    rows: [Vec<Row>; 3],
    names: Vec<String>,
}

/// A row in memory.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its features of each stream, in the order in which [`Memory::new`] was told of them: whole steps, one
    /// behind the other. Without any value the row lacks the modality.
    pub streams: Vec<Vec<f32>>,
    /// What is to be learned of it; the same kind in all rows of a split, or in none.
    pub target: Option<Target>,
    /// Its id.
    pub id: Option<String>,
    /// Its text, for an encoder that has a tokenizer.
    pub text: Option<String>,
}

/// What is to be learned of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A number.
    Number(f32),
    /// Several.
    Numbers(Vec<f32>),
    /// A class, from 0.
    Class(u32),
    /// Labels that it has or not.
    Labels(Vec<bool>),
}

impl Memory {
    /// Rows with these streams, of so many features a step. `name` is for messages.
    pub fn new(name: impl Into<PathBuf>, streams: &[(Modality, usize)]) -> Self {
        let (rows, names) = (Default::default(), Vec::new());
        Memory { name: name.into(), streams: streams.to_vec(), rows, names }
    }

    /// Names of classes, labels or numbers, in order.
    pub fn named(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Memory { names: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Adds a row to a split.
    ///
    /// # Errors
    /// [`Error::Data`]: not one list of values for each stream; one that is no whole number of steps; a value
    /// that is not finite.
    pub fn push(&mut self, split: SplitName, row: Row) -> Result<()> {
        let at = self.rows[split.index()].len();
        let fail =
            |what: String| Err(Error::data(&self.name, format!("{split}, row {at}: {what}")));
        let (found, wanted) = (row.streams.len(), self.streams.len());
        if found != wanted {
            return fail(format!("{found} streams where there are {wanted}"));
        }
        for ((modality, dim), values) in self.streams.iter().zip(&row.streams) {
            if *dim == 0 || values.len() % dim != 0 {
                let len = values.len();
                return fail(format!("{modality} has {len} values, no multiple of {dim}"));
            }
            if let Some(i) = values.iter().position(|x| !x.is_finite()) {
                let (step, value) = (i / dim, values[i]);
                return fail(format!("{modality}, step {step}, feature {} is {value}", i % dim));
            }
        }
        self.rows[split.index()].push(row);
        Ok(())
    }

    /// All of them as a data set.
    ///
    /// # Errors
    /// As [`Dataset::over`]; targets of several kinds.
    pub fn dataset(self, options: &Options) -> Result<Dataset> {
        let mut contents = Contents { names: self.names.clone(), ..Contents::default() };
        for name in SplitName::ALL {
            let rows = &self.rows[name.index()];
            if !rows.is_empty() {
                contents.splits.insert(name, self.contents(name, rows)?);
            }
        }
        let digest = self.summed();
        let [train, valid, test] =
            self.rows.map(|rows| rows.into_iter().map(|r| r.streams).collect());
        let streams = self.streams.into_iter().map(|(modality, _)| modality).collect();
        let held = Held { name: self.name, digest, streams, rows: [train, valid, test] };
        Dataset::over(Arc::new(held), contents, options)
    }

    fn contents(&self, name: SplitName, rows: &[Row]) -> Result<SplitContents> {
        let streams = self.streams.iter().enumerate().map(|(i, (modality, dim))| {
            let steps = |row: &Row| row.streams[i].len() / dim;
            // All splits are as wide as the widest of their rows.
            let most = self.rows.iter().flatten().map(steps).max().unwrap_or(1).max(1);
            let lengths = rows.iter().map(|row| steps(row).max(1) as u32).collect();
            let lacks: Vec<bool> = rows.iter().map(|row| row.streams[i].is_empty()).collect();
            let own = StreamContents {
                steps: most,
                dim: *dim,
                lengths: (most > 1).then_some(lengths),
                missing: lacks.contains(&true).then_some(lacks),
            };
            (*modality, own)
        });
        let texts = |of: fn(&Row) -> &Option<String>| -> Option<Vec<String>> {
            rows.iter().map(|row| of(row).clone()).collect()
        };
        Ok(SplitContents {
            rows: rows.len(),
            streams: streams.collect(),
            targets: self.targets(name, rows)?,
            ids: texts(|row| &row.id),
            texts: texts(|row| &row.text),
        })
    }

    fn targets(&self, name: SplitName, rows: &[Row]) -> Result<Option<TargetValues>> {
        let mut all: Option<TargetValues> = None;
        let mixed = |row: usize| {
            let what =
                format!("{name}, row {row}: its target is of another kind than those before it");
            Err(Error::data(&self.name, what))
        };
        for (i, row) in rows.iter().enumerate() {
            let Some(target) = &row.target else {
                if all.is_some() {
                    return mixed(i);
                }
                continue;
            };
            let all = match (&mut all, target) {
                (None, _) if i > 0 => return mixed(i),
                (Some(all), _) => all,
                (none, first) => none.insert(match first {
                    Target::Number(_) => TargetValues::Number(Vec::new()),
                    Target::Numbers(v) => TargetValues::Numbers(Vec::new(), v.len()),
                    Target::Class(_) => TargetValues::Classes(Vec::new()),
                    Target::Labels(v) => TargetValues::Labels(Vec::new(), v.len()),
                }),
            };
            match (all, target) {
                (TargetValues::Number(all), Target::Number(x)) => all.push(*x),
                (TargetValues::Numbers(all, k), Target::Numbers(v)) if v.len() == *k => {
                    all.extend(v)
                }
                (TargetValues::Classes(all), Target::Class(c)) => all.push(*c),
                (TargetValues::Labels(all, k), Target::Labels(v)) if v.len() == *k => {
                    all.extend(v.iter().map(|there| u32::from(*there)));
                }
                _ => return mixed(i),
            }
        }
        Ok(all)
    }

    /// A sum over all that the rows hold.
    fn summed(&self) -> String {
        let mut sum = Sha256::new();
        for (modality, dim) in &self.streams {
            sum.update(format!("{modality} {dim};"));
        }
        for (name, rows) in SplitName::ALL.iter().zip(&self.rows) {
            for row in rows {
                // Debug output has every number and every text whole, and says where each ends.
                sum.update(format!("{name} {:?} {:?} {:?}", row.target, row.id, row.text));
                for values in &row.streams {
                    sum.update((values.len() as u64).to_le_bytes());
                    values.iter().for_each(|x| sum.update(x.to_le_bytes()));
                }
            }
        }
        hex(&sum.finalize())
    }
}

/// Rows in memory that will not change any more.
struct Held {
    name: PathBuf,
    digest: String,
    streams: Vec<Modality>,
    rows: [Vec<Vec<Vec<f32>>>; 3],
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows.each_ref().map(Vec::len);
        write!(f, "{} ({rows:?} rows in memory)", self.name.display())
    }
}

impl Source for Held {
    fn path(&self) -> &Path {
        &self.name
    }

    fn digest(&self) -> String {
        self.digest.clone()
    }

    fn values(&self, split: SplitName, modality: Modality, row: usize) -> Result<Cow<'_, [f32]>> {
        let at = self.streams.iter().position(|m| *m == modality);
        let values = at.and_then(|at| self.rows[split.index()].get(row)?.get(at));
        let values = values.ok_or_else(|| {
            Error::data(&self.name, format!("{split}.{modality} has no row {row}"))
        })?;
        Ok(Cow::Borrowed(values))
    }
}
