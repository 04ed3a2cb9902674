//! placeholder until the data branch lands
use crate::error::{Error, Result};
use std::path::Path;
/// Writes atomically.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let p = path.as_ref();
    let t = p.with_extension("tmp");
    std::fs::write(&t, bytes).map_err(Error::io("write", p))?;
    std::fs::rename(&t, p).map_err(Error::io("write", p))
}
