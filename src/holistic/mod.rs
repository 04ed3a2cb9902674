//! Models by data sets, where data sets are annotated by measurement: where each model is strong, and whether a
//! difference is luck. After HEMM (arXiv:2407.03418), for models small enough to be trained here.
//!
//! A [`Plan`] is models times data sets times seeds. Each data set is an experiment of its own
//! ([`Plan::experiments`]), so that its runs resume, go by shards and have pages as all do. What they come to is a
//! [`Whole`]: scores between a floor and a ceiling that no model moves, means for each label of each dimension, paired
//! tests, and how much is lost where a modality is not there.

mod annotate;
mod plan;
mod scores;
mod tables;
mod whole;

pub use annotate::{Annotation, annotate};
pub use plan::{DataEntry, Flow, Plan};
pub use scores::{Battle, Test, between, elo, normalised};
pub use tables::{Tables, csv};
pub use whole::{DataResult, Floor, Label, ModelResult, Whole};
