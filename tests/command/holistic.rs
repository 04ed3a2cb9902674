//! `modalign holistic`: models by data sets, by parts and at once, and what it refuses.

use crate::ran::{Place, SMALL, fails};
use serde_json::Value;
use std::fs;

fn plan(more: &str) -> String {
    format!(
        "seeds = 2\n[set]\n'train.max_epochs' = 2\n\
         [[data]]\npath = 'small.safetensors'\n\
         [[data]]\npath = 'classes.safetensors'\nset = {{ 'train.batch_size' = 32 }}\n\
         [[model]]\nname = 'concatenation'\nset = {{ 'model.name' = 'lf_dnn' }}\n\
         [[model]]\nname = 'products'\nset = {{ 'model.name' = 'lmf' }}\n{more}"
    )
}

fn set<'a>(found: &'a Value, name: &str) -> &'a Value {
    let all = found["data"].as_array().unwrap();
    all.iter().find(|set| set["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn models_by_data_sets() {
    let place = Place::fresh("holistic");
    place.ok(SMALL);
    place.ok("synth --out classes.safetensors --train 96 --valid 32 --test 40 --classes 3 --audio steps=4 --vision steps=4");
    fs::write(place.at("whole.toml"), plan("")).unwrap();
    // In two parts, then whatever is left, which is nothing.
    place.ok("holistic whole.toml --out parts --shard 1/2 --quiet");
    place.ok("holistic whole.toml --out parts --shard 2/2 --quiet");
    let before = fs::metadata(place.at("parts/small/runs/products/1112/cell.json")).unwrap();
    let found = place.json("holistic whole.toml --out parts --json");
    let after = fs::metadata(place.at("parts/small/runs/products/1112/cell.json")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(found["runs"], serde_json::json!([8, 8]));
    let (small, classes) = (set(&found, "small"), set(&found, "classes"));
    assert_eq!(
        (&small["floor"]["metric"], &classes["floor"]["metric"]),
        (&"MAE".into(), &"accuracy".into())
    );
    for set in [small, classes] {
        // Scores are those of the runs, between the floor and the best.
        let floor = set["floor"]["floor"].as_f64().unwrap();
        let best = set["floor"]["best"].as_f64().unwrap();
        for model in set["models"].as_array().unwrap() {
            let (raw, score) =
                (model["raw"]["mean"].as_f64().unwrap(), model["score"].as_f64().unwrap());
            let linear = (raw - floor) / (best - floor);
            assert!((score - linear).abs() < 1e-9 || (best == 0.0 && linear < 0.5), "{model}");
            assert_eq!(model["by_seed"].as_object().unwrap().len(), 2);
            assert_eq!(model["without"].as_array().unwrap().len(), 3, "{model}");
        }
        assert_eq!(set["annotation"]["pairs"].as_array().unwrap().len(), 3);
        assert_eq!(set["annotation"]["temporal"], true);
    }
    let page = fs::read_to_string(place.at("parts/holistic.html")).unwrap();
    assert!(page.contains("Where each is strong") && page.contains("<svg"));
    assert_eq!(fs::read_to_string(place.at("parts/scores.csv")).unwrap().lines().count(), 9);
    let table = place.ok("holistic whole.toml --out parts --collect");
    assert!(table.contains("Elo") && table.contains("8 of 8 runs"), "{table}");
    // The folder of a data set is an experiment like others.
    place.ok("report parts/small --out small.html");

    let refused = |text: &str, words: &[&str]| {
        fs::write(place.at("bad.toml"), text).unwrap();
        fails(place.run("holistic bad.toml --out bad"), 2, words);
    };
    refused(&plan("[[model]]\nname = 'x'\nset = { 'model.nam' = 'lmf' }\n"), &["model.nam"]);
    refused(&plan("surprise = 1\n"), &["bad.toml", "surprise"]);
    refused("[[data]]\npath = 'small.safetensors'\n", &["bad.toml", "model"]);
    fails(place.run("holistic whole.toml --out none --collect"), 2, &["no finished run"]);
}
