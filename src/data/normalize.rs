//! Standardising features by what the training rows show.

use serde::{Deserialize, Serialize};

use super::spread::spreads;
use super::{Modality, Split};
use crate::error::{Error, Result};

/// Standardised values are kept within this; only a feature that hardly varied in training and then
/// leaps can get so far, and its f32 result must stay finite.
const LIMIT: f32 = 1e6;
/// And within this where wild values are expected: what is farther off is no measurement.
const ROBUST_LIMIT: f32 = 20.0;

/// Whether features are standardised before a model sees them, and by what.
///
/// In configurations `false`, `true` or `"robust"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Normalize {
    /// As they are.
    None,
    /// By the mean and the standard deviation of the training rows.
    #[default]
    Standard,
    /// By the median and the range between the quartiles, which no few wild values move, and kept within ±20
    /// of such deviations.
    Robust,
}

/// How [`Normalize`] is written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Switch(bool),
    Word(String),
}

impl TryFrom<Written> for Normalize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Switch(false) => Ok(Normalize::None),
            Written::Switch(true) => Ok(Normalize::Standard),
            Written::Word(word) if word == "robust" => Ok(Normalize::Robust),
            Written::Word(word) => {
                Err(format!("train.normalize: want true, false or \"robust\", got \"{word}\""))
            }
        }
    }
}

impl From<Normalize> for Written {
    fn from(normalize: Normalize) -> Written {
        match normalize {
            Normalize::None => Written::Switch(false),
            Normalize::Standard => Written::Switch(true),
            Normalize::Robust => Written::Word("robust".into()),
        }
    }
}

/// Mean and standard deviation of every feature, for the modalities it was fitted to. Small enough
/// to be stored with a run, so that prediction treats features as training did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standardise {
    streams: Vec<FeatureStats>,
    /// Of streams that are read as they are: what stands in for a row that lacks one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    usual: Vec<FeatureStats>,
}

/// Rows by which it is known what is usual of a stream that is read as it is.
const ENOUGH: usize = 1024;

/// What one modality's features look like in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureStats {
    /// Which modality.
    pub modality: Modality,
    /// Per feature.
    pub mean: Vec<f32>,
    /// Per feature; 1 where the feature is constant.
    pub std: Vec<f32>,
    /// Standardised values are kept within ± this.
    #[serde(default = "limit", skip_serializing_if = "is_limit")]
    pub limit: f32,
}

fn limit() -> f32 {
    LIMIT
}

fn is_limit(limit: &f32) -> bool {
    *limit == LIMIT
}

impl Standardise {
    /// Fits to the valid steps of `split` (the training split), accumulating in f64. Modalities
    /// that the split lacks are left out; audio and vision are the usual choice.
    ///
    /// # Errors
    /// Those of the rows' source.
    pub fn fit(split: &Split, modalities: &[Modality]) -> Result<Standardise> {
        let every =
            |modality: &Modality| FeatureStats::fit(split, *modality, usize::MAX).transpose();
        let streams = modalities.iter().filter_map(every).collect::<Result<_>>()?;
        Ok(Standardise { streams, usual: Vec::new() })
    }

    /// As [`fit`](Self::fit), by medians and quartiles of steps that are evenly spread over the rows.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn fit_robust(split: &Split, modalities: &[Modality]) -> Result<Standardise> {
        let every = |modality: &Modality| FeatureStats::fit_robust(split, *modality).transpose();
        let streams = modalities.iter().filter_map(every).collect::<Result<_>>()?;
        Ok(Standardise { streams, usual: Vec::new() })
    }

    /// These modalities standardised as `how` says, and of the others what is usual of their features, by
    /// some of the rows.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn with_usual(
        split: &Split,
        modalities: &[Modality],
        how: Normalize,
    ) -> Result<Standardise> {
        let fitted = match how {
            Normalize::None => Standardise { streams: Vec::new(), usual: Vec::new() },
            Normalize::Standard => Self::fit(split, modalities)?,
            Normalize::Robust => Self::fit_robust(split, modalities)?,
        };
        let others = split.modalities().filter(|m| fitted.stats(*m).is_none());
        let usual = others.filter_map(|m| FeatureStats::fit(split, m, ENOUGH).transpose());
        let usual = usual.collect::<Result<_>>()?;
        Ok(Standardise { usual, ..fitted })
    }

    /// Whether anything is standardised.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The mean of a modality's features as a batch has them, standardised or not, where it is known.
    pub fn usual(&self, modality: Modality) -> Option<Vec<f32>> {
        let usual = self.usual.iter().find(|s| s.modality == modality).map(|s| s.mean.clone());
        self.stats(modality).map(|s| vec![0.0; s.mean.len()]).or(usual)
    }

    /// The statistics of a modality, if it was fitted.
    pub fn stats(&self, modality: Modality) -> Option<&FeatureStats> {
        self.streams.iter().find(|s| s.modality == modality)
    }
}

impl FeatureStats {
    /// By rows that have the modality, `most` of them, evenly spread.
    fn fit(split: &Split, modality: Modality, most: usize) -> Result<Option<FeatureStats>> {
        let Some(stream) = split.stream(modality) else { return Ok(None) };
        let apart = stream.rows.div_ceil(most).max(1);
        let rows = || (0..stream.rows).filter(|row| !stream.missing(*row)).step_by(apart);
        let count = rows().map(|row| stream.len(row)).sum::<usize>() as f64;
        if count == 0.0 {
            return Ok(None);
        }
        // Two passes, since the one-pass formula cancels where the mean is large.
        let mut mean = vec![0.0f64; stream.dim];
        for row in rows() {
            for frame in stream.values(row)?.chunks_exact(stream.dim).take(stream.len(row)) {
                mean.iter_mut().zip(frame).for_each(|(m, x)| *m += f64::from(*x));
            }
        }
        mean.iter_mut().for_each(|m| *m /= count);
        let mut square = vec![0.0f64; stream.dim];
        for row in rows() {
            for frame in stream.values(row)?.chunks_exact(stream.dim).take(stream.len(row)) {
                for ((s, m), x) in square.iter_mut().zip(&mean).zip(frame) {
                    *s += (f64::from(*x) - m).powi(2);
                }
            }
        }
        let std = square.iter().zip(&mean).map(|(s, m)| {
            let std = (s / count).sqrt();
            // Below the rounding of f32 around the mean there is nothing but noise to scale up.
            let constant = std <= 1e-7 * m.abs() || std < f64::from(f32::MIN_POSITIVE);
            if constant { 1.0 } else { std as f32 }
        });
        let std = std.collect();
        let mean = mean.iter().map(|&m| m as f32).collect();
        Ok(Some(FeatureStats { modality, mean, std, limit: LIMIT }))
    }

    /// By the spread of values that quantiles tell.
    fn fit_robust(split: &Split, modality: Modality) -> Result<Option<FeatureStats>> {
        let Some(stream) = split.stream(modality) else { return Ok(None) };
        if (0..stream.rows).all(|row| stream.missing(row)) {
            return Ok(None);
        }
        let spreads = spreads(&stream)?;
        let mean = spreads.iter().map(|s| s.median).collect();
        let std = spreads.iter().map(|s| s.scale).collect();
        Ok(Some(FeatureStats { modality, mean, std, limit: ROBUST_LIMIT }))
    }

    /// Standardises the values of one valid step; padding must not pass through here.
    pub fn applied(&self, frame: impl Iterator<Item = f32>) -> impl Iterator<Item = f32> {
        frame
            .zip(self.mean.iter().zip(&self.std))
            .map(|(x, (mean, std))| ((x - mean) / std).clamp(-self.limit, self.limit))
    }

    /// Checks that these statistics (which may come from a stored run) fit `dim` features.
    pub(super) fn fits(&self, split: &Split, dim: usize) -> Result<()> {
        let usable = self.limit > 0.0
            && self.limit <= LIMIT
            && self.mean.iter().all(|m| m.is_finite())
            && self.std.iter().all(|s| s.is_normal() && *s > 0.0);
        if self.mean.len() == dim && self.std.len() == dim && usable {
            return Ok(());
        }
        Err(Error::data(
            split.path(),
            format!(
                "the stored mean and deviation of {} features do not fit {}.{} with {dim}; use \
                 those of the run that this model comes from",
                self.mean.len(),
                split.name(),
                self.modality
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::TensorFile;
    use super::super::{Dataset, Layout, SplitName, StreamSpec, fill};
    use super::*;

    /// Two rows of 3 steps, 2 and 3 valid; feature 1 is constant, feature 2 sits far from zero.
    fn data() -> Dataset {
        let frame = |x: f32| [x, 7.3, 1e6 + x];
        let pad = [99.0, 99.0, 99.0];
        let values = [frame(1.0), frame(2.0), pad, frame(3.0), frame(4.0), frame(5.0)];
        let file = TensorFile::new()
            .f32("train.vision", &[2, 3, 3], values.concat())
            .i32("train.vision_lengths", &[2], &[2, 3])
            .save();
        Dataset::open(file.path()).unwrap()
    }

    #[test]
    fn statistics_are_of_valid_steps_only() {
        let data = data();
        let fitted =
            Standardise::fit(data.split(SplitName::Train).unwrap(), &Modality::KNOWN).unwrap();
        assert!(fitted.stats(Modality::Audio).is_none());
        let stats = fitted.stats(Modality::Vision).unwrap();
        assert_eq!(stats.mean, [3.0, 7.3, 1e6 + 3.0]);
        let root2 = 2.0f32.sqrt();
        assert_eq!(stats.std, [root2, 1.0, root2]);
    }

    #[test]
    fn applied_in_a_batch_padding_stays_zero() {
        let data = data();
        let train = data.split(SplitName::Train).unwrap();
        let fitted = Standardise::fit(train, &[Modality::Vision]).unwrap();
        let spec = StreamSpec::of(&train.stream(Modality::Vision).unwrap());
        let layout = Layout::new(2, &[spec], None);
        let mut out = Vec::new();
        fill(train, None, &[0, 1], &layout, Some(&fitted), &mut out).unwrap();
        let values: Vec<f32> = out[..24].iter().map(|&w| f32::from_bits(w)).collect();
        let root2 = 2.0f32.sqrt();
        approx::assert_relative_eq!(values[0], -root2, epsilon = 1e-6);
        assert_eq!(values[1], 0.0);
        assert_eq!(values[8..12], [0.0; 4]);
        approx::assert_relative_eq!(values[20], root2, epsilon = 1e-6);
        let sum: f32 = values.iter().sum();
        assert!(sum.abs() < 1e-5);
    }

    /// Two values out of all proportion, in a feature each.
    #[test]
    fn wild_values_flatten_nothing_where_the_scale_is_robust() {
        let mut values: Vec<f32> = (0..400).map(|i| (i % 200) as f32 / 100.0 - 1.0).collect();
        (values[10], values[301]) = (-3.4e38, 1e30);
        let file = TensorFile::new().f32("train.audio", &[200, 1, 2], values).save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let spread = |fitted: Standardise| {
            let stats = fitted.stats(Modality::Audio).unwrap();
            let row =
                stats.applied([0.5, 0.5].into_iter()).zip(stats.applied([0.0; 2].into_iter()));
            row.map(|(a, b)| a - b).collect::<Vec<f32>>()
        };
        let flat = spread(Standardise::fit(train, &[Modality::Audio]).unwrap());
        assert!(flat.iter().all(|x| *x < 1e-6), "{flat:?}");
        let robust = Standardise::with_usual(train, &[Modality::Audio], Normalize::Robust).unwrap();
        let wild: Vec<f32> =
            robust.stats(Modality::Audio).unwrap().applied([-3.4e38, 1e30].into_iter()).collect();
        assert_eq!(wild, [-ROBUST_LIMIT, ROBUST_LIMIT]);
        let text = serde_json::to_string(&robust).unwrap();
        assert_eq!(serde_json::from_str::<Standardise>(&text).unwrap(), robust);
        let robust = spread(robust);
        assert!(robust.iter().all(|x| (0.5..1.0).contains(x)), "{robust:?}");
    }

    #[test]
    fn survives_json() {
        let data = data();
        let fitted =
            Standardise::fit(data.split(SplitName::Train).unwrap(), &Modality::KNOWN).unwrap();
        let text = serde_json::to_string(&fitted).unwrap();
        assert_eq!(serde_json::from_str::<Standardise>(&text).unwrap(), fitted);
    }

    #[test]
    fn results_are_finite_and_misfits_refused() {
        let stats = FeatureStats {
            modality: Modality::Vision,
            mean: vec![0.0, -3e38],
            std: vec![f32::MIN_POSITIVE, 1.0],
            limit: LIMIT,
        };
        let out: Vec<f32> = stats.applied([3e38, 3e38].into_iter()).collect();
        assert_eq!(out, [LIMIT, LIMIT]);
        let data = data();
        let train = data.split(SplitName::Train).unwrap();
        assert!(stats.fits(train, 3).unwrap_err().to_string().contains("2 features"));
        let stats = FeatureStats { std: vec![0.0, 1.0], ..stats };
        assert!(stats.fits(train, 2).is_err());
    }
}
