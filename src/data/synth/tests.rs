//! Tests of the generator: the file is sound, and its factors are where they should be.

use super::super::testkit::{Saved, save_bytes};
use super::super::{Dataset, Split};
use super::*;
use crate::train::probe::probe;

fn made(config: &SynthConfig) -> (Dataset, Saved) {
    let file = save_bytes(&generate(config).unwrap());
    (Dataset::open(file.path()).unwrap(), file)
}

/// Per row: the mean over the valid steps, then the deviation over them.
fn summary(split: &Split, modality: Modality) -> (Vec<f32>, usize) {
    let stream = split.stream(modality).unwrap();
    let mut out = Vec::new();
    for row in 0..stream.rows {
        let n = stream.len(row) as f32;
        let frames: Vec<Vec<f32>> =
            (0..stream.len(row)).map(|t| stream.frame(row, t).collect()).collect();
        let mean: Vec<f32> =
            (0..stream.dim).map(|d| frames.iter().map(|f| f[d]).sum::<f32>() / n).collect();
        let std = (0..stream.dim)
            .map(|d| (frames.iter().map(|f| (f[d] - mean[d]).powi(2)).sum::<f32>() / n).sqrt());
        let std: Vec<f32> = std.collect();
        out.extend(mean);
        out.extend(std);
    }
    (out, 2 * stream.dim)
}

fn read(data: &Dataset, modality: Modality, factor: &str) -> f64 {
    let [train, test] = [SplitName::Train, SplitName::Test].map(|s| data.split(s).unwrap());
    let ((x, dim), (x_test, _)) = (summary(train, modality), summary(test, modality));
    let ((y, k), (y_test, _)) = (train.factor(factor).unwrap(), test.factor(factor).unwrap());
    probe(&x, dim, &y, k, &x_test, &y_test, 1.0).unwrap()
}

#[test]
fn the_default_set_is_sound() {
    let config = SynthConfig::default();
    let (data, _file) = made(&config);
    let rows: Vec<usize> = data.splits().map(Split::rows).collect();
    assert_eq!(rows, [768, 192, 256]);
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.factor_names(), ["audio", "shared", "text", "vision"]);
    for (modality, shape) in Modality::KNOWN.into_iter().zip([(1, 32), (24, 8), (16, 12)]) {
        let stream = train.stream(modality).unwrap();
        assert_eq!((stream.steps, stream.dim), shape);
        assert_eq!(stream.has_lengths(), shape.0 > 1);
        let lengths: Vec<usize> = (0..stream.rows).map(|r| stream.len(r)).collect();
        let config = config.stream(modality);
        assert_eq!(lengths.iter().min(), Some(&config.min_steps));
        assert_eq!(lengths.iter().max(), Some(&config.steps));
    }
    let labels = train.labels().unwrap();
    let zeros = labels.iter().filter(|&&y| y == 0.0).count();
    assert_eq!(zeros, 38, "5 % of 768");
    let square = labels.iter().map(|y| y * y).sum::<f32>() / labels.len() as f32;
    assert!((1.2..1.6).contains(&square.sqrt()), "{}", square.sqrt());
}

#[test]
fn each_modality_shows_its_own_factors_and_no_other() {
    let (data, _file) = made(&SynthConfig::default());
    for modality in Modality::KNOWN {
        for factor in ["shared", "text", "audio", "vision"] {
            let r2 = read(&data, modality, factor);
            println!("{factor} from {modality}: {r2:.3}");
            if factor == "shared" || factor == modality.name() {
                assert!(r2 > 0.6, "{factor} from {modality}: {r2}");
            } else {
                assert!(r2 < 0.1, "{factor} from {modality}: {r2}");
            }
        }
    }
}

#[test]
fn a_single_frame_says_little() {
    let (data, _file) = made(&SynthConfig::default());
    let [train, test] = [SplitName::Train, SplitName::Test].map(|s| data.split(s).unwrap());
    for modality in [Modality::Audio, Modality::Vision] {
        let last = |split: &Split| -> (Vec<f32>, usize) {
            let s = split.stream(modality).unwrap();
            ((0..s.rows).flat_map(|r| s.frame(r, s.len(r) - 1)).collect(), s.dim)
        };
        let ((x, dim), (x_test, _)) = (last(train), last(test));
        let ((y, k), (y_test, _)) =
            (train.factor("shared").unwrap(), test.factor("shared").unwrap());
        let one = probe(&x, dim, &y, k, &x_test, &y_test, 1.0).unwrap();
        let all = read(&data, modality, "shared");
        println!("shared from {modality}: last frame {one:.3}, whole sequence {all:.3}");
        assert!(one < 0.5 * all, "{modality}: {one} against {all}");
    }
}

#[test]
fn the_label_is_made_of_the_factors() {
    let config = SynthConfig { zero_share: 0.0, label_scale: 0.5, ..SynthConfig::default() };
    let (data, _file) = made(&config);
    let score = |names: &[&str]| {
        let [train, test] = [SplitName::Train, SplitName::Test].map(|s| data.split(s).unwrap());
        let join = |split: &Split| -> Vec<f32> {
            let all: Vec<_> = names.iter().map(|n| split.factor(n).unwrap()).collect();
            (0..split.rows())
                .flat_map(|r| all.iter().flat_map(move |(v, k)| v[r * k..][..*k].to_vec()))
                .collect()
        };
        let dim = 4 * names.len();
        let y = |split: &Split| split.labels().unwrap().to_vec();
        probe(&join(train), dim, &y(train), 1, &join(test), &y(test), 0.0).unwrap()
    };
    assert!(score(&["shared", "text", "audio", "vision"]) > 0.999);
    // Weights 1, 0.6, 0.5, 0.4: the shared part is 1 / 1.77 of the variance.
    let shared = score(&["shared"]);
    assert!((0.4..0.7).contains(&shared), "{shared}");
}

#[test]
fn the_same_settings_give_the_same_bytes() {
    let config = SynthConfig { train: 20, valid: 0, test: 5, ..SynthConfig::default() };
    let bytes = generate(&config).unwrap();
    assert_eq!(bytes, generate(&config).unwrap());
    assert_ne!(bytes, generate(&SynthConfig { seed: 2, ..config.clone() }).unwrap());
    let (data, _file) = made(&config);
    assert!(data.split(SplitName::Valid).is_none());
    let text = data.metadata("synthetic").unwrap();
    assert_eq!(serde_json::from_str::<SynthConfig>(text).unwrap(), config);
}

#[test]
fn leaving_a_modality_out_keeps_the_others_as_they_were() {
    let all = SynthConfig { train: 12, valid: 0, test: 0, ..SynthConfig::default() };
    let mut two = SynthConfig { modalities: vec![Modality::Audio, Modality::Text], ..all.clone() };
    two.vision.dim = usize::MAX;
    let ((all, _a), (two, _b)) = (made(&all), made(&two));
    assert_eq!(two.modalities(), [Modality::Text, Modality::Audio]);
    let audio =
        |d: &Dataset| d.split(SplitName::Train).unwrap().stream(Modality::Audio).unwrap().row(3);
    assert_eq!(audio(&all), audio(&two));
}

#[test]
fn text_can_be_a_sequence_and_factors_can_be_absent() {
    let mut config =
        SynthConfig { train: 12, valid: 0, test: 0, private: 0, ..SynthConfig::default() };
    config.text = SynthStream { steps: 9, min_steps: 3, ..config.text };
    let (data, _file) = made(&config);
    let train = data.split(SplitName::Train).unwrap();
    assert!(train.stream(Modality::Text).unwrap().has_lengths());
    assert_eq!(train.factor_names(), ["shared"]);
}

#[test]
fn written_with_ids_and_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("demo.safetensors");
    write(&SynthConfig { train: 10, valid: 3, test: 4, ..SynthConfig::default() }, &path).unwrap();
    let data = Dataset::open(&path).unwrap();
    let test = data.split(SplitName::Test).unwrap();
    assert_eq!(test.id(3), "synth-test-3");
    for (text, &label) in test.raw_text().unwrap().iter().zip(test.labels().unwrap()) {
        let warm = text.contains("warm") || text.contains("glowing");
        assert_eq!(warm, label > 0.0, "{text}: {label}");
    }
    assert!(write(&SynthConfig::default(), folder.path().join("demo.json")).is_err());
}

#[test]
fn unusable_options_are_named() {
    type Change = fn(&mut SynthConfig);
    let changes: [(Change, &str); 11] = [
        (|c| c.valid = usize::MAX, "valid has"),
        (|c| c.private = usize::MAX, "private is"),
        (|c| c.modalities.clear(), "no modality"),
        (|c| (c.train, c.valid, c.test) = (0, 0, 0), "no rows"),
        (|c| (c.shared, c.private) = (0, 0), "no factors"),
        (|c| c.zero_share = 1.5, "zero_share is 1.5"),
        (|c| c.shared_weight = f64::NAN, "shared_weight is NaN"),
        (|c| c.audio.min_steps = 25, "audio has dim 8, min_steps 25"),
        (|c| c.vision.noise = -1.0, "vision.noise is -1"),
        (|c| c.text.dim = usize::MAX, "text.dim is"),
        (|c| c.text.steps = usize::MAX, "1 TiB"),
    ];
    for (change, wanted) in changes {
        let mut config = SynthConfig::default();
        change(&mut config);
        let error = generate(&config).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn targets_of_every_kind_follow_from_the_factors() {
    let base =
        SynthConfig { train: 300, valid: 0, test: 300, zero_share: 0.0, ..SynthConfig::default() };
    let number = |data: &Dataset| {
        data.split(SplitName::Train).unwrap().labels().map(<[f32]>::to_vec).unwrap()
    };
    let one = number(&made(&base).0);
    let with = |target| made(&SynthConfig { target, ..base.clone() });
    // The first of several numbers is the one that stands alone.
    let (several, _file) = with(SynthTarget::Numbers(3));
    let targets = several.split(SplitName::Train).unwrap().targets().unwrap();
    assert_eq!(targets.width, 3);
    let first = targets.words.chunks(3).map(|row| f32::from_bits(row[0]));
    assert!(first.zip(&one).all(|(a, b)| a == *b));
    // A label says whether its number is above 0, a class which number is the largest.
    let (labels, _file) = with(SynthTarget::Labels(3));
    let flags = labels.split(SplitName::Train).unwrap().targets().unwrap();
    let above = targets.words.iter().map(|word| u32::from(f32::from_bits(*word) > 0.0));
    assert!(above.eq(flags.words.iter().map(|word| u32::from(*word != 0))));
    let (classes, _file) = with(SynthTarget::Classes(3));
    let train = classes.split(SplitName::Train).unwrap();
    for (row, class) in targets.words.chunks(3).zip(train.class_labels().unwrap()) {
        let value = |i: usize| f32::from_bits(row[i]);
        assert!((0..3).all(|i| value(i) <= value(*class as usize)));
    }
    assert_eq!(classes.task().names, ["class 0", "class 1", "class 2"]);
    assert!(generate(&SynthConfig { target: SynthTarget::Classes(1), ..base }).is_err());
}

#[test]
fn rows_lack_as_much_as_was_asked_for_and_never_all() {
    let image = Modality::named("image").unwrap();
    let modalities = vec![image, Modality::Audio];
    let config = SynthConfig { modalities, missing: 0.4, ..SynthConfig::default() };
    let (data, _file) = made(&config);
    assert_eq!(data.modalities(), [Modality::Audio, image]);
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.factor_names(), ["audio", "image", "shared"]);
    for modality in data.modalities() {
        // Of 768 rows those below 0.4, less the 0.08 in which the other is lower still.
        let share = train.missing_rows(modality) as f64 / 768.0;
        assert!((0.26..0.38).contains(&share), "{modality}: {share}");
    }
    for row in 0..train.rows() {
        assert!(!data.modalities().iter().all(|m| train.missing(*m, row)), "row {row}");
    }
    let whole = SynthConfig { missing: 0.0, ..config };
    let (whole, _file) = made(&whole);
    let same = |row: &usize| {
        let one = |d: &Dataset| d.split(SplitName::Train).unwrap().stream(image).unwrap().row(*row);
        one(&data) == one(&whole)
    };
    let kept = (0..train.rows()).filter(|row| !train.missing(image, *row));
    assert!(kept.take(50).all(|row| same(&row)), "what is there is as it was");
}

#[test]
fn a_dominant_modality_is_as_it_was_and_the_others_are_noisier() {
    let flat = |c: &mut SynthConfig| {
        for stream in [&mut c.text, &mut c.audio, &mut c.vision] {
            (stream.steps, stream.min_steps, stream.dim) = (1, 1, 8);
        }
    };
    let mut config = SynthConfig { train: 400, ..SynthConfig::default() };
    flat(&mut config);
    let (plain, _file) = made(&config);
    let uneven = SynthConfig { dominant: Some(Modality::Audio), dominance: 5.0, ..config.clone() };
    let (uneven, _file) = made(&uneven);
    let values = |d: &Dataset, m: Modality| -> Vec<f32> {
        let split = d.split(SplitName::Train).unwrap();
        (0..400).flat_map(|row| split.stream(m).unwrap().row(row)).collect()
    };
    assert_eq!(values(&plain, Modality::Audio), values(&uneven, Modality::Audio));
    for weaker in [Modality::Text, Modality::Vision] {
        // The same noise four times more: 5 - 1.
        let gap = values(&uneven, weaker).into_iter().zip(values(&plain, weaker));
        let square = gap.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / (400.0 * 8.0);
        let noise = 4.0 * config.stream(weaker).noise;
        assert!((square.sqrt() / noise - 1.0).abs() < 0.1, "{weaker}: {}", square.sqrt());
    }
    let wrong = |dominant, dominance| {
        let config = SynthConfig { dominant, dominance, ..config.clone() };
        generate(&config).unwrap_err().to_string()
    };
    let image = Modality::named("image").unwrap();
    assert!(wrong(Some(image), 2.0).contains("image is to be dominant"));
    assert!(wrong(Some(Modality::Text), 0.5).contains("give 1 or more"));
    assert!(wrong(None, 2.0).contains("no modality is dominant"));
}
