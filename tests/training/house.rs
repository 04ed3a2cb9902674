//! What every model gets from the house: each over each set of streams trains or is refused in one line
//! before anything is written, goes on after a stop to the same bytes, and is scored, damaged and read
//! back like any other.

use crate::common;
use common::{Made, gpu};
use modalign::Error;
use modalign::data::{SplitName, StreamSpec};
use modalign::recipe::{Config, MODELS};
use modalign::train::{RunOptions, Saved, Scorer, evaluate_run, open_saved, resume, train};
use std::fs;
use std::path::{Path, PathBuf};

const LETTERS: [&str; 7] = ["TAV", "TA", "TV", "AV", "T", "A", "V"];

/// Settings that make a model small.
fn small(model: &str, more: &[&str]) -> Config {
    let sizes: &[&str] = match model {
        "mfn" => &["model.hidden=6", "model.memory=5", "model.inner=4"],
        "mult" => &["model.width=4", "model.heads=2", "model.layers=1", "model.kernel=2"],
        "almt" => &[
            "model.width=4",
            "model.heads=2",
            "model.head_width=2",
            "model.tokens=2",
            "model.hyper_heads=2",
        ],
        _ => &["model.hidden=6"],
    };
    let set = [
        format!("model.name={model}"),
        "train.batch_size=8".into(),
        "train.accumulate=1".into(),
        "train.max_epochs=2".into(),
        "train.early_stop=0".into(),
    ];
    let more = sizes.iter().chain(more).map(ToString::to_string);
    let set: Vec<String> = set.into_iter().chain(more).collect();
    Config::build("mosi", None, &set).unwrap_or_else(|e| panic!("{model}: {e}"))
}

/// Rows whose streams have equally many steps, or not.
fn data(folder: &Path, aligned: bool) -> PathBuf {
    let streams = if aligned { [6, 6, 6] } else { [3, 6, 5] };
    let [text, audio, vision] = streams;
    let made = Made {
        text: Some((text, 12)),
        audio: Some((audio, 5)),
        vision: Some((vision, 3)),
        ..Made::default()
    };
    let path = folder.join(format!("aligned-{aligned}.safetensors"));
    made.tensors().save(&path);
    path
}

fn options(data: &Path, out: PathBuf, config: Config) -> RunOptions {
    RunOptions { data: data.into(), out, config, init: None, fold: None }
}

#[test]
fn every_model_over_every_set_of_streams_trains_or_says_what_it_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let sets = [true, false].map(|aligned| data(folder.path(), aligned));
    let mut refused = 0;
    for entry in MODELS {
        for (set, letters) in sets.iter().flat_map(|s| LETTERS.map(|l| (s, l))) {
            let out = folder.path().join(format!("{}-{letters}-{refused}", entry.name));
            let config = small(entry.name, &[&format!("model.modalities={letters}")]);
            match train(gpu(), &options(set, out.clone(), config), &mut ()) {
                Ok(outcome) => {
                    assert_eq!(outcome.epochs, 2, "{} of {letters}", entry.name);
                    assert!(out.join("metrics.json").exists());
                }
                Err(why @ Error::Config(_)) => {
                    refused += 1;
                    assert!(!out.exists(), "{} left {}", entry.name, out.display());
                    let said = why.to_string();
                    assert!(said.contains(entry.name) && !said.contains('\n'), "{said}");
                }
                Err(why) => panic!("{} of {letters}: {why}", entry.name),
            }
            let _ = fs::remove_dir_all(&out);
        }
    }
    // Unaligned streams of several modalities are nothing for those that want aligned ones.
    let aligned = MODELS.iter().filter(|entry| entry.aligned).count();
    assert!(refused >= aligned, "{refused} were refused");
}

#[test]
fn every_model_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = data(folder.path(), true);
    for entry in MODELS {
        let run = |name: &str| folder.path().join(format!("{}-{name}", entry.name));
        let whole = options(&set, run("whole"), small(entry.name, &[]));
        train(gpu(), &whole, &mut ()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        let part = small(entry.name, &["train.max_epochs=1"]);
        train(gpu(), &options(&set, run("part"), part), &mut ()).expect("an epoch");
        resume(gpu(), &run("part"), None, Some(2), &mut ()).expect("the rest");
        for file in ["last.safetensors", "steps.jsonl", "epochs.jsonl"] {
            let [whole, part] =
                ["whole", "part"].map(|name| fs::read(run(name).join(file)).expect(file));
            assert!(whole == part, "{}: {file} differs", entry.name);
        }
        // Its card says how many epochs were asked for as it was written.
        let best = |name: &str| common::bits(&Saved::load(&run(name)).expect("a model").weights);
        assert!(best("whole") == best("part"), "{}: the best models differ", entry.name);
        let state = |name: &str| fs::read(run(name).join("state/state.safetensors")).expect("one");
        assert!(state("whole") == state("part"), "{}: the states differ", entry.name);
    }
}

#[test]
fn every_model_is_scored_damaged_and_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = data(folder.path(), true);
    for entry in MODELS {
        let name = entry.name;
        let out = folder.path().join(name);
        let options = options(&set, out.clone(), small(name, &[]));
        let outcome = train(gpu(), &options, &mut ()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let saved = Saved::load(&out).expect("a model");
        let (_, found, metrics) =
            evaluate_run(gpu(), &saved, &set, SplitName::Test).expect("scores");
        assert_eq!(metrics, outcome.test, "{name}");

        let mut session = open_saved(gpu(), &saved, &set).expect("a session");
        let damaged = session.robustness(SplitName::Test).expect("scores");
        assert!(damaged.len() >= 3 * 4, "{name}: {} kinds of damage", damaged.len());
        for (name, size, values) in session.represent(SplitName::Test).expect("representations") {
            assert_eq!(values.len(), size * found.scores.len(), "{name}");
        }
        let mut scorer = Scorer::new(gpu(), &saved, 1).expect("a scorer");
        assert_eq!(scorer.tasks(), found.tasks, "{name}");
        let data = session.data().clone();
        let test = data.split(SplitName::Test).expect("rows");
        // Whole steps, without the padding behind them.
        let steps = |s: &StreamSpec| {
            let stream = test.stream(s.modality).expect("a stream");
            (s.modality, stream.row(0)[..stream.len(0) * s.dim].to_vec())
        };
        let values: Vec<_> = scorer.streams().iter().map(steps).collect();
        let sample: Vec<_> = values.iter().map(|(m, v)| (*m, v.as_slice())).collect();
        let scores = scorer.score(&[&sample]).expect("scores");
        let off = common::of_largest(&scores[0], &found.scores[0]);
        assert!(off < 1e-5, "{name}: a sample in memory scores otherwise, by {off:e}");
    }
}
