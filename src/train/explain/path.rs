//! The line from the usual input to a row's own, and the integral of a gradient along it.
//!
//! The line is cut into pieces, and each piece has three points, at which a polynomial of five degrees is
//! integrated exactly. Of each piece both ends' scores are known, so that it tells by how much its own
//! integral is off: the pieces that are off most are halved until all of them together are near enough. Most
//! of a line takes few pieces; where a unit switches on, they are short.

use crate::error::Result;

/// Where the line begins. A step of nothing but zeros is padding to some models, which is another input than
/// one that is almost zero; the line is of those that are not.
const FIRST: f64 = 1e-6;
/// Points of a piece and their weights: the Gauss-Legendre rule.
const NODES: [(f64, f64); 3] = [
    (0.112_701_665_379_258_31, 5.0 / 18.0),
    (0.5, 8.0 / 18.0),
    (0.887_298_334_620_741_7, 5.0 / 18.0),
];
/// The most points of a line.
const MOST: usize = 4096;
/// A whole this small, of scores of the size of one, is rounding.
const NOTHING: f64 = 1e-5;

/// What is integrated: one input of a row, and where the copies of that row lie in the tensor of a batch.
pub(super) struct Part {
    /// The row's own values.
    pub(super) own: Vec<f32>,
    /// What is usual, of as many.
    pub(super) usual: Vec<f32>,
    /// Where each row of the batch begins.
    pub(super) starts: Vec<usize>,
}

impl Part {
    /// The values of a batch's row at a share of the line, with where they go.
    pub(super) fn at(&self, row: usize, share: f64) -> (usize, impl Iterator<Item = f32> + '_) {
        let pairs = self.own.iter().zip(&self.usual);
        let share = share as f32;
        // At the end exactly what is there.
        let value = move |(own, usual): (&f32, &f32)| match share {
            1.0 => *own,
            _ => usual + share * (own - usual),
        };
        (self.starts[row], pairs.map(value))
    }

    /// What each value is answerable for, by the integral of its gradient.
    pub(super) fn attributions<'a>(
        &'a self,
        gradient: impl IntoIterator<Item = f64> + 'a,
    ) -> impl Iterator<Item = f64> + 'a {
        let gaps = self.own.iter().zip(&self.usual);
        let gaps = gaps.map(|(own, usual)| f64::from(*own) - f64::from(*usual));
        gaps.zip(gradient).map(|(gap, gradient)| gap * gradient)
    }
}

/// What a model says of the points of a pass: the score of each, and of each part its gradient tensor.
pub(super) struct Answer {
    pub(super) scores: Vec<f64>,
    pub(super) gradients: Vec<Option<Vec<f32>>>,
}

/// The integral along a whole line.
pub(super) struct Integral {
    /// The score at its end, the row's own.
    pub(super) score: f64,
    /// That at its beginning.
    pub(super) usual: f64,
    /// What each value of each part is answerable for.
    pub(super) attributions: Vec<Vec<f64>>,
    /// Points that were asked for.
    pub(super) points: usize,
}

impl Integral {
    /// What is missing until the attributions add up.
    pub(super) fn residual(&self) -> f64 {
        self.score - self.usual - self.attributions.iter().flatten().sum::<f64>()
    }

    /// Whether a gap of the attributions is no more than a share of the whole.
    pub(super) fn within(&self, gap: f64, share: f64) -> bool {
        let whole = (self.score - self.usual).abs();
        gap.abs() <= (share * whole).max(NOTHING * self.score.abs().max(1.0))
    }
}

/// A piece of the line: where it begins and ends, the scores there, and the integrals of the gradients.
struct Piece {
    ends: [f64; 2],
    scores: [f64; 2],
    gradients: Gradients,
    residual: f64,
}

/// Of each part the integral of its gradient.
type Gradients = Vec<Vec<f32>>;

/// A point to ask about: an end, or a node of a piece with its weight.
type Point = (f64, Option<(usize, f64)>);

/// Integrates over the line, in passes of at most `rows` points, until the pieces' residuals together are
/// no more than a share `within` of the whole.
///
/// # Errors
/// Those of `ask`.
pub(super) fn integral(
    parts: &[Option<Part>],
    rows: usize,
    within: f64,
    ask: &mut dyn FnMut(&[f64]) -> Result<Answer>,
) -> Result<Integral> {
    let mut points = 0;
    // The first pieces, and later the halves of some, fill one pass.
    let count = (rows.saturating_sub(1) / 4).max(1);
    let mut edges: Vec<f64> = (0..=count).map(|i| i as f64 / count as f64).collect();
    edges[0] = FIRST;
    let begun: Vec<[f64; 2]> = edges.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    let (scores, gradients) = asked(parts, rows, (&edges, &begun), ask, &mut points)?;
    let mut pieces: Vec<Piece> = begun
        .into_iter()
        .zip(scores.windows(2))
        .zip(gradients)
        .map(|((ends, pair), gradients)| Piece::new(parts, ends, [pair[0], pair[1]], gradients))
        .collect();
    loop {
        pieces.sort_by(|a, b| b.residual.abs().total_cmp(&a.residual.abs()));
        let whole =
            Integral { score: scores[count], usual: scores[0], attributions: Vec::new(), points };
        let off: f64 = pieces.iter().map(|piece| piece.residual.abs()).sum();
        if whole.within(off, within) || points >= MOST || !off.is_finite() {
            let attributions = summed(parts, &pieces);
            return Ok(Integral { attributions, ..whole });
        }
        let worst: Vec<Piece> = pieces.drain(..(rows / 7).clamp(1, pieces.len())).collect();
        let middles: Vec<f64> = worst.iter().map(|p| (p.ends[0] + p.ends[1]) / 2.0).collect();
        let halves = worst.iter().zip(&middles);
        let halves: Vec<[f64; 2]> =
            halves.flat_map(|(p, m)| [[p.ends[0], *m], [*m, p.ends[1]]]).collect();
        let (scores, gradients) = asked(parts, rows, (&middles, &halves), ask, &mut points)?;
        let sides = worst.iter().zip(scores);
        let sides = sides.flat_map(|(p, s)| [[p.scores[0], s], [s, p.scores[1]]]);
        let made = halves.into_iter().zip(sides).zip(gradients);
        pieces.extend(made.map(|((ends, scores), g)| Piece::new(parts, ends, scores, g)));
    }
}

impl Piece {
    fn new(parts: &[Option<Part>], ends: [f64; 2], scores: [f64; 2], gradients: Gradients) -> Self {
        let sums = parts.iter().zip(&gradients).map(|(part, gradient)| {
            let gradient = gradient.iter().map(|g| f64::from(*g));
            part.as_ref().map_or(0.0, |part| part.attributions(gradient).sum())
        });
        let residual = scores[1] - scores[0] - sums.sum::<f64>();
        Piece { ends, scores, gradients, residual }
    }
}

/// The scores of some ends, and of some pieces the integrals of the gradients of each part.
fn asked(
    parts: &[Option<Part>],
    rows: usize,
    (ends, pieces): (&[f64], &[[f64; 2]]),
    ask: &mut dyn FnMut(&[f64]) -> Result<Answer>,
    points: &mut usize,
) -> Result<(Vec<f64>, Vec<Gradients>)> {
    let mut all: Vec<Point> = ends.iter().map(|end| (*end, None)).collect();
    for (i, [from, to]) in pieces.iter().enumerate() {
        let width = to - from;
        all.extend(NODES.map(|(at, weight)| (from + at * width, Some((i, weight * width)))));
    }
    *points += all.len();
    let none = || parts.iter().map(|part| vec![0.0; part.as_ref().map_or(0, |p| p.own.len())]);
    let mut sums: Vec<Gradients> = pieces.iter().map(|_| none().collect()).collect();
    let mut scores = Vec::with_capacity(ends.len());
    for pass in all.chunks(rows) {
        let shares: Vec<f64> = pass.iter().map(|(share, _)| *share).collect();
        let answer = ask(&shares)?;
        for (row, (score, (_, node))) in answer.scores.iter().zip(pass).enumerate() {
            let Some((piece, weight)) = node else {
                scores.push(*score);
                continue;
            };
            let own = parts.iter().zip(&answer.gradients).zip(&mut sums[*piece]);
            for ((part, gradient), sum) in own {
                let (Some(part), Some(gradient)) = (part, gradient) else { continue };
                let values = &gradient[part.starts[row]..][..sum.len()];
                sum.iter_mut().zip(values).for_each(|(sum, g)| *sum += *weight as f32 * g);
            }
        }
    }
    Ok((scores, sums))
}

/// What each value of each part is answerable for, over all pieces.
fn summed(parts: &[Option<Part>], pieces: &[Piece]) -> Vec<Vec<f64>> {
    let one = |(i, part): (usize, &Option<Part>)| {
        let Some(part) = part else { return Vec::new() };
        let mut whole = vec![0.0; part.own.len()];
        for piece in pieces {
            whole.iter_mut().zip(&piece.gradients[i]).for_each(|(sum, g)| *sum += f64::from(*g));
        }
        part.attributions(whole).collect()
    };
    parts.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integral of a function of two values with its gradient, over batches of 32 rows.
    fn of(
        own: [f32; 2],
        usual: [f32; 2],
        f: impl Fn([f64; 2]) -> (f64, [f64; 2]),
    ) -> (Integral, usize) {
        let starts = (0..32).map(|row| 2 * row).collect();
        let part = Part { own: own.into(), usual: usual.into(), starts };
        let parts = [None, Some(part)];
        let mut passes = 0;
        let mut ask = |shares: &[f64]| {
            assert!(shares.len() <= 32);
            passes += 1;
            let (mut scores, mut gradient) = (Vec::new(), vec![0.0; 64]);
            for (row, share) in shares.iter().enumerate() {
                let Some(part) = &parts[1] else { panic!("a part") };
                let (start, values) = part.at(row, *share);
                let values: Vec<f64> = values.map(f64::from).collect();
                let (score, slope) = f([values[0], values[1]]);
                scores.push(score);
                gradient[start..start + 2].copy_from_slice(&slope.map(|s| s as f32));
            }
            Ok(Answer { scores, gradients: vec![None, Some(gradient)] })
        };
        let found = integral(&parts, 32, 0.01, &mut ask).unwrap();
        (found, passes)
    }

    #[test]
    fn a_plane_is_exact_in_one_pass() {
        let (found, passes) =
            of([2.0, -1.0], [0.5, 1.0], |[a, b]| (3.0 * a - b + 7.0, [3.0, -1.0]));
        assert_eq!((passes, found.points), (1, 29));
        approx::assert_relative_eq!(found.attributions[1][0], 4.5, epsilon = 1e-5);
        approx::assert_relative_eq!(found.attributions[1][1], 2.0, epsilon = 1e-5);
        assert!(found.residual().abs() < 1e-5 && found.attributions[0].is_empty());
    }

    #[test]
    fn a_product_is_shared_evenly() {
        // a b from (0, 0) to (2, 3): each has half of it, whatever their sizes.
        let (found, _) = of([2.0, 3.0], [0.0; 2], |[a, b]| (a * b, [b, a]));
        for share in &found.attributions[1] {
            approx::assert_relative_eq!(*share, 3.0, epsilon = 1e-4);
        }
    }

    #[test]
    fn a_sharp_turn_is_found() {
        // A unit that switches on at 99.9 % of the line, and a saturated one.
        let f = |[a, b]: [f64; 2]| {
            let (on, late) = (a > 0.999, (1000.0 * b).tanh());
            let score = 1000.0 * (a - 0.999).max(0.0) + late;
            (score, [if on { 1000.0 } else { 0.0 }, 1000.0 * (1.0 - late * late)])
        };
        let (found, _) = of([1.0, 1.0], [0.0; 2], f);
        assert!(found.within(found.residual(), 0.01) && found.points < 1000, "{}", found.points);
        for share in &found.attributions[1] {
            assert!((share - 1.0).abs() < 0.02, "{share}");
        }
    }

    #[test]
    fn what_cannot_add_up_ends() {
        // A jump in the middle of the line, of which no gradient knows.
        let (found, _) = of([1.0; 2], [0.0; 2], |[a, _]| (f64::from(a > 0.3), [0.0; 2]));
        assert!(!found.within(found.residual(), 0.01) && found.points <= MOST + 32);
    }

    #[test]
    fn a_line_ends_at_what_is_there() {
        let part = Part { own: vec![0.1, 3e7], usual: vec![0.7, -1.0], starts: vec![0, 2] };
        assert_eq!(part.at(1, 1.0).1.collect::<Vec<_>>(), [0.1, 3e7]);
        assert_eq!(part.at(1, 0.5).0, 2);
    }
}
