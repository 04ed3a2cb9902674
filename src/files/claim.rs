//! A run folder belongs to one process: whoever trains into it holds its lock for as long.
//!
//! The lock is the operating system's, on a file `.lock` in the folder that says whose it is. A process that
//! is killed leaves that file behind, but no lock.

use super::{file_id, is_leftover};
use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The name of the lock's file.
pub(crate) const LOCK: &str = ".lock";

/// A folder that this process alone writes to, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    root: PathBuf,
    /// Locked while it is open.
    lock: File,
    /// Folders that were made for it, the deepest last: they go again where nothing came of it.
    made: Vec<PathBuf>,
    since: SystemTime,
}

impl Claim {
    /// Takes a folder, which is made where it is not there.
    ///
    /// # Errors
    /// [`Busy`](Error::Busy) where another run holds it; a folder that cannot be made or written to.
    pub fn take(root: impl Into<PathBuf>) -> Result<Claim> {
        let root = root.into();
        let made = make(&root)?;
        Self::lock(root, made)
    }

    /// Takes a folder that is made for it: `wanted`, or the first of `wanted-2`, `wanted-3` … that is not
    /// there yet.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn fresh(wanted: &Path) -> Result<Claim> {
        let mut made = match wanted.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => make(parent)?,
            _ => Vec::new(),
        };
        let numbered = (2_u64..).map(|n| {
            let mut name = wanted.as_os_str().to_owned();
            name.push(format!("-{n}"));
            PathBuf::from(name)
        });
        for root in std::iter::once(wanted.to_path_buf()).chain(numbered) {
            match std::fs::create_dir(&root) {
                Ok(()) => {
                    made.push(root.clone());
                    return Self::lock(root, made);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", root)(e)),
            }
        }
        Err(Error::Config(format!("{} and all its numbers are taken", wanted.display())))
    }

    fn lock(root: PathBuf, made: Vec<PathBuf>) -> Result<Claim> {
        let path = root.join(LOCK);
        if path.is_symlink() {
            let detail = "is a link, and nothing is written through one: remove it";
            return Err(Error::Config(format!("{} {detail}", path.display())));
        }
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::io("write", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(busy(root, &mut file)),
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => log::warn!(
                    "{} cannot be locked ({e}): let no other run write to it",
                    root.display()
                ),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path)(e)),
            }
            // Whoever held it may have removed it meanwhile, and somebody else made another.
            if same_file(&file, &path) {
                let mut claim = Claim { root, lock: file, made, since: SystemTime::now() };
                // A full disk still has a lock, though it cannot say whose.
                let _ = claim.sign();
                return Ok(claim);
            }
        }
    }

    /// Says in the lock's file whose it is.
    fn sign(&mut self) -> std::io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        write!(self.lock, "{}", std::process::id())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Since when: nothing of this claim is older.
    pub fn since(&self) -> SystemTime {
        self.since
    }
}

/// Makes a folder and those above it; gives those that were not there, the deepest last.
fn make(folder: &Path) -> Result<Vec<PathBuf>> {
    let absent: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
        .map(Path::to_path_buf)
        .collect();
    match std::fs::create_dir_all(folder) {
        Ok(()) => Ok(absent.into_iter().rev().collect()),
        Err(e) if folder.is_file() && e.kind() == ErrorKind::AlreadyExists => Err(Error::Config(
            format!("{} is a file: give a folder that is new or empty", folder.display()),
        )),
        Err(e) => Err(Error::io("create", folder)(e)),
    }
}

fn busy(root: PathBuf, file: &mut File) -> Error {
    let mut by = None;
    // Whoever has just taken it is about to sign. Where a lock keeps others from reading, too, it is not known
    // whose it is.
    for _ in 0..40 {
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        by = text.trim().parse().ok();
        if by.is_some() || read.is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Error::Busy { path: root, by }
}

/// Whether a file is still the one at a path.
fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(own), Ok(there)) => file_id(&own) == file_id(&there),
        _ => false,
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is still locked: whoever has it open already finds out that it is not the folder's any more.
        let _ = std::fs::remove_file(self.root.join(LOCK));
        let empty = |folder: &Path| {
            let entries = std::fs::read_dir(folder).ok();
            entries.is_some_and(|all| {
                all.flatten().all(|entry| is_leftover(&entry.file_name().to_string_lossy()))
            })
        };
        if self.made.last() == Some(&self.root) && empty(&self.root) {
            // Nothing came of it. What cannot be removed is an empty folder.
            while let Some(folder) = self.made.pop() {
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_once() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("deep/run");
        let claim = Claim::take(&at).unwrap();
        std::fs::write(at.join("run.json"), "{}").unwrap();
        let again = Claim::take(&at).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(again, Error::Busy { by: Some(found), .. } if found == pid), "{again}");
        assert!(again.to_string().contains(&pid.to_string()), "{again}");
        drop(claim);
        drop(Claim::take(&at).unwrap());
        assert!(at.join("run.json").exists());
    }

    #[test]
    fn a_folder_of_which_nothing_came_goes_again() {
        let root = tempfile::tempdir().unwrap();
        drop(Claim::take(root.path().join("a/b")).unwrap());
        assert!(!root.path().join("a").exists());
        // One that was there stays.
        std::fs::create_dir(root.path().join("mine")).unwrap();
        drop(Claim::take(root.path().join("mine")).unwrap());
        assert!(root.path().join("mine").is_dir());
    }

    #[test]
    fn names_that_are_taken_are_numbered() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("runs/a.b-mosi-1");
        let all: Vec<Claim> = (0..3).map(|_| Claim::fresh(&wanted).unwrap()).collect();
        let names: Vec<_> = all.iter().map(|c| c.path().file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.b-mosi-1", "a.b-mosi-1-2", "a.b-mosi-1-3"]);
    }

    #[test]
    fn many_at_once_get_a_folder_each() {
        let root = tempfile::tempdir().unwrap();
        let wanted = root.path().join("runs/x");
        let claims: Vec<Claim> = std::thread::scope(|s| {
            let all: Vec<_> = (0..16).map(|_| s.spawn(|| Claim::fresh(&wanted).unwrap())).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let mut names: Vec<_> = claims.iter().map(|c| c.path().to_path_buf()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 16);
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_is_not_written_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (mine, run) = (root.path().join("mine.txt"), root.path().join("run"));
        std::fs::write(&mine, "words").unwrap();
        std::fs::create_dir(&run).unwrap();
        std::os::unix::fs::symlink(&mine, run.join(LOCK)).unwrap();
        assert!(Claim::take(&run).unwrap_err().to_string().contains("link"));
        assert_eq!(std::fs::read_to_string(mine).unwrap(), "words");
    }
}
