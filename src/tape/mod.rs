//! The recorder. An operation checks its shapes, appends its calls and remembers how to append
//! those of its gradient; nothing runs until the recording is planned and replayed.
//!
//! Operations live in [`ops`](crate::ops), one file per family, as methods of [`Tape`].

use crate::error::{Error, Result};
use crate::gpu::{Caps, Defines};
use crate::ops::elementwise::Unary;
use crate::plan::{
    Access, Call, Kernel, Place, Plan, Recording, SpaceId, Spaces, Stage, TensorId, TensorInfo,
};

/// A tensor on a tape: an index, cheap to copy.
pub type Var = TensorId;

type Backward = Box<dyn FnOnce(&mut Tape) -> Result<()>>;

struct Node {
    outputs: Vec<Var>,
    backward: Backward,
}

#[derive(Clone, Default)]
struct GradState {
    wanted: bool,
    /// Where the gradient goes; made on first use for scratch tensors.
    at: Option<Var>,
    /// Whether something has been added already.
    written: bool,
}

/// Where a gradient is to be written: the tensor, and whether to add to what is there.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// The gradient tensor.
    pub var: Var,
    /// 1 to add, 0 to overwrite; goes into the kernel's words.
    pub accumulate: u32,
}

/// Records operations and their gradients.
#[derive(Default)]
pub struct Tape {
    recording: Recording,
    grads: Vec<GradState>,
    nodes: Vec<Node>,
    stage: Option<Stage>,
    streams: u32,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    // ---- tensors ----------------------------------------------------------------------------

    fn push(&mut self, name: String, shape: &[usize], place: Place, wanted: bool) -> Var {
        self.recording.tensors.push(TensorInfo::new(name, shape.to_vec(), place));
        self.grads.push(GradState { wanted, ..Default::default() });
        TensorId(self.recording.tensors.len() as u32 - 1)
    }

    /// A tensor in a persistent buffer: an input, a state. It has no gradient.
    /// `offset` is in words, a multiple of 64.
    pub fn input(&mut self, name: &str, shape: &[usize], space: SpaceId, offset: usize) -> Var {
        self.push(name.into(), shape, Place::Space { space, offset }, false)
    }

    /// A parameter: its value, and its gradient in a buffer that accumulates across micro-batches
    /// until the optimiser zeroes it. Without a gradient buffer it is frozen.
    pub fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        value: (SpaceId, usize),
        grad: Option<(SpaceId, usize)>,
    ) -> Var {
        let place = |(space, offset)| Place::Space { space, offset };
        let var = self.push(name.into(), shape, place(value), grad.is_some());
        if let Some(at) = grad {
            let grad = self.push(format!("d.{name}"), shape, place(at), false);
            self.grads[var.index()].at = Some(grad);
            self.grads[var.index()].written = true;
        }
        var
    }

    /// A frozen parameter stored by halves, two in a word from a multiple of 64 words on; see
    /// [`pack_halves`](crate::plan::pack_halves). It can be the weight of [`linear`](Self::linear)
    /// and of [`feed_forward`](Self::feed_forward); a plan that reads it elsewhere is refused.
    pub fn half_parameter(&mut self, name: &str, shape: &[usize], value: (SpaceId, usize)) -> Var {
        let var = self.parameter(name, shape, value, None);
        self.recording.tensors[var.index()].half = true;
        var
    }

    /// A constant of f32 values, uploaded once.
    pub fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<Var> {
        if values.len() != crate::plan::elements(shape) {
            let detail = format!("{} values for shape {shape:?}", values.len());
            return Err(Error::shape("constant", detail));
        }
        let offset = self.recording.constants.len();
        self.recording.constants.extend(values.iter().map(|v| v.to_bits()));
        let padded = self.recording.constants.len().next_multiple_of(crate::plan::ALIGN_WORDS);
        self.recording.constants.resize(padded, 0);
        Ok(self.push(name.into(), shape, Place::Const { offset }, false))
    }

    /// A tensor that a kernel will write; its gradient is wanted if that of any of `from` is.
    pub(crate) fn output(&mut self, name: &str, shape: &[usize], from: &[Var]) -> Var {
        let wanted = from.iter().any(|v| self.wants_grad(*v));
        self.push(name.into(), shape, Place::Scratch, wanted)
    }

    /// Several tensors in one buffer, so that a kernel that writes them all binds it once: the whole,
    /// the parts (name, shape, and what decides whether a gradient is wanted), and the word where
    /// each begins. A part is used like any other tensor.
    pub(crate) fn parts(
        &mut self,
        name: &str,
        list: &[(&str, Vec<usize>, Vec<Var>)],
    ) -> (Var, Vec<Var>, Vec<u32>) {
        let of = self.push(name.into(), &[0], Place::Scratch, false);
        let (mut end, mut vars, mut starts) = (0, Vec::new(), Vec::new());
        for (name, shape, from) in list {
            let wanted = from.iter().any(|v| self.wants_grad(*v));
            vars.push(self.push((*name).into(), shape, Place::Part { of, offset: end }, wanted));
            starts.push(end as u32);
            end += crate::plan::elements(shape);
            end = end.next_multiple_of(crate::plan::ALIGN_WORDS);
        }
        self.recording.tensors[of.index()].shape = vec![end];
        (of, vars, starts)
    }

    /// One tensor over all of `vars`, and the word of it where each begins, so that a kernel that
    /// reads (or writes) many small tensors binds them once; `None` where they do not lie in one
    /// persistent buffer, or are stored by halves. Its length is a multiple of four, as that of every
    /// buffer is.
    pub(crate) fn cover(&mut self, vars: &[Var]) -> Option<(Var, Vec<u32>)> {
        let place = |v: &Var| match &self.recording.tensors[v.index()] {
            info if info.half => None,
            TensorInfo { place: Place::Space { space, offset }, .. } => {
                Some((Some(*space), *offset))
            }
            TensorInfo { place: Place::Const { offset }, .. } => Some((None, *offset)),
            _ => None,
        };
        let places: Vec<_> = vars.iter().map(place).collect::<Option<_>>()?;
        let (space, _) = *places.first()?;
        let first = places.iter().map(|p| p.1).min()?;
        let end =
            places.iter().zip(vars).map(|(p, v)| p.1 + self.len(*v)).max()?.next_multiple_of(4);
        if places.iter().any(|p| p.0 != space) {
            return None;
        }
        let place = match space {
            Some(space) => Place::Space { space, offset: first },
            None => Place::Const { offset: first },
        };
        let name = format!("{}..", self.recording.tensors[vars[0].index()].name);
        let whole = self.push(name, &[end - first], place, false);
        Some((whole, places.iter().map(|p| (p.1 - first) as u32).collect()))
    }

    /// The same of the gradients of `vars`: `None` as well where one of them is not wanted, or is
    /// not yet there to be added to.
    pub(crate) fn cover_grads(&mut self, vars: &[Var]) -> Option<(Var, Vec<u32>)> {
        let wanted = vars.iter().filter(|v| self.wants_grad(**v));
        let grads: Vec<Var> = wanted.filter_map(|v| self.grad(*v)).collect();
        if grads.len() == vars.len() { self.cover(&grads) } else { None }
    }

    /// Extents of a tensor.
    pub fn shape(&self, var: Var) -> &[usize] {
        &self.recording.tensors[var.index()].shape
    }

    /// Number of elements.
    pub fn len(&self, var: Var) -> usize {
        self.recording.tensors[var.index()].len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.recording.calls.is_empty()
    }

    /// The extents as a matrix: the last one is the columns, all before it the rows.
    pub fn rows_cols(&self, var: Var) -> (usize, usize) {
        let shape = self.shape(var);
        let cols = shape.last().copied().unwrap_or(1);
        (self.len(var) / cols.max(1), cols)
    }

    /// The same elements under another shape; costs nothing.
    pub fn reshape(&mut self, var: Var, shape: &[usize]) -> Result<Var> {
        if self.len(var) != crate::plan::elements(shape) {
            let detail = format!("{:?} does not have the elements of {shape:?}", self.shape(var));
            return Err(Error::shape("reshape", detail));
        }
        // A view would complicate liveness and gradients; a new shape on the tensor does not,
        // because kernels take their sizes from words.
        self.recording.tensors[var.index()].shape = shape.to_vec();
        if let Some(grad) = self.grads[var.index()].at {
            self.recording.tensors[grad.index()].shape = shape.to_vec();
        }
        Ok(var)
    }

    /// Keeps a tensor after its last use, so that it can be read when a replay has ended.
    pub fn keep(&mut self, var: Var) {
        self.recording.tensors[var.index()].keep = true;
    }

    /// Names a tensor, for the printed plan.
    pub fn name(&mut self, var: Var, name: &str) {
        self.recording.tensors[var.index()].name = name.into();
    }

    /// The same values as a constant: no gradient goes through what is returned; `var` keeps its
    /// own. A tensor that a kernel writes is copied.
    pub fn detach(&mut self, var: Var) -> Result<Var> {
        let info = self.recording.tensors[var.index()].clone();
        match info.place {
            Place::Scratch | Place::Part { .. } if !self.wants_grad(var) => Ok(var),
            Place::Scratch | Place::Part { .. } => {
                let copy = self.scale(var, 1.0)?;
                self.grads[copy.index()].wanted = false;
                Ok(copy)
            }
            place => {
                let copy = self.push(info.name, &info.shape, place, false);
                self.recording.tensors[copy.index()].half = info.half;
                Ok(copy)
            }
        }
    }

    /// A number that tells this tape's random streams apart.
    pub(crate) fn next_stream(&mut self) -> u32 {
        self.streams += 1;
        self.streams
    }

    // ---- calls ------------------------------------------------------------------------------

    /// Appends a kernel call.
    pub(crate) fn call(
        &mut self,
        kernel: &'static Kernel,
        args: &[Option<Var>],
        words: Vec<u32>,
        mut defines: Defines,
        flops: u64,
    ) {
        let is_half = |v: &Var| self.recording.tensors[v.index()].half;
        if kernel.bindings.iter().zip(args).any(|(b, v)| b.half && v.as_ref().is_some_and(is_half))
        {
            defines.insert("HALF", 1);
        }
        debug_assert_eq!(args.len(), kernel.bindings.len(), "{}", kernel.name);
        self.recording.calls.push(Call {
            kernel,
            args: args.to_vec(),
            words,
            defines,
            flops,
            stage: self.stage.unwrap_or(Stage::Forward),
            trusted: crate::ops::is_own(kernel),
        });
    }

    /// Calls recorded inside `body` belong to `stage`.
    pub fn in_stage<T>(&mut self, stage: Stage, body: impl FnOnce(&mut Tape) -> T) -> T {
        let before = self.stage.replace(stage);
        let result = body(self);
        self.stage = before;
        result
    }

    // ---- gradients --------------------------------------------------------------------------

    /// Whether a gradient of `var` is wanted.
    pub fn wants_grad(&self, var: Var) -> bool {
        self.grads[var.index()].wanted
    }

    /// Asks for the gradient of a tensor that is not a parameter; for tests and inspection.
    pub fn watch(&mut self, var: Var) {
        self.grads[var.index()].wanted = true;
    }

    /// Remembers how to append the gradient of what was just recorded. `outputs` are the tensors
    /// whose gradients it reads; it is skipped where none of them got one.
    pub(crate) fn on_backward(
        &mut self,
        outputs: &[Var],
        backward: impl FnOnce(&mut Tape) -> Result<()> + 'static,
    ) {
        if outputs.iter().any(|o| self.wants_grad(*o)) {
            self.nodes.push(Node { outputs: outputs.to_vec(), backward: Box::new(backward) });
        }
    }

    /// Records `body`, a function of `x`, so that nothing of it but `x` is kept for the backward:
    /// there it is recorded once more, with the same random numbers, and its gradient follows.
    /// One more forward of `body` for the memory of everything inside it (gradient checkpointing,
    /// arXiv:1604.06174). Whatever else `body` uses must outlive the forward: parameters, inputs.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn checkpoint(
        &mut self,
        x: Var,
        body: impl Fn(&mut Tape, Var) -> Result<Var> + 'static,
    ) -> Result<Var> {
        let (nodes, streams) = (self.nodes.len(), self.streams);
        let y = body(self, x)?;
        self.nodes.truncate(nodes);
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            // backward() holds the nodes that are still to come; these are the body's own.
            let later = std::mem::replace(&mut tape.streams, streams);
            let again = body(tape, x)?;
            tape.streams = later;
            let state = &mut tape.grads[again.index()];
            (state.at, state.written) = (Some(dy), true);
            tape.unwind()
        });
        Ok(y)
    }

    /// Appends the gradients of all nodes, last first.
    fn unwind(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            if node.outputs.iter().any(|o| self.grad(*o).is_some()) {
                (node.backward)(self)?;
            }
        }
        Ok(())
    }

    /// The gradient of `var`, once something has contributed to it.
    pub fn grad(&self, var: Var) -> Option<Var> {
        let state = &self.grads[var.index()];
        if state.written { state.at } else { None }
    }

    /// Where to add a contribution to the gradient of `var`; `None` where it is not wanted.
    pub(crate) fn sink(&mut self, var: Var) -> Option<Sink> {
        if !self.wants_grad(var) {
            return None;
        }
        let accumulate = u32::from(self.grads[var.index()].written);
        let is_const =
            |at: Var| matches!(self.recording.tensors[at.index()].place, Place::Const { .. });
        let at = match self.grads[var.index()].at {
            // A loss that others are made of: its own share is a constant, which is only read.
            Some(seed) if is_const(seed) => {
                let at = self.unary("d.loss", seed, Unary::Scale, 1.0);
                self.grads[var.index()].at = Some(at);
                at
            }
            Some(at) => at,
            None => {
                let info = &self.recording.tensors[var.index()];
                let (name, shape) = (format!("d.{}", info.name), info.shape.clone());
                let at = self.push(name, &shape, Place::Scratch, false);
                self.grads[var.index()].at = Some(at);
                at
            }
        };
        self.grads[var.index()].written = true;
        Some(Sink { var: at, accumulate })
    }

    /// Appends the gradient of the sum of `losses` (each a single number) with respect to every
    /// parameter that they depend on.
    ///
    /// # Errors
    /// A loss of more than one element.
    pub fn backward(&mut self, losses: &[Var]) -> Result<()> {
        for loss in losses {
            if self.len(*loss) != 1 {
                let detail = format!("a loss is one number, this one is {:?}", self.shape(*loss));
                return Err(Error::shape("backward", detail));
            }
            let times = losses.iter().filter(|l| *l == loss).count();
            let seed = self.constant("seed", &[1], &[times as f32])?;
            let state = &mut self.grads[loss.index()];
            if state.wanted {
                (state.at, state.written) = (Some(seed), true);
            }
        }
        let first = self.recording.calls.len();
        self.in_stage(Stage::Backward, Tape::unwind)?;
        // The seed of a loss is a constant: a loss that another one is made of would add to it.
        let tensors = &self.recording.tensors;
        let seed_written = self.recording.calls[first..].iter().any(|call| {
            let bindings = call.kernel.bindings.iter().zip(&call.args);
            bindings.filter(|(b, _)| b.access == Access::Write).any(|(_, arg)| {
                arg.is_some_and(|a| matches!(tensors[a.index()].place, Place::Const { .. }))
            })
        });
        if seed_written {
            let detail = "one of the losses is made of another: add them up, and give the sum";
            return Err(Error::shape("backward", detail));
        }
        Ok(())
    }

    // ---- the end ----------------------------------------------------------------------------

    /// The recording so far.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Fits the recording to an adapter.
    ///
    /// # Errors
    /// As [`Plan::new`]: a tensor or a dispatch that the adapter cannot hold.
    pub fn plan(self, caps: &Caps) -> Result<Plan> {
        Plan::new(self.recording, caps)
    }

    /// Plans, allocates and prepares in one go; for small programs and tests.
    pub fn compile(
        self,
        gpu: &crate::Gpu,
        spaces: &Spaces,
    ) -> Result<(crate::plan::Program, crate::plan::Memory)> {
        let memory = crate::plan::Memory::allocate(gpu, spaces)?;
        let program =
            self.plan(gpu.caps())?.prepare(gpu, &memory, &mut crate::plan::Pool::new())?;
        Ok((program, memory))
    }
}
