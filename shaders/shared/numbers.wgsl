// Comparisons for bounds that keep what is not a number. A compiler makes a minimum or a maximum of a
// comparison of numbers and a choice between them, and these give the bound for a NaN (Mesa does so, and
// so does NVIDIA's driver): a run would go on with numbers that mean nothing. It does not see through
// the bits: of positive numbers they are in the order of the numbers, up to infinity's, 0x7f800000, and
// a NaN's are above; negative ones likewise from 0x80000000 on, the lowest last.

// Whether x is below `low`, which is negative. A NaN is not.
fn is_below(x: f32, low: f32) -> bool {
    let first = bitcast<u32>(low) + 1u;
    return bitcast<u32>(x) - first <= 0xff800000u - first;
}

fn is_below4(x: vec4<f32>, low: f32) -> vec4<bool> {
    let first = bitcast<u32>(low) + 1u;
    return bitcast<vec4<u32>>(x) - vec4<u32>(first) <= vec4<u32>(0xff800000u - first);
}

// Whether x is above `high`, which is positive. A NaN is not.
fn is_above(x: f32, high: f32) -> bool {
    let first = bitcast<u32>(high) + 1u;
    return bitcast<u32>(x) - first <= 0x7f800000u - first;
}

fn is_above4(x: vec4<f32>, high: f32) -> vec4<bool> {
    let first = bitcast<u32>(high) + 1u;
    return bitcast<vec4<u32>>(x) - vec4<u32>(first) <= vec4<u32>(0x7f800000u - first);
}

// Whether x is smaller than y, neither of them negative. A NaN is not smaller than a number.
fn is_smaller(x: f32, y: f32) -> bool {
    return bitcast<u32>(x) < bitcast<u32>(y);
}

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// x, no less than `low`, which is negative; of a step of kernels that have VEC all elements.
#if VEC
fn at_least(x: vec4<f32>, low: f32) -> vec4<f32> {
    return select(x, vec4<f32>(low), is_below4(x, low));
}

// x, no more than `high`, which is positive.
fn at_most(x: vec4<f32>, high: f32) -> vec4<f32> {
    return select(x, vec4<f32>(high), is_above4(x, high));
}
#else
fn at_least(x: f32, low: f32) -> f32 {
    return select(x, low, is_below(x, low));
}

fn at_most(x: f32, high: f32) -> f32 {
    return select(x, high, is_above(x, high));
}
#endif
