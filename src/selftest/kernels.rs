//! Every registered kernel against its CPU twin: all its cases, every family that an adapter runs, with
//! checked and with trusted modules.

use super::work::{Job, Outcome, Progress, run as run_jobs};
use super::{Checked, Part};
use crate::error::{Error, Result};
use crate::gpu::{Family, Gpu, GpuOptions};
use crate::ops::{self, KERNELS};
use crate::plan::{Access, Case, Kernel};
use std::sync::OnceLock;

/// An open device and what its kernels are called: a family, checked or trusted.
pub struct Device {
    /// The device.
    pub gpu: Gpu,
    /// "tiled", "tiled, checked", "wide8, checked, without 64-bit loads".
    pub name: String,
    options: GpuOptions,
}

/// What a kernel leaves in each binding.
pub type Left = Vec<Option<Vec<u32>>>;

/// A device for each family that an adapter runs, the adapter's own first, once trusted and once
/// checked; and where there are 64-bit loads, once more without them, for the kernels that know them.
/// Only the adapter's own family where it is to be `quick`.
///
/// # Errors
/// [`NoAdapter`](Error::NoAdapter).
pub fn devices(adapter: Option<&str>, quick: bool) -> Result<Vec<Device>> {
    let open = |family, checked, short_loads| -> Result<Device> {
        let adapter = adapter.map(str::to_string);
        let (quiet, no_tune) = (true, true);
        let own = GpuOptions { adapter, family, quiet, no_tune, ..GpuOptions::default() };
        let options = GpuOptions { checked, short_loads, ..own };
        let gpu = Gpu::with(&options)?;
        let mut name = gpu.caps().family.to_string();
        for (is, what) in [(checked, "checked"), (short_loads, "without 64-bit loads")] {
            if is {
                name = format!("{name}, {what}");
            }
        }
        Ok(Device { gpu, name, options })
    };
    let first = open(None, false, false)?;
    let own = first.gpu.caps().family;
    let mut all = vec![first];
    let families = [own, Family::Tiled, Family::Plain, Family::Wide(0)];
    for (i, family) in families.into_iter().enumerate().take(if quick { 1 } else { 4 }) {
        let known = |f: Family| f == own || matches!((f, own), (Family::Wide(_), Family::Wide(_)));
        if i > 0 && known(family) {
            continue;
        }
        let family = Some(family);
        if i > 0 {
            let device = open(family, false, false)?;
            // Without subgroups of one size that is another family once more.
            if all.iter().any(|d| d.gpu.caps().family == device.gpu.caps().family) {
                continue;
            }
            all.push(device);
        }
        all.push(open(family, true, false)?);
        if all.last().is_some_and(|last| last.gpu.caps().long_loads) {
            all.push(open(family, true, true)?);
        }
    }
    Ok(all)
}

/// The largest difference in what a case writes, relative to 1 + |value of the twin|; infinite where only
/// one of the two is a number.
pub fn largest(kernel: &Kernel, got: &Left, twin: &Left) -> f64 {
    let written = kernel.bindings.iter().zip(got).zip(twin);
    let written = written.filter(|((binding, _), _)| binding.access == Access::Write);
    let pairs = written.filter_map(|((_, got), want)| Some((got.as_ref()?, want.as_ref()?)));
    pairs.flat_map(|(got, want)| got.iter().zip(want)).fold(0.0, |most: f64, (g, w)| {
        if g == w {
            return most;
        }
        let (g, w) = (f32::from_bits(*g), f32::from_bits(*w));
        let off = f64::from((g - w).abs() / (1.0 + w.abs()));
        if off.is_nan() { f64::INFINITY } else { most.max(off) }
    })
}

/// Checks the cases of a kernel on a device against what `twin` says of each; where the launch offers
/// others that leave the same bits, those too.
pub fn check<'t>(
    device: &Device,
    kernel: &'static Kernel,
    cases: &[Case],
    twin: impl Fn(usize) -> &'t Left,
) -> Outcome {
    let mut outcome = Outcome::default();
    for (i, case) in cases.iter().enumerate() {
        let at = || format!("{} on {}", case.name, device.name);
        let got = match device.run(kernel, case, 0) {
            Ok(got) => got,
            Err(why @ (Error::Driver(_) | Error::TooLarge { .. } | Error::OutOfMemory { .. })) => {
                outcome.skipped.push(format!("{} is not run: {why}", at()));
                continue;
            }
            Err(why) => {
                outcome.fail(at(), why.to_string());
                continue;
            }
        };
        let want = twin(i);
        let wrong = ops::differences(kernel, case, &got, want);
        let off = largest(kernel, &got, want);
        let detail = || wrong.first().map_or_else(String::new, ToString::to_string);
        outcome.see(off, f64::from(case.tolerance), at, detail);
        let launch = (kernel.launch)(device.gpu.caps().family, &case.words, &case.defines);
        for option in 1..=launch.others.len() {
            let at = || format!("{}, launch {option}", at());
            match device.run(kernel, case, option) {
                Ok(other) => {
                    let off = largest(kernel, &other, &got);
                    let same = if other == got { 0.0 } else { off.max(f64::MIN_POSITIVE) };
                    outcome.see(same, 0.0, at, || "it leaves other bits than launch 0".into());
                }
                Err(why) => outcome.fail(at(), why.to_string()),
            }
        }
    }
    outcome
}

impl Device {
    /// What a case leaves. Where the device is lost the case runs once more on one of its own, so that
    /// only the kernel at fault is blamed for it, not those that other threads ran meanwhile.
    fn run(&self, kernel: &'static Kernel, case: &Case, option: usize) -> Result<Left> {
        let run = |gpu: &Gpu| {
            ops::run_case_with(gpu, kernel, case, |mut plan| {
                plan.choose(option);
                Ok(plan)
            })
        };
        match run(&self.gpu) {
            Err(Error::DeviceLost(_)) => run(&self.again()?),
            result => result,
        }
    }

    /// The same once more.
    pub(super) fn again(&self) -> Result<Gpu> {
        Gpu::with(&self.options)
    }

    /// Whether a launch of the kernel may read by 64-bit loads.
    fn knows_long_loads(&self, kernel: &Kernel, cases: &[Case]) -> bool {
        let family = self.gpu.caps().family;
        cases.iter().any(|case| (kernel.launch)(family, &case.words, &case.defines).long)
    }
}

/// Cases of a job at most: what goes on is told between jobs, and a slow adapter takes seconds for one.
const MOST: usize = 16;

/// A kernel, its cases, and what their twins leave, computed by whoever needs it first.
struct Tried {
    kernel: &'static Kernel,
    cases: Vec<Case>,
    twins: Vec<OnceLock<Left>>,
}

/// Checks kernels on all devices: those named in `only`, or all.
pub fn run(devices: &[Device], only: &[String], watch: &(dyn Fn(Progress) + Sync)) -> Vec<Checked> {
    let wanted = |kernel: &&&Kernel| only.is_empty() || only.iter().any(|name| name == kernel.name);
    let tried = |kernel: &&'static Kernel| {
        let cases = (kernel.cases)();
        let twins = cases.iter().map(|_| OnceLock::new()).collect();
        Tried { kernel, cases, twins }
    };
    let mut all: Vec<Tried> = KERNELS.iter().filter(wanted).map(tried).collect();
    // The most cases first, so that no thread is left with them at the end.
    all.sort_by_key(|tried| std::cmp::Reverse(tried.cases.len()));
    let long_loads = devices.iter().any(|device| device.gpu.caps().long_loads);
    let jobs: Vec<Job> = all
        .iter()
        .flat_map(|tried| devices.iter().map(move |device| (device, tried)))
        .filter(|(device, Tried { kernel, cases, .. })| {
            device.gpu.caps().long_loads == long_loads || device.knows_long_loads(kernel, cases)
        })
        .flat_map(|(device, Tried { kernel, cases, twins })| {
            (0..cases.len()).step_by(MOST).map(move |first| Job {
                row: kernel.name.to_string(),
                name: format!("{} on {}", kernel.name, device.name),
                work: Box::new(move || {
                    let some = &cases[first..cases.len().min(first + MOST)];
                    let twin = |i: usize| {
                        let i = first + i;
                        twins[i].get_or_init(|| ops::run_twin(kernel, &cases[i]))
                    };
                    check(device, kernel, some, twin)
                }),
            })
        })
        .collect();
    run_jobs(Part::Kernel, &jobs, watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_result_is_found_and_measured() {
        let kernel = ops::find("unary").unwrap();
        let cases = (kernel.cases)();
        let case = cases.iter().find(|case| case.words[0] > 2).unwrap();
        let right = ops::run_twin(kernel, case);
        let at = kernel.bindings.iter().position(|b| b.access == Access::Write).unwrap();
        let with = |i: usize, value: f32| {
            let mut wrong = right.clone();
            wrong[at].as_mut().unwrap()[i] = value.to_bits();
            wrong
        };
        let was = f32::from_bits(right[at].as_ref().unwrap()[2]);
        assert_eq!(largest(kernel, &right, &right), 0.0);
        let off = largest(kernel, &with(2, was + 0.5), &right);
        assert!((off - f64::from(0.5 / (1.0 + was.abs()))).abs() < 1e-6, "{off}");
        assert_eq!(largest(kernel, &with(2, f32::NAN), &right), f64::INFINITY);
    }
}
