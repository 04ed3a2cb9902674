//! `modalign models`: what there is to train.

use super::{Global, output};
use crate::error::Result;
use crate::recipe::{Entry, MODELS};
use clap::Args;
use serde_json::{Map, Value, json};

/// Options of `models`.
#[derive(Args)]
#[command(after_help = "\
Parameters are those of the settings for mosi over MMSA's features, without a pretrained text encoder.

Tasks: regression is one number a row or several (Self-MM: one), classes one of several, labels any of several.

Examples:
  modalign models
  modalign train --data mosi.safetensors --model tfn
  modalign inspect --keys --model tfn            what can be set about it
  modalign experiment models --data mosi.safetensors    all that fit the data, compared")]
pub(super) struct ModelsArgs {}

/// Prints the table.
pub(super) fn run(_: &ModelsArgs, global: &Global) -> Result<()> {
    if global.json {
        let all = MODELS.iter().map(object).collect::<Result<Vec<_>>>()?;
        return output::json(&all);
    }
    let rows = MODELS.iter().map(row).collect::<Result<Vec<_>>>()?;
    let header = ["model", "needs", "tasks", "settings for", "from", "parameters"];
    output::print(&output::text(&output::table(header, 5, rows)))
}

fn row(entry: &Entry) -> Result<Vec<String>> {
    let parameters = entry.parameters(entry.presets[0])?.to_string();
    let [name, needs, paper] = [entry.name, entry.needs, entry.paper].map(String::from);
    let kinds: Vec<&str> = entry.tasks.iter().map(|t| t.name()).collect();
    let tasks = if kinds.len() == 3 { "all".into() } else { kinds.join(" ") };
    Ok(vec![name, needs, tasks, entry.presets.join(" "), paper, parameters])
}

fn object(entry: &Entry) -> Result<Value> {
    let counted = |preset: &&str| Ok((preset.to_string(), json!(entry.parameters(preset)?)));
    let parameters: Map<String, Value> =
        entry.presets.iter().map(counted).collect::<Result<_>>()?;
    Ok(json!({
        "name": entry.name,
        "paper": entry.paper,
        "needs": entry.needs,
        "tasks": entry.tasks,
        "parameters": parameters,
    }))
}
