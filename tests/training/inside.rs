//! Models that work inside a BERT: other streams than their fixtures have, layers that are frozen or
//! computed twice, weights as MMSA saves them, the encoder on its own again.

use crate::bert_fixture::path as fixture;
use crate::common;
use crate::models::{Golden, close, config, session};
use common::{TensorFile, gpu, of_largest};
use modalign::data::SplitName;
use modalign::nn::Weights;
use modalign::recipe::Config;
use modalign::train::{RunOptions, Session, export, initial_weights, train};
use std::path::Path;

const BOTH: [&str; 2] = ["bert_mag", "cenet"];

/// Losses of ten steps of a fixture under more settings.
fn losses(model: &str, golden: &Golden, more: &[String]) -> Vec<f32> {
    let folder = tempfile::tempdir().expect("a folder");
    let data = golden.data(folder.path(), &config(model, golden, more));
    let mut session = session(model, golden, &data, more);
    let mut records = Vec::new();
    for epoch in 1..=5 {
        common::train_epoch(&mut session, epoch, (0..10).collect(), &mut records)
            .expect("an epoch");
    }
    records.iter().map(|record| record.loss as f32).collect()
}

fn set(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Layers that are computed again on the way back take the same steps, also where a model changes
/// the states between them.
#[test]
fn checkpoints_change_nothing() {
    for model in BOTH {
        let golden = Golden::read(model);
        let wanted = losses(model, &golden, &[]);
        let again = losses(model, &golden, &set(&["bert.checkpoint=true"]));
        close(&format!("{model}: losses"), &again, &wanted, 1e-6);
        // And the settings that a model has for itself say something.
        let other = if model == "bert_mag" { "model.beta=0.5" } else { "model.scale=2" };
        let moved = losses(model, &golden, &set(&[other]));
        assert!(of_largest(&moved, &wanted) > 1e-3, "{model}: {other} does nothing");
        let layer = if model == "bert_mag" { "model.layer=1" } else { "model.layer=0" };
        let moved = losses(model, &golden, &set(&[layer]));
        assert!(of_largest(&moved, &wanted) > 1e-3, "{model}: {layer} does nothing");
    }
}

/// Audio or vision alone, dropout everywhere, and a first layer that is frozen and stored by halves
/// while what lies below it learns.
#[test]
fn one_stream_is_enough_and_frozen_layers_pass_gradients() {
    for (model, letters) in BOTH.into_iter().zip(["TV", "TA"]) {
        let golden = Golden::read(model);
        let mut more = set(&["bert.freeze_layers=1", "bert.half=true", "bert.dropout=0.2"]);
        more.push(format!("model.modalities={letters}"));
        if model == "bert_mag" {
            more.push("model.dropout=0.3".into());
        }
        let folder = tempfile::tempdir().expect("a folder");
        let data = golden.data(folder.path(), &config(model, &golden, &more));
        let config = config(model, &golden, &more);
        let mut session = Session::new(gpu(), &config, data, None, true).expect("a session");
        session.initialise().expect("states");
        // The whole encoder, and the model's own initial values.
        let mut weights = session.weights().expect("weights");
        let encoder = Weights::load(&fixture("bert_tiny/model.safetensors")).expect("an encoder");
        let prefix = golden.said["bert"].as_str().expect("a prefix");
        weights.extend(encoder.prefixed(prefix));
        session.load(&weights, Path::new("golden")).expect("weights");
        let before = session.weights().expect("weights");
        let mut records = Vec::new();
        for epoch in 1..=3 {
            common::train_epoch(&mut session, epoch, (0..10).collect(), &mut records).expect("one");
        }
        assert!(records.iter().all(|record| record.loss.is_finite()), "{model}");
        let after = session.weights().expect("weights");
        let moved = |name: &str| {
            let of = |all: &Weights| all.get(name).unwrap_or_else(|| panic!("{name}")).1.to_vec();
            of(&before) != of(&after)
        };
        assert!(!moved(&format!("{prefix}encoder.layer.0.output.dense.weight")), "{model}");
        assert!(moved(&format!("{prefix}encoder.layer.1.output.dense.weight")), "{model}");
        let (own, other) = match model {
            "bert_mag" => ("model.bert.MAG.W_hv.weight", "model.bert.MAG.W_ha.weight"),
            _ => ("bert.encoder.CE.ha.Wk.weight", "bert.encoder.CE.hv.Wk.weight"),
        };
        assert!(moved(own) && before.get(other).is_none(), "{model}: {own}");
    }
}

/// Streams that are brought to the tokens' steps are as if the data had them so.
#[test]
fn streams_are_pooled_to_the_tokens() {
    let mut golden = Golden::read("bert_mag");
    let steps = 6;
    // Nine steps, of which the last one is repeated up to twelve, in windows of two.
    for name in ["audio", "vision"] {
        let (shape, values) = (golden.file.shape(name).to_vec(), golden.file.f32(name));
        let (rows, columns) = (shape[0], shape[2]);
        let longer: Vec<f32> = (0..rows * 9 * columns)
            .map(|i| values[i % values.len()] * (1.0 + (i % 7) as f32 / 7.0))
            .collect();
        golden.file.put_f32(name, &[rows, 9, columns], &longer);
        golden.file.tensors.remove(&format!("{name}_lengths"));
    }
    let scores = |golden: &Golden, more: &[String]| {
        let folder = tempfile::tempdir().expect("a folder");
        let data = golden.data(folder.path(), &config("bert_mag", golden, more));
        let mut session = session("bert_mag", golden, &data, more);
        session.predict(SplitName::Test).expect("scores").fused()
    };
    let pooled = scores(&golden, &set(&["model.pool=true"]));
    for name in ["audio", "vision"] {
        let (shape, values) = (golden.file.shape(name).to_vec(), golden.file.f32(name));
        let (rows, columns) = (shape[0], shape[2]);
        let of = |row: usize, step: usize, column: usize| {
            values[(row * 9 + step.min(8)) * columns + column]
        };
        let mut short = Vec::new();
        for row in 0..rows {
            for step in 0..steps {
                let mean = |c| (of(row, 2 * step, c) + of(row, 2 * step + 1, c)) / 2.0;
                short.extend((0..columns).map(mean));
            }
        }
        golden.file.put_f32(name, &[rows, steps, columns], &short);
    }
    close("pooled", &pooled, &scores(&golden, &[]), 1e-5);
    let aligned = scores(&Golden::read("bert_mag"), &[]);
    assert!(of_largest(&pooled, &aligned) > 1e-3, "it makes a difference");
}

#[test]
fn what_they_cannot_use_is_said() {
    for model in BOTH {
        let golden = Golden::read(model);
        let folder = tempfile::tempdir().expect("a folder");
        let refused = |more: &[&str]| {
            let config = config(model, &golden, &set(more));
            let data = golden.data(folder.path(), &config);
            let why = Session::new(gpu(), &config, data, None, true).err();
            let why = why.unwrap_or_else(|| panic!("{model} takes {more:?}")).to_string();
            assert!(why.contains(model) && !why.contains('\n'), "{why}");
            why
        };
        for frozen in [
            "model.text_encoder=features",
            "bert.finetune=false",
            "bert.freeze_layers=2",
            "model.modalities=AV",
        ] {
            let why = refused(&[frozen]);
            assert!(why.contains("model.text_encoder") && why.contains("bert.finetune"), "{why}");
        }
        let why = refused(&["model.modalities=T"]);
        assert!(why.contains("'T'") && why.contains("audio, vision"), "{why}");
        let why = refused(&["model.layer=2"]);
        assert!(why.contains("model.layer = 2") && why.contains("the encoder's 2"), "{why}");
        if model == "bert_mag" {
            let why = refused(&["bert.max_tokens=5"]);
            for said in ["5 steps", "audio has 6, vision has 6", "model.pool"] {
                assert!(why.contains(said), "no {said} in: {why}");
            }
        }
    }
}

/// A model of its fixture's settings over its rows, which lie in the folder, before anything is begun.
fn fresh(model: &str) -> (Golden, tempfile::TempDir, Session) {
    let golden = Golden::read(model);
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(model, &golden, &[]);
    let data = golden.data(folder.path(), &config);
    let session = Session::new(gpu(), &config, data, None, true).expect("a session");
    (golden, folder, session)
}

/// A checkpoint as MMSA saves one: every name behind `Model.`, with a pooler also where none is read.
#[test]
fn mmsa_s_weights_are_begun_with() {
    for model in BOTH {
        let (golden, folder, session) = fresh(model);
        let path = folder.path().join("mmsa.safetensors");
        let all = golden.weights();
        all.clone().prefixed("Model.").save(&path, &[]).expect("saved");
        let (begun, _) = initial_weights(&session, Some(&path)).expect("weights");
        for spec in session.params().specs() {
            let of = |weights: &Weights| weights.get(&spec.name).map(|(_, values)| values.to_vec());
            assert_eq!(of(&begun), of(&all), "{model}: {}", spec.name);
        }
        // What stands beside the encoder must be there, and is not begun with by chance.
        let own = if model == "bert_mag" {
            "model.bert.MAG.W_hv.bias"
        } else {
            "bert.encoder.CE.hv.Wq.bias"
        };
        let mut less = all.clone();
        less.remove(own);
        less.prefixed("Model.").save(&path, &[]).expect("saved");
        let (begun, path) = initial_weights(&session, Some(&path)).expect("weights");
        let mut session = session;
        let why = session.load(&begun, &path).unwrap_err().to_string();
        assert!(why.contains(own), "{why}");
    }
}

/// What is new in an encoder begins as transformers has it begin.
#[test]
fn new_parts_begin_small() {
    for model in BOTH {
        let (golden, _folder, session) = fresh(model);
        let (begun, _) = initial_weights(&session, None).expect("weights");
        let own = golden.file.under("init.");
        assert!(own.len() >= 10, "{own:?}");
        for name in own {
            let values = begun.get(&name).unwrap_or_else(|| panic!("no {name}")).1;
            if name.ends_with("LayerNorm.weight") {
                assert!(values.iter().all(|v| *v == 1.0), "{name}");
            } else if name.ends_with("bias") {
                assert!(values.iter().all(|v| *v == 0.0), "{name}");
            } else {
                let squares: f32 = values.iter().map(|v| v * v).sum();
                let deviation = (squares / values.len() as f32).sqrt();
                // Of the fewest values, 64, by luck within four standard errors.
                assert!((deviation - 0.02).abs() < 0.02 * 0.36, "{name}: {deviation}");
            }
        }
    }
}

/// Without a checkpoint MAG-BERT begins with the pooler that the encoder has; an encoder that is
/// exported from a run is the trained one and nothing of what the model put into it.
#[test]
fn the_encoder_comes_and_goes_with_its_pooler() {
    let original = Weights::load(&fixture("bert_tiny/model.safetensors")).expect("an encoder");
    for model in BOTH {
        let golden = Golden::read(model);
        let folder = tempfile::tempdir().expect("a folder");
        let more = set(&["train.max_epochs=1", "train.early_stop=0"]);
        let config = config(model, &golden, &more);
        let session = {
            let data = golden.data(folder.path(), &config);
            Session::new(gpu(), &config, data, None, true).expect("a session")
        };
        let (begun, _) = initial_weights(&session, None).expect("weights");
        let pooler = begun.get("model.bert.pooler.dense.weight");
        let wanted = original.get("pooler.dense.weight");
        assert_eq!(pooler.is_some(), model == "bert_mag");
        assert!(pooler.is_none() || pooler == wanted, "another pooler");

        let (data, out) = (folder.path().join("whole.safetensors"), folder.path().join("run"));
        with_valid(&folder.path().join("golden.safetensors"), &data);
        let options = RunOptions {
            data,
            out: out.clone(),
            config: Config::clone(&config),
            init: None,
            fold: None,
        };
        train(gpu(), &options, &mut ()).expect("a run");
        let to = folder.path().join("encoder");
        let count = export(&out, &to).expect("an encoder");
        let exported = Weights::load(&to.join("model.safetensors")).expect("weights");
        let names =
            |weights: &Weights| weights.iter().map(|(n, ..)| n.to_string()).collect::<Vec<_>>();
        assert_eq!(
            (names(&exported), count),
            (names(&original), original.iter().count()),
            "{model}"
        );
        let kept = exported.get("pooler.dense.weight") == wanted;
        assert_eq!(kept, model == "cenet", "{model}: the pooler that was trained");
        let name = "encoder.layer.0.output.dense.weight";
        assert!(exported.get(name) != original.get(name), "{model}: {name} was trained");
    }
}

/// Copies a data set whose rows to be tested are to be validated, too.
fn with_valid(from: &Path, to: &Path) {
    let mut file = TensorFile::read(from);
    for name in file.under("test.") {
        let tensor = file.tensors[&format!("test.{name}")].clone();
        file.tensors.insert(format!("valid.{name}"), tensor);
    }
    file.save(to);
}
