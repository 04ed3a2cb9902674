//! The browser that tests drive.

use std::path::PathBuf;

/// What a browser that nobody sits at is started with, whatever it is to do.
pub const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
];

/// A Chromium, if there is one. Where there is none, says so.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("MODALIGN_BROWSER").map(PathBuf::from);
    let found = named.unwrap_or_else(|| "/usr/bin/chromium".into());
    if found.is_file() {
        return Some(found);
    }
    eprintln!("skipped: no browser; MODALIGN_BROWSER can name a Chromium");
    None
}
