//! Sequences that are padded at the front and have no lengths, as CMU's processed files are.

use super::Fault;
use super::array::Array;
use super::budget::Budget;
use super::convert::modalities;
use super::table::{Column, Fields, Table, any_named};
use crate::data::{Modality, SplitName};

/// Rows that are looked at to tell where the padding is.
const SAMPLE: usize = 64;

/// Gives lengths to streams that are padded at the front, by which their rows are then moved to the beginning.
/// A stream is so where every row of a sample of each split ends with values, and a quarter of them, two at
/// least, begins with zeros. Aligned streams are moved together, so that they stay aligned.
pub(super) fn find(table: &mut Table, budget: &mut Budget) -> Result<(), Fault> {
    let present = || table.splits.iter().filter(|fields| !fields.is_empty());
    let mut front: Vec<Modality> = Vec::new();
    for modality in modalities(table) {
        let mut all = true;
        for fields in present() {
            all = all
                && match stream(fields, modality) {
                    Some(array) => padded_at_front(array, budget)?,
                    None => false,
                };
        }
        if all {
            front.push(modality);
        }
    }
    for name in SplitName::ALL {
        let fields = &mut table.splits[name.index()];
        let own: Vec<(Modality, usize)> =
            front.iter().filter_map(|m| Some((*m, stream(fields, *m)?.inner()[0]))).collect();
        let mut found = Vec::new();
        for &(modality, steps) in &own {
            if let Some(array) = stream(fields, modality) {
                found.push((modality, steps, all_leads(array, array.rows(), budget)?));
            }
        }
        for (modality, steps, leads) in &found {
            // Of all that have as many steps, the one that begins first.
            let lengths: Vec<f64> = (0..leads.len())
                .map(|row| {
                    let others = found.iter().filter(|(_, other, _)| other == steps);
                    let lead = others
                        .filter_map(|(.., leads)| leads.get(row))
                        .map(|(lead, _)| *lead)
                        .min();
                    (steps - lead.unwrap_or(0)) as f64
                })
                .collect();
            if let Some(field) = any_named(&format!("{modality}_lengths")) {
                fields.insert(field, Column::Array(Array::column(&lengths)));
            }
        }
    }
    Ok(())
}

/// A stream of steps that nothing says the lengths of.
fn stream(fields: &Fields, modality: Modality) -> Option<&Array> {
    let told = fields.contains_key(format!("{modality}_lengths").as_str());
    if told || fields.contains_key("text_bert") {
        return None;
    }
    match fields.get(modality.name())? {
        Column::Array(array) if array.dtype.is_number() => {
            matches!(*array.inner(), [steps, dim] if steps > 1 && dim > 0).then_some(array)
        }
        _ => None,
    }
}

fn padded_at_front(array: &Array, budget: &mut Budget) -> Result<bool, Fault> {
    let rows = array.rows().min(SAMPLE);
    let leads = all_leads(array, rows, budget)?;
    let begins = leads.iter().filter(|(lead, _)| *lead > 0).count();
    Ok(leads.iter().all(|(_, ends)| *ends) && begins >= 2 && 4 * begins >= rows)
}

/// Of each of the first rows, how many steps of zeros it begins with, the last step aside, and whether its last
/// step holds anything.
fn all_leads(array: &Array, rows: usize, budget: &mut Budget) -> Result<Vec<(usize, bool)>, Fault> {
    let [steps, dim] = *array.inner() else { return Ok(Vec::new()) };
    budget.charge(rows * size_of::<(usize, bool)>() + steps * dim * size_of::<f32>())?;
    let mut reader = array.reader(budget)?;
    let (mut found, mut values) = (Vec::with_capacity(rows), Vec::new());
    for _ in 0..rows {
        values.clear();
        let items = reader.next(1)?;
        // What does not fit into a float is told where it is converted.
        let whole = array.dtype.floats(items, &mut values).is_ok();
        reader.forget();
        let zeros =
            |step: usize| whole && values[step * dim..(step + 1) * dim].iter().all(|x| *x == 0.0);
        let lead = (0..steps - 1).take_while(|step| zeros(*step)).count();
        found.push((lead, !zeros(steps - 1)));
    }
    Ok(found)
}
