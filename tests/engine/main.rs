//! The engine: tape, operations, gradients, optimisers and what an embedder sees of them. One program,
//! so that its tests share devices and compile a kernel once. `cargo test --test engine tape::` runs
//! those of one file.

#[path = "../common/mod.rs"]
mod common;

mod align;
mod api;
mod attention;
mod embed;
mod functions;
mod gradients;
mod linear;
mod optim;
mod properties;
mod sizes;
mod steps;
mod streams;
mod tape;
mod transformer;
mod turns;
