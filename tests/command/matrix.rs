//! One training on every driver that is here: twice the same bytes on each, and the same losses and scores on
//! all within bounds. Beside the system's own driver that is SwiftShader, which Chromium brings, and what
//! `MODALIGN_DRIVERS` lists (files of Vulkan's loader, with colons between); `tests/matrix.sh` finds more.

use crate::ran::{Place, Ran, SMALL};
use crate::trust::results;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// How far losses of a step may be apart, of their size, and scores of three epochs.
const LOSS: f64 = 2e-3;
const SCORE: f64 = 0.02;

fn drivers() -> Vec<Option<PathBuf>> {
    let mut all = vec![None];
    let more = std::env::var("MODALIGN_DRIVERS").unwrap_or_default();
    all.extend(more.split(':').filter(|name| !name.is_empty()).map(|name| Some(name.into())));
    let swift = Path::new("/usr/lib/chromium/vk_swiftshader_icd.json");
    if swift.exists() {
        all.push(Some(swift.into()));
    }
    all
}

fn run(place: &Place, driver: Option<&Path>, line: &str) -> Ran {
    let mut command = place.command(line);
    if let Some(driver) = driver {
        command.env("VK_DRIVER_FILES", driver).env_remove("VK_ICD_FILENAMES");
    }
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{driver:?}: {line}: {}", ran.err);
    ran
}

fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("steps.jsonl")).unwrap();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter_map(|record| record["loss"].as_f64()).collect()
}

#[test]
fn drivers_train_alike() {
    let place = Place::fresh("matrix");
    place.ok(SMALL);
    let mut first: Option<(Vec<f64>, Value)> = None;
    for (i, driver) in drivers().iter().enumerate() {
        let driver = driver.as_deref();
        for again in ["a", "b"] {
            run(
                &place,
                driver,
                &format!("train --data small.safetensors --out {i}{again} --max-epochs 3 --quiet"),
            );
        }
        let one = results(&place.at(&format!("{i}a")));
        assert!(one == results(&place.at(&format!("{i}b"))), "{driver:?} is not equal to itself");
        let scores: Value = serde_json::from_slice(&one["metrics.json"]).unwrap();
        let losses = losses(&place.at(&format!("{i}a")));
        assert!(losses.len() > 10);
        let name = run(&place, driver, "devices --json").out;
        let name: Value = serde_json::from_str(&name).unwrap();
        let name = name.pointer("/adapters/0/driver").cloned().unwrap_or_default();
        let Some((theirs, scored)) = &first else {
            println!("{name}: twice the same bytes");
            first = Some((losses, scores));
            continue;
        };
        let apart = losses.iter().zip(theirs).map(|(a, b)| (a - b).abs() / b.abs().max(1e-3));
        let apart = apart.fold(0.0, f64::max);
        let mut scores_apart: f64 = 0.0;
        for name in ["MAE", "Corr"] {
            let at = format!("/test/{name}");
            let [a, b] = [&scores, scored].map(|all| all.pointer(&at).and_then(Value::as_f64));
            scores_apart = scores_apart.max((a.unwrap() - b.unwrap()).abs());
        }
        println!(
            "{name}: losses {apart:.1e} and scores {scores_apart:.1e} from the first driver's"
        );
        assert_eq!(losses.len(), theirs.len());
        assert!(
            apart < LOSS && scores_apart < SCORE,
            "{driver:?}: {apart:.2e}, {scores_apart:.2e}"
        );
    }
}
