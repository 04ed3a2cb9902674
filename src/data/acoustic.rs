//! What a data set says of how its audio was made.

use serde::{Deserialize, Serialize};

/// How the `audio` of a data set was made of recordings: what it takes to make that of another recording in
/// the same way. It is `audio_features` in the side file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acoustic {
    /// The groups of features, in order.
    pub groups: Vec<String>,
    /// The name of each number of a step.
    pub columns: Vec<String>,
    /// Samples a second.
    pub rate: u32,
    /// Samples from one step to the next.
    pub hop: usize,
    /// Samples that a step looks at.
    pub frame: usize,
}
