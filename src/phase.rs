//! How long the parts of a start take, as lines for whoever asks (`-vv`).

use std::fmt::Display;
use std::time::Instant;

/// A part of a start that is under way.
pub(crate) struct Phase(Instant);

impl Phase {
    pub(crate) fn begin() -> Self {
        Phase(Instant::now())
    }

    /// Says what took how long.
    pub(crate) fn end(self, what: impl Display) {
        log::debug!("{what}: {:.1} ms", self.0.elapsed().as_secs_f64() * 1e3);
    }
}
