//! Data as symbols: streams by clusters of their rows, targets by class or sign.

use super::clusters::Rows;
use super::measure::Options;
use crate::data::{Dataset, Modality, Split, SplitName};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Clusters of a stream at most, where nobody asks for another number.
const USUAL_CLUSTERS: usize = 10;
/// Rows of a stream are laid out whole up to so many numbers; longer ones give means and deviations of steps.
const LONGEST_ROW: usize = 4096;

/// A source as symbols.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// What it is called.
    pub name: String,
    /// How many symbols there are.
    pub symbols: usize,
    /// The symbol of each row; none where the row lacks it.
    pub of: Vec<Option<u32>>,
    /// How it was made, in words.
    pub how: String,
}

/// Sources and a target of the same rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Symbols {
    /// The sources, two or more.
    pub columns: Vec<Column>,
    /// The class of each row; none where the row has no label.
    pub target: Vec<Option<u32>>,
    /// How many classes there are.
    pub classes: usize,
    /// What the target is, in words.
    pub about: String,
    /// What was left out, in sentences.
    pub notes: Vec<String>,
}

impl Symbols {
    /// The training and validation rows of a data set: each stream's clusters, and its classes, or on which side of
    /// `cut` its number lies where there are no classes.
    ///
    /// # Errors
    /// Fewer than two streams, no target, targets that are all the same, and rows that cannot be read.
    pub fn of_data(data: &Dataset, options: &Options) -> Result<Symbols> {
        let fail = |detail: String| Err(Error::data(data.path(), detail));
        let parts: Vec<&Split> = [SplitName::Train, SplitName::Valid]
            .into_iter()
            .filter_map(|s| data.split(s))
            .collect();
        let mut target = Vec::new();
        let classes = parts.iter().all(|split| split.class_labels().is_some());
        for split in &parts {
            match (split.class_labels(), split.labels()) {
                (Some(of), _) if classes => target.extend(of.iter().map(|c| Some(*c))),
                (_, Some(of)) => {
                    target.extend(of.iter().map(|y| Some(u32::from(*y > options.cut))))
                }
                _ => {
                    return fail(
                        "no labels of one class or one number a row: there is no target".into(),
                    );
                }
            }
        }
        let about = match classes {
            true => "the class".to_string(),
            false => format!("regression_labels > {}", options.cut),
        };
        let mut notes = Vec::new();
        let streams: Vec<Modality> = data.modalities();
        let (with, without): (Vec<_>, Vec<_>) =
            streams.into_iter().partition(|m| parts.iter().all(|split| split.stream(*m).is_some()));
        for modality in without {
            notes.push(format!(
                "{modality} has no features (tokens or sentences alone) and is left out"
            ));
        }
        if with.len() < 2 {
            let have: Vec<&str> = with.iter().map(|m| m.name()).collect();
            return fail(format!(
                "interactions are of two streams of features or more; this has {}",
                if have.is_empty() { "none".into() } else { format!("{} alone", have.join(", ")) }
            ));
        }
        let columns =
            with.iter().map(|m| column(&parts, *m, options)).collect::<Result<Vec<_>>>()?;
        let symbols = Symbols { columns, target, classes: 0, about, notes };
        symbols.dense().ok_or_else(|| {
            let how = if classes { "" } else { ": --cut sets where numbers are divided" };
            Error::data(data.path(), format!("all rows have the same target{how}"))
        })
    }

    /// Columns of whole numbers: those of `names` but the last, which is the target, are the sources. Cells without a
    /// number stand for rows that lack a source or a label.
    ///
    /// # Errors
    /// Fewer than three columns, columns of other lengths, a target that never changes.
    pub fn of_columns(named: Vec<(String, Vec<Option<i64>>)>) -> Result<Symbols> {
        let fail = |detail: &str| Err(Error::Config(detail.into()));
        let mut named = named;
        let Some((name, target)) = named.pop().filter(|_| named.len() >= 2) else {
            return fail("a table of symbols has two sources or more (x1, x2) and a target (y)");
        };
        if named.iter().any(|(_, of)| of.len() != target.len()) || target.is_empty() {
            return fail("the columns of a table of symbols have one length, and a row at least");
        }
        let columns = named.into_iter().map(|(name, of)| {
            let (of, symbols) = numbered(&of);
            Column { name, symbols, of, how: format!("{symbols} symbols") }
        });
        let columns = columns.collect();
        let (target, classes) = numbered(&target);
        let symbols = Symbols { columns, target, classes, about: name.clone(), notes: Vec::new() };
        symbols.dense().ok_or_else(|| Error::Config(format!("{name} is the same in all rows")))
    }

    /// Classes numbered without gaps; nothing where there is one alone.
    fn dense(mut self) -> Option<Symbols> {
        let of: Vec<Option<i64>> = self.target.iter().map(|c| c.map(i64::from)).collect();
        (self.target, self.classes) = numbered(&of);
        (self.classes >= 2).then_some(self)
    }
}

/// Numbers as symbols without gaps, in their order.
fn numbered(of: &[Option<i64>]) -> (Vec<Option<u32>>, usize) {
    let mut names: BTreeMap<i64, u32> = of.iter().flatten().map(|x| (*x, 0)).collect();
    names.values_mut().zip(0..).for_each(|(name, i)| *name = i);
    (of.iter().map(|x| x.and_then(|x| names.get(&x).copied())).collect(), names.len())
}

/// A stream's rows by cluster.
fn column(parts: &[&Split], modality: Modality, options: &Options) -> Result<Column> {
    let streams: Vec<_> = parts.iter().filter_map(|split| split.stream(modality)).collect();
    let (steps, dim) = (streams[0].steps, streams[0].dim);
    // Steps of rows that are all as long stand for the same thing in each row.
    let whole =
        steps == 1 || (streams.iter().all(|s| !s.has_lengths()) && steps * dim <= LONGEST_ROW);
    let width = if whole { steps * dim } else { 2 * dim };
    let (mut values, mut there) = (Vec::new(), Vec::new());
    for stream in &streams {
        for row in 0..stream.rows {
            there.push(!stream.missing(row));
            if stream.missing(row) {
                continue;
            }
            let frames = stream.values(row)?;
            let frames = &frames[..stream.len(row) * dim];
            match whole {
                true => values.extend(frames.iter().map(|x| f64::from(*x))),
                false => values.extend(mean_and_deviation(frames, dim)),
            }
        }
    }
    let rows = Rows { width, values };
    if rows.is_empty() {
        let detail = format!("no row of train and valid has {modality}");
        return Err(Error::data(parts[0].path(), detail));
    }
    // Ten rows to a cell of two streams' table, where that leaves two clusters or more.
    let fitting = ((rows.len() as f64 / 10.0).sqrt() as usize).clamp(2, USUAL_CLUSTERS);
    let count = options.clusters.unwrap_or(fitting);
    let reduced = rows.standardised().components(options.components, options.seed);
    let mut of = reduced.clusters(count, options.seed).into_iter();
    let of: Vec<Option<i64>> =
        there.iter().map(|there| there.then(|| of.next().map(i64::from)).flatten()).collect();
    let (of, symbols) = numbered(&of);
    let read = match (whole, steps) {
        (true, 1) => format!("{dim} features"),
        (true, _) => format!("{steps} x {dim} features"),
        (false, _) => format!("means and deviations of {dim} features over valid steps"),
    };
    let how = format!("{symbols} clusters of {} components of {read}", reduced.width);
    Ok(Column { name: modality.name().into(), symbols, of, how })
}

fn mean_and_deviation(frames: &[f32], dim: usize) -> impl Iterator<Item = f64> {
    let steps = (frames.len() / dim).max(1) as f64;
    let at = move |f: usize| frames.iter().skip(f).step_by(dim).map(|x| f64::from(*x));
    let mean: Vec<f64> = (0..dim).map(|f| at(f).sum::<f64>() / steps).collect();
    let deviation: Vec<f64> = mean
        .iter()
        .enumerate()
        .map(|(f, m)| (at(f).map(|x| (x - m).powi(2)).sum::<f64>() / steps).sqrt())
        .collect();
    mean.into_iter().chain(deviation)
}
