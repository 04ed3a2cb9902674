//! Scores that can be compared over data sets, tests between groups of them, and battles.

use crate::experiment::stats::Comparison;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// Raw scores of models on one data set, from the worst model's to the best possible: HEMM's own form.
pub fn normalised(raw: &[f64], best: f64) -> Vec<f64> {
    let worst = raw.iter().copied().fold(f64::INFINITY, f64::min);
    let reach = best - worst;
    raw.iter().map(|x| if reach > 0.0 { (x - worst) / reach } else { 0.0 }).collect()
}

/// Pairs below this have a sign and no test.
const FEWEST_PAIRS: usize = 6;

/// Two groups of scores of the same things, and whether their difference is luck.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// What is compared.
    pub a: String,
    /// With what.
    pub b: String,
    /// Mean of a minus mean of b.
    pub difference: f64,
    /// Pairs.
    pub n: usize,
    /// Paired t; none below six pairs.
    pub t: Option<f64>,
    /// Two-sided, of this test alone.
    pub p: Option<f64>,
    /// After Holm's correction for all tests of the table.
    pub p_adjusted: Option<f64>,
}

/// A paired t-test of two columns; nothing where they are empty.
pub fn between(a: (&str, &[f64]), b: (&str, &[f64])) -> Option<Test> {
    let pairs: Vec<(f64, f64)> = a.1.iter().copied().zip(b.1.iter().copied()).collect();
    let found = Comparison::of(&pairs, 0.0)?;
    let enough = pairs.len() >= FEWEST_PAIRS;
    Some(Test {
        a: a.0.into(),
        b: b.0.into(),
        difference: found.difference,
        n: found.n,
        t: found.t.filter(|_| enough),
        p: found.p.filter(|_| enough),
        p_adjusted: None,
    })
}

/// Two models on the same rows and seed: 1 where the first is better, 0 where the second is, ½ where neither is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Battle {
    /// The first model.
    pub a: usize,
    /// The second.
    pub b: usize,
    /// What the first got.
    pub score: f64,
}

/// Elo ratings of `models` models after battles in their order: K 4, scale 400, from 1,000 on.
fn rated(models: usize, battles: &[Battle], order: &[usize]) -> Vec<f64> {
    const K: f64 = 4.0;
    let mut ratings = vec![1000.0; models];
    for battle in order.iter().map(|i| battles[*i]) {
        let expected = 1.0 / (1.0 + 10_f64.powf((ratings[battle.b] - ratings[battle.a]) / 400.0));
        let moved = K * (battle.score - expected);
        ratings[battle.a] += moved;
        ratings[battle.b] -= moved;
    }
    ratings
}

/// Median ratings over a thousand random orders of the battles: a rating depends on their order, and they have none.
pub fn elo(models: usize, battles: &[Battle], seed: u64) -> Vec<f64> {
    const ORDERS: u64 = 1000;
    let mut all = vec![Vec::new(); models];
    for turn in 0..ORDERS {
        let mut rng = Rng::keyed(&[seed, 5, turn]);
        let mut order: Vec<usize> = (0..battles.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i as u64 + 1) as usize);
        }
        rated(models, battles, &order).into_iter().zip(&mut all).for_each(|(r, all)| all.push(r));
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        let half = all.len() / 2;
        (all[half] + all[all.len() - 1 - half]) / 2.0
    };
    all.into_iter().map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    const RAW: [[f64; 4]; 3] =
        [[-3.0, -5.0, -4.0, -6.0], [-2.0, -5.5, -3.0, -4.0], [-4.0, -4.0, -4.5, -5.0]];
    const BEST: [f64; 4] = [-1.0, -2.0, -0.5, -2.0];

    /// The published scores, means and test.
    #[test]
    fn known_scores() {
        let columns: Vec<Vec<f64>> =
            (0..4).map(|set| normalised(&RAW.map(|row| row[set]), BEST[set])).collect();
        let wanted = [
            [1.0 / 3.0, 2.0 / 3.0, 0.0],
            [0.1428571, 0.0, 0.4285714],
            [0.125, 0.375, 0.0],
            [0.0, 0.5, 0.25],
        ];
        for (found, wanted) in columns.iter().zip(&wanted) {
            found.iter().zip(wanted).for_each(|(f, w)| assert_relative_eq!(f, w, epsilon = 1e-7));
        }
        let mean = |model: usize, sets: &[usize]| {
            sets.iter().map(|set| columns[*set][model]).sum::<f64>() / sets.len() as f64
        };
        for (model, wanted) in [0.1502976, 0.3854167, 0.1696429].into_iter().enumerate() {
            assert_relative_eq!(mean(model, &[0, 1, 2, 3]), wanted, epsilon = 1e-7);
        }
        let group = |sets: &[usize]| (0..3).map(|model| mean(model, sets)).collect::<Vec<_>>();
        let (first, second) = (group(&[0, 2]), group(&[1, 3]));
        let pairs: Vec<(f64, f64)> = first.iter().copied().zip(second.iter().copied()).collect();
        let test = Comparison::of(&pairs, 0.0).unwrap();
        assert_relative_eq!(test.t.unwrap(), 0.1588235569, epsilon = 1e-8);
        assert_relative_eq!(test.p.unwrap(), 0.8883963785, epsilon = 1e-8);
        // Three pairs are too few to say more than the sign.
        let said = between(("a", &first), ("b", &second)).unwrap();
        assert!(said.p.is_none() && said.difference > 0.0 && said.n == 3, "{said:?}");
    }

    #[test]
    fn known_ratings() {
        let battle = |a, b, score| Battle { a, b, score };
        let all = [battle(0, 1, 1.0), battle(1, 2, 0.5), battle(2, 0, 1.0), battle(0, 1, 1.0)];
        let found = rated(3, &all, &[0, 1, 2, 3]);
        for (found, wanted) in found.iter().zip([1001.9770411, 996.0228927, 1002.0000663]) {
            assert_relative_eq!(*found, wanted, epsilon = 1e-6);
        }
        let median = elo(3, &all, 1);
        assert_relative_eq!(median.iter().sum::<f64>(), 3000.0, epsilon = 0.1);
        assert!(median[1] < median[0] && median[1] < median[2]);
        assert_eq!(median, elo(3, &all, 1));
    }
}
