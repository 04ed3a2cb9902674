//! A run from its first file to its last: train, stop early, evaluate, resume.
//!
//! Everything that a later epoch depends on is on disk when an epoch ends, in this order: the
//! micro-batch lines, the line of the generated labels, the best model, the epoch line, the state. Whatever a kill leaves behind the
//! state is discarded on resume and computed again, bit for bit.

use super::blueprint::{available, offer};
use super::checkpoint::{ModelCard, Saved, State};
use super::folder;
use super::generated::LabelRecord;
use super::history::{EpochRecord, StepRecord};
use super::metrics::{Metrics, evaluate};
use super::run_files::{Files, RunCard};
use super::session::{Predictions, Session};
use super::text;
use crate::data::{Dataset, Modality, Options, SplitName, Standardise};
use crate::error::{Error, Result};
use crate::files::{remove_leftovers, write_atomic};
use crate::gpu::Gpu;
use crate::nn::{Pretrained, Weights};
use crate::phase::Phase;
use crate::recipe::{Config, Model, bert_prefix};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

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
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Metrics of the best epoch on the test split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Metrics>,
    /// And on the validation split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<Metrics>,
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
}

/// Watches a run; every method may be left out.
pub trait Observer {
    /// Before the first epoch of this call.
    fn begin(&mut self, _session: &mut Session, _first_epoch: usize) {}
    /// A micro-batch's losses arrived; `done` of `total` samples of the epoch.
    fn step(&mut self, _record: &StepRecord, _done: usize, _total: usize) {}
    /// An epoch ended.
    fn epoch(&mut self, _record: &EpochRecord) {}
}

/// Watches nothing.
impl Observer for () {}

/// Opens a data set as it is, with labels in the range that a configuration has.
///
/// # Errors
/// Bad data.
pub fn open_file(path: &Path, config: &Config) -> Result<Dataset> {
    let phase = Phase::begin();
    let options = Options { label_range: config.data.label_range as f32 };
    let data = Dataset::open_with(path, &options)?;
    phase.end(format_args!("{} opened and checked", path.display()));
    Ok(data)
}

/// Opens a data set for a configuration: with its text as tokens or features, where that goes
/// through the pretrained encoder in `encoder`.
///
/// # Errors
/// Bad data, or an encoder that cannot be read.
pub fn open_data(gpu: &Gpu, path: &Path, config: &Config, encoder: &Path) -> Result<Arc<Dataset>> {
    text::with_text(gpu, open_file(path, config)?, config, encoder).map(Arc::new)
}

/// Has the digest of a data file computed while other things are done: of gigabytes it takes long.
fn digest_ahead(data: &Arc<Dataset>) {
    let data = data.clone();
    // Whoever needs it first computes it otherwise.
    let _ = std::thread::Builder::new().name("modalign-digest".into()).spawn(move || {
        let phase = Phase::begin();
        data.digest();
        phase.end(format_args!("{} digested", data.path().display()));
    });
}

/// Statistics that audio and vision are standardised by, where the configuration wants that.
pub(super) fn statistics(data: &Dataset, config: &Config) -> Option<Arc<Standardise>> {
    let split = data.split(SplitName::Train).filter(|_| config.train.normalize)?;
    let wanted: Vec<Modality> = [Modality::Audio, Modality::Vision]
        .into_iter()
        .filter(|m| split.stream(*m).is_some())
        .collect();
    let phase = Phase::begin();
    let fitted = Standardise::fit(split, &wanted);
    phase.end(format_args!("means and deviations of {} modalities", wanted.len()));
    Some(Arc::new(fitted))
}

/// Trains a new run.
///
/// # Errors
/// Bad data, configuration or weights; a run folder that is in use; a full disk; a lost device.
/// Whatever was complete stays in the folder and can be resumed.
pub fn train(gpu: &Gpu, options: &RunOptions, observer: &mut dyn Observer) -> Result<Outcome> {
    let files = Files { root: options.out.clone() };
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let mut options = options.clone();
    if !options.config.bert.path.is_empty() {
        // A run is continued from anywhere.
        let path = absolute(&PathBuf::from(&options.config.bert.path));
        options.config.bert.path = path.to_string_lossy().into_owned();
    }
    let options = &options;
    folder::free_for_run(&options.out)?;
    let encoder = Path::new(&options.config.bert.path);
    let data = open_data(gpu, &options.data, &options.config, encoder)?;
    digest_ahead(&data);
    let standardise = statistics(&data, &options.config);
    let mut session = Session::new(gpu, &options.config, data.clone(), standardise, true)?;
    begin(&mut session, options.init.as_deref())?;
    let card = RunCard {
        data: absolute(&options.data),
        data_sha256: data.digest().to_string(),
        tokens_sha256: data.tokens_digest().map(str::to_string),
        init: options.init.as_ref().map(absolute),
        adapter: gpu.caps().name.clone(),
        driver: gpu.caps().driver.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    // The card comes first and the configuration last: a folder with the one and not the other is
    // a run that was killed as it began, and may be begun again.
    std::fs::create_dir_all(&files.root).map_err(Error::io("create", &files.root))?;
    files.write_json("run.json", &card)?;
    std::fs::create_dir_all(files.root.join("state"))
        .map_err(Error::io("create", files.root.join("state")))?;
    text::keep(encoder, &files.root, &options.config)?;
    write_atomic(files.at("config.toml"), options.config.to_toml()?.as_bytes())?;
    continue_run(&mut session, &files, 0, observer)
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
    let files = Files { root: run.to_path_buf() };
    let read = |name: &str| {
        let path = files.at(name);
        std::fs::read_to_string(&path).map_err(Error::io("read", path))
    };
    if !files.state().exists() && files.at("metrics.json").exists() {
        return Err(Error::checkpoint(
            files.state(),
            "is gone, and the run has ended: experiments keep no state of finished runs; train a new \
             one, or begin one with this one's --init model.safetensors",
        ));
    }
    let mut config = Config::build("mosi", Some(&read("config.toml")?), &[])?;
    if let Some(max) = max_epochs {
        config.train.max_epochs = max;
        config.validate()?;
    }
    let card: RunCard = serde_json::from_str(&read("run.json")?)
        .map_err(|e| Error::checkpoint(files.at("run.json"), e.to_string()))?;
    let path = data.unwrap_or(&card.data);
    let data = open_data(gpu, path, &config, &text::encoder_of(&files.root))?;
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
    for folder in ["", "state", "bert"] {
        remove_leftovers(files.root.join(folder));
    }
    let standardise = statistics(&data, &config);
    let mut session = Session::new(gpu, &config, data, standardise, true)?;
    let done = if files.state().exists() {
        let state = State::open(&files.state())?;
        session.restore(&state)?;
        state.card.epoch
    } else {
        begin(&mut session, card.init.as_deref())?;
        0
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
    if max_epochs.is_some() {
        write_atomic(files.at("config.toml"), config.to_toml()?.as_bytes())?;
    }
    continue_run(&mut session, &files, done, observer)
}

/// Initial parameters: PyTorch's, under those of a pretrained encoder and of `init` where those
/// have them.
fn begin(session: &mut Session, init: Option<&Path>) -> Result<()> {
    if session.model().bert().is_none() && init.is_none() {
        return session.initialise();
    }
    let (weights, path) = initial_weights(session, init)?;
    session.load(&weights, &path)?;
    session.reset_states()
}

/// What a run of this session's model begins with, parameters that only training has included also where
/// the session does not train; `init` are the weights that the run was given. And the file to
/// blame where they do not fit.
///
/// # Errors
/// An encoder or weights that cannot be read.
pub fn initial_weights(session: &Session, init: Option<&Path>) -> Result<(Weights, PathBuf)> {
    let config = session.model().config().clone();
    let encoder = session.model().bert().map(|_| Pretrained::open(Path::new(&config.bert.path)));
    let encoder = encoder.transpose()?;
    let prefix = bert_prefix(&config);
    let mut weights = session.params().initial(config.train.seed);
    let all = session.model().params(true, usize::MAX).into_iter();
    for spec in
        all.filter(|spec| !session.params().has(&spec.name) && !spec.name.starts_with(prefix))
    {
        let values = spec.init.values(config.train.seed, &spec.name, spec.len());
        weights.insert(&spec.name, spec.shape, values);
    }
    let mut path = Path::new(&config.bert.path);
    if let Some(encoder) = &encoder {
        weights.extend(encoder.weights()?.prefixed(prefix));
    }
    if let Some(init) = init {
        let given = Weights::load(init)?;
        path = init;
        let tuned = given.iter().any(|(name, ..)| name.starts_with(prefix));
        if tuned && encoder.is_none() && text::wanted(&config) {
            return Err(Error::checkpoint(
                init,
                "holds a fine-tuned text encoder, and bert.finetune=false takes the one of \
                 --bert as it is: export that one first, or leave finetune on",
            ));
        }
        // What no MMSA checkpoint has keeps its initial values, and so does the encoder where
        // the checkpoint is of the rest alone; anything else that is missing is an error.
        let missing: Vec<String> = session
            .params()
            .specs()
            .map(|spec| &spec.name)
            .filter(|n| given.get(n).is_none() && !n.starts_with("align_"))
            .filter(|n| !n.starts_with(prefix))
            .cloned()
            .collect();
        let unused = given.iter().filter(|(name, ..)| !session.params().has(name)).count();
        if unused > 0 {
            log::info!("{unused} tensors of the given weights are not part of this model");
        }
        weights.extend(given);
        missing.iter().for_each(|name| weights.remove(name));
    }
    Ok((weights, path.to_path_buf()))
}

fn continue_run(
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
        test: None,
        valid: None,
        best_epoch,
        epochs: history.len(),
        seconds: start.elapsed().as_secs_f64(),
        samples_per_second: samples as f64 / training.max(1e-9),
        adapter: session.adapter().to_string(),
        parameters: session.params().count(),
    };
    let convention = config.data.convention;
    for split in [SplitName::Valid, SplitName::Test] {
        let Some(truth) = labels_of(session.data(), split) else { continue };
        let metrics = evaluate(&session.predict(split)?.fused(), &truth, convention)?;
        match split {
            SplitName::Valid => outcome.valid = Some(metrics),
            _ => outcome.test = Some(metrics),
        }
    }
    files.write_json("metrics.json", &outcome)?;
    Ok(outcome)
}

fn labels_of(data: &Dataset, split: SplitName) -> Option<Vec<f32>> {
    data.split(split)?.labels().map(<[f32]>::to_vec)
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
    record.best = match labels_of(session.data(), SplitName::Valid) {
        Some(truth) => {
            let scores = session.predict(SplitName::Valid)?.fused();
            let loss = batched_error(&scores, &truth, config.train.batch_size);
            if !loss.is_finite() {
                return Err(diverged(format!("the validation loss is not finite ({loss})")));
            }
            record.valid_loss = Some(loss);
            record.valid = Some(evaluate(&scores, &truth, config.data.convention)?);
            // MMSA's rule: an improvement is at least 1e-6.
            best(history).and_then(|b| b.valid_loss).is_none_or(|b| loss <= b - 1e-6)
        }
        None => true,
    };
    if record.best {
        Saved::save(&files.at("model.safetensors"), &card(session, epoch), &weights)?;
    }
    let line = serde_json::to_value(&record)
        .map_err(|e| Error::checkpoint(files.at("epochs.jsonl"), e.to_string()))?;
    files.append("epochs.jsonl", &[line])?;
    session.save_state(&files.state(), epoch)?;
    Ok(record)
}

/// Mean over batches of the mean absolute error, as the released trainer averages it.
fn batched_error(scores: &[f32], truth: &[f32], batch: usize) -> f64 {
    let means: Vec<f64> = scores
        .chunks(batch)
        .zip(truth.chunks(batch))
        .map(|(p, t)| {
            let sum: f64 = p.iter().zip(t).map(|(p, t)| f64::from((p - t).abs())).sum();
            sum / p.len() as f64
        })
        .collect();
    means.iter().sum::<f64>() / means.len().max(1) as f64
}

fn card(session: &Session, epoch: usize) -> ModelCard {
    ModelCard {
        version: env!("CARGO_PKG_VERSION").into(),
        config: session.model().config().clone(),
        streams: session.model().streams().iter().map(Into::into).collect(),
        standardise: session.standardise().cloned(),
        data_sha256: session.data().digest().to_string(),
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
    labels.save(path, &[])
}

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
    let metrics = match labels_of(session.data(), split) {
        Some(truth) => {
            let convention = saved.card.config.data.convention;
            Some(evaluate(&predictions.fused(), &truth, convention)?)
        }
        None => None,
    };
    Ok((session.data().clone(), predictions, metrics))
}

/// A trained model over a data file, without anything of training.
///
/// # Errors
/// As [`evaluate_run`].
pub fn open_saved(gpu: &Gpu, saved: &Saved, data: &Path) -> Result<Session> {
    let card = &saved.card;
    let data = open_data(gpu, data, &card.config, &text::encoder_of(&saved.path))?;
    let offered = available(&data);
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
            None => {
                return Err(Error::data(
                    data.path(),
                    format!("has no '{}', which {} needs", wanted.modality, saved.path.display()),
                ));
            }
        }
    }
    let model = Model::new(&card.config, offer(&streams, &data))?;
    let standardise = card.standardise.clone().map(Arc::new);
    let mut session = Session::with_model(gpu, model, data, standardise, false)?;
    session.load(&saved.weights, &saved.path)?;
    Ok(session)
}
