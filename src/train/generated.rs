//! How the generated labels move away from the multimodal one: a line of `labels.jsonl` an epoch.

use serde::{Deserialize, Serialize};

/// Bins between −clamp and +clamp. Odd, so that neutral has a bin of its own.
pub const BINS: usize = 21;

/// The labels of all tasks as they stand at an epoch's end, over the training rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelRecord {
    /// From 1.
    pub epoch: usize,
    /// The bins cut −clamp to +clamp into equal parts; what lies beyond counts in the outermost.
    pub clamp: f64,
    /// The multimodal label first.
    pub tasks: Vec<TaskLabels>,
}

/// One task's labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskLabels {
    /// M, T, A or V.
    pub task: char,
    /// Rows by bin of this label.
    pub histogram: Vec<u32>,
    /// Mean |y_s − y_m|.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// Mean of this label by bin of the multimodal one; nothing where the bin has no rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<Option<f64>>,
    /// Its standard deviation there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<Option<f64>>,
}

impl LabelRecord {
    /// From labels by task, `[tasks][rows]`, the multimodal one first.
    pub(super) fn new(epoch: usize, clamp: f64, tasks: &[char], labels: &[Vec<f32>]) -> Self {
        let fused = labels.first().map_or(&[][..], Vec::as_slice);
        let each = tasks.iter().zip(labels).enumerate();
        let tasks = each.map(|(i, (task, values))| {
            let mut histogram = vec![0; BINS];
            values.iter().for_each(|y| histogram[bin(*y, clamp)] += 1);
            let mut found =
                TaskLabels { task: *task, histogram, shift: None, mean: vec![], std: vec![] };
            if i > 0 {
                found.against(fused, values, clamp);
            }
            found
        });
        LabelRecord { epoch, clamp, tasks: tasks.collect() }
    }

    /// The middle of a bin.
    pub fn middle(&self, bin: usize) -> f64 {
        ((bin as f64 + 0.5) / BINS as f64 * 2.0 - 1.0) * self.clamp
    }
}

impl TaskLabels {
    fn against(&mut self, fused: &[f32], values: &[f32], clamp: f64) {
        let mut sums = [(0.0, 0.0, 0.0); BINS];
        let mut shift = 0.0;
        for (m, y) in fused.iter().zip(values) {
            let (n, sum, squares) = &mut sums[bin(*m, clamp)];
            let y = f64::from(*y);
            (*n, *sum, *squares) = (*n + 1.0, *sum + y, *squares + y * y);
            shift += (y - f64::from(*m)).abs();
        }
        self.shift = Some(short(shift / fused.len().max(1) as f64));
        let there = |n: f64, value: f64| (n > 0.0).then(|| short(value));
        self.mean = sums.iter().map(|&(n, sum, _)| there(n, sum / n)).collect();
        let variance = |n: f64, sum: f64, squares: f64| (squares / n - (sum / n).powi(2)).max(0.0);
        self.std = sums.iter().map(|&(n, s, q)| there(n, variance(n, s, q).sqrt())).collect();
    }
}

fn bin(value: f32, clamp: f64) -> usize {
    let part = (f64::from(value) / clamp + 1.0) / 2.0 * BINS as f64;
    // A cast takes what lies below to 0.
    (part as usize).min(BINS - 1)
}

/// Five decimals: a line is read by people and by charts.
fn short(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_what_they_say() {
        assert_eq!(
            [-9.0, -3.0, 0.0, 0.1, 2.99, 3.0, 9.0].map(|y| bin(y, 3.0)),
            [0, 0, 10, 10, 20, 20, 20]
        );
        let fused = vec![-3.0, 0.0, 0.0, 3.0];
        let text = vec![-2.0, 0.5, -0.5, 3.0];
        let r = LabelRecord::new(2, 3.0, &['M', 'T'], &[fused, text]);
        assert!(r.middle(10).abs() < 1e-12 && (r.middle(20) - 60.0 / 21.0).abs() < 1e-12);
        let [m, t] = &r.tasks[..] else { panic!() };
        assert_eq!((m.histogram[0], m.histogram[10], m.histogram[20], m.shift), (1, 2, 1, None));
        assert_eq!((t.shift, t.mean[10], t.std[10]), (Some(0.5), Some(0.0), Some(0.5)));
        assert_eq!((t.mean[0], t.std[0], t.mean[5]), (Some(-2.0), Some(0.0), None));
        let line = serde_json::to_string(&r).unwrap();
        assert_eq!(serde_json::from_str::<LabelRecord>(&line).unwrap(), r);
    }
}
