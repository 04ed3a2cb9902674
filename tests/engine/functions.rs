//! Quotients and other functions of one element, batched products, permuted axes, outer products, rows
//! of length one, log-sum-exp: what they give by hand, at the ends of their ranges as in PyTorch, and
//! slopes that differences cannot tell. Their gradients against differences are in the selftest's table.

use crate::common;
use common::computed;
use modalign::gpu::{Family, GpuOptions};
use modalign::ops::batched::Transposed;
use modalign::plan::{Spaces, Step};
use modalign::selftest::gradients::Build;
use modalign::{Error, Gpu, Result, Tape, Var};

fn families() -> Vec<Gpu> {
    let list = [Family::Tiled, Family::Plain, Family::Wide(0)];
    let with = |family| GpuOptions { family: Some(family), quiet: true, ..Default::default() };
    list.into_iter().map(|family| Gpu::with(&with(family)).expect("an adapter")).collect()
}

/// Equal within 1e-5 of their size, infinities and NaN as they are.
fn same(got: &[f32], want: &[f32]) -> bool {
    got.len() == want.len()
        && got.iter().zip(want).all(|(g, w)| {
            g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= 1e-5 * (w.abs() + 1e-6)
        })
}

#[test]
fn ends_of_functions_are_as_in_pytorch() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let x = [0.0, -1.0, nan, inf, -inf, 4.0, -20.0, 1e-3];
    // As PyTorch 2 has them.
    let want: [(&str, [f32; 8]); 9] = [
        ("sqrt", [0.0, nan, nan, inf, nan, 2.0, nan, 0.031_622_775]),
        ("log", [-inf, nan, nan, inf, nan, 1.386_294_4, nan, -6.907_755_4]),
        (
            "softplus",
            [
                std::f32::consts::LN_2,
                0.313_261_7,
                nan,
                inf,
                0.0,
                4.018_15,
                2.061_153_6e-9,
                0.693_647_3,
            ],
        ),
        ("reciprocal", [inf, -1.0, nan, 0.0, 0.0, 0.25, -0.05, 1000.0]),
        ("clamp", [0.0, -0.5, nan, 2.0, -0.5, 2.0, -0.5, 1e-3]),
        ("straight", [0.0, -0.5, nan, 2.0, -0.5, 2.0, -0.5, 1e-3]),
        ("leaky_relu", [0.0, -0.1, nan, inf, -inf, 4.0, -2.0, 1e-3]),
        ("elu", [0.0, -0.632_120_6, nan, inf, -1.0, 4.0, -1.0, 1e-3]),
        ("reversal", x),
    ];
    for gpu in families() {
        let build = |t: &mut Tape, x| {
            Ok(vec![
                t.sqrt(x)?,
                t.log(x)?,
                t.softplus(x)?,
                t.reciprocal(x)?,
                t.clamp(x, -0.5, 2.0)?,
                t.clamp_straight_through(x, -0.5, 2.0)?,
                t.leaky_relu(x, 0.1)?,
                t.elu(x, 1.0)?,
                t.gradient_reversal(x, 3.0)?,
            ])
        };
        let got = computed(&gpu, &[8], &x, build).unwrap();
        for (got, (name, want)) in got.iter().zip(&want) {
            assert!(same(got, want), "{name} on {}: {got:?}, not {want:?}", gpu.caps().family);
        }
    }
}

#[test]
fn ends_of_rows_are_as_in_pytorch() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let x = [-inf, -inf, 1.0, -inf, inf, 2.0, nan, 0.0, 500.0, 499.0];
    let lse = [-inf, 1.0, inf, nan, 500.313_26];
    let log_softmax = [nan, nan, 0.0, -inf, nan, -inf, nan, nan, -0.313_261_7, -1.313_261_7];
    for gpu in families() {
        let build =
            |t: &mut Tape, x| Ok(vec![t.logsumexp(x)?, t.log_mean_exp(x)?, t.log_softmax(x)?]);
        let got = computed(&gpu, &[5, 2], &x, build).unwrap();
        let mean = lse.map(|v| v - 2.0_f32.ln());
        for (got, want) in got.iter().zip([&lse[..], &mean, &log_softmax]) {
            // A difference of two numbers near 500 has the last bit of 500.
            let close =
                got.iter().zip(want).all(|(g, w)| same(&[*g], &[*w]) || (g - w).abs() < 1e-4);
            assert!(close, "on {}: {got:?}, not {want:?}", gpu.caps().family);
        }
        let rows = [3.0, -4.0, 0.0, 0.0, 1e-13, 0.0, nan, 1.0];
        let got =
            computed(&gpu, &[4, 2], &rows, |t, x| Ok(vec![t.l2_normalize(x, 1e-12)?])).unwrap();
        let want = [0.6, -0.8, 0.0, 0.0, 0.1, 0.0, nan, nan];
        assert!(same(&got[0], &want), "on {}: {got:?}", gpu.caps().family);
    }
}

/// The gradient of a sum of what `build` makes of `x`, weighted by 1, 2, 3, ….
fn slopes(x: &[f32], build: impl Fn(&mut Tape, Var) -> Result<Var>) -> Result<Vec<f32>> {
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let (value, grad) = (spaces.declare("x", x.len()), spaces.declare("d.x", x.len()));
    let var = tape.parameter("x", &[x.len()], (value, 0), Some((grad, 0)));
    let y = build(&mut tape, var)?;
    let weights: Vec<f32> = (1..=tape.len(y)).map(|i| i as f32).collect();
    let shape = tape.shape(y).to_vec();
    let weights = tape.constant("weights", &shape, &weights)?;
    let y = tape.mul(y, weights)?;
    let loss = tape.sum(y)?;
    tape.backward(&[loss])?;
    let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() })?;
    let (program, memory) = tape.compile(&gpu, &spaces)?;
    let words: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    memory.write(&gpu, value, 0, &words)?;
    memory.write_step(&gpu, &Step::default())?;
    program.run(&gpu, &memory)?;
    memory.read_f32(&gpu, grad, 0, x.len())
}

#[test]
fn slopes_that_differences_cannot_tell() {
    let x = [-1.0, -0.5, 0.0, 0.4, 2.0];
    let got = slopes(&x, |t, x| t.clamp(x, -0.5, 0.4)).unwrap();
    assert_eq!(got, [0.0, 2.0, 3.0, 4.0, 0.0], "clamp: 1 at its bounds");
    let got = slopes(&x, |t, x| t.clamp_straight_through(x, -0.5, 0.4)).unwrap();
    assert_eq!(got, [1.0, 2.0, 3.0, 4.0, 5.0], "clamp_straight_through");
    let got = slopes(&x, |t, x| t.gradient_reversal(x, 0.5)).unwrap();
    assert_eq!(got, [-0.5, -1.0, -1.5, -2.0, -2.5], "gradient_reversal");
    let got = slopes(&x, |t, x| t.leaky_relu(x, 0.1)).unwrap();
    assert!(same(&got, &[0.1, 0.2, 0.3, 4.0, 5.0]), "leaky_relu: {got:?}");
    // All of a row at −∞: no gradient, rather than NaN.
    let got = slopes(&[f32::NEG_INFINITY; 4], |t, x| t.logsumexp(x)).unwrap();
    assert_eq!(got, [0.0; 4], "logsumexp of nothing");
    // A row of zeros: that of a division by eps.
    let got = slopes(&[0.0; 3], |t, x| t.l2_normalize(x, 0.5)).unwrap();
    assert_eq!(got, [2.0, 4.0, 6.0], "l2_normalize of zeros");
}

#[test]
fn products_and_axes_by_hand() {
    let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
    for gpu in families() {
        let build = |t: &mut Tape, x| {
            let w = t.constant("w", &[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, -1.0])?;
            let row = t.constant("row", &[2, 2], &[1.0, 10.0, 100.0, 1000.0])?;
            let ones = t.prepend_one(row)?;
            Ok(vec![
                t.bmm(x, w, Transposed::Second)?,
                t.bmm(w, x, Transposed::First)?,
                t.permute(x, &[2, 0, 1])?,
                t.transpose(x, 1, 2)?,
                t.outer(row, row)?,
                ones,
            ])
        };
        let got = computed(&gpu, &[2, 2, 3], &x, build).unwrap();
        let want: [&[f32]; 6] = [
            &[4.0, -1.0, 13.0, -1.0, 22.0, -1.0, 31.0, -1.0],
            &[
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -3.0, -2.0, -1.0, //
                6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 3.0, 4.0, 5.0,
            ],
            &[0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0],
            &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0],
            &[1.0, 10.0, 10.0, 100.0, 1e4, 1e5, 1e5, 1e6],
            &[1.0, 1.0, 10.0, 1.0, 100.0, 1000.0],
        ];
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(same(got, want), "result {i} on {}: {got:?}", gpu.caps().family);
        }
    }
}

#[test]
fn wrong_shapes_of_these_are_named() {
    let bmm = |form| -> Build { Box::new(move |t, v| t.bmm(v[0], v[1], form)) };
    let table: [(&str, [&[usize]; 2], Build); 12] = [
        ("div", [&[2, 3], &[2]], Box::new(|t, v| t.div(v[0], v[1]))),
        ("bmm", [&[2, 3], &[4]], bmm(Transposed::Neither)),
        ("bmm", [&[2, 3, 4], &[2, 3, 4]], bmm(Transposed::Neither)),
        ("bmm", [&[2, 3, 4], &[2, 4, 3]], bmm(Transposed::Second)),
        ("bmm", [&[2, 3, 4], &[3, 4, 5]], bmm(Transposed::Neither)),
        ("bmm", [&[6, 3, 4], &[2, 3, 3, 5]], bmm(Transposed::First)),
        ("bmm", [&[0, 3, 4], &[1, 4, 5]], bmm(Transposed::Neither)),
        ("outer", [&[2, 3], &[3, 3]], Box::new(|t, v| t.outer(v[0], v[1]))),
        ("outer", [&[2, 3], &[2, 3, 1]], Box::new(|t, v| t.outer(v[0], v[1]))),
        ("reparameterize", [&[2, 3], &[3, 2]], Box::new(|t, v| t.reparameterize(v[0], v[1]))),
        ("permute", [&[2, 3], &[2, 3]], Box::new(|t, v| t.permute(v[0], &[0, 0]))),
        ("transpose", [&[2, 3], &[2, 3]], Box::new(|t, v| t.transpose(v[0], 0, 2))),
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
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let space = spaces.declare("x", 4);
    let x = tape.input("x", &[4], space, 0);
    assert!(tape.clamp(x, 1.0, 0.0).is_err() && tape.clamp(x, f32::NAN, 0.0).is_err());
    assert!(tape.clamp_straight_through(x, 1.0, 0.0).is_err());
    assert!(tape.l2_normalize(x, -1.0).is_err() && tape.l2_normalize(x, f32::NAN).is_err());
    assert!(tape.add_noise(x, -1.0).is_err() && tape.add_noise(x, f32::INFINITY).is_err());
    assert_eq!(tape.add_noise(x, 0.0).unwrap(), x);
    assert!(tape.normal(&[2, 0]).is_err());
    assert!(tape.is_empty(), "what was refused is not recorded");
}
