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
//! # Six words
//!
//! | word | is | knows nothing of |
//! |---|---|---|
//! | [`Gpu`] | adapter, device, queue, what they can do, faults as typed errors; opened here, or made from a device that a host program has | tensors |
//! | [`Tape`] | records operations, checks shapes, appends gradients | devices, buffers |
//! | [`plan::Plan`] | what a tape compiles to: dispatches over liveness-planned buffers, in one pass of this crate or of a host | models |
//! | [`nn::Params`] | named parameters in flat arenas with optimiser groups | the tape that uses them |
//! | `recipe` | a model plus its objective plus its schedule | how kernels run |
//! | task | what the target is, and how it is scored | models |
//!
//! Data flows one way: `cli → report → experiment, bench → train → recipe → nn → tape → plan → gpu`.
//! [`ops`] is the only place where a Rust function and a shader meet; every kernel there has a CPU
//! twin that reads like its formula.
//!
//! # Inside another program
//!
//! Without features (`default-features = false`) this crate is the engine alone: [`gpu`], [`plan`],
//! [`tape`], [`ops`], [`nn`]. The other floors are features that switch on those below them: `bert`,
//! `data`, `import`, `audio`, `train`, `experiment`, `report`, `bench`, and `cli`, the default, which
//! is all of them.
//!
//! - [`Gpu::from_device`] works on a device that the host has opened. Handlers stay the host's, and
//!   the [`wgpu`] to open it with is here.
//! - [`plan::Memory::bind`] takes the host's buffers for input and output,
//!   [`plan::Program::record`] puts a step among the host's own commands.
//! - A [`Gpu`] is a handle: cheap to clone, to keep beside what runs on it and to send elsewhere.
//! - An id, a range, a memory, a device that does not fit is an [`Error`], found before anything
//!   reaches the device. A fault is told to the call that caused it; only a lost device stays lost.
//!
//! ```
//! use modalign::gpu::GpuOptions;
//! use modalign::plan::{Memory, Pool, Spaces};
//! use modalign::{Gpu, Result, Tape, wgpu};
//!
//! /// Doubles 64 floats of a host's buffer, in place and among its own commands.
//! fn double(
//!     device: wgpu::Device,
//!     queue: wgpu::Queue,
//!     buffer: wgpu::Buffer,
//!     encoder: &mut wgpu::CommandEncoder,
//! ) -> Result<()> {
//!     let gpu = Gpu::from_device(device, queue, &GpuOptions::default())?;
//!     let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
//!     let space = spaces.declare("mine", 64);
//!     let x = tape.input("x", &[1, 64], space, 0);
//!     let twice = tape.scale(x, 2.0)?;
//!     let first = tape.constant("row", &[1], &[f32::from_bits(0)])?;
//!     tape.scatter_rows(twice, first, x, 0)?;
//!     let memory = Memory::bind(&gpu, &spaces, &[(space, buffer)])?;
//!     let program = tape.plan(gpu.caps())?.prepare(&gpu, &memory, &mut Pool::new())?;
//!     program.record(&gpu, &memory, encoder, true, &[])
//! }
//! ```
//!
//! # What it trains
//!
//! Self-MM (arXiv:2102.04830) plus a pairwise covariance term after Deep CORAL: a reconstruction
//! of arXiv:2305.08473 from its ancestors, whose body was not at hand. See `recipe` for the
//! model, [`ops::align`] for the term with its derivation and its limits, [`ops::labels`] for label
//! generation, `train` for runs.

#![warn(missing_docs)]

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "data")]
pub mod data;
pub mod error;
#[cfg(feature = "experiment")]
pub mod experiment;
#[cfg(feature = "audio")]
pub mod features;
pub mod files;
pub mod gpu;
#[cfg(feature = "experiment")]
pub mod holistic;
#[cfg(feature = "experiment")]
pub mod interactions;
pub mod nn;
pub mod ops;
mod phase;
pub mod plan;
#[cfg(feature = "train")]
pub mod recipe;
// What draws pictures into files is called by the command line alone.
#[cfg(feature = "report")]
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub mod report;
mod rng;
pub mod selftest;
pub mod tape;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, Result};
pub use gpu::{Gpu, GpuOptions};
pub use tape::{Tape, Var};
pub use wgpu;
