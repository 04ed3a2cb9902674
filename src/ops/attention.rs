//! Multi-head attention, scores and probabilities never stored: over packed sequences, rows of
//! tokens without padding between sequences; and over padded ones, between sequences of one length
//! and of another.
//!
//! A packed batch of sentences is `[T, H]`, each sequence's rows one after another, rows of no sequence
//! at the end. `TOKENS [T, 4]` (unsigned) says of each row: its word, its position | its segment
//! << 16, the length of its sequence (0 for a row of none), its sample.

mod cases;
mod padded;

use super::dropout::Mask;
use super::sizes;
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};
pub use padded::Asking;
use padded::Padded;

/// `OUT = dropout(softmax(scale Q Kᵀ)) V`, sequence by sequence; see `shaders/attention.wgsl`.
pub static ATTENTION: Kernel = Kernel {
    name: "attention",
    source: include_str!("../../shaders/attention.wgsl"),
    bindings: &[
        Binding::read("Q").part(|p, _, _| [queries(p), 0]),
        Binding::read("KV").part(|p, _, _| [2 * keys(p), 0]),
        Binding::read("TOKENS").or_none(),
        Binding::read("SPANS").or_none(),
        Binding::write("OUT"),
        Binding::write("LSE").or_none(),
        Binding::read("LENGTHS").or_none(),
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
        Binding::read("Q").part(|p, _, _| [queries(p), 0]),
        Binding::read("KV").part(|p, _, _| [2 * keys(p), 0]),
        Binding::read("TOKENS").or_none(),
        Binding::read("SPANS").or_none(),
        Binding::read("OUT"),
        Binding::read("DOUT"),
        Binding::read("LSE"),
        Binding::write("DQ").part(|p, _, _| [if p[9] == 0 { 0 } else { queries(p) }, queries(p)]),
        Binding::write("DELTA"),
        Binding::read("LENGTHS").or_none(),
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
        Binding::read("Q").part(|p, _, _| [queries(p), 0]),
        Binding::read("KV").part(|p, _, _| [2 * keys(p), 0]),
        Binding::read("TOKENS").or_none(),
        Binding::read("DOUT"),
        Binding::read("LSE"),
        Binding::read("DELTA"),
        Binding::write("DKV")
            .part(|p, _, _| [if p[9] == 0 { 0 } else { 2 * keys(p) }, 2 * keys(p)]),
        Binding::read("LENGTHS").or_none(),
    ],
    step: true,
    launch: |family, words, defines| launch(family, words, defines, Pass::Keys),
    twin: reference::backward_kv,
    cases: || cases::all(Pass::Keys),
};

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
        words.extend([scale.to_bits(), places as u32, 0]);
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

    /// Appends it and its gradient.
    fn record(self, tape: &mut Tape) -> Var {
        let shape = [self.queries, self.heads * self.head];
        let out = tape.output("attention", &shape, &[self.q, self.kv]);
        let learns = tape.wants_grad(out);
        let lse = learns.then(|| tape.output("lse", &[self.queries, self.heads], &[]));
        let [tokens, spans] = self.ranges();
        let args = [Some(self.q), Some(self.kv), tokens, spans, Some(out), lse, self.lengths()];
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
        let (q, kv) = (Some(self.q), Some(self.kv));
        let (dout, lse, lengths) = (Some(dout), Some(lse), self.lengths());
        let args = [q, kv, tokens, spans, Some(out), dout, lse, Some(dq_var), Some(delta), lengths];
        tape.call(&BACKWARD_Q, &args, self.words(accumulate), self.defines(), self.flops(3));
        // Where both are one tensor, its other columns have got as much as those of the queries:
        // a second sink would say that there is something to add to.
        let dkv = if tape.same(self.q, self.kv) { dq } else { tape.sink(self.kv) };
        if let Some(dkv) = dkv {
            let args = [q, kv, self.tokens, dout, lse, Some(delta), Some(dkv.var), lengths];
            let words = self.words(dkv.accumulate);
            tape.call(&BACKWARD_KV, &args, words, self.defines(), self.flops(4));
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
            mask,
        };
        Ok(call.record(self))
    }

    /// Whether `var` is a matrix of at least one row and this size.
    fn is_rows(&self, var: Var, rows: usize, cols: usize) -> bool {
        rows > 0 && self.rows_cols(var) == (rows, cols)
    }
}

/// CPU twins.
#[allow(clippy::needless_range_loop, reason = "loops that read like the formulas")]
pub mod reference {
    use super::super::dropout::reference::random_bits;
    use super::super::larger;
    use super::super::put;
    use super::*;
    use std::ops::Range;

    /// What the three twins read of a call.
    struct View {
        queries: usize,
        keys: usize,
        heads: usize,
        head: usize,
        ldq: usize,
        ldkv: usize,
        at: [usize; 3],
        scale: f32,
        q: Vec<f32>,
        kv: Vec<f32>,
        tokens: Vec<u32>,
        spans: Vec<u32>,
        /// Steps of a sample's queries and of its keys, and how far ahead a query sees.
        padded: Option<[usize; 3]>,
        lengths: Vec<u32>,
    }

    impl View {
        fn of(t: &Twin, spans: Option<usize>, lengths: usize) -> Self {
            let [queries, keys, heads, head, ldq, q_at, ldkv, k_at, v_at] =
                [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|i| t.size(i));
            View {
                queries,
                keys,
                heads,
                head,
                ldq,
                ldkv,
                at: [q_at, k_at, v_at],
                scale: t.float(13),
                q: t.read(0),
                kv: t.read(1),
                tokens: t.words_of(2).to_vec(),
                spans: spans.map(|i| t.words_of(i).to_vec()).unwrap_or_default(),
                padded: t.is("PADDED").then(|| [16, 17, 18].map(|i| t.size(i))),
                lengths: t.words_of(lengths).to_vec(),
            }
        }

        /// How many keys of a padded sample count.
        fn length_of(&self, sample: usize, steps: usize) -> usize {
            self.lengths.get(sample).map_or(steps, |l| steps.min(*l as usize))
        }

        /// The keys of a query.
        fn keys_of(&self, i: usize) -> Range<usize> {
            if let Some([steps, kv_steps, ahead]) = self.padded {
                let (sample, step) = (i / steps, i % steps);
                let seen = self.length_of(sample, kv_steps).min(step.saturating_add(ahead + 1));
                return sample * kv_steps..sample * kv_steps + seen;
            }
            if let Some(span) = self.spans.get(2 * i..2 * i + 2) {
                let first = (span[0] as usize).min(self.keys);
                return first..(first + span[1] as usize).min(self.keys);
            }
            let (position, length) = (self.tokens[4 * i + 1] & 0xffff, self.tokens[4 * i + 2]);
            let first = i - (position as usize).min(i);
            first..(first + length as usize).min(self.keys)
        }

        /// The queries that ask a key.
        fn queries_of(&self, j: usize, first: bool) -> Range<usize> {
            if let Some([steps, kv_steps, ahead]) = self.padded {
                let (sample, step) = (j / kv_steps, j % kv_steps);
                let begin = step.saturating_sub(ahead).min(steps);
                let there = step < self.length_of(sample, kv_steps);
                let end = if there { (sample + 1) * steps } else { 0 };
                return sample * steps + begin..end;
            }
            let [length, sample] = [2, 3].map(|w| self.tokens[4 * j + w] as usize);
            match first {
                true if length > 0 && sample < self.queries => sample..sample + 1,
                true => 0..0,
                false => self.keys_of(j),
            }
        }

        /// A key's place in its sequence.
        fn place_of(&self, j: usize) -> usize {
            match self.padded {
                Some([_, kv_steps, _]) => j % kv_steps,
                None => self.tokens[4 * j + 1] as usize & 0xffff,
            }
        }

        fn q(&self, i: usize, h: usize) -> &[f32] {
            &self.q[i * self.ldq + self.at[0] + h * self.head..][..self.head]
        }
        fn k(&self, j: usize, h: usize) -> &[f32] {
            &self.kv[j * self.ldkv + self.at[1] + h * self.head..][..self.head]
        }
        fn v(&self, j: usize, h: usize) -> &[f32] {
            &self.kv[j * self.ldkv + self.at[2] + h * self.head..][..self.head]
        }
        /// q · k scale.
        fn score(&self, i: usize, j: usize, h: usize) -> f32 {
            dot(self.q(i, h), self.k(j, h)) * self.scale
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
    }

    /// exp of what is not positive; 0 below -60.
    fn share(x: f32) -> f32 {
        if x <= -60.0 { 0.0 } else { x.exp() }
    }

    /// The factor that dropout puts on the probability of a key at a place in its sequence.
    fn kept(t: &Twin, query: usize, heads: usize, h: usize, place: usize) -> f32 {
        let element = (query * heads + h) * t.size(14) + place;
        let bits = random_bits(t.step.seed, t.step.step, t.words[10], element as u32);
        if bits >= t.words[11] { t.float(12) } else { 0.0 }
    }

    /// Σ_j m_ij p_ij v_j, and log Σ_j exp(s_ij).
    pub fn forward(t: &mut Twin) {
        let c = View::of(t, Some(3), 6);
        for i in 0..c.queries {
            for h in 0..c.heads {
                let own = c.keys_of(i);
                let scores: Vec<f32> = own.clone().map(|j| c.score(i, j, h)).collect();
                let m = scores.iter().copied().fold(f32::MIN, larger);
                let total: f64 = scores.iter().map(|s| f64::from(share(s - m))).sum();
                let mut out = vec![0.0_f64; c.head];
                for (s, j) in scores.iter().zip(own.clone()) {
                    let p = share(s - m) * kept(t, i, c.heads, h, j - own.start);
                    for (out, v) in out.iter_mut().zip(c.v(j, h)) {
                        *out += f64::from(p) * f64::from(*v) / total;
                    }
                }
                let at = i * c.heads + h;
                for (to, value) in t.write(4)[at * c.head..].iter_mut().zip(out) {
                    *to = value as f32;
                }
                if let Some(lse) = t.write(5).get_mut(at) {
                    *lse = if own.is_empty() { 0.0 } else { m + (total as f32).ln() };
                }
            }
        }
    }

    /// D_i = do_i · o_i and dq_i = scale Σ_j p_ij (m_ij do_i · v_j − D_i) k_j.
    pub fn backward_q(t: &mut Twin) {
        let c = View::of(t, Some(3), 9);
        let (out, dout, lse, accumulate) = (t.read(4), t.read(5), t.read(6), t.size(9));
        for i in 0..c.queries {
            for h in 0..c.heads {
                let at = i * c.heads + h;
                let dout = &dout[at * c.head..][..c.head];
                let delta = dot(dout, &out[at * c.head..][..c.head]);
                let own = c.keys_of(i);
                let mut dq = vec![0.0_f64; c.head];
                for j in own.clone() {
                    let p = share(c.score(i, j, h) - lse[at]);
                    let dp = kept(t, i, c.heads, h, j - own.start) * dot(dout, c.v(j, h));
                    for (dq, k) in dq.iter_mut().zip(c.k(j, h)) {
                        *dq += f64::from(c.scale * p * (dp - delta)) * f64::from(*k);
                    }
                }
                let to = i * c.ldq + c.at[0] + h * c.head;
                for (to, dq) in t.write(7)[to..].iter_mut().zip(dq) {
                    put(to, dq as f32, accumulate);
                }
                t.write(8)[at] = delta;
            }
        }
    }

    /// dk_j = scale Σ_i p_ij (m_ij do_i · v_j − D_i) q_i and dv_j = Σ_i m_ij p_ij do_i.
    pub fn backward_kv(t: &mut Twin) {
        let c = View::of(t, None, 7);
        let (dout, lse, delta, accumulate) = (t.read(3), t.read(4), t.read(5), t.size(9));
        let first = t.is("FIRST");
        for j in 0..c.keys {
            let (own, place) = (c.queries_of(j, first), c.place_of(j));
            for h in 0..c.heads {
                let (mut dk, mut dv) = (vec![0.0_f64; c.head], vec![0.0_f64; c.head]);
                for i in own.clone() {
                    let at = i * c.heads + h;
                    let dout = &dout[at * c.head..][..c.head];
                    let p = share(c.score(i, j, h) - lse[at]);
                    let m = kept(t, i, c.heads, h, place);
                    let slope = c.scale * p * (m * dot(dout, c.v(j, h)) - delta[at]);
                    for l in 0..c.head {
                        dk[l] += f64::from(slope) * f64::from(c.q(i, h)[l]);
                        dv[l] += f64::from(m * p) * f64::from(dout[l]);
                    }
                }
                let to = j * c.ldkv + h * c.head;
                for l in 0..c.head {
                    put(&mut t.write(6)[to + c.at[1] + l], dk[l] as f32, accumulate);
                    put(&mut t.write(6)[to + c.at[2] + l], dv[l] as f32, accumulate);
                }
            }
        }
    }
}
