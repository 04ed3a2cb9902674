//! Training and what is measured about it.

pub mod metrics;
pub mod probe;
