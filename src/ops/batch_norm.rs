//! Batch normalisation over any axis, with running statistics in a state of the caller's.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// Channels normalised over everything else; see `shaders/batch_norm.wgsl`.
pub static BATCH_NORM: Kernel = Kernel {
    name: "batch_norm",
    source: include_str!("../../shaders/batch_norm.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("GB").or_none(),
        Binding::read("GIVEN").or_none(),
        Binding::write("RUNNING").or_none().updated(),
        Binding::write("OUT"),
        Binding::write("STATS").or_none(),
    ],
    step: false,
    launch,
    twin: reference::batch_norm,
    cases: cases::forward,
};

/// Its gradient; see `shaders/batch_norm_backward.wgsl`.
pub static BATCH_NORM_BACKWARD: Kernel = Kernel {
    name: "batch_norm_backward",
    source: include_str!("../../shaders/batch_norm_backward.wgsl"),
    bindings: &[
        Binding::read("DOUT"),
        Binding::read("X"),
        Binding::read("STATS"),
        Binding::read("GB").or_none(),
        Binding::write("DX").or_none().adds(3),
        Binding::write("DGB").or_none().adds(4),
    ],
    step: false,
    launch,
    twin: reference::batch_norm_backward,
    cases: cases::backward,
};

fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let [outer, channels, inner] = [0, 1, 2].map(|i| words[i]);
    let n = u64::from(outer) * u64::from(inner);
    // Channels to a workgroup and invocations to a channel: neighbours read neighbours.
    let (cols, parts, how) = match (family, inner) {
        (Family::Tiled, 1) => (16, 16, Some("TREE")),
        (Family::Tiled, _) => (1, if n > 1024 { 256 } else { 64 }, Some("TREE")),
        (Family::Wide(lanes), 1) => (lanes, 1, None),
        (Family::Wide(lanes), _) => (1, lanes, Some("LANES")),
        (Family::Plain, _) => (64, 1, None),
    };
    let mut launch = Launch::of(grid(channels as usize, cols as usize))
        .with("COLS", cols)
        .with("PARTS", parts)
        .iterations(3 * n.div_ceil(u64::from(parts)));
    if let Some(how) = how {
        launch = launch.with(how, parts);
    }
    if inner == 1 { launch } else { launch.with("INNER", 1) }
}

/// One batch normalisation.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    /// The axis of the channels; the statistics are over all others. For `[n, d]` and `[b, t, d]` the
    /// last one normalises features, axis 1 of `[b, t, d]` steps of time.
    pub axis: usize,
    /// Weight and bias, `[2, channels]`; `None` is PyTorch's `affine=False`.
    pub gb: Option<Var>,
    /// Running mean and variance, `[2, channels]`: a state that begins as
    /// [`running_start`](Self::running_start), training moves and evaluation reads. `None` is PyTorch's
    /// `track_running_stats=False`: the batch's own statistics in evaluation, too.
    pub running: Option<Var>,
    /// Added to the variance; PyTorch's is 1e-5.
    pub eps: f32,
    /// How far a step moves the running statistics towards the batch's; PyTorch's is 0.1.
    pub momentum: f32,
}

impl BatchNorm {
    /// Without weights and running statistics, with PyTorch's `eps` and `momentum`.
    pub fn over(axis: usize) -> Self {
        BatchNorm { axis, gb: None, running: None, eps: 1e-5, momentum: 0.1 }
    }

    /// What running statistics begin as: means of 0, variances of 1.
    pub fn running_start(channels: usize) -> Vec<f32> {
        let mut start = vec![0.0; channels];
        start.resize(2 * channels, 1.0);
        start
    }
}

impl Tape {
    /// `torch.nn.BatchNorm1d`: `γ_c (x − m_c) / √(v_c + eps) + β_c` for each channel c of `how.axis`.
    /// In training m and v are mean and biased variance of the batch, gradients go through them, and
    /// the running statistics move by `momentum` towards the mean and the unbiased variance, in this
    /// dispatch. In evaluation m and v are the running statistics. One dispatch each way.
    ///
    /// # Errors
    /// An axis that is not there, weights or statistics that are not `[2, channels]`, a single value
    /// for each channel in training, an `eps` that is not positive, a `momentum` outside [0, 1].
    pub fn batch_norm(&mut self, x: Var, how: BatchNorm, training: bool) -> Result<Var> {
        let BatchNorm { axis, gb, running, eps, momentum } = how;
        let shape = self.shape(x).to_vec();
        let channels = shape.get(axis).copied().unwrap_or(0);
        let outer: usize = shape.iter().take(axis).product();
        let inner: usize = shape.iter().skip(axis + 1).product();
        let given = running.filter(|_| !training);
        let moved = running.filter(|_| training);
        let pairs = [gb, running].into_iter().flatten();
        let fits = pairs.into_iter().all(|v| self.rows_cols(v) == (2, channels));
        let enough = outer * inner > usize::from(given.is_none());
        let numbers = eps.is_finite() && eps > 0.0 && (0.0..=1.0).contains(&momentum);
        if !(fits && enough && numbers && channels > 0) {
            let detail = format!(
                "x {shape:?} along axis {axis}, weight and bias {:?}, running {:?}, eps {eps}, \
                 momentum {momentum}: want [2, channels] of both, more than one value a channel \
                 where the batch's own statistics are taken, eps > 0, momentum in [0, 1]",
                gb.map(|v| self.shape(v)),
                running.map(|v| self.shape(v))
            );
            return Err(Error::shape("batch_norm", detail));
        }
        let inputs: Vec<Var> = [Some(x), gb].into_iter().flatten().collect();
        let out = self.output("batch_norm", &shape, &inputs);
        let wanted = self.wants_grad(out);
        let stats = wanted.then(|| self.output("batch_norm.stats", &[2, channels], &[]));
        let mut words = sizes(&[outer, channels, inner]);
        words.extend([eps.to_bits(), momentum.to_bits()]);
        // What a checkpoint records again for its gradient has moved them already.
        let moved = moved.filter(|_| !self.in_backward());
        let flops = 8 * self.len(x) as u64;
        let args = [Some(x), gb, given, moved, Some(out), stats];
        self.call(&BATCH_NORM, &args, words, Defines::new(), flops);
        self.on_backward(&[out], move |tape| {
            let (Some(dout), Some(stats)) = (tape.grad(out), stats) else { return Ok(()) };
            let (dx, dgb) = (tape.sink(x), gb.and_then(|gb| tape.sink(gb)));
            let mut words = sizes(&[outer, channels, inner]);
            words.extend([dx, dgb].map(|s| s.map_or(0, |s| s.accumulate)));
            let mut defines = Defines::new();
            if given.is_some() {
                defines.insert("FIXED", 1);
            }
            let [dx, dgb] = [dx, dgb].map(|s| s.map(|s| s.var));
            let args = [Some(dout), Some(x), Some(stats), gb, dx, dgb];
            tape.call(&BATCH_NORM_BACKWARD, &args, words, defines, flops);
            Ok(())
        });
        Ok(out)
    }
}

mod cases {
    use super::*;

    // Outer, channels, inner.
    const SHAPES: [(usize, usize, usize); 8] = [
        (2, 1, 1),
        (3, 5, 1),
        (65, 17, 1),
        (20, 64, 1),
        (2, 3, 2),
        (5, 7, 33),
        (3, 2, 700),
        (1, 70, 9),
    ];

    /// Channels of different scale and place; the last one constant.
    fn values(outer: usize, channels: usize, inner: usize) -> Option<CaseArg> {
        let x = super::super::random(1, outer * channels * inner);
        let value = |(i, x): (usize, &f32)| match i / inner % channels {
            c if c + 1 == channels && c > 0 => 0.3,
            c => x * (1 + c % 5) as f32 + c as f32 * 0.1,
        };
        Some(CaseArg::F(x.iter().enumerate().map(value).collect()))
    }

    pub(super) fn forward() -> Vec<Case> {
        let shapes = SHAPES.into_iter().enumerate();
        shapes
            .map(|(i, (outer, channels, inner))| {
                let n = outer * channels * inner;
                let mut words = sizes(&[outer, channels, inner]);
                words.extend([1e-5_f32, 0.1].map(f32::to_bits));
                let some = |on: bool, value| if on { value } else { None };
                // Variances are not negative.
                let mut given = super::super::random(5, 2 * channels);
                given[channels..].iter_mut().for_each(|v| *v = v.abs() + 0.1);
                let given = Some(CaseArg::F(given));
                let args = vec![
                    values(outer, channels, inner),
                    some(i % 3 != 2, arg(2, 2 * channels)),
                    some(i % 4 == 3, given.clone()),
                    some(i % 4 != 3 && i % 2 == 0, given),
                    arg(3, n),
                    some(i % 3 != 1, arg(4, 2 * channels)),
                ];
                let case = Case::new(format!("{outer}x{channels}x{inner}"), words, args);
                case.within(3e-5).flops(8 * n as u64)
            })
            .collect()
    }

    pub(super) fn backward() -> Vec<Case> {
        let shapes = SHAPES.into_iter().enumerate();
        shapes
            .map(|(i, (outer, channels, inner))| {
                let n = outer * channels * inner;
                let mut words = sizes(&[outer, channels, inner]);
                words.extend([i as u32 % 2, (i as u32 + 1) % 2]);
                let some = |on: bool, value| if on { value } else { None };
                let args = vec![
                    arg(1, n),
                    values(outer, channels, inner),
                    arg(2, 2 * channels),
                    some(i % 3 != 2, arg(3, 2 * channels)),
                    some(i % 4 != 2, arg(4, n)),
                    some(i % 4 != 1, arg(5, 2 * channels)),
                ];
                let case = Case::new(format!("{outer}x{channels}x{inner}"), words, args);
                let case = if i % 3 == 0 { case.define("FIXED", 1) } else { case };
                case.within(5e-5).flops(8 * n as u64)
            })
            .collect()
    }
}

/// CPU twins; sums in f64.
pub mod reference {
    use super::super::put;
    use super::*;

    /// Where the elements of a channel are.
    fn channel(t: &Twin, c: usize) -> Vec<usize> {
        let [outer, channels, inner] = [0, 1, 2].map(|i| t.size(i));
        let places = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i)));
        places.map(|(o, i)| (o * channels + c) * inner + i).collect()
    }

    /// γ (x − m) r + β, and the running statistics.
    pub fn batch_norm(t: &mut Twin) {
        let (channels, eps, momentum) = (t.size(1), t.float(3), t.float(4));
        let (x, gb, given) = (t.read(0), t.read(1), t.read(2));
        for c in 0..channels {
            let own = channel(t, c);
            let n = own.len() as f64;
            let mean = own.iter().map(|i| f64::from(x[*i])).sum::<f64>() / n;
            let squares = own.iter().map(|i| (f64::from(x[*i]) - mean).powi(2)).sum::<f64>();
            let (m, v) = match given.get(c) {
                Some(mean) => (*mean, given[channels + c]),
                None => (mean as f32, (squares / n) as f32),
            };
            let rstd = 1.0 / (v + eps).sqrt();
            for (at, value) in [(c, m), (channels + c, (squares / (n - 1.0)) as f32)] {
                if let Some(running) = t.write(3).get_mut(at) {
                    *running = (1.0 - momentum) * *running + momentum * value;
                }
            }
            for (at, value) in [(c, m), (channels + c, rstd)] {
                if let Some(stat) = t.write(5).get_mut(at) {
                    *stat = value;
                }
            }
            let weight = gb.get(c).copied().unwrap_or(1.0);
            let bias = gb.get(channels + c).copied().unwrap_or(0.0);
            for i in own {
                t.write(4)[i] = weight * ((x[i] - m) * rstd) + bias;
            }
        }
    }

    /// γ r (d − mean(d) − h mean(d h)), and the sums of d h and d.
    pub fn batch_norm_backward(t: &mut Twin) {
        let [channels, add_x, add_gb] = [1, 3, 4].map(|i| t.size(i));
        let (dout, x, stats, gb) = (t.read(0), t.read(1), t.read(2), t.read(3));
        for c in 0..channels {
            let own = channel(t, c);
            let (mean, rstd) = (stats[c], stats[channels + c]);
            let h = |i: usize| (x[i] - mean) * rstd;
            let d: f64 = own.iter().map(|i| f64::from(dout[*i])).sum();
            let dh: f64 = own.iter().map(|i| f64::from(dout[*i]) * f64::from(h(*i))).sum();
            for (at, sum) in [(c, dh), (channels + c, d)] {
                if let Some(to) = t.write(5).get_mut(at) {
                    put(to, sum as f32, add_gb);
                }
            }
            let n = own.len() as f64;
            let slope = gb.get(c).copied().unwrap_or(1.0) * rstd;
            let (d, dh, fixed) = (d / n, dh / n, t.is("FIXED"));
            for i in own {
                if let Some(to) = t.write(4).get_mut(i) {
                    // With FIXED statistics X has no part in it.
                    let own = if fixed { 0.0 } else { d as f32 + h(i) * dh as f32 };
                    put(to, slope * (dout[i] - own), add_x);
                }
            }
        }
    }
}
