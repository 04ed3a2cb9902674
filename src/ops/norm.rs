//! LayerNorm behind a residual connection, as a post-norm transformer has it.

use super::dropout::Mask;
use super::reduce::{self, Sum, row_launch};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// `OUT = norm(X + drop(Y))`; see `shaders/residual_norm.wgsl`.
pub static RESIDUAL_NORM: Kernel = Kernel {
    name: "residual_norm",
    source: include_str!("../../shaders/residual_norm.wgsl"),
    bindings: &[
        Binding::read("X"),
        Binding::read("Y").or_none(),
        Binding::read("GB"),
        Binding::write("OUT"),
        Binding::write("Z").or_none(),
        Binding::write("STATS").or_none(),
    ],
    step: true,
    launch: |family, words, _| {
        let (rows, cols) = (words[0] as usize, words[1] as usize);
        row_launch(family, rows, cols, cols.is_multiple_of(4))
    },
    twin: reference::residual_norm,
    cases: cases::forward,
};

/// Its gradient; see `shaders/residual_norm_backward.wgsl`.
pub static RESIDUAL_NORM_BACKWARD: Kernel = Kernel {
    name: "residual_norm_backward",
    source: include_str!("../../shaders/residual_norm_backward.wgsl"),
    bindings: &[
        Binding::read("DOUT"),
        Binding::read("Z"),
        Binding::read("STATS"),
        Binding::read("GB"),
        Binding::write("DX").or_none().adds(6),
        Binding::write("DY").or_none().adds(7),
        Binding::write("PART").or_none(),
    ],
    step: true,
    launch: backward_launch,
    twin: reference::residual_norm_backward,
    cases: cases::backward,
};

/// Rows of which the backward keeps one partial sum.
const CHUNK: usize = 8;

fn backward_launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    let [rows, cols, chunk] = [0, 1, 2].map(|i| words[i] as usize);
    let chunks = rows.div_ceil(chunk);
    let shared = |name, size| Launch::of(grid(chunks, 1)).with(name, size).with("WG", size);
    let launch = match family {
        Family::Tiled if cols > 1024 => shared("TREE", 256),
        Family::Tiled => shared("TREE", 64),
        Family::Wide(lanes) if cols >= 4 * lanes as usize => shared("LANES", lanes),
        _ => Launch::of(grid(chunks, 64)).with("WG", 64),
    };
    let by_four = cols.is_multiple_of(4);
    let launch = launch.iterations((chunk * if by_four { cols / 2 } else { 2 * cols }) as u64);
    if by_four { launch.with("VEC", 1) } else { launch }
}

/// What the backward of a norm needs.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    /// What was normalised, `[rows, cols]`.
    pub z: Var,
    /// Mean and rstd of each row, `[rows, 2]`.
    pub stats: Var,
    /// `[2, cols]`.
    pub gb: Var,
    /// The dropout, and whether it stood behind the norm.
    pub mask: Mask,
    pub after: bool,
}

/// Appends the gradient of a norm: of its inputs and, by partial sums, of gamma and beta.
pub(super) fn backward(tape: &mut Tape, dout: Var, kept: Kept, x: Option<Var>, y: Option<Var>) {
    let (rows, cols) = tape.rows_cols(kept.z);
    let chunks = rows.div_ceil(CHUNK);
    let (dx, dy) = (x.and_then(|x| tape.sink(x)), y.and_then(|y| tape.sink(y)));
    let dgb = tape.sink(kept.gb);
    let part = dgb.map(|_| tape.output("norm.part", &[chunks, 2 * cols], &[]));
    if dx.is_none() && dy.is_none() && part.is_none() {
        return;
    }
    let mut words = sizes(&[rows, cols, CHUNK]);
    words.extend(kept.mask.words());
    words.extend([dx, dy].map(|s| s.map_or(0, |s| s.accumulate)));
    let mut defines = kept.mask.defines();
    if kept.after {
        defines.insert("AFTER", 1);
    }
    let [dx, dy] = [dx, dy].map(|s| s.map(|s| s.var));
    let args = [Some(dout), Some(kept.z), Some(kept.stats), Some(kept.gb), dx, dy, part];
    tape.call(&RESIDUAL_NORM_BACKWARD, &args, words, defines, 14 * (rows * cols) as u64);
    if let (Some(out), Some(x)) = (dgb, part) {
        reduce::cols(tape, Sum { x, times: None, scale: 1.0, out }, chunks, 2 * cols);
    }
}

impl Tape {
    /// `norm(x + dropout(y))` over the last axis: `x`, `y` `[rows, cols]`, `gb [2, cols]` weight and
    /// bias. One dispatch; two backward.
    ///
    /// # Errors
    /// Sizes that do not fit, a dropout outside [0, 1).
    pub fn residual_norm(
        &mut self,
        x: Var,
        y: Var,
        gb: Var,
        eps: f32,
        dropout: f32,
    ) -> Result<Var> {
        let mask = Mask::new(self, dropout)?;
        self.norm(x, Some(y), gb, eps, mask)
    }

    /// LayerNorm over the last axis; see [`residual_norm`](Self::residual_norm).
    ///
    /// # Errors
    /// Sizes that do not fit.
    pub fn layer_norm(&mut self, x: Var, gb: Var, eps: f32) -> Result<Var> {
        self.norm(x, None, gb, eps, Mask::default())
    }

    fn norm(&mut self, x: Var, y: Option<Var>, gb: Var, eps: f32, mask: Mask) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let fits = y.is_none_or(|y| self.rows_cols(y) == (rows, cols));
        let fits = fits && eps.is_finite() && eps > 0.0;
        if !fits || self.rows_cols(gb) != (2, cols) || rows * cols == 0 {
            let shapes: Vec<_> =
                [Some(x), y, Some(gb)].into_iter().flatten().map(|v| self.shape(v)).collect();
            let detail = format!("{shapes:?}: want rows of one width, [2, columns], eps > 0");
            return Err(Error::shape("residual_norm", detail));
        }
        // Two gradients that are written cannot be one tensor.
        let y = match y {
            Some(y) if self.same(y, x) && self.wants_grad(x) => Some(self.scale(y, 1.0)?),
            y => y,
        };
        let inputs: Vec<Var> = [Some(x), y, Some(gb)].into_iter().flatten().collect();
        let shape = self.shape(x).to_vec();
        let out = self.output("norm", &shape, &inputs);
        let wanted = self.wants_grad(out);
        // Of x alone the sum need not be kept: it is x.
        let z = y.filter(|_| wanted).map(|_| self.output("norm.z", &[rows, cols], &[]));
        let stats = wanted.then(|| self.output("norm.stats", &[rows, 2], &[]));
        let mut words = sizes(&[rows, cols]);
        words.push(eps.to_bits());
        words.extend(mask.words());
        let args = [Some(x), y, Some(gb), Some(out), z, stats];
        self.call(&RESIDUAL_NORM, &args, words, mask.defines(), 9 * (rows * cols) as u64);
        self.on_backward(&[out], move |tape| {
            if let (Some(dout), Some(stats)) = (tape.grad(out), stats) {
                let kept = Kept { z: z.unwrap_or(x), stats, gb, mask, after: false };
                backward(tape, dout, kept, Some(x), y);
            }
            Ok(())
        });
        Ok(out)
    }
}

mod cases {
    use super::*;

    const SHAPES: [(usize, usize); 9] = [
        (1, 4),
        (3, 20),
        (65, 8),
        (33, 36),
        (17, 132),
        (5, 1028),
        (70, 64),
        // Widths that are no whole vectors.
        (19, 50),
        (6, 7),
    ];
    const EPS: f32 = 1e-5;

    fn mask(i: usize) -> Mask {
        Mask((i % 2 == 1).then_some((3, 0.3)))
    }

    pub(super) fn forward() -> Vec<Case> {
        let shapes = SHAPES.into_iter().enumerate();
        shapes
            .map(|(i, (rows, cols))| {
                let n = rows * cols;
                let mut words = sizes(&[rows, cols]);
                words.push(EPS.to_bits());
                words.extend(mask(i).words());
                let y = if i % 3 < 2 { arg(2, n) } else { None };
                let kept = i % 2 == 0;
                let (z, stats) = if kept { (arg(5, n), arg(6, 2 * rows)) } else { (None, None) };
                let args = vec![arg(1, n), y, arg(3, 2 * cols), arg(4, n), z, stats];
                let mut case = Case::new(format!("{rows}x{cols}"), words, args).within(2e-5);
                case.defines = mask(i).defines();
                case.flops(9 * n as u64)
            })
            .collect()
    }

    pub(super) fn backward() -> Vec<Case> {
        let shapes = SHAPES.into_iter().enumerate();
        shapes
            .map(|(i, (rows, cols))| {
                let (n, chunk) = (rows * cols, [CHUNK, 5][i % 2]);
                let mut words = sizes(&[rows, cols, chunk]);
                words.extend(mask(i).words());
                words.extend([i as u32 % 2, (i as u32 + 1) % 2]);
                let some = |on: bool, value| if on { value } else { None };
                let args = vec![
                    arg(1, n),
                    arg(2, n),
                    arg(3, 2 * rows),
                    arg(4, 2 * cols),
                    some(i != 2, arg(5, n)),
                    some(i % 3 != 0, arg(6, n)),
                    some(i != 3, arg(7, rows.div_ceil(chunk) * 2 * cols)),
                ];
                let mut case = Case::new(format!("{rows}x{cols}"), words, args).within(3e-5);
                case.defines = mask(i).defines();
                if i % 4 == 1 {
                    case = case.define("AFTER", 1);
                }
                case.flops(14 * n as u64)
            })
            .collect()
    }
}

/// CPU twins; sums in f64.
pub mod reference {
    use super::super::dropout::reference::factor;
    use super::super::put;
    use super::*;

    /// Mean and 1 / √(variance + eps).
    pub fn moments(row: &[f32], eps: f32) -> (f32, f32) {
        let n = row.len() as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        (mean as f32, (1.0 / (square + f64::from(eps)).sqrt()) as f32)
    }

    /// norm(X + drop(Y)).
    pub fn residual_norm(t: &mut Twin) {
        let (rows, cols, eps) = (t.size(0), t.size(1), t.float(2));
        let (x, y, gb) = (t.read(0), t.read(1), t.read(2));
        for r in 0..rows {
            let at = |c: usize| r * cols + c;
            let z: Vec<f32> = (0..cols)
                .map(|c| {
                    let y = y.get(at(c)).map_or(0.0, |y| y * factor(t, 3, at(c)));
                    x[at(c)] + y
                })
                .collect();
            let (mean, rstd) = moments(&z, eps);
            for c in 0..cols {
                t.write(3)[at(c)] = gb[c] * ((z[c] - mean) * rstd) + gb[cols + c];
                if let Some(kept) = t.write(4).get_mut(at(c)) {
                    *kept = z[c];
                }
            }
            if t.has(5) {
                t.write(5)[2 * r..2 * r + 2].copy_from_slice(&[mean, rstd]);
            }
        }
    }

    /// dz = rstd (g − mean(g) − h mean(g h)), and the partial sums of dγ and dβ.
    pub fn residual_norm_backward(t: &mut Twin) {
        let (rows, cols, chunk) = (t.size(0), t.size(1), t.size(2));
        let (add_x, add_y) = (t.size(6), t.size(7));
        let (dout, z, stats, gb) = (t.read(0), t.read(1), t.read(2), t.read(3));
        t.write(6).fill(0.0);
        for r in 0..rows {
            let (mean, rstd) = (stats[2 * r], stats[2 * r + 1]);
            let at = |c: usize| r * cols + c;
            let drop: Vec<f32> = (0..cols).map(|c| factor(t, 3, at(c))).collect();
            let d: Vec<f32> = (0..cols)
                .map(|c| dout[at(c)] * if t.is("AFTER") { drop[c] } else { 1.0 })
                .collect();
            let h: Vec<f32> = (0..cols).map(|c| (z[at(c)] - mean) * rstd).collect();
            let mean_of = |f: &dyn Fn(usize) -> f32| {
                (0..cols).map(|c| f64::from(f(c))).sum::<f64>() as f32 / cols as f32
            };
            let mean_g = mean_of(&|c| gb[c] * d[c]);
            let mean_gh = mean_of(&|c| gb[c] * d[c] * h[c]);
            for c in 0..cols {
                let dz = rstd * (gb[c] * d[c] - mean_g - h[c] * mean_gh);
                if let Some(dx) = t.write(4).get_mut(at(c)) {
                    put(dx, dz, add_x);
                }
                if let Some(dy) = t.write(5).get_mut(at(c)) {
                    put(dy, dz * drop[c], add_y);
                }
                if t.has(6) {
                    let part = (r / chunk) * 2 * cols;
                    t.write(6)[part + c] += d[c] * h[c];
                    t.write(6)[part + cols + c] += d[c];
                }
            }
        }
    }
}
