//! What `modalign inspect` shows of a data set.

use super::{Global, output};
use crate::data::{Dataset, Modality, Split, Stream};
use crate::error::Result;
use serde_json::{Value, json};

/// Prints parts, shapes, lengths, and how the labels are spread.
pub(super) fn show_data(data: &Dataset, global: &Global) -> Result<()> {
    if global.json {
        let splits: serde_json::Map<String, Value> =
            data.splits().map(|s| (s.name().name().into(), split_json(s))).collect();
        return output::json(&json!({
            "data": data.path().display().to_string(),
            "sha256": data.digest(),
            "splits": splits,
        }));
    }
    let shapes = data.splits().flat_map(|split| {
        let first = vec![split.name().to_string(), split.rows().to_string()];
        let mut rows: Vec<Vec<String>> = streams(split)
            .map(|stream| {
                let mut row = first.clone();
                row.push(stream.modality.to_string());
                row.push(format!("{}x{}", stream.steps, stream.dim));
                row.push(if stream.has_lengths() { span(&stream).text() } else { "-".into() });
                row
            })
            .collect();
        if let Some(bert) = split.text_bert() {
            let shape = format!("3x{}", bert.len);
            rows.push([first, vec!["text_bert".into(), shape, "-".into()]].concat());
        }
        rows
    });
    let shapes = output::table(["split", "rows", "field", "shape", "valid steps"], 5, shapes);
    let mut parts = vec![("", shapes)];
    if let Some(histogram) = histogram(data) {
        parts.push(("Labels, by the nearest of seven values:", histogram));
    }
    output::tables(&parts)?;
    let factors = data.splits().next().map(Split::factor_names).unwrap_or_default();
    if !factors.is_empty() {
        output::print(&format!("Known factors: {}", factors.join(", ")))?;
    }
    Ok(())
}

fn streams(split: &Split) -> impl Iterator<Item = Stream<'_>> {
    Modality::ALL.into_iter().filter_map(|m| split.stream(m))
}

struct Span {
    min: usize,
    mean: f64,
    max: usize,
}

impl Span {
    fn text(&self) -> String {
        format!("{} to {}, mean {:.1}", self.min, self.max, self.mean)
    }
}

fn span(stream: &Stream<'_>) -> Span {
    let lengths = || (0..stream.rows).map(|row| stream.len(row));
    Span {
        min: lengths().min().unwrap_or(0),
        mean: lengths().sum::<usize>() as f64 / stream.rows.max(1) as f64,
        max: lengths().max().unwrap_or(0),
    }
}

fn split_json(split: &Split) -> Value {
    let fields: serde_json::Map<String, Value> = streams(split)
        .map(|s| {
            let Span { min, mean, max } = span(&s);
            let lengths = s.has_lengths().then(|| json!({ "min": min, "mean": mean, "max": max }));
            (
                s.modality.name().into(),
                json!({ "steps": s.steps, "dim": s.dim, "lengths": lengths }),
            )
        })
        .collect();
    let labels = split.labels().map(|labels| {
        let range = range_of(labels.iter());
        let mean = labels.iter().map(|l| f64::from(*l)).sum::<f64>() / labels.len().max(1) as f64;
        json!({
            "min": labels.iter().copied().fold(f32::INFINITY, f32::min),
            "max": labels.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            "mean": mean,
            "zero": labels.iter().filter(|l| **l == 0.0).count(),
            "histogram": { "centres": centres(range), "counts": counts(labels, range) },
        })
    });
    json!({
        "rows": split.rows(),
        "fields": fields,
        "text_bert": split.text_bert().map(|b| b.len),
        "ids": split.ids().is_some(),
        "labels": labels,
        "factors": split.factor_names(),
    })
}

/// The label scale at hand: MOSI's 3, or SIMS' 1 where nothing goes beyond it.
fn range_of<'a>(labels: impl Iterator<Item = &'a f32>) -> f32 {
    let largest = labels.fold(0f32, |most, l| most.max(l.abs()));
    if largest <= 1.0 { 1.0 } else { largest.max(3.0) }
}

fn centres(range: f32) -> [f32; 7] {
    [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0].map(|k: f32| k * range / 3.0)
}

fn counts(labels: &[f32], range: f32) -> [usize; 7] {
    let mut counts = [0; 7];
    for label in labels {
        // Half to even, as Acc-7 rounds.
        let at = (label * 3.0 / range).clamp(-3.0, 3.0).round_ties_even() + 3.0;
        counts[at as usize] += 1;
    }
    counts
}

const BAR: usize = 32;

fn histogram(data: &Dataset) -> Option<comfy_table::Table> {
    let labelled: Vec<(&Split, &[f32])> =
        data.splits().filter_map(|s| Some((s, s.labels()?))).collect();
    let range = range_of(labelled.iter().flat_map(|(_, labels)| labels.iter()));
    let all: Vec<[usize; 7]> = labelled.iter().map(|(_, l)| counts(l, range)).collect();
    let first = all.first()?;
    let most = first.iter().max().copied().unwrap_or(0).max(1);
    let rows = centres(range).into_iter().enumerate().map(|(i, centre)| {
        let mut row = vec![format!("{centre:.2}")];
        row.extend(all.iter().map(|counts| counts[i].to_string()));
        row.push("▇".repeat((first[i] * BAR).div_ceil(most)));
        row
    });
    let header = std::iter::once("label".to_string())
        .chain(labelled.iter().map(|(s, _)| s.name().to_string()))
        .chain(std::iter::once(format!("({})", labelled[0].0.name())));
    let mut table = output::table(header, 0, rows);
    if let Some(last) = table.column_iter_mut().last() {
        last.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    Some(table)
}
