//! Bytes that a dispatch moves.

use crate::plan::{Plan, Planned, TensorInfo};

/// Bytes that a dispatch must read and write: every tensor that it names once, but for tensors that
/// it updates where they are (twice), and for tables of which it touches some rows (those rows).
pub fn traffic(plan: &Plan, planned: &Planned) -> u64 {
    let bytes = |t: &TensorInfo| t.len() as u64 * 4;
    let named = |name: &str| {
        let mut all = planned.kernel.bindings.iter().zip(&planned.args);
        let arg = all.find(|(binding, _)| binding.name == name).and_then(|(_, arg)| *arg);
        arg.map_or(u64::MAX, |id| bytes(plan.tensor(id)))
    };
    let all = planned.kernel.bindings.iter().zip(&planned.args);
    all.filter_map(|(binding, arg)| Some((binding.name, bytes(plan.tensor((*arg)?)))))
        .map(|(binding, bytes)| match (planned.kernel.name, binding) {
            ("adam", "VALUE" | "GRAD" | "M" | "V") => 2 * bytes,
            ("lstm_forward" | "lstm_backward", "GATES") => 2 * bytes,
            ("embed", "WORD" | "REST") => bytes.min(named("X")),
            ("embed_backward", "TABLE") => 2 * bytes.min(named("DX")),
            ("scatter_rows", "OUT") => bytes.min(named("X")),
            _ => bytes,
        })
        .sum()
}
