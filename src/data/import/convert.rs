//! What each column becomes: which tensors, of which shape, and what is mended on the way.

use std::collections::{BTreeMap, BTreeSet};

use super::array::{Array, DType, Misfit};
use super::budget::Budget;
use super::known;
use super::padding;
use super::table::{Column, Fields, NUMBERS, TEXTS, Table, is_stream, other_named};
use super::tokens::{self, Tokens};
use super::{Fault, Options, TensorReport};
use crate::data::{Modality, SplitName};

/// Values of all rows, their shape, and the type that they had.
type Values<T> = (Vec<T>, Vec<usize>, String);

/// A tensor to be written.
pub(super) struct Tensor {
    /// `train.audio`.
    pub(super) name: String,
    pub(super) split: SplitName,
    pub(super) shape: Vec<usize>,
    /// What the source called its type.
    pub(super) from: String,
    pub(super) fill: Fill,
    /// What was changed, in words.
    pub(super) changes: Vec<String>,
}

impl Tensor {
    /// What is said of it in the end.
    pub(super) fn report(self) -> TensorReport {
        let Tensor { name, split, shape, from, changes, .. } = self;
        let field = name.split_once('.').map_or(name.as_str(), |(_, field)| field).to_string();
        TensorReport { split, field, shape, from, changes }
    }
}

/// Where a tensor's values come from.
pub(super) enum Fill {
    Floats(Vec<f32>),
    Ints(Vec<i32>),
    /// Features, streamed from the source.
    Stream(Stream),
    /// The valid steps of the stream before it, which are known once that was written.
    Lengths,
}

/// How the valid steps of a row are found.
pub(super) enum Rule {
    /// Every row is one step.
    Single,
    /// The file says, or its attention mask does.
    Given(Vec<i64>),
    /// Up to the last step that is not all zero.
    LastFrame,
}

/// Features of one modality.
pub(super) struct Stream {
    pub(super) source: Vec<Array>,
    /// `source` has an array for each row.
    pub(super) ragged: bool,
    pub(super) rows: usize,
    /// Steps of the tensor: those of the longest split.
    pub(super) steps: usize,
    pub(super) dim: usize,
    pub(super) rule: Rule,
    /// -inf becomes 0, as MMSA's loader does for audio.
    pub(super) log_of_zero: bool,
    /// So does all else that is no number.
    pub(super) nan_to_zero: bool,
}

/// All that will be written.
pub(super) struct Plan {
    pub(super) tensors: Vec<Tensor>,
    /// Strings of the side file, by split and field.
    pub(super) texts: [BTreeMap<&'static str, Vec<String>>; 3],
    pub(super) rows: [usize; 3],
    pub(super) notes: Vec<String>,
    pub(super) left: Vec<String>,
}

impl Plan {
    /// Features of a step of a modality.
    pub(super) fn width(&self, modality: Modality) -> Option<usize> {
        self.tensors.iter().find_map(|t| match &t.fill {
            Fill::Stream(s) if t.name.ends_with(&format!(".{modality}")) => Some(s.dim),
            _ => None,
        })
    }

    /// Fields of the side file.
    pub(super) fn text_names(&self) -> Vec<String> {
        let named = SplitName::ALL.into_iter().map(|n| (n, &self.texts[n.index()]));
        named.flat_map(|(n, texts)| texts.keys().map(move |f| format!("{n}.{f}"))).collect()
    }

    /// Rows of the training split.
    pub(super) fn train_rows(&self) -> Option<usize> {
        Some(self.rows[SplitName::Train.index()]).filter(|rows| *rows > 0)
    }

    /// Whether modalities have labels of their own.
    pub(super) fn has_own_labels(&self) -> bool {
        self.tensors.iter().any(|t| t.name.ends_with(".regression_labels_T"))
    }

    /// The largest size of a label; infinite without labels.
    pub(super) fn largest_label(&self) -> f32 {
        let labels = self.tensors.iter().filter(|t| t.name.ends_with(".regression_labels"));
        let sizes = labels.filter_map(|t| match &t.fill {
            Fill::Floats(values) => Some(values.iter().fold(0f32, |most, x| most.max(x.abs()))),
            _ => None,
        });
        sizes.reduce(f32::max).unwrap_or(f32::INFINITY)
    }
}

/// Lays out the tensors of a table.
pub(super) fn plan(
    mut table: Table,
    options: &Options,
    budget: &mut Budget,
) -> Result<Plan, Fault> {
    let mut notes = std::mem::take(&mut table.notes);
    exchanged(&mut table, &mut notes);
    let mut plan = Plan {
        tensors: Vec::new(),
        texts: Default::default(),
        rows: [0; 3],
        notes,
        left: std::mem::take(&mut table.left),
    };
    leave_others(&mut table, &mut plan.left);
    padding::find(&mut table, budget)?;
    let shapes = Shapes::of(&table)?;
    let mut order = None;
    for name in SplitName::ALL {
        let fields = std::mem::take(&mut table.splits[name.index()]);
        if fields.is_empty() {
            continue;
        }
        plan.rows[name.index()] = same_rows(name, &fields)?;
        let mut split = SplitPlan { name, fields, shapes: &shapes, plan: &mut plan };
        split.lay_out(options, &mut order, budget)?;
    }
    if plan.tensors.is_empty() {
        return Err(Fault::new("there is nothing to convert: no split has a field of its own"));
    }
    let notes = merged(&plan.notes);
    plan.notes = notes;
    Ok(plan)
}

/// The modalities that any split has a column of.
pub(super) fn modalities(table: &Table) -> BTreeSet<Modality> {
    let fields = table.splits.iter().flat_map(|fields| fields.keys());
    let own = fields.filter_map(|field| Modality::named(field).ok());
    own.filter(|m| Modality::KNOWN.contains(m) || other_named(m.name()).is_some()).collect()
}

/// Fields of other names that are no streams, and what is said of streams that are not there, stay behind.
fn leave_others(table: &mut Table, left: &mut Vec<String>) {
    for name in SplitName::ALL {
        let fields = &mut table.splits[name.index()];
        let ours = |field: &str| TEXTS.contains(&field) || NUMBERS.contains(&field);
        let streams = |(field, column): (&&'static str, &Column)| match column {
            Column::Array(array) => is_stream(array).then_some(*field),
            Column::Ragged(_) => Some(*field),
            Column::Texts(_) => None,
        };
        let streams: BTreeSet<&str> = fields.iter().filter_map(streams).collect();
        fields.retain(|field, _| {
            let of = Modality::of_field(field).is_some_and(|(m, _)| streams.contains(m.name()));
            if !of && !ours(field) {
                left.push(format!("{name}.{field}"));
            }
            of || ours(field)
        });
    }
}

/// Audio and vision under each other's names, told by their widths.
fn exchanged(table: &mut Table, notes: &mut Vec<String>) {
    let width = |field: &str| {
        table.splits.iter().find_map(|split| match split.get(field)? {
            Column::Array(array) => array.shape.get(2).copied(),
            _ => None,
        })
    };
    let (audio, vision) = (width("audio"), width("vision"));
    if known::family(audio, vision).is_some() {
        return;
    }
    let Some(family) = known::family(vision, audio) else { return };
    for split in &mut table.splits {
        for (a, v) in [
            ("audio", "vision"),
            ("audio_lengths", "vision_lengths"),
            ("audio_missing", "vision_missing"),
        ] {
            let (one, two) = (split.remove(a), split.remove(v));
            one.map(|column| split.insert(v, column));
            two.map(|column| split.insert(a, column));
        }
    }
    notes.push(format!(
        "audio and vision were under each other's names (their {} and {} features are those of \
         {family}'s vision and audio): exchanged",
        audio.unwrap_or(0),
        vision.unwrap_or(0)
    ));
}

/// The same remark about several splits is made once.
fn merged(notes: &[String]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    notes.iter().filter(|note| seen.insert(note.as_str())).cloned().collect()
}

fn same_rows(name: SplitName, fields: &Fields) -> Result<usize, Fault> {
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
struct Shapes {
    streams: BTreeMap<Modality, (usize, usize)>,
    /// Tokens, where all splits have them.
    tokens: Option<usize>,
    /// Every split says how many steps are valid.
    lengths: BTreeMap<Modality, bool>,
}

impl Shapes {
    fn of(table: &Table) -> Result<Shapes, Fault> {
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
fn steps_and_dim(column: &Column) -> Result<(usize, usize), Fault> {
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

struct SplitPlan<'a> {
    name: SplitName,
    fields: Fields,
    shapes: &'a Shapes,
    plan: &'a mut Plan,
}

impl SplitPlan<'_> {
    fn lay_out(
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

    /// One number for each row, of an array with axes of size 1 behind the first at most; or the
    /// columns of a table, where `several` may be there. With its shape.
    fn column<T>(
        &mut self,
        field: &str,
        several: bool,
        budget: &mut Budget,
        convert: impl Fn(DType, &[u8], &mut Vec<T>) -> Result<(), Misfit>,
    ) -> Result<Option<Values<T>>, Fault> {
        let Some(array) = self.array(field)? else { return Ok(None) };
        let (place, width) = (self.place(field), array.row_items());
        let table = several && array.shape.len() == 2 && width > 1;
        if width != 1 && !table {
            return Err(Fault::new(format!(
                "{place} has shape {:?}, wanted one number for each row{}",
                array.shape,
                if several { "; choose one: --label-column 0, for one" } else { "" }
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

    /// One column of labels that have several.
    fn label_column(
        &mut self,
        field: &str,
        column: &str,
        budget: &mut Budget,
    ) -> Result<(), Fault> {
        /// Of CMU-MOSEI's labels, in the order in which its SDK gives them.
        const MOSEI: [&str; 7] =
            ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"];
        let Some(array) = self.array(field)? else { return Ok(()) };
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
        let read = |d: DType, items: &[u8], out: &mut Vec<f32>| d.floats(items, out);
        let values = array.all(budget, read).map_err(|f| f.within(&place))?;
        let values = values.map_err(|m| Fault::new(format!("{place}: {m}; mend it")))?;
        let values: Vec<f32> = values.into_iter().skip(chosen).step_by(width.max(1)).collect();
        if let Some(row) = values.iter().position(|x| !x.is_finite()) {
            return Err(Fault::new(format!("{place}, row {row} is {}: drop the row", values[row])));
        }
        let changes = vec![format!("column {chosen} of {width}")];
        let (shape, from) = (vec![values.len()], array.dtype.to_string());
        self.add(field, shape, from, Fill::Floats(values), changes);
        Ok(())
    }

    fn labels(&mut self, field: &str, options: &Options, budget: &mut Budget) -> Result<(), Fault> {
        // Of people who judge one modality there is one number.
        let several = field == "regression_labels";
        if several && let Some(column) = options.label_column.as_deref() {
            return self.label_column(field, column, budget);
        }
        let read = |d: DType, items: &[u8], out: &mut Vec<f32>| d.floats(items, out);
        let found = self.column(field, several, budget, read)?;
        let Some((values, shape, from)) = found else { return Ok(()) };
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            return Err(Fault::new(format!(
                "{}, row {} is {}; a label has to be a number: drop the row",
                self.place(field),
                at / shape.get(1).unwrap_or(&1),
                values[at]
            )));
        }
        self.add(field, shape, from, Fill::Floats(values), Vec::new());
        Ok(())
    }

    /// Classes become numbers from 0; what is none is left out, since nothing needs it.
    fn classes(&mut self, budget: &mut Budget) -> Result<(), Fault> {
        let place = self.place("class_labels");
        let read = |d: DType, items: &[u8], out: &mut Vec<i32>| d.ints(items, out);
        let found = match self.column("class_labels", true, budget, read) {
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
        let Some((values, shape, from)) = self.column(&field, false, budget, read)? else {
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
            false,
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
