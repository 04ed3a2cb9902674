//! How long each dispatch of a step takes, while it computes what a step computes.

use super::{Memory, Program, SpaceId};
use crate::error::Result;
use crate::gpu::{Caps, Gpu, read_words};
use std::time::{Duration, Instant};

/// What dispatches are timed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The device's timestamps, where passes begin and end: the whole step is one submission.
    Device,
    /// The host's clock: each dispatch is a submission of its own that is waited for, and counts
    /// what submitting and waiting cost.
    Host,
}

impl Clock {
    /// The better one that an adapter has.
    pub fn of(caps: &Caps) -> Self {
        if caps.timestamps { Clock::Device } else { Clock::Host }
    }
}

/// The time of one dispatch.
#[derive(Clone, Copy, Debug)]
pub struct DispatchTime {
    /// Its place in [`Plan::dispatches`](super::Plan::dispatches).
    pub dispatch: usize,
    /// What it took.
    pub time: Duration,
}

/// Dispatches whose two timestamps fit one query set.
const A_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

impl Program {
    /// Runs one step as [`replay`](Self::replay) does, but with a pass for each dispatch, waits, and
    /// tells what each one took. The data are those of the step: on some adapters times depend on
    /// them. Everything is computed once and in order, so that steps may go on from there.
    pub fn profile(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[SpaceId],
        clock: Clock,
    ) -> Result<Vec<DispatchTime>> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        for space in clear {
            encoder.clear_buffer(memory.buffer(*space), 0, None);
        }
        let wanted: Vec<usize> =
            (0..self.dispatches.len()).filter(|i| update || !self.dispatches[*i].update).collect();
        let times = match clock {
            Clock::Device => self.by_timestamps(gpu, encoder, &wanted)?,
            Clock::Host => {
                gpu.queue.submit([encoder.finish()]);
                gpu.wait()?;
                wanted.iter().map(|i| self.by_waiting(gpu, *i)).collect::<Result<_>>()?
            }
        };
        let all = wanted.into_iter().zip(times);
        Ok(all.map(|(dispatch, time)| DispatchTime { dispatch, time }).collect())
    }

    fn by_timestamps(
        &self,
        gpu: &Gpu,
        mut encoder: wgpu::CommandEncoder,
        wanted: &[usize],
    ) -> Result<Vec<Duration>> {
        let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: wanted.len().max(1) as u64 * 16,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        for (k, part) in wanted.chunks(A_SET).enumerate() {
            let count = 2 * part.len() as u32;
            let query_set = &gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            for (at, i) in (0..).step_by(2).zip(part) {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set,
                    beginning_of_pass_write_index: Some(at),
                    end_of_pass_write_index: Some(at + 1),
                };
                self.dispatches[*i].encode(&mut encoder, Some(writes));
            }
            encoder.resolve_query_set(query_set, 0..count, &resolved, (k * A_SET * 16) as u64);
        }
        gpu.queue.submit([encoder.finish()]);
        let words = read_words(gpu, &resolved, 0, wanted.len() * 4)?;
        let ticks: Vec<u64> =
            words.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        let period = f64::from(gpu.queue.get_timestamp_period());
        // A clock that jumped back between the two shows as no time at all.
        let nanos = ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period);
        Ok(nanos.map(|n| Duration::from_nanos(n as u64)).collect())
    }

    fn by_waiting(&self, gpu: &Gpu, dispatch: usize) -> Result<Duration> {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        self.dispatches[dispatch].encode(&mut encoder, None);
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue.submit([commands]);
        gpu.wait()?;
        Ok(start.elapsed())
    }
}
