//! Convolution over time: the windows of a sequence laid side by side, then the matrix product that
//! all layers share, so that a convolution is as fast as a product of its size.

use super::matmul::{Product, linear_weight_grad, product};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// Windows side by side; see `shaders/unfold.wgsl`.
pub static UNFOLD: Kernel = Kernel {
    name: "unfold",
    source: include_str!("../../shaders/unfold.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("OUT")],
    step: false,
    launch: |family, words, _| {
        let [batch, channels, taps, out_steps] = [0, 2, 3, 4].map(|i| words[i] as usize);
        let windows = batch * out_steps * channels;
        match family {
            Family::Tiled => Launch::of(grid(windows * taps, 64)).with("TILED", 1),
            _ => Launch::of(grid(windows, 64)).iterations(taps as u64),
        }
    },
    twin: reference::unfold,
    cases: || cases(false),
};

/// Its gradient; see `shaders/unfold_backward.wgsl`.
pub static UNFOLD_BACKWARD: Kernel = Kernel {
    name: "unfold_backward",
    source: include_str!("../../shaders/unfold_backward.wgsl"),
    bindings: &[Binding::read("DOUT"), Binding::write("DX").adds(8)],
    step: false,
    launch: |_, words, _| {
        let items = words[..3].iter().map(|w| *w as usize).product();
        Launch::of(grid(items, 64)).iterations(words[3].into())
    },
    twin: reference::unfold_backward,
    cases: || cases(true),
};

/// How a convolution moves over its input; the names and meanings are those of `torch.nn.Conv1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv1d {
    /// Steps from one window to the next.
    pub stride: usize,
    /// Zeros before the first step and behind the last one.
    pub padding: usize,
    /// Steps from one tap of a window to the next.
    pub dilation: usize,
}

impl Default for Conv1d {
    fn default() -> Self {
        Conv1d { stride: 1, padding: 0, dilation: 1 }
    }
}

impl Conv1d {
    /// Steps that come out of `steps` under so many taps; none where no window fits.
    pub fn out_steps(&self, steps: usize, taps: usize) -> Option<usize> {
        let reach = self.dilation.checked_mul(taps.checked_sub(1)?)? + 1;
        let last = (steps + 2 * self.padding).checked_sub(reach)?;
        last.checked_div(self.stride).map(|n| n + 1)
    }
}

impl Tape {
    /// `torch.nn.Conv1d` over the steps of `x [batch, t, c_in]`, which has its channels last, as the
    /// streams of a data set have them, where PyTorch has `[batch, c_in, t]`; the result is
    /// `[batch, t', c_out]`, `t' = (t + 2 padding − dilation (k − 1) − 1) / stride + 1`:
    /// `y[b, i, o] = bias[o] + Σ_c Σ_j w[o, c, j] x[b, i stride + j dilation − padding, c]`.
    /// `w [c_out, c_in, k]` and `bias [c_out]` are as PyTorch stores them; one group.
    ///
    /// Two dispatches, of which the first copies k windows of each step (k times the memory of `x`,
    /// kept for the gradient of `w`); with k = 1 and nothing special, one. Backward three, or two
    /// where `x` has no gradient or k = 1.
    ///
    /// # Errors
    /// Sizes that do not fit; a window longer than the padded sequence; a stride or dilation of 0.
    pub fn conv1d(&mut self, x: Var, w: Var, bias: Option<Var>, how: Conv1d) -> Result<Var> {
        let sizes_of = match (self.shape(x), self.shape(w)) {
            (&[batch, steps, channels], &[out, c, taps]) if c == channels => {
                Some([batch, steps, channels, out, taps])
            }
            _ => None,
        };
        let there = sizes_of.filter(|s| {
            let [.., out, _] = *s;
            s.iter().all(|n| *n > 0) && how.dilation > 0 && bias.is_none_or(|b| self.len(b) == out)
        });
        let known = there.and_then(|s| how.out_steps(s[1], s[4]).map(|out_steps| (s, out_steps)));
        let Some(([batch, steps, channels, out, taps], out_steps)) = known else {
            let detail = format!(
                "x {:?}, weight {:?}, bias {:?} under {how:?}: want [batch, t, c_in], \
                 [c_out, c_in, k] and [c_out], stride and dilation of 1 or more, and a window that \
                 the padded sequence holds",
                self.shape(x),
                self.shape(w),
                bias.map(|b| self.shape(b).to_vec())
            );
            return Err(Error::shape("conv1d", detail));
        };
        let (rows, width) = (batch * out_steps, channels * taps);
        let as_it_is = taps == 1 && how.stride == 1 && how.padding == 0;
        let mut words = sizes(&[batch, steps, channels, taps, out_steps]);
        words.extend(sizes(&[how.stride, how.dilation, how.padding]));
        let windows = if as_it_is {
            x
        } else {
            let windows = self.output("windows", &[batch, out_steps, width], &[x]);
            self.call(&UNFOLD, &[Some(x), Some(windows)], words.clone(), Defines::new(), 0);
            windows
        };
        let inputs: Vec<Var> = [Some(x), Some(w), bias].into_iter().flatten().collect();
        let y = self.output("conv1d", &[batch, out_steps, out], &inputs);
        let p = Product { m: rows, n: out, k: width, tb: true, bias, ..Default::default() };
        product(self, windows, w, y, p);
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            linear_weight_grad(tape, dy, windows, (rows, out, width), None, w, bias);
            let p = Product { m: rows, n: width, k: out, ..Default::default() };
            if as_it_is {
                if let Some(dx) = tape.sink(x) {
                    product(tape, dy, w, dx.var, Product { accumulate: dx.accumulate, ..p });
                }
                return Ok(());
            }
            if let Some(dx) = tape.sink(x) {
                let d = tape.output("d.windows", &[batch, out_steps, width], &[]);
                product(tape, dy, w, d, p);
                let mut words = words.clone();
                words.push(dx.accumulate);
                let flops = (rows * width) as u64;
                let args = [Some(d), Some(dx.var)];
                tape.call(&UNFOLD_BACKWARD, &args, words, Defines::new(), flops);
            }
            Ok(())
        });
        Ok(y)
    }
}

fn cases(backward: bool) -> Vec<Case> {
    // Batch, steps, channels, taps, stride, dilation, padding.
    let list = [
        (1, 1, 1, 1, 1, 1, 0),
        (2, 5, 3, 3, 1, 1, 0),
        (3, 7, 5, 5, 1, 1, 2),
        (2, 12, 4, 3, 2, 1, 1),
        (2, 11, 6, 2, 3, 4, 0),
        (1, 3, 2, 5, 1, 2, 4),
        (4, 50, 20, 5, 1, 1, 0),
        (2, 9, 17, 4, 5, 1, 3),
    ];
    list.into_iter()
        .enumerate()
        .map(|(i, (batch, steps, channels, taps, stride, dilation, padding))| {
            let how = Conv1d { stride, padding, dilation };
            let out_steps = how.out_steps(steps, taps).unwrap_or_default();
            let mut words = sizes(&[batch, steps, channels, taps, out_steps]);
            words.extend(sizes(&[stride, dilation, padding]));
            let (x, windows) = (batch * steps * channels, batch * out_steps * channels * taps);
            let mut args = vec![arg(1, x), arg(2, windows)];
            if backward {
                args.reverse();
                words.push(i as u32 % 2);
            }
            let name =
                format!("{batch}x{steps}x{channels}, {taps} taps {stride} {dilation} {padding}");
            Case::new(name, words, args).flops(windows as u64)
        })
        .collect()
}

/// CPU twins.
pub mod reference {
    use super::super::put;
    use super::*;

    /// For each element of the windows where it is in them, and where in the input if it is.
    fn each(t: &Twin, mut visit: impl FnMut(usize, Option<usize>)) {
        let [batch, steps, channels, taps, out_steps] = [0, 1, 2, 3, 4].map(|i| t.size(i));
        let [stride, dilation, padding] = [5, 6, 7].map(|i| t.size(i));
        for (b, i) in (0..batch).flat_map(|b| (0..out_steps).map(move |i| (b, i))) {
            for (c, j) in (0..channels).flat_map(|c| (0..taps).map(move |j| (c, j))) {
                let step = (i * stride + j * dilation).checked_sub(padding);
                let from = step.filter(|s| *s < steps).map(|s| (b * steps + s) * channels + c);
                visit(((b * out_steps + i) * channels + c) * taps + j, from);
            }
        }
    }

    /// Windows side by side.
    pub fn unfold(t: &mut Twin) {
        let x = t.read(0);
        let mut out = t.read(1);
        each(t, |to, from| out[to] = from.map_or(0.0, |from| x[from]));
        t.write(1).copy_from_slice(&out);
    }

    /// What each input has given to windows, added up.
    pub fn unfold_backward(t: &mut Twin) {
        let (dout, accumulate) = (t.read(0), t.size(8));
        let mut sums = vec![0.0_f64; t.words_of(1).len()];
        each(t, |to, from| {
            if let Some(from) = from {
                sums[from] += f64::from(dout[to]);
            }
        });
        for (dx, sum) in t.write(1).iter_mut().zip(sums) {
            put(dx, sum as f32, accumulate);
        }
    }
}
