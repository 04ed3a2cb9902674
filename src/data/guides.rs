//! Guides of a batch: vectors of streams that only losses read.

use super::batch::other_features;
use super::dataset::Split;
use super::{Modality, Stream};
use crate::error::Result;

/// Where the vectors of a guide lie in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuideLayout {
    /// Which stream they are of.
    pub modality: Modality,
    /// Features.
    pub dim: usize,
    /// f32 `[batch, dim]`: the mean of a row's steps as the file has them, never standardised; zero where the split
    /// or the row has none.
    pub at: usize,
}

/// Writes the guides of these rows into a block.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data): a stream of other features.
pub(super) fn fill_guides(
    split: &Split,
    rows: &[u32],
    guides: &[GuideLayout],
    out: &mut [u32],
) -> Result<()> {
    for place in guides {
        let Some(stream) = split.stream(place.modality) else { continue };
        if stream.dim != place.dim {
            return Err(other_features(split, stream, place.dim));
        }
        for (i, &row) in rows.iter().enumerate() {
            write_mean(&stream, row as usize, &mut out[place.at + i * place.dim..][..place.dim])?;
        }
    }
    Ok(())
}

/// Writes the mean of a row's steps; nothing where it has none.
fn write_mean(stream: &Stream<'_>, row: usize, out: &mut [u32]) -> Result<()> {
    if stream.missing(row) {
        return Ok(());
    }
    let (values, steps) = (stream.values(row)?, stream.len(row).max(1));
    let frames = values.chunks_exact(stream.dim).take(steps);
    let mut sums = vec![0.0_f64; stream.dim];
    frames.for_each(|frame| sums.iter_mut().zip(frame).for_each(|(sum, x)| *sum += f64::from(*x)));
    let means = sums.iter().map(|sum| ((sum / steps as f64) as f32).to_bits());
    out.iter_mut().zip(means).for_each(|(word, mean)| *word = mean);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testkit::small;
    use super::super::{BatchShape, Dataset, Layout, Reads, SplitName, Standardise, fill};
    use super::*;

    #[test]
    fn guides_are_means_of_steps_as_they_are() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let guides = vec![(Modality::Audio, 5), (Modality::Text, 3)];
        let reads = Reads { guides, ..Reads::default() };
        let shape = BatchShape { rows: 2, tokens: 0, steps: Vec::new() };
        let layout = Layout::of(&shape, &reads, 1);
        let standardise = Standardise::fit(train, &[Modality::Audio]).unwrap();
        let mut out = vec![u32::MAX; 7];
        fill(train, None, &[1, 0], &layout, Some(&standardise), &mut out).unwrap();
        let audio = train.stream(Modality::Audio).unwrap();
        for (i, row) in [1, 0].into_iter().enumerate() {
            let (values, steps) = (audio.values(row).unwrap(), audio.len(row));
            for column in 0..5 {
                let own = (0..steps).map(|step| values[step * 5 + column]).sum::<f32>();
                let got = f32::from_bits(out[layout.guides[0].at + i * 5 + column]);
                assert!((got - own / steps as f32).abs() < 1e-5, "{got}");
            }
        }
        // A vector is its own mean, and what is not there is 0.
        assert_eq!(f32::from_bits(out[layout.guides[1].at]), 0.3);
        let reads = Reads { guides: vec![(Modality::Vision, 2)], ..Reads::default() };
        let layout = Layout::of(&shape, &reads, 1);
        fill(train, None, &[1, 0], &layout, None, &mut out).unwrap();
        assert_eq!(out[layout.guides[0].at..][..4], [0; 4]);
        let reads = Reads { guides: vec![(Modality::Text, 4)], ..Reads::default() };
        let why = fill(train, None, &[1, 0], &Layout::of(&shape, &reads, 1), None, &mut out);
        assert!(why.unwrap_err().to_string().contains("3 features where the model takes 4"));
    }
}
