//! `modalign selftest` from outside, on a few kernels; and from inside, what it makes of wrong results.

use crate::ran;
use modalign::ops;
use modalign::plan::Access;
use modalign::selftest::{Options, Progress, gradients, kernels, run};
use modalign::{Error, Gpu, GpuOptions};
use ran::{Place, fails};
use std::sync::Mutex;
use std::sync::OnceLock;

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| Place::fresh("selftest"))
}

#[test]
fn kernels_by_name_with_their_shaders() {
    let report =
        place().json("selftest --quick --kernel concat,slice --shaders wgsl --json --quiet");
    assert_eq!(report["passed"], true);
    assert_eq!(report["failed"], 0);
    let rows = report["checked"].as_array().expect("rows");
    let mut names: Vec<_> = rows.iter().map(|r| r["name"].as_str().expect("a name")).collect();
    names.sort();
    assert_eq!(names, ["concat", "slice"]);
    for row in rows {
        assert_eq!(row["part"], "kernel");
        assert!(row["cases"].as_u64() > Some(1) && row["seconds"].as_f64() > Some(0.0), "{row}");
        assert!(row["at"].as_str().expect("a place").contains(" on "), "{row}");
        assert!(row["largest"].as_f64() <= row["allowed"].as_f64(), "{row}");
    }
    let family = report["family"].as_str().expect("a family");
    let devices = report["devices"].as_array().expect("devices");
    assert!(devices[0] == family && devices[1] == format!("{family}, checked"), "{devices:?}");

    // Every text that was given to the driver: named, whole, preprocessed.
    let files: Vec<_> = std::fs::read_dir(place().at("wgsl")).expect("a folder").collect();
    assert_eq!(report["shaders"].as_u64(), Some(files.len() as u64));
    for kernel in ["concat", "slice"] {
        let path = place().at("wgsl").join(format!("{kernel}.{family}.0.wgsl"));
        let text = std::fs::read_to_string(path).expect("a shader");
        assert!(text.starts_with(&format!("// {kernel}: ")) && text.contains("fn main"), "{text}");
        assert!(!text.contains("#if") && !text.contains("${"), "{text}");
    }
}

#[test]
fn a_table_for_people_and_errors_in_a_line() {
    let ran = place().run("selftest --quick --kernel slice");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("allowed") && ran.out.contains("\n slice"), "{}", ran.out);
    assert!(ran.out.trim_end().ends_with("all well"), "{}", ran.out);
    assert!(ran.err.contains("kernels: ") && ran.err.contains(" of "), "{}", ran.err);
    fails(place().run("selftest --kernel slise"), 2, &["'slise'", "'slice'"]);
    fails(place().run("selftest --adapter nonesuch"), 1, &["nonesuch"]);
}

#[test]
fn a_kernel_that_is_wrong_is_named() {
    let devices = kernels::devices(None, true).expect("an adapter");
    let kernel = ops::find("slice").expect("a kernel");
    let cases = (kernel.cases)();
    let twins: Vec<kernels::Left> = cases.iter().map(|c| ops::run_twin(kernel, c)).collect();
    let right = kernels::check(&devices[0], kernel, &cases, |i| &twins[i]);
    assert!(right.failures.is_empty() && right.cases >= cases.len(), "{:?}", right.failures);

    // As if the device had computed something else in the second case.
    let mut wrong = twins.clone();
    let at = kernel.bindings.iter().position(|b| b.access == Access::Write).expect("a result");
    let word = &mut wrong[1][at].as_mut().expect("there")[3];
    let was = f32::from_bits(*word);
    *word = (was + 0.25).to_bits();
    let found = kernels::check(&devices[0], kernel, &cases, |i| &wrong[i]);
    assert_eq!((found.cases, found.failures.len()), (right.cases, 1));
    let failure = &found.failures[0];
    assert!(failure.at.starts_with(&cases[1].name), "{failure:?}");
    assert!(failure.detail.contains("[3]") && found.largest == failure.difference, "{failure:?}");
    let off = f64::from(0.25 / (1.0 + (was + 0.25).abs()));
    assert!((failure.difference - off).abs() < 1e-6, "{failure:?}, want {off}");
}

#[test]
fn a_gradient_that_is_wrong_is_named() {
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    // Its value is x², and its gradient that of x² / 2 + what no one differentiates.
    let entry = gradients::entry("half", &[&[3, 4]], |t, v| {
        let square = t.square(v[0])?;
        let half = t.scale(square, 0.5)?;
        let rest = t.detach(half)?;
        t.add(half, rest)
    });
    let found = gradients::check(&gpu, &entry);
    assert_eq!(found.failures.len(), found.cases);
    assert!(found.failures[0].detail.contains("differences say"), "{:?}", found.failures[0]);
}

#[test]
fn the_verdict_is_an_error_that_says_what_is_wrong() {
    let seen = Mutex::new(Vec::new());
    let options = Options { kernels: vec!["slice".into()], quick: true, ..Options::default() };
    let watch = |progress: Progress| {
        seen.lock().expect("not poisoned").push(format!("{progress:?}"));
    };
    let mut report = run(&options, &watch).expect("a report");
    report.verdict().expect("all well");
    let seen = seen.into_inner().expect("not poisoned");
    assert!(seen[0].starts_with("Begin(Kernel") && seen.len() > 4, "{seen:?}");

    report.checked[0].failures.push(modalign::selftest::Failure {
        at: "a case on tiled".into(),
        detail: "OUT[3] is 1, twin has 2".into(),
        difference: 0.33,
    });
    report.failed = 1;
    let error = report.verdict().expect_err("something is wrong");
    assert!(matches!(error, Error::Gpu(_)));
    let text = error.to_string();
    for part in ["slice", "a case on tiled", "OUT[3] is 1", &report.adapter] {
        assert!(text.contains(part), "no '{part}' in {text}");
    }
}
