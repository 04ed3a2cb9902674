//! What can be said of synergy, and of the accuracy that fusion can reach, without labelled pairs: from
//! p(x1, y), p(x2, y) and p(x1, x2) alone (Liang and others, arXiv:2306.04539; the tighter forms are derived).

use super::joint::{Marginals, columns, entropy, ratio, rows};
use super::solver::Decomposition;
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;

/// Bounds, in bits and as shares of rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Synergy is at least the larger of the next two, or 0.
    pub synergy_lower: f64,
    /// Least synergy that the frequencies of pairs leave room for: R - I(X1;X2) + I_r(X1;X2|Y) of the table r
    /// of the largest entropy with all three pairs.
    pub lower_by_pairs: f64,
    /// Least synergy where single modalities disagree: E |p(y|x1) - p(y|x2)|^2 / (4 ln 2) - (U1 + U2) / 2.
    pub lower_by_disagreement: f64,
    /// Synergy is at most this.
    pub synergy_upper: f64,
    /// The best accuracy with both is at least this.
    pub accuracy_lower: f64,
    /// And at most this, by Fano's inequality.
    pub accuracy_upper: f64,
}

/// Bounds on the synergy that is missing in `parts`.
pub fn bounds(m: &Marginals, parts: &Decomposition) -> Bounds {
    bounds_under(m, parts, widest(m).1)
}

/// The same, where the largest entropy of a table with all three pairs is known.
pub(super) fn bounds_under(m: &Marginals, parts: &Decomposition, most: f64) -> Bounds {
    let [.., between, target] = m.informations();
    let known = parts.redundancy + parts.unique_a + parts.unique_b;
    // I_r(X1;X2|Y) of the table r with that entropy, or less.
    let given = entropy(&m.first) + entropy(&m.second) - entropy(&m.target()) - most;
    let lower_by_pairs = parts.redundancy - between + given;
    let unique = (parts.unique_a + parts.unique_b) / 2.0;
    let lower_by_disagreement = disagreement(m) / (4.0 * LN_2) - unique;
    // The solver's own doubt is on the side of what is claimed.
    let lower = lower_by_pairs.max(lower_by_disagreement) - parts.gap;
    let mut upper = (target - known).min(entropy(&m.pair) + target - coupling(m) - known);
    if m.shape == [2, 2, 2] {
        upper = upper.min(most_of_bits(m) - known);
    }
    let upper = (upper + parts.gap).max(0.0);
    let lower = lower.clamp(0.0, upper);
    let classes = m.target().iter().filter(|p| **p > 0.0).count();
    let left = target - known;
    Bounds {
        synergy_lower: lower,
        lower_by_pairs,
        lower_by_disagreement,
        synergy_upper: upper,
        accuracy_lower: (lower - left).exp2().min(1.0),
        accuracy_upper: most_accurate((left - upper).max(0.0), classes),
    }
}

/// E |p(y|x1) - p(y|x2)|^2 over pairs.
fn disagreement(m: &Marginals) -> f64 {
    let [_, n2, classes] = m.shape;
    let (of_first, of_second) = (rows(&m.first, classes), rows(&m.second, classes));
    let apart = |cell: usize| -> f64 {
        let (i, j) = (cell / n2, cell % n2);
        let each = (0..classes).map(|y| {
            let a = ratio(m.first[i * classes + y], of_first[i]);
            let b = ratio(m.second[j * classes + y], of_second[j]);
            (a - b) * (a - b)
        });
        each.sum()
    };
    m.pair.iter().enumerate().map(|(cell, p)| p * apart(cell)).sum()
}

/// The table of the largest entropy with all three pairs, in which they interact no further, and a bound from above
/// on that entropy: a table of ones is scaled to each pair in turn, and duality bounds it wherever that stops.
pub(super) fn widest(m: &Marginals) -> (Vec<f64>, f64) {
    const MOST: usize = 20_000;
    const LOOK: usize = 10;
    let [n1, n2, classes] = m.shape;
    let mut r = vec![1.0_f64; n1 * n2 * classes];
    // The logarithms of what the pairs were scaled by: r is the exponential of their sum.
    let mut factors = [&m.pair, &m.first, &m.second].map(|p| vec![0.0_f64; p.len()]);
    let of_pair = move |c: usize| c / classes;
    let of_first = move |c: usize| c / (n2 * classes) * classes + c % classes;
    let of_second = move |c: usize| c % (n2 * classes);
    let places: [&dyn Fn(usize) -> usize; 3] = [&of_pair, &of_first, &of_second];
    let wanted = [&m.pair, &m.first, &m.second];
    let mut most = f64::INFINITY;
    for round in 1..=MOST {
        for ((want, factor), at) in wanted.iter().zip(&mut factors).zip(places) {
            let mut has = vec![0.0; want.len()];
            r.iter().enumerate().for_each(|(c, r)| has[at(c)] += r);
            let scale: Vec<f64> = want.iter().zip(&has).map(|(w, h)| ratio(*w, *h)).collect();
            r.iter_mut().enumerate().for_each(|(c, r)| *r *= scale[at(c)]);
            let moved = factor.iter_mut().zip(&scale).filter(|(_, s)| **s > 0.0);
            moved.for_each(|(f, s)| *f += s.ln());
        }
        if round % LOOK == 0 {
            let of =
                |(p, f): (&&Vec<f64>, &Vec<f64>)| p.iter().zip(f).map(|(p, f)| p * f).sum::<f64>();
            let inner: f64 = wanted.iter().zip(&factors).map(of).sum();
            let bound = (r.iter().sum::<f64>().ln() - inner) / LN_2;
            let before = most;
            most = most.min(bound);
            if before - most < 1e-10 {
                break;
            }
        }
    }
    (r, most)
}

/// The most that a table of bits with these pairs can say of its target: the tables lie on a line, along which
/// entropy is concave, so that it is least at one of the ends.
fn most_of_bits(m: &Marginals) -> f64 {
    // A table with these pairs, found by its first cell.
    let table = |first: f64| -> [f64; 8] {
        let mut p = [0.0; 8];
        p[0] = first;
        p[1] = m.pair[0] - p[0];
        p[2] = m.first[0] - p[0];
        p[4] = m.second[0] - p[0];
        p[3] = m.pair[1] - p[2];
        p[5] = m.pair[2] - p[4];
        p[6] = m.first[2] - p[4];
        p[7] = m.pair[3] - p[6];
        p
    };
    let signs = [1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0];
    let middle = table(0.0);
    // How far the first cell may go until another is 0.
    let low =
        (0..8).filter(|c| signs[*c] > 0.0).map(|c| -middle[c]).fold(f64::NEG_INFINITY, f64::max);
    let high = (0..8).filter(|c| signs[*c] < 0.0).map(|c| middle[c]).fold(f64::INFINITY, f64::min);
    let says = |first: f64| {
        let p = table(first).map(|p| p.max(0.0));
        entropy(&m.pair) + entropy(&m.target()) - entropy(&p)
    };
    says(low).max(says(high))
}

/// What the least entropy of a table is at least that joins one pair with the third column, whichever pair says
/// the most: no distribution that has both as parts is more concentrated than the smaller of their sorted sums.
fn coupling(m: &Marginals) -> f64 {
    let [_, n2, classes] = m.shape;
    let (of_first, of_second) = (rows(&m.first, classes), columns(&m.pair, n2));
    let couples = [(&m.pair, &m.target()), (&m.first, &of_second), (&m.second, &of_first)];
    couples.into_iter().map(|(p, q)| entropy(&meet(p, q))).fold(0.0, f64::max)
}

/// The differences of the smaller of two sorted running sums.
fn meet(p: &[f64], q: &[f64]) -> Vec<f64> {
    let sorted = |p: &[f64]| {
        let mut p = p.to_vec();
        p.sort_by(|a, b| b.total_cmp(a));
        p
    };
    let (p, q) = (sorted(p), sorted(q));
    let (mut of_p, mut of_q, mut before) = (0.0, 0.0, 0.0);
    let each = (0..p.len().max(q.len())).map(|i| {
        of_p += p.get(i).unwrap_or(&0.0);
        of_q += q.get(i).unwrap_or(&0.0);
        let now: f64 = f64::min(of_p, of_q);
        let step = now - before;
        before = now;
        step.max(0.0)
    });
    each.collect()
}

/// The largest accuracy that leaves `left` bits open among so many classes: the largest P with
/// h(P) + (1 - P) log2(C - 1) >= left.
pub(super) fn most_accurate(left: f64, classes: usize) -> f64 {
    if classes < 2 || left <= 0.0 {
        return 1.0;
    }
    let open = |p: f64| entropy(&[p, 1.0 - p]) + (1.0 - p) * ((classes - 1) as f64).log2();
    // What is open falls from log2 C at 1 / C to 0 at 1.
    let (mut low, mut high) = (1.0 / classes as f64, 1.0);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        match open(middle) >= left {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::joint::Joint;
    use super::super::solver::{Stop, decompose, shared};
    use super::*;

    const TIGHT: Stop = Stop { gap: 1e-9, rounds: 20_000 };

    fn of(shape: [usize; 3], cells: &[f64]) -> (Bounds, f64) {
        let p = Joint::new(shape, cells).unwrap();
        let m = p.marginals();
        (bounds(&m, &shared(&m, TIGHT)), decompose(&p, TIGHT).synergy)
    }

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
    }

    /// The published numbers of a table.
    #[test]
    fn known_bounds() {
        let a = [0.23, 0.01, 0.07, 0.01, 0.02, 0.42, 0.22, 0.02];
        let p = Joint::new([2, 2, 2], &a).unwrap();
        let m = p.marginals();
        near(m.informations()[2], 0.00783864);
        near(disagreement(&m), 0.30317042);
        let (b, _) = of([2, 2, 2], &a);
        near(b.lower_by_pairs, 0.35698132);
        near(b.lower_by_disagreement, 0.0873522);
        near(b.synergy_upper, 0.55113657);
        let parts = shared(&m, TIGHT);
        let known = parts.redundancy + parts.unique_a + parts.unique_b;
        let [.., target] = m.informations();
        near((target - known).min(entropy(&m.pair) + target - coupling(&m) - known), 0.74486664);
        near(b.accuracy_lower, 0.764249);
        near(b.accuracy_upper, 0.970132);
        assert!(m.accuracies().iter().all(|x| *x < 0.94));
        // A synergy that no bound from below sees, and one that the pairs alone give away.
        let (xor, _) = of([2, 2, 2], &[1., 0., 0., 1., 0., 1., 1., 0.]);
        assert!(xor.synergy_lower < 1e-6 && (xor.synergy_upper - 1.0).abs() < 1e-6, "{xor:?}");
        let (and, _) = of([2, 2, 2], &[1., 0., 1., 0., 1., 0., 0., 1.]);
        assert!((and.lower_by_pairs - 0.5).abs() < 2e-3, "{and:?}");
    }

    #[test]
    fn fano_turned_round() {
        near(most_accurate(entropy(&[0.93, 0.07]) + 0.07 * 7_f64.log2(), 8), 0.93);
        near(most_accurate(0.0, 8), 1.0);
        near(most_accurate(3.0, 8), 0.125);
    }

    /// Of random tables no bound is on the wrong side.
    #[test]
    fn bounds_hold() {
        let mut rng = crate::rng::Rng::keyed(&[11]);
        for case in 0..200 {
            let shape = if case % 2 == 0 { [2, 2, 2] } else { [3, 2, 3] };
            let cells: Vec<f64> =
                (0..shape.iter().product()).map(|_| rng.uniform().powi(4)).collect();
            let (b, s) = of(shape, &cells);
            assert!(
                b.synergy_lower <= s + 1e-6 && s <= b.synergy_upper + 1e-6,
                "{case}: {b:?}, {s}"
            );
            assert!(b.lower_by_pairs <= s + 1e-6 && b.lower_by_disagreement <= s + 1e-6, "{case}");
            let p = Joint::new(shape, &cells).unwrap();
            let best: f64 = p
                .cells()
                .chunks_exact(shape[2])
                .map(|c| c.iter().copied().fold(0.0, f64::max))
                .sum();
            assert!(
                b.accuracy_lower <= best + 1e-6 && best <= b.accuracy_upper + 1e-6,
                "{case}: {b:?}, {best}"
            );
        }
    }
}
