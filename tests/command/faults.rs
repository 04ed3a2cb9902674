//! What a machine does to a run: it is killed, its disk is full, its memory is short. Killing and refusing are
//! done by a tracer at a chosen call to the system, so that each can be tried again:
//! `TRUST=200 cargo test --test command faults:: -- --nocapture`.

use crate::ran::{Place, Ran, SMALL};
use crate::trust::{drawn, results, times};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

/// What changes a folder, of what this program and the libraries under it call.
const CHANGES: &str = "write,rename,renameat,renameat2,fsync,fdatasync,unlink,mkdir,ftruncate";
const RUN: &str = "train --data small.safetensors --max-epochs 4 --quiet --out";

/// A folder with the data and a run that nothing happened to.
fn place() -> &'static (Place, BTreeMap<String, Vec<u8>>) {
    static PLACE: OnceLock<(Place, BTreeMap<String, Vec<u8>>)> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("faults");
        place.ok(SMALL);
        place.ok(&format!("{RUN} whole"));
        let whole = results(&place.at("whole"));
        (place, whole)
    })
}

/// Runs a command under the tracer with an injection, `None` where nothing can be traced.
fn traced(line: &str, injected: Option<(&str, &(String, usize))>) -> Option<Ran> {
    let place = &place().0;
    // Tests run side by side: each run has a log of its own.
    let name = line.split_whitespace().next_back().unwrap_or_default();
    let log = place.at(&format!("calls-{name}"));
    let _ = fs::remove_file(&log);
    let plain = place.command(line);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", &format!("trace={CHANGES}"), "-o"]).arg(&log);
    if let Some((what, (call, when))) = injected {
        command.args(["-e", &format!("inject={call}:{what}:when={when}")]);
    }
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(place.root());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let ran: Ran = command.output().ok()?.into();
    let calls = fs::read_to_string(&log).unwrap_or_default();
    // One that is killed in its first call leaves nothing in the log.
    (injected.is_some() || !calls.is_empty()).then_some(ran)
}

/// The calls that the first thread of a whole run makes, each as its name and how many of that name it is the
/// last of: the tracer counts by name.
fn calls() -> Option<&'static Vec<(String, usize)>> {
    static CALLS: OnceLock<Option<Vec<(String, usize)>>> = OnceLock::new();
    CALLS.get_or_init(counted).as_ref()
}

fn counted() -> Option<Vec<(String, usize)>> {
    let _ = fs::remove_dir_all(place().0.at("counted"));
    traced(&format!("{RUN} counted"), None)?;
    let text = fs::read_to_string(place().0.at("calls-counted")).ok()?;
    let first = text.split_whitespace().next()?.to_string();
    let mut counts = BTreeMap::new();
    let mut all = Vec::new();
    for line in text.lines().filter(|line| line.starts_with(&first)) {
        let call = line[first.len()..].trim_start().split('(').next()?;
        if CHANGES.split(',').any(|name| name == call) {
            let count: &mut usize = counts.entry(call.to_string()).or_default();
            *count += 1;
            all.push((call.to_string(), *count));
        }
    }
    Some(all)
}

/// Goes on with what is there, and holds what comes of it against the run that nothing happened to.
fn goes_on(name: &str, after: &str) {
    let (place, whole) = place();
    // Where no state was saved yet, it begins again.
    let mut ran = place.run(&format!("{RUN} {name}"));
    if ran.err.contains("already holds a run") {
        ran = place.run(&format!("train --resume {name} --max-epochs 4 --quiet"));
    }
    assert_eq!(ran.code, Some(0), "{after}: {}", ran.err);
    for (file, bytes) in results(&place.at(name)) {
        assert!(whole[&file] == bytes, "{after}: another {file}");
    }
    let kept: Vec<String> = fs::read_dir(place.at(name))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|file| file.contains(".tmp") || file == ".lock")
        .collect();
    assert!(kept.is_empty(), "{after}: {kept:?} are left");
}

#[test]
fn a_run_that_is_killed_goes_on_to_the_same_results() {
    let Some(calls) = calls() else { return println!("skipped: nothing can be traced here") };
    let (mut killed, mut ended) = (0, 0);
    for i in 0..times(4) {
        let at = &calls[drawn(i, calls.len())];
        let _ = fs::remove_dir_all(place().0.at("killed"));
        let ran = traced(&format!("{RUN} killed"), Some(("signal=KILL", at))).unwrap();
        match ran.code {
            Some(0) => ended += 1,
            _ => killed += 1,
        }
        match place().0.at("killed").join("metrics.json").exists() && ran.code == Some(0) {
            true => assert!(results(&place().0.at("killed")) == place().1),
            false => goes_on("killed", &format!("killed at {at:?}")),
        }
    }
    println!("{killed} runs were killed and went on to the same bytes, {ended} had ended before");
    assert!(killed > 0);
}

#[test]
fn a_write_that_is_refused_ends_in_a_sentence() {
    let Some(calls) = calls() else { return println!("skipped: nothing can be traced here") };
    let (mut told, mut unharmed) = (0, 0);
    for i in 0..times(4) {
        let at = &calls[drawn(i + 500, calls.len())];
        let why = ["ENOSPC", "EIO", "EROFS"][i % 3];
        let after = format!("{why} at {at:?}");
        let _ = fs::remove_dir_all(place().0.at("refused"));
        let ran = traced(&format!("{RUN} refused"), Some((&format!("error={why}"), at))).unwrap();
        match ran.code {
            // What was refused was a cache's, or of the terminal.
            Some(0) => {
                assert!(results(&place().0.at("refused")) == place().1, "{after}");
                unharmed += 1;
            }
            Some(1) => {
                let last = ran.err.lines().last().unwrap_or_default();
                assert!(
                    last.starts_with("error: ") && !last.contains("a bug"),
                    "{after}: {}",
                    ran.err
                );
                goes_on("refused", &after);
                told += 1;
            }
            code => panic!("{after}: {code:?}: {}", ran.err),
        }
    }
    println!(
        "{told} refused writes were told and went on to the same bytes, {unharmed} did no harm"
    );
    assert!(told > 0);
}

#[cfg(target_os = "linux")]
#[test]
fn little_memory_ends_in_a_sentence() {
    let (place, whole) = place();
    let (mut done, mut told) = (0, 0);
    let steps = times(6);
    for i in 0..steps {
        // From what no program can begin with to what is plenty.
        let mib = (60.0 * (3000.0_f64 / 60.0).powf(i as f64 / (steps - 1).max(1) as f64)) as usize;
        let _ = fs::remove_dir_all(place.at("little"));
        let plain = place.command(&format!("{RUN} little"));
        let mut limited = Command::new("sh");
        let script = format!("ulimit -v {} && exec \"$0\" \"$@\"", mib << 10);
        limited.args(["-c", &script]).arg(plain.get_program()).args(plain.get_args());
        // Where the driver waits for itself, that is told after this time.
        limited.env("MODALIGN_TIMEOUT", "10");
        let ran: Ran = limited.current_dir(place.root()).output().unwrap().into();
        match ran.code {
            Some(0) => {
                assert!(&results(&place.at("little")) == whole, "{mib} MiB");
                done += 1;
            }
            Some(1) => {
                let last = ran.err.lines().last().unwrap_or_default();
                let well = last.starts_with("error: ") && last.contains("memory");
                assert!(well && !last.contains("a bug"), "{mib} MiB: {}", ran.err);
                told += 1;
            }
            code => panic!("{mib} MiB: {code:?}: {}", ran.err),
        }
    }
    println!("{done} runs had memory enough, {told} said that they had not");
    assert!(done > 0 && told > 0);
}
