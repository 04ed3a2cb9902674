//! Every registered kernel against its CPU twin: all its cases, every family this adapter can
//! run, with checked and with trusted modules.

use modalign::Gpu;
use modalign::gpu::{Family, GpuOptions};
use modalign::ops::{self, KERNELS};
use modalign::plan::Access;

fn families() -> Vec<Gpu> {
    let mut all: Vec<Gpu> = Vec::new();
    for family in [Family::Tiled, Family::Plain, Family::Wide(0)] {
        for checked in [false, true] {
            let options =
                GpuOptions { family: Some(family), checked, quiet: true, ..Default::default() };
            let gpu = Gpu::with(&options).expect("an adapter");
            if matches!(family, Family::Wide(_)) && gpu.caps().family.lanes() == 0 {
                println!("no subgroups of one size here: the wide family is not run");
                continue;
            }
            all.push(gpu);
        }
    }
    all
}

/// The first difference beyond the tolerance, relative to 1 + |value|.
fn difference(got: &[u32], want: &[u32], tolerance: f32) -> Option<String> {
    got.iter().zip(want).enumerate().find_map(|(i, (g, w))| {
        if g == w {
            return None;
        }
        let (g, w) = (f32::from_bits(*g), f32::from_bits(*w));
        let off = (g - w).abs() / (1.0 + w.abs());
        (off.is_nan() || off > tolerance).then(|| format!("[{i}] is {g}, twin has {w}"))
    })
}

#[test]
fn kernels_match_their_twins() {
    let only = std::env::var("KERNEL").ok();
    let only = only.as_ref().map(|o| o.split(',').collect::<Vec<_>>());
    let gpus = families();
    let (mut ran, mut failures) = (0, Vec::new());
    for kernel in KERNELS.iter().filter(|k| only.as_ref().is_none_or(|o| o.contains(&k.name))) {
        let cases = (kernel.cases)();
        assert!(!cases.is_empty(), "{} has no case", kernel.name);
        for case in &cases {
            let twin = ops::run_twin(kernel, case);
            for gpu in &gpus {
                let at = format!("{} ({}) on {}", kernel.name, case.name, gpu.caps().family);
                let got = match ops::run_case(gpu, kernel, case) {
                    Ok(got) => got,
                    Err(why) => {
                        failures.push(format!("{at}: {why}"));
                        continue;
                    }
                };
                ran += 1;
                for (i, binding) in kernel.bindings.iter().enumerate() {
                    if let (Access::Write, Some(g), Some(w)) = (binding.access, &got[i], &twin[i]) {
                        if let Some(d) = difference(g, w, case.tolerance) {
                            failures.push(format!("{at}: {}{d}", binding.name));
                        }
                    }
                }
            }
        }
    }
    println!("{ran} runs of {} kernels", KERNELS.len());
    let shown: Vec<_> = failures.iter().take(30).cloned().collect();
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), shown.join("\n"));
}
