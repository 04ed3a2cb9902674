//! Scores of predicted numbers, computed as MMSA computes them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whose way of scoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// MOSI and MOSEI: labels in [-3, 3]; errors on unclipped predictions.
    Mosi,
    /// CH-SIMS: labels in [-1, 1]; predictions are clipped before anything else.
    Sims,
}

/// Scores of one set of predictions, unrounded; shares are in 0..=1. A score that the convention
/// lacks, that has no rows to stand on, or whose targets are all alike, so that any constant would be right,
/// is `None` and is left out of JSON; nothing is ever NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NumberMetrics {
    /// Mean absolute error.
    #[serde(rename = "MAE")]
    pub mae: f64,
    /// Pearson correlation; 0 where the predictions are constant.
    #[serde(rename = "Corr", default, skip_serializing_if = "Option::is_none")]
    pub corr: Option<f64>,
    /// MOSI: clipped to [-3, 3] and rounded (half to even), share of equals.
    #[serde(rename = "Acc-7", default, skip_serializing_if = "Option::is_none")]
    pub acc7: Option<f64>,
    /// MOSI: as Acc-7 within [-2, 2]. SIMS: five bins with edges -0.7, -0.1, 0.1, 0.7.
    #[serde(rename = "Acc-5", default, skip_serializing_if = "Option::is_none")]
    pub acc5: Option<f64>,
    /// SIMS: three bins with edges -0.1, 0.1.
    #[serde(rename = "Acc-3", default, skip_serializing_if = "Option::is_none")]
    pub acc3: Option<f64>,
    /// SIMS: positive against the rest (0 counts as negative).
    #[serde(rename = "Acc-2", default, skip_serializing_if = "Option::is_none")]
    pub acc2: Option<f64>,
    /// SIMS: weighted F1 of the two bins of Acc-2.
    #[serde(rename = "F1", default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// MOSI: negative against non-negative, over all rows.
    #[serde(rename = "Acc-2 Has0", default, skip_serializing_if = "Option::is_none")]
    pub acc2_has0: Option<f64>,
    /// MOSI: weighted F1 of negative against non-negative, over all rows.
    #[serde(rename = "F1 Has0", default, skip_serializing_if = "Option::is_none")]
    pub f1_has0: Option<f64>,
    /// MOSI: not positive against positive, over the rows whose target is not 0.
    #[serde(rename = "Acc-2 Non0", default, skip_serializing_if = "Option::is_none")]
    pub acc2_non0: Option<f64>,
    /// MOSI: weighted F1 of Acc-2 Non0.
    #[serde(rename = "F1 Non0", default, skip_serializing_if = "Option::is_none")]
    pub f1_non0: Option<f64>,
}

impl NumberMetrics {
    /// Names and values in the order of a file; absent scores are left out.
    pub fn entries(&self) -> Vec<(&'static str, f64)> {
        let values = [
            ("MAE", Some(self.mae)),
            ("Corr", self.corr),
            ("Acc-7", self.acc7),
            ("Acc-5", self.acc5),
            ("Acc-3", self.acc3),
            ("Acc-2", self.acc2),
            ("F1", self.f1),
            ("Acc-2 Has0", self.acc2_has0),
            ("F1 Has0", self.f1_has0),
            ("Acc-2 Non0", self.acc2_non0),
            ("F1 Non0", self.f1_non0),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// The scores of a convention that these targets cannot tell good from bad by.
pub fn undefined(truth: &[f32], convention: Convention) -> Vec<&'static str> {
    // A guess that is right everywhere has all scores that there can be.
    let Ok(there) = evaluate(truth, truth, convention) else { return Vec::new() };
    let there = there.entries();
    let all: &[&'static str] = match convention {
        Convention::Mosi => {
            &["Corr", "Acc-7", "Acc-5", "Acc-2 Has0", "F1 Has0", "Acc-2 Non0", "F1 Non0"]
        }
        Convention::Sims => &["Corr", "Acc-5", "Acc-3", "Acc-2", "F1"],
    };
    all.iter().copied().filter(|name| there.iter().all(|(own, _)| own != name)).collect()
}

/// The same in a sentence; nothing where all scores say something. `of` says whose targets they are.
pub fn left_out(truth: &[f32], convention: Convention, of: &str) -> Option<String> {
    let lacking = undefined(truth, convention);
    let why = match (truth.iter().any(|t| *t < 0.0), truth.iter().any(|t| *t > 0.0)) {
        _ if lacking.contains(&"Corr") => "its labels are all the same",
        (false, _) => "no label is negative",
        (_, false) => "no label is positive",
        _ => "all labels that it counts are of one class",
    };
    let names = lacking.join(", ");
    (!lacking.is_empty())
        .then(|| format!("{of}: {why}: {names} would say nothing and are left out"))
}

/// Scores `pred` against `truth` (one value per row, in label units).
///
/// # Errors
/// [`Error::Shape`] when the two differ in length or are empty, or when a value is not finite
/// (which in predictions means that training has diverged).
pub fn evaluate(pred: &[f32], truth: &[f32], convention: Convention) -> Result<NumberMetrics> {
    check(pred, truth)?;
    Ok(match convention {
        Convention::Mosi => mosi(pred, truth),
        Convention::Sims => sims(pred, truth),
    })
}

fn check(pred: &[f32], truth: &[f32]) -> Result<()> {
    if pred.len() != truth.len() || pred.is_empty() {
        let detail = format!("{} predictions for {} targets", pred.len(), truth.len());
        return Err(Error::shape("metrics", detail));
    }
    for (name, values, advice) in [
        ("prediction", pred, "training has diverged, so lower the learning rate"),
        ("target", truth, "mend the labels"),
    ] {
        if let Some(row) = values.iter().position(|x| !x.is_finite()) {
            let detail = format!("{name} {row} is {}; {advice}", values[row]);
            return Err(Error::shape("metrics", detail));
        }
    }
    Ok(())
}

/// The names of a convention's finest classes: the seven of Acc-7, or CH-SIMS's five of Acc-5.
pub fn classes(convention: Convention) -> &'static [&'static str] {
    match convention {
        Convention::Mosi => &["−3", "−2", "−1", "0", "1", "2", "3"],
        Convention::Sims => &["≤ −0.7", "≤ −0.1", "≤ 0.1", "≤ 0.7", "> 0.7"],
    }
}

/// Which of [`classes`] a value falls in.
pub fn class(value: f32, convention: Convention) -> usize {
    match convention {
        Convention::Mosi => (value.clamp(-3.0, 3.0).round_ties_even() + 3.0) as usize,
        Convention::Sims => bin(clipped(value, convention), &FIVE),
    }
}

/// A value as errors see it: CH-SIMS clips everything to [-1, 1] first.
pub fn clipped(value: f32, convention: Convention) -> f32 {
    match convention {
        Convention::Mosi => value,
        Convention::Sims => value.clamp(-1.0, 1.0),
    }
}

/// Edges of CH-SIMS's five bins.
const FIVE: [f32; 4] = [-0.7, -0.1, 0.1, 0.7];

/// Bins are open on the left and closed on the right: the bin is the number of edges below x.
/// Edges are f32 because numpy compares an f32 array with them in f32.
fn bin(x: f32, edges: &[f32]) -> usize {
    edges.iter().filter(|&&edge| x > edge).count()
}

fn mosi(pred: &[f32], truth: &[f32]) -> NumberMetrics {
    let rounded = |limit: f32| {
        let class = move |&x: &f32| x.clamp(-limit, limit).round_ties_even() as i32;
        accuracy(pred.iter().map(class), truth.iter().map(class))
    };
    let classes = |keep: fn(f32) -> bool, positive: fn(f32) -> bool| -> Vec<(bool, bool)> {
        let pairs = pred.iter().zip(truth).filter(|(_, t)| keep(**t));
        pairs.map(|(&p, &t)| (positive(p), positive(t))).collect()
    };
    let has0 = classes(|_| true, |x| x >= 0.0);
    let non0 = classes(|t| t != 0.0, |x| x > 0.0);
    NumberMetrics {
        acc7: rounded(3.0),
        acc5: rounded(2.0),
        acc2_has0: pair_accuracy(&has0),
        f1_has0: weighted_f1(&has0),
        acc2_non0: pair_accuracy(&non0),
        f1_non0: weighted_f1(&non0),
        ..errors(pred, truth)
    }
}

fn sims(pred: &[f32], truth: &[f32]) -> NumberMetrics {
    let clip = |values: &[f32]| -> Vec<f32> {
        values.iter().map(|x| clipped(*x, Convention::Sims)).collect()
    };
    let (pred, truth) = (clip(pred), clip(truth));
    let binned = |edges: &[f32]| {
        accuracy(pred.iter().map(|x| bin(*x, edges)), truth.iter().map(|x| bin(*x, edges)))
    };
    let pairs: Vec<_> = pred.iter().zip(&truth).map(|(&p, &t)| (p > 0.0, t > 0.0)).collect();
    NumberMetrics {
        acc2: pair_accuracy(&pairs),
        acc3: binned(&[-0.1, 0.1]),
        acc5: binned(&FIVE),
        f1: weighted_f1(&pairs),
        ..errors(&pred, &truth)
    }
}

/// MAE and Corr, and no other score.
fn errors(pred: &[f32], truth: &[f32]) -> NumberMetrics {
    let pairs = || pred.iter().zip(truth).map(|(&p, &t)| (f64::from(p), f64::from(t)));
    let mae = pairs().map(|(p, t)| (p - t).abs()).sum::<f64>() / pred.len() as f64;
    NumberMetrics {
        mae,
        corr: pearson(pred, truth),
        acc7: None,
        acc5: None,
        acc3: None,
        acc2: None,
        f1: None,
        acc2_has0: None,
        f1_has0: None,
        acc2_non0: None,
        f1_non0: None,
    }
}

/// The correlation of predictions `a` and targets `b`.
fn pearson(a: &[f32], b: &[f32]) -> Option<f64> {
    // Compared as they are: the mean of equal values may round to something else.
    let constant = |x: &[f32]| x.iter().all(|v| *v == x[0]);
    if constant(b) {
        return None;
    }
    if constant(a) {
        return Some(0.0);
    }
    let mean = |x: &[f32]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x) - mean_a, f64::from(y) - mean_b);
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    let scale = aa.sqrt() * bb.sqrt();
    Some(if scale > 0.0 { (ab / scale).clamp(-1.0, 1.0) } else { 0.0 })
}

/// `None` without rows, and where the targets are all of one class.
fn accuracy<T: PartialEq>(
    pred: impl ExactSizeIterator<Item = T>,
    truth: impl Iterator<Item = T> + Clone,
) -> Option<f64> {
    let rows = pred.len();
    let mut others = truth.clone();
    let first = others.next()?;
    if others.all(|t| t == first) {
        return None;
    }
    let right = pred.zip(truth).filter(|(p, t)| p == t).count();
    Some(right as f64 / rows as f64)
}

fn pair_accuracy(pairs: &[(bool, bool)]) -> Option<f64> {
    accuracy(pairs.iter().map(|(p, _)| p), pairs.iter().map(|(_, t)| t))
}

/// F1 of each class, averaged with the classes' shares among the targets; pairs are
/// (prediction, target). `None` without rows, and where the targets are all of one class.
fn weighted_f1(pairs: &[(bool, bool)]) -> Option<f64> {
    let count = |p, t| pairs.iter().filter(|pair| **pair == (p, t)).count() as f64;
    let rows = pairs.len() as f64;
    let f1 = |class: bool| {
        let hit = count(class, class);
        let (false_alarm, missed) = (count(class, !class), count(!class, class));
        let support = hit + missed;
        let total = 2.0 * hit + false_alarm + missed;
        // A class that neither side has contributes nothing.
        if total > 0.0 { support / rows * (2.0 * hit / total) } else { 0.0 }
    };
    let both = pairs.iter().any(|(_, t)| *t) && pairs.iter().any(|(_, t)| !*t);
    both.then(|| f1(false) + f1(true))
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    const PRED: [f32; 8] = [-2.6, -0.4, 0.0, 0.2, 0.5, 1.5, 2.5, -0.1];
    const TRUTH: [f32; 8] = [-3.0, 0.2, 0.0, -0.2, 1.0, 1.6, 2.4, 0.0];

    fn near(found: Option<f64>, wanted: f64) {
        assert_relative_eq!(found.unwrap(), wanted, epsilon = 1e-9);
    }

    #[test]
    fn golden_values_of_the_reference() {
        let m = evaluate(&PRED, &TRUTH, Convention::Mosi).unwrap();
        assert_relative_eq!(m.mae, 0.275, epsilon = 1e-7);
        assert_relative_eq!(m.corr.unwrap(), 0.9745219855, epsilon = 1e-7);
        near(m.acc7, 0.875);
        near(m.acc5, 0.875);
        near(m.acc2_has0, 0.625);
        assert_relative_eq!(m.f1_has0.unwrap(), 0.6454545455, epsilon = 1e-9);
        near(m.acc2_non0, 4.0 / 6.0);
        near(m.f1_non0, 4.0 / 6.0);
        assert!(m.acc2.is_none() && m.acc3.is_none() && m.f1.is_none());
    }

    #[test]
    fn halves_round_to_even() {
        // 0.5 and -0.5 go to 0, 1.5 to 2, 2.5 to 2.
        let m = evaluate(&[0.5, -0.5, 1.5, 2.5], &[0.0, 0.0, 2.0, 2.0], Convention::Mosi).unwrap();
        near(m.acc7, 1.0);
        let m = evaluate(&[9.0, 2.6, -7.0], &[3.0, 2.0, -2.0], Convention::Mosi).unwrap();
        near(m.acc7, 1.0 / 3.0);
        near(m.acc5, 1.0);
        assert_relative_eq!(m.mae, (6.0 + 0.6 + 5.0) / 3.0, epsilon = 1e-7);
    }

    #[test]
    fn classes_are_those_of_the_scores() {
        for (convention, score) in [(Convention::Mosi, "Acc-7"), (Convention::Sims, "Acc-5")] {
            let of =
                |values: &[f32]| values.iter().map(|x| class(*x, convention)).collect::<Vec<_>>();
            let (p, t) = (of(&PRED), of(&TRUTH));
            assert!(p.iter().chain(&t).all(|c| *c < classes(convention).len()));
            let equal = p.iter().zip(&t).filter(|(p, t)| p == t).count() as f64 / 8.0;
            let all = evaluate(&PRED, &TRUTH, convention).unwrap().entries();
            assert_eq!(all.iter().find(|e| e.0 == score).unwrap().1, equal);
        }
    }

    #[test]
    fn sims_bins_and_clipping() {
        let truth = [-1.0, -0.8, -0.2, 0.0, 0.2, 0.8, 0.1, -0.1];
        let pred = [-3.0, -0.7, -0.1, 0.05, 0.0, 5.0, 0.1, -0.1];
        let m = evaluate(&pred, &truth, Convention::Sims).unwrap();
        // The first error is clipped away; |0.8 - 1.0| stays 0.2.
        assert_relative_eq!(
            m.mae,
            (0.0 + 0.1 + 0.1 + 0.05 + 0.2 + 0.2 + 0.0 + 0.0) / 8.0,
            epsilon = 1e-7
        );
        // 0.05 is positive where 0 counts as negative; 0 is not positive where 0.2 is.
        near(m.acc2, 6.0 / 8.0);
        // Classes: truth has 5 negative, 3 positive; each side is wrong once.
        near(m.f1, 5.0 / 8.0 * 0.8 + 3.0 / 8.0 * (4.0 / 6.0));
        // Closed on the right: -0.7 and -0.1 fall in the lower bin, 0.1 in the middle one.
        near(m.acc3, 7.0 / 8.0);
        near(m.acc5, 7.0 / 8.0);
        let names: Vec<_> = m.entries().iter().map(|e| e.0).collect();
        assert_eq!(names, ["MAE", "Corr", "Acc-5", "Acc-3", "Acc-2", "F1"]);
    }

    #[test]
    fn constant_values_correlate_with_nothing() {
        for value in [0.0, 0.1, 1.0e-30, 2.7] {
            let m = evaluate(&[value; 8], &TRUTH, Convention::Mosi).unwrap();
            assert_eq!(m.corr, Some(0.0));
            assert_eq!(evaluate(&TRUTH, &[0.1; 8], Convention::Sims).unwrap().corr, None);
        }
    }

    #[test]
    fn only_neutral_targets_leave_no_rows() {
        let m = evaluate(&[0.5, -0.5], &[0.0, 0.0], Convention::Mosi).unwrap();
        assert_eq!((m.acc2_non0, m.f1_non0), (None, None));
        assert_eq!((m.acc2_has0, m.corr), (None, None));
        let json = serde_json::to_string(&m).unwrap();
        assert!(!json.contains("null") && !json.contains("Non0"), "{json}");
        assert_eq!(serde_json::from_str::<NumberMetrics>(&json).unwrap(), m);
    }

    #[test]
    fn names_and_order_for_tables() {
        let m = evaluate(&PRED, &TRUTH, Convention::Mosi).unwrap();
        let names: Vec<_> = m.entries().iter().map(|e| e.0).collect();
        let wanted =
            ["MAE", "Corr", "Acc-7", "Acc-5", "Acc-2 Has0", "F1 Has0", "Acc-2 Non0", "F1 Non0"];
        assert_eq!(names, wanted);
        let json = serde_json::to_value(m).unwrap();
        assert!(wanted.iter().all(|name| json[name].is_f64()));
    }

    /// What no model can be told by is no score: labels of one sign, of one class, all alike.
    #[test]
    fn scores_that_say_nothing_are_left_out_and_named() {
        let names = |truth: &[f32], convention| -> Vec<&str> {
            let said = vec![0.25; truth.len()];
            evaluate(&said, truth, convention).unwrap().entries().iter().map(|e| e.0).collect()
        };
        let (mosi, sims) = (Convention::Mosi, Convention::Sims);
        let whole = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(names(&whole, mosi), ["MAE", "Corr", "Acc-7", "Acc-5"]);
        let said = left_out(&whole, mosi, "test").unwrap();
        assert!(said.starts_with("test: no label is negative: Acc-2 Has0, F1 Has0,"), "{said}");
        assert_eq!(names(&[0.25, 0.25], mosi), ["MAE"]);
        assert!(left_out(&[0.25, 0.25], mosi, "valid").unwrap().contains("all the same"));
        assert_eq!(names(&[0.2, 0.4, 0.9], sims), ["MAE", "Corr", "Acc-5"]);
        assert_eq!(left_out(&TRUTH, mosi, "test"), None);
    }

    #[test]
    fn bad_input_is_an_error() {
        let error =
            |p: &[f32], t: &[f32]| evaluate(p, t, Convention::Mosi).unwrap_err().to_string();
        assert!(error(&[1.0], &[]).contains("1 predictions for 0 targets"));
        assert!(error(&[], &[]).contains("0 predictions"));
        assert!(error(&[1.0, f32::NAN], &[0.0, 0.0]).contains("prediction 1 is NaN"));
        assert!(error(&[1.0], &[f32::INFINITY]).contains("target 0 is inf"));
    }
}
