//! Attention over padded sequences: `[batch, steps, width]`, every sample of as many steps.

use super::super::dropout::Mask;
use super::{Call, MAX_HEAD, check};
use crate::error::Result;
use crate::tape::{Tape, Var};

/// What the kernels know of padded sequences beyond sizes.
#[derive(Clone, Copy)]
pub(super) struct Padded {
    /// Queries of a sample.
    pub steps: usize,
    /// Keys of a sample.
    pub kv_steps: usize,
    /// How many keys behind its own step a query sees; `None` is all.
    pub ahead: Option<usize>,
    /// `[batch]`, unsigned.
    pub lengths: Option<Var>,
}

impl Padded {
    pub(super) fn words(&self) -> [u32; 4] {
        let ahead = self.ahead.map_or(u32::MAX, |a| u32::try_from(a).unwrap_or(u32::MAX));
        [self.steps as u32, self.kv_steps as u32, ahead, 0]
    }
}

/// How queries of padded sequences ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asking {
    /// Heads, a divisor of the width of the queries.
    pub heads: usize,
    /// Probability with which a weight is dropped; the others grow by 1 / (1 − `dropout`).
    pub dropout: f32,
    /// Keys of each sample that count, `[batch]` unsigned: the first ones. `None`: all of them.
    pub lengths: Option<Var>,
    /// Step i sees keys up to step i + `ahead`: 0 is a causal mask, `None` no mask. MulT's mask for
    /// sequences of T and T' steps is |T − T'|.
    pub ahead: Option<usize>,
}

impl Tape {
    /// Attention of one sequence to another, sample by sample: `[batch, t, h]`, of query i and a head
    /// `Σ_j m_ij softmax_j(q_i · k_j / √d) v_j`, d = h / heads. `q` is `[batch, t, h]`, `kv`
    /// `[batch, t', 2 h]`, a row its keys and then its values, as one
    /// [`linear`](Self::linear) gives them; keys and values that are computed apart are put together
    /// by [`concat`](Self::concat). What PyTorch's `scaled_dot_product_attention` does between the
    /// projections of a `MultiheadAttention`. A query without keys gets 0, and so does what is behind
    /// a sample's length of its gradient; queries of padding ask as all others do.
    ///
    /// One dispatch; two backward. Nothing of size t t' is stored. Heads of a multiple of 4 are read
    /// by quads, others by elements.
    ///
    /// # Errors
    /// Shapes that do not fit, heads larger than [`MAX_HEAD`], a dropout outside [0, 1).
    pub fn cross_attention(&mut self, q: Var, kv: Var, how: Asking) -> Result<Var> {
        let (of_q, of_kv) = (self.shape(q).to_vec(), self.shape(kv).to_vec());
        let sizes = match (&of_q[..], &of_kv[..]) {
            ([b, t, h], [b2, kv_t, h2]) if b == b2 && *h2 == 2 * h => Some([*b, *t, *kv_t, *h]),
            _ => None,
        };
        self.padded("cross_attention", (q, kv), sizes, 2, how)
    }

    /// Attention of padded sequences to themselves: [`cross_attention`](Self::cross_attention) with
    /// queries, keys and values side by side in `qkv [batch, t, 3 h]`.
    ///
    /// # Errors
    /// As there.
    pub fn padded_attention(&mut self, qkv: Var, how: Asking) -> Result<Var> {
        let sizes = match *self.shape(qkv) {
            [b, t, width] if width % 3 == 0 => Some([b, t, t, width / 3]),
            _ => None,
        };
        self.padded("padded_attention", (qkv, qkv), sizes, 3, how)
    }

    fn padded(
        &mut self,
        op: &'static str,
        (q, kv): (Var, Var),
        sizes: Option<[usize; 4]>,
        parts: usize,
        how: Asking,
    ) -> Result<Var> {
        let Asking { heads, dropout, lengths, ahead } = how;
        let fits = |[batch, steps, kv_steps, hidden]: [usize; 4]| {
            heads > 0
                && batch * steps * kv_steps * hidden > 0
                && hidden.is_multiple_of(heads)
                && hidden / heads <= MAX_HEAD
                && lengths.is_none_or(|l| self.len(l) == batch)
        };
        let sizes = sizes.filter(|s| fits(*s));
        check(op, sizes.is_some(), || {
            let want = match parts {
                2 => "[batch, t, h] and [batch, t', 2 h]",
                _ => "[batch, t, 3 h]",
            };
            let of = [Some(q), (q != kv).then_some(kv)].into_iter().flatten();
            let of: Vec<_> = of.map(|v| self.shape(v)).collect();
            format!(
                "{of:?}, lengths {:?}, {heads} heads: want {want}, lengths [batch], h / heads a \
                 whole number up to {MAX_HEAD}",
                lengths.map(|l| self.shape(l))
            )
        })?;
        let [batch, steps, kv_steps, hidden] = sizes.unwrap_or_default();
        let mask = Mask::new(self, dropout)?;
        // Where they lie in one tensor, keys and values stand behind the queries.
        let (ldq, k_at) = if q == kv { (3 * hidden, hidden) } else { (hidden, 0) };
        let call = Call {
            q,
            kv,
            bias: None,
            tokens: None,
            spans: None,
            padded: Some(Padded { steps, kv_steps, ahead, lengths }),
            queries: batch * steps,
            keys: batch * kv_steps,
            heads,
            head: hidden / heads,
            ldq,
            at: [0, k_at, k_at + hidden],
            ldkv: parts * hidden,
            reach: 0,
            mask,
        };
        let out = call.record(self);
        self.reshape(out, &[batch, steps, hidden])
    }
}
