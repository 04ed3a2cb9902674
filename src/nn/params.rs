//! Named parameters in flat arenas: value, gradient and both moments, one buffer each.

use super::{Init, Weights};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::adam::ArenaVars;
use crate::plan::{ALIGN_WORDS, MAX_GROUPS, Memory, SpaceId, Spaces};
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
}

impl ParamSpec {
    /// A parameter whose rows are stored as they are.
    pub fn new(name: impl Into<String>, shape: &[usize], group: usize, init: Init) -> Self {
        let pitch = shape.last().copied().unwrap_or(1);
        ParamSpec { name: name.into(), shape: shape.to_vec(), pitch, group, init }
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

    /// Words it takes in an arena.
    fn stored(&self) -> usize {
        self.len() / self.cols().max(1) * self.pitch
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

struct Entry {
    spec: ParamSpec,
    arena: usize,
    offset: usize,
}

struct Arena {
    value: SpaceId,
    /// Gradient, first and second moment; absent where nothing is trained.
    training: Option<[SpaceId; 3]>,
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
    /// group, and declares their buffers; gradients and moments only where they are `trainable`.
    pub fn new(
        mut specs: Vec<ParamSpec>,
        spaces: &mut Spaces,
        max_binding: u64,
        trainable: bool,
    ) -> Self {
        specs.sort_by_key(|s| s.group);
        let limit = (max_binding / 4) as usize;
        let (mut entries, mut by_name) = (Vec::new(), HashMap::new());
        let mut sizes: Vec<(usize, [u32; MAX_GROUPS])> = Vec::new();
        for spec in specs {
            let words = spec.stored().next_multiple_of(ALIGN_WORDS);
            if sizes.last().is_none_or(|(used, _)| used + words > limit) {
                sizes.push((0, [0; MAX_GROUPS]));
            }
            let arena = sizes.len() - 1;
            if let Some((used, ends)) = sizes.last_mut() {
                by_name.insert(spec.name.clone(), entries.len());
                let group = spec.group.min(MAX_GROUPS - 1);
                entries.push(Entry { spec, arena, offset: *used });
                *used += words;
                ends[group..].fill(*used as u32);
            }
        }
        let arenas = sizes
            .into_iter()
            .enumerate()
            .map(|(i, (words, ends))| Arena {
                value: spaces.declare(format!("params.{i}"), words),
                training: trainable.then(|| {
                    ["grads", "adam.m", "adam.v"]
                        .map(|name| spaces.declare(format!("{name}.{i}"), words))
                }),
                words,
                ends,
            })
            .collect();
        Params { entries, by_name, arenas }
    }

    /// Number of scalar parameters.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|e| e.spec.len()).sum()
    }

    /// Names and shapes, in storage order.
    pub fn specs(&self) -> impl Iterator<Item = &ParamSpec> {
        self.entries.iter().map(|e| &e.spec)
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
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
        let arena = &self.arenas[entry.arena];
        let grad = arena.training.map(|[grad, ..]| (grad, entry.offset));
        Ok(tape.parameter(name, &entry.spec.tape_shape(), (arena.value, entry.offset), grad))
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
            let values = spec.init.values(seed, &spec.name, spec.len());
            weights.insert(&spec.name, spec.shape.clone(), values);
        }
        weights
    }

    /// Checks that `weights` hold every parameter in its shape; more may be there.
    ///
    /// # Errors
    /// [`Checkpoint`](Error::Checkpoint) naming the tensor, the shape found and the one wanted.
    pub fn check(&self, weights: &Weights, path: &Path) -> Result<()> {
        for Entry { spec, .. } in &self.entries {
            match weights.get(&spec.name) {
                None => {
                    let detail = format!(
                        "tensor '{}' {:?} is missing: it is of another model",
                        spec.name, spec.shape
                    );
                    return Err(Error::checkpoint(path, detail));
                }
                Some((shape, _)) if shape != spec.shape => {
                    let detail = format!(
                        "tensor '{}' is {shape:?}, this model wants {:?}",
                        spec.name, spec.shape
                    );
                    return Err(Error::checkpoint(path, detail));
                }
                Some((_, values)) if values.iter().any(|v| !v.is_finite()) => {
                    let detail = format!("tensor '{}' holds a value that is not finite", spec.name);
                    return Err(Error::checkpoint(path, detail));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Puts values into the arenas. Names that no parameter has are left alone.
    pub fn upload(&self, gpu: &Gpu, memory: &Memory, weights: &Weights) {
        self.put(weights, |arena, words| memory.write(gpu, self.arenas[arena].value, 0, words));
    }

    fn put(&self, weights: &Weights, mut write: impl FnMut(usize, &[u32])) {
        for (i, arena) in self.arenas.iter().enumerate() {
            let mut words = vec![0_u32; arena.words];
            for Entry { spec, offset, .. } in self.entries.iter().filter(|e| e.arena == i) {
                let Some((_, values)) = weights.get(&spec.name) else { continue };
                let cols = spec.cols().max(1);
                for (row, from) in values.chunks(cols).enumerate() {
                    let at = offset + row * spec.pitch;
                    for (to, value) in words[at..at + cols].iter_mut().zip(from) {
                        *to = value.to_bits();
                    }
                }
            }
            write(i, &words);
        }
    }

    /// The values as they are now. Blocks.
    pub fn download(&self, gpu: &Gpu, memory: &Memory) -> Result<Weights> {
        let values: Vec<Vec<f32>> = self
            .arenas
            .iter()
            .map(|a| memory.read_f32(gpu, a.value, 0, a.words))
            .collect::<Result<_>>()?;
        Ok(self.take(&values))
    }

    /// The gradients that have accumulated since the last update; for tests. Blocks.
    #[doc(hidden)]
    pub fn gradients(&self, gpu: &Gpu, memory: &Memory) -> Result<Weights> {
        let values: Vec<Vec<f32>> = self
            .arenas
            .iter()
            .filter_map(|a| a.training.map(|[grad, ..]| (grad, a.words)))
            .map(|(grad, words)| memory.read_f32(gpu, grad, 0, words))
            .collect::<Result<_>>()?;
        Ok(self.take(&values))
    }

    fn take(&self, arenas: &[Vec<f32>]) -> Weights {
        let mut weights = Weights::default();
        for Entry { spec, arena, offset } in &self.entries {
            let cols = spec.cols().max(1);
            let rows = spec.len() / cols;
            let values = (0..rows)
                .flat_map(|row| {
                    let at = offset + row * spec.pitch;
                    arenas[*arena][at..at + cols].iter().copied()
                })
                .collect();
            weights.insert(&spec.name, spec.shape.clone(), values);
        }
        weights
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
