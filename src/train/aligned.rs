//! What the covariance term compares, over a whole split instead of a batch: the covariance of each
//! modality's aligned representation, and the terms of the pairs.

use super::session::Session;
use crate::data::SplitName;
use crate::error::{Error, Result};
use crate::nn::Weights;

/// The covariances of all modalities.
#[derive(Clone, Debug, PartialEq)]
pub struct Aligned {
    /// Columns of every representation.
    pub size: usize,
    /// Whether they are correlations.
    pub correlations: bool,
    /// A modality's name, and its covariance, `[size, size]` row-major.
    pub sides: Vec<(&'static str, Vec<f64>)>,
    /// The pairs that the model has.
    pub pairs: Vec<PairTerm>,
    /// The weighted sum of the terms, as the objective has it: L_cov.
    pub loss: f64,
}

/// One pair of modalities.
#[derive(Clone, Debug, PartialEq)]
pub struct PairTerm {
    /// Indices into the sides.
    pub sides: (usize, usize),
    /// ta, tv or av.
    pub name: &'static str,
    /// Its weight in the objective.
    pub weight: f64,
    /// `‖C_a − C_b‖² / 4d²`.
    pub term: f64,
}

impl Aligned {
    /// C_a − C_b.
    pub fn difference(&self, (a, b): (usize, usize)) -> Vec<f64> {
        self.sides[a].1.iter().zip(&self.sides[b].1).map(|(x, y)| x - y).collect()
    }
}

/// The Frobenius norm.
pub fn norm(matrix: &[f64]) -> f64 {
    matrix.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The covariances under the parameters that the session has; `weights` are those, with the
/// alignment projections. `None` where all weights of pairs are zero, since nothing is aligned then.
///
/// # Errors
/// Those of [`Session::represent`]; projections that are missing or of another size; fewer than two
/// rows.
pub fn aligned(
    session: &mut Session,
    weights: &Weights,
    split: SplitName,
) -> Result<Option<Aligned>> {
    let Some(what) = session.model().recipe().aligned() else { return Ok(None) };
    let parts = session.represent(split)?;
    let mut sides = Vec::new();
    for (side, output, projection) in &what.sides {
        let part = parts.iter().find(|(name, ..)| name == output);
        let (_, size, values) =
            part.ok_or_else(|| Error::shape("aligned", format!("the model gives no '{output}'")))?;
        let rows: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let (size, rows) = match projection {
            None => (*size, rows),
            Some(name) => match weights.get(name) {
                Some((&[out, inputs], w)) if inputs == *size => (out, projected(&rows, inputs, w)),
                _ => {
                    let detail = format!("no '{name}' of {size} columns among the weights");
                    return Err(Error::shape("aligned", detail));
                }
            },
        };
        sides.push((*side, size, covariance(&rows, size, what.standardize)?));
    }
    let size = sides.first().map_or(0, |s| s.1);
    let mut found = Aligned {
        size,
        correlations: what.standardize,
        sides: sides.into_iter().map(|(name, _, matrix)| (name, matrix)).collect(),
        pairs: Vec::new(),
        loss: 0.0,
    };
    let pairs = what.pairs.iter().map(|&(a, b, name, weight)| {
        let term = norm(&found.difference((a, b))).powi(2) / (4.0 * (size * size) as f64);
        PairTerm { sides: (a, b), name, weight, term }
    });
    found.pairs = pairs.collect();
    let value = |p: &PairTerm| match p.weight < 0.0 {
        true => p.weight * p.term.min(what.margin),
        false => p.weight * p.term,
    };
    found.loss = found.pairs.iter().map(value).sum();
    Ok(Some(found))
}

/// `x Wᵀ`, W `[out, inputs]`.
fn projected(rows: &[f64], inputs: usize, w: &[f32]) -> Vec<f64> {
    let dot = |row: &[f64], line: &[f32]| -> f64 {
        row.iter().zip(line).map(|(x, w)| x * f64::from(*w)).sum()
    };
    rows.chunks_exact(inputs)
        .flat_map(|row| w.chunks_exact(inputs).map(move |line| dot(row, line)))
        .collect()
}

/// The unbiased covariance of the columns; of standardised ones, their correlation (0 with a
/// constant column).
fn covariance(rows: &[f64], size: usize, standardise: bool) -> Result<Vec<f64>> {
    let n = rows.len() / size.max(1);
    if n < 2 {
        return Err(Error::shape("aligned", "a covariance takes at least two rows"));
    }
    let mut mean = vec![0.0; size];
    for row in rows.chunks_exact(size) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / n as f64);
    }
    let mut matrix = vec![0.0; size * size];
    for row in rows.chunks_exact(size) {
        for i in 0..size {
            for j in 0..size {
                matrix[i * size + j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (n - 1) as f64;
            }
        }
    }
    if standardise {
        let deviation: Vec<f64> = (0..size).map(|i| matrix[i * size + i].sqrt()).collect();
        for (at, value) in matrix.iter_mut().enumerate() {
            let scale = deviation[at / size] * deviation[at % size];
            *value = if scale > 0.0 { *value / scale } else { 0.0 };
        }
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covariances_by_hand() {
        // Columns 1 2 3 and 2 4 6 and a constant.
        let rows = [1.0, 2.0, 5.0, 2.0, 4.0, 5.0, 3.0, 6.0, 5.0];
        let found = covariance(&rows, 3, false).unwrap();
        assert_eq!(found, [1.0, 2.0, 0.0, 2.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
        let found = covariance(&rows, 3, true).unwrap();
        assert_eq!(found, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(covariance(&rows[..3], 3, false).is_err());
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
    }

    #[test]
    fn projections_are_products() {
        assert_eq!(
            projected(&[1.0, 2.0, 3.0, 4.0], 2, &[1.0, 1.0, 0.0, 2.0]),
            [3.0, 4.0, 7.0, 8.0]
        );
    }
}
