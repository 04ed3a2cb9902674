//! Multimodal sentiment analysis, trained in hand-written WGSL.

pub mod error;

pub use error::{Error, Result};
