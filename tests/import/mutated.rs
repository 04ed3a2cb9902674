//! Ten thousand damaged files of each kind: an error or a data set, never a panic, and no more
//! memory than the file's size allows. The seeds are fixed; a failure names its number.

use std::path::Path;

use modalign::data::{Dataset, SynthConfig, synth};
use modalign::nn::Weights;
use modalign::recipe::Config;
use modalign::train::{CardStream, ModelCard, Saved};

use crate::bombs::{FIXED, peak};
use crate::place::{convert, fixture, folder, pickles};

const FILES: u64 = 10_000;

/// A small generator of its own: the same files on every platform.
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Changes a file in one to four places; `tokens` are pieces that its format reads.
pub fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice, tokens: &[&[u8]]) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(9) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.next() as u8,
            2 => bytes.truncate(at.max(1)),
            3 => {
                let piece = tokens[dice.below(tokens.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            4 => {
                let piece = tokens[dice.below(tokens.len())];
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece.iter().copied());
            }
            5 => {
                let end = (at + 1 + dice.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => {
                let end = (at + 1 + dice.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = dice.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            7 => {
                let end = (at + 8).min(bytes.len());
                let word = [u64::MAX, 1 << 62, 1 << 31, 0, 0x7ff0_0000_0000_0000];
                let word = word[dice.below(5)].to_le_bytes();
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            _ => {
                let other = dice.below(bytes.len());
                bytes.swap(at, other);
            }
        }
        if bytes.is_empty() {
            bytes.push(0x80);
        }
    }
}

/// Feeds mutants of `bases` to `read`, which says whether it took them; gives how many it took.
fn hammer(bases: &[Vec<u8>], tokens: &[&[u8]], seed: u64, read: impl Fn(&Path) -> bool) -> u64 {
    let folder = folder();
    hammer_at(&folder.path().join("in.safetensors"), FILES, bases, tokens, seed, read)
}

/// The same of so many mutants, each as the file at `path`.
pub fn hammer_at(
    path: &Path,
    files: u64,
    bases: &[Vec<u8>],
    tokens: &[&[u8]],
    seed: u64,
    read: impl Fn(&Path) -> bool,
) -> u64 {
    let (mut taken, mut most) = (0, 0);
    for number in 0..files {
        let mut dice = Dice(seed + number);
        let mut bytes = bases[number as usize % bases.len()].clone();
        mutate(&mut bytes, &mut dice, tokens);
        std::fs::write(path, &bytes).unwrap();
        let (ok, peak) = peak(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(path)))
                .unwrap_or_else(|_| panic!("mutant {number} of seed {seed} made it panic"))
        });
        assert!(peak <= 2 * bytes.len() + FIXED, "mutant {number} of seed {seed}: {peak} bytes");
        taken += u64::from(ok);
        most = most.max(peak);
    }
    println!("{taken} of {files} were taken; at most {most} bytes held");
    taken
}

#[test]
fn ten_thousand_pickles() {
    let bases: Vec<Vec<u8>> = pickles().iter().map(|path| std::fs::read(path).unwrap()).collect();
    let out = folder();
    let out = out.path().join("out.safetensors");
    let taken = hammer(
        &bases,
        &[
            b"(",
            b"N",
            b"0",
            b"1",
            b"2",
            b")",
            b"]",
            b"}",
            b"e",
            b"u",
            b"s",
            b"a",
            b"R",
            b"b",
            b".",
            b"t",
            b"\x85",
            b"\x86",
            b"\x94",
            b"\x93",
            b"h\x00",
            b"j\x05\x00\x00\x00",
            b"q\xff",
            b"cos\nsystem\n",
            b"cbuiltins\neval\n",
            b"cnumpy\ndtype\n",
            b"cnumpy\nndarray\n",
            b"c_codecs\nencode\n",
            b"\x8c\x01F",
            b"\x8c\x02f8",
            b"\x8c\x02U9",
            b"\x8c\x02O8",
            b"\x8c\x01>",
            b"J\xff\xff\xff\x7f",
            b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
        ],
        1,
        |path| match convert(path, &out) {
            Ok(_) => {
                // What it writes, the data set's own checks may still refuse, but not by a panic.
                let _ = Dataset::open(&out);
                true
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!error.contains('\n') && error.len() < 1500, "{error}");
                false
            }
        },
    );
    // Enough of them are broken to say something, and enough whole to reach the writer.
    assert!((300..9_000).contains(&taken), "{taken}");
}

/// The archives' own format is read by a library, their arrays by us.
#[test]
fn ten_thousand_archives() {
    let bases = ["stored.npz", "deflated.npz"].map(|name| std::fs::read(fixture(name)).unwrap());
    let out = folder();
    let out = out.path().join("out.safetensors");
    let tokens: [&[u8]; 9] = [
        b"PK\x01\x02",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x93NUMPY\x01\x00",
        b"'descr': '<f8'",
        b"'|O'",
        b"(9999999999,",
        b"True",
        b"\xff\xff\xff\xff",
    ];
    let taken = hammer(&bases, &tokens, 3_000_000, |path| convert(path, &out).is_ok());
    assert!((300..9_500).contains(&taken), "{taken}");
}

const TOKENS: [&[u8]; 14] = [
    b"\"F32\"",
    b"\"I32\"",
    b"\"F64\"",
    b"\"U8\"",
    b"[0,",
    b"[4294967295,",
    b"[18446744073709551615,",
    b"\"data_offsets\":[",
    b"{",
    b"}",
    b"]",
    b"null",
    b"-1",
    b"\"train.audio\":",
];

pub fn small_set(path: &Path) {
    let mut config = SynthConfig { train: 6, valid: 3, test: 3, ..SynthConfig::default() };
    (config.audio.steps, config.audio.min_steps) = (4, 2);
    (config.vision.steps, config.vision.min_steps) = (3, 1);
    (config.text.dim, config.audio.dim, config.vision.dim) = (4, 3, 3);
    synth::write(&config, path).unwrap();
}

/// With a digest of its own contents.
pub fn small_model(path: &Path) {
    let (card, weights) = model();
    Saved::save(path, &card, &weights).unwrap();
}

fn model() -> (ModelCard, Weights) {
    let mut weights = Weights::default();
    weights.insert("audio_model.rnn.weight_ih_l0", vec![8, 3], vec![0.5; 24]);
    weights.insert("audio_model.rnn.bias_ih_l0", vec![8], vec![-0.5; 8]);
    weights.insert("Model.post_fusion_layer_1.weight", vec![2, 2], vec![1.0; 4]);
    let stream = CardStream { modality: modalign::data::Modality::Audio, steps: 4, dim: 3 };
    let card = ModelCard {
        acoustic: None,
        task: Default::default(),
        format: 1,
        version: "0.1.0".into(),
        config: Config::preset("self_mm", "mosi").unwrap(),
        streams: vec![stream],
        guides: Vec::new(),
        standardise: None,
        data_sha256: "0".repeat(64),
        fold: None,
        epoch: 3,
    };
    (card, weights)
}

#[test]
fn ten_thousand_data_sets() {
    let folder = folder();
    let path = folder.path().join("base.safetensors");
    small_set(&path);
    let imported = folder.path().join("imported.safetensors");
    convert(&pickles()[0], &imported).unwrap();
    let bases = [std::fs::read(&path).unwrap(), std::fs::read(&imported).unwrap()];
    let taken = hammer(&bases, &TOKENS, 1_000_000, |path| match Dataset::open(path) {
        Ok(data) => {
            modalign::data::survey::Survey::of(&data).unwrap();
            true
        }
        Err(_) => {
            modalign::data::survey::not_numbers(path);
            false
        }
    });
    assert!((300..9_500).contains(&taken), "{taken}");
}

#[test]
fn ten_thousand_models() {
    let folder = folder();
    let path = folder.path().join("base.safetensors");
    let (card, weights) = model();
    // As an earlier version wrote it: a digest would stop nearly all of them before anything is read.
    weights.save(&path, &[("modalign", serde_json::to_string(&card).unwrap())]).unwrap();
    let bases = [std::fs::read(&path).unwrap()];
    let taken = hammer(&bases, &TOKENS, 2_000_000, |path| {
        let _ = Weights::load(path);
        Saved::load(path).is_ok()
    });
    assert!((100..9_500).contains(&taken), "{taken}");
}

/// Half floats double in memory; the file itself is not held besides.
#[test]
fn halves_are_widened_within_twice_the_file() {
    let folder = folder();
    let path = folder.path().join("halves.safetensors");
    let words = 24 << 20;
    let header =
        format!(r#"{{"w":{{"dtype":"F16","shape":[{words}],"data_offsets":[0,{}]}}}}"#, 2 * words);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + 2 * words, 0);
    std::fs::write(&path, &bytes).unwrap();
    let (weights, held) = peak(|| Weights::load(&path).unwrap());
    assert_eq!(weights.get("w").unwrap().1.len(), words);
    assert!(held <= 2 * bytes.len() + (1 << 20), "{held} bytes for a file of {}", bytes.len());
}
