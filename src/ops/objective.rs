//! The objective of a step in one dispatch: what the label map asks of each task, the weighted
//! absolute errors, the covariance terms, their sum, and the step's row of the loss ring.
//!
//! It is [`weighted_l1`](Tape::weighted_l1) with the targets and weights of label generation (see
//! [`labels`](crate::ops::labels)) plus [`align_stacked`](Tape::align_stacked), without the tensors
//! between them. The gradient of the predictions is one dispatch, which finds targets and weights
//! again; that of the features is the one of `align`.

use super::align::{Pair, Stack, loss_words, one_group, reference as align};
use super::{arg, random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// The loss and its row of the ring; see `shaders/objective.wgsl`.
pub static OBJECTIVE: Kernel = Kernel {
    name: "objective",
    source: include_str!("../../shaders/objective.wgsl"),
    bindings: &[
        Binding::read("PRED"),
        // A batch's labels, not all.
        Binding::read("LABELS").part(|p, _, len| [len.min(u64::from(p[28] * p[29])), 0]),
        Binding::read("ROWS"),
        Binding::read("COV").or_none(),
        Binding::write("COEF").or_none(),
        Binding::write("LOSS"),
        // A row: tasks, pairs, and the norms of up to four features.
        Binding::write("RING").part(|p, _, len| [0, len.min(u64::from(p[29] + p[1] + 4))]),
    ],
    step: true,
    launch: |family, _, _| one_group(family),
    twin: reference::objective,
    cases: objective_cases,
};

/// The gradient of the predictions; see `shaders/objective_grad.wgsl`.
pub static OBJECTIVE_GRAD: Kernel = Kernel {
    name: "objective_grad",
    source: include_str!("../../shaders/objective_grad.wgsl"),
    bindings: &[
        Binding::read("PRED"),
        Binding::read("LABELS").part(|p, _, len| [len.min(u64::from(p[0] * p[1])), 0]),
        Binding::read("ROWS"),
        Binding::read("G"),
        Binding::write("DPRED").adds(3),
    ],
    step: false,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1]) as usize, 64)),
    twin: reference::gradient,
    cases: grad_cases,
};

/// What the tasks of an objective are measured by, and where its row goes.
#[derive(Clone, Copy, Debug)]
pub struct Goals {
    /// `[tasks, total]`: the label map, fused first.
    pub labels: Var,
    /// `[n]` u32: the samples of the batch.
    pub rows: Var,
    /// `[rows, width]`: the loss ring; this step's row gets the means of the tasks, then the
    /// unweighted terms of the pairs, then the norm of each feature's covariance.
    pub ring: Var,
}

/// The alignment part of an objective, as [`Tape::align_stacked`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Aligning<'a> {
    /// `[features, n, d]`.
    pub features: Var,
    /// Which features, and how strongly.
    pub pairs: &'a [Pair],
    /// The hinge of negative weights.
    pub margin: f32,
}

impl Tape {
    /// `Σ_k mean_i w[i, k] |pred[i, k] − y[i, k]|` for `pred [n, tasks]`, plus the covariance term
    /// where there is something to align. `y[i, k]` is the label of sample `rows[i]` in task k; `w` is
    /// 1 for task 0, the fused one, and `tanh |y_k − y_0|` for the others. Returns the loss, `[1]`.
    ///
    /// One dispatch forward, two with alignment; likewise backward. The labels must not change
    /// between the two.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) for sizes that do not fit, or a ring whose rows are too short; those
    /// of [`align`](Self::align).
    pub fn objective(
        &mut self,
        pred: Var,
        goals: Goals,
        align: Option<Aligning<'_>>,
    ) -> Result<Var> {
        let Goals { labels, rows, ring } = goals;
        let ((n, tasks), (map, total)) = (self.rows_cols(pred), self.rows_cols(labels));
        let (slots, width) = self.rows_cols(ring);
        let (pairs, margin) = align.map_or((&[][..], 0.0), |a| (a.pairs, a.margin));
        let features = align.map_or(0, |a| self.shape(a.features).first().copied().unwrap_or(0));
        let wanted = tasks.saturating_add(pairs.len().saturating_add(features));
        if map != tasks || self.len(rows) != n || wanted > width || n == 0 || total == 0 {
            let shapes = [pred, labels, rows, ring].map(|v| self.shape(v).to_vec());
            let detail = format!(
                "pred, labels, rows, ring are {shapes:?}: want [n, tasks], [tasks, total], [n], and \
                 {wanted} columns or more"
            );
            return Err(Error::shape("objective", detail));
        }
        let stack = align.map(|a| Stack::record(self, a.features, pairs, margin)).transpose()?;
        let pulled = stack.filter(|s| s.pulled).map(|s| s.x);
        let from: Vec<Var> = [Some(pred), pulled].into_iter().flatten().collect();
        let loss = self.output("loss", &[1], &from);
        let mut words = loss_words(stack.map_or(0, |s| s.d), pairs, margin);
        words[3] = sizes(&[slots])[0];
        words.extend(sizes(&[n, tasks, total, width]));
        let (cov, coef) = (stack.map(|s| s.cov), stack.map(|s| s.coef));
        let args = [Some(pred), Some(labels), Some(rows), cov, coef, Some(loss), Some(ring)];
        let defines = stack.map(|s| s.defines()).unwrap_or_default();
        let flops = (5 * n * tasks) as u64 + stack.map_or(0, |s| s.loss_flops());
        self.call(&OBJECTIVE, &args, words, defines, flops);
        self.on_backward(&[loss], move |tape| {
            let Some(g) = tape.grad(loss) else { return Ok(()) };
            if let Some(dp) = tape.sink(pred) {
                let mut words = sizes(&[n, tasks, total]);
                words.push(dp.accumulate);
                let args = [pred, labels, rows, g, dp.var].map(Some);
                let flops = (6 * n * tasks) as u64;
                tape.call(&OBJECTIVE_GRAD, &args, words, Defines::new(), flops);
            }
            if let Some(stack) = stack {
                stack.backward(tape, g);
            }
            Ok(())
        });
        Ok(loss)
    }
}

/// Samples `0, 3, 6, ..` of `total`, round and round.
fn case_rows(n: usize, total: usize) -> Option<CaseArg> {
    Some(CaseArg::U((0..n).map(|i| (3 * i % total) as u32).collect()))
}

fn objective_cases() -> Vec<Case> {
    let pair = |(a, b, weight)| Pair { a, b, weight };
    let pairs = [(0, 1, 0.5), (0, 2, 0.0), (2, 1, -1.5)].map(pair);
    let six =
        [(0, 1, 1.0), (0, 2, -1.0), (0, 3, 0.25), (2, 1, 0.0), (3, 1, 2.0), (2, 3, -0.5)].map(pair);
    // n, tasks, features, d; pairs; margin.
    let list: [([usize; 4], &[Pair], f32); 9] = [
        ([1, 1, 0, 0], &[], 0.0),
        ([16, 4, 0, 0], &[], 0.0),
        ([500, 3, 0, 0], &[], 0.0),
        ([1, 3, 2, 1], &pairs[..1], 1.0),
        ([16, 4, 3, 16], &pairs, 100.0),
        ([17, 4, 3, 17], &pairs, 1e-4),
        ([9, 1, 3, 5], &pairs, 0.0),
        ([130, 5, 4, 15], &six, 1e-2),
        ([8, 2, 2, 48], &[], 1.0),
    ];
    list.into_iter()
        .map(|([n, tasks, features, d], pairs, margin)| {
            let (total, width) = (n + 5, (tasks + pairs.len() + features).next_multiple_of(16));
            let mut words = loss_words(d, pairs, margin);
            words[3] = 3;
            words.extend(sizes(&[n, tasks, total, width]));
            let with = |a| if features > 0 { a } else { None };
            let args = vec![
                arg(1, n * tasks),
                arg(2, tasks * total),
                case_rows(n, total),
                with(arg(3, features * d * d)),
                with(arg(4, features * features)),
                arg(5, 1),
                arg(6, 3 * width),
            ];
            let name = format!("{n}x{tasks}, {features} features of {d}, margin {margin}");
            let case = Case::new(name, words, args).flops((5 * n * tasks) as u64);
            if features > 0 { case.define("FEATURES", features as u32) } else { case }
        })
        .collect()
}

fn grad_cases() -> Vec<Case> {
    [(1_usize, 1_usize), (16, 4), (65, 3), (500, 2)]
        .into_iter()
        .map(|(n, tasks)| {
            let total = n + 3;
            // A prediction that is right: its slope is zero.
            let (mut pred, labels) = (random(1, n * tasks), random(2, tasks * total));
            pred[0] = labels[0];
            let args = vec![
                Some(CaseArg::F(pred)),
                Some(CaseArg::F(labels)),
                case_rows(n, total),
                Some(CaseArg::F(vec![1.7])),
                arg(5, n * tasks),
            ];
            let words = sizes(&[n, tasks, total, usize::from(n > 16)]);
            Case::new(format!("{n}x{tasks}"), words, args)
        })
        .collect()
}

/// CPU twins.
pub mod reference {
    use super::super::{put, sign_of};
    use super::align;
    use crate::plan::Twin;

    /// Target and weight of a sample's row in a task.
    fn goal(labels: &[f32], total: usize, row: usize, task: usize) -> (f32, f32) {
        let row = row.min(total - 1);
        let label = labels[task * total + row];
        (label, if task == 0 { 1.0 } else { (label - labels[row]).abs().tanh() })
    }

    /// Loss, coefficients, and the row of the ring.
    pub fn objective(t: &mut Twin) {
        let [n, tasks, total, width] = [28, 29, 30, 31].map(|i| t.size(i));
        let (pred, labels, rows) = (t.read(0), t.read(1), t.words_of(2).to_vec());
        let mut row: Vec<f32> = (0..tasks)
            .map(|k| {
                let error = |i: usize| {
                    let (label, weight) = goal(&labels, total, rows[i] as usize, k);
                    weight * (pred[i * tasks + k] - label).abs()
                };
                (0..n).map(error).sum::<f32>() / n as f32
            })
            .collect();
        let mut loss = row.iter().sum();
        if t.has(3) {
            let aligned = align::terms(t, &t.read(3));
            loss += aligned.loss;
            row.extend(aligned.terms);
            row.extend(aligned.norms);
            t.write(4).copy_from_slice(&aligned.coef);
        }
        t.write(5)[0] = loss;
        let (slot, slots) = (t.step.slot as usize, t.size(3));
        if slot < slots {
            t.write(6)[slot * width..][..row.len()].copy_from_slice(&row);
        }
    }

    /// Gradient of the predictions.
    pub fn gradient(t: &mut Twin) {
        let [n, tasks, total, accumulate] = [0, 1, 2, 3].map(|i| t.size(i));
        let (pred, labels, rows) = (t.read(0), t.read(1), t.words_of(2).to_vec());
        let g = t.read(3)[0];
        for at in 0..n * tasks {
            let (label, weight) = goal(&labels, total, rows[at / tasks] as usize, at % tasks);
            let difference = pred[at] - label;
            put(&mut t.write(4)[at], g * weight * sign_of(difference) / n as f32, accumulate);
        }
    }
}
