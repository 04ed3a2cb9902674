//! Spectra of overlapping frames of signals: short-time Fourier transforms. Signals are inputs, so
//! there is no gradient.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};
use std::f64::consts::TAU;

/// Power or value of each bin of each frame; see `shaders/spectrum.wgsl`.
pub static SPECTRUM: Kernel = Kernel {
    name: "spectrum",
    source: include_str!("../../shaders/spectrum.wgsl"),
    bindings: &[
        // The frames overlap, or leave gaps: what lies between the first and the last of a signal.
        Binding::read("X").part(|p, defines, len| {
            let size = u64::from(defines.get("SIZE").copied().unwrap_or(0));
            let list = p[4..].chunks_exact(4).take(p[1] as usize);
            let spans = list.map(|s| u64::from(p[0] - 1) * size.min(u64::from(s[1])) + size);
            [spans.sum::<u64>().min(len), 0]
        }),
        Binding::read("TWIDDLE"),
        Binding::read("WINDOW").or_none(),
        Binding::write("Y"),
    ],
    step: false,
    launch,
    twin: reference::spectrum,
    cases,
};

/// Most signals of one dispatch.
const MOST: usize = 8;

fn launch(family: Family, words: &[u32], defines: &Defines) -> Launch {
    let rows = (words[0] * words[1]) as usize;
    let size = defines.get("SIZE").copied().unwrap_or(0);
    let wg = match family {
        Family::Tiled => (size / 8).clamp(32, 256),
        Family::Wide(lanes) => lanes,
        Family::Plain => 8,
    };
    // Steps of radix 4, and what loads before and stores after them.
    let rounds = u64::from(size.max(2).ilog2().div_ceil(2) + 1);
    Launch::of(grid(rows, 1))
        .with("WG", wg)
        .iterations(u64::from((size / 2).div_ceil(wg)))
        .rounds(rounds)
        .long()
}

/// What [`Tape::spectrum`] makes of each frame.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// Samples of a frame: a power of two from 16 to 4096.
    pub size: usize,
    /// Frames of each signal.
    pub count: usize,
    /// Where in the buffer each signal's first frame begins, and how far apart its frames are;
    /// even numbers.
    pub signals: &'a [(usize, usize)],
    /// Each sample's factor, `[size]`.
    pub window: Option<Var>,
    /// The first bin wanted, and how many; those past `size / 2` are 0.
    pub bins: (usize, usize),
    /// Real and imaginary parts, side by side, in place of the power.
    pub pairs: bool,
}

impl Tape {
    /// The discrete Fourier transform of each frame of the signals in `x`: its power
    /// `[count · signals, bins]`, or real and imaginary parts `[count · signals, 2 bins]`. Rows
    /// go by frame, within a frame by signal. It has no gradient.
    ///
    /// # Errors
    /// Sizes that the kernel does not have, or frames that go past the end of `x`.
    pub fn spectrum(&mut self, x: Var, frames: Frames) -> Result<Var> {
        let width = if frames.pairs { 2 * frames.bins.1 } else { frames.bins.1 };
        let y = self.output("spectrum", &[frames.count * frames.signals.len(), width], &[]);
        self.spectrum_into(x, frames, y)?;
        Ok(y)
    }

    /// The same, written to `y`.
    ///
    /// # Errors
    /// As [`spectrum`](Self::spectrum), and a `y` of another size.
    pub fn spectrum_into(&mut self, x: Var, frames: Frames, y: Var) -> Result<()> {
        let Frames { size, count, signals, window, bins: (first, bins), pairs } = frames;
        let bad = |detail: String| Err(Error::shape("spectrum", detail));
        if !size.is_power_of_two() || !(16..=4096).contains(&size) {
            return bad(format!("frames of {size}: want a power of two from 16 to 4096"));
        }
        if signals.is_empty() || signals.len() > MOST || count * bins == 0 {
            let wanted = format!("1 to {MOST} signals, and a frame and a bin at least");
            return bad(format!("{count} frames of {} signals: want {wanted}", signals.len()));
        }
        for &(at, hop) in signals {
            let end = at + (count - 1) * hop + size;
            if at % 2 + hop % 2 > 0 || end > self.len(x) {
                let shape = self.shape(x);
                return bad(format!(
                    "{count} frames {hop} apart from {at} on do not fit {shape:?}"
                ));
            }
        }
        if window.is_some_and(|w| self.len(w) != size) {
            return bad(format!("the window is not of the frames' {size} samples"));
        }
        let width = if pairs { 2 * bins } else { bins };
        if self.len(y) != count * signals.len() * width {
            let shape = self.shape(y);
            return bad(format!("{} rows of {width} into {shape:?}", count * signals.len()));
        }
        let twiddle = self.constant("twiddle", &[size, 2], &twiddle(size))?;
        let words = words(count, signals, first, bins);
        let defines = defines(size, pairs);
        let flops = (count * signals.len() * size * size.ilog2() as usize * 2) as u64;
        self.call(&SPECTRUM, &[Some(x), Some(twiddle), window, Some(y)], words, defines, flops);
        Ok(())
    }
}

/// cos and −sin of 2πk/size, pair by pair.
fn twiddle(size: usize) -> Vec<f32> {
    (0..size)
        .map(|k| TAU * k as f64 / size as f64)
        .flat_map(|angle| [angle.cos() as f32, -angle.sin() as f32])
        .collect()
}

fn words(count: usize, signals: &[(usize, usize)], first: usize, bins: usize) -> Vec<u32> {
    let mut words = sizes(&[count, signals.len(), first, bins]);
    words.extend(signals.iter().flat_map(|(at, hop)| [*at as u32, *hop as u32, 0, 0]));
    words.resize(4 + 4 * MOST, 0);
    words
}

fn defines(size: usize, pairs: bool) -> Defines {
    let mut defines = Defines::from([("SIZE", size as u32), ("LOG", size.ilog2())]);
    if pairs {
        defines.insert("PAIRS", 1);
    }
    defines
}

fn cases() -> Vec<Case> {
    // Size, frames, signals, first bin, bins, pairs, window.
    type Row = (usize, usize, &'static [(usize, usize)], usize, usize, bool, bool);
    let list: [Row; 6] = [
        (16, 3, &[(0, 4)], 0, 9, false, true),
        (32, 5, &[(2, 6), (64, 2)], 0, 20, true, false),
        (64, 33, &[(0, 16)], 3, 7, true, true),
        (512, 9, &[(0, 128), (10, 64), (500, 2)], 40, 60, true, false),
        (1024, 17, &[(4, 512)], 0, 513, false, true),
        (2048, 40, &[(0, 512)], 0, 1028, false, true),
    ];
    list.into_iter()
        .map(|(size, count, signals, first, bins, pairs, window)| {
            let ends = signals.iter().map(|(at, hop)| at + (count - 1) * hop + size);
            let len = ends.max().unwrap_or(size);
            let rows = count * signals.len();
            let mut args = vec![
                arg(1, len),
                Some(CaseArg::F(twiddle(size))),
                window.then(|| arg(2, size)).flatten(),
                arg(3, rows * bins * if pairs { 2 } else { 1 }),
            ];
            args.truncate(SPECTRUM.bindings.len());
            let flops = (rows * size * size.ilog2() as usize * 2) as u64;
            let mut case = Case::new(
                format!("{count} of {size} from {} signals", signals.len()),
                words(count, signals, first, bins),
                args,
            );
            case.defines = defines(size, pairs);
            case.within(2e-5).flops(flops)
        })
        .collect()
}

/// CPU twins.
pub mod reference {
    use super::{TAU, Twin};

    /// The discrete Fourier transform in place, in f64; a power of two of (real, imaginary).
    pub fn fft(z: &mut [(f64, f64)]) {
        let n = z.len();
        if n < 2 {
            return;
        }
        let half = |first: usize| z.iter().skip(first).step_by(2).copied().collect::<Vec<_>>();
        let (mut even, mut odd) = (half(0), half(1));
        fft(&mut even);
        fft(&mut odd);
        for k in 0..n / 2 {
            let (sin, cos) = (TAU * k as f64 / n as f64).sin_cos();
            let (a, b) = (even[k], odd[k]);
            let turned = (b.0 * cos + b.1 * sin, b.1 * cos - b.0 * sin);
            z[k] = (a.0 + turned.0, a.1 + turned.1);
            z[k + n / 2] = (a.0 - turned.0, a.1 - turned.1);
        }
    }

    /// Bins of frames, by the complex transform of all samples.
    pub fn spectrum(t: &mut Twin) {
        let [count, signals, first, bins] = [0, 1, 2, 3].map(|i| t.size(i));
        let size = t.defines.get("SIZE").map_or(0, |s| *s as usize);
        let (x, window, pairs) = (t.read(0), t.read(2), t.is("PAIRS"));
        for row in 0..count * signals {
            let (frame, signal) = (row / signals, row % signals);
            let at = t.size(4 + 4 * signal) + frame * t.size(5 + 4 * signal);
            let sample = |n: usize| {
                (f64::from(x[at + n]) * window.get(n).map_or(1.0, |w| f64::from(*w)), 0.0)
            };
            let mut z: Vec<_> = (0..size).map(sample).collect();
            fft(&mut z);
            for b in 0..bins {
                let k = first + b;
                let (re, im) = if k <= size / 2 { z[k] } else { (0.0, 0.0) };
                let at = row * bins + b;
                if pairs {
                    t.write(3)[2 * at..2 * at + 2].copy_from_slice(&[re as f32, im as f32]);
                } else {
                    t.write(3)[at] = (re * re + im * im) as f32;
                }
            }
        }
    }
}
