//! Batched products as attention and fusion take them, outer products of tensor fusion, and axes
//! put in another order for heads.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::ops::batched::Transposed;

pub(super) fn add(all: &mut Vec<Entry>) {
    // Scores and contexts of 16 samples with 8 heads of 50 steps, and few large ones.
    for (batch, m, n, k, form) in [
        (128, 50, 50, 32, Transposed::Second),
        (128, 52, 32, 52, Transposed::Neither),
        (16, 256, 256, 256, Transposed::Neither),
    ] {
        let rows = Rows::Each(&[("matmul", &["forward", "da", "db"])]);
        let shape = format!("{batch} products {m} × {k} × {n}, {form:?} transposed");
        all.push(Entry::new("matmul", shape, rows, move |_| {
            let mut bed = Bed::new();
            let b = if form == Transposed::Second { [batch, n, k] } else { [batch, k, n] };
            let (a, b) = (bed.watched("a", &[batch, m, k]), bed.watched("b", &b));
            let y = bed.tape.bmm(a, b, form)?;
            bed.backward(y)?;
            Ok(bed)
        }));
    }
    // A tensor fusion network's two products: 32 samples, 33 by 33, then by 129.
    for (p, q) in [(33, 33), (1089, 129)] {
        let rows = Rows::Each(&[("outer", &["forward"]), ("outer_backward", &["backward"])]);
        all.push(Entry::new("outer", format!("32 of {p} × {q}"), rows, move |_| {
            let mut bed = Bed::new();
            let (a, b) = (bed.watched("a", &[32, p]), bed.watched("b", &[32, q]));
            let y = bed.tape.outer(a, b)?;
            bed.backward(y)?;
            Ok(bed)
        }));
    }
    let moves: [(&[usize], &[usize]); 2] =
        [(&[16, 50, 8, 32], &[0, 2, 1, 3]), (&[16, 256, 256], &[0, 2, 1])];
    for (shape, axes) in moves {
        let rows = Rows::Each(&[("permute", &["forward"])]);
        all.push(Entry::new("permute", format!("{shape:?} by {axes:?}"), rows, move |_| {
            let mut bed = Bed::new();
            let x = bed.given("x", shape);
            bed.tape.permute(x, axes)?;
            Ok(bed)
        }));
    }
}
