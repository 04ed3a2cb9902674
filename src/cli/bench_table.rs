//! Times as tables.

use super::output;
use crate::bench::{Measured, Report};
use comfy_table::CellAlignment;

/// A number in three digits: `0.123`, `4.56`, `78.9`, `1234`.
fn three(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Milliseconds in the unit that suits them.
pub(super) fn time(ms: f64) -> String {
    match ms {
        v if v >= 1e3 => format!("{} s", three(v / 1e3)),
        v if v >= 1.0 => format!("{} ms", three(v)),
        v => format!("{} µs", three(v * 1e3)),
    }
}

/// A bar of eight cells, in eighths of a cell; full at 1.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * 64.0).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8))
}

/// What it was measured on, and the roofline.
pub(super) fn head(report: &Report) -> String {
    let roofline = &report.roofline;
    let checks = if report.checked { ", with bounds checks" } else { "" };
    output::facts(&[
        ("adapter", format!("{}, {}", report.adapter, report.backend)),
        ("driver", report.driver.clone()),
        ("kernels", format!("{}{checks}", report.family)),
        (
            "roofline",
            format!(
                "{} GFLOP/s, {} GB/s",
                three(roofline.flops * 1e-9),
                three(roofline.bytes * 1e-9)
            ),
        ),
        ("device times", report.device_clock.into()),
    ])
}

/// Rows of one operation follow one another; what is as in the row above is left out.
struct Names<'a> {
    /// Whether the operation before had several rows.
    several: bool,
    op: &'a str,
    shape: &'a str,
    kernel: &'a str,
}

impl<'a> Names<'a> {
    fn new() -> Self {
        Names { several: false, op: "", shape: "", kernel: "" }
    }

    /// The cells that name a row of `all`, after a blank row where an operation begins that has
    /// several rows, or follows one that has.
    fn of(
        &mut self,
        m: &'a Measured,
        all: &[Measured],
        columns: usize,
        rows: &mut Vec<Vec<String>>,
    ) -> Vec<String> {
        let next = m.op != self.op;
        let several = all.iter().filter(|other| other.op == m.op).count() > 1;
        if next && !self.op.is_empty() && (several || self.several) {
            rows.push(vec![String::new(); columns]);
        }
        self.several = several;
        let shape = if next || m.shape != self.shape { m.shape.as_str() } else { "" };
        let kernel = if !shape.is_empty() || m.kernel != self.kernel { m.kernel } else { "" };
        let op = if next { m.op } else { "" };
        (self.op, self.shape, self.kernel) = (m.op, &m.shape, m.kernel);
        vec![op.into(), shape.into(), kernel.into(), m.part.clone()]
    }
}

/// The table of all rows.
pub(super) fn rows(report: &Report) -> String {
    let header = [
        "operation",
        "shape",
        "kernel",
        "",
        "encode",
        "device",
        "best",
        "end to end",
        "speed",
        "of roofline",
        "",
    ];
    let mut rows = Vec::new();
    let mut names = Names::new();
    for m in &report.results {
        let mut row = names.of(m, &report.results, header.len(), &mut rows);
        let speed = match m.bound {
            "arithmetic" => format!("{} GFLOP/s", three(m.gflops)),
            _ => format!("{} GB/s", three(m.gbytes)),
        };
        row.extend([
            time(m.encode.median_ms),
            time(m.device.median_ms),
            time(m.device.min_ms),
            time(m.end_to_end.median_ms),
            speed,
            format!("{:.0} %", m.share * 100.0),
            bar(m.share),
        ]);
        rows.push(row);
    }
    let mut table = output::table(header, 4, rows);
    if let Some(bars) = table.column_mut(header.len() - 1) {
        bars.set_cell_alignment(CellAlignment::Left);
    }
    output::text(&table)
}

/// The table of variants beside each other; `ours` is the variant that `own`, the last, is held
/// against.
pub(super) fn compared(report: &Report, variants: usize, ours: usize, own: &str) -> String {
    let groups = || report.results.chunks(variants);
    let mut header: Vec<String> = vec!["shape".into(), "".into()];
    let names = groups().next().unwrap_or_default().iter().map(|m| m.variant.clone());
    header.extend(names.take(variants - 1));
    header.extend([own.into(), "ours / yours".into(), "of roofline".into(), "".into()]);
    let columns = header.len();
    let mut rows = Vec::new();
    let mut names = Names::new();
    for group in groups() {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let named = names.of(first, &report.results, columns, &mut rows);
        let mut row = vec![named[1].clone(), named[3].clone()];
        row.extend(group.iter().map(|m| time(m.device.min_ms)));
        row.push(format!("{:.2}", group[ours].device.min_ms / last.device.min_ms));
        row.extend([format!("{:.0} %", last.share * 100.0), bar(last.share)]);
        rows.push(row);
    }
    let mut table = output::table(header, 2, rows);
    if let Some(bars) = table.column_mut(columns - 1) {
        bars.set_cell_alignment(CellAlignment::Left);
    }
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0.1234, 4.567, 78.91, 1234.5].map(three), ["0.123", "4.57", "78.9", "1234"]);
        assert_eq!([0.0123, 4.567, 7891.0].map(time), ["12.3 µs", "4.57 ms", "7.89 s"]);
        assert_eq!([0.0, 0.5, 1.3].map(bar), ["", "████", "████████"]);
        assert_eq!(bar(0.57), "████▌");
    }
}
