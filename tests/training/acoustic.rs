//! Acoustic features by choice: against librosa (tests/fixtures/make_features.py), whatever the blocks; what a
//! data set and a run keep of them; and from a recording to a score in one command.

use crate::common;
use crate::features::{Endless, fixture, golden_in, of_samples, signal};
use common::{gpu, open};
use modalign::features::{Choice, Extractor, Features, Group, HOP, Memory, RATE, Recording};
use modalign::gpu::Family;
use std::f64::consts::TAU;

fn choice(names: &str) -> Choice {
    Choice::of(&names.split(',').collect::<Vec<_>>()).unwrap()
}

/// Every group there is.
fn everything() -> Choice {
    Choice::of(&Group::ALL.map(Group::name)).unwrap()
}

/// Columns of features, row by row.
fn columns(of: &Features, columns: std::ops::Range<usize>) -> Vec<f32> {
    of.values.chunks_exact(of.columns).flat_map(|row| row[columns.clone()].to_vec()).collect()
}

/// Where each group's columns are among others.
fn place(of: &Choice, group: Group) -> std::ops::Range<usize> {
    let before: Vec<&str> =
        of.groups().iter().take_while(|g| **g != group).map(|g| g.name()).collect();
    let first = if before.is_empty() { 0 } else { Choice::of(&before).unwrap().width() };
    first..first + choice(group.name()).width()
}

/// The largest difference, and the same relative to the largest value of the reference.
fn off(got: &[f32], want: &[f32]) -> [f32; 2] {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().zip(want);
    let most = pairs.fold(
        0.0,
        |most: f32, (g, w)| {
            if g.is_nan() { f32::INFINITY } else { most.max((g - w).abs()) }
        },
    );
    let scale = want.iter().fold(1e-9_f32, |most, v| most.max(v.abs()));
    [most, most / scale]
}

/// The pitch and voicing of the reference, where there is one: librosa has a pitch for every step.
fn voiced(reference: &[f32]) -> Vec<f32> {
    let steps = reference.chunks_exact(2).flat_map(|step| {
        // Lags of 36 and of 368 samples are the ends of the range.
        let inside = step[0] > 22_050.0 / 367.6 && step[0] < 22_050.0 / 36.4;
        let voicing = if inside { step[1] } else { 0.0 };
        [if voicing >= 0.5 { step[0] } else { 0.0 }, voicing]
    });
    steps.collect()
}

#[test]
fn chosen_features_are_those_of_the_reference() {
    let all = choice("logmel,rms,centroid,bandwidth,rolloff,flatness,contrast,f0");
    let mut extractor = Extractor::new(gpu()).choosing(all.clone());
    let mut slopes = Extractor::new(gpu()).choosing(choice("rms,mfcc,delta,delta2"));
    let (mut failed, mut compared) = (Vec::new(), 0);
    for name in ["chord", "chirp", "note", "silence", "speech"] {
        let features = |extractor: &mut Extractor| match name {
            "speech" => {
                extractor.extract(&mut Recording::open(fixture("speech.wav")).unwrap()).unwrap()
            }
            name => of_samples(extractor, &signal(name)),
        };
        let (got, sloped) = (features(&mut extractor), features(&mut slopes));
        assert_eq!((got.columns, got.tuning), (all.width(), 0.0));
        let own = all.groups().iter().map(|g| (g.name(), columns(&got, place(&all, *g))));
        let differences =
            [("delta", columns(&sloped, 21..42)), ("delta2", columns(&sloped, 42..63))];
        for (group, got) in own.chain(differences) {
            let Some(want) = golden_in("acoustic.safetensors", &format!("{name}.{group}")) else {
                // Librosa has no differences of so few rows, and the file not all bands of all signals.
                assert!(group == "logmel" || group.starts_with("delta"), "{name}.{group}");
                continue;
            };
            let want = if group == "f0" { voiced(&want) } else { want };
            let [most, relative] = off(&got, &want);
            println!("{name}.{group}: {most:e}, of the largest {relative:e}");
            compared += 1;
            // Voicing is compared beside frequencies: a difference in it is of 1.
            let voicing = (group == "f0").then(|| {
                let of = |v: &[f32]| v.chunks_exact(2).map(|v| v[1]).collect::<Vec<_>>();
                off(&of(&got), &of(&want))[0]
            });
            // Between the partials of pure tones lies the rounding of a transform, f64 there and f32 here:
            // valleys are made of nothing else, and what is far from the middle counts by its square.
            let limit = match (name, group) {
                ("chord" | "chirp" | "note", "contrast") => 0.2,
                ("chord" | "chirp" | "note", "bandwidth") => 5e-3,
                _ => 1e-3,
            };
            if relative > limit || voicing.is_some_and(|off| off > 1e-3) {
                failed.push(format!("{name}.{group}: {most:e}, {relative:e}, {voicing:?}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(compared, 5 * 7 + 3 + 2 * 3);
}

#[test]
fn a_pitch_is_where_something_repeats() {
    let mut extractor = Extractor::new(gpu()).choosing(choice("f0"));
    let mut of = |sample: &dyn Fn(f64) -> f64| {
        let wave: Vec<f32> =
            (0..RATE / 2).map(|n| sample(f64::from(n) / f64::from(RATE)) as f32).collect();
        of_samples(&mut extractor, &wave).values
    };
    for hz in [80.0, 147.3, 220.0, 441.0] {
        let voice =
            |t: f64| (1..6).map(|k| 0.2 / f64::from(k) * (TAU * hz * f64::from(k) * t).sin()).sum();
        for step in of(&voice).chunks_exact(2).skip(2).take(17) {
            assert!((f64::from(step[0]) / hz - 1.0).abs() < 2e-3, "{hz} Hz: {step:?}");
            assert!(step[1] > 0.99, "{hz} Hz: {step:?}");
        }
    }
    // Silence, a constant, a slow swell and noise have none.
    let mut state = 1_u32;
    let noise: Vec<f64> = (0..RATE)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        })
        .collect();
    let hiss = |t: f64| noise[(t * f64::from(RATE)).round() as usize];
    let still: [&dyn Fn(f64) -> f64; 4] =
        [&|_| 0.0, &|_| 0.3, &|t| 0.5 * (TAU * 7.0 * t).sin(), &hiss];
    for (i, sound) in still.into_iter().enumerate() {
        // The ends of a constant are steps, of which nothing is asked.
        for step in of(sound).chunks_exact(2).skip(2).take(17) {
            assert_eq!(step[0], 0.0, "sound {i}: {step:?}");
        }
    }
}

#[test]
fn what_else_is_chosen_changes_no_column() {
    let all = everything();
    let wave = signal("chirp");
    let whole = of_samples(&mut Extractor::new(gpu()).choosing(all.clone()), &wave);
    assert_eq!(whole.columns, all.width());
    let usual = of_samples(&mut Extractor::new(gpu()), &wave);
    assert!(columns(&whole, 0..33) == usual.values);
    assert_eq!((usual.columns, whole.tuning), (33, usual.tuning));
    for group in Group::ALL.into_iter().filter(|g| !g.name().starts_with("delta")) {
        let alone = of_samples(&mut Extractor::new(gpu()).choosing(choice(group.name())), &wave);
        assert!(alone.values == columns(&whole, place(&all, group)), "{}", group.name());
    }
}

#[test]
fn blocks_and_families_make_no_difference_to_any_feature() {
    // 9 s that never repeat: a block of 32 frames is run a dozen times.
    let wave: Vec<f32> = (0..9 * RATE)
        .map(|n| {
            let t = f64::from(n) / f64::from(RATE);
            let voice = (TAU * (150.0 * t + 30.0 * (0.7 * t).sin())).sin();
            (0.3 * voice + 0.2 * (TAU * 41.0 * t * t).sin()) as f32
        })
        .collect();
    let all = everything();
    let whole = of_samples(&mut Extractor::with_blocks(gpu(), &[512]).choosing(all.clone()), &wave);
    let small = of_samples(&mut Extractor::with_blocks(gpu(), &[32]).choosing(all.clone()), &wave);
    for (i, name) in all.columns().iter().enumerate() {
        assert!(columns(&small, i..i + 1) == columns(&whole, i..i + 1), "{name}");
    }
    // Without anything that the whole recording decides, in a single pass.
    let once = choice("rms,contrast,f0");
    let small = of_samples(&mut Extractor::with_blocks(gpu(), &[32]).choosing(once.clone()), &wave);
    for group in once.groups() {
        let got = columns(&small, place(&once, *group));
        assert!(got == columns(&whole, place(&all, *group)), "{}", group.name());
    }
    for family in [Family::Tiled, Family::Plain] {
        let other = open(Some(family));
        let got = of_samples(&mut Extractor::new(&other).choosing(all.clone()), &wave);
        for group in all.groups().iter().filter(|g| !g.name().starts_with("delta")) {
            let at = place(&all, *group);
            let [_, relative] = off(&columns(&got, at.clone()), &columns(&whole, at));
            assert!(relative < 1e-4, "{} on {family}: {relative:e}", group.name());
        }
    }
}

#[test]
fn a_long_recording_takes_no_more_room_for_other_features() {
    let gpu = open(None);
    let all = everything();
    let mut extractor = Extractor::with_blocks(&gpu, &[64]).choosing(all);
    let mut resources = |frames: usize| {
        let features = extractor.extract(&mut Endless(frames * HOP)).unwrap();
        assert_eq!(features.frames(), frames + 1);
        gpu.wait().unwrap();
        gpu.resources()
    };
    let few = resources(3 * 64);
    assert_eq!(resources(20 * 64), few);
    // Three more than the usual ones have: loudness, pitch, the shape of spectra.
    assert_eq!(extractor.dispatches().unwrap(), [2, 15]);
    let dispatches =
        |names: &str| Extractor::new(&gpu).choosing(choice(names)).dispatches().unwrap();
    assert_eq!(dispatches("zcr"), [0, 0]);
    assert_eq!(dispatches("f0"), [0, 1]);
    assert_eq!(dispatches("centroid,contrast"), [1, 1]);
}

#[test]
fn samples_that_overflow_are_refused_whatever_is_chosen() {
    for names in ["rms", "f0", "centroid", "flatness,contrast", "logmel", "chroma"] {
        let mut extractor = Extractor::new(gpu()).choosing(choice(names));
        let error = extractor.extract(&mut Memory::new(&[3e38; 4000])).unwrap_err().to_string();
        assert!(error.contains("too large"), "{names}: {error}");
    }
}

// ---- the commands -----------------------------------------------------------------------------

#[cfg(feature = "cli")]
mod command {
    use super::*;
    use crate::features::command::clips;
    use crate::features::pcm;
    use crate::ran::{Place, fails};
    use crate::text_place;
    use modalign::data::{Dataset, Modality, SplitName};
    use serde_json::Value;

    /// Clips, and a table of their labels with what is said in them.
    fn labelled(place: &Place, count: usize) -> Vec<String> {
        let known = clips(place.root(), count, "known");
        let mut table = "id,label,split,text\n".to_string();
        for (i, (id, label)) in known.iter().enumerate() {
            let split = ["train", "train", "train", "valid", "test"][i % 5];
            let said = if *label > 0.0 { "a good film" } else { "a bad film" };
            table += &format!("{id},{label},{split},{said}\n");
        }
        std::fs::write(place.at("labels.csv"), table).unwrap();
        known.into_iter().map(|(id, _)| id).collect()
    }

    fn rows(said: &Value) -> Vec<(String, f64)> {
        let rows = said["rows"].as_array().unwrap().iter();
        rows.map(|r| (r["id"].as_str().unwrap().into(), r["score"].as_f64().unwrap())).collect()
    }

    #[test]
    fn chosen_columns_are_named_and_kept() {
        let place = Place::fresh("acoustic_table");
        std::fs::copy(fixture("speech.wav"), place.at("speech.wav")).unwrap();
        place.ok("features speech.wav --features f0,rms,delta --out a.csv");
        let text = std::fs::read_to_string(place.at("a.csv")).unwrap();
        assert!(text.starts_with("f0,voicing,rms,delta_f0,delta_voicing,delta_rms\n"), "{text}");
        assert_eq!(text.lines().nth(9).unwrap().split(',').count(), 6);
        let said = place.json("features speech.wav --features logmel --out a.npy --json");
        assert_eq!((&said["columns"], &said["features"]), (&128.into(), &"logmel".into()));

        place.ok("features speech.wav --features contrast,zcr --out a.safetensors");
        let data = Dataset::open(place.at("a.safetensors")).unwrap();
        // The same recordings are the same file.
        place.ok("features speech.wav --features contrast,zcr --out b.safetensors");
        let bytes = |name: &str| std::fs::read(place.at(name)).unwrap();
        assert!(bytes("a.safetensors") == bytes("b.safetensors"));
        let made = data.acoustic().unwrap();
        assert_eq!(made.groups, ["contrast", "zcr"]);
        assert_eq!((made.columns.len(), made.rate, made.hop), (8, 22_050, 512));
        assert_eq!(made.columns[6..], ["spectral_contrast_6", "zero_crossing_rate"]);
        let shown = place.ok("inspect a.safetensors");
        assert!(shown.contains("Audio features: contrast, zcr; every 512 samples"), "{shown}");
        let shown = place.json("inspect a.safetensors --json");
        assert_eq!(shown["audio_features"]["groups"][1], "zcr");
        // A side file of other numbers than there are is another set's, and says nothing.
        let side = std::fs::read_to_string(place.at("a.json")).unwrap();
        std::fs::write(place.at("a.json"), side.replace(",\"zero_crossing_rate\"", "")).unwrap();
        assert!(Dataset::open(place.at("a.safetensors")).unwrap().acoustic().is_none());

        for (names, wanted) in [
            ("mfc", "no features are called 'mfc'; did you mean 'mfcc'?"),
            ("f0,f0", "named twice"),
            ("delta", "differences of other features"),
        ] {
            let line = format!("features speech.wav --features {names} --out x.csv");
            fails(place.run(&line), 2, &[wanted]);
            assert!(!place.at("x.csv").exists());
        }
    }

    #[test]
    fn a_recording_is_scored_as_its_row_is() {
        let place = Place::fresh("acoustic_predict");
        let ids = labelled(&place, 40);
        clips(place.root(), 2, "new");
        let make = "features known --labels labels.csv --features mfcc,f0,contrast,delta";
        place.ok(&format!("{make} --out mine.safetensors --quiet"));
        let train = "train --data mine.safetensors --preset sims --set model.modalities=A \
                     --set train.max_epochs=2 --set train.batch_size=4 --quiet";
        place.ok(&format!("{train} --set train.normalize=true --out run"));
        // One that averages over all steps, those past a recording's end among them.
        place.ok(&format!("{train} --model lf_dnn --out means"));

        // By way of a data set, to the last digit; the model file alone is enough.
        place.ok("features new/new01.wav --features mfcc,f0,contrast,delta --out new.safetensors");
        let by_data = rows(&place.json("predict --model run --data new.safetensors --json"));
        let model = "run/model.safetensors";
        let heard = place.json(&format!("predict --model {model} --audio new/new01.wav --json"));
        let heard = rows(&heard);
        assert_eq!((heard[0].0.as_str(), heard.len()), ("new/new01.wav", 1));
        assert_eq!(heard[0].1, by_data[0].1);

        // The rows of the set itself, as many as they are.
        for run in ["run", "means"] {
            let known = rows(&place.json(&format!("predict --model {run} --json")));
            let test: Vec<&String> = ids.iter().skip(4).step_by(5).collect();
            let files: Vec<String> =
                test.iter().map(|id| format!("--wav known/{id}.wav")).collect();
            let heard = place.json(&format!("predict --model {run} {} --json", files.join(" ")));
            let heard = rows(&heard);
            assert_eq!((known.len(), heard.len()), (8, 8));
            for ((id, known), (path, heard)) in known.iter().zip(&heard) {
                assert!(path.contains(id), "{path} {id}");
                assert!((known - heard).abs() < 1e-5, "{run}, {id}: {known} {heard}");
            }
        }

        // A longer recording than the model has seen is cut, as the data set's are.
        let steps = Dataset::open(place.at("mine.safetensors")).unwrap();
        let steps = steps.split(SplitName::Test).unwrap().stream(Modality::Audio).unwrap().steps;
        let long = pcm(16_000, (0..48_000_u32).map(|n| 0.4 * (f64::from(n * n) / 3e6).sin()));
        std::fs::write(place.at("long.wav"), long).unwrap();
        let cut = format!("--features mfcc,f0,contrast,delta --max-steps {steps}");
        place.ok(&format!("features long.wav {cut} --out long.safetensors"));
        let by_data = rows(&place.json("predict --model run --data long.safetensors --json"));
        let heard = place.run("predict --model run --audio long.wav --json");
        assert!(heard.err.contains(&format!("the model reads the first {steps}")), "{}", heard.err);
        assert_eq!(rows(&serde_json::from_str(&heard.out).unwrap())[0].1, by_data[0].1);

        // Other features of the same width are not taken for these.
        let other = "features new/new01.wav --features mfcc,rms,flatness,contrast,delta";
        place.ok(&format!("{other} --out other.safetensors --quiet"));
        let refused = place.run("predict --model run --data other.safetensors");
        fails(refused, 1, &["its audio are the features mfcc,rms,flatness,contrast,delta"]);
        let gone = place.run("predict --model run --audio gone.wav");
        fails(gone, 1, &["cannot read gone.wav"]);
        let both = place.run("predict --model run --audio a.wav --data new.safetensors");
        fails(both, 2, &["--audio", "--data"]);
        let text = place.run("predict --model run --audio new/new00.wav --text film");
        fails(text, 2, &["reads no text: leave out --text"]);
    }

    #[test]
    fn a_model_of_other_audio_is_refused_in_a_sentence() {
        let place = Place::fresh("acoustic_refused");
        place.ok(crate::ran::SMALL);
        clips(place.root(), 1, "new");
        let train = "train --data small.safetensors --set train.max_epochs=1 --quiet";
        place.ok(&format!("{train} --set model.modalities=A --out heard"));
        place.ok(&format!("{train} --set model.modalities=V --out seen"));
        for (run, wanted) in [
            ("heard", "was trained on audio that modalign features did not make"),
            ("seen", "reads no audio"),
        ] {
            let refused = place.run(&format!("predict --model {run} --audio new/new00.wav"));
            fails(refused, 2, &[wanted]);
        }
    }

    #[test]
    fn what_is_said_goes_with_what_is_heard() {
        let place = text_place::Place::new();
        let own = Place::fresh("acoustic_text");
        let ids = labelled(&own, 20);
        let at = |name: &str| own.at(name).display().to_string();
        let (known, labels) = (at("known"), at("labels.csv"));
        place.ok(&format!("features {known} --labels {labels} --out heard.safetensors --quiet"));
        place.train("both", "--data heard.safetensors --bert encoder --set train.max_epochs=1");
        let known = place.json("predict --model both --data heard.safetensors --split test");
        let known = rows(&known);
        let wavs: Vec<String> =
            ids.iter().skip(4).step_by(5).map(|id| at(&format!("known/{id}.wav"))).collect();
        let table = std::fs::read_to_string(&labels).unwrap();
        let said = |id: &String| {
            let line = table.lines().find(|line| line.starts_with(id.as_str())).unwrap();
            line.rsplit(',').next().unwrap().to_string()
        };
        let mut command = place.command("predict --model both --json");
        command.args(wavs.iter().flat_map(|wav| ["--audio", wav.as_str()]));
        let texts: Vec<String> = ids.iter().skip(4).step_by(5).map(said).collect();
        command.args(texts.iter().flat_map(|text| ["--text", text.as_str()]));
        let ran = crate::ran::Ran::from(command.output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let heard = rows(&serde_json::from_str(&ran.out).unwrap());
        assert_eq!((heard.len(), known.len()), (4, 4));
        for ((id, known), (path, heard)) in known.iter().zip(&heard) {
            assert!(path.contains(id), "{path} {id}");
            assert!((known - heard).abs() < 1e-5, "{id}: {known} {heard}");
        }
        let alone = place.run(&format!("predict --model both --audio {}", wavs[0]));
        fails(alone, 2, &["reads text, too: give what is said in each recording with --text"]);
        let line =
            format!("predict --model both --audio {} --audio {} --text one", wavs[0], wavs[1]);
        fails(place.run(&line), 2, &["needs a --text for each --audio: 1 for 2"]);
    }
}
