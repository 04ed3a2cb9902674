//! The parts of a shared/private model that are its own: LSTM encoders, heads, the covariance term.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::error::Result;
use crate::nn::{Group, Head, LstmEncoder};
use crate::ops::align::Pair;

const BATCH: usize = 16;

/// The group of all parameters, of which no update is timed here.
fn groups() -> [Group; 1] {
    [Group::adam("all", 1e-3)]
}

pub(super) fn add(all: &mut Vec<Entry>) {
    for inputs in [5, 33, 74] {
        for hidden in [16, 32, 64] {
            all.push(lstm(375, inputs, hidden));
        }
    }
    all.push(heads());
    for d in [32, 128] {
        let rows = Rows::Sums { of: &[""], whole: true };
        all.push(Entry::new("align", format!("3 features of {BATCH} × {d}"), rows, move |_| {
            let mut bed = Bed::new();
            let features: Vec<_> =
                ["text", "audio", "video"].map(|name| bed.watched(name, &[BATCH, d])).into();
            let pairs = [(0, 1), (0, 2), (1, 2)].map(|(a, b)| Pair { a, b, weight: 1.0 });
            let align = bed.tape.align(&features, &pairs, 1.0)?;
            bed.tape.backward(&[align.loss])?;
            Ok(bed)
        }));
    }
}

/// A layer over sequences of half to all steps, forward and backward.
fn lstm(steps: usize, inputs: usize, hidden: usize) -> Entry {
    let shape = format!("{BATCH} × {steps} × {inputs} → {hidden}");
    let rows = Rows::Sums { of: &["lstm"], whole: true };
    Entry::new("lstm", shape, rows, move |caps| {
        let mut bed = Bed::new();
        let pitch = inputs.next_multiple_of(4);
        let encoder = LstmEncoder {
            name: "audio_model".into(),
            inputs,
            pitch,
            hidden,
            layers: 1,
            bidirectional: false,
            out: hidden,
            dropout: 0.0,
            group: "all".into(),
        };
        let params = bed.parameters(encoder.specs(), &groups(), caps.max_binding, 1.0)?;
        let x = bed.given("x", &[BATCH, steps, pitch]);
        let lengths = (0..BATCH).map(|i| (steps - steps / 2 * i / (BATCH - 1)) as u32).collect();
        let lengths = bed.words("lengths", &[BATCH], lengths);
        let input = encoder.input(&mut bed.tape, &params, x, lengths, true)?;
        let lstms = bed.tape.lstms(&[input])?;
        bed.backward(lstms[0].last)?;
        Ok(bed)
    })
}

/// The four heads of a model with text features of 768, audio of 16 and video of 32.
fn heads() -> Entry {
    let rows = Rows::Sums { of: &[""], whole: true };
    Entry::new("heads", format!("4 of {BATCH} samples"), rows, move |caps| {
        let mut bed = Bed::new();
        let sizes = [
            ("post_fusion", 816, 128),
            ("post_text", 768, 64),
            ("post_audio", 16, 16),
            ("post_video", 32, 32),
        ];
        let heads = sizes.map(|(name, inputs, size)| Head {
            name: name.into(),
            inputs: (inputs, inputs),
            size,
            outputs: 1,
            dropout: 0.1,
            group: "all".into(),
        });
        let specs = heads.iter().flat_map(Head::specs).collect();
        let params = bed.parameters(specs, &groups(), caps.max_binding, 1.0)?;
        let parts = [("text", 768), ("audio", 16), ("video", 32)]
            .map(|(name, width)| bed.watched(name, &[BATCH, width]));
        let vars = heads
            .iter()
            .map(|head| head.vars(&mut bed.tape, &params, true))
            .collect::<Result<Vec<_>>>()?;
        let all = bed.tape.heads(&parts, &vars)?;
        bed.backward(all.scores)?;
        Ok(bed)
    })
}
