//! What came of an experiment: every run, every cell's mean and spread, and its comparison with the
//! reference.

use super::effects::{Effect, effects};
use super::folding::Folding;
use super::plan::{Cell, Plan};
use super::published::{Published, published};
use super::record::{ByScore, CellRun, Damaged, RunRecord, entries};
use super::stats::{Comparison, Summary, holm};
use super::tables::{difference, probability};
use crate::data::{Damage, Modality, Perturbation};
use crate::error::{Error, Result};
use crate::files::{leads_deeper, read_json};
use crate::train::carried::Carried;
use crate::train::metrics::{Convention, smaller_is_better};
use indexmap::{IndexMap, IndexSet};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Means with one modality damaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DamagedMeans {
    /// In words.
    pub name: String,
    /// What was damaged how.
    pub perturbation: Perturbation,
    /// Scores on test rows.
    pub test: ByScore<Summary>,
    /// Against the reference with the same damage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_reference: Option<ByScore<Comparison>>,
}

/// One way of training, over its seeds and folds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Its name.
    pub cell: String,
    /// What sets it apart.
    pub settings: Vec<String>,
    /// Its finished runs.
    pub runs: Vec<CellRun>,
    /// Means and spreads on validation rows.
    pub valid: ByScore<Summary>,
    /// And on test rows, with [`SHARED`](super::SHARED) and [`PRIVATE`](super::PRIVATE) where they are known.
    pub test: ByScore<Summary>,
    /// Scores over all rows at once, each as the run predicts it that tests on it, over the seeds whose
    /// folds are all finished; absent where rows are not folded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled: Option<ByScore<Summary>>,
    /// Against the reference, on test rows; absent for the reference itself, and without a run of the
    /// same seed (and fold).
    pub against_reference: Option<ByScore<Comparison>>,
    /// Mean over runs.
    pub probes: Option<Carried>,
    /// With modalities damaged.
    pub robustness: Option<Vec<DamagedMeans>>,
}

/// The cell that validation chooses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its name.
    pub cell: String,
    /// By what: "valid MAE".
    pub by: String,
    /// Whether it is better than the reference on test rows after correction; only then do tables
    /// mark it.
    pub significant: bool,
}

/// Everything that an experiment found, as `results.json` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The plan's name.
    pub name: String,
    /// The ready-made set of cells, where the plan names one.
    pub preset: Option<String>,
    /// The data set.
    pub data: String,
    /// Its SHA-256.
    pub data_sha256: String,
    /// Its name.
    pub data_name: String,
    /// How scores are computed.
    pub convention: Convention,
    /// The crate's version.
    pub version: String,
    /// The adapters that runs were trained on.
    pub adapter: String,
    /// Their drivers.
    pub driver: String,
    /// The plan's seeds.
    pub seeds: Vec<u64>,
    /// How rows were folded; absent where the splits are those of the data file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folding: Option<Folding>,
    /// The cell that the others are held against.
    pub reference: String,
    /// The score that chooses and orders.
    pub metric: String,
    /// The level of significance.
    pub alpha: f64,
    /// How p values are corrected for the number of cells.
    pub correction: String,
    /// Cells times seeds, and folds.
    pub expected_runs: usize,
    /// How many of them are there.
    pub finished_runs: usize,
    /// By the plan's order; those without a finished run are left out.
    pub cells: Vec<CellResult>,
    /// What each part of the method does by itself, where cells are made of parts.
    pub effects: Vec<Effect>,
    /// The cell with the best mean on validation rows.
    pub best: Option<Best>,
    /// Published figures of this data set, for comparison.
    pub published: Vec<Published>,
}

impl Results {
    /// Of the finished runs of a plan: `runs` are by cell.
    pub(super) fn gather(plan: &Plan, cells: &[Cell], runs: Vec<CellRuns>, about: About) -> Self {
        let seeds = plan.seeds.list();
        let reference = plan.reference(cells).to_string();
        let finished_runs = runs.iter().map(|own| own.runs.len()).sum();
        let mut results: Vec<CellResult> = cells
            .iter()
            .zip(runs)
            .filter(|(_, own)| !own.runs.is_empty())
            .map(|(cell, own)| CellResult::of(cell, own))
            .collect();
        let overlap = overlap(&results);
        let folding = about.folding.map(|folding| Folding { overlap, ..folding });
        compare(&mut results, &reference, overlap);
        let all = |of: fn(&RunRecord) -> &str| {
            let runs = results.iter().flat_map(|c| &c.runs);
            let names: IndexSet<&str> = runs.map(|run| of(&run.record)).collect();
            names.into_iter().collect::<Vec<_>>().join("; ")
        };
        let metric = metric(&plan.metric, &results);
        Results {
            name: plan.name.clone(),
            preset: plan.cells.map(|p| p.name().to_string()),
            data: plan.data.display().to_string(),
            data_sha256: about.data_sha256,
            // Those are of the standard split, which folds are not.
            published: match folding {
                None => published(&about.data_name),
                Some(_) => Vec::new(),
            },
            data_name: about.data_name,
            convention: about.convention,
            version: all(|r| &r.version),
            adapter: all(|r| &r.adapter),
            driver: all(|r| &r.driver),
            expected_runs: cells.len() * seeds.len() * folding.as_ref().map_or(1, |f| f.folds),
            finished_runs,
            effects: effects(cells, &results, overlap),
            best: best(&results, &reference, &metric, plan.alpha),
            seeds,
            folding,
            reference,
            metric,
            alpha: plan.alpha,
            correction: "Holm".into(),
            cells: results,
        }
    }

    /// Reads an experiment's `results.json`.
    ///
    /// # Errors
    /// Missing, of another form, or without a finished run.
    pub fn read(folder: &Path) -> Result<Results> {
        let path = folder.join("results.json");
        let results: Results = serde_json::from_str(&read_json(&path)?)
            .map_err(|e| Error::checkpoint(&path, format!("no results of an experiment ({e})")))?;
        let mut runs = results.cells.iter().flat_map(|cell| &cell.runs);
        if let Some(out) = runs.find(|run| !leads_deeper(Path::new(&run.run))) {
            let detail = format!("names a run outside of its folder ('{}')", out.run);
            return Err(Error::checkpoint(&path, detail));
        }
        match results.cells.is_empty() {
            true => Err(Error::checkpoint(&path, "holds no cell: no run has finished yet")),
            false => Ok(results),
        }
    }

    /// A cell by its name.
    pub fn cell(&self, name: &str) -> Option<&CellResult> {
        self.cells.iter().find(|c| c.cell == name)
    }

    /// The cell that was best on validation.
    pub fn best_cell(&self) -> Option<&CellResult> {
        self.cell(&self.best.as_ref()?.cell)
    }

    /// The cell that the others are held against.
    pub fn reference_cell(&self) -> Option<&CellResult> {
        self.cell(&self.reference)
    }

    /// Whether this is the best cell, and better than the reference beyond luck.
    pub fn is_clearly_best(&self, cell: &CellResult) -> bool {
        self.best.as_ref().is_some_and(|b| b.significant && b.cell == cell.cell)
    }

    /// The names of all scores that some cell has, in order.
    pub fn scores(&self) -> Vec<&str> {
        let names: IndexSet<&str> =
            self.cells.iter().flat_map(|c| c.test.keys()).map(String::as_str).collect();
        names.into_iter().collect()
    }

    /// What means and spreads are over.
    pub fn over(&self) -> &'static str {
        if self.folding.is_some() { "folds and seeds" } else { "seeds" }
    }

    /// How a cell is held against the reference: what pairs its runs, and the test.
    pub fn paired_test(&self) -> &'static str {
        match &self.folding {
            None => "paired by seed, Student's t",
            Some(_) => "paired by seed and fold, Nadeau and Bengio's corrected resampled t",
        }
    }

    /// What the choice of the best cell comes to, in a sentence.
    pub fn verdict(&self) -> String {
        let Some(best) = &self.best else {
            return "No validation scores, so no cell is chosen.".into();
        };
        let (name, by) = (&best.cell, &best.by);
        if *name == self.reference {
            return format!("Best by {by}: {name}, the reference itself.");
        }
        let Some(found) = self.cell(name).and_then(|c| c.against(&self.metric)) else {
            return format!(
                "Best by {by}: {name}; it has no run in common with {}.",
                self.reference
            );
        };
        let p = probability(found.p_adjusted);
        let said = match (found.p_adjusted, best.significant) {
            (None, _) if found.n < 2 => "one pair is no test, so it is not marked".into(),
            (None, _) => "no spread to test by, so it is not marked".into(),
            (_, true) => format!("adjusted p {p}: significant"),
            (_, false) => format!("adjusted p {p}: not significantly better, so it is not marked"),
        };
        format!(
            "Best by {by}: {name}; its test {} minus that of {} is {} over {} {} ({said}).",
            self.metric,
            self.reference,
            difference(&self.metric, found.difference),
            found.n,
            if self.folding.is_some() { "pairs of folds" } else { "seeds" }
        )
    }
}

/// What the plan does not say.
pub(super) struct About {
    pub(super) data_sha256: String,
    pub(super) data_name: String,
    pub(super) convention: Convention,
    pub(super) folding: Option<Folding>,
}

/// The finished runs of a cell.
#[derive(Default)]
pub(super) struct CellRuns {
    pub(super) runs: Vec<CellRun>,
    /// Of each seed whose folds are all finished, the scores of all rows at once.
    pub(super) pooled: Vec<ByScore<f64>>,
}

impl CellResult {
    fn of(cell: &Cell, CellRuns { runs, pooled }: CellRuns) -> Self {
        let records = || runs.iter().map(|r| &r.record);
        let probes: Vec<&Carried> = records().filter_map(|r| r.probes.as_ref()).collect();
        let damaged: Vec<&Vec<Damaged>> = records().filter_map(|r| r.robustness.as_ref()).collect();
        let robustness = damaged.first().map(|first| {
            let means = |one: &Damaged| {
                let same = damaged.iter().flat_map(|all| all.iter().filter(|d| d.name == one.name));
                DamagedMeans {
                    name: one.name.clone(),
                    perturbation: one.perturbation,
                    test: summaries(same.map(|d| entries(Some(&d.test)))),
                    against_reference: None,
                }
            };
            first.iter().map(means).collect()
        });
        CellResult {
            cell: cell.name.clone(),
            settings: cell.settings.clone(),
            valid: summaries(records().map(|r| entries(r.valid.as_ref()))),
            test: summaries(records().map(RunRecord::scores)),
            pooled: (!pooled.is_empty()).then(|| summaries(pooled.into_iter())),
            against_reference: None,
            probes: (!probes.is_empty()).then(|| Carried::mean(&probes)),
            robustness,
            runs,
        }
    }

    /// How a score compares with the reference's.
    pub fn against(&self, score: &str) -> Option<&Comparison> {
        self.against_reference.as_ref()?.get(score)
    }

    /// The value of a score at a seed and fold.
    pub(super) fn at(&self, score: &str, pair: (u64, Option<usize>)) -> Option<f64> {
        let run = self.runs.iter().find(|r| r.record.pair() == pair)?;
        run.record.scores().get(score).copied()
    }

    /// The same with a damage of that name.
    fn damaged_at(&self, damage: &str, score: &str, pair: (u64, Option<usize>)) -> Option<f64> {
        let run = self.runs.iter().find(|r| r.record.pair() == pair)?;
        let mut all = run.record.robustness.iter().flatten();
        let found = all.find(|damaged| damaged.name == damage)?;
        entries(Some(&found.test)).get(score).copied()
    }
}

fn summaries(runs: impl Iterator<Item = ByScore<f64>>) -> ByScore<Summary> {
    let mut all: ByScore<Vec<f64>> = IndexMap::new();
    for (name, value) in runs.flatten() {
        all.entry(name).or_default().push(value);
    }
    all.into_iter().filter_map(|(name, values)| Some((name, Summary::of(&values)?))).collect()
}

/// Rows that the runs test on for each row that they train on; 0 where rows are not folded: seeds on one
/// and the same split say nothing of other rows, and their test is of seeds alone.
fn overlap(cells: &[CellResult]) -> f64 {
    let rows = cells.iter().flat_map(|c| &c.runs).filter_map(|run| run.record.rows);
    let (tested, trained) =
        rows.fold((0, 0), |sum, [train, _, test]| (sum.0 + test, sum.1 + train));
    tested as f64 / trained.max(1) as f64
}

/// Holds every cell against the reference, score by score, on test rows as they are and with each damage.
fn compare(cells: &mut [CellResult], reference: &str, overlap: f64) {
    let Some(fixed) = cells.iter().find(|c| c.cell == reference).cloned() else { return };
    for score in fixed.test.keys() {
        let found = held(cells, &fixed, overlap, |cell, pair| cell.at(score, pair));
        for (cell, found) in cells.iter_mut().zip(found) {
            let Some(found) = found else { continue };
            let all = cell.against_reference.get_or_insert_default();
            all.insert(score.clone(), found);
        }
    }
    for damage in fixed.robustness.iter().flatten() {
        for score in damage.test.keys() {
            let at = |cell: &CellResult, pair| cell.damaged_at(&damage.name, score, pair);
            let found = held(cells, &fixed, overlap, at);
            for (cell, found) in cells.iter_mut().zip(found) {
                let mut own = cell.robustness.iter_mut().flatten();
                let own = own.find(|own| own.name == damage.name);
                let Some((own, found)) = own.zip(found) else { continue };
                let all = own.against_reference.get_or_insert_default();
                all.insert(score.clone(), found);
            }
        }
    }
}

/// How each cell compares with a fixed one in some value of its runs, by seed and fold, corrected for the number
/// of cells; none for the fixed one itself.
fn held(
    cells: &[CellResult],
    fixed: &CellResult,
    overlap: f64,
    value: impl Fn(&CellResult, (u64, Option<usize>)) -> Option<f64>,
) -> Vec<Option<Comparison>> {
    let compared = |cell: &CellResult| {
        if cell.cell == fixed.cell {
            return None;
        }
        let runs = cell.runs.iter().map(|r| r.record.pair());
        let pairs = runs.filter_map(|p| Some((value(cell, p)?, value(fixed, p)?)));
        Comparison::of(&pairs.collect::<Vec<_>>(), overlap)
    };
    let found: Vec<Option<Comparison>> = cells.iter().map(compared).collect();
    let tests = found.iter().flatten().filter(|c| c.n > 1).count();
    let adjusted = holm(&found.iter().map(|c| c.and_then(|c| c.p)).collect::<Vec<_>>(), tests);
    let corrected = |(found, p_adjusted): (Option<Comparison>, Option<f64>)| {
        found.map(|found| Comparison { p_adjusted, ..found })
    };
    found.into_iter().zip(adjusted).map(corrected).collect()
}

/// By validation alone; test rows only say whether the choice may be called better.
/// The score that a plan goes by, or, where the data's task has no such score, the one that heads its own.
fn metric(wanted: &str, cells: &[CellResult]) -> String {
    let has = |c: &CellResult| c.valid.contains_key(wanted) || c.test.contains_key(wanted);
    let records = cells.iter().flat_map(|c| &c.runs).map(|run| &run.record);
    let own = records.filter_map(|r| r.valid.as_ref().or(r.test.as_ref())).next();
    match own.and_then(|own| own.heads().first().copied()) {
        Some((head, _)) if !cells.iter().any(has) => head.into(),
        _ => wanted.into(),
    }
}

fn best(cells: &[CellResult], reference: &str, metric: &str, alpha: f64) -> Option<Best> {
    let sign = if smaller_is_better(metric) { 1.0 } else { -1.0 };
    let value = |c: &CellResult| c.valid.get(metric).map(|s| sign * s.mean);
    // A cell of fewer runs than the others, unfinished or with one that diverged, is not chosen for
    // the luck of those it has.
    let most = cells.iter().map(|c| c.runs.len()).max().unwrap_or(0);
    let chosen = cells
        .iter()
        .filter(|c| c.runs.len() == most)
        .filter_map(|c| Some((c, value(c)?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(c, _)| c)?;
    let found = chosen.against(metric);
    Some(Best {
        cell: chosen.cell.clone(),
        by: format!("valid {metric}"),
        significant: chosen.cell != reference
            && found.is_some_and(|c| c.significant(alpha) && sign * c.difference < 0.0),
    })
}

/// Damages in the order in which tables list them: by modality, dropped first; those to any in the end.
pub fn damage_order(p: &Perturbation) -> (bool, Option<Modality>, u64) {
    let rank = match p.damage {
        Damage::Dropped => 0,
        Damage::Noise(level) | Damage::Missing(level) => 1 + (level * 1000.0) as u64,
        Damage::Truncated => u64::MAX - 1,
        Damage::Alone => u64::MAX,
    };
    (p.modality.is_none(), p.modality, rank)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::Group;
    use crate::train::metrics::{Metrics, evaluate};

    /// Results of made-up predictions: by cell, the shift of every prediction at each seed.
    pub(in super::super) fn made_up(cells: &[(&str, &[f32])]) -> Results {
        made_up_folds(cells, None)
    }

    /// The same, where so many of them in turn are the folds of a seed.
    pub(in super::super) fn made_up_folds(
        cells: &[(&str, &[f32])],
        folds: Option<usize>,
    ) -> Results {
        let each = folds.unwrap_or(1);
        let truth: Vec<f32> = (0..40).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut plan: Plan = toml::from_str("data = 'cmu_mosi.safetensors'\nname = 'x'").unwrap();
        let seeds = cells.iter().map(|(_, shifts)| shifts.len().div_ceil(each)).max().unwrap_or(0);
        plan.seeds = super::super::plan::Seeds::Count(seeds as u64);
        let named: Vec<Cell> = cells.iter().map(|(name, _)| Cell::new(*name, &[])).collect();
        let runs = cells.iter().map(|(name, shifts)| {
            let run = |(i, shift): (usize, &f32)| {
                let noisy = |(k, t): (usize, &f32)| t + shift * (1.0 + (k % 3) as f32 / 3.0);
                let pred: Vec<f32> = truth.iter().enumerate().map(noisy).collect();
                let scores = Metrics::from(evaluate(&pred, &truth, Convention::Mosi).unwrap());
                let record = RunRecord {
                    cell: name.to_string(),
                    seed: 1111 + (i / each) as u64,
                    fold: folds.map(|folds| i % folds + 1),
                    rows: folds.map(|folds| [40 * (folds - 2), 40, 40]),
                    valid: Some(scores.clone()),
                    test: Some(scores),
                    best_epoch: 1,
                    epochs: 2,
                    seconds: 1.0,
                    adapter: "a".into(),
                    driver: "d".into(),
                    version: "0".into(),
                    data_sha256: String::new(),
                    encoder_sha256: None,
                    predictions_sha256: None,
                    retrieval: None,
                    probes: None,
                    robustness: None,
                };
                CellRun { run: format!("runs/{name}/{}", 1111 + i), record }
            };
            shifts.iter().enumerate().map(run).collect()
        });
        let of = |runs: Vec<CellRun>| {
            let pooled = folds.map(|_| runs.iter().map(|run| run.record.scores()).collect());
            CellRuns { runs, pooled: pooled.unwrap_or_default() }
        };
        let runs = runs.map(of).collect();
        let folding = folds.map(|folds| {
            let (groups, rows) = (7, 40 * folds);
            Folding { folds, group: Group::IdPrefix, groups, rows, overlap: 0.0 }
        });
        let about = About {
            data_sha256: String::new(),
            data_name: "cmu_mosi".into(),
            convention: Convention::Mosi,
            folding,
        };
        Results::gather(&plan, &named, runs, about)
    }

    #[test]
    fn a_cell_is_marked_only_when_it_is_better_beyond_luck() {
        let r = made_up(&[
            ("labels", &[0.5, 0.52, 0.48, 0.51]),
            ("good", &[0.30, 0.33, 0.29, 0.30]),
            ("same", &[0.49, 0.53, 0.47, 0.52]),
        ]);
        let best = r.best.clone().unwrap();
        assert_eq!((best.cell.as_str(), best.significant), ("good", true));
        assert!(r.cells[0].against_reference.is_none());
        let good = r.cells[1].against_reference.as_ref().unwrap()["MAE"];
        // The smaller of two p counts twice.
        assert!((good.p_adjusted.unwrap() - 2.0 * good.p.unwrap()).abs() < 1e-12);
        let same = r.cells[2].against_reference.as_ref().unwrap()["MAE"];
        assert!(same.p_adjusted.unwrap() > 0.3, "{same:?}");
        assert!(r.verdict().contains("significant") && r.verdict().contains("good"));

        // The best by luck is named, and not marked.
        let r = made_up(&[("labels", &[0.5, 0.52, 0.40]), ("luck", &[0.3, 0.33, 0.6])]);
        let best = r.best.clone().unwrap();
        assert!(best.cell == "luck" && !best.significant, "{best:?}");
        assert!(r.verdict().contains("not marked"), "{}", r.verdict());
    }

    #[test]
    fn pairs_are_by_seed_and_what_is_missing_is_left_out() {
        let r = made_up(&[("labels", &[0.5, 0.4, 0.3]), ("one", &[0.6]), ("none", &[])]);
        assert_eq!((r.expected_runs, r.finished_runs, r.cells.len()), (9, 4, 2));
        let one = r.cells[1].against_reference.as_ref().unwrap()["MAE"];
        assert_eq!((one.n, one.p), (1, None));
        assert!(one.difference > 0.0);
        let text = serde_json::to_string(&r).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), r);
    }

    #[test]
    fn damage_is_held_against_the_same_damage() {
        let mut r = made_up(&[("labels", &[0.5, 0.52, 0.48]), ("good", &[0.3, 0.33, 0.29])]);
        let (name, perturbation) = ("any missing 30 %".to_string(), Perturbation::missing(0.3));
        for cell in &mut r.cells {
            for run in &mut cell.runs {
                let test = run.record.test.clone().unwrap();
                run.record.robustness =
                    Some(vec![Damaged { name: name.clone(), perturbation, test }]);
            }
            let (name, test) = (name.clone(), cell.test.clone());
            let means = DamagedMeans { name, perturbation, test, against_reference: None };
            cell.robustness = Some(vec![means]);
        }
        compare(&mut r.cells, "labels", 0.0);
        let of = |cell: usize| r.cells[cell].robustness.as_ref().unwrap()[0].clone();
        assert!(of(0).against_reference.is_none());
        let found = of(1).against_reference.unwrap()["MAE"];
        assert_eq!(Some(&found), r.cells[1].against("MAE"));
        assert!(found.p_adjusted.unwrap() < 0.05, "{found:?}");
        let grid = crate::experiment::tables::robustness(&r).unwrap();
        let row = grid.rows.iter().find(|row| row[0] == name).unwrap();
        assert!(!row[1].contains("(p ") && row[2].contains("(p "), "{row:?}");
    }

    #[test]
    fn folds_are_paired_with_their_own_and_their_test_is_corrected() {
        let cells: [(&str, &[f32]); 2] = [
            ("labels", &[0.5, 0.9, 0.2, 0.7, 0.4, 0.6]),
            ("good", &[0.4, 0.83, 0.11, 0.62, 0.29, 0.52]),
        ];
        let r = made_up_folds(&cells, Some(3));
        assert_eq!((r.expected_runs, r.finished_runs, r.seeds.len()), (12, 12, 2));
        let folding = r.folding.clone().unwrap();
        assert_eq!((folding.folds, folding.overlap), (3, 1.0));
        assert!(r.published.is_empty(), "published figures are of the standard split");
        let good = r.cells[1].against("MAE").unwrap();
        let plain = made_up(&cells);
        let free = plain.cells[1].against("MAE").unwrap();
        assert_eq!((good.n, good.difference), (6, free.difference));
        let wider = (1.0f64 / 6.0 + 1.0).sqrt() / (1.0f64 / 6.0).sqrt();
        assert!((free.t.unwrap() / good.t.unwrap() - wider).abs() < 1e-9, "{good:?} {free:?}");
        assert!(r.verdict().contains("6 pairs of folds"), "{}", r.verdict());
        assert_eq!(r.cells[0].pooled.as_ref().unwrap()["MAE"].n, 6);
        // A fold that one of them lacks is no pair.
        let fewer = made_up_folds(&[cells[0], ("good", &cells[1].1[..4])], Some(3));
        assert_eq!(fewer.cells[1].against("MAE").unwrap().n, 4);
        let text = serde_json::to_string(&r).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), r);
        assert!(!serde_json::to_string(&plain).unwrap().contains("fold"));
    }
}
