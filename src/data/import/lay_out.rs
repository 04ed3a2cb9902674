//! What each field of a split becomes: its tensors, their shapes, and what is mended on the way.

use super::array::{Array, DType, Misfit};
use super::budget::Budget;
use super::convert::{Fill, Plan, Rule, Stream, Tensor};
use super::shapes::{Shapes, steps_and_dim};
use super::table::{Column, Fields, TEXTS};
use super::tokens::{self, Tokens};
use super::{Fault, Options};
use crate::data::{Modality, SplitName};

/// Values of all rows, their shape, and the type that they had.
type Values<T> = (Vec<T>, Vec<usize>, String);

/// How many numbers a row may have.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// One, in an array with axes of size 1 behind the first at most.
    One,
    /// That, or the columns of a table.
    Table,
    /// Those of any shape, side by side.
    All,
}

/// A split on its way into a plan.
pub(super) struct SplitPlan<'a> {
    pub(super) name: SplitName,
    pub(super) fields: Fields,
    pub(super) shapes: &'a Shapes,
    pub(super) plan: &'a mut Plan,
}

impl SplitPlan<'_> {
    /// Adds its tensors and texts to the plan, in the order in which they will lie.
    pub(super) fn lay_out(
        &mut self,
        options: &Options,
        order: &mut Option<[usize; 3]>,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        let name = self.name;
        for field in TEXTS {
            if let Some(Column::Texts(texts)) = self.fields.remove(field) {
                self.plan.texts[name.index()].insert(field, texts);
            }
        }
        let mut tokens = self.tokens(order, budget)?;
        let mask = tokens.as_ref().map(Tokens::lengths);
        // Text, audio and vision may have lengths or missing rows to read without a stream.
        let others = self.shapes.streams.keys().copied().filter(|m| !Modality::KNOWN.contains(m));
        for modality in Modality::KNOWN.into_iter().chain(others) {
            self.stream(modality, mask.as_deref(), options, budget)?;
            self.missing(modality, budget)?;
            if modality == Modality::Text
                && let Some(Tokens { values, len, changes, from }) = tokens.take()
            {
                let shape = vec![self.rows(), 3, len];
                self.add("text_bert", shape, from, Fill::Ints(values), changes);
            }
        }
        for field in [
            "regression_labels",
            "regression_labels_T",
            "regression_labels_A",
            "regression_labels_V",
        ] {
            self.labels(field, options, budget)?;
        }
        self.classes(budget)?;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.plan.rows[self.name.index()]
    }

    fn place(&self, field: &str) -> String {
        format!("{}.{field}", self.name)
    }

    fn add(
        &mut self,
        field: &str,
        shape: Vec<usize>,
        from: String,
        fill: Fill,
        changes: Vec<String>,
    ) {
        let (name, split) = (self.place(field), self.name);
        self.plan.tensors.push(Tensor { name, split, shape, from, fill, changes });
    }

    fn array(&mut self, field: &str) -> Result<Option<Array>, Fault> {
        match self.fields.remove(field) {
            None => Ok(None),
            Some(Column::Array(array)) => Ok(Some(array)),
            Some(_) => Err(Fault::new("no array of equal rows").within(&self.place(field))),
        }
    }

    /// The numbers of each row, as many as are wanted. With their shape.
    fn column<T>(
        &mut self,
        field: &str,
        wanted: Wanted,
        budget: &mut Budget,
        convert: impl Fn(DType, &[u8], &mut Vec<T>) -> Result<(), Misfit>,
    ) -> Result<Option<Values<T>>, Fault> {
        let Some(array) = self.array(field)? else { return Ok(None) };
        let (place, width) = (self.place(field), array.row_items());
        let table = match wanted {
            Wanted::One => false,
            Wanted::Table => array.shape.len() == 2 && width > 1,
            Wanted::All => width > 1,
        };
        if width != 1 && !table {
            return Err(Fault::new(format!(
                "{place} has shape {:?}, wanted one number for each row{}",
                array.shape,
                if wanted == Wanted::Table {
                    "; choose one: --label-column 0, for one"
                } else {
                    ""
                }
            )));
        }
        let values = array.all(budget, convert).map_err(|f| f.within(&place))?;
        let values = values
            .map_err(|m| Fault::new(format!("{place}, row {}: {m}; mend it", m.at / width)))?;
        let shape = if table { vec![array.rows(), width] } else { vec![values.len()] };
        Ok(Some((values, shape, array.dtype.to_string())))
    }

    fn tokens(
        &mut self,
        order: &mut Option<[usize; 3]>,
        budget: &mut Budget,
    ) -> Result<Option<Tokens>, Fault> {
        let Some(array) = self.array("text_bert")? else { return Ok(None) };
        let place = self.place("text_bert");
        let tokens = tokens::read(array, order, budget).map_err(|f| f.within(&place))?;
        Ok(Some(tokens))
    }

    /// Which of a row's numbers `--label-column` names, and of how many.
    fn chosen(&self, field: &str, column: &str) -> Result<Option<(usize, usize)>, Fault> {
        /// Of CMU-MOSEI's labels, in the order in which its SDK gives them.
        const MOSEI: [&str; 7] =
            ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"];
        let Some(Column::Array(array)) = self.fields.get(field) else { return Ok(None) };
        let (place, width) = (self.place(field), array.row_items());
        let named = MOSEI.iter().position(|name| *name == column).filter(|_| width == MOSEI.len());
        let chosen = named.or_else(|| column.parse().ok()).filter(|at| *at < width);
        let chosen = chosen.ok_or_else(|| {
            let names = if width == MOSEI.len() { format!(" or {}", MOSEI.join(", ")) } else { String::new() };
            Fault::new(format!(
                "{place} has {width} numbers a row: --label-column '{column}' is none of 0 to {}{names}",
                width.saturating_sub(1)
            ))
        })?;
        Ok(Some((chosen, width)))
    }

    fn labels(&mut self, field: &str, options: &Options, budget: &mut Budget) -> Result<(), Fault> {
        // Of people who judge one modality there is one number.
        let several = field == "regression_labels";
        let chosen = match options.label_column.as_deref().filter(|_| several) {
            Some(column) => self.chosen(field, column)?,
            None => None,
        };
        let wanted = match (chosen, several) {
            (Some(_), _) => Wanted::All,
            (None, true) => Wanted::Table,
            (None, false) => Wanted::One,
        };
        let read = |d: DType, items: &[u8], out: &mut Vec<f32>| d.floats(items, out);
        let found = self.column(field, wanted, budget, read)?;
        let Some((mut values, mut shape, from)) = found else { return Ok(()) };
        let mut changes = Vec::new();
        if let Some((at, width)) = chosen {
            values = values.into_iter().skip(at).step_by(width).collect();
            shape = vec![values.len()];
            changes.push(format!("column {at} of {width}"));
        }
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(Fault::new(format!(
                "{}, row {} is {}; a label has to be a number: drop the row",
                self.place(field),
                at / shape.get(1).unwrap_or(&1),
                values[at]
            )));
        }
        self.add(field, shape, from, Fill::Floats(values), changes);
        Ok(())
    }

    /// Classes become numbers from 0; what is none is left out, since nothing needs it.
    fn classes(&mut self, budget: &mut Budget) -> Result<(), Fault> {
        let place = self.place("class_labels");
        let read = |d: DType, items: &[u8], out: &mut Vec<i32>| d.ints(items, out);
        let found = match self.column("class_labels", Wanted::Table, budget, read) {
            Ok(found) => found,
            Err(fault) => {
                let why = format!("class labels were left out: {}", fault.detail());
                self.plan.notes.push(why);
                None
            }
        };
        let Some((mut values, shape, from)) = found else { return Ok(()) };
        if shape.len() > 1 && values.iter().any(|v| !(0..=1).contains(v)) {
            let why = format!("{place} was left out: several labels a row are 0 and 1");
            self.plan.notes.push(why);
            return Ok(());
        }
        let least = values.iter().copied().min().unwrap_or(0);
        let mut changes = Vec::new();
        match least {
            0.. => {}
            -1 => {
                values.iter_mut().for_each(|v| *v += 1);
                changes.push("-1, 0, 1 numbered from 0".into());
            }
            _ => {
                self.plan.notes.push(format!("{place} was left out: class {least} is below -1"));
                return Ok(());
            }
        }
        self.add("class_labels", shape, from, Fill::Ints(values), changes);
        Ok(())
    }

    /// Which rows lack a modality.
    fn missing(&mut self, modality: Modality, budget: &mut Budget) -> Result<(), Fault> {
        let field = format!("{modality}_missing");
        let read = |d: DType, items: &[u8], out: &mut Vec<i32>| d.ints(items, out);
        let Some((values, shape, from)) = self.column(&field, Wanted::One, budget, read)? else {
            return Ok(());
        };
        if let Some(row) = values.iter().position(|v| !(0..=1).contains(v)) {
            return Err(Fault::new(format!(
                "{}, row {row} is {}; 1 says that the row lacks it, 0 that it is there",
                self.place(&field),
                values[row]
            )));
        }
        self.add(&field, shape, from, Fill::Ints(values), Vec::new());
        Ok(())
    }

    fn stream(
        &mut self,
        modality: Modality,
        mask: Option<&[i64]>,
        options: &Options,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        let lengths_field = format!("{modality}_lengths");
        let lengths = self.column(
            &lengths_field,
            Wanted::One,
            budget,
            |d: DType, items: &[u8], out: &mut Vec<i32>| d.ints(items, out),
        )?;
        let Some(&(steps, dim)) = self.shapes.streams.get(&modality) else { return Ok(()) };
        let Some(column) = self.fields.remove(modality.name()) else { return Ok(()) };
        let rows = self.rows();
        let place = self.place(modality.name());
        let ragged = matches!(column, Column::Ragged(_));
        let source = match column {
            Column::Array(array) => {
                let own = steps_and_dim(&Column::Array(array.clone()))?;
                vec![array.reshaped(&[own.0, own.1]).ok_or_else(|| Fault::new("no features"))?]
            }
            // A vector is one step.
            Column::Ragged(arrays) => arrays.into_iter().map(Array::into_steps).collect(),
            Column::Texts(_) => return Err(Fault::new("strings").within(&place)),
        };
        let from = source.first().map_or_else(String::new, |a| a.dtype.to_string());
        let own_steps = source.first().map_or(0, |a| a.inner().first().copied().unwrap_or(0));
        let mut changes = Vec::new();
        let given = self.shapes.lengths.get(&modality).copied().unwrap_or_default();
        let rule = match lengths {
            _ if steps == 1 => Rule::Single,
            _ if ragged => Rule::Given(source.iter().map(|a| a.shape[0] as i64).collect()),
            Some((lengths, ..)) if given => {
                Rule::Given(lengths.into_iter().map(i64::from).collect())
            }
            _ => match mask.filter(|_| self.shapes.tokens == Some(own_steps)) {
                Some(mask) => {
                    changes.push("lengths from the attention mask".into());
                    Rule::Given(mask.to_vec())
                }
                None => {
                    changes.push("lengths up to the last step that is not zero".into());
                    Rule::LastFrame
                }
            },
        };
        if !ragged && own_steps < steps {
            changes.push(format!("padded from {own_steps} to {steps} steps"));
        }
        let has_lengths = !matches!(rule, Rule::Single);
        let (log_of_zero, nan_to_zero) = (modality == Modality::Audio, options.nan_to_zero);
        let stream = Stream { source, ragged, rows, steps, dim, rule, log_of_zero, nan_to_zero };
        self.add(modality.name(), vec![rows, steps, dim], from, Fill::Stream(stream), changes);
        if has_lengths {
            self.add(&lengths_field, vec![rows], String::new(), Fill::Lengths, Vec::new());
        }
        Ok(())
    }
}
