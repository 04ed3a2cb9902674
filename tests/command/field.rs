//! What people of this field bring, and what the command says of it.

use crate::common::{Made, TensorFile};
use crate::ran::{Place, Ran, fails};
use std::sync::OnceLock;

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| Place::fresh("field"))
}

/// Audio of one step, a third of which is the label.
fn audio() -> TensorFile {
    let mut file = TensorFile::default();
    for (i, (split, rows)) in [("train", 120), ("valid", 40), ("test", 60)].into_iter().enumerate()
    {
        let labels: Vec<f32> =
            modalign::ops::random(i as u64, rows).iter().map(|x| 2.5 * x).collect();
        let mut values = modalign::ops::random(10 + i as u64, rows * 6);
        for (row, label) in labels.iter().enumerate() {
            values[6 * row..][..2].iter_mut().for_each(|x| *x += label);
        }
        file.put_f32(&format!("{split}.audio"), &[rows, 1, 6], &values);
        file.put_f32(&format!("{split}.regression_labels"), &[rows], &labels);
    }
    file
}

fn corr(settings: &str) -> (f64, String) {
    let line = format!(
        "train --model lf_dnn {settings} --set train.max_epochs=20 --set train.batch_size=16 --set \
         train.lr=0.005 --json"
    );
    let ran = place().run(&line);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
    let said: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    (said["test"]["Corr"].as_f64().unwrap(), ran.err)
}

/// COVAREP's features hold values that are no measurements: two of them make a feature say nothing.
#[test]
fn wild_values_are_named_and_a_robust_scale_bears_them() {
    let mut file = audio();
    let mut values = file.f32("train.audio");
    (values[6 * 7], values[6 * 70 + 1]) = (-3.4e38, 1e30);
    file.put_f32("train.audio", &[120, 1, 6], &values);
    file.save(&place().at("wild.safetensors"));
    let said = place().ok("inspect wild.safetensors");
    for word in [
        "train.audio: 2 of 6 features (0-1)",
        "rows such as 7, 70",
        "-3.4e38 in row 7 of feature 0",
        "train.normalize=robust",
    ] {
        assert!(said.contains(word), "no '{word}' in {said}");
    }
    let on = |scale: &str| {
        corr(&format!(
            "--data wild.safetensors --out wild-{scale} --set model.modalities=A --set \
             train.normalize={scale}"
        ))
    };
    let ((flat, warned), (robust, calm)) = (on("true"), on("robust"));
    assert!(robust > 0.85 && flat < robust - 0.2, "{flat} {robust}");
    assert!(warned.contains("train.normalize=robust"), "{warned}");
    assert!(!calm.contains("train.normalize"), "{calm}");
    // A trained run scales new data by what it kept.
    let kept = std::fs::read_to_string(place().at("wild-robust/config.toml")).unwrap();
    assert!(kept.contains("normalize = \"robust\""), "{kept}");
    let again = place().json("eval --model wild-robust --json");
    assert_eq!(again["metrics"]["fused"]["Corr"].as_f64(), Some(robust));
    let wrong = place().run("train --data wild.safetensors --out w --set train.normalize=rubust");
    fails(wrong, 2, &["train.normalize", "\"robust\"", "rubust"]);
}

/// Whoever rescales labels wants to know of all of them at once.
#[test]
fn labels_beyond_the_range_are_told_at_once_and_clipped_on_demand() {
    let mut file = audio();
    let mut labels = file.f32("train.regression_labels");
    (labels[3], labels[5], labels[9]) = (3.5, -5.0, 4.25);
    file.put_f32("train.regression_labels", &[120], &labels);
    file.save(&place().at("wide.safetensors"));
    let train =
        "train --data wide.safetensors --model lf_dnn --set model.modalities=A --max-epochs 1";
    let told = ["3 of 220 labels", "row 5: -5", "data.label_range=5", "data.clip_labels=true"];
    fails(place().run(&format!("{train} --out wide")), 1, &told);
    let ran = place().run(&format!("{train} --out wide --clip-labels"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("3 of 220 labels are beyond ±3 and taken for that"), "{}", ran.err);
    let labels = place().json("predict --model wide --split train --json");
    let of = |row: usize| labels["rows"][row]["label"].as_f64().unwrap();
    assert_eq!([of(3), of(5), of(9)], [3.0, -3.0, 3.0]);
    place().ok("train --resume wide --max-epochs 2 --quiet");
}

/// No negative label, so that negative against the rest is no task.
#[test]
fn scores_that_say_nothing_are_left_out() {
    let mut file = audio();
    for (split, rows) in [("train", 120), ("valid", 40), ("test", 60)] {
        let name = format!("{split}.regression_labels");
        let labels: Vec<f32> = file.f32(&name).iter().map(|x| 0.25 + x.abs()).collect();
        file.put_f32(&name, &[rows], &labels);
    }
    file.save(&place().at("positive.safetensors"));
    let train =
        "train --data positive.safetensors --model lf_dnn --set model.modalities=A --max-epochs 1";
    let ran = place().run(&format!("{train} --out positive"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("MAE") && !ran.out.contains("Acc-2"), "{}", ran.out);
    assert!(ran.err.contains("test: no label is negative: Acc-2 Has0, F1 Has0"), "{}", ran.err);
    let mut command = place().command(&train.replace("--max-epochs 1", "--out best"));
    command.args(["--set", "train.metric_for_best_model=Acc-2 Has0"]);
    fails(command.output().unwrap().into(), 2, &["'Acc-2 Has0'", "cannot tell a good model"]);
}

/// Ids such as clip_000 look like clips of one video.
#[test]
fn ids_of_one_video_raise_no_alarm() {
    audio().save(&place().at("own.safetensors"));
    let ids = |n: usize| (0..n).map(|i| format!("clip_{i:03}")).collect::<Vec<_>>();
    let side = serde_json::json!({ "train": { "id": ids(120) }, "valid": { "id": ids(40) },
        "test": { "id": ids(60) } });
    std::fs::write(place().at("own.json"), side.to_string()).unwrap();
    let said = place().json("inspect own.safetensors --json");
    assert_eq!(said["suspicions"], serde_json::json!([]), "{said}");
}

/// Sentences and no encoder: what to do is said, also where audio is there to be read instead.
#[test]
fn text_without_an_encoder_is_pointed_at() {
    let made = Made { text: None, audio: None, vision: None, ..Made::default() };
    let mut file = made.tensors();
    let texts = |n: usize| (0..n).map(|i| format!("sentence {i}")).collect::<Vec<_>>();
    let [train, valid, test] = made.rows;
    let side = serde_json::json!({ "train": { "raw_text": texts(train) },
        "valid": { "raw_text": texts(valid) }, "test": { "raw_text": texts(test) } });
    let words = ["--bert FOLDER"];
    for with_audio in [false, true] {
        if with_audio {
            for (split, rows) in [("train", train), ("valid", valid), ("test", test)] {
                let values = modalign::ops::random(1, rows * 3);
                file.put_f32(&format!("{split}.audio"), &[rows, 1, 3], &values);
            }
        }
        file.save(&place().at("said.safetensors"));
        std::fs::write(place().at("said.json"), side.to_string()).unwrap();
        let ran = place().run(
            "train --data said.safetensors --out said --max-epochs 1 --set train.keep_tail=true",
        );
        match with_audio {
            true => assert!(ran.code == Some(0) && ran.err.contains(words[0]), "{}", ran.err),
            false => fails(ran, 2, &words),
        }
    }
}

/// Two adapters of one name are told apart by their numbers.
#[test]
fn adapters_have_numbers() {
    let all = place().json("devices --json");
    let first = &all["adapters"][0];
    assert_eq!((first["number"].as_u64(), first["chosen"].as_bool()), (Some(0), Some(true)));
    assert!(place().ok("devices --adapter 0").contains("number"));
    let name = first["name"].as_str().unwrap();
    fails(place().run("devices --adapter 97"), 1, &["the number 97", &format!("0 {name}")]);
}

/// How many sentences lost their ends, wherever they are read.
#[test]
fn sentences_that_are_cut_are_counted() {
    place().ok("synth --out spoken.safetensors --train 24 --valid 8 --test 8 --encoder speaker");
    let train = "train --data spoken.safetensors --bert speaker --set bert.finetune=false --set \
                 bert.max_tokens=4 --max-epochs 1 --set train.keep_tail=true --out spoken";
    let ran = place().run(train);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let said = "texts are cut to 4 tokens in 24 of 24 rows of train, 8 of 8 rows of valid, 8 of 8 rows of test";
    assert!(ran.err.contains(said), "{}", ran.err);
    let mut predict = place().command("predict --model spoken --data spoken.safetensors");
    let ran: Ran = predict.output().unwrap().into();
    assert!(ran.err.contains("8 of 8 rows of test"), "{}", ran.err);
    let mut predict = place().command("predict --model spoken --text kind --text");
    let ran: Ran = predict.arg("one two three four five six").output().unwrap().into();
    assert!(ran.err.contains("1 of 2 sentences are cut to 4 tokens"), "{}", ran.err);
    let inspect = "inspect spoken.safetensors --bert speaker --set bert.max_tokens=4";
    assert!(place().ok(inspect).contains("24 of 24 rows of train, 8 of 8"));
    assert!(!place().ok("inspect spoken.safetensors --bert speaker").contains("bert.max_tokens"));
}
