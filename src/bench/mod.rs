//! What an adapter can do, and what the kernels make of it: the measuring suite behind
//! `cargo bench` and `modalign bench`, and the place where a kernel of one's own is tried in the
//! place of ours.
//!
//! ```no_run
//! use modalign::bench::{Bench, Suite};
//! use std::time::Duration;
//!
//! fn main() -> modalign::Result<()> {
//!     let gpu = modalign::Gpu::new()?;
//!     let suite = Suite::new()?;
//!     let mut bench = Bench::new(&gpu, Duration::from_millis(300))?;
//!     for choice in suite.choose(&["softmax".into()])? {
//!         bench.measure(&choice)?;
//!     }
//!     for m in bench.report()?.results {
//!         println!("{} {}: {:.3} ms", m.kernel, m.shape, m.device.min_ms);
//!     }
//!     Ok(())
//! }
//! ```

mod bed;
mod diagnostic;
mod entries;
mod figures;
mod measure;
mod own;
mod predict;
mod roofline;
mod suite;

pub use diagnostic::{Diagnostic, Label};
pub use figures::{Figures, PUBLISHED};
pub use measure::{Bench, Measured, Report, Skipped, Stat, Variant};
pub use own::{Mismatch, Own, Tried, sizes};
pub use predict::{Bound, Cost, Prediction, assumptions};
pub use roofline::{ROOFLINE_KERNELS, Roofline};
pub use suite::{Choice, Entry, Row, Suite};

pub(crate) use bed::Made;
pub(crate) use entries::steps;
