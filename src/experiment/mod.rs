//! Grids of runs with seeds, spread and a significance test.
//!
//! A [`Plan`] is cells times seeds, and folds where the rows are to be folded. An [`Experiment`] is a plan with its folder: its runs are
//! ordinary run folders, finished ones are left alone, interrupted ones go on, and a [`Shard`] is
//! what one of several machines does. [`Results`] compare every cell with the reference, paired by
//! seed and fold; what is called best is chosen on validation rows alone.

mod effects;
mod folding;
mod plan;
mod presets;
mod published;
mod record;
mod results;
mod run;
pub mod stats;
pub mod tables;

pub use effects::Effect;
pub use folding::Folding;
pub(crate) use plan::read_toml;
pub use plan::{Cell, OwnCell, Plan, Seeds};
pub use presets::Preset;
pub use published::{Published, published};
pub use record::{ByScore, CellRun, Damaged, PRIVATE, RunRecord, SHARED};
pub use results::{Best, CellResult, DamagedMeans, Results};
pub use run::{Experiment, Progress, Run, Shard};
