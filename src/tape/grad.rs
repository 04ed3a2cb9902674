//! Gradients: what remembers how to append them, where they go, and the walk back.

use super::{Tape, Var};
use crate::error::{Error, Result};
use crate::ops::elementwise::{Unary, add_scaled};
use crate::plan::{Place, Stage};
use std::sync::Arc;

type Backward = Box<dyn Fn(&mut Tape) -> Result<()> + Send + Sync>;

/// An operation's way back.
pub(super) struct Node {
    outputs: Vec<Var>,
    backward: Backward,
}

/// What is known of a variable's gradient. Views have that of their root.
#[derive(Clone, Default)]
pub(super) struct GradState {
    pub(super) wanted: bool,
    /// Where the gradient goes, in the variable's own shape; made on first use for scratch tensors.
    pub(super) at: Option<Var>,
    /// Whether something has been added already.
    pub(super) written: bool,
    /// Whether it lives in a persistent buffer, to which every backward adds.
    pub(super) lasting: bool,
    /// Whether it was asked for although the variable is no parameter.
    pub(super) watched: bool,
    /// Whose memory and gradient this variable is a view of.
    pub(super) root: Option<Var>,
    /// The views of this one.
    pub(super) views: Vec<Var>,
}

/// Where a gradient is to be written: the tensor, and whether to add to what is there.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// The gradient tensor.
    pub var: Var,
    /// 1 to add, 0 to overwrite; goes into the kernel's words.
    pub accumulate: u32,
}

impl Tape {
    /// The variable whose memory and gradient another one has: itself, if it is no view.
    pub(super) fn root(&self, var: Var) -> Var {
        self.grads[var.index()].root.unwrap_or(var)
    }

    /// Whether a gradient of `var` is wanted.
    pub fn wants_grad(&self, var: Var) -> bool {
        self.recording.has(var) && self.grads[self.root(var).index()].wanted
    }

    /// Asks for the gradient of a tensor that is not a parameter; for tests and inspection. Where
    /// [`backward`](Self::backward) is called several times, it is the sum of what each of them gave.
    pub fn watch(&mut self, var: Var) {
        if self.owns("watch", var) {
            let root = self.root(var);
            let state = &mut self.grads[root.index()];
            (state.wanted, state.watched) = (true, true);
        }
    }

    /// Remembers how to append the gradient of what was just recorded. `outputs` are the tensors
    /// whose gradients it reads; it is skipped where none of them got one. It runs once for every
    /// [`backward`](Self::backward) that reaches it.
    pub fn on_backward(
        &mut self,
        outputs: &[Var],
        backward: impl Fn(&mut Tape) -> Result<()> + Send + Sync + 'static,
    ) {
        if outputs.iter().any(|o| self.wants_grad(*o)) {
            let (outputs, backward) = (outputs.to_vec(), Box::new(backward));
            self.nodes.push(Arc::new(Node { outputs, backward }));
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
        body: impl Fn(&mut Tape, Var) -> Result<Var> + Send + Sync + 'static,
    ) -> Result<Var> {
        let (nodes, streams) = (self.nodes.len(), self.streams);
        let y = body(self, x)?;
        self.nodes.truncate(nodes);
        self.on_backward(&[y], move |tape| {
            let Some(dy) = tape.grad(y) else { return Ok(()) };
            let (first, later) = (tape.nodes.len(), std::mem::replace(&mut tape.streams, streams));
            let again = body(tape, x)?;
            tape.streams = later;
            let root = tape.root(again);
            let shape = tape.shape(root).to_vec();
            let dy = if root == again { dy } else { tape.view(dy, &shape) };
            tape.place_grad(root, dy);
            tape.grads[root.index()].written = true;
            let unwound = tape.unwind(first);
            tape.nodes.truncate(first);
            unwound
        });
        Ok(y)
    }

    /// Appends the gradients of the nodes from `first` on, last first.
    fn unwind(&mut self, first: usize) -> Result<()> {
        for at in (first..self.nodes.len()).rev() {
            let node = self.nodes[at].clone();
            if node.outputs.iter().any(|o| self.grad(*o).is_some()) {
                (node.backward)(self)?;
            }
        }
        Ok(())
    }

    /// The gradient of `var`, once something has contributed to it.
    pub fn grad(&self, var: Var) -> Option<Var> {
        let own = self.recording.has(var) && self.grads[self.root(var).index()].written;
        if own { self.grads[var.index()].at } else { None }
    }

    /// Says where the gradient of a variable is, and with it those of its views.
    fn place_grad(&mut self, root: Var, at: Var) {
        self.grads[root.index()].at = Some(at);
        for view in self.grads[root.index()].views.clone() {
            self.show_grad(view, at);
        }
    }

    /// Gives a view its root's gradient, in its own shape.
    pub(super) fn show_grad(&mut self, view: Var, at: Var) {
        let (shape, place) = (self.shape(view).to_vec(), self.place_of_view(at));
        let name = self.info(at).name.clone();
        let shown = self.push(name, &shape, place, false);
        self.grads[view.index()].at = Some(shown);
    }

    /// Where to add a contribution to the gradient of `var`; `None` where it is not wanted. What is
    /// returned must be written by the next call: it counts as written from here on.
    pub fn sink(&mut self, var: Var) -> Option<Sink> {
        if !self.wants_grad(var) {
            return None;
        }
        let root = self.root(var);
        let accumulate = u32::from(self.grads[root.index()].written);
        let is_const = |tape: &Tape, at: Var| matches!(tape.info(at).place, Place::Const { .. });
        match self.grads[root.index()].at {
            // A loss that others are made of: its own share is a constant, which is only read.
            Some(seed) if is_const(self, seed) => {
                let at = self.unary("d.loss", seed, Unary::Scale, 1.0);
                self.place_grad(root, at);
            }
            Some(_) => {}
            None => {
                let info = self.info(root);
                let (name, shape) = (format!("d.{}", info.name), info.shape.clone());
                let at = self.push(name, &shape, Place::Scratch, false);
                self.place_grad(root, at);
            }
        }
        self.grads[root.index()].written = true;
        self.grads[var.index()].at.map(|at| Sink { var: at, accumulate })
    }

    /// Appends the gradient of the sum of `losses` (each a single number) with respect to every
    /// parameter that they depend on. Called again, it adds to the gradients of the parameters and
    /// of the [watched](Self::watch) tensors, as PyTorch's `backward(retain_graph=True)` does.
    ///
    /// # Errors
    /// A loss of more than one element, or of another tape; whatever went wrong while recording.
    pub fn backward(&mut self, losses: &[Var]) -> Result<()> {
        self.sound()?;
        for loss in losses {
            self.owns("backward", *loss);
            self.sound()?;
            if self.len(*loss) != 1 {
                let detail = format!("a loss is one number, this one is {:?}", self.shape(*loss));
                return Err(Error::shape("backward", detail));
            }
        }
        // Every walk starts without the gradients of the one before. Those that last are added to;
        // those that are watched are put aside and added when this walk has ended.
        let mut aside: Vec<(Var, Var)> = Vec::new();
        for at in 0..self.grads.len() {
            let var = self.recording.at(at);
            let state = &mut self.grads[at];
            if state.lasting || state.root.is_some() {
                continue;
            }
            if let (true, true, Some(grad)) = (state.watched, state.written, state.at) {
                aside.push((var, grad));
            }
            (state.at, state.written) = (None, false);
        }
        let mut roots: Vec<Var> = losses.iter().map(|loss| self.root(*loss)).collect();
        roots.sort_unstable();
        for same in roots.chunk_by(|a, b| a == b) {
            let (root, times) = (same[0], same.len() as f32);
            let seed = self.constant("seed", &[1], &[times])?;
            match &self.grads[root.index()] {
                state if !state.wanted => {}
                // A parameter that is a loss itself.
                state if state.lasting => self.in_stage(Stage::Backward, |tape| {
                    if let Some(sink) = tape.sink(root) {
                        add_scaled(tape, seed, 1, 1.0, sink);
                    }
                }),
                _ => {
                    self.place_grad(root, seed);
                    self.grads[root.index()].written = true;
                }
            }
        }
        self.in_stage(Stage::Backward, |tape| {
            tape.unwind(0)?;
            for (var, before) in aside {
                if tape.grads[var.index()].written {
                    let len = tape.len(var);
                    if let Some(sink) = tape.sink(var) {
                        add_scaled(tape, before, len, 1.0, sink);
                    }
                } else {
                    tape.place_grad(var, before);
                    tape.grads[var.index()].written = true;
                }
            }
            Ok(())
        })?;
        self.sound()
    }
}
