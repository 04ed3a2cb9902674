//! Every model. Being in this list gives a model the command line, files, experiments and reports.

use super::config::Config;
use super::model::Offered;
use super::recipe::Recipe;
use super::self_mm::SelfMm;
use crate::error::Result;

/// A model of this crate.
pub struct Entry {
    /// Its name in `[model] name` and `--model`, as MMSA writes it.
    pub name: &'static str,
    /// Where it is from.
    pub paper: &'static str,
    make: fn(&Config, Offered<'_>) -> Result<Box<dyn Recipe>>,
}

/// All models.
pub static MODELS: &[Entry] = &[Entry {
    name: "self_mm",
    paper: "arXiv:2102.04830, with the covariance term of arXiv:2305.08473",
    make: |config, offered| Ok(Box::new(SelfMm::new(config, offered)?)),
}];

/// The recipe that a configuration names.
pub(super) fn make(config: &Config, offered: Offered<'_>) -> Result<Box<dyn Recipe>> {
    (MODELS[0].make)(config, offered)
}
