//! What items of an array are.

use std::fmt;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Float,
    /// The upper half of an f32, as torch's bfloat16.
    Brain,
    Int,
    Uint,
    Bool,
    /// numpy's `U`: four bytes a character.
    Unicode,
    /// numpy's `S`.
    Bytes,
    /// Python objects.
    Object,
    /// Anything else: complex numbers, dates, records.
    Other,
}

/// numpy's type of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DType {
    pub(crate) kind: Kind,
    /// Bytes of an item.
    pub(crate) size: usize,
    /// The most significant byte first.
    pub(crate) big: bool,
}

impl DType {
    /// A type that nothing can be read from.
    pub(crate) const OTHER: DType = DType { kind: Kind::Other, size: 0, big: false };
    /// From numpy's name, with or without a byte order: `f4`, `<i8`, `>U12`.
    pub(crate) fn named(name: &str) -> Option<DType> {
        let (big, name) = match name.as_bytes().first()? {
            b'>' => (true, &name[1..]),
            b'<' | b'|' => (false, &name[1..]),
            b'=' => (cfg!(target_endian = "big"), &name[1..]),
            _ => (false, name),
        };
        let (letter, digits) = (name.chars().next()?, name.get(1..)?);
        let size: usize = match digits {
            "" if letter == '?' => 1,
            "" if letter == 'O' => 8,
            _ => digits.parse().ok()?,
        };
        let kind = match (letter, size) {
            ('f', 2 | 4 | 8) => Kind::Float,
            ('i', 1 | 2 | 4 | 8) => Kind::Int,
            ('u', 1 | 2 | 4 | 8) => Kind::Uint,
            ('b' | '?', 1) => Kind::Bool,
            ('U', n) if n <= usize::MAX / 4 => {
                return Some(DType { kind: Kind::Unicode, size: 4 * n, big });
            }
            ('S' | 'a', _) => Kind::Bytes,
            ('O', _) => Kind::Object,
            _ => return None,
        };
        Some(DType { kind, size, big })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letter, size) = match self.kind {
            Kind::Float => ("f", self.size),
            Kind::Brain => return f.write_str("bf16"),
            Kind::Int => ("i", self.size),
            Kind::Uint => ("u", self.size),
            Kind::Bool => return f.write_str("bool"),
            Kind::Unicode => ("U", self.size / 4),
            Kind::Bytes => ("S", self.size),
            Kind::Object => return f.write_str("object"),
            Kind::Other => return f.write_str("other"),
        };
        let order = if self.big && self.size > 1 { ">" } else { "" };
        write!(f, "{order}{letter}{size}")
    }
}
