//! Entries for LSTMs, alone and side by side.

use super::*;
use crate::ops::lstm::{LstmInput, LstmWeights};

/// An LSTM to try: steps, input width, hidden size, directions of each layer, whether its sequence
/// is read, too.
type Shape = (usize, usize, usize, &'static [usize], bool);

/// In a batch of 3; sizes that the wide kernels take, and sizes that they do not.
const TRIES: [(&str, &[Shape]); 4] = [
    ("lstm", &[(5, 3, 4, &[1], true)]),
    ("lstm two layers both ways", &[(4, 3, 4, &[2, 2], true)]),
    ("lstm two side by side", &[(5, 3, 8, &[1], false), (4, 2, 4, &[1], false)]),
    (
        "lstm three side by side",
        &[(3, 2, 3, &[2], false), (4, 4, 4, &[1], true), (2, 1, 4, &[1, 1], false)],
    ),
];

pub fn entries() -> Vec<Entry> {
    let made = TRIES.into_iter().map(|(name, list)| {
        let mut shapes = Vec::new();
        for (steps, width, hidden, layers, _) in list {
            shapes.push(vec![3, *steps, *width]);
            let mut inputs = *width;
            for directions in *layers {
                for _ in 0..*directions {
                    shapes.push(vec![4 * hidden, inputs]);
                    shapes.push(vec![4 * hidden, *hidden]);
                    shapes.extend([vec![4 * hidden], vec![4 * hidden]]);
                }
                inputs = directions * hidden;
            }
        }
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        entry(name, &shapes, move |t, v| lstms(t, v, list))
    });
    made.collect()
}

/// All that the LSTMs give, and the first one's last state once more.
fn lstms(t: &mut Tape, v: &[Var], list: &[Shape]) -> Result<Var> {
    let mut vars = v.iter().copied();
    let mut next = || vars.next().expect("as many inputs as the shapes say");
    let mut inputs = Vec::new();
    for (steps, _, _, layers, sequence) in list {
        let x = t.scale(next(), 1.5)?;
        let lengths = [1, *steps as u32, *steps as u32 - 1].map(f32::from_bits);
        let lengths = t.constant("lengths", &[3], &lengths)?;
        let direction = |_| LstmWeights {
            weight_ih: next(),
            weight_hh: next(),
            bias_ih: next(),
            bias_hh: next(),
        };
        let mut direction = direction;
        let layers = layers.iter().map(|d| (0..*d).map(&mut direction).collect()).collect();
        inputs.push(LstmInput { x, lengths, layers, dropout: 0.0, sequence: *sequence });
    }
    let all = t.lstms(&inputs)?;
    let mut parts = Vec::new();
    for lstm in &all {
        parts.push(lstm.last);
        if let Some(y) = lstm.sequence {
            let len = t.len(y);
            parts.push(t.reshape(y, &[3, len / 3])?);
        }
    }
    parts.push(all[0].last);
    t.concat(&parts)
}
