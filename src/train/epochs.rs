//! A run's epochs: trained, validated, written down, until there is nothing better to come; then its end.
//!
//! Everything that a later epoch depends on is on disk when an epoch ends, in this order: the
//! micro-batch lines, the line of the generated labels, the best model, the epoch line, the state.
//! Whatever a kill leaves behind the state is discarded on resume and computed again, bit for bit.

use super::checkpoint::{ModelCard, Saved};
use super::evaluation::score;
use super::generated::LabelRecord;
use super::history::{EpochRecord, StepRecord};
use super::lifecycle::{Observer, Outcome};
use super::metrics::smaller_is_better;
use super::run_files::Files;
use super::session::Session;
use crate::data::{SplitName, Targets};
use crate::error::{Error, Result};
use crate::files::FORMAT;
use crate::nn::Weights;
use crate::recipe::{Distance, goal_reference};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

pub(super) fn continue_run(
    session: &mut Session,
    files: &Files,
    done: usize,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let start = Instant::now();
    let config = session.model().config().clone();
    let limits = &config.train;
    files.keep_until("steps.jsonl", done)?;
    files.keep_until("labels.jsonl", done)?;
    let mut history: Vec<EpochRecord> = files
        .keep_until("epochs.jsonl", done)?
        .into_iter()
        .map(|line| {
            serde_json::from_value(line)
                .map_err(|e| Error::checkpoint(files.at("epochs.jsonl"), e.to_string()))
        })
        .collect::<Result<_>>()?;
    if history.iter().map(|r| r.epoch).ne(1..=done) {
        let detail = format!("does not hold a line for each of the {done} epochs that are done");
        return Err(Error::checkpoint(files.at("epochs.jsonl"), detail));
    }
    observer.begin(session, done + 1);
    let mut samples = 0;
    for epoch in done + 1..=limits.max_epochs {
        if stopped(&history, limits.early_stop) {
            break;
        }
        // What an earlier end of this run said no longer holds.
        let ended = files.at("metrics.json");
        if ended.exists() {
            std::fs::remove_file(&ended).map_err(Error::io("remove", &ended))?;
        }
        let record = one_epoch(session, files, epoch, &history, observer)?;
        samples += session.data().split(SplitName::Train).map_or(0, |s| s.rows());
        observer.epoch(&record);
        history.push(record);
    }
    if history.is_empty() {
        return Err(Error::Config("train.max_epochs leaves nothing to train".into()));
    }
    let training = start.elapsed().as_secs_f64();
    Saved::save(&files.at("last.safetensors"), &card(session, history.len()), &session.weights()?)?;
    save_labels(session, &files.at("labels.safetensors"))?;

    let best_epoch = best(&history).map_or(history.len(), |r| r.epoch);
    let saved = Saved::load(&files.at("model.safetensors"))?;
    session.load(&saved.weights, &saved.path)?;
    let mut outcome = Outcome {
        format: FORMAT,
        test: None,
        test_scores: Vec::new(),
        valid: None,
        best_epoch,
        epochs: history.len(),
        seconds: start.elapsed().as_secs_f64(),
        samples_per_second: samples as f64 / training.max(1e-9),
        adapter: session.adapter().to_string(),
        parameters: session.params().count(),
    };
    for split in [SplitName::Valid, SplitName::Test] {
        if session.data().split(split).and_then(|s| s.targets()).is_none() {
            continue;
        }
        let predictions = session.predict(split)?;
        let metrics = score(session, split, &predictions)?;
        match split {
            SplitName::Valid => outcome.valid = metrics,
            _ => (outcome.test, outcome.test_scores) = (metrics, predictions.fused()),
        }
    }
    files.write_json("metrics.json", &outcome)?;
    Ok(outcome)
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

fn one_epoch(
    session: &mut Session,
    files: &Files,
    epoch: usize,
    history: &[EpochRecord],
    observer: &mut dyn Observer,
) -> Result<EpochRecord> {
    let order = session.order(epoch);
    let total = order.len();
    let mut steps: Vec<StepRecord> = Vec::new();
    let trained = session.train_epoch(epoch, order, |record, done| {
        let what = record.not_finite();
        let batch = Some(record.batch);
        observer.step(&record, done, total);
        steps.push(record);
        what.map_or(Ok(()), |what| Err(Error::Diverged { epoch, batch, what }))
    });
    if let Ok(()) | Err(Error::Diverged { .. }) = trained {
        // The lines of an epoch that failed tell where it went wrong; resuming drops them.
        let lines: Vec<Value> = steps.iter().map(StepRecord::to_json).collect();
        files.append("steps.jsonl", &lines)?;
    }
    trained?;

    let mut record = EpochRecord::means(epoch, &steps);
    // The last update shows in no loss: a run without validation rows would keep it as its best.
    let weights = session.weights()?;
    let diverged = |what: String| Error::Diverged { epoch, batch: None, what };
    if !record.loss.is_finite() {
        return Err(diverged(format!("the mean loss is not finite ({})", record.loss)));
    }
    if let Some(name) = weights.not_finite() {
        return Err(diverged(format!("parameter '{name}' is not finite after its last batch")));
    }
    let config = session.model().config().clone();
    let made = session.model().recipe().generated();
    if let Some((made, clamp)) = made.and_then(|made| made.clamp.map(|clamp| (made, clamp))) {
        let labels = LabelRecord::new(epoch, clamp, &made.tasks, &session.labels()?);
        let line = serde_json::to_value(&labels)
            .map_err(|e| Error::checkpoint(files.at("labels.jsonl"), e.to_string()))?;
        files.append("labels.jsonl", &[line])?;
    }
    let valid = session.data().clone();
    record.best = match valid.split(SplitName::Valid).and_then(|s| s.targets()) {
        Some(targets) => {
            let predictions = session.predict(SplitName::Valid)?;
            let loss = batched_loss(session, &predictions.fused(), targets);
            if !loss.is_finite() {
                return Err(diverged(format!("the validation loss is not finite ({loss})")));
            }
            record.valid_loss = Some(loss);
            record.valid = score(session, SplitName::Valid, &predictions)?;
            let by = config.train.metric_for_best_model.as_str();
            match (judged(&record, by), best(history).and_then(|before| judged(before, by))) {
                (Some(now), Some(before)) => better(by, now, before),
                (now, before) => now.is_some() || before.is_none(),
            }
        }
        None => true,
    };
    if record.best {
        Saved::save(&files.at("model.safetensors"), &card(session, epoch), &weights)?;
    }
    let line = serde_json::to_value(&record)
        .map_err(|e| Error::checkpoint(files.at("epochs.jsonl"), e.to_string()))?;
    files.append("epochs.jsonl", &[line])?;
    session.end_epoch(epoch, record.valid_loss)?;
    session.save_state(&files.state(), epoch)?;
    Ok(record)
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
    ModelCard {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        config: session.model().config().clone(),
        task: session.model().task().clone(),
        streams: session.model().streams().iter().map(Into::into).collect(),
        standardise: session.standardise().cloned(),
        data_sha256: session.data().digest().to_string(),
        fold: session.data().fold().cloned(),
        epoch,
    }
}

/// `labels_M`, `labels_T`, …: one value for each training row.
fn save_labels(session: &Session, path: &Path) -> Result<()> {
    let Some(made) = session.model().recipe().generated() else { return Ok(()) };
    let mut labels = Weights::default();
    for (letter, values) in made.tasks.iter().zip(session.labels()?) {
        labels.insert(&format!("labels_{letter}"), vec![values.len()], values);
    }
    labels.save(path, &[("format", FORMAT.to_string())])
}
