//! Experiments whose rows are folded: what a run predicted of its test rows, and what all folds of a seed
//! come to together.

use super::record::{ByScore, entries};
use crate::data::{Dataset, Group};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::train::metrics::{Convention, evaluate};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file of a run with its test rows: their numbers through train, valid and test of the data file,
/// ids, labels, and what its model predicts of them.
pub(super) const PREDICTIONS: &str = "predictions.csv";

const COLUMNS: [&str; 4] = ["row", "id", "label", "prediction"];

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
    labels: Vec<f32>,
}

impl Whole {
    /// Of data whose every row has a label.
    pub(super) fn of(data: &Dataset) -> Self {
        let ids = data.splits().flat_map(|s| (0..s.rows()).map(|row| s.id(row))).collect();
        let labels = data.splits().flat_map(|s| s.labels().unwrap_or_default()).copied().collect();
        Whole { ids, labels }
    }

    pub(super) fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Writes what a run in `folder` predicts of its test rows.
    pub(super) fn write(&self, folder: &Path, rows: &[usize], predicted: &[f32]) -> Result<()> {
        let path = folder.join(PREDICTIONS);
        if rows.len() != predicted.len() {
            let detail = format!("{} predictions of {} test rows", predicted.len(), rows.len());
            return Err(Error::checkpoint(path, detail));
        }
        let failed = |e: String| Error::io("write", &path)(std::io::Error::other(e));
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record(COLUMNS).map_err(|e| failed(e.to_string()))?;
        for (row, predicted) in rows.iter().zip(predicted) {
            let [at, label, predicted] =
                [row.to_string(), self.labels[*row].to_string(), predicted.to_string()];
            let line = [&at, &self.ids[*row], &label, &predicted];
            out.write_record(line).map_err(|e| failed(e.to_string()))?;
        }
        let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
        write_atomic(&path, &bytes)
    }

    /// The scores of all rows at once, each as the run predicts it that tested on it: `folders` are of
    /// all folds of one seed.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]: predictions that are missing or of other rows.
    pub(super) fn pooled(
        &self,
        folders: &[PathBuf],
        convention: Convention,
    ) -> Result<ByScore<f64>> {
        let mut all = vec![None; self.rows()];
        for folder in folders {
            let path = folder.join(PREDICTIONS);
            let bad = |what: String| {
                let detail = format!("{what}: remove the run's folder, and it is trained again");
                Error::checkpoint(&path, detail)
            };
            let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
            for line in csv::Reader::from_reader(text.as_slice()).records() {
                let line = line.map_err(|e| bad(format!("no table of predictions ({e})")))?;
                let number = |column: usize| line.get(column).unwrap_or_default();
                let row = number(0).parse().ok().filter(|row: &usize| *row < all.len());
                let found = row.zip(number(3).parse::<f32>().ok());
                match found {
                    Some((row, value)) if all[row].is_none() => all[row] = Some(value),
                    _ => return Err(bad(format!("row '{}' is none of its fold's", number(0)))),
                }
            }
        }
        let predicted: Option<Vec<f32>> = all.iter().copied().collect();
        let Some(predicted) = predicted else {
            let row = all.iter().position(Option::is_none).unwrap_or(0);
            let path = folders.first().map(|f| f.join(PREDICTIONS)).unwrap_or_default();
            let detail = format!(
                "neither it nor those of the seed's other folds hold row {row}: remove these runs' \
                 folders, and they are trained again"
            );
            return Err(Error::checkpoint(path, detail));
        };
        Ok(entries(Some(&evaluate(&predicted, &self.labels, convention)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Whole {
        let labels: Vec<f32> = (0..9).map(|i| i as f32 / 4.0 - 1.0).collect();
        Whole { ids: (0..9).map(|i| format!("clip, \"{i}\"")).collect(), labels }
    }

    #[test]
    fn what_folds_predict_together_is_scored_at_once() {
        let place = tempfile::tempdir().unwrap();
        let whole = whole();
        let folders: Vec<PathBuf> = (0..3).map(|k| place.path().join(k.to_string())).collect();
        // Values that need all their digits.
        let predicted: Vec<f32> = (0..9).map(|i| (i as f32).sin() / 3.0).collect();
        for (k, folder) in folders.iter().enumerate() {
            std::fs::create_dir(folder).unwrap();
            let rows: Vec<usize> = (0..9).filter(|row| row % 3 == k).collect();
            let own: Vec<f32> = rows.iter().map(|row| predicted[*row]).collect();
            whole.write(folder, &rows, &own).unwrap();
            assert!(whole.write(folder, &rows, &own[1..]).is_err());
        }
        let found = whole.pooled(&folders, Convention::Mosi).unwrap();
        let wanted = evaluate(&predicted, &whole.labels, Convention::Mosi).unwrap();
        assert_eq!(found, entries(Some(&wanted)));
        let text = std::fs::read_to_string(folders[1].join(PREDICTIONS)).unwrap();
        assert!(
            text.starts_with("row,id,label,prediction\n1,\"clip, \"\"1\"\"\",-0.75,"),
            "{text}"
        );

        let says = |folders: &[PathBuf], words: &[&str]| {
            let why = whole.pooled(folders, Convention::Mosi).unwrap_err().to_string();
            words.iter().for_each(|word| assert!(why.contains(word), "no {word} in {why}"));
        };
        says(&folders[..2], &["row 2", "remove"]);
        says(&[&folders[..], &folders[..1]].concat(), &["row '0'", "remove"]);
        std::fs::write(folders[2].join(PREDICTIONS), "row,id,label,prediction\n9,x,0,0.5\n")
            .unwrap();
        says(&folders, &["row '9'"]);
        std::fs::write(folders[2].join(PREDICTIONS), "row,id,label,prediction\n2,x\n").unwrap();
        says(&folders, &["no table"]);
        std::fs::remove_file(folders[2].join(PREDICTIONS)).unwrap();
        says(&folders, &["cannot read", "predictions.csv"]);
    }
}
