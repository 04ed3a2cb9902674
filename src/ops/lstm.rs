//! LSTM layers over whole sequences with lengths, as PyTorch's packed LSTM computes them.
//!
//! The input projection of all steps is one matmul, and the weight gradients are two matmuls that
//! carry the bias gradients with them. The recurrences of a layer, of both directions and of every
//! LSTM that is recorded together ([`Tape::lstms`]), are one dispatch forward and one backward.

mod cases;
mod geometry;

use geometry::{each, from_above, launch, written};

use super::matmul::{Product, linear_weight_grad, product};
use super::sizes;
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Kernel};
use crate::tape::{Tape, Var};
use std::sync::atomic::{AtomicBool, Ordering};

/// The recurrences; see `shaders/lstm_forward.wgsl`.
pub static FORWARD: Kernel = Kernel {
    name: "lstm_forward",
    source: include_str!("../../shaders/lstm_forward.wgsl"),
    bindings: &[
        Binding::write("SEQ").part(|p, d, _| [each(p, |b, t, h| 4 * b * t * h), written(p, d)]),
        Binding::read("W").part(|p, _, _| [each(p, |_, _, h| 4 * h * h), 0]),
        Binding::read("BIAS").part(|p, _, _| [each(p, |_, _, h| 4 * h), 0]),
        Binding::read("LENGTHS").part(|p, _, len| [len.min(each(p, |b, _, _| b)), 0]),
    ],
    step: false,
    launch: |family, words, _| launch(family, words, true),
    twin: reference::forward,
    cases: || cases::list(false),
};

/// Their gradients; see `shaders/lstm_backward.wgsl`.
pub static BACKWARD: Kernel = Kernel {
    name: "lstm_backward",
    source: include_str!("../../shaders/lstm_backward.wgsl"),
    bindings: &[
        // Gates and cells; their gradients, and the state on the way.
        Binding::write("SEQ").part(|p, _, _| {
            [each(p, |b, t, h| 5 * b * t * h), each(p, |b, t, h| (4 * t + 2) * b * h)]
        }),
        Binding::read("W").part(|p, _, _| [each(p, |_, _, h| 4 * h * h), 0]),
        Binding::read("LENGTHS").part(|p, _, len| [len.min(each(p, |b, _, _| b)), 0]),
        Binding::read("UP0").or_none().part(|p, d, _| [from_above(p, d, 0), 0]),
        Binding::read("UP1").or_none().part(|p, d, _| [from_above(p, d, 1), 0]),
        Binding::read("UP2").or_none().part(|p, d, _| [from_above(p, d, 2), 0]),
        Binding::read("UP3").or_none().part(|p, d, _| [from_above(p, d, 3), 0]),
        Binding::read("UP4").or_none().part(|p, d, _| [from_above(p, d, 4), 0]),
    ],
    step: false,
    launch: |family, words, _| launch(family, words, false),
    twin: reference::backward,
    cases: || cases::list(true),
};

/// Hidden sizes up to this one fit a workgroup.
pub const MAX_HIDDEN: usize = 256;
/// The wide forward keeps h in registers and is unrolled over so many units at a time: with more its code
/// would grow past what a just-in-time compiler turns around quickly. The tiled one keeps a row of W.
const UNROLLED: usize = 64;
/// Recurrences of one dispatch.
const MOST: usize = 4;
/// Gradients from above that one dispatch reads.
const MOST_UP: usize = 5;
/// Words of `P` for each recurrence.
const WORDS: usize = 16;
/// Words that the recurrences of one dispatch may share: the smallest largest binding.
const MOST_WORDS: usize = (128 << 20) / 4;

const HID: [&str; MOST] = ["HID0", "HID1", "HID2", "HID3"];
const HELD: [&str; MOST] = ["HELD0", "HELD1", "HELD2", "HELD3"];
const LARGE: [&str; MOST] = ["LARGE0", "LARGE1", "LARGE2", "LARGE3"];
const Y: [&str; MOST] = ["Y0", "Y1", "Y2", "Y3"];
const LAST: [&str; MOST] = ["LAST0", "LAST1", "LAST2", "LAST3"];
const DY: [&str; MOST] = ["DY0", "DY1", "DY2", "DY3"];
const DLAST: [&str; MOST] = ["DLAST0", "DLAST1", "DLAST2", "DLAST3"];

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

/// An LSTM to record.
#[derive(Clone, Debug)]
pub struct LstmInput {
    /// `[batch, steps, D]`.
    pub x: Var,
    /// `[batch]` u32, 1 to steps.
    pub lengths: Var,
    /// One set of weights a layer, or two for a bidirectional one (forward, reverse).
    pub layers: Vec<Vec<LstmWeights>>,
    /// Between layers.
    pub dropout: f32,
    /// Whether the top layer's whole sequence is wanted, too.
    pub sequence: bool,
}

/// What an LSTM gives back.
#[derive(Clone, Copy, Debug)]
pub struct Lstm {
    /// `[batch, directions · H]`: h after each sample's last true step (backwards: its first).
    pub last: Var,
    /// `[batch, steps, directions · H]`, zero beyond each length, where asked for.
    pub sequence: Option<Var>,
}

/// One layer of one LSTM.
#[derive(Clone)]
struct Layer {
    x: Var,
    lengths: Var,
    directions: Vec<LstmWeights>,
    sequence: bool,
    top: bool,
    batch: usize,
    steps: usize,
    hidden: usize,
}

/// One direction of a layer, recorded.
#[derive(Clone, Copy)]
struct Recurrence {
    x: Var,
    lengths: Var,
    weights: LstmWeights,
    y: Option<Var>,
    last: Option<Var>,
    gates: Var,
    prev: Var,
    /// Batch, steps, input width, hidden.
    sizes: [usize; 4],
    /// The kernels' description of it; offsets of outputs are those of the forward.
    words: [u32; WORDS],
    /// Its first column of what its layer gives.
    column: u32,
}

impl Recurrence {
    fn rows(&self) -> usize {
        self.sizes[0] * self.sizes[1]
    }

    /// W h of four gates, then a step's sums, products and activations unit by unit: so many.
    fn flops(&self, a_unit: usize) -> u64 {
        (self.rows() * self.sizes[3] * (8 * self.sizes[3] + a_unit)) as u64
    }

    /// Whether the wide kernels take it.
    fn unrolled(&self) -> bool {
        self.sizes[3].is_multiple_of(4) && self.sizes[3] <= UNROLLED
    }
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
        let layers = layers.to_vec();
        let all = self.lstms(&[LstmInput { x, lengths, layers, dropout, sequence }])?;
        Ok(all[0])
    }

    /// Several LSTMs, each as [`lstm`](Self::lstm) records it, whose recurrences run side by side:
    /// one dispatch forward and one backward for the layers of each depth, where their weights lie
    /// in one buffer.
    ///
    /// # Errors
    /// As [`lstm`](Self::lstm).
    pub fn lstms(&mut self, list: &[LstmInput]) -> Result<Vec<Lstm>> {
        let mut inputs: Vec<Var> = list.iter().map(|input| input.x).collect();
        let mut results: Vec<(Option<Var>, Option<Var>)> = vec![(None, None); list.len()];
        let depth = list.iter().map(|input| input.layers.len()).max().unwrap_or(0);
        for l in 0..depth {
            let deep: Vec<usize> = (0..list.len()).filter(|i| l < list[*i].layers.len()).collect();
            let layers: Vec<Layer> = deep
                .iter()
                .map(|i| {
                    let input = &list[*i];
                    let top = l + 1 == input.layers.len();
                    let sequence = !top || input.sequence;
                    self.lstm_layer(inputs[*i], input, l, (sequence, top))
                })
                .collect::<Result<_>>()?;
            for (i, outputs) in deep.into_iter().zip(self.lstm_layers(&layers)) {
                let input = &list[i];
                if let (true, Some(y)) = (l + 1 < input.layers.len(), outputs.0) {
                    let drop = input.dropout > 0.0;
                    inputs[i] = if drop { self.dropout(y, input.dropout)? } else { y };
                }
                results[i] = outputs;
            }
        }
        results
            .into_iter()
            .map(|(sequence, last)| {
                let last = last.ok_or_else(|| Error::shape("lstm", "no layer"))?;
                Ok(Lstm { last, sequence })
            })
            .collect()
    }

    /// Checks one layer.
    fn lstm_layer(
        &mut self,
        x: Var,
        input: &LstmInput,
        l: usize,
        (sequence, top): (bool, bool),
    ) -> Result<Layer> {
        let (directions, lengths) = (&input.layers[l], input.lengths);
        let shape = self.shape(x).to_vec();
        let [batch, steps, width] = shape[..] else {
            return Err(Error::shape("lstm", format!("input {shape:?}, want [batch, steps, D]")));
        };
        let first =
            directions.first().ok_or_else(|| Error::shape("lstm", "a layer without weights"))?;
        let hidden = self.rows_cols(first.weight_hh).1;
        let empty = batch == 0 || steps == 0 || hidden == 0;
        if hidden > MAX_HIDDEN || directions.len() > 2 || self.len(lengths) != batch || empty {
            let detail = format!(
                "hidden {hidden} (1 to {MAX_HIDDEN}), {} directions (at most 2), {} lengths \
                 for a batch of {batch}, {steps} steps",
                directions.len(),
                self.len(lengths)
            );
            return Err(Error::shape("lstm", detail));
        }
        for w in directions {
            let found = [w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh];
            let found = found.map(|v| self.shape(v).to_vec());
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
        let directions = directions.clone();
        Ok(Layer { x, lengths, directions, sequence, top, batch, steps, hidden })
    }

    /// Records layers that do not depend on each other; sequence and last state of each.
    fn lstm_layers(&mut self, layers: &[Layer]) -> Vec<(Option<Var>, Option<Var>)> {
        let words = |l: &Layer| l.directions.len() * l.batch * l.steps * l.hidden * 7;
        if layers.len() > 1 && layers.iter().map(words).sum::<usize>() > MOST_WORDS {
            return layers.chunks(1).flat_map(|one| self.lstm_layers(one)).collect();
        }
        let mut list: Vec<(&str, Vec<usize>, Vec<Var>)> = Vec::new();
        for layer in layers {
            let Layer { batch, steps, hidden, .. } = *layer;
            let mut from = vec![layer.x];
            for w in &layer.directions {
                from.extend([w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh]);
            }
            let across = layer.directions.len() * hidden;
            if layer.sequence {
                list.push(("lstm.y", vec![batch, steps, across], from.clone()));
            }
            if layer.top {
                list.push(("lstm.last", vec![batch, across], from));
            }
            for _ in &layer.directions {
                list.push(("lstm.gates", vec![batch, steps, 4 * hidden], Vec::new()));
                list.push(("lstm.cell", vec![batch, steps, hidden], Vec::new()));
                list.push(("lstm.prev", vec![batch, steps, hidden], Vec::new()));
                list.push(("lstm.state", vec![batch, 2 * hidden], Vec::new()));
            }
        }
        let (seq, vars, starts) = self.parts("lstm", &list);
        let mut parts = vars.into_iter().zip(starts);
        let mut next = || parts.next().unwrap_or((seq, 0));
        let (mut outputs, mut all) = (Vec::new(), Vec::new());
        for layer in layers {
            let Layer { x, lengths, batch, steps, hidden, .. } = *layer;
            let across = layer.directions.len() * hidden;
            let y = layer.sequence.then(&mut next);
            let last = layer.top.then(&mut next);
            for (direction, weights) in layer.directions.iter().enumerate() {
                let column = (direction * hidden) as u32;
                let [gates, cell, prev, state] = [(); 4].map(|()| next());
                let sizes = sizes(&[batch, steps, hidden, direction]);
                let at = |part: Option<(Var, u32)>| match part {
                    Some((_, start)) => [across as u32, start + column],
                    None => [0, 0],
                };
                let mut words = [0; WORDS];
                words[..4].copy_from_slice(&sizes);
                words[4..8].copy_from_slice(&[gates.1, cell.1, prev.1, state.1]);
                words[8..10].copy_from_slice(&at(y));
                words[10..12].copy_from_slice(&at(last));
                all.push(Recurrence {
                    x,
                    lengths,
                    weights: *weights,
                    y: y.map(|(y, _)| y),
                    last: last.map(|(last, _)| last),
                    gates: gates.0,
                    prev: prev.0,
                    sizes: [batch, steps, self.shape(x)[2], hidden],
                    words,
                    column,
                });
            }
            outputs.push((y.map(|(y, _)| y), last.map(|(last, _)| last)));
        }
        self.recurrences(seq, all);
        outputs
    }

    /// Records recurrences whose tensors are parts of `seq`, and their gradients.
    fn recurrences(&mut self, seq: Var, mut all: Vec<Recurrence>) {
        // The longest first, so that a device is not left waiting for it; what the wide kernels do
        // not take apart from what they do.
        all.sort_by_key(|r| (r.unrolled(), std::cmp::Reverse(r.flops(0))));
        self.run_recurrences(seq, &all);
        let spent = AtomicBool::new(false);
        let outputs: Vec<Var> = all.iter().flat_map(|r| [r.y, r.last]).flatten().collect();
        self.on_backward(&outputs, move |tape| {
            let above = |tape: &Tape, r: &Recurrence| {
                [r.y, r.last].map(|out| out.and_then(|out| tape.grad(out)))
            };
            // The gradients take the place of the gates, so that a second walk back needs them anew.
            if spent.swap(true, Ordering::Relaxed) {
                tape.run_recurrences(seq, &all);
            }
            let reached = |r: &&Recurrence| above(tape, r).iter().any(Option::is_some);
            let all: Vec<Recurrence> = all.iter().filter(reached).copied().collect();
            for group in all.chunk_by(|a, b| a.unrolled() == b.unrolled()) {
                for group in group.chunks(MOST) {
                    let ups: Vec<_> = group.iter().map(|r| above(tape, r)).collect();
                    tape.recur_back(seq, group, &ups);
                }
            }
            for r in &all {
                let [.., width, hidden] = r.sizes;
                let (rows, gates, w) = (r.rows(), r.gates, r.weights);
                if let Some(dx) = tape.sink(r.x) {
                    let accumulate = dx.accumulate;
                    let p = Product {
                        m: rows,
                        n: width,
                        k: 4 * hidden,
                        accumulate,
                        ..Default::default()
                    };
                    product(tape, gates, w.weight_ih, dx.var, p);
                }
                let (ih, hh) = ((rows, 4 * hidden, width), (rows, 4 * hidden, hidden));
                linear_weight_grad(tape, gates, r.x, ih, None, w.weight_ih, Some(w.bias_ih));
                linear_weight_grad(tape, gates, r.prev, hh, None, w.weight_hh, Some(w.bias_hh));
            }
            Ok(())
        });
    }

    /// Records the products and the recurrences themselves.
    fn run_recurrences(&mut self, seq: Var, all: &[Recurrence]) {
        for r in all {
            let [.., width, hidden] = r.sizes;
            let bias = Some(r.weights.bias_ih);
            let (m, n, k) = (r.rows(), 4 * hidden, width);
            let p = Product { m, n, k, tb: true, bias, ..Default::default() };
            product(self, r.x, r.weights.weight_ih, r.gates, p);
        }
        for group in all.chunk_by(|a, b| a.unrolled() == b.unrolled()) {
            group.chunks(MOST).for_each(|group| self.recur(seq, group));
        }
    }

    /// Weights, biases and lengths of a group, each as one tensor, with the recurrences' words.
    fn recur_places(&mut self, group: &[Recurrence]) -> Option<([Var; 3], Vec<[u32; WORDS]>)> {
        let mut words: Vec<[u32; WORDS]> = group.iter().map(|r| r.words).collect();
        let mut places = [group[0].gates; 3];
        let pick: [fn(&Recurrence) -> Var; 3] =
            [|r| r.weights.weight_hh, |r| r.weights.bias_hh, |r| r.lengths];
        for (k, pick) in pick.into_iter().enumerate() {
            let vars: Vec<Var> = group.iter().map(pick).collect();
            let same = vars.iter().all(|v| *v == vars[0]);
            let (whole, starts) =
                if same { (vars[0], vec![0; vars.len()]) } else { self.cover(&vars)? };
            places[k] = whole;
            words.iter_mut().zip(starts).for_each(|(words, start)| words[12 + k] = start);
        }
        Some((places, words))
    }

    fn recur(&mut self, seq: Var, group: &[Recurrence]) {
        let Some(([w, bias, lengths], words)) = self.recur_places(group) else {
            return group.chunks(1).for_each(|one| self.recur(seq, one));
        };
        let mut defines = Defines::new();
        for (i, r) in group.iter().enumerate() {
            for (name, wanted) in [(Y[i], r.y.is_some()), (LAST[i], r.last.is_some())] {
                if wanted {
                    defines.insert(name, 1);
                }
            }
        }
        let args = [seq, w, bias, lengths].map(Some);
        let flops = group.iter().map(|r| r.flops(17)).sum();
        self.call(&FORWARD, &args, words.concat(), defines, flops);
    }

    /// `ups[i]`: the gradients of the sequence and of the last state of recurrence i.
    fn recur_back(&mut self, seq: Var, group: &[Recurrence], ups: &[[Option<Var>; 2]]) {
        let mut bound: Vec<Var> = Vec::new();
        for up in ups.iter().flatten().flatten() {
            if !bound.contains(up) {
                bound.push(*up);
            }
        }
        let places = if bound.len() <= MOST_UP { self.recur_places(group) } else { None };
        let Some(([w, _, lengths], mut words)) = places else {
            for (one, up) in group.chunks(1).zip(ups.chunks(1)) {
                self.recur_back(seq, one, up);
            }
            return;
        };
        let mut defines = Defines::new();
        for (i, (r, up)) in group.iter().zip(ups).enumerate() {
            // Columns of the gradients, which are tensors of their own.
            (words[i][9], words[i][11]) = (r.column, r.column);
            for (name, var) in [DY[i], DLAST[i]].into_iter().zip(up) {
                if let Some(place) = bound.iter().position(|b| Some(*b) == *var) {
                    defines.insert(name, place as u32 + 1);
                }
            }
        }
        let mut args = vec![Some(seq), Some(w), Some(lengths)];
        args.extend(bound.into_iter().map(Some));
        args.resize(3 + MOST_UP, None);
        let flops = group.iter().map(|r| r.flops(25)).sum();
        self.call(&BACKWARD, &args, words.concat(), defines, flops);
    }
}

/// CPU twins: one recurrence, one sample, one step, one unit at a time.
#[allow(clippy::needless_range_loop, reason = "loops that read like the shaders'")]
pub mod reference {
    use super::{DLAST, DY, LAST, WORDS, Y};
    use crate::ops::Act;
    use crate::plan::Twin;

    /// The order in which a direction visits `length` steps.
    fn visits(length: usize, reverse: bool) -> Vec<usize> {
        if reverse { (0..length).rev().collect() } else { (0..length).collect() }
    }

    /// A vanished gradient is zero, not denormal.
    fn flush(x: f32) -> f32 {
        if x.abs() <= 1e-30 { 0.0 } else { x }
    }

    /// Gates, cells, hidden states.
    pub fn forward(t: &mut Twin) {
        for r in 0..t.words.len() / WORDS {
            let q: Vec<usize> = (0..WORDS).map(|i| t.size(r * WORDS + i)).collect();
            let [batch, steps, n, reverse, gates, cell, prev, _] =
                [0, 1, 2, 3, 4, 5, 6, 7].map(|i| q[i]);
            let [ldy, y_at, ld_last, last_at, w_at, bias_at, lengths_at] =
                [8, 9, 10, 11, 12, 13, 14].map(|i| q[i]);
            let (seq, w, bias) = (t.read(0), t.read(1), t.read(2));
            let lengths = t.words_of(3)[lengths_at..].to_vec();
            let (has_y, has_last) = (t.is(Y[r]), t.is(LAST[r]));
            for b in 0..batch {
                let length = (lengths[b] as usize).min(steps);
                let (mut h, mut c) = (vec![0.0; n], vec![0.0; n]);
                for step in visits(length, reverse != 0) {
                    let at = b * steps + step;
                    t.write(0)[prev + at * n..][..n].copy_from_slice(&h);
                    let pre = |gate: usize, j: usize| {
                        let row = gate * n + j;
                        let recurrent: f32 = (0..n).map(|k| w[w_at + row * n + k] * h[k]).sum();
                        seq[gates + at * 4 * n + row] + bias[bias_at + row] + recurrent
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
                            t.write(0)[gates + at * 4 * n + gate * n + j] = value;
                        }
                        t.write(0)[cell + at * n + j] = c[j];
                        if has_y {
                            t.write(0)[y_at + at * ldy + j] = next[j];
                        }
                    }
                    h = next;
                }
                if has_last {
                    t.write(0)[last_at + b * ld_last..][..n].copy_from_slice(&h);
                }
                for step in length..steps {
                    let at = b * steps + step;
                    t.write(0)[prev + at * n..][..n].fill(0.0);
                    if has_y {
                        t.write(0)[y_at + at * ldy..][..n].fill(0.0);
                    }
                }
            }
        }
    }

    /// Gradients of the pre-activations.
    pub fn backward(t: &mut Twin) {
        for r in 0..t.words.len() / WORDS {
            let q: Vec<usize> = (0..WORDS).map(|i| t.size(r * WORDS + i)).collect();
            let [batch, steps, n, reverse, gates, cell, _, state] =
                [0, 1, 2, 3, 4, 5, 6, 7].map(|i| q[i]);
            let [ldy, y_at, ld_last, last_at, w_at, _, lengths_at] =
                [8, 9, 10, 11, 12, 13, 14].map(|i| q[i]);
            let (seq, w) = (t.read(0), t.read(1));
            let up = |t: &Twin, name: &str| match t.defines.get(name) {
                Some(place) if *place > 0 => t.read(2 + *place as usize),
                _ => Vec::new(),
            };
            let (dy, dlast) = (up(t, DY[r]), up(t, DLAST[r]));
            let lengths = t.words_of(2)[lengths_at..].to_vec();
            for b in 0..batch {
                let length = (lengths[b] as usize).min(steps);
                let (mut dh, mut dc) = (vec![0.0; n], vec![0.0; n]);
                let order = visits(length, reverse != 0);
                for (s, step) in order.iter().enumerate().rev() {
                    let at = b * steps + step;
                    let mut dz = vec![0.0; 4 * n];
                    for j in 0..n {
                        let [i, f, g, o] =
                            [0, 1, 2, 3].map(|gate| seq[gates + at * 4 * n + gate * n + j]);
                        let c = Act::Tanh.apply(seq[cell + at * n + j]);
                        let before = match s {
                            0 => 0.0,
                            _ => seq[cell + (b * steps + order[s - 1]) * n + j],
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
                        *d = (0..4 * n).map(|row| dz[row] * w[w_at + row * n + k]).sum();
                    }
                    t.write(0)[gates + at * 4 * n..][..4 * n].copy_from_slice(&dz);
                }
                t.write(0)[state + b * 2 * n..][..n].copy_from_slice(&dh);
                t.write(0)[state + b * 2 * n + n..][..n].copy_from_slice(&dc);
                for step in length..steps {
                    t.write(0)[gates + (b * steps + step) * 4 * n..][..4 * n].fill(0.0);
                }
            }
        }
    }
}
