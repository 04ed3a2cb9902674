//! From a signal to rows of features, block by block.

use super::block::Block;
use super::signal::Signal;
use super::tables::{self, BINS};
use super::tuning::Peaks;
use super::{CHROMA, COLUMNS, FRAME, HOP, MFCC};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// The features of one recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Rows of [`COLUMNS`] numbers, one for every [`HOP`] samples, the first at sample 0.
    pub values: Vec<f32>,
    /// How far its pitch is off, in 36ths of an octave, from −0.5 to 0.5.
    pub tuning: f64,
    /// Samples at the features' rate.
    pub samples: usize,
}

impl Features {
    /// Rows.
    pub fn frames(&self) -> usize {
        self.values.len() / COLUMNS
    }
}

/// Frames of a block; a recording takes the first that holds all of it, or many of the last.
const SIZES: [usize; 8] = [32, 64, 96, 128, 192, 256, 384, 512];

/// A band does not count below this share of the recording's largest power: 80 dB.
const RANGE: f32 = 1e-8;
/// Nor does it below this power.
const LEAST: f32 = 1e-10;

/// Computes features on a device; its plans are made on first use and kept.
pub struct Extractor {
    gpu: Gpu,
    sizes: Vec<usize>,
    blocks: Vec<Option<Block>>,
}

impl Extractor {
    /// An extractor without plans yet.
    pub fn new(gpu: &Gpu) -> Self {
        Self::with_blocks(gpu, &SIZES)
    }

    /// One with blocks of these numbers of frames, the smallest first; for tests and timings.
    ///
    /// # Panics
    /// Without a size, or with an empty one.
    pub fn with_blocks(gpu: &Gpu, sizes: &[usize]) -> Self {
        let gpu = gpu.clone();
        assert!(!sizes.is_empty() && !sizes.contains(&0), "blocks of {sizes:?} frames");
        Extractor { gpu, sizes: sizes.to_vec(), blocks: sizes.iter().map(|_| None).collect() }
    }

    /// The features of a signal.
    ///
    /// # Errors
    /// Those of reading the signal, of the device, and [`Error::Config`] for a signal without a
    /// sample.
    pub fn extract(&mut self, signal: &mut dyn Signal) -> Result<Features> {
        let samples = signal.len();
        if samples == 0 {
            return Err(Error::Config("a signal without a sample has no features".into()));
        }
        let (gpu, rows) = (&self.gpu.clone(), 1 + samples / HOP);
        let block = self.block_for(rows)?;
        let starts = (0..rows).step_by(block.frames);
        let one = rows <= block.frames;

        // What the whole recording decides: its largest power and its tuning.
        let (mut largest, mut peaks, mut values) = (0.0_f32, Peaks::default(), Vec::new());
        let mut window = Window::new(block, samples);
        for first in starts.clone() {
            window.advance(signal, first)?;
            block.spectra(gpu, &window.samples, first, samples)?;
            let count = block.frames.min(rows - first);
            let (power, mel) = block.powers(gpu, count)?;
            if !mel.iter().all(|m| m.is_finite()) {
                let detail = "the samples are too large: their powers overflow; scale them to ±1";
                return Err(Error::Config(detail.into()));
            }
            largest = mel.iter().copied().fold(largest, f32::max);
            power.chunks_exact(BINS).for_each(|row| peaks.add(row));
            for frame in first..first + count {
                values.push(window.crossings(frame));
                values.resize(values.len() + COLUMNS - 1, 0.0);
            }
        }
        let tuning = peaks.tuning();
        block.settle(gpu, &tables::octave(tuning), LEAST.max(largest * RANGE))?;

        if !one {
            signal.rewind()?;
            window = Window::new(block, samples);
        }
        for first in starts {
            if !one {
                window.advance(signal, first)?;
                block.spectra(gpu, &window.samples, first, samples)?;
            }
            let rest = block.rest(gpu)?;
            let mfcc = rest.mfcc.chunks_exact(MFCC);
            let chroma = rest.chroma.chunks_exact(CHROMA);
            let rows = values[first * COLUMNS..].chunks_exact_mut(COLUMNS);
            for ((row, mfcc), chroma) in rows.zip(mfcc).zip(chroma) {
                row[1..=MFCC].copy_from_slice(mfcc);
                let most = chroma.iter().copied().fold(0.0, f32::max);
                let scale = if most < f32::MIN_POSITIVE { 1.0 } else { most };
                row[1 + MFCC..].iter_mut().zip(chroma).for_each(|(to, c)| *to = c / scale);
            }
        }
        Ok(Features { values, tuning, samples })
    }

    /// Dispatches of a block: those that a recording longer than a block runs twice, and the rest.
    ///
    /// # Errors
    /// Those of making the plan.
    pub fn dispatches(&mut self) -> Result<[usize; 2]> {
        Ok(self.block_for(usize::MAX)?.dispatches())
    }

    fn block_for(&mut self, rows: usize) -> Result<&Block> {
        let which = self.sizes.iter().position(|size| rows <= *size);
        let which = which.unwrap_or(self.sizes.len() - 1);
        let slot = &mut self.blocks[which];
        let block = match slot.take() {
            Some(block) => block,
            None => Block::new(&self.gpu, self.sizes[which])?,
        };
        Ok(slot.insert(block))
    }
}

/// The samples around a block, zero outside the recording.
struct Window {
    samples: Vec<f32>,
    /// The recording's sample at the window's first place; negative before its start.
    start: i64,
    /// Samples of the recording.
    total: usize,
    /// How many of them have been read.
    read: usize,
}

impl Window {
    fn new(block: &Block, total: usize) -> Self {
        // As if it stood wholly before the recording.
        let start = -(block.samples as i64);
        Window { samples: vec![0.0; block.samples], start, total, read: 0 }
    }

    /// Moves on so that frame `first` is the block's first.
    fn advance(&mut self, signal: &mut dyn Signal, first: usize) -> Result<()> {
        let start = (first * HOP) as i64 - Block::before() as i64;
        let by = ((start - self.start) as usize).min(self.samples.len());
        self.samples.copy_within(by.., 0);
        let kept = self.samples.len() - by;
        self.samples[kept..].fill(0.0);
        self.start = start;
        let from = (self.read as i64 - start) as usize;
        let end = (self.total as i64 - start).clamp(0, self.samples.len() as i64) as usize;
        if from < end {
            signal.read(&mut self.samples[from..end])?;
            self.read += end - from;
        }
        Ok(())
    }

    /// The share of a frame's samples at which the sign changes. What is within 1e-10 of 0 is
    /// positive, and past its ends the recording is constant.
    fn crossings(&self, frame: usize) -> f32 {
        let middle = (frame * HOP) as i64;
        let half = (FRAME / 2) as i64;
        let (first, end) = ((middle - half).max(0), (middle + half).min(self.total as i64));
        let inside = &self.samples[(first - self.start) as usize..(end - self.start) as usize];
        let negative = |x: f32| x < -1e-10;
        let changes = inside.windows(2).filter(|w| negative(w[0]) != negative(w[1])).count();
        changes as f32 / FRAME as f32
    }
}
