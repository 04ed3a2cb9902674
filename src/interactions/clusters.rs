//! Rows of features as symbols: principal components, then clusters of k-means.

use crate::rng::Rng;
use nalgebra::DMatrix;

/// Restarts of k-means, of which the tightest is kept.
const RESTARTS: u64 = 10;
/// Passes of one of them at most.
const PASSES: usize = 300;
/// Multiplications of the subspace by the covariance at most.
const POWERS: usize = 100;

/// Rows of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Features of a row.
    pub width: usize,
    /// A row after another.
    pub values: Vec<f64>,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }

    /// Each feature with mean 0 and deviation 1, then each row of length 1: features of large units, and loud
    /// rows, say no more than others.
    pub fn standardised(mut self) -> Rows {
        let (n, width) = (self.len() as f64, self.width);
        for column in 0..width {
            let mean = self.iter().map(|row| row[column]).sum::<f64>() / n;
            let spread = self.iter().map(|row| (row[column] - mean).powi(2)).sum::<f64>() / n;
            let deviation =
                if spread.sqrt() > 1e-9 * mean.abs().max(1e-9) { spread.sqrt() } else { 1.0 };
            let values = self.values.iter_mut().skip(column).step_by(width);
            values.for_each(|x| *x = (*x - mean) / deviation);
        }
        for row in self.values.chunks_exact_mut(width) {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x /= if length > 0.0 { length } else { 1.0 });
        }
        self
    }

    /// Their first principal components, or the rows themselves where they have no more features than that. The
    /// subspace comes from repeated multiplication by the covariance, which never needs that matrix itself.
    pub fn components(&self, count: usize, seed: u64) -> Rows {
        if self.width <= count || self.is_empty() {
            return self.clone();
        }
        let mut x = DMatrix::from_row_slice(self.len(), self.width, &self.values);
        let mean = x.row_mean();
        x.row_iter_mut().for_each(|mut row| row -= &mean);
        // A few directions more than are asked for: the last ones settle slowly.
        let wide = (count + 10).min(self.width).min(self.len());
        let mut rng = Rng::keyed(&[seed, 1]);
        let mut basis = DMatrix::from_fn(self.width, wide, |_, _| rng.normal()).qr().q();
        let mut before = 0.0;
        for _ in 0..POWERS {
            let read = &x * &basis;
            let kept = read.norm_squared();
            basis = x.tr_mul(&read).qr().q();
            if (kept - before).abs() <= 1e-12 * kept {
                break;
            }
            before = kept;
        }
        let read = &x * &basis;
        let own = read.tr_mul(&read).symmetric_eigen();
        let mut order: Vec<usize> = (0..wide).collect();
        order.sort_by(|a, b| own.eigenvalues[*b].total_cmp(&own.eigenvalues[*a]));
        let count = count.min(wide);
        let axes =
            DMatrix::from_fn(wide, count, |row, column| own.eigenvectors[(row, order[column])]);
        let out = read * axes;
        Rows { width: count, values: out.transpose().as_slice().to_vec() }
    }

    /// Which of `count` clusters each row is in: Lloyd's k-means from k-means++ starts, the tightest of ten.
    pub fn clusters(&self, count: usize, seed: u64) -> Vec<u32> {
        let count = count.min(self.len());
        let runs =
            (0..RESTARTS).map(|restart| self.lloyd(count, &mut Rng::keyed(&[seed, 2, restart])));
        let best = runs.min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or_else(Vec::new, |(_, of)| of)
    }

    /// The sum of squared distances, and the clusters.
    fn lloyd(&self, count: usize, rng: &mut Rng) -> (f64, Vec<u32>) {
        let mut centres = self.starts(count, rng);
        let mut of = vec![0_u32; self.len()];
        let mut sum = f64::INFINITY;
        for _ in 0..PASSES {
            let mut moved = false;
            let mut distances = Vec::with_capacity(self.len());
            for (row, of) in self.iter().zip(&mut of) {
                let (near, distance) = nearest(row, &centres);
                moved |= *of != near;
                *of = near;
                distances.push(distance);
            }
            sum = distances.iter().sum();
            let mut sizes = vec![0.0; count];
            let mut sums = vec![0.0; count * self.width];
            for (row, of) in self.iter().zip(&of) {
                sizes[*of as usize] += 1.0;
                let own = &mut sums[*of as usize * self.width..][..self.width];
                own.iter_mut().zip(row).for_each(|(s, x)| *s += x);
            }
            for (cluster, centre) in centres.iter_mut().enumerate() {
                let own = &sums[cluster * self.width..][..self.width];
                match sizes[cluster] > 0.0 {
                    true => centre.iter_mut().zip(own).for_each(|(c, s)| *c = s / sizes[cluster]),
                    // An empty cluster begins again at the row that is worst served.
                    false => {
                        let farthest =
                            (0..self.len()).max_by(|a, b| distances[*a].total_cmp(&distances[*b]));
                        let Some(row) = farthest else { continue };
                        centre.copy_from_slice(&self.values[row * self.width..][..self.width]);
                        distances[row] = 0.0;
                        moved = true;
                    }
                }
            }
            if !moved {
                break;
            }
        }
        (sum, of)
    }

    /// Rows far from each other: each is drawn by its squared distance to those before.
    fn starts(&self, count: usize, rng: &mut Rng) -> Vec<Vec<f64>> {
        let row = |at: usize| self.values[at * self.width..][..self.width].to_vec();
        let mut centres = vec![row(rng.below(self.len() as u64) as usize)];
        let mut distances: Vec<f64> = vec![f64::INFINITY; self.len()];
        while centres.len() < count {
            let last = centres.last().expect("one is there");
            for (distance, row) in distances.iter_mut().zip(self.iter()) {
                *distance = distance.min(apart(row, last));
            }
            let mut left = rng.uniform() * distances.iter().sum::<f64>();
            let drawn = distances.iter().position(|d| {
                left -= d;
                left < 0.0
            });
            // Rows that are all alike leave nothing to draw by.
            let drawn = drawn.unwrap_or_else(|| rng.below(self.len() as u64) as usize);
            centres.push(row(drawn));
        }
        centres
    }
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn nearest(row: &[f64], centres: &[Vec<f64>]) -> (u32, f64) {
    let each = centres.iter().enumerate().map(|(i, centre)| (i as u32, apart(row, centre)));
    each.min_by(|a, b| a.1.total_cmp(&b.1)).expect("there is a centre")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symbols as random codes with noise: the clusters are the symbols again, under other names.
    #[test]
    fn codes_are_found_again() {
        let mut rng = Rng::keyed(&[3]);
        let (symbols, width, rows) = (6, 40, 300);
        let codes: Vec<f64> = (0..symbols * width).map(|_| rng.normal()).collect();
        let of: Vec<usize> = (0..rows).map(|_| rng.below(symbols as u64) as usize).collect();
        let mut values = Vec::new();
        for s in &of {
            values.extend(codes[s * width..][..width].iter().map(|c| c + 0.3 * rng.normal()));
        }
        let found = Rows { width, values }.standardised().components(5, 1).clusters(symbols, 1);
        let mut name = vec![None; symbols];
        for (s, f) in of.iter().zip(&found) {
            assert_eq!(*name[*s].get_or_insert(*f), *f);
        }
        let mut names: Vec<u32> = name.into_iter().flatten().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), symbols);
    }

    /// The components carry what an eigen-decomposition of the whole covariance says.
    #[test]
    fn components_are_the_principal_ones() {
        let mut rng = Rng::keyed(&[4]);
        let (rows, width) = (60, 30);
        let scales: Vec<f64> = (0..width).map(|i| 0.8_f64.powi(i as i32)).collect();
        let values: Vec<f64> =
            (0..rows * width).map(|i| rng.normal() * scales[i % width]).collect();
        let all = Rows { width, values };
        let found = all.components(4, 1);
        assert_eq!((found.width, found.len()), (4, rows));
        let mut x = DMatrix::from_row_slice(rows, width, &all.values);
        let mean = x.row_mean();
        x.row_iter_mut().for_each(|mut row| row -= &mean);
        let mut own: Vec<f64> =
            x.tr_mul(&x).symmetric_eigen().eigenvalues.iter().copied().collect();
        own.sort_by(|a, b| b.total_cmp(a));
        for (column, own) in own[..4].iter().enumerate() {
            let carried: f64 = found.iter().map(|row| row[column] * row[column]).sum();
            assert!((carried - own).abs() < 1e-6 * own, "{column}: {carried} instead of {own}");
        }
    }

    #[test]
    fn alike_rows_end() {
        let rows = Rows { width: 2, values: vec![1.0; 20] };
        assert_eq!(rows.standardised().clusters(3, 1).len(), 10);
    }
}
