//! From the token rows of packed sentences to padded sequences, as what attends to them wants them, and
//! back.

use super::elementwise::add_scaled;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// A sequence for each sample; see `shaders/unpack.wgsl`.
pub static UNPACK: Kernel = Kernel {
    name: "unpack",
    source: include_str!("../../shaders/unpack.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("SPANS"), Binding::write("OUT")],
    step: false,
    launch: |_, words, _| {
        Launch::of(grid(words[0] as usize * words[3] as usize * words[1] as usize / 4, 64))
    },
    twin: reference::unpack,
    cases: || cases(false),
};

/// Its gradient; see `shaders/unpack_backward.wgsl`.
pub static UNPACK_BACKWARD: Kernel = Kernel {
    name: "unpack_backward",
    source: include_str!("../../shaders/unpack_backward.wgsl"),
    bindings: &[Binding::read("DOUT"), Binding::read("TOKENS"), Binding::write("DX").adds(2)],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1] / 4) as usize, 64)),
    twin: reference::unpack_backward,
    cases: || cases(true),
};

impl Tape {
    /// The rows of each sample in a sequence of its own, with zeros behind them: `x [T, cols]`,
    /// `tokens [T, 4]`, `spans [batch, 2]` → `[batch, steps, cols]`. What a sample has past `steps` is
    /// left out.
    ///
    /// # Errors
    /// Sizes that do not fit; cols that are no multiple of 4.
    pub fn unpack(&mut self, x: Var, tokens: Var, spans: Var, steps: usize) -> Result<Var> {
        let ((rows, cols), (batch, two)) = (self.rows_cols(x), self.rows_cols(spans));
        if two != 2
            || cols % 4 != 0
            || batch * cols * rows * steps == 0
            || self.rows_cols(tokens) != (rows, 4)
        {
            let shapes = [x, tokens, spans].map(|v| self.shape(v).to_vec());
            let detail = format!("{shapes:?}, {steps} steps: want [T, 4 k], [T, 4], [batch, 2]");
            return Err(Error::shape("unpack", detail));
        }
        let y = self.output("unpack", &[batch, steps, cols], &[x]);
        let sizes = Sizes { batch, steps, cols, rows };
        apart(self, (x, spans), y, sizes);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                together(tape, (dy, tokens), dx, sizes);
            }
            Ok(())
        });
        Ok(y)
    }

    /// The other way round: of each token the row of its sample and position, `x [batch, steps, cols]`,
    /// `tokens [T, 4]`, `spans [batch, 2]` → `[T, cols]`. Rows of no sample, and those of tokens past
    /// `steps`, are 0.
    ///
    /// # Errors
    /// Sizes that do not fit; cols that are no multiple of 4.
    pub fn pack(&mut self, x: Var, tokens: Var, spans: Var) -> Result<Var> {
        let (of_x, (rows, four), of_spans) =
            (self.shape(x).to_vec(), self.rows_cols(tokens), self.rows_cols(spans));
        let sizes = match of_x[..] {
            [batch, steps, cols]
                if four == 4
                    && cols % 4 == 0
                    && batch * steps * cols * rows > 0
                    && of_spans == (batch, 2) =>
            {
                Sizes { batch, steps, cols, rows }
            }
            _ => {
                let shapes = [x, tokens, spans].map(|v| self.shape(v).to_vec());
                let detail = format!("{shapes:?}: want [batch, steps, 4 k], [T, 4], [batch, 2]");
                return Err(Error::shape("pack", detail));
            }
        };
        let y = self.output("pack", &[rows, sizes.cols], &[x]);
        together(self, (x, tokens), Sink { var: y, accumulate: 0 }, sizes);
        self.on_backward(&[y], move |tape| {
            let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) else { return Ok(()) };
            if dx.accumulate == 0 {
                apart(tape, (dy, spans), dx.var, sizes);
            } else {
                let each = tape.output("d.each", &of_x, &[]);
                apart(tape, (dy, spans), each, sizes);
                add_scaled(tape, each, of_x.iter().product(), 1.0, dx);
            }
            Ok(())
        });
        Ok(y)
    }
}

/// How much of everything there is.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    steps: usize,
    cols: usize,
    rows: usize,
}

/// Records `x [rows, cols]` → `y [batch, steps, cols]`.
fn apart(tape: &mut Tape, (x, spans): (Var, Var), y: Var, s: Sizes) {
    let words = sizes(&[s.batch, s.cols, s.rows, s.steps]);
    tape.call(&UNPACK, &[Some(x), Some(spans), Some(y)], words, Defines::new(), 0);
}

/// Records `x [batch, steps, cols]` → `y [rows, cols]`.
fn together(tape: &mut Tape, (x, tokens): (Var, Var), y: Sink, s: Sizes) {
    let words = sizes(&[s.rows, s.cols, y.accumulate as usize, s.batch, s.steps]);
    let args = [Some(x), Some(tokens), Some(y.var)];
    tape.call(&UNPACK_BACKWARD, &args, words, Defines::new(), 0);
}

fn cases(backward: bool) -> Vec<Case> {
    // Columns, and steps: more than the longest sample has, as many, and fewer.
    let list = [(4, 12), (20, 9), (128, 4)];
    let made = list.into_iter().enumerate().map(|(i, (cols, steps))| {
        let lengths = [5_u32, 1, 9];
        let (mut spans, mut tokens, mut first) = (Vec::new(), Vec::new(), 0);
        for (sample, length) in lengths.into_iter().enumerate() {
            spans.extend([first, length]);
            (0..length).for_each(|p| tokens.extend([0, p | (p % 2) << 16, length, sample as u32]));
            first += length;
        }
        // Three rows without a token.
        tokens.extend([0; 12]);
        let (rows, name) = (tokens.len() / 4, format!("{cols}, {steps} steps"));
        let padded = 3 * steps * cols;
        let (words, args) = if backward {
            let tokens = Some(CaseArg::U(tokens));
            let words = sizes(&[rows, cols, i % 2, 3, steps]);
            (words, vec![arg(1, padded), tokens, arg(2, rows * cols)])
        } else {
            let spans = Some(CaseArg::U(spans));
            (sizes(&[3, cols, rows, steps]), vec![arg(1, rows * cols), spans, arg(2, padded)])
        };
        Case::new(name, words, args)
    });
    made.collect()
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;

    /// Rows to their places.
    pub fn unpack(t: &mut Twin) {
        let [batch, cols, rows, steps] = [0, 1, 2, 3].map(|i| t.size(i));
        let (x, spans) = (t.read(0), t.words_of(1).to_vec());
        for (b, span) in spans.chunks(2).take(batch).enumerate() {
            let first = (span[0] as usize).min(rows - 1);
            let length = (span[1] as usize).min(rows - first);
            for s in 0..steps {
                for c in 0..cols {
                    let there = if s < length { x[(first + s) * cols + c] } else { 0.0 };
                    t.write(2)[(b * steps + s) * cols + c] = there;
                }
            }
        }
    }

    /// Back from their places.
    pub fn unpack_backward(t: &mut Twin) {
        let [rows, cols, accumulate, batch, steps] = [0, 1, 2, 3, 4].map(|i| t.size(i));
        let (dout, tokens) = (t.read(0), t.words_of(1).to_vec());
        for (r, token) in tokens.chunks(4).take(rows).enumerate() {
            let [place, length, sample] = [1, 2, 3].map(|i| token[i] as usize);
            let position = place & 0xffff;
            let there = length > 0 && sample < batch && position < steps;
            for c in 0..cols {
                let d = if there { dout[(sample * steps + position) * cols + c] } else { 0.0 };
                put(&mut t.write(2)[r * cols + c], d, accumulate);
            }
        }
    }
}
