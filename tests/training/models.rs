//! Every model against an independent PyTorch implementation (`tests/fixtures/golden_models.py`): what it
//! says of rows, the first gradients, the losses of ten optimiser steps, and where those end.

use crate::common;
use common::{TensorFile, gpu, of_largest};
use modalign::data::{Dataset, Modality, SplitName, StreamSpec};
use modalign::nn::Weights;
use modalign::recipe::{Config, Model, Offered};
use modalign::train::Session;
use safetensors::tensor::SafeTensors;
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model's fixture with its settings.
struct Golden {
    file: TensorFile,
    said: Value,
}

impl Golden {
    fn read(model: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let path = path.join(format!("{model}.safetensors"));
        let bytes = std::fs::read(&path).expect("a fixture");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let said = header.metadata().as_ref().expect("metadata")["config"].clone();
        let mut file = TensorFile::read(&path);
        // How often a BatchNorm was used changes nothing with a momentum.
        file.tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
        Golden { file, said: serde_json::from_str(&said).expect("JSON") }
    }

    /// The rows as a data set, which is both trained on and scored.
    fn data(&self, folder: &Path) -> Arc<Dataset> {
        let mut file = TensorFile::default();
        for split in ["train", "test"] {
            for name in ["text", "audio", "vision", "audio_lengths", "vision_lengths"] {
                if let Some(tensor) = self.file.tensors.get(name) {
                    file.tensors.insert(format!("{split}.{name}"), tensor.clone());
                }
            }
            let labels = self.file.tensors["labels"].clone();
            file.tensors.insert(format!("{split}.regression_labels"), labels);
        }
        let path = folder.join("golden.safetensors");
        file.save(&path);
        Arc::new(Dataset::open(&path).expect("data"))
    }

    /// A number of the fixture's settings as text.
    fn of(&self, key: &str) -> String {
        self.said[key].to_string()
    }

    fn config(&self, model: &str, settings: &[String]) -> Config {
        let mut all: Vec<String> = [
            format!("model.name={model}"),
            format!("train.batch_size={}", self.of("batch")),
            format!("train.lr={}", self.of("lr")),
            format!("train.decay={}", self.of("weight_decay")),
            "train.accumulate=1".into(),
            "train.normalize=false".into(),
        ]
        .to_vec();
        all.extend(settings.iter().cloned());
        Config::build("mosi", None, &all).expect("a configuration")
    }

    fn weights(&self) -> Weights {
        self.file.weights("init.")
    }
}

/// Elements of a parameter whose gradient is exactly zero whatever rounding makes of it, as the fixture
/// says.
fn without_gradient(golden: &Golden, name: &str, len: usize) -> Range<usize> {
    let parts = golden.said["zero_gradient"].as_object().expect("an object");
    match parts.iter().find(|(end, _)| name.ends_with(end.as_str())).map(|(_, part)| part.as_str())
    {
        None => 0..0,
        Some(Some("all")) => 0..len,
        Some(Some("middle third")) => len / 3..2 * len / 3,
        Some(other) => panic!("{name}: which part is {other:?}?"),
    }
}

/// What a fixture's settings are called here.
fn settings(model: &str, golden: &Golden) -> Vec<String> {
    let set = |key: &str, from: &str| format!("{key}={}", golden.of(from));
    let hidden = || {
        ["text", "audio", "vision"]
            .map(|m| set(&format!("model.hidden.{m}"), &format!("{m}_hidden")))
            .to_vec()
    };
    let no_dropout = ["model.dropout=0".to_string()];
    let own = match model {
        "ef_lstm" => vec![set("model.hidden", "hidden"), set("model.layers", "layers")],
        "lf_dnn" | "tfn" => {
            let mut all = hidden();
            all.push(set("model.text_out", "text_out"));
            all.push(set("model.post_fusion", "post_fusion"));
            all.push("model.post_dropout=0".into());
            all
        }
        "lmf" => {
            let mut all = hidden();
            all.push(set("model.text_out", "text_out"));
            all.push(set("model.rank", "rank"));
            all.push(set("train.lr.factors", "factor_lr"));
            all
        }
        "mfn" => {
            let mut all = hidden();
            all.push(set("model.memory", "memory"));
            all.extend(
                ["att1", "att2", "gamma1", "gamma2", "out"]
                    .map(|n| set(&format!("model.inner.{n}"), n)),
            );
            all.push(set("model.time", "mfn_time").replace('"', ""));
            all
        }
        "mult" => {
            let mut all: Vec<String> =
                ["width", "heads", "layers"].map(|key| set(&format!("model.{key}"), key)).to_vec();
            all.extend(
                ["text", "audio", "vision"]
                    .map(|m| set(&format!("model.kernel.{m}"), &format!("{m}_kernel"))),
            );
            all.push(set("model.positions", "mult_positions"));
            all.push(set("train.clip_value", "clip_at"));
            all
        }
        other => panic!("no settings of {other}"),
    };
    own.into_iter().chain(no_dropout).collect()
}

/// A model made from its fixture, at its first step.
fn session(model: &str, golden: &Golden, data: &Arc<Dataset>, more: &[String]) -> Session {
    let mut all = settings(model, golden);
    all.extend(more.iter().cloned());
    let config = golden.config(model, &all);
    let mut session = Session::new(gpu(), &config, data.clone(), None, true).expect("a session");
    session.initialise().expect("states");
    session.load(&golden.weights(), &PathBuf::from("golden")).expect("weights");
    session
}

fn close(what: &str, got: &[f32], want: &[f32], allowed: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let off = of_largest(got, want);
    assert!(off <= allowed, "{what}: off by {off:e} of the largest, {allowed:e} is allowed");
}

fn check(model: &str) {
    let golden = Golden::read(model);
    let folder = tempfile::tempdir().expect("a folder");
    let data = golden.data(folder.path());
    let batch = golden.said["batch"].as_u64().expect("a number") as usize;
    let rows = golden.said["rows"].as_u64().expect("a number") as usize;

    // What it says of rows, before anything is trained.
    let mut whole = session(model, &golden, &data, &[]);
    let scores = whole.predict(SplitName::Test).expect("scores").fused();
    close(&format!("{model}: scores"), &scores, &golden.file.f32("forward"), 1e-5);

    // The gradients of the first batch, left where they are by an optimiser that waits for a second.
    let waiting = ["train.accumulate=2".to_string(), "train.keep_tail=false".into()];
    let mut first = session(model, &golden, &data, &waiting);
    let mut losses = Vec::new();
    let order: Vec<u32> = (0..batch as u32).collect();
    first
        .train_epoch(1, order, |record, _| {
            losses.push(record.loss as f32);
            Ok(())
        })
        .expect("a step");
    close(&format!("{model}: first loss"), &losses, &golden.file.f32("loss0"), 1e-5);
    let gradients = first.gradients().expect("gradients");
    let wanted = golden.file.under("grad.");
    assert!(!wanted.is_empty());
    let largest = gradients.iter().flat_map(|(_, _, got)| got).fold(0.0_f32, |m, g| m.max(g.abs()));
    let trained = gradients.iter().count();
    assert_eq!(trained, wanted.len(), "{model}: as many gradients");
    for name in wanted {
        let name = name.trim_start_matches("grad.");
        let (_, got) = gradients.get(name).unwrap_or_else(|| panic!("{model}: no gradient {name}"));
        let want = golden.file.f32(&format!("grad.{name}"));
        let (mut got, zero) = (got.to_vec(), without_gradient(&golden, name, want.len()));
        for got in &mut got[zero] {
            let most = 1e-6 * largest;
            assert!(got.abs() <= most, "{model}: gradient of {name}: {got:e} where it is zero");
            *got = 0.0;
        }
        let got = &got;
        close(&format!("{model}: gradient of {name}"), got, &want, 1e-4);
    }

    // Ten steps.
    let mut losses = Vec::new();
    let wanted = golden.file.f32("losses");
    for epoch in 1..=wanted.len() * batch / rows {
        whole
            .train_epoch(epoch, (0..rows as u32).collect(), |record, _| {
                losses.push(record.loss as f32);
                Ok(())
            })
            .expect("an epoch");
    }
    close(&format!("{model}: losses"), &losses, &wanted, 1e-4);
    let weights = whole.weights().expect("weights");
    for (name, _, got) in weights.iter() {
        let mut want = golden.file.f32(&format!("final.{name}"));
        let zero = without_gradient(&golden, name, want.len());
        want[zero.clone()].copy_from_slice(&got[zero]);
        close(&format!("{model}: {name} in the end"), got, &want, 1e-3);
    }
}

#[test]
fn ef_lstm_is_pytorchs() {
    check("ef_lstm");
}

#[test]
fn lf_dnn_is_pytorchs() {
    check("lf_dnn");
}

#[test]
fn tfn_is_pytorchs() {
    check("tfn");
}

#[test]
fn lmf_is_pytorchs() {
    check("lmf");
}

#[test]
fn mfn_is_pytorchs() {
    check("mfn");
}

#[test]
fn mult_is_pytorchs() {
    check("mult");
}

/// As many parameters as the released models have over the data sets that their settings are for.
#[test]
fn models_are_as_large_as_released() {
    for (model, counts) in
        [("mfn", [2_172_657, 1_276_865, 601_505]), ("mult", [2_571_551, 982_951, 1_870_701])]
    {
        let sets = [
            ("mosi", 50, [768, 5, 20]),
            ("mosei", 50, [768, 74, 35]),
            ("sims", 39, [768, 33, 709]),
        ];
        for ((preset, steps, dims), count) in sets.into_iter().zip(counts) {
            let of = |(modality, dim)| StreamSpec { modality, steps, dim, lengths: false };
            let streams: Vec<StreamSpec> = Modality::ALL.into_iter().zip(dims).map(of).collect();
            let config = Config::preset(model, preset).expect("a preset");
            let offered = Offered { streams: &streams, bert: None };
            let made = Model::new(&config, offered).expect("a model");
            let sum: usize = made.params(true, usize::MAX).iter().map(|spec| spec.len()).sum();
            assert_eq!(sum, count, "{model} {preset}");
        }
    }
}

/// MFN over means is MFN over streams that are their means already.
#[test]
fn mfn_takes_means() {
    let mut golden = Golden::read("mfn");
    let scores = |golden: &Golden, more: &[String]| {
        let folder = tempfile::tempdir().expect("a folder");
        let data = golden.data(folder.path());
        let mut session = session("mfn", golden, &data, more);
        session.predict(SplitName::Test).expect("scores").fused()
    };
    let means = scores(&golden, &["model.time=mean".into()]);
    for name in ["audio", "vision"] {
        let (mut values, shape) = (golden.file.f32(name), golden.file.shape(name).to_vec());
        for row in values.chunks_mut(shape[1] * shape[2]) {
            for column in 0..shape[2] {
                let places = || (0..shape[1]).map(|step| step * shape[2] + column);
                let mean = places().map(|at| row[at]).sum::<f32>() / shape[1] as f32;
                places().for_each(|at| row[at] = mean);
            }
        }
        golden.file.put_f32(name, &shape, &values);
        // A mean is also where the stream itself has ended.
        golden.file.tensors.remove(&format!("{name}_lengths"));
    }
    close("means", &means, &scores(&golden, &[]), 1e-5);
    let sequences = scores(&Golden::read("mfn"), &[]);
    assert!(of_largest(&means, &sequences) > 1e-2, "it makes a difference");
}

/// Two streams instead of three, with dropout everywhere; one is refused in words.
#[test]
fn mult_takes_two_streams() {
    let golden = Golden::read("mult");
    let folder = tempfile::tempdir().expect("a folder");
    let data = golden.data(folder.path());
    let made = |letters: &str| {
        let mut all = settings("mult", &golden);
        all.extend([format!("model.modalities={letters}"), "model.dropout=0.3".into()]);
        Session::new(gpu(), &golden.config("mult", &all), data.clone(), None, true)
    };
    let mut session = made("AV").expect("a session");
    session.initialise().expect("states");
    for epoch in 1..=2 {
        let learnt = session.train_epoch(epoch, (0..10).collect(), |record, _| {
            assert!(record.loss.is_finite());
            Ok(())
        });
        learnt.expect("an epoch");
    }
    let scores = session.predict(SplitName::Test).expect("scores").fused();
    assert!(scores.iter().all(|score| score.is_finite()));
    let refused = made("A").err().expect("one stream is too few").to_string();
    assert!(refused.contains("two or three of text, audio and vision"), "{refused}");
}
