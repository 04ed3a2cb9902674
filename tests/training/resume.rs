//! Runs: killed and resumed equals uninterrupted, byte for byte; what cannot be resumed is
//! refused; weights to begin with.

use crate::common;
use common::{Made, TensorFile, config, gpu, open};
use modalign::data::SplitName;
use modalign::nn::Weights;
use modalign::recipe::Config;
use modalign::train::{
    EpochRecord, Observer, RunOptions, Saved, StepRecord, evaluate_run, resume, train,
};
use modalign::{Error, Gpu};
use safetensors::tensor::{Dtype, SafeTensors};
use std::fs;
use std::path::{Path, PathBuf};

/// What a run must leave behind to the byte, however often it was interrupted.
const FILES: [&str; 7] = [
    "config.toml",
    "last.safetensors",
    "model.safetensors",
    "labels.safetensors",
    "steps.jsonl",
    "epochs.jsonl",
    "labels.jsonl",
];

/// Labels change, dropout draws, and the validation loss falls every epoch.
fn settings(epochs: usize) -> Config {
    let epochs = format!("train.max_epochs={epochs}");
    config(&["model.dropout=0.05", "train.lr=3e-4", "train.early_stop=0", &epochs])
}

struct Place {
    folder: tempfile::TempDir,
    data: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = Made::default().save(folder.path());
        Place { folder, data }
    }

    fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self, name: &str, epochs: usize) -> RunOptions {
        RunOptions {
            data: self.data.clone(),
            out: self.run(name),
            config: settings(epochs),
            init: None,
            fold: None,
        }
    }

    /// Trains without any interruption.
    fn train(&self, name: &str, epochs: usize) -> PathBuf {
        train(gpu(), &self.options(name, epochs), &mut ()).unwrap_or_else(|e| panic!("{e}"));
        self.run(name)
    }
}

fn assert_equal_runs(a: &Path, b: &Path, what: &str) {
    for name in FILES {
        let [x, y] = [a, b].map(|run| fs::read(run.join(name)).expect(name));
        if x == y {
            continue;
        }
        let [x, y] = [x, y].map(|b| String::from_utf8_lossy(&b).into_owned());
        let line = x.lines().zip(y.lines()).find(|(x, y)| x != y);
        panic!("{what}: {name} differs: {line:?}");
    }
    let metrics = |run: &Path| {
        let text = fs::read_to_string(run.join("metrics.json")).expect("metrics");
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        (all["test"].clone(), all["valid"].clone(), all["best_epoch"].clone())
    };
    assert_eq!(metrics(a), metrics(b), "{what}");
    assert!(metrics(a).0["MAE"].is_number());
}

/// Takes the device away when a certain micro-batch is reported, as a driver reset would.
struct Killer<'a> {
    gpu: &'a Gpu,
    at: (usize, usize),
    epochs: usize,
}

impl Observer for Killer<'_> {
    fn step(&mut self, record: &StepRecord, _: usize, _: usize) {
        if (record.epoch, record.batch) == self.at {
            self.gpu.destroy();
        }
    }

    fn epoch(&mut self, _: &EpochRecord) {
        self.epochs += 1;
    }
}

#[test]
fn resumed_equals_uninterrupted() {
    let place = Place::new();
    let whole = place.train("whole", 4);
    let steps = fs::read_to_string(whole.join("steps.jsonl")).expect("steps");
    assert_eq!(steps.lines().count(), 16);

    let parts = place.train("parts", 2);
    let mut seen = Vec::new();
    struct Seen<'a>(&'a mut Vec<usize>);
    impl Observer for Seen<'_> {
        fn epoch(&mut self, record: &EpochRecord) {
            self.0.push(record.epoch);
        }
    }
    let outcome = resume(gpu(), &parts, None, Some(4), &mut Seen(&mut seen)).expect("resumed");
    assert_eq!(seen, [3, 4]);
    assert_eq!(outcome.epochs, 4);
    // The card of a best model holds the limit of its own time; here the best comes after it.
    assert!(outcome.best_epoch > 2, "{}", outcome.best_epoch);
    assert_equal_runs(&whole, &parts, "2 + 2");

    // Resuming what is complete changes nothing.
    resume(gpu(), &parts, None, None, &mut ()).expect("resumed");
    assert_equal_runs(&whole, &parts, "2 + 2 + 0");
}

#[test]
fn a_lost_device_in_any_epoch_costs_nothing() {
    let place = Place::new();
    let whole = place.train("whole", 4);
    for (i, at) in [(1, 1), (2, 1), (3, 3), (4, 4)].into_iter().enumerate() {
        let name = format!("killed{i}");
        let doomed = open(None);
        let mut killer = Killer { gpu: &doomed, at, epochs: 0 };
        let error = train(&doomed, &place.options(&name, 4), &mut killer).expect_err("killed");
        assert!(matches!(error, Error::DeviceLost(_)), "{at:?}: {error}");
        assert!(error.to_string().contains("go on from what was saved"), "{error}");
        assert_eq!(killer.epochs, at.0 - 1);
        resume(gpu(), &place.run(&name), None, None, &mut ()).unwrap_or_else(|e| panic!("{e}"));
        assert_equal_runs(&whole, &place.run(&name), &format!("killed at {at:?}"));
    }
}

/// A learning rate that falls by the validation loss, several turns with a projector, and labels and centres:
/// whatever a model carries from step to step and from epoch to epoch is there again.
#[test]
fn no_model_loses_anything_to_a_lost_device() {
    let place = Place::new();
    let classes = place.run("classes.safetensors");
    let mut file = TensorFile::read(&place.data);
    for (split, rows) in ["train", "valid", "test"].into_iter().zip(Made::default().rows) {
        file.tensors.remove(&format!("{split}.regression_labels"));
        let labels: Vec<i32> = (0..rows as i32).map(|row| row % 3).collect();
        file.put_i32(&format!("{split}.class_labels"), &[rows], &labels);
    }
    file.save(&classes);
    let sequences = place.run("sequences.safetensors");
    Made { text: Some((4, 12)), ..Made::default() }.tensors().save(&sequences);
    let of = |model: &str, set: &[&str]| {
        let first = ["train.batch_size=8", "train.max_epochs=4", "train.early_stop=0"];
        let name = format!("model.name={model}");
        let all = first.iter().chain(set).map(ToString::to_string).chain([name]);
        Config::build("mosi", None, &all.collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"))
    };
    let plateau = ["model.plateau.patience=0", "model.plateau.factor=0.5", "train.lr=0.2"];
    let small = ["model.width=4", "model.heads=2", "model.layers=1", "model.kernel=2"];
    let mult = [&plateau[..], &small, &["train.accumulate=1", "model.dropout=0.1"]].concat();
    let mla = ["model.hidden=6", "model.width=8", "sgd.step_size=2", "train.lr=0.05"];
    // Single modalities in the first three epochs, of which the last two make pseudo-labels.
    let umi = [
        "model.width=8",
        "model.heads=2",
        "model.head_width=4",
        "model.places=4",
        "stages.unimodal=3",
        "stages.averaged=2",
    ];
    // Views of the rows and their noise are drawn anew at each step.
    let mmcl = ["model.hidden=6", "model.width=8", "views.run=0.5", "train.lr=0.01"];
    let clfa = [
        "model.width=8",
        "model.heads=2",
        "model.layers=1",
        "schedule.warmup=3",
        "schedule.total=20",
    ];
    for (model, data, config) in [
        ("umi", &classes, of("umi", &umi)),
        ("mmcl", &sequences, of("mmcl", &mmcl)),
        ("mult", &sequences, of("mult", &mult)),
        ("mla", &classes, of("mla", &mla)),
        ("clfa", &classes, of("clfa", &clfa)),
        ("self_mm", &place.data, of("self_mm", &["model.dropout=0.05", "train.lr=3e-4"])),
    ] {
        let options = |name: &str| RunOptions {
            data: data.clone(),
            config: config.clone(),
            ..place.options(&format!("{model}-{name}"), 4)
        };
        let whole = options("whole");
        train(gpu(), &whole, &mut ()).unwrap_or_else(|e| panic!("{model}: {e}"));
        for (i, at) in [(1, 2), (3, 3), (4, 1)].into_iter().enumerate() {
            let killed = options(&format!("killed{i}"));
            let doomed = open(None);
            let mut killer = Killer { gpu: &doomed, at, epochs: 0 };
            let error = train(&doomed, &killed, &mut killer).expect_err("killed");
            assert!(matches!(error, Error::DeviceLost(_)), "{model} at {at:?}: {error}");
            resume(gpu(), &killed.out, None, None, &mut ()).unwrap_or_else(|e| panic!("{e}"));
            let state = "state/state.safetensors";
            for name in
                ["last.safetensors", "model.safetensors", "steps.jsonl", "epochs.jsonl", state]
            {
                let [x, y] =
                    [&whole.out, &killed.out].map(|run| fs::read(run.join(name)).expect(name));
                assert!(x == y, "{model} killed at {at:?}: {name} differs");
            }
        }
        let bytes = fs::read(whole.out.join("state/state.safetensors")).expect("a state");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let card = &header.metadata().as_ref().expect("metadata")["modalign"];
        let card: serde_json::Value = serde_json::from_str(card).expect("JSON");
        match model {
            // It has fallen, and is remembered.
            "mult" => {
                let rate = card["kept"]["rates"]["model"].as_f64().expect("a rate");
                assert!(rate < 1.0, "{card}");
                assert!(card["kept"]["numbers"]["plateau.best"].is_f64(), "{card}");
                assert!(card["group_steps"].is_null(), "{card}");
            }
            "umi" => {
                let taken = serde_json::json!({ "unimodal": 12, "whole": 4 });
                assert_eq!(card["group_steps"], taken, "{card}");
            }
            // 26 rows are four batches an epoch, and the head moves three times in each.
            "mla" => {
                assert_eq!(card["updates"], 16);
                assert_eq!(card["group_steps"], serde_json::json!({ "shared head": 48 }));
                let rate = card["kept"]["rates"]["audio"].as_f64().expect("a rate");
                assert!((rate - 0.01).abs() < 1e-15, "twice in four epochs: {card}");
            }
            // What every run has to say, and nothing else.
            _ => {
                let keys: Vec<&String> = card.as_object().expect("an object").keys().collect();
                assert_eq!(
                    keys,
                    ["format", "epoch", "step", "updates", "data_sha256", "heads", "model"]
                );
            }
        }
    }
}

#[test]
fn turns_do_not_wait_for_one_another() {
    let place = Place::new();
    let classes = place.run("classes.safetensors");
    let mut file = TensorFile::read(&place.data);
    for (split, rows) in ["train", "valid", "test"].into_iter().zip(Made::default().rows) {
        file.tensors.remove(&format!("{split}.regression_labels"));
        file.put_i32(&format!("{split}.class_labels"), &[rows], &vec![1; rows]);
    }
    file.save(&classes);
    let set = ["model.name=mla", "train.accumulate=2"].map(String::from);
    let config = Config::build("mosi", None, &set).expect("a configuration");
    let options = RunOptions { data: classes, config, ..place.options("none", 1) };
    let why = train(gpu(), &options, &mut ()).expect_err("refused").to_string();
    assert!(
        why.contains("mla learns from a batch by turns (audio, then vision, then text)"),
        "{why}"
    );
    assert!(why.contains("set train.accumulate=1") && !why.contains('\n'), "{why}");
    assert!(!options.out.exists(), "nothing half-written");
}

#[test]
fn what_a_kill_left_in_the_logs_is_discarded() {
    let place = Place::new();
    let whole = place.train("whole", 4);
    let three = place.train("three", 3);
    let (torn, steps) = (place.train("torn", 2), "steps.jsonl");
    // As if killed in epoch 3 after all but the state was written, in the middle of a line.
    fs::copy(three.join("model.safetensors"), torn.join("model.safetensors")).expect("a copy");
    for log in [steps, "labels.jsonl", "epochs.jsonl"] {
        let text = fs::read_to_string(three.join(log)).expect("a log");
        fs::write(torn.join(log), &text[..text.len() - 9]).expect("written");
    }
    resume(gpu(), &torn, None, Some(4), &mut ()).expect("resumed");
    assert_equal_runs(&whole, &torn, "torn lines");

    let garbage = place.train("garbage", 2);
    for log in [steps, "labels.jsonl", "epochs.jsonl"] {
        let mut text = fs::read(garbage.join(log)).expect("a log");
        text.extend(b"{\"epoch\":3,\"batch\":1}\nnot JSON at all\n{\"epoch\": ");
        fs::write(garbage.join(log), text).expect("written");
    }
    resume(gpu(), &garbage, None, Some(4), &mut ()).expect("resumed");
    assert_equal_runs(&whole, &garbage, "garbage");
}

#[test]
fn a_run_without_a_state_begins_again() {
    let place = Place::new();
    let whole = place.train("whole", 4);
    // As if killed in the first epoch: what is written before it, and half of its log.
    let early = place.run("early");
    fs::create_dir_all(early.join("state")).expect("a folder");
    for name in ["run.json", "config.toml"] {
        fs::copy(whole.join(name), early.join(name)).expect("a copy");
    }
    let steps = fs::read_to_string(whole.join("steps.jsonl")).expect("steps");
    fs::write(early.join("steps.jsonl"), &steps[..400]).expect("written");
    resume(gpu(), &early, None, None, &mut ()).expect("resumed");
    assert_equal_runs(&whole, &early, "from nothing");
}

#[test]
fn early_stopping_is_remembered() {
    let place = Place::new();
    let run = |name: &str, epochs: usize| {
        let mut options = place.options(name, epochs);
        options.config = config(&["train.lr=0.5", "train.early_stop=2", "train.clip_norm=0.1"]);
        options.config.train.max_epochs = epochs;
        options
    };
    let whole = train(gpu(), &run("whole", 30), &mut ()).expect("trained");
    assert!((3..30).contains(&whole.epochs), "{} epochs", whole.epochs);
    assert_eq!(whole.epochs, whole.best_epoch + 2);
    train(gpu(), &run("parts", whole.epochs - 1), &mut ()).expect("trained");
    let parts = resume(gpu(), &place.run("parts"), None, Some(30), &mut ()).expect("resumed");
    assert_eq!((parts.epochs, parts.best_epoch), (whole.epochs, whole.best_epoch));
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let place = Place::new();
    let run = place.train("run", 2);
    let kept = |name: &str| fs::read(run.join(name)).expect(name);
    let before: Vec<Vec<u8>> = FILES.iter().map(|name| kept(name)).collect();
    let refused = |data: Option<&Path>| {
        let error = resume(gpu(), &run, data, None, &mut ()).expect_err("an error");
        let now: Vec<Vec<u8>> = FILES.iter().map(|name| kept(name)).collect();
        assert!(before == now, "a refused resume changes nothing");
        error.to_string()
    };

    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = Made { seed: 2, ..Made::default() }.save(elsewhere.path());
    let error = refused(Some(&other));
    assert!(error.contains("another SHA-256") && error.contains("data.safetensors"), "{error}");
    // The same file under another path will do.
    let moved = elsewhere.path().join("moved.safetensors");
    fs::copy(&place.data, &moved).expect("a copy");
    resume(gpu(), &run, Some(&moved), None, &mut ()).expect("the same bytes");

    let state = run.join("state").join("state.safetensors");
    let whole = fs::read(&state).expect("a state");
    for length in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&state, &whole[..length]).expect("written");
        let error = refused(None);
        assert!(error.starts_with("checkpoint ") && error.contains("state.safetensors"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    // A state of a model of other sizes.
    let bigger = {
        let mut options = place.options("bigger", 1);
        let text = options.config.to_toml().expect("TOML");
        let larger = ["model.post.fusion=40".to_string()];
        options.config = Config::build("mosi", Some(&text), &larger).expect("a configuration");
        train(gpu(), &options, &mut ()).expect("trained");
        place.run("bigger").join("state").join("state.safetensors")
    };
    fs::copy(bigger, &state).expect("a copy");
    let error = refused(None);
    assert!(error.contains("words"), "{error}");
    fs::write(&state, &whole).expect("written");
    resume(gpu(), &run, None, None, &mut ()).expect("the whole state again");

    let nothing = resume(gpu(), &place.run("nowhere"), None, None, &mut ());
    assert!(nothing.expect_err("an error").to_string().contains("config.toml"));
    let again = train(gpu(), &place.options("run", 2), &mut ()).expect_err("a run is there");
    assert!(again.to_string().contains("--resume"), "{again}");
}

// ---- weights to begin with --------------------------------------------------------------------

/// As an MMSA checkpoint has them: prefixed, without projections, among those of a BERT.
fn checkpoint(weights: &Weights, prefix: &str) -> TensorFile {
    let mut file = TensorFile::default();
    for (name, shape, values) in weights.iter().filter(|(n, ..)| !n.starts_with("align_")) {
        file.put_f32(&format!("{prefix}{name}"), shape, values);
    }
    let bert = format!("{prefix}text_model.model.embeddings");
    file.put_f32(&format!("{bert}.LayerNorm.weight"), &[768], &[1.0; 768]);
    let ids: Vec<u8> = (0..512_i64).flat_map(i64::to_le_bytes).collect();
    file.put(&format!("{bert}.position_ids"), Dtype::I64, &[1, 512], ids);
    file
}

#[test]
fn a_run_begins_with_given_weights() {
    let place = Place::new();
    let trained = Saved::load(&place.train("run", 1)).expect("a model").weights;
    let mut lasts = Vec::new();
    for prefix in ["", "Model."] {
        let path = place.run(&format!("{prefix}init.safetensors"));
        checkpoint(&trained, prefix).save(&path);
        let mut options = place.options(&format!("from{prefix}"), 1);
        options.config.train.lr = config(&["train.lr=0"]).train.lr;
        options.config.train.decay = config(&["train.decay=0"]).train.decay;
        options.init = Some(path);
        train(gpu(), &options, &mut ()).unwrap_or_else(|e| panic!("'{prefix}': {e}"));
        lasts.push(Saved::load(&options.out.join("last.safetensors")).expect("a model").weights);
    }
    assert_eq!(lasts[0], lasts[1]);
    for (name, _, values) in lasts[0].iter() {
        if name.starts_with("align_") {
            assert!(values.iter().any(|v| *v != 0.0), "{name} keeps its own initial values");
        } else {
            assert_eq!(values, trained.get(name).unwrap().1, "{name} without a learning rate");
        }
    }
}

#[test]
fn weights_of_another_model_are_refused_by_name() {
    let place = Place::new();
    let good = checkpoint(&Saved::load(&place.train("run", 1)).expect("a model").weights, "");
    let wrong = |name: &str, change: &dyn Fn(&mut TensorFile)| {
        let mut file = good.clone();
        change(&mut file);
        let mut options = place.options(name, 1);
        let path = place.run(&format!("{name}.safetensors"));
        file.save(&path);
        options.init = Some(path);
        let error = train(gpu(), &options, &mut ()).expect_err("refused").to_string();
        assert!(error.contains(&format!("{name}.safetensors")), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(!options.out.exists(), "nothing half-written");
        error
    };
    let tensor = "post_fusion_layer_2.weight";
    let error = wrong("missing", &|f| drop(f.tensors.remove(tensor)));
    assert!(error.contains(tensor) && error.contains("missing"), "{error}");
    let error = wrong("misshapen", &|f| f.put_f32(tensor, &[7, 8], &[0.0; 56]));
    assert!(error.contains(tensor) && error.contains("[7, 8]"), "{error}");
    assert!(error.contains("[7, 7]"), "{error}");
    let error = wrong("nan", &|f| f.put_f32(tensor, &[7, 7], &[f32::NAN; 49]));
    assert!(error.contains(tensor) && error.contains("finite"), "{error}");
    let error = wrong("dtype", &|f| f.put(tensor, Dtype::F64, &[7, 7], vec![0; 392]));
    assert!(error.contains(tensor) && error.contains("F64"), "{error}");
}

#[test]
fn a_saved_model_scores_as_it_did_in_training() {
    let place = Place::new();
    let run = place.train("run", 3);
    let text = fs::read_to_string(run.join("metrics.json")).expect("metrics");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let saved = Saved::load(&run).expect("a model");
    let (data, predictions, metrics) =
        evaluate_run(gpu(), &saved, &place.data, SplitName::Test).expect("scores");
    assert_eq!(predictions.scores.len(), data.split(SplitName::Test).expect("a split").rows());
    let metrics = serde_json::to_value(metrics.expect("labels")).expect("JSON");
    for (name, value) in all["test"].as_object().expect("an object") {
        let gap = (value.as_f64().unwrap() - metrics[name].as_f64().unwrap()).abs();
        assert!(gap < 1e-12, "{name}: {value} in training, {} now", metrics[name]);
    }
}

#[test]
fn a_saved_model_meets_other_data() {
    let place = Place::new();
    let saved = Saved::load(&place.train("run", 1)).expect("a model");
    let (_, before, _) = evaluate_run(gpu(), &saved, &place.data, SplitName::Test).expect("scores");
    let other = |name: &str, change: &dyn Fn(&mut TensorFile)| {
        let mut file = Made::default().tensors();
        change(&mut file);
        let path = place.run(&format!("{name}.safetensors"));
        file.save(&path);
        evaluate_run(gpu(), &saved, &path, SplitName::Test)
    };
    // Rows to predict alone, without labels: the same scores as with them.
    let (_, after, metrics) = other("bare", &|f| {
        f.tensors.retain(|n, _| n.starts_with("test.") && !n.ends_with("labels"))
    })
    .expect("scores");
    assert_eq!(before.scores, after.scores);
    assert!(metrics.is_none());
    let error = |result: modalign::Result<_>| result.map(drop).expect_err("refused").to_string();
    let without =
        |field: &'static str| move |f: &mut TensorFile| f.tensors.retain(|n, _| !n.contains(field));
    // What is usual of it stands in for what is not there, as long as something is (see missing.rs); files
    // of before kept nothing of that.
    let (_, silent, _) = other("silent", &without(".audio")).expect("scores");
    assert_ne!(silent.scores, before.scores);
    let mut older = saved.clone();
    older.card.standardise = None;
    let silent = place.run("silent.safetensors");
    let text = error(evaluate_run(gpu(), &older, &silent, SplitName::Test));
    assert!(text.contains("silent.safetensors") && text.contains("'audio'"), "{text}");
    let text = error(other("untested", &without("test.")));
    assert!(text.contains("'test'"), "{text}");
    let narrow = Made { vision: Some((5, 2)), ..Made::default() };
    let text = error(other("narrow", &|f| *f = narrow.tensors()));
    assert!(text.contains("'vision' has 2 features") && text.contains("with 3"), "{text}");
}

#[test]
fn a_run_remembers_where_its_files_are() {
    // The paths are given from the current folder; a resume may come from another.
    let place = Place::new();
    let weights = place.train("run", 1).join("model.safetensors");
    let up = std::env::current_dir().expect("a folder").components().count() - 1;
    let relative = |path: &Path| {
        let mut all: PathBuf = std::iter::repeat_n("..", up).collect();
        all.push(path.strip_prefix("/").unwrap_or(path));
        all
    };
    let mut options = place.options("again", 1);
    (options.data, options.init) = (relative(&place.data), Some(relative(&weights)));
    train(gpu(), &options, &mut ()).expect("trained");
    let text = fs::read_to_string(options.out.join("run.json")).expect("a card");
    let card: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for key in ["data", "init"] {
        let path = Path::new(card[key].as_str().expect("a path"));
        assert!(path.is_absolute() && path.exists(), "{key}: {}", path.display());
    }
}
