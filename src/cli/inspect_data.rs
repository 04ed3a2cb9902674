//! What `modalign inspect` shows of a data set.

use super::{Global, output};
use crate::data::survey::{StreamSurvey, Survey, not_numbers, ranges};
use crate::data::{Dataset, Modality, Split, TaskKind};
use crate::error::{Error, Result};
use crate::recipe::Config;
use crate::train::{LARGE, cut_texts, first_step_alone};
use serde_json::{Value, json};

/// What is wrong with a file that cannot be opened: all values that are no numbers, where those
/// are the reason.
pub(super) fn explained(error: Error) -> Error {
    match error {
        Error::Data { path, detail } => {
            let more =
                not_numbers(&path).map_or_else(String::new, |all| format!("; in all, {all}"));
            Error::Data { detail: detail + &more, path }
        }
        other => other,
    }
}

/// Labels that training would refuse.
fn beyond(data: &Dataset, range: f64) -> Option<String> {
    if !data.task().one_number() {
        return None;
    }
    let found = data.labels_beyond(range)?;
    let most = found.farthest.2.abs();
    Some(format!(
        "{} of {} labels are beyond ±{range}, which the settings have, and go up to {most}: choose another \
         --preset, rescale them, or train with --set data.label_range={} or --clip-labels",
        found.count,
        found.of,
        most.ceil()
    ))
}

/// Numbers out of all proportion, which standardising flattens the rest for, or training overflows by.
/// Of a stream about which more is `told` elsewhere nothing is said.
fn outsized(data: &Dataset, told: impl Fn(Modality) -> bool) -> Vec<String> {
    let all = data.outsized(LARGE).into_iter().filter(|(modality, ..)| !told(*modality));
    let said = |(_, place, value): (_, String, f32)| {
        format!(
            "{place} goes up to {value:e}: look at that row; where it is no measurement, set it to 0"
        )
    };
    all.map(said).collect()
}

/// Features with values out of all proportion, a sentence for each stream.
fn far_off(survey: &Survey) -> Vec<String> {
    let told = |s: &StreamSurvey| {
        let first = s.outliers.first()?;
        let features: Vec<usize> = {
            let mut all: Vec<usize> = s.outliers.iter().map(|o| o.feature).collect();
            all.sort_unstable();
            all
        };
        let mut rows: Vec<usize> = s.outliers.iter().flat_map(|o| o.rows.iter().copied()).collect();
        rows.sort_unstable();
        rows.dedup();
        let advice = match s.modality {
            // It is read as it is.
            Modality::Text => "Where they are no measurements, set them to 0",
            _ => {
                "Standardising by mean and deviation makes the others of a feature alike: set them to 0 where \
                 they are no measurements, or train with --set train.normalize=robust"
            }
        };
        Some(format!(
            "{}.{}: {} of {} features ({}) have values thousands of deviations off, in rows such as {}; the \
             farthest is {:e} in row {} of feature {}. {advice}",
            s.split,
            s.modality,
            features.len(),
            s.dim,
            ranges(&features),
            ranges(&rows),
            first.value,
            first.row,
            first.feature
        ))
    };
    survey.streams.iter().filter_map(told).collect()
}

/// Prints parts, shapes, lengths, how the labels are spread, and what looks wrong.
pub(super) fn show_data(data: &Dataset, config: &Config, global: &Global) -> Result<()> {
    let survey = Survey::of(data)?;
    let range = config.data.label_range;
    let suspicions = survey.suspicions.iter().map(ToString::to_string);
    let told = |modality: Modality| {
        survey.streams.iter().any(|s| s.modality == modality && !s.outliers.is_empty())
    };
    let warnings: Vec<String> = beyond(data, range)
        .into_iter()
        .chain(outsized(data, told))
        .chain(far_off(&survey))
        .chain(first_step_alone(data))
        .chain(cut_texts(data, config)?)
        .chain(suspicions)
        .collect();
    if global.json {
        let splits: serde_json::Map<String, Value> =
            data.splits().map(|s| (s.name().name().into(), split_json(s, &survey))).collect();
        return output::json(&json!({
            "data": data.path().display().to_string(),
            "sha256": data.digest(),
            "task": data.task(),
            "audio_features": data.acoustic(),
            "splits": splits,
            "suspicions": survey.suspicions,
            "warnings": warnings,
        }));
    }
    let shapes = data.splits().flat_map(|split| {
        let first = vec![split.name().to_string(), split.rows().to_string()];
        let mut rows: Vec<Vec<String>> = streams(split, &survey)
            .map(|stream| {
                let mut row = first.clone();
                row.push(stream.modality.to_string());
                row.push(format!("{}x{}", stream.steps, stream.dim));
                row.extend(valid_steps(stream));
                row
            })
            .collect();
        if let Some(bert) = split.text_bert() {
            let shape = format!("3x{}", bert.len);
            rows.push([first, vec!["text_bert".into(), shape]].concat());
        } else if rows.is_empty() {
            // Sentences alone, for whoever has a tokenizer.
            rows.push([first, vec!["raw_text".into(), "-".into()]].concat());
        }
        rows
    });
    let header = ["split", "rows", "field", "shape", "valid steps", "(median)"];
    let shapes = output::table(header, 5, shapes);
    let mut parts = vec![("", shapes)];
    let idle = idle(&survey);
    if !idle.is_empty() {
        let table = output::table(["split", "field", "what says nothing"], 3, idle);
        parts.push(("Features and rows that say nothing:", table));
    }
    if let Some(table) = frequencies(data) {
        parts.push(("Rows of each class or label:", table));
    }
    // The numbers are drawn also where classes are learned, unless they are those.
    let drawn = data.task().kind == TaskKind::Regression || data.task_note().is_none();
    if let Some(histogram) = histogram(data).filter(|_| drawn) {
        parts.push(("Labels, by the nearest of seven values:", histogram));
    }
    output::tables(&parts)?;
    if !data.task().one_number() {
        output::print(&format!("Targets: {}", data.task().about()))?;
    }
    if let Some(made) = data.acoustic() {
        let groups = made.groups.join(", ");
        output::print(&format!(
            "Audio features: {groups}; every {} samples at {} Hz",
            made.hop, made.rate
        ))?;
    }
    if let Some(note) = data.task_note() {
        output::print(&format!("note: {note}"))?;
    }
    let factors = data.splits().next().map(Split::factor_names).unwrap_or_default();
    if !factors.is_empty() {
        output::print(&format!("Known factors: {}", factors.join(", ")))?;
    }
    for warning in &warnings {
        output::print(&format!("\nwarning: {warning}"))?;
    }
    Ok(())
}

/// How many rows of each split have each class or label.
fn frequencies(data: &Dataset) -> Option<comfy_table::Table> {
    let task = data.task();
    if task.kind == TaskKind::Regression {
        return None;
    }
    let splits: Vec<(&Split, Vec<usize>)> =
        data.splits().filter_map(|s| Some((s, s.targets()?.counts(task)))).collect();
    let rows = task.names.iter().enumerate().map(|(i, name)| {
        let counts = splits.iter().map(|(_, counts)| counts[i].to_string());
        std::iter::once(name.clone()).chain(counts).collect()
    });
    let header = std::iter::once(if task.kind == TaskKind::Classes { "class" } else { "label" });
    let header = header.chain(splits.iter().map(|(s, _)| s.name().name()));
    (!splits.is_empty()).then(|| output::table(header, 1, rows))
}

/// The modalities of a split.
fn streams<'s>(
    split: &Split,
    survey: &'s Survey,
) -> impl Iterator<Item = &'s StreamSurvey> + use<'s> {
    let name = split.name();
    survey.streams.iter().filter(move |s| s.split == name)
}

fn valid_steps(stream: &StreamSurvey) -> [String; 2] {
    match stream.lengths {
        Some(l) => [format!("{} to {}, mean {:.1}", l.min, l.max, l.mean), l.median.to_string()],
        None => ["-".into(), String::new()],
    }
}

/// A line for each modality that has constant features or rows without any.
fn idle(survey: &Survey) -> Vec<Vec<String>> {
    let lines = survey.streams.iter().filter_map(|s| {
        let mut words = Vec::new();
        let features = |numbers: &[usize]| {
            let one = if numbers.len() == 1 { "feature" } else { "features" };
            format!("{} {one} ({})", numbers.len(), ranges(numbers))
        };
        if !s.missing.is_empty() {
            words.push(format!("{} always 0", features(&s.missing)));
        }
        if !s.constant.is_empty() {
            words.push(format!("{} constant", features(&s.constant)));
        }
        if s.lacking > 0 {
            words.push(format!("{} of {} rows lack it", s.lacking, s.rows));
        }
        if s.empty_rows > 0 {
            words.push(format!("{} of {} rows are all 0", s.empty_rows, s.rows));
        }
        (!words.is_empty())
            .then(|| vec![s.split.to_string(), s.modality.to_string(), words.join("; ")])
    });
    lines.collect()
}

fn split_json(split: &Split, survey: &Survey) -> Value {
    let fields: serde_json::Map<String, Value> = streams(split, survey)
        .map(|s| {
            let about = json!({
                "steps": s.steps,
                "dim": s.dim,
                "lengths": s.lengths,
                "missing_features": s.missing,
                "constant_features": s.constant,
                "empty_rows": s.empty_rows,
                "outliers": s.outliers,
                "missing_rows": s.lacking,
            });
            (s.modality.name().into(), about)
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
