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

use std::collections::{BTreeSet, HashMap};
use std::f64::consts::TAU;
use std::io::{self, Write};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Modality, SplitName};
use crate::error::{Error, Result};
use crate::files;
use crate::rng::Rng;

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
    /// Share of rows whose label is exactly 0, in 0..=1.
    pub zero_share: f64,
    /// The text.
    pub text: SynthStream,
    /// The audio.
    pub audio: SynthStream,
    /// The vision.
    pub vision: SynthStream,
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
            modalities: Modality::ALL.to_vec(),
            shared: 4,
            private: 4,
            shared_weight: 1.0,
            label_scale: 1.5,
            zero_share: 0.05,
            text: stream(32, 1, 1, 0.3, 0.6),
            audio: stream(8, 24, 8, 0.3, 0.5),
            vision: stream(12, 16, 6, 0.3, 0.4),
        }
    }
}

/// Far beyond use, and small enough that no size overflows.
const MOST_ROWS: usize = 10_000_000;
const MOST_FACTORS: usize = 1024;
const MOST_FEATURES: usize = 16_384;
const MOST_BYTES: usize = 1 << 40;
/// Features are generated and written in blocks of so many values: what of a file is in memory.
const BLOCK: usize = 1 << 22;

impl SynthConfig {
    fn stream(&self, modality: Modality) -> &SynthStream {
        match modality {
            Modality::Text => &self.text,
            Modality::Audio => &self.audio,
            Modality::Vision => &self.vision,
        }
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
        Modality::ALL.into_iter().filter(|m| self.modalities.contains(m))
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
}

/// Purposes of random sequences: no two share one, so that adding a modality or rows leaves the
/// rest of the data as it was.
const MAP: u64 = 0;
const FACTOR: u64 = 1;
const COURSE: u64 = 2;
const DIRECTION: u64 = 3;
/// The "modality" of what is shared.
const SHARED: u64 = 9;

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
            put(What::Labels, "regression_labels", &[rows]);
            put(What::Shared, "factor_shared", &[rows, config.shared]);
            for m in config.present() {
                let SynthStream { dim, steps, .. } = *config.stream(m);
                put(What::Private(m), &format!("factor_{m}"), &[rows, config.private]);
                put(What::Values(m), m.name(), &[rows, steps, dim]);
                if steps > 1 {
                    put(What::Lengths(m), &format!("{m}_lengths"), &[rows]);
                }
            }
        }
        // The order that the format's own library writes tensors in.
        fields.sort_by_key(|f| (f.dtype() == Dtype::I32, f.name.clone()));
        let header = header(config, &fields)?;
        Ok(Generated { world, parts, header, fields })
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        let bytes =
            |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
        for field in &self.fields {
            let Part { samples, labels } = &self.parts[field.split.index()];
            let mut rows = |of: &dyn Fn(&Sample) -> &[f64]| {
                samples.iter().try_for_each(|s| {
                    out.write_all(&bytes(&of(s).iter().map(|x| *x as f32).collect::<Vec<_>>()))
                })
            };
            match field.what {
                What::Labels => out.write_all(&bytes(labels))?,
                What::Shared => rows(&|s| &s.shared)?,
                What::Private(m) => rows(&|s| &s.private[m.index()])?,
                What::Lengths(m) => {
                    for row in 0..samples.len() {
                        let length = self.world.length(m, field.split, row).0 as i32;
                        out.write_all(&length.to_le_bytes())?;
                    }
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

    /// Ids and texts.
    fn side(&self) -> serde_json::Value {
        let mut side = json!({});
        for split in SplitName::ALL {
            let Part { samples, labels } = &self.parts[split.index()];
            if samples.is_empty() {
                continue;
            }
            let texts = samples.iter().zip(labels);
            let texts = texts.map(|(sample, label)| describe(*label, &self.world.parts(sample)));
            side[split.name()] = json!({
                "id": (0..samples.len()).map(|r| format!("synth-{split}-{r}")).collect::<Vec<_>>(),
                "raw_text": texts.collect::<Vec<_>>(),
            });
        }
        side
    }
}

impl Field {
    fn dtype(&self) -> Dtype {
        if matches!(self.what, What::Lengths(_)) { Dtype::I32 } else { Dtype::F32 }
    }
}

/// Everything before the first tensor's values.
fn header(config: &SynthConfig, fields: &[Field]) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::Config(format!("synthetic data: {e}"));
    let mut end = 0;
    let infos = fields.iter().map(|field| {
        let start = end;
        end += 4 * field.shape.iter().product::<usize>();
        let data_offsets = (start, end);
        let shape = field.shape.clone();
        (field.name.clone(), TensorInfo { dtype: field.dtype(), shape, data_offsets })
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

/// The factors behind one sample; private ones by modality index.
struct Sample {
    shared: Vec<f64>,
    private: [Vec<f64>; 3],
}

struct Part {
    samples: Vec<Sample>,
    labels: Vec<f32>,
}

/// What is the same for every sample: label directions and feature maps.
struct World<'a> {
    config: &'a SynthConfig,
    shared_direction: Vec<f64>,
    private_directions: [Vec<f64>; 3],
    /// Per modality, dim x channels.
    maps: [Vec<f64>; 3],
}

impl<'a> World<'a> {
    fn new(config: &'a SynthConfig) -> Self {
        let seed = config.seed;
        let each = |f: &dyn Fn(Modality) -> Vec<f64>| Modality::ALL.map(f);
        let map = |m: Modality| {
            // Nobody has checked the sizes of a modality that is not there.
            if !config.modalities.contains(&m) {
                return Vec::new();
            }
            let s = config.stream(m);
            let factors = config.shared + config.private;
            // Two channels per factor where there is a time for them to move in.
            let channels = if s.steps > 1 { 2 * factors } else { factors };
            let mut rng = Rng::keyed(&[seed, MAP, m.index() as u64]);
            // Scaled so that the tanh bends the sum a little without flattening it.
            let scale = 0.9 / (factors as f64).sqrt();
            (0..s.dim * channels).map(|_| scale * rng.normal()).collect()
        };
        World {
            config,
            shared_direction: unit(&mut Rng::keyed(&[seed, DIRECTION, SHARED]), config.shared),
            private_directions: each(&|m| {
                unit(&mut Rng::keyed(&[seed, DIRECTION, m.index() as u64]), config.private)
            }),
            maps: each(&map),
        }
    }

    /// What each source says of the label, before scaling: shared, then by modality.
    fn parts(&self, sample: &Sample) -> [f64; 4] {
        let own = |m: Modality| {
            let said = dot(&self.private_directions[m.index()], &sample.private[m.index()]);
            let present = self.config.modalities.contains(&m);
            if present { self.config.stream(m).private_weight * said } else { 0.0 }
        };
        let [text, audio, vision] = Modality::ALL.map(own);
        let shared = self.config.shared_weight * dot(&self.shared_direction, &sample.shared);
        [shared, text, audio, vision]
    }

    fn split(&self, split: SplitName) -> Part {
        let config = self.config;
        let sample = |row: usize| {
            let draw = |source: u64, k: usize| -> Vec<f64> {
                let key = [config.seed, FACTOR, source, split.index() as u64, row as u64];
                let mut rng = Rng::keyed(&key);
                (0..k).map(|_| rng.normal()).collect()
            };
            let private = Modality::ALL.map(|m| draw(m.index() as u64, config.private));
            Sample { shared: draw(SHARED, config.shared), private }
        };
        let samples: Vec<Sample> = (0..config.rows(split)).map(sample).collect();

        // A source with a weight but no dimensions says nothing, so it must not count here either.
        let mut weight = if config.shared > 0 { config.shared_weight.powi(2) } else { 0.0 };
        if config.private > 0 {
            weight +=
                config.present().map(|m| config.stream(m).private_weight.powi(2)).sum::<f64>();
        }
        let scale = if weight > 0.0 { config.label_scale / weight.sqrt() } else { 0.0 };
        let label = |s: &Sample| self.parts(s).iter().sum::<f64>() * scale;
        let mut labels: Vec<f32> =
            samples.iter().map(|s| label(s).clamp(-3.0, 3.0) as f32).collect();
        let mut nearest: Vec<usize> = (0..labels.len()).collect();
        nearest.sort_by(|&a, &b| labels[a].abs().total_cmp(&labels[b].abs()));
        let zeros = (config.zero_share * labels.len() as f64).round() as usize;
        nearest.iter().take(zeros).for_each(|&row| labels[row] = 0.0);
        Part { samples, labels }
    }

    /// How many steps a row has, and the random numbers that its features begin with.
    fn length(&self, modality: Modality, split: SplitName, row: usize) -> (usize, Rng) {
        let SynthStream { steps, min_steps, .. } = *self.config.stream(modality);
        let (modality, split) = (modality.index() as u64, split.index() as u64);
        let mut rng = Rng::keyed(&[self.config.seed, COURSE, modality, split, row as u64]);
        (min_steps + rng.below((steps - min_steps + 1) as u64) as usize, rng)
    }

    /// The features of a modality (rows x steps x dim, zero past a row's length) of the rows from
    /// `first` on, whose samples are given.
    fn stream(
        &self,
        modality: Modality,
        split: SplitName,
        first: usize,
        samples: &[Sample],
        values: &mut [f32],
    ) {
        let SynthStream { dim, steps, .. } = *self.config.stream(modality);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let share = samples.len().div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            let shares = samples.chunks(share).zip(values.chunks_mut(share * steps * dim));
            for (i, (samples, values)) in shares.enumerate() {
                scope.spawn(move || {
                    let rows = samples.iter().zip(values.chunks_exact_mut(steps * dim));
                    for (row, (sample, out)) in (first + i * share..).zip(rows) {
                        self.row(modality, split, row, sample, out);
                    }
                });
            }
        });
    }

    /// The features of one row.
    fn row(
        &self,
        modality: Modality,
        split: SplitName,
        row: usize,
        sample: &Sample,
        out: &mut [f32],
    ) {
        let SynthStream { dim, steps, noise, .. } = *self.config.stream(modality);
        let map = &self.maps[modality.index()];
        let (length, mut rng) = self.length(modality, split, row);
        let factors = [sample.shared.as_slice(), &sample.private[modality.index()]].concat();
        let courses: Vec<Course> =
            factors.iter().enumerate().map(|(k, &z)| Course::new(k, z, &mut rng)).collect();
        out.fill(0.0);
        for (step, frame) in out.chunks_exact_mut(dim).take(length).enumerate() {
            let channels: Vec<f64> = if steps == 1 {
                factors.clone()
            } else {
                let at = (step as f64 + 0.5) / length as f64;
                courses.iter().flat_map(|c| c.at(at)).collect()
            };
            for (x, line) in frame.iter_mut().zip(map.chunks_exact(channels.len())) {
                *x = (dot(line, &channels).tanh() + noise * rng.normal()) as f32;
            }
        }
    }
}

/// How one factor dimension moves through a sequence.
struct Course {
    height: f64,
    centre: f64,
    strength: f64,
    cycles: f64,
    phase: f64,
}

impl Course {
    fn new(k: usize, factor: f64, rng: &mut Rng) -> Self {
        Course {
            height: 1.5 * factor,
            centre: 0.2 + 0.6 * rng.uniform(),
            strength: 1.0 + 0.7 * factor.tanh(),
            // Neighbouring dimensions swing at different rates.
            cycles: 1.0 + 0.5 * (k % 4) as f64,
            phase: TAU * rng.uniform(),
        }
    }

    /// The two channels at a time in 0..1.
    fn at(&self, time: f64) -> [f64; 2] {
        let bump = (-((time - self.centre) / 0.3).powi(2)).exp();
        let swing = (TAU * self.cycles * time + self.phase).sin();
        [self.height * bump, 0.5 * self.strength * swing]
    }
}

fn unit(rng: &mut Rng, k: usize) -> Vec<f64> {
    let raw: Vec<f64> = (0..k).map(|_| rng.normal()).collect();
    let norm = dot(&raw, &raw).sqrt().max(1e-12);
    raw.iter().map(|x| x / norm).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// A sentence that a person can hold against the label; `parts` as of [`World::parts`].
fn describe(label: f32, parts: &[f64; 4]) -> String {
    let opinion = match label {
        y if y <= -1.5 => "a scathing review",
        y if y < 0.0 => "a rather sour review",
        0.0 => "a neutral review",
        y if y < 1.5 => "a rather warm review",
        _ => "a glowing review",
    };
    let pick = |x: f64, low, high, none| match x {
        x if x < -0.25 => low,
        x if x > 0.25 => high,
        _ => none,
    };
    format!(
        "{opinion}, {}, {}, {}",
        pick(parts[1], "in harsh words", "in kind words", "in plain words"),
        pick(parts[2], "with a flat voice", "with a bright voice", "with an even voice"),
        pick(parts[3], "and a frown", "and a smile", "and a still face"),
    )
}

/// Every word of the texts, each once, in order.
pub fn words() -> Vec<String> {
    let mut all = BTreeSet::new();
    for label in [-2.0, -1.0, 0.0, 1.0, 2.0] {
        for part in [-1.0, 0.0, 1.0] {
            let text = describe(label, &[part; 4]);
            all.extend(text.split(|c: char| !c.is_alphabetic()).map(str::to_string));
        }
    }
    all.remove("");
    all.into_iter().collect()
}

#[cfg(test)]
#[path = "synth_tests.rs"]
mod tests;
