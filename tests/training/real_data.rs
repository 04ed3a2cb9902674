//! Short runs on the real sets, where they are at hand: in the folder that `MODALIGN_DATA` names,
//! else beside the repository.

use crate::common;
use common::{gpu, run};
use modalign::data::{Dataset, SplitName, Standardise};
use modalign::data::{Modality, StreamSpec};
use modalign::recipe::Config;
use modalign::train::metrics::evaluate;
use modalign::train::{RunOptions, Session, train};
use std::path::PathBuf;
use std::sync::Arc;

/// A data file; none, and a line saying so, where there is none.
fn find(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("MODALIGN_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

fn build(settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Config::build("mosi", None, &settings).unwrap()
}

#[test]
fn mosi_learns_in_three_epochs() {
    let Some(data) = find("cmu_mosi.safetensors") else { return };
    let folder = tempfile::tempdir().unwrap();
    let set = ["train.seed=1111", "train.max_epochs=3", "model.modalities=TA"];
    let out = folder.path().join("run");
    let options = RunOptions { data, out, config: build(&set), init: None, fold: None };
    let outcome = train(gpu(), &options, &mut ()).unwrap();
    let test = outcome.test.expect("a test split");
    println!(
        "test MAE {:.3}, Corr {:.3}, {:.0} samples/s",
        test.get("MAE").unwrap(),
        test.get("Corr").unwrap(),
        outcome.samples_per_second
    );
    assert!(test.get("MAE").unwrap() < 1.1, "MAE {}", test.get("MAE").unwrap());
    assert!(test.get("Corr").unwrap() > 0.55, "Corr {}", test.get("Corr").unwrap());
    assert_eq!(outcome.epochs, 3);
}

#[test]
fn three_sequence_encoders_train_on_mmmo() {
    let Some(path) = find("ict_mmmo.safetensors") else { return };
    let data = Arc::new(Dataset::open(&path).unwrap());
    let split = data.split(SplitName::Train).unwrap();
    for modality in Modality::KNOWN {
        let spec = StreamSpec::of(&split.stream(modality).expect("all three"));
        assert!(spec.steps > 1 && spec.lengths, "{spec:?}");
    }
    let stats = Arc::new(Standardise::fit(split, &[Modality::Audio, Modality::Vision]).unwrap());
    let lstm = "model.text_encoder=lstm";
    // 72 rows in batches of 32 make 3 micro-batches, and a group has 4.
    let config = build(&[lstm, "train.batch_size=32"]);
    let refused = Session::new(gpu(), &config, data.clone(), Some(stats.clone()), true);
    assert!(refused.err().expect("no step").to_string().contains("train.keep_tail=true"));
    for more in ["train.keep_tail=true", "train.batch_size=8"] {
        let config = build(&[lstm, "train.batch_size=32", more]);
        let mut session =
            Session::new(gpu(), &config, data.clone(), Some(stats.clone()), true).unwrap();
        session.initialise().unwrap();
        let before = session.weights().unwrap();
        let records = run(&mut session, 1..=1);
        assert!(records.iter().all(|r| r.loss.is_finite()), "{more}");
        let after = session.weights().unwrap();
        for encoder in ["text_model", "audio_model", "video_model"] {
            let name = format!("{encoder}.rnn.weight_hh_l0");
            assert_ne!(before.get(&name), after.get(&name), "{more}: {name} did not move");
        }
        let scores = session.predict(SplitName::Test).unwrap().fused();
        let truth = data.split(SplitName::Test).unwrap().labels().unwrap();
        let metrics = evaluate(&scores, truth, config.data.convention).unwrap();
        println!("{more}: test MAE {:.3}", metrics.mae);
        assert!(metrics.mae.is_finite() && metrics.mae < 3.0, "MAE {}", metrics.mae);
    }
}
