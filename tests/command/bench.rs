//! The measuring suite: its roofline from inside, and `modalign bench` from outside.

use crate::{common, ran};
use common::gpu;
use modalign::Tape;
use modalign::bench::Roofline;
use modalign::ops::{KERNELS, find};
use modalign::plan::{Clock, Program, Spaces};
use ran::{Ran, fails};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn run(args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_modalign"));
    command.args(["bench", "--quiet"]).args(args).env_remove("RUST_LOG");
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.output().expect("runs").into()
}

fn ok(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
    ran.out
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(args)).expect("JSON")
}

/// A shader of one's own in a file.
fn file(name: &str, text: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path
}

/// Runs `bench KERNEL --with` a text, quickly.
fn with(kernel: &str, name: &str, text: &str, more: &[&str]) -> Ran {
    let path = file(name, text);
    let path = path.to_str().expect("a path");
    run(&[&[kernel, "--with", path, "--seconds", "0"], more].concat())
}

/// A text with one change, which must be one.
fn edited(kernel: &str, from: &str, to: &str) -> String {
    let source = find(kernel).expect("a kernel").source;
    assert!(source.contains(from), "{kernel} has no '{from}'");
    source.replacen(from, to, 1)
}

#[test]
fn the_roofline_is_above_a_copy() {
    // x times 1 over 32 MiB each way, beyond the caches: a copy that is an operation.
    let (gpu, n) = (gpu(), 8 << 20);
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let x = spaces.declare("x", n);
    let x = tape.input("x", &[n], x, 0);
    let y = tape.scale(x, 1.0).expect("recorded");
    tape.keep(y);
    let (program, _memory) = tape.compile(gpu, &spaces).expect("compiled");
    let clock = Clock::new(gpu).expect("a clock");
    let planned = &program.plan().dispatches()[0];
    let bytes = planned.bytes;
    assert_eq!(bytes, 2 * 4 * n as u64);

    // Others may use the machine: the best of each, a few times over.
    let (mut roof, mut best) = (Roofline { flops: 0.0, bytes: 0.0 }, f64::INFINITY);
    let mut share = f64::INFINITY;
    for _ in 0..5 {
        let measured = Roofline::measure(gpu).expect("measured");
        assert!(measured.flops > 1e8 && measured.bytes > 1e7, "{measured:?}");
        roof.flops = roof.flops.max(measured.flops);
        roof.bytes = roof.bytes.max(measured.bytes);
        let budget = Duration::from_millis(50);
        let times = Program::time(&[&program], gpu, &clock, &[0], budget).expect("timed");
        assert!(times[0].len() >= 3);
        for t in &times[0] {
            assert!(t.device <= t.end_to_end * 3 && t.encode < t.end_to_end, "{t:?}");
            best = best.min(t.device.as_secs_f64());
        }
        share = roof.share(planned.flops, bytes, best);
        if share <= 1.1 {
            break;
        }
    }
    assert!(share > 0.05 && share <= 1.1, "{share} of {roof:?}");
    // Without timestamps what is left of the wall time is of the same order.
    let wall = Clock::wall(gpu).expect("a clock");
    assert_eq!(wall.name(), "wall minus overhead");
    let times = Program::time(&[&program], gpu, &wall, &[0], Duration::ZERO).expect("timed");
    assert_eq!(times[0].len(), 3);
    for t in &times[0] {
        assert!(t.device + t.encode <= t.end_to_end, "{t:?}");
        assert!(t.device.as_secs_f64() > 0.5 * best, "{t:?}, {best} s by {}", clock.name());
    }
    assert_eq!(roof.bound(0, 1), "memory");
    assert_eq!(roof.bound(1 << 40, 1), "arithmetic");
    let half = Roofline { flops: 100.0, bytes: 10.0 };
    assert_eq!((half.share(50, 1, 1.0), half.share(50, 20, 4.0)), (0.5, 0.5));
}

#[test]
fn the_list_has_every_kernel() {
    let list = json(&["--list", "--json"]);
    let ops = list["ops"].as_array().expect("ops");
    let named: Vec<&str> = ops
        .iter()
        .flat_map(|op| op["kernels"].as_array().expect("kernels"))
        .filter_map(Value::as_str)
        .collect();
    for kernel in KERNELS {
        assert!(named.contains(&kernel.name), "{}", kernel.name);
    }
    assert!(ops.iter().all(|op| !op["shapes"].as_array().expect("shapes").is_empty()));
    let text = ok(&["--list"]);
    assert!(text.lines().any(|l| l.trim_start().starts_with("lstm")), "{text}");
    assert!(ok(&["--list", "adam"]).contains("110 M") && !ok(&["--list", "adam"]).contains("lstm"));
}

#[test]
fn a_report_has_the_three_times() {
    let saved = file("saved.json", "");
    let saved_path = saved.to_str().expect("a path");
    let report = json(&["fold", "--seconds", "0", "--json", "--save", saved_path]);
    let row = &report["results"][0];
    assert_eq!(row["kernel"], "fold");
    for time in ["encode", "device", "end_to_end"] {
        let (median, min) = (&row[time]["median_ms"], &row[time]["min_ms"]);
        let (median, min) = (median.as_f64().expect(time), min.as_f64().expect(time));
        assert!(min >= 0.0 && median >= min, "{time}: {row}");
    }
    assert!(row["end_to_end"]["min_ms"].as_f64() > row["encode"]["min_ms"].as_f64());
    assert!(row["runs"].as_u64() >= Some(3) && row["share"].as_f64() > Some(0.0), "{row}");
    assert!(report["roofline"]["flops"].as_f64() > Some(0.0));
    assert!(["timestamps", "wall minus overhead"].iter().any(|c| report["device_clock"] == *c));
    let text = std::fs::read_to_string(saved).expect("saved");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), report);

    let table = ok(&["softmax", "--seconds", "0", "--shape", "1024", "--family", "plain"]);
    for word in ["roofline", "plain", "encode", "end to end", "1024 × 1024", "GB/s", "%"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(table.lines().all(|l| l.trim_end() == l), "{table}");
}

#[test]
fn what_cannot_be_asked_for() {
    fails(run(&["sofmax"]), 2, &["'softmax'", "--list"]);
    fails(run(&["lstm", "--source"]), 2, &["lstm_forward"]);
    fails(run(&["--show"]), 2, &["one kernel"]);
    fails(run(&["softmax", "--shape", "7 × 7"]), 2, &["1024 × 1024"]);
    fails(run(&["softmax", "--family", "narrow"]), 2, &["tiled"]);
    fails(run(&["softmax", "--seconds=-1"]), 2, &["--seconds"]);
    fails(run(&["softmax", "--with", "nowhere.wgsl"]), 1, &["nowhere.wgsl"]);
}

#[test]
fn our_sources_can_be_had() {
    assert_eq!(ok(&["unary", "--source"]), find("unary").expect("unary").source);
    let shown = ok(&["softmax", "--show", "--shape", "1024"]);
    assert!(shown.contains("rows=1024 cols=1024") && shown.contains("workgroups"), "{shown}");
    assert!(!shown.contains("#if") && !shown.contains("#import"), "{shown}");
    // What is shown is WGSL.
    naga::front::wgsl::parse_str(&shown).expect("WGSL");
}

#[test]
fn our_own_kernel_passes_in_its_own_place() {
    let source = find("slice").expect("slice").source;
    let ran = with("slice", "same.wgsl", source, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(
        ran.out.contains("same.wgsl matches") && ran.out.contains("ours / yours"),
        "{}",
        ran.out
    );
    // The same with a geometry of its own: eight invocations to a workgroup.
    let eight = edited("unary", "@workgroup_size(64)", "@workgroup_size(8)")
        .replace("* 64u + id", "* 8u + id")
        .replace(
            "#import",
            "#if VEC\n// workgroups: (n / 4 + 7) / 8\n#else\n// workgroups: (n + 7) / 8\n#endif\n#import",
        );
    let ran = with("unary", "eight.wgsl", &eight, &["--shape", "relu", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(report["kernel"], "unary");
    assert!(report["cases"].as_u64() > Some(5) && report["checked"] == true, "{}", ran.out);
    let rows = report["results"].as_array().expect("rows");
    assert!(rows.iter().any(|r| r["variant"].as_str().is_some_and(|v| v.ends_with("eight.wgsl"))));
}

#[test]
fn a_broken_kernel_is_shown_where_it_breaks() {
    let text = edited("softmax", "let share =", "let shore =");
    let line = text.lines().position(|l| l.contains("*= share")).expect("a line") + 1;
    let ran = with("softmax", "broken.wgsl", &text, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[1].ends_with(&format!("broken.wgsl:{line}:17")), "{}", ran.err);
    let caret = lines.iter().position(|l| l.contains("^^^^^")).expect("a caret");
    assert_eq!(lines[caret].find('^'), lines[caret - 1].find("share"), "{}", ran.err);
    assert!(!ran.err.contains('\x1b'), "colours in a pipe");
    let last = lines.last().expect("a line");
    assert!(last.starts_with("error: shader") && last.contains(&format!("line {line}")), "{last}");

    let text = edited("softmax", "@binding(1)", "@binding(7)");
    let ran = with("softmax", "unbound.wgsl", &text, &[]);
    assert!(ran.code == Some(1) && ran.err.contains("1 Y (read_write)"), "{}", ran.err);
    let text = edited("unary", "@workgroup_size(64)", "@workgroup_size(8, 4096)");
    let ran = with("unary", "large.wgsl", &text, &[]);
    let last = ran.err.lines().last().unwrap_or_default();
    assert!(
        ran.code == Some(1) && last.contains("shader") && last.contains("[8, 4096, 1]"),
        "{last}"
    );
    let text = edited("softmax", "#import row", "#import raw");
    let ran = with("softmax", "import.wgsl", &text, &[]);
    assert!(ran.code == Some(1) && ran.err.contains("no shared shader 'raw'"), "{}", ran.err);
}

#[test]
fn a_wrong_result_is_caught() {
    let text = edited("softmax", "1.0 / row_sum", "1.01 / row_sum");
    let ran = with("softmax", "wrong.wgsl", &text, &[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    for word in ["1x1", "Y[0]", "1.01", "8 of 8 cases"] {
        assert!(ran.err.contains(word), "{word}: {}", ran.err);
    }
    // Too few workgroups leave the rest unwritten; out of bounds is not a crash.
    let text = format!("// workgroups: 1\n{}", find("unary").expect("unary").source);
    let ran = with("unary", "few.wgsl", &text, &[]);
    assert!(ran.code == Some(1) && ran.err.contains("cases differ"), "{}", ran.err);
    let text = edited("unary", "Y[i] = f(X[i]);", "Y[i + 1000000u] = f(X[i + 1000000u]);");
    let ran = with("unary", "outside.wgsl", &text, &[]);
    assert!(ran.code == Some(1) && ran.err.contains("cases differ"), "{}", ran.err);
}
