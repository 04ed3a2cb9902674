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
mod step;
mod timing;
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
pub use timing::{Clock, Times};

use crate::gpu::Defines;

/// Index of a tensor on its tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) u32);

impl TensorId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
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

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
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
#[derive(Clone)]
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
}

/// What a tape hands to a plan.
#[derive(Clone, Default)]
pub struct Recording {
    /// All tensors.
    pub tensors: Vec<TensorInfo>,
    /// All calls, in order.
    pub calls: Vec<Call>,
    /// Constant data, uploaded once.
    pub constants: Vec<u32>,
}

impl Recording {
    /// The tensor whose memory a tensor uses: itself, or the one it is a part of.
    pub(crate) fn owner(&self, id: TensorId) -> TensorId {
        match self.tensors[id.index()].place {
            Place::Part { of, .. } => of,
            _ => id,
        }
    }
}
