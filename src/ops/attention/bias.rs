//! The gradient of a bias that attention adds to its scores by distance.

use super::super::reduce::row_launch;
use super::{MAX_TOKENS, Pass, cases, launch, queries, reference};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Kernel, Launch};

/// Sums of slopes by distance; see `shaders/attention_backward_bias.wgsl`.
pub static BACKWARD_BIAS: Kernel = Kernel {
    name: "attention_backward_bias",
    source: include_str!("../../../shaders/attention_backward_bias.wgsl"),
    bindings: &[
        // Queries, keys and values.
        Binding::read("Q").part(|p, _, _| [3 * queries(p), 0]),
        Binding::read("TOKENS"),
        Binding::read("DOUT"),
        Binding::read("LSE"),
        Binding::read("DELTA"),
        Binding::read("BIAS"),
        Binding::write("DBIAS").adds(9),
    ],
    step: true,
    launch: distances,
    twin: reference::backward_bias,
    cases: || cases::all(Pass::Bias),
};

/// A row of the sums is a distance of a head, and goes through all queries.
fn distances(family: Family, words: &[u32], defines: &Defines) -> Launch {
    let [queries, heads, reach] = [0, 2, 15].map(|i| words[i] as usize);
    let spread = row_launch(family, (2 * reach + 1) * heads, queries, false);
    let shared = ["TREE", "LANES"].into_iter().find_map(|name| spread.defines.get(name));
    // Of a query one key at each distance, and at the outermost ones all keys beyond, too.
    let each = 1 + MAX_TOKENS.saturating_sub(reach).clamp(1, queries.max(1));
    let rows = queries.div_ceil(shared.map_or(1, |n| *n as usize));
    let same = launch(family, words, defines, Pass::Bias).defines;
    let same = same.into_iter().filter(|(name, _)| ["HEAD", "WIDTH", "DROPOUT"].contains(name));
    let spread = same.fold(spread, |all, (name, value)| all.with(name, value));
    spread.iterations((rows * each) as u64)
}
