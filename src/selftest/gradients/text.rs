//! Entries for the operations of a text encoder: norms, embeddings, pooling.

use super::*;
use crate::ops::embed::{Embed, Tables, WordPart, rest_runs, sort_runs};

/// All of them; steep where a row's deviation is small, hence the small steps.
pub fn entries() -> Vec<Entry> {
    let mut all = norms();
    all.extend(embeddings());
    all.extend(pools());
    all.into_iter().map(|e| e.step(5e-3)).collect()
}

fn norms() -> Vec<Entry> {
    vec![
        entry("layer_norm", &[&[3, 8], &[2, 8]], |t, v| t.layer_norm(v[0], v[1], 1e-5)),
        entry("layer_norm large eps", &[&[2, 3, 4], &[2, 4]], |t, v| t.layer_norm(v[0], v[1], 0.5)),
        // More rows than a piece of the weights' sums.
        entry("residual_norm", &[&[19, 8], &[19, 8], &[2, 8]], |t, v| {
            t.residual_norm(v[0], v[1], v[2], 1e-5, 0.0)
        }),
        entry("residual_norm odd width", &[&[19, 7], &[19, 7], &[2, 7]], |t, v| {
            t.residual_norm(v[0], v[1], v[2], 1e-5, 0.4)
        }),
        entry("residual_norm dropout", &[&[9, 12], &[9, 12], &[2, 12]], |t, v| {
            t.residual_norm(v[0], v[1], v[2], 1e-12, 0.4)
        }),
        entry("residual_norm x x", &[&[3, 8], &[2, 8]], |t, v| {
            t.residual_norm(v[0], v[0], v[1], 1e-5, 0.3)
        }),
        entry("residual_norm frozen weights", &[&[3, 8], &[3, 8]], |t, v| {
            let gb = t.constant("gb", &[2, 8], &random(3, 16))?;
            t.residual_norm(v[0], v[1], gb, 1e-5, 0.3)
        }),
        entry("residual_norm weights only", &[&[2, 8]], |t, v| {
            let x = t.constant("x", &[5, 8], &random(3, 40))?;
            let y = t.constant("y", &[5, 8], &random(4, 40))?;
            t.residual_norm(x, y, v[0], 1e-5, 0.3)
        }),
        // The second norm's x has a gradient already when the first adds to it.
        entry("residual_norm twice", &[&[3, 8], &[3, 8], &[2, 8]], |t, v| {
            let a = t.residual_norm(v[0], v[1], v[2], 1e-5, 0.2)?;
            t.residual_norm(v[1], a, v[2], 1e-5, 0.2)
        }),
    ]
}

const WORDS: usize = 7;
const TABLES: Tables = Tables { positions: 4, offset: 0, segments: 2 };

/// Two sentences and two rows without a token; words come up again, the fifth position does not fit
/// the table of four.
fn embedded(tape: &mut Tape, words: Vec<WordPart>, rest: Var, gb: Var, p: f32) -> Result<Var> {
    in_tables(tape, TABLES, (words, rest, gb), p)
}

/// The same with other tables beside the words.
fn in_tables(
    tape: &mut Tape,
    tables: Tables,
    (words, rest, gb): (Vec<WordPart>, Var, Var),
    p: f32,
) -> Result<Var> {
    let mut tokens: Vec<u32> = Vec::new();
    for (sample, length) in [3_u32, 5].into_iter().enumerate() {
        for position in 0..length {
            let word = (position * position + 2 * sample as u32) % WORDS as u32;
            tokens.extend([word, position | (position / 2 % 2) << 16, length, sample as u32]);
        }
    }
    tokens.extend([0; 8]);
    let rows = tokens.len() / 4;
    let rest_runs = rest_runs(rows, tables);
    let (mut order, mut runs) = (vec![0; 3 * rows], vec![0; 4 * (rows + rest_runs)]);
    sort_runs(&tokens, tables, &mut order, &mut runs);
    let mut words_of = |name, cols, list: &[u32]| {
        let values: Vec<f32> = list.iter().map(|b| f32::from_bits(*b)).collect();
        tape.constant(name, &[list.len() / cols, cols], &values)
    };
    let (tokens, order) = (words_of("tokens", 4, &tokens)?, words_of("order", 1, &order)?);
    let runs = words_of("runs", 4, &runs)?;
    let out = tape.embed(Embed {
        tokens,
        words,
        rest,
        tables,
        gb,
        eps: 1e-5,
        dropout: p,
        order,
        runs,
        rest_runs,
    })?;
    // Nothing reads a row without a token, and none is in a run.
    let mask: Vec<f32> = (0..rows).map(|r| f32::from(r < 8)).collect();
    let mask = tape.constant("mask", &[rows, 1], &mask)?;
    tape.mul(out, mask)
}

fn embeddings() -> Vec<Entry> {
    let shapes: [&[usize]; 3] = [&[WORDS, 8], &[6, 8], &[2, 8]];
    let mut all = Vec::new();
    for (name, p) in [("embed", 0.0), ("embed dropout", 0.4)] {
        all.push(entry(name, &shapes, move |t, v| {
            embedded(t, vec![WordPart { var: v[0], base: 0 }], v[1], v[2], p)
        }));
    }
    let parts: [&[usize]; 4] = [&[3, 8], &[4, 8], &[6, 8], &[2, 8]];
    all.push(entry("embed in two parts", &parts, |t, v| {
        let words = [(v[0], 0), (v[1], 3)].map(|(var, base)| WordPart { var, base });
        embedded(t, words.to_vec(), v[2], v[3], 0.2)
    }));
    all.push(entry("embed frozen words", &[&[6, 8], &[2, 8]], |t, v| {
        let words = t.constant("words", &[WORDS, 8], &random(5, WORDS * 8))?;
        embedded(t, vec![WordPart { var: words, base: 0 }], v[0], v[1], 0.2)
    }));
    all.push(entry("embed without segments", &[&[WORDS, 8], &[6, 8], &[2, 8]], |t, v| {
        let tables = Tables { positions: 6, offset: 2, segments: 0 };
        in_tables(t, tables, (vec![WordPart { var: v[0], base: 0 }], v[1], v[2]), 0.2)
    }));
    // Gradients of tables are added to: they cannot be anything but parameters.
    all.into_iter().map(|e| Entry { parameters: true, ..e }).collect()
}

fn pools() -> Vec<Entry> {
    let mut all = vec![entry("pool first and mean", &[&[10, 8]], |t, v| {
        let (tokens, spans) = (packed(t, &[3, 1, 4], 2)?, spans(t, &[3, 1, 4])?);
        let first = t.pool_first(v[0], tokens, spans)?;
        let mean = t.pool_mean(v[0], tokens, spans)?;
        t.mul(first, mean)
    })];
    for mean in [false, true] {
        let name = if mean { "pool mean" } else { "pool first" };
        all.push(entry(name, &[&[9, 4]], move |t, v| {
            let (tokens, spans) = (packed(t, &[3, 1, 4], 1)?, spans(t, &[3, 1, 4])?);
            if mean { t.pool_mean(v[0], tokens, spans) } else { t.pool_first(v[0], tokens, spans) }
        }));
    }
    // More steps than the longest sample has, and fewer.
    for (name, steps) in [("unpack", 6), ("unpack cut", 3)] {
        all.push(entry(name, &[&[10, 8]], move |t, v| {
            let (tokens, spans) = (packed(t, &[3, 1, 4], 2)?, spans(t, &[3, 1, 4])?);
            t.unpack(v[0], tokens, spans, steps)
        }));
        let (name, shape) = (if steps == 6 { "pack" } else { "pack cut" }, [3, steps, 8]);
        all.push(entry(name, &[&shape], |t, v| {
            let (tokens, spans) = (packed(t, &[3, 1, 4], 2)?, spans(t, &[3, 1, 4])?);
            t.pack(v[0], tokens, spans)
        }));
    }
    all
}

#[test]
fn a_table_that_is_no_parameter_is_refused() {
    let mut tape = Tape::new();
    let mut given = |name, shape: &[usize]| {
        let var = tape.constant(name, shape, &random(1, shape.iter().product())).unwrap();
        tape.watch(var);
        var
    };
    let (words, rest, gb) = (given("w", &[WORDS, 8]), given("rest", &[6, 8]), given("gb", &[2, 8]));
    let out = embedded(&mut tape, vec![WordPart { var: words, base: 0 }], rest, gb, 0.0).unwrap();
    let loss = tape.sum(out).unwrap();
    let error = tape.backward(&[loss]).unwrap_err().to_string();
    assert!(error.contains("a table must be a parameter"), "{error}");
}
