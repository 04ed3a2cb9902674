//! Acoustic features: against librosa (tests/fixtures/make_features.py), whatever the blocks; what
//! becomes of bad files; and from recordings to a trained model by the command line.

use crate::{common, ran};
use modalign::Result;
use modalign::data::SplitName;
use modalign::features::{
    COLUMNS, Choice, Clip, Collection, Extractor, Features, HOP, Memory, RATE, Recording, Signal,
    read_labels,
};
use modalign::gpu::Family;
use safetensors::SafeTensors;
use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

#[cfg(feature = "cli")]
use common::{gpu, open};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tensor of the reference.
fn golden(name: &str) -> Vec<f32> {
    golden_in("features.safetensors", name).unwrap()
}

/// A tensor of a file of the reference, where it is there.
pub fn golden_in(file: &str, name: &str) -> Option<Vec<f32>> {
    let bytes = std::fs::read(fixture(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensor(name).ok().map(|tensor| bytemuck::pod_collect_to_vec(tensor.data()))
}

/// The signals of the reference, by its formulas.
pub fn signal(name: &str) -> Vec<f32> {
    let second = || (0..RATE).map(|n| f64::from(n) / f64::from(RATE));
    match name {
        "chord" => second()
            .map(|t| {
                let tone = |hz: f64| (TAU * hz * 2_f64.powf(0.15 / 12.0) * t).sin();
                let sum: f64 = [261.6255653, 329.6275569, 391.995436].map(tone).iter().sum();
                (sum * 0.2 * (-2.0 * t).exp()) as f32
            })
            .collect(),
        "chirp" => {
            let rate = 80_f64.ln();
            second()
                .map(|t| (0.5 * (TAU * 100.0 * (rate * t).exp_m1() / rate).sin()) as f32)
                .collect()
        }
        "note" => (0..700)
            .map(f64::from)
            .map(|n| {
                let tone = (TAU * 700.0 * n / f64::from(RATE)).sin();
                (0.9 * tone * (TAU / 2.0 * n / 700.0).sin().powi(2)) as f32
            })
            .collect(),
        "silence" => vec![0.0; 3000],
        other => panic!("no signal {other}"),
    }
}

pub fn of_samples(extractor: &mut Extractor, samples: &[f32]) -> Features {
    extractor.extract(&mut Memory::new(samples)).unwrap()
}

/// The largest differences of the zero-crossing rate, the MFCC (absolute, and relative to the
/// largest of the recording) and the chroma.
pub fn differences(got: &[f32], want: &[f32]) -> [f32; 4] {
    assert_eq!(got.len(), want.len());
    let largest = |columns: std::ops::Range<usize>| {
        let off =
            got.iter().zip(want).enumerate().filter(|(i, _)| columns.contains(&(i % COLUMNS)));
        off.map(|(_, (g, w))| if g.is_nan() { f32::INFINITY } else { (g - w).abs() })
            .fold(0.0, f32::max)
    };
    let scale = want
        .chunks_exact(COLUMNS)
        .flat_map(|row| &row[1..21])
        .fold(1e-9_f32, |most, v| most.max(v.abs()));
    [largest(0..1), largest(1..21), largest(1..21) / scale, largest(21..33)]
}

#[test]
fn features_are_those_of_the_reference() {
    let gpu = gpu();
    let mut extractor = Extractor::new(gpu);
    let mut failed = Vec::new();
    for name in ["chord", "chirp", "note", "silence", "speech"] {
        let got = match name {
            "speech" => {
                extractor.extract(&mut Recording::open(fixture("speech.wav")).unwrap()).unwrap()
            }
            name => of_samples(&mut extractor, &signal(name)),
        };
        let off = differences(&got.values, &golden(name));
        let tuning = (got.tuning, golden(&format!("{name}.tuning"))[0]);
        println!("{name}: {off:?}, tuning {tuning:?}");
        if off[0] > 0.0 || off[1] > 2e-3 || off[2] > 1e-5 || off[3] > 1e-3 {
            failed.push(name);
        }
        assert!((tuning.0 - f64::from(tuning.1)).abs() < 1e-6, "{name}: {tuning:?}");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_c_sounds_as_a_c_in_every_octave() {
    let mut extractor = Extractor::new(gpu());
    for octave in 2..=6 {
        for note in [0, 4, 9] {
            let hz = 440.0 * 2_f64.powf(f64::from(12 * (octave + 1) + note - 69) / 12.0);
            let tone =
                (0..RATE).map(|n| (0.5 * (TAU * hz * f64::from(n) / f64::from(RATE)).sin()) as f32);
            let got = of_samples(&mut extractor, &tone.collect::<Vec<_>>());
            let row = &got.values[20 * COLUMNS..21 * COLUMNS];
            let loudest = (0..12).max_by(|a, b| row[21 + a].total_cmp(&row[21 + b]));
            assert_eq!(loudest, Some(note as usize), "{hz} Hz: {:?}", &row[21..]);
            assert_eq!(row[21 + note as usize], 1.0);
            let crossings = 2.0 * hz / f64::from(RATE);
            assert!((f64::from(row[0]) - crossings).abs() < 1.5e-3, "{hz} Hz: {}", row[0]);
        }
    }
}

#[test]
fn blocks_and_families_make_no_difference() {
    // 43 s of sound that never repeats: a block of 32 frames is run 58 times.
    let wave: Vec<f32> = (0..43 * RATE)
        .map(|n| {
            let t = f64::from(n) / f64::from(RATE);
            let glide = (TAU * (200.0 * t + 900.0 * (0.7 * t).sin())).sin();
            (0.3 * glide + 0.2 * (TAU * 41.0 * t * t).sin()) as f32
        })
        .collect();
    let whole = of_samples(&mut Extractor::with_blocks(gpu(), &[2048]), &wave);
    assert_eq!(whole.frames(), 1 + wave.len() / HOP);
    let check = |got: &Features, what: &str, most: f32| {
        let off = differences(&got.values, &whole.values);
        println!("{what}: {off:?}");
        assert_eq!(got.tuning, whole.tuning, "{what}");
        assert!(off[0] == 0.0 && off[2] <= most && off[3] <= most, "{what}: {off:?}");
    };
    check(&of_samples(&mut Extractor::with_blocks(gpu(), &[32]), &wave), "blocks of 32", 0.0);
    check(&of_samples(&mut Extractor::new(gpu()), &wave), "blocks of 512", 0.0);
    for family in [Family::Tiled, Family::Plain] {
        let other = open(Some(family));
        check(&of_samples(&mut Extractor::new(&other), &wave), &family.to_string(), 1e-4);
    }
}

/// Silence of any length, read without ever being held.
pub struct Endless(pub usize);

impl Signal for Endless {
    fn len(&self) -> usize {
        self.0
    }
    fn read(&mut self, to: &mut [f32]) -> Result<()> {
        to.iter_mut().enumerate().for_each(|(i, x)| *x = if i % 7 == 0 { 0.25 } else { -0.25 });
        Ok(())
    }
    fn rewind(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_long_recording_allocates_nothing_on_the_device() {
    let gpu = open(None);
    let mut extractor = Extractor::with_blocks(&gpu, &[64]);
    let mut resources = |frames: usize| {
        let features = extractor.extract(&mut Endless(frames * HOP)).unwrap();
        assert_eq!(features.frames(), frames + 1);
        gpu.wait().unwrap();
        gpu.resources()
    };
    let few = resources(3 * 64);
    assert_eq!(resources(20 * 64), few);
    assert_eq!(extractor.dispatches().unwrap(), [2, 12]);
}

#[test]
fn values_that_overflow_are_refused() {
    let mut extractor = Extractor::new(gpu());
    let error = extractor.extract(&mut Memory::new(&[3e38; 4000])).unwrap_err().to_string();
    assert!(error.contains("too large"), "{error}");
    let error = extractor.extract(&mut Memory::new(&[])).unwrap_err().to_string();
    assert!(error.contains("without a sample"), "{error}");
}

// ---- files ------------------------------------------------------------------------------------

/// A wav file: chunks `fmt ` and `data`, whose length may be a lie.
fn wav(kind: u16, channels: u16, rate: u32, bits: u16, data: &[u8], said: u32) -> Vec<u8> {
    let align = channels * bits / 8;
    let mut file = b"RIFF".to_vec();
    file.extend((36_u32.wrapping_add(said)).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(kind.to_le_bytes());
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend(rate.wrapping_mul(u32::from(align)).to_le_bytes());
    file.extend(align.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend(said.to_le_bytes());
    file.extend(data);
    file
}

pub fn pcm(rate: u32, samples: impl IntoIterator<Item = f64>) -> Vec<u8> {
    let data: Vec<u8> =
        samples.into_iter().flat_map(|x| ((x * 32767.0) as i16).to_le_bytes()).collect();
    wav(1, 1, rate, 16, &data, data.len() as u32)
}

#[test]
fn every_encoding_means_the_same_samples() {
    let folder = tempfile::tempdir().unwrap();
    let steps: Vec<i32> = (0..600).map(|n| (n * 37 % 256) - 128).collect();
    let encode =
        |bytes: fn(i32) -> Vec<u8>| steps.iter().flat_map(|s| bytes(*s)).collect::<Vec<u8>>();
    // Each of the values is exact in eight bits; the second channel is the first one backwards.
    let files = [
        (1, 1, 8, encode(|s| vec![(s + 128) as u8])),
        (1, 1, 16, encode(|s| ((s << 8) as i16).to_le_bytes().to_vec())),
        (1, 1, 24, encode(|s| (s << 16).to_le_bytes()[..3].to_vec())),
        (1, 1, 32, encode(|s| (s << 24).to_le_bytes().to_vec())),
        (3, 1, 32, encode(|s| (s as f32 / 128.0).to_le_bytes().to_vec())),
        (1, 2, 16, encode(|s| [((s << 8) as i16).to_le_bytes(); 2].concat())),
    ];
    let path = folder.path().join("a.wav");
    for (kind, channels, bits, data) in files {
        std::fs::write(&path, wav(kind, channels, RATE, bits, &data, data.len() as u32)).unwrap();
        let mut recording = Recording::open(&path).unwrap();
        let mut got = vec![0.0; recording.len()];
        recording.read(&mut got).unwrap();
        let want: Vec<f32> = steps.iter().map(|s| *s as f32 / 128.0).collect();
        assert_eq!(got, want, "{bits} bits, {channels} channels");
    }
}

#[test]
fn another_rate_gives_nearly_the_same_features() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.wav");
    let wave = |rate: u32| {
        (0..2 * rate).map(move |n| {
            let t = f64::from(n) / f64::from(rate);
            (TAU / 4.0 * t).sin() * 0.4 * (TAU * (300.0 * t + 400.0 * t * t)).sin()
        })
    };
    let mut extractor = Extractor::new(gpu());
    let mut features = |rate: u32| {
        std::fs::write(&path, pcm(rate, wave(rate))).unwrap();
        extractor.extract(&mut Recording::open(&path).unwrap()).unwrap()
    };
    let own = features(RATE);
    for rate in [44_100, 48_000] {
        let got = features(rate);
        assert_eq!(got.frames(), own.frames());
        let off = differences(&got.values, &own.values);
        println!("{rate}: {off:?}");
        // What lies above the signal is rounding to 16 bits, which the MFCC see.
        assert!(off[0] < 5e-3 && off[3] < 2e-2, "{rate}: {off:?}");
    }
}

#[test]
fn bad_files_end_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.wav");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Recording::open(&path).and_then(|mut r| Extractor::new(gpu()).extract(&mut r))
    };
    let good = pcm(RATE, (0..3000).map(|n| f64::from(n % 50) / 50.0));
    assert!(open(&good).is_ok());
    let float = |x: f32| wav(3, 1, RATE, 32, &x.to_le_bytes(), 4);
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("empty", vec![], "empty"),
        (
            "not a wav",
            b"ID3 this is music, but not of this kind".to_vec(),
            "not a FLAC, Ogg or MP3 file",
        ),
        ("a stub", b"RIFF".to_vec(), "cut short"),
        ("cut", good[..2000].to_vec(), "cut short"),
        ("no sample", wav(1, 1, RATE, 16, &[], 0), "no sample"),
        ("4 GB said", wav(1, 1, RATE, 16, &[0; 64], 1 << 30), "cut short"),
        ("a rate of 1", wav(1, 1, 1, 16, &[0; 64], 64), "samples a second"),
        ("no rate", wav(1, 1, 0, 16, &[0; 64], 64), "samples a second"),
        ("12 bits", wav(1, 1, RATE, 12, &[0; 64], 64), "convert it"),
        ("mp3 inside", wav(85, 1, RATE, 16, &[0; 64], 64), "convert it"),
        ("NaN", float(f32::NAN), "is NaN"),
        ("too loud", float(-1e30), "full scale"),
    ];
    for (what, bytes, wanted) in cases {
        let error = open(&bytes).err().map(|e| e.to_string()).unwrap_or_default();
        let clear = error.contains(wanted) && error.contains("bad.wav") && !error.contains('\n');
        assert!(clear, "{what}: {error}");
    }
    // Whatever byte of the header is wrong, and wherever the file ends: an error or features.
    for at in 0..44 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            std::fs::write(&path, &bytes).unwrap();
            let mut read = vec![0.0; 8192];
            let _ = Recording::open(&path).and_then(|mut r| {
                let count = r.len().min(read.len());
                r.read(&mut read[..count])
            });
        }
        assert!(open(&good[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn tables_of_labels_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels.csv");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_labels(&path).map_err(|e| e.to_string())
    };
    let labels =
        read("id,speaker,label,split,text\na,x,-0.5,train,\"yes, well\"\nb,y,1,,\n").unwrap();
    assert_eq!(labels.unread, ["speaker"]);
    let labels = labels.rows;
    assert_eq!((labels["a"].value, labels["b"].value), (-0.5, 1.0));
    assert_eq!(labels["a"].text.as_deref(), Some("yes, well"));
    assert_eq!((labels["b"].split, labels["b"].text.as_deref()), (None, None));
    for (text, wanted) in [
        ("name,label\na,1\n", "wanted id (or video_id and clip_id) and label"),
        ("id,label\na,good\n", "line 2: 'good' is no label"),
        ("id,label\na,1\na,2\n", "line 3: 'a' comes a second time"),
        ("id,label,split\na,1,some\n", "line 2: split 'some'"),
        ("id,label\na,1,2,3\n", "line 2"),
        ("id,label\n,1\n", "line 2: no id"),
        ("id,label\na,inf\n", "no label"),
        // A fault is in the line that an editor shows, also where lines end as Windows has it.
        ("id,label\r\na,1\r\nb,2\r\nc,no\r\n", "line 4: 'no'"),
    ] {
        let error = read(text).map(|_| ()).unwrap_err();
        assert!(error.contains(wanted) && error.contains("labels.csv"), "{error}");
    }
}

#[test]
fn tables_of_mmsa_are_read_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("label.csv");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_labels(&path).unwrap()
    };
    let table = read(
        "\u{feff}video_id,clip_id,text,label,label_T,annotation,mode\r\n\
         video_0001,0001,我很喜欢,-1,-1,Negative,train\r\nvideo_0001,0002.WAV,b,0.4,0.4,Positive,valid\r\n",
    );
    assert_eq!(table.unread, ["annotation"]);
    let ids: Vec<&str> = table.rows.keys().map(String::as_str).collect();
    assert_eq!(ids, ["video_0001$_$0001", "video_0001$_$0002"]);
    let second = &table.rows["video_0001$_$0002"];
    assert_eq!((second.value, second.split), (0.4, Some(SplitName::Valid)));
    assert_eq!(second.unimodal, [Some(0.4), None, None]);
    // What some recordings lack is of no use to a model, and is said.
    let some = read("id,label,label_T,label_V\na,1,0.5,0.25\nb,-1,,-0.25\n");
    assert_eq!(some.unread, ["label_T (1 of 2 rows have none)"]);
    assert_eq!(some.rows["a"].unimodal, [None, None, Some(0.25)]);
    std::fs::write(&path, "id,label,label_A\na,1,no\n").unwrap();
    let error = read_labels(&path).unwrap_err().to_string();
    assert!(error.contains("line 2: 'no' is no label"), "{error}");
    let table = read("id;label;mode\na.wav;1;dev\nb.flac;2;Test\nc.1;3;\n");
    let parts: Vec<_> = table.rows.iter().map(|(id, row)| (id.as_str(), row.split)).collect();
    let (valid, test) = (Some(SplitName::Valid), Some(SplitName::Test));
    assert_eq!(parts, [("a", valid), ("b", test), ("c.1", None)]);
    assert!(table.unread.is_empty());
}

#[test]
fn labels_of_one_modality_alone_are_written() {
    let clip = |id: &str, value: f32| Clip {
        id: id.into(),
        split: SplitName::Test,
        features: Features { values: vec![value; 33], columns: 33, tuning: 0.0, samples: 1 },
        label: Some(value),
        unimodal: [Some(value / 2.0), Some(-value), None],
        text: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.safetensors");
    let clips = vec![clip("a", 1.0), clip("b", -0.5)];
    Collection { clips, choice: Choice::default() }.write(&path, 9).unwrap();
    let data = modalign::data::Dataset::open(&path).unwrap();
    let test = data.split(SplitName::Test).unwrap();
    let [text, audio, vision] = modalign::data::Modality::KNOWN.map(|m| test.unimodal_labels(m));
    assert_eq!((text, audio, vision), (Some(&[0.5, -0.25][..]), Some(&[-1.0, 0.5][..]), None));
}

#[test]
fn nothing_to_write_is_an_error() {
    let error = Collection::default().write("x.safetensors", 9).unwrap_err().to_string();
    assert!(error.contains("no recording"), "{error}");
}

// ---- the command ------------------------------------------------------------------------------

#[cfg(feature = "cli")]
pub mod command {
    use super::*;
    use modalign::data::{Dataset, Modality};
    use ran::{Place, fails};

    /// Clips whose pitch says what their label is, of 0.4 to 0.8 s.
    pub fn clips(folder: &Path, count: usize, name: &str) -> Vec<(String, f64)> {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        (0..count)
            .map(|i| {
                let label = (i * 7 % 11) as f64 / 5.0 - 1.0;
                let (id, hz) = (format!("{name}{i:02}"), 300.0 * 2_f64.powf(label));
                let samples = (0..6400 + 200 * (i as u32 * 5 % 32))
                    .map(|n| 0.4 * (TAU * hz * f64::from(n) / 16_000.0).sin());
                let path = folder.join(name).join(&id).with_extension("wav");
                std::fs::write(path, pcm(16_000, samples)).unwrap();
                (id, label)
            })
            .collect()
    }

    #[test]
    fn from_recordings_to_a_model_and_back() {
        let place = Place::fresh("features_model");
        let folder = place.root();
        let known = clips(folder, 44, "known");
        clips(folder, 3, "new");
        let mut table = "id,label,split\n".to_string();
        for (i, (id, label)) in known.iter().enumerate() {
            let split = if i < 30 {
                "train"
            } else if i < 36 {
                "valid"
            } else {
                "test"
            };
            table += &format!("{id},{label},{split}\n");
        }
        std::fs::write(folder.join("labels.csv"), table).unwrap();

        let out = place.ok("features known --labels labels.csv --out mine.safetensors");
        assert!(out.contains("train") && out.contains("44 recordings"), "{out}");
        let data = Dataset::open(folder.join("mine.safetensors")).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let audio = train.stream(Modality::Audio).unwrap();
        assert_eq!((train.rows(), audio.dim), (30, COLUMNS));
        assert_eq!(train.ids().unwrap()[1], "known01");
        assert_eq!(train.labels().unwrap()[1], known[1].1 as f32);
        let last: f32 = audio.frame(0, audio.len(0) - 1).map(f32::abs).sum();
        assert!(last > 1.0, "the last step is of the recording");
        let past = (audio.len(0)..audio.steps).flat_map(|step| audio.frame(0, step));
        assert!(audio.len(0) < audio.steps && past.into_iter().all(|v| v == 0.0));

        place.ok("train --data mine.safetensors --preset sims --set model.modalities=A \
             --set train.max_epochs=2 --set train.batch_size=4 --out run --quiet");
        place.ok("features new --out new.safetensors --quiet");
        let scores = place.ok("predict --model run --data new.safetensors --format csv");
        let rows: Vec<&str> = scores.lines().skip(1).collect();
        assert_eq!(rows.len(), 3, "{scores}");
        assert!(rows[2].starts_with("new02,"), "{scores}");
    }

    #[test]
    fn one_recording_as_a_table_and_as_an_array() {
        let place = Place::fresh("features_table");
        std::fs::copy(fixture("speech.wav"), place.at("speech.wav")).unwrap();
        place.ok("features speech.wav --out a.csv");
        let text = std::fs::read_to_string(place.at("a.csv")).unwrap();
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap().split(',').collect();
        assert_eq!((names.len(), names[0], names[32]), (COLUMNS, "zero_crossing_rate", "chroma_b"));
        let values: Vec<f32> =
            lines.flat_map(|l| l.split(',').map(|v| v.parse().unwrap())).collect();
        assert!(differences(&values, &golden("speech"))[2] < 1e-5);

        let out = place.ok("features speech.wav --out a.npy --json");
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["recordings"][0]["steps"], 120);
        let bytes = std::fs::read(place.at("a.npy")).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((header % 64, &bytes[..8]), (0, &b"\x93NUMPY\x01\x00"[..]));
        assert!(String::from_utf8_lossy(&bytes[10..header]).contains("'shape': (120, 33)"));
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes[header..]), values);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let place = Place::fresh("features_bad");
        let folder = place.root();
        clips(folder, 3, "some");
        std::fs::create_dir(folder.join("none")).unwrap();
        std::fs::write(folder.join("some/zz.wav"), b"RIFF").unwrap();
        std::fs::write(folder.join("labels.csv"), "id,label\nsome00,1\n").unwrap();
        for (line, code, wanted) in [
            ("features some --out x.txt", 2, "want NAME.safetensors"),
            ("features some --out x.csv", 2, "4 recordings go into a data set"),
            ("features some/some00.wav some/some00.wav --out x.safetensors", 2, "rename one"),
            ("features some --labels labels.csv --out x.safetensors", 1, "no line for 'some01'"),
            ("features some/some00.wav --split train --out x.csv", 2, "for a data set"),
            ("features none --out x.safetensors", 1, "no recording in it"),
            ("features gone.wav --out x.safetensors", 1, "cannot read gone.wav"),
            ("features some --out x.safetensors", 1, "zz.wav: it is cut short"),
            ("features some/zz.wav --skip-bad --out x.safetensors", 2, "none of the recordings"),
        ] {
            fails(place.run(line), code, &[wanted]);
            assert!(!folder.join("x.safetensors").exists());
        }
        let out = place.ok("features some --skip-bad --max-steps 20 --out x.safetensors");
        assert!(out.contains("1 left out"), "{out}");
        let data = Dataset::open(folder.join("x.safetensors")).unwrap();
        let test = data.split(SplitName::Test).unwrap();
        let audio = test.stream(Modality::Audio).unwrap();
        assert!(test.labels().is_none());
        // The first has 18 steps.
        assert_eq!((audio.steps, audio.len(0), audio.len(1)), (20, 18, 20));
    }
}
