//! How well the one of a pair is found by the other, among all of a split.

use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Among how many of the nearest a partner is looked for.
const NEAREST: [usize; 3] = [1, 5, 10];

/// Scores by name, with both sides: `R@1 text→vision`.
pub type Retrieval = BTreeMap<String, f64>;

/// Of pairs, row i of `a [rows, size]` with row i of `b [rows, size]`: the share of the rows whose partner is among
/// the 1, 5 and 10 of the other side that are nearest by the cosine (`R@1`), and the median of the partners' ranks,
/// from 1; both ways. A row that is as near as the partner counts as nearer: what is all alike finds nothing.
/// Rows without length are near to none.
///
/// # Errors
/// [`Error::Shape`]: sides that are not of one shape, no rows.
pub fn retrieval(sides: [&str; 2], a: &[f32], b: &[f32], size: usize) -> Result<Retrieval> {
    if size == 0 || a.is_empty() || a.len() != b.len() || !a.len().is_multiple_of(size) {
        let detail = format!("{} and {} numbers in rows of {size}", a.len(), b.len());
        return Err(Error::shape("retrieval", detail));
    }
    let (a, b) = (units(a, size), units(b, size));
    let mut found = Retrieval::new();
    for (from, to, [x, y]) in [(sides[0], sides[1], [&a, &b]), (sides[1], sides[0], [&b, &a])] {
        let mut ranks = ranks(x, y, size);
        ranks.sort_unstable();
        let rows = ranks.len();
        for k in NEAREST {
            let share = ranks.iter().filter(|rank| **rank <= k).count() as f64 / rows as f64;
            found.insert(format!("R@{k} {from}→{to}"), share);
        }
        let median = (ranks[(rows - 1) / 2] + ranks[rows / 2]) as f64 / 2.0;
        found.insert(format!("median rank {from}→{to}"), median);
    }
    Ok(found)
}

/// Rows of length one; those without length as they are.
fn units(rows: &[f32], size: usize) -> Vec<f32> {
    let unit = |row: &[f32]| {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let by = if length > 0.0 { (1.0 / length) as f32 } else { 0.0 };
        row.iter().map(|x| x * by).collect::<Vec<f32>>()
    };
    rows.chunks_exact(size).flat_map(unit).collect()
}

/// The place of each row's partner, from 1.
fn ranks(x: &[f32], y: &[f32], size: usize) -> Vec<usize> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let of = |(i, row): (usize, &[f32])| {
        let own = dot(row, &y[i * size..][..size]);
        // What is no number is behind nobody, so that it is never a find.
        let ahead = |(j, other): (usize, &[f32])| {
            j != i && dot(row, other).partial_cmp(&own) != Some(Ordering::Less)
        };
        1 + y.chunks_exact(size).enumerate().filter(|other| ahead(*other)).count()
    };
    x.chunks_exact(size).enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_found_by_the_cosine() {
        // Rows of different lengths: 0 and 1 find each other, 2's nearest is 0.
        let a = [3.0, 0.0, 0.0, 0.5, 1.0, 0.1];
        let b = [1.0, 0.0, 0.0, 2.0, 1.0, 1.0];
        let found = retrieval(["text", "vision"], &a, &b, 2).unwrap();
        assert!((found["R@1 text→vision"] - 2.0 / 3.0).abs() < 1e-12, "{found:?}");
        assert_eq!((found["R@5 text→vision"], found["median rank text→vision"]), (1.0, 1.0));
        // (1, 1) is nearest to (1, 0.1), and so are 0 to 0 and 1 to 1.
        assert_eq!(found["R@1 vision→text"], 1.0);
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn what_is_all_alike_or_no_number_finds_nothing() {
        for value in [1.0, 0.0, f32::NAN] {
            let rows = [value; 24];
            let found = retrieval(["a", "b"], &rows, &rows, 2).unwrap();
            assert_eq!((found["R@1 a→b"], found["R@10 a→b"]), (0.0, 0.0), "{value}");
            assert_eq!(found["median rank b→a"], 12.0);
        }
        // The middle of an even number of ranks.
        let (a, b) = ([1.0, 0.0, 0.0, 1.0], [1.0, 0.1, 1.0, 0.0]);
        assert_eq!(retrieval(["a", "b"], &a, &b, 2).unwrap()["median rank a→b"], 2.0);
        let (a, b) = ([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.1]);
        assert_eq!(retrieval(["a", "b"], &a, &b, 2).unwrap()["median rank b→a"], 1.5);
    }

    #[test]
    fn sides_that_are_no_pairs_are_refused() {
        for (a, b, size) in [(4, 2, 2), (3, 3, 2), (0, 0, 2), (4, 4, 0)] {
            let why = retrieval(["a", "b"], &vec![1.0; a], &vec![1.0; b], size).unwrap_err();
            assert!(why.to_string().contains(&format!("in rows of {size}")), "{why}");
        }
    }
}
