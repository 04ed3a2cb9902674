//! Matrix products in the three layouts that a layer and its gradients need, with what usually
//! follows or precedes them folded in.

use super::{Act, arg, batched, random, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{
    Binding, Case, CaseArg, Kernel, Launch, Split, Twin, grid, pack_halves, unpack_halves,
};
use crate::tape::{Sink, Tape, Var};

/// `C = act(op(A) op(B) + bias)`; see `shaders/matmul.wgsl`.
pub static MATMUL: Kernel = Kernel {
    name: "matmul",
    source: include_str!("../../shaders/matmul.wgsl"),
    bindings: &[
        Binding::read("A"),
        Binding::read("B").or_half(),
        Binding::read("BIAS").or_none(),
        Binding::read("MASK").or_none(),
        // Parts of a split product are written anew, the row sums' too, whose binding only asks.
        Binding::write("C").part(|p, _, len| [if p[7] > 1 || p[3] == 0 { 0 } else { len }, len]),
        Binding::write("ROWSUM").or_none().part(|p, _, len| match (p[7], p[9]) {
            (2.., _) => [0, 0],
            (_, 0) => [0, len],
            _ => [len, len],
        }),
        Binding::write("PRE").or_none(),
        Binding::read("SLOPE").or_none(),
    ],
    step: false,
    launch,
    twin: reference::matmul,
    cases: || [cases(), batched::cases()].concat(),
};

/// Adds up the partial products of a matmul split over k.
pub static FOLD: Kernel = Kernel {
    name: "fold",
    source: include_str!("../../shaders/fold.wgsl"),
    bindings: &[
        Binding::read("PART"),
        Binding::write("OUT").adds(3),
        Binding::write("SUM").or_none().adds(4),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] + words[1]) as usize, 64)),
    twin: reference::fold,
    cases: || {
        let arg = |seed, len| Some(CaseArg::F(random(seed, len)));
        vec![
            Case::new("3 splits", vec![35, 5, 3, 0, 1], vec![arg(1, 120), arg(2, 35), arg(3, 5)]),
            Case::new("accumulate", vec![64, 0, 2, 1, 0], vec![arg(1, 128), arg(2, 64), None]),
        ]
    },
};

/// Multiplications and additions from which on a product has several launches to choose from:
/// below, the larger ones gain less than they take to compile.
const WORTH_TUNING: u64 = 1 << 25;

/// The same from which on a product of sides that are no whole vectors goes by lanes all the same.
const WORTH_LANES: u64 = 1 << 11;

/// Terms from which on a CPU adapter takes a sum in parts, and a layer leaves what follows a sum to others.
const LONG_SUM: usize = 1 << 15;

fn launch(family: Family, words: &[u32], defines: &Defines) -> Launch {
    let [m, n, k, _, lda, ldb] = [0, 1, 2, 3, 4, 5].map(|i| words[i]);
    let (splits, chunk) = (words[7], words[8]);
    let on = |name| defines.get(name).is_some_and(|v| *v != 0);
    let (ta, tb) = (on("TA"), on("TB"));
    // Along z there are the parts of a sum, or the products of a batch.
    let (batch, layers) = if on("BATCH") { (words[12], words[12]) } else { (1, splits) };
    let large = u64::from(batch) * u64::from(m) * u64::from(n) * u64::from(k) >= WORTH_TUNING;
    let launch = if family.tiled() {
        let tiled = |rm: u32| {
            let slice = if rm <= 4 { 32 } else { 16 };
            Launch::of([n.div_ceil(64), m.div_ceil(16 * rm), layers])
                .with("TILED", 1)
                .with("RM", rm)
                .with("WIDTH", rm.min(4))
                // Slices of 32 fill what workgroup memory every adapter has.
                .with("SLICE", slice)
                .iterations(u64::from(chunk.min(k)) * 17 / 16)
                // By sixteens whatever the slice: one of 32 was seen to take twice as long (benches/NOTES.md).
                .rounds(u64::from(chunk.min(k)).div_ceil(16))
        };
        // Large tiles leave most of a GPU idle where there are few of them: smaller ones are tried there.
        let few = u64::from(n.div_ceil(64)) * u64::from(m.div_ceil(64)) < 96;
        match m {
            0..=32 => tiled(1),
            _ if large && few => tiled(4).or(tiled(2)).or(tiled(1)),
            _ if large => tiled(4).or(tiled(2)).or(tiled(8)),
            _ => tiled(4),
        }
    } else {
        // Whole vectors along the contiguous side of both operands, or the plain kernel.
        let along_a = if ta { m } else { k };
        let along_b = if tb { k } else { n };
        let vectors = [along_a, along_b, lda, ldb, if ta { 4 } else { chunk }];
        let lanes = family.lanes();
        let lanes_of = |rows: u32, cols: u32| {
            let launch = Launch::of([n.div_ceil(cols), m.div_ceil(rows * lanes), layers])
                .with("LANES", lanes)
                .with("ROWS", rows)
                .with("COLS", cols)
                .iterations(u64::from(chunk.min(k)).div_ceil(4) + u64::from(rows * cols) + 4);
            // Whole vectors of C, too, where it is not in parts.
            if n % 4 == 0 && splits == 1 { launch.with("QUADS", 1) } else { launch }
        };
        let wide = |rows: u32, cols: u32| lanes_of(rows, cols).long();
        // Number by number it still beats an invocation for every four outputs, unless those are few.
        let singles = |rows: u32, cols: u32| lanes_of(rows, cols).with("SINGLES", 1);
        let work = u64::from(m) * u64::from(n) * u64::from(k);
        let plain = lanes == 0 || on("HALF") || m < 8 || n < 8 || work < WORTH_LANES;
        match (lanes > 0 && vectors.iter().all(|v| v % 4 == 0), ta) {
            (true, true) if large => wide(4, 8).or(wide(4, 16)),
            (true, true) => wide(4, 8),
            (true, false) if large => wide(2, 16).or(wide(4, 16)),
            (true, false) => wide(2, 16),
            (false, true) if !plain => singles(4, 8),
            (false, false) if !plain => singles(2, 16),
            (false, _) => Launch::of([(m * n.div_ceil(4)).div_ceil(64), 1, layers])
                .iterations(u64::from(chunk.min(k)) + 4),
        }
    };
    let parts = if words[10] != 0 && splits == 1 { parts(family, m, n, k) } else { 1 };
    Launch { split: (parts > 1).then(|| split(words, parts)), ..launch }
}

/// In how many parts a sum over k is best taken.
fn parts(family: Family, m: u32, n: u32, k: u32) -> u32 {
    // A few outputs with long sums leave most of a GPU idle. A CPU adapter has a thread for each
    // of a few workgroups, and a dispatch costs it as much as thousands of terms.
    let longest = if family.tiled() { 2048 } else { LONG_SUM as u32 };
    if k < longest || u64::from(m) * u64::from(n) > 1 << 15 {
        return 1;
    }
    // Up to two workgroups a processor of a large GPU, where outputs are very few.
    let most =
        if family.tiled() { (256 / (n.div_ceil(64) * m.div_ceil(32))).clamp(32, 128) } else { 32 };
    (k / (longest / 4)).min(most)
}

/// The product in so many parts, and the fold that follows. Row sums lie behind each part.
fn split(words: &[u32], parts: u32) -> Split {
    let [m, n, k, accumulate] = [0, 1, 2, 3].map(|i| words[i]);
    let chunk = k.div_ceil(parts).next_multiple_of(4);
    let parts = k.div_ceil(chunk);
    let mut in_parts = words.to_vec();
    (in_parts[7], in_parts[8]) = (parts, chunk);
    Split {
        words: in_parts,
        partial: (4, parts as usize * (m as usize * n as usize + m as usize)),
        fold: &FOLD,
        fold_words: vec![m * n, m, parts, accumulate, words[9]],
        fold_args: &[4, 5],
    }
}

/// One product to record; the fields are those of the shader.
#[derive(Clone, Copy, Default)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub ta: bool,
    pub tb: bool,
    pub bias: Option<Var>,
    pub act: Act,
    /// The activation whose slope multiplies A, and its output.
    pub mask: Option<(Act, Var)>,
    pub accumulate: u32,
    pub rowsum: Option<Sink>,
    /// Where the sum before `act` goes, too.
    pub pre: Option<Var>,
    /// The activation (ReLU or GELU) whose slope multiplies the result, and its input.
    pub slope: Option<(Act, Var)>,
}

/// Appends a product.
pub(crate) fn product(tape: &mut Tape, a: Var, b: Var, c: Var, p: Product) {
    let Product { m, n, k, .. } = p;
    // What follows the sum (bias, activation) cannot be applied to a part of it.
    let whole = p.bias.is_some() || p.act != Act::None || p.pre.is_some() || p.slope.is_some();
    let mut defines = Defines::new();
    for (name, value) in [("TA", u32::from(p.ta)), ("TB", u32::from(p.tb)), ("ACT", p.act.code())] {
        if value != 0 {
            defines.insert(name, value);
        }
    }
    if let Some((act, _)) = p.mask {
        defines.insert("MASK_ACT", act.code());
    }
    if let Some((act, _)) = p.slope {
        defines.insert("SLOPE_ACT", act.code());
    }
    let (lda, ldb) = (if p.ta { m } else { k }, if p.tb { k } else { n });
    let (splits, chunk) = (1, k.div_ceil(4).saturating_mul(4));
    let mut words = sizes(&[m, n, k, p.accumulate as usize, lda, ldb, n, splits, chunk]);
    words.extend([p.rowsum.map_or(0, |s| s.accumulate), u32::from(!whole), 0]);
    let (mask, rowsum) = (p.mask.map(|(_, y)| y), p.rowsum.map(|s| s.var));
    let slope = p.slope.map(|(_, pre)| pre);
    let args = [Some(a), Some(b), p.bias, mask, Some(c), rowsum, p.pre, slope];
    let flops = [m, n, k].iter().fold(2, |all: u64, size| all.saturating_mul(*size as u64));
    tape.call(&MATMUL, &args, words, defines, flops);
}

impl Tape {
    /// `a [m, k] · b [k, n] → [m, n]`.
    ///
    /// # Errors
    /// Inner sizes that differ.
    pub fn matmul(&mut self, a: Var, b: Var) -> Result<Var> {
        let ((m, k), (k2, n)) = (self.rows_cols(a), self.rows_cols(b));
        if k != k2 {
            let detail = format!("{:?} · {:?}: inner sizes differ", self.shape(a), self.shape(b));
            return Err(Error::shape("matmul", detail));
        }
        let y = self.output("matmul", &[m, n], &[a, b]);
        product(self, a, b, y, Product { m, n, k, ..Default::default() });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            if let Some(da) = tape.sink(a) {
                let p = Product {
                    m,
                    n: k,
                    k: n,
                    tb: true,
                    accumulate: da.accumulate,
                    ..Default::default()
                };
                product(tape, dy, b, da.var, p);
            }
            if let Some(db) = tape.sink(b) {
                let p = Product {
                    m: k,
                    n,
                    k: m,
                    ta: true,
                    accumulate: db.accumulate,
                    ..Default::default()
                };
                product(tape, a, dy, db.var, p);
            }
            Ok(())
        });
        Ok(y)
    }

    /// A fully connected layer: `act(x [.., k] · wᵀ + b)` with `w [n, k]`, `b [n]`, as PyTorch
    /// stores them; one dispatch forward, two backward (ReLU and tanh fold into them).
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn linear(&mut self, x: Var, w: Var, b: Option<Var>, act: Act) -> Result<Var> {
        let ((m, k), (n, k2)) = (self.rows_cols(x), self.rows_cols(w));
        if k != k2 || b.is_some_and(|b| self.len(b) != n) {
            let detail = format!(
                "input {:?}, weight {:?}, bias {:?}: want [.., k], [n, k], [n]",
                self.shape(x),
                self.shape(w),
                b.map(|b| self.shape(b).to_vec())
            );
            return Err(Error::shape("linear", detail));
        }
        // The slope of GELU and the logistic cannot be had from A's mask: keep those apart.
        if !matches!(act, Act::None | Act::Relu | Act::Tanh) {
            let pre = self.linear(x, w, b, Act::None)?;
            return self.activate(pre, act);
        }
        // So long a sum is taken in parts where its outputs are few, and what follows it can only come after them.
        if k >= LONG_SUM && (b.is_some() || act != Act::None) {
            let sums = self.linear(x, w, None, Act::None)?;
            let y = if let Some(b) = b { self.add(sums, b)? } else { sums };
            return if act == Act::None { Ok(y) } else { self.activate(y, act) };
        }
        let mut shape = self.shape(x).to_vec();
        match shape.last_mut() {
            Some(last) => *last = n,
            None => shape.push(n),
        }
        let inputs: Vec<Var> = [Some(x), Some(w), b].into_iter().flatten().collect();
        let y = self.output("linear", &shape, &inputs);
        product(self, x, w, y, Product { m, n, k, tb: true, bias: b, act, ..Default::default() });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            let mask = (act != Act::None).then_some((act, y));
            if let Some(dx) = tape.sink(x) {
                let p = Product {
                    m,
                    n: k,
                    k: n,
                    mask,
                    accumulate: dx.accumulate,
                    ..Default::default()
                };
                product(tape, dy, w, dx.var, p);
            }
            linear_weight_grad(tape, dy, x, (m, n, k), mask, w, b);
            Ok(())
        });
        Ok(y)
    }
}

/// The two layers of a transformer's feed-forward block: each a weight as PyTorch stores it, and
/// its bias.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward {
    /// `[inner, width]` and `[inner]`.
    pub first: (Var, Var),
    /// `[width, inner]` and `[width]`.
    pub second: (Var, Var),
    /// Between them: ReLU or GELU.
    pub act: Act,
}

impl Tape {
    /// `act(x · w₁ᵀ + b₁) · w₂ᵀ + b₂` over `x [rows, width]`: two dispatches forward and four
    /// backward, since the activation and its slope ride on the products beside them.
    ///
    /// # Errors
    /// Sizes that do not fit, or another activation.
    pub fn feed_forward(&mut self, x: Var, f: FeedForward) -> Result<Var> {
        let FeedForward { first: (w1, b1), second: (w2, b2), act } = f;
        let ((rows, width), (inner, k1)) = (self.rows_cols(x), self.rows_cols(w1));
        let fits = k1 == width
            && self.rows_cols(w2) == (width, inner)
            && (self.len(b1), self.len(b2)) == (inner, width)
            && matches!(act, Act::Relu | Act::Gelu);
        if !fits {
            let shapes = [x, w1, b1, w2, b2].map(|v| self.shape(v).to_vec());
            let detail = format!(
                "x, w1, b1, w2, b2 are {shapes:?} under {act:?}: want [rows, k], [n, k], [n], \
                 [k, n], [k] under ReLU or GELU"
            );
            return Err(Error::shape("feed_forward", detail));
        }
        let wanted = [x, w1, b1].iter().any(|v| self.wants_grad(*v));
        let h = self.output("inner", &[rows, inner], &[x, w1, b1]);
        let pre = wanted.then(|| self.output("inner.pre", &[rows, inner], &[]));
        let shape = self.shape(x).to_vec();
        let y = self.output("feed_forward", &shape, &[h, w2, b2]);
        let up = Product { m: rows, n: inner, k: width, tb: true, ..Default::default() };
        product(self, x, w1, h, Product { bias: Some(b1), act, pre, ..up });
        let down = Product { m: rows, n: width, k: inner, tb: true, ..Default::default() };
        product(self, h, w2, y, Product { bias: Some(b2), ..down });
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            linear_weight_grad(tape, dy, h, (rows, width, inner), None, w2, Some(b2));
            let Some(pre) = pre else { return Ok(()) };
            let dpre = tape.output("d.inner", &[rows, inner], &[]);
            let p = Product { m: rows, n: inner, k: width, ..Default::default() };
            product(tape, dy, w2, dpre, Product { slope: Some((act, pre)), ..p });
            if let Some(dx) = tape.sink(x) {
                let p = Product { m: rows, n: width, k: inner, ..Default::default() };
                product(tape, dpre, w1, dx.var, Product { accumulate: dx.accumulate, ..p });
            }
            linear_weight_grad(tape, dpre, x, (rows, inner, width), None, w1, Some(b1));
            Ok(())
        });
        Ok(y)
    }
}

/// `dW (+)= dYᵀ X` and, in the same dispatch, `db (+)= column sums of dY`.
pub(crate) fn linear_weight_grad(
    tape: &mut Tape,
    dy: Var,
    x: Var,
    (rows, n, k): (usize, usize, usize),
    mask: Option<(Act, Var)>,
    w: Var,
    b: Option<Var>,
) {
    let rowsum = b.and_then(|b| tape.sink(b));
    let dw = tape.sink(w);
    if dw.is_none() && rowsum.is_none() {
        return;
    }
    // The sums of a frozen weight's bias come with a product that nobody reads.
    let (into, accumulate) = match dw {
        Some(dw) => (dw.var, dw.accumulate),
        None => (tape.output("unused", &[n, k], &[]), 0),
    };
    let p =
        Product { m: n, n: k, k: rows, ta: true, mask, accumulate, rowsum, ..Default::default() };
    product(tape, dy, x, into, p);
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [
        (1_usize, 1_usize, 1_usize),
        (3, 5, 7),
        (16, 16, 16),
        (15, 17, 33),
        (17, 20, 12),
        (33, 64, 8),
        (64, 16, 128),
        (65, 68, 64),
        (2, 132, 260),
    ];
    for (ta, tb) in [(0, 0), (0, 1), (1, 0)] {
        for (i, (m, n, k)) in shapes.into_iter().enumerate() {
            let seed = (i * 10 + ta * 3 + tb) as u64;
            let splits = if k >= 64 { 3 } else { 1 };
            for (mode, splits) in [(0, 1), (1, 1), (2, splits)] {
                if mode == 2 && splits == 1 {
                    continue;
                }
                let chunk = k.div_ceil(splits).next_multiple_of(4);
                let splits = k.div_ceil(chunk);
                let accumulate = usize::from(mode == 0 && i % 2 == 1);
                let (lda, ldb) = (if ta == 1 { m } else { k }, if tb == 1 { k } else { n });
                let words = [m, n, k, accumulate, lda, ldb, n, splits, chunk, accumulate, 0, 0];
                let c_len = if splits > 1 { splits * (m * n + m) } else { m * n };
                let arg = |s: u64, len| Some(CaseArg::F(random(seed + s, len)));
                let extras = mode == 1;
                let args = vec![
                    arg(1, m * k),
                    arg(2, k * n),
                    if extras && ta == 0 { arg(3, n) } else { None },
                    if extras && tb == 0 { arg(4, m * k) } else { None },
                    Some(CaseArg::F(vec![0.5; c_len])),
                    if ta == 1 { arg(5, m) } else { None },
                    if mode == 1 && tb == 1 { arg(6, m * n) } else { None },
                    if mode == 1 && ta + tb == 0 { arg(7, m * n) } else { None },
                ];
                let slope = args[7].is_some();
                let name = format!("{m}x{n}x{k} ta{ta} tb{tb} mode{mode}");
                let mut case = Case::new(name, words.map(|w| w as u32).to_vec(), args)
                    .within(2e-5)
                    .flops(2 * (m * n * k) as u64);
                for (name, value) in [("TA", ta), ("TB", tb)] {
                    if value == 1 {
                        case = case.define(name, 1);
                    }
                }
                if extras {
                    // Two sets for each kind of product are enough: shapes that share one share a text,
                    // of which a driver compiles each.
                    let set = i as u32 % 2;
                    case = case.define("MASK_ACT", if set == 0 { 1 } else { 3 });
                    if ta == 0 {
                        case = case.define("ACT", 2 * tb as u32 + set + 1);
                    }
                    if slope {
                        case = case.define("SLOPE_ACT", set + 1);
                    }
                }
                cases.push(case);
            }
        }
    }
    // Large enough to have several launches, none of whose tiles they fill.
    for (ta, tb) in [(0, 0), (0, 1), (1, 0)] {
        let (m, n, k) = (260, 132, 1000);
        let (lda, ldb) = (if ta == 1 { m } else { k }, if tb == 1 { k } else { n });
        let words = sizes(&[m, n, k, 1, lda, ldb, n, 1, k, 0, 0, 0]);
        let sums = if ta == 1 { arg(4, m) } else { None };
        let args = vec![arg(1, m * k), arg(2, k * n), None, None, arg(3, m * n), sums, None, None];
        let case = Case::new(format!("{m}x{k}x{n}, TA {ta}, TB {tb}, large"), words, args);
        let case = case.within(1e-4).flops(2 * (m * n * k) as u64);
        cases.push(match (ta, tb) {
            (1, _) => case.define("TA", 1),
            (_, 1) => case.define("TB", 1),
            _ => case,
        });
    }
    // Weights by halves: odd rows, whole vectors beyond a tile, and the large ones.
    let halves: Vec<Case> = cases
        .iter()
        .filter(|case| !case.defines.contains_key("TA"))
        .filter(|case| {
            ["3x5x7 ", "17x20x12 ", "65x68x64 ", "260x"].iter().any(|s| case.name.starts_with(s))
        })
        .map(|case| {
            let mut case = case.clone().define("HALF", 1);
            if let Some(CaseArg::F(values)) = &case.args[1] {
                case.args[1] = Some(CaseArg::U(pack_halves(values)));
            }
            Case { name: format!("{} halves", case.name), ..case }
        })
        .collect();
    cases.extend(halves);
    cases
}

/// CPU twins.
#[allow(clippy::needless_range_loop, reason = "loops that read like the shaders'")]
pub mod reference {
    use super::super::elementwise::reference::gelu_slope;
    use super::super::relu_slope;
    use super::*;

    /// `C = act(op(A) op(B) + bias)`, `C += …`, partial sums, row sums; a batch of products.
    pub fn matmul(t: &mut Twin) {
        if t.is("BATCH") {
            return super::super::batched::reference::products(t);
        }
        let [m, n, k, accumulate, lda, ldb, ldc, splits, chunk, sum_accumulate] =
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|i| t.size(i));
        let (a, bias, mask) = (t.read(0), t.read(2), t.read(3));
        let b = if t.is("HALF") { unpack_halves(t.words_of(1)) } else { t.read(1) };
        let (ta, tb) = (t.is("TA"), t.is("TB"));
        let act = Act::from_code(t.defines.get("ACT").copied().unwrap_or(0));
        let tanh = t.defines.get("MASK_ACT") == Some(&Act::Tanh.code());
        let a_at = |i: usize, l: usize| {
            let at = if ta { l * lda + i } else { i * lda + l };
            let slope = match mask.get(at) {
                None => 1.0,
                Some(y) if tanh => 1.0 - y * y,
                Some(y) => relu_slope(*y),
            };
            a[at] * slope
        };
        let b_at = |l: usize, j: usize| if tb { b[j * ldb + l] } else { b[l * ldb + j] };
        let (has_bias, has_sum, has_pre) = (t.has(2), t.has(5), t.has(6));
        let (slope, gelu) = (t.read(7), t.defines.get("SLOPE_ACT") == Some(&Act::Gelu.code()));
        for z in 0..splits {
            let range = z * chunk..k.min((z + 1) * chunk);
            for i in 0..m {
                let sum: f32 = range.clone().map(|l| a_at(i, l)).sum();
                for j in 0..n {
                    let dot: f32 = range.clone().map(|l| a_at(i, l) * b_at(l, j)).sum();
                    if splits > 1 {
                        t.write(4)[z * (m * n + m) + i * n + j] = dot;
                        continue;
                    }
                    let mut v = dot;
                    if has_bias {
                        v += bias[j];
                    }
                    if let Some(x) = slope.get(i * ldc + j) {
                        v = match relu_slope(*x) {
                            _ if gelu => v * gelu_slope(*x),
                            // What is stopped is stopped, NaN also, as torch's threshold_backward has it.
                            0.0 => 0.0,
                            slope => v * slope,
                        };
                    }
                    let c = &mut t.write(4)[i * ldc + j];
                    v += if accumulate != 0 { *c } else { 0.0 };
                    *c = act.apply(v);
                    if has_pre {
                        t.write(6)[i * ldc + j] = v;
                    }
                }
                if has_sum && splits > 1 {
                    t.write(4)[z * (m * n + m) + m * n + i] = sum;
                } else if has_sum {
                    let s = &mut t.write(5)[i];
                    *s = if sum_accumulate != 0 { *s + sum } else { sum };
                }
            }
        }
    }

    /// Sums of partial products.
    pub fn fold(t: &mut Twin) {
        let [n, rows, splits, accumulate, sum_accumulate] = [0, 1, 2, 3, 4].map(|i| t.size(i));
        let part = t.read(0);
        for i in 0..n + rows {
            let total: f32 = (0..splits).map(|s| part[s * (n + rows) + i]).sum();
            let (binding, at, add) =
                if i < n { (1, i, accumulate) } else { (2, i - n, sum_accumulate) };
            if let Some(out) = t.write(binding).get_mut(at) {
                *out = total + if add != 0 { *out } else { 0.0 };
            }
        }
    }
}
