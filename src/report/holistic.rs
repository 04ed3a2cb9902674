//! The page of `modalign holistic`: where each model is strong, and whether the difference is luck.

use super::charts::Bars;
use super::page::{Grid, Page, Part, Section, both, figure, legend};
use super::theme::{Ink, SERIES};
use crate::experiment::tables;
use crate::holistic::{Label, Tables, Whole};
use maud::{Markup, html};

/// The page.
pub fn page(whole: &Whole) -> String {
    let (there, all) = (whole.runs[1], whole.runs[0]);
    let tables = Tables::of(whole);
    let mut sections = vec![
        Section::new("scores", "Models by data sets", by_data(whole)),
        Section::new("labels", "Where each is strong", by_label(whole, &tables)),
    ];
    for (id, grid) in [
        ("like", &tables.like),
        ("between-labels", &tables.between_labels),
        ("between-models", &tables.between_models),
        ("without", &tables.without),
    ] {
        if !grid.rows.is_empty() {
            let (title, note) = grid.title.split_once(';').unwrap_or((&grid.title, ""));
            sections.push(Section::new(id, title, html! { p { (note.trim()) } (table(grid)) }));
        }
    }
    let lead = html! {
        p {
            (whole.models.len()) " models on " (whole.data.len()) " data sets, " (there) " of " (all) " runs. Scores: "
            (whole.scores) "."
        }
    };
    let part = Part { id: "holistic".into(), title: whole.name.clone(), lead, sections };
    Page { kicker: "Whole evaluation".into(), parts: vec![part] }.render()
}

fn table(grid: &tables::Grid) -> Markup {
    Grid::new(grid.header.iter().cloned(), grid.rows.clone()).markup()
}

/// Scores as a heat table.
fn by_data(whole: &Whole) -> Markup {
    let shade = |score: Option<f64>| {
        let part = score.unwrap_or_default().clamp(0.0, 1.0);
        format!("background:color-mix(in srgb,var(--c0) {:.0}%,var(--ground))", 55.0 * part)
    };
    let shown = |score: Option<f64>| score.map_or_else(|| "–".into(), |s| format!("{s:.3}"));
    html! { figure {
        figcaption { b { "Scores, mean over seeds" } "Shading goes from 0 to 1; the last row is the mean over data sets." }
        div class="scroll" tabindex="0" role="group" aria-label="scores of models by data set" { table class="heat" {
            thead { tr { th scope="col" { "data set" } @for m in &whole.models { th scope="col" { (m) } } } }
            tbody {
                @for set in &whole.data { tr {
                    th scope="row" { (set.name) }
                    @for m in &set.models { td style=(shade(m.score)) { (shown(m.score)) } }
                } }
                tr { th scope="row" { "mean" } @for m in &whole.means { td style=(shade(*m)) { (shown(*m)) } } }
            }
        } }
    } }
}

/// A group of bars for each label, a bar for each model.
fn by_label(whole: &Whole, tables: &Tables) -> Markup {
    let ink = |(i, name): (usize, &String)| (name.clone(), Ink::Series(i % SERIES));
    let inks: Vec<(String, Ink)> = whole.models.iter().enumerate().map(ink).collect();
    let name = |l: &Label| match l.finding {
        true => format!("{} ({})", l.label, l.data.len()),
        false => format!("{} (1: no finding)", l.label),
    };
    let chart = Bars {
        groups: whole.labels.iter().map(|l| (name(l), l.means.clone())).collect(),
        inks: inks.clone(),
        x: "mean score".into(),
        range: None,
    };
    let numbers = Grid::new(tables.labels.header.iter().cloned(), tables.labels.rows.clone());
    let shown = html! {
        (legend(inks.iter().map(|(name, ink)| (name.as_str(), *ink)), true))
        (both("mean scores by label", |width| chart.draw(width)))
    };
    let note = "In brackets how many data sets have the label: one alone says nothing of it.";
    figure("Mean scores by what data sets are like", note, shown, &numbers)
}
