//! Tables that people made: a first line that names the columns, and commas, semicolons or tabs.

use crate::data::delimiter;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A table in memory.
pub(super) struct Table {
    path: PathBuf,
    bytes: Vec<u8>,
    delimiter: u8,
    header: Vec<String>,
}

impl Table {
    /// Reads a table and its first line.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] for a first line that is none of a table.
    pub(super) fn read(path: &Path) -> Result<Table> {
        let mut bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        if bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let delimiter = delimiter(first);
        let mut table = Table { path: path.into(), bytes, delimiter, header: Vec::new() };
        let header = table.reader().headers().map_err(|e| table.unreadable(&e))?.clone();
        table.header = header.iter().map(String::from).collect();
        Ok(table)
    }

    /// The names of the columns.
    pub(super) fn header(&self) -> &[String] {
        &self.header
    }

    /// Where a column is.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|h| h == name)
    }

    fn reader(&self) -> csv::Reader<&[u8]> {
        csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .delimiter(self.delimiter)
            .from_reader(&self.bytes)
    }

    /// Hands each line to `take`, with its number in the file, from 1.
    ///
    /// # Errors
    /// [`Error::Data`], naming the line: one that cannot be read; those of `take`.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(usize, &csv::StringRecord) -> Result<()>,
    ) -> Result<()> {
        for record in self.reader().records() {
            let record = record.map_err(|e| self.unreadable(&e))?;
            take(self.line_at(record.position()), &record)?;
        }
        Ok(())
    }

    /// What is wrong with a line.
    pub(super) fn bad(&self, line: usize, what: impl std::fmt::Display) -> Error {
        Error::data(&self.path, format!("line {line}: {what}"))
    }

    fn unreadable(&self, error: &csv::Error) -> Error {
        self.bad(self.line_at(error.position()), format!("{error}; mend the table"))
    }

    /// The reader's own count is one behind after a line that ends as Windows has it.
    fn line_at(&self, at: Option<&csv::Position>) -> usize {
        let at = at.map_or(0, |at| at.byte() as usize).min(self.bytes.len());
        let blank = self.bytes[at..].iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
        1 + self.bytes[..at + blank].iter().filter(|b| **b == b'\n').count()
    }
}
