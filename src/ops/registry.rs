//! Every kernel of the engine. Being in this list gives a kernel its tests and its benchmark.

use super::*;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Defines, Gpu};
use crate::plan::{
    Access, Binding, Call, Case, CaseArg, Kernel, Memory, Place, Plan, Pool, Recording, SpaceId,
    Spaces, Stage, Step, TensorInfo, Twin,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

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
    &owm::OWM_UPDATE,
    &nearest::NEAREST_ROWS,
    &rows::SCATTER,
    &log_row::LOG_ROW,
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
    &contrast::CONTRAST,
    &contrast::CONTRAST_MEAN,
    &contrast::CONTRAST_BACKWARD,
    &attention::ATTENTION,
    &attention::BACKWARD_Q,
    &attention::BACKWARD_KV,
    &attention::BACKWARD_BIAS,
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
    &unpack::UNPACK,
    &unpack::UNPACK_BACKWARD,
    &spectrum::SPECTRUM,
    &decimate::DECIMATE,
    &decibels::DECIBELS,
    &modulus::MODULUS,
    &spectral_shape::SPECTRAL_SHAPE,
    &frame_rms::FRAME_RMS,
    &yin::YIN,
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
    &views::CHANNEL_DEVIATION,
    &views::VIEWS,
];

/// The kernel of a name.
pub fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().copied().find(|k| k.name == name)
}

/// Whether a kernel is one of these, and not a record like one of them.
pub(crate) fn is_own(kernel: &Kernel) -> bool {
    KERNELS.iter().any(|own| std::ptr::eq(*own, kernel))
}

/// What has to be as it is in a case for its kernel to stay within its bindings; what the bindings
/// hold is data, of which a kernel trusts nothing.
type Geometry = (Vec<u32>, Defines, Vec<Option<usize>>);

fn geometry(case: &Case) -> Geometry {
    let lens = case.args.iter().map(|arg| arg.as_ref().map(CaseArg::len)).collect();
    (case.words.clone(), case.defines.clone(), lens)
}

/// Whether a case is one of its kernel's own, but for the contents of its bindings.
fn is_own_case(kernel: &'static Kernel, case: &Case) -> bool {
    type Known = Mutex<BTreeMap<&'static str, BTreeSet<Geometry>>>;
    static KNOWN: Known = Mutex::new(BTreeMap::new());
    if !is_own(kernel) {
        return false;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let own =
        known.entry(kernel.name).or_insert_with(|| (kernel.cases)().iter().map(geometry).collect());
    own.contains(&geometry(case))
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

/// What a case's twin leaves in each binding.
pub fn run_twin(kernel: &Kernel, case: &Case) -> Vec<Option<Vec<u32>>> {
    let mut buffers: Vec<_> = case.args.iter().map(|a| a.as_ref().map(words)).collect();
    (kernel.twin)(&mut Twin {
        words: &case.words,
        step: &case.step,
        defines: &case.defines,
        buffers: &mut buffers,
    });
    buffers
}

/// Words before and after each binding of a case, which no kernel may touch.
const GUARD: usize = crate::plan::ALIGN_WORDS;
/// What they hold: as a float 1.5e16, which shows in a result that read it.
const GUARD_WORD: u32 = 0x5a55_aa5a;

/// A case as a recording of one call: its spaces, and of each binding its space and all that is in it,
/// the guards included.
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
        let (len, mut all) = (contents.len(), vec![GUARD_WORD; GUARD]);
        all.extend(contents);
        all.resize(all.len() + GUARD, GUARD_WORD);
        let space = spaces.declare(binding.name, all.len());
        let (shape, place) = (vec![len], Place::Space { space, offset: GUARD });
        tensors.push(Some(recording.add(TensorInfo::new(binding.name.into(), shape, place))));
        args.push(Some((space, all)));
    }
    recording.calls.push(Call {
        kernel,
        args: tensors,
        words: case.words.clone(),
        defines: case.defines.clone(),
        flops: case.flops,
        stage: Stage::Forward,
        trusted: is_own_case(kernel, case),
    });
    CaseRecording { recording, spaces, args, step: case.step }
}

/// A case as a plan for a device of these capabilities: one dispatch, or the two that its family
/// makes of it. Each tensor that is a binding of `kernel` has its name.
///
/// # Errors
/// Those of [`Plan::new`].
pub fn case_plan(kernel: &'static Kernel, case: &Case, caps: &Caps) -> Result<Plan> {
    Plan::new(record_case(kernel, case).recording, caps)
}

/// What the device leaves in each binding. The kernel runs with bounds checks unless it is one of
/// [`KERNELS`] and the case has the words, defines and lengths of one of its own.
///
/// # Errors
/// Whatever building or running the kernel reports; [`Gpu`](Error::Gpu) where it wrote past a binding.
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
    let read = |(binding, (space, contents)): (&Binding, &(SpaceId, Vec<u32>))| {
        let mut all = memory.read(gpu, *space, 0, contents.len())?;
        let after = all.split_off(all.len() - GUARD);
        let own = all.split_off(GUARD);
        if all.iter().chain(&after).any(|word| *word != GUARD_WORD) {
            let (kernel, binding) = (kernel.name, binding.name);
            return Err(Error::Gpu(format!("{kernel} wrote past what is bound as {binding}")));
        }
        Ok(Some(own))
    };
    let bound = kernel.bindings.iter().zip(&args);
    bound.map(|(b, arg)| arg.as_ref().map_or(Ok(None), |arg| read((b, arg)))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_kernels_with_own_words_go_without_checks() {
        let kernel = find("scatter_rows").unwrap();
        let case = (kernel.cases)().remove(0);
        let trusted = |kernel, case: &Case| record_case(kernel, case).recording.calls[0].trusted;
        assert!(trusted(kernel, &case));
        // Other data are nothing to a kernel that bounds its indices.
        let mut data = case.clone();
        data.args[1] = Some(CaseArg::U(vec![u32::MAX; 3]));
        assert!(trusted(kernel, &data));
        // Other sizes are: here a row more than there are.
        let mut words = case.clone();
        words.words[4] += 1;
        assert!(!trusted(kernel, &words));
        let mut short = case.clone();
        short.args[2] = Some(CaseArg::F(vec![0.0; 7]));
        assert!(!trusted(kernel, &short));
        let defined = case.clone().define("MORE", 1);
        assert!(!trusted(kernel, &defined));
        // A record like a kernel's is somebody else's.
        let Kernel { name, source, bindings, step, launch, twin, cases } = *kernel;
        let alike =
            Box::leak(Box::new(Kernel { name, source, bindings, step, launch, twin, cases }));
        assert!(!trusted(alike, &case));
    }

    #[test]
    fn a_copy_of_a_call_is_not_trusted() {
        let mut tape = crate::Tape::new();
        let x = tape.constant("x", &[4], &[1.0; 4]).unwrap();
        tape.scale(x, 2.0).unwrap();
        let recording = tape.recording();
        assert!(recording.calls[0].trusted);
        assert!(!recording.calls[0].clone().trusted && !recording.clone().calls[0].trusted);
        assert!(recording.copy().calls[0].trusted);
        let plan =
            Plan::new(recording.clone(), &crate::gpu::Caps::defaults(crate::gpu::Family::Plain));
        assert!(plan.is_ok());
    }
}
