//! WAVE files as they are met: with chunks of odd size, with sizes that a pipe could not go back to write, and
//! with headers that a recorder never finished. Libraries refuse those, which is why this is read by hand.

use super::sound::{About, Samples};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A size from here on stands for one that was not known when it was written, where the file is shorter:
/// ffmpeg writes 0xFFFFFFFF, sox 0x7FFFF000.
const UNKNOWN: u64 = 0x7fff_0000;
/// More chunks before the samples than any program writes.
const MOST_CHUNKS: usize = 10_000;

/// How a sample is written.
#[derive(Clone, Copy)]
enum Coding {
    /// Whole numbers of so many bytes; of one byte, without a sign.
    Pcm(usize),
    F32,
    F64,
    ALaw,
    MuLaw,
}

impl Coding {
    fn bytes(self) -> usize {
        match self {
            Coding::Pcm(bytes) => bytes,
            Coding::F32 => 4,
            Coding::F64 => 8,
            Coding::ALaw | Coding::MuLaw => 1,
        }
    }

    /// A sample, full scale 1.
    fn value(self, at: &[u8]) -> f32 {
        match (self, at) {
            (Coding::Pcm(1), [a]) => (f32::from(*a) - 128.0) / 128.0,
            (Coding::Pcm(2), [a, b]) => f32::from(i16::from_le_bytes([*a, *b])) / 32_768.0,
            (Coding::Pcm(3), [a, b, c]) => {
                (i32::from_le_bytes([0, *a, *b, *c]) >> 8) as f32 / 8_388_608.0
            }
            (Coding::Pcm(4), [a, b, c, d]) => {
                i32::from_le_bytes([*a, *b, *c, *d]) as f32 / 2_147_483_648.0
            }
            (Coding::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            (Coding::F64, at) => at.try_into().map_or(f32::NAN, |at| f64::from_le_bytes(at) as f32),
            (Coding::ALaw, [a]) => a_law(*a) / 32_768.0,
            (Coding::MuLaw, [a]) => mu_law(*a) / 32_768.0,
            // A slice of another length is not asked for.
            _ => f32::NAN,
        }
    }
}

/// A sample of 16 bits from one of G.711's A-law: a sign, three bits that say how far the other four are
/// shifted, every second bit turned over.
fn a_law(byte: u8) -> f32 {
    let turned = byte ^ 0x55;
    let (shift, low) = ((turned >> 4) & 7, i32::from(turned & 15));
    let size = match shift {
        0 => (low << 4) + 8,
        shift => ((low << 4) + 0x108) << (shift - 1),
    };
    (if turned & 0x80 == 0 { -size } else { size }) as f32
}

/// The same from one of µ-law, all of whose bits are turned over.
fn mu_law(byte: u8) -> f32 {
    let turned = !byte;
    let (shift, low) = ((turned >> 4) & 7, i32::from(turned & 15));
    let size = (((low << 3) + 0x84) << shift) - 0x84;
    (if turned & 0x80 == 0 { size } else { -size }) as f32
}

/// What a chunk `fmt ` says.
struct Format {
    coding: Coding,
    channels: u16,
    rate: u32,
}

impl Format {
    fn read(path: &Path, bytes: &[u8]) -> Result<Format> {
        let bad = |detail: String| Err(Error::data(path, detail));
        let short = |at: usize| match bytes.get(at..at + 2) {
            Some(two) => u16::from_le_bytes([two[0], two[1]]),
            None => 0,
        };
        if bytes.len() < 16 {
            return bad("its header is cut short; copy it again".into());
        }
        let (channels, block, bits) = (short(2), short(12), short(14));
        let rate = u32::from(short(4)) | u32::from(short(6)) << 16;
        // The extensible form says further on what it holds.
        let tag = if short(0) == 0xfffe { short(24) } else { short(0) };
        // A sample of 20 bits takes 3 bytes, and fills them from the top.
        let bytes = match block.checked_div(channels).unwrap_or(0) {
            0 => usize::from(bits).div_ceil(8),
            each => usize::from(each),
        };
        let coding = match (tag, bits, bytes) {
            (1, 1..=32, 1..=4) if usize::from(bits) <= 8 * bytes => Coding::Pcm(bytes),
            (3, 32, 4) => Coding::F32,
            (3, 64, 8) => Coding::F64,
            (6, 8, 1) => Coding::ALaw,
            (7, 8, 1) => Coding::MuLaw,
            _ => {
                let kind = match tag {
                    1 => "whole numbers".into(),
                    2 | 0x11 => "ADPCM".into(),
                    3 => "floats".into(),
                    0x55 => "MP3".into(),
                    other => format!("coding {other:#06x}"),
                };
                return bad(format!(
                    "it has {channels} channels of {kind}, {bits} bits in {bytes} bytes; convert it to \
                     16-bit PCM"
                ));
            }
        };
        Ok(Format { coding, channels, rate })
    }
}

/// The samples of an open file.
pub(super) struct Wav {
    path: PathBuf,
    reader: BufReader<File>,
    /// Where the samples begin.
    begin: u64,
    coding: Coding,
    channels: usize,
    block: Vec<u8>,
}

/// Reads chunks up to the samples. `size` is the file's.
pub(super) fn open(path: &Path, file: File, size: u64) -> Result<(About, Wav)> {
    let bad = |detail: String| Err(Error::data(path, detail));
    let mut reader = BufReader::new(file);
    let head: [u8; 12] = take(path, &mut reader)?;
    if &head[8..] != b"WAVE" {
        return bad("it is a RIFF file, but no wav file".into());
    }
    let riff = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
    let mut format = None;
    // Of files of more than 4 GB.
    let mut long = None;
    for _ in 0..MOST_CHUNKS {
        let chunk: [u8; 8] = take(path, &mut reader)?;
        let at = reader.stream_position().map_err(Error::io("read", path))?;
        let said = u64::from(u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]));
        match &chunk[..4] {
            b"data" => {
                let Some(format) = format else {
                    return bad("its samples come before what they are: is it damaged?".into());
                };
                let about = samples(path, &format, (riff, long.unwrap_or(said)), (at, size))?;
                let channels = usize::from(format.channels);
                let wav = Wav {
                    path: path.into(),
                    reader,
                    begin: at,
                    coding: format.coding,
                    channels,
                    block: Vec::new(),
                };
                return Ok((about, wav));
            }
            b"fmt " => {
                let mut bytes = Vec::new();
                let part = (&mut reader).take(said.min(64)).read_to_end(&mut bytes);
                part.map_err(Error::io("read", path))?;
                format = Some(Format::read(path, &bytes)?);
            }
            b"ds64" if said >= 24 => {
                let sizes: [u8; 16] = take(path, &mut reader)?;
                long = Some(u64::from_le_bytes(std::array::from_fn(|i| sizes[8 + i])));
            }
            _ => {}
        }
        if at + said > size {
            return bad("it is cut short before its samples; copy it again".into());
        }
        reader.seek(SeekFrom::Start(at + said)).map_err(Error::io("read", path))?;
        // A chunk of odd size has a byte after it, which not every program writes.
        if said % 2 == 1 {
            let next = reader.fill_buf().map_err(Error::io("read", path))?.first();
            if next == Some(&0) {
                let _: [u8; 1] = take(path, &mut reader)?;
            }
        }
    }
    bad(format!("it has no samples in its first {MOST_CHUNKS} chunks: is it damaged?"))
}

/// How many samples there are: what the header says, or, where it could not know or was never finished, what
/// the rest of the file holds.
fn samples(
    path: &Path,
    format: &Format,
    (riff, said): (u64, u64),
    (at, size): (u64, u64),
) -> Result<About> {
    let left = size.saturating_sub(at);
    let frame = (usize::from(format.channels) * format.coding.bytes()).max(1) as u64;
    let unfinished = said == 0 && (riff == 0 || riff + 8 <= at);
    let bytes = match said {
        _ if unfinished => left,
        said if said >= UNKNOWN && said > left => left,
        said if said > left => {
            return Err(Error::data(
                path,
                format!(
                    "it is cut short: its header speaks of {said} bytes of samples, and {left} are left \
                     of the file; copy it again"
                ),
            ));
        }
        said if said % frame != 0 => {
            return Err(Error::data(
                path,
                format!(
                    "its {said} bytes are no whole number of samples of {frame}: is it damaged?"
                ),
            ));
        }
        said => said,
    };
    let len = usize::try_from(bytes / frame).unwrap_or(usize::MAX);
    Ok(About { rate: format.rate, channels: format.channels, len })
}

/// So many bytes, all of which the file must have.
fn take<const N: usize>(path: &Path, reader: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(|e| short(path, e))?;
    Ok(bytes)
}

fn short(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::data(path, "it is cut short; copy it again"),
        _ => Error::io("read", path)(error),
    }
}

impl Samples for Wav {
    fn fill(&mut self, to: &mut [f32]) -> Result<()> {
        let (bytes, channels) = (self.coding.bytes(), self.channels);
        for part in to.chunks_mut(4096) {
            self.block.resize(part.len() * channels * bytes, 0);
            self.reader.read_exact(&mut self.block).map_err(|e| short(&self.path, e))?;
            for (slot, frame) in part.iter_mut().zip(self.block.chunks_exact(channels * bytes)) {
                let sum: f32 = frame.chunks_exact(bytes).map(|at| self.coding.value(at)).sum();
                *slot = sum / channels as f32;
            }
        }
        Ok(())
    }

    fn rewind(&mut self) -> Result<()> {
        let back = self.reader.seek(SeekFrom::Start(self.begin));
        back.map(drop).map_err(Error::io("read", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g711_is_the_recommendation_s() {
        // Tables 1a and 2a of the recommendation, on a scale of 16 bits: the ends and both sides of zero.
        let a = [(0xd5, 8.0), (0x55, -8.0), (0xaa, 32_256.0), (0x2a, -32_256.0), (0x80, 5504.0)];
        assert!(
            a.iter().all(|(byte, value)| a_law(*byte) == *value),
            "{:?}",
            a.map(|x| a_law(x.0))
        );
        let mu = [(0xff, 0.0), (0x7f, 0.0), (0x80, 32_124.0), (0x00, -32_124.0), (0xf0, 120.0)];
        assert!(
            mu.iter().all(|(byte, value)| mu_law(*byte) == *value),
            "{:?}",
            mu.map(|x| mu_law(x.0))
        );
    }
}
