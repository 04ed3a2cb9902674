//! Recordings as a data set: features side by side, padded at the end, with labels where there are
//! any.

use super::{Choice, Features, HOP, RATE};
use crate::data::{AUDIO_FEATURES, Modality, SplitName};
use crate::error::{Error, Result};
use crate::files;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One recording of a data set.
#[derive(Clone, Debug)]
pub struct Clip {
    /// Its name; no two have the same.
    pub id: String,
    /// The part it belongs to.
    pub split: SplitName,
    /// What it sounds like.
    pub features: Features,
    /// Its label; all recordings have one, or none has.
    pub label: Option<f32>,
    /// Labels of text, audio and vision alone; each written where all recordings have it.
    pub unimodal: [Option<f32>; 3],
    /// What is said; written where all have it.
    pub text: Option<String>,
}

/// Recordings that are to be written together.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    /// In the order of rows.
    pub clips: Vec<Clip>,
    /// What their features are.
    pub choice: Choice,
}

impl Collection {
    /// As many frames as most recordings have: the mean and three standard deviations, as the SIMS
    /// features were cut.
    pub fn usual_frames(&self) -> usize {
        let n = self.clips.len().max(1) as f64;
        let lengths = || self.clips.iter().map(|c| c.features.frames() as f64);
        let mean = lengths().sum::<f64>() / n;
        let variance = lengths().map(|l| (l - mean).powi(2)).sum::<f64>() / n;
        ((mean + 3.0 * variance.sqrt()) as usize).max(1)
    }

    /// Frames of the longest recording.
    pub fn most_frames(&self) -> usize {
        self.clips.iter().map(|c| c.features.frames()).max().unwrap_or(0)
    }

    /// Writes `NAME.safetensors` with `SPLIT.audio` (rows × steps × columns, zero past a recording's
    /// end), `SPLIT.audio_lengths` and, where there are labels, `SPLIT.regression_labels`, with those of
    /// one modality alone as `_T`, `_A` and `_V`; and beside it `NAME.json` with the ids, the texts where
    /// all have one, and which features these are. No recording gets more than `most` steps; what is later
    /// is left out.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that does not end in `.safetensors` or for no recording at all,
    /// [`Error::Io`] where a file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, most: usize) -> Result<()> {
        self.write_steps(path.as_ref(), self.most_frames().min(most))
    }

    /// The same with just so many steps, however long the recordings are: those of another data set.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_steps(&self, path: &Path, steps: usize) -> Result<()> {
        if path.extension().is_none_or(|e| e != "safetensors") {
            let detail = format!("{}: a data set is called NAME.safetensors", path.display());
            return Err(Error::Config(detail));
        }
        // All parts of a data set have as many steps.
        if steps == 0 || self.clips.is_empty() {
            return Err(Error::Config("there is no recording to write".into()));
        }
        let columns = self.choice.width();
        if let Some(other) = self.clips.iter().find(|c| c.features.columns != columns) {
            let (id, found) = (&other.id, other.features.columns);
            let detail = format!("'{id}' has {found} features where the others have {columns}");
            return Err(Error::Config(detail));
        }
        let (mut tensors, mut side) = (BTreeMap::new(), Map::new());
        for split in SplitName::ALL {
            let clips: Vec<&Clip> = self.clips.iter().filter(|c| c.split == split).collect();
            if clips.is_empty() {
                continue;
            }
            let mut audio = vec![0.0_f32; clips.len() * steps * columns];
            let mut lengths = Vec::with_capacity(clips.len());
            for (row, clip) in audio.chunks_exact_mut(steps * columns).zip(&clips) {
                let values = &clip.features.values;
                let count = values.len().min(row.len());
                row[..count].copy_from_slice(&values[..count]);
                lengths.push((count / columns) as i32);
            }
            let name = |field: &str| format!("{split}.{field}");
            let shape = vec![clips.len(), steps, columns];
            tensors
                .insert(name("audio"), (Dtype::F32, shape, bytemuck::cast_slice(&audio).to_vec()));
            let rows = vec![clips.len()];
            tensors.insert(
                name("audio_lengths"),
                (Dtype::I32, rows.clone(), bytemuck::cast_slice(&lengths).to_vec()),
            );
            let of = |label: &dyn Fn(&Clip) -> Option<f32>| -> Option<Vec<f32>> {
                clips.iter().map(|c| label(c)).collect()
            };
            let mut labels = vec![("regression_labels".to_string(), of(&|c| c.label))];
            for (at, modality) in Modality::KNOWN.into_iter().enumerate() {
                let field = format!("regression_labels_{}", modality.short());
                labels.push((field, of(&|c| c.unimodal[at])));
            }
            for (field, values) in labels {
                let Some(values) = values else { continue };
                let bytes = bytemuck::cast_slice(&values).to_vec();
                tensors.insert(name(&field), (Dtype::F32, rows.clone(), bytes));
            }
            let ids: Vec<&str> = clips.iter().map(|c| c.id.as_str()).collect();
            let texts: Option<Vec<&str>> = clips.iter().map(|c| c.text.as_deref()).collect();
            let mut fields = json!({ "id": ids });
            if let Some(texts) = texts {
                fields["raw_text"] = json!(texts);
            }
            side.insert(split.name().into(), fields);
        }
        let views: Result<Vec<_>, _> = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect();
        side.insert(AUDIO_FEATURES.into(), json!(self.choice.about()));
        // One key only: the header's map has no order, and equal recordings make equal files.
        let about = format!("{}; every {HOP} samples at {RATE} Hz", self.choice);
        let about = HashMap::from([(AUDIO_FEATURES.to_string(), about)]);
        let written = views.and_then(|views| safetensors::serialize(views, Some(about)));
        let written = written.map_err(|e| Error::data(path, e.to_string()))?;
        files::write_atomic(path, &written)?;
        files::write_atomic(path.with_extension("json"), json!(side).to_string().as_bytes())
    }
}
