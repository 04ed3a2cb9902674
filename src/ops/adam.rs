//! Adam over flat arenas, with gradient zeroing and an optional global-norm clip folded in.

use super::random;
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, MAX_GROUPS, grid};
use crate::tape::{Tape, Var};

/// One optimiser step; see `shaders/adam.wgsl`.
pub static ADAM: Kernel = Kernel {
    name: "adam",
    source: include_str!("../../shaders/adam.wgsl"),
    bindings: &[
        Binding::write("VALUE").updated(),
        Binding::write("GRAD").updated(),
        Binding::write("M").updated(),
        Binding::write("V").updated(),
        Binding::read("NORM").or_none(),
    ],
    step: true,
    launch: |family, words, _| {
        // Invocations and quads of a workgroup.
        let (wg, share) = match family {
            Family::Tiled => (64, 64),
            Family::Wide(lanes) => (lanes, 1024),
            Family::Plain => (8, 1024),
        };
        Launch::of(grid(words[0] as usize / 4, share as usize))
            .with("WG", wg)
            .with("SHARE", share)
            .long()
            .iterations(u64::from(share / wg) + 8)
    },
    twin: reference::adam,
    cases: || {
        // The last has two workgroups of the wide family, and a group's end in the second.
        let list = [(4, false), (1000, false), (516, true), (9000, false)];
        list.into_iter().map(|(n, clip)| adam_case(n, clip)).chain([vanishing()]).collect()
    },
};

/// Squared norms; see `shaders/square_sum.wgsl`.
pub static SQUARE_SUM: Kernel = Kernel {
    name: "square_sum",
    source: include_str!("../../shaders/square_sum.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::write("PART").part(|p, defines, _| match defines.contains_key("FOLD") {
            true => [0, 1],
            false => [0, u64::from((p[0] / 4).div_ceil(p[1]))],
        }),
    ],
    step: false,
    launch: |family, words, defines| {
        if defines.contains_key("FOLD") {
            return Launch::of([1, 1, 1]);
        }
        let wg = if family.tiled() { 64 } else { 1 };
        Launch::of([(words[0] / 4).div_ceil(words[1]), 1, 1]).with("WG", wg)
    },
    twin: reference::square_sum,
    cases: || {
        let f = |s, len| Some(CaseArg::F(random(s, len)));
        vec![
            Case::new("4", vec![4, 256, 0], vec![f(1, 4), f(2, 1)]),
            Case::new("5000", vec![5000, 256, 2], vec![f(1, 5000), f(2, 7)]).within(1e-4),
            Case::new("fold", vec![37, 0, 0], vec![f(1, 37), f(2, 1)]).define("FOLD", 1),
        ]
    },
};

/// β₁, β₂, ε: torch's defaults, which the method keeps.
const BETAS: (f64, f64, f64) = (0.9, 0.999, 1e-8);
/// Quads that one workgroup of the norm sums.
const CHUNK: usize = 2048;

/// A flat arena of parameters as tensors on a tape, all of one length.
#[derive(Clone, Copy, Debug)]
pub struct ArenaVars {
    /// Values.
    pub value: Var,
    /// Accumulated gradients; zero after the step.
    pub grad: Var,
    /// First moments.
    pub m: Var,
    /// Second moments.
    pub v: Var,
    /// Element at which each parameter group ends; learning rates and decays are the step's.
    pub ends: [u32; MAX_GROUPS],
}

impl Tape {
    /// One step of torch's Adam (L2 decay, bias correction by the step uniforms), one dispatch an
    /// arena. `max_norm` clips the global gradient norm first, without reading it back.
    pub fn adam(&mut self, arenas: &[ArenaVars], max_norm: Option<f32>) {
        let norm = max_norm.map(|_| {
            let parts: Vec<usize> =
                arenas.iter().map(|a| (self.len(a.grad) / 4).div_ceil(CHUNK)).collect();
            let part = self.output("norm.parts", &[parts.iter().sum()], &[]);
            let norm = self.output("norm", &[1], &[]);
            let mut first = 0;
            for (arena, count) in arenas.iter().zip(&parts) {
                let n = self.len(arena.grad);
                let words = [n, CHUNK, first].map(|w| w as u32).to_vec();
                let args = [Some(arena.grad), Some(part)];
                self.call(&SQUARE_SUM, &args, words, Defines::new(), 2 * n as u64);
                first += count;
            }
            let fold = Defines::from([("FOLD", 1)]);
            let words = vec![first as u32, 0, 0];
            self.call(&SQUARE_SUM, &[Some(part), Some(norm)], words, fold, first as u64);
            norm
        });
        for arena in arenas {
            let n = self.len(arena.value);
            let words = words(n, max_norm.unwrap_or(0.0), arena.ends);
            let args = [Some(arena.value), Some(arena.grad), Some(arena.m), Some(arena.v), norm];
            self.call(&ADAM, &args, words, Defines::new(), 14 * n as u64);
        }
    }
}

/// `P`: 1 − β is rounded once, after the subtraction.
fn words(n: usize, max_norm: f32, ends: [u32; MAX_GROUPS]) -> Vec<u32> {
    let (beta1, beta2, eps) = BETAS;
    let mut words = vec![n as u32, max_norm.to_bits()];
    words.extend([beta1, beta2, eps, 1.0 - beta1, 1.0 - beta2].map(|v| (v as f32).to_bits()));
    words.push(0);
    words.extend(ends);
    words
}

fn adam_case(n: usize, clip: bool) -> Case {
    let f = |s, len| Some(CaseArg::F(random(s, len)));
    let v = Some(CaseArg::F(random(4, n).iter().map(|x| x.abs() * 0.1).collect()));
    let n32 = n as u32;
    let words = words(n, 0.5, [n32 / 2 / 4 * 4, n32, n32, n32, n32, n32, n32, n32]);
    let norm = clip.then(|| CaseArg::F(vec![9.0]));
    Case::new(format!("{n}, clip {clip}"), words, vec![f(1, n), f(2, n), f(3, n), v, norm])
}

/// Numbers so small that they count as zero, beside some that do not: every pair of a gradient and
/// a moment.
fn vanishing() -> Case {
    let sizes = [0.0, 1e-38, 3e-31, 4e-18, 2e-16, 1e-3];
    let all: Vec<f32> = sizes.iter().flat_map(|s| [*s, -s]).collect();
    let pairs = || all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
    let n = all.len() * all.len();
    let grad = pairs().map(|(_, g)| g).collect();
    let m = pairs().map(|(m, _)| m).collect();
    let v = pairs().map(|(m, _)| m.abs()).collect();
    let [value, grad, m, v] = [vec![0.0; n], grad, m, v].map(|values| Some(CaseArg::F(values)));
    let words = words(n, 0.0, [n as u32; MAX_GROUPS]);
    Case::new("vanishing", words, vec![value, grad, m, v, None])
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// `x`, or zero where it is not above `least`.
    fn above(x: f32, least: f32) -> f32 {
        if x.abs() <= least { 0.0 } else { x }
    }

    /// Torch's Adam, element by element.
    pub fn adam(t: &mut Twin) {
        let n = t.size(0);
        let [max_norm, beta1, beta2, eps, rest1, rest2] = [1, 2, 3, 4, 5, 6].map(|i| t.float(i));
        let ends: Vec<usize> = (8..16).map(|i| t.size(i)).collect();
        let mut scale = t.step.grad_scale;
        if t.has(4) {
            let shrink = max_norm / (scale * t.read(4)[0].sqrt() + 1e-6);
            scale *= if shrink > 1.0 { 1.0 } else { shrink };
        }
        for i in 0..n {
            let group = ends.iter().position(|end| i < *end).unwrap_or(0);
            let (lr, decay) = (t.step.lr[group], t.step.decay[group]);
            let (bias1, bias2) = (t.step.bias1, t.step.bias2);
            let g = above(scale * t.write(1)[i] + decay * t.write(0)[i], 1e-17);
            let m = above(beta1 * t.write(2)[i] + rest1 * g, 1e-30);
            let v = above(beta2 * t.write(3)[i] + rest2 * g * g, 1e-30);
            t.write(0)[i] -= lr / bias1 * m / (v.sqrt() / bias2.sqrt() + eps);
            t.write(1)[i] = 0.0;
            t.write(2)[i] = m;
            t.write(3)[i] = v;
        }
    }

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
