//! What every model gets from the house: each over each set of streams trains or is refused in one line
//! before anything is written, goes on after a stop to the same bytes, and is scored, damaged and read
//! back like any other.

use crate::bert_fixture::path as fixture;
use crate::common;
use common::{Made, TensorFile, gpu};
use modalign::Error;
use modalign::data::{
    Dataset, Modality, SplitName, StreamSpec, SynthConfig, SynthTarget, TaskKind, shortened, synth,
};
use modalign::recipe::{Config, Entry, MODELS, find};
use modalign::train::explain::Explainer;
use modalign::train::{
    RunOptions, Saved, Scorer, Session, evaluate_run, open_saved, resume, train,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of the longest sentences: as many as the aligned streams have steps.
const TOKENS: usize = 6;

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
        "mla" => &["model.hidden=6", "model.width=8"],
        "umi" => &[
            "model.width=8",
            "model.heads=2",
            "model.head_width=4",
            "model.places=4",
            "model.inner=8",
            "stages.unimodal=1",
            "stages.averaged=1",
        ],
        "clfa" => &[
            "model.width=8",
            "model.heads=2",
            "model.hidden=6",
            "model.inner=8",
            "model.layers=1",
            "train.metric_for_best_model=loss",
        ],
        "bert_mag" | "cenet" => &[],
        _ => &["model.hidden=6"],
    };
    let mut set = [
        format!("model.name={model}"),
        "train.batch_size=8".into(),
        "train.accumulate=1".into(),
        "train.max_epochs=2".into(),
        "train.early_stop=0".into(),
    ]
    .to_vec();
    if find(model).expect("a model").tokens {
        set.push("model.text_encoder=bert".into());
        set.push(format!("bert.path={}", fixture("bert_tiny").display()));
        set.push(format!("bert.max_tokens={TOKENS}"));
    }
    let more = sizes.iter().chain(more).map(ToString::to_string);
    let set: Vec<String> = set.into_iter().chain(more).collect();
    Config::build("mosi", None, &set).unwrap_or_else(|e| panic!("{model}: {e}"))
}

/// Rows whose streams have equally many steps, or not. The text is there as tokens, too.
fn data(folder: &Path, aligned: bool) -> PathBuf {
    let streams = if aligned { [TOKENS; 3] } else { [3, 6, 5] };
    let [text, audio, vision] = streams;
    let made = Made {
        text: Some((text, 12)),
        audio: Some((audio, 5)),
        vision: Some((vision, 3)),
        ..Made::default()
    };
    let path = folder.join(format!("aligned-{aligned}.safetensors"));
    let mut file = made.tensors();
    for (split, rows) in SplitName::ALL.into_iter().zip(made.rows) {
        let mut tokens = Vec::new();
        for row in 0..rows {
            // [CLS], words, [SEP], and what is behind them.
            let length = 2 + row % (TOKENS - 1);
            let id = |i: usize| match i {
                0 => 2,
                _ if i + 1 == length => 3,
                _ => 5 + ((31 * row + 7 * i) % 190) as i32,
            };
            let there = |i: usize| i32::from(i < length);
            tokens.extend((0..TOKENS).map(|i| there(i) * id(i)));
            tokens.extend((0..TOKENS).map(there));
            tokens.extend([0; TOKENS]);
        }
        file.put_i32(&format!("{split}.text_bert"), &[rows, 3, TOKENS], &tokens);
        for (i, name) in ["T", "A", "V"].iter().enumerate() {
            let alone: Vec<f32> =
                (0..rows).map(|row| ((row * 7 + i) % 13) as f32 / 3.0 - 2.0).collect();
            file.put_f32(&format!("{split}.regression_labels_{name}"), &[rows], &alone);
        }
    }
    file.save(&path);
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
fn streams_of_any_name_are_read_by_whoever_can() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("others.safetensors");
    let named = |name: &str| Modality::named(name).expect("a name");
    let mut made = SynthConfig {
        modalities: vec![Modality::Text, named("image"), named("depth")],
        target: SynthTarget::Classes(3),
        missing: 0.2,
        train: 20,
        valid: 8,
        test: 8,
        ..SynthConfig::default()
    };
    (made.text.steps, made.text.min_steps) = (TOKENS, TOKENS);
    (made.other.steps, made.other.min_steps) = (TOKENS, 3);
    synth::write(&made, &set).expect("a set");
    let mut trained = 0;
    for entry in MODELS {
        for wanted in ["all", "T+image", "depth+image", "image"] {
            let what = format!("{} of {wanted}", entry.name);
            let settings =
                [format!("model.name={}", entry.name), format!("model.modalities={wanted}")];
            if !entry.others && wanted != "all" {
                let why = Config::build("mosi", None, &settings).expect_err("refused").to_string();
                assert!(why.contains(entry.name) && !why.contains('\n'), "{why}");
                continue;
            }
            let out = folder.path().join(format!("{}-{wanted}", entry.name));
            // Some rows lack the stream that would guide it.
            let alone = (entry.name == "clfa").then_some("model.alpha=0");
            let more: Vec<&str> = alone.into_iter().chain([&*settings[1]]).collect();
            let config = small(entry.name, &more);
            match train(gpu(), &options(&set, out.clone(), config), &mut ()) {
                Ok(_) => {
                    trained += 1;
                    let saved = Saved::load(&out).expect("a model");
                    let mut session = open_saved(gpu(), &saved, &set).expect("a session");
                    assert!(session.unread().is_empty(), "{what}");
                    let read = session.model().reads().modalities();
                    assert!(
                        wanted == "all" || shortened(read.clone()) == wanted,
                        "{what}: {read:?}"
                    );
                    let damaged = session.robustness(SplitName::Test).expect("scores");
                    assert!(
                        damaged.iter().any(|(p, _)| p.modality == Some(named("image"))),
                        "{what}"
                    );
                }
                Err(why @ Error::Config(_)) => {
                    assert!(!out.exists(), "{what} left {}", out.display());
                    let said = why.to_string();
                    assert!(said.contains(entry.name) && !said.contains('\n'), "{said}");
                }
                Err(why) => panic!("{what}: {why}"),
            }
        }
    }
    let learns = |entry: &&Entry| entry.others && entry.tasks.contains(&TaskKind::Classes);
    let others = MODELS.iter().filter(learns).count();
    // MulT, MLA, UMI and CLFA cannot do with one stream, and CLFA with none that is text.
    assert_eq!(trained, 4 * others - 5);
}

#[test]
fn a_stream_that_a_model_cannot_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("image.safetensors");
    let image = Modality::named("image").expect("a name");
    let modalities = vec![Modality::Audio, image];
    let made = SynthConfig { modalities, train: 20, valid: 8, test: 8, ..SynthConfig::default() };
    synth::write(&made, &set).expect("a set");
    let data = Arc::new(Dataset::open(&set).expect("the set"));
    let unread = |model: &str| {
        let config = small(model, &[]);
        let session = Session::new(gpu(), &config, data.clone(), None, false).expect("a session");
        session.unread()
    };
    assert_eq!((unread("self_mm"), unread("lf_dnn")), (vec![image], vec![]));
}

/// The rows of [`data`] with other targets: three classes, three labels, two numbers.
pub fn with_task(folder: &Path, kind: &str) -> PathBuf {
    let mut file = TensorFile::read(&data(folder, true));
    for split in ["train", "valid", "test"] {
        let Some(labels) = file.tensors.remove(&format!("{split}.regression_labels")) else {
            continue;
        };
        let rows = labels.shape[0];
        let name = format!("{split}.class_labels");
        match kind {
            "classes" => {
                file.put_i32(&name, &[rows], &(0..rows as i32).map(|r| r % 3).collect::<Vec<_>>())
            }
            "labels" => {
                let there = |i: i32| i32::from(i * i % 5 < 2);
                file.put_i32(
                    &name,
                    &[rows, 3],
                    &(0..3 * rows as i32).map(there).collect::<Vec<_>>(),
                );
            }
            _ => {
                let numbers: Vec<f32> = (0..2 * rows).map(|i| (i * 7 % 11) as f32 - 2.5).collect();
                file.put_f32(&format!("{split}.regression_labels"), &[rows, 2], &numbers);
            }
        }
    }
    let path = folder.join(format!("{kind}.safetensors"));
    file.save(&path);
    path
}

/// Rows of aligned streams with targets that a model learns: one number, or else classes.
fn data_for(entry: &Entry, folder: &Path) -> PathBuf {
    match entry.tasks.contains(&TaskKind::Regression) {
        true => data(folder, true),
        false => with_task(folder, "classes"),
    }
}

#[test]
fn every_model_learns_every_task_or_says_that_it_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, head) in [("classes", "accuracy"), ("labels", "f1"), ("numbers", "MAE")] {
        let set = with_task(folder.path(), kind);
        let mut trained = 0;
        for entry in MODELS {
            for letters in LETTERS {
                let what = format!("{} of {letters} for {kind}", entry.name);
                let out = folder.path().join(format!("{kind}-{}-{letters}", entry.name));
                let weighed = if kind == "numbers" { "none" } else { "balanced" };
                let weights = format!("task.class_weights={weighed}");
                let config = small(entry.name, &[&format!("model.modalities={letters}"), &weights]);
                match train(gpu(), &options(&set, out.clone(), config), &mut ()) {
                    Ok(outcome) => {
                        trained += 1;
                        let test = outcome.test.unwrap_or_else(|| panic!("{what}: no scores"));
                        assert_eq!(test.heads()[0].0, head, "{what}");
                        assert_eq!(test.each().len(), if kind == "numbers" { 2 } else { 3 });
                    }
                    Err(why @ Error::Config(_)) => {
                        assert!(!out.exists(), "{what} left {}", out.display());
                        let said = why.to_string();
                        assert!(said.contains(entry.name) && !said.contains('\n'), "{said}");
                    }
                    Err(why) => panic!("{what}: {why}"),
                }
                let _ = fs::remove_dir_all(&out);
            }
        }
        assert!(trained > 3 * LETTERS.len(), "{trained} trained for {kind}");
    }
}

#[test]
fn classes_go_on_to_the_same_bytes_and_say_probabilities() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = with_task(folder.path(), "classes");
    let run = |name: &str| folder.path().join(name);
    let by = "train.metric_for_best_model=f1_macro";
    let settings = |epochs: &str| small("tfn", &[by, "task.label_smoothing=0.1", epochs]);
    train(gpu(), &options(&set, run("whole"), settings("train.max_epochs=3")), &mut ())
        .expect("a run");
    train(gpu(), &options(&set, run("part"), settings("train.max_epochs=1")), &mut ())
        .expect("an epoch");
    resume(gpu(), &run("part"), None, Some(3), &mut ()).expect("the rest");
    for file in ["last.safetensors", "steps.jsonl", "epochs.jsonl"] {
        let [whole, part] =
            ["whole", "part"].map(|name| fs::read(run(name).join(file)).expect(file));
        assert!(whole == part, "{file} differs");
    }
    // The best epoch is the first of the highest score.
    let epochs = fs::read_to_string(run("whole").join("epochs.jsonl")).expect("a log");
    let lines: Vec<serde_json::Value> =
        epochs.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut highest = f64::NEG_INFINITY;
    for line in &lines {
        let score = line["valid"]["f1_macro"].as_f64().expect("a score");
        assert_eq!(line["best"], score >= highest + 1e-6, "{line}");
        highest = highest.max(score);
    }
    let saved = Saved::load(&run("whole")).expect("a model");
    assert_eq!(saved.card.task.names, ["class 0", "class 1", "class 2"]);
    // Rows without targets are predicted, and those of more classes refused.
    let mut file = TensorFile::read(&set);
    file.tensors.retain(|name, _| name.starts_with("test") && !name.contains("labels"));
    let bare = run("bare.safetensors");
    file.save(&bare);
    let (_, said, none) = evaluate_run(gpu(), &saved, &bare, SplitName::Test).expect("scores");
    assert!(none.is_none() && said.scores[0].len() == 3);
    let rows = said.scores.len();
    file.put_i32("test.class_labels", &[rows], &vec![3; rows]);
    file.save(&bare);
    let why = evaluate_run(gpu(), &saved, &bare, SplitName::Test).expect_err("refused").to_string();
    assert!(why.contains("test, row 0 is of class 3, and there are 3: 0 to 2"), "{why}");
    // What is of other tasks is refused before anything is written.
    let numbers = with_task(folder.path(), "numbers");
    for (set, setting, wanted) in [
        (
            &set,
            "train.metric_for_best_model=MAE",
            "3 classes are not scored by it; give loss or one of: acc",
        ),
        (
            &set,
            "train.metric_for_best_model=f2",
            "there is no such score; give loss or one of: accuracy",
        ),
        (
            &set,
            "task.kind=regression",
            "task.kind is regression, and the data has class_labels of 3 classes",
        ),
        (&numbers, "task.kind=classes", "set task.kind=regression"),
        (
            &numbers,
            "task.class_weights=balanced",
            "is of classes and labels, and the data has 2 numbers",
        ),
        (&numbers, "task.label_smoothing=0.1", "is of classes, and the data has 2 numbers"),
    ] {
        let wrong = small("tfn", &[setting]);
        let why = train(gpu(), &options(set, run("wrong"), wrong), &mut ()).expect_err("refused");
        assert!(why.to_string().contains(wanted), "{why}");
        assert!(!run("wrong").exists());
    }
}

#[test]
fn every_model_goes_on_to_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in MODELS {
        let set = data_for(entry, folder.path());
        let run = |name: &str| folder.path().join(format!("{}-{name}", entry.name));
        // Before UMI's last stage there is an epoch of another.
        let last = if entry.name == "umi" { 3 } else { 2 };
        let until = |epochs: usize| small(entry.name, &[&format!("train.max_epochs={epochs}")]);
        let whole = options(&set, run("whole"), until(last));
        train(gpu(), &whole, &mut ()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        train(gpu(), &options(&set, run("part"), until(last - 1)), &mut ()).expect("an epoch");
        resume(gpu(), &run("part"), None, Some(last), &mut ()).expect("the rest");
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

/// Where a row's score comes from adds up to it, and nothing comes from padding.
fn explained(name: &str, session: Session, saved: &Saved, scores: &[Vec<f32>]) {
    let mut explainer = Explainer::new(session, Path::new("none")).expect("an explainer");
    for row in [1, 4] {
        let said = explainer.explain_predicted(SplitName::Test, row).expect("shares");
        assert!(said.complete, "{name}, row {row}: {said:?}");
        let output = explainer.outputs().iter().position(|o| *o == said.output).expect("one");
        let off = (said.score - f64::from(scores[row][output])).abs();
        assert!(off < 1e-4, "{name}, row {row}: {} of {said:?}", scores[row][output]);
        assert!((said.score - said.usual - said.sum() - said.residual).abs() < 1e-9);
        assert!(said.modalities.iter().any(|share| share.share != 0.0), "{name}: {said:?}");
        let test = explainer.data().split(SplitName::Test).expect("rows");
        let tokens = explainer.data().text().and_then(|t| t.tokens.split(SplitName::Test));
        for share in &said.modalities {
            let own = match (share.modality, tokens) {
                (Modality::Text, Some(tokens)) => tokens.len(row),
                // Some read the first step of text alone.
                (modality, _) => {
                    let read = saved.card.streams.iter().find(|s| s.modality == modality);
                    let own = test.stream(modality).expect("a stream").len(row);
                    own.min(read.expect("a stream").steps)
                }
            };
            assert_eq!(share.steps.len(), own, "{name}: steps of {}", share.modality);
        }
    }
}

#[test]
fn every_model_is_scored_damaged_and_read_back() {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in MODELS {
        let (name, set) = (entry.name, data_for(entry, folder.path()));
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
        let data = session.data().clone();
        explained(name, session, &saved, &found.scores);
        if entry.tokens {
            let refused = Scorer::new(gpu(), &saved, 1).err().expect("no scorer").to_string();
            assert!(refused.contains("reads tokens"), "{name}: {refused}");
            continue;
        }
        let mut scorer = Scorer::new(gpu(), &saved, 1).expect("a scorer");
        assert_eq!(scorer.tasks(), found.tasks, "{name}");
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
