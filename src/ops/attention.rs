//! Multi-head attention, scores and probabilities never stored: over packed sequences, rows of
//! tokens without padding between sequences; and over padded ones, between sequences of one length
//! and of another.
//!
//! A packed batch of sentences is `[T, H]`, each sequence's rows one after another, rows of no sequence
//! at the end. `TOKENS [T, 4]` (unsigned) says of each row: its word, its position | its segment
//! << 16, the length of its sequence (0 for a row of none), its sample.

mod bias;
mod cases;
mod padded;
pub mod reference;

use super::dropout::Mask;
use super::sizes;
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};
pub use bias::BACKWARD_BIAS;
pub use padded::Asking;
use padded::Padded;

/// `OUT = dropout(softmax(scale Q Kᵀ)) V`, sequence by sequence; see `shaders/attention.wgsl`.
pub static ATTENTION: Kernel = Kernel {
    name: "attention",
    source: include_str!("../../shaders/attention.wgsl"),
    bindings: &[
        Binding::read("Q").part(of_q),
        Binding::read("KV").part(|p, _, _| [2 * keys(p), 0]).or_none(),
        Binding::read("TOKENS").or_none(),
        Binding::read("SPANS").or_none(),
        Binding::write("OUT"),
        Binding::write("LSE").or_none(),
        Binding::read("LENGTHS").or_none(),
        Binding::read("BIAS").or_none(),
    ],
    step: true,
    launch: |family, words, defines| launch(family, words, defines, Pass::Forward),
    twin: reference::forward,
    cases: || cases::all(Pass::Forward),
};

/// The gradient of its queries; see `shaders/attention_backward_q.wgsl`.
pub static BACKWARD_Q: Kernel = Kernel {
    name: "attention_backward_q",
    source: include_str!("../../shaders/attention_backward_q.wgsl"),
    bindings: &[
        Binding::read("Q").part(of_q),
        Binding::read("KV").part(|p, _, _| [2 * keys(p), 0]).or_none(),
        Binding::read("TOKENS").or_none(),
        Binding::read("SPANS").or_none(),
        Binding::read("OUT"),
        Binding::read("DOUT"),
        Binding::read("LSE"),
        Binding::write("DQ").part(|p, _, _| [if p[9] == 0 { 0 } else { queries(p) }, queries(p)]),
        Binding::write("DELTA"),
        Binding::read("LENGTHS").or_none(),
        Binding::read("BIAS").or_none(),
    ],
    step: true,
    launch: |family, words, defines| launch(family, words, defines, Pass::Queries),
    twin: reference::backward_q,
    cases: || cases::all(Pass::Queries),
};

/// The gradients of its keys and values; see `shaders/attention_backward_kv.wgsl`.
pub static BACKWARD_KV: Kernel = Kernel {
    name: "attention_backward_kv",
    source: include_str!("../../shaders/attention_backward_kv.wgsl"),
    bindings: &[
        Binding::read("Q").part(of_q),
        Binding::read("KV").part(|p, _, _| [2 * keys(p), 0]).or_none(),
        Binding::read("TOKENS").or_none(),
        Binding::read("DOUT"),
        Binding::read("LSE"),
        Binding::read("DELTA"),
        Binding::write("DKV")
            .part(|p, _, _| [if p[9] == 0 { 0 } else { 2 * keys(p) }, 2 * keys(p)]),
        Binding::read("LENGTHS").or_none(),
        Binding::read("BIAS").or_none(),
    ],
    step: true,
    launch: |family, words, defines| launch(family, words, defines, Pass::Keys),
    twin: reference::backward_kv,
    cases: || cases::all(Pass::Keys),
};

/// What is read of the queries, and where they are given alone of the keys and values behind them.
fn of_q(words: &[u32], defines: &Defines, _: u64) -> [u64; 2] {
    let behind = if defines.contains_key("KV") { 0 } else { 2 * keys(words) };
    [queries(words) + behind, 0]
}

/// Elements of all queries.
fn queries(words: &[u32]) -> u64 {
    u64::from(words[0]) * u64::from(words[2] * words[3])
}

/// Elements of all keys, and of all values.
fn keys(words: &[u32]) -> u64 {
    u64::from(words[1]) * u64::from(words[2] * words[3])
}

/// Longest packed sequence whose dropout masks do not repeat.
pub const MAX_TOKENS: usize = 512;
/// Largest head: what fits registers and workgroup memory.
pub const MAX_HEAD: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Queries,
    Keys,
    Bias,
}

fn launch(family: Family, words: &[u32], defines: &Defines, pass: Pass) -> Launch {
    let [queries, keys, heads, head] = [0, 1, 2, 3].map(|i| words[i]);
    let first = defines.contains_key("FIRST");
    let (rows, others) = if pass == Pass::Keys { (keys, queries) } else { (queries, keys) };
    // What the longest loop over the other side visits, where a workgroup owns `block` rows.
    let longest = MAX_TOKENS as u32;
    let padded = defines.contains_key("PADDED");
    let reach = |block: u32| -> u64 {
        let most = match (first, pass) {
            // The samples that a block can touch, each with all of its other side.
            _ if padded => {
                let (own, other) = if pass == Pass::Keys { (17, 16) } else { (16, 17) };
                (block.div_ceil(words[own]) + 1).saturating_mul(words[other])
            }
            (true, Pass::Keys) => block,
            (true, _) => block * longest,
            (false, _) => 2 * longest + block,
        };
        u64::from(others.min(most))
    };
    // What an invocation visits that has one row to itself.
    let alone = if padded { reach(1) } else { u64::from(others.min(longest)) };
    // Memory is read by quads where heads consist of them.
    let width = head;
    let head = head.next_multiple_of(4);
    let vectors = u64::from(head / 4);
    let launch = match family {
        Family::Wide(lanes) => {
            // Two rows a lane halve the loads, but add keys that only one of them asks: even at 32
            // elements, a gain at 64. Beyond, the code is slow to compile.
            let per_lane = if (48..=64).contains(&head) { 2 } else { 1 };
            let block = lanes * per_lane;
            Launch::of([rows.div_ceil(block), heads, 1])
                .with("LANES", lanes)
                .with("ROWS", per_lane)
                .iterations(reach(block) + 2 * vectors)
        }
        Family::Tiled => {
            let (block, split, tile) = tiles(head, first && pass != Pass::Keys, pass);
            Launch::of([rows.div_ceil(block), heads, 1])
                .with("TILED", 1)
                .with("ROWS", block)
                .with("SPLIT", split)
                .with("KEYS", tile)
                .iterations((reach(block) + 16) * (vectors / u64::from(split) + 4))
                .rounds(reach(block).div_ceil(u64::from(tile)))
        }
        Family::Plain => Launch::of(grid((rows * heads) as usize, 64))
            .iterations(alone * (2 * vectors + 1) + 2 * vectors),
    };
    let launch = launch.with("HEAD", head);
    let launch = if width == head { launch } else { launch.with("WIDTH", width) };
    if words[11] > 0 { launch.with("DROPOUT", 1) } else { launch }
}

/// Rows that a workgroup owns, invocations a row, and rows of the other side that it takes at a
/// time: what fits 16 KiB. Where each row asks keys of its own, few rows, because each also waits
/// for the keys of the others.
fn tiles(head: u32, alone: bool, pass: Pass) -> (u32, u32, u32) {
    let forward = pass == Pass::Forward;
    let block = match (head, forward) {
        _ if alone => 4,
        (65.., true) | (41..=64, false) => 8,
        (65.., false) => 4,
        _ => 16,
    };
    let split = if head <= 32 { 8 } else { 16 };
    let owned = if forward { block } else { 2 * block };
    let bytes = |tile: u32| {
        (owned + 2 * tile) * (head / 4 + 1) * 16 + 2 * block * (tile + 1) * 4 + block * split * 4
    };
    let tile = [16, 8].into_iter().find(|tile| bytes(*tile) <= 16 << 10);
    (block, split, tile.unwrap_or(4))
}

/// One attention to record, as the kernels see it; the sizes are in elements.
#[derive(Clone, Copy)]
struct Call {
    q: Var,
    kv: Var,
    /// Added to the scores, by distance: `[2 reach + 1, heads]`. Its queries, keys and values are one tensor.
    bias: Option<Var>,
    /// Of packed sequences.
    tokens: Option<Var>,
    /// Where only one query a sample asks.
    spans: Option<Var>,
    /// Of padded ones.
    padded: Option<Padded>,
    queries: usize,
    keys: usize,
    heads: usize,
    head: usize,
    ldq: usize,
    /// Columns where queries, keys and values begin.
    at: [usize; 3],
    ldkv: usize,
    /// Steps from a query beyond which the bias stays the same.
    reach: usize,
    mask: Mask,
}

impl Call {
    fn words(&self, accumulate: u32) -> Vec<u32> {
        let mut words = sizes(&[self.queries, self.keys, self.heads, self.head]);
        words.extend(sizes(&[self.ldq, self.at[0], self.ldkv, self.at[1], self.at[2]]));
        words.push(accumulate);
        words.extend(self.mask.words());
        let scale = 1.0 / (self.head as f32).sqrt();
        // No sequence is longer than all rows are many, so that no two places share a number.
        let places = self.padded.map_or(self.keys.max(MAX_TOKENS), |p| p.kv_steps);
        words.extend([scale.to_bits(), places as u32, self.reach as u32]);
        words.extend(self.padded.iter().flat_map(Padded::words));
        words
    }

    fn defines(&self) -> Defines {
        match (self.spans, self.padded) {
            (Some(_), _) => Defines::from([("FIRST", 1)]),
            (None, Some(_)) => Defines::from([("PADDED", 1)]),
            (None, None) => Defines::new(),
        }
    }

    /// Operations of `products` products of a query and a key. Lengths of packed sequences are data:
    /// counted as if each query asked 32 keys.
    fn flops(&self, products: usize) -> u64 {
        let keys = self.padded.map_or(self.keys.min(32), |p| p.kv_steps);
        (2 * products * self.queries * keys * self.heads * self.head) as u64
    }

    /// What the query kernels read: the tokens, or the spans instead; neither where padded.
    fn ranges(&self) -> [Option<Var>; 2] {
        match self.spans {
            Some(spans) => [None, Some(spans)],
            None => [self.tokens, None],
        }
    }

    fn lengths(&self) -> Option<Var> {
        self.padded.and_then(|p| p.lengths)
    }

    /// Keys and values, where they are not read from the tensor of the queries. With a bias they are: a kernel
    /// has room for eight tensors, and the bias takes that place.
    fn apart(&self) -> Option<Var> {
        self.bias.is_none().then_some(self.kv)
    }

    /// Appends it and its gradient.
    fn record(self, tape: &mut Tape) -> Var {
        let shape = [self.queries, self.heads * self.head];
        let given: Vec<Var> = [self.q, self.kv].into_iter().chain(self.bias).collect();
        let out = tape.output("attention", &shape, &given);
        let learns = tape.wants_grad(out);
        let lse = learns.then(|| tape.output("lse", &[self.queries, self.heads], &[]));
        let [tokens, spans] = self.ranges();
        let (q, kv) = (Some(self.q), self.apart());
        let args = [q, kv, tokens, spans, Some(out), lse, self.lengths(), self.bias];
        tape.call(&ATTENTION, &args, self.words(0), self.defines(), self.flops(2));
        if let Some(lse) = lse {
            tape.on_backward(&[out], move |tape| {
                if let Some(dout) = tape.grad(out) {
                    self.record_backward(tape, out, dout, lse);
                }
                Ok(())
            });
        }
        out
    }

    fn record_backward(self, tape: &mut Tape, out: Var, dout: Var, lse: Var) {
        let delta = tape.output("delta", &[self.queries, self.heads], &[]);
        let dq = tape.sink(self.q);
        // DELTA is needed also where the queries are constant.
        let (dq_var, accumulate) = match dq {
            Some(dq) => (dq.var, dq.accumulate),
            None => (tape.output("unused", &[self.queries, self.ldq], &[]), 0),
        };
        let [tokens, spans] = self.ranges();
        let (q, kv, bias) = (Some(self.q), self.apart(), self.bias);
        let (dout, lse, lengths) = (Some(dout), Some(lse), self.lengths());
        let (out, dq_var, delta) = (Some(out), Some(dq_var), Some(delta));
        let args = [q, kv, tokens, spans, out, dout, lse, dq_var, delta, lengths, bias];
        tape.call(&BACKWARD_Q, &args, self.words(accumulate), self.defines(), self.flops(3));
        // Where both are one tensor, its other columns have got as much as those of the queries:
        // a second sink would say that there is something to add to.
        let dkv = if tape.same(self.q, self.kv) { dq } else { tape.sink(self.kv) };
        if let Some(dkv) = dkv {
            let args = [q, kv, self.tokens, dout, lse, delta, Some(dkv.var), lengths, bias];
            let words = self.words(dkv.accumulate);
            tape.call(&BACKWARD_KV, &args, words, self.defines(), self.flops(4));
        }
        let dbias = self.bias.and_then(|bias| tape.sink(bias));
        if let Some(dbias) = dbias {
            let args = [q, self.tokens, dout, lse, delta, bias, Some(dbias.var)];
            let words = self.words(dbias.accumulate);
            tape.call(&BACKWARD_BIAS, &args, words, self.defines(), self.flops(2));
        }
    }
}

fn check(op: &'static str, fits: bool, detail: impl FnOnce() -> String) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::shape(op, detail())) }
}

/// Whether `width` columns are `heads` heads of a size that the kernels take.
fn divides(width: usize, heads: usize) -> bool {
    heads > 0 && width > 0 && width.is_multiple_of(4 * heads) && width / heads <= MAX_HEAD
}

impl Tape {
    /// Self-attention of each packed sequence, `[T, H]`: of row i and head h
    /// `Σ_j m_ij softmax_j(q_i · k_j / √d) v_j` over the rows j of i's own sequence. `qkv` is
    /// `[T, 3 H]`, a row its queries, keys and values, each `heads` heads of d = H / heads; `tokens`
    /// `[T, 4]` (unsigned) as the [module](crate::ops::attention) has them. m is 0 with
    /// probability `dropout`, otherwise 1 / (1 − `dropout`); its counters tell all of them apart. Rows of no sequence are 0, and so is their gradient.
    ///
    /// # Errors
    /// Shapes that do not fit, heads that are no multiple of 4 or larger than [`MAX_HEAD`], a
    /// `dropout` outside [0, 1).
    pub fn attention(&mut self, qkv: Var, tokens: Var, heads: usize, dropout: f32) -> Result<Var> {
        self.attend(qkv, tokens, None, heads, dropout)
    }

    /// The same with a bias that depends on how far a key is from its query: of row i, key j and head h
    /// `bias[min(max(j − i, −r), r) + r, h]` is added to the score `q_i · k_j / √d`. `bias` is
    /// `[2 r + 1, heads]`, `r` of 0 or more; a learned table of fewer distances than steps, as T5 and MPNet
    /// have it, comes to that by [`gather`](Self::gather).
    ///
    /// One dispatch; three backward.
    ///
    /// # Errors
    /// As [`attention`](Self::attention); a bias of another shape.
    pub fn biased_attention(
        &mut self,
        qkv: Var,
        tokens: Var,
        bias: Var,
        heads: usize,
        dropout: f32,
    ) -> Result<Var> {
        let (rows, cols) = self.rows_cols(bias);
        check("biased_attention", rows % 2 == 1 && cols == heads, || {
            let bias = self.shape(bias);
            format!("bias {bias:?}, {heads} heads: want [2 r + 1, heads]")
        })?;
        self.attend(qkv, tokens, Some(bias), heads, dropout)
    }

    fn attend(
        &mut self,
        qkv: Var,
        tokens: Var,
        bias: Option<Var>,
        heads: usize,
        dropout: f32,
    ) -> Result<Var> {
        let (rows, width) = self.rows_cols(qkv);
        let fits =
            width.is_multiple_of(3) && divides(width / 3, heads) && self.is_rows(tokens, rows, 4);
        check("attention", fits, || {
            let (x, t) = (self.shape(qkv), self.shape(tokens));
            format!(
                "qkv {x:?}, tokens {t:?}, {heads} heads: want [T, 3 H] and [T, 4], H / heads a \
                 multiple of 4 up to {MAX_HEAD}"
            )
        })?;
        let hidden = width / 3;
        let mask = Mask::new(self, dropout)?;
        let call = Call {
            q: qkv,
            kv: qkv,
            bias,
            tokens: Some(tokens),
            spans: None,
            padded: None,
            queries: rows,
            keys: rows,
            heads,
            head: hidden / heads,
            ldq: width,
            at: [0, hidden, 2 * hidden],
            ldkv: width,
            reach: bias.map_or(0, |bias| self.rows_cols(bias).0 / 2),
            mask,
        };
        Ok(call.record(self))
    }

    /// The same where only one query of each sample asks: `[B, H]` of `q [B, H]`, sample by sample
    /// over the rows of `kv [T, 2 H]` (keys, then values) that are its own. `spans [B, 2]`
    /// (unsigned) are each sample's first row and length; a sample of length 0 gets 0. `tokens` as
    /// in [`attention`](Self::attention): their samples are the rows of `q`.
    ///
    /// # Errors
    /// As [`attention`](Self::attention).
    pub fn attention_first(
        &mut self,
        q: Var,
        kv: Var,
        tokens: Var,
        spans: Var,
        heads: usize,
        dropout: f32,
    ) -> Result<Var> {
        let ((queries, hidden), (keys, width)) = (self.rows_cols(q), self.rows_cols(kv));
        let fits = width == 2 * hidden
            && divides(hidden, heads)
            && self.is_rows(tokens, keys, 4)
            && self.is_rows(spans, queries, 2);
        check("attention_first", fits, || {
            let [q, kv, t, s] = [q, kv, tokens, spans].map(|v| self.shape(v));
            format!(
                "q {q:?}, kv {kv:?}, tokens {t:?}, spans {s:?}, {heads} heads: want [B, H], \
                 [T, 2 H], [T, 4] and [B, 2], H / heads a multiple of 4 up to {MAX_HEAD}"
            )
        })?;
        let mask = Mask::new(self, dropout)?;
        let call = Call {
            q,
            kv,
            bias: None,
            tokens: Some(tokens),
            spans: Some(spans),
            padded: None,
            queries,
            keys,
            heads,
            head: hidden / heads,
            ldq: hidden,
            at: [0, 0, hidden],
            ldkv: width,
            reach: 0,
            mask,
        };
        Ok(call.record(self))
    }

    /// Whether `var` is a matrix of at least one row and this size.
    fn is_rows(&self, var: Var, rows: usize, cols: usize) -> bool {
        rows > 0 && self.rows_cols(var) == (rows, cols)
    }
}
