//! Every registered kernel against its CPU twin: all its cases, every family this adapter can
//! run, as a training runs them, by the checks of `modalign selftest`. With bounds checks and without
//! 64-bit loads they are held against their twins by `tests/bounds.rs`, which counts accesses besides.
//!
//! `KERNEL=lstm_forward,matmul` tries kernels by name.

use modalign::ops;
use modalign::selftest::kernels::{self, Device, devices};

#[test]
fn kernels_match_their_twins() {
    let only = std::env::var("KERNEL").ok();
    let only: Vec<String> = only.iter().flat_map(|o| o.split(',')).map(String::from).collect();
    for name in &only {
        assert!(ops::find(name).is_some(), "no kernel '{name}'");
    }
    let mut devices = devices(None, false).expect("an adapter");
    devices.retain(|device| !device.gpu.checked());
    let rows = kernels::run(&devices, &only, &|_| ());
    let mut failed = Vec::new();
    for row in &rows {
        assert!(row.cases > 0, "{} has no case that runs here: {:?}", row.name, row.skipped);
        row.skipped.iter().for_each(|skipped| println!("{} {skipped}", row.name));
        failed.extend(row.failures.iter().map(|f| format!("{}, {}: {}", row.name, f.at, f.detail)));
    }
    let runs: usize = rows.iter().map(|row| row.cases).sum();
    println!("{runs} runs of {} kernels on {} devices", rows.len(), devices.len());
    let shown: Vec<_> = failed.iter().take(30).cloned().collect();
    assert!(failed.is_empty(), "{} differ:\n{}", failed.len(), shown.join("\n"));
}

#[test]
fn moments_that_vanish_are_zero() {
    let kernel = ops::find("adam").expect("a kernel");
    let cases = (kernel.cases)();
    let case = cases.iter().find(|c| c.name == "vanishing").expect("a case");
    let twin = ops::run_twin(kernel, case);
    for Device { gpu, .. } in devices(None, false).expect("an adapter") {
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
