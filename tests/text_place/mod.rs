//! What the tests of pretrained text share: a folder with a tiny encoder and a small data set of
//! sentences and audio, and the built command run in it.

// Every test file uses its own part.
#![allow(dead_code)]

use crate::common::{Made, TensorFile, config};
use crate::ran;
use modalign::data::{SplitName, Tokenizer};
use modalign::train::Saved;
pub use ran::{Ran, fails};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rows of train, valid and test: more than are kept out of the cache of features.
pub const ROWS: [usize; 3] = [48, 16, 16];

/// A folder with `encoder/`, `data.safetensors`, `data.json`, and `small.toml` for a small model.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Place { folder: tempfile::tempdir().expect("a folder") };
        place.encoder("encoder", |_, _| ());
        made().save(&place.at("data.safetensors"));
        place.side("data.json", sentences);
        let small = config(&["train.early_stop=0", "train.lr=1e-3", "align.weight=0"]);
        fs::write(place.at("small.toml"), small.to_toml().expect("TOML")).expect("written");
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another encoder: the tiny one with its config.json and tensors changed.
    pub fn encoder(&self, name: &str, edit: impl FnOnce(&mut Map<String, Value>, &mut TensorFile)) {
        let (from, to) = (tiny(), self.at(name));
        fs::create_dir_all(&to).expect("a folder");
        fs::copy(from.join("vocab.txt"), to.join("vocab.txt")).expect("a copy");
        let config = fs::read(from.join("config.json")).expect("config.json");
        let mut config = serde_json::from_slice(&config).expect("JSON");
        let mut tensors = TensorFile::read(&from.join("model.safetensors"));
        edit(&mut config, &mut tensors);
        let config = serde_json::to_vec(&config).expect("JSON");
        fs::write(to.join("config.json"), config).expect("written");
        tensors.save(&to.join("model.safetensors"));
    }

    /// Writes a side file with the texts of every split.
    pub fn side(&self, name: &str, texts: impl Fn(SplitName) -> Vec<String>) {
        let splits =
            SplitName::ALL.map(|s| (s.name().to_string(), json!({ "raw_text": texts(s) })));
        let side = Value::Object(splits.into_iter().collect());
        fs::write(self.at(name), side.to_string()).expect("written");
    }

    /// The command, with a cache of its own; compiled shaders are shared with other runs.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modalign"));
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        command.env("XDG_CACHE_HOME", self.at("cache")).env_remove("RUST_LOG");
        let shaders = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command.env("MESA_SHADER_CACHE_DIR", shaders);
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        self.command(line).output().expect("a command").into()
    }

    /// Runs a command that must succeed, and gives its stdout.
    pub fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        ran.out
    }

    pub fn json(&self, line: &str) -> Value {
        let out = self.ok(&format!("{line} --json"));
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{line}: {e}: {out}"))
    }

    /// Trains the small model into `out`.
    pub fn train(&self, out: &str, more: &str) {
        self.ok(&format!("train --config small.toml --out {out} --quiet {more}"));
    }

    /// Trains it on the sentences with the tiny encoder.
    pub fn tuned(&self, out: &str, more: &str) -> Saved {
        self.train(out, &format!("--data data.safetensors --bert encoder {more}"));
        self.saved(out)
    }

    pub fn saved(&self, model: &str) -> Saved {
        Saved::load(&self.at(model)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The fused scores of a split.
    pub fn scores(&self, model: &str, data: &str, split: SplitName) -> Vec<f32> {
        let all = self.json(&format!("predict --model {model} --data {data} --split {split}"));
        all["rows"].as_array().expect("rows").iter().map(score).collect()
    }

    /// `predict --text` of some texts, as JSON rows.
    pub fn spoken(&self, model: &str, texts: &[&str]) -> Vec<Value> {
        let mut command = self.command(&format!("predict --json --model {model}"));
        command.args(texts.iter().flat_map(|text| ["--text", text]));
        let ran = Ran::from(command.output().expect("a command"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let all: Value = serde_json::from_str(&ran.out).expect("JSON");
        all["rows"].as_array().expect("rows").clone()
    }

    /// Names of the feature files that were kept.
    pub fn features(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.at("cache/modalign/text")) else { return Vec::new() };
        let mut all: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        all.sort();
        all
    }
}

pub fn score(row: &Value) -> f32 {
    row["score"].as_f64().unwrap_or_else(|| panic!("no score in {row}")) as f32
}

pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert_tiny")
}

/// The tensors of the data set: audio and labels, no text.
pub fn made() -> TensorFile {
    Made { rows: ROWS, text: None, audio: Some((6, 5)), vision: None, seed: 1 }.tensors()
}

/// A sentence for each row: its words lean as its label does. One is empty, one longer than the
/// model reads, and some have signs that the vocabulary has not.
pub fn sentences(split: SplitName) -> Vec<String> {
    const GOOD: [&str; 6] = ["good", "great", "love", "funny", "like", "best"];
    const BAD: [&str; 6] = ["bad", "boring", "hate", "long", "not", "unwatchable"];
    const REST: [&str; 7] = ["the", "film", "was", "really", "story", "don't", "我好"];
    let labels = made().f32(&format!("{split}.regression_labels"));
    let sentence = |(row, label): (usize, &f32)| {
        let words: Vec<&str> = (0..row * 5 % 13)
            .map(|i| match (i % 2, *label > 0.0) {
                (0, true) => GOOD[(row + i) % 6],
                (0, false) => BAD[(row + i) % 6],
                _ => REST[(row * 3 + i) % 7],
            })
            .collect();
        match row {
            3 => "a very long film ".repeat(30),
            4 => "😀 Ünïcödé, film! 10".into(),
            _ => words.join(" "),
        }
    };
    labels.iter().enumerate().map(sentence).collect()
}

/// Adds `text_bert` to a data set: the tokens of these texts, at most 50 of each.
pub fn add_tokens(file: &mut TensorFile, texts: impl Fn(SplitName) -> Vec<String>) {
    let tokenizer = Tokenizer::open(tiny()).expect("a tokenizer");
    for split in SplitName::ALL {
        let ids = tokenizer.encode_all(&texts(split), 50).expect("tokens");
        let mut values = vec![0; ids.len() * 3 * 50];
        for (row, ids) in values.chunks_mut(3 * 50).zip(&ids) {
            for (at, id) in ids.iter().enumerate() {
                (row[at], row[50 + at]) = (*id as i32, 1);
            }
        }
        file.put_i32(&format!("{split}.text_bert"), &[ids.len(), 3, 50], &values);
    }
}
