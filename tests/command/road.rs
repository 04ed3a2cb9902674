//! The whole road of somebody with recordings of their own: a folder in MMSA-FET's layout, its features, a
//! look at them, a model of numbers and one of classes, a score of a new recording, a page.

use crate::ran::Place;
use serde_json::Value;
use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Writes a tone of so many Hz and its octave, 0.4 seconds of 16 bits at 16 kHz, and a little noise.
fn tone(path: &Path, hz: f64, seed: u64) {
    let rate = 16_000_u32;
    let noise = modalign::ops::random(seed, 6_400);
    let samples = noise.iter().enumerate().map(|(n, noise)| {
        let at = TAU * hz * n as f64 / f64::from(rate);
        let value = 0.4 * at.sin() + 0.2 * (2.0 * at).sin() + 0.02 * f64::from(*noise);
        (value * 32_767.0) as i16
    });
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend([rate, 2 * rate].map(u32::to_le_bytes).concat());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// How high a speaker of this mood speaks.
fn pitch(mood: f64) -> f64 {
    300.0 * 2_f64.powf(mood / 2.0)
}

/// So many clips in `Raw`, of eleven videos, and two tables of them: moods from -2 to 2, and which third that
/// is; a table of their words; and recordings that are in none.
pub fn recordings(place: &Place, clips: usize) {
    let mut moods = "video_id,clip_id,text,label,annotation,mode\n".to_string();
    let mut kinds = "id,label,split\n".to_string();
    let mut words = "id,word,start,end\n".to_string();
    let each = clips / 11;
    for clip in 0..clips {
        let (video, number) = (format!("video_{:02}", clip / each), format!("{:04}", clip % each));
        let mode = match clip / each {
            0..5 => "train",
            5..8 => "valid",
            _ => "test",
        };
        let mood = f64::from((clip * 37 % 41) as u8) / 10.0 - 2.0;
        let folder = place.at("Raw").join(&video);
        fs::create_dir_all(&folder).unwrap();
        // Nobody speaks just so high as the mood is: a feature that is the label would be pointed at.
        let other = 0.7 * f64::from(modalign::ops::random(5000 + clip as u64, 1)[0]);
        tone(&folder.join(format!("{number}.wav")), pitch(mood + other), clip as u64);
        let word = if mood < 0.0 { "Negative" } else { "Positive" };
        writeln!(moods, "{video},{number},\"so, {word}\",{mood},{word},{mode}").unwrap();
        let kind = usize::from(mood > -0.7) + usize::from(mood > 0.7);
        writeln!(kinds, "{video}$_${number},{kind},{mode}").unwrap();
        writeln!(words, "{video}$_${number},so,0,0.15\n{video}$_${number},{word},0.15,0.4")
            .unwrap();
    }
    fs::write(place.at("label.csv"), moods).unwrap();
    fs::write(place.at("kinds.csv"), kinds).unwrap();
    fs::write(place.at("words.csv"), words).unwrap();
    tone(&place.at("new.wav"), pitch(0.4), 1000);
    tone(&place.at("high.wav"), pitch(1.8), 1001);
    tone(&place.at("low.wav"), pitch(-1.8), 1002);
}

#[test]
fn from_a_folder_of_recordings_to_a_page() {
    let place = Place::fresh("road");
    recordings(&place, 110);
    let made = place.json("features Raw --labels label.csv --out mine.safetensors --json");
    assert_eq!(made["recordings"].as_array().unwrap().len(), 110);
    let side: Value = serde_json::from_slice(&fs::read(place.at("mine.json")).unwrap()).unwrap();
    assert_eq!(side["valid"]["id"][0], "video_05$_$0000");
    assert!(side["test"]["raw_text"][0].as_str().unwrap().starts_with("so, "), "{side}");

    let seen = place.json("inspect mine.safetensors --json");
    let [train, valid, test] =
        ["train", "valid", "test"].map(|split| seen["splits"][split]["rows"].as_u64());
    assert_eq!([train, valid, test], [Some(50), Some(30), Some(30)]);
    assert_eq!(seen["warnings"], serde_json::json!([]), "a false alarm");

    let train = "--set model.modalities=A --set train.batch_size=16 --set train.lr=0.005 --json";
    let run =
        place.json(&format!("train --data mine.safetensors --model lf_dnn --out moods {train}"));
    assert!(run["test"]["Corr"].as_f64().unwrap() > 0.8, "{run}");
    place.ok("features Raw --labels kinds.csv --out kinds.safetensors --quiet");
    let run =
        place.json(&format!("train --data kinds.safetensors --model lf_dnn --out kinds {train}"));
    assert!(run["test"]["accuracy"].as_f64().unwrap() > 0.6, "{run}");

    // A recording that neither has seen.
    let said = place.json("predict --model moods --audio high.wav --wav low.wav --json");
    let [high, low] = [0, 1].map(|row| said["rows"][row]["score"].as_f64().unwrap());
    assert!(high > 0.5 && low < -0.5, "{said}");
    let said = place.json("predict --model kinds --audio high.wav --wav low.wav --json");
    let [high, low] = [0, 1].map(|row| said["rows"][row]["class"].as_str().unwrap().to_string());
    assert_eq!([high, low], ["class 2", "class 0"], "{said}");

    place.ok("report moods --out moods.html");
    let page = fs::read_to_string(place.at("moods.html")).unwrap();
    assert!(page.contains("video_08$_$0000") || page.contains("so, "), "no sample is named");
}
