//! Data sets: the file format, its checks, batching ahead of the device, standardising, and a
//! generator whose hidden factors are known.
//!
//! A data set is `NAME.safetensors` with tensors `{train,valid,test}.FIELD`, and an optional
//! `NAME.json` with ids and texts per split, and how its audio was made of recordings ([`Acoustic`]). Fields: `text`, `audio`, `vision` and streams of other names,
//! such as `image` (rows x steps x dim, f32), their `_lengths` (rows, i32) and `_missing` (rows, i32, 1 where
//! a row lacks it), `text_bert` (rows x 3 x tokens, i32), `regression_labels`
//! (rows, f32; or rows x k, several numbers a row), `class_labels` (rows, i32, from 0; or rows x k of 0 and
//! 1, several labels a row), `factor_*` (rows x k, f32; from the generator).

mod acoustic;
pub mod batch;
mod bytes;
pub mod dataset;
pub mod folds;
pub mod groups;
mod guides;
#[cfg(feature = "import")]
pub mod import;
pub mod lacking;
mod loader;
mod modality;
pub mod normalize;
mod open;
mod open_labels;
pub mod perturb;
pub(crate) mod ridge;
mod side;
pub mod source;
mod spread;
pub mod stream;
pub mod survey;
pub mod synth;
pub mod task;
#[cfg(test)]
mod testkit;
pub mod tokenizer;
pub mod tokens;
mod vocabulary;

use serde::{Deserialize, Serialize};

pub use acoustic::Acoustic;
pub use batch::{
    BatchShape, Layout, Reads, Sample, StreamLayout, StreamSpec, TokenSpec, bucket, fill,
    fill_samples, shape_of, shuffled,
};
pub use dataset::{Dataset, Options, Split, Text};
pub use folds::{FEWEST_FOLDS, Fold, Folded, Folds};
pub use groups::Group;
#[cfg(any(feature = "import", feature = "audio"))]
pub(crate) use groups::clip_id;
pub use guides::GuideLayout;
pub use lacking::Lacking;
pub use loader::{Batch, Loader};
pub use modality::{Modality, StreamName, listed, shortened};
pub use normalize::{FeatureStats, Normalize, Standardise};
pub use perturb::{Damage, Perturbation};
#[cfg(feature = "audio")]
pub(crate) use side::AUDIO_FEATURES;
pub use source::{
    Contents, Memory, Row, Source, SplitContents, StreamContents, Target, TargetValues,
};
pub use stream::{Stream, TextBert};
pub use synth::{SynthConfig, SynthStream, SynthTarget};
pub use task::{Targets, Task, TaskKind};
pub use tokenizer::Tokenizer;
#[cfg(feature = "bench")]
pub(crate) use tokens::fill_runs;
pub use tokens::{TokenLayout, TokenRows, Tokenised, fill_tokens, packed_rows};
pub use vocabulary::text_bert_for;

/// What stands between the cells of a table, by its first line: a tab, a semicolon or a comma, whichever is
/// there most often outside of quotes.
#[cfg(any(feature = "import", feature = "audio"))]
pub(crate) fn delimiter(first_line: &[u8]) -> u8 {
    let mut quoted = false;
    let mut counts = [(0, b'\t'), (0, b';'), (0, b',')];
    for byte in first_line {
        quoted ^= *byte == b'"';
        for (count, mark) in &mut counts {
            *count += usize::from(!quoted && mark == byte);
        }
    }
    counts.into_iter().max_by_key(|(count, _)| *count).map_or(b',', |(_, mark)| mark)
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitName {
    /// What the model learns from.
    Train,
    /// What chooses the epoch.
    Valid,
    /// What is reported.
    Test,
}

impl SplitName {
    /// All splits, in order.
    pub const ALL: [SplitName; 3] = [SplitName::Train, SplitName::Valid, SplitName::Test];

    /// The name in files: `train`, `valid`, `test`.
    pub fn name(self) -> &'static str {
        match self {
            SplitName::Train => "train",
            SplitName::Valid => "valid",
            SplitName::Test => "test",
        }
    }

    /// The split that goes by a word elsewhere, in any case: `dev` and `val` stand for `valid`.
    #[cfg(any(feature = "import", feature = "audio"))]
    pub(crate) fn known_as(word: &str) -> Option<SplitName> {
        match word.trim().to_ascii_lowercase().as_str() {
            "train" | "training" => Some(SplitName::Train),
            "valid" | "val" | "dev" | "validation" => Some(SplitName::Valid),
            "test" | "testing" => Some(SplitName::Test),
            _ => None,
        }
    }

    /// The position in [`SplitName::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for SplitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
