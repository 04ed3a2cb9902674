//! The optimiser over all parameters of a BERT, in arenas as a run has them.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::nn::{Bert, BertShape, Params};
use crate::ops::Act;
use crate::plan::{SpaceId, Stage};

/// `bert-base-uncased`, and all-MiniLM-L6-v2.
const MODELS: [(&str, usize, usize); 2] = [("110 M", 768, 12), ("22 M", 384, 6)];

/// A BERT as it comes, of a width and a number of layers.
pub(super) fn shape(hidden: usize, layers: usize) -> BertShape {
    BertShape {
        vocab: 30_522,
        positions: 512,
        segments: 2,
        hidden,
        layers,
        heads: 12,
        intermediate: 4 * hidden,
        act: Act::Gelu,
        eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
    }
}

pub(super) fn add(all: &mut Vec<Entry>) {
    for (name, hidden, layers) in MODELS.into_iter().rev() {
        let rows = Rows::Sums { of: &["adam"], whole: false };
        all.push(Entry::new("adam", format!("{name} parameters"), rows, move |caps| {
            let mut bed = Bed::new();
            let limit = Params::largest(caps.max_binding);
            let specs = Bert::new(shape(hidden, layers)).specs(limit);
            let params = Params::new(specs, &mut bed.spaces, caps.max_binding, true);
            // Moments begin at zero: there is no such thing as a random second one.
            let given: Vec<SpaceId> = bed
                .spaces
                .ids()
                .zip(bed.spaces.iter())
                .filter(|(_, (name, _))| name.starts_with("params") || name.starts_with("grads"))
                .map(|(id, _)| id)
                .collect();
            given.into_iter().for_each(|id| bed.randomize(id));
            let arenas = params.arena_vars(&mut bed.tape);
            bed.tape.in_stage(Stage::Update, |tape| tape.adam(&arenas, None));
            Ok(bed)
        }));
    }
}
