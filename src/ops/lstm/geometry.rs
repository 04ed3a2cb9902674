//! How a group of recurrences is launched, and what it moves.

use super::{DLAST, DY, HELD, HID, LARGE, LAST, UNROLLED, WORDS, Y};
use crate::gpu::{Defines, Family};
use crate::plan::Launch;

/// Of each recurrence a number of words by its batch, steps and hidden size, added up.
pub(super) fn each(words: &[u32], of: impl Fn(u64, u64, u64) -> u64) -> u64 {
    words.chunks(WORDS).map(|q| of(u64::from(q[0]), u64::from(q[1]), u64::from(q[2]))).sum()
}

/// What a forward pass writes of SEQ: gates, cells, states before each step, and outputs.
pub(super) fn written(words: &[u32], defines: &Defines) -> u64 {
    let list = words.chunks(WORDS).enumerate();
    list.map(|(r, q)| {
        let has = |name: &str| u64::from(defines.contains_key(name));
        let states = u64::from(q[0]) * u64::from(q[2]);
        states * (u64::from(q[1]) * (6 + has(Y[r])) + has(LAST[r]))
    })
    .sum()
}

/// What a group reads of a tensor above it: of each recurrence that reads it, its columns.
pub(super) fn from_above(words: &[u32], defines: &Defines, place: u32) -> u64 {
    let list = words.chunks(WORDS).enumerate();
    list.map(|(r, q)| {
        let reads = |name: &str| u64::from(defines.get(name) == Some(&(place + 1)));
        let states = u64::from(q[0]) * u64::from(q[2]);
        states * (u64::from(q[1]) * reads(DY[r]) + reads(DLAST[r]))
    })
    .sum()
}

/// How many quads of a state the wide forward holds at a time: all of a small one, else as many as divide it.
fn held(hidden: u32) -> u32 {
    let quads = hidden / 4;
    (1..=UNROLLED as u32 / 4).rev().find(|n| quads.is_multiple_of(*n)).unwrap_or(1)
}

pub(super) fn launch(family: Family, words: &[u32], forward: bool) -> Launch {
    let list: Vec<&[u32]> = words.chunks(WORDS).collect();
    let groups = |per: u32| Launch::of([list.iter().map(|q| q[0].div_ceil(per)).sum(), 1, 1]);
    let hidden = || list.iter().map(|q| q[2]);
    let lanes = family.lanes();
    let by_fours = list.iter().all(|q| [2, 8, 9, 10, 11].iter().all(|i| q[*i] % 4 == 0));
    let largest = hidden().max().unwrap_or(1);
    let wg = (4 * largest).next_multiple_of(64).min(256);
    let mut sizes = Vec::new();
    let (mut launch, per_step): (_, fn(u32, u32, bool) -> u32) = if lanes > 0 && by_fours {
        sizes.extend(HID.into_iter().zip(hidden()));
        if forward {
            sizes.extend(HELD.into_iter().zip(hidden().map(held)));
        }
        let launch = groups(lanes).with("LANES", lanes).long();
        (launch, |h, _, forward| match (forward, h / 4) {
            (true, quads) => quads * (quads / held(h)),
            (false, quads) => quads + quads.div_ceil(4) * (h + 1),
        })
    } else if family.tiled() {
        let mut launch = groups(1).with("TILED", 1).with("WG", wg);
        if forward {
            let small = |h: u32| h <= UNROLLED as u32;
            sizes.extend(HID.into_iter().zip(hidden()).filter(|(_, h)| small(*h)));
            sizes.extend(LARGE.into_iter().zip(hidden()).filter(|(_, h)| !small(*h)));
            launch = launch.with("LARGE", u32::from(!small(largest)));
        }
        if hidden().all(|h| h % 4 == 0) {
            launch = launch.with("QUADS", 1);
        }
        (launch, |h, wg, forward| match forward {
            true if h <= UNROLLED as u32 => 0,
            true => h.div_ceil(32) * (h.div_ceil(32) + 8),
            false => {
                let slices = wg / if h % 4 == 0 { h / 4 } else { h };
                h.div_ceil(slices) + slices
            }
        })
    } else {
        let per_step = |h: u32, _, forward| if forward { h * (h + 1) } else { h * (4 * h + 2) };
        (groups(8), per_step)
    };
    launch = launch.with("COUNT", list.len() as u32);
    for (name, value) in sizes {
        launch = launch.with(name, value);
    }
    let longest = list
        .iter()
        .map(|q| u64::from(q[1]) * u64::from((per_step(q[2], wg, forward) + 1).max(q[2])))
        .max();
    let rounds = list.iter().map(|q| u64::from(q[1])).max();
    launch.iterations(longest.unwrap_or(0)).rounds(rounds.unwrap_or(0))
}
