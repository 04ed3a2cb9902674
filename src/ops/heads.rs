//! The heads of all tasks at once: a few small layers each, which as operations of their own would
//! be dozens of dispatches that take longer to launch than to run.

mod cases;

use super::dropout::Mask;
use super::sizes;
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::ops::Act;
use crate::plan::{Binding, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// Features and scores; see `shaders/heads_forward.wgsl`.
pub static FORWARD: Kernel = Kernel {
    name: "heads_forward",
    source: include_str!("../../shaders/heads_forward.wgsl"),
    bindings: &[
        Binding::read("X0"),
        Binding::read("X1").or_none(),
        Binding::read("X2").or_none(),
        Binding::read("PARAMS").part(|p, _, _| [Sizes::of(p).weights(), 0]),
        Binding::write("ACTS").part(|p, _, _| [0, Sizes::of(p).acts()]),
        Binding::write("SCORES"),
    ],
    step: true,
    launch: |family, words, _| {
        let (n, p) = (words[0], Sizes::of(words));
        // Two samples share a load of W where there are enough to fill a device all the same.
        let samples = if n < 64 { 1 } else { 2 };
        let (define, per_group) = match p.variant(family) {
            Variant::Tiled => (Some(("SAMPLES", samples)), samples),
            Variant::Wide(lanes) => (Some(("LANES", lanes)), lanes),
            Variant::Plain => (None, 8),
        };
        p.launch(family, define, [words[1], n.div_ceil(per_group), 1]).iterations(
            p.heads.iter().map(|h| p.passes(family, h, h.inputs)).max().unwrap_or_default(),
        )
    },
    twin: reference::forward,
    cases: cases::forward,
};

/// Gradients down to the parts; see `shaders/heads_backward.wgsl`.
pub static BACKWARD: Kernel = Kernel {
    name: "heads_backward",
    source: include_str!("../../shaders/heads_backward.wgsl"),
    bindings: &[
        Binding::read("DSCORES").or_none(),
        Binding::read("DFEATURES").or_none(),
        Binding::read("ACTS").part(|p, _, _| [Sizes::of(p).acts(), 0]),
        Binding::read("PARAMS").part(|p, _, _| [Sizes::of(p).weights(), 0]),
        Binding::write("DZ"),
        Binding::write("D0").or_none().adds_bit(10, 0),
        Binding::write("D1").or_none().adds_bit(10, 1),
        Binding::write("D2").or_none().adds_bit(10, 2),
    ],
    step: true,
    launch: |family, words, _| {
        let (n, p) = (words[0], Sizes::of(words));
        let (define, per_group) = match p.variant(family) {
            Variant::Tiled => (None, 1),
            Variant::Wide(lanes) => (Some(("LANES", lanes)), lanes),
            Variant::Plain => (None, 8),
        };
        p.launch(family, define, [n.div_ceil(per_group), 1, 1])
            .iterations(p.heads.iter().map(|h| p.passes(family, h, h.size)).sum())
    },
    twin: reference::backward,
    cases: cases::backward,
};

/// Gradients of all weights and biases; see `shaders/heads_weights.wgsl`.
pub static WEIGHTS: Kernel = Kernel {
    name: "heads_weights",
    source: include_str!("../../shaders/heads_weights.wgsl"),
    bindings: &[
        Binding::read("ACTS").part(|p, _, _| [Sizes::of(p).acts(), 0]),
        Binding::read("DZ"),
        Binding::read("DSCORES").or_none(),
        Binding::write("GRADS").part(|p, _, _| [Sizes::of(p).weights(); 2]),
    ],
    step: false,
    launch: |family, words, _| {
        let p = Sizes::of(words);
        // A tiled adapter has no limit on sizes here.
        let (define, groups) = match (family, p.variant(family)) {
            (Family::Tiled, _) => (Some(("TILED", 1)), [p.tiles(32, 64) as u32, 1, 1]),
            (_, Variant::Wide(lanes)) => {
                let tiles = p.tiles(64, 4 * lanes as usize) as u32;
                (Some(("LANES", lanes)), [tiles.div_ceil(16), 16, 1])
            }
            _ => (None, grid(p.tiles(4, 4), 64)),
        };
        with(Launch::of(groups), define).iterations(2 * u64::from(words[0]) + 76)
    },
    twin: reference::weights,
    cases: cases::weights,
};

/// Parts, and heads, of one dispatch.
const MOST: (usize, usize) = (3, 4);
/// Where the words of the parts' widths, of the places in ACTS, and of the heads begin in `P`.
const WIDTHS: usize = 4;
const PLACES: usize = 8;
const HEADS: usize = 12;
/// Words of a head.
const HEAD: usize = 16;

/// A head: dropout, linear + ReLU (its feature), linear + ReLU, linear to one score.
#[derive(Clone, Copy, Debug)]
pub struct HeadVars {
    /// Weight and bias of each layer, as PyTorch stores them: `[size, inputs]` and `[size]`,
    /// `[size, size]` and `[size]`, `[1, size]` and `[1]`.
    pub layers: [(Var, Var); 3],
    /// Dropout on the input, 0 for none.
    pub dropout: f32,
}

/// What the heads give.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// `[n, heads]`.
    pub scores: Var,
    /// `[n, Σ sizes]`: the feature of every head, side by side.
    pub features: Var,
}

/// Input and feature of one head.
#[derive(Clone, Copy)]
struct Size {
    inputs: usize,
    size: usize,
}

/// Which of a kernel's texts.
enum Variant {
    Tiled,
    Wide(u32),
    Plain,
}

fn with(launch: Launch, define: Option<(&'static str, u32)>) -> Launch {
    match define {
        Some((name, value)) => launch.with(name, value),
        None => launch,
    }
}

/// The extents of a call.
#[derive(Clone)]
struct Sizes {
    n: usize,
    widths: Vec<usize>,
    heads: Vec<Size>,
}

impl Sizes {
    /// Those that `P` tells of.
    fn of(words: &[u32]) -> Self {
        let size = |i: usize| words[i] as usize;
        let head = |k: usize| {
            let at = HEADS + k * HEAD;
            Size { inputs: size(at), size: size(at + 1) }
        };
        Sizes {
            n: size(0),
            widths: (WIDTHS..WIDTHS + MOST.0).map(size).filter(|w| *w > 0).collect(),
            heads: (0..size(1)).map(head).collect(),
        }
    }

    fn width(&self) -> usize {
        self.heads.iter().map(|h| h.size).sum()
    }

    fn inputs(&self) -> usize {
        self.heads.iter().map(|h| h.inputs).sum()
    }

    /// `P`: the places of inner activations and inputs in ACTS, the gradients that are added to,
    /// dropouts, and the words where each head's weights and biases begin.
    fn words(&self, places: [u32; 2], accumulate: u32, masks: &[Mask], starts: &[u32]) -> Vec<u32> {
        let mut words = sizes(&[self.n, self.heads.len(), self.width(), self.inputs()]);
        words.extend(sizes(&self.widths));
        words.resize(PLACES, 0);
        words.extend([places[0], places[1], accumulate, 0]);
        let (mut first, mut input_first) = (0, 0);
        for ((head, mask), starts) in self.heads.iter().zip(masks).zip(starts.chunks(6)) {
            words.extend(sizes(&[head.inputs, head.size, first, input_first]));
            words.extend(mask.words());
            words.push(0);
            words.extend(starts);
            words.extend([0, 0]);
            first += head.size;
            input_first += head.inputs;
        }
        words.resize(HEADS + MOST.1 * HEAD, 0);
        words
    }

    fn variant(&self, family: Family) -> Variant {
        let sizes = || self.heads.iter().map(|h| h.size);
        match family {
            Family::Tiled if sizes().all(|s| s <= 512) => Variant::Tiled,
            Family::Wide(lanes)
                if sizes().chain(self.widths.iter().copied()).all(|s| s % 4 == 0) =>
            {
                Variant::Wide(lanes)
            }
            _ => Variant::Plain,
        }
    }

    fn launch(
        &self,
        family: Family,
        define: Option<(&'static str, u32)>,
        groups: [u32; 3],
    ) -> Launch {
        let tiled = matches!(self.variant(family), Variant::Tiled).then_some(("TILED", 1));
        with(with(Launch::of(groups), tiled), define)
    }

    /// About as many loop iterations as the products of a head's two layers take: `inner` of them
    /// for each block of outputs of the one, as many as its size for the other.
    fn passes(&self, family: Family, head: &Size, inner: usize) -> u64 {
        let outputs = if inner == head.size { head.inputs } else { head.size };
        // Outputs at a time, and terms of their sums.
        let (block, terms) = match self.variant(family) {
            Variant::Tiled => (64, 4),
            Variant::Wide(_) => (32, 4),
            Variant::Plain => (4, 1),
        };
        let blocks = |outputs: usize, inner: usize| outputs.div_ceil(block) * (inner / terms + 9);
        (blocks(outputs, inner) + blocks(head.size, head.size) + head.inputs + head.size) as u64
    }

    /// Tiles of `rows` x `cols` that all weights' gradients take.
    fn tiles(&self, rows: usize, cols: usize) -> usize {
        let tiles = |r: usize, c: usize| r.div_ceil(rows) * c.div_ceil(cols);
        let of = |h: &Size| tiles(h.size, h.inputs) + tiles(h.size, h.size) + tiles(1, h.size);
        self.heads.iter().map(of).sum()
    }

    /// Elements of all weights and biases.
    fn weights(&self) -> u64 {
        self.heads.iter().map(|h| (h.size * (h.inputs + h.size + 3) + 1) as u64).sum()
    }

    /// Elements of the features, of the inner activations and of the inputs.
    fn acts(&self) -> u64 {
        (self.n * (2 * self.width() + self.inputs())) as u64
    }

    /// Multiply-adds of one product with every weight.
    fn products(&self) -> u64 {
        let of = |h: &Size| h.size * (h.inputs + h.size + 1);
        (self.n * self.heads.iter().map(of).sum::<usize>()) as u64
    }
}

impl Tape {
    /// Several heads over the same `parts`, each `[n, width]`: the first head reads all of them
    /// side by side, head k part k − 1. One dispatch forward and two backward, where the weights
    /// lie in one buffer as [`Params`](crate::nn::Params) keeps them, all to be trained or none;
    /// otherwise (or for more than three parts) layer by layer, to the same result.
    ///
    /// # Errors
    /// No part, no head, more heads than there is to read, sizes that do not fit, or a dropout
    /// outside [0, 1).
    pub fn heads(&mut self, parts: &[Var], heads: &[HeadVars]) -> Result<Heads> {
        let p = self.head_sizes(parts, heads)?;
        let vars: Vec<Var> =
            heads.iter().flat_map(|h| h.layers).flat_map(|(w, b)| [w, b]).collect();
        let trained = vars.iter().any(|v| self.wants_grad(*v));
        let twice = (1..parts.len()).any(|i| parts[..i].iter().any(|p| self.same(*p, parts[i])));
        let fits = !twice && parts.len() <= MOST.0;
        let grads = if trained && fits { self.cover_grads(&vars) } else { None };
        let values = if fits && grads.is_some() == trained { self.cover(&vars) } else { None };
        let Some((values, starts)) = values else { return self.heads_by_layers(parts, heads) };
        let masks: Vec<Mask> =
            heads.iter().map(|h| Mask::new(self, h.dropout)).collect::<Result<_>>()?;

        let (n, width) = (p.n, p.width());
        let from: Vec<Var> = parts.iter().chain(&vars).copied().collect();
        let list = [
            ("features", vec![n, width], from.clone()),
            ("inner", vec![n, width], vec![]),
            ("inputs", vec![n, p.inputs()], vec![]),
        ];
        let (acts, inside, at) = self.parts("heads", &list);
        let (features, places) = (inside[0], [at[1], at[2]]);
        let scores = self.output("scores", &[n, heads.len()], &from);
        let part = |k: usize| parts.get(k).copied();
        let args = [part(0), part(1), part(2), Some(values), Some(acts), Some(scores)];
        let (words, flops) = (p.words(places, 0, &masks, &starts), 2 * p.products());
        self.call(&FORWARD, &args, words, Defines::new(), flops);
        let parts = parts.to_vec();
        self.on_backward(&[scores, features], move |tape| {
            let (dscores, dfeatures) = (tape.grad(scores), tape.grad(features));
            let mut accumulate = 0;
            let mut sinks = [None; MOST.0];
            for (k, part) in parts.iter().enumerate() {
                if let Some(sink) = tape.sink(*part) {
                    sinks[k] = Some(sink.var);
                    accumulate |= sink.accumulate << k;
                }
            }
            let dz = tape.output("d.heads", &[2, n, width], &[]);
            let mut args = vec![dscores, dfeatures, Some(acts), Some(values), Some(dz)];
            args.extend(sinks);
            let words = p.words(places, accumulate, &masks, &starts);
            tape.call(&BACKWARD, &args, words, Defines::new(), p.backward_flops(&sinks));
            if let Some((grads, starts)) = &grads {
                let args = [Some(acts), Some(dz), dscores, Some(*grads)];
                let words = p.words(places, 0, &masks, starts);
                tape.call(&WEIGHTS, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(Heads { scores, features })
    }

    /// The extents of a call, if everything fits.
    fn head_sizes(&self, parts: &[Var], heads: &[HeadVars]) -> Result<Sizes> {
        let widths: Vec<usize> = parts.iter().map(|v| self.rows_cols(*v).1).collect();
        let n = parts.first().map_or(0, |v| self.rows_cols(*v).0);
        let mut list = Vec::new();
        let mut fits = !parts.is_empty() && (1..=1 + parts.len()).contains(&heads.len());
        fits &= parts.iter().all(|v| self.rows_cols(*v).0 == n) && widths.iter().all(|w| *w > 0);
        for (k, head) in heads.iter().enumerate() {
            let (size, inputs) = self.rows_cols(head.layers[0].0);
            let part = k
                .checked_sub(1)
                .map_or(widths.iter().sum(), |p| widths.get(p).copied().unwrap_or_default());
            let wanted = [(size, inputs), (size, size), (1, size)];
            let layers = head.layers.iter().zip(wanted);
            fits &= inputs == part && size > 0;
            fits &= layers.into_iter().all(|((w, b), (rows, cols))| {
                self.rows_cols(*w) == (rows, cols) && self.len(*b) == rows
            });
            list.push(Size { inputs, size });
        }
        if !fits {
            let shapes = |vars: &[Var]| -> Vec<Vec<usize>> {
                vars.iter().map(|v| self.shape(*v).to_vec()).collect()
            };
            let layers: Vec<_> = heads.iter().map(|h| shapes(&h.layers.map(|(w, _)| w))).collect();
            let detail = format!(
                "parts {:?}, weights {layers:?}: want parts [n, k], and for the first head [s, Σ k], \
                 [s, s], [1, s], for each other one the same over its own part, each with a bias",
                shapes(parts)
            );
            return Err(Error::shape("heads", detail));
        }
        Ok(Sizes { n, widths, heads: list })
    }

    /// [`heads`](Self::heads) by operations that want nothing of where weights lie.
    fn heads_by_layers(&mut self, parts: &[Var], heads: &[HeadVars]) -> Result<Heads> {
        let all = self.concat(parts)?;
        let inputs = std::iter::once(all).chain(parts.iter().copied());
        let (mut features, mut scores) = (Vec::new(), Vec::new());
        for (x, head) in inputs.zip(heads) {
            let [(w1, b1), (w2, b2), (w3, b3)] = head.layers;
            let x = self.dropout(x, head.dropout)?;
            let feature = self.linear(x, w1, Some(b1), Act::Relu)?;
            let inner = self.linear(feature, w2, Some(b2), Act::Relu)?;
            features.push(feature);
            scores.push(self.linear(inner, w3, Some(b3), Act::None)?);
        }
        Ok(Heads { scores: self.concat(&scores)?, features: self.concat(&features)? })
    }
}

impl Sizes {
    /// Operations of the backward down to the parts that have a gradient.
    fn backward_flops(&self, sinks: &[Option<Var>]) -> u64 {
        let columns = |k: usize| -> usize {
            let of = |p: usize| if sinks[p].is_some() { self.widths[p] } else { 0 };
            if k == 0 { (0..self.widths.len()).map(of).sum() } else { of(k - 1) }
        };
        let of = |(k, h): (usize, &Size)| h.size * (h.size + 1 + columns(k));
        (2 * self.n * self.heads.iter().enumerate().map(of).sum::<usize>()) as u64
    }
}

/// CPU twins.
#[allow(clippy::needless_range_loop, reason = "loops that read like the shaders'")]
pub mod reference {
    use super::super::dropout::reference::factor;
    use super::super::put;
    use super::*;

    /// Where in `P`, ACTS and PARAMS (or GRADS) everything of a head is.
    struct Head {
        /// Its words.
        at: usize,
        inputs: usize,
        size: usize,
        first: usize,
        input_first: usize,
        w: [usize; 3],
        b: [usize; 3],
        /// Its parts, and the column of its input where each begins.
        parts: Vec<(usize, usize)>,
    }

    fn heads(t: &Twin) -> Vec<Head> {
        let widths = Sizes::of(t.words).widths;
        let head = |k: usize| {
            let at = HEADS + k * HEAD;
            let all = (0..widths.len()).map(|p| (p, widths[..p].iter().sum()));
            Head {
                at,
                inputs: t.size(at),
                size: t.size(at + 1),
                first: t.size(at + 2),
                input_first: t.size(at + 3),
                w: [8, 10, 12].map(|i| t.size(at + i)),
                b: [9, 11, 13].map(|i| t.size(at + i)),
                parts: if k == 0 { all.collect() } else { vec![(k - 1, 0)] },
            }
        };
        (0..t.size(1)).map(head).collect()
    }

    /// `W x + b`.
    fn layer(params: &[f32], w: usize, b: usize, x: &[f32], size: usize) -> Vec<f32> {
        let row = |j: usize| &params[w + j * x.len()..w + (j + 1) * x.len()];
        let dot = |j: usize| -> f32 { row(j).iter().zip(x).map(|(w, x)| w * x).sum() };
        (0..size).map(|j| dot(j) + params[b + j]).collect()
    }

    /// `Wᵀ dz` for a span of the columns of `W`, which has `pitch` of them.
    fn back(params: &[f32], w: usize, pitch: usize, cols: usize, dz: &[f32]) -> Vec<f32> {
        let sum = |c: usize| -> f32 {
            dz.iter().enumerate().map(|(r, dz)| dz * params[w + r * pitch + c]).sum()
        };
        (0..cols).map(sum).collect()
    }

    fn relu(v: Vec<f32>) -> Vec<f32> {
        v.into_iter().map(super::super::relu).collect()
    }

    /// What passes a ReLU whose result was `y`.
    fn through(v: Vec<f32>, y: &[f32]) -> Vec<f32> {
        v.into_iter().zip(y).map(|(v, y)| if *y <= 0.0 { 0.0 } else { v }).collect()
    }

    /// Inputs, features, inner activations, scores.
    pub fn forward(t: &mut Twin) {
        let [n, count, width, inputs] = [0, 1, 2, 3].map(|i| t.size(i));
        let (inner_at, inputs_at) = (t.size(PLACES), t.size(PLACES + 1));
        let (parts, params) = ([0, 1, 2].map(|p| t.read(p)), t.read(3));
        for (k, h) in heads(t).iter().enumerate() {
            for i in 0..n {
                let mut x = Vec::new();
                for (p, _) in &h.parts {
                    let cols = t.size(WIDTHS + p);
                    x.extend(&parts[*p][i * cols..(i + 1) * cols]);
                }
                for (c, x) in x.iter_mut().enumerate() {
                    *x *= factor(t, h.at + 4, i * h.inputs + c);
                }
                let feature = relu(layer(&params, h.w[0], h.b[0], &x, h.size));
                let inner = relu(layer(&params, h.w[1], h.b[1], &feature, h.size));
                let score = layer(&params, h.w[2], h.b[2], &inner, 1);
                let at = i * width + h.first;
                t.write(4)[at..][..h.size].copy_from_slice(&feature);
                t.write(4)[inner_at + at..][..h.size].copy_from_slice(&inner);
                let at = inputs_at + i * inputs + h.input_first;
                t.write(4)[at..][..h.inputs].copy_from_slice(&x);
                t.write(5)[i * count + k] = score[0];
            }
        }
    }

    /// dz1 and dz2 of every head, and the parts' gradients.
    pub fn backward(t: &mut Twin) {
        let [n, count, width] = [0, 1, 2].map(|i| t.size(i));
        let (inner_at, accumulate) = (t.size(PLACES), t.size(PLACES + 2));
        let (dscores, dfeatures) = (t.read(0), t.read(1));
        let (acts, params) = (t.read(2), t.read(3));
        for (k, h) in heads(t).iter().enumerate() {
            for i in 0..n {
                let at = i * width + h.first;
                let (feature, inner) = (&acts[at..][..h.size], &acts[inner_at + at..][..h.size]);
                let ds = dscores.get(i * count + k).copied().unwrap_or(0.0);
                let dz2 = through(back(&params, h.w[2], h.size, h.size, &[ds]), inner);
                let mut df = back(&params, h.w[1], h.size, h.size, &dz2);
                for (j, df) in df.iter_mut().enumerate() {
                    *df += dfeatures.get(at + j).copied().unwrap_or(0.0);
                }
                let dz1 = through(df, feature);
                t.write(4)[at..][..h.size].copy_from_slice(&dz1);
                t.write(4)[n * width + at..][..h.size].copy_from_slice(&dz2);
                for (p, first) in &h.parts {
                    if !t.has(5 + p) {
                        continue;
                    }
                    let cols = t.size(WIDTHS + p);
                    let dx = back(&params, h.w[0] + first, h.inputs, cols, &dz1);
                    // The fused head comes first; the others add to what it left.
                    let add = if k > 0 { 1 } else { accumulate >> p & 1 };
                    for (c, dx) in dx.iter().enumerate() {
                        let dx = dx * factor(t, h.at + 4, i * h.inputs + first + c);
                        put(&mut t.write(5 + p)[i * cols + c], dx, add);
                    }
                }
            }
        }
    }

    /// `dW += dzᵀ x`, `db += Σ dz` for every layer of every head.
    pub fn weights(t: &mut Twin) {
        let [n, count, width, inputs] = [0, 1, 2, 3].map(|i| t.size(i));
        let (inner_at, inputs_at) = (t.size(PLACES), t.size(PLACES + 1));
        let (acts, dz, dscores) = (t.read(0), t.read(1), t.read(2));
        for (k, h) in heads(t).iter().enumerate() {
            for i in 0..n {
                let at = i * width + h.first;
                let x = &acts[inputs_at + i * inputs + h.input_first..][..h.inputs];
                let (feature, inner) = (&acts[at..][..h.size], &acts[inner_at + at..][..h.size]);
                let (dz1, dz2) = (&dz[at..][..h.size], &dz[n * width + at..][..h.size]);
                let ds = [dscores.get(i * count + k).copied().unwrap_or(0.0)];
                for (l, (dz, x)) in
                    [(dz1, x), (dz2, feature), (&ds[..], inner)].into_iter().enumerate()
                {
                    for (r, dz) in dz.iter().enumerate() {
                        for (c, value) in x.iter().enumerate() {
                            t.write(3)[h.w[l] + r * x.len() + c] += dz * value;
                        }
                        t.write(3)[h.b[l] + r] += dz;
                    }
                }
            }
        }
    }
}
