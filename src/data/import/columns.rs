//! The columns of a table of text: what its first line calls them, and which of them a mapping means.

use super::Fault;

/// What a table's columns go by.
#[derive(Debug, PartialEq)]
pub(super) enum Head {
    /// The names in its first line.
    Names(Vec<String>),
    /// So many columns without names: its first line is data.
    Numbers(usize),
}

/// Columns of openSMILE's, of OpenFace's and of audEERING's tables that count or name the lines, each set by
/// the columns that tell such a table.
const COUNTING: [(&[&str], &[&str]); 3] = [
    (&["frameTime"], &["name", "frameIndex", "frameTime"]),
    (&["confidence", "success"], &["frame", "face_id", "timestamp", "confidence", "success"]),
    (&["file", "start", "end"], &["file", "start", "end"]),
];

impl Head {
    /// Of a table's first line.
    pub(super) fn of<'a>(cells: impl Iterator<Item = &'a str>) -> Head {
        // Excel begins its files with a byte order mark; OpenFace puts blanks before names, numpy a #.
        let cells = cells.map(|cell| cell.trim_start_matches('\u{feff}').trim());
        let mut names: Vec<String> = cells.map(Into::into).collect();
        let numbers = names.iter().filter(|name| name.parse::<f64>().is_ok()).count();
        let empty = names.iter().filter(|name| name.is_empty()).count();
        if numbers > 0 && numbers + empty == names.len() && !counting(&names) {
            return Head::Numbers(names.len());
        }
        if let Some(name) = names.first_mut().filter(|name| name.starts_with('#')) {
            *name = name.trim_start_matches('#').trim().to_string();
        }
        Head::Names(names)
    }

    /// How many columns.
    pub(super) fn width(&self) -> usize {
        match self {
            Head::Names(names) => names.len(),
            Head::Numbers(width) => *width,
        }
    }

    /// What they are called, where they have names.
    pub(super) fn names(&self) -> Option<&[String]> {
        match self {
            Head::Names(names) => Some(names),
            Head::Numbers(_) => None,
        }
    }

    /// A column as a message names it.
    pub(super) fn column(&self, at: usize) -> String {
        match self.names().and_then(|names| names.get(at)) {
            Some(name) => format!("column '{}'", shown(name)),
            None => format!("column {at}"),
        }
    }

    /// Whether the names are 0, 1, 2 and so on, as pandas writes them.
    pub(super) fn counts(&self) -> bool {
        self.names().is_some_and(counting)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names()?.iter().position(|column| column == name)
    }

    /// OpenFace's column that is 0 where it found no face.
    pub(super) fn success(&self) -> Option<usize> {
        self.find("confidence").and(self.find("success"))
    }

    /// OpenFace's column that tells several faces of one frame apart.
    pub(super) fn face(&self) -> Option<usize> {
        self.success().and(self.find("face_id"))
    }

    /// Columns that count or name the lines.
    fn bookkeeping(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for (signs, names) in COUNTING {
            if signs.iter().all(|sign| self.find(sign).is_some()) {
                found.extend(names.iter().filter_map(|name| self.find(name)));
            }
        }
        // pandas writes its index without a name.
        found.extend(self.find("").filter(|at| *at == 0));
        found.sort_unstable();
        found
    }
}

/// Whether names are those that pandas gives to columns that have none: 0, 1, 2 and so on, behind an index
/// without a name perhaps. A single 0 may as well be a number.
fn counting(names: &[String]) -> bool {
    let index = names.first().is_some_and(String::is_empty);
    let names = &names[usize::from(index)..];
    let fewest = if index { 1 } else { 2 };
    names.len() >= fewest && names.iter().enumerate().all(|(at, name)| *name == at.to_string())
}

/// Which columns are meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Columns {
    /// All, without those that count or name the lines.
    All,
    /// Some, in this order.
    Chosen(Vec<Wanted>),
}

/// A part of a list of columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// A name, or a number where there are no names, from 0.
    One(String),
    /// Neighbours, from the first to the last.
    Span(String, String),
    /// All whose names are like this, with anything in the place of each `*`.
    Family(String),
}

impl Columns {
    /// From what a mapping says behind the file's name: `a`, `a,b`, `a..b`, `AU*_r`, or several of them.
    pub(super) fn parse(text: &str) -> Columns {
        let parts = text.split(',').map(str::trim).map(|part| match part.split_once("..") {
            Some((first, last)) => Wanted::Span(first.trim().into(), last.trim().into()),
            None if part.contains('*') => Wanted::Family(part.into()),
            None => Wanted::One(part.into()),
        });
        Columns::Chosen(parts.collect())
    }

    /// Where they are, and the names of those that were left out of all.
    pub(super) fn find(&self, head: &Head) -> Result<(Vec<usize>, Vec<String>), Fault> {
        let Columns::Chosen(parts) = self else {
            let left = head.bookkeeping();
            let chosen: Vec<usize> = (0..head.width()).filter(|at| !left.contains(at)).collect();
            if chosen.is_empty() {
                return Err(Fault::new("no column but those that count or name its lines"));
            }
            let name = |at: usize| head.names().and_then(|names| names.get(at)).cloned();
            return Ok((chosen, left.into_iter().filter_map(name).collect()));
        };
        let mut chosen = Vec::new();
        for part in parts {
            match part {
                Wanted::One(name) => chosen.push(place(head, name)?),
                Wanted::Span(first, last) => {
                    let (first, last) = (place(head, first)?, place(head, last)?);
                    if last < first {
                        return Err(Fault::new("the last column of a span lies before its first"));
                    }
                    chosen.extend(first..=last);
                }
                Wanted::Family(family) => {
                    let before = chosen.len();
                    chosen.extend((0..head.width()).filter(|at| match head.names() {
                        Some(names) => like(&names[*at], family),
                        None => family == "*",
                    }));
                    if chosen.len() == before {
                        let what = match head.names() {
                            Some(names) => {
                                let names = listed(names.iter().map(String::as_str));
                                format!("; its columns are {names}")
                            }
                            None => {
                                ": its first line is of numbers, so columns go by number".into()
                            }
                        };
                        return Err(Fault::new(format!(
                            "no column is like '{}'{what}",
                            shown(family)
                        )));
                    }
                }
            }
        }
        Ok((chosen, Vec::new()))
    }
}

/// Where one column is.
fn place(head: &Head, name: &str) -> Result<usize, Fault> {
    let Some(names) = head.names() else {
        let (at, width) = (name.parse::<usize>().ok(), head.width());
        return at.filter(|at| *at < width).ok_or_else(|| {
            Fault::new(format!(
                "no column '{name}': its first line is of numbers, so columns go by number, here from \
                 0 to {}",
                width.saturating_sub(1)
            ))
        });
    };
    head.find(name).ok_or_else(|| {
        let close = crate::error::nearest(name, names.iter().map(String::as_str));
        Fault::new(format!("no column '{}', did you mean '{}'?", shown(name), shown(&close)))
    })
}

/// A name or a cell as a message may show it: a quote in a damaged table takes in the lines that follow.
pub(super) fn shown(cell: &str) -> String {
    cell.chars().take(40).collect::<String>().escape_debug().to_string()
}

/// Names as a message may show them.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 12;
    let mut names: Vec<String> = names.map(shown).collect();
    if names.len() > MOST {
        let more = names.len() - MOST;
        names.truncate(MOST);
        names.push(format!("… and {more} more"));
    }
    names.join(", ")
}

/// Whether a name is like a family's, with anything in the place of each `*`.
fn like(name: &str, family: &str) -> bool {
    let mut parts = family.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else { return name == family };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(line: &str) -> Head {
        Head::of(line.split(','))
    }

    #[test]
    fn a_line_of_numbers_is_no_header() {
        for line in
            ["1.5,2", "-0.1,nan,1e-3", "\u{feff}3,4", "7", "0", " 0.5, ,2", "0,1,3", "1,2,3"]
        {
            assert!(matches!(head(line), Head::Numbers(_)), "{line}");
        }
        for line in ["a,b", "a,1,2", "0,1,2", ",0", ",0,1", "# 1,2", "", ","] {
            assert!(matches!(head(line), Head::Names(_)), "{line}");
        }
        assert!(head("0,1,2").counts() && head(",0,1").counts() && !head("a,b").counts());
        assert_eq!(head("# a, b").names().unwrap(), ["a", "b"]);
    }

    #[test]
    fn families_are_told_by_what_is_around_the_star() {
        for (name, family, is) in [
            ("AU01_r", "AU*_r", true),
            ("AU01_c", "AU*_r", false),
            ("gaze_0_x", "gaze_*", true),
            ("gaze_0_x", "*_x", true),
            ("gaze_0_x", "g*_0_*", true),
            ("gaze_0_x", "g*_1_*", false),
            ("aa", "a*a", true),
            ("a", "a*a", false),
            ("any", "*", true),
            ("any", "any", true),
            ("anything", "any", false),
        ] {
            assert_eq!(like(name, family), is, "{name} {family}");
        }
    }

    #[test]
    fn lists_mix_names_spans_and_families() {
        let table =
            head("frame,face_id,timestamp,confidence,success,gaze_x,gaze_y,AU01_r,AU01_c,AU02_r");
        let at = |text: &str| Columns::parse(text).find(&table).map(|(chosen, _)| chosen);
        assert_eq!(at("AU*_r, gaze_x..gaze_y").unwrap(), [7, 9, 5, 6]);
        assert_eq!(at("success").unwrap(), [4]);
        assert!(at("pose_*").unwrap_err().what.contains("no column is like 'pose_*'"));
        assert!(at("AU02_r..gaze_x").unwrap_err().what.contains("before its first"));
        let (chosen, left) = Columns::All.find(&table).unwrap();
        assert_eq!(chosen, [5, 6, 7, 8, 9]);
        assert_eq!(left, ["frame", "face_id", "timestamp", "confidence", "success"]);
        let plain = head("0.5,1,2");
        let at = |text: &str| Columns::parse(text).find(&plain).map(|(chosen, _)| chosen);
        assert_eq!(at("2,0..1").unwrap(), [2, 0, 1]);
        assert_eq!(at("*").unwrap(), [0, 1, 2]);
        assert!(at("3").unwrap_err().what.contains("here from 0 to 2"));
        assert!(at("AU*").unwrap_err().what.contains("columns go by number"));
    }
}
