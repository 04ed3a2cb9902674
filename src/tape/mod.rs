//! The recorder. An operation checks its shapes, appends its calls and remembers how to append
//! those of its gradient; nothing runs until the recording is planned and replayed.
//!
//! Operations live in [`ops`](crate::ops), one file per family, as methods of [`Tape`].

mod custom;
mod grad;

pub use custom::Custom;
pub use grad::Sink;

use crate::error::{Error, Result};
use crate::gpu::{Caps, Defines};
use crate::plan::{
    ALIGN_WORDS, Access, Binding, Call, Kernel, Place, Plan, Recording, SpaceId, Spaces, Stage,
    TensorId, TensorInfo, elements,
};
use grad::{GradState, Node};
use std::collections::HashMap;
use std::sync::Arc;

/// A tensor on a tape: an index, cheap to copy.
pub type Var = TensorId;

/// Records operations and their gradients.
///
/// A [`Var`] belongs to the tape that made it. One of another tape is found out wherever it is used:
/// its shape reads as `[]`, and the operation that was given it, [`backward`](Self::backward) and
/// [`plan`](Self::plan) say so.
#[derive(Default)]
pub struct Tape {
    recording: Recording,
    grads: Vec<GradState>,
    nodes: Vec<Arc<Node>>,
    stage: Option<Stage>,
    streams: u32,
    /// Parameters by where they are, so that one that is asked for twice is one variable.
    parameters: HashMap<(SpaceId, usize), Vec<Var>>,
    /// The first thing that went wrong where no error could be returned.
    fault: Option<(&'static str, String)>,
}

/// What stands in for a tensor of another tape.
static FOREIGN: TensorInfo = TensorInfo {
    name: String::new(),
    shape: Vec::new(),
    place: Place::Scratch,
    keep: false,
    half: false,
};

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    // ---- tensors ----------------------------------------------------------------------------

    fn push(&mut self, name: String, shape: &[usize], place: Place, wanted: bool) -> Var {
        if elements(shape) > u32::MAX as usize {
            self.fail("tensor", format!("'{name}' {shape:?} has more than 2^32 - 1 elements"));
        }
        if let Place::Space { offset, .. } = place
            && !offset.is_multiple_of(ALIGN_WORDS)
        {
            let detail = format!("'{name}' is to begin at word {offset}: want a multiple of 64");
            self.fail("tensor", detail);
        }
        self.grads.push(GradState { wanted, ..Default::default() });
        self.recording.add(TensorInfo::new(name, shape.to_vec(), place))
    }

    /// Remembers the first thing that went wrong where no error could be returned.
    fn fail(&mut self, op: &'static str, detail: String) {
        self.fault.get_or_insert((op, detail));
    }

    /// What went wrong earlier, if anything did.
    fn sound(&self) -> Result<()> {
        match &self.fault {
            Some((op, detail)) => Err(Error::shape(op, detail.clone())),
            None => Ok(()),
        }
    }

    /// Whether a tensor is this tape's. Where it is not, that is remembered.
    fn owns(&mut self, op: &'static str, var: Var) -> bool {
        let own = self.recording.has(var);
        if !own {
            self.fail(op, "it was given a tensor of another tape".into());
        }
        own
    }

    fn info(&self, var: Var) -> &TensorInfo {
        self.recording.get(var).unwrap_or(&FOREIGN)
    }

    /// A tensor in a persistent buffer: an input, a state. It has no gradient.
    /// `offset` is in words, a multiple of 64.
    pub fn input(&mut self, name: &str, shape: &[usize], space: SpaceId, offset: usize) -> Var {
        self.push(name.into(), shape, Place::Space { space, offset }, false)
    }

    /// A parameter: its value, and its gradient in a buffer that accumulates across micro-batches
    /// until the optimiser zeroes it. Without a gradient buffer it is frozen.
    ///
    /// Asked for once more, a parameter is the same variable (under another shape, a
    /// [`reshape`](Self::reshape) of it), so that layers that share one add to one gradient.
    pub fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        value: (SpaceId, usize),
        grad: Option<(SpaceId, usize)>,
    ) -> Var {
        self.placed_parameter(name, shape, value, grad, false)
    }

    fn placed_parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        value: (SpaceId, usize),
        grad: Option<(SpaceId, usize)>,
        half: bool,
    ) -> Var {
        let place = |(space, offset)| Place::Space { space, offset };
        let known = self.parameters.get(&value).into_iter().flatten().copied().find(|var| {
            let info = self.info(*var);
            let at = self.grads[var.index()].at.map(|at| self.info(at).place);
            info.half == half && info.len() == elements(shape) && at == grad.map(place)
        });
        if let Some(var) = known {
            return if self.shape(var) == shape { var } else { self.view(var, shape) };
        }
        let var = self.push(name.into(), shape, place(value), grad.is_some());
        self.recording.tensors[var.index()].half = half;
        self.parameters.entry(value).or_default().push(var);
        if let Some(at) = grad {
            let grad = self.push(format!("d.{name}"), shape, place(at), false);
            let state = &mut self.grads[var.index()];
            (state.at, state.written, state.lasting) = (Some(grad), true, true);
        }
        var
    }

    /// A frozen parameter stored by halves, two in a word from a multiple of 64 words on; see
    /// [`pack_halves`](crate::plan::pack_halves). It can be the weight of [`linear`](Self::linear)
    /// and of [`feed_forward`](Self::feed_forward); a plan that reads it elsewhere is refused.
    pub fn half_parameter(&mut self, name: &str, shape: &[usize], value: (SpaceId, usize)) -> Var {
        self.placed_parameter(name, shape, value, None, true)
    }

    /// A constant of f32 values, uploaded once.
    pub fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<Var> {
        if values.len() != elements(shape) {
            let detail = format!("{} values for shape {shape:?}", values.len());
            return Err(Error::shape("constant", detail));
        }
        let offset = self.recording.constants.len();
        self.recording.constants.extend(values.iter().map(|v| v.to_bits()));
        let padded = self.recording.constants.len().next_multiple_of(ALIGN_WORDS);
        self.recording.constants.resize(padded, 0);
        Ok(self.push(name.into(), shape, Place::Const { offset }, false))
    }

    /// A tensor that a call will write; its gradient is wanted if that of any of `from` is.
    pub fn output(&mut self, name: &str, shape: &[usize], from: &[Var]) -> Var {
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
            end = end.saturating_add(elements(shape));
            // A sum beyond all numbers stays there, and the plan refuses it.
            end = end.checked_next_multiple_of(ALIGN_WORDS).unwrap_or(usize::MAX);
        }
        self.recording.tensors[of.index()].shape = vec![end];
        (of, vars, starts)
    }

    /// One tensor over all of `vars`, and the word of it where each begins, so that a kernel that
    /// reads (or writes) many small tensors binds them once; `None` where they do not lie in one
    /// persistent buffer, or are stored by halves. Its length is a multiple of four, as that of every
    /// buffer is.
    pub(crate) fn cover(&mut self, vars: &[Var]) -> Option<(Var, Vec<u32>)> {
        let place = |v: &Var| match self.info(*v) {
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
        // A kernel that adds to what it covers must not meet the same memory twice.
        let twice = |i: usize| vars[..i].iter().any(|v| self.recording.overlap(*v, vars[i]));
        if places.iter().any(|p| p.0 != space) || (1..vars.len()).any(twice) {
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

    /// Extents of a tensor; none where it is of another tape.
    pub fn shape(&self, var: Var) -> &[usize] {
        &self.info(var).shape
    }

    /// Number of elements.
    pub fn len(&self, var: Var) -> usize {
        self.info(var).len()
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

    /// The same elements under another shape: a new variable over the same memory and the same
    /// gradient, whatever becomes of `var`. Costs nothing.
    ///
    /// # Errors
    /// A shape of another number of elements.
    pub fn reshape(&mut self, var: Var, shape: &[usize]) -> Result<Var> {
        if !self.owns("reshape", var) || self.len(var) != elements(shape) {
            self.sound()?;
            let detail = format!("{:?} does not have the elements of {shape:?}", self.shape(var));
            return Err(Error::shape("reshape", detail));
        }
        if self.shape(var) == shape {
            return Ok(var);
        }
        Ok(self.view(var, shape))
    }

    /// A variable over the memory of another one, with that one's gradient.
    fn view(&mut self, var: Var, shape: &[usize]) -> Var {
        let (name, place) = (self.info(var).name.clone(), self.place_of_view(var));
        let (half, root) = (self.info(var).half, self.root(var));
        let view = self.push(name, shape, place, false);
        self.recording.tensors[view.index()].half = half;
        self.grads[view.index()].root = Some(root);
        self.grads[root.index()].views.push(view);
        if let Some(at) = self.grads[root.index()].at {
            self.show_grad(view, at);
        }
        view
    }

    /// Where a view of a tensor lies.
    fn place_of_view(&self, var: Var) -> Place {
        match self.info(var).place {
            Place::Scratch => Place::Part { of: var, offset: 0 },
            place => place,
        }
    }

    /// Whether two variables are the same tensor: one variable, or two views of the same memory.
    /// An operation that takes the gradients of both in one dispatch asks this, not whether the
    /// variables are equal.
    pub fn same(&self, a: Var, b: Var) -> bool {
        let known = self.recording.has(a) && self.recording.has(b);
        a == b || (known && self.recording.memory(a) == self.recording.memory(b))
    }

    /// Keeps a tensor after its last use, so that it can be read when a replay has ended.
    pub fn keep(&mut self, var: Var) {
        if self.owns("keep", var) {
            self.recording.tensors[var.index()].keep = true;
        }
    }

    /// Names a tensor, for the printed plan.
    pub fn name(&mut self, var: Var, name: &str) {
        if self.owns("name", var) {
            self.recording.tensors[var.index()].name = name.into();
        }
    }

    /// The same values as a constant: no gradient goes through what is returned; `var` keeps its
    /// own. A tensor that a kernel writes is copied.
    ///
    /// # Errors
    /// A tensor of another tape.
    pub fn detach(&mut self, var: Var) -> Result<Var> {
        self.owns("detach", var);
        self.sound()?;
        let info = self.info(var).clone();
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

    /// Appends a kernel call. One that cannot be right (a tensor of another tape, a binding that is
    /// missing, memory that it writes and also reads or writes elsewhere) is remembered and refused
    /// by [`backward`](Self::backward) and [`plan`](Self::plan).
    pub(crate) fn call(
        &mut self,
        kernel: &'static Kernel,
        args: &[Option<Var>],
        words: Vec<u32>,
        defines: Defines,
        flops: u64,
    ) {
        let args = args.to_vec();
        let (stage, trusted) = (Stage::Forward, crate::ops::is_own(kernel));
        let call = Call { kernel, args, words, defines, flops, stage, trusted };
        if let Err(detail) = self.append(call) {
            self.fail(kernel.name, detail);
        }
    }

    /// Appends a call in the stage that is being recorded, or says what is wrong with it.
    fn append(&mut self, mut call: Call) -> Result<(), String> {
        self.check_call(call.kernel, &call.args)?;
        let is_half = |v: &Var| self.info(*v).half;
        let mut named = call.kernel.bindings.iter().zip(&call.args);
        if named.any(|(b, v)| b.half && v.as_ref().is_some_and(is_half)) {
            call.defines.insert("HALF", 1);
        }
        call.stage = self.stage.unwrap_or(call.stage);
        self.recording.calls.push(call);
        Ok(())
    }

    /// What is wrong with a call, if anything is.
    fn check_call(&self, kernel: &Kernel, args: &[Option<Var>]) -> Result<(), String> {
        let bindings = kernel.bindings;
        if args.len() != bindings.len() {
            return Err(format!("{} tensors for {} bindings", args.len(), bindings.len()));
        }
        let named = || bindings.iter().zip(args);
        if let Some((binding, _)) = named().find(|(b, arg)| arg.is_none() && !b.optional) {
            return Err(format!("binding {} must have a tensor", binding.name));
        }
        let given: Vec<(&Binding, Var)> =
            named().filter_map(|(b, arg)| Some((b, (*arg)?))).collect();
        if let Some((binding, _)) = given.iter().find(|(_, var)| !self.recording.has(*var)) {
            return Err(format!("binding {} was given a tensor of another tape", binding.name));
        }
        for (i, (binding, var)) in given.iter().enumerate() {
            let writes = |b: &Binding| b.access == Access::Write;
            // WebGPU has a buffer either read or written by a dispatch, all of it; what is written
            // may be two parts of a buffer, as long as they are apart.
            let clash = given[..i].iter().find(|(other, with)| {
                let one_buffer = self.recording.memory(*var).0 == self.recording.memory(*with).0;
                let overlap = self.recording.overlap(*var, *with);
                let both = writes(binding) && writes(other);
                one_buffer && (writes(binding) || writes(other)) && (overlap || !both)
            });
            if let Some((other, with)) = clash {
                let what = if self.recording.overlap(*var, *with) { "memory" } else { "buffer" };
                return Err(format!(
                    "bindings {} ('{}') and {} ('{}') are the same {what}, and it is written: \
                     give one of them a copy (scale by 1)",
                    other.name,
                    self.info(*with).name,
                    binding.name,
                    self.info(*var).name,
                ));
            }
            let constant = matches!(self.info(*var).place, Place::Const { .. });
            if writes(binding) && constant {
                return Err(format!("binding {} is written, and is a constant", binding.name));
            }
        }
        Ok(())
    }

    /// Calls recorded inside `body` belong to `stage`.
    pub fn in_stage<T>(&mut self, stage: Stage, body: impl FnOnce(&mut Tape) -> T) -> T {
        let before = self.stage.replace(stage);
        let result = body(self);
        self.stage = before;
        result
    }

    /// Whether gradients are being recorded: a checkpoint then records its body once more.
    pub(crate) fn in_backward(&self) -> bool {
        self.stage == Some(Stage::Backward)
    }

    // ---- the end ----------------------------------------------------------------------------

    /// The recording so far.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Fits the recording to an adapter.
    ///
    /// # Errors
    /// As [`Plan::new`]: a tensor or a dispatch that the adapter cannot hold; and what went wrong
    /// while recording where no error could be returned.
    pub fn plan(self, caps: &Caps) -> Result<Plan> {
        self.sound()?;
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
