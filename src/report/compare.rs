//! Several runs, side by side.

use super::charts::Lines;
use super::curves;
use super::number::{or_dash, score};
use super::page::{Grid, Part, Section, both, figure, size};
use super::run::Run;
use super::theme::{Ink, SERIES};
use maud::html;

/// What tells the runs apart, and how each did.
pub fn part(runs: &[(String, Run)]) -> Part {
    let body = html! {
        (table(runs, "test"))
        (table(runs, "valid"))
    };
    let mut sections = vec![Section::new("scores", "Scores", body)];
    let lines = runs.iter().enumerate().filter_map(|(i, (name, run))| {
        curves::validation(&run.history, name, Ink::Series(i % SERIES))
    });
    let score =
        runs.iter().find_map(|(_, run)| curves::valid_name(&run.history)).unwrap_or("score");
    let mut chart = Lines {
        lines: lines.collect(),
        x: String::new(),
        y: format!("validation {score}"),
        diagonal: false,
        near: true,
    };
    chart.lines.iter_mut().for_each(|l| l.thick = false);
    if !chart.lines.is_empty() {
        let body = html! {
            (curves::names(&chart))
            (both(&format!("Validation {score} of all runs by epoch"), |w| chart.draw(size(w))))
        };
        let note = "The rings are the epochs that were kept.";
        let numbers = curves::numbers(&chart, "epoch");
        let body = figure(&format!("Validation {score}"), note, body, &numbers);
        sections.push(Section::new("validation", "Validation by epoch", body));
    }
    sections.push(Section::new("settings", "What tells them apart", settings(runs)));
    let lead = html! { p class="lead" { (runs.len()) " runs, side by side; each one’s own sections follow." } };
    Part { id: "compared".into(), title: format!("{} runs compared", runs.len()), lead, sections }
}

fn table(runs: &[(String, Run)], split: &str) -> maud::Markup {
    let all: Vec<_> = runs.iter().map(|(_, r)| r.metrics(split).map(|m| m.entries())).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in all.iter().flatten().flatten() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return html! {};
    }
    let rows = runs.iter().zip(&all).map(|((name, run), entries)| {
        let value = |n: &&str| entries.iter().flatten().find(|e| e.0 == *n).map(|e| e.1);
        let best = run.best().map_or_else(|| "–".into(), |r| r.epoch.to_string());
        std::iter::once(name.clone())
            .chain(names.iter().map(|n| or_dash(value(n), score)))
            .chain([best, run.config.train.seed.to_string()])
            .collect()
    });
    let rows = rows.collect();
    let header = std::iter::once(split.to_string())
        .chain(names.iter().map(|n| n.replace(' ', "\n")))
        .chain(["best\nepoch".into(), "seed".into()]);
    Grid::new(header, rows).markup()
}

/// The settings that are not the same in all, and the data.
fn settings(runs: &[(String, Run)]) -> maud::Markup {
    let all: Vec<Vec<(String, String)>> = runs
        .iter()
        .map(|(_, r)| {
            let mut keys = vec![("data".to_string(), r.data_name())];
            keys.extend(r.config.keys().unwrap_or_default());
            keys
        })
        .collect();
    let Some(first) = all.first() else { return html! {} };
    let of = |keys: &[(String, String)], key: &str| {
        keys.iter().find(|k| k.0 == key).map_or_else(|| "–".to_string(), |k| k.1.clone())
    };
    let differing = first.iter().filter(|(key, value)| all.iter().any(|k| of(k, key) != *value));
    let rows: Vec<Vec<String>> = differing
        .map(|(key, _)| {
            std::iter::once(key.clone()).chain(all.iter().map(|k| of(k, key))).collect()
        })
        .collect();
    if rows.is_empty() {
        return super::page::absent("Nothing: all settings are the same.");
    }
    let header = std::iter::once("setting".to_string()).chain(runs.iter().map(|r| r.0.clone()));
    Grid::new(header, rows).markup()
}
