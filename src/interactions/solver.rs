//! What two sources share, hold alone, and say only together: redundancy, unique information and synergy, in
//! bits (Bertschinger and others, 2014), by a solver that certifies its result.
//!
//! Of all tables q with p's own q(x1, y) and q(x2, y), the one that makes I(X1, X2; Y) least holds what can be known
//! without seeing both at once; the rest is synergy. Its -H(Y|X1, X2) is the divergence between two convex families,
//! so alternating projections find it: each round scales a table of weights towards the two margins once, and
//! weak duality says how far from the end it is.

use super::joint::{Joint, Marginals, columns, ratio, rows};
use std::f64::consts::LN_2;

/// Rounds between two looks at how far it is.
const LOOK: usize = 10;

/// The parts of I(X1, X2; Y), in bits: what both know, what one alone knows, and what only both together tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Decomposition {
    /// What both know.
    pub redundancy: f64,
    /// What the first alone knows.
    pub unique_a: f64,
    /// What the second alone knows.
    pub unique_b: f64,
    /// What neither knows alone; 0 where only [`shared`] was asked.
    pub synergy: f64,
    /// How far these can be off, in bits.
    pub gap: f64,
    /// Rounds that it took.
    pub rounds: usize,
    /// The table without synergy that has the same pairs with the target.
    pub without_synergy: Joint,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// A gap in bits that is small enough.
    pub gap: f64,
    /// Rounds at most.
    pub rounds: usize,
}

/// Data need no more: what samples of their size move these numbers by is far above.
impl Default for Stop {
    fn default() -> Self {
        Stop { gap: 1e-4, rounds: 20_000 }
    }
}

/// All four parts of a table.
pub fn decompose(p: &Joint, stop: Stop) -> Decomposition {
    let mut parts = shared(&p.marginals(), stop);
    let least = parts.without_synergy.information();
    // A difference of two sums of thousands of terms may end below zero by their rounding.
    parts.synergy = (p.information() - least).max(0.0);
    parts
}

/// What needs no labelled pairs: redundancy and both unique parts.
pub fn shared(m: &Marginals, stop: Stop) -> Decomposition {
    let [n1, n2, classes] = m.shape;
    let (a, b, target) = (&m.first, &m.second, m.target());
    let start = |i: usize, j: usize| -> f64 {
        (0..classes).map(|y| ratio(a[i * classes + y] * b[j * classes + y], target[y])).sum()
    };
    let mut w: Vec<f64> = (0..n1 * n2).map(|cell| start(cell / n2, cell % n2)).collect();
    let inside: Vec<bool> = w.iter().map(|w| *w > 0.0).collect();
    let mut u = vec![0.0; n1 * classes];
    let mut v: Vec<f64> = b.iter().map(|b| f64::from(u8::from(*b > 0.0))).collect();
    let mut z = vec![0.0; n1 * n2];
    let mut dual = f64::NEG_INFINITY;
    let mut best: Option<(f64, Vec<f64>)> = None;
    let mut gap = f64::INFINITY;
    let mut round = 0;
    while round < stop.rounds && gap >= stop.gap {
        round += 1;
        let mut sums = vec![0.0; n1 * classes];
        for cell in 0..n1 * n2 {
            let (i, j) = (cell / n2, cell % n2);
            for y in 0..classes {
                sums[i * classes + y] += w[cell] * v[j * classes + y];
            }
        }
        u.iter_mut().zip(a).zip(&sums).for_each(|((u, a), s)| *u = ratio(*a, *s));
        let mut sums = vec![0.0; n2 * classes];
        for cell in 0..n1 * n2 {
            let (i, j) = (cell / n2, cell % n2);
            for y in 0..classes {
                sums[j * classes + y] += w[cell] * u[i * classes + y];
            }
        }
        v.iter_mut().zip(b).zip(&sums).for_each(|((v, b), s)| *v = ratio(*b, *s));
        for cell in 0..n1 * n2 {
            let (of_u, of_v) =
                (&u[cell / n2 * classes..][..classes], &v[cell % n2 * classes..][..classes]);
            z[cell] = of_u.iter().zip(of_v).map(|(u, v)| u * v).sum();
        }
        if round % LOOK == 0 || round == stop.rounds {
            let log = |p: &[f64], x: &[f64]| -> f64 {
                p.iter().zip(x).filter(|(p, _)| **p > 0.0).map(|(p, x)| p * x.ln()).sum()
            };
            let most = z.iter().zip(&inside).filter(|(_, inside)| **inside);
            let most = most.fold(f64::NEG_INFINITY, |most, (z, _)| most.max(z.ln()));
            dual = dual.max(log(a, &u) + log(b, &v) - most);
            let q = fitted(m, &w, &u, &v);
            let primal = minus_conditional_entropy(&q, classes);
            if best.as_ref().is_none_or(|(least, _)| primal < *least) {
                best = Some((primal, q));
            }
            let least = best.as_ref().map_or(primal, |(least, _)| *least);
            gap = ((least - dual) / LN_2).max(0.0);
        }
        w.iter_mut()
            .zip(&z)
            .zip(&inside)
            .filter(|(_, inside)| **inside)
            .for_each(|((w, z), _)| *w *= z);
    }
    let q = best.map_or_else(|| fitted(m, &w, &u, &v), |(_, q)| q);
    let q = Joint::new(m.shape, &q).expect("the margins are a table's");
    let [of_a, of_b, ..] = m.informations();
    let both = q.information();
    Decomposition {
        redundancy: (of_a + of_b - both).max(0.0),
        unique_a: (both - of_b).max(0.0),
        unique_b: (both - of_a).max(0.0),
        synergy: 0.0,
        gap,
        rounds: round,
        without_synergy: q,
    }
}

/// The table w u v, moved to where its pairs with the target are exactly those that are asked: no more than a
/// margin wants, and what is lacking is spread by what rows and columns lack.
fn fitted(m: &Marginals, w: &[f64], u: &[f64], v: &[f64]) -> Vec<f64> {
    let [n1, n2, classes] = m.shape;
    let mut q = vec![0.0; n1 * n2 * classes];
    let mut plane = vec![0.0; n1 * n2];
    for y in 0..classes {
        let want_row = |i: usize| m.first[i * classes + y];
        let want_column = |j: usize| m.second[j * classes + y];
        for (cell, f) in plane.iter_mut().enumerate() {
            *f = w[cell] * u[cell / n2 * classes + y] * v[cell % n2 * classes + y];
        }
        let shrink = |want: f64, has: f64| if has > want { want / has } else { 1.0 };
        let has = rows(&plane, n2);
        plane.iter_mut().enumerate().for_each(|(c, f)| *f *= shrink(want_row(c / n2), has[c / n2]));
        let has = columns(&plane, n2);
        plane
            .iter_mut()
            .enumerate()
            .for_each(|(c, f)| *f *= shrink(want_column(c % n2), has[c % n2]));
        let lacks_row: Vec<f64> = rows(&plane, n2)
            .iter()
            .enumerate()
            .map(|(i, has)| (want_row(i) - has).max(0.0))
            .collect();
        let lacks_column: Vec<f64> = columns(&plane, n2)
            .iter()
            .enumerate()
            .map(|(j, has)| (want_column(j) - has).max(0.0))
            .collect();
        let all: f64 = lacks_row.iter().sum();
        for (cell, f) in plane.iter().enumerate() {
            q[cell * classes + y] = f + ratio(lacks_row[cell / n2] * lacks_column[cell % n2], all);
        }
    }
    q
}

/// -H(Y|X1, X2) in nats.
fn minus_conditional_entropy(q: &[f64], classes: usize) -> f64 {
    let sum = |p: &[f64]| p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
    sum(q) - sum(&rows(q, classes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A uniform table of inputs and what a rule makes of them.
    fn rule(n1: usize, n2: usize, classes: usize, y: impl Fn(usize, usize) -> usize) -> Joint {
        let rows = (0..n1).flat_map(|a| (0..n2).map(move |b| (a, b)));
        Joint::counted([n1, n2, classes], rows.map(|(a, b)| [a, b, y(a, b)])).unwrap()
    }

    fn table(shape: [usize; 3], cells: &[f64]) -> Joint {
        Joint::new(shape, cells).unwrap()
    }

    const TIGHT: Stop = Stop { gap: 1e-9, rounds: 20_000 };

    fn holds(name: &str, p: &Joint, wanted: [f64; 4]) -> Decomposition {
        let d = decompose(p, TIGHT);
        let found = [d.redundancy, d.unique_a, d.unique_b, d.synergy];
        assert!(d.gap < 1e-9, "{name}: gap {} after {} rounds", d.gap, d.rounds);
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() < 1e-6, "{name}: {found:?} instead of {wanted:?}");
        }
        let [of_a, of_b, ..] = p.marginals().informations();
        assert!((d.redundancy + d.unique_a - of_a).abs() < 1e-6, "{name}");
        assert!((d.redundancy + d.unique_b - of_b).abs() < 1e-6, "{name}");
        d
    }

    const A: [f64; 8] = [0.23, 0.01, 0.07, 0.01, 0.02, 0.42, 0.22, 0.02];

    /// The published tables of bits, and two tables of no rule.
    #[test]
    fn known_tables() {
        let third = 0.311278124459;
        holds("AND", &rule(2, 2, 2, |a, b| a & b), [third, 0., 0., 0.5]);
        holds("OR", &rule(2, 2, 2, |a, b| a | b), [third, 0., 0., 0.5]);
        holds("XOR", &rule(2, 2, 2, |a, b| a ^ b), [0., 0., 0., 1.]);
        holds("the first", &rule(2, 2, 2, |a, _| a), [0., 1., 0., 0.]);
        holds("both", &rule(2, 2, 4, |a, b| 2 * a + b), [0., 1., 1., 0.]);
        holds("the same", &table([2, 2, 2], &[0.5, 0., 0., 0., 0., 0., 0., 0.5]), [1., 0., 0., 0.]);
        holds("the sum", &rule(2, 2, 3, |a, b| a + b), [0.5, 0., 0., 1.]);
        // The second symbol is one of the first's two bits.
        let within = |y: fn(usize, usize) -> usize| {
            let rows = (0..4).map(move |x: usize| [x, x & 1, y(x >> 1, x & 1)]);
            Joint::counted([4, 2, 2], rows).unwrap()
        };
        holds("AND within", &within(|a, b| a & b), [third, 0.5, 0., 0.]);
        holds("XOR within", &within(|a, b| a ^ b), [0., 1., 0., 0.]);
        let rows = (0..8).map(|x: usize| {
            let (r, a, b) = (x >> 2, x >> 1 & 1, x & 1);
            [2 * r + a, 2 * r + b, 2 * r + (a ^ b)]
        });
        holds("one bit and XOR", &Joint::counted([4, 4, 4], rows).unwrap(), [1., 0., 0., 1.]);
        let mixed = |cells: [f64; 8]| table([2, 2, 2], &cells);
        holds(
            "noisy XOR",
            &mixed([0.9, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1]),
            [0., 0., 0., 0.531004406],
        );
        holds(
            "half XOR, half AND",
            &mixed([2., 0., 1., 1., 1., 1., 1., 1.]),
            [0.048795, 0., 0., 0.155639],
        );
        let d = holds("A", &mixed(A), [0.2065249623, 0.0439868355, 0., 0.4247170966]);
        let q =
            [0.0160377358, 0.0010691824, 0.2839622642, 0.0189308176, 0.2339622642, 0.4289308176];
        let q = [&q[..], &[0.0060377358, 0.0110691824]].concat();
        assert!(
            d.without_synergy.cells().iter().zip(&q).all(|(f, w)| (f - w).abs() < 1e-4),
            "{d:?}"
        );
        let b = [0.10, 0.05, 0.02, 0.13, 0.08, 0.04, 0.06, 0.12, 0.15, 0.03, 0.05, 0.17];
        holds("B", &table([2, 3, 2], &b), [0.0005510459, 0., 0.0089710963, 0.2005328411]);
    }

    /// What the solver leaves has the margins that were asked, and says of both no less than of one.
    #[test]
    fn the_gap_is_a_bound() {
        let mut rng = crate::rng::Rng::keyed(&[7]);
        for case in 0..20 {
            let shape = [2 + case % 4, 2 + case % 3, 2 + case % 2];
            let cells: Vec<f64> =
                (0..shape.iter().product()).map(|_| rng.uniform().powi(3)).collect();
            let p = table(shape, &cells);
            let (rough, fine) = (Stop { gap: 1e-2, rounds: 20_000 }, TIGHT);
            let (rough, fine) = (decompose(&p, rough), decompose(&p, fine));
            assert!((rough.synergy - fine.synergy).abs() <= rough.gap + 1e-9, "{case}");
            let (m, q) = (p.marginals(), fine.without_synergy.marginals());
            assert!(m.first.iter().zip(&q.first).all(|(a, b)| (a - b).abs() < 1e-12));
            assert!(m.second.iter().zip(&q.second).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}
