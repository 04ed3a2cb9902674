//! `curves.svg`: what a run did, epoch by epoch, drawn without fonts or a display.
//!
//! The picture brings its own pale ground, so that it reads the same on a dark page.

use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::train::EpochRecord;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// One line of a panel.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    /// Thick lines are what to look at.
    pub(super) thick: bool,
    /// By epoch, from 1.
    pub(super) points: Vec<(f64, f64)>,
    /// The point to mark.
    pub(super) best: Option<(f64, f64)>,
}

/// One set of axes.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) series: Vec<Series>,
}

const GROUND: RGBColor = RGBColor(252, 252, 250);
const INK: RGBColor = RGBColor(45, 50, 60);
const GRID: RGBColor = RGBColor(228, 229, 232);
/// Told apart also by readers who do not see red and green as different (Okabe and Ito).
pub(super) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(150, 110, 60),
    RGBColor(120, 125, 135),
];
const VALID: RGBColor = RGBColor(213, 94, 0);

const WIDTH: u32 = 860;
const PANEL: u32 = 300;
/// Room for the names at the right.
const LEGEND: i32 = 170;

/// Writes a run's `curves.svg`, whole or not at all.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn write_run(path: &Path, history: &[EpochRecord]) -> Result<()> {
    write(path, &run_panels(history))
}

/// Writes panels, one below the other.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn write(path: &Path, panels: &[Panel]) -> Result<()> {
    let mut svg = String::new();
    draw(&mut svg, panels).map_err(|e| Error::io("write", path)(std::io::Error::other(e)))?;
    write_atomic(path, svg.as_bytes())
}

fn run_panels(history: &[EpochRecord]) -> Vec<Panel> {
    let mut names: Vec<&str> = Vec::new();
    for name in history.iter().flat_map(|r| r.parts.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let part = |name: &str| -> Vec<(f64, f64)> {
        let value = |r: &EpochRecord| Some((r.epoch as f64, r.parts.get(name)?.as_f64()?));
        history.iter().filter_map(value).collect()
    };
    let named = |keys: &[(&str, &str)]| -> Vec<Series> {
        let there = keys.iter().zip(COLOURS).filter(|((key, _), _)| names.contains(key));
        there
            .map(|((key, name), colour)| Series {
                name: name.to_string(),
                colour,
                thick: false,
                points: part(key),
                best: None,
            })
            .collect()
    };
    let mut losses = named(&[
        ("M", "train M (fused)"),
        ("T", "train T (text)"),
        ("A", "train A (audio)"),
        ("V", "train V (vision)"),
    ]);
    let valid: Vec<(f64, f64)> =
        history.iter().filter_map(|r| Some((r.epoch as f64, r.valid?.mae))).collect();
    if !valid.is_empty() {
        let best = history.iter().rev().find(|r| r.best);
        let best = best.and_then(|r| Some((r.epoch as f64, r.valid?.mae)));
        losses.push(Series {
            name: "validation MAE".into(),
            colour: VALID,
            thick: true,
            points: valid,
            best,
        });
    }
    let terms = named(&[
        ("align_ta", "alignment T-A"),
        ("align_tv", "alignment T-V"),
        ("align_av", "alignment A-V"),
        ("norm_t", "norm of cov T"),
        ("norm_a", "norm of cov A"),
        ("norm_v", "norm of cov V"),
    ]);
    let mut panels = vec![Panel { title: "Loss by epoch".into(), series: losses }];
    if !terms.is_empty() {
        panels.push(Panel { title: "Alignment terms by epoch".into(), series: terms });
    }
    panels
}

type Drawing<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn draw(svg: &mut String, panels: &[Panel]) -> Drawing {
    let height = PANEL * panels.len().max(1) as u32;
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&GROUND).map_err(|e| e.to_string())?;
    for (panel, area) in panels.iter().zip(root.split_evenly((panels.len().max(1), 1))) {
        draw_panel(panel, &area).map_err(|e| e.to_string())?;
    }
    root.present().map_err(|e| e.to_string())?;
    Ok(())
}

fn draw_panel(panel: &Panel, area: &DrawingArea<SVGBackend, plotters::coord::Shift>) -> Drawing {
    let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
    let values = || panel.series.iter().flat_map(|s| s.points.iter().map(|p| p.1));
    let finite = || values().filter(|v| v.is_finite());
    let largest = finite().fold(f64::MIN_POSITIVE, f64::max);
    let smallest = finite().fold(f64::INFINITY, f64::min);
    // Terms that shrink by orders of magnitude can only be seen on a logarithmic axis.
    let logarithmic = smallest > 0.0 && largest / smallest > 50.0;
    let height = |v: f64| if logarithmic { v.log10() } else { v };
    let (low, high) = match logarithmic {
        true => (smallest.log10(), largest.log10()),
        false => (smallest.min(0.0), largest),
    };
    let (low, high) = if low.is_finite() && high > low { (low, high) } else { (0.0, 1.0) };
    let room = 0.06 * (high - low);
    let low = if low == 0.0 { 0.0 } else { low - room };
    let last = panel.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).fold(2.0, f64::max);

    let title =
        if logarithmic { format!("{} (log scale)", panel.title) } else { panel.title.clone() };
    area.draw(&Text::new(title, (16, 12), text(16))).map_err(|e| e.to_string())?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(40)
        .margin_bottom(12)
        .margin_right(LEGEND)
        .x_label_area_size(30)
        .y_label_area_size(58)
        .build_cartesian_2d(1.0..last, low..high + room)
        .map_err(|e| e.to_string())?;
    let digits = if high - low < 0.1 { 3 } else { 2 };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels((last as usize).min(12))
        .y_labels(6)
        .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
        .y_label_formatter(&|y| match logarithmic {
            true => power(*y),
            false => format!("{y:.digits$}"),
        })
        .label_style(text(12))
        .draw()
        .map_err(|e| e.to_string())?;

    for s in &panel.series {
        let width = if s.thick { 3 } else { 2 };
        let points = s.points.iter().filter(|p| p.1.is_finite()).map(|p| (p.0, height(p.1)));
        let points: Vec<(f64, f64)> = points.collect();
        if let [only] = points.as_slice() {
            let dot = Circle::new(*only, 3, s.colour.filled());
            chart.draw_series(std::iter::once(dot)).map_err(|e| e.to_string())?;
        }
        let line = LineSeries::new(points, s.colour.stroke_width(width));
        chart.draw_series(line).map_err(|e| e.to_string())?;
    }
    for (s, (x, y)) in panel.series.iter().filter_map(|s| Some((s, s.best?))) {
        let at = (x, height(y));
        chart
            .draw_series([
                Circle::new(at, 6, GROUND.filled()),
                Circle::new(at, 6, s.colour.stroke_width(3)),
            ])
            .map_err(|e| e.to_string())?;
    }

    // Names at the right, in the order of the last values, so that they stand near their lines.
    let mut order: Vec<&Series> = panel.series.iter().filter(|s| !s.points.is_empty()).collect();
    let end = |s: &Series| s.points.last().map_or(0.0, |p| p.1);
    order.sort_by(|a, b| end(b).total_cmp(&end(a)));
    let left = WIDTH as i32 - LEGEND + 16;
    let small = text(13).pos(Pos::new(HPos::Left, VPos::Center));
    let mut top = 52;
    for s in order {
        let width = if s.thick { 3 } else { 2 };
        let rule = PathElement::new([(left, top), (left + 18, top)], s.colour.stroke_width(width));
        area.draw(&rule).map_err(|e| e.to_string())?;
        let name = Text::new(s.name.clone(), (left + 25, top), small.clone());
        area.draw(&name).map_err(|e| e.to_string())?;
        top += 20;
        if let Some((x, y)) = s.best {
            let note = format!("best {}, epoch {x:.0}", short(y));
            area.draw(&Text::new(note, (left + 25, top), small.clone()))
                .map_err(|e| e.to_string())?;
            top += 20;
        }
    }
    Ok(())
}

/// Ten to the `y`, as a tick says it.
fn power(y: f64) -> String {
    let text = short(10f64.powf(y));
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text.replace(".0e", "e"),
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if (1e-3..1e4).contains(&v) => {
            let digits = (2 - v.log10().floor() as i32).clamp(0, 5) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(epochs: usize, align: bool) -> Vec<EpochRecord> {
        (1..=epochs)
            .map(|epoch| {
                let mut parts = serde_json::Map::new();
                parts.insert("M".into(), (1.0 / epoch as f64).into());
                if align {
                    parts.insert("align_ta".into(), 10f64.powi(-(epoch as i32)).into());
                }
                EpochRecord { epoch, loss: 1.0, parts, valid_loss: None, valid: None, best: true }
            })
            .collect()
    }

    #[test]
    fn every_length_of_history_draws() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.svg");
        for epochs in [0, 1, 2, 40] {
            write_run(&path, &history(epochs, epochs > 1)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
            assert_eq!(text.contains("log scale"), epochs > 2);
        }
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.81234, 12.34, 1234.5, 1e-9].map(short);
        assert_eq!(shown, ["0", "0.812", "12.3", "1234", "1.0e-9"]);
        assert_eq!([0.0, -2.0, 3.0, -4.0].map(power), ["1", "0.01", "1000", "1e-4"]);
    }
}
