//! What pairs of modalities share, hold alone and say only together, about the target: redundancy, unique
//! information and synergy, in bits, with how much of that is luck.
//!
//! Streams become symbols (`Rows`: standardised, ten principal components, k-means), pairs of them with the
//! target a table of how often they come together ([`Joint`]), and that four numbers ([`decompose`]) by a solver
//! that says how far it can be off. Few rows in many cells look like synergy, so the same is measured of samples
//! that have none ([`Null`]): synergy is called real only two deviations above it. Without labelled pairs there are
//! [`Bounds`] of it, and of the accuracy that fusion can reach. Source: Liang and others, arXiv:2306.04539; what is
//! derived here is said in `bounds` and `solver`.

mod bounds;
mod clusters;
mod joint;
mod measure;
mod solver;
mod symbols;

pub use bounds::{Bounds, bounds};
pub use clusters::Rows;
pub use joint::{Joint, Marginals};
pub use measure::{Fusion, Null, Options, Pair, measure};
pub use solver::{Decomposition, Stop, decompose, shared};
pub use symbols::{Column, Symbols};
