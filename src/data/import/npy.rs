//! numpy's `.npy` format: a header that is a Python literal, then the items.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

use super::Fault;
use super::array::{Array, DType, Kind, Payload};
use super::budget::Budget;
use super::mmsa;
use super::numpy::{c_strides, count, f_strides};
use super::table::{Column, strings};

/// What a header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
    /// Where the items begin.
    pub(super) start: usize,
}

/// Bytes that a header may have: those of arrays of numbers have some 120.
pub(super) const LONGEST: usize = 1 << 16;

impl Header {
    /// Reads the header at the beginning of a file, of which `bytes` is a part at least.
    pub(super) fn read(bytes: &[u8]) -> Result<Header, Fault> {
        let cut = || Fault::new("the .npy file is cut short; copy it again");
        if bytes.get(..6) != Some(b"\x93NUMPY") {
            return Err(Fault::new("not a .npy file: it does not begin with \\x93NUMPY"));
        }
        let (length, from) = match bytes.get(6).ok_or_else(cut)? {
            1 => {
                let word = bytes.get(8..10).ok_or_else(cut)?;
                (usize::from(u16::from_le_bytes([word[0], word[1]])), 10)
            }
            2 | 3 => {
                let word = bytes.get(8..12).ok_or_else(cut)?;
                (u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize, 12)
            }
            version => return Err(Fault::new(format!(".npy version {version}; save it again"))),
        };
        if length > LONGEST {
            return Err(Fault::new(format!(
                "a .npy header of {length} bytes is of no plain array"
            )));
        }
        let text = bytes.get(from..from + length).ok_or_else(cut)?;
        let text = String::from_utf8_lossy(text);
        let damaged = |what: &str| Fault::new(format!("its .npy header has no {what}: {text:?}"));
        let descr = after(&text, "descr").ok_or_else(|| damaged("descr"))?;
        let dtype = match descr.strip_prefix(['\'', '"']) {
            Some(rest) => {
                let name = rest.split(['\'', '"']).next().unwrap_or_default();
                DType::named(name).unwrap_or(DType::OTHER)
            }
            // Records are lists of fields.
            None => DType::OTHER,
        };
        let fortran = after(&text, "fortran_order").ok_or_else(|| damaged("fortran_order"))?;
        let shape = after(&text, "shape").and_then(|s| s.strip_prefix('(')?.split(')').next());
        let shape = shape.ok_or_else(|| damaged("shape"))?;
        let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
        let shape: Option<Vec<usize>> = axes.take(33).map(|axis| axis.parse().ok()).collect();
        let shape = shape.filter(|s| s.len() <= 32).ok_or_else(|| damaged("shape of sizes"))?;
        let strides =
            if fortran.starts_with("True") { f_strides(&shape) } else { c_strides(&shape) };
        Ok(Header { dtype, shape, strides, start: from + length })
    }

    /// Bytes of all items.
    pub(super) fn bytes(&self) -> Result<usize, Fault> {
        let bytes = count(&self.shape).and_then(|n| n.checked_mul(self.dtype.size));
        bytes.ok_or_else(|| Fault::new("a shape beyond what can be counted"))
    }

    /// The array, its items somewhere.
    pub(super) fn array(self, payload: Payload) -> Array {
        let Header { dtype, shape, strides, .. } = self;
        Array { dtype, shape, strides, payload, picked: None }
    }
}

/// What follows a key of the header.
fn after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let rest =
        ["'", "\""].iter().find_map(|q| Some(text.split_once(&format!("{q}{key}{q}"))?.1))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

/// The array of a `.npy` file that lies in `range` of a map.
pub(super) fn column(
    map: &Arc<Mmap>,
    range: Range<usize>,
    budget: &mut Budget,
) -> Result<Column, Fault> {
    let bytes = map.get(range.clone()).unwrap_or_default();
    let header = Header::read(bytes)?;
    if header.shape.contains(&0) || header.shape.is_empty() {
        return Err(Fault::new(format!("an array of shape {:?} has no rows", header.shape)));
    }
    if header.dtype.size == 0 && matches!(header.dtype.kind, Kind::Unicode | Kind::Bytes) {
        return Err(Fault::new("an array of strings without room for a letter; save them again"));
    }
    let start = range.start + header.start;
    if header.dtype.kind == Kind::Object {
        return mmsa::object_array(map, start..range.end, budget);
    }
    let wanted = header.bytes()?;
    let found = bytes.len() - header.start;
    if found < wanted {
        return Err(Fault::new(format!(
            "the .npy file is cut short: shape {:?} wants {wanted} bytes, it has {found}",
            header.shape
        )));
    }
    let dtype = header.dtype;
    let payload = Payload::Mapped { map: map.clone(), range: start..start + wanted, latin: false };
    let array = header.array(payload);
    match dtype.kind {
        Kind::Unicode | Kind::Bytes => strings(&array, budget).map(Column::Texts),
        _ if dtype.is_number() => Ok(Column::Array(array)),
        _ => Err(Fault::new("an array of neither numbers nor strings; convert it with astype")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes
    }

    #[test]
    fn headers_are_read() {
        let text = "{'descr': '>f8', 'fortran_order': True, 'shape': (3, 4), }";
        let header = Header::read(&file(text)).unwrap();
        assert_eq!(header.dtype.to_string(), ">f8");
        assert_eq!((header.shape, header.strides), (vec![3, 4], vec![1, 3]));
        assert_eq!(header.start, 10 + text.len());
        let text = "{'descr': '<U7', 'fortran_order': False, 'shape': (3,), }";
        assert_eq!(Header::read(&file(text)).unwrap().dtype.size, 28);
    }

    #[test]
    fn bad_headers_are_errors() {
        for text in ["{'descr': '<f4'}", "", "{'descr': '<f4', 'fortran_order': False, 'shape': 3}"]
        {
            assert!(Header::read(&file(text)).is_err(), "{text}");
        }
        let whole = file("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }");
        for end in 0..whole.len() {
            assert!(Header::read(&whole[..end]).is_err(), "{end}");
        }
        let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 9), }";
        assert!(Header::read(&file(huge)).unwrap().bytes().is_err());
    }
}
