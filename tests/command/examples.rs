//! The examples run to their end: each checks what it shows.

use std::path::PathBuf;
use std::process::Command;

/// Where cargo put the examples of this build: beside the tests.
fn examples() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.ancestors().nth(2).expect("a profile's folder").join("examples")
}

/// Runs an example in a folder of its own; what it printed.
fn run(name: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = examples().join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let output = Command::new(&path).current_dir(&folder).output();
    let output = output.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{name} ends with {}\n{out}\n{err}", output.status);
    out.into_owned()
}

#[test]
fn a_host_shares_its_device() {
    assert!(run("share_device").contains("scores on"));
}

#[test]
fn an_operation_of_ones_own() {
    let said = run("custom_op");
    assert!(said.contains("gate_backward on plain"), "{said}");
    assert!(said.contains("gradients of a silu(a)"), "{said}");
}

#[test]
fn a_training_loop_of_ones_own() {
    assert!(run("own_training_loop").contains("in the end"));
}

/// The host's own part of a score stays below a millisecond: half of the samples, since this machine
/// also runs other tests and the software adapter's threads.
#[test]
fn inference_in_another_program() {
    let said = run("embed_inference");
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).expect("a line of times");
    let ms: f64 = host.split(' ').next().and_then(|ms| ms.parse().ok()).expect("milliseconds");
    assert!(ms < 1.0, "{said}");
}

#[test]
fn rows_that_a_program_makes() {
    let said = run("train_from_program");
    let accuracy = said.lines().find_map(|line| line.strip_prefix("accuracy ")).expect("a score");
    assert!(accuracy.parse::<f64>().expect("a number") > 0.6, "{said}");
}

#[test]
fn the_first_pages() {
    assert!(run("quickstart").contains("test MAE"));
    assert!(run("adapters").contains("opened"));
}

#[test]
fn models_of_ones_own() {
    let said = run("custom_model");
    let last = said.lines().last().and_then(|line| line.rsplit(' ').next()?.parse::<f32>().ok());
    assert!(last.expect("a loss") < 0.05, "{said}");
    assert!(run("align_custom_model").lines().count() > 5);
}
