//! Nothing lost and nothing silently other: two processes in one folder, damaged and edited files, data that
//! change under a run, signals. `TRUST=100 cargo test --release --test command trust::` tries each a hundred
//! times; the counts are printed with `--nocapture`.

use crate::ran::{Place, Ran, SMALL, fails};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// How often each kind is tried.
pub fn times(usual: usize) -> usize {
    std::env::var("TRUST").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// A folder with the data, a whole run, and one of the same settings that has an epoch to go.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("trust");
        place.ok(SMALL);
        for (name, epochs) in [("whole", 4), ("part", 3)] {
            place.ok(&format!(
                "train --data small.safetensors --out {name} --max-epochs {epochs} --quiet"
            ));
        }
        place
    })
}

/// All that a run comes to, by file; what tells one call from another is left out.
pub fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = ["last.safetensors", "labels.safetensors", "steps.jsonl", "epochs.jsonl"];
    let mut all: BTreeMap<String, Vec<u8>> =
        names.iter().map(|name| (name.to_string(), fs::read(run.join(name)).unwrap())).collect();
    let mut scores: Value =
        serde_json::from_slice(&fs::read(run.join("metrics.json")).unwrap()).unwrap();
    for key in ["seconds", "samples_per_second", "sha256", "files"] {
        scores.as_object_mut().unwrap().remove(key);
    }
    all.insert("metrics.json".into(), scores.to_string().into_bytes());
    all
}

fn copy(from: &str, to: &str) -> PathBuf {
    let (from, to) = (place().at(from), place().at(to));
    let _ = fs::remove_dir_all(&to);
    copy_all(&from, &to);
    to
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn start(line: &str) -> Child {
    let mut command = place().command(line);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.spawn().unwrap()
}

fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what} after two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn of_two_that_resume_a_run_one_does() {
    let whole = results(&place().at("whole"));
    let (mut refused, mut finished) = (0, 0);
    for _ in 0..times(3) {
        let run = copy("part", "pair");
        let pair: Vec<Child> =
            (0..2).map(|_| start("train --resume pair --max-epochs 4 --quiet")).collect();
        let pids: Vec<String> = pair.iter().map(|child| child.id().to_string()).collect();
        let ended: Vec<Ran> = pair.into_iter().map(end).collect();
        for (i, ran) in ended.iter().enumerate() {
            match ran.code {
                Some(0) => finished += 1,
                // A run that is over by then can be taken up by the other, to no effect.
                Some(2) => {
                    assert!(ran.err.contains("in use by process"), "{}", ran.err);
                    assert!(ran.err.contains(&pids[1 - i]), "{} not in {}", pids[1 - i], ran.err);
                    refused += 1;
                }
                code => panic!("{code:?}: {}", ran.err),
            }
        }
        assert!(ended.iter().any(|ran| ran.code == Some(0)), "none of the two went on");
        assert!(results(&run) == whole, "two processes mixed a run");
        assert!(!run.join(".lock").exists());
    }
    println!("resumed in pairs: {finished} finished, {refused} refused, 0 mixed");
}

#[test]
fn two_that_begin_never_share_a_folder() {
    let whole = results(&place().at("whole"));
    for _ in 0..times(3) {
        let _ = fs::remove_dir_all(place().at("twice"));
        let line = "train --data small.safetensors --out twice --max-epochs 4 --quiet";
        let pair: Vec<Child> = (0..2).map(|_| start(line)).collect();
        let ended: Vec<Ran> = pair.into_iter().map(end).collect();
        let codes: Vec<_> = ended.iter().map(|ran| ran.code).collect();
        assert!(codes == [Some(0), Some(2)] || codes == [Some(2), Some(0)], "{codes:?}");
        let refused = ended.iter().find(|ran| ran.code == Some(2)).unwrap();
        let said = &refused.err;
        assert!(
            said.contains("in use by process") || said.contains("already holds a run"),
            "{said}"
        );
        assert!(results(&place().at("twice")) == whole, "two processes mixed a run");
    }
    // Without a name each gets its own.
    let line = "train --data ../small.safetensors --max-epochs 4 --quiet --json";
    let _ = fs::remove_dir_all(place().at("names"));
    fs::create_dir_all(place().at("names")).unwrap();
    let several: Vec<Child> = (0..3)
        .map(|_| {
            let mut command = place().command(line);
            command.current_dir(place().at("names")).stdout(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut names: Vec<String> = several
        .into_iter()
        .map(|child| {
            let said: Value = serde_json::from_str(&end(child).out).unwrap();
            said["run"].as_str().unwrap().to_string()
        })
        .collect();
    names.sort();
    assert_eq!(names, ["", "-2", "-3"].map(|n| format!("runs/small-mosi-1111{n}")));
    for name in names {
        assert!(results(&place().at("names").join(name)) == whole);
    }
}

#[test]
fn a_run_that_is_refused_leaves_nothing() {
    let ran = place().run("train --data nowhere.safetensors --out fresh/deep --quiet");
    fails(ran, 1, &["nowhere.safetensors", "no such file"]);
    assert!(!place().at("fresh").exists());
}

/// A number from a few others, the same in every run.
pub fn drawn(seed: usize, below: usize) -> usize {
    let mut x = (seed as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x >> 32) as usize) % below
}

/// Flips a bit of a file of a run; what reads the run must then say so, or come to the very same.
fn flipped(
    what: (&str, &[&str]),
    command: &str,
    (seen, same): (&mut usize, &mut usize),
    comes_to: &dyn Fn(&Ran, &Path) -> Vec<u8>,
) {
    let (from, names) = what;
    let run = copy(from, "bits");
    let wanted = comes_to(&place().run(command), &run);
    for name in names {
        for turn in 0..times(4) {
            let run = copy(from, "bits");
            let path = run.join(name);
            let mut bytes = fs::read(&path).unwrap();
            let bit = drawn(turn * 131 + name.len(), bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let ran = place().run(command);
            match ran.code {
                Some(0) => {
                    let found = comes_to(&ran, &run);
                    assert!(found == wanted, "{command}: bit {bit} of {name} made other results");
                    *same += 1;
                }
                Some(1 | 2) => {
                    assert_eq!(ran.err.lines().filter(|l| l.starts_with("error: ")).count(), 1);
                    *seen += 1;
                }
                code => panic!("{command}: bit {bit} of {name}: {code:?} {}", ran.err),
            }
        }
    }
}

#[test]
fn a_flipped_bit_never_makes_other_results() {
    let (mut seen, mut same) = (0, 0);
    let resumed =
        |_: &Ran, run: &Path| -> Vec<u8> { results(run).into_values().flatten().collect() };
    let said = |ran: &Ran, _: &Path| ran.out.clone().into_bytes();
    let page = |_: &Ran, _: &Path| fs::read(place().at("bits.html")).unwrap();
    let state = "state/state.safetensors";
    flipped(
        (
            "part",
            &[state, "config.toml", "run.json", "steps.jsonl", "epochs.jsonl", "labels.jsonl"],
        ),
        "train --resume bits --max-epochs 4 --quiet",
        (&mut seen, &mut same),
        &resumed,
    );
    flipped(
        ("whole", &["model.safetensors", "run.json"]),
        "eval --model bits --split test --quiet --json",
        (&mut seen, &mut same),
        &said,
    );
    flipped(
        (
            "whole",
            &["metrics.json", "epochs.jsonl", "labels.jsonl", "run.json", "model.safetensors"],
        ),
        "report bits --out bits.html --quiet",
        (&mut seen, &mut same),
        &page,
    );
    println!("flipped bits: {seen} seen, {same} without effect, 0 other results");
    assert!(seen > same);
}

#[test]
fn a_setting_that_was_edited_is_named() {
    let edit = |from: &str, to: &str| {
        let path = copy("part", "edited").join("config.toml");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<String> = text
            .lines()
            .map(|line| if line.starts_with(from) { to.to_string() } else { line.to_string() })
            .collect();
        assert_ne!(lines.join("\n"), text.trim(), "no {from}");
        fs::write(&path, lines.join("\n")).unwrap();
        place().run("train --resume edited --max-epochs 4 --quiet")
    };
    let ran = edit("batch_size", "batch_size = 8");
    fails(ran, 2, &["train.batch_size = 8", "began with 16", "train.max_epochs"]);
    fails(edit("seed", "seed = 7"), 2, &["train.seed = 7", "1111"]);
    // These may change.
    let ran = edit("early_stop", "early_stop = 5");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for name in ["steps.jsonl", "epochs.jsonl"] {
        let read = |run: &str| fs::read(place().at(run).join(name)).unwrap();
        assert!(read("edited") == read("whole"), "{name}");
    }
    // What is nobody's is left alone, and a leftover of ours goes.
    let run = copy("part", "edited");
    fs::write(run.join("notes.tmp"), "mine").unwrap();
    fs::write(run.join(".steps.jsonl.1-1.tmp"), "").unwrap();
    place().ok("train --resume edited --max-epochs 4 --quiet");
    assert!(run.join("notes.tmp").exists() && !run.join(".steps.jsonl.1-1.tmp").exists());
}

#[test]
fn a_state_that_is_gone_is_not_begun_anew_in_silence() {
    let run = copy("part", "stateless");
    fs::remove_file(run.join("metrics.json")).unwrap();
    fs::remove_file(run.join("state/state.safetensors")).unwrap();
    let before = fs::read(run.join("epochs.jsonl")).unwrap();
    let ran = place().run("train --resume stateless --max-epochs 4 --quiet");
    fails(ran, 1, &["state.safetensors", "3 epochs are done", "--init", "model.safetensors"]);
    assert_eq!(fs::read(run.join("epochs.jsonl")).unwrap(), before);
    // A model of another run in the place of the best one is not scored as this one's.
    let run = copy("part", "stateless");
    place().ok("train --data small.safetensors --seed 5 --out other --max-epochs 1 --quiet");
    fs::copy(place().at("other/model.safetensors"), run.join("model.safetensors")).unwrap();
    let ran = place().run("train --resume stateless --max-epochs 3 --quiet");
    fails(ran, 1, &["model.safetensors", "another model than this run trained"]);
}

#[cfg(unix)]
#[test]
fn links_in_a_run_are_not_written_through() {
    let run = copy("part", "linked");
    let mine = place().at("mine.txt");
    for name in ["steps.jsonl", "state/state.safetensors", "last.safetensors"] {
        fs::write(&mine, "words").unwrap();
        let path = copy("part", "linked").join(name);
        let kept = run.parent().unwrap().join("kept");
        fs::rename(&path, &kept).unwrap();
        // What it points to is what the run needs, but for the file that is only written.
        fs::copy(&kept, &mine).unwrap();
        let before = fs::read(&mine).unwrap();
        std::os::unix::fs::symlink(&mine, &path).unwrap();
        let ran = place().run("train --resume linked --max-epochs 4 --quiet");
        assert!(ran.code == Some(2) && ran.err.contains("is a link"), "{name}: {}", ran.err);
        assert_eq!(fs::read(&mine).unwrap(), before, "{name}");
    }
}

#[test]
fn data_that_change_under_a_run_end_it() {
    let kinds: [(&str, &[&str]); 4] = [
        ("truncated", &["cut short"]),
        ("overwritten", &["written to"]),
        ("replaced", &["replaced"]),
        ("removed", &["removed"]),
    ];
    for turn in 0..times(1) {
        for (kind, words) in kinds {
            let (data, out) = (format!("{kind}.safetensors"), format!("under-{kind}"));
            let _ = fs::remove_dir_all(place().at(&out));
            fs::copy(place().at("small.safetensors"), place().at(&data)).unwrap();
            let path = place().at(&data);
            let bytes = fs::read(&path).unwrap();
            let child = start(&format!(
                "train --data {data} --out {out} --max-epochs 100000 --quiet --set train.early_stop=0"
            ));
            let log = place().at(&out).join("epochs.jsonl");
            until("no epoch", || lines(&log) > turn % 3);
            match kind {
                "truncated" => {
                    fs::File::options().write(true).open(&path).unwrap().set_len(4000).unwrap();
                }
                "overwritten" => fs::write(&path, vec![0; bytes.len()]).unwrap(),
                "replaced" => {
                    fs::write(place().at("next"), &bytes).unwrap();
                    fs::rename(place().at("next"), &path).unwrap();
                }
                _ => fs::remove_file(&path).unwrap(),
            }
            fails(end(child), 1, words);
            // What was trained is kept, and goes on with the data put back.
            fs::write(&path, &bytes).unwrap();
            let done = lines(&log);
            let more = done + 1;
            place().ok(&format!("train --resume {out} --max-epochs {more} --quiet"));
            let again = place().at("again");
            let _ = fs::remove_dir_all(&again);
            place().ok(&format!(
                "train --data small.safetensors --out again --max-epochs {more} --quiet \
                 --set train.early_stop=0"
            ));
            let last = |run: &Path| fs::read(run.join("steps.jsonl")).unwrap();
            assert!(last(&again) == last(&place().at(&out)), "{kind}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_stop_saves_its_step() {
    let line = "train --data small.safetensors --out asked --max-epochs 400 --quiet \
                --set train.early_stop=0 --set train.batch_size=2 --set train.accumulate=2";
    for turn in 0..times(1) {
        for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
            let _ = fs::remove_dir_all(place().at("asked"));
            let child = start(line);
            let log = place().at("asked/epochs.jsonl");
            until("no epoch", || lines(&log) > turn % 2);
            std::thread::sleep(Duration::from_millis((turn as u64 * 7) % 90));
            // The shell's own, which every system has.
            let sent = std::process::Command::new("sh")
                .args(["-c", &format!("kill -{signal} {}", child.id())])
                .status();
            assert!(sent.unwrap().success());
            fails(end(child), code, &["stopped", "train --resume asked"]);
            let done = lines(&log);
            let steps = lines(&place().at("asked/steps.jsonl"));
            let more = done + 1;
            place().ok(&format!("train --resume asked --max-epochs {more} --quiet"));
            let _ = fs::remove_dir_all(place().at("unasked"));
            place().ok(&line.replace("asked", "unasked").replace("400", &more.to_string()));
            assert!(
                results(&place().at("asked")) == results(&place().at("unasked")),
                "{signal} after {steps} steps: other results"
            );
        }
    }
}

#[test]
fn caches_cost_time_and_never_results() {
    let root = place().at("caches");
    let _ = fs::remove_dir_all(&root);
    let train = |home: Option<&Path>, out: &str| {
        let mut command = place().command(&format!(
            "train --data small.safetensors --out caches/{out} --max-epochs 4 --quiet"
        ));
        command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
        if let Some(home) = home {
            command.env("XDG_CACHE_HOME", home);
        }
        let ran: Ran = command.output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(results(&root.join(out)) == results(&place().at("whole")), "{out}");
    };
    train(None, "homeless");
    let cache = place().at("caches/cache");
    train(Some(&cache), "first");
    // Every file of it, damaged in its middle.
    let mut damaged = 0;
    let mut folders = vec![cache.join("modalign")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "nothing is cached");
    train(Some(&cache), "damaged");
    fs::write(place().at("caches/file"), "").unwrap();
    train(Some(&place().at("caches/file")), "no-folder");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let shared = cache.join("modalign");
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        let before: Vec<SystemTime> = fs::read_dir(&shared)
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().modified().unwrap())
            .collect();
        train(Some(&cache), "shared");
        let after: Vec<SystemTime> = fs::read_dir(&shared)
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().modified().unwrap())
            .collect();
        assert_eq!(before, after, "a folder that others write to was used");
    }
}

#[test]
fn a_lost_device_is_opened_again() {
    let whole = results(&place().at("whole"));
    for turn in 0..times(2) {
        let _ = fs::remove_dir_all(place().at("lossy"));
        // Of more than forty submissions.
        let (first, second) = (drawn(turn, 20), 20 + drawn(turn + 7, 20));
        let line = "train --data small.safetensors --out lossy --max-epochs 4";
        let mut command = place().command(&format!("{line} --on-lost resume"));
        command.env("MODALIGN_TEST_LOSE", format!("{first},{second}"));
        let ran: Ran = command.output().unwrap().into();
        assert_eq!(ran.code, Some(0), "lost at {first} and {second}: {}", ran.err);
        assert_eq!(ran.err.matches("it is opened again").count(), 2, "{}", ran.err);
        assert!(results(&place().at("lossy")) == whole, "lost at {first} and {second}");
    }
    let _ = fs::remove_dir_all(place().at("lossy"));
    let mut command =
        place().command("train --data small.safetensors --out lossy --max-epochs 4 --quiet");
    let ran: Ran = command.env("MODALIGN_TEST_LOSE", "30").output().unwrap().into();
    fails(ran, 1, &["the GPU was lost", "train --resume"]);
    place().ok("train --resume lossy --on-lost resume --quiet");
    assert!(results(&place().at("lossy")) == whole);
}

#[test]
fn where_numbers_went_wrong_is_found() {
    let line = "train --data small.safetensors --set train.lr=1e6 --max-epochs 3 --quiet";
    let ran = place().run(&format!("{line} --out diverged"));
    fails(
        ran,
        1,
        &["diverged in epoch 1, batch ", "the first to go is what kernel ", " writes into '"],
    );
    let ran = place().run(&format!("{line} --out diverged-too --debug-numerics"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    for word in ["not finite", "heads_forward", "adam", "mean |x|"] {
        assert!(ran.err.contains(word), "no '{word}' in {}", ran.err);
    }
}

#[test]
fn texts_that_hang_or_overflow_end_in_a_line() {
    let own = place().ok("bench softmax --source");
    let main = own.find("fn main").unwrap();
    let body = main + own[main..].find(") {").unwrap() + 3;
    let loops: String =
        (0..4).map(|k| format!("for (var i{k} = 0u; i{k} < 4000000000u; i{k} += 1u) {{")).collect();
    let spin = format!(
        "var spin = P.cols; {loops} spin = spin * 1664525u + 1013904223u; }}}}}}}} if (spin == 3u) {{ return; }}"
    );
    let hostile = [
        ("endless", format!("{}{spin}{}", &own[..body], &own[body..]), "does not end"),
        (
            "chain",
            format!("{own}\nfn f(x: f32) -> f32 {{ return x{}; }}\n", "+x".repeat(200_000)),
            "",
        ),
        (
            "braces",
            format!("{own}\nfn f() {{ {}{} }}\n", "{".repeat(50_000), "}".repeat(50_000)),
            "",
        ),
    ];
    for (name, text, word) in hostile {
        fs::write(place().at(&format!("{name}.wgsl")), text).unwrap();
        let mut command =
            place().command(&format!("bench softmax --with {name}.wgsl --seconds 0.01 --quiet"));
        let ran: Ran = command.env("MODALIGN_TIMEOUT", "2").output().unwrap().into();
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.err);
        let errors: Vec<&str> =
            ran.err.lines().filter(|l| l.starts_with("error: shader")).collect();
        assert!(errors.len() == 1 && errors[0].contains(word), "{name}: {}", ran.err);
    }
}

#[test]
fn a_row_that_must_overflow_is_named_before_the_first_step() {
    let bytes = fs::read(place().at("small.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let text = &header["train.text"];
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    let width: usize = text["shape"].as_array().unwrap()[1..].iter().map(number).product();
    let at = 8 + length + number(&text["data_offsets"][0]) + 7 * width * 4;
    for value in [1e20_f32, 1e10] {
        let mut other = bytes.clone();
        other[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(place().at("huge.safetensors"), other).unwrap();
        let shown = place().ok("inspect huge.safetensors");
        let said = ["train.text: 1 of 32 features (0)", "in row 7 of feature 0"];
        assert!(said.iter().all(|words| shown.contains(words)), "{shown}");
        let _ = fs::remove_dir_all(place().at("huge"));
        let ran = place().run("train --data huge.safetensors --out huge --max-epochs 1");
        assert!(ran.err.contains("train.text, row 7"), "{}", ran.err);
        if value > 1e18 {
            assert_eq!(ran.code, Some(1), "{}", ran.err);
            assert!(ran.err.contains("overflows in the first step"), "{}", ran.err);
            assert!(!place().at("huge").exists());
        } else {
            assert!(ran.err.contains("may diverge by that row alone"), "{}", ran.err);
        }
    }
}
