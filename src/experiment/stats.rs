//! Means, spreads, and whether a difference between two cells is more than luck.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Mean and spread of some runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Population standard deviation, as MMSA's tables have it.
    pub std: f64,
    /// How many.
    pub n: usize,
}

impl Summary {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let n = values.len();
        let mean = mean(values)?;
        let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        Some(Summary { mean, std: (square / n as f64).sqrt(), n })
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A cell beside the reference, by the runs that both have: Student's t on the differences of
/// pairs, of cross-validation as Nadeau and Bengio correct it. What cannot be said, with one pair or with pairs that all differ alike, is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Mean of cell minus reference.
    pub difference: f64,
    /// 95 % confidence interval of that mean.
    pub ci95: Option<[f64; 2]>,
    /// Student's t with n − 1 degrees of freedom.
    pub t: Option<f64>,
    /// Two-sided, of this comparison alone.
    pub p: Option<f64>,
    /// After Holm's correction for all cells that are held against the reference.
    pub p_adjusted: Option<f64>,
    /// Hedges' g of the pairs: mean over standard deviation of the differences, times
    /// 1 − 3 / (4 (n − 1) − 1) against the upward bias of few pairs.
    pub effect: Option<f64>,
    /// Pairs.
    pub n: usize,
}

impl Comparison {
    /// Of pairs (cell, reference), at least one; not corrected for the number of cells yet.
    ///
    /// `overlap` is 0 for pairs of seeds. The runs of cross-validation train on much the same rows, so that
    /// their differences lie closer together than those of independent runs would: the variance of the
    /// mean is then that of the differences times 1/n + `overlap`, rows tested on for each row trained on
    /// (Nadeau and Bengio 2003, the corrected resampled t-test).
    pub fn of(pairs: &[(f64, f64)], overlap: f64) -> Option<Comparison> {
        let differences: Vec<f64> =
            pairs.iter().map(|(cell, reference)| cell - reference).collect();
        let (difference, n) = (mean(&differences)?, differences.len());
        let mut found = Comparison {
            difference,
            ci95: None,
            t: None,
            p: None,
            p_adjusted: None,
            effect: None,
            n,
        };
        if n < 2 {
            return Some(found);
        }
        let freedom = (n - 1) as f64;
        let square = differences.iter().map(|d| (d - difference).powi(2)).sum::<f64>();
        let deviation = (square / freedom).sqrt();
        // Rounding of the mean leaves this much of equal differences.
        let noise = 1e-12 * differences.iter().fold(0.0f64, |most, d| most.max(d.abs()));
        if deviation <= noise {
            if difference == 0.0 {
                (found.t, found.p, found.effect) = (Some(0.0), Some(1.0), Some(0.0));
                found.ci95 = Some([0.0, 0.0]);
            }
            return Some(found);
        }
        let error = deviation * (1.0 / n as f64 + overlap).sqrt();
        let t = difference / error;
        let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
        let reach = student.inverse_cdf(0.975) * error;
        found.ci95 = Some([difference - reach, difference + reach]);
        found.t = Some(t);
        found.p = Some((2.0 * student.sf(t.abs())).min(1.0));
        let unbiased = if n > 2 { 1.0 - 3.0 / (4.0 * freedom - 1.0) } else { f64::NAN };
        found.effect = Some(difference / deviation * unbiased).filter(|g| g.is_finite());
        Some(found)
    }

    /// Whether it holds at this level after correction.
    pub fn significant(&self, alpha: f64) -> bool {
        self.p_adjusted.is_some_and(|p| p < alpha)
    }
}

/// Holm's step-down correction: sorted upwards, the i-th of m is multiplied by m − i + 1, and none
/// comes out smaller than the one before it. m is `tests`, or how many `p` there are if that is more:
/// a comparison that gave no p was made all the same.
pub fn holm(p: &[Option<f64>], tests: usize) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> =
        p.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))).collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut adjusted = vec![None; p.len()];
    let (tests, mut least) = (order.len().max(tests), 0.0f64);
    for (rank, (i, p)) in order.into_iter().enumerate() {
        least = least.max(p * (tests - rank) as f64).min(1.0);
        adjusted[i] = Some(least);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn means_and_population_deviations() {
        let s = Summary::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
        assert_relative_eq!(s.mean, 3.0);
        assert_relative_eq!(s.std, 3.5f64.sqrt(), epsilon = 1e-12);
        assert_eq!((s.n, Summary::of(&[])), (4, None));
    }

    #[test]
    fn a_paired_test_by_hand() {
        // Differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / sqrt 3) = 3.4641. With two degrees
        // of freedom P(|T| > t) = 1 - t / sqrt(t^2 + 2).
        let c = Comparison::of(&[(2.0, 1.0), (4.0, 2.0), (6.0, 3.0)], 0.0).unwrap();
        let t = 12f64.sqrt();
        assert_relative_eq!(c.t.unwrap(), t, epsilon = 1e-12);
        assert_relative_eq!(c.p.unwrap(), 1.0 - t / (t * t + 2.0).sqrt(), epsilon = 1e-9);
        // The 97.5 % point of two degrees of freedom is 4.302653.
        let [low, high] = c.ci95.unwrap();
        let reach = 4.302_652_729_9 / 3f64.sqrt();
        assert_relative_eq!(low, 2.0 - reach, epsilon = 1e-7);
        assert_relative_eq!(high, 2.0 + reach, epsilon = 1e-7);
        assert_relative_eq!(c.effect.unwrap(), 2.0 * (1.0 - 3.0 / 7.0), epsilon = 1e-12);
        assert!(!c.significant(0.05), "nothing is significant before it is corrected");
    }

    #[test]
    fn overlapping_training_rows_widen_the_test() {
        // Five differences 1 to 5: mean 3, variance 2.5. Of five folds that train on three parts and
        // test on one: t = 3 / sqrt(2.5 (1/5 + 1/3)) = 2.598, where it is 4.243 without.
        let pairs: Vec<(f64, f64)> = (1..=5).map(|d| (f64::from(d), 0.0)).collect();
        let c = Comparison::of(&pairs, 1.0 / 3.0).unwrap();
        let t = 3.0 / (2.5f64 * (0.2 + 1.0 / 3.0)).sqrt();
        assert_relative_eq!(c.t.unwrap(), t, epsilon = 1e-12);
        // With four degrees of freedom P(|T| > t) = 1 - x (3 - x^2) / 2 for x = t / sqrt(t^2 + 4).
        let x = t / (t * t + 4.0).sqrt();
        assert_relative_eq!(c.p.unwrap(), 1.0 - x * (3.0 - x * x) / 2.0, epsilon = 1e-9);
        let [low, high] = c.ci95.unwrap();
        assert_relative_eq!((high - low) / 2.0 / (3.0 / t), 2.776_445_105, epsilon = 1e-6);
        let free = Comparison::of(&pairs, 0.0).unwrap();
        assert_relative_eq!(free.t.unwrap(), 3.0 / (2.5f64 / 5.0).sqrt(), epsilon = 1e-12);
        assert!(free.p < c.p && free.effect == c.effect && free.difference == c.difference);
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        let one = Comparison::of(&[(2.0, 1.0)], 0.0).unwrap();
        assert_eq!((one.difference, one.n), (1.0, 1));
        assert!(one.p.is_none() && one.ci95.is_none() && one.effect.is_none());
        let alike = Comparison::of(&[(0.3, 0.2), (0.4, 0.3)], 0.0).unwrap();
        assert!(alike.p.is_none() && alike.t.is_none());
        let same = Comparison::of(&[(0.3, 0.3), (0.4, 0.4)], 0.0).unwrap();
        assert_eq!((same.p, same.effect), (Some(1.0), Some(0.0)));
        assert!(Comparison::of(&[], 0.0).is_none());
        // Two pairs have an interval and no unbiased effect.
        let two = Comparison::of(&[(0.3, 0.2), (0.5, 0.3)], 0.0).unwrap();
        assert!(two.p.is_some() && two.effect.is_none());
    }

    #[test]
    fn holm_by_hand() {
        let found = holm(&[Some(0.04), None, Some(0.01), Some(0.03)], 0);
        let wanted = [Some(0.06), None, Some(0.03), Some(0.06)];
        for (found, wanted) in found.iter().zip(wanted) {
            assert_eq!(found.is_some(), wanted.is_some());
            assert_relative_eq!(found.unwrap_or(0.0), wanted.unwrap_or(0.0), epsilon = 1e-12);
        }
        assert_eq!(holm(&[Some(0.9), Some(0.8)], 2), [Some(1.0), Some(1.0)]);
        assert_eq!(holm(&[Some(0.01), None], 2), [Some(0.02), None]);
        assert!(holm(&[], 0).is_empty());
    }
}
