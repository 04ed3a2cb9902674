//! A page about runs and experiments: one file that holds everything and loads nothing.
//!
//! Charts are drawn by plotters as SVG (`charts`) in stand-in colours (`theme`), so that one
//! picture serves the light and the dark theme; maud escapes whatever comes from data. What a run's
//! model says of its data is computed when the page is made (`run::Live`); where that cannot be,
//! the page says why and goes on.

pub(crate) mod charts;
mod compare;
mod covariances;
pub(crate) mod curves;
mod experiment;
mod explained;
pub(crate) mod frame;
mod holistic;
mod interactions;
mod labels;
mod number;
mod page;
mod predictions;
mod run;
mod run_page;
mod tasks;
pub(crate) mod theme;

use crate::error::{Error, Result};
use crate::experiment::Results;
use crate::gpu::Gpu;
use crate::train::folder;
pub use holistic::page as holistic_page;
pub use interactions::page as interactions_page;
use page::{Page, Part};
use run::{Live, Run};
use std::path::{Path, PathBuf};

/// A page that was made.
pub struct Made {
    /// The page.
    pub html: String,
    /// Parts by title, with the titles of their sections.
    pub sections: Vec<(String, Vec<String>)>,
    /// Why parts of it could not be computed, where they could not.
    pub missing: Vec<String>,
}

/// Where to run models; `open` is called when the first is needed, and once.
struct Place<'a> {
    open: &'a dyn Fn() -> Result<Gpu>,
    gpu: Option<std::result::Result<Gpu, String>>,
    missing: Vec<String>,
}

impl Place<'_> {
    fn live(&mut self, run: &Run) -> std::result::Result<Live, String> {
        let open = self.open;
        let gpu = self.gpu.get_or_insert_with(|| open().map_err(|e| e.to_string()));
        let live = match gpu {
            Ok(gpu) => Live::of(gpu, run).map_err(|e| e.to_string()),
            Err(why) => Err(why.clone()),
        };
        if let Err(why) = &live {
            self.missing.push(format!("{}: {why}", run.folder.display()));
        }
        live
    }

    fn part(&mut self, run: &Run, id: &str, title: String) -> Part {
        let live = self.live(run);
        run_page::part(run, Some(&live), id, title)
    }
}

/// Makes a page of runs and experiments, given by their folders. `open` opens an adapter, where
/// one is needed.
///
/// # Errors
/// A folder that holds neither; files in one that cannot be read. A data file or an adapter that
/// is missing is no error: the page says so.
pub fn build(targets: &[PathBuf], open: &dyn Fn() -> Result<Gpu>) -> Result<Made> {
    let mut place = Place { open, gpu: None, missing: Vec::new() };
    let (mut runs, mut experiments) = (Vec::new(), Vec::new());
    for path in targets {
        if path.join("results.json").is_file() {
            experiments.push((path, Results::read(path)?));
        } else if folder::is_run(path) {
            runs.push(Run::read(path)?);
        } else {
            return Err(Error::Config(format!(
                "{} is neither a run (it has no config.toml) nor an experiment (it has no \
                 results.json)",
                path.display()
            )));
        }
    }
    let mut parts = Vec::new();
    let kicker = match (runs.len(), experiments.len()) {
        (1, 0) => "Run",
        (_, 0) => "Runs",
        (0, 1) => "Experiment",
        _ => "Report",
    };
    for (i, (path, results)) in experiments.iter().enumerate() {
        parts.extend(of_experiment(&mut place, results, path, i + 1)?);
    }
    let named = names(runs);
    if named.len() > 1 {
        parts.push(compare::part(&named));
    }
    for (i, (name, run)) in named.iter().enumerate() {
        let title = if parts.is_empty() {
            format!("{} on {}", name, run.data_name())
        } else {
            format!("Run {name}")
        };
        parts.push(place.part(run, &format!("run{}", i + 1), title));
    }
    let sections = parts
        .iter()
        .map(|p| (p.title.clone(), p.sections.iter().map(|s| s.title.clone()).collect()))
        .collect();
    if let Some(Ok(gpu)) = &place.gpu {
        gpu.save_pipeline_cache();
    }
    let html = Page { kicker: kicker.into(), parts }.render();
    Ok(Made { html, sections, missing: place.missing })
}

/// An experiment, the first run of its best cell, and that of the reference in short.
fn of_experiment(
    place: &mut Place,
    results: &Results,
    at: &Path,
    number: usize,
) -> Result<Vec<Part>> {
    let mut own = experiment::part(results, at)?;
    if number > 1 {
        own.id = format!("{}{number}", own.id);
    }
    let id = own.id.clone();
    let mut parts = vec![own];
    let best = results.best_cell().or_else(|| results.cells.first());
    if let Some((cell, run)) = best.and_then(|c| Some((c, experiment::first_run(c, at)?))) {
        let title = format!("Best cell: {}, {}", cell.cell, run.place());
        parts.push(place.part(&run, &format!("{id}-best"), title));
    }
    let reference = results.reference_cell().filter(|c| Some(&c.cell) != best.map(|b| &b.cell));
    if let Some((cell, run)) = reference.and_then(|c| Some((c, experiment::first_run(c, at)?))) {
        let title = format!("Reference: {}, {}", cell.cell, run.place());
        parts.push(run_page::part(&run, None, &format!("{id}-reference"), title));
    }
    Ok(parts)
}

/// Runs under names that tell them apart: the folder's, with the one it lies in where two are equal.
fn names(runs: Vec<Run>) -> Vec<(String, Run)> {
    let all: Vec<String> = runs.iter().map(|r| r.name.clone()).collect();
    let name = |r: &Run| {
        if all.iter().filter(|n| **n == r.name).count() < 2 {
            return r.name.clone();
        }
        let path = std::path::absolute(&r.folder).unwrap_or_else(|_| r.folder.clone());
        let above = path.parent().and_then(Path::file_name).unwrap_or_default();
        format!("{}/{}", above.to_string_lossy(), r.name)
    };
    runs.into_iter().map(|r| (name(&r), r)).collect()
}
