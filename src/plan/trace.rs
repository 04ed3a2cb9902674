//! What each dispatch of a step writes, looked at as it is written: where a number that is none came from.

use super::{Access, Memory, Program, SpaceId, TensorId};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, read_words};

/// Numbers that are not finite of which a trace keeps the places.
const PLACES: usize = 1 << 16;

/// What a dispatch wrote into a tensor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Written {
    /// Its place in [`Plan::dispatches`](super::Plan::dispatches).
    pub dispatch: usize,
    /// The kernel.
    pub kernel: &'static str,
    /// The tensor's name.
    pub tensor: String,
    /// Its extents, outermost first.
    pub shape: Vec<usize>,
    /// The smallest finite number; +∞ where there is none.
    pub least: f32,
    /// The largest; −∞ where there is none.
    pub most: f32,
    /// The mean of the finite numbers' magnitudes.
    pub mean: f64,
    /// How many numbers are not finite.
    pub not_finite: usize,
    /// Where the first of them are, in row-major order.
    pub places: Vec<usize>,
}

impl Program {
    /// Runs one step as [`replay`](Self::replay) does, but a dispatch at a time, and tells what each one
    /// wrote. Everything is computed once and in order: steps may go on from there. For finding faults: it
    /// reads back all that a step computes.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn trace(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[SpaceId],
    ) -> Result<Vec<Written>> {
        self.fits(gpu, memory)?;
        let clear = memory.cleared(clear)?;
        gpu.run(|encoder| {
            memory.record_staged(encoder);
            clear.iter().for_each(|b| encoder.clear_buffer(b, 0, None));
            // Of a tensor that is not written whole the rest is what another one left there.
            self.slots.iter().for_each(|slot| encoder.clear_buffer(&slot.buffer, 0, None));
        })?;
        self.take_slots();
        let mut all = Vec::new();
        for (i, ready) in self.dispatches.iter().enumerate().filter(|(_, d)| update || !d.update) {
            gpu.run(|encoder| {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&ready.pipeline.pipeline);
                pass.set_bind_group(0, &ready.bind_group, &[]);
                let [x, y, z] = ready.groups;
                pass.dispatch_workgroups(x, y, z);
            })?;
            let planned = &self.plan().dispatches()[i];
            for (binding, tensor) in planned.kernel.bindings.iter().zip(&planned.args) {
                let Some(tensor) = tensor.filter(|_| binding.access == Access::Write) else {
                    continue;
                };
                if !holds_words(planned.kernel.source, binding.name) {
                    let values = self.contents(gpu, memory, tensor)?;
                    all.push(self.written(i, planned.kernel.name, tensor, &values));
                }
            }
        }
        Ok(all)
    }

    /// A tensor's values as they are now, whether or not it is kept.
    fn contents(&self, gpu: &Gpu, memory: &Memory, tensor: TensorId) -> Result<Vec<f32>> {
        let wgpu::BindingResource::Buffer(part) = self.resource_of(memory, tensor)? else {
            return Err(Error::access("trace", "a tensor that is no buffer"));
        };
        let info = &self.plan().recording.tensors[tensor.index()];
        let words = read_words(gpu, part.buffer, part.offset as usize / 4, info.words())?;
        Ok(info.floats(words))
    }

    fn written(
        &self,
        dispatch: usize,
        kernel: &'static str,
        tensor: TensorId,
        values: &[f32],
    ) -> Written {
        let info = &self.plan().recording.tensors[tensor.index()];
        let finite = || values.iter().filter(|v| v.is_finite());
        let count = finite().count();
        let odd = values.iter().enumerate().filter(|(_, v)| !v.is_finite()).map(|(i, _)| i);
        Written {
            dispatch,
            kernel,
            tensor: info.name.clone(),
            shape: info.shape.clone(),
            least: finite().copied().fold(f32::INFINITY, f32::min),
            most: finite().copied().fold(f32::NEG_INFINITY, f32::max),
            mean: finite().map(|v| f64::from(v.abs())).sum::<f64>() / count.max(1) as f64,
            not_finite: values.len() - count,
            places: odd.take(PLACES).collect(),
        }
    }
}

/// Whether a kernel's text declares what is bound under `name` as integers: any bits may be there.
fn holds_words(source: &str, name: &str) -> bool {
    let declared =
        |line: &&str| line.contains("read_write>") && line.contains(&format!("> {name}:"));
    let line = source.lines().find(declared).unwrap_or_default();
    ["array<u32>", "array<TU>", "vec4<u32>", "atomic<"].iter().any(|kind| line.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_told_from_floats() {
        let mut words: Vec<(&str, &str)> = crate::ops::KERNELS
            .iter()
            .flat_map(|kernel| kernel.bindings.iter().map(move |b| (kernel, b)))
            .filter(|(kernel, b)| b.access == Access::Write && holds_words(kernel.source, b.name))
            .map(|(kernel, b)| (kernel.name, b.name))
            .collect();
        words.sort_unstable();
        let known = [
            ("nearest_rows", "NEAREST"),
            ("segment_reduce", "ARG"),
            ("sort_rows", "OUT"),
            ("views", "ALL"),
        ];
        assert_eq!(words, known);
    }
}
