//! An experiment's `results.json`, as far as a page shows it.

use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// All of it.
#[derive(Debug, Deserialize)]
pub struct Results {
    pub name: String,
    #[serde(default)]
    pub preset: Option<String>,
    #[serde(default)]
    pub data: Option<String>,
    #[serde(default)]
    pub data_sha256: Option<String>,
    #[serde(default)]
    pub data_name: Option<String>,
    #[serde(default)]
    pub convention: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub adapter: Option<String>,
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub seeds: Vec<u64>,
    #[serde(default)]
    pub reference: Option<String>,
    #[serde(default)]
    pub metric: Option<String>,
    #[serde(default)]
    pub alpha: Option<f64>,
    #[serde(default)]
    pub correction: Option<String>,
    #[serde(default)]
    pub expected_runs: usize,
    #[serde(default)]
    pub finished_runs: usize,
    pub cells: Vec<Cell>,
    #[serde(default)]
    pub best: Option<Best>,
    #[serde(default)]
    pub published: Vec<Published>,
}

/// One way of training.
#[derive(Debug, Deserialize)]
pub struct Cell {
    pub cell: String,
    #[serde(default)]
    pub settings: Vec<String>,
    #[serde(default)]
    pub runs: Vec<CellRun>,
    #[serde(default)]
    pub test: BTreeMap<String, Stat>,
    #[serde(default)]
    pub against_reference: Option<BTreeMap<String, Option<Against>>>,
    #[serde(default)]
    pub probes: Value,
    #[serde(default)]
    pub robustness: Option<Vec<Robust>>,
}

/// One training.
#[derive(Debug, Deserialize)]
pub struct CellRun {
    pub seed: u64,
    pub run: String,
}

/// Over a cell's runs.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Stat {
    pub mean: Option<f64>,
    pub std: Option<f64>,
    #[serde(default)]
    pub n: usize,
}

/// A cell minus the reference.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Against {
    pub difference: Option<f64>,
    #[serde(default)]
    pub ci95: Option<[Option<f64>; 2]>,
    #[serde(default)]
    pub t: Option<f64>,
    #[serde(default)]
    pub p: Option<f64>,
    #[serde(default)]
    pub p_adjusted: Option<f64>,
    #[serde(default)]
    pub effect: Option<f64>,
    #[serde(default)]
    pub n: usize,
}

/// A cell's scores when its data is worse than it was trained for.
#[derive(Debug, Deserialize)]
pub struct Robust {
    pub name: String,
    pub test: BTreeMap<String, Stat>,
}

/// The cell with the best validation score.
#[derive(Debug, Deserialize)]
pub struct Best {
    pub cell: String,
    #[serde(default)]
    pub by: Option<String>,
    #[serde(default)]
    pub significant: bool,
}

/// What others reported.
#[derive(Debug, Deserialize)]
pub struct Published {
    pub model: String,
    #[serde(default)]
    pub data: Option<String>,
    #[serde(default)]
    pub source: Option<String>,
    #[serde(default)]
    pub convention: Option<String>,
    #[serde(default)]
    pub scores: BTreeMap<String, Option<f64>>,
}

impl Results {
    /// Reads a folder's results.
    ///
    /// # Errors
    /// Missing, or of another form.
    pub fn read(folder: &Path) -> Result<Results> {
        let path = folder.join("results.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let results: Results = serde_json::from_str(&text)
            .map_err(|e| Error::checkpoint(&path, format!("no results of an experiment ({e})")))?;
        if results.cells.is_empty() {
            return Err(Error::checkpoint(&path, "holds no cell: no run has finished yet"));
        }
        Ok(results)
    }

    /// The score that decides.
    pub fn metric(&self) -> &str {
        self.metric.as_deref().unwrap_or("MAE")
    }

    /// A cell by its name.
    pub fn cell(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().find(|c| c.cell == name)
    }

    /// The cell that was best on validation.
    pub fn best_cell(&self) -> Option<&Cell> {
        self.cell(&self.best.as_ref()?.cell)
    }

    /// The cell that others are held against.
    pub fn reference_cell(&self) -> Option<&Cell> {
        self.cell(self.reference.as_deref()?)
    }

    /// Whether a cell is the reference.
    pub fn is_reference(&self, cell: &Cell) -> bool {
        self.reference.as_deref() == Some(cell.cell.as_str())
    }

    /// Whether a cell is the best, and told from the reference.
    pub fn is_clearly_best(&self, cell: &Cell) -> bool {
        self.best.as_ref().is_some_and(|b| b.significant && b.cell == cell.cell)
    }

    /// Names of the test scores, in the order of the field's tables.
    pub fn scores(&self) -> Vec<&str> {
        const ORDER: [&str; 11] = [
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
        ];
        let there = |name: &&str| self.cells.iter().any(|c| c.test.contains_key(*name));
        ORDER.into_iter().filter(there).collect()
    }
}

impl Cell {
    /// The comparison of a score, where one could be made.
    pub fn against(&self, score: &str) -> Option<&Against> {
        self.against_reference.as_ref()?.get(score)?.as_ref()
    }
}
