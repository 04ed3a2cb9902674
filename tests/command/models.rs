//! Models by name from outside: the list, training and scoring one, comparing all.

use crate::ran;
use ran::{Place, SMALL, fails};
use std::sync::OnceLock;

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("models");
        place.ok(SMALL);
        place
    })
}

#[test]
fn models_are_listed() {
    let text = place().ok("models");
    let all = place().json("models --json");
    let all = all.as_array().unwrap();
    assert!(all.len() >= 5, "{all:?}");
    for model in all {
        let name = model["name"].as_str().unwrap();
        assert!(text.contains(name), "{name} is not in\n{text}");
        for key in ["paper", "needs"] {
            assert!(model[key].as_str().is_some_and(|said| !said.is_empty()), "{name}: {key}");
        }
        assert!(model["tasks"].as_array().is_some_and(|tasks| !tasks.is_empty()), "{name}");
        assert!(model["parameters"]["mosi"].as_u64().is_some_and(|n| n > 1000), "{name}");
    }
}

#[test]
fn a_model_is_trained_by_name() {
    place().ok("train --data small.safetensors --model tfn --set model.hidden=4 --out tfn --max-epochs 2 --quiet");
    let config = std::fs::read_to_string(place().at("tfn/config.toml")).unwrap();
    assert!(config.contains("name = \"tfn\""), "{config}");
    let found = place().json("eval --model tfn --robustness --json");
    assert!(found["metrics"]["fused"]["MAE"].is_f64(), "{found}");
    assert!(place().ok("predict --model tfn --data small.safetensors").contains("score"));
    place().ok("report tfn --out tfn.html");
    let page = std::fs::read_to_string(place().at("tfn.html")).unwrap();
    assert!(page.contains("TFN over text, audio, vision.") && !page.contains("Generated labels"));
    place().ok("train --resume tfn --max-epochs 3 --quiet");
    let plan = place().ok("inspect small.safetensors --plan --model lmf");
    assert!(plan.contains("log_row"), "{plan}");
    let keys = place().ok("inspect --keys --model lmf");
    assert!(keys.contains("model.rank") && !keys.contains("align."), "{keys}");
}

#[test]
fn what_a_model_cannot_is_said() {
    let train = |more: &str| {
        place().run(&format!("train --data small.safetensors --out none {more} --max-epochs 1"))
    };
    fails(train("--model tfm"), 2, &["'tfm'", "'tfn'", "modalign models"]);
    fails(train("--model tfn --preset simsv2"), 2, &["simsv2", "tfn", "mosi"]);
    fails(train("--model tfn --set align.dim=4"), 2, &["align.dim"]);
    fails(train("--model tfn --set model.hidden.text=0"), 2, &["model.hidden.text"]);
    fails(train("--model ef_lstm"), 2, &["ef_lstm", "equally many steps"]);
    assert!(!place().at("none").exists());
}

#[test]
fn all_models_are_compared() {
    place().ok(
        "synth --out few.safetensors --train 16 --valid 8 --test 8 --audio steps=6,min_steps=2 \
         --vision steps=5,min_steps=2 --quiet",
    );
    place()
        .ok("experiment models --data few.safetensors --seeds 2 --set train.max_epochs=2 --set \
         train.batch_size=4 --out all --quiet");
    let results = std::fs::read_to_string(place().at("all/results.md")).unwrap();
    for name in ["self_mm", "lf_dnn", "tfn", "lmf"] {
        assert!(results.contains(name), "no {name} in\n{results}");
    }
    // The streams are not aligned, and the text is no sequence.
    for name in ["ef_lstm", "mult"] {
        assert!(!results.contains(name), "{name} is in\n{results}");
    }
}
