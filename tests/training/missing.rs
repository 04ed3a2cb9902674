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

/// `data.missing` does what flags in the file would: in training and validation, and at test on the very file.
#[test]
fn a_configuration_has_rows_lack_modalities() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("whole.safetensors");
    made().save(&data);
    let opened = Dataset::open(&data).expect("data");
    for has in ["[]", r#"["TA", "V"]"#] {
        let set = [
            "model.name=lf_dnn".into(),
            "model.hidden=6".into(),
            "train.batch_size=8".into(),
            "train.accumulate=1".into(),
            "train.max_epochs=2".into(),
            "train.early_stop=0".into(),
        ];
        let missing = [
            "data.missing.train=0.3".into(),
            "data.missing.test=0.5".into(),
            format!("data.missing.train_has={has}"),
        ];
        let whole = Config::build("mosi", None, &set).expect("a configuration");
        let lesser = [&set[..], &missing].concat();
        let lesser = Config::build("mosi", None, &lesser).expect("a configuration");
        let found = opened.lacking(&lesser.data.missing, lesser.train.seed).expect("rows");

        // The same rows by flags.
        let mut file = made();
        for split in found.splits() {
            for modality in Modality::KNOWN {
                let gone: Vec<i32> =
                    (0..split.rows()).map(|row| i32::from(split.missing(modality, row))).collect();
                assert!(gone.contains(&1) && gone.contains(&0), "{modality}");
                let name = format!("{}.{modality}_missing", split.name());
                file.put_i32(&name, &[split.rows()], &gone);
            }
        }
        let flagged = folder.path().join("flagged.safetensors");
        file.save(&flagged);
        let of = |name: &str, data: &Path, config: &Config| {
            let out = folder.path().join(name);
            let _ = fs::remove_dir_all(&out);
            let (data, config) = (data.to_path_buf(), config.clone());
            let options = RunOptions { data, out: out.clone(), config, init: None, fold: None };
            train(gpu(), &options, &mut ()).expect("a run");
            out
        };
        let (by_flags, by_setting) = (of("a", &flagged, &whole), of("b", &data, &lesser));
        for log in ["steps.jsonl", "epochs.jsonl"] {
            let [a, b] =
                [&by_flags, &by_setting].map(|out| fs::read(out.join(log)).expect("a log"));
            assert!(a == b, "{log} differs");
        }
        let saved = Saved::load(&by_setting).expect("a model");
        let own = open_saved(gpu(), &saved, &data).expect("a session");
        let test = own.data().split(SplitName::Test).expect("rows");
        assert!(test.missing_rows(Modality::Audio) > 0);
        // Nobody asked for less of another file.
        let mut other = made();
        let shape = other.shape("test.audio").to_vec();
        let values: Vec<f32> = other.f32("test.audio").iter().map(|v| v + 1.0).collect();
        other.put_f32("test.audio", &shape, &values);
        let path = folder.path().join("other.safetensors");
        other.save(&path);
        let session = open_saved(gpu(), &saved, &path).expect("a session");
        let test = session.data().split(SplitName::Test).expect("rows");
        assert_eq!(test.missing_rows(Modality::Audio), 0);
    }
}
