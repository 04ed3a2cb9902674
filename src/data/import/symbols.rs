//! Columns of whole numbers, from an `.npz` archive or a table of text: symbols and what they stand beside.

use super::store::Store;
use super::table::Column;
use super::{Fault, Opened, csv};
use crate::data::import::columns::Columns;
use crate::error::{Error, Result};
use std::path::Path;

/// Whole numbers up to here are the same in 32 bits of a float.
const MOST: f32 = (1 << 24) as f32;

/// The columns of these names, as long as each other; none where a cell is empty or no number.
///
/// # Errors
/// A file that is not there or not read here, a name that it lacks, columns of several numbers a row or of
/// different lengths, and numbers that are not whole.
pub fn symbols(path: &Path, names: &[String]) -> Result<Vec<Vec<Option<i64>>>> {
    let opened = Opened::new(path)?;
    let mut budget = opened.budget();
    let fail = |fault: Fault| fault.of(path);
    let packed = opened.map.as_ref().filter(|map| map.starts_with(b"PK"));
    let mut out = Vec::new();
    if let Some(map) = packed {
        let store = Store::archive(map, &mut budget).map_err(fail)?;
        for name in names {
            let Column::Array(array) =
                store.load(name, false, &mut budget, &mut Vec::new()).map_err(fail)?
            else {
                continue;
            };
            if array.row_items() != 1 {
                let shape = &array.shape;
                let detail =
                    format!("{name} has shape {shape:?}: a column of symbols has one number a row");
                return Err(Error::data(path, detail));
            }
            let values =
                array.all(&mut budget, |d, items, out: &mut Vec<f32>| d.floats(items, out));
            let values =
                values.map_err(fail)?.map_err(|m| fail(Fault::new(m.to_string()).within(name)))?;
            out.push(values);
        }
    } else {
        let table = csv::numbers(path, &Columns::parse(&names.join(","))).map_err(fail)?;
        out = (0..names.len())
            .map(|column| table.values.iter().skip(column).step_by(table.width).copied().collect())
            .collect();
    }
    if let Some((other, of)) = names.iter().zip(&out).find(|(_, of)| of.len() != out[0].len()) {
        let (first, rows) = (&names[0], out[0].len());
        let detail = format!(
            "{first} has {rows} rows and {other} {}: they stand for the same rows",
            of.len()
        );
        return Err(Error::data(path, detail));
    }
    let whole = |name: &str, row: usize, x: f32| match x {
        x if x.is_nan() => Ok(None),
        x if x.fract() == 0.0 && x.abs() <= MOST => Ok(Some(x as i64)),
        x => Err(Error::data(path, format!("{name}, row {row} is {x}: symbols are whole numbers"))),
    };
    names
        .iter()
        .zip(out)
        .map(|(name, of)| of.into_iter().enumerate().map(|(row, x)| whole(name, row, x)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_symbols_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bits.csv");
        std::fs::write(&path, "id,x1,x2,y\na,0,1,1\nb,1,,0\nc,1,1,\n").unwrap();
        let names = ["x1", "x2", "y"].map(String::from);
        let found = symbols(&path, &names).unwrap();
        let all = |of: [i64; 3]| of.map(|x| (x >= 0).then_some(x)).to_vec();
        assert_eq!(found, [all([0, 1, 1]), all([1, -1, 1]), all([1, 0, -1])]);
        let said = |text: &str| {
            std::fs::write(&path, text).unwrap();
            symbols(&path, &names).unwrap_err().to_string()
        };
        assert!(said("x1,x2,y\n0.5,1,1\n").contains("x1, row 0 is 0.5"));
        assert!(said("x1,x2\n0,1\n").contains('y'), "{}", said("x1,x2\n0,1\n"));
        let none = symbols(&dir.path().join("none.npz"), &names).unwrap_err().to_string();
        assert!(none.contains("no such file"), "{none}");
    }
}
