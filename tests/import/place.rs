//! Folders and calls that the tests share.

use std::path::{Path, PathBuf};

use modalign::Result;
use modalign::data::import::{Options, Report, import};

/// A folder in memory where the system has one: the tests write ten thousand files.
pub fn folder() -> tempfile::TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// The pickles that `make_pickles.py` wrote.
pub fn pickles() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickles");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "pkl"))
        .collect();
    found.sort();
    assert_eq!(found.len(), 8, "numpy 1 and 2, protocols 2 to 5");
    found
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pickles").join(name)
}

/// Imports with the usual options.
pub fn convert(source: &Path, out: &Path) -> Result<Report> {
    import(source, out, &Options::default(), &mut |_, _| {})
}

/// Writes bytes as a file, imports them, and gives the error.
pub fn refused(bytes: &[u8]) -> String {
    let folder = folder();
    let (source, out) = (folder.path().join("in.pkl"), folder.path().join("out.safetensors"));
    std::fs::write(&source, bytes).unwrap();
    let error = convert(&source, &out).expect_err("refused").to_string();
    assert!(!out.exists() && !out.with_extension("json").exists(), "half a result: {error}");
    assert!(error.starts_with("data ") && error.contains("in.pkl: "), "{error}");
    assert!(!error.contains('\n') && error.len() < 700, "{error}");
    error
}

/// A file of a kind that people of this field bring.
pub fn field(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/field").join(name)
}
