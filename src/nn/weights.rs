//! Named tensors on the host, in and out of safetensors files.

use crate::error::{Error, Result};
use crate::files;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// Named f32 tensors with their shapes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) {
        self.tensors.insert(name.to_string(), (shape, values));
    }

    /// Adds a tensor, or rows behind those that a tensor of this name has.
    pub(super) fn append(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        match self.tensors.get_mut(name) {
            Some((whole, all)) => {
                whole[0] += shape[0];
                all.extend(values);
            }
            None => self.insert(name, shape.to_vec(), values),
        }
    }

    /// The same tensors with `prefix` before their names.
    pub fn prefixed(self, prefix: &str) -> Self {
        let named = self.tensors.into_iter().map(|(name, t)| (format!("{prefix}{name}"), t));
        Weights { tensors: named.collect() }
    }

    /// The same tensors under other names.
    pub fn renamed(self, to: impl Fn(&str) -> String) -> Self {
        let named = self.tensors.into_iter().map(|(name, tensor)| (to(&name), tensor));
        Weights { tensors: named.collect() }
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub fn stripped(&self, prefix: &str) -> Self {
        let own = self.tensors.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(prefix)?.to_string(), tensor.clone()))
        });
        Weights { tensors: own.collect() }
    }

    /// Takes over all tensors of `other`.
    pub fn extend(&mut self, other: Weights) {
        self.tensors.extend(other.tensors);
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// A tensor's shape and values.
    pub fn get(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.tensors.get(name).map(|(s, v)| (s.as_slice(), v.as_slice()))
    }

    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
        self.tensors.iter().map(|(n, (s, v))| (n.as_str(), s.as_slice(), v.as_slice()))
    }

    /// The first tensor that holds NaN or an infinity, by name.
    pub fn not_finite(&self) -> Option<&str> {
        let all = self.iter().find(|(_, _, values)| values.iter().any(|v| !v.is_finite()));
        all.map(|(name, ..)| name)
    }

    /// Reads the floats of a safetensors file (F32, F16 or BF16). MMSA's `Model.` prefix is taken
    /// off the names. Integers are no parameters (a BERT keeps its position ids as such) and are
    /// left out.
    ///
    /// # Errors
    /// [`Checkpoint`](Error::Checkpoint): missing, truncated, not safetensors, other floats.
    pub fn load(path: &Path) -> Result<Self> {
        // Mapped, so that half floats, twice as large in memory, are all that is held.
        let bytes = files::map(path)?;
        #[cfg(feature = "train")]
        files::seal_of_tensors(path, &bytes)?;
        Self::parse(&bytes, path)
    }

    /// The same of a file's contents; `path` names them in errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        Self::parse_as(bytes, path, false, |name| Some(name.into()))
    }

    /// As [`Weights::parse`], with each tensor under the name that `rename` gives it; tensors
    /// without one are not read. Doubles are rounded where they may be there: of other programs' files.
    pub(crate) fn parse_as(
        bytes: &[u8],
        path: &Path,
        doubles: bool,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| {
            Error::checkpoint(path, format!("no whole safetensors file ({e}); save it again"))
        })?;
        let mut weights = Weights::default();
        for (name, view) in file.tensors() {
            let Some(new) = rename(name.strip_prefix("Model.").unwrap_or(&name)) else { continue };
            let data = view.data();
            let halves = data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
            let values = match view.dtype() {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                Dtype::F16 => halves.map(f16_to_f32).collect(),
                Dtype::BF16 => halves.map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
                Dtype::F64 if doubles => data
                    .chunks_exact(8)
                    .map(|b| {
                        f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32
                    })
                    .collect(),
                Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL => continue,
                other => {
                    let detail = format!("tensor '{name}' is {other:?}, want F32, F16 or BF16");
                    return Err(Error::checkpoint(path, detail));
                }
            };
            if weights.get(&new).is_some() {
                let detail = format!("tensor '{new}' is there twice, once as '{name}'; keep one");
                return Err(Error::checkpoint(path, detail));
            }
            weights.insert(&new, view.shape().to_vec(), values);
        }
        Ok(weights)
    }

    /// The same with a digest of its own contents; gives that of the values.
    ///
    /// # Errors
    /// [`Io`](Error::Io) naming the file.
    #[cfg(feature = "train")]
    pub(crate) fn save_sealed(&self, path: &Path, notes: &[(&str, String)]) -> Result<String> {
        let entries = self.iter().map(|(n, s, v)| (n, "F32", s.to_vec(), 4 * v.len() as u64));
        files::write_sealed(path, notes, entries, |out| {
            self.iter().try_for_each(|(_, _, values)| {
                values.chunks(1 << 12).try_for_each(|part| {
                    let bytes: Vec<u8> = part.iter().flat_map(|x| x.to_le_bytes()).collect();
                    out.write_all(&bytes)
                })
            })
        })
    }

    /// Writes a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Io`](Error::Io) naming the file.
    pub fn save(&self, path: &Path, metadata: &[(&str, String)]) -> Result<()> {
        let bytes: Vec<(&str, &[usize], Vec<u8>)> = self
            .iter()
            .map(|(n, s, v)| (n, s, v.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        save_tensors(
            path,
            bytes.iter().map(|(n, s, b)| (*n, Dtype::F32, s.to_vec(), b.as_slice())),
            metadata,
        )
    }
}

/// The value of an IEEE half: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits. Exact.
fn f16_to_f32(bits: u16) -> f32 {
    half::f16::from_bits(bits).to_f32()
}

/// Writes tensors of any type to a safetensors file, whole or not at all.
pub(crate) fn save_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (&'a str, Dtype, Vec<usize>, &'a [u8])>,
    metadata: &[(&str, String)],
) -> Result<()> {
    let fail = |e: safetensors::SafeTensorError| Error::checkpoint(path, e.to_string());
    let views = tensors
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(dtype, shape, data)?)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(fail)?;
    // One key only: the header's map has no order, and files should not differ by run.
    let metadata = (!metadata.is_empty())
        .then(|| metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect());
    let bytes = safetensors::serialize(views, metadata).map_err(fail)?;
    files::write_atomic(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_exact() {
        // Between two powers of two, halves are evenly spaced; this is their definition.
        for bits in 0..0x7c00_u16 {
            let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 0x3ff));
            let want = match exponent {
                0 => fraction * 2f64.powi(-24),
                e => (1024.0 + fraction) * 2f64.powi(e - 25),
            };
            assert_eq!(f64::from(f16_to_f32(bits)), want, "{bits:#06x}");
            assert_eq!(f64::from(f16_to_f32(bits | 0x8000)), -want);
        }
        // Known bit patterns: 1, -2, the largest, the smallest normal and subnormal.
        for (bits, want) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(f16_to_f32(bits), want);
        }
        assert!(f16_to_f32(0x7c01).is_nan() && f16_to_f32(0xfe00).is_nan());
        assert!(f16_to_f32(0x8000).is_sign_negative());
    }

    #[test]
    fn every_float_type_is_read_and_a_double_name_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let f32s: Vec<u8> = [1.5f32, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensors = [
            ("a", Dtype::F32, f32s.as_slice()),
            ("b", Dtype::F16, &[0x00, 0x3e, 0x00, 0xb4]),
            ("Model.c", Dtype::BF16, &[0xc0, 0x3f, 0x80, 0xbe]),
            ("ids", Dtype::U8, &[1, 2]),
        ];
        let write = |tensors: &[(&str, Dtype, &[u8])]| {
            let each = tensors.iter().map(|(n, d, b)| (*n, *d, vec![2], *b));
            save_tensors(&path, each, &[]).unwrap();
            Weights::load(&path)
        };
        let weights = write(&tensors).unwrap();
        assert_eq!(weights.iter().count(), 3);
        for name in ["a", "b", "c"] {
            assert_eq!(weights.get(name).unwrap().1, [1.5, -0.25], "{name}");
        }
        let error = write(&[tensors[0], ("Model.a", Dtype::F32, &f32s)]).unwrap_err().to_string();
        assert!(error.contains("'a' is there twice"), "{error}");
        // Doubles are other programs', and rounded where those are read.
        let doubles: Vec<u8> = [1.5f64, -0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
        let error = write(&[("d", Dtype::F64, &doubles)]).unwrap_err().to_string();
        assert!(error.contains("'d' is F64"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        let rounded = Weights::parse_as(&bytes, &path, true, |name| Some(name.into())).unwrap();
        assert_eq!(rounded.get("d").unwrap().1, [1.5, -0.25]);
    }
}
