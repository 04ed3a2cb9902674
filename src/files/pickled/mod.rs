//! Pickles of Python, read without running anything of them: arrays of numpy, tensors of PyTorch.

pub(crate) mod budget;
mod dtype;
pub(crate) mod numpy;
pub(crate) mod pickle;
pub(crate) mod torch;

use std::path::Path;

pub(crate) use self::dtype::{DType, Kind};
use crate::error::Error;

/// What is wrong with a source, before it has the file's name.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Byte of the file.
    at: Option<usize>,
    /// Which field.
    place: String,
    pub(crate) what: String,
}

impl Fault {
    pub(crate) fn new(what: impl Into<String>) -> Fault {
        Fault { at: None, place: String::new(), what: what.into() }
    }

    pub(crate) fn at(offset: usize, what: impl Into<String>) -> Fault {
        Fault { at: Some(offset), ..Fault::new(what) }
    }

    /// The same, in a field.
    pub(crate) fn within(self, place: &str) -> Fault {
        let place = match self.place.is_empty() {
            true => place.to_string(),
            false => format!("{place}: {}", self.place),
        };
        Fault { place, ..self }
    }

    pub(crate) fn detail(&self) -> String {
        let byte = self.at.map_or_else(String::new, |at| format!("byte {at}: "));
        match self.place.is_empty() {
            true => format!("{byte}{}", self.what),
            false => format!("{}: {byte}{}", self.place, self.what),
        }
    }

    pub(crate) fn of(self, path: &Path) -> Error {
        Error::data(path, self.detail())
    }
}
