//! Every kernel of the engine. Being in this list gives a kernel its tests and its benchmark.

use super::*;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::plan::{
    Call, Case, CaseArg, Kernel, Memory, Place, Plan, Pool, Recording, Spaces, Stage, Step,
    TensorId, TensorInfo, Twin,
};

/// All kernels.
pub static KERNELS: &[&Kernel] = &[
    &matmul::MATMUL,
    &matmul::FOLD,
    &lstm::FORWARD,
    &lstm::BACKWARD,
    &loss::WEIGHTED_L1,
    &loss::WEIGHTED_L1_GRAD,
    &labels::TARGETS,
    &labels::UPDATE,
    &labels::CENTRE_SUMS,
    &labels::CENTRES,
    &adam::ADAM,
    &adam::SQUARE_SUM,
    &rows::SCATTER,
    &rows::LOG_ROW,
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
    &softmax::CROSS_ENTROPY,
    &softmax::CROSS_ENTROPY_BACKWARD,
    &attention::ATTENTION,
    &attention::BACKWARD_Q,
    &attention::BACKWARD_KV,
    &align::COVARIANCE,
    &align::LOSS,
    &align::GRAD,
    &standardize::STANDARDIZE,
    &standardize::STANDARDIZE_GRAD,
    &norm::RESIDUAL_NORM,
    &norm::RESIDUAL_NORM_BACKWARD,
    &embed::EMBED,
    &embed::EMBED_BACKWARD,
    &pool::POOL,
    &pool::POOL_BACKWARD,
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
fn case_step() -> Step {
    let mut step = Step { seed: 7, step: 3, epoch: 3, slot: 1, ..Step::default() };
    step.set_adam_step(3);
    for group in 0..step.lr.len() {
        step.lr[group] = 1e-3 * (group + 1) as f32;
        step.decay[group] = 1e-2 / (group + 1) as f32;
    }
    step
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

/// What the device leaves in each binding.
///
/// # Errors
/// Whatever building or running the kernel reports.
pub fn run_case(gpu: &Gpu, kernel: &'static Kernel, case: &Case) -> Result<Vec<Option<Vec<u32>>>> {
    run_option(gpu, kernel, case, 0)
}

/// The same by another launch: option 0 is the first one, the others follow.
///
/// # Errors
/// Whatever building or running the kernel reports.
pub fn run_option(
    gpu: &Gpu,
    kernel: &'static Kernel,
    case: &Case,
    option: usize,
) -> Result<Vec<Option<Vec<u32>>>> {
    let mut spaces = Spaces::new();
    let mut recording = Recording::default();
    let mut args = Vec::new();
    let data: Vec<Option<Vec<u32>>> = case.args.iter().map(|a| a.as_ref().map(words)).collect();
    for (binding, contents) in kernel.bindings.iter().zip(&data) {
        args.push(contents.as_ref().map(|c| {
            let space = spaces.declare(binding.name, c.len());
            recording.tensors.push(TensorInfo {
                name: binding.name.into(),
                shape: vec![c.len()],
                place: Place::Space { space, offset: 0 },
                keep: false,
            });
            (TensorId(recording.tensors.len() as u32 - 1), space)
        }));
    }
    recording.calls.push(Call {
        kernel,
        args: args.iter().map(|a| a.map(|(id, _)| id)).collect(),
        words: case.words.clone(),
        defines: case.defines.clone(),
        flops: case.flops,
        stage: Stage::Forward,
    });
    let memory = Memory::allocate(gpu, &spaces)?;
    for ((_, space), contents) in args.iter().flatten().zip(data.iter().flatten()) {
        memory.write(gpu, *space, 0, contents);
    }
    memory.write_step(gpu, &case_step());
    let mut plan = Plan::new(recording, gpu.caps())?;
    plan.choose(option);
    let program = plan.prepare(gpu, &memory, &mut Pool::new())?;
    program.run(gpu, &memory)?;
    args.iter()
        .zip(&data)
        .map(|(arg, contents)| match (arg, contents) {
            (Some((_, space)), Some(c)) => memory.read(gpu, *space, 0, c.len()).map(Some),
            _ => Ok(None),
        })
        .collect()
}
