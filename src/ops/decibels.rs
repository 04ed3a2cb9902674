//! Powers as decibels above a floor. It serves features of signals, which are inputs: there is no
//! gradient.

use super::elementwise::by_fours;
use super::{arg, random};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, CaseArg, Kernel};
use crate::tape::{Tape, Var};

/// `Y = 10 log10(max(X, FLOOR))`; see `shaders/decibels.wgsl`.
pub static DECIBELS: Kernel = Kernel {
    name: "decibels",
    source: include_str!("../../shaders/decibels.wgsl"),
    bindings: &[Binding::read("X"), Binding::read("FLOOR"), Binding::write("Y")],
    step: false,
    launch: by_fours,
    twin: reference::decibels,
    cases: || {
        [(1, 1e-10), (15, 0.5), (64, 1e-30), (1020, 1e-3)]
            .into_iter()
            .map(|(n, floor)| {
                // From far below the floor to far above it.
                let x = random(1, n).iter().map(|x| 10_f32.powf(12.0 * x)).collect();
                let args = vec![Some(CaseArg::F(x)), Some(CaseArg::F(vec![floor])), arg(2, n)];
                Case::new(format!("{n} above {floor:e}"), vec![n as u32], args).flops(2 * n as u64)
            })
            .collect()
    },
};

impl Tape {
    /// `10 log10(max(x, floor))` of powers `x`, `floor [1]` above 0. It has no gradient.
    ///
    /// # Errors
    /// A floor of more than one number.
    pub fn decibels(&mut self, x: Var, floor: Var) -> Result<Var> {
        if self.len(floor) != 1 {
            let detail = format!("the floor is {:?}: want one number", self.shape(floor));
            return Err(Error::shape("decibels", detail));
        }
        let (shape, len) = (self.shape(x).to_vec(), self.len(x));
        let y = self.output("decibels", &shape, &[]);
        let args = [Some(x), Some(floor), Some(y)];
        self.call(&DECIBELS, &args, vec![len as u32], Defines::new(), 2 * len as u64);
        Ok(y)
    }
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// Decibels above a floor.
    pub fn decibels(t: &mut Twin) {
        let (x, floor) = (t.read(0), f64::from(t.read(1)[0]));
        for (y, x) in t.write(2).iter_mut().zip(x) {
            let x = f64::from(x);
            let x = if x < floor { floor } else { x };
            *y = (10.0 * x.log10() + 0.0 * floor) as f32;
        }
    }
}
