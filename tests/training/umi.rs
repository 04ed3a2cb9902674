//! Unseen modality interaction against `tests/fixtures/golden_umi.py`, stage by stage, with rows that lack
//! modalities.

use crate::common;
use crate::models::{Golden, close, config};
use common::gpu;
use modalign::data::{Dataset, Modality, Normalize, SplitName, Standardise};
use modalign::train::{Session, StepRecord};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn data(folder: &Path, golden: &Golden) -> Arc<Dataset> {
    let lacking: Vec<String> = ["text", "audio", "vision"].map(|m| format!("{m}_missing")).into();
    golden.data_with(folder, &config("umi", golden, &[]), &lacking)
}

fn session(golden: &Golden, data: &Arc<Dataset>, more: &[&str]) -> Session {
    let more: Vec<String> = more.iter().map(ToString::to_string).collect();
    let config = config("umi", golden, &more);
    let train = data.split(SplitName::Train).expect("rows");
    let usual = Standardise::with_usual(train, &[], Normalize::None).expect("means");
    let made = Session::new(gpu(), &config, data.clone(), Some(Arc::new(usual)), true);
    let mut session = made.expect("a session");
    session.initialise().expect("states");
    session.load(&golden.weights(), &PathBuf::from("golden")).expect("weights");
    session
}

/// How far a step at a rate of 1 moves parameters: their gradients.
fn moved(golden: &Golden, session: &Session, under: &str) {
    let (before, after) = (golden.weights(), session.weights().expect("weights"));
    let names = golden.file.under(under);
    // Of numbers the fixture has losses alone: what differs from classes is in them.
    assert!(!names.is_empty() || golden.said["task"] == "regression", "{under}");
    for name in names {
        let now = after.get(&name).expect("a parameter").1;
        let was = before.get(&name).expect("a parameter").1;
        let got: Vec<f32> = was.iter().zip(now).map(|(b, a)| b - a).collect();
        let want = golden.file.f32(&format!("{under}{name}"));
        if want.iter().any(|v| v.abs() > 1e-9) || got.iter().any(|v| v.abs() > 1e-6) {
            close(&format!("gradient of {name}"), &got, &want, 1e-4);
        }
    }
}

fn check(fixture: &str) {
    let golden = Golden::read(fixture);
    let folder = tempfile::tempdir().expect("a folder");
    let data = data(folder.path(), &golden);
    let mut whole = session(&golden, &data, &[]);
    let said = whole.predict(SplitName::Test).expect("scores").fused();
    close("scores", &said, &golden.file.f32("forward"), 1e-5);

    let still = ["train.lr=1", "train.decay=0", "sgd.momentum=0"];
    let mut first = session(&golden, &data, &still);
    first.train_epoch(1, (0..5).collect(), |_, _| Ok(())).expect("a step");
    moved(&golden, &first, "alone.grad.");
    // Pseudo-labels of models that do not learn, and then a step of the whole.
    let one = ["stages.unimodal=1", "stages.averaged=1", "train.lr.unimodal=0"];
    let mut second = session(&golden, &data, &[&still[..], &one].concat());
    second.train_epoch(1, (0..10).collect(), |_, _| Ok(())).expect("an epoch");
    let mut parts = Vec::new();
    second
        .train_epoch(2, (0..5).collect(), |record, _| {
            parts = record.values.clone();
            Ok(())
        })
        .expect("a step");
    close("first losses of the whole", &parts, &golden.file.f32("loss0"), 1e-5);
    moved(&golden, &second, "grad.");

    let mut records: Vec<StepRecord> = Vec::new();
    for epoch in 1..=7 {
        common::train_epoch(&mut whole, epoch, (0..10).collect(), &mut records).expect("an epoch");
        if epoch == 2 {
            let mut state = whole.state("pseudo-labels").expect("a state");
            let want = golden.file.f32("pseudo");
            // What is said of a modality that a row lacks is nobody's teacher.
            let train = data.split(SplitName::Train).expect("rows");
            let columns = state.len() / (3 * train.rows());
            for (at, values) in state.chunks_mut(columns).enumerate() {
                if train.missing(Modality::KNOWN[at % 3], at / 3) {
                    values.fill(0.0);
                }
            }
            close("pseudo-labels", &state, &want, 1e-5);
        }
    }
    for part in golden.file.under("losses.") {
        // A line of the log has the numbers of its stage and no others.
        let got: Vec<f32> = records.iter().filter_map(|record| record.get(&part)).collect();
        close(&part, &got, &golden.file.f32(&format!("losses.{part}")), 1e-4);
    }
}

#[test]
fn umi_of_classes_is_pytorchs() {
    check("umi");
}

#[test]
fn umi_of_numbers_is_pytorchs() {
    check("umi_number");
}
