//! Training and what is measured about it.

pub mod aligned;
mod blueprint;
pub mod carried;
mod checkpoint;
mod epochs;
mod evaluation;
pub mod explain;
pub mod folder;
mod generated;
mod history;
mod initial;
mod lifecycle;
mod limits;
mod lost;
pub mod metrics;
mod numerics;
mod opened;
pub mod probe;
mod profile;
mod remarks;
mod robust;
mod run_files;
mod scorer;
mod session;
mod simulated;
mod steps;
mod text;

pub use blueprint::{Outline, TypicalStep, fits, outline, typical_step};
pub use checkpoint::{CardStream, ModelCard, Saved};
pub use evaluation::{evaluate_run, open_saved, open_saved_on, retrieved, score};
pub use generated::{BINS, LabelRecord, TaskLabels};
pub use history::{EpochRecord, StepRecord};
pub use initial::initial_weights;
pub use lifecycle::{
    Observer, Outcome, RunOptions, resume, resume_in, resume_on, train, train_in, train_on,
};
pub use limits::LARGE;
pub use lost::through_losses;
pub use opened::{open_data, open_file};
pub use profile::{By, Profile, Profiled, Row, profile};
pub use remarks::first_step_alone;
pub use robust::NOISE;
pub use scorer::{Scorer, Scoring};
pub use session::{Predictions, Representations, Session};
pub use simulated::outline_of_shapes;
#[cfg(feature = "experiment")]
pub(crate) use text::weights_sha256;
pub use text::{cut_texts, encoder_of, export, sentences};
