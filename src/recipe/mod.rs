//! A model plus its objective plus its schedule: what turns a batch shape into a tape.

mod almt;
mod bert_mag;
mod between;
mod blocks;
mod cenet;
mod clfa;
pub mod config;
mod crossmodal;
mod cx;
mod ef_lstm;
mod goal;
mod lf_dnn;
mod lmf;
mod memory;
mod mfn;
mod misa;
mod mla;
mod mmcl;
mod model;
mod mult;
mod overlay;
#[allow(clippy::module_inception, reason = "it is what the floor is about")]
mod recipe;
mod registry;
mod sections;
pub mod self_mm;
mod subnets;
mod tfn;
#[cfg(test)]
mod turns_tests;
mod umi;
#[cfg(test)]
mod vectors;

pub use crate::data::Reads;
pub use between::{EpochEnd, Kept, Plateau};
pub use config::{
    BySense, ByStream, ClassWeights, Config, Pooling, TaskChoice, TaskConfig, TextEncoder,
    TokenSource,
};
pub use cx::{Cx, StateSpace, StreamVars, TrainSpaces};
pub(crate) use goal::reference as goal_reference;
pub use goal::{Distance, Goal};
pub use model::{Differentiated, Model, Offered};
pub use overlay::{nearest, value_of};
pub use recipe::{
    AlignedSides, Begins, Column, Columns, Counts, GeneratedLabels, Output, OutputKind, Recipe,
    StateSpec, TrainingStage, Turn,
};
pub(crate) use registry::bert_prefix;
pub use registry::{Entry, MODELS, find};
pub use self_mm::PAIRS;
pub(crate) use self_mm::{BERT_PREFIX, pretrained, reading};
