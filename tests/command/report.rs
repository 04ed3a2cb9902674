//! Pages of runs and experiments: whole, closed to the network, and true to the numbers.

mod browser;
mod html;
mod place;

use crate::common::TensorFile;
use crate::ran;
use html::check;
use place::{experiment, page, place, plain, read, trained, unsealed};
use ran::{SMALL, fails};
use serde_json::Value;
use std::fs;

/// Every score of a run, as the page gives it.
fn scores(run: &str) -> Vec<String> {
    let metrics: Value =
        serde_json::from_str(&read(&place().at(run).join("metrics.json"))).unwrap();
    let of =
        |split: &str| metrics[split].as_object().unwrap().values().cloned().collect::<Vec<_>>();
    let all = [of("valid"), of("test")].concat();
    all.iter().map(|v| format!("{:.4}", v.as_f64().unwrap()).replace('-', "−")).collect()
}

fn holds(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no '{word}'");
    }
}

/// The small data set with other tensors.
fn with(name: &str, change: impl Fn(&mut TensorFile)) {
    let place = place();
    place.ok(&SMALL.replace("small.", &format!("{name}.")));
    let path = place.at(&format!("{name}.safetensors"));
    let mut file = TensorFile::read(&path);
    change(&mut file);
    file.save(&path);
}

#[test]
fn generated_labels_beside_those_of_people() {
    with("people", |file| {
        for split in ["train", "valid", "test"] {
            let labels = file.f32(&format!("{split}.regression_labels"));
            // Audio's people agree with the multimodal label, and text's say half of it.
            for (letter, part) in [("A", 1.0), ("T", 0.5)] {
                let own: Vec<f32> = labels.iter().map(|l| l * part).collect();
                let name = format!("{split}.regression_labels_{letter}");
                file.put_f32(&name, &[own.len()], &own);
            }
        }
    });
    place().ok("train --data people.safetensors --out people --max-epochs 2 --quiet");
    place().ok("report people --out people.html");
    let text = check(&read(&place().at("people.html")));
    holds(&text, &["Beside what people said", "generated: MAE"]);
    let train = place().at("people.safetensors");
    let labels = TensorFile::read(&train).f32("train.regression_labels");
    let half: f64 = labels.iter().map(|l| f64::from(l.abs()) / 2.0).sum();
    // A line for each modality that people labelled: its rows, and how far the multimodal label is.
    let rows = labels.len();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    holds(&text, &[&format!("text {rows} {:.4} 1.0000", half / rows as f64)]);
    holds(&text, &[&format!("audio {rows} 0.0000 1.0000")]);
    assert!(!text.contains(&format!("vision {rows} ")), "vision has no such labels");
}

#[test]
fn a_run_of_classes_as_a_page() {
    with("kinds", |file| {
        for split in ["train", "valid", "test"] {
            let labels = file.f32(&format!("{split}.regression_labels"));
            file.tensors.remove(&format!("{split}.regression_labels"));
            let kinds: Vec<i32> = labels.iter().map(|l| 1 + l.clamp(-1.0, 1.0) as i32).collect();
            file.put_i32(&format!("{split}.class_labels"), &[kinds.len()], &kinds);
        }
    });
    let small = "--max-epochs 2 --quiet --set model.hidden=8";
    place().ok(&format!("train --data kinds.safetensors --model lf_dnn --out kinds {small}"));
    place().ok("report kinds --out kinds.html");
    let text = check(&read(&place().at("kinds.html")));
    holds(&text, &["Confusion of classes", "F1 of each class", "class 2", "validation loss"]);
    let found: Value = serde_json::from_str(&read(&place().at("kinds/metrics.json"))).unwrap();
    for name in ["accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"] {
        let score = found["test"][name].as_f64().unwrap_or_else(|| panic!("no {name}"));
        holds(&text, &[&format!("{score:.4}")]);
    }
    let matrix = found["test"]["confusion"].as_array().unwrap();
    let rows: u64 =
        matrix.iter().flat_map(|r| r.as_array().unwrap()).filter_map(Value::as_u64).sum();
    assert_eq!((matrix.len(), rows), (3, 40));
    // A line a class, and probabilities that sum to one.
    let eval = place().ok("eval --model kinds");
    holds(&eval, &["class 0", "precision", "support"]);
    let said = place().json("predict --model kinds --data kinds.safetensors --json");
    for row in said["rows"].as_array().unwrap() {
        let sum: f64 = (0..3).map(|c| row[format!("class {c}")].as_f64().unwrap()).sum();
        assert!(
            (sum - 1.0).abs() < 1e-5 && row["class"].as_str().unwrap().starts_with("class "),
            "{row}"
        );
    }

    // A model that learns by turns is trained, scored head by head, shown and timed like any other.
    let small = "--max-epochs 2 --quiet --set model.hidden=8 --set model.width=8";
    place().ok(&format!("train --data kinds.safetensors --model mla --out turns {small}"));
    let found = place().json("eval --model turns --json");
    for head in ["fused", "audio", "vision", "text"] {
        assert!(found["metrics"][head]["accuracy"].is_f64(), "no {head} in {found}");
    }
    place().ok("report turns --out turns.html");
    let text = check(&read(&place().at("turns.html")));
    holds(&text, &["MLA over text, audio, vision.", "Confusion of classes"]);
    let plan = place().ok("inspect kinds.safetensors --plan --model mla");
    holds(&plan, &["turns of a step, in this order: audio, vision, text"]);
    let plan = place().json("inspect kinds.safetensors --plan --model mla --json");
    assert_eq!(plan["turns"], serde_json::json!(["audio", "vision", "text"]));
    let stages: Vec<&str> = plan["dispatches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dispatch| dispatch["stage"].as_str().unwrap())
        .collect();
    // Each of them goes forward, back, and on to the optimiser before the next begins.
    let ends = stages.windows(2).filter(|w| w[0] == "update" && w[1] == "forward").count();
    assert_eq!((ends, stages.last()), (2, Some(&"update")), "{stages:?}");
    let timed = place().json("profile --data kinds.safetensors --model mla --steps 2 --json");
    assert_eq!(timed["dispatches"], stages.len(), "{timed}");
}

#[test]
fn a_run_as_a_page() {
    let out = place().ok(&format!("report {} --out run.html --json", trained()));
    let said: Value = serde_json::from_str(&out).unwrap();
    let html = read(&place().at("run.html"));
    assert_eq!(
        (said["path"].as_str(), said["bytes"].as_u64()),
        (Some("run.html"), Some(html.len() as u64))
    );
    assert_eq!(said["missing"], Value::Array(vec![]));
    assert!(html.len() < 1_500_000, "{}", html.len());
    let titles: Vec<&str> = said["sections"][0]["sections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s.as_str().unwrap())
        .collect();
    assert_eq!(
        titles,
        [
            "Curves",
            "Predicted against true",
            "Generated labels",
            "Covariances, before and after",
            "What the representations carry",
            "Hardest samples",
            "Where scores come from",
            "To repeat this",
        ]
    );
    let text = check(&html);
    holds(&text, &titles);
    for score in scores(trained()) {
        assert!(text.contains(&score), "no {score}");
    }
    // What the data says is text, not markup.
    holds(&text, &[place::HOSTILE, place::HOSTILE_TEXT]);
    assert!(!html.contains("<script>alert") && !html.contains("<img"));
    let card: Value = serde_json::from_str(&read(&place().at("trained/run.json"))).unwrap();
    for key in ["data", "data_sha256", "adapter", "driver", "version"] {
        assert!(text.contains(card[key].as_str().unwrap()), "{key}");
    }
    holds(&text, &["--seed 1111", "train.max_epochs=3", "L_cov", "mean |yₛ − yₘ|"]);
    // The command that it gives leaves the same run.
    let command = text.lines().find(|l| l.starts_with("modalign train")).unwrap();
    place().ok(&format!("{} --out again --quiet", command.trim_start_matches("modalign ")));
    for file in ["model.safetensors", "epochs.jsonl", "labels.jsonl"] {
        let [a, b] = ["trained", "again"].map(|r| fs::read(place().at(r).join(file)).unwrap());
        assert!(a == b, "{file}");
    }
}

#[test]
fn what_a_run_has_not_is_said() {
    let text = check(&read(&page("plain.html", plain())));
    holds(&text, &["generates no labels", "aligns nothing", "What the representations carry"]);
    // Without its data the rest is still there.
    let gone = place().at("gone");
    fs::create_dir_all(&gone).unwrap();
    for name in ["config.toml", "run.json", "metrics.json", "epochs.jsonl", "model.safetensors"] {
        fs::copy(place().at(trained()).join(name), gone.join(name)).unwrap();
    }
    let mut card: Value = serde_json::from_str(&read(&gone.join("run.json"))).unwrap();
    card["data"] = "nowhere.safetensors".into();
    unsealed(&gone.join("run.json"), card);
    let ran = place().run("report gone --out gone.html --json");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(said["missing"][0].as_str().unwrap().contains("nowhere.safetensors"), "{said}");
    let text = check(&read(&place().at("gone.html")));
    holds(
        &text,
        &["are left out", "nowhere.safetensors", "no labels.jsonl", "Curves", "To repeat this"],
    );
    let ran = place()
        .run(&format!("report {} --out no-adapter.html --adapter nothing-of-that-name", trained()));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    holds(&check(&read(&place().at("no-adapter.html"))), &["are left out", "Generated labels"]);
}

#[test]
fn scores_are_explained_once_that_was_asked_for() {
    let text = check(&read(&page("unexplained.html", plain())));
    holds(&text, &["modalign explain --model plain --hardest 12 --save"]);
    place().ok("explain --model plain --hardest 3 --save --quiet");
    let html = read(&page("explained.html", plain()));
    let text = check(&html);
    holds(&text, &["Integrated gradients", "share of the score", "residual", place::HOSTILE]);
    assert!(!text.contains("modalign explain --model plain"));
    // Explanations of another state of the run are not shown as those of this one.
    let mut kept: Value = serde_json::from_str(&read(&place().at("plain/explain.json"))).unwrap();
    kept["epoch"] = 99.into();
    unsealed(&place().at("plain/explain.json"), kept);
    let text = check(&read(&page("stale.html", plain())));
    holds(&text, &["is of another state of this run", "modalign explain --model plain"]);
}

#[test]
fn runs_are_compared() {
    let text = check(&read(&page("two.html", &format!("{} {}", trained(), plain()))));
    holds(&text, &["2 runs compared", "labels.enabled", "Run trained", "Run plain"]);
    for score in [scores(trained()), scores(plain())].concat() {
        assert!(text.contains(&score), "no {score}");
    }
}

#[test]
fn an_experiment_as_a_page() {
    let html = read(&page("experiment.html", experiment()));
    let text = check(&html);
    holds(
        &text,
        &[
            "tiny on mosi",
            "All cells",
            place::HOSTILE_CELL,
            "Self-MM",
            "0.713",
            "negative / non-negative",
            "audio dropped",
            "What the encoders recover",
            "What the representations carry",
            "Robustness",
            "Best cell: labels+<b>ta, seed 1111",
            "Reference: labels, seed 1111",
            "can be told from the reference",
        ],
    );
    let results: Value = serde_json::from_str(&read(&place().at("grid/results.json"))).unwrap();
    let shown = |value: &Value, digits: usize| {
        let value = value.as_f64().unwrap();
        format!("{value:.digits$}").replace('-', "−").trim_start_matches('−').to_string()
    };
    for cell in results["cells"].as_array().unwrap() {
        for (name, stat) in cell["test"].as_object().unwrap() {
            let mean = shown(&stat["mean"], 3);
            assert!(text.contains(&mean), "{name} {mean}");
        }
        for damage in cell["robustness"].as_array().unwrap() {
            let (mean, std) = (&damage["test"]["MAE"]["mean"], &damage["test"]["MAE"]["std"]);
            let spread = format!("{} ± {}", shown(mean, 3), shown(std, 3));
            assert!(text.contains(&spread), "{} {spread}", damage["name"]);
        }
    }
    let against = &results["cells"][1]["against_reference"]["MAE"];
    for value in [&against["difference"], &against["ci95"][0], &against["ci95"][1]] {
        assert!(text.contains(&shown(value, 4)), "{against}");
    }
    assert!(text.contains(&shown(&against["p_adjusted"], 3)), "{against}");
    assert!(html.contains("class=\"mark\""));
    // The best is marked only where the test says so.
    let dull = place().at("dull");
    fs::create_dir_all(&dull).unwrap();
    let mut results: Value = serde_json::from_str(&read(&place().at("grid/results.json"))).unwrap();
    results["best"]["significant"] = false.into();
    unsealed(&dull.join("results.json"), results);
    let html = read(&page("dull.html", "dull"));
    holds(&check(&html), &["cannot be told from the reference"]);
    assert!(!html.contains("class=\"mark\""));
}

#[test]
fn what_cannot_be_reported_is_refused() {
    fs::create_dir_all(place().at("empty")).unwrap();
    fails(place().run("report empty --out x.html"), 2, &["empty", "neither a run", "results.json"]);
    fs::create_dir_all(place().at("odd")).unwrap();
    fs::write(place().at("odd/results.json"), "{\"name\": 3}").unwrap();
    fails(place().run("report odd --out x.html"), 1, &["odd", "no results of an experiment"]);
    fails(
        place().run(&format!("report {} --out no/x.html --quiet", plain())),
        1,
        &["no", "does not exist"],
    );
    assert!(!place().at("x.html").exists());
}
