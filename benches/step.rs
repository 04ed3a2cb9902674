//! One training step of the three-modality model at the size of CMU-MOSI's unaligned features,
//! in each kernel family that this adapter runs: dispatches, encode time, end-to-end time.
//!
//! `cargo bench --bench step`; `STEPS=375` sets the longest sequence, `EACH=1` lists the
//! slowest dispatches of each family. Ratios between rows of one
//! run are worth quoting; a lone time is not.

use modalign::data::{Dataset, SynthConfig, synth};
use modalign::gpu::{Family, GpuOptions};
use modalign::plan::Clock;
use modalign::recipe::Config;
use modalign::train::{By, Session};
use modalign::{Gpu, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() -> Result<()> {
    let steps: usize = std::env::var("STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(375);
    let folder =
        tempfile::tempdir().map_err(modalign::Error::io("create", "a temporary folder"))?;
    let path = folder.path().join("mosi-shaped.safetensors");
    let mut shape = SynthConfig { train: 160, valid: 16, test: 16, ..SynthConfig::default() };
    (shape.text.dim, shape.text.steps, shape.text.min_steps) = (768, 1, 1);
    (shape.audio.dim, shape.audio.steps, shape.audio.min_steps) = (5, steps, steps / 2);
    (shape.vision.dim, shape.vision.steps, shape.vision.min_steps) = (20, steps, steps / 2);
    synth::write(&shape, &path)?;
    let data = Arc::new(Dataset::open(&path)?);
    println!(
        "{:<8} {:>10} {:>12} {:>12} {:>12}",
        "kernels", "dispatches", "first ms", "step ms", "samples/s"
    );
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        let options = GpuOptions { family: Some(family), quiet: true, ..Default::default() };
        let gpu = Gpu::with(&options)?;
        if matches!(family, Family::Wide(_)) && gpu.caps().family.lanes() == 0 {
            continue;
        }
        let config = Config::default();
        let mut session = Session::new(&gpu, &config, data.clone(), None, true)?;
        session.initialise()?;
        let dispatches = session.step_plan()?.dispatches().len();
        let order: Vec<u32> = (0..160).collect();
        let start = Instant::now();
        session.train_epoch(1, order[..16].to_vec(), |_, _| Ok(()))?;
        let first = start.elapsed().as_secs_f64() * 1e3;
        let mut times = Vec::new();
        for epoch in 2..5 {
            let start = Instant::now();
            session.train_epoch(epoch, order.clone(), |_, _| Ok(()))?;
            times.push(start.elapsed() / 10);
        }
        let step = median(times);
        println!(
            "{:<8} {dispatches:>10} {first:>12.1} {step:>12.2} {:>12.0}",
            gpu.caps().family.to_string(),
            16.0 / step * 1e3
        );
        if std::env::var_os("EACH").is_some() {
            let profile = session.profile(5, &Clock::new(&gpu)?)?;
            for row in profile.rows(By::Dispatch, |_| 0.0).iter().take(14) {
                println!("    {:>8.3} ms  {}", row.seconds * 1e3, row.name);
            }
        }
    }
    Ok(())
}
