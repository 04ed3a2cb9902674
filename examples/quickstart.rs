//! A data set with known factors, a trained model, its test metrics: the whole of it in a page.
//!
//! `cargo run --release --example quickstart`

use modalign::data::{SynthConfig, synth};
use modalign::recipe::Config;
use modalign::train::{EpochRecord, Observer, RunOptions, train};
use modalign::{Error, Gpu, Result};

/// Prints a line for each epoch.
struct Progress;

impl Observer for Progress {
    fn epoch(&mut self, record: &EpochRecord) {
        let valid = record.valid_loss.unwrap_or(f64::NAN);
        let best = if record.best { "  best so far" } else { "" };
        println!("epoch {:>2}  loss {:.3}  valid MAE {valid:.3}{best}", record.epoch, record.loss);
    }
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let data = folder.path().join("synthetic.safetensors");
    synth::write(&SynthConfig::default(), &data)?;

    let gpu = Gpu::new()?;
    let settings = ["train.max_epochs=8".to_string(), "model.dropout=0".to_string()];
    let config = Config::build("mosi", None, &settings)?;
    let run = RunOptions { data, out: folder.path().join("run"), config, init: None, fold: None };
    let outcome = train(&gpu, &run, &mut Progress)?;
    if let Some(test) = outcome.test {
        println!("test {} (epoch {})", test.headline(3), outcome.best_epoch);
    }
    Ok(())
}
