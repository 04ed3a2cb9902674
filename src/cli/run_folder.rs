//! Reading what a run folder says of itself, and taking it.

use crate::error::{Error, Result};
pub(super) use crate::train::folder::{
    claim_for_run, claim_run, config, data, epochs, free, is_run, json,
};
use std::path::{Path, PathBuf};

/// Where a model's data is: as given, else that of the run that `model` is.
pub(super) fn data_for(model: &Path, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_path_buf()),
        None if is_run(model) => data(model),
        None => Err(Error::Config("--data: say which data set to run the model on".into())),
    }
}
