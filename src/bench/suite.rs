//! What there is to time, by operation, kernel and shape. No device is needed to list it.

use super::bed::{Bed, Made};
use super::entries;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Family};
use crate::ops::KERNELS;
use crate::plan::{Case, CaseArg, Kernel, Plan, Planned};
use crate::recipe::nearest;
use std::collections::BTreeSet;

/// Which dispatches of a recording are timed.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// The dispatches of these kernels one by one, under these names in their order.
    Each(&'static [(&'static str, &'static [&'static str])]),
    /// All dispatches of a kernel together, for every kernel whose name begins with one of these;
    /// and, if `whole`, the recording as one.
    Sums { of: &'static [&'static str], whole: bool },
}

type Record = Box<dyn Fn(&Caps) -> Result<Bed> + Send + Sync>;

enum Source {
    Recorded(Record),
    Case(&'static Kernel),
}

/// A recording to time.
pub struct Entry {
    /// The operation that it is asked for by.
    pub op: &'static str,
    /// Its sizes, for people.
    pub shape: String,
    rows: Rows,
    source: Source,
}

/// Some dispatches of a plan that are timed together.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    /// Their kernel; "whole" for a recording as one.
    pub kernel: &'static str,
    /// Which of the kernel's dispatches: "forward", "dx".
    pub part: String,
    /// Where they are in the plan.
    #[serde(skip)]
    pub which: Vec<usize>,
    /// Floating-point operations of all.
    pub flops: u64,
    /// Bytes that all of them move.
    pub bytes: u64,
}

/// The name of rows that stand for a recording as one.
const WHOLE: &str = "whole";

impl Entry {
    /// A recording and which of its dispatches are timed.
    pub(super) fn new(
        op: &'static str,
        shape: impl Into<String>,
        rows: Rows,
        record: impl Fn(&Caps) -> Result<Bed> + Send + Sync + 'static,
    ) -> Self {
        Entry { op, shape: shape.into(), rows, source: Source::Recorded(Box::new(record)) }
    }

    /// The largest case that the registry has of a kernel.
    fn case(kernel: &'static Kernel) -> Self {
        let rows = Rows::Sums { of: &[""], whole: false };
        let shape = largest(kernel).map_or_else(String::new, |case| case.name);
        Entry { op: kernel.name, shape, rows, source: Source::Case(kernel) }
    }

    /// Whether it is a whole training step, whose replays are timed in a row, too.
    pub(super) fn is_step(&self) -> bool {
        self.op == entries::steps::OP
    }

    /// Records it for an adapter.
    pub(super) fn make(&self, caps: &Caps) -> Result<Made> {
        match &self.source {
            Source::Recorded(record) => Ok(record(caps)?.make()),
            Source::Case(kernel) => {
                let case = largest(kernel);
                let case = case.ok_or_else(|| Error::shape("bench", "a kernel without cases"))?;
                Ok(Made::case(kernel, &case))
            }
        }
    }

    /// The first dispatch of a kernel that is timed, fitted to an adapter.
    ///
    /// # Errors
    /// What the adapter cannot hold; a kernel that is not timed here.
    pub fn dispatch(&self, caps: &Caps, kernel: &str) -> Result<Planned> {
        let plan = Plan::new(self.make(caps)?.recording, caps)?;
        let row = self.rows(&plan).into_iter().find(|row| row.kernel == kernel);
        let at = row.and_then(|row| row.which.first().copied());
        let planned = at.and_then(|at| plan.dispatches().get(at).cloned());
        planned.ok_or_else(|| Error::shape("bench", format!("no '{kernel}' in {}", self.shape)))
    }

    /// What of a plan of it is timed, in the order in which it can be.
    pub(super) fn rows(&self, plan: &Plan) -> Vec<Row> {
        let all = plan.dispatches();
        let of = |name: &str| -> Vec<usize> {
            (0..all.len()).filter(|i| all[*i].kernel.name == name).collect()
        };
        let row = |kernel, part: String, which: Vec<usize>| Row {
            kernel,
            part,
            flops: which.iter().map(|i| all[*i].flops).sum(),
            bytes: which.iter().map(|i| all[*i].bytes).sum(),
            which,
        };
        let mut rows = Vec::new();
        match self.rows {
            Rows::Each(kernels) => {
                for (kernel, parts) in kernels {
                    for (at, part) in of(kernel).into_iter().zip(*parts) {
                        rows.push(row(kernel, (*part).into(), vec![at]));
                    }
                }
            }
            Rows::Sums { of: prefixes, .. } => {
                for planned in all {
                    let name = planned.kernel.name;
                    let known = rows.iter().any(|r: &Row| r.kernel == name);
                    if !known && prefixes.iter().any(|p| name.starts_with(p)) {
                        let which = of(name);
                        let part =
                            if which.len() > 1 { format!("× {}", which.len()) } else { "".into() };
                        rows.push(row(name, part, which));
                    }
                }
            }
        }
        rows.sort_by_key(|r| r.which.last().copied());
        if let Rows::Sums { whole: true, .. } = self.rows {
            let count = all.len();
            rows.push(row(WHOLE, format!("{count} dispatches"), (0..count).collect()));
        }
        rows
    }
}

fn largest(kernel: &Kernel) -> Option<Case> {
    let size = |case: &Case| -> usize {
        let len = |arg: &CaseArg| match arg {
            CaseArg::F(values) => values.len(),
            CaseArg::U(values) => values.len(),
        };
        case.args.iter().flatten().map(len).sum()
    };
    (kernel.cases)().into_iter().max_by_key(size)
}

/// Everything that can be timed: recordings at the sizes that matter, and for each kernel that is in
/// none of them the largest case of the registry.
pub struct Suite {
    entries: Vec<Entry>,
    /// Kernels and parts of each entry.
    rows: Vec<Vec<(&'static str, String)>>,
}

/// Rows of an entry that were asked for.
pub struct Choice<'s> {
    /// The entry.
    pub entry: &'s Entry,
    /// Kernels of it; all where empty.
    pub kernels: Vec<&'static str>,
}

impl Choice<'_> {
    /// Whether it has a row of that kernel.
    pub fn has(&self, kernel: &str) -> bool {
        self.kernels.is_empty() || self.kernels.contains(&kernel)
    }
}

impl Suite {
    /// The suite.
    ///
    /// # Errors
    /// A recording that does not fit together, which is a bug.
    pub fn new() -> Result<Self> {
        let caps = Caps::defaults(Family::Plain);
        let mut entries = entries::all();
        let mut rows = Vec::new();
        for entry in &entries {
            let plan = Plan::new(entry.make(&caps)?.recording, &caps)?;
            let of = entry.rows(&plan).into_iter().map(|r| (r.kernel, r.part));
            rows.push(of.collect::<Vec<_>>());
        }
        let timed: BTreeSet<&str> = rows.iter().flatten().map(|(kernel, _)| *kernel).collect();
        for kernel in KERNELS.iter().copied().filter(|k| !timed.contains(k.name)) {
            entries.push(Entry::case(kernel));
            rows.push(vec![(kernel.name, String::new())]);
        }
        Ok(Suite { entries, rows })
    }

    /// Every operation with its kernels and shapes.
    pub fn list(&self) -> Vec<(&'static str, Vec<&'static str>, Vec<&str>)> {
        let mut list: Vec<(&'static str, Vec<&'static str>, Vec<&str>)> = Vec::new();
        for (entry, rows) in self.entries.iter().zip(&self.rows) {
            let at = list.iter().position(|(op, ..)| *op == entry.op).unwrap_or_else(|| {
                list.push((entry.op, Vec::new(), Vec::new()));
                list.len() - 1
            });
            let (_, kernels, shapes) = &mut list[at];
            for (kernel, _) in rows.iter().filter(|(kernel, _)| *kernel != WHOLE) {
                if !kernels.contains(kernel) {
                    kernels.push(kernel);
                }
            }
            if !shapes.contains(&entry.shape.as_str()) {
                shapes.push(&entry.shape);
            }
        }
        list
    }

    /// The rows that `names` ask for, by operation or kernel; all of them without a name.
    ///
    /// # Errors
    /// [`Config`](Error::Config) for a name that there is not, with the nearest that there is.
    pub fn choose(&self, names: &[String]) -> Result<Vec<Choice<'_>>> {
        let ops: BTreeSet<&str> = self.entries.iter().map(|e| e.op).collect();
        let kernels: BTreeSet<&str> = self.rows.iter().flatten().map(|(k, _)| *k).collect();
        for name in names {
            if !ops.contains(name.as_str()) && !kernels.contains(name.as_str()) {
                let near = nearest(name, ops.iter().chain(&kernels).copied());
                return Err(Error::Config(format!(
                    "there is no operation or kernel '{name}', did you mean '{near}'? \
                     (--list shows all)"
                )));
            }
        }
        let wanted = |name: &str| names.iter().any(|n| n == name);
        let mut chosen = Vec::new();
        for (entry, rows) in self.entries.iter().zip(&self.rows) {
            if names.is_empty() || wanted(entry.op) {
                chosen.push(Choice { entry, kernels: Vec::new() });
                continue;
            }
            // A kernel that an operation is called after is timed there, not wherever it occurs.
            let mut of: Vec<&'static str> = rows.iter().map(|(kernel, _)| *kernel).collect();
            of.retain(|kernel| wanted(kernel) && !ops.contains(kernel));
            of.dedup();
            if !of.is_empty() {
                chosen.push(Choice { entry, kernels: of });
            }
        }
        Ok(chosen)
    }

    /// The rows of one kernel, for one that takes its place: those of the operation of its name, or
    /// else wherever it occurs.
    ///
    /// # Errors
    /// [`Config`](Error::Config) for what is no kernel.
    pub fn of_kernel(&self, name: &str) -> Result<(&'static Kernel, Vec<Choice<'_>>)> {
        let Some(kernel) = crate::ops::find(name) else {
            let of = self.list().into_iter().find(|(op, ..)| *op == name);
            return Err(Error::Config(match of {
                Some((_, kernels, _)) => {
                    format!("'{name}' is more than one kernel: choose of {}", kernels.join(", "))
                }
                None => {
                    let near = nearest(name, KERNELS.iter().map(|k| k.name));
                    format!("there is no kernel '{name}', did you mean '{near}'?")
                }
            }));
        };
        let named = self.entries.iter().any(|e| e.op == name);
        let of = self.entries.iter().zip(&self.rows).filter(|(entry, rows)| {
            (!named || entry.op == name) && rows.iter().any(|(k, _)| *k == name)
        });
        Ok((kernel, of.map(|(entry, _)| Choice { entry, kernels: vec![kernel.name] }).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_timed_somewhere() {
        let suite = Suite::new().unwrap();
        let timed: BTreeSet<&str> = suite.rows.iter().flatten().map(|(k, _)| *k).collect();
        for kernel in KERNELS {
            assert!(timed.contains(kernel.name), "{}", kernel.name);
            assert!(!suite.of_kernel(kernel.name).unwrap().1.is_empty(), "{}", kernel.name);
        }
        assert!(suite.rows.iter().all(|rows| !rows.is_empty()));
    }

    #[test]
    fn names_choose_operations_and_kernels() {
        let suite = Suite::new().unwrap();
        let choose = |name: &str| suite.choose(&[name.to_string()]).unwrap();
        assert!(choose("matmul").iter().all(|c| c.entry.op == "matmul"));
        let only = choose("attention_backward_q");
        assert!(only.iter().all(|c| c.kernels == ["attention_backward_q"]) && !only.is_empty());
        let error = suite.choose(&["sofmax".into()]).err().unwrap().to_string();
        assert!(error.contains("'softmax'"), "{error}");
        assert!(suite.of_kernel("elementwise").err().unwrap().to_string().contains("unary"));
    }
}
