//! Several features of different widths brought to one width at once: `y_f = x_f w_fᵀ`, without
//! biases. With `g_f` the gradient of `y_f`,
//!
//! ```text
//! ∂L/∂w_f = g_fᵀ x_f        ∂L/∂x_f = g_f w_f
//! ```
//!
//! One dispatch forward, one for all weights, one for all inputs that want a gradient. The weights
//! are bound once, as one span of the buffer that they share, and so are their gradients.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::ops::Act;
use crate::plan::{Binding, Case, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// The features; see `shaders/project.wgsl`.
pub static PROJECT: Kernel = Kernel {
    name: "project",
    source: include_str!("../../shaders/project.wgsl"),
    bindings: &[
        Binding::read("X0"),
        Binding::read("X1").or_none(),
        Binding::read("X2").or_none(),
        Binding::read("X3").or_none(),
        Binding::read("W").part(|p, _, _| [weights(p), 0]),
        Binding::write("Y"),
    ],
    step: false,
    launch: |family, words, defines| {
        let (n, d) = (words[0], words[1]);
        let features = defines.get("FEATURES").copied().unwrap_or(1);
        let cols = [0, 1, 2, 3].map(|z| if z < features { d } else { 0 });
        let longest = words[4..8].iter().copied().max().unwrap_or(0);
        let launch = match family {
            Family::Wide(lanes) if by_fours(words) => {
                Launch::of([cols.iter().map(|c| c.div_ceil(8)).sum(), n.div_ceil(lanes), 1])
                    .with("LANES", lanes)
            }
            _ => group(family, n, cols),
        };
        launch.with("TB", 1).iterations(u64::from(longest))
    },
    twin: reference::project,
    cases: || cases::all(cases::Of::Project),
};

/// The gradients of the weights; see `shaders/project_dw.wgsl`.
pub static PROJECT_DW: Kernel = Kernel {
    name: "project_dw",
    source: include_str!("../../shaders/project_dw.wgsl"),
    bindings: &[
        Binding::read("DY"),
        Binding::read("X0"),
        Binding::read("X1").or_none(),
        Binding::read("X2").or_none(),
        Binding::read("X3").or_none(),
        Binding::write("DW").part(|p, _, _| [weights(p); 2]),
    ],
    step: false,
    launch: |family, words, _| {
        grad_launch(family, words, words[1]).with("TA", 1).iterations(u64::from(words[0]))
    },
    twin: reference::weights,
    cases: || cases::all(cases::Of::Weights),
};

/// The gradients of the inputs; see `shaders/project_dx.wgsl`.
pub static PROJECT_DX: Kernel = Kernel {
    name: "project_dx",
    source: include_str!("../../shaders/project_dx.wgsl"),
    bindings: &[
        Binding::read("DY"),
        Binding::read("W"),
        Binding::write("D0").or_none().adds_bit(2, 0),
        Binding::write("D1").or_none().adds_bit(2, 1),
        Binding::write("D2").or_none().adds_bit(2, 2),
        Binding::write("D3").or_none().adds_bit(2, 3),
    ],
    step: false,
    launch: |family, words, _| grad_launch(family, words, words[0]).iterations(u64::from(words[1])),
    twin: reference::inputs,
    cases: || cases::all(cases::Of::Inputs),
};

/// Inputs of one dispatch.
const MOST: usize = 4;

/// Elements of all weights.
fn weights(words: &[u32]) -> u64 {
    words[4..8].iter().map(|width| u64::from(*width) * u64::from(words[1])).sum()
}

/// Whether all features can be read by vectors of four.
fn by_fours(words: &[u32]) -> bool {
    words[4..12].iter().all(|w| w % 4 == 0)
}

/// The launch of a kernel that imports `shared/group.wgsl`, but for its wide family.
fn group(family: Family, rows: u32, cols: [u32; MOST]) -> Launch {
    let tiles = |wide: u32| cols.iter().map(|c| c.div_ceil(wide)).sum::<u32>();
    if family.tiled() {
        return Launch::of([tiles(16), rows.div_ceil(16), 1]).with("TILED", 1);
    }
    Launch::of(grid(rows as usize * tiles(4) as usize, 64))
}

fn grad_launch(family: Family, words: &[u32], rows: u32) -> Launch {
    let cols = [4, 5, 6, 7].map(|i| words[i]);
    match family {
        Family::Wide(lanes) if by_fours(words) => {
            let tiles = cols.iter().map(|c| c.div_ceil(4 * lanes)).sum();
            Launch::of([tiles, rows.div_ceil(8), 1]).with("LANES", lanes)
        }
        _ => group(family, rows, cols),
    }
}

/// `P` of the three kernels: `widths` are 0 for what is left out.
fn words(n: usize, d: usize, accumulate: u32, widths: &[usize], at: &[u32]) -> Vec<u32> {
    let mut words = vec![n as u32, d as u32, accumulate, 0];
    words.extend(sizes(widths));
    words.resize(4 + MOST, 0);
    words.extend(at);
    words.resize(4 + 2 * MOST, 0);
    words
}

impl Tape {
    /// One to four inputs `x_f [n, k_f]`, each by its weight `w_f [d, k_f]` brought to `d` columns:
    /// `y_f = x_f · w_fᵀ`, stacked, `[inputs, n, d]`.
    ///
    /// One dispatch forward, two backward (one where no input wants a gradient), provided that the
    /// weights, and the gradients of those that have one, lie in one buffer each, as those of
    /// [`Params`](crate::nn::Params) do, and that no weight and no input that wants a gradient
    /// comes twice. Otherwise each is a [`linear`](Self::linear) of its own.
    ///
    /// # Errors
    /// Sizes that do not fit, no input or more than four.
    pub fn project(&mut self, inputs: &[(Var, Var)]) -> Result<Var> {
        let shapes = |tape: &Tape| -> Vec<String> {
            let shape = |v: Var| tape.shape(v).to_vec();
            inputs.iter().map(|(x, w)| format!("{:?} by {:?}", shape(*x), shape(*w))).collect()
        };
        let Some(&(x, w)) = inputs.first().filter(|_| inputs.len() <= MOST) else {
            return Err(Error::shape(
                "project",
                format!("{} inputs: want 1 to {MOST}", inputs.len()),
            ));
        };
        let ((n, _), (d, _)) = (self.rows_cols(x), self.rows_cols(w));
        let fits = |(x, w): &(Var, Var)| {
            let ((rows, k), (outs, k2)) = (self.rows_cols(*x), self.rows_cols(*w));
            (rows, outs) == (n, d) && k == k2 && k * d > 0
        };
        if !inputs.iter().all(fits) {
            let detail = format!(
                "{}: want [n, k] by [d, k] with the same n and d for all",
                shapes(self).join(", ")
            );
            return Err(Error::shape("project", detail));
        }
        let Some(spans) = self.spans(inputs) else { return self.project_apart(inputs) };
        let widths: Vec<usize> = inputs.iter().map(|(x, _)| self.rows_cols(*x).1).collect();
        let total: usize = widths.iter().sum();
        let flops = 2 * (n * d * total) as u64;
        let all: Vec<Var> = inputs.iter().flat_map(|(x, w)| [*x, *w]).collect();
        let y = self.output("project", &[inputs.len(), n, d], &all);
        let slots = |list: &[Option<Var>]| -> [Option<Var>; MOST] {
            std::array::from_fn(|i| list.get(i).copied().flatten())
        };
        let given: Vec<Option<Var>> = inputs.iter().map(|(x, _)| Some(*x)).collect();
        let [x0, x1, x2, x3] = slots(&given);
        let defines = Defines::from([("FEATURES", inputs.len() as u32)]);
        let (w, w_at) = spans.weights;
        let args = [x0, x1, x2, x3, Some(w), Some(y)];
        self.call(&PROJECT, &args, words(n, d, 0, &widths, &w_at), defines.clone(), flops);

        let inputs = inputs.to_vec();
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            // What is not wanted has no columns.
            let sinks = |tape: &mut Tape, list: Vec<Var>| {
                let sinks: Vec<_> = list.into_iter().map(|v| tape.sink(v)).collect();
                let bits = sinks.iter().enumerate();
                let bits = bits.map(|(f, s)| s.map_or(0, |s| s.accumulate << f)).sum::<u32>();
                let on = sinks.iter().zip(&widths);
                let on: Vec<usize> = on.map(|(s, k)| if s.is_some() { *k } else { 0 }).collect();
                let flops = 2 * (n * d * on.iter().sum::<usize>()) as u64;
                (sinks.iter().map(|s| s.map(|s| s.var)).collect::<Vec<_>>(), bits, on, flops)
            };
            if let Some((dw, at)) = &spans.gradients {
                let (_, bits, on, flops) = sinks(tape, inputs.iter().map(|(_, w)| *w).collect());
                let args = [Some(dy), x0, x1, x2, x3, Some(*dw)];
                tape.call(&PROJECT_DW, &args, words(n, d, bits, &on, at), defines.clone(), flops);
            }
            let (vars, bits, on, flops) = sinks(tape, inputs.iter().map(|(x, _)| *x).collect());
            if vars.iter().any(Option::is_some) {
                let [d0, d1, d2, d3] = slots(&vars);
                let args = [Some(dy), Some(w), d0, d1, d2, d3];
                let words = words(n, d, bits, &on, &w_at);
                tape.call(&PROJECT_DX, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(y)
    }

    /// All weights as one tensor and all their gradients as one; `None` where they cannot be had so.
    fn spans(&mut self, inputs: &[(Var, Var)]) -> Option<Spans> {
        let again = |list: &[Var], v: Var| list.iter().any(|l| self.same(*l, v));
        let twice = |list: Vec<Var>| (1..list.len()).any(|i| again(&list[..i], list[i]));
        let trained = |tape: &Tape, v: &Var| tape.wants_grad(*v);
        let weights: Vec<Var> = inputs.iter().map(|(_, w)| *w).collect();
        let xs = inputs.iter().map(|(x, _)| *x).filter(|x| trained(self, x)).collect();
        if twice(weights.clone()) || twice(xs) {
            return None;
        }
        // A weight that has no gradient yet is no parameter, and its gradient is anywhere.
        let wanted: Vec<(usize, Var)> =
            weights.iter().copied().enumerate().filter(|(_, w)| trained(self, w)).collect();
        let grads = wanted.iter().map(|(_, w)| self.grad(*w)).collect::<Option<Vec<Var>>>()?;
        let gradients = if grads.is_empty() {
            None
        } else {
            let (span, starts) = self.cover(&grads)?;
            let mut at = vec![0; weights.len()];
            wanted.iter().zip(starts).for_each(|((f, _), start)| at[*f] = start);
            Some((span, at))
        };
        Some(Spans { weights: self.cover(&weights)?, gradients })
    }

    /// The same, one by one.
    fn project_apart(&mut self, inputs: &[(Var, Var)]) -> Result<Var> {
        let parts: Vec<Var> = inputs
            .iter()
            .map(|(x, w)| self.linear(*x, *w, None, Act::None))
            .collect::<Result<_>>()?;
        let (n, d) = self.rows_cols(parts[0]);
        let y = if parts.len() == 1 { parts[0] } else { self.stack(&parts, &parts) };
        self.reshape(y, &[parts.len(), n, d])
    }
}

/// One tensor over many, and the word of it where each begins.
type Span = (Var, Vec<u32>);

struct Spans {
    weights: Span,
    /// Where any weight wants one.
    gradients: Option<Span>,
}

mod cases {
    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    pub(super) enum Of {
        Project,
        Weights,
        Inputs,
    }

    pub(super) fn all(of: Of) -> Vec<Case> {
        // n, d, widths, those that want a gradient, accumulate bits.
        let list: [(usize, usize, &[usize], u32, u32); 8] = [
            (1, 1, &[1], 0b1, 0b1),
            (3, 5, &[7, 2], 0b11, 0b01),
            (16, 16, &[64, 16, 32], 0b110, 0b110),
            (16, 16, &[68, 4, 16], 0b111, 0b111),
            (17, 15, &[12, 40, 8], 0b101, 0b100),
            (15, 17, &[16, 15, 33, 17], 0b1111, 0b1010),
            (33, 20, &[4, 132, 36, 8], 0b1001, 0b0001),
            (9, 8, &[128, 64], 0b01, 0b01),
        ];
        list.into_iter()
            .map(|(n, d, widths, wanted, accumulate)| {
                let m = widths.len();
                let is = |f: usize| of == Of::Project || wanted >> f & 1 == 1;
                // Weights lie apart, and not in order.
                let (mut at, mut end) = (vec![0; m], 0);
                for f in (0..m).rev() {
                    at[f] = end as u32;
                    end = (end + d * widths[f] + 4).next_multiple_of(4);
                }
                let on: Vec<usize> = (0..m).map(|f| if is(f) { widths[f] } else { 0 }).collect();
                let x = |f: usize| widths.get(f).and_then(|k| arg(f as u64, n * k));
                let dx =
                    |f: usize| if f < m && is(f) { arg(f as u64, n * widths[f]) } else { None };
                let args = match of {
                    Of::Project => vec![x(0), x(1), x(2), x(3), arg(5, end), arg(6, m * n * d)],
                    Of::Weights => vec![arg(6, m * n * d), x(0), x(1), x(2), x(3), arg(5, end)],
                    Of::Inputs => {
                        vec![arg(6, m * n * d), arg(5, end), dx(0), dx(1), dx(2), dx(3)]
                    }
                };
                let case = Case::new(
                    format!("{n} x {widths:?} to {d}, {wanted:b}"),
                    words(n, d, accumulate, &on, &at),
                    args,
                )
                .within(2e-5)
                .flops(2 * (n * d * on.iter().sum::<usize>()) as u64);
                if of == Of::Inputs { case } else { case.define("FEATURES", m as u32) }
            })
            .collect()
    }
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;
    use crate::plan::Twin;

    /// Rows, outputs, and of each feature its number, width and the word where its weight begins.
    fn features(t: &Twin) -> (usize, usize, Vec<(usize, usize, usize)>) {
        let of = |f: usize| (f, t.size(4 + f), t.size(4 + MOST + f));
        (t.size(0), t.size(1), (0..MOST).map(of).filter(|f| f.1 > 0).collect())
    }

    /// Every feature by its weight.
    pub fn project(t: &mut Twin) {
        let (n, d, list) = features(t);
        let w = t.read(4);
        for (f, k, at) in list {
            let x = t.read(f);
            for i in 0..n {
                for j in 0..d {
                    let sum = (0..k).map(|l| x[i * k + l] * w[at + j * k + l]).sum();
                    t.write(5)[(f * n + i) * d + j] = sum;
                }
            }
        }
    }

    /// Gradients of the weights.
    pub fn weights(t: &mut Twin) {
        let (n, d, list) = features(t);
        let (dy, accumulate) = (t.read(0), t.size(2));
        for (f, k, at) in list {
            let x = t.read(1 + f);
            for j in 0..d {
                for l in 0..k {
                    let sum = (0..n).map(|i| dy[(f * n + i) * d + j] * x[i * k + l]).sum();
                    put(&mut t.write(5)[at + j * k + l], sum, accumulate >> f & 1);
                }
            }
        }
    }

    /// Gradients of the inputs.
    pub fn inputs(t: &mut Twin) {
        let (n, d, list) = features(t);
        let (dy, w, accumulate) = (t.read(0), t.read(1), t.size(2));
        for (f, k, at) in list {
            for i in 0..n {
                for l in 0..k {
                    let sum = (0..d).map(|j| dy[(f * n + i) * d + j] * w[at + j * k + l]).sum();
                    put(&mut t.write(2 + f)[i * k + l], sum, accumulate >> f & 1);
                }
            }
        }
    }
}
