//! Data sets that are brought to the words of a table: means worked out by hand, tokens, refusals, and models
//! that want aligned data.

use crate::bert_fixture::path as fixture;
use crate::common::{TensorFile, gpu};
use modalign::data::{Dataset, Modality, SplitName, Tokenizer};
use modalign::features::{ByWord, by_word, read_words};
use modalign::recipe::Config;
use modalign::train::{RunOptions, train};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROWS: [(SplitName, usize); 3] =
    [(SplitName::Train, 10), (SplitName::Valid, 4), (SplitName::Test, 4)];
/// Of each row: two words with steps, one with a step of audio alone, one with none.
const WORDS: [(&str, f64, f64); 4] =
    [("so", 0.0, 1.0), ("good", 1.0, 2.5), ("eh", 2.5, 2.6), ("um", 2.6, 2.9)];

/// Ten steps of audio at two a second, six of vision at one; row 1 ends after four steps of audio. Text has a
/// step for each word where it is to have features.
fn set(folder: &Path, text: bool) -> PathBuf {
    let mut file = TensorFile::default();
    for (split, rows) in ROWS {
        let at = |steps: usize, dim: usize, scale: f32| -> Vec<f32> {
            let one = |i: usize| {
                let (row, step, k) = (i / (steps * dim), i / dim % steps, i % dim);
                scale * step as f32 + 100.0 * k as f32 + row as f32
            };
            (0..rows * steps * dim).map(one).collect()
        };
        let lengths: Vec<i32> = (0..rows).map(|row| if row == 1 { 4 } else { 10 }).collect();
        file.put_f32(&format!("{split}.audio"), &[rows, 10, 2], &at(10, 2, 1.0));
        file.put_i32(&format!("{split}.audio_lengths"), &[rows], &lengths);
        file.put_f32(&format!("{split}.vision"), &[rows, 6, 1], &at(6, 1, -1.0));
        if text {
            file.put_f32(&format!("{split}.text"), &[rows, 4, 3], &at(4, 3, 0.5));
        }
        let labels: Vec<f32> = (0..rows).map(|row| (row % 5) as f32 - 2.0).collect();
        file.put_f32(&format!("{split}.regression_labels"), &[rows], &labels);
    }
    let path = folder.join(format!("set-{text}.safetensors"));
    file.save(&path);
    path
}

/// The table of all rows but those that `without` names, and of one that no set has.
fn words(folder: &Path, without: &str) -> PathBuf {
    let mut table = "id,word,start,end\nnobody,hm,0,1\n".to_string();
    for (split, rows) in ROWS {
        for id in (0..rows).map(|row| format!("{split}-{row}")).filter(|id| id != without) {
            for (word, start, end) in WORDS {
                table += &format!("{id},{word},{start},{end}\n");
            }
        }
    }
    let path = folder.join("words.csv");
    fs::write(&path, table).expect("written");
    path
}

fn how() -> ByWord {
    let rates = BTreeMap::from([(Modality::Audio, 2.0), (Modality::Vision, 1.0)]);
    ByWord { rates, ..ByWord::default() }
}

fn row(data: &Dataset, modality: Modality, row: usize) -> Vec<f32> {
    let test = data.split(SplitName::Test).expect("rows");
    test.stream(modality).expect("a stream").row(row)
}

/// Trains a model on a set.
fn trains(model: &str, data: PathBuf, out: PathBuf, more: &[&str]) {
    let name = format!("model.name={model}");
    let settings = [&[name.as_str(), "train.batch_size=4", "train.max_epochs=1"], more].concat();
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let config = Config::build("mosi", None, &settings).expect("settings");
    let options = RunOptions { data, out, config, init: None, fold: None };
    train(gpu(), &options, &mut ()).unwrap_or_else(|e| panic!("{model}: {e}"));
}

#[test]
fn words_have_the_means_of_their_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (set(folder.path(), true), folder.path().join("aligned.safetensors"));
    let table = read_words(words(folder.path(), "")).expect("words");
    let report = by_word(&data, &table, &how(), &out).expect("a set");
    assert_eq!((report.words, report.steps, report.cut), (4 * 18, 4, 0));
    assert_eq!(report.unknown, ["nobody"]);
    // Of audio "um" in each row, and "eh" in the three that end before it; of vision both in each.
    let silent = BTreeMap::from([(Modality::Audio, 18 + 3), (Modality::Vision, 36)]);
    assert_eq!(report.silent, silent);

    let data = Dataset::open(&out).expect("a set");
    let test = data.split(SplitName::Test).expect("rows");
    // Steps at 0 and 0.5 s; at 1, 1.5 and 2 s; at 2.5 s; none.
    assert_eq!(row(&data, Modality::Audio, 0), [0.5, 100.5, 3.0, 103.0, 5.0, 105.0, 0.0, 0.0]);
    // Without the steps past its end, and a row further.
    assert_eq!(row(&data, Modality::Audio, 1), [1.5, 101.5, 3.5, 103.5, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(row(&data, Modality::Vision, 0), [0.0, -1.5, 0.0, 0.0]);
    assert_eq!(row(&data, Modality::Text, 2)[..4], [2.0, 102.0, 202.0, 2.5]);
    assert_eq!(test.raw_text().expect("texts")[3], "so good eh um");
    assert_eq!(test.labels().expect("labels"), [-2.0, -1.0, 0.0, 1.0]);
    for modality in Modality::KNOWN {
        let stream = test.stream(modality).expect("a stream");
        assert_eq!((stream.steps, stream.len(1)), (4, 4), "{modality}");
    }
    trains("mfn", out.clone(), folder.path().join("mfn"), &["model.hidden=6", "model.memory=5"]);
    trains("ef_lstm", out, folder.path().join("ef"), &["model.hidden=6"]);
}

#[test]
fn pieces_have_the_means_of_their_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (set(folder.path(), false), folder.path().join("tokens.safetensors"));
    let table = read_words(words(folder.path(), "")).expect("words");
    let tokenizer = Tokenizer::open(fixture("bert_tiny")).expect("a tokenizer");
    let ids = tokenizer.encode("so good eh um", 100).expect("tokens");
    // Which token is of which word.
    let mut of = vec![None];
    for (w, (word, ..)) in WORDS.iter().enumerate() {
        let pieces = tokenizer.encode(word, 100).expect("tokens").len() - 2;
        of.extend(vec![Some(w); pieces]);
    }
    of.push(None);
    assert!(of.len() == ids.len() && ids.len() > 6, "a word is cut: {ids:?}");
    let how = ByWord { tokenizer: Some(tokenizer), ..how() };
    let report = by_word(&data, &table, &how, &out).expect("a set");
    assert_eq!(report.steps, ids.len());
    let made = Dataset::open(&out).expect("a set");
    let means = [[0.5, 100.5], [3.0, 103.0], [5.0, 105.0], [0.0, 0.0]];
    let want: Vec<f32> = of.iter().flat_map(|w| w.map_or([0.0; 2], |w| means[w])).collect();
    assert_eq!(row(&made, Modality::Audio, 0), want);
    let test = made.split(SplitName::Test).expect("rows");
    let own: Vec<u32> = test.text_bert().expect("tokens").ids(0).map(|id| id as u32).collect();
    assert_eq!(own, ids);
    let tokens = format!("bert.max_tokens={}", ids.len());
    let bert = format!("bert.path={}", fixture("bert_tiny").display());
    let more = ["model.text_encoder=bert", &bert, &tokens];
    trains("bert_mag", out.clone(), folder.path().join("mag"), &more);

    // Cut to five steps, a row still ends as a text does.
    let how = ByWord { steps: Some(5), ..how };
    let report = by_word(&data, &table, &how, &out).expect("a set");
    assert_eq!((report.steps, report.cut), (5, 18));
    let made = Dataset::open(&out).expect("a set");
    let test = made.split(SplitName::Test).expect("rows");
    let own: Vec<u32> = test.text_bert().expect("tokens").ids(0).map(|id| id as u32).collect();
    assert_eq!((&own[..4], own[4]), (&ids[..4], ids[ids.len() - 1]));
    assert_eq!(row(&made, Modality::Audio, 0)[8..], [0.0, 0.0]);
}

#[test]
fn what_does_not_go_together_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, out) = (set(folder.path(), true), folder.path().join("aligned.safetensors"));
    let all = read_words(words(folder.path(), "")).expect("words");
    let why = |table: &BTreeMap<_, _>, how: &ByWord, out: &Path| {
        let why = by_word(&data, table, how, out).expect_err("refused").to_string();
        assert!(!why.contains('\n'), "{why}");
        why
    };
    let some = read_words(words(folder.path(), "valid-2")).expect("words");
    assert!(why(&some, &how(), &out).contains("no word of 'valid-2'"));
    let audio = ByWord { rates: [(Modality::Audio, 2.0)].into(), ..ByWord::default() };
    assert!(why(&all, &audio, &out).contains("how many steps of vision a second has"));
    let mut fewer = all.clone();
    fewer.get_mut("test-0").expect("words").pop();
    assert!(why(&fewer, &how(), &out).contains("'test-0' has 4 steps of text and 3 words"));
    assert!(why(&all, &how(), &data).contains("the data set itself"));
    assert!(!out.exists());
}
