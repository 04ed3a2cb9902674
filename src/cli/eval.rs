//! `modalign eval`: all metrics of a trained model on a data set.

use super::train::{each_table, metrics_table};
use super::{Global, output, run_folder};
use crate::data::SplitName;
use crate::error::{Error, Result};
use crate::train::carried::head_name;
use crate::train::metrics::{self, Metrics, Retrieval};
use crate::train::{Saved, Session, open_saved, retrieved};
use clap::Args;
use comfy_table::Table;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};

/// Options of `eval`.
#[derive(Args)]
#[command(after_help = "\
The fused head is the model's answer. The heads of single modalities learn from generated labels of
their own; held against the multimodal label they show what each modality says alone.

Examples:
  modalign eval --model runs/mosi-mosi-1111
  modalign eval --model runs/mosi-mosi-1111 --data other.safetensors --split valid --json
  modalign eval --model runs/mosi-mosi-1111 --robustness

--robustness adds the fused head's scores with each modality in turn dropped (training means in one
step), noised by 0.5, 1 and 2 of its deviations in training, and without its second half; of a
sentence that an encoder reads, tokens are left out.")]
pub(super) struct EvalArgs {
    /// A run folder (its best epoch) or a model file
    #[arg(long, value_name = "RUN|FILE")]
    model: PathBuf,
    /// The data set [default: the run's own]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Which part of it: train, valid or test
    #[arg(long, default_value = "test", value_parser = parse_split)]
    split: SplitName,
    /// Also with each modality dropped, noised and truncated
    #[arg(long)]
    robustness: bool,
}

/// Says which modalities of the model the data has not.
pub(super) fn say_absent(session: &Session, path: &Path, global: &Global) {
    for modality in session.absent() {
        global.note(&format!(
            "note: {} has no {modality}: every row is scored with what was usual of it in training",
            path.display()
        ));
    }
}

/// A split by its name; for clap.
pub(super) fn parse_split(name: &str) -> Result<SplitName, String> {
    let found = SplitName::ALL.into_iter().find(|s| s.name() == name);
    found.ok_or_else(|| "want train, valid or test".into())
}

/// A line for each way.
fn retrieval_table(found: &Retrieval) -> Table {
    let names = ["R@1", "R@5", "R@10", "median rank"];
    let ways = found.keys().filter_map(|key| key.strip_prefix("R@1 "));
    let rows = ways.map(|way| {
        let cell = |name: &str| {
            let value = found.get(&format!("{name} {way}"));
            value.map_or_else(|| "-".to_string(), |value| format!("{value:.4}"))
        };
        std::iter::once(way.to_string()).chain(names.map(cell)).collect()
    });
    output::table(std::iter::once("from→to").chain(names), 1, rows)
}

/// Prints the table.
pub(super) fn run(args: &EvalArgs, global: &Global) -> Result<()> {
    let saved = Saved::load(&args.model)?;
    let path = run_folder::data_for(&args.model, args.data.as_deref())?;
    let gpu = global.gpu()?;
    let mut session = open_saved(&gpu, &saved, &path)?;
    say_absent(&session, &path, global);
    let predictions = session.predict(args.split)?;
    let damaged = if args.robustness { session.robustness(args.split)? } else { Vec::new() };
    let found = retrieved(&mut session, args.split)?;
    gpu.save_pipeline_cache();
    let data = session.data().clone();
    let truth = data.split(args.split).and_then(|s| s.targets()).ok_or_else(|| {
        let (name, task) = (args.split, data.task());
        let (field, what) = (task.field(), task.about());
        Error::data(&path, format!("no '{name}.{field}' of {what} to compare with; try predict"))
    })?;
    let heads: Vec<(String, Metrics)> = predictions
        .tasks
        .iter()
        .enumerate()
        .map(|(i, letter)| {
            let convention = saved.card.config.data.convention;
            let metrics = Metrics::of(data.task(), &predictions.of(i), truth, convention)?;
            Ok((head_name(letter), metrics))
        })
        .collect::<Result<_>>()?;
    if global.json {
        let heads: Map<_, _> = heads.iter().map(|(name, m)| (name.clone(), json!(m))).collect();
        let mut said = json!({
            "model": saved.path.display().to_string(),
            "epoch": saved.card.epoch,
            "data": path.display().to_string(),
            "split": args.split,
            "fold": data.fold(),
            "rows": truth.rows(),
            "metrics": heads,
            "robustness": damaged.iter().map(|(what, m)| json!({
                "name": what.to_string(),
                "perturbation": what,
                "metrics": m,
            })).collect::<Vec<_>>(),
        });
        if let Some(found) = found {
            said["retrieval"] = json!(found);
        }
        return output::json(&said);
    }
    if data.task().one_number() {
        let (own, convention) = (truth.numbers(), saved.card.config.data.convention);
        let said = metrics::left_out(&own, convention, args.split.name());
        said.into_iter().for_each(|said| global.note(&format!("note: {said}")));
    }
    let lines: Vec<_> = heads.iter().map(|(name, m)| (name.clone(), m.entries())).collect();
    output::tables(&[("", metrics_table("head", &lines))])?;
    if let Some(table) = each_table(data.task(), &heads[0].1) {
        output::print("")?;
        output::tables(&[("", table)])?;
    }
    if let Some(found) = found {
        output::print("")?;
        output::tables(&[("How well rows find their partners:", retrieval_table(&found))])?;
    }
    if !damaged.is_empty() {
        let lines: Vec<_> =
            damaged.iter().map(|(what, m)| (what.to_string(), m.entries())).collect();
        output::print("")?;
        output::tables(&[(
            "The fused head, with one modality damaged:",
            metrics_table("rows", &lines),
        )])?;
    }
    let fold = data.fold().map_or_else(String::new, |f| format!(" in fold {}", f.fold));
    output::print(&format!(
        "{} (epoch {}) on the {} {} rows of {}{fold}",
        saved.path.display(),
        saved.card.epoch,
        truth.rows(),
        args.split,
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::metrics::retrieval;

    #[test]
    fn each_way_of_finding_partners_has_a_line() {
        let rows = [1.0, 0.0, 0.0, 1.0];
        let found = retrieval(["text", "vision"], &rows, &rows, 2).expect("pairs");
        let table = retrieval_table(&found).to_string();
        for way in ["text→vision", "vision→text"] {
            let line = table.lines().find(|line| line.contains(way)).expect(way);
            assert_eq!(line.matches("1.0000").count(), 4, "{table}");
        }
    }
}
