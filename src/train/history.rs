//! What is written down about a run: a line for each micro-batch, a line for each epoch.

use super::metrics::Metrics;
use crate::recipe::Objective;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    /// From 1.
    pub epoch: usize,
    /// Within the epoch, from 1.
    pub batch: usize,
    /// The whole objective.
    pub loss: f64,
    /// Tasks by letter: M, T, A, V.
    pub tasks: Vec<(char, f32)>,
    /// Unweighted alignment terms by pair: ta, tv, av.
    pub align: Vec<(&'static str, f32)>,
    /// Frobenius norms of the covariances by modality letter.
    pub norms: Vec<(char, f32)>,
}

impl StepRecord {
    /// From a row of the loss ring.
    pub(super) fn new(epoch: usize, batch: usize, row: &[f32], objective: &Objective) -> Self {
        let (t, p) = (objective.tasks.len(), objective.pairs.len());
        let letters = |l: &[char], v: &[f32]| l.iter().copied().zip(v.iter().copied()).collect();
        StepRecord {
            epoch,
            batch,
            loss: objective.total(row),
            tasks: letters(&objective.tasks, &row[..t]),
            align: objective.pairs.iter().map(|(n, _)| *n).zip(row[t..].iter().copied()).collect(),
            norms: letters(&objective.norms, &row[t + p..]),
        }
    }

    /// As a line of `steps.jsonl`. Modalities and pairs that the model has not are left out.
    pub fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert("epoch".into(), json!(self.epoch));
        line.insert("batch".into(), json!(self.batch));
        line.insert("loss".into(), json!(self.loss));
        for (letter, value) in &self.tasks {
            line.insert(letter.to_string(), json!(value));
        }
        for (pair, value) in &self.align {
            line.insert(format!("align_{pair}"), json!(value));
        }
        for (letter, value) in &self.norms {
            line.insert(format!("norm_{}", letter.to_ascii_lowercase()), json!(value));
        }
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
    /// Means over an epoch's micro-batches.
    pub(super) fn means(epoch: usize, steps: &[StepRecord]) -> Self {
        let mut sums: Vec<(String, f64)> = Vec::new();
        for step in steps {
            let Value::Object(line) = step.to_json() else { continue };
            for (key, value) in
                line.iter().filter(|(k, _)| !["epoch", "batch"].contains(&k.as_str()))
            {
                let value = value.as_f64().unwrap_or(f64::NAN);
                match sums.iter_mut().find(|(k, _)| k == key) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((key.clone(), value)),
                }
            }
        }
        let n = steps.len().max(1) as f64;
        let mut parts: Map<String, Value> =
            sums.into_iter().map(|(k, sum)| (k, json!(sum / n))).collect();
        let loss = parts.remove("loss").and_then(|v| v.as_f64()).unwrap_or(0.0);
        EpochRecord { epoch, loss, parts, valid_loss: None, valid: None, best: false }
    }
}
