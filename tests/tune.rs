//! Choosing among launches: measured once, kept on disk, used again, and never needed.

use modalign::gpu::{Family, GpuOptions};
use modalign::plan::{Memory, Plan, Pool, Spaces};
use modalign::{Gpu, Tape, Var};
use std::path::{Path, PathBuf};

fn gpu(no_tune: bool) -> Gpu {
    Gpu::with(&GpuOptions { no_tune, quiet: true, ..Default::default() }).expect("an adapter")
}

/// A product of a class that has several launches, and its result.
fn product(gpu: &Gpu) -> (Plan, Var) {
    let mut tape = Tape::new();
    let values = |seed| modalign::ops::random(seed, 512 * 512);
    let a = tape.constant("a", &[512, 512], &values(1)).expect("a");
    let b = tape.constant("b", &[512, 512], &values(2)).expect("b");
    let c = tape.matmul(a, b).expect("c");
    tape.keep(c);
    (tape.plan(gpu.caps()).expect("a plan"), c)
}

fn run(gpu: &Gpu, plan: Plan, c: Var) -> Vec<f32> {
    let memory = Memory::allocate(gpu, &Spaces::new()).expect("memory");
    let program = plan.prepare(gpu, &memory, &mut Pool::new()).expect("a program");
    program.run(gpu, &memory).expect("a run");
    program.read(gpu, &memory, c).expect("the product")
}

fn kept(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder.join("modalign")) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().contains("tuned"))).collect()
}

/// As the program keeps it: 64 bits of FNV-1a before the text.
fn with_digest(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}{text}")
}

#[test]
fn a_choice_is_measured_once_and_kept() {
    let cache = tempfile::tempdir().expect("a folder");
    // SAFETY: before any device is opened; the other test of this program does not look.
    unsafe { std::env::set_var("XDG_CACHE_HOME", cache.path()) };

    let off = gpu(true);
    let (plan, c) = product(&off);
    if plan.dispatches()[0].others.is_empty() {
        assert_eq!(off.caps().family, Family::Plain, "one launch only");
        return;
    }
    let first = plan.dispatches()[0].defines.clone();
    let tuned = plan.tune(&off, true).expect("a plan");
    assert_eq!(tuned.dispatches()[0].defines, first, "tuned in spite of no_tune");
    let want = run(&off, tuned, c);
    assert_eq!(kept(cache.path()), [] as [PathBuf; 0]);

    // Nothing is known, and a plan that may not measure stays as it is.
    let on = gpu(false);
    let plan = product(&on).0.tune(&on, false).expect("a plan");
    assert_eq!(plan.dispatches()[0].defines, first);
    assert_eq!(kept(cache.path()), [] as [PathBuf; 0]);

    let before = on.choices().left();
    let (plan, c) = product(&on);
    let plan = plan.tune(&on, true).expect("a plan");
    assert!(on.choices().left() < before, "measuring took no time");
    assert_eq!(run(&on, plan, c), want, "a choice changes bits");
    let [file] = &kept(cache.path())[..] else { panic!("one file: {:?}", kept(cache.path())) };
    let text = std::fs::read_to_string(file).expect("choices");
    // Behind a digest of what follows it.
    let text = text[16..].to_string();
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let choices = json["choices"].as_object_mut().expect("choices");
    assert_eq!(choices.len(), 1, "{text}");

    // Another choice in the file is taken by the next process, which does not measure again.
    choices.values_mut().for_each(|option| *option = 1.into());
    std::fs::write(file, with_digest(&json.to_string())).expect("written");
    let next = gpu(false);
    let before = next.choices().left();
    let (plan, c) = product(&next);
    let plan = plan.tune(&next, true).expect("a plan");
    assert_eq!(next.choices().left(), before, "measured again");
    assert_ne!(plan.dispatches()[0].defines, first);
    assert_eq!(run(&next, plan, c), want, "a choice changes bits");
    // Unless it may not tune at all.
    let off = gpu(true);
    let plan = product(&off).0.tune(&off, true).expect("a plan");
    assert_eq!(plan.dispatches()[0].defines, first);

    // A choice that is not there, another adapter's file, and rubbish do no harm.
    let other = text.replacen("adapter", "adopter", 1);
    let beyond = text.replace(": 0", ": 99").replace(": 1", ": 99");
    let other_choice = json.to_string();
    let all = [&beyond, &other, "{", ""].map(with_digest);
    for content in all.iter().map(String::as_str).chain([other_choice.as_str(), "", "short"]) {
        std::fs::write(file, content).expect("written");
        let gpu = gpu(false);
        let plan = product(&gpu).0.tune(&gpu, false).expect("a plan");
        assert_eq!(plan.dispatches()[0].defines, first, "{content}");
    }
}

#[test]
fn long_sums_are_split_where_that_fills_a_device() {
    let kernels = |family: Family, rows: usize| -> Vec<&'static str> {
        let mut tape = Tape::new();
        let a = tape.constant("a", &[16, rows], &vec![0.5; 16 * rows]).expect("a");
        let b = tape.constant("b", &[rows, 16], &vec![0.25; 16 * rows]).expect("b");
        tape.matmul(a, b).expect("c");
        let plan = tape.plan(&modalign::gpu::Caps::defaults(family)).expect("a plan");
        plan.dispatches().iter().map(|d| d.kernel.name).collect()
    };
    assert_eq!(kernels(Family::Tiled, 6000), ["matmul", "fold"]);
    for family in [Family::Wide(8), Family::Plain] {
        assert_eq!(kernels(family, 6000), ["matmul"]);
        assert_eq!(kernels(family, 40_000), ["matmul", "fold"]);
    }
}
