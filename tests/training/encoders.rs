//! Encoders beside BERT against transformers: hidden states, gradients, tokenizers, the ids of another
//! vocabulary, and what is written back. Fixtures by `tests/fixtures/golden_encoders.py`; the real weights of
//! all-mpnet-base-v2 where MODALIGN_MPNET names their folder.

use crate::bert::{Batch, Rig, encoder, largest, probed, relative};
use crate::bert_fixture::{mpnet, path};
use crate::common::{self, TensorFile, gpu, of};
use crate::text_place::{Place, fails, sentences};
use modalign::Tape;
use modalign::data::{SplitName, Tokenizer};
use modalign::gpu::Family;
use modalign::nn::{Bert, EncoderKind, Freeze, Pretrained, Reading, Weights};
use modalign::plan::{Pool, Step};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The kinds with a fixture.
const KINDS: [EncoderKind; 3] = [EncoderKind::Roberta, EncoderKind::DistilBert, EncoderKind::Mpnet];

fn folder(kind: EncoderKind) -> PathBuf {
    path(&format!("encoder_{}", kind.model_type()))
}

fn golden(kind: EncoderKind) -> TensorFile {
    TensorFile::fixture(&format!("encoder_{}_golden.safetensors", kind.model_type()))
}

/// Hidden states and gradients of the fixture's loss against transformers'; gives the gradients.
fn check(gpu: &modalign::Gpu, kind: EncoderKind, change: impl Fn(&mut Bert)) -> Weights {
    let file = golden(kind);
    let (mut bert, weights) = encoder(&folder(kind));
    assert_eq!(bert.shape.kind, kind);
    change(&mut bert);
    let got = probed(gpu, bert, &weights, &file, gpu.caps().max_binding);
    let gaps: Vec<f32> = got.hidden.iter().zip(file.f32("hidden")).map(|(g, w)| g - w).collect();
    println!("{}: states differ by {:.1e}", kind.name(), largest(&gaps));
    assert!(largest(&gaps) < 3e-5, "hidden states of {} differ by {}", kind.name(), largest(&gaps));
    let want = file.f32("loss")[0];
    assert!((got.loss - want).abs() < 1e-4 * want.abs(), "{} against {want}", got.loss);
    for (name, _, values) in got.grads.iter() {
        let own = kind.stored(name);
        let gap = relative(values, &file.f32(&format!("grad.{own}")));
        assert!(gap < 1e-4, "the gradient of {own} differs by {gap:.1e}");
    }
    got.grads
}

#[test]
fn every_kind_matches_transformers() {
    for kind in KINDS {
        let grads = check(gpu(), kind, |_| ());
        let names: BTreeSet<String> = grads.iter().map(|(n, ..)| kind.stored(n)).collect();
        let file = golden(kind);
        let wanted = file.tensors.keys().filter_map(|name| name.strip_prefix("grad."));
        assert_eq!(names, wanted.map(String::from).collect(), "all parameters have a gradient");
    }
}

#[test]
fn the_bias_is_right_in_every_family_and_when_layers_are_computed_again() {
    for family in [Family::Wide(0), Family::Plain, Family::Tiled] {
        check(of(family), EncoderKind::Mpnet, |_| ());
    }
    let plain = check(gpu(), EncoderKind::Mpnet, |_| ());
    let again = check(gpu(), EncoderKind::Mpnet, |bert| bert.checkpoint = true);
    assert_eq!(common::bits(&plain), common::bits(&again));
    // What all layers share stays as it is where a layer has to.
    let file = golden(EncoderKind::Mpnet);
    let (bert, weights) = encoder(&folder(EncoderKind::Mpnet));
    let some = Bert { freeze: Freeze { embeddings: false, layers: 1 }, ..bert };
    let got = probed(gpu(), some, &weights, &file, gpu().caps().max_binding);
    assert!(got.grads.iter().all(|(name, ..)| name.starts_with("encoder.layer.1.")));
    assert_eq!(got.grads.iter().count(), 16);
}

fn texts_of(name: &str) -> Vec<(String, Vec<u32>)> {
    let all: Value = serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(all["ids"].clone()).unwrap();
    let texts: Vec<String> = serde_json::from_value(all["texts"].clone()).unwrap();
    assert!(texts.len() > 12 && texts.len() == ids.len());
    texts.into_iter().zip(ids).collect()
}

#[test]
fn texts_are_cut_as_transformers_cuts_them() {
    for kind in KINDS {
        let tokenizer = Tokenizer::open(folder(kind)).unwrap();
        assert_eq!(tokenizer.vocabulary(), Pretrained::open(folder(kind)).unwrap().config.vocab);
        for (text, want) in texts_of(&format!("encoder_{}_texts.json", kind.model_type())) {
            assert_eq!(tokenizer.encode(&text, 24).unwrap(), want, "{} of {text:?}", kind.name());
        }
    }
}

/// A copy of a folder, with one file changed.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Every kind is trained, saved, and written back as its own; a run has all that it needs of it.
#[test]
fn every_kind_is_trained_and_written_back() {
    let place = Place::new();
    for kind in KINDS {
        let name = kind.model_type();
        copy(&folder(kind), &place.at(name));
        let line = format!("--data data.safetensors --bert {name} --max-epochs 1");
        place.train("run", &line);
        let typed = place.spoken("run", &["a good film", "", "不 \u{1f600}"]);
        assert!(typed.iter().all(|row| row["score"].as_f64().unwrap().is_finite()));
        fs::remove_dir_all(place.at(name)).unwrap();
        place.ok("export --model run --hf out");
        let exported = Pretrained::open(place.at("out")).unwrap();
        let before = Pretrained::open(folder(kind)).unwrap();
        assert_eq!(exported.config, before.config);
        let (new, old) = (exported.weights().unwrap(), before.weights().unwrap());
        let moved = new.iter().filter(|(name, _, values)| *values != old.get(name).unwrap().1);
        assert!(moved.count() > new.iter().count() / 2, "it was trained");
        let stored = TensorFile::read(&place.at("out/model.safetensors"));
        let own: BTreeSet<String> = new
            .iter()
            .map(|(n, ..)| kind.stored(n))
            .chain(before.pooler().unwrap().iter().map(|(n, ..)| n.into()))
            .collect();
        assert_eq!(stored.tensors.keys().cloned().collect::<BTreeSet<_>>(), own);
        let config: Value =
            serde_json::from_slice(&fs::read(place.at("out/config.json")).unwrap()).unwrap();
        assert_eq!(config["architectures"][0], kind.class());
        // And read once more, frozen, from the files of its kind: what is kept of parts is all of them.
        place.train("next", "--data data.safetensors --bert out --set bert.finetune=false");
        let frozen = folder(kind);
        place.train(
            "still",
            &format!(
                "--data data.safetensors --bert {} --set bert.finetune=false --max-epochs 1",
                frozen.display()
            ),
        );
        place.ok("export --model still --hf same");
        assert!(Pretrained::open(place.at("same")).unwrap().weights().unwrap() == old);
        transformers_reads(&place.at("out"));
        for folder in ["run", "out", "next", "still", "same"] {
            fs::remove_dir_all(place.at(folder)).unwrap();
        }
    }
}

/// Whether AutoModel takes an exported folder without a tensor missing or left over.
fn transformers_reads(folder: &Path) {
    let Some(python) = std::env::var_os("MODALIGN_PYTHON").filter(|v| !v.is_empty()) else {
        return;
    };
    let script = "import sys, transformers as t; m, i = t.AutoModel.from_pretrained(sys.argv[1], \
                  output_loading_info=True); bad = {k: v for k, v in i.items() if v and not all('pooler' in str(x) for x in v)}; \
                  assert not bad, bad";
    let mut check = std::process::Command::new(python);
    let ran = check.args(["-c", script]).arg(folder).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// Models that work inside an encoder take every kind.
#[test]
fn models_inside_an_encoder_take_every_kind() {
    let place = Place::new();
    for kind in KINDS {
        let encoder = folder(kind);
        let line = format!(
            "train --data data.safetensors --bert {} --max-epochs 1 --quiet",
            encoder.display()
        );
        for (model, more) in
            [("bert_mag", "--set model.pool=true"), ("cenet", "--set model.layer=1")]
        {
            place.ok(&format!("{line} --model {model} {more} --out {model}"));
            let scores = place.scores(model, "data.safetensors", SplitName::Test);
            assert!(scores.iter().all(|s| s.is_finite()));
            fs::remove_dir_all(place.at(model)).unwrap();
        }
    }
}

/// Token ids of another vocabulary are translated where that can be known to be right, and else refused.
#[test]
fn ids_of_another_vocabulary_are_never_used() {
    let place = Place::new();
    for kind in KINDS {
        copy(&folder(kind), &place.at(kind.model_type()));
    }
    // BERT's ids of the same pieces: MPNet's less four, and its special tokens'.
    let tokenizer = Tokenizer::open(folder(EncoderKind::Mpnet)).unwrap();
    let bert = |id: u32| match id {
        0 => 101,
        2 => 102,
        id if id as usize == tokenizer.vocabulary() - 1 => 103,
        id => id - 4,
    };
    let with = |name: &str, of: &dyn Fn(u32) -> u32| {
        let mut file = crate::text_place::made();
        for split in SplitName::ALL {
            let ids = tokenizer.encode_all(&sentences(split), 40).unwrap();
            let mut values = vec![0; ids.len() * 120];
            for (row, ids) in values.chunks_mut(120).zip(&ids) {
                for (at, id) in ids.iter().enumerate() {
                    (row[at], row[40 + at]) = (of(*id) as i32, 1);
                }
            }
            file.put_i32(&format!("{split}.text_bert"), &[ids.len(), 3, 40], &values);
        }
        file.save(&place.at(name));
    };
    with("bert.safetensors", &bert);
    with("own.safetensors", &|id| id);
    let scores = |data: &str, more: &str| {
        place.train(
            "run",
            &format!("--data {data} --bert mpnet --max-epochs 1 --set bert.max_tokens=40 {more}"),
        );
        let scores = place.scores("run", data, SplitName::Test);
        fs::remove_dir_all(place.at("run")).unwrap();
        scores
    };
    // Sentences, their own ids and BERT's come to the same.
    let want = scores("data.safetensors", "");
    assert_eq!(scores("own.safetensors", ""), want);
    assert_eq!(scores("bert.safetensors", ""), want);
    let refused = |data: &str, encoder: &str, wanted: &[&str]| {
        let line =
            format!("train --config small.toml --data {data} --bert {encoder} --out no --quiet");
        fails(place.run(&line), 1, wanted);
    };
    refused(
        "bert.safetensors",
        "roberta",
        &["bert.safetensors", "another vocabulary than the RoBERTa", "raw_text"],
    );
    // Without BERT's special tokens at their places nothing is known of the vocabulary.
    let vocab = place.at("mpnet/vocab.txt");
    let text = fs::read_to_string(&vocab).unwrap().replace("[CLS]\n[SEP]\n", "[SEP]\n[CLS]\n");
    fs::write(&vocab, text).unwrap();
    refused("bert.safetensors", "mpnet", &["another vocabulary than the MPNet"]);
}

/// Weights of torch.save, damaged in many ways: an error or a model, and never anything else.
#[test]
fn damaged_weights_of_pytorch_are_refused() {
    let from = folder(EncoderKind::DistilBert);
    let place = tempfile::tempdir().unwrap();
    copy(&from, place.path());
    let (file, opened) =
        (place.path().join("pytorch_model.bin"), Pretrained::open(place.path()).unwrap());
    let right = opened.weights().unwrap();
    let whole = fs::read(&file).unwrap();
    let old = fs::read(path("encoder_distilbert_old.bin")).unwrap();
    fs::write(&file, &old).unwrap();
    assert!(opened.weights().unwrap() == right, "what PyTorch wrote before 1.6");
    for whole in [whole, old] {
        let mut state = 7_u32;
        let mut next = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        let mut refused = 0;
        for turn in 0..1500 {
            let mut bytes = whole.clone();
            match turn % 3 {
                0 => bytes.truncate(next(whole.len())),
                1 => bytes[next(whole.len())] ^= 1 << next(8),
                // Where the descriptions are.
                _ => bytes[next(6000)] = next(256) as u8,
            }
            fs::write(&file, &bytes).unwrap();
            match opened.weights() {
                Ok(found) => assert_eq!(found.iter().count(), right.iter().count()),
                Err(error) => {
                    refused += 1;
                    let error = error.to_string();
                    assert!(
                        error.contains("pytorch_model.bin") && !error.contains('\n'),
                        "{error}"
                    );
                }
            }
        }
        assert!(refused > 500, "{refused}");
    }
}

/// A pickle that calls what it likes is read up to there.
#[test]
fn a_pickle_that_calls_something_else_is_refused() {
    let place = tempfile::tempdir().unwrap();
    copy(&folder(EncoderKind::DistilBert), place.path());
    let bytes = fs::read(path("encoder_distilbert_evil.bin")).unwrap();
    fs::write(place.path().join("pytorch_model.bin"), bytes).unwrap();
    let error = Pretrained::open(place.path()).unwrap().weights().unwrap_err().to_string();
    assert!(error.contains("posix.system") && error.contains("nothing of it was run"), "{error}");
}

/// Hidden states of all-mpnet-base-v2, and how its tokenizer cuts.
#[test]
fn real_mpnet_matches_transformers() {
    let Some(folder) = mpnet() else { return };
    let file = TensorFile::fixture("mpnet_golden.safetensors");
    let (bert, weights) = encoder(&folder);
    let width = bert.shape.hidden;
    let batch = Batch::of(&file);
    let rig = Rig::new(bert, &batch, gpu().caps().max_binding, false);
    let mut tape = Tape::new();
    let (h, _) = rig.record(&mut tape, Reading::All, false);
    tape.keep(h);
    let memory = rig.memory(gpu(), &weights);
    let plan = tape.plan(gpu().caps()).unwrap();
    let program = plan.prepare(gpu(), &memory, &mut Pool::new()).unwrap();
    memory.write_step(gpu(), &Step::default()).unwrap();
    program.run(gpu(), &memory).unwrap();
    let all = program.read(gpu(), &memory, h).unwrap();
    let columns: Vec<usize> = file.i32("columns").iter().map(|c| *c as usize).collect();
    let rows = all.chunks(width).zip(batch.mask()).filter(|(_, mask)| *mask > 0.0);
    let got: Vec<f32> = rows.flat_map(|(row, _)| columns.iter().map(|c| row[*c])).collect();
    let want = file.f32("hidden");
    assert_eq!(got.len(), want.len());
    let gap = largest(&got.iter().zip(&want).map(|(g, w)| g - w).collect::<Vec<_>>());
    println!("states differ by {gap:.1e}");
    assert!(gap < 2e-4, "{gap:e}");

    let tokenizer = Tokenizer::open(&folder).unwrap();
    for (text, want) in texts_of("mpnet_texts.json") {
        assert_eq!(tokenizer.encode(&text, 24).unwrap(), want, "{text:?}");
    }
}
