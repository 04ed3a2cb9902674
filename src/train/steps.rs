//! The steps of an epoch: batch by batch, losses as they arrive, up to three steps ahead of the device.

use super::blueprint::Kind;
use super::history::StepRecord;
use super::session::Session;
use crate::data::{Batch, SplitName};
use crate::error::{Error, Result};
use crate::phase::Phase;
use crate::plan::{Ring, Written};
use std::collections::VecDeque;
use std::ops::Range;

/// Some micro-batches of an epoch.
pub(super) struct Part {
    /// The rows of the whole epoch, in order.
    pub(super) order: Vec<u32>,
    /// The first micro-batch, from 0.
    pub(super) from: usize,
    /// The one before which to end; none for the epoch's last one.
    pub(super) until: Option<usize>,
}

impl Session {
    /// Trains one epoch over `order`; `report` gets every micro-batch as its losses arrive, in
    /// order, with the number of samples done.
    pub fn train_epoch(
        &mut self,
        epoch: usize,
        order: Vec<u32>,
        report: impl FnMut(StepRecord, usize) -> Result<()>,
    ) -> Result<()> {
        self.train_part(epoch, Part { order, from: 0, until: None }, || false, report).map(drop)
    }

    /// The same of some of its micro-batches, until the first update after which `stop` says so; gives the
    /// number of micro-batches of the epoch that are done.
    pub(super) fn train_part(
        &mut self,
        epoch: usize,
        part: Part,
        mut stop: impl FnMut() -> bool,
        mut report: impl FnMut(StepRecord, usize) -> Result<()>,
    ) -> Result<usize> {
        let untrained = || Error::Config("this session was not made for training".into());
        let mut ring = self.ring.take().ok_or_else(untrained)?;
        let result = self.epoch_steps(epoch, part, &mut ring, (&mut stop, &mut report));
        if result.is_err() {
            // Rows that nobody took would come up in the next epoch.
            let train = self.made.train.as_ref().ok_or_else(untrained)?;
            if let Ok(fresh) = Ring::new(&self.gpu, train.ring, train.ring_rows, train.ring_width) {
                ring = fresh;
            }
        }
        self.ring = Some(ring);
        result
    }

    fn epoch_steps(
        &mut self,
        epoch: usize,
        Part { order, from, until }: Part,
        ring: &mut Ring,
        (stop, report): (
            &mut impl FnMut() -> bool,
            &mut impl FnMut(StepRecord, usize) -> Result<()>,
        ),
    ) -> Result<usize> {
        let total = order.len();
        let batches = total.div_ceil(self.batch_size());
        let mut flying: VecDeque<wgpu::SubmissionIndex> = VecDeque::new();
        let mut reported = from;
        let mut taken = from;
        let batch_size = self.batch_size();
        let columns = self.columns(epoch).clone();
        let kind = Kind::Train(self.model.stage_of(epoch));
        let mut first = (self.step.step == 0).then(Phase::begin);
        let mut emit = |rows: Vec<Vec<f32>>| {
            if let Some(phase) = first.take_if(|_| !rows.is_empty()) {
                phase.end(format_args!("the first {} steps' losses on the host", rows.len()));
            }
            for row in rows {
                reported += 1;
                let done = (reported * batch_size).min(total);
                report(StepRecord::new(epoch, reported, &row, &columns), done)?;
            }
            Ok::<(), Error>(())
        };
        self.step.epoch = epoch as u32;
        let end = until.map_or(total, |until| (until * batch_size).min(total));
        let left = order[(from * batch_size).min(end)..end].to_vec();
        for (i, batch) in (from..).zip(self.loader(SplitName::Train, left)?) {
            let batch = batch?;
            self.step.slot = ring.slot();
            let update = self.begin_step(i, batches)?;
            // What an incomplete group left behind is dropped here.
            let clear = if i == from { self.made.params.grad_spaces() } else { Vec::new() };
            flying.push_back(self.submit(kind, &batch, update, &clear, Some(&mut *ring))?);
            self.step.step += 1;
            self.keep_up(&mut flying)?;
            emit(ring.drain(&self.gpu)?)?;
            taken = i + 1;
            // Between updates gradients are on their way, which no state holds.
            if update && stop() {
                break;
            }
        }
        emit(ring.finish(&self.gpu, &self.memory)?)?;
        Ok(taken)
    }

    /// Sets what the `i`-th micro-batch of an epoch, from 0, depends on; says whether an update follows it.
    fn begin_step(&mut self, i: usize, batches: usize) -> Result<bool> {
        let t = &self.model.config().train;
        let (accumulate, average) = (t.accumulate, t.average);
        let in_group = i % accumulate + 1;
        let update = in_group == accumulate || (i + 1 == batches && t.keep_tail);
        self.step.epoch_done = i as f32 / batches as f32;
        if update {
            self.count_update()?;
            self.step.grad_scale = if average { 1.0 / in_group as f32 } else { 1.0 };
        }
        Ok(update)
    }

    /// Takes some steps of an epoch a dispatch at a time, and shows what each of them wrote.
    pub(super) fn trace_part(
        &mut self,
        epoch: usize,
        order: Vec<u32>,
        which: Range<usize>,
        mut see: impl FnMut(usize, &Batch, Vec<Written>),
    ) -> Result<()> {
        let batches = order.len().div_ceil(self.batch_size());
        let rows = |batch: usize| (batch * self.batch_size()).min(order.len());
        let some = order[rows(which.start)..rows(which.end)].to_vec();
        self.step.epoch = epoch as u32;
        let kind = Kind::Train(self.model.stage_of(epoch));
        for (i, batch) in which.zip(self.loader(SplitName::Train, some)?) {
            let batch = batch?;
            let update = self.begin_step(i, batches)?;
            let clear = if i == 0 { self.made.params.grad_spaces() } else { Vec::new() };
            self.step.slot = 0;
            self.stage(kind, &batch)?;
            let program = self.staged(kind, &batch)?;
            let written = program.trace(&self.gpu, &self.memory, update, &clear)?;
            self.step.step += 1;
            see(i + 1, &batch, written);
        }
        Ok(())
    }
}
