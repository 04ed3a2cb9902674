//! `modalign export`: a trained encoder for other programs.

use super::{Global, output};
use crate::error::Result;
use crate::train;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Options of `export`.
#[derive(Args)]
#[command(after_help = "\
The folder has config.json, model.safetensors and the tokenizer's files, as `transformers` reads
them: AutoModel.from_pretrained(\"FOLDER\") gives the hidden states that the run's encoder gives. A
RoBERTa, DistilBERT or MPNet is written as one, by its own names.
A pooler that the encoder came with is passed on as it was.

Example:
  modalign export --model runs/mosi-mosi-1111 --hf encoder")]
pub(super) struct ExportArgs {
    /// A run folder (its best epoch) or a model file, trained with --bert
    #[arg(long, value_name = "RUN|FILE")]
    model: PathBuf,
    /// Write the encoder to this folder, new or empty, as Hugging Face stores one
    #[arg(long, value_name = "FOLDER")]
    hf: PathBuf,
}

/// Writes the folder.
pub(super) fn run(args: &ExportArgs, global: &Global) -> Result<()> {
    let tensors = train::export(&args.model, &args.hf)?;
    if global.json {
        let folder = args.hf.display().to_string();
        return output::json(&json!({ "folder": folder, "tensors": tensors }));
    }
    global.note(&format!("{}: {tensors} tensors", args.hf.display()));
    Ok(())
}
