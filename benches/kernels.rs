//! `cargo bench --bench kernels -- [OP…] [--json FILE]`: what `modalign bench` does, from a checkout.
//! `--json FILE` writes the report there besides the table; all else is as for the verb (`--list`,
//! `--family`, `--with`).

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words: Vec<OsString> = vec!["modalign".into(), "bench".into()];
    // Cargo says --bench to whatever it runs as a benchmark.
    words.extend(std::env::args_os().skip(1).filter(|word| word != "--bench"));
    for at in 0..words.len() {
        let file = words.get(at + 1).is_some_and(|w| !w.to_string_lossy().starts_with('-'));
        if words[at] == "--json" && file {
            words[at] = "--save".into();
        }
    }
    modalign::cli::run_from(words)
}
