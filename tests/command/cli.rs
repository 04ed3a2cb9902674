//! The built command, from outside: what it prints, how it fails, what it leaves on disk.

use crate::ran;
use ran::{Place, Ran, SMALL, fails};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A folder for all tests of this run.
fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| Place::fresh("cli"))
}

/// A small data set that every test may read.
fn data() -> &'static str {
    static DATA: OnceLock<()> = OnceLock::new();
    DATA.get_or_init(|| {
        place().ok(SMALL);
    });
    "small.safetensors"
}

/// A run of two epochs on it that every test may read.
fn trained() -> &'static str {
    static RUN: OnceLock<()> = OnceLock::new();
    RUN.get_or_init(|| {
        place().ok(&format!("train --data {} --out trained --max-epochs 2 --quiet", data()));
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
    let mut bytes = std::fs::read(place().at(data())).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut bytes, 8 + length, &header);
    std::fs::write(place().at(name), bytes).unwrap();
}

#[test]
fn help_teaches_and_usage_errors_are_one_line() {
    let help = place().ok("--help");
    assert!(help.contains("modalign demo") && help.contains("WGPU_ADAPTER_NAME"));
    for verb in ["devices", "synth", "train", "eval", "predict", "inspect", "demo", "bench"] {
        assert!(place().ok(&format!("{verb} --help")).len() > 400, "{verb}");
    }
    assert!(place().ok("--version").contains(env!("CARGO_PKG_VERSION")));
    fails(place().run("trian"), 2, &["'train'"]);
    fails(place().run("train"), 2, &["--data"]);
    fails(place().run("train --resume x --seed 3"), 2, &["--seed"]);
    fails(place().run("eval --model x --split best"), 2, &["train, valid or test"]);
}

#[test]
fn an_adapter_that_is_not_there() {
    let mut missing = place().command(&format!("train --data {} --out none", data()));
    fails(missing.env("WGPU_ADAPTER_NAME", "nonesuch").output().unwrap().into(), 1, &["nonesuch"]);
    fails(place().run("devices --adapter nonesuch"), 1, &["no GPU adapter"]);
    let mut none = place().command("devices");
    let backend = if cfg!(target_os = "linux") { "dx12" } else { "vulkan" };
    fails(none.env("WGPU_BACKEND", backend).output().unwrap().into(), 1, &["WGPU_BACKEND"]);
    assert!(!place().at("none").exists());
    let all = place().json("devices --json");
    assert!(all["adapters"].as_array().unwrap().iter().any(|a| a["chosen"] == true));
}

#[test]
fn bad_data_files() {
    let train = |file: &str| place().run(&format!("train --data {file} --out bad --max-epochs 1"));
    fails(train("missing.safetensors"), 1, &["missing.safetensors"]);
    std::fs::write(place().at("empty.safetensors"), b"").unwrap();
    fails(train("empty.safetensors"), 1, &["empty.safetensors"]);
    std::fs::write(place().at("text.safetensors"), b"id,score\n1,2\n").unwrap();
    fails(train("text.safetensors"), 1, &["text.safetensors"]);

    tampered("short.safetensors", |bytes, _, _| bytes.truncate(bytes.len() / 2));
    fails(train("short.safetensors"), 1, &["short.safetensors"]);
    fails(place().run("inspect short.safetensors"), 1, &["short.safetensors"]);

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
    assert!(!place().at("bad").exists());
}

#[test]
fn bad_configurations() {
    let train = |more: &str| place().run(&format!("train --data {} --out wrong {more}", data()));
    fails(train("--set train.batchsize=8"), 2, &["train.batchsize", "train.batch_size"]);
    fails(train("--set train.batch_size=many"), 2, &["train.batch_size"]);
    fails(train("--set train.batch_size"), 2, &["section.key=value"]);
    fails(train("--preset simsv3"), 2, &["simsv3", "simsv2"]);
    fails(train("--config nowhere.toml"), 1, &["nowhere.toml"]);
    std::fs::write(place().at("a.toml"), "preset = \"sims\"\n[train]\nsead = 1\n").unwrap();
    fails(train("--config a.toml"), 2, &["train.sead", "train.seed"]);
    std::fs::write(place().at("b.toml"), "preset = \"sims\"\n").unwrap();
    fails(train("--config b.toml --preset mosi"), 2, &["mosi", "sims"]);
    fails(place().run("synth --out x.safetensors --audio tempo=3"), 2, &["tempo"]);
    fails(place().run("synth --out x.safetensors --train 0 --valid 0 --test 0"), 2, &["rows"]);
    assert!(!place().at("wrong").exists() && !place().at("x.safetensors").exists());
    assert!(place().ok("inspect --keys --preset sims").contains("align.weight.ta"));
}

#[test]
fn a_folder_in_use() {
    let before = std::fs::read(place().at(trained()).join("model.safetensors")).unwrap();
    fails(
        place().run(&format!("train --data {} --out {}", data(), trained())),
        2,
        &["already", "--resume"],
    );
    let after = std::fs::read(place().at(trained()).join("model.safetensors")).unwrap();
    assert!(before == after);
    fails(place().run("train --resume nowhere"), 1, &["nowhere"]);
}

#[test]
fn a_checkpoint_of_another_architecture() {
    place()
        .ok("synth --out wide.safetensors --train 32 --valid 0 --test 16 --audio dim=5,steps=4 \
        --vision steps=4");
    fails(
        place().run(&format!("eval --model {} --data wide.safetensors", trained())),
        1,
        &["audio", "5"],
    );
    place()
        .ok("synth --out two.safetensors --modalities text,audio --train 32 --valid 0 --test 16 \
        --audio steps=4");
    // What is not there at all is stood in for, and said.
    let ran = place().run(&format!("predict --model {} --data two.safetensors", trained()));
    assert!(ran.code == Some(0) && ran.out.contains("synth-test-15"), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("note: two.safetensors has no vision"), "{}", ran.err);

    let init = format!(
        "train --data {} --init {}/model.safetensors --out other --set model.hidden.audio=8",
        data(),
        trained()
    );
    fails(place().run(&init), 1, &["model.safetensors", "audio_model"]);
    assert!(!place().at("other").exists());
    // Weights without a card can be begun with, not evaluated.
    fails(
        place().run("eval --model two.safetensors --data two.safetensors"),
        1,
        &["two.safetensors"],
    );
    fails(place().run("eval --model missing --data two.safetensors"), 1, &["missing"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let inside = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        shell.arg(env!("CARGO_BIN_EXE_modalign")).arg(data()).current_dir(place().root());
        shell.env("XDG_CACHE_HOME", place().at("cache"));
        shell.output()
    };
    std::fs::create_dir_all(place().at("disk")).unwrap();
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
    let left = std::fs::read_to_string(place().at("left.txt")).unwrap();
    assert!(left.contains("disk/run/config.toml"), "{left}");
    assert!(!left.contains("tmp") && !left.contains("state.safetensors"), "{left}");
    // With room again the run goes on.
    let grow = "mount -o remount,size=20m disk && \"$1\" train --resume disk/run --quiet";
    let ran: Ran = inside(&format!("{mount} && {{ {train}; {grow}; }}")).unwrap().into();
    assert!(ran.code == Some(0) && ran.out.contains("test"), "{} {}", ran.out, ran.err);
}

#[test]
fn a_batch_too_large_for_the_adapter() {
    let devices = place().json("devices --json");
    let chosen = devices["adapters"].as_array().unwrap().iter().find(|a| a["chosen"] == true);
    let limit = chosen.unwrap()["max_binding_mib"].as_u64().unwrap();
    if limit > 190 {
        println!("skipped: bindings of {limit} MiB hold any batch of this test's data");
        return;
    }
    place().ok("synth --out long.safetensors --modalities audio --train 256 --valid 0 --test 0 \
        --audio steps=200");
    let shape = "--set model.hidden.audio=256 --set train.accumulate=1";
    let line = format!("train --data long.safetensors --out long {shape}");
    let ran = place().run(&format!("{line} --set train.batch_size=256"));
    let largest = ran.err.split("train.batch_size=").nth(1).unwrap_or("");
    let largest: usize = largest.trim_end_matches([')', '\n']).parse().unwrap_or(0);
    fails(ran, 1, &["a batch of 256", "largest batch that fits"]);
    assert!(!place().at("long").exists());
    // It is the largest indeed.
    assert!(largest > 0 && largest < 256, "{largest}");
    let plan = |batch: usize| {
        place().run(&format!(
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
    assert_eq!(names(&place().at(trained())), wrote);

    let eval = place().json(&format!("eval --model {} --json", trained()));
    let metrics: Value =
        serde_json::from_slice(&std::fs::read(place().at(trained()).join("metrics.json")).unwrap())
            .unwrap();
    assert_eq!(eval["metrics"]["fused"]["MAE"], metrics["test"]["MAE"]);
    assert!(eval["metrics"]["vision"]["Corr"].is_number());
    let table =
        place().ok(&format!("eval --model {0} --data {1} --split valid", trained(), data()));
    assert!(table.contains("MAE") && table.contains("audio") && !table.contains('\x1b'));

    let predict = format!("predict --model {} --data {}", trained(), data());
    let csv = place().ok(&format!("{predict} --format csv"));
    assert_eq!(csv.lines().count(), 41);
    assert_eq!(csv.lines().next().unwrap(), "id,score,class,class7,text,audio,vision,label");
    assert!(csv.lines().nth(1).unwrap().starts_with("synth-test-0,"));
    let first: Value = serde_json::from_str(
        place().ok(&format!("{predict} --format jsonl")).lines().next().unwrap(),
    )
    .unwrap();
    assert!(first["score"].is_number() && first["class"].is_string());
    let ran = place().run(&format!("{predict} --split train --out scores.jsonl --quiet"));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
    let lines = std::fs::read_to_string(place().at("scores.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 128);

    assert!(place().ok(&format!("inspect {}", trained())).contains("best epoch"));
    assert!(place().ok(&format!("inspect {}", data())).contains("Known factors"));
    let model = place().json(&format!("inspect {}/model.safetensors --json", trained()));
    assert!(model["tensors"]["post_fusion_layer_1.weight"].is_array());
    let plan = place().json(&format!("inspect {} --plan --json", trained()));
    let dispatches = plan["dispatches"].as_array().unwrap();
    assert!(dispatches.len() > 20 && dispatches[0]["tensors"][0]["shape"].is_array());
    assert!(place().json(&format!("inspect {} --json", data()))["splits"]["test"]["rows"] == 40);
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
    let csv = place().ok(&format!("predict {bare} --format csv"));
    assert_eq!(csv.lines().next().unwrap(), "id,score,class,class7,text,audio,vision");
    // Ids come from the file beside the data, which this one has not.
    assert!(csv.lines().nth(1).unwrap().starts_with("test-0,"), "{csv}");
    fails(place().run(&format!("eval {bare}")), 1, &["bare.safetensors", "test.regression_labels"]);
    fails(place().run("train --data bare.safetensors --out bare"), 1, &["train.regression_labels"]);
}

#[test]
fn quiet_is_silent_and_json_is_one_object() {
    let line = format!("train --data {} --max-epochs 1 --json", data());
    let ran = place().run(&format!("{line} --quiet"));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(object["test"]["MAE"].is_number());
    assert_eq!(object["run"], "runs/small-mosi-1111");
    // The same again takes the next name, and tells of its progress on stderr only.
    let ran = place().run(&line);
    let object: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(object["run"], "runs/small-mosi-1111-2");
    assert!(ran.err.contains("epoch   1/1") && !ran.err.contains('\r'), "{}", ran.err);
    let curves = std::fs::read_to_string(place().at("runs/small-mosi-1111-2/curves.svg")).unwrap();
    assert!(curves.trim_end().ends_with("</svg>"));
}

#[cfg(target_os = "linux")]
#[test]
fn devices_take_output_and_stay_devices() {
    let predict = format!("predict --model {} --data {} --quiet", trained(), data());
    assert!(
        place().ok(&format!("{predict} --format csv --out /dev/stdout")).starts_with("id,score,")
    );
    fails(place().run(&format!("{predict} --out /dev/full")), 1, &["/dev/full", "No space left"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place().command(&predict).stdout(full).stderr(Stdio::piped()).output().unwrap();
    fails(output.into(), 1, &["standard output", "No space left"]);
}

#[test]
fn a_reader_that_goes_away() {
    let line = format!("predict --model {} --data {} --split train --quiet", trained(), data());
    let mut child =
        place().command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let line = |out: &str| format!("train --data {} --out {out} --max-epochs 10 --quiet", data());
    place().ok(&line("whole"));
    let mut child = place().command(&line("killed")).spawn().unwrap();
    let state = place().at("killed/state/state.safetensors");
    let began = Instant::now();
    while !state.exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no state after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place().at("killed/metrics.json").exists(), "the run ended before it was killed");
    // As when the kill falls into the writing of a line.
    let steps = place().at("killed/steps.jsonl");
    let mut text = std::fs::read_to_string(&steps).unwrap();
    text.push_str("{\"epoch\":2,\"ba");
    std::fs::write(&steps, text).unwrap();

    place().ok("train --resume killed --quiet");
    for name in ["last.safetensors", "model.safetensors", "labels.safetensors", "steps.jsonl"] {
        let read = |run: &str| std::fs::read(place().at(run).join(name)).unwrap();
        assert!(read("whole") == read("killed"), "{name} differs");
    }
    // A finished run can be given more epochs.
    place().ok("train --resume killed --max-epochs 11 --quiet");
    assert!(!names(&place().at("killed")).iter().any(|n| n.contains("tmp")));
}

/// A copy of a data set with one training row's text set to `value`.
fn with_a_row_of(value: f32, from: &str, name: &str) {
    let mut bytes = std::fs::read(place().at(from)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let text = &header["train.text"];
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    let width: usize = text["shape"].as_array().unwrap()[1..].iter().map(number).product();
    let at = 8 + length + number(&text["data_offsets"][0]) + 5 * width * 4;
    bytes[at..at + width * 4]
        .chunks_exact_mut(4)
        .for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
    std::fs::write(place().at(name), bytes).unwrap();
}

#[test]
fn a_training_that_diverges_ends_in_its_first_epoch() {
    place().ok("synth --out play.safetensors");
    place().ok("synth --out unvalidated.safetensors --valid 0");
    with_a_row_of(1e10, "play.safetensors", "huge.safetensors");
    for (name, settings) in
        [("play", "--set train.lr=1e6"), ("unvalidated", "--set train.lr=1e6"), ("huge", "")]
    {
        let out = format!("diverged-{name}");
        let line = format!("train --data {name}.safetensors --out {out} --max-epochs 3 --quiet");
        let ran = place().run(&format!("{line} {settings}"));
        fails(ran, 1, &["diverged in epoch 1, batch ", " is not finite ", "train.lr"]);
        // Nothing is the best of it, and nothing says that it ended.
        assert_eq!(names(&place().at(&out)), ["config.toml", "run.json", "state", "steps.jsonl"]);
        assert!(names(&place().at(&out).join("state")).is_empty());
        // The log ends with the batch that is to blame.
        let steps = std::fs::read_to_string(place().at(&out).join("steps.jsonl")).unwrap();
        let lines: Vec<Value> = steps.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let (last, before) = lines.split_last().unwrap();
        assert!(last.as_object().unwrap().values().any(Value::is_null), "{last}");
        assert!(before.iter().all(|l| l.as_object().unwrap().values().all(Value::is_number)));
    }
}

#[test]
fn nothing_in_a_folder_is_written_over() {
    std::fs::create_dir_all(place().at("encoder")).unwrap();
    let files = ["config.json", "labels.safetensors", "model.safetensors"];
    files.iter().for_each(|f| std::fs::write(place().at("encoder").join(f), f).unwrap());
    let line = format!("train --data {} --max-epochs 1 --quiet", data());
    for made in [format!("{line} --out encoder"), "demo --keep encoder --quiet".into()] {
        fails(place().run(&made), 2, &["encoder", "not empty", "config.json", "new or empty"]);
    }
    fails(place().run(&format!("{line} --out encoder/config.json")), 2, &["is a file"]);
    assert_eq!(names(&place().at("encoder")), files);
    for file in files {
        assert_eq!(std::fs::read_to_string(place().at("encoder").join(file)).unwrap(), file);
    }
    fails(place().run(&format!("{line} --out {}", trained())), 2, &["--resume"]);
    // An empty one is as good as none; what a kill left of a run that was just beginning is, too.
    std::fs::create_dir(place().at("empty")).unwrap();
    place().ok(&format!("{line} --out empty"));
    std::fs::create_dir(place().at("begun")).unwrap();
    std::fs::copy(place().at("empty/run.json"), place().at("begun/run.json")).unwrap();
    place().ok(&format!("{line} --out begun"));
    assert!(place().at("begun/metrics.json").exists());
}
