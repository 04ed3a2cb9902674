//! Features that know labels they should not.
//!
//! Features made by a network that was trained on the labels of some of the rows give those rows'
//! labels away, and no others'. So the labels are predicted from the time means of one modality (by
//! ridge regression) and of one feature (by correlation), in each split by itself; an honest feature
//! does about as well in all of them. In-sample fits would differ by overfitting, so every
//! prediction is of rows that the regression has not seen: of other folds of the same split, or,
//! for valid and test, from the training rows. Folds keep the clips of a video together, since a
//! speaker's clips resemble each other in features and in labels.
//!
//! Two correlations are called different where they differ by `GAP` and by so many standard errors
//! of Fisher's z that chance, over all features looked at, would not do it.

use std::collections::HashMap;

use serde::Serialize;

use super::StreamSurvey;
use crate::data::groups::video;
use crate::data::ridge::{Normal, moments};
use crate::data::{Dataset, Modality, SplitName};

/// A modality or a feature that predicts the labels of some splits too well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suspicion {
    /// Whose.
    pub modality: Modality,
    /// A single feature; none where it is the modality as a whole.
    pub feature: Option<usize>,
    /// Splits whose labels it knows, with the correlation of its predictions.
    pub knows: Vec<(SplitName, f64)>,
    /// Splits whose labels it does not know. Empty where it is the label itself in all of them.
    pub not: Vec<(SplitName, f64)>,
}

impl std::fmt::Display for Suspicion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |splits: &[(SplitName, f64)]| {
            let each = splits.iter().map(|(name, r)| format!("{name} (r {r:.2})"));
            each.collect::<Vec<_>>().join(" and ")
        };
        let who = match self.feature {
            Some(k) => format!("feature {k} of {}", self.modality),
            None => self.modality.to_string(),
        };
        if self.not.is_empty() {
            return write!(
                f,
                "{who} is all but the label itself in {}; leave it out unless it will be known \
                 whenever the model is used",
                list(&self.knows)
            );
        }
        let harm = match self.knows.iter().any(|(name, _)| *name == SplitName::Test) {
            true => "figures on test would then be too good",
            false => "the model would then lean on it and fail on new data",
        };
        write!(
            f,
            "{who} alone predicts the labels of {} far better than those of {}: features made with \
             those labels look so, and {harm}; find out how it was extracted, or leave it out",
            list(&self.knows),
            list(&self.not)
        )
    }
}

/// Correlations differ by this at least.
const GAP: f64 = 0.3;
/// And by so many standard errors, for a modality (of three).
const SIGMA: f64 = 4.0;
/// The same for a feature, of which there are hundreds.
const SIGMA_FEATURE: f64 = 5.0;
/// What knows labels predicts them this well at least. (The rows of a split are fewer than they
/// seem, being of a few speakers: one of 95 honest features reaches 0.44 on the 3 speakers of
/// RAVDESS's validation split and 0 elsewhere.)
const KNOWS: f64 = 0.55;
/// A feature that correlates so with the labels is the label.
const IS_LABEL: f64 = 0.98;
/// Rows below which a split says nothing.
const FEWEST: usize = 30;
/// Rows of a split that are used; more would take long and tell no more.
const MOST: usize = 2048;
const FOLDS: usize = 5;
/// The ridge penalty as a share of the rows.
const PENALTY: f64 = 0.1;

/// More features than this are looked at one by one alone: a regression's equations are square in
/// them, and there are a dozen for each modality.
const WIDEST: usize = 1536;

/// A split's time means and labels, some of the rows where there are many.
struct Part {
    name: SplitName,
    x: Vec<f32>,
    y: Vec<f64>,
    /// The fold of each row.
    fold: Vec<usize>,
    dim: usize,
}

impl Part {
    fn of(data: &Dataset, survey: &StreamSurvey) -> Option<Part> {
        let split = data.split(survey.split)?;
        let (labels, dim) = (split.labels()?, survey.dim);
        if labels.len() < FEWEST {
            return None;
        }
        // Whole runs of neighbours, since those are often of one video.
        let share = labels.len().div_ceil(MOST);
        let kept: Vec<usize> =
            (0..labels.len()).filter(|row| (row / 16).is_multiple_of(share)).collect();
        let fold = folds(split.ids(), &kept);
        let means = |row: &usize| &survey.means[row * dim..][..dim];
        let x: Vec<f32> = kept.iter().flat_map(means).copied().collect();
        let y: Vec<f64> = kept.iter().map(|row| labels[*row].into()).collect();
        Some(Part { name: survey.split, x, y, fold, dim })
    }

    fn rows(&self) -> usize {
        self.y.len()
    }

    /// Rows standardised by some mean and deviation.
    fn standard(&self, mean: &[f64], std: &[f64]) -> Vec<f64> {
        let rows = self.x.chunks_exact(self.dim);
        rows.flat_map(|row| row.iter().zip(mean.iter().zip(std)))
            .map(|(&x, (m, s))| (f64::from(x) - m) / s)
            .collect()
    }

    /// How well its labels are predicted from its own other folds, and the normal equations.
    fn own(&self, x: &[f64]) -> (f64, Normal) {
        let mean = self.y.iter().sum::<f64>() / self.rows() as f64;
        let mut parts = vec![Normal::new(self.dim, 1); FOLDS];
        for (k, row) in x.chunks_exact(self.dim).enumerate() {
            parts[self.fold[k]].add(row, std::iter::once(self.y[k] - mean));
        }
        let all = parts[1..].iter().fold(parts[0].clone(), |sum, part| sum.plus(part, 1.0));
        let weights: Vec<Option<Vec<f64>>> = parts
            .iter()
            .map(|part| all.plus(part, -1.0).solve(PENALTY * self.rows() as f64))
            .collect();
        let guesses: Vec<f64> = x
            .chunks_exact(self.dim)
            .zip(&self.fold)
            .map(|(row, fold)| weights[*fold].as_ref().map_or(0.0, |w| dot(row, w)))
            .collect();
        (correlation(&guesses, &self.y), all)
    }
}

/// The fold of each of these rows. By turns, since rows may be sorted by their label; the clips of a video
/// go together where the ids name enough videos for that. Ids such as `clip_000` and `clip_001` look like
/// clips of a single video: with all rows in one fold nothing would be left to learn from, so that each row
/// then goes by itself.
fn folds(ids: Option<&[String]>, kept: &[usize]) -> Vec<usize> {
    let by_row = || (0..kept.len()).map(|at| at % FOLDS).collect();
    let named: Option<Vec<&str>> =
        kept.iter().map(|row| ids?.get(*row).map(|id| video(id))).collect();
    let Some(named) = named else { return by_row() };
    let mut groups = HashMap::new();
    let by_video: Vec<usize> = named
        .into_iter()
        .map(|name| {
            let next = groups.len();
            *groups.entry(name).or_insert(next) % FOLDS
        })
        .collect();
    let largest = (0..FOLDS).map(|fold| by_video.iter().filter(|f| **f == fold).count()).max();
    match groups.len() >= FOLDS && largest.is_some_and(|rows| 2 * rows <= kept.len()) {
        true => by_video,
        false => by_row(),
    }
}

/// What one source of evidence reaches in each split: the correlation, and the rows behind it.
type Scores = Vec<(SplitName, f64, usize)>;

/// Looks at every modality and every feature.
pub fn suspicions(data: &Dataset, streams: &[StreamSurvey]) -> Vec<Suspicion> {
    let one = |modality: Modality| {
        let own = streams.iter().filter(|s| s.modality == modality);
        let parts: Vec<Part> = own.filter_map(|s| Part::of(data, s)).collect();
        if parts.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        if parts[0].dim <= WIDEST {
            found.extend(judge(&whole(&parts), SIGMA, modality, None));
        } else {
            log::info!("{modality}: too wide for a regression on all features; each is looked at");
        }
        found.extend(features(&parts, modality));
        found
    };
    // A thread for each: wide features take seconds.
    std::thread::scope(|scope| {
        let one = &one;
        let all = data.modalities().into_iter();
        let all: Vec<_> = all.map(|m| (m, scope.spawn(move || one(m)))).collect();
        let each = all.into_iter().map(|(m, thread)| thread.join().unwrap_or_else(|_| one(m)));
        each.flatten().collect()
    })
}

/// The modality as a whole.
fn whole(parts: &[Part]) -> Scores {
    let train = parts.iter().find(|part| part.name == SplitName::Train).map(|part| {
        let (mean, std) = moments(&part.x, part.dim, part.rows());
        let (r, normal) = part.own(&part.standard(&mean, &std));
        (r, normal.solve(PENALTY * part.rows() as f64), mean, std)
    });
    let score = |part: &Part| {
        if let (SplitName::Train, Some((r, ..))) = (part.name, &train) {
            return *r;
        }
        let (mean, std) = moments(&part.x, part.dim, part.rows());
        let own = part.own(&part.standard(&mean, &std)).0;
        let Some((_, Some(weights), mean, std)) = &train else { return own };
        let x = part.standard(mean, std);
        let guesses: Vec<f64> = x.chunks_exact(part.dim).map(|row| dot(row, weights)).collect();
        own.max(correlation(&guesses, &part.y))
    };
    parts.iter().map(|part| (part.name, score(part), part.rows())).collect()
}

/// The features by themselves; the most telling ones where there are many.
fn features(parts: &[Part], modality: Modality) -> Vec<Suspicion> {
    const SHOWN: usize = 3;
    let dim = parts[0].dim;
    let mut found: Vec<Suspicion> = Vec::new();
    for k in 0..dim {
        let mut scores: Scores = parts
            .iter()
            .map(|part| {
                let column: Vec<f64> =
                    part.x.iter().skip(k).step_by(dim).map(|x| f64::from(*x)).collect();
                (part.name, correlation(&column, &part.y), part.rows())
            })
            .collect();
        // The sign that the strongest has is the one it should have everywhere.
        let strongest =
            scores.iter().map(|s| s.1).fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        scores.iter_mut().for_each(|s| s.1 *= strongest.signum());
        if scores.iter().all(|s| s.1 >= IS_LABEL) {
            let knows = scores.iter().map(|s| (s.0, s.1)).collect();
            found.push(Suspicion { modality, feature: Some(k), knows, not: Vec::new() });
        } else {
            found.extend(judge(&scores, SIGMA_FEATURE, modality, Some(k)));
        }
    }
    let best = |s: &Suspicion| s.knows.iter().map(|k| k.1).fold(0.0, f64::max);
    found.sort_by(|a, b| best(b).total_cmp(&best(a)));
    found.truncate(SHOWN);
    found
}

/// Whether some splits are known far better than others.
fn judge(
    scores: &Scores,
    sigma: f64,
    modality: Modality,
    feature: Option<usize>,
) -> Option<Suspicion> {
    // Perfect predictions would be infinitely many standard errors away.
    let z = |r: f64| r.clamp(-0.999, 0.999).atanh();
    let error = |n: usize| 1.0 / (n as f64 - 3.0);
    let better = |a: &(SplitName, f64, usize), b: &(SplitName, f64, usize)| {
        let deviation = (error(a.2) + error(b.2)).sqrt();
        a.1 >= KNOWS && a.1 - b.1.max(0.0) >= GAP && z(a.1) - z(b.1.max(0.0)) >= sigma * deviation
    };
    let worst: Vec<_> = scores.iter().filter(|b| scores.iter().any(|a| better(a, b))).collect();
    let knows: Vec<_> = scores
        .iter()
        .filter(|a| worst.iter().any(|b| better(a, b)) && !worst.iter().any(|b| b.0 == a.0))
        .map(|a| (a.0, a.1))
        .collect();
    let not = worst.into_iter().map(|b| (b.0, b.1)).collect::<Vec<_>>();
    (!knows.is_empty()).then_some(Suspicion { modality, feature, knows, not })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Pearson's correlation; 0 where one side does not vary.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().max(1) as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    let scale = (aa * bb).sqrt();
    if scale > 0.0 && scale.is_finite() { ab / scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::Survey;
    use super::*;
    use crate::data::testkit::TensorFile;
    use crate::rng::Rng;

    /// Three splits whose audio has 6 features of noise and hints of the label, vision 4 the same;
    /// `plant` changes the features of a split, given its labels.
    fn found(
        rows: [usize; 3],
        plant: impl Fn(SplitName, &[f32], &mut Vec<f32>, &mut Rng),
    ) -> Vec<Suspicion> {
        found_among(rows, None, plant)
    }

    /// The same with rows that are called so, by their number.
    fn found_among(
        rows: [usize; 3],
        id: Option<fn(usize) -> String>,
        plant: impl Fn(SplitName, &[f32], &mut Vec<f32>, &mut Rng),
    ) -> Vec<Suspicion> {
        let mut file = TensorFile::new();
        for (name, rows) in SplitName::ALL.into_iter().zip(rows) {
            let mut rng = Rng::keyed(&[7, name.index() as u64]);
            let labels: Vec<f32> =
                (0..rows).map(|_| (rng.normal() as f32).clamp(-3.0, 3.0)).collect();
            let mut audio = Vec::new();
            for label in &labels {
                audio.extend((0..6).map(|k| rng.normal() as f32 + 0.2 * k as f32 * label));
            }
            plant(name, &labels, &mut audio, &mut rng);
            file = file.f32(&format!("{name}.audio"), &[rows, 1, 6], audio).f32(
                &format!("{name}.regression_labels"),
                &[rows],
                labels,
            );
        }
        if let Some(id) = id {
            let ids = |n: usize| (0..n).map(id).collect::<Vec<_>>();
            let side = SplitName::ALL.into_iter().zip(rows).map(|(name, rows)| {
                (name.name().to_string(), serde_json::json!({ "id": ids(rows) }))
            });
            let side: serde_json::Map<_, _> = side.collect();
            file = file.side(&serde_json::Value::Object(side).to_string());
        }
        let saved = file.save();
        Survey::of(&Dataset::open(saved.path()).unwrap()).unwrap().suspicions
    }

    #[test]
    fn honest_features_raise_no_alarm() {
        for rows in [[600, 150, 200], [60, 20, 30], [2500, 400, 700], [40, 16, 16]] {
            assert_eq!(found(rows, |_, _, _, _| {}), [], "{rows:?}");
        }
    }

    /// Rows whose ids name one video, or hardly more than one, look as honest and as dishonest as others.
    #[test]
    fn ids_of_a_single_video_change_nothing() {
        let one: fn(usize) -> String = |row| format!("clip_{row:03}");
        let three: fn(usize) -> String = |row| format!("speaker{}_{row}", row % 3);
        let uneven: fn(usize) -> String = |row| match row % 20 {
            other @ 0..6 => format!("other{other}_{row}"),
            _ => format!("clip_{row}"),
        };
        let rows = [600, 150, 200];
        for id in [one, three, uneven] {
            assert_eq!(found_among(rows, Some(id), |_, _, _, _| {}), [], "{}", id(0));
            let planted = found_among(rows, Some(id), |name, labels, audio, rng| {
                for (row, label) in labels.iter().enumerate() {
                    let known = if name == SplitName::Test { *label } else { 0.0 };
                    let noise: Vec<f32> = (0..6).map(|_| rng.normal() as f32 * 1.5).collect();
                    (0..6).for_each(|k| {
                        audio[6 * row + k] = known + noise[k] - noise[(k + 1) % 6];
                    });
                }
            });
            let knows: Vec<_> = planted.iter().map(|s| s.knows[0].0).collect();
            assert_eq!(knows, [SplitName::Test], "{}", id(0));
        }
    }

    #[test]
    fn a_feature_that_knows_the_training_labels_is_named() {
        let found = found([600, 150, 200], |name, labels, audio, rng| {
            for (row, label) in labels.iter().enumerate() {
                let known = if name == SplitName::Train { *label } else { 0.0 };
                audio[6 * row] = 2.0 * known + rng.normal() as f32 * 0.5;
            }
        });
        let found: Vec<_> = found.into_iter().filter(|s| s.feature.is_some()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].feature, found[0].knows[0].0), (Some(0), SplitName::Train));
        assert_eq!(
            found[0].not.iter().map(|n| n.0).collect::<Vec<_>>(),
            [SplitName::Valid, SplitName::Test]
        );
        let words = found[0].to_string();
        assert!(words.contains("feature 0 of audio alone predicts the labels of train"), "{words}");
    }

    /// As the vectors that circulate with MOSI: spread over features, and of the test rows.
    #[test]
    fn a_modality_that_knows_the_test_labels_is_named() {
        let found = found([600, 150, 200], |name, labels, audio, rng| {
            for (row, label) in labels.iter().enumerate() {
                let known = if name == SplitName::Test { *label } else { 0.0 };
                let noise: Vec<f32> = (0..6).map(|_| rng.normal() as f32 * 1.5).collect();
                for k in 0..6 {
                    // Noise that cancels in the sum of all: none of them is much by itself.
                    audio[6 * row + k] = known + noise[k] - noise[(k + 1) % 6];
                }
            }
        });
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].feature, found[0].knows[0].0), (None, SplitName::Test));
        assert!(found[0].to_string().contains("figures on test would then be too good"));
    }

    #[test]
    fn train_and_valid_known_but_not_test() {
        let found = found([600, 150, 200], |name, labels, audio, rng| {
            for (row, label) in labels.iter().enumerate() {
                let known = if name == SplitName::Test { 0.0 } else { *label };
                (0..6).for_each(|k| audio[6 * row + k] = known + rng.normal() as f32);
            }
        });
        assert!(!found.is_empty());
        for suspicion in &found {
            let names = |list: &[(SplitName, f64)]| list.iter().map(|n| n.0).collect::<Vec<_>>();
            assert_eq!(names(&suspicion.knows), [SplitName::Train, SplitName::Valid]);
            assert_eq!(names(&suspicion.not), [SplitName::Test]);
        }
    }

    #[test]
    fn the_label_itself_is_named() {
        let found = found([200, 50, 60], |_, labels, audio, _| {
            labels.iter().enumerate().for_each(|(row, label)| audio[6 * row + 2] = -3.0 * label);
        });
        assert_eq!((found.len(), found[0].feature, found[0].not.len()), (1, Some(2), 0));
        assert!(found[0].to_string().contains("all but the label itself"));
    }
}
