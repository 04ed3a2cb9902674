//! Entries for quotients and other functions of one element, batched products, permuted axes, outer
//! products, rows of length one, log-sum-exp and normal noise.

use super::inputs::classes;
use super::{Entry, away_from_zero, entry};
use crate::nn::contrast::{self, Classes, Units};
use crate::ops::batched::Transposed;
use crate::ops::contrast::Positives;
use crate::ops::random;
use crate::{Tape, Var};

const FORMS: [Transposed; 3] = [Transposed::Neither, Transposed::Second, Transposed::First];

/// All of them.
pub fn entries() -> Vec<Entry> {
    let mut all = quotients();
    all.extend(functions());
    all.extend(products());
    all.extend(axes());
    all.extend(rows());
    all.extend(noise());
    all.extend(contrasts());
    all
}

/// Of either sign and clear of 0.
fn clear(v: f32) -> f32 {
    v + 0.8_f32.copysign(v)
}

fn positive(v: f32) -> f32 {
    v.abs() + 0.3
}

fn quotients() -> Vec<Entry> {
    let div = |t: &mut Tape, v: &[Var]| t.div(v[0], v[1]);
    let all = vec![
        entry("div", &[&[3, 5], &[3, 5]], div),
        entry("div vectors", &[&[4, 8], &[4, 8]], div),
        entry("div row", &[&[3, 5], &[5]], div),
        entry("div row vectors", &[&[10, 8], &[1, 8]], div),
        entry("div column", &[&[3, 5], &[3, 1]], div),
        entry("div column vectors", &[&[3, 8], &[3, 1]], div),
        entry("div number", &[&[3, 5], &[1]], div),
        entry("div of one", &[&[1], &[1]], div),
        entry("div x x", &[&[3, 5]], |t, v| {
            // One, whose gradient is zero: with x besides, that of x alone is left.
            let one = t.div(v[0], v[0])?;
            t.add(one, v[0])
        }),
        entry("div by a constant", &[&[3, 4]], |t, v| {
            let by = t.constant("by", &[4], &[0.5, -2.0, 3.0, 1.5])?;
            t.div(v[0], by)
        }),
        entry("div a constant", &[&[3, 4]], |t, v| {
            let of = t.constant("of", &[3, 4], &random(5, 12))?;
            t.div(of, v[0])
        }),
        entry("reciprocal", &[&[3, 5]], |t, v| t.reciprocal(v[0])),
    ];
    all.into_iter().map(|e| e.values(clear)).collect()
}

fn functions() -> Vec<Entry> {
    vec![
        entry("sqrt", &[&[3, 5]], |t, v| t.sqrt(v[0])).values(positive),
        entry("log", &[&[4, 4]], |t, v| t.log(v[0])).values(positive),
        entry("softplus", &[&[3, 5]], |t, v| t.softplus(v[0])).values(|v| 6.0 * v),
        entry("clamp", &[&[4, 8]], |t, v| t.clamp(v[0], -0.5, 0.4)),
        entry("clamp to a half line", &[&[3, 5]], |t, v| t.clamp(v[0], 0.1, f32::INFINITY)),
        entry("leaky_relu", &[&[3, 5]], |t, v| t.leaky_relu(v[0], 0.2)),
        entry("elu", &[&[4, 4]], |t, v| t.elu(v[0], 1.5)).values(|v| 3.0 * away_from_zero(v)),
        // Twice turned round is as it was; once, it is another test.
        entry("gradient_reversal twice", &[&[3, 5]], |t, v| {
            let once = t.gradient_reversal(v[0], 0.5)?;
            t.gradient_reversal(once, 2.0)
        }),
        // Nothing is cut off: the differences are those of the identity.
        entry("clamp_straight_through", &[&[3, 5]], |t, v| {
            t.clamp_straight_through(v[0], -9.0, 9.0)
        }),
    ]
}

fn products() -> Vec<Entry> {
    let mut all = Vec::new();
    for form in FORMS {
        // m 3, n 4, k 5, and whole vectors; then one operand for all.
        let shape = |batch: &[usize], rows: usize, cols: usize, turned: bool| {
            let (rows, cols) = if turned { (cols, rows) } else { (rows, cols) };
            [batch, &[rows, cols]].concat()
        };
        let pair = |a: &[usize], b: &[usize], (m, n, k): (usize, usize, usize)| {
            let first = shape(a, m, k, form == Transposed::First);
            (first, shape(b, k, n, form == Transposed::Second))
        };
        let list = [
            ("bmm", pair(&[2], &[2], (3, 4, 5))),
            ("bmm vectors", pair(&[2, 2], &[2, 2], (8, 4, 4))),
            ("bmm by one matrix", pair(&[3], &[], (3, 4, 5))),
            ("bmm of one matrix", pair(&[1], &[3], (4, 8, 4))),
            ("bmm of two matrices", pair(&[], &[], (3, 4, 5))),
        ];
        for (name, (a, b)) in list {
            all.push(entry(name, &[&a, &b], move |t, v| t.bmm(v[0], v[1], form)));
        }
    }
    all.push(entry("bmm x x", &[&[3, 4, 4]], |t, v| t.bmm(v[0], v[0], Transposed::Second)));
    all.push(entry("outer", &[&[3, 5], &[3, 7]], |t, v| t.outer(v[0], v[1])));
    all.push(entry("outer vectors", &[&[3, 2], &[3, 20]], |t, v| t.outer(v[0], v[1])));
    all.push(entry("outer x x", &[&[3, 4]], |t, v| t.outer(v[0], v[0])));
    all.push(entry("outer of frozen", &[&[3, 4]], |t, v| {
        let a = t.constant("a", &[3, 5], &random(6, 15))?;
        t.outer(a, v[0])
    }));
    all.push(entry("tensor fusion", &[&[2, 3], &[2, 4], &[2, 3]], |t, v| {
        let (a, b, c) = (t.prepend_one(v[0])?, t.prepend_one(v[1])?, t.prepend_one(v[2])?);
        let two = t.outer(a, b)?;
        let two = t.reshape(two, &[2, 20])?;
        t.outer(two, c)
    }));
    all
}

fn axes() -> Vec<Entry> {
    vec![
        entry("transpose", &[&[3, 5]], |t, v| t.transpose(v[0], 0, 1)),
        entry("transpose tiles", &[&[17, 20]], |t, v| t.transpose(v[0], 1, 0)),
        entry("permute 3", &[&[2, 3, 4]], |t, v| t.permute(v[0], &[1, 0, 2])),
        entry("permute 6", &[&[2, 1, 3, 2, 2, 2]], |t, v| t.permute(v[0], &[4, 1, 0, 5, 3, 2])),
        entry("permute nothing", &[&[2, 3, 4]], |t, v| t.permute(v[0], &[0, 1, 2])),
        entry("permute x and x", &[&[4, 4]], |t, v| {
            // The second use adds to the gradient.
            let (a, b) = (t.transpose(v[0], 0, 1)?, t.permute(v[0], &[0, 1])?);
            t.mul(a, b)
        }),
    ]
}

fn rows() -> Vec<Entry> {
    let tripled = |v: f32| 3.0 * v;
    vec![
        entry("l2_normalize", &[&[3, 5]], |t, v| t.l2_normalize(v[0], 1e-12)),
        entry("l2_normalize 3-D vectors", &[&[2, 2, 20]], |t, v| t.l2_normalize(v[0], 1e-12)),
        // Shorter than eps, all of them.
        entry("l2_normalize short", &[&[3, 8]], |t, v| t.l2_normalize(v[0], 5.0)),
        entry("logsumexp", &[&[3, 5]], |t, v| t.logsumexp(v[0])).values(tripled),
        entry("logsumexp vectors", &[&[2, 2, 20]], |t, v| t.logsumexp(v[0])).values(tripled),
        entry("log_mean_exp", &[&[3, 8]], |t, v| t.log_mean_exp(v[0])).values(tripled),
        entry("log_softmax", &[&[3, 5]], |t, v| t.log_softmax(v[0])).values(tripled),
        entry("log_softmax vectors", &[&[2, 2, 20]], |t, v| t.log_softmax(v[0])),
    ]
}

fn noise() -> Vec<Entry> {
    vec![
        entry("reparameterize", &[&[3, 5], &[3, 5]], |t, v| t.reparameterize(v[0], v[1])),
        entry("reparameterize vectors", &[&[4, 8], &[4, 8]], |t, v| t.reparameterize(v[0], v[1])),
        entry("reparameterize x x", &[&[3, 4]], |t, v| t.reparameterize(v[0], v[0])),
        entry("reparameterize frozen mean", &[&[3, 4]], |t, v| {
            let mu = t.constant("mu", &[3, 4], &random(8, 12))?;
            t.reparameterize(mu, v[0])
        }),
        entry("add_noise", &[&[3, 5]], |t, v| t.add_noise(v[0], 0.3)),
        entry("mul by noise", &[&[3, 4]], |t, v| {
            let noise = t.normal_like(v[0])?;
            t.mul(v[0], noise)
        }),
    ]
}

fn contrasts() -> Vec<Entry> {
    vec![
        entry("contrast matched", &[&[5, 5]], |t, v| t.contrast(v[0], Positives::Matched, 2.0)),
        entry("contrast views", &[&[2, 6, 6]], |t, v| t.contrast(v[0], Positives::Views, 2.0)),
        entry("contrast halves x x", &[&[6, 6]], |t, v| {
            // The second use adds to the gradient.
            let once = t.contrast(v[0], Positives::Halves, 2.0)?;
            let again = t.contrast(v[0], Positives::Views, 1.0)?;
            t.add(once, again)
        }),
        entry("contrast classes", &[&[6, 6]], |t, v| {
            let labels = classes(t, &[0, 1, 0, u32::MAX, 1, 2])?;
            t.contrast(v[0], Positives::Classes(labels), 2.0)
        }),
        entry("contrast signs", &[&[2, 5, 5]], |t, v| {
            let labels = t.constant("labels", &[5], &[2.0, -1.0, 0.4, -2.2, 0.0])?;
            t.contrast(v[0], Positives::Signs(labels), 2.0)
        }),
        entry("contrast by class of rows", &[&[5, 3]], |t, v| {
            let labels = classes(t, &[1, 0, 1, 1, 0])?;
            let units = Units::of(t, v[0])?;
            contrast::by_class(t, units, Classes::Ids(labels), 0.5)
        }),
        entry("contrast of two views", &[&[3, 4], &[3, 4]], |t, v| {
            let units = Units::pair(t, v[0], v[1])?;
            contrast::nt_xent(t, units, 0.5)
        }),
    ]
}

// ---- by hand ----------------------------------------------------------------------------------
