//! Times of dispatches by themselves: what the host spends on encoding them, what the device spends
//! on running them, and what passes from the one to the end of the other.

use super::Program;
use crate::error::Result;
use crate::gpu::{Gpu, Pipeline, read_words};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Times of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Times {
    /// Of encoding: an encoder, one pass, its dispatches, until it can be submitted.
    pub encode: Duration,
    /// On the device.
    pub device: Duration,
    /// From the first call to the end of the work: encoding, submission, device, waiting.
    pub end_to_end: Duration,
}

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
        let queries = timestamps.then(|| {
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
        });
        let empty = || -> Result<Duration> {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            drop(encoder.begin_compute_pass(&Default::default()));
            let commands = encoder.finish();
            let start = Instant::now();
            gpu.queue.submit([commands]);
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
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let timestamp_writes =
                self.queries.as_ref().map(|(query_set, _)| wgpu::ComputePassTimestampWrites {
                    query_set,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                });
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
        if let Some((set, buffer)) = &self.queries {
            encoder.resolve_query_set(set, 0..2, buffer, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue.submit([commands]);
        match &self.queries {
            Some((_, buffer)) => {
                Ok(self.between(&read_words(gpu, buffer, 0, 4)?).into_iter().sum())
            }
            None => {
                gpu.wait()?;
                Ok(start.elapsed().saturating_sub(self.empty))
            }
        }
    }

    /// The times between pairs of timestamps, of two words each.
    fn between(&self, words: &[u32]) -> Vec<Duration> {
        let ticks: Vec<u64> =
            words.chunks_exact(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        let time = |t: &[u64]| {
            let nanoseconds = t[1].saturating_sub(t[0]) as f64 * f64::from(self.period);
            Duration::from_nanos(nanoseconds as u64)
        };
        ticks.chunks_exact(2).map(time).collect()
    }

    /// The wall time of a submission as it is, also where there are timestamps.
    pub fn waits() -> Self {
        Clock { queries: None, period: 0.0, empty: Duration::ZERO }
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
    pub fn run_some(&self, gpu: &Gpu, which: Range<usize>) -> Result<()> {
        let all: Vec<usize> = which.collect();
        let commands = self.encode(gpu, &all);
        gpu.queue.submit([commands]);
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
    /// Those of the device.
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

    fn once(&self, gpu: &Gpu, clock: &Clock, which: &[usize]) -> Result<Times> {
        let start = Instant::now();
        let commands = self.encode(gpu, which);
        let encode = start.elapsed();
        gpu.queue.submit([commands]);
        gpu.wait()?;
        let end_to_end = start.elapsed();
        let device = match &clock.queries {
            Some(_) => self.each(gpu, clock, which)?.iter().sum(),
            None => end_to_end.saturating_sub(encode + clock.empty),
        };
        Ok(Times { encode, device, end_to_end })
    }

    /// The dispatches in one pass, ready to submit.
    fn encode(&self, gpu: &Gpu, which: &[usize]) -> wgpu::CommandBuffer {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            which.iter().for_each(|i| self.record(&mut pass, *i));
        }
        encoder.finish()
    }

    fn record(&self, pass: &mut wgpu::ComputePass, at: usize) {
        let ready = &self.dispatches[at];
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
                let commands = self.encode(gpu, &[*at]);
                let start = Instant::now();
                gpu.queue.submit([commands]);
                gpu.wait()?;
                Ok(start.elapsed().saturating_sub(clock.empty))
            };
            return which.iter().map(alone).collect();
        };
        let mut times = Vec::with_capacity(which.len());
        for part in which.chunks(MOST) {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            for (query, at) in (0..).step_by(2).zip(part) {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: set,
                        beginning_of_pass_write_index: Some(query),
                        end_of_pass_write_index: Some(query + 1),
                    }),
                });
                self.record(&mut pass, *at);
            }
            let count = 2 * part.len();
            encoder.resolve_query_set(set, 0..count as u32, buffer, 0);
            gpu.queue.submit([encoder.finish()]);
            let words = read_words(gpu, buffer, 0, 2 * count)?;
            times.extend(clock.between(&words));
        }
        Ok(times)
    }
}
