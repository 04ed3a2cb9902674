//! A small data set whose texts are hostile, runs on it, an experiment of them, and their pages.

use crate::ran::Ran;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// An id and a text that would run, were they not escaped.
pub const HOSTILE: &str = "<script>alert('id')</script>";
pub const HOSTILE_TEXT: &str = "\"><img src=x onerror=alert(1)> & <b>bold</b>";

pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    })
}

pub fn run(line: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modalign"));
    command.args(line.split_whitespace()).current_dir(root());
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.env_remove("RUST_LOG");
    command.output().unwrap().into()
}

pub fn ok(line: &str) -> String {
    let ran = run(line);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
    ran.out
}

fn data() {
    static DATA: OnceLock<()> = OnceLock::new();
    DATA.get_or_init(|| {
        ok("synth --out small.safetensors --train 128 --valid 32 --test 40 \
            --audio steps=6,min_steps=2 --vision steps=5,min_steps=2");
        let path = root().join("small.json");
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
    serde_json::from_str(&ok(&format!("{line} {more}"))).unwrap()
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

/// Mean and population deviation by score.
fn stats(all: &[&Value]) -> Value {
    let scores = all[0].as_object().unwrap().keys().map(|name| {
        let values: Vec<f64> = all.iter().map(|v| v[name].as_f64().unwrap()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (name.clone(), json!({"mean": mean, "std": square.sqrt(), "n": values.len()}))
    });
    Value::Object(scores.collect())
}

/// An experiment of two cells and two seeds.
pub fn experiment() -> &'static str {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let cell = |name: &str, settings: &str, against: Value| {
            let runs: Vec<Value> = [1111, 1112]
                .iter()
                .map(|seed| {
                    let run = format!("runs/{name}/{seed}");
                    fs::create_dir_all(root().join("grid/runs").join(name)).unwrap();
                    let more = format!("--seed {seed} {settings}");
                    let outcome = train(&format!("grid/{run}"), &more);
                    json!({"seed": seed, "run": run, "valid": outcome["valid"], "test": outcome["test"]})
                })
                .collect();
            let of = |split: &str| stats(&runs.iter().map(|r| &r[split]).collect::<Vec<_>>());
            let probe = json!({"shared": 0.91, "text": 0.42, "audio": -0.03, "vision": 0.0});
            json!({
                "cell": name, "settings": ["align.weight=0"], "valid": of("valid"), "test": of("test"),
                "runs": runs, "against_reference": against,
                "probes": {"text encoder": probe, "fused head": probe},
                "robustness": [{"name": "audio dropped", "test": {"MAE": {"mean": 1.5, "std": 0.25, "n": 2}}}],
            })
        };
        let against = json!({"MAE": {"difference": -0.0321, "ci95": [-0.05, -0.01], "t": -9.5,
            "p": 0.0123, "p_adjusted": 0.0246, "effect": -1.23, "n": 2}, "Corr": null});
        let cells = [
            cell("labels", "--set align.weight=0", Value::Null),
            cell("labels+<b>ta", "", against),
        ];
        let results = json!({
            "name": "tiny", "preset": null, "data": "small.safetensors", "data_sha256": "ab".repeat(32),
            "data_name": "small", "convention": "mosi", "version": "0.1.0", "adapter": "an adapter",
            "driver": "a driver", "seeds": [1111, 1112], "reference": "labels", "metric": "MAE",
            "alpha": 0.05, "correction": "Holm", "expected_runs": 4, "finished_runs": 4, "cells": cells,
            "best": {"cell": "labels+<b>ta", "by": "valid MAE", "significant": true},
            "published": [{"model": "Self-MM", "data": "MOSI", "source": "arXiv:2102.04830",
                "convention": "Has0/Non0", "scores": {"MAE": 0.713, "Acc-2 Has0": 0.84}}],
        });
        fs::write(root().join("grid/results.json"), results.to_string()).unwrap();
    });
    "grid"
}

/// A page of these, by its path.
pub fn page(name: &str, targets: &str) -> PathBuf {
    ok(&format!("report {targets} --out {name} --quiet"));
    root().join(name)
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
