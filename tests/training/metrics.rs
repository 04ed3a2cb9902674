//! The field's scores against scikit-learn and scipy (tests/fixtures/golden_scores.py), on 1,000
//! random prediction sets in both conventions.

use crate::common;
use common::TensorFile;
use modalign::train::metrics::{Confusion, Convention, NumberMetrics, evaluate, label, undefined};

/// The script's generator.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 40
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The script's set of this number: predictions and truths.
fn made(index: u64, limit: f32) -> (Vec<f32>, Vec<f32>) {
    let mut draw = Draw(index + 1);
    let rows = 1 + draw.below(60);
    let steps = if index.is_multiple_of(10) { 2 } else { 30 };
    let one = |_| {
        let grid = |draw: &mut Draw| draw.below(2 * steps + 1) as f32 / steps as f32 - 1.0;
        let t = grid(&mut draw);
        let p = match draw.below(4) {
            0 => grid(&mut draw),
            1 => draw.below(15) as f32 / 6.0 - 1.0,
            _ => t + (draw.next() as f32 / (1 << 24) as f32 - 0.5),
        };
        (p * limit, t * limit)
    };
    (0..rows).map(one).unzip()
}

#[test]
fn a_thousand_random_sets_score_as_scikit_learn_has_them() {
    let golden = TensorFile::fixture("golden_scores.safetensors");
    let mosi: [fn(&NumberMetrics) -> Option<f64>; 8] = [
        |m| Some(m.mae),
        |m| m.corr,
        |m| m.acc7,
        |m| m.acc5,
        |m| m.acc2_has0,
        |m| m.f1_has0,
        |m| m.acc2_non0,
        |m| m.f1_non0,
    ];
    let sims: [fn(&NumberMetrics) -> Option<f64>; 6] =
        [|m| Some(m.mae), |m| m.corr, |m| m.acc2, |m| m.acc3, |m| m.acc5, |m| m.f1];
    let seven = ["MAE", "Corr", "Acc-7", "Acc-5", "Acc-2 Has0", "F1 Has0", "Acc-2 Non0", "F1 Non0"];
    let five = ["MAE", "Corr", "Acc-2", "Acc-3", "Acc-5", "F1"];
    for (name, convention, limit, scores, names) in [
        ("mosi", Convention::Mosi, 3.5, mosi.as_slice(), seven.as_slice()),
        ("sims", Convention::Sims, 1.2, sims.as_slice(), five.as_slice()),
    ] {
        let tensor = golden.get(name);
        assert_eq!(tensor.shape, [1000, scores.len()]);
        let wanted =
            tensor.bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        let wanted: Vec<f64> = wanted.collect();
        let (mut compared, mut absent) = (0, 0);
        for (i, wanted) in wanted.chunks_exact(scores.len()).enumerate() {
            let (pred, truth) = made(i as u64, limit);
            let found = evaluate(&pred, &truth, convention).unwrap();
            for (at, (score, wanted)) in scores.iter().zip(wanted).enumerate() {
                match score(&found) {
                    Some(found) => {
                        assert!((found - wanted).abs() < 1e-9, "{name} {i}: {found} {wanted}")
                    }
                    None => {
                        // What scikit-learn counts all the same, and says nothing since any constant is right.
                        let one = names[at];
                        let said = wanted.is_nan() || undefined(&truth, convention).contains(&one);
                        assert!(said, "{name} {i} {one}: {wanted}");
                        absent += 1;
                    }
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 1000 * scores.len());
        // Sets of one class come up, and few of them.
        assert!(absent > 0 && absent < compared / 10, "{absent}");
    }
}

/// The generator of golden_class_metrics.py.
struct Upper(u64);

impl Upper {
    fn below(&mut self, n: u64) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n) as usize
    }
}

/// Classes, truth and prediction of that script's set of this number.
fn classes(seed: u64) -> (usize, Vec<usize>, Vec<usize>) {
    let mut draw = Upper(seed);
    let (count, rows, luck) = (2 + draw.below(8), 1 + draw.below(60), draw.below(4));
    let truth: Vec<usize> = (0..rows).map(|_| draw.below(count as u64)).collect();
    let mut guess = |t: &usize| if draw.below(4) < luck { *t } else { draw.below(count as u64) };
    let said = truth.iter().map(&mut guess).collect();
    (count, truth, said)
}

/// Truth and prediction by row and label.
fn labels(seed: u64) -> [Vec<Vec<bool>>; 2] {
    let mut draw = Upper(seed ^ 0x5DEE_CE66D);
    let (count, rows, share) = (1 + draw.below(7), 1 + draw.below(60), 1 + draw.below(9));
    let truth: Vec<Vec<bool>> =
        (0..rows).map(|_| (0..count).map(|_| draw.below(10) < share).collect()).collect();
    let mut guess = |t: &bool| if draw.below(3) > 0 { *t } else { draw.below(2) == 1 };
    let said = truth.iter().map(|row| row.iter().map(&mut guess).collect()).collect();
    [truth, said]
}

fn doubles(file: &TensorFile, name: &str) -> Vec<f64> {
    let bytes = &file.get(name).bytes;
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
}

#[test]
fn classes_and_labels_are_scored_as_scikit_learn_scores_them() {
    let file = TensorFile::fixture("golden_class_metrics.safetensors");
    let near = |what: &str, got: f64, want: f64| {
        assert!((got - want).abs() < 1e-12, "{what}: {got}, scikit-learn has {want}");
    };
    for (seed, want) in doubles(&file, "classes").chunks_exact(4).enumerate() {
        let (count, truth, said) = classes(seed as u64);
        let m = Confusion::of(&said, &truth, count).expect("classes").metrics();
        let got = [m.accuracy, m.balanced_accuracy, m.f1_macro, m.f1_weighted];
        for (i, name) in ["accuracy", "balanced", "macro", "weighted"].iter().enumerate() {
            near(&format!("set {seed}, {name}"), got[i], want[i]);
        }
    }
    for (seed, want) in doubles(&file, "labels").chunks_exact(3).enumerate() {
        let [truth, said] = labels(seed as u64);
        let count = truth[0].len();
        let column = |rows: &[Vec<bool>], k: usize| rows.iter().map(|r| r[k]).collect::<Vec<_>>();
        let each =
            (0..count).map(|k| label(&column(&said, k), &column(&truth, k)).expect("labels"));
        let mut sums = [0.0; 3];
        for m in each {
            for (sum, value) in sums.iter_mut().zip([m.f1, m.weighted_accuracy, m.accuracy]) {
                *sum += value / count as f64;
            }
        }
        for (i, name) in ["F1", "weighted accuracy", "accuracy"].iter().enumerate() {
            near(&format!("labels {seed}, {name}"), sums[i], want[i]);
        }
    }
}
