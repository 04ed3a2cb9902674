//! Multimodal sentiment analysis, trained in hand-written WGSL.

pub mod error;
pub mod files;
pub mod gpu;
pub mod ops;
pub mod plan;
pub mod tape;

pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use tape::{Tape, Var};
