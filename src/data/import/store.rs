//! Where a mapping finds its arrays: the files of a folder, or the arrays of a file of several.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::Fault;
use super::array::{Array, DType, Payload};
use super::budget::Budget;
use super::columns::Columns;
use super::csv::{self, Said};
use super::hdf5::Hdf5;
use super::npy::{self, Header};
use super::table::{Column, strings};
use super::tensors;
use crate::files;

/// Arrays by name.
pub(super) enum Store {
    /// Names are paths in it.
    Folder(PathBuf),
    /// Names are those that `numpy.savez` was given, or those of tensors.
    Archive(BTreeMap<String, Entry>),
    /// Names are paths of groups.
    Hdf5(Hdf5),
}

/// An array of a file of several.
pub(super) enum Entry {
    /// A `.npy` file in a range of a map.
    Npy { map: Arc<Mmap>, range: Range<usize> },
    /// A tensor.
    Tensor(Array),
}

impl Store {
    /// The tensors of a safetensors file.
    pub(super) fn tensors(arrays: BTreeMap<String, Array>) -> Store {
        let entries = arrays.into_iter().map(|(name, array)| (name, Entry::Tensor(array)));
        Store::Archive(entries.collect())
    }

    /// The arrays of an archive. Compressed ones are unpacked into temporary files, which go with
    /// the store.
    pub(super) fn archive(map: &Arc<Mmap>, budget: &mut Budget) -> Result<Store, Fault> {
        let fail = |e: zip::result::ZipError| {
            Fault::new(format!("no whole .npz archive ({e}); copy it again"))
        };
        let mut zip = zip::ZipArchive::new(io::Cursor::new(&map[..])).map_err(fail)?;
        let mut entries = BTreeMap::new();
        // Features with their padding shrink tenfold or so; what grows more is made to fill a disk.
        let mut room = (map.len() as u64).saturating_mul(UNPACKED).saturating_add(64 << 20);
        for at in 0..zip.len() {
            let mut file = zip.by_index(at).map_err(fail)?;
            let name = file.name().map_err(fail)?;
            let Some(name) = name.strip_suffix(".npy").map(String::from) else { continue };
            let place = |fault: Fault| fault.within(&name);
            let entry = match (file.compression(), file.data_start()) {
                (zip::CompressionMethod::Stored, Some(start)) => {
                    let start = usize::try_from(start).unwrap_or(usize::MAX);
                    let end = usize::try_from(file.size()).ok().and_then(|n| start.checked_add(n));
                    let end = end.filter(|end| *end <= map.len());
                    let end = end.ok_or_else(|| place(Fault::new("it ends past the archive")))?;
                    Entry::Npy { map: map.clone(), range: start..end }
                }
                _ => {
                    let map = unpacked(&mut file, room).map_err(place)?;
                    room -= map.len() as u64;
                    budget.unpacked(map.len());
                    let range = 0..map.len();
                    Entry::Npy { map: Arc::new(map), range }
                }
            };
            entries.insert(name, entry);
        }
        Ok(Store::Archive(entries))
    }

    /// What is there, as a mapping would name it: of a folder its `.npy` files, one level deep.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Store::Archive(entries) => entries.keys().cloned().collect(),
            Store::Hdf5(file) => file.names().to_vec(),
            Store::Folder(folder) => {
                let mut names = Vec::new();
                let each =
                    |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
                for entry in each(folder) {
                    let path = entry.path();
                    let inside: Vec<PathBuf> = match path.is_dir() {
                        true => each(&path).map(|e| e.path()).collect(),
                        false => vec![path],
                    };
                    let npy = inside.iter().filter(|p| p.extension().is_some_and(|e| e == "npy"));
                    let own = npy.filter_map(|p| p.strip_prefix(folder).ok());
                    names.extend(own.map(|p| p.to_string_lossy().replace('\\', "/")));
                }
                names.sort();
                names
            }
        }
    }

    /// Whether there is such an array or file.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Store::Archive(entries) => entries.contains_key(name),
            Store::Hdf5(file) => file.names().iter().any(|own| own == name),
            Store::Folder(folder) => folder.join(split_columns(name).0).is_file(),
        }
    }

    /// An array; of strings where `texts` says so. What is to be said of it goes to `notes`.
    pub(super) fn load(
        &self,
        name: &str,
        texts: bool,
        budget: &mut Budget,
        notes: &mut Vec<String>,
    ) -> Result<Column, Fault> {
        let column = self.find(name, texts, budget, notes).map_err(|f| f.within(name))?;
        match column {
            Column::Array(array) if texts => {
                numbers_as_texts(&array, budget).map_err(|f| f.within(name))
            }
            Column::Texts(_) if !texts => {
                Err(Fault::new("strings where numbers belong").within(name))
            }
            column => Ok(column),
        }
    }

    fn find(
        &self,
        name: &str,
        texts: bool,
        budget: &mut Budget,
        notes: &mut Vec<String>,
    ) -> Result<Column, Fault> {
        match self {
            Store::Archive(entries) => match entries.get(name) {
                Some(Entry::Npy { map, range }) => npy::column(map, range.clone(), budget),
                Some(Entry::Tensor(array)) => tensors::column(array),
                None => Err(self.absent()),
            },
            Store::Hdf5(_) if !self.has(name) => Err(self.absent()),
            Store::Hdf5(file) => file.column(name, texts, budget),
            Store::Folder(folder) => {
                let (file, columns) = split_columns(name);
                if !within(file) {
                    return Err(Fault::new("it leads out of the folder that is imported"));
                }
                let path = folder.join(file);
                if !path.is_file() {
                    return Err(Fault::new("there is no such file in the folder"));
                }
                match (kind_of(file)?, texts) {
                    (FileKind::Npy, _) => {
                        let map = files::map(&path).map_err(|e| Fault::new(e.to_string()))?;
                        let map = Arc::new(map);
                        npy::column(&map, 0..map.len(), budget)
                    }
                    (FileKind::Csv, true) => csv::texts(&path, &columns).map(Column::Texts),
                    (FileKind::Csv, false) => {
                        let table = csv::numbers(&path, &columns)?;
                        if table.rows == 0 {
                            return Err(Fault::new("the table has no line below its header"));
                        }
                        notes.extend(table.said.notes(name, table.rows));
                        let (rows, width) = (table.rows, table.width);
                        let shape = if width == 1 { vec![rows] } else { vec![rows, width] };
                        Ok(Column::Array(Array::owned(DType::F32, shape, bytes_of(&table.values))))
                    }
                }
            }
        }
    }

    /// An array that is not there.
    fn absent(&self) -> Fault {
        let names = self.names();
        let names = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
        Fault::new(format!("the archive has no such array; it has: {names}"))
    }

    /// The sequence of one sample, steps x features, that is read when its turn comes, and what its table says.
    pub(super) fn sequence(&self, name: &str) -> Result<(Array, Said), Fault> {
        let Store::Folder(folder) = self else {
            return Err(Fault::new("{id} is for folders: an archive has no file for each sample"));
        };
        let (file, columns) = split_columns(name);
        if !within(file) {
            return Err(Fault::new("it leads out of the folder that is imported").within(name));
        }
        let path = folder.join(file);
        let part = match kind_of(file)? {
            FileKind::Npy => Part::Npy { path, start: 0, bytes: 0 },
            FileKind::Csv => Part::Csv { path, columns },
        };
        part.array().map_err(|fault| fault.within(name))
    }
}

/// Whether a file of a folder is in it, as any system reads its name.
fn within(path: &str) -> bool {
    files::leads_deeper(Path::new(path.trim_start_matches("./"))) && !path.contains('\\')
}

/// The values of a sample, in a file of their own.
#[derive(Debug)]
pub(super) enum Part {
    Npy { path: PathBuf, start: u64, bytes: usize },
    Csv { path: PathBuf, columns: Columns },
}

impl Part {
    fn array(self) -> Result<(Array, Said), Fault> {
        match self {
            Part::Npy { path, .. } => {
                let mut head = Vec::new();
                let open = File::open(&path).and_then(|file| {
                    let most = npy::LONGEST as u64 + 12;
                    file.take(most).read_to_end(&mut head)
                });
                open.map_err(|e| Fault::new(e.to_string()))?;
                let header = Header::read(&head)?;
                let (start, bytes) = (header.start as u64, header.bytes()?);
                if !header.dtype.is_number() || header.shape.contains(&0) {
                    return Err(Fault::new("an array of neither numbers nor steps"));
                }
                let payload = Payload::Later(Arc::new(Part::Npy { path, start, bytes }), bytes);
                Ok((header.array(payload), Said::default()))
            }
            Part::Csv { path, columns } => {
                // Read once for its size: only one sample is kept at a time.
                let table = csv::numbers(&path, &columns)?;
                let (steps, width, said) = (table.rows, table.width, table.said);
                // Without a face in any line there is nothing of this sample.
                let steps = if said.failed == steps { 0 } else { steps };
                let bytes = 4 * steps * width;
                let mut array = Array::owned(DType::F32, vec![steps, width], Vec::new());
                array.payload = Payload::Later(Arc::new(Part::Csv { path, columns }), bytes);
                Ok((array, said))
            }
        }
    }

    /// The items.
    pub(super) fn load(&self) -> Result<Vec<u8>, Fault> {
        match self {
            Part::Npy { path, start, bytes } => {
                let name = || path.display().to_string();
                let mut out = Vec::new();
                let read = File::open(path).and_then(|mut file| {
                    file.seek(SeekFrom::Start(*start))?;
                    file.take(*bytes as u64).read_to_end(&mut out)
                });
                read.map_err(|e| Fault::new(e.to_string()).within(&name()))?;
                match out.len() == *bytes {
                    true => Ok(out),
                    false => Err(Fault::new("the .npy file is cut short").within(&name())),
                }
            }
            Part::Csv { path, columns } => Ok(bytes_of(&csv::numbers(path, columns)?.values)),
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

enum FileKind {
    Npy,
    Csv,
}

fn kind_of(file: &str) -> Result<FileKind, Fault> {
    match Path::new(file).extension().and_then(|e| e.to_str()) {
        Some("npy") => Ok(FileKind::Npy),
        Some("csv" | "tsv" | "txt") => Ok(FileKind::Csv),
        _ => Err(Fault::new("neither a .npy nor a .csv, .tsv or .txt file")),
    }
}

/// `FILE.csv:columns` in its two parts.
fn split_columns(name: &str) -> (&str, Columns) {
    for mark in [".csv:", ".tsv:", ".txt:"] {
        if let Some(at) = name.find(mark) {
            return (&name[..at + 4], Columns::parse(&name[at + 5..]));
        }
    }
    (name, Columns::All)
}

/// Ids may be numbers.
fn numbers_as_texts(array: &Array, budget: &mut Budget) -> Result<Column, Fault> {
    if !array.dtype.is_number() {
        return strings(array, budget).map(Column::Texts);
    }
    if array.row_items() != 1 {
        return Err(Fault::new(format!("shape {:?} where strings belong", array.shape)));
    }
    let values = array.all(budget, |d, items, out: &mut Vec<i32>| d.ints(items, out))?;
    let values = values.map_err(|m| Fault::new(m.to_string()))?;
    let mut texts = Vec::new();
    for value in values {
        budget.text(&mut texts, &value.to_string())?;
    }
    Ok(Column::Texts(texts))
}

/// How many times its size an archive may unpack to, beyond a fixed room.
pub(super) const UNPACKED: u64 = 200;

/// Maps a temporary file that was written.
pub(super) fn mapped(file: &File) -> Result<Mmap, Fault> {
    // SAFETY: the file has no name and is ours alone.
    unsafe { Mmap::map(file) }.map_err(|e| Fault::new(format!("it cannot be unpacked ({e})")))
}

/// Unpacks an array into a temporary file: no more than its own header says, and than `room`.
fn unpacked(file: &mut impl Read, room: u64) -> Result<Mmap, Fault> {
    let fail = |e: io::Error| Fault::new(format!("it cannot be unpacked ({e})"));
    let mut head = Vec::new();
    file.by_ref().take(npy::LONGEST as u64 + 12).read_to_end(&mut head).map_err(fail)?;
    let header = Header::read(&head)?;
    let whole = (header.start + header.bytes()?) as u64;
    let object = header.dtype.kind == super::array::Kind::Object;
    let rest = if object { u64::MAX } else { whole.saturating_sub(head.len() as u64) };
    // One byte more tells that there was no end to it.
    let rest = rest.min((room + 1).saturating_sub(head.len() as u64));
    let mut out = tempfile::tempfile().map_err(fail)?;
    out.write_all(&head).map_err(fail)?;
    io::copy(&mut file.take(rest), &mut out).map_err(fail)?;
    out.flush().map_err(fail)?;
    let map = mapped(&out)?;
    if map.len() as u64 > room {
        return Err(Fault::new(format!(
            "the archive would unpack to more than {UNPACKED} times its size, which no features do; \
             save the arrays by numpy.savez, without compression"
        )));
    }
    Ok(map)
}
