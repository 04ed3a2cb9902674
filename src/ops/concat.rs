//! Tensors side by side, and spans of them, along the last axis.

use super::elementwise::vectors;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin};
use crate::tape::{Sink, Tape, Var};

/// Up to four tensors side by side; see `shaders/concat.wgsl`.
pub static CONCAT: Kernel = Kernel {
    name: "concat",
    source: include_str!("../../shaders/concat.wgsl"),
    bindings: &[
        Binding::read("X0"),
        Binding::read("X1").or_none(),
        Binding::read("X2").or_none(),
        Binding::read("X3").or_none(),
        Binding::write("Y"),
    ],
    step: false,
    launch,
    twin: reference::concat,
    cases: || cases::concat(false),
};

/// Their gradients; see `shaders/concat_backward.wgsl`.
pub static CONCAT_BACKWARD: Kernel = Kernel {
    name: "concat_backward",
    source: include_str!("../../shaders/concat_backward.wgsl"),
    bindings: &[
        // The columns of those that want one.
        Binding::read("DY").part(|p, defines, _| {
            let wanted = ["D0", "D1", "D2", "D3"].into_iter().zip(&p[4..8]);
            let wanted = wanted.filter(|(name, _)| defines.contains_key(name));
            [wanted.map(|(_, width)| u64::from(p[0] * width)).sum(), 0]
        }),
        Binding::write("D0").or_none().adds_bit(1, 0),
        Binding::write("D1").or_none().adds_bit(1, 1),
        Binding::write("D2").or_none().adds_bit(1, 2),
        Binding::write("D3").or_none().adds_bit(1, 3),
    ],
    step: false,
    launch,
    twin: reference::concat_backward,
    cases: || cases::concat(true),
};

/// A span of columns, taken out or put back; see `shaders/slice.wgsl`.
pub static SLICE: Kernel = Kernel {
    name: "slice",
    source: include_str!("../../shaders/slice.wgsl"),
    bindings: &[
        Binding::read("X").part(|p, _, _| {
            let (rows, span, cols, first) = (p[0], p[1], p[4], p[5] as i32);
            let end = (first + span as i32).min(cols as i32);
            [u64::from(rows) * (end - first.max(0)).max(0) as u64, 0]
        }),
        Binding::write("Y").part(|p, _, _| {
            let span = u64::from(p[0]) * u64::from(p[1]);
            [if p[6] == 0 { 0 } else { span }, span]
        }),
    ],
    step: false,
    launch: |_, words, _| {
        let by_four = words[1..6].iter().all(|w| w % 4 == 0);
        vectors(words[0] * words[1], by_four)
    },
    twin: reference::slice,
    cases: cases::slice,
};

/// Inputs of one dispatch.
const MOST: usize = 4;

fn launch(_: Family, words: &[u32], _: &Defines) -> Launch {
    let widths = &words[4..8];
    vectors(words[0] * widths.iter().sum::<u32>(), widths.iter().all(|w| w % 4 == 0))
}

/// `P` of both concat kernels.
fn words(rows: usize, accumulate: u32, widths: &[usize]) -> Vec<u32> {
    let mut words = vec![rows as u32, accumulate, 0, 0];
    words.extend(sizes(widths));
    words.resize(4 + MOST, 0);
    words
}

impl Tape {
    /// Tensors side by side along the last axis; all other axes must agree.
    ///
    /// # Errors
    /// No tensor, or axes that differ.
    pub fn concat(&mut self, parts: &[Var]) -> Result<Var> {
        let Some(first) = parts.first() else {
            return Err(Error::shape("concat", "nothing to put side by side"));
        };
        let lead = |tape: &Tape, v: Var| {
            tape.shape(v).split_last().map(|(_, lead)| lead.to_vec()).unwrap_or_default()
        };
        for part in parts {
            if lead(self, *part) != lead(self, *first) {
                let (a, b) = (self.shape(*first), self.shape(*part));
                let detail = format!("{a:?} and {b:?} differ before the last axis");
                return Err(Error::shape("concat", detail));
            }
        }
        if parts.len() == 1 {
            return Ok(*first);
        }
        if parts.len() > MOST {
            let groups: Result<Vec<Var>> = parts.chunks(MOST).map(|c| self.concat(c)).collect();
            return self.concat(&groups?);
        }
        let rows = self.rows_cols(*first).0;
        let mut shape = lead(self, *first);
        shape.push(parts.iter().map(|p| self.rows_cols(*p).1).sum());
        Ok(self.beside(rows, parts, &shape, parts))
    }

    /// Up to four tensors of one length one behind the other, under the first one's extents and one
    /// before them: `[parts, ..]`. Only those in `pulled` get a gradient.
    pub(crate) fn stack(&mut self, parts: &[Var], pulled: &[Var]) -> Var {
        let mut shape = vec![parts.len()];
        shape.extend(parts.first().map(|p| self.shape(*p).to_vec()).unwrap_or_default());
        self.beside(1, parts, &shape, pulled)
    }

    /// Records the dispatch that puts two to four tensors of `rows` rows side by side, and the one
    /// that hands its gradient to those of them in `pulled`.
    fn beside(&mut self, rows: usize, parts: &[Var], shape: &[usize], pulled: &[Var]) -> Var {
        let widths: Vec<usize> = parts.iter().map(|p| self.len(*p) / rows.max(1)).collect();
        let y = self.output("concat", shape, pulled);
        let mut args = [None; MOST + 1];
        for (arg, part) in args.iter_mut().zip(parts) {
            *arg = Some(*part);
        }
        args[MOST] = Some(y);
        self.call(&CONCAT, &args, words(rows, 0, &widths), Defines::new(), 0);
        let pulled: Vec<Option<Var>> =
            parts.iter().map(|p| Some(*p).filter(|p| pulled.contains(p))).collect();
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            let mut left = pulled.clone();
            // One dispatch; one more for each time that a tensor comes again.
            while left.iter().any(Option::is_some) {
                let (mut args, mut accumulate) = ([None; MOST + 1], 0);
                let mut taken: Vec<Var> = Vec::new();
                args[0] = Some(dy);
                for (k, slot) in left.iter_mut().enumerate() {
                    let Some(part) = *slot else { continue };
                    if taken.iter().any(|t| tape.same(*t, part)) {
                        continue;
                    }
                    taken.push(part);
                    *slot = None;
                    if let Some(sink) = tape.sink(part) {
                        args[k + 1] = Some(sink.var);
                        accumulate |= sink.accumulate << k;
                    }
                }
                if args[1..].iter().any(Option::is_some) {
                    let words = words(rows, accumulate, &widths);
                    tape.call(&CONCAT_BACKWARD, &args, words, Defines::new(), 0);
                }
            }
            Ok(())
        });
        y
    }

    /// Columns `start` to `start + len` of the last axis.
    ///
    /// # Errors
    /// A span that is empty or goes past the end.
    pub fn slice(&mut self, x: Var, start: usize, len: usize) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        if len == 0 || start.checked_add(len).is_none_or(|end| end > cols) {
            let shape = self.shape(x);
            let detail = format!("columns {start} to {start} + {len} of {shape:?}");
            return Err(Error::shape("slice", detail));
        }
        let mut shape = self.shape(x).to_vec();
        if let Some(last) = shape.last_mut() {
            *last = len;
        }
        let y = self.output("slice", &shape, &[x]);
        let span = Span { rows, cols, start, len };
        span.record(self, x, Sink { var: y, accumulate: 0 }, false);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                span.record(tape, dy, dx, true);
            }
            Ok(())
        });
        Ok(y)
    }
}

impl Tape {
    /// The columns of the last axis moved `by` places towards its end: the first `by` become 0, the last
    /// `by` are left out. Of `[batch, steps · d]` and `d` it is the step before each one. One dispatch
    /// each way.
    ///
    /// # Errors
    /// A tensor without elements; no place, or more than there are columns.
    pub fn shift(&mut self, x: Var, by: usize) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        if by == 0 || by > cols || rows == 0 {
            let detail = format!("{:?} by {by}: want 1 to as many as columns", self.shape(x));
            return Err(Error::shape("shift", detail));
        }
        let shape = self.shape(x).to_vec();
        let y = self.output("shift", &shape, &[x]);
        let record = move |tape: &mut Tape, from: Var, to: Sink, first: u32| {
            let mut words = sizes(&[rows, cols, cols, 0, cols]);
            words.extend([first, to.accumulate]);
            tape.call(&SLICE, &[Some(from), Some(to.var)], words, Defines::new(), 0);
        };
        // From a column before the first on, counted in 32 bits as the kernel counts; back, from one
        // behind it.
        record(self, x, Sink { var: y, accumulate: 0 }, (by as u32).wrapping_neg());
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                record(tape, dy, dx, by as u32);
            }
            Ok(())
        });
        Ok(y)
    }
}

/// A span of columns of a matrix.
#[derive(Clone, Copy)]
struct Span {
    rows: usize,
    cols: usize,
    start: usize,
    len: usize,
}

impl Span {
    /// `P` of the kernel, to take the span out or to put it back.
    fn words(self, back: bool, accumulate: u32) -> Vec<u32> {
        let Span { rows, cols, start, len } = self;
        let mut words = match (back, accumulate) {
            (false, _) => sizes(&[rows, len, len, 0, cols, start]),
            (true, 0) => {
                let mut words = sizes(&[rows, cols, cols, 0, len]);
                // From a column before the first on, counted in 32 bits as the kernel counts.
                words.push((start as u32).wrapping_neg());
                words
            }
            (true, _) => sizes(&[rows, len, cols, start, len, 0]),
        };
        words.push(accumulate);
        words
    }

    fn record(self, tape: &mut Tape, from: Var, to: Sink, back: bool) {
        let words = self.words(back, to.accumulate);
        tape.call(&SLICE, &[Some(from), Some(to.var)], words, Defines::new(), 0);
    }
}

mod cases {
    use super::*;

    pub(super) fn concat(backward: bool) -> Vec<Case> {
        // Rows, widths, which gradients, accumulate bits.
        let list: [(usize, &[usize], u32, u32); 6] = [
            (1, &[1, 1], 0b11, 0),
            (3, &[5, 2, 4], 0b111, 0b010),
            (17, &[8, 4], 0b11, 0b01),
            (9, &[4, 12, 8, 16], 0b1111, 0b1001),
            (65, &[3, 1, 2, 7], 0b1010, 0),
            (33, &[64, 32, 4], 0b101, 0b100),
        ];
        list.into_iter()
            .map(|(rows, widths, wanted, accumulate)| {
                let total = rows * widths.iter().sum::<usize>();
                let mut parts: Vec<_> = widths
                    .iter()
                    .enumerate()
                    .map(|(k, w)| {
                        let on = !backward || wanted >> k & 1 == 1;
                        if on { arg(k as u64, rows * w) } else { None }
                    })
                    .collect();
                parts.resize(MOST, None);
                parts.insert(if backward { 0 } else { MOST }, arg(9, total));
                let name = format!("{rows} x {widths:?}");
                Case::new(name, words(rows, accumulate, widths), parts).flops(total as u64)
            })
            .collect()
    }

    pub(super) fn slice() -> Vec<Case> {
        // Rows, columns, start, length, put back, accumulate.
        let list = [
            (1, 1, 0, 1, false, 0),
            (5, 7, 2, 3, false, 0),
            (17, 24, 8, 4, false, 0),
            (5, 7, 2, 3, true, 0),
            (9, 40, 8, 16, true, 0),
            (65, 33, 31, 2, true, 1),
            (33, 64, 0, 60, true, 1),
        ];
        list.into_iter()
            .map(|(rows, cols, start, len, back, accumulate)| {
                let span = Span { rows, cols, start, len };
                let (long, short) = (arg(1, rows * cols), arg(2, rows * len));
                let args = if back { vec![short, long] } else { vec![long, short] };
                let name = format!("{rows}x{cols} at {start}+{len} back {back}");
                Case::new(name, span.words(back, accumulate), args)
            })
            .collect()
    }
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;

    /// For each part its index, its row, its column, and the place in the whole.
    fn places(t: &Twin) -> Vec<(usize, usize, usize)> {
        let widths = [4, 5, 6, 7].map(|i| t.size(i));
        let total: usize = widths.iter().sum();
        let mut places = Vec::new();
        for r in 0..t.size(0) {
            let mut at = r * total;
            for (k, width) in widths.iter().enumerate() {
                for c in 0..*width {
                    places.push((k, r * width + c, at + c));
                }
                at += width;
            }
        }
        places
    }

    /// Parts side by side.
    pub fn concat(t: &mut Twin) {
        let parts = [0, 1, 2, 3].map(|k| t.read(k));
        for (k, from, to) in places(t) {
            t.write(4)[to] = parts[k][from];
        }
    }

    /// Each part's gradient.
    pub fn concat_backward(t: &mut Twin) {
        let (dy, accumulate) = (t.read(0), t.size(1));
        for (k, to, from) in places(t) {
            if t.has(k + 1) {
                put(&mut t.write(k + 1)[to], dy[from], accumulate >> k & 1);
            }
        }
    }

    /// A span out of X into Y.
    pub fn slice(t: &mut Twin) {
        let [rows, span, y_cols, y_first, x_cols] = [0, 1, 2, 3, 4].map(|i| t.size(i));
        let (x_first, accumulate, x) = (t.words[5] as i32, t.size(6), t.read(0));
        for r in 0..rows {
            for j in 0..span {
                let from = usize::try_from(j as i64 + i64::from(x_first)).ok();
                let from = from.filter(|c| *c < x_cols);
                let value = from.map_or(0.0, |c| x[r * x_cols + c]);
                put(&mut t.write(1)[r * y_cols + y_first + j], value, accumulate);
            }
        }
    }
}
