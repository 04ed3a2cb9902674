//! `modalign inspect`: what a data set, a run or a model file holds, and what a step would run.

use super::config_args::ConfigArgs;
use super::inspect_data::{explained, show_data};
use super::train::metrics_table;
use super::{Global, output, run_folder};
use crate::data::Folded;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::recipe::{Config, bert_prefix};
use crate::train::metrics::Metrics;
use crate::train::{Saved, encoder_of, open_file, outline};
use clap::Args;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Options of `inspect`.
#[derive(Args)]
#[command(after_help = "\
Of a data set: its parts, shapes, lengths and labels; features and rows that say nothing; and a
warning where a modality or a feature alone predicts the labels of one split far better than those of
another, as features do that were made with those labels. Of a run: its settings, best epoch, metrics.
Of a model file: what it reads, its settings and its tensors.

--plan prints what one training step of a full batch will do, before anything trains: every
dispatch with its kernel, workgroups, tensor shapes, FLOPs and bytes, and the memory that training
takes. Of a data set it is the plan for --preset, --config and --set; of a run, its own.

Examples:
  modalign inspect mosi.safetensors
  modalign inspect mosi.safetensors --plan --set model.text_encoder=lstm
  modalign inspect runs/mosi-mosi-1111 --json
  modalign inspect --keys --preset sims")]
pub(super) struct InspectArgs {
    /// A data set, a run folder, or a model file
    #[arg(value_name = "DATA|RUN|MODEL", required_unless_present = "keys")]
    target: Option<PathBuf>,
    /// The plan of a training step
    #[arg(long)]
    plan: bool,
    /// Every setting with its value, as --set takes them
    #[arg(long, conflicts_with_all = ["target", "plan"])]
    keys: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Shows it.
pub(super) fn run(args: &InspectArgs, global: &Global) -> Result<()> {
    let config = args.config.build(&[])?;
    let Some(target) = args.target.as_deref() else { return show_keys(&config, global) };
    if run_folder::is_run(target) {
        let config = run_folder::config(target)?;
        return match args.plan {
            true => show_plan(&run_folder::data(target)?, &config, &encoder_of(target), global),
            false => show_run(target, &config, global),
        };
    }
    if target.is_dir() {
        let detail = "a folder without config.toml: no run began here";
        return Err(Error::checkpoint(target, detail));
    }
    if is_model(target) {
        if args.plan {
            let detail = "--plan wants a data set or a run, whose batches it can lay out";
            return Err(Error::Config(detail.into()));
        }
        return show_model(target, global);
    }
    if args.plan {
        show_plan(target, &config, Path::new(&config.bert.path), global)
    } else {
        // What does not fit a model is to be seen all the same.
        let mut wide = config.clone();
        wide.data.label_range = f64::from(f32::MAX);
        let data = open_file(target, &wide).map_err(explained)?;
        show_data(&data, &config, global)
    }
}

/// Whether a file's header has a model card. Anything unreadable is left to the data set's
/// checks, which say best what is wrong.
fn is_model(path: &Path) -> bool {
    let header = || -> Option<Value> {
        let mut file = std::fs::File::open(path).ok()?;
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let length = u64::from_le_bytes(length).min(file.metadata().ok()?.len());
        let mut header = Vec::new();
        file.take(length).read_to_end(&mut header).ok()?;
        serde_json::from_slice(&header).ok()
    };
    header().is_some_and(|h| h["__metadata__"]["modalign"].is_string())
}

fn show_keys(config: &Config, global: &Global) -> Result<()> {
    let keys = config.keys()?;
    if global.json {
        let object: serde_json::Map<_, _> = keys.into_iter().map(|(k, v)| (k, json!(v))).collect();
        return output::json(&object);
    }
    let rows: Vec<(&str, String)> = keys.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    output::print(&output::facts(&rows))
}

fn show_run(run: &Path, config: &Config, global: &Global) -> Result<()> {
    let epochs = run_folder::epochs(run)?;
    let best = epochs.iter().rev().find(|r| r.best);
    let card = run_folder::json(run, "run.json")?;
    // A run that has not ended has no metrics yet.
    let metrics = run_folder::json(run, "metrics.json").ok();
    let settings = config.keys()?;
    if global.json {
        let settings: serde_json::Map<_, _> =
            settings.into_iter().map(|(k, v)| (k, json!(v))).collect();
        return output::json(&json!({
            "run": run.display().to_string(),
            "card": card,
            "config": settings,
            "epochs": epochs,
            "best_epoch": best.map(|r| r.epoch),
            "metrics": metrics,
        }));
    }
    let word = |key: &str| card[key].as_str().unwrap_or("unknown").to_string();
    let mut facts = vec![
        ("run", run.display().to_string()),
        ("data", word("data")),
        ("adapter", format!("{} ({})", word("adapter"), word("driver"))),
        ("preset", config.preset.clone()),
        ("seed", config.train.seed.to_string()),
        ("epochs", epochs.len().to_string()),
    ];
    if let Ok(folded) = serde_json::from_value::<Folded>(card["fold"].clone()) {
        facts.insert(2, ("fold", folded.fold.to_string()));
    }
    if metrics.is_none() {
        let how = format!("no; go on with: modalign train --resume {}", run.display());
        facts.push(("ended", how));
    }
    if let Some(best) = best {
        let valid = best.valid_loss.map_or_else(String::new, |v| format!(", validation {v:.4}"));
        facts.push(("best epoch", format!("{}{valid}", best.epoch)));
    }
    let preset = Config::preset(&config.model.name, &config.preset)?.keys()?;
    let changed: Vec<String> = settings
        .iter()
        .filter(|(key, value)| preset.iter().any(|(k, v)| k == key && v != value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if !changed.is_empty() {
        facts.push(("changed", changed.join(" ")));
    }
    output::print(&output::facts(&facts))?;
    let lines: Vec<_> = ["valid", "test"]
        .into_iter()
        .filter_map(|name| {
            let value = metrics.as_ref()?.get(name)?.clone();
            let metrics: Metrics = serde_json::from_value(value).ok()?;
            Some((name.to_string(), metrics.entries()))
        })
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => output::tables(&[("", metrics_table("split", &lines))]),
    }
}

fn show_model(path: &Path, global: &Global) -> Result<()> {
    let saved = Saved::load(path)?;
    let shape =
        |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let count: usize = saved.weights.iter().map(|(_, _, values)| values.len()).sum();
    if global.json {
        let tensors: serde_json::Map<_, _> =
            saved.weights.iter().map(|(name, shape, _)| (name.to_string(), json!(shape))).collect();
        return output::json(&json!({
            "model": path.display().to_string(),
            "card": saved.card,
            "parameters": count,
            "tensors": tensors,
        }));
    }
    let card = &saved.card;
    // What goes through a pretrained encoder is no stream of the data's.
    let tokens = saved.weights.iter().any(|(name, ..)| name.starts_with(bert_prefix(&card.config)));
    let streams =
        card.streams.iter().map(|s| format!("{} ({} steps of {})", s.modality, s.steps, s.dim));
    let streams: Vec<String> =
        tokens.then(|| "text (tokens)".to_string()).into_iter().chain(streams).collect();
    output::print(&output::facts(&[
        ("model", path.display().to_string()),
        ("written by", format!("modalign {}", card.version)),
        ("preset", card.config.preset.clone()),
        ("reads", streams.join(", ")),
        (
            "standardised",
            if card.standardise.as_ref().is_some_and(|s| !s.is_empty()) { "yes" } else { "no" }
                .into(),
        ),
        ("epoch", card.epoch.to_string()),
        ("parameters", count.to_string()),
    ]))?;
    let rows = saved
        .weights
        .iter()
        .map(|(name, s, values)| vec![name.to_string(), shape(s), values.len().to_string()]);
    output::tables(&[("", output::table(["tensor", "shape", "values"], 1, rows))])
}

fn show_plan(data: &Path, config: &Config, encoder: &Path, global: &Global) -> Result<()> {
    let gpu = global.gpu()?;
    let outline = outline(config, data, encoder, gpu.caps())?;
    if global.json {
        let buffers: serde_json::Map<String, Value> =
            outline.buffers.iter().map(|(n, b)| (n.clone(), json!(b))).collect();
        return output::json(&json!({
            "data": data.display().to_string(),
            "adapter": gpu.caps().name,
            "kernels": gpu.caps().family.to_string(),
            "batch_size": outline.batch,
            "parameters": outline.parameters,
            "turns": outline.turns,
            "dispatches": dispatches(&outline.plan),
            "flops": outline.plan.flops(),
            "scratch_bytes": outline.plan.scratch_bytes(),
            "buffer_bytes": buffers,
            "total_bytes": outline.bytes,
            "checkpoint_saves_bytes": outline.checkpoint_saves,
        }));
    }
    let buffers = outline.buffers.iter().map(|(n, b)| format!("{n} {}", output::bytes(*b)));
    let checkpoint = outline.checkpoint_saves.map_or_else(String::new, |bytes| {
        let how =
            if config.bert.checkpoint { "saves" } else { "(bert.checkpoint=true) would save" };
        format!("\ngradient checkpointing {how} {}", output::bytes(bytes))
    });
    let turns = match &outline.turns[..] {
        [_] => String::new(),
        several => format!("turns of a step, in this order: {}\n", several.join(", ")),
    };
    output::print(&format!(
        "{}\n{turns}{}\n{} parameters, {} on the device in all, {} kernels of {}{checkpoint}",
        outline.plan,
        buffers.collect::<Vec<_>>().join(", "),
        outline.parameters,
        output::bytes(outline.bytes),
        gpu.caps().family,
        gpu.caps().name
    ))
}

fn dispatches(plan: &Plan) -> Vec<Value> {
    plan.dispatches()
        .iter()
        .map(|d| {
            let tensors: Vec<Value> = d
                .kernel
                .bindings
                .iter()
                .zip(&d.args)
                .filter_map(|(binding, arg)| Some((binding, plan.tensor((*arg)?)?)))
                .map(|(b, t)| json!({ "binding": b.name, "tensor": t.name, "shape": t.shape }))
                .collect();
            json!({
                "stage": d.stage.to_string(),
                "shader": d.kernel.name,
                "workgroups": d.groups,
                "flops": d.flops,
                "bytes": d.bytes,
                "tensors": tensors,
            })
        })
        .collect()
}
