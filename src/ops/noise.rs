//! Normal noise, computed from counters and never stored, and samples of normal distributions whose
//! parameters learn.

use super::elementwise::{add_scaled, by_fours};
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Twin};
use crate::tape::{Tape, Var};

/// `Z = MU + scale exp(LOGVAR / 2) e`; see `shaders/noise.wgsl`.
pub static NOISE: Kernel = Kernel {
    name: "noise",
    source: include_str!("../../shaders/noise.wgsl"),
    bindings: &[
        Binding::read("MU").or_none(),
        Binding::read("LOGVAR").or_none(),
        Binding::write("Z"),
    ],
    step: true,
    launch: by_fours,
    twin: reference::noise,
    cases: cases::forward,
};

/// Its gradients; see `shaders/noise_backward.wgsl`.
pub static NOISE_BACKWARD: Kernel = Kernel {
    name: "noise_backward",
    source: include_str!("../../shaders/noise_backward.wgsl"),
    bindings: &[
        Binding::read("DZ"),
        Binding::read("LOGVAR").or_none(),
        Binding::write("DMU").or_none().adds(2),
        Binding::write("DLOGVAR").or_none().adds(3),
    ],
    step: true,
    launch: by_fours,
    twin: reference::noise_backward,
    cases: cases::backward,
};

fn words(len: usize, stream: u32, scale: f32) -> Vec<u32> {
    vec![len as u32, stream, scale.to_bits()]
}

impl Tape {
    /// Standard normal numbers, `[shape]`, others at every step. Which ones follows from the run's
    /// seed, the step, and the order of random operations on the tape.
    ///
    /// # Errors
    /// A shape without elements.
    pub fn normal(&mut self, shape: &[usize]) -> Result<Var> {
        let len: usize = shape.iter().product();
        if len == 0 {
            return Err(Error::shape("normal", format!("{shape:?} has no element")));
        }
        let stream = self.next_stream();
        let z = self.output("normal", shape, &[]);
        let args = [None, None, Some(z)];
        self.call(&NOISE, &args, words(len, stream, 1.0), Defines::new(), 20 * len as u64);
        Ok(z)
    }

    /// Standard normal numbers of the shape of `x`; see [`normal`](Self::normal).
    ///
    /// # Errors
    /// A tensor without elements.
    pub fn normal_like(&mut self, x: Var) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        self.normal(&shape)
    }

    /// `x + sigma · e` with the numbers of [`normal`](Self::normal). Leave it out of a tape for
    /// evaluation; a `sigma` of 0 leaves it out, too.
    ///
    /// # Errors
    /// A `sigma` that is negative or not finite.
    pub fn add_noise(&mut self, x: Var, sigma: f32) -> Result<Var> {
        if !sigma.is_finite() || sigma < 0.0 {
            return Err(Error::Config(format!("noise of deviation {sigma}: want 0 or more")));
        }
        if sigma == 0.0 {
            return Ok(x);
        }
        let (shape, len, stream) = (self.shape(x).to_vec(), self.len(x), self.next_stream());
        let z = self.output("noise", &shape, &[x]);
        let args = [Some(x), None, Some(z)];
        self.call(&NOISE, &args, words(len, stream, sigma), Defines::new(), 20 * len as u64);
        self.on_backward(&[z], move |tape| {
            if let (Some(dz), Some(dx)) = (tape.grad(z), tape.sink(x)) {
                add_scaled(tape, dz, len, 1.0, dx);
            }
            Ok(())
        });
        Ok(z)
    }

    /// A sample of the normal distribution of mean `mu` and variance `exp(logvar)`, both of one
    /// shape: `z = mu + exp(logvar / 2) · e`, with the numbers of [`normal`](Self::normal) and a
    /// gradient to both (arXiv:1312.6114).
    ///
    /// # Errors
    /// Shapes that differ; tensors without elements.
    pub fn reparameterize(&mut self, mu: Var, logvar: Var) -> Result<Var> {
        let (shape, len) = (self.shape(mu).to_vec(), self.len(mu));
        if self.shape(logvar) != shape || len == 0 {
            let detail = format!(
                "mu {shape:?} and logvar {:?}: want one shape, and elements",
                self.shape(logvar)
            );
            return Err(Error::shape("reparameterize", detail));
        }
        let stream = self.next_stream();
        let z = self.output("sample", &shape, &[mu, logvar]);
        let args = [Some(mu), Some(logvar), Some(z)];
        self.call(&NOISE, &args, words(len, stream, 1.0), Defines::new(), 25 * len as u64);
        self.on_backward(&[z], move |tape| {
            let Some(dz) = tape.grad(z) else { return Ok(()) };
            let mut record = |with_mu: bool, with_logvar: bool| {
                let dmu = with_mu.then(|| tape.sink(mu)).flatten();
                let dlogvar = with_logvar.then(|| tape.sink(logvar)).flatten();
                if dmu.is_none() && dlogvar.is_none() {
                    return;
                }
                let mut words = sizes(&[len]);
                words.push(stream);
                words.extend([dmu, dlogvar].map(|sink| sink.map_or(0, |s| s.accumulate)));
                let logvar = dlogvar.map(|_| logvar);
                let args = [Some(dz), logvar, dmu.map(|s| s.var), dlogvar.map(|s| s.var)];
                tape.call(&NOISE_BACKWARD, &args, words, Defines::new(), 25 * len as u64);
            };
            if mu == logvar {
                // One gradient takes both contributions, one after the other.
                record(true, false);
                record(false, true);
            } else {
                record(true, true);
            }
            Ok(())
        });
        Ok(z)
    }
}

mod cases {
    use super::*;

    /// Log variances from −3 to 3.
    fn logvar(seed: u64, len: usize) -> Option<CaseArg> {
        let values = super::super::random(seed, len);
        Some(CaseArg::F(values.into_iter().map(|v| 3.0 * v).collect()))
    }

    pub(super) fn forward() -> Vec<Case> {
        let list = [
            (1, true, true),
            (63, true, true),
            (1028, true, true),
            (64, false, false),
            (777, false, false),
            (260, true, false),
            (35, false, true),
        ];
        list.into_iter()
            .map(|(n, mu, with_logvar)| {
                let mu = if mu { arg(1, n) } else { None };
                let logvar = if with_logvar { logvar(2, n) } else { None };
                let name = format!("{n} mu{} logvar{with_logvar}", mu.is_some());
                let args = vec![mu, logvar, arg(3, n)];
                Case::new(name, words(n, 5, 0.7), args).flops(25 * n as u64)
            })
            .collect()
    }

    pub(super) fn backward() -> Vec<Case> {
        let list = [
            (1, true, true, 0, 1),
            (63, true, true, 1, 0),
            (1028, true, true, 0, 0),
            (260, true, false, 1, 0),
            (33, false, true, 0, 1),
        ];
        list.into_iter()
            .map(|(n, dmu, dlogvar, add_mu, add_logvar)| {
                let some = |on: bool, seed| if on { arg(seed, n) } else { None };
                let logvar = if dlogvar { logvar(2, n) } else { None };
                let args = vec![arg(1, n), logvar, some(dmu, 3), some(dlogvar, 4)];
                let words = sizes(&[n, 5, add_mu, add_logvar]);
                Case::new(format!("{n} {dmu} {dlogvar}"), words, args).flops(25 * n as u64)
            })
            .collect()
    }
}

/// CPU twins.
pub mod reference {
    use super::super::dropout::reference::random_bits;
    use super::super::put;
    use super::*;

    /// The standard normal number of the counters, as `shaders/noise.wgsl` has it.
    pub fn normal(seed: u32, step: u32, stream: u32, element: u32) -> f32 {
        let first = element - element % 2;
        let [u, a] = [first, first + 1].map(|e| random_bits(seed, step, stream, e));
        let u = f64::from((u >> 8) + 1) / f64::from(1 << 24);
        let a = f64::from(a >> 6) / f64::from(1 << 26) * std::f64::consts::TAU;
        let r = (-2.0 * u.ln()).sqrt();
        (r * if element.is_multiple_of(2) { a.cos() } else { a.sin() }) as f32
    }

    fn number(t: &Twin, element: usize) -> f32 {
        normal(t.step.seed, t.step.step, t.words[1], element as u32)
    }

    /// `Z = MU + scale exp(LOGVAR / 2) e`.
    pub fn noise(t: &mut Twin) {
        let (scale, mu, logvar) = (t.float(2), t.read(0), t.read(1));
        for i in 0..t.size(0) {
            let deviation = logvar.get(i).map_or(1.0, |v| (0.5 * v).exp());
            let mean = mu.get(i).copied().unwrap_or(0.0);
            let z = mean + scale * deviation * number(t, i);
            t.write(2)[i] = z;
        }
    }

    /// `DMU (+)= DZ`, `DLOGVAR (+)= DZ exp(LOGVAR / 2) e / 2`.
    pub fn noise_backward(t: &mut Twin) {
        let (add_mu, add_logvar, dz, logvar) = (t.size(2), t.size(3), t.read(0), t.read(1));
        for i in 0..t.size(0) {
            let e = number(t, i);
            if t.has(2) {
                put(&mut t.write(2)[i], dz[i], add_mu);
            }
            if t.has(3) {
                let d = 0.5 * dz[i] * (0.5 * logvar[i]).exp() * e;
                put(&mut t.write(3)[i], d, add_logvar);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::normal;

        const N: usize = 200_000;

        fn numbers(seed: u32, step: u32, stream: u32) -> Vec<f64> {
            (0..N as u32).map(|i| f64::from(normal(seed, step, stream, i))).collect()
        }

        fn mean(of: impl Iterator<Item = f64>) -> f64 {
            of.sum::<f64>() / N as f64
        }

        /// Φ by the error function that GELU has.
        fn below(x: f64) -> f64 {
            0.5 * (1.0 + f64::from(crate::ops::erf((x * std::f64::consts::FRAC_1_SQRT_2) as f32)))
        }

        #[test]
        fn numbers_are_distributed_normally() {
            // Five standard errors of each estimate from so many numbers.
            let error = |variance: f64| 5.0 * (variance / N as f64).sqrt();
            for (seed, step, stream) in [(7, 3, 1), (0, 0, 2), (1, 1000, 9)] {
                let z = numbers(seed, step, stream);
                let moment = |k: i32| mean(z.iter().map(|v| v.powi(k)));
                for (k, want, variance) in
                    [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
                {
                    let got = moment(k);
                    assert!((got - want).abs() < error(variance), "moment {k} is {got}");
                }
                // Kolmogorov's distance; 1.95 / sqrt n is exceeded once in a thousand.
                let mut sorted = z.clone();
                sorted.sort_by(f64::total_cmp);
                let distance = sorted.iter().enumerate().fold(0.0, |d: f64, (i, v)| {
                    let (low, high) = (i as f64 / N as f64, (i + 1) as f64 / N as f64);
                    d.max((below(*v) - low).abs()).max((high - below(*v)).abs())
                });
                assert!(distance < 1.95 / (N as f64).sqrt(), "distance {distance}");
                let largest = sorted[N - 1].max(-sorted[0]);
                assert!((4.0..5.8).contains(&largest), "largest {largest}");
            }
        }

        #[test]
        fn numbers_know_nothing_of_one_another() {
            let z = numbers(7, 3, 1);
            let others = [numbers(8, 3, 1), numbers(7, 4, 1), numbers(7, 3, 2)];
            let limit = 5.0 / (N as f64).sqrt();
            // Neighbours at several distances (a pair's two among them), and the same element
            // under other counters: values and squares, which a shared radius would give away.
            for lag in [1, 2, 3, 4, 64] {
                let pairs = || z.iter().zip(z.iter().cycle().skip(lag));
                let plain = mean(pairs().map(|(a, b)| a * b));
                let squares = mean(pairs().map(|(a, b)| (a * a - 1.0) * (b * b - 1.0))) / 2.0;
                assert!(plain.abs() < limit && squares.abs() < limit, "{lag}: {plain} {squares}");
            }
            for (i, other) in others.iter().enumerate() {
                let plain = mean(z.iter().zip(other).map(|(a, b)| a * b));
                let squares =
                    mean(z.iter().zip(other).map(|(a, b)| (a * a - 1.0) * (b * b - 1.0))) / 2.0;
                assert!(plain.abs() < limit && squares.abs() < limit, "{i}: {plain} {squares}");
            }
        }
    }
}
