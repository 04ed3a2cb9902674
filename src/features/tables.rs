//! The constants of the features: windows, filters and the matrices that are applied to spectra.
//! All of them are computed in f64.

use super::{CHROMA, FRAME, MFCC, RATE};
use crate::ops::spectral_shape::Band;
use crate::ops::spectrum::reference::fft;
use crate::ops::yin::Pitch;
use std::f64::consts::{PI, TAU};

/// Bands of the mel spectrum.
pub(super) const MELS: usize = 128;
/// Bins of a frame's power spectrum; the last three are zero, so that rows are whole vectors.
pub(super) const BINS: usize = FRAME / 2 + 4;

/// Hertz from one bin of a frame to the next.
pub(super) const BIN_HZ: f64 = RATE as f64 / FRAME as f64;

/// Bands of the spectral contrast.
pub(super) const CONTRAST: usize = 7;
/// The share of the magnitudes that lies below the roll-off.
pub(super) const ROLLOFF: f32 = 0.85;

/// The range of pitches that is looked through, Hz, the threshold of YIN's authors, and the least voicing.
const PITCH: (f64, f64, f32, f32) = (60.0, 600.0, 0.1, 0.5);

/// Samples of a frame of the constant-Q transform, at the rate of each octave.
pub(super) const Q_FRAME: usize = 1024;
/// Octaves, from C1 on.
pub(super) const OCTAVES: usize = 7;
/// Filters in an octave.
pub(super) const PER_OCTAVE: usize = 36;
/// The bins that filters reach, first and how many: with any tuning they lie within 90 and 206.
pub(super) const Q_BINS: (usize, usize) = (88, 120);

/// The periodic Hann window.
pub(super) fn hann(len: usize) -> impl Iterator<Item = f64> {
    (0..len).map(move |n| 0.5 - 0.5 * (TAU * n as f64 / len as f64).cos())
}

/// Mel filters over the bins of a frame, `[MELS, BINS]`: triangles evenly spaced by the HTK
/// formula from 0 Hz to half the rate, each of area 1 in Hz.
pub(super) fn mel() -> Vec<f32> {
    let nyquist = f64::from(RATE) / 2.0;
    let to_mel = |hz: f64| 2595.0 * (1.0 + hz / 700.0).log10();
    let to_hz = |mel: f64| 700.0 * (10_f64.powf(mel / 2595.0) - 1.0);
    let edge = |i: usize| to_hz(to_mel(nyquist) * i as f64 / (MELS + 1) as f64);
    let mut weights = vec![0.0; MELS * BINS];
    for (m, row) in weights.chunks_exact_mut(BINS).enumerate() {
        let [low, mid, high] = [m, m + 1, m + 2].map(edge);
        for (k, weight) in row.iter_mut().enumerate().take(FRAME / 2 + 1) {
            let hz = nyquist * k as f64 / (FRAME / 2) as f64;
            let height = ((hz - low) / (mid - low)).min((high - hz) / (high - mid));
            *weight = (height.max(0.0) * 2.0 / (high - low)) as f32;
        }
    }
    weights
}

/// The first coefficients of the orthonormal DCT-II over the mel bands, `[MFCC, MELS]`.
pub(super) fn dct() -> Vec<f32> {
    let mut rows = Vec::with_capacity(MFCC * MELS);
    for k in 0..MFCC {
        let scale = (if k == 0 { 1.0 } else { 2.0 } / MELS as f64).sqrt();
        let angle = |n: usize| PI * k as f64 * (2 * n + 1) as f64 / (2 * MELS) as f64;
        rows.extend((0..MELS).map(|n| (scale * angle(n).cos()) as f32));
    }
    rows
}

/// The bands of the spectral contrast: up to 200 Hz, from there to 400 Hz and so on by octaves, the last one up
/// to half the rate. All but the last end one bin early and all but the first begin one bin early; 2 % of a band's
/// bins, counted with its last, are its peak and its valley.
pub(super) fn contrast() -> Vec<Band> {
    let bins = FRAME / 2 + 1;
    let edge = |k: usize| if k == 0 { 0.0 } else { 200.0 * 2_f64.powi(k as i32 - 1) };
    let band = |k: usize| {
        let first = (edge(k) / BIN_HZ).ceil() as usize;
        let first = if k == 0 { first } else { first - 1 };
        let last = ((edge(k + 1) / BIN_HZ).floor() as usize).min(bins - 1);
        let (end, count) = match k + 1 == CONTRAST {
            true => (bins, bins - first),
            false => (last, last + 1 - first),
        };
        let most = (0.02 * count as f64).round_ties_even() as usize;
        Band { first, end, most: most.max(1) }
    };
    (0..CONTRAST).map(band).collect()
}

/// How a pitch is looked for.
pub(super) fn pitch() -> Pitch {
    let (low, high, threshold, least) = PITCH;
    let rate = f64::from(RATE);
    let lags = ((rate / high).floor() as usize, (rate / low).ceil() as usize);
    Pitch { rate: RATE as f32, lags, threshold, least }
}

/// Taps before, and after, the middle one of [`low_pass`].
pub(super) const REACH: usize = 180;

/// The filter before every second sample is dropped: a sinc under a Kaiser window, flat up to 0.913
/// of the new Nyquist frequency and 120 dB down from there on up. Its gain is √2, which keeps the
/// energy.
pub(super) fn low_pass() -> Vec<f32> {
    let bessel = |x: f64| {
        let terms = (1..60).scan(1.0, |term, k| {
            *term *= (x / 2.0 / f64::from(k)).powi(2);
            Some(*term)
        });
        1.0 + terms.sum::<f64>()
    };
    let (cutoff, beta) = (0.5 * (0.913 + 1.0) / 2.0, 0.1102 * (120.0 - 8.7));
    let taps: Vec<f64> = (0..=2 * REACH)
        .map(|j| {
            let t = j as f64 - REACH as f64;
            let sinc = if t == 0.0 { cutoff } else { (PI * cutoff * t).sin() / (PI * t) };
            let inside = 1.0 - (t / (REACH + 1) as f64).powi(2);
            sinc * bessel(beta * inside.sqrt())
        })
        .collect();
    let scale = 2_f64.sqrt() / taps.iter().sum::<f64>();
    taps.iter().map(|t| (t * scale) as f32).collect()
}

/// The filters of an octave over the [`Q_BINS`] of a frame, tuned by a fraction of a bin: rows of
/// real parts, then of imaginary ones, `[2 PER_OCTAVE, 2 bins]`. The rates halve with the
/// frequencies, so that they are the same in every octave.
///
/// A filter is a windowed tone of constant Q, normalised by its sum and by the root of its length;
/// of its spectrum those bins are kept that make up 99 % of the sum of absolute values.
pub(super) fn octave(tuning: f64) -> Vec<f32> {
    let (first, bins) = Q_BINS;
    let ratio = 2_f64.powf(2.0 / PER_OCTAVE as f64);
    let q = (ratio + 1.0) / (ratio - 1.0);
    let c1 = 440.0 * 2_f64.powf(-45.0 / 12.0);
    let mut rows = vec![0.0; 2 * PER_OCTAVE * 2 * bins];
    for b in 0..PER_OCTAVE {
        let steps = ((OCTAVES - 1) * PER_OCTAVE + b) as f64 + tuning;
        let hz = c1 * 2_f64.powf(steps / PER_OCTAVE as f64);
        let length = q * f64::from(RATE) / hz;
        let (start, stop) = ((-length / 2.0).floor() as i64, (length / 2.0).floor() as i64);
        let count = (stop - start) as usize;
        let scale = length.sqrt() / Q_FRAME as f64 / hann(count).sum::<f64>();
        let mut z = vec![(0.0, 0.0); Q_FRAME];
        let tone = z.iter_mut().skip((Q_FRAME - count) / 2).zip(hann(count));
        for (n, (z, window)) in (start..stop).zip(tone) {
            let (sin, cos) = (TAU * hz / f64::from(RATE) * n as f64).sin_cos();
            *z = (scale * window * cos, scale * window * sin);
        }
        fft(&mut z);
        let half = &z[..=Q_FRAME / 2];
        let least = least_kept(half.iter().map(|(re, im)| re.hypot(*im)).collect());
        for (k, (re, im)) in half.iter().enumerate().skip(first).take(bins) {
            if re.hypot(*im) < least {
                continue;
            }
            let at = |row: usize| row * 2 * bins + 2 * (k - first);
            let (real, imaginary) = (at(b), at(PER_OCTAVE + b));
            (rows[real], rows[real + 1]) = (*re as f32, -im as f32);
            (rows[imaginary], rows[imaginary + 1]) = (*im as f32, *re as f32);
        }
    }
    rows
}

/// The smallest of the largest values that make up 99 % of the sum.
fn least_kept(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let total: f64 = values.iter().sum();
    let mut sum = 0.0;
    let reached = values.iter().find(|v| {
        sum += *v / total;
        sum >= 0.01
    });
    reached.copied().unwrap_or(0.0)
}

/// Which filters make up each note, `[CHROMA, OCTAVES · PER_OCTAVE]`: the one on it and its two
/// neighbours, in all octaves.
pub(super) fn notes() -> Vec<f32> {
    let merged = PER_OCTAVE / CHROMA;
    let note = |filter: usize| (filter % PER_OCTAVE + merged / 2) / merged % CHROMA;
    (0..CHROMA)
        .flat_map(|c| (0..OCTAVES * PER_OCTAVE).map(move |f| if note(f) == c { 1.0 } else { 0.0 }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_stay_within_their_bins_whatever_the_tuning() {
        // A filter that reached further would be cut: its outermost bins must be zero.
        for tuning in (-50..50).map(|t| f64::from(t) / 100.0) {
            let rows = octave(tuning);
            let (_, bins) = Q_BINS;
            for row in rows.chunks_exact(2 * bins) {
                assert!(row.iter().any(|v| *v != 0.0), "{tuning}");
                assert!(row[..4].iter().chain(&row[2 * bins - 4..]).all(|v| *v == 0.0), "{tuning}");
            }
        }
    }

    #[test]
    fn the_low_pass_is_flat_and_then_silent() {
        let taps = low_pass();
        // The gain at a share of the new Nyquist frequency, which is a quarter of the rate.
        let gain = |share: f64| {
            let phase = |j: usize| PI / 2.0 * share * (j as f64 - REACH as f64);
            let sum: f64 =
                taps.iter().enumerate().map(|(j, h)| f64::from(*h) * phase(j).cos()).sum();
            sum / 2_f64.sqrt()
        };
        for share in [0.0, 0.1, 0.4, 0.8, 0.9] {
            assert!((gain(share) - 1.0).abs() < 2e-5, "{share}: {}", gain(share));
        }
        for share in [1.01, 1.1, 1.5, 2.0] {
            assert!(gain(share).abs() < 2e-6, "{share}: {}", gain(share));
        }
    }

    #[test]
    fn every_filter_belongs_to_one_note() {
        let notes = notes();
        let filters = OCTAVES * PER_OCTAVE;
        for f in 0..filters {
            assert_eq!((0..CHROMA).map(|c| notes[c * filters + f]).sum::<f32>(), 1.0);
        }
        // C takes the last filter of the octave below and the first two.
        assert_eq!([35, 0, 1, 2].map(|f| notes[f]), [1.0, 1.0, 1.0, 0.0]);
    }
}
