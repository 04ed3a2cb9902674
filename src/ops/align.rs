//! The covariance term: second-order statistics of several features drawn together or apart.
//!
//! # The term
//!
//! Features `X_i [n, d]` of one batch, one for each modality. With the mean row `μ = Xᵀ1/n`, the
//! centred feature `X̃ = X − 1μᵀ` and the unbiased covariance `C = X̃ᵀX̃/(n−1)`, a pair gives
//!
//! ```text
//! term(a, b) = 1/(4d²) ‖C_a − C_b‖²_F          zero where n < 2
//! loss       = Σ  w · term(a, b)               over pairs of weight w ≥ 0
//!            + Σ  w · min(term(a, b), margin)  over pairs of weight w < 0
//! ```
//!
//! # Its gradient
//!
//! 1. Centring is a product with `H = 1 − 11ᵀ/n`, symmetric and `HH = H`; so `C = XᵀHX/(n−1)`.
//! 2. Let `D = C_a − C_b`, symmetric. Then `term = tr(DD)/(4d²)` and
//!    `d term = 2 tr(D dD)/(4d²) = tr(D dD)/(2d²)`.
//! 3. Moving `X_a` alone, `dD = dC_a = (dXᵀHX + XᵀH dX)/(n−1)`. The two parts are transposes of
//!    each other and `D` is symmetric, so both give the same trace:
//!    `tr(D dD) = 2 tr(D XᵀH dX)/(n−1)`.
//! 4. `HX = X̃`, hence `d term = tr(D X̃ᵀ dX)/(d²(n−1))`: the inner product of `dX` with
//!    `X̃D/(d²(n−1))`. Moving `X_b` turns the sign of `dD`:
//!
//! ```text
//! ∂term/∂X_a =  1/(d²(n−1)) X̃_a (C_a − C_b)
//! ∂term/∂X_b = −1/(d²(n−1)) X̃_b (C_a − C_b) = 1/(d²(n−1)) X̃_b (C_b − C_a)
//! ```
//!
//! 5. Both sides read alike, so with the symmetric table `coef[a, b] = coef[b, a] = w`, or 0 where
//!    the margin holds, a feature needs one product for all its pairs, times the gradient `g` of
//!    the loss:
//!
//! ```text
//! ∂loss/∂X_i = g/(d²(n−1)) X̃_i Σ_j coef[i, j] (C_i − C_j)
//! ```
//!
//! That is what `align_grad.wgsl` computes, in one dispatch a feature. For m features a step costs
//! m + 1 dispatches forward and at most m backward.
//!
//! # Where it comes from
//!
//! The term for one pair, its 1/(4d²) and its gradient are those of Deep CORAL (Sun and Saenko,
//! arXiv:1607.01719, and the authors' Caffe layer), made for a source and a target domain.
//! Weighting it for each pair of modalities is a reconstruction of the shared-information module
//! of arXiv:2305.08473, from its abstract; so is the hinge, which bounds a negative weight.
//!
//! # What it can align, and what it cannot
//!
//! Each line is a test of that name in `tests/align.rs`.
//!
//! - It is **blind to pairing**: permuting the samples of one side changes nothing
//!   (`blind_to_the_pairing_of_samples`). It matches statistics of the batch, and no claim that
//!   two modalities of one *sample* come to agree follows from it.
//! - It is blind to a constant shift (`blind_to_shifts`) and to the sign of all features of a
//!   side (`blind_to_sign`).
//! - It sees rotations (`sees_rotations`): column k of one side is matched to column k of the
//!   other, and so both need the same d (`sizes_must_agree`).
//! - `C` has rank n−1 at most (`rank_is_below_the_number_of_rows`): with n ≤ d it is a noisy
//!   estimate in n−1 directions, and says nothing of the others.
//! - It is zero where features are constant (`collapse_is_a_trivial_zero`). A free projection can
//!   get there by shrinking, so watch [`Align::norms`], or pass features through
//!   [`Tape::standardize`], which compares correlations and does not see the scale of a column
//!   (`standardised_form_ignores_scale`).
//! - A negative weight alone would be unbounded below; the hinge ends at `w · margin`, where the
//!   gradient is zero too (`negative_weight_is_bounded`).

use super::random;
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// Largest number of features of one call.
const MOST: usize = 4;
/// Pairs of that many features; the length of the list in `align_loss.wgsl`.
const MOST_PAIRS: usize = MOST * (MOST - 1) / 2;

/// Covariance of one feature; see `shaders/covariance.wgsl`.
pub static COVARIANCE: Kernel = Kernel {
    name: "covariance",
    source: include_str!("../../shaders/covariance.wgsl"),
    bindings: &[
        Binding::read("X"),
        // Of one feature.
        Binding::write("COV").part(|p, _, _| [0, u64::from(p[1]) * u64::from(p[1])]),
        Binding::write("MEAN").part(|p, _, _| [0, u64::from(p[1])]),
    ],
    step: false,
    launch: |family, words, _| {
        let d = words[1];
        let tiles = d.div_ceil(16);
        tiled_or(family, [tiles, tiles, 1], d * d.div_ceil(4))
    },
    twin: reference::covariance,
    cases: covariance_cases,
};

/// Terms, norms, loss and coefficients; see `shaders/align_loss.wgsl`.
pub static LOSS: Kernel = Kernel {
    name: "align_loss",
    source: include_str!("../../shaders/align_loss.wgsl"),
    bindings: &[
        Binding::read("COV"),
        Binding::write("TERMS"),
        Binding::write("NORMS"),
        Binding::write("LOSS"),
        Binding::write("COEF"),
    ],
    step: false,
    launch: |family, _, _| {
        let launch = Launch::of([1, 1, 1]);
        match family {
            Family::Tiled => launch.with("TILED", 1).with("WG", 128),
            Family::Wide(lanes) => launch.with("LANES", lanes).with("WG", lanes),
            Family::Plain => launch.with("WG", 1),
        }
    },
    twin: reference::loss,
    cases: loss_cases,
};

/// Gradient of one feature; see `shaders/align_grad.wgsl`.
pub static GRAD: Kernel = Kernel {
    name: "align_grad",
    source: include_str!("../../shaders/align_grad.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("MEAN").part(|p, _, _| [u64::from(p[1]), 0]),
        Binding::read("COV"),
        Binding::read("COEF"),
        Binding::read("G"),
        Binding::write("DX").adds(3),
    ],
    step: false,
    launch: |family, words, _| {
        let (n, d) = (words[0], words[1]);
        let tiles = grid(n.div_ceil(16) as usize * d.div_ceil(16) as usize, 1);
        tiled_or(family, tiles, d * n.div_ceil(4))
    },
    twin: reference::gradient,
    cases: grad_cases,
};

/// Workgroups of a tiled kernel on a GPU; elsewhere `items` invocations, a subgroup to a
/// workgroup where there is one.
pub(super) fn tiled_or(family: Family, groups: [u32; 3], items: u32) -> Launch {
    let wg = match family {
        Family::Tiled => return Launch::of(groups).with("TILED", 1).with("WG", 256),
        Family::Wide(lanes) => lanes,
        Family::Plain => 64,
    };
    Launch::of(grid(items as usize, wg as usize)).with("WG", wg)
}

/// Two features to draw together or apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Place of one feature in the list given to [`Tape::align`].
    pub a: usize,
    /// Place of the other.
    pub b: usize,
    /// Positive draws them together, negative apart (up to the margin), 0 only measures.
    pub weight: f32,
}

/// What [`Tape::align`] records.
#[derive(Clone, Copy, Debug)]
pub struct Align {
    /// `[1]`: the weighted sum; the only one with a gradient.
    pub loss: Var,
    /// `[pairs]`: the term of each pair, unweighted and without the margin.
    pub terms: Var,
    /// `[features]`: ‖C_i‖_F. Falling towards zero with the terms, it tells of a collapse.
    pub norms: Var,
}

impl Tape {
    /// The covariance term over pairs of 2 to 4 features, each `[n, d]` (a higher rank counts its
    /// leading extents as rows):
    /// `Σ weight · 1/(4d²) ‖C_a − C_b‖²_F`, the term cut off at `margin` where the weight is
    /// negative. The [module](crate::ops::align) derives the gradient and says what the term is
    /// blind to. With fewer than two rows terms, norms and gradients are zero.
    ///
    /// m features take m + 1 dispatches forward and one backward for each feature that wants a
    /// gradient and is in a pair of weight other than 0.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) where features differ in n or d, where there are fewer than 2 or
    /// more than 4, where a pair names a feature that is not there, one feature twice, or the
    /// same two as an earlier pair; [`Config`](Error::Config) for a weight that is not finite or
    /// a margin that is negative or not finite.
    ///
    /// ```no_run
    /// # use modalign::{Tape, Var, ops::align::Pair};
    /// # fn step(tape: &mut Tape, text: Var, audio: Var, video: Var) -> modalign::Result<()> {
    /// let pairs = [Pair { a: 0, b: 1, weight: 0.5 }, Pair { a: 0, b: 2, weight: -0.1 }];
    /// let align = tape.align(&[text, audio, video], &pairs, 1.0)?;
    /// tape.backward(&[align.loss])?;
    /// # Ok(()) }
    /// ```
    pub fn align(&mut self, features: &[Var], pairs: &[Pair], margin: f32) -> Result<Align> {
        let (n, d) = check(self, features, pairs, margin)?;
        let m = features.len();
        let cov = self.output("align.cov", &[m, d, d], &[]);
        let mean = self.output("align.mean", &[m, d], &[]);
        let coef = self.output("align.coef", &[m, m], &[]);
        let terms = self.output("align.terms", &[pairs.len()], &[]);
        let norms = self.output("align.norms", &[m], &[]);
        let pulled: Vec<(usize, Var)> = features
            .iter()
            .copied()
            .enumerate()
            .filter(|(i, _)| pairs.iter().any(|p| p.weight != 0.0 && (p.a == *i || p.b == *i)))
            .collect();
        let from: Vec<Var> = pulled.iter().map(|(_, x)| *x).collect();
        let loss = self.output("align.loss", &[1], &from);

        for (i, x) in features.iter().enumerate() {
            let words = [n, d, i * d * d, i * d].map(|w| w as u32).to_vec();
            let flops = 2 * (n * d * (d + 2)) as u64;
            let args = [*x, cov, mean].map(Some);
            self.call(&COVARIANCE, &args, words, Defines::new(), flops);
        }
        let args = [cov, terms, norms, loss, coef].map(Some);
        let flops = (d * d * (2 * m + 3 * m * (m - 1) / 2)) as u64;
        let defines = Defines::from([("FEATURES", m as u32)]);
        self.call(&LOSS, &args, loss_words(d, pairs, margin), defines.clone(), flops);

        self.on_backward(&[loss], move |tape| {
            let Some(g) = tape.grad(loss) else { return Ok(()) };
            for (i, x) in pulled {
                let Some(dx) = tape.sink(x) else { continue };
                let words = [n as u32, d as u32, i as u32, dx.accumulate].to_vec();
                let args = [x, mean, cov, coef, g, dx.var].map(Some);
                tape.call(&GRAD, &args, words, defines.clone(), 2 * (n * d * d) as u64);
            }
            Ok(())
        });
        Ok(Align { loss, terms, norms })
    }

    /// Deep CORAL's loss for two features `[n, d]`: [`align`](Self::align) with one pair of
    /// weight 1. Returns the loss, `[1]`; three dispatches forward, two backward.
    ///
    /// # Errors
    /// Features of different shapes.
    pub fn coral(&mut self, a: Var, b: Var) -> Result<Var> {
        Ok(self.align(&[a, b], &[Pair { a: 0, b: 1, weight: 1.0 }], 0.0)?.loss)
    }
}

/// Rows and columns that all features share, if everything else is in order too.
fn check(tape: &Tape, features: &[Var], pairs: &[Pair], margin: f32) -> Result<(usize, usize)> {
    let m = features.len();
    if !(2..=MOST).contains(&m) {
        return Err(Error::shape("align", format!("{m} features: want 2 to {MOST}")));
    }
    let (n, d) = tape.rows_cols(features[0]);
    for (i, x) in features.iter().enumerate() {
        if tape.rows_cols(*x) != (n, d) || d == 0 {
            let detail = format!(
                "feature 0 is {:?}, feature {i} is {:?}: want the same rows and columns; \
                 project features of different widths to one width first",
                tape.shape(features[0]),
                tape.shape(*x)
            );
            return Err(Error::shape("align", detail));
        }
    }
    for (k, p) in pairs.iter().enumerate() {
        let again = |q: &Pair| (q.a, q.b) == (p.a, p.b) || (q.a, q.b) == (p.b, p.a);
        let fault = if p.a >= m || p.b >= m {
            format!("there are {m} features")
        } else if p.a == p.b {
            "want two different features".into()
        } else if pairs[..k].iter().any(again) {
            "an earlier pair has the same two".into()
        } else {
            continue;
        };
        return Err(Error::shape("align", format!("pair {k} is ({}, {}): {fault}", p.a, p.b)));
    }
    if let Some(p) = pairs.iter().find(|p| !p.weight.is_finite()) {
        let text = format!("the weight of alignment pair ({}, {}) is {}", p.a, p.b, p.weight);
        return Err(Error::Config(text));
    }
    if !(margin >= 0.0 && margin.is_finite()) {
        return Err(Error::Config(format!("the alignment margin is {margin}: want 0 or more")));
    }
    Ok((n, d))
}

/// `P` of `align_loss.wgsl`.
fn loss_words(d: usize, pairs: &[Pair], margin: f32) -> Vec<u32> {
    let mut words = vec![d as u32, pairs.len() as u32, margin.to_bits(), 0];
    words.extend(pairs.iter().flat_map(|p| [p.a as u32, p.b as u32, p.weight.to_bits(), 0]));
    words.resize(4 + 4 * MOST_PAIRS, 0);
    words
}

fn floats(seed: u64, len: usize) -> Option<CaseArg> {
    Some(CaseArg::F(random(seed, len)))
}

fn covariance_cases() -> Vec<Case> {
    let shapes = [(1, 5), (2, 1), (7, 3), (16, 16), (15, 17), (17, 15), (32, 48), (100, 20)];
    let cases = shapes.into_iter().enumerate().map(|(i, (n, d))| {
        // Of three places in the stack, in turn; what is in the others must stay.
        let at = i % 3;
        let words = [n, d, at * d * d, at * d].map(|w| w as u32).to_vec();
        let args = vec![floats(1, n * d), floats(2, 3 * d * d), floats(3, 3 * d)];
        Case::new(format!("{n}x{d} at {at}"), words, args).flops(2 * (n * d * d) as u64)
    });
    // A mean a thousand times the spread: a one-pass formula has no digit left here.
    let far = random(4, 24 * 8).iter().map(|x| 1000.0 + x).collect();
    let far = vec![Some(CaseArg::F(far)), floats(2, 64), floats(3, 8)];
    cases.chain([Case::new("far from zero", vec![24, 8, 0, 0], far).within(2e-5)]).collect()
}

fn loss_cases() -> Vec<Case> {
    let pair = |(a, b, weight)| Pair { a, b, weight };
    let both = [(0, 1, 1.0)].map(pair);
    let three = [(0, 1, 0.5), (2, 0, 0.0), (1, 2, -1.5)].map(pair);
    let apart = [(0, 1, -2.0), (0, 2, -0.5), (1, 2, 3.0)].map(pair);
    let six =
        [(0, 1, 1.0), (0, 2, -1.0), (0, 3, 0.25), (2, 1, 0.0), (3, 1, 2.0), (2, 3, -0.5)].map(pair);
    let cases: [(&str, usize, usize, &[Pair], f32); 8] = [
        ("one number", 2, 1, &both, 1.0),
        ("within the margin", 3, 6, &three, 100.0),
        ("beyond the margin", 3, 6, &apart, 1e-4),
        ("margin zero", 3, 5, &apart, 0.0),
        ("six pairs", 4, 17, &six, 1e-3),
        ("no pair", 2, 8, &[], 1.0),
        ("d 16", 3, 16, &three, 1.0),
        ("d 48", 3, 48, &apart, 1.0),
    ];
    cases
        .into_iter()
        .map(|(name, m, d, pairs, margin)| {
            let outs = [pairs.len().max(1), m, 1, m * m].map(|len| floats(5, len));
            let args = [floats(1, m * d * d)].into_iter().chain(outs).collect();
            Case::new(name, loss_words(d, pairs, margin), args)
                .define("FEATURES", m as u32)
                .flops((d * d * (2 * m + 3 * m * (m - 1) / 2)) as u64)
        })
        .collect()
}

fn grad_cases() -> Vec<Case> {
    // (features, which, n, d)
    let shapes = [
        (2, 0, 1, 4),
        (2, 1, 2, 1),
        (2, 1, 7, 3),
        (3, 0, 16, 16),
        (3, 1, 15, 17),
        (3, 2, 17, 15),
        (3, 1, 32, 48),
        (4, 3, 33, 20),
    ];
    let cases = shapes.into_iter().enumerate().map(|(i, (m, which, n, d))| {
        let words = [n, d, which, i % 2].map(|w| w as u32).to_vec();
        // As the loss kernel leaves them: symmetric, some zero, of both signs.
        let value = |a: usize, b: usize| ((a + b + i) % 3) as f32 - 1.0;
        let coef = (0..m * m).map(|e| value(e / m, e % m)).collect();
        let mut args = vec![floats(1, n * d), floats(2, m * d), floats(3, m * d * d)];
        args.extend([Some(CaseArg::F(coef)), Some(CaseArg::F(vec![-1.7])), floats(4, n * d)]);
        Case::new(format!("{m} features, {n}x{d}"), words, args)
            .define("FEATURES", m as u32)
            .flops(2 * (n * d * d) as u64)
    });
    cases.collect()
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// Mean of column `j`, counted from its first row.
    pub(in crate::ops) fn mean(x: &[f32], n: usize, d: usize, j: usize) -> f32 {
        let sum: f32 = (0..n).map(|r| x[r * d + j] - x[j]).sum();
        x[j] + sum / n as f32
    }

    /// Means and covariances of one feature.
    pub fn covariance(t: &mut Twin) {
        let [n, d, at, mean_at] = [0, 1, 2, 3].map(|i| t.size(i));
        let x = t.read(0);
        let rows = if n < 2 { 0 } else { n };
        for j in 0..d {
            t.write(2)[mean_at + j] = if rows == 0 { 0.0 } else { mean(&x, n, d, j) };
        }
        let mean = t.read(2)[mean_at..mean_at + d].to_vec();
        for i in 0..d {
            for j in 0..d {
                let sum: f32 =
                    (0..rows).map(|r| (x[r * d + i] - mean[i]) * (x[r * d + j] - mean[j])).sum();
                t.write(1)[at + i * d + j] = sum / (n.max(2) - 1) as f32;
            }
        }
    }

    /// Terms, norms, loss and coefficients.
    pub fn loss(t: &mut Twin) {
        let (d, pairs, margin) = (t.size(0), t.size(1), t.float(2));
        let m = t.defines["FEATURES"] as usize;
        let all = t.read(0);
        let c: Vec<&[f32]> = all.chunks(d * d).collect();
        for (i, c) in c.iter().enumerate() {
            t.write(2)[i] = c.iter().map(|v| v * v).sum::<f32>().sqrt();
        }
        t.write(4).fill(0.0);
        let mut loss = 0.0;
        for p in 0..pairs {
            let (a, b, weight) = (t.size(4 + 4 * p), t.size(5 + 4 * p), t.float(6 + 4 * p));
            let squares: f32 = c[a].iter().zip(c[b]).map(|(a, b)| (a - b) * (a - b)).sum();
            let term = squares / (4 * d * d) as f32;
            t.write(1)[p] = term;
            if weight == 0.0 {
                continue;
            }
            let held = weight < 0.0 && term >= margin;
            loss += weight * if held { margin } else { term };
            let coef = if held { 0.0 } else { weight };
            t.write(4)[a * m + b] = coef;
            t.write(4)[b * m + a] = coef;
        }
        t.write(3)[0] = loss;
    }

    /// Gradient of one feature, over all its pairs.
    pub fn gradient(t: &mut Twin) {
        let [n, d, which, accumulate] = [0, 1, 2, 3].map(|i| t.size(i));
        let m = t.defines["FEATURES"] as usize;
        let (x, mean, cov, coef, g) = (t.read(0), t.read(1), t.read(2), t.read(3), t.read(4)[0]);
        let difference: Vec<f32> = (0..d * d)
            .map(|e| {
                let own = cov[which * d * d + e];
                (0..m).map(|j| coef[which * m + j] * (own - cov[j * d * d + e])).sum()
            })
            .collect();
        let scale = if n < 2 { 0.0 } else { g / (d * d * (n - 1)) as f32 };
        for r in 0..n {
            for c in 0..d {
                let sum: f32 = (0..d)
                    .map(|l| (x[r * d + l] - mean[which * d + l]) * difference[l * d + c])
                    .sum();
                let dx = &mut t.write(5)[r * d + c];
                *dx = scale * sum + if accumulate != 0 { *dx } else { 0.0 };
            }
        }
    }
}
