//! Axes in another order.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, Twin, grid};
use crate::tape::{Sink, Tape, Var};

/// `Y (+)= X` with its axes in another order; see `shaders/permute.wgsl`.
pub static PERMUTE: Kernel = Kernel {
    name: "permute",
    source: include_str!("../../shaders/permute.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y").adds(1)],
    step: false,
    launch,
    twin: reference::permute,
    cases,
};

/// Most axes of a permuted tensor.
const MOST: usize = 6;

/// From which extents of both axes on a transposition goes through tiles.
const TILED_FROM: u32 = 16;

fn launch(family: Family, words: &[u32], defines: &Defines) -> Launch {
    let [n, inner, last, apart] = [0, 2, 4, 12].map(|i| words[i]);
    let rank = defines.get("RANK").copied().unwrap_or(1);
    let across = words[4 + inner as usize];
    if family.tiled() && inner > 0 && last.min(across) >= TILED_FROM {
        let extents = (0..rank).map(|d| {
            let wide = if d == 0 || d == inner { 32 } else { 1 };
            words[4 + d as usize].div_ceil(wide) as usize
        });
        return Launch::of(grid(extents.product(), 1)).with("TILE", 1);
    }
    let by_four = last.is_multiple_of(4);
    let launch = Launch::of(grid(n as usize, if by_four { 256 } else { 64 }));
    match (by_four, apart) {
        (true, 1) => launch.with("VEC", 1).with("INNER", 1),
        (true, _) => launch.with("VEC", 1),
        _ => launch,
    }
}

/// A permutation as the kernel takes it: the fewest axes that say the same, those of the result,
/// the last one first, each with its extent and its stride in the source.
#[derive(Clone, Debug, PartialEq)]
struct Moves(Vec<(usize, usize)>);

impl Moves {
    /// Axis i of the result is axis `axes[i]` of a source of `shape`.
    fn new(shape: &[usize], axes: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d] * shape[d];
        }
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for axis in axes.iter().rev() {
            let (extent, stride) = (shape[*axis], strides[*axis]);
            match merged.last_mut() {
                _ if extent == 1 => {}
                // It goes on where the one inside it ends.
                Some((inner, apart)) if stride == *inner * *apart => *inner *= extent,
                _ => merged.push((extent, stride)),
            }
        }
        if merged.is_empty() {
            merged.push((1, 1));
        }
        Moves(merged)
    }

    fn words(&self, accumulate: u32) -> Vec<u32> {
        let n: usize = self.0.iter().map(|(extent, _)| extent).product();
        let inner = self.0.iter().position(|(_, stride)| *stride == 1).unwrap_or(0);
        let mut words = sizes(&[n, accumulate as usize, inner, 0]);
        let (extents, strides): (Vec<_>, Vec<_>) = self.0.iter().copied().unzip();
        for (list, rest) in [(extents, 1), (strides, 0)] {
            words.extend(sizes(&list));
            words.resize(words.len() + 8 - list.len(), rest);
        }
        words
    }

    fn defines(&self) -> Defines {
        [("RANK", self.0.len() as u32)].into_iter().collect()
    }

    fn record(&self, tape: &mut Tape, from: Var, to: Sink) {
        let args = [Some(from), Some(to.var)];
        tape.call(&PERMUTE, &args, self.words(to.accumulate), self.defines(), 0);
    }
}

impl Tape {
    /// The axes of `x` in another order: axis i of the result is axis `axes[i]` of `x`, as
    /// PyTorch's `permute` has it. The elements are copied; up to six axes.
    ///
    /// # Errors
    /// More than six axes; `axes` that do not name each axis once.
    pub fn permute(&mut self, x: Var, axes: &[usize]) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        let each_once = (0..shape.len()).all(|d| axes.contains(&d)) && axes.len() == shape.len();
        if !each_once || shape.len() > MOST {
            let detail = format!("{shape:?} by {axes:?}: want each of up to {MOST} axes once");
            return Err(Error::shape("permute", detail));
        }
        self.moved("permute", x, axes)
    }

    /// `x` with axes `i` and `j` exchanged.
    ///
    /// # Errors
    /// More than six axes; an axis that is not there.
    pub fn transpose(&mut self, x: Var, i: usize, j: usize) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        if i.max(j) >= shape.len() || shape.len() > MOST {
            let detail = format!("{shape:?}, axes {i} and {j}: want two of up to {MOST} axes");
            return Err(Error::shape("transpose", detail));
        }
        let mut axes: Vec<usize> = (0..shape.len()).collect();
        axes.swap(i, j);
        self.moved("transpose", x, &axes)
    }

    fn moved(&mut self, name: &'static str, x: Var, axes: &[usize]) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        let after: Vec<usize> = axes.iter().map(|axis| shape[*axis]).collect();
        let mut back = vec![0; axes.len()];
        for (i, axis) in axes.iter().enumerate() {
            back[*axis] = i;
        }
        let (there, back) = (Moves::new(&shape, axes), Moves::new(&after, &back));
        let y = self.output(name, &after, &[x]);
        there.record(self, x, Sink { var: y, accumulate: 0 });
        self.on_backward(&[y], move |tape| {
            if let (Some(dy), Some(dx)) = (tape.grad(y), tape.sink(x)) {
                back.record(tape, dy, dx);
            }
            Ok(())
        });
        Ok(y)
    }
}

fn cases() -> Vec<Case> {
    // Shapes and orders: nothing to move, whole vectors kept and gathered, tiles whole and cut off,
    // every number of axes.
    let list: [(&[usize], &[usize]); 12] = [
        (&[1], &[0]),
        (&[7, 5], &[0, 1]),
        (&[5, 3], &[1, 0]),
        (&[64, 96], &[1, 0]),
        (&[50, 33], &[1, 0]),
        (&[3, 20, 40], &[0, 2, 1]),
        (&[3, 5, 8], &[1, 0, 2]),
        (&[4, 3, 2, 6], &[2, 0, 3, 1]),
        (&[17, 2, 3, 35], &[3, 1, 0, 2]),
        (&[3, 2, 4, 2, 5], &[4, 2, 0, 3, 1]),
        (&[2, 3, 4, 2, 3, 8], &[3, 1, 0, 4, 2, 5]),
        (&[2, 3, 2, 4, 3, 2], &[5, 3, 1, 4, 2, 0]),
    ];
    list.into_iter()
        .enumerate()
        .map(|(i, (shape, axes))| {
            let moves = Moves::new(shape, axes);
            let len = shape.iter().product();
            let args = vec![arg(1, len), arg(2, len)];
            let case = Case::new(format!("{shape:?} by {axes:?}"), moves.words(i as u32 % 2), args);
            case.define("RANK", moves.0.len() as u32).within(0.0)
        })
        .collect()
}

/// CPU twin.
pub mod reference {
    use super::super::put;
    use super::*;

    /// Every element to its place.
    pub fn permute(t: &mut Twin) {
        let (accumulate, x) = (t.size(1), t.read(0));
        let rank = t.defines.get("RANK").map_or(1, |r| *r as usize);
        let axes: Vec<_> = (0..rank).map(|d| (t.size(4 + d), t.size(12 + d))).collect();
        for (i, y) in t.write(1).iter_mut().enumerate() {
            let (mut rest, mut at) = (i, 0);
            for (extent, stride) in &axes {
                at += rest % extent * stride;
                rest /= extent;
            }
            put(y, x[at], accumulate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Moves;

    #[test]
    fn axes_that_stay_together_are_one() {
        let of = |shape: &[usize], axes: &[usize]| Moves::new(shape, axes).0;
        assert_eq!(of(&[2, 3, 4], &[0, 1, 2]), [(24, 1)]);
        assert_eq!(of(&[2, 3, 4], &[2, 0, 1]), [(6, 4), (4, 1)]);
        assert_eq!(of(&[2, 1, 4], &[1, 2, 0]), [(2, 4), (4, 1)]);
        assert_eq!(of(&[2, 3, 4, 5], &[0, 2, 1, 3]), [(5, 1), (3, 20), (4, 5), (2, 60)]);
        assert_eq!(of(&[1, 1], &[1, 0]), [(1, 1)]);
    }
}
