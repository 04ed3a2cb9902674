//! Calls of the attention kernels, for their tests.

use super::{ATTENTION, MAX_TOKENS, Pass};
use crate::gpu::Defines;
use crate::ops::{arg, random, run_twin, sizes};
use crate::plan::{Case, CaseArg};

/// Heads, size of one, lengths of the sequences, rows behind them, dropout.
type Try = (usize, usize, &'static [usize], usize, f32);

const TRIES: [Try; 8] = [
    (1, 4, &[1], 0, 0.0),
    (3, 8, &[5, 1, 9], 2, 0.3),
    (2, 32, &[17, 3, 20, 2], 5, 0.0),
    (1, 32, &[70, 1, 1, 1, 12], 0, 0.0),
    (2, 64, &[40, 13], 11, 0.1),
    (1, 128, &[9, 30], 1, 0.5),
    (2, 20, &[33], 31, 0.2),
    (1, 64, &[2, 3], 0, 0.1),
];

/// Those with a bias, which reaches so many steps.
const BIASED: [(usize, Try); 5] = [
    (0, (2, 4, &[3, 1, 6], 1, 0.0)),
    (3, (3, 8, &[5, 1, 9], 2, 0.3)),
    (40, (2, 32, &[17, 3, 20, 2], 5, 0.0)),
    (5, (2, 64, &[40, 13], 11, 0.1)),
    (511, (1, 20, &[33, 70], 3, 0.2)),
];

/// Those where each sample has one query.
const FIRST: [Try; 3] = [
    (3, 8, &[5, 1, 9], 2, 0.3),
    (2, 32, &[17, 3, 40], 5, 0.0),
    (1, 4, &[2, 1, 1, 3, 2, 4, 1, 2, 1, 1, 5, 1, 2, 1, 1, 1, 3, 1, 1], 0, 0.0),
];

/// Samples, steps of queries and of keys, heads, size of one, how far ahead a query sees, lengths of
/// the keys, dropout.
type PaddedTry = (usize, usize, usize, usize, usize, usize, Option<&'static [u32]>, f32);

const ALL: usize = u32::MAX as usize;
const PADDED: [PaddedTry; 7] = [
    (1, 1, 1, 1, 1, ALL, None, 0.0),
    (3, 5, 7, 2, 8, ALL, Some(&[7, 0, 3]), 0.0),
    (2, 7, 5, 10, 5, 2, None, 0.3),
    (2, 40, 21, 2, 5, 0, Some(&[21, 30]), 0.0),
    (3, 9, 33, 1, 32, 24, Some(&[1, 33, 16]), 0.2),
    (1, 6, 30, 1, 50, 3, None, 0.1),
    (2, 3, 70, 3, 127, ALL, None, 0.0),
];

/// Tokens of sequences of these lengths, and rows of none behind them.
fn tokens(lengths: &[usize], padding: usize) -> Vec<u32> {
    let mut list = Vec::new();
    for (sample, length) in lengths.iter().enumerate() {
        for position in 0..*length {
            // A segment above the position, a word that nobody reads.
            let place = position as u32 | ((position as u32 % 2) << 16);
            list.extend([7, place, *length as u32, sample as u32]);
        }
    }
    list.extend(vec![0; 4 * padding]);
    list
}

/// First row and length of each, and a sample of none behind them.
fn spans(lengths: &[usize]) -> Vec<u32> {
    let mut list = Vec::new();
    for length in lengths {
        let first = list.len().checked_sub(2).map_or(0, |at| list[at] + list[at + 1]);
        list.extend([first, *length as u32]);
    }
    list.extend([0, 0]);
    list
}

pub(super) fn all(pass: Pass) -> Vec<Case> {
    let biased = BIASED.iter().enumerate().map(|(i, (reach, one))| biased(pass, i, *reach, *one));
    if pass == Pass::Bias {
        return biased.collect();
    }
    let plain = TRIES.iter().enumerate().map(|(i, one)| case(pass, false, i, *one));
    let first = FIRST.iter().enumerate().map(|(i, one)| case(pass, true, i, *one));
    let padded = PADDED.iter().enumerate().map(|(i, one)| padded(pass, i, *one));
    plain.chain(first).chain(padded).chain(biased).collect()
}

/// Queries, keys and their heads as the words say; what says which belong together.
struct Given {
    words: Vec<u32>,
    tokens: Option<CaseArg>,
    ranges: [Option<CaseArg>; 2],
    lengths: Option<CaseArg>,
    bias: Option<CaseArg>,
}

fn padded(pass: Pass, i: usize, one: PaddedTry) -> Case {
    let (samples, steps, kv_steps, heads, head, ahead, lengths, dropout) = one;
    let (queries, keys, hidden) = (samples * steps, samples * kv_steps, heads * head);
    // Columns that belong to nobody show who strays; where heads are quads, all of them are.
    let by = if head.is_multiple_of(4) { 4 } else { 1 };
    let (ldq, ldkv) = (hidden + by * (i % 3), 2 * hidden + by * (i % 2));
    let (q_at, k_at) = (ldq - hidden, by * (i % 2));
    let mut words = sizes(&[queries, keys, heads, head, ldq, q_at, ldkv, k_at, k_at + hidden]);
    let threshold = (f64::from(dropout) * 4_294_967_296.0) as u32;
    words.extend([(i % 2) as u32, 5, threshold]);
    words.extend([1.0 / (1.0 - dropout), 1.0 / (head as f32).sqrt()].map(f32::to_bits));
    words.extend(sizes(&[kv_steps, 0, steps, kv_steps, ahead, 0]));
    let of = lengths.map_or("all".to_string(), |l| format!("{l:?}"));
    let name = format!("{samples} of {steps} by {kv_steps}, {heads}x{head} of {of} at {dropout}");
    let lengths = lengths.map(|l| CaseArg::U(l.to_vec()));
    let given = Given { words, tokens: None, ranges: [None, None], lengths, bias: None };
    finish(pass, i, name, given, Defines::from([("PADDED", 1)]))
}

fn case(pass: Pass, first: bool, i: usize, (heads, head, lengths, padding, dropout): Try) -> Case {
    let rows = lengths.iter().sum::<usize>() + padding;
    let queries = if first { lengths.len() + 1 } else { rows };
    let hidden = heads * head;
    // Columns that belong to nobody show who strays.
    let (ldq, ldkv) = (hidden + 4 * (i % 3), 2 * hidden + 4 * (i % 2));
    let (q_at, k_at) = (ldq - hidden, 4 * (i % 2));
    let mut words = sizes(&[queries, rows, heads, head, ldq, q_at, ldkv, k_at, k_at + hidden]);
    let threshold = (f64::from(dropout) * 4_294_967_296.0) as u32;
    words.extend([(i % 2) as u32, 5, threshold]);
    words.extend([1.0 / (1.0 - dropout), 1.0 / (head as f32).sqrt()].map(f32::to_bits));
    words.extend(sizes(&[MAX_TOKENS, 0]));
    let tokens = Some(CaseArg::U(tokens(lengths, padding)));
    let spans = first.then(|| CaseArg::U(spans(lengths)));
    let ranges = if first { [None, spans] } else { [tokens.clone(), None] };
    let kind = if first { " first" } else { "" };
    let name = format!("{heads}x{head} of {lengths:?}+{padding} at {dropout}{kind}");
    let defines = if first { Defines::from([("FIRST", 1)]) } else { Defines::new() };
    finish(pass, i, name, Given { words, tokens, ranges, lengths: None, bias: None }, defines)
}

/// Queries, keys and values side by side in one tensor.
fn biased(pass: Pass, i: usize, reach: usize, one: Try) -> Case {
    let (heads, head, lengths, padding, dropout) = one;
    let rows = lengths.iter().sum::<usize>() + padding;
    let hidden = heads * head;
    // Columns that belong to nobody, before those of the queries or behind those of the values.
    let (at, ld) = (4 * (i % 2), 3 * hidden + 4 * (i % 3).max(i % 2));
    let mut words = sizes(&[rows, rows, heads, head, ld, at, ld, at + hidden, at + 2 * hidden]);
    let threshold = (f64::from(dropout) * 4_294_967_296.0) as u32;
    words.extend([(i % 2) as u32, 5, threshold]);
    words.extend([1.0 / (1.0 - dropout), 1.0 / (head as f32).sqrt()].map(f32::to_bits));
    words.extend(sizes(&[MAX_TOKENS, reach]));
    let tokens = Some(CaseArg::U(tokens(lengths, padding)));
    let ranges = [tokens.clone(), None];
    let name = format!("{heads}x{head} of {lengths:?}+{padding} at {dropout}, bias to {reach}");
    let bias = arg(9, (2 * reach + 1) * heads);
    finish(pass, i, name, Given { words, tokens, ranges, lengths: None, bias }, Defines::new())
}

fn finish(pass: Pass, i: usize, name: String, given: Given, defines: Defines) -> Case {
    let Given { words, tokens, ranges, lengths, bias } = given;
    let [queries, rows, heads, head, ldq, _, ldkv] =
        [0, 1, 2, 3, 4, 5, 6].map(|w| words[w] as usize);
    // Every third case has scores far apart; keys and values in the same tensor grow as queries do.
    let far = match bias {
        _ if i % 3 != 2 => 1.0,
        Some(_) => 4.0,
        None => 30.0,
    };
    let wide = |seed, len| {
        let values = random(seed, len);
        Some(CaseArg::F(values.iter().map(|v| v * far).collect()))
    };
    let kv = if bias.is_some() { None } else { arg(2, rows * ldkv) };
    let q = wide(1, queries * ldq);
    let (out, stat) = (queries * heads * head, queries * heads);
    let given = [q, kv];
    // Sums of another forward would make probabilities beyond all measure of what these scores say.
    let sums = || {
        let args = given.iter().chain(&ranges).cloned();
        let args = args.chain([arg(3, out), arg(4, stat), lengths.clone(), bias.clone()]).collect();
        let forward = Case { defines: defines.clone(), ..Case::new("", words.clone(), args) };
        let left = run_twin(&ATTENTION, &forward).swap_remove(5)?;
        Some(CaseArg::U(left))
    };
    let sums = if pass == Pass::Forward { None } else { sums() };
    let args: Vec<Option<CaseArg>> = match pass {
        Pass::Forward => {
            let lse = if i % 4 == 3 { None } else { arg(4, stat) };
            given.into_iter().chain(ranges).chain([arg(3, out), lse, lengths, bias]).collect()
        }
        Pass::Queries => {
            let read = [arg(3, out), arg(4, out), sums];
            let written = [arg(6, queries * ldq), arg(7, stat), lengths, bias];
            given.into_iter().chain(ranges).chain(read).chain(written).collect()
        }
        Pass::Keys => {
            let read = [tokens, arg(4, out), sums, arg(7, stat)];
            given.into_iter().chain(read).chain([arg(6, rows * ldkv), lengths, bias]).collect()
        }
        Pass::Bias => {
            let [q, _] = given;
            let sums = [q, tokens, arg(4, out), sums, arg(7, stat)];
            let len = bias.as_ref().map_or(0, CaseArg::len);
            sums.into_iter().chain([bias, arg(6, len)]).collect()
        }
    };
    let flops = (8 * queries * rows * heads * head) as u64;
    // Sums of some dozens of products of numbers up to 30, in another order; scores of 40 carry their
    // rounding into exponents, and what comes of those is multiplied by 30 once more.
    let tolerance = if far > 1.0 { 1e-4 } else { 3e-5 };
    Case { defines, ..Case::new(name, words, args) }.within(tolerance).flops(flops)
}
