//! What a run did, epoch by epoch: the same lines for `curves.svg` and for a page.

use super::charts::{Line, Lines};
use super::number::short;
use super::page::{Grid, both, figure, legend};
use super::theme::{Ink, letter};
use crate::train::EpochRecord;
use maud::{Markup, html};

/// Lines under a title.
pub struct Panel {
    /// What they show.
    pub title: &'static str,
    /// More on that.
    pub note: &'static str,
    /// The lines.
    pub chart: Lines,
}

/// The losses of all tasks with the validation error; the terms of the pairs; the sizes of the
/// covariances; the scores on validation rows. What a run has not is left out.
pub fn panels(history: &[EpochRecord]) -> Vec<Panel> {
    let value = |key: &str| -> Vec<(f64, f64)> {
        let of = |r: &EpochRecord| Some((r.epoch as f64, r.parts.get(key)?.as_f64()?));
        history.iter().filter_map(of).collect()
    };
    let named = |keys: &[(&str, &str, Ink)]| -> Vec<Line> {
        let lines = keys.iter().map(|(key, name, ink)| line(name, *ink, value(key)));
        lines.filter(|l| !l.points.is_empty()).collect()
    };
    let mut losses = named(&[
        ("M", "train M (fused)", letter('M')),
        ("T", "train T (text)", letter('T')),
        ("A", "train A (audio)", letter('A')),
        ("V", "train V (vision)", letter('V')),
    ]);
    // Of numbers the validation loss is their MAE, as it is of the training rows.
    let numbers = valid_name(history) == Some("MAE");
    losses.extend(match numbers {
        true => validation(history, "validation MAE", Ink::Valid),
        false => valid_loss(history),
    });
    let terms = named(&[
        ("align_ta", "T–A", Ink::Series(4)),
        ("align_tv", "T–V", Ink::Series(5)),
        ("align_av", "A–V", Ink::Series(6)),
    ]);
    let norms = named(&[
        ("norm_t", "text", letter('T')),
        ("norm_a", "audio", letter('A')),
        ("norm_v", "vision", letter('V')),
    ]);
    let scores: Vec<Line> = history
        .iter()
        .find_map(|r| r.valid.as_ref())
        .map(|m| m.entries())
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, _)| *name != "MAE" && !name.starts_with("F1"))
        .enumerate()
        .map(|(i, (name, _))| {
            let of = |r: &EpochRecord| Some((r.epoch as f64, r.valid.as_ref()?.get(name)?));
            line(name, Ink::Series(i), history.iter().filter_map(of).collect())
        })
        .collect();
    let panel = |title, note, y: &str, lines: Vec<Line>| Panel {
        title,
        note,
        chart: Lines { lines, x: String::new(), y: y.into(), diagonal: false, near: false },
    };
    let all = [
        panel(
            "Loss by epoch",
            match numbers {
                true => {
                    "Mean absolute error of each task on training rows, weighted as the objective has \
                     it, and of the fused head on validation rows. The ring is the epoch that was kept."
                }
                false => {
                    "The task's loss on training rows and on validation rows. The ring is the epoch \
                     that was kept."
                }
            },
            if numbers { "mean absolute error" } else { "loss" },
            losses,
        ),
        panel(
            "Alignment terms by epoch",
            "Unweighted, by pair of modalities; means over batches.",
            "‖ΔC‖² / 4d²",
            terms,
        ),
        panel(
            "Sizes of the covariances",
            "A term can also shrink because the covariances do.",
            "Frobenius norm",
            norms,
        ),
        panel("Scores on validation rows", "By epoch, of the fused head.", "score", scores),
    ];
    all.into_iter().filter(|p| !p.chart.lines.is_empty()).collect()
}

fn line(name: &str, ink: Ink, points: Vec<(f64, f64)>) -> Line {
    Line { name: name.into(), ink, thick: false, points, best: None }
}

/// The name of what heads the scores of the validation rows.
pub fn valid_name(history: &[EpochRecord]) -> Option<&'static str> {
    Some(history.iter().find_map(|r| r.valid.as_ref())?.heads().first()?.0)
}

/// The validation loss, with its best epoch.
fn valid_loss(history: &[EpochRecord]) -> Option<Line> {
    let at = |r: &EpochRecord| Some((r.epoch as f64, r.valid_loss?));
    let points: Vec<(f64, f64)> = history.iter().filter_map(at).collect();
    let best = history.iter().rev().find(|r| r.best).and_then(at);
    let name = "validation loss".into();
    (!points.is_empty()).then_some(Line { name, ink: Ink::Valid, thick: true, points, best })
}

/// What heads the scores of the validation rows (of numbers the MAE), with its best epoch; `None` where nothing was validated.
pub fn validation(history: &[EpochRecord], name: &str, ink: Ink) -> Option<Line> {
    let at = |r: &EpochRecord| Some((r.epoch as f64, r.valid.as_ref()?.heads().first()?.1));
    let points: Vec<(f64, f64)> = history.iter().filter_map(at).collect();
    let best = history.iter().rev().find(|r| r.best).and_then(at);
    (!points.is_empty()).then(|| Line { name: name.into(), ink, thick: true, points, best })
}

/// A panel in a page, as wide as that.
pub fn wide(panel: &Panel) -> Markup {
    let body = html! {
        (names(&panel.chart))
        (both(panel.title, |w| panel.chart.draw(super::page::size(w))))
    };
    figure(panel.title, panel.note, body, &numbers(&panel.chart, "epoch"))
}

/// A panel in a page, beside another.
pub fn half(panel: &Panel) -> Markup {
    let picture = panel.chart.draw(super::page::size(super::page::HALF));
    let body = html! { (names(&panel.chart)) (picture.markup(panel.title, "")) };
    figure(panel.title, panel.note, body, &numbers(&panel.chart, "epoch"))
}

/// The legend of lines.
pub fn names(chart: &Lines) -> Markup {
    legend(chart.lines.iter().map(|l| (l.name.as_str(), l.ink)), false)
}

/// The values of lines by place.
pub fn numbers(chart: &Lines, place: &str) -> Grid {
    let mut places: Vec<f64> =
        chart.lines.iter().flat_map(|l| l.points.iter().map(|p| p.0)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let header =
        std::iter::once(place.to_string()).chain(chart.lines.iter().map(|l| l.name.clone()));
    let rows = places.iter().map(|x| {
        let cell = |l: &Line| {
            let found = l.points.iter().find(|p| p.0 == *x);
            found.map_or_else(|| "–".into(), |p| short(p.1))
        };
        let first = if x.fract() == 0.0 { format!("{x:.0}") } else { super::number::fixed(*x, 2) };
        std::iter::once(first).chain(chart.lines.iter().map(cell)).collect()
    });
    Grid::new(header, rows.collect())
}
