// Functions of one number and their slopes, for unary.wgsl and unary_backward.wgsl. A NaN stays a
// NaN: comparisons choose, because min, max and clamp may give the other operand of one. Arguments
// of exp are bounded, so that nothing overflows on back ends that compile with fast math.

// log(1 + e) for e from 0 to 1, as 2 atanh(e / (2 + e)) by its series, good to f32: 1 + e itself
// would lose what is small.
fn log_of_one_more(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let q = s * s;
    let tail = 0.09090909 + q * (0.07692308 + q * 0.06666667);
    return 2.0 * s * (1.0 + q * (0.33333333 + q * (0.2 + q * (0.14285714 + q * (0.11111111 + q * tail)))));
}

// log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))
fn softplus(x: f32) -> f32 {
    return select(x, 0.0, x < 0.0) + log_of_one_more(exp(-abs(x)));
}

fn softplus_slope(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}

// x, no less than low and no more than high.
fn cut(x: f32, low: f32, high: f32) -> f32 {
    return select(select(select(x, low, x < low), high, x > high), x, is_nan(x));
}

// factor (exp(x) - 1) below 0, where a difference near 0 would lose what is small: there a series.
fn elu(x: f32, factor: f32) -> f32 {
    let v = select(x, 0.0, x > 0.0);
    let tail = 0.008333333 + v * (0.0013888889 + v * 0.0001984127);
    let near = v * (1.0 + v * (0.5 + v * (0.16666667 + v * (0.041666667 + v * tail))));
    return select(x, factor * select(exp(v) - 1.0, near, v > -0.35), x <= 0.0);
}

fn elu_slope(x: f32, factor: f32) -> f32 {
    return select(factor * exp(held(x, 80.0)), 1.0, x > 0.0);
}
