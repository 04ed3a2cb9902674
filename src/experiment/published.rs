//! Published figures of the benchmarks, to stand beside one's own.
//!
//! "reported" figures come from the models' own papers by way of later comparison tables; "MMSA"
//! figures are the mean of five seeds in that library's own table (results/result-stat.md). None of
//! them is of arXiv:2305.08473, whose tables were not at hand.

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

const REPORTED: &str = "reported";
const MMSA: &str = "MMSA, 5 seeds";

/// Model, source, values in the order of the benchmark's columns; NaN where none is given.
type Line = (&'static str, &'static str, [f64; 8]);

const NONE: f64 = f64::NAN;

const MOSI_COLUMNS: [&str; 8] =
    ["MAE", "Corr", "Acc-7", "Acc-5", "Acc-2 Has0", "F1 Has0", "Acc-2 Non0", "F1 Non0"];
const SIMS_COLUMNS: [&str; 8] = ["MAE", "Corr", "Acc-2", "Acc-3", "Acc-5", "F1", "", ""];

const MOSI: [Line; 12] = [
    ("TFN (BERT)", REPORTED, [0.901, 0.698, 34.9, NONE, NONE, NONE, 80.8, 80.7]),
    ("LMF (BERT)", REPORTED, [0.917, 0.695, 33.2, NONE, NONE, NONE, 82.5, 82.4]),
    ("MulT", REPORTED, [0.871, 0.698, 40.0, NONE, NONE, NONE, 83.0, 82.8]),
    ("MISA", REPORTED, [0.783, 0.761, 42.3, NONE, 81.8, 81.7, 83.4, 83.6]),
    ("MAG-BERT", REPORTED, [0.712, 0.796, NONE, NONE, 84.2, 84.1, 86.1, 86.0]),
    ("Self-MM", REPORTED, [0.713, 0.798, NONE, NONE, 84.00, 84.42, 85.98, 85.95]),
    ("TFN", MMSA, [0.9473, 0.6733, 34.46, 39.39, 77.99, 77.95, 79.08, 79.11]),
    ("LMF", MMSA, [0.9504, 0.6510, 33.82, 38.13, 77.90, 77.80, 79.18, 79.15]),
    ("MulT", MMSA, [0.8799, 0.7022, 36.91, 42.68, 79.71, 79.63, 80.98, 80.95]),
    ("MISA", MMSA, [0.7765, 0.7781, 41.37, 47.08, 81.84, 81.82, 83.54, 83.58]),
    ("TETFN", MMSA, [0.7084, 0.7984, 45.77, 53.64, 83.24, 83.13, 85.37, 85.33]),
    ("Self-MM", MMSA, [0.7080, 0.7963, 46.67, 53.47, 83.44, 83.36, 85.46, 85.43]),
];

const MOSEI: [Line; 12] = [
    ("TFN", REPORTED, [0.593, 0.700, 50.2, NONE, NONE, NONE, 82.5, 82.1]),
    ("LMF", REPORTED, [0.623, 0.677, 48.0, NONE, NONE, NONE, 82.0, 82.1]),
    ("MulT", REPORTED, [0.580, 0.703, 51.8, NONE, NONE, NONE, 82.5, 82.3]),
    ("MISA", REPORTED, [0.555, 0.756, 52.2, NONE, 83.6, 83.8, 85.5, 85.3]),
    ("MAG-BERT (re-run)", REPORTED, [0.543, 0.755, NONE, NONE, 82.51, 82.77, 84.82, 84.71]),
    ("Self-MM", REPORTED, [0.530, 0.765, NONE, NONE, 82.81, 82.53, 85.17, 85.30]),
    ("TFN", MMSA, [0.5726, 0.7141, 51.60, 53.10, 78.50, 78.96, 81.89, 81.74]),
    ("LMF", MMSA, [0.5757, 0.7169, 51.59, 52.99, 80.54, 80.94, 83.48, 83.36]),
    ("MulT", MMSA, [0.5593, 0.7331, 52.84, 54.18, 81.15, 81.56, 84.63, 84.52]),
    ("MISA", MMSA, [0.5575, 0.7515, 52.05, 53.63, 80.67, 81.12, 84.67, 84.66]),
    ("TETFN", MMSA, [0.5373, 0.7696, 53.90, 55.78, 84.12, 84.35, 86.21, 86.11]),
    ("Self-MM", MMSA, [0.5309, 0.7649, 53.87, 55.53, 83.76, 83.82, 85.15, 84.90]),
];

const SIMS: [Line; 6] = [
    ("TFN", MMSA, [0.4322, 0.5910, 78.38, 65.12, 39.30, 78.62, NONE, NONE]),
    ("LMF", MMSA, [0.4412, 0.5759, 77.77, 64.68, 40.53, 77.88, NONE, NONE]),
    ("MulT", MMSA, [0.4532, 0.5641, 78.56, 64.77, 37.94, 79.66, NONE, NONE]),
    (
        "MLF-DNN (human unimodal labels)",
        MMSA,
        [0.3958, 0.6652, 80.44, 69.37, 40.22, 80.28, NONE, NONE],
    ),
    ("TETFN", MMSA, [0.4200, 0.5765, 81.18, 63.24, 41.79, 80.24, NONE, NONE]),
    ("Self-MM", MMSA, [0.4250, 0.5952, 80.04, 65.47, 41.53, 80.44, NONE, NONE]),
];

const SIMSV2: [Line; 6] = [
    ("TFN", MMSA, [0.3031, 0.7073, 80.14, 72.21, 52.55, 80.14, NONE, NONE]),
    ("LMF", MMSA, [0.3672, 0.5569, 74.18, 64.90, 47.79, 73.88, NONE, NONE]),
    ("MulT", MMSA, [0.2905, 0.7378, 80.68, 73.19, 54.81, 80.73, NONE, NONE]),
    (
        "MLF-DNN (human unimodal labels)",
        MMSA,
        [0.3395, 0.6352, 76.59, 68.47, 49.67, 76.62, NONE, NONE],
    ),
    ("TETFN", MMSA, [0.3103, 0.6950, 79.73, 73.65, 54.47, 79.81, NONE, NONE]),
    ("Self-MM", MMSA, [0.3106, 0.6952, 79.69, 72.61, 52.77, 79.76, NONE, NONE]),
];

/// What was published of the benchmark that a data set's name says it is: empty for any other.
pub fn published(data_name: &str) -> Vec<Published> {
    let name = data_name.to_lowercase().replace(['-', '_'], "");
    let (data, columns, lines): (&str, &[&str], &[Line]) = match () {
        () if name.contains("mosei") => ("MOSEI", &MOSI_COLUMNS, &MOSEI),
        () if name.contains("mosi") => ("MOSI", &MOSI_COLUMNS, &MOSI),
        () if name.contains("simsv2") => ("SIMSv2", &SIMS_COLUMNS, &SIMSV2),
        () if name.contains("sims") => ("CH-SIMS", &SIMS_COLUMNS, &SIMS),
        () => return Vec::new(),
    };
    let convention = match data {
        "MOSI" | "MOSEI" => "Has0: negative / non-negative, all rows; Non0: negative / positive",
        _ => "non-positive / positive; all clipped to [-1, 1]",
    };
    let line = |(model, source, values): &Line| {
        let known = columns.iter().zip(values).filter(|(_, v)| v.is_finite());
        let share =
            |name: &str, v: f64| if ["MAE", "Corr"].contains(&name) { v } else { v / 100.0 };
        let scores = known.map(|(name, v)| (name.to_string(), json!(share(name, *v))));
        Published {
            model: model.to_string(),
            data: data.into(),
            source: source.to_string(),
            convention: convention.into(),
            scores: scores.collect(),
        }
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::NAMES;

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
        assert!(published("ravdess").is_empty() && published("play").is_empty());
    }
}
