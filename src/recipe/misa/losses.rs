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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, GpuOptions};
    use crate::plan::Spaces;

    /// Element k is (((a k² + b k + 3) mod 17) − 8) / 10.
    fn q(a: usize, b: usize) -> Vec<f32> {
        (0..6).map(|k| (((a * k * k + b * k + 3) % 17) as f32 - 8.0) / 10.0).collect()
    }

    /// What `record` makes of the stack `x [stack, 3, 2]`, and its gradient.
    fn of(x: &[f32], record: fn(&mut Tape, Var, Var) -> Result<Var>) -> (f32, Vec<f32>) {
        let gpu = Gpu::with(&GpuOptions { quiet: true, ..Default::default() }).unwrap();
        let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
        let space = spaces.declare("x", x.len());
        let stack = tape.input("x", &[x.len() / 6, 3, 2], space, 0);
        tape.watch(stack);
        let centred = centred(&mut tape, stack).unwrap();
        let loss = record(&mut tape, stack, centred).unwrap();
        tape.keep(loss);
        tape.backward(&[loss]).unwrap();
        let grad = tape.grad(stack).unwrap();
        tape.keep(grad);
        let (program, memory) = tape.compile(&gpu, &spaces).unwrap();
        memory.write(&gpu, space, 0, bytemuck::cast_slice(x)).unwrap();
        program.run(&gpu, &memory).unwrap();
        let loss = program.read(&gpu, &memory, loss).unwrap()[0];
        (loss, program.read(&gpu, &memory, grad).unwrap())
    }

    fn close(got: &[f32], want: &[f32]) {
        let most = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= 1e-5 * most, "{got:?} is not {want:?}");
        }
    }

    #[test]
    fn differences_are_the_reference_s() {
        // All but two of the stack are zero, and so are their terms.
        let (a, b, zero) = (q(3, 2), q(5, 7), vec![0.0; 6]);
        let x = [&a, &zero, &zero, &b, &zero, &zero].map(Vec::as_slice).concat();
        let (loss, grad) = of(&x, |tape, _, centred| difference(tape, centred));
        close(&[loss], &[1.039_252_9]);
        let da = [0.138_281_12, 1.949_517_4, -1.619_845, -2.009_806_3, 1.481_563_9, 0.060_288_86];
        let db = [-0.786_341_5, 0.853_872_7, -0.513_351_4, -0.968_615_2, 1.299_692_9, 0.114_742_5];
        close(&grad[..6], &da);
        close(&grad[18..24], &db);
    }

    #[test]
    fn moments_are_the_reference_s_and_equal_ones_have_no_gradient() {
        let sigmoid = |x: Vec<f32>| x.into_iter().map(|v| 1.0 / (1.0 + (-v).exp())).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (sigmoid(q(3, 2)), sigmoid(q(5, 7)));
        // Two pairs of three are a and b, the third is b with itself.
        let x = [&a, &b, &b].map(Vec::as_slice).concat();
        let (loss, grad) = of(&x, moments);
        close(&[loss * 1.5], &[0.124_224_15]);
        let da =
            [-0.048_663_89, -0.385_851_36, -0.048_041_41, -0.292_572, -0.053_106_08, -0.310_291_25];
        let db =
            [0.048_175_48, 0.432_889_8, 0.048_175_48, 0.183_634_06, 0.053_460_42, 0.372_190_74];
        close(&grad[..6].iter().map(|g| g * 1.5).collect::<Vec<_>>(), &da);
        for part in grad[6..].chunks(6) {
            close(&part.iter().map(|g| g * 3.0).collect::<Vec<_>>(), &db);
        }
    }
}
