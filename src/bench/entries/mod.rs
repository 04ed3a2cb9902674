//! The recordings that are timed, by subject.

mod adam;
mod features;
mod matmul;
mod recipe;
mod streams;
mod text;

use super::suite::{Entry, Rows};

/// All of them.
pub(super) fn all() -> Vec<Entry> {
    let mut all = Vec::new();
    matmul::add(&mut all);
    recipe::add(&mut all);
    streams::add(&mut all);
    text::add(&mut all);
    features::add(&mut all);
    adam::add(&mut all);
    all
}
