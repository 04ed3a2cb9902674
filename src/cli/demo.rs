//! `modalign demo`: four variants of the model on data whose hidden factors are known.

use super::curves::{COLOURS, Panel, Series, write};
use super::demo_report::{Carried, carried, probe_table, verdict};
use super::progress::Progress;
use super::train::metrics_table;
use super::{Global, output, run_folder};
use crate::data::{SynthConfig, SynthStream, synth};
use crate::error::{Error, Result};
use crate::recipe::Config;
use crate::train::metrics::Metrics;
use crate::train::{EpochRecord, Outcome, RunOptions, Saved, open_saved, train};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `demo`.
#[derive(Args)]
#[command(after_help = "\
The data: every sample has a factor that text, audio and vision all see, and one each of its own;
the label depends on all four. The model never sees the factors, only noisy sequences made of them.

Four variants are trained, with alignment and label generation on and off. The first table holds
their test metrics. The second asks what the representations carry: the R2 on test rows of a linear
probe for each factor, 1 for all of it, 0 for nothing. Everything stays in the folder: the data set,
the runs, demo.svg and each run's curves.svg. Seeds are fixed.")]
pub(super) struct DemoArgs {
    /// The folder to write [default: runs/demo, numbered if taken]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// One way of training.
pub(super) struct Variant {
    /// In tables and folder names.
    pub(super) name: &'static str,
    /// Whether the covariance term is on.
    pub(super) align: bool,
    /// Whether labels are generated for single modalities.
    pub(super) labels: bool,
}

/// From nothing to everything.
pub(super) const VARIANTS: [Variant; 4] = [
    Variant { name: "neither", align: false, labels: false },
    Variant { name: "align", align: true, labels: false },
    Variant { name: "labels", align: false, labels: true },
    Variant { name: "both", align: true, labels: true },
];

/// What came of a variant.
pub(super) struct Trained {
    pub(super) outcome: Outcome,
    pub(super) test: Metrics,
    pub(super) carried: Carried,
    history: Vec<EpochRecord>,
}

/// Sequences in all three modalities, so that every encoder has something to learn; every modality
/// knows something that the others do not.
fn data() -> SynthConfig {
    let stream = |dim, steps, min_steps, private_weight| SynthStream {
        dim,
        steps,
        min_steps,
        noise: 0.3,
        private_weight,
    };
    SynthConfig {
        shared: 2,
        private: 2,
        text: stream(16, 12, 4, 0.6),
        audio: stream(8, 20, 8, 0.6),
        vision: stream(12, 16, 6, 0.6),
        ..SynthConfig::default()
    }
}

fn config(variant: &Variant) -> Result<Config> {
    let weight = if variant.align { 0.1 } else { 0.0 };
    let settings = [
        "train.max_epochs=14".to_string(),
        "train.early_stop=0".into(),
        "model.text_encoder=lstm".into(),
        format!("align.weight={weight}"),
        format!("labels.enabled={}", variant.labels),
    ];
    Config::build("mosi", None, &settings)
}

/// Makes the data, trains, probes, and says what the numbers show.
pub(super) fn run(args: &DemoArgs, global: &Global) -> Result<()> {
    let began = Instant::now();
    let gpu = global.gpu()?;
    let folder =
        args.keep.clone().unwrap_or_else(|| run_folder::untaken(Path::new("runs").join("demo")));
    if folder.join("synth.safetensors").exists() {
        let detail = format!("{} already holds a demo: give another --keep", folder.display());
        return Err(Error::Config(detail));
    }
    std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let (file, data) = (folder.join("synth.safetensors"), data());
    synth::write(&data, &file)?;
    global.note(&format!(
        "{}: {} samples of text, audio and vision, one factor shared by all and one of each alone",
        file.display(),
        data.train + data.valid + data.test
    ));

    let mut trained = Vec::new();
    for (i, variant) in VARIANTS.iter().enumerate() {
        let out = folder.join(variant.name);
        let label = format!("[{}/{}] {:<8}", i + 1, VARIANTS.len(), variant.name);
        let mut progress = Progress::brief(global, &out, &label);
        let options = RunOptions {
            data: file.clone(),
            out: out.clone(),
            config: config(variant)?,
            init: None,
        };
        let outcome = train(&gpu, &options, &mut progress)?;
        let history = progress.into_history();
        let test = outcome.test.ok_or_else(|| Error::data(&file, "no test labels"))?;
        let mut session = open_saved(&gpu, &Saved::load(&out)?, &file)?;
        let carried = carried(&mut session)?;
        let (seconds, mae) = (outcome.seconds, test.mae);
        global.note(&format!("{label} test MAE {mae:.3} Corr {:.3}  {seconds:.1} s", test.corr));
        trained.push(Trained { outcome, test, carried, history });
    }
    // The control: what the same encoders carry before they have learned anything.
    let mut session = open_saved(&gpu, &Saved::load(&folder.join(VARIANTS[3].name))?, &file)?;
    session.initialise()?;
    let before = carried(&mut session)?;
    gpu.save_pipeline_cache();
    write(&folder.join("demo.svg"), &panels(&trained))?;

    let seconds = began.elapsed().as_secs_f64();
    let found = verdict(&before, &trained);
    if global.json {
        let variants: Vec<Value> = VARIANTS
            .iter()
            .zip(&trained)
            .map(|(v, t)| {
                json!({
                    "name": v.name,
                    "align": v.align,
                    "labels": v.labels,
                    "run": folder.join(v.name).display().to_string(),
                    "outcome": t.outcome,
                    "probes": t.carried.to_json(),
                })
            })
            .collect();
        return output::json(&json!({
            "folder": folder.display().to_string(),
            "seconds": seconds,
            "untrained": before.to_json(),
            "variants": variants,
            "verdict": found,
        }));
    }
    let lines: Vec<(String, &Metrics)> =
        VARIANTS.iter().zip(&trained).map(|(v, t)| (v.name.to_string(), &t.test)).collect();
    output::tables(&[
        ("Test metrics, by what is on:", metrics_table("variant", &lines)),
        (
            "What each representation carries: R2 of a linear probe on test rows.",
            probe_table(&before, &trained),
        ),
    ])?;
    output::print(&format!("\n{}", found.join("\n")))?;
    output::print(&format!("\n{}: all of it, with demo.svg; {seconds:.0} s", folder.display()))
}

fn panels(trained: &[Trained]) -> Vec<Panel> {
    let series = |value: &dyn Fn(&EpochRecord) -> Option<f64>| -> Vec<Series> {
        let each = VARIANTS.iter().zip(trained).zip(COLOURS);
        each.map(|((variant, t), colour)| {
            let points = t.history.iter().filter_map(|r| Some((r.epoch as f64, value(r)?)));
            Series {
                name: variant.name.into(),
                colour,
                thick: variant.align && variant.labels,
                points: points.collect(),
                best: None,
            }
        })
        .collect()
    };
    vec![
        Panel {
            title: "Training loss of the fused head, by epoch".into(),
            series: series(&|r| r.parts.get("M")?.as_f64()),
        },
        Panel { title: "Validation MAE by epoch".into(), series: series(&|r| Some(r.valid?.mae)) },
    ]
}
