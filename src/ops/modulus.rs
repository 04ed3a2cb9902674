//! Absolute values of complex numbers. It serves spectra, which are inputs: there is no gradient.

use super::elementwise::vectors;
use super::{arg, sizes};
use crate::error::{Error, Result};
use crate::gpu::Defines;
use crate::plan::{Binding, Case, Kernel};
use crate::tape::{Tape, Var};

/// `Y = √(Re² + Im²)`; see `shaders/modulus.wgsl`.
pub static MODULUS: Kernel = Kernel {
    name: "modulus",
    source: include_str!("../../shaders/modulus.wgsl"),
    bindings: &[Binding::read("X"), Binding::write("Y")],
    step: false,
    launch: |_, words, _| vectors(words[0] * words[1], words[1].is_multiple_of(4)),
    twin: reference::modulus,
    cases: || {
        [(1, 1), (3, 5), (7, 4), (65, 36), (33, 15)]
            .into_iter()
            .map(|(rows, n)| {
                let args = vec![arg(1, 2 * rows * n), arg(2, rows * n)];
                Case::new(format!("{rows}x{n}"), sizes(&[rows, n]), args)
                    .flops(4 * (rows * n) as u64)
            })
            .collect()
    },
};

impl Tape {
    /// `√(re² + im²)` of `x [.., 2n]`, whose first n columns are real parts and whose others are
    /// imaginary parts: `[.., n]`. It has no gradient.
    ///
    /// # Errors
    /// An odd number of columns.
    pub fn modulus(&mut self, x: Var) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x);
        let mut shape = self.shape(x).to_vec();
        match shape.last_mut() {
            Some(last) if cols > 0 && cols % 2 == 0 => *last = cols / 2,
            _ => {
                let detail = format!("{shape:?}: want real parts, then as many imaginary ones");
                return Err(Error::shape("modulus", detail));
            }
        }
        let y = self.output("modulus", &shape, &[]);
        let words = sizes(&[rows, cols / 2]);
        self.call(&MODULUS, &[Some(x), Some(y)], words, Defines::new(), 2 * (rows * cols) as u64);
        Ok(y)
    }
}

/// CPU twins.
pub mod reference {
    use crate::plan::Twin;

    /// Absolute values.
    pub fn modulus(t: &mut Twin) {
        let (n, x) = (t.size(1), t.read(0));
        for (i, y) in t.write(1).iter_mut().enumerate() {
            let at = i / n * 2 * n + i % n;
            *y = x[at].hypot(x[at + n]);
        }
    }
}
