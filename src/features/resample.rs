//! Another rate: a thin layer over `rubato`'s synchronous resampler, which takes the delay away.

use super::Sound;
use crate::error::{Error, Result};
use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

/// Turns samples of one rate into samples of another, in chunks of a fixed size.
pub struct Resampler {
    inner: Fft<f32>,
    input: Vec<f32>,
    output: Vec<f32>,
    /// Samples of `output` that were handed out.
    taken: usize,
    /// Samples that come before the first one.
    delay: usize,
}

/// A chunk has as many samples as this at least, at the lower rate: the longer it is, the closer
/// to half that rate comes what is kept.
const CHUNK: usize = 2048;

impl Resampler {
    /// From one rate to another, in samples a second.
    ///
    /// # Errors
    /// [`Error::Config`] for a rate of 0.
    pub fn new(from: u32, to: u32) -> Result<Resampler> {
        let bad = |e: &dyn std::fmt::Display| {
            Error::Config(format!("no resampling from {from} to {to} samples a second: {e}"))
        };
        if from == 0 || to == 0 {
            return Err(bad(&"a rate is 0"));
        }
        let (from, to) = (from as usize, to as usize);
        let (from_step, to_step) = (from / gcd(from, to), to / gcd(from, to));
        // An even number of the smallest steps: half a chunk, the delay, is then whole samples.
        let chunks = CHUNK.div_ceil(from_step.min(to_step)).next_multiple_of(2);
        let window = WindowFunction::BlackmanHarris2;
        let size = chunks * from_step;
        let inner =
            Fft::new_custom(from, to, size, 1, 1, window, FixedSync::Both).map_err(|e| bad(&e))?;
        let (input, output) = (inner.input_frames_max(), inner.output_frames_max());
        let delay = inner.output_delay();
        Ok(Resampler {
            inner,
            input: vec![0.0; input],
            output: vec![0.0; output],
            taken: output,
            delay,
        })
    }

    /// How many samples become of `len`.
    pub fn output_len(len: usize, from: u32, to: u32) -> usize {
        (len as u128 * u128::from(to)).div_ceil(u128::from(from.max(1))) as usize
    }

    /// The next samples of a file at the new rate; past the file's end it is silent.
    ///
    /// # Errors
    /// Those of [`Sound::read`].
    pub fn read(&mut self, sound: &mut Sound, to: &mut [f32]) -> Result<()> {
        self.read_from(to, |input| sound.read(input))
    }

    /// As [`read`](Self::read), from any source that fills a buffer and gives how much it filled.
    ///
    /// # Errors
    /// Those of `source`.
    pub fn read_from(
        &mut self,
        to: &mut [f32],
        mut source: impl FnMut(&mut [f32]) -> Result<usize>,
    ) -> Result<()> {
        let mut filled = 0;
        while filled < to.len() {
            if self.taken == self.output.len() {
                let given = source(&mut self.input)?;
                self.input[given..].fill(0.0);
                self.chunk()?;
                // The first chunks begin with what the filter makes of the silence before.
                let late = self.delay.min(self.output.len());
                (self.taken, self.delay) = (late, self.delay - late);
            }
            let count = (to.len() - filled).min(self.output.len() - self.taken);
            to[filled..filled + count]
                .copy_from_slice(&self.output[self.taken..self.taken + count]);
            (filled, self.taken) = (filled + count, self.taken + count);
        }
        Ok(())
    }

    fn chunk(&mut self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::Config(format!("resampling failed: {e}"));
        let (sent, room) = (self.input.len(), self.output.len());
        let input = SequentialSlice::new(&self.input, 1, sent).map_err(|e| failed(&e))?;
        let mut output =
            SequentialSlice::new_mut(&mut self.output, 1, room).map_err(|e| failed(&e))?;
        let done = self.inner.process_into_buffer(&input, &mut output, None);
        done.map(drop).map_err(|e| failed(&e))
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone with an envelope that is 0 at both ends, at time `t` of one second.
    fn tone(t: f64, hz: f64) -> f64 {
        let envelope = (std::f64::consts::PI * t.clamp(0.0, 1.0)).sin().powi(2);
        envelope * (std::f64::consts::TAU * hz * t).sin()
    }

    #[test]
    fn a_tone_keeps_its_place_and_its_height() {
        for (from, to) in [
            (16_000, 22_050),
            (44_100, 22_050),
            (48_000, 22_050),
            (8_000, 22_050),
            (22_051, 22_050),
        ] {
            let hz = 0.35 * f64::from(from.min(to));
            let input: Vec<f32> =
                (0..from).map(|n| tone(f64::from(n) / f64::from(from), hz) as f32).collect();
            let mut output = vec![0.0; Resampler::output_len(input.len(), from, to)];
            assert_eq!(output.len(), to as usize);
            let (mut resampler, mut at) = (Resampler::new(from, to).unwrap(), 0);
            // Asked for in uneven pieces.
            for piece in output.chunks_mut(1000) {
                let source = |buffer: &mut [f32]| {
                    let count = buffer.len().min(input.len() - at);
                    buffer[..count].copy_from_slice(&input[at..at + count]);
                    at += count;
                    Ok(count)
                };
                resampler.read_from(piece, source).unwrap();
            }
            let off = output
                .iter()
                .enumerate()
                .map(|(n, y)| (f64::from(*y) - tone(n as f64 / f64::from(to), hz)).abs());
            let off = off.fold(0.0, f64::max);
            assert!(off < 1e-4, "{from} to {to}: off by {off}");
        }
    }

    #[test]
    fn lengths_round_up() {
        assert_eq!(Resampler::output_len(44_580, 16_000, 22_050), 61_437);
        assert_eq!(Resampler::output_len(1, 768_000, 22_050), 1);
        assert_eq!(Resampler::output_len(usize::MAX >> 20, 22_050, 22_050), usize::MAX >> 20);
    }
}
