// Two independent standard normal numbers of two independent 32-bit numbers, by Box and Muller:
//   r (cos a, sin a),    r = sqrt(-2 log u),  u in (0, 1] from the first,  a in [0, 2 pi) from the second
// The logarithm, the sine and the cosine are series, good to f32: those of drivers differ from one
// another, and may lose all digits of a logarithm near u = 1. The largest number is 5.77.

// -log(u) for u = (the upper 24 bits + 1) / 2^24.
fn minus_log(bits: u32) -> f32 {
    let x = f32((bits >> 8u) + 1u);
    // x = 2^e f with f in [1, 2), then in (0.7, 1.42), where log f = 2 atanh((f - 1) / (f + 1)).
    let word = bitcast<u32>(x);
    let f = bitcast<f32>((word & 0x007fffffu) | 0x3f800000u);
    let above = f > 1.4142135;
    let g = select(f, 0.5 * f, above);
    let e = f32(word >> 23u) - 151.0 + select(0.0, 1.0, above);
    let s = (g - 1.0) / (g + 1.0);
    let q = s * s;
    let series = 1.0 + q * (0.33333333 + q * (0.2 + q * (0.14285714 + q * (0.11111111 + q * 0.09090909))));
    return -(e * 0.6931472 + 2.0 * s * series);
}

// cos and sin of 2 pi bits / 2^32: the upper two bits turn by a quarter, the others are an angle
// from -pi / 4 to pi / 4, and pi / 4 more.
fn turn(bits: u32) -> vec2<f32> {
    let a = (f32((bits & 0x3fffffffu) >> 6u) * 0.000000059604645 - 0.5) * 1.5707964;
    let q = a * a;
    let sine = a * (1.0 + q * (-0.16666667 + q * (0.008333333 + q * -0.0001984127)));
    let cosine = 1.0 + q * (-0.5 + q * (0.041666667 + q * (-0.0013888889 + q * 0.000024801587)));
    let at = vec2<f32>(cosine - sine, cosine + sine) * 0.70710678;
    let half = select(at, -at, (bits >> 31u) == 1u);
    return select(half, vec2<f32>(-half.y, half.x), ((bits >> 30u) & 1u) == 1u);
}

fn normal_pair(first: u32, second: u32) -> vec2<f32> {
    return sqrt(2.0 * minus_log(first)) * turn(second);
}
