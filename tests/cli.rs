//! The built command, from outside: what it prints, how it fails, what it leaves on disk.
#![cfg(feature = "cli")]

mod ran;

use ran::{Ran, fails};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A folder for all tests of this run.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    })
}

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modalign"));
    command.args(line.split_whitespace()).current_dir(root());
    // Not the caller's cache and log settings.
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.env_remove("RUST_LOG");
    command
}

fn run(line: &str) -> Ran {
    command(line).output().unwrap().into()
}

/// Runs a command that must succeed, and gives its stdout.
fn ok(line: &str) -> String {
    let ran = run(line);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
    ran.out
}

fn json(line: &str) -> Value {
    let out = ok(line);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{line}: {e}: {out}"))
}

/// A small data set that every test may read.
fn data() -> &'static str {
    static DATA: OnceLock<()> = OnceLock::new();
    DATA.get_or_init(|| {
        ok("synth --out small.safetensors --train 128 --valid 32 --test 40 \
            --audio steps=6,min_steps=2 --vision steps=5,min_steps=2");
    });
    "small.safetensors"
}

/// A run of two epochs on it that every test may read.
fn trained() -> &'static str {
    static RUN: OnceLock<()> = OnceLock::new();
    RUN.get_or_init(|| {
        ok(&format!("train --data {} --out trained --max-epochs 2 --quiet", data()));
    });
    "trained"
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The data set's bytes with the header changed by `edit`, which keeps its length.
fn tampered(name: &str, edit: impl FnOnce(&mut Vec<u8>, usize, &Value)) {
    let mut bytes = std::fs::read(root().join(data())).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut bytes, 8 + length, &header);
    std::fs::write(root().join(name), bytes).unwrap();
}

#[test]
fn help_teaches_and_usage_errors_are_one_line() {
    let help = ok("--help");
    assert!(help.contains("modalign demo") && help.contains("WGPU_ADAPTER_NAME"));
    for verb in ["devices", "synth", "train", "eval", "predict", "inspect", "demo", "bench"] {
        assert!(ok(&format!("{verb} --help")).len() > 400, "{verb}");
    }
    assert!(ok("--version").contains(env!("CARGO_PKG_VERSION")));
    fails(run("trian"), 2, &["'train'"]);
    fails(run("train"), 2, &["--data"]);
    fails(run("train --resume x --seed 3"), 2, &["--seed"]);
    fails(run("eval --model x --split best"), 2, &["train, valid or test"]);
}

#[test]
fn an_adapter_that_is_not_there() {
    let mut missing = command(&format!("train --data {} --out none", data()));
    fails(missing.env("WGPU_ADAPTER_NAME", "nonesuch").output().unwrap().into(), 1, &["nonesuch"]);
    fails(run("devices --adapter nonesuch"), 1, &["no GPU adapter"]);
    let mut none = command("devices");
    let backend = if cfg!(target_os = "linux") { "dx12" } else { "vulkan" };
    fails(none.env("WGPU_BACKEND", backend).output().unwrap().into(), 1, &["WGPU_BACKEND"]);
    assert!(!root().join("none").exists());
    let all = json("devices --json");
    assert!(all["adapters"].as_array().unwrap().iter().any(|a| a["chosen"] == true));
}

#[test]
fn bad_data_files() {
    let train = |file: &str| run(&format!("train --data {file} --out bad --max-epochs 1"));
    fails(train("missing.safetensors"), 1, &["missing.safetensors"]);
    std::fs::write(root().join("empty.safetensors"), b"").unwrap();
    fails(train("empty.safetensors"), 1, &["empty.safetensors"]);
    std::fs::write(root().join("text.safetensors"), b"id,score\n1,2\n").unwrap();
    fails(train("text.safetensors"), 1, &["text.safetensors"]);

    tampered("short.safetensors", |bytes, _, _| bytes.truncate(bytes.len() / 2));
    fails(train("short.safetensors"), 1, &["short.safetensors"]);
    fails(run("inspect short.safetensors"), 1, &["short.safetensors"]);

    tampered("dtype.safetensors", |bytes, at, _| {
        let header = String::from_utf8(bytes[8..at].to_vec()).unwrap();
        let from = header.find("\"train.audio\":").unwrap();
        let dtype = from + header[from..].find("F32").unwrap();
        bytes[8 + dtype..8 + dtype + 3].copy_from_slice(b"I32");
    });
    fails(train("dtype.safetensors"), 1, &["dtype.safetensors", "train.audio", "I32"]);

    tampered("nan.safetensors", |bytes, at, header| {
        let tensor = &header["train.audio"];
        let start = tensor["data_offsets"][0].as_u64().unwrap() as usize;
        let row = 4 * tensor["shape"][1].as_u64().unwrap() * tensor["shape"][2].as_u64().unwrap();
        let at = at + start + 7 * row as usize;
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    fails(train("nan.safetensors"), 1, &["nan.safetensors", "audio", "row 7"]);
    assert!(!root().join("bad").exists());
}

#[test]
fn bad_configurations() {
    let train = |more: &str| run(&format!("train --data {} --out wrong {more}", data()));
    fails(train("--set train.batchsize=8"), 2, &["train.batchsize", "train.batch_size"]);
    fails(train("--set train.batch_size=many"), 2, &["train.batch_size"]);
    fails(train("--set train.batch_size"), 2, &["section.key=value"]);
    fails(train("--preset simsv3"), 2, &["simsv3", "simsv2"]);
    fails(train("--config nowhere.toml"), 1, &["nowhere.toml"]);
    std::fs::write(root().join("a.toml"), "preset = \"sims\"\n[train]\nsead = 1\n").unwrap();
    fails(train("--config a.toml"), 2, &["train.sead", "train.seed"]);
    std::fs::write(root().join("b.toml"), "preset = \"sims\"\n").unwrap();
    fails(train("--config b.toml --preset mosi"), 2, &["mosi", "sims"]);
    fails(run("synth --out x.safetensors --audio tempo=3"), 2, &["tempo"]);
    fails(run("synth --out x.safetensors --train 0 --valid 0 --test 0"), 2, &["rows"]);
    assert!(!root().join("wrong").exists() && !root().join("x.safetensors").exists());
    assert!(ok("inspect --keys --preset sims").contains("align.weight.ta"));
}

#[test]
fn a_folder_in_use() {
    let before = std::fs::read(root().join(trained()).join("model.safetensors")).unwrap();
    fails(
        run(&format!("train --data {} --out {}", data(), trained())),
        2,
        &["already", "--resume"],
    );
    let after = std::fs::read(root().join(trained()).join("model.safetensors")).unwrap();
    assert!(before == after);
    fails(run("train --resume nowhere"), 1, &["nowhere"]);
}

#[test]
fn a_checkpoint_of_another_architecture() {
    ok("synth --out wide.safetensors --train 32 --valid 0 --test 16 --audio dim=5,steps=4 \
        --vision steps=4");
    fails(run(&format!("eval --model {} --data wide.safetensors", trained())), 1, &["audio", "5"]);
    ok("synth --out two.safetensors --modalities text,audio --train 32 --valid 0 --test 16 \
        --audio steps=4");
    fails(run(&format!("predict --model {} --data two.safetensors", trained())), 1, &["vision"]);

    let init = format!(
        "train --data {} --init {}/model.safetensors --out other --set model.hidden.audio=8",
        data(),
        trained()
    );
    fails(run(&init), 1, &["model.safetensors", "audio_model"]);
    assert!(!root().join("other").exists());
    // Weights without a card can be begun with, not evaluated.
    fails(run("eval --model two.safetensors --data two.safetensors"), 1, &["two.safetensors"]);
    fails(run("eval --model missing --data two.safetensors"), 1, &["missing"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let inside = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_modalign")).arg(data()).current_dir(root());
        shell.env("XDG_CACHE_HOME", root().join("cache"));
        shell.output()
    };
    std::fs::create_dir_all(root().join("disk")).unwrap();
    // The mount is seen by this shell alone and goes with it.
    let mount = "mount -t tmpfs -o size=300k none disk";
    if !inside(mount).is_ok_and(|o| o.status.success()) {
        println!("skipped: no small disk can be mounted here (it takes unshare and its rights)");
        return;
    }
    // It holds the model and not the state.
    let train = "\"$1\" train --data \"$2\" --out disk/run --max-epochs 1 --quiet";
    let find = "find disk -type f >left.txt";
    let output = inside(&format!("{mount} && {train}; code=$?; {find}; exit $code")).unwrap();
    fails(output.into(), 1, &["disk/run/state/state.safetensors", "No space left"]);
    let left = std::fs::read_to_string(root().join("left.txt")).unwrap();
    assert!(left.contains("disk/run/config.toml"), "{left}");
    assert!(!left.contains("tmp") && !left.contains("state.safetensors"), "{left}");
    // With room again the run goes on.
    let grow = "mount -o remount,size=20m disk && \"$1\" train --resume disk/run --quiet";
    let ran: Ran = inside(&format!("{mount} && {{ {train}; {grow}; }}")).unwrap().into();
    assert!(ran.code == Some(0) && ran.out.contains("test"), "{} {}", ran.out, ran.err);
}

#[test]
fn a_batch_too_large_for_the_adapter() {
    let devices = json("devices --json");
    let chosen = devices["adapters"].as_array().unwrap().iter().find(|a| a["chosen"] == true);
    let limit = chosen.unwrap()["max_binding_mib"].as_u64().unwrap();
    if limit > 190 {
        println!("skipped: bindings of {limit} MiB hold any batch of this test's data");
        return;
    }
    ok("synth --out long.safetensors --modalities audio --train 256 --valid 0 --test 0 \
        --audio steps=200");
    let shape = "--set model.hidden.audio=256 --set train.accumulate=1";
    let line = format!("train --data long.safetensors --out long {shape}");
    let ran = run(&format!("{line} --set train.batch_size=256"));
    let largest = ran.err.split("train.batch_size=").nth(1).unwrap_or("");
    let largest: usize = largest.trim_end_matches([')', '\n']).parse().unwrap_or(0);
    fails(ran, 1, &["a batch of 256", "largest batch that fits"]);
    assert!(!root().join("long").exists());
    // It is the largest indeed.
    assert!(largest > 0 && largest < 256, "{largest}");
    let plan = |batch: usize| {
        run(&format!(
            "inspect long.safetensors --plan --quiet {shape} --set train.batch_size={batch}"
        ))
    };
    assert_eq!(plan(largest).code, Some(0));
    fails(plan(largest + 1), 1, &["largest batch that fits"]);
}

#[test]
fn from_data_to_predictions() {
    let wrote = [
        "config.toml",
        "curves.svg",
        "epochs.jsonl",
        "labels.jsonl",
        "labels.safetensors",
        "last.safetensors",
        "metrics.json",
        "model.safetensors",
        "run.json",
        "state",
        "steps.jsonl",
    ];
    assert_eq!(names(&root().join(trained())), wrote);

    let eval = json(&format!("eval --model {} --json", trained()));
    let metrics: Value = serde_json::from_slice(
        &std::fs::read(root().join(trained()).join("metrics.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(eval["metrics"]["fused"]["MAE"], metrics["test"]["MAE"]);
    assert!(eval["metrics"]["vision"]["Corr"].is_number());
    let table = ok(&format!("eval --model {0} --data {1} --split valid", trained(), data()));
    assert!(table.contains("MAE") && table.contains("audio") && !table.contains('\x1b'));

    let predict = format!("predict --model {} --data {}", trained(), data());
    let csv = ok(&format!("{predict} --format csv"));
    assert_eq!(csv.lines().count(), 41);
    assert_eq!(csv.lines().next().unwrap(), "id,score,class,class7,text,audio,vision,label");
    assert!(csv.lines().nth(1).unwrap().starts_with("synth-test-0,"));
    let first: Value =
        serde_json::from_str(ok(&format!("{predict} --format jsonl")).lines().next().unwrap())
            .unwrap();
    assert!(first["score"].is_number() && first["class"].is_string());
    let ran = run(&format!("{predict} --split train --out scores.jsonl --quiet"));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
    let lines = std::fs::read_to_string(root().join("scores.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 128);

    assert!(ok(&format!("inspect {}", trained())).contains("best epoch"));
    assert!(ok(&format!("inspect {}", data())).contains("Known factors"));
    let model = json(&format!("inspect {}/model.safetensors --json", trained()));
    assert!(model["tensors"]["post_fusion_layer_1.weight"].is_array());
    let plan = json(&format!("inspect {} --plan --json", trained()));
    let dispatches = plan["dispatches"].as_array().unwrap();
    assert!(dispatches.len() > 20 && dispatches[0]["tensors"][0]["shape"].is_array());
    assert!(json(&format!("inspect {} --json", data()))["splits"]["test"]["rows"] == 40);
}

#[test]
fn data_without_labels_can_be_predicted_and_not_evaluated() {
    trained();
    // Renamed in place, the fields are of no use to anyone.
    tampered("bare.safetensors", |bytes, at, _| {
        let header = String::from_utf8(bytes[8..at].to_vec()).unwrap();
        bytes[8..at].copy_from_slice(header.replace("regression", "unexpected").as_bytes());
    });
    let bare = format!("--model {} --data bare.safetensors", trained());
    let csv = ok(&format!("predict {bare} --format csv"));
    assert_eq!(csv.lines().next().unwrap(), "id,score,class,class7,text,audio,vision");
    // Ids come from the file beside the data, which this one has not.
    assert!(csv.lines().nth(1).unwrap().starts_with("test-0,"), "{csv}");
    fails(run(&format!("eval {bare}")), 1, &["bare.safetensors", "test.regression_labels"]);
    fails(run("train --data bare.safetensors --out bare"), 1, &["train.regression_labels"]);
}

#[test]
fn quiet_is_silent_and_json_is_one_object() {
    let line = format!("train --data {} --max-epochs 1 --json", data());
    let ran = run(&format!("{line} --quiet"));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(object["test"]["MAE"].is_number());
    assert_eq!(object["run"], "runs/small-mosi-1111");
    // The same again takes the next name, and tells of its progress on stderr only.
    let ran = run(&line);
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(object["run"], "runs/small-mosi-1111-2");
    assert!(ran.err.contains("epoch   1/1") && !ran.err.contains('\r'), "{}", ran.err);
    let curves = std::fs::read_to_string(root().join("runs/small-mosi-1111-2/curves.svg")).unwrap();
    assert!(curves.trim_end().ends_with("</svg>"));
}

#[cfg(target_os = "linux")]
#[test]
fn devices_take_output_and_stay_devices() {
    let predict = format!("predict --model {} --data {} --quiet", trained(), data());
    assert!(ok(&format!("{predict} --format csv --out /dev/stdout")).starts_with("id,score,"));
    fails(run(&format!("{predict} --out /dev/full")), 1, &["/dev/full", "No space left"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&predict).stdout(full).stderr(Stdio::piped()).output().unwrap();
    fails(output.into(), 1, &["standard output", "No space left"]);
}

#[test]
fn a_reader_that_goes_away() {
    let line = format!("predict --model {} --data {} --split train --quiet", trained(), data());
    let mut child = command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let line = |out: &str| format!("train --data {} --out {out} --max-epochs 10 --quiet", data());
    ok(&line("whole"));
    let mut child = command(&line("killed")).spawn().unwrap();
    let state = root().join("killed/state/state.safetensors");
    let began = Instant::now();
    while !state.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no state after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!root().join("killed/metrics.json").exists(), "the run ended before it was killed");
    // As when the kill falls into the writing of a line.
    let steps = root().join("killed/steps.jsonl");
    let mut text = std::fs::read_to_string(&steps).unwrap();
    text.push_str("{\"epoch\":2,\"ba");
    std::fs::write(&steps, text).unwrap();

    ok("train --resume killed --quiet");
    for name in ["last.safetensors", "model.safetensors", "labels.safetensors", "steps.jsonl"] {
        let read = |run: &str| std::fs::read(root().join(run).join(name)).unwrap();
        assert!(read("whole") == read("killed"), "{name} differs");
    }
    // A finished run can be given more epochs.
    ok("train --resume killed --max-epochs 11 --quiet");
    assert!(!names(&root().join("killed")).iter().any(|n| n.contains("tmp")));
}
