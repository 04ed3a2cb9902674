//! CPU twins.
#![allow(clippy::needless_range_loop, reason = "loops that read like the formulas")]

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
    /// By distance, and how far that goes.
    bias: Vec<f32>,
    reach: usize,
}

impl View {
    /// Of bindings with these numbers, besides queries, keys and values, and tokens.
    fn of(t: &Twin, spans: Option<usize>, lengths: usize, bias: usize) -> Self {
        View {
            spans: spans.map(|i| t.words_of(i).to_vec()).unwrap_or_default(),
            lengths: t.words_of(lengths).to_vec(),
            ..View::packed(t, [1, 2, bias])
        }
    }

    /// The same of packed sequences, by the numbers of keys and values, tokens and bias.
    fn packed(t: &Twin, [kv, tokens, bias]: [usize; 3]) -> Self {
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
            kv: if t.has(kv) { t.read(kv) } else { t.read(0) },
            tokens: t.words_of(tokens).to_vec(),
            spans: Vec::new(),
            padded: t.is("PADDED").then(|| [16, 17, 18].map(|i| t.size(i))),
            lengths: Vec::new(),
            bias: t.read(bias),
            reach: t.size(15),
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
    /// The row of the bias that a key at j has for a query at i.
    fn distance(&self, i: usize, j: usize) -> usize {
        (j + self.reach).saturating_sub(i).min(2 * self.reach)
    }

    /// q · k scale, and the bias where there is one.
    fn score(&self, i: usize, j: usize, h: usize) -> f32 {
        let bias = self.bias.get(self.distance(i, j) * self.heads + h);
        dot(self.q(i, h), self.k(j, h)) * self.scale + bias.copied().unwrap_or(0.0)
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
    let c = View::of(t, Some(3), 6, 7);
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
    let c = View::of(t, Some(3), 9, 10);
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
    let c = View::of(t, None, 7, 8);
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

/// Σ over i and its keys j at distance d of p_ij (m_ij do_i · v_j − D_i).
pub fn backward_bias(t: &mut Twin) {
    let c = View::packed(t, [0, 1, 5]);
    let (dout, lse, delta, accumulate) = (t.read(2), t.read(3), t.read(4), t.size(9));
    let mut sums = vec![0.0_f64; (2 * c.reach + 1) * c.heads];
    for i in 0..c.queries {
        let own = c.keys_of(i);
        for h in 0..c.heads {
            let at = i * c.heads + h;
            let dout = &dout[at * c.head..][..c.head];
            for j in own.clone() {
                let p = share(c.score(i, j, h) - lse[at]);
                let m = kept(t, i, c.heads, h, j - own.start);
                let slope = p * (m * dot(dout, c.v(j, h)) - delta[at]);
                sums[c.distance(i, j) * c.heads + h] += f64::from(slope);
            }
        }
    }
    for (to, sum) in t.write(6).iter_mut().zip(sums) {
        put(to, sum as f32, accumulate);
    }
}
