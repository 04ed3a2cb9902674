//! Multimodal sentiment analysis, trained in hand-written WGSL on any Vulkan, Metal or DX12 GPU.
//!
//! Record operations on a [`Tape`], fit them to an adapter, replay them:
//!
//! ```
//! use modalign::{Gpu, Result, Tape, ops::Act, plan::Spaces};
//!
//! fn main() -> Result<()> {
//!     let gpu = Gpu::new()?;
//!     let mut tape = Tape::new();
//!     let x = tape.constant("x", &[2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.])?;
//!     let w = tape.constant("w", &[3, 4], &[0.1; 12])?;
//!     let y = tape.linear(x, w, None, Act::Relu)?;
//!     tape.keep(y);
//!     let (program, memory) = tape.compile(&gpu, &Spaces::new())?;
//!     program.run(&gpu, &memory)?;
//!     assert!((program.read(&gpu, &memory, y)?[0] - 1.0).abs() < 1e-6);
//!     Ok(())
//! }
//! ```
//!
//! # Five words
//!
//! | word | is | knows nothing of |
//! |---|---|---|
//! | [`Gpu`] | adapter, device, queue, what they can do, faults as typed errors | tensors |
//! | [`Tape`] | records operations, checks shapes, appends gradients | devices, buffers |
//! | [`plan::Plan`] | what a tape compiles to: dispatches over liveness-planned buffers | models |
//! | [`nn::Params`] | named parameters in flat arenas with optimiser groups | the tape that uses them |
//! | [`recipe`] | a model plus its objective plus its schedule | how kernels run |
//!
//! Data flows one way: `cli → experiment, bench → train → recipe → nn → tape → plan → gpu`. [`ops`] is the only place
//! where a Rust function and a shader meet; every kernel there has a CPU twin that reads like its
//! formula.
//!
//! # What it trains
//!
//! Self-MM (arXiv:2102.04830) plus a pairwise covariance term after Deep CORAL: a reconstruction
//! of arXiv:2305.08473 from its ancestors, whose body was not at hand. See [`recipe`] for the
//! model, [`ops::align`] for the term with its derivation and its limits, [`ops::labels`] for label
//! generation, [`train`] for runs.

#![warn(missing_docs)]

pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod error;
pub mod experiment;
pub mod features;
pub mod files;
pub mod gpu;
pub mod nn;
pub mod ops;
mod phase;
pub mod plan;
pub mod recipe;
#[cfg(feature = "cli")]
pub mod report;
pub mod selftest;
pub mod tape;
pub mod train;

pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use tape::{Tape, Var};
