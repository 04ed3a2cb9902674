//! Each pair of sources: the four parts, the null, bounds, and what follows for whoever fuses them.

use super::bounds::{Bounds, bounds_under, widest};
use super::joint::{Joint, Marginals};
use super::solver::{Decomposition, Stop, decompose, shared};
use super::symbols::{Column, Symbols};
use crate::error::{Error, Result};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clusters of a stream; by default ten, or what leaves ten rows to a cell of two streams.
    pub clusters: Option<usize>,
    /// Principal components that are clustered.
    pub components: usize,
    /// Samples without synergy that are drawn, 8 or more.
    pub draws: usize,
    /// Of clusters and samples.
    pub seed: u64,
    /// Numbers above it are one class, the others the other.
    pub cut: f32,
    /// As if no row had both sources and a label: bounds of synergy, and no synergy.
    pub unpaired: bool,
    /// When the solver stops.
    pub stop: Stop,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            clusters: None,
            components: 10,
            draws: 20,
            seed: 1111,
            cut: 0.0,
            unpaired: false,
            stop: Stop::default(),
        }
    }
}

/// The synergy of samples of as many rows that have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Null {
    /// Its mean, in bits.
    pub mean: f64,
    /// Its deviation.
    pub sd: f64,
}

impl Null {
    /// Of `draws` samples of `rows` rows from a table without synergy.
    ///
    /// # Errors
    /// Fewer than two draws, no rows.
    pub fn of(without: &Joint, rows: usize, draws: usize, seed: u64, stop: Stop) -> Result<Null> {
        if draws < 2 || rows == 0 {
            return Err(Error::Config(format!(
                "a null of {draws} samples of {rows} rows has no deviation"
            )));
        }
        let [_, n2, classes] = without.shape();
        let mut until = Vec::with_capacity(without.cells().len());
        let mut sum = 0.0;
        for p in without.cells() {
            sum += p;
            until.push(sum);
        }
        let mut found = Vec::with_capacity(draws);
        for draw in 0..draws {
            let mut rng = Rng::keyed(&[seed, 3, draw as u64]);
            let drawn = (0..rows).map(|_| {
                let at = rng.uniform() * sum;
                let cell = until.partition_point(|end| *end <= at).min(until.len() - 1);
                [cell / (n2 * classes), cell / classes % n2, cell % classes]
            });
            let table = Joint::counted(without.shape(), drawn)?;
            found.push(decompose(&table, stop).synergy);
        }
        Ok(Null::from(&found))
    }

    fn from(found: &[f64]) -> Null {
        let count = found.len() as f64;
        let mean = found.iter().sum::<f64>() / count;
        let spread = found.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        Null { mean, sd: spread.sqrt() }
    }
}

/// What counting rows adds to synergy, beyond what a table truly has: the observed pairs with labels drawn anew, from
/// `table`, in which the three pairs interact no further. The null's own table couples the sources as redundancy
/// wants it, in fewer cells than rows of data fall into, so that it alone can take luck for synergy.
fn added(table: &[f64], m: &Marginals, rows: &[[usize; 3]], options: &Options) -> Result<Null> {
    let [_, n2, classes] = m.shape;
    let own = decompose(&Joint::new(m.shape, table)?, options.stop).synergy;
    let found = (0..options.draws).map(|draw| {
        let mut rng = Rng::keyed(&[options.seed, 4, draw as u64]);
        let drawn = rows.iter().map(|[a, b, _]| {
            let of = &table[(a * n2 + b) * classes..][..classes];
            let mut left = rng.uniform() * of.iter().sum::<f64>();
            let y = of.iter().position(|p| {
                left -= p;
                left < 0.0
            });
            [*a, *b, y.unwrap_or(classes - 1)]
        });
        Ok(decompose(&Joint::counted(m.shape, drawn)?, options.stop).synergy)
    });
    let found = Null::from(&found.collect::<Result<Vec<f64>>>()?);
    Ok(Null { mean: found.mean - own, ..found })
}

/// How to bring two sources together, by what they share and add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// One of them knows next to all of it.
    StayWithA,
    /// The same of the other.
    StayWithB,
    /// Most is shared: losses that align them, or that make them agree.
    Align,
    /// Most is told by both together: gating, attention, outer products.
    FuseRichly,
    /// Each adds its own: late or additive fusion is enough.
    Late,
    /// Neither says anything beyond luck.
    Nothing,
}

impl Fusion {
    /// In words, of sources with these names.
    pub fn about(self, a: &str, b: &str) -> String {
        match self {
            Fusion::StayWithA => format!("stay with {a}"),
            Fusion::StayWithB => format!("stay with {b}"),
            Fusion::Align => "align".into(),
            Fusion::FuseRichly => "fuse richly".into(),
            Fusion::Late => "fuse late".into(),
            Fusion::Nothing => "nothing to fuse".into(),
        }
    }
}

/// What is known of two sources; information in bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The first source.
    pub a: String,
    /// The second.
    pub b: String,
    /// Rows that have both and a label; of unpaired data those that have both.
    pub rows: usize,
    /// Symbols of the first and the second.
    pub symbols: [usize; 2],
    /// H(Y).
    pub target: f64,
    /// I(A;Y).
    pub information_a: f64,
    /// I(B;Y).
    pub information_b: f64,
    /// I(A;B).
    pub between: f64,
    /// What both know.
    pub redundancy: f64,
    /// What the first alone knows.
    pub unique_a: f64,
    /// What the second alone knows.
    pub unique_b: f64,
    /// What only both together tell, as it stands in the table, luck included; none of unpaired data.
    pub synergy: Option<f64>,
    /// The mean synergy of samples that have none.
    pub null_mean: Option<f64>,
    /// Their deviation.
    pub null_sd: Option<f64>,
    /// The mean of what counting adds to the synergy of samples whose three pairs are those observed.
    pub bias_mean: Option<f64>,
    /// Its deviation.
    pub bias_sd: Option<f64>,
    /// Whether synergy is two deviations above both.
    pub synergy_is_real: Option<bool>,
    /// Synergy less the larger of both means where it is real, and 0 where not.
    pub synergy_beyond_luck: Option<f64>,
    /// How far the solver can be off.
    pub gap: f64,
    /// What unlabelled pairs and labelled single sources say of synergy and accuracy.
    pub bounds: Bounds,
    /// How often the likelier class given one source's symbol is right, on these rows.
    pub accuracy_a: f64,
    /// The same of the second.
    pub accuracy_b: f64,
    /// Whether the accuracy to be expected of both, midway between its bounds, is clearly above that of one.
    pub collect_both: bool,
    /// How to bring them together.
    pub fusion: Fusion,
}

/// What is clearly more accuracy.
const CLEARLY: f64 = 0.02;
/// A share of the information that is next to all of it.
const NEXT_TO_ALL: f64 = 0.8;

/// Every pair of sources.
///
/// # Errors
/// No rows that have both sources and a label, or a table that is too large.
pub fn measure(symbols: &Symbols, options: &Options) -> Result<Vec<Pair>> {
    let columns = &symbols.columns;
    let pairs = (0..columns.len()).flat_map(|i| (i + 1..columns.len()).map(move |j| (i, j)));
    pairs.map(|(i, j)| pair(symbols, &columns[i], &columns[j], options)).collect()
}

fn pair(all: &Symbols, a: &Column, b: &Column, options: &Options) -> Result<Pair> {
    let shape = [a.symbols, b.symbols, all.classes];
    let rows = || a.of.iter().zip(&b.of).zip(&all.target).map(|((a, b), y)| (*a, *b, *y));
    let whole: Vec<[usize; 3]> =
        rows().filter_map(|(a, b, y)| Some([a? as usize, b? as usize, y? as usize])).collect();
    let nobody = |what: &str| Error::Config(format!("no row has {what} {} and {}", a.name, b.name));
    let (marginals, parts, null, count) = if options.unpaired {
        let (mut first, mut second, mut both) = (
            vec![0.0; shape[0] * shape[2]],
            vec![0.0; shape[1] * shape[2]],
            vec![0.0; shape[0] * shape[1]],
        );
        let mut count = 0;
        for (a, b, y) in rows() {
            let (a, b, y) = (a.map(|a| a as usize), b.map(|b| b as usize), y.map(|y| y as usize));
            if let (Some(a), Some(y)) = (a, y) {
                first[a * shape[2] + y] += 1.0;
            }
            if let (Some(b), Some(y)) = (b, y) {
                second[b * shape[2] + y] += 1.0;
            }
            if let (Some(a), Some(b)) = (a, b) {
                both[a * shape[1] + b] += 1.0;
                count += 1;
            }
        }
        if count == 0 {
            return Err(nobody("both"));
        }
        let marginals = Marginals::of_counts(shape, &first, &second, &both)?;
        let parts = shared(&marginals, options.stop);
        (marginals, parts, None, count)
    } else {
        if whole.is_empty() {
            return Err(nobody("a label and both"));
        }
        let joint = Joint::counted(shape, whole.iter().copied())?;
        let parts = decompose(&joint, options.stop);
        let without = &parts.without_synergy;
        let null = Null::of(without, whole.len(), options.draws, options.seed, options.stop)?;
        let marginals = joint.marginals();
        (marginals, parts, Some(null), whole.len())
    };
    let (table, most) = widest(&marginals);
    let luck = match null {
        Some(null) => Some((null, added(&table, &marginals, &whole, options)?)),
        None => None,
    };
    let [information_a, information_b, between, target] = marginals.informations();
    let synergy = luck.map(|_| parts.synergy);
    let real =
        luck.map(|(null, bias)| [null, bias].iter().all(|l| parts.synergy > l.mean + 2.0 * l.sd));
    let beyond = luck.zip(real).map(|((null, bias), real)| {
        if real { parts.synergy - null.mean.max(bias.mean).max(0.0) } else { 0.0 }
    });
    let bounds = bounds_under(&marginals, &parts, most);
    let [accuracy_a, accuracy_b] = marginals.accuracies();
    let expected = (bounds.accuracy_lower + bounds.accuracy_upper) / 2.0;
    Ok(Pair {
        a: a.name.clone(),
        b: b.name.clone(),
        rows: count,
        symbols: [shape[0], shape[1]],
        target,
        information_a,
        information_b,
        between,
        redundancy: parts.redundancy,
        unique_a: parts.unique_a,
        unique_b: parts.unique_b,
        synergy,
        null_mean: luck.map(|l| l.0.mean),
        null_sd: luck.map(|l| l.0.sd),
        bias_mean: luck.map(|l| l.1.mean),
        bias_sd: luck.map(|l| l.1.sd),
        synergy_is_real: real,
        synergy_beyond_luck: beyond,
        gap: parts.gap,
        bounds,
        accuracy_a,
        accuracy_b,
        collect_both: expected > accuracy_a.max(accuracy_b) + CLEARLY,
        fusion: fusion(&parts, beyond.unwrap_or(bounds.synergy_lower)),
    })
}

/// The largest part decides.
fn fusion(parts: &Decomposition, synergy: f64) -> Fusion {
    let (r, a, b) = (parts.redundancy, parts.unique_a, parts.unique_b);
    let all = r + a + b + synergy;
    let largest = r.max(a).max(b).max(synergy);
    if all <= parts.gap.max(1e-3) {
        Fusion::Nothing
    } else if synergy == largest {
        Fusion::FuseRichly
    } else if r == largest {
        Fusion::Align
    } else if a.max(b) < NEXT_TO_ALL * all {
        Fusion::Late
    } else if a > b {
        Fusion::StayWithA
    } else {
        Fusion::StayWithB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(rows: usize, of: impl Fn(u64, &mut Rng) -> [i64; 3]) -> Symbols {
        let mut rng = Rng::keyed(&[5]);
        let all: Vec<[i64; 3]> = (0..rows as u64).map(|i| of(i, &mut rng)).collect();
        let column = |at: usize| all.iter().map(|row| Some(row[at])).collect();
        let named =
            vec![("x1".into(), column(0)), ("x2".into(), column(1)), ("y".into(), column(2))];
        Symbols::of_columns(named).unwrap()
    }

    fn only(symbols: &Symbols, options: &Options) -> Pair {
        measure(symbols, options).unwrap().remove(0)
    }

    /// Labels and clusters that have nothing to do with each other look like a third of a bit of synergy where
    /// rows are as few as CMU-MOSI's test rows, and that is told.
    #[test]
    fn luck_is_told_from_synergy() {
        let of = |_: u64, rng: &mut Rng| {
            [rng.below(20) as i64, rng.below(20) as i64, rng.below(2) as i64]
        };
        let luck = only(&columns(686, of), &Options { draws: 8, ..Options::default() });
        let synergy = luck.synergy.unwrap();
        assert!((0.3..0.5).contains(&synergy), "{luck:?}");
        assert!((luck.bias_mean.unwrap() - synergy).abs() < 0.08, "{luck:?}");
        assert_eq!(
            (luck.synergy_is_real, luck.synergy_beyond_luck),
            (Some(false), Some(0.0)),
            "{luck:?}"
        );

        let of = |_: u64, rng: &mut Rng| {
            let (a, b) = (rng.below(2) as i64, rng.below(2) as i64);
            [a, b, a ^ b]
        };
        let xor = only(&columns(500, of), &Options::default());
        assert!(xor.synergy_is_real.unwrap() && xor.synergy.unwrap() > 0.95, "{xor:?}");
        assert_eq!(xor.fusion, Fusion::FuseRichly);
        // Its pairs alone force synergy upon AND, which is no luck.
        let of = |_: u64, rng: &mut Rng| {
            let (a, b) = (rng.below(2) as i64, rng.below(2) as i64);
            [a, b, a & b]
        };
        let and = only(&columns(500, of), &Options::default());
        assert!(
            and.synergy_is_real.unwrap() && (and.synergy_beyond_luck.unwrap() - 0.5).abs() < 0.06,
            "{and:?}"
        );
    }

    /// What follows from each part.
    #[test]
    fn the_largest_part_decides() {
        let two = |rng: &mut Rng| (rng.below(2) as i64, rng.below(2) as i64);
        let first = |_: u64, rng: &mut Rng| {
            let (a, b) = two(rng);
            [a, b, a]
        };
        let same = |_: u64, rng: &mut Rng| {
            let (a, _) = two(rng);
            [a, a, a]
        };
        let both = |_: u64, rng: &mut Rng| {
            let (a, b) = two(rng);
            [a, b, 2 * a + b]
        };
        let one = only(&columns(400, first), &Options::default());
        assert_eq!((one.fusion, one.collect_both), (Fusion::StayWithA, false), "{one:?}");
        assert_eq!(only(&columns(400, same), &Options::default()).fusion, Fusion::Align);
        let late = only(&columns(400, both), &Options::default());
        assert_eq!((late.fusion, late.collect_both), (Fusion::Late, true), "{late:?}");
    }

    /// Without labelled pairs the bounds hold what the pairs say, and the parts that need no pairs are the same.
    #[test]
    fn unpaired_data_have_bounds() {
        let of = |_: u64, rng: &mut Rng| {
            let (a, b) = (rng.below(3) as i64, rng.below(2) as i64);
            [a, b, i64::from(a > 0 && b > 0)]
        };
        let all = columns(900, of);
        let paired = only(&all, &Options::default());
        let unpaired = only(&all, &Options { unpaired: true, ..Options::default() });
        assert!(unpaired.synergy.is_none() && unpaired.null_mean.is_none());
        assert!((unpaired.redundancy - paired.redundancy).abs() < 1e-3);
        let synergy = paired.synergy.unwrap();
        assert!(
            unpaired.bounds.synergy_lower <= synergy + 1e-3
                && synergy <= unpaired.bounds.synergy_upper + 1e-3
        );
        // A third of the rows each has one source and a label, the other and a label, or both and none.
        let mut thirds = all.clone();
        for i in 0..900 {
            match i % 3 {
                0 => thirds.columns[0].of[i] = None,
                1 => thirds.columns[1].of[i] = None,
                _ => thirds.target[i] = None,
            }
        }
        let thirds = only(&thirds, &Options { unpaired: true, ..Options::default() });
        assert_eq!(thirds.rows, 300);
        assert!((thirds.redundancy - paired.redundancy).abs() < 0.05, "{thirds:?} {paired:?}");
        assert!(measure(&all, &Options { draws: 1, ..Options::default() }).is_err());
    }

    #[test]
    fn a_target_that_never_changes_is_refused() {
        let of = |x: i64| vec![Some(x), Some(1 - x)];
        let named =
            vec![("a".into(), of(0)), ("b".into(), of(1)), ("y".into(), vec![Some(1), Some(1)])];
        let said = Symbols::of_columns(named).unwrap_err().to_string();
        assert!(said.contains("y is the same in all rows"), "{said}");
    }
}
