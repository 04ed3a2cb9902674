//! Runs a recording on the CPU, by the kernels' twins: the slow, readable witness of a plan.

use super::{Access, Place, Recording, SpaceId, Spaces, Step, TensorId, Twin};
use crate::error::{Error, Result};
use crate::gpu::stored;

/// Spaces and scratch tensors on the host.
pub struct HostMemory {
    /// Contents of each space, in the order of their declaration.
    pub spaces: Vec<Vec<u32>>,
    /// Contents of each scratch tensor after a run.
    pub scratch: Vec<Vec<u32>>,
    declared: Spaces,
}

impl HostMemory {
    /// Zeroed spaces.
    pub fn new(spaces: &Spaces) -> Self {
        HostMemory {
            spaces: spaces.iter().map(|(_, words)| vec![0; stored(words)]).collect(),
            scratch: Vec::new(),
            declared: spaces.clone(),
        }
    }

    /// Writes words into a space.
    ///
    /// # Errors
    /// [`Access`](Error::Access): a space of other spaces, words beyond its end.
    pub fn write(&mut self, id: SpaceId, offset: usize, words: &[u32]) -> Result<()> {
        let at = self.declared.place(id)?;
        part_mut(&mut self.spaces, at, offset, words.len())?.copy_from_slice(words);
        Ok(())
    }

    /// A space's contents, as floats.
    ///
    /// # Errors
    /// [`Access`](Error::Access): a space of other spaces.
    pub fn space(&self, id: SpaceId) -> Result<&[f32]> {
        let at = self.declared.place(id)?;
        self.spaces.get(at).map(|s| bytemuck::cast_slice(s)).ok_or_else(beyond)
    }

    /// A tensor's contents, as floats.
    ///
    /// # Errors
    /// [`Access`](Error::Access): a tensor of another recording, or that is not in this memory.
    pub fn read(&self, recording: &Recording, id: TensorId) -> Result<Vec<f32>> {
        let info = recording.tensors.get(id.index()).ok_or_else(beyond)?;
        Ok(info.floats(self.get(recording, id)?))
    }

    fn get(&self, recording: &Recording, id: TensorId) -> Result<Vec<u32>> {
        let info = &recording.tensors[id.index()];
        let len = info.len().max(1);
        let found = match info.place {
            Place::Scratch => part(&self.scratch, id.index(), 0, len),
            Place::Space { space, offset } => {
                part(&self.spaces, self.declared.place(space)?, offset, info.words().max(1))
            }
            Place::Const { offset } => within(&recording.constants, offset, len),
            Place::Part { of, offset } => part(&self.scratch, of.index(), offset, len),
        };
        found.map(<[u32]>::to_vec)
    }

    fn put(&mut self, recording: &Recording, id: TensorId, words: &[u32]) -> Result<()> {
        let (all, at, offset) = match recording.tensors[id.index()].place {
            Place::Scratch => (&mut self.scratch, id.index(), 0),
            Place::Space { space, offset } => {
                (&mut self.spaces, self.declared.place(space)?, offset)
            }
            Place::Part { of, offset } => (&mut self.scratch, of.index(), offset),
            Place::Const { .. } => return Ok(()),
        };
        part_mut(all, at, offset, words.len())?.copy_from_slice(words);
        Ok(())
    }
}

fn beyond() -> Error {
    Error::access("host memory", "words beyond the end of a space, or of another recording")
}

fn within(words: &[u32], offset: usize, len: usize) -> Result<&[u32]> {
    words.get(offset..).and_then(|w| w.get(..len)).ok_or_else(beyond)
}

fn part(all: &[Vec<u32>], at: usize, offset: usize, len: usize) -> Result<&[u32]> {
    within(all.get(at).ok_or_else(beyond)?, offset, len)
}

fn part_mut(all: &mut [Vec<u32>], at: usize, offset: usize, len: usize) -> Result<&mut [u32]> {
    let words = all.get_mut(at).ok_or_else(beyond)?;
    words.get_mut(offset..).and_then(|w| w.get_mut(..len)).ok_or_else(beyond)
}

/// Runs every call's twin in order. Scratch starts as NaN, so that reading what was never written
/// shows.
///
/// # Errors
/// [`Access`](Error::Access) where the recording is not one over this memory's spaces.
pub fn interpret(recording: &Recording, step: &Step, memory: &mut HostMemory) -> Result<()> {
    memory.scratch =
        recording.tensors.iter().map(|t| vec![f32::NAN.to_bits(); t.len().max(1)]).collect();
    for call in &recording.calls {
        let mut buffers: Vec<Option<Vec<u32>>> = call
            .args
            .iter()
            .map(|a| a.map(|id| memory.get(recording, id)).transpose())
            .collect::<Result<_>>()?;
        (call.kernel.twin)(&mut Twin {
            words: &call.words,
            step,
            defines: &call.defines,
            buffers: &mut buffers,
        });
        for ((binding, arg), words) in call.kernel.bindings.iter().zip(&call.args).zip(buffers) {
            if let (Access::Write, Some(id), Some(words)) = (binding.access, arg, words) {
                memory.put(recording, *id, &words)?;
            }
        }
    }
    Ok(())
}
