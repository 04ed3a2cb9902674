//! `modalign experiment`: a grid of runs, and the tables that come of it.

use super::progress::Progress;
use super::train::OnLost;
use super::{Global, output, run_folder};
use crate::data::Group;
use crate::error::{Error, Result, nearest};
use crate::experiment::{self, Experiment, Plan, Preset, Results, Run, Seeds, Shard, tables};
use crate::gpu::Gpu;
use crate::train::through_losses;
use clap::Args;
use comfy_table::{Attribute, Table};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `experiment`.
#[derive(Args)]
#[command(after_help = "\
A plan is a TOML file:

  data = \"cmu_mosi.safetensors\"      # from where the plan lies
  cells = \"ablation\"                 # a ready-made set of cells (below); or [grid], or [[cell]]
  seeds = 5                          # 1111 to 1115; or a list, [1, 2, 3]
  folds = 5                          # instead of the file's splits: cross-validation (below)
  group = \"id-prefix\"                # what keeps rows in one fold
  reference = \"labels\"               # what the others are held against
  metric = \"MAE\"                     # chooses the best cell, on validation
  robustness = true                  # test with modalities dropped, noised, truncated, alone, missing
  preset = \"mosi\"                    # as train --preset

  [set]                              # settings of every cell, as train --set
  \"train.max_epochs\" = 30

  [grid]                             # every combination of these values
  \"align.dim\" = [8, 16]
  \"train.lr.other\" = [1e-3, 1e-4]

  [[cell]]                           # a cell of one's own
  name = \"post\"
  set = { \"align.layer\" = \"post\" }

Ready-made cells, which need no file (modalign experiment ablation --data FILE):
  ablation     label generation on and off, times every subset of the pairs of modalities, and
               the correlation form; reference: labels, which is Self-MM
  weights      one alignment weight for all pairs: 0, 0.1, 1, 10, 100, 1000
  modalities   every subset of the modalities
  robustness   neither, alignment, labels, both; each tested with a modality dropped, with noise
               of 0.5, 1 and 2 deviations, with its second half missing, alone, and with 30 and
               60 % of all modalities missing
  models       every model that fits the data, each with its own settings
  mmcl         MMCL (a reconstruction) as a whole, and without each of its parts: contrast of views,
               by instance, by sentiment, prediction, a predictor for each, targets that learn
  unseen       unseen modality interaction (umi), late fusion and zero-filling, taught by rows of one
               modality each and tested on all together, or on what is set:
               --set 'data.missing.train_has=[\"TA\", \"V\"]' --set 'data.missing.test_has=[\"TAV\"]'

--folds K divides all rows, whatever split they are in, into K folds of about equal size, anew
for each seed. Fold k tests run k, fold k+1 validates it, the rest trains it. --group says what
stays in one fold, a speaker or a video, so that none is on both sides:
  id-prefix      what stands in an id before $_$, before [N], or before the last _N (the default)
  id-until:TEXT  what stands before the first TEXT: id-until:- takes a01 of a01-e0-i1
  none           each row by itself
Ids are those of FILE.json. Means are over folds and seeds, and scores of all rows at once stand
beside them. Runs are paired by seed and fold, and tested by Nadeau and Bengio's corrected
resampled t, since the folds of a seed train on much the same rows. Every run keeps
predictions.csv of its test rows.

Every run is an ordinary run folder, DIR/runs/CELL/SEED (SEED-KofK of a fold). Call it again after Ctrl-C or a crash:
finished runs are left alone, an interrupted one goes on. Of each cell come mean and deviation over
seeds, and against the reference, paired by seed: Student's t, Holm's correction for the number of
cells, Hedges' g. The best cell is chosen on validation rows, and marked only where it is better
than the reference on test rows beyond luck. DIR gets results.json, results.csv, runs.csv,
results.md and results.tex; modalign report DIR makes a page of them.

Over several machines, each does a shard; then copy the folders together and collect:
  Slurm         sh examples/slurm.sh P.toml --out e        (an array job, and the tables after it)
  HyperQueue    sh examples/hyperqueue.sh P.toml --out e   (the same of tasks)
  GNU parallel  parallel --sshloginfile hosts --wd . modalign experiment P.toml --out e \\
                --shard {}/8 ::: 1 2 3 4 5 6 7 8
  then          rsync -a host:e/ e/  for each, and: modalign experiment P.toml --out e --collect

Examples:
  modalign experiment plan.toml
  modalign experiment ablation --data play.safetensors --seeds 3 --out runs/ablation
  modalign experiment models --data mine.safetensors --folds 5 --group id-prefix --seeds 2
  modalign experiment plan.toml --list
  modalign experiment plan.toml --set train.max_epochs=20 --json")]
pub(super) struct ExperimentArgs {
    /// A plan file, or ablation, weights, modalities, robustness, models, mmcl or unseen
    #[arg(value_name = "PLAN.toml|CELLS")]
    plan: PathBuf,
    /// The data set, instead of the plan's
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The folder of the experiment; may hold some of its runs already [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many seeds from 1111 on, or the seeds: 5, or 7,8,9
    #[arg(long, value_name = "N|A,B,...", value_parser = parse_seeds, allow_negative_numbers = true)]
    seeds: Option<Seeds>,
    /// Divide all rows into K folds and test on each in turn, instead of the file's splits
    #[arg(long, value_name = "K")]
    folds: Option<usize>,
    /// What stays in one fold: id-prefix, id-until:TEXT or none [default: id-prefix]
    #[arg(long, value_name = "GROUP")]
    group: Option<Group>,
    /// Begin with the settings of mosi, mosei, sims or simsv2, instead of the plan's
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Read the text with the pretrained encoder in this Hugging Face folder
    #[arg(long, value_name = "FOLDER")]
    bert: Option<PathBuf>,
    /// Change a setting of every cell
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<String>,
    /// When the GPU is lost (a driver's reset, say), end, or open it again and go on
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_lost: OnLost,
    /// Do the k-th of n parts
    #[arg(long, value_name = "K/N")]
    shard: Option<Shard>,
    /// Show the runs and how far they are, and train nothing
    #[arg(long, conflicts_with = "collect")]
    list: bool,
    /// Make the tables of the runs that are there, and train nothing
    #[arg(long, conflicts_with = "shard")]
    collect: bool,
}

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let bad = |_| "want a number of seeds, or seeds with commas between".to_string();
    match text.split_once(',') {
        None => Ok(Seeds::Count(text.trim().parse().map_err(bad)?)),
        Some(_) => {
            let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
            words.map(|w| w.parse().map_err(bad)).collect::<Result<_, _>>().map(Seeds::List)
        }
    }
}

impl ExperimentArgs {
    fn plan(&self) -> Result<Plan> {
        let named = Preset::ALL.into_iter().find(|p| Path::new(p.name()) == self.plan);
        let mut plan = match (named, &self.data) {
            // A file of that name is a file.
            (Some(preset), Some(data)) if !self.plan.is_file() => Plan::of(preset, data),
            (Some(preset), None) if !self.plan.is_file() => {
                let name = preset.name();
                let detail = format!("experiment {name} wants --data FILE, the set to train on");
                return Err(Error::Config(detail));
            }
            _ if !self.plan.exists() && self.plan.extension().is_none() => {
                let name = self.plan.display().to_string();
                let close = nearest(&name, Preset::ALL.into_iter().map(Preset::name));
                return Err(Error::Config(format!(
                    "there is no plan file '{name}'; did you mean the cells '{close}'?"
                )));
            }
            _ if self.plan.is_dir() => {
                let what = "is a folder, and a plan is a TOML file; an experiment's own is plan.toml in it";
                return Err(Error::Config(format!("{} {what}", self.plan.display())));
            }
            _ => Plan::read(&self.plan)?,
        };
        if let Some(data) = &self.data {
            plan.data.clone_from(data);
        }
        if plan.data == Path::new("") {
            let how = "names no data set: give --data FILE, or write data = \"FILE\" into it";
            return Err(Error::Config(format!("{} {how}", self.plan.display())));
        }
        if let Some(folds) = self.folds {
            plan.folds = Some(folds);
            if let (Some(_), false) = (named, self.plan.is_file()) {
                // Beside the experiment on the file's splits, not in its place.
                plan.name += &format!("-{folds}folds");
            }
        }
        if let Some(group) = &self.group {
            plan.group = Some(group.clone());
        }
        if let Some(seeds) = &self.seeds {
            plan.seeds = seeds.clone();
        }
        if let Some(preset) = &self.preset {
            plan.preset.clone_from(preset);
        }
        if let Some(folder) = &self.bert {
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            plan.add_setting("model.text_encoder=bert")?;
            plan.add_setting(&format!("bert.path={}", folder.display()))?;
        }
        self.settings.iter().try_for_each(|s| plan.add_setting(s))?;
        Ok(plan)
    }
}

/// Runs what is left to run, and prints the tables.
pub(super) fn run(args: &ExperimentArgs, global: &Global) -> Result<()> {
    let plan = args.plan()?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&plan.name));
    if run_folder::is_run(&out) {
        let detail = format!("--out: {} is a single run's folder; give another", out.display());
        return Err(Error::Config(detail));
    }
    let experiment = Experiment::open(plan, &out)?;
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    if args.list {
        return list(&experiment, shard, global);
    }
    let failed = match args.collect {
        true => Vec::new(),
        false => train(&experiment, shard, args.on_lost, global)?,
    };
    let results = experiment.gather()?;
    if results.finished_runs > 0 {
        experiment.write(&results)?;
        show(&experiment, &results, global)?;
    } else if !args.collect && failed.is_empty() {
        // There may be more parts than runs.
        global.note("this part has no runs");
    } else if failed.is_empty() {
        let detail = format!("no finished run of this plan's cells in {}", out.display());
        return Err(Error::Config(detail));
    }
    let Some((run, why)) = failed.first() else { return Ok(()) };
    let (count, first) = (failed.len(), run.folder.display());
    Err(Error::Gpu(format!(
        "{count} of the experiment's runs could not be finished and are left out of its tables; \
         the first is {first}: {why}"
    )))
}

/// Trains a shard's runs that are not finished. Those that fail for reasons of their own, as a rate
/// that is too high, are given back; the others go on.
pub(super) fn train(
    experiment: &Experiment,
    shard: Shard,
    on_lost: OnLost,
    global: &Global,
) -> Result<Vec<(Run, Error)>> {
    let runs = experiment.runs(shard);
    let mut left = Vec::new();
    for run in &runs {
        if !matches!(experiment.progress(run)?, experiment::Progress::Finished(_)) {
            left.push(run);
        }
    }
    let done = runs.len() - left.len();
    let part = if shard == Shard::WHOLE { "" } else { " of this shard" };
    global.note(&format!(
        "{}: {} cells, {} runs{part}, {done} of them finished",
        experiment.out().display(),
        experiment.cells().len(),
        runs.len()
    ));
    if left.is_empty() {
        return Ok(Vec::new());
    }
    experiment.begin()?;
    let mut gpu = global.gpu()?;
    let width = experiment.cells().iter().map(|c| c.name.len()).max().unwrap_or(0);
    let digits = runs.len().to_string().len();
    let (began, mut failed) = (Instant::now(), Vec::new());
    for (i, run) in left.iter().enumerate() {
        let at = done + i + 1;
        let name = &run.cell.name;
        let fold = match (run.fold, experiment.plan().folds) {
            (Some(part), Some(of)) => format!("fold {part}/{of} "),
            _ => String::new(),
        };
        let (of, seed) = (runs.len(), run.seed);
        let label = format!("[{at:>digits$}/{of}] {name:<width$} seed {seed} {fold}");
        let trained = match on_lost {
            OnLost::Stop => one(&gpu, experiment, run, &label, global),
            OnLost::Resume => through_losses(
                &run.folder,
                || {
                    if gpu.check().is_err() {
                        gpu = global.gpu()?;
                    }
                    Ok(gpu.clone())
                },
                |gpu, _| one(gpu, experiment, run, &label, global),
                |why| global.note(&format!("the GPU was lost ({why}): it is opened again")),
            ),
        };
        match trained {
            Ok(line) => {
                let each = began.elapsed().as_secs_f64() / (i + 1) as f64;
                let rest = minutes(each * (left.len() - i - 1) as f64);
                global.note(&format!("{label} {line}{rest}"));
            }
            // Without the device or the disk no other run would do better.
            Err(
                why @ (Error::DeviceLost(_)
                | Error::Io { .. }
                | Error::NoAdapter(_)
                | Error::Busy { .. }
                | Error::Interrupted { .. }),
            ) => return Err(why),
            Err(why) => {
                log::warn!("{}: {why}", run.folder.display());
                failed.push(((*run).clone(), why));
            }
        }
    }
    gpu.save_pipeline_cache();
    Ok(failed)
}

fn one(gpu: &Gpu, of: &Experiment, run: &Run, label: &str, global: &Global) -> Result<String> {
    let mut progress = Progress::brief(global, &run.folder, label);
    let record = of.train(gpu, run, &mut progress)?;
    progress.into_history();
    let test = record.test.map_or_else(String::new, |m| format!("test {}  ", m.headline(3)));
    Ok(format!("{test}{:.1} s", record.seconds))
}

/// What is left, once that is long enough to be worth a word.
fn minutes(seconds: f64) -> String {
    match seconds {
        s if s < 5.0 => String::new(),
        s if s < 90.0 => format!("  (about {s:.0} s left)"),
        s if s < 5400.0 => format!("  (about {:.0} min left)", s / 60.0),
        s => format!("  (about {:.1} h left)", s / 3600.0),
    }
}

fn list(experiment: &Experiment, shard: Shard, global: &Global) -> Result<()> {
    let mut all = Vec::new();
    for run in experiment.runs(shard) {
        let state = match experiment.progress(&run)? {
            experiment::Progress::New => "to do",
            experiment::Progress::Begun => "interrupted",
            experiment::Progress::Unmeasured(_) => "to measure",
            experiment::Progress::Finished(_) => "finished",
        };
        all.push((run, state));
    }
    if global.json {
        let runs: Vec<Value> = all
            .iter()
            .map(|(run, state)| {
                let mut object = json!({
                    "cell": run.cell.name,
                    "seed": run.seed,
                    "settings": run.cell.settings,
                    "run": run.folder.display().to_string(),
                    "state": state,
                });
                if let Some(fold) = run.fold {
                    object["fold"] = json!(fold);
                }
                object
            })
            .collect();
        return output::json(&json!({ "experiment": experiment.plan().name, "runs": runs }));
    }
    let folds = experiment.plan().folds.map(|_| "fold");
    let header: Vec<&str> =
        ["cell", "seed"].into_iter().chain(folds).chain(["state", "settings"]).collect();
    let rows = all.iter().map(|(run, state)| {
        let fold = run.fold.map(|fold| fold.to_string());
        let settings = run.cell.settings.join(" ");
        let first = [run.cell.name.clone(), run.seed.to_string()].into_iter().chain(fold);
        first.chain([state.to_string(), settings]).collect()
    });
    output::tables(&[("", output::table(header.iter().copied(), header.len(), rows))])
}

fn show(experiment: &Experiment, results: &Results, global: &Global) -> Result<()> {
    if global.json {
        return output::json(results);
    }
    let grids = tables::all(results, tables::narrow(results));
    let parts: Vec<(&str, Table)> =
        grids.iter().map(|g| (g.title.as_str(), grid_table(g))).collect();
    output::tables(&parts)?;
    output::print(&format!("\n{}\n{}", tables::note(results), results.verdict()))?;
    let out = experiment.out().display();
    output::print(&format!(
        "\n{out}: results.json, results.csv, runs.csv, results.md, results.tex; a page of them: \
         modalign report {out}"
    ))
}

/// A grid for the terminal, its marked row in bold with a star.
pub(super) fn grid_table(grid: &tables::Grid) -> Table {
    let star = |i: usize, row: &Vec<String>| {
        // A terminal is narrow.
        let mut row: Vec<String> = row.iter().map(|cell| cell.replace(" ± ", "±")).collect();
        if grid.marked == Some(i) {
            row[0] = format!("{} *", row[0]);
        }
        row
    };
    let rows = grid.rows.iter().enumerate().map(|(i, row)| star(i, row));
    let mut table = output::table(grid.header.iter().cloned(), grid.words, rows);
    if let Some(cells) = grid.marked.and_then(|i| table.row_mut(i)) {
        let bold = cells.cell_iter().map(|c| c.clone().add_attribute(Attribute::Bold));
        let bold: Vec<_> = bold.collect();
        *cells = comfy_table::Row::from(bold);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_list() {
        assert_eq!(parse_seeds("3"), Ok(Seeds::Count(3)));
        assert_eq!(parse_seeds("7, 9"), Ok(Seeds::List(vec![7, 9])));
        assert_eq!(parse_seeds("7,"), Ok(Seeds::List(vec![7])));
        assert!(parse_seeds("many").is_err() && parse_seeds("1,x").is_err());
    }
}
