//! What models of several streams have beside the products: attention from one stream to another,
//! convolution over time, batch normalisation, rows by number, segments. Sizes are those of MulT on
//! MOSI (16 samples, 50 words, 500 frames of video) and of graph attention on a few thousand edges.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::ops::attention::Asking;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::conv::Conv1d;

pub(super) fn add(all: &mut Vec<Entry>) {
    for (steps, kv_steps, heads, head) in [(50, 500, 10, 5), (50, 500, 10, 8)] {
        all.push(cross_attention(steps, kv_steps, heads, head));
    }
    for (steps, c_in) in [(50, 768), (500, 20)] {
        all.push(conv1d(steps, c_in));
    }
    for axis in [2, 1] {
        all.push(batch_norm(axis));
    }
    all.push(gather());
    all.push(segments());
}

fn cross_attention(steps: usize, kv_steps: usize, heads: usize, head: usize) -> Entry {
    const BATCH: usize = 16;
    let parts = Rows::Each(&[
        ("attention", &[""]),
        ("attention_backward_q", &[""]),
        ("attention_backward_kv", &[""]),
    ]);
    let shape = format!("{BATCH} × {steps} to {kv_steps} steps, {heads} × {head}, dropout 0.2");
    Entry::new("attention", shape, parts, move |_| {
        let mut bed = Bed::new();
        let q = bed.watched("q", &[BATCH, steps, heads * head]);
        let kv = bed.watched("kv", &[BATCH, kv_steps, 2 * heads * head]);
        let ahead = Some(kv_steps.abs_diff(steps));
        let how = Asking { heads, dropout: 0.2, ahead, lengths: None };
        let y = bed.tape.cross_attention(q, kv, how)?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

fn conv1d(steps: usize, c_in: usize) -> Entry {
    let parts = Rows::Each(&[("unfold", &[""]), ("unfold_backward", &[""])]);
    Entry::new("unfold", format!("16 × {steps} × {c_in}, 5 taps"), parts, move |_| {
        let mut bed = Bed::new();
        let x = bed.watched("x", &[16, steps, c_in]);
        let w = bed.parameter("w", &[50, c_in, 5]);
        let y = bed.tape.conv1d(x, w, None, Conv1d::default())?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

fn batch_norm(axis: usize) -> Entry {
    let parts = Rows::Each(&[("batch_norm", &[""]), ("batch_norm_backward", &[""])]);
    let of = if axis == 2 { "features" } else { "time" };
    Entry::new("batch_norm", format!("32 × 50 × 793 over {of}"), parts, move |_| {
        let mut bed = Bed::new();
        let x = bed.watched("x", &[32, 50, 793]);
        let channels = if axis == 2 { 793 } else { 50 };
        let gb = bed.parameter("gb", &[2, channels]);
        let y =
            bed.tape.batch_norm(x, BatchNorm { gb: Some(gb), ..BatchNorm::over(axis) }, true)?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

fn gather() -> Entry {
    let parts = Rows::Each(&[
        ("gather", &[""]),
        ("sort_rows", &["blocks", "runs"]),
        ("scatter_add", &[""]),
    ]);
    Entry::new("gather", "4096 of 1024 × 128", parts, |_| {
        let mut bed = Bed::new();
        let x = bed.watched("x", &[1024, 128]);
        let ids = (0..4096_u32).map(|i| i.wrapping_mul(2_654_435_761) % 1024).collect();
        let ids = bed.words("ids", &[4096], ids);
        let y = bed.tape.gather(x, ids)?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

fn segments() -> Entry {
    let parts = Rows::Each(&[("segment_reduce", &[""]), ("segment_spread", &[""])]);
    Entry::new("segment_reduce", "4096 × 128 in 1024", parts, |_| {
        let mut bed = Bed::new();
        let x = bed.watched("x", &[4096, 128]);
        let offsets = bed.words("offsets", &[1025], (0..=1024).map(|s| 4 * s).collect());
        let y = bed.tape.segment_sum(x, offsets)?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}
