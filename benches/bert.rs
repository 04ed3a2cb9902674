//! Fine-tuning a pretrained encoder on real sentences: one epoch's steps and tokens a second, and
//! where the time of a typical step goes.
//!
//! `MODALIGN_BERT=FOLDER MODALIGN_DATA=FILE cargo bench --bench bert`; the data needs raw_text or
//! text_bert. `STEPS=20` sets how many steps are timed, `SET="bert.pooling=mean"` changes settings.

use modalign::gpu::GpuOptions;
use modalign::plan::Clock;
use modalign::recipe::Config;
use modalign::train::{By, Session, open_data};
use modalign::{Gpu, Result};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<()> {
    let (Ok(encoder), Ok(data)) = (std::env::var("MODALIGN_BERT"), std::env::var("MODALIGN_DATA"))
    else {
        println!("set MODALIGN_BERT to an encoder's folder and MODALIGN_DATA to a data set");
        return Ok(());
    };
    let count: usize = std::env::var("STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let settings = ["model.text_encoder=bert", "model.modalities=T"].map(String::from);
    let mut settings = settings.to_vec();
    settings.push(format!("bert.path={encoder}"));
    let more = std::env::var("SET").unwrap_or_default();
    settings.extend(more.split_whitespace().map(String::from));
    let config = Config::build("mosi", None, &settings)?;
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() })?;
    let data = open_data(&gpu, Path::new(&data), &config, Path::new(&encoder))?;
    let mut session = Session::new(&gpu, &config, data.clone(), None, true)?;
    session.initialise()?;
    let mib = session.bytes() >> 20;
    let plan = session.step_plan()?;
    println!(
        "{} dispatches, {:.1} GFLOP at the longest batch, {mib} MiB",
        plan.dispatches().len(),
        plan.flops() as f64 * 1e-9,
    );

    let order = session.order(1);
    let batch = config.train.batch_size;
    let order = &order[..order.len().min(batch * count)];
    let tokens: usize = data.text().map_or(0, |text| {
        let rows = text.tokens.split(modalign::data::SplitName::Train);
        rows.map_or(0, |rows| order.iter().map(|row| rows.len(*row as usize)).sum())
    });
    // The first pass prepares the plans of all lengths.
    session.train_epoch(1, order.to_vec(), |_, _| Ok(()))?;
    let start = Instant::now();
    session.train_epoch(2, order.to_vec(), |_, _| Ok(()))?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:.0} ms a step of {batch} sentences and {} tokens, {:.0} tokens/s",
        seconds * 1e3 / (order.len() as f64 / batch as f64),
        tokens * batch / order.len(),
        tokens as f64 / seconds
    );

    let profile = session.profile(3, &Clock::new(&gpu)?)?;
    println!(
        "a typical batch, {} token rows: {:.0} ms, its dispatches {:.0} ms",
        profile.tokens,
        profile.step * 1e3,
        profile.sum() * 1e3
    );
    for row in profile.rows(By::Kernel, |_| 0.0).iter().take(12) {
        let (ms, share) = (row.seconds * 1e3, row.share * 100.0);
        println!("{:<24} {:>4} x {ms:>8.1} ms {share:>5.1} %", row.name, row.calls);
    }
    Ok(())
}
