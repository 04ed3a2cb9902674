//! Positions of a sequence's steps, added to it. Learned ones are a parameter `[steps, d]` and
//! [`Tape::add`], or [`Tape::embedding`] where the numbers are data.

use super::elementwise::{add_scaled, vectors};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, Kernel, Twin};
use crate::tape::{Tape, Var};

/// A sequence and its positions; see `shaders/positions.wgsl`.
pub static POSITIONS: Kernel = Kernel {
    name: "positions",
    source: include_str!("../../shaders/positions.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("TABLE"), Binding::write("Y")],
    step: false,
    launch: |_, words, _| vectors(words[0], words[2].is_multiple_of(4)),
    twin: reference::positions,
    cases,
};

/// How a sinusoid table is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sinusoid {
    /// Sines in the first half of the channels, cosines in the second, as fairseq, tensor2tensor and
    /// MulT have them: frequency k is `10000^(−k / (d / 2 − 1))`, the first step is position 1. An odd
    /// last channel is 0.
    Halves,
    /// The same, but steps whose channel 0 is exactly 0 are padding and get no position; as MulT's
    /// encoder has it.
    HalvesPadded,
    /// Sine and cosine by turns, as "Attention Is All You Need" has them (arXiv:1706.03762, section
    /// 3.5): channels 2 k and 2 k + 1 have frequency `10000^(−2 k / d)`, the first step is position 0.
    Interleaved,
}

impl Sinusoid {
    /// The table, `[steps, d]`.
    pub fn table(self, steps: usize, d: usize) -> Vec<f32> {
        let half = d / 2;
        let entry = |t: usize, c: usize| -> f64 {
            let (position, k, cosine, over) = match self {
                Sinusoid::Interleaved => (t, c / 2, c % 2 == 1, d as f64 / 2.0),
                _ if half == 0 || c == 2 * half => return 0.0,
                _ => (t + 1, c % half, c >= half, half.saturating_sub(1).max(1) as f64),
            };
            let angle = position as f64 * (-(k as f64) / over * 10_000_f64.ln()).exp();
            if cosine { angle.cos() } else { angle.sin() }
        };
        let all = (0..steps).flat_map(|t| (0..d).map(move |c| (t, c)));
        all.map(|(t, c)| entry(t, c) as f32).collect()
    }
}

impl Tape {
    /// `scale · x + positions`, for `x [batch, steps, d]`: the sinusoids of `kind`, the same for each
    /// sample. Transformers scale by √d here. The table is a constant of the recording; its rows do not
    /// learn. One dispatch each way.
    ///
    /// # Errors
    /// Another rank, no elements.
    pub fn sinusoid(&mut self, x: Var, kind: Sinusoid, scale: f32) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        let (steps, cols) = match shape[..] {
            [batch, steps, cols] if batch * steps * cols > 0 => (steps, cols),
            _ => {
                let detail = format!("{shape:?}: want [batch, steps, d] with elements");
                return Err(Error::shape("sinusoid", detail));
            }
        };
        let table = self.constant("positions", &[steps, cols], &kind.table(steps, cols))?;
        let (y, len) = (self.output("positioned", &shape, &[x]), self.len(x));
        let mut words = sizes(&[len, steps, cols]);
        words.push(scale.to_bits());
        let mut defines = Defines::new();
        if kind == Sinusoid::HalvesPadded {
            defines.insert("PADDING", 1);
        }
        let args = [Some(x), Some(table), Some(y)];
        self.call(&POSITIONS, &args, words, defines, 2 * len as u64);
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                add_scaled(tape, dy, len, scale, dx);
            }
            Ok(())
        });
        Ok(y)
    }
}

fn cases() -> Vec<Case> {
    [(1, 1, 1), (2, 3, 5), (3, 7, 8), (2, 9, 6), (4, 33, 20)]
        .into_iter()
        .flat_map(|shape| [false, true].map(|padding| (shape, padding)))
        .map(|((batch, steps, cols), padding)| {
            let n = batch * steps * cols;
            let mut x = super::random(1, n);
            // Steps of padding, and zeros elsewhere.
            x.iter_mut().skip(5).step_by(7).for_each(|v| *v = 0.0);
            let mut words = sizes(&[n, steps, cols]);
            words.push(1.5_f32.to_bits());
            let args = vec![Some(crate::plan::CaseArg::F(x)), arg(2, steps * cols), arg(3, n)];
            let name = format!("{batch}x{steps}x{cols} padding {padding}");
            let case = Case::new(name, words, args).flops(2 * n as u64);
            if padding { case.define("PADDING", 1) } else { case }
        })
        .collect()
}

/// CPU twins.
pub mod reference {
    use super::*;

    /// scale x + position, or scale x where the step is padding.
    pub fn positions(t: &mut Twin) {
        let [n, steps, cols] = [0, 1, 2].map(|i| t.size(i));
        let (scale, x, table) = (t.float(3), t.read(0), t.read(1));
        for i in 0..n {
            let padding = t.is("PADDING") && x[i / cols * cols] == 0.0;
            let position = if padding { 0.0 } else { table[i % (steps * cols)] };
            t.write(2)[i] = scale * x[i] + position;
        }
    }
}
