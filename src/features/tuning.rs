//! How far a recording is off the pitch that notes are counted from, in fractions of a 36th of an
//! octave.

use super::tables::{BINS, PER_OCTAVE};
use super::{FRAME, RATE};

/// Spectral peaks of a recording: for each its place within a bin of pitch and its height. About
/// 10 KB for each second.
#[derive(Default)]
pub(super) struct Peaks {
    list: Vec<(f32, f32)>,
    row: Vec<f32>,
    kept: Vec<f32>,
}

impl Peaks {
    /// Adds those of one frame, from the powers of its bins: local maxima between 150 and 4000 Hz
    /// above a tenth of the largest value, their places and heights by a parabola through three
    /// bins.
    pub(super) fn add(&mut self, powers: &[f32]) {
        let bins = FRAME / 2 + 1;
        debug_assert_eq!(powers.len(), BINS);
        self.row.clear();
        self.row.extend(powers[..bins].iter().map(|p| p.sqrt()));
        let s = &self.row;
        let least = 0.1 * s.iter().copied().fold(0.0, f32::max);
        self.kept.clear();
        self.kept.extend(s.iter().map(|v| if *v > least { *v } else { 0.0 }));
        let per_bin = f64::from(RATE) / FRAME as f64;
        let (first, end) = ((150.0 / per_bin).ceil() as usize, (4000.0 / per_bin).ceil() as usize);
        for i in first..end {
            if self.kept[i] <= self.kept[i - 1] || self.kept[i] < self.kept[i + 1] {
                continue;
            }
            let (a, b) = (s[i + 1] + s[i - 1] - 2.0 * s[i], (s[i + 1] - s[i - 1]) / 2.0);
            let shift = if b.abs() >= a.abs() { 0.0 } else { -b / a };
            let octaves = ((i as f64 + f64::from(shift)) * per_bin / 27.5).log2();
            let within = (PER_OCTAVE as f64 * octaves).rem_euclid(1.0);
            let off = if within >= 0.5 { within - 1.0 } else { within };
            self.list.push((off as f32, s[i] + 0.5 * b * shift));
        }
    }

    /// The commonest place of the higher half of all peaks, in hundredths; 0 where there is none.
    pub(super) fn tuning(&self) -> f64 {
        if self.list.is_empty() {
            return 0.0;
        }
        let mut heights: Vec<f32> = self.list.iter().map(|p| p.1).collect();
        let (half, even) = (heights.len() / 2, heights.len().is_multiple_of(2));
        let (below, upper, _) = heights.select_nth_unstable_by(half, f32::total_cmp);
        let median = match below.iter().copied().max_by(f32::total_cmp) {
            Some(lower) if even => (lower + *upper) / 2.0,
            _ => *upper,
        };
        let mut counts = [0_u32; 100];
        for (off, _) in self.list.iter().filter(|(_, height)| *height >= median) {
            let edge = |i: usize| -0.5 + i as f64 / 100.0;
            let off = f64::from(*off);
            // What the division rounds to a neighbour is put right by the edges.
            let guess = ((off + 0.5) * 100.0).floor().clamp(0.0, 99.0) as usize;
            let bin = match guess {
                g if off < edge(g) => g.saturating_sub(1),
                g if g < 99 && off >= edge(g + 1) => g + 1,
                g => g,
            };
            counts[bin] += 1;
        }
        let largest = counts.iter().copied().max().unwrap_or(0);
        let first = counts.iter().position(|c| *c == largest).unwrap_or(50);
        -0.5 + first as f64 / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_frame_has_no_peak() {
        let mut peaks = Peaks::default();
        peaks.add(&[0.0; BINS]);
        assert_eq!(peaks.tuning(), 0.0);
    }

    #[test]
    fn a_symmetric_peak_lies_on_its_bin() {
        let mut powers = [0.0; BINS];
        powers[99..102].copy_from_slice(&[1.0, 4.0, 1.0]);
        let mut peaks = Peaks::default();
        peaks.add(&powers);
        let pitch = 36.0 * (100.0 * f64::from(RATE) / 2048.0 / 27.5_f64).log2();
        let off = pitch - pitch.round();
        assert!((peaks.tuning() - off).abs() <= 0.01, "{} for {off}", peaks.tuning());
        assert_eq!(peaks.list.len(), 1);
        assert_eq!(peaks.list[0].1, 2.0);
    }
}
