//! What is wrong with a shader, shown where it was written.

use crate::gpu::Origin;
use std::fmt::Write;
use std::ops::Range;

/// A place in a shader.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Label {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in the line as it was compiled.
    pub column: usize,
    /// Characters that are meant.
    pub width: usize,
    /// The line as it was compiled: with the values of `${…}`.
    pub text: String,
    /// What of it.
    pub note: String,
}

/// One error with its places.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Where; the first place is the one that matters most.
    pub labels: Vec<Label>,
    /// What else helps.
    pub notes: Vec<String>,
}

/// An expanded shader with the places that its lines come from.
pub(super) struct Expanded<'a> {
    pub file: &'a str,
    pub text: &'a str,
    pub origins: &'a [Origin],
}

impl Expanded<'_> {
    /// The place of some bytes of the text.
    pub fn label(&self, bytes: Range<usize>, note: &str) -> Label {
        let start = bytes.start.min(self.text.len());
        let first = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let index = self.text[..start].matches('\n').count();
        let line = self.text[first..].lines().next().unwrap_or_default();
        let column = self.text[first..start].chars().count();
        let end = bytes.end.clamp(start, first + line.len());
        let width = self.text[start.min(end)..end].trim_end().chars().count().max(1);
        let origin = self.origins.get(index.min(self.origins.len().saturating_sub(1)));
        Label {
            file: match origin.and_then(|o| o.shared) {
                Some(shared) => format!("#import {shared}"),
                None => self.file.into(),
            },
            line: origin.map_or(1, |o| o.line),
            column: column + 1,
            width,
            text: line.into(),
            note: note.into(),
        }
    }
}

impl Diagnostic {
    /// One without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), ..Self::default() }
    }

    /// Adds a place.
    pub fn at(mut self, label: Label) -> Self {
        self.labels.push(label);
        self
    }

    /// Adds a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// All of it in a line: place and message.
    pub fn line(&self) -> String {
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.labels.first() {
            Some(l) => format!("line {}, column {}: {message}", l.line, l.column),
            None => message,
        }
    }

    /// With the lines in question and a caret below each place; in colours for a terminal.
    pub fn render(&self, colours: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
        };
        let widest = self.labels.iter().map(|l| l.line).max().unwrap_or(1).to_string().len();
        let gutter = |text: &str| paint("1;34", &format!("{text:>widest$} |"));
        let mut out = format!("{}: {}\n", paint("1;31", "error"), paint("1", &self.message));
        let mut before: Option<&Label> = None;
        for label in &self.labels {
            let same = before.is_some_and(|b| (&b.file, b.line) == (&label.file, label.line));
            if !same {
                let place = format!("{}:{}:{}", label.file, label.line, label.column);
                let arrow = paint("1;34", &format!("{:>1$}", "-->", widest + 3));
                let _ = writeln!(out, "{arrow} {place}\n{}", gutter(""));
                let number = label.line.to_string();
                let _ = writeln!(out, "{} {}", gutter(&number), label.text.trim_end());
            }
            // Tabs stay tabs, so that the caret is below its character.
            let indent: String = label
                .text
                .chars()
                .take(label.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let marks = "^".repeat(label.width.max(1));
            let note = paint("1;31", format!("{marks} {}", label.note).trim_end());
            let _ = writeln!(out, "{} {indent}{note}", gutter(""));
            before = Some(label);
        }
        for note in &self.notes {
            let equals = paint("1;34", &format!("{:>1$}", "=", widest + 2));
            let _ = writeln!(out, "{equals} {note}");
        }
        out.truncate(out.trim_end().len());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Defines, expand_lines};

    #[test]
    fn a_caret_below_its_character() {
        let source = "#import mask\n#if A\nlet x = ${A + 1}u + q;\n#endif";
        let (text, origins) = expand_lines(source, &Defines::from([("A", 1)])).unwrap();
        let expanded = Expanded { file: "mine.wgsl", text: &text, origins: &origins };
        let at = text.find('q').filter(|at| text[*at..].starts_with("q;"));
        let at = at.unwrap_or_else(|| text.rfind('q').unwrap());
        let label = expanded.label(at..at + 1, "not known");
        assert_eq!((label.line, label.column, label.width), (3, 14, 1));
        let shown = Diagnostic::new("no q").at(label).note("A=1").render(false);
        let want = "error: no q\n --> mine.wgsl:3:14\n  |\n3 | let x = 2u + q;\n  |              ^ not known\n  = A=1";
        assert_eq!(shown, want, "{shown}");
        assert!(Diagnostic::new("x").render(true).contains("\x1b[1;31merror"));
    }
}
