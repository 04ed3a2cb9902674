//! Rows, steps and features of a table, which have to agree before anything is written.

use std::collections::BTreeMap;

use super::Fault;
use super::convert::modalities;
use super::table::{Column, Fields, Table};
use super::tokens;
use crate::data::{Modality, SplitName};

/// The rows of a split, of which every field has as many.
pub(super) fn same_rows(name: SplitName, fields: &Fields) -> Result<usize, Fault> {
    let mut first: Option<(&str, usize)> = None;
    for (field, column) in fields {
        let rows = column.rows();
        match first {
            None => first = Some((field, rows)),
            Some((_, wanted)) if wanted == rows => {}
            Some((other, wanted)) => {
                return Err(Fault::new(format!(
                    "{name}.{field} has {rows} rows where {name}.{other} has {wanted}; every \
                     field of a split needs one row for each sample"
                )));
            }
        }
    }
    match first.map_or(0, |(_, rows)| rows) {
        0 => Err(Fault::new(format!("the {name} split has no rows"))),
        rows if u32::try_from(rows).is_err() => {
            Err(Fault::new(format!("the {name} split has {rows} rows; split the file")))
        }
        rows => Ok(rows),
    }
}

/// Steps and features of each modality over all splits.
pub(super) struct Shapes {
    pub(super) streams: BTreeMap<Modality, (usize, usize)>,
    /// Tokens, where all splits have them.
    pub(super) tokens: Option<usize>,
    /// Every split says how many steps are valid.
    pub(super) lengths: BTreeMap<Modality, bool>,
}

impl Shapes {
    pub(super) fn of(table: &Table) -> Result<Shapes, Fault> {
        let present = || {
            let named = SplitName::ALL.into_iter().map(|n| (n, &table.splits[n.index()]));
            named.filter(|(_, fields)| !fields.is_empty())
        };
        let mut shapes =
            Shapes { streams: BTreeMap::new(), tokens: None, lengths: BTreeMap::new() };
        for modality in modalities(table) {
            let mut found: Option<(SplitName, usize, usize)> = None;
            let mut missing = None;
            for (name, fields) in present() {
                let Some(column) = fields.get(modality.name()) else {
                    missing = Some(name);
                    continue;
                };
                let place = format!("{name}.{modality}");
                let (steps, dim) = steps_and_dim(column).map_err(|f| f.within(&place))?;
                found = Some(match found {
                    None => (name, steps, dim),
                    Some((first, most, width)) if width == dim => (first, most.max(steps), dim),
                    Some((first, _, width)) => {
                        return Err(Fault::new(format!(
                            "{place} has {dim} features where {first}.{modality} has {width}; \
                             extract both with the same settings"
                        )));
                    }
                });
            }
            if let (Some((with, ..)), Some(without)) = (found, missing) {
                return Err(Fault::new(format!(
                    "{with}.{modality} is there but {without}.{modality} is not; give every split \
                     the same modalities"
                )));
            }
            if let Some((_, steps, dim)) = found {
                shapes.streams.insert(modality, (steps, dim));
            }
            let lengths = format!("{modality}_lengths");
            let given = present().all(|(_, fields)| fields.contains_key(lengths.as_str()));
            shapes.lengths.insert(modality, given);
        }
        let lens: Vec<Option<usize>> = present()
            .map(|(_, fields)| match fields.get("text_bert")? {
                Column::Array(array) => tokens::len_of(array),
                _ => None,
            })
            .collect();
        shapes.tokens =
            lens.first().copied().flatten().filter(|n| lens.iter().all(|l| *l == Some(*n)));
        Ok(shapes)
    }
}

/// Steps (of the longest row) and features of a column.
pub(super) fn steps_and_dim(column: &Column) -> Result<(usize, usize), Fault> {
    let sizes = |inner: &[usize]| match *inner {
        [] => Some((1, 1)),
        [dim] => Some((1, dim)),
        [steps, dim] => Some((steps, dim)),
        _ => None,
    };
    let wrong = |shape: &[usize]| {
        Fault::new(format!("shape {shape:?}, wanted rows x steps x features; reshape it"))
    };
    match column {
        Column::Array(a) => sizes(a.inner()).ok_or_else(|| wrong(&a.shape)),
        Column::Ragged(arrays) => {
            let (mut most, mut width) = (0, None);
            for (row, array) in arrays.iter().enumerate() {
                let (steps, dim) = sizes(&array.shape).ok_or_else(|| wrong(&array.shape))?;
                most = most.max(steps);
                if *width.get_or_insert(dim) != dim {
                    return Err(Fault::new(format!(
                        "row {row} has {dim} features where row 0 has {}; extract all with the \
                         same settings",
                        width.unwrap_or(0)
                    )));
                }
            }
            Ok((most, width.unwrap_or(0)))
        }
        Column::Texts(_) => Err(Fault::new("strings where numbers belong")),
    }
}
