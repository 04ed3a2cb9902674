//! The optimisers over all parameters of a BERT, in arenas as a run has them.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::error::Result;
use crate::nn::{Bert, BertShape, Group, Params};
use crate::ops::optim::Clip;

/// `bert-base-uncased`, and all-MiniLM-L6-v2.
const MODELS: [(&str, usize, usize); 2] = [("110 M", 768, 12), ("22 M", 384, 6)];

/// A BERT as it comes, of a width and a number of layers.
pub(super) fn shape(hidden: usize, layers: usize) -> BertShape {
    BertShape::original(30_522, hidden, layers, 12)
}

pub(super) fn add(all: &mut Vec<Entry>) {
    for (name, hidden, layers) in MODELS.into_iter().rev() {
        let groups = [
            ("adam", Group::adam("bert", 1e-3).weight_decay(1e-2)),
            ("sgd", Group::sgd("bert", 1e-3, 0.9).weight_decay(1e-2)),
        ];
        for (kernel, group) in groups {
            let rows = Rows::Sums { of: &[""], whole: false };
            all.push(Entry::new(kernel, format!("{name} parameters"), rows, move |caps| {
                step(&group, hidden, layers, caps.max_binding)
            }));
        }
    }
}

/// An update of a whole encoder.
fn step(group: &Group, hidden: usize, layers: usize, max_binding: u64) -> Result<Bed> {
    let mut bed = Bed::new();
    let specs = Bert::new(shape(hidden, layers)).specs(Params::largest(max_binding));
    let groups = std::slice::from_ref(group);
    let params = bed.parameters(specs, groups, max_binding, 1.0)?;
    // Moments begin at zero: there is no such thing as a random second one.
    params.grad_spaces().into_iter().for_each(|space| bed.randomize(space));
    params.optimize(&mut bed.tape, Clip::default())?;
    Ok(bed)
}
