//! Entries for what models of streams need: masked softmax, attention between streams, convolution
//! over time, batch normalisation, rows gathered and scattered, segments, positions.

use super::{Entry, classes, entry};
use crate::ops::attention::Asking;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::conv::Conv1d;
use crate::ops::masked::Keep;
use crate::ops::positions::Sinusoid;
use crate::ops::{Act, random};
use crate::{Result, Tape, Var};

/// All of them.
pub fn entries() -> Vec<Entry> {
    let mut all = masked();
    all.extend(attentions());
    all.extend(convolutions());
    all.extend(batch_norms());
    all.extend(rows());
    all.extend(segments());
    all.extend(positions());
    all
}

/// Unsigned integers; a constant holds their bits.
fn unsigned(tape: &mut Tape, list: &[u32]) -> Result<Var> {
    classes(tape, list)
}

fn masked() -> Vec<Entry> {
    vec![
        // One row keeps nothing, one more than there is.
        entry("masked_softmax lengths", &[&[4, 5]], |t, v| {
            let lengths = unsigned(t, &[3, 0, 9, 1])?;
            t.masked_softmax(v[0], Keep::Lengths(lengths))
        }),
        entry("masked_softmax shared lengths", &[&[2, 3, 8]], |t, v| {
            let lengths = unsigned(t, &[6, 3])?;
            t.masked_softmax(v[0], Keep::Lengths(lengths))
        }),
        entry("masked_softmax mask", &[&[2, 2, 8]], |t, v| {
            let mask: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i % 3 != 1))).collect();
            let mask = t.constant("mask", &[2, 8], &mask)?;
            t.masked_softmax(v[0], Keep::Mask(mask))
        }),
    ]
}

fn attentions() -> Vec<Entry> {
    let how = |heads, dropout, ahead| Asking { heads, dropout, ahead, lengths: None };
    vec![
        entry("cross_attention", &[&[2, 3, 8], &[2, 5, 16]], move |t, v| {
            t.cross_attention(v[0], v[1], how(2, 0.0, None))
        }),
        // Heads of five, as MulT's; queries that see no more than their own step and two.
        entry("cross_attention ahead", &[&[2, 5, 10], &[2, 3, 20]], move |t, v| {
            t.cross_attention(v[0], v[1], how(2, 0.0, Some(2)))
        }),
        entry("cross_attention dropout", &[&[2, 4, 6], &[2, 3, 12]], move |t, v| {
            t.cross_attention(v[0], v[1], how(2, 0.3, None))
        }),
        // One sample has no key, one more than there are.
        entry("cross_attention lengths", &[&[3, 2, 4], &[3, 4, 8]], move |t, v| {
            let lengths = unsigned(t, &[3, 0, 9])?;
            let how = Asking { lengths: Some(lengths), ..how(1, 0.0, Some(1)) };
            t.cross_attention(v[0], v[1], how)
        }),
        entry("padded_attention causal", &[&[2, 4, 15]], move |t, v| {
            t.padded_attention(v[0], how(1, 0.0, Some(0)))
        }),
        entry("padded_attention twice", &[&[2, 3, 24]], move |t, v| {
            // The second use adds to both kernels' columns.
            let lengths = unsigned(t, &[3, 2])?;
            let once = t.padded_attention(v[0], how(2, 0.2, None))?;
            let how = Asking { lengths: Some(lengths), ..how(2, 0.0, None) };
            let again = t.padded_attention(v[0], how)?;
            t.add(once, again)
        }),
    ]
}

fn convolutions() -> Vec<Entry> {
    let as_usual = Conv1d::default();
    vec![
        entry("conv1d", &[&[2, 6, 3], &[4, 3, 3], &[4]], move |t, v| {
            t.conv1d(v[0], v[1], Some(v[2]), as_usual)
        }),
        entry("conv1d of one tap", &[&[2, 3, 4], &[5, 4, 1], &[5]], move |t, v| {
            t.conv1d(v[0], v[1], Some(v[2]), as_usual)
        }),
        entry("conv1d no bias, stride, dilation", &[&[2, 9, 2], &[3, 2, 3]], |t, v| {
            let how = Conv1d { stride: 2, padding: 1, dilation: 2 };
            t.conv1d(v[0], v[1], None, how)
        }),
        entry("conv1d twice", &[&[1, 5, 4], &[4, 4, 3]], |t, v| {
            // The second use adds to both gradients.
            let how = Conv1d { padding: 1, ..Default::default() };
            let once = t.conv1d(v[0], v[1], None, how)?;
            let again = t.conv1d(once, v[1], None, how)?;
            t.add(again, v[0])
        }),
        entry("conv1d of data", &[&[3, 2, 2], &[3]], |t, v| {
            let x = t.constant("x", &[2, 4, 2], &random(3, 16))?;
            t.conv1d(x, v[0], Some(v[1]), Conv1d::default())
        }),
    ]
}

fn batch_norms() -> Vec<Entry> {
    // A tensor that may be written.
    fn state(t: &mut Tape, channels: usize) -> Result<Var> {
        let values: Vec<f32> = (0..2 * channels).map(|i| 0.3 + 0.1 * i as f32).collect();
        let start = t.constant("start", &[2, channels], &values)?;
        t.scale(start, 1.0)
    }
    let all = vec![
        entry("batch_norm features", &[&[7, 3], &[2, 3]], |t, v| {
            let running = Some(state(t, 3)?);
            let how = BatchNorm { gb: Some(v[1]), running, ..BatchNorm::over(1) };
            t.batch_norm(v[0], how, true)
        }),
        entry("batch_norm features of steps", &[&[2, 4, 5]], |t, v| {
            t.batch_norm(v[0], BatchNorm::over(2), true)
        }),
        entry("batch_norm time", &[&[3, 2, 4], &[2, 2]], |t, v| {
            let how = BatchNorm { gb: Some(v[1]), eps: 0.1, ..BatchNorm::over(1) };
            t.batch_norm(v[0], how, true)
        }),
        entry("batch_norm evaluation", &[&[3, 2, 4], &[2, 2]], |t, v| {
            let running = Some(state(t, 2)?);
            let how = BatchNorm { gb: Some(v[1]), running, ..BatchNorm::over(1) };
            t.batch_norm(v[0], how, false)
        }),
        entry("batch_norm weights only", &[&[2, 3]], |t, v| {
            let x = t.constant("x", &[5, 3], &random(3, 15))?;
            t.batch_norm(x, BatchNorm { gb: Some(v[0]), ..BatchNorm::over(1) }, true)
        }),
        entry("batch_norm twice", &[&[4, 3], &[2, 3]], |t, v| {
            // Both uses add to both gradients.
            let how = BatchNorm { gb: Some(v[1]), ..BatchNorm::over(1) };
            let once = t.batch_norm(v[0], how, true)?;
            let again = t.batch_norm(v[0], how, true)?;
            t.mul(once, again)
        }),
    ];
    all.into_iter().map(|e| e.step(5e-3)).collect()
}

fn rows() -> Vec<Entry> {
    vec![
        // A row that comes up twice, one that never does, a number past the last row.
        entry("gather", &[&[4, 5]], |t, v| {
            let ids = unsigned(t, &[2, 0, 2, 7, 3, 0])?;
            t.gather(v[0], ids)
        }),
        entry("gather twice", &[&[4, 8]], |t, v| {
            // Sorted once; the second use adds to the rows of the first.
            let ids = unsigned(t, &[3, 1, 3])?;
            let ids = t.sort_rows(ids)?;
            let (once, again) = (t.gather(v[0], ids)?, t.gather(v[0], ids)?);
            t.mul(once, again)
        }),
        entry("gather more than a block", &[&[3, 2]], |t, v| {
            let ids: Vec<u32> = (0..300).map(|i| i * i % 3).collect();
            let ids = unsigned(t, &ids)?;
            let all = t.gather(v[0], ids)?;
            t.scale(all, 0.1)
        }),
        entry("embedding", &[&[9, 4]], |t, v| {
            let ids = t.rows("ids", &[8, 1, 1, 5, 0, 1], 9)?;
            t.embedding(v[0], ids)
        }),
        entry("scatter", &[&[5, 3]], |t, v| {
            let ids = unsigned(t, &[4, 0, 4, 9, 1])?;
            t.scatter(v[0], ids, 6)
        }),
        entry("scatter_add", &[&[4, 4], &[3, 4]], |t, v| {
            let ids = t.rows("ids", &[2, 0, 2], 4)?;
            t.scatter_add(v[0], v[1], ids)
        }),
    ]
}

fn segments() -> Vec<Entry> {
    // An empty segment between others.
    let offsets = |t: &mut Tape| t.segments("offsets", &[0, 3, 3, 4, 7], 7);
    vec![
        entry("segment_sum", &[&[7, 3]], move |t, v| {
            let offsets = offsets(t)?;
            t.segment_sum(v[0], offsets)
        }),
        entry("segment_sum vectors", &[&[7, 4]], |t, v| {
            // Rows before and behind all segments.
            let offsets = unsigned(t, &[1, 3, 3, 6])?;
            t.segment_sum(v[0], offsets)
        }),
        entry("segment_mean", &[&[7, 2]], move |t, v| {
            let offsets = offsets(t)?;
            t.segment_mean(v[0], offsets)
        }),
        entry("segment_max", &[&[7, 4]], move |t, v| {
            let offsets = offsets(t)?;
            t.segment_max(v[0], offsets)
        })
        .step(1e-3),
        entry("segment_softmax", &[&[7, 2]], move |t, v| {
            let offsets = offsets(t)?;
            t.segment_softmax(v[0], offsets)
        }),
        entry("segment_softmax of some rows", &[&[7, 4]], |t, v| {
            let offsets = unsigned(t, &[1, 3, 6])?;
            t.segment_softmax(v[0], offsets)
        }),
        entry("attention over edges", &[&[4, 5], &[4, 1], &[4, 1]], |t, v| {
            // As graph attention has it: a score of both ends, softmax over those that lead to one
            // node, the weighted sum of where they come from.
            let to = t.rows("to", &[0, 0, 0, 1, 1, 3], 4)?;
            let from = t.rows("from", &[0, 2, 3, 1, 0, 3], 4)?;
            let offsets = t.segments("offsets", &[0, 3, 5, 5, 6], 6)?;
            let (a, b) = (t.gather(v[1], to)?, t.gather(v[2], from)?);
            let score = t.add(a, b)?;
            // Something bent, as there is in every such model: softmax does not see what all share.
            let score = t.activate(score, Act::Tanh)?;
            let share = t.segment_softmax(score, offsets)?;
            let h = t.gather(v[0], from)?;
            let weighted = t.mul(h, share)?;
            t.segment_sum(weighted, offsets)
        }),
    ]
}

fn positions() -> Vec<Entry> {
    vec![
        entry("sinusoid halves", &[&[2, 3, 5]], |t, v| t.sinusoid(v[0], Sinusoid::Halves, 2.0)),
        entry("sinusoid padded", &[&[2, 3, 8]], |t, v| {
            t.sinusoid(v[0], Sinusoid::HalvesPadded, 1.5)
        }),
        entry("sinusoid interleaved", &[&[1, 4, 6]], |t, v| {
            let once = t.sinusoid(v[0], Sinusoid::Interleaved, 1.0)?;
            t.mul(once, v[0])
        }),
    ]
}
