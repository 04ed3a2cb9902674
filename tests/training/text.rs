//! Pretrained text from sentences to scores, through the built command: training, resuming,
//! freezing, cached features, exporting, typed sentences.

use crate::{common, text_place};
use common::{TensorFile, bits, gpu, largest_gap};
use modalign::data::{Damage, Modality, Perturbation, SplitName};
use modalign::nn::{Pretrained, Weights};
use modalign::plan::{pack_halves, unpack_halves};
use modalign::train::{Saved, Session, open_saved};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use text_place::{Place, ROWS, Ran, add_tokens, fails, made, score, sentences, tiny};

/// Where MMSA keeps the encoder among a model's tensors.
const PREFIX: &str = "text_model.model.";
const FROZEN: &str = "--set bert.finetune=false";

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the encoder in a folder begins with.
fn original(folder: &Path) -> Weights {
    Pretrained::open(folder).and_then(|p| p.weights()).unwrap_or_else(|e| panic!("{e}"))
}

/// The tensors of the encoder that differ from the original ones.
fn moved(saved: &Saved, from: &Weights) -> Vec<String> {
    let now = saved.weights.stripped(PREFIX);
    assert_eq!(now.iter().count(), from.iter().count());
    let differ = |name: &str, values: &[f32]| {
        let (_, old) = from.get(name).unwrap_or_else(|| panic!("no {name}"));
        values.iter().zip(old).any(|(a, b)| a.to_bits() != b.to_bits())
    };
    now.iter().filter(|(n, _, v)| differ(n, v)).map(|(n, ..)| n.to_string()).collect()
}

#[test]
fn a_run_has_all_that_it_needs_of_its_encoder() {
    let place = Place::new();
    let saved = place.tuned("run", "");
    let from = original(&tiny());
    // A key's bias changes no attention: its gradient is rounding noise, and may be none.
    let still: Vec<String> = {
        let moved = moved(&saved, &from);
        from.iter().map(|(n, ..)| n.to_string()).filter(|n| !moved.contains(n)).collect()
    };
    assert!(still.iter().all(|name| name.ends_with("key.bias")), "{still:?} did not move");
    assert!(saved.weights.iter().all(|(.., values)| values.iter().all(|v| v.is_finite())));
    let run = place.at("run");
    assert_eq!(names(&run.join("bert")), ["config.json", "extras.safetensors", "vocab.txt"]);
    let extras = Weights::load(&run.join("bert/extras.safetensors")).expect("extras");
    assert!(extras == Pretrained::open(tiny()).unwrap().pooler().unwrap());
    assert_eq!(extras.iter().count(), 2);

    let steps = lines(&run.join("steps.jsonl"));
    assert_eq!(steps.len(), 2 * ROWS[0] / 8);
    assert!(steps.iter().all(|s| s["loss"].as_f64().is_some_and(f64::is_finite)));
    let epochs = lines(&run.join("epochs.jsonl"));
    let losses = [&epochs[0], &epochs[1]].map(|e| e["loss"].as_f64().expect("a loss"));
    assert!(losses[1] < losses[0], "it learns: {losses:?}");

    // The folder that it began with is of no further use.
    fs::rename(place.at("encoder"), place.at("elsewhere")).unwrap();
    let metrics: Value =
        serde_json::from_slice(&fs::read(run.join("metrics.json")).unwrap()).unwrap();
    let eval = place.json("eval --model run");
    assert_eq!(eval["metrics"]["fused"]["MAE"], metrics["test"]["MAE"]);
    let csv = place.ok("predict --model run --data data.safetensors --format csv");
    assert_eq!(csv.lines().next().unwrap(), "id,score,class,class7,text,audio,label");
    assert_eq!(csv.lines().count(), 1 + ROWS[2]);
    assert!(place.ok("inspect run/model.safetensors").contains("text (tokens), audio"));
    // Nor is the pooler needed for anything but an export.
    fs::remove_file(run.join("bert/extras.safetensors")).unwrap();
    assert_eq!(place.scores("run", "data.safetensors", SplitName::Test).len(), ROWS[2]);
    fs::remove_file(run.join("bert/vocab.txt")).unwrap();
    fails(place.run("predict --model run --text film"), 1, &["run/bert", "vocab.txt"]);
}

/// Labels in the tensors, sentences beside them, and nothing else.
#[test]
fn sentences_alone_are_a_data_set() {
    let place = Place::new();
    let mut bare = made();
    bare.tensors.retain(|name, _| name.ends_with("regression_labels"));
    bare.save(&place.at("bare.safetensors"));
    place.side("bare.json", sentences);
    let line = "--data bare.safetensors --bert encoder --max-epochs 1";
    place.train("bare", line);
    place.train("text", &line.replace("bare", "data").replace("1", "1 --set model.modalities=T"));
    assert!(bits(&place.saved("bare").weights) == bits(&place.saved("text").weights));
    // One sentence less than there are labels.
    place.side("bare.json", |split| sentences(split)[1..].to_vec());
    let ran = place.run(&format!("train --config small.toml --out bad {line}"));
    fails(ran, 1, &["bare", "47", "48"]);
}

#[test]
fn token_ids_are_as_good_as_sentences() {
    let place = Place::new();
    let mut both = made();
    add_tokens(&mut both, sentences);
    both.save(&place.at("both.safetensors"));
    place.side("both.json", sentences);
    // Other sentences in the tokens than in the side file.
    let backwards = |split| sentences(split).into_iter().rev().collect::<Vec<_>>();
    let mut other = made();
    add_tokens(&mut other, backwards);
    other.save(&place.at("other.safetensors"));
    place.side("other.json", sentences);

    let scores = |out: &str, data: &str, more: &str| {
        let line = format!("--data {data}.safetensors --bert encoder --max-epochs 1 {more}");
        place.train(out, &line);
        let steps = fs::read(place.at(out).join("steps.jsonl")).unwrap();
        let data = format!("{data}.safetensors");
        (steps, place.scores(out, &data, SplitName::Test), bits(&place.saved(out).weights))
    };
    let text = scores("text", "both", "--set bert.input=raw_text");
    assert!(text == scores("ids", "both", "--set bert.input=text_bert"));
    assert!(text == scores("auto", "other", ""), "sentences come first");
    assert!(text.1 != scores("back", "other", "--set bert.input=text_bert").1);
    // Both are cut, and keep their [SEP].
    let cut = scores("cut", "both", "--set bert.max_tokens=6");
    assert!(cut == scores("cut-ids", "both", "--set bert.input=text_bert --set bert.max_tokens=6"));
    assert!(cut.1 != text.1);
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let place = Place::new();
    let line = |out: &str| {
        format!(
            "train --data data.safetensors --bert encoder --config small.toml --out {out} \
             --max-epochs 12 --set model.dropout=0.2 --quiet"
        )
    };
    place.ok(&line("whole"));
    let mut child = place.command(&line("killed")).spawn().unwrap();
    let (state, began) = (place.at("killed/state/state.safetensors"), Instant::now());
    while !state.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no state after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.at("killed/metrics.json").exists(), "the run ended before it was killed");
    fs::rename(place.at("encoder"), place.at("elsewhere")).unwrap();
    place.ok("train --resume killed --quiet");
    for name in [
        "model.safetensors",
        "last.safetensors",
        "labels.safetensors",
        "steps.jsonl",
        "epochs.jsonl",
        "state/state.safetensors",
    ] {
        let read = |run: &str| fs::read(place.at(run).join(name)).unwrap();
        assert!(read("whole") == read("killed"), "{name} differs");
    }
}

#[test]
fn a_sample_does_not_see_its_neighbours() {
    let place = Place::new();
    let mut saved = place.tuned("run", "");
    let all = |model: &str| {
        SplitName::ALL.map(|split| place.scores(model, "data.safetensors", split)).concat()
    };
    let together = all("run");
    assert!(together.iter().any(|s| (s - together[0]).abs() > 0.01), "not one score for all");
    for (batch, name) in [(1, "one"), (5, "five"), (16, "sixteen")] {
        saved.card.config.train.batch_size = batch;
        let name = format!("run/{name}.safetensors");
        Saved::save(&place.at(&name), &saved.card, &saved.weights).unwrap();
        let gap = largest_gap(&all(&name), &together);
        assert!(gap < 1e-5, "in batches of {batch} a score changes by {gap:e}");
    }
}

#[test]
fn features_of_a_frozen_encoder_are_computed_once() {
    let place = Place::new();
    let frozen = |out: &str, more: &str| place.tuned(out, &format!("{FROZEN} {more}"));
    let first = frozen("first", "");
    let kept = place.features();
    assert_eq!(kept.len(), 1);
    let when = || fs::metadata(&kept[0]).unwrap().modified().unwrap();
    let written = when();
    assert!(first.weights.iter().all(|(name, ..)| !name.starts_with(PREFIX)), "it is not trained");
    assert!(frozen("again", "").weights == first.weights);
    place.ok("eval --model first");
    assert!(when() == written && place.features() == kept, "the file is used, not written");

    // All that the features depend on makes another file, and other scores.
    let scores = |model: &str| place.scores(model, "data.safetensors", SplitName::Test);
    place.encoder("doubled", |_, tensors| {
        let name = "encoder.layer.1.output.LayerNorm.weight";
        tensors.put_f32(name, &[64], &[2.0; 64]);
    });
    place.encoder("heads", |config, _| drop(config.insert("num_attention_heads".into(), 2.into())));
    for (count, out, more) in [
        (2, "mean", "--set bert.pooling=mean"),
        (3, "doubled-run", "--bert doubled"),
        (4, "heads-run", "--bert heads"),
        (5, "short", "--set bert.max_tokens=4"),
    ] {
        let folder = if more.contains("--bert") { "" } else { "--bert encoder" };
        place.train(out, &format!("--data data.safetensors {folder} {FROZEN} {more}"));
        assert_eq!(place.features().len(), count, "{out}");
        assert_ne!(scores(out), scores("first"), "{out}");
    }

    // They are a text like any other.
    let features = TensorFile::read(&kept[0]);
    let mut data = made();
    for (split, rows) in SplitName::ALL.into_iter().zip(ROWS) {
        let name = format!("{split}.text");
        assert_eq!(features.shape(&name), [rows, 1, 64]);
        data.put_f32(&name, &[rows, 1, 64], &features.f32(&name));
    }
    data.save(&place.at("features.safetensors"));
    place.train("plain", "--data features.safetensors --set model.text_encoder=features");
    assert!(bits(&place.saved("plain").weights) == bits(&first.weights));
    let steps = |run: &str| fs::read(place.at(run).join("steps.jsonl")).unwrap();
    assert!(steps("plain") == steps("first"));

    // A run goes on where its encoder was, and typed sentences are not kept.
    fs::rename(place.at("encoder"), place.at("elsewhere")).unwrap();
    assert_eq!(scores("first").len(), ROWS[2]);
    assert_eq!(place.spoken("first", &["a good film", ""]).len(), 2);
    assert_eq!(place.features().len(), 5);
    fs::remove_dir_all(place.at("cache/modalign")).unwrap();
    place.spoken("first", &["a good film"]);
    assert!(!place.at("cache/modalign/text").exists());
    // Computed again they are the same.
    scores("first");
    assert_eq!(place.features(), kept);
    assert_eq!(TensorFile::read(&kept[0]).f32("test.text"), features.f32("test.text"));
}

#[test]
fn what_is_frozen_stays() {
    let place = Place::new();
    let from = original(&tiny());
    let moved = |out: &str, more: &str| {
        let saved = place.tuned(out, &format!("--max-epochs 1 {more}"));
        moved(&saved, &from)
    };
    let of = |names: &[String], part: &str| names.iter().filter(|n| n.contains(part)).count();
    let layer = moved("layer", "--set bert.freeze_layers=1");
    assert_eq!((of(&layer, "embeddings"), of(&layer, "layer.0.")), (0, 0), "{layer:?}");
    // All 16 of the layer, but for the key's bias perhaps.
    assert!(of(&layer, "layer.1.") >= 15, "{layer:?}");
    let embeddings = moved("embeddings", "--set bert.freeze_embeddings=true");
    assert_eq!(of(&embeddings, "embeddings"), 0, "{embeddings:?}");
    assert!(of(&embeddings, "layer.0.") >= 15 && of(&embeddings, "layer.1.") >= 15);
    // With every layer frozen nothing is left to train, and features are all there is to read.
    let all = place.tuned("all", "--set bert.freeze_layers=2");
    place.tuned("features", FROZEN);
    assert!(all.weights == place.saved("features").weights);
    assert!(all.weights.iter().all(|(name, ..)| !name.starts_with(PREFIX)));
    assert_eq!(place.features().len(), 1);
    let kept = |run: &str| fs::read(place.at(run).join("bert/model.safetensors")).unwrap();
    assert!(kept("all") == kept("features"));
}

/// `bert.half`: less memory, a saved model of the values that were computed with, which scores what
/// the run scored, and features of their own where nothing is trained.
#[test]
fn frozen_layers_are_kept_by_halves() {
    let place = Place::new();
    let line = "inspect data.safetensors --plan --bert encoder --config small.toml \
                --set bert.freeze_layers=1";
    let half = "--set bert.half=true";
    let (plan, less) = (place.json(line), place.json(&format!("{line} {half}")));
    let bytes = |plan: &Value| plan["total_bytes"].as_u64().expect("bytes");
    // Four matrices of 64 × 64 and two of 64 × 128, two bytes an element.
    assert_eq!(bytes(&plan) - bytes(&less), 2 * (4 * 64 * 64 + 2 * 64 * 128));

    // The fixture's own values are halves already.
    let is_matrix = |name: &str| name.ends_with("weight") && name.contains("dense");
    place.encoder("fine", |_, tensors| {
        for (name, shape, values) in original(&tiny()).iter().filter(|w| is_matrix(w.0)) {
            let values: Vec<f32> = values.iter().map(|v| v * 1.0003).collect();
            tensors.put_f32(name, shape, &values);
        }
    });
    let train = |out: &str, more: &str| {
        place.train(out, &format!("--data data.safetensors --bert fine {more}"));
    };
    train("run", &format!("--set bert.freeze_layers=1 {half}"));
    let saved = place.saved("run");
    let frozen = |name: &str| name.starts_with(&format!("{PREFIX}encoder.layer.0."));
    let from = original(&place.at("fine")).prefixed(PREFIX);
    for (name, _, values) in from.iter().filter(|w| frozen(w.0)) {
        let matrix = is_matrix(name);
        let nearest = unpack_halves(&pack_halves(values));
        let want = if matrix { &nearest[..values.len()] } else { values };
        assert!(saved.weights.get(name).unwrap().1 == want, "{name}");
        assert!(!matrix || want != values, "{name} is rounded");
    }
    let scores = |model: &str| place.scores(model, "data.safetensors", SplitName::Test);
    // By floats they are the same: the file holds what a half holds.
    let mut card = saved.card.clone();
    card.config.bert.half = false;
    fs::create_dir(place.at("floats")).unwrap();
    Saved::save(&place.at("floats/model.safetensors"), &card, &saved.weights).unwrap();
    fs::create_dir(place.at("floats/bert")).unwrap();
    for name in ["config.json", "vocab.txt"] {
        fs::copy(place.at("run/bert").join(name), place.at("floats/bert").join(name)).unwrap();
    }
    assert!(largest_gap(&scores("run"), &scores("floats")) < 1e-5);

    train("features", FROZEN);
    train("halves", &format!("{FROZEN} {half}"));
    let [a, b] = place.features().try_into().expect("two files");
    let [a, b] = [a, b].map(|path| TensorFile::read(&path).f32("train.text"));
    let gap = largest_gap(&a, &b);
    assert!(gap > 0.0 && gap < 1e-2, "{gap:e}");
    // What such a run keeps of its encoder is what it was given.
    let kept = fs::read(place.at("halves/bert/model.safetensors")).unwrap();
    assert!(kept == fs::read(place.at("fine/model.safetensors")).unwrap());
}

#[test]
fn typed_sentences_are_scored() {
    let place = Place::new();
    place.tuned("text", "--set model.modalities=T");
    place.tuned("both", "");
    // A row of the data set says the same when it is typed.
    let texts = sentences(SplitName::Test);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let typed: Vec<f32> = place.spoken("text", &texts).iter().map(score).collect();
    let gap = largest_gap(&typed, &place.scores("text", "data.safetensors", SplitName::Test));
    assert!(gap < 1e-5, "{gap:e}");
    // With audio about it is the head of the text that speaks.
    let all = place.json("predict --model both --data data.safetensors");
    let rows = all["rows"].as_array().unwrap();
    let heads: Vec<f32> = rows.iter().map(|r| r["text"].as_f64().unwrap() as f32).collect();
    let typed: Vec<f32> = place.spoken("both", &texts).iter().map(score).collect();
    assert!(largest_gap(&typed, &heads) < 1e-5);
    assert!(largest_gap(&typed, &rows.iter().map(score).collect::<Vec<_>>()) > 1e-3);

    let long = "film ".repeat(1000);
    let odd = ["", " ", "😀🎬", "- not, \"good\"", "我好", &long, "film\nfilm"];
    let rows = place.spoken("text", &odd);
    for (row, text) in rows.iter().zip(odd) {
        assert!(row["text"] == text && score(row).is_finite(), "{row}");
        assert!(row["class"].is_string() && row["class7"].is_string());
    }
    assert_eq!((rows.len(), score(&rows[0])), (7, score(&rows[1])));
    assert_ne!(score(&rows[0]), score(&rows[4]));
    let mut csv = place.command("predict --model text --format csv --quiet --text");
    let csv = Ran::from(csv.args(["good, bad", "--text", "film"]).output().unwrap());
    let csv: Vec<&str> = csv.out.lines().collect();
    assert_eq!((csv.len(), csv[0]), (3, "text,score,class,class7"));
    assert!(csv[1].starts_with("\"good, bad\",") && csv[2].starts_with("film,"), "{csv:?}");
    assert!(place.ok("predict --model text --text film").contains(" film "));
}

#[test]
fn checkpointing_saves_memory_and_changes_nothing() {
    let place = Place::new();
    let line = "inspect data.safetensors --plan --bert encoder --config small.toml";
    let (plan, less) =
        (place.json(line), place.json(&format!("{line} --set bert.checkpoint=true")));
    let bytes = |plan: &Value, key: &str| plan[key].as_u64().unwrap_or_else(|| panic!("{key}"));
    let saved = bytes(&plan, "checkpoint_saves_bytes");
    assert!(saved > 0 && saved == bytes(&less, "checkpoint_saves_bytes"));
    assert_eq!(bytes(&plan, "total_bytes"), bytes(&less, "total_bytes") + saved);
    let count = |plan: &Value| plan["dispatches"].as_array().unwrap().len();
    assert!(count(&less) > count(&plan), "layers are computed again");
    let text = place.ok(line);
    assert!(text.contains("gradient checkpointing (bert.checkpoint=true) would save"), "{text}");
    let text = place.ok(&format!("{line} --set bert.checkpoint=true"));
    assert!(text.contains("gradient checkpointing saves"), "{text}");
    let none = place.json(&format!("{line} {FROZEN}"));
    assert!(none["checkpoint_saves_bytes"].is_null() && count(&none) < count(&plan));

    // Dropout is drawn again as it was.
    let steps = |out: &str, more: &str| {
        place.tuned(out, &format!("--max-epochs 1 --set bert.dropout=0.2 {more}"));
        fs::read(place.at(out).join("steps.jsonl")).unwrap()
    };
    let whole = steps("whole", "");
    assert!(whole == steps("again", "--set bert.checkpoint=true"));
    assert!(whole != steps("dry", "--set bert.dropout=0"), "there is dropout");
}

#[test]
fn an_exported_encoder_is_the_one_that_was_trained() {
    let place = Place::new();
    let saved = place.tuned("run", "");
    fs::rename(place.at("encoder"), place.at("elsewhere")).unwrap();
    let out = place.json("export --model run --hf out/encoder");
    let file = TensorFile::read(&place.at("out/encoder/model.safetensors"));
    let before = TensorFile::fixture("bert_tiny/model.safetensors");
    let names: Vec<&String> = file.tensors.keys().collect();
    assert_eq!(names, before.tensors.keys().collect::<Vec<_>>());
    assert_eq!(out["tensors"].as_u64().unwrap() as usize, names.len());
    let exported = Pretrained::open(place.at("out/encoder")).unwrap();
    assert!(exported.weights().unwrap() == saved.weights.stripped(PREFIX));
    assert!(exported.pooler().unwrap() == Pretrained::open(tiny()).unwrap().pooler().unwrap());
    assert_eq!(exported.config, Pretrained::open(tiny()).unwrap().config);
    assert_eq!(self::names(&place.at("out")), ["encoder"], "nothing is left beside it");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| fs::metadata(place.at(name)).unwrap().permissions().mode();
        assert_eq!(mode("out/encoder"), mode("out"), "as open as any new folder");
    }

    // What a new run begins with is what the trained one makes of its text.
    place.train("next", &format!("--data data.safetensors --bert out/encoder {FROZEN}"));
    let features = TensorFile::read(&place.features()[0]).f32("test.text");
    let mut session = open_saved(gpu(), &saved, &place.at("data.safetensors")).unwrap();
    let all = session.represent(SplitName::Test).unwrap();
    let (_, size, encoded) = all.iter().find(|(name, ..)| name == "encoded text").unwrap();
    assert_eq!(*size, 64);
    let gap = largest_gap(&features, encoded);
    assert!(gap < 1e-5, "{gap:e}");

    // A frozen one comes out as it went in.
    place.json("export --model next/last.safetensors --hf same");
    let same = TensorFile::read(&place.at("same/model.safetensors"));
    assert!(file.tensors.iter().all(|(name, tensor)| tensor.bytes == same.get(name).bytes));
}

#[test]
fn an_export_that_cannot_be_is_refused() {
    let place = Place::new();
    place.encoder("bare", |_, tensors| tensors.tensors.retain(|n, _| !n.starts_with("pooler")));
    place.train("run", "--data data.safetensors --bert bare --max-epochs 1");
    place.train("deaf", "--data data.safetensors --max-epochs 1");
    fails(place.run("export --model deaf --hf new"), 2, &["deaf", "no pretrained encoder"]);
    fs::create_dir(place.at("there")).unwrap();
    fs::write(place.at("there/own.txt"), "mine").unwrap();
    fails(place.run("export --model run --hf there"), 2, &["there", "not empty", "own.txt"]);
    fails(place.run("export --model run --hf small.toml/new"), 1, &["small.toml"]);
    assert!(!place.at("new").exists() && names(&place.at("there")) == ["own.txt"]);
    // Without a pooler there is none to pass on. An empty folder is as good as none.
    fs::create_dir(place.at("new")).unwrap();
    place.ok("export --model run --hf new/");
    let file = TensorFile::read(&place.at("new/model.safetensors"));
    assert_eq!(file.tensors.len(), original(&tiny()).iter().count());
    fs::remove_file(place.at("run/bert/config.json")).unwrap();
    fails(place.run("export --model run --hf newer"), 1, &["run/bert/config.json"]);
    assert!(!place.at("newer").exists());
}

/// Against transformers itself: what AutoModel and AutoTokenizer make of an exported folder. With
/// MODALIGN_BERT, of real weights.
#[test]
fn transformers_reads_an_export() {
    let Some(python) = std::env::var_os("MODALIGN_PYTHON").filter(|v| !v.is_empty()) else {
        // Past the test harness, which hides what a passing test prints.
        let _ = writeln!(std::io::stderr(), "skipped: set MODALIGN_PYTHON (has transformers)");
        return;
    };
    let place = Place::new();
    let real = std::env::var_os("MODALIGN_BERT").filter(|v| !v.is_empty());
    let encoder = real.map_or(place.at("encoder"), Into::into);
    let encoder = encoder.to_str().expect("a path");
    let few = "--set train.lr.bert=1e-4 --max-epochs 1";
    place.train("run", &format!("--data data.safetensors --bert {encoder} {few}"));
    place.ok("export --model run --hf exported");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/check_export.py");
    let mut check = Command::new(python);
    check.arg(script).arg(place.at("exported")).arg(place.at("data.json"));
    let ran = Ran::from(check.output().expect("python"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let want: Value = serde_json::from_str(&ran.out).expect("JSON");
    for pooling in ["first", "mean"] {
        let known = place.features();
        let frozen = format!("--data data.safetensors --bert exported {FROZEN}");
        place.train(pooling, &format!("{frozen} --set bert.pooling={pooling} --max-epochs 1"));
        let file = place.features().into_iter().find(|f| !known.contains(f)).expect("features");
        let got = TensorFile::read(&file).f32("test.text");
        let want: Vec<Vec<f32>> = serde_json::from_value(want[pooling].clone()).expect("rows");
        let gap = common::of_largest(&got, &want.concat());
        println!("{pooling}: {gap:.2e} of the largest");
        assert!(gap < 2e-6, "{pooling}: {gap:e}");
    }
}

#[test]
fn sentences_can_be_dropped_and_cut_at_test_time() {
    let place = Place::new();
    let saved = place.tuned("run", "");
    let mut session = open_saved(gpu(), &saved, &place.at("data.safetensors")).expect("a model");
    let intact = session.predict(SplitName::Test).expect("scores").scores;
    let named: Vec<String> = session.perturbations().iter().map(ToString::to_string).collect();
    assert_eq!(named.len(), 2 * 5 + 2, "{named:?}");
    let under = |session: &mut Session, modality, damage| {
        let found = session.predict_under(SplitName::Test, &Perturbation::of(modality, damage));
        found.expect("scores").scores
    };
    // Columns: fused, text, audio. Without its words every sentence is the same one.
    let dropped = under(&mut session, Modality::Text, Damage::Dropped);
    assert!(dropped.iter().all(|row| row[1].to_bits() == dropped[0][1].to_bits()));
    assert!(dropped.iter().zip(&intact).all(|(a, b)| a[2] == b[2]), "audio is what it was");
    let cut = under(&mut session, Modality::Text, Damage::Truncated);
    let changed = cut.iter().zip(&intact).filter(|(a, b)| a[1] != b[1]).count();
    assert!((1..ROWS[2]).contains(&changed), "the shortest have nothing to lose: {changed}");
    let audio = under(&mut session, Modality::Audio, Damage::Dropped);
    assert!(audio.iter().all(|row| row[2].to_bits() == audio[0][2].to_bits()));
    assert!(audio.iter().zip(&intact).all(|(a, b)| a[1] == b[1]), "text is what it was");
    assert_eq!(session.predict(SplitName::Test).expect("scores").scores, intact);
}
