//! Multimodal sentiment analysis, trained in hand-written WGSL.

#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod error;
pub mod files;
pub mod gpu;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod recipe;
pub mod tape;
pub mod train;

pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use tape::{Tape, Var};
