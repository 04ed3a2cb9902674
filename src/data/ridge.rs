//! Ridge regression on the CPU, for diagnoses: normal equations, summed row by row.

/// XᵀX (its lower triangle) and Xᵀy of some rows. Those of parts can be added and taken away, so
/// that cross-validation needs each row once.
#[derive(Clone)]
pub(crate) struct Normal {
    dim: usize,
    gram: Vec<f64>,
    /// A line of `dim` for each dimension of y.
    target: Vec<f64>,
}

impl Normal {
    /// Of no rows.
    pub(crate) fn new(dim_x: usize, dim_y: usize) -> Normal {
        Normal { dim: dim_x, gram: vec![0.0; dim_x * dim_x], target: vec![0.0; dim_y * dim_x] }
    }

    /// Adds a row; `y` is centred.
    pub(crate) fn add(&mut self, row: &[f64], y: impl Iterator<Item = f64>) {
        let dim = self.dim;
        for (i, a) in row.iter().enumerate() {
            for (g, b) in self.gram[i * dim..][..=i].iter_mut().zip(row) {
                *g += a * b;
            }
        }
        for (y, line) in y.zip(self.target.chunks_exact_mut(dim)) {
            line.iter_mut().zip(row).for_each(|(t, a)| *t += a * y);
        }
    }

    /// These rows and those of `other`, `sign` times (1 to add them, -1 to take them away).
    pub(crate) fn plus(&self, other: &Normal, sign: f64) -> Normal {
        let mix = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + sign * b).collect();
        Normal {
            dim: self.dim,
            gram: mix(&self.gram, &other.gram),
            target: mix(&self.target, &other.target),
        }
    }

    /// The weights, a line for each dimension of y, under the penalty `lambda` ‖w‖²; none where
    /// the matrix is not positive.
    pub(crate) fn solve(mut self, lambda: f64) -> Option<Vec<f64>> {
        let dim = self.dim;
        (0..dim).for_each(|i| self.gram[i * dim + i] += lambda);
        if !cholesky(&mut self.gram, dim) {
            return None;
        }
        for line in self.target.chunks_exact_mut(dim) {
            solve(&self.gram, dim, line);
        }
        Some(self.target)
    }
}

/// Mean and standard deviation per column; 1 for a constant column.
pub(crate) fn moments(values: &[f32], dim: usize, rows: usize) -> (Vec<f64>, Vec<f64>) {
    let mut mean = vec![0.0; dim];
    for row in values.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / rows as f64);
    }
    let mut std = vec![0.0; dim];
    for row in values.chunks_exact(dim) {
        for ((s, m), &x) in std.iter_mut().zip(&mean).zip(row) {
            *s += (f64::from(x) - m).powi(2) / rows as f64;
        }
    }
    for (s, m) in std.iter_mut().zip(&mean) {
        *s = s.sqrt();
        if *s <= 1e-7 * m.abs() || *s < f64::from(f32::MIN_POSITIVE) {
            *s = 1.0;
        }
    }
    (mean, std)
}

/// Replaces the lower triangle of a symmetric positive matrix by its factor L, L Lᵀ = A; false if
/// the matrix is not positive.
fn cholesky(a: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        for j in 0..=i {
            let (before, line) = a.split_at_mut(i * n);
            let other = if j < i { &before[j * n..j * n + j] } else { &line[..j] };
            let dot: f64 = line[..j].iter().zip(other).map(|(x, y)| x * y).sum();
            let rest = line[j] - dot;
            if i == j {
                if rest <= 0.0 || !rest.is_finite() {
                    return false;
                }
                line[j] = rest.sqrt();
            } else {
                line[j] = rest / before[j * n + j];
            }
        }
    }
    true
}

/// Solves L Lᵀ w = b in place.
fn solve(l: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        let dot: f64 = l[i * n..][..i].iter().zip(&*b).map(|(x, y)| x * y).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k]).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
}
