//! Views of sequences: the same rows with steps and channels left out and noise added, drawn on the device.

use super::reduce::row_launch;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// How far each channel's valid steps are from their mean; see `shaders/channel_deviation.wgsl`.
pub static CHANNEL_DEVIATION: Kernel = Kernel {
    name: "channel_deviation",
    source: include_str!("../../shaders/channel_deviation.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("LENGTHS"), Binding::write("Y")],
    step: false,
    launch: |family, words, _| {
        let [n, steps, channels] = [0, 1, 2].map(|i| words[i] as usize);
        // A row's steps are shared out, not those of all rows.
        row_launch(family, channels, steps, false).iterations(2 * (n as u64) * (steps as u64))
    },
    twin: reference::channel_deviation,
    cases: cases::deviation,
};

/// Rows as they are, and two views of each; see `shaders/views.wgsl`.
pub static VIEWS: Kernel = Kernel {
    name: "views",
    source: include_str!("../../shaders/views.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("LENGTHS"),
        Binding::read("DEVIATION").or_none(),
        Binding::write("Y"),
        Binding::write("ALL"),
    ],
    step: true,
    launch: |_, words, _| {
        let elements: usize = words[..3].iter().map(|w| *w as usize).product();
        Launch::of(grid(3 * elements / 4, 64))
    },
    twin: reference::views,
    cases: cases::views,
};

/// Longest sequences that have views.
const LONGEST: usize = 1 << 16;

/// How views differ from what they are of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewRule {
    /// Share of a row's valid steps that are left out in one run, rounded up; from 0 to less than 1.
    pub run: f64,
    /// Probability of each channel of a row to be left out; from 0 to less than 1.
    pub channels: f64,
    /// Deviation of the noise, as a multiple of the channel's own over the batch's valid steps.
    pub noise: f64,
}

impl ViewRule {
    fn words(self, [n, steps, channels]: [usize; 3], stream: u32) -> Vec<u32> {
        let mut words = sizes(&[n, steps, channels]);
        let dropped = (self.channels * 4_294_967_296.0) as u32;
        words.extend([
            stream,
            (self.run * 65_536.0) as u32,
            dropped,
            (self.noise as f32).to_bits(),
        ]);
        words
    }
}

/// Rows and two views of each, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Views {
    /// `[3n, steps, channels]`: the n rows as they are, then the first view of each, then the second.
    pub rows: Var,
    /// `[3n]` u32: their lengths.
    pub lengths: Var,
}

impl Tape {
    /// The standard deviation of each channel of `x [n, steps, channels]` over the first `lengths [n]` (u32)
    /// steps of all rows, `[channels]`: divided by how many there are. No gradient goes back.
    ///
    /// # Errors
    /// Other shapes; an input that wants a gradient.
    pub fn channel_deviation(&mut self, x: Var, lengths: Var) -> Result<Var> {
        let [n, steps, channels] = self.sequences("channel_deviation", x, lengths)?;
        let y = self.output("deviation", &[channels], &[]);
        let words = sizes(&[n, steps, channels]);
        let flops = 5 * (n * steps * channels) as u64;
        let args = [x, lengths, y].map(Some);
        self.call(&CHANNEL_DEVIATION, &args, words, Defines::new(), flops);
        Ok(y)
    }

    /// The rows `x [n, steps, channels]` with `lengths [n]` (u32), and two views of each: without one run of
    /// valid steps, without some channels, and with noise on all that is valid. What is behind a row's
    /// length is 0 in its views. Which ones they are follows from the run's seed, the step, and the order
    /// of random operations on the tape. They are data: no gradient goes back.
    ///
    /// ```text
    /// view = kept · x + noise · deviation(channel) · e     e standard normal
    /// ```
    ///
    /// The deviation is that of the batch, whatever was done to the data before: where each stream is
    /// standardised it is about 1, and where it is not the noise is as large beside each channel.
    ///
    /// # Errors
    /// Other shapes, channels that are no multiple of 4, more than 65,536 steps; an input that wants a
    /// gradient; shares out of range.
    pub fn views(&mut self, x: Var, lengths: Var, rule: ViewRule) -> Result<Views> {
        let size @ [n, steps, channels] = self.sequences("views", x, lengths)?;
        if channels % 4 != 0 || steps > LONGEST {
            let detail = format!(
                "x {:?}: want [n, steps, channels] of at most {LONGEST} steps and a multiple of 4 channels",
                self.shape(x)
            );
            return Err(Error::shape("views", detail));
        }
        let shares = [rule.run, rule.channels].iter().all(|share| (0.0..1.0).contains(share));
        if !shares || !rule.noise.is_finite() || rule.noise < 0.0 {
            return Err(Error::Config(format!(
                "views {rule:?}: want a run and channels from 0 to less than 1, and noise of 0 or more"
            )));
        }
        let deviation = match rule.noise > 0.0 {
            true => Some(self.channel_deviation(x, lengths)?),
            false => None,
        };
        // One of its own for runs, channels and noise; they follow one another.
        let streams = [0; 3].map(|_| self.next_stream());
        let y = self.output("views", &[3 * n, steps, channels], &[]);
        let all = self.output("views.lengths", &[3 * n], &[]);
        let args = [Some(x), Some(lengths), deviation, Some(y), Some(all)];
        let flops = (60 * n * steps * channels) as u64;
        self.call(&VIEWS, &args, rule.words(size, streams[0]), Defines::new(), flops);
        Ok(Views { rows: y, lengths: all })
    }

    /// The extents of sequences with lengths that no gradient is wanted of.
    fn sequences(&self, op: &'static str, x: Var, lengths: Var) -> Result<[usize; 3]> {
        match *self.shape(x) {
            [n, steps, channels]
                if n * steps * channels > 0 && self.len(lengths) == n && !self.wants_grad(x) =>
            {
                Ok([n, steps, channels])
            }
            _ => {
                let detail = format!(
                    "x {:?} with lengths {:?}: want [n, steps, channels] and [n], of data that no gradient is \
                     wanted of",
                    self.shape(x),
                    self.shape(lengths)
                );
                Err(Error::shape(op, detail))
            }
        }
    }
}

mod cases {
    use super::*;

    /// Rows, steps, channels; the last length is beyond the steps.
    const SHAPES: [[usize; 3]; 6] =
        [[1, 1, 4], [3, 7, 8], [5, 50, 20], [16, 3, 36], [2, 300, 4], [6, 40, 132]];

    fn lengths([n, steps, _]: [usize; 3]) -> Option<CaseArg> {
        let length = |i: usize| if i + 1 == n { steps + 3 } else { 1 + i * 11 % steps };
        Some(CaseArg::U((0..n).map(|i| length(i) as u32).collect()))
    }

    pub(super) fn deviation() -> Vec<Case> {
        let all = SHAPES.into_iter().map(|shape| {
            let [n, steps, channels] = shape;
            // Far from zero, where squares less the square of the mean would lose digits.
            let x = super::super::random(1, n * steps * channels).into_iter().map(|v| v + 9.0);
            let args = vec![Some(CaseArg::F(x.collect())), lengths(shape), arg(2, channels)];
            let name = format!("{n}x{steps}x{channels}");
            let flops = 5 * (n * steps * channels) as u64;
            Case::new(name, sizes(&shape), args).within(2e-5).flops(flops)
        });
        all.collect()
    }

    pub(super) fn views() -> Vec<Case> {
        let all = SHAPES.into_iter().enumerate().map(|(k, shape)| {
            let [n, steps, channels] = shape;
            let len = n * steps * channels;
            let noise = if k == 3 { 0.0 } else { 0.5 };
            let rule = ViewRule { run: [0.15, 0.5, 0.9, 0.0][k % 4], channels: 0.3, noise };
            let deviation = if k == 3 { None } else { arg(2, channels) };
            let counts = Some(CaseArg::U(vec![9; 3 * n]));
            let args = vec![arg(1, len), lengths(shape), deviation, arg(3, 3 * len), counts];
            let name = format!("{n}x{steps}x{channels}");
            Case::new(name, rule.words(shape, 5), args).flops(60 * len as u64)
        });
        all.collect()
    }
}

/// CPU twins.
pub mod reference {
    use super::super::dropout::reference::random_bits;
    use super::super::noise::reference::normal;
    use super::*;

    /// Deviations by channel, in f64.
    pub fn channel_deviation(t: &mut Twin) {
        let [steps, channels] = [1, 2].map(|i| t.size(i));
        let (x, lengths) = (t.read(0), t.words_of(1).to_vec());
        for c in 0..channels {
            let valid = |i: usize| (0..steps.min(lengths[i] as usize)).map(move |s| (i, s));
            let all: Vec<f64> = (0..lengths.len())
                .flat_map(valid)
                .map(|(i, s)| f64::from(x[(i * steps + s) * channels + c]))
                .collect();
            let n = all.len().max(1) as f64;
            let mean = all.iter().sum::<f64>() / n;
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            t.write(2)[c] = variance.sqrt() as f32;
        }
    }

    /// Rows as they are, then both views.
    pub fn views(t: &mut Twin) {
        let [n, steps, channels] = [0, 1, 2].map(|i| t.size(i));
        let (stream, run, dropped, noise) = (t.words[3], t.size(4), t.words[5], t.float(6));
        let (x, lengths, deviation) = (t.read(0), t.words_of(1).to_vec(), t.read(2));
        let (seed, step) = (t.step.seed, t.step.step);
        for row in 0..3 * n {
            let i = row % n;
            t.write(4)[row] = f32::from_bits(lengths[i]);
            let len = steps.min(lengths[i] as usize);
            let run = (run * len).div_ceil(65_536);
            let first = random_bits(seed, step, stream, row as u32) as usize % (len - run + 1);
            for s in 0..steps {
                for c in 0..channels {
                    let at = (row * steps + s) * channels + c;
                    let x = x[(i * steps + s) * channels + c];
                    let bits = random_bits(seed, step, stream + 1, (row * channels + c) as u32);
                    let kept = !(first..first + run).contains(&s) && bits >= dropped;
                    let e = |d: &f32| noise * d * normal(seed, step, stream + 2, at as u32);
                    t.write(3)[at] = match () {
                        () if row < n => x,
                        () if s >= len => 0.0,
                        () => (if kept { x } else { 0.0 }) + deviation.get(c).map_or(0.0, e),
                    };
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::run_twin;
        use crate::plan::Step;

        const SIZE: [usize; 3] = [40, 60, 24];

        fn len_of(i: usize) -> usize {
            20 + i
        }

        /// Both views of rows of ones, by step of a run: `[2n, steps, channels]`.
        fn drawn(rule: ViewRule, step: u32) -> Vec<f32> {
            let [n, steps, channels] = SIZE;
            let of = |i: usize| {
                if i / channels % steps < len_of(i / channels / steps) { 1.0 } else { 0.0 }
            };
            let x: Vec<f32> = (0..n * steps * channels).map(of).collect();
            let lengths = (0..n).map(|i| len_of(i) as u32).collect();
            let deviation = (rule.noise > 0.0).then(|| CaseArg::F(vec![2.0; channels]));
            let out = vec![0.0; 3 * x.len()];
            let args = vec![
                Some(CaseArg::F(x.clone())),
                Some(CaseArg::U(lengths)),
                deviation,
                Some(CaseArg::F(out)),
                Some(CaseArg::U(vec![0; 3 * n])),
            ];
            let mut case = Case::new("drawn", rule.words(SIZE, 1), args);
            case.step = Step { seed: 7, step, ..Step::default() };
            let left = run_twin(&VIEWS, &case);
            let y: Vec<f32> =
                left[3].as_ref().unwrap().iter().map(|w| f32::from_bits(*w)).collect();
            assert_eq!(y[..x.len()], x, "what they are of is left as it is");
            y[x.len()..].to_vec()
        }

        #[test]
        fn a_run_of_steps_is_left_out_anywhere_and_padding_stays_zero() {
            let [n, steps, channels] = SIZE;
            let rule = ViewRule { run: 0.15, channels: 0.0, noise: 0.0 };
            let mut places = vec![0; steps];
            let draws = 60;
            for step in 0..draws {
                for (row, view) in drawn(rule, step).chunks(steps * channels).enumerate() {
                    let len = len_of(row % n);
                    let there: Vec<bool> = view.chunks(channels).map(|s| s[0] == 1.0).collect();
                    assert!(view.chunks(channels).all(|s| s.iter().all(|v| *v == s[0])));
                    assert!(there[len..].iter().all(|t| !t));
                    // 15 % of 20 are 3, and not 4 although 0.15f32 · 20 is more than 3.
                    let run = (15 * len).div_ceil(100);
                    let first = there.iter().position(|t| !t).unwrap();
                    assert!(there[first..(first + run).min(len)].iter().all(|t| !t));
                    let kept = there[..len].iter().filter(|t| **t).count();
                    assert_eq!(kept, len - run, "of {len}");
                    if len == 20 {
                        places[first] += 1;
                    }
                }
            }
            // 120 runs of 3 steps begin at any of 18 places: each 6.7 times, give or take five deviations.
            assert_eq!(places.iter().sum::<usize>(), 2 * draws as usize);
            assert!(places[..18].iter().all(|p| (1..20).contains(p)), "{places:?}");
        }

        #[test]
        fn channels_are_left_out_as_often_as_asked_for() {
            let [_, steps, channels] = SIZE;
            let rule = ViewRule { run: 0.0, channels: 0.1, noise: 0.0 };
            let (mut out, mut all) = (0, 0);
            for step in 0..40 {
                for view in drawn(rule, step).chunks(steps * channels) {
                    for c in 0..channels {
                        let own: Vec<f32> =
                            view[c..].iter().step_by(channels).copied().take(20).collect();
                        assert!(own.iter().all(|v| *v == own[0]), "a whole channel or none of it");
                        all += 1;
                        out += usize::from(own[0] == 0.0);
                    }
                }
            }
            let share = out as f64 / f64::from(all);
            assert!((share - 0.1).abs() < 5.0 * (0.09 / f64::from(all)).sqrt(), "{share}");
        }

        #[test]
        fn noise_is_normal_and_views_and_steps_know_nothing_of_one_another() {
            let [n, steps, channels] = SIZE;
            let rule = ViewRule { run: 0.0, channels: 0.0, noise: 0.25 };
            let all: Vec<Vec<f64>> = (0..3)
                .flat_map(|step| {
                    let y = drawn(rule, step);
                    let halves = y.chunks(n * steps * channels).map(|half| {
                        let valid = |i: usize| i / channels % steps < len_of(i / channels / steps);
                        let (valid, past): (Vec<usize>, Vec<usize>) =
                            (0..half.len()).partition(|i| valid(*i));
                        assert!(past.iter().all(|i| half[*i] == 0.0));
                        // Deviations of 2, a quarter of them.
                        valid.iter().map(|i| (f64::from(half[*i]) - 1.0) / 0.5).collect()
                    });
                    halves.collect::<Vec<Vec<f64>>>()
                })
                .collect();
            for (k, e) in all.iter().enumerate() {
                let count = e.len() as f64;
                for (power, want, variance) in
                    [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
                {
                    let moment = e.iter().map(|v| v.powi(power)).sum::<f64>() / count;
                    let error = 5.0 * (variance / count).sqrt();
                    assert!((moment - want).abs() < error, "moment {power} is {moment}");
                }
                for other in &all[k + 1..] {
                    let both = e.iter().zip(other).map(|(a, b)| a * b).sum::<f64>() / count;
                    assert!(both.abs() < 5.0 / count.sqrt(), "{both}");
                }
            }
        }

        #[test]
        fn both_views_differ_and_are_the_same_again() {
            let rule = ViewRule { run: 0.15, channels: 0.1, noise: 0.05 };
            let y = drawn(rule, 4);
            assert_eq!(y, drawn(rule, 4));
            assert_ne!(y, drawn(rule, 5));
            let (first, second) = y.split_at(y.len() / 2);
            assert_ne!(first, second);
        }
    }
}
