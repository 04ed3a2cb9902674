//! A model plus its objective plus its schedule: what turns a batch shape into a tape.

pub mod config;
mod overlay;
mod self_mm;

pub use config::{AlignLayer, Config, Pooling, TextEncoder, TokenSource};
pub use overlay::{nearest, value_of};
pub(crate) use self_mm::{BERT_PREFIX, pretrained, projection_name, reading};
pub use self_mm::{Forward, Objective, PAIRS, SelfMm, TrainSpaces};
