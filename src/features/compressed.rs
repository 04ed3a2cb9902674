//! FLAC, Ogg Vorbis and MP3, by the decoders of `symphonia`.

use super::sound::{About, Samples};
use crate::error::{Error, Result, contained};
use std::fs::File;
use std::path::{Path, PathBuf};
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as Fault;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

/// The samples of an open file.
pub(super) struct Compressed {
    path: PathBuf,
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// Of the last packet, one after the other, with the channels of a moment side by side.
    decoded: Vec<f32>,
    channels: usize,
    rate: u32,
    /// How far `decoded` was handed out.
    taken: usize,
}

/// Opens a file, and decodes it once to count what is in it. The decoders count on sound headers here and there,
/// and panic over others: what they can be made to do by this file, they have done behind this.
pub(super) fn open(path: &Path) -> Result<(About, Compressed)> {
    let about = contained(|| count(path)).unwrap_or_else(|| {
        Err(Error::data(path, "not a FLAC, Ogg or MP3 file that can be read: it is damaged"))
    })?;
    Ok((about, Compressed::open(path)?))
}

fn count(path: &Path) -> Result<About> {
    let mut counted = Compressed::open(path)?;
    let mut len = 0;
    while counted.next()? {
        len += counted.decoded.len() / counted.channels;
    }
    let channels = u16::try_from(counted.channels).unwrap_or(0);
    Ok(About { rate: counted.rate, channels, len })
}

fn unusable(path: &Path, why: Fault) -> Error {
    match why {
        Fault::IoError(why) if why.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::io("read", path)(why)
        }
        why => Error::data(
            path,
            format!(
                "not a FLAC, Ogg or MP3 file that can be read ({why}); convert it to 16-bit PCM"
            ),
        ),
    }
}

impl Compressed {
    fn open(path: &Path) -> Result<Compressed> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let stream = MediaSourceStream::new(Box::new(file), Default::default());
        let probe = symphonia::default::get_probe();
        let reader = probe
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|why| unusable(path, why))?;
        let none = || Error::data(path, "there is no sound in it that can be decoded");
        let track = reader.default_track(TrackType::Audio).ok_or_else(none)?;
        let coding = track.codec_params.as_ref().and_then(|all| all.audio()).ok_or_else(none)?;
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(coding, &AudioDecoderOptions::default())
            .map_err(|why| unusable(path, why))?;
        let track = track.id;
        Ok(Compressed {
            path: path.into(),
            reader,
            decoder,
            track,
            decoded: Vec::new(),
            channels: 1,
            rate: 0,
            taken: 0,
        })
    }

    /// Decodes the next packet that holds anything; whether there was one.
    fn next(&mut self) -> Result<bool> {
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(false),
                Err(why) => return Err(unusable(&self.path, why)),
            };
            if packet.track_id != self.track {
                continue;
            }
            let decoded = self.decoder.decode(&packet).map_err(|why| unusable(&self.path, why))?;
            let (channels, rate) = (decoded.spec().channels().count(), decoded.spec().rate());
            let changed = self.rate != 0 && (rate, channels) != (self.rate, self.channels);
            if channels == 0 || changed {
                let detail = "its rate or its channels change on the way; convert it to 16-bit PCM";
                return Err(Error::data(&self.path, detail));
            }
            (self.channels, self.rate) = (channels, rate);
            decoded.copy_to_vec_interleaved(&mut self.decoded);
            self.taken = 0;
            if !self.decoded.is_empty() {
                return Ok(true);
            }
        }
    }
}

impl Samples for Compressed {
    fn fill(&mut self, to: &mut [f32]) -> Result<()> {
        for slot in to {
            if self.taken == self.decoded.len() && !self.next()? {
                return Err(Error::data(&self.path, "it became shorter while it was read"));
            }
            let moment = &self.decoded[self.taken..self.taken + self.channels];
            *slot = moment.iter().sum::<f32>() / self.channels as f32;
            self.taken += self.channels;
        }
        Ok(())
    }

    fn rewind(&mut self) -> Result<()> {
        *self = Compressed::open(&self.path)?;
        Ok(())
    }
}
