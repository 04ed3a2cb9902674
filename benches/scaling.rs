//! What a training step of the default three-modality model costs, against batch size, sequence
//! length, hidden size and rows of the data set.
//!
//! `cargo bench --bench scaling`; `-- --json` for machines, `-- --svg benches/scaling.svg` to draw.
//! All points of a curve are measured by turns, so that what disturbs one disturbs all of them;
//! medians count, and the fastest stands beside.

use modalign::data::{Dataset, SynthConfig, synth};
use modalign::recipe::Config;
use modalign::train::Session;
use modalign::{Error, Gpu, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Steps that are timed together, in flight one behind the other as in training.
const STEPS: usize = 4;
/// Turns.
const ROUNDS: usize = 7;

/// One curve: what it is against, and its points.
struct Curve {
    name: &'static str,
    fixed: &'static str,
    points: Vec<Point>,
}

impl Curve {
    fn print(&self) {
        println!("{} ({})", self.name, self.fixed);
        println!("{:>10} {:>12} {:>12}", "", "median ms", "fastest ms");
        for p in &self.points {
            println!("{:>10} {:>12.2} {:>12.2}", p.at, p.median() * 1e3, p.fastest() * 1e3);
        }
    }
}

struct Point {
    at: usize,
    /// A step's seconds, by turn.
    times: Vec<f64>,
}

impl Point {
    fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    fn fastest(&self) -> f64 {
        self.times.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// What a point trains on and how.
#[derive(Clone, Copy)]
struct Setting {
    batch: usize,
    audio: usize,
    vision: usize,
    hidden: Option<usize>,
    rows: usize,
}

const DEFAULT: Setting = Setting { batch: 16, audio: 500, vision: 375, hidden: None, rows: 64 };

impl Setting {
    fn data(&self, folder: &Path) -> Result<Arc<Dataset>> {
        let Setting { audio, vision, rows, .. } = *self;
        let path = folder.join(format!("{audio}-{vision}-{rows}.safetensors"));
        if !path.exists() {
            let mut c = SynthConfig { train: rows, valid: 0, test: 0, ..SynthConfig::default() };
            (c.text.dim, c.text.steps, c.text.min_steps) = (768, 1, 1);
            (c.audio.dim, c.audio.steps, c.audio.min_steps) = (5, audio, audio / 2);
            (c.vision.dim, c.vision.steps, c.vision.min_steps) = (20, vision, vision / 2);
            synth::write(&c, &path)?;
        }
        Dataset::open(&path).map(Arc::new)
    }

    fn config(&self) -> Result<Config> {
        let mut set = vec![format!("train.batch_size={}", self.batch), "train.accumulate=1".into()];
        set.extend(self.hidden.map(|h| format!("model.hidden={h}")));
        Config::build("mosi", None, &set)
    }
}

/// Times the settings of a curve by turns, and prints it as a table if asked.
fn curve(
    gpu: &Gpu,
    folder: &Path,
    (name, fixed): (&'static str, &'static str),
    settings: &[(usize, Setting)],
    table: bool,
) -> Result<Curve> {
    let mut sessions = Vec::new();
    for (_, setting) in settings {
        let mut session = Session::new(gpu, &setting.config()?, setting.data(folder)?, None, true)?;
        session.initialise()?;
        sessions.push(session);
    }
    let mut points: Vec<Point> =
        settings.iter().map(|(at, _)| Point { at: *at, times: Vec::new() }).collect();
    for round in 0..=ROUNDS {
        for ((session, (_, setting)), point) in sessions.iter_mut().zip(settings).zip(&mut points) {
            // The same batches in every turn. From the second epoch on labels are generated.
            let rows = (0..setting.rows as u32).cycle().take(STEPS * setting.batch).collect();
            let start = Instant::now();
            session.train_epoch(2, rows, |_, _| Ok(()))?;
            // The first turn compiles.
            if round > 0 {
                point.times.push(start.elapsed().as_secs_f64() / STEPS as f64);
            }
        }
    }
    let measured = Curve { name, fixed, points };
    if table {
        measured.print();
    }
    Ok(measured)
}

fn measure(gpu: &Gpu, folder: &Path, table: bool) -> Result<Vec<Curve>> {
    let vary = |values: &[usize], change: fn(usize) -> Setting| -> Vec<(usize, Setting)> {
        values.iter().map(|v| (*v, change(*v))).collect()
    };
    let batches = vary(&[4, 8, 16, 32, 64, 128], |batch| Setting { batch, rows: 128, ..DEFAULT });
    let steps = vary(&[50, 100, 200, 375, 500, 1000], |steps| Setting {
        audio: steps,
        vision: steps,
        ..DEFAULT
    });
    let hidden = vary(&[8, 16, 32, 64], |h| Setting { hidden: Some(h), ..DEFAULT });
    let rows =
        vary(&[200, 2_000, 20_000], |rows| Setting { audio: 50, vision: 50, rows, ..DEFAULT });
    let sizes = "audio 500 x 5, vision 375 x 20";
    let curves = [
        (("batch size", sizes), batches),
        (("steps of a sequence", "batch 16"), steps),
        (("hidden size of both LSTMs", "batch 16, 500 and 375 steps"), hidden),
        (("rows of the data set", "batch 16, 50 steps"), rows),
    ];
    curves.iter().map(|(names, settings)| curve(gpu, folder, *names, settings, table)).collect()
}

fn main() -> Result<()> {
    let mut json = false;
    let mut svg = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--svg" => svg = words.next().map(PathBuf::from),
            // Cargo's own.
            "--bench" => {}
            other => return Err(Error::Config(format!("unknown option '{other}'"))),
        }
    }
    let gpu = Gpu::new()?;
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let curves = measure(&gpu, folder.path(), !json)?;
    gpu.save_pipeline_cache();
    if json {
        let curves = curves.iter().map(|c| {
            let points = c.points.iter().map(|p| {
                json!({ "at": p.at, "median_ms": p.median() * 1e3, "fastest_ms": p.fastest() * 1e3 })
            });
            json!({ "against": c.name, "fixed": c.fixed, "points": points.collect::<Vec<_>>() })
        });
        let curves = curves.collect::<Vec<_>>();
        let caps = gpu.caps();
        println!("{}", json!({ "adapter": caps.name, "driver": caps.driver, "curves": curves }));
    }
    if let Some(path) = svg {
        let mut text = String::new();
        draw(&mut text, &curves, &gpu.caps().name)
            .map_err(|e| Error::io("draw", &path)(std::io::Error::other(e.to_string())))?;
        modalign::files::write_atomic(&path, text.as_bytes())?;
    }
    Ok(())
}

// ---- the picture -------------------------------------------------------------------------------

const SIZE: (u32, u32) = (900, 660);
/// The picture brings its own pale ground, so that it reads the same on a dark page.
const GROUND: RGBColor = RGBColor(252, 252, 250);
const INK: RGBColor = RGBColor(45, 50, 60);
const FAINT: RGBColor = RGBColor(120, 125, 135);
const GRID: RGBColor = RGBColor(228, 229, 232);
const LINE: RGBColor = RGBColor(0, 114, 178);

type Drawing = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(svg: &mut String, curves: &[Curve], adapter: &str) -> Drawing {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&GROUND)?;
    let text = |size: i32, colour: &RGBColor| ("sans-serif", size).into_font().color(colour);
    let title = format!("Milliseconds of a training step on {adapter}");
    root.draw(&Text::new(title, (16, 12), text(16, &INK)))?;
    let key = "dots: medians; circles: the fastest; dashed: in proportion to the largest; both axes \
               logarithmic";
    root.draw(&Text::new(key, (16, 34), text(12, &FAINT)))?;
    let (_, panels) = root.split_vertically(58);
    for (curve, area) in curves.iter().zip(panels.split_evenly((2, 2))) {
        panel(curve, &area)?;
    }
    root.present()?;
    Ok(())
}

/// One curve on logarithmic axes, its values written at its points.
fn panel(curve: &Curve, area: &DrawingArea<SVGBackend, Shift>) -> Drawing {
    let text = |size: i32, colour: &RGBColor| ("sans-serif", size).into_font().color(colour);
    // Logarithms to base 10: equal ratios are equal distances, on both axes.
    let log = |v: f64| v.log10();
    let ms: Vec<(f64, f64)> =
        curve.points.iter().map(|p| (log(p.at as f64), log(p.median() * 1e3))).collect();
    let fast: Vec<(f64, f64)> =
        curve.points.iter().map(|p| (log(p.at as f64), log(p.fastest() * 1e3))).collect();
    let (Some(first), Some(last)) = (ms.first(), ms.last()) else { return Ok(()) };
    let low = fast.iter().map(|p| p.1).fold(f64::INFINITY, f64::min) - 0.15;
    let high = ms.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max) + 0.25;
    let room = 0.06 * (last.0 - first.0);

    let heading = format!("against {}", curve.name);
    area.draw(&Text::new(heading, (16, 8), text(14, &INK)))?;
    area.draw(&Text::new(curve.fixed, (16, 26), text(12, &FAINT)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(46)
        .margin_right(24)
        .margin_bottom(10)
        .margin_left(24)
        .x_label_area_size(24)
        .build_cartesian_2d(first.0 - room..last.0 + room, low..high)?;
    // The values themselves stand at the points, so the axis has none.
    chart.draw_series(std::iter::once(PathElement::new(
        [(first.0 - room, low), (last.0 + room, low)],
        GRID.stroke_width(1),
    )))?;
    // What strict proportion to the largest one would be.
    let slope = (last.1 - low).min(last.0 - first.0);
    let ideal = [(last.0 - slope, last.1 - slope), *last];
    chart.draw_series(DashedLineSeries::new(ideal, 4, 4, FAINT.stroke_width(1)))?;
    chart.draw_series(LineSeries::new(ms.iter().copied(), LINE.stroke_width(2)))?;
    chart.draw_series(ms.iter().map(|p| Circle::new(*p, 4, LINE.filled())))?;
    chart.draw_series(fast.iter().map(|p| Circle::new(*p, 3, LINE.stroke_width(1))))?;
    let above = text(12, &INK).pos(Pos::new(HPos::Center, VPos::Bottom));
    let below = text(12, &FAINT).pos(Pos::new(HPos::Center, VPos::Top));
    for (at, point) in ms.iter().zip(&curve.points) {
        let value = point.median() * 1e3;
        let digits = if value < 10.0 { 1 } else { 0 };
        let (x, y) = chart.backend_coord(at);
        let plot = chart.plotting_area().strip_coord_spec();
        let (left, top) = plot.get_base_pixel();
        plot.draw(&Text::new(format!("{value:.digits$}"), (x - left, y - top - 8), above.clone()))?;
        let (_, floor) = chart.backend_coord(&(at.0, low));
        area_text(area, &point.at.to_string(), (x, floor + 6), below.clone())?;
    }
    Ok(())
}

/// Text at a place of the whole picture.
fn area_text(
    area: &DrawingArea<SVGBackend, Shift>,
    what: &str,
    (x, y): (i32, i32),
    style: TextStyle,
) -> Drawing {
    let (left, top) = area.get_base_pixel();
    area.draw(&Text::new(what.to_string(), (x - left, y - top), style))?;
    Ok(())
}
