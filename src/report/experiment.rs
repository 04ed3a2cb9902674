//! The sections of an experiment.

use super::charts::{Bars, Dots, Forest, ForestRow, Line, Lines};
use super::curves;
use super::number::{fixed, or_dash, signed};
use super::page::{Grid, HALF, Part, Section, both, facts, figure, legend, size};
use super::run::Run;
use super::run_page::LEAST;
use super::theme::{Ink, SERIES};
use crate::error::Result;
use crate::experiment::stats::Summary;
use crate::experiment::{CellResult, PRIVATE, Results, SHARED, tables};
use crate::train::carried::Carried;
use crate::train::folder;
use crate::train::metrics::{Convention, smaller_is_better};
use maud::{Markup, html};
use serde_json::Value;
use std::path::Path;

/// Its own sections; those of its runs come after them.
///
/// # Errors
/// A run's log that is not as it was written.
pub fn part(results: &Results, at: &Path) -> Result<Part> {
    let mut sections = vec![Section::new("table", "All cells", table(results))];
    let forests = forests(results);
    if !forests.is_empty() {
        let body = html! {
            p { "Each cell minus the reference, " code { (results.reference) }
                ", on the test split; " (results.paired_test()) ". Bars are 95 % intervals \
                 of the mean difference, in colour where the adjusted p is below " (results.alpha) "." }
            @for forest in &forests { (forest) }
        };
        sections.push(Section::new("forest", "Differences from the reference", body));
    }
    if let Some(grid) = tables::pooled(results) {
        sections.push(Section::new("pooled", "All rows at once", words(&grid)));
    }
    if !results.published.is_empty() {
        sections.push(Section::new("published", "Beside published figures", published(results)));
    }
    for (id, title, grid) in [
        ("parts", "What each part does", tables::effects(results)),
        ("recovered", "What the encoders recover", tables::recovered(results)),
    ] {
        sections.extend(grid.map(|g| Section::new(id, title, words(&g))));
    }
    sections.extend(validation(results, at)?);
    sections.extend(probes(results));
    sections.extend(robustness(results));
    sections.push(Section::new("repeat", "To repeat this", repeat(results, at)));
    Ok(Part { id: "experiment".into(), title: title(results), lead: lead(results), sections })
}

/// One of the experiment's own tables, its title as a sentence.
fn words(grid: &tables::Grid) -> Markup {
    let said = grid.title.split_once(": ").map_or(grid.title.as_str(), |(_, rest)| rest);
    let mut letters = said.chars();
    let first: String = letters.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    // Numbers as the rest of the page has them; names keep their hyphens.
    let number = |cell: &String| match cell.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None => cell.clone(),
    };
    let rows = grid.rows.iter().map(|row| row.iter().map(number).collect());
    html! {
        p { (first) (letters.as_str()) "." }
        (Grid::new(grid.header.iter().cloned(), rows.collect()).markup())
    }
}

/// The experiment and its data.
fn title(results: &Results) -> String {
    format!("{} on {}", results.name, results.data_name)
}

fn lead(results: &Results) -> Markup {
    let metric = results.metric.as_str();
    let stat = |cell: Option<&CellResult>| cell.and_then(|c| c.test.get(metric)).copied();
    let tile = |what: String, cell: Option<&CellResult>| {
        html! { @if let (Some(cell), Some(stat)) = (cell, stat(cell)) {
            div { dt { (what) } dd { (fixed(stat.mean, 3)) small class="note" { " ± " (fixed(stat.std, 3)) }
                code { (cell.cell) } } }
        } }
    };
    let by = results.best.as_ref().map_or("valid MAE", |b| b.by.as_str());
    html! {
        p class="lead" {
            (results.cells.len()) " ways of training from " (results.seeds.len()) " seeds each"
            @if let Some(f) = &results.folding { ", on " (f.folds) " folds of each" } ": "
            (results.finished_runs) " of " (results.expected_runs) " runs are finished. "
            @match &results.best {
                Some(best) if results.reference == best.cell => {
                    "By " (by) " nothing is better than the reference, " code { (best.cell) } "."
                }
                Some(best) if best.significant => {
                    "The best by " (by) " is " code { (best.cell) } ", and on test it can be told from the reference."
                }
                Some(best) if results.best_cell().and_then(|c| c.against(metric)).is_some_and(|c| c.significant(results.alpha)) => {
                    "The best by " (by) " is " code { (best.cell) } "; on test it is worse than the reference."
                }
                Some(best) => {
                    "The best by " (by) " is " code { (best.cell) } "; on test it cannot be told from the reference."
                }
                None => {}
            }
        }
        dl class="tiles" {
            (tile(format!("best by {by}: test {metric}"), results.best_cell()))
            @if results.best.as_ref().is_none_or(|b| b.cell != results.reference) {
                (tile(format!("reference: test {metric}"), results.reference_cell()))
            }
            div { dt { "runs" } dd { (results.finished_runs) } }
            div { dt { "seeds" } dd { (results.seeds.len()) } }
            @if let Some(f) = &results.folding { div { dt { "folds" } dd { (f.folds) } } }
        }
    }
}

/// A score with its spread.
fn spread(stat: Option<&Summary>, digits: usize) -> Markup {
    html! { @match stat {
        Some(s) => { (fixed(s.mean, digits)) small { " ± " (fixed(s.std, digits)) } }
        None => "–",
    } }
}

/// The field's own scores; what encoders carry is shown elsewhere.
fn scores(results: &Results) -> Vec<&str> {
    let mut scores = results.scores();
    scores.retain(|s| ![SHARED, PRIVATE].contains(s));
    scores
}

fn table(results: &Results) -> Markup {
    let metric = results.metric.as_str();
    let mut scores = scores(results);
    scores.retain(|s| *s != metric);
    let alpha = results.alpha;
    html! {
        p {
            "Means ± population standard deviation over " (results.over()) ", on the test split, at each \
             run's best validation epoch; then the difference of " (metric) " from the reference with its \
             p (" (results.paired_test()) "; " (results.correction) "-corrected over the cells) and its \
             effect size, Hedges’ g. A cell is marked best only where p is below " (alpha) "."
        }
        div class="scroll" tabindex="0" role="group" aria-label="all cells" { table class="dense" {
            thead { tr {
                th scope="col" { "cell" }
                th scope="col" { (metric) }
                th scope="col" { "Δ " (metric) } th scope="col" { "p adj." } th scope="col" { "g" }
                @for s in &scores { th scope="col" { (s.replace(' ', "\n")) } }
                th scope="col" { "n" }
            } }
            tbody { @for cell in &results.cells {
                tr class=[results.is_clearly_best(cell).then_some("mark")] {
                    th scope="row" { (cell.cell)
                        @if cell.cell == results.reference { " " small class="note" { "reference" } }
                        @if results.is_clearly_best(cell) { " " small { "best" } } }
                    td { (spread(cell.test.get(metric), 3)) }
                    @let a = cell.against(metric);
                    td { (or_dash(a.map(|a| a.difference), |v| signed(v, 3))) }
                    td { (tables::probability(a.and_then(|a| a.p_adjusted))) }
                    td { (or_dash(a.and_then(|a| a.effect), |v| signed(v, 2))) }
                    @for s in &scores { td { (spread(cell.test.get(*s), 3)) } }
                    td { (cell.test.get(metric).map_or(cell.runs.len(), |s| s.n)) }
                }
            } }
        } }
    }
}

/// A plot for the score that decides, and one for the correlation.
fn forests(results: &Results) -> Vec<Markup> {
    let mut names = vec![results.metric.as_str()];
    if results.metric.as_str() != "Corr" {
        names.push("Corr");
    }
    names.into_iter().filter_map(|name| forest(results, name)).collect()
}

fn forest(results: &Results, metric: &str) -> Option<Markup> {
    let alpha = results.alpha;
    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    for cell in results.cells.iter().filter(|c| c.cell != results.reference) {
        let Some(against) = cell.against(metric) else { continue };
        let value = against.difference;
        let interval = against.ci95.map(|[a, b]| (a, b));
        let interval_said = interval.map(|(a, b)| format!("{} to {}", signed(a, 4), signed(b, 4)));
        let p = tables::probability(against.p_adjusted);
        let interval_said = interval_said.unwrap_or_else(|| "–".into());
        rows.push(ForestRow {
            name: cell.cell.clone(),
            value,
            interval,
            clear: against.p_adjusted.is_some_and(|p| p < alpha),
            says: format!(
                "{}\n{}\n95 % {interval_said}\np adjusted {p}",
                cell.cell,
                signed(value, 4)
            ),
        });
        numbers.push(vec![
            cell.cell.clone(),
            signed(value, 4),
            interval_said,
            or_dash(against.t, |v| fixed(v, 2)),
            tables::probability(against.p),
            p,
            or_dash(against.effect, |v| signed(v, 2)),
            against.n.to_string(),
        ]);
    }
    if rows.is_empty() {
        return None;
    }
    let better = if smaller_is_better(metric) { "left is better" } else { "right is better" };
    let chart = Forest { rows, x: format!("difference of test {metric}") };
    let header = ["cell", "difference", "95 % interval", "t", "p", "p adjusted", "g", "n"];
    let body = both(&format!("Differences of {metric} from the reference"), |w| chart.draw(w));
    Some(figure(metric, better, body, &Grid::new(header, numbers)))
}

fn published(results: &Results) -> Markup {
    let ours = [results.best_cell(), results.reference_cell()];
    let mut ours: Vec<&CellResult> = ours.into_iter().flatten().collect();
    ours.dedup_by(|a, b| a.cell == b.cell);
    let mut scores = scores(results);
    scores.retain(|s| results.published.iter().any(|p| p.scores.contains_key(*s)));
    // What the field reports under names that no run here has still belongs in the table.
    let mut others: Vec<&str> =
        results.published.iter().flat_map(|p| p.scores.keys().map(String::as_str)).collect();
    others.retain(|name| !scores.contains(name));
    others.sort_unstable();
    others.dedup();
    scores.extend(others);
    html! {
        p {
            "Figures that others report, each by its own convention, beside this experiment’s. They are \
             not from these runs: features, splits, seeds and what was selected on differ."
        }
        div class="scroll" tabindex="0" role="group" aria-label="published figures" { table {
            thead { tr {
                th scope="col" { "model" } th scope="col" { "convention" }
                @for s in &scores { th scope="col" { (s.replace(' ', "\n")) } }
                th scope="col" { "data" } th scope="col" { "source" }
            } }
            tbody {
                @for cell in ours { tr class="ours" {
                    th scope="row" { "here: " (cell.cell) }
                    td { (convention(results)) }
                    @for s in &scores { td { (spread(cell.test.get(*s), 3)) } }
                    td { (results.data_name) } td { "these runs" }
                } }
                @for p in &results.published { tr {
                    th scope="row" { (p.model) }
                    td { (p.convention) }
                    @for s in &scores { td { (or_dash(p.scores.get(*s).and_then(Value::as_f64), |v| fixed(v, 3))) } }
                    td { (p.data) }
                    td { (p.source) }
                } }
            }
        } }
    }
}

/// How cells are told apart: all by colour where there are few, else the best and the reference.
fn ink(results: &Results, i: usize) -> (Ink, bool) {
    let cell = &results.cells[i];
    let best = results.best.as_ref().is_some_and(|b| b.cell == cell.cell);
    if best {
        (Ink::Valid, true)
    } else if cell.cell == results.reference {
        (Ink::Text, true)
    } else if results.cells.len() <= SERIES {
        // The second colour comes last: it is too like that of the best.
        (Ink::Series([0, 2, 3, 4, 5, 6, 1][i]), false)
    } else {
        (Ink::Series(6), false)
    }
}

/// What the colours are.
fn names(results: &Results) -> Markup {
    let all = (0..results.cells.len()).map(|i| (i, ink(results, i)));
    let few = results.cells.len() <= SERIES;
    let mut entries: Vec<(String, Ink)> = all
        .filter(|(_, (_, out))| few || *out)
        .map(|(i, (ink, _))| {
            let cell = &results.cells[i];
            let best = results.best.as_ref().is_some_and(|b| b.cell == cell.cell);
            let word = match (best, cell.cell == results.reference) {
                (true, true) => ", best and reference",
                (true, _) => ", best",
                (_, true) => ", reference",
                _ => "",
            };
            (format!("{}{word}", cell.cell), ink)
        })
        .collect();
    if !few {
        entries.push(("other cells".into(), Ink::Series(6)));
    }
    legend(entries.iter().map(|(n, i)| (n.as_str(), *i)), false)
}

/// The first of the validation scores (of numbers the MAE) by epoch, the mean over a cell's runs for as long as all of them went on.
fn validation(results: &Results, at: &Path) -> Result<Option<Section>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut score = "score";
    for (i, cell) in results.cells.iter().enumerate() {
        let histories = cell.runs.iter().map(|r| folder::epochs(&at.join(&r.run)));
        let runs: Vec<Vec<f64>> = histories
            .collect::<Result<Vec<_>>>()?
            .iter()
            .inspect(|h| score = curves::valid_name(h).unwrap_or(score))
            .map(|h| h.iter().map_while(|r| Some(r.valid.as_ref()?.heads().first()?.1)).collect())
            .filter(|h: &Vec<f64>| !h.is_empty())
            .collect();
        let epochs = runs.iter().map(Vec::len).min().unwrap_or(0);
        let mean = |e: usize| runs.iter().map(|r| r[e]).sum::<f64>() / runs.len() as f64;
        let (ink, thick) = ink(results, i);
        lines.push(Line {
            name: cell.cell.clone(),
            ink,
            thick,
            points: (0..epochs).map(|e| ((e + 1) as f64, mean(e))).collect(),
            best: None,
        });
    }
    lines.retain(|l| !l.points.is_empty());
    // What stands out is drawn over the rest.
    lines.sort_by_key(|l| l.thick);
    if lines.is_empty() {
        return Ok(None);
    }
    let y = format!("validation {score}");
    let chart = Lines { lines, x: String::new(), y, diagonal: false, near: true };
    let body = html! {
        (names(results))
        (both(&format!("Validation {score} of all cells by epoch"), |w| chart.draw(size(w))))
    };
    let note =
        format!("Means over {}, for as long as every run of a cell went on.", results.over());
    let numbers = curves::numbers(&chart, "epoch");
    Ok(Some(Section::new(
        "validation",
        "Validation by epoch",
        figure(&format!("Validation {score}"), &note, body, &numbers),
    )))
}

/// For each representation, the bars of all cells.
fn probes(results: &Results) -> Option<Section> {
    let all: Vec<(&str, &Carried)> = results
        .cells
        .iter()
        .filter_map(|c| Some((c.cell.as_str(), c.probes.as_ref()?)))
        .filter(|(_, c)| !c.lines.is_empty())
        .collect();
    let mut representations: Vec<&str> = Vec::new();
    for (name, _) in all.iter().flat_map(|(_, c)| &c.lines) {
        if !representations.contains(&name.as_str()) {
            representations.push(name);
        }
    }
    if representations.is_empty() {
        return None;
    }
    let low = all.iter().flat_map(|(_, c)| c.lines.iter().flat_map(|l| l.1.iter().map(|v| v.1)));
    let low = low.fold(0.0, f64::min).max(LEAST);
    let one = |name: &str| {
        let own = name.split(' ').next().unwrap_or_default();
        // Of the fused head, which has none of its own, all that each modality alone knows.
        let factors: Vec<&str> = match own {
            "fused" => vec!["shared", "text", "audio", "vision"],
            own => vec!["shared", own],
        };
        let there = |f: &&str| all.iter().any(|(_, c)| c.get(name, f).is_some());
        let factors: Vec<&str> = factors.into_iter().filter(there).collect();
        let inks = factors.iter().enumerate().map(|(i, f)| {
            let said = if *f == own { "own".to_string() } else { f.to_string() };
            (said, if *f == "shared" { Ink::Accent } else { Ink::Series(i) })
        });
        let inks: Vec<(String, Ink)> = inks.collect();
        let groups = all.iter().filter(|(_, c)| factors.iter().any(|f| c.get(name, f).is_some()));
        let groups: Vec<(String, Vec<Option<f64>>)> = groups
            .map(|(cell, c)| (cell.to_string(), factors.iter().map(|f| c.get(name, f)).collect()))
            .collect();
        let rows = groups.iter().map(|(cell, values)| {
            let cells = values.iter().map(|v| or_dash(*v, |v| fixed(v, 3)));
            std::iter::once(cell.clone()).chain(cells).collect()
        });
        let header =
            std::iter::once("cell".to_string()).chain(factors.iter().map(|f| f.to_string()));
        let numbers = Grid::new(header, rows.collect());
        let chart = Bars {
            groups,
            inks: inks.clone(),
            x: "R² on test rows".into(),
            range: Some((low, 1.0)),
        };
        let body = html! {
            (legend(inks.iter().map(|(n, i)| (n.as_str(), *i)), true))
            (chart.draw(HALF).markup(&format!("Probes of the {name} by cell"), ""))
        };
        figure(name, &format!("By cell, means over {}.", results.over()), body, &numbers)
    };
    let body = html! {
        p {
            "The factors that made this data are known. A linear probe says how much of each can be read \
             from a representation, R² on test rows: 1 for all of it, 0 for nothing."
        }
        div class="grid" { @for name in &representations { (one(name)) } }
    };
    Some(Section::new("probes", "What the representations carry", body))
}

/// The deciding score in every condition.
fn robustness(results: &Results) -> Option<Section> {
    let metric = results.metric.as_str();
    let mut conditions: Vec<&str> = Vec::new();
    for name in results.cells.iter().flat_map(|c| c.robustness.iter().flatten()).map(|r| &r.name) {
        if !conditions.contains(&name.as_str()) {
            conditions.push(name);
        }
    }
    if conditions.is_empty() {
        return None;
    }
    let stat = |cell: &CellResult, name: &str| -> Option<Summary> {
        let found = cell.robustness.iter().flatten().find(|r| r.name == name)?;
        found.test.get(metric).copied()
    };
    let series = results.cells.iter().enumerate().filter(|(_, c)| c.robustness.is_some()).map(
        |(i, cell)| {
            let (ink, out) = ink(results, i);
            let clean = cell.test.get(metric).map(|s| s.mean);
            let worse = conditions.iter().map(|name| stat(cell, name).map(|s| s.mean));
            (cell.cell.clone(), ink, out, std::iter::once(clean).chain(worse).collect())
        },
    );
    let mut series: Vec<_> = series.collect();
    series.sort_by_key(|s: &(String, Ink, bool, Vec<Option<f64>>)| s.2);
    let rows = std::iter::once("as it is").chain(conditions.iter().copied());
    let chart =
        Dots { rows: rows.map(String::from).collect(), series, x: format!("test {metric}") };
    let header = std::iter::once("cell".to_string())
        .chain(std::iter::once("as it is".to_string()))
        .chain(conditions.iter().map(|c| c.to_string()));
    let said = |s: Option<Summary>| {
        s.map_or_else(|| "–".into(), |s| format!("{} ± {}", fixed(s.mean, 3), fixed(s.std, 3)))
    };
    let lines = results.cells.iter().filter(|c| c.robustness.is_some()).map(|cell| {
        let worse = conditions.iter().map(|name| said(stat(cell, name)));
        [cell.cell.clone(), said(cell.test.get(metric).copied())].into_iter().chain(worse).collect()
    });
    let numbers = Grid::new(header, lines.collect());
    let body = html! {
        (names(results))
        (both(&format!("{metric} of all cells in each condition"), |w| chart.draw(w)))
    };
    let note = format!(
        "Trained on the data as it is, tested on data that is worse; means over {}.",
        results.over()
    );
    Some(Section::new(
        "robustness",
        "Robustness",
        figure(&format!("Test {metric}"), &note, body, &numbers),
    ))
}

/// As settings name it.
fn convention(results: &Results) -> &'static str {
    match results.convention {
        Convention::Mosi => "mosi",
        Convention::Sims => "sims",
    }
}

fn repeat(results: &Results, at: &Path) -> Markup {
    let seeds: Vec<String> = results.seeds.iter().map(u64::to_string).collect();
    let mut rows = vec![
        ("experiment", html! { code { (at.display()) } }),
        ("cells", html! { (results.preset.as_deref().unwrap_or("its own")) }),
        ("data", html! { code { (results.data) } }),
        ("SHA-256 of it", html! { code { (results.data_sha256) } }),
        ("convention", html! { (convention(results)) }),
        ("seeds", html! { (seeds.join(", ")) }),
        ("adapter", html! { (results.adapter) }),
        ("driver", html! { (results.driver) }),
        ("modalign", html! { (results.version) }),
    ];
    if let Some(f) = &results.folding {
        let said = format!("{} of {} rows by {} ({} groups)", f.folds, f.rows, f.group, f.groups);
        rows.insert(6, ("folds", html! { (said) ", drawn anew for each seed" }));
    }
    let runs = if results.folding.is_some() { "runs/CELL/SEED-KofK" } else { "runs/CELL/SEED" };
    rows.push(("runs", html! { code { (runs) } " in that folder" }));
    let settings = results.cells.iter().map(|c| {
        let settings = if c.settings.is_empty() { "–".into() } else { c.settings.join("  ") };
        (c, settings)
    });
    html! {
        (facts(&rows))
        p { "The plan, as it was resolved, is " code { "plan.toml" } " in that folder:" }
        pre class="command" tabindex="0" { "modalign experiment plan.toml --out DIR" }
        div class="scroll" tabindex="0" role="group" aria-label="settings of the cells" { table class="words" {
            thead { tr { th scope="col" { "cell" } th scope="col" { "settings" } th scope="col" { "seeds" } } }
            tbody { @for (cell, settings) in settings { tr {
                th scope="row" { (cell.cell) }
                td { code { (settings) } }
                td { @for r in &cell.runs { (r.record.seed)
                    @if let Some(fold) = r.record.fold { "-" (fold) } " " } }
            } } }
        } }
    }
}

/// The first run of a cell, if it can still be read.
pub fn first_run(cell: &CellResult, at: &Path) -> Option<Run> {
    let first = cell.runs.iter().min_by_key(|r| r.record.pair())?;
    Run::read(&at.join(&first.run)).inspect_err(|why| log::warn!("left out: {why}")).ok()
}
