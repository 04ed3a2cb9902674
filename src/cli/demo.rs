//! `modalign demo`: four variants of the model on data whose hidden factors are known.

use super::curves::write;
use super::demo_report::{probe_table, verdict};
use super::progress::Progress;
use super::train::{Entries, metrics_table};
use super::{Global, output, run_folder};
use crate::data::{SynthConfig, SynthStream, synth};
use crate::error::{Error, Result};
use crate::files::Claim;
use crate::gpu::Gpu;
use crate::recipe::Config;
use crate::report::charts::{Line, Lines};
use crate::report::theme::Ink;
use crate::train::carried::{Carried, carried};
use crate::train::metrics::Metrics;
use crate::train::{EpochRecord, Outcome, RunOptions, Saved, Session, open_saved, train};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `demo`.
#[derive(Args)]
#[command(after_help = "\
The data: every sample has a factor that text, audio and vision all see, and one each of its own;
the label depends on all four. The model never sees the factors, only noisy sequences made of them.

Four variants are trained, with alignment and label generation on and off, from three fixed seeds
each. The first table holds their test metrics. The second asks what the representations carry: the
R2 on test rows of a linear probe for each factor, 1 for all of it, 0 for nothing. Everything stays
in the folder: the data set, the runs, demo.svg and each run's curves.svg.")]
pub(super) struct DemoArgs {
    /// The folder to write, new or empty [default: runs/demo, numbered if taken]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Change a setting of all variants, for trying things out
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
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

/// Single runs differ by luck; each variant is trained from each of these.
pub(super) const SEEDS: [u64; 3] = [1111, 1112, 1113];

/// One training.
pub(super) struct Run {
    folder: PathBuf,
    outcome: Outcome,
    pub(super) test: Metrics,
    pub(super) carried: Carried,
    history: Vec<EpochRecord>,
}

/// Sequences in all three modalities, so that every encoder has something to learn. Each modality
/// knows something that the others do not, and all know one thing together.
fn data() -> SynthConfig {
    let stream = |dim, steps, min_steps| SynthStream {
        dim,
        steps,
        min_steps,
        noise: 0.5,
        private_weight: 0.6,
    };
    SynthConfig {
        train: 1024,
        valid: 256,
        test: 512,
        shared: 1,
        private: 1,
        text: stream(16, 12, 4),
        audio: stream(8, 20, 8),
        vision: stream(12, 16, 6),
        ..SynthConfig::default()
    }
}

/// The encoders' outputs are narrow, so that they have to choose what to carry. Covariances are
/// compared standardised: otherwise the projections can satisfy the term by shrinking.
const SETTINGS: [&str; 8] = [
    "train.max_epochs=12",
    "train.early_stop=0",
    "model.text_encoder=lstm",
    "model.out.text=4",
    "model.out.audio=4",
    "model.out.vision=4",
    "align.standardize=true",
    "align.weight=0.3",
];

fn config(variant: &Variant, seed: u64, changed: &[String]) -> Result<Config> {
    let last = [
        Some(format!("train.seed={seed}")),
        (!variant.align).then(|| "align.weight=0".into()),
        (!variant.labels).then(|| "labels.enabled=false".into()),
    ];
    let own = SETTINGS.iter().map(ToString::to_string);
    let all: Vec<String> =
        own.chain(changed.iter().cloned()).chain(last.into_iter().flatten()).collect();
    Config::build("mosi", None, &all)
}

/// Makes the data, trains, probes, and says what the numbers show.
pub(super) fn run(args: &DemoArgs, global: &Global) -> Result<()> {
    let began = Instant::now();
    let claim = match &args.keep {
        Some(folder) => {
            run_folder::free(folder)?;
            Claim::take(folder)?
        }
        None => Claim::fresh(&Path::new("runs").join("demo"))?,
    };
    let folder = claim.path().to_path_buf();
    let gpu = global.gpu()?;
    let file = folder.join("synth.safetensors");
    let data = data();
    synth::write(&data, &file)?;
    global.note(&format!(
        "{}: {} samples of text, audio and vision, with a factor that all three know and one that \
         each knows alone",
        file.display(),
        data.train + data.valid + data.test
    ));

    let (mut runs, mut before) = (Vec::new(), Vec::new());
    for (i, variant) in VARIANTS.iter().enumerate() {
        let mut all = Vec::new();
        for (j, seed) in SEEDS.into_iter().enumerate() {
            let out = folder.join(format!("{}-{seed}", variant.name));
            let (at, total) = (i * SEEDS.len() + j + 1, VARIANTS.len() * SEEDS.len());
            let label = format!("[{at:>2}/{total}] {:<8}seed {seed} ", variant.name);
            let options = RunOptions {
                data: file.clone(),
                out,
                config: config(variant, seed, &args.settings)?,
                init: None,
                fold: None,
            };
            let (run, untrained) = one(&gpu, options, &label, global)?;
            all.push(run);
            // The control: what the same encoders carry before they have learned anything. The
            // last variant has every head.
            if i + 1 == VARIANTS.len() {
                before.push(untrained);
            }
        }
        runs.push(all);
    }
    gpu.save_pipeline_cache();
    write(&folder.join("demo.svg"), &panels(&runs))?;
    let before = Carried::mean(&before.iter().collect::<Vec<_>>());
    let seconds = began.elapsed().as_secs_f64();
    if global.json {
        json(&folder, seconds, &before, &runs)
    } else {
        tables(&folder, seconds, &before, &runs)
    }
}

/// Trains once, and probes the best epoch and the initial parameters.
fn one(gpu: &Gpu, options: RunOptions, label: &str, global: &Global) -> Result<(Run, Carried)> {
    let mut progress = Progress::brief(global, &options.out, label);
    let outcome = train(gpu, &options, &mut progress)?;
    let history = progress.into_history();
    let test = outcome.test.clone().ok_or_else(|| Error::data(&options.data, "no test labels"))?;
    let mut session = open_saved(gpu, &Saved::load(&options.out)?, &options.data)?;
    let probes = |session: &mut Session| {
        let none = || Error::data(&options.data, "no known factors");
        carried(session)?.ok_or_else(none)
    };
    let learned = probes(&mut session)?;
    session.initialise()?;
    let untrained = probes(&mut session)?;
    let (seconds, head) = (outcome.seconds, test.headline(3));
    global.note(&format!("{label} test {head}  {seconds:.1} s"));
    Ok((Run { folder: options.out, outcome, test, carried: learned, history }, untrained))
}

/// Mean scores of a variant's runs.
fn mean_entries(runs: &[Run]) -> Entries {
    let all: Vec<Entries> = runs.iter().map(|r| r.test.entries()).collect();
    let Some(first) = all.first() else { return Vec::new() };
    let value = |i: usize| all.iter().filter_map(|e| e.get(i)).map(|(_, v)| v).sum::<f64>();
    first.iter().enumerate().map(|(i, (name, _))| (*name, value(i) / all.len() as f64)).collect()
}

fn json(folder: &Path, seconds: f64, before: &Carried, runs: &[Vec<Run>]) -> Result<()> {
    let variants: Vec<Value> = VARIANTS
        .iter()
        .zip(runs)
        .map(|(variant, runs)| {
            let test: Map<String, Value> =
                mean_entries(runs).into_iter().map(|(n, v)| (n.into(), json!(v))).collect();
            let each: Vec<Value> = SEEDS
                .iter()
                .zip(runs)
                .map(|(seed, r)| {
                    json!({
                        "seed": seed,
                        "run": r.folder.display().to_string(),
                        "outcome": r.outcome,
                        "probes": r.carried.to_json(),
                    })
                })
                .collect();
            json!({
                "name": variant.name,
                "align": variant.align,
                "labels": variant.labels,
                "test": test,
                "probes": mean_carried(runs).to_json(),
                "runs": each,
            })
        })
        .collect();
    output::json(&json!({
        "folder": folder.display().to_string(),
        "seconds": seconds,
        "untrained": before.to_json(),
        "variants": variants,
        "verdict": verdict(before, runs),
    }))
}

fn mean_carried(runs: &[Run]) -> Carried {
    Carried::mean(&runs.iter().map(|r| &r.carried).collect::<Vec<_>>())
}

fn tables(folder: &Path, seconds: f64, before: &Carried, runs: &[Vec<Run>]) -> Result<()> {
    let lines: Vec<(String, Entries)> = VARIANTS
        .iter()
        .zip(runs)
        .map(|(v, runs)| (v.name.to_string(), mean_entries(runs)))
        .collect();
    let carried: Vec<Carried> = runs.iter().map(|runs| mean_carried(runs)).collect();
    output::tables(&[
        ("Test metrics, by what is on; means over three seeds:", metrics_table("variant", &lines)),
        (
            "What each representation carries: R2 of a linear probe, on test rows.",
            probe_table(before, &carried),
        ),
    ])?;
    output::print(&format!("\n{}", verdict(before, runs).join("\n")))?;
    output::print(&format!("\n{}: all of it, with demo.svg; {seconds:.0} s", folder.display()))
}

/// Means over seeds by epoch.
fn panels(runs: &[Vec<Run>]) -> [(String, Lines); 2] {
    let chart = |value: &dyn Fn(&EpochRecord) -> Option<f64>| -> Lines {
        let each = VARIANTS.iter().zip(runs).enumerate();
        let lines = each.map(|(i, (variant, runs))| {
            let epochs = runs.iter().map(|r| r.history.len()).min().unwrap_or(0);
            let mean = |i: usize| {
                let all: Vec<f64> = runs.iter().filter_map(|r| value(&r.history[i])).collect();
                ((i + 1) as f64, all.iter().sum::<f64>() / all.len().max(1) as f64)
            };
            Line {
                name: variant.name.into(),
                ink: Ink::Series(i),
                thick: variant.align && variant.labels,
                points: (0..epochs).map(mean).collect(),
                best: None,
            }
        });
        Lines { lines: lines.collect(), ..Lines::default() }
    };
    [
        (
            "Training loss of the fused head, by epoch (mean of three seeds)".into(),
            chart(&|r| r.parts.get("M")?.as_f64()),
        ),
        (
            "Validation MAE by epoch (mean of three seeds)".into(),
            chart(&|r| r.valid.as_ref()?.get("MAE")),
        ),
    ]
}
