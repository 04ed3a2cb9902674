//! A data set as a run reads it: opened, checked, its text through the encoder, its statistics.

use super::text;
use crate::data::{Dataset, Fold, Folded, Modality, Options, SplitName, Standardise};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, patience};
use crate::phase::Phase;
use crate::recipe::Config;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;

/// Opens a data set as it is, with labels in the range that a configuration has.
///
/// # Errors
/// Bad data.
pub fn open_file(path: &Path, config: &Config) -> Result<Dataset> {
    let phase = Phase::begin();
    let options = Options {
        label_range: config.data.label_range as f32,
        clip_labels: config.data.clip_labels,
        task: config.task.kind.kind(),
    };
    let data = in_time(path, options)?;
    phase.end(format_args!("{} opened and checked", path.display()));
    Ok(data)
}

/// Opens a file on a thread of its own, since a disk that does not answer cannot be waited for twice.
fn in_time(path: &Path, options: Options) -> Result<Dataset> {
    let (send, opened) = std::sync::mpsc::channel();
    let (own, patience) = (path.to_path_buf(), patience());
    std::thread::Builder::new()
        .name("modalign-open".into())
        .spawn(move || {
            // Whoever asked may have given up.
            let _ = send.send(Dataset::open_with(own, &options));
        })
        .map_err(Error::io("start a thread to read", path))?;
    opened.recv_timeout(patience).unwrap_or_else(|why| {
        Err(match why {
            RecvTimeoutError::Timeout => Error::data(
                path,
                format!(
                    "does not answer: it is not open after {:.0} s (MODALIGN_TIMEOUT says how long to wait)",
                    patience.as_secs_f64()
                ),
            ),
            RecvTimeoutError::Disconnected => {
                Error::data(path, "made its reader stop; please report the file")
            }
        })
    })
}

/// Opens a data set for a configuration: with its text as tokens or features, where that goes
/// through the pretrained encoder in `encoder`.
///
/// # Errors
/// Bad data, or an encoder that cannot be read.
pub fn open_data(gpu: &Gpu, path: &Path, config: &Config, encoder: &Path) -> Result<Arc<Dataset>> {
    let data = text::with_text(gpu, open_file(path, config)?, config, encoder).map(Arc::new)?;
    lacking(data, config)
}

/// The data with the rows of a fold in its splits, where there is one.
pub(super) fn in_fold(data: Arc<Dataset>, fold: Option<&Fold>) -> Result<Arc<Dataset>> {
    fold.map_or(Ok(data.clone()), |fold| data.in_fold(fold).map(Arc::new))
}

/// The same of the fold that a run kept; other ids than it was made by are an error.
pub(super) fn in_kept_fold(data: Arc<Dataset>, kept: Option<&Folded>) -> Result<Arc<Dataset>> {
    kept.map_or(Ok(data.clone()), |kept| data.in_kept_fold(kept).map(Arc::new))
}

/// The data with the rows that a configuration has lack modalities.
pub(super) fn lacking(data: Arc<Dataset>, config: &Config) -> Result<Arc<Dataset>> {
    let missing = &config.data.missing;
    if missing.is_nothing() {
        return Ok(data);
    }
    data.lacking(missing, config.train.seed).map(Arc::new)
}

/// Has the digest of a data file computed while other things are done: of gigabytes it takes long.
pub(super) fn digest_ahead(data: &Arc<Dataset>) {
    let data = data.clone();
    // Whoever needs it first computes it otherwise.
    let _ = std::thread::Builder::new().name("modalign-digest".into()).spawn(move || {
        let phase = Phase::begin();
        data.digest();
        phase.end(format_args!("{} digested", data.path().display()));
    });
}

/// Statistics that all streams but the text are standardised by, where the configuration wants that, and what
/// is usual of the features of the others.
///
/// # Errors
/// Those of the rows' source.
pub(super) fn statistics(data: &Dataset, config: &Config) -> Result<Option<Arc<Standardise>>> {
    let Some(split) = data.split(SplitName::Train) else { return Ok(None) };
    let features: Vec<Modality> = split.modalities().filter(|m| *m != Modality::Text).collect();
    let phase = Phase::begin();
    let fitted = Standardise::with_usual(split, &features, config.train.normalize)?;
    phase.end("means and deviations of features");
    Ok(Some(Arc::new(fitted)))
}
