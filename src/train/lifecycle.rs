//! A run from its first file to its last: begun in a folder of its own, or taken up where it stopped.

use super::checkpoint::{State, StateCard};
use super::epochs::{Done, continue_run};
use super::folder;
use super::history::{EpochRecord, StepRecord};
use super::initial::begin;
use super::metrics::{Metrics, Retrieval};
use super::opened::{digest_ahead, in_fold, in_kept_fold, lacking, open_file, statistics};
use super::run_files::{Files, RunCard};
use super::session::Session;
use super::text;
use crate::data::{Dataset, Fold};
use crate::error::{Error, Result};
use crate::files::{Claim, FORMAT, remove_leftovers, sha256_of};
use crate::gpu::Gpu;
use crate::plan::Written;
use crate::recipe::Config;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to train, on what, into which folder.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The data set.
    pub data: PathBuf,
    /// The run folder; must be absent or empty.
    pub out: PathBuf,
    /// The resolved configuration.
    pub config: Config,
    /// Weights to begin with, under MMSA's names.
    pub init: Option<PathBuf>,
    /// The fold to train, validate and test on, instead of the splits of the file.
    pub fold: Option<Fold>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Of the file that holds it.
    pub format: u32,
    /// Metrics of the best epoch on the test split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Metrics>,
    /// What the model predicted there, row by row; nothing where `test` is none.
    #[serde(skip)]
    pub test_scores: Vec<f32>,
    /// And on the validation split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<Metrics>,
    /// How well modalities that the model aligns find each other in the test split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// The epoch with the best validation loss.
    pub best_epoch: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// Seconds of this call.
    pub seconds: f64,
    /// Training samples a second over this call's epochs, evaluation included.
    pub samples_per_second: f64,
    /// The adapter.
    pub adapter: String,
    /// Scalar parameters.
    pub parameters: usize,
    /// SHA-256 of what the run has left, by the names of the files; of tensors that of their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// Watches a run; every method may be left out.
pub trait Observer {
    /// Before the first epoch of this call.
    fn begin(&mut self, _session: &mut Session, _first_epoch: usize) {}
    /// A micro-batch's losses arrived; `done` of `total` samples of the epoch.
    fn step(&mut self, _record: &StepRecord, _done: usize, _total: usize) {}
    /// An epoch ended.
    fn epoch(&mut self, _record: &EpochRecord) {}
    /// Whether [`traced`](Self::traced) is wanted, however long it takes.
    fn debug_numerics(&self) -> bool {
        false
    }
    /// What the kernels of the steps wrote after which the numbers left the range of floats, each with the
    /// micro-batch that it is of.
    fn traced(&mut self, _written: &[(usize, Written)]) {}
    /// Whether the run is to stop. It is asked after each update: what is done then goes to disk, so that the
    /// run can be resumed from there, and the call ends with [`Interrupted`](Error::Interrupted).
    fn stop(&mut self) -> bool {
        false
    }
}

/// Watches nothing.
impl Observer for () {}

/// Trains a new run.
///
/// # Errors
/// Bad data, configuration or weights; a run folder that is in use; a full disk; a lost device.
/// Whatever was complete stays in the folder and can be resumed.
pub fn train(gpu: &Gpu, options: &RunOptions, observer: &mut dyn Observer) -> Result<Outcome> {
    train_in(gpu, &folder::claim_for_run(&options.out)?, options, observer)
}

/// The same in a folder that was [claimed](folder::claim_for_run), which goes before `options.out`.
///
/// # Errors
/// As [`train`].
pub fn train_in(
    gpu: &Gpu,
    claim: &Claim,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    begin_run(gpu, open_file(&options.data, &options.config)?, claim, options, observer)
}

/// The same over rows from anywhere, as a [`Source`](crate::data::Source) has them; `options.data` is what the
/// run's folder calls them. [`resume_on`] goes on with it.
///
/// # Errors
/// As [`train`].
pub fn train_on(
    gpu: &Gpu,
    data: Dataset,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    begin_run(gpu, data, &folder::claim_for_run(&options.out)?, options, observer)
}

fn begin_run(
    gpu: &Gpu,
    data: Dataset,
    claim: &Claim,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    folder::free_for_run(claim.path())?;
    remove_leftovers(claim.path(), claim.since());
    let files = Files::of(claim);
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let mut options = options.clone();
    if !options.config.bert.path.is_empty() {
        // A run is continued from anywhere.
        let path = absolute(&PathBuf::from(&options.config.bert.path));
        options.config.bert.path = path.to_string_lossy().into_owned();
    }
    let options = &options;
    let encoder = Path::new(&options.config.bert.path);
    let data = text::with_text(gpu, data, &options.config, encoder).map(Arc::new)?;
    let data = lacking(in_fold(data, options.fold.as_ref())?, &options.config)?;
    digest_ahead(&data);
    let standardise = statistics(&data, &options.config)?;
    let mut session = Session::new(gpu, &options.config, data.clone(), standardise, true)?;
    begin(&mut session, options.init.as_deref())?;
    let init_sha256 = options.init.as_deref().map(sha256_of).transpose()?;
    let card = RunCard {
        format: FORMAT,
        data: absolute(&options.data),
        data_sha256: data.digest().to_string(),
        tokens_sha256: data.tokens_digest().map(str::to_string),
        fold: data.fold().cloned(),
        init: options.init.as_ref().map(absolute),
        init_sha256,
        adapter: gpu.caps().name.clone(),
        driver: gpu.caps().driver.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        settings: options.config.keys()?.into_iter().collect(),
        encoder: text::kept_files(encoder, &options.config)?,
    };
    // The card comes first and the configuration last: a folder with the one and not the other is
    // a run that was killed as it began, and may be begun again.
    files.write_json("run.json", &card)?;
    files.folder("state")?;
    text::keep(encoder, &files, &options.config)?;
    files.write("config.toml", &options.config.to_toml()?)?;
    let done = Done { init: card.init, ..Done::default() };
    continue_run(&mut session, &files, done, observer)
}

/// Continues a run as if it had never stopped. `data` replaces the recorded path, `max_epochs`
/// the recorded limit.
///
/// # Errors
/// No run there, another data file than the run began with, and all of [`train`]'s.
pub fn resume(
    gpu: &Gpu,
    run: &Path,
    data: Option<&Path>,
    max_epochs: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    resume_in(gpu, &folder::claim_run(run)?, data, max_epochs, observer)
}

/// The same in a folder that was [claimed](folder::claim_run).
///
/// # Errors
/// As [`resume`].
pub fn resume_in(
    gpu: &Gpu,
    claim: &Claim,
    data: Option<&Path>,
    max_epochs: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let kept = Kept::read(claim, max_epochs)?;
    let data = open_file(data.unwrap_or(&kept.card.data), &kept.config)?;
    kept.go_on(gpu, data, observer)
}

/// Continues a run over rows from anywhere: the same that [`train_on`] had.
///
/// # Errors
/// As [`resume`].
pub fn resume_on(
    gpu: &Gpu,
    run: &Path,
    data: Dataset,
    max_epochs: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    Kept::read(&folder::claim_run(run)?, max_epochs)?.go_on(gpu, data, observer)
}

/// What a run's folder says of the run.
struct Kept<'a> {
    files: Files<'a>,
    config: Config,
    card: RunCard,
    /// Whether its end has been moved.
    moved: bool,
}

impl<'a> Kept<'a> {
    fn read(claim: &'a Claim, max_epochs: Option<usize>) -> Result<Self> {
        let files = Files::of(claim);
        if !files.state().exists() && files.at("metrics.json").exists() {
            return Err(Error::checkpoint(
                files.state(),
                "is gone, and the run has ended: experiments keep no state of finished runs; train a new \
             one, or begin one with this one's --init model.safetensors",
            ));
        }
        let mut config = folder::config(files.root())?;
        let card = folder::card(files.root())?;
        card.check_settings(files.root(), &config)?;
        if let Some(max) = max_epochs {
            config.train.max_epochs = max;
            config.validate()?;
        }
        Ok(Kept { files, config, card, moved: max_epochs.is_some() })
    }

    fn go_on(self, gpu: &Gpu, data: Dataset, observer: &mut dyn Observer) -> Result<Outcome> {
        let Kept { files, config, card, moved } = self;
        let encoder = text::encoder_of(files.root());
        text::check_kept(&encoder, &card.encoder)?;
        let data = text::with_text(gpu, data, &config, &encoder).map(Arc::new)?;
        if data.digest() != card.data_sha256 {
            return Err(Error::data(
                data.path(),
                "is not the file that the run began with (another SHA-256): give that one with --data",
            ));
        }
        if data.tokens_digest() != card.tokens_sha256.as_deref() {
            return Err(Error::data(
                data.path(),
                "its text has other tokens than the run began with: put back the JSON file beside it, \
             and the run's bert folder",
            ));
        }
        let data = lacking(in_kept_fold(data, card.fold.as_ref())?, &config)?;
        for folder in ["", "state", "bert"] {
            remove_leftovers(files.at(folder), files.claim().since());
        }
        let standardise = statistics(&data, &config)?;
        let mut session = Session::new(gpu, &config, data, standardise, true)?;
        let done = match files.state().exists() {
            true => {
                let state = State::open(&files.state())?;
                session.restore(&state)?;
                let StateCard { format, heads, model, .. } = &state.card;
                // Earlier versions wrote nothing of what a state stands on.
                let heads = (*format >= 4).then(|| heads.clone());
                Done {
                    place: state.card.place(),
                    heads,
                    model: model.clone(),
                    init: card.init.clone(),
                }
            }
            false => {
                begin_again(&files)?;
                if let (Some(init), Some(sum)) = (&card.init, &card.init_sha256)
                    && sha256_of(init)? != *sum
                {
                    let detail = "is not what the run began with (another SHA-256): put that back";
                    return Err(Error::checkpoint(init, detail));
                }
                begin(&mut session, card.init.as_deref())?;
                Done { init: card.init.clone(), ..Done::default() }
            }
        };
        if card.adapter != gpu.caps().name || card.driver != gpu.caps().driver {
            log::warn!(
                "the run began on {} ({}): on {} ({}) it goes on, but not to the same bits",
                card.adapter,
                card.driver,
                gpu.caps().name,
                gpu.caps().driver
            );
        }
        if moved {
            files.write("config.toml", &config.to_toml()?)?;
        }
        continue_run(&mut session, &files, done, observer)
    }
}

/// Allows a run without a state to begin anew, and says so: only where nothing but its first epoch is lost.
fn begin_again(files: &Files<'_>) -> Result<()> {
    let epochs = folder::epochs(files.root())?.len();
    if epochs > 1 {
        return Err(Error::checkpoint(
            files.state(),
            format!(
                "is gone, and {epochs} epochs are done: put back a copy, or begin a new run with this one's \
                 --init model.safetensors. {}",
                files.what_is_left()
            ),
        ));
    }
    log::warn!("{}: it was stopped in its first epoch, and begins anew", files.root().display());
    Ok(())
}
