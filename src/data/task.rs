//! What a data set has to be predicted: numbers, a class, or several labels; and which of these its
//! targets are.

use super::{Dataset, Split, SplitName};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A kind of target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// One number a row, or several.
    #[default]
    Regression,
    /// One class of several.
    Classes,
    /// Any of several labels.
    Labels,
}

impl TaskKind {
    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Regression => "regression",
            TaskKind::Classes => "classes",
            TaskKind::Labels => "labels",
        }
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What is to be predicted of a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Of which kind.
    pub kind: TaskKind,
    /// Names of the numbers, classes or labels; none for a single number.
    pub names: Vec<String>,
}

/// One number a row.
pub static NUMBER: Task = Task { kind: TaskKind::Regression, names: Vec::new() };

impl Default for Task {
    fn default() -> Self {
        NUMBER.clone()
    }
}

impl Task {
    /// Scores that a model gives a row: numbers, or one of each class or label.
    pub fn outputs(&self) -> usize {
        self.names.len().max(1)
    }

    /// Words of a row's target in a batch: f32 numbers, a u32 class, or an f32 0 or 1 for each label.
    pub fn width(&self) -> usize {
        if self.kind == TaskKind::Classes { 1 } else { self.outputs() }
    }

    /// The tensor of a split that holds its targets.
    pub fn field(&self) -> &'static str {
        match self.kind {
            TaskKind::Regression => "regression_labels",
            _ => "class_labels",
        }
    }

    /// Whether it is a single number, the field's usual target.
    pub fn one_number(&self) -> bool {
        self.kind == TaskKind::Regression && self.names.is_empty()
    }

    /// Whether its names say what they are of, and are not just numbers.
    fn named(&self) -> bool {
        let numbered = |name: &String| {
            let end = ["number ", "class ", "label "].iter().find_map(|p| name.strip_prefix(p));
            end.is_some_and(|end| end.parse::<usize>().is_ok())
        };
        !self.names.iter().all(numbered)
    }

    /// In words: `8 classes`.
    pub fn about(&self) -> String {
        let n = self.names.len();
        match self.kind {
            TaskKind::Regression if n == 0 => "a number".into(),
            TaskKind::Regression => format!("{n} numbers"),
            TaskKind::Classes => format!("{n} classes"),
            TaskKind::Labels => format!("{n} labels"),
        }
    }
}

/// Several numbers a row, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table<T> {
    /// Row by row.
    pub(super) values: Vec<T>,
    /// Numbers of a row.
    pub(super) width: usize,
}

/// The targets of a split's rows, as words of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// `[rows, width]`.
    pub words: &'a [u32],
    /// Words of a row.
    pub width: usize,
}

impl Targets<'_> {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.words.len() / self.width.max(1)
    }

    /// The numbers of all rows, of a kind whose targets are numbers.
    pub fn numbers(&self) -> Vec<f32> {
        self.words.iter().map(|word| f32::from_bits(*word)).collect()
    }

    /// How many rows have each class or label; of numbers nothing.
    pub fn counts(&self, task: &Task) -> Vec<usize> {
        let mut counts = vec![0; task.outputs()];
        for row in self.words.chunks(self.width.max(1)) {
            match task.kind {
                TaskKind::Regression => return Vec::new(),
                TaskKind::Classes => counts[row[0] as usize] += 1,
                TaskKind::Labels => {
                    row.iter().zip(&mut counts).for_each(|(word, n)| *n += usize::from(*word != 0));
                }
            }
        }
        counts
    }

    /// The classes of all rows, of a kind whose targets are classes.
    pub fn classes(&self) -> Vec<usize> {
        self.words.iter().map(|word| *word as usize).collect()
    }
}

/// Whole numbers are classes only below this.
const MOST_CLASSES: f32 = 1000.0;

/// What a data set's targets are, and a sentence about what was found where there is something to say.
pub(super) fn find(data: &Dataset, wanted: Option<TaskKind>) -> Result<(Task, Option<String>)> {
    let bad = |detail: String| Err(Error::data(data.path(), detail));
    let can = Candidates::of(data)?;
    let Some(kind) = wanted else {
        let (kind, said) = can.likely();
        return Ok((can.task(kind, data)?, said));
    };
    if can.has(kind) || !can.any() {
        return Ok((can.task(kind, data)?, None));
    }
    bad(format!("task.kind is {kind}, and {}; set task.kind={}", can.about(), can.likely().0))
}

/// What the labels of a data set could be.
struct Candidates {
    /// Columns of `regression_labels`.
    numbers: Option<usize>,
    /// Whether those are whole numbers from zero on, all of which occur: how many.
    whole: Option<usize>,
    /// Classes of `class_labels` where a row has one.
    classes: Option<usize>,
    /// Columns of `class_labels` where a row has several.
    flags: Option<usize>,
}

impl Candidates {
    fn of(data: &Dataset) -> Result<Self> {
        let splits = || data.splits();
        let most = splits().filter_map(|s| s.class_labels()?.iter().max());
        let numbers = splits().find_map(|s| {
            s.labels().map(|_| 1).or_else(|| s.numbers.as_ref().map(|table| table.width))
        });
        let flags = splits().find_map(|s| s.flags.as_ref().map(|table| table.width));
        let classes = most.max().map(|class| *class as usize + 1);
        if classes.is_some() && flags.is_some() {
            let detail = "class_labels hold one class a row in one split and several labels in \
                          another; give every split the same";
            return Err(Error::data(data.path(), detail));
        }
        Ok(Candidates { numbers, whole: whole_numbers(data), classes, flags })
    }

    fn any(&self) -> bool {
        self.numbers.is_some() || self.classes.is_some() || self.flags.is_some()
    }

    fn has(&self, kind: TaskKind) -> bool {
        match kind {
            TaskKind::Regression => self.numbers.is_some(),
            TaskKind::Classes => self.classes.or(self.whole).is_some(),
            TaskKind::Labels => self.flags.is_some() || self.numbers.is_some_and(|n| n > 1),
        }
    }

    /// What they most likely are, and what led to that where it is not plain.
    fn likely(&self) -> (TaskKind, Option<String>) {
        match (self.numbers, self.whole, self.classes, self.flags) {
            (Some(_), Some(n), None, None) => {
                let last = n - 1;
                let said = format!(
                    "regression_labels are whole numbers, 0 to {last}: they are read as {n} classes; \
                     task.kind=regression reads them as numbers"
                );
                (TaskKind::Classes, Some(said))
            }
            (Some(_), _, Some(n), _) => {
                let said = format!(
                    "there are class_labels of {n} classes, too: task.kind=classes learns them instead \
                     of regression_labels"
                );
                (TaskKind::Regression, Some(said))
            }
            (Some(_), _, None, Some(n)) => {
                let said = format!(
                    "there are class_labels of {n} labels a row, too: task.kind=labels learns them \
                     instead of regression_labels"
                );
                (TaskKind::Regression, Some(said))
            }
            (None, _, Some(_), _) => (TaskKind::Classes, None),
            (None, _, None, Some(_)) => (TaskKind::Labels, None),
            _ => (TaskKind::Regression, None),
        }
    }

    /// What there is, for a message.
    fn about(&self) -> String {
        let numbers = self.numbers.map(|n| match n {
            1 => "regression_labels".to_string(),
            n => format!("regression_labels of {n} numbers"),
        });
        let classes = self.classes.map(|n| format!("class_labels of {n} classes"));
        let flags = self.flags.map(|n| format!("class_labels of {n} labels a row"));
        let all: Vec<String> = [numbers, classes, flags].into_iter().flatten().collect();
        format!("the data has {}", all.join(" and "))
    }

    fn task(&self, kind: TaskKind, data: &Dataset) -> Result<Task> {
        let names = match kind {
            TaskKind::Regression => match self.numbers {
                Some(n) if n > 1 => named(data.target_names(), n, "target_names", "number", data)?,
                _ => Vec::new(),
            },
            TaskKind::Classes => {
                let n = self.classes.or(self.whole).unwrap_or(0);
                let given = data.class_names(n);
                let n = n.max(given.map_or(0, <[String]>::len));
                if self.any() && n < 2 {
                    let detail = "all rows are of one class: there is nothing to tell apart";
                    return Err(Error::data(data.path(), detail));
                }
                named(given, n, "class_names", "class", data)?
            }
            TaskKind::Labels => {
                let n = self.flags.or(self.numbers).unwrap_or(0);
                let given = if self.flags.is_some() { data.class_names(n) } else { None };
                let given = given.or(data.target_names());
                named(given, n, "class_names", "label", data)?
            }
        };
        Ok(Task { kind, names })
    }
}

/// The names that a side file gives, or numbers where it gives none.
fn named(
    given: Option<&[String]>,
    n: usize,
    key: &str,
    what: &str,
    data: &Dataset,
) -> Result<Vec<String>> {
    match given {
        None => Ok((0..n).map(|i| format!("{what} {i}")).collect()),
        Some(names) if names.len() == n => Ok(names.to_vec()),
        Some(names) => {
            let detail = format!(
                "'{key}' of the JSON file beside it has {} names where the tensors have {n}; mend one \
                 of them",
                names.len()
            );
            Err(Error::data(data.path(), detail))
        }
    }
}

/// Whether a number can be that of a class.
fn is_class(x: &f32) -> bool {
    x.fract() == 0.0 && (0.0..MOST_CLASSES).contains(x)
}

/// How many classes the numbers of all splits are, where they are whole, from zero, and each occurs.
fn whole_numbers(data: &Dataset) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    for split in data.splits() {
        for x in split.labels().unwrap_or_default() {
            if !is_class(x) {
                return None;
            }
            seen.insert(*x as usize);
        }
    }
    let all = seen.iter().copied().eq(0..seen.len());
    (all && seen.len() > 1).then_some(seen.len())
}

/// The targets of a split for a task, where it has them.
///
/// # Errors
/// Labels of another kind, or more classes than the task has.
pub(super) fn words(split: &Split, task: &Task) -> Result<Option<Vec<u32>>> {
    let name = split.name();
    let bad = |detail: String| Err(Error::data(split.path(), detail));
    let classes = || {
        let own = split.class_labels().map(<[u32]>::to_vec);
        let labels = || split.labels().filter(|labels| labels.iter().all(is_class));
        own.or_else(|| Some(labels()?.iter().map(|x| *x as u32).collect()))
    };
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let flag = |there: bool| f32::from(u8::from(there)).to_bits();
    let (words, width): (Option<Vec<u32>>, usize) = match task.kind {
        TaskKind::Regression if task.names.is_empty() => (split.labels().map(bits), 1),
        TaskKind::Regression => match &split.numbers {
            Some(table) => (Some(bits(&table.values)), table.width),
            None => (None, task.width()),
        },
        TaskKind::Classes => {
            let found = classes();
            let n = task.names.len();
            let mut each = found.iter().flatten().enumerate();
            if let Some((row, class)) = each.find(|(_, class)| **class as usize >= n) {
                return bad(format!(
                    "{name}, row {row} is of class {class}, and there are {n}: 0 to {}",
                    n - 1
                ));
            }
            (found, 1)
        }
        TaskKind::Labels => match (&split.flags, &split.numbers) {
            (Some(t), _) => (Some(t.values.iter().map(|x| flag(*x > 0)).collect()), t.width),
            // MOSEI's emotions are intensities: one that is there at all is a label.
            (None, Some(t)) => (Some(t.values.iter().map(|x| flag(*x > 0.0)).collect()), t.width),
            (None, None) => (None, task.width()),
        },
    };
    if words.is_some() && width != task.width() {
        return bad(format!(
            "{name} has {width} targets a row, and the model has {}",
            task.width()
        ));
    }
    Ok(words)
}

impl Dataset {
    /// What is to be predicted of its rows.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// What was found about the kind of its targets, in a sentence, where that was not plain.
    pub fn task_note(&self) -> Option<&str> {
        self.task_note.as_deref()
    }

    /// The same data for a task that a model has learned: its rows' targets where it has them.
    ///
    /// # Errors
    /// Targets of that kind that are others than the task's: of other names, or of another number.
    pub fn for_task(mut self, task: &Task) -> Result<Dataset> {
        let (own, path) = (&self.task, self.path());
        if own.kind == task.kind && own.named() && task.named() && own.names != task.names {
            let (found, wanted) = (own.names.join(", "), task.names.join(", "));
            let detail =
                format!("its targets are {found}, and the model's are {wanted}: not the same");
            return Err(Error::data(path, detail));
        }
        for split in self.splits.iter_mut().flatten() {
            split.targets = words(split, task)?.map(Into::into);
            split.width = task.width();
        }
        (self.task, self.task_note) = (task.clone(), None);
        let train = self.split(SplitName::Train).and_then(Split::targets);
        self.counts = train.map(|t| t.counts(task)).unwrap_or_default();
        Ok(self)
    }

    /// Names of several numbers, from the side file: `target_names`.
    pub fn target_names(&self) -> Option<&[String]> {
        self.names.get("target_names").map(Vec::as_slice)
    }

    /// Names of `n` classes or labels, from the side file: `class_names`, or the only list of as many
    /// names.
    fn class_names(&self, n: usize) -> Option<&[String]> {
        if let Some(names) = self.names.get("class_names") {
            return Some(names);
        }
        let mut fitting = self.names.values().filter(|names| names.len() == n);
        match (fitting.next(), fitting.next()) {
            (Some(names), None) => Some(names),
            _ => None,
        }
    }

    /// How many training rows have each class or label.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }
}

impl Split {
    /// The targets of its rows, where it has them.
    pub fn targets(&self) -> Option<Targets<'_>> {
        self.targets.as_deref().map(|words| Targets { words, width: self.width })
    }
}
