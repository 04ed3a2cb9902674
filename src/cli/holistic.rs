//! `modalign holistic`: models by data sets, annotated by measurement.

use super::experiment::{grid_table, train};
use super::train::OnLost;
use super::{Global, output};
use crate::error::{Error, Result};
use crate::experiment::{Experiment, Shard};
use crate::files::write_atomic;
use crate::holistic::{DataResult, Floor, Plan, Tables, Whole, annotate, csv};
use crate::report::holistic_page;
use clap::Args;
use comfy_table::Table;
use std::path::{Path, PathBuf};

/// Options of `holistic`.
#[derive(Args)]
#[command(after_help = "\
A plan names data sets and models; each model is trained on each data set with each seed, as an experiment
of its own in DIR/DATA, so that finished runs are left alone and interrupted ones go on.

Data sets are annotated by measurement: which interaction of their modalities is the largest (see modalign
interactions), whether one modality leads, whether they are sequences. Scores go from what knowing nothing
reaches (0: the most frequent class, or the median) to the best possible (1), whatever other models there
are. Then come means by label, paired tests with Holm's correction (below six pairs only the sign), and
what is lost where a modality is not there.

A plan:
  seeds = 3
  [set]
  \"train.max_epochs\" = 30
  [[data]]
  path = \"ravdess.safetensors\"
  set = { \"task.kind\" = \"classes\" }
  [[data]]
  path = \"wiki_articles.safetensors\"
  [[model]]
  name = \"late\"
  set = { \"model.name\" = \"lf_dnn\" }
  [[model]]
  name = \"outer products\"
  set = { \"model.name\" = \"tfn\" }

DIR gets holistic.json, scores.csv and holistic.html. Over several machines each does a shard, as of an
experiment; then --collect.

Examples:
  modalign holistic whole.toml
  modalign holistic whole.toml --shard 1/4 --out runs/whole
  modalign holistic whole.toml --out runs/whole --collect --json")]
pub(super) struct HolisticArgs {
    /// A plan file
    #[arg(value_name = "PLAN.toml")]
    plan: PathBuf,
    /// The folder of all experiments [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// When the GPU is lost (a driver's reset, say), end, or open it again and go on
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_lost: OnLost,
    /// Do the k-th of n parts of each data set's runs
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Make the tables of the runs that are there, and train nothing
    #[arg(long, conflicts_with = "shard")]
    collect: bool,
}

/// Trains what is left, annotates, and prints the tables.
pub(super) fn run(args: &HolisticArgs, global: &Global) -> Result<()> {
    let plan = Plan::read(&args.plan)?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&plan.name));
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    let mut experiments = Vec::new();
    for own in plan.experiments()? {
        let folder = out.join(&own.name);
        experiments.push(Experiment::open(own, &folder)?);
    }
    // What has no floor is said before anything is trained.
    let floors = experiments.iter().map(|e| Floor::of(e.data())).collect::<Result<Vec<_>>>()?;
    let mut failed = Vec::new();
    if !args.collect {
        for experiment in &experiments {
            failed.extend(train(experiment, shard, args.on_lost, global)?);
        }
    }
    let (mut sets, mut runs) = (Vec::new(), [0, 0]);
    for ((entry, experiment), floor) in plan.data.iter().zip(&experiments).zip(floors) {
        let results = experiment.gather()?;
        runs[0] += results.expected_runs;
        runs[1] += results.finished_runs;
        if results.finished_runs > 0 {
            experiment.write(&results)?;
        }
        let annotation = annotate(experiment.data(), entry.flow, plan.clusters);
        if let Some(why) = &annotation.unmeasured {
            log::warn!("{}: its interactions are not measured: {why}", entry.name);
        }
        sets.push(DataResult::of(
            &entry.name,
            &results,
            annotation,
            floor,
            plan.floor_by_worst_model,
        ));
    }
    if runs[1] == 0 {
        if args.collect {
            return Err(Error::Config(format!(
                "no finished run of this plan in {}",
                out.display()
            )));
        }
        global.note("this part has no runs");
        return Ok(());
    }
    let whole = Whole::of(&plan, sets, runs);
    write_atomic(out.join("holistic.json"), output::to_json(&whole)?.as_bytes())?;
    write_atomic(out.join("scores.csv"), csv(&whole)?.as_bytes())?;
    write_atomic(out.join("holistic.html"), holistic_page(&whole).as_bytes())?;
    if global.json {
        output::json(&whole)?;
    } else {
        let tables = Tables::of(&whole);
        let all = tables.all().into_iter();
        let parts: Vec<(&str, Table)> = all.map(|g| (g.title.as_str(), grid_table(g))).collect();
        output::tables(&parts)?;
        let (there, all) = (whole.runs[1], whole.runs[0]);
        let at = out.display();
        output::print(&format!(
            "\n{there} of {all} runs. {at}: holistic.json, scores.csv, holistic.html"
        ))?;
    }
    let Some((run, why)) = failed.first() else { return Ok(()) };
    let (count, first) = (failed.len(), run.folder.display());
    Err(Error::Gpu(format!(
        "{count} of the runs could not be finished and are left out of the tables; the first is {first}: {why}"
    )))
}
