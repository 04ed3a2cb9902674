//! What is written down about a run: a line for each micro-batch, a line for each epoch.

use super::metrics::Metrics;
use crate::recipe::{Column, Columns};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// One micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// From 1.
    pub epoch: usize,
    /// Within the epoch, from 1.
    pub batch: usize,
    /// The whole objective.
    pub loss: f64,
    /// Its parts, by the columns that they are of.
    pub values: Vec<f32>,
    columns: Arc<Columns>,
}

impl StepRecord {
    /// From a row of the loss ring.
    pub(super) fn new(epoch: usize, batch: usize, row: &[f32], columns: &Arc<Columns>) -> Self {
        let values = row[..columns.list().len()].to_vec();
        StepRecord { epoch, batch, loss: columns.total(row), values, columns: columns.clone() }
    }

    /// From a line of `steps.jsonl`, as [`to_json`](Self::to_json) wrote it; none where it is no such line.
    pub(super) fn from_json(line: &Value, columns: &Arc<Columns>) -> Option<Self> {
        let count = |key: &str| line[key].as_u64().map(|n| n as usize);
        let value = |column: &Column| line[&column.name].as_f64().map(|v| v as f32);
        Some(StepRecord {
            epoch: count("epoch")?,
            batch: count("batch")?,
            loss: line["loss"].as_f64()?,
            values: columns.list().iter().map(value).collect::<Option<_>>()?,
            columns: columns.clone(),
        })
    }

    /// A part by its name in the logs: `M`, `align_ta`.
    pub fn get(&self, name: &str) -> Option<f32> {
        self.columns.position(name).and_then(|i| self.values.get(i)).copied()
    }

    /// Its parts by name.
    pub fn parts(&self) -> impl Iterator<Item = (&str, f32)> {
        let names = self.columns.list().iter().map(|column| column.name.as_str());
        names.zip(self.values.iter().copied())
    }

    /// What of it is no finite number, in words; none where all is well. A loss that overflowed or
    /// is NaN means that training diverged.
    pub fn not_finite(&self) -> Option<String> {
        let mut all = self.columns.list().iter().zip(&self.values);
        let found = all
            .find(|(_, v)| !v.is_finite())
            .map(|(column, v)| format!("{} is not finite ({v})", column.what));
        found.or_else(|| {
            (!self.loss.is_finite())
                .then(|| format!("the whole objective is not finite ({})", self.loss))
        })
    }

    /// Its numbers by the names that they have in the logs, the whole objective first.
    fn numbers(&self) -> impl Iterator<Item = (String, f64)> {
        let parts = self.parts().map(|(name, value)| (name.to_string(), f64::from(value)));
        std::iter::once(("loss".to_string(), self.loss)).chain(parts)
    }

    /// As a line of `steps.jsonl`; what is no finite number is null, as JSON has no other word for it.
    pub fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert("epoch".into(), json!(self.epoch));
        line.insert("batch".into(), json!(self.batch));
        line.insert("loss".into(), json!(self.loss));
        line.extend(self.parts().map(|(name, value)| (name.to_string(), json!(value))));
        Value::Object(line)
    }
}

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: usize,
    /// Mean of the micro-batches' whole objective.
    pub loss: f64,
    /// Means of its parts: M, T, A, V, align_ta, …, norm_t, …
    pub parts: Map<String, Value>,
    /// Mean over batches of the fused head's absolute error on the validation split; early
    /// stopping and the choice of the best epoch go by it.
    pub valid_loss: Option<f64>,
    /// Validation metrics of the fused head.
    pub valid: Option<Metrics>,
    /// Whether this is the best epoch so far.
    pub best: bool,
}

impl EpochRecord {
    /// Means over an epoch's micro-batches. A mean that is not finite stays so in `loss`, and is
    /// null among the parts: it is never another number.
    pub(super) fn means(epoch: usize, steps: &[StepRecord]) -> Self {
        let mut sums: Vec<(String, f64)> = Vec::new();
        for (name, value) in steps.iter().flat_map(StepRecord::numbers) {
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => sums.push((name, value)),
            }
        }
        let n = steps.len() as f64;
        let mut means = sums.into_iter().map(|(name, sum)| (name, sum / n));
        // The whole objective comes first; without a step there is none, and its mean is no number.
        let loss = means.next().map_or(f64::NAN, |(_, mean)| mean);
        let parts = means.map(|(name, mean)| (name, json!(mean))).collect();
        EpochRecord { epoch, loss, parts, valid_loss: None, valid: None, best: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Counts;

    fn step(batch: usize, m: f32, ta: f32, norm: f32) -> StepRecord {
        let column = |name: &str, what: &str, counts| Column {
            name: name.into(),
            what: what.into(),
            counts,
        };
        let columns = Columns::new(vec![
            column("M", "the loss of task M", Counts::Whole),
            column("align_ta", "the alignment term of ta", Counts::Times(1.0)),
            column("norm_t", "the covariance of T", Counts::Watched),
        ]);
        StepRecord::new(1, batch, &[m, ta, norm], &Arc::new(columns))
    }

    #[test]
    fn means_are_of_the_numbers() {
        let record = EpochRecord::means(1, &[step(1, 1.0, 0.5, 3.0), step(2, 2.0, 1.5, 4.0)]);
        assert_eq!(record.loss, 2.5);
        let parts: Vec<(&str, f64)> =
            record.parts.iter().map(|(k, v)| (k.as_str(), v.as_f64().unwrap())).collect();
        assert_eq!(parts, [("M", 1.5), ("align_ta", 1.0), ("norm_t", 3.5)]);
    }

    #[test]
    fn a_line_is_read_back_to_the_last_bit() {
        let made = step(7, 0.1, f32::MIN_POSITIVE, 1.0 / 3.0);
        let text = made.to_json().to_string();
        let line = serde_json::from_str(&text).unwrap();
        assert_eq!(StepRecord::from_json(&line, &made.columns), Some(made));
        let other = Arc::new(Columns::new(Vec::new()));
        assert_eq!(StepRecord::from_json(&json!({ "epoch": 1 }), &other), None);
    }

    #[test]
    fn a_mean_that_is_no_number_is_never_written_as_one() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let record = EpochRecord::means(1, &[step(1, 1.0, 0.5, 3.0), step(2, bad, 0.5, 3.0)]);
            assert!(!record.loss.is_finite() && !record.best);
            assert!(record.parts["M"].is_null(), "{:?}", record.parts);
            assert_eq!(record.parts["align_ta"], 0.5);
            assert!(serde_json::to_value(&record).unwrap()["loss"].is_null());
        }
        assert!(EpochRecord::means(1, &[]).loss.is_nan());
    }

    #[test]
    fn what_is_not_finite_is_named() {
        assert_eq!(step(1, 1.0, 0.5, 3.0).not_finite(), None);
        let said = |step: StepRecord| step.not_finite().unwrap();
        assert_eq!(
            said(step(1, f32::NAN, f32::NAN, 1.0)),
            "the loss of task M is not finite (NaN)"
        );
        assert_eq!(
            said(step(1, 1.0, f32::INFINITY, 1.0)),
            "the alignment term of ta is not finite (inf)"
        );
        assert_eq!(said(step(1, 1.0, 0.5, f32::NAN)), "the covariance of T is not finite (NaN)");
        // A negative weight takes the smaller of a term and the margin, and NaN is no smaller.
        let hidden = StepRecord { loss: 1.0, ..step(1, 1.0, f32::NAN, 1.0) };
        assert_eq!(said(hidden), "the alignment term of ta is not finite (NaN)");
    }
}
