//! What a data set looks like, for whoever is about to train on it: lengths, features that say
//! nothing, samples without a modality, values that are no numbers, and features that know labels
//! they should not.

mod leak;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use super::dataset::{Dataset, Split};
use super::spread::spreads;
use super::stream::{Stream, floats};
use super::{Modality, SplitName};
use crate::error::Result;

pub use leak::{Suspicion, suspicions};

/// The features of one modality in one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamSurvey {
    /// Whose features.
    pub modality: Modality,
    /// Of which split.
    pub split: SplitName,
    /// How many samples.
    pub rows: usize,
    /// Steps of the tensor.
    pub steps: usize,
    /// Features per step.
    pub dim: usize,
    /// Valid steps, where the file gives them.
    pub lengths: Option<Lengths>,
    /// Features that are 0 in every valid step.
    pub missing: Vec<usize>,
    /// Features that have one other value in every valid step.
    pub constant: Vec<usize>,
    /// Samples whose valid steps are all 0.
    pub empty_rows: usize,
    /// Samples of which the file says that they lack the modality.
    pub lacking: usize,
    /// Features with values that are out of all proportion to their others.
    pub outliers: Vec<Outlier>,
    /// A row of time means for each sample: what the search for leaks works on.
    #[serde(skip)]
    means: Vec<f32>,
}

/// A feature with values that are out of all proportion to its others: standardised by its mean and
/// deviation, the others would all be alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlier {
    /// Which feature.
    pub feature: usize,
    /// The value that is the farthest from the median.
    pub value: f32,
    /// The sample that has it.
    pub row: usize,
    /// How far, in deviations told by the quartiles.
    pub deviations: f64,
    /// The samples that have such values, the first few.
    pub rows: Vec<usize>,
    /// How many samples have.
    pub count: usize,
}

/// Values that are farther from their feature's median than this, in deviations told by its quartiles, are
/// no measurements; what people measure may be dozens of them off.
const FAR: f64 = 1000.0;
/// Rows that are named.
const NAMED: usize = 5;

/// How valid steps are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// Half are no longer.
    pub median: usize,
    /// The average.
    pub mean: f64,
    /// The longest.
    pub max: usize,
}

/// Everything, in one pass over the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survey {
    /// By split, then by modality.
    pub streams: Vec<StreamSurvey>,
    /// Features that know labels they should not.
    pub suspicions: Vec<Suspicion>,
}

impl Survey {
    /// Reads every valid step of a data set once.
    ///
    /// # Errors
    /// Those of the rows' source.
    pub fn of(data: &Dataset) -> Result<Survey> {
        let streams = data.splits().flat_map(|split| {
            split.modalities().filter_map(|m| split.stream(m)).map(|s| look(split, &s))
        });
        let streams = streams.collect::<Result<Vec<StreamSurvey>>>()?;
        let suspicions = suspicions(data, &streams);
        Ok(Survey { streams, suspicions })
    }

    /// What was found of one modality in one split.
    pub fn stream(&self, split: SplitName, modality: Modality) -> Option<&StreamSurvey> {
        self.streams.iter().find(|s| s.split == split && s.modality == modality)
    }
}

fn look(split: &Split, stream: &Stream<'_>) -> Result<StreamSurvey> {
    let Stream { modality, rows, steps, dim, .. } = *stream;
    let (mut low, mut high) = (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    let (mut means, mut sum) = (Vec::with_capacity(rows * dim), vec![0.0f64; dim]);
    let (mut empty_rows, mut lacking) = (0, 0);
    for row in 0..rows {
        if stream.missing(row) {
            lacking += 1;
            means.resize(means.len() + dim, 0.0);
            continue;
        }
        let valid = stream.len(row);
        sum.fill(0.0);
        let mut empty = true;
        for frame in stream.values(row)?.chunks_exact(dim).take(valid) {
            for (k, x) in frame.iter().copied().enumerate() {
                low[k] = low[k].min(x);
                high[k] = high[k].max(x);
                sum[k] += f64::from(x);
                empty &= x == 0.0;
            }
        }
        empty_rows += usize::from(empty);
        means.extend(sum.iter().map(|s| (s / valid.max(1) as f64) as f32));
    }
    let still = (0..dim).filter(|k| low[*k] == high[*k]);
    let (missing, constant) = still.partition(|k| low[*k] == 0.0);
    let lengths = stream.has_lengths().then(|| {
        let mut all: Vec<usize> = (0..rows).map(|row| stream.len(row)).collect();
        all.sort_unstable();
        let mean = all.iter().sum::<usize>() as f64 / rows.max(1) as f64;
        let at = |i: usize| all.get(i).copied().unwrap_or(0);
        Lengths { min: at(0), median: at(rows / 2), mean, max: at(rows.saturating_sub(1)) }
    });
    let outliers = outliers(stream, &low, &high)?;
    let split = split.name();
    Ok(StreamSurvey {
        modality,
        split,
        rows,
        steps,
        dim,
        lengths,
        missing,
        constant,
        empty_rows,
        lacking,
        outliers,
        means,
    })
}

/// The features of a stream with values far off, whose smallest and largest values are known.
fn outliers(stream: &Stream<'_>, low: &[f32], high: &[f32]) -> Result<Vec<Outlier>> {
    let spreads = spreads(stream)?;
    let far = |k: usize, x: f32| {
        (f64::from(x) - f64::from(spreads[k].median)).abs() / f64::from(spreads[k].scale)
    };
    // A value that all others are equal to has no deviation to be measured by.
    let told = |k: usize| spreads[k].scale != 1.0 || low[k] != high[k];
    let mut found: Vec<Outlier> = Vec::new();
    for k in (0..stream.dim).filter(|k| low[*k] <= high[*k] && told(*k)) {
        let (down, up) = (far(k, low[k]), far(k, high[k]));
        if down.max(up) > FAR {
            let value = if down > up { low[k] } else { high[k] };
            let (deviations, rows) = (down.max(up), Vec::new());
            found.push(Outlier { feature: k, value, row: 0, deviations, rows, count: 0 });
        }
    }
    if found.is_empty() {
        return Ok(found);
    }
    for row in (0..stream.rows).filter(|row| !stream.missing(*row)) {
        let values = stream.values(row)?;
        let valid = &values[..stream.len(row) * stream.dim];
        for one in &mut found {
            let own = || valid.iter().skip(one.feature).step_by(stream.dim);
            if own().any(|x| *x == one.value) {
                one.row = row;
            }
            if own().any(|x| far(one.feature, *x) > FAR) {
                one.count += 1;
                if one.rows.len() < NAMED {
                    one.rows.push(row);
                }
            }
        }
    }
    found.sort_by(|a, b| b.deviations.total_cmp(&a.deviations));
    Ok(found)
}

/// Numbers as ranges: `0, 3-7, 12`; the first few where there are many.
pub fn ranges(numbers: &[usize]) -> String {
    const MOST: usize = 6;
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => spans.push((n, n)),
        }
    }
    let shown = spans.iter().take(MOST).map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    if spans.len() > MOST { format!("{shown}, ...") } else { shown }
}

/// Which tensors of a safetensors file hold NaN or infinities, in words; none where the file cannot
/// be read or has none. Opening a data set stops at the first; this looks at them all.
pub fn not_numbers(path: &Path) -> Option<String> {
    let map = crate::files::map(path).ok()?;
    let tensors = SafeTensors::deserialize(&map).ok()?;
    let mut found = Vec::new();
    let named: BTreeMap<String, _> = tensors.tensors().into_iter().collect();
    for (name, view) in &named {
        if view.dtype() != Dtype::F32 {
            continue;
        }
        let dim = view.shape().get(1..).and_then(|s| s.last()).copied().unwrap_or(1).max(1);
        let (mut nan, mut infinite, mut columns) = (0usize, 0usize, Vec::new());
        for (at, x) in floats(view.data()).enumerate() {
            if x.is_finite() {
                continue;
            }
            *(if x.is_nan() { &mut nan } else { &mut infinite }) += 1;
            if !columns.contains(&(at % dim)) && columns.len() < 1000 {
                columns.push(at % dim);
            }
        }
        if nan + infinite > 0 {
            columns.sort_unstable();
            found.push(format!(
                "{name} has {nan} NaN and {infinite} infinities in feature {}",
                ranges(&columns)
            ));
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{TensorFile, small};
    use super::*;

    #[test]
    fn features_and_rows_that_say_nothing_are_named() {
        let frame = |a: f32| [a, 0.0, 7.5];
        let pad = [9.0; 3];
        let values = [frame(1.0), frame(2.0), [0.0; 3], pad, frame(3.0), frame(4.0)];
        let file = TensorFile::new()
            .f32("train.audio", &[3, 2, 3], values.concat())
            .i32("train.audio_lengths", &[3], &[2, 1, 2])
            .save();
        let survey = Survey::of(&Dataset::open(file.path()).unwrap()).unwrap();
        let audio = survey.stream(SplitName::Train, Modality::Audio).unwrap();
        // The empty row has 0 where others have 7.5, and padding does not count.
        assert_eq!((&audio.missing[..], &audio.constant[..]), (&[1][..], &[][..]));
        assert_eq!(audio.empty_rows, 1);
        let lengths = audio.lengths.unwrap();
        assert_eq!((lengths.min, lengths.median, lengths.max), (1, 2, 2));
        assert_eq!(audio.means, [1.5, 0.0, 7.5, 0.0, 0.0, 0.0, 3.5, 0.0, 7.5]);
    }

    #[test]
    fn features_with_values_far_off_are_named_with_their_rows() {
        let mut values: Vec<f32> =
            (0..900).map(|i| (i * 7919 % 601) as f32 / 300.0 - 1.0).collect();
        (values[30], values[31], values[601]) = (-3.4e38, 40.0, 1e6);
        let file = TensorFile::new().f32("train.audio", &[100, 3, 3], values).save();
        let survey = Survey::of(&Dataset::open(file.path()).unwrap()).unwrap();
        let found = &survey.streams[0].outliers;
        let told: Vec<_> =
            found.iter().map(|o| (o.feature, o.value, &o.rows[..], o.count)).collect();
        // 40 is 50 deviations off, which happens.
        assert_eq!(told, [(0, -3.4e38, &[3][..], 1), (1, 1e6, &[66][..], 1)]);
    }

    #[test]
    fn ranges_read_well() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges(&[1, 3, 5, 7, 9, 11, 13]), "1, 3, 5, 7, 9, 11, ...");
    }

    #[test]
    fn every_value_that_is_no_number_is_counted() {
        let mut audio: Vec<f32> = (0..60).map(|i| i as f32).collect();
        (audio[3], audio[8], audio[14]) = (f32::NAN, f32::INFINITY, f32::NAN);
        let file = small().f32("train.audio", &[3, 4, 5], audio).save();
        let words = not_numbers(file.path()).unwrap();
        assert_eq!(words, "train.audio has 2 NaN and 1 infinities in feature 3-4");
        assert_eq!(not_numbers(small().save().path()), None);
    }
}
