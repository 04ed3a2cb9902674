//! A small data set whose texts are hostile, runs on it, an experiment of them, and their pages.

use crate::ran::{Place, SMALL};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An id and a text that would run, were they not escaped.
pub const HOSTILE: &str = "<script>alert('id')</script>";
pub const HOSTILE_CELL: &str = "labels+<b>ta";
pub const HOSTILE_TEXT: &str = "\"><img src=x onerror=alert(1)> & <b>bold</b>";

pub fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| Place::fresh("report"))
}

fn data() {
    static DATA: OnceLock<()> = OnceLock::new();
    DATA.get_or_init(|| {
        place().ok(SMALL);
        let path = place().at("small.json");
        let mut side: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (field, hostile) in [("id", HOSTILE), ("raw_text", HOSTILE_TEXT)] {
            let rows = side["test"][field].as_array_mut().unwrap();
            for (i, row) in rows.iter_mut().enumerate() {
                *row = format!("{hostile}{i}").into();
            }
        }
        fs::write(&path, side.to_string()).unwrap();
    });
}

fn train(out: &str, more: &str) -> Value {
    data();
    let line = format!("train --data small.safetensors --out {out} --max-epochs 3 --quiet --json");
    serde_json::from_str(&place().ok(&format!("{line} {more}"))).unwrap()
}

/// A run with all parts.
pub fn trained() -> &'static str {
    static RUN: OnceLock<()> = OnceLock::new();
    RUN.get_or_init(|| {
        train("trained", "");
    });
    "trained"
}

/// Another, of the fused head alone and without alignment.
pub fn plain() -> &'static str {
    static RUN: OnceLock<()> = OnceLock::new();
    RUN.get_or_init(|| {
        train("plain", "--set labels.enabled=false --set align.weight=0");
    });
    "plain"
}

/// An experiment of two cells and two seeds, whose best one has a hostile name and is called
/// significant.
pub fn experiment() -> &'static str {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        data();
        // Published figures are of sets that are called so.
        for kind in ["safetensors", "json"] {
            let to = place().at(&format!("mosi.{kind}"));
            fs::copy(place().at(&format!("small.{kind}")), to).unwrap();
        }
        let plan = "name = 'tiny'\ndata = 'mosi.safetensors'\nseeds = 2\nreference = 'labels'\n\
                    robustness = true\n[set]\n'train.max_epochs' = 3\n[[cell]]\nname = 'labels'\n\
                    set = { 'align.weight' = 0 }\n[[cell]]\nname = 'labels+ta'\n";
        fs::write(place().at("tiny.toml"), plan).unwrap();
        place().ok("experiment tiny.toml --out grid --quiet");
        let path = place().at("grid/results.json");
        let mut results: Value = serde_json::from_str(&read(&path)).unwrap();
        results["cells"][1]["cell"] = HOSTILE_CELL.into();
        results["best"]["cell"] = HOSTILE_CELL.into();
        results["best"]["significant"] = true.into();
        unsealed(&path, results);
    });
    "grid"
}

/// Writes an object as it would be without a digest of its own contents, which no longer holds.
pub fn unsealed(path: &Path, mut value: Value) {
    value.as_object_mut().unwrap().remove("sha256");
    fs::write(path, value.to_string()).unwrap();
}

/// A page of these, by its path.
pub fn page(name: &str, targets: &str) -> PathBuf {
    place().ok(&format!("report {targets} --out {name} --quiet"));
    place().at(name)
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
