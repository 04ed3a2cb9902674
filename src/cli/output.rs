//! Results on stdout: tables, JSON, and a reader that may go away at any time.

use crate::error::{Error, Result};
use crate::files::write_atomic;
use comfy_table::{
    Attribute, Cell, CellAlignment, ContentArrangement, Table, TableComponent, presets,
};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Writes text to stdout. Unlike `println!`, a closed pipe is an error value here.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{newline}")
        .and_then(|()| out.flush())
        .map_err(Error::io("write", "standard output"))
}

/// Writes a line to stderr, where nobody may be listening.
pub(super) fn note(line: &str) {
    show(&escaped(line));
}

/// The same of text that is made for a terminal, a table say.
pub(super) fn show(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Text with its control characters written out: names come from files of others, and a terminal does what
/// they say.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\n';
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let one = |c: char| if acts(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(one).collect())
}

/// Prints one JSON object.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    print(&to_json(value)?)
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Error::io("write", "standard output")(std::io::Error::other(e)))
}

/// Text to a file, whole or not at all, or to stdout.
pub(super) fn write_to(path: Option<&Path>, text: &str) -> Result<()> {
    match path {
        Some(path) => write_atomic(path, text.as_bytes()),
        None => print(text),
    }
}

/// Whether standard output takes colours.
pub(super) fn colours() -> bool {
    coloured(std::io::stdout().is_terminal())
}

/// Whether standard error does.
pub(super) fn error_colours() -> bool {
    coloured(std::io::stderr().is_terminal())
}

fn coloured(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A table with a header; `right` names the first column that holds numbers.
pub(super) fn table<S: Into<String>>(
    header: impl IntoIterator<Item = S>,
    right: usize,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_content_arrangement(ContentArrangement::Disabled);
    if !colours() {
        table.force_no_tty();
    }
    table
        .set_header(header.into_iter().map(|h| Cell::new(h.into()).add_attribute(Attribute::Bold)));
    rows.into_iter().for_each(|row| {
        table.add_row(row.iter().map(|cell| escaped(cell)));
    });
    for column in table.column_iter_mut().skip(right) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Text of a table, without blanks at line ends.
pub(super) fn text(table: &Table) -> String {
    if colours() { table.to_string() } else { table.trim_fmt() }
}

/// Prints tables, each under its title.
pub(super) fn tables(parts: &[(&str, Table)]) -> Result<()> {
    let all: Vec<String> = parts
        .iter()
        .map(|(title, table)| {
            let gap = if title.is_empty() { "" } else { "\n" };
            format!("{title}{gap}{}", text(table))
        })
        .collect();
    print(&all.join("\n\n"))
}

/// Two columns: names and what they are.
pub(super) fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// Bytes in the unit that suits them.
pub(super) fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{:.1} KiB", value / 1024.0),
        _ => format!("{:.1} MiB", value / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_trailing_blanks() {
        let t = table(["name", "value"], 1, [vec!["a".into(), "1.5".into()]]);
        assert!(text(&t).lines().all(|line| line.trim_end() == line), "{}", text(&t));
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(20_480), "20.0 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
    }
}
