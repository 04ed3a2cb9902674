//! The next octave of a signal: a low-pass filter and every second sample. Signals are inputs, so
//! there is no gradient.

use super::{arg, random, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// Filtered and halved; see `shaders/decimate.wgsl`.
pub static DECIMATE: Kernel = Kernel {
    name: "decimate",
    source: include_str!("../../shaders/decimate.wgsl"),
    bindings: &[
        Binding::write("X").part(|p, defines, _| {
            let taps = defines.get("QUADS").map_or(0, |q| u64::from(4 * q));
            [2 * u64::from(p[2]) + taps, u64::from(p[2])]
        }),
        Binding::read("RANGE").part(|_, _, _| [2, 0]),
    ],
    step: false,
    launch: |family: Family, words: &[u32], defines: &Defines| {
        let wg = if family.lanes() > 0 { family.lanes() } else { 64 };
        let quads = defines.get("QUADS").map_or(0, |q| u64::from(*q));
        let launch = Launch::of(grid(words[2] as usize / 8, wg as usize)).with("WG", wg);
        launch.iterations(quads + 4).long()
    },
    twin: reference::decimate,
    cases,
};

/// One octave to make of another, in a buffer that holds both.
#[derive(Clone, Copy, Debug)]
pub struct Octave {
    /// Where what is read begins: a multiple of 4. It goes on for `2 count` samples and as many as
    /// the filter has.
    pub from: usize,
    /// Where what is written begins: a multiple of 4.
    pub to: usize,
    /// Samples to write: a multiple of 8.
    pub count: usize,
    /// Which row of the ranges says where the signal has samples.
    pub level: usize,
}

impl Tape {
    /// `x[to + m] = Σ_j filter[j] x[from + 2m + j]`, and 0 for `m` outside the range
    /// `[lo, hi)` (i32) that row `level` of `ranges [levels, 2]` holds. It has no gradient.
    ///
    /// # Errors
    /// Parts that do not fit the buffer, or overlap.
    pub fn decimate(&mut self, x: Var, ranges: Var, filter: &[f32], octave: Octave) -> Result<()> {
        let Octave { from, to, count, level } = octave;
        let quads = filter.len().div_ceil(4);
        let (end, levels) = (from + 2 * count + 4 * quads, self.len(ranges) / 2);
        let whole = from % 4 + to % 4 + count % 8 == 0 && count > 0 && !filter.is_empty();
        let apart = end <= to || to + count <= from;
        if !whole || !apart || end.max(to + count) > self.len(x) || level >= levels {
            let detail = format!(
                "{octave:?} with a filter of {} in {:?} and {levels} ranges",
                filter.len(),
                self.shape(x)
            );
            return Err(Error::shape("decimate", detail));
        }
        let flops = (2 * count * filter.len()) as u64;
        let words = words(filter, octave);
        self.call(&DECIMATE, &[Some(x), Some(ranges)], words, defines(filter), flops);
        Ok(())
    }
}

fn words(filter: &[f32], o: Octave) -> Vec<u32> {
    let mut words = sizes(&[o.from, o.to, o.count, o.level]);
    words.extend([0; 16]);
    words.extend(filter.iter().map(|h| h.to_bits()));
    words.resize((words.len().div_ceil(4) + 4) * 4, 0);
    words
}

fn defines(filter: &[f32]) -> Defines {
    Defines::from([("QUADS", filter.len().div_ceil(4) as u32)])
}

fn cases() -> Vec<Case> {
    // Filter, from, to, count, range.
    [
        (1, 0, 32, 8, [0, 8]),
        (7, 4, 128, 16, [-5, 11]),
        (8, 256, 0, 72, [3, 90]),
        (361, 8, 4096, 1544, [180, 1500]),
        (33, 0, 512, 40, [50, 60]),
    ]
    .into_iter()
    .map(|(taps, from, to, count, range): (usize, usize, usize, usize, [i32; 2])| {
        let filter: Vec<f32> = random(9, taps).iter().map(|h| h / (taps as f32).sqrt()).collect();
        let octave = Octave { from, to, count, level: 1 };
        let len = (from + 2 * count + 4 * taps.div_ceil(4)).max(to + count).next_multiple_of(4);
        let ranges = [7, 7, range[0] as u32, range[1] as u32, 0, 0];
        let args = vec![arg(1, len), Some(CaseArg::U(ranges.to_vec()))];
        let mut case =
            Case::new(format!("{taps} taps, {count} samples"), words(&filter, octave), args)
                .flops((2 * count * taps) as u64);
        case.defines = defines(&filter);
        case
    })
    .collect()
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// Filtered, and every second sample.
    pub fn decimate(t: &mut Twin) {
        let [from, to, count, level] = [0, 1, 2, 3].map(|i| t.size(i));
        let quads = t.defines.get("QUADS").map_or(0, |q| *q as usize);
        let filter: Vec<f32> = (0..4 * quads).map(|j| t.float(20 + j)).collect();
        let (x, range) = (t.read(0), t.words_of(1)[2 * level..2 * level + 2].to_vec());
        let inside = range[0] as i32..range[1] as i32;
        for m in 0..count {
            let terms = filter.iter().zip(&x[from + 2 * m..]);
            let sum: f64 = terms.map(|(h, x)| f64::from(*h) * f64::from(*x)).sum();
            t.write(0)[to + m] = if inside.contains(&(m as i32)) { sum as f32 } else { 0.0 };
        }
    }
}
