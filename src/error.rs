//! Every failure a user can meet, each as one sentence: what, where, what to do.

use std::path::{Path, PathBuf};

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Every variant displays as one clear line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter at all, or none of the wanted name.
    #[error("no GPU adapter: {0}")]
    NoAdapter(String),
    /// Tensor shapes that do not fit an operation; found when recording, before anything runs.
    #[error("{op}: {detail}")]
    Shape {
        /// The operation that was being recorded.
        op: &'static str,
        /// Both shapes, and what was wanted.
        detail: String,
    },
    /// A buffer, a space or a program used where it does not belong, or beyond its end; found before
    /// anything reaches the device.
    #[error("{op}: {detail}")]
    Access {
        /// What was asked for: "write", "read", "replay".
        op: &'static str,
        /// What does not fit, and what would.
        detail: String,
    },
    /// A plan or buffer that the adapter cannot hold.
    #[error("out of GPU memory: {what} needs {bytes} bytes; {advice}")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Its size.
        bytes: u64,
        /// What the user can change.
        advice: String,
    },
    /// A dispatch of more workgroups than the adapter takes.
    #[error("too large for the adapter: {what}; {advice}")]
    TooLarge {
        /// Which kernel, and how many workgroups.
        what: String,
        /// What the user can change.
        advice: String,
    },
    /// The device went away: driver reset, unplugged, watchdog.
    #[error("the GPU was lost ({0}); open it again and go on from what was saved")]
    DeviceLost(String),
    /// A kernel that did not compile or validate.
    #[error("shader {name}: {message}")]
    Shader {
        /// The kernel's name.
        name: String,
        /// naga's or the driver's message.
        message: String,
    },
    /// A driver that is known to compute this wrongly.
    #[error("driver: {0}")]
    Driver(String),
    /// Any other error that the device reported.
    #[error("GPU error: {0}")]
    Gpu(String),
    /// A weights or state file that does not fit the model.
    #[error("checkpoint {}: {detail}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Which tensor, what was found, what was wanted.
        detail: String,
    },
    /// A data file that is missing, damaged or inconsistent.
    #[error("data {}: {detail}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Which tensor, which row, what is wrong.
        detail: String,
    },
    /// A training whose numbers left the range of floats. What was complete before stays.
    #[error(
        "training diverged in epoch {epoch}{}: {what}; lower the learning rates (train.lr), set \
         train.clip_norm, or look for values out of all proportion in the data",
        batch.map_or_else(String::new, |b| format!(", batch {b}"))
    )]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The micro-batch of it, from 1; none where it showed after the epoch's last.
        batch: Option<usize>,
        /// Which loss, parameter or output is not finite.
        what: String,
    },
    /// A folder that another process trains into.
    #[error(
        "{} is in use{}: wait until it is done, or give another folder",
        path.display(),
        by.map_or_else(|| " by another process".to_string(), |pid| format!(" by process {pid}"))
    )]
    Busy {
        /// The folder.
        path: PathBuf,
        /// The other process, where it is known.
        by: Option<u32>,
    },
    /// A run that was asked to stop. All of it is on disk.
    #[error(
        "{} stopped {}; go on with: modalign train --resume {}",
        run.display(),
        match batch {
            0 => format!("after epoch {epoch}"),
            batch => format!("in epoch {}, after batch {batch}", epoch + 1),
        },
        run.display()
    )]
    Interrupted {
        /// Its folder.
        run: PathBuf,
        /// Whole epochs that are done.
        epoch: usize,
        /// Micro-batches of the next one that are done.
        batch: usize,
    },
    /// A configuration that cannot be used.
    #[error("configuration: {0}")]
    Config(String),
    /// A file that could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// "read", "write", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// A shape error of `op`.
    pub fn shape(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Shape { op, detail: detail.into() }
    }

    /// An access error of `op`.
    pub fn access(op: &'static str, detail: impl Into<String>) -> Self {
        Error::Access { op, detail: detail.into() }
    }

    /// A data error at `path`.
    pub fn data(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().into(), detail: detail.into() }
    }

    /// A checkpoint error at `path`.
    pub fn checkpoint(path: impl AsRef<Path>, detail: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.as_ref().into(), detail: detail.into() }
    }

    /// Turns an I/O error into one that names the file; for `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source }
    }
}

/// The name of threads whose panics are told as errors by whoever waits for them, and otherwise not at all.
#[cfg(feature = "data")]
pub(crate) const CONTAINED: &str = "contained";

/// What `body` gives, or nothing where it panics: some libraries count on files that nobody damaged.
#[cfg(feature = "data")]
pub(crate) fn contained<T: Send>(body: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let named = std::thread::Builder::new().name(CONTAINED.into());
        named.spawn_scoped(scope, body).ok()?.join().ok()
    })
}

/// The candidate most like `name`, for "did you mean".
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let wanted = name.to_lowercase();
    let alike = |c: &str| strsim::jaro_winkler(&c.to_lowercase(), &wanted);
    candidates.max_by(|a, b| alike(a).total_cmp(&alike(b))).unwrap_or_default().to_string()
}
