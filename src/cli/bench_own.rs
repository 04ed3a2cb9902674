//! `modalign bench KERNEL --with FILE`: a kernel of one's own, checked, then timed beside ours.

use super::{Global, bench, bench_table, child, output};
use crate::bench::{Bench, Choice, Mismatch, Own, Report, Tried, Variant};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::gpu::{Family, Gpu};
use crate::plan::Kernel;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// What is to be tried where.
pub(super) struct Job<'a> {
    /// Compiles with bounds checks.
    pub gpu: &'a Gpu,
    /// Whose place it takes.
    pub kernel: &'static Kernel,
    /// Where it is timed.
    pub choices: &'a [Choice<'a>],
    /// Only the device's family beside it.
    pub only: bool,
    /// For each row.
    pub budget: Duration,
}

/// A report with what the check found.
#[derive(Serialize)]
struct Compared<'a> {
    kernel: &'static str,
    file: &'a str,
    cases: usize,
    skipped_cases: &'a [String],
    #[serde(flatten)]
    report: &'a Report,
}

/// Checks, then times.
pub(super) fn run(job: &Job, file: &Path, save: Option<&Path>, global: &Global) -> Result<()> {
    let own = Own::read(file)?;
    let tried = check(job, &own, global)?;
    let families = families(job);
    let mut variants: Vec<Variant> = families.iter().map(|f| Variant::Family(*f)).collect();
    variants.push(Variant::Own(&own, job.kernel.name));
    let mut bench = Bench::new(job.gpu, job.budget)?;
    let bar = bench::bar(job.choices.len(), global);
    for choice in job.choices {
        bar.set_message(choice.entry.shape.clone());
        child::beat();
        bench.compare(choice, &variants)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = bench.report()?;
    for skipped in &report.skipped {
        global.note(&format!("not timed: {}: {}", skipped.shape, skipped.why));
    }
    let compared = Compared {
        kernel: job.kernel.name,
        file: own.file(),
        cases: tried.cases,
        skipped_cases: &tried.skipped,
        report: &report,
    };
    if let Some(path) = save {
        write_atomic(path, output::to_json(&compared)?.as_bytes())?;
    }
    if global.json {
        return output::json(&compared);
    }
    let ours = families.iter().position(|f| *f == job.gpu.caps().family).unwrap_or(0);
    let (name, cases) = (job.kernel.name, tried.cases);
    let short = file.file_name().map_or(own.file().into(), |n| n.to_string_lossy());
    let table = bench_table::compared(&report, variants.len(), ours, &short);
    output::print(&format!(
        "{}{name}: {} matches the CPU twin in all {cases} cases. Fastest runs on the device:\n\n{table}",
        bench_table::head(&report),
        own.file(),
    ))
}

/// Our variants to time it beside: the device's family first.
fn families(job: &Job) -> Vec<Family> {
    let own = job.gpu.caps().family;
    let lanes = job.gpu.caps().subgroup.filter(|(min, max)| min == max).map(|(lanes, _)| lanes);
    let mut all = vec![own];
    if !job.only {
        let wide = lanes.filter(|l| (4..=32).contains(l)).map(Family::Wide);
        all.extend(wide.into_iter().chain([Family::Plain, Family::Tiled]).filter(|f| *f != own));
    }
    all
}

/// All of its cases against the twin; what is wrong goes to stderr, in full.
fn check(job: &Job, own: &Own, global: &Global) -> Result<Tried> {
    let bar = bench::bar((job.kernel.cases)().len(), global);
    let tried = own.check(job.gpu, job.kernel, |case, _| {
        child::beat();
        bar.set_message(format!("checking {case}"));
        bar.inc(1);
    });
    bar.finish_and_clear();
    let tried = tried?;
    let fail = |message: String| Err(Error::Shader { name: own.file().into(), message });
    if let Some(why) = &tried.refused {
        output::note(&why.render(output::error_colours()));
        return fail(why.line());
    }
    for skipped in &tried.skipped {
        global.note(&format!("not checked: {skipped}"));
    }
    if tried.cases == 0 {
        return fail("no case of it can run on this adapter".into());
    }
    let Some(first) = tried.mismatches.first() else { return Ok(tried) };
    output::note(&mismatches(&tried.mismatches));
    let mut wrong: Vec<&str> = tried.mismatches.iter().map(|m| m.case.as_str()).collect();
    wrong.dedup();
    let (name, count, of) = (job.kernel.name, wrong.len(), tried.cases);
    fail(format!(
        "it is not what {name} is: {count} of {of} cases differ, the first is {}: {}",
        first.case, first.difference
    ))
}

/// Where results differ, case by case.
fn mismatches(all: &[Mismatch]) -> String {
    const SHOWN: usize = 12;
    let rows = all.iter().take(SHOWN).map(|m| {
        let d = &m.difference;
        vec![
            m.case.clone(),
            format!("{}[{}]", d.binding, d.index),
            d.got.to_string(),
            d.want.to_string(),
            format!("{} of {}", d.count, d.of),
            format!("{:e}", m.tolerance),
        ]
    });
    let header = ["case", "first element", "got", "want", "elements that differ", "tolerance"];
    let mut table = output::table(header, 2, rows);
    table.force_no_tty();
    let more = all.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
    format!("{}{more}", table.trim_fmt())
}
