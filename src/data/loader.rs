//! Batches filled by a thread of their own, two ahead of the device.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::batch::{BatchShape, Layout, Reads, fill, readable_stream};
use super::normalize::Standardise;
use super::{Dataset, SplitName};
use crate::error::{Error, Result};

/// How many batches may wait for the consumer.
const AHEAD: usize = 2;
/// Buffers that can lie idle: those ahead, one being filled, and a few that a consumer held.
const IDLE: usize = AHEAD + 4;

/// One filled block. Dropping it hands its memory back to the loader.
#[derive(Debug)]
pub struct Batch {
    /// What lies where; shared by all batches of the same size.
    pub layout: Arc<Layout>,
    /// The block, `layout.words` long.
    pub words: Vec<u32>,
    home: SyncSender<Vec<u32>>,
}

impl Batch {
    /// The rows in this block, as indices into their split.
    pub fn rows(&self) -> &[u32] {
        let at = self.layout.rows_at;
        self.words.get(at..at + self.layout.batch).unwrap_or_default()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Never blocks: a full or closed channel just lets the memory go.
        let _ = self.home.try_send(std::mem::take(&mut self.words));
    }
}

/// An iterator over the batches of one pass through a split.
///
/// Once the first few buffers exist, a pass allocates nothing but the layouts of
/// packed texts. The last batch may be smaller.
#[derive(Debug)]
pub struct Loader {
    filled: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    left: usize,
    path: PathBuf,
    /// How long a batch may take.
    patience: Duration,
}

impl Loader {
    /// Starts reading `order` (row indices, e.g. from [`super::shuffled`]) in batches of `batch`;
    /// of the text as tokens, too, where `tables` gives the positions and segments of an encoder.
    ///
    /// # Errors
    /// [`Error::Data`] when the split, a modality, a feature count or a row of `order` is not in
    /// the data set; [`Error::Config`] when `batch` is 0 or no thread can be started.
    pub fn new(
        data: Arc<Dataset>,
        split: SplitName,
        order: Vec<u32>,
        batch: usize,
        reads: Reads,
        standardise: Option<Arc<Standardise>>,
    ) -> Result<Loader> {
        if batch == 0 {
            return Err(Error::Config("the batch size is 0; give at least 1".into()));
        }
        // Checked here, so that a wrong model or file is told before anything is under way.
        let part = data.split(split).ok_or_else(|| {
            Error::data(data.path(), format!("there is no {split} split; add its tensors"))
        })?;
        for spec in &reads.streams {
            readable_stream(part, (spec.modality, spec.dim), standardise.as_deref())?;
        }
        if reads.tokens.is_some() && data.text().and_then(|t| t.tokens.split(split)).is_none() {
            return Err(Error::data(
                data.path(),
                format!("{split} has no text; the model reads sentences or token ids"),
            ));
        }
        if let Some(row) = order.iter().find(|&&row| row as usize >= part.rows()) {
            let detail = format!("{split} has {} rows, no row {row}", part.rows());
            return Err(Error::data(data.path(), detail));
        }

        let left = order.len().div_ceil(batch);
        let path = data.path().to_path_buf();
        let (send, filled) = sync_channel(AHEAD);
        let (home, idle) = sync_channel(IDLE);
        let work = Work { data, split, order, batch, reads, standardise, home, idle };
        let thread = std::thread::Builder::new()
            .name("modalign-loader".into())
            .spawn(move || work.run(&send))
            .map_err(Error::io("start a thread to read", &path))?;
        let patience = crate::gpu::patience();
        Ok(Loader { filled: Some(filled), thread: Some(thread), left, path, patience })
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let next = self.filled.as_ref()?.recv_timeout(self.patience);
        let next = next.unwrap_or_else(|why| {
            Err(match why {
                RecvTimeoutError::Timeout => {
                    let seconds = self.patience.as_secs_f64();
                    // It cannot be stopped, and must not be waited for.
                    self.thread = None;
                    let detail = format!(
                        "does not answer: no rows came of it for {seconds:.0} s. What was done is kept: go on \
                         when it is there again (MODALIGN_TIMEOUT says how long to wait)"
                    );
                    Error::data(&self.path, detail)
                }
                RecvTimeoutError::Disconnected => {
                    Error::Config("the loader thread ended early; please report this".into())
                }
            })
        });
        self.left = if next.is_ok() { self.left - 1 } else { 0 };
        Some(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closing the channel first wakes a thread that waits to hand over a batch.
        self.filled = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All that the thread owns.
struct Work {
    data: Arc<Dataset>,
    split: SplitName,
    order: Vec<u32>,
    batch: usize,
    reads: Reads,
    standardise: Option<Arc<Standardise>>,
    home: SyncSender<Vec<u32>>,
    idle: Receiver<Vec<u32>>,
}

impl Work {
    fn run(&self, send: &SyncSender<Result<Batch>>) {
        let Some(split) = self.data.split(self.split) else { return };
        let text = self.data.text().map(|text| text.as_ref());
        let tokens =
            text.and_then(|t| t.tokens.split(self.split)).filter(|_| self.reads.tokens.is_some());
        let width = self.data.task().width();
        let mut layout = Arc::new(Layout::new(0, &[], None));
        for rows in self.order.chunks(self.batch) {
            let shape = BatchShape::of(split, tokens, &self.reads.streams, rows);
            if shape != layout.shape() {
                layout = Arc::new(Layout::of(&shape, &self.reads, width));
            }
            let mut words = self.idle.try_recv().unwrap_or_default();
            let standardise = self.standardise.as_deref();
            let filled = split
                .source
                .unchanged()
                .and_then(|()| fill(split, tokens, rows, &layout, standardise, &mut words))
                .and_then(|()| split.source.unchanged());
            let failed = filled.is_err();
            let batch =
                filled.map(|()| Batch { layout: layout.clone(), words, home: self.home.clone() });
            if send.send(batch).is_err() || failed {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::testkit::TensorFile;
    use super::super::{Memory, Modality, Options, Row, StreamSpec, Target, shuffled};
    use super::*;

    fn data(rows: usize) -> Arc<Dataset> {
        let mut all = Memory::new("rows", &[(Modality::Audio, 3)]);
        for i in 0..rows {
            let streams = vec![(i * 6..i * 6 + 6).map(|x| x as f32).collect()];
            let target = Some(Target::Number(i as f32 / rows as f32));
            all.push(SplitName::Train, Row { streams, target, ..Row::default() }).unwrap();
        }
        Arc::new(all.dataset(&Options::default()).unwrap())
    }

    fn specs() -> Vec<StreamSpec> {
        vec![StreamSpec { modality: Modality::Audio, steps: 2, dim: 3, lengths: true }]
    }

    fn reads(streams: Vec<StreamSpec>) -> Reads {
        Reads { streams, ..Reads::default() }
    }

    fn loader(rows: usize, batch: usize, specs: Vec<StreamSpec>) -> Result<Loader> {
        let order = shuffled(rows as u32, 1, 0);
        Loader::new(data(rows), SplitName::Train, order, batch, reads(specs), None)
    }

    #[test]
    fn every_row_once_in_order_with_a_small_last_batch() {
        let mut seen = Vec::new();
        let mut sizes = Vec::new();
        for batch in loader(50, 8, specs()).unwrap() {
            let batch = batch.unwrap();
            sizes.push(batch.layout.batch);
            assert_eq!(batch.words.len(), batch.layout.words);
            for (i, &row) in batch.rows().iter().enumerate() {
                let value = batch.words[batch.layout.streams[0].values_at + i * 8];
                assert_eq!(f32::from_bits(value), row as f32 * 6.0);
            }
            seen.extend_from_slice(batch.rows());
        }
        assert_eq!(sizes, [8, 8, 8, 8, 8, 8, 2]);
        assert_eq!(seen, shuffled(50, 1, 0));
    }

    #[test]
    fn a_batch_has_room_for_its_longest_row_and_little_more() {
        // Row i has i + 1 of 40 steps.
        let file = TensorFile::new()
            .f32("train.audio", &[40, 40, 3], (0..40 * 40 * 3).map(|i| i as f32))
            .i32("train.audio_lengths", &[40], &(1..=40).collect::<Vec<_>>())
            .f32("train.regression_labels", &[40], (0..40).map(|i| i as f32 / 40.0))
            .save();
        let data = Arc::new(Dataset::open(file.path()).unwrap());
        let spec = StreamSpec { modality: Modality::Audio, steps: 40, dim: 3, lengths: true };
        let order: Vec<u32> = (0..40).collect();
        let loader =
            Loader::new(data.clone(), SplitName::Train, order, 9, reads(vec![spec]), None).unwrap();
        let mut steps = Vec::new();
        for batch in loader {
            let batch = batch.unwrap();
            let stream = batch.layout.streams[0];
            let lengths = &batch.words[stream.lengths_at.unwrap()..][..batch.layout.batch];
            let longest = *lengths.iter().max().unwrap() as usize;
            assert!(longest <= stream.steps && stream.steps < longest + 5);
            let last = batch.layout.batch - 1;
            let value = batch.words[stream.values_at + (last * stream.steps + longest - 1) * 4];
            let row = *batch.rows().last().unwrap() as usize;
            assert_eq!(f32::from_bits(value), ((row * 40 + row) * 3) as f32, "the last valid step");
            steps.push(stream.steps);
        }
        assert_eq!(steps, [10, 20, 30, 40, 40]);
    }

    #[test]
    fn buffers_come_back() {
        let mut places = HashSet::new();
        for batch in loader(400, 2, specs()).unwrap() {
            places.insert(batch.unwrap().words.as_ptr() as usize);
        }
        assert!(places.len() <= IDLE, "{} buffers for 200 batches", places.len());
    }

    #[test]
    fn dropping_early_ends_the_thread() {
        drop(loader(100, 1, specs()).unwrap());
        let mut loader = loader(100, 1, specs()).unwrap();
        let kept = loader.next().unwrap().unwrap();
        drop(loader);
        assert_eq!(kept.rows().len(), 1);
    }

    #[test]
    fn a_consumer_may_keep_every_batch() {
        let all: Vec<_> = loader(30, 1, specs()).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(all.len(), 30);
    }

    #[test]
    fn misfits_are_told_at_the_start() {
        let error = |loader: Result<Loader>| loader.err().unwrap().to_string();
        assert!(error(loader(5, 0, specs())).contains("batch size is 0"));
        let mut other = specs();
        other[0].dim = 9;
        assert!(error(loader(5, 1, other)).contains("where the model takes 9"));
        let bad = Loader::new(data(5), SplitName::Train, vec![5], 1, reads(specs()), None);
        assert!(error(bad).contains("no row 5"));
        let bad = Loader::new(data(5), SplitName::Test, vec![0], 1, reads(specs()), None);
        assert!(error(bad).contains("no test split"));
        let none = Loader::new(data(5), SplitName::Train, vec![], 1, reads(specs()), None).unwrap();
        assert_eq!(none.count(), 0);
        let whole: Vec<_> = loader(5, usize::MAX, specs()).unwrap().collect();
        assert_eq!(whole.len(), 1);
    }
}
