//! `modalign devices`: the adapters and what each can do.

use super::{Global, output};
use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Gpu, Simulated, list_adapters_for};
use crate::recipe::MODELS;
use crate::train::{Outline, outline_of_shapes};
use clap::Args;
use serde_json::{Value, json};

/// Options of `devices`.
#[derive(Args)]
#[command(after_help = "\
The adapter marked * is the one that a plain run takes: discrete, then integrated, virtual, CPU.
Choose another by its number here, --adapter 1, or by any part of its name, --adapter NAME or
WGPU_ADAPTER_NAME=NAME; of two adapters of one name only the number tells which.

--simulate NAME takes the limits that a GPU's driver reports, as data, and plans a training step of each
model at the sizes of each preset for it: how many dispatches, how much memory, whether it fits. It says
nothing of speed. --simulate list names the GPUs that are known.

Examples:
  modalign devices
  modalign devices --simulate list
  modalign devices --simulate adreno")]
pub(super) struct DevicesArgs {
    /// Plan for a GPU that need not be here, by a part of its name; list shows all
    #[arg(long, value_name = "NAME")]
    simulate: Option<String>,
}

/// Prints the table.
pub(super) fn run(args: &DevicesArgs, global: &Global) -> Result<()> {
    match args.simulate.as_deref() {
        Some("list") => return known(global),
        Some(name) => return simulate(&Simulated::find(name)?, global),
        None => {}
    }
    let all = list_adapters_for(global.adapter.as_deref());
    if !all.iter().any(|a| a.chosen) {
        // Opening says best what is missing.
        return Gpu::with(&global.gpu_options()).map(drop);
    }
    if global.json {
        return output::json(&json!({ "adapters": all }));
    }
    let header = [
        "",
        "number",
        "adapter",
        "backend",
        "kind",
        "driver",
        "subgroup",
        "kernels",
        "binding",
        "timestamps",
    ];
    output::print(&output::text(&output::table(header, header.len(), all.iter().map(row))))
}

/// The GPUs whose limits are known.
fn known(global: &Global) -> Result<()> {
    let all = Simulated::all()?;
    if global.json {
        return output::json(&json!({ "simulated": all }));
    }
    let rows = all.iter().map(|one| {
        let lanes = one.subgroup.map_or_else(|| "-".into(), |(a, b)| format!("{a}-{b}"));
        let sizes = [one.max_binding, one.max_buffer, one.memory].map(output::bytes);
        [vec![one.name.clone(), one.backend.clone(), lanes], sizes.to_vec()].concat()
    });
    let header = ["GPU", "backend", "subgroup", "binding", "buffer", "memory"];
    output::print(&output::text(&output::table(header, 3, rows)))
}

/// What a step of a model is on a GPU, or why there is none.
struct Planned {
    model: &'static str,
    preset: &'static str,
    step: Result<Outline>,
}

/// Plans a step of all models for a GPU.
fn simulate(gpu: &Simulated, global: &Global) -> Result<()> {
    let caps = gpu.caps();
    let mut all = Vec::new();
    for entry in MODELS {
        for preset in entry.presets {
            let step = outline_of_shapes(entry, preset, &caps);
            all.push(Planned { model: entry.name, preset, step });
        }
    }
    if global.json {
        let plans: Vec<Value> = all.iter().map(|plan| plan.json(gpu)).collect();
        return output::json(&json!({
            "gpu": gpu,
            "kernels": caps.family.to_string(),
            "plans": plans,
        }));
    }
    output::print(&format!("{}: kernels {}; not measured, planned", gpu.name, caps.family))?;
    let header = ["model", "preset", "batch", "dispatches", "memory", "fits"];
    let rows = all.iter().map(|plan| plan.row(gpu));
    output::print(&output::text(&output::table(header, 2, rows)))
}

impl Planned {
    fn fits(&self, gpu: &Simulated) -> String {
        match &self.step {
            Ok(step) if step.bytes <= gpu.memory => "yes".into(),
            Ok(_) => format!("no: {} of memory", output::bytes(gpu.memory)),
            Err(Error::OutOfMemory { advice, .. } | Error::TooLarge { advice, .. }) => {
                format!("no: {advice}")
            }
            Err(_) => "not planned: it wants more than shapes".into(),
        }
    }

    fn row(&self, gpu: &Simulated) -> Vec<String> {
        let numbers = match &self.step {
            Ok(step) => [
                step.batch.to_string(),
                step.plan.dispatches().len().to_string(),
                output::bytes(step.bytes),
            ],
            Err(_) => ["-", "-", "-"].map(String::from),
        };
        let names = vec![self.model.to_string(), self.preset.to_string()];
        [names, numbers.to_vec(), vec![self.fits(gpu)]].concat()
    }

    fn json(&self, gpu: &Simulated) -> Value {
        let step = self.step.as_ref().ok();
        json!({
            "model": self.model,
            "preset": self.preset,
            "batch": step.map(|s| s.batch),
            "dispatches": step.map(|s| s.plan.dispatches().len()),
            "bytes": step.map(|s| s.bytes),
            "fits": step.is_some_and(|s| s.bytes <= gpu.memory),
            "why": match &self.step {
                Err(why) => why.to_string(),
                Ok(_) => self.fits(gpu),
            },
        })
    }
}

fn row(a: &AdapterSummary) -> Vec<String> {
    vec![
        if a.chosen { "*" } else { "" }.into(),
        a.number.to_string(),
        a.name.clone(),
        a.backend.clone(),
        a.kind.clone(),
        a.driver.clone(),
        match a.subgroups {
            None => "-".into(),
            Some((min, max)) if min == max => min.to_string(),
            Some((min, max)) => format!("{min}-{max}"),
        },
        a.kernels.clone(),
        format!("{} MiB", a.max_binding_mib),
        if a.timestamps { "yes" } else { "no" }.into(),
    ]
}
