//! Digests of contents inside the files themselves: what a run leaves and reads again is known to its last
//! byte, so that a damaged disk or an edit shows as an error and not as other results.
//!
//! A sealed JSON object holds, as its last key, the SHA-256 of its text with zeros in the digest's place. A
//! sealed safetensors file holds, as a note of its header, the SHA-256 of that header, with zeros likewise,
//! and of the digest of its values, so that the values have a digest of their own, whatever is said of them.

use super::{hex, tensor_header, write_atomic_with, write_regular};
use crate::error::{Error, Result};
use safetensors::tensor::SafeTensors;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// The note of a safetensors header that holds the seal.
pub(crate) const NOTE: &str = "modalign.sha256";
/// The key of a JSON object.
const KEY: &str = "sha256";
/// What stands in the place of a digest while it is taken.
const BLANK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Name, type, shape and bytes of a tensor that is going to be written.
pub(crate) type Entry<'a> = (&'a str, &'static str, Vec<usize>, u64);

/// Writes a sealed safetensors file, whole or not at all; `write` streams the tensors' values in the order of
/// `tensors`. Gives the digest of the values.
///
/// # Errors
/// As [`write_atomic_with`](super::write_atomic_with).
pub(crate) fn write_sealed<'a>(
    path: &Path,
    notes: &[(&str, String)],
    tensors: impl Iterator<Item = Entry<'a>>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<String> {
    let all: Vec<(&str, String)> =
        std::iter::once((NOTE, BLANK.to_string())).chain(notes.iter().cloned()).collect();
    let header = tensor_header(&all, tensors);
    let at = place(&header, NOTE, BLANK).ok_or_else(|| {
        Error::io("write", path)(io::Error::other("its header has no place for a digest"))
    })?;
    let mut values = String::new();
    write_regular(path, |file| {
        values = {
            let mut buffered = io::BufWriter::with_capacity(1 << 16, &mut *file);
            buffered.write_all(&header)?;
            let mut out = Digested { out: buffered, sum: Sha256::new() };
            write(&mut out)?;
            out.flush()?;
            hex(&out.sum.finalize())
        };
        file.seek(SeekFrom::Start(at as u64))?;
        file.write_all(seal(&header, at, &values).as_bytes())
    })?;
    Ok(values)
}

/// The digest of `head`, with zeros in place of the digest at `at`, and of `rest`.
fn seal(head: &[u8], at: usize, rest: &str) -> String {
    let mut sum = Sha256::new();
    sum.update(&head[..at]);
    sum.update(BLANK);
    sum.update(&head[at + BLANK.len()..]);
    sum.update(rest);
    hex(&sum.finalize())
}

/// Where a digest stands in the text of `bytes` under `key`.
fn place(bytes: &[u8], key: &str, digest: &str) -> Option<usize> {
    [format!("\"{key}\":\"{digest}\""), format!("\"{key}\": \"{digest}\"")].iter().find_map(
        |text| {
            let found = bytes.windows(text.len()).rposition(|w| w == text.as_bytes())?;
            Some(found + text.len() - 1 - digest.len())
        },
    )
}

/// Passes on what is written, and takes its digest.
struct Digested<W> {
    out: W,
    sum: Sha256,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.out.write(bytes)?;
        self.sum.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The digest of the values in a safetensors file of these bytes, whose seal is checked; nothing where it has
/// none.
///
/// # Errors
/// [`Checkpoint`](Error::Checkpoint): no whole safetensors file, or other bytes than were sealed.
pub(crate) fn seal_of_tensors(path: &Path, bytes: &[u8]) -> Result<Option<String>> {
    let (size, header) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::checkpoint(path, format!("no whole safetensors file ({e})")))?;
    let Some(kept) = header.metadata().as_ref().and_then(|notes| notes.get(NOTE)) else {
        return Ok(None);
    };
    let (head, data) = bytes.split_at((8 + size).min(bytes.len()));
    let values = hex(&Sha256::digest(data));
    check(path, head, kept, NOTE, &values).map(|()| Some(values))
}

/// The seal of the text of a JSON object, checked; nothing where it has none.
///
/// # Errors
/// [`Checkpoint`](Error::Checkpoint): no JSON object, or other bytes than were sealed.
pub(crate) fn seal_of_json(path: &Path, text: &str) -> Result<Option<String>> {
    let value: Value = serde_json::from_str(text)
        .map_err(|e| Error::checkpoint(path, format!("no JSON ({e})")))?;
    let Some(kept) = value.get(KEY).and_then(Value::as_str) else { return Ok(None) };
    check(path, text.as_bytes(), kept, KEY, "").map(|()| Some(kept.into()))
}

fn check(path: &Path, head: &[u8], kept: &str, key: &str, rest: &str) -> Result<()> {
    let at = place(head, key, kept).filter(|_| kept.len() == BLANK.len());
    if at.is_some_and(|at| seal(head, at, rest) == kept) {
        return Ok(());
    }
    let detail = "is not as it was written (another SHA-256 than it says of itself): it is damaged, or \
                  was edited; put back a copy";
    Err(Error::checkpoint(path, detail))
}

/// An object as sealed JSON.
///
/// # Errors
/// A value that is no object.
pub(crate) fn sealed_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(value)?;
    let Value::Object(object) = &mut value else {
        return Err(serde::ser::Error::custom("only an object has a place for a digest"));
    };
    object.insert(KEY.into(), BLANK.into());
    let text = format!("{value:#}\n");
    let digest = super::sha256_hex(text.as_bytes());
    match place(text.as_bytes(), KEY, BLANK) {
        Some(at) => Ok(format!("{}{digest}{}", &text[..at], &text[at + BLANK.len()..])),
        None => Err(serde::ser::Error::custom("no place for a digest")),
    }
}

/// Writes an object as sealed JSON, whole or not at all.
///
/// # Errors
/// As [`write_atomic`](super::write_atomic).
pub(crate) fn write_sealed_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = sealed_json(value).map_err(|e| Error::io("write", path)(io::Error::other(e)))?;
    write_atomic_with(path, |out| out.write_all(text.as_bytes()))
}

/// Reads a JSON object, sealed or not.
///
/// # Errors
/// Missing, no JSON, or other bytes than were sealed.
pub(crate) fn read_json(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    seal_of_json(path, &text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tensors(path: &Path) -> String {
        let entries = [("a", "F32", vec![3], 12), ("b", "U32", vec![2, 1], 8)];
        let body: Vec<u8> = (0..20).collect();
        let notes = [("about", "{\"lr\": 0.1}".to_string())];
        write_sealed(path, &notes, entries.into_iter(), |out| out.write_all(&body)).unwrap()
    }

    #[test]
    fn every_flipped_bit_of_tensors_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let digest = tensors(&path);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(seal_of_tensors(&path, &bytes).unwrap(), Some(digest));
        let mut unsealed = Vec::new();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = seal_of_tensors(&path, &other) {
                assert_eq!(found, None, "bit {bit}");
                unsealed.push(bit / 8);
            }
        }
        // Only a flip in the name of the note itself makes an unsealed file, of the same values: whoever
        // knows that there must be a seal says so.
        let name = bytes.windows(NOTE.len()).position(|w| w == NOTE.as_bytes()).unwrap();
        assert!(
            unsealed.iter().all(|byte| (name..name + NOTE.len()).contains(byte)),
            "{unsealed:?}"
        );
    }

    #[test]
    fn every_flipped_bit_of_json_is_seen() {
        let path = Path::new("x.json");
        let text =
            sealed_json(&json!({ "score": 0.25, "name": "a", "of": { "sha256": BLANK } })).unwrap();
        assert!(seal_of_json(path, &text).unwrap().is_some());
        let key = text.rfind("\"sha256\"").unwrap();
        for bit in 0..text.len() * 8 {
            let mut other = text.clone().into_bytes();
            other[bit / 8] ^= 1 << (bit % 8);
            let Ok(other) = String::from_utf8(other) else { continue };
            if let Ok(found) = seal_of_json(path, &other) {
                assert!(found.is_none() && (key..key + 8).contains(&(bit / 8)), "{other}");
            }
        }
        assert_eq!(seal_of_json(path, "{\"score\": 1}").unwrap(), None);
        assert!(sealed_json(&json!([1])).is_err());
    }

    #[test]
    fn sealed_tensors_are_what_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        tensors(&path);
        let again = folder.path().join("y.safetensors");
        assert_eq!(tensors(&again).len(), 64);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, std::fs::read(again).unwrap(), "equal contents make equal files");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("b").unwrap().data(), (12..20).collect::<Vec<u8>>());
    }
}
