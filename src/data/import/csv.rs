//! Tables of text: a line for each row (or step). The first line names the columns, unless it is a line of
//! numbers, as COVAREP, FACET and `numpy.savetxt` write them: then it is data, and columns go by number.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::Fault;
use super::columns::{Columns, Head, listed, shown};
use crate::data::delimiter;

/// What a table says beside its numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// The names of the columns taken; of a table without names there are none.
    pub(super) names: Option<Vec<String>>,
    /// Columns that count or name the lines, and were left out of all.
    pub(super) left: Vec<String>,
    /// The first line counts 0, 1, 2, … and was taken for names.
    pub(super) counted: bool,
    /// Lines in which OpenFace found no face: `success` is 0.
    pub(super) failed: usize,
}

impl Said {
    /// In words, of a table, or of all tables of a field, of so many lines.
    pub(super) fn notes(&self, of: &str, lines: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.left.is_empty() {
            let left = self.left.iter().map(|n| if n.is_empty() { "the index" } else { n });
            notes.push(format!("{of}: {} left out: no features", listed(left)));
        }
        if self.counted {
            notes.push(format!("{of}: the first line counts 0, 1, 2, …: taken for names"));
        }
        if self.failed > 0 {
            notes.push(format!(
                "{of}: {} of {lines} lines have success 0, no face was found: their values are 0",
                self.failed
            ));
        }
        notes
    }
}

/// The chosen columns of a table as numbers.
pub(super) struct Numbers {
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Row by row. An empty cell is NaN, a line without a face all zero.
    pub(super) values: Vec<f32>,
    pub(super) said: Said,
}

/// Bytes of the first line that are looked at.
const FIRST: u64 = 1 << 20;

/// Cells by line, whatever stands between them.
enum Lines {
    Marked(csv::Reader<File>),
    /// Blanks, any number of them: of numbers alone, so that nothing is quoted.
    Blank(BufReader<File>),
}

impl Lines {
    /// Opens a table, with what stands between the cells of its first line.
    fn open(path: &Path) -> Result<Lines, Fault> {
        let fail = |e: std::io::Error| Fault::new(e.to_string());
        let mut head = Vec::new();
        File::open(path).and_then(|f| f.take(FIRST).read_to_end(&mut head)).map_err(fail)?;
        let mut lines =
            head.split(|b| matches!(b, b'\n' | b'\r')).filter(|l| !l.trim_ascii().is_empty());
        let first = lines.clone().next().unwrap_or_default();
        let tabs = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("tsv"));
        let mark = if tabs { b'\t' } else { delimiter(first) };
        let plain = lines.find(|line| !line.starts_with(b"#")).unwrap_or_default();
        let plain = String::from_utf8_lossy(plain);
        let mut cells = plain.split_whitespace();
        let several = cells.clone().nth(1).is_some() && !plain.as_bytes().contains(&mark);
        if several && cells.all(|cell| cell.parse::<f64>().is_ok()) {
            return File::open(path).map(|file| Lines::Blank(BufReader::new(file))).map_err(fail);
        }
        let reader = csv::ReaderBuilder::new().delimiter(mark).has_headers(false).from_path(path);
        reader.map(Lines::Marked).map_err(|e| Fault::new(e.to_string()))
    }

    /// Reads the next line; `false` at the end.
    fn next(&mut self, record: &mut csv::StringRecord) -> Result<bool, Fault> {
        match self {
            Lines::Marked(reader) => {
                reader.read_record(record).map_err(|e| Fault::new(e.to_string()))
            }
            Lines::Blank(reader) => {
                let mut line = String::new();
                loop {
                    line.clear();
                    let read =
                        reader.read_line(&mut line).map_err(|e| Fault::new(e.to_string()))?;
                    let cells = line.split('#').next().unwrap_or_default();
                    if read == 0 {
                        return Ok(false);
                    }
                    if !cells.trim().is_empty() {
                        *record = cells.split_whitespace().collect::<Vec<_>>().into();
                        return Ok(true);
                    }
                }
            }
        }
    }
}

/// A file open behind its names.
struct Open {
    lines: Lines,
    head: Head,
    chosen: Vec<usize>,
    said: Said,
    /// The first line, where it is data.
    first: Option<csv::StringRecord>,
}

fn open(path: &Path, columns: &Columns) -> Result<Open, Fault> {
    let mut lines = Lines::open(path)?;
    let mut first = csv::StringRecord::new();
    if !lines.next(&mut first)? {
        return Err(Fault::new("the table is empty"));
    }
    let head = Head::of(first.iter());
    let (chosen, left) = columns.find(&head)?;
    let names = head.names().map(|names| chosen.iter().map(|at| names[*at].clone()).collect());
    let said = Said { names, left, counted: head.counts(), failed: 0 };
    let first = head.names().is_none().then_some(first);
    Ok(Open { lines, head, chosen, said, first })
}

impl Open {
    /// Hands each line to `take`, with where it is.
    fn each(
        &mut self,
        mut take: impl FnMut(&Head, &[usize], &str, &csv::StringRecord) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let (mut record, mut line) = (csv::StringRecord::new(), 0);
        let below = if self.first.is_some() { "" } else { " below the header" };
        loop {
            match self.first.take() {
                Some(first) => record = first,
                None if !self.lines.next(&mut record)? => return Ok(line),
                None => {}
            }
            line += 1;
            let place = format!("line {line}{below}");
            // The reader of marked cells holds lines to one width itself.
            if record.len() != self.head.width() {
                return Err(Fault::new(format!(
                    "{place} has {} cells where the first line has {}; mend the table",
                    record.len(),
                    self.head.width()
                )));
            }
            take(&self.head, &self.chosen, &place, &record)?;
        }
    }
}

/// The chosen columns as numbers. There may be no line below the names.
pub(super) fn numbers(path: &Path, columns: &Columns) -> Result<Numbers, Fault> {
    let mut table = open(path, columns)?;
    let (mut values, mut failed, mut face) = (Vec::new(), 0, None);
    let rows = table.each(|head, chosen, place, record| {
        let cell = |at: usize| record.get(at).unwrap_or_default().trim();
        if let Some(face_id) = head.face() {
            let id = cell(face_id).to_string();
            let first = face.get_or_insert_with(|| id.clone());
            if *first != id {
                return Err(Fault::new(format!(
                    "{place} is of face_id {}, the first of {}; keep the lines of one face",
                    shown(&id),
                    shown(first)
                )));
            }
        }
        if head.success().is_some_and(|at| cell(at).parse() == Ok(0.0)) {
            failed += 1;
            values.resize(values.len() + chosen.len(), 0.0);
            return Ok(());
        }
        for &column in chosen {
            let text = cell(column);
            let value = if text.is_empty() { Ok(f32::NAN) } else { text.parse::<f32>() };
            values.push(value.map_err(|_| {
                Fault::new(format!(
                    "{place}, {}: '{}' is no number; choose columns as FILE.csv:first..last or \
                     FILE.csv:a,b",
                    head.column(column),
                    shown(text)
                ))
            })?);
        }
        Ok(())
    })?;
    let said = Said { failed, ..table.said };
    Ok(Numbers { rows, width: table.chosen.len(), values, said })
}

/// One column as strings.
pub(super) fn texts(path: &Path, columns: &Columns) -> Result<Vec<String>, Fault> {
    let mut table = open(path, columns)?;
    if table.chosen.len() != 1 {
        return Err(Fault::new("strings come from one column; name it as FILE.csv:column"));
    }
    let mut texts = Vec::new();
    table.each(|_, chosen, _, record| {
        texts.extend(chosen.iter().map(|at| record.get(*at).unwrap_or_default().to_string()));
        Ok(())
    })?;
    match texts.is_empty() {
        true => Err(Fault::new("the table has no line below its header")),
        false => Ok(texts),
    }
}
