//! Training on rows that are in no file: a program makes each one when a batch needs it, on a thread ahead
//! of the device, and the run is an ordinary run folder all the same.
//!
//! `cargo run --release --example train_from_program [FOLDER]`

use modalign::data::{
    Contents, Dataset, Modality, Options, Source, SplitContents, SplitName, StreamContents,
    TargetValues,
};
use modalign::recipe::Config;
use modalign::train::{RunOptions, train_on};
use modalign::{Gpu, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const STEPS: usize = 40;
const FEATURES: usize = 4;

/// Tones and flashes: how fast they swing is what is to be told, in three classes.
#[derive(Debug)]
struct Signals;

/// Which class a row is of.
fn class(row: usize) -> u32 {
    (row * row % 3 + row % 2) as u32
}

impl Source for Signals {
    fn path(&self) -> &Path {
        Path::new("signals")
    }

    fn digest(&self) -> String {
        "signals, version 1".into()
    }

    fn values(&self, split: SplitName, stream: Modality, row: usize) -> Result<Cow<'_, [f32]>> {
        let slower = if stream == Modality::Audio { 3.0 } else { 5.0 };
        let pace = (1 + class(row)) as f32 / slower;
        let phase = (row * 37 + split.index() * 11) as f32;
        let at = |i: usize| (pace * (i / FEATURES) as f32 + phase + (i % FEATURES) as f32).sin();
        Ok(Cow::Owned((0..STEPS * FEATURES).map(at).collect()))
    }
}

/// What there is of a split, known before any row is made.
fn split(rows: usize) -> Result<SplitContents> {
    let stream = StreamContents { steps: STEPS, dim: FEATURES, ..StreamContents::default() };
    let streams = [Modality::Audio, Modality::named("flashes")?].map(|m| (m, stream.clone()));
    Ok(SplitContents {
        rows,
        streams: BTreeMap::from(streams),
        targets: Some(TargetValues::Classes((0..rows).map(class).collect())),
        ..SplitContents::default()
    })
}

fn main() -> Result<()> {
    let out = std::env::args().nth(1).map_or(PathBuf::from("runs/signals"), PathBuf::from);
    let splits = [
        (SplitName::Train, split(240)?),
        (SplitName::Valid, split(60)?),
        (SplitName::Test, split(60)?),
    ];
    let names = ["slow", "middling", "fast"].map(String::from).to_vec();
    let contents = Contents { splits: BTreeMap::from(splits), names };
    let data = Dataset::over(Arc::new(Signals), contents, &Options::default())?;
    let settings = ["model.name=mult", "model.width=12", "model.heads=2", "model.layers=1"];
    let more = ["train.lr=5e-3", "train.max_epochs=8"];
    let settings: Vec<String> = settings.iter().chain(&more).map(|s| s.to_string()).collect();
    let config = Config::build("mosi", None, &settings)?;
    let gpu = Gpu::new()?;
    let options = RunOptions { data: "signals".into(), out, config, init: None, fold: None };
    let outcome = train_on(&gpu, data, &options, &mut ())?;
    println!("{} epochs in {}", outcome.epochs, options.out.display());
    for (name, value) in outcome.test.iter().flat_map(|metrics| metrics.heads()) {
        println!("{name} {value:.3}");
    }
    Ok(())
}
