//! Experiments whose rows are folded: what a run predicted of its test rows, and what all folds of a seed
//! come to together.

use super::record::{ByScore, entries};
use crate::data::{Dataset, Group, Targets, Task, TaskKind};
use crate::error::{Error, Result};
use crate::files::{sha256_hex, write_atomic};
use crate::train::metrics::{Convention, Metrics};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file of a run with its test rows: their numbers through train, valid and test of the data file,
/// ids, labels, and what its model predicts of them.
pub(super) const PREDICTIONS: &str = "predictions.csv";

/// How the rows of an experiment were divided for cross-validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Folding {
    /// Folds of each seed.
    pub folds: usize,
    /// What keeps rows together.
    pub group: Group,
    /// How many groups the rows are of.
    pub groups: usize,
    /// Rows of the whole data set.
    pub rows: usize,
    /// Rows tested on for each row trained on, over all runs: what paired tests are corrected by, since
    /// the folds of a seed train on much the same rows.
    pub overlap: f64,
}

/// The data of an experiment, row by row through train, valid and test.
pub(super) struct Whole {
    ids: Vec<String>,
    task: Task,
    /// The targets of all rows, as [`Targets`] has them.
    words: Vec<u32>,
}

impl Whole {
    /// Of data whose every row has a label.
    pub(super) fn of(data: &Dataset) -> Self {
        let ids = data.splits().flat_map(|s| (0..s.rows()).map(|row| s.id(row))).collect();
        let targets = data.splits().filter_map(|s| s.targets());
        let words = targets.flat_map(|t| t.words).copied().collect();
        Whole { ids, task: data.task().clone(), words }
    }

    pub(super) fn rows(&self) -> usize {
        self.words.len() / self.task.width()
    }

    /// The columns of a file of predictions: a row's targets, then its scores.
    fn columns(&self) -> Vec<String> {
        let several = |what: &str| -> Vec<String> {
            match self.task.names.as_slice() {
                [] => vec![what.into()],
                names => names.iter().map(|name| format!("{what} {name}")).collect(),
            }
        };
        let labels = match self.task.kind {
            TaskKind::Classes => vec!["label".into()],
            _ => several("label"),
        };
        [vec!["row".into(), "id".into()], labels, several("prediction")].concat()
    }

    /// A row's targets in words.
    fn labels(&self, row: usize) -> Vec<String> {
        let width = self.task.width();
        let own = self.words[row * width..][..width].iter();
        own.map(|word| match self.task.kind {
            TaskKind::Classes => self.task.names[*word as usize].clone(),
            _ => f32::from_bits(*word).to_string(),
        })
        .collect()
    }

    /// Writes what a run in `folder` predicts of its test rows; gives the file's SHA-256.
    pub(super) fn write(&self, folder: &Path, rows: &[usize], predicted: &[f32]) -> Result<String> {
        let path = folder.join(PREDICTIONS);
        let n = self.task.outputs();
        if rows.len() * n != predicted.len() {
            let detail = format!("{} scores of {} test rows", predicted.len(), rows.len());
            return Err(Error::checkpoint(path, detail));
        }
        let failed = |e: String| Error::io("write", &path)(std::io::Error::other(e));
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record(self.columns()).map_err(|e| failed(e.to_string()))?;
        for (row, predicted) in rows.iter().zip(predicted.chunks(n)) {
            let scores = predicted.iter().map(f32::to_string).collect();
            let line =
                [vec![row.to_string(), self.ids[*row].clone()], self.labels(*row), scores].concat();
            out.write_record(line).map_err(|e| failed(e.to_string()))?;
        }
        let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
        write_atomic(&path, &bytes)?;
        Ok(sha256_hex(&bytes))
    }

    /// The scores of all rows at once, each as the run predicts it that tested on it: `folders` are of
    /// all folds of one seed, with the SHA-256 of what they predict where it is known.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: predictions that are missing or of other rows.
    pub(super) fn pooled(
        &self,
        folders: &[(PathBuf, Option<String>)],
        convention: Convention,
    ) -> Result<ByScore<f64>> {
        let (n, mut all) = (self.task.outputs(), vec![None; self.rows()]);
        for (folder, sum) in folders {
            let path = folder.join(PREDICTIONS);
            let bad = |what: String| {
                let detail = format!("{what}: remove the run's folder, and it is trained again");
                Error::checkpoint(&path, detail)
            };
            let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
            if sum.as_ref().is_some_and(|sum| *sum != sha256_hex(&text)) {
                return Err(bad("is not what the run wrote (another SHA-256)".into()));
            }
            for line in csv::Reader::from_reader(text.as_slice()).records() {
                let line = line.map_err(|e| bad(format!("no table of predictions ({e})")))?;
                let number = |column: usize| line.get(column).unwrap_or_default();
                let row = number(0).parse().ok().filter(|row: &usize| *row < all.len());
                // Scores are the last columns.
                let first = line.len().saturating_sub(n);
                let scores = (first..line.len()).map(|i| number(i).parse::<f32>().ok());
                let scores = scores.collect::<Option<Vec<f32>>>().filter(|s| s.len() == n);
                match row.zip(scores) {
                    Some((row, scores)) if all[row].is_none() => all[row] = Some(scores),
                    _ => return Err(bad(format!("row '{}' is none of its fold's", number(0)))),
                }
            }
        }
        let predicted: Option<Vec<Vec<f32>>> = all.iter().cloned().collect();
        let Some(predicted) = predicted else {
            let row = all.iter().position(Option::is_none).unwrap_or(0);
            let path = folders.first().map(|(f, _)| f.join(PREDICTIONS)).unwrap_or_default();
            let detail = format!(
                "neither it nor those of the seed's other folds hold row {row}: remove these runs' \
                 folders, and they are trained again"
            );
            return Err(Error::checkpoint(path, detail));
        };
        let targets = Targets { words: &self.words, width: self.task.width() };
        let scores = Metrics::of(&self.task, &predicted.concat(), targets, convention)?;
        Ok(entries(Some(&scores)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Whole {
        let words = (0..9).map(|i| (i as f32 / 4.0 - 1.0).to_bits()).collect();
        let ids = (0..9).map(|i| format!("clip, \"{i}\"")).collect();
        Whole { ids, task: Task::default(), words }
    }

    #[test]
    fn what_folds_predict_together_is_scored_at_once() {
        let place = tempfile::tempdir().unwrap();
        let whole = whole();
        let mut folders: Vec<(PathBuf, Option<String>)> =
            (0..3).map(|k| (place.path().join(k.to_string()), None)).collect();
        // Values that need all their digits.
        let predicted: Vec<f32> = (0..9).map(|i| (i as f32).sin() / 3.0).collect();
        for (k, (folder, sum)) in folders.iter_mut().enumerate() {
            std::fs::create_dir(&*folder).unwrap();
            let rows: Vec<usize> = (0..9).filter(|row| row % 3 == k).collect();
            let own: Vec<f32> = rows.iter().map(|row| predicted[*row]).collect();
            *sum = Some(whole.write(folder, &rows, &own).unwrap());
            assert!(whole.write(folder, &rows, &own[1..]).is_err());
        }
        let found = whole.pooled(&folders, Convention::Mosi).unwrap();
        let targets = Targets { words: &whole.words, width: 1 };
        let wanted = Metrics::of(&whole.task, &predicted, targets, Convention::Mosi).unwrap();
        assert_eq!(found, entries(Some(&wanted)));
        let text = std::fs::read_to_string(folders[1].0.join(PREDICTIONS)).unwrap();
        assert!(
            text.starts_with("row,id,label,prediction\n1,\"clip, \"\"1\"\"\",-0.75,"),
            "{text}"
        );

        type Folders = [(PathBuf, Option<String>)];
        let says = |folders: &Folders, words: &[&str]| {
            let why = whole.pooled(folders, Convention::Mosi).unwrap_err().to_string();
            words.iter().for_each(|word| assert!(why.contains(word), "no {word} in {why}"));
        };
        says(&folders[..2], &["row 2", "remove"]);
        says(&[&folders[..], &folders[..1]].concat(), &["row '0'", "remove"]);
        let last = folders[2].0.join(PREDICTIONS);
        std::fs::write(&last, "row,id,label,prediction\n9,x,0,0.5\n").unwrap();
        says(&folders, &["another SHA-256", "remove"]);
        // As an earlier version left it.
        folders[2].1 = None;
        says(&folders, &["row '9'"]);
        std::fs::write(&last, "row,id,label,prediction\n2,x\n").unwrap();
        says(&folders, &["no table"]);
        std::fs::remove_file(&last).unwrap();
        says(&folders, &["cannot read", "predictions.csv"]);
    }
}
