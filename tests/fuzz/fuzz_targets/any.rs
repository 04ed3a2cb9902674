//! One target of `targets.rs`, which `FUZZ=NAME` chooses.
#![no_main]

#[path = "../targets.rs"]
mod targets;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use targets::{TARGETS, Target};

static CHOSEN: OnceLock<(Target, tempfile::TempDir)> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let (target, folder) = CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        let names = TARGETS.map(|(name, _)| name).join(", ");
        let (_, target) = found.unwrap_or_else(|| panic!("FUZZ={name}: want one of {names}"));
        (*target, tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder"))
    });
    target(folder.path(), bytes);
});
