//! The pitch of overlapping frames of a signal, after YIN (de Cheveigné and Kawahara, 2002). Signals are
//! inputs, so there is no gradient.

use super::frame_rms::{Framing, frames_read};
use super::{random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};
use std::f32::consts::TAU;

/// Frequency and periodicity of each frame; see `shaders/yin.wgsl`.
pub static YIN: Kernel = Kernel {
    name: "yin",
    source: include_str!("../../shaders/yin.wgsl"),
    bindings: &[Binding::read("X").part(frames_read), Binding::write("Y")],
    step: false,
    launch: |family, words, defines| {
        let wg = family.invocations();
        let groups = lag_groups(defines.get("HIGH").copied().unwrap_or(0));
        let launch = Launch::of(grid(words[0] as usize, 1)).with("WG", wg);
        launch.iterations(u64::from(words[3] / 4 * groups.div_ceil(wg))).rounds(2).long()
    },
    twin: reference::yin,
    cases,
};

/// Lags up to this one in groups of 8.
fn lag_groups(high: u32) -> u32 {
    (high + 8) / 8
}

/// How [`Tape::yin`] looks for a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pitch {
    /// Samples a second.
    pub rate: f32,
    /// The shortest and the longest period in samples, both of them looked at.
    pub lags: (usize, usize),
    /// The first trough below it is the period.
    pub threshold: f32,
    /// The least voicing at which a frame has a pitch.
    pub least: f32,
}

/// Most samples of a frame, and the longest period.
const MOST: (usize, usize) = (2048, 511);

impl Tape {
    /// The pitch of each frame of a signal `x`, `[count, 2]`: its frequency, 0 where the frame is unvoiced, and
    /// how far it repeats after a period, the correlation of the frame with itself, from 0 to 1. It has no
    /// gradient.
    ///
    /// # Errors
    /// Frames of more than 2048 samples, that do not begin and end at multiples of 4 or go past the end of `x`;
    /// periods that are no range of three at least within a frame, or longer than 511.
    pub fn yin(&mut self, x: Var, frames: Framing, pitch: Pitch) -> Result<Var> {
        let mut words = frames.words("yin", self, x)?;
        let (low, high) = pitch.lags;
        let within = frames.size <= MOST.0 && high <= MOST.1.min(frames.size - 1);
        if !within || low == 0 || low.saturating_add(2) > high {
            let detail = format!("periods of {low} to {high} in frames of {}", frames.size);
            return Err(Error::shape("yin", detail));
        }
        words.extend(own_words(pitch));
        let y = self.output("pitch", &[frames.count, 2], &[]);
        let flops = flops(frames, high);
        self.call(&YIN, &[Some(x), Some(y)], words, defines(frames.size, high), flops);
        Ok(y)
    }
}

fn own_words(pitch: Pitch) -> [u32; 4] {
    let Pitch { rate, lags, threshold, least } = pitch;
    [lags.0 as u32, rate.to_bits(), threshold.to_bits(), least.to_bits()]
}

fn defines(size: usize, high: usize) -> Defines {
    Defines::from([("SIZE", size as u32), ("HIGH", high as u32)])
}

fn flops(frames: Framing, high: usize) -> u64 {
    3 * (frames.count * frames.size) as u64 * 8 * u64::from(lag_groups(high as u32))
}

fn cases() -> Vec<Case> {
    // Frames, first, hop, size, lags, period of the tone.
    [
        (1, 0, 4, 16, (1, 3), 2.5),
        (3, 4, 16, 64, (4, 20), 9.3),
        (5, 0, 32, 256, (8, 63), 31.7),
        (4, 8, 128, 512, (20, 100), 260.0),
        (6, 0, 512, 2048, (36, 368), 147.2),
    ]
    .into_iter()
    .map(|(count, first, hop, size, lags, period)| {
        let frames = Framing { count, first, hop, size };
        let noise = random(3, first + (count - 1) * hop + size);
        let tone = |(n, noise): (usize, f32)| {
            let angle = TAU * n as f32 / period;
            0.5 * angle.sin() + 0.3 * (2.0 * angle).cos() + 0.02 * noise
        };
        let x: Vec<f32> = noise.into_iter().enumerate().map(tone).collect();
        let pitch = Pitch { rate: 100.0, lags, threshold: 0.1, least: 0.5 };
        let mut words = sizes(&[count, first, hop, size]);
        words.extend(own_words(pitch));
        let args = vec![Some(CaseArg::F(x)), Some(CaseArg::F(vec![0.0; 2 * count]))];
        let mut case = Case::new(format!("{count} of {size} up to {}", lags.1), words, args);
        case.defines = defines(size, lags.1);
        case.within(1e-4).flops(flops(frames, lags.1))
    })
    .collect()
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// The difference function up to a lag, normalised by its mean so far.
    fn differences(x: &[f64], high: usize) -> Vec<f64> {
        let at = |n: usize| x.get(n).copied().unwrap_or(0.0);
        let mut total = 0.0;
        let normalised = (0..=high).map(|k| {
            let d: f64 = x.iter().enumerate().map(|(n, x)| (x - at(n + k)).powi(2)).sum();
            total += d;
            k as f64 * d / (total + 1.2e-38)
        });
        normalised.collect()
    }

    /// The first trough below the threshold, else the first of the lowest places.
    fn period(m: &[f64], low: usize, threshold: f64) -> usize {
        let high = m.len() - 1;
        let trough = |k: usize| {
            let after = m[(k + 1).min(high)];
            match k == low {
                true => m[k] < after,
                false => m[k] < m[k - 1] && m[k] <= after,
            }
        };
        let first = (low..=high).find(|k| trough(*k) && m[*k] < threshold);
        let lower = |best: usize, k: usize| if m[k] < m[best] { k } else { best };
        first.unwrap_or_else(|| (low..=high).fold(low, lower))
    }

    /// Frequency and voicing of each frame, in f64.
    pub fn yin(t: &mut Twin) {
        let [frames, first, hop, size, low] = [0, 1, 2, 3, 4].map(|i| t.size(i));
        let [rate, threshold, least] = [5, 6, 7].map(|i| f64::from(t.float(i)));
        let high = t.defines.get("HIGH").map_or(0, |h| *h as usize);
        let all = t.read(0);
        for frame in 0..frames {
            let x: Vec<f64> =
                all[first + frame * hop..][..size].iter().map(|x| f64::from(*x)).collect();
            let m = differences(&x, high);
            let k = period(&m, low, threshold);
            let energy = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
            let (heard, before, after) = (energy(&x), energy(&x[..size - k]), energy(&x[k..]));
            let mut y = [0.0; 2];
            if low < k && k < high && before > 0.0 && after > 0.0 {
                let product: f64 = x.iter().zip(&x[k..]).map(|(a, b)| a * b).sum();
                let bend = m[k + 1] + m[k - 1] - 2.0 * m[k];
                let slope = 0.5 * (m[k + 1] - m[k - 1]);
                let shift = if slope.abs() < bend.abs() { -slope / bend } else { 0.0 };
                y[1] = (product / (before.sqrt() * after.sqrt())).clamp(0.0, 1.0);
                if y[1] >= least {
                    y[0] = rate / (k as f64 + shift);
                }
            }
            if !heard.is_finite() {
                y = [heard; 2];
            }
            t.write(1)[2 * frame..2 * frame + 2].copy_from_slice(&y.map(|v| v as f32));
        }
    }
}
