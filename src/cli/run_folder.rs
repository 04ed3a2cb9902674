//! Reading what a run folder says of itself, and naming new ones.

use crate::error::{Error, Result};
pub(super) use crate::train::folder::{config, data, epochs, free, free_for_run, is_run, json};
use std::path::{Path, PathBuf};

/// The path itself, or with the first number that is not taken.
pub(super) fn untaken(wanted: PathBuf) -> PathBuf {
    if !wanted.exists() {
        return wanted;
    }
    let numbered = |n: usize| {
        let mut name = wanted.clone().into_os_string();
        name.push(format!("-{n}"));
        PathBuf::from(name)
    };
    (2..).map(numbered).find(|path| !path.exists()).unwrap_or(wanted)
}

/// Where a model's data is: as given, else that of the run that `model` is.
pub(super) fn data_for(model: &Path, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_path_buf()),
        None if is_run(model) => data(model),
        None => Err(Error::Config("--data: say which data set to run the model on".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_names_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("a.b-mosi-1");
        assert_eq!(untaken(wanted.clone()), wanted);
        std::fs::create_dir(&wanted).unwrap();
        assert_eq!(untaken(wanted.clone()), folder.path().join("a.b-mosi-1-2"));
        std::fs::create_dir(folder.path().join("a.b-mosi-1-2")).unwrap();
        assert_eq!(untaken(wanted), folder.path().join("a.b-mosi-1-3"));
    }
}
