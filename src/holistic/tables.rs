//! A whole as tables.

use super::scores::Test;
use super::whole::{DataResult, Label, Whole};
use crate::error::Result;
use crate::experiment::tables::{Grid, probability};

fn score(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |v| format!("{v:.3}"))
}

fn grid(title: &str, header: Vec<String>, words: usize, rows: Vec<Vec<String>>) -> Grid {
    Grid { title: title.into(), header, rows, marked: None, words }
}

fn headed(first: &[&str], models: &[String]) -> Vec<String> {
    first.iter().map(ToString::to_string).chain(models.iter().cloned()).collect()
}

/// A whole as tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    /// Models by data sets.
    pub scores: Grid,
    /// What data sets are like.
    pub like: Grid,
    /// Models by labels.
    pub labels: Grid,
    /// Labels of a dimension against each other.
    pub between_labels: Grid,
    /// Models against each other.
    pub between_models: Grid,
    /// What is left without a modality.
    pub without: Grid,
}

impl Tables {
    /// Of everything.
    pub fn of(whole: &Whole) -> Tables {
        Tables {
            scores: scores(whole),
            like: like(whole),
            labels: labels(whole),
            between_labels: tests(
                "Labels against each other, paired by model",
                &whole.between_labels,
            ),
            between_models: tests(
                "Models against each other, paired by data set",
                &whole.between_models,
            ),
            without: without(whole),
        }
    }

    /// Those that have rows, in order.
    pub fn all(&self) -> Vec<&Grid> {
        let all = [
            &self.scores,
            &self.like,
            &self.labels,
            &self.between_labels,
            &self.between_models,
            &self.without,
        ];
        all.into_iter().filter(|grid| !grid.rows.is_empty()).collect()
    }
}

fn scores(whole: &Whole) -> Grid {
    let mut rows: Vec<Vec<String>> = whole
        .data
        .iter()
        .map(|set| {
            let of = set.models.iter().map(|m| score(m.score));
            let floor = format!("{} {:.3}", set.floor.metric, set.floor.floor);
            [set.name.clone(), floor].into_iter().chain(of).chain([score(set.mean)]).collect()
        })
        .collect();
    let last = |name: &str, of: Vec<String>| {
        [name.to_string(), String::new()].into_iter().chain(of).chain([String::new()]).collect()
    };
    rows.push(last("mean", whole.means.iter().map(|m| score(*m)).collect()));
    rows.push(last("Elo", whole.elo.iter().map(|r| format!("{r:.1}")).collect()));
    let mut header = headed(&["data set", "its floor"], &whole.models);
    header.push("mean".into());
    let title = format!("{}: scores, mean over seeds; {}", whole.name, whole.scores);
    grid(&title, header, 2, rows)
}

fn like(whole: &Whole) -> Grid {
    let row = |set: &DataResult| {
        let a = &set.annotation;
        let shares = a.shares.map_or_else(
            || "–".into(),
            |s| s.iter().map(|share| format!("{share:.2}")).collect::<Vec<_>>().join("/"),
        );
        let label = |dimension: &str| {
            let own = a.labels().into_iter().find(|(d, _)| *d == dimension);
            own.map_or_else(|| "–".into(), |(_, label)| label)
        };
        let imbalance = score(a.imbalance);
        vec![
            set.name.clone(),
            label("interaction"),
            shares,
            label("balance"),
            imbalance,
            label("time"),
            label("flow"),
        ]
    };
    let header = ["data set", "interaction", "R/U/S", "balance", "imbalance", "time", "flow"];
    let title = "What the data sets are like, by measurement (flow as the plan says)";
    grid(title, header.map(String::from).to_vec(), 7, whole.data.iter().map(row).collect())
}

fn labels(whole: &Whole) -> Grid {
    let row = |l: &Label| {
        let count = match l.finding {
            true => l.data.len().to_string(),
            false => format!("{} (says nothing of its label)", l.data.len()),
        };
        let means = l.means.iter().map(|m| score(*m));
        [l.dimension.clone(), l.label.clone(), count].into_iter().chain(means).collect()
    };
    let header = headed(&["dimension", "label", "data sets"], &whole.models);
    grid(
        "By what data sets are like: mean scores",
        header,
        3,
        whole.labels.iter().map(row).collect(),
    )
}

fn tests(title: &str, tests: &[Test]) -> Grid {
    let title = format!("{title}; p after Holm's correction, none below six pairs");
    let header = ["", "minus", "difference", "pairs", "t", "p adj."];
    grid(&title, header.map(String::from).to_vec(), 2, tests.iter().map(test).collect())
}

fn without(whole: &Whole) -> Grid {
    let mut rows = Vec::new();
    for set in &whole.data {
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in set.models.iter().flat_map(|m| &m.without) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        for name in names {
            let of = set.models.iter().map(|m| {
                score(m.without.iter().find(|(own, _)| own == name).map(|(_, value)| *value))
            });
            rows.push([set.name.clone(), name.clone()].into_iter().chain(of).collect());
        }
    }
    let title = "Scores without a modality: it is replaced by its training mean";
    grid(title, headed(&["data set", "without"], &whole.models), 2, rows)
}

fn test(t: &Test) -> Vec<String> {
    vec![
        t.a.clone(),
        t.b.clone(),
        format!("{:+.3}", t.difference),
        t.n.to_string(),
        t.t.map_or_else(|| "–".into(), |t| format!("{t:.2}")),
        probability(t.p_adjusted),
    ]
}

/// A line for each data set, model and seed.
///
/// # Errors
/// None that these values could have.
pub fn csv(whole: &Whole) -> Result<String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let fail = |e: csv::Error| crate::error::Error::Config(e.to_string());
    out.write_record(["data", "model", "seed", "score"]).map_err(fail)?;
    for set in &whole.data {
        for model in &set.models {
            for (seed, score) in &model.by_seed {
                let row = [set.name.as_str(), &model.model, &seed.to_string(), &score.to_string()];
                out.write_record(row).map_err(fail)?;
            }
        }
    }
    let bytes = out.into_inner().map_err(|e| crate::error::Error::Config(e.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
