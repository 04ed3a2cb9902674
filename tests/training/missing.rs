//! Rows that lack a modality, and data that lack it altogether: what the file holds there means nothing,
//! and what is usual of it in training stands in.

use crate::common;
use common::{Made, TensorFile, gpu};
use modalign::Error;
use modalign::data::{Damage, Dataset, Modality, Perturbation, SplitName};
use modalign::recipe::Config;
use modalign::train::{RunOptions, Saved, evaluate_run, open_saved, train};
use std::fs;
use std::path::{Path, PathBuf};

fn made() -> TensorFile {
    let made =
        Made { text: Some((1, 12)), audio: Some((6, 5)), vision: Some((5, 3)), ..Made::default() };
    made.tensors()
}

/// Says of every third row that it has no `modality`, and puts `value` where its features are.
fn without(file: &mut TensorFile, modality: &str, value: f32) {
    for split in ["train", "valid", "test"] {
        let name = format!("{split}.{modality}");
        let shape = file.shape(&name).to_vec();
        let mut values = file.f32(&name);
        let row: usize = shape[1..].iter().product();
        let gone = |i: usize| i % 3 == 1;
        values
            .chunks_mut(row)
            .enumerate()
            .filter(|(i, _)| gone(*i))
            .for_each(|(_, v)| v.fill(value));
        file.put_f32(&name, &shape, &values);
        let flags: Vec<i32> = (0..shape[0]).map(|i| i32::from(gone(i))).collect();
        file.put_i32(&format!("{name}_missing"), &[shape[0]], &flags);
    }
}

fn config(model: &str) -> Config {
    let hidden = if model == "self_mm" { "train.batch_size=8" } else { "model.hidden=6" };
    let settings = [
        format!("model.name={model}"),
        hidden.into(),
        "train.batch_size=8".into(),
        "train.accumulate=1".into(),
        "train.max_epochs=2".into(),
        "train.early_stop=0".into(),
    ];
    Config::build("mosi", None, &settings).expect("a configuration")
}

fn run(folder: &Path, name: &str, file: &TensorFile, model: &str) -> PathBuf {
    let data = folder.join(format!("{name}.safetensors"));
    file.save(&data);
    let out = folder.join(format!("{model}-{name}"));
    let config = config(model);
    let options = RunOptions { data, out: out.clone(), config, init: None, fold: None };
    train(gpu(), &options, &mut ()).expect("a run");
    out
}

#[test]
fn what_a_row_lacks_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    for model in ["self_mm", "lf_dnn"] {
        let logs = [("zero", 0.0), ("large", 1e6)].map(|(name, value)| {
            let mut file = made();
            for modality in ["text", "audio", "vision"] {
                without(&mut file, modality, value);
            }
            let out = run(folder.path(), name, &file, model);
            ["steps.jsonl", "epochs.jsonl"].map(|log| fs::read(out.join(log)).expect("a log"))
        });
        assert!(logs[0] == logs[1], "{model} read what is not there");
        let whole = run(folder.path(), "whole", &made(), model);
        assert!(fs::read(whole.join("steps.jsonl")).expect("a log") != logs[0][0], "{model}");
    }
}

#[test]
fn data_without_a_modality_are_scored_with_what_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    for model in ["self_mm", "tfn"] {
        let out = run(folder.path(), "whole", &made(), model);
        let whole = folder.path().join("whole.safetensors");
        let saved = Saved::load(&out).expect("a model");
        let bits = |scores: Vec<Vec<f32>>| common::bits_of(&scores);
        for modality in Modality::KNOWN {
            let mut session = open_saved(gpu(), &saved, &whole).expect("a session");
            let dropped = Perturbation::of(modality, Damage::Dropped);
            let wanted = session.predict_under(SplitName::Test, &dropped).expect("scores").scores;

            // All rows flagged, and no such tensor at all, are the same as a modality that is dropped.
            let name = format!("test.{modality}");
            let mut file = made();
            let rows = file.shape(&name)[0];
            file.put_i32(&format!("{name}_missing"), &[rows], &vec![1; rows]);
            let flagged = folder.path().join("flagged.safetensors");
            file.save(&flagged);
            let (_, found, _) = evaluate_run(gpu(), &saved, &flagged, SplitName::Test).expect("ok");
            assert!(bits(found.scores) == bits(wanted.clone()), "{model}: {modality} flagged");

            let mut file = made();
            file.tensors.retain(|name, _| !name.contains(modality.name()));
            let bare = folder.path().join("bare.safetensors");
            file.save(&bare);
            let mut session = open_saved(gpu(), &saved, &bare).expect("a session");
            assert_eq!(session.absent(), [modality]);
            let found = session.predict(SplitName::Test).expect("scores").scores;
            assert!(bits(found) == bits(wanted), "{model}: {modality} absent");
        }
    }
}

#[test]
fn a_flag_is_0_or_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.safetensors");
    let mut file = made();
    let rows = file.shape("train.audio")[0];
    file.put_i32("train.audio_missing", &[rows], &vec![2; rows]);
    file.save(&path);
    let why = Dataset::open(&path).expect_err("refused");
    assert!(matches!(why, Error::Data { .. }), "{why}");
    assert!(why.to_string().contains("train.audio_missing, row 0 is 2; write 1 where"), "{why}");
}
