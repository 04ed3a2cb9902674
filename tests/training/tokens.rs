//! From sentences and a pretrained folder to token rows, against Hugging Face's own tokenizer.

use crate::bert_fixture;
use std::collections::BTreeMap;
use std::path::Path;

use bert_fixture::{Fixture, minilm, path, summary};
use modalign::data::{
    Dataset, SplitName, TokenLayout, TokenRows, Tokenised, Tokenizer, fill_tokens, packed_rows,
};
use modalign::files::sha256_hex;
use modalign::nn::Pretrained;
use modalign::ops::Act;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

fn golden() -> Value {
    let text = std::fs::read_to_string(path("tokens.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A folder with the tiny vocabulary and, maybe, a `tokenizer_config.json`.
fn tiny_folder(settings: Option<&Value>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("bert_tiny/vocab.txt"), folder.path().join("vocab.txt")).unwrap();
    if let Some(settings) = settings {
        let file = folder.path().join("tokenizer_config.json");
        std::fs::write(file, settings.to_string()).unwrap();
    }
    folder
}

/// What transformers writes for the tiny vocabulary: the same tokenizer in one file, with padding
/// and truncation that have to be ignored.
fn tiny_json() -> Value {
    let vocab = std::fs::read_to_string(path("bert_tiny/vocab.txt")).unwrap();
    let vocab: BTreeMap<&str, usize> = vocab.lines().zip(0..).collect();
    let special = |token: &str| {
        json!({"id": vocab[token], "content": token, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let added = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(special);
    json!({
        "version": "1.0",
        "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0,
                       "direction": "Left"},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", vocab["[SEP]"]],
                           "cls": ["[CLS]", vocab["[CLS]"]]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab}
    })
}

#[test]
fn a_tiny_vocabulary_cuts_as_transformers_does() {
    let golden = golden();
    let texts = strings(&golden["tiny_texts"]);
    let cases = golden["tiny"].as_array().unwrap();
    assert!(texts.len() >= 20 && cases.len() >= 5);
    for case in cases {
        let ids: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).unwrap();
        let longest = case["longest"].as_u64().unwrap() as usize;
        let settings = &case["settings"];
        let folder = tiny_folder(Some(settings));
        let check = |kind: &str| {
            let tokenizer = Tokenizer::open(folder.path()).unwrap();
            assert!(tokenizer.path().ends_with(kind));
            assert_eq!(tokenizer.vocabulary(), 200);
            for (text, want) in texts.iter().zip(&ids) {
                let got = tokenizer.encode(text, longest).unwrap();
                assert_eq!(&got, want, "{kind}, {settings}: {text:?}");
            }
            assert_eq!(tokenizer.encode_all(&texts, longest).unwrap(), ids);
        };
        check("vocab.txt");
        // Its own normalizer is uncased; the settings have to win.
        std::fs::write(folder.path().join("tokenizer.json"), tiny_json().to_string()).unwrap();
        check("tokenizer.json");
    }
}

#[test]
fn long_texts_keep_their_ends() {
    let folder = tiny_folder(None);
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let [cls, sep] = [2, 3];
    let whole = tokenizer.encode("a very good movie!", 512).unwrap();
    assert_eq!((whole.len(), whole[0], whole[6]), (7, cls, sep));
    for most in 3..10 {
        let ids = tokenizer.encode("a very good movie!", most).unwrap();
        assert_eq!(ids.len(), most.min(7));
        assert_eq!(ids[ids.len() - 1], sep);
        assert_eq!(ids[..ids.len() - 1], whole[..ids.len() - 1]);
    }
    let error = tokenizer.encode("a", 2).unwrap_err().to_string();
    assert!(error.contains("at least 3"), "{error}");
    assert!(tokenizer.encode_all(&[], 2).is_err());
    assert!(tokenizer.encode_all(&[], 3).unwrap().is_empty());
}

#[test]
fn bad_folders_say_what_to_do() {
    let refused = |change: &dyn Fn(&Path), wanted: &[&str]| {
        let folder = tiny_folder(None);
        change(folder.path());
        let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in wanted {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
    };
    let vocab = std::fs::read_to_string(path("bert_tiny/vocab.txt")).unwrap();
    let write = |file: &'static str, text: String| {
        move |at: &Path| std::fs::write(at.join(file), &text).unwrap()
    };
    refused(
        &|at| std::fs::remove_file(at.join("vocab.txt")).unwrap(),
        &["neither tokenizer.json nor vocab.txt"],
    );
    for token in ["[CLS]", "[SEP]", "[UNK]"] {
        let lacking = vocab.replace(token, "[unused99]");
        let wanted = format!("the vocabulary has no {token}");
        refused(&write("vocab.txt", lacking), &["vocab.txt", &wanted]);
    }
    refused(&|at| std::fs::write(at.join("vocab.txt"), [0xff]).unwrap(), &["not UTF-8"]);
    refused(
        &write("tokenizer_config.json", "{".into()),
        &["tokenizer_config.json", "not a JSON object"],
    );
    refused(
        &write("tokenizer_config.json", r#"{"do_lower_case": "no"}"#.into()),
        &["do_lower_case is \"no\""],
    );
    refused(
        &write("tokenizer.json", "{\"version\": \"1.0\",".into()),
        &["tokenizer.json: not the description of a tokenizer"],
    );
    let mut other = tiny_json();
    other["model"] = json!({"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"});
    refused(&write("tokenizer.json", other.to_string()), &["its model is not WordPiece"]);
    // A text without [CLS] in front would be read at the wrong position.
    let mut bare = tiny_json();
    bare["post_processor"] = Value::Null;
    refused(&write("tokenizer.json", bare.to_string()), &["an empty text becomes [], wanted"]);
}

/// A set of two splits with only texts for inputs beside one audio number.
fn spoken(texts: [&[&str]; 2]) -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let zeros = [0; 64];
    let tensors = texts.iter().zip(["train", "test"]).map(|(texts, split)| {
        let bytes = &zeros[..4 * texts.len()];
        let view = TensorView::new(Dtype::F32, vec![texts.len(), 1, 1], bytes).unwrap();
        (format!("{split}.audio"), view)
    });
    let file = folder.path().join("spoken.safetensors");
    std::fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let side = json!({"train": {"raw_text": texts[0]}, "test": {"raw_text": texts[1]}});
    std::fs::write(file.with_extension("json"), side.to_string()).unwrap();
    let data = Dataset::open(&file).unwrap();
    (folder, data)
}

#[test]
fn raw_text_becomes_rows_of_every_split() {
    let (_folder, data) = spoken([&["Good film.", "", "bad"], &["I love it!"]]);
    let tokenizer = Tokenizer::open(path("bert_tiny")).unwrap();
    let read = |most| Tokenised::from_text(&data, &tokenizer, most, 200).unwrap();
    let all = read(50);
    assert_eq!(all.source, "raw_text");
    let train = all.split(SplitName::Train).unwrap();
    assert_eq!(train.lengths().collect::<Vec<_>>(), [5, 2, 3]);
    let (ids, segments) = train.row(0);
    assert_eq!(ids, tokenizer.encode("Good film.", 50).unwrap());
    assert_eq!(segments, [0; 5]);
    assert_eq!(all.split(SplitName::Test).unwrap().lengths().collect::<Vec<_>>(), [6]);
    assert!(all.split(SplitName::Valid).is_none());
    assert_eq!(all.longest(), 6);
    assert_eq!(all.digest, read(50).digest);
    assert_ne!(all.digest, read(4).digest);
    let error = Tokenised::from_text(&data, &tokenizer, 50, 199).unwrap_err().to_string();
    assert!(error.contains("ids go up to 199 where the model has 199"), "{error}");

    let side = data.path().with_extension("json");
    std::fs::write(side, json!({"train": {"raw_text": ["a", "b", "c"]}}).to_string()).unwrap();
    let data = Dataset::open(data.path()).unwrap();
    let error = Tokenised::from_text(&data, &tokenizer, 50, 200).unwrap_err().to_string();
    assert!(error.contains("there is no test.raw_text"), "{error}");
}

/// The rows that a fixture's `tokens` and `spans` describe, and those two packed again.
fn repacked(fixture: &Fixture) -> (TokenRows, Vec<u32>) {
    let (tokens, spans) = (fixture.u32("tokens"), fixture.u32("spans"));
    let mut rows = TokenRows::default();
    for span in spans.chunks(2) {
        let of = &tokens[4 * span[0] as usize..4 * (span[0] + span[1]) as usize];
        let ids: Vec<u32> = of.chunks(4).map(|token| token[0]).collect();
        let segments: Vec<u32> = of.chunks(4).map(|token| token[1] >> 16).collect();
        rows.push(&ids, &segments).unwrap();
    }
    let total = packed_rows(rows.lengths());
    let layout =
        TokenLayout { rows: total, tokens_at: 0, spans_at: 4 * total, ..TokenLayout::default() };
    let mut out = vec![u32::MAX; 4 * total + spans.len()];
    let which: Vec<u32> = (0..rows.rows() as u32).collect();
    fill_tokens(&rows, &which, &layout, &mut out).unwrap();
    assert_eq!(out, [tokens, spans].concat());
    (rows, out)
}

#[test]
fn blocks_are_packed_as_the_fixtures_are() {
    let (rows, _) = repacked(&Fixture::open("bert_tiny_golden"));
    assert_eq!(rows.lengths().collect::<Vec<_>>(), [7, 1, 40, 12, 23, 2]);
    assert_eq!(rows.row(2).1.iter().sum::<u32>(), 13);
    let (rows, _) = repacked(&Fixture::open("minilm_golden"));
    assert_eq!((rows.rows(), rows.lengths().max()), (32, Some(120)));
}

#[test]
fn the_tiny_bert_is_read_whole() {
    let tiny = Pretrained::open(path("bert_tiny")).unwrap();
    let shape = tiny.config;
    assert_eq!((shape.vocab, shape.positions, shape.segments), (200, 64, 2));
    assert_eq!((shape.hidden, shape.layers, shape.heads, shape.intermediate), (64, 2, 4, 128));
    assert_eq!((shape.act, shape.eps), (Act::Gelu, 1e-12));
    assert_eq!((shape.hidden_dropout, shape.attention_dropout), (0.1, 0.1));
    let weights = tiny.weights().unwrap();
    assert_eq!(weights.iter().count(), 37);
    assert_eq!(tiny.pooler().unwrap().iter().count(), 2);
    // The fixture keeps a gradient of every one of them, in the same shape.
    let golden = Fixture::open("bert_tiny_golden");
    for (name, dims, values) in weights.iter() {
        assert_eq!(golden.shape(&format!("grad.{name}")), dims, "{name}");
        // Random numbers of these spreads: a misread half would be far outside.
        let about = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let spread = if dims.len() == 2 { 0.15 } else { 0.1 };
        let far = values.iter().fold(0f32, |far, v| far.max((v - about).abs()));
        assert!(far < 5.0 * spread && far > 1.5 * spread, "{name}: {far}");
    }
}

#[test]
fn gradients_are_summed_up_as_in_the_fixture() {
    let golden = Fixture::open("minilm_golden");
    let names = strings(&golden.config()["names"]);
    let rows = golden.f32("summary");
    let mut checked = 0;
    for (name, want) in names.iter().zip(rows.chunks(9)) {
        if ["LayerNorm.weight", "type_embeddings.weight"].iter().any(|end| name.ends_with(end))
            && (name.starts_with("embeddings.") || name.contains("layer.5.output."))
        {
            let got = summary(&golden.f32(&format!("grad.{name}")));
            for (g, w) in got.iter().zip(want) {
                assert!((g - f64::from(*w)).abs() < 1e-5 * f64::from(want[0]), "{name}: {g} {w}");
            }
            checked += 1;
        }
    }
    assert_eq!((names.len(), checked), (101, 3));
}

#[test]
fn minilm_cuts_2000_awkward_texts_as_transformers_does() {
    let Some(folder) = minilm() else { return };
    let golden = golden();
    let (texts, want) = (strings(&golden["real"]["texts"]), strings(&golden["real"]["ids"]));
    let longest = golden["real"]["longest"].as_u64().unwrap() as usize;
    assert_eq!((texts.len(), want.len()), (2000, 2000));
    // The same from the word list alone.
    let bare = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("vocab.txt"), bare.path().join("vocab.txt")).unwrap();
    for folder in [folder.as_path(), bare.path()] {
        let tokenizer = Tokenizer::open(folder).unwrap();
        assert_eq!(tokenizer.vocabulary(), 30522);
        let all = tokenizer.encode_all(&texts, longest).unwrap();
        let mut wrong = Vec::new();
        for ((text, ids), want) in texts.iter().zip(&all).zip(&want) {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            if format!("{}:{}", ids.len(), &sha256_hex(&bytes)[..8]) != *want {
                wrong.push(text);
            }
        }
        assert!(wrong.is_empty(), "{} differ, as {:?}", wrong.len(), wrong[0]);
    }
}

#[test]
fn minilm_is_read_whole_and_cuts_the_fixtures_sentences() {
    let Some(folder) = minilm() else { return };
    let found = Pretrained::open(&folder).unwrap();
    let golden = Fixture::open("minilm_golden");
    let mut names = strings(&golden.config()["names"]);
    let mut wanted: Vec<String> = found.config.tensors().into_iter().map(|(n, _)| n).collect();
    let weights = found.weights().unwrap();
    assert_eq!(weights.iter().map(|(_, _, v)| v.len()).sum::<usize>(), found.config.parameters());
    names.sort();
    wanted.sort();
    assert_eq!(names, wanted);
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let (rows, _) = repacked(&golden);
    let sentences = strings(&golden.config()["sentences"]);
    for (i, ids) in tokenizer.encode_all(&sentences, 512).unwrap().iter().enumerate() {
        assert_eq!(ids, rows.row(i).0, "{}", sentences[i]);
    }
}

/// That set comes with its texts and with their tokens, cut to 50.
#[test]
fn mosi_texts_come_out_as_its_own_tokens() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/cmu_mosi.safetensors");
    let Some(folder) = minilm() else { return };
    if !file.exists() {
        println!("skipped: {} is not there", file.display());
        return;
    }
    let data = Dataset::open(&file).unwrap();
    let tokenizer = Tokenizer::open(folder).unwrap();
    let ours = Tokenised::from_text(&data, &tokenizer, 50, 30522).unwrap();
    let theirs = Tokenised::from_text_bert(&data, 50, 30522, 2).unwrap();
    // Of ids and segments; that a text went on, ids alone do not tell.
    assert!(ours.digest == theirs.digest, "other tokens");
}
