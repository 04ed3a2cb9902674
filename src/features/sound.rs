//! Files of sound, decoded as they are read: what a file is is told by how it begins, not by its name.

use super::{compressed, wav};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Rates that are taken for rates, and not for damage.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Floats beyond this are damage, too: their powers would overflow.
const LOUDEST: f32 = 1e6;

/// Endings of files that a folder is searched for.
pub const ENDINGS: [&str; 6] = ["wav", "wave", "flac", "ogg", "oga", "mp3"];

/// What a header says, or, where it says nothing, what counting told.
pub(super) struct About {
    pub rate: u32,
    pub channels: u16,
    /// Samples of each channel.
    pub len: usize,
}

/// Decoded samples in their order, means over the channels, full scale 1.
pub(super) trait Samples: Send {
    /// Fills `to`; no more is asked for than there is.
    fn fill(&mut self, to: &mut [f32]) -> Result<()>;

    /// Goes back to the first.
    fn rewind(&mut self) -> Result<()>;
}

/// An open file: WAVE (also RF64; PCM of up to 32 bits, floats, A-law, µ-law), FLAC, Ogg Vorbis or MP3.
pub struct Sound {
    path: PathBuf,
    about: About,
    samples: Box<dyn Samples>,
    read: usize,
}

/// Whether a file begins as FLAC, as Ogg, or as MP3, with its notes first or without any.
fn packed(head: &[u8]) -> bool {
    let mp3 = matches!(head, [0xff, second, ..] if second & 0xe0 == 0xe0);
    mp3 || [&b"fLaC"[..], b"OggS", b"ID3"].iter().any(|magic| head.starts_with(magic))
}

impl Sound {
    /// Opens a file and checks its header against its size. What is compressed is decoded once to know how
    /// long it is, and again as it is read, so that its length takes no memory.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Data`] for one that is no such file, is cut
    /// short, is empty, or is encoded in another way.
    pub fn open(path: impl AsRef<Path>) -> Result<Sound> {
        let path = path.as_ref();
        let bad = |detail: String| Err(Error::data(path, detail));
        let mut file = File::open(path).map_err(Error::io("read", path))?;
        let about = file.metadata().map_err(Error::io("read", path))?;
        if about.is_dir() {
            return bad("it is a folder; name the recordings in it".into());
        }
        if about.len() == 0 {
            return bad("the file is empty; record or convert it again".into());
        }
        let mut head = Vec::new();
        (&mut file).take(12).read_to_end(&mut head).map_err(Error::io("read", path))?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
        let (about, samples): (About, Box<dyn Samples>) = match head[..] {
            [b'R', b'I', b'F', b'F', ..] | [b'R', b'F', b'6', b'4', ..] => {
                let (about, samples) = wav::open(path, file, about.len())?;
                (about, Box::new(samples))
            }
            _ if packed(&head) => {
                let (about, samples) = compressed::open(path)?;
                (about, Box::new(samples))
            }
            _ => {
                return bad("not a wav, FLAC, Ogg or MP3 file; convert it to 16-bit PCM".into());
            }
        };
        if about.channels == 0 {
            return bad("its header speaks of no channel: is it damaged?".into());
        }
        if !RATES.contains(&about.rate) {
            return bad(format!(
                "its header says {} samples a second; wanted {} to {}: is it damaged?",
                about.rate,
                RATES.start(),
                RATES.end()
            ));
        }
        if about.len == 0 {
            return bad("it holds no sample; leave it out".into());
        }
        Ok(Sound { path: path.into(), about, samples, read: 0 })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Samples a second of each channel.
    pub fn rate(&self) -> u32 {
        self.about.rate
    }

    /// Channels.
    pub fn channels(&self) -> u16 {
        self.about.channels
    }

    /// Samples of each channel.
    pub fn len(&self) -> usize {
        self.about.len
    }

    /// Whether there is none (never so in an opened file).
    pub fn is_empty(&self) -> bool {
        self.about.len == 0
    }

    /// How long it takes to play.
    pub fn seconds(&self) -> f64 {
        self.about.len as f64 / f64::from(self.about.rate)
    }

    /// The next samples, the mean of all channels, full scale 1: as many as there are, at most as
    /// many as fit. Gives their number.
    ///
    /// # Errors
    /// [`Error::Data`] where the file ends early or holds a number that is not finite.
    pub fn read(&mut self, to: &mut [f32]) -> Result<usize> {
        let count = to.len().min(self.about.len - self.read);
        let to = &mut to[..count];
        self.samples.fill(to)?;
        if let Some(at) = to.iter().position(|x| !x.is_finite() || x.abs() > LOUDEST) {
            let seconds = (self.read + at) as f64 / f64::from(self.about.rate);
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

    /// Goes back to the first sample.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn rewind(&mut self) -> Result<()> {
        self.read = 0;
        self.samples.rewind()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as the field writes them: chunks, with sizes that may lie.
    fn riff(magic: &[u8; 4], size: u32, chunks: &[(&[u8; 4], u32, &[u8])]) -> Vec<u8> {
        let mut all = magic.to_vec();
        all.extend(size.to_le_bytes());
        all.extend(b"WAVE");
        for (name, size, bytes) in chunks {
            all.extend(*name);
            all.extend(size.to_le_bytes());
            all.extend(*bytes);
            if bytes.len() % 2 == 1 {
                all.push(0);
            }
        }
        all
    }

    fn format(tag: u16, channels: u16, bits: u16, valid: Option<u16>) -> Vec<u8> {
        let (rate, block) = (22_050_u32, channels * bits.div_ceil(8));
        let mut all = match valid {
            Some(_) => 0xfffe_u16.to_le_bytes(),
            None => tag.to_le_bytes(),
        }
        .to_vec();
        all.extend(channels.to_le_bytes());
        all.extend(rate.to_le_bytes());
        all.extend((rate * u32::from(block)).to_le_bytes());
        all.extend(block.to_le_bytes());
        all.extend(bits.to_le_bytes());
        if let Some(valid) = valid {
            all.extend(22_u16.to_le_bytes());
            all.extend(valid.to_le_bytes());
            all.extend(4_u32.to_le_bytes());
            all.extend(tag.to_le_bytes());
            all.extend([0; 14]);
        }
        all
    }

    /// A tone in whole numbers of 16 bits.
    fn tone() -> Vec<i16> {
        (0..500).map(|i| ((f64::from(i) * 0.1).sin() * 20_000.0) as i16).collect()
    }

    fn bytes_of<const N: usize>(samples: &[i16], each: impl Fn(i16) -> [u8; N]) -> Vec<u8> {
        samples.iter().flat_map(|x| each(*x)).collect()
    }

    fn opened(name: &str, bytes: &[u8]) -> Result<Vec<f32>> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut sound = Sound::open(&path)?;
        let mut all = vec![0.0; sound.len()];
        assert_eq!(sound.read(&mut all)?, all.len());
        assert_eq!(sound.read(&mut [0.0; 9])?, 0);
        Ok(all)
    }

    #[test]
    fn headers_of_the_field_are_read_as_the_plain_one() {
        let (samples, plain) = (tone(), format(1, 1, 16, None));
        let data = bytes_of(&samples, i16::to_le_bytes);
        let n = data.len() as u32;
        let wanted: Vec<f32> = samples.iter().map(|x| f32::from(*x) / 32_768.0).collect();
        let ds64 = [[0; 8], u64::from(n).to_le_bytes(), [0; 8], [0; 8]].concat();
        let wide = bytes_of(&samples, |x| (i32::from(x) << 16).to_le_bytes());
        let three = bytes_of(&samples, |x| {
            let [a, b] = x.to_le_bytes();
            [0, a, b]
        });
        let both: Vec<u8> = data.chunks(2).flat_map(|x| [x, x].concat()).collect();
        let double = bytes_of(&samples, |x| (f64::from(x) / 32_768.0).to_le_bytes());
        let (twenty, f24) = (format(1, 1, 24, Some(20)), format(1, 1, 24, None));
        let (two, f32s, f64s) =
            (format(1, 2, 16, None), format(1, 1, 32, Some(24)), format(3, 1, 64, None));
        let tail = b"LIST";
        let all: [(&str, Vec<u8>); 12] = [
            ("plain", riff(b"RIFF", 36 + n, &[(b"fmt ", 16, &plain), (b"data", n, &data)])),
            (
                "odd",
                riff(
                    b"RIFF",
                    0,
                    &[(b"bext", 3, b"abc"), (b"fmt ", 16, &plain), (b"data", n, &data)],
                ),
            ),
            (
                "ffmpeg",
                riff(b"RIFF", u32::MAX, &[(b"fmt ", 16, &plain), (b"data", u32::MAX, &data)]),
            ),
            (
                "sox",
                riff(b"RIFF", 0x7fff_f024, &[(b"fmt ", 16, &plain), (b"data", 0x7fff_f000, &data)]),
            ),
            ("died", riff(b"RIFF", 0, &[(b"fmt ", 16, &plain), (b"data", 0, &data)])),
            ("died late", riff(b"RIFF", 36, &[(b"fmt ", 16, &plain), (b"data", 0, &data)])),
            (
                "rf64",
                riff(
                    b"RF64",
                    u32::MAX,
                    &[
                        (b"ds64", 32, &ds64),
                        (b"fmt ", 16, &plain),
                        (b"data", u32::MAX, &data),
                        (tail, 4, b"abcd"),
                    ],
                ),
            ),
            ("20 in 24", riff(b"RIFF", 0, &[(b"fmt ", 40, &twenty), (b"data", n / 2 * 3, &three)])),
            ("24", riff(b"RIFF", 0, &[(b"fmt ", 16, &f24), (b"data", n / 2 * 3, &three)])),
            ("24 in 32", riff(b"RIFF", 0, &[(b"fmt ", 40, &f32s), (b"data", n * 2, &wide)])),
            (
                "stereo",
                riff(
                    b"RIFF",
                    0,
                    &[(b"fmt ", 16, &two), (b"data", n * 2, &both), (tail, 4, b"abcd")],
                ),
            ),
            ("f64", riff(b"RIFF", 0, &[(b"fmt ", 16, &f64s), (b"data", n * 4, &double)])),
        ];
        for (name, bytes) in &all {
            let got = opened("it.wav", bytes).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(got == wanted, "{name}: {} of {}, {:?}", got.len(), wanted.len(), &got[..4]);
        }
        // A file that was cut has a header that was finished.
        let (_, whole) = &all[0];
        let why = opened("it.wav", &whole[..whole.len() - 100]).unwrap_err().to_string();
        assert!(why.contains("cut short") && why.contains("copy it again"), "{why}");
        let empty = riff(b"RIFF", 36, &[(b"fmt ", 16, &plain), (b"data", 0, b"")]);
        assert!(opened("it.wav", &empty).unwrap_err().to_string().contains("holds no sample"));
    }

    #[test]
    fn the_telephone_s_codings_are_near_the_plain_one() {
        // Bytes of both laws for 1000, -1000, 20000 and 0 of 16 bits, after the recommendation's tables.
        for (tag, bytes, step) in
            [(6, [0xfa, 0x7a, 0xa6, 0xd5], 512.0), (7, [0xce, 0x4e, 0x8c, 0xff], 512.0)]
        {
            let (f, n) = (format(tag, 1, 8, None), bytes.len() as u32);
            let got =
                opened("it.wav", &riff(b"RIFF", 0, &[(b"fmt ", 16, &f), (b"data", n, &bytes)]));
            for (x, wanted) in got.unwrap().iter().zip([1000.0, -1000.0, 20_000.0, 0.0]) {
                assert!(
                    (x * 32_768.0 - wanted).abs() <= step,
                    "{tag}: {} for {wanted}",
                    x * 32_768.0
                );
            }
        }
    }

    /// The same half second of speech, by the tools of each format.
    #[test]
    fn compressed_files_are_the_recording_they_were_made_of() {
        let fixture = |name: &str| {
            let path =
                Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sound")).join(name);
            opened(name, &std::fs::read(path).unwrap()).unwrap()
        };
        let flac = fixture("speech.flac");
        let power =
            |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        for (name, apart) in [("speech.wav", 0.0), ("speech.ogg", 0.1), ("speech.mp3", 0.1)] {
            let other = fixture(name);
            assert!(
                other.len().abs_diff(flac.len()) <= 2 * 1152,
                "{name}: {} of {}",
                other.len(),
                flac.len()
            );
            // An encoder's delay is taken off where its file says how long it is.
            let least = (0..=if apart == 0.0 { 0 } else { 1300 })
                .map(|shift| {
                    let n = flac.len().min(other.len() - shift.min(other.len()));
                    let rest: Vec<f32> = (0..n).map(|i| flac[i] - other[i + shift]).collect();
                    power(&rest) / power(&flac)
                })
                .fold(f64::INFINITY, f64::min);
            assert!(least <= apart, "{name}: {least:.3} of the power is other");
        }
    }

    #[test]
    fn what_is_no_sound_is_said_so() {
        let why = |bytes: &[u8]| opened("it.mp3", bytes).unwrap_err().to_string();
        assert!(why(b"some text, and no sound").contains("not a wav, FLAC, Ogg or MP3 file"));
        assert!(
            why(b"OggS and then nothing of it")
                .contains("not a FLAC, Ogg or MP3 file that can be read")
        );
        let adpcm = format(0x11, 1, 4, None);
        let text = why(&riff(b"RIFF", 0, &[(b"fmt ", 16, &adpcm), (b"data", 4, b"abcd")]));
        assert!(text.contains("ADPCM") && text.contains("convert it"), "{text}");
    }
}
