//! Named parameters in flat arenas: value, gradient and both moments, one buffer each.

use super::{Init, Weights};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::adam::ArenaVars;
use crate::plan::{
    ALIGN_WORDS, MAX_GROUPS, Memory, SpaceId, Spaces, fits_half, pack_halves, unpack_halves,
};
use crate::tape::{Tape, Var};
use std::collections::HashMap;
use std::path::Path;

/// A parameter to be made.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// The field's name, `audio_model.rnn.weight_ih_l0`.
    pub name: String,
    /// Extents as PyTorch has them.
    pub shape: Vec<usize>,
    /// Stored length of a row: the last extent, or more where the input is padded.
    pub pitch: usize,
    /// Optimiser group, below 8.
    pub group: usize,
    /// Initial values.
    pub init: Init,
    /// Without gradient and moments.
    pub frozen: bool,
    /// Stored by halves: f16, two in a word.
    pub half: bool,
    /// Stored right behind the one before, so that [`Params::span`] can take both as one tensor.
    pub joined: bool,
    /// Which rows of the tensor of this name it holds, and how many that has: a tensor larger
    /// than a binding is cut into several parameters.
    pub part: Option<(std::ops::Range<usize>, usize)>,
}

impl ParamSpec {
    /// A parameter whose rows are stored as they are.
    pub fn new(name: impl Into<String>, shape: &[usize], group: usize, init: Init) -> Self {
        let pitch = shape.last().copied().unwrap_or(1);
        let (name, shape) = (name.into(), shape.to_vec());
        let (frozen, half, joined, part) = (false, false, false, None);
        ParamSpec { name, shape, pitch, group, init, frozen, half, joined, part }
    }

    /// The same, right behind the one before.
    pub fn joined(self) -> Self {
        ParamSpec { joined: true, ..self }
    }

    /// The same, not to be trained if `frozen`.
    pub fn frozen(self, frozen: bool) -> Self {
        ParamSpec { frozen, ..self }
    }

    /// The same, stored by halves if `half` says so, it is frozen and its rows are whole words.
    pub fn halved(self, half: bool) -> Self {
        ParamSpec { half: half && self.frozen && self.pitch.is_multiple_of(2), ..self }
    }

    /// A tensor `[rows, cols]` in as many parameters as hold at most `limit` words each.
    pub fn cut(self, limit: usize) -> Vec<Self> {
        let (Some(&rows), cols) = (self.shape.first(), self.cols()) else { return vec![self] };
        let most = (limit / cols.max(1)).max(1);
        if rows <= most {
            return vec![self];
        }
        (0..rows)
            .step_by(most)
            .map(|first| {
                let range = first..rows.min(first + most);
                let mut shape = self.shape.clone();
                shape[0] = range.len();
                ParamSpec { shape, part: Some((range, rows)), ..self.clone() }
            })
            .collect()
    }

    /// Its name among [`Params`]: that of the tensor, and for a part its first row.
    pub fn key(&self) -> String {
        match &self.part {
            Some((range, _)) => format!("{}[{}..]", self.name, range.start),
            None => self.name.clone(),
        }
    }

    /// Extents of the whole tensor.
    fn whole(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let (Some((_, rows)), Some(first)) = (&self.part, shape.first_mut()) {
            *first = *rows;
        }
        shape
    }

    /// Its own among the values of the whole tensor.
    fn own<'a>(&self, values: &'a [f32]) -> &'a [f32] {
        let start = self.part.as_ref().map_or(0, |(range, _)| range.start * self.cols());
        &values[start..start + self.len()]
    }

    /// The same, for an input padded to `pitch` columns.
    pub fn padded(self, pitch: usize) -> Self {
        ParamSpec { pitch, ..self }
    }

    fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Elements as PyTorch counts them.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements it takes in an arena.
    fn stored(&self) -> usize {
        self.len() / self.cols().max(1) * self.pitch
    }

    /// Words it takes in an arena.
    fn words(&self) -> usize {
        self.stored() / per_word(self.half)
    }

    /// Its extents on a tape.
    fn tape_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = self.pitch;
        }
        shape
    }
}

/// Elements of a word.
fn per_word(half: bool) -> usize {
    if half { 2 } else { 1 }
}

struct Entry {
    spec: ParamSpec,
    arena: usize,
    /// In words.
    offset: usize,
}

struct Arena {
    value: SpaceId,
    /// Gradient, first and second moment; absent where nothing is trained.
    training: Option<[SpaceId; 3]>,
    /// Stored by halves.
    half: bool,
    words: usize,
    ends: [u32; MAX_GROUPS],
}

/// All parameters of a model.
pub struct Params {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    arenas: Vec<Arena>,
}

impl Params {
    /// Lays parameters out in as few arenas as bindings of `max_binding` bytes allow, sorted by
    /// group, the frozen ones apart, and of those the ones by halves, and declares their buffers;
    /// gradients and moments only where they are `trainable` and not frozen.
    pub fn new(
        mut specs: Vec<ParamSpec>,
        spaces: &mut Spaces,
        max_binding: u64,
        trainable: bool,
    ) -> Self {
        specs.sort_by_key(|s| (s.frozen, s.half, s.group));
        let limit = Self::largest(max_binding);
        let (mut entries, mut by_name) = (Vec::new(), HashMap::new());
        let mut sizes: Vec<(usize, (bool, bool), [u32; MAX_GROUPS])> = Vec::new();
        for block in specs.chunk_by(|_, next| next.joined) {
            let words = block.iter().map(ParamSpec::words).sum::<usize>();
            let words = words.next_multiple_of(ALIGN_WORDS);
            let kind = (block[0].frozen, block[0].half);
            if sizes.last().is_none_or(|(used, k, _)| used + words > limit || *k != kind) {
                sizes.push((0, kind, [0; MAX_GROUPS]));
            }
            let arena = sizes.len() - 1;
            let (used, _, ends) = &mut sizes[arena];
            let mut offset = *used;
            for spec in block {
                by_name.insert(spec.key(), entries.len());
                entries.push(Entry { spec: spec.clone(), arena, offset });
                offset += spec.words();
            }
            *used += words;
            ends[block[0].group.min(MAX_GROUPS - 1)..].fill(*used as u32);
        }
        let arenas = sizes
            .into_iter()
            .enumerate()
            .map(|(i, (words, (frozen, half), ends))| Arena {
                value: spaces.declare(format!("params.{i}"), words),
                training: (trainable && !frozen).then(|| {
                    ["grads", "adam.m", "adam.v"]
                        .map(|name| spaces.declare(format!("{name}.{i}"), words))
                }),
                half,
                words,
                ends,
            })
            .collect();
        Params { entries, by_name, arenas }
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
        let grad = arena.training.map(|[grad, ..]| (grad, first.offset));
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

    /// The arenas as tensors, for [`Tape::adam`].
    pub fn arena_vars(&self, tape: &mut Tape) -> Vec<ArenaVars> {
        let mut all = Vec::new();
        for (i, arena) in self.arenas.iter().enumerate() {
            let Some([grad, m, v]) = arena.training else { continue };
            let mut var =
                |name: &str, space| tape.input(&format!("{name}.{i}"), &[arena.words], space, 0);
            all.push(ArenaVars {
                value: var("params", arena.value),
                grad: var("grads", grad),
                m: var("m", m),
                v: var("v", v),
                ends: arena.ends,
            });
        }
        all
    }

    /// The gradient buffers, to be cleared where an incomplete group is dropped.
    pub fn grad_spaces(&self) -> Vec<SpaceId> {
        self.arenas.iter().filter_map(|a| a.training.map(|[grad, ..]| grad)).collect()
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

    /// Puts values into the arenas, those stored by halves rounded to the nearest. Names that no
    /// parameter has are left alone; a parameter without a value becomes zero.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) naming a tensor of another size; [`Access`](Error::Access) where the
    /// memory is of other spaces; those of the device.
    pub fn upload(&self, gpu: &Gpu, memory: &Memory, weights: &Weights) -> Result<()> {
        for Entry { spec, .. } in &self.entries {
            let wanted: usize = spec.whole().iter().product();
            let found = weights.get(&spec.name).map(|(shape, values)| (shape, values.len()));
            if let Some((shape, len)) = found.filter(|(_, len)| *len != wanted) {
                let detail = format!(
                    "'{}' is {:?}, and {shape:?} of {len} values was given",
                    spec.name,
                    spec.whole()
                );
                return Err(Error::shape("upload", detail));
            }
        }
        self.put(weights, |arena, words| memory.write(gpu, self.arenas[arena].value, 0, words))
    }

    fn put(
        &self,
        weights: &Weights,
        mut write: impl FnMut(usize, &[u32]) -> Result<()>,
    ) -> Result<()> {
        for (i, arena) in self.arenas.iter().enumerate() {
            let per_word = per_word(arena.half);
            let mut all = vec![0.0; arena.words * per_word];
            for Entry { spec, offset, .. } in self.entries.iter().filter(|e| e.arena == i) {
                let Some((_, values)) = weights.get(&spec.name) else { continue };
                let cols = spec.cols().max(1);
                for (row, from) in spec.own(values).chunks(cols).enumerate() {
                    let at = offset * per_word + row * spec.pitch;
                    all[at..at + cols].copy_from_slice(from);
                }
            }
            match arena.half {
                true => write(i, &pack_halves(&all))?,
                false => write(i, bytemuck::cast_slice(&all))?,
            }
        }
        Ok(())
    }

    /// The values as they are now, rounded where they are stored by halves. Blocks.
    pub fn download(&self, gpu: &Gpu, memory: &Memory) -> Result<Weights> {
        self.take(|arena| match arena.half {
            true => {
                let words = memory.read(gpu, arena.value, 0, arena.words)?;
                Ok(Some(unpack_halves(&words)))
            }
            false => memory.read_f32(gpu, arena.value, 0, arena.words).map(Some),
        })
    }

    /// The gradients that have accumulated since the last update; for tests. Blocks.
    #[doc(hidden)]
    pub fn gradients(&self, gpu: &Gpu, memory: &Memory) -> Result<Weights> {
        self.take(|arena| match arena.training {
            Some([grad, ..]) => memory.read_f32(gpu, grad, 0, arena.words).map(Some),
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

    /// Buffers that a resumed run needs besides the model's state: values and moments, by name.
    pub fn state_spaces(&self) -> Vec<(String, SpaceId, usize)> {
        let mut all = Vec::new();
        for (i, arena) in self.arenas.iter().enumerate() {
            all.push((format!("params.{i}"), arena.value, arena.words));
            if let Some([_, m, v]) = arena.training {
                all.push((format!("adam.m.{i}"), m, arena.words));
                all.push((format!("adam.v.{i}"), v, arena.words));
            }
        }
        all
    }
}
