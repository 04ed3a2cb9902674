//! A kernel: its WGSL, its bindings, its launch geometry and its CPU twin, in one record.

use super::Step;
use crate::gpu::{BindingKind, Caps, Defines, Family};

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Written everywhere, or read and written.
    Write,
}

/// What a call moves of a binding, for accounts: each word that it touches counted once as read and
/// once as written, as though caches kept everything inside a dispatch and nothing beyond it.
#[derive(Clone, Copy, Debug)]
pub enum Moves {
    /// All of it, read or written as its [`Access`] says.
    Once,
    /// All of it, read and written.
    Updated,
    /// All of it written; read, too, where this word of `P` says to add.
    Adds(usize),
    /// The same where this bit of the word says so.
    AddsBit(usize, u32),
    /// Words read and words written, from `P`, the defines (an optional binding's name is there
    /// where the binding is) and the tensor's length. Where data decide, what they are at most.
    Part(fn(&[u32], &Defines, u64) -> [u64; 2]),
}

/// One storage binding. Its number is its place in [`Kernel::bindings`].
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Name as in the shader; for an optional binding also the preprocessor name that is 1
    /// when the binding is there.
    pub name: &'static str,
    /// How it is used.
    pub access: Access,
    /// Whether a call may leave it out.
    pub optional: bool,
    /// How much of it a call moves.
    pub moves: Moves,
    /// Whether its tensor may be stored by halves; the call then has the define `HALF`.
    pub half: bool,
}

impl Binding {
    /// A binding that is only read.
    pub const fn read(name: &'static str) -> Self {
        Binding { name, access: Access::Read, optional: false, moves: Moves::Once, half: false }
    }
    /// A binding that is written.
    pub const fn write(name: &'static str) -> Self {
        Binding { name, access: Access::Write, optional: false, moves: Moves::Once, half: false }
    }
    /// The same binding, which a call may leave out.
    pub const fn or_none(self) -> Self {
        Binding { optional: true, ..self }
    }
    /// The same binding, whose tensor may be stored by halves.
    pub const fn or_half(self) -> Self {
        Binding { half: true, ..self }
    }
    /// The same binding, all of it read before it is written.
    pub const fn updated(self) -> Self {
        Binding { moves: Moves::Updated, ..self }
    }
    /// The same binding, added to where word `word` of `P` is not 0.
    pub const fn adds(self, word: usize) -> Self {
        Binding { moves: Moves::Adds(word), ..self }
    }
    /// The same binding, added to where bit `bit` of word `word` of `P` is set.
    pub const fn adds_bit(self, word: usize, bit: u32) -> Self {
        Binding { moves: Moves::AddsBit(word, bit), ..self }
    }
    /// The same binding, of which a call moves so many words; see [`Moves::Part`].
    pub const fn part(self, words: fn(&[u32], &Defines, u64) -> [u64; 2]) -> Self {
        Binding { moves: Moves::Part(words), ..self }
    }

    /// Words that a call reads and writes of this binding, where its tensor has `len` words.
    pub fn moved(&self, words: &[u32], defines: &Defines, len: u64) -> [u64; 2] {
        match self.moves {
            Moves::Once if self.access == Access::Read => [len, 0],
            Moves::Once => [0, len],
            Moves::Updated => [len, len],
            Moves::Adds(word) if words[word] != 0 => [len, len],
            Moves::AddsBit(word, bit) if words[word] >> bit & 1 == 1 => [len, len],
            Moves::Adds(_) | Moves::AddsBit(..) => [0, len],
            Moves::Part(part) => part(words, defines, len),
        }
    }
}

/// A kernel fitted to an adapter: [`Launch::of`] its workgroups, and what else there is to say.
#[derive(Clone)]
#[non_exhaustive]
pub struct Launch {
    /// Preprocessor names beyond the call's own.
    pub defines: Defines,
    /// Workgroups.
    pub groups: [u32; 3],
    /// Loop iterations of the longest invocation, where they may be many.
    pub iterations: u64,
    /// Whether the shader reads by `shared/quad.wgsl`, and so may be given `LONG`.
    pub long: bool,
    /// Rounds of the longest workgroup that wait for one another: the steps of a recurrence, the
    /// slices of a sum that come through workgroup memory. Where it has none it is 0.
    pub rounds: u64,
    /// Other launches that leave the very same bits, for [`Plan::tune`](super::Plan::tune) to
    /// choose from.
    pub others: Vec<Launch>,
    /// Two calls to make instead of this one.
    pub split: Option<Split>,
}

/// A call made in two: the kernel leaves partial results in scratch, another one adds them up.
#[derive(Clone)]
pub struct Split {
    /// The kernel's `P` then.
    pub words: Vec<u32>,
    /// The binding that takes the partial results, and how many words they are.
    pub partial: (usize, usize),
    /// Adds them up. Its first binding is the partial results.
    pub fold: &'static Kernel,
    /// Its `P`.
    pub fold_words: Vec<u32>,
    /// Its other bindings, as bindings of the call.
    pub fold_args: &'static [usize],
}

impl Launch {
    /// A launch without defines.
    pub fn of(groups: [u32; 3]) -> Self {
        let (defines, others) = (Defines::new(), Vec::new());
        Launch { defines, groups, iterations: 0, long: false, rounds: 0, others, split: None }
    }

    /// Adds a define.
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        self.defines.insert(name, value);
        self
    }

    /// Says that the shader's quads may be read as 64-bit integers.
    pub fn long(self) -> Self {
        Launch { long: true, ..self }
    }

    /// Adds another launch that leaves the very same bits.
    pub fn or(mut self, other: Launch) -> Self {
        self.others.push(other);
        self
    }

    /// The launch with what the adapter offers beyond its family: 64-bit loads.
    pub fn on(mut self, caps: &Caps) -> Self {
        self.others = self.others.into_iter().map(|other| other.on(caps)).collect();
        if self.long && caps.long_loads { self.with("LONG", 1) } else { self }
    }

    /// Says how many loop iterations the longest invocation makes.
    pub fn iterations(self, iterations: u64) -> Self {
        Launch { iterations, ..self }
    }

    /// Says how many rounds wait for one another.
    pub fn rounds(self, rounds: u64) -> Self {
        Launch { rounds, ..self }
    }
}

/// Workgroups for `items`, `per_group` each, folded into two dimensions where one is too short.
/// Shaders find their place by `wid.y * count.x + wid.x`.
pub fn grid(items: usize, per_group: usize) -> [u32; 3] {
    let groups = items.div_ceil(per_group).max(1);
    let rows = groups.div_ceil(65_535);
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}

/// Rounds to what a uniform binding needs.
pub fn uniform(words: &[u32]) -> usize {
    words.len().div_ceil(4).max(1) * 4
}

/// Everything the engine knows of a kernel. Registering one gives it the kernel test, the
/// translation test and the benchmark.
pub struct Kernel {
    /// Also its file: `shaders/<name>.wgsl`.
    pub name: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// Storage bindings in order; `P` is binding 14, `S` (the step) binding 15.
    pub bindings: &'static [Binding],
    /// Whether it reads the step uniforms.
    pub step: bool,
    /// Geometry and variant for a family, from `P` and the call's defines.
    pub launch: fn(Family, &[u32], &Defines) -> Launch,
    /// The same computation in plain Rust.
    pub twin: fn(&mut Twin),
    /// Calls to test and time it with.
    pub cases: fn() -> Vec<Case>,
}

/// Binding number of `P`.
pub const PARAMS: u32 = 14;
/// Binding number of `S`.
pub const STEP: u32 = 15;

impl Kernel {
    /// The defines of a call: the operation's, the adapter's, and one for each optional binding.
    pub fn defines(&self, call: &Defines, launch: &Launch, present: &[bool]) -> Defines {
        let mut all = call.clone();
        all.extend(launch.defines.iter());
        for (binding, _) in self.bindings.iter().zip(present).filter(|(b, p)| b.optional && **p) {
            all.insert(binding.name, 1);
        }
        all
    }

    /// Binding numbers and kinds of a call.
    pub fn kinds(&self, present: &[bool]) -> Vec<(u32, BindingKind)> {
        let mut kinds: Vec<_> = self
            .bindings
            .iter()
            .zip(present)
            .enumerate()
            .filter(|(_, (_, p))| **p)
            .map(|(i, (b, _))| {
                let kind = match b.access {
                    Access::Read => BindingKind::Read,
                    Access::Write => BindingKind::ReadWrite,
                };
                (i as u32, kind)
            })
            .collect();
        kinds.push((PARAMS, BindingKind::Uniform));
        if self.step {
            kinds.push((STEP, BindingKind::Uniform));
        }
        kinds
    }
}

/// A CPU twin's view of a call: the same bindings, the same words.
pub struct Twin<'a> {
    /// The uniform `P`.
    pub words: &'a [u32],
    /// The step uniforms.
    pub step: &'a Step,
    /// The call's defines.
    pub defines: &'a Defines,
    /// The bindings' contents; `None` where the call leaves one out.
    pub buffers: &'a mut [Option<Vec<u32>>],
}

impl Twin<'_> {
    /// Word `i` of `P`, as a size.
    pub fn size(&self, i: usize) -> usize {
        self.words[i] as usize
    }
    /// Word `i` of `P`, as a float.
    pub fn float(&self, i: usize) -> f32 {
        f32::from_bits(self.words[i])
    }
    /// Whether the call has binding `i`.
    pub fn has(&self, i: usize) -> bool {
        self.buffers[i].is_some()
    }
    /// Whether the operation asked for a variant.
    pub fn is(&self, define: &str) -> bool {
        self.defines.get(define).is_some_and(|v| *v != 0)
    }
    /// A copy of binding `i` as floats; empty where absent.
    pub fn read(&self, i: usize) -> Vec<f32> {
        self.words_of(i).iter().map(|w| f32::from_bits(*w)).collect()
    }
    /// Binding `i` as unsigned integers; empty where absent.
    pub fn words_of(&self, i: usize) -> &[u32] {
        self.buffers[i].as_deref().unwrap_or_default()
    }
    /// Binding `i`, to be written.
    pub fn write(&mut self, i: usize) -> &mut [f32] {
        self.buffers[i].as_mut().map_or(&mut [], |b| bytemuck::cast_slice_mut(b.as_mut_slice()))
    }
}

/// Contents of one binding in a test call.
#[derive(Clone, Debug)]
pub enum CaseArg {
    /// Floats.
    F(Vec<f32>),
    /// Unsigned integers.
    U(Vec<u32>),
}

impl CaseArg {
    /// Number of words.
    pub fn len(&self) -> usize {
        match self {
            CaseArg::F(values) => values.len(),
            CaseArg::U(words) => words.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A call for tests and timings.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it tries, for messages.
    pub name: String,
    /// `P`.
    pub words: Vec<u32>,
    /// The operation's defines.
    pub defines: Defines,
    /// One entry for each binding.
    pub args: Vec<Option<CaseArg>>,
    /// Largest difference from the twin, relative to 1 + |value|.
    pub tolerance: f32,
    /// Floating-point operations, for timings.
    pub flops: u64,
    /// The step uniforms.
    pub step: Step,
}

impl Case {
    /// A case without defines at a tolerance of 1e-5, in the third step of a run.
    pub fn new(name: impl Into<String>, words: Vec<u32>, args: Vec<Option<CaseArg>>) -> Self {
        let step = Step { seed: 7, step: 3, epoch: 3, slot: 1, ..Step::default() };
        let (name, defines) = (name.into(), Defines::new());
        Case { name, words, defines, args, tolerance: 1e-5, flops: 0, step }
    }
    /// Adds a define.
    pub fn define(mut self, name: &'static str, value: u32) -> Self {
        self.defines.insert(name, value);
        self
    }
    /// Sets the tolerance.
    pub fn within(mut self, tolerance: f32) -> Self {
        self.tolerance = tolerance;
        self
    }
    /// Sets the operation count.
    pub fn flops(mut self, flops: u64) -> Self {
        self.flops = flops;
        self
    }
}
