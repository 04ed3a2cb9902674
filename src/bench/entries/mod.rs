//! The recordings that are timed, by subject.

mod adam;
mod batched;
mod features;
mod matmul;
mod recipe;
pub(crate) mod steps;
mod streams;
mod text;

use super::suite::{Entry, Rows};

/// All of them.
pub(super) fn all() -> Vec<Entry> {
    let mut all = Vec::new();
    matmul::add(&mut all);
    batched::add(&mut all);
    recipe::add(&mut all);
    streams::add(&mut all);
    text::add(&mut all);
    features::add(&mut all);
    adam::add(&mut all);
    steps::add(&mut all);
    all
}
