//! What each part of the method does by itself: the mean over every two cells that differ in that
//! part alone, paired by seed and fold. More runs stand behind it than behind any single cell.

use super::plan::Cell;
use super::record::ByScore;
use super::results::CellResult;
use super::stats::{Comparison, holm};
use indexmap::IndexSet;
use serde::{Deserialize, Serialize};

/// What switching one part on changes, everything else equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The part: labels, a pair, correlation.
    pub part: String,
    /// Couples of cells that differ in it alone.
    pub couples: usize,
    /// On minus off on test rows, by score; p adjusted for the number of parts.
    pub test: ByScore<Comparison>,
}

/// The effect of every part that some couple of cells differs in alone; empty where cells are not
/// made of parts.
pub(super) fn effects(cells: &[Cell], results: &[CellResult], overlap: f64) -> Vec<Effect> {
    let parts: IndexSet<&str> = cells.iter().flat_map(|c| &c.parts).map(String::as_str).collect();
    let result = |cell: &Cell| results.iter().find(|r| r.cell == cell.name);
    let mut all: Vec<Effect> = parts
        .into_iter()
        .map(|part| {
            let couples: Vec<(&CellResult, &CellResult)> = cells
                .iter()
                .filter(|on| on.parts.iter().any(|p| p == part))
                .filter_map(|on| {
                    let off = cells.iter().find(|off| differ_in(on, off, part))?;
                    Some((result(on)?, result(off)?))
                })
                .collect();
            let test = couples.first().map(|(on, _)| {
                let scores = on
                    .test
                    .keys()
                    .filter_map(|score| Some((score.clone(), compared(&couples, score, overlap)?)));
                scores.collect()
            });
            Effect {
                part: part.to_string(),
                couples: couples.len(),
                test: test.unwrap_or_default(),
            }
        })
        .filter(|effect| effect.couples > 0)
        .collect();
    let scores: IndexSet<String> = all.iter().flat_map(|e| e.test.keys().cloned()).collect();
    for score in scores {
        let p: Vec<_> = all.iter().map(|e| e.test.get(&score).and_then(|c| c.p)).collect();
        let tests = all.len();
        for (effect, p_adjusted) in all.iter_mut().zip(holm(&p, tests)) {
            if let Some(found) = effect.test.get_mut(&score) {
                found.p_adjusted = p_adjusted;
            }
        }
    }
    all
}

/// Whether `on` is `off` and `part`.
fn differ_in(on: &Cell, off: &Cell, part: &str) -> bool {
    let rest = on.parts.iter().filter(|p| *p != part);
    on.group == off.group && rest.eq(off.parts.iter())
}

/// Per run that all couples have: the mean over couples, with and without the part.
fn compared(
    couples: &[(&CellResult, &CellResult)],
    score: &str,
    overlap: f64,
) -> Option<Comparison> {
    let runs = couples.first()?.0.runs.iter().map(|r| r.record.pair());
    let pairs = runs.filter_map(|pair| {
        let mut sums = (0.0, 0.0);
        for (on, off) in couples {
            sums = (sums.0 + on.at(score, pair)?, sums.1 + off.at(score, pair)?);
        }
        let n = couples.len() as f64;
        Some((sums.0 / n, sums.1 / n))
    });
    Comparison::of(&pairs.collect::<Vec<_>>(), overlap)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::made_up;
    use super::*;

    fn cell(name: &str, parts: &[&str]) -> Cell {
        let parts = parts.iter().map(ToString::to_string).collect();
        Cell { parts, ..Cell::new(name, &[]) }
    }

    #[test]
    fn a_part_is_held_against_cells_without_it_alone() {
        // Labels cost 0.1, the pair gains 0.05, with some luck in each run.
        let r = made_up(&[
            ("fused", &[0.30, 0.31, 0.32]),
            ("ta", &[0.25, 0.27, 0.26]),
            ("labels", &[0.40, 0.40, 0.43]),
            ("labels+ta", &[0.35, 0.36, 0.38]),
        ]);
        let cells = [
            cell("fused", &[]),
            cell("ta", &["ta"]),
            cell("labels", &["labels"]),
            cell("labels+ta", &["labels", "ta"]),
        ];
        let found = effects(&cells, &r.cells, 0.0);
        let named: Vec<_> = found.iter().map(|e| (e.part.as_str(), e.couples)).collect();
        assert_eq!(named, [("ta", 2), ("labels", 2)]);
        let mae = |i: usize| found[i].test["MAE"];
        assert!(mae(0).difference < 0.0 && mae(1).difference > 0.0);
        // As worked out from the cells' own means.
        let mean = |name: &str| r.cells.iter().find(|c| c.cell == name).unwrap().test["MAE"].mean;
        let labels = (mean("labels") + mean("labels+ta") - mean("fused") - mean("ta")) / 2.0;
        assert!((mae(1).difference - labels).abs() < 1e-12);
        assert!(
            mae(1).p_adjusted.unwrap() < 0.05 && mae(1).p.unwrap() <= mae(1).p_adjusted.unwrap()
        );
        // A seed that one cell lacks is left out; cells of other groups are no couple.
        let mut other = cells.clone();
        other[1].group = "dim=3".into();
        assert_eq!(effects(&other, &r.cells, 0.0)[0].couples, 1);
        let fewer = made_up(&[("fused", &[0.3, 0.31]), ("ta", &[0.25])]);
        assert_eq!(effects(&cells[..2], &fewer.cells, 0.0)[0].test["MAE"].n, 1);
        assert!(effects(&[cell("a", &[]), cell("b", &[])], &r.cells, 0.0).is_empty());
    }
}
