//! What a text encoder has beside its products, over packed sentences.

use super::adam::shape;
use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::ops::embed::{Embed, WordPart, rest_runs, sort_runs};
use crate::tape::Var;

/// Sentences of 3 to 50 tokens, 18 on average, that fill rows but for a few.
struct Packed {
    lengths: Vec<usize>,
    /// Word, position, length and sample of each row.
    tokens: Vec<u32>,
    /// First row and length of each sentence.
    spans: Vec<u32>,
}

fn packed(rows: usize, vocab: u32) -> Packed {
    let typical = [12, 31, 7, 18, 3, 24, 14, 50, 9, 16, 21, 5, 28, 11, 20, 19];
    let fits = |left: &mut usize, length: usize| {
        *left = left.checked_sub(length)?;
        Some(length)
    };
    let lengths: Vec<usize> = typical.into_iter().cycle().scan(rows, fits).collect();
    let (mut tokens, mut spans) = (Vec::new(), Vec::new());
    for (sample, length) in lengths.iter().enumerate() {
        let first = tokens.len() as u32 / 4;
        spans.extend([first, *length as u32]);
        tokens.extend((0..*length as u32).flat_map(|p| {
            // Far apart in the table, as words are.
            let word = (first + p + 1).wrapping_mul(2_654_435_761) % vocab;
            [word, p, *length as u32, sample as u32]
        }));
    }
    tokens.resize(4 * rows, 0);
    Packed { lengths, tokens, spans }
}

pub(super) fn add(all: &mut Vec<Entry>) {
    for (rows, head) in [(304, 32), (800, 64)] {
        for (dropout, first) in [(0.0, false), (0.1, false), (0.1, true)] {
            all.push(attention(rows, head, dropout, first));
        }
    }
    all.push(biased(800, 64));
    for one in [norm, embedding] {
        all.extend([(304, 384), (800, 768)].map(|(rows, hidden)| one(rows, hidden)));
    }
    for (rows, cols) in [(9600, 64), (1024, 1024)] {
        let parts = Rows::Each(&[("softmax", &[""]), ("softmax_backward", &[""])]);
        all.push(Entry::new("softmax", format!("{rows} × {cols}"), parts, move |_| {
            let mut bed = Bed::new();
            let x = bed.watched("x", &[rows, cols]);
            let y = bed.tape.softmax(x)?;
            bed.backward(y)?;
            Ok(bed)
        }));
    }
    let parts = Rows::Each(&[("cross_entropy", &[""]), ("cross_entropy_backward", &[""])]);
    all.push(Entry::new("cross_entropy", "1024 × 1000", parts, |_| {
        let mut bed = Bed::new();
        let x = bed.watched("x", &[1024, 1000]);
        let targets = bed.words("targets", &[1024], (0..1024).map(|r| r * 7 % 1000).collect());
        let y = bed.tape.cross_entropy(x, targets)?;
        bed.tape.backward(&[y])?;
        Ok(bed)
    }));
}

fn attention(rows: usize, head: usize, dropout: f32, first: bool) -> Entry {
    const HEADS: usize = 12;
    let parts = Rows::Each(&[
        ("attention", &[""]),
        ("attention_backward_q", &[""]),
        ("attention_backward_kv", &[""]),
    ]);
    let asks = if first { ", one query a sample" } else { "" };
    let shape = format!("{rows} rows, {HEADS} × {head}, dropout {dropout}{asks}");
    Entry::new("attention", shape, parts, move |_| {
        let mut bed = Bed::new();
        let Packed { lengths, tokens, spans } = packed(rows, 30_522);
        let (samples, hidden) = (lengths.len(), HEADS * head);
        let tokens = bed.words("tokens", &[rows, 4], tokens);
        let y = if first {
            let spans = bed.words("spans", &[samples, 2], spans);
            let q = bed.watched("q", &[samples, hidden]);
            let kv = bed.watched("kv", &[rows, 2 * hidden]);
            bed.tape.attention_first(q, kv, tokens, spans, HEADS, dropout)?
        } else {
            let qkv = bed.watched("qkv", &[rows, 3 * hidden]);
            bed.tape.attention(qkv, tokens, HEADS, dropout)?
        };
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

/// The same with MPNet's bias by distance, up to that of its longest sentences.
fn biased(rows: usize, head: usize) -> Entry {
    const HEADS: usize = 12;
    let parts = Rows::Each(&[
        ("attention", &[""]),
        ("attention_backward_q", &[""]),
        ("attention_backward_kv", &[""]),
        ("attention_backward_bias", &[""]),
    ]);
    let shape = format!("{rows} rows, {HEADS} × {head}, bias");
    Entry::new("attention", shape, parts, move |_| {
        let mut bed = Bed::new();
        let tokens = bed.words("tokens", &[rows, 4], packed(rows, 30_522).tokens);
        let qkv = bed.watched("qkv", &[rows, 3 * HEADS * head]);
        let bias = bed.watched("bias", &[1023, HEADS]);
        let y = bed.tape.biased_attention(qkv, tokens, bias, HEADS, 0.1)?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

fn norm(rows: usize, hidden: usize) -> Entry {
    let parts = Rows::Each(&[("residual_norm", &[""]), ("residual_norm_backward", &[""])]);
    let shape = format!("{rows} × {hidden}, dropout 0.1");
    Entry::new("residual_norm", shape, parts, move |_| {
        let mut bed = Bed::new();
        let (x, y) = (bed.watched("x", &[rows, hidden]), bed.watched("y", &[rows, hidden]));
        let gb = bed.parameter("gb", &[2, hidden]);
        let z: Var = bed.tape.residual_norm(x, y, gb, 1e-12, 0.1)?;
        let z = bed.tape.square(z)?;
        bed.backward(z)?;
        Ok(bed)
    })
}

fn embedding(rows: usize, hidden: usize) -> Entry {
    let parts = Rows::Each(&[("embed", &[""]), ("embed_backward", &["words", "positions"])]);
    Entry::new("embed", format!("{rows} × {hidden}, 30522 words"), parts, move |_| {
        let mut bed = Bed::new();
        let bert = shape(hidden, 1);
        let tables = bert.tables();
        let runs = rest_runs(rows, tables);
        let Packed { tokens, .. } = packed(rows, bert.vocab as u32);
        let (mut order, mut list) = (vec![0; 3 * rows], vec![0; 4 * (rows + runs)]);
        sort_runs(&tokens, tables, &mut order, &mut list);
        let word = bed.parameter("word", &[bert.vocab, hidden]);
        let e = Embed {
            tokens: bed.words("tokens", &[rows, 4], tokens),
            words: vec![WordPart { var: word, base: 0 }],
            rest: bed.parameter("rest", &[tables.rows(), hidden]),
            tables,
            gb: bed.parameter("gb", &[2, hidden]),
            eps: bert.eps,
            dropout: 0.1,
            order: bed.words("order", &[3 * rows], order),
            runs: bed.words("runs", &[rows + runs, 4], list),
            rest_runs: runs,
        };
        let y = bed.tape.embed(e)?;
        let y = bed.tape.square(y)?;
        bed.backward(y)?;
        Ok(bed)
    })
}
