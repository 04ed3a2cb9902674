//! LSTM layers over whole sequences with lengths, as PyTorch's packed LSTM computes them.
//!
//! The input projection of all steps is one matmul, the recurrence one dispatch forward and one
//! backward, and the weight gradients are two matmuls that carry the bias gradients with them.

use super::matmul::{Product, linear_weight_grad, product};
use super::random;
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch};
use crate::tape::{Tape, Var};

/// The recurrence; see `shaders/lstm_forward.wgsl`.
pub static FORWARD: Kernel = Kernel {
    name: "lstm_forward",
    source: include_str!("../../shaders/lstm_forward.wgsl"),
    bindings: &[
        Binding::write("GATES").updated(),
        Binding::read("W"),
        Binding::read("BIAS"),
        Binding::read("LENGTHS"),
        Binding::write("CELL"),
        Binding::write("PREV"),
        // A direction owns its columns of both.
        Binding::write("Y").or_none().part(|p, _, len| [0, share(p, 4, len)]),
        Binding::write("LAST").or_none().part(|p, _, len| [0, share(p, 6, len)]),
    ],
    step: false,
    launch: |family, words, _| launch(family, words, true),
    twin: reference::forward,
    cases: || cases(false),
};

/// Its gradient; see `shaders/lstm_backward.wgsl`.
pub static BACKWARD: Kernel = Kernel {
    name: "lstm_backward",
    source: include_str!("../../shaders/lstm_backward.wgsl"),
    bindings: &[
        Binding::write("GATES").updated(),
        Binding::read("W"),
        Binding::read("LENGTHS"),
        Binding::read("CELL"),
        Binding::read("DY").or_none().part(|p, _, len| [share(p, 4, len), 0]),
        Binding::read("DLAST").or_none().part(|p, _, len| [share(p, 6, len), 0]),
        Binding::write("STATE"),
    ],
    step: false,
    launch: |family, words, _| launch(family, words, false),
    twin: reference::backward,
    cases: || cases(true),
};

/// Hidden sizes up to this one fit a workgroup.
pub const MAX_HIDDEN: usize = 256;

/// What a direction has of `len` words whose rows are word `width` of `P` wide.
fn share(words: &[u32], width: usize, len: u64) -> u64 {
    len * u64::from(words[2]) / u64::from(words[width].max(1))
}

fn launch(family: Family, words: &[u32], forward: bool) -> Launch {
    let (batch, steps, hidden) = (words[0], words[1], words[2]);
    let lanes = family.lanes();
    // The wide forward keeps h in registers and is unrolled over it: beyond 64 units its code
    // grows past what a just-in-time compiler turns around quickly.
    let by_fours = [hidden, words[4], words[5], words[6], words[7]].iter().all(|w| w % 4 == 0);
    let (launch, a_step) = if lanes > 0 && by_fours && hidden <= if forward { 64 } else { 256 } {
        let quads = hidden / 4;
        let a_step = if forward { quads } else { quads + quads.div_ceil(4) * (hidden + 1) };
        let launch = Launch::of([batch.div_ceil(lanes), 1, 1]).with("LANES", lanes);
        (launch.with("HID", hidden), a_step + 1)
    } else if family.tiled() {
        let wg = (4 * hidden).next_multiple_of(64).min(256);
        let launch = Launch::of([batch, 1, 1]).with("TILED", 1).with("WG", wg);
        let rows = (4 * hidden).div_ceil(wg);
        if forward && hidden <= 64 {
            (launch.with("HID", hidden), 1)
        } else if forward {
            (launch, rows * (hidden + 1) + 1)
        } else {
            (launch, (4 * hidden).div_ceil(wg / hidden) + wg / hidden + 1)
        }
    } else {
        let a_step = if forward { hidden * (hidden + 1) } else { hidden * (4 * hidden + 2) };
        (Launch::of([batch.div_ceil(8), 1, 1]), a_step + 1)
    };
    launch.iterations(u64::from(steps) * u64::from(a_step.max(hidden))).rounds(u64::from(steps))
}

/// Parameters of one direction of one layer, under PyTorch's names and shapes:
/// `weight_ih [4H, D]`, `weight_hh [4H, H]`, `bias_ih [4H]`, `bias_hh [4H]`.
#[derive(Clone, Copy, Debug)]
pub struct LstmWeights {
    /// Input to gates.
    pub weight_ih: Var,
    /// State to gates.
    pub weight_hh: Var,
    /// Added with the input.
    pub bias_ih: Var,
    /// Added with the state.
    pub bias_hh: Var,
}

/// What an LSTM gives back.
#[derive(Clone, Copy, Debug)]
pub struct Lstm {
    /// `[batch, directions · H]`: h after each sample's last true step (backwards: its first).
    pub last: Var,
    /// `[batch, steps, directions · H]`, zero beyond each length, where asked for.
    pub sequence: Option<Var>,
}

impl Tape {
    /// An LSTM over `x [batch, steps, D]` with `lengths [batch]` (u32, 1 to steps).
    /// `layers[l]` holds one set of weights, or two for a bidirectional layer (forward, reverse).
    /// `dropout` acts between layers.
    ///
    /// # Errors
    /// Shapes that do not fit, a hidden size beyond 256, no layer.
    pub fn lstm(
        &mut self,
        x: Var,
        lengths: Var,
        layers: &[Vec<LstmWeights>],
        dropout: f32,
        sequence: bool,
    ) -> Result<Lstm> {
        let mut input = x;
        let mut result = None;
        for (l, directions) in layers.iter().enumerate() {
            let top = l + 1 == layers.len();
            let layer = self.lstm_layer(input, lengths, directions, !top || sequence, top)?;
            if let (false, Some(y)) = (top, layer.0) {
                input = if dropout > 0.0 { self.dropout(y, dropout)? } else { y };
            }
            result = Some(layer);
        }
        match result {
            Some((sequence, Some(last))) => Ok(Lstm { last, sequence }),
            _ => Err(Error::shape("lstm", "no layer")),
        }
    }

    fn lstm_layer(
        &mut self,
        x: Var,
        lengths: Var,
        directions: &[LstmWeights],
        sequence: bool,
        top: bool,
    ) -> Result<(Option<Var>, Option<Var>)> {
        let shape = self.shape(x).to_vec();
        let [batch, steps, width] = shape[..] else {
            return Err(Error::shape("lstm", format!("input {shape:?}, want [batch, steps, D]")));
        };
        let first =
            directions.first().ok_or_else(|| Error::shape("lstm", "a layer without weights"))?;
        let hidden = self.rows_cols(first.weight_hh).1;
        if hidden > MAX_HIDDEN || directions.len() > 2 || self.len(lengths) != batch {
            let detail = format!(
                "hidden {hidden} (at most {MAX_HIDDEN}), {} directions (at most 2), {} lengths \
                 for a batch of {batch}",
                directions.len(),
                self.len(lengths)
            );
            return Err(Error::shape("lstm", detail));
        }
        let mut inputs = vec![x];
        for w in directions {
            let found = [w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh].map(|v| {
                inputs.push(v);
                self.shape(v).to_vec()
            });
            let wanted = [
                vec![4 * hidden, width],
                vec![4 * hidden, hidden],
                vec![4 * hidden],
                vec![4 * hidden],
            ];
            if found != wanted {
                let detail = format!(
                    "weights {found:?}, want {wanted:?} for input {shape:?} and hidden {hidden}"
                );
                return Err(Error::shape("lstm", detail));
            }
        }
        let across = directions.len() * hidden;
        let y = sequence.then(|| self.output("lstm.y", &[batch, steps, across], &inputs));
        let last = top.then(|| self.output("lstm.last", &[batch, across], &inputs));
        for (direction, weights) in directions.iter().enumerate() {
            self.lstm_direction(x, lengths, *weights, (y, last), (hidden, across, direction));
        }
        Ok((y, last))
    }

    fn lstm_direction(
        &mut self,
        x: Var,
        lengths: Var,
        w: LstmWeights,
        (y, last): (Option<Var>, Option<Var>),
        (hidden, across, direction): (usize, usize, usize),
    ) {
        let [batch, steps, width] = [0, 1, 2].map(|i| self.shape(x)[i]);
        let rows = batch * steps;
        let gates = self.output("lstm.gates", &[batch, steps, 4 * hidden], &[]);
        let cell = self.output("lstm.cell", &[batch, steps, hidden], &[]);
        let prev = self.output("lstm.prev", &[batch, steps, hidden], &[]);
        let projection = Product {
            m: rows,
            n: 4 * hidden,
            k: width,
            tb: true,
            bias: Some(w.bias_ih),
            ..Default::default()
        };
        product(self, x, w.weight_ih, gates, projection);
        let at = direction * hidden;
        let words = [batch, steps, hidden, direction, across, at, across, at];
        let words: Vec<u32> = words.iter().map(|w| *w as u32).collect();
        // W h of four gates, then a step's sums, products and activations unit by unit.
        let flops = (rows * hidden * (8 * hidden + 17)) as u64;
        let args = [
            Some(gates),
            Some(w.weight_hh),
            Some(w.bias_hh),
            Some(lengths),
            Some(cell),
            Some(prev),
            y,
            last,
        ];
        self.call(&FORWARD, &args, words.clone(), Defines::new(), flops);

        let outputs: Vec<Var> = [y, last].into_iter().flatten().collect();
        self.on_backward(&outputs, move |tape| {
            let state = tape.output("lstm.state", &[batch, 2 * hidden], &[]);
            let dy = y.and_then(|y| tape.grad(y));
            let dlast = last.and_then(|l| tape.grad(l));
            let args =
                [Some(gates), Some(w.weight_hh), Some(lengths), Some(cell), dy, dlast, Some(state)];
            let flops = (rows * hidden * (8 * hidden + 25)) as u64;
            tape.call(&BACKWARD, &args, words, Defines::new(), flops);
            if let Some(dx) = tape.sink(x) {
                let p = Product {
                    m: rows,
                    n: width,
                    k: 4 * hidden,
                    accumulate: dx.accumulate,
                    ..Default::default()
                };
                product(tape, gates, w.weight_ih, dx.var, p);
            }
            let (ih, hh) = ((rows, 4 * hidden, width), (rows, 4 * hidden, hidden));
            linear_weight_grad(tape, gates, x, ih, None, w.weight_ih, Some(w.bias_ih));
            linear_weight_grad(tape, gates, prev, hh, None, w.weight_hh, Some(w.bias_hh));
            Ok(())
        });
    }
}

fn cases(backward: bool) -> Vec<Case> {
    let shapes = [
        (1, 1, 1, 0, 3),
        (3, 5, 5, 1, 1),
        (9, 7, 16, 0, 2),
        (17, 6, 20, 1, 3),
        (8, 12, 32, 0, 3),
        (2, 3, 64, 1, 2),
        (3, 4, 100, 0, 3),
        (2, 2, 256, 0, 2),
    ];
    shapes
        .into_iter()
        .enumerate()
        .map(|(seed, (batch, steps, hidden, reverse, outputs))| {
            let f = |s: u64, len: usize, scale: f32| {
                let values = random(seed as u64 * 16 + s, len);
                Some(CaseArg::F(values.into_iter().map(|v| v * scale).collect()))
            };
            let lengths = (0..batch as u32).map(|b| (b * 5 + 2) % steps as u32 + 1).collect();
            let lengths = Some(CaseArg::U(lengths));
            let scale = 1.0 / (hidden as f32).sqrt();
            let cells = batch * steps * hidden;
            // Odd places send a case to the plain kernel, so the wide one has even places.
            let (ldy, y_at) = if hidden % 4 == 0 { (hidden + 8, 4) } else { (hidden + 3, 2) };
            let words = [batch, steps, hidden, reverse, ldy, y_at, ldy, y_at];
            let words = words.map(|w| w as u32).to_vec();
            let w = f(1, 4 * hidden * hidden, scale);
            let y = (outputs & 1 != 0).then(|| f(2, batch * steps * ldy, 1.0)).flatten();
            let last = (outputs & 2 != 0).then(|| f(3, batch * ldy, 1.0)).flatten();
            let args = if backward {
                // Gates as a forward pass leaves them: within (0, 1), and g within (-1, 1).
                let gates = random(seed as u64 + 77, 4 * cells)
                    .into_iter()
                    .enumerate()
                    .map(|(i, v)| if (i / hidden) % 4 == 2 { v * 0.9 } else { 0.5 + v * 0.45 });
                let gates = Some(CaseArg::F(gates.collect()));
                vec![gates, w, lengths, f(5, cells, 1.5), y, last, f(6, batch * 2 * hidden, 1.0)]
            } else {
                let gates = f(4, 4 * cells, 1.5);
                let bias = f(5, 4 * hidden, 0.5);
                vec![gates, w, bias, lengths, f(6, cells, 1.0), f(7, cells, 1.0), y, last]
            };
            Case::new(format!("{batch}x{steps}x{hidden} reverse {reverse}"), words, args)
                .within(3e-5)
                .flops((batch * steps * 8 * hidden * hidden) as u64)
        })
        .collect()
}

/// CPU twins: one sample, one step, one unit at a time.
#[allow(clippy::needless_range_loop, reason = "loops that read like the shaders'")]
pub mod reference {
    use crate::ops::Act;
    use crate::plan::Twin;

    /// The order in which a direction visits `length` steps.
    fn visits(length: usize, reverse: bool) -> Vec<usize> {
        if reverse { (0..length).rev().collect() } else { (0..length).collect() }
    }

    /// A vanished gradient is zero, not denormal.
    fn flush(x: f32) -> f32 {
        if x.abs() > 1e-30 { x } else { 0.0 }
    }

    /// Gates, cells, hidden states.
    pub fn forward(t: &mut Twin) {
        let [batch, steps, n, reverse, ldy, y_at, ld_last, last_at] =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|i| t.size(i));
        let (z, w, bias) = (t.read(0), t.read(1), t.read(2));
        let lengths: Vec<usize> = t.words_of(3).iter().map(|l| *l as usize).collect();
        let (has_y, has_last) = (t.has(6), t.has(7));
        for b in 0..batch {
            let (mut h, mut c) = (vec![0.0; n], vec![0.0; n]);
            for step in visits(lengths[b].min(steps), reverse != 0) {
                let at = b * steps + step;
                t.write(5)[at * n..(at + 1) * n].copy_from_slice(&h);
                let pre = |gate: usize, j: usize| {
                    let row = gate * n + j;
                    let recurrent: f32 = (0..n).map(|k| w[row * n + k] * h[k]).sum();
                    z[at * 4 * n + row] + bias[row] + recurrent
                };
                let mut next = vec![0.0; n];
                for j in 0..n {
                    let i = Act::Sigmoid.apply(pre(0, j));
                    let f = Act::Sigmoid.apply(pre(1, j));
                    let g = Act::Tanh.apply(pre(2, j));
                    let o = Act::Sigmoid.apply(pre(3, j));
                    c[j] = f * c[j] + i * g;
                    next[j] = o * Act::Tanh.apply(c[j]);
                    for (gate, value) in [i, f, g, o].into_iter().enumerate() {
                        t.write(0)[at * 4 * n + gate * n + j] = value;
                    }
                    t.write(4)[at * n + j] = c[j];
                    if has_y {
                        t.write(6)[at * ldy + y_at + j] = next[j];
                    }
                }
                h = next;
            }
            if has_last {
                let at = b * ld_last + last_at;
                t.write(7)[at..at + n].copy_from_slice(&h);
            }
            for step in lengths[b].min(steps)..steps {
                let at = b * steps + step;
                t.write(5)[at * n..(at + 1) * n].fill(0.0);
                if has_y {
                    t.write(6)[at * ldy + y_at..][..n].fill(0.0);
                }
            }
        }
    }

    /// Gradients of the pre-activations.
    pub fn backward(t: &mut Twin) {
        let [batch, steps, n, reverse, ldy, y_at, ld_last, last_at] =
            [0, 1, 2, 3, 4, 5, 6, 7].map(|i| t.size(i));
        let (gates, w, cell) = (t.read(0), t.read(1), t.read(3));
        let (dy, dlast) = (t.read(4), t.read(5));
        let lengths: Vec<usize> = t.words_of(2).iter().map(|l| *l as usize).collect();
        for b in 0..batch {
            let (mut dh, mut dc) = (vec![0.0; n], vec![0.0; n]);
            let order = visits(lengths[b].min(steps), reverse != 0);
            for (s, step) in order.iter().enumerate().rev() {
                let at = b * steps + step;
                let mut dz = vec![0.0; 4 * n];
                for j in 0..n {
                    let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[at * 4 * n + gate * n + j]);
                    let c = Act::Tanh.apply(cell[at * n + j]);
                    let before = match s {
                        0 => 0.0,
                        _ => cell[(b * steps + order[s - 1]) * n + j],
                    };
                    let mut above = dh[j] + dy.get(at * ldy + y_at + j).unwrap_or(&0.0);
                    if s + 1 == order.len() {
                        above += dlast.get(b * ld_last + last_at + j).unwrap_or(&0.0);
                    }
                    above = flush(above);
                    dc[j] = flush(dc[j] + above * o * (1.0 - c * c));
                    dz[j] = dc[j] * g * i * (1.0 - i);
                    dz[n + j] = dc[j] * before * f * (1.0 - f);
                    dz[2 * n + j] = dc[j] * i * (1.0 - g * g);
                    dz[3 * n + j] = above * c * o * (1.0 - o);
                    dc[j] *= f;
                }
                for (k, d) in dh.iter_mut().enumerate() {
                    *d = (0..4 * n).map(|r| dz[r] * w[r * n + k]).sum();
                }
                t.write(0)[at * 4 * n..(at + 1) * 4 * n].copy_from_slice(&dz);
            }
            t.write(6)[b * 2 * n..][..n].copy_from_slice(&dh);
            t.write(6)[b * 2 * n + n..][..n].copy_from_slice(&dc);
            for step in lengths[b].min(steps)..steps {
                t.write(0)[(b * steps + step) * 4 * n..][..4 * n].fill(0.0);
            }
        }
    }
}
