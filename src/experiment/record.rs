//! What was measured of one run.

use super::stats::Summary;
use crate::data::Perturbation;
use crate::train::carried::Carried;
use crate::train::metrics::{Metrics, Retrieval};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// How much of the factor that all modalities know the encoders carry: R² of a linear probe on test
/// rows, mean over encoders.
pub const SHARED: &str = "R2 shared";
/// How much of the factor that its modality alone knows an encoder carries, likewise.
pub const PRIVATE: &str = "R2 private";

/// Something for each score, by its name, in the order of the field's tables.
pub type ByScore<T> = IndexMap<String, T>;

/// What was measured of one run, as `cell.json` in its folder holds it; that file is the last one
/// written, so that a run with it is finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The cell's name.
    pub cell: String,
    /// `train.seed`.
    pub seed: u64,
    /// The fold that it tests on, from 1, where rows are folded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<usize>,
    /// And the rows that it trains, validates and tests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<[usize; 3]>,
    /// Scores of the best epoch on validation rows, which chose it.
    pub valid: Option<Metrics>,
    /// And on test rows.
    pub test: Option<Metrics>,
    /// The epoch with the best validation loss.
    pub best_epoch: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// Seconds that training took (of the last call, where it was interrupted).
    pub seconds: f64,
    /// The adapter.
    pub adapter: String,
    /// Its driver.
    pub driver: String,
    /// The crate's version.
    pub version: String,
    /// SHA-256 of the data set.
    pub data_sha256: String,
    /// SHA-256 of the pretrained text encoder that it began with, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_sha256: Option<String>,
    /// SHA-256 of what it predicts of its fold's test rows, `predictions.csv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predictions_sha256: Option<String>,
    /// How well modalities that the model aligns find each other in the test rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// What its representations carry of the factors that made the data, where those are known.
    pub probes: Option<Carried>,
    /// Scores on damaged test rows.
    pub robustness: Option<Vec<Damaged>>,
}

/// Scores with one modality damaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Damaged {
    /// In words.
    pub name: String,
    /// What was damaged how.
    pub perturbation: Perturbation,
    /// Scores on test rows.
    pub test: Metrics,
}

impl RunRecord {
    /// What it has in common with the runs of other cells that it is held against: seed and fold.
    pub fn pair(&self) -> (u64, Option<usize>) {
        (self.seed, self.fold)
    }

    /// Test scores, how well aligned modalities find each other, and what the encoders carry where that is known.
    pub fn scores(&self) -> ByScore<f64> {
        let mut scores = entries(self.test.as_ref());
        scores.extend(self.retrieval.iter().flatten().map(|(name, value)| (name.clone(), *value)));
        if let Some(probes) = &self.probes {
            let senses = ["text", "audio", "vision"];
            let mean = |factor: &dyn Fn(&'static str) -> &'static str| {
                let all =
                    senses.iter().filter_map(|s| probes.get(&format!("{s} encoder"), factor(s)));
                Summary::of(&all.collect::<Vec<_>>()).map(|s| s.mean)
            };
            for (name, value) in [(SHARED, mean(&|_| "shared")), (PRIVATE, mean(&|sense| sense))] {
                scores.extend(value.map(|v| (name.to_string(), v)));
            }
        }
        scores
    }
}

pub(super) fn entries(metrics: Option<&Metrics>) -> ByScore<f64> {
    let all = metrics.map(Metrics::entries).unwrap_or_default();
    all.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// A run within a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellRun {
    /// Its folder, from the experiment's.
    pub run: String,
    /// What was measured.
    #[serde(flatten)]
    pub record: RunRecord,
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::made_up;
    use super::*;

    #[test]
    fn a_run_is_scored_by_what_its_encoders_know_and_find() {
        let carried = serde_json::json!({
            "text encoder": {"shared": 0.8, "text": 0.4, "audio": 0.0},
            "audio encoder": {"shared": 0.4, "text": 0.0, "audio": 0.2},
            "fused head": {"shared": 1.0}
        });
        let mut record = made_up(&[("labels", &[0.5])]).cells[0].runs[0].record.clone();
        record.probes = Carried::from_json(&carried);
        let found = [("R@1 text→vision".to_string(), 0.25)];
        record.retrieval = Some(found.clone().into());
        let scores = record.scores();
        assert_eq!(scores[&found[0].0], 0.25, "what is found of partners is a score, too");
        assert!((scores[SHARED] - 0.6).abs() < 1e-12 && (scores[PRIVATE] - 0.3).abs() < 1e-12);
    }
}
