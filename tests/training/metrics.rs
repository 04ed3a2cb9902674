//! The field's scores against scikit-learn and scipy (tests/fixtures/golden_scores.py), on 1,000
//! random prediction sets in both conventions.

use crate::common;
use common::TensorFile;
use modalign::train::metrics::{Convention, Metrics, evaluate};

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
    let mosi: [fn(&Metrics) -> Option<f64>; 8] = [
        |m| Some(m.mae),
        |m| Some(m.corr),
        |m| m.acc7,
        |m| m.acc5,
        |m| m.acc2_has0,
        |m| m.f1_has0,
        |m| m.acc2_non0,
        |m| m.f1_non0,
    ];
    let sims: [fn(&Metrics) -> Option<f64>; 6] =
        [|m| Some(m.mae), |m| Some(m.corr), |m| m.acc2, |m| m.acc3, |m| m.acc5, |m| m.f1];
    for (name, convention, limit, scores) in [
        ("mosi", Convention::Mosi, 3.5, mosi.as_slice()),
        ("sims", Convention::Sims, 1.2, sims.as_slice()),
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
            for (score, wanted) in scores.iter().zip(wanted) {
                match score(&found) {
                    Some(found) => {
                        assert!((found - wanted).abs() < 1e-9, "{name} {i}: {found} {wanted}")
                    }
                    None => {
                        assert!(wanted.is_nan(), "{name} {i}: {wanted}");
                        absent += 1;
                    }
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 1000 * scores.len());
        // Sets of neutral truths alone come up, and are the only ones that lack a score.
        assert_eq!(absent > 0, name == "mosi", "{absent}");
    }
}
