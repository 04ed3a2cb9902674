//! What MISA makes of each modality by itself: u_t, u_v and u_a.

use super::{Misa, ORDER};
use crate::error::{Error, Result};
use crate::nn::LstmEncoder;
use crate::ops::batched::Transposed;
use crate::ops::lstm::LstmInput;
use crate::ops::masked::Keep;
use crate::recipe::blocks::norm;
use crate::recipe::cx::Cx;
use crate::recipe::self_mm::reading;
use crate::recipe::subnets::GROUP;
use crate::tape::Var;

impl Misa {
    /// The recurrences of vision or audio: over the features, and over the states of the first.
    pub(super) fn recurrences(&self, i: usize) -> [LstmEncoder; 2] {
        let (hidden, spec) = (self.units(i), self.streams[i]);
        [(spec.dim, spec.dim.next_multiple_of(4)), (2 * hidden, 2 * hidden)].map(
            |(inputs, pitch)| LstmEncoder {
                name: String::new(),
                inputs,
                pitch,
                hidden,
                layers: 1,
                bidirectional: true,
                out: hidden,
                dropout: 0.0,
                group: GROUP.into(),
            },
        )
    }

    /// u_t.
    pub(super) fn sentence(&self, cx: &mut Cx<'_>) -> Result<Var> {
        if let Some(bert) = self.text.bert() {
            let (tokens, train) = (cx.tokens()?, cx.training());
            let how = reading(self.config.bert.pooling);
            return bert.record(cx.tape, cx.params, &tokens, how, train);
        }
        let stream = cx.stream(0)?;
        let lengths = match stream.lengths {
            Some(lengths) => lengths,
            None => cx.whole_lengths(stream)?,
        };
        // Equal scores of all steps that are there make equal shares of them.
        let (n, steps) = (cx.batch(), stream.steps);
        let equal = cx.tape.constant("equal", &[n, steps], &vec![0.0; n * steps])?;
        let shares = cx.tape.masked_softmax(equal, Keep::Lengths(lengths))?;
        let shares = cx.tape.reshape(shares, &[n, 1, steps])?;
        let mean = cx.tape.bmm(shares, stream.values, Transposed::Neither)?;
        let mean = cx.tape.reshape(mean, &[n, stream.width])?;
        cx.without_padding(stream, mean)
    }

    /// u_v and u_a, whose recurrences run side by side.
    pub(super) fn sequences(&self, cx: &mut Cx<'_>) -> Result<[Var; 2]> {
        let (n, train) = (cx.batch(), cx.training());
        let first = usize::from(self.text.bert().is_none());
        let (mut lengths, mut inputs) = (Vec::new(), Vec::new());
        for (i, m) in ORDER[1..].iter().enumerate() {
            let stream = cx.stream(first + i)?;
            let own = stream.lengths.ok_or_else(|| Error::shape("misa", "no lengths"))?;
            let rnn = format!("{m}rnn1");
            let [encoder, _] = self.recurrences(i);
            let input = encoder.rnn_input(cx.tape, cx.params, &rnn, (stream.values, own), train)?;
            inputs.push(LstmInput { sequence: true, ..input });
            lengths.push(own);
        }
        let lower = cx.tape.lstms(&inputs)?;
        inputs.clear();
        for (i, m) in ORDER[1..].iter().enumerate() {
            let states = lower[i].sequence.ok_or_else(|| Error::shape("misa", "no sequence"))?;
            let states = norm(cx, &format!("{m}layer_norm"), states)?;
            let (rnn, [_, encoder]) = (format!("{m}rnn2"), self.recurrences(i));
            let x = (states, lengths[i]);
            inputs.push(encoder.rnn_input(cx.tape, cx.params, &rnn, x, train)?);
        }
        let upper = cx.tape.lstms(&inputs)?;
        // Both recurrences forward, then both backward.
        let mut both = |i: usize| {
            let h = self.units(i);
            let rows = [lower[i].last, upper[i].last].map(|x| cx.tape.reshape(x, &[2 * n, h]));
            let [lower, upper] = rows;
            let x = cx.tape.concat(&[lower?, upper?])?;
            cx.tape.reshape(x, &[n, 4 * h])
        };
        Ok([both(0)?, both(1)?])
    }
}
