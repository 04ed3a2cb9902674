//! Predictions of classes, labels and several numbers: what each of them fared, and what was taken for
//! what.

use super::charts::Bars;
use super::number::{fixed, score};
use super::page::{Grid, HALF, Section, figure};
use super::run::Scored;
use super::theme::Ink;
use crate::data::TaskKind;
use crate::train::metrics::{Confusion, Convention, largest, probabilities};
use maud::{Markup, html};

/// Classes whose matrix fits into half of a page.
const FEW: usize = 5;

/// The section of predictions, where a row has more to be told than one number.
pub fn section(scored: &Scored) -> Section {
    let task = &scored.task;
    let entries = scored.metrics.entries();
    let body = html! {
        p {
            "At the best epoch, on the " (scored.scores.len()) " " (scored.split)
            " rows, computed again for this page: "
            @for (i, (name, value)) in entries.iter().enumerate() {
                @if i > 0 { ", " } (name) " " (score(*value))
            }
            @if task.kind != TaskKind::Classes { "; means over the " (task.about()) }
            "."
        }
        // A matrix of many classes wants the width of the page.
        @match scored.metrics.confusion() {
            Some(found) if found.classes > FEW => { (confusion(found, &task.names)) (each(scored)) }
            Some(found) => div class="grid" { (confusion(found, &task.names)) (each(scored)) },
            None => (each(scored)),
        }
    };
    Section::new("predictions", "Predicted against true", body)
}

/// What was taken for what; names of classes from `names`.
fn confusion(found: &Confusion, names: &[String]) -> Markup {
    let all: usize = found.counts.iter().sum();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let note = html! {
        b { "Confusion of classes" }
        "Rows by true class, across by what was said; shading is the share of its row. Framed: \
         right, " (right(found)) " of " (all) "."
    };
    matrix(found, &names, "true", &note)
}

/// Rows that are of the class that they were said to be of.
pub fn right(found: &Confusion) -> usize {
    (0..found.classes).map(|c| found.get(c, c)).sum()
}

/// A heat table of counts by true class (`corner` names it) and what was said.
pub fn matrix(found: &Confusion, names: &[&str], corner: &str, note: &Markup) -> Markup {
    let shade = |row: usize, k: usize| {
        let total: usize = (0..found.classes).map(|c| found.get(row, c)).sum();
        let part = found.get(row, k) as f64 / total.max(1) as f64;
        format!("background:color-mix(in srgb,var(--c0) {:.0}%,var(--ground))", 55.0 * part)
    };
    html! { figure {
        figcaption { (note) }
        div class="scroll" tabindex="0" role="group" aria-label="confusion matrix" { table class="heat" {
            thead { tr { th scope="col" { (corner) } @for name in names { th scope="col" { (name) } } } }
            tbody { @for (i, name) in names.iter().enumerate() { tr {
                th scope="row" { (name) }
                @for k in 0..found.classes {
                    td class=[(i == k).then_some("hold")] style=(shade(i, k)) { (found.get(i, k)) }
                }
            } } }
        } }
    } }
}

/// A bar for each number, class or label, and all its scores as a table.
fn each(scored: &Scored) -> Markup {
    let all = scored.metrics.each();
    let (wanted, title) = match scored.task.kind {
        TaskKind::Regression => ("MAE", "Mean absolute error of each number"),
        TaskKind::Classes => ("f1", "F1 of each class"),
        TaskKind::Labels => ("f1", "F1 of each label"),
    };
    let value = |own: &[(String, f64)]| own.iter().find(|(n, _)| n == wanted).map(|(_, v)| *v);
    let chart = Bars {
        groups: all.iter().map(|(name, own)| (name.clone(), vec![value(own)])).collect(),
        inks: vec![(String::new(), Ink::Accent)],
        x: wanted.into(),
        range: (wanted == "f1").then_some((0.0, 1.0)),
    };
    let names = all.first().into_iter().flat_map(|(_, own)| own.iter().map(|(n, _)| n.clone()));
    let header = std::iter::once("name".to_string()).chain(names);
    let rows = all.iter().map(|(name, own)| {
        let cell = |(score, v): &(String, f64)| fixed(*v, if score == "support" { 0 } else { 4 });
        std::iter::once(name.clone()).chain(own.iter().map(cell)).collect()
    });
    let grid = Grid::new(header, rows.collect());
    let body = chart.draw(HALF).markup(title, "");
    figure(title, "All its scores are under Numbers.", body, &grid)
}

/// The rows whose true class a model gives the least, `most` of them; nothing for other tasks.
pub fn hardest(scored: &Scored, convention: Convention, most: usize) -> Option<Section> {
    if scored.task.kind != TaskKind::Classes {
        return None;
    }
    let names = &scored.task.names;
    let told = |row: usize| {
        let p = probabilities(TaskKind::Classes, &scored.scores[row][..names.len()]);
        let (truth, said) = (scored.truth[row] as usize, largest(&p));
        (truth, said, p[truth], p[said])
    };
    let mut order: Vec<usize> = (0..scored.truth.len()).collect();
    let wrong = |row: &usize| scored.wrongness(*row, convention);
    order.sort_by(|a, b| wrong(b).total_cmp(&wrong(a)));
    order.truncate(most);
    let body = html! {
        p { "The " (order.len()) " " (scored.split) " rows whose true class the model believes in least." }
        div class="scroll" tabindex="0" role="group" aria-label="hardest samples" { table class="hard" {
            thead { tr {
                th scope="col" { "id" }
                @for name in ["true", "probability", "said", "probability"] { th scope="col" { (name) } }
                @if scored.texts.is_some() { th scope="col" class="text" { "text" } }
            } }
            tbody { @for row in &order { @let (truth, said, own, other) = told(*row); tr {
                th scope="row" { (scored.ids[*row]) }
                td { (names[truth]) } td { (fixed(f64::from(own), 3)) }
                td { b { (names[said]) } } td { (fixed(f64::from(other), 3)) }
                @if let Some(texts) = &scored.texts { td class="text" { (texts[*row]) } }
            } } }
        } }
    };
    Some(Section::new("hardest", "Hardest samples", body))
}
