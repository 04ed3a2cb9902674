//! Fine-tuning a pretrained encoder on real sentences: one epoch's steps and tokens a second, and
//! where the time of the longest possible step goes.
//!
//! `MODALIGN_BERT=FOLDER MODALIGN_DATA=FILE cargo bench --bench bert`; the data needs raw_text or
//! text_bert. `STEPS=20` sets how many steps are timed, `SET="bert.pooling=mean"` changes settings.

use modalign::gpu::GpuOptions;
use modalign::recipe::Config;
use modalign::train::{Session, open_data};
use modalign::{Gpu, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

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

    let mut kernels: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    let each = session.time_step(3)?;
    let total: Duration = each.iter().map(|(_, t)| *t).sum();
    for (name, time) in each {
        let kernel = name.split(' ').next().unwrap_or_default().to_string();
        let entry = kernels.entry(kernel).or_default();
        *entry = (entry.0 + 1, entry.1 + time);
    }
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by_key(|(_, (_, time))| std::cmp::Reverse(*time));
    println!("the longest batch, each dispatch alone: {:.0} ms", total.as_secs_f64() * 1e3);
    for (name, (calls, time)) in kernels.into_iter().take(12) {
        let share = time.as_secs_f64() / total.as_secs_f64() * 100.0;
        println!("{name:<24} {calls:>4} x {:>8.1} ms {share:>5.1} %", time.as_secs_f64() * 1e3);
    }
    Ok(())
}
