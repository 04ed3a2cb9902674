//! What reads bytes that somebody else may have written, each as a function of bytes: for the coverage-guided
//! fuzzer of this folder, and for a bounded run of mutants among the tests (`tests/import/fuzzed.rs`).

use modalign::data::import::{Options, import};
use modalign::data::{Dataset, Tokenizer};
use modalign::experiment::{Plan, Results};
use modalign::features::{Sound, read_labels};
use modalign::gpu::expand;
use modalign::nn::{Pretrained, Weights};
use modalign::recipe::Config;
use modalign::train::{Saved, folder};
use std::fs;
use std::path::Path;

/// Reads bytes by way of a folder of its own; whether they were taken for what they should be.
pub type Target = fn(&Path, &[u8]) -> bool;

/// All of them, by name.
pub const TARGETS: [(&str, Target); 15] = [
    ("data_set", data_set),
    ("side_file", side_file),
    ("model", model),
    ("weights", weights),
    ("run", run),
    ("log", log),
    ("results", results),
    ("plan", plan),
    ("configuration", configuration),
    ("encoder", encoder),
    ("tokenizer", tokenizer),
    ("arrays", arrays),
    ("table", table),
    ("recording", recording),
    ("shader", shader),
];

fn put(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(folder).expect("a folder");
    fs::write(&path, bytes).expect("written");
    path
}

fn data_set(at: &Path, bytes: &[u8]) -> bool {
    Dataset::open(put(at, "set.safetensors", bytes)).is_ok()
}

/// Beside a data set of two rows.
fn side_file(at: &Path, bytes: &[u8]) -> bool {
    let header = r#"{"test.text":{"dtype":"F32","shape":[2,1,1],"data_offsets":[0,8]}}     "#;
    let mut set = (header.len() as u64).to_le_bytes().to_vec();
    set.extend(header.as_bytes());
    set.extend([0; 8]);
    let path = put(at, "beside.safetensors", &set);
    put(at, "beside.json", bytes);
    Dataset::open(path).is_ok()
}

fn model(at: &Path, bytes: &[u8]) -> bool {
    Saved::load(&put(at, "model.safetensors", bytes)).is_ok()
}

fn weights(at: &Path, bytes: &[u8]) -> bool {
    Weights::load(&put(at, "weights.safetensors", bytes)).is_ok()
}

/// A run's card.
fn run(at: &Path, bytes: &[u8]) -> bool {
    let at = at.join("run");
    put(&at, "run.json", bytes);
    put(&at, "config.toml", b"");
    folder::trained_on(&at).is_ok() & folder::data(&at).is_ok()
}

/// A run's log of epochs.
fn log(at: &Path, bytes: &[u8]) -> bool {
    let at = at.join("logged");
    put(&at, "epochs.jsonl", bytes);
    folder::epochs(&at).is_ok_and(|all| !all.is_empty())
}

fn results(at: &Path, bytes: &[u8]) -> bool {
    let at = at.join("experiment");
    put(&at, "results.json", bytes);
    Results::read(&at).is_ok()
}

fn plan(at: &Path, bytes: &[u8]) -> bool {
    let plan = Plan::read(&put(at, "plan.toml", bytes));
    plan.and_then(|plan| plan.all_cells(&modalign::data::Modality::KNOWN)).is_ok()
}

fn configuration(_: &Path, bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    Config::build("mosi", Some(&text), &[]).and_then(|config| config.to_toml()).is_ok()
}

fn encoder(at: &Path, bytes: &[u8]) -> bool {
    let at = at.join("encoder");
    put(&at, "config.json", bytes);
    put(&at, "model.safetensors", b"");
    Pretrained::open(&at).is_ok()
}

fn tokenizer(at: &Path, bytes: &[u8]) -> bool {
    let at = at.join("tokenizer");
    put(&at, "tokenizer.json", bytes);
    Tokenizer::open(&at).and_then(|all| all.encode("Some words, 12 of them: naïve…", 16)).is_ok()
}

/// A pickle, an archive, tensors, an HDF5 file or a single array, by what it begins with; a table of labels where
/// it is text.
fn arrays(at: &Path, bytes: &[u8]) -> bool {
    let name = match bytes {
        [b'P', b'K', ..] => "in.npz",
        [0x93, b'N', ..] => "in.npy",
        [0x89, b'H', ..] | [b'M', b'A', ..] => "in.h5",
        [.., _] if bytes.get(8) == Some(&b'{') => "in.tensors",
        [0x80, ..] => "in.pkl",
        _ => return read_labels(put(at, "labels.csv", bytes)).is_ok(),
    };
    let source = put(at, name, bytes);
    import(&source, &at.join("out.safetensors"), &Options::default(), &mut |_, _| {}).is_ok()
}

/// The steps of one sample.
fn table(at: &Path, bytes: &[u8]) -> bool {
    let at = at.join("steps");
    put(&at, "a.csv", bytes);
    put(&at, "meta.csv", b"id,label,split\na,1,train\n");
    let map = "split = 'meta.csv:split'\n[fields]\nid = 'meta.csv:id'\nvision = '{id}.csv'\n";
    let options = Options { map: Some(put(&at, "map.toml", map.as_bytes())), ..Options::default() };
    import(&at, &at.join("out.safetensors"), &options, &mut |_, _| {}).is_ok()
}

fn recording(at: &Path, bytes: &[u8]) -> bool {
    Sound::open(put(at, "in.wav", bytes))
        .and_then(|mut sound| {
            let mut some = [0.0; 4096];
            sound.read(&mut some)
        })
        .is_ok()
}

fn shader(_: &Path, bytes: &[u8]) -> bool {
    expand(&String::from_utf8_lossy(bytes), &[("WG", 64)].into()).is_ok()
}
