//! Tables of text: a line for each row (or step), a header that names the columns.

use std::path::Path;

use super::Fault;

/// Which columns are meant: all, some, or a span of neighbours.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Columns {
    All,
    Named(Vec<String>),
    Span(String, String),
}

impl Columns {
    /// From what a mapping says behind the file's name: `a`, `a,b` or `a..b`.
    pub(super) fn parse(text: &str) -> Columns {
        match text.split_once("..") {
            Some((first, last)) => Columns::Span(first.trim().into(), last.trim().into()),
            None => Columns::Named(text.split(',').map(|name| name.trim().into()).collect()),
        }
    }

    fn find(&self, header: &[String]) -> Result<Vec<usize>, Fault> {
        let at = |name: &str| {
            header.iter().position(|column| column == name).ok_or_else(|| {
                let close = crate::error::nearest(name, header.iter().map(String::as_str));
                Fault::new(format!("no column '{name}', did you mean '{close}'?"))
            })
        };
        match self {
            Columns::All => Ok((0..header.len()).collect()),
            Columns::Named(names) => names.iter().map(|name| at(name)).collect(),
            Columns::Span(first, last) => {
                let (first, last) = (at(first)?, at(last)?);
                match first <= last {
                    true => Ok((first..=last).collect()),
                    false => Err(Fault::new("the last column of a span lies before its first")),
                }
            }
        }
    }
}

/// A file open at its first line of values.
struct Open {
    reader: csv::Reader<std::fs::File>,
    chosen: Vec<usize>,
    header: Vec<String>,
}

fn open(path: &Path, columns: &Columns) -> Result<Open, Fault> {
    let tabs = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("tsv"));
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .from_path(path)
        .map_err(|e| Fault::new(e.to_string()))?;
    let header = reader.headers().map_err(|e| Fault::new(e.to_string()))?;
    // Excel begins its files with a byte order mark; OpenFace puts blanks before names.
    let header: Vec<String> =
        header.iter().map(|name| name.trim_start_matches('\u{feff}').trim().into()).collect();
    let chosen = columns.find(&header)?;
    Ok(Open { reader, chosen, header })
}

impl Open {
    /// Hands each chosen cell of each line to `take`, with its line, from 1 without the header.
    fn each(
        mut self,
        mut take: impl FnMut(usize, &str, &str) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let mut record = csv::StringRecord::new();
        let mut line = 0;
        while self.reader.read_record(&mut record).map_err(|e| Fault::new(e.to_string()))? {
            line += 1;
            for &column in &self.chosen {
                let cell = record.get(column).unwrap_or_default();
                take(line, &self.header[column], cell)?;
            }
        }
        match line {
            0 => Err(Fault::new("the table has no line below its header")),
            _ => Ok(line),
        }
    }
}

/// The chosen columns as numbers: rows, columns, values. An empty cell is NaN.
pub(super) fn numbers(path: &Path, columns: &Columns) -> Result<(usize, usize, Vec<f32>), Fault> {
    let table = open(path, columns)?;
    let width = table.chosen.len();
    let mut values = Vec::new();
    let rows = table.each(|line, column, cell| {
        let cell = cell.trim();
        let value = if cell.is_empty() { Ok(f32::NAN) } else { cell.parse::<f32>() };
        match value {
            Ok(value) => values.push(value),
            Err(_) => {
                let cell: String = cell.chars().take(40).collect();
                return Err(Fault::new(format!(
                    "line {line} below the header, column '{column}': '{cell}' is no number; choose \
                     columns as FILE.csv:first..last or FILE.csv:a,b"
                )));
            }
        }
        Ok(())
    })?;
    Ok((rows, width, values))
}

/// One column as strings.
pub(super) fn texts(path: &Path, columns: &Columns) -> Result<Vec<String>, Fault> {
    let table = open(path, columns)?;
    if table.chosen.len() != 1 {
        return Err(Fault::new("strings come from one column; name it as FILE.csv:column"));
    }
    let mut texts = Vec::new();
    table.each(|_, _, cell| {
        texts.push(cell.to_string());
        Ok(())
    })?;
    Ok(texts)
}
