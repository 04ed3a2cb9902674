//! How long each dispatch of a step takes, while it computes what a step computes.

use super::{Clock, Memory, Program, SpaceId};
use crate::error::Result;
use crate::gpu::Gpu;
use std::time::Duration;

/// The time of one dispatch.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DispatchTime {
    /// Its place in [`Plan::dispatches`](super::Plan::dispatches).
    pub dispatch: usize,
    /// What it took; never nothing.
    pub time: Duration,
}

impl Program {
    /// Runs one step as [`replay`](Self::replay) does, but with a pass for each dispatch, waits, and
    /// tells what each one took. With timestamps the passes are one submission (of up to 512
    /// dispatches), without them each is its own. The data are those of the step, on which times
    /// depend on some adapters, and everything is computed once and in order: steps may go on from
    /// there.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub fn profile(
        &self,
        gpu: &Gpu,
        memory: &Memory,
        update: bool,
        clear: &[SpaceId],
        clock: &Clock,
    ) -> Result<Vec<DispatchTime>> {
        self.fits(gpu, memory)?;
        let clear = memory.cleared(clear)?;
        gpu.run(|encoder| {
            memory.record_staged(encoder);
            clear.iter().for_each(|b| encoder.clear_buffer(b, 0, None));
        })?;
        gpu.wait()?;
        let all = self.dispatches.iter().enumerate();
        let which: Vec<usize> = all.filter(|(_, d)| update || !d.update).map(|(i, _)| i).collect();
        let times = self.each(gpu, clock, &which)?.into_iter();
        // A clock may be too coarse for the shortest.
        let times = times.map(|time| time.max(Duration::from_nanos(1)));
        let all = which.into_iter().zip(times);
        Ok(all.map(|(dispatch, time)| DispatchTime { dispatch, time }).collect())
    }
}
