//! What an adapter can do, and what the kernels make of it: the measuring suite behind
//! `cargo bench` and `modalign bench`.

mod roofline;

pub use roofline::{ROOFLINE_KERNELS, Roofline};
