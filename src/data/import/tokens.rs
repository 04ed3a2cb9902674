//! Token ids, attention mask and segment ids, whichever way round a file has them.

use super::Fault;
use super::array::Array;
use super::budget::Budget;

/// The tokens of a split, rows x 3 x len, in the order ids, mask, segments.
pub(super) struct Tokens {
    pub(super) values: Vec<i32>,
    pub(super) len: usize,
    pub(super) from: String,
    pub(super) changes: Vec<String>,
}

impl Tokens {
    /// The tokens of each row that are no padding.
    pub(super) fn lengths(&self) -> Vec<i64> {
        let rows = self.values.chunks_exact(3 * self.len);
        rows.map(|row| row[self.len..2 * self.len].iter().map(|m| i64::from(*m)).sum()).collect()
    }
}

/// Tokens of a row, where the array is rows x 3 x tokens or rows x tokens x 3.
pub(super) fn len_of(array: &Array) -> Option<usize> {
    match *array.inner() {
        [3, len] | [len, 3] => Some(len),
        _ => None,
    }
}

/// Reads them all: whole numbers of whatever type. `order` says where ids, mask and segments are,
/// once a split has shown it.
pub(super) fn read(
    array: Array,
    order: &mut Option<[usize; 3]>,
    budget: &mut Budget,
) -> Result<Tokens, Fault> {
    let Some(len) = len_of(&array) else {
        return Err(Fault::new(format!(
            "shape {:?}, wanted rows x 3 x tokens: ids, attention mask, segment ids",
            array.shape
        )));
    };
    let mut changes = Vec::new();
    let from = array.dtype.to_string();
    let array = match array.inner()[0] == 3 {
        true => array,
        false => {
            changes.push("rows x tokens x 3 turned to rows x 3 x tokens".into());
            array.swapped()
        }
    };
    let values = array.all(budget, |dtype, items, out: &mut Vec<i32>| dtype.ints(items, out))?;
    let mut values = values.map_err(|m| {
        let (row, line) = (m.at / (3 * len), m.at / len % 3);
        Fault::new(format!("row {row}, line {line}: {m}; a token is a whole number"))
    })?;
    let order = *order.get_or_insert_with(|| order_of(&values, len));
    if order != [0, 1, 2] {
        let name = |at: usize| {
            ["ids", "mask", "segments"][order.iter().position(|o| *o == at).unwrap_or(at)]
        };
        changes.push(format!("lines were {}, {}, {}: put in order", name(0), name(1), name(2)));
        let mut line = vec![0; 3 * len];
        for row in values.chunks_exact_mut(3 * len) {
            line.copy_from_slice(row);
            for (to, from) in order.into_iter().enumerate() {
                row[to * len..][..len].copy_from_slice(&line[from * len..][..len]);
            }
        }
    }
    let mut empty = 0;
    for (at, row) in values.chunks_exact_mut(3 * len).enumerate() {
        let (ids, rest) = row.split_at_mut(len);
        let (mask, segments) = rest.split_at_mut(len);
        let wrong = |what: &str| Err(Fault::new(format!("row {at} has {what}; tokenise it again")));
        if ids.iter().any(|id| *id < 0) {
            return wrong("a negative token id");
        }
        if mask.iter().any(|m| !(0..=1).contains(m)) {
            return wrong("an attention mask value other than 0 and 1");
        }
        if segments.iter().any(|s| !(0..=1).contains(s)) {
            return wrong("a segment id other than 0 and 1");
        }
        if mask.iter().all(|m| *m == 0) {
            mask[0] = 1;
            empty += 1;
        }
    }
    if empty > 0 {
        changes.push(format!("{empty} rows without a token: their first one counts"));
    }
    Ok(Tokens { values, len, from, changes })
}

/// Which lines are ids, mask and segments. Ids are what goes beyond 1; the mask is 1 where ids are
/// not 0. Where the data does not say, the usual order is taken.
fn order_of(values: &[i32], len: usize) -> [usize; 3] {
    const USUAL: [usize; 3] = [0, 1, 2];
    let rows = || values.chunks_exact(3 * len);
    let large: Vec<usize> = USUAL
        .into_iter()
        .filter(|line| rows().any(|row| row[line * len..][..len].iter().any(|v| *v > 1)))
        .collect();
    let [ids] = *large else { return USUAL };
    let agreeing = |line: usize| -> usize {
        rows()
            .map(|row| {
                let (ids, mask) = (&row[ids * len..][..len], &row[line * len..][..len]);
                ids.iter().zip(mask).filter(|(id, m)| (**id != 0) == (**m == 1)).count()
            })
            .sum()
    };
    let mut others = USUAL.into_iter().filter(|line| *line != ids);
    let (Some(a), Some(b)) = (others.next(), others.next()) else { return USUAL };
    match agreeing(b) > agreeing(a) {
        true => [ids, b, a],
        false => [ids, a, b],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_told_from_the_data() {
        let (ids, mask, segments) = ([101, 9, 102, 0], [1, 1, 1, 0], [0, 0, 0, 0]);
        for (lines, order) in [
            ([ids, mask, segments], [0, 1, 2]),
            ([ids, segments, mask], [0, 2, 1]),
            ([mask, ids, segments], [1, 0, 2]),
            ([segments, mask, ids], [2, 1, 0]),
            // Nothing to tell by.
            ([mask, mask, segments], [0, 1, 2]),
        ] {
            assert_eq!(order_of(&lines.concat(), 4), order, "{lines:?}");
        }
    }
}
