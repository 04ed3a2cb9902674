//! Being asked to stop: while a run is trained, the first Ctrl-C (or SIGTERM, or SIGHUP) lets it finish its
//! step and save; a second one, or one at any other time, ends the program as it always did.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// Runs that are being watched.
static WATCHED: AtomicUsize = AtomicUsize::new(0);
/// The signal that came while one was, or 0.
static PENDING: AtomicI32 = AtomicI32::new(0);

#[cfg(unix)]
const ENDING: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const ENDING: [i32; 2] = [SIGINT, SIGTERM];

/// Takes over the signals that end a program. A file that has reached its largest size becomes an error of
/// the write instead of a death.
pub(super) fn begin() {
    for signal in ENDING {
        let heard = move || {
            let first = PENDING.load(Ordering::SeqCst) == 0 && WATCHED.load(Ordering::SeqCst) > 0;
            if !first || PENDING.swap(signal, Ordering::SeqCst) != 0 {
                // What it does where nobody listens.
                let _ = low_level::emulate_default_handler(signal);
            }
        };
        // SAFETY: the action reads and writes atomics and restores the signal's own default, all of which
        // may be done in a handler.
        let taken = unsafe { low_level::register(signal, heard) };
        if let Err(why) = taken {
            log::debug!("signal {signal} is not listened to: {why}");
        }
    }
    #[cfg(unix)]
    {
        /// Of Linux and the BSDs; the number is the same on all of them.
        const SIGXFSZ: i32 = 25;
        // SAFETY: the action does nothing.
        let taken = unsafe { low_level::register(SIGXFSZ, || {}) };
        if let Err(why) = taken {
            log::debug!("SIGXFSZ is not listened to: {why}");
        }
    }
}

/// The signal that asks a run to stop, if one has come.
pub(super) fn pending() -> Option<i32> {
    Some(PENDING.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// What a shell expects of a program that stopped because it was told to.
pub(super) fn exit_code() -> ExitCode {
    ExitCode::from(pending().map_or(1, |signal| 128_u8.wrapping_add(signal as u8)))
}

/// A run that has something to save when it is asked to stop.
pub(super) struct Watched {
    _private: (),
}

impl Watched {
    pub(super) fn begin() -> Watched {
        WATCHED.fetch_add(1, Ordering::SeqCst);
        Watched { _private: () }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        WATCHED.fetch_sub(1, Ordering::SeqCst);
    }
}
