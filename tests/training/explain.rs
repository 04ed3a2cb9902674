//! Where scores come from: against PyTorch's autograd (`tests/fixtures/golden_explain.py`), against a model
//! that is a plane, and through the built command. That the shares of every model add up is tested where all
//! models are (`house.rs`).

use crate::common::{Made, TensorFile, config, gpu};
use crate::models::{self, Golden, close};
use crate::text_place::Place;
use modalign::data::{Dataset, Modality, Normalize, SplitName, Standardise};
use modalign::nn::Weights;
use modalign::recipe::Config;
use modalign::train::Session;
use modalign::train::explain::{Explained, Explainer, Explanation, Share};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// A model that evaluates, with these weights.
fn explainer(
    config: &Config,
    data: &Arc<Dataset>,
    weights: &Weights,
    standardise: Option<Standardise>,
) -> Explainer {
    let standardise = standardise.map(Arc::new);
    let mut session =
        Session::new(gpu(), config, data.clone(), standardise, false).expect("a session");
    session.load(weights, Path::new("weights")).expect("weights");
    Explainer::new(session, Path::new("none")).expect("an explainer")
}

fn share(said: &Explanation, modality: Modality) -> &Share {
    said.modalities.iter().find(|s| s.modality == modality).expect("a modality")
}

/// The shares of a row of the test split against PyTorch's.
fn as_pytorch(name: &str, output: usize, explainer: Explainer) {
    let golden = TensorFile::fixture("explain.safetensors");
    let row = golden.i32(&format!("{name}.row"))[0] as usize;
    // Attention over vectors of four columns turns sharply and often: there as near as is usual.
    let sharp = name == "mult";
    let mut explainer = explainer.within(if sharp { 0.01 } else { 0.001 });
    let split = explainer.data().splits().last().expect("a split").name();
    let said = explainer.explain(split, row, output).unwrap_or_else(|e| panic!("{name}: {e}"));
    let whole = golden.f32(&format!("{name}.whole"));
    close(name, &[(said.score - said.usual) as f32], &whole, 1e-3);
    assert!(said.complete, "{name}: {said:?}");
    for modality in Modality::KNOWN {
        let full = golden.f32(&format!("{name}.{modality}"));
        let got: Vec<f32> = share(&said, modality).values.iter().map(|v| *v as f32).collect();
        let (want, padding) = full.split_at(got.len());
        close(&format!("{name}: {modality}"), &got, want, if sharp { 3e-2 } else { 1e-2 });
        assert!(padding.iter().all(|v| *v == 0.0), "{name}: {modality} has more steps");
    }
}

#[test]
fn shares_are_those_of_pytorch() {
    for name in ["ef_lstm", "lf_dnn", "lf_dnn_classes", "tfn", "mfn", "mult"] {
        let golden = Golden::read(name);
        let model = golden.said["model"].as_str().expect("a name");
        let folder = tempfile::tempdir().expect("a folder");
        let config = models::config(model, &golden, &[]);
        let data = golden.data(folder.path(), &config);
        let class = usize::from(name == "lf_dnn_classes");
        as_pytorch(name, class, explainer(&config, &data, &golden.weights(), None));
    }
}

#[test]
fn self_mm_s_shares_are_those_of_pytorch() {
    let file = TensorFile::fixture("selfmm.safetensors");
    let mut set = TensorFile::default();
    for name in ["text", "audio", "audio_lengths", "vision", "vision_lengths"] {
        let mut tensor = file.get(name).clone();
        if name == "text" {
            tensor.shape.insert(1, 1);
        }
        set.tensors.insert(format!("train.{name}"), tensor);
    }
    set.tensors.insert("train.regression_labels".into(), file.get("labels").clone());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("selfmm.safetensors");
    set.save(&path);
    let mut weights = file.weights("init.");
    // Only training has those.
    for name in ["text", "audio", "video"] {
        weights.remove(&format!("align_{name}.weight"));
    }
    let sizes = [
        "model.post.fusion=8",
        "model.post.text=6",
        "model.post.audio=5",
        "model.post.vision=7",
        "model.hidden.audio=4",
        "model.out.audio=4",
        "model.hidden.vision=6",
        "model.out.vision=5",
    ];
    let data = Arc::new(Dataset::open(&path).expect("a set"));
    as_pytorch("self_mm", 0, explainer(&config(&sizes), &data, &weights, None));
}

/// The product of matrices `[a, b]` and `[b, c]`.
fn product(x: &[f64], y: &[f64], inner: usize) -> Vec<f64> {
    let columns = y.len() / inner;
    let cell = |i: usize, j: usize| (0..inner).map(|k| x[i * inner + k] * y[k * columns + j]).sum();
    (0..x.len() / inner)
        .flat_map(|i| (0..columns).map(move |j| cell(i, j)).collect::<Vec<_>>())
        .collect()
}

/// Where no unit ever switches, a model of layers is a plane, and a feature's share is its distance from the
/// usual one times a slope that is the product of the layers' matrices.
#[test]
fn a_plane_s_shares_are_exact() {
    let made = Made { audio: None, vision: None, ..Made::default() };
    let data = made.open();
    let config = config(&["model.modalities=T", "labels.enabled=false"]);
    let train = data.split(SplitName::Train).expect("rows");
    let usual = Standardise::with_usual(train, &[], Normalize::Standard).expect("means");
    let session = Session::new(gpu(), &config, data.clone(), None, false).expect("a session");
    let mut weights = session.params().initial(7);
    for layer in [1, 2] {
        let name = format!("post_fusion_layer_{layer}.bias");
        let units = weights.get(&name).expect("biases").1.len();
        weights.insert(&name, vec![units], vec![30.0; units]);
    }
    let matrix = |layer: usize| -> Vec<f64> {
        let (_, values) = weights.get(&format!("post_fusion_layer_{layer}.weight")).expect("one");
        values.iter().map(|v| f64::from(*v)).collect()
    };
    let (first, second, third) = (matrix(1), matrix(2), matrix(3));
    let units = third.len();
    let slope = product(&product(&third, &second, units), &first, units);
    let mean = usual.usual(Modality::Text).expect("means");
    let mut explainer = explainer(&config, &data, &weights, Some(usual));
    for row in [0, 5] {
        let said = explainer.explain(SplitName::Test, row, 0).expect("shares");
        let test = data.split(SplitName::Test).and_then(|s| s.stream(Modality::Text));
        let x = test.expect("text").row(row);
        let want = slope.iter().zip(x.iter().zip(&mean));
        let want: Vec<f32> = want.map(|(s, (x, m))| (s * f64::from(x - m)) as f32).collect();
        let got: Vec<f32> = said.modalities[0].values.iter().map(|v| *v as f32).collect();
        close("a plane", &got, &want, 1e-3);
        assert_eq!((said.points, said.complete), (29, true), "one pass is enough");
        assert_eq!(said.modalities[0].features[3].name, "column 3");
    }
}

fn words(row: &Value) -> Vec<(String, f64)> {
    let text = row["modalities"].as_array().expect("modalities").iter();
    let text = text.clone().find(|m| m["modality"] == "text").expect("text");
    let words = text["words"].as_array().expect("words").iter();
    let one = |w: &Value| {
        (w["word"].as_str().expect("a word").to_string(), w["share"].as_f64().expect("a number"))
    };
    words.map(one).collect()
}

#[test]
fn words_of_a_trained_encoder_have_shares() {
    let place = Place::new();
    place.tuned("run", "");
    let said = place.json("explain --model run --id test-4 --id test-5 --id train-3");
    let rows = said["rows"].as_array().expect("rows");
    let found: Vec<String> = words(&rows[0]).into_iter().map(|(word, _)| word).collect();
    // As the text has them, though the vocabulary has not.
    assert_eq!(found, ["😀", "Ünïcödé", ",", "film", "!", "10"]);
    for row in rows {
        assert_eq!(row["complete"], true, "{row}");
        let number = |key: &str| row[key].as_f64().expect("a number");
        let shares = row["modalities"].as_array().expect("modalities");
        let sum: f64 = shares.iter().map(|m| m["share"].as_f64().expect("a number")).sum();
        let whole = number("score") - number("usual");
        assert!((sum + number("residual") - whole).abs() < 1e-9, "{row}");
        // [CLS] and [SEP] have no share: the words have all of the text's.
        let text = shares.iter().find(|m| m["modality"] == "text").expect("text");
        let of_words: f64 = words(row).iter().map(|(_, share)| share).sum();
        assert!((of_words - text["share"].as_f64().expect("a number")).abs() < 1e-9, "{row}");
        let steps = text["steps"].as_array().expect("steps");
        assert_eq!((&steps[0], steps.last()), (&0.0.into(), Some(&0.0.into())));
    }
    assert_eq!(rows[2]["split"], "train");
    // A text that is cut has the words that the model reads.
    assert!(words(&rows[2]).len() < 120 && words(&rows[2])[3].0 == "film");

    let scores = place.scores("run", "data.safetensors", SplitName::Test);
    assert!((rows[1]["score"].as_f64().expect("one") - f64::from(scores[5])).abs() < 1e-4);

    // The hardest are kept for the report, and shown as a table without colours in a pipe.
    let table = place.ok("explain --model run --hardest 2 --save");
    assert!(
        table.contains("modality") && table.contains("text") && !table.contains('\x1b'),
        "{table}"
    );
    assert!(table.contains("The shares add up to"), "{table}");
    let kept = Explained::read(&place.at("run")).expect("a file").expect("rows");
    let labels = crate::text_place::made().f32("test.regression_labels");
    let gap = |row: usize| (labels[row] - scores[row]).abs();
    let worst = (0..scores.len()).max_by(|a, b| gap(*a).total_cmp(&gap(*b))).expect("a row");
    assert_eq!((kept.rows.len(), kept.rows[0].row), (2, worst));

    // With token ids alone the pieces' own names are put together.
    let mut file = crate::text_place::made();
    crate::text_place::add_tokens(&mut file, crate::text_place::sentences);
    file.save(&place.at("ids.safetensors"));
    let said = place.json("explain --model run --data ids.safetensors --id test-5");
    let joined: Vec<String> = words(&said["rows"][0]).into_iter().map(|(word, _)| word).collect();
    let own: Vec<String> = words(&rows[1]).into_iter().map(|(word, _)| word).collect();
    assert_eq!(joined.len(), own.len());
    let same = |(a, b): (&String, &String)| a == "[UNK]" || *a == b.to_lowercase();
    assert!(joined.iter().zip(&own).all(same), "{joined:?} {own:?}");
}

#[test]
fn what_cannot_be_explained_is_said() {
    let place = Place::new();
    place.train("run", "--data data.safetensors --set model.modalities=A");
    let fails = |line: &str, wanted: &str| {
        let ran = place.run(line);
        assert!(ran.code != Some(0) && ran.err.contains(wanted), "{line}: {}", ran.err);
        assert_eq!(ran.err.trim_end().lines().count(), 1, "{}", ran.err);
    };
    fails("explain --model run --quiet", "--id");
    fails("explain --model run --quiet --id nobody", "no row of any part has the id 'nobody'");
    fails("explain --model run --quiet --id test-99 --split valid", "no row of 'valid'");
    fails("explain --model run --quiet --id test-1 --class joy", "a single number");
    fails("explain --model run/model.safetensors --quiet --hardest 1 --save", "no run folder");
}
