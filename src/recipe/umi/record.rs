//! What is recorded of a batch: models of single modalities, pseudo-labels, and the whole.

use super::{Own, PSEUDO, UNIMODAL, Umi, WHOLE};
use crate::data::{StreamSpec, TaskKind};
use crate::error::{Error, Result};
use crate::nn::pseudo::divergence;
use crate::nn::token_grid::{Layers, TokenEncoder, TokenGrid, mean_over_steps};
use crate::nn::transformer::{norm, norm_specs};
use crate::nn::{Init, ParamSpec, linear, linear_specs};
use crate::ops::Act;
use crate::recipe::cx::Cx;
use crate::recipe::goal::{Distance, Goal};
use crate::tape::{Tape, Var};

const EPS: f32 = 1e-5;

impl Umi {
    fn layers(&self, name: String, group: &str, layers: usize) -> Layers {
        let Own { width, heads, head_width, inner, .. } = self.settings.model;
        let (heads, group) = ((heads, head_width), group.to_string());
        Layers { name, width, heads, inner, layers, group }
    }

    /// The layers behind the sum of all modalities.
    pub(super) fn all_layers(&self) -> Layers {
        self.layers(WHOLE.into(), WHOLE, self.settings.model.layers)
    }

    /// What reads the `i`-th stream, for itself alone or for the whole.
    pub(super) fn encoder(&self, i: usize, group: &str) -> TokenEncoder {
        let StreamSpec { modality, steps, dim, .. } = self.streams[i];
        let layers = self.settings.model.stream_layers;
        TokenEncoder {
            layers: self.layers(format!("{group}_{modality}"), group, layers),
            inputs: (dim, dim.next_multiple_of(4)),
            steps,
        }
    }

    pub(super) fn grid(&self, i: usize) -> TokenGrid {
        TokenGrid { encoder: self.encoder(i, WHOLE), places: self.settings.model.places }
    }

    /// The parameters of the whole; its class vectors are of training alone.
    pub(super) fn whole_specs(&self, train: bool) -> Vec<ParamSpec> {
        let Own { width, places, vectors, .. } = self.settings.model;
        let all = 0..self.streams.len();
        let mut specs: Vec<ParamSpec> = all.flat_map(|i| self.grid(i).specs()).collect();
        let own =
            |name: &str, shape: &[usize]| ParamSpec::new(name, shape, WHOLE, Init::Normal(1.0));
        specs.extend([own("cls_0", &[width]), own("cls_1", &[width])]);
        specs.push(own("position", &[(places + 2) * width]));
        specs.extend(self.all_layers().specs());
        specs.extend(norm_specs("head.norm", width, WHOLE));
        specs.extend(linear_specs("head.linear", (width, width, self.outputs), true, WHOLE));
        let rows = if self.classes { self.outputs } else { vectors };
        specs.extend(train.then(|| own("vectors", &[rows, width])));
        specs
    }

    /// The parameters of the models of single modalities, with their heads or without.
    pub(super) fn alone_specs(&self, heads: bool) -> Vec<ParamSpec> {
        let of = |i: usize| {
            let encoder = self.encoder(i, UNIMODAL);
            let name = format!("{}.head", encoder.layers.name);
            let (width, group) = (encoder.layers.width, UNIMODAL);
            let head = linear_specs(&name, (width, width, self.outputs), true, group);
            let head = head.into_iter().filter(|_| heads);
            encoder.specs().into_iter().chain(head).collect::<Vec<_>>()
        };
        (0..self.streams.len()).flat_map(of).collect()
    }

    /// Records what the encoder of a single modality makes of the rows: the mean of its steps, `[batch, width]`.
    pub(super) fn encoded(&self, cx: &mut Cx<'_>, i: usize) -> Result<Var> {
        let stream = cx.stream(i)?;
        let encoder = self.encoder(i, UNIMODAL);
        let (_, h) = encoder.record(cx.tape, cx.params, stream.values, stream.lengths)?;
        mean_over_steps(cx.tape, h, stream.lengths)
    }

    /// Records what a single modality says of its encoding, `[batch, outputs]`.
    pub(super) fn said_alone(&self, cx: &mut Cx<'_>, i: usize, encoded: Var) -> Result<Var> {
        let name = format!("{}.head", self.encoder(i, UNIMODAL).layers.name);
        linear(cx.tape, cx.params, &name, encoded, Act::None)
    }

    /// Records the models of single modalities, and gives what each says, `[batch, outputs]`: shares of classes,
    /// or a number.
    pub(super) fn alone(&self, cx: &mut Cx<'_>) -> Result<Vec<Var>> {
        let mut all = Vec::new();
        for (i, spec) in self.streams.iter().enumerate() {
            let encoded = self.encoded(cx, i)?;
            let z = self.said_alone(cx, i, encoded)?;
            let present = cx.present(spec.modality)?;
            let loss = cx.goal_loss_of(z, Distance::Absolute, present)?;
            cx.loss(&self.column(i).name, loss)?;
            all.push(if self.classes { cx.tape.softmax(z)? } else { z });
        }
        Ok(all)
    }

    /// Records a step of the whole.
    pub(super) fn learn(&self, cx: &mut Cx<'_>) -> Result<()> {
        let ([z0, z1], means) = self.whole(cx)?;
        let target = cx.target();
        let loss = smoothed(cx.goal(), self.settings.loss.smoothing).loss(
            cx.tape,
            z0,
            target,
            Distance::Absolute,
            None,
        )?;
        cx.loss("M", loss)?;
        let pseudo = self.pseudo_loss(cx, z1)?;
        cx.loss("pseudo", pseudo)?;
        let align = self.align_loss(cx, &means)?;
        cx.loss("align", align)
    }

    /// Records what the whole says of rows.
    pub(super) fn say(&self, cx: &mut Cx<'_>) -> Result<()> {
        let ([z0, z1], means) = self.whole(cx)?;
        let said = match self.classes {
            true => {
                let (p0, p1) = (cx.tape.softmax(z0)?, cx.tape.softmax(z1)?);
                let sum = cx.tape.add(p0, p1)?;
                let mean = cx.tape.scale(sum, 0.5)?;
                cx.tape.log(mean)?
            }
            false => {
                let sum = cx.tape.add(z0, z1)?;
                cx.tape.scale(sum, 0.5)?
            }
        };
        cx.output("M", said)?;
        let streams = self.streams.iter().zip(means);
        streams
            .into_iter()
            .try_for_each(|(s, mean)| cx.output(&format!("encoded {}", s.modality), mean))
    }

    /// How far the scores are from what each modality alone had said of a row, over the modalities that it has.
    fn pseudo_loss(&self, cx: &mut Cx<'_>, z: Var) -> Result<Var> {
        let (table, rows) = (cx.state(PSEUDO)?, cx.rows());
        let all = cx.tape.gather(table, rows)?;
        let mut each = Vec::new();
        for (i, spec) in self.streams.iter().enumerate() {
            let own = cx.tape.slice(all, i * self.outputs, self.outputs)?;
            let far = if self.classes {
                divergence(cx.tape, own, z)?
            } else {
                let off = cx.tape.sub(z, own)?;
                cx.tape.abs(off)?
            };
            each.push((far, cx.present(spec.modality)?));
        }
        let sum = added(cx.tape, &each)?;
        cx.tape.mean(sum)
    }

    /// How far the places of rows, a mean `[batch, width]` for each modality, are from their vectors.
    fn align_loss(&self, cx: &mut Cx<'_>, means: &[Var]) -> Result<Var> {
        let vectors = cx.param("vectors")?;
        let mut all = Vec::new();
        for (spec, mean) in self.streams.iter().zip(means) {
            let own = match self.classes {
                true => cx.target(),
                false => cx.tape.nearest_rows(*mean, vectors)?,
            };
            all.push((*mean, cx.tape.gather(vectors, own)?, cx.present(spec.modality)?));
        }
        far_apart(cx.tape, &all)
    }

    /// Records both scores, `[batch, outputs]` each, and the mean place of each modality, `[batch, width]`.
    fn whole(&self, cx: &mut Cx<'_>) -> Result<([Var; 2], Vec<Var>)> {
        let Own { width, places, .. } = self.settings.model;
        let (batch, half) = (cx.batch(), places / 2);
        let (mut there, mut means) = (Vec::new(), Vec::new());
        for (i, spec) in self.streams.iter().enumerate() {
            let stream = cx.stream(i)?;
            let grid = self.grid(i).record(cx.tape, cx.params, stream.values, stream.lengths)?;
            means.push(mean_over_steps(cx.tape, grid, None)?);
            let flat = cx.tape.reshape(grid, &[batch, places * width])?;
            there.push((flat, cx.present(spec.modality)?));
        }
        let sum = added(cx.tape, &there)?;
        // Each half with its own first token is a sequence of its own, which the other does not read.
        let mut parts = Vec::new();
        for g in 0..2 {
            let none = cx.tape.constant("none", &[batch, width], &vec![0.0; batch * width])?;
            let first = cx.param(&format!("cls_{g}"))?;
            parts.push(cx.tape.add(none, first)?);
            parts.push(cx.tape.slice(sum, g * half * width, half * width)?);
        }
        let both = cx.tape.concat(&parts)?;
        let table = cx.param("position")?;
        let both = cx.tape.add(both, table)?;
        let both = cx.tape.reshape(both, &[2 * batch, half + 1, width])?;
        let both = self.all_layers().record(cx.tape, cx.params, both, None)?;
        let both = cx.tape.reshape(both, &[2 * batch, (half + 1) * width])?;
        let first = cx.tape.slice(both, 0, width)?;
        let first = norm(cx.tape, cx.params, "head.norm", first, EPS)?;
        let z = linear(cx.tape, cx.params, "head.linear", first, Act::None)?;
        let z = cx.tape.reshape(z, &[batch, 2 * self.outputs])?;
        let z0 = cx.tape.slice(z, 0, self.outputs)?;
        Ok(([z0, cx.tape.slice(z, self.outputs, self.outputs)?], means))
    }
}

/// The goal with a target of 1 − `share` of a row's own class and as much of each other: PyTorch's smoothing
/// leaves a share to a row's own class, too.
fn smoothed(goal: &Goal, share: f64) -> Goal {
    let classes = goal.task.outputs() as f64;
    let smoothing = match goal.task.kind == TaskKind::Classes && classes > 1.0 {
        true => (share * classes / (classes - 1.0)) as f32,
        false => goal.smoothing,
    };
    Goal { smoothing, ..goal.clone() }
}

/// The sum of tensors `[batch, columns]`, of each only the rows that are there, of which `[batch]` says 1.
fn added(tape: &mut Tape, all: &[(Var, Var)]) -> Result<Var> {
    let mut sum: Option<Var> = None;
    for (x, present) in all {
        let column = tape.reshape(*present, &[tape.len(*present), 1])?;
        let there = tape.mul(*x, column)?;
        sum = Some(sum.map_or(Ok(there), |sum| tape.add(sum, there))?);
    }
    sum.ok_or_else(|| Error::shape("umi", "there is no stream"))
}

/// The mean over rows and modalities that are there of the mean over columns of (a − b)²: of each modality `a` and
/// `b`, `[batch, columns]`, and `[batch]` that says 1 of the rows that have it. 0 where there are none.
fn far_apart(tape: &mut Tape, all: &[(Var, Var, Var)]) -> Result<Var> {
    let (mut far, mut there) = (Vec::new(), Vec::new());
    for (a, b, present) in all {
        let gap = tape.sub(*a, *b)?;
        let square = tape.square(gap)?;
        let each = tape.sum_cols(square)?;
        let each = tape.scale(each, 1.0 / tape.rows_cols(*a).1 as f32)?;
        far.push((each, *present));
        there.push(tape.reshape(*present, &[tape.len(*present), 1])?);
    }
    let (far, there) = (added(tape, &far)?, tape.concat(&there)?);
    let (sum, count) = (tape.sum(far)?, tape.sum(there)?);
    let count = tape.clamp(count, 1.0, f32::MAX)?;
    tape.div(sum, count)
}

#[cfg(test)]
mod tests {
    //! Published values and gradients; inputs are made by a formula.

    #![allow(clippy::excessive_precision, reason = "the numbers as they are published")]

    use super::*;
    use crate::data::{Task, TaskKind};
    use crate::nn::Weights;
    use crate::nn::token_grid::moved;
    use crate::recipe::config::Config;
    use crate::recipe::vectors::{close, free, q, run};

    fn times(by: f32, values: Vec<f32>) -> Vec<f32> {
        values.into_iter().map(|v| by * v).collect()
    }

    fn there(tape: &mut Tape, rows: [f32; 2]) -> Result<Var> {
        tape.constant("there", &[2], &rows)
    }

    fn of(gradients: &Weights, name: &str) -> Vec<f32> {
        gradients.get(name).expect("a gradient").1.to_vec()
    }

    /// [UMI-1]
    #[test]
    fn tokens_are_moved() {
        let specs = vec![free("a", &[1, 3, 2]), free("x", &[1, 3, 2])];
        let values = [("a", times(3.0, q(3, 2, 6))), ("x", q(5, 4, 6))];
        let (y, loss, gradients) = run(specs, &values, &q(7, 5, 4), |cx| {
            let (a, x) = (cx.param("a")?, cx.param("x")?);
            moved(cx.tape, a, x)
        });
        close("Y", &y, &[0.69933192, 0.45, 0.00066808, 0.45]);
        close("loss", &[loss], &[0.1902672304]);
        let want = [0.04176101, -0.04176101, -0.055, 0.055, -0.02386343, 0.02386343];
        close("dA", &of(&gradients, "a"), &want);
        let want = [-0.17297021, 0.5364851, -0.3, 0.6, -0.42702979, 0.6635149];
        close("dX", &of(&gradients, "x"), &want);
    }

    /// [UMI-2a]: what is left to a row's own class is 1 − ε.
    #[test]
    fn targets_are_smoothed() {
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let task = Task { kind: TaskKind::Classes, names };
        let goal = Goal::new(&Config::default(), &task, &[], 0);
        let values = [("z", times(2.0, q(3, 1, 6)))];
        let (_, loss, gradients) = run(vec![free("z", &[2, 3])], &values, &[1.0], |cx| {
            let z = cx.param("z")?;
            let class = cx.tape.constant("y", &[2], &[f32::from_bits(0), f32::from_bits(2)])?;
            smoothed(&goal, 0.1).loss(cx.tape, z, class, Distance::Absolute, None)
        });
        close("loss", &[loss], &[1.1325217134]);
        let want = [-0.31752695, 0.2698242, 0.04770275, 0.23685569, -0.00124499, -0.2356107];
        close("dz", &of(&gradients, "z"), &want);
    }

    /// [UMI-2b]: the second row alone has the second modality.
    #[test]
    fn pseudo_labels_teach() {
        let values = [("z", times(2.0, q(5, 7, 6)))];
        let (_, loss, gradients) = run(vec![free("z", &[2, 3])], &values, &[1.0], |cx| {
            let z = cx.param("z")?;
            let mut each = Vec::new();
            for (shares, rows) in [
                ([0.7, 0.2, 0.1, 0.25, 0.25, 0.5], [1.0, 1.0]),
                ([0.0, 1.0, 0.0, 0.1, 0.1, 0.8], [0.0, 1.0]),
            ] {
                let shares = cx.tape.constant("shares", &[2, 3], &shares)?;
                each.push((divergence(cx.tape, shares, z)?, there(cx.tape, rows)?));
            }
            let sum = added(cx.tape, &each)?;
            cx.tape.mean(sum)
        });
        close("loss", &[loss], &[0.8382096417]);
        let want = [-0.31160691, 0.32321382, -0.01160691, -0.09168527, 0.23766055, -0.14597527];
        close("dz", &of(&gradients, "z"), &want);
    }

    /// [UMI-2c]
    #[test]
    fn places_are_held_against_vectors() {
        let specs: Vec<ParamSpec> =
            vec![free("u", &[3, 2]), free("m1", &[2, 2]), free("m2", &[2, 2])];
        let values = [("u", q(5, 3, 6)), ("m1", q(3, 6, 4)), ("m2", q(7, 1, 4))];
        let (_, loss, gradients) = run(specs, &values, &[1.0], |cx| {
            let u = cx.param("u")?;
            let class = cx.tape.constant("y", &[2], &[f32::from_bits(0), f32::from_bits(2)])?;
            let mut all = Vec::new();
            for (name, rows) in [("m1", [1.0, 1.0]), ("m2", [0.0, 1.0])] {
                let own = cx.tape.gather(u, class)?;
                all.push((cx.param(name)?, own, there(cx.tape, rows)?));
            }
            far_apart(cx.tape, &all)
        });
        close("loss", &[loss], &[0.2033333333]);
        close("dU", &of(&gradients, "u"), &[0.0, -0.03333333, 0.0, 0.0, -0.2, -0.03333333]);
        close("dm1", &of(&gradients, "m1"), &[0.0, 0.03333333, 0.0, 0.23333333]);
        close("dm2", &of(&gradients, "m2"), &[0.0, 0.0, 0.2, -0.2]);
    }
}
