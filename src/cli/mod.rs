//! The command line: one file per verb, over the library's public API.
//!
//! What a verb finds goes to stdout, as a table or, with `--json`, as one object; everything else
//! (progress, notes, warnings, errors) goes to stderr. An error is one line, and the exit status is
//! 2 for a command or a configuration that cannot be used and 1 for everything else.

mod align;
mod bench;
mod bench_own;
mod bench_table;
mod child;
mod config_args;
mod curves;
mod demo;
mod demo_report;
mod devices;
mod eval;
mod experiment;
mod explain;
mod export;
mod fatal;
mod features;
mod holistic;
mod import;
mod inspect;
mod inspect_data;
mod interactions;
mod models;
mod output;
mod predict;
mod predict_sound;
mod profile;
mod progress;
mod report;
mod run_folder;
mod selftest;
#[cfg(test)]
mod shown;
mod signals;
mod synth;
mod train;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::ErrorKind as Kind;
use std::io::Write;
use std::process::ExitCode;

const ABOUT: &str = "Multimodal sentiment models, trained on any GPU in hand-written WGSL";

const EXAMPLES: &str = "\
Examples:
  modalign demo                                  see it work, no data needed
  modalign devices                               which adapters there are
  modalign selftest                              whether this one computes what it should
  modalign synth --out play.safetensors          a data set whose hidden factors are known
  modalign import mosi.pkl --out mosi.safetensors    MMSA's features, read without Python
  modalign train --data play.safetensors         train, stop early, test
  modalign models                                what else there is to train: --model NAME
  modalign eval --model runs/play-mosi-1111      all metrics of the best epoch
  modalign interactions play.safetensors         what its modalities share and add
  modalign experiment ablation --data play.safetensors    what each part of the method is worth
  modalign predict --model runs/play-mosi-1111 --data new.safetensors --format csv
  modalign train --data mosi.safetensors --bert bert-base-uncased    fine-tune a text encoder
  modalign predict --model runs/mosi-mosi-1111 --text \"I really enjoyed this film\"
  modalign explain --model runs/mosi-mosi-1111 --hardest 5    which words and sounds decided
  modalign features clips/ --labels labels.csv --out mine.safetensors    from recordings of your own
  modalign report runs/play-mosi-1111 --out play.html    what came of it, as a page
  modalign inspect play.safetensors --plan       what a training step will run and need
  modalign profile --data play.safetensors       where its time goes
  modalign bench softmax --with mine.wgsl        a kernel of your own against ours

Environment:
  WGPU_BACKEND       vulkan, metal or dx12: which to look for adapters in
  WGPU_ADAPTER_NAME  part of an adapter's name (--adapter goes before it)
  MODALIGN_TIMEOUT   seconds after which a step, or a disk, is taken to hang (600)
  NO_COLOR           set to anything: no colours
  RUST_LOG           log filters, instead of -v

Exit status: 0, or 2 for a command or configuration that cannot be used (a folder that another run
is in, too), or 1 for any other error. Ctrl-C (130), a request to end (143) or a terminal that goes
away (129) let a run finish its step and save; twice ends it at once.
`modalign VERB --help` has more on each.";

#[derive(Parser)]
#[command(name = "modalign", version, about = ABOUT, after_help = EXAMPLES)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    global: Global,
}

/// What every verb understands.
#[derive(Args)]
struct Global {
    /// Run on the adapter of this number, or whose name contains NAME, any case (see `modalign devices`)
    #[arg(long, global = true, value_name = "NAME", help_heading = "Everywhere")]
    adapter: Option<String>,
    /// Do not measure which variants of kernels are the fastest here, nor use what was measured
    #[arg(long, global = true, help_heading = "Everywhere")]
    no_tune: bool,
    /// Only results and errors: no progress, no notes, no warnings
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    quiet: bool,
    /// Results as one JSON object on stdout
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Say more of what happens; -vv for debugging
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Everywhere")]
    verbose: u8,
}

impl Global {
    /// How to choose the adapter.
    fn gpu_options(&self) -> GpuOptions {
        let (adapter, quiet, no_tune) = (self.adapter.clone(), self.quiet, self.no_tune);
        GpuOptions { adapter, quiet, no_tune, ..GpuOptions::default() }
    }

    /// Opens the adapter.
    fn gpu(&self) -> Result<Gpu> {
        fatal::within_patience(|| Gpu::with(&self.gpu_options()))
    }

    /// A line on stderr, unless quiet.
    fn note(&self, line: &str) {
        if !self.quiet {
            output::note(line);
        }
    }
}

#[derive(Subcommand)]
enum Verb {
    /// List the adapters and what each can do
    Devices(devices::DevicesArgs),
    /// Check that this adapter computes what it should: kernels, gradients, trainings
    Selftest(selftest::SelftestArgs),
    /// Write a synthetic data set whose shared and private factors are known
    Synth(synth::SynthArgs),
    /// Make a data set of other people's feature files: pickles, .npz, .npy, .csv
    Import(import::ImportArgs),
    /// List the models
    Models(models::ModelsArgs),
    /// Train a model on a data set, or continue a run
    Train(train::TrainArgs),
    /// What pairs of modalities share, hold alone and say only together
    Interactions(interactions::InteractionsArgs),
    /// Train a grid of settings and seeds, and compare them
    Experiment(experiment::ExperimentArgs),
    /// Models by data sets, annotated by measurement: where each is strong
    Holistic(holistic::HolisticArgs),
    /// All metrics of a trained model on a data set
    Eval(eval::EvalArgs),
    /// Score every sample of a data set, or a sentence
    Predict(predict::PredictArgs),
    /// Which word, step or modality decided
    Explain(explain::ExplainArgs),
    /// Compute acoustic features of wav files
    Features(features::FeaturesArgs),
    /// A data set with a step for each word, from a table of word times
    Align(align::AlignArgs),
    /// Write a fine-tuned text encoder as a Hugging Face folder
    Export(export::ExportArgs),
    /// Show a data set, a run, a model, or the plan of a training step
    Inspect(inspect::InspectArgs),
    /// Where the time of a training step goes, here or (predicted) on other GPUs
    Profile(profile::ProfileArgs),
    /// Train four variants on synthetic data and show what each one learned
    Demo(demo::DemoArgs),
    /// A page about runs or an experiment: curves, predictions, labels, covariances
    Report(report::ReportArgs),
    /// Time the kernels on this adapter, or one of your own in the place of ours
    Bench(bench::BenchArgs),
}

/// Parses the command line, runs the verb, reports its error, and gives the exit status.
pub fn run() -> ExitCode {
    child::is_program();
    // Whoever watches a child tells of its end.
    if child::wanted() {
        fatal::begin();
    }
    run_from(std::env::args_os())
}

/// The same for a command line that is given, its first word the program's name.
pub fn run_from(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(problem) if !problem.use_stderr() => {
            // Help and version. A reader that has gone away is no error.
            let _ = problem.print();
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            complain(&usage_line(&problem.to_string()));
            return ExitCode::from(2);
        }
    };
    start_log(&cli.global);
    signals::begin();
    // The last resort: a bug still ends in one line.
    std::panic::set_hook(Box::new(|info| {
        if std::thread::current().name() == Some(crate::error::CONTAINED) {
            return;
        }
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let what = info.payload();
        let what = what
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| what.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        // The standard library's word where the system gives no more of them.
        let told = match what.starts_with("failed to spawn thread") {
            true => format!("{what}{}", fatal::little_memory().unwrap_or_default()),
            false => format!("this is a bug in modalign ({place}): {what}"),
        };
        complain(&told);
    }));
    match std::panic::catch_unwind(|| cli.verb.run(&cli.global)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // `modalign ... | head` has read enough.
        Ok(Err(Error::Io { source, .. })) if source.kind() == Kind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            complain(&advised(&error));
            match error {
                Error::Interrupted { .. } => signals::exit_code(),
                Error::Config(_) | Error::Busy { .. } => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
        Err(_) => ExitCode::FAILURE,
    }
}

impl Verb {
    fn run(&self, global: &Global) -> Result<()> {
        match self {
            Verb::Devices(args) => devices::run(args, global),
            Verb::Models(args) => models::run(args, global),
            Verb::Selftest(args) => selftest::run(args, global),
            Verb::Synth(args) => synth::run(args, global),
            Verb::Import(args) => import::run(args, global),
            Verb::Train(args) => train::run(args, global),
            Verb::Interactions(args) => interactions::run(args, global),
            Verb::Experiment(args) => experiment::run(args, global),
            Verb::Holistic(args) => holistic::run(args, global),
            Verb::Eval(args) => eval::run(args, global),
            Verb::Predict(args) => predict::run(args, global),
            Verb::Explain(args) => explain::run(args, global),
            Verb::Features(args) => features::run(args, global),
            Verb::Align(args) => align::run(args, global),
            Verb::Export(args) => export::run(args, global),
            Verb::Inspect(args) => inspect::run(args, global),
            Verb::Profile(args) => profile::run(args, global),
            Verb::Demo(args) => demo::run(args, global),
            Verb::Report(args) => report::run(args, global),
            Verb::Bench(args) => bench::run(args, global),
        }
    }
}

/// `error: …`, always one line; a closed stderr is no reason to fail.
fn complain(message: &str) {
    const MOST: usize = 2000;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().take(MOST).collect();
    if shown.len() < line.len() {
        shown += " …";
    }
    let _ = writeln!(std::io::stderr(), "error: {}", output::escaped(&shown));
}

/// An error, with what the command line has to offer against it where the error does not say so: the
/// engine knows nothing of settings and runs.
fn advised(error: &Error) -> String {
    let text = error.to_string();
    match error {
        Error::DeviceLost(_) => format!("{text}: train --resume RUN"),
        Error::NoAdapter(_) => text + &fatal::little_memory().unwrap_or_default(),
        Error::Io { source, .. }
            if matches!(source.kind(), Kind::WouldBlock | Kind::OutOfMemory) =>
        {
            text + &fatal::little_memory().unwrap_or_default()
        }
        Error::OutOfMemory { .. } | Error::TooLarge { .. }
            if !text.contains("train.batch_size") =>
        {
            format!("{text} (--set train.batch_size=N)")
        }
        _ => text,
    }
}

/// clap explains in a paragraph; its first part, with a tip where there is one, says it all.
fn usage_line(text: &str) -> String {
    let kept = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .map(|line| line.strip_prefix("tip: ").unwrap_or(line))
        .collect::<Vec<_>>()
        .join("; ");
    let kept = kept.strip_prefix("error: ").unwrap_or(&kept).replace(":;", ":");
    format!("{kept} (--help explains)")
}

fn start_log(global: &Global) {
    let ours = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    // wgpu and naga tell of every probe of every driver; that is for those who ask for it.
    let others = if global.verbose > 2 { "info" } else { "off" };
    let filters = std::env::var("RUST_LOG").ok().filter(|f| !f.is_empty());
    let filters = filters.unwrap_or_else(|| format!("{others},modalign={ours}"));
    let began = std::time::Instant::now();
    let started = env_logger::Builder::new()
        .parse_filters(&filters)
        .format(move |out, record| {
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "info",
                log::Level::Debug => "debug",
                log::Level::Trace => "trace",
            };
            if record.level() >= log::Level::Debug {
                let ms = began.elapsed().as_secs_f64() * 1e3;
                let text = record.args().to_string();
                return writeln!(out, "{level}: {ms:7.1} ms  {}", output::escaped(&text));
            }
            writeln!(out, "{level}: {}", output::escaped(&record.args().to_string()))
        })
        .try_init();
    // Only a second logger in one process can fail this, and then that one serves.
    drop(started);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_fit_on_a_line() {
        let message = |args: &[&str]| match Cli::try_parse_from(args) {
            Ok(_) => String::new(),
            Err(problem) => usage_line(&problem.to_string()),
        };
        let line = message(&["modalign", "train"]);
        assert!(line.contains("--data") && !line.contains('\n'), "{line}");
        let line = message(&["modalign", "train", "--dta", "x"]);
        assert!(line.contains("'--dta'") && line.contains("'--data'"), "{line}");
        let line = message(&["modalign", "trian"]);
        assert!(line.contains("'train'"), "{line}");
    }
}
