//! Element by element, sums, and moving columns about: what memory alone should bound.

use super::{Entry, Rows};
use crate::bench::bed::Bed;
use crate::error::Result;
use crate::ops::Act;
use crate::tape::{Tape, Var};

const ROWS: usize = 800;
const COLS: usize = 768;

/// An operation over `x [800, 768]`, and its gradient.
fn of_one(
    op: &'static str,
    shape: &str,
    rows: Rows,
    y: impl Fn(&mut Tape, Var) -> Result<Var> + Send + Sync + 'static,
) -> Entry {
    Entry::new(op, format!("{ROWS} × {COLS}{shape}"), rows, move |_| {
        let mut bed = Bed::new();
        let x = bed.watched("x", &[ROWS, COLS]);
        let y = y(&mut bed.tape, x)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

/// An operation of two.
fn of_two(
    op: &'static str,
    shape: String,
    rows: Rows,
    (a, b): (Vec<usize>, Vec<usize>),
    y: impl Fn(&mut Tape, Var, Var) -> Result<Var> + Send + Sync + 'static,
) -> Entry {
    Entry::new(op, shape, rows, move |_| {
        let mut bed = Bed::new();
        let (a, b) = (bed.watched("a", &a), bed.watched("b", &b));
        let y = y(&mut bed.tape, a, b)?;
        bed.backward(y)?;
        Ok(bed)
    })
}

pub(super) fn add(all: &mut Vec<Entry>) {
    for (name, act) in [(", gelu", Act::Gelu), (", tanh", Act::Tanh), (", relu", Act::Relu)] {
        let rows = Rows::Each(&[("unary", &[""]), ("unary_backward", &[""])]);
        all.push(of_one("elementwise", name, rows, move |tape, x| tape.activate(x, act)));
    }
    let both = || vec![ROWS, COLS];
    let rows = Rows::Each(&[("binary", &["add"])]);
    let shape = format!("{ROWS} × {COLS} + a row");
    all.push(of_two("elementwise", shape, rows, (both(), vec![COLS]), Tape::add));
    let rows = Rows::Each(&[("binary", &["product"]), ("binary_backward", &["of a row"])]);
    let shape = format!("{ROWS} × {COLS} times a row");
    all.push(of_two("elementwise", shape, rows, (both(), vec![COLS]), Tape::mul));

    let rows = Rows::Each(&[("reduce_cols", &["of columns"])]);
    all.push(of_one("reduce", ", a sum for each column", rows, |tape, x| tape.sum_rows(x)));
    let rows = Rows::Each(&[("reduce_rows", &["of rows"])]);
    all.push(of_one("reduce", ", a sum for each row", rows, |tape, x| tape.sum_cols(x)));

    let rows = Rows::Each(&[("dropout", &["forward", "backward"])]);
    all.push(of_one("dropout", "", rows, |tape, x| tape.dropout(x, 0.1)));
    let rows = Rows::Each(&[("slice", &["forward", "backward"])]);
    all.push(of_one("concat", ", 256 columns", rows, |tape, x| tape.slice(x, 256, 256)));
    for (m, n) in [(16, 384), (ROWS, COLS)] {
        let rows = Rows::Each(&[("concat", &[""]), ("concat_backward", &[""])]);
        let sides = (vec![m, n], vec![m, n]);
        let shape = format!("{m} × {n} twice");
        all.push(of_two("concat", shape, rows, sides, |tape, a, b| tape.concat(&[a, b])));
    }
}
