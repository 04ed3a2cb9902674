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
        let base = pcg(step ^ pcg(seed));
        let salt = (pcg(stream ^ base), base.wrapping_add(stream.wrapping_mul(2_654_435_769)));
        pcg(pcg(element ^ salt.0).wrapping_add(salt.1))
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
        use super::{pcg, random_bits};

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

        /// Two streams with nothing in common agree where coins would: over 2^14 elements the
        /// correlation of their numbers stays within four standard deviations, at every shift, and
        /// where one is read in an order in which a single key would give the other's numbers.
        #[test]
        fn streams_are_independent() {
            const N: u32 = 1 << 14;
            let counters =
                [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 1), (1, 3, 1), (2, 1, 1), (9, 70, 12)];
            let bits = |(seed, step, stream): (u32, u32, u32)| -> Vec<u32> {
                (0..2 * N).map(|i| random_bits(seed, step, stream, i)).collect()
            };
            let streams: Vec<Vec<u32>> = counters.into_iter().map(bits).collect();
            // Of uniform numbers in [-1, 1), whose variance is a third.
            let number = |bits: u32| f64::from(bits) / 2_147_483_648.0 - 1.0;
            let agree = |pairs: &mut dyn Iterator<Item = (u32, u32)>| -> f64 {
                let (sum, n) = pairs
                    .fold((0.0, 0.0), |(sum, n), (a, b)| (sum + number(a) * number(b), n + 1.0));
                (3.0 * sum / f64::sqrt(n)).abs()
            };
            let mut worst: f64 = 0.0;
            let mut tried = 0;
            for (s, one) in streams.iter().enumerate() {
                for (t, other) in streams.iter().enumerate().skip(s) {
                    for shift in (0..64).chain([127, 128, 512, 768, 1024, 4096, 16383]) {
                        if s == t && shift == 0 {
                            continue;
                        }
                        let shifted = &other[shift as usize..][..N as usize];
                        let mut plain = one.iter().copied().zip(shifted.iter().copied());
                        worst = worst.max(agree(&mut plain));
                        let crossed = (0..N).map(|i| other[(i ^ shift) as usize]);
                        let mut crossed = one.iter().copied().zip(crossed);
                        worst = worst.max(agree(&mut crossed));
                        tried += 2;
                    }
                    // Two streams share hardly a number: of 2^15 and 2^15 in 2^32 a quarter of one.
                    let known: std::collections::BTreeSet<u32> = one.iter().copied().collect();
                    let common = other.iter().filter(|b| known.contains(b)).count();
                    assert!(s == t || common < 8, "{s} and {t} share {common} numbers");
                }
            }
            // The largest of so many is expected near four.
            assert!(tried > 3000 && worst < 5.0, "{worst} standard deviations in {tried} trials");
        }

        /// With the first key alone a stream would be another's numbers in the order of an exclusive
        /// or: those of two whose keys begin alike would be the same ones.
        #[test]
        fn streams_whose_keys_are_alike_share_nothing() {
            const N: u32 = 1 << 12;
            let mut by_beginning = std::collections::BTreeMap::new();
            let mut pairs = 0;
            for stream in 0..1 << 13 {
                let key = pcg(stream ^ pcg(3 ^ pcg(7)));
                let Some((like, other)) = by_beginning.insert(key / N, (stream, key)) else {
                    continue;
                };
                pairs += 1;
                let all = |stream| (0..N).map(move |i| random_bits(7, 3, stream, i));
                let known: std::collections::BTreeSet<u32> = all(like).collect();
                let common = all(stream).filter(|bits| known.contains(bits)).count();
                assert!(common <= 1, "streams {like} and {stream} share {common} numbers");
                let crossed = |i: u32| random_bits(7, 3, like, i ^ key ^ other);
                let same =
                    (0..N).filter(|i| (crossed(*i) ^ random_bits(7, 3, stream, *i)) >> 31 == 0);
                // Of 4096 coins, within five standard deviations.
                let same = same.count();
                assert!((1888..2208).contains(&same), "{like} and {stream} agree {same} times");
            }
            assert!(pairs > 10, "{pairs} pairs");
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
