//! Inference inside another program: load a trained model, score a data file, keep the session.
//!
//! `cargo run --release --example embed_inference -- RUN DATA.safetensors`

use modalign::data::SplitName;
use modalign::train::{Saved, open_saved};
use modalign::{Error, Gpu, Result};
use std::path::Path;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run, data] = arguments.as_slice() else {
        return Err(Error::Config("want RUN and DATA.safetensors".into()));
    };
    let gpu = Gpu::new()?;
    let saved = Saved::load(Path::new(run))?;
    println!("{} of epoch {}", saved.path.display(), saved.card.epoch);

    let mut session = open_saved(&gpu, &saved, Path::new(data))?;
    let predictions = session.predict(SplitName::Test)?;
    for (row, scores) in predictions.scores.iter().take(5).enumerate() {
        let named: Vec<String> =
            predictions.tasks.iter().zip(scores).map(|(t, s)| format!("{t} {s:+.3}")).collect();
        println!("row {row}: {}", named.join("  "));
    }
    Ok(())
}
