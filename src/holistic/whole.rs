//! What all runs come to.

use super::annotate::Annotation;
use super::plan::Plan;
use super::scores::{Battle, Test, between, elo, normalised};
use crate::data::{Damage, Dataset, SplitName, TaskKind};
use crate::error::{Error, Result};
use crate::experiment::stats::{Summary, holm};
use crate::experiment::{Results, RunRecord};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What knowing nothing of the rows reaches, and the best that there can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// The score that goes by it: `accuracy` or `MAE`.
    pub metric: String,
    /// Of the class that is most frequent in training, or of the training labels' median, on test rows.
    pub floor: f64,
    /// 1 of accuracy, 0 of errors.
    pub best: f64,
}

impl Floor {
    /// Of a data set's target.
    ///
    /// # Errors
    /// No training or test rows, and targets of several numbers or labels, of which no one score has a floor.
    pub fn of(data: &Dataset) -> Result<Floor> {
        let fail = |what: &str| Err(Error::data(data.path(), what));
        let (Some(train), Some(test)) = (data.split(SplitName::Train), data.split(SplitName::Test))
        else {
            return fail("whole evaluation wants training and test rows");
        };
        let (Some(known), Some(asked)) = (train.targets(), test.targets()) else {
            return fail("whole evaluation wants labels of train and test");
        };
        match data.task().kind {
            TaskKind::Classes => {
                let counts = known.counts(data.task());
                let usual = (0..counts.len()).max_by_key(|c| (counts[*c], std::cmp::Reverse(*c)));
                let asked = asked.classes();
                let right = asked.iter().filter(|c| Some(**c) == usual).count();
                let floor = right as f64 / asked.len() as f64;
                Ok(Floor { metric: "accuracy".into(), floor, best: 1.0 })
            }
            TaskKind::Regression if data.task().one_number() => {
                let mut known = known.numbers();
                known.sort_by(f32::total_cmp);
                let half = known.len() / 2;
                let median = f64::from(known[half] + known[known.len() - 1 - half]) / 2.0;
                let asked = asked.numbers();
                let floor = asked.iter().map(|y| (f64::from(*y) - median).abs()).sum::<f64>()
                    / asked.len() as f64;
                Ok(Floor { metric: "MAE".into(), floor, best: 0.0 })
            }
            _ => fail(
                "whole evaluation scores one class or one number a row; --set task.kind chooses",
            ),
        }
    }

    /// From 0, as good as knowing nothing, to 1; below the floor also less than 0, but of errors, which have no end.
    fn score(&self, raw: f64) -> f64 {
        let reach = self.best - self.floor;
        let score = if reach == 0.0 { 0.0 } else { (raw - self.floor) / reach };
        if self.best == 0.0 { score.max(0.0) } else { score }
    }
}

/// A model on a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelResult {
    /// Which.
    pub model: String,
    /// Of the metric, over seeds; none where no run was finished.
    pub raw: Option<Summary>,
    /// Between floor and ceiling; the mean over seeds.
    pub score: Option<f64>,
    /// By seed.
    pub by_seed: BTreeMap<u64, f64>,
    /// With each modality in turn replaced by its training mean: its name, and the score.
    pub without: Vec<(String, f64)>,
}

/// All models on a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataResult {
    /// Its name.
    pub name: String,
    /// What it is like.
    pub annotation: Annotation,
    /// Where scores begin and end.
    pub floor: Floor,
    /// In the plan's order.
    pub models: Vec<ModelResult>,
    /// The mean of their scores: how easy it is.
    pub mean: Option<f64>,
}

impl DataResult {
    /// Of an experiment's results, its annotation and its floor.
    pub fn of(
        name: &str,
        results: &Results,
        annotation: Annotation,
        floor: Floor,
        by_worst: bool,
    ) -> DataResult {
        let value = |record: &RunRecord| record.test.as_ref().and_then(|m| m.get(&floor.metric));
        let mut models: Vec<ModelResult> = Vec::new();
        for cell in &results.cells {
            let of =
                cell.runs.iter().filter_map(|run| Some((run.record.seed, value(&run.record)?)));
            let raw: BTreeMap<u64, f64> = of.collect();
            let by_seed: BTreeMap<u64, f64> =
                raw.iter().map(|(seed, raw)| (*seed, floor.score(*raw))).collect();
            let mut without: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for damaged in cell.runs.iter().flat_map(|run| run.record.robustness.iter().flatten()) {
                if let (Damage::Dropped, Some(modality), Some(raw)) = (
                    damaged.perturbation.damage,
                    damaged.perturbation.modality,
                    damaged.test.get(&floor.metric),
                ) {
                    without.entry(modality.name().into()).or_default().push(floor.score(raw));
                }
            }
            models.push(ModelResult {
                model: cell.cell.clone(),
                raw: Summary::of(&raw.values().copied().collect::<Vec<_>>()),
                score: mean(by_seed.values().copied()),
                by_seed,
                without: without
                    .into_iter()
                    .filter_map(|(name, of)| Some((name, mean(of.into_iter())?)))
                    .collect(),
            });
        }
        if by_worst {
            // An error counts the other way round.
            let raw: Vec<f64> = models
                .iter()
                .filter_map(|m| {
                    m.raw.map(|raw| if floor.best == 0.0 { -raw.mean } else { raw.mean })
                })
                .collect();
            let mut scaled = normalised(&raw, floor.best).into_iter();
            models.iter_mut().filter(|m| m.raw.is_some()).for_each(|m| m.score = scaled.next());
        }
        let mean = mean(models.iter().filter_map(|m| m.score));
        DataResult { name: name.into(), annotation, floor, models, mean }
    }
}

/// Models on the data sets of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// Of which dimension.
    pub dimension: String,
    /// Which.
    pub label: String,
    /// Its data sets.
    pub data: Vec<String>,
    /// Each model's mean over those that it was scored on.
    pub means: Vec<Option<f64>>,
    /// Whether there are two data sets or more: one says nothing of its label.
    pub finding: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Whole {
    /// The plan's name.
    pub name: String,
    /// The models, in the plan's order.
    pub models: Vec<String>,
    /// How scores were made.
    pub scores: String,
    /// By data set.
    pub data: Vec<DataResult>,
    /// Each model's mean over all data sets.
    pub means: Vec<Option<f64>>,
    /// Each model's Elo rating: battles of each two on each data set and seed.
    pub elo: Vec<f64>,
    /// Means by dimension and label.
    pub labels: Vec<Label>,
    /// Labels of one dimension against each other, paired by model.
    pub between_labels: Vec<Test>,
    /// Models against each other, paired by data set.
    pub between_models: Vec<Test>,
    /// Runs that the plan asks for, and those that are there.
    pub runs: [usize; 2],
}

impl Whole {
    /// Puts together what data sets came to.
    pub fn of(plan: &Plan, data: Vec<DataResult>, runs: [usize; 2]) -> Whole {
        let models: Vec<String> = plan.models.iter().map(|m| m.name.clone()).collect();
        let score = |set: &DataResult, model: usize| set.models.get(model).and_then(|m| m.score);
        let means_over = |sets: &[&DataResult]| -> Vec<Option<f64>> {
            (0..models.len()).map(|m| mean(sets.iter().filter_map(|set| score(set, m)))).collect()
        };
        let mut by_label: BTreeMap<(usize, String), (&str, Vec<&DataResult>)> = BTreeMap::new();
        let dimensions = ["interaction", "balance", "time", "flow"];
        for set in &data {
            for (dimension, label) in set.annotation.labels() {
                let order =
                    dimensions.iter().position(|d| *d == dimension).unwrap_or(dimensions.len());
                by_label.entry((order, label)).or_insert((dimension, Vec::new())).1.push(set);
            }
        }
        let labels: Vec<Label> = by_label
            .into_iter()
            .map(|((_, label), (dimension, sets))| Label {
                dimension: dimension.into(),
                label,
                data: sets.iter().map(|set| set.name.clone()).collect(),
                means: means_over(&sets),
                finding: sets.len() >= 2,
            })
            .collect();
        let mut between_labels = Vec::new();
        for (i, a) in labels.iter().enumerate() {
            for b in labels[i + 1..].iter().filter(|b| b.dimension == a.dimension) {
                let both = a.means.iter().zip(&b.means).filter_map(|(a, b)| (*a).zip(*b));
                let (of_a, of_b): (Vec<f64>, Vec<f64>) = both.unzip();
                between_labels.extend(between((&a.label, &of_a), (&b.label, &of_b)));
            }
        }
        let mut between_models = Vec::new();
        let mut battles = Vec::new();
        for a in 0..models.len() {
            for b in a + 1..models.len() {
                let both = data.iter().filter_map(|set| score(set, a).zip(score(set, b)));
                let (of_a, of_b): (Vec<f64>, Vec<f64>) = both.unzip();
                between_models.extend(between((&models[a], &of_a), (&models[b], &of_b)));
                for set in &data {
                    let Some((first, second)) = set.models.get(a).zip(set.models.get(b)) else {
                        continue;
                    };
                    for (seed, x) in &first.by_seed {
                        let Some(y) = second.by_seed.get(seed) else { continue };
                        let score = if x == y { 0.5 } else { f64::from(u8::from(x > y)) };
                        battles.push(Battle { a, b, score });
                    }
                }
            }
        }
        for tests in [&mut between_labels, &mut between_models] {
            let p: Vec<Option<f64>> = tests.iter().map(|t: &Test| t.p).collect();
            let adjusted = holm(&p, p.iter().flatten().count());
            tests.iter_mut().zip(adjusted).for_each(|(t, p)| t.p_adjusted = p);
        }
        let scores = match plan.floor_by_worst_model {
            true => {
                "0 is the worst model of each data set and 1 the best possible, as in HEMM: another model changes all of them"
            }
            false => "0 is what knowing nothing of a row reaches and 1 the best possible",
        };
        let all: Vec<&DataResult> = data.iter().collect();
        Whole {
            name: plan.name.clone(),
            means: means_over(&all),
            elo: elo(models.len(), &battles, 1111),
            scores: scores.into(),
            labels,
            between_labels,
            between_models,
            models,
            runs,
            data,
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    Summary::of(&values.collect::<Vec<_>>()).map(|s| s.mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holistic::Flow;

    fn set(name: &str, interaction: &str, scores: &[f64]) -> DataResult {
        let annotation = Annotation {
            pairs: Vec::new(),
            shares: None,
            interaction: Some(interaction.into()),
            imbalance: None,
            one_leads: None,
            temporal: false,
            flow: Flow::Fusion,
            unmeasured: None,
        };
        let models = scores.iter().enumerate().map(|(i, score)| ModelResult {
            model: format!("m{i}"),
            raw: None,
            score: Some(*score),
            by_seed: BTreeMap::from([(1, *score)]),
            without: Vec::new(),
        });
        let floor = Floor { metric: "accuracy".into(), floor: 0.0, best: 1.0 };
        DataResult { name: name.into(), annotation, floor, models: models.collect(), mean: None }
    }

    #[test]
    fn labels_and_tests() {
        let text = "[[data]]\npath='x'\n[[model]]\nname='m0'\n[[model]]\nname='m1'\n";
        let plan: Plan = toml::from_str(text).unwrap();
        let sets: Vec<DataResult> = (0..7)
            .map(|i| {
                let x = 0.1 * f64::from(i);
                set(
                    &format!("d{i}"),
                    if i < 6 { "uniqueness" } else { "synergy" },
                    &[0.5 + x / 2.0, 0.4 + x / 3.0],
                )
            })
            .collect();
        let whole = Whole::of(&plan, sets, [14, 14]);
        assert_eq!(whole.means.len(), 2);
        let find = |label: &str| whole.labels.iter().find(|l| l.label == label).unwrap();
        assert!(find("uniqueness").finding && !find("synergy").finding);
        assert_eq!(find("fusion").data.len(), 7);
        // Seven data sets are enough for a test between models, two models are not for one between labels.
        assert!(
            whole.between_models[0].p.is_some() && whole.between_models[0].p_adjusted.is_some()
        );
        assert!(whole.between_labels.iter().all(|t| t.p.is_none() && t.n == 2));
        assert!(whole.elo[0] > 1000.0 && whole.elo[1] < 1000.0);
    }

    #[test]
    fn scores_lie_between_floor_and_ceiling() {
        let of = |floor: f64, best: f64| Floor { metric: String::new(), floor, best };
        assert!((of(0.2, 1.0).score(0.6) - 0.5).abs() < 1e-12);
        assert!((of(0.2, 1.0).score(0.1) + 0.125).abs() < 1e-12);
        assert!((of(1.5, 0.0).score(0.9) - 0.4).abs() < 1e-12);
        assert_eq!(of(1.5, 0.0).score(2.0), 0.0);
    }
}
