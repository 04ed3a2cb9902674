//! A model plus its objective plus its schedule: what turns a batch shape into a tape.

pub mod config;
mod self_mm;

pub use config::{Config, TextEncoder};
pub use self_mm::{Forward, Objective, PAIRS, SelfMm, TrainSpaces};
