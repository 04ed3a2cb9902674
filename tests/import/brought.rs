//! Mutants of the kinds of files that people of this field bring: an error or a data set, never a panic, and no
//! more memory than the file's size allows. `MODALIGN_MUTANTS=10000` tries so many of each kind.

use std::path::Path;

use modalign::data::Dataset;
use modalign::data::import::{Options, import};
use modalign::features::Sound;

use crate::mutated::hammer_at;
use crate::place::{convert, field, folder};

fn files() -> u64 {
    let given = std::env::var("MODALIGN_MUTANTS").ok();
    given.map_or(400, |n| n.parse().expect("MODALIGN_MUTANTS is a number"))
}

/// Mutants of files of one kind, imported. Some have to be taken, and some refused.
fn imported(names: &[&str], tokens: &[&[u8]], seed: u64) {
    let bases: Vec<Vec<u8>> =
        names.iter().map(|name| std::fs::read(field(name)).unwrap()).collect();
    let place = folder();
    let out = place.path().join("out.safetensors");
    let path = place.path().join("in.file");
    let taken = hammer_at(&path, files(), &bases, tokens, seed, |path| {
        let made = convert(path, &out).map_err(|error| error.to_string());
        // What is written has to be a data set, or is refused by its own checks.
        made.map(|_| drop(Dataset::open(&out))).map_err(said).is_ok()
    });
    assert!((files() / 100..files()).contains(&taken), "{names:?}: {taken} of {}", files());
}

/// An error is one sentence that can be read.
fn said(error: String) {
    assert!(!error.contains('\n') && error.len() < 1500, "{error}");
}

const PICKLED: [&[u8]; 9] =
    [b"N", b")", b"]", b"\x85", b"\x94", b"h\x00", b"\x8c\x02f8", b"K\x00", b"\x8c\x02O8"];

#[test]
fn archives_of_objects() {
    imported(
        &["objects.npz"],
        &[b"PK\x03\x04", b"'|O'", b"(8,)", b"]", b"N", b"h\x00", b"K\x00"],
        11_000_000,
    );
}

#[test]
fn lists_of_mag_bert_and_single_clips() {
    imported(&["bag.pkl"], &PICKLED, 12_000_000);
    imported(&["one.pkl"], &PICKLED, 13_000_000);
}

#[test]
fn tensors_of_any_type() {
    let tokens: [&[u8]; 10] = [
        b"\"F64\"",
        b"\"BF16\"",
        b"\"I64\"",
        b"\"BOOL\"",
        b"\"F8_E4M3\"",
        b"[0,",
        b"[4294967296,",
        b"}",
        b"null",
        b"\"dev/audio\":",
    ];
    imported(&["types.safetensors", "nested.safetensors"], &tokens, 14_000_000);
}

#[test]
fn hdf5_of_h5py_of_matlab_and_of_cmu() {
    let tokens: [&[u8]; 9] = [
        b"OHDR",
        b"TREE",
        b"SNOD",
        b"HEAP",
        b"GCOL",
        b"FADB",
        b"\x89HDF\r\n\x1a\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x80",
    ];
    imported(&["earliest.h5"], &tokens, 15_000_000);
    imported(&["v110.h5"], &tokens, 16_000_000);
    imported(&["matlab.mat"], &tokens, 17_000_000);
    let place = folder();
    let (path, out) = (place.path().join("words.csd"), place.path().join("out.safetensors"));
    let bases = [std::fs::read(field("words.csd")).unwrap()];
    let taken = hammer_at(&path, files(), &bases, &tokens, 18_000_000, |path| {
        convert(path, &out).map_err(|error| said(error.to_string())).is_ok()
    });
    assert_eq!(taken, 0, "there is nothing in it to take");
}

/// Mutants of the table of one sample, by a map that takes all its columns, or the named ones.
fn tables(name: &str, columns: &str, tokens: &[&[u8]], seed: u64) {
    let (kind, ending) = name.split_once('.').unwrap();
    let place = folder();
    let at = |name: &str| place.path().join(name);
    std::fs::write(at("meta.csv"), "id,label,split\na,1,train\n").unwrap();
    let map = format!(
        "split = 'meta.csv:split'\n[fields]\nid = 'meta.csv:id'\nregression_labels = 'meta.csv:label'\n\
         vision = '{{id}}.{ending}{columns}'\n"
    );
    std::fs::write(at("map.toml"), map).unwrap();
    let options = Options { map: Some(at("map.toml")), nan_to_zero: true, ..Options::default() };
    let bases = ["c0", "c3"]
        .map(|clip| std::fs::read(field("steps").join(format!("{kind}/{clip}.{ending}"))).unwrap());
    let out = folder();
    let out = out.path().join("out.safetensors");
    let taken = hammer_at(&at(&format!("a.{ending}")), files(), &bases, tokens, seed, |_| {
        let made = import(place.path(), &out, &options, &mut |_, _| {});
        made.map(|_| drop(Dataset::open(&out).unwrap())).map_err(|e| said(e.to_string())).is_ok()
    });
    assert!((files() / 100..files()).contains(&taken), "{name}: {taken} of {}", files());
}

#[test]
fn tables_without_a_header() {
    let tokens: [&[u8]; 9] = [b",", b"\n", b"\r\n", b"\"", b"nan", b"1e39", b"-", b"\xff", b"a"];
    tables("covarep.csv", "", &tokens, 21_000_000);
    tables("covarep.csv", ":0..1", &tokens, 22_000_000);
    tables("savetxt.txt", "", &[b" ", b"#", b"\n", b"\t", b",", b"inf", b"\xff"], 23_000_000);
}

#[test]
fn tables_of_opensmile_and_openface() {
    let tokens: [&[u8]; 9] =
        [b";", b", ", b"\n", b"success", b"confidence", b"'unknown'", b"nan", b"\"", b"AU09_r"];
    tables("opensmile.csv", "", &tokens, 24_000_000);
    tables("openface.csv", "", &tokens, 25_000_000);
    tables("openface.csv", ":AU*_r,gaze_*", &tokens, 26_000_000);
}

/// Gives pages of Ogg their checksums again: a reader sees nothing of what is in a page without.
fn sealed(bytes: &mut [u8]) {
    let mut at = 0;
    while at + 27 <= bytes.len() {
        if bytes[at..at + 4] != *b"OggS" {
            at += 1;
            continue;
        }
        let segments = usize::from(bytes[at + 26]);
        let Some(sizes) = bytes.get(at + 27..at + 27 + segments) else { return };
        let body: usize = sizes.iter().map(|size| usize::from(*size)).sum();
        let end = (at + 27 + segments + body).min(bytes.len());
        bytes[at + 22..at + 26].fill(0);
        let sum = bytes[at..end].iter().fold(0u32, |sum, byte| {
            (0..8).fold(sum ^ (u32::from(*byte) << 24), |sum, _| {
                (sum << 1) ^ (if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 })
            })
        });
        bytes[at + 22..at + 26].copy_from_slice(&sum.to_le_bytes());
        at = end;
    }
}

#[test]
fn compressed_sound() {
    let tokens: [&[u8]; 8] = [
        b"fLaC",
        b"OggS",
        b"\x01vorbis",
        b"\x05vorbis",
        b"ID3",
        b"\xff\xfb",
        b"Xing",
        b"\xff\xff\xff\xff",
    ];
    for (seed, ending) in [(31_000_000, "flac"), (32_000_000, "ogg"), (33_000_000, "mp3")] {
        let sound = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sound");
        let bases = [std::fs::read(sound.join(format!("speech.{ending}"))).unwrap()];
        let place = folder();
        let path = place.path().join(format!("in.{ending}"));
        let taken = hammer_at(&path, files(), &bases, &tokens, seed, |path| {
            if ending == "ogg" {
                let mut bytes = std::fs::read(path).unwrap();
                sealed(&mut bytes);
                std::fs::write(path, bytes).unwrap();
            }
            let heard = Sound::open(path).and_then(|mut sound| {
                let mut some = [0.0; 4096];
                // A mutant may say that it is long: what is heard of it is bounded by what it holds.
                let mut pieces = 0;
                while sound.read(&mut some)? > 0 && pieces < 1_000 {
                    pieces += 1;
                }
                Ok(())
            });
            heard.map_err(|error| said(error.to_string())).is_ok()
        });
        assert!((files() / 100..files()).contains(&taken), "{ending}: {taken} of {}", files());
    }
}
