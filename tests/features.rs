//! Acoustic features: against librosa (tests/fixtures/make_features.py), whatever the blocks; what
//! becomes of bad files; and from recordings to a trained model by the command line.

use modalign::features::{COLUMNS, Extractor, Features, Memory, RATE, Recording};
use safetensors::SafeTensors;
use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

mod common;
use common::gpu;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tensor of the reference.
fn golden(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture("features.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
}

/// The signals of the reference, by its formulas.
fn signal(name: &str) -> Vec<f32> {
    let second = || (0..RATE).map(|n| f64::from(n) / f64::from(RATE));
    match name {
        "chord" => second()
            .map(|t| {
                let tone =
                    |hz: f64| (TAU * hz * 2_f64.powf(0.15 / 12.0) * t).sin();
                let sum: f64 = [261.6255653, 329.6275569, 391.995436].map(tone).iter().sum();
                (sum * 0.2 * (-2.0 * t).exp()) as f32
            })
            .collect(),
        "chirp" => {
            let rate = 80_f64.ln();
            second().map(|t| (0.5 * (TAU * 100.0 * (rate * t).exp_m1() / rate).sin()) as f32).collect()
        }
        "note" => (0..700)
            .map(f64::from)
            .map(|n| {
                let tone = (TAU * 700.0 * n / f64::from(RATE)).sin();
                (0.9 * tone * (TAU / 2.0 * n / 700.0).sin().powi(2)) as f32
            })
            .collect(),
        "silence" => vec![0.0; 3000],
        other => panic!("no signal {other}"),
    }
}

fn of_samples(extractor: &mut Extractor, samples: &[f32]) -> Features {
    extractor.extract(&mut Memory::new(samples)).unwrap()
}

/// The largest differences of the zero-crossing rate, the MFCC (absolute, and relative to the
/// largest of the recording) and the chroma.
fn differences(got: &[f32], want: &[f32]) -> [f32; 4] {
    assert_eq!(got.len(), want.len());
    let largest = |columns: std::ops::Range<usize>| {
        let off = got.iter().zip(want).enumerate().filter(|(i, _)| columns.contains(&(i % COLUMNS)));
        off.map(|(_, (g, w))| if g.is_nan() { f32::INFINITY } else { (g - w).abs() }).fold(0.0, f32::max)
    };
    let scale = want
        .chunks_exact(COLUMNS)
        .flat_map(|row| &row[1..21])
        .fold(1e-9_f32, |most, v| most.max(v.abs()));
    [largest(0..1), largest(1..21), largest(1..21) / scale, largest(21..33)]
}

#[test]
fn features_are_those_of_the_reference() {
    let gpu = gpu();
    let mut extractor = Extractor::new(gpu);
    let mut failed = Vec::new();
    for name in ["chord", "chirp", "note", "silence", "speech"] {
        let got = match name {
            "speech" => {
                extractor.extract(&mut Recording::open(fixture("speech.wav")).unwrap()).unwrap()
            }
            name => of_samples(&mut extractor, &signal(name)),
        };
        let off = differences(&got.values, &golden(name));
        let tuning = (got.tuning, golden(&format!("{name}.tuning"))[0]);
        println!("{name}: {off:?}, tuning {tuning:?}");
        if off[0] > 0.0 || off[1] > 2e-2 || off[2] > 1e-3 || off[3] > 1e-3 {
            failed.push(name);
        }
        assert!((tuning.0 - f64::from(tuning.1)).abs() < 1e-6, "{name}: {tuning:?}");
    }
    assert!(failed.is_empty(), "{failed:?}");
}
