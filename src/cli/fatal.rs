//! The end that no error tells: a driver that aborts or reads where nothing is, an allocation that fails. The
//! program cannot go on after it, but it can still say what that was and what is kept.

use crate::gpu::given_patience;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// What is said when it comes, ready before it comes: a handler may not allocate.
static SAID: AtomicPtr<String> = AtomicPtr::new(ptr::null_mut());

/// Takes over the signals of such an end.
#[cfg(unix)]
pub(super) fn begin() {
    prepare("");
    for signal in [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV] {
        // SAFETY: the structure is plain numbers, for which zeros are sound; the handler does what a handler
        // may. It runs on the thread's other stack where it has one, so that a full one can be told of.
        let taken = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = say_and_leave as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &action, ptr::null_mut())
        };
        if taken != 0 {
            log::debug!("signal {signal} is not listened to");
        }
    }
}

#[cfg(not(unix))]
pub(super) fn begin() {
    prepare("");
}

/// From now on it is also said that this run's folder keeps what was saved.
pub(super) fn keeps(run: &Path) {
    prepare(&format!("; {} keeps the state that was saved last", run.display()));
}

fn prepare(kept: &str) {
    let limit = little_memory().unwrap_or_default();
    let text = format!(
        "error: the graphics driver, or an allocation that failed, ended the program{limit}{kept}\n"
    );
    // The one before it is not given back: a handler may be reading it. There is one for each run.
    SAID.store(Box::into_raw(Box::new(text)), Ordering::SeqCst);
}

/// Does what calls the driver and comes to an end in seconds, or not at all: a driver that has too little memory
/// may wait for itself. Then the program says so and ends.
pub(super) fn within_patience<T>(work: impl FnOnce() -> T) -> T {
    const USUAL: Duration = Duration::from_secs(60);
    /// A machine that is busy opens a driver slowly, whatever was asked for.
    const LEAST: Duration = Duration::from_secs(10);
    let patience = given_patience().unwrap_or(USUAL).max(LEAST);
    let (done, wait) = channel::<()>();
    let watch = move || {
        if wait.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            super::complain(&format!(
                "the graphics driver does not answer: no device is open after {:.0} s{}",
                patience.as_secs_f64(),
                little_memory().unwrap_or_default()
            ));
            // What runs at a usual end would wait for the driver, too.
            signal_hook::low_level::exit(1);
        }
    };
    // Where no thread can be had, nobody watches.
    let _ = std::thread::Builder::new().name("modalign-watch".into()).spawn(watch);
    let result = work();
    drop(done);
    result
}

/// What to add to an error that may come of a limited address space, where there is such a limit.
pub(super) fn little_memory() -> Option<String> {
    let limit = limit()?;
    Some(format!(
        "; it may take no more than {limit} of memory (ulimit -v), which can be too little"
    ))
}

/// How much address space this process may take, where that is limited.
#[cfg(target_os = "linux")]
fn limit() -> Option<String> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let bytes = line.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(super::output::bytes(bytes))
}

#[cfg(not(target_os = "linux"))]
fn limit() -> Option<String> {
    None
}

#[cfg(unix)]
extern "C" fn say_and_leave(_signal: libc::c_int) {
    // Several threads may come to such an end at once: the first of them says it.
    let said = SAID.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: the text is never freed, and all of these calls may be made in a handler.
    unsafe {
        while said.is_null() {
            libc::pause();
        }
        let text: &String = &*said;
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(1);
    }
}
