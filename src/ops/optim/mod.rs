//! Optimisers over flat arenas: Adam and AdamW, SGD with momentum, each with gradient zeroing and
//! optional clipping (by the global norm, by value) folded in. One dispatch an arena, however many
//! parameter groups it holds: what differs from group to group stands in a table of [`Row`]s that
//! the host writes before each step.

pub mod adam;
pub mod sgd;
pub mod square_sum;

use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Launch, Twin, grid};
use crate::tape::{Tape, Var};
use bytemuck::{Pod, Zeroable};
use square_sum::CHUNK;

/// What a step does with the parameters of a group, as `shaders/shared/optim.wgsl` has it. A table
/// of zeros, as a fresh one is, leaves every group as it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct Row {
    /// Of this group's steps, from 1. Where it is 0, values and gradients are left as they are.
    pub t: u32,
    /// Learning rate.
    pub lr: f32,
    /// L2 decay: so much of the value is added to the gradient.
    pub decay: f32,
    /// The value is multiplied by it first: 1, or 1 − lr · weight decay where that is decoupled.
    pub keep: f32,
    /// β₁; SGD's momentum.
    pub beta1: f32,
    /// 1 − β₁; SGD's 1 − dampening, and 1 in the first step.
    pub rest1: f32,
    /// β₂.
    pub beta2: f32,
    /// 1 − β₂.
    pub rest2: f32,
    /// 1 − β₁ᵗ.
    pub bias1: f32,
    /// 1 − β₂ᵗ.
    pub bias2: f32,
    /// ε.
    pub eps: f32,
    /// 1 where SGD looks ahead.
    pub nesterov: u32,
}

impl Row {
    /// Words of a row.
    pub const WORDS: usize = size_of::<Row>() / 4;
}

/// What an optimiser remembers of the gradients: which one it is.
#[derive(Clone, Copy, Debug)]
pub enum Moments {
    /// Adam and AdamW.
    Adam {
        /// First moments.
        m: Var,
        /// Second moments.
        v: Var,
    },
    /// SGD.
    Sgd {
        /// The momentum buffer; none where no group has momentum.
        momentum: Option<Var>,
    },
}

/// A flat arena of parameters, or a stretch of one, as tensors on a tape, all of one length, which
/// is a multiple of 4.
#[derive(Clone, Debug)]
pub struct ArenaVars {
    /// Values.
    pub value: Var,
    /// Accumulated gradients; zero after the step.
    pub grad: Var,
    /// The optimiser's memory.
    pub moments: Moments,
    /// The groups that lie in it, one behind the other: the element at which each ends, a multiple
    /// of 4, and its row in the table. What lies behind the last is left as it is.
    pub runs: Vec<(usize, usize)>,
}

/// How gradients are clipped before a step: all that it takes together by their norm, then each
/// element by its own value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clip {
    /// Largest global norm, as `torch.nn.utils.clip_grad_norm_` has it. Nothing is read back for it.
    pub norm: Option<f32>,
    /// Largest absolute value of an element, as `torch.nn.utils.clip_grad_value_` has it.
    pub value: Option<f32>,
}

impl Clip {
    /// By the global norm alone.
    pub fn norm(norm: f32) -> Self {
        Clip { norm: Some(norm), value: None }
    }

    /// By value alone.
    pub fn value(value: f32) -> Self {
        Clip { norm: None, value: Some(value) }
    }

    fn check(&self) -> Result<()> {
        for (what, bound) in [("norm", self.norm), ("value", self.value)] {
            if bound.is_some_and(|b| b.is_nan() || b <= 0.0) {
                let bound = bound.unwrap_or_default();
                let detail = format!("a largest {what} of {bound}; give one above 0, or none");
                return Err(Error::shape("optimize", detail));
            }
        }
        Ok(())
    }
}

/// `P` of both optimisers; see `shaders/shared/optim.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Words {
    n: u32,
    runs: u32,
    groups: u32,
    max_norm: f32,
    max_value: f32,
    pad: [u32; 3],
}

impl Words {
    fn new(n: usize, runs: usize, groups: usize, clip: Clip) -> Self {
        Words {
            n: n as u32,
            runs: runs as u32,
            groups: groups as u32,
            max_norm: clip.norm.unwrap_or_default(),
            max_value: clip.value.unwrap_or_default(),
            pad: [0; 3],
        }
    }

    fn list(self) -> Vec<u32> {
        bytemuck::cast_slice(&[self]).to_vec()
    }
}

impl Tape {
    /// One step of the optimisers over `arenas`: their gradients become steps and are zeroed. The
    /// settings of the groups are the rows of `table` `[groups, Row::WORDS]`, written before each
    /// replay; `S.grad_scale` is a factor on all gradients. With [`Clip::norm`], returns the square
    /// of the norm of all gradients before clipping, which can be kept and read.
    ///
    /// # Errors
    /// Tensors of other lengths; a table that is not whole rows; runs that do not lie one behind
    /// the other within the arena, or name no row; a bound that is not above 0.
    pub fn optimize(
        &mut self,
        arenas: &[ArenaVars],
        table: Var,
        clip: Clip,
    ) -> Result<Option<Var>> {
        clip.check()?;
        let groups = self.len(table) / Row::WORDS;
        if groups == 0 || self.len(table) != groups * Row::WORDS {
            let detail = format!("a table {:?}, not rows of {}", self.shape(table), Row::WORDS);
            return Err(Error::shape("optimize", detail));
        }
        arenas.iter().try_for_each(|arena| self.check_arena(arena, groups))?;
        if arenas.is_empty() {
            return Ok(None);
        }
        let norm = clip.norm.map(|_| self.squared_norm(arenas));
        for arena in arenas {
            let n = self.len(arena.value);
            let words = Words::new(n, arena.runs.len(), groups, clip).list();
            let defines = match clip.value {
                Some(_) => Defines::from([("MAX_VALUE", 1)]),
                None => Defines::new(),
            };
            let runs = runs(&arena.runs);
            let runs = self.constant("runs", &[runs.len()], bytemuck::cast_slice(&runs))?;
            let (runs, table) = (Some(runs), Some(table));
            let (value, grad) = (Some(arena.value), Some(arena.grad));
            match arena.moments {
                Moments::Adam { m, v } => {
                    let args = [value, grad, Some(m), Some(v), runs, table, norm];
                    self.call(&adam::ADAM, &args, words, defines, 15 * n as u64);
                }
                Moments::Sgd { momentum } => {
                    let flops = if momentum.is_some() { 9 } else { 5 };
                    let args = [value, grad, momentum, runs, table, norm];
                    self.call(&sgd::SGD, &args, words, defines, flops * n as u64);
                }
            }
        }
        Ok(norm)
    }

    fn check_arena(&self, arena: &ArenaVars, groups: usize) -> Result<()> {
        let fail = |detail: String| Err(Error::shape("optimize", detail));
        let n = self.len(arena.value);
        if !n.is_multiple_of(4) {
            return fail(format!("an arena of {n}, which is no multiple of 4"));
        }
        let others = match arena.moments {
            Moments::Adam { m, v } => [Some(arena.grad), Some(m), Some(v)],
            Moments::Sgd { momentum } => [Some(arena.grad), momentum, None],
        };
        if let Some(other) = others.into_iter().flatten().find(|o| self.len(*o) != n) {
            return fail(format!("{n} values beside a tensor of {}", self.len(other)));
        }
        let mut start = 0;
        for (end, group) in &arena.runs {
            if *end <= start || *end > n || end % 4 != 0 {
                return fail(format!("a run that ends at {end} of {n}, after one at {start}"));
            }
            if *group >= groups {
                return fail(format!("a run of group {group}, where there are {groups}"));
            }
            start = *end;
        }
        Ok(())
    }

    /// The square of the norm of all gradients of the arenas.
    fn squared_norm(&mut self, arenas: &[ArenaVars]) -> Var {
        let parts: Vec<usize> =
            arenas.iter().map(|a| (self.len(a.grad) / 4).div_ceil(CHUNK)).collect();
        let part = self.output("norm.parts", &[parts.iter().sum()], &[]);
        let norm = self.output("norm", &[1], &[]);
        let mut first = 0;
        for (arena, count) in arenas.iter().zip(&parts) {
            let n = self.len(arena.grad);
            let words = square_sum::words(n, CHUNK, first);
            let args = [Some(arena.grad), Some(part)];
            self.call(&square_sum::SQUARE_SUM, &args, words, Defines::new(), 2 * n as u64);
            first += count;
        }
        let (words, fold) = (square_sum::words(first, 0, 0), Defines::from([("FOLD", 1)]));
        let args = [Some(part), Some(norm)];
        self.call(&square_sum::SQUARE_SUM, &args, words, fold, first as u64);
        norm
    }
}

/// `RUNS`, word by word.
fn runs(list: &[(usize, usize)]) -> Vec<u32> {
    list.iter().flat_map(|(end, group)| [*end as u32, *group as u32]).collect()
}

/// The geometry of both optimisers.
fn launch(family: Family, words: &[u32], _: &Defines) -> Launch {
    // Invocations and quads of a workgroup.
    let (wg, share) = match family {
        Family::Tiled => (64, 64),
        Family::Wide(lanes) => (lanes, 1024),
        Family::Plain => (8, 1024),
    };
    Launch::of(grid(words[0] as usize / 4, share as usize))
        .with("WG", wg)
        .with("SHARE", share)
        .long()
        .iterations(u64::from(share / wg) + u64::from(words[1]))
}

/// What the twins share.
struct Call {
    n: usize,
    runs: Vec<(usize, Row)>,
    scale: f32,
    max_value: Option<f32>,
}

impl Call {
    /// From `P` and the bindings `RUNS`, `GROUPS` and `NORM`, which is the last.
    fn of(t: &Twin, [runs, groups, norm]: [usize; 3]) -> Self {
        let p: Words = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&t.words[..8]));
        let rows: &[Row] = bytemuck::cast_slice(t.words_of(groups));
        let runs = t.words_of(runs).chunks(2);
        let mut scale = t.step.grad_scale;
        if t.has(norm) {
            let share = p.max_norm / (scale * t.read(norm)[0].sqrt() + 1e-6);
            scale *= if share >= 1.0 { 1.0 } else { share };
        }
        Call {
            n: p.n as usize,
            runs: runs.map(|run| (run[0] as usize, rows[run[1] as usize])).collect(),
            scale,
            max_value: t.is("MAX_VALUE").then_some(p.max_value),
        }
    }

    /// Every element that is to be moved, with the row of its group.
    fn elements(&self) -> impl Iterator<Item = (usize, &Row)> {
        let starts = std::iter::once(0).chain(self.runs.iter().map(|(end, _)| *end));
        let runs = starts.zip(&self.runs).filter(|(_, (_, row))| row.t > 0);
        runs.flat_map(|(start, (end, row))| (start..*end.min(&self.n)).map(move |i| (i, row)))
    }

    /// A gradient, averaged and clipped.
    fn gradient(&self, grad: f32) -> f32 {
        let g = self.scale * grad;
        match self.max_value {
            Some(most) if g.abs() > most => most.copysign(g),
            _ => g,
        }
    }
}

/// `x`, or zero where it is not above `least`. NaN stays NaN.
fn above(x: f32, least: f32) -> f32 {
    if x.abs() <= least { 0.0 } else { x }
}
