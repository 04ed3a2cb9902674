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
//! That is what `align_grad.wgsl` computes, for all features in one dispatch. With the features
//! stacked, `[m, n, d]`, a step costs two dispatches forward (covariances; terms and coefficients) and
//! one backward, whatever m is; putting separate features on the stack costs one more each way.
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
//! Each line is a test of that name in `tests/engine/align.rs`.
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

use super::{arg, random, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// Largest number of features of one call.
const MOST: usize = 4;
/// Pairs of that many features; the length of the list in `align_loss.wgsl`.
const MOST_PAIRS: usize = MOST * (MOST - 1) / 2;

/// Covariances of all features; see `shaders/covariance.wgsl`.
pub static COVARIANCE: Kernel = Kernel {
    name: "covariance",
    source: include_str!("../../shaders/covariance.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("COV"), Binding::write("MEAN")],
    step: false,
    launch: |family, words, _| {
        let (d, features) = (words[1], words[2]);
        let tiles = d.div_ceil(16);
        tiled_or(family, [tiles, tiles, 1], d * d.div_ceil(4), features)
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
    launch: |family, _, _| one_group(family),
    twin: reference::loss,
    cases: loss_cases,
};

/// Gradients of all features; see `shaders/align_grad.wgsl`.
pub static GRAD: Kernel = Kernel {
    name: "align_grad",
    source: include_str!("../../shaders/align_grad.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("MEAN"),
        Binding::read("COV"),
        Binding::read("COEF"),
        Binding::read("G"),
        Binding::write("DX").adds(2),
    ],
    step: false,
    launch: |family, words, defines| {
        let (n, d) = (words[0], words[1]);
        let features = defines.get("FEATURES").copied().unwrap_or(1);
        let tiles = grid(n.div_ceil(16) as usize * d.div_ceil(16) as usize, 1);
        tiled_or(family, tiles, d * n.div_ceil(4), features)
    },
    twin: reference::gradient,
    cases: grad_cases,
};

/// For each of `features`: workgroups of a tiled kernel on a GPU; elsewhere `items` invocations, a
/// subgroup to a workgroup where there is one.
pub(super) fn tiled_or(family: Family, groups: [u32; 3], items: u32, features: u32) -> Launch {
    let of = |[x, y, _]: [u32; 3]| Launch::of([x, y, features]);
    let wg = match family {
        Family::Tiled => return of(groups).with("TILED", 1).with("WG", 256),
        Family::Wide(lanes) => lanes,
        Family::Plain => 64,
    };
    of(grid(items as usize, wg as usize)).with("WG", wg)
}

/// One workgroup whose invocations add up what they found, by `shared/row.wgsl`.
pub(super) fn one_group(family: Family) -> Launch {
    let launch = Launch::of([1, 1, 1]);
    match family {
        Family::Tiled => launch.with("TREE", 128).with("WG", 128),
        Family::Wide(lanes) => launch.with("LANES", lanes).with("WG", lanes),
        Family::Plain => launch.with("WG", 1),
    }
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
    /// Three dispatches forward, the first of which stacks the features, and two backward; see
    /// [`align_stacked`](Self::align_stacked).
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
        check_features(self, features)?;
        check_pairs(features.len(), pairs, margin)?;
        let in_pair = |i: usize| pairs.iter().any(|p| p.weight != 0.0 && (p.a == i || p.b == i));
        let pulled: Vec<Var> =
            features.iter().enumerate().filter(|(i, _)| in_pair(*i)).map(|(_, x)| *x).collect();
        let stacked = self.stack(features, &pulled);
        self.align_stacked(stacked, pairs, margin)
    }

    /// [`align`](Self::align) of features that lie stacked, `[features, n, d]`: two dispatches
    /// forward, one backward where any pair has a weight.
    ///
    /// # Errors
    /// As `align`.
    pub fn align_stacked(&mut self, x: Var, pairs: &[Pair], margin: f32) -> Result<Align> {
        let stack = Stack::record(self, x, pairs, margin)?;
        let terms = self.output("align.terms", &[pairs.len()], &[]);
        let norms = self.output("align.norms", &[stack.m], &[]);
        let from = stack.pulled.then_some(x);
        let loss = self.output("align.loss", &[1], from.as_slice());
        let args = [stack.cov, terms, norms, loss, stack.coef].map(Some);
        let words = loss_words(stack.d, pairs, margin);
        self.call(&LOSS, &args, words, stack.defines(), stack.loss_flops());
        self.on_backward(&[loss], move |tape| {
            if let Some(g) = tape.grad(loss) {
                stack.backward(tape, g);
            }
            Ok(())
        });
        Ok(Align { loss, terms, norms })
    }

    /// Deep CORAL's loss for two features `[n, d]`: [`align`](Self::align) with one pair of
    /// weight 1. Returns the loss, `[1]`.
    ///
    /// # Errors
    /// Features of different shapes.
    pub fn coral(&mut self, a: Var, b: Var) -> Result<Var> {
        Ok(self.align(&[a, b], &[Pair { a: 0, b: 1, weight: 1.0 }], 0.0)?.loss)
    }
}

/// Features that lie stacked, and what their terms' gradient reads.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    /// `[m, n, d]`.
    pub x: Var,
    /// Number of features.
    pub m: usize,
    n: usize,
    /// Their width.
    pub d: usize,
    mean: Var,
    /// `[m, d, d]`.
    pub cov: Var,
    /// `[m, m]`, for the kernel that makes the loss to write.
    pub coef: Var,
    /// Whether any pair has a weight.
    pub pulled: bool,
}

impl Stack {
    /// Checks everything and records the covariances.
    pub fn record(tape: &mut Tape, x: Var, pairs: &[Pair], margin: f32) -> Result<Self> {
        let (m, d) = (tape.shape(x).first().copied().unwrap_or(0), tape.rows_cols(x).1);
        if !(2..=MOST).contains(&m) || tape.shape(x).len() < 2 || d == 0 {
            let detail = format!("{:?}: want [features, n, d], 2 to {MOST} of them", tape.shape(x));
            return Err(Error::shape("align", detail));
        }
        check_pairs(m, pairs, margin)?;
        let n = tape.len(x) / (m * d);
        let cov = tape.output("align.cov", &[m, d, d], &[]);
        let mean = tape.output("align.mean", &[m, d], &[]);
        let coef = tape.output("align.coef", &[m, m], &[]);
        let words = sizes(&[n, d, m]);
        let flops = 2 * (m * n * d * (d + 2)) as u64;
        tape.call(&COVARIANCE, &[x, cov, mean].map(Some), words, Defines::new(), flops);
        let pulled = pairs.iter().any(|p| p.weight != 0.0);
        Ok(Stack { x, m, n, d, mean, cov, coef, pulled })
    }

    /// Records the gradient of the features from `g`, that of the loss.
    pub fn backward(self, tape: &mut Tape, g: Var) {
        let Stack { x, m, n, d, mean, cov, coef, pulled } = self;
        // A sink that was asked for must be written, so it is not asked for where nothing pulls.
        let Some(dx) = (if pulled { tape.sink(x) } else { None }) else { return };
        let mut words = sizes(&[n, d]);
        words.push(dx.accumulate);
        let args = [x, mean, cov, coef, g, dx.var].map(Some);
        tape.call(&GRAD, &args, words, self.defines(), 2 * (m * n * d * d) as u64);
    }

    /// What the kernels of the loss and of the gradient are made for.
    pub fn defines(self) -> Defines {
        Defines::from([("FEATURES", self.m as u32)])
    }

    /// Operations of the terms and norms.
    pub fn loss_flops(self) -> u64 {
        loss_flops(self.m, self.d)
    }
}

fn loss_flops(m: usize, d: usize) -> u64 {
    (d * d * (2 * m + 3 * m * (m - 1) / 2)) as u64
}

/// Features of one shape, as many as a call takes.
fn check_features(tape: &Tape, features: &[Var]) -> Result<()> {
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
    Ok(())
}

/// Pairs and a margin that make sense for `m` features.
fn check_pairs(m: usize, pairs: &[Pair], margin: f32) -> Result<()> {
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
    Ok(())
}

/// `P` of `align_loss.wgsl`, and the first words of that of `objective.wgsl`.
pub(super) fn loss_words(d: usize, pairs: &[Pair], margin: f32) -> Vec<u32> {
    let mut words = vec![d as u32, pairs.len() as u32, margin.to_bits(), 0];
    words.extend(pairs.iter().flat_map(|p| [p.a as u32, p.b as u32, p.weight.to_bits(), 0]));
    words.resize(4 + 4 * MOST_PAIRS, 0);
    words
}

fn covariance_cases() -> Vec<Case> {
    let shapes = [
        (1, 1, 5),
        (3, 1, 2),
        (2, 2, 1),
        (3, 7, 3),
        (3, 16, 16),
        (2, 15, 17),
        (4, 17, 15),
        (1, 32, 48),
        (2, 100, 20),
    ];
    let cases = shapes.into_iter().map(|(m, n, d)| {
        let args = vec![arg(1, m * n * d), arg(2, m * d * d), arg(3, m * d)];
        Case::new(format!("{m} of {n}x{d}"), sizes(&[n, d, m]), args)
            .flops(2 * (m * n * d * d) as u64)
    });
    // A mean a thousand times the spread: a one-pass formula has no digit left here.
    let far = random(4, 24 * 8).iter().map(|x| 1000.0 + x).collect();
    let far = vec![Some(CaseArg::F(far)), arg(2, 64), arg(3, 8)];
    cases.chain([Case::new("far from zero", sizes(&[24, 8, 1]), far).within(2e-5)]).collect()
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
            let outs = [pairs.len().max(1), m, 1, m * m].map(|len| arg(5, len));
            let args = [arg(1, m * d * d)].into_iter().chain(outs).collect();
            Case::new(name, loss_words(d, pairs, margin), args)
                .define("FEATURES", m as u32)
                .flops(loss_flops(m, d))
        })
        .collect()
}

fn grad_cases() -> Vec<Case> {
    let shapes = [
        (2, 1, 4),
        (2, 2, 1),
        (2, 7, 3),
        (3, 16, 16),
        (3, 15, 17),
        (3, 17, 15),
        (2, 32, 48),
        (4, 33, 20),
    ];
    let cases = shapes.into_iter().enumerate().map(|(i, (m, n, d))| {
        let words = sizes(&[n, d, i % 2]);
        // As the loss kernel leaves them: symmetric, some zero, of both signs.
        let value = |a: usize, b: usize| ((a + b + i) % 3) as f32 - 1.0;
        let coef = (0..m * m).map(|e| value(e / m, e % m)).collect();
        let mut args = vec![arg(1, m * n * d), arg(2, m * d), arg(3, m * d * d)];
        args.extend([Some(CaseArg::F(coef)), Some(CaseArg::F(vec![-1.7])), arg(4, m * n * d)]);
        Case::new(format!("{m} features, {n}x{d}"), words, args)
            .define("FEATURES", m as u32)
            .flops(2 * (m * n * d * d) as u64)
    });
    cases.collect()
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use crate::plan::Twin;

    /// Mean of column `j`, counted from its first row.
    pub(in crate::ops) fn mean(x: &[f32], n: usize, d: usize, j: usize) -> f32 {
        let sum: f32 = (0..n).map(|r| x[r * d + j] - x[j]).sum();
        x[j] + sum / n as f32
    }

    /// Means and covariances, feature by feature.
    pub fn covariance(t: &mut Twin) {
        let [n, d, features] = [0, 1, 2].map(|i| t.size(i));
        let all = t.read(0);
        for (f, x) in all.chunks(n * d).enumerate().take(features) {
            let rows = if n < 2 { 0 } else { n };
            let means: Vec<f32> =
                (0..d).map(|j| if rows == 0 { 0.0 } else { mean(x, n, d, j) }).collect();
            t.write(2)[f * d..(f + 1) * d].copy_from_slice(&means);
            for i in 0..d {
                for j in 0..d {
                    let centred = |r: usize, j: usize| x[r * d + j] - means[j];
                    let sum: f32 = (0..rows).map(|r| centred(r, i) * centred(r, j)).sum();
                    t.write(1)[(f * d + i) * d + j] = sum / (n.max(2) - 1) as f32;
                }
            }
        }
    }

    /// What covariances come to.
    pub(in crate::ops) struct Terms {
        /// Of each pair.
        pub terms: Vec<f32>,
        /// Of each feature.
        pub norms: Vec<f32>,
        /// The weighted sum.
        pub loss: f32,
        /// `[m, m]`.
        pub coef: Vec<f32>,
    }

    /// Terms, norms, their weighted sum and coefficients, by the pairs in the first words of `P`.
    pub(in crate::ops) fn terms(t: &Twin, cov: &[f32]) -> Terms {
        let (d, pairs, margin) = (t.size(0), t.size(1), t.float(2));
        let c: Vec<&[f32]> = cov.chunks(d * d).collect();
        let m = c.len();
        let norms = c.iter().map(|c| c.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
        let (mut terms, mut loss, mut coef) = (Vec::new(), 0.0, vec![0.0; m * m]);
        for p in 0..pairs {
            let (a, b, weight) = (t.size(4 + 4 * p), t.size(5 + 4 * p), t.float(6 + 4 * p));
            let squares: f32 = c[a].iter().zip(c[b]).map(|(a, b)| (a - b) * (a - b)).sum();
            let term = squares / (4 * d * d) as f32;
            terms.push(term);
            if weight == 0.0 {
                continue;
            }
            let held = weight < 0.0 && term >= margin;
            loss += weight * if held { margin } else { term };
            coef[a * m + b] = if held { 0.0 } else { weight };
            coef[b * m + a] = coef[a * m + b];
        }
        Terms { terms, norms, loss, coef }
    }

    /// Terms, norms, loss and coefficients.
    pub fn loss(t: &mut Twin) {
        let Terms { terms, norms, loss, coef } = terms(t, &t.read(0));
        t.write(1)[..terms.len()].copy_from_slice(&terms);
        t.write(2).copy_from_slice(&norms);
        t.write(3)[0] = loss;
        t.write(4).copy_from_slice(&coef);
    }

    /// Gradient of each feature, over all its pairs.
    pub fn gradient(t: &mut Twin) {
        let [n, d, accumulate] = [0, 1, 2].map(|i| t.size(i));
        let m = t.defines["FEATURES"] as usize;
        let (x, mean, cov, coef, g) = (t.read(0), t.read(1), t.read(2), t.read(3), t.read(4)[0]);
        let scale = g / (d * d * (n.max(2) - 1)) as f32;
        for i in 0..m {
            let difference: Vec<f32> = (0..d * d)
                .map(|e| {
                    let own = cov[i * d * d + e];
                    (0..m).map(|j| coef[i * m + j] * (own - cov[j * d * d + e])).sum()
                })
                .collect();
            for (r, c) in (0..n).flat_map(|r| (0..d).map(move |c| (r, c))) {
                let sum: f32 = (0..d)
                    .map(|l| (x[(i * n + r) * d + l] - mean[i * d + l]) * difference[l * d + c])
                    .sum();
                let slope = if n < 2 { 0.0 } else { scale * sum };
                put(&mut t.write(5)[(i * n + r) * d + c], slope, accumulate);
            }
        }
    }
}
