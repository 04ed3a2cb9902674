//! CLFA: against PyTorch (`tests/fixtures/golden_clfa.py`), what it reads the text by, its guides, and how well the
//! aligned sides find each other.

use crate::bert_fixture::path as fixture;
use crate::common::{self, TensorFile, gpu};
use crate::house::with_task;
use crate::models::{Golden, check, close, config, session};
use modalign::Error;
use modalign::data::{Modality, SplitName};
use modalign::recipe::Config;
use modalign::train::{
    Outcome, RunOptions, Saved, evaluate_run, open_saved, resume, retrieved, train,
};
use std::fs;
use std::path::{Path, PathBuf};

const SMALL: [&str; 9] = [
    "model.name=clfa",
    "model.layers=1",
    "model.heads=2",
    "model.width=8",
    "model.hidden=6",
    "model.inner=8",
    "train.batch_size=8",
    "train.max_epochs=2",
    "train.early_stop=0",
];

fn small(more: &[&str]) -> Result<Config, Error> {
    let all: Vec<String> = SMALL.iter().chain(more).map(ToString::to_string).collect();
    Config::build("mosi", None, &all)
}

fn options(data: &Path, out: PathBuf, more: &[&str]) -> RunOptions {
    let config = small(more).expect("a configuration");
    RunOptions { data: data.into(), out, config, init: None, fold: None }
}

fn run(data: &Path, out: PathBuf, more: &[&str]) -> Result<Outcome, Error> {
    train(gpu(), &options(data, out, more), &mut ())
}

#[test]
fn clfa_is_pytorchs() {
    for name in ["clfa", "clfa_features"] {
        check(name);
        let golden = Golden::read(name);
        let folder = tempfile::tempdir().expect("a folder");
        let data = golden.data(folder.path(), &config("clfa", &golden, &[]));
        let mut session = session("clfa", &golden, &data, &[]);
        let made = session.represent(SplitName::Test).expect("vectors");
        for stream in ["text", "vision", "audio"] {
            let own = made.iter().find(|(name, ..)| *name == format!("encoded {stream}"));
            let (_, _, values) = own.expect("a vector");
            let want = golden.file.f32(&format!("out.{stream}"));
            close(&format!("{name}: vectors of {stream}"), values, &want, 1e-5);
        }
        // Six columns of the one and five of the other find nothing.
        assert_eq!(retrieved(&mut session, SplitName::Test).expect("no error"), None);
    }
}

/// Token ids by a table of its own, and by a BERT that is trained with it.
#[test]
fn tokens_go_on_to_the_same_bytes_and_need_no_guide_in_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = with_task(folder.path(), "classes");
    let out = |name: &str| folder.path().join(name);
    let bert = format!("bert.path={}", fixture("bert_tiny").display());
    let by_bert = ["model.text_encoder=bert", &bert, "bert.max_tokens=6"];
    let by_table = ["model.text_encoder=table", "bert.max_tokens=6"];
    // What guides is of one width, so that each side finds the other.
    let guides = ["model.guide.text=audio", "model.guide.vision=audio"];
    for (kind, own) in [("bert", &by_bert[..]), ("table", &by_table)] {
        let more = [own, &guides].concat();
        let run_of = |name: &str| out(&format!("{kind}-{name}"));
        let outcome = run(&set, run_of("whole"), &more).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let one = [&more[..], &["train.max_epochs=1"]].concat();
        run(&set, run_of("part"), &one).expect("an epoch");
        resume(gpu(), &run_of("part"), None, Some(2), &mut ()).expect("the rest");
        for file in ["last.safetensors", "steps.jsonl", "epochs.jsonl", "state/state.safetensors"] {
            let [whole, part] =
                ["whole", "part"].map(|name| fs::read(run_of(name).join(file)).expect(file));
            assert!(whole == part, "{kind}: {file} differs");
        }
        let found = outcome.retrieval.expect("sides of one width");
        assert_eq!(found.len(), 8, "{found:?}");
        let said = fs::read_to_string(run_of("whole").join("metrics.json")).expect("metrics");
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["retrieval"]["R@1 text→vision"], found["R@1 text→vision"]);

        // Rows that have no text but tokens are scored all the same.
        let saved = Saved::load(&run_of("whole")).expect("a model");
        assert_eq!(saved.card.guides, [(Modality::Audio, 5); 2]);
        let mut file = TensorFile::read(&set);
        file.tensors.retain(|name, _| name.starts_with("test") && name != "test.text");
        let bare = out("bare.safetensors");
        file.save(&bare);
        let [whole, left] = [&set, &bare].map(|set| {
            let (_, said, metrics) =
                evaluate_run(gpu(), &saved, set, SplitName::Test).expect("scores");
            (common::bits_of(&said.scores), metrics)
        });
        assert!(whole == left, "{kind}");
        let mut session = open_saved(gpu(), &saved, &bare).expect("a session");
        assert_eq!(retrieved(&mut session, SplitName::Test).expect("vectors"), Some(found));
    }
}

#[test]
fn a_guide_is_no_input_and_is_not_needed_to_score() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = TensorFile::read(&with_task(folder.path(), "classes"));
    for split in ["train", "valid", "test"] {
        let rows = file.shape(&format!("{split}.text"))[0];
        let values = modalign::ops::random(3, rows * 7);
        file.put_f32(&format!("{split}.clip"), &[rows, 1, 7], &values);
    }
    let set = folder.path().join("guided.safetensors");
    file.save(&set);
    let out = |name: &str| folder.path().join(name);
    let by = ["model.guide.text=clip", "model.guide.vision=clip"];
    let outcome = run(&set, out("guided"), &by).expect("a run");
    assert!(outcome.retrieval.is_some());
    let saved = Saved::load(&out("guided")).expect("a model");
    let read: Vec<Modality> = saved.card.streams.iter().map(|s| s.modality).collect();
    assert_eq!(read, [Modality::Text, Modality::Vision, Modality::Audio]);
    file.tensors.retain(|name, _| name.starts_with("test") && !name.ends_with("clip"));
    let bare = out("bare.safetensors");
    file.save(&bare);
    let score = |set: &Path| {
        let (_, said, _) = evaluate_run(gpu(), &saved, set, SplitName::Test).expect("scores");
        common::bits_of(&said.scores)
    };
    assert!(score(&set) == score(&bare));
    let session = open_saved(gpu(), &saved, &set).expect("a session");
    assert!(session.unread().is_empty(), "what guides is no stream that was forgotten");
    // Asked for by name it is an input, too.
    let named = "model.modalities=T+vision+clip";
    run(&set, out("named"), &[by[0], by[1], named]).expect("a run");
    let saved = Saved::load(&out("named")).expect("a model");
    assert!(saved.weights.get("mlp_clip.0.weight").is_some());

    // Without alignment nothing is guided, and the loss is the task's alone.
    run(&set, out("alone"), &["model.alpha=0", "model.modalities=TV"]).expect("a run");
    let saved = Saved::load(&out("alone")).expect("a model");
    assert!(saved.card.guides.is_empty() && saved.weights.get("align_text.weight").is_none());
    let steps = fs::read_to_string(out("alone").join("steps.jsonl")).expect("steps");
    assert!(!steps.contains("align_"), "{steps}");
    let steps = fs::read_to_string(out("guided").join("steps.jsonl")).expect("steps");
    assert!(steps.contains("align_text") && steps.contains("align_vision"), "{steps}");
}

#[test]
fn what_it_cannot_do_is_one_clear_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = with_task(folder.path(), "classes");
    let numbers = with_task(folder.path(), "numbers");
    let frozen = format!("bert.path={}", fixture("bert_tiny").display());
    let frozen = ["model.text_encoder=bert", &frozen, "bert.finetune=false"];
    let mut file = TensorFile::read(&set);
    file.put_i32("train.vision_missing", &[26], &[[0; 25].as_slice(), &[1]].concat());
    let lacking = folder.path().join("lacking.safetensors");
    file.save(&lacking);
    for (set, more, wanted) in [
        (&numbers, &["model.alpha=1"][..], "learns to tell classes apart"),
        (&set, &["model.modalities=T"], "fuses text with other streams, and there is none beside"),
        (&set, &["model.modalities=AV"], "asks other streams by the text, and there is none"),
        (&set, &["model.guide.text=clip"], "model.guide.text names 'clip', which is no stream"),
        (&set, &["model.guide.text=", "model.guide.vision="], "none is named for a stream"),
        (&set, &["model.guide.text=", "model.modalities=TA"], "none is named for a stream"),
        (&set, &frozen, "has what the frozen encoder makes in its place"),
        (&lacking, &["model.alpha=1"], "'vision', which 1 of 26 training rows lack"),
        (&set, &["model.name=lf_dnn", "model.text_encoder=table"], "learn vectors of words"),
    ] {
        let out = folder.path().join("none");
        let settings: Vec<&str> = more.to_vec();
        let config = match more[0] {
            "model.name=lf_dnn" => {
                let all: Vec<String> = more.iter().map(ToString::to_string).collect();
                Config::build("mosi", None, &all).expect("a configuration")
            }
            _ => small(&settings).expect("a configuration"),
        };
        let options =
            RunOptions { data: set.clone(), out: out.clone(), config, init: None, fold: None };
        let why = train(gpu(), &options, &mut ()).expect_err(wanted).to_string();
        assert!(why.contains(wanted) && !why.contains('\n'), "{why}");
        assert!(!out.exists(), "{wanted}");
    }
    for (setting, wanted) in [
        ("model.tau=0", "model.tau: want a number above 0"),
        ("model.heads=3", "model.heads: want a number of heads"),
        ("model.alpha=-1", "model.alpha: want a number, 0 or more"),
        ("schedule.total=50", "schedule.total: want more steps than schedule.warmup"),
    ] {
        let why = small(&[setting]).expect_err(wanted).to_string();
        assert!(why.contains(wanted), "{why}");
    }
}

/// Data that number their classes as a sentiment, too, far outside of its range.
#[test]
fn classes_are_scored_whatever_numbers_the_data_have_besides() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = TensorFile::read(&with_task(folder.path(), "classes"));
    for split in ["train", "valid", "test"] {
        let rows = file.shape(&format!("{split}.text"))[0];
        let numbers: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 10.0).collect();
        file.put_f32(&format!("{split}.regression_labels"), &[rows], &numbers);
    }
    let set = folder.path().join("both.safetensors");
    file.save(&set);
    let out = folder.path().join("run");
    let outcome = run(&set, out.clone(), &["task.kind=classes"]).expect("a run");
    let saved = Saved::load(&out).expect("a model");
    let (_, _, metrics) = evaluate_run(gpu(), &saved, &set, SplitName::Test).expect("scores");
    assert_eq!(metrics, outcome.test);
}
