//! Where samples come from, at the features' rate and one after the other.

use super::{RATE, Resampler, Sound};
use crate::error::Result;
use std::path::Path;

/// One channel of samples at [`RATE`], in [-1, 1] as a rule, of a length that is known beforehand.
pub trait Signal {
    /// Samples in all.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next samples; no more are asked for than there are.
    ///
    /// # Errors
    /// Those of reading and decoding.
    fn read(&mut self, to: &mut [f32]) -> Result<()>;

    /// Goes back to the first sample.
    ///
    /// # Errors
    /// Those of opening.
    fn rewind(&mut self) -> Result<()>;
}

/// Samples in memory.
pub struct Memory<'a> {
    samples: &'a [f32],
    at: usize,
}

impl<'a> Memory<'a> {
    /// A signal of these samples, at [`RATE`].
    pub fn new(samples: &'a [f32]) -> Self {
        Memory { samples, at: 0 }
    }
}

impl Signal for Memory<'_> {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn read(&mut self, to: &mut [f32]) -> Result<()> {
        to.copy_from_slice(&self.samples[self.at..self.at + to.len()]);
        self.at += to.len();
        Ok(())
    }

    fn rewind(&mut self) -> Result<()> {
        self.at = 0;
        Ok(())
    }
}

/// A file of sound, its channels averaged, resampled where it has another rate.
pub struct Recording {
    sound: Sound,
    resampler: Option<Resampler>,
    len: usize,
}

/// One where a file has another rate than the features.
fn resampler(sound: &Sound) -> Result<Option<Resampler>> {
    match sound.rate() {
        RATE => Ok(None),
        rate => Resampler::new(rate, RATE).map(Some),
    }
}

impl Recording {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of [`Sound::open`] and [`Resampler::new`].
    pub fn open(path: impl AsRef<Path>) -> Result<Recording> {
        let sound = Sound::open(path)?;
        let resampler = resampler(&sound)?;
        let len = match &resampler {
            Some(_) => Resampler::output_len(sound.len(), sound.rate(), RATE),
            None => sound.len(),
        };
        Ok(Recording { sound, resampler, len })
    }

    /// The file.
    pub fn sound(&self) -> &Sound {
        &self.sound
    }
}

impl Signal for Recording {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&mut self, to: &mut [f32]) -> Result<()> {
        match &mut self.resampler {
            Some(resampler) => resampler.read(&mut self.sound, to),
            None => {
                self.sound.read(to)?;
                Ok(())
            }
        }
    }

    fn rewind(&mut self) -> Result<()> {
        self.sound.rewind()?;
        self.resampler = resampler(&self.sound)?;
        Ok(())
    }
}
