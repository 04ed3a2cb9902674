//! What MISA's loss asks of the stacks of vectors; see [`super`].

use crate::error::{Error, Result};
use crate::ops::batched::Transposed;
use crate::tape::{Tape, Var};

/// The shared ones of the stack `x [6, batch, hidden]`.
pub(super) fn shared(tape: &mut Tape, x: Var) -> Result<Var> {
    let [_, n, h] = tape.shape(x)[..] else { return Err(Error::shape("misa", "no stack")) };
    let flat = tape.reshape(x, &[1, 6 * n * h])?;
    let part = tape.slice(flat, 3 * n * h, 3 * n * h)?;
    tape.reshape(part, &[3, n, h])
}

/// `x [.., batch, hidden]` without the means over the batch: each of the stack times I − 1/n.
pub(super) fn centred(tape: &mut Tape, x: Var) -> Result<Var> {
    let n = tape.shape(x).iter().rev().nth(1).copied().unwrap_or(1);
    let share = 1.0 / n as f32;
    let all = (0..n * n).map(|i| if i / n == i % n { 1.0 - share } else { -share });
    let centring = tape.constant("centring", &[n, n], &all.collect::<Vec<f32>>())?;
    tape.bmm(centring, x, Transposed::Neither)
}

/// Σ D over the six pairs of the stack `x [6, batch, hidden]`, which is centred.
pub(super) fn difference(tape: &mut Tape, x: Var) -> Result<Var> {
    let [_, n, h] = tape.shape(x)[..] else { return Err(Error::shape("misa", "no stack")) };
    let squares = tape.square(x)?;
    let lengths = tape.sum_cols(squares)?;
    // Lengths are constants to the gradient.
    let lengths = tape.detach(lengths)?;
    let lengths = tape.sqrt(lengths)?;
    let least = tape.constant("least", &[1], &[1e-6])?;
    let lengths = tape.add(lengths, least)?;
    let x = tape.div(x, lengths)?;
    let x = tape.reshape(x, &[6, n * h])?;
    let mut sides = |name: &str, of: [u32; 6]| {
        let rows = tape.rows(name, &of, 6)?;
        let side = tape.gather(x, rows)?;
        tape.reshape(side, &[6, n, h])
    };
    // Each modality's private vectors with its shared ones, then with the next one's private ones.
    let a = sides("left", [0, 1, 2, 0, 1, 2])?;
    let b = sides("right", [3, 4, 5, 1, 2, 0])?;
    let products = tape.bmm(a, b, Transposed::First)?;
    let squares = tape.square(products)?;
    let mean = tape.mean(squares)?;
    tape.scale(mean, 6.0)
}

/// The mean CMD of the three pairs of the stack `x [3, batch, hidden]`, which `centred` is centred.
pub(super) fn moments(tape: &mut Tape, x: Var, centred: Var) -> Result<Var> {
    let [_, n, h] = tape.shape(x)[..] else { return Err(Error::shape("misa", "no stack")) };
    let second = tape.square(centred)?;
    let third = tape.mul(second, centred)?;
    let fourth = tape.square(second)?;
    let fifth = tape.mul(fourth, centred)?;
    let powers = tape.stack(&[second, third, fourth, fifth], &[second, third, fourth, fifth]);
    let [powers, x] = [(powers, 12), (x, 3)].map(|(v, k)| tape.reshape(v, &[1, k * n * h]));
    let all = tape.concat(&[powers?, x?])?;
    let all = tape.reshape(all, &[15, n, h])?;
    let shares = tape.constant("shares", &[1, n], &vec![1.0 / n as f32; n])?;
    let means = tape.bmm(shares, all, Transposed::Neither)?;
    let means = tape.reshape(means, &[5, 3, h])?;
    let pairs = [1.0, -1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 1.0, -1.0];
    let pairs = tape.constant("pairs", &[3, 3], &pairs)?;
    let gaps = tape.bmm(pairs, means, Transposed::Neither)?;
    let squares = tape.square(gaps)?;
    let squares = tape.sum_cols(squares)?;
    // Below the bound no gradient passes, so that equal moments have one of 0 instead of none.
    let squares = tape.clamp(squares, 1e-30, f32::MAX)?;
    let distances = tape.sqrt(squares)?;
    let sum = tape.sum(distances)?;
    tape.scale(sum, 1.0 / 3.0)
}
