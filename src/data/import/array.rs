//! Arrays that lie in a foreign file, read row by row.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

use super::Fault;
use super::budget::Budget;
use super::numpy::{c_strides, count};
use super::store::Part;
pub(super) use crate::files::pickled::{DType, Kind};

/// Integers from here on are rounded when they become f64.
const EXACT: f64 = (1u64 << 53) as f64;

impl DType {
    /// For values that we made ourselves.
    pub(super) const F32: DType = DType { kind: Kind::Float, size: 4, big: false };
    /// The same, wide.
    pub(super) const F64: DType = DType { kind: Kind::Float, size: 8, big: false };

    /// Whether items are numbers.
    pub(super) fn is_number(self) -> bool {
        matches!(self.kind, Kind::Float | Kind::Brain | Kind::Int | Kind::Uint | Kind::Bool)
    }

    /// The value of an item. Integers beyond 2^53 are rounded, and then fit nowhere.
    fn value(self, item: &[u8]) -> f64 {
        let mut bits = [0u8; 8];
        match self.big {
            true => bits.iter_mut().zip(item.iter().rev()).for_each(|(b, i)| *b = *i),
            false => bits.iter_mut().zip(item).for_each(|(b, i)| *b = *i),
        }
        let bits = u64::from_le_bytes(bits);
        match (self.kind, self.size) {
            (Kind::Float, 2) => half::f16::from_bits(bits as u16).to_f64(),
            (Kind::Float, 4) => f32::from_bits(bits as u32).into(),
            (Kind::Float, _) => f64::from_bits(bits),
            (Kind::Brain, _) => half::bf16::from_bits(bits as u16).to_f64(),
            (Kind::Int, 1) => (bits as u8 as i8).into(),
            (Kind::Int, 2) => (bits as u16 as i16).into(),
            (Kind::Int, 4) => (bits as u32 as i32).into(),
            (Kind::Int, _) => bits as i64 as f64,
            (Kind::Bool, _) => f64::from(u8::from(bits != 0)),
            _ => bits as f64,
        }
    }

    /// The value of one item, where it is as long as the type says.
    pub(super) fn number(self, item: &[u8]) -> Option<f64> {
        (self.is_number() && item.len() == self.size).then(|| self.value(item))
    }

    /// Appends the values of `items` as f32; the first that does not fit is the error.
    pub(super) fn floats(self, items: &[u8], out: &mut Vec<f32>) -> Result<(), Misfit> {
        if self == DType::F32 {
            out.extend(items.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            return Ok(());
        }
        let before = out.len();
        let whole = matches!(self.kind, Kind::Int | Kind::Uint);
        for item in items.chunks_exact(self.size.max(1)) {
            let wide = self.value(item);
            let value = wide as f32;
            // What is finite stays finite, and an integer stays the same one.
            let changed = whole && (f64::from(value) != wide || wide.abs() >= EXACT);
            if changed || (wide.is_finite() && !value.is_finite()) {
                return Err(Misfit { at: out.len() - before, value: wide, into: "a 32-bit float" });
            }
            out.push(value);
        }
        Ok(())
    }

    /// Appends the values of `items` as i32; the first that is none is the error.
    pub(super) fn ints(self, items: &[u8], out: &mut Vec<i32>) -> Result<(), Misfit> {
        let before = out.len();
        for item in items.chunks_exact(self.size.max(1)) {
            let value = self.value(item);
            if value.fract() != 0.0 || value.abs() > i32::MAX.into() {
                return Err(Misfit { at: out.len() - before, value, into: "a 32-bit integer" });
            }
            out.push(value as i32);
        }
        Ok(())
    }
}

/// A value that its place in our format cannot hold.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Which item.
    pub(super) at: usize,
    pub(super) value: f64,
    pub(super) into: &'static str,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not fit into {}", self.value, self.into)
    }
}

/// Where items lie.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    /// In a mapped file; `latin` where a byte is a character of text.
    Mapped { map: Arc<Mmap>, range: Range<usize>, latin: bool },
    /// In memory.
    Owned(Arc<Vec<u8>>),
    /// So many bytes, read from a file of their own when their turn comes.
    Later(Arc<Part>, usize),
}

impl Payload {
    /// Bytes in the file or in memory.
    pub(super) fn len(&self) -> usize {
        match self {
            Payload::Mapped { range, .. } => range.len(),
            Payload::Owned(bytes) => bytes.len(),
            Payload::Later(_, bytes) => *bytes,
        }
    }
}

/// An array of numbers or fixed-size strings.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) dtype: DType,
    /// Rows first.
    pub(super) shape: Vec<usize>,
    /// In items.
    pub(super) strides: Vec<usize>,
    pub(super) payload: Payload,
    /// The rows that belong to this split, where a file has several.
    pub(super) picked: Option<Arc<Vec<u32>>>,
}

impl Array {
    /// An array in memory, last axis fastest.
    pub(super) fn owned(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Array {
        let strides = c_strides(&shape);
        Array { dtype, shape, strides, payload: Payload::Owned(Arc::new(bytes)), picked: None }
    }

    /// A column of numbers in memory.
    pub(super) fn column(values: &[f64]) -> Array {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Array::owned(DType::F64, vec![values.len()], bytes)
    }

    /// How many rows.
    pub(super) fn rows(&self) -> usize {
        self.picked.as_ref().map_or_else(|| self.shape.first().copied().unwrap_or(0), |p| p.len())
    }

    /// Sizes of the axes after the first.
    pub(super) fn inner(&self) -> &[usize] {
        self.shape.get(1..).unwrap_or_default()
    }

    /// Items of a row.
    pub(super) fn row_items(&self) -> usize {
        self.inner().iter().product()
    }

    /// The same items with axes of size 1 removed or added: `inner` has the same product.
    pub(super) fn reshaped(mut self, inner: &[usize]) -> Option<Array> {
        let kept = |shape: &[usize], strides: &[usize]| -> Vec<(usize, usize)> {
            let both = shape.iter().copied().zip(strides.iter().copied());
            both.filter(|(axis, _)| *axis != 1).collect()
        };
        let old = kept(self.inner(), self.strides.get(1..)?);
        let wanted: Vec<usize> = inner.iter().copied().filter(|a| *a != 1).collect();
        if old.iter().map(|(axis, _)| *axis).ne(wanted) {
            return None;
        }
        let (mut strides, mut rest) = (vec![*self.strides.first()?], old.into_iter());
        for axis in inner {
            strides.push(if *axis == 1 { 1 } else { rest.next()?.1 });
        }
        self.shape.truncate(1);
        self.shape.extend(inner);
        self.strides = strides;
        Some(self)
    }

    /// An array of steps x features; one that has a single axis is one step.
    pub(super) fn into_steps(mut self) -> Array {
        while self.shape.len() < 2 {
            self.shape.insert(0, 1);
            self.strides.insert(0, 1);
        }
        self
    }

    /// The same array with its last two axes exchanged.
    pub(super) fn swapped(mut self) -> Array {
        let n = self.shape.len();
        if n >= 2 {
            self.shape.swap(n - 1, n - 2);
            self.strides.swap(n - 1, n - 2);
        }
        self
    }

    /// The bytes as they lie in the file; of latin text, those of the text.
    fn raw(&self) -> &[u8] {
        match &self.payload {
            Payload::Mapped { map, range, .. } => map.get(range.clone()).unwrap_or_default(),
            Payload::Owned(bytes) => bytes,
            Payload::Later(..) => &[],
        }
    }

    /// Lets go of the pages that hold its first `bytes` bytes.
    fn forget(&self, bytes: usize) {
        #[cfg(unix)]
        if let Payload::Mapped { map, range, .. } = &self.payload {
            forget(map, range.start..range.start + bytes.min(range.len()));
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }

    /// Items of all rows lie one after the other.
    fn is_plain(&self) -> bool {
        let packed = c_strides(&self.shape);
        let same = |axis: usize| self.shape[axis] == 1 || self.strides[axis] == packed[axis];
        self.picked.is_none() && (0..self.shape.len()).all(same)
    }

    /// Reads rows in order.
    pub(super) fn reader(&self, budget: &mut Budget) -> Result<Reader<'_>, Fault> {
        let row_bytes = count(self.inner()).and_then(|n| n.checked_mul(self.dtype.size));
        let row_bytes = row_bytes.ok_or_else(|| Fault::new("a row beyond what can be counted"))?;
        let latin = matches!(self.payload, Payload::Mapped { latin: true, .. });
        let decoded = match &self.payload {
            Payload::Later(part, _) => Some(part.load()?),
            _ => None,
        };
        let mut reader =
            Reader { array: self, row_bytes, at: 0, text: 0, latin, decoded, held: vec![] };
        if latin && !self.is_plain() {
            // Items of text have no fixed places, so this rare case is decoded as a whole.
            let total = self.shape.iter().product::<usize>().saturating_mul(self.dtype.size);
            budget.charge(total.min(self.raw().len()))?;
            let mut all = Vec::new();
            reader.decode(total, &mut all)?;
            (reader.decoded, reader.latin) = (Some(all), false);
        }
        Ok(reader)
    }

    /// All values as f32, for small arrays; `None` past `most` items.
    pub(super) fn all<T>(
        &self,
        budget: &mut Budget,
        convert: impl Fn(DType, &[u8], &mut Vec<T>) -> Result<(), Misfit>,
    ) -> Result<Result<Vec<T>, Misfit>, Fault> {
        budget
            .charge(self.rows().saturating_mul(self.row_items()).saturating_mul(size_of::<T>()))?;
        let mut reader = self.reader(budget)?;
        let mut out = Vec::with_capacity(self.rows() * self.row_items());
        let step = block_rows(reader.row_bytes);
        let mut row = 0;
        while row < self.rows() {
            let rows = step.min(self.rows() - row);
            let before = out.len();
            if let Err(misfit) = convert(self.dtype, reader.next(rows)?, &mut out) {
                return Ok(Err(Misfit { at: before + misfit.at, ..misfit }));
            }
            row += rows;
        }
        Ok(Ok(out))
    }
}

/// Rows that are read at a time.
pub(super) fn block_rows(row_bytes: usize) -> usize {
    const BLOCK: usize = 4 << 20;
    (BLOCK / row_bytes.max(1)).max(1)
}

/// Goes through the rows of an array once.
pub(super) struct Reader<'a> {
    array: &'a Array,
    row_bytes: usize,
    /// The next row.
    at: usize,
    /// The next byte of latin text.
    text: usize,
    latin: bool,
    decoded: Option<Vec<u8>>,
    held: Vec<u8>,
}

impl Reader<'_> {
    /// The items of the next `rows` rows, one after the other.
    pub(super) fn next(&mut self, rows: usize) -> Result<&[u8], Fault> {
        let start = self.at;
        self.at += rows;
        if self.latin {
            let mut held = std::mem::take(&mut self.held);
            held.clear();
            self.decode(rows * self.row_bytes, &mut held)?;
            self.held = held;
            return Ok(&self.held);
        }
        let source = self.decoded.as_deref().unwrap_or_else(|| self.array.raw());
        let past = || Fault::new("an array ends before its last row: the file is damaged");
        if self.array.is_plain() {
            let range = start * self.row_bytes..self.at * self.row_bytes;
            return source.get(range).ok_or_else(past);
        }
        self.held.clear();
        self.held.resize(rows * self.row_bytes, 0);
        gather(self.array, source, start..self.at, &mut self.held).ok_or_else(past)?;
        Ok(&self.held)
    }

    /// Lets go of the pages that were read: they would count as memory of ours.
    pub(super) fn forget(&self) {
        let seen = if self.latin { self.text } else { self.at * self.row_bytes };
        self.array.forget(if self.array.is_plain() { seen } else { usize::MAX });
    }

    /// Decodes `bytes` bytes of latin text.
    fn decode(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        let text = self.array.raw().get(self.text..).unwrap_or_default();
        let wrong = || Fault::new("bytes kept as text that are none: the file is damaged");
        let mut used = 0;
        out.reserve(bytes.min(text.len()));
        for _ in 0..bytes {
            let first = *text.get(used).ok_or_else(wrong)?;
            used += 1;
            out.push(match first {
                0..=0x7f => first,
                // U+0080 to U+00FF are C2 80 to C3 BF.
                0xc2 | 0xc3 => {
                    let second =
                        *text.get(used).filter(|b| **b & 0xc0 == 0x80).ok_or_else(wrong)?;
                    used += 1;
                    (first << 6) | (second & 0x3f)
                }
                _ => return Err(wrong()),
            });
        }
        self.text += used;
        Ok(())
    }
}

/// Pages of a map that are no longer needed.
#[cfg(unix)]
fn forget(map: &Mmap, range: Range<usize>) {
    // SAFETY: the map is of a file and never written through; a dropped page is read from the file
    // again when it is touched.
    let done = unsafe {
        map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
    };
    // Only memory is saved by it.
    drop(done);
}

/// Copies rows of any strides into `out`.
fn gather(array: &Array, source: &[u8], rows: Range<usize>, out: &mut [u8]) -> Option<()> {
    let size = array.dtype.size;
    let (inner, strides) = (array.inner(), array.strides.get(1..)?);
    let row_stride = *array.strides.first()?;
    let items = array.row_items();
    // In Fortran's order every item is on a page of its own, and systems map some 16 pages at once:
    // after so many, 64 MiB were touched.
    const PAGES: usize = 1 << 10;
    let mut index = vec![0usize; inner.len()];
    let mut offset = 0usize;
    for item in 0..items {
        // Rows innermost: where axes are in Fortran's order, a column of rows lies together.
        for (k, row) in rows.clone().enumerate() {
            let row = match &array.picked {
                Some(picked) => *picked.get(row)? as usize,
                None => row,
            };
            let from = (row.checked_mul(row_stride)?.checked_add(offset)?).checked_mul(size)?;
            let to = (k * items + item) * size;
            out.get_mut(to..to + size)?.copy_from_slice(source.get(from..from + size)?);
        }
        if item % PAGES == PAGES - 1 {
            array.forget(usize::MAX);
        }
        for axis in (0..inner.len()).rev() {
            index[axis] += 1;
            offset += strides[axis];
            if index[axis] < inner[axis] {
                break;
            }
            offset -= strides[axis] * index[axis];
            index[axis] = 0;
        }
    }
    Some(())
}
