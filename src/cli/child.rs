//! Texts of somebody else's go to a compiler and a driver that may not survive them: this program runs itself
//! once more for that, and watches.

use crate::error::{Error, Result};
use crate::gpu::given_patience;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Names the file that the child writes to as it gets on, and by that tells it that it is one.
const BEAT: &str = "MODALIGN_CHILD";
/// How long nothing may come of it, where `MODALIGN_TIMEOUT` says nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Set where this is the program itself, and not a host of its command line.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says that this process is the program.
pub(super) fn is_program() {
    if let Ok(path) = std::env::current_exe() {
        let _ = PROGRAM.set(path);
    }
}

/// The file of a child's heartbeat; none where this is none.
fn beats() -> Option<PathBuf> {
    std::env::var_os(BEAT).map(PathBuf::from)
}

/// Tells whoever watches that something was done.
pub(super) fn beat() {
    if let Some(path) = beats() {
        // Without it the child is taken to hang, which is said.
        let _ = std::fs::write(path, format!("{:?}", Instant::now()));
    }
}

/// Whether what was asked for is to be done in a child of its own.
pub(super) fn wanted() -> bool {
    PROGRAM.get().is_some() && beats().is_none()
}

/// Runs this very command line in a child, and waits as long as it gets on. `what` names what may be to blame.
/// An error that the child has said itself ends this process with its status.
///
/// # Errors
/// [`Shader`](Error::Shader) where the child hangs, or ends by a signal.
pub(super) fn run(what: &Path) -> Result<()> {
    let program = PROGRAM.get().cloned().unwrap_or_default();
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let beats = folder.path().join("beat");
    let patience = given_patience().unwrap_or(PATIENCE);
    let seconds = patience.as_secs_f64();
    let mut child = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env(BEAT, &beats)
        .env("MODALIGN_TIMEOUT", seconds.to_string())
        .spawn()
        .map_err(Error::io("run", &program))?;
    let fail = |message: String| Err(Error::Shader { name: what.display().to_string(), message });
    let (mut last, mut since) = (String::new(), Instant::now());
    // The child itself gives up after that time, and can say more of it.
    let most = patience + Duration::from_secs(2);
    loop {
        let ended = child.try_wait().map_err(Error::io("wait for", &program))?;
        if let Some(status) = ended {
            return match status.code() {
                Some(0) => Ok(()),
                // It has said why.
                Some(code @ (1 | 2)) => std::process::exit(code),
                _ => fail(format!(
                    "the compiler or the driver did not survive it ({}): is it nested very deeply?",
                    how(status)
                )),
            };
        }
        let now = std::fs::read_to_string(&beats).unwrap_or_default();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > most {
            let _ = child.kill();
            let _ = child.wait();
            return fail(format!("it does not end: nothing came of it for {seconds:.0} s"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(unix)]
fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"))
}

#[cfg(not(unix))]
fn how(status: ExitStatus) -> String {
    status.to_string()
}
