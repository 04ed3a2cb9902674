//! What a data set says of its rows beside their features: numbers, classes, labels, and which modalities
//! they lack.

use safetensors::Dtype;

use super::SplitName;
use super::dataset::{Dataset, Options};
use super::open::Checker;
use super::stream::{floats, ints};
use super::task::Table;
use crate::error::{Error, Result};

/// A number of each row, or several.
pub(super) type Numbers = (Option<Vec<f32>>, Option<Table<f32>>);
/// A class of each row, or several labels that it has or not.
pub(super) type Classes = (Option<Vec<u32>>, Option<Table<u32>>);

/// Labels that are numbers and lie beyond a range.
pub(crate) struct Beyond {
    /// How many.
    pub(crate) count: usize,
    /// Of how many.
    pub(crate) of: usize,
    /// The one that is the farthest from 0: its split, row and value.
    pub(crate) farthest: (SplitName, usize, f32),
}

impl Dataset {
    /// The labels of all splits beyond ±`range`; nothing where there are none.
    pub(crate) fn labels_beyond(&self, range: f64) -> Option<Beyond> {
        let (mut of, mut count, mut farthest) = (0, 0, None::<(SplitName, usize, f32)>);
        for split in self.splits() {
            let labels = split.labels().unwrap_or_default();
            of += labels.len();
            let outside = |label: &f32| f64::from(label.abs()) > range + 1e-6;
            for (row, label) in labels.iter().enumerate().filter(|(_, label)| outside(label)) {
                count += 1;
                if farthest.is_none_or(|(.., most)| label.abs() > most.abs()) {
                    farthest = Some((split.name(), row, *label));
                }
            }
        }
        farthest.map(|farthest| Beyond { count, of, farthest })
    }
}

/// Checks that the numbers of all rows are what the settings say that they are, or makes them so where that
/// is wanted.
///
/// # Errors
/// [`Error::Data`], once for all labels beyond the range: how many, the largest, what to do.
pub(super) fn in_range(data: &mut Dataset, options: &Options) -> Result<()> {
    let range = options.label_range;
    let Some(found) = data.labels_beyond(range.into()) else { return Ok(()) };
    let Beyond { count, of, farthest: (split, row, label) } = found;
    if options.clip_labels {
        log::warn!(
            "{count} of {of} labels are beyond ±{range} and taken for that (the farthest, {split} row {row}, \
             is {label})"
        );
        for labels in data.splits.iter_mut().flatten().filter_map(|split| split.labels.as_mut()) {
            labels.iter_mut().for_each(|label| *label = label.clamp(-range, range));
        }
        return Ok(());
    }
    Err(Error::data(
        data.path(),
        format!(
            "{count} of {of} labels are outside -{range}..={range}, the farthest in \
             {split}.regression_labels, row {row}: {label}; rescale the labels, allow for them with --set \
             data.label_range={}, or take them for ±{range} with --set data.clip_labels=true",
            label.abs().ceil()
        ),
    ))
}

impl Checker<'_> {
    /// Rows that lack a modality: 1, or 0 where it is there.
    pub(super) fn missing(
        &self,
        tensor: &str,
        rows: &mut Option<(String, usize)>,
    ) -> Result<Option<Vec<bool>>> {
        if rows.is_none() {
            return Ok(None);
        }
        let Some(field) = self.field(tensor, Dtype::I32, &["rows"], rows)? else { return Ok(None) };
        let flags = ints(self.bytes(&field)).enumerate().map(|(row, flag)| match flag {
            0 | 1 => Ok(flag == 1),
            _ => Err(self.error(format!(
                "{tensor}, row {row} is {flag}; write 1 where the modality is missing and 0 where it is \
                 there"
            ))),
        });
        flags.collect::<Result<_>>().map(Some)
    }

    /// One number a row, or several.
    pub(super) fn labels(
        &self,
        tensor: &str,
        rows: &mut Option<(String, usize)>,
    ) -> Result<Numbers> {
        let several = self.columns(tensor);
        let axes: &[&str] = if several { &["rows", "numbers"] } else { &["rows"] };
        let Some(field) = self.field(tensor, Dtype::F32, axes, rows)? else {
            return Ok((None, None));
        };
        let values: Vec<f32> = floats(self.bytes(&field)).collect();
        let width = if several { field.shape[1] } else { 1 };
        if let Some(at) = values.iter().position(|label| !label.is_finite()) {
            return Err(self.error(format!(
                "{tensor}, row {} is {}; drop the row, or the whole tensor where the file is only for \
                 prediction",
                at / width,
                values[at]
            )));
        }
        Ok(if width == 1 { (Some(values), None) } else { (None, Some(Table { values, width })) })
    }

    /// Whether a tensor has several columns a row.
    fn columns(&self, tensor: &str) -> bool {
        self.tensors.get(tensor).is_some_and(|info| info.shape.len() == 2)
    }

    /// A class a row, or several labels that a row has or not.
    pub(super) fn class_labels(
        &self,
        tensor: &str,
        rows: &mut Option<(String, usize)>,
    ) -> Result<Classes> {
        let several = self.columns(tensor);
        let axes: &[&str] = if several { &["rows", "labels"] } else { &["rows"] };
        let Some(field) = self.field(tensor, Dtype::I32, axes, rows)? else {
            return Ok((None, None));
        };
        let width = if several { field.shape[1] } else { 1 };
        let classes = ints(self.bytes(&field)).enumerate().map(|(at, class)| match class {
            0 | 1 => Ok(class as u32),
            2..=9999 if !several => Ok(class as u32),
            _ => {
                let advice = match several {
                    true => "several labels a row are 0 and 1",
                    false => "number the classes from 0",
                };
                let row = at / width;
                Err(self.error(format!(
                    "{tensor}, row {row} is {class}; {advice}: write the file again"
                )))
            }
        });
        let values = classes.collect::<Result<Vec<u32>>>()?;
        Ok(if several { (None, Some(Table { values, width })) } else { (Some(values), None) })
    }
}
