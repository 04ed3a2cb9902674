//! Adam and AdamW.

use super::{Clip, Row, Words, launch, runs};
use crate::ops::random;
use crate::plan::{Binding, Case, CaseArg, Kernel};

/// One step of Adam or AdamW; see `shaders/adam.wgsl`.
pub static ADAM: Kernel = Kernel {
    name: "adam",
    source: include_str!("../../../shaders/adam.wgsl"),
    bindings: &[
        Binding::write("VALUE").updated(),
        Binding::write("GRAD").updated(),
        Binding::write("M").updated(),
        Binding::write("V").updated(),
        Binding::read("RUNS"),
        Binding::read("GROUPS"),
        Binding::read("NORM").or_none(),
    ],
    step: true,
    launch,
    twin: reference::adam,
    cases: || {
        let mut cases: Vec<Case> = [(4, 1), (1000, 2), (9000, 2), (4096, 23)]
            .into_iter()
            .map(|(n, groups)| case(n, groups, Clip::default()))
            .collect();
        cases.push(case(516, 2, Clip::norm(0.5)));
        cases.push(case(516, 5, Clip::value(0.25)));
        cases.push(case(2100, 3, Clip { norm: Some(8.0), value: Some(0.25) }));
        cases.push(vanishing());
        cases
    },
};

/// A row of Adam at step `t`, with torch's betas unless given; decay decoupled every other time.
fn row(group: usize) -> Row {
    let (lr, decay) = (1e-3 * (group % 5 + 1) as f32, 1e-2 / (group + 1) as f32);
    let (beta1, beta2) = if group % 3 == 1 { (0.8, 0.99) } else { (0.9, 0.999) };
    let decoupled = group % 2 == 1;
    // The eighth group, where there is one, is left as it is.
    let t = if group == 7 { 0 } else { 3 + group as u32 };
    let bias = |beta: f64| (1.0 - beta.powi(t as i32)) as f32;
    Row {
        t,
        lr,
        decay: if decoupled { 0.0 } else { decay },
        keep: if decoupled { 1.0 - lr * decay } else { 1.0 },
        beta1: beta1 as f32,
        rest1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        rest2: (1.0 - beta2) as f32,
        bias1: bias(beta1),
        bias2: bias(beta2),
        eps: if group == 2 { 1e-6 } else { 1e-8 },
        nesterov: 0,
    }
}

/// So many groups, the last of which ends before the arena does where there are more than two. The
/// first is the largest: with 9,000 elements its end is in the second workgroup of the wide family.
pub(super) fn ends(n: usize, groups: usize) -> Vec<(usize, usize)> {
    let rest = n / 4 / (2 * groups);
    let first = n / 4 - (groups - 1) * rest - if groups > 2 { 1 } else { 0 };
    (0..groups).map(|g| (4 * (first + g * rest), g)).collect()
}

pub(super) fn table(rows: impl Iterator<Item = Row>) -> Option<CaseArg> {
    Some(CaseArg::U(rows.flat_map(bytemuck::cast::<Row, [u32; Row::WORDS]>).collect()))
}

fn case(n: usize, groups: usize, clip: Clip) -> Case {
    let f = |s, len| Some(CaseArg::F(random(s, len)));
    let v = Some(CaseArg::F(random(4, n).iter().map(|x| x.abs() * 0.1).collect()));
    let norm = clip.norm.map(|_| CaseArg::F(vec![9.0]));
    let args = vec![
        f(1, n),
        f(2, n),
        f(3, n),
        v,
        Some(CaseArg::U(runs(&ends(n, groups)))),
        table((0..groups).map(row)),
        norm,
    ];
    let words = Words::new(n, groups, groups, clip).list();
    let case = Case::new(format!("{n} in {groups} groups, {clip:?}"), words, args);
    if clip.value.is_some() { case.define("MAX_VALUE", 1) } else { case }
}

/// Numbers so small that they count as zero, beside some that do not: every pair of a gradient and
/// a moment.
fn vanishing() -> Case {
    let sizes = [0.0, 1e-38, 3e-31, 4e-18, 2e-16, 1e-3];
    let all: Vec<f32> = sizes.iter().flat_map(|s| [*s, -s]).collect();
    let pairs = || all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
    let n = all.len() * all.len();
    let grad = pairs().map(|(_, g)| g).collect();
    let m = pairs().map(|(m, _)| m).collect();
    let v = pairs().map(|(m, _)| m.abs()).collect();
    let [value, grad, m, v] = [vec![0.0; n], grad, m, v].map(|values| Some(CaseArg::F(values)));
    let words = Words::new(n, 1, 1, Clip::default()).list();
    let runs = Some(CaseArg::U(runs(&[(n, 0)])));
    let args = vec![value, grad, m, v, runs, table(std::iter::once(row(0))), None];
    Case::new("vanishing", words, args)
}

/// The CPU twin.
pub mod reference {
    use super::super::{Call, above};
    use crate::plan::Twin;

    /// Torch's Adam and AdamW, element by element.
    pub fn adam(t: &mut Twin) {
        let call = Call::of(t, [4, 5, 6]);
        for (i, row) in call.elements() {
            let value = t.write(0)[i];
            let g = above(call.gradient(t.write(1)[i]) + row.decay * value, 1e-17);
            let m = above(row.beta1 * t.write(2)[i] + row.rest1 * g, 1e-30);
            let v = above(row.beta2 * t.write(3)[i] + row.rest2 * g * g, 1e-30);
            let denominator = v.sqrt() / row.bias2.sqrt() + row.eps;
            t.write(0)[i] = row.keep * value - row.lr / row.bias1 * m / denominator;
            t.write(1)[i] = 0.0;
            t.write(2)[i] = m;
            t.write(3)[i] = v;
        }
    }
}
