//! Running an experiment: what is finished is left alone, what was interrupted goes on.

use super::folding::{Folding, Whole};
use super::plan::{Cell, Plan};
use super::presets::Preset;
use super::record::{ByScore, CellRun, Damaged, RunRecord};
use super::results::{About, CellRuns, Results};
use super::tables;
use crate::data::{Dataset, Folds, Modality, Perturbation, SplitName};
use crate::error::{Error, Result};
use crate::files::{Claim, read_json, sha256_hex, sha256_of, write_atomic, write_sealed_json};
use crate::gpu::Gpu;
use crate::nn::Pretrained;
use crate::recipe::TextEncoder;
use crate::train::carried::carried;
use crate::train::{
    Observer, Outcome, RunOptions, Saved, fits, open_file, open_saved, resume_in, train_in,
};
use crate::train::{folder, weights_sha256};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The file that a finished run holds.
const RECORD: &str = "cell.json";

/// What its plan begins with, which tells an experiment's folder from any other.
const OURS: &str = "# The plan of the runs beside it, as `modalign experiment` wrote it.";

/// A part of an experiment's runs, for one of several machines: every n-th run, from the k-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    pub part: usize,
    /// Of so many.
    pub of: usize,
}

impl Shard {
    /// All runs.
    pub const WHOLE: Shard = Shard { part: 1, of: 1 };
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(part, of)| {
            Some(Shard { part: part.trim().parse().ok()?, of: of.trim().parse().ok()? })
        });
        let fits = |s: &Shard| (1..=s.of).contains(&s.part);
        parts.filter(fits).ok_or_else(|| "want k/n with k from 1 to n, as in 3/8".into())
    }
}

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its cell.
    pub cell: Cell,
    /// Its seed.
    pub seed: u64,
    /// The fold that it tests on, from 1, where rows are folded.
    pub fold: Option<usize>,
    /// Its folder.
    pub folder: PathBuf,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Nothing is there.
    New,
    /// It was interrupted.
    Begun,
    /// It is trained, and the plan asks for more measurements than it had.
    Unmeasured(Box<RunRecord>),
    /// It is done.
    Finished(Box<RunRecord>),
}

/// An experiment and its folder.
pub struct Experiment {
    plan: Plan,
    cells: Vec<Cell>,
    out: PathBuf,
    data: Dataset,
    /// Of each seed, where rows are folded.
    folds: Vec<Folds>,
    /// Of the pretrained text encoder, where the cells have one.
    encoder: Option<String>,
}

impl Experiment {
    /// Checks a plan against its data and takes `out` as its folder, which may hold some of its
    /// runs.
    ///
    /// # Errors
    /// Bad data, a plan that [`Plan::all_cells`] refuses, rows that cannot be folded as it asks, a folder
    /// with other things in it than an experiment.
    pub fn open(plan: Plan, out: &Path) -> Result<Self> {
        check_folder(out)?;
        let base = plan.base()?;
        let data = open_file(&plan.data, &base)?;
        let mut has = data.modalities();
        let tokens = matches!(base.model.text_encoder, TextEncoder::Bert | TextEncoder::Table);
        if tokens && !has.contains(&Modality::Text) {
            has.insert(0, Modality::Text);
        }
        let mut cells = plan.all_cells(&has)?;
        let mut folds = Vec::new();
        if let Some(of) = plan.folds {
            let group = plan.group.clone().unwrap_or_default();
            for seed in plan.seeds.list() {
                folds.push(Folds::new(&data, of, &group, seed)?);
            }
        } else if data.split(SplitName::Test).is_none() {
            log::warn!(
                "{} has no test rows: --folds 5 would test on each of its rows once",
                plan.data.display()
            );
        }
        if plan.cells == Some(Preset::Models) {
            let seed = plan.seeds.list().first().copied().unwrap_or_default();
            let mut fitting = Vec::new();
            for cell in cells {
                match fits(&plan.config(&cell, seed)?, &data) {
                    Ok(()) => fitting.push(cell),
                    Err(why) => log::warn!("{} is left out: {why}", cell.name),
                }
            }
            cells = fitting;
        }
        let encoder = match base.model.text_encoder {
            TextEncoder::Bert => Some(encoder_sha256(Path::new(&base.bert.path))?),
            _ => None,
        };
        Ok(Experiment { plan, cells, out: out.to_path_buf(), data, folds, encoder })
    }

    /// Its data set, opened as its cells' task wants it.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its cells.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The folder.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The runs of a shard: seed by seed and fold by fold, so that the cells can be compared early.
    pub fn runs(&self, shard: Shard) -> Vec<Run> {
        let pairs = self.pairs();
        let all = pairs.iter().flat_map(|pair| self.cells.iter().map(move |cell| (cell, *pair)));
        all.skip(shard.part - 1)
            .step_by(shard.of)
            .map(|(cell, pair)| self.run(cell, pair))
            .collect()
    }

    /// Every seed with every fold.
    fn pairs(&self) -> Vec<(u64, Option<usize>)> {
        let each = |seed| match self.plan.folds {
            None => vec![(seed, None)],
            Some(of) => (1..=of).map(|part| (seed, Some(part))).collect(),
        };
        self.plan.seeds.list().into_iter().flat_map(each).collect()
    }

    fn run(&self, cell: &Cell, (seed, fold): (u64, Option<usize>)) -> Run {
        let folder = self.out.join("runs").join(&cell.name).join(self.folder_of(seed, fold));
        Run { cell: cell.clone(), seed, fold, folder }
    }

    /// The name of a run's folder in its cell's: another number of folds makes other runs.
    fn folder_of(&self, seed: u64, fold: Option<usize>) -> String {
        match (fold, self.plan.folds) {
            (Some(part), Some(of)) => format!("{seed}-{part}of{of}"),
            _ => seed.to_string(),
        }
    }

    /// The rows of a run by what it does with them, and its fold; none where rows are not folded.
    fn folds_of(&self, run: &Run) -> Option<(&Folds, usize)> {
        let at = self.plan.seeds.list().iter().position(|seed| *seed == run.seed)?;
        Some((self.folds.get(at)?, run.fold?))
    }

    /// How far a run is.
    ///
    /// # Errors
    /// A folder with a run of other settings or data, or a file of it that cannot be read.
    pub fn progress(&self, run: &Run) -> Result<Progress> {
        if !folder::is_run(&run.folder) {
            return Ok(Progress::New);
        }
        let there = folder::config(&run.folder)?.keys()?;
        let wanted = self.plan.config(&run.cell, run.seed)?.keys()?;
        // The encoder is another folder on another machine.
        let differs = |((key, a), (_, b)): &(&(String, String), &(String, String))| {
            a != b && key != "bert.path"
        };
        if let Some(((key, a), (_, b))) = there.iter().zip(&wanted).find(differs) {
            return Err(Error::Config(format!(
                "{} was trained with {key} = {a}, and the plan has {b}: remove that folder, or give \
                 another --out",
                run.folder.display()
            )));
        }
        let (digest, fold) = folder::trained_on(&run.folder)?;
        let wanted = self.folds_of(run).map(|(folds, part)| folds.folded(part));
        // What other data than it began with makes of the rows is nothing against the ids.
        if digest == self.data.digest() && fold != wanted {
            return Err(Error::Config(format!(
                "{} was trained on other folds than the plan has now: its groups, or the ids that they \
                 are made by, have changed; remove that folder, or give another --out",
                run.folder.display()
            )));
        }
        let path = run.folder.join(RECORD);
        if !path.exists() {
            return Ok(Progress::Begun);
        }
        let record = serde_json::from_str::<RunRecord>(&read_json(&path)?).map_err(|e| {
            Error::checkpoint(&path, format!("no record of a run ({e}): remove it"))
        })?;
        if record.data_sha256 != self.data.digest() {
            return Err(Error::Config(format!(
                "{} was trained on other data than {} is now (another SHA-256): remove that folder, \
                 or give another --out",
                run.folder.display(),
                self.plan.data.display()
            )));
        }
        if record.encoder_sha256 != self.encoder {
            return Err(Error::Config(format!(
                "{} was trained with another text encoder than that of the plan (another SHA-256): \
                 remove that folder, or give another --out",
                run.folder.display()
            )));
        }
        let record = Box::new(record);
        match self.plan.tests_robustness() && record.robustness.is_none() {
            true => Ok(Progress::Unmeasured(record)),
            false => Ok(Progress::Finished(record)),
        }
    }

    /// Trains a run to its end and measures it; one that was begun goes on where it stopped.
    ///
    /// # Errors
    /// Those of [`train_in`] and [`resume_in`]; [`Busy`](Error::Busy) where another process trains it. Whatever
    /// was complete stays.
    pub fn train(&self, gpu: &Gpu, run: &Run, observer: &mut dyn Observer) -> Result<RunRecord> {
        // Before anything is looked at: another process may be about to train it.
        let claim = Claim::take(&run.folder)?;
        let mut record = match self.progress(run)? {
            Progress::Finished(record) => return Ok(*record),
            Progress::Unmeasured(record) => *record,
            Progress::Begun => {
                let data = Some(self.plan.data.as_path());
                self.record(gpu, run, resume_in(gpu, &claim, data, None, observer)?)?
            }
            Progress::New => {
                let config = self.plan.config(&run.cell, run.seed)?;
                let (data, out) = (self.plan.data.clone(), run.folder.clone());
                let fold = self.folds_of(run).map(|(folds, part)| folds.folded(part).fold);
                let options = RunOptions { data, out, config, init: None, fold };
                self.record(gpu, run, train_in(gpu, &claim, &options, observer)?)?
            }
        };
        self.measure(gpu, run, &mut record)?;
        let path = run.folder.join(RECORD);
        write_sealed_json(&path, &record)?;
        // All that --resume needs, and by far the largest part of a run; it will not go on.
        let _ = std::fs::remove_dir_all(run.folder.join("state"));
        Ok(record)
    }

    /// What training says of a run; what it predicts of its fold's test rows goes into a file.
    fn record(&self, gpu: &Gpu, run: &Run, outcome: Outcome) -> Result<RunRecord> {
        let rows = self.folds_of(run).map(|(folds, part)| folds.rows(part));
        let predicted = rows.as_ref().map(|[_, _, test]| {
            Whole::of(&self.data).write(&run.folder, test, &outcome.test_scores)
        });
        Ok(RunRecord {
            cell: run.cell.name.clone(),
            seed: run.seed,
            fold: run.fold,
            rows: rows.map(|rows| rows.each_ref().map(Vec::len)),
            valid: outcome.valid,
            test: outcome.test,
            best_epoch: outcome.best_epoch,
            epochs: outcome.epochs,
            seconds: outcome.seconds,
            adapter: outcome.adapter,
            driver: gpu.caps().driver.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            data_sha256: self.data.digest().to_string(),
            encoder_sha256: self.encoder.clone(),
            predictions_sha256: predicted.transpose()?,
            retrieval: outcome.retrieval,
            probes: None,
            robustness: None,
        })
    }

    /// What the trained model shows beyond its scores.
    fn measure(&self, gpu: &Gpu, run: &Run, record: &mut RunRecord) -> Result<()> {
        let known = self.data.splits().next().is_some_and(|s| !s.factor_names().is_empty());
        let damage = self.plan.tests_robustness();
        if !known && !damage {
            return Ok(());
        }
        let mut session = open_saved(gpu, &Saved::load(&run.folder)?, &self.plan.data)?;
        if known {
            record.probes = carried(&mut session)?;
        }
        if damage {
            let all = session.robustness(SplitName::Test)?.into_iter();
            let named = |(perturbation, test): (Perturbation, _)| Damaged {
                name: perturbation.to_string(),
                perturbation,
                test,
            };
            record.robustness = Some(all.map(named).collect());
        }
        Ok(())
    }

    /// What the finished runs in the folder come to.
    ///
    /// # Errors
    /// Those of [`progress`](Self::progress).
    pub fn gather(&self) -> Result<Results> {
        let mut runs = Vec::new();
        for cell in &self.cells {
            let mut own = CellRuns::default();
            for (seed, fold) in self.pairs() {
                let run = self.run(cell, (seed, fold));
                let there = self.progress(&run)?;
                if let Progress::Finished(record) | Progress::Unmeasured(record) = there {
                    let run = format!("runs/{}/{}", cell.name, self.folder_of(seed, fold));
                    own.runs.push(CellRun { run, record: *record });
                }
            }
            own.pooled = self.pooled(cell, &own.runs)?;
            runs.push(own);
        }
        let whole = self.folds.first().zip(self.plan.folds);
        let folding = whole.map(|(first, folds)| Folding {
            folds,
            group: self.plan.group.clone().unwrap_or_default(),
            groups: first.groups(),
            rows: self.data.splits().map(|s| s.rows()).sum(),
            overlap: 0.0,
        });
        let about = About {
            data_sha256: self.data.digest().to_string(),
            data_name: self.plan.data.file_stem().unwrap_or_default().to_string_lossy().into(),
            convention: self.plan.base()?.data.convention,
            folding,
        };
        Ok(Results::gather(&self.plan, &self.cells, runs, about))
    }

    /// Of each seed whose folds are all finished, the scores of a cell over all rows at once.
    fn pooled(&self, cell: &Cell, runs: &[CellRun]) -> Result<Vec<ByScore<f64>>> {
        let Some(of) = self.plan.folds else { return Ok(Vec::new()) };
        let whole = Whole::of(&self.data);
        let mut all = Vec::new();
        for seed in self.plan.seeds.list() {
            let own = runs.iter().filter(|r| r.record.seed == seed);
            let folders: Vec<_> =
                own.map(|r| (self.out.join(&r.run), r.record.predictions_sha256.clone())).collect();
            if folders.len() == of {
                let convention = self.plan.config(cell, seed)?.data.convention;
                all.push(whole.pooled(&folders, convention)?);
            }
        }
        Ok(all)
    }

    /// Writes `plan.toml`, so that the folder says what it is of.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn begin(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out).map_err(Error::io("create", &self.out))?;
        let mut plan = self.plan.clone();
        plan.data = std::path::absolute(&plan.data).unwrap_or(plan.data);
        let text = format!("{OURS}\n{}", plan.to_toml()?);
        write_atomic(self.out.join("plan.toml"), text.as_bytes())
    }

    /// Writes `results.json`, `results.csv`, `runs.csv`, `results.md` and `results.tex`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, results: &Results) -> Result<()> {
        self.begin()?;
        let path = self.out.join("results.json");
        write_sealed_json(&path, results)?;
        for (name, text) in [
            ("results.csv", tables::csv(results)?),
            ("runs.csv", tables::runs_csv(results)?),
            ("results.md", tables::markdown(results)),
            ("results.tex", tables::latex(results)),
        ] {
            write_atomic(self.out.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

/// Refuses a folder whose files an experiment would write over: it is to be absent or empty, or hold
/// an experiment, or nothing but runs.
fn check_folder(out: &Path) -> Result<()> {
    let Some(name) = folder::first_in(out, &["runs"])? else { return Ok(()) };
    let plan = out.join("plan.toml");
    let ours = std::fs::read_to_string(&plan).is_ok_and(|text| {
        // Earlier versions wrote no first line of their own.
        let same = |read: Plan| read.to_toml().is_ok_and(|again| again == text);
        text.starts_with(OURS) || Plan::read(&plan).is_ok_and(same)
    });
    match ours {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "--out: {} holds other things than an experiment ({name}), and nothing in it is \
             overwritten: give a folder that is new or empty",
            out.display()
        ))),
    }
}

/// The SHA-256 of an encoder's sizes and weights.
fn encoder_sha256(folder: &Path) -> Result<String> {
    let sizes = sha256_of(&folder.join("config.json"))?;
    let weights = weights_sha256(&Pretrained::open(folder)?)?;
    Ok(sha256_hex((sizes + &weights).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_written_k_of_n() {
        assert_eq!("3/8".parse(), Ok(Shard { part: 3, of: 8 }));
        for bad in ["0/8", "9/8", "3", "a/b", "1/0", ""] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
