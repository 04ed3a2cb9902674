//! The bytes of a data set's file: held in memory, or mapped where there are too many of them; and whether
//! the file is still the one that was opened.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::files::file_id;

/// Files up to so many bytes are held: what others do to them then changes nothing here. Larger ones are
/// mapped, so that a set may be larger than the memory.
const HELD: u64 = 512 << 20;

/// The contents of a file, as they were when it was opened.
#[derive(Debug)]
pub(super) struct FileBytes {
    path: PathBuf,
    stamp: Stamp,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Words, so that numbers lie where a processor likes them, and how many bytes of them count.
    Held(Vec<u64>, usize),
    Mapped(Mmap),
}

impl FileBytes {
    /// Opens a regular file.
    ///
    /// # Errors
    /// [`Error::Data`]: no such file, none that is regular, or one that changes while it is read.
    pub(super) fn open(path: &Path) -> Result<FileBytes> {
        Self::open_within(path, HELD)
    }

    fn open_within(path: &Path, held: u64) -> Result<FileBytes> {
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::NotFound => Error::data(path, "there is no such file; check the path"),
            _ => Error::io("read", path)(e),
        };
        // Asked before it is opened: opening a pipe waits for whoever writes to it.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::data(path, "not a regular file; give the .safetensors file itself"));
        }
        let mut file = File::open(path).map_err(failed)?;
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        let kept = if stamp.bytes <= held {
            let bytes = stamp.bytes as usize;
            let mut words = vec![0_u64; bytes.div_ceil(8)];
            let room = &mut bytemuck::cast_slice_mut(&mut words)[..bytes];
            match file.read_exact(room) {
                Ok(()) => Kept::Held(words, bytes),
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(stamp.changed(path)),
                Err(e) => return Err(failed(e)),
            }
        } else {
            // SAFETY: the map is only read, and as plain bytes, so any content is valid. That the file is
            // not cut short or written to meanwhile is asked before and after each batch of rows
            // (`unchanged`); a write in between would show as that error, and cutting it short in the very
            // microseconds of a row's copy would end this program by a signal.
            Kept::Mapped(unsafe { Mmap::map(&file) }.map_err(failed)?)
        };
        let opened = FileBytes { path: path.into(), stamp, kept };
        opened.unchanged()?;
        Ok(opened)
    }

    /// Whether what others do to the file can change what is read here.
    pub(super) fn exposed(&self) -> bool {
        matches!(self.kept, Kept::Mapped(_))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is the one that was opened, and nobody has written to it since.
    ///
    /// # Errors
    /// [`Error::Data`] that says what became of it.
    pub(super) fn unchanged(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(about) if Stamp::of(&about) == self.stamp => Ok(()),
            Ok(about) if Stamp::of(&about).file != self.stamp.file => {
                Err(stopped(&self.path, "was replaced by another file while it was read"))
            }
            Ok(about) if about.len() < self.stamp.bytes => Err(self.stamp.changed(&self.path)),
            Ok(_) => Err(stopped(&self.path, "was written to while it was read")),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(stopped(&self.path, "was removed while it was read"))
            }
            Err(e) => Err(Error::io("read", &self.path)(e)),
        }
    }
}

fn stopped(path: &Path, what: &str) -> Error {
    let then = "what was done is kept: put the file back as it was, and go on";
    Error::data(path, format!("{what}; {then}"))
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.kept {
            Kept::Held(words, bytes) => &bytemuck::cast_slice(words)[..*bytes],
            Kept::Mapped(map) => map,
        }
    }
}

/// What tells a file from another, and from itself after a write.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    /// Device and number, where a system has such.
    file: (u64, u64),
    bytes: u64,
    written: Option<SystemTime>,
}

impl Stamp {
    fn of(about: &Metadata) -> Stamp {
        Stamp { file: file_id(about), bytes: about.len(), written: about.modified().ok() }
    }

    fn changed(&self, path: &Path) -> Error {
        stopped(path, &format!("was cut short while it was read: it had {} bytes", self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_becomes_of_a_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let old = SystemTime::now() - Duration::from_secs(60);
        for held in [0, HELD] {
            let fresh = || {
                std::fs::write(&path, [7; 41]).unwrap();
                File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
                FileBytes::open_within(&path, held).unwrap()
            };
            let said = |file: &FileBytes| file.unchanged().unwrap_err().to_string();
            let file = fresh();
            assert_eq!(*file, [7; 41]);
            file.unchanged().unwrap();
            std::fs::write(&path, [8; 41]).unwrap();
            assert!(said(&file).contains("was written to"), "{}", said(&file));
            if held > 0 {
                assert_eq!(*file, [7; 41]);
            }
            let file = fresh();
            std::fs::write(&path, [7; 3]).unwrap();
            assert!(said(&file).contains("cut short"), "{}", said(&file));
            let file = fresh();
            std::fs::rename(&path, folder.path().join("b.bin")).unwrap();
            assert!(said(&file).contains("removed"), "{}", said(&file));
            std::fs::write(&path, [7; 41]).unwrap();
            assert!(said(&file).contains("replaced"), "{}", said(&file));
            assert_eq!(*file, [7; 41]);
        }
        assert!(FileBytes::open(folder.path()).unwrap_err().to_string().contains("regular"));
    }
}
