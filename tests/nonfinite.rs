//! What is not a number stays so: a NaN or an infinity in any input of any kernel shows in what the
//! kernel writes, on every family, wherever the formula says so. A kernel that loses one would let a
//! run go on with numbers that mean nothing.

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::{self, KERNELS};
use modalign::plan::{Access, Binding, Case, CaseArg, Kernel};
use modalign::{Error, Gpu};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cases that compute more are left out: smaller ones of the same kernel take the same paths.
const MOST_FLOPS: u64 = 3_000_000;

/// One device for each family that runs here.
fn families() -> Vec<Gpu> {
    let open = |family| {
        let options = GpuOptions { family: Some(family), quiet: true, ..Default::default() };
        Gpu::with(&options).expect("an adapter")
    };
    let mut all: Vec<Gpu> = [Family::Tiled, Family::Plain].into_iter().map(open).collect();
    let wide = open(Family::Wide(0));
    if wide.caps().family.lanes() > 0 {
        all.push(wide);
    }
    all
}

/// The kernels that `KERNEL` names, or all, with their smaller cases.
fn kernels() -> Vec<(&'static Kernel, Vec<Case>)> {
    let only = std::env::var("KERNEL").ok();
    let named = |k: &&&Kernel| only.as_ref().is_none_or(|o| o.split(',').any(|n| n == k.name));
    let list = KERNELS.iter().filter(named).map(|k| {
        let small = |case: &Case| case.flops <= MOST_FLOPS;
        (*k, (k.cases)().into_iter().filter(small).collect())
    });
    list.collect()
}

/// Whether a call reads anything of a binding.
fn is_read(binding: &Binding, case: &Case, at: usize) -> bool {
    let Some(arg) = &case.args[at] else { return false };
    let there = kernel_defines(case, binding);
    binding.moved(&case.words, &there, arg.len() as u64)[0] > 0
}

fn kernel_defines(case: &Case, binding: &Binding) -> modalign::gpu::Defines {
    let mut all = case.defines.clone();
    all.insert(binding.name, 1);
    all
}

/// A case with `value` in one element of binding `at`, or in all; `None` where the binding holds no
/// floats.
fn planted(
    case: &Case,
    binding: &Binding,
    at: usize,
    value: f32,
    one: Option<usize>,
) -> Option<Case> {
    let mut case = case.clone();
    let halves = binding.half && case.defines.contains_key("HALF");
    match case.args[at].as_mut()? {
        CaseArg::F(values) => match one {
            Some(i) => values[i] = value,
            None => values.fill(value),
        },
        CaseArg::U(words) if halves => {
            let word = modalign::plan::pack_halves(&[value, value])[0];
            match one {
                Some(i) => words[i] = word,
                None => words.fill(word),
            }
        }
        CaseArg::U(_) => return None,
    }
    Some(case)
}

/// Places of what is neither a number nor infinite among the floats that a kernel leaves.
fn lost(kernel: &Kernel, got: &[Option<Vec<u32>>], twin: &[Option<Vec<u32>>]) -> Option<String> {
    let both = kernel.bindings.iter().zip(got).zip(twin);
    both.filter(|((b, _), _)| b.access == Access::Write).find_map(|((b, got), twin)| {
        let finite = |w: &u32| f32::from_bits(*w).is_finite();
        let mut pairs = got.as_ref()?.iter().zip(twin.as_ref()?).enumerate();
        let (i, (got, want)) = pairs.find(|(_, (g, t))| finite(g) && !finite(t))?;
        let (got, want) = (f32::from_bits(*got), f32::from_bits(*want));
        Some(format!("{}[{i}] is {got}, twin has {want}", b.name))
    })
}

/// Whether anything that a kernel leaves is not finite.
fn shows(kernel: &Kernel, left: &[Option<Vec<u32>>]) -> bool {
    let written = kernel.bindings.iter().zip(left).filter(|(b, _)| b.access == Access::Write);
    let mut words = written.filter_map(|(_, w)| w.as_ref()).flatten();
    words.any(|w| !f32::from_bits(*w).is_finite())
}

/// Where a NaN need not show although it is everywhere in a binding.
fn excepted(kernel: &str, binding: &str, case: &Case) -> bool {
    let is = |name: &str, value: u32| case.defines.get(name) == Some(&value);
    match (kernel, binding) {
        // What a ReLU let through, of which only the sign is asked. A result that is NaN lets the
        // gradient through, as torch's does, and has shown in the forward.
        // Of a clamp and a leaky ReLU, too, only whether it was within bounds, or above zero, is asked.
        ("unary_backward", "V") => {
            is("OP", 1) || ["Clamp", "LeakyRelu"].iter().any(|name| case.name.starts_with(name))
        }
        ("matmul", "MASK") => !is("MASK_ACT", 3),
        ("matmul", "SLOPE") => !is("SLOPE_ACT", 2),
        // The only number of a product may be one that a ReLU before it stopped.
        ("matmul", _) if case.words[..2] == [1, 1] && is("SLOPE_ACT", 1) => true,
        ("heads_backward", "ACTS") => true,
        // The only unit of a head may be one that let nothing through.
        ("heads_backward", "DSCORES") => case.words[2] == 1,
        // A weight that wants no gradient has no columns.
        ("project_dw", x) if x.starts_with('X') => case.words[4..8].contains(&0),
        // A part of a word table of which a batch has no word.
        ("embed_backward", "DX") => case.words[3] > 0,
        // The twin knows the factors itself.
        ("spectrum", "TWIDDLE") => true,
        // Of a single row there is no variance, and everything is zero.
        ("standardize" | "standardize_grad", _) => case.words[0] < 2,
        ("covariance" | "align_grad", _) => case.words[0] < 2,
        // Only the last part of a word table is normalised.
        ("embed", "GB") => !case.defines.contains_key("LAST"),
        // It gives numbers of rows. A distance that is no number shows where the two are compared.
        ("nearest_rows", _) => true,
        // The fused task alone has no label that is generated.
        ("label_update", "CENTRES") => case.words[1] < 2,
        // A row of length 0 keeps nothing.
        ("masked_softmax", "X") => case.name.starts_with("1x1x1"),
        // The gradients of weight and bias alone ask for neither.
        ("batch_norm_backward", "GB") => case.args[4].is_none(),
        // Offsets that leave every segment empty.
        (kernel, _) if kernel.starts_with("segment") => {
            let rows = case.words[0];
            let offsets = case.args.iter().flatten().find_map(|arg| match arg {
                CaseArg::U(offsets) => Some(offsets),
                CaseArg::F(_) => None,
            });
            offsets.is_some_and(|o| o.windows(2).all(|w| w[1].min(rows) <= w[0].min(rows)))
        }
        _ => false,
    }
}

#[test]
fn nothing_that_is_no_number_is_lost() {
    let (gpus, kernels) = (families(), kernels());
    let jobs: Vec<_> = kernels.iter().flat_map(|k| gpus.iter().map(move |g| (g, k))).collect();
    let (next, ran) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let check = |gpu: &Gpu, kernel: &'static Kernel, cases: &[Case]| -> Vec<String> {
        let mut failed = Vec::new();
        for (case, (at, binding)) in
            cases.iter().flat_map(|c| kernel.bindings.iter().enumerate().map(move |b| (c, b)))
        {
            if !is_read(binding, case, at) {
                continue;
            }
            let len = case.args[at].as_ref().map_or(0, CaseArg::len);
            for (value, one) in [(f32::NAN, len / 3), (f32::INFINITY, len / 2)] {
                let Some(planted) = planted(case, binding, at, value, Some(one)) else { continue };
                let place = format!(
                    "{} ({}) with {value} in {}[{one}] on {}",
                    kernel.name,
                    case.name,
                    binding.name,
                    gpu.caps().family
                );
                match ops::run_case(gpu, kernel, &planted) {
                    Ok(got) => {
                        ran.fetch_add(1, Ordering::Relaxed);
                        let twin = ops::run_twin(kernel, &planted);
                        failed.extend(lost(kernel, &got, &twin).map(|l| format!("{place}: {l}")));
                    }
                    Err(Error::Driver(_)) => {}
                    Err(why) => failed.push(format!("{place}: {why}")),
                }
            }
        }
        failed
    };
    let mut failed: Vec<(usize, Vec<String>)> = std::thread::scope(|scope| {
        let work = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((gpu, (kernel, cases))) = jobs.get(at) else { return found };
                found.push((at, check(gpu, kernel, cases)));
            }
        };
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    });
    failed.sort();
    let failed: Vec<String> = failed.into_iter().flat_map(|(_, list)| list).collect();
    println!("{} runs of {} kernels", ran.into_inner(), kernels.len());
    // One of each kernel tells more than forty of one.
    let kernel = |line: &String| line.split(' ').next().map(str::to_string);
    let mut shown = failed.clone();
    shown.dedup_by_key(|line| kernel(line));
    assert!(failed.is_empty(), "{} lose it:\n{}", failed.len(), shown.join("\n"));
}

#[test]
fn every_input_can_show_that_it_is_no_number() {
    let mut failed = Vec::new();
    for (kernel, cases) in kernels() {
        for (case, (at, binding)) in
            cases.iter().flat_map(|c| kernel.bindings.iter().enumerate().map(move |b| (c, b)))
        {
            if !is_read(binding, case, at) || excepted(kernel.name, binding.name, case) {
                continue;
            }
            let Some(planted) = planted(case, binding, at, f32::NAN, None) else { continue };
            if !shows(kernel, &ops::run_twin(kernel, &planted)) {
                failed.push(format!("{} ({}): {}", kernel.name, case.name, binding.name));
            }
        }
    }
    assert!(failed.is_empty(), "a NaN does not show:\n{}", failed.join("\n"));
}

/// Of small numbers a difference from one keeps no digit: the error must be small beside the number,
/// not beside one.
#[test]
fn small_arguments_of_tanh_keep_their_digits() {
    let kernel = ops::find("unary").expect("a kernel");
    let tanh = 3;
    let values: Vec<f32> = (0..2000)
        .flat_map(|i| {
            let x = 1e-8 * 1.011_f32.powi(i);
            [x, -x]
        })
        .filter(|x| x.abs() < 20.0)
        .chain([0.0, 0.15, -0.15, 0.149_999_99])
        .collect();
    let n = values.len();
    let out = Some(CaseArg::F(vec![0.0; n]));
    let case = Case::new("tanh", vec![n as u32, 0], vec![Some(CaseArg::F(values.clone())), out]);
    let case = case.define("OP", tanh);
    for gpu in families() {
        let got = ops::run_case(&gpu, kernel, &case).expect("a run");
        for (x, y) in values.iter().zip(got[1].as_ref().expect("there")) {
            let (y, want) = (f32::from_bits(*y), f64::from(*x).tanh());
            let off = (f64::from(y) - want).abs() / want.abs().max(1e-30);
            assert!(off < 1e-6, "tanh({x:e}) is {y:e}, not {want:e}, on {}", gpu.caps().family);
            assert!(y.abs() <= 1.0, "tanh({x}) is {y}");
        }
    }
}
