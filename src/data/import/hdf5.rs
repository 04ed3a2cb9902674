//! HDF5 files: h5py's, and MATLAB's `.mat` files of version 7.3. What lies in one piece stays in the file;
//! chunks, compressed or not, are unpacked into temporary files, as those of `.npz` archives are.

use std::cell::Cell;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use hdf5_pure::{
    Dataset, Datatype, DatatypeByteOrder, File, FormatError, Group, Layout, Object, Source,
    VlenStringReadOptions,
};
use memmap2::Mmap;

use super::Fault;
use super::array::{Array, DType, Kind, Payload};
use super::budget::Budget;
use super::numpy::{c_strides, count, f_strides};
use super::store::{UNPACKED, mapped};
use super::table::{Column, all_empty, strings};

/// Where the format begins: at the file's beginning, or behind a block of whoever wrote it.
const BEGINNINGS: [usize; 4] = [0, 512, 1024, 2048];

/// Whether a file is one of HDF5.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let begins = |at: usize| bytes.get(at..at + 8) == Some(b"\x89HDF\r\n\x1a\n");
    BEGINNINGS.into_iter().any(begins)
}

/// Groups within groups, and members of a file, that are looked at.
const DEEPEST: usize = 8;
const MOST_MEMBERS: usize = 1 << 20;

/// The bytes of a map, as the format's reader asks for them.
struct Bytes(Arc<Mmap>);

impl Source for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), FormatError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let expected = start.saturating_add(out.len());
        let available = self.0.len();
        let bytes = self.0.get(start..expected);
        out.copy_from_slice(bytes.ok_or(FormatError::UnexpectedEof { expected, available })?);
        Ok(())
    }
}

/// What the format's reader says, as a fault.
fn fault(error: impl std::fmt::Display) -> Fault {
    let what: String = error.to_string().chars().take(160).collect();
    Fault::new(format!("it cannot be read as HDF5: {}", what.escape_debug()))
}

/// The arrays of a file.
pub(super) struct Hdf5 {
    map: Arc<Mmap>,
    file: File,
    /// Names with the groups that they are in, as `train/audio`.
    names: Vec<String>,
    /// MATLAB keeps its arrays with the last axis first.
    turned: bool,
    /// Bytes that may still be unpacked.
    room: Cell<u64>,
}

impl Hdf5 {
    /// Opens a file and lists its arrays.
    pub(super) fn open(map: &Arc<Mmap>) -> Result<Hdf5, Fault> {
        let file = File::from_source(Bytes(map.clone())).map_err(fault)?;
        let (mut names, mut left) = (Vec::new(), MOST_MEMBERS);
        walk(&file.root(), "", DEEPEST, &mut left, &mut names)?;
        if let Some((sequence, videos)) = sequence(&names) {
            return Err(Fault::new(format!(
                "a computational sequence of CMU-MultimodalSDK, '{sequence}' of {videos} videos, each with \
                 features and their intervals in seconds, but neither splits nor labels; align it to the \
                 labels with the SDK, and save arrays named like train_audio by numpy.savez"
            )));
        }
        let turned = map.starts_with(b"MATLAB 7.3");
        let room = Cell::new((map.len() as u64).saturating_mul(UNPACKED).saturating_add(64 << 20));
        Ok(Hdf5 { map: map.clone(), file, names, turned, room })
    }

    /// The names of its arrays.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// An array by its name, of strings where it holds such.
    pub(super) fn column(
        &self,
        name: &str,
        texts: bool,
        budget: &mut Budget,
    ) -> Result<Column, Fault> {
        let data = self.file.dataset(name).map_err(fault)?;
        let kind = data.datatype().map_err(fault)?;
        match kind {
            Datatype::VariableLength { is_string: true, .. } => self.texts(&data, budget),
            Datatype::Reference { .. } => self.cells(&data, texts, budget),
            _ => {
                let array = self.array(&data, budget)?;
                match array.dtype.kind {
                    Kind::Bytes => strings(&array, budget).map(Column::Texts),
                    _ => Ok(Column::Array(array)),
                }
            }
        }
    }

    /// Bytes of a row or a chunk that may be in memory at once: what compresses so well is no data.
    fn most(&self) -> u64 {
        (4 * self.map.len() as u64).max(8 << 20)
    }

    /// Strings of any length.
    fn texts(&self, data: &Dataset, budget: &mut Budget) -> Result<Column, Fault> {
        self.sizes(data, 1)?;
        let limits = VlenStringReadOptions::new()
            .with_max_elements(self.map.len())
            .with_max_payload_bytes(self.map.len());
        let (mut found, mut over) = (Vec::new(), None);
        let read = data.visit_vlen_strings(limits, |text| {
            if over.is_none() {
                over = budget.text(&mut found, text).err();
            }
        });
        match over {
            Some(over) => Err(over),
            None => read.map(|()| Column::Texts(found)).map_err(fault),
        }
    }

    /// A cell array of MATLAB's: strings, or a matrix of steps x features each.
    fn cells(&self, data: &Dataset, texts: bool, budget: &mut Budget) -> Result<Column, Fault> {
        let rows = self.sizes(data, 8)?.iter().product::<usize>();
        budget.charge(rows.saturating_mul(2 * size_of::<Array>()))?;
        let items = data.dereference().map_err(fault)?;
        let (mut found, mut arrays) = (Vec::new(), Vec::new());
        for (row, item) in items.iter().enumerate() {
            let Object::Dataset(item) = item else {
                return Err(Fault::new(format!("cell {row} is no array; save arrays or strings")));
            };
            let array = self.array(item, budget).map_err(|f| f.within(&format!("cell {row}")))?;
            if !texts {
                arrays.push(array);
                continue;
            }
            if array.dtype != (DType { kind: Kind::Uint, size: 2, big: false }) {
                return Err(Fault::new(format!("cell {row} is no string; save strings")));
            }
            let letters = array.all(budget, |d, items, out: &mut Vec<i32>| d.ints(items, out))?;
            let letters = letters.map_err(|m| Fault::new(m.to_string()))?;
            let letters: Vec<u16> = letters.into_iter().map(|letter| letter as u16).collect();
            budget.text(&mut found, &String::from_utf16_lossy(&letters))?;
        }
        if texts {
            return Ok(Column::Texts(found));
        }
        all_empty(&arrays)?;
        Ok(Column::Ragged(arrays))
    }

    /// The sizes of an array of items of so many bytes, the file's order, where they are not beyond reason.
    fn sizes(&self, data: &Dataset, item: usize) -> Result<Vec<usize>, Fault> {
        let shape = data.shape().map_err(fault)?;
        let sizes: Option<Vec<usize>> = shape.iter().map(|n| usize::try_from(*n).ok()).collect();
        let sizes = sizes.filter(|s| count(s).and_then(|n| n.checked_mul(item)).is_some());
        let sizes = sizes.ok_or_else(|| Fault::new("a shape beyond what can be counted"))?;
        if sizes.contains(&0) || sizes.is_empty() {
            return Err(Fault::new(format!("an array of shape {sizes:?} has no rows")));
        }
        let bytes = sizes.iter().product::<usize>() as u64 * item as u64;
        match bytes > self.room.get() {
            true => Err(too_large()),
            false => Ok(sizes),
        }
    }

    /// An array of numbers or of strings of one size.
    fn array(&self, data: &Dataset, budget: &mut Budget) -> Result<Array, Fault> {
        let dtype = named(&data.datatype().map_err(fault)?);
        if dtype.size == 0 || !(dtype.is_number() || dtype.kind == Kind::Bytes) {
            let what = "an array of neither numbers nor strings; save it as 32-bit floats";
            return Err(Fault::new(what));
        }
        let sizes = self.sizes(data, dtype.size)?;
        let bytes = sizes.iter().product::<usize>() * dtype.size;
        let payload = match data.layout().map_err(fault)? {
            Layout::Contiguous { address: Some(start), size } if size == bytes as u64 => {
                let start = usize::try_from(start).unwrap_or(usize::MAX);
                let range = start..start.saturating_add(bytes);
                if range.end > self.map.len() {
                    return Err(Fault::new("an array ends past the file; copy it again"));
                }
                Payload::Mapped { map: self.map.clone(), range, latin: false }
            }
            Layout::Compact { .. } => {
                budget.charge(2 * bytes)?;
                Payload::Owned(Arc::new(whole(data.read_raw().map_err(fault)?, bytes)?))
            }
            Layout::Chunked { chunk_shape, .. } => {
                self.room.set(self.room.get() - bytes as u64);
                let map = self.unpacked(data, &sizes, dtype.size, &chunk_shape)?;
                budget.unpacked(bytes);
                Payload::Mapped { map: Arc::new(map), range: 0..bytes, latin: false }
            }
            _ => {
                return Err(Fault::new(
                    "an array whose values are not in this file; save them in it",
                ));
            }
        };
        let mut shape = sizes;
        let mut strides = c_strides(&shape);
        if self.turned {
            shape.reverse();
            strides = f_strides(&shape);
            // A vector of MATLAB's lies on its side as often as not.
            if let [1, n] = shape[..] {
                (shape, strides) = (vec![n], vec![1]);
            }
        }
        Ok(Array { dtype, shape, strides, payload, picked: None })
    }

    /// Unpacks an array in chunks into a temporary file, some rows at a time.
    fn unpacked(
        &self,
        data: &Dataset,
        sizes: &[usize],
        item: usize,
        chunk: &[u64],
    ) -> Result<Mmap, Fault> {
        let most = self.most();
        let times = |sizes: &[u64]| {
            let bytes = sizes.iter().try_fold(item as u64, |n, size| n.checked_mul(*size));
            bytes.filter(|n| *n <= most)
        };
        let inner: Vec<u64> = sizes[1..].iter().map(|n| *n as u64).collect();
        let (Some(row), Some(_)) = (times(&inner), times(chunk)) else {
            return Err(Fault::new("a chunk far larger than its file; save it in smaller chunks"));
        };
        // Lengths of chunks are what the file says: none may be longer than it.
        for chunk in data.chunks().unwrap_or_default() {
            if chunk.storage_size > self.map.len() as u64 {
                return Err(Fault::new("a chunk is longer than its file; copy it again"));
            }
        }
        const BLOCK: u64 = 4 << 20;
        let rows = sizes[0] as u64;
        let high = chunk.first().copied().unwrap_or(1).clamp(1, rows);
        let step = (BLOCK / row.max(1)).clamp(1, rows).next_multiple_of(high);
        let step = if step.saturating_mul(row) > most { 1 } else { step };
        let out = tempfile::tempfile().map_err(fault)?;
        let mut buffered = BufWriter::new(&out);
        let mut at = 0;
        while at < rows {
            let wanted = step.min(rows - at);
            let bytes = data.read_raw_rows(at, wanted).map_err(fault)?;
            let bytes = whole(bytes, (wanted * row) as usize)?;
            buffered.write_all(&bytes).map_err(fault)?;
            at += wanted;
        }
        buffered.flush().map_err(fault)?;
        drop(buffered);
        mapped(&out)
    }
}

/// Bytes as many as a shape says.
fn whole(bytes: Vec<u8>, wanted: usize) -> Result<Vec<u8>, Fault> {
    match bytes.len() == wanted {
        true => Ok(bytes),
        false => {
            Err(Fault::new("an array has not the bytes that its shape says; copy the file again"))
        }
    }
}

fn too_large() -> Fault {
    Fault::new(format!("its arrays are more than {UNPACKED} times the file, which no features are"))
}

/// Lists the arrays of a group and of those within it.
fn walk(
    group: &Group,
    path: &str,
    depth: usize,
    left: &mut usize,
    names: &mut Vec<String>,
) -> Result<(), Fault> {
    let Some(deeper) = depth.checked_sub(1) else {
        return Err(Fault::new(format!("groups within groups, more than {DEEPEST} deep")));
    };
    let inside = |name: &str| if path.is_empty() { name.into() } else { format!("{path}/{name}") };
    let (arrays, groups) = (group.datasets().map_err(fault)?, group.groups().map_err(fault)?);
    *left = left
        .checked_sub(arrays.len() + groups.len())
        .ok_or_else(|| Fault::new(format!("more than {MOST_MEMBERS} arrays and groups")))?;
    names.extend(arrays.iter().map(|name| inside(name)));
    // MATLAB keeps what its cells refer to in groups with such names.
    for name in groups.iter().filter(|name| !name.starts_with('#')) {
        let inner = group.group(name).map_err(fault)?;
        walk(&inner, &inside(name), deeper, left, names)?;
    }
    Ok(())
}

/// The name of CMU's sequence whose arrays these are, and of how many videos it is.
fn sequence(names: &[String]) -> Option<(&str, usize)> {
    let part = |name: &'_ str| -> Option<(usize, bool)> {
        let (root, rest) = name.split_once("/data/")?;
        let (_, field) = rest.rsplit_once('/')?;
        Some((root.len(), field == "intervals"))
    };
    let mut all = names.iter().filter_map(|name| Some((name, part(name)?)));
    let (first, (root, _)) = all.clone().find(|(_, (_, intervals))| *intervals)?;
    let videos = all.by_ref().filter(|(_, (_, intervals))| *intervals).count();
    Some((&first[..root], videos))
}

/// numpy's name of a type.
fn named(kind: &Datatype) -> DType {
    let order = |order: DatatypeByteOrder| match order {
        DatatypeByteOrder::LittleEndian => Some(false),
        DatatypeByteOrder::BigEndian => Some(true),
        DatatypeByteOrder::Vax => None,
    };
    let found = match kind {
        Datatype::FixedPoint { size, byte_order, layout } => {
            let plain =
                layout.bit_offset == 0 && u64::from(layout.bit_precision) == 8 * u64::from(*size);
            let kind = if layout.signed { Kind::Int } else { Kind::Uint };
            order(*byte_order)
                .filter(|_| plain && matches!(size, 1 | 2 | 4 | 8))
                .map(|big| (kind, *size, big))
        }
        Datatype::FloatingPoint { size, byte_order, layout } => {
            let kind = match (size, layout.exponent_size, layout.mantissa_size) {
                (2, 8, 7) => Some(Kind::Brain),
                (2, 5, 10) | (4, 8, 23) | (8, 11, 52) => Some(Kind::Float),
                _ => None,
            };
            kind.zip(order(*byte_order)).map(|(kind, big)| (kind, *size, big))
        }
        // h5py's bool is one of two names.
        Datatype::Enumeration { base_type, .. } => return named(base_type),
        Datatype::String { size, .. } => Some((Kind::Bytes, *size, false)),
        _ => None,
    };
    found.map_or(DType::OTHER, |(kind, size, big)| DType { kind, size: size as usize, big })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_of_cmu_is_told_by_its_names() {
        let names =
            ["W/data/a/features", "W/data/a/intervals", "W/data/b/features", "W/data/b/intervals"];
        let names = names.map(String::from);
        assert_eq!(sequence(&names), Some(("W", 2)));
        assert_eq!(sequence(&names[..1]), None);
        assert_eq!(sequence(&["train/data/audio".to_string()]), None);
    }

    #[test]
    fn a_file_of_hdf5_may_begin_behind_a_block() {
        let mut bytes = b"\x89HDF\r\n\x1a\n".to_vec();
        assert!(is_one(&bytes) && !is_one(&bytes[..7]) && !is_one(b"\x89HDF"));
        bytes.splice(0..0, vec![0; 512]);
        assert!(is_one(&bytes));
        bytes.insert(0, 0);
        assert!(!is_one(&bytes));
    }
}
