//! Pretrained text that cannot be: one line that names the file or tensor and says what to do,
//! a failing exit status, and nothing half-written.

use crate::{common, text_place};
use common::TensorFile;
use modalign::data::SplitName;
use serde_json::Value;
use std::fs;
use text_place::{Place, Ran, add_tokens, fails, made, sentences};

const QUERY: &str = "encoder.layer.0.attention.self.query.weight";

fn command(line: &str) -> String {
    format!("train --config small.toml --out bad {line}")
}

/// Training is refused, whether the encoder would be trained or not.
fn refused(place: &Place, line: &str, code: i32, words: &[&str]) {
    for more in ["", "--set bert.finetune=false"] {
        fails(place.run(&command(&format!("{line} {more}"))), code, words);
        assert!(!place.at("bad").exists(), "{line} {more}: nothing half-written");
        assert!(place.features().is_empty(), "{line} {more}: no features");
    }
}

#[test]
fn folders_without_an_encoder() {
    let place = Place::new();
    let refused = |folder: &str, words: &[&str]| {
        refused(&place, &format!("--data data.safetensors --bert {folder}"), 1, words);
    };
    refused("nowhere", &["nowhere/config.json", "there is no such file"]);
    fs::create_dir(place.at("empty")).unwrap();
    refused("empty", &["empty/config.json", "give the folder of a pretrained encoder"]);

    place.encoder("pickle", |_, _| ());
    let weights = place.at("pickle/model.safetensors");
    fs::rename(&weights, place.at("pickle/pytorch_model.bin")).unwrap();
    refused("pickle", &["pickle/pytorch_model.bin", "not a file of torch.save"]);
    fs::remove_file(place.at("pickle/pytorch_model.bin")).unwrap();
    refused("pickle", &["pickle/model.safetensors", "there is no such file"]);
    fs::write(&weights, b"no tensors").unwrap();
    refused("pickle", &["pickle/model.safetensors", "no whole safetensors file"]);

    place.encoder("mute", |_, _| ());
    fs::remove_file(place.at("mute/vocab.txt")).unwrap();
    refused("mute", &["mute", "neither tokenizer.json nor vocab.txt"]);
    place.encoder("wordy", |config, _| drop(config.insert("vocab_size".into(), 150.into())));
    refused("wordy", &["wordy/vocab.txt", "199", "150"]);
}

#[test]
fn halves_that_cannot_be() {
    let place = Place::new();
    let half = "--data data.safetensors --set bert.half=true --bert";
    fails(place.run(&command(&format!("{half} encoder"))), 2, &["bert.half", "freeze_layers"]);
    place.encoder("loud", |_, tensors| {
        let mut values = vec![0.1; 64 * 64];
        values[5] = -65505.0;
        tensors.put_f32(QUERY, &[64, 64], &values);
    });
    for more in ["bert.freeze_layers=1", "bert.finetune=false"] {
        let ran = place.run(&command(&format!("{half} loud --set {more}")));
        fails(ran, 1, &["loud", QUERY, "65504", "bert.half"]);
        assert!(place.features().is_empty());
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let place = Place::new();
    let wrong = |name: &str, words: &[&str], edit: &dyn Fn(&mut TensorFile)| {
        place.encoder(name, |_, tensors| edit(tensors));
        let file = format!("{name}/model.safetensors");
        let words: Vec<&str> = [file.as_str(), QUERY].into_iter().chain(words.to_vec()).collect();
        refused(&place, &format!("--data data.safetensors --bert {name}"), 1, &words);
    };
    wrong("missing", &["get a whole copy"], &|t| drop(t.tensors.remove(QUERY)));
    wrong("misshapen", &["[64, 32]", "[64, 64]"], &|t| {
        t.put_f32(QUERY, &[64, 32], &[0.0; 64 * 32])
    });
    let mut values = [0.5; 64 * 64];
    values[77] = f32::NAN;
    wrong("nan", &["NaN", "element 77"], &|t| t.put_f32(QUERY, &[64, 64], &values));
}

#[test]
fn configurations_that_do_not_fit() {
    let place = Place::new();
    let keys = |name: &str, key: &'static str, value: Value| {
        place.encoder(name, |config, _| drop(config.insert(key.into(), value)));
    };
    keys("tanh", "hidden_act", "gelu_new".into());
    let data = "--data data.safetensors --bert";
    let words = ["tanh/config.json", "hidden_act", "gelu_new", "gelu or relu"];
    refused(&place, &format!("{data} tanh"), 1, &words);
    keys("xlnet", "model_type", "xlnet".into());
    refused(&place, &format!("{data} xlnet"), 1, &["xlnet/config.json", "model_type"]);

    let bert = "--data data.safetensors --set model.text_encoder=bert";
    refused(&place, bert, 2, &["bert.path", "--bert FOLDER"]);
    for (setting, words) in [
        ("bert.max_tokens=2", ["bert.max_tokens", "3 to 512"]),
        ("bert.pooling=max", ["bert.pooling", "first` or `mean"]),
        ("bert.input=speech", ["bert.input", "raw_text"]),
        ("bert.dropout=1", ["bert.dropout", "below 1"]),
    ] {
        refused(&place, &format!("{data} encoder --set {setting}"), 2, &words);
    }
    let words = ["bert.freeze_layers = 3", "encoder", "2 layers"];
    let line = format!("{data} encoder --set bert.freeze_layers=3");
    refused(&place, &line, 2, &words);
    fails(place.run(&line.replace("--data", "inspect --plan")), 2, &words);
}

#[test]
fn data_without_tokens() {
    let place = Place::new();
    made().save(&place.at("silent.safetensors"));
    let line = |file: &str, more: &str| format!("--data {file}.safetensors --bert encoder {more}");
    let words = ["silent.safetensors", "raw_text", "text_bert"];
    refused(&place, &line("silent", ""), 1, &words);
    let ids = line("data", "--set bert.input=text_bert");
    refused(&place, &ids, 1, &["data.safetensors", "text_bert"]);

    let mut tokens = made();
    add_tokens(&mut tokens, sentences);
    tokens.save(&place.at("tokens.safetensors"));
    let text = line("tokens", "--set bert.input=raw_text");
    refused(&place, &text, 1, &["tokens.safetensors", "raw_text"]);
    let mut ids = tokens.i32("valid.text_bert");
    ids[7 * 150 + 1] = 200;
    tokens.put_i32("valid.text_bert", &[16, 3, 50], &ids);
    tokens.save(&place.at("tokens.safetensors"));
    let words =
        ["tokens.safetensors", "valid.text_bert", "row 7", "the id 200", "200 word vectors"];
    refused(&place, &line("tokens", ""), 1, &words);
}

#[test]
fn more_tokens_than_positions_are_cut_with_a_warning() {
    let place = Place::new();
    let scores = |out: &str, most: usize| {
        let line = format!(
            "train --data data.safetensors --bert encoder --config small.toml --max-epochs 1 \
             --out {out} --set bert.max_tokens={most}"
        );
        let ran = place.run(&line);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        (ran.err, place.scores(out, "data.safetensors", SplitName::Test))
    };
    // The encoder has 64 positions, and one sentence more tokens than that.
    let (all, cut) = (scores("all", 64), scores("cut", 100));
    let said = "warning: texts are cut to 64 tokens in 1 of 48 rows of train";
    for err in [&all.0, &cut.0] {
        assert!(err.contains(said) && err.contains("has no more positions"), "{err}");
    }
    assert_eq!(cut.1, all.1);
}

#[test]
fn sentences_that_nobody_can_read() {
    let place = Place::new();
    let typed = |model: &str, more: &str| -> Ran {
        let mut command = place.command(&format!("predict --model {model} {more} --text"));
        command.arg("a good film").output().unwrap().into()
    };
    place.tuned("fused", "--max-epochs 1 --set labels.enabled=false");
    let words = ["fused/model.safetensors", "labels.enabled=false", "model.modalities=T"];
    fails(typed("fused", ""), 2, &words);
    let line = "train --data data.safetensors --bert encoder --model cenet --max-epochs 1 --quiet";
    place.ok(&format!("{line} --out inside"));
    fails(typed("inside", ""), 2, &["inside/model.safetensors", "cenet makes one score", "--data"]);
    place.train("deaf", "--data data.safetensors --max-epochs 1");
    fails(typed("deaf", ""), 2, &["deaf/model.safetensors", "--bert FOLDER"]);
    fails(typed("fused", "--data data.safetensors"), 2, &["--data", "--text"]);
    fails(typed("fused", "--split test"), 2, &["--split", "--text"]);
    // A model file away from its run has no tokenizer by its side.
    place.tuned("text", "--max-epochs 1 --set model.modalities=T");
    fs::rename(place.at("text/model.safetensors"), place.at("alone.safetensors")).unwrap();
    fails(typed("alone.safetensors", ""), 1, &["bert", "neither tokenizer.json nor vocab.txt"]);
    let data = place.run("eval --model alone.safetensors --data data.safetensors");
    fails(data, 1, &["bert/config.json"]);
    assert!(!place.at("text/bert/model.safetensors").exists());
}
