//! MFN's memory: what can be known of all steps at once, and the walk from step to step.

use super::cx::Cx;
use super::mfn::Mfn;
use crate::error::{Error, Result};
use crate::ops::Act;
use crate::ops::batched::Transposed;
use crate::tape::Var;

impl Mfn {
    /// The memory behind the last step, from all cells.
    pub(super) fn remember(&self, cx: &mut Cx<'_>, cells: Var, steps: usize) -> Result<Var> {
        let (batch, cols, memory) = (cx.batch(), self.cells(), self.own.memory);
        let rows = cx.tape.reshape(cells, &[batch, steps * cols])?;
        let before = cx.tape.shift(rows, cols)?;
        let before = cx.tape.reshape(before, &[batch, steps, cols])?;
        let pair = cx.tape.concat(&[before, cells])?;
        let start = cx.tape.constant("memory", &[batch, memory], &vec![0.0; batch * memory])?;
        self.watch(cx, pair, start)
    }

    /// The memory behind the last step, from `pair [batch, steps, 2 cells]`, the cells before each step
    /// and behind it, and what it was at first, `[batch, memory]`.
    pub(super) fn watch(&self, cx: &mut Cx<'_>, pair: Var, mut m: Var) -> Result<Var> {
        let (own, cols, batch) = (&self.own, self.cells(), cx.tape.rows_cols(m).0);
        let (memory, both) = (own.memory, own.inner.gamma1 + own.inner.gamma2);
        let steps = cx.tape.rows_cols(pair).0 / batch;
        let scores = self.network(cx, "att1", own.dropout.att1, pair, Act::None)?;
        let attention = cx.tape.softmax(scores)?;
        let seen = cx.tape.mul(attention, pair)?;
        let new = self.network(cx, "att2", own.dropout.att2, seen, Act::Tanh)?;

        // The first layers of both gammas are one; what they make of cells is known for all steps.
        let names = |part: &str| ["gamma1", "gamma2"].map(|g| format!("{g}_{part}"));
        let wide = 2 * cols + memory;
        let weight = cx.params.span(cx.tape, &names("fc1.weight"), &[both, wide])?;
        let bias = cx.params.span(cx.tape, &names("fc1.bias"), &[both])?;
        let of_cells = cx.tape.slice(weight, 0, 2 * cols)?;
        let of_memory = cx.tape.slice(weight, 2 * cols, memory)?;
        let known = cx.tape.linear(seen, of_cells, Some(bias), Act::None)?;
        let known = cx.tape.concat(&[known, new])?;
        let known = cx.tape.reshape(known, &[batch, steps * (both + memory)])?;
        let masks = self.masks(cx, steps)?;
        // [known of cells; new; memory] through this is the sum that both first layers make.
        let mut identity = vec![0.0; both * (both + memory)];
        (0..both).for_each(|i| identity[i * (both + memory) + i] = 1.0);
        let identity = cx.tape.constant("identity", &[both, both + memory], &identity)?;
        let first = cx.tape.concat(&[identity, of_memory])?;
        let second = self.second_layers(cx)?;
        let second_bias = ["gamma2_fc2.bias", "gamma1_fc2.bias"].map(String::from);
        let second_bias = cx.params.span(cx.tape, &second_bias, &[2 * memory])?;
        let ones = cx.tape.constant("ones", &[1, 2], &[1.0; 2])?;
        for t in 0..steps {
            let now = cx.tape.slice(known, t * (both + memory), both + memory)?;
            let all = cx.tape.concat(&[now, m])?;
            let mut inner = cx.tape.linear(all, first, None, Act::Relu)?;
            if let Some(masks) = masks {
                let mask = cx.tape.slice(masks, t * both, both)?;
                inner = cx.tape.mul(inner, mask)?;
            }
            let gammas = cx.tape.linear(inner, second, Some(second_bias), Act::Sigmoid)?;
            let sides = cx.tape.slice(all, both, 2 * memory)?;
            let sides = cx.tape.mul(gammas, sides)?;
            let sides = cx.tape.reshape(sides, &[batch, 2, memory])?;
            let sum = cx.tape.bmm(ones, sides, Transposed::Neither)?;
            m = cx.tape.reshape(sum, &[batch, memory])?;
        }
        Ok(m)
    }

    /// The second layers of both gammas as one, gamma2's rows first: `[2 memory, both]`.
    fn second_layers(&self, cx: &mut Cx<'_>) -> Result<Var> {
        let (memory, inner) = (self.own.memory, self.own.inner);
        let (stays, comes) = (cx.param("gamma1_fc2.weight")?, cx.param("gamma2_fc2.weight")?);
        let zeros = |cx: &mut Cx<'_>, cols: usize| {
            cx.tape.constant("zeros", &[memory, cols], &vec![0.0; memory * cols])
        };
        let (before, behind) = (zeros(cx, inner.gamma1)?, zeros(cx, inner.gamma2)?);
        let comes = cx.tape.concat(&[before, comes])?;
        let stays = cx.tape.concat(&[stays, behind])?;
        let second = cx.tape.stack(&[comes, stays], &[comes, stays]);
        cx.tape.reshape(second, &[2 * memory, inner.gamma1 + inner.gamma2])
    }

    /// Dropout of both gammas at all steps, where there is any.
    fn masks(&self, cx: &mut Cx<'_>, steps: usize) -> Result<Option<Var>> {
        let (batch, inner, dropout) = (cx.batch(), self.own.inner, self.own.dropout);
        let p = [dropout.gamma1, dropout.gamma2].map(|p| cx.dropout(p as f32));
        if p == [0.0; 2] {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for (size, p) in [inner.gamma1, inner.gamma2].into_iter().zip(p) {
            let ones = vec![1.0; batch * steps * size];
            let ones = cx.tape.constant("ones", &[batch, steps, size], &ones)?;
            parts.push(cx.tape.dropout(ones, p)?);
        }
        let masks = cx.tape.concat(&parts)?;
        let width = inner.gamma1 + inner.gamma2;
        Ok(Some(cx.tape.reshape(masks, &[batch, steps * width])?))
    }
}

/// `c_t = keep_t c_{t−1} + come_t` from nothing on, of `[batch, steps, d]`: a doubling adds to what the
/// last so many steps left what as many before them did.
pub(super) fn scan(cx: &mut Cx<'_>, keep: Var, come: Var) -> Result<Var> {
    let shape = cx.tape.shape(come).to_vec();
    let [batch, steps, cols] = shape[..] else {
        return Err(Error::shape("scan", format!("{shape:?} has no steps")));
    };
    let mut keep = cx.tape.reshape(keep, &[batch, steps * cols])?;
    let mut cell = cx.tape.reshape(come, &[batch, steps * cols])?;
    let mut by = 1;
    while by < steps {
        let before = cx.tape.shift(cell, by * cols)?;
        let before = cx.tape.mul(keep, before)?;
        cell = cx.tape.add(cell, before)?;
        if 2 * by < steps {
            let longer = cx.tape.shift(keep, by * cols)?;
            keep = cx.tape.mul(keep, longer)?;
        }
        by *= 2;
    }
    cx.tape.reshape(cell, &shape)
}
