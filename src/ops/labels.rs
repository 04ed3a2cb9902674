//! Unimodal label generation: the feature store, the class centres and the label map, which live
//! on the device and change inside the step (Self-MM, arXiv:2102.04830, as released).

use super::{random, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// New labels and the feature store; see `shaders/label_update.wgsl`.
pub static UPDATE: Kernel = Kernel {
    name: "label_update",
    source: include_str!("../../shaders/label_update.wgsl"),
    bindings: &[
        Binding::read("F"),
        Binding::read("CENTRES"),
        Binding::read("ROWS"),
        // Of a batch: the fused label and the task's own are read, the latter written.
        Binding::write("LABELS").part(|p, _, _| [p[0] * p[1], p[0] * (p[1] - 1)].map(u64::from)),
        Binding::write("STORE").part(|p, _, _| [0, u64::from(p[0] * p[3])]),
    ],
    step: true,
    launch: |_, words, _| Launch::of(grid((words[0] * words[1]) as usize, 8)),
    twin: reference::update,
    cases: || [2, 4].map(update_case).to_vec(),
};

/// Sums over the classes; see `shaders/centre_sums.wgsl`.
pub static CENTRE_SUMS: Kernel = Kernel {
    name: "centre_sums",
    source: include_str!("../../shaders/centre_sums.wgsl"),
    bindings: &[Binding::read("STORE"), Binding::read("LABELS"), Binding::write("PART")],
    step: false,
    launch: |_, words, _| Launch::of([words[1].div_ceil(64), words[5], 1]),
    twin: reference::centre_sums,
    cases: || vec![centre_case(true, 70, 0), centre_case(true, 131, 1)],
};

/// The centres themselves; see `shaders/centres.wgsl`.
pub static CENTRES: Kernel = Kernel {
    name: "centres",
    source: include_str!("../../shaders/centres.wgsl"),
    bindings: &[Binding::read("PART"), Binding::write("CENTRES")],
    step: false,
    launch: |_, words, _| Launch::of([words[1].div_ceil(64), 1, 1]),
    twin: reference::centres,
    cases: || vec![centre_case(false, 70, 0), centre_case(false, 131, 1)],
};

/// Rows of the feature store that one workgroup row sums.
const CHUNK: usize = 64;

/// The persistent state of label generation.
#[derive(Clone, Copy, Debug)]
pub struct LabelState {
    /// `[tasks, total]`: fused first; the fused labels are the given ones.
    pub labels: Var,
    /// `[total, Σ dims]`: every sample's features, side by side; zero before its first visit.
    pub store: Var,
    /// `[2 Σ dims]`: task by task the centre of the positive class, then of the negative one.
    pub centres: Var,
}

/// How labels are generated.
#[derive(Clone, Copy, Debug)]
pub struct LabelRule {
    /// Generated labels are clamped to ± this.
    pub clamp: f32,
    /// Whether zero labels belong to neither class; otherwise they count as positive.
    pub exclude_zero: bool,
    /// Squared distances, as the paper may mean, instead of the released code's norms.
    pub squared: bool,
}

impl Tape {
    /// One step of label generation: new labels of this batch from the old centres (from epoch 2
    /// on), its features into the store, new centres over the whole store. Three dispatches.
    /// `features` is `[n, Σ dims]`: `dims[k]` columns of task k, fused first.
    ///
    /// # Errors
    /// More than four tasks, or state of other sizes.
    pub fn generate_labels(
        &mut self,
        features: Var,
        dims: &[usize],
        rows: Var,
        state: LabelState,
        rule: LabelRule,
    ) -> Result<()> {
        let n = self.len(rows);
        let (tasks, total) = self.rows_cols(state.labels);
        let width: usize = dims.iter().sum();
        let fits = self.rows_cols(features) == (n, width)
            && self.shape(state.store) == [total, width]
            && self.len(state.centres) == 2 * width;
        if tasks != dims.len() || tasks > 4 || !fits {
            let detail = format!(
                "features {:?} of {dims:?} for {n} rows; labels {:?}, store {:?}, centres {:?}: want \
                 [tasks, total], [total, {width}], [{}], at most 4 tasks",
                self.shape(features),
                self.shape(state.labels),
                self.shape(state.store),
                self.shape(state.centres),
                2 * width
            );
            return Err(Error::shape("generate_labels", detail));
        }
        let dim = |k: usize| dims.get(k).copied().unwrap_or(0) as u32;
        let all_dims = [dim(0), dim(1), dim(2), dim(3)];
        let mut words = sizes(&[n, tasks, total, width]);
        words.extend([rule.clamp.to_bits(), u32::from(rule.squared), 0, 0]);
        words.extend(all_dims);
        let args = [features, state.centres, rows, state.labels, state.store].map(Some);
        self.call(&UPDATE, &args, words, Defines::new(), (n * width * 12) as u64);

        let chunks = total.div_ceil(CHUNK);
        let mut words = sizes(&[total, width, tasks, CHUNK]);
        words.extend([u32::from(rule.exclude_zero), chunks as u32, 0, 0]);
        words.extend(all_dims);
        let part = self.output("centre.sums", &[chunks, 2 * (width + tasks)], &[]);
        let args = [state.store, state.labels, part].map(Some);
        self.call(&CENTRE_SUMS, &args, words.clone(), Defines::new(), (total * width * 4) as u64);
        let args = [part, state.centres].map(Some);
        self.call(&CENTRES, &args, words, Defines::new(), (chunks * width * 4) as u64);
        Ok(())
    }
}

const CASE_DIMS: [usize; 4] = [12, 5, 7, 3];

fn update_case(tasks: usize) -> Case {
    let (n, total) = (6, 11);
    let dims: Vec<u32> = (0..4).map(|k| if k < tasks { CASE_DIMS[k] as u32 } else { 0 }).collect();
    let width: usize = CASE_DIMS[..tasks].iter().sum();
    let mut words = vec![n as u32, tasks as u32, total as u32, width as u32];
    words.extend([1.5_f32.to_bits(), u32::from(tasks == 2), 0, 0]);
    words.extend(&dims);
    let f = |s, len| Some(CaseArg::F(random(s, len)));
    let rows = Some(CaseArg::U(vec![3, 0, 10, 7, 8, 2]));
    let mut args = vec![f(10, n * width), f(2, 2 * width), rows];
    args.extend([f(3, tasks * total), f(4, total * width)]);
    Case::new(format!("{tasks} tasks"), words, args).within(1e-4)
}

fn centre_case(sums: bool, total: usize, exclude: u32) -> Case {
    let (tasks, chunks) = (4, total.div_ceil(CHUNK));
    let width: usize = CASE_DIMS.iter().sum();
    let mut words = [total, width, tasks, CHUNK].map(|w| w as u32).to_vec();
    words.extend([exclude, chunks as u32, 0, 0]);
    words.extend(CASE_DIMS.map(|d| d as u32));
    let f = |s, len| Some(CaseArg::F(random(s, len)));
    let part = chunks * 2 * (width + tasks);
    let args = if sums {
        // A few exact zeros, and one task without a negative label.
        let mut labels = random(2, tasks * total);
        labels.iter_mut().step_by(5).for_each(|l| *l = 0.0);
        labels[total..2 * total].iter_mut().for_each(|l| *l = l.abs());
        vec![f(1, total * width), Some(CaseArg::F(labels)), f(3, part)]
    } else {
        let mut sums: Vec<f32> = random(1, part);
        for chunk in sums.chunks_mut(width + tasks) {
            for (task, count) in chunk[width..].iter_mut().enumerate() {
                *count = if task == 1 { 0.0 } else { 3.0 };
            }
        }
        vec![Some(CaseArg::F(sums)), f(4, 2 * width)]
    };
    Case::new(format!("{total} rows, exclude zero {exclude}"), words, args)
}

/// CPU twins.
#[allow(clippy::needless_range_loop, reason = "loops that read like the shaders'")]
pub mod reference {
    use crate::plan::Twin;

    /// The new label of one sample (method notes 4.4), before clamping.
    pub fn fresh_label(alpha_m: f32, alpha_s: f32, y_m: f32) -> f32 {
        0.5 * (alpha_s / (alpha_m + 1e-8)) * y_m + 0.5 * (y_m + alpha_s - alpha_m)
    }

    /// Relative distance to the two centres.
    pub fn alpha(to_negative: f32, to_positive: f32) -> f32 {
        (to_negative - to_positive) / (to_positive + 1e-8)
    }

    fn distance(a: &[f32], b: &[f32], squared: bool) -> f32 {
        let sum: f32 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
        if squared { sum } else { sum.sqrt() }
    }

    /// Labels, then the store.
    pub fn update(t: &mut Twin) {
        let [n, tasks, total, width] = [0, 1, 2, 3].map(|i| t.size(i));
        let (limit, squared) = (t.float(4), t.size(5) != 0);
        let dims: Vec<usize> = (0..tasks).map(|k| t.size(8 + k)).collect();
        let (features, centres, rows) = (t.read(0), t.read(1), t.words_of(2).to_vec());
        let epoch = t.step.epoch as f32;
        let first: Vec<usize> = (0..tasks).map(|k| dims[..k].iter().sum()).collect();
        for i in 0..n {
            let row = rows[i] as usize;
            if row >= total {
                continue;
            }
            let features = &features[i * width..(i + 1) * width];
            let alpha_of = |k: usize| {
                let feature = &features[first[k]..first[k] + dims[k]];
                let centre = &centres[2 * first[k]..2 * first[k] + 2 * dims[k]];
                let (positive, negative) = centre.split_at(dims[k]);
                let near = distance(feature, positive, squared);
                alpha(distance(feature, negative, squared), near)
            };
            for k in 1..tasks {
                if epoch < 2.0 {
                    break;
                }
                let y_m = t.write(3)[row];
                let fresh = fresh_label(alpha_of(0), alpha_of(k), y_m).clamp(-limit, limit);
                let label = &mut t.write(3)[k * total + row];
                *label = (epoch - 1.0) / (epoch + 1.0) * *label + 2.0 / (epoch + 1.0) * fresh;
            }
            t.write(4)[row * width..(row + 1) * width].copy_from_slice(features);
        }
    }

    /// Class sums and counts of each chunk.
    pub fn centre_sums(t: &mut Twin) {
        let [total, width, tasks, chunk] = [0, 1, 2, 3].map(|i| t.size(i));
        let (exclude_zero, chunks) = (t.size(4) != 0, t.size(5));
        let dims: Vec<usize> = (0..tasks).map(|k| t.size(8 + k)).collect();
        let (store, labels) = (t.read(0), t.read(1));
        let half = width + tasks;
        for c in 0..chunks {
            t.write(2)[c * 2 * half..(c + 1) * 2 * half].fill(0.0);
            for row in c * chunk..total.min((c + 1) * chunk) {
                let mut col = 0;
                for task in 0..tasks {
                    let label = labels[task * total + row];
                    let class = if label < 0.0 {
                        Some(1)
                    } else if label > 0.0 || !exclude_zero {
                        Some(0)
                    } else {
                        None
                    };
                    if !label.is_finite() {
                        // In neither class, and spoils both.
                        for class in 0..2 {
                            let at = (c * 2 + class) * half;
                            t.write(2)[at + col..at + col + dims[task]].fill(f32::NAN);
                            t.write(2)[at + width + task] = f32::NAN;
                        }
                    } else if let Some(class) = class {
                        let at = (c * 2 + class) * half;
                        for j in col..col + dims[task] {
                            t.write(2)[at + j] += store[row * width + j];
                        }
                        t.write(2)[at + width + task] += 1.0;
                    }
                    col += dims[task];
                }
            }
        }
    }

    /// Means; an empty class keeps its centre.
    pub fn centres(t: &mut Twin) {
        let [width, tasks] = [1, 2].map(|i| t.size(i));
        let chunks = t.size(5);
        let dims: Vec<usize> = (0..tasks).map(|k| t.size(8 + k)).collect();
        let part = t.read(0);
        let half = width + tasks;
        let total = |class: usize, col: usize| -> f32 {
            (0..chunks).map(|c| part[(c * 2 + class) * half + col]).sum()
        };
        let mut first = 0;
        for task in 0..tasks {
            for class in 0..2 {
                let count = total(class, width + task);
                for j in 0..dims[task] {
                    // A count that is NaN is not none.
                    if count != 0.0 {
                        t.write(1)[2 * first + class * dims[task] + j] =
                            total(class, first + j) / count;
                    }
                }
            }
            first += dims[task];
        }
    }
}
