//! The sections of a run.

use super::charts::Bars;
use super::number::{fixed, or_dash, score};
use super::page::{Grid, HALF, Part, Section, absent, facts, figure, legend};
use super::run::{Live, Run};
use super::theme::Ink;
use super::{covariances, curves, explained, labels, predictions};
use crate::data::Modality;
use crate::recipe::{Config, find};
use crate::train::carried::Carried;
use crate::train::metrics::{Convention, Metrics};
use maud::{Markup, html};

/// Axes of R² begin here at the lowest: how far below nothing a probe fell says nothing more, and
/// would leave no room for the rest. Its number is written at its bar.
pub const LEAST: f64 = -0.25;

/// A run with its sections; in short its headline and curves. `live` says what its model says of
/// its data, or why it cannot.
pub fn part(run: &Run, live: Option<&Result<Live, String>>, id: &str, title: String) -> Part {
    let mut sections = vec![Section::new("curves", "Curves", curves_body(run))];
    // Sections of what only some models have.
    let has = |section: &str| run.config.own.contains_key(section);
    match live {
        None => {}
        Some(Ok(live)) => {
            sections.push(predictions::section(&live.scored, &run.config));
            sections.extend(has("labels").then(|| labels::section(run, &live.human)));
            sections.extend(has("align").then(|| covariances::section(live, id)));
            sections.extend(live.carried.as_ref().map(probes));
            let hardest = predictions::hardest(&live.scored, run.config.data.convention);
            let some = hardest.is_some();
            sections.extend(hardest);
            sections.extend(some.then(|| explained::section(run)));
        }
        Some(Err(why)) => {
            let why = format!(
                "Predictions, covariances, probes and the hardest samples are left out: {}.",
                why.trim_end_matches('.')
            );
            sections.push(Section::new("predictions", "Predicted against true", absent(&why)));
            sections.extend(has("labels").then(|| labels::section(run, &[])));
        }
    }
    sections.push(Section::new("repeat", "To repeat this", repeat(run)));
    Part { id: id.into(), title, lead: headline(run), sections }
}

/// The scores that head a page: names of the field's tables, best known first.
pub fn heads(metrics: &Metrics, convention: Convention) -> Vec<(&'static str, f64)> {
    let wanted: &[&str] = match convention {
        Convention::Mosi => &["MAE", "Corr", "Acc-7", "Acc-2 Has0", "Acc-2 Non0"],
        Convention::Sims => &["MAE", "Corr", "Acc-5", "Acc-3", "Acc-2"],
    };
    let all = metrics.entries();
    // Scores of classes and labels are few, and of no convention.
    if metrics.get("Corr").is_none() {
        return all;
    }
    all.into_iter().filter(|(name, _)| wanted.contains(name)).collect()
}

fn headline(run: &Run) -> Markup {
    let test = run.metrics("test").or_else(|| run.metrics("valid"));
    let split = if run.metrics("test").is_some() { "test" } else { "validation" };
    let best = run.best().map_or(run.history.len(), |r| r.epoch);
    html! {
        p class="lead" { (model(&run.config, &run.modalities)) }
        @if let Some(metrics) = test {
            dl class="tiles" {
                @for (name, value) in heads(&metrics, run.config.data.convention) {
                    div { dt { (split) " " (name) } dd { (fixed(value, 3)) } }
                }
                div { dt { "best epoch" } dd { (best) small class="note" { " of " (run.history.len()) } } }
            }
            (scores(run))
        } @else {
            (absent("The run has not ended (there is no metrics.json), so there are no final scores yet."))
        }
    }
}

/// All scores on both splits.
fn scores(run: &Run) -> Markup {
    let splits: Vec<(&str, Metrics)> =
        ["valid", "test"].into_iter().filter_map(|s| Some((s, run.metrics(s)?))).collect();
    let Some((_, first)) = splits.first() else { return html! {} };
    let names: Vec<&str> = first.entries().iter().map(|e| e.0).collect();
    let rows = splits.iter().map(|(split, metrics)| {
        let all = metrics.entries();
        let cell = |name: &&str| or_dash(all.iter().find(|e| e.0 == *name).map(|e| e.1), score);
        std::iter::once(split.to_string()).chain(names.iter().map(cell)).collect()
    });
    let rows = rows.collect();
    let header = std::iter::once("").chain(names).map(|n| n.replace(' ', "\n"));
    let note = match run.config.data.convention {
        _ if first.get("Acc-2").or(first.get("Acc-2 Has0")).is_none() => "Shares are in 0 to 1.",
        Convention::Mosi => {
            "Has0: negative against the rest over all rows. Non0: negative against positive, without \
             the rows whose label is 0. Shares are in 0 to 1."
        }
        Convention::Sims => {
            "CH-SIMS's way: predictions are clipped to ±1 first; 0 counts as negative in Acc-2 and F1."
        }
    };
    html! { (Grid::new(header, rows).markup()) p class="note" { (note) } }
}

/// What the model is, in a sentence or two, over the streams `read`.
fn model(config: &Config, read: &[Modality]) -> String {
    let said = find(&config.model.name).and_then(|entry| entry.about(config, read));
    said.unwrap_or_else(|why| why.to_string())
}

fn curves_body(run: &Run) -> Markup {
    let panels = curves::panels(&run.history);
    let (first, rest) = panels.split_at(1.min(panels.len()));
    html! {
        @for panel in first { (curves::wide(panel)) }
        div class="grid" { @for panel in rest { (curves::half(panel)) } }
    }
}

fn probes([before, after]: &[Carried; 2]) -> Section {
    let of = |part: &str| -> Markup {
        let mut groups = Vec::new();
        for (name, values) in after.lines.iter().filter(|(name, _)| name.ends_with(part)) {
            // Of a single modality: what all know, and what it alone knows.
            let own = name.split(' ').next().unwrap_or_default();
            for (factor, value) in values {
                if own == "fused" || factor == own || factor == "shared" {
                    let which = if factor == own { "own" } else { factor };
                    groups.push((
                        format!("{own}: {which}"),
                        vec![before.get(name, factor), Some(*value)],
                    ));
                }
            }
        }
        let inks = vec![("before".to_string(), Ink::Series(6)), ("after".to_string(), Ink::Accent)];
        let values = groups.iter().flat_map(|g| g.1.iter().flatten().copied());
        let low = values.fold(0.0, f64::min).max(LEAST);
        let chart = Bars {
            groups,
            inks: inks.clone(),
            x: "R² on test rows".into(),
            range: Some((low, 1.0)),
        };
        html! {
            (legend(inks.iter().map(|(n, i)| (n.as_str(), *i)), true))
            (chart.draw(HALF).markup(&format!("Probes of the {part}s before and after training"), ""))
        }
    };
    let numbers = |part: &str| {
        let names: Vec<String> = after
            .lines
            .first()
            .map(|l| l.1.iter().map(|v| v.0.clone()).collect())
            .unwrap_or_default();
        let rows =
            after.lines.iter().filter(|(name, _)| name.ends_with(part)).flat_map(|(name, _)| {
                [("before", before), ("after", after)].map(|(when, carried)| {
                    let cells =
                        names.iter().map(|f| or_dash(carried.get(name, f), |v| fixed(v, 3)));
                    std::iter::once(format!("{name}, {when}")).chain(cells).collect()
                })
            });
        let rows = rows.collect();
        Grid::new(std::iter::once("R²".to_string()).chain(names.clone()), rows)
    };
    let body = html! {
        p {
            "The factors that made this data are known. A linear probe, fitted on training rows, says how \
             much of each can be read from a representation: 1 for all of it, 0 for nothing."
        }
        div class="grid" {
            (figure("Encoders", "Their outputs, before training and at the best epoch.", of("encoder"), &numbers("encoder")))
            (figure("Heads", "The features of the tasks' heads.", of("head"), &numbers("head")))
        }
    };
    Section::new("probes", "What the representations carry", body)
}

/// Settings that are not the preset's, without what has an option of its own.
pub fn changed(config: &Config) -> Vec<(String, String)> {
    let preset = Config::preset(&config.model.name, &config.preset)
        .and_then(|c| c.keys())
        .unwrap_or_default();
    let own = config.keys().unwrap_or_default();
    own.into_iter().filter(|pair| pair.0 != "train.seed" && !preset.contains(pair)).collect()
}

/// A word for a shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+,:@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The command that trains this run again.
fn command(run: &Run) -> String {
    let config = &run.config;
    let mut words: Vec<String> = ["modalign", "train", "--data"].map(String::from).into();
    words.push(quoted(run.said("data").unwrap_or("DATA")));
    words.extend(["--preset".into(), quoted(&config.preset)]);
    words.extend(["--seed".into(), config.train.seed.to_string()]);
    if let Some(init) = run.said("init") {
        words.extend(["--init".into(), quoted(init)]);
    }
    for (key, value) in changed(config) {
        match key.as_str() {
            "bert.path" => words.extend(["--bert".into(), quoted(value.trim_matches('"'))]),
            "model.text_encoder" if value == "\"bert\"" => {}
            _ => words
                .extend(["--set".into(), quoted(&format!("{key}={}", value.trim_matches('"')))]),
        }
    }
    words.join(" ")
}

fn repeat(run: &Run) -> Markup {
    let text =
        |value: Option<&str>| html! { @match value { Some(v) => code { (v) }, None => "–" } };
    let seconds = run.outcome["seconds"].as_f64();
    let parameters = run.outcome["parameters"].as_u64();
    let mut rows = vec![
        ("run", text(Some(&run.folder.display().to_string()))),
        ("data", text(run.said("data"))),
        ("SHA-256 of it", text(run.said("data_sha256"))),
        ("tokens", text(run.said("tokens_sha256"))),
        ("initial weights", text(run.said("init"))),
        ("seed", text(Some(&run.config.train.seed.to_string()))),
        ("adapter", html! { (run.said("adapter").unwrap_or("–")) }),
        ("driver", html! { (run.said("driver").unwrap_or("–")) }),
        ("modalign", html! { (run.said("version").unwrap_or("–")) }),
        ("preset", html! { (run.config.preset) }),
    ];
    rows.retain(|(name, _)| {
        let key = match *name {
            "tokens" => "tokens_sha256",
            "initial weights" => "init",
            _ => return true,
        };
        run.said(key).is_some()
    });
    let fold = run.fold().map(|folded| folded.fold);
    if let Some(f) = &fold {
        rows.insert(3, ("fold", html! { (f) }));
    }
    if let Some(n) = parameters {
        rows.push(("parameters", html! { (n) }));
    }
    if let Some(s) = seconds {
        rows.push(("seconds", html! { (fixed(s, 1)) }));
    }
    let changed = changed(&run.config);
    let settings = match changed.is_empty() {
        true => html! { "none" },
        false => html! { @for (i, (key, value)) in changed.iter().enumerate() {
            @if i > 0 { br; } code { (key) " = " (value) }
        } },
    };
    rows.push(("changed settings", settings));
    html! {
        (facts(&rows))
        @if fold.is_some() {
            p { "It is a fold of an experiment, whose plan trains it again." }
        } @else {
            p { "On the same adapter and driver this leaves the same bits:" }
            pre class="command" tabindex="0" { (command(run)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("align.weight.ta=0.5"), "align.weight.ta=0.5");
        assert_eq!(quoted("my data.safetensors"), "'my data.safetensors'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn what_was_changed_is_named() {
        let settings = ["align.weight.ta=0", "train.seed=7"].map(String::from);
        let config = Config::build("sims", None, &settings).unwrap();
        assert_eq!(changed(&config), [("align.weight.ta".to_string(), "0.0".to_string())]);
        let said = model(&config, &Modality::KNOWN);
        assert!(said.contains("TV × 100, AV × 100"), "{said}");
        assert!(model(&config, &Modality::KNOWN[..2]).contains("No alignment"));
    }
}
