//! Cross-validation from outside: every row tests once, no group is on both sides, what is finished is
//! never repeated, and the numbers are those that the runs' predictions come to.

use super::experiment::{finished, killed, models};
use crate::common::TensorFile;
use crate::ran;
use modalign::data::{Dataset, Fold, Folds, Group, Modality, Normalize, SplitName, Standardise};
use modalign::train::Saved;
use modalign::train::metrics::{Convention, evaluate};
use ran::{Place, Ran, SMALL, fails};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

/// Rows of the small data set.
const ROWS: usize = 128 + 32 + 40;

/// A folder for all tests of this file, with a small data set of 11 speakers, whose splits cut through
/// them.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("folds");
        place.ok(SMALL);
        spoken(&place, "small", 11);
        for (name, more) in [("folds", ""), ("none", "\ngroup = 'none'")] {
            let text = format!(
                "data = 'small.safetensors'\nseeds = 1\nfolds = 3{more}\n[set]\n'train.max_epochs' = \
                 2\n[grid]\n'align.weight' = [0, 1]\n'labels.enabled' = [true, false]\n"
            );
            std::fs::write(place.at(&format!("{name}.toml")), text).unwrap();
        }
        place
    })
}

/// Gives the rows of a data set ids of so many speakers: row n is of speaker n mod `speakers`.
fn spoken(place: &Place, name: &str, speakers: usize) {
    let path = place.at(&format!("{name}.json"));
    let mut side: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut row = 0;
    for split in ["train", "valid", "test"] {
        for id in side[split]["id"].as_array_mut().unwrap() {
            *id = format!("speaker{}_{row}", row % speakers).into();
            row += 1;
        }
    }
    std::fs::write(path, side.to_string()).unwrap();
}

/// An uninterrupted experiment that several tests read.
fn whole() -> &'static Value {
    static WHOLE: OnceLock<Value> = OnceLock::new();
    WHOLE.get_or_init(|| place().json("experiment folds.toml --out whole --json --quiet"))
}

/// Row, id, label and prediction of a run's test rows.
fn predictions(run: &str) -> Vec<(usize, String, f32, f32)> {
    let text = std::fs::read_to_string(place().at("whole").join(run).join("predictions.csv"));
    let text = text.unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("row,id,label,prediction"));
    let parsed = lines.map(|line| {
        let parts: Vec<&str> = line.split(',').collect();
        (
            parts[0].parse().unwrap(),
            parts[1].into(),
            parts[2].parse().unwrap(),
            parts[3].parse().unwrap(),
        )
    });
    parsed.collect()
}

#[test]
fn every_row_is_predicted_once_and_no_speaker_is_in_two_folds() {
    let results = whole();
    assert_eq!((&results["expected_runs"], &results["finished_runs"]), (&12.into(), &12.into()));
    let folding = &results["folding"];
    assert_eq!((&folding["folds"], &folding["group"]), (&3.into(), &"id-prefix".into()));
    assert_eq!((&folding["groups"], &folding["rows"]), (&11.into(), &ROWS.into()));
    for cell in results["cells"].as_array().unwrap() {
        let runs = cell["runs"].as_array().unwrap();
        let named: Vec<&str> = runs.iter().map(|r| r["run"].as_str().unwrap()).collect();
        let name = cell["cell"].as_str().unwrap();
        assert_eq!(named, [1, 2, 3].map(|k| format!("runs/{name}/1111-{k}of3")));
        let mut fold_of: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        let (mut seen, mut predicted, mut truth) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (k, run) in named.iter().enumerate() {
            let own = predictions(run);
            assert_eq!(runs[k]["rows"][2], own.len());
            let metrics = place().at("whole").join(run).join("metrics.json");
            let metrics: Value = serde_json::from_slice(&std::fs::read(metrics).unwrap()).unwrap();
            let scores: Vec<f32> = own.iter().map(|line| line.3).collect();
            let labels: Vec<f32> = own.iter().map(|line| line.2).collect();
            let mae = evaluate(&scores, &labels, Convention::Mosi).unwrap().mae;
            assert!((metrics["test"]["MAE"].as_f64().unwrap() - mae).abs() < 1e-12);
            for (row, id, ..) in own {
                assert!(seen.insert(row), "row {row} is predicted twice");
                let speaker = id.split('_').next().unwrap().to_string();
                assert_eq!(speaker, format!("speaker{}", row % 11));
                fold_of.entry(speaker).or_default().insert(k);
            }
            predicted.extend(scores);
            truth.extend(labels);
        }
        assert_eq!((seen.len(), seen.last()), (ROWS, Some(&(ROWS - 1))));
        assert!(fold_of.len() == 11 && fold_of.values().all(|folds| folds.len() == 1));
        // The pooled scores are of all predictions at once.
        let pooled = evaluate(&predicted, &truth, Convention::Mosi).unwrap();
        for (score, value) in pooled.entries() {
            let found = &cell["pooled"][score];
            assert!(
                (found["mean"].as_f64().unwrap() - value).abs() < 1e-9,
                "{score}: {found} {value}"
            );
            assert_eq!((&found["n"], &found["std"]), (&1.into(), &0.0.into()));
        }
        let mean = runs.iter().map(|r| r["test"]["MAE"].as_f64().unwrap()).sum::<f64>() / 3.0;
        assert!((cell["test"]["MAE"]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
        assert_ne!(pooled.corr, cell["test"]["Corr"]["mean"].as_f64());
    }
}

/// By hand from the runs' own scores, as Nadeau and Bengio have it.
#[test]
fn cells_are_paired_by_fold_and_tested_with_the_correction() {
    let cells = whole()["cells"].as_array().unwrap();
    let folds = |cell: &Value, of: &dyn Fn(&Value) -> f64| {
        cell["runs"].as_array().unwrap().iter().map(of).collect::<Vec<f64>>()
    };
    let mae = |cell: &Value| folds(cell, &|run| run["test"]["MAE"].as_f64().unwrap());
    let rows =
        |k: usize| folds(&cells[0], &|run| run["rows"][k].as_f64().unwrap()).iter().sum::<f64>();
    let overlap = rows(2) / rows(0);
    assert!((whole()["folding"]["overlap"].as_f64().unwrap() - overlap).abs() < 1e-12);
    // With three folds one part trains and one tests.
    assert!((overlap - 1.0).abs() < 1e-12);
    let mut tested = 0;
    for cell in &cells[1..] {
        let differences: Vec<f64> =
            mae(cell).iter().zip(mae(&cells[0])).map(|(cell, fixed)| cell - fixed).collect();
        let mean = differences.iter().sum::<f64>() / 3.0;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 2.0;
        let found = &cell["against_reference"]["MAE"];
        assert_eq!(found["n"], 3);
        // Generated labels are those of the data in the first epochs.
        if variance == 0.0 {
            continue;
        }
        tested += 1;
        let t = mean / (variance * (1.0 / 3.0 + overlap)).sqrt();
        assert!((found["t"].as_f64().unwrap() - t).abs() < 1e-6 * t.abs(), "{found} {t}");
    }
    assert!(tested > 0, "no cell differs from the reference");
    let shown = place().ok("experiment folds.toml --out whole");
    for words in [
        "over folds and seeds; p by Nadeau and Bengio's corrected resampled t",
        "scores of all rows at once",
        "12 of 12 runs. 3 folds of 200 rows by id-prefix (11 groups)",
        "(1/n + 1.000)",
    ] {
        assert!(shown.contains(words), "no {words} in {shown}");
    }
    let runs = std::fs::read_to_string(place().at("whole/runs.csv")).unwrap();
    assert!(runs.contains("\"weight=0,enabled=true\",1111,3,test,MAE,"), "{runs}");
}

#[test]
fn a_run_of_a_fold_is_a_run_of_its_own_rows() {
    whole();
    let name = "whole/runs/weight=1,enabled=true/1111-2of3";
    let data = Dataset::open(place().at("small.safetensors")).unwrap();
    let folds = Folds::new(&data, 3, &Group::IdPrefix, 1111).unwrap();
    let rows = folds.rows(2);
    // Its statistics are of the rows that it trains on, and of no others.
    let fold = Fold { part: 2, of: 3, group: Group::IdPrefix, seed: 1111 };
    let view = data.in_fold(&fold).unwrap();
    let senses = [Modality::Audio, Modality::Vision];
    let of = |data: &Dataset| {
        Standardise::with_usual(data.split(SplitName::Train).unwrap(), &senses, Normalize::Standard)
            .unwrap()
    };
    let card = Saved::load(&place().at(name)).unwrap().card;
    assert_eq!(card.standardise, Some(of(&view)));
    assert_ne!(card.standardise, Some(of(&data)));
    assert_eq!(card.fold, Some(folds.folded(2)));

    // Its test rows are those of its fold, also where the data file is named; another file has its own.
    let wanted = &whole()["cells"][2]["runs"][1];
    assert_eq!(wanted["run"], name.strip_prefix("whole/").unwrap());
    for more in ["", " --data small.safetensors"] {
        let found = place().json(&format!("eval --model {name} --json{more}"));
        assert_eq!((&found["rows"], &found["fold"]["part"]), (&rows[2].len().into(), &2.into()));
        assert_eq!(found["metrics"]["fused"]["MAE"], wanted["test"]["MAE"]);
    }
    place().ok(&SMALL.replace("small.safetensors", "other.safetensors --seed 5"));
    let found = place().json(&format!("eval --model {name} --json --data other.safetensors"));
    assert_eq!((&found["rows"], &found["fold"]), (&40.into(), &Value::Null));
    assert!(
        place().ok(&format!("inspect {name}")).contains("2 of 3 by id-prefix, drawn by seed 1111")
    );
    // Its page says so, and that of the experiment has the scores of all rows.
    place().ok(&format!("report {name} --out run.html"));
    let page = std::fs::read_to_string(place().at("run.html")).unwrap();
    assert!(page.contains("2 of 3 by id-prefix") && page.contains("whose plan trains it again"));
    assert!(!page.contains("modalign train"));
    place().ok("report whole --out whole.html");
    let page = std::fs::read_to_string(place().at("whole.html")).unwrap();
    for words in
        ["All rows at once", "corrected resampled t", "3 of 200 rows by id-prefix (11 groups)"]
    {
        assert!(page.contains(words), "no {words}");
    }
}

/// A fold is a view; a file with its rows in its splits must train to the same bits, whatever is read of
/// it: vectors, sequences, sentences through an encoder that is trained, and through one that is not.
#[test]
fn a_fold_trains_as_a_file_of_its_rows_would() {
    let fresh = Place::fresh("folds-rewritten");
    fresh.ok(&format!("{SMALL} --encoder bert"));
    spoken(&fresh, "small", 11);
    let data = Dataset::open(fresh.at("small.safetensors")).unwrap();
    let rows = Folds::new(&data, 3, &Group::IdPrefix, 1111).unwrap().rows(2);
    rewrite(&fresh, "small", "folded", &rows);
    let text = "data = 'small.safetensors'\nseeds = 1\nfolds = 3\n[set]\n'train.max_epochs' = 2\n\
                [[cell]]\nname = 'one'\n";
    std::fs::write(fresh.at("plan.toml"), text).unwrap();
    let cache = fresh.at("cache");
    let ok = |line: &str| {
        let mut command = fresh.command(line);
        // A cache of its own for the text's features, and that of all tests for compiled shaders.
        command.env("MESA_SHADER_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        let ran: Ran = command.env("XDG_CACHE_HOME", &cache).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
    };
    for (name, more) in [
        ("features", ""),
        ("tuned", "--bert bert"),
        ("frozen", "--bert bert --set bert.finetune=false"),
    ] {
        // Of one cell and three folds the second part is the second fold.
        ok(&format!("experiment plan.toml --out {name} --shard 2/3 --quiet {more}"));
        if name == "frozen" {
            ok(&format!("experiment plan.toml --out {name} --quiet {more}"));
            let kept = std::fs::read_dir(cache.join("modalign/text")).unwrap().count();
            assert_eq!(kept, 1, "the features of a text are computed once for all folds");
        }
        ok(&format!(
            "train --data folded.safetensors --max-epochs 2 --out {name}-file --quiet {more}"
        ));
        let run = format!("{name}/runs/one/1111-2of3");
        let [fold, file] = [run.clone(), format!("{name}-file")]
            .map(|run| std::fs::read_to_string(fresh.at(&run).join("epochs.jsonl")).unwrap());
        assert_eq!(fold, file, "{name}");
        let [fold, file] = [run, format!("{name}-file")].map(|run| {
            let text = std::fs::read(fresh.at(&run).join("metrics.json")).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()["test"].clone()
        });
        assert!(fold["MAE"].is_f64() && fold == file, "{name}");
    }
}

/// Writes a data set again with these of its rows in its splits.
fn rewrite(place: &Place, from: &str, to: &str, rows: &[Vec<usize>; 3]) {
    let whole = TensorFile::read(&place.at(&format!("{from}.safetensors")));
    let side = std::fs::read(place.at(&format!("{from}.json"))).unwrap();
    let side: Value = serde_json::from_slice(&side).unwrap();
    let splits = SplitName::ALL.map(SplitName::name);
    let (mut file, mut beside) = (TensorFile::default(), serde_json::json!({}));
    for (split, rows) in splits.iter().zip(rows) {
        for field in whole.under("train.") {
            let parts = splits.map(|split| whole.get(&format!("{split}.{field}")));
            let size = parts[0].bytes.len() / parts[0].shape[0];
            let all = parts.map(|part| part.bytes.as_slice()).concat();
            let bytes = rows.iter().flat_map(|row| all[row * size..][..size].to_vec()).collect();
            let shape = [&[rows.len()], &parts[0].shape[1..]].concat();
            file.put(&format!("{split}.{field}"), parts[0].dtype, &shape, bytes);
        }
        for list in ["id", "raw_text"] {
            let all = splits.iter().flat_map(|split| side[split][list].as_array().unwrap());
            let all: Vec<&Value> = all.collect();
            beside[split][list] = rows.iter().map(|row| all[*row].clone()).collect();
        }
    }
    file.save(&place.at(&format!("{to}.safetensors")));
    std::fs::write(place.at(&format!("{to}.json")), beside.to_string()).unwrap();
}

#[test]
fn a_kill_repeats_no_fold_and_changes_no_bit() {
    whole();
    let before = killed(place(), "experiment folds.toml --out killed --quiet", "killed");
    let done = before.len() / 3;
    assert!((3..12).contains(&done), "{done} runs were finished");
    let ran = place().run("experiment folds.toml --out killed");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains(&format!("12 runs, {done} of them finished")), "{}", ran.err);
    assert!(ran.err.contains("seed 1111 fold 3/3"), "{}", ran.err);
    let after = finished(place(), "killed");
    assert_eq!(after.len(), 3 * 12);
    for (path, kept) in &before {
        assert!(after[path] == *kept, "{} was written again", path.display());
    }
    assert_eq!(models(place(), "killed"), models(place(), "whole"));
    let [killed, whole] = ["killed", "whole"].map(|name| {
        let text = std::fs::read_to_string(place().at(name).join("results.csv"));
        text.unwrap()
    });
    assert_eq!(killed, whole);
}

#[test]
fn shards_are_parts_of_seeds_and_folds() {
    let mut seen = BTreeSet::new();
    for part in 1..=5 {
        let line = format!("experiment folds.toml --seeds 2 --shard {part}/5 --list --json");
        for run in place().json(&line)["runs"].as_array().unwrap() {
            assert_eq!(run["state"], "to do");
            assert!(seen.insert(run["run"].as_str().unwrap().to_string()), "{run}");
        }
    }
    assert_eq!(seen.len(), 4 * 2 * 3);
    let listed = place().ok("experiment weights --data small.safetensors --folds 4 --list");
    assert!(listed.contains("fold") && listed.contains(" 4 "), "{listed}");
    // Beside the experiment on the file's own splits, not in its place.
    let runs = place().json("experiment weights --data small.safetensors --folds 4 --list --json");
    assert_eq!(runs["experiment"], "small-weights-4folds");
}

#[test]
fn folds_that_changed_are_found() {
    let fresh = Place::fresh("folds-changed");
    fresh.ok(SMALL);
    spoken(&fresh, "small", 11);
    let plan = "experiment plan.toml --out e --quiet";
    let text = "data = 'small.safetensors'\nseeds = 1\nfolds = 3\n[set]\n'train.max_epochs' = 1\n\
                [[cell]]\nname = 'one'\n";
    std::fs::write(fresh.at("plan.toml"), text).unwrap();
    fresh.ok(plan);
    let first = "e/runs/one/1111-1of3";
    // Other groups of the same ids.
    fails(fresh.run(&format!("{plan} --group none")), 2, &[first, "other folds", "--out"]);
    // Other ids of the same rows: the data file is what it was.
    spoken(&fresh, "small", 7);
    fails(fresh.run(plan), 2, &[first, "other folds", "ids"]);
    fails(fresh.run(&format!("eval --model {first}")), 1, &["small.json", "put back"]);
    // A run that was interrupted would go on with other rows.
    std::fs::create_dir_all(fresh.at(first).join("state")).unwrap();
    std::fs::remove_file(fresh.at(first).join("metrics.json")).unwrap();
    fails(fresh.run(&format!("train --resume {first} --quiet")), 1, &["small.json", "put back"]);
    spoken(&fresh, "small", 11);
    fresh.ok(plan);
    // Predictions that are gone are not made up.
    std::fs::remove_file(fresh.at(first).join("predictions.csv")).unwrap();
    fails(fresh.run(plan), 1, &["predictions.csv"]);
}

#[test]
fn what_cannot_be_folded_is_said_in_a_line() {
    let base = "experiment weights --data small.safetensors";
    let says = |line: &str, code: i32, words: &[&str]| {
        fails(place().run(&format!("{base} {line}")), code, words);
    };
    says("--folds 2", 2, &["at least 3"]);
    says("--folds 12", 1, &["small.json", "11 groups", "12 folds", "--group none"]);
    says("--folds 3 --group id-until:-", 1, &["every row is alone", "speaker0_0"]);
    says("--folds 3 --group id-until:s", 1, &["1 group", "--group none"]);
    says("--folds 3 --group id-prefx", 2, &["did you mean 'id-prefix'"]);
    says("--group none", 2, &["folds"]);
    std::fs::write(place().at("wrong.toml"), "data = 'a'\nfold = 3\n").unwrap();
    fails(place().run("experiment wrong.toml"), 2, &["line 2", "'fold'", "did you mean 'folds'"]);
    // Rows by themselves can be folded whatever their ids are.
    let listed = place().json("experiment none.toml --list --json");
    assert_eq!(listed["runs"].as_array().unwrap().len(), 12);
}
