//! What is behind the rows of a synthetic set: factors, label directions, and the maps from factors to
//! features.

use std::collections::BTreeSet;
use std::f64::consts::TAU;

use super::{SynthConfig, SynthStream, SynthTarget};
use crate::data::lacking::taken;
use crate::data::{Modality, SplitName};
use crate::rng::Rng;

/// Purposes of random sequences: no two share one, so that adding a modality or rows leaves the
/// rest of the data as it was.
const MAP: u64 = 0;
const FACTOR: u64 = 1;
const COURSE: u64 = 2;
const DIRECTION: u64 = 3;
const MISSING: u64 = 4;
/// The "modality" of what is shared.
const SHARED: u64 = 9;

/// The factors behind one sample.
pub(super) struct Sample {
    pub(super) shared: Vec<f64>,
    private: Vec<(Modality, Vec<f64>)>,
    /// Modalities that the row lacks.
    lacking: Vec<Modality>,
}

impl Sample {
    /// The factor that a modality alone sees.
    pub(super) fn private(&self, modality: Modality) -> &[f64] {
        of(&self.private, modality)
    }

    /// Whether the row lacks a modality.
    pub(super) fn lacks(&self, modality: Modality) -> bool {
        self.lacking.contains(&modality)
    }
}

/// What a list has of a modality.
fn of(list: &[(Modality, Vec<f64>)], modality: Modality) -> &[f64] {
    list.iter().find(|(m, _)| *m == modality).map_or(&[], |(_, values)| values)
}

/// A split.
pub(super) struct Part {
    pub(super) samples: Vec<Sample>,
    pub(super) labels: Labels,
}

/// The targets of a split, row by row.
pub(super) enum Labels {
    Numbers(Vec<f32>),
    /// Classes, or labels of 0 and 1.
    Whole(Vec<i32>),
}

/// What a number of the target is a direction in.
struct Directions {
    shared: Vec<f64>,
    private: Vec<(Modality, Vec<f64>)>,
}

/// What is the same for every sample: label directions and feature maps.
pub(super) struct World<'a> {
    pub(super) config: &'a SynthConfig,
    /// Of each number of the target.
    directions: Vec<Directions>,
    /// Per modality, dim x channels.
    maps: Vec<(Modality, Vec<f64>)>,
    /// What numbers are multiplied by.
    scale: f64,
}

impl<'a> World<'a> {
    pub(super) fn new(config: &'a SynthConfig) -> Self {
        let seed = config.seed;
        let each = |f: &dyn Fn(Modality) -> Vec<f64>| -> Vec<(Modality, Vec<f64>)> {
            config.present().map(|m| (m, f(m))).collect()
        };
        let map = |m: Modality| {
            let s = config.stream(m);
            let factors = config.shared + config.private;
            // Two channels per factor where there is a time for them to move in.
            let channels = if s.steps > 1 { 2 * factors } else { factors };
            let mut rng = Rng::keyed(&[seed, MAP, m.key()]);
            // Scaled so that the tanh bends the sum a little without flattening it.
            let scale = 0.9 / (factors as f64).sqrt();
            (0..s.dim * channels).map(|_| scale * rng.normal()).collect()
        };
        let directions = (0..config.target.count()).map(|number| {
            let direction = |source: u64, k: usize| match number {
                0 => unit(&mut Rng::keyed(&[seed, DIRECTION, source]), k),
                n => unit(&mut Rng::keyed(&[seed, DIRECTION, source, n as u64]), k),
            };
            Directions {
                shared: direction(SHARED, config.shared),
                private: each(&|m| direction(m.key(), config.private)),
            }
        });
        // A source with a weight but no dimensions says nothing, so it must not count here either.
        let mut weight = if config.shared > 0 { config.shared_weight.powi(2) } else { 0.0 };
        if config.private > 0 {
            weight +=
                config.present().map(|m| config.stream(m).private_weight.powi(2)).sum::<f64>();
        }
        let scale = if weight > 0.0 { config.label_scale / weight.sqrt() } else { 0.0 };
        World { config, directions: directions.collect(), maps: each(&map), scale }
    }

    /// What each source says of a number of the target, before scaling: what is shared, text, audio, vision,
    /// each 0 where it is not there, then the others.
    pub(super) fn parts(&self, sample: &Sample, number: usize) -> Vec<f64> {
        let Directions { shared, private } = &self.directions[number];
        let own = |m: Modality| {
            let said = dot(of(private, m), sample.private(m));
            let present = self.config.modalities.contains(&m);
            if present { self.config.stream(m).private_weight * said } else { 0.0 }
        };
        let shared = self.config.shared_weight * dot(shared, &sample.shared);
        let others = self.config.present().filter(|m| !Modality::KNOWN.contains(m));
        std::iter::once(shared).chain(Modality::KNOWN.into_iter().chain(others).map(own)).collect()
    }

    /// A number of the target, before it is kept within its range.
    pub(super) fn number(&self, sample: &Sample, number: usize) -> f64 {
        self.parts(sample, number).iter().sum::<f64>() * self.scale
    }

    pub(super) fn split(&self, split: SplitName) -> Part {
        let config = self.config;
        let sample = |row: usize| {
            let random = |purpose: u64, source: u64| {
                Rng::keyed(&[config.seed, purpose, source, split.index() as u64, row as u64])
            };
            let draw = |source: u64, k: usize| -> Vec<f64> {
                let mut rng = random(FACTOR, source);
                (0..k).map(|_| rng.normal()).collect()
            };
            let private = config.present().map(|m| (m, draw(m.key(), config.private))).collect();
            let drawn: Vec<(f64, Modality)> = match config.missing > 0.0 {
                true => config.present().map(|m| (random(MISSING, m.key()).uniform(), m)).collect(),
                false => Vec::new(),
            };
            let lacking = taken(config.missing, drawn).collect();
            Sample { shared: draw(SHARED, config.shared), private, lacking }
        };
        let samples: Vec<Sample> = (0..config.rows(split)).map(sample).collect();
        let labels = self.labels(&samples);
        Part { samples, labels }
    }

    fn labels(&self, samples: &[Sample]) -> Labels {
        let all = 0..self.config.target.count();
        let numbers = |s: &Sample| all.clone().map(|i| self.number(s, i)).collect::<Vec<f64>>();
        match self.config.target {
            SynthTarget::Classes(_) => {
                let class = |s: &Sample| {
                    let largest =
                        numbers(s).into_iter().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
                    largest.map_or(0, |(class, _)| class as i32)
                };
                return Labels::Whole(samples.iter().map(class).collect());
            }
            SynthTarget::Labels(_) => {
                let flags = samples.iter().flat_map(numbers).map(|x| i32::from(x > 0.0));
                return Labels::Whole(flags.collect());
            }
            SynthTarget::Number | SynthTarget::Numbers(_) => {}
        }
        let all = samples.iter().flat_map(numbers).map(|x| x.clamp(-3.0, 3.0) as f32);
        let mut labels: Vec<f32> = all.collect();
        if self.config.target == SynthTarget::Number {
            let mut nearest: Vec<usize> = (0..labels.len()).collect();
            nearest.sort_by(|&a, &b| labels[a].abs().total_cmp(&labels[b].abs()));
            let zeros = (self.config.zero_share * labels.len() as f64).round() as usize;
            nearest.iter().take(zeros).for_each(|&row| labels[row] = 0.0);
        }
        Labels::Numbers(labels)
    }

    /// How many steps a row has, and the random numbers that its features begin with.
    pub(super) fn length(&self, modality: Modality, split: SplitName, row: usize) -> (usize, Rng) {
        let SynthStream { steps, min_steps, .. } = *self.config.stream(modality);
        let (modality, split) = (modality.key(), split.index() as u64);
        let mut rng = Rng::keyed(&[self.config.seed, COURSE, modality, split, row as u64]);
        (min_steps + rng.below((steps - min_steps + 1) as u64) as usize, rng)
    }

    /// The features of a modality (rows x steps x dim, zero past a row's length) of the rows from
    /// `first` on, whose samples are given.
    pub(super) fn stream(
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
        out.fill(0.0);
        if sample.lacks(modality) {
            return;
        }
        let SynthStream { dim, steps, .. } = *self.config.stream(modality);
        let noise = self.config.noise(modality);
        let map = of(&self.maps, modality);
        let (length, mut rng) = self.length(modality, split, row);
        let factors = [sample.shared.as_slice(), sample.private(modality)].concat();
        let courses: Vec<Course> =
            factors.iter().enumerate().map(|(k, &z)| Course::new(k, z, &mut rng)).collect();
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
pub(super) fn describe(label: f32, parts: &[f64]) -> String {
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
