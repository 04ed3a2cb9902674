//! Pipelines: built once for each kernel, set of defines and set of bindings, and kept on disk
//! where the adapter allows it.

use super::{Defines, Gpu, expand};
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

/// What a binding of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindingKind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
    /// `var<uniform>`.
    Uniform,
}

/// What makes a pipeline different from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PipelineKey {
    /// Kernel name; also its file, `shaders/<name>.wgsl`.
    pub kernel: &'static str,
    /// Preprocessor names and values.
    pub defines: Defines,
    /// Binding numbers and kinds.
    pub bindings: Vec<(u32, BindingKind)>,
    /// A text in place of the kernel's own.
    pub text: Option<Arc<str>>,
}

/// A compiled kernel with its explicit layout.
pub struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Gpu {
    /// The pipeline of `key`, built from its own text or else from `source` the first time. It is
    /// compiled with bounds and loop checks, whatever the text does.
    ///
    /// # Errors
    /// [`Shader`](Error::Shader) with naga's message.
    pub fn pipeline(&self, key: &PipelineKey, source: &str) -> Result<Arc<Pipeline>> {
        let text = Some(key.text.clone().unwrap_or_else(|| source.into()));
        self.own_pipeline(&PipelineKey { text, ..key.clone() }, source, false)
    }

    /// The same for `source`, a text of this crate. With `trusted` it goes without the checks: only
    /// for calls that this crate's own operations made; see [`Call`](crate::plan::Call).
    pub(crate) fn own_pipeline(
        &self,
        key: &PipelineKey,
        source: &str,
        trusted: bool,
    ) -> Result<Arc<Pipeline>> {
        let kept = (key.clone(), trusted && !self.checked() && key.text.is_none());
        let all = || self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all().get(&kept).cloned();
        if let Some(pipeline) = known {
            return Ok(pipeline);
        }
        let text = expand(key.text.as_deref().unwrap_or(source), &key.defines)
            .map_err(|message| Error::Shader { name: key.kernel.into(), message })?;
        let built = Arc::new(self.build(key, &text, kept.1)?);
        Ok(all().entry(kept).or_insert(built).clone())
    }

    fn build(&self, key: &PipelineKey, text: &str, trusted: bool) -> Result<Pipeline> {
        self.scoped(|| self.make(key, text, trusted)).map_err(|error| match error {
            Error::Gpu(message) => Error::Shader { name: key.kernel.into(), message },
            other => other,
        })
    }

    fn make(&self, key: &PipelineKey, text: &str, trusted: bool) -> Pipeline {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(key.kernel),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        let module = if !trusted {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: every index of the text is within its binding, and every loop ends.
            // - The text is one of this crate's shaders: no other caller of `own_pipeline` passes
            //   `trusted`, and a text in its place (`key.text`) is not trusted.
            // - Its sizes, `P`, come from an operation of this crate, which checked them against the
            //   shapes, or from a case of the registry: `Call::trusted` says so, cannot be set from
            //   outside, and is lost by a copy.
            // - Indices that come from data are bounded in the text. `tests/bounds.rs` counts the
            //   accesses beyond a binding in every kernel, over shapes at and around its tile edges
            //   and with every extreme value in the place of every index.
            unsafe {
                self.device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            }
        };
        let entries: Vec<_> = key
            .bindings
            .iter()
            .map(|&(binding, kind)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match kind {
                        BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        BindingKind::ReadWrite => {
                            wgpu::BufferBindingType::Storage { read_only: false }
                        }
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(key.kernel),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(key.kernel),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(key.kernel),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Ours do not count on it.
                zero_initialize_workgroup_memory: key.text.is_some(),
                ..Default::default()
            },
            cache: self.shared.cache.as_ref().map(|(cache, _)| cache),
        });
        Pipeline { pipeline, layout }
    }

    /// Writes the pipeline cache to disk. Failing to is no error: the next start is only slower.
    pub fn save_pipeline_cache(&self) {
        let Some((cache, path)) = &self.shared.cache else { return };
        let Some(data) = cache.get_data() else { return };
        if crate::files::kept(path).is_some_and(|known| known.len() == data.len()) {
            return;
        }
        crate::files::keep(path, &data, "pipeline cache");
    }
}

pub(super) fn open_cache(
    device: &wgpu::Device,
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
) -> Option<(wgpu::PipelineCache, PathBuf)> {
    if !features.contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let name = wgpu::util::pipeline_cache_key(info)?;
    let path =
        crate::files::cache_folder()?.join(format!("{name}_{}.bin", env!("CARGO_PKG_VERSION")));
    let data = crate::files::kept(&path);
    // SAFETY: the file was written by `save_pipeline_cache` from this driver's own data, in a folder that
    // only this user writes to, and is as it was written; `fallback` makes the driver start empty when its header does not match.
    let cache = unsafe {
        device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
            label: Some("modalign"),
            data: data.as_deref(),
            fallback: true,
        })
    };
    Some((cache, path))
}
