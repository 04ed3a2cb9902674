//! One block of a recording on the device: its buffers and its two programs.

use super::tables::{self, BINS, MELS, OCTAVES, PER_OCTAVE, Q_BINS, Q_FRAME, REACH};
use super::{CHROMA, Choice, FRAME, Group, HOP, MFCC};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::decimate::Octave;
use crate::ops::frame_rms::Framing;
use crate::ops::matmul::{Product, product};
use crate::ops::spectrum::Frames;
use crate::plan::{Memory, Pool, Program, SpaceId, Spaces, TensorId};
use crate::tape::Tape;
use std::collections::HashMap;

/// Buffers and programs for so many frames. The signal lies in a pyramid: the samples themselves,
/// then each octave below, at half the rate of the one before.
pub(super) struct Block {
    /// Frames of a block.
    pub(super) frames: usize,
    /// Samples to upload; the first frame's middle is sample `before()`.
    pub(super) samples: usize,
    memory: Memory,
    pyramid: SpaceId,
    ranges: SpaceId,
    powers: SpaceId,
    mels: SpaceId,
    filters: SpaceId,
    floor: SpaceId,
    /// Spectra of frames and their mel bands; nothing where no feature is made of them.
    spectra: Option<Program>,
    /// Everything that follows them; nothing where the host does all.
    rest: Option<Program>,
    left: Vec<(Part, TensorId)>,
}

/// What [`Block::rest`] leaves, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Mfcc,
    /// Mel bands in decibels.
    Decibels,
    /// Not yet scaled to a largest value of 1.
    Chroma,
    Rms,
    /// Centroid, bandwidth, roll-off, flatness, then peaks and valleys of the contrast where that was chosen.
    Shape,
    Pitch,
}

/// Samples of octave `level` before the middle of a block's first frame: half a frame of the lowest
/// octave, and what the filters on the way there reach over.
const fn before(level: usize) -> usize {
    let times = 1 << (OCTAVES - 1 - level);
    times * (Q_FRAME / 2) + (times - 1) * REACH
}

impl Block {
    pub(super) fn new(gpu: &Gpu, frames: usize, choice: &Choice) -> Result<Block> {
        let taps = tables::low_pass();
        // How long each octave has to be, the lowest first.
        let mut lengths = [0; OCTAVES];
        for level in (0..OCTAVES).rev() {
            let own = before(level) + (frames - 1) * (HOP >> level) + Q_FRAME / 2;
            let below =
                lengths.get(level + 1).map_or(0, |n| 2 * n + taps.len().next_multiple_of(4));
            lengths[level] = own.max(below).next_multiple_of(8);
        }
        let mut starts = [0; OCTAVES];
        for level in 1..OCTAVES {
            starts[level] = (starts[level - 1] + lengths[level - 1]).next_multiple_of(8);
        }
        let total = starts[OCTAVES - 1] + lengths[OCTAVES - 1];

        let mut spaces = Spaces::new();
        let pyramid = spaces.declare("pyramid", total);
        let ranges = spaces.declare("ranges", 2 * OCTAVES);
        let powers = spaces.declare("power spectra", frames * BINS);
        let mels = spaces.declare("mel spectra", frames * MELS);
        let filters = spaces.declare("filters", 2 * PER_OCTAVE * 2 * Q_BINS.1);
        let floor = spaces.declare("floor", 1);
        let memory = Memory::allocate(gpu, &spaces)?;
        let mut pool = Pool::new();
        let mut prepare = |tape: Tape| match tape.recording().calls.is_empty() {
            true => Ok(None),
            false => tape.plan(gpu.caps())?.prepare(gpu, &memory, &mut pool).map(Some),
        };

        let chosen = |groups: &[Group]| groups.iter().any(|group| choice.has(*group));
        let (bands, shape) = (
            chosen(&[Group::Mfcc, Group::LogMel]),
            chosen(&[
                Group::Centroid,
                Group::Bandwidth,
                Group::Rolloff,
                Group::Flatness,
                Group::Contrast,
            ]),
        );
        let mut tape = Tape::new();
        if bands || shape || choice.has(Group::Chroma) {
            let x = tape.input("pyramid", &[total], pyramid, 0);
            let hann: Vec<f32> = tables::hann(FRAME).map(|w| w as f32).collect();
            let window = tape.constant("hann", &[FRAME], &hann)?;
            let signals = [(before(0) - FRAME / 2, HOP)];
            let spectra = Frames {
                size: FRAME,
                count: frames,
                signals: &signals,
                window: Some(window),
                bins: (0, BINS),
                pairs: false,
            };
            let power = tape.input("power spectra", &[frames, BINS], powers, 0);
            tape.spectrum_into(x, spectra, power)?;
            if bands {
                let filterbank = tape.constant("mel filters", &[MELS, BINS], &tables::mel())?;
                let mel = tape.input("mel spectra", &[frames, MELS], mels, 0);
                let sizes = Product { m: frames, n: MELS, k: BINS, tb: true, ..Default::default() };
                product(&mut tape, power, filterbank, mel, sizes);
            }
        }
        let spectra = prepare(tape)?;

        let mut tape = Tape::new();
        let mut left = Vec::new();
        if bands {
            let mel = tape.input("mel spectra", &[frames, MELS], mels, 0);
            let least = tape.input("floor", &[1], floor, 0);
            let decibels = tape.decibels(mel, least)?;
            if choice.has(Group::LogMel) {
                left.push((Part::Decibels, decibels));
            }
            if choice.has(Group::Mfcc) {
                let dct = tape.constant("dct", &[MFCC, MELS], &tables::dct())?;
                left.push((Part::Mfcc, tape.linear(decibels, dct, None, Default::default())?));
            }
        }
        let x = tape.input("pyramid", &[total], pyramid, 0);
        let framing =
            Framing { count: frames, first: before(0) - FRAME / 2, hop: HOP, size: FRAME };
        if choice.has(Group::Rms) {
            left.push((Part::Rms, tape.frame_rms(x, framing)?));
        }
        if choice.has(Group::F0) {
            left.push((Part::Pitch, tape.yin(x, framing, tables::pitch())?));
        }
        if shape {
            let power = tape.input("power spectra", &[frames, BINS], powers, 0);
            let bins = (FRAME / 2 + 1, tables::BIN_HZ as f32);
            let bands = if choice.has(Group::Contrast) { tables::contrast() } else { Vec::new() };
            let made = tape.spectral_shape(power, bins, tables::ROLLOFF, &bands)?;
            left.push((Part::Shape, made));
        }
        if choice.has(Group::Chroma) {
            let inside = tape.input("ranges", &[OCTAVES, 2], ranges, 0);
            for level in 1..OCTAVES {
                let (from, to) = (starts[level - 1], starts[level]);
                let octave = Octave { from, to, count: lengths[level], level };
                tape.decimate(x, inside, &taps, octave)?;
            }
            let signals: Vec<(usize, usize)> = (0..OCTAVES)
                .map(|level| (starts[level] + before(level) - Q_FRAME / 2, HOP >> level))
                .collect();
            let octaves = Frames {
                size: Q_FRAME,
                count: frames,
                signals: &signals,
                window: None,
                bins: Q_BINS,
                pairs: true,
            };
            let bins = tape.spectrum(x, octaves)?;
            let shape = [2 * PER_OCTAVE, 2 * Q_BINS.1];
            let filters_var = tape.input("filters", &shape, filters, 0);
            let response = tape.linear(bins, filters_var, None, Default::default())?;
            let loudness = tape.modulus(response)?;
            let loudness = tape.reshape(loudness, &[frames, OCTAVES * PER_OCTAVE])?;
            let notes =
                tape.constant("notes", &[CHROMA, OCTAVES * PER_OCTAVE], &tables::notes())?;
            let chroma = tape.linear(loudness, notes, None, Default::default())?;
            left.push((Part::Chroma, chroma));
        }
        left.iter().for_each(|(_, made)| tape.keep(*made));
        let rest = prepare(tape)?;
        Ok(Block {
            frames,
            samples: lengths[0],
            memory,
            pyramid,
            ranges,
            powers,
            mels,
            filters,
            floor,
            spectra,
            rest,
            left,
        })
    }

    /// Samples before the middle of the first frame.
    pub(super) const fn before() -> usize {
        before(0)
    }

    /// Dispatches of [`spectra`](Self::spectra) and of [`rest`](Self::rest).
    pub(super) fn dispatches(&self) -> [usize; 2] {
        let count =
            |program: &Option<Program>| program.as_ref().map_or(0, |p| p.dispatch_count(true));
        [count(&self.spectra), count(&self.rest)]
    }

    /// Uploads the samples around frame `first` of a recording of `total` samples, and has the
    /// spectra of its frames computed.
    pub(super) fn spectra(
        &self,
        gpu: &Gpu,
        samples: &[f32],
        first: usize,
        total: usize,
    ) -> Result<()> {
        self.memory.write_f32(gpu, self.pyramid, 0, samples)?;
        let ranges: Vec<u32> = (0..OCTAVES)
            .flat_map(|level| {
                // The recording's own samples, counted from the buffer's first. A buffer is far
                // shorter than an i32 counts, and what lies past either end of it is all the same.
                let start = (first * (HOP >> level)) as i64 - before(level) as i64;
                let ends = [-start, total.div_ceil(1 << level) as i64 - start];
                ends.map(|e| e.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32 as u32)
            })
            .collect();
        self.memory.write(gpu, self.ranges, 0, &ranges)?;
        self.spectra.as_ref().map_or(Ok(()), |spectra| spectra.run(gpu, &self.memory))
    }

    /// The powers of the frames, `[rows, BINS]`.
    pub(super) fn powers(&self, gpu: &Gpu, rows: usize) -> Result<Vec<f32>> {
        self.memory.read_f32(gpu, self.powers, 0, rows * BINS)
    }

    /// The powers of their mel bands, `[rows, MELS]`.
    pub(super) fn mels(&self, gpu: &Gpu, rows: usize) -> Result<Vec<f32>> {
        self.memory.read_f32(gpu, self.mels, 0, rows * MELS)
    }

    /// Sets what a whole recording decides: the filters of the octaves, and the least power that
    /// counts.
    pub(super) fn settle(&self, gpu: &Gpu, filters: &[f32], floor: f32) -> Result<()> {
        self.memory.write_f32(gpu, self.filters, 0, filters)?;
        self.memory.write_f32(gpu, self.floor, 0, &[floor])
    }

    /// Everything that follows the spectra.
    pub(super) fn rest(&self, gpu: &Gpu) -> Result<HashMap<Part, Vec<f32>>> {
        let Some(rest) = &self.rest else { return Ok(HashMap::new()) };
        rest.run(gpu, &self.memory)?;
        let read =
            |(part, made): &(Part, TensorId)| Ok((*part, rest.read(gpu, &self.memory, *made)?));
        self.left.iter().map(read).collect()
    }
}
