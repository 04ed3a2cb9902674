//! Writing files so that a reader meets the old file or the new one, never half of one.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::{Error, Result};

#[cfg(feature = "train")]
mod claim;
// Arrays of numpy are read by imports alone, tensors by encoders, too.
#[cfg(feature = "bert")]
#[cfg_attr(not(feature = "import"), allow(dead_code))]
pub(crate) mod pickled;
#[cfg(feature = "train")]
mod seal;

#[cfg(feature = "train")]
pub use claim::Claim;
#[cfg(feature = "train")]
pub(crate) use claim::LOCK;
#[cfg(feature = "train")]
pub(crate) use seal::{read_json, seal_of_tensors, write_sealed, write_sealed_json};

/// The format of what a run leaves. 1: before files said it, of Self-MM alone. 2: of any model. 3: of a
/// fold, too, which an earlier reader would take for the file's own splits. 4: with digests of their own
/// contents, and states in the middle of an epoch.
pub const FORMAT: u32 = 4;

/// What a file is of that does not say its format.
#[cfg(feature = "train")]
pub(crate) fn first_format() -> u32 {
    1
}

/// Refuses a file of a later format than this one.
#[cfg(feature = "train")]
pub(crate) fn check_format(path: &Path, format: u32) -> Result<()> {
    if format <= FORMAT {
        return Ok(());
    }
    let detail = format!(
        "is of format {format}, and this modalign ({}) knows those up to {FORMAT}: use a newer one",
        env!("CARGO_PKG_VERSION")
    );
    Err(Error::checkpoint(path, detail))
}

/// Writes `bytes` to `path` in one step: a temporary file in the same folder, synced, then renamed.
///
/// # Errors
/// [`Error::Io`] naming `path` (missing folder, no permission, full disk); the old file, if there
/// was one, is then untouched, and no temporary file stays behind.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// As [`write_atomic`], for content that `write` streams out piece by piece (it is buffered).
///
/// # Errors
/// As [`write_atomic`]; an error that `write` returns counts as a failed write.
pub fn write_atomic_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let failed = |source| Error::Io { action: "write", path: path.into(), source };
    if path.exists() && !path.is_file() && !path.is_dir() {
        // A device or a pipe, /dev/stdout say: not to be replaced by a file.
        return std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut out| write(&mut out))
            .map_err(failed);
    }
    write_regular(path, |file| {
        let mut buffered = BufWriter::with_capacity(1 << 16, file);
        write(&mut buffered)?;
        buffered.flush()
    })
}

/// The same of a regular file alone, as which `write` gets it.
fn write_regular(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let failed = |source| Error::Io { action: "write", path: path.into(), source };
    if path.is_dir() {
        return Err(failed(io::Error::other("it is a folder")));
    }
    // What a link points to is replaced, not the link.
    let target = match path.is_symlink() {
        true => std::fs::canonicalize(path).map_err(failed)?,
        false => path.to_path_buf(),
    };
    let name =
        target.file_name().ok_or_else(|| failed(io::Error::other("the path names no file")))?;
    let folder = folder_of(&target);
    if !folder.is_dir() {
        let reason = format!("the folder {} does not exist", folder.display());
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, reason)));
    }

    // The file disappears by itself on every early return below.
    let mut temporary = Temporary::new(&folder, &name.to_string_lossy()).map_err(failed)?;
    write(&mut temporary.file).map_err(failed)?;
    // Without this, a crash soon after the rename could leave an empty file under the final name.
    temporary.file.sync_all().map_err(failed)?;
    temporary.persist(&target).map_err(failed)?;
    sync_folder(&folder);
    Ok(())
}

/// What a safetensors file begins with: the header's length and the header, padded to a multiple of
/// 8. `tensors` are name, type, shape and bytes, in the order in which their values will follow.
#[cfg(any(feature = "audio", feature = "import", feature = "train"))]
pub(crate) fn tensor_header<'a>(
    metadata: &[(&str, String)],
    tensors: impl Iterator<Item = (&'a str, &'static str, Vec<usize>, u64)>,
) -> Vec<u8> {
    use serde_json::{Map, Value, json};
    let mut header = Map::new();
    let notes: Map<String, Value> =
        metadata.iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
    header.insert("__metadata__".into(), Value::Object(notes));
    let mut end = 0;
    for (name, dtype, shape, bytes) in tensors {
        let start = end;
        end += bytes;
        let about = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.into(), about);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat()
}

/// Maps a file for reading as plain bytes.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    // SAFETY: the map is only read, and as plain bytes, so any content is valid. Another program
    // that changes the file in place could change values under us, or shorten it and end this
    // program by a signal; our own writers never do that, they replace files by a rename.
    unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))
}

/// What tells a file from another on its system: device and number, where there are such.
#[cfg(feature = "data")]
pub(crate) fn file_id(about: &std::fs::Metadata) -> (u64, u64) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (about.dev(), about.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = about;
        (0, 0)
    }
}

/// Whether a path leads nowhere but deeper.
#[cfg(any(feature = "import", feature = "experiment"))]
pub(crate) fn leads_deeper(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Whether a file's name is that of what [`write_atomic`] writes before it renames:
/// `.NAME.PROCESS-NUMBER.tmp`.
pub(crate) fn is_leftover(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    let parts = inner.and_then(|inner| inner.rsplit_once('.'));
    parts.is_some_and(|(own, made)| {
        let by =
            made.split_once('-').is_some_and(|(process, number)| digits(process) && digits(number));
        !own.is_empty() && by
    })
}

/// Removes what writers of `path` left that were killed: those whose process is no more, or where that cannot
/// be asked, whose file is older than a day.
#[cfg(feature = "import")]
pub(crate) fn remove_leftovers_of(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Ok(entries) = std::fs::read_dir(folder_of(path)) else { return };
    let day = SystemTime::now() - std::time::Duration::from_secs(24 * 3600);
    for entry in entries.flatten() {
        let own = entry.file_name().to_string_lossy().into_owned();
        let process = own.strip_prefix(&format!(".{name}.")).filter(|_| is_leftover(&own));
        let Some(process) = process.and_then(|rest| rest.split('-').next()) else { continue };
        let gone = match Path::new("/proc/self").exists() {
            true => !Path::new("/proc").join(process).exists(),
            false => {
                entry.metadata().and_then(|about| about.modified()).is_ok_and(|time| time < day)
            }
        };
        if gone && std::fs::remove_file(entry.path()).is_ok() {
            log::info!("{} is removed: a write that was killed left it", entry.path().display());
        }
    }
}

/// Removes what [`write_atomic`] could not when it was killed in the middle of a write: files of such names
/// that were last written to before `since`. Only for a folder that nobody else is writing to.
pub fn remove_leftovers(folder: impl AsRef<Path>, since: SystemTime) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let about = entry.metadata().ok().filter(|about| about.is_file());
        let old = about.and_then(|about| about.modified().ok()).is_some_and(|time| time < since);
        if old && is_leftover(&entry.file_name().to_string_lossy()) {
            // A leftover does no harm but taking up room.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes a file of the user's cache, and its folder. Failing to is no error, since a cache can be
/// made again: `what` is then said not to be kept, to whoever asks (`-vv`).
pub(crate) fn keep(path: &Path, bytes: &[u8], what: &str) {
    if let Some(folder) = path.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let sum = fingerprint(bytes);
    let written = write_atomic_with(path, |out| {
        out.write_all(sum.as_bytes())?;
        out.write_all(bytes)
    });
    if let Err(why) = written {
        log::debug!("{what} not kept: {why}");
    }
}

/// Reads what [`keep`] wrote; nothing where it is not there, or not as it was written.
pub(crate) fn kept(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let found = bytes.get(..16)?.to_vec();
    bytes.drain(..16);
    if fingerprint(&bytes).as_bytes() == found {
        return Some(bytes);
    }
    log::debug!("{} is damaged: made again", path.display());
    None
}

/// Where what can be computed again is kept: `modalign` under `$XDG_CACHE_HOME` or the platform's
/// equivalent. None where there is no such place, or others than the user can write to it: what they put
/// there would run here.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = var("XDG_CACHE_HOME")
        .or_else(|| var("LOCALAPPDATA"))
        .or_else(|| var("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("modalign"))?;
    match ours_alone(&folder) {
        true => Some(folder),
        false => {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                let folder = folder.display();
                log::warn!(
                    "{folder} is not used as a cache: others can write to it (chmod go-w {folder})"
                );
            });
            None
        }
    }
}

/// Whether nobody but this user writes to a folder, which is made where it is not there.
#[cfg(unix)]
fn ours_alone(folder: &Path) -> bool {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if !folder.exists() {
        let parent = folder.parent().unwrap_or(folder);
        let _ = std::fs::create_dir_all(parent);
        let _ = std::fs::DirBuilder::new().mode(0o700).create(folder);
    }
    // What cannot be looked at cannot be read either, and does no harm.
    let Ok(about) = std::fs::metadata(folder) else { return true };
    let me = std::fs::metadata("/proc/self").map_or(about.uid(), |own| own.uid());
    (about.uid() == me || about.uid() == 0) && about.mode() & 0o022 == 0
}

#[cfg(not(unix))]
fn ours_alone(_folder: &Path) -> bool {
    true
}

/// 64 bits of FNV-1a as 16 hexadecimal digits: the name of a file that is about `bytes`, where
/// nobody means harm.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The SHA-256 digest of `bytes` as 64 lower-case hexadecimal digits.
#[cfg(feature = "data")]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// The same of a file's contents.
///
/// # Errors
/// [`Error::Io`] naming `path`.
#[cfg(feature = "train")]
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    Ok(sha256_hex(&map(path)?))
}

/// Bytes as lower-case hexadecimal digits.
#[cfg(feature = "data")]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.into(),
        _ => PathBuf::from("."),
    }
}

/// A new file beside the one that it will become; gone when dropped before that. Its name begins
/// with a dot and ends in `.tmp`; its permissions are what the user's umask allows.
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Temporary {
    fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let process = std::process::id();
        loop {
            let path = folder.join(format!(".{name}.{process}-{}.tmp", crate::gpu::unique()));
            match File::options().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Temporary { path, file, kept: false }),
                // Of an earlier process of this number.
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                Err(why) => return Err(why),
            }
        }
    }

    fn persist(mut self, target: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, target)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes the rename itself durable. Best effort: some file systems refuse, and the data is safe.
fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    if let Ok(handle) = std::fs::File::open(folder) {
        let _ = handle.sync_all();
    }
    #[cfg(not(unix))]
    let _ = folder;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn writes_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |out| {
            out.write_all(&[0; 100_000])?;
            Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("a.bin") && error.contains("no space left"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn leftovers_of_a_kill_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomic(&path, b"x").unwrap();
        let mut killed = Temporary::new(folder.path(), "a.bin").unwrap();
        killed.kept = true;
        assert!(killed.path.exists());
        let users = ["notes.tmp", ".notes.tmp", ".a.bin.x-1.tmp", ".7-1.tmp"];
        users.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
        // One that is being written now is somebody's.
        remove_leftovers(folder.path(), SystemTime::UNIX_EPOCH);
        assert!(killed.path.exists());
        let soon = SystemTime::now() + std::time::Duration::from_secs(1);
        remove_leftovers(folder.path(), soon);
        let kept = names(folder.path());
        assert!(!killed.path.exists() && users.iter().all(|name| kept.contains(&name.to_string())));
        assert_eq!(kept.len(), users.len() + 1);
        remove_leftovers(folder.path().join("nowhere"), soon);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_are_written_to_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        // Anyone may write to these; only root could replace them.
        write_atomic("/dev/null", b"x").unwrap();
        let error = write_atomic("/dev/full", b"x").unwrap_err().to_string();
        assert!(error.contains("/dev/full") && error.contains("No space"), "{error}");
        for path in ["/dev/null", "/dev/full"] {
            assert!(std::fs::metadata(path).unwrap().file_type().is_char_device(), "{path}");
        }
    }

    #[test]
    fn a_missing_folder_and_a_folder_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomic(folder.path().join("no/a.bin"), b"x").unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        let error = write_atomic(folder.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("it is a folder"), "{error}");
        assert!(write_atomic("/", b"x").is_err());
        assert!(write_atomic("..", b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        write_atomic(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_readable_by_others_as_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        write_atomic(folder.path().join("a"), b"x").unwrap();
        std::fs::write(folder.path().join("b"), b"x").unwrap();
        let mode = |name| folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("a"), mode("b"));
    }

    #[test]
    fn a_fingerprint_is_fnv_1a() {
        assert_eq!(fingerprint(b""), "cbf29ce484222325");
        assert_eq!(fingerprint(b"a"), "af63dc4c8601ec8c");
    }

    #[cfg(all(target_os = "linux", feature = "import"))]
    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let all = [
            ".a.bin.4194305-1.tmp".to_string(),
            format!(".a.bin.{own}-1.tmp"),
            ".b.bin.4194305-1.tmp".into(),
        ];
        all.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
        remove_leftovers_of(&folder.path().join("a.bin"));
        // No process has a number beyond the largest; that of another file, and of a living one, stay.
        assert_eq!(names(folder.path()), [all[1].as_str(), all[2].as_str()]);
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.bin");
        keep(&path, b"words", "a test");
        assert_eq!(kept(&path).unwrap(), b"words");
        let bytes = std::fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, other).unwrap();
            assert_eq!(kept(&path), None, "bit {bit}");
        }
        std::fs::write(&path, b"short").unwrap();
        assert_eq!(kept(&path), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_cache_that_others_write_to_is_none() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new/modalign");
        assert!(ours_alone(&folder) && folder.is_dir());
        let mode = |mode: u32| {
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for (bits, alone) in [(0o755, true), (0o775, false), (0o777, false), (0o1777, false)] {
            mode(bits);
            assert_eq!(ours_alone(&folder), alone, "{bits:o}");
        }
    }

    #[cfg(feature = "data")]
    #[test]
    fn digest_matches_the_standard_vector() {
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
