//! From the field's own feature files to this crate's data sets: MMSA's pickles, `.npz` archives,
//! `.safetensors` files of other types, HDF5 files, and folders of `.npy` and `.csv` files with a mapping.
//!
//! Nothing of a foreign file is ever run. It is memory-mapped; the small parts (labels, tokens,
//! strings) are read into memory, and features stream through a buffer of a few MiB, so that a
//! file of gigabytes needs no more memory than one of megabytes.

mod array;
mod columns;
mod convert;
mod csv;
mod hdf5;
mod known;
mod lay_out;
mod mapping;
mod mmsa;
mod npy;
mod padding;
mod shapes;
mod side;
mod store;
mod symbols;
mod table;
mod tensors;
mod tokens;
mod write;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::hdf5::Hdf5;
use self::mapping::Mapping;
use self::store::Store;
use self::table::Table;
use super::SplitName;
use super::open::begins_so;
use crate::error::{Error, Result};
use crate::files::pickled::budget::{self, Budget};
use crate::files::pickled::{Fault, numpy, pickle};
use crate::files::{self, hex};

pub use self::symbols::symbols;

/// What can be chosen about an import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which array is which field, for `.npz`, `.safetensors` and HDF5 files and for folders (a TOML file).
    pub map: Option<PathBuf>,
    /// Features that are NaN or infinite become 0, instead of ending the import. (-inf of audio
    /// always does: MMSA's own loader has it so.)
    pub nan_to_zero: bool,
    /// Of labels of several columns the one to take: a number from 0, or, of MOSEI's seven, a name.
    pub label_column: Option<String>,
}

/// Told of bytes written, and of how many there will be.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What was imported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// SHA-256 of the source; of a folder there is none.
    pub sha256: Option<String>,
    /// The published file that the source is, by its sum.
    pub published: Option<&'static str>,
    /// The preset to begin with.
    pub preset: &'static str,
    /// Bytes of the file written.
    pub bytes: u64,
    /// Rows of each split that there is.
    pub rows: Vec<(SplitName, usize)>,
    /// The tensors written, in order.
    pub tensors: Vec<TensorReport>,
    /// Fields of the side file, such as `train.id`.
    pub texts: Vec<String>,
    /// Fields of the source that were not taken over.
    pub left: Vec<String>,
    /// What else a user should know.
    pub notes: Vec<String>,
}

/// A tensor that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    /// Of which split.
    pub split: SplitName,
    /// Such as `audio`.
    pub field: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// The source's type, such as `f8`; empty where it was made here.
    pub from: String,
    /// What was mended.
    pub changes: Vec<String>,
}

/// Converts `source` to a data set at `out` (`NAME.safetensors`, with ids and texts in
/// `NAME.json` beside it).
///
/// # Errors
/// [`Error::Data`] naming the source: what it is, where (the byte, or field, row, step and feature)
/// and what to do; then nothing was written. [`Error::Config`] for a mapping that cannot be used,
/// [`Error::Io`] where a file cannot be read or written.
pub fn import(source: &Path, out: &Path, options: &Options, progress: Progress) -> Result<Report> {
    check_paths(source, out)?;
    files::remove_leftovers_of(out);
    files::remove_leftovers_of(&out.with_extension("json"));
    let fail = |fault: Fault| fault.of(source);
    let opened = Opened::new(source)?;
    let mut budget = opened.budget();
    let table = opened.table(source, options, &mut budget)?;
    let mut plan = convert::plan(table, options, &mut budget).map_err(fail)?;
    let preset = known::preset(&plan);

    let given_up = AtomicBool::new(false);
    let (bytes, sha256) = std::thread::scope(|scope| {
        let summing = opened.map.is_some().then(|| scope.spawn(|| sum(source, &given_up)));
        // One key only, and no version: the same source gives the same bytes.
        let metadata = [("imported_by", "modalign".to_string())];
        let written = write::tensors(&mut plan, out, &metadata, &mut budget, progress, fail);
        given_up.store(written.is_err(), Ordering::Relaxed);
        let sha256 = summing.map(|thread| thread.join().unwrap_or_else(|_| sum(source, &given_up)));
        Ok::<_, Error>((written?, sha256.transpose()?))
    })?;
    let published = sha256.as_deref().and_then(known::published);
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    side::write(&plan, out, &name, sha256.as_deref(), published.map(|(name, _)| name))?;
    Ok(Report {
        published: published.map(|(name, _)| name),
        preset: published.map_or(preset, |(_, preset)| preset),
        sha256,
        bytes,
        rows: SplitName::ALL
            .map(|n| (n, plan.rows[n.index()]))
            .into_iter()
            .filter(|r| r.1 > 0)
            .collect(),
        texts: plan.text_names(),
        tensors: plan.tensors.into_iter().map(convert::Tensor::report).collect(),
        left: plan.left,
        notes: plan.notes,
    })
}

fn check_paths(source: &Path, out: &Path) -> Result<()> {
    if out.extension().is_none_or(|ext| ext != "safetensors") {
        return Err(Error::Config(format!(
            "--out {}: a data set's file ends in .safetensors; name it so",
            out.display()
        )));
    }
    let same = std::fs::canonicalize(source).ok().zip(std::fs::canonicalize(out).ok());
    match same.is_some_and(|(a, b)| a == b) {
        true => Err(Error::Config("--out is the source itself; choose another name".into())),
        false => Ok(()),
    }
}

/// A source on disk.
struct Opened {
    /// Of a file.
    map: Option<Arc<Mmap>>,
}

impl Opened {
    fn new(path: &Path) -> Result<Opened> {
        let about = std::fs::metadata(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::data(path, "there is no such file; check the path"),
            _ => Error::io("read", path)(e),
        })?;
        if about.is_dir() {
            return Ok(Opened { map: None });
        }
        if about.len() == 0 {
            return Err(Error::data(path, "the file is empty; copy it again"));
        }
        files::map(path).map(|map| Opened { map: Some(Arc::new(map)) })
    }

    /// A folder's files are what they are: their sizes are real, and only headers make claims.
    fn budget(&self) -> Budget {
        self.map.as_ref().map_or_else(Budget::unlimited, |map| Budget::of(map.len()))
    }

    fn table(&self, path: &Path, options: &Options, budget: &mut Budget) -> Result<Table> {
        let fail = |fault: Fault| fault.of(path);
        if let Some(what) = self.map.as_ref().and_then(|map| something_else(map)) {
            return Err(Error::data(path, what));
        }
        let store = match &self.map {
            None => Store::Folder(path.into()),
            Some(map) if begins_so(map) => Store::tensors(tensors::read(path, map)?),
            Some(map) if hdf5::is_one(map) => Store::Hdf5(Hdf5::open(map).map_err(fail)?),
            Some(map) => match map[..map.len().min(6)] {
                [b'P', b'K', ..] => Store::archive(map, budget).map_err(fail)?,
                [0x93, b'N', b'U', b'M', b'P', b'Y'] => {
                    let detail =
                        "a single array: give the folder that it is in, and --map MAP.toml";
                    return Err(Error::data(path, detail));
                }
                [b'M', b'A', b'T', b'L', b'A', b'B'] => {
                    let detail = "a MATLAB file of an old version; save it again with '-v7.3'";
                    return Err(Error::data(path, detail));
                }
                [0x1f, 0x8b, ..] | [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] => {
                    return Err(Error::data(path, "a compressed file; unpack it first"));
                }
                _ if options.map.is_some() => {
                    let detail = "--map is for .npz, .safetensors and HDF5 files and for folders; a \
                                  pickle says itself what is what";
                    return Err(Error::Config(detail.into()));
                }
                _ => return mmsa::read(map, budget).map_err(fail),
            },
        };
        let mapping = options.map.as_deref().map(Mapping::read).transpose()?;
        let mut table = mapping::read(&store, mapping.as_ref(), budget).map_err(fail)?;
        if self.map.as_ref().is_some_and(|map| begins_so(map)) {
            tensors::attach(path, &mut table)?;
        }
        Ok(table)
    }
}

/// What stands in the place of a file that was not downloaded.
fn something_else(bytes: &[u8]) -> Option<&'static str> {
    let head = bytes[..bytes.len().min(256)].to_ascii_lowercase();
    let text = head.trim_ascii_start();
    if text.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some("a pointer of Git LFS, not the file itself; fetch that with git lfs pull");
    }
    if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        return Some(
            "a web page, not the file itself; look at it in a browser, and download the file",
        );
    }
    None
}

/// SHA-256 of a file, read piece by piece; of its beginning once nobody wants it any more.
fn sum(path: &Path, given_up: &AtomicBool) -> Result<String> {
    let fail = |e| Error::io("read", path)(e);
    let mut file = File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(fail)? {
            0 => return Ok(hex(&hash.finalize())),
            _ if given_up.load(Ordering::Relaxed) => return Ok(hex(&hash.finalize())),
            n => hash.update(&piece[..n]),
        }
    }
}
