//! What the grid of tokens is held against, with the same encoders.

use super::{UNIMODAL, Umi};
use crate::error::Result;
use crate::nn::{ParamSpec, linear, linear_specs, mean_of_present};
use crate::ops::Act;
use crate::recipe::cx::Cx;
use crate::recipe::goal::Distance;
use crate::tape::Var;

impl Umi {
    /// Records models of single modalities that learn each by itself, and whose word is taken together.
    pub(super) fn late(&self, cx: &mut Cx<'_>) -> Result<()> {
        if cx.training() {
            return self.alone(cx).map(drop);
        }
        let (mut said, mut present) = (Vec::new(), Vec::new());
        for (i, spec) in self.streams.iter().enumerate() {
            let encoded = self.encoded(cx, i)?;
            let z = self.said_alone(cx, i, encoded)?;
            said.push(if self.classes { cx.tape.softmax(z)? } else { z });
            present.push(cx.present(spec.modality)?);
            cx.output(&format!("encoded {}", spec.modality), encoded)?;
        }
        let mean = mean_of_present(cx.tape, &said, &present)?;
        let mean = if self.classes { cx.tape.log(mean)? } else { mean };
        cx.output("M", mean)
    }

    /// The two layers over all encodings.
    pub(super) fn side_by_side_specs(&self) -> Vec<ParamSpec> {
        let width = self.settings.model.width;
        let all = self.streams.len() * width;
        let first = linear_specs("fused.first", (all, all, width), true, UNIMODAL);
        let second = linear_specs("fused.second", (width, width, self.outputs), true, UNIMODAL);
        [first, second].concat()
    }

    /// Records encodings side by side, with zeros for what a row lacks, and what two layers make of them.
    pub(super) fn side_by_side(&self, cx: &mut Cx<'_>) -> Result<()> {
        let mut all: Vec<Var> = Vec::new();
        for (i, spec) in self.streams.iter().enumerate() {
            let encoded = self.encoded(cx, i)?;
            if !cx.training() {
                cx.output(&format!("encoded {}", spec.modality), encoded)?;
            }
            let present = cx.present(spec.modality)?;
            let present = cx.tape.reshape(present, &[cx.batch(), 1])?;
            all.push(cx.tape.mul(encoded, present)?);
        }
        let all = cx.tape.concat(&all)?;
        let h = linear(cx.tape, cx.params, "fused.first", all, Act::Relu)?;
        let z = linear(cx.tape, cx.params, "fused.second", h, Act::None)?;
        match cx.training() {
            true => cx.task_loss("M", z, Distance::Absolute),
            false => cx.output("M", z),
        }
    }
}
