//! Published figures of the benchmarks, to stand beside one's own.
//!
//! "reported" figures come from the models' own papers by way of later comparison tables; "MMSA"
//! figures are the mean of five seeds in that library's own table (results/result-stat.md). None of
//! them is of arXiv:2305.08473, whose tables were not at hand.

use crate::train::metrics::NAMES;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One published line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The model.
    pub model: String,
    /// The benchmark.
    pub data: String,
    /// Who says so.
    pub source: String,
    /// What its two-class scores mean.
    pub convention: String,
    /// By our names; shares in 0..=1.
    pub scores: Map<String, Value>,
}

/// Shares in percent, as the field prints them; empty where none is given.
const TABLE: &str = include_str!("published.csv");

/// What was published of the benchmark that a data set's name says it is: empty for any other.
pub fn published(data_name: &str) -> Vec<Published> {
    let name = data_name.to_lowercase().replace(['-', '_'], "");
    let data = match () {
        () if name.contains("mosei") => "MOSEI",
        () if name.contains("mosi") => "MOSI",
        () if name.contains("simsv2") => "SIMSv2",
        () if name.contains("sims") => "CH-SIMS",
        () => return Vec::new(),
    };
    let convention = match data {
        "MOSI" | "MOSEI" => "Has0: negative / non-negative, all rows; Non0: negative / positive",
        _ => "non-positive / positive; all clipped to [-1, 1]",
    };
    let line = |row: IndexMap<String, String>| {
        let word = |key: &str| row.get(key).cloned().unwrap_or_default();
        let score = |name: &'static str| {
            let value: f64 = row.get(name)?.parse().ok()?;
            let value = if ["MAE", "Corr"].contains(&name) { value } else { value / 100.0 };
            Some((name.to_string(), json!(value)))
        };
        Published {
            model: word("model"),
            data: word("data"),
            source: word("source"),
            convention: convention.into(),
            scores: NAMES.into_iter().filter_map(score).collect(),
        }
    };
    let mut table = csv::Reader::from_reader(TABLE.as_bytes());
    let lines = table.deserialize().filter_map(std::result::Result::ok).map(line);
    lines.filter(|line| line.data == data).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_is_known_by_its_name() {
        for (name, data) in [
            ("cmu_mosi", "MOSI"),
            ("MOSEI-unaligned", "MOSEI"),
            ("ch_sims", "CH-SIMS"),
            ("sims_v2", "SIMSv2"),
        ] {
            let lines = published(name);
            assert!(lines.iter().all(|l| l.data == data), "{name}");
            let own = lines.iter().find(|l| l.model == "Self-MM").unwrap();
            assert!(own.scores.keys().all(|score| NAMES.contains(&score.as_str())));
            let all = lines.iter().flat_map(|l| l.scores.values());
            assert!(all.into_iter().all(|v| (0.0..1.0).contains(&v.as_f64().unwrap())));
        }
        // Every line of the table is read.
        let all = ["mosi", "mosei", "sims", "simsv2"].map(|name| published(name).len());
        assert_eq!(all.iter().sum::<usize>(), TABLE.lines().count() - 1);
        let own = &published("mosi")[11].scores;
        assert_eq!((&own["MAE"], &own["Acc-2 Non0"]), (&json!(0.7080), &json!(85.46 / 100.0)));
        assert!(published("ravdess").is_empty() && published("play").is_empty());
    }
}
