//! Dropout, its mask computed from counters and never stored.

use super::elementwise::by_fours;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, Kernel, Twin};
use crate::tape::{Sink, Tape, Var};

/// `Y (+)= X mask / (1 - p)`; see `shaders/dropout.wgsl`.
pub static DROPOUT: Kernel = Kernel {
    name: "dropout",
    source: include_str!("../../shaders/dropout.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y").adds(1)],
    step: true,
    launch: by_fours,
    twin: reference::dropout,
    cases: || {
        let list = [(1, 0, 0.5), (63, 1, 0.1), (64, 0, 0.9), (1028, 1, 0.3), (777, 0, 0.0)];
        list.into_iter()
            .map(|(n, accumulate, p)| {
                let words = words(n, accumulate, Mask(Some((5, p))));
                Case::new(format!("{n} at {p}"), words, vec![arg(1, n), arg(2, n)])
            })
            .collect()
    },
};

/// Dropout as kernels take it; `None` is none at all.
#[derive(Clone, Copy, Default)]
pub(super) struct Mask(pub Option<(u32, f32)>);

impl Mask {
    /// A mask of `p` with random numbers of its own, or none where `p` is 0.
    pub(super) fn new(tape: &mut Tape, p: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::Config(format!("dropout of {p}: want 0 or more and less than 1")));
        }
        Ok(Mask((p > 0.0).then(|| (tape.next_stream(), p))))
    }

    /// Stream, p 2^32, 1 / (1 − p).
    pub(super) fn words(self) -> [u32; 3] {
        let (stream, p) = self.0.unwrap_or((0, 0.0));
        [stream, (f64::from(p) * 4_294_967_296.0) as u32, (1.0 / (1.0 - p)).to_bits()]
    }

    /// `DROP`, where there is any.
    pub(super) fn defines(self) -> Defines {
        self.0.map(|_| ("DROP", 1)).into_iter().collect()
    }
}

fn words(len: usize, accumulate: u32, mask: Mask) -> Vec<u32> {
    let mut words = sizes(&[len]);
    words.push(accumulate);
    words.extend(mask.words());
    words
}

impl Tape {
    /// Zeroes each element with probability `p` and scales the others by 1 / (1 − p). Which ones
    /// follows from the run's seed, the step, and the order of dropouts on the tape. Leave it out
    /// of a tape for evaluation; `p` = 0 leaves it out, too.
    ///
    /// # Errors
    /// A `p` outside [0, 1).
    pub fn dropout(&mut self, x: Var, p: f32) -> Result<Var> {
        let mask = Mask::new(self, p)?;
        if mask.0.is_none() {
            return Ok(x);
        }
        let (shape, len) = (self.shape(x).to_vec(), self.len(x));
        let y = self.output("dropout", &shape, &[x]);
        let record = move |tape: &mut Tape, from: Var, to: Sink| {
            let words = words(len, to.accumulate, mask);
            tape.call(&DROPOUT, &[Some(from), Some(to.var)], words, Defines::new(), len as u64);
        };
        record(self, x, Sink { var: y, accumulate: 0 });
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                record(tape, dy, dx);
            }
            Ok(())
        });
        Ok(y)
    }
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;

    fn pcg(v: u32) -> u32 {
        let state = v.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }

    /// 32 random bits of the counters, as `shaders/shared/rng.wgsl` has them.
    pub fn random_bits(seed: u32, step: u32, stream: u32, element: u32) -> u32 {
        pcg(element ^ pcg(stream ^ pcg(step ^ pcg(seed))))
    }

    /// The factor of an element, 0 or 1 / (1 − p), by the words of a `Mask` from `at` on. Those
    /// of none make it 1.
    pub fn factor(t: &Twin, at: usize, element: usize) -> f32 {
        let (seed, step) = (t.step.seed, t.step.step);
        let kept = random_bits(seed, step, t.words[at], element as u32) >= t.words[at + 1];
        if kept { t.float(at + 2) } else { 0.0 }
    }

    /// `Y (+)= X factor`.
    pub fn dropout(t: &mut Twin) {
        let (accumulate, x) = (t.size(1), t.read(0));
        for (i, x) in x.iter().enumerate() {
            let value = x * factor(t, 2, i);
            put(&mut t.write(1)[i], value, accumulate);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::random_bits;

        #[test]
        fn as_many_are_kept_as_asked_for() {
            for (stream, p) in [(1_u32, 0.1_f64), (2, 0.5), (3, 0.9)] {
                let threshold = (p * 4_294_967_296.0) as u32;
                let n = 100_000;
                let kept = (0..n).filter(|i| random_bits(7, 3, stream, *i) >= threshold).count();
                let share = kept as f64 / f64::from(n);
                assert!((share - (1.0 - p)).abs() < 0.005, "p {p}: kept {share}");
            }
        }

        #[test]
        fn counters_tell_masks_apart() {
            let mask = |seed, step, stream| -> Vec<bool> {
                (0..1000).map(|i| random_bits(seed, step, stream, i) >= 1 << 31).collect()
            };
            let one = mask(1, 1, 1);
            for other in [mask(2, 1, 1), mask(1, 2, 1), mask(1, 1, 2)] {
                let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
                assert!((400..600).contains(&same), "{same} of 1000 agree");
            }
        }
    }
}
