//! `modalign devices`: the adapters and what each can do.

use super::{Global, output};
use crate::error::Result;
use crate::gpu::{AdapterSummary, Gpu, list_adapters};
use clap::Args;
use serde_json::json;

/// Options of `devices`.
#[derive(Args)]
#[command(after_help = "\
The adapter marked * is the one that a plain run takes: discrete, then integrated, virtual, CPU.
Choose another with --adapter NAME or WGPU_ADAPTER_NAME=NAME, any part of its name.")]
pub(super) struct DevicesArgs {}

/// Prints the table.
pub(super) fn run(_: &DevicesArgs, global: &Global) -> Result<()> {
    let mut all = list_adapters();
    if let Some(wanted) = &global.adapter {
        let wanted = wanted.to_lowercase();
        all.retain(|a| a.name.to_lowercase().contains(&wanted));
        all.iter_mut().enumerate().for_each(|(i, a)| a.chosen = i == 0);
    }
    if all.is_empty() {
        // Opening says best what is missing.
        return Gpu::with(&global.gpu_options()).map(drop);
    }
    if global.json {
        return output::json(&json!({ "adapters": all }));
    }
    let header = [
        "",
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

fn row(a: &AdapterSummary) -> Vec<String> {
    vec![
        if a.chosen { "*" } else { "" }.into(),
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
