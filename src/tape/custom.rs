//! Operations written outside the crate.

use super::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Call, Kernel, Stage};

/// A call of a kernel of one's own, for [`Tape::custom`].
pub struct Custom<'a> {
    kernel: &'static Kernel,
    args: &'a [Option<Var>],
    words: Vec<u32>,
    defines: Defines,
    flops: u64,
}

impl<'a> Custom<'a> {
    /// A call of `kernel` with a tensor for each of its bindings; optional ones may be `None`.
    pub fn new(kernel: &'static Kernel, args: &'a [Option<Var>]) -> Self {
        Custom { kernel, args, words: Vec::new(), defines: Defines::new(), flops: 0 }
    }

    /// The kernel's uniform `P`, word by word.
    pub fn words(self, words: impl Into<Vec<u32>>) -> Self {
        Custom { words: words.into(), ..self }
    }

    /// A name and value for the preprocessor.
    pub fn define(mut self, name: &'static str, value: u32) -> Self {
        self.defines.insert(name, value);
        self
    }

    /// Floating-point operations, for accounts and timings.
    pub fn flops(self, flops: u64) -> Self {
        Custom { flops, ..self }
    }
}

impl Tape {
    /// Appends a call of a kernel that this crate does not have: the way to an operation of one's
    /// own. Its results are tensors from [`output`](Self::output); its gradient is given to
    /// [`on_backward`](Self::on_backward), which asks [`grad`](Self::grad) for what flows in and
    /// [`sink`](Self::sink) for where to write what flows out, and calls `custom` again.
    ///
    /// The kernel's text is compiled with bounds checks, which this crate's own do without, because
    /// nobody here has seen it. `examples/custom_op.rs` has an operation with its gradient and the
    /// tests that this crate's operations go through.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) for a number of tensors that is not the kernel's number of bindings, a
    /// binding left out that is not optional, a tensor of another tape, and memory that the call
    /// writes and also has under another binding.
    pub fn custom(&mut self, call: Custom) -> Result<()> {
        let Custom { kernel, args, words, defines, flops } = call;
        // Nobody here has checked the words, so that one of this crate's kernels is not trusted either.
        let (args, stage, trusted) = (args.to_vec(), Stage::Forward, false);
        self.append(Call { kernel, args, words, defines, flops, stage, trusted })
            .map_err(|detail| Error::shape(kernel.name, detail))?;
        self.sound()
    }
}
