//! A data set whose hidden factors are known, so that what a model separates can be checked.
//!
//! Every sample has a shared factor s and, per modality m, a private factor p_m, all standard
//! normal. The label is a direction in s plus a direction in each p_m, each with its weight:
//!
//! y = clamp(label_scale * (w <a, s> + sum_m w_m <b_m, p_m>) / sqrt(w² + sum_m w_m²), -3, 3)
//!
//! and the share `zero_share` of rows nearest to 0 is set to exactly 0. A modality sees only s and
//! its own p_m, through a fixed random map with a tanh, and noise. With one step that is a vector.
//! With more, each factor dimension moves through time in two ways, a bump of its height somewhere
//! in the sequence and the strength of an oscillation of random phase, so that single frames say
//! little and an encoder has to gather evidence over time.
//!
//! Several numbers a row, labels and classes are made alike, with directions of their own for each: numbers
//! as above, a label where its number is above 0, the class whose number is the largest.

mod world;

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::world::words;
use self::world::{Labels, Part, Sample, World, describe};
use super::{Modality, SplitName};
use crate::error::{Error, Result};
use crate::files;

/// How one modality is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynthStream {
    /// Features per step.
    pub dim: usize,
    /// Steps of the tensor, and of the longest sample; 1 makes a vector without lengths.
    pub steps: usize,
    /// Steps of the shortest sample.
    pub min_steps: usize,
    /// Standard deviation of the noise on every feature (the signal's own is about 0.6).
    pub noise: f64,
    /// How much of the label only this modality knows, beside [`SynthConfig::shared_weight`].
    pub private_weight: f64,
}

/// What a model is to learn of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynthTarget {
    /// A number in [-3, 3].
    #[default]
    Number,
    /// So many of them.
    Numbers(usize),
    /// One of so many classes.
    Classes(usize),
    /// So many labels that a row has or not.
    Labels(usize),
}

impl SynthTarget {
    /// How many numbers are behind it.
    fn count(self) -> usize {
        match self {
            SynthTarget::Number => 1,
            SynthTarget::Numbers(n) | SynthTarget::Classes(n) | SynthTarget::Labels(n) => n,
        }
    }
}

/// What to generate. The default trains in about a minute on two slow cores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SynthConfig {
    /// Everything follows from this number and the options.
    pub seed: u64,
    /// Training rows.
    pub train: usize,
    /// Validation rows; 0 leaves the split out.
    pub valid: usize,
    /// Test rows; 0 leaves the split out.
    pub test: usize,
    /// Which modalities exist; an absent one has no part in the label either.
    pub modalities: Vec<Modality>,
    /// Dimensions of the factor that all modalities see.
    pub shared: usize,
    /// Dimensions of the factor that one modality alone sees.
    pub private: usize,
    /// How much of the label all modalities know.
    pub shared_weight: f64,
    /// Standard deviation of the label before it is clamped to [-3, 3].
    pub label_scale: f64,
    /// Share of rows whose label is exactly 0, in 0..=1; of a single number alone.
    pub zero_share: f64,
    /// What is to be learned.
    #[serde(skip_serializing_if = "is_number")]
    pub target: SynthTarget,
    /// Share of rows that lack a modality, in 0..1, of each by itself; one is left to every row.
    #[serde(skip_serializing_if = "is_nothing")]
    pub missing: f64,
    /// A modality that tells most, and so is the first that a model learns from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dominant: Option<Modality>,
    /// Where there is such a one, what the noise of all others is multiplied by.
    #[serde(skip_serializing_if = "is_one")]
    pub dominance: f64,
    /// The text.
    pub text: SynthStream,
    /// The audio.
    pub audio: SynthStream,
    /// The vision.
    pub vision: SynthStream,
    /// Each stream of another name.
    #[serde(skip_serializing_if = "is_usual")]
    pub other: SynthStream,
}

/// What a file of before there was the setting says nothing of.
fn is_number(target: &SynthTarget) -> bool {
    *target == SynthTarget::Number
}

/// As above.
fn is_nothing(share: &f64) -> bool {
    *share == 0.0
}

/// As above.
fn is_one(times: &f64) -> bool {
    *times == 1.0
}

/// As above.
fn is_usual(other: &SynthStream) -> bool {
    *other == SynthConfig::default().other
}

impl Default for SynthConfig {
    fn default() -> Self {
        let stream = |dim, steps, min_steps, noise, private_weight| SynthStream {
            dim,
            steps,
            min_steps,
            noise,
            private_weight,
        };
        SynthConfig {
            seed: 1111,
            train: 768,
            valid: 192,
            test: 256,
            modalities: Modality::KNOWN.to_vec(),
            shared: 4,
            private: 4,
            shared_weight: 1.0,
            label_scale: 1.5,
            zero_share: 0.05,
            target: SynthTarget::Number,
            missing: 0.0,
            dominant: None,
            dominance: 1.0,
            text: stream(32, 1, 1, 0.3, 0.6),
            audio: stream(8, 24, 8, 0.3, 0.5),
            vision: stream(12, 16, 6, 0.3, 0.4),
            other: stream(16, 1, 1, 0.3, 0.5),
        }
    }
}

/// Far beyond use, and small enough that no size overflows.
const MOST_ROWS: usize = 10_000_000;
const MOST_FACTORS: usize = 1024;
const MOST_FEATURES: usize = 16_384;
const MOST_TARGETS: usize = 1000;
const MOST_BYTES: usize = 1 << 40;
/// Features are generated and written in blocks of so many values: what of a file is in memory.
const BLOCK: usize = 1 << 22;

impl SynthConfig {
    fn stream(&self, modality: Modality) -> &SynthStream {
        match modality {
            Modality::Text => &self.text,
            Modality::Audio => &self.audio,
            Modality::Vision => &self.vision,
            Modality::Other(_) => &self.other,
        }
    }

    /// Standard deviation of the noise on a modality's features.
    fn noise(&self, modality: Modality) -> f64 {
        let weaker = self.dominant.is_some_and(|dominant| dominant != modality);
        self.stream(modality).noise * if weaker { self.dominance } else { 1.0 }
    }

    fn rows(&self, split: SplitName) -> usize {
        match split {
            SplitName::Train => self.train,
            SplitName::Valid => self.valid,
            SplitName::Test => self.test,
        }
    }

    /// The modalities in canonical order, each once.
    fn present(&self) -> impl Iterator<Item = Modality> {
        self.modalities.iter().copied().collect::<BTreeSet<_>>().into_iter()
    }

    fn check(&self) -> Result<()> {
        let bad = |detail: String| Err(Error::Config(format!("synthetic data: {detail}")));
        if self.present().next().is_none() {
            return bad("no modality is given; name at least one".into());
        }
        let mut total = 0;
        for split in SplitName::ALL {
            let rows = self.rows(split);
            if rows > MOST_ROWS {
                return bad(format!("{split} has {rows} rows; give at most {MOST_ROWS}"));
            }
            total += rows;
        }
        if total == 0 {
            return bad("there are no rows; give at least one split some".into());
        }
        for (name, size) in [("shared", self.shared), ("private", self.private)] {
            if size > MOST_FACTORS {
                return bad(format!("{name} is {size}; give at most {MOST_FACTORS}"));
            }
        }
        if self.shared + self.private == 0 {
            return bad("there are no factors; give shared or private at least 1".into());
        }
        let least = if matches!(self.target, SynthTarget::Classes(_)) { 2 } else { 1 };
        let count = self.target.count();
        if !(least..=MOST_TARGETS).contains(&count) {
            return bad(format!("{count} targets; give {least} to {MOST_TARGETS}"));
        }
        if !(0.0..1.0).contains(&self.missing) {
            return bad(format!("missing is {}; give a share in 0..1", self.missing));
        }
        let weak = self.dominant.filter(|m| !self.present().any(|there| there == *m));
        if let Some(weak) = weak {
            return bad(format!(
                "{weak} is to be dominant and is none of the modalities; name one of them"
            ));
        }
        if !(1.0..=1e6).contains(&self.dominance) {
            return bad(format!("dominance is {}; give 1 or more", self.dominance));
        }
        if self.dominance != 1.0 && self.dominant.is_none() {
            return bad("there is a dominance, and no modality is dominant; name it".into());
        }
        if !(0.0..=1.0).contains(&self.zero_share) {
            return bad(format!("zero_share is {}; give a share in 0..=1", self.zero_share));
        }
        for (name, value) in
            [("shared_weight", self.shared_weight), ("label_scale", self.label_scale)]
        {
            if !value.is_finite() || value < 0.0 {
                return bad(format!("{name} is {value}; give 0 or more"));
            }
        }
        let mut bytes = 0usize;
        for modality in self.present() {
            let s = self.stream(modality);
            if s.dim == 0 || s.min_steps == 0 || s.min_steps > s.steps {
                return bad(format!(
                    "{modality} has dim {}, min_steps {} and steps {}; give a dim of 1 or more \
                     and 1 <= min_steps <= steps",
                    s.dim, s.min_steps, s.steps
                ));
            }
            for (name, value) in [("noise", s.noise), ("private_weight", s.private_weight)] {
                if !(0.0..=1e6).contains(&value) {
                    return bad(format!("{modality}.{name} is {value}; give 0 or more"));
                }
            }
            if s.dim > MOST_FEATURES {
                return bad(format!("{modality}.dim is {}; give at most {MOST_FEATURES}", s.dim));
            }
            let size = [s.dim, s.steps, 4].into_iter().try_fold(total, usize::checked_mul);
            bytes = bytes.saturating_add(size.unwrap_or(usize::MAX));
        }
        if bytes > MOST_BYTES {
            return bad("the file would exceed 1 TiB; take fewer rows or steps".into());
        }
        Ok(())
    }
}

/// Generates the data set as the bytes of a safetensors file (the same bytes every time).
///
/// # Errors
/// [`Error::Config`] naming the option that cannot be used.
pub fn generate(config: &SynthConfig) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = Generated::new(config)?.write(&mut bytes);
    Ok(bytes)
}

/// Generates the data set and writes `path` and, beside it, `NAME.json` with ids and a text for
/// each sample. Each file is replaced in one step.
///
/// # Errors
/// As [`generate`], and [`Error::Io`] when a file cannot be written.
pub fn write(config: &SynthConfig, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let side = path.with_extension("json");
    if side == path {
        let detail = "synthetic data: name the file NAME.safetensors; NAME.json goes beside it";
        return Err(Error::Config(detail.into()));
    }
    let made = Generated::new(config)?;
    files::write_atomic_with(path, |out| made.write(out))?;
    files::write_atomic(side, made.side().to_string().as_bytes())
}

/// A data set of which the features are yet to be generated, as they are written.
struct Generated<'a> {
    world: World<'a>,
    /// By split; without rows where it is left out.
    parts: [Part; 3],
    header: Vec<u8>,
    /// In the order of the header.
    fields: Vec<Field>,
}

/// One tensor of the file.
struct Field {
    split: SplitName,
    what: What,
    name: String,
    shape: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Labels,
    Shared,
    Private(Modality),
    Values(Modality),
    Lengths(Modality),
    Missing(Modality),
}

impl<'a> Generated<'a> {
    fn new(config: &'a SynthConfig) -> Result<Self> {
        config.check()?;
        let world = World::new(config);
        let parts = SplitName::ALL.map(|split| world.split(split));
        let mut fields = Vec::new();
        for split in SplitName::ALL.into_iter().filter(|&s| config.rows(s) > 0) {
            let rows = config.rows(split);
            let mut put = |what: What, field: &str, shape: &[usize]| {
                if !shape.contains(&0) {
                    let name = format!("{split}.{field}");
                    fields.push(Field { split, what, name, shape: shape.to_vec() });
                }
            };
            match config.target {
                SynthTarget::Number => put(What::Labels, "regression_labels", &[rows]),
                SynthTarget::Numbers(n) => put(What::Labels, "regression_labels", &[rows, n]),
                SynthTarget::Classes(_) => put(What::Labels, "class_labels", &[rows]),
                SynthTarget::Labels(n) => put(What::Labels, "class_labels", &[rows, n]),
            }
            put(What::Shared, "factor_shared", &[rows, config.shared]);
            for m in config.present() {
                let SynthStream { dim, steps, .. } = *config.stream(m);
                put(What::Private(m), &format!("factor_{m}"), &[rows, config.private]);
                put(What::Values(m), m.name(), &[rows, steps, dim]);
                if steps > 1 {
                    put(What::Lengths(m), &format!("{m}_lengths"), &[rows]);
                }
                if config.missing > 0.0 {
                    put(What::Missing(m), &format!("{m}_missing"), &[rows]);
                }
            }
        }
        // The order that the format's own library writes tensors in.
        let whole = matches!(config.target, SynthTarget::Classes(_) | SynthTarget::Labels(_));
        let dtype = |f: &Field| f.dtype(whole);
        fields.sort_by_key(|f| (dtype(f) == Dtype::I32, f.name.clone()));
        let header = header(config, &fields, dtype)?;
        Ok(Generated { world, parts, header, fields })
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        let bytes =
            |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
        for field in &self.fields {
            let Part { samples, labels } = &self.parts[field.split.index()];
            let whole = |numbers: &mut dyn Iterator<Item = i32>| -> Vec<u8> {
                numbers.flat_map(i32::to_le_bytes).collect()
            };
            let mut rows = |of: &dyn Fn(&Sample) -> &[f64]| {
                samples.iter().try_for_each(|s| {
                    out.write_all(&bytes(&of(s).iter().map(|x| *x as f32).collect::<Vec<_>>()))
                })
            };
            match field.what {
                What::Labels => match labels {
                    Labels::Numbers(numbers) => out.write_all(&bytes(numbers))?,
                    Labels::Whole(classes) => {
                        out.write_all(&whole(&mut classes.iter().copied()))?
                    }
                },
                What::Shared => rows(&|s| &s.shared)?,
                What::Private(m) => rows(&|s| s.private(m))?,
                What::Lengths(m) => {
                    let length = |(row, sample): (usize, &Sample)| match sample.lacks(m) {
                        true => 1,
                        false => self.world.length(m, field.split, row).0 as i32,
                    };
                    out.write_all(&whole(&mut samples.iter().enumerate().map(length)))?;
                }
                What::Missing(m) => {
                    out.write_all(&whole(&mut samples.iter().map(|s| i32::from(s.lacks(m)))))?;
                }
                What::Values(m) => {
                    let row = field.shape[1] * field.shape[2];
                    let block = (BLOCK / row).max(1);
                    let mut values = vec![0.0; block.min(samples.len()) * row];
                    for first in (0..samples.len()).step_by(block) {
                        let some = &samples[first..samples.len().min(first + block)];
                        let values = &mut values[..some.len() * row];
                        self.world.stream(m, field.split, first, some, values);
                        out.write_all(&bytes(values))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ids and texts, and what targets are called.
    fn side(&self) -> serde_json::Value {
        let mut side = json!({});
        let named =
            |what: &str, n: usize| (0..n).map(|i| format!("{what} {i}")).collect::<Vec<_>>();
        match self.world.config.target {
            SynthTarget::Number => {}
            SynthTarget::Numbers(n) => side["target_names"] = json!(named("number", n)),
            SynthTarget::Classes(n) => side["class_names"] = json!(named("class", n)),
            SynthTarget::Labels(n) => side["class_names"] = json!(named("label", n)),
        }
        for split in SplitName::ALL {
            let Part { samples, labels } = &self.parts[split.index()];
            if samples.is_empty() {
                continue;
            }
            let texts = samples.iter().enumerate().map(|(row, sample)| {
                let label = match labels {
                    Labels::Numbers(numbers) => numbers[row * self.world.config.target.count()],
                    // Of the first of the numbers behind it.
                    Labels::Whole(_) => self.world.number(sample, 0) as f32,
                };
                describe(label, &self.world.parts(sample, 0))
            });
            side[split.name()] = json!({
                "id": (0..samples.len()).map(|r| format!("synth-{split}-{r}")).collect::<Vec<_>>(),
                "raw_text": texts.collect::<Vec<_>>(),
            });
        }
        side
    }
}

impl Field {
    /// The type of its values; `whole` says that labels are whole numbers.
    fn dtype(&self, whole: bool) -> Dtype {
        match self.what {
            What::Lengths(_) | What::Missing(_) => Dtype::I32,
            What::Labels if whole => Dtype::I32,
            _ => Dtype::F32,
        }
    }
}

/// Everything before the first tensor's values.
fn header(
    config: &SynthConfig,
    fields: &[Field],
    dtype: impl Fn(&Field) -> Dtype,
) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::Config(format!("synthetic data: {e}"));
    let mut end = 0;
    let infos = fields.iter().map(|field| {
        let start = end;
        end += 4 * field.shape.iter().product::<usize>();
        let data_offsets = (start, end);
        let shape = field.shape.clone();
        (field.name.clone(), TensorInfo { dtype: dtype(field), shape, data_offsets })
    });
    let infos = infos.collect();
    // One key only: several would come out of the map in any order, and the bytes would vary.
    let settings = serde_json::to_string(config).map_err(|e| failed(&e))?;
    let about = HashMap::from([("synthetic".to_string(), settings)]);
    let metadata = Metadata::new(Some(about), infos).map_err(|e| failed(&e))?;
    let mut text = serde_json::to_string(&metadata).map_err(|e| failed(&e))?.into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

#[cfg(test)]
mod tests;
