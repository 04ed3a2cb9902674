//! Every model against an independent PyTorch implementation (`tests/fixtures/golden_models.py`): what it
//! says of rows, the first gradients, the losses of ten optimiser steps, and where those end.

use crate::bert_fixture::{path as fixture, summary};
use crate::common;
use common::{TensorFile, gpu, of_largest};
use modalign::data::{Dataset, Modality, Normalize, SplitName, Standardise, StreamSpec};
use modalign::nn::Weights;
use modalign::recipe::{Config, Model, Offered};
use modalign::train::{Session, StepRecord, open_data};
use safetensors::tensor::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model's fixture with its settings.
pub struct Golden {
    pub file: TensorFile,
    pub said: Value,
}

impl Golden {
    pub fn read(model: &str) -> Self {
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
    pub fn data(&self, folder: &Path, config: &Config) -> Arc<Dataset> {
        self.data_with(folder, config, &[])
    }

    /// The same with more fields; one such as `audio_missing` is stored as `missing.audio`.
    pub fn data_with(&self, folder: &Path, config: &Config, more: &[String]) -> Arc<Dataset> {
        let mut file = TensorFile::default();
        for split in ["train", "test"] {
            let lengths = ["audio_lengths", "vision_lengths"];
            for name in ["text", "text_bert", "audio", "vision"].into_iter().chain(lengths) {
                if let Some(tensor) = self.file.tensors.get(name) {
                    file.tensors.insert(format!("{split}.{name}"), tensor.clone());
                }
            }
            for name in more {
                let stored = name.strip_suffix("_missing").map(|m| format!("missing.{m}"));
                let tensor = self.file.tensors[stored.as_ref().unwrap_or(name)].clone();
                file.tensors.insert(format!("{split}.{name}"), tensor);
            }
            let labels = self.file.tensors["labels"].clone();
            let field = match self.task() {
                Some("classes" | "labels") => "class_labels",
                _ => "regression_labels",
            };
            file.tensors.insert(format!("{split}.{field}"), labels);
            for name in ["labels_T", "labels_A", "labels_V"] {
                if let Some(tensor) = self.file.tensors.get(name) {
                    file.tensors.insert(format!("{split}.regression_{name}"), tensor.clone());
                }
            }
        }
        let path = folder.join("golden.safetensors");
        file.save(&path);
        open_data(gpu(), &path, config, Path::new(&config.bert.path)).expect("data")
    }

    /// The task, where it is not one number a row.
    fn task(&self) -> Option<&str> {
        self.said["task"].as_str()
    }

    /// A number of the fixture's settings as text.
    fn of(&self, key: &str) -> String {
        self.said[key].to_string()
    }

    pub fn config(&self, model: &str, settings: &[String]) -> Config {
        let mut all: Vec<String> = [
            format!("model.name={model}"),
            format!("train.batch_size={}", self.of("batch")),
            format!("train.lr={}", self.of("lr")),
            format!("train.decay={}", self.of("weight_decay")),
            "train.accumulate=1".into(),
            "train.normalize=false".into(),
        ]
        .to_vec();
        if self.said["weights"].is_array() {
            all.push("task.class_weights=balanced".into());
        }
        if self.said["smoothing"].is_number() {
            all.push(format!("task.label_smoothing={}", self.of("smoothing")));
        }
        if let Some(by) = self.said["clip"].as_str() {
            all.push(format!("train.clip_{by}={}", self.of("clip_at")));
        }
        if self.said["bert"].is_string() {
            all.push("model.text_encoder=bert".into());
            all.push(format!("bert.path={}", fixture("bert_tiny").display()));
            all.push("bert.dropout=0".into());
            all.push(format!("bert.max_tokens={}", self.said["inputs"]["text_bert"][1]));
        }
        all.extend(settings.iter().cloned());
        Config::build("mosi", None, &all).expect("a configuration")
    }

    pub fn weights(&self) -> Weights {
        let mut all = self.file.weights("init.");
        if let Some(prefix) = self.said["bert"].as_str() {
            let encoder = Weights::load(&fixture("bert_tiny/model.safetensors"));
            all.extend(encoder.expect("an encoder").prefixed(prefix));
        }
        all
    }

    /// Where a parameter has no gradient but rounding, of which Adam makes whole steps.
    fn rounding(&self, name: &str, len: usize) -> std::ops::Range<usize> {
        let ends = self.said["zero_gradient"].as_object().into_iter().flatten();
        match ends.into_iter().find(|(end, _)| name.ends_with(*end)) {
            Some((_, part)) if part == "all" => 0..len,
            Some(_) => len / 3..2 * len / 3,
            None => 0..0,
        }
    }

    /// The rows `of` large tensors of which a fixture has no more than summaries, by name.
    fn summaries(&self, of: &str) -> Vec<(&str, Vec<f32>)> {
        let names: Vec<&str> = self.said["summary_names"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if names.is_empty() {
            return Vec::new();
        }
        let rows = self.file.f32(&format!("{of}_summary"));
        names.into_iter().zip(rows.chunks(9).map(<[f32]>::to_vec)).collect()
    }
}

/// What a fixture's settings are called here.
pub fn settings(model: &str, golden: &Golden) -> Vec<String> {
    let set = |key: &str, from: &str| format!("{key}={}", golden.of(from));
    let hidden = || {
        ["text", "audio", "vision"]
            .map(|m| set(&format!("model.hidden.{m}"), &format!("{m}_hidden")))
            .to_vec()
    };
    let no_dropout = ["model.dropout=0".to_string()];
    let same = |section: &str, keys: &[&str]| -> Vec<String> {
        keys.iter().map(|key| set(&format!("{section}.{key}"), key)).collect()
    };
    let own = match model {
        "ef_lstm" => vec![set("model.hidden", "hidden"), set("model.layers", "layers")],
        "lf_dnn" | "tfn" => {
            let mut all = hidden();
            all.push(set("model.text_out", "text_out"));
            all.push(set("model.post_fusion", "post_fusion"));
            all.push("model.post_dropout=0".into());
            all
        }
        "mlf_dnn" => {
            let mut all = hidden();
            all.extend(same("model", &["text_out", "post_fusion"]));
            all.push(set("model.parts.size", "post_parts"));
            all.push(set("model.parts.weight", "part_weight"));
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
        "clfa" => {
            let mut all = same("model", &["layers", "heads", "width", "hidden", "inner"]);
            all.extend(same("model", &["alpha", "beta", "tau"]));
            all.extend(same("schedule", &["warmup", "total"]));
            let guide = |side: &str| set(&format!("model.guide.{side}"), &format!("guide_{side}"));
            all.extend(["text", "vision"].map(|side| guide(side).replace('"', "")));
            all
        }
        "mla" => {
            let mut all = hidden();
            all.extend(same("model", &["text_out", "width"]));
            all.push(set("sgd.momentum", "momentum"));
            all
        }
        "umi" => {
            let mut all = same("model", &["width", "places", "heads", "head_width", "inner"]);
            all.extend(same("model", &["stream_layers", "layers", "vectors"]));
            all.extend(same("loss", &["pseudo", "align"]));
            all.extend(same("stages", &["unimodal", "averaged"]));
            all.push(set("loss.smoothing", "own_smoothing"));
            all.extend([set("sgd.momentum", "momentum"), "sgd.step_size=0".into()]);
            // It has no dropout.
            return all;
        }
        "mmcl" => {
            let mut all = hidden();
            all.extend(same("model", &["width"]));
            all.push(set("model.text_encoder", "text_encoder").replace('"', ""));
            let terms = ["coding", "instance", "sentiment", "temperature", "detach_target"];
            all.extend(same("contrast", &terms));
            // It has no dropout, and in the fixture both views are the rows as they are.
            all.extend(["run", "channels", "noise"].map(|key| format!("views.{key}=0")));
            return all;
        }
        "misa" => {
            let mut all = same("model", &["hidden", "heads", "inner"]);
            all.extend(
                ["diff", "sim", "recon"].map(|w| set(&format!("loss.{w}"), &format!("w_{w}"))),
            );
            all
        }
        "almt" => {
            let mut all = same("model", &["width", "tokens", "heads", "head_width", "inner"]);
            all.extend(same("model", &["hyper_layers", "hyper_heads", "fusion_layers"]));
            // It has no dropout, and the fixture no schedule.
            all.push("schedule=0".into());
            return all;
        }
        "bert_mag" => same("model", &["beta"]),
        "cenet" => {
            let mut all =
                vec![set("model.layer", "inject_layer"), set("model.scale", "score_scale")];
            all.push(set("adam.eps", "eps"));
            // What it drops out is of the encoder's settings.
            return all;
        }
        other => panic!("no settings of {other}"),
    };
    own.into_iter().chain(no_dropout).collect()
}

pub fn config(model: &str, golden: &Golden, more: &[String]) -> Config {
    let mut all = settings(model, golden);
    all.extend(more.iter().cloned());
    golden.config(model, &all)
}

/// A model made from its fixture, at its first step.
pub fn session(model: &str, golden: &Golden, data: &Arc<Dataset>, more: &[String]) -> Session {
    let config = config(model, golden, more);
    let mut session = Session::new(gpu(), &config, data.clone(), None, true).expect("a session");
    session.initialise().expect("states");
    session.load(&golden.weights(), &PathBuf::from("golden")).expect("weights");
    session
}

pub fn close(what: &str, got: &[f32], want: &[f32], allowed: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let off = of_largest(got, want);
    assert!(off <= allowed, "{what}: off by {off:e} of the largest, {allowed:e} is allowed");
}

/// A large tensor by what its fixture says of it: a norm, and products that an error would show in.
fn close_by_summary(what: &str, got: &[f32], want: &[f32], allowed: f64) {
    let norm = f64::from(want[0]);
    let gaps = summary(got).into_iter().zip(want).map(|(g, w)| (g - f64::from(*w)).abs());
    let off = gaps.fold(0.0, f64::max) / norm;
    assert!(off <= allowed, "{what}: off by {off:e} of its norm, {allowed:e} is allowed");
}

/// The loss and the gradients of the first batch, left where they are by an optimiser that waits for a second.
/// Turns wait for nothing: of them it is how far a rate of 1 moves each parameter.
fn first_gradients(model: &str, golden: &Golden, data: &Arc<Dataset>) -> (Vec<f32>, Weights) {
    let by_turns = golden.said["turns"].is_array();
    let set = match by_turns {
        true => ["train.lr=1", "train.decay=0", "sgd.momentum=0"].as_slice(),
        false => &["train.accumulate=2", "train.keep_tail=false"],
    };
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let mut first = session(model, golden, data, &set);
    let mut losses = Vec::new();
    let batch = golden.said["batch"].as_u64().expect("a number") as u32;
    first
        .train_epoch(1, (0..batch).collect(), |record, _| {
            losses.push(record.loss as f32);
            Ok(())
        })
        .expect("a step");
    if !by_turns {
        return (losses, first.gradients().expect("gradients"));
    }
    let (before, after) = (golden.weights(), first.weights().expect("weights"));
    let mut moved = Weights::default();
    for (name, shape, values) in after.iter().filter(|(name, ..)| !name.contains("running_")) {
        let from = before.get(name).expect("a parameter").1.iter();
        moved.insert(name, shape.to_vec(), from.zip(values).map(|(b, a)| b - a).collect());
    }
    (losses, moved)
}

pub fn check(fixture: &str) {
    let golden = Golden::read(fixture);
    let model = golden.said["model"].as_str().expect("a name");
    let folder = tempfile::tempdir().expect("a folder");
    let data = golden.data(folder.path(), &config(model, &golden, &[]));
    let batch = golden.said["batch"].as_u64().expect("a number") as usize;
    let rows = golden.said["rows"].as_u64().expect("a number") as usize;

    // What it says of rows, before anything is trained.
    let mut whole = session(model, &golden, &data, &[]);
    let dispatches = whole.step_plan().expect("a plan").dispatches().len();
    println!("{model}: {dispatches} dispatches a step");
    let scores = whole.predict(SplitName::Test).expect("scores").fused();
    close(&format!("{model}: scores"), &scores, &golden.file.f32("forward"), 1e-5);

    let (losses, gradients) = first_gradients(model, &golden, &data);
    close(&format!("{model}: first loss"), &losses, &golden.file.f32("loss0"), 1e-5);
    let (wanted, summaries) = (golden.file.under("grad."), golden.summaries("grad"));
    assert!(!wanted.is_empty());
    let trained = gradients.iter().count();
    assert_eq!(trained, wanted.len() + summaries.len(), "{model}: as many gradients");
    let largest =
        gradients.iter().flat_map(|(.., values)| values).fold(0.0, |m: f32, v| m.max(v.abs()));
    let of =
        |name: &str| gradients.get(name).unwrap_or_else(|| panic!("{model}: no gradient {name}")).1;
    for name in wanted {
        let want = golden.file.f32(&format!("grad.{name}"));
        let (mut got, rounding) = (of(&name).to_vec(), golden.rounding(&name, want.len()));
        for value in &mut got[rounding] {
            assert!(value.abs() <= 1e-6 * largest, "{model}: gradient of {name}: {value:e}");
            *value = 0.0;
        }
        if want.iter().any(|v| *v != 0.0) || got.iter().any(|v| *v != 0.0) {
            close(&format!("{model}: gradient of {name}"), &got, &want, 1e-4);
        }
    }
    for (name, want) in summaries {
        close_by_summary(&format!("{model}: gradient of {name}"), of(name), &want, 1e-4);
    }

    // Ten steps.
    let mut records: Vec<StepRecord> = Vec::new();
    let wanted = golden.file.f32("losses");
    for epoch in 1..=wanted.len() * batch / rows {
        common::train_epoch(&mut whole, epoch, (0..rows as u32).collect(), &mut records)
            .expect("an epoch");
    }
    let losses: Vec<f32> = records.iter().map(|record| record.loss as f32).collect();
    close(&format!("{model}: losses"), &losses, &wanted, 1e-4);
    for part in golden.file.under("losses.") {
        let got = records.iter().map(|r| r.get(&part).unwrap_or_else(|| panic!("no {part}")));
        let want = golden.file.f32(&format!("losses.{part}"));
        // Rows a thousandth long are divided by their length there: parameters that differ by 2e-6, as
        // f32 makes them, make a difference of 2e-4.
        let allowed = if part == "diff" { 5e-4 } else { 1e-4 };
        close(&format!("{model}: {part}"), &got.collect::<Vec<f32>>(), &want, allowed);
    }
    let (weights, summaries) = (whole.weights().expect("weights"), golden.summaries("final"));
    let (first, frozen) = (golden.weights(), &golden.said["without_gradient"]);
    for (name, _, got) in weights.iter() {
        let what = format!("{model}: {name} in the end");
        if frozen.as_array().is_some_and(|all| all.iter().any(|one| one == name)) {
            assert_eq!(Some(got), first.get(name).map(|(_, values)| values), "{what}: it moved");
            continue;
        }
        if let Some((_, want)) = summaries.iter().find(|(summed, _)| *summed == name) {
            close_by_summary(&what, got, want, 1e-3);
            continue;
        }
        let want = golden.file.f32(&format!("final.{name}"));
        let (mut got, mut want) = (got.to_vec(), want);
        let rounding = golden.rounding(name, got.len());
        got[rounding.clone()].fill(0.0);
        want[rounding].fill(0.0);
        // Of an encoder's thousands some gradients lie so near 0 that rounding is their sign.
        let most = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
        let far = |(g, w): (&f32, &f32)| (g - w).abs() > 1e-3 * most;
        let outliers = got.iter().zip(&want).filter(|pair| far(*pair)).count();
        let encoder = golden.said["bert"].as_str().is_some_and(|at| name.starts_with(at));
        if encoder && outliers * 1000 <= got.len() {
            continue;
        }
        close(&what, &got, &want, 1e-3);
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
fn classes_are_pytorchs() {
    check("lf_dnn_classes");
}

#[test]
fn labels_are_pytorchs() {
    check("lmf_labels");
}

#[test]
fn several_numbers_are_pytorchs() {
    check("tfn_numbers");
}

#[test]
fn labels_of_the_parts_are_pytorchs() {
    check("mlf_dnn");
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
            let streams: Vec<StreamSpec> = Modality::KNOWN.into_iter().zip(dims).map(of).collect();
            let config = Config::preset(model, preset).expect("a preset");
            let offered = Offered::new(&streams);
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
        let config = golden.config("mfn", &settings("mfn", golden));
        let data = golden.data(folder.path(), &config);
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
    let data = golden.data(folder.path(), &golden.config("mult", &settings("mult", &golden)));
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
    assert!(refused.contains("mult wants two streams or more"), "{refused}");
}

/// By turns through one head; `tests/fixtures/golden_mla.py` is its witness.
#[test]
fn mla_is_pytorchs() {
    check("mla");
    let golden = Golden::read("mla");
    let folder = tempfile::tempdir().expect("a folder");
    let data = golden.data(folder.path(), &config("mla", &golden, &[]));
    for (norm, losses, p) in
        [("none", "losses", "state.P"), ("frobenius", "frobenius.losses", "frobenius.P")]
    {
        let set = [format!("model.p_norm={norm}"), "model.batch_entropy=true".into()];
        let mut session = session("mla", &golden, &data, &set);
        let said = session.predict(SplitName::Test).expect("scores");
        assert_eq!(said.tasks, ["M", "A", "V", "T"]);
        close("scores as released", &said.fused(), &golden.file.f32("forward.batch_entropy"), 1e-5);
        for (i, letter) in said.tasks.iter().enumerate().skip(1) {
            let want = golden.file.f32(&format!("out.{letter}"));
            close(&format!("scores of {letter}"), &said.of(i), &want, 1e-5);
        }
        let mut records: Vec<StepRecord> = Vec::new();
        for epoch in 1..=10 {
            common::train_epoch(&mut session, epoch, (0..10).collect(), &mut records)
                .expect("an epoch");
        }
        let got: Vec<f32> = records.iter().map(|record| record.loss as f32).collect();
        close(&format!("losses, {norm}"), &got, &golden.file.f32(losses), 1e-4);
        let got = session.state("P").expect("a state");
        close(&format!("P, {norm}"), &got, &golden.file.f32(p), 1e-4);
        if norm == "none" {
            is_projector(&got);
        }
    }
}

/// P is symmetric to the bit, and its eigenvalues lie above 0 and not above 1.
fn is_projector(p: &[f32]) {
    let d = p.len().isqrt();
    let at = |i: usize, j: usize| f64::from(p[d * i + j]);
    assert!((0..d).all(|i| (0..i).all(|j| at(i, j).to_bits() == at(j, i).to_bits())));
    // A matrix has a Cholesky factor where its eigenvalues are above 0.
    let positive = |of: &dyn Fn(usize, usize) -> f64| {
        let mut l = vec![vec![0.0; d]; d];
        (0..d).all(|i| {
            for j in 0..=i {
                let sum: f64 = (0..j).map(|k| l[i][k] * l[j][k]).sum();
                let left = of(i, j) - sum;
                l[i][j] = if i == j { left.sqrt() } else { left / l[j][j] };
            }
            l[i][i] > 0.0
        })
    };
    assert!(positive(&at), "P has an eigenvalue that is not above 0");
    let below = |i: usize, j: usize| f64::from(u8::from(i == j)) * (1.0 + 1e-6) - at(i, j);
    assert!(positive(&below), "P has an eigenvalue above 1");
}

/// Rows that lack modalities take no part in their turns, in P and in the fusion.
#[test]
fn mla_learns_of_what_rows_have() {
    let golden = Golden::read("mla");
    let folder = tempfile::tempdir().expect("a folder");
    for joint in [false, true] {
        let set = [format!("model.joint={joint}")];
        let config = config("mla", &golden, &set);
        let lacking: Vec<String> =
            ["text", "audio", "vision"].map(|m| format!("{m}_missing")).into();
        let data = golden.data_with(folder.path(), &config, &lacking);
        let train = data.split(SplitName::Train).expect("rows");
        let usual = Standardise::with_usual(train, &[], Normalize::None).expect("means");
        let usual = Some(Arc::new(usual));
        let mut session =
            Session::new(gpu(), &config, data.clone(), usual, true).expect("a session");
        session.initialise().expect("states");
        session.load(&golden.weights(), &PathBuf::from("golden")).expect("weights");
        let said = session.predict(SplitName::Test).expect("scores").fused();
        let kind = if joint { "joint" } else { "lacking" };
        close(
            &format!("{kind}: scores"),
            &said,
            &golden.file.f32(&format!("{kind}.forward")),
            1e-5,
        );
        let mut records: Vec<StepRecord> = Vec::new();
        for epoch in 1..=10 {
            common::train_epoch(&mut session, epoch, (0..10).collect(), &mut records)
                .expect("an epoch");
        }
        let got: Vec<f32> = records.iter().map(|record| record.loss as f32).collect();
        close(&format!("{kind}: losses"), &got, &golden.file.f32(&format!("{kind}.losses")), 1e-4);
        if joint {
            assert!(session.state("P").expect("no state").is_empty());
            continue;
        }
        for letter in ["A", "V", "T"] {
            let got: Vec<f32> = records.iter().filter_map(|r| r.get(letter)).collect();
            let want = golden.file.f32(&format!("lacking.losses.{letter}"));
            close(&format!("lacking: losses of {letter}"), &got, &want, 1e-4);
        }
        let got = session.state("P").expect("a state");
        close("lacking: P", &got, &golden.file.f32("lacking.P"), 1e-4);
        is_projector(&got);
    }
}

/// A reconstruction; `tests/fixtures/golden_mmcl.py` is its witness.
#[test]
fn mmcl_is_pytorchs() {
    check("mmcl");
}

/// With an LSTM over the text, contrast by class, and targets that learn nothing from their predictions.
#[test]
fn mmcl_of_classes_is_pytorchs() {
    check("mmcl_classes");
}

/// Parts that are off have neither parameters nor columns, and what is left learns; views differ from step to
/// step and are the same again. Two streams are enough, and one is refused, as is text alone or none.
#[test]
fn mmcl_is_as_large_as_its_parts() {
    let golden = Golden::read("mmcl");
    let folder = tempfile::tempdir().expect("a folder");
    let data = golden.data(folder.path(), &config("mmcl", &golden, &[]));
    let run = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let config = config("mmcl", &golden, &set);
        let mut session = Session::new(gpu(), &config, data.clone(), None, true)?;
        session.initialise()?;
        let mut records: Vec<StepRecord> = Vec::new();
        for epoch in 1..=2 {
            common::train_epoch(&mut session, epoch, (0..10).collect(), &mut records)?;
        }
        let losses: Vec<f64> = records.iter().map(|record| record.loss).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{set:?}: {losses:?}");
        let columns = session.model().columns().list().iter().map(|c| c.name.clone());
        let columns = columns.collect::<Vec<_>>().join(" ");
        Ok::<_, modalign::Error>((columns, session.weights()?.iter().count(), losses))
    };
    let all =
        ["M coding instance sentiment", "M instance sentiment", "M coding", "M coding sentiment"];
    // Two tensors of each linear layer, four of each LSTM.
    let whole = 2 + 2 * 6 + 4 + 2 * 8;
    for (set, columns, tensors) in [
        (vec![], all[0], whole),
        (vec!["contrast.coding=0"], all[1], whole - 8),
        (vec!["model.predict=false"], all[2], whole - 8),
        (vec!["contrast.instance=0"], all[3], whole),
        (vec!["model.shared_predictor=true"], all[0], whole - 4),
        (vec!["contrast.detach_target=true"], all[0], whole),
        (vec!["model.modalities=TA"], all[0], 2 + 6 + 4 + 8),
        (vec!["model.modalities=TV", "contrast.coding=0"], all[1], 2 + 6 + 4 + 4),
    ] {
        let found = run(&set).unwrap_or_else(|e| panic!("{set:?}: {e}"));
        assert_eq!((found.0.as_str(), found.1), (columns, tensors), "{set:?}");
    }
    let drawn = ["views.run=0.15", "views.channels=0.3", "views.noise=0.2"];
    let (first, again) = (run(&drawn).expect("a run"), run(&drawn).expect("a run"));
    assert_eq!(first.2, again.2);
    assert_ne!(first.2, run(&["train.seed=5"]).expect("a run").2);
    // A batch of one row has nothing to be told apart from.
    let alone = run(&["train.batch_size=1"]).expect("a run");
    assert_eq!(alone.0, all[0]);
    for letters in ["T", "A", "AV"] {
        let said = run(&[&format!("model.modalities={letters}")]).expect_err("refused").to_string();
        assert!(said.contains("wants text and one of them") && !said.contains('\n'), "{said}");
    }
}

#[test]
fn misa_is_pytorchs() {
    check("misa");
}

#[test]
fn almt_is_pytorchs() {
    check("almt");
}

#[test]
fn bert_mag_is_pytorchs() {
    check("bert_mag");
}

#[test]
fn cenet_is_pytorchs() {
    check("cenet");
}

/// Beside an encoder whose hidden states have 768 columns, with the field's features.
#[test]
fn models_have_as_many_parameters_as_mmsa_s() {
    let (mosi, mosei, sims) = (
        [(50, 768), (375, 5), (500, 20)],
        [(50, 768), (500, 74), (500, 35)],
        [(39, 768), (400, 33), (55, 709)],
    );
    for (name, preset, sizes, want) in [
        ("misa", "mosi", mosi, 1_138_033),
        ("misa", "mosei", mosei, 1_435_105),
        ("almt", "mosi", mosi, 2_603_649),
        ("almt", "mosei", mosei, 3_223_041),
        ("almt", "sims", sims, 3_232_897),
    ] {
        let streams = Modality::KNOWN.into_iter().zip(sizes);
        let streams: Vec<StreamSpec> = streams
            .map(|(modality, (steps, dim))| StreamSpec { modality, steps, dim, lengths: true })
            .collect();
        let config = Config::preset(name, preset).expect("a preset");
        let model = Model::new(&config, Offered::new(&streams)).expect(name);
        let all = model.params(true, usize::MAX);
        let got: usize = all.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        assert_eq!(got, want, "{name} for {preset}");
    }
}
