//! Differences of features over time: slopes and curvatures of the parabolas and lines that fit nine rows
//! best, as Savitzky and Golay have them. They take nine products a number, of rows that are there by then.

/// Rows that a line or parabola is fitted to.
const WIDTH: usize = 9;

/// The first or second differences of `values`, rows of `columns` numbers: of each row the derivative of the
/// line or parabola through the nine rows around it. The first and last four have that of the first and last
/// nine; of fewer than nine rows all together make one fit, and of too few for any it is 0.
pub(super) fn differences(values: &[f32], columns: usize, order: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let width = WIDTH.min(rows);
    let weights = weights(width, order);
    let mut all = vec![0.0; values.len()];
    let mut sums = vec![0.0_f64; columns];
    for (row, to) in all.chunks_exact_mut(columns.max(1)).enumerate() {
        let first = row.saturating_sub(WIDTH / 2).min(rows - width);
        sums.fill(0.0);
        for (weight, from) in weights.iter().zip(values[first * columns..].chunks_exact(columns)) {
            sums.iter_mut().zip(from).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        }
        to.iter_mut().zip(&sums).for_each(|(to, sum)| *to = *sum as f32);
    }
    all
}

/// What each of `width` rows counts for in the derivative of a least-squares fit of this order.
fn weights(width: usize, order: usize) -> Vec<f64> {
    let middle = (width as f64 - 1.0) / 2.0;
    let times = (0..width).map(|i| i as f64 - middle);
    let powers: Vec<f64> = times.map(|t| t.powi(order as i32)).collect();
    let mean = powers.iter().sum::<f64>() / width.max(1) as f64;
    let squares: f64 = powers.iter().map(|p| (p - mean).powi(2)).sum();
    if width <= order {
        return vec![0.0; width];
    }
    // The derivative of c t^order, taken as often, is order! c.
    powers.iter().map(|p| order as f64 * (p - mean) / squares).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_parabolas_have_the_derivatives_that_they_have() {
        // Two columns, 3 t + 1 and t^2 / 2 - t, at any number of rows.
        for rows in 1..30 {
            let column = |t: f32| [3.0 * t + 1.0, 0.5 * t * t - t];
            let values: Vec<f32> = (0..rows).flat_map(|t| column(t as f32)).collect();
            let first = differences(&values, 2, 1);
            let second = differences(&values, 2, 2);
            for row in 0..rows {
                let [slope, curve] = [first[2 * row], second[2 * row + 1]];
                let want = [if rows < 2 { 0.0 } else { 3.0 }, if rows < 3 { 0.0 } else { 1.0 }];
                assert!((slope - want[0]).abs() < 1e-5, "{rows} rows, {row}: {slope}");
                assert!((curve - want[1]).abs() < 1e-5, "{rows} rows, {row}: {curve}");
                assert!(second[2 * row].abs() < 1e-5);
            }
        }
    }
}
