//! A trained model over a data file.

use super::blueprint::{available, offer};
use super::checkpoint::{CardStream, Saved};
use super::folder;
use super::metrics::{Metrics, Retrieval, retrieval};
use super::opened::{in_kept_fold, lacking, open_file};
use super::session::{Predictions, Session};
use super::text;
use crate::data::{Acoustic, Dataset, Modality, SplitName, StreamSpec, TaskKind};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::recipe::{Config, Model, Offered, TaskChoice};
use std::path::Path;
use std::sync::Arc;

/// Runs a trained model over a split of a data file; metrics where it has labels.
///
/// # Errors
/// A modality that the model needs and the data has not, or has in another width.
pub fn evaluate_run(
    gpu: &Gpu,
    saved: &Saved,
    data: &Path,
    split: SplitName,
) -> Result<(Arc<Dataset>, Predictions, Option<Metrics>)> {
    let mut session = open_saved(gpu, saved, data)?;
    let predictions = session.predict(split)?;
    let metrics = score(&session, split, &predictions)?;
    Ok((session.data().clone(), predictions, metrics))
}

/// A trained model over a data file, without anything of training. Of a model that was trained on a fold,
/// the splits of that very file are those of the fold: rows that it has seen are no test. Any other file
/// has its own.
///
/// # Errors
/// As [`evaluate_run`].
pub fn open_saved(gpu: &Gpu, saved: &Saved, data: &Path) -> Result<Session> {
    let data = open_file(data, &any_task(saved))?;
    open_saved_on(gpu, saved, data)
}

/// The configuration of a saved model, without its task: what the model has learned is known, and the data
/// need not say it.
fn any_task(saved: &Saved) -> Config {
    let mut config = saved.card.config.clone();
    config.task.kind = TaskChoice::Auto;
    if saved.card.task.kind != TaskKind::Regression {
        // Numbers that the data have besides are of no use to it, whatever their range.
        config.data.label_range = f64::from(f32::MAX);
    }
    config
}

/// The same over rows from anywhere, as a [`Source`](crate::data::Source) has them.
///
/// # Errors
/// As [`evaluate_run`].
pub fn open_saved_on(gpu: &Gpu, saved: &Saved, data: Dataset) -> Result<Session> {
    let card = &saved.card;
    let encoder = text::encoder_of(&saved.path);
    if let Some(run) = saved.path.parent().filter(|run| run.join("run.json").exists()) {
        text::check_kept(&encoder, &folder::card(run)?.encoder)?;
    }
    let data = text::with_text(gpu, data, &any_task(saved), &encoder).map(Arc::new)?;
    // A digest of gigabytes takes long, and no other model wants it here.
    let wanted = card.fold.is_some() || !card.config.data.missing.is_nothing();
    let same = wanted && data.digest() == card.data_sha256;
    let data = in_kept_fold(data, card.fold.as_ref().filter(|_| same))?;
    // Rows of another file are whole: nobody asked for less of them.
    let data = if same { lacking(data, &card.config)? } else { data };
    let data = Arc::new(Dataset::clone(&data).for_task(&card.task)?);
    if let (Some(there), Some(wanted)) = (data.acoustic(), &card.acoustic)
        && there != wanted
    {
        // Numbers that mean something else would be scored like any.
        let listed = |made: &Acoustic| {
            format!("{} (every {} samples at {} Hz)", made.groups.join(","), made.hop, made.rate)
        };
        return Err(Error::data(
            data.path(),
            format!(
                "its audio are the features {}, and {} was trained on {}: compute those of its recordings",
                listed(there),
                saved.path.display(),
                listed(wanted)
            ),
        ));
    }
    let offered = available(&data);
    let usual = |modality, dim| {
        let known = card.standardise.as_ref().and_then(|s| s.usual(modality));
        known.is_some_and(|known| known.len() == dim)
    };
    let mut streams = Vec::new();
    for wanted in &card.streams {
        let found = offered.iter().find(|s| s.modality == wanted.modality);
        match found {
            Some(spec) if spec.dim == wanted.dim => streams.push(*spec),
            Some(spec) => {
                return Err(Error::data(
                    data.path(),
                    format!(
                        "'{}' has {} features, the model {} was trained with {}",
                        wanted.modality,
                        spec.dim,
                        saved.path.display(),
                        wanted.dim
                    ),
                ));
            }
            // It can be read as in a row that lacks it, as long as something is there.
            None if usual(wanted.modality, wanted.dim) && !offered.is_empty() => {
                let CardStream { modality, steps, dim } = *wanted;
                streams.push(StreamSpec { modality, steps, dim, lengths: steps > 1 });
            }
            None => {
                return Err(Error::data(
                    data.path(),
                    format!("has no '{}', which {} needs", wanted.modality, saved.path.display()),
                ));
            }
        }
    }
    let offered = Offered { guides: &card.guides, ..offer(&streams, &data) };
    let model = Model::new(&card.config, offered)?;
    let standardise = card.standardise.clone().map(Arc::new);
    let mut session = Session::with_model(gpu, model, data, standardise, false)?;
    session.load(&saved.weights, &saved.path)?;
    Ok(session)
}

/// Scores what a session predicted of a split; nothing where that has no targets.
///
/// # Errors
/// As [`Metrics::of`].
pub fn score(session: &Session, split: SplitName, said: &Predictions) -> Result<Option<Metrics>> {
    let data = session.data();
    let Some(targets) = data.split(split).and_then(|s| s.targets()) else { return Ok(None) };
    let convention = session.model().config().data.convention;
    Metrics::of(data.task(), &said.fused(), targets, convention).map(Some)
}

/// How well the two modalities that the model aligns find each other in a split; nothing where it has no two of one
/// width.
///
/// # Errors
/// Those of [`Session::represent`].
pub fn retrieved(session: &mut Session, split: SplitName) -> Result<Option<Retrieval>> {
    let Some(sides) = session.model().recipe().retrieved() else { return Ok(None) };
    let parts = session.represent(split)?;
    let side = |modality: Modality| {
        let name = format!("encoded {modality}");
        let part = parts.iter().find(|(own, ..)| *own == name);
        part.ok_or_else(|| Error::shape("retrieved", format!("the model gives no '{name}'")))
    };
    let ((_, size, a), (_, _, b)) = (side(sides[0])?, side(sides[1])?);
    retrieval(sides.map(Modality::name), a, b, *size).map(Some)
}
