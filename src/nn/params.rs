//! Named parameters in flat arenas: value, gradient and what the optimiser keeps, one buffer each.

use super::groups::{Memorized, turn_words};
use super::spec::{ParamSpec, check_specs, per_word};
use super::{Group, Groups, Weights};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::optim::{ArenaVars, Clip, Moments, Row};
use crate::plan::{
    ALIGN_WORDS, Memory, SpaceId, Spaces, Stage, fits_half, pack_halves, unpack_halves,
};
use crate::tape::{Tape, Var};
use std::collections::HashMap;
use std::path::Path;

struct Entry {
    spec: ParamSpec,
    arena: usize,
    /// In words.
    offset: usize,
}

struct Arena {
    value: SpaceId,
    /// Absent where nothing is trained.
    training: Option<Training>,
    /// Stored by halves.
    half: bool,
    words: usize,
    /// The groups that lie in it, one behind the other: where each ends, and its number.
    runs: Vec<(usize, usize)>,
}

/// Buffers beside the values.
#[derive(Clone, Copy)]
struct Training {
    grad: SpaceId,
    kept: Kept,
}

/// What the optimiser keeps.
#[derive(Clone, Copy)]
enum Kept {
    /// First and second moments.
    Adam([SpaceId; 2]),
    Momentum(SpaceId),
    Nothing,
}

impl Training {
    fn declare(spaces: &mut Spaces, i: usize, words: usize, memorized: Memorized) -> Self {
        let mut space = |name: &str| spaces.declare(format!("{name}.{i}"), words);
        let grad = space("grads");
        let kept = match memorized {
            Memorized::Adam => Kept::Adam(["adam.m", "adam.v"].map(space)),
            Memorized::Momentum => Kept::Momentum(space("momentum")),
            Memorized::Nothing => Kept::Nothing,
        };
        Training { grad, kept }
    }
}

/// Where the groups of an arena end, and which they are.
type Runs = Vec<(usize, usize)>;

/// All parameters of a model.
///
/// # A training loop of one's own
///
/// Record a step ending in [`optimize`](Self::optimize), and before each update advance the
/// [`groups`](Self::groups) and write them; `examples/own_training_loop.rs` does it all.
/// - Gradients accumulate over replays with `update` false
///   ([`Program::replay`](crate::plan::Program::replay)) until the one with `update` true takes them,
///   times [`Step::grad_scale`](crate::plan::Step), and zeroes them. [`gradients`](Self::gradients)
///   reads them in between, [`zero_grad`](Self::zero_grad) drops them.
/// - Values are read by [`download`](Self::download), and set by [`upload`](Self::upload) and
///   [`set`](Self::set) at any time: before the next step that is submitted.
/// - Programs that train different groups by turns end in [`optimize_only`](Self::optimize_only). One
///   program may do so, too: made [by turns](Self::by_turns), each ends in
///   [`optimize_turn`](Self::optimize_turn).
pub struct Params {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    arenas: Vec<Arena>,
    groups: Groups,
    /// Whether there are gradients, where anything is not frozen.
    trainable: bool,
    /// Updates of one step, each with its own settings of the groups.
    turns: usize,
}

impl Params {
    /// Lays parameters out in as few arenas as bindings of `max_binding` bytes allow, sorted by
    /// group in the order of `groups`, the frozen ones apart, and of those the ones by halves, and
    /// declares their buffers. Gradients, and what the optimiser keeps, are only there if parameters
    /// are `trainable` and not frozen; optimisers that keep different things have arenas of their
    /// own. Where nothing is trained, groups may be left out.
    ///
    /// # Errors
    /// [`Config`](Error::Config): two groups of one name or settings that an optimiser cannot have; a
    /// parameter whose group is not among `groups`. [`Shape`](Error::Shape): two parameters of one
    /// name; one that is [joined](ParamSpec::joined) to a parameter of another group or kind, or
    /// cannot be stored as its spec says.
    pub fn new(
        specs: Vec<ParamSpec>,
        groups: &[Group],
        spaces: &mut Spaces,
        max_binding: u64,
        trainable: bool,
    ) -> Result<Self> {
        Self::by_turns(specs, (groups, 1), spaces, max_binding, trainable)
    }

    /// The same for steps of several turns: so many updates in one program, each of some groups. A
    /// group that several of them move takes as many steps of its own, so each turn reads settings of
    /// its own, which [`Groups::write_turn`] writes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn by_turns(
        specs: Vec<ParamSpec>,
        (groups, turns): (&[Group], usize),
        spaces: &mut Spaces,
        max_binding: u64,
        trainable: bool,
    ) -> Result<Self> {
        let groups = Groups::new(groups, None)?;
        check_specs(&specs)?;
        let mut specs = specs
            .into_iter()
            .map(|spec| place(spec, &groups, trainable))
            .collect::<Result<Vec<_>>>()?;
        specs.sort_by_key(|(kind, group, _)| (*kind, *group));
        let limit = Self::largest(max_binding);
        let (mut entries, mut by_name) = (Vec::new(), HashMap::new());
        // Words, kind and runs.
        let mut sizes: Vec<(usize, Kind, Runs)> = Vec::new();
        for block in specs.chunk_by(|_, (.., next)| next.joined) {
            let words = block.iter().map(|(.., spec)| spec.words()).sum::<usize>();
            let words = words.next_multiple_of(ALIGN_WORDS);
            let (kind, group, _) = block[0];
            if sizes.last().is_none_or(|(used, k, _)| used + words > limit || *k != kind) {
                sizes.push((0, kind, Vec::new()));
            }
            let arena = sizes.len() - 1;
            let (used, _, runs) = &mut sizes[arena];
            let mut offset = *used;
            for (.., spec) in block {
                if by_name.insert(spec.key(), entries.len()).is_some() {
                    let detail = format!("two parameters are named '{}'", spec.key());
                    return Err(Error::shape("parameter", detail));
                }
                entries.push(Entry { spec: spec.clone(), arena, offset });
                offset += spec.words();
            }
            *used += words;
            match runs.last_mut() {
                Some((end, last)) if *last == group => *end = *used,
                _ if words == 0 => {}
                _ => runs.push((*used, group)),
            }
        }
        let mut arenas = Vec::new();
        for (i, (words, (frozen, half, memorized), runs)) in sizes.into_iter().enumerate() {
            let value = spaces.declare(format!("params.{i}"), words);
            let training =
                (trainable && !frozen).then(|| Training::declare(spaces, i, words, memorized));
            arenas.push(Arena { value, training, half, words, runs });
        }
        let rows = groups.list().len();
        let words = turns.saturating_sub(1) * turn_words(rows) + rows * Row::WORDS;
        let table = (trainable && rows > 0).then(|| spaces.declare("optimizer groups", words));
        Ok(Params { entries, by_name, arenas, groups: groups.read_from(table), trainable, turns })
    }

    /// The groups, none of which has taken a step yet; what a training loop advances and writes.
    pub fn groups(&self) -> Groups {
        self.groups.clone()
    }

    /// Words that an arena holds at most where bindings have `max_binding` bytes. Larger bindings
    /// are not used: a run's state holds arenas, and may go on on another adapter.
    pub fn largest(max_binding: u64) -> usize {
        (max_binding.min(128 << 20) / 4) as usize
    }

    /// Number of scalar parameters.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|e| e.spec.len()).sum()
    }

    /// Names and shapes, in storage order.
    pub fn specs(&self) -> impl Iterator<Item = &ParamSpec> {
        self.entries.iter().map(|e| &e.spec)
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|e| e.spec.name == name)
    }

    /// A parameter as a tensor of `tape`, with its gradient where parameters are trained.
    ///
    /// # Errors
    /// An unknown name.
    pub fn var(&self, tape: &mut Tape, name: &str) -> Result<Var> {
        let entry = self
            .by_name
            .get(name)
            .map(|i| &self.entries[*i])
            .ok_or_else(|| Error::shape("parameter", format!("no parameter '{name}'")))?;
        Ok(self.place(tape, name, &entry.spec.tape_shape(), entry))
    }

    /// A tensor of `shape` from where `first` is.
    fn place(&self, tape: &mut Tape, name: &str, shape: &[usize], first: &Entry) -> Var {
        let arena = &self.arenas[first.arena];
        let value = (arena.value, first.offset);
        if arena.half {
            return tape.half_parameter(name, shape, value);
        }
        let grad = arena.training.map(|training| (training.grad, first.offset));
        tape.parameter(name, shape, value, grad)
    }

    /// Parameters that lie one behind the other (see [`ParamSpec::joined`]) as one tensor of
    /// `shape`, its first axis running through all of them.
    ///
    /// # Errors
    /// An unknown name; parameters that are not neighbours, or do not begin where a binding may.
    pub fn span(&self, tape: &mut Tape, names: &[String], shape: &[usize]) -> Result<Var> {
        let fail = |detail: String| Error::shape("parameter", detail);
        let found: Option<Vec<&Entry>> =
            names.iter().map(|n| self.by_name.get(n).map(|i| &self.entries[*i])).collect();
        let Some(found) = found.filter(|f| !f.is_empty()) else {
            return Err(fail(format!("not all of {names:?} are there")));
        };
        let neighbours = found
            .windows(2)
            .all(|w| w[0].arena == w[1].arena && w[0].offset + w[0].spec.words() == w[1].offset);
        let len: usize = found.iter().map(|e| e.spec.stored()).sum();
        let first = found[0];
        if !neighbours || first.offset % ALIGN_WORDS != 0 || len != shape.iter().product::<usize>()
        {
            return Err(fail(format!("{names:?} are not one tensor {shape:?}")));
        }
        Ok(self.place(tape, &names[0], shape, first))
    }

    /// Records the update of all groups, in [`Stage::Update`]: gradients, clipped by `clip`, become
    /// steps and are zeroed. With [`Clip::norm`], returns the square of the norm of all gradients
    /// before clipping, which can be [kept](Tape::keep) and read.
    ///
    /// # Errors
    /// Parameters that were not made to be trained; a bound of `clip` that is not above 0.
    pub fn optimize(&self, tape: &mut Tape, clip: Clip) -> Result<Option<Var>> {
        self.record(tape, 0, |_| true, clip)
    }

    /// The same of these groups alone: of all others neither values nor gradients are touched, nor do
    /// they count in the norm. Advance them by [`Groups::advance_only`].
    ///
    /// # Errors
    /// As [`optimize`](Self::optimize), and an unknown group.
    pub fn optimize_only(
        &self,
        tape: &mut Tape,
        groups: &[&str],
        clip: Clip,
    ) -> Result<Option<Var>> {
        self.optimize_turn(tape, 0, groups, clip)
    }

    /// The same as turn `turn`, from 0, of a step that updates its groups [by turns](Self::by_turns),
    /// with the settings that [`Groups::write_turn`] has written for it.
    ///
    /// # Errors
    /// As [`optimize_only`](Self::optimize_only), and a turn that these were not made for.
    pub fn optimize_turn(
        &self,
        tape: &mut Tape,
        turn: usize,
        groups: &[&str],
        clip: Clip,
    ) -> Result<Option<Var>> {
        let chosen: Vec<usize> =
            groups.iter().map(|name| self.groups.find(name)).collect::<Result<_>>()?;
        if turn >= self.turns {
            let detail = format!("turn {turn} of parameters that were made for {}", self.turns);
            return Err(Error::shape("optimize", detail));
        }
        self.record(tape, turn, |group| chosen.contains(&group), clip)
    }

    /// The first of the trained parameters of `groups` to whose gradient no call of `tape` from the
    /// `since`-th on adds anything.
    #[cfg(feature = "train")]
    pub(crate) fn unreached(&self, tape: &Tape, since: usize, groups: &[&str]) -> Option<&str> {
        use crate::plan::{Access, Place};
        let recording = tape.recording();
        let written = |space: SpaceId, range: (usize, usize)| {
            recording.calls[since..].iter().any(|call| {
                call.kernel.bindings.iter().zip(&call.args).any(|(binding, arg)| {
                    let info = arg.and_then(|arg| recording.get(arg));
                    info.filter(|_| binding.access == Access::Write).is_some_and(|info| {
                        matches!(info.place, Place::Space { space: at, offset } if at == space
                            && offset < range.1 && range.0 < offset + info.words())
                    })
                })
            })
        };
        let missed = self.entries.iter().find(|entry| {
            let Some(Training { grad, .. }) = self.arenas[entry.arena].training else {
                return false;
            };
            let range = (entry.offset, entry.offset + entry.spec.words());
            groups.contains(&entry.spec.group.as_str()) && !written(grad, range)
        });
        missed.map(|entry| entry.spec.name.as_str())
    }

    fn record(
        &self,
        tape: &mut Tape,
        turn: usize,
        chosen: impl Fn(usize) -> bool,
        clip: Clip,
    ) -> Result<Option<Var>> {
        if !self.trainable {
            let detail = "these parameters were made without gradients: nothing to optimise";
            return Err(Error::shape("optimize", detail));
        }
        let Some(table) = self.groups.table() else { return Ok(None) };
        let mut all = Vec::new();
        for (i, arena) in self.arenas.iter().enumerate() {
            let Some(Training { grad, kept }) = arena.training else { continue };
            for (first, runs) in stretches(&arena.runs, &chosen) {
                let len = runs.last().map_or(0, |(end, _)| *end);
                let mut var =
                    |name: &str, space| tape.input(&format!("{name}.{i}"), &[len], space, first);
                all.push(ArenaVars {
                    value: var("params", arena.value),
                    grad: var("grads", grad),
                    moments: match kept {
                        Kept::Adam([m, v]) => Moments::Adam { m: var("m", m), v: var("v", v) },
                        Kept::Momentum(m) => Moments::Sgd { momentum: Some(var("momentum", m)) },
                        Kept::Nothing => Moments::Sgd { momentum: None },
                    },
                    runs,
                });
            }
        }
        let shape = [self.groups.list().len(), Row::WORDS];
        let table = tape.input("groups", &shape, table, turn * turn_words(shape[0]));
        tape.in_stage(Stage::Update, |tape| tape.optimize(&all, table, clip))
    }

    /// The gradient buffers, to be cleared where an incomplete group of micro-batches is dropped.
    pub fn grad_spaces(&self) -> Vec<SpaceId> {
        self.arenas.iter().filter_map(|a| a.training.map(|t| t.grad)).collect()
    }

    /// Sets all gradients to zero, before whatever is submitted next. An update does so by itself;
    /// this drops what has accumulated without one.
    ///
    /// # Errors
    /// [`Access`](Error::Access) where the memory is of other spaces or another device; those of the
    /// device.
    pub fn zero_grad(&self, gpu: &Gpu, memory: &Memory) -> Result<()> {
        memory.clear(gpu, &self.grad_spaces())
    }

    /// Initial values of every parameter.
    pub fn initial(&self, seed: u64) -> Weights {
        let mut weights = Weights::default();
        for Entry { spec, .. } in &self.entries {
            if weights.get(&spec.name).is_none() {
                let whole = spec.whole();
                let values = spec.init.values(seed, &spec.name, whole.iter().product());
                weights.insert(&spec.name, whole, values);
            }
        }
        weights
    }

    /// Checks that `weights` hold every parameter in its shape; more may be there.
    ///
    /// # Errors
    /// [`Checkpoint`](Error::Checkpoint) naming the tensor, the shape found and the one wanted.
    pub fn check(&self, weights: &Weights, path: &Path) -> Result<()> {
        for Entry { spec, .. } in &self.entries {
            let (name, wanted) = (&spec.name, spec.whole());
            let detail = match weights.get(name) {
                None => format!("tensor '{name}' {wanted:?} is missing: it is of another model"),
                Some((shape, _)) if shape != wanted => {
                    format!("tensor '{name}' is {shape:?}, this model wants {wanted:?}")
                }
                Some((_, values)) if values.iter().any(|v| !v.is_finite()) => {
                    format!("tensor '{name}' holds a value that is not finite")
                }
                Some((_, values)) if spec.half && !values.iter().all(|v| fits_half(*v)) => format!(
                    "tensor '{name}' holds a value beyond ±65504, which f16 cannot: store it whole"
                ),
                Some(_) => continue,
            };
            return Err(Error::checkpoint(path, detail));
        }
        Ok(())
    }

    /// Sets the parameters that `weights` hold, those stored by halves rounded to the nearest, before
    /// whatever is submitted next. Parameters that `weights` do not hold keep their values, zero at
    /// first ([`check`](Self::check) wants them all); names that no parameter has are left alone.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) naming a tensor of another shape, or one stored by halves with a value
    /// that f16 cannot hold: then no parameter was set. [`Access`](Error::Access) where the memory is
    /// of other spaces or another device; those of the device.
    pub fn upload(&self, gpu: &Gpu, memory: &Memory, weights: &Weights) -> Result<()> {
        let given = || {
            self.entries.iter().filter_map(|e| weights.get(&e.spec.name).map(|(s, v)| (e, s, v)))
        };
        for (Entry { spec, .. }, shape, values) in given() {
            let (name, wanted) = (&spec.name, spec.whole());
            if shape != wanted {
                let detail = format!("'{name}' is {wanted:?}, the values given are {shape:?}");
                return Err(Error::shape("parameter", detail));
            }
            if values.len() != wanted.iter().product::<usize>() {
                let detail = format!("{} values for '{name}' of shape {wanted:?}", values.len());
                return Err(Error::shape("parameter", detail));
            }
            if spec.half && !values.iter().all(|v| fits_half(*v)) {
                let detail = format!(
                    "'{name}' is stored by halves, and a value given is beyond ±65504 or not finite"
                );
                return Err(Error::shape("parameter", detail));
            }
        }
        for (Entry { spec, arena, offset }, _, values) in given() {
            let (cols, mut all) = (spec.cols().max(1), vec![0.0; spec.stored()]);
            for (row, from) in spec.own(values).chunks(cols).enumerate() {
                all[row * spec.pitch..][..cols].copy_from_slice(from);
            }
            let halves = spec.half.then(|| pack_halves(&all));
            let words = halves.as_deref().unwrap_or(bytemuck::cast_slice(&all));
            memory.write(gpu, self.arenas[*arena].value, *offset, words)?;
        }
        Ok(())
    }

    /// Sets one parameter; otherwise as [`upload`](Self::upload).
    ///
    /// # Errors
    /// An unknown name, and those of [`upload`](Self::upload).
    pub fn set(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<()> {
        if !self.has(name) {
            return Err(Error::shape("parameter", format!("no parameter '{name}'")));
        }
        let mut weights = Weights::default();
        weights.insert(name, shape.to_vec(), values.to_vec());
        self.upload(gpu, memory, &weights)
    }

    /// The values after everything that was submitted, under the parameters' names and in their
    /// shapes, rounded where they are stored by halves. Blocks.
    pub fn download(&self, gpu: &Gpu, memory: &Memory) -> Result<Weights> {
        self.take(|arena| match arena.half {
            true => {
                let words = memory.read(gpu, arena.value, 0, arena.words)?;
                Ok(Some(unpack_halves(&words)))
            }
            false => memory.read_f32(gpu, arena.value, 0, arena.words).map(Some),
        })
    }

    /// The gradients that have accumulated since the last update, of all parameters that are trained,
    /// under their names and in their shapes; neither averaged nor clipped. Blocks.
    pub fn gradients(&self, gpu: &Gpu, memory: &Memory) -> Result<Weights> {
        self.take(|arena| match arena.training {
            Some(Training { grad, .. }) => memory.read_f32(gpu, grad, 0, arena.words).map(Some),
            None => Ok(None),
        })
    }

    /// Tensors by name from what `read` gives of each arena, one at a time.
    fn take(&self, read: impl Fn(&Arena) -> Result<Option<Vec<f32>>>) -> Result<Weights> {
        let mut weights = Weights::default();
        for (i, arena) in self.arenas.iter().enumerate() {
            let Some(all) = read(arena)? else { continue };
            for Entry { spec, offset, .. } in self.entries.iter().filter(|e| e.arena == i) {
                let cols = spec.cols().max(1);
                let rows = spec.len() / cols;
                let values = (0..rows)
                    .flat_map(|row| {
                        let at = offset * per_word(arena.half) + row * spec.pitch;
                        all[at..at + cols].iter().copied()
                    })
                    .collect();
                weights.append(&spec.name, &spec.shape, values);
            }
        }
        Ok(weights)
    }

    /// Buffers that a resumed run needs besides the model's state: values and what the optimiser
    /// keeps, by name, with their words. The groups' steps ([`Groups::set_steps`]) belong to it, too.
    pub fn state_spaces(&self) -> Vec<(String, SpaceId, usize)> {
        let mut all = Vec::new();
        for (i, arena) in self.arenas.iter().enumerate() {
            all.push((format!("params.{i}"), arena.value, arena.words));
            match arena.training.map(|training| training.kept) {
                Some(Kept::Adam([m, v])) => {
                    all.push((format!("adam.m.{i}"), m, arena.words));
                    all.push((format!("adam.v.{i}"), v, arena.words));
                }
                Some(Kept::Momentum(m)) => all.push((format!("momentum.{i}"), m, arena.words)),
                Some(Kept::Nothing) | None => {}
            }
        }
        all
    }
}

/// Whether a parameter is frozen, is stored by halves, and what its optimiser keeps: those that
/// differ in it have arenas of their own.
type Kind = (bool, bool, Memorized);

/// A parameter with its kind and the number of its group.
fn place(spec: ParamSpec, groups: &Groups, trainable: bool) -> Result<(Kind, usize, ParamSpec)> {
    let trained = trainable && !spec.frozen;
    let group = match groups.find(&spec.group) {
        Ok(group) => group,
        // Behind all others.
        Err(_) if !trained => groups.list().len(),
        Err(Error::Config(why)) => {
            return Err(Error::Config(format!("parameter '{}': {why}", spec.name)));
        }
        Err(other) => return Err(other),
    };
    let memorized = match groups.list().get(group) {
        Some(group) if trained => group.optimizer.memorized(),
        _ => Memorized::Nothing,
    };
    Ok(((spec.frozen, spec.half, memorized), group, spec))
}

/// The parts of an arena that lie in chosen groups, as few as possible: where each begins, and its
/// own runs, counted from there.
fn stretches(
    runs: &[(usize, usize)],
    chosen: impl Fn(usize) -> bool,
) -> Vec<(usize, Vec<(usize, usize)>)> {
    let mut all: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
    let mut start = 0;
    for &(end, group) in runs {
        if chosen(group) {
            match all.last_mut() {
                Some((first, own)) if own.last().is_some_and(|(e, _)| *first + e == start) => {
                    own.push((end - *first, group));
                }
                _ => all.push((start, vec![(end - start, group)])),
            }
        }
        start = end;
    }
    all
}
