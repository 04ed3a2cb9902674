//! Weights as `torch.save` leaves them: a pickle that describes the tensors, and their numbers as they lie in
//! memory. Nothing of it is run: the pickle goes through the reader of [`crate::files::pickled`].
//!
//! Since PyTorch 1.6 that is an archive, `NAME/data.pkl` beside `NAME/data/0` and so on, stored without
//! compression. Before, it was a row of pickles (a number to know it by, the format's number, the machine's
//! sizes, the tensors, the storages' names), and behind them each storage with its length.

use std::collections::HashMap;
use std::io::{Cursor, copy, sink};
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::pickled::Fault;
use crate::files::pickled::budget::Budget;
use crate::files::pickled::pickle::{Object, Pickle, Value};
use crate::files::pickled::torch::{Item, Storage, Tensor};
use crate::nn::Weights;

/// What an old file begins with: the number 0x1950a86a20f9469cfc6c of ten bytes, pickled.
const OLD: [u8; 15] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The number of its format.
const OLD_FORMAT: i64 = 1001;

/// Reads the floats of a file that `rename` has a name for; `path` names it in errors.
///
/// # Errors
/// [`Error::Checkpoint`]: damaged, no state dict of tensors, a pickle that calls anything else, a compressed
/// archive, numbers of a machine of the other byte order, a tensor that is there twice.
pub(super) fn read(
    bytes: &[u8],
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<Weights> {
    let read = match bytes {
        [b'P', b'K', ..] => archive(bytes, rename),
        _ if bytes.starts_with(&OLD) => old(bytes, rename),
        _ => Err(Fault::new("not a file of torch.save; copy the model's file again")),
    };
    read.map_err(|fault| Error::checkpoint(path, fault.detail()))
}

/// An archive, as it is today.
fn archive(bytes: &[u8], rename: impl Fn(&str) -> Option<String>) -> Result<Weights, Fault> {
    let fail = |e: zip::result::ZipError| {
        Fault::new(format!("no whole archive of torch.save ({e}); copy it again"))
    };
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(fail)?;
    let mut ranges: HashMap<String, (usize, Range<usize>)> = HashMap::new();
    for at in 0..zip.len() {
        let file = zip.by_index(at).map_err(fail)?;
        let name = file.name().map_err(fail)?;
        // All of it is in one folder, of whatever name.
        let Some((_, name)) = name.split_once('/') else { continue };
        let stored = file.compression() == zip::CompressionMethod::Stored;
        let start =
            file.data_start().filter(|_| stored).and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(usize::try_from(file.size()).ok()?));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= bytes.len())) else {
            return Err(Fault::new(format!(
                "'{name}' is compressed, or ends past the file; save it again by torch.save"
            )));
        };
        if ranges.insert(name.into(), (at, start..end)).is_some() {
            return Err(Fault::new(format!("'{name}' is there twice; copy the file again")));
        }
    }
    if let Some((_, range)) = ranges.get("byteorder")
        && &bytes[range.clone()] != b"little"
    {
        return Err(Fault::new(
            "its numbers are of a machine of the other byte order; save it again on another",
        ));
    }
    let Some((_, described)) = ranges.get("data.pkl") else {
        return Err(Fault::new(
            "an archive without data.pkl: not a file of torch.save; copy it again",
        ));
    };
    let described = &bytes[described.clone()];
    let pickle = Pickle::read_as(described, true, &mut Budget::of(described.len()))?;
    let mut sound: HashMap<usize, bool> = HashMap::new();
    gather(&pickle, rename, |storage| {
        let key = String::from_utf8_lossy(pickle.span(storage.key));
        let (at, range) = ranges
            .get(&format!("data/{key}"))
            .ok_or_else(|| Fault::new(format!("there is no 'data/{key}' in it; copy it again")))?;
        // The archive knows a sum of each part.
        if sound.insert(*at, true).is_none() {
            let whole = zip.by_index(*at).map_err(fail).and_then(|mut file| {
                copy(&mut file, &mut sink()).map_err(|e| {
                    Fault::new(format!("'data/{key}' is damaged ({e}); copy it again"))
                })
            });
            whole?;
        }
        Ok(&bytes[range.clone()])
    })
}

/// A file of before PyTorch 1.6.
fn old(bytes: &[u8], rename: impl Fn(&str) -> Option<String>) -> Result<Weights, Fault> {
    let mut budget = Budget::of(bytes.len());
    let mut at = OLD.len();
    let mut next = || -> Result<Pickle<'_>, Fault> {
        let pickle = Pickle::read_as(&bytes[at..], true, &mut budget)?;
        at += pickle.read;
        Ok(pickle)
    };
    let (format, machine, tensors, keys) = (next()?, next()?, next()?, next()?);
    if format.root() != Value::Int(OLD_FORMAT) {
        return Err(Fault::new("of a format before PyTorch 1.0; save it again by torch.save"));
    }
    let about = machine.entries(machine.root()).unwrap_or_default();
    if !about.iter().any(|(key, value)| *key == "little_endian" && *value == Value::Bool(true)) {
        return Err(Fault::new(
            "its numbers are of a machine of the other byte order; save it again on another",
        ));
    }
    let mut sizes: HashMap<&[u8], Storage> = HashMap::new();
    for object in tensors.objects() {
        if let Object::Storage(storage) = object {
            sizes.insert(tensors.span(storage.key), *storage);
        }
    }
    let cut = || Fault::new("the file is cut short; copy it again");
    let mut ranges: HashMap<&[u8], &[u8]> = HashMap::new();
    let items = keys
        .items(keys.root())
        .ok_or_else(|| Fault::new("its storages have no names; copy it again"))?;
    for key in items {
        let Value::Text(key) = key else {
            return Err(Fault::new("a storage without a name; copy it again"));
        };
        let key = keys.span(*key);
        let len = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map(|len| i64::from_le_bytes(*len))
            .ok_or_else(cut)?;
        let storage = sizes.get(key).filter(|storage| i64::try_from(storage.len) == Ok(len));
        let storage = storage.ok_or_else(|| {
            Fault::at(at, "a storage of another length than its tensors say; copy it again")
        })?;
        let end =
            storage.len.checked_mul(storage.item.size()).and_then(|len| len.checked_add(at + 8));
        let end = end.filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        ranges.insert(key, &bytes[at + 8..end]);
        at = end;
    }
    gather(&tensors, rename, |storage| {
        let key = tensors.span(storage.key);
        ranges.get(key).copied().ok_or_else(|| {
            Fault::new(format!(
                "there is no storage '{}' in it; copy it again",
                String::from_utf8_lossy(key)
            ))
        })
    })
}

/// The floats of a dict of tensors; `bytes_of` finds those of a storage.
fn gather<'b>(
    pickle: &Pickle<'_>,
    rename: impl Fn(&str) -> Option<String>,
    mut bytes_of: impl FnMut(&Storage) -> Result<&'b [u8], Fault>,
) -> Result<Weights, Fault> {
    let all = pickle.entries(pickle.root()).ok_or_else(|| {
        Fault::new("not a dict of tensors by name; save model.state_dict() by torch.save")
    })?;
    let mut weights = Weights::default();
    for (name, value) in all {
        let Some(new) = rename(name) else { continue };
        let Some(Object::Tensor(tensor)) = pickle.object(value) else { continue };
        if matches!(tensor.storage.item, Item::Whole(_)) {
            continue;
        }
        let bytes = bytes_of(&tensor.storage)?;
        if tensor
            .storage
            .len
            .checked_mul(tensor.storage.item.size())
            .is_none_or(|len| len > bytes.len())
        {
            return Err(Fault::new(format!("tensor '{name}' is cut short; copy it again")));
        }
        if weights.get(&new).is_some() {
            return Err(Fault::new(format!(
                "tensor '{new}' is there twice, once as '{name}'; keep one"
            )));
        }
        weights.insert(&new, tensor.shape.clone(), values(tensor, bytes));
    }
    Ok(weights)
}

/// The numbers of a tensor, last axis fastest, whatever their order in the storage.
fn values(tensor: &Tensor, bytes: &[u8]) -> Vec<f32> {
    let (item, size) = (tensor.storage.item, tensor.storage.item.size());
    let one = |at: usize| -> f32 {
        let b = &bytes[at * size..(at + 1) * size];
        match (item, b) {
            (Item::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Item::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
            (Item::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f32(),
            (_, b) => b.try_into().map_or(0.0, |b| f64::from_le_bytes(b) as f32),
        }
    };
    let count = tensor.shape.iter().product();
    let mut place = vec![0; tensor.shape.len()];
    let mut at = tensor.offset;
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        out.push(one(at));
        for axis in (0..place.len()).rev() {
            place[axis] += 1;
            at += tensor.strides[axis];
            if place[axis] < tensor.shape[axis] {
                break;
            }
            at -= tensor.shape[axis] * tensor.strides[axis];
            place[axis] = 0;
        }
    }
    out
}
