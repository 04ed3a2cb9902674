//! The loss of a task: what a model's scores are held against, whatever the model.

use super::blocks::squared_error;
use super::config::{ClassWeights, Config};
use crate::data::{Task, TaskKind};
use crate::error::Result;
use crate::tape::{Tape, Var};

/// How far a number is from its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// PyTorch's `L1Loss`.
    Absolute,
    /// PyTorch's `MSELoss`.
    Squared,
}

/// A task with what its loss needs beside scores and targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// What is to be predicted.
    pub task: Task,
    /// A weight for each class, or for having each label, where they differ.
    pub weights: Option<Vec<f32>>,
    /// Share of a target that is spread over all classes.
    pub smoothing: f32,
}

impl Goal {
    /// The goal of a configuration for a task of which `rows` training rows have each class or label
    /// `counts` times.
    pub(super) fn new(config: &Config, task: &Task, counts: &[usize], rows: usize) -> Self {
        let balanced = config.task.class_weights == ClassWeights::Balanced && rows > 0;
        let weight = |n: &usize| match task.kind {
            // What no training row has is never weighed.
            _ if *n == 0 => 1.0,
            // As scikit-learn's `balanced`.
            TaskKind::Classes => rows as f32 / (counts.len() * n) as f32,
            // Those that have a label weigh as much together as those that have not.
            _ => (rows - n) as f32 / *n as f32,
        };
        let weighed = balanced && task.kind != TaskKind::Regression;
        Goal {
            task: task.clone(),
            weights: weighed.then(|| counts.iter().map(weight).collect()),
            smoothing: config.task.label_smoothing as f32,
        }
    }

    /// The loss of `scores [n, outputs]`, a single number. `target` is `[n, width]` f32, of classes
    /// `[n]` u32. Of rows that `count`, `[n]`, says 1 or 0 of, those of 0 take no part; without any row the
    /// loss is 0.
    ///
    /// ```text
    /// numbers   mean |ŷ - y|, or mean (ŷ - y)²
    /// classes   Σ_i Σ_c q_ic (-log p_ic) / Σ_i w_{y_i},   q_ic = (1-ε) w_c [c = y_i] + ε w_c / C
    /// labels    mean over all of  w_k y softplus(-x) + (1 - y) softplus(x)
    /// ```
    ///
    /// Those of classes and labels are PyTorch's `CrossEntropyLoss(weight, label_smoothing=ε)` and
    /// `BCEWithLogitsLoss(pos_weight)`.
    pub(super) fn loss(
        &self,
        tape: &mut Tape,
        scores: Var,
        target: Var,
        distance: Distance,
        count: Option<Var>,
    ) -> Result<Var> {
        match self.task.kind {
            TaskKind::Regression => numbers(tape, scores, target, distance, count),
            TaskKind::Classes
                if self.weights.is_none() && self.smoothing == 0.0 && count.is_none() =>
            {
                tape.cross_entropy(scores, target)
            }
            TaskKind::Classes => self.soft(tape, scores, target, count),
            TaskKind::Labels => self.labels(tape, scores, target, count),
        }
    }

    fn soft(&self, tape: &mut Tape, scores: Var, class: Var, count: Option<Var>) -> Result<Var> {
        let n = self.task.outputs();
        let even = vec![1.0; n];
        let weights = self.weights.as_deref().unwrap_or(&even);
        let spread = |c: usize| self.smoothing * weights[c] / n as f32;
        let hit =
            |y: usize, c: usize| if y == c { (1.0 - self.smoothing) * weights[c] } else { 0.0 };
        let pairs = (0..n).flat_map(|y| (0..n).map(move |c| (y, c)));
        let table: Vec<f32> = pairs.map(|(y, c)| hit(y, c) + spread(c)).collect();
        let table = tape.constant("soft targets", &[n, n], &table)?;
        let soft = tape.gather(table, class)?;
        let log = tape.log_softmax(scores)?;
        let each = tape.mul(soft, log)?;
        let each = of_those(tape, each, count)?;
        let sum = tape.sum(each)?;
        let loss = tape.scale(sum, -1.0)?;
        let weights = tape.constant("class weights", &[n, 1], weights)?;
        let own = tape.gather(weights, class)?;
        let own = of_those(tape, own, count)?;
        let total = tape.sum(own)?;
        let total = if count.is_some() { tape.clamp(total, FEWEST, f32::MAX)? } else { total };
        tape.div(loss, total)
    }

    fn labels(&self, tape: &mut Tape, x: Var, y: Var, count: Option<Var>) -> Result<Var> {
        let without = tape.softplus(x)?;
        // softplus(-x) = softplus(x) - x
        let with = tape.sub(without, x)?;
        let with = match &self.weights {
            None => with,
            Some(weights) => {
                let weights = tape.constant("label weights", &[weights.len()], weights)?;
                tape.mul(with, weights)?
            }
        };
        let difference = tape.sub(with, without)?;
        let there = tape.mul(difference, y)?;
        let each = tape.add(without, there)?;
        mean_of_rows(tape, each, count)
    }
}

/// Less than one row can weigh, and more than nothing to divide by.
const FEWEST: f32 = 1e-6;

/// Numbers of rows `[n, ..]` with 0 in place of those that do not count.
fn of_those(tape: &mut Tape, each: Var, count: Option<Var>) -> Result<Var> {
    let Some(count) = count else { return Ok(each) };
    let (n, columns) = (tape.len(count), tape.len(each) / tape.len(count).max(1));
    let (each, count) = (tape.reshape(each, &[n, columns])?, tape.reshape(count, &[n, 1])?);
    tape.mul(each, count)
}

/// The mean of numbers of rows `[n, ..]`, of those that count.
fn mean_of_rows(tape: &mut Tape, each: Var, count: Option<Var>) -> Result<Var> {
    let Some(count) = count else { return tape.mean(each) };
    let columns = tape.len(each) / tape.len(count).max(1);
    let each = of_those(tape, each, Some(count))?;
    let sum = tape.sum(each)?;
    let rows = tape.sum(count)?;
    let rows = tape.clamp(rows, 1.0, f32::MAX)?;
    let total = tape.scale(rows, columns as f32)?;
    tape.div(sum, total)
}

fn numbers(
    tape: &mut Tape,
    scores: Var,
    target: Var,
    distance: Distance,
    count: Option<Var>,
) -> Result<Var> {
    let n = tape.len(scores);
    if distance == Distance::Absolute && tape.rows_cols(scores).1 == 1 && count.is_none() {
        let ones = tape.constant("one", &[n, 1], &vec![1.0; n])?;
        return Ok(tape.weighted_l1(scores, target, ones)?.loss);
    }
    if distance == Distance::Squared && count.is_none() {
        return squared_error(tape, scores, target);
    }
    let off = tape.sub(scores, target)?;
    let each = match distance {
        Distance::Absolute => tape.abs(off)?,
        Distance::Squared => tape.square(off)?,
    };
    mean_of_rows(tape, each, count)
}

/// The same loss of numbers on the host, over rows `[n, outputs]` and target words `[n, width]`.
pub(crate) mod reference {
    use super::{Distance, Goal};
    use crate::data::{Targets, TaskKind};

    /// As [`Goal::loss`].
    pub fn loss(goal: &Goal, scores: &[f32], targets: Targets<'_>, distance: Distance) -> f64 {
        let n = goal.task.outputs();
        let weight = |c: usize| goal.weights.as_ref().map_or(1.0, |w| f64::from(w[c]));
        let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len().max(1) as f64;
        match goal.task.kind {
            TaskKind::Regression => {
                let off = scores
                    .iter()
                    .zip(targets.words)
                    .map(|(s, w)| f64::from(s - f32::from_bits(*w)));
                mean(
                    off.map(|d| if distance == Distance::Absolute { d.abs() } else { d * d })
                        .collect(),
                )
            }
            TaskKind::Classes => {
                let smoothing = f64::from(goal.smoothing);
                let (mut sum, mut total) = (0.0, 0.0);
                for (row, class) in scores.chunks(n).zip(targets.classes()) {
                    let most = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
                    let lse = row.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln();
                    for (c, x) in row.iter().enumerate() {
                        let hit = if c == class { 1.0 - smoothing } else { 0.0 };
                        let q = weight(c) * (hit + smoothing / n as f64);
                        sum += q * (lse - f64::from(x - most));
                    }
                    total += weight(class);
                }
                sum / total
            }
            TaskKind::Labels => {
                let each = scores.iter().zip(targets.words).enumerate().map(|(i, (x, word))| {
                    let (x, y) = (f64::from(*x), f64::from(f32::from_bits(*word)));
                    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
                    weight(i % n) * y * softplus(-x) + (1.0 - y) * softplus(x)
                });
                mean(each.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Targets, Task};
    use approx::assert_relative_eq;

    const X: [f32; 6] = [1.0, -2.0, 0.5, 0.0, 3.0, -1.0];

    fn goal(kind: TaskKind, weights: Option<[f32; 3]>, smoothing: f32) -> Goal {
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let weights = weights.map(|w| w.to_vec());
        Goal { task: Task { kind, names }, weights, smoothing }
    }

    fn near(goal: &Goal, words: &[u32], wanted: f64) {
        let targets = Targets { words, width: goal.task.width() };
        let found = reference::loss(goal, &X, targets, Distance::Absolute);
        assert_relative_eq!(found, wanted, epsilon = 1e-7);
    }

    /// Values of PyTorch's `cross_entropy` and `binary_cross_entropy_with_logits` in f64.
    #[test]
    fn the_loss_on_the_host_is_pytorchs() {
        let weights = Some([0.5, 1.0, 2.0]);
        near(&goal(TaskKind::Classes, None, 0.0), &[2, 1], 0.5352404030498562);
        near(&goal(TaskKind::Classes, weights, 0.2), &[2, 1], 0.8977247849478434);
        let there: Vec<u32> = [1.0f32, 0.0, 1.0, 0.0, 0.0, 1.0].map(f32::to_bits).into();
        near(&goal(TaskKind::Labels, None, 0.0), &there, 0.9948771503988686);
        near(&goal(TaskKind::Labels, weights, 0.0), &there, 1.2666617883887383);
        near(&goal(TaskKind::Regression, None, 0.0), &there, (2.0 + 0.5 + 3.0 + 2.0) / 6.0);
    }

    #[test]
    fn rare_classes_and_labels_count_more() {
        let mut config = Config::default();
        config.task.class_weights = ClassWeights::Balanced;
        let weights = |kind, counts: &[usize], rows| {
            let task = goal(kind, None, 0.0).task;
            Goal::new(&config, &task, counts, rows).weights.unwrap()
        };
        assert_eq!(weights(TaskKind::Classes, &[6, 3, 0], 9), [0.5, 1.0, 1.0]);
        assert_eq!(weights(TaskKind::Labels, &[3, 9, 0], 12), [3.0, 1.0 / 3.0, 1.0]);
    }
}
