//! `modalign interactions`: tables of symbols and data sets, JSON, the page, and what it refuses.

use crate::ran::{Place, fails};
use serde_json::Value;
use std::fs;

/// Every pair of bits and what a rule makes of them, a hundred times.
fn bits(rule: impl Fn(u8, u8) -> u8) -> String {
    let mut text = String::from("x1,x2,y\n");
    for i in 0..400_u16 {
        let (a, b) = ((i / 2 % 2) as u8, (i % 2) as u8);
        text += &format!("{a},{b},{}\n", rule(a, b));
    }
    text
}

fn number(pair: &Value, key: &str) -> f64 {
    pair[key].as_f64().unwrap_or_else(|| panic!("no {key} in {pair}"))
}

#[test]
fn tables_of_bits_have_their_known_parts() {
    let place = Place::fresh("interactions_bits");
    type Rule = fn(u8, u8) -> u8;
    let known: [(&str, Rule, [f64; 4], &str); 3] = [
        ("xor", |a, b| a ^ b, [0.0, 0.0, 0.0, 1.0], "fuse_richly"),
        ("first", |a, _| a, [0.0, 1.0, 0.0, 0.0], "stay_with_a"),
        ("and", |a, b| a & b, [0.311278, 0.0, 0.0, 0.5], "fuse_richly"),
    ];
    for (name, rule, wanted, fusion) in known {
        fs::write(place.at(&format!("{name}.csv")), bits(rule)).unwrap();
        let found = place.json(&format!("interactions {name}.csv --json"));
        let pair = &found["pairs"][0];
        let parts = ["redundancy", "unique_a", "unique_b", "synergy"].map(|key| number(pair, key));
        for (found, wanted) in parts.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-3, "{name}: {parts:?}");
        }
        assert!(number(pair, "gap") < 1e-4 && number(pair, "null_sd") >= 0.0, "{pair}");
        assert_eq!(pair["fusion"], fusion, "{name}");
        assert_eq!(
            (&pair["a"], &pair["b"], &pair["rows"]),
            (&"x1".into(), &"x2".into(), &400.into())
        );
    }
    let table = place.ok("interactions xor.csv --out xor.html");
    assert!(table.contains("x1 + x2") && table.contains("real"), "{}", table);
    let page = fs::read_to_string(place.at("xor.html")).unwrap();
    assert!(page.contains("Synergy and luck") && page.contains("<svg"), "a page without charts");
    // Only what needs no labelled pairs, and it is the same whatever those are.
    let unpaired = place.json("interactions xor.csv --unpaired --json");
    let pair = &unpaired["pairs"][0];
    assert!(pair["synergy"].is_null() && pair["null_mean"].is_null());
    assert!(number(&pair["bounds"], "synergy_upper") > 0.999, "{pair}");
    // The same once more says the same.
    assert_eq!(unpaired, place.json("interactions xor.csv --unpaired --json"));
}

#[test]
fn a_data_set_is_measured_and_what_cannot_be_is_said() {
    let place = Place::fresh("interactions_data");
    place.ok("synth --out play.safetensors --train 300 --valid 60 --test 40 --classes 3 --audio steps=6,min_steps=2");
    let found = place.json("interactions play.safetensors --json");
    assert_eq!(found["pairs"].as_array().unwrap().len(), 3);
    let target = number(&found["pairs"][0], "target");
    for pair in found["pairs"].as_array().unwrap() {
        let [r, a, b] = ["redundancy", "unique_a", "unique_b"].map(|key| number(pair, key));
        assert!((r + a - number(pair, "information_a")).abs() < 1e-3, "{pair}");
        assert!((r + b - number(pair, "information_b")).abs() < 1e-3, "{pair}");
        assert!(r + a + b + number(pair, "synergy") <= target + 1e-3, "{pair}");
    }
    place.ok("synth --out one.safetensors --train 32 --valid 8 --test 8");
    fs::write(place.at("half.csv"), "x1,x2,y\n0,1,0.5\n").unwrap();
    fs::write(place.at("same.csv"), "x1,x2,y\n0,1,1\n1,0,1\n").unwrap();
    fails(place.run("interactions half.csv"), 1, &["y, row 0 is 0.5", "whole numbers"]);
    fails(place.run("interactions same.csv"), 1, &["y is the same in all rows"]);
    fails(place.run("interactions half.csv --columns x1,z"), 1, &["z"]);
    fails(place.run("interactions one.safetensors --cut 99"), 1, &["same target", "--cut"]);
    fails(
        place.run("interactions one.safetensors --columns x1,x2,y"),
        2,
        &["--columns is for tables"],
    );
    fails(place.run("interactions none.safetensors"), 1, &["none.safetensors"]);
}
