//! The operations whose gradients are tried.

use super::inputs::{classes, goals, packed, spans};
use super::{Entry, entry, heads, lstm, more, streams, text};
use crate::ops::align::Pair;
use crate::ops::matmul::FeedForward;
use crate::ops::objective::Aligning;
use crate::ops::{Act, random};

const ACTS: [(Act, &str, &str); 5] = [
    (Act::None, "activate none", "linear"),
    (Act::Relu, "activate relu", "linear relu"),
    (Act::Gelu, "activate gelu", "linear gelu"),
    (Act::Tanh, "activate tanh", "linear tanh"),
    (Act::Sigmoid, "activate sigmoid", "linear sigmoid"),
];

/// Every operation.
pub fn table() -> Vec<Entry> {
    let mut table = vec![
        entry("matmul", &[&[3, 5], &[5, 4]], |t, v| t.matmul(v[0], v[1])),
        entry("matmul vectors", &[&[8, 4], &[4, 8]], |t, v| t.matmul(v[0], v[1])),
        entry("matmul x x", &[&[4, 4]], |t, v| t.matmul(v[0], v[0])),
        entry("linear no bias", &[&[3, 4], &[5, 4]], |t, v| t.linear(v[0], v[1], None, Act::None)),
        entry("linear 3-D", &[&[2, 3, 4], &[4, 4], &[4]], |t, v| {
            t.linear(v[0], v[1], Some(v[2]), Act::Tanh)
        }),
        entry("add", &[&[3, 5], &[3, 5]], |t, v| t.add(v[0], v[1])),
        entry("add row", &[&[3, 5], &[5]], |t, v| t.add(v[0], v[1])),
        entry("add row vectors", &[&[10, 8], &[1, 8]], |t, v| t.add(v[0], v[1])),
        entry("add last axes", &[&[3, 2, 4], &[2, 4]], |t, v| t.add(v[0], v[1])),
        entry("add column", &[&[3, 5], &[3, 1]], |t, v| t.add(v[0], v[1])),
        entry("add number", &[&[3, 5], &[1]], |t, v| t.add(v[0], v[1])),
        entry("add x x", &[&[3, 5]], |t, v| t.add(v[0], v[0])),
        entry("sub", &[&[4, 4], &[4, 4]], |t, v| t.sub(v[0], v[1])),
        entry("sub row", &[&[3, 5], &[5]], |t, v| t.sub(v[0], v[1])),
        entry("sub column", &[&[3, 8], &[3, 1]], |t, v| t.sub(v[0], v[1])),
        entry("sub number", &[&[3, 5], &[]], |t, v| t.sub(v[0], v[1])),
        entry("sub x x", &[&[3, 5]], |t, v| {
            // Zero, and so is its gradient: with x besides, that of x alone is left.
            let zero = t.sub(v[0], v[0])?;
            t.add(zero, v[0])
        }),
        entry("mul", &[&[3, 5], &[3, 5]], |t, v| t.mul(v[0], v[1])),
        entry("mul row", &[&[3, 5], &[5]], |t, v| t.mul(v[0], v[1])),
        entry("mul column", &[&[3, 5], &[3, 1]], |t, v| t.mul(v[0], v[1])),
        entry("mul column vectors", &[&[3, 8], &[3, 1]], |t, v| t.mul(v[0], v[1])),
        entry("mul first axes", &[&[3, 2, 4], &[3, 1, 1]], |t, v| t.mul(v[0], v[1])),
        entry("mul number", &[&[3, 5], &[1]], |t, v| t.mul(v[0], v[1])),
        entry("mul x x", &[&[3, 5]], |t, v| t.mul(v[0], v[0])),
        entry("mul of one", &[&[1], &[1]], |t, v| t.mul(v[0], v[1])),
        entry("scale", &[&[3, 5]], |t, v| t.scale(v[0], -2.5)),
        entry("square", &[&[3, 5]], |t, v| t.square(v[0])),
        entry("exp", &[&[4, 4]], |t, v| t.exp(v[0])),
        entry("abs", &[&[3, 5]], |t, v| t.abs(v[0])),
        entry("sum", &[&[3, 5]], |t, v| t.sum(v[0])),
        entry("mean", &[&[4, 4]], |t, v| t.mean(v[0])),
        entry("sum_rows", &[&[3, 5]], |t, v| t.sum_rows(v[0])),
        entry("sum_rows vectors", &[&[20, 8]], |t, v| t.sum_rows(v[0])),
        entry("sum_cols", &[&[3, 5]], |t, v| t.sum_cols(v[0])),
        entry("sum_cols 3-D", &[&[2, 3, 20]], |t, v| t.sum_cols(v[0])),
        entry("concat 2", &[&[3, 4], &[3, 5]], |t, v| t.concat(v)),
        entry("concat 3 vectors", &[&[2, 3, 4], &[2, 3, 8], &[2, 3, 4]], |t, v| t.concat(v)),
        entry("concat x y x x", &[&[3, 4], &[3, 2]], |t, v| t.concat(&[v[0], v[1], v[0], v[0]])),
        entry("concat 6", &[&[3, 1], &[3, 2], &[3, 3]], |t, v| {
            t.concat(&[v[0], v[1], v[2], v[2], v[1], v[0]])
        }),
        entry("slice", &[&[3, 7]], |t, v| t.slice(v[0], 2, 3)),
        entry("slice vectors", &[&[3, 12]], |t, v| t.slice(v[0], 4, 4)),
        entry("two slices", &[&[3, 8]], |t, v| {
            let (a, b) = (t.slice(v[0], 0, 4)?, t.slice(v[0], 2, 4)?);
            t.mul(a, b)
        }),
        entry("shift", &[&[3, 7]], |t, v| t.shift(v[0], 2)),
        entry("shift vectors, twice", &[&[2, 12]], |t, v| {
            let (a, b) = (t.shift(v[0], 4)?, t.shift(v[0], 8)?);
            t.mul(a, b)
        }),
        entry("dropout", &[&[5, 7]], |t, v| t.dropout(v[0], 0.4)),
        entry("two dropouts", &[&[4, 8]], |t, v| {
            let x = t.dropout(v[0], 0.3)?;
            t.dropout(x, 0.3)
        }),
        entry("softmax", &[&[3, 5]], |t, v| t.softmax(v[0])),
        entry("softmax 3-D vectors", &[&[2, 2, 20]], |t, v| t.softmax(v[0])).step(3e-2),
        entry("cross_entropy", &[&[4, 3]], |t, v| {
            let targets = classes(t, &[2, 0, 1, 2])?;
            t.cross_entropy(v[0], targets)
        }),
        entry("coral", &[&[7, 3], &[7, 3]], |t, v| t.coral(v[0], v[1])),
        entry("align x y z x", &[&[6, 4], &[6, 4], &[6, 4]], |t, v| {
            let pair = |(a, b, weight)| Pair { a, b, weight };
            let pairs = [(0, 1, 2.0), (1, 2, -0.5), (3, 2, 1.0)].map(pair);
            Ok(t.align(&[v[0], v[1], v[2], v[0]], &pairs, 100.0)?.loss)
        }),
        entry("attention 2 heads of 4", &[&[9, 24]], |t, v| {
            let tokens = packed(t, &[3, 1, 4], 1)?;
            t.attention(v[0], tokens, 2, 0.0)
        }),
        entry("attention dropout", &[&[9, 24]], |t, v| {
            let tokens = packed(t, &[5, 2], 2)?;
            t.attention(v[0], tokens, 2, 0.3)
        }),
        entry("attention x x", &[&[6, 12]], |t, v| {
            // Two uses of one tensor: the second adds to both kernels' columns.
            let tokens = packed(t, &[2, 3], 1)?;
            let once = t.attention(v[0], tokens, 1, 0.0)?;
            let again = t.attention(v[0], tokens, 1, 0.5)?;
            t.add(once, again)
        }),
        entry("attention 1 head of 8", &[&[7, 24]], |t, v| {
            let tokens = packed(t, &[6], 1)?;
            t.attention(v[0], tokens, 1, 0.2)
        }),
        entry("attention 1 head of 32", &[&[6, 96]], |t, v| {
            let tokens = packed(t, &[2, 3], 1)?;
            t.attention(v[0], tokens, 1, 0.1)
        }),
        entry("attention with a bias", &[&[9, 24], &[5, 2]], |t, v| {
            // Twice, as the layers of an encoder share it; some distances are beyond it.
            let tokens = packed(t, &[5, 1, 2], 1)?;
            let once = t.biased_attention(v[0], tokens, v[1], 2, 0.3)?;
            let again = t.biased_attention(v[0], tokens, v[1], 2, 0.0)?;
            t.add(once, again)
        }),
        entry("attention with a bias alone", &[&[13, 1]], |t, v| {
            let tokens = packed(t, &[4, 3], 1)?;
            let qkv = t.constant("qkv", &[8, 24], &random(3, 192))?;
            t.biased_attention(qkv, tokens, v[0], 1, 0.0)
        }),
        entry("attention of the first", &[&[4, 8], &[9, 16]], |t, v| {
            // The last sample has no rows, the last row no sample.
            let (tokens, spans) = (packed(t, &[3, 1, 4], 1)?, spans(t, &[3, 1, 4, 0])?);
            t.attention_first(v[0], v[1], tokens, spans, 2, 0.0)
        }),
        entry("attention of the first, dropout", &[&[2, 32], &[8, 64]], |t, v| {
            let (tokens, spans) = (packed(t, &[5, 2], 1)?, spans(t, &[5, 2])?);
            t.attention_first(v[0], v[1], tokens, spans, 1, 0.3)
        }),
        entry("standardize", &[&[6, 5]], |t, v| t.standardize(v[0])),
        entry("standardize_each", &[&[3, 6, 5]], |t, v| t.standardize_each(v[0])),
        entry("project", &[&[5, 6], &[4, 6], &[5, 3], &[4, 3]], |t, v| {
            t.project(&[(v[0], v[1]), (v[2], v[3])])
        }),
        entry("project x y x", &[&[5, 4], &[8, 4], &[5, 8], &[8, 8], &[8, 4]], |t, v| {
            // One input twice: each is a product of its own.
            t.project(&[(v[0], v[1]), (v[2], v[3]), (v[0], v[4])])
        }),
        Entry {
            parameters: true,
            ..entry("project computed", &[&[5, 8], &[8, 8], &[5, 4], &[8, 4]], |t, v| {
                // Weights that are parameters, inputs that are not; one that two projections read,
                // and one without a gradient.
                let (x, y) = (t.scale(v[0], 2.0)?, t.scale(v[2], 0.5)?);
                let fixed = t.constant("fixed", &[5, 8], &random(7, 40))?;
                let first = t.project(&[(x, v[1]), (y, v[3])])?;
                let second = t.project(&[(fixed, v[1]), (y, v[3])])?;
                t.add(first, second)
            })
        },
        entry("objective", &[&[6, 3]], |t, v| {
            let goals = goals(t, 6, 3, 6)?;
            t.objective(v[0], goals, None)
        }),
        entry("objective with alignment", &[&[7, 2], &[3, 7, 4]], |t, v| {
            let pair = |(a, b, weight)| Pair { a, b, weight };
            let pairs = [(0, 1, 2.0), (1, 2, -0.5)].map(pair);
            let goals = goals(t, 7, 2, 9)?;
            t.objective(v[0], goals, Some(Aligning { features: v[1], pairs: &pairs, margin: 9.0 }))
        }),
        entry("coral of standardized", &[&[8, 3], &[8, 3]], |t, v| {
            let (a, b) = (t.standardize(v[0])?, t.standardize(v[1])?);
            t.coral(a, b)
        }),
        entry("a small network", &[&[4, 6], &[8, 6], &[8], &[3, 8], &[3]], |t, v| {
            let h = t.linear(v[0], v[1], Some(v[2]), Act::Tanh)?;
            let x = t.linear(h, v[3], Some(v[4]), Act::None)?;
            let p = t.softmax(x)?;
            let both = t.concat(&[p, h])?;
            let gate = t.activate(both, Act::Sigmoid)?;
            t.mul(both, gate)
        }),
    ];
    for (act, alone, linear) in ACTS {
        table.push(entry(alone, &[&[3, 5]], move |t, v| t.activate(v[0], act)));
        table.push(entry(linear, &[&[3, 4], &[5, 4], &[5]], move |t, v| {
            t.linear(v[0], v[1], Some(v[2]), act)
        }));
    }
    let sizes: [&[usize]; 5] = [&[3, 8], &[12, 8], &[12], &[8, 12], &[8]];
    for (act, name) in [(Act::Gelu, "feed_forward gelu"), (Act::Relu, "feed_forward relu")] {
        table.push(entry(name, &sizes, move |t, v| {
            t.feed_forward(v[0], FeedForward { first: (v[1], v[2]), second: (v[3], v[4]), act })
        }));
    }
    table.push(entry("checkpoint", &[&[3, 8], &[8, 8], &[8]], |t, v| {
        let (x, w, b) = (v[0], v[1], v[2]);
        let first = t.checkpoint(x, move |t, x| {
            let h = t.linear(x, w, Some(b), Act::Gelu)?;
            t.dropout(h, 0.3)
        })?;
        // A consumer beside it, and random numbers behind it.
        let second = t.checkpoint(first, move |t, h| t.linear(h, w, None, Act::Tanh))?;
        let both = t.add(first, second)?;
        t.dropout(both, 0.2)
    }));
    table.extend(heads::entries());
    table.extend(lstm::entries());
    table.extend(text::entries());
    table.extend(more::entries());
    table.extend(streams::entries());
    // Small inputs, small gradients: nothing may hide behind the tolerance.
    table.push(entry("mul small", &[&[3, 5], &[5]], |t, v| t.mul(v[0], v[1])).values(|v| v * 0.1));
    table.push(
        entry("exp negative", &[&[9]], |t, v| t.exp(v[0])).values(|v| v - 2.0).tolerance(5e-3),
    );
    table
}
