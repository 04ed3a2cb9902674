//! What the columns of a table become: which tensors, and which columns stay behind.

use std::collections::{BTreeMap, BTreeSet};

use super::array::Array;
use super::budget::Budget;
use super::known;
use super::lay_out::SplitPlan;
use super::padding;
use super::shapes::{Shapes, same_rows};
use super::table::{Column, NUMBERS, TEXTS, Table, is_stream, other_named};
use super::{Fault, Options, TensorReport};
use crate::data::{Modality, SplitName};

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
    /// Of classes and targets.
    pub(super) names: BTreeMap<String, Vec<String>>,
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
        names: std::mem::take(&mut table.names),
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
    let mut seen = BTreeSet::new();
    notes.iter().filter(|note| seen.insert(note.as_str())).cloned().collect()
}
