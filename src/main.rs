//! The `modalign` command.

fn main() -> std::process::ExitCode {
    modalign::cli::run()
}
