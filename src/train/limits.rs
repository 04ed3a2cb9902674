//! What is said before training starts: a batch that does not fit, a schedule without any step.

use super::metrics::{Metrics, NAMES, undefined};
use crate::data::{Dataset, Modality, Normalize, SplitName, TaskKind};
use crate::error::{Error, Result};
use crate::nn::{Params, Weights};
use crate::recipe::{ClassWeights, Model};
use std::path::Path;

/// Passes on what `fits` says of `batch`; where that is too large, with the largest that fits.
pub(super) fn check_batch<T>(batch: usize, fits: impl Fn(usize) -> Result<T>) -> Result<T> {
    let name = |what: String| format!("a batch of {batch}: {what}");
    let instead = |advice: String| match largest_batch(batch, |b| fits(b).is_ok()) {
        0 => advice,
        n => format!("the largest batch that fits is {n} (train.batch_size={n})"),
    };
    fits(batch).map_err(|error| match error {
        Error::OutOfMemory { what, bytes, advice } => {
            Error::OutOfMemory { what: name(what), bytes, advice: instead(advice) }
        }
        Error::TooLarge { what, advice } => {
            Error::TooLarge { what: name(what), advice: instead(advice) }
        }
        other => other,
    })
}

/// Checks weights as parameters do, and names the setting that stores them whole where halves cannot
/// hold them.
pub(super) fn check_weights(params: &Params, weights: &Weights, path: &Path) -> Result<()> {
    params.check(weights, path).map_err(|error| match error {
        Error::Checkpoint { path, detail } if detail.contains("f16") => {
            Error::checkpoint(path, format!("{detail}: leave bert.half off"))
        }
        other => other,
    })
}

/// The largest batch below `too_large` that fits; 0 if none does.
fn largest_batch(too_large: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, too_large);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

/// What is said of numbers that are larger than any measurement.
pub const LARGE: f32 = 1e9;
/// Where squares are beyond f32, as the first sums over a row's numbers are.
const OVERFLOWS: f32 = 1e18;

/// Refuses rows that no training step survives, and points at those that few do.
pub(super) fn check_values(model: &Model, data: &Dataset) -> Result<()> {
    let normalize = model.config().train.normalize;
    let standardised = |m: Modality| normalize != Normalize::None && m != Modality::Text;
    // Not a text that is read as tokens.
    let read: Vec<Modality> = model.streams().iter().map(|s| s.modality).collect();
    for (modality, place, value) in data.outsized(LARGE) {
        if !read.contains(&modality) {
            continue;
        }
        if standardised(modality) {
            if normalize == Normalize::Standard {
                log::warn!(
                    "{place} goes up to {value:e}, and standardising by that makes all other values of the \
                     feature alike: set it to 0 where it is no measurement, or train with \
                     train.normalize=robust"
                );
            }
            continue;
        }
        if value.abs() > OVERFLOWS {
            let detail = format!(
                "{place} goes up to {value:e}, which overflows in the first step: set it to 0 where it is no \
                 measurement, leave the row out, or rescale the feature"
            );
            return Err(Error::data(data.path(), detail));
        }
        log::warn!("{place} goes up to {value:e}: the training may diverge by that row alone");
    }
    Ok(())
}

/// Settings that are of other tasks than the model's.
pub(super) fn check_task(model: &Model, data: &Dataset) -> Result<()> {
    let (config, task) = (model.config(), model.task());
    let refuse = |key: &str, of: &str| {
        let has = task.about();
        Err(Error::Config(format!("{key} is of {of}, and the data has {has}: leave it out")))
    };
    check_unimodal(model, data)?;
    check_guides(model, data)?;
    if config.task.class_weights != ClassWeights::None && task.kind == TaskKind::Regression {
        return refuse("task.class_weights", "classes and labels");
    }
    if config.task.label_smoothing > 0.0 && task.kind != TaskKind::Classes {
        return refuse("task.label_smoothing", "classes");
    }
    let by = config.train.metric_for_best_model.as_str();
    let valid = data.split(SplitName::Valid).and_then(|s| s.targets());
    let names = Metrics::names(task, config.data.convention);
    let numbers = valid.filter(|_| task.one_number()).map(|t| t.numbers()).unwrap_or_default();
    if undefined(&numbers, config.data.convention).contains(&by) {
        return Err(Error::Config(format!(
            "train.metric_for_best_model is '{by}', by which the labels of valid cannot tell a good model: give \
             loss or another score"
        )));
    }
    if by == "loss" || valid.is_none() || names.contains(&by) {
        return Ok(());
    }
    let why = match NAMES.contains(&by) {
        true => format!("{} are not scored by it", task.about()),
        false => "there is no such score".into(),
    };
    Err(Error::Config(format!(
        "train.metric_for_best_model is '{by}', and {why}; give loss or one of: {}",
        names.join(", ")
    )))
}

/// A model that learns what people said of each modality alone wants data that say so.
pub(super) fn check_unimodal(model: &Model, data: &Dataset) -> Result<()> {
    let train = data.split(SplitName::Train);
    let lacks = |m: &&Modality| train.is_some_and(|s| s.unimodal_labels(**m).is_none());
    match model.reads().unimodal.iter().find(lacks) {
        None => Ok(()),
        Some(modality) => Err(Error::Config(format!(
            "{} learns what people said of each modality alone, and the data has no \
             train.regression_labels_{}: use another model (modalign models)",
            model.config().model.name,
            modality.short()
        ))),
    }
}

/// A model whose losses are guided wants a guide for each row that it learns from.
fn check_guides(model: &Model, data: &Dataset) -> Result<()> {
    let Some(train) = data.split(SplitName::Train) else { return Ok(()) };
    for (modality, _) in &model.reads().guides {
        let lacking = match train.stream(*modality) {
            Some(_) => train.missing_rows(*modality),
            None => train.rows(),
        };
        if lacking > 0 {
            return Err(Error::Config(format!(
                "{} is guided by '{modality}', which {lacking} of {} training rows lack: leave those rows \
                 out, or name another guide",
                model.config().model.name,
                train.rows()
            )));
        }
    }
    Ok(())
}

/// With fewer micro-batches than a group has and no kept tail, no parameter would ever move.
pub(super) fn check_schedule(model: &Model, data: &Dataset) -> Result<()> {
    let t = &model.config().train;
    let rows = data.split(SplitName::Train).map_or(0, |s| s.rows());
    let batches = rows.div_ceil(t.batch_size);
    if model.turns().len() > 1 && t.accumulate > 1 {
        let turns: Vec<&str> = model.turns().iter().map(|turn| turn.name.as_str()).collect();
        return Err(Error::Config(format!(
            "{} learns from a batch by turns ({}), each of which moves parameters, and train.accumulate = \
             {} would have them wait: set train.accumulate=1 and a larger train.batch_size",
            model.config().model.name,
            turns.join(", then "),
            t.accumulate
        )));
    }
    let before = model.epochs_before();
    if before >= t.max_epochs {
        let (last, others) =
            model.stages().split_last().ok_or_else(|| Error::Config("no stage".into()))?;
        let others: Vec<String> =
            others.iter().map(|s| format!("{} of {}", s.epochs.unwrap_or(0), s.name)).collect();
        return Err(Error::Config(format!(
            "{} has {before} epochs ({}) before {}, and train.max_epochs = {} leaves none for that: give more, or \
             fewer to those",
            model.config().model.name,
            others.join(", "),
            last.name,
            t.max_epochs
        )));
    }
    if batches < t.accumulate && !t.keep_tail {
        return Err(Error::Config(format!(
            "{rows} training rows make {batches} micro-batches, fewer than train.accumulate = {}: \
             no step would be taken; set train.keep_tail=true or a smaller train.batch_size",
            t.accumulate
        )));
    }
    Ok(())
}
