//! `modalign report`: a page about runs and experiments.

use super::{Global, output};
use crate::error::Result;
use crate::files::write_atomic;
use crate::report::build;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Options of `report`.
#[derive(Args)]
#[command(after_help = "\
The page is one file that loads nothing: curves, predictions against labels, the generated labels,
covariances before and after training, probes where the data's factors are known, the hardest
samples, and what it takes to repeat the run. Of an experiment also the table of its cells, their
differences from the reference, published figures, and robustness; of several runs, a comparison.

A run's model is run over its data for this. Where the data file is gone or there is no adapter, the
page says so and has the rest.

Examples:
  modalign report runs/mosi-mosi-1111 --out mosi.html
  modalign report runs/a runs/b --out compared.html
  modalign report experiments/ablation --out ablation.html --json")]
pub(super) struct ReportArgs {
    /// Run folders, or folders of experiments
    #[arg(value_name = "RUN|EXPERIMENT", required = true)]
    targets: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

/// Makes the page.
pub(super) fn run(args: &ReportArgs, global: &Global) -> Result<()> {
    let made = build(&args.targets, &|| global.gpu())?;
    for why in &made.missing {
        log::warn!("the page is without what needs the model: {why}");
    }
    write_atomic(&args.out, made.html.as_bytes())?;
    if global.json {
        let parts = made.sections.iter();
        let parts = parts.map(|(part, titles)| json!({ "title": part, "sections": titles }));
        return output::json(&json!({
            "path": args.out.display().to_string(),
            "bytes": made.html.len(),
            "sections": parts.collect::<Vec<Value>>(),
            "missing": made.missing,
        }));
    }
    let count: usize = made.sections.iter().map(|p| p.1.len()).sum();
    let size = output::bytes(made.html.len() as u64);
    output::print(&format!("{}: {count} sections, {size}", args.out.display()))
}
