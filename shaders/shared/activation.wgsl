// Activations with clamped arguments: some back ends compile with fast math, where exp and tanh
// overflow to NaN. Beyond the clamps the results are 0, 1 or -1 in f32 anyway.

// tanh by one exponential, where drivers take two: (1 - t) / (1 + t) with t = exp(-2 |x|).
fn safe_tanh(x: f32) -> f32 {
    let t = exp(-2.0 * min(abs(x), 10.0));
    let y = (1.0 - t) / (1.0 + t);
    return select(y, -y, x < 0.0);
}

fn safe_sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(x, -30.0, 30.0)));
}

fn safe_tanh4(x: vec4<f32>) -> vec4<f32> {
    let t = exp(-2.0 * min(abs(x), vec4<f32>(10.0)));
    let y = (1.0 - t) / (1.0 + t);
    return select(y, -y, x < vec4<f32>());
}

fn safe_sigmoid4(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-clamp(x, vec4<f32>(-30.0), vec4<f32>(30.0))));
}

// erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7. WGSL has none.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t
        + 0.254829592) * t;
    return sign(x) * (1.0 - p * exp(-min(a * a, 80.0)));
}

fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
}

// d gelu(x) / dx = Phi(x) + x phi(x)
fn gelu_slope(x: f32) -> f32 {
    let phi = 0.3989422804014327 * exp(-min(0.5 * x * x, 80.0));
    return 0.5 * (1.0 + erf(x * 0.7071067811865476)) + x * phi;
}

fn gelu4(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w));
}

fn gelu_slope4(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(gelu_slope(x.x), gelu_slope(x.y), gelu_slope(x.z), gelu_slope(x.w));
}

fn safe_exp(x: f32) -> f32 {
    return exp(clamp(x, -80.0, 80.0));
}
