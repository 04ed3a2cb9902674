//! From the token rows of packed sentences to one row for each: position 0, or the mean.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// A row for each sample; see `shaders/pool.wgsl`.
pub static POOL: Kernel = Kernel {
    name: "pool",
    source: include_str!("../../shaders/pool.wgsl"),
    bindings: &[
        // Rows that a sample has; without MEAN the first alone.
        Binding::read("X").part(|p, defines, len| match defines.contains_key("MEAN") {
            true => [len, 0],
            false => [u64::from(p[0]) * u64::from(p[1]), 0],
        }),
        Binding::read("SPANS"),
        Binding::write("OUT"),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1] / 4) as usize, 64)),
    twin: reference::pool,
    cases: || cases(false),
};

/// Its gradient; see `shaders/pool_backward.wgsl`.
pub static POOL_BACKWARD: Kernel = Kernel {
    name: "pool_backward",
    source: include_str!("../../shaders/pool_backward.wgsl"),
    bindings: &[Binding::read("DOUT"), Binding::read("TOKENS"), Binding::write("DX").adds(2)],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1] / 4) as usize, 64)),
    twin: reference::pool_backward,
    cases: || cases(true),
};

impl Tape {
    /// The hidden state at position 0 of each sample: `x [T, cols]`, `tokens [T, 4]`,
    /// `spans [batch, 2]` → `[batch, cols]`.
    ///
    /// # Errors
    /// Sizes that do not fit; cols that are no multiple of 4.
    pub fn pool_first(&mut self, x: Var, tokens: Var, spans: Var) -> Result<Var> {
        self.pool("position 0", x, tokens, spans, Defines::new())
    }

    /// The mean of each sample's hidden states; as [`pool_first`](Self::pool_first).
    ///
    /// # Errors
    /// Sizes that do not fit; cols that are no multiple of 4.
    pub fn pool_mean(&mut self, x: Var, tokens: Var, spans: Var) -> Result<Var> {
        self.pool("mean of tokens", x, tokens, spans, Defines::from([("MEAN", 1)]))
    }

    fn pool(
        &mut self,
        name: &'static str,
        x: Var,
        tokens: Var,
        spans: Var,
        defines: Defines,
    ) -> Result<Var> {
        let ((rows, cols), (batch, two)) = (self.rows_cols(x), self.rows_cols(spans));
        if two != 2
            || cols % 4 != 0
            || batch * cols * rows == 0
            || self.rows_cols(tokens) != (rows, 4)
        {
            let shapes = [x, tokens, spans].map(|v| self.shape(v).to_vec());
            let detail = format!("{shapes:?}: want [T, 4 k], [T, 4] and [batch, 2]");
            return Err(Error::shape("pool", detail));
        }
        let y = self.output(name, &[batch, cols], &[x]);
        let words = sizes(&[batch, cols, rows]);
        let args = [Some(x), Some(spans), Some(y)];
        self.call(&POOL, &args, words, defines.clone(), (rows * cols) as u64);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                let words = sizes(&[rows, cols, dx.accumulate as usize, batch]);
                let args = [Some(dy), Some(tokens), Some(dx.var)];
                tape.call(&POOL_BACKWARD, &args, words, defines.clone(), (rows * cols) as u64);
            }
            Ok(())
        });
        Ok(y)
    }
}

fn cases(backward: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, cols) in [4, 20, 128].into_iter().enumerate() {
        let lengths = [5_u32, 1, 9];
        let (mut spans, mut tokens, mut first) = (Vec::new(), Vec::new(), 0);
        for (sample, length) in lengths.into_iter().enumerate() {
            spans.extend([first, length]);
            (0..length).for_each(|p| tokens.extend([0, p | (p % 2) << 16, length, sample as u32]));
            first += length;
        }
        // Three rows without a token.
        tokens.extend([0; 12]);
        let rows = tokens.len() / 4;
        for mean in [false, true] {
            let (words, args) = if backward {
                let args =
                    vec![arg(1, 3 * cols), Some(CaseArg::U(tokens.clone())), arg(2, rows * cols)];
                (sizes(&[rows, cols, i % 2, 3]), args)
            } else {
                let args =
                    vec![arg(1, rows * cols), Some(CaseArg::U(spans.clone())), arg(2, 3 * cols)];
                (sizes(&[3, cols, rows]), args)
            };
            let case = Case::new(format!("{cols}, mean {mean}"), words, args);
            cases.push(if mean { case.define("MEAN", 1) } else { case });
        }
    }
    cases
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;

    /// Position 0, or the mean.
    pub fn pool(t: &mut Twin) {
        let (batch, cols, rows, x) = (t.size(0), t.size(1), t.size(2), t.read(0));
        let spans = t.words_of(1).to_vec();
        for b in 0..batch {
            let first = (spans[2 * b] as usize).min(rows - 1);
            let length = (spans[2 * b + 1] as usize).min(rows - first);
            let taken = if t.is("MEAN") { length } else { 1 };
            for c in 0..cols {
                let sum: f32 = (first..first + taken).map(|r| x[r * cols + c]).sum();
                t.write(2)[b * cols + c] = sum / taken.max(1) as f32;
            }
        }
    }

    /// Each row's share of its sample's gradient.
    pub fn pool_backward(t: &mut Twin) {
        let [rows, cols, accumulate, batch] = [0, 1, 2, 3].map(|i| t.size(i));
        let (dout, tokens) = (t.read(0), t.words_of(1).to_vec());
        for r in 0..rows {
            let [place, length, sample] = [1, 2, 3].map(|i| tokens[4 * r + i] as usize);
            let share = match (t.is("MEAN"), length, place & 0xffff) {
                _ if length == 0 || sample >= batch => None,
                (true, length, _) => Some(1.0 / length as f32),
                (false, _, 0) => Some(1.0),
                _ => None,
            };
            for c in 0..cols {
                let d = share.map_or(0.0, |share| share * dout[sample * cols + c]);
                put(&mut t.write(2)[r * cols + c], d, accumulate);
            }
        }
    }
}
