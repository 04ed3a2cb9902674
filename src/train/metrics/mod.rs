//! The field's scores, of every kind of task.

mod classes;
mod numbers;
mod retrieval;

pub use classes::{ClassMetrics, Confusion, LabelMetrics, OfClass, label};
pub use numbers::{
    Convention, NumberMetrics, class, classes, clipped, evaluate, left_out, undefined,
};
pub use retrieval::{Retrieval, retrieval};

use crate::data::{Targets, Task, TaskKind};
use crate::error::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Every score's name, in the order of tables: of numbers as MMSA writes them, then of classes and
/// labels as scikit-learn and the multi-label papers do.
pub const NAMES: [&str; 17] = [
    "MAE",
    "Corr",
    "Acc-7",
    "Acc-2",
    "Acc-3",
    "Acc-5",
    "F1",
    "Acc-2 Has0",
    "F1 Has0",
    "Acc-2 Non0",
    "F1 Non0",
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1_weighted",
    "f1",
    "weighted_accuracy",
];

/// Whether a smaller value of a score is a better one.
pub fn smaller_is_better(name: &str) -> bool {
    matches!(name, "MAE" | "loss") || name.starts_with("median rank")
}

/// Scores of one set of predictions, unrounded; shares are in 0..=1. A score that has no rows to stand
/// on, or whose targets are all alike, is left out; nothing is ever NaN.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    scores: Vec<(String, f64)>,
    each: Vec<(String, Vec<(String, f64)>)>,
    confusion: Option<Confusion>,
}

/// Names and values as they are kept.
fn owned(entries: impl IntoIterator<Item = (&'static str, f64)>) -> Vec<(String, f64)> {
    entries.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

impl From<NumberMetrics> for Metrics {
    fn from(one: NumberMetrics) -> Self {
        Metrics { scores: owned(one.entries()), ..Metrics::default() }
    }
}

impl Metrics {
    /// Scores what a model says of rows, `said [rows, outputs]` (of classes and labels before softmax and
    /// sigmoid), against their targets.
    ///
    /// # Errors
    /// [`Error::Shape`] for other numbers of rows, for none, and for a value that is not finite (which
    /// in predictions means that training has diverged).
    pub fn of(
        task: &Task,
        said: &[f32],
        targets: Targets<'_>,
        convention: Convention,
    ) -> Result<Self> {
        let n = task.outputs();
        let rows = said.len() / n;
        if !said.len().is_multiple_of(n) || rows != targets.rows() || rows == 0 {
            let detail = format!("{} scores for {} rows of {n}", said.len(), targets.rows());
            return Err(Error::shape("metrics", detail));
        }
        if let Some(at) = said.iter().position(|x| !x.is_finite()) {
            let detail = format!(
                "prediction {} is {}; training has diverged, so lower the learning rate",
                at / n,
                said[at]
            );
            return Err(Error::shape("metrics", detail));
        }
        let column = |values: &[f32], k: usize| -> Vec<f32> {
            values.iter().skip(k).step_by(n).copied().collect()
        };
        match task.kind {
            TaskKind::Regression if n == 1 => {
                Ok(evaluate(said, &targets.numbers(), convention)?.into())
            }
            TaskKind::Regression => {
                let truth = targets.numbers();
                // Conventions are of a sentiment's range; several numbers have ranges of their own.
                let of = |k: usize| {
                    let all = evaluate(&column(said, k), &column(&truth, k), Convention::Mosi)?;
                    let corr = all.corr.map(|corr| ("Corr", corr));
                    Ok(owned([Some(("MAE", all.mae)), corr].into_iter().flatten()))
                };
                Self::in_the_mean(task, of)
            }
            TaskKind::Classes => {
                let guesses: Vec<usize> = said.chunks(n).map(largest).collect();
                let confusion = Confusion::of(&guesses, &targets.classes(), n)?;
                let all = confusion.metrics();
                let each = task.names.iter().enumerate().map(|(c, name)| {
                    let OfClass { precision, recall, f1, support } = confusion.class(c);
                    let own = [
                        ("precision", precision),
                        ("recall", recall),
                        ("f1", f1),
                        ("support", support as f64),
                    ];
                    (name.clone(), owned(own))
                });
                Ok(Metrics {
                    scores: owned([
                        ("accuracy", all.accuracy),
                        ("balanced_accuracy", all.balanced_accuracy),
                        ("f1_macro", all.f1_macro),
                        ("f1_weighted", all.f1_weighted),
                    ]),
                    each: each.collect(),
                    confusion: Some(confusion),
                })
            }
            TaskKind::Labels => {
                let truth = targets.numbers();
                let there = |values: Vec<f32>| values.iter().map(|x| *x > 0.0).collect::<Vec<_>>();
                let of = |k: usize| {
                    let one = label(&there(column(said, k)), &there(column(&truth, k)))?;
                    let all = [
                        ("accuracy", one.accuracy),
                        ("f1", one.f1),
                        ("weighted_accuracy", one.weighted_accuracy),
                    ];
                    Ok(owned(all))
                };
                Self::in_the_mean(task, of)
            }
        }
    }

    /// The scores of each of a task's numbers or labels, and their means.
    fn in_the_mean(task: &Task, of: impl Fn(usize) -> Result<Vec<(String, f64)>>) -> Result<Self> {
        let mut each = Vec::new();
        for (k, name) in task.names.iter().enumerate() {
            each.push((name.clone(), of(k)?));
        }
        // One that says nothing of a number, since its targets are all alike, is not in the mean either.
        let mut sums: Vec<(String, f64, f64)> = Vec::new();
        for (name, value) in each.iter().flat_map(|(_, own)| own) {
            match sums.iter_mut().find(|(known, ..)| known == name) {
                Some((_, sum, of)) => (*sum, *of) = (*sum + value, *of + 1.0),
                None => sums.push((name.clone(), *value, 1.0)),
            }
        }
        let scores = sums.into_iter().map(|(name, sum, of)| (name, sum / of)).collect();
        Ok(Metrics { scores, each, confusion: None })
    }

    /// The scores that a task has, in the order of tables.
    pub fn names(task: &Task, convention: Convention) -> Vec<&'static str> {
        // Two rows that have every score: of targets that differ and are not 0, and classes that there are.
        let [first, second] = match task.kind {
            TaskKind::Classes => [0; 2],
            TaskKind::Labels => [1f32.to_bits(); 2],
            TaskKind::Regression => [1f32, -1.0].map(f32::to_bits),
        };
        let words = [vec![first; task.width()], vec![second; task.width()]].concat();
        let said = vec![0.0; 2 * task.outputs()];
        let targets = Targets { words: &words, width: task.width() };
        let all = Self::of(task, &said, targets, convention).unwrap_or_default();
        all.entries().into_iter().map(|(name, _)| name).collect()
    }

    /// A score by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.scores.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Names and values in the order of tables.
    pub fn entries(&self) -> Vec<(&'static str, f64)> {
        NAMES.into_iter().filter_map(|name| Some((name, self.get(name)?))).collect()
    }

    /// The scores that say most, the first of them first: `MAE` and `Corr`, `accuracy` and `f1_macro`,
    /// or `f1` and `weighted_accuracy`; the first alone where the second says nothing.
    pub fn heads(&self) -> Vec<(&'static str, f64)> {
        let pairs = [["MAE", "Corr"], ["accuracy", "f1_macro"], ["f1", "weighted_accuracy"]];
        let there = |name: &&str| self.get(name).is_some();
        let whole = pairs.into_iter().find(|pair| pair.iter().all(there));
        let own = whole.or_else(|| pairs.into_iter().find(|pair| there(&pair[0])));
        let own = own.unwrap_or_default();
        own.into_iter().filter_map(|name| Some((name, self.get(name)?))).collect()
    }

    /// Its [heads](Self::heads) in a line: `MAE 0.912  Corr 0.701`.
    pub fn headline(&self, digits: usize) -> String {
        let each = self.heads().into_iter().map(|(name, value)| format!("{name} {value:.digits$}"));
        each.collect::<Vec<_>>().join("  ")
    }

    /// The scores of each number, class or label, by name.
    pub fn each(&self) -> &[(String, Vec<(String, f64)>)] {
        &self.each
    }

    /// Rows by class and by what was said of them, where there are classes.
    pub fn confusion(&self) -> Option<&Confusion> {
        self.confusion.as_ref()
    }
}

/// How far what a model says of a row, `said [outputs]`, is from its target, so that rows can be put in
/// order: of a number the distance, as the scores count it, of a class how little the true one is believed in.
/// Nothing for several numbers and labels, of which no row is further off than another.
pub fn wrongness(task: &Task, convention: Convention, said: &[f32], truth: f32) -> Option<f32> {
    match task.kind {
        TaskKind::Classes => {
            let believed = probabilities(task.kind, said);
            believed.get(truth as usize).map(|p| -p)
        }
        _ if task.one_number() => {
            let off = clipped(*said.first()?, convention) - clipped(truth, convention);
            Some(off.abs())
        }
        _ => None,
    }
}

/// Where the largest of a row is, the first of several.
pub fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// What a model says of a row as probabilities: of classes the softmax, of labels the sigmoid of each.
pub fn probabilities(kind: TaskKind, row: &[f32]) -> Vec<f32> {
    if kind == TaskKind::Labels {
        return row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    }
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let each: Vec<f32> = row.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = each.iter().sum();
    each.into_iter().map(|e| e / sum).collect()
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let object = |own: &[(String, f64)]| -> Map<String, Value> {
            own.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
        };
        let mut all = object(&self.scores);
        if !self.each.is_empty() {
            let each = self.each.iter().map(|(name, own)| (name.clone(), object(own).into()));
            all.insert("each".into(), Value::Object(each.collect()));
        }
        if let Some(confusion) = &self.confusion {
            let rows: Vec<&[usize]> = confusion.counts.chunks(confusion.classes).collect();
            all.insert("confusion".into(), json!(rows));
        }
        all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let all = Map::deserialize(deserializer)?;
        let numbers = |map: &Map<String, Value>| -> Vec<(String, f64)> {
            map.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
        };
        let scores = numbers(&all);
        let each = all.get("each").and_then(Value::as_object).into_iter().flatten();
        let each = each.filter_map(|(name, own)| Some((name.clone(), numbers(own.as_object()?))));
        let confusion = match all.get("confusion") {
            None => None,
            Some(value) => {
                let rows: Vec<Vec<usize>> =
                    serde_json::from_value(value.clone()).map_err(D::Error::custom)?;
                if rows.iter().any(|row| row.len() != rows.len()) {
                    return Err(D::Error::custom("confusion is not square"));
                }
                Some(Confusion { classes: rows.len(), counts: rows.concat() })
            }
        };
        Ok(Metrics { scores, each: each.collect(), confusion })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(kind: TaskKind, names: &[&str]) -> Task {
        Task { kind, names: names.iter().map(|n| n.to_string()).collect() }
    }

    fn again(metrics: &Metrics) {
        let text = serde_json::to_string(metrics).unwrap();
        assert_eq!(&serde_json::from_str::<Metrics>(&text).unwrap(), metrics, "{text}");
    }

    #[test]
    fn classes_have_a_table_and_a_matrix() {
        let task = task(TaskKind::Classes, &["calm", "angry"]);
        let said = [2.0, 1.0, -1.0, 0.5, 0.0, 3.0];
        let targets = Targets { words: &[0, 1, 0], width: 1 };
        let m = Metrics::of(&task, &said, targets, Convention::Mosi).unwrap();
        assert_eq!(m.get("accuracy"), Some(2.0 / 3.0));
        assert_eq!(m.get("balanced_accuracy"), Some(0.75));
        assert_eq!(m.each()[1].0, "angry");
        assert_eq!(m.confusion().unwrap().counts, [1, 1, 0, 1]);
        assert_eq!(m.headline(2), "accuracy 0.67  f1_macro 0.67");
        again(&m);
    }

    #[test]
    fn several_numbers_are_scored_each_and_in_the_mean() {
        let task = task(TaskKind::Regression, &["warm", "loud"]);
        let truth: Vec<u32> = [1.0f32, 7.0, 2.0, 5.0].map(f32::to_bits).into();
        let targets = Targets { words: &truth, width: 2 };
        let m = Metrics::of(&task, &[1.5, 7.0, 2.5, 4.0], targets, Convention::Mosi).unwrap();
        assert_eq!(m.get("MAE"), Some(0.5));
        assert_eq!(m.each()[1].1, [("MAE".to_string(), 0.5), ("Corr".to_string(), 1.0)]);
        again(&m);
    }

    #[test]
    fn labels_are_there_above_zero() {
        let task = task(TaskKind::Labels, &["joy", "fear"]);
        let truth: Vec<u32> = [1.0f32, 0.0, 0.0, 0.0].map(f32::to_bits).into();
        let targets = Targets { words: &truth, width: 2 };
        let m = Metrics::of(&task, &[0.1, -3.0, 0.2, -1.0], targets, Convention::Mosi).unwrap();
        assert_eq!(m.get("accuracy"), Some(0.75));
        assert_eq!(m.get("f1"), Some(2.0 / 3.0 / 2.0));
        again(&m);
    }

    #[test]
    fn numbers_read_as_before() {
        let text = r#"{"MAE":0.5,"Corr":0.25,"Acc-7":0.5,"Acc-5":1.0}"#;
        let m: Metrics = serde_json::from_str(text).unwrap();
        assert_eq!(m.entries()[2], ("Acc-7", 0.5));
        assert_eq!(serde_json::to_string(&m).unwrap(), text);
    }

    #[test]
    fn probabilities_are_shares() {
        let p = probabilities(TaskKind::Classes, &[1000.0, 1000.0, -1000.0]);
        assert_eq!(p, [0.5, 0.5, 0.0]);
        assert_eq!(probabilities(TaskKind::Labels, &[0.0, 1e9]), [0.5, 1.0]);
        assert_eq!(largest(&[1.0, 2.0, 2.0]), 1);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let task = task(TaskKind::Classes, &["a", "b"]);
        let targets = Targets { words: &[0, 1], width: 1 };
        let said =
            |s: &[f32]| Metrics::of(&task, s, targets, Convention::Mosi).unwrap_err().to_string();
        assert!(said(&[1.0, 2.0]).contains("2 scores for 2 rows of 2"));
        assert!(said(&[1.0, 2.0, f32::NAN, 0.0]).contains("prediction 1 is NaN"));
    }
}
