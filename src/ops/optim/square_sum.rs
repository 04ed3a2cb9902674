//! The squared norm of all gradients.

use crate::ops::{arg, sizes};
use crate::plan::{Binding, Case, Kernel, Launch};

/// Quads that one workgroup of the norm sums.
pub(super) const CHUNK: usize = 2048;

/// Squared norms; see `shaders/square_sum.wgsl`.
pub static SQUARE_SUM: Kernel = Kernel {
    name: "square_sum",
    source: include_str!("../../../shaders/square_sum.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::write("PART").part(|p, defines, _| match defines.contains_key("FOLD") {
            true => [0, 1],
            false => [0, u64::from((p[0] / 4).div_ceil(p[1]))],
        }),
    ],
    step: false,
    launch: |family, words, defines| {
        let wg = if family.tiled() { 64 } else { 1 };
        let groups = match defines.contains_key("FOLD") {
            true => 1,
            false => (words[0] / 4).div_ceil(words[1]).max(1),
        };
        Launch::of([groups, 1, 1]).with("WG", wg)
    },
    twin: reference::square_sum,
    cases: || {
        let fold = |n| {
            let case = Case::new(format!("fold {n}"), words(n, 0, 0), vec![arg(1, n), arg(2, 1)]);
            case.define("FOLD", 1)
        };
        vec![
            Case::new("4", words(4, 256, 0), vec![arg(1, 4), arg(2, 1)]),
            Case::new("5000", words(5000, 256, 2), vec![arg(1, 5000), arg(2, 7)]).within(1e-4),
            fold(37),
            fold(1000).within(1e-4),
        ]
    },
};

/// `P`: elements, quads of a workgroup, and the part that the first one writes.
pub(super) fn words(n: usize, chunk: usize, first: usize) -> Vec<u32> {
    sizes(&[n, chunk, first, 0])
}

/// The CPU twin.
pub mod reference {
    use crate::plan::Twin;

    /// Sums of squares by chunk, or the sum of the parts.
    pub fn square_sum(t: &mut Twin) {
        let (n, chunk, first) = (t.size(0), t.size(1), t.size(2));
        let x = t.read(0);
        if t.is("FOLD") {
            t.write(1)[0] = x[..n].iter().sum();
            return;
        }
        for (part, share) in x[..n].chunks(chunk * 4).enumerate() {
            t.write(1)[first + part] = share.iter().map(|v| v * v).sum();
        }
    }
}
