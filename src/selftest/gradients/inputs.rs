//! Inputs that are no numbers to differentiate by.

use super::*;

/// Classes are unsigned integers; a constant holds their bits.
pub fn classes(tape: &mut Tape, list: &[u32]) -> Result<Var> {
    let bits: Vec<f32> = list.iter().map(|c| f32::from_bits(*c)).collect();
    tape.constant("classes", &[list.len()], &bits)
}

/// Labels beyond all predictions, on both sides, for `rows` samples of a larger set, and a ring.
pub fn goals(tape: &mut Tape, rows: usize, tasks: usize, columns: usize) -> Result<Goals> {
    let total = rows + 2;
    let far = |v: f32| v + 2.0_f32.copysign(v);
    let labels: Vec<f32> = random(31, tasks * total).into_iter().map(far).collect();
    let labels = tape.constant("labels", &[tasks, total], &labels)?;
    let samples: Vec<u32> = (0..rows as u32).map(|i| (i * 3 + 1) % total as u32).collect();
    let ring = tape.constant("zeros", &[2, columns], &vec![0.0; 2 * columns])?;
    // A tensor that may be written.
    Ok(Goals { labels, rows: classes(tape, &samples)?, ring: tape.scale(ring, 1.0)? })
}

/// Tokens of packed sequences of these lengths, and `padding` rows of none behind them.
pub fn packed(tape: &mut Tape, lengths: &[u32], padding: usize) -> Result<Var> {
    let mut bits: Vec<u32> = Vec::new();
    for (sample, length) in lengths.iter().enumerate() {
        bits.extend((0..*length).flat_map(|position| [1, position, *length, sample as u32]));
    }
    bits.resize(bits.len() + 4 * padding, 0);
    let values: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
    tape.constant("tokens", &[values.len() / 4, 4], &values)
}

/// First row and length of each of these sequences.
pub fn spans(tape: &mut Tape, lengths: &[u32]) -> Result<Var> {
    let firsts = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length)
    });
    let bits = firsts.zip(lengths).flat_map(|(first, length)| [first, *length]);
    let values: Vec<f32> = bits.map(f32::from_bits).collect();
    tape.constant("spans", &[lengths.len(), 2], &values)
}
