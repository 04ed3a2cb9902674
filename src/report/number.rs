//! Numbers as people read them.

/// Three digits that count.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if (1e-3..1e4).contains(&v) => {
            let digits = (2 - v.log10().floor() as i32).clamp(0, 5) as usize;
            minus(format!("{value:.digits$}"))
        }
        _ => minus(format!("{value:.1e}")),
    }
}

/// Ten to the `y`, as a tick says it.
pub fn power(y: f64) -> String {
    let text = short(10f64.powf(y));
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text.replace(".0e", "e"),
    }
}

/// With this many decimals; what rounds to zero has no sign.
pub fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let zero = text.strip_prefix('-').filter(|t| t.chars().all(|c| c == '0' || c == '.'));
    minus(zero.unwrap_or(&text).into())
}

/// The same with its sign.
pub fn signed(value: f64, digits: usize) -> String {
    let text = fixed(value, digits);
    if value > 0.0 { format!("+{text}") } else { text }
}

/// Four decimals, as scores are given.
pub fn score(value: f64) -> String {
    fixed(value, 4)
}

/// Where there is none, a dash.
pub fn or_dash(value: Option<f64>, say: impl Fn(f64) -> String) -> String {
    value.filter(|v| v.is_finite()).map_or_else(|| "–".into(), say)
}

/// The minus sign is as wide as a digit; the hyphen is not.
fn minus(text: String) -> String {
    text.replace('-', "−")
}

/// Round values within a range, about `count` of them.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = high - low;
    if !(span.is_finite() && span > 0.0) || count == 0 {
        return Vec::new();
    }
    let rough = span / count as f64;
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * unit).into_iter().find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * unit);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Decimals that tell neighbouring ticks apart.
pub fn decimals(ticks: &[f64]) -> usize {
    let [a, b, ..] = ticks else { return 2 };
    (-((b - a).abs().log10() + 1e-9).floor()).clamp(0.0, 8.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.81234, 12.34, 1234.5, 1e-9].map(short);
        assert_eq!(shown, ["0", "0.812", "12.3", "1234", "1.0e−9"]);
        assert_eq!([0.0, -2.0, 3.0, -4.0].map(power), ["1", "0.01", "1000", "1e−4"]);
        assert_eq!(
            (fixed(-0.0001, 2), signed(0.5, 2), fixed(-0.5, 1)),
            ("0.00".into(), "+0.50".into(), "−0.5".into())
        );
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-3.0, 3.0, 6), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
        assert!(ticks(1.0, 1.0, 5).is_empty());
        assert_eq!(
            (decimals(&[0.0, 0.2]), decimals(&[0.0, 2.0]), decimals(&[0.0, 0.05])),
            (1, 0, 2)
        );
    }
}
