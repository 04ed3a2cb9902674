//! Linear probes: how much of a known factor can be read linearly from a representation.

use crate::data::ridge::{Normal, moments};
use crate::error::{Error, Result};

/// Fits a ridge regression on the training rows and reports R² on the test rows, averaged over the
/// factor's dimensions: 1 is perfect, 0 is no better than the mean, and it may be negative.
/// Dimensions that are constant in the test rows are left out; 0 if all are.
///
/// `*_x` is rows x `dim_x` and `*_y` rows x `dim_y`, row-major. Inputs are standardised by the
/// training rows; `lambda` is the penalty ‖y − Xw‖² + lambda ‖w‖² on those (as scikit-learn's
/// `alpha`), held at 1e-9 of the rows at least, so that collinear inputs can be solved.
///
/// # Errors
/// [`Error::Shape`] when sizes do not fit, there are fewer than 2 rows, or a value is not finite;
/// [`Error::Config`] for a negative or non-finite `lambda`.
pub fn probe(
    train_x: &[f32],
    dim_x: usize,
    train_y: &[f32],
    dim_y: usize,
    test_x: &[f32],
    test_y: &[f32],
    lambda: f64,
) -> Result<f64> {
    let train = rows("training", train_x, dim_x, train_y, dim_y)?;
    let test = rows("test", test_x, dim_x, test_y, dim_y)?;
    if !(lambda.is_finite() && lambda >= 0.0) {
        return Err(Error::Config(format!("the probe's lambda is {lambda}; give 0 or more")));
    }

    let (mean, std) = moments(train_x, dim_x, train);
    let standard = |values: &[f32]| -> Vec<f64> {
        values
            .chunks_exact(dim_x)
            .flat_map(|row| row.iter().zip(mean.iter().zip(&std)))
            .map(|(&x, (m, s))| (f64::from(x) - m) / s)
            .collect()
    };
    let (x, x_test) = (standard(train_x), standard(test_x));
    let (y_mean, _) = moments(train_y, dim_y, train);

    let mut normal = Normal::new(dim_x, dim_y);
    for (row, y) in x.chunks_exact(dim_x).zip(train_y.chunks_exact(dim_y)) {
        normal.add(row, y.iter().zip(&y_mean).map(|(y, mean)| f64::from(*y) - mean));
    }
    let weights = normal
        .solve(lambda.max(1e-9 * train as f64))
        .ok_or_else(|| Error::Config("the probe cannot be solved; give a larger lambda".into()))?;
    Ok(r_squared(&x_test, dim_x, &weights, &y_mean, test_y, test))
}

fn rows(name: &str, x: &[f32], dim_x: usize, y: &[f32], dim_y: usize) -> Result<usize> {
    let bad = |detail: String| Err(Error::shape("probe", detail));
    if dim_x == 0 || dim_y == 0 {
        return bad(format!("inputs of {dim_x} and factors of {dim_y} dimensions"));
    }
    let count = x.len() / dim_x;
    if count < 2
        || Some(x.len()) != count.checked_mul(dim_x)
        || Some(y.len()) != count.checked_mul(dim_y)
    {
        return bad(format!(
            "{} {name} inputs of {dim_x} dimensions and {} factors of {dim_y}; wanted the same \
             rows in both, and at least 2",
            x.len(),
            y.len()
        ));
    }
    if !x.iter().chain(y).all(|v| v.is_finite()) {
        return bad(format!("a {name} value is not finite"));
    }
    Ok(count)
}

fn r_squared(
    x: &[f64],
    dim_x: usize,
    weights: &[f64],
    y_mean: &[f64],
    y: &[f32],
    rows: usize,
) -> f64 {
    let dim_y = y_mean.len();
    let (own_mean, _) = moments(y, dim_y, rows);
    let mut scores = Vec::with_capacity(dim_y);
    for (k, w) in weights.chunks_exact(dim_x).enumerate() {
        let (mut residual, mut total) = (0.0, 0.0);
        for (row, y) in x.chunks_exact(dim_x).zip(y.chunks_exact(dim_y)) {
            let guess: f64 = row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>() + y_mean[k];
            residual += (f64::from(y[k]) - guess).powi(2);
            total += (f64::from(y[k]) - own_mean[k]).powi(2);
        }
        if y.chunks_exact(dim_y).any(|row| row[k] != y[k]) && total > 0.0 {
            scores.push(1.0 - residual / total);
        }
    }
    if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    /// Deterministic values in [-1, 1].
    fn noise(n: usize, mut state: u32) -> Vec<f32> {
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| draw()).collect()
    }

    fn mixed(x: &[f32]) -> Vec<f32> {
        x.chunks_exact(3).flat_map(|r| [2.0 * r[0] - r[1] + 5.0, 0.5 * r[2]]).collect()
    }

    #[test]
    fn a_linear_map_is_read_exactly() {
        let (a, b) = (noise(300, 1), noise(90, 2));
        let r2 = probe(&a, 3, &mixed(&a), 2, &b, &mixed(&b), 0.0).unwrap();
        assert_relative_eq!(r2, 1.0, epsilon = 1e-6);
    }

    #[test]
    fn noise_is_not_read() {
        let r2 = probe(&noise(900, 1), 3, &noise(300, 2), 1, &noise(600, 3), &noise(200, 4), 1.0)
            .unwrap();
        assert!(r2 < 0.05, "{r2}");
    }

    #[test]
    fn one_input_matches_the_closed_form() {
        // Standardised x is (-1, 1) repeated, y centred (-1, 1): w = sum(xy) / (n + lambda).
        let (x, y) = ([0.0, 4.0, 0.0, 4.0], [1.0, 3.0, 1.0, 3.0]);
        let w = 4.0 / (4.0 + 4.0);
        let r2 = probe(&x, 1, &y, 1, &x, &y, 4.0).unwrap();
        assert_relative_eq!(r2, 1.0 - (1.0 - w) * (1.0 - w), epsilon = 1e-12);
    }

    #[test]
    fn copies_and_constants_can_be_solved() {
        let a = noise(100, 1);
        let wide: Vec<f32> = a.iter().flat_map(|&v| [v, v, 3.0]).collect();
        let r2 = probe(&wide, 3, &a, 1, &wide, &a, 0.0).unwrap();
        assert_relative_eq!(r2, 1.0, epsilon = 1e-6);
        assert_eq!(probe(&wide, 3, &[2.0; 100], 1, &wide, &[2.0; 100], 1.0).unwrap(), 0.0);
    }

    #[test]
    fn a_shifted_test_set_goes_below_zero() {
        let (a, b) = (noise(50, 1), noise(50, 2));
        let off: Vec<f32> = b.iter().map(|v| v + 9.0).collect();
        assert!(probe(&a, 1, &a, 1, &b, &off, 1.0).unwrap() < -1.0);
    }

    #[test]
    fn bad_input_is_an_error() {
        let x = [0.0, 1.0, 2.0, 3.0];
        assert!(probe(&x, 0, &x, 1, &x, &x, 1.0).is_err());
        assert!(probe(&x, 1, &x[..3], 1, &x, &x, 1.0).is_err());
        assert!(probe(&x, 4, &x[..1], 1, &x, &x[..1], 1.0).is_err());
        assert!(probe(&[f32::NAN; 4], 1, &x, 1, &x, &x, 1.0).is_err());
        assert!(probe(&x, 1, &x, 1, &x, &x, -1.0).is_err());
    }
}
