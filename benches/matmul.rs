//! Products at the sizes of BERT's layers: forward (x wᵀ), towards the input (dy w) and towards the
//! weight (dyᵀ x), in GFLOP/s, each dispatch submitted alone.
//!
//! `cargo bench --bench matmul`; `ROWS=304` sets the token rows, `FAMILY=plain` the kernels.

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::{Act, random};
use modalign::plan::Spaces;
use modalign::{Gpu, Result, Tape};

fn main() -> Result<()> {
    let rows: usize = std::env::var("ROWS").ok().and_then(|s| s.parse().ok()).unwrap_or(304);
    let family = match std::env::var("FAMILY").as_deref() {
        Ok("plain") => Family::Plain,
        Ok("tiled") => Family::Tiled,
        _ => Family::Wide(0),
    };
    let gpu = Gpu::with(&GpuOptions { family: Some(family), quiet: true, ..Default::default() })?;
    println!("{} of {}, {rows} rows", gpu.caps().family, gpu.caps().name);
    println!("{:>6} {:>6} {:>10} {:>10} {:>10}", "in", "out", "forward", "dx", "dw");
    for (k, n) in [(384, 1152), (384, 384), (384, 1536), (1536, 384), (768, 3072)] {
        let mut spaces = Spaces::new();
        let value = spaces.declare("values", n * k);
        let grad = spaces.declare("grads", n * k);
        let input = spaces.declare("x", rows * k);
        let mut tape = Tape::new();
        let w = tape.parameter("w", &[n, k], (value, 0), Some((grad, 0)));
        let x = tape.input("x", &[rows, k], input, 0);
        tape.watch(x);
        let y = tape.linear(x, w, None, Act::None)?;
        let loss = tape.sum(y)?;
        tape.backward(&[loss])?;
        let (program, memory) = tape.compile(&gpu, &spaces)?;
        for (space, len) in [(value, n * k), (input, rows * k)] {
            let words: Vec<u32> = random(1, len).iter().map(|v| v.to_bits()).collect();
            memory.write(&gpu, space, 0, &words);
        }
        program.run(&gpu, &memory)?;
        let times = program.time_each(&gpu, 7)?;
        let speeds: Vec<String> = program
            .plan()
            .dispatches()
            .iter()
            .zip(times)
            .filter(|(d, _)| d.kernel.name == "matmul")
            .map(|(d, t)| format!("{:>10.1}", d.flops as f64 / t.as_secs_f64() / 1e9))
            .collect();
        println!("{k:>6} {n:>6} {}", speeds.join(" "));
    }
    Ok(())
}
