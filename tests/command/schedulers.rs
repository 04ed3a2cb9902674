//! The example scripts for schedulers: what their parts come to together is what one machine comes to. Each is
//! tried where its scheduler is: Slurm where a node of it takes jobs, HyperQueue where its program is in PATH.
#![cfg(unix)]

use crate::experiment::models;
use crate::ran::{Place, Ran, SMALL};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Two cells of three seeds, so that three parts have runs of both.
const GRID: &str = "data = 'small.safetensors'\nseeds = 3\n[set]\n'train.max_epochs' = 4\n\
                    [grid]\n'align.weight' = [0, 1]\n";

/// A folder with the data, the plan, and what one call makes of it.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Place::fresh("schedulers");
        place.ok(SMALL);
        fs::write(place.at("grid.toml"), GRID).unwrap();
        place.ok("experiment grid.toml --out whole --quiet");
        place
    })
}

/// A script of the examples on that plan, in three parts.
fn script(name: &str, out: &str) -> Command {
    let plain = place().command("");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let mut command = Command::new("sh");
    command.arg(path).args(["grid.toml", "--out", out, "--quiet"]).current_dir(place().root());
    command.env("MODALIGN", plain.get_program()).env("PARTS", "3").env_remove("SUBMIT");
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a script for ten minutes: a queue may be long.
fn ended(mut child: Child, give_up: impl FnOnce()) -> Ran {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(600) {
            give_up();
            let _ = child.kill();
            panic!("not done after ten minutes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().unwrap().into()
}

/// What a folder's results are, but for the seconds that runs took, and the digest of a file with those.
fn results(folder: &str) -> Value {
    let text = fs::read_to_string(place().at(folder).join("results.json")).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all.as_object_mut().unwrap().remove("sha256");
    for cell in all["cells"].as_array_mut().unwrap() {
        for run in cell["runs"].as_array_mut().unwrap() {
            run["seconds"] = 0.into();
        }
    }
    all
}

/// Tables and models are to the byte those of one call.
fn is_the_whole(folder: &str) {
    for name in ["results.csv", "runs.csv", "results.md", "results.tex", "plan.toml"] {
        let of = |folder: &str| fs::read(place().at(folder).join(name)).unwrap();
        assert!(of(folder) == of("whole"), "another {folder}/{name}");
    }
    assert_eq!(results(folder), results("whole"));
    assert_eq!(models(place(), folder).len(), 6);
    assert!(models(place(), folder) == models(place(), "whole"), "other models in {folder}");
}

#[test]
fn an_array_job_of_slurm_comes_to_the_whole() {
    // A cluster that answers, with a node that takes jobs.
    let nodes =
        Command::new("sinfo").args(["-h", "-t", "idle,mixed,allocated", "-o", "%n"]).output();
    if !nodes.is_ok_and(|nodes| nodes.status.success() && !nodes.stdout.is_empty()) {
        return println!("skipped: there is no cluster of Slurm");
    }
    let name = format!("modalign-test-{}", std::process::id());
    let mut command = script("slurm.sh", "slurm");
    let child = command.env("SBATCH_WAIT", "1").env("SBATCH_JOB_NAME", &name).spawn().unwrap();
    let ran = ended(child, || {
        let _ = Command::new("scancel").arg(format!("--name={name}")).status();
    });
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    is_the_whole("slurm");
}

/// A server of HyperQueue with one worker; both end with it.
struct Queue {
    folder: PathBuf,
    children: Vec<Child>,
}

impl Queue {
    fn start() -> Self {
        let folder = place().at("hq-server");
        let mut queue = Queue { folder, children: Vec::new() };
        queue.spawn(&["server", "start"]);
        let began = Instant::now();
        while !queue.hq(&["server", "info"]).output().is_ok_and(|ran| ran.status.success()) {
            assert!(began.elapsed() < Duration::from_secs(60), "no server after a minute");
            std::thread::sleep(Duration::from_millis(100));
        }
        queue.spawn(&["worker", "start", "--cpus=3"]);
        queue
    }

    fn hq(&self, words: &[&str]) -> Command {
        let mut command = Command::new("hq");
        command.args(words).env("HQ_SERVER_DIR", &self.folder).current_dir(place().root());
        command
    }

    fn spawn(&mut self, words: &[&str]) {
        let mut command = self.hq(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Tasks have the environment of their worker.
        command
            .envs(place().command("").get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.children.push(command.spawn().unwrap());
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = self.hq(&["server", "stop"]).output();
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The process that trains a run of an experiment; none where none is at it.
fn trains(folder: &str) -> Option<u32> {
    for cell in fs::read_dir(place().at(folder).join("runs")).ok()?.flatten() {
        for run in fs::read_dir(cell.path()).ok()?.flatten() {
            let own = fs::read_to_string(run.path().join(".lock")).ok();
            let begun = run.path().join("epochs.jsonl").exists();
            if let Some(process) = own.filter(|_| begun).and_then(|text| text.trim().parse().ok()) {
                return Some(process);
            }
        }
    }
    None
}

#[test]
fn a_task_array_of_hyperqueue_comes_to_the_whole_also_after_a_kill() {
    if !Command::new("hq").arg("--version").output().is_ok_and(|ran| ran.status.success()) {
        return println!("skipped: there is no HyperQueue (hq)");
    }
    let queue = Queue::start();
    let mut command = script("hyperqueue.sh", "hyperqueue");
    let mut child = command.env("HQ_SERVER_DIR", &queue.folder).spawn().unwrap();
    let mut killed = None;
    while killed.is_none() && child.try_wait().unwrap().is_none() {
        killed = trains("hyperqueue");
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Some(process) = killed {
        let _ = Command::new("kill").args(["-9", &process.to_string()]).status();
    }
    let ran = ended(child, || ());
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let submitted = ran.err.lines().filter(|line| line.contains(" are job ")).count();
    println!("killed {killed:?}, submitted {submitted} times");
    assert!(submitted > 0, "{}", ran.err);
    is_the_whole("hyperqueue");
}
