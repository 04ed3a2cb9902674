//! Numbers stored by halves: two f16 in a word, the earlier one in the lower bits, as
//! `unpack2x16float` has them.

use half::f16;

/// The nearest halves, ties to even; beyond ±65504 infinite. An odd number of values ends in a word
/// whose upper half is zero.
pub fn pack_halves(values: &[f32]) -> Vec<u32> {
    let bits = |v: &f32| u32::from(f16::from_f32(*v).to_bits());
    values.chunks(2).map(|pair| bits(&pair[0]) | pair.get(1).map_or(0, bits) << 16).collect()
}

/// What the halves hold, two values of each word.
pub fn unpack_halves(words: &[u32]) -> Vec<f32> {
    let value = |bits: u32| f16::from_bits(bits as u16).to_f32();
    words.iter().flat_map(|w| [value(*w), value(w >> 16)]).collect()
}

/// Whether a half can hold a value at all, near or not so near.
pub fn fits_half(value: f32) -> bool {
    value.abs() <= f16::MAX.to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_come_back_as_the_nearest() {
        // One, its neighbours' midpoints (ties go to even), the largest, subnormals, and an odd end.
        let next = 1.0 + 1.0 / 1024.0;
        let values = [
            (1.0, 1.0),
            (1.0 + 1.0 / 2048.0, 1.0),
            (next + 1.0 / 2048.0, next + 1.0 / 1024.0),
            (-0.1, -0.099_975_586),
            (65504.0, 65504.0),
            (5.960_464_5e-8, 5.960_464_5e-8),
            (1e-9, 0.0),
        ];
        let words = pack_halves(&values.map(|v| v.0));
        assert_eq!((words.len(), words[0]), (4, 0x3c00_3c00));
        let back = unpack_halves(&words);
        assert_eq!(back[..7], values.map(|v| v.1));
        assert_eq!(back[7], 0.0);
        assert!(fits_half(-65504.0) && !fits_half(65505.0) && !fits_half(f32::NAN));
    }
}
