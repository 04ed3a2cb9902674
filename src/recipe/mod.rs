//! A model plus its objective plus its schedule: what turns a batch shape into a tape.

pub mod config;

pub use config::{Config, TextEncoder};
