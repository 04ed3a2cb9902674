//! Sums, means, largest and softmax over segments of rows: the edges of a graph sorted by where they
//! lead, the members of sets.
//!
//! `offsets [n + 1]` (unsigned, ascending, from 0 to the number of rows) say where each segment begins
//! and ends; one may be empty. Kernels keep inside the rows there are whatever the offsets say, and
//! rows of no segment count nowhere. A graph that is known when recording gives its offsets to
//! [`Tape::segments`], which refuses wrong ones. Attention over edges is
//! [`gather`](Tape::gather) of both ends, a score for each edge, [`segment_softmax`](Tape::segment_softmax),
//! and the [`segment_sum`](Tape::segment_sum) of the products.

use super::elementwise::vectors;
use super::{arg, random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin};
use crate::tape::{Tape, Var};

/// Segments made one row; see `shaders/segment_reduce.wgsl`.
pub static SEGMENT_REDUCE: Kernel = Kernel {
    name: "segment_reduce",
    source: include_str!("../../shaders/segment_reduce.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("OFFSETS"),
        Binding::write("OUT"),
        Binding::write("ARG").or_none(),
    ],
    step: false,
    launch: by_segment,
    twin: reference::segment_reduce,
    cases: cases::reduce,
};

/// One row given to all of a segment; see `shaders/segment_spread.wgsl`.
pub static SEGMENT_SPREAD: Kernel = Kernel {
    name: "segment_spread",
    source: include_str!("../../shaders/segment_spread.wgsl"),
    bindings: &[
        Binding::read("DOUT"),
        Binding::read("OFFSETS"),
        Binding::read("ARG").or_none(),
        Binding::write("DX").adds(4),
    ],
    step: false,
    launch: |_, words, _| vectors(words[0] * words[1], words[1].is_multiple_of(4)),
    twin: reference::segment_spread,
    cases: cases::spread,
};

/// Softmax within segments; see `shaders/segment_softmax.wgsl`.
pub static SEGMENT_SOFTMAX: Kernel = Kernel {
    name: "segment_softmax",
    source: include_str!("../../shaders/segment_softmax.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("OFFSETS"), Binding::write("Y")],
    step: false,
    launch: by_segment,
    twin: reference::segment_softmax,
    cases: || cases::softmax(false),
};

/// Its gradient; see `shaders/segment_softmax_backward.wgsl`.
pub static SEGMENT_SOFTMAX_BACKWARD: Kernel = Kernel {
    name: "segment_softmax_backward",
    source: include_str!("../../shaders/segment_softmax_backward.wgsl"),
    bindings: &[
        Binding::read("DY"),
        Binding::read("Y"),
        Binding::read("OFFSETS"),
        Binding::write("DX").adds(3),
    ],
    step: false,
    launch: by_segment,
    twin: reference::segment_softmax_backward,
    cases: || cases::softmax(true),
};

/// An invocation a column of a segment; one segment may have all rows.
fn by_segment(_: crate::gpu::Family, words: &[u32], _: &Defines) -> Launch {
    let launch = vectors(words[2] * words[1], words[1].is_multiple_of(4));
    launch.iterations(3 * u64::from(words[0]))
}

/// Steps of a binary search among `len` entries.
fn steps(len: usize) -> usize {
    (usize::BITS - len.leading_zeros()) as usize
}

/// What becomes of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reduce {
    Sum,
    Mean,
    Max,
}

impl Reduce {
    fn defines(self) -> Defines {
        match self {
            Reduce::Sum => Defines::new(),
            Reduce::Mean => Defines::from([("MEAN", 1)]),
            Reduce::Max => Defines::from([("MAX", 1)]),
        }
    }
}

impl Tape {
    /// Offsets that are known now, of segments that are all of `rows` rows: a constant.
    ///
    /// # Errors
    /// Offsets that do not ascend from 0 to `rows`, or fewer than two.
    pub fn segments(&mut self, name: &str, offsets: &[u32], rows: usize) -> Result<Var> {
        let ends = (offsets.first().copied(), offsets.last().map(|o| *o as usize));
        if offsets.len() < 2 || !offsets.is_sorted() || ends != (Some(0), Some(rows)) {
            let down = offsets.windows(2).position(|w| w[0] > w[1]);
            let detail = format!(
                "{name} has {} offsets from {:?} to {:?}, {}: want two or more that ascend from 0 \
                 to {rows}",
                offsets.len(),
                ends.0,
                ends.1,
                down.map_or("none smaller than the one before".to_string(), |i| {
                    format!("[{}] smaller than the one before", i + 1)
                })
            );
            return Err(Error::shape("segments", detail));
        }
        let bits: Vec<f32> = offsets.iter().map(|o| f32::from_bits(*o)).collect();
        self.constant(name, &[offsets.len()], &bits)
    }

    /// The sum of each segment's rows, `[n, d]` of `x [rows, d]` and `offsets [n + 1]`; see
    /// [`ops::segment`](crate::ops::segment). An empty segment gives 0.
    ///
    /// # Errors
    /// A tensor without elements, fewer than two offsets.
    pub fn segment_sum(&mut self, x: Var, offsets: Var) -> Result<Var> {
        self.segment_reduce("segment_sum", x, offsets, Reduce::Sum)
    }

    /// Their mean; 0 for an empty segment.
    ///
    /// # Errors
    /// As [`segment_sum`](Self::segment_sum).
    pub fn segment_mean(&mut self, x: Var, offsets: Var) -> Result<Var> {
        self.segment_reduce("segment_mean", x, offsets, Reduce::Mean)
    }

    /// Their largest, column by column; 0 for an empty segment. The gradient goes to the first row
    /// that has it.
    ///
    /// # Errors
    /// As [`segment_sum`](Self::segment_sum).
    pub fn segment_max(&mut self, x: Var, offsets: Var) -> Result<Var> {
        self.segment_reduce("segment_max", x, offsets, Reduce::Max)
    }

    fn segment_reduce(
        &mut self,
        op: &'static str,
        x: Var,
        offsets: Var,
        how: Reduce,
    ) -> Result<Var> {
        let [rows, cols, segments] = self.segment_sizes(op, x, offsets)?;
        let out = self.output(op, &[segments, cols], &[x]);
        let arg = (how == Reduce::Max && self.wants_grad(out))
            .then(|| self.output("segment_max.arg", &[segments, cols], &[]));
        let words = sizes(&[rows, cols, segments, steps(segments)]);
        let args = [Some(x), Some(offsets), Some(out), arg];
        let flops = (rows * cols) as u64;
        self.call(&SEGMENT_REDUCE, &args, words.clone(), how.defines(), flops);
        self.on_backward(&[out], move |tape| {
            if let (Some(dout), Some(dx)) = (tape.grad(out), tape.sink(x)) {
                let mut words = words.clone();
                words.push(dx.accumulate);
                // Where there is an entry to go to, ARG says so.
                let defines = if how == Reduce::Mean { how.defines() } else { Defines::new() };
                let args = [Some(dout), Some(offsets), arg, Some(dx.var)];
                tape.call(&SEGMENT_SPREAD, &args, words, defines.clone(), flops);
            }
            Ok(())
        });
        Ok(out)
    }

    /// Softmax over the rows of each segment, column by column: `[rows, d]` of `x [rows, d]`, where d
    /// may be the heads of a graph's attention.
    ///
    /// # Errors
    /// As [`segment_sum`](Self::segment_sum).
    pub fn segment_softmax(&mut self, x: Var, offsets: Var) -> Result<Var> {
        let [rows, cols, segments] = self.segment_sizes("segment_softmax", x, offsets)?;
        let shape = self.shape(x).to_vec();
        let y = self.output("segment_softmax", &shape, &[x]);
        let words = sizes(&[rows, cols, segments]);
        let flops = 6 * (rows * cols) as u64;
        let args = [Some(x), Some(offsets), Some(y)];
        self.call(&SEGMENT_SOFTMAX, &args, words, Defines::new(), flops);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let words = sizes(&[rows, cols, segments, dx.accumulate as usize]);
                let args = [Some(dy), Some(y), Some(offsets), Some(dx.var)];
                tape.call(&SEGMENT_SOFTMAX_BACKWARD, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(y)
    }

    fn segment_sizes(&self, op: &'static str, x: Var, offsets: Var) -> Result<[usize; 3]> {
        let (rows, cols) = self.rows_cols(x);
        if rows * cols == 0 || self.len(offsets) < 2 {
            let (x, o) = (self.shape(x), self.shape(offsets));
            let detail = format!("x {x:?}, offsets {o:?}: want [rows, d] with elements, [n + 1]");
            return Err(Error::shape(op, detail));
        }
        Ok([rows, cols, self.len(offsets) - 1])
    }
}

mod cases {
    use super::*;

    // Columns, lengths of the segments, rows before and behind all of them.
    const SETS: [(usize, &[u32], [u32; 2]); 6] = [
        (1, &[1], [0, 0]),
        (3, &[0, 4, 0, 2, 0], [0, 0]),
        (8, &[3, 1, 7], [2, 3]),
        (2, &[40, 1, 1, 33], [0, 1]),
        (20, &[1; 70], [0, 0]),
        (5, &[0, 0], [2, 2]),
    ];

    struct Set {
        rows: usize,
        cols: usize,
        segments: usize,
        offsets: Option<CaseArg>,
        name: String,
    }

    fn sets() -> impl Iterator<Item = (usize, Set)> {
        SETS.iter().enumerate().map(|(i, (cols, lengths, [before, behind]))| {
            let mut offsets = vec![*before];
            offsets.extend(lengths.iter().scan(*before, |end, length| {
                *end += length;
                Some(*end)
            }));
            let rows = offsets[lengths.len()] + behind;
            let (rows, cols, segments) = (rows as usize, *cols, lengths.len());
            // What the last segment says beyond the rows does not count.
            if *behind == 0 && i % 2 == 1 {
                offsets[segments] += 5;
            }
            let name = format!("{rows}x{cols} in {segments}");
            (i, Set { rows, cols, segments, offsets: Some(CaseArg::U(offsets)), name })
        })
    }

    const KINDS: [Reduce; 3] = [Reduce::Sum, Reduce::Mean, Reduce::Max];

    fn define(mut case: Case, defines: Defines) -> Case {
        case.defines = defines;
        case
    }

    pub(super) fn reduce() -> Vec<Case> {
        let each = sets().flat_map(|(i, set)| {
            let set = std::rc::Rc::new(set);
            KINDS.map(|how| (i, set.clone(), how))
        });
        each.map(|(i, set, how)| {
            let Set { rows, cols, segments, .. } = *set;
            // Numbers that come up again, some of them the largest.
            let x = random(1, rows * cols).iter().map(|v| (v * 4.0).round() - 5.0).collect();
            let kept = if how == Reduce::Max && i != 3 {
                Some(CaseArg::U(vec![9; segments * cols]))
            } else {
                None
            };
            let words = sizes(&[rows, cols, segments, steps(segments)]);
            let x = Some(CaseArg::F(x));
            let args = vec![x, set.offsets.clone(), arg(2, segments * cols), kept];
            let case = Case::new(set.name.clone(), words, args).flops((rows * cols) as u64);
            define(case, how.defines())
        })
        .collect()
    }

    pub(super) fn spread() -> Vec<Case> {
        let each = sets().flat_map(|(i, set)| {
            let set = std::rc::Rc::new(set);
            KINDS.map(|how| (i, set.clone(), how))
        });
        each.map(|(i, set, how)| {
            let Set { rows, cols, segments, .. } = *set;
            let mut words = sizes(&[rows, cols, segments, steps(segments)]);
            words.push((i as u32 + how as u32) % 2);
            let places = (0..segments * cols).map(|i| (i * 5 % (rows + 1)) as u32).collect();
            let places = if how == Reduce::Max { Some(CaseArg::U(places)) } else { None };
            let args =
                vec![arg(1, segments * cols), set.offsets.clone(), places, arg(2, rows * cols)];
            let case = Case::new(set.name.clone(), words, args).flops((rows * cols) as u64);
            let defines = if how == Reduce::Mean { how.defines() } else { Defines::new() };
            define(case, defines)
        })
        .collect()
    }

    pub(super) fn softmax(backward: bool) -> Vec<Case> {
        sets()
            .map(|(i, set)| {
                let Set { rows, cols, segments, offsets, name } = set;
                let n = rows * cols;
                let mut words = sizes(&[rows, cols, segments]);
                let args = if backward {
                    words.push(i as u32 % 2);
                    vec![arg(1, n), arg(2, n), offsets, arg(3, n)]
                } else {
                    let x = random(1, n).iter().map(|v| v * v * v * 50.0).collect();
                    vec![Some(CaseArg::F(x)), offsets, arg(2, n)]
                };
                Case::new(name, words, args).within(2e-5).flops(6 * n as u64)
            })
            .collect()
    }
}

/// CPU twins; sums in f64.
pub mod reference {
    use super::super::masked::reference::above;
    use super::super::put;
    use super::*;
    use std::ops::Range;

    fn segments(t: &Twin, binding: usize) -> Vec<Range<usize>> {
        let (rows, count) = (t.size(0), t.size(2));
        let offsets: Vec<usize> =
            t.words_of(binding).iter().map(|o| (*o as usize).min(rows)).collect();
        (0..count).map(|s| offsets[s]..offsets[s + 1].max(offsets[s])).collect()
    }

    /// Sums, means, or the largest and where they are.
    pub fn segment_reduce(t: &mut Twin) {
        let (rows, cols) = (t.size(0), t.size(1));
        let x = t.read(0);
        for (s, own) in segments(t, 1).into_iter().enumerate() {
            for c in 0..cols {
                let values = own.clone().map(|e| x[e * cols + c]);
                let at = s * cols + c;
                if t.is("MAX") {
                    // The first of the largest; what is not a number is larger than all that are.
                    let mut best: Option<(usize, f32)> = None;
                    for (e, x) in own.clone().zip(values) {
                        let better = |m: f32| x > m || (x.is_nan() && !m.is_nan());
                        if best.is_none_or(|(_, m)| better(m)) {
                            best = Some((e, x));
                        }
                    }
                    t.write(2)[at] = best.map_or(0.0, |(_, m)| m);
                    if let Some(arg) = t.write(3).get_mut(at) {
                        *arg = f32::from_bits(best.map_or(rows, |(e, _)| e) as u32);
                    }
                } else {
                    let sum = values.map(f64::from).sum::<f64>();
                    let by = if t.is("MEAN") { own.len().max(1) as f64 } else { 1.0 };
                    t.write(2)[at] = (sum / by) as f32;
                }
            }
        }
    }

    /// Each row's share of its segment's gradient.
    pub fn segment_spread(t: &mut Twin) {
        let [rows, cols, accumulate] = [0, 1, 4].map(|i| t.size(i));
        let (dout, args) = (t.read(0), t.words_of(2).to_vec());
        let mut dx = vec![0.0; rows * cols];
        for (s, own) in segments(t, 1).into_iter().enumerate() {
            for (e, c) in own.clone().flat_map(|e| (0..cols).map(move |c| (e, c))) {
                let by = if t.is("MEAN") { own.len() as f32 } else { 1.0 };
                let hit = args.get(s * cols + c).is_none_or(|a| *a as usize == e);
                dx[e * cols + c] = if hit { dout[s * cols + c] / by } else { 0.0 };
            }
        }
        for (to, d) in t.write(3).iter_mut().zip(dx) {
            put(to, d, accumulate);
        }
    }

    /// exp(x − m) / Σ within segments.
    pub fn segment_softmax(t: &mut Twin) {
        let (cols, x) = (t.size(1), t.read(0));
        t.write(2).fill(0.0);
        for own in segments(t, 1) {
            for c in 0..cols {
                let at = |e: usize| x[e * cols + c];
                let m = own.clone().map(at).fold(f32::MIN, f32::max);
                let share = |e: usize| above(at(e) - m, -80.0).exp();
                let sum: f64 = own.clone().map(|e| f64::from(share(e))).sum();
                for e in own.clone() {
                    t.write(2)[e * cols + c] = share(e) / sum as f32;
                }
            }
        }
    }

    /// y (dy − Σ dy y) within segments.
    pub fn segment_softmax_backward(t: &mut Twin) {
        let (cols, accumulate) = (t.size(1), t.size(3));
        let (dy, y) = (t.read(0), t.read(1));
        let mut dx = vec![0.0; y.len()];
        for own in segments(t, 2) {
            for c in 0..cols {
                let places = own.clone().map(|e| e * cols + c);
                let dot: f64 = places.clone().map(|at| f64::from(dy[at]) * f64::from(y[at])).sum();
                places.for_each(|at| dx[at] = y[at] * (dy[at] - dot as f32));
            }
        }
        for (to, d) in t.write(3).iter_mut().zip(dx) {
            put(to, d, accumulate);
        }
    }
}
