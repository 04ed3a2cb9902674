//! What a spectrum is like: where its middle is, how wide and how flat it is, where most of it ends, and how
//! far its bands reach up and down. Spectra are inputs, so there is no gradient.

use super::{random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// Numbers about each frame's spectrum; see `shaders/spectral_shape.wgsl`.
pub static SPECTRAL_SHAPE: Kernel = Kernel {
    name: "spectral_shape",
    source: include_str!("../../shaders/spectral_shape.wgsl"),
    bindings: &[
        Binding::read("X").part(|p, defines, _| {
            let bins = defines.get("BINS").map_or(0, |b| u64::from(*b));
            [u64::from(p[0]) * bins, 0]
        }),
        Binding::write("Y"),
    ],
    step: false,
    launch: |family, words, defines| {
        let wg = family.invocations();
        let count = defines.get("BANDS").map_or(0, |bands| *bands as usize);
        let bands = || words[4..].chunks_exact(4).take(count);
        let seen = bands().map(|b| u64::from(b[2]) * u64::from((b[1] - b[0]).div_ceil(wg)));
        let rounds = 3 + bands().map(|b| u64::from(b[2])).sum::<u64>();
        Launch::of(grid(words[0] as usize, 1)).with("WG", wg).iterations(seen.sum()).rounds(rounds)
    },
    twin: reference::spectral_shape,
    cases,
};

/// Some neighbouring bins of a spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// The first one.
    pub first: usize,
    /// The one behind the last.
    pub end: usize,
    /// How many of the largest are its peak, and of the smallest its valley.
    pub most: usize,
}

/// Most bands, and most bins of a frame.
const MOST: (usize, usize) = (8, 1100);

impl Tape {
    /// The shape of each of the spectra `power [frames, width]`, of which the first `bins` columns count, each
    /// `step` Hz on: `[frames, 4 + 2 bands]` with the centroid and the bandwidth, Hz; where a `share` of the sum of
    /// magnitudes ends, Hz; the flatness, from 0 to 1; and for each band its peak and its valley, decibels of
    /// magnitudes. It has no gradient.
    ///
    /// # Errors
    /// More than 8 bands or 1100 bins, or a band that is empty, not within them, or has too few for its `most`.
    pub fn spectral_shape(
        &mut self,
        power: Var,
        (bins, step): (usize, f32),
        share: f32,
        bands: &[Band],
    ) -> Result<Var> {
        let (frames, width) = self.rows_cols(power);
        let odd = bands
            .iter()
            .find(|b| b.end > bins || b.first >= b.end || !(1..=b.end - b.first).contains(&b.most));
        if bins == 0 || bins > MOST.1.min(width) || bands.len() > MOST.0 || odd.is_some() {
            let shape = self.shape(power);
            let detail = format!("{bins} bins of {shape:?} in {} bands: {odd:?}", bands.len());
            return Err(Error::shape("spectral_shape", detail));
        }
        let y = self.output("spectral shape", &[frames, 4 + 2 * bands.len()], &[]);
        let words = words((frames, width), (step, share), bands);
        let flops = flops(frames, bins, bands);
        let defines = defines(bins, bands);
        self.call(&SPECTRAL_SHAPE, &[Some(power), Some(y)], words, defines, flops);
        Ok(y)
    }
}

fn words(shape: (usize, usize), (step, share): (f32, f32), bands: &[Band]) -> Vec<u32> {
    let mut words = sizes(&[shape.0, shape.1]);
    words.extend([step.to_bits(), share.to_bits()]);
    words.extend(bands.iter().flat_map(|b| sizes(&[b.first, b.end, b.most, 0])));
    words.resize(4 + 4 * MOST.0, 0);
    words
}

fn defines(bins: usize, bands: &[Band]) -> Defines {
    Defines::from([("BINS", bins as u32), ("BANDS", bands.len() as u32)])
}

fn flops(frames: usize, bins: usize, bands: &[Band]) -> u64 {
    let compared: usize = bands.iter().map(|b| 2 * b.most * (b.end - b.first)).sum();
    (frames * (20 * bins + compared)) as u64
}

fn cases() -> Vec<Case> {
    let band = |first, end, most| Band { first, end, most };
    // Frames, width, bins, bands.
    [
        (1, 1, 1, vec![band(0, 1, 1)]),
        (3, 12, 9, vec![]),
        (5, 40, 33, vec![band(0, 4, 1), band(3, 33, 2)]),
        (17, 132, 129, vec![band(0, 30, 3), band(29, 129, 9)]),
        (9, 1028, 1025, vec![band(0, 18, 1), band(17, 37, 1), band(595, 1025, 9)]),
    ]
    .into_iter()
    .map(|(frames, width, bins, bands)| {
        // Some are equal, and some rows are silent.
        let power = |(i, x): (usize, f32)| match i / width % 5 {
            4 => 0.0,
            3 => (4.0 * x).round().powi(2),
            _ => x * x,
        };
        let x = random(1, frames * width).into_iter().enumerate().map(power).collect();
        let y = vec![0.0; frames * (4 + 2 * bands.len())];
        let args = vec![Some(CaseArg::F(x)), Some(CaseArg::F(y))];
        let words = words((frames, width), (0.5, 0.8501), &bands);
        let mut case = Case::new(format!("{frames}x{bins}, {} bands", bands.len()), words, args);
        case.defines = defines(bins, &bands);
        case.within(2e-5).flops(flops(frames, bins, &bands))
    })
    .collect()
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// The shape of each spectrum, in f64, its bands sorted.
    pub fn spectral_shape(t: &mut Twin) {
        let ([frames, width], [step, share]) =
            ([0, 1].map(|i| t.size(i)), [2, 3].map(|i| f64::from(t.float(i))));
        let [bins, bands] = ["BINS", "BANDS"].map(|n| t.defines.get(n).map_or(0, |v| *v as usize));
        let x = t.read(0);
        for frame in 0..frames {
            let row = &x[frame * width..][..bins];
            let s: Vec<f64> = row.iter().map(|x| f64::from(*x).sqrt()).collect();
            let total: f64 = s.iter().sum();
            let weighted = |of: &dyn Fn(f64) -> f64| {
                let sum: f64 = s.iter().enumerate().map(|(k, s)| of(k as f64) * s).sum();
                if total < 1.2e-38 { sum } else { sum / total }
            };
            let centroid = weighted(&|k| k);
            let bandwidth = weighted(&|k| (k - centroid).powi(2)).sqrt();
            let mut so_far = 0.0;
            let below = s.iter().filter(|s| {
                so_far += **s;
                so_far < share * total
            });
            let mut y = vec![step * centroid, step * bandwidth, step * below.count() as f64];
            let counted = |x: f64| if x < 1e-10 { 1e-10 } else { x };
            let powers = || s.iter().map(|s| counted(s * s));
            let logs: f64 = powers().map(f64::ln).sum();
            let (n, mean) = (bins as f64, powers().sum::<f64>() / bins as f64);
            y.push((logs / n - mean.ln()).exp());
            for b in 0..bands {
                let [first, end, most] = [4, 5, 6].map(|i| t.size(i + 4 * b));
                let mut band = s[first..end].to_vec();
                band.sort_by(f64::total_cmp);
                let decibels =
                    |part: &[f64]| 10.0 * counted(part.iter().sum::<f64>() / most as f64).log10();
                y.push(decibels(&band[band.len() - most..]));
                y.push(decibels(&band[..most]));
            }
            let to = frame * y.len();
            t.write(1)[to..to + y.len()].iter_mut().zip(y).for_each(|(to, y)| *to = y as f32);
        }
    }
}
