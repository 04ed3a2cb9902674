//! `modalign profile`: where the time of a training step goes, or would go elsewhere.

use super::config_args::ConfigArgs;
use super::{Global, output};
use crate::bench::{Figures, PUBLISHED, Prediction, Roofline, assumptions};
use crate::error::Result;
use crate::gpu::{Caps, Family, Gpu};
use crate::plan::{Clock, Planned};
use crate::train::{By, Profile, Row, TypicalStep, open_data, profile, typical_step};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Options of `profile`.
#[derive(Args)]
#[command(after_help = "\
Takes training steps on batches of the data and prints, kernel by kernel, what a step's dispatches
took: medians, by the device's timestamps where it has them, else each submitted alone and waited
for (--waits). Whole steps, replayed as training does, are timed in between: they are what counts,
and the dispatches' sum says how much of them is computing. Nothing is written.

  calls     dispatches of a step          MFLOP   arithmetic, as the plan counts it
  share     of all dispatches' time       MiB     read and written: what a kernel touches, once each
  roofline  the shortest time that this adapter could take for that much arithmetic and memory, by
            the time taken; the two limits are measured in the same run. Lengths are data: where
            sequences are short of their full length, less was done than counted. Data that stay in
            a cache can beat the memory's limit.

--predict needs no adapter: it takes the plan of a step for GPUs and published figures of some, and
says what a step should take there. None of it was run. --calibrate applies the same formula to this
adapter, with figures measured here, and prints what it says beside what was measured.

Examples:
  modalign profile --data mosi.safetensors
  modalign profile --data mosi.safetensors --by dispatch --top 12
  modalign profile --data mosi.safetensors --bert bert-base-uncased --steps 3
  modalign profile --data mosi.safetensors --predict
  modalign profile --data mosi.safetensors --calibrate --json")]
pub(super) struct ProfileArgs {
    /// The data set
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Steps to take the medians of, of either kind
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// What a row of the table is
    #[arg(long, value_enum, default_value_t = Rows::Kernel)]
    by: Rows,
    /// Only the N longest rows, and the others as one
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Wait for each dispatch, although the adapter has timestamps
    #[arg(long)]
    waits: bool,
    /// What a step would take on GPUs, by their published figures; no adapter is opened
    #[arg(long, conflicts_with_all = ["top", "by"])]
    predict: bool,
    /// Hold the formula of --predict against this adapter
    #[arg(long)]
    calibrate: bool,
}

/// Rows of the table.
#[derive(Clone, Copy, ValueEnum)]
enum Rows {
    /// A kernel
    Kernel,
    /// A dispatch
    Dispatch,
    /// A part of the step: forward, backward, state, update
    Stage,
}

impl From<Rows> for By {
    fn from(rows: Rows) -> By {
        match rows {
            Rows::Kernel => By::Kernel,
            Rows::Dispatch => By::Dispatch,
            Rows::Stage => By::Stage,
        }
    }
}

/// Profiles or predicts.
pub(super) fn run(args: &ProfileArgs, global: &Global) -> Result<()> {
    if !args.predict {
        let measured = measure(args, global)?;
        return match global.json {
            true => output::json(&measured.json(args)),
            false => measured.print(args),
        };
    }
    let config = args.config.build(&[])?;
    let caps = Caps::defaults(Family::Tiled);
    let step = typical_step(&config, &args.data, Path::new(&config.bert.path), &caps)?;
    let predictions: Vec<Prediction> = PUBLISHED.iter().map(|f| f.predict(&step)).collect();
    let calibration = if args.calibrate { Some(measure(args, global)?) } else { None };
    if global.json {
        return output::json(&json!({
            "data": args.data.display().to_string(),
            "prediction": true,
            "kernels": caps.family.to_string(),
            "batch_size": step.batch,
            "token_rows": step.tokens,
            "batches": step.batches,
            "accumulate": step.accumulate,
            "dispatches": step.plan.dispatches().len(),
            "flops": step.plan.flops(),
            "bytes": bytes(&step),
            "figures": &PUBLISHED[..],
            "predictions": predictions,
            "assumptions": assumptions(),
            "calibration": calibration.map(|m| m.json(args)),
        }));
    }
    print_predictions(&args.data, &step, &predictions)?;
    match calibration {
        Some(measured) => output::print(&format!("\n{}", measured.calibration())),
        None => Ok(()),
    }
}

fn bytes(step: &TypicalStep) -> u64 {
    step.plan.dispatches().iter().map(|d| d.bytes).sum()
}

/// `16`, or `16 with 224 token rows`.
fn batch(rows: usize, tokens: usize) -> String {
    if tokens == 0 { rows.to_string() } else { format!("{rows} with {tokens} token rows") }
}

/// About four digits.
fn digits(value: f64) -> String {
    match value {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        0.1.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

fn ms(seconds: f64) -> String {
    digits(seconds * 1e3)
}

fn print_predictions(data: &Path, step: &TypicalStep, predictions: &[Prediction]) -> Result<()> {
    output::print(&format!(
        "PREDICTION: none of this was ever run on these devices.\n\
         A step of {} is {} dispatches, {:.1} MFLOP, {:.1} MiB; an epoch is {} of them, the \
         optimiser runs in every {}.\n",
        batch(step.batch, step.tokens),
        step.plan.dispatches().len(),
        step.plan.flops() as f64 * 1e-6,
        bytes(step) as f64 / f64::from(1 << 20),
        step.batches,
        ordinal(step.accumulate),
    ))?;
    let header = ["device", "step ms", "samples/s", "epoch s", "bound by"];
    let rows = predictions.iter().map(|p| {
        let bound = format!("{:?} {:.0} %", p.bound, p.share * 100.0).to_lowercase();
        vec![
            p.device.clone(),
            format!("{:.2}", p.step * 1e3),
            format!("{:.0}", p.samples),
            format!("{:.2}", p.epoch),
            bound,
        ]
    });
    output::tables(&[("", output::table(header, 1, rows))])?;
    let lines: Vec<String> = assumptions().into_iter().map(|line| format!("- {line}")).collect();
    output::print(&format!(
        "\nAssumed, of every device:\n{}\n\n\
         Have you one of these? Hold us to it: run `modalign profile --data {} --json` there and\n\
         report its step_ms beside the figure above as an issue of this project.",
        lines.join("\n"),
        data.display()
    ))
}

/// `1st`, `4th`.
fn ordinal(n: usize) -> String {
    let end = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{end}")
}

/// What a run of `profile` found.
struct Measured {
    adapter: String,
    driver: String,
    family: String,
    data: String,
    profile: Profile,
    roofline: Roofline,
    /// Measured, where the formula is to be held against them.
    figures: Option<Figures>,
}

fn measure(args: &ProfileArgs, global: &Global) -> Result<Measured> {
    let config = args.config.build(&[])?;
    let gpu: Gpu = global.gpu()?;
    let data = open_data(&gpu, &args.data, &config, Path::new(&config.bert.path))?;
    let clock = if args.waits { Clock::waits() } else { Clock::new(&gpu)? };
    let profile = profile(&gpu, &config, data, args.steps as usize, &clock)?;
    let roofline = Roofline::measure(&gpu)?;
    let figures = match args.calibrate {
        true => Some(Figures::measured(&gpu, &roofline)?),
        false => None,
    };
    gpu.save_pipeline_cache();
    let caps = gpu.caps();
    Ok(Measured {
        adapter: caps.name.clone(),
        driver: caps.driver.clone(),
        family: caps.family.to_string(),
        data: args.data.display().to_string(),
        profile,
        roofline,
        figures,
    })
}

impl Measured {
    /// The rows, and beside each what the formula predicts where it was asked.
    fn rows(&self, args: &ProfileArgs) -> Vec<(Row, Option<f64>)> {
        let by = args.by.into();
        let least = |d: &Planned| self.roofline.least(d.flops, d.bytes);
        let predicted = self.figures.as_ref().map(|figures| {
            let rows = self.profile.rows(by, |d| figures.cost(d).seconds());
            move |name: &str| rows.iter().find(|r| r.name == name).map(|r| r.estimate)
        });
        let rows = self.profile.rows(by, least).into_iter();
        let mut rows: Vec<_> = rows
            .map(|row| {
                let predicted = predicted.as_ref().and_then(|p| p(&row.name));
                (row, predicted)
            })
            .collect();
        let top = args.top.unwrap_or(rows.len());
        if top < rows.len() {
            let others = rows.split_off(top);
            let mut all = Row { name: format!("{} others", others.len()), ..Row::default() };
            others.iter().for_each(|(row, _)| all.add(row));
            let predicted = others.iter().map(|(_, p)| *p).sum::<Option<f64>>();
            rows.push((all, predicted));
        }
        rows
    }

    /// All dispatches in one row.
    fn total(rows: &[(Row, Option<f64>)]) -> (Row, Option<f64>) {
        let mut all = Row { name: "all".into(), ..Row::default() };
        rows.iter().for_each(|(row, _)| all.add(row));
        (all, rows.iter().map(|(_, p)| *p).sum())
    }

    fn json(&self, args: &ProfileArgs) -> Value {
        let p = &self.profile;
        let rows = self.rows(args);
        let object = |(row, predicted): &(Row, Option<f64>)| {
            json!({
                "name": row.name,
                "calls": row.calls,
                "ms": row.seconds * 1e3,
                "share": row.share,
                "flops": row.flops,
                "bytes": row.bytes,
                "roofline": row.estimate / row.seconds,
                "predicted_ms": predicted.map(|s| s * 1e3),
            })
        };
        json!({
            "data": self.data,
            "adapter": self.adapter,
            "driver": self.driver,
            "kernels": self.family,
            "clock": p.clock,
            "steps": p.steps,
            "batch_size": p.batch,
            "token_rows": p.tokens,
            "accumulate": p.accumulate,
            "dispatches": p.dispatches.len(),
            "step_ms": p.step * 1e3,
            "fastest_ms": p.fastest * 1e3,
            "encode_ms": p.encode * 1e3,
            "submit_ms": p.submit * 1e3,
            "dispatches_ms": p.sum() * 1e3,
            "optimiser_ms": p.optimiser() * 1e3,
            "batch_ms": p.mean() * 1e3,
            "samples_per_second": p.batch as f64 / p.mean(),
            "roofline": { "flops": self.roofline.flops, "bytes": self.roofline.bytes },
            "rows": rows.iter().map(object).collect::<Vec<_>>(),
            "all": object(&Self::total(&rows)),
            "figures": self.figures,
            "calibration": self.figures.as_ref().map(|figures| json!({
                "predicted_ms": self.predicted(figures) * 1e3,
                "measured_ms": p.fastest * 1e3,
                "measured_by_predicted": p.fastest / self.predicted(figures),
            })),
        })
    }

    fn print(&self, args: &ProfileArgs) -> Result<()> {
        let p = &self.profile;
        let name = match args.by {
            Rows::Kernel => "kernel",
            Rows::Dispatch => "dispatch",
            Rows::Stage => "stage",
        };
        let mut header =
            vec![name, "calls", "ms", "share", "MFLOP", "MiB", "GFLOP/s", "GB/s", "roofline"];
        if self.figures.is_some() {
            header.push("predicted ms");
        }
        let mut rows = self.rows(args);
        rows.push(Self::total(&rows));
        let lines = rows.iter().map(|(row, predicted)| {
            let mut line = vec![
                row.name.clone(),
                row.calls.to_string(),
                ms(row.seconds),
                format!("{:.1} %", row.share * 100.0),
                digits(row.flops as f64 * 1e-6),
                digits(row.bytes as f64 / f64::from(1 << 20)),
                digits(row.flops as f64 / row.seconds * 1e-9),
                digits(row.bytes as f64 / row.seconds * 1e-9),
                format!("{:.0} %", row.estimate / row.seconds * 100.0),
            ];
            line.extend(predicted.map(ms));
            line
        });
        output::tables(&[("", output::table(header, 1, lines))])?;
        output::print(&format!(
            "\na step of {}: {} dispatches, {} ms in all (by {})\n\
             replayed whole: {} ms (fastest {}); of it on the CPU {} ms to encode, {} ms to submit\n\
             the optimiser's {} ms come after every {} batch in training: {} ms a batch, {:.0} \
             samples/s\n\
             medians of {} steps on {} ({}), {} kernels; its roofline: {:.1} GFLOP/s, {:.1} GB/s",
            batch(p.batch, p.tokens),
            p.dispatches.len(),
            ms(p.sum()),
            p.clock,
            ms(p.step),
            ms(p.fastest),
            ms(p.encode),
            ms(p.submit),
            ms(p.optimiser()),
            ordinal(p.accumulate),
            ms(p.mean()),
            p.batch as f64 / p.mean(),
            p.steps,
            self.adapter,
            self.driver,
            self.family,
            self.roofline.flops * 1e-9,
            self.roofline.bytes * 1e-9,
        ))?;
        if self.figures.is_some() { output::print(&self.calibration()) } else { Ok(()) }
    }

    /// A step's seconds by the formula.
    fn predicted(&self, figures: &Figures) -> f64 {
        let dispatches = self.profile.dispatches.iter();
        dispatches.map(|d| figures.cost(&d.planned).seconds()).sum()
    }

    /// What the formula says of this adapter, beside what was measured.
    fn calibration(&self) -> String {
        let Some(figures) = &self.figures else { return String::new() };
        let predicted = self.predicted(figures);
        let step = self.profile.fastest;
        format!(
            "calibration: by the formula of --predict a step takes {} ms here; the fastest took {} \
             ms, {:.2} times that\n\
             (from {:.1} GFLOP/s, {:.1} GB/s, {:.1} µs from a dispatch to the next, {:.2} µs a round, \
             the best that were measured on {})",
            ms(predicted),
            ms(step),
            step / predicted,
            figures.flops * 1e-9,
            figures.bytes * 1e-9,
            figures.launch * 1e6,
            figures.round * 1e6,
            figures.name
        )
    }
}
