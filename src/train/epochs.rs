//! A run's epochs: trained, validated, written down, until there is nothing better to come; then its end.
//!
//! Everything that a later epoch depends on is on disk when an epoch ends, in this order: the
//! micro-batch lines, the line of the generated labels, the best model, the epoch line, the state.
//! Whatever a kill leaves behind the state is computed again on resume, bit for bit. The state knows the
//! digests of what it stands on, so that a log or a model that is not the run's own is not taken for it.

use super::checkpoint::{ModelCard, Saved};
use super::evaluation::{retrieved, score};
use super::generated::LabelRecord;
use super::history::{EpochRecord, StepRecord};
use super::lifecycle::{Observer, Outcome};
use super::metrics::smaller_is_better;
use super::numerics::{Looked, first_wrong, look};
use super::run_files::{Files, Head, LOGS, Place, STATE};
use super::session::{Session, StandsOn};
use super::steps::Part;
use crate::data::{Modality, SplitName, Targets};
use crate::error::{Error, Result};
use crate::files::FORMAT;
use crate::nn::Weights;
use crate::recipe::{Distance, goal_reference};
use serde::Serialize;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a diverged epoch may have taken that is repeated to find where it went wrong.
const AT_MOST: Duration = Duration::from_secs(60);

/// What an earlier call has left of a run.
#[derive(Default)]
pub(super) struct Done {
    pub(super) place: Place,
    /// The heads of the logs, of a state that knows them.
    pub(super) heads: Option<BTreeMap<String, Head>>,
    /// SHA-256 of the best model's values, likewise.
    pub(super) model: Option<String>,
    /// The weights that the run began with.
    pub(super) init: Option<PathBuf>,
}

pub(super) fn continue_run(
    session: &mut Session,
    files: &Files<'_>,
    done: Done,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let start = Instant::now();
    let limits = session.model().config().train.clone();
    let mut run = Run::take_up(session, files, done)?;
    observer.begin(session, run.history.len() + 1);
    let mut samples = 0;
    let observer = RefCell::new(observer);
    for epoch in run.history.len() + 1..=limits.max_epochs {
        if stopped(&run.history, limits.early_stop) {
            break;
        }
        if observer.borrow_mut().stop() {
            return Err(run.interrupted(0));
        }
        // What an earlier end of this run said no longer holds.
        let ended = files.at("metrics.json");
        if ended.exists() {
            std::fs::remove_file(&ended).map_err(Error::io("remove", &ended))?;
        }
        let record = run.epoch(session, epoch, &observer)?;
        samples += session.data().split(SplitName::Train).map_or(0, |s| s.rows());
        observer.borrow_mut().epoch(&record);
        run.history.push(record);
    }
    if run.history.is_empty() {
        return Err(Error::Config("train.max_epochs leaves nothing to train".into()));
    }
    let Run { history, model, .. } = run;
    let training = start.elapsed().as_secs_f64();
    let last = files.own("last.safetensors")?;
    let mut written = BTreeMap::new();
    let sum = Saved::save(&last, &card(session, history.len()), &session.weights()?)?;
    written.insert("last.safetensors".to_string(), sum);
    if let Some(sum) = save_labels(session, &files.own("labels.safetensors")?)? {
        written.insert("labels.safetensors".into(), sum);
    }

    let best_epoch = best(&history).map_or(history.len(), |r| r.epoch);
    let saved = Saved::load(&files.at("model.safetensors"))?;
    if model.is_some() && saved.sha256 != model {
        let detail = "is another model than this run trained (another SHA-256): put back a copy";
        return Err(Error::checkpoint(&saved.path, detail));
    }
    written.extend(saved.sha256.clone().map(|sum| ("model.safetensors".to_string(), sum)));
    written.extend(files.heads().into_iter().map(|(name, head)| (name, head.sha256)));
    session.load(&saved.weights, &saved.path)?;
    let mut outcome = Outcome {
        format: FORMAT,
        test: None,
        test_scores: Vec::new(),
        valid: None,
        retrieval: None,
        best_epoch,
        epochs: history.len(),
        seconds: start.elapsed().as_secs_f64(),
        samples_per_second: samples as f64 / training.max(1e-9),
        adapter: session.adapter().to_string(),
        parameters: session.params().count(),
        files: written,
    };
    for split in [SplitName::Valid, SplitName::Test] {
        if session.data().split(split).and_then(|s| s.targets()).is_none() {
            continue;
        }
        let predictions = session.predict(split)?;
        let metrics = score(session, split, &predictions)?;
        match split {
            SplitName::Valid => outcome.valid = metrics,
            _ => {
                (outcome.test, outcome.test_scores) = (metrics, predictions.fused());
                outcome.retrieval = retrieved(session, split)?;
            }
        }
    }
    files.write_json("metrics.json", &outcome)?;
    Ok(outcome)
}

/// A run between two epochs.
struct Run<'a> {
    files: &'a Files<'a>,
    /// Epochs that are done.
    history: Vec<EpochRecord>,
    /// Steps of the next one that are.
    steps: Vec<StepRecord>,
    /// SHA-256 of the best model's values so far.
    model: Option<String>,
    /// The weights that it began with.
    init: Option<PathBuf>,
}

impl<'a> Run<'a> {
    /// Reads what is done from the logs, and holds them against what the state knows of them.
    fn take_up(session: &Session, files: &'a Files<'a>, done: Done) -> Result<Self> {
        let Place { epoch, batch } = done.place;
        let mut all = BTreeMap::new();
        for name in LOGS {
            let head =
                done.heads.as_ref().map(|heads| heads.get(name).cloned().unwrap_or_default());
            all.insert(name, files.take_up(name, head.as_ref(), done.place)?);
        }
        let wrong = |name: &str, detail: String| Error::checkpoint(files.at(name), detail);
        let epochs = all.remove("epochs.jsonl").unwrap_or_default();
        let parsed = epochs.into_iter().map(serde_json::from_value::<EpochRecord>);
        let history: Vec<EpochRecord> = parsed
            .collect::<serde_json::Result<_>>()
            .map_err(|e| wrong("epochs.jsonl", e.to_string()))?;
        if history.iter().map(|r| r.epoch).ne(1..=epoch) {
            let detail = format!(
                "does not hold a line for each of the {epoch} epochs that are done. {}",
                files.what_is_left()
            );
            return Err(wrong("epochs.jsonl", detail));
        }
        let lines = all.remove("steps.jsonl").unwrap_or_default();
        let own =
            lines.iter().filter_map(|line| StepRecord::from_json(line, session.columns(epoch + 1)));
        let steps: Vec<StepRecord> = own.filter(|step| step.epoch == epoch + 1).collect();
        if steps.iter().map(|step| step.batch).ne(1..=batch) {
            let detail =
                format!("does not hold a line for each of the {batch} batches that are done");
            return Err(wrong("steps.jsonl", detail));
        }
        Ok(Run { files, history, steps, model: done.model, init: done.init })
    }

    fn interrupted(&self, batch: usize) -> Error {
        let run = self.files.root().to_path_buf();
        Error::Interrupted { run, epoch: self.history.len(), batch }
    }

    fn save_state(&self, session: &Session, place: Place) -> Result<()> {
        let stands_on = StandsOn { heads: self.files.heads(), model: self.model.clone() };
        session.save_state(&self.files.own(STATE)?, place, stands_on)
    }

    fn append(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_value(value)
            .map_err(|e| Error::checkpoint(self.files.at(name), e.to_string()))?;
        self.files.append(name, &[line])
    }

    fn epoch(
        &mut self,
        session: &mut Session,
        epoch: usize,
        observer: &RefCell<&mut dyn Observer>,
    ) -> Result<EpochRecord> {
        session.data().unchanged()?;
        let order = session.order(epoch);
        let total = order.len();
        let mut steps = std::mem::take(&mut self.steps);
        let from = steps.len();
        let stop = || observer.borrow_mut().stop();
        let batches = total.div_ceil(session.batch_size());
        let began = Instant::now();
        let part = Part { order, from, until: None };
        let trained = session.train_part(epoch, part, stop, |record, done| {
            let what = record.not_finite();
            let batch = Some(record.batch);
            observer.borrow_mut().step(&record, done, total);
            steps.push(record);
            what.map_or(Ok(()), |what| Err(Error::Diverged { epoch, batch, what }))
        });
        if let Ok(_) | Err(Error::Diverged { .. }) = trained {
            // The lines of an epoch that failed tell where it went wrong; resuming drops them.
            let lines: Vec<Value> = steps[from..].iter().map(StepRecord::to_json).collect();
            self.files.append("steps.jsonl", &lines)?;
        }
        let batch = match trained {
            Err(Error::Diverged { batch: Some(batch), what, .. }) => {
                let spent = began.elapsed();
                let what = self.explained(session, (epoch, batch), what, spent, observer);
                return Err(Error::Diverged { epoch, batch: Some(batch), what });
            }
            other => other?,
        };
        // What is about to be kept was made of these rows.
        session.data().unchanged()?;
        if batch < batches {
            self.save_state(session, Place { epoch: epoch - 1, batch })?;
            return Err(self.interrupted(batch));
        }
        self.end_epoch(session, EpochRecord::means(epoch, &steps))
    }

    /// What is wrong, with what was the first to be, where finding that out takes no longer than a minute or
    /// was asked for.
    fn explained(
        &self,
        session: &mut Session,
        (epoch, batch): (usize, usize),
        what: String,
        spent: Duration,
        observer: &RefCell<&mut dyn Observer>,
    ) -> String {
        let asked = observer.borrow().debug_numerics();
        if spent > AT_MOST && !asked {
            return format!("{what} (train --resume RUN --debug-numerics says where it began)");
        }
        let begins = (self.files.state(), self.init.clone());
        let looked = look(session, (&begins.0, begins.1.as_deref()), (epoch, batch));
        match looked {
            Ok(looked) => {
                let first = first_wrong(&looked, session.batch_size());
                if asked {
                    observer.borrow_mut().traced(&Looked::table(looked));
                }
                first.map_or(what.clone(), |first| format!("{what}; {first}"))
            }
            // What is known is said all the same.
            Err(why) => {
                log::warn!("where it began is not known: {why}");
                what
            }
        }
    }

    /// What is left to do of an epoch when all of its steps are taken.
    fn end_epoch(&mut self, session: &mut Session, mut record: EpochRecord) -> Result<EpochRecord> {
        let epoch = record.epoch;
        // The last update shows in no loss: a run without validation rows would keep it as its best.
        let weights = session.weights()?;
        let diverged = |what: String| Error::Diverged { epoch, batch: None, what };
        if !record.loss.is_finite() {
            return Err(diverged(format!("the mean loss is not finite ({})", record.loss)));
        }
        if let Some(name) = weights.not_finite() {
            return Err(diverged(format!("parameter '{name}' is not finite after its last batch")));
        }
        let made = session.model().recipe().generated();
        if let Some((made, clamp)) = made.and_then(|made| made.clamp.map(|clamp| (made, clamp))) {
            let labels = LabelRecord::new(epoch, clamp, &made.tasks, &session.labels()?);
            self.append("labels.jsonl", &labels)?;
        }
        let valid = session.data().clone();
        let model = session.model();
        let unfinished = model.stage_of(epoch) < model.last_stage();
        record.best = match valid.split(SplitName::Valid).and_then(|s| s.targets()) {
            // What is scored is not trained yet.
            _ if unfinished => false,
            Some(targets) => {
                let predictions = session.predict(SplitName::Valid)?;
                let loss = batched_loss(session, &predictions.fused(), targets);
                if !loss.is_finite() {
                    return Err(diverged(format!("the validation loss is not finite ({loss})")));
                }
                record.valid_loss = Some(loss);
                record.valid = score(session, SplitName::Valid, &predictions)?;
                let by = session.model().config().train.metric_for_best_model.as_str();
                let before = best(&self.history).and_then(|before| judged(before, by));
                match (judged(&record, by), before) {
                    (Some(now), Some(before)) => better(by, now, before),
                    (now, before) => now.is_some() || before.is_none(),
                }
            }
            None => true,
        };
        if record.best {
            let path = self.files.own("model.safetensors")?;
            self.model = Some(Saved::save(&path, &card(session, epoch), &weights)?);
        }
        self.append("epochs.jsonl", &record)?;
        session.end_epoch(epoch, record.valid_loss)?;
        self.save_state(session, Place { epoch, batch: 0 })?;
        Ok(record)
    }
}

/// Epochs since the best one reached the patience.
fn stopped(history: &[EpochRecord], patience: usize) -> bool {
    let Some(best) = best(history) else { return false };
    patience > 0 && history.len() - best.epoch >= patience
}

/// The last record that was the best when it came.
fn best(history: &[EpochRecord]) -> Option<&EpochRecord> {
    history.iter().rev().find(|r| r.best)
}

/// The number of an epoch that tells the best one. A score that a few rows cannot have is no better than
/// any.
fn judged(record: &EpochRecord, by: &str) -> Option<f64> {
    match by {
        "loss" => record.valid_loss,
        score => record.valid.as_ref().and_then(|valid| valid.get(score)),
    }
}

/// MMSA's rule: an improvement is at least 1e-6.
fn better(by: &str, now: f64, before: f64) -> bool {
    if smaller_is_better(by) { now <= before - 1e-6 } else { now >= before + 1e-6 }
}

/// Mean over batches of the task's loss, as the released trainers average it: of numbers the absolute
/// error whatever the model trains by.
fn batched_loss(session: &Session, scores: &[f32], targets: Targets<'_>) -> f64 {
    let goal = session.model().goal();
    let batch = session.model().config().train.batch_size;
    let words = targets.words.chunks(batch * targets.width);
    let means = scores.chunks(batch * goal.task.outputs()).zip(words).map(|(scores, words)| {
        let targets = Targets { words, ..targets };
        goal_reference::loss(goal, scores, targets, Distance::Absolute)
    });
    let means: Vec<f64> = means.collect();
    means.iter().sum::<f64>() / means.len().max(1) as f64
}

fn card(session: &Session, epoch: usize) -> ModelCard {
    let reads = |modality| session.model().streams().iter().any(|s| s.modality == modality);
    ModelCard {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        config: session.model().config().clone(),
        task: session.model().task().clone(),
        streams: session.model().streams().iter().map(Into::into).collect(),
        guides: session.model().reads().guides.clone(),
        standardise: session.standardise().cloned(),
        acoustic: session.data().acoustic().filter(|_| reads(Modality::Audio)).cloned(),
        data_sha256: session.data().digest().to_string(),
        fold: session.data().fold().cloned(),
        epoch,
    }
}

/// `labels_M`, `labels_T`, …: one value for each training row.
fn save_labels(session: &Session, path: &Path) -> Result<Option<String>> {
    let Some(made) = session.model().recipe().generated() else { return Ok(None) };
    let mut labels = Weights::default();
    for (letter, values) in made.tasks.iter().zip(session.labels()?) {
        labels.insert(&format!("labels_{letter}"), vec![values.len()], values);
    }
    labels.save_sealed(path, &[("format", FORMAT.to_string())]).map(Some)
}
