//! Times of dispatches by themselves: what the host spends on encoding them, what the device spends
//! on running them, and what passes from the one to the end of the other.

use super::Program;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Pipeline, read_words};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Times of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Times {
    /// Of encoding: an encoder, one pass, its dispatches, until it can be submitted.
    pub encode: Duration,
    /// On the device.
    pub device: Duration,
    /// From the first call to the end of the work: encoding, submission, device, waiting.
    pub end_to_end: Duration,
}

/// Times of whole replays, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replays {
    /// Wall times of a replay among many that follow one another without a wait in between, as the steps
    /// of a training do: of several such rows the mean of each.
    pub streamed: Vec<Duration>,
    /// On the device, from the begin of the first dispatch to the end of the last, in one pass; nothing
    /// where there are no timestamps.
    pub device: Vec<Duration>,
}

/// Replays that may be in flight before the oldest is waited for; a training has as many.
const IN_FLIGHT: usize = 3;
/// Replays of a row that is timed, at least, where they are short.
const ROW: usize = 5;

/// Runs that are timed at once: so many timestamp queries does a set hold.
const MOST: usize = 512;

/// What times on the device are taken with: timestamps where there are such, else the wall time of
/// a submission without that of an empty one.
pub struct Clock {
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    /// Nanoseconds of a tick.
    period: f32,
    /// An empty submission, waited for.
    empty: Duration,
}

/// A pass that leaves its begin and its end in a query and the next, where there are queries.
fn timed_pass(set: Option<&wgpu::QuerySet>, query: u32) -> wgpu::ComputePassDescriptor<'_> {
    let timestamp_writes = set.map(|query_set| wgpu::ComputePassTimestampWrites {
        query_set,
        beginning_of_pass_write_index: Some(query),
        end_of_pass_write_index: Some(query + 1),
    });
    wgpu::ComputePassDescriptor { label: None, timestamp_writes }
}

impl Clock {
    /// The clock of a device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        Self::with(gpu, gpu.caps().timestamps)
    }

    /// A clock without timestamps, for any device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn wall(gpu: &Gpu) -> Result<Self> {
        Self::with(gpu, false)
    }

    fn with(gpu: &Gpu, timestamps: bool) -> Result<Self> {
        let queries = || {
            let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("times"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * MOST as u32,
            });
            let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("times"),
                size: 2 * MOST as u64 * 8,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (set, buffer)
        };
        let queries = timestamps.then(|| gpu.scoped(queries)).transpose()?;
        let empty = || -> Result<Duration> {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            drop(encoder.begin_compute_pass(&Default::default()));
            let commands = encoder.finish();
            let start = Instant::now();
            gpu.submit(commands)?;
            gpu.wait()?;
            Ok(start.elapsed())
        };
        let mut empties: Vec<_> = (0..9).map(|_| empty()).collect::<Result<_>>()?;
        empties.sort();
        let (period, empty) = (gpu.queue.get_timestamp_period(), empties[empties.len() / 2]);
        Ok(Clock { queries, period, empty })
    }

    /// The time of one dispatch by itself, from the beginning to the end of its pass where there are
    /// timestamps.
    pub(super) fn dispatch(
        &self,
        gpu: &Gpu,
        pipeline: &Pipeline,
        bind_group: &wgpu::BindGroup,
        [x, y, z]: [u32; 3],
    ) -> Result<Duration> {
        let commands = gpu.scoped(|| {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            {
                let set = self.queries.as_ref().map(|(set, _)| set);
                let mut pass = encoder.begin_compute_pass(&timed_pass(set, 0));
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
            if let Some((set, buffer)) = &self.queries {
                encoder.resolve_query_set(set, 0..2, buffer, 0);
            }
            encoder.finish()
        })?;
        let start = Instant::now();
        gpu.submit(commands)?;
        match &self.queries {
            Some((_, buffer)) => Ok(self.between(&read_words(gpu, buffer, 0, 4)?).sum()),
            None => {
                gpu.wait()?;
                Ok(start.elapsed().saturating_sub(self.empty))
            }
        }
    }

    /// The wall time of a submission as it is, also where there are timestamps.
    pub fn waits() -> Self {
        Clock { queries: None, period: 0.0, empty: Duration::ZERO }
    }

    /// The times between pairs of timestamps, of two words each.
    fn between<'w>(&self, words: &'w [u32]) -> impl Iterator<Item = Duration> + use<'w> {
        let period = f64::from(self.period);
        words.chunks_exact(4).map(move |w| {
            let [from, to] = [0, 2].map(|i| u64::from(w[i]) | u64::from(w[i + 1]) << 32);
            Duration::from_nanos((to.saturating_sub(from) as f64 * period) as u64)
        })
    }

    /// How device times are taken.
    pub fn name(&self) -> &'static str {
        match (&self.queries, self.empty) {
            (Some(_), _) => "timestamps",
            (None, Duration::ZERO) => "wall",
            _ => "wall minus overhead",
        }
    }
}

impl Program {
    /// Runs some of the dispatches, in one submission, and waits.
    ///
    /// # Errors
    /// [`Access`](Error::Access) for dispatches that there are not, or another device.
    pub fn run_some(&self, gpu: &Gpu, which: Range<usize>) -> Result<()> {
        if !which.is_empty() {
            self.has(gpu, which.end - 1)?;
        }
        let all: Vec<usize> = which.collect();
        let commands = self.encode(gpu, &all)?;
        gpu.submit(commands)?;
        gpu.wait()
    }

    /// Times the dispatches `which`, each program in turn, until `budget` is spent: three runs of
    /// each at least, after one that does not count.
    ///
    /// The dispatches must be where they are on all of `programs`, whose buffers should be the same
    /// ones: they are variants of one recording. Where the device has timestamps each dispatch is in
    /// a pass of its own for the device time, which is that of all of them; the other two times are
    /// of one pass.
    ///
    /// # Errors
    /// [`Access`](Error::Access) for dispatches that there are not, or another device; those of the
    /// device.
    pub fn time(
        programs: &[&Program],
        gpu: &Gpu,
        clock: &Clock,
        which: &[usize],
        budget: Duration,
    ) -> Result<Vec<Vec<Times>>> {
        let mut times = vec![Vec::new(); programs.len()];
        for program in programs {
            program.once(gpu, clock, which)?;
        }
        let start = Instant::now();
        for round in 0..200 {
            if round >= 3 && start.elapsed() >= budget {
                break;
            }
            for (program, times) in programs.iter().zip(&mut times) {
                times.push(program.once(gpu, clock, which)?);
            }
        }
        Ok(times)
    }

    /// Times whole replays until `budget` is spent, after one that does not count: three rows of
    /// replays in flight together, and as many replays alone by the device's clock.
    ///
    /// # Errors
    /// Those of the device.
    pub fn stream(&self, gpu: &Gpu, clock: &Clock, budget: Duration) -> Result<Replays> {
        let all: Vec<usize> = (0..self.dispatches.len()).collect();
        let row = |count: usize| -> Result<Duration> {
            let start = Instant::now();
            let mut flying = VecDeque::new();
            for _ in 0..count {
                flying.push_back(gpu.submit(self.encode(gpu, &all)?)?);
                gpu.poll()?;
                if flying.len() > IN_FLIGHT
                    && let Some(oldest) = flying.pop_front()
                {
                    gpu.wait_for(oldest)?;
                }
            }
            gpu.wait()?;
            Ok(start.elapsed() / count as u32)
        };
        let first = row(1)?;
        // What takes longer than all of its budget is not run five times as often.
        let least = if first > budget { 1 } else { ROW };
        let one = if least == 1 { first } else { row(ROW)? }.max(Duration::from_micros(1));
        let share = budget.as_secs_f64() / 4.0;
        let count = ((share / one.as_secs_f64()) as usize).clamp(least, 256);
        let mut replays = Replays::default();
        for _ in 0..3 {
            replays.streamed.push(row(count)?);
            replays.device.extend(self.span(gpu, clock, &all)?);
        }
        Ok(replays)
    }

    /// Runs the dispatches in one pass, and gives the time from its begin to its end, where the device
    /// has timestamps.
    fn span(&self, gpu: &Gpu, clock: &Clock, which: &[usize]) -> Result<Option<Duration>> {
        let Some((set, buffer)) = &clock.queries else { return Ok(None) };
        which.iter().try_for_each(|at| self.has(gpu, *at))?;
        self.take_slots();
        gpu.run(|encoder| {
            {
                let mut pass = encoder.begin_compute_pass(&timed_pass(Some(set), 0));
                which.iter().for_each(|i| self.dispatch(&mut pass, *i));
            }
            encoder.resolve_query_set(set, 0..2, buffer, 0);
        })?;
        Ok(clock.between(&read_words(gpu, buffer, 0, 4)?).next())
    }

    fn once(&self, gpu: &Gpu, clock: &Clock, which: &[usize]) -> Result<Times> {
        let start = Instant::now();
        let commands = self.encode(gpu, which)?;
        let encode = start.elapsed();
        gpu.submit(commands)?;
        gpu.wait()?;
        let end_to_end = start.elapsed();
        let device = match &clock.queries {
            Some(_) => self.each(gpu, clock, which)?.iter().sum(),
            None => end_to_end.saturating_sub(encode + clock.empty),
        };
        Ok(Times { encode, device, end_to_end })
    }

    /// The dispatches in one pass, ready to submit.
    fn encode(&self, gpu: &Gpu, which: &[usize]) -> Result<wgpu::CommandBuffer> {
        which.iter().try_for_each(|at| self.has(gpu, *at))?;
        self.take_slots();
        gpu.scoped(|| {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                which.iter().for_each(|i| self.dispatch(&mut pass, *i));
            }
            encoder.finish()
        })
    }

    /// Whether there is a dispatch `at`, and it is of this device.
    fn has(&self, gpu: &Gpu, at: usize) -> Result<()> {
        self.on(gpu)?;
        if at < self.dispatches.len() {
            return Ok(());
        }
        let detail = format!("no dispatch {at}, there are {}", self.dispatches.len());
        Err(Error::access("dispatch", detail))
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass, at: usize) {
        let Some(ready) = self.dispatches.get(at) else { return };
        pass.set_pipeline(&ready.pipeline.pipeline);
        pass.set_bind_group(0, &ready.bind_group, &[]);
        let [x, y, z] = ready.groups;
        pass.dispatch_workgroups(x, y, z);
    }

    /// Runs the dispatches, each in a pass of its own, and gives the time of each: between the
    /// boundaries of its pass, or of a submission of its own where there are no timestamps.
    pub(super) fn each(&self, gpu: &Gpu, clock: &Clock, which: &[usize]) -> Result<Vec<Duration>> {
        let Some((set, buffer)) = &clock.queries else {
            let alone = |at: &usize| {
                let commands = self.encode(gpu, &[*at])?;
                let start = Instant::now();
                gpu.submit(commands)?;
                gpu.wait()?;
                Ok(start.elapsed().saturating_sub(clock.empty))
            };
            return which.iter().map(alone).collect();
        };
        which.iter().try_for_each(|at| self.has(gpu, *at))?;
        self.take_slots();
        let mut times = Vec::with_capacity(which.len());
        for part in which.chunks(MOST) {
            let count = 2 * part.len();
            gpu.run(|encoder| {
                for (query, at) in (0..).step_by(2).zip(part) {
                    let mut pass = encoder.begin_compute_pass(&timed_pass(Some(set), query));
                    self.dispatch(&mut pass, *at);
                }
                encoder.resolve_query_set(set, 0..count as u32, buffer, 0);
            })?;
            times.extend(clock.between(&read_words(gpu, buffer, 0, 2 * count)?));
        }
        Ok(times)
    }
}
