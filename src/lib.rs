//! Multimodal sentiment analysis, trained in hand-written WGSL.

pub mod data;
pub mod error;
pub mod files;
pub mod train;

pub use error::{Error, Result};
