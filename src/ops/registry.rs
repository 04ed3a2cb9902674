//! Every kernel of the engine. Being in this list gives a kernel its tests and its benchmark.

use super::*;
use crate::error::Result;
use crate::gpu::{Caps, Gpu};
use crate::plan::{
    Access, Call, Case, CaseArg, Kernel, Memory, Place, Plan, Pool, Recording, SpaceId, Spaces,
    Stage, Step, TensorInfo, Twin,
};
use std::fmt;

/// All kernels.
pub static KERNELS: &[&Kernel] = &[
    &matmul::MATMUL,
    &matmul::FOLD,
    &lstm::FORWARD,
    &lstm::BACKWARD,
    &heads::FORWARD,
    &heads::BACKWARD,
    &heads::WEIGHTS,
    &loss::WEIGHTED_L1,
    &loss::WEIGHTED_L1_GRAD,
    &labels::UPDATE,
    &labels::CENTRE_SUMS,
    &labels::CENTRES,
    &optim::adam::ADAM,
    &optim::sgd::SGD,
    &optim::square_sum::SQUARE_SUM,
    &rows::SCATTER,
    &gather::GATHER,
    &gather::SORT_ROWS,
    &gather::SCATTER_ADD,
    &segment::SEGMENT_REDUCE,
    &segment::SEGMENT_SPREAD,
    &segment::SEGMENT_SOFTMAX,
    &segment::SEGMENT_SOFTMAX_BACKWARD,
    &positions::POSITIONS,
    &elementwise::UNARY,
    &elementwise::UNARY_BACKWARD,
    &elementwise::BINARY,
    &elementwise::BINARY_BACKWARD,
    &reduce::REDUCE_ROWS,
    &reduce::REDUCE_COLS,
    &concat::CONCAT,
    &concat::CONCAT_BACKWARD,
    &concat::SLICE,
    &dropout::DROPOUT,
    &softmax::SOFTMAX,
    &softmax::SOFTMAX_BACKWARD,
    &masked::MASKED_SOFTMAX,
    &softmax::CROSS_ENTROPY,
    &softmax::CROSS_ENTROPY_BACKWARD,
    &attention::ATTENTION,
    &attention::BACKWARD_Q,
    &attention::BACKWARD_KV,
    &conv::UNFOLD,
    &conv::UNFOLD_BACKWARD,
    &align::COVARIANCE,
    &align::LOSS,
    &align::GRAD,
    &project::PROJECT,
    &project::PROJECT_DW,
    &project::PROJECT_DX,
    &objective::OBJECTIVE,
    &objective::OBJECTIVE_GRAD,
    &standardize::STANDARDIZE,
    &standardize::STANDARDIZE_GRAD,
    &batch_norm::BATCH_NORM,
    &batch_norm::BATCH_NORM_BACKWARD,
    &norm::RESIDUAL_NORM,
    &norm::RESIDUAL_NORM_BACKWARD,
    &embed::EMBED,
    &embed::EMBED_BACKWARD,
    &pool::POOL,
    &pool::POOL_BACKWARD,
    &spectrum::SPECTRUM,
    &decimate::DECIMATE,
    &decibels::DECIBELS,
    &modulus::MODULUS,
    &permute::PERMUTE,
    &outer::OUTER,
    &outer::OUTER_BACKWARD,
    &normalize::L2_NORMALIZE,
    &normalize::L2_NORMALIZE_BACKWARD,
    &logsumexp::LOGSUMEXP,
    &logsumexp::LOGSUMEXP_BACKWARD,
    &logsumexp::LOG_SOFTMAX_BACKWARD,
    &noise::NOISE,
    &noise::NOISE_BACKWARD,
];

/// The kernel of a name.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().copied().find(|k| k.name == name)
}

/// Repeatable values in [-1, 1) for test cases.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn words(arg: &CaseArg) -> Vec<u32> {
    match arg {
        CaseArg::F(values) => values.iter().map(|v| v.to_bits()).collect(),
        CaseArg::U(values) => values.clone(),
    }
}

/// The step uniforms that cases run under.
pub fn case_step() -> Step {
    Step { seed: 7, step: 3, epoch: 3, slot: 1, ..Step::default() }
}

/// What a case's twin leaves in each binding.
pub fn run_twin(kernel: &Kernel, case: &Case) -> Vec<Option<Vec<u32>>> {
    let mut buffers: Vec<_> = case.args.iter().map(|a| a.as_ref().map(words)).collect();
    (kernel.twin)(&mut Twin {
        words: &case.words,
        step: &case_step(),
        defines: &case.defines,
        buffers: &mut buffers,
    });
    buffers
}

/// A case as a recording of one call: its spaces, and of each binding its space and contents.
pub(crate) struct CaseRecording {
    pub recording: Recording,
    pub spaces: Spaces,
    pub args: Vec<Option<(SpaceId, Vec<u32>)>>,
    pub step: Step,
}

/// Records a case.
pub(crate) fn record_case(kernel: &'static Kernel, case: &Case) -> CaseRecording {
    let mut spaces = Spaces::new();
    let mut recording = Recording::default();
    let (mut args, mut tensors) = (Vec::new(), Vec::new());
    for (binding, arg) in kernel.bindings.iter().zip(&case.args) {
        let Some(contents) = arg.as_ref().map(words) else {
            args.push(None);
            tensors.push(None);
            continue;
        };
        let space = spaces.declare(binding.name, contents.len());
        let (shape, place) = (vec![contents.len()], Place::Space { space, offset: 0 });
        tensors.push(Some(recording.add(TensorInfo::new(binding.name.into(), shape, place))));
        args.push(Some((space, contents)));
    }
    recording.calls.push(Call {
        kernel,
        args: tensors,
        words: case.words.clone(),
        defines: case.defines.clone(),
        flops: case.flops,
        stage: Stage::Forward,
    });
    CaseRecording { recording, spaces, args, step: case_step() }
}

/// A case as a plan for a device of these capabilities: one dispatch, or the two that its family
/// makes of it. Each tensor that is a binding of `kernel` has its name.
///
/// # Errors
/// Those of [`Plan::new`].
pub fn case_plan(kernel: &'static Kernel, case: &Case, caps: &Caps) -> Result<Plan> {
    Plan::new(record_case(kernel, case).recording, caps)
}

/// What the device leaves in each binding.
///
/// # Errors
/// Whatever building or running the kernel reports.
pub fn run_case(gpu: &Gpu, kernel: &'static Kernel, case: &Case) -> Result<Vec<Option<Vec<u32>>>> {
    run_case_with(gpu, kernel, case, Ok)
}

/// As [`run_case`], with the plan changed by `edit` before it runs.
///
/// # Errors
/// Those of `edit` and of [`run_case`].
pub fn run_case_with(
    gpu: &Gpu,
    kernel: &'static Kernel,
    case: &Case,
    edit: impl FnOnce(Plan) -> Result<Plan>,
) -> Result<Vec<Option<Vec<u32>>>> {
    let CaseRecording { recording, spaces, args, step } = record_case(kernel, case);
    let memory = Memory::allocate(gpu, &spaces)?;
    for (space, contents) in args.iter().flatten() {
        memory.write(gpu, *space, 0, contents)?;
    }
    memory.write_step(gpu, &step)?;
    let plan = edit(Plan::new(recording, gpu.caps())?)?;
    let program = plan.prepare(gpu, &memory, &mut Pool::new())?;
    program.run(gpu, &memory)?;
    let read = |(space, contents): &(SpaceId, Vec<u32>)| {
        memory.read(gpu, *space, 0, contents.len()).map(Some)
    };
    args.iter().map(|arg| arg.as_ref().map_or(Ok(None), read)).collect()
}

/// An element that a device has otherwise than the twin.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Difference {
    /// Name of the binding.
    pub binding: &'static str,
    /// The first element that differs.
    pub index: usize,
    /// How many do.
    pub count: usize,
    /// Elements of the binding.
    pub of: usize,
    /// What the device has.
    pub got: f32,
    /// What the twin has.
    pub want: f32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { binding, index, got, want, .. } = self;
        write!(f, "{binding}[{index}] is {got}, twin has {want}")
    }
}

/// Where `got`, of the device, is not what `twin` left: for each binding that is written and differs
/// by more than the case's tolerance, relative to 1 + |value|, its first such element.
pub fn differences(
    kernel: &Kernel,
    case: &Case,
    got: &[Option<Vec<u32>>],
    twin: &[Option<Vec<u32>>],
) -> Vec<Difference> {
    let off = |(_, (g, w)): &(usize, (&u32, &u32))| {
        let (g, w) = (f32::from_bits(**g), f32::from_bits(**w));
        let off = (g - w).abs() / (1.0 + w.abs());
        g.to_bits() != w.to_bits() && (off.is_nan() || off > case.tolerance)
    };
    let written = kernel.bindings.iter().zip(got).zip(twin);
    written
        .filter(|((binding, _), _)| binding.access == Access::Write)
        .filter_map(|((binding, got), want)| {
            let (got, want) = (got.as_ref()?, want.as_ref()?);
            let mut all = got.iter().zip(want).enumerate().filter(off);
            let (index, (g, w)) = all.next()?;
            Some(Difference {
                binding: binding.name,
                index,
                count: 1 + all.count(),
                of: want.len(),
                got: f32::from_bits(*g),
                want: f32::from_bits(*w),
            })
        })
        .collect()
}
