//! Tables of how often two symbols and a target come together, and what they say in bits.

use crate::error::{Error, Result};

/// Cells of a table at most: what a few hundred megabytes hold.
const MOST_CELLS: usize = 1 << 22;

/// p(x1, x2, y), a cell after another with y the fastest: `p[(x1 * n2 + x2) * classes + y]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    shape: [usize; 3],
    p: Vec<f64>,
}

impl Joint {
    /// A table of weights, which are divided by their sum.
    ///
    /// # Errors
    /// Weights that are not as many as the shape says, negative, not finite, or all 0.
    pub fn new(shape: [usize; 3], weights: &[f64]) -> Result<Joint> {
        let fail = |what: String| Err(Error::Config(what));
        if weights.len() != shape.iter().product::<usize>() || weights.is_empty() {
            return fail(format!("a table of {shape:?} has {} cells", weights.len()));
        }
        if let Some(bad) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
            return fail(format!("a table of how often things come together holds {bad}"));
        }
        let sum: f64 = weights.iter().sum();
        if sum <= 0.0 {
            return fail("a table of how often things come together holds nothing but 0".into());
        }
        Ok(Joint { shape, p: weights.iter().map(|w| w / sum).collect() })
    }

    /// How often symbols came together in rows; `shape` says how many symbols each column has.
    ///
    /// # Errors
    /// No rows, columns of other lengths, a symbol beyond the shape, a table beyond 4 million cells.
    pub fn counted(shape: [usize; 3], rows: impl Iterator<Item = [usize; 3]>) -> Result<Joint> {
        let cells = shape.iter().try_fold(1_usize, |all, n| all.checked_mul(*n));
        let Some(cells) = cells.filter(|n| *n <= MOST_CELLS) else {
            let [a, b, y] = shape;
            return Err(Error::Config(format!(
                "a table of {a} x {b} symbols and {y} classes is too large: group the symbols into fewer"
            )));
        };
        let mut counts = vec![0.0; cells];
        for row in rows {
            if row.iter().zip(shape).any(|(at, n)| *at >= n) {
                return Err(Error::Config(format!("symbols {row:?} in a table of {shape:?}")));
            }
            counts[(row[0] * shape[1] + row[1]) * shape[2] + row[2]] += 1.0;
        }
        Joint::new(shape, &counts)
    }

    /// Symbols of the first and the second, and classes.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The cells.
    pub fn cells(&self) -> &[f64] {
        &self.p
    }

    /// The sum over all but the dimensions that are kept.
    pub(super) fn kept(&self, keep: [bool; 3]) -> Vec<f64> {
        let [_, n2, classes] = self.shape;
        let size = |d: usize| if keep[d] { self.shape[d] } else { 1 };
        let mut out = vec![0.0; size(0) * size(1) * size(2)];
        for (cell, p) in self.p.iter().enumerate() {
            let at = [cell / (n2 * classes), cell / classes % n2, cell % classes];
            let at = (0..3).fold(0, |sum, d| if keep[d] { sum * size(d) + at[d] } else { sum });
            out[at] += p;
        }
        out
    }

    /// What pairs of its three columns say.
    pub fn marginals(&self) -> Marginals {
        Marginals {
            shape: self.shape,
            first: self.kept([true, false, true]),
            second: self.kept([false, true, true]),
            pair: self.kept([true, true, false]),
        }
    }

    /// I(X1, X2; Y) in bits.
    pub fn information(&self) -> f64 {
        let target = entropy(&self.kept([false, false, true]));
        (entropy(&self.kept([true, true, false])) + target - entropy(&self.p)).max(0.0)
    }
}

/// Each pair of three columns: what labelled single modalities and unlabelled pairs tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Marginals {
    pub(super) shape: [usize; 3],
    /// p(x1, y), y the fastest.
    pub(super) first: Vec<f64>,
    /// p(x2, y).
    pub(super) second: Vec<f64>,
    /// p(x1, x2), x2 the fastest.
    pub(super) pair: Vec<f64>,
}

impl Marginals {
    /// Of three samples that need not be of the same rows: classes are weighted as in all labelled rows, and pairs
    /// are scaled so that each symbol is as frequent as the labelled rows have it. Numbers are counts.
    ///
    /// # Errors
    /// Counts that are not as many as the shape says, and samples without a row.
    pub fn of_counts(
        shape: [usize; 3],
        first: &[f64],
        second: &[f64],
        pair: &[f64],
    ) -> Result<Marginals> {
        let [n1, n2, classes] = shape;
        let (first, second, pair) = (
            Joint::new([n1, 1, classes], first)?,
            Joint::new([n2, 1, classes], second)?,
            Joint::new([n1, n2, 1], pair)?,
        );
        let (of_first, of_second) = (columns(&first.p, classes), columns(&second.p, classes));
        let target: Vec<f64> =
            of_first.iter().zip(&of_second).map(|(a, b)| (a + b) / 2.0).collect();
        let weigh = |p: &[f64], own: &[f64]| -> Vec<f64> {
            let one = |(i, p): (usize, &f64)| ratio(p * target[i % classes], own[i % classes]);
            p.iter().enumerate().map(one).collect()
        };
        let (first, second) = (weigh(&first.p, &of_first), weigh(&second.p, &of_second));
        // A class that one of the samples lacks is lost above.
        let (first, second) = (scaled(&first), scaled(&second));
        let pair = raked(pair.p, &rows(&first, classes), &rows(&second, classes));
        Ok(Marginals { shape, first, second, pair })
    }

    /// p(y).
    pub(super) fn target(&self) -> Vec<f64> {
        columns(&self.first, self.shape[2])
    }

    /// I(X1; Y), I(X2; Y), I(X1; X2) and H(Y), in bits.
    pub fn informations(&self) -> [f64; 4] {
        let [_, n2, classes] = self.shape;
        let of = |p: &[f64], width| {
            (entropy(&rows(p, width)) + entropy(&columns(p, width)) - entropy(p)).max(0.0)
        };
        let target = entropy(&self.target());
        [of(&self.first, classes), of(&self.second, classes), of(&self.pair, n2), target]
    }

    /// How often the likelier class given each symbol alone is right: of the first and of the second.
    pub fn accuracies(&self) -> [f64; 2] {
        let best = |row: &[f64]| row.iter().fold(0.0_f64, |most, p| most.max(*p));
        [&self.first, &self.second].map(|p| p.chunks_exact(self.shape[2]).map(best).sum())
    }
}

/// Divided by their sum.
fn scaled(p: &[f64]) -> Vec<f64> {
    let sum: f64 = p.iter().sum();
    p.iter().map(|p| ratio(*p, sum)).collect()
}

/// A table whose rows and columns are scaled in turn until they sum to what they should.
fn raked(mut p: Vec<f64>, of_rows: &[f64], of_columns: &[f64]) -> Vec<f64> {
    const MOST: usize = 10_000;
    let width = of_columns.len();
    for _ in 0..MOST {
        let now = rows(&p, width);
        let off = now.iter().zip(of_rows).fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
        p.iter_mut().enumerate().for_each(|(i, p)| *p *= ratio(of_rows[i / width], now[i / width]));
        let now = columns(&p, width);
        p.iter_mut()
            .enumerate()
            .for_each(|(i, p)| *p *= ratio(of_columns[i % width], now[i % width]));
        if off < 1e-12 {
            break;
        }
    }
    p
}

/// a / b, and 0 where b is 0.
pub(super) fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// Sums of a table's rows.
pub(super) fn rows(p: &[f64], width: usize) -> Vec<f64> {
    p.chunks_exact(width).map(|row| row.iter().sum()).collect()
}

/// Sums of a table's columns.
pub(super) fn columns(p: &[f64], width: usize) -> Vec<f64> {
    let mut out = vec![0.0; width];
    p.chunks_exact(width).for_each(|row| out.iter_mut().zip(row).for_each(|(o, p)| *o += p));
    out
}

/// In bits.
pub(super) fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.log2()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_knows_its_sums() {
        let t = Joint::new([2, 3, 2], &(1..=12).map(f64::from).collect::<Vec<_>>()).unwrap();
        let m = t.marginals();
        let scaled = |p: &[f64]| p.iter().map(|p| (p * 78.0).round()).collect::<Vec<_>>();
        assert_eq!(scaled(&m.first), [9., 12., 27., 30.]);
        assert_eq!(scaled(&m.second), [8., 10., 12., 14., 16., 18.]);
        assert_eq!(scaled(&m.pair), [3., 7., 11., 15., 19., 23.]);
        assert_eq!(scaled(&m.target()), [36., 42.]);
    }

    #[test]
    fn samples_that_disagree_are_brought_together() {
        let shape = [2, 2, 2];
        let m =
            Marginals::of_counts(shape, &[6., 2., 1., 1.], &[3., 1., 2., 4.], &[1., 1., 1., 3.]);
        let m = m.unwrap();
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near(&columns(&m.first, 2), &columns(&m.second, 2)));
        assert!(near(&rows(&m.pair, 2), &rows(&m.first, 2)));
        assert!(near(&columns(&m.pair, 2), &rows(&m.second, 2)));
        assert!((m.pair.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // The odds of the pairs stay as they were.
        assert!((m.pair[0] * m.pair[3] / (m.pair[1] * m.pair[2]) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let said = |r: Result<Joint>| r.unwrap_err().to_string();
        assert!(said(Joint::new([1, 1, 2], &[0.0, 0.0])).contains("nothing but 0"));
        assert!(said(Joint::new([1, 1, 2], &[0.5, -0.5])).contains("-0.5"));
        assert!(said(Joint::counted([5000, 5000, 2], std::iter::empty())).contains("too large"));
    }
}
