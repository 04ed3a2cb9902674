//! Every operation's gradient against central differences, by the table that `modalign selftest` has,
//! too; and values by hand.
//!
//! `OP=lstm` tries the entries whose names contain that. The table is `src/selftest/gradients/table.rs`.

use crate::common;
use common::computed;
use modalign::gpu::GpuOptions;
use modalign::ops::{Act, random};
use modalign::plan::{Spaces, Step};
use modalign::selftest::gradients::{self, Build, Entry, classes};
use modalign::{Error, Gpu, Tape};

fn table() -> Vec<Entry> {
    gradients::table()
}

#[test]
fn gradients_match_differences() {
    let only = std::env::var("OP").ok();
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    let mut failures = Vec::new();
    for entry in table().iter().filter(|e| only.as_ref().is_none_or(|o| e.name.contains(o))) {
        let outcome = gradients::check(&gpu, entry);
        assert!(outcome.cases > 0, "{} compares nothing", entry.name);
        let found = outcome.failures.iter();
        failures.extend(found.map(|f| format!("{} ({}): {}", entry.name, f.at, f.detail)));
    }
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn values_by_hand() {
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    let build = |t: &mut Tape, x| {
        let targets = classes(t, &[0, 2])?;
        let row = t.constant("row", &[3], &[1.0, 2.0, 3.0])?;
        let column = t.constant("column", &[2, 1], &[10.0, 20.0])?;
        let sliced = t.slice(x, 1, 2)?;
        Ok(vec![
            t.sum(x)?,
            t.mean(x)?,
            t.sum_rows(x)?,
            t.sum_cols(x)?,
            t.concat(&[sliced, x])?,
            t.sub(x, row)?,
            t.mul(x, column)?,
            t.square(x)?,
            t.softmax(x)?,
            t.cross_entropy(x, targets)?,
        ])
    };
    let got = computed(&gpu, &[2, 3], &[1.0, -2.0, 3.0, 0.0, 0.0, 0.0], build).unwrap();
    let e = [1.0_f32, -2.0, 3.0].map(f32::exp);
    let total: f32 = e.iter().sum();
    let third = 1.0 / 3.0;
    let want = [
        vec![2.0],
        vec![third],
        vec![1.0, -2.0, 3.0],
        vec![2.0, 0.0],
        vec![-2.0, 3.0, 1.0, -2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        vec![0.0, -4.0, 0.0, -1.0, -2.0, -3.0],
        vec![10.0, -20.0, 30.0, 0.0, 0.0, 0.0],
        vec![1.0, 4.0, 9.0, 0.0, 0.0, 0.0],
        vec![e[0] / total, e[1] / total, e[2] / total, third, third, third],
        vec![0.5 * ((total / e[0]).ln() + 3.0_f32.ln())],
    ];
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let close = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5);
        assert!(got.len() == want.len() && close, "result {i} is {got:?}, not {want:?}");
    }
}

#[test]
fn large_sums_take_two_stages() {
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    for (m, n) in [(1000_usize, 130_usize), (1537, 44), (70_001, 20)] {
        let values = random(3, m * n);
        let build = |t: &mut Tape, x| {
            let sums = vec![t.sum(x)?, t.sum_rows(x)?, t.sum_cols(x)?];
            assert_eq!(t.recording().calls().len(), 5, "{m}x{n}: two, two and one dispatch");
            Ok(sums)
        };
        let got = computed(&gpu, &[m, n], &values, build).unwrap();
        let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let rows = wide.chunks(n).map(|r| r.iter().sum()).collect();
        let cols = (0..n).map(|c| wide.iter().skip(c).step_by(n).sum()).collect();
        let want: [Vec<f64>; 3] = [vec![wide.iter().sum()], cols, rows];
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(want) {
                assert!((f64::from(*g) - w).abs() < 2e-3, "{m}x{n}: {g} for {w}");
            }
        }
    }
}

#[test]
fn long_tensors_fold_their_grid() {
    // One more than 65,535 workgroups of 64 reach.
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).expect("an adapter");
    let values = random(4, 65_535 * 64 + 1);
    let build = |t: &mut Tape, x| Ok(vec![t.scale(x, 2.0)?]);
    let got = computed(&gpu, &[values.len()], &values, build).unwrap();
    assert!(got[0].iter().zip(&values).all(|(g, v)| *g == 2.0 * v));
}

#[test]
fn wrong_shapes_are_named() {
    let table: [(&str, [&[usize]; 2], Build); 10] = [
        ("add", [&[2, 3], &[2]], Box::new(|t, v| t.add(v[0], v[1]))),
        ("sub", [&[2, 3], &[3, 2]], Box::new(|t, v| t.sub(v[0], v[1]))),
        ("mul", [&[3], &[2, 3]], Box::new(|t, v| t.mul(v[0], v[1]))),
        ("matmul", [&[2, 3], &[2, 3]], Box::new(|t, v| t.matmul(v[0], v[1]))),
        ("linear", [&[2, 3], &[3, 2]], Box::new(|t, v| t.linear(v[0], v[1], None, Act::Relu))),
        ("concat", [&[2, 3], &[3, 3]], Box::new(|t, v| t.concat(v))),
        ("concat", [&[6, 3], &[2, 3, 3]], Box::new(|t, v| t.concat(v))),
        ("slice", [&[2, 3], &[2, 3]], Box::new(|t, v| t.slice(v[0], 2, 2))),
        ("slice", [&[2, 3], &[2, 3]], Box::new(|t, v| t.slice(v[0], 1, 0))),
        ("cross_entropy", [&[2, 3], &[3]], Box::new(|t, v| t.cross_entropy(v[0], v[1]))),
    ];
    for (name, shapes, build) in &table {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let vars = shapes.map(|s| {
            let space = spaces.declare("x", s.iter().product());
            tape.input("x", s, space, 0)
        });
        let error = build(&mut tape, &vars).expect_err(name);
        let Error::Shape { op, detail } = &error else { panic!("{name}: {error}") };
        assert_eq!(op, name);
        assert!(shapes.iter().all(|s| detail.contains(&format!("{s:?}"))), "{error}");
        assert!(tape.is_empty(), "{name} recorded something");
    }
}

#[test]
fn probabilities_outside_zero_to_one_are_refused() {
    for p in [-0.1, 1.0, f32::NAN] {
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let space = spaces.declare("x", 4);
        let x = tape.input("x", &[4], space, 0);
        assert!(tape.dropout(x, p).is_err(), "dropout of {p}");
        assert_eq!(tape.dropout(x, 0.0).unwrap(), x);
    }
}

/// Against the definition, in f64, where a mean is far from zero and a deviation small.
#[test]
fn a_norm_is_what_it_says() {
    let (rows, cols, eps) = (5, 12, 1e-12);
    let far = |seed| random(seed, rows * cols).iter().map(|v| 100.0 + v * 0.5).collect::<Vec<_>>();
    let (x, y, gb) = (far(1), random(2, rows * cols), random(3, 2 * cols));
    let mut tape = Tape::new();
    let mut constant =
        |name, shape: &[usize], values: &[f32]| tape.constant(name, shape, values).unwrap();
    let vars = [
        constant("x", &[rows, cols], &x),
        constant("y", &[rows, cols], &y),
        constant("gb", &[2, cols], &gb),
    ];
    let out = tape.residual_norm(vars[0], vars[1], vars[2], eps, 0.0).unwrap();
    tape.keep(out);
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
    let (program, memory) = tape.compile(&gpu, &Spaces::new()).unwrap();
    memory.write_step(&gpu, &Step::default()).unwrap();
    program.run(&gpu, &memory).unwrap();
    let got = program.read(&gpu, &memory, out).unwrap();
    for r in 0..rows {
        let z: Vec<f64> = (0..cols).map(|c| f64::from(x[r * cols + c] + y[r * cols + c])).collect();
        let mean = z.iter().sum::<f64>() / cols as f64;
        let variance = z.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cols as f64;
        for c in 0..cols {
            let h = (z[c] - mean) / (variance + f64::from(eps)).sqrt();
            let want = f64::from(gb[c]) * h + f64::from(gb[cols + c]);
            let gap = (f64::from(got[r * cols + c]) - want).abs();
            assert!(gap < 1e-4, "row {r}, column {c}: {gap:e}");
        }
    }
}
