//! Reading a run: what its folder says, and what its model says of its data.

use crate::data::{Dataset, Folded, Modality, SplitName, Task, TaskKind};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::Weights;
use crate::recipe::{Config, TextEncoder};
use crate::train::aligned::{Aligned, aligned};
use crate::train::carried::{Carried, carried};
use crate::train::metrics::{Convention, Metrics, evaluate, wrongness};
use crate::train::{EpochRecord, LabelRecord, Saved, folder, initial_weights, open_saved, score};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a run folder holds.
pub struct Run {
    /// Where it is.
    pub folder: PathBuf,
    /// The folder's name.
    pub name: String,
    /// Its configuration.
    pub config: Config,
    /// run.json.
    pub card: Value,
    /// metrics.json; null where the run has not ended.
    pub outcome: Value,
    /// Its epochs.
    pub history: Vec<EpochRecord>,
    /// Its generated labels.
    pub labels: Vec<LabelRecord>,
    /// What its model reads; nothing where that cannot be told.
    pub modalities: Vec<Modality>,
}

impl Run {
    /// Reads it.
    ///
    /// # Errors
    /// No run there; a run in which no epoch has ended.
    pub fn read(path: &Path) -> Result<Run> {
        let history = folder::epochs(path)?;
        let config = folder::config(path)?;
        let modalities = modalities(path, &config)?;
        let run = Run {
            modalities,
            folder: path.to_path_buf(),
            name: name_of(path),
            config,
            card: folder::json(path, "run.json")?,
            outcome: match path.join("metrics.json").exists() {
                true => folder::json(path, "metrics.json")?,
                false => Value::Null,
            },
            history,
            labels: folder::labels(path)?,
        };
        if run.history.is_empty() {
            let detail = "no epoch has ended: there is nothing to report yet";
            return Err(Error::checkpoint(path.join("epochs.jsonl"), detail));
        }
        Ok(run)
    }

    /// Scores on `valid` or `test`, of the best epoch.
    pub fn metrics(&self, split: &str) -> Option<Metrics> {
        serde_json::from_value(self.outcome.get(split)?.clone()).ok()
    }

    /// The epoch that the model is of.
    pub fn best(&self) -> Option<&EpochRecord> {
        self.history.iter().rev().find(|r| r.best)
    }

    /// The fold that it tests on; none where the splits are those of its data file.
    pub fn fold(&self) -> Option<Folded> {
        serde_json::from_value(self.card.get("fold")?.clone()).ok()
    }

    /// Its seed, and its fold.
    pub fn place(&self) -> String {
        let fold =
            self.fold().map(|Folded { fold, .. }| format!(", fold {} of {}", fold.part, fold.of));
        format!("seed {}{}", self.config.train.seed, fold.unwrap_or_default())
    }

    /// A string of run.json.
    pub fn said(&self, key: &str) -> Option<&str> {
        self.card.get(key)?.as_str()
    }

    /// The data file's name without its ending.
    pub fn data_name(&self) -> String {
        let path = PathBuf::from(self.said("data").unwrap_or("data"));
        path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What a run's model reads: what its data had, of what was wanted.
///
/// # Errors
/// A model that is there and cannot be read: what the page says of the run hangs on it.
fn modalities(path: &Path, config: &Config) -> Result<Vec<Modality>> {
    if !path.join("model.safetensors").exists() {
        return Ok(Vec::new());
    }
    let saved = Saved::load(path)?;
    // A text that comes as tokens is no stream.
    let tokens = match config.model.text_encoder {
        TextEncoder::Bert => config.bert.finetune,
        other => other == TextEncoder::Table,
    };
    let streams = saved.card.streams.iter().map(|s| s.modality);
    let all: BTreeSet<Modality> = streams.chain(tokens.then_some(Modality::Text)).collect();
    Ok(all.into_iter().filter(|m| config.model.wants(*m)).collect())
}

/// The last words of a path that tell it from others.
fn name_of(path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Scores of a split beside its labels.
pub struct Scored {
    /// Test, or valid where test has no labels.
    pub split: SplitName,
    /// What is predicted.
    pub task: Task,
    /// Letters, fused first.
    pub tasks: Vec<String>,
    /// `[rows][tasks]`, of classes, labels and several numbers as many as those.
    pub scores: Vec<Vec<f32>>,
    /// The labels, of classes their numbers; empty where a row has several.
    pub truth: Vec<f32>,
    /// Of the rows.
    pub ids: Vec<String>,
    /// What is said in them, where that is known.
    pub texts: Option<Vec<String>>,
    /// Of the fused head.
    pub metrics: Metrics,
}

impl Scored {
    /// How far off a row is, as [`wrongness`] has it; 0 where no row is further off than another.
    pub fn wrongness(&self, row: usize, convention: Convention) -> f32 {
        let said = &self.scores[row][..self.task.outputs()];
        wrongness(&self.task, convention, said, self.truth[row]).unwrap_or_default()
    }
}

/// Labels of one modality on the training rows: those of the multimodal label and of the generated one
/// against what people said of that modality alone.
pub struct Human {
    /// Whose.
    pub modality: Modality,
    /// Rows.
    pub rows: usize,
    /// Mean distance and correlation: of the multimodal label, of the generated one.
    pub scores: [(f64, Option<f64>); 2],
}

/// Compares the labels that a run ended with to those of people, where there are both.
fn human(run: &Run, data: &Dataset) -> Result<Vec<Human>> {
    let path = run.folder.join("labels.safetensors");
    let Some(train) = data.split(SplitName::Train).filter(|_| path.exists()) else {
        return Ok(Vec::new());
    };
    let (made, mut all) = (Weights::load(&path)?, Vec::new());
    let of = |name: &str| made.get(&format!("labels_{name}")).map(|(_, values)| values.to_vec());
    for modality in Modality::KNOWN {
        let people = train.unimodal_labels(modality);
        let (Some(people), Some(own), Some(fused)) = (people, of(modality.short()), of("M")) else {
            continue;
        };
        let near = |labels: &[f32]| {
            // Distances in the labels' own units, whatever a convention clips.
            evaluate(labels, people, Convention::Mosi).map(|m| (m.mae, m.corr))
        };
        all.push(Human { modality, rows: people.len(), scores: [near(&fused)?, near(&own)?] });
    }
    Ok(all)
}

/// What the model says of its data, now.
pub struct Live {
    /// Predictions.
    pub scored: Scored,
    /// Covariances, before training and of the best epoch.
    pub aligned: Option<[Aligned; 2]>,
    /// Probes, before training and of the best epoch.
    pub carried: Option<[Carried; 2]>,
    /// How near generated labels are to what people said of each modality alone.
    pub human: Vec<Human>,
    /// Why the state before training is not here, where it is not.
    pub without: Option<String>,
}

impl Live {
    /// Runs the model of a run over its data.
    ///
    /// # Errors
    /// Whatever is missing: the data file as it was, a model, labels.
    pub fn of(gpu: &Gpu, run: &Run) -> Result<Live> {
        let path = folder::data(&run.folder)?;
        let saved = Saved::load(&run.folder)?;
        let mut session = open_saved(gpu, &saved, &path)?;
        let data = session.data().clone();
        if run.said("data_sha256").is_some_and(|digest| digest != data.digest()) {
            let detail = "is not the file that the run was trained on (another SHA-256)";
            return Err(Error::data(&path, detail));
        }
        let labelled = |name: &SplitName| data.split(*name).is_some_and(|s| s.targets().is_some());
        let split = [SplitName::Test, SplitName::Valid].into_iter().find(labelled);
        let rows = split.and_then(|name| data.split(name));
        let (Some(split), Some(rows)) = (split, rows) else {
            return Err(Error::data(&path, "has no labels in test or valid to compare with"));
        };
        let predictions = session.predict(split)?;
        let missing = || Error::data(&path, "has no labels to compare with");
        let metrics = score(&session, split, &predictions)?.ok_or_else(missing)?;
        let targets = rows.targets().ok_or_else(missing)?;
        let task = data.task().clone();
        // Of several numbers a row there is no single truth to draw.
        let truth = match task.kind {
            TaskKind::Classes => targets.classes().iter().map(|class| *class as f32).collect(),
            _ if task.one_number() => targets.numbers(),
            _ => Vec::new(),
        };
        let scored = Scored {
            split,
            task,
            tasks: predictions.tasks,
            scores: predictions.scores,
            truth,
            ids: (0..rows.rows()).map(|row| rows.id(row)).collect(),
            texts: rows.raw_text().map(<[String]>::to_vec),
            metrics,
        };
        let human = human(run, &data)?;
        let after = (aligned(&mut session, &saved.weights, split)?, carried(&mut session)?);
        if after.0.is_none() && after.1.is_none() {
            return Ok(Live { scored, aligned: None, carried: None, human, without: None });
        }
        let mut before = || {
            let init = run.said("init").map(Path::new);
            let (weights, file) = initial_weights(&session, init)?;
            session.load(&weights, &file)?;
            Ok::<_, Error>((aligned(&mut session, &weights, split)?, carried(&mut session)?))
        };
        match before() {
            Ok(before) => Ok(Live {
                scored,
                aligned: before.0.zip(after.0).map(|(a, b)| [a, b]),
                carried: before.1.zip(after.1).map(|(a, b)| [a, b]),
                human,
                without: None,
            }),
            Err(why) => Ok(Live {
                scored,
                aligned: None,
                carried: None,
                human,
                without: Some(why.to_string()),
            }),
        }
    }
}
