//! How the generated labels moved away from the multimodal one.

use super::charts::{Bars, Line, Lines, Ridges};
use super::curves;
use super::number::{fixed, or_dash};
use super::page::{Grid, HALF, Section, THIRD, absent, figure, legend, size};
use super::run::{Human, Run};
use super::theme::{Ink, letter};
use crate::train::carried::head_name;
use crate::train::{BINS, LabelRecord, TaskLabels};
use maud::{Markup, html};

/// Rows of a ridge plot at most.
const ROWS: usize = 9;

/// The section.
pub fn section(run: &Run, human: &[Human]) -> Section {
    let body = html! { (body(run)) @if !human.is_empty() { (beside(human)) } };
    Section::new("labels", "Generated labels", body)
}

/// Generated labels against those that people gave each modality alone.
fn beside(human: &[Human]) -> Markup {
    let chart = Bars {
        groups: human
            .iter()
            .map(|h| (h.modality.to_string(), h.scores.map(|(mae, _)| Some(mae)).to_vec()))
            .collect(),
        inks: vec![("multimodal".into(), Ink::Series(6)), ("generated".into(), Ink::Accent)],
        x: "mean distance".into(),
        range: None,
    };
    let header = ["modality", "rows", "multimodal: MAE", "Corr", "generated: MAE", "Corr"];
    let rows = human.iter().map(|h| {
        let scores = h.scores.iter().flat_map(|(mae, corr)| {
            [fixed(*mae, 4), corr.map_or_else(|| "-".to_string(), |corr| fixed(corr, 4))]
        });
        [h.modality.to_string(), h.rows.to_string()].into_iter().chain(scores).collect()
    });
    let grid = Grid::new(header, rows.collect());
    let inks = chart.inks.clone();
    let body = html! {
        (legend(inks.iter().map(|(name, ink)| (name.as_str(), *ink)), false))
        (chart.draw(HALF).markup("Distance of labels from those that people gave", ""))
    };
    figure(
        "Beside what people said",
        "Of each modality people have said what they felt by it alone. Mean distance of the multimodal \
         label and of the generated one from that, over training rows: a generated label that is worth \
         something is nearer.",
        body,
        &grid,
    )
}

fn body(run: &Run) -> Markup {
    if run.config.value("labels.enabled") == Some(false.into()) {
        return absent(
            "This run generates no labels (labels.enabled = false): the fused head was trained alone.",
        );
    }
    let (Some(first), Some(last)) = (run.labels.first(), run.labels.last()) else {
        return absent(
            "The run folder has no labels.jsonl: the run was trained before that was written.",
        );
    };
    let tasks: Vec<char> = last.tasks.iter().skip(1).map(|t| t.task).collect();
    let shift = shifts(&run.labels, &tasks);
    let against = against(last, &tasks);
    html! {
        p {
            "Each modality has a label of its own, which begins at the multimodal one and moves as its \
             representation comes to lie differently between the centres of positive and negative \
             samples. A head whose label has moved far counts more in the objective."
        }
        div class="grid three" {
            @for task in &tasks { (ridges(&run.labels, *task, first.clamp)) }
        }
        div class="grid" {
            (figure(
                "How far they moved",
                "Mean distance of the generated label from the multimodal one, over training rows.",
                html! { (curves::names(&shift)) (shift.draw(size(HALF)).markup("Mean shift of the generated labels by epoch", "")) },
                &curves::numbers(&shift, "epoch"),
            ))
            (figure(
                "Where they moved",
                &format!("Mean generated label by multimodal label after epoch {}; on the grey line nothing has moved.", last.epoch),
                html! { (curves::names(&against)) (against.draw(size(HALF)).markup("Mean generated label by multimodal label", "")) },
                &by_bin(last, &tasks),
            ))
        }
    }
}

fn task(record: &LabelRecord, wanted: char) -> Option<&TaskLabels> {
    record.tasks.iter().find(|t| t.task == wanted)
}

/// The head that a task's letter stands for.
fn named(letter: char) -> String {
    head_name(&letter.to_string())
}

fn shifts(records: &[LabelRecord], tasks: &[char]) -> Lines {
    let lines = tasks.iter().map(|letter_| Line {
        name: named(*letter_),
        ink: letter(*letter_),
        thick: false,
        points: records
            .iter()
            .filter_map(|r| Some((r.epoch as f64, task(r, *letter_)?.shift?)))
            .collect(),
        best: None,
    });
    Lines {
        lines: lines.collect(),
        x: String::new(),
        y: "mean |yₛ − yₘ|".into(),
        diagonal: false,
        near: false,
    }
}

fn against(record: &LabelRecord, tasks: &[char]) -> Lines {
    let lines = tasks.iter().filter_map(|letter_| {
        let means = task(record, *letter_)?.mean.iter().enumerate();
        Some(Line {
            name: named(*letter_),
            ink: letter(*letter_),
            thick: false,
            points: means.filter_map(|(i, m)| Some((record.middle(i), (*m)?))).collect(),
            best: None,
        })
    });
    Lines {
        lines: lines.collect(),
        x: "multimodal label".into(),
        y: "generated label".into(),
        diagonal: true,
        near: false,
    }
}

fn by_bin(record: &LabelRecord, tasks: &[char]) -> Grid {
    let names =
        tasks.iter().flat_map(|t| [format!("{} mean", named(*t)), format!("{} std", named(*t))]);
    let header = ["multimodal".to_string(), "rows".into()].into_iter().chain(names);
    let rows = (0..BINS).map(|i| {
        let count = record.tasks.first().and_then(|m| m.histogram.get(i)).copied().unwrap_or(0);
        let cells = tasks.iter().flat_map(|t| {
            let found = task(record, *t);
            let of = |values: Option<&Vec<Option<f64>>>| values.and_then(|v| *v.get(i)?);
            [of(found.map(|t| &t.mean)), of(found.map(|t| &t.std))]
        });
        let first = [fixed(record.middle(i), 2), count.to_string()];
        first.into_iter().chain(cells.map(|v| or_dash(v, |v| fixed(v, 3)))).collect()
    });
    Grid::new(header, rows.collect())
}

/// Some of the epochs, the first and the last among them.
fn some(records: &[LabelRecord]) -> Vec<&LabelRecord> {
    let n = records.len();
    if n <= ROWS {
        return records.iter().collect();
    }
    (0..ROWS).map(|i| &records[i * (n - 1) / (ROWS - 1)]).collect()
}

fn ridges(records: &[LabelRecord], wanted: char, clamp: f64) -> Markup {
    let name = named(wanted);
    let shown = some(records);
    let counts = |t: &TaskLabels| t.histogram.iter().map(|n| f64::from(*n)).collect::<Vec<_>>();
    let rows = shown.iter().filter_map(|r| Some((r.epoch.to_string(), counts(task(r, wanted)?))));
    let chart = Ridges {
        rows: rows.collect(),
        beside: shown.first().and_then(|r| r.tasks.first()).map(counts).unwrap_or_default(),
        reach: clamp,
        ink: letter(wanted),
        x: format!("label of {name}"),
    };
    let title = format!("{}{} label", name[..1].to_uppercase(), &name[1..]);
    let label = format!("Distribution of the generated label of {name} by epoch");
    let body = html! {
        (legend([("generated", letter(wanted))], true))
        (chart.draw(THIRD).markup(&label, ""))
    };
    let note = "Its distribution by epoch, downwards; the thin line is the multimodal label.";
    figure(&title, note, body, &histogram(records, wanted))
}

fn histogram(records: &[LabelRecord], wanted: char) -> Grid {
    let Some(first) = records.first() else { return Grid::default() };
    let middles = (0..BINS).map(|i| fixed(first.middle(i), 2));
    let row = |name: String, t: &TaskLabels| {
        std::iter::once(name).chain(t.histogram.iter().map(u32::to_string)).collect::<Vec<_>>()
    };
    let fused = first.tasks.first().map(|t| row("multimodal".into(), t));
    let each =
        records.iter().filter_map(|r| Some(row(format!("epoch {}", r.epoch), task(r, wanted)?)));
    let header = std::iter::once("rows by label".to_string()).chain(middles);
    Grid::new(header, fused.into_iter().chain(each).collect())
}
