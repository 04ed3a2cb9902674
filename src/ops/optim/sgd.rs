//! SGD, with momentum and Nesterov's look ahead.

use super::adam::{ends, table};
use super::{Clip, Row, Words, launch, runs};
use crate::ops::random;
use crate::plan::{Binding, Case, CaseArg, Kernel};

/// One step of SGD; see `shaders/sgd.wgsl`.
pub static SGD: Kernel = Kernel {
    name: "sgd",
    source: include_str!("../../../shaders/sgd.wgsl"),
    bindings: &[
        Binding::write("VALUE").updated(),
        Binding::write("GRAD").updated(),
        Binding::write("M").updated().or_none(),
        Binding::read("RUNS"),
        Binding::read("GROUPS"),
        Binding::read("NORM").or_none(),
    ],
    step: true,
    launch,
    twin: reference::sgd,
    cases: || {
        let none = Clip::default();
        let both = Clip { norm: Some(8.0), value: Some(0.25) };
        vec![
            case(4, 1, true, none),
            case(1000, 3, true, none),
            case(9000, 2, true, none),
            case(4096, 23, true, none),
            case(2100, 3, true, both),
            case(1000, 2, false, none),
            case(9000, 3, false, Clip::norm(0.5)),
            case(516, 2, false, Clip::value(0.25)),
        ]
    },
};

/// Nesterov in every other group, the second a first step, the third without momentum.
fn row(group: usize) -> Row {
    let momentum = if group % 3 == 2 { 0.0 } else { 0.9 };
    let nesterov = u32::from(group.is_multiple_of(2) && momentum > 0.0);
    let dampening = if nesterov == 0 && momentum > 0.0 { 0.25 } else { 0.0 };
    let t = if group == 7 { 0 } else { 1 + (group != 1) as u32 };
    Row {
        t,
        lr: 1e-2 * (group % 5 + 1) as f32,
        decay: 1e-2 / (group + 1) as f32,
        keep: 1.0,
        beta1: momentum,
        rest1: if t == 1 { 1.0 } else { 1.0 - dampening },
        nesterov,
        ..Row::default()
    }
}

fn case(n: usize, groups: usize, momentum: bool, clip: Clip) -> Case {
    let f = |s, len| Some(CaseArg::F(random(s, len)));
    let m = momentum.then(|| CaseArg::F(random(3, n)));
    let norm = clip.norm.map(|_| CaseArg::F(vec![9.0]));
    let ends = Some(CaseArg::U(runs(&ends(n, groups))));
    let args = vec![f(1, n), f(2, n), m, ends, table((0..groups).map(row)), norm];
    let words = Words::new(n, groups, groups, clip).list();
    let name = format!("{n} in {groups} groups, momentum {momentum}, {clip:?}");
    let case = Case::new(name, words, args);
    if clip.value.is_some() { case.define("MAX_VALUE", 1) } else { case }
}

/// The CPU twin.
pub mod reference {
    use super::super::{Call, above};
    use crate::plan::Twin;

    /// Torch's SGD, element by element.
    pub fn sgd(t: &mut Twin) {
        let call = Call::of(t, [3, 4, 5]);
        for (i, row) in call.elements() {
            let value = t.write(0)[i];
            let g = above(call.gradient(t.write(1)[i]) + row.decay * value, 1e-30);
            let mut d = g;
            if t.has(2) {
                let m = above(row.beta1 * t.write(2)[i] + row.rest1 * g, 1e-30);
                t.write(2)[i] = m;
                d = if row.nesterov > 0 { g + row.beta1 * m } else { m };
            }
            t.write(0)[i] = value - row.lr * d;
            t.write(1)[i] = 0.0;
        }
    }
}
