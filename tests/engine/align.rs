//! The covariance term on the device: against PyTorch, against finite differences, and one test
//! for every property that the documentation of `ops::align` states.

use modalign::gpu::{Family, GpuOptions};
use modalign::ops::align::{COVARIANCE, Pair};
use modalign::ops::{self, Act, random};
use modalign::plan::{Case, CaseArg, Memory, Program, SpaceId, Spaces};
use modalign::{Gpu, Result, Tape, Var};
use std::sync::OnceLock;

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| open(None))
}

fn open(family: Option<Family>) -> Gpu {
    let options = GpuOptions { family, quiet: true, ..Default::default() };
    Gpu::with(&options).expect("an adapter")
}

/// A matrix on the host.
#[derive(Clone, Debug)]
struct Matrix {
    n: usize,
    d: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// Random, with columns that share a factor and differ in mean and spread.
    fn random(seed: u64, n: usize, d: usize) -> Self {
        let (own, shared) = (random(seed, n * d), random(seed + 1000, n));
        let data = own.iter().enumerate().map(|(i, x)| {
            let (r, c) = (i / d, i % d);
            let spread = 0.5 + (c as f32 + seed as f32) % 3.0;
            // On a coarse grid, so that shifting by a power of two is exact.
            ((spread * (x + shared[r]) + 0.3 * c as f32) * 1024.0).round() / 1024.0
        });
        Matrix { n, d, data: data.collect() }
    }

    fn map(&self, f: impl Fn(usize, usize, f32) -> f32) -> Self {
        let data = self.data.iter().enumerate().map(|(i, x)| f(i / self.d, i % self.d, *x));
        Matrix { data: data.collect(), ..*self }
    }

    fn rows(&self, order: &[usize]) -> Self {
        self.map(|r, c, _| self.data[order[r] * self.d + c])
    }
}

/// A recording on a device: every input is a parameter, so that its gradient can be read.
struct Setup<'a> {
    gpu: &'a Gpu,
    memory: Memory,
    program: Program,
    values: Vec<SpaceId>,
    grads: Vec<SpaceId>,
    sizes: Vec<usize>,
    outputs: Vec<Var>,
}

impl<'a> Setup<'a> {
    /// Records `build`, which returns the losses to differentiate and what else to read.
    fn new(
        gpu: &'a Gpu,
        inputs: &[Matrix],
        build: impl FnOnce(&mut Tape, &[Var]) -> Result<(Vec<Var>, Vec<Var>)>,
    ) -> Result<Self> {
        let (mut spaces, mut tape) = (Spaces::new(), Tape::new());
        let (mut values, mut grads, mut vars) = (Vec::new(), Vec::new(), Vec::new());
        for (i, x) in inputs.iter().enumerate() {
            let name = format!("x{i}");
            let value = spaces.declare(&name, x.data.len());
            let grad = spaces.declare(format!("d.{name}"), x.data.len());
            vars.push(tape.parameter(&name, &[x.n, x.d], (value, 0), Some((grad, 0))));
            values.push(value);
            grads.push(grad);
        }
        let (losses, others) = build(&mut tape, &vars)?;
        let outputs: Vec<Var> = losses.iter().chain(&others).copied().collect();
        outputs.iter().for_each(|v| tape.keep(*v));
        tape.backward(&losses)?;
        let (program, memory) = tape.compile(gpu, &spaces)?;
        let sizes = inputs.iter().map(|x| x.data.len()).collect();
        let setup = Setup { gpu, memory, program, values, grads, sizes, outputs };
        for (i, x) in inputs.iter().enumerate() {
            setup.set(i, &x.data);
        }
        Ok(setup)
    }

    fn set(&self, input: usize, data: &[f32]) {
        self.memory.write(self.gpu, self.values[input], 0, bytemuck::cast_slice(data)).unwrap();
    }

    fn run(&self) -> Result<()> {
        self.program.replay(self.gpu, &self.memory, true, &self.grads, None)?;
        self.gpu.wait()
    }

    fn output(&self, i: usize) -> Result<Vec<f32>> {
        self.program.read(self.gpu, &self.memory, self.outputs[i])
    }

    fn grad(&self, i: usize) -> Result<Vec<f32>> {
        self.memory.read_f32(self.gpu, self.grads[i], 0, self.sizes[i])
    }
}

/// a, b, weight.
type Weighted = (usize, usize, f32);

/// Loss, terms, norms and the gradient of each feature.
struct Aligned {
    loss: f32,
    terms: Vec<f32>,
    norms: Vec<f32>,
    grads: Vec<Vec<f32>>,
}

fn align(features: &[&Matrix], pairs: &[Weighted], margin: f32) -> Result<Aligned> {
    let features: Vec<Matrix> = features.iter().map(|f| (*f).clone()).collect();
    let setup = Setup::new(gpu(), &features, |tape, vars| {
        let align = tape.align(vars, &pairs_of(pairs), margin)?;
        Ok((vec![align.loss], vec![align.terms, align.norms]))
    })?;
    setup.run()?;
    Ok(Aligned {
        loss: setup.output(0)?[0],
        terms: setup.output(1)?,
        norms: setup.output(2)?,
        grads: (0..features.len()).map(|i| setup.grad(i)).collect::<Result<_>>()?,
    })
}

fn pairs_of(pairs: &[Weighted]) -> Vec<Pair> {
    pairs.iter().map(|&(a, b, weight)| Pair { a, b, weight }).collect()
}

/// The term of one pair, with its gradients.
fn term(a: &Matrix, b: &Matrix) -> Result<Aligned> {
    align(&[a, b], &[(0, 1, 1.0)], 0.0)
}

/// The term of one pair of standardised features.
fn standardised_term(a: &Matrix, b: &Matrix) -> Result<f32> {
    let setup = Setup::new(gpu(), &[a.clone(), b.clone()], |tape, vars| {
        let (a, b) = (tape.standardize(vars[0])?, tape.standardize(vars[1])?);
        Ok((vec![tape.coral(a, b)?], vec![]))
    })?;
    setup.run()?;
    Ok(setup.output(0)?[0])
}

/// A feature's covariance, from the kernel alone.
fn covariance(gpu: &Gpu, x: &Matrix) -> Result<Vec<f32>> {
    let (n, d) = (x.n, x.d);
    let args = [x.data.clone(), vec![9.0; d * d], vec![9.0; d]].map(|v| Some(CaseArg::F(v)));
    let case = Case::new("covariance", vec![n as u32, d as u32, 1], args.to_vec());
    let mut out = ops::run_case(gpu, &COVARIANCE, &case)?;
    Ok(out[1].take().into_iter().flatten().map(f32::from_bits).collect())
}

/// Equal up to `tolerance` of the largest element.
fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let off = (g - w).abs();
        assert!(off <= tolerance * largest, "{what}[{i}] is {g}, want {w} ± {tolerance}");
    }
}

// ---- golden ---------------------------------------------------------------------------------

#[test]
fn golden_vectors_on_every_family() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/align.safetensors");
    let bytes = std::fs::read(path).expect(path);
    let file = safetensors::SafeTensors::deserialize(&bytes).expect(path);
    let matrix = |name: String| {
        let view = file.tensor(&name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let d = *view.shape().last().unwrap_or(&1);
        let data: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        Matrix { n: data.len() / d, d, data }
    };
    for family in [Family::Tiled, Family::Wide(0), Family::Plain] {
        let gpu = open(Some(family));
        for (form, name) in ["", "corr."]
            .iter()
            .flat_map(|f| ["doc", "r16", "r5", "one"].map(|n| (*f, format!("{f}{n}"))))
        {
            let golden = |part: &str| matrix(format!("{name}.{part}"));
            let inputs = [golden("a"), golden("b")];
            let setup = Setup::new(&gpu, &inputs, |tape, vars| {
                let mut sides = [vars[0], vars[1]];
                if form == "corr." {
                    sides = [tape.standardize(vars[0])?, tape.standardize(vars[1])?];
                }
                Ok((vec![tape.coral(sides[0], sides[1])?], sides.to_vec()))
            })?;
            setup.run()?;
            let at = |part: &str| format!("{} {name}.{part}", gpu.caps().family);
            assert_close(&at("loss"), &setup.output(0)?, &golden("loss").data, 1e-5);
            for (i, side) in ["a", "b"].into_iter().enumerate() {
                let part = format!("grad_{side}");
                assert_close(&at(&part), &setup.grad(i)?, &golden(&part).data, 1e-5);
                let part = format!("cov_{side}");
                let x = Matrix { data: setup.output(1 + i)?, ..inputs[i] };
                assert_close(&at(&part), &covariance(&gpu, &x)?, &golden(&part).data, 1e-5);
            }
        }
    }
    Ok(())
}

/// Worked out by hand: integers in, fractions out.
#[test]
fn a_vector_that_fits_on_paper() -> Result<()> {
    let a = Matrix { n: 3, d: 2, data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 7.0] };
    let b = Matrix { n: 3, d: 2, data: vec![2.0, 0.0, 1.0, 1.0, 0.0, 5.0] };
    assert_close("C_a", &covariance(gpu(), &a)?, &[4.0, 5.0, 5.0, 19.0 / 3.0], 1e-6);
    assert_close("C_b", &covariance(gpu(), &b)?, &[1.0, -2.5, -2.5, 7.0], 1e-6);
    let out = term(&a, &b)?;
    // (3² + 2 · 7.5² + (2/3)²) / 16
    assert_close("loss", &[out.loss], &[7.621_527_8], 1e-6);
    let want = [-2.9375, -1.680_555_6, -0.3125, 0.027_777_778, 3.25, 1.652_777_8];
    assert_close("grad a", &out.grads[0], &want, 1e-6);
    let want = [1.5, -1.104_166_7, 0.9375, -0.083_333_33, -2.4375, 1.1875];
    assert_close("grad b", &out.grads[1], &want, 1e-6);
    Ok(())
}

// ---- what it is blind to, and what it sees --------------------------------------------------

#[test]
fn blind_to_the_pairing_of_samples() -> Result<()> {
    let (a, b) = (Matrix::random(1, 12, 5), Matrix::random(2, 12, 5));
    let order: Vec<usize> = (0..12).map(|r| (5 * r + 3) % 12).collect();
    let (plain, shuffled) = (term(&a, &b)?, term(&a.rows(&order), &b)?);
    assert!(plain.loss > 0.01);
    assert_close("loss", &[shuffled.loss], &[plain.loss], 1e-5);
    assert_close("gradient of the other side", &shuffled.grads[1], &plain.grads[1], 1e-5);
    let moved = Matrix { data: plain.grads[0].clone(), ..a }.rows(&order);
    assert_close("gradient follows the rows", &shuffled.grads[0], &moved.data, 1e-5);
    Ok(())
}

#[test]
fn blind_to_shifts() -> Result<()> {
    let (a, b) = (Matrix::random(3, 10, 4), Matrix::random(4, 10, 4));
    let shifted = a.map(|_, c, x| x + [64.0, -32.0, 0.0, 16.0][c]);
    let (plain, moved) = (term(&a, &b)?, term(&shifted, &b)?);
    assert!(plain.loss > 0.01);
    assert_close("loss", &[moved.loss], &[plain.loss], 1e-5);
    assert_close("gradient", &moved.grads[0], &plain.grads[0], 1e-4);
    Ok(())
}

#[test]
fn blind_to_sign() -> Result<()> {
    let (a, b) = (Matrix::random(5, 10, 4), Matrix::random(6, 10, 4));
    let plain = term(&a, &b)?.loss;
    assert_close("all turned", &[term(&a.map(|_, _, x| -x), &b)?.loss], &[plain], 1e-6);
    // Of all columns together, that is: one alone turns its covariances with the others.
    let one = term(&a.map(|_, c, x| if c == 0 { -x } else { x }), &b)?.loss;
    assert!((one - plain).abs() > 0.01 * plain, "{one} against {plain}");
    Ok(())
}

#[test]
fn sees_rotations() -> Result<()> {
    let a = Matrix::random(7, 20, 2);
    let (sin, cos) = 0.7_f32.sin_cos();
    let at = |r: usize, c: usize| a.data[2 * r + c];
    let turned = a.map(|r, c, _| match c {
        0 => cos * at(r, 0) - sin * at(r, 1),
        _ => sin * at(r, 0) + cos * at(r, 1),
    });
    assert_eq!(term(&a, &a)?.loss, 0.0);
    let (apart, norm) = (term(&a, &turned)?.loss, term(&a, &turned)?.norms[0]);
    assert!(apart > 1e-3 * norm * norm, "{apart} at norm {norm}");
    Ok(())
}

#[test]
fn sizes_must_agree() {
    for (n, d) in [(8, 3), (7, 4)] {
        let error = term(&Matrix::random(1, 8, 4), &Matrix::random(2, n, d)).err();
        let text = error.expect("a shape error").to_string();
        assert!(text.starts_with("align: "), "{text}");
        assert!(text.contains("[8, 4]") && text.contains(&format!("[{n}, {d}]")), "{text}");
    }
}

#[test]
fn calls_that_make_no_sense_are_errors() {
    let x: Vec<Matrix> = (0..5).map(|i| Matrix::random(i, 4, 2)).collect();
    let x: Vec<&Matrix> = x.iter().collect();
    let faults: [(&str, usize, &[Weighted], f32); 8] = [
        ("1 features", 1, &[], 1.0),
        ("5 features", 5, &[], 1.0),
        ("there are 2 features", 2, &[(0, 2, 1.0)], 1.0),
        ("two different", 2, &[(1, 1, 1.0)], 1.0),
        ("earlier pair", 3, &[(0, 1, 1.0), (1, 0, 1.0)], 1.0),
        ("weight", 2, &[(0, 1, f32::NAN)], 1.0),
        ("margin", 2, &[(0, 1, 1.0)], -1.0),
        ("margin", 2, &[(0, 1, 1.0)], f32::INFINITY),
    ];
    for (want, count, pairs, margin) in faults {
        let text = align(&x[..count], pairs, margin).err().expect(want).to_string();
        assert!(text.contains(want), "'{text}' does not say '{want}'");
    }
}

/// Number of pivots above `floor` in Gaussian elimination with full pivoting.
fn rank(matrix: &[f32], d: usize, floor: f64) -> usize {
    let mut m: Vec<Vec<f64>> =
        matrix.chunks(d).map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect();
    for k in 0..d {
        let size = |&(r, c): &(usize, usize)| m[r][c].abs();
        let rest = (k..d).flat_map(|r| (k..d).map(move |c| (r, c)));
        let (r, c) = rest.max_by(|a, b| size(a).total_cmp(&size(b))).expect("not empty");
        if m[r][c].abs() <= floor {
            return k;
        }
        m.swap(k, r);
        m.iter_mut().for_each(|row| row.swap(k, c));
        let pivot = m[k].clone();
        for row in &mut m[k + 1..] {
            let factor = row[k] / pivot[k];
            row.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
        }
    }
    d
}

#[test]
fn rank_is_below_the_number_of_rows() -> Result<()> {
    for (n, d) in [(2, 6), (4, 8), (6, 6), (20, 6)] {
        let c = covariance(gpu(), &Matrix::random(8, n, d))?;
        assert_eq!(rank(&c, d, 1e-5), (n - 1).min(d), "{n} rows of {d}");
    }
    Ok(())
}

#[test]
fn collapse_is_a_trivial_zero() -> Result<()> {
    let (a, b) = (Matrix::random(9, 16, 6), Matrix::random(10, 16, 6));
    let whole = term(&a, &b)?;
    // The term falls with the fourth power of the scale, the norms with the second: they show
    // it happening while the term alone looks like success.
    let small = |x: &Matrix| x.map(|_, _, v| 0.125 * v);
    let shrunk = term(&small(&a), &small(&b))?;
    assert_close("term", &shrunk.terms, &[whole.terms[0] / 4096.0], 1e-5);
    let norms: Vec<f32> = whole.norms.iter().map(|v| v / 64.0).collect();
    assert_close("norms", &shrunk.norms, &norms, 1e-5);
    // All the way: constant features, different on the two sides and nothing to learn from.
    let constant = |x: &Matrix, at: f32| x.map(|_, c, _| at + 0.1 * c as f32);
    let gone = term(&constant(&a, 0.7), &constant(&b, -3.3))?;
    assert_eq!((gone.loss, gone.terms, gone.norms), (0.0, vec![0.0], vec![0.0; 2]));
    assert!(gone.grads.iter().flatten().all(|v| *v == 0.0));
    Ok(())
}

#[test]
fn standardised_form_ignores_scale() -> Result<()> {
    let (a, b) = (Matrix::random(11, 24, 4), Matrix::random(12, 24, 4));
    let plain = standardised_term(&a, &b)?;
    assert!(plain > 1e-3);
    let stretched = a.map(|_, c, x| x * [0.5, 3.0, 20.0, 1.0][c]);
    assert_close("scaled", &[standardised_term(&stretched, &b)?], &[plain], 1e-4);
    // Shrinking, the way out of the plain form, gains nothing until the variance nears eps.
    let shrink = |x: &Matrix| x.map(|_, _, v| 0.25 * v);
    assert_close("shrunk", &[standardised_term(&shrink(&a), &shrink(&b))?], &[plain], 2e-3);
    // A column without variance is left out, not divided by zero.
    let flat = standardised_term(&a.map(|_, c, x| if c == 2 { 0.3 } else { x }), &b)?;
    assert!(flat.is_finite());
    Ok(())
}

// ---- weights --------------------------------------------------------------------------------

#[test]
fn negative_weight_is_bounded() -> Result<()> {
    let (a, b) = (Matrix::random(13, 16, 5), Matrix::random(14, 16, 5));
    let plain = term(&a, &b)?;
    let scaled = |g: &[f32]| g.iter().map(|v| -2.0 * v).collect::<Vec<_>>();

    let within = align(&[&a, &b], &[(0, 1, -2.0)], 2.0 * plain.loss)?;
    assert_close("loss within", &[within.loss], &[-2.0 * plain.loss], 1e-6);
    for (got, want) in within.grads.iter().zip(&plain.grads) {
        assert_close("gradient within", got, &scaled(want), 1e-6);
    }

    let margin = 0.5 * plain.loss;
    for stretch in [1.0, 1000.0] {
        let far = a.map(|_, _, x| stretch * x);
        let beyond = align(&[&far, &b], &[(0, 1, -2.0)], margin)?;
        assert_eq!(beyond.loss, -2.0 * margin);
        assert!(beyond.grads.iter().flatten().all(|v| *v == 0.0));
        assert!(beyond.terms[0] >= plain.terms[0], "the term is logged as it is");
    }

    // A positive weight knows no margin.
    assert_close("positive", &[align(&[&a, &b], &[(0, 1, 1.0)], margin)?.loss], &[plain.loss], 0.0);
    Ok(())
}

#[test]
fn zero_weight_only_measures() -> Result<()> {
    let x = [15, 16, 17].map(|s| Matrix::random(s, 9, 3));
    let x = [&x[0], &x[1], &x[2]];
    let out = align(&x, &[(0, 1, 1.0), (1, 2, 0.0)], 1.0)?;
    assert_close("terms", &out.terms, &[term(x[0], x[1])?.loss, term(x[1], x[2])?.loss], 1e-6);
    assert_close("loss", &[out.loss], &out.terms[..1], 0.0);
    assert!(out.grads[2].iter().all(|v| *v == 0.0));
    assert!(out.grads[0].iter().any(|v| *v != 0.0));
    Ok(())
}

#[test]
fn pairs_add_up() -> Result<()> {
    let x = [18, 19, 20, 21].map(|s| Matrix::random(s, 33, 18));
    let pairs = [(0, 1, 0.5), (3, 0, -0.25), (1, 2, 2.0), (2, 3, 1.5), (1, 3, 0.1), (0, 2, 1.0)];
    let out = align(&[&x[0], &x[1], &x[2], &x[3]], &pairs, 1e6)?;
    let (mut loss, mut terms) = (0.0, Vec::new());
    let mut grads = vec![vec![0.0; 33 * 18]; 4];
    for (a, b, weight) in pairs {
        let one = term(&x[a], &x[b])?;
        loss += weight * one.loss;
        terms.extend(one.terms);
        for (side, grad) in [a, b].into_iter().zip(&one.grads) {
            grads[side].iter_mut().zip(grad).for_each(|(sum, g)| *sum += weight * g);
        }
    }
    assert_close("loss", &[out.loss], &[loss], 1e-5);
    assert_close("terms", &out.terms, &terms, 1e-5);
    for (got, want) in out.grads.iter().zip(&grads) {
        assert_close("gradient", got, want, 1e-5);
    }
    let norm = |x| Ok(covariance(gpu(), x)?.iter().map(|v| v * v).sum::<f32>().sqrt());
    let norms: Vec<f32> = x.iter().map(norm).collect::<Result<_>>()?;
    assert_close("norms", &out.norms, &norms, 1e-5);
    Ok(())
}

// ---- inside a graph -------------------------------------------------------------------------

#[test]
fn dispatches_do_not_grow_with_the_features() -> Result<()> {
    let x: Vec<Matrix> = (0..4).map(|i| Matrix::random(i, 8, 4)).collect();
    for (m, pairs, backward) in [
        (2, vec![(0, 1, 1.0)], 2),
        (3, vec![(0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.0)], 2),
        (3, vec![(0, 1, 1.0), (0, 2, 0.0), (1, 2, 0.0)], 2),
        (3, vec![(0, 1, 0.0)], 0),
        (4, vec![(0, 1, 1.0), (2, 3, -1.0)], 2),
    ] {
        let setup = Setup::new(gpu(), &x[..m], |tape, vars| {
            Ok((vec![tape.align(vars, &pairs_of(&pairs), 1.0)?.loss], vec![]))
        })?;
        assert_eq!(setup.program.dispatch_count(true), 3 + backward, "{pairs:?}");
        // Features that lie stacked need not be put there.
        let rows = x[..m].iter().flat_map(|x| &x.data).copied().collect();
        let stacked = Matrix { n: m * 8, d: 4, data: rows };
        let same = Setup::new(gpu(), &[stacked], |tape, vars| {
            let stacked = tape.reshape(vars[0], &[m, 8, 4])?;
            Ok((vec![tape.align_stacked(stacked, &pairs_of(&pairs), 1.0)?.loss], vec![]))
        })?;
        assert_eq!(same.program.dispatch_count(true), 2 + backward / 2, "{pairs:?}");
        setup.run()?;
        same.run()?;
        assert_eq!(setup.output(0)?, same.output(0)?, "{pairs:?}");
        let apart: Vec<f32> = (0..m).map(|i| setup.grad(i)).collect::<Result<Vec<_>>>()?.concat();
        assert_eq!(apart, same.grad(0)?, "{pairs:?}");
    }
    Ok(())
}

/// A projection whose output three terms read, one of them behind another layer and one
/// standardised, and a loss that is scaled after the term: upstream gradients other than 1, and
/// contributions that add up in the middle of a graph.
#[test]
fn gradients_by_finite_differences() -> Result<()> {
    let input = Matrix::random(22, 9, 4);
    let mut parameters: Vec<Matrix> = [(5, 4), (5, 5), (9, 5), (9, 5)]
        .into_iter()
        .enumerate()
        .map(|(i, (n, d))| Matrix { n, d, data: random(30 + i as u64, n * d) })
        .collect();
    let setup = Setup::new(gpu(), &parameters, |tape, vars| {
        let x = tape.constant("x", &[9, 4], &input.data)?;
        let &[w1, w2, b, c] = vars else { panic!("four parameters") };
        let h = tape.linear(x, w1, None, Act::None)?;
        let pairs = pairs_of(&[(0, 1, 0.5), (0, 2, 1.0), (2, 1, -0.25)]);
        let align = tape.align(&[h, b, c], &pairs, 1e6)?;
        let three = tape.constant("three", &[1, 1], &[3.0])?;
        let scaled = tape.matmul(align.loss, three)?;
        let deep = tape.linear(h, w2, None, Act::Tanh)?;
        let behind = tape.coral(deep, c)?;
        let (zh, zb) = (tape.standardize(h)?, tape.standardize(b)?);
        let standardised = tape.coral(zh, zb)?;
        // A gradient whose columns do not add up to zero, as those of the term do.
        let (left, right) = (random(40, 9), random(41, 5));
        let left = tape.constant("left", &[1, 9], &left)?;
        let right = tape.constant("right", &[5, 1], &right)?;
        let row = tape.matmul(left, zh)?;
        let number = tape.matmul(row, right)?;
        Ok((vec![scaled, behind, standardised, number], vec![]))
    })?;
    let total = || -> Result<f64> {
        setup.run()?;
        (0..4).map(|i| Ok(f64::from(setup.output(i)?[0]))).sum()
    };
    total()?;
    let grads: Vec<Vec<f32>> =
        (0..parameters.len()).map(|i| setup.grad(i)).collect::<Result<_>>()?;
    let step = 0.03_f32;
    for (p, grad) in grads.iter().enumerate() {
        let mut numeric = Vec::new();
        for i in 0..grad.len() {
            let value = parameters[p].data[i];
            let mut at = |by: f32| {
                parameters[p].data[i] = value + by * step;
                setup.set(p, &parameters[p].data);
                total()
            };
            // Five points: exact for the quartic that the plain term is.
            let slope =
                (8.0 * (at(1.0)? - at(-1.0)?) - (at(2.0)? - at(-2.0)?)) / (12.0 * f64::from(step));
            at(0.0)?;
            numeric.push(slope as f32);
        }
        assert!(grad.iter().any(|g| g.abs() > 1e-3), "parameter {p} has a gradient");
        assert_close(&format!("parameter {p}"), grad, &numeric, 1e-3);
    }
    Ok(())
}
