//! Attention over packed sequences at the two sizes that matter here, in each kernel family that
//! this adapter runs: the first run of each kernel (its compilation with it) and the median after.
//!
//! `cargo bench --bench attention`; `FAMILY=wide` takes one family.

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::random;
use modalign::plan::{Spaces, Step};
use modalign::{Gpu, Result, Tape};
use std::time::Instant;

/// Lengths between 3 and 50, 18 on average, that fill `rows` but for at most a few.
fn lengths(rows: usize) -> Vec<usize> {
    let typical = [12, 31, 7, 18, 3, 24, 14, 50, 9, 16, 21, 5, 28, 11, 20, 19];
    let (mut list, mut left) = (Vec::new(), rows);
    for length in typical.into_iter().cycle() {
        if length > left {
            break;
        }
        list.push(length);
        left -= length;
    }
    list
}

fn tokens(lengths: &[usize], rows: usize) -> Vec<u32> {
    let mut list = Vec::new();
    for (sample, length) in lengths.iter().enumerate() {
        list.extend((0..*length).flat_map(|p| [1, p as u32, *length as u32, sample as u32]));
    }
    list.resize(4 * rows, 0);
    list
}

fn time(gpu: &Gpu, rows: usize, heads: usize, head: usize, dropout: f32) -> Result<()> {
    let lengths = lengths(rows);
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let wide = 3 * heads * head;
    let value = spaces.declare("qkv", rows * wide);
    let grad = spaces.declare("d.qkv", rows * wide);
    let ids = spaces.declare("tokens", rows * 4);
    let x = tape.parameter("qkv", &[rows, wide], (value, 0), Some((grad, 0)));
    let ids_var = tape.input("tokens", &[rows, 4], ids, 0);
    let y = tape.attention(x, ids_var, heads, dropout)?;
    let y = tape.square(y)?;
    let loss = tape.sum(y)?;
    tape.backward(&[loss])?;
    let (program, memory) = tape.compile(gpu, &spaces)?;
    let values: Vec<u32> = random(1, rows * wide).iter().map(|v| v.to_bits()).collect();
    memory.write(gpu, value, 0, &values);
    memory.write(gpu, ids, 0, &tokens(&lengths, rows));
    memory.write_step(gpu, &Step { seed: 1, step: 1, ..Step::default() });
    let start = Instant::now();
    let first = program.time_each(gpu, 1)?;
    let first_all = start.elapsed().as_secs_f64() * 1e3;
    let mut times = program.time_each(gpu, 7)?;
    for _ in 0..20 {
        for (best, time) in times.iter_mut().zip(program.time_each(gpu, 7)?) {
            *best = time.min(*best);
        }
    }
    println!(
        "{} {rows} rows in {} sequences, {heads} heads of {head}, dropout {dropout} (first run {first_all:.0} ms)",
        gpu.caps().family,
        lengths.len()
    );
    for ((dispatch, time), first) in program.plan().dispatches().iter().zip(times).zip(first) {
        if dispatch.kernel.name.starts_with("attention") {
            println!(
                "    {:<24} {:>8.3} ms   first {:>7.1} ms",
                dispatch.kernel.name,
                time.as_secs_f64() * 1e3,
                first.as_secs_f64() * 1e3
            );
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let only = std::env::var("FAMILY").unwrap_or_default();
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let options = GpuOptions { family: Some(family), quiet: true, ..Default::default() };
        let gpu = Gpu::with(&options)?;
        let name = gpu.caps().family.to_string();
        if !name.starts_with(&only) || (matches!(family, Family::Wide(_)) && name == "plain") {
            continue;
        }
        for dropout in [0.0, 0.1] {
            if std::env::var("ONLY").is_err() {
                time(&gpu, 304, 12, 32, dropout)?;
            }
            if std::env::var("ONLY").is_ok() && dropout > 0.0 {
                continue;
            }
            time(&gpu, 800, 12, 64, dropout)?;
        }
    }
    Ok(())
}
