//! `modalign import` and what `modalign inspect` says of the result, from outside.

use crate::ran;
use ran::{Place, fails};
use serde_json::Value;
use std::path::Path;

fn folder(name: &str) -> Place {
    let place = Place::fresh(&format!("import_cli/{name}"));
    let pickles = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickles");
    std::fs::copy(pickles.join("numpy2_protocol4.pkl"), place.at("set.pkl")).unwrap();
    place
}

#[test]
fn a_pickle_becomes_a_data_set_that_can_be_inspected() {
    let folder = folder("good");
    let out = folder.ok("import set.pkl --out set.safetensors");
    for part in [
        "rows: 4 train, 3 valid, 2 test",
        " audio               6x2     f8, i2, f4",
        "train: 1 value of -inf set to 0",
        "set.json: train.annotations, train.id",
    ] {
        assert!(out.contains(part), "no '{part}' in: {out}");
    }
    let ran = folder.run("import set.pkl --out set.safetensors");
    assert!(ran.err.contains("next: modalign inspect set.safetensors"), "{}", ran.err);
    let table = ran.out.lines().take_while(|line| !line.is_empty());
    assert!(table.into_iter().all(|line| line.chars().count() < 80), "{}", ran.out);
    let out = folder.ok("import set.pkl --out set.safetensors --json");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["tensors"][0]["shape"], serde_json::json!([4, 5, 3]));
    assert_eq!((&report["preset"], &report["published"]), (&"mosi".into(), &Value::Null));
    assert_eq!(report["next"], "modalign inspect set.safetensors");
    let out = folder.ok("inspect set.safetensors --json");
    let about: Value = serde_json::from_str(&out).unwrap();
    let lengths = &about["splits"]["train"]["fields"]["audio"]["lengths"];
    assert_eq!(
        (&lengths["min"], &lengths["median"], &lengths["max"]),
        (&1.into(), &6.into(), &6.into())
    );
    assert_eq!(about["suspicions"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_read_fails_in_one_line() {
    let folder = folder("bad");
    fails(folder.run("import no.pkl --out set.safetensors"), 1, &["no.pkl", "no such file"]);
    fails(folder.run("import set.pkl --out set.pkl"), 2, &["--out", "safetensors"]);
    fails(folder.run("import set.pkl --out set.safetensors --map m.toml"), 2, &["--map"]);
    std::fs::write(folder.at("evil.pkl"), b"\x80\x02cposix\nsystem\n.").unwrap();
    let evil = folder.run("import evil.pkl --out set.safetensors");
    fails(evil, 1, &["evil.pkl: byte 2: it calls posix.system"]);
    fails(folder.run("inspect set.pkl"), 1, &["not a safetensors file", "modalign import"]);
    assert!(!folder.at("set.safetensors").exists());
}

/// Opening stops at the first value that is no number; inspect tells of them all.
#[test]
fn inspect_tells_where_values_are_no_numbers() {
    let folder = folder("nan");
    folder.ok("import set.pkl --out set.safetensors");
    let path = folder.at("set.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let about: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for (tensor, at) in [("train.audio", 3), ("test.vision", 0), ("test.vision", 4)] {
        let start = about[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header;
        bytes[start + 4 * at..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    fails(
        folder.run("inspect set.safetensors"),
        1,
        &[
            "train.audio, row 0, step 1, feature 1 is NaN",
            "test.vision has 2 NaN and 0 infinities in feature 0-1",
            "train.audio has 1 NaN and 0 infinities in feature 1",
        ],
    );
}

#[test]
fn the_help_has_a_mapping_that_can_be_used() {
    let folder = folder("help");
    let help = folder.ok("import --help");
    for part in ["[fields]", "{split}", "{id}", "split = \"meta.csv:split\"", "--nan-to-zero"] {
        assert!(help.contains(part), "no '{part}' in: {help}");
    }
}
