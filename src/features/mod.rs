//! Acoustic features of recordings: numbers for every 512 samples at 22,050 Hz. Where nothing else is
//! chosen they are the 33 that the SIMS data sets have: column 0 is the zero-crossing rate, columns 1 to 20
//! are mel-frequency cepstral coefficients, columns 21 to 32 the chroma of a constant-Q transform, C first.
//! A [`Choice`] has others, each as librosa computes it.
//!
//! A recording comes as a [`Signal`]: decoded and resampled as it is read, block by block, so that
//! its length does not matter. An [`Extractor`] has a few plans, for blocks of different lengths;
//! a block is one upload, a dispatch for each step, and one reading back.

mod block;
mod by_word;
mod choice;
mod collect;
mod compressed;
mod delta;
mod extract;
mod labels;
mod resample;
mod signal;
mod sound;
mod table;
mod tables;
mod tuning;
mod wav;
mod words;

pub use by_word::{ByWord, ByWordReport, by_word};
pub use choice::{Choice, Group};
pub use collect::{Clip, Collection};
pub use extract::{Extractor, Features};
pub use labels::{Label, Labels, clip_id, read_labels};
pub use resample::Resampler;
pub use signal::{Memory, Recording, Signal};
pub use sound::{ENDINGS, Sound};
pub use words::{TimedWord, read_words};

/// Samples a second that features are made of.
pub const RATE: u32 = 22_050;
/// Samples from one row of features to the next.
pub const HOP: usize = 512;
/// Samples that a row looks at, but for the chroma.
pub const FRAME: usize = 2048;
/// Numbers in a row, where nothing is chosen.
pub const COLUMNS: usize = 1 + MFCC + CHROMA;

const MFCC: usize = 20;
const CHROMA: usize = 12;
