//! Experiments from outside: grids, what is finished is never repeated, shards, damage, tables.

use crate::ran;
use ran::{Place, SMALL, fails};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// A folder for all tests of this run, with a small data set.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("experiment");
        place.ok(SMALL);
        place
    })
}

fn plan(name: &str, text: &str) {
    std::fs::write(place().at(name), text).unwrap();
}

/// Four cells of two seeds, a second or two of work.
const GRID: &str = "data = 'small.safetensors'\nseeds = 2\n[set]\n'train.max_epochs' = 2\n\
                    [grid]\n'align.weight' = [0, 1]\n'labels.enabled' = [true, false]\n";

/// What a finished run must not lose or change: its model and its record, with the time they were
/// written.
pub fn finished(place: &Place, folder: &str) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    let Ok(cells) = std::fs::read_dir(place.at(folder).join("runs")) else { return all };
    for cell in cells.flatten() {
        for seed in std::fs::read_dir(cell.path()).unwrap().flatten() {
            if !seed.path().join("cell.json").exists() {
                continue;
            }
            for name in ["model.safetensors", "epochs.jsonl", "cell.json"] {
                let path = seed.path().join(name);
                let at = path.metadata().unwrap().modified().unwrap();
                all.insert(path.clone(), (std::fs::read(&path).unwrap(), at));
            }
        }
    }
    all
}

/// The bits of every finished model, by cell and seed.
pub fn models(place: &Place, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let base = place.at(folder);
    let named = |path: &PathBuf| path.strip_prefix(&base).unwrap().display().to_string();
    let all = finished(place, folder).into_iter();
    all.filter(|(p, _)| p.ends_with("model.safetensors"))
        .map(|(p, (b, _))| (named(&p), b))
        .collect()
}

/// Starts an experiment and kills it after three runs or a few more, in the middle of one; what was
/// finished then.
pub fn killed(place: &Place, line: &str, folder: &str) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut child = place.command(line).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while finished(place, folder).len() < 3 * 3 && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    finished(place, folder)
}

/// An uninterrupted experiment that several tests read.
fn whole() -> &'static Value {
    static WHOLE: OnceLock<Value> = OnceLock::new();
    WHOLE.get_or_init(|| {
        plan("grid.toml", GRID);
        place().json("experiment grid.toml --out whole --json --quiet")
    })
}

#[test]
fn a_grid_compares_every_cell_with_the_reference() {
    let results = whole();
    assert_eq!(
        (results["expected_runs"].as_u64(), results["finished_runs"].as_u64()),
        (Some(8), Some(8))
    );
    let cells = results["cells"].as_array().unwrap();
    let names: Vec<&str> = cells.iter().map(|c| c["cell"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "weight=0,enabled=true",
            "weight=0,enabled=false",
            "weight=1,enabled=true",
            "weight=1,enabled=false"
        ]
    );
    assert_eq!(results["reference"], "weight=0,enabled=true");
    assert!(cells[0]["against_reference"].is_null());
    for cell in cells {
        assert_eq!(cell["test"]["MAE"]["n"], 2);
        // Means are of the runs' own metrics.json.
        let runs = cell["runs"].as_array().unwrap();
        let of = |run: &Value| -> f64 {
            let path = place().at("whole").join(run["run"].as_str().unwrap()).join("metrics.json");
            let text = std::fs::read_to_string(path).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()["test"]["MAE"].as_f64().unwrap()
        };
        let mean = runs.iter().map(of).sum::<f64>() / 2.0;
        assert!((cell["test"]["MAE"]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
        // The factors of synthetic data are known.
        for score in ["R2 shared", "R2 private"] {
            assert!(cell["test"][score]["mean"].is_f64(), "{cell}");
        }
        assert!(cell["robustness"].is_null());
    }
    // The best cell is chosen on validation rows.
    let valid = |c: &Value| c["valid"]["MAE"]["mean"].as_f64().unwrap();
    let best = cells.iter().min_by(|a, b| valid(a).total_cmp(&valid(b))).unwrap();
    assert_eq!(results["best"]["cell"], best["cell"]);
    for name in
        ["results.json", "results.csv", "runs.csv", "results.md", "results.tex", "plan.toml"]
    {
        assert!(place().at("whole").join(name).metadata().unwrap().len() > 100, "{name}");
    }
    // Its table, for people.
    let shown = place().ok("experiment grid.toml --out whole");
    assert!(
        shown.contains("weight=0,enabled=true (reference)") && shown.contains("Best by valid MAE")
    );
    assert!(shown.contains("R2 shared") && shown.contains("8 of 8 runs"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn a_kill_repeats_no_run_and_changes_no_bit() {
    whole();
    let before = killed(place(), "experiment grid.toml --out killed --quiet", "killed");
    let done = before.len() / 3;
    assert!((3..8).contains(&done), "{done} runs were finished");
    let listed = place().json("experiment grid.toml --out killed --list --json");
    let states: Vec<&str> =
        listed["runs"].as_array().unwrap().iter().map(|r| r["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|s| **s == "finished").count(), done, "{states:?}");

    let ran = place().run("experiment grid.toml --out killed");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains(&format!("8 runs, {done} of them finished")), "{}", ran.err);
    let after = finished(place(), "killed");
    assert_eq!(after.len(), 3 * 8);
    for (path, kept) in &before {
        assert!(after[path] == *kept, "{} was written again", path.display());
    }
    assert_eq!(models(place(), "killed"), models(place(), "whole"));
}

#[test]
fn shards_that_are_copied_together_are_the_whole() {
    let results = whole();
    let mut seen = 0;
    for part in 1..=3 {
        let listed = place()
            .json(&format!("experiment grid.toml --out merged --shard {part}/3 --list --json"));
        seen += listed["runs"].as_array().unwrap().len();
        let ran = place()
            .run(&format!("experiment grid.toml --out shard{part} --shard {part}/3 --quiet"));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        std::fs::create_dir_all(place().at("merged")).unwrap();
        let copied = Command::new("cp")
            .args(["-r", &format!("shard{part}/."), "merged"])
            .current_dir(place().root())
            .status();
        assert!(copied.unwrap().success());
    }
    assert_eq!(seen, 8);
    let mut merged = place().json("experiment grid.toml --out merged --collect --json");
    let mut wanted = results.clone();
    // All but how long each run took is the same.
    for r in [&mut merged, &mut wanted] {
        for cell in r["cells"].as_array_mut().unwrap() {
            cell["runs"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .for_each(|run| run["seconds"] = 0.into());
        }
    }
    assert_eq!(merged, wanted);
}

#[test]
fn damage_is_measured_where_a_plan_asks_for_it() {
    let line = "experiment robustness --data small.safetensors --seeds 1 --out robust --json --quiet \
                --set train.max_epochs=2";
    let results = place().json(line);
    for cell in results["cells"].as_array().unwrap() {
        let all = cell["robustness"].as_array().unwrap();
        let names: Vec<&str> = all.iter().map(|d| d["name"].as_str().unwrap()).collect();
        // Text is one vector here, which cannot be truncated.
        assert_eq!(names.len(), 5 + 6 + 6 + 2, "{names:?}");
        assert!(names.contains(&"audio alone") && names.contains(&"any missing 60 %"), "{names:?}");
        assert!(names.contains(&"vision truncated") && !names.contains(&"text truncated"));
        let intact = &cell["test"]["MAE"]["mean"];
        assert!(all.iter().all(|d| d["test"]["MAE"]["mean"] != *intact), "{cell}");
    }
    // The four corners are made of two parts.
    let effects = results["effects"].as_array().unwrap();
    let named: Vec<_> =
        effects.iter().map(|e| (e["part"].as_str().unwrap(), &e["couples"])).collect();
    assert_eq!(named, [("align", &2.into()), ("labels", &2.into())]);
    let mean = |name: &str| {
        let cell = results["cells"].as_array().unwrap().iter().find(|c| c["cell"] == name);
        cell.unwrap()["test"]["MAE"]["mean"].as_f64().unwrap()
    };
    let wanted = (mean("labels") + mean("labels+align") - mean("fused") - mean("align")) / 2.0;
    let found = effects[1]["test"]["MAE"]["difference"].as_f64().unwrap();
    assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
    let table = std::fs::read_to_string(place().at("robust/results.md")).unwrap();
    assert!(table.contains("| audio noise 0.5 |") && table.contains("| intact |"), "{table}");
}

#[test]
fn what_a_plan_asks_for_later_is_measured_without_training_again() {
    let plan_of = |more: &str| {
        let text = "data = 'small.safetensors'\nseeds = 1\n[set]\n'train.max_epochs' = 1\n\
                    [[cell]]\nname = 'one'\n";
        plan("later.toml", &format!("{more}\n{text}"));
        place().json("experiment later.toml --out later --json --quiet")
    };
    let path = place().at("later/runs/one/1111/model.safetensors");
    assert!(plan_of("")["cells"][0]["robustness"].is_null());
    let written = path.metadata().unwrap().modified().unwrap();
    let damaged = &plan_of("robustness = true")["cells"][0]["robustness"];
    assert!(damaged.as_array().unwrap().len() > 10);
    assert_eq!(path.metadata().unwrap().modified().unwrap(), written);
    // plan.toml is of the tables beside it.
    let kept = std::fs::read_to_string(place().at("later/plan.toml")).unwrap();
    assert!(kept.contains("robustness = true"), "{kept}");
    // A finished run has no state to go on from, and is not begun anew by mistake.
    let line = "train --resume later/runs/one/1111 --max-epochs 3";
    fails(place().run(line), 1, &["state", "the run has ended", "--init"]);
    assert!(place().at("later/runs/one/1111/metrics.json").exists());
}

#[test]
fn every_modality_subset_is_a_cell() {
    let listed =
        place().json("experiment modalities --data small.safetensors --seeds 7,9 --list --json");
    let runs = listed["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 7 * 2);
    assert!(runs.iter().all(|r| r["state"] == "to do"));
    assert_eq!((&runs[0]["cell"], &runs[0]["seed"]), (&"TAV".into(), &7.into()));
    assert!(!place().at("runs").exists(), "--list writes nothing");
}

#[test]
fn one_cell_that_diverges_does_not_stop_the_others() {
    plan(
        "steep.toml",
        "data = 'small.safetensors'\nseeds = 1\n[set]\n'train.max_epochs' = 1\n[[cell]]\nname = 'steep'\n\
         set = { 'train.lr' = 1e30 }\n[[cell]]\nname = 'flat'\n",
    );
    let ran = place().run("experiment steep.toml --out steep --quiet");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("steep/1111") && ran.err.contains("not finite"), "{}", ran.err);
    assert!(ran.out.contains(" flat ") && !ran.out.contains(" steep "), "{}", ran.out);
}

#[test]
fn only_a_folder_of_its_own_is_an_experiments() {
    plan(
        "own.toml",
        "data = 'small.safetensors'\nseeds = 1\n[set]\n'train.max_epochs' = 1\n[[cell]]\nname = 'one'\n",
    );
    // Somebody's plan, with somebody's remarks.
    std::fs::create_dir_all(place().at("taken")).unwrap();
    std::fs::copy(place().at("own.toml"), place().at("taken/plan.toml")).unwrap();
    std::fs::write(place().at("taken/results.csv"), "mine").unwrap();
    let refused = || {
        fails(place().run("experiment own.toml --out taken --quiet"), 2, &["taken", "new or empty"])
    };
    refused();
    std::fs::remove_file(place().at("taken/results.csv")).unwrap();
    refused();
    assert_eq!(
        std::fs::read(place().at("taken/plan.toml")).unwrap(),
        std::fs::read(place().at("own.toml")).unwrap()
    );
    assert_eq!(std::fs::read_dir(place().at("taken")).unwrap().count(), 1);
    // Runs alone, as from another machine, are taken; so is what an experiment has written.
    place().ok("experiment own.toml --out first --quiet");
    std::fs::create_dir(place().at("second")).unwrap();
    std::fs::rename(place().at("first/runs"), place().at("second/runs")).unwrap();
    for _ in 0..2 {
        place().ok("experiment own.toml --out second --quiet");
    }
    // What lies where a run is to go is not a run's either.
    std::fs::create_dir_all(place().at("third/runs/one/1111")).unwrap();
    std::fs::write(place().at("third/runs/one/1111/notes.txt"), "mine").unwrap();
    let ran = place().run("experiment own.toml --out third --quiet");
    assert!(ran.code == Some(1) && ran.err.contains("notes.txt"), "{}", ran.err);
}

#[test]
fn what_cannot_be_run_is_said_in_a_line() {
    whole();
    let says = |line: &str, code: i32, words: &[&str]| fails(place().run(line), code, words);
    says("experiment nowhere.toml", 1, &["nowhere.toml"]);
    says("experiment ablation", 2, &["--data"]);
    says("experiment ablation --data nowhere.safetensors", 1, &["nowhere.safetensors"]);
    says("experiment grid.toml --shard 4/3", 2, &["k/n"]);
    says("experiment grid.toml --out empty --collect", 2, &["no finished run"]);
    says(
        "experiment grid.toml --out whole --set align.dim=8",
        2,
        &["align.dim = 16", "remove that"],
    );
    says("experiment grid.toml --set align.dmi=8", 2, &["align.dim"]);
    let single = place().at("whole/runs/weight=0,enabled=true/1111");
    says(&format!("experiment grid.toml --out {}", single.display()), 2, &["single run"]);
    // The data that finished runs are of must be the data that is there.
    std::fs::copy(place().at("small.safetensors"), place().at("other.safetensors")).unwrap();
    plan("other.toml", &GRID.replace("small", "other"));
    place().ok("experiment other.toml --out other --shard 1/8 --quiet");
    place().ok("synth --out other.safetensors --train 128 --valid 32 --test 40 --seed 5");
    says("experiment other.toml --out other", 2, &["other data", "SHA-256"]);
}

#[test]
fn the_plans_of_the_examples_are_read_over_any_data() {
    let place = place();
    place.ok("synth --quiet --out classes.safetensors --classes 3 --train 24 --valid 8 --test 8");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models");
    let mut plans = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (text, path) = (std::fs::read_to_string(&path).unwrap(), path.display());
        let data = if text.contains("\"classes\"") { "classes" } else { "small" };
        let said = place.ok(&format!("experiment {path} --data {data}.safetensors --list"));
        for name in text.lines().filter_map(|line| line.strip_prefix("name = ")) {
            assert!(said.contains(name.trim_matches('"')), "{path} lists no {name}: {said}");
        }
        let without = place.run(&format!("experiment {path}"));
        fails(without, 2, &["names no data set: give --data FILE"]);
        plans += 1;
    }
    assert!(plans >= 4);
}
