//! Wav files, decoded as they are read.

use crate::error::{Error, Result};
use hound::{SampleFormat, WavReader};
use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::path::{Path, PathBuf};

/// Rates that are taken for rates, and not for damage.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Floats beyond this are damage, too: their powers would overflow.
const LOUDEST: f32 = 1e6;

/// An open wav file: PCM of 8, 16, 24 or 32 bits, or 32-bit floats.
pub struct Wav {
    path: PathBuf,
    reader: WavReader<BufReader<File>>,
    len: usize,
    read: usize,
}

impl Wav {
    /// Opens a file and checks its header against its size; no sample is read yet.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Data`] for one that is no wav file,
    /// is cut short, is empty, or is encoded in another way.
    pub fn open(path: impl AsRef<Path>) -> Result<Wav> {
        let path = path.as_ref();
        let bad = |detail: String| Err(Error::data(path, detail));
        let file = File::open(path).map_err(Error::io("read", path))?;
        let about = file.metadata().map_err(Error::io("read", path))?;
        if about.is_dir() {
            return bad("it is a folder; name the wav files in it".into());
        }
        if about.len() == 0 {
            return bad("the file is empty; record or convert it again".into());
        }
        let reader = WavReader::new(BufReader::new(file)).map_err(|e| unusable(path, e))?;
        let spec = reader.spec();
        let known = match spec.sample_format {
            SampleFormat::Int => matches!(spec.bits_per_sample, 8 | 16 | 24 | 32),
            SampleFormat::Float => spec.bits_per_sample == 32,
        };
        if !known || spec.channels == 0 {
            let kind = match spec.sample_format {
                SampleFormat::Int => "integers",
                SampleFormat::Float => "floats",
            };
            return bad(format!(
                "it has {} channels of {}-bit {kind}; convert it to 16-bit PCM",
                spec.channels, spec.bits_per_sample
            ));
        }
        if !RATES.contains(&spec.sample_rate) {
            return bad(format!(
                "its header says {} samples a second; wanted {} to {}: is it damaged?",
                spec.sample_rate,
                RATES.start(),
                RATES.end()
            ));
        }
        let bytes = u64::from(reader.len()) * u64::from(spec.bits_per_sample / 8);
        if bytes > about.len() {
            return bad(format!(
                "it is cut short: its header speaks of {bytes} bytes of samples, and the whole \
                 file has {}; copy it again",
                about.len()
            ));
        }
        let len = reader.duration() as usize;
        if len == 0 {
            return bad("it holds no sample; leave it out".into());
        }
        Ok(Wav { path: path.into(), reader, len, read: 0 })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Samples a second of each channel.
    pub fn rate(&self) -> u32 {
        self.reader.spec().sample_rate
    }

    /// Channels.
    pub fn channels(&self) -> u16 {
        self.reader.spec().channels
    }

    /// Samples of each channel.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none (never so in an opened file).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long it takes to play.
    pub fn seconds(&self) -> f64 {
        self.len as f64 / f64::from(self.rate())
    }

    /// The next samples, the mean of all channels, full scale 1: as many as there are, at most as
    /// many as fit. Gives their number.
    ///
    /// # Errors
    /// [`Error::Data`] where the file ends early or holds a number that is not finite.
    pub fn read(&mut self, to: &mut [f32]) -> Result<usize> {
        let spec = self.reader.spec();
        let (channels, count) = (usize::from(spec.channels), to.len().min(self.len - self.read));
        let to = &mut to[..count];
        let decoded = match spec.sample_format {
            SampleFormat::Float => average(self.reader.samples::<f32>(), channels, to, |x| x),
            SampleFormat::Int => {
                let full = 2_f32.powi(1 - i32::from(spec.bits_per_sample));
                average(self.reader.samples::<i32>(), channels, to, |x| x as f32 * full)
            }
        };
        decoded.map_err(|e| unusable(&self.path, e))?;
        if let Some(at) = to.iter().position(|x| !x.is_finite() || x.abs() > LOUDEST) {
            let seconds = (self.read + at) as f64 / f64::from(self.rate());
            let detail = format!(
                "the sample at {seconds:.3} s is {}, where full scale is 1; mend the recording, or \
                 leave it out",
                to[at]
            );
            return Err(Error::data(&self.path, detail));
        }
        self.read += count;
        Ok(count)
    }
}

/// Fills `to` with means over the channels.
fn average<S>(
    mut samples: impl Iterator<Item = hound::Result<S>>,
    channels: usize,
    to: &mut [f32],
    value: impl Fn(S) -> f32,
) -> hound::Result<()> {
    for slot in to {
        let mut sum = 0.0;
        for _ in 0..channels {
            sum += value(samples.next().unwrap_or(Err(hound::Error::UnfinishedSample))?);
        }
        *slot = sum / channels as f32;
    }
    Ok(())
}

fn unusable(path: &Path, error: hound::Error) -> Error {
    let detail = match error {
        hound::Error::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
            "it is cut short; copy it again".into()
        }
        // A short read is an error of its own kind there.
        hound::Error::IoError(e) if e.kind() == ErrorKind::Other => {
            format!("it is cut short ({e}); copy it again")
        }
        hound::Error::IoError(e) => return Error::io("read", path)(e),
        hound::Error::UnfinishedSample => "it is cut short; copy it again".into(),
        hound::Error::FormatError(why) => {
            format!("not a wav file that can be read ({why}); convert it to 16-bit PCM")
        }
        other => format!("not a wav file that can be read ({other}); convert it to 16-bit PCM"),
    };
    Error::data(path, detail)
}
