//! Products at the sizes of BERT's layers: forward (x wᵀ), towards the input (dy w) and towards the
//! weight (dyᵀ x); and three at the sizes that other engines were measured at.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::ops::Act;

/// Token rows: a batch of 16 short sentences, and the longest.
const ROWS: [usize; 2] = [304, 800];

const LAYERS: [(&str, [(usize, usize); 4]); 2] = [
    ("MiniLM", [(384, 1152), (384, 384), (384, 1536), (1536, 384)]),
    ("base", [(768, 2304), (768, 768), (768, 3072), (3072, 768)]),
];

pub(super) fn add(all: &mut Vec<Entry>) {
    for (m, k, n) in [(1024, 1024, 1024), (1600, 768, 768), (32, 768, 3072)] {
        let rows = Rows::Each(&[("matmul", &["forward"])]);
        all.push(Entry::new("matmul", format!("{m} × {k} × {n}"), rows, move |_| {
            let mut bed = Bed::new();
            let (a, b) = (bed.given("a", &[m, k]), bed.given("b", &[k, n]));
            bed.tape.matmul(a, b)?;
            Ok(bed)
        }));
    }
    let rows = Rows::Each(&[("matmul", &["forward", "dx", "dw"])]);
    for (model, layers) in LAYERS {
        for m in ROWS {
            for (k, n) in layers {
                let shape = format!("{model} {m} × {k} → {n}");
                all.push(Entry::new("matmul", shape, rows, move |_| {
                    let mut bed = Bed::new();
                    let w = bed.parameter("w", &[n, k]);
                    let x = bed.watched("x", &[m, k]);
                    let y = bed.tape.linear(x, w, None, Act::None)?;
                    bed.backward(y)?;
                    Ok(bed)
                }));
            }
        }
    }
}
