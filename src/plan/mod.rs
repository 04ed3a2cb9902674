//! What a tape compiles to: a flat list of dispatches over a liveness-planned set of buffers.
//! A [`Plan`] is plain data that can be printed; [`Plan::prepare`] makes a [`Program`] of it,
//! which is replayed every step: one encoder, one compute pass, one submit.

mod half;
mod interpret;
mod kernel;
mod layout;
mod memory;
mod profile;
mod program;
mod ring;
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "training writes at every step"))]
mod staging;
mod step;
mod timing;
mod trace;
mod tune;

pub use half::{fits_half, pack_halves, unpack_halves};
pub use interpret::{HostMemory, interpret};
pub use kernel::{
    Access, Binding, Case, CaseArg, Kernel, Launch, Moves, PARAMS, STEP, Split, Twin, grid, uniform,
};
pub(crate) use layout::ALIGN_WORDS;
pub use layout::{Other, Plan, Planned};
pub use memory::{Memory, Pool, SpaceId, Spaces};
pub use profile::DispatchTime;
pub use program::Program;
pub use ring::Ring;
pub use step::Step;
pub use timing::{Clock, Replays, Times};
pub use trace::Written;

use crate::gpu::Defines;
use std::sync::atomic::{AtomicU32, Ordering};

/// A tensor of one recording: its place there, and which recording that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId {
    index: u32,
    recording: u32,
}

impl TensorId {
    /// Its place in [`Recording::tensors`]. Only for ids that the recording has made itself; see
    /// [`Recording::has`].
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }
}

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a buffer that the plan chooses, from first write to last use.
    Scratch,
    /// In a persistent buffer, at a word offset (a multiple of 64).
    Space {
        /// The buffer.
        space: SpaceId,
        /// Words from its start.
        offset: usize,
    },
    /// In the plan's constants, at a word offset (a multiple of 64).
    Const {
        /// Words from their start.
        offset: usize,
    },
    /// Inside a scratch tensor that several share, at a word offset (a multiple of 64).
    Part {
        /// That tensor.
        of: TensorId,
        /// Words from its start.
        offset: usize,
    },
}

/// A tensor as the plan sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Name, for printing.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Where it lives.
    pub place: Place,
    /// Whether it must outlive its last use, to be read after a replay.
    pub keep: bool,
    /// Whether it is stored by halves, two numbers in a word.
    pub half: bool,
}

impl TensorInfo {
    /// An f32 tensor that need not outlive its last use.
    pub fn new(name: String, shape: Vec<usize>, place: Place) -> Self {
        TensorInfo { name, shape, place, keep: false, half: false }
    }

    /// Number of elements; of more than any adapter holds, a number that is also more.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Words that it takes.
    pub fn words(&self) -> usize {
        if self.half { self.len().div_ceil(2) } else { self.len() }
    }

    /// Its elements from its words.
    pub(crate) fn floats(&self, words: Vec<u32>) -> Vec<f32> {
        if !self.half {
            return bytemuck::cast_vec(words);
        }
        let mut values = unpack_halves(&words);
        values.truncate(self.len());
        values
    }
}

/// What memory is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The scratch tensor at this place.
    Scratch(usize),
    /// A persistent buffer.
    Space(SpaceId),
    /// The plan's constants.
    Constants,
}

/// More elements than any tensor may have, and few enough for an account of what a kernel does with
/// them to fit 64 bits.
const TOO_MANY: usize = 1 << 40;

/// Elements of a shape, or [`TOO_MANY`]: a plan refuses that tensor by name, and nothing before it
/// overflows.
pub(crate) fn elements(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().fold(1, |len: usize, extent| len.saturating_mul(*extent).min(TOO_MANY))
}

/// Which part of a step a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Values.
    Forward,
    /// Gradients.
    Backward,
    /// State that changes every step: labels, stores, logs.
    State,
    /// The optimiser; left out of a replay while gradients accumulate.
    Update,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Stage::Forward => "forward",
            Stage::Backward => "backward",
            Stage::State => "state",
            Stage::Update => "update",
        })
    }
}

/// One kernel call, before it is fitted to an adapter.
///
/// An operation of this crate checks its shapes before it records a call, so that its kernels need
/// not check every index again, and are compiled without such checks. A call remembers that it was
/// made so. Its copy does not, since a copy may be changed: the kernel of a copy is compiled with
/// bounds checks, as are all kernels that are not this crate's.
pub struct Call {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// One tensor for each of the kernel's bindings; optional ones may be absent.
    pub args: Vec<Option<TensorId>>,
    /// The kernel's uniform `P`, word by word.
    pub words: Vec<u32>,
    /// Variants asked for by the operation itself (an activation, say).
    pub defines: Defines,
    /// Floating-point operations, for accounts.
    pub flops: u64,
    /// Its part of the step.
    pub stage: Stage,
    /// Whether an operation of this crate made it, for a kernel of this crate, and nobody else could
    /// have changed it since.
    pub(crate) trusted: bool,
}

impl Clone for Call {
    fn clone(&self) -> Self {
        Call { trusted: false, ..self.copy() }
    }
}

impl Call {
    /// A copy that is trusted as this one is, for this crate, which does not change it.
    pub(crate) fn copy(&self) -> Self {
        Call {
            kernel: self.kernel,
            args: self.args.clone(),
            words: self.words.clone(),
            defines: self.defines.clone(),
            flops: self.flops,
            stage: self.stage,
            trusted: self.trusted,
        }
    }
}

/// What a tape hands to a plan.
#[derive(Clone)]
pub struct Recording {
    /// All tensors.
    pub(crate) tensors: Vec<TensorInfo>,
    /// All calls, in order.
    pub(crate) calls: Vec<Call>,
    /// Constant data, uploaded once.
    pub(crate) constants: Vec<u32>,
    /// Tells the ids of this recording from those of others.
    id: u32,
}

impl Default for Recording {
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Recording { tensors: Vec::new(), calls: Vec::new(), constants: Vec::new(), id }
    }
}

impl Recording {
    /// All tensors, in the order in which they were made.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// All calls, in order.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Adds a tensor.
    pub(crate) fn add(&mut self, info: TensorInfo) -> TensorId {
        self.tensors.push(info);
        self.at(self.tensors.len() - 1)
    }

    /// The id of the tensor at a place.
    pub(crate) fn at(&self, index: usize) -> TensorId {
        TensorId { index: index as u32, recording: self.id }
    }

    /// Whether a tensor is one of this recording.
    pub fn has(&self, id: TensorId) -> bool {
        id.recording == self.id && id.index() < self.tensors.len()
    }

    /// The tensor of an id; `None` where it is of another recording.
    pub fn get(&self, id: TensorId) -> Option<&TensorInfo> {
        self.has(id).then(|| &self.tensors[id.index()])
    }

    /// Where the memory of a tensor begins and ends, in words, and in what: the scratch tensor that
    /// owns it, a space, or the constants.
    pub(crate) fn memory(&self, id: TensorId) -> (Owner, std::ops::Range<usize>) {
        let info = &self.tensors[id.index()];
        let (owner, start) = match info.place {
            Place::Scratch => (Owner::Scratch(id.index()), 0),
            Place::Part { of, offset } => (Owner::Scratch(of.index()), offset),
            Place::Space { space, offset } => (Owner::Space(space), offset),
            Place::Const { offset } => (Owner::Constants, offset),
        };
        (owner, start..start.saturating_add(info.words()))
    }

    /// Whether two tensors share memory.
    pub(crate) fn overlap(&self, a: TensorId, b: TensorId) -> bool {
        let ((of_a, a), (of_b, b)) = (self.memory(a), self.memory(b));
        of_a == of_b && a.start < b.end && b.start < a.end
    }

    /// A copy whose calls are trusted as these are; see [`Call`].
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn copy(&self) -> Self {
        Recording {
            tensors: self.tensors.clone(),
            calls: self.calls.iter().map(Call::copy).collect(),
            constants: self.constants.clone(),
            id: self.id,
        }
    }

    /// The tensor whose memory a tensor uses: itself, or the one it is a part of.
    pub(crate) fn owner(&self, id: TensorId) -> TensorId {
        match self.tensors[id.index()].place {
            Place::Part { of, .. } => of,
            _ => id,
        }
    }
}
