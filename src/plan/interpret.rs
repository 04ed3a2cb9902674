//! Runs a recording on the CPU, by the kernels' twins: the slow, readable witness of a plan.

use super::{Access, Place, Recording, SpaceId, Spaces, Step, TensorId, Twin};

/// Spaces and scratch tensors on the host.
pub struct HostMemory {
    /// Contents of each space.
    pub spaces: Vec<Vec<u32>>,
    /// Contents of each scratch tensor after a run.
    pub scratch: Vec<Vec<u32>>,
}

impl HostMemory {
    /// Zeroed spaces.
    pub fn new(spaces: &Spaces) -> Self {
        HostMemory {
            spaces: spaces
                .iter()
                .map(|(_, words)| vec![0; words.next_multiple_of(4).max(4)])
                .collect(),
            scratch: Vec::new(),
        }
    }

    /// Writes words into a space.
    pub fn write(&mut self, id: SpaceId, offset: usize, words: &[u32]) {
        self.spaces[id.0][offset..offset + words.len()].copy_from_slice(words);
    }

    /// A space's contents, as floats.
    pub fn space(&self, id: SpaceId) -> &[f32] {
        bytemuck::cast_slice(&self.spaces[id.0])
    }

    /// A tensor's contents, as floats.
    pub fn read(&self, recording: &Recording, id: TensorId) -> Vec<f32> {
        recording.tensors[id.index()].floats(self.get(recording, id))
    }

    fn get(&self, recording: &Recording, id: TensorId) -> Vec<u32> {
        let info = &recording.tensors[id.index()];
        match info.place {
            Place::Scratch => self.scratch[id.index()].clone(),
            Place::Space { space, offset } => {
                self.spaces[space.0][offset..offset + info.words().max(1)].to_vec()
            }
            Place::Const { offset } => {
                recording.constants[offset..offset + info.len().max(1)].to_vec()
            }
            Place::Part { of, offset } => {
                self.scratch[of.index()][offset..offset + info.len().max(1)].to_vec()
            }
        }
    }

    fn put(&mut self, recording: &Recording, id: TensorId, words: Vec<u32>) {
        match recording.tensors[id.index()].place {
            Place::Scratch => self.scratch[id.index()] = words,
            Place::Space { space, offset } => {
                self.spaces[space.0][offset..offset + words.len()].copy_from_slice(&words);
            }
            Place::Part { of, offset } => {
                self.scratch[of.index()][offset..offset + words.len()].copy_from_slice(&words);
            }
            Place::Const { .. } => {}
        }
    }
}

/// Runs every call's twin in order. Scratch starts as NaN, so that reading what was never written
/// shows.
pub fn interpret(recording: &Recording, step: &Step, memory: &mut HostMemory) {
    memory.scratch =
        recording.tensors.iter().map(|t| vec![f32::NAN.to_bits(); t.len().max(1)]).collect();
    for call in &recording.calls {
        let mut buffers: Vec<Option<Vec<u32>>> =
            call.args.iter().map(|a| a.map(|id| memory.get(recording, id))).collect();
        (call.kernel.twin)(&mut Twin {
            words: &call.words,
            step,
            defines: &call.defines,
            buffers: &mut buffers,
        });
        for ((binding, arg), words) in call.kernel.bindings.iter().zip(&call.args).zip(buffers) {
            if let (Access::Write, Some(id), Some(words)) = (binding.access, arg, words) {
                memory.put(recording, *id, words);
            }
        }
    }
}
