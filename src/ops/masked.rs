//! Softmax over the entries of a row that are there: sequences padded to one length, sets with
//! members left out.

use super::reduce::row_launch;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Twin};
use crate::tape::{Tape, Var};

/// Softmax of what is kept of each row; see `shaders/masked_softmax.wgsl`. Its gradient is that of
/// [`softmax`](super::softmax): what is not kept has probability 0, and so gets nothing.
pub static MASKED_SOFTMAX: Kernel = Kernel {
    name: "masked_softmax",
    source: include_str!("../../shaders/masked_softmax.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("LENGTHS").or_none(),
        Binding::read("MASK").or_none(),
        Binding::write("Y"),
    ],
    step: false,
    launch: |family, words, _| {
        let (rows, cols) = (words[0] as usize, words[1] as usize);
        row_launch(family, rows, cols, cols.is_multiple_of(4))
    },
    twin: reference::masked_softmax,
    cases,
};

/// Which entries of a row count. Both kinds may have fewer rows than there are to normalise, if they
/// divide them: then each serves as many consecutive rows, as one length serves all heads and
/// queries of a sample in `[batch, heads, queries, keys]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The first so many: `[g]`, unsigned. More than there are is all of them.
    Lengths(Var),
    /// Those whose word is not 0: `[.., n]` of g rows, unsigned integers or f32.
    Mask(Var),
}

impl Tape {
    /// Softmax over those entries of the last axis of `x [.., n]` that `keep` names; the others get
    /// 0, whatever they hold, and no gradient. A row of which nothing is kept is 0, where PyTorch's
    /// `softmax(x.masked_fill(mask, -inf))` is not a number.
    ///
    /// # Errors
    /// A tensor without elements; lengths or a mask whose rows do not divide those of `x`, a mask of
    /// another width.
    pub fn masked_softmax(&mut self, x: Var, keep: Keep) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let (of, groups, fits) = match keep {
            Keep::Lengths(lengths) => (lengths, self.len(lengths), true),
            Keep::Mask(mask) => (mask, self.rows_cols(mask).0, self.rows_cols(mask).1 == cols),
        };
        if rows * cols == 0 || groups == 0 || !fits || !rows.is_multiple_of(groups) {
            let (x, of) = (self.shape(x), self.shape(of));
            let detail = match keep {
                Keep::Lengths(_) => {
                    format!(
                        "x {x:?}, lengths {of:?}: want [.., n] and [g], g a divisor of the rows"
                    )
                }
                Keep::Mask(_) => {
                    format!(
                        "x {x:?}, mask {of:?}: want [.., n] and [g, n], g a divisor of the rows"
                    )
                }
            };
            return Err(Error::shape("masked_softmax", detail));
        }
        let shape = self.shape(x).to_vec();
        let y = self.output("masked_softmax", &shape, &[x]);
        let flops = 6 * (rows * cols) as u64;
        let (lengths, mask) = match keep {
            Keep::Lengths(v) => (Some(v), None),
            Keep::Mask(v) => (None, Some(v)),
        };
        let words = sizes(&[rows, cols, rows / groups]);
        let args = [Some(x), lengths, mask, Some(y)];
        self.call(&MASKED_SOFTMAX, &args, words, Defines::new(), flops);
        self.softmax_gradient(x, y);
        Ok(y)
    }
}

fn cases() -> Vec<Case> {
    // Rows that share a mask, how many such groups, columns, by lengths.
    let list = [
        (1, 1, 1, true),
        (1, 3, 5, true),
        (2, 5, 16, false),
        (3, 22, 3, false),
        (3, 5, 17, true),
        (1, 70, 68, true),
        (4, 2, 68, false),
        (2, 2, 1028, true),
        (1, 3, 1030, false),
        (2, 65, 33, false),
    ];
    list.into_iter()
        .map(|(per, groups, cols, by_lengths)| {
            let rows = per * groups;
            // Far enough apart that some exponents reach the clamp; what is not kept may be anything.
            let mut x = super::random(1, rows * cols);
            x.iter_mut().for_each(|v| *v *= *v * *v * 50.0);
            // None, some, all, and more than there are.
            let lengths: Vec<u32> = (0..groups).map(|g| (g * 7 % (cols + 3)) as u32).collect();
            // Unsigned ones, floats, and a negative zero; the second row keeps nothing.
            let word = |i: usize| match (i / cols, i * 5 % 7) {
                (1, _) | (_, 0) => 0,
                (_, 1) => 0x8000_0000,
                (_, 2) => 1,
                _ => 1.0_f32.to_bits(),
            };
            let mask: Vec<u32> = (0..groups * cols).map(word).collect();
            for (i, x) in x.iter_mut().enumerate() {
                let (group, c) = (i / cols / per, i % cols);
                let kept = match by_lengths {
                    true => c < lengths[group] as usize,
                    false => mask[group * cols + c] << 1 != 0,
                };
                if !kept && i % 3 == 0 {
                    *x = f32::NAN;
                }
            }
            let (lengths, mask) = if by_lengths {
                (Some(CaseArg::U(lengths)), None)
            } else {
                (None, Some(CaseArg::U(mask)))
            };
            let kind = if by_lengths { "lengths" } else { "mask" };
            let name = format!("{per}x{groups}x{cols} by {kind}");
            let args = vec![Some(CaseArg::F(x)), lengths, mask, arg(2, rows * cols)];
            let case = Case::new(name, sizes(&[rows, cols, per]), args).within(2e-5);
            case.flops(6 * (rows * cols) as u64)
        })
        .collect()
}

/// CPU twins.
pub mod reference {
    use super::*;

    /// `x`, but no less than `least`; what is not a number stays so.
    pub(in crate::ops) fn above(x: f32, least: f32) -> f32 {
        if x < least { least } else { x }
    }

    /// exp(x − m) / Σ over what is kept.
    pub fn masked_softmax(t: &mut Twin) {
        let [rows, cols, per] = [0, 1, 2].map(|i| t.size(i));
        let (x, lengths, mask) = (t.read(0), t.words_of(1).to_vec(), t.words_of(2).to_vec());
        for r in 0..rows {
            let kept = |c: usize| match lengths.get(r / per) {
                Some(length) => c < *length as usize,
                None => mask[r / per * cols + c] << 1 != 0,
            };
            let x = &x[r * cols..][..cols];
            let all: Vec<usize> = (0..cols).filter(|c| kept(*c)).collect();
            let m = all.iter().map(|c| x[*c]).fold(f32::MIN, f32::max);
            let share = |c: usize| above(x[c] - m, -80.0).exp();
            let sum: f64 = all.iter().map(|c| f64::from(share(*c))).sum();
            let y = &mut t.write(3)[r * cols..][..cols];
            y.fill(0.0);
            for c in all {
                y[c] = share(c) / sum as f32;
            }
        }
    }
}
