//! The commands of the README's code blocks, run in order in one folder as a reader would, on data that is
//! small enough. (That those in its text start as they are printed is tested in `src/cli/shown.rs`.)

use crate::ran;
use ran::{Place, Ran};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What is added to a command, by its first words, so that it is done soon; and why it would not be.
/// Where two entries fit, the first counts.
const SMALLER: [(&str, &str, &str); 13] = [
    ("modalign selftest", "--quick --only trainings", "all kernels take a minute or two"),
    (
        "modalign synth",
        "--train 96 --valid 32 --test 32 --audio steps=6,min_steps=2 --vision steps=5,min_steps=2",
        "1,216 rows are for a minute of training",
    ),
    ("modalign train --data play.safetensors", "--max-epochs 1", "it would stop by itself, later"),
    (
        "modalign experiment ablation --data play.safetensors",
        "--seeds 1 --shard 1/9 --set train.max_epochs=1",
        "18 cells of 5 seeds are 90 runs",
    ),
    ("modalign profile", "--steps 1", "medians want more"),
    ("modalign bench softmax", "--seconds 0 --shape 9600", "other shapes take as long again"),
    (
        "modalign train --data mosi.safetensors",
        "--max-epochs 1 --set train.accumulate=1",
        "its pickle has four training rows, one micro-batch",
    ),
    (
        "modalign experiment ablation --data cmu_mosi.safetensors",
        "--shard 1/180 --set train.max_epochs=1",
        "18 cells of 10 seeds are 180 runs",
    ),
    (
        "modalign experiment modalities --data cmu_mosi.safetensors --folds 5",
        "--shard 1/175 --set train.max_epochs=1",
        "7 cells of 5 seeds and 5 folds are 175 runs",
    ),
    (
        "modalign experiment examples/ablation.toml",
        "--shard 1/180 --set train.max_epochs=1",
        "18 cells of 10 seeds are 180 runs",
    ),
    (
        "modalign experiment ablation --data ravdess.safetensors",
        "--shard 1/180 --set train.max_epochs=1",
        "18 cells of 10 seeds are 180 runs",
    ),
    (
        "modalign train --data own.safetensors",
        "--max-epochs 2",
        "it stops by itself, later; the road's own test trains to the end",
    ),
    ("modalign experiment plan.toml --list", "", "nothing is trained"),
];

/// What the README takes for granted: a reader's own files, and data sets and an encoder that it names.
fn prepare(place: &Place) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = |from: &str, to: &str| fs::copy(root.join(from), place.at(to)).expect(from);
    copy("shaders/softmax.wgsl", "mine.wgsl");
    copy("tests/fixtures/pickles/numpy2_protocol4.pkl", "mosi_unaligned_50.pkl");
    copy("tests/fixtures/pickles/stored.npz", "features.npz");
    fs::create_dir(place.at("examples")).unwrap();
    copy("examples/ablation.toml", "examples/ablation.toml");

    // Data sets of these names, the ids of one as CMU-MOSI has them; and an encoder of random weights.
    let small = "--train 64 --valid 24 --test 24 --audio steps=6,min_steps=2 --vision \
                 steps=5,min_steps=2";
    place.ok(&format!("synth --out cmu_mosi.safetensors {small} --encoder bert-base-uncased"));
    place.ok(&format!("synth --out ravdess.safetensors {small}"));
    place.ok(&format!("synth --out examples/known.safetensors {small} --text steps=4,min_steps=2"));
    let path = place.at("cmu_mosi.json");
    let mut side: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for split in ["train", "valid", "test"] {
        for (row, id) in side[split]["id"].as_array_mut().unwrap().iter_mut().enumerate() {
            *id = format!("{split}Video{}_{row}", row / 8).into();
        }
    }
    fs::write(path, side.to_string()).unwrap();

    let plan = "data = 'cmu_mosi.safetensors'\nseeds = 2\n[set]\n'train.max_epochs' = 1\n[grid]\n\
                'align.weight' = [0, 1]\n";
    fs::write(place.at("plan.toml"), plan).unwrap();

    super::road::recordings(place, 22);
}

/// The lines of a document's shell blocks that are commands of ours, without what is said behind them.
fn commands(document: &str) -> Vec<&str> {
    let (mut found, mut shell) = (Vec::new(), false);
    for line in document.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            shell = kind.trim() == "sh";
        } else if shell && line.starts_with("modalign ") {
            found.push(line.split(" #").next().unwrap_or(line).trim_end());
        }
    }
    found
}

/// Runs a document's commands in order; those that failed, and what they said.
fn walk(place: &Place, document: &str) -> Vec<String> {
    let ours = Path::new(env!("CARGO_BIN_EXE_modalign")).parent().expect("a folder");
    let mut path = vec![ours.to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).expect("a path");
    let mut failed = Vec::new();
    for command in commands(document) {
        let smaller = SMALLER.iter().find(|(first, ..)| command.starts_with(first));
        let added = smaller.map_or("", |(_, added, _)| added);
        let mut shell = Command::new("sh");
        // The caller's cache and log settings are no part of it.
        shell.args(["-c", &format!("{command} {added}")]).current_dir(place.root());
        shell.env("PATH", &path).env_remove("RUST_LOG");
        shell.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        let ran: Ran = shell.output().expect("sh").into();
        if ran.code != Some(0) {
            failed.push(format!("{command} {added}: {:?}: {}", ran.code, ran.err));
        }
    }
    failed
}

#[test]
fn the_commands_of_the_readme_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).unwrap();
    let all = commands(&readme);
    assert!(all.len() >= 25, "only {} commands were found", all.len());
    for (first, ..) in SMALLER {
        assert!(all.iter().any(|c| c.starts_with(first)), "'{first}' is no command of the README");
    }
    let place = Place::fresh("readme");
    prepare(&place);
    let failed = walk(&place, &readme);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_command_that_does_not_run_is_found() {
    let place = Place::fresh("readme-wrong");
    let document = "```sh\nmodalign models --nonesuch    # so\n  modalign models\nsh x.sh\n```\n```rust\n\
                    modalign no\n```\nmodalign no\n```sh\nmodalign models\nmodalign eval --model 'a b'\n```";
    let found = ["modalign models --nonesuch", "modalign models", "modalign eval --model 'a b'"];
    assert_eq!(commands(document), found);
    let failed = walk(&place, document);
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].contains("--nonesuch") && failed[0].contains("Some(2)"), "{failed:?}");
    assert!(failed[1].contains("a b"), "{failed:?}");
}
