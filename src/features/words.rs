//! Tables of words and when they are said: `id,word,start,end`, times in seconds.

use super::table::Table;
use crate::error::Result;
use std::collections::BTreeMap;
use std::path::Path;

/// A word and when it is said.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedWord {
    /// The word.
    pub word: String,
    /// Where it begins, in seconds from the beginning of its recording.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
}

/// Reads the words of each id, in the order of the table's lines, which must be that of time. Commas,
/// semicolons or tabs are between the columns `id`, `word`, `start` and `end`; others are not read.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) and, naming the line, [`Error::Data`](crate::Error::Data): a column that is
/// missing, no id, no word, times that are no numbers or negative, an end before its start, a word that begins
/// before the one in front of it.
pub fn read_words(path: impl AsRef<Path>) -> Result<BTreeMap<String, Vec<TimedWord>>> {
    let table = Table::read(path.as_ref())?;
    let found = || table.header().join(", ");
    let column = |name: &str| {
        let missing = || table.bad(1, format!("columns {}: wanted id, word, start, end", found()));
        table.column(name).ok_or_else(missing)
    };
    let (id, word) = (column("id")?, column("word")?);
    let (start, end) = (column("start")?, column("end")?);
    let mut rows: BTreeMap<String, Vec<TimedWord>> = BTreeMap::new();
    table.each(|line, record| {
        let text = |at: usize, what: &str| match record.get(at).unwrap_or_default() {
            "" => Err(table.bad(line, format!("no {what}"))),
            given => Ok(given.to_string()),
        };
        let time = |at: usize, what: &str| {
            let given = record.get(at).unwrap_or_default();
            let time = given.parse::<f64>().ok().filter(|t| t.is_finite() && *t >= 0.0);
            time.ok_or_else(|| {
                table.bad(line, format!("the {what} '{given}' is no time in seconds from 0 on"))
            })
        };
        let said = TimedWord {
            word: text(word, "word")?,
            start: time(start, "start")?,
            end: time(end, "end")?,
        };
        let id = text(id, "id")?;
        if said.end < said.start {
            let detail =
                format!("'{}' ends at {} and begins at {}", said.word, said.end, said.start);
            return Err(table.bad(line, detail));
        }
        let own = rows.entry(id).or_default();
        if let Some(before) = own.last().filter(|before| before.start > said.start) {
            let detail = format!(
                "'{}' begins at {}, before '{}' in front of it ({}): sort the table by time",
                said.word, said.start, before.word, before.start
            );
            return Err(table.bad(line, detail));
        }
        own.push(said);
        Ok(())
    })?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, Vec<TimedWord>>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.csv");
        std::fs::write(&path, text).unwrap();
        read_words(&path)
    }

    #[test]
    fn words_are_read_in_order() {
        let rows = read("id;start;end;word;by\na;0;0.5;so;x\nb;0.1;0.1;hm;y\na;0.5;1.25;good;x\n");
        let rows = rows.unwrap();
        assert_eq!((rows.len(), rows["a"].len(), rows["a"][1].end), (2, 2, 1.25));
        assert_eq!(rows["b"][0].word, "hm");
    }

    #[test]
    fn a_bad_line_is_named() {
        for (lines, wanted) in [
            ("a,so,0,x", "line 2: the end 'x' is no time"),
            ("a,so,0,1\na,good,-1,2", "line 3: the start '-1' is no time"),
            ("a,so,1,0.5", "line 2: 'so' ends at 0.5 and begins at 1"),
            ("a,so,1,2\nb,x,0,1\na,good,0.5,3", "line 4: 'good' begins at 0.5, before 'so'"),
            ("a,,1,2", "line 2: no word"),
            (",so,1,2", "line 2: no id"),
            ("a,so,1,inf", "line 2: the end 'inf'"),
        ] {
            let why = read(&format!("id,word,start,end\n{lines}\n")).unwrap_err().to_string();
            assert!(why.contains(wanted) && why.contains("words.csv"), "{why}");
        }
        let why = read("id,word,begin,end\n").unwrap_err().to_string();
        assert!(why.contains("columns id, word, begin, end: wanted id, word, start, end"), "{why}");
    }
}
