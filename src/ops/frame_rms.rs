//! How loud overlapping frames of a signal are. Signals are inputs, so there is no gradient.

use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::{Defines, Family};
use crate::plan::{Binding, Case, Kernel, Launch, grid};
use crate::tape::{Tape, Var};

/// Words that frames read of their signal, where the words of a call begin as [`Framing`] has them: the frames
/// overlap, or leave gaps.
pub(super) fn frames_read(p: &[u32], _: &Defines, len: u64) -> [u64; 2] {
    let span = u64::from(p[0] - 1) * u64::from(p[2].min(p[3])) + u64::from(p[3]);
    [span.min(len), 0]
}

/// Root mean square of each frame; see `shaders/frame_rms.wgsl`.
pub static FRAME_RMS: Kernel = Kernel {
    name: "frame_rms",
    source: include_str!("../../shaders/frame_rms.wgsl"),
    bindings: &[Binding::read("X").part(frames_read), Binding::write("Y")],
    step: false,
    launch: |family, words, _| {
        // How a frame is summed must not depend on how many there are.
        let rows = words[0] as usize;
        let launch = match family {
            Family::Tiled => Launch::of(grid(rows, 1)).with("TREE", 64).with("WG", 64),
            Family::Wide(lanes) => Launch::of(grid(rows, 1)).with("LANES", lanes).with("WG", lanes),
            Family::Plain => Launch::of(grid(rows, 64)).with("WG", 64),
        };
        launch.with("VEC", 1)
    },
    twin: reference::frame_rms,
    cases: || {
        // Frames, first, hop, size.
        [(1, 0, 4, 4), (3, 8, 4, 12), (70, 4, 8, 64), (9, 0, 512, 2048), (40, 12, 256, 512)]
            .into_iter()
            .map(|(frames, first, hop, size)| {
                let args = vec![arg(1, first + (frames - 1) * hop + size), arg(2, frames)];
                let words = sizes(&[frames, first, hop, size]);
                Case::new(format!("{frames} of {size}"), words, args)
                    .flops(2 * (frames * size) as u64)
            })
            .collect()
    },
};

/// Overlapping frames of a signal: as many of them, of one size, one `hop` after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Frames.
    pub count: usize,
    /// Where the first one begins.
    pub first: usize,
    /// From the beginning of one to that of the next.
    pub hop: usize,
    /// Samples of each.
    pub size: usize,
}

impl Framing {
    /// The frames as words of a kernel that reads them four samples at a time.
    pub(crate) fn words(self, op: &'static str, tape: &Tape, x: Var) -> Result<Vec<u32>> {
        let Framing { count, first, hop, size } = self;
        let end = (count.max(1) - 1).saturating_mul(hop).saturating_add(first).saturating_add(size);
        if count == 0 || size == 0 || (first | hop | size) % 4 > 0 || end > tape.len(x) {
            let detail = format!(
                "{count} frames of {size}, {hop} apart from {first} on, in {:?}: want multiples of 4 \
                 within it",
                tape.shape(x)
            );
            return Err(Error::shape(op, detail));
        }
        Ok(sizes(&[count, first, hop, size]))
    }
}

impl Tape {
    /// The root mean square of each frame of a signal `x`: `[count, 1]`. It has no gradient.
    ///
    /// # Errors
    /// Frames that do not begin and end at multiples of 4, or go past the end of `x`.
    pub fn frame_rms(&mut self, x: Var, frames: Framing) -> Result<Var> {
        let words = frames.words("frame_rms", self, x)?;
        let y = self.output("rms", &[frames.count, 1], &[]);
        let flops = 2 * (frames.count * frames.size) as u64;
        self.call(&FRAME_RMS, &[Some(x), Some(y)], words, Defines::new(), flops);
        Ok(y)
    }
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// Root mean squares, in f64.
    pub fn frame_rms(t: &mut Twin) {
        let [frames, first, hop, size] = [0, 1, 2, 3].map(|i| t.size(i));
        let x = t.read(0);
        for frame in 0..frames {
            let samples = &x[first + frame * hop..][..size];
            let sum: f64 = samples.iter().map(|x| f64::from(*x).powi(2)).sum();
            t.write(1)[frame] = (sum / size as f64).sqrt() as f32;
        }
    }
}
