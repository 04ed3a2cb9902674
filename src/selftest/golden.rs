//! Whole trainings with label generation, as an independent implementation in PyTorch computed them:
//! `tests/fixtures/README.md` says how. The numbers are part of the program.

use super::kernels::Device;
use super::work::{Job, Outcome, Progress, run as run_jobs};
use super::{Checked, Part};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::{Weights, save_tensors};
use crate::recipe::{Config, OutputKind};
use crate::train::{Session, StepRecord};
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Names and files: three modalities, two of them, and a set without negative labels.
const FILES: [(&str, &[u8]); 3] = [
    ("selfmm", include_bytes!("../../tests/fixtures/selfmm.safetensors")),
    ("selfmm_ta", include_bytes!("../../tests/fixtures/selfmm_ta.safetensors")),
    ("selfmm_positive", include_bytes!("../../tests/fixtures/selfmm_positive.safetensors")),
];

/// Largest differences that are allowed. Losses are relative, with a floor of 1e-3; labels, the feature store
/// and class centres absolute;
/// parameters relative to 0.05 + |value|; gradients relative to the largest of a tensor.
const LOSSES: f64 = 1e-4;
const LABELS: f64 = 1e-4;
const STATE: f64 = 1e-5;
const PARAMETERS: f64 = 2e-4;
const GRADIENTS: f64 = 2e-5;

/// A training and what it must come to.
pub struct Golden {
    file: SafeTensors<'static>,
    config: Config,
    data: Arc<Dataset>,
    /// Letters of the tasks, the fused one first.
    tasks: Vec<char>,
    epochs: usize,
}

impl Golden {
    /// The trainings that the program holds, by name.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }

    /// One of them.
    ///
    /// # Errors
    /// A name that there is not.
    pub fn open(name: &str) -> Result<Self> {
        let found = FILES.iter().find(|(known, _)| *known == name);
        let bytes = found.ok_or_else(|| wrong(format!("no training '{name}'")))?.1;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(wrong)?;
        let about = header.metadata().as_ref().and_then(|about| about.get("config"));
        let meta: Value =
            serde_json::from_str(about.ok_or_else(|| wrong("no config"))?).map_err(wrong)?;
        let file = SafeTensors::deserialize(bytes).map_err(wrong)?;
        let letters = meta["modalities"].as_str().unwrap_or_default().to_uppercase();
        let config = Config::build("mosi", None, &settings(&meta, &letters))?;
        let data = Arc::new(data_set(&file)?);
        let tasks = std::iter::once('M').chain(letters.chars()).collect();
        let epochs = meta["epochs"].as_u64().unwrap_or_default() as usize;
        Ok(Golden { file, config, data, tasks, epochs })
    }

    /// A session that begins where PyTorch began.
    fn session(&self, gpu: &Gpu) -> Result<Session> {
        let mut session = Session::new(gpu, &self.config, self.data.clone(), None, true)?;
        session.initialise()?;
        session.load(&self.weights("init.")?, Path::new("init"))?;
        Ok(session)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.file.tensor(name).map_err(wrong)?.shape().to_vec())
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        floats(&self.file, name)
    }

    /// The tensors whose names begin so, without that.
    fn weights(&self, prefix: &str) -> Result<Weights> {
        let mut weights = Weights::default();
        for full in self.file.names() {
            if let Some(name) = full.strip_prefix(prefix) {
                weights.insert(name, self.shape(full)?, self.floats(full)?);
            }
        }
        Ok(weights)
    }

    /// The rows in the order in which an epoch visits them.
    fn order(&self, epoch: usize) -> Result<Vec<u32>> {
        let rows = self.shape("order")?.get(1).copied().unwrap_or_default();
        let all = words(&self.file, "order")?;
        Ok(all.chunks(rows.max(1)).nth(epoch - 1).unwrap_or_default().to_vec())
    }

    /// Trains on a device, and holds losses, labels, parameters and the first gradient against
    /// PyTorch's.
    pub fn check(&self, gpu: &Gpu, on: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let ran = self.first_gradient(gpu, on, &mut outcome);
        if let Err(why) = ran.and_then(|()| self.train(gpu, on, &mut outcome)) {
            outcome.fail(on.to_string(), why.to_string());
        }
        outcome
    }

    fn first_gradient(&self, gpu: &Gpu, on: &str, outcome: &mut Outcome) -> Result<()> {
        let mut session = self.session(gpu)?;
        let order = self.order(1)?;
        let first = order[..self.config.train.batch_size.min(order.len())].to_vec();
        session.train_epoch(1, first, |_, _| Ok(()))?;
        let got = session.gradients()?;
        for (name, _, want) in self.weights("grad0.")?.iter() {
            let got = got.get(name).map_or(&[][..], |(_, values)| values);
            // In epoch 1 the unimodal heads have no loss; their gradient is exactly zero.
            let scale = want.iter().fold(0.0, |m: f64, w| m.max(f64::from(w.abs())));
            let scale = if scale == 0.0 { 1.0 } else { scale };
            let at = || format!("first gradient of {name} on {on}");
            compare(outcome, got, want, GRADIENTS, &at, |_| scale);
        }
        Ok(())
    }

    fn train(&self, gpu: &Gpu, on: &str, outcome: &mut Outcome) -> Result<()> {
        let mut session = self.session(gpu)?;
        let mut records: Vec<StepRecord> = Vec::new();
        let rows = self.shape("labels")?[0];
        let labels_after = self.floats("labels_after")?;
        for epoch in 1..=self.epochs {
            session.train_epoch(epoch, self.order(epoch)?, |record, _| {
                records.push(record);
                Ok(())
            })?;
            for (task, got) in self.tasks.iter().zip(session.labels()?) {
                let first = ((epoch - 1) * 4 + column(*task)) * rows;
                let want = labels_after.get(first..first + rows).unwrap_or_default();
                let at = || format!("labels {task} after epoch {epoch} on {on}");
                compare(outcome, &got, want, LABELS, &at, |_| 1.0);
            }
        }
        let want = self.floats("losses")?;
        for (record, want) in records.iter().zip(want.chunks(8)) {
            let at = || format!("losses of epoch {}, batch {} on {on}", record.epoch, record.batch);
            let floor = |i: usize| f64::from(want[i].abs()).max(1e-3);
            compare(outcome, &columns(record), want, LOSSES, &at, floor);
        }
        if records.len() * 8 != want.len() {
            let detail = format!("{} steps where PyTorch took {}", records.len(), want.len() / 8);
            outcome.fail(on.to_string(), detail);
        }
        self.state(&session, on, outcome)?;
        let got = session.weights()?;
        for (name, _, want) in self.weights("final.")?.iter() {
            let got = got.get(name).map_or(&[][..], |(_, values)| values);
            let at = || format!("{name} after training on {on}");
            let scale = |i: usize| 0.05 + f64::from(want[i].abs());
            compare(outcome, got, want, PARAMETERS, &at, scale);
        }
        Ok(())
    }

    /// The feature store and the class centres of each task.
    fn state(&self, session: &Session, on: &str, outcome: &mut Outcome) -> Result<()> {
        let (store, centres) = (session.state("store")?, session.state("centres")?);
        let features = session.model().outputs(OutputKind::Representation);
        let sizes: Vec<usize> =
            features.filter(|o| o.name.starts_with("feature ")).map(|o| o.size).collect();
        let (width, mut first) = (sizes.iter().sum::<usize>(), 0);
        for (task, size) in self.tasks.iter().zip(sizes) {
            let task = task.to_ascii_lowercase();
            let part = |row: &[f32]| row[first..first + size].to_vec();
            let rows: Vec<f32> = store.chunks_exact(width).flat_map(part).collect();
            let own = centres.get(2 * first..2 * (first + size)).unwrap_or_default();
            for (name, got) in [("store", &rows[..]), ("centre", own)] {
                let want = self.floats(&format!("{name}.{task}"))?;
                let at = || format!("{name} of {task} after training on {on}");
                compare(outcome, got, &want, STATE, &at, |_| 1.0);
            }
            first += size;
        }
        Ok(())
    }
}

/// Counts the largest difference of `got` from `want`, each by its own scale, as one comparison.
fn compare(
    outcome: &mut Outcome,
    got: &[f32],
    want: &[f32],
    allowed: f64,
    at: &dyn Fn() -> String,
    scale: impl Fn(usize) -> f64,
) {
    if got.len() != want.len() {
        return outcome.fail(at(), format!("{} values, PyTorch has {}", got.len(), want.len()));
    }
    let off = |i: usize| {
        let off = (f64::from(got[i]) - f64::from(want[i])).abs() / scale(i);
        if off.is_nan() { f64::INFINITY } else { off }
    };
    let worst = (0..want.len()).map(|i| (off(i), i)).max_by(|a, b| a.0.total_cmp(&b.0));
    let Some((worst, i)) = worst else { return };
    outcome.see(worst, allowed, at, || format!("[{i}] is {}, PyTorch has {}", got[i], want[i]));
}

/// Column of a task in the file's (m, t, a, v).
fn column(task: char) -> usize {
    "MTAV".find(task).unwrap_or_default()
}

/// A line of the log in the file's columns: the whole loss, those of m, t, a, v, the pairs ta, tv, av.
fn columns(record: &StepRecord) -> [f32; 8] {
    let mut got = [0.0; 8];
    got[0] = record.loss as f32;
    let names = ["M", "T", "A", "V", "align_ta", "align_tv", "align_av"];
    for (place, name) in got[1..].iter_mut().zip(names) {
        *place = record.get(name).unwrap_or_default();
    }
    got
}

/// The settings under which PyTorch trained.
fn settings(meta: &Value, letters: &str) -> Vec<String> {
    let mut settings = vec![
        format!("model.modalities={letters}"),
        format!("train.batch_size={}", meta["batch"]),
        format!("train.accumulate={}", meta["accumulate"]),
        format!("labels.clamp={}", meta["h"]),
        format!("labels.exclude_zero={}", meta["exclude_zero"]),
        format!("align.dim={}", meta["align_dim"]),
        "align.weight=0".into(),
        "model.dropout=0".into(),
        "train.normalize=false".into(),
    ];
    for (key, value) in meta["align_weight"].as_object().into_iter().flatten() {
        settings.push(format!("align.weight.{key}={value}"));
    }
    for (part, key) in [("m", "fusion"), ("t", "text"), ("a", "audio"), ("v", "vision")] {
        settings.push(format!("model.post.{key}={}", meta["post"][part]));
    }
    for (part, key, group) in [("a", "audio", "audio_model"), ("v", "vision", "video_model")] {
        settings.push(format!("model.hidden.{key}={}", meta["streams"][part]["hidden"]));
        settings.push(format!("model.out.{key}={}", meta["streams"][part]["out"]));
        settings.push(format!("train.lr.{key}={}", meta["adam"][group][0]));
        settings.push(format!("train.decay.{key}={}", meta["adam"][group][1]));
    }
    settings.push(format!("train.lr.other={}", meta["adam"]["other"][0]));
    settings.push(format!("train.decay.other={}", meta["adam"]["other"][1]));
    settings
}

/// The file's data as a data set; it stays mapped when its temporary folder goes.
fn data_set(file: &SafeTensors) -> Result<Dataset> {
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let path = folder.path().join("golden.safetensors");
    let mut tensors = Vec::new();
    for (name, to) in [
        ("labels", "regression_labels"),
        ("text", "text"),
        ("audio", "audio"),
        ("audio_lengths", "audio_lengths"),
        ("vision", "vision"),
        ("vision_lengths", "vision_lengths"),
    ] {
        let Ok(view) = file.tensor(name) else { continue };
        let mut shape = view.shape().to_vec();
        if name == "text" {
            shape.insert(1, 1);
        }
        tensors.push((format!("train.{to}"), view.dtype(), shape, view.data().to_vec()));
    }
    let views =
        tensors.iter().map(|(n, dtype, shape, b)| (n.as_str(), *dtype, shape.clone(), &b[..]));
    save_tensors(&path, views, &[])?;
    Dataset::open(&path)
}

fn words(file: &SafeTensors, name: &str) -> Result<Vec<u32>> {
    let view = file.tensor(name).map_err(wrong)?;
    if !matches!(view.dtype(), Dtype::F32 | Dtype::I32) {
        return Err(wrong(format!("'{name}' is {:?}", view.dtype())));
    }
    let words = view.data().chunks_exact(4);
    Ok(words.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn floats(file: &SafeTensors, name: &str) -> Result<Vec<f32>> {
    Ok(words(file, name)?.into_iter().map(f32::from_bits).collect())
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::checkpoint("the golden trainings of this program", what.to_string())
}

/// Trains all of them on every device with trusted modules; the first on the adapter's own kernels where
/// it is to be `quick`.
pub fn run(devices: &[Device], quick: bool, watch: &(dyn Fn(Progress) + Sync)) -> Vec<Checked> {
    let mut jobs = Vec::new();
    for name in Golden::names().take(if quick { 1 } else { FILES.len() }) {
        for device in devices.iter().filter(|d| !d.gpu.checked()) {
            jobs.push(Job {
                row: name.to_string(),
                name: format!("{name} on {}", device.name),
                work: Box::new(move || match Golden::open(name) {
                    Ok(golden) => golden.check(&device.gpu, &device.name),
                    Err(why) => {
                        let mut outcome = Outcome::default();
                        outcome.fail(device.name.clone(), why.to_string());
                        outcome
                    }
                }),
            });
        }
    }
    run_jobs(Part::Training, &jobs, watch)
}
