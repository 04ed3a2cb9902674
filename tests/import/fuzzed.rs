//! The targets of the fuzzer (`tests/fuzz`), each over a bounded number of mutants of what is sound.

use std::path::Path;

use modalign::recipe::Config;

use crate::bombs::{FIXED, peak};
use crate::mutated::{Dice, mutate};
use crate::place::{folder, pickles};
use crate::targets::TARGETS;

const MUTANTS: u64 = 600;

fn tests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

/// What is sound, of each target.
fn sound(target: &str) -> Vec<Vec<u8>> {
    let read = |name: &str| std::fs::read(tests().join(name)).unwrap();
    let epoch =
        r#"{"epoch":1,"loss":0.5,"parts":{"M":0.5},"valid_loss":0.4,"valid":null,"best":true}"#;
    let plan = "name = 'a'\ndata = 'x.safetensors'\nseeds = [1, 2]\nfolds = 3\ncells = 'ablation'\n\
                [set]\n'train.lr' = 0.1\n[grid]\n'align.dim' = [4, 8]\n[[cell]]\nname = 'b'\nset = { 'model.layers' = 2 }\n";
    match target {
        "data_set" => vec![read("fixtures/features.safetensors"), made(Made::Set)],
        "side_file" => vec![br#"{"test": {"id": ["a", "b"], "raw_text": ["x", "y"]}, "class_names": ["n"]}"#.to_vec()],
        "model" => vec![read("fixtures/selfmm.safetensors"), made(Made::Model)],
        "weights" => vec![read("fixtures/adam.safetensors")],
        "run" => vec![br#"{"format": 4, "data": "a", "data_sha256": "b", "init": null, "adapter": "c", "driver": "d", "version": "e", "fold": null, "settings": {"train.lr": "1"}}"#.to_vec()],
        "log" => vec![format!("{epoch}\n{epoch}\n").into_bytes()],
        "results" => vec![b"{\"name\": \"a\", \"cells\": []}".to_vec()],
        "plan" => vec![plan.as_bytes().to_vec()],
        "configuration" => {
            let config = |name: &str| Config::preset(name, "mosi").unwrap().to_toml().unwrap();
            ["self_mm", "mult", "tfn"].map(|name| config(name).into_bytes()).to_vec()
        }
        "encoder" => vec![read("fixtures/bert_tiny/config.json")],
        "tokenizer" => vec![br###"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}], "pair": [], "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [0], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [1], "tokens": ["[SEP]"]}}}, "decoder": null, "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "some": 3}}}"###.to_vec()],
        "arrays" => {
            let mut all: Vec<Vec<u8>> = pickles().iter().map(|p| std::fs::read(p).unwrap()).collect();
            all.push(b"id,label,split\na,1.5,train\nb,-1,test\n".to_vec());
            let brought = ["objects.npz", "bag.pkl", "one.pkl", "types.safetensors", "v110.h5", "matlab.mat"];
            all.extend(brought.map(|name| read(&format!("fixtures/field/{name}"))));
            all
        }
        "table" => ["covarep", "opensmile", "openface", "pandas"]
            .map(|kind| read(&format!("fixtures/field/steps/{kind}/c0.csv")))
            .to_vec(),
        "recording" => {
            let mut all = vec![read("fixtures/speech.wav")[..4000].to_vec()];
            all.extend(["flac", "ogg", "mp3"].map(|end| read(&format!("fixtures/sound/speech.{end}"))));
            all
        }
        _ => ["matmul", "attention", "lstm_forward"]
            .map(|name| modalign::ops::find(name).unwrap().source.as_bytes().to_vec())
            .to_vec(),
    }
}

enum Made {
    Set,
    Model,
}

/// A file of this version, with a digest of its own contents where it has one.
fn made(what: Made) -> Vec<u8> {
    let place = folder();
    let path = place.path().join("made.safetensors");
    match what {
        Made::Set => crate::mutated::small_set(&path),
        Made::Model => crate::mutated::small_model(&path),
    }
    std::fs::read(path).unwrap()
}

const TOKENS: [&[u8]; 14] = [
    b"{",
    b"[",
    b"}",
    b"]",
    b"\"",
    b",",
    b":",
    b"1e999",
    b"-1",
    b"18446744073709551615",
    b"null",
    b"#for i in 0..9\n",
    b"#endfor\n",
    b"\xff\xfe",
];

/// What the fuzzer begins with, where `FUZZ_SEEDS` names a folder for it.
#[test]
fn what_is_sound_is_written_for_the_fuzzer() {
    let Some(to) = std::env::var_os("FUZZ_SEEDS").map(std::path::PathBuf::from) else { return };
    for (name, _) in TARGETS {
        std::fs::create_dir_all(to.join(name)).unwrap();
        for (i, bytes) in sound(name).iter().enumerate() {
            std::fs::write(to.join(name).join(format!("sound-{i}")), bytes).unwrap();
        }
    }
}

#[test]
fn mutants_of_every_target_are_taken_or_refused() {
    for (name, target) in TARGETS {
        let (place, bases) = (folder(), sound(name));
        let mut taken = 0;
        for number in 0..MUTANTS {
            let mut dice = Dice(7_000_000 + number);
            let mut bytes = bases[number as usize % bases.len()].clone();
            if number >= bases.len() as u64 {
                mutate(&mut bytes, &mut dice, &TOKENS);
            }
            let (ok, peak) = peak(|| {
                std::panic::catch_unwind(|| target(place.path(), &bytes))
                    .unwrap_or_else(|_| panic!("mutant {number} of {name} made it panic"))
            });
            assert!(peak <= 4 * bytes.len() + FIXED, "mutant {number} of {name}: {peak} bytes");
            taken += u64::from(ok);
        }
        println!("{name}: {taken} of {MUTANTS} were taken");
    }
}
