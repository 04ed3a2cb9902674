//! K-fold cross-validation: the rows of a data set in K parts of about equal size, no group in two of
//! them; and the data set in the splits of one fold, a view that copies nothing.
//!
//! Fold k of K tests on part k, validates on the next (the first comes after the last) and trains on
//! the rest, so that over all folds each row tests once and validates once. Groups are dealt out in an
//! order that the seed draws, but larger ones (by powers of two in their rows) before smaller, each to
//! the part with the fewest rows so far, the first of several. So parts differ by no more than the rows
//! of the largest group, mostly by those of a small one, and another seed makes other parts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::dataset::Features;
use super::dataset::{Dataset, Field, Rows, Split, Text};
use super::groups::groups;
use super::task::Table;
use super::{Group, Modality, SplitName, shuffled};
use crate::error::{Error, Result};
use crate::files::sha256_hex;

/// One test part, one validation part, and at least one to train on.
pub const FEWEST_FOLDS: usize = 3;

/// One fold of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// Which of them, from 1.
    pub part: usize,
    /// How many there are.
    pub of: usize,
    /// What keeps rows together.
    pub group: Group,
    /// What draws the parts.
    pub seed: u64,
}

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fold { part, of, group, seed } = self;
        write!(f, "{part} of {of} by {group}, drawn by seed {seed}")
    }
}

/// A fold and what it came to, as a run keeps it: other ids make other folds, and are found by this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// Which.
    #[serde(flatten)]
    pub fold: Fold,
    /// SHA-256 of the part of every row.
    pub rows_sha256: String,
}

/// A data set's rows in K parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folds {
    group: Group,
    seed: u64,
    of: usize,
    groups: usize,
    /// The part of every row, from 0, through train, valid and test.
    part: Vec<u32>,
    sha256: String,
}

impl Folds {
    /// Divides all rows of a data set, whatever split they are in, into `of` parts.
    ///
    /// # Errors
    /// [`Error::Config`]: fewer than three folds. [`Error::Data`]: ids that give no groups, or fewer
    /// of them than folds; a split without labels.
    pub fn new(data: &Dataset, of: usize, group: &Group, seed: u64) -> Result<Folds> {
        if of < FEWEST_FOLDS {
            return Err(Error::Config(format!(
                "folds: want at least {FEWEST_FOLDS}, got {of}: one tests, the next validates, the \
                 rest trains"
            )));
        }
        if let Some(split) = data.splits().find(|s| s.targets().is_none()) {
            let detail = format!(
                "has no {}.{}, and a row without a label can neither train nor test: \
                 leave that split out of the file",
                split.name(),
                data.task().field()
            );
            return Err(Error::data(data.path(), detail));
        }
        let group_of = groups(data, group)?;
        let mut sizes: Vec<usize> = Vec::new();
        for group in &group_of {
            sizes.resize(sizes.len().max(group + 1), 0);
            sizes[*group] += 1;
        }
        if sizes.len() < of {
            let (path, instead) = match group {
                Group::None => (data.path().to_path_buf(), ""),
                _ => (
                    data.path().with_extension("json"),
                    ", say where a group's name ends with --group id-until:TEXT, or fold single rows \
                     with --group none",
                ),
            };
            let detail = format!(
                "its rows are of {} {} by {group}, and {of} folds want as many: ask for fewer \
                 folds{instead}",
                sizes.len(),
                if sizes.len() == 1 { "group" } else { "groups" }
            );
            return Err(Error::data(path, detail));
        }
        let dealt = deal(&sizes, of, seed);
        let part: Vec<u32> = group_of.iter().map(|group| dealt[*group]).collect();
        let bytes: Vec<u8> = part.iter().flat_map(|p| p.to_le_bytes()).collect();
        let (group, sha256) = (group.clone(), sha256_hex(&bytes));
        Ok(Folds { group, seed, of, groups: sizes.len(), part, sha256 })
    }

    /// How many groups the rows are of.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// A fold, from 1, with what it came to.
    pub fn folded(&self, part: usize) -> Folded {
        let fold = Fold { part, of: self.of, group: self.group.clone(), seed: self.seed };
        Folded { fold, rows_sha256: self.sha256.clone() }
    }

    /// The rows that a fold, from 1, trains on, validates on and tests on, in their order in the file,
    /// numbered through train, valid and test.
    pub fn rows(&self, part: usize) -> [Vec<usize>; 3] {
        let of = self.of as u32;
        let test = (part.max(1) - 1) as u32 % of;
        let valid = (test + 1) % of;
        let mut rows = [Vec::new(), Vec::new(), Vec::new()];
        for (row, part) in self.part.iter().enumerate() {
            let split = match *part {
                part if part == test => SplitName::Test,
                part if part == valid => SplitName::Valid,
                _ => SplitName::Train,
            };
            rows[split.index()].push(row);
        }
        rows
    }
}

/// The part of each group.
fn deal(sizes: &[usize], of: usize, seed: u64) -> Vec<u32> {
    let mut order = shuffled(sizes.len() as u32, seed, 0);
    order.sort_by_key(|group| Reverse(sizes[*group as usize].ilog2()));
    let mut rows = vec![0; of];
    let mut dealt = vec![0; sizes.len()];
    for group in order {
        let fewest = (0..of).min_by_key(|part| rows[*part]).unwrap_or(0);
        rows[fewest] += sizes[group as usize];
        dealt[group as usize] = fewest as u32;
    }
    dealt
}

impl Dataset {
    /// The same data with the rows of a fold in its splits.
    ///
    /// # Errors
    /// Those of [`Folds::new`]; [`Error::Config`]: a fold that is not one of them, data that are in a
    /// fold already.
    pub fn in_fold(&self, fold: &Fold) -> Result<Dataset> {
        if let Some(there) = &self.fold {
            let detail =
                format!("the data are in fold {} already: open them anew", there.fold.part);
            return Err(Error::Config(detail));
        }
        if !(1..=fold.of).contains(&fold.part) {
            let detail = format!("no fold {} of {}: want 1 to {}", fold.part, fold.of, fold.of);
            return Err(Error::Config(detail));
        }
        let folds = Folds::new(self, fold.of, &fold.group, fold.seed)?;
        let data = self.with_splits(&folds.rows(fold.part)).for_task(&self.task)?;
        let mut data = Dataset { task_note: self.task_note.clone(), ..data };
        data.fold = Some(folds.folded(fold.part));
        Ok(data)
    }

    /// The same data in the fold that a run kept.
    ///
    /// # Errors
    /// Those of [`in_fold`](Self::in_fold); [`Error::Data`]: the ids are others than they were.
    pub fn in_kept_fold(&self, kept: &Folded) -> Result<Dataset> {
        let data = self.in_fold(&kept.fold)?;
        if data.fold.as_ref() != Some(kept) {
            return Err(Error::data(
                self.path().with_extension("json"),
                "its ids are not those that the run's folds were made by, and other rows would test: \
                 put back the file as it was",
            ));
        }
        Ok(data)
    }

    /// The same data with other rows in its splits, as numbers through train, valid and test.
    fn with_splits(&self, rows: &[Vec<usize>; 3]) -> Dataset {
        let all: Vec<At<'_>> = self
            .splits()
            .flat_map(|split| (0..split.rows()).map(move |row| At { split, row }))
            .collect();
        let chosen: [Vec<At<'_>>; 3] =
            SplitName::ALL.map(|name| rows[name.index()].iter().map(|row| all[*row]).collect());
        let splits = SplitName::ALL.map(|name| view(name, &chosen[name.index()]));
        let text = self.text.as_ref().map(|text| {
            let rows = chosen.each_ref().map(|rows| {
                let each = rows.iter().map(|at| (at.split.name(), at.row));
                each.collect::<Vec<_>>()
            });
            Text { tokens: text.tokens.with_splits(&rows), shape: text.shape }.into()
        });
        Dataset { splits, text, ..self.clone() }
    }
}

/// A row of a split.
#[derive(Clone, Copy)]
struct At<'a> {
    split: &'a Split,
    row: usize,
}

/// A split of these rows; none of no rows.
fn view(name: SplitName, rows: &[At<'_>]) -> Option<Split> {
    let first = rows.first()?.split;
    let factors = first.factors.keys().filter_map(|factor| {
        let field = gathered(rows, |split| split.factors.get(factor))?;
        Some((factor.clone(), field))
    });
    Some(Split {
        source: first.source.clone(),
        text_source: first.text_source.clone(),
        file: first.file.clone(),
        name,
        rows: rows.len(),
        streams: by_modality(first.streams.keys(), |m| features(rows, m)),
        text_bert: gathered(rows, |split| split.text_bert.as_ref()),
        unimodal: by_modality(first.unimodal.keys(), |m| each(rows, |s| s.unimodal_labels(m))),
        missing: by_modality(first.missing.keys(), |m| {
            each(rows, |s| s.missing.get(&m).map(Vec::as_slice))
        }),
        labels: each(rows, |split| split.labels.as_deref()),
        numbers: table(rows, |split| split.numbers.as_ref()),
        flags: table(rows, |split| split.flags.as_ref()),
        // They follow from these.
        targets: None,
        width: first.width,
        class_labels: each(rows, |split| split.class_labels.as_deref()),
        factors: factors.collect(),
        // A row without an id keeps the name of its place in the file.
        ids: Some(rows.iter().map(|at| at.split.id(at.row)).collect()),
        raw_text: each(rows, |split| split.raw_text.as_deref()),
    })
}

/// What there is of each of these modalities.
fn by_modality<'a, T>(
    all: impl Iterator<Item = &'a Modality>,
    one: impl Fn(Modality) -> Option<T>,
) -> BTreeMap<Modality, T> {
    all.filter_map(|m| Some((*m, one(*m)?))).collect()
}

/// A stream of these rows; none where one of them lacks it, or has it in another shape.
fn features(rows: &[At<'_>], modality: Modality) -> Option<Features> {
    let Features { steps, dim, .. } = *rows.first()?.split.streams.get(&modality)?;
    let (mut from, mut lengths) = (Vec::with_capacity(rows.len()), Vec::new());
    for at in rows {
        let own = at.split.streams.get(&modality).filter(|f| (f.steps, f.dim) == (steps, dim))?;
        let earlier = own.from.as_ref().map(|from| from.get(at.row).copied());
        from.push(earlier.unwrap_or(Some((at.split.name(), at.row as u32)))?);
        lengths.extend(own.lengths.as_ref().and_then(|l| l.get(at.row)));
    }
    let lengths = (!lengths.is_empty()).then_some(lengths);
    let own = |at: &At<'_>| at.split.streams.get(&modality)?.largest;
    let inside = rows.iter().filter_map(own).filter(|(_, row)| from.contains(row));
    let largest = inside.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
    Some(Features { steps, dim, lengths, from: Some(from), largest })
}

/// A field of these rows; none where one of them lacks it, or has it in another shape.
fn gathered<'a>(rows: &[At<'a>], field: impl Fn(&'a Split) -> Option<&'a Field>) -> Option<Field> {
    let mut shape = field(rows.first()?.split)?.shape.clone();
    let (mut starts, mut lengths) = (Vec::with_capacity(rows.len()), Vec::new());
    for at in rows {
        let field = field(at.split).filter(|f| f.shape[1..] == shape[1..])?;
        starts.push(field.start(at.row));
        lengths.extend(field.lengths.as_ref().and_then(|l| l.get(at.row)));
    }
    shape[0] = rows.len();
    let lengths = (!lengths.is_empty()).then_some(lengths);
    Some(Field { rows: Rows::Each(starts), shape, lengths, largest: None })
}

/// The rows of a table of several values each, where all have them.
fn table<'a, T: Copy + 'a>(
    rows: &[At<'a>],
    values: impl Fn(&'a Split) -> Option<&'a Table<T>>,
) -> Option<Table<T>> {
    let width = values(rows.first()?.split)?.width;
    let mut all = Vec::with_capacity(rows.len() * width);
    for at in rows {
        let own = values(at.split).filter(|table| table.width == width)?;
        all.extend_from_slice(own.values.get(at.row * width..)?.get(..width)?);
    }
    Some(Table { values: all, width })
}

/// A value of each of these rows; none where one of them lacks it.
fn each<'a, T: Clone + 'a>(
    rows: &[At<'a>],
    values: impl Fn(&'a Split) -> Option<&'a [T]>,
) -> Option<Vec<T>> {
    rows.iter().map(|at| values(at.split)?.get(at.row).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{TensorFile, small};
    use super::super::{Standardise, Tokenised};
    use super::*;
    use crate::nn::BertShape;

    /// Rows of CMU-MOSI by video, of all three splits.
    const MOSI: [usize; 93] = [
        13, 25, 14, 30, 63, 30, 24, 12, 14, 19, 39, 23, 30, 26, 25, 25, 12, 33, 31, 31, 31, 22, 30,
        26, 44, 31, 18, 21, 29, 18, 34, 39, 16, 22, 20, 29, 18, 13, 32, 16, 24, 25, 13, 12, 18, 14,
        22, 15, 17, 55, 9, 32, 22, 11, 9, 34, 28, 30, 21, 34, 25, 15, 33, 16, 24, 29, 19, 43, 15,
        19, 30, 15, 14, 18, 27, 31, 30, 10, 24, 14, 16, 21, 22, 18, 16, 20, 16, 12, 22, 30, 24, 23,
        35,
    ];

    /// Audio, labels and tokens that are the row's number, in splits of these rows, with ids.
    fn numbered(ids: &[&[String]]) -> TensorFile {
        let mut file = TensorFile::new();
        let (mut side, mut first) = (serde_json::Map::new(), 0);
        for (name, ids) in SplitName::ALL.iter().zip(ids) {
            let n = ids.len();
            let audio =
                (0..n).flat_map(|i| [(first + i) as f32, 0.5, -1.0, (first + i) as f32 * 2.0]);
            let lengths: Vec<i32> = (0..n).map(|i| 1 + (first + i) as i32 % 2).collect();
            let tokens = (0..n).flat_map(|i| [7, (first + i) as i32, 1, 1, 0, 0]);
            file = file
                .f32(&format!("{name}.audio"), &[n, 2, 2], audio)
                .i32(&format!("{name}.audio_lengths"), &[n], &lengths)
                .i32(&format!("{name}.text_bert"), &[n, 3, 2], &tokens.collect::<Vec<_>>())
                .f32(&format!("{name}.factor_shared"), &[n, 1], (0..n).map(|i| (first + i) as f32))
                .f32(
                    &format!("{name}.regression_labels"),
                    &[n],
                    (0..n).map(|i| (first + i) as f32 / 100.0),
                );
            side.insert(name.name().into(), serde_json::json!({ "id": ids, "raw_text": ids }));
            first += n;
        }
        file.side(&serde_json::Value::Object(side).to_string())
    }

    /// `clips` rows of each of `videos` videos, over three splits that cut through videos.
    fn videos(videos: usize, clips: usize) -> TensorFile {
        let all: Vec<String> =
            (0..videos * clips).map(|i| format!("video{}_{}", i % videos, i / videos)).collect();
        let (train, rest) = all.split_at(all.len() / 2);
        let (valid, test) = rest.split_at(rest.len() / 3);
        numbered(&[train, valid, test])
    }

    fn fold(part: usize, of: usize, seed: u64) -> Fold {
        Fold { part, of, group: Group::IdPrefix, seed }
    }

    #[test]
    fn every_row_tests_once_validates_once_and_no_group_is_on_two_sides() {
        let file = videos(11, 4).save();
        let data = Dataset::open(file.path()).unwrap();
        for of in [3, 5, 11] {
            let folds = Folds::new(&data, of, &Group::IdPrefix, 1111).unwrap();
            assert_eq!(folds.groups(), 11);
            let mut times = vec![[0; 3]; 44];
            for part in 1..=of {
                let rows = folds.rows(part);
                assert!(rows.iter().all(|r| r.is_sorted()));
                for (split, rows) in rows.iter().enumerate() {
                    rows.iter().for_each(|row| times[*row][split] += 1);
                    // Row i is of video i mod 11.
                    for other in
                        rows.iter().flat_map(|row| (0..44).filter(move |o| o % 11 == row % 11))
                    {
                        assert!(rows.contains(&other), "{part} of {of}: {rows:?} without {other}");
                    }
                }
            }
            assert_eq!(times, vec![[of - 2, 1, 1]; 44], "{of}");
        }
        // What validates in one fold tests in the next.
        let folds = Folds::new(&data, 5, &Group::IdPrefix, 7).unwrap();
        assert_eq!(folds.rows(2)[1], folds.rows(3)[2]);
        assert_eq!(folds.rows(5)[1], folds.rows(1)[2]);
    }

    /// What scikit-learn 1.9's `GroupKFold` promises, of the videos of MOSI: whole groups, each in one
    /// test part, and parts of about equal size. Its own, which deals from the largest group to the
    /// smallest without a seed, are of 436 to 442 rows for 5 folds, of 215 to 226 for 10, and of 733 for 3.
    #[test]
    fn parts_are_as_even_as_those_of_group_k_fold() {
        let rows: usize = MOSI.iter().sum();
        assert_eq!(rows, 2199);
        for (of, theirs) in [(3, 0), (5, 442 - 436), (10, 226 - 215)] {
            for seed in 0..200 {
                let dealt = deal(&MOSI, of, seed);
                assert_eq!(dealt, deal(&MOSI, of, seed));
                let size = |part| {
                    let own = dealt.iter().zip(MOSI).filter(|(p, _)| **p == part as u32);
                    own.map(|(_, rows)| rows).sum::<usize>()
                };
                let sizes: Vec<usize> = (0..of).map(size).collect();
                assert_eq!(sizes.iter().sum::<usize>(), rows);
                let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
                // The last to be dealt have fewer than 16 rows.
                assert!(spread <= 15, "{sizes:?}, where GroupKFold's differ by {theirs}");
            }
        }
        assert_ne!(deal(&MOSI, 5, 1111), deal(&MOSI, 5, 1112));
        // By rows, the parts differ by one at most.
        let dealt = deal(&[1; 44], 5, 3);
        let sizes: Vec<usize> = (0..5).map(|p| dealt.iter().filter(|d| **d == p).count()).collect();
        assert!(sizes.iter().all(|n| [8, 9].contains(n)), "{sizes:?}");
        // One group that is larger than all others together is by itself.
        let dealt = deal(&[2, 1, 40, 2, 3, 1], 3, 1);
        assert!(dealt.iter().enumerate().all(|(i, part)| i == 2 || *part != dealt[2]));
    }

    #[test]
    fn a_view_has_the_rows_that_it_names_and_copies_nothing() {
        for shift in [0, 3] {
            let file = videos(6, 3).shifted(shift).save();
            let data = Dataset::open(file.path()).unwrap();
            let folds = Folds::new(&data, 3, &Group::IdPrefix, 1).unwrap();
            let view = data.in_fold(&fold(2, 3, 1)).unwrap();
            assert_eq!(view.fold(), Some(&folds.folded(2)));
            assert_eq!(view.digest(), data.digest());
            for (split, rows) in view.splits().zip(folds.rows(2)) {
                assert_eq!(split.rows(), rows.len());
                let audio = split.stream(Modality::Audio).unwrap();
                let bert = split.text_bert().unwrap();
                assert_eq!(
                    (audio.rows, bert.rows, audio.steps, audio.dim),
                    (rows.len(), rows.len(), 2, 2)
                );
                for (i, row) in rows.iter().enumerate() {
                    let value = *row as f32;
                    assert_eq!(audio.row(i), [value, 0.5, -1.0, 2.0 * value]);
                    assert_eq!(audio.len(i), 1 + row % 2);
                    assert_eq!(bert.ids(i).collect::<Vec<_>>(), [7, *row as i32]);
                    assert_eq!(
                        bert.mask(i).chain(bert.segments(i)).collect::<Vec<_>>(),
                        [1, 1, 0, 0]
                    );
                    assert_eq!(split.labels().unwrap()[i], value / 100.0);
                    assert_eq!(split.id(i), format!("video{}_{}", row % 6, row / 6));
                    assert_eq!(split.raw_text().unwrap()[i], split.id(i));
                    assert_eq!(split.factor("shared").unwrap().0[i], value);
                }
                assert_eq!(audio.frame(rows.len(), 0).len() + bert.ids(rows.len()).len(), 0);
            }
            // Means and deviations are of the fold's own training rows.
            let train = &folds.rows(2)[0];
            let fitted =
                Standardise::fit(view.split(SplitName::Train).unwrap(), &[Modality::Audio])
                    .unwrap();
            let seen: Vec<f64> = train
                .iter()
                .flat_map(|row| [Some(*row as f64), (row % 2 == 1).then_some(-1.0)])
                .flatten()
                .collect();
            let mean = seen.iter().sum::<f64>() / seen.len() as f64;
            assert!(
                (f64::from(fitted.stats(Modality::Audio).unwrap().mean[0]) - mean).abs() < 1e-5
            );
        }
    }

    #[test]
    fn tokens_go_with_their_rows() {
        let file = videos(6, 3).save();
        let data = Dataset::open(file.path()).unwrap();
        let tokens = Tokenised::from_text_bert(&data, 50, 100, 2).unwrap();
        let digest = tokens.digest.clone();
        let shape = BertShape::named("tiny").unwrap();
        let data = data.with_text(Text { tokens, shape });
        let view = data.in_fold(&fold(1, 3, 5)).unwrap();
        let tokens = &view.text().unwrap().tokens;
        assert_eq!((&tokens.digest, view.tokens_digest()), (&digest, Some(digest.as_str())));
        for (split, rows) in
            view.splits().zip(Folds::new(&data, 3, &Group::IdPrefix, 5).unwrap().rows(1))
        {
            let own = tokens.split(split.name()).unwrap();
            assert_eq!(own.rows(), rows.len());
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(own.row(i).0, [7, *row as u32]);
            }
        }
    }

    #[test]
    fn what_cannot_be_divided_is_said() {
        let file = videos(4, 3).save();
        let data = Dataset::open(file.path()).unwrap();
        let says = |of: usize, group: &str, words: &[&str]| {
            let why = Folds::new(&data, of, &group.parse().unwrap(), 1).unwrap_err().to_string();
            assert!(!why.contains('\n'), "{why}");
            words.iter().for_each(|word| assert!(why.contains(word), "no {word} in {why}"));
        };
        says(2, "none", &["at least 3"]);
        says(5, "id-prefix", &["4 groups", "5 folds", "fewer", "--group none", "set.json"]);
        says(3, "id-until:v", &["1 group by id-until:v", "3 folds"]);
        says(13, "none", &["12 groups by none", "fewer"]);
        let bare = small().save();
        let data = Dataset::open(bare.path()).unwrap();
        assert!(data.in_fold(&fold(4, 3, 1)).unwrap_err().to_string().contains("no fold 4 of 3"));
        let without = videos(4, 3).without("test.regression_labels").save();
        let data = Dataset::open(without.path()).unwrap();
        let why = data.in_fold(&fold(1, 3, 1)).unwrap_err().to_string();
        assert!(
            why.contains("test.regression_labels") && why.contains("leave that split out"),
            "{why}"
        );
    }

    #[test]
    fn other_ids_are_found() {
        let file = videos(6, 3).save();
        let data = Dataset::open(file.path()).unwrap();
        let view = data.in_fold(&fold(2, 3, 1)).unwrap();
        let kept = serde_json::to_string(view.fold().unwrap()).unwrap();
        let kept: Folded = serde_json::from_str(&kept).unwrap();
        assert_eq!(data.in_kept_fold(&kept).unwrap().fold(), Some(&kept));
        assert!(view.in_kept_fold(&kept).unwrap_err().to_string().contains("already"));
        let side = file.path().with_extension("json");
        let text = std::fs::read_to_string(&side).unwrap().replace("video0_", "video1_");
        std::fs::write(&side, text).unwrap();
        let other = Dataset::open(file.path()).unwrap();
        let why = other.in_kept_fold(&kept).unwrap_err().to_string();
        assert!(why.contains("set.json") && why.contains("put back"), "{why}");
    }
}
