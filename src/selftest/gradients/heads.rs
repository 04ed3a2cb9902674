//! Entries for the heads of all tasks.

use super::*;
use crate::ops::heads::HeadVars;

/// Name, widths of the parts, sizes and dropouts of the heads.
type Try = (&'static str, &'static [usize], &'static [usize], &'static [f32]);

/// All as vectors of four, and not; one part; the fused head alone. Small steps, because every
/// feature has a kink.
pub fn entries() -> Vec<Entry> {
    let list: [Try; 4] = [
        ("heads vectors", &[4, 8], &[8, 4, 4], &[0.0, 0.3, 0.0]),
        ("heads 3 parts", &[3, 5, 2], &[5, 3, 2, 4], &[0.2, 0.0, 0.1, 0.0]),
        ("heads 1 part", &[4], &[4, 8], &[0.1, 0.1]),
        ("heads fused alone", &[3, 4], &[6], &[0.0]),
    ];
    let made = list.into_iter().map(|(name, widths, sizes, dropouts)| {
        let shapes = shapes(3, widths, sizes);
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let parts = widths.len();
        entry(name, &shapes, move |t, v| heads(t, v, parts, dropouts)).step(2e-3)
    });
    made.collect()
}

/// Heads over the first `parts` of `v`, whose weights follow, each in two shapes and biases; scores
/// and features, each with a consumer beside, as one part has, too. Weights that are parameters take
/// the kernels that serve all heads at once, others take one operation after the other.
fn heads(t: &mut Tape, v: &[Var], parts: usize, dropouts: &[f32]) -> Result<Var> {
    let (parts, weights) = v.split_at(parts);
    let parts: Vec<Var> = parts.iter().map(|p| t.scale(*p, 1.5)).collect::<Result<_>>()?;
    let list: Vec<HeadVars> = weights
        .chunks(6)
        .zip(dropouts)
        .map(|(w, p)| HeadVars { layers: [(w[0], w[1]), (w[2], w[3]), (w[4], w[5])], dropout: *p })
        .collect();
    let all = t.heads(&parts, &list)?;
    let width = t.rows_cols(all.features).1;
    let span = t.slice(all.features, 1, width - 1)?;
    t.concat(&[all.scores, parts[0], all.features, span])
}

/// Inputs of [`heads`]: batch, widths of the parts, sizes of the heads.
fn shapes(n: usize, widths: &[usize], sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut shapes: Vec<Vec<usize>> = widths.iter().map(|w| vec![n, *w]).collect();
    let inputs = std::iter::once(widths.iter().sum()).chain(widths.iter().copied());
    for (s, k) in sizes.iter().copied().zip(inputs) {
        shapes.extend([vec![s, k], vec![s], vec![s, s], vec![s], vec![1, s], vec![1]]);
    }
    shapes
}
