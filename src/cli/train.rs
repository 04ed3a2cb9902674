//! `modalign train`: a new run, or a run's continuation.

use super::config_args::ConfigArgs;
use super::progress::Progress;
use super::{Global, output, run_folder};
use crate::data::{Task, TaskKind};
use crate::error::Result;
use crate::files::Claim;
use crate::gpu::Gpu;
use crate::train::metrics::Metrics;
use crate::train::{self, Outcome, RunOptions};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Options of `train`.
#[derive(Args)]
#[command(after_help = "\
A run folder holds config.toml, steps.jsonl, epochs.jsonl, labels.jsonl (how far the generated
labels have moved, by epoch), metrics.json, model.safetensors (best epoch), last.safetensors,
labels.safetensors (generated labels), curves.svg and state/ (all that --resume needs). A killed run goes on where its last epoch ended, bit for bit.

Settings that are often changed (modalign inspect --keys lists all):
  train.batch_size  train.accumulate  train.shuffle  train.early_stop  train.normalize  train.lr
  model.text_encoder=features|lstm|bert|table   model.modalities=all   model.dropout=0
  align.weight.ta  align.weight.tv  align.weight.av  align.weight=0  align.dim
  labels.enabled   labels.clamp     labels.exclude_zero
  train.lr.bert    bert.finetune    bert.freeze_layers    bert.pooling=first|mean
  bert.max_tokens  bert.checkpoint  bert.half

--bert FOLDER takes a BERT, RoBERTa, DistilBERT or MPNet as Hugging Face stores it (config.json,
model.safetensors or pytorch_model.bin, whole or in parts, and tokenizer.json, vocab.txt, or vocab.json with
merges.txt) and the data's sentences (raw_text in the JSON file beside it) or token ids (text_bert, which is
BERT's: MPNet translates it, RoBERTa wants sentences). Where bert.finetune=false its outputs are computed
once and kept.
train.lr=X sets all rates, train.lr.bert (5e-5) with them; name the part for one alone.

Examples:
  modalign train --data mosi.safetensors
  modalign train --data sims.safetensors --preset sims --seed 7 --out runs/sims-7
  modalign train --data mosi.safetensors --set align.weight.ta=0.5 --set model.dropout=0
  modalign train --data mosi.safetensors --set align.weight=0            # plain Self-MM
  modalign train --data mosi.safetensors --bert bert-base-uncased
  modalign train --data mosi.safetensors --init converted-mmsa.safetensors
  modalign train --resume runs/mosi-mosi-1111 --max-epochs 200")]
pub(super) struct TrainArgs {
    /// The data set
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    data: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Begin with these weights, under MMSA's names
    #[arg(long, value_name = "WEIGHTS.safetensors")]
    init: Option<PathBuf>,
    /// Continue a run instead of beginning one
    #[arg(
        long,
        value_name = "RUN",
        conflicts_with_all = ["model", "preset", "config", "bert", "settings", "init", "out", "seed", "clip_labels"]
    )]
    resume: Option<PathBuf>,
    /// The run folder, new or empty [default: runs/DATA-PRESET-SEED, numbered if taken; with another
    /// model than the first runs/DATA-MODEL-PRESET-SEED]
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Of initial parameters, order and dropout (train.seed)
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// When the GPU is lost (a driver's reset, say), end, or open it again and go on
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_lost: OnLost,
    /// Where the numbers overflow or become NaN, show what each kernel of those steps wrote
    #[arg(long)]
    debug_numerics: bool,
    /// Take labels beyond data.label_range for the nearest one within (data.clip_labels)
    #[arg(long)]
    clip_labels: bool,
    /// Stop after this many epochs at the latest (train.max_epochs)
    #[arg(long, value_name = "N")]
    max_epochs: Option<u32>,
}

/// What becomes of a run whose device is lost.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnLost {
    /// It ends; train --resume goes on.
    Stop,
    /// The adapter is opened again, and it goes on.
    Resume,
}

/// Trains, and prints what came of it.
pub(super) fn run(args: &TrainArgs, global: &Global) -> Result<()> {
    let max = args.max_epochs.map(|n| n as usize);
    let (claim, outcome) = match (&args.resume, &args.data) {
        (Some(folder), data) => {
            // A folder that is no run, or that another process has, is said so before a device is opened.
            let claim = run_folder::claim_run(folder)?;
            let outcome = on_devices(args, &claim, global, |gpu, progress, _| {
                train::resume_in(gpu, &claim, data.as_deref(), max, progress)
            })?;
            (claim, outcome)
        }
        (None, data) => begin(args, data.clone().unwrap_or_default(), global)?,
    };
    report(claim.path(), &outcome, global)
}

/// Trains on an adapter, and where that is wanted on another one when it is lost.
fn on_devices(
    args: &TrainArgs,
    claim: &Claim,
    global: &Global,
    attempt: impl Fn(&Gpu, &mut Progress, bool) -> Result<Outcome>,
) -> Result<Outcome> {
    let once = |gpu: &Gpu, begun: bool| {
        let mut progress = Progress::new(global, claim.path()).debugging(args.debug_numerics);
        let outcome = attempt(gpu, &mut progress, begun)?;
        progress.into_history();
        gpu.save_pipeline_cache();
        Ok(outcome)
    };
    match args.on_lost {
        OnLost::Stop => once(&global.gpu()?, args.resume.is_some()),
        OnLost::Resume => train::through_losses(
            claim.path(),
            || global.gpu(),
            once,
            |why| global.note(&format!("the GPU was lost ({why}): it is opened again")),
        ),
    }
}

fn begin(args: &TrainArgs, data: PathBuf, global: &Global) -> Result<(Claim, Outcome)> {
    let last = [
        args.seed.map(|s| format!("train.seed={s}")),
        args.max_epochs.map(|n| format!("train.max_epochs={n}")),
        args.clip_labels.then(|| "data.clip_labels=true".to_string()),
    ];
    let config = args.config.build(&last.into_iter().flatten().collect::<Vec<_>>())?;
    let name = || {
        let stem = data.file_stem().unwrap_or_default().to_string_lossy();
        // Runs of the first model were named before there were others.
        let model = match config.model.name.as_str() {
            "self_mm" => String::new(),
            other => format!("{other}-"),
        };
        let name = format!("{stem}-{model}{}-{}", config.preset, config.train.seed);
        Path::new("runs").join(name)
    };
    let claim = match &args.out {
        Some(out) => run_folder::claim_for_run(out)?,
        None => Claim::fresh(&name())?,
    };
    let (out, init) = (claim.path().to_path_buf(), args.init.clone());
    let options = RunOptions { data, out, config, init, fold: None };
    let outcome = on_devices(args, &claim, global, |gpu, progress, begun| match begun {
        true => train::resume_in(gpu, &claim, None, None, progress),
        false => train::train_in(gpu, &claim, &options, progress),
    })?;
    Ok((claim, outcome))
}

fn report(folder: &Path, outcome: &Outcome, global: &Global) -> Result<()> {
    if global.json {
        let mut object = json!({ "run": folder.display().to_string() });
        if let (Value::Object(object), Ok(Value::Object(rest))) =
            (&mut object, serde_json::to_value(outcome))
        {
            object.extend(rest);
        }
        return output::json(&object);
    }
    let lines: Vec<(String, Entries)> = [("valid", &outcome.valid), ("test", &outcome.test)]
        .into_iter()
        .filter_map(|(name, metrics)| Some((name.to_string(), metrics.as_ref()?.entries())))
        .collect();
    if !lines.is_empty() {
        output::tables(&[("", metrics_table("split", &lines))])?;
    }
    output::print(&format!(
        "{}: best of {} epochs is {}; {:.1} s, {:.0} samples/s on {}",
        folder.display(),
        outcome.epochs,
        outcome.best_epoch,
        outcome.seconds,
        outcome.samples_per_second,
        outcome.adapter
    ))
}

/// Scores by name.
pub(super) type Entries = Vec<(&'static str, f64)>;

/// The scores of each number, class or label, where a task has several.
pub(super) fn each_table(task: &Task, metrics: &Metrics) -> Option<Table> {
    let (_, first) = metrics.each().first()?;
    let what = match task.kind {
        TaskKind::Regression => "number",
        TaskKind::Classes => "class",
        TaskKind::Labels => "label",
    };
    let names = first.iter().map(|(name, _)| name.as_str());
    let rows = metrics.each().iter().map(|(name, own)| {
        let cell = |(name, value): &(String, f64)| match name.as_str() {
            // A count of rows.
            "support" => format!("{value:.0}"),
            _ => format!("{value:.4}"),
        };
        std::iter::once(name.clone()).chain(own.iter().map(cell)).collect()
    });
    Some(output::table(std::iter::once(what).chain(names), 1, rows))
}

/// Metrics in columns, a named line for each set of them.
pub(super) fn metrics_table(first: &str, lines: &[(String, Entries)]) -> Table {
    // A score that one line lacks leaves a gap there, not a shifted row.
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in lines.iter().flat_map(|(_, entries)| entries) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let rows = lines.iter().map(|(line, entries)| {
        let cell = |name: &&str| {
            let value = entries.iter().find(|(n, _)| n == name);
            value.map_or_else(|| "-".to_string(), |(_, v)| format!("{v:.4}"))
        };
        std::iter::once(line.clone()).chain(names.iter().map(cell)).collect()
    });
    output::table(std::iter::once(first).chain(names.iter().copied()), 1, rows)
}
