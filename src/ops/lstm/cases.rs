//! Calls to test and time the recurrences with.

use super::{DLAST, DY, LAST, MOST_UP, Y};
use crate::gpu::Defines;
use crate::ops::random;
use crate::plan::{Case, CaseArg};

/// One recurrence of a case: batch, steps, hidden, reverse, and whether it has a sequence (1) and
/// a last state (2).
type Shape = (usize, usize, usize, u32, u32);

/// Groups of one to four recurrences, at and around the sizes that choose a variant.
pub(super) fn list(backward: bool) -> Vec<Case> {
    let groups: [&[Shape]; 12] = [
        &[(1, 1, 1, 0, 3)],
        &[(3, 5, 5, 1, 1)],
        &[(9, 7, 16, 0, 2)],
        &[(17, 6, 20, 1, 3)],
        &[(8, 12, 32, 0, 3)],
        &[(2, 3, 64, 1, 2)],
        &[(3, 4, 100, 0, 3)],
        &[(2, 2, 256, 0, 2)],
        &[(16, 9, 32, 0, 2), (16, 12, 16, 0, 2)],
        &[(9, 5, 8, 0, 3), (9, 5, 8, 1, 1), (3, 8, 20, 0, 2)],
        &[(2, 4, 4, 0, 2), (9, 3, 12, 1, 2), (8, 5, 8, 0, 1), (1, 6, 16, 0, 2)],
        &[(2, 3, 5, 0, 1), (10, 4, 100, 1, 2)],
    ];
    groups
        .into_iter()
        .enumerate()
        .map(|(seed, group)| group_case(seed as u64 * 64, group, backward))
        .collect()
}

fn group_case(seed: u64, group: &[Shape], backward: bool) -> Case {
    let (mut seq, mut w, mut bias, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut words, mut ups, mut flops, mut names) = (Vec::new(), Vec::new(), 0, Vec::new());
    let mut defines = Defines::new();
    for (r, &(batch, steps, hidden, reverse, outputs)) in group.iter().enumerate() {
        let f = |s: u64, len: usize, scale: f32| -> Vec<f32> {
            random(seed + r as u64 * 16 + s, len).into_iter().map(|v| v * scale).collect()
        };
        // Where a tensor of these values begins, at a multiple of 64 as on a tape.
        let add = |to: &mut Vec<f32>, values: Vec<f32>| {
            let at = to.len().next_multiple_of(64);
            to.resize(at, 0.25);
            to.extend(values);
            at as u32
        };
        let cells = batch * steps * hidden;
        // Gates as a forward pass leaves them: within (0, 1), and g within (-1, 1).
        let active = |(i, v): (usize, f32)| match (i / hidden) % 4 {
            2 => v * 0.9,
            _ => 0.5 + v * 0.45,
        };
        let gates = match backward {
            true => f(4, 4 * cells, 1.0).into_iter().enumerate().map(active).collect(),
            false => f(4, 4 * cells, 1.5),
        };
        let mut word = [batch as u32, steps as u32, hidden as u32, reverse].to_vec();
        word.push(add(&mut seq, gates));
        word.push(add(&mut seq, f(5, cells, 1.5)));
        word.push(add(&mut seq, f(6, cells, 1.0)));
        word.push(add(&mut seq, f(7, batch * 2 * hidden, 1.0)));
        // Odd places send a case to the plain kernel, so the wide one has even places.
        let (ld, column) = if hidden % 4 == 0 { (hidden + 8, 4) } else { (hidden + 3, 2) };
        for (bit, name, up, len) in
            [(1, Y[r], DY[r], batch * steps * ld), (2, LAST[r], DLAST[r], batch * ld)]
        {
            word.push(ld as u32);
            if outputs & bit == 0 {
                word.push(0);
            } else if backward {
                word.push(column);
                ups.push(Some(CaseArg::F(f(8 + u64::from(bit), len, 1.0))));
                defines.insert(up, ups.len() as u32);
            } else {
                word.push(column + add(&mut seq, f(8 + u64::from(bit), len, 1.0)));
                defines.insert(name, 1);
            }
        }
        word.push(add(&mut w, f(1, 4 * hidden * hidden, 1.0 / (hidden as f32).sqrt())));
        word.push(add(&mut bias, f(2, 4 * hidden, 0.5)));
        lengths.resize(lengths.len().next_multiple_of(64), 0);
        word.extend([lengths.len() as u32, 0]);
        lengths.extend((0..batch as u32).map(|b| (b * 5 + 2) % steps as u32 + 1));
        flops += (batch * steps * 8 * hidden * hidden) as u64;
        names.push(format!("{batch}x{steps}x{hidden} reverse {reverse}"));
        words.extend(word);
    }
    let mut args = vec![Some(CaseArg::F(seq)), Some(CaseArg::F(w))];
    if backward {
        args.push(Some(CaseArg::U(lengths)));
        ups.resize(MOST_UP, None);
        args.extend(ups);
    } else {
        args.extend([Some(CaseArg::F(bias)), Some(CaseArg::U(lengths))]);
    }
    let mut case = Case::new(names.join(", "), words, args).within(3e-5).flops(flops);
    case.defines = defines;
    case
}
