//! What an adapter can do, and what the kernels make of it: the measuring suite behind
//! `cargo bench` and `modalign bench`.

mod figures;
mod predict;
mod roofline;

pub use figures::{Figures, PUBLISHED};
pub use predict::{Bound, Cost, Prediction, assumptions};
pub use roofline::{ROOFLINE_KERNELS, Roofline};
