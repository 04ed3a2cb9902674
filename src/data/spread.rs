//! How the values of a feature are spread, told so that a few wild ones change nothing: by quantiles.

use super::stream::Stream;
use crate::error::Result;

/// The middle of a feature's values and how far they are from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// Half of the values are below it.
    pub(super) median: f32,
    /// What the standard deviation would be if all were as well-behaved as the middle half; 1 where the
    /// feature is constant.
    pub(super) scale: f32,
}

/// Steps of a stream that tell enough, and values that are held at once for it.
const STEPS: usize = 16_384;
const VALUES: usize = 1 << 24;
/// Half the range between the quartiles of a normal distribution, in standard deviations.
const QUARTILE: f32 = 0.674_489_8;

/// Of each feature, by steps of a stream that are evenly spread over it.
///
/// # Errors
/// Those of the rows' source.
pub(super) fn spreads(stream: &Stream<'_>) -> Result<Vec<Spread>> {
    let dim = stream.dim;
    let most = STEPS.min(VALUES / dim.max(1)).max(1);
    let rows = || (0..stream.rows).filter(|row| !stream.missing(*row));
    let steps: usize = rows().map(|row| stream.len(row)).sum();
    let apart = steps.div_ceil(most).max(1);
    let mut columns: Vec<Vec<f32>> = vec![Vec::with_capacity(steps.div_ceil(apart)); dim];
    let mut passed = 0;
    for row in rows() {
        let valid = stream.len(row);
        // The first step of this row whose number among all is a multiple of `apart`.
        let first = (apart - passed % apart) % apart;
        if first < valid {
            let values = stream.values(row)?;
            for frame in values.chunks_exact(dim).take(valid).skip(first).step_by(apart) {
                columns.iter_mut().zip(frame).for_each(|(column, x)| column.push(*x));
            }
        }
        passed += valid;
    }
    Ok(columns.into_iter().map(spread).collect())
}

fn spread(mut values: Vec<f32>) -> Spread {
    if values.is_empty() {
        return Spread { median: 0.0, scale: 1.0 };
    }
    values.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
    let median = at(0.5);
    let between = at(0.75) / (2.0 * QUARTILE) - at(0.25) / (2.0 * QUARTILE);
    // A feature that is most often the same value, 0 say, has no quartiles to go by: then by all values but
    // the outermost.
    let scale = if between > 0.0 { between } else { inner_deviation(&values) };
    // Below the rounding of f32 around the median there is nothing but noise to scale up.
    let usable = scale.is_normal() && scale > 1e-7 * median.abs();
    Spread { median, scale: if usable { scale } else { 1.0 } }
}

/// The standard deviation of sorted values, half a percent at each end left out.
fn inner_deviation(sorted: &[f32]) -> f32 {
    let cut = sorted.len() / 200;
    let inner = &sorted[cut..sorted.len() - cut];
    let n = inner.len() as f64;
    let mean = inner.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let square = inner.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    square.sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn wild_values_change_nothing() {
        let mut rng = Rng::keyed(&[3]);
        let mut values: Vec<f32> = (0..4000).map(|_| 5.0 + 2.0 * rng.normal() as f32).collect();
        let honest = spread(values.clone());
        assert!(
            (honest.median - 5.0).abs() < 0.1 && (honest.scale - 2.0).abs() < 0.1,
            "{honest:?}"
        );
        (values[7], values[900]) = (-3.4e38, 1e30);
        let wild = spread(values);
        assert!((wild.median - honest.median).abs() < 0.01, "{wild:?}");
        assert!((wild.scale - honest.scale).abs() < 0.01, "{wild:?}");
    }

    #[test]
    fn features_that_hardly_vary() {
        assert_eq!(spread(vec![7.5; 10]), Spread { median: 7.5, scale: 1.0 });
        assert_eq!(spread(Vec::new()), Spread { median: 0.0, scale: 1.0 });
        // Nine in ten are 0; the tenth is 1 or -1.
        let rare: Vec<f32> = (0..1000)
            .map(|i| {
                if i % 10 > 0 {
                    0.0
                } else if i % 20 > 0 {
                    1.0
                } else {
                    -1.0
                }
            })
            .collect();
        let found = spread(rare);
        assert!(found.median == 0.0 && (found.scale - 0.3).abs() < 0.02, "{found:?}");
    }
}
