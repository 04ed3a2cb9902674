//! The cross-entropy of similarities: rows that are to be nearer to their positives than to all others.

use super::reduce::row_launch;
use super::{arg, random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// The loss of each row; see `shaders/contrast.wgsl`.
pub static CONTRAST: Kernel = Kernel {
    name: "contrast",
    source: include_str!("../../shaders/contrast.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("LABELS").or_none(), Binding::write("TERMS")],
    step: false,
    launch: |family, words, _| row_launch(family, words[0] as usize, words[1] as usize, false),
    twin: reference::contrast,
    cases: || cases::rows(false),
};

/// Their means; see `shaders/contrast_mean.wgsl`.
pub static CONTRAST_MEAN: Kernel = Kernel {
    name: "contrast_mean",
    source: include_str!("../../shaders/contrast_mean.wgsl"),
    bindings: &[Binding::read("TERMS"), Binding::write("LOSS"), Binding::write("SHARE")],
    step: false,
    launch: |family, words, _| {
        let rounds = 8 * u64::from(words[0]);
        row_launch(family, 1, words[1] as usize, false).rounds(rounds)
    },
    twin: reference::mean,
    cases: cases::mean,
};

/// The gradient of the similarities; see `shaders/contrast_backward.wgsl`.
pub static CONTRAST_BACKWARD: Kernel = Kernel {
    name: "contrast_backward",
    source: include_str!("../../shaders/contrast_backward.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("LABELS").or_none(),
        Binding::read("TERMS"),
        Binding::read("SHARE"),
        Binding::read("G"),
        Binding::write("DX").adds(6),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1]) as usize, 64)),
    twin: reference::backward,
    cases: || cases::rows(true),
};

/// What each row of similarities is to be near to, and which columns it is held against. Of a square of
/// 2n rows the first n and the last n are the two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positives {
    /// Its own column, among all of them.
    Matched,
    /// The same row of the other half, among all but itself: NT-Xent of two views (arXiv:2002.05709).
    Views,
    /// The same row of the other half, among the rows of that half: what is matched, both ways.
    Halves,
    /// All others of its class, among all others that have one; their mean counts, outside of the logarithm
    /// (supervised contrast, arXiv:2004.11362). `[n]` u32; [`u32::MAX`] is no class. Rows without another of
    /// their class are left out of the mean over rows.
    Classes(Var),
    /// The same with the signs of `[n]` numbers as classes; 0 is of none.
    Signs(Var),
}

impl Positives {
    fn labels(self) -> Option<Var> {
        match self {
            Positives::Classes(labels) | Positives::Signs(labels) => Some(labels),
            _ => None,
        }
    }

    /// How far a row's positive is from its place, and of how many columns its own block is, of n columns.
    fn places(self, n: usize) -> [usize; 2] {
        match self {
            Positives::Matched => [0, 0],
            Positives::Views => [n / 2, 1],
            Positives::Halves => [n / 2, n / 2],
            Positives::Classes(_) | Positives::Signs(_) => [0, 1],
        }
    }

    fn defines(self) -> Defines {
        let signs = matches!(self, Positives::Signs(_));
        signs.then_some(("SIGNS", 1)).into_iter().collect()
    }
}

fn words([rows, n]: [usize; 2], places: [usize; 2], scale: f32, accumulate: u32) -> Vec<u32> {
    let mut words = sizes(&[rows, n, n, places[0], places[1]]);
    words.extend([scale.to_bits(), accumulate]);
    words
}

impl Tape {
    /// The cross-entropy of `scale · x` against what is positive, `[1]`: the mean over rows, and of several
    /// squares `x [.., n, n]` the sum of their means.
    ///
    /// ```text
    /// mean over rows r of  log Σ_{c is held against r} exp(s x_rc) − mean over positives c of s x_rc
    /// ```
    ///
    /// A row that has nothing to be near to does not count, and a square of such rows gives 0.
    ///
    /// # Errors
    /// No square, none that has halves where they are asked for, labels of another number; a scale that is
    /// not a positive number.
    pub fn contrast(&mut self, x: Var, positives: Positives, scale: f32) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        let (rows, n) = self.rows_cols(x);
        let labels = positives.labels();
        let halved = matches!(positives, Positives::Views | Positives::Halves);
        let square = shape.len() >= 2 && shape[shape.len() - 2] == n && rows > 0;
        if !square || (halved && n % 2 != 0) || labels.is_some_and(|l| self.len(l) != n) {
            let labels = labels.map(|l| self.shape(l));
            let detail = format!(
                "similarities {shape:?} with labels {labels:?}: want [.., n, n], of two halves an even n, \
                 and [n]"
            );
            return Err(Error::shape("contrast", detail));
        }
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::Config(format!(
                "similarities times {scale}: want a number above 0"
            )));
        }
        let (groups, places) = (rows / n, positives.places(n));
        let terms = self.output("contrast.terms", &[rows, 4], &[]);
        let share = self.output("contrast.share", &[groups], &[]);
        let loss = self.output("contrast", &[1], &[x]);
        let flops = 8 * (rows * n) as u64;
        let args = [Some(x), labels, Some(terms)];
        let call = words([rows, n], places, scale, 0);
        self.call(&CONTRAST, &args, call, positives.defines(), flops);
        let args = [terms, loss, share].map(Some);
        let both = sizes(&[groups, n]);
        self.call(&CONTRAST_MEAN, &args, both, Defines::new(), 2 * rows as u64);
        self.on_backward(&[loss], move |tape| {
            if let (Some(g), Some(dx)) = (tape.grad(loss), tape.sink(x)) {
                let args = [Some(x), labels, Some(terms), Some(share), Some(g), Some(dx.var)];
                let call = words([rows, n], places, scale, dx.accumulate);
                tape.call(&CONTRAST_BACKWARD, &args, call, positives.defines(), flops);
            }
            Ok(())
        });
        Ok(loss)
    }
}

mod cases {
    use super::*;

    /// Squares, how many of them, and of each kind which labels there are.
    const LIST: [(usize, usize, &str); 11] = [
        (1, 1, "matched"),
        (5, 2, "matched"),
        (70, 1, "matched"),
        (2, 1, "views"),
        (6, 3, "views"),
        (68, 2, "views"),
        (34, 1, "halves"),
        (1028, 1, "halves"),
        (7, 2, "classes"),
        (90, 1, "classes"),
        (33, 2, "signs"),
    ];

    fn labels(kind: &str, n: usize) -> Option<CaseArg> {
        match kind {
            // One of a class of its own, and one of none.
            "classes" => Some(CaseArg::U(
                (0..n as u32)
                    .map(|i| {
                        if i == 3 {
                            u32::MAX
                        } else {
                            [0, 1, 0, 9, 1, 0, 2][i as usize % 7] + i / 60
                        }
                    })
                    .collect(),
            )),
            "signs" => {
                let of = |v: f32| if v.abs() < 0.3 { v * 0.0 } else { v };
                Some(CaseArg::U(random(9, n).into_iter().map(|v| of(v).to_bits()).collect()))
            }
            _ => None,
        }
    }

    pub(super) fn rows(backward: bool) -> Vec<Case> {
        let all = LIST.into_iter().enumerate().map(|(i, (n, groups, kind))| {
            let rows = n * groups;
            let places = match kind {
                "matched" => [0, 0],
                "views" => [n / 2, 1],
                "halves" => [n / 2, n / 2],
                _ => [0, 1],
            };
            let (x, scale) = (arg(1, rows * n), 8.0);
            let labels = labels(kind, n);
            let args = if backward {
                // Some rows of nothing to be near to.
                let term = |r: usize| if r % 5 == 2 { [0.0; 4] } else { [0.5, 7.5, 0.25, 1.0] };
                let terms = Some(CaseArg::F((0..rows).flat_map(term).collect()));
                vec![x, labels, terms, arg(3, groups), arg(4, 1), arg(5, rows * n)]
            } else {
                vec![x, labels, arg(2, 4 * rows)]
            };
            let accumulate = u32::from(backward && i % 2 == 1);
            let words = words([rows, n], places, scale, accumulate);
            let case = Case::new(format!("{groups}x{n} {kind}"), words, args).within(3e-5);
            let case = if kind == "signs" { case.define("SIGNS", 1) } else { case };
            case.flops(8 * (rows * n) as u64)
        });
        all.collect()
    }

    pub(super) fn mean() -> Vec<Case> {
        let list = [(1, 1), (2, 7), (3, 64), (1, 500), (2, 1030)];
        let all = list.into_iter().map(|(groups, each)| {
            let mut terms = random(1, 4 * groups * each);
            for (r, term) in terms.chunks_mut(4).enumerate() {
                // The last group of several has no row that counts.
                let none = r % 3 == 1 || (groups > 1 && r / each == groups - 1);
                term[3] = if none { 0.0 } else { 1.0 };
                term[0] *= term[3];
            }
            let args = vec![Some(CaseArg::F(terms)), arg(2, 1), arg(3, groups)];
            let case = Case::new(format!("{groups}x{each}"), sizes(&[groups, each]), args);
            case.within(2e-5).flops(2 * (groups * each) as u64)
        });
        all.collect()
    }
}

/// CPU twins. They add in f64: the sum itself, not one order of rounding.
pub mod reference {
    use super::super::{larger, put};
    use super::*;

    /// What a call says of candidates and positives.
    struct Rule {
        classes: Option<Vec<Option<u32>>>,
        cols: usize,
        each: usize,
        shift: usize,
        block: usize,
    }

    impl Rule {
        fn of(t: &Twin) -> Self {
            let signs = t.is("SIGNS");
            let class = |word: &u32| match (signs, *word) {
                (true, word) => (word << 1 != 0).then_some(word >> 31),
                (false, word) => (word != u32::MAX).then_some(word),
            };
            let classes = t.has(1).then(|| t.words_of(1).iter().map(class).collect());
            let [cols, each, shift, block] = [1, 2, 3, 4].map(|i| t.size(i));
            Rule { classes, cols, each, shift, block }
        }

        fn candidate(&self, row: usize, column: usize) -> bool {
            let own = self.block > 0 && column / self.block == row % self.each / self.block;
            !own && self.classes.as_ref().is_none_or(|c| c[column].is_some())
        }

        fn positive(&self, row: usize, column: usize) -> bool {
            let row = row % self.each;
            match &self.classes {
                Some(classes) => classes[row].is_some() && classes[column] == classes[row],
                None => column == (row + self.shift) % self.cols,
            }
        }
    }

    fn least(d: f32) -> f32 {
        if d < -80.0 { -80.0 } else { d }
    }

    /// Loss, logarithm of the sum, share of a positive, and whether there is one.
    pub fn contrast(t: &mut Twin) {
        let (rule, x, scale) = (Rule::of(t), t.read(0), t.float(5));
        for (r, x) in x.chunks(rule.cols).enumerate() {
            let held: Vec<usize> = (0..rule.cols).filter(|c| rule.candidate(r, *c)).collect();
            let near: Vec<usize> = held.iter().copied().filter(|c| rule.positive(r, *c)).collect();
            let term = &mut t.write(2)[4 * r..][..4];
            if near.is_empty() {
                term.fill(0.0);
                continue;
            }
            let m = held.iter().map(|c| scale * x[*c]).fold(-3.0e38, larger);
            let sum: f64 = held.iter().map(|c| f64::from(least(scale * x[*c] - m).exp())).sum();
            let sum = sum.ln() as f32;
            let close: f64 = near.iter().map(|c| f64::from(scale * x[*c] - m)).sum();
            let share = 1.0 / near.len() as f32;
            term.copy_from_slice(&[sum - close as f32 * share, m + sum, share, 1.0]);
        }
    }

    /// Means over the rows that count, and their sum.
    pub fn mean(t: &mut Twin) {
        let (each, terms) = (t.size(1), t.read(0));
        let mut loss = 0.0;
        for (g, group) in terms.chunks(4 * each).enumerate() {
            let sum = |at: usize| group.chunks(4).map(|r| f64::from(r[at])).sum::<f64>() as f32;
            let share = if sum(3) == 0.0 { 0.0 } else { 1.0 / sum(3) };
            loss += sum(0) * share;
            t.write(2)[g] = share;
        }
        t.write(1)[0] = loss;
    }

    /// (softmax over candidates − share of a positive) g scale, over the rows that count.
    pub fn backward(t: &mut Twin) {
        let (rule, scale, accumulate) = (Rule::of(t), t.float(5), t.size(6));
        let [x, terms, share, g] = [0, 2, 3, 4].map(|i| t.read(i));
        for (i, dx) in t.write(5).iter_mut().enumerate() {
            let (r, c) = (i / rule.cols, i % rule.cols);
            let term = &terms[4 * r..][..4];
            let slope = if rule.candidate(r, c) && term[3] != 0.0 {
                let hit = if rule.positive(r, c) { term[2] } else { 0.0 };
                (least(scale * x[i] - term[1]).exp() - hit) * g[0] * share[r / rule.each] * scale
            } else {
                0.0
            };
            put(dx, slope, accumulate);
        }
    }
}
