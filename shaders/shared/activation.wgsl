// Activations with bounded arguments: some back ends compile with fast math, where exp overflows to
// NaN. Beyond the bounds the results are 0, 1 or -1 in f32 anyway.
//
// What is not a number stays so in every kernel. So bounds are comparisons of bits (numbers.wgsl): min,
// max, clamp and sign may answer a NaN with the other argument, and so may what compilers make of
// select(x, bound, x > bound). Nor may a NaN be made of isnan or of 0 x, which may be folded.
#import numbers

// x within -limit .. limit.
fn held(x: f32, limit: f32) -> f32 {
    return select(select(x, limit, is_above(x, limit)), -limit, is_below(x, -limit));
}

fn held4(x: vec4<f32>, limit: f32) -> vec4<f32> {
    let y = select(x, vec4<f32>(limit), is_above4(x, limit));
    return select(y, vec4<f32>(-limit), is_below4(x, -limit));
}

// max(x, 0), and of four. Compilers make a maximum of a comparison and a choice by it, and a maximum
// may drop a NaN, as Mesa's does. By its bits, from -0 to minus infinity, a negative number is told from
// a NaN whatever they do.
fn relu(x: f32) -> f32 {
    return select(x, 0.0, bitcast<u32>(x) - 0x80000000u <= 0x7f800000u);
}

fn relu4(x: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(x) - vec4<u32>(0x80000000u);
    return select(x, vec4<f32>(), bits <= vec4<u32>(0x7f800000u));
}

// -1, 0 or 1
fn sign_of(x: f32) -> f32 {
    return select(select(x, -1.0, x < 0.0), 1.0, x > 0.0);
}

// tanh as an odd rational function, good to 4e-7 of its value also where that is small, which
// (1 - t) / (1 + t) with t = exp(-2 |x|) is not; and cheaper than an exponential where there is no
// instruction for one. It never reaches 1, so that 1 - y^2 is never negative.
fn safe_tanh(x: f32) -> f32 {
    let z = held(x, 8.0);
    let u = z * z;
    let p = 0.99999988 + u * (0.12925659 + u * (0.0029510199 + u * 1.1428383e-5));
    let q = 1.0 + u * (0.46258876 + u * (0.023815538 + u * (0.00023866862 + u * 2.4591984e-7)));
    return z * p / q;
}

fn safe_sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-held(x, 30.0)));
}

fn safe_tanh4(x: vec4<f32>) -> vec4<f32> {
    let z = held4(x, 8.0);
    let u = z * z;
    let p = 0.99999988 + u * (0.12925659 + u * (0.0029510199 + u * 1.1428383e-5));
    let q = 1.0 + u * (0.46258876 + u * (0.023815538 + u * (0.00023866862 + u * 2.4591984e-7)));
    return z * p / q;
}

fn safe_sigmoid4(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-held4(x, 30.0)));
}

// erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7. WGSL has none.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t
        + 0.254829592) * t;
    // p is NaN where x is; the sign only turns the result around.
    let y = 1.0 - p * exp(-min(a * a, 80.0));
    return select(y, -y, x < 0.0);
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

// exp; below -80 that of -80, since denormal numbers are slow on CPUs. What is too large is infinite.
fn safe_exp(x: f32) -> f32 {
    return exp(select(x, -80.0, is_below(x, -80.0)));
}
