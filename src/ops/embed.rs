//! Word, position and segment embeddings with their LayerNorm, and gradients without atomics: the
//! host tells which tokens of a batch share a row of a table.

use super::dropout::Mask;
use super::norm::{self, Kept};
use super::reduce::row_launch;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel, Launch, Twin, grid};
use crate::tape::{Tape, Var};

/// Sums of embeddings, normalised; see `shaders/embed.wgsl`.
pub static EMBED: Kernel = Kernel {
    name: "embed",
    source: include_str!("../../shaders/embed.wgsl"),
    bindings: &[
        Binding::read("TOKENS"),
        // A row of the tables for each token, not the tables.
        Binding::read("WORD").part(|p, _, len| [len.min(elements(p)), 0]),
        Binding::read("REST").part(|p, defines, len| match defines.contains_key("LAST") {
            true => [len.min(2 * elements(p)), 0],
            false => [0, 0],
        }),
        Binding::read("GB"),
        Binding::write("X").part(|_, defines, len| match defines.contains_key("FIRST") {
            true => [0, len],
            false => [len, len],
        }),
        Binding::write("OUT").or_none(),
        Binding::write("STATS").or_none(),
    ],
    step: true,
    launch: |family, words, _| row_launch(family, words[0] as usize, words[1] as usize, true),
    twin: reference::embed,
    cases: cases::forward,
};

/// Gradients of the tables; see `shaders/embed_backward.wgsl`.
pub static EMBED_BACKWARD: Kernel = Kernel {
    name: "embed_backward",
    source: include_str!("../../shaders/embed_backward.wgsl"),
    bindings: &[
        Binding::read("DX"),
        Binding::read("ORDER"),
        Binding::read("RUNS"),
        // At most a row for each run.
        Binding::write("TABLE").part(|p, _, len| [len.min(u64::from(p[0]) * u64::from(p[2])); 2]),
    ],
    step: false,
    // A run is as long as the batch where all tokens share a segment.
    launch: |_, words, _| {
        Launch::of(grid((words[2] * words[0] / 4) as usize, 64)).iterations(u64::from(words[2]))
    },
    twin: reference::embed_backward,
    cases: cases::backward,
};

/// Elements of what comes out.
fn elements(words: &[u32]) -> u64 {
    u64::from(words[0]) * u64::from(words[1])
}

/// A word table, or the rows of it that begin at word `base`.
#[derive(Clone, Copy, Debug)]
pub struct WordPart {
    /// `[rows, width]`.
    pub var: Var,
    /// Its first word.
    pub base: usize,
}

/// The tables of an encoder beside its words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Tables {
    /// Rows of the position table.
    pub positions: usize,
    /// Which of them a sentence's first token takes: 0 of BERT, past that of the padding of RoBERTa.
    pub offset: usize,
    /// Rows of the segment table; 0 where there is none.
    pub segments: usize,
}

impl Tables {
    /// Rows of both.
    pub fn rows(&self) -> usize {
        self.positions + self.segments
    }
}

/// Where a block of words keeps the tokens of a batch; offsets in words. What they mean is told at
/// [`Embed`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TokenLayout {
    /// Token rows, padding rows included: T.
    pub rows: usize,
    /// u32 `[T, 4]`, one token a row.
    pub tokens_at: usize,
    /// u32 `[batch, 2]`, one sample a row.
    pub spans_at: usize,
    /// u32 `[3 T]`.
    pub order_at: usize,
    /// u32 `[T + rest_runs, 4]`.
    pub runs_at: usize,
    /// Runs of positions and segments.
    pub rest_runs: usize,
    /// The encoder's tables beside its words.
    pub tables: Tables,
}

/// What [`Tape::embed`] reads. The token tensors are those of `nn::TokenVars`.
#[derive(Clone, Debug)]
pub struct Embed {
    /// `[T, 4]` u32.
    pub tokens: Var,
    /// The word table, in parts that together are the vocabulary.
    pub words: Vec<WordPart>,
    /// `[positions + segments, width]`.
    pub rest: Var,
    /// Which rows of `rest` are what.
    pub tables: Tables,
    /// `[2, width]`: weight and bias of the LayerNorm.
    pub gb: Var,
    /// Of the LayerNorm.
    pub eps: f32,
    /// Behind the LayerNorm.
    pub dropout: f32,
    /// `[3 T]` u32, by [`sort_runs`].
    pub order: Var,
    /// `[T + rest_runs, 4]` u32, by [`sort_runs`].
    pub runs: Var,
    /// [`rest_runs`] of the batch.
    pub rest_runs: usize,
}

/// Runs that `rows` tokens can have in these tables.
pub fn rest_runs(rows: usize, tables: Tables) -> usize {
    rows.min(tables.positions) + tables.segments
}

/// Sorts the rows of `tokens [T, 4]` by word, by position and by segment into the three parts of
/// `order [3 T]`, and notes where each distinct one begins and ends in `runs [T + M, 4]` as (row of
/// the table, begin, end, 0): words first, then positions, then segments, which are rows behind the
/// positions of the same table, where there are any. Runs that are left over are empty. Rows without a token are in
/// no run.
pub fn sort_runs(tokens: &[u32], tables: Tables, order: &mut [u32], runs: &mut [u32]) {
    let rows = tokens.len() / 4;
    let Tables { positions, offset, segments } = tables;
    runs.fill(0);
    order.fill(0);
    let last = |v: u32, count: usize| v.min(count.saturating_sub(1) as u32);
    let mut next = 0;
    for kind in 0..if segments > 0 { 3 } else { 2 } {
        let key = |row: u32| {
            let token = &tokens[4 * row as usize..][..4];
            match kind {
                0 => token[0],
                1 => last((token[1] & 0xffff) + offset as u32, positions),
                _ => positions as u32 + last(token[1] >> 16, segments),
            }
        };
        if kind == 1 {
            next = rows;
        }
        let part = &mut order[kind * rows..(kind + 1) * rows];
        let mut count = 0;
        for row in (0..rows as u32).filter(|row| tokens[4 * *row as usize + 2] > 0) {
            part[count] = row;
            count += 1;
        }
        let part = &mut part[..count];
        part.sort_unstable_by_key(|row| (key(*row), *row));
        let mut begin = kind * rows;
        for run in part.chunk_by(|a, b| key(*a) == key(*b)) {
            let end = begin + run.len();
            runs[4 * next..4 * next + 3].copy_from_slice(&[key(run[0]), begin as u32, end as u32]);
            (begin, next) = (end, next + 1);
        }
    }
}

impl Tape {
    /// `dropout(norm(word + position + segment))`, `[T, width]`: a dispatch for each part of the word
    /// table. Backward: two for the norm, one for each part and one for positions and segments.
    ///
    /// # Errors
    /// Sizes that do not fit; a table that is trained and not a parameter.
    pub fn embed(&mut self, e: Embed) -> Result<Var> {
        let (rows, four) = self.rows_cols(e.tokens);
        let (rest_rows, cols) = self.rows_cols(e.rest);
        let part = |p: &WordPart| self.rows_cols(p.var).1 == cols && self.len(p.var) > 0;
        let parts = e.words.iter().all(part);
        let runs = self.rows_cols(e.runs) == (rows + e.rest_runs, 4);
        let fits = four == 4 && cols % 4 == 0 && rows * cols > 0 && !e.words.is_empty() && parts;
        let tables = e.tables.rows() == rest_rows && e.tables.offset < e.tables.positions;
        if !(fits && runs && self.len(e.order) == 3 * rows && tables)
            || self.rows_cols(e.gb) != (2, cols)
        {
            let detail = format!(
                "tokens {:?}, words {:?}, rest {:?}, norm {:?}, order {:?}, runs {:?}: want \
                 [T, 4], [_, 4 k], [{}, 4 k], [2, 4 k], [3 T], [T + {}, 4]",
                self.shape(e.tokens),
                e.words.iter().map(|p| self.shape(p.var).to_vec()).collect::<Vec<_>>(),
                self.shape(e.rest),
                self.shape(e.gb),
                self.shape(e.order),
                self.shape(e.runs),
                e.tables.rows(),
                e.rest_runs
            );
            return Err(Error::shape("embed", detail));
        }
        let mask = Mask::new(self, e.dropout)?;
        let mut tables: Vec<Var> = e.words.iter().map(|p| p.var).collect();
        tables.push(e.rest);
        let x = self.output("embedded", &[rows, cols], &tables);
        let out = self.output("embeddings", &[rows, cols], &[x, e.gb]);
        let stats = self.wants_grad(out).then(|| self.output("norm.stats", &[rows, 2], &[]));
        for (i, part) in e.words.iter().enumerate() {
            let last = i + 1 == e.words.len();
            let mut words = sizes(&[rows, cols]);
            words.push(e.eps.to_bits());
            words.extend(mask.words());
            let Tables { positions, offset, segments } = e.tables;
            let part_rows = self.rows_cols(part.var).0;
            words.extend(sizes(&[part.base, part_rows, positions, rest_rows, offset]));
            let mut defines = mask.defines();
            defines.extend([("FIRST", u32::from(i == 0)), ("LAST", u32::from(last))]);
            defines.insert("SEGMENTS", u32::from(segments > 0));
            defines.retain(|_, on| *on != 0);
            let args = [
                Some(e.tokens),
                Some(part.var),
                Some(e.rest),
                Some(e.gb),
                Some(x),
                last.then_some(out),
                stats.filter(|_| last),
            ];
            self.call(&EMBED, &args, words, defines, 10 * (rows * cols) as u64);
        }
        self.on_backward(&[out], move |tape| {
            let (Some(dout), Some(stats)) = (tape.grad(out), stats) else { return Ok(()) };
            let kept = Kept { z: x, stats, gb: e.gb, mask, after: true };
            norm::backward(tape, dout, kept, Some(x), None);
            let Some(dx) = tape.grad(x) else { return Ok(()) };
            for part in &e.words {
                table_gradient(tape, dx, &e, part.var, (0, rows), part.base)?;
            }
            table_gradient(tape, dx, &e, e.rest, (rows, e.rest_runs), 0)
        });
        Ok(out)
    }
}

/// Adds the rows of some runs to a table's gradient.
fn table_gradient(
    tape: &mut Tape,
    dx: Var,
    e: &Embed,
    table: Var,
    (first, count): (usize, usize),
    base: usize,
) -> Result<()> {
    let Some(sink) = tape.sink(table) else { return Ok(()) };
    let (rows, cols) = tape.rows_cols(table);
    if sink.accumulate == 0 {
        let detail = "only rows that a batch has are added to: a table must be a parameter";
        return Err(Error::shape("embed", detail));
    }
    let (tokens, places) = (tape.rows_cols(dx).0, tape.len(e.order));
    let words = sizes(&[cols, first, count, base, rows, tokens, places]);
    let args = [Some(dx), Some(e.order), Some(e.runs), Some(sink.var)];
    let flops = tape.len(dx) as u64;
    tape.call(&EMBED_BACKWARD, &args, words, Defines::new(), flops);
    Ok(())
}

mod cases {
    use super::*;

    /// Tokens of sentences of these lengths and `padding` rows without one.
    pub(super) fn tokens(lengths: &[usize], padding: usize, vocabulary: u32) -> Vec<u32> {
        let mut all = Vec::new();
        for (sample, length) in lengths.iter().enumerate() {
            for position in 0..*length {
                let word = (position * 7 + sample * 3) as u32 % vocabulary;
                let segment = u32::from(position * 2 > *length);
                all.extend([word, position as u32 | segment << 16, *length as u32, sample as u32]);
            }
        }
        all.extend(vec![0; padding * 4]);
        all
    }

    pub(super) fn forward() -> Vec<Case> {
        let list: [(&[usize], usize, usize, usize, usize); 5] = [
            (&[1], 0, 4, 0, 2),
            (&[3, 5, 2], 2, 20, 1, 2),
            (&[40, 33], 7, 8, 0, 2),
            (&[9, 1], 6, 132, 2, 2),
            (&[4, 38], 1, 12, 0, 0),
        ];
        list.into_iter()
            .enumerate()
            .map(|(i, (lengths, padding, cols, part, segments))| {
                let tokens = tokens(lengths, padding, 11);
                let rows = tokens.len() / 4;
                // Part 0 is all words, 1 the first of two, 2 the second.
                let (base, words) = [(0, 11), (0, 6), (6, 5)][part];
                let mask = Mask((i % 2 == 1).then_some((3, 0.3)));
                let mut p = sizes(&[rows, cols]);
                p.push(1e-5_f32.to_bits());
                p.extend(mask.words());
                // Without segments positions begin at the third row.
                let offset = if segments > 0 { 0 } else { 2 };
                p.extend(sizes(&[base, words, 40 - segments, 40, offset]));
                let last = part != 1;
                let args = vec![
                    Some(CaseArg::U(tokens)),
                    arg(1, words * cols),
                    arg(2, 40 * cols),
                    arg(3, 2 * cols),
                    arg(4, rows * cols),
                    if last { arg(5, rows * cols) } else { None },
                    if last && i != 2 { arg(6, rows * 2) } else { None },
                ];
                let name = format!("{lengths:?} x {cols}, part {part}, {segments} segments");
                let mut case = Case::new(name, p, args).within(2e-5);
                case.defines = mask.defines();
                let segments = segments > 0;
                for (name, on) in [("FIRST", part != 2), ("LAST", last), ("SEGMENTS", segments)] {
                    if on {
                        case = case.define(name, 1);
                    }
                }
                case.flops(10 * (rows * cols) as u64)
            })
            .collect()
    }

    pub(super) fn backward() -> Vec<Case> {
        let list: [(&[usize], usize, usize); 3] =
            [(&[1], 0, 4), (&[3, 5, 2], 2, 20), (&[40, 33], 7, 8)];
        let mut cases = Vec::new();
        for (lengths, padding, cols) in list {
            let tokens = tokens(lengths, padding, 11);
            let rows = tokens.len() / 4;
            let tables = Tables { positions: 30, offset: 0, segments: 2 };
            let rest = rest_runs(rows, tables);
            let (mut order, mut runs) = (vec![0; 3 * rows], vec![0; 4 * (rows + rest)]);
            sort_runs(&tokens, tables, &mut order, &mut runs);
            // All words, the second part of them, positions and segments.
            for (first, count, base, table) in
                [(0, rows, 0, 11), (0, rows, 6, 5), (rows, rest, 0, 32)]
            {
                let args = vec![
                    arg(1, rows * cols),
                    Some(CaseArg::U(order.clone())),
                    Some(CaseArg::U(runs.clone())),
                    arg(2, table * cols),
                ];
                let name = format!("{lengths:?} x {cols} into {table} from {base}");
                let case = Case::new(
                    name,
                    sizes(&[cols, first, count, base, table, rows, 3 * rows]),
                    args,
                );
                cases.push(case.within(2e-5).flops((rows * cols) as u64));
            }
        }
        cases
    }
}

/// CPU twins; sums in f64.
pub mod reference {
    use super::super::dropout::reference::factor;
    use super::super::norm::reference::moments;
    use super::*;

    /// word + position + segment, normalised, dropped.
    pub fn embed(t: &mut Twin) {
        let [rows, cols, base, part, positions, rest_rows, offset] =
            [0, 1, 6, 7, 8, 9, 10].map(|i| t.size(i));
        let (tokens, word, rest, gb) = (t.words_of(0).to_vec(), t.read(1), t.read(2), t.read(3));
        for r in 0..rows {
            let [id, place] = [tokens[4 * r] as usize, tokens[4 * r + 1] as usize];
            let position = ((place & 0xffff) + offset).min(positions - 1);
            let segment = (positions + (place >> 16)).min(rest_rows - 1);
            for c in 0..cols {
                let mut x = if t.is("FIRST") { 0.0 } else { t.write(4)[r * cols + c] };
                if (base..base + part).contains(&id) {
                    x += word[(id - base) * cols + c];
                }
                if t.is("LAST") {
                    let segment = t.is("SEGMENTS").then(|| rest[segment * cols + c]);
                    x += rest[position * cols + c] + segment.unwrap_or(0.0);
                }
                t.write(4)[r * cols + c] = x;
            }
            if !t.is("LAST") {
                continue;
            }
            let x = t.write(4)[r * cols..][..cols].to_vec();
            let (mean, rstd) = moments(&x, t.float(2));
            for c in 0..cols {
                let keep = factor(t, 3, r * cols + c);
                t.write(5)[r * cols + c] = keep * (gb[c] * ((x[c] - mean) * rstd) + gb[cols + c]);
            }
            if t.has(6) {
                t.write(6)[2 * r..2 * r + 2].copy_from_slice(&[mean, rstd]);
            }
        }
    }

    /// Sums of runs.
    pub fn embed_backward(t: &mut Twin) {
        let [cols, first, count, base, rows, tokens, places] =
            [0, 1, 2, 3, 4, 5, 6].map(|i| t.size(i));
        let (dx, order, runs) = (t.read(0), t.words_of(1).to_vec(), t.words_of(2).to_vec());
        for run in runs.chunks(4).skip(first).take(count) {
            let [row, begin, end] = [run[0], run[1], run[2]].map(|v| v as usize);
            let end = end.min(places);
            if begin >= end || !(base..base + rows).contains(&row) {
                continue;
            }
            for c in 0..cols {
                let members = order[begin..end].iter();
                let sum: f64 =
                    members.map(|i| f64::from(dx[(*i as usize).min(tokens - 1) * cols + c])).sum();
                t.write(3)[(row - base) * cols + c] += sum as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_may_begin_further_on_and_segments_be_absent() {
        let tokens = cases::tokens(&[2, 3], 1, 5);
        let tables = Tables { positions: 9, offset: 2, segments: 0 };
        let (mut order, mut runs) = (vec![9; 18], vec![9; 4 * (6 + rest_runs(6, tables))]);
        sort_runs(&tokens, tables, &mut order, &mut runs);
        // Both first tokens, both second ones, the third of the second sentence.
        assert_eq!(runs[24..36], [2, 6, 8, 0, 3, 8, 10, 0, 4, 10, 11, 0]);
        assert_eq!(order[6..11], [0, 2, 1, 3, 4]);
        assert!(runs[36..].iter().chain(&order[12..]).all(|v| *v == 0));
    }

    #[test]
    fn every_token_is_in_one_run_of_each_kind() {
        let tokens = cases::tokens(&[4, 1, 6], 3, 5);
        let rows = tokens.len() / 4;
        let tables = Tables { positions: 5, offset: 0, segments: 2 };
        let rest = rest_runs(rows, tables);
        let (mut order, mut runs) = (vec![9; 3 * rows], vec![9; 4 * (rows + rest)]);
        sort_runs(&tokens, tables, &mut order, &mut runs);
        let mut seen = vec![[0; 3]; rows];
        for (k, run) in runs.chunks(4).enumerate() {
            for row in order[run[1] as usize..run[2] as usize].iter().map(|r| *r as usize) {
                let (word, place) = (tokens[4 * row], tokens[4 * row + 1]);
                let kind = if k < rows { 0 } else { 1 + usize::from(run[0] >= 5) };
                // The sixth position is past the table, and counts as its last.
                assert_eq!(run[0], [word, (place & 0xffff).min(4), 5 + (place >> 16)][kind]);
                seen[row][kind] += 1;
            }
        }
        assert!(
            seen[..11].iter().all(|s| *s == [1, 1, 1]) && seen[11..].iter().all(|s| *s == [0; 3])
        );
    }
}
