//! One file per family of operations: the typed call, its backward, its kernels' launch geometry
//! and `mod reference`, the CPU twins. Each kernel's shader has the kernel's name.

pub mod align;
pub mod attention;
pub mod batch_norm;
pub mod batched;
pub mod concat;
pub mod contrast;
pub mod conv;
pub mod decibels;
pub mod decimate;
pub mod dropout;
pub mod elementwise;
pub mod embed;
pub mod frame_rms;
pub mod gather;
pub mod heads;
pub mod labels;
pub mod log_row;
pub mod logsumexp;
pub mod loss;
pub mod lstm;
pub mod masked;
pub mod math;
pub mod matmul;
pub mod modulus;
pub mod nearest;
pub mod noise;
pub mod norm;
pub mod normalize;
pub mod objective;
pub mod optim;
pub mod outer;
pub mod owm;
pub mod permute;
pub mod pool;
pub mod positions;
pub mod project;
pub mod reduce;
mod registry;
pub mod rows;
pub mod segment;
pub mod softmax;
pub mod spectral_shape;
pub mod spectrum;
pub mod standardize;
pub mod unpack;
pub mod views;
pub mod yin;

use crate::plan::CaseArg;
pub(crate) use registry::is_own;
#[cfg(feature = "bench")]
pub(crate) use registry::{CaseRecording, record_case};
pub use registry::{
    Difference, KERNELS, case_plan, differences, find, random, run_case, run_case_with, run_twin,
};

/// How an operation ends: applied to its result before it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// x Φ(x), by an erf good to 1.5e-7.
    Gelu,
    /// tanh, to the last digits of small values, too.
    Tanh,
    /// The logistic function; beyond ±30 that of ±30.
    Sigmoid,
}

impl Act {
    /// The value of `ACT` in shaders.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The function itself, for CPU twins.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Act::None => x,
            Act::Relu => relu(x),
            Act::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Act::Tanh => x.tanh(),
            Act::Sigmoid => 1.0 / (1.0 + (-x.clamp(-30.0, 30.0)).exp()),
        }
    }

    /// From the value in shaders.
    pub fn from_code(code: u32) -> Self {
        [Act::None, Act::Relu, Act::Gelu, Act::Tanh, Act::Sigmoid]
            .into_iter()
            .find(|a| a.code() == code)
            .unwrap_or_default()
    }
}

/// Sizes as the words of a kernel's `P`. One that no word holds becomes the largest that does: it is
/// that of a tensor which no plan takes ([`Plan::new`](crate::plan::Plan::new)).
pub(crate) fn sizes(list: &[usize]) -> Vec<u32> {
    list.iter().map(|s| u32::try_from(*s).unwrap_or(u32::MAX)).collect()
}

/// A binding of repeatable values in [-1, 1), for cases.
pub(crate) fn arg(seed: u64, len: usize) -> Option<CaseArg> {
    Some(CaseArg::F(random(seed, len)))
}

/// `value`, added to what is there if `accumulate` says so; for CPU twins.
pub(crate) fn put(to: &mut f32, value: f32, accumulate: usize) {
    *to = if accumulate != 0 { *to + value } else { value };
}

/// max(x, 0), which `f32::max` is not: of a NaN and a number that gives the number.
pub(crate) fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// -1, 0 or 1; NaN stays NaN.
pub(crate) fn sign_of(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// The slope of a ReLU by its result. One that is NaN lets a gradient through, as torch's does.
pub(crate) fn relu_slope(y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { 1.0 }
}

/// The larger of two numbers; NaN where one of them is.
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// erf by Abramowitz and Stegun 7.1.26, as the shaders have it.
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t
        + 0.254_829_6)
        * t;
    x.signum() * (1.0 - p * (-(a * a).min(80.0)).exp())
}
