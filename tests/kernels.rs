//! Every registered kernel against its CPU twin: all its cases, every family this adapter can
//! run, with checked and with trusted modules.

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::{self, KERNELS};
use modalign::plan::{Case, Kernel};
use modalign::{Error, Gpu};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A device for each family that runs here, once checked and once trusted; and where there are
/// 64-bit loads, once more without them, for the kernels that know them.
fn families() -> Vec<Gpu> {
    let mut all: Vec<Gpu> = Vec::new();
    for family in [Family::Tiled, Family::Plain, Family::Wide(0)] {
        for (checked, short_loads) in [(false, false), (true, false), (true, true)] {
            let family = Some(family);
            let options =
                GpuOptions { family, checked, short_loads, quiet: true, ..Default::default() };
            let gpu = Gpu::with(&options).expect("an adapter");
            if short_loads && all.last().is_some_and(|last| !last.caps().long_loads) {
                continue;
            }
            if matches!(family, Some(Family::Wide(_))) && gpu.caps().family.lanes() == 0 {
                println!("no subgroups of one size here: the wide family is not run");
                continue;
            }
            all.push(gpu);
        }
    }
    all
}

/// Whether a launch of the kernel may read by 64-bit loads.
fn knows_long_loads(gpu: &Gpu, kernel: &Kernel, cases: &[Case]) -> bool {
    let family = gpu.caps().family;
    cases.iter().any(|case| (kernel.launch)(family, &case.words, &case.defines).long)
}

/// What is wrong with a kernel on a device, case by case.
fn failures(gpu: &Gpu, kernel: &'static Kernel, cases: &[Case], ran: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    for case in cases {
        let twin = ops::run_twin(kernel, case);
        let at = format!("{} ({}) on {}", kernel.name, case.name, gpu.caps().family);
        let got = match ops::run_case(gpu, kernel, case) {
            Ok(got) => got,
            Err(Error::Driver(why)) => {
                println!("{at} is not run: {why}");
                continue;
            }
            Err(why) => {
                failures.push(format!("{at}: {why}"));
                continue;
            }
        };
        ran.fetch_add(1, Ordering::Relaxed);
        let launch = (kernel.launch)(gpu.caps().family, &case.words, &case.defines);
        for option in 1..=launch.others.len() {
            ran.fetch_add(1, Ordering::Relaxed);
            match ops::run_option(gpu, kernel, case, option) {
                Ok(other) if other == got => {}
                Ok(_) => failures.push(format!("{at}: launch {option} leaves other bits")),
                Err(why) => failures.push(format!("{at}, launch {option}: {why}")),
            }
        }
        let found = ops::differences(kernel, case, &got, &twin);
        failures.extend(found.iter().map(|d| format!("{at}: {d}")));
    }
    failures
}

#[test]
fn kernels_match_their_twins() {
    let only = std::env::var("KERNEL").ok();
    let only = only.as_ref().map(|o| o.split(',').collect::<Vec<_>>());
    let gpus = families();
    // Most of the time goes into compiling, so that threads take one kernel on one device each.
    // The most cases come first; what failed is told in the order of this list, not of the clock.
    let mut kernels: Vec<(&'static Kernel, Vec<Case>)> = KERNELS
        .iter()
        .filter(|k| only.as_ref().is_none_or(|o| o.contains(&k.name)))
        .map(|k| (*k, (k.cases)()))
        .collect();
    kernels.sort_by_key(|(_, cases)| std::cmp::Reverse(cases.len()));
    for (kernel, cases) in &kernels {
        assert!(!cases.is_empty(), "{} has no case", kernel.name);
    }
    let long_loads = gpus.iter().any(|gpu| gpu.caps().long_loads);
    let jobs: Vec<_> = kernels
        .iter()
        .flat_map(|k| gpus.iter().map(move |gpu| (gpu, k)))
        .filter(|(gpu, (kernel, cases))| {
            gpu.caps().long_loads == long_loads || knows_long_loads(gpu, kernel, cases)
        })
        .collect();
    let (next, ran) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut failed: Vec<(usize, Vec<String>)> = std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((gpu, (kernel, cases))) = jobs.get(at) else { return found };
                found.push((at, failures(gpu, kernel, cases, &ran)));
            }
        };
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    });
    failed.sort();
    let failed: Vec<String> = failed.into_iter().flat_map(|(_, list)| list).collect();
    println!("{} runs of {} kernels", ran.into_inner(), kernels.len());
    let shown: Vec<_> = failed.iter().take(30).cloned().collect();
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), shown.join("\n"));
}

#[test]
fn moments_that_vanish_are_zero() {
    let kernel = ops::find("adam").expect("a kernel");
    let cases = (kernel.cases)();
    let case = cases.iter().find(|c| c.name == "vanishing").expect("a case");
    let twin = ops::run_twin(kernel, case);
    for gpu in families() {
        let got = ops::run_case(&gpu, kernel, case).expect("a run");
        for (i, name) in [(2, "M"), (3, "V")] {
            let (got, want) = (got[i].as_ref().expect("there"), twin[i].as_ref().expect("there"));
            let zeros = want.iter().filter(|w| **w << 1 == 0).count();
            assert!((20..want.len()).contains(&zeros), "{zeros} of {} {name}", want.len());
            for (g, w) in
                got.iter().zip(want).map(|(g, w)| (f32::from_bits(*g), f32::from_bits(*w)))
            {
                assert_eq!(g == 0.0, w == 0.0, "{name} {g:e}, twin {w:e}, {}", gpu.caps().family);
                assert!(g == 0.0 || g.abs() > 1e-30, "{name} {g:e} on {}", gpu.caps().family);
            }
        }
    }
}
