//! `modalign bench`: the measuring suite, from the installed program.

use super::{Global, bench_own, bench_table, child, output};
use crate::bench::{Bench, Choice, Suite, sizes};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::gpu::{Caps, Family, Gpu, GpuOptions, expand};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// Families by the names that people give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FamilyName {
    /// for CPU adapters whose subgroups have one size
    Wide,
    /// for any adapter
    Plain,
    /// for GPUs
    Tiled,
}

/// Options of `bench`.
#[derive(Args)]
#[command(after_help = "\
Without OP everything is timed: a few minutes. An OP is an operation (matmul, lstm, attention) or one
kernel (attention_backward_q); --list shows them.

Columns: `encode` is the host's time to encode the dispatch, `device` the adapter's to run it (by
timestamps where it has them), `end to end` from the first call to the end of the work; these are
medians. `best` is the fastest run on the device; speed and the share of the roofline are of that
one. `in a row` is the wall time of a whole training step (OP step) among many that follow one another
without a wait in between, as in training. The roofline is measured in the same run: a copy between buffers larger than the caches, and
chains of multiply-adds in registers; the bar is full at 100 %. What fits a cache can be above it.

A kernel of your own (benches/PLAYGROUND.md has a worked example):
  --with FILE takes the place of one of ours. It goes through the same preprocessor (#import, #if,
  #for, ${}) with the defines of the call; bindings are those of our file, P is binding 14 and S, the
  step, binding 15. It is compiled for every case of the registry, with bounds checks, and compared
  with the CPU twin: the first element that differs is shown, and the exit status is 1. Then it is
  timed beside our variants, which have bounds checks too.

  The number of workgroups is the one of our launch, unless a comment of the file says another:
      // workgroups: (rows + 7) / 8, 1, 1
  Up to three integer expressions (+ - * / % < > <= >= == != && || ! and brackets; a comparison is 1
  or 0) over the integers of P by their names in your struct, and the defines. It may stand inside
  #if. Sides that are left out are 1.

Examples:
  modalign bench                                  everything
  modalign bench matmul lstm                      some of it
  modalign bench matmul --shape 1024 --family plain
  modalign bench step                             whole training steps: LSTM, encoder layer, Self-MM
  modalign bench --json > here.json
  modalign bench softmax --source > mine.wgsl     our file, to begin with
  modalign bench softmax --show --shape 9600      what this adapter gets of it
  modalign bench softmax --with mine.wgsl         check yours, and time it beside ours")]
pub(super) struct BenchArgs {
    /// Operations or kernels to time
    #[arg(value_name = "OP")]
    ops: Vec<String>,
    /// Show every operation with its kernels and shapes, and time nothing
    #[arg(long, conflicts_with_all = ["with", "show", "source"])]
    list: bool,
    /// Kernels of this family instead of the adapter's own
    #[arg(long, value_enum, value_name = "FAMILY")]
    family: Option<FamilyName>,
    /// Only shapes that contain TEXT
    #[arg(long, value_name = "TEXT")]
    shape: Option<String>,
    /// Time to spend on each row; three runs are made at least
    #[arg(long, value_name = "SECONDS", default_value_t = 0.3)]
    seconds: f64,
    /// Write the report as JSON to FILE, besides what is printed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "show", "source"])]
    save: Option<PathBuf>,
    /// Check the WGSL in FILE in the place of the kernel OP, and time it beside ours
    #[arg(long, value_name = "FILE", conflicts_with_all = ["show", "source"])]
    with: Option<PathBuf>,
    /// Print our WGSL of the kernel OP as this adapter gets it, after preprocessing
    #[arg(long, conflicts_with = "source")]
    show: bool,
    /// Print our WGSL of the kernel OP as it is written
    #[arg(long)]
    source: bool,
}

/// Runs it.
pub(super) fn run(args: &BenchArgs, global: &Global) -> Result<()> {
    let suite = Suite::new()?;
    if args.list {
        return list(&suite, args, global);
    }
    if args.source {
        return output::print(suite.of_kernel(args.one("--source")?)?.0.source);
    }
    if args.show {
        return show(&suite, args, global);
    }
    let budget = Duration::try_from_secs_f64(args.seconds)
        .map_err(|_| Error::Config(format!("--seconds {}: want 0 or more", args.seconds)))?;
    if let Some(file) = &args.with {
        let (kernel, choices) = suite.of_kernel(args.one("--with")?)?;
        let choices = args.shaped(choices)?;
        if child::wanted() {
            return child::run(file);
        }
        child::beat();
        // As for the one, so for the other: checks cost something on most devices.
        let gpu = args.open(global, true)?;
        let only = args.family.is_some();
        let job = bench_own::Job { gpu: &gpu, kernel, choices: &choices, only, budget };
        return bench_own::run(&job, file, args.save.as_deref(), global);
    }
    let choices = args.shaped(suite.choose(&args.ops)?)?;
    let gpu = args.open(global, false)?;
    let mut bench = Bench::new(&gpu, budget)?;
    let bar = bar(choices.len(), global);
    for choice in &choices {
        bar.set_message(format!("{}  {}", choice.entry.op, choice.entry.shape));
        bench.measure(choice)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = bench.report()?;
    for skipped in &report.skipped {
        global.note(&format!("not timed: {} {}: {}", skipped.op, skipped.shape, skipped.why));
    }
    if let Some(path) = &args.save {
        write_atomic(path, output::to_json(&report)?.as_bytes())?;
    }
    if global.json {
        return output::json(&report);
    }
    output::print(&format!("{}\n{}", bench_table::head(&report), bench_table::rows(&report)))
}

impl BenchArgs {
    /// The one operation that is named.
    fn one(&self, option: &str) -> Result<&str> {
        match &self.ops[..] {
            [one] => Ok(one),
            _ => Err(Error::Config(format!("{option} wants one kernel: modalign bench KERNEL"))),
        }
    }

    /// Those of the shape that was asked for.
    fn shaped<'s>(&self, mut choices: Vec<Choice<'s>>) -> Result<Vec<Choice<'s>>> {
        let Some(part) = &self.shape else { return Ok(choices) };
        let all: Vec<&str> = choices.iter().map(|c| c.entry.shape.as_str()).collect();
        let all = all.join("; ");
        choices.retain(|c| c.entry.shape.contains(part.as_str()));
        if choices.is_empty() {
            return Err(Error::Config(format!("no shape contains '{part}'; there are: {all}")));
        }
        Ok(choices)
    }

    fn open(&self, global: &Global, checked: bool) -> Result<Gpu> {
        let family = self.family.map(|name| match name {
            FamilyName::Wide => Family::Wide(0),
            FamilyName::Plain => Family::Plain,
            FamilyName::Tiled => Family::Tiled,
        });
        let gpu = Gpu::with(&GpuOptions { family, checked, ..global.gpu_options() })?;
        if self.family == Some(FamilyName::Wide) && gpu.caps().family.lanes() == 0 {
            let name = &gpu.caps().name;
            return Err(Error::Config(format!("{name} has no subgroups of one size: not wide")));
        }
        Ok(gpu)
    }
}

/// A bar on a terminal, and nothing elsewhere.
pub(super) fn bar(length: usize, global: &Global) -> ProgressBar {
    if global.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    styled(length)
}

/// A bar that shows what is at work.
pub(super) fn styled(length: usize) -> ProgressBar {
    let template = "{bar:24.cyan} {pos}/{len}  {wide_msg}";
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(length as u64);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn list(suite: &Suite, args: &BenchArgs, global: &Global) -> Result<()> {
    suite.choose(&args.ops)?;
    let named = |op: &str, kernels: &[&str]| {
        let known = |name: &String| name == op || kernels.contains(&name.as_str());
        args.ops.is_empty() || args.ops.iter().any(known)
    };
    let mut all = suite.list();
    all.retain(|(op, kernels, _)| named(op, kernels));
    if global.json {
        let all: Vec<_> = all
            .iter()
            .map(|(op, kernels, shapes)| json!({"op": op, "kernels": kernels, "shapes": shapes}))
            .collect();
        return output::json(&json!({ "ops": all }));
    }
    let mut rows = Vec::new();
    for (op, kernels, shapes) in all {
        for i in 0..kernels.len().max(shapes.len()) {
            let cell = |list: &[&str]| list.get(i).copied().unwrap_or_default().to_string();
            let op = if i == 0 { op } else { "" };
            rows.push(vec![op.to_string(), cell(&kernels), cell(&shapes)]);
        }
    }
    let table = output::table(["operation", "kernels", "shapes"], 3, rows);
    output::print(&output::text(&table))
}

fn show(suite: &Suite, args: &BenchArgs, global: &Global) -> Result<()> {
    let (kernel, choices) = suite.of_kernel(args.one("--show")?)?;
    let choices = args.shaped(choices)?;
    let gpu = args.open(global, false)?;
    let caps: &Caps = gpu.caps();
    let Some(choice) = choices.first() else { return Ok(()) };
    let planned = choice.entry.dispatch(caps, kernel.name)?;
    let text = expand(kernel.source, &planned.defines)
        .map_err(|message| Error::Shader { name: kernel.name.into(), message })?;
    let pairs = |all: Vec<String>| if all.is_empty() { "none".into() } else { all.join(" ") };
    let defines = planned.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let words = sizes(&planned).into_iter().map(|(name, value)| format!("{name}={value}"));
    let [x, y, z] = planned.groups;
    output::print(&format!(
        "// {} of {}, {}, as {} gets it: {x} × {y} × {z} workgroups\n\
         // Defines: {}\n// Integers of P: {}\n//\n{text}",
        kernel.name,
        choice.entry.shape,
        caps.family,
        caps.name,
        pairs(defines),
        pairs(words.collect()),
    ))
}
