//! `modalign selftest`: whether this machine's adapter computes what it should.

use super::{Global, bench, output};
use crate::error::Result;
use crate::selftest::{self, Checked, Options, Part, Progress, Report};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

/// Options of `selftest`.
#[derive(Args)]
#[command(after_help = "\
What a new adapter is asked first. It needs no data and no source tree, and writes nothing but what
--shaders asks for. A minute or two on a GPU, several times that on a software adapter.

  kernels    every kernel against its twin on the CPU: all cases, in every family that runs here
             (tiled, plain, and wide where subgroups have one size), trusted and with bounds checks
  gradients  every operation's gradient against central differences
  trainings  three whole trainings with label generation against PyTorch's losses, labels, parameters
  repeats    a training run twice, and a step replayed against the same recorded anew: bit for bit

A row of the table is a kernel or a training; `largest` is the largest relative difference that was
seen, `allowed` what would have been accepted there. Time is summed over threads. Where something is
off, the kernel, the case and the difference are listed and the exit status is 1. A driver that stops
or hangs: -vv says what ran when, and --shaders leaves every text that the driver was given.

Please report what it finds on a GPU that README.md does not list, also when all is well:
  modalign selftest --json > selftest.json

Examples:
  modalign selftest                                everything
  modalign selftest --quick                        the adapter's own kernels, some of the rest
  modalign selftest --kernel lstm_forward,matmul   kernels by name, nothing else
  modalign selftest --only trainings,repeats       some of the parts
  modalign selftest --adapter llvmpipe --json      another adapter; a report to send
  modalign selftest --shaders wgsl                 KERNEL.FAMILY.VARIANT.wgsl for each")]
pub(super) struct SelftestArgs {
    /// Check the adapter's own kernel family, a third of the gradients, one training
    #[arg(long)]
    quick: bool,
    /// Check only these kernels
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Check only these parts: kernels, gradients, trainings, repeats
    #[arg(
        long,
        value_enum,
        value_name = "PART,...",
        value_delimiter = ',',
        conflicts_with = "kernel"
    )]
    only: Vec<Parts>,
    /// Write every shader that the adapter gets to DIR, after preprocessing, before any runs
    #[arg(long, value_name = "DIR")]
    shaders: Option<PathBuf>,
}

/// Parts by the names that people give them.
#[derive(Clone, Copy, ValueEnum)]
enum Parts {
    /// against their twins
    Kernels,
    /// against differences
    Gradients,
    /// against PyTorch's
    Trainings,
    /// bit for bit
    Repeats,
}

impl From<Parts> for Part {
    fn from(part: Parts) -> Part {
        match part {
            Parts::Kernels => Part::Kernel,
            Parts::Gradients => Part::Gradient,
            Parts::Trainings => Part::Training,
            Parts::Repeats => Part::Repeat,
        }
    }
}

/// Runs it.
pub(super) fn run(args: &SelftestArgs, global: &Global) -> Result<()> {
    let options = Options {
        adapter: global.adapter.clone(),
        kernels: args.kernel.clone(),
        parts: args.only.iter().map(|part| (*part).into()).collect(),
        quick: args.quick,
        shaders: args.shaders.clone(),
    };
    let shown = Shown::new(global);
    let report = selftest::run(&options, &|progress| shown.tell(progress))?;
    shown.end();
    if let (Some(folder), Some(count)) = (&args.shaders, report.shaders) {
        global.note(&format!("{count} shaders are in {}", folder.display()));
    }
    if global.json {
        output::json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    report.verdict()
}

/// What is shown while it runs: a bar on a terminal, elsewhere a line now and then.
struct Shown {
    quiet: bool,
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    bar: ProgressBar,
    part: Part,
    jobs: usize,
    done: usize,
    failed: usize,
    /// When something was last said.
    told: Instant,
}

/// Without a terminal, seconds between two lines.
const EVERY: f64 = 10.0;

impl Shown {
    fn new(global: &Global) -> Self {
        let terminal = !global.quiet && std::io::stderr().is_terminal();
        let state = State {
            bar: ProgressBar::hidden(),
            part: Part::Kernel,
            jobs: 0,
            done: 0,
            failed: 0,
            told: Instant::now(),
        };
        Shown { quiet: global.quiet, terminal, state: Mutex::new(state) }
    }

    /// Called by all threads.
    fn tell(&self, progress: Progress) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match progress {
            Progress::Begin(part, jobs) => {
                state.bar.finish_and_clear();
                (state.part, state.jobs, state.done, state.failed) = (part, jobs, 0, 0);
                state.told = Instant::now();
                if self.terminal {
                    state.bar = bench::styled(jobs);
                } else if !self.quiet {
                    output::note(&format!("{}: {jobs} to check", part.name()));
                }
            }
            Progress::Job(part, name) => {
                log::debug!("{}: {name}", part.name());
                state.bar.set_message(format!("{}: {name}", part.name()));
                // On a slow adapter a job takes longer than anybody waits for a sign of life.
                self.line(&mut state, part, &format!(", now {name}"), false);
            }
            Progress::Done(part, failed) => {
                state.done += 1;
                state.failed += failed;
                state.bar.inc(1);
                let last = state.done == state.jobs;
                self.line(&mut state, part, "", last);
            }
        }
    }

    /// Without a terminal, a line where the last one is some time ago.
    fn line(&self, state: &mut State, part: Part, now: &str, last: bool) {
        if self.terminal || self.quiet || !(last || state.told.elapsed().as_secs_f64() > EVERY) {
            return;
        }
        let failed = match state.failed {
            0 => String::new(),
            n => format!(", {n} cases failed"),
        };
        output::note(&format!("{}: {} of {}{failed}{now}", part.name(), state.done, state.jobs));
        state.told = Instant::now();
    }

    fn end(&self) {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.bar.finish_and_clear();
    }
}

/// The report for people.
fn text(report: &Report) -> String {
    let Report { adapter, driver, backend, devices, seconds, .. } = report;
    let mut out = format!(
        "{adapter} ({driver}), {backend}; takes {} kernels\nchecked: {}\n\n",
        report.family,
        devices.join("; "),
    );
    let of = |part: Part| report.checked.iter().filter(move |row| row.part == part);
    let mut rows: Vec<Vec<String>> = of(Part::Kernel).map(row).collect();
    // A row for each operation would be as many again: all in one.
    let gradients: Vec<&Checked> = of(Part::Gradient).collect();
    if let Some(worst) = gradients.iter().max_by(|a, b| a.largest.total_cmp(&b.largest)) {
        let mut all = row(worst);
        all[0] = format!("gradients of {} operations", gradients.len());
        all[1] = gradients.iter().map(|r| r.cases).sum::<usize>().to_string();
        all[2] = failed(gradients.iter().map(|r| r.failed).sum());
        all[5] = time(gradients.iter().map(|r| r.seconds).sum());
        all[6] = format!("{}: {}", worst.name, worst.at);
        rows.push(all);
    }
    rows.extend(of(Part::Training).map(|r| {
        let mut cells = row(r);
        cells[0] = format!("training {}", r.name);
        cells
    }));
    rows.extend(of(Part::Repeat).map(row));
    let header = ["", "cases", "failed", "largest", "allowed", "time", "largest in"];
    let mut table = output::table(header, 1, rows);
    if let Some(column) = table.column_mut(6) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    out.push_str(&output::text(&table));
    for row in &report.checked {
        for skipped in &row.skipped {
            out.push_str(&format!("\nnot run: {} {skipped}", row.name));
        }
    }
    const SHOWN: usize = 40;
    let failures = report.checked.iter().flat_map(|row| row.failures.iter().map(move |f| (row, f)));
    for (row, failure) in failures.take(SHOWN) {
        let (name, at, detail) = (&row.name, &failure.at, &failure.detail);
        out.push_str(&format!("\nFAILED  {name}, {at}: {detail} ({})", number(failure.difference)));
    }
    if report.failed > SHOWN {
        out.push_str(&format!("\n… and {} more (--json has all)", report.failed - SHOWN));
    }
    let verdict = match report.failed {
        0 => "all well".to_string(),
        n => format!("{n} failed"),
    };
    out.push_str(&format!("\n\n{} cases in {}: {verdict}", report.cases, time(*seconds)));
    out
}

fn row(row: &Checked) -> Vec<String> {
    vec![
        row.name.clone(),
        row.cases.to_string(),
        failed(row.failed),
        number(row.largest),
        number(row.allowed),
        time(row.seconds),
        row.at.clone(),
    ]
}

/// Zeros should not draw the eye.
fn failed(count: usize) -> String {
    if count == 0 { "-".into() } else { count.to_string() }
}

fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        v if v.is_infinite() => "no number".into(),
        v => format!("{v:.1e}"),
    }
}

fn time(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let got = [0.0, 3.21e-5, f64::INFINITY].map(number);
        assert_eq!(got, ["0", "3.2e-5", "no number"]);
        assert_eq!([0.04, 12.34, 123.4].map(time), ["0.0 s", "12.3 s", "123 s"]);
        assert_eq!([failed(0), failed(3)], ["-", "3"]);
    }
}
