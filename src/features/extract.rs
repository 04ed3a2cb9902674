//! From a signal to rows of features, block by block.

use super::block::{Block, Part};
use super::choice::{Choice, Group};
use super::delta::differences;
use super::signal::Signal;
use super::tables::{self, BINS, CONTRAST};
use super::tuning::Peaks;
use super::{CHROMA, FRAME, HOP};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use std::collections::HashMap;

/// The features of one recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Rows of `columns` numbers, one for every [`HOP`] samples, the first at sample 0.
    pub values: Vec<f32>,
    /// Numbers in a row.
    pub columns: usize,
    /// How far its pitch is off, in 36ths of an octave, from −0.5 to 0.5; 0 where no chroma was wanted, which
    /// alone needs it.
    pub tuning: f64,
    /// Samples at the features' rate.
    pub samples: usize,
}

impl Features {
    /// Rows.
    pub fn frames(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }
}

/// Frames of a block; a recording takes the first that holds all of it, or many of the last.
const SIZES: [usize; 8] = [32, 64, 96, 128, 192, 256, 384, 512];

/// A band does not count below this share of the recording's largest power: 80 dB.
const RANGE: f32 = 1e-8;
/// Nor does it below this power.
const LEAST: f32 = 1e-10;
/// Nor does a peak or a valley of the contrast so many decibels below the highest.
const DECIBELS: f32 = 80.0;

/// Computes features on a device; its plans are made on first use and kept.
pub struct Extractor {
    gpu: Gpu,
    choice: Choice,
    sizes: Vec<usize>,
    blocks: Vec<Option<Block>>,
}

impl Extractor {
    /// An extractor of the usual features, without plans yet.
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
        let blocks = sizes.iter().map(|_| None).collect();
        Extractor { gpu, choice: Choice::default(), sizes: sizes.to_vec(), blocks }
    }

    /// The same for other features.
    pub fn choosing(self, choice: Choice) -> Self {
        let blocks = self.sizes.iter().map(|_| None).collect();
        Extractor { choice, blocks, ..self }
    }

    /// What is computed.
    pub fn choice(&self) -> &Choice {
        &self.choice
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
        let (gpu, choice) = (self.gpu.clone(), self.choice.clone());
        let (gpu, rows) = (&gpu, 1 + samples / HOP);
        let block = self.block_for(rows)?;
        let starts = (0..rows).step_by(block.frames);
        let one = rows <= block.frames;
        let mut table = Table::new(&choice, rows);

        // What the whole recording decides: its largest power and its tuning.
        let bands = choice.has(Group::Mfcc) || choice.has(Group::LogMel);
        let (chroma, crossings) = (choice.has(Group::Chroma), choice.has(Group::Zcr));
        let at_once = !bands && !chroma;
        let (mut largest, mut peaks) = (0.0_f32, Peaks::default());
        let mut window = Window::new(block, samples);
        for first in starts.clone() {
            window.advance(signal, first)?;
            block.spectra(gpu, &window.samples, first, samples)?;
            let count = block.frames.min(rows - first);
            if bands {
                let mel = block.mels(gpu, count)?;
                all_finite(&mel)?;
                largest = mel.iter().copied().fold(largest, f32::max);
            }
            if chroma {
                let power = block.powers(gpu, count)?;
                all_finite(&power)?;
                power.chunks_exact(BINS).for_each(|row| peaks.add(row));
            }
            if crossings {
                let own = (first..first + count).map(|frame| window.crossings(frame));
                table.put(Group::Zcr, first, own.map(|x| [x]));
            }
            if at_once {
                table.fill(first, &block.rest(gpu)?)?;
            }
        }
        let tuning = peaks.tuning();
        if !at_once {
            let filters = if chroma { tables::octave(tuning) } else { Vec::new() };
            block.settle(gpu, &filters, LEAST.max(largest * RANGE))?;
            if !one {
                signal.rewind()?;
                window = Window::new(block, samples);
            }
            for first in starts {
                if !one {
                    window.advance(signal, first)?;
                    block.spectra(gpu, &window.samples, first, samples)?;
                }
                table.fill(first, &block.rest(gpu)?)?;
            }
        }
        Ok(Features { values: table.finish(), columns: choice.width(), tuning, samples })
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
            None => Block::new(&self.gpu, self.sizes[which], &self.choice)?,
        };
        Ok(slot.insert(block))
    }
}

fn all_finite(values: &[f32]) -> Result<()> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => {
            let detail = "the samples are too large: their powers overflow; scale them to ±1";
            Err(Error::Config(detail.into()))
        }
    }
}

/// The rows of a recording as they are filled in, without differences.
struct Table<'a> {
    choice: &'a Choice,
    rows: usize,
    width: usize,
    values: Vec<f32>,
    /// Peaks and valleys of the contrast, decibels.
    reaches: Vec<[f32; 2]>,
}

impl<'a> Table<'a> {
    fn new(choice: &'a Choice, rows: usize) -> Self {
        let width = choice.own_width();
        Table { choice, rows, width, values: vec![0.0; rows * width], reaches: Vec::new() }
    }

    /// Puts a group's numbers into the rows from `first` on; more than there are rows are left out.
    fn put(
        &mut self,
        group: Group,
        first: usize,
        numbers: impl Iterator<Item = impl AsRef<[f32]>>,
    ) {
        let Some((_, at, count)) = self.choice.places().find(|(g, ..)| *g == group) else { return };
        let rows = self.values[first * self.width..].chunks_exact_mut(self.width);
        for (row, numbers) in rows.zip(numbers) {
            row[at..at + count].copy_from_slice(numbers.as_ref());
        }
    }

    /// Fills in what a block has left of its frames, the first of which is frame `first`.
    fn fill(&mut self, first: usize, parts: &HashMap<Part, Vec<f32>>) -> Result<()> {
        let (choice, frames) = (self.choice, self.rows - first);
        for (group, _, count) in choice.places() {
            // Where a group is in its part's rows, and how long those are.
            let shape = 4 + if choice.has(Group::Contrast) { 2 * CONTRAST } else { 0 };
            let (part, at, width) = match group {
                Group::Zcr | Group::Delta | Group::Delta2 => continue,
                Group::Mfcc => (Part::Mfcc, 0, count),
                Group::Chroma => (Part::Chroma, 0, count),
                Group::LogMel => (Part::Decibels, 0, count),
                Group::Rms => (Part::Rms, 0, count),
                Group::F0 => (Part::Pitch, 0, count),
                Group::Centroid => (Part::Shape, 0, shape),
                Group::Bandwidth => (Part::Shape, 1, shape),
                Group::Rolloff => (Part::Shape, 2, shape),
                Group::Flatness => (Part::Shape, 3, shape),
                Group::Contrast => (Part::Shape, 4, shape),
            };
            let made = parts.get(&part).map_or(&[][..], Vec::as_slice);
            let made = &made[..made.len().min(frames * width)];
            all_finite(made)?;
            let rows = made.chunks_exact(width);
            match group {
                Group::Chroma => self.put(group, first, rows.map(loudest_is_1)),
                Group::Contrast => {
                    let reaches = rows.flat_map(|row| row[at..].chunks_exact(2));
                    self.reaches.extend(reaches.map(|reach| [reach[0], reach[1]]));
                }
                _ => self.put(group, first, rows.map(|row| &row[at..at + count])),
            }
        }
        Ok(())
    }

    /// What the whole recording decides, and the differences behind the other columns.
    fn finish(mut self) -> Vec<f32> {
        let floors = self
            .reaches
            .iter()
            .fold([f32::MIN; 2], |most, reach| [most[0].max(reach[0]), most[1].max(reach[1])]);
        let contrast = |[peak, valley]: &[f32; 2]| {
            peak.max(floors[0] - DECIBELS) - valley.max(floors[1] - DECIBELS)
        };
        let contrasts: Vec<f32> = self.reaches.iter().map(contrast).collect();
        self.put(Group::Contrast, 0, contrasts.chunks_exact(CONTRAST));
        let orders = self.choice.orders();
        let mut parts: Vec<Vec<f32>> =
            orders.map(|order| differences(&self.values, self.width, order)).collect();
        if parts.is_empty() {
            return self.values;
        }
        parts.insert(0, self.values);
        let row = |row: usize| {
            parts.iter().flat_map(move |part| &part[row * self.width..(row + 1) * self.width])
        };
        (0..self.rows).flat_map(row).copied().collect()
    }
}

/// Notes with the loudest at 1, where anything is heard.
fn loudest_is_1(notes: &[f32]) -> [f32; CHROMA] {
    let most = notes.iter().copied().fold(0.0, f32::max);
    let scale = if most < f32::MIN_POSITIVE { 1.0 } else { most };
    std::array::from_fn(|c| notes[c] / scale)
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
