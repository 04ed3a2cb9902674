//! Tensors of a safetensors file, whatever their types: torch's lengths of 64 bits, halves, labels of one column.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::Fault;
use super::array::{Array, DType, Kind, Payload};
use super::numpy::c_strides;
use super::table::{Column, TEXTS, Table};
use crate::data::SplitName;
use crate::data::open::unreadable;
use crate::data::side::{Side, list};
use crate::error::Result;

/// The tensors of a file by name, their items left where they are.
pub(super) fn read(path: &Path, map: &Arc<Mmap>) -> Result<BTreeMap<String, Array>> {
    let (header, info) = SafeTensors::read_metadata(&map[..])
        .map_err(|e| unreadable(path, (&map[..], map.len() as u64), e))?;
    let start = 8 + header;
    let arrays = info.tensors().into_iter().map(|(name, info)| {
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        let payload = Payload::Mapped { map: map.clone(), range, latin: false };
        let (shape, strides) = (info.shape.clone(), c_strides(&info.shape));
        (name, Array { dtype: named(info.dtype), shape, strides, payload, picked: None })
    });
    Ok(arrays.collect())
}

/// numpy's name of a type.
fn named(dtype: Dtype) -> DType {
    let of = |kind, size| DType { kind, size, big: false };
    match dtype {
        Dtype::BOOL => of(Kind::Bool, 1),
        Dtype::U8 => of(Kind::Uint, 1),
        Dtype::I8 => of(Kind::Int, 1),
        Dtype::U16 => of(Kind::Uint, 2),
        Dtype::I16 => of(Kind::Int, 2),
        Dtype::U32 => of(Kind::Uint, 4),
        Dtype::I32 => of(Kind::Int, 4),
        Dtype::U64 => of(Kind::Uint, 8),
        Dtype::I64 => of(Kind::Int, 8),
        Dtype::F16 => of(Kind::Float, 2),
        Dtype::BF16 => of(Kind::Brain, 2),
        Dtype::F32 => of(Kind::Float, 4),
        Dtype::F64 => of(Kind::Float, 8),
        _ => DType::OTHER,
    }
}

/// The array as a column, where it has rows of numbers.
pub(super) fn column(array: &Array) -> std::result::Result<Column, Fault> {
    if array.shape.contains(&0) || array.shape.is_empty() {
        return Err(Fault::new(format!("a tensor of shape {:?} has no rows", array.shape)));
    }
    match array.dtype.is_number() {
        true => Ok(Column::Array(array.clone())),
        false => Err(Fault::new("a tensor of a type that is not read; save it as 32-bit floats")),
    }
}

/// Adds the strings and names of the JSON file beside a safetensors file to its table.
pub(super) fn attach(path: &Path, table: &mut Table) -> Result<()> {
    let side = Side::read(path)?;
    table.names = side.names();
    for name in SplitName::ALL {
        let columns = &mut table.splits[name.index()];
        let Some(rows) = columns.values().map(Column::rows).next() else { continue };
        for field in TEXTS {
            if let Some(texts) = list(&side, name, field, rows)? {
                columns.insert(field, Column::Texts(texts));
            }
        }
    }
    Ok(())
}
