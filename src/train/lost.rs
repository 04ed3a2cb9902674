//! A device that is lost in the middle of a run: opened again, and the run goes on from its state.

use super::folder;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use std::path::Path;

/// Losses that a run survives without finishing another epoch.
const IN_A_ROW: usize = 10;

/// Trains with devices that `open` opens, as often as one is lost: `attempt` begins or resumes the run in the
/// folder `run`, and is told which of the two; `lost` hears of each loss. What comes of it is to the bit what
/// comes without a loss, on the same adapter and driver.
///
/// # Errors
/// Those of `open` and `attempt`; a loss, where ten have come without another epoch being done.
pub fn through_losses<T>(
    run: &Path,
    mut open: impl FnMut() -> Result<Gpu>,
    mut attempt: impl FnMut(&Gpu, bool) -> Result<T>,
    mut lost: impl FnMut(&str),
) -> Result<T> {
    let epochs = || folder::epochs(run).map_or(0, |all| all.len());
    let (mut row, mut done) = (0, epochs());
    loop {
        let tried = open().and_then(|gpu| attempt(&gpu, folder::is_run(run)));
        let Err(Error::DeviceLost(why)) = tried else { return tried };
        let now = epochs();
        row = if now > done { 1 } else { row + 1 };
        done = now;
        if row > IN_A_ROW {
            return Err(Error::DeviceLost(why));
        }
        lost(&why);
    }
}
