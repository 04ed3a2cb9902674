//! Scores of predicted classes, and of several labels a row, as scikit-learn computes them.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Scores of one set of predicted classes; shares are in 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Share of rows whose class is right.
    pub accuracy: f64,
    /// Mean over the classes that there are of the share of their rows that was found.
    pub balanced_accuracy: f64,
    /// Mean F1 of the classes that either side has.
    pub f1_macro: f64,
    /// F1 of the classes, each counted by its share of the rows.
    pub f1_weighted: f64,
}

/// How one class fared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OfClass {
    /// Share of the rows said to be of it that are; 0 where none are said to be.
    pub precision: f64,
    /// Share of its rows that were found; 0 where it has none.
    pub recall: f64,
    /// 2 P R / (P + R); 0 where both are.
    pub f1: f64,
    /// Rows that are of it.
    pub support: usize,
}

/// Rows by class and by what was said of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// Classes.
    pub classes: usize,
    /// `[truth][said]`, row-major.
    pub counts: Vec<usize>,
}

impl Confusion {
    /// Counts pairs of a prediction and a truth.
    ///
    /// # Errors
    /// [`Error::Shape`] for none, for another number of predictions than truths, or for a class beyond
    /// `classes`.
    pub fn of(said: &[usize], truth: &[usize], classes: usize) -> Result<Self> {
        if said.len() != truth.len() || said.is_empty() {
            let detail = format!("{} predictions for {} targets", said.len(), truth.len());
            return Err(Error::shape("metrics", detail));
        }
        if let Some(beyond) = said.iter().chain(truth).find(|class| **class >= classes) {
            let detail = format!("class {beyond} of {classes}, which are 0 to {}", classes - 1);
            return Err(Error::shape("metrics", detail));
        }
        let mut counts = vec![0; classes * classes];
        said.iter().zip(truth).for_each(|(s, t)| counts[t * classes + s] += 1);
        Ok(Confusion { classes, counts })
    }

    /// Rows of class `truth` that were said to be of class `said`.
    pub fn get(&self, truth: usize, said: usize) -> usize {
        self.counts[truth * self.classes + said]
    }

    /// How a class fared.
    pub fn class(&self, class: usize) -> OfClass {
        let all = 0..self.classes;
        let hit = self.get(class, class) as f64;
        let support: usize = all.clone().map(|said| self.get(class, said)).sum();
        let claimed: usize = all.map(|truth| self.get(truth, class)).sum();
        let share = |of: usize| if of > 0 { hit / of as f64 } else { 0.0 };
        let f1 = if hit > 0.0 { 2.0 * hit / (support + claimed) as f64 } else { 0.0 };
        OfClass { precision: share(claimed), recall: share(support), f1, support }
    }

    /// Whether either side has a class.
    fn is_there(&self, class: usize) -> bool {
        let all = 0..self.classes;
        let mut either = all.map(|other| self.get(class, other) + self.get(other, class));
        either.any(|rows| rows > 0)
    }

    /// The scores.
    pub fn metrics(&self) -> ClassMetrics {
        let rows = self.counts.iter().sum::<usize>() as f64;
        let hits: usize = (0..self.classes).map(|class| self.get(class, class)).sum();
        let each: Vec<OfClass> = (0..self.classes).map(|class| self.class(class)).collect();
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let of_true = each.iter().filter(|class| class.support > 0).map(|class| class.recall);
        let there = (0..self.classes).filter(|class| self.is_there(*class));
        ClassMetrics {
            accuracy: hits as f64 / rows,
            balanced_accuracy: mean(of_true.collect()),
            f1_macro: mean(there.map(|class| each[class].f1).collect()),
            f1_weighted: each.iter().map(|class| class.f1 * class.support as f64).sum::<f64>()
                / rows,
        }
    }
}

/// Scores of one of several labels that a row may have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LabelMetrics {
    /// F1 of having it; 0 where nobody has it and nobody is said to.
    pub f1: f64,
    /// Mean of the shares found of those that have it and of those that have not, as MOSEI's emotions
    /// are scored.
    pub weighted_accuracy: f64,
    /// Share of rows that are right.
    pub accuracy: f64,
}

/// Scores a label: whether each row was said to have it, and whether it has.
///
/// # Errors
/// As [`Confusion::of`].
pub fn label(said: &[bool], truth: &[bool]) -> Result<LabelMetrics> {
    let class = |list: &[bool]| list.iter().map(|there| usize::from(*there)).collect::<Vec<_>>();
    let confusion = Confusion::of(&class(said), &class(truth), 2)?;
    let all = confusion.metrics();
    Ok(LabelMetrics {
        f1: confusion.class(1).f1,
        weighted_accuracy: all.balanced_accuracy,
        accuracy: all.accuracy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Class 0: two of three found; class 1: its only row found, and one more claimed; class 2 unseen.
        let found = Confusion::of(&[0, 0, 1, 1], &[0, 0, 0, 1], 3).unwrap();
        assert_eq!((found.get(0, 1), found.get(1, 1), found.get(2, 2)), (1, 1, 0));
        let class = found.class(0);
        assert_eq!((class.precision, class.recall, class.support), (1.0, 2.0 / 3.0, 3));
        let m = found.metrics();
        assert_eq!((m.accuracy, m.balanced_accuracy), (0.75, (2.0 / 3.0 + 1.0) / 2.0));
        assert_eq!(m.f1_macro, (0.8 + 2.0 / 3.0) / 2.0);
        assert_eq!(m.f1_weighted, (3.0 * 0.8 + 2.0 / 3.0) / 4.0);
        let l = label(&[true, false, true], &[true, true, false]).unwrap();
        assert_eq!((l.f1, l.weighted_accuracy), (0.5, 0.25));
    }

    #[test]
    fn bad_input_is_an_error() {
        let said = |s: &[usize], t: &[usize]| Confusion::of(s, t, 2).unwrap_err().to_string();
        assert!(said(&[], &[]).contains("0 predictions"));
        assert!(said(&[0], &[0, 1]).contains("1 predictions for 2"));
        assert!(said(&[2], &[0]).contains("class 2 of 2"));
    }
}
