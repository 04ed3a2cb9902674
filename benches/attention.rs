//! Attention over packed sequences, forward and backward, at the sizes of a small and of a base
//! BERT, in each kernel family that this adapter runs: each kernel's first run, which compiles it,
//! and the best of the medians after.
//!
//! `cargo bench --bench attention`; `FAMILY=wide` takes one family. A driver that keeps compiled
//! shaders on disk shows its compilation only once (Mesa: `MESA_SHADER_CACHE_DISABLE=true`).

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::random;
use modalign::plan::{Spaces, Step};
use modalign::{Gpu, Result, Tape};

/// Lengths between 3 and 50, 18 on average, that fill `rows` but for a few.
fn lengths(rows: usize) -> Vec<usize> {
    let typical = [12, 31, 7, 18, 3, 24, 14, 50, 9, 16, 21, 5, 28, 11, 20, 19];
    let fits = |left: &mut usize, length: usize| {
        *left = left.checked_sub(length)?;
        Some(length)
    };
    typical.into_iter().cycle().scan(rows, fits).collect()
}

/// Tokens and spans of sequences of these lengths.
fn packed(lengths: &[usize], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut spans) = (Vec::new(), Vec::new());
    for (sample, length) in lengths.iter().enumerate() {
        spans.extend([tokens.len() as u32 / 4, *length as u32]);
        tokens.extend((0..*length).flat_map(|p| [1, p as u32, *length as u32, sample as u32]));
    }
    tokens.resize(4 * rows, 0);
    (tokens, spans)
}

/// What is timed.
#[derive(Clone, Copy)]
struct Try {
    rows: usize,
    heads: usize,
    head: usize,
    dropout: f32,
    /// Whether only one query of each sample asks.
    first: bool,
}

fn time(gpu: &Gpu, t: Try) -> Result<()> {
    let lengths = lengths(t.rows);
    let (ids, ranges) = packed(&lengths, t.rows);
    let (samples, hidden) = (lengths.len(), t.heads * t.head);
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let words = (t.rows + samples) * 3 * hidden;
    let (value, grad) = (spaces.declare("values", words), spaces.declare("grads", words));
    let (tokens, spans) =
        (spaces.declare("tokens", ids.len()), spaces.declare("spans", samples * 2));
    let at = (t.rows * 3 * hidden).next_multiple_of(64);
    let mut given =
        |name, rows, cols, at| tape.parameter(name, &[rows, cols], (value, at), Some((grad, at)));
    let y = if t.first {
        let (q, kv) = (given("q", samples, hidden, at), given("kv", t.rows, 2 * hidden, 0));
        let tokens = tape.input("tokens", &[t.rows, 4], tokens, 0);
        let spans = tape.input("spans", &[samples, 2], spans, 0);
        tape.attention_first(q, kv, tokens, spans, t.heads, t.dropout)?
    } else {
        let qkv = given("qkv", t.rows, 3 * hidden, 0);
        let tokens = tape.input("tokens", &[t.rows, 4], tokens, 0);
        tape.attention(qkv, tokens, t.heads, t.dropout)?
    };
    let y = tape.square(y)?;
    let loss = tape.sum(y)?;
    tape.backward(&[loss])?;
    let (program, memory) = tape.compile(gpu, &spaces)?;
    let values: Vec<u32> = random(1, words).iter().map(|v| v.to_bits()).collect();
    memory.write(gpu, value, 0, &values);
    memory.write(gpu, tokens, 0, &ids);
    memory.write(gpu, spans, 0, &ranges);
    memory.write_step(gpu, &Step { seed: 1, step: 1, ..Step::default() });
    let first = program.time_each(gpu, 1)?;
    let mut times = program.time_each(gpu, 7)?;
    for _ in 0..20 {
        for (best, time) in times.iter_mut().zip(program.time_each(gpu, 7)?) {
            *best = time.min(*best);
        }
    }
    let Try { rows, heads, head, dropout, .. } = t;
    let kind = if t.first { ", first queries" } else { "" };
    let family = gpu.caps().family;
    println!("{family}: {rows} rows, {samples} sequences, {heads}x{head}, dropout {dropout}{kind}");
    for ((dispatch, time), first) in program.plan().dispatches().iter().zip(times).zip(first) {
        let (name, ms) = (dispatch.kernel.name, |t: std::time::Duration| t.as_secs_f64() * 1e3);
        if name.starts_with("attention") {
            println!("    {name:<24} {:>8.3} ms, first {:>7.1} ms", ms(time), ms(first));
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let only = std::env::var("FAMILY").unwrap_or_default();
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let options = GpuOptions { family: Some(family), quiet: true, ..Default::default() };
        let gpu = Gpu::with(&options)?;
        let found = gpu.caps().family;
        let missing = matches!(family, Family::Wide(_)) && found.lanes() == 0;
        if missing || !found.to_string().starts_with(&only) {
            continue;
        }
        for (rows, head) in [(304, 32), (800, 64)] {
            for (dropout, first) in [(0.0, false), (0.1, false), (0.1, true)] {
                time(&gpu, Try { rows, heads: 12, head, dropout, first })?;
            }
        }
    }
    Ok(())
}
